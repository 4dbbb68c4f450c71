"""The table of metrics: what is judged on which images, against which cut, with which families of q."""

from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from models.mlp import build_mlp
from utils.prediction import evaluation as judge
from utils.prediction import stage
from utils.prediction.data import PredictionData
from utils.prediction.near_duplicates import group_near_duplicates
from utils.prediction.partition import split_positions
from utils.prediction.predictors import CATEGORY_MEAN, MLP, RECOGNITION, RIDGE, SUBCATEGORY_MEAN
from utils.statistics.resampling import Resampler


def fabricated(scores, codes, subcategory, splits, own_split=False) -> PredictionData:
    """One model's images, as the stage reads them."""
    count = len(scores)
    images = pd.DataFrame(
        {
            "image_id": [f"{number:04d}.jpg" for number in range(count)],
            "category": [name[0] for name in subcategory],
            "subcategory": subcategory,
            "group": "",
            "source": "",
            "memorability": scores,
            "split": splits,
            "position": np.arange(count),
        }
    )
    split = split_positions(images["split"], np.arange(count))
    return PredictionData(
        "net",
        {"stem": "net", "sha256": "0"},
        64,
        codes.astype(np.float32),
        images["image_id"].to_numpy(object),
        images,
        np.asarray(scores, dtype=float),
        split,
        pd.DataFrame(index=range(count)),
        "",
        "score",
        "test",
        own_split,
        None,
    )


def study(seed: int = 0, recognised: bool = True, own_split: bool = False) -> PredictionData:
    """20 subcategories of 40 images; codes say which subcategory an image is of and, unless `recognised`, more."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), 40)
    inside = rng.normal(size=800)
    scores = rng.normal(size=20)[groups] + inside + 0.5 * rng.normal(size=800)
    codes = np.eye(20)[groups] + 0.05 * rng.normal(size=(800, 20))
    if not recognised:
        codes = np.column_stack([codes, inside])
    names = np.array([f"{'ab'[number % 2]}{number:02d}" for number in groups])
    splits = np.resize(["train"] * 6 + ["val"] + ["test"] * 3, 800)
    return fabricated(0.6 + 0.1 * scores, codes, names, splits, own_split)


@pytest.fixture(scope="module")
def evaluated() -> dict[bool, stage.Evaluation]:
    return {
        recognised: stage.evaluate_split(
            data := study(recognised=recognised),
            data.split,
            build_mlp(data.latents.shape[1], (4,), seed=0).eval(),
            200,
            0,
            None,
        )
        for recognised in (True, False)
    }


def value(evaluation: stage.Evaluation, predictor: str, metric: str, column: str = "value") -> float:
    return evaluation.metrics.set_index(["predictor", "metric"]).loc[(predictor, metric), column]


def test_a_predictor_that_recognises_is_found_out(evaluated):
    """Codes that say the subcategory and no more: rho is high, none of it is left within subcategories."""
    known = evaluated[True]
    assert value(known, RIDGE, "spearman") > 0.35
    assert value(known, SUBCATEGORY_MEAN, "spearman") > 0.35
    assert abs(value(known, RIDGE, "spearman_within_subcategory")) < 0.2
    assert value(known, RIDGE, "spearman_within_subcategory", "p") > 0.01
    assert abs(value(known, f"{RECOGNITION} - {SUBCATEGORY_MEAN}", "spearman")) < 0.05
    assert value(known, CATEGORY_MEAN, "spearman") < value(known, SUBCATEGORY_MEAN, "spearman")


def test_a_predictor_that_says_more_than_the_subcategory_shows_it(evaluated):
    more = evaluated[False]
    assert value(more, RIDGE, "spearman_within_subcategory") > 0.5
    difference = f"{RECOGNITION} - {SUBCATEGORY_MEAN}"
    assert value(more, difference, "spearman", "ci_low") > 0.05
    assert value(more, difference, "spearman", "q") < 0.05


def test_the_mean_of_the_subcategory_is_that_of_training_images_alone(evaluated):
    evaluation = evaluated[True]
    data = study()
    train = data.images[data.images["split"] == "train"].groupby("subcategory")["memorability"].mean()
    expected = evaluation.test["subcategory"].map(train)
    np.testing.assert_allclose(evaluation.test[SUBCATEGORY_MEAN], expected)
    assert value(evaluation, SUBCATEGORY_MEAN, "spearman") == pytest.approx(
        stats.spearmanr(expected, evaluation.test["memorability"]).statistic
    )
    assert value(evaluation, SUBCATEGORY_MEAN, "spearman", "detail").endswith(
        "known for 240 of 240 test images"
    )


def test_subcategories_held_out_whole_fall_back_on_the_category_and_stay_out_of_the_stack():
    data = study(recognised=False)
    groups = data.images["subcategory"].str[1:].astype(int)
    splits = np.where(groups < 12, "train", np.where(groups < 14, "val", "test"))
    data = fabricated(data.scores, data.latents, data.images["subcategory"].to_numpy(), splits)
    head = build_mlp(data.latents.shape[1], (4,), seed=0).eval()
    found = stage.evaluate_split(data, data.split, head, 0, 0, None)
    np.testing.assert_allclose(found.test[SUBCATEGORY_MEAN], found.test[CATEGORY_MEAN])
    assert "known for 0 of 240" in found.predictions.details[SUBCATEGORY_MEAN]
    assert SUBCATEGORY_MEAN not in found.predictions.details[RECOGNITION]


def test_above_and_below_are_cut_at_the_median_of_the_training_scores():
    """Test scores lie far above those trained on: by the training median every test image is above."""
    rng = np.random.default_rng(0)
    splits = np.resize(["train"] * 6 + ["val"] + ["test"] * 3, 100)
    scores = np.where(splits == "test", 2.0, 0.0) + rng.normal(0, 0.1, 100)
    names = np.array(["a1", "b1"] * 50)
    data = fabricated(scores, rng.normal(size=(100, 5)), names, splits)
    found = stage.evaluate_split(data, data.split, build_mlp(5, (4,), seed=0).eval(), 0, 0, None)
    assert found.threshold == np.median(scores[splits == "train"])
    assert np.isnan(value(found, MLP, "auc")), "no test image is below the training median"
    called = (found.test[RIDGE] > found.threshold).mean()
    assert value(found, RIDGE, "accuracy") == pytest.approx(called)


def test_every_predictor_is_judged_on_the_same_images(caplog):
    rng = np.random.default_rng(0)
    test = pd.DataFrame({name: rng.normal(size=20) for name in ("memorability", "a", "b", "c")})
    test.loc[:3, "b"] = np.nan
    test.loc[5:, "c"] = np.nan
    common, kept = judge.common_images(test, ["a", "b", "c"])
    assert kept == ["a", "b"]
    assert len(common) == 16
    assert "c is known for 25 % of the test images only; it is not judged." in caplog.text
    assert "judged on the 16 of 20 test images that every one of them knows; b does not" in caplog.text


def test_calibration_is_least_squares_of_observed_on_predicted():
    rng = np.random.default_rng(0)
    predicted = rng.normal(0.6, 0.1, 300)
    observed = 0.2 + 0.7 * predicted + rng.normal(0, 0.05, 300)
    found = judge.calibration_line(observed, predicted, Resampler(300, 2000, 0)).set_index("metric")
    fitted = sm.OLS(observed, sm.add_constant(predicted)).fit()
    slope = found.loc["calibration_slope"]
    assert found["value"].tolist() == pytest.approx([fitted.params[1], fitted.params[0]])
    robust = fitted.get_robustcov_results("HC3").conf_int()[1]
    assert (slope["ci_low"], slope["ci_high"]) == pytest.approx(tuple(robust), abs=0.02)
    flat = judge.calibration_line(observed, np.full(300, 0.5), Resampler(300, 10, 0))
    assert flat["value"].isna().all()


def test_each_claim_is_a_family_of_its_own():
    p = [0.01, 0.04, 0.5, 0.02, 0.03, 0.001, 0.9]
    metrics = pd.DataFrame(
        {
            "predictor": ["mlp", "ridge", "constant", "mlp", "ridge", "mlp - ridge", "mlp - constant"],
            "metric": ["spearman"] * 3 + ["spearman_within_category"] * 2 + ["spearman"] * 2,
            "p": p,
        }
    )
    q = judge.add_family_q(metrics)["q"]
    for family in (slice(0, 3), slice(3, 5), slice(5, 7)):
        np.testing.assert_allclose(q[family], stats.false_discovery_control(p[family]))


def test_a_users_own_split_is_never_drawn_again(caplog):
    caplog.set_level("INFO")
    own, drawn = study(own_split=True), study()
    args = Namespace(n_splits=4, n_seeds=2, seed=0)
    assert stage.further_splits(own, args) == []
    assert len(stage.further_splits(drawn, args)) == 3
    assert (stage.training_seeds(own, args), stage.training_seeds(drawn, args)) == (4, 2)
    assert "--n-splits 4 trains 4 heads from different seeds on it" in caplog.text


def test_grouped_near_duplicates_stay_on_one_side_in_this_split_and_in_further_ones():
    data = study()
    data.images.loc[[10, 11], "group"] = "crops"
    pairs = pd.DataFrame({"image_id": ["0000.jpg", "0011.jpg"], "other_image_id": ["0007.jpg", "0020.jpg"]})
    before = data.images["split"].to_numpy()
    assert before[0] != before[7]
    grouped = group_near_duplicates(data, pairs)
    after = grouped.images["split"].to_numpy()
    assert after[0] == after[7] == "test"
    changed = np.flatnonzero(before != after)
    assert set(changed) <= {0, 7, 10, 11, 20}
    assert set(grouped.split.test) == set(np.flatnonzero(after == "test"))
    labels = grouped.images["group"]
    assert labels[10] == labels[11] == labels[20] != labels[0] == labels[7] != ""
    for split in stage.further_splits(grouped, Namespace(n_splits=4, n_seeds=1, seed=0)):
        side = {row: name for name in ("train", "val", "test") for row in getattr(split, name)}
        assert side[0] == side[7]
        assert side[10] == side[11] == side[20]


@pytest.mark.parametrize(
    ("studies", "low", "high"), [(60, 0.0, 0.15), pytest.param(1500, 0.03, 0.07, marks=pytest.mark.long)]
)
def test_false_positives_of_predictors_and_their_differences_under_a_clustered_null(studies, low, high):
    """Predictions and scores alike inside subcategories, with nothing to do with each other: p < 0.05 in 3 to 7 %."""
    groups = np.repeat(np.arange(30), 6)
    hits = {"rho": 0, "difference": 0, "independent": 0}
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        draw = rng.normal(size=(30, 3))[groups] + rng.normal(size=(180, 3))
        names = [f"s{number:02d}" for number in groups]
        test = pd.DataFrame(draw, columns=["memorability", MLP, RIDGE]).assign(category="", subcategory=names)
        rows = judge.metric_table(test, [MLP], 0.0, 0, seed).set_index("metric")
        hits["rho"] += rows.loc["spearman", "p"].iloc[0] < 0.05
        hits["independent"] += rows.loc["spearman", "p_independent"].iloc[0] < 0.05
        hits["difference"] += judge.difference_rows(test, [MLP, RIDGE], 99, seed)["p"].iloc[0] < 0.05
    assert low <= hits["rho"] / studies <= high
    assert low <= hits["difference"] / studies <= high
    assert hits["independent"] / studies > 0.15
