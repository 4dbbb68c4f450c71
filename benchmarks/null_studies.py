"""Whole studies in which there is nothing to find: every table of stages 3 to 8 that tests, and what it is called.

Pictures are not needed for that: losses, distances and features are drawn alike inside subcategories, the scores as well
and apart from them, and the tables are made by the functions that the stages call. Part of coverage.py.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from benchmarks.simulated import draw_clustered
from utils.attribution.checks import judge_gains
from utils.categories.tables import rho_table
from utils.core.names import RIVAL_MODEL, RIVALS
from utils.features.evaluation import feature_correlations
from utils.features.model import ModelSettings, feature_model
from utils.latents.distinctiveness import MEASURES, Inference, distinctiveness_correlations
from utils.prediction.baselines import group_means
from utils.prediction.evaluation import add_family_q, difference_rows, metric_table
from utils.prediction.ridge import fit_ridge
from utils.reconstruction import evaluation_stage as evaluation
from utils.reconstruction.loss_tables import LossTable
from utils.report.study_findings import EXPLORATORY, MEMORABILITY, PRIMARY, SOURCES, study_table

MODEL = "net"
DISTANCE = next(iter(MEASURES))
LOSSES = ("mse", "ssim", "lpips-sq")
CATEGORIES, SUBCATEGORIES, IMAGES = 3, 8, 10
SIZES = np.full(CATEGORIES * SUBCATEGORIES, IMAGES)
FEATURES = ("lab_l_mean", "lab_l_std", "lab_a_mean", "chroma_contrast_a", "grey_entropy")
RESAMPLES, CLUSTER = 199, "subcategory"
Tables = Iterator[tuple[str, pd.DataFrame]]


def shuffled_study(seed: int) -> pd.DataFrame:
    """Return losses and distances, and scores dealt apart from them, all alike inside subcategories; a row per image."""
    rng = np.random.default_rng(seed)
    scores, shared, codes = draw_clustered(rng, SIZES)
    frame = pd.DataFrame(
        {"image_id": [f"{row:04d}.jpg" for row in range(len(codes))], "memorability": scores}
    )
    frame["category"] = [f"c{code // SUBCATEGORIES}" for code in codes]
    frame["subcategory"] = [f"s{code:02d}" for code in codes]
    for name in (*LOSSES, *MEASURES, *RIVALS):  # measures of one kind resemble each other, as losses do
        frame[name] = shared + draw_clustered(rng, SIZES)[0]
    return frame


def _correlations(frame: pd.DataFrame, seed: int) -> Tables:
    """Stages 3 to 5."""
    measures = {name: (MODEL, name) for name in LOSSES} | {name: (RIVAL_MODEL, name) for name in RIVALS}
    losses = LossTable(frame, measures)
    args = Namespace(resamples=RESAMPLES, seed=seed, cluster=CLUSTER, splits=1)
    yield "loss_correlations", evaluation.loss_correlations(losses, args)
    yield "loss_correlations_by_category", evaluation.loss_correlations_by_category(losses, args)
    yield "loss_comparisons", evaluation.loss_comparisons(losses, args)
    yield "mixed_model", evaluation.loss_slopes(losses, args)
    distances = distinctiveness_correlations(
        frame[["image_id", "category", "memorability", *MEASURES]],
        frame[["image_id", "subcategory"]],
        frame[["image_id", *LOSSES]],
        Inference(RESAMPLES, seed, CLUSTER),
    )
    yield (
        "distinctiveness_correlations",
        distances.assign(model=MODEL, held_constant=distances["held_constant"].fillna("")),
    )
    yield "category_rho", rho_table(frame, [*LOSSES, DISTANCE], RESAMPLES, seed, CLUSTER)


def _predictions(frame: pd.DataFrame, seed: int) -> Tables:
    """Stage 6, with whole subcategories held out: ridge on codes against what it has to beat."""
    rng = np.random.default_rng((seed, 6))
    codes = np.column_stack([draw_clustered(rng, SIZES)[0] for _ in range(8)]).astype(np.float32)
    scores, number = frame["memorability"].to_numpy(), np.arange(len(frame)) // IMAGES % SUBCATEGORIES
    train, val, test = (np.flatnonzero(some) for some in (number < 3, number == 3, number > 3))
    columns = {"ridge": fit_ridge(codes, scores, train, val).predict(codes, np.arange(len(frame)))}
    columns["reconstruction-error"] = frame["mse"].to_numpy()
    columns["distinctiveness"] = frame[DISTANCE].to_numpy()
    columns["category-mean"] = group_means(frame["category"], scores, train).values
    columns["mlp"] = draw_clustered(rng, SIZES)[0]
    table = frame.iloc[test].reset_index(drop=True)
    table = table.assign(**{name: values[test] for name, values in columns.items()})
    names = list(columns)
    rows = [metric_table(table, names, 0.0, RESAMPLES, seed, CLUSTER)]
    rows.append(difference_rows(table, names, RESAMPLES, seed, CLUSTER))
    yield "mlp_metrics", add_family_q(pd.concat(rows, ignore_index=True)).assign(model=MODEL)


def _pictures(frame: pd.DataFrame, seed: int) -> Tables:
    """Stages 7 and 8: checks of attributions, features, models of features."""
    rng = np.random.default_rng((seed, 8))
    gains = [judge_gains(draw_clustered(rng, SIZES)[0], frame["subcategory"]) for _ in range(4)]
    yield "ig_verdicts", pd.DataFrame(gains).assign(model=MODEL, check=[f"check {n}" for n in range(4)])
    table = frame[["image_id", "category", "subcategory", "memorability"]]
    table = table.assign(**{name: draw_clustered(rng, SIZES)[0] for name in FEATURES})
    yield "feature_correlations", feature_correlations(table, {}, RESAMPLES, seed, CLUSTER)
    errors = frame[["image_id", *LOSSES]].assign(distinctiveness=frame[DISTANCE])
    plan = ModelSettings(
        folds=4, repeats=1, resamples=RESAMPLES, seed=seed, permutations=199, cluster=CLUSTER
    )
    found = feature_model(table, {MODEL: errors}, plan)
    if found is not None:
        yield "feature_model", found.models.assign(region="full")
        yield "feature_commonality", found.commonality.assign(region="full")


PARTS = (_correlations, _predictions, _pictures)


def study(
    frame: pd.DataFrame, seed: int, parts: Sequence[Callable[[pd.DataFrame, int], Tables]] = PARTS
) -> pd.DataFrame:
    """Return the rows of ``study_findings.csv`` of a study with these columns."""
    sources = {source.table: source for source in SOURCES}
    made = [table for part in parts for table in part(frame, seed)]
    return study_table([(sources[name], MODEL, table) for name, table in made])


def shares(tables: list[pd.DataFrame]) -> dict[str, tuple[float, int]]:
    """Return how often something was found, and of how many: of families, and of studies; memorability alone."""
    chosen = [table[table["about"] == MEMORABILITY] for table in tables]
    families = np.concatenate(
        [table.groupby(["table", "family"])["q"].min().to_numpy() < 0.05 for table in chosen]
    )
    counted = [table[table["role"] == EXPLORATORY] for table in chosen]
    found: dict[str, list[bool]] = {
        "any q below 0.05 in a family": families.tolist(),
        "any q below 0.05 in a study": [bool((table["q"] < 0.05).any()) for table in counted],
        "any exploratory finding in a study": [bool(table["finding"].any()) for table in counted],
        "the primary hypothesis of a study": [
            bool(table.loc[table["role"] == PRIMARY, "finding"].any()) for table in chosen
        ],
    }
    return {name: (float(np.mean(values)), len(values)) for name, values in found.items()}
