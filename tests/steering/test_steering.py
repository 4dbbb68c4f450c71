"""Moves of latent codes on networks small enough to know the answer, their controls, and what is concluded."""

from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from skimage import data
from torch import nn

from utils.core.errors import UserError
from utils.core.feature_names import FEATURES
from utils.steering import evaluation, moves, stage, steerer
from utils.steering.controls import (
    DISTURBANCES,
    EDITS,
    edit_to_cost,
    random_directions,
    to_eight_bit,
    to_unit_range,
)
from utils.steering.judge import embed_features, read_table_judge, train_judge

SIZE = 32
SHAPE = (3, 8, 8)
ANYWHERE = moves.Neighbourhood(torch.zeros(1, 192), float("inf"))


class Decoder(nn.Module):
    """Codes are small pictures; they are enlarged."""

    def forward(self, codes):
        return nn.functional.interpolate(codes, scale_factor=4, mode="nearest").clamp(0, 1)


class Head(nn.Module):
    """A linear score of the code."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32).reshape(-1))

    def forward(self, codes):
        return codes.flatten(1) @ self.weights


def network(weights):
    return moves.CodeNetwork(nn.AvgPool2d(4), Decoder(), Head(weights))


BRIGHTNESS = np.full(192, 1 / 192)


@pytest.fixture(scope="module")
def photographs():
    """48 crops of four photographs, (48, 3, 32, 32) in [0, 1], neither black nor white anywhere."""
    rng = np.random.default_rng(3)
    crops = []
    for picture in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        for _ in range(12):
            top, left = (rng.integers(0, side - 128) for side in picture.shape[:2])
            crop = picture[top : top + 128, left : left + 128].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
            crops.append(0.2 + 0.5 * crop.transpose(2, 0, 1) / 255)
    return torch.tensor(np.stack(crops), dtype=torch.float32)


def bounds_of(net, images, psnr=30.0):
    codes = net.encoder(images)
    start = net.decoder(codes)
    error = torch.full((len(images),), moves.squared_error_of(psnr))
    return codes, moves.Bounds(start, error, torch.full((len(images),), float("inf")))


# ---- moves


def test_longest_finds_each_images_own_length():
    wanted = torch.tensor([0.3, 7.0, 1e-4])
    found = moves.longest(lambda lengths: lengths <= wanted, torch.full((3,), 0.01), bisections=20)
    assert torch.allclose(found, wanted, rtol=1e-3)
    assert (found <= wanted).all()
    assert (moves.longest(lambda lengths: lengths < 0, torch.ones(2)) == 0).all()


@pytest.mark.parametrize("psnr", [35.0, 25.0])
def test_a_move_costs_what_it_may_and_no_more(photographs, psnr):
    net = network(BRIGHTNESS)
    codes, bounds = bounds_of(net, photographs[:6], psnr)
    moved = moves.move_along(net, codes, random_directions(codes, [1, 2, 3, 4, 5, 6]), bounds, ANYWHERE)
    cost = moves.psnr_of(moves.squared_difference(moved.images, bounds.start).numpy())
    assert (cost >= psnr).all()
    assert cost == pytest.approx(psnr, abs=0.02)
    assert not moved.limited_by_codes.any()


def test_a_move_ends_where_training_codes_end(photographs):
    net = network(BRIGHTNESS)
    codes, bounds = bounds_of(net, photographs[:4], 20.0)
    near = moves.Neighbourhood(codes.flatten(1), 0.05)
    tight = moves.Bounds(bounds.start, bounds.squared_error, torch.full((4,), 0.05))
    moved = moves.move_along(net, codes, random_directions(codes, [1, 2, 3, 4]), tight, near)
    assert near.distances(moved.codes).numpy() == pytest.approx(0.05, rel=2e-3)
    assert moved.limited_by_codes.all()


def test_neighbourhood_is_the_quantile_and_the_plain_distance():
    codes = np.array([[0.0, 0], [1, 0], [3, 0], [9, 0]], np.float32)
    near = moves.neighbourhood_of(codes, np.array([1.0, 1, 2, 6]), quantile=0.5)
    assert near.radius == 1.5
    assert near.distances(torch.tensor([[2.0, 0.0], [9.0, 4.0]])).tolist() == [1.0, 4.0]


def test_ascent_of_a_linear_score_is_the_straight_way_and_descent_its_opposite(photographs):
    net = network(BRIGHTNESS)
    codes, bounds = bounds_of(net, photographs[:5], 28.0)
    (up,), (down,) = (moves.climb(net, codes, [bounds], ANYWHERE, sign) for sign in (1.0, -1.0))
    straight = moves.move_along(net, codes, moves.normalised(torch.ones_like(codes)), bounds, ANYWHERE)
    before = net.score_images(bounds.start)
    gain, loss = net.score_images(up.images) - before, net.score_images(down.images) - before
    # A change of 28 dB is 0.0398 in every pixel, and so is the gain in brightness: no other way gains as much.
    assert gain.numpy() == pytest.approx(10 ** (-28 / 20), rel=2e-3)
    assert loss.numpy() == pytest.approx(-(10 ** (-28 / 20)), rel=2e-3)
    assert torch.allclose(up.images, straight.images, atol=2e-3)


def test_stations_lie_on_one_path_and_cost_more_and_more(photographs):
    net = network(BRIGHTNESS)
    codes, loose = bounds_of(net, photographs[:3], 24.0)
    tight = loose.with_error(torch.full((3,), moves.squared_error_of(32.0)))
    first, second = moves.climb(net, codes, [tight, loose], ANYWHERE)
    assert moves.psnr_of(first.squared_error.numpy()) == pytest.approx(32, abs=0.05)
    assert moves.psnr_of(second.squared_error.numpy()) == pytest.approx(24, abs=0.05)


def test_a_perceptual_budget_ends_a_move_too(photographs):
    net = network(BRIGHTNESS)
    codes, bounds = bounds_of(net, photographs[:3], 15.0)

    def largest(first, second):
        return (first - second).abs().flatten(1).amax(dim=1)

    limited = moves.Bounds(bounds.start, bounds.squared_error, bounds.radius, largest, 0.03)
    (moved,) = moves.climb(net, codes, [limited], ANYWHERE)
    assert largest(bounds.start, moved.images).numpy() == pytest.approx(0.03, rel=0.02)


# ---- controls


@pytest.mark.parametrize("name", EDITS)
def test_plain_edits_cost_the_same(photographs, name):
    _, bounds = bounds_of(network(BRIGHTNESS), photographs[:4], 30.0)
    sharp = moves.Bounds(photographs[:4], bounds.squared_error, bounds.radius)
    edited = edit_to_cost(name, sharp)
    cost = moves.psnr_of(moves.squared_difference(edited, photographs[:4]).numpy())
    assert cost == pytest.approx(30, abs=0.05)
    assert edited.min() >= 0
    assert edited.max() <= 1


def test_contrast_spreads_and_saturation_colours(photographs):
    _, bounds = bounds_of(network(BRIGHTNESS), photographs[:4], 28.0)
    start = bounds.start

    def grey(images):
        return images.mean(dim=1).flatten(1)

    assert (grey(edit_to_cost("contrast", bounds)).std(dim=1) > grey(start).std(dim=1)).all()
    colour = (edit_to_cost("saturation", bounds) - start.mean(dim=1, keepdim=True)).abs().mean()
    assert colour > (start - start.mean(dim=1, keepdim=True)).abs().mean()


def test_random_directions_have_length_one_and_follow_the_seed():
    codes = torch.zeros(3, *SHAPE)
    first = random_directions(codes, [1, 1, 2])
    assert first.flatten(1).norm(dim=1).numpy() == pytest.approx(1)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_eight_bits_there_and_back():
    image = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    assert to_eight_bit(image)[0, 0].tolist() == [0, 128, 255]
    assert to_unit_range(to_eight_bit(image))[:, 0, 0] == pytest.approx([0, 128 / 255, 1])


def test_disturbances_do_what_they_are_called():
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[5, 6] = 255
    assert DISTURBANCES["shift"](picture)[9, 10].tolist() == [255] * 3
    assert DISTURBANCES["blur"](picture)[5, 6, 0] < 80
    assert DISTURBANCES["jpeg"](picture).shape == picture.shape
    assert not np.array_equal(DISTURBANCES["jpeg"](picture), picture)


# ---- conclusions


def test_interval_over_images_alone_is_students():
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    mean, low, high, p = evaluation.interval_over_images_and_heads(values, None)
    expected = stats.ttest_1samp(values, 0)
    assert (mean, p) == pytest.approx((values.mean(), expected.pvalue))
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_interval_over_clusters_is_the_cluster_robust_one():
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 9])
    values = rng.normal(size=9)[clusters] + rng.normal(size=45)
    fit = sm.OLS(values, np.ones(45)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    mean, low, high, p = evaluation.interval_over_images_and_heads(values, None, clusters)
    assert mean == pytest.approx(fit.params[0])
    assert (low, high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert p == pytest.approx(fit.pvalues[0])


def test_heads_that_disagree_widen_the_interval():
    values = np.full(30, 0.2) + np.random.default_rng(2).normal(0, 0.01, 30)
    heads = np.array([0.2, -0.3, 0.5, 0.1, -0.1, 0.4])
    narrow, wide = (evaluation.interval_over_images_and_heads(values, by) for by in (None, heads))
    assert narrow[1] > 0
    assert wide[1] < 0 < wide[2]
    error = np.sqrt(values.var(ddof=1) / 30 + heads.var(ddof=1))
    freedom = error**4 / ((values.var(ddof=1) / 30) ** 2 / 29 + heads.var(ddof=1) ** 2 / 5)
    assert wide[2] - wide[0] == pytest.approx(stats.t.ppf(0.975, freedom) * error)


def test_a_gain_survives_only_if_half_of_it_is_left_everywhere():
    before = {"score": 0.5, "jpeg": 0.5, "shift": 0.4, "blur": 0.5}
    assert stage.survives(before, {"score": 0.7, "jpeg": 0.61, "shift": 0.5, "blur": 0.6})
    assert not stage.survives(before, {"score": 0.7, "jpeg": 0.61, "shift": 0.49, "blur": 0.6})
    assert not stage.survives(before, {"score": 0.5, "jpeg": 0.9, "shift": 0.9, "blur": 0.9})


# ---- planted truth


def embed_blocks(pictures):
    """Mean colours of four by four blocks: enough to tell brightness, and quick."""
    return np.stack([p.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)).ravel() / 255 for p in pictures])


def study_of(photographs, weights, folder, head_resamples=0, truth=None, embed=embed_features):
    """A study of the toy network whose judge has learned the truth from features of the reconstructions."""
    net = network(weights)
    codes = net.encoder(photographs)
    pictures = [to_eight_bit(image) for image in net.decoder(codes)]
    names = [f"{number:02d}.png" for number in range(len(pictures))]
    truth = codes.flatten(1).mean(dim=1).numpy() if truth is None else truth
    judge = train_judge("features", embed, names, pictures, truth)
    heads = (
        [(Head(w), torch.tensor(w, dtype=torch.float32)) for w in head_resamples] if head_resamples else []
    )
    ridge = torch.tensor(weights, dtype=torch.float32)
    study = steerer.Study("toy", net, ridge, heads, ANYWHERE, judge, {}, None)
    args = Namespace(
        image_size=SIZE, psnr_budget=[28.0], output_path=folder, lpips_budget=None, seed=0, weights="random"
    )
    return study, args, names


def steer_all(study, args, names, photographs, count):
    worker = steerer.Steerer(study, args, torch.device("cpu"))
    batch = worker(names[:count], list(photographs[:count].numpy()))
    frame = pd.DataFrame([{"image_id": n, **row} for n, row in zip(names, batch.rows, strict=False)])
    return stage.table_rows(frame)


def test_planted_brightness_is_moved_and_nothing_unrelated_and_the_judge_agrees(photographs, tmp_path):
    table, heads, features = steer_all(*study_of(photographs, BRIGHTNESS, tmp_path), photographs, 16)
    summary = evaluation.summarise(table, heads, resamples=200)
    row = summary.set_index(["method", "versus", "predictor"])
    for method in ("gradient", "ridge"):
        assert row.loc[(method, "reconstruction", "head"), "gain"] == pytest.approx(
            10 ** (-28 / 20), rel=0.02
        )
        assert row.loc[(method, "reconstruction", "judge"), "ci_low"] > 0
        assert 0.7 < row.loc[(method, "reconstruction", "judge"), "transfer"] < 1.3
        for control in evaluation.CONTROLS:
            assert row.loc[(method, control, "head"), "ci_low"] > 0, control
    assert row.loc[("descent", "reconstruction", "head"), "ci_high"] < 0
    assert row.loc[("descent", "reconstruction", "judge"), "ci_high"] < 0
    changes = evaluation.feature_changes(features)
    risen = changes[changes["method"] == "gradient"].set_index("feature")
    assert risen.loc["lab_l_mean", "difference"] > 3  # of 100, for 0.04 of brightness
    assert risen.loc["lab_l_mean", "ci_low"] > 0
    for unrelated in ("lab_a_mean", "lab_b_mean", "hsv_hue_mean", "edge_density"):
        assert abs(risen.loc[unrelated, "difference_sd"]) < 0.1, unrelated
    assert abs(risen.loc["lab_l_mean", "difference_sd"]) > 0.2
    assert set(changes["feature"]) <= {feature.name for feature in FEATURES}
    assert evaluation.sentences(summary)[0].startswith(
        "gradient, 28 dB: predicted memorability rises by +0.03"
    )


def shuffled_summaries(photographs, folder, seed):
    """Steer by ridge heads of shuffled scores, the judge knowing the true ones."""
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(seed)
    codes = network(BRIGHTNESS).encoder(photographs).flatten(1).numpy()
    scores = rng.permutation(codes.mean(axis=1))
    heads = []
    for number in range(7):
        rows = np.arange(len(codes)) if number == 0 else rng.integers(0, len(codes), len(codes))
        heads.append(Ridge(1.0).fit(codes[rows], scores[rows]).coef_)
    study, args, names = study_of(photographs, heads[0], folder, heads[1:], codes.mean(axis=1), embed_blocks)
    table, resampled, _ = steer_all(study, args, names, photographs, 10)
    with_heads = evaluation.summarise(table, resampled, resamples=50)
    without = evaluation.summarise(table, pd.DataFrame(), resamples=50)
    return [
        frame[
            (frame["method"] == "ridge")
            & (frame["versus"] == "reconstruction")
            & (frame["predictor"] == "judge")
        ].iloc[0]
        for frame in (with_heads, without)
    ]


def test_a_head_of_shuffled_scores_moves_the_judge_no_more_than_chance(photographs, tmp_path):
    """With the spread over heads zero is inside; over the images alone one false head would look like a finding."""
    covered = np.array(
        [
            [row["ci_low"] <= 0 <= row["ci_high"] for row in shuffled_summaries(photographs, tmp_path, seed)]
            for seed in range(6)
        ]
    )
    assert covered[:, 0].sum() >= 5
    assert covered[:, 1].sum() <= 4


# ---- judge


def test_no_picture_is_judged_by_a_fit_that_knows_its_photograph(photographs):
    """What is said of the images of one fold does not depend on their own scores."""
    pictures = [to_eight_bit(image) for image in photographs]
    names, groups = [f"{number}" for number in range(48)], list("abcdefgh" * 6)
    scores = np.random.default_rng(5).normal(size=48)
    judge = train_judge("blocks", embed_blocks, names, pictures, scores, groups)
    assert (
        len({fold for name, fold in judge.fold_of.items() if int(name) % 8 == 0}) == 1
    )  # a group stays together
    own = np.array([judge.fold_of[name] == judge.fold_of["0"] for name in names])
    other = train_judge("blocks", embed_blocks, names, pictures, np.where(own, scores + 5, scores), groups)
    first, second = (one.score(names, pictures) for one in (judge, other))
    assert first[own] == pytest.approx(second[own])
    assert np.abs(first[~own] - second[~own]).max() > 0.1


def test_a_judge_needs_enough_images(photographs):
    with pytest.raises(UserError, match="needs at least 20 images in the validation and test splits"):
        train_judge("features", embed_features, ["a"], [to_eight_bit(photographs[0])], np.zeros(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,score\na,1\n", "expected the columns path and score"),
        ("path,score\na.png,high\n", "expected a number in score, found 'high' in row 2"),
    ],
)
def test_wrong_score_tables_of_a_judge_are_refused(tmp_path, text, message):
    (tmp_path / "judge.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_table_judge(tmp_path / "judge.csv", tmp_path)


def test_scores_of_another_predictor_find_their_pictures(tmp_path):
    (tmp_path / "steering").mkdir()
    (tmp_path / "steering" / "a.png").write_bytes(b"")
    (tmp_path / "judge.csv").write_text(
        f"path,memorability\n{tmp_path}/steering/a.png,0.7\nsteering/b.png,0.6\n"
    )
    judge = read_table_judge(tmp_path / "judge.csv", tmp_path)
    found = judge.of_files(["steering/a.png", "steering/b.png", "steering/c.png"])
    assert found[:2].tolist() == [0.7, 0.6]
    assert np.isnan(found[2])


@pytest.mark.parametrize(
    ("budgets", "lpips", "message"),
    [
        ([0.5], None, "--psnr-budget 0.5"),
        ([28.0, 90.0], None, "--psnr-budget 90"),
        ([28.0], 0.0, "leaves no room"),
    ],
)
def test_budgets_that_leave_nothing_are_refused(budgets, lpips, message):
    with pytest.raises(UserError, match=message):
        stage.check_budgets(Namespace(psnr_budget=budgets, lpips_budget=lpips, weights="pretrained"))


def test_images_of_one_group_are_alike_and_single_ones_are_not():
    images = pd.DataFrame(
        {"image_id": list("abcd"), "group": ["x", "x", "y", ""], "subcategory": list("ssss")}
    )
    labels = stage.cluster_labels(images, None)
    assert labels["a"] == labels["b"]
    assert labels.nunique() == 3
    assert stage.cluster_labels(images.assign(group=""), None).tolist() == list(
        "abcd"
    )  # one subcategory says nothing
    assert stage.cluster_labels(images, "none").tolist() == list("abcd")
    kinds = images.assign(group="", category="k", subcategory=["s", "s", "t", "t"])
    assert stage.cluster_labels(kinds, None).nunique() == 2
