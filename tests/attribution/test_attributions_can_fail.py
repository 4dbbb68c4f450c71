"""Checks of attributions: each must be able to fail, and to say that it cannot tell."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from utils.attribution import figures
from utils.attribution.agreement import agreement_table, summarise_agreement
from utils.attribution.checks import FAILED, PASSED, UNCLEAR, judge_gains, summarise_checks
from utils.attribution.figures import draw_agreement, draw_cascade, draw_set
from utils.attribution.gradients import AttributionSettings, integrated_gradients
from utils.attribution.map_measures import density

SIDE = 8


class Curved(nn.Module):
    """f(x) = sum(w x^2) / 2 + product of two pixels: attributions that differ from one baseline to another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return (images.square() * self.weight).sum(dim=(1, 2, 3)) / 2 + images[:, 0, 0, 0] * images[
            :, 1, 1, 1
        ]


class Flat(nn.Module):
    """f(x) = w . x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)))

    def forward(self, images):
        return (images * self.weight).sum(dim=(1, 2, 3))


def some_images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------- expected gradients


def test_expected_gradients_of_a_linear_network_are_weight_times_difference_from_the_mean_reference():
    network, images, references = Flat(), some_images(3, 0), some_images(5, 1)
    settings = AttributionSettings(steps=10, baseline="expected")
    found = integrated_gradients(network, images, ["a", "b", "c"], settings, references)
    expected = (network.weight * (images - references.mean(dim=0))).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(found.maps, expected, atol=1e-5)
    np.testing.assert_allclose(found.baseline_prediction, float(network(references).mean()), rtol=1e-6)
    np.testing.assert_allclose(found.delta, 0, atol=1e-5)
    assert found.converged.all()


def test_expected_gradients_agree_with_captums_gradient_shap_and_with_the_mean_of_single_baselines():
    from captum.attr import GradientShap, IntegratedGradients

    network, images, references = Curved(), some_images(2, 0), some_images(4, 1)
    settings = AttributionSettings(steps=4000, baseline="expected", internal_batch_size=500, max_doublings=0)
    found = integrated_gradients(network, images, ["a", "b"], settings, references)
    exact = torch.stack(
        [
            IntegratedGradients(network).attribute(images, baselines=reference[None].expand_as(images))
            for reference in references
        ]
    )
    np.testing.assert_allclose(found.maps, exact.mean(dim=0).sum(dim=1).detach().numpy(), atol=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shap = GradientShap(network).attribute(images, baselines=references, n_samples=4000, stdevs=0.0)
    np.testing.assert_allclose(found.maps, shap.sum(dim=1).detach().numpy(), atol=0.06)


def test_expected_gradients_of_an_image_do_not_hang_on_its_neighbours_and_leave_the_generator_alone():
    network, images, references = Curved(), some_images(4, 0), some_images(3, 1)
    settings, names = AttributionSettings(steps=6, baseline="expected", internal_batch_size=2), list("abcd")
    state = torch.random.get_rng_state()
    together = integrated_gradients(network, images, names, settings, references)
    alone = integrated_gradients(network, images[2:3], ["c"], settings, references)
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(together.maps[2], alone.maps[0])
    with pytest.raises(ValueError, match="at least one reference image, got none"):
        integrated_gradients(network, images, names, settings)


def test_a_small_change_in_prediction_is_held_to_the_same_tolerance():
    """Both images miss a tenth of their change; the smaller change is 1e-4, which a floor of 1e-3 would have hidden."""

    def bent(images):
        height = images.mean(dim=(1, 2, 3))
        return torch.where(height > 0.5, 1.0, 1e-4) * torch.where(
            images[:, 0, 0, 0] > 0.45, height, 0.6 * height
        )

    class Bent(nn.Module):
        def forward(self, images):
            return bent(images)

    images = torch.stack([torch.full((3, SIDE, SIDE), 0.9), torch.full((3, SIDE, SIDE), 0.48)])
    found = integrated_gradients(
        Bent(), images, ["large", "small"], AttributionSettings(steps=5, max_doublings=0)
    )
    share = np.abs(found.delta) / np.abs(found.prediction - found.baseline_prediction)
    assert np.abs(found.delta[1]) < 1e-3
    assert (share > 0.05).all()
    assert found.converged.tolist() == [False, False]


# ------------------------------------------------------------------------------------- verdicts


def test_a_gain_is_judged_by_students_t_over_clusters():
    rng = np.random.default_rng(0)
    gains = rng.normal(0.5, 1, 30)
    row = judge_gains(gains)
    test = stats.ttest_1samp(gains, 0)
    interval = test.confidence_interval(0.95)
    assert (row["mean"], row["p"]) == pytest.approx((gains.mean(), test.pvalue))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
    labels = np.repeat(list("abcde"), 6)
    by_cluster = judge_gains(gains, labels)
    test = stats.ttest_1samp(gains.reshape(5, 6).mean(axis=1), 0)
    assert by_cluster["p"] == pytest.approx(test.pvalue)
    assert (by_cluster["n"], by_cluster["clusters"]) == (30, 5)
    assert judge_gains(gains[:1])["verdict"] == UNCLEAR, "one image has no interval"


@pytest.mark.parametrize(("mean", "verdict"), [(1.0, PASSED), (-1.0, FAILED), (0.0, UNCLEAR)])
def test_the_verdict_needs_an_interval_clear_of_zero(mean, verdict):
    gains = np.array([-0.2, -0.1, 0.0, 0.1, 0.2, 0.0]) + mean
    assert judge_gains(gains)["verdict"] == verdict


def fabricated_checks(signed: float, absolute: float, deletion: float, insertion: float) -> pd.DataFrame:
    """Rows of five images: the agreement left at the last level, and the areas of the map's order (chance: 0.5)."""
    rows = []
    for number, name in enumerate("abcde"):
        noise = 0.01 * (number - 2)
        for check, left in (("randomisation", signed), ("randomisation_absolute", absolute)):
            levels = (("0 none", 0.9), ("1 head", (0.9 + left) / 2), ("2 conv5", 0.7), ("10 conv1", left))
            rows += [(name, check, level, value + noise, np.nan) for level, value in levels]
        for check, value in (("deletion", deletion), ("insertion", insertion)):
            rows += [(name, check, "area", value + noise, 0.5), (name, check, "0.000", 0.6, 0.6)]
    return pd.DataFrame(rows, columns=["image_id", "check", "level", "value", "control"])


@pytest.mark.parametrize(
    ("values", "verdicts"),
    [
        ((0.0, 0.1, 0.3, 0.7), [PASSED, PASSED, PASSED, PASSED]),
        (
            (0.0, 0.57, 0.3, 0.7),
            [PASSED, FAILED, PASSED, PASSED],
        ),  # 63 % of the control is left of absolute maps
        ((0.8, 0.1, 0.3, 0.7), [FAILED, PASSED, PASSED, PASSED]),
        (
            (0.0, 0.1, 0.7, 0.7),
            [PASSED, PASSED, FAILED, PASSED],
        ),  # deleted in the map's order the score stays high
        ((0.0, 0.1, 0.3, 0.3), [PASSED, PASSED, PASSED, FAILED]),  # inserted in the map's order it stays low
        ((0.0, 0.1, 0.5, 0.5), [PASSED, PASSED, UNCLEAR, UNCLEAR]),
    ],
)
def test_each_check_has_its_own_verdict_and_direction(values, verdicts):
    found = summarise_checks(fabricated_checks(*values))
    assert found["check"].tolist() == ["randomisation", "randomisation_absolute", "deletion", "insertion"]
    assert found["verdict"].tolist() == verdicts
    words = {PASSED: "beats random orders", FAILED: "IS WORSE THAN", UNCLEAR: "CANNOT BE TOLD FROM"}
    for place in (2, 3):
        assert words[verdicts[place]] in found["sentence"][place]
    assert f"median rho {values[1]:.2f} with all weights" in found["sentence"][1]


def test_a_check_of_attributions_without_meaning_passes_as_often_as_it_says():
    """Gains that are alike inside subcategories and zero on average: p < 0.05 in 3 to 7 %, images alone far more often."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 6)
    clustered, alone = 0, 0
    for _ in range(1500):
        gains = rng.normal(size=12)[labels] + rng.normal(size=72)
        clustered += judge_gains(gains, labels)["p"] < 0.05
        alone += judge_gains(gains)["p"] < 0.05
    assert 0.03 <= clustered / 1500 <= 0.07
    assert alone / 1500 > 0.2


# ------------------------------------------------------------------------------------- agreement of baselines


def test_agreement_of_baselines_is_told_pair_by_pair():
    rng = np.random.default_rng(0)
    black = rng.normal(size=(6, SIDE, SIDE))
    maps = {"black": black, "mean": 2 * black, "blur": rng.normal(size=black.shape), "white": -black}
    table = agreement_table(maps, list("abcdef"))
    assert len(table) == 6 * len(list(itertools.combinations(maps, 2)))
    first = table[(table["baseline"] == "black") & (table["other_baseline"] == "blur")].iloc[0]
    assert first["rho"] == pytest.approx(stats.spearmanr(black[0].ravel(), maps["blur"][0].ravel()).statistic)
    white = table[(table["baseline"] == "black") & (table["other_baseline"] == "white")]
    assert white["rho"].tolist() == pytest.approx([-1] * 6)
    assert white["rho_absolute"].tolist() == pytest.approx([1] * 6)
    verdicts = dict(
        zip(map(frozenset, itertools.combinations(maps, 2)), summarise_agreement(table), strict=True)
    )
    agree = {tuple(sorted(pair)) for pair, (passed, _) in verdicts.items() if passed}
    assert agree == {("black", "mean")}
    assert "DO NOT AGREE: median rho -1.00" in verdicts[frozenset(("black", "white"))][1]
    grid = draw_agreement(table, "title").axes[0]
    assert [text.get_text() for text in grid.texts][:2] == ["1.00", "1.00"]


def test_the_cascade_shows_every_level_of_every_image_signed_and_absolute():
    rng = np.random.default_rng(0)
    figure = draw_cascade(
        rng.random((2, 3, SIDE, SIDE)),
        rng.normal(size=(3, 2, SIDE, SIDE)),
        ["true weights", "1 head", "2 conv5"],
        "title",
    )
    assert len(figure.axes) == 2 * 2 * 4
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "true weights", "+ head", "+ conv5"]


# ------------------------------------------------------------------------------------- the gallery


def test_the_most_memorable_gallery_holds_the_most_memorable_images(tmp_path, monkeypatch):
    drawn = {}

    def gallery(items, title, path, caveat=""):
        drawn[path.stem] = (title, [item[2].name for item in items])
        return path

    monkeypatch.setattr(figures, "draw_gallery", gallery)
    monkeypatch.setattr(
        figures, "draw_explanation", lambda pixels, attribution, explanation, caveat: explanation.path
    )
    scores = [0.5, 0.9, 0.1, 0.7, 0.3]
    frame = pd.DataFrame(
        {
            "image_id": [f"{score}.jpg" for score in scores],
            "path": "",
            "memorability": scores,
            "prediction": 0.5,
            "baseline_prediction": 0.1,
            "convergence_delta": 0.0,
            "converged": True,
        }
    )
    maps = density(np.random.default_rng(0).normal(size=(5, SIDE, SIDE)))
    draw_set(frame, maps, lambda path: np.zeros((3, SIDE, SIDE)), tmp_path, "m", top_k=2)
    title, names = drawn["m_most_memorable"]
    assert title.startswith("The most memorable of 5")
    assert names == ["0.9.jpg", "0.7.jpg"]
    title, names = drawn["m_least_memorable"]
    assert title.startswith("The least memorable of 5")
    assert names == ["0.1.jpg", "0.3.jpg"]
