"""Studies in which there is nothing to find: what every table of stages 3 to 8 says of them after q."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated import draw_clustered
from utils.attribution.checks import judge_gains
from utils.categories.tables import rho_table
from utils.features import model as feature_models
from utils.features.evaluation import feature_correlations
from utils.latents.distinctiveness import MEASURES, Inference, distinctiveness_correlations
from utils.prediction.baselines import group_means
from utils.prediction.evaluation import add_family_q, difference_rows, metric_table
from utils.prediction.ridge import fit_ridge
from utils.statistics.clusters import find_clusters
from utils.statistics.correlation_tables import (
    add_q,
    correlation_rows,
    correlations_by_category,
    false_discovery_q,
    paired_difference,
)
from utils.statistics.mixed_model import mixed_model_rows

SEEDS = 20
LOSSES = ("mse", "ssim", "lpips-sq")
CATEGORIES, SUBCATEGORIES, IMAGES = 3, 8, 10
FEATURES = ("lab_l_mean", "lab_l_std", "lab_a_mean", "chroma_contrast_a", "grey_entropy")
OPTIONS = {"resamples": 199, "cluster": "subcategory"}


def shuffled_study(seed):
    """Losses and distances alike inside subcategories; scores that are, too, dealt anew to whole subcategories."""
    rng = np.random.default_rng(seed)
    sizes = np.full(CATEGORIES * SUBCATEGORIES, IMAGES)
    scores, shared, codes = draw_clustered(rng, sizes)
    frame = pd.DataFrame(
        {"image_id": [f"{row:04d}.jpg" for row in range(len(codes))], "memorability": scores}
    )
    frame["category"] = [f"c{code // SUBCATEGORIES}" for code in codes]
    frame["subcategory"] = [f"s{code:02d}" for code in codes]
    for name in (*LOSSES, *MEASURES):  # measures of one kind resemble each other, as losses do
        frame[name] = shared + draw_clustered(rng, sizes)[0]
    return frame


def correlation_families(frame, seed):
    """The q values of every family of tests of stages 3 to 5: one per claim and table."""
    losses = list(LOSSES)
    rows = correlation_rows(frame, losses, seed=seed, **OPTIONS)
    for kind in ("", "_within_category", "_within_subcategory"):
        yield rows[f"q{kind}"]
    yield correlations_by_category(frame, losses, seed=seed, **OPTIONS)["q"]
    pairs = [(a, b) for a in losses for b in losses if a < b]
    yield paired_difference(frame, pairs, seed=seed, **OPTIONS)["q"]
    slopes = add_q(mixed_model_rows(frame, losses, find_clusters(frame)), ["effect"])
    yield from (part["q"] for _, part in slopes.groupby("effect"))
    table = frame[["image_id", "category", "memorability", *MEASURES]]
    errors = frame[["image_id", *LOSSES]]
    distances = distinctiveness_correlations(
        table, frame[["image_id", "subcategory"]], errors, Inference(199, seed, "subcategory")
    )
    # Losses go with distinctiveness here, as both share a cause: that is no claim about memorability.
    distances = distances[distances["target"] == "memorability"]
    claims = [distances["held_constant"] != "", distances["measure"].isin(LOSSES)]
    yield from (part["q"] for _, part in distances.groupby(claims))
    rho = rho_table(frame, losses, seed=seed, **OPTIONS)
    yield from (part["q"] for _, part in rho.groupby(rho["category"] == "all images"))


def prediction_families(frame, seed):
    """Those of stage 6, with whole subcategories held out: ridge on codes against what it has to beat."""
    rng = np.random.default_rng((seed, 6))
    codes = np.column_stack(
        [draw_clustered(rng, np.full(CATEGORIES * SUBCATEGORIES, IMAGES))[0] for _ in range(8)]
    )
    scores, number = frame["memorability"].to_numpy(), np.arange(len(frame)) // IMAGES % SUBCATEGORIES
    train, val, test = (np.flatnonzero(some) for some in (number < 3, number == 3, number > 3))
    table = frame.iloc[test].reset_index(drop=True)
    everyone = np.arange(len(frame))
    columns = {
        "ridge": fit_ridge(codes.astype(np.float32), scores, train, val).predict(
            codes.astype(np.float32), everyone
        )
    }
    columns |= {
        "reconstruction-error": frame["mse"].to_numpy(),
        "distinctiveness": frame[MEASURES[0]].to_numpy(),
    }
    columns["category-mean"] = group_means(frame["category"], scores, train).values
    columns["mlp"] = draw_clustered(rng, np.full(CATEGORIES * SUBCATEGORIES, IMAGES))[0]
    table = table.assign(**{name: values[test] for name, values in columns.items()})
    names, drawn = list(columns), (OPTIONS["resamples"], seed, OPTIONS["cluster"])
    rows = [metric_table(table, names, 0.0, *drawn), difference_rows(table, names, *drawn)]
    metrics = add_family_q(pd.concat(rows, ignore_index=True))
    known = metrics[metrics["q"].notna()]
    yield from (part["q"] for _, part in known.groupby([known["predictor"].str.contains(" - "), "metric"]))


def later_families(frame, seed):
    """Those of stages 7 and 8: verdicts on attributions (no q of their own), correlations and models of features."""
    rng = np.random.default_rng((seed, 8))
    sizes = np.full(CATEGORIES * SUBCATEGORIES, IMAGES)
    gains = [judge_gains(draw_clustered(rng, sizes)[0], frame["subcategory"])["p"] for _ in range(4)]
    yield pd.Series(false_discovery_q(gains))
    table = frame[["image_id", "category", "subcategory", "memorability"]].assign(
        **{name: draw_clustered(rng, sizes)[0] for name in FEATURES}
    )
    rows = feature_correlations(table, {}, OPTIONS["resamples"], seed, OPTIONS["cluster"])
    yield rows["q"]
    yield rows["q_within_category"]
    errors = frame[["image_id", *LOSSES]].assign(distinctiveness=frame[MEASURES[0]])
    plan = feature_models.ModelSettings(
        folds=4, repeats=1, seed=seed, permutations=199, cluster=OPTIONS["cluster"]
    )
    found = feature_models.feature_model(table, {"net": errors}, plan)
    yield found.models["q"]
    # That the category says something of the score is no finding: scores differ between categories by chance alone.
    yield found.commonality.loc[~found.commonality["block"].isin(["category", "together"]), "q"]


def families(frame, seed):
    """The q values of every family of tests of a study."""
    yield from correlation_families(frame, seed)
    yield from prediction_families(frame, seed)
    yield from later_families(frame, seed)


def share_with_a_finding(seeds):
    """The share of families with a q below 0.05, over studies, and how many families a study has."""
    found = [[bool((q < 0.05).any()) for q in families(shuffled_study(seed), seed)] for seed in seeds]
    assert len({len(study) for study in found}) == 1
    return float(np.mean(found)), len(found[0])


@pytest.mark.long
def test_shuffled_scores_give_no_more_findings_than_q_allows():
    """q < 0.05 promises at most 5 % of such families with any finding, not none; twice the standard error is allowed."""
    share, count = share_with_a_finding(range(SEEDS))
    assert count == 22
    # The families of one seed share images, so that the seeds are what is independent.
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / SEEDS)


def test_two_shuffled_studies_give_nothing_and_images_taken_as_independent_would(monkeypatch):
    """The same in short, with ridge alone; and that the families can find something where inference is wrong."""
    monkeypatch.setattr(feature_models, "LEARNERS", ("ridge",))
    assert share_with_a_finding(range(2))[0] == 0
    alone = [
        correlation_rows(shuffled_study(seed), list(LOSSES), resamples=20, splits=1, cluster="none")["p"]
        for seed in range(30)
    ]
    assert np.mean(np.concatenate(alone) < 0.05) > 0.15


def test_an_effect_that_is_there_is_found():
    """The same families find a loss that follows the scores, so that finding nothing means something."""
    frame = shuffled_study(0)
    frame["lpips-sq"] = frame["memorability"] + 0.5 * frame["lpips-sq"]
    row = correlation_rows(frame, list(LOSSES), seed=0, **OPTIONS).set_index("measure").loc["lpips-sq"]
    assert (row[["q", "q_within_category", "q_within_subcategory"]] < 0.05).all()
