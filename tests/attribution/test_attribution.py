"""Integrated Gradients on networks whose attributions are known, and what is made of the maps."""

import copy
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import build_autoencoder
from models.mlp import build_mlp
from models.score_network import ScoreNetwork, fold_batch_norm, prepare_network
from utils.attribution.checks import (
    CONTROL_LEVEL,
    area,
    check_attributions,
    map_agreement,
    patch_grid,
    perturbation_curves,
    randomised_networks,
    shuffle_weights,
    summarise_checks,
)
from utils.attribution.explain import explain_images
from utils.attribution.figures import draw_checks, picture_names
from utils.attribution.gradients import (
    EXPECTED,
    AttributionSettings,
    integrated_gradients,
    make_baselines,
    predict,
)
from utils.attribution.layer_figure import draw_single_layers
from utils.attribution.map_measures import (
    centre_distance,
    density,
    gini,
    share_inside,
    summarise_map,
)
from utils.core.errors import UserError
from utils.core.names import IG_BASELINES, IG_METHODS

SIDE = 32


class Linear(nn.Module):
    """f(x) = w . x + 0.25, with the weights kept for the test."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, side, side, generator=generator) / (3 * side))

    def forward(self, images):
        return (images * self.weight).sum(dim=(1, 2, 3)) + 0.25


class Through(nn.Module):
    """Any function of images as a network, counting the images of each call."""

    def __init__(self, function):
        super().__init__()
        self.function, self.batches = function, []

    def forward(self, images):
        self.batches.append(len(images))
        return self.function(images)


@pytest.fixture
def images():
    return torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ids():
    return [f"animal/cat/{number}.jpg" for number in range(5)]


@pytest.fixture(scope="module")
def network():
    """A small encoder with batch norms and a head, its running statistics as training leaves them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (3, 8, 16)
        blocks = OrderedDict(
            (
                f"conv{n + 1}",
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)),
            )
            for n, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )
        encoder = nn.Sequential(blocks)
        encoder.train()(torch.rand(16, 3, SIDE, SIDE))
    return ScoreNetwork(encoder, build_mlp(16 * (SIDE // 4) ** 2, (16,), seed=0)).eval()


# ------------------------------------------------------------------------------------- attributions


@pytest.mark.parametrize("baseline", [name for name in IG_BASELINES if name != EXPECTED])
def test_linear_network_gets_weight_times_difference_from_baseline(images, ids, baseline):
    network = Linear()
    found = integrated_gradients(network, images, ids, AttributionSettings(steps=3, baseline=baseline))
    start = make_baselines(images, baseline, ids)
    expected = (network.weight * (images - start)).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(found.maps, expected, atol=1e-6)
    np.testing.assert_allclose(found.delta, 0, atol=2e-6)
    assert found.converged.all()
    assert set(found.steps) == {3}


@pytest.mark.parametrize("method", IG_METHODS)
def test_every_integration_rule_is_exact_for_a_linear_network(images, ids, method):
    network = Linear()
    found = integrated_gradients(
        network, images, ids, AttributionSettings(steps=5, method=method, max_doublings=0)
    )
    expected = (network.weight * images).sum(dim=1).detach().numpy()
    if (
        method == "riemann_trapezoid"
    ):  # captum halves the weight of both ends, so that n weights add up to 1 - 1/n
        expected = expected * (1 - 1 / 5)
    np.testing.assert_allclose(found.maps, expected, atol=1e-6)


def test_sum_of_squares_gives_each_pixel_its_square(images, ids):
    network = Through(lambda x: x.square().sum(dim=(1, 2, 3)))
    found = integrated_gradients(network, images, ids, AttributionSettings(steps=2))
    np.testing.assert_allclose(found.maps, images.square().sum(dim=1).numpy(), rtol=1e-5)


def test_attributions_add_up_to_the_change_in_prediction(network, images, ids):
    found = integrated_gradients(prepare_network(network), images, ids, AttributionSettings(steps=40))
    gap = found.prediction - found.baseline_prediction
    np.testing.assert_allclose(
        found.maps.sum(axis=(1, 2), dtype=np.float64), found.attribution_sum, rtol=1e-12
    )
    np.testing.assert_allclose(found.attribution_sum - gap, found.delta, atol=1e-12)
    assert (np.abs(found.delta) <= 0.05 * np.abs(gap)).all()
    assert found.converged.all()
    assert np.abs(gap).max() > 1e-3, "the check would pass with nothing to explain"


def test_agrees_with_captum_on_the_unprepared_network(network, images, ids):
    from captum.attr import IntegratedGradients

    expected, delta = IntegratedGradients(network).attribute(
        images, baselines=images * 0 + 1, n_steps=10, return_convergence_delta=True
    )
    settings = AttributionSettings(steps=10, baseline="white", max_doublings=0)
    found = integrated_gradients(prepare_network(network), images, ids, settings)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found.maps, expected.sum(dim=1).detach().numpy(), atol=1e-4 * scale)
    np.testing.assert_allclose(found.delta, delta.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "settings", [AttributionSettings(steps=6, baseline="uniform"), AttributionSettings(steps=4, smooth=3)]
)
def test_an_image_has_the_same_map_alone_and_in_a_batch(network, images, ids, settings):
    prepared = prepare_network(network)
    together = integrated_gradients(prepared, images, ids, replace(settings, internal_batch_size=8))
    for index in range(len(images)):
        one = slice(index, index + 1)
        alone = integrated_gradients(
            prepared, images[one], ids[one], replace(settings, internal_batch_size=3)
        )
        scale = np.abs(alone.maps).max()
        np.testing.assert_allclose(together.maps[one], alone.maps, atol=1e-4 * scale)
        np.testing.assert_allclose(together.delta[one], alone.delta, atol=1e-5)


@pytest.mark.parametrize("smooth", [0, 4])
def test_images_per_pass_do_not_grow_with_the_steps(images, ids, smooth):
    largest = {}
    for steps in (8, 64):
        network = Through(lambda x: x.square().mean(dim=(1, 2, 3)))
        settings = AttributionSettings(steps=steps, internal_batch_size=4, smooth=smooth, max_doublings=0)
        integrated_gradients(network, images, ids, settings)
        largest[steps] = max(network.batches)
    assert largest[8] == largest[64] == 4


def test_steps_are_doubled_only_where_the_delta_is_too_large(images, ids):
    def bend(x):  # linear, but for the bright image a kink that few steps miss
        mean = x.mean(dim=(1, 2, 3))
        return mean + 4 * torch.relu(mean - 0.7)

    images = images * 0.5
    images[3] = images[3] * 0.2 + 0.8
    found = integrated_gradients(
        Through(bend), images, ids, AttributionSettings(steps=2, tolerance=0.01, max_doublings=5)
    )
    assert found.steps[[0, 1, 2, 4]].tolist() == [2, 2, 2, 2]
    assert found.steps[3] in {4, 8, 16, 32, 64}
    assert found.converged.all()
    first = integrated_gradients(
        Through(bend), images, ids, AttributionSettings(steps=2, tolerance=0.01, max_doublings=0)
    )
    assert first.converged.tolist() == [True, True, True, False, True]
    assert abs(found.delta[3]) < abs(first.delta[3])


def test_the_cap_is_reported_and_the_best_attempt_kept(images, ids):
    network = Through(lambda x: (x.mean(dim=(1, 2, 3)) * 60).sin())
    attempts = [
        integrated_gradients(network, images, ids, AttributionSettings(steps=2 * 2**n, max_doublings=0))
        for n in range(3)
    ]
    found = integrated_gradients(network, images, ids, AttributionSettings(steps=2, max_doublings=2))
    smallest = np.min([np.abs(attempt.delta) for attempt in attempts], axis=0)
    failed = ~found.converged
    assert failed.any()
    np.testing.assert_allclose(np.abs(found.delta[failed]), smallest[failed], atol=1e-6)
    assert set(found.steps) <= {2, 4, 8}


def test_smoothing_averages_over_noisy_copies_and_leaves_the_generator_alone(images, ids):
    network = Linear()
    state = torch.random.get_rng_state()
    found = integrated_gradients(
        network, images, ids, AttributionSettings(steps=2, smooth=200, smooth_stdev=0.1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    expected = (network.weight * images).sum(dim=1).detach().numpy()
    error = found.maps - expected
    spread = 0.1 / np.sqrt(200) * network.weight.square().sum(dim=0).sqrt().detach().numpy()
    assert 0.9 < (error / spread).std() < 1.1, "noise of standard deviation 0.1, averaged over 200 copies"
    np.testing.assert_allclose(found.delta, 0, atol=1e-5)


def test_a_prediction_that_is_not_finite_names_the_image(images, ids):
    network = Through(lambda x: torch.where(x[:, 0, 0, 0] == images[2, 0, 0, 0], torch.nan, x[:, 1, 1, 1]))
    with pytest.raises(UserError) as error:
        integrated_gradients(network, images, ids, AttributionSettings(internal_batch_size=1))
    assert "predicts nan for the image animal/cat/2.jpg or its black baseline" in str(error.value)
    assert "--model-names" in str(error.value)


def test_a_network_that_gives_more_than_one_score_is_refused(images):
    with pytest.raises(ValueError, match=r"one score per image, shape \(5,\), got \(5, 1\)"):
        predict(Through(lambda x: x.mean(dim=(1, 2, 3))[:, None]), images)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"method": "simpson"}, "Unknown --method 'simpson'; expected one of gausslegendre, riemann_middle"),
        (
            {"baseline": "grey"},
            "Unknown --baseline 'grey'; expected one of black, white, mean, blur, uniform, expected.",
        ),
        ({"steps": 0}, "--steps must be at least 1, found 0."),
        (
            {"baseline": "expected", "smooth": 3},
            "--smooth averages over noisy copies of an image, --baseline expected",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(UserError) as error:
        AttributionSettings(**bad)
    assert str(error.value).startswith(message)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("smooth", [0, 2])
def test_a_gpu_gives_the_maps_of_the_cpu(network, images, ids, smooth):
    from utils.core.device import full_float32

    full_float32()
    settings = AttributionSettings(steps=8, smooth=smooth, baseline="uniform", max_doublings=0)
    here = integrated_gradients(prepare_network(network), images, ids, settings)
    there = integrated_gradients(prepare_network(network, "cuda"), images.cuda(), ids, settings)
    np.testing.assert_allclose(there.prediction, here.prediction, atol=1e-5)
    if not smooth:  # the noise is drawn on the device, and differs between the two
        np.testing.assert_allclose(there.maps, here.maps, atol=1e-3 * np.abs(here.maps).max())
    assert there.converged.all()


# ------------------------------------------------------------------------------------- the network


def test_folding_batch_norms_changes_nothing_but_rounding(images):
    encoder = build_autoencoder("vgg11", seed=0).encoder
    with torch.no_grad():
        encoder.train()(images)
    network = ScoreNetwork(encoder, build_mlp(512, (16,), seed=0)).eval()
    prepared = prepare_network(network)
    assert not [module for module in prepared.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len([module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]) == 8
    with torch.no_grad():
        before, after = network.encoder(images), prepared.encoder(images)
    assert before.abs().max() > 0.1
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-5 * float(before.abs().max()))
    np.testing.assert_allclose(predict(prepared, images), predict(network, images), atol=1e-6)


def test_only_a_batch_norm_right_behind_a_convolution_is_folded():
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert fold_batch_norm(module) == 0


def test_preparing_asks_no_gradients_of_the_weights_and_leaves_the_original(network):
    prepared = prepare_network(network)
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


# ------------------------------------------------------------------------------------- baselines


def test_baselines(images, ids):
    assert make_baselines(images, "black", ids).abs().max() == 0
    assert make_baselines(images, "white", ids).min() == 1
    mean = make_baselines(images, "mean", ids)
    assert torch.allclose(mean[2, 1], images[2, 1].mean().expand(SIDE, SIDE))
    blur = make_baselines(images, "blur", ids)
    assert torch.allclose(blur.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-5)
    assert blur.std() < 0.2 * images.std()


def test_uniform_noise_belongs_to_the_image_and_the_seed(images, ids):
    noise = make_baselines(images, "uniform", ids, seed=0)
    again = make_baselines(images.flip(0), "uniform", ids[::-1], seed=0).flip(0)
    assert torch.equal(noise, again)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, make_baselines(images, "uniform", ids, seed=1))
    assert 0 <= noise.min() < 0.01
    assert 0.99 < noise.max() <= 1


# ------------------------------------------------------------------------------------- summaries


def test_gini_by_hand():
    assert gini(np.full((4, 4), 0.3)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8.0])) == pytest.approx(3 / 4)
    # Mean absolute difference of (1, 2, 5) over all 9 pairs: 2 (1 + 4 + 3) / 9; halved and divided by the
    # mean 8/3.
    assert gini(np.array([5, 1, 2.0])) == pytest.approx(16 / 9 / 2 / (8 / 3))
    assert np.isnan(gini(np.zeros(5)))


def test_centre_distance_by_hand():
    values = np.zeros((4, 6))
    values[0, 0] = 2.0  # its centre is 1.5 px above and 2.5 px left of the image's
    half_diagonal = np.hypot(4, 6) / 2
    assert centre_distance(values) == pytest.approx(np.hypot(1.5, 2.5) / half_diagonal)
    values[2, 3] = 6.0  # 0.5 px and 0.5 px away
    expected = (2 * np.hypot(1.5, 2.5) + 6 * np.hypot(0.5, 0.5)) / 8 / half_diagonal
    assert centre_distance(values) == pytest.approx(expected)
    assert np.isnan(centre_distance(np.zeros((3, 3))))
    # Mean distance from the centre of a unit square: (sqrt 2 + ln(1 + sqrt 2)) / 6.
    expected = (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6 / (np.sqrt(2) / 2)
    assert centre_distance(np.ones((200, 200))) == pytest.approx(expected, abs=1e-4)


def test_map_summary_and_share_inside_by_hand():
    attribution = np.array([[3.0, -1.0], [0.0, 4.0]])
    assert summarise_map(attribution)["positive_share"] == pytest.approx(7 / 8)
    assert summarise_map(attribution)["concentration"] == pytest.approx(gini(np.array([3.0, 1, 0, 4])))
    mask = np.array([[True, True], [False, False]])
    assert share_inside(attribution, mask) == pytest.approx(4 / 8)
    assert np.isnan(share_inside(attribution, None))
    assert np.isnan(share_inside(np.zeros((2, 2)), mask))
    assert all(np.isnan(value) for value in summarise_map(np.zeros((2, 2))).values())
    with pytest.raises(ValueError, match=r"map \(2, 2\) and mask \(3, 3\) differ in shape"):
        share_inside(attribution, np.ones((3, 3), dtype=bool))


def test_stored_maps_keep_their_digits_in_half_precision():
    maps = np.random.default_rng(0).normal(0.02 / 224**2, 1e-6, size=(2, 224, 224)).astype(np.float32)
    stored = density(maps)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored.mean(axis=(1, 2), dtype=np.float64), maps.sum(axis=(1, 2)), rtol=1e-4)
    error = np.abs(stored.astype(np.float64) / 224**2 - maps).max()
    naive = np.abs(maps.astype(np.float16).astype(np.float64) - maps).max()
    assert error < naive / 10
    assert np.isfinite(density(np.full((1, 224, 224), 5.0))).all()


# ------------------------------------------------------------------------------------- checks


def test_deletion_and_insertion_curves_of_a_known_network():
    weights = torch.zeros(4, 4)
    weights[:2, :2], weights[:2, 2:], weights[2:, 2:] = 0.4, -0.2, 0.1  # one value per patch of 2 x 2 pixels
    network = Through(lambda x: (x.mean(dim=1) * weights).sum(dim=(1, 2)) / 4)
    image, baseline = torch.ones(3, 4, 4), torch.zeros(3, 4, 4)
    curves = perturbation_curves(
        network, image, baseline, weights.numpy(), seed=0, patch=2, points=5, random_orders=400
    )
    np.testing.assert_allclose(curves.fractions, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curves.deletion, [0.3, -0.1, -0.2, -0.2, 0], atol=1e-6)
    np.testing.assert_allclose(curves.insertion, [0, 0.4, 0.5, 0.5, 0.3], atol=1e-6)
    np.testing.assert_allclose(curves.random_deletion.mean(axis=0), [0.3, 0.225, 0.15, 0.075, 0], atol=0.03)
    np.testing.assert_allclose(curves.random_insertion.mean(axis=0), [0, 0.075, 0.15, 0.225, 0.3], atol=0.03)
    assert area(curves.fractions, curves.deletion) == pytest.approx((0.3 / 2 - 0.1 - 0.2 - 0.2) / 4)


def test_patches_cover_images_that_they_do_not_divide():
    grid = patch_grid(10, 7, 3)
    assert grid.shape == (10, 7)
    assert sorted(set(grid.ravel())) == list(range(6))
    assert patch_grid(5, 5, 16).max() == 0


def test_shuffling_keeps_the_values_and_loses_their_places(network):
    module = copy.deepcopy(network.encoder)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    shuffle_weights(module, seed=0)
    weight = "conv2.0.weight"
    after = module.state_dict()
    assert not torch.equal(before[weight], after[weight])
    assert torch.equal(before[weight].flatten().sort().values, after[weight].flatten().sort().values)
    assert (after["conv2.1.running_var"] > 0).all()


def test_weights_are_shuffled_from_the_output_down(network):
    def unchanged(changed):
        pairs = zip(network.encoder, changed.encoder, strict=True)
        return [bool(torch.equal(first[0].weight, second[0].weight)) for first, second in pairs]

    levels = [(level, unchanged(changed)) for level, changed in randomised_networks(network, seed=0)]
    assert levels == [("1 head", [True, True]), ("2 conv2", [True, False]), ("3 conv1", [False, False])]
    single = [
        (level, unchanged(changed)) for level, changed in randomised_networks(network, 0, cascade=False)
    ]
    assert single == [("1 head", [True, True]), ("2 conv2", [True, False]), ("3 conv1", [False, True])]


def test_map_agreement_is_spearman_of_signed_and_absolute_values():
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 8, 8))
    signed, absolute = map_agreement(first, second)
    assert signed == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert absolute == pytest.approx(spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic)
    assert map_agreement(first, -first) == pytest.approx((-1, 1))
    assert np.isnan(map_agreement(first, np.ones((8, 8)))[0])


@pytest.fixture(scope="module")
def checks(network):
    import pandas as pd

    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    found = check_attributions(network, images, ["a", "b", "c"], AttributionSettings(steps=8))
    assert found.cascade.shape == (4, 3, SIDE, SIDE)
    assert found.levels == ["true weights", "1 head", "2 conv2", "3 conv1"]
    return pd.DataFrame(found.rows)


def test_maps_change_when_weights_are_shuffled_and_not_otherwise(checks):
    signed = checks[checks["check"] == "randomisation"].groupby("level")["value"].median()
    assert signed.index.tolist()[0] == CONTROL_LEVEL
    assert len(signed) == 4
    assert signed[CONTROL_LEVEL] > 0.9
    assert abs(signed["3 conv1"]) < 0.2


def test_each_layer_is_shuffled_alone_as_well_and_drawn_beside_the_cascade(checks):
    for single, cascade in (
        ("single_layer", "randomisation"),
        ("single_layer_absolute", "randomisation_absolute"),
    ):
        found = {
            name: checks[checks["check"] == name].set_index(["level", "image_id"])["value"]
            for name in (single, cascade)
        }
        assert found[single].index.unique("level").tolist() == ["1 head", "2 conv2", "3 conv1"]
        np.testing.assert_allclose(
            found[single]["1 head"], found[cascade]["1 head"], err_msg="one part is one part"
        )
        assert not np.allclose(found[single]["3 conv1"], found[cascade]["3 conv1"])
    figure = draw_single_layers(checks, "maps")
    for axes, single in zip(figure.axes, ("single_layer", "single_layer_absolute"), strict=True):
        medians = checks[checks["check"] == single].groupby("level")["value"].median()
        np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), medians.to_numpy())
        assert [text.get_text() for text in axes.get_xticklabels()] == ["head", "conv2", "conv1"]


def test_the_randomisation_check_exposes_a_network_whose_map_ignores_the_weights():
    encoder = nn.Sequential(nn.Conv2d(3, 2, 1))
    nn.init.constant_(encoder[0].weight, 0.5)
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE**2, 1), nn.Flatten(0))
    nn.init.constant_(head[1].weight, 0.01)
    images = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    found = check_attributions(
        ScoreNetwork(encoder, head).eval(), images, ["a"], AttributionSettings(steps=2)
    )
    rho = [row["value"] for row in found.rows if row["check"] == "randomisation"]
    assert rho == pytest.approx([1, 1, 1])


def test_check_rows_are_whole(checks):
    areas = checks[checks["level"] == "area"]
    assert sorted(areas["check"].unique()) == ["deletion", "insertion"]
    assert not checks.duplicated(["image_id", "check", "level"]).any()
    curve = checks[(checks["check"] == "deletion") & (checks["image_id"] == "a")]
    assert curve.iloc[0]["level"] == "0.000"
    assert curve.iloc[0]["value"] == pytest.approx(curve.iloc[0]["control"])
    assert len(draw_checks(checks, summarise_checks(checks), "title").axes) == 4


# ------------------------------------------------------------------------------------- pictures


def test_picture_names_are_distinct_and_short():
    names = ["a/b_c.jpg", "a_b/c.jpg", "a/b.png", "x/" + "ä" * 300 + ".jpg", "...", "a/b.jpg"]
    pictures = picture_names(names)
    assert len(set(pictures)) == len(names)
    assert all(len(name.encode()) < 255 and name.endswith(".png") and "/" not in name for name in pictures)
    assert picture_names(["animal/bear/1.jpg"]) == ["animal_bear_1.png"]


def test_explained_images_are_drawn_and_described(network, images, ids, tmp_path):
    items = [(name, image.numpy()) for name, image in zip(ids, images, strict=True)]
    settings = AttributionSettings(steps=4, max_doublings=0)
    explained = explain_images(
        network, items, tmp_path / "ig", settings=settings, observed=[0.5, None, 0.1, None, 1.0]
    )
    expected = integrated_gradients(prepare_network(network), images, ids, settings)
    assert [item.name for item in explained] == ids
    np.testing.assert_allclose([item.prediction for item in explained], expected.prediction, atol=1e-6)
    np.testing.assert_allclose([item.delta for item in explained], expected.delta, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "ig").iterdir()) == picture_names(ids)
    before = [item.path.read_bytes() for item in explained]
    again = explain_images(
        network, items, tmp_path / "ig", settings=settings, observed=[0.5, None, 0.1, None, 1.0]
    )
    assert [item.path.read_bytes() for item in again] == before
    explain_images(network, items[:1], tmp_path / "ig", settings=settings, caveat="sample data")
    assert explained[0].path.read_bytes() != before[0]
