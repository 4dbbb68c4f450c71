"""The work of ``autoencoder_evaluation.py``: correlations and comparisons of losses, their figures, what came out."""

import itertools
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import RIVAL_MODEL
from utils.core.run import Run
from utils.core.tables import models_with
from utils.reconstruction.figures import draw_forest, draw_reliability, draw_scatter
from utils.reconstruction.foreign_table import read_foreign
from utils.reconstruction.loss_tables import LossTable, read_study_losses
from utils.statistics.clusters import PLURALS
from utils.statistics.correlation_tables import (
    MIN_IMAGES,
    add_q,
    correlation_rows,
    correlations_by_category,
    find_clusters,
    paired_difference,
)
from utils.statistics.mixed_model import WITHIN, mixed_model_rows
from utils.statistics.noise_ceiling import reliability_columns


def read_losses(run: Run, args: Namespace) -> LossTable:
    """Read the table named by ``--table``, or else the study's own, and check that it holds enough."""
    losses = read_foreign(run, args) if args.table is not None else read_study_losses(run, args)
    check_enough(losses, args.table or args.output_path)
    return losses


def protect_study(args: Namespace) -> None:
    """Refuse to replace the evaluation of a study by that of another table.

    Raises:
        UserError: The output folder holds this study's losses and --overwrite was not given.
    """
    if not args.overwrite and models_with(args.output_path, "test_loss"):
        raise UserError(
            f"{args.output_path} holds a study (test_loss_*.csv), whose loss_correlations.csv would be replaced by the "
            f"evaluation of {args.table}. Choose another folder, e.g. --output-path {args.table.stem}_evaluation, or add "
            "--overwrite."
        )


def check_enough(losses: LossTable, place: Path) -> None:
    """Refuse to evaluate too few images, and say what cannot be held constant.

    Raises:
        UserError: Fewer images than a rank correlation needs to mean anything.
    """
    count = len(losses.frame)
    if count < MIN_IMAGES:
        raise UserError(
            f"Expected at least {MIN_IMAGES} images with losses and scores in {place}, found {count}. "
            "Compute the losses of more images, or raise --limit."
        )
    categories = sorted(set(losses.frame["category"]) - {""})
    if len(categories) < 2:
        known = f"only one category ({categories[0]})" if categories else "no category"
        log.warning(
            "There is %s in %s: nothing to hold constant, the within-category rho stays empty.", known, place
        )


def loss_correlations(losses: LossTable, args: Namespace) -> pd.DataFrame:
    """Return `loss_correlations.csv`."""
    table = correlation_rows(losses.frame, list(losses.measures), **_sampling(args), splits=args.splits)
    return _by_claim(named(table, losses))


def loss_correlations_by_category(losses: LossTable, args: Namespace) -> pd.DataFrame:
    """Return `loss_correlations_by_category.csv`; without rows where no category is known."""
    if (losses.frame["category"] == "").all():
        return pd.DataFrame(
            columns=[column.name for column in TABLES["loss_correlations_by_category"].columns]
        )
    table = correlations_by_category(
        losses.frame, list(losses.measures), **_sampling(args), splits=args.splits
    )
    table = table[table["n"] > 0]  # a model tested on some categories only
    return _by_claim(named(table, losses))


def _by_claim(table: pd.DataFrame) -> pd.DataFrame:
    """Take q over the losses of all models, and over the rivals: two claims."""
    claims = table.assign(_rival=table["model"] == RIVAL_MODEL)
    return add_q(claims, ["_rival"]).drop(columns=["_rival", "target"])


def loss_slopes(losses: LossTable, args: Namespace) -> pd.DataFrame:
    """Return `mixed_model.csv`; without rows where images have no clusters."""
    clustering = find_clusters(losses.frame, args.cluster)
    table = mixed_model_rows(losses.frame, list(losses.measures), clustering)
    table = named(table, losses).assign(cluster=clustering.unit)
    table = add_q(table.assign(_rival=table["model"] == RIVAL_MODEL), ["effect", "_rival"])
    return table[[column.name for column in TABLES["mixed_model"].columns]]


def _sampling(args: Namespace) -> dict[str, Any]:
    """Return what is resampled, how often and from which seed."""
    return {"cluster": args.cluster, "resamples": args.resamples, "seed": args.seed}


def named(table: pd.DataFrame, losses: LossTable) -> pd.DataFrame:
    """Replace the measure columns' names by model and loss, in the order of models."""
    order = {column: place for place, column in enumerate(losses.measures)}
    table = table.sort_values("measure", key=lambda names: names.map(order), kind="stable")
    table = table.assign(
        model=[losses.measures[column][0] for column in table["measure"]],
        measure=[losses.measures[column][1] for column in table["measure"]],
    )
    return table.reset_index(drop=True)


def compared_as(model_a: str, loss_a: str, model_b: str, loss_b: str) -> str:
    """Say as what two measures are compared; empty where they are not."""
    rivals = [model_a, model_b].count(RIVAL_MODEL)
    if rivals:
        return "rivals" if rivals == 1 else ""
    return "losses" if model_a == model_b else "models" if loss_a == loss_b else ""


def loss_comparisons(losses: LossTable, args: Namespace) -> pd.DataFrame:
    """Return `loss_comparisons.csv`: losses of one model, and models by one loss."""
    pairs, kinds = [], []
    for first, second in itertools.combinations(losses.measures, 2):
        (model_a, loss_a), (model_b, loss_b) = losses.measures[first], losses.measures[second]
        kind = compared_as(model_a, loss_a, model_b, loss_b)
        if kind:
            pairs.append((first, second))
            kinds.append(kind)
    table = paired_difference(losses.frame, pairs, **_sampling(args))
    for side in ("a", "b"):
        owners = [losses.measures[column] for column in table[f"measure_{side}"]]
        table[f"model_{side}"] = [model for model, _ in owners]
        table[f"measure_{side}"] = [loss for _, loss in owners]
    table.insert(0, "comparison", kinds)
    table = add_q(table, ["comparison"])
    return table.sort_values("comparison", kind="stable").reset_index(drop=True)


def draw_losses(run: Run, losses: LossTable, correlations: pd.DataFrame, args: Namespace) -> None:
    """Draw all figures; the reliability panel only where there are counts."""
    run.save_figure(draw_forest(correlations), "loss_forest")
    for model in losses.models:
        table = correlations[correlations["model"] == model]
        figure = draw_scatter(losses.frame, losses.columns_of(model), table, model)
        run.save_figure(figure, f"loss_scatter_{model}")
    figure = draw_reliability(losses.frame, correlations, args.splits, args.seed)
    if figure is None:
        log.warning(
            "The noise ceiling is empty and reliability.png is not drawn: %s.", why_no_ceiling(losses.frame)
        )
    else:
        run.save_figure(figure, "reliability")


def why_no_ceiling(frame: pd.DataFrame) -> str:
    """Say why there is no noise ceiling."""
    known = [name for name in reliability_columns(frame) if frame[name].notna().any()]
    halves = [name for name in known if name.startswith("half")]
    if halves:
        return f"the scores are not the means of their split halves ({halves[0]}, ...), which must be of the same images"
    return "no hits, false alarms and responses were found that explain the scores"


def summarise(correlations: pd.DataFrame, slopes: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """Say the result in a line per model and loss."""
    for row in correlations.itertuples():
        if math.isnan(row.rho):
            log.info("%s, %s: rho is undefined (n = %d)", row.model, row.measure, row.n)
            continue
        text = f"{row.model}, {row.measure}: rho = {row.rho:.3f} {_between(row.ci_low, row.ci_high)}, n = {row.n}"
        if row.cluster != "image":
            alone = _between(row.ci_low_independent, row.ci_high_independent)
            text += f" from {row.clusters} {PLURALS[row.cluster]} (if images were independent {alone})"
        if not math.isnan(row.rho_within_category):
            ends = _between(row.ci_low_within_category, row.ci_high_within_category)
            text += f", within category {row.rho_within_category:.3f} {ends}"
        if not math.isnan(row.rho_over_ceiling):
            text += f", {100 * row.rho_over_ceiling:.0f} % of the noise ceiling {row.ceiling:.3f}"
        log.info("%s", text)
    for row in slopes[slopes["effect"] == WITHIN].itertuples():
        if not math.isnan(row.slope):
            ends = _between(row.ci_low, row.ci_high)
            log.info(
                "%s, %s: slope within %s %.3f %s",
                row.model,
                row.measure,
                PLURALS[row.cluster],
                row.slope,
                ends,
            )
    if len(comparisons):
        differ = int((comparisons["q"] < 0.05).sum())
        log.info("%d of %d compared pairs of correlations differ (q < 0.05)", differ, len(comparisons))


def _between(low: float, high: float) -> str:
    """Write an interval, or that there is none."""
    return "[no interval]" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"
