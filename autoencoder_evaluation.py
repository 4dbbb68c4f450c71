"""Stage 3: how well reconstruction error follows memorability, by every loss and model.

Read: test_loss_<model>.csv and exposures_<model>.csv in the output folder (or any table of losses, --table),
and the score table for response counts and categories. Done: Spearman's rho with bootstrap interval, the same
with categories held constant, the noise ceiling, and paired comparisons of losses and models; no network is
needed. Written: loss_correlations.csv, loss_correlations_by_category.csv, loss_comparisons.csv, loss_forest,
loss_scatter_<model> and reliability as .png and .pdf.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, non_negative_int, positive_int, run_script
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES

if TYPE_CHECKING:
    import pandas as pd

    from utils.core.run import Run
    from utils.reconstruction.loss_tables import LossTable


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this stage."""
    parser = build_parser(__doc__, "data", "output", "models")
    own = parser.add_argument_group("evaluation")
    own.add_argument(
        "--table",
        type=Path,
        metavar="PATH",
        help="evaluate this CSV (image_id or image_file, a score column, loss columns) in place of the study's tables",
    )
    own.add_argument(
        "--loss-columns",
        nargs="+",
        metavar="COLUMN",
        help=f"losses to evaluate (all that are known and there: {', '.join(LOSSES)})",
    )
    own.add_argument(
        "--resamples", type=positive_int, default=1000, metavar="N", help="bootstrap resamples of the images"
    )
    own.add_argument(
        "--splits", type=positive_int, default=50, metavar="N", help="random halves behind the noise ceiling"
    )
    own.add_argument("--seed", type=non_negative_int, default=0, help="seed of resamples and halves")
    return parser


def main(args: argparse.Namespace) -> None:
    """Evaluate the losses, write the tables, draw the figures."""
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.reconstruction.foreign_table import read_foreign
    from utils.reconstruction.loss_tables import read_study

    if not is_main_rank():
        return
    if args.table is not None:
        protect_study(args)
    with Run("autoencoder_evaluation", args) as run:
        losses = read_foreign(run, args) if args.table is not None else read_study(run, args)
        check_enough(losses, args.table or args.output_path)
        correlations = correlate(losses, args)
        by_category = correlate_by_category(losses, args)
        comparisons = compare(losses, args)
        run.write_table(correlations, "loss_correlations")
        run.write_table(by_category, "loss_correlations_by_category")
        run.write_table(comparisons, "loss_comparisons")
        draw(run, losses, correlations, args)
        summarise(correlations, comparisons)
        run.count(images=len(losses.frame), measures=len(losses.measures))


def protect_study(args: argparse.Namespace) -> None:
    """Refuse to replace the evaluation of a study by that of another table.

    Raises:
        UserError: The output folder holds this study's losses and --overwrite was not given.
    """
    from utils.core.tables import models_with

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
    from utils.statistics.correlation_tables import MIN_IMAGES

    count = len(losses.frame)
    if count < MIN_IMAGES:
        raise UserError(
            f"Expected at least {MIN_IMAGES} images with losses and scores in {place}, found {count}. "
            "Compute the losses of more images, or raise --limit."
        )
    categories = sorted(set(losses.frame["category"]) - {""})
    if len(categories) < 2:
        found = f"only one category ({categories[0]})" if categories else "no category"
        log.warning(
            "There is %s in %s: nothing to hold constant, the within-category rho stays empty.", found, place
        )


def correlate(losses: LossTable, args: argparse.Namespace) -> pd.DataFrame:
    """Return `loss_correlations.csv`."""
    from utils.statistics.correlation_tables import correlation_rows

    table = correlation_rows(
        losses.frame, list(losses.measures), resamples=args.resamples, seed=args.seed, splits=args.splits
    )
    return named(table, losses).drop(columns="target")


def correlate_by_category(losses: LossTable, args: argparse.Namespace) -> pd.DataFrame:
    """Return `loss_correlations_by_category.csv`; without rows where no category is known."""
    import pandas as pd

    from utils.core.contract import TABLES
    from utils.statistics.correlation_tables import correlations_by_category

    if (losses.frame["category"] == "").all():
        return pd.DataFrame(
            columns=[column.name for column in TABLES["loss_correlations_by_category"].columns]
        )
    table = correlations_by_category(
        losses.frame, list(losses.measures), resamples=args.resamples, seed=args.seed, splits=args.splits
    )
    table = table[table["n"] > 0]  # a model tested on some categories only
    return named(table, losses).drop(columns="target")


def named(table: pd.DataFrame, losses: LossTable) -> pd.DataFrame:
    """Replace the measure columns' names by model and loss, in the order of models."""
    order = {column: place for place, column in enumerate(losses.measures)}
    table = table.sort_values("measure", key=lambda names: names.map(order), kind="stable")
    table = table.assign(
        model=[losses.measures[column][0] for column in table["measure"]],
        measure=[losses.measures[column][1] for column in table["measure"]],
    )
    return table.reset_index(drop=True)


def compare(losses: LossTable, args: argparse.Namespace) -> pd.DataFrame:
    """Return `loss_comparisons.csv`: losses of one model, and models by one loss."""
    from utils.statistics.correlation_tables import paired_difference

    pairs, kinds = [], []
    for first, second in itertools.combinations(losses.measures, 2):
        (model_a, loss_a), (model_b, loss_b) = losses.measures[first], losses.measures[second]
        if model_a == model_b or loss_a == loss_b:
            pairs.append((first, second))
            kinds.append("losses" if model_a == model_b else "models")
    table = paired_difference(losses.frame, pairs, resamples=args.resamples, seed=args.seed)
    for side in ("a", "b"):
        owners = [losses.measures[column] for column in table[f"measure_{side}"]]
        table[f"model_{side}"] = [model for model, _ in owners]
        table[f"measure_{side}"] = [loss for _, loss in owners]
    table.insert(0, "comparison", kinds)
    return table.sort_values("comparison", kind="stable").reset_index(drop=True)


def draw(run: Run, losses: LossTable, correlations: pd.DataFrame, args: argparse.Namespace) -> None:
    """Draw all figures; the reliability panel only where there are counts."""
    from utils.reconstruction.figures import draw_forest, draw_reliability, draw_scatter

    run.save_figure(draw_forest(correlations), "loss_forest")
    for model in losses.models:
        table = correlations[correlations["model"] == model]
        figure = draw_scatter(losses.frame, losses.columns_of(model), table, model)
        run.save_figure(figure, f"loss_scatter_{model}")
    figure = draw_reliability(losses.frame, correlations, args.splits, args.seed)
    if figure is None:
        log.warning(
            "The noise ceiling is empty and reliability.png is not drawn: no hits, false alarms and responses were found "
            "that explain the scores."
        )
    else:
        run.save_figure(figure, "reliability")


def summarise(correlations: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """Say the result in a line per model and loss."""
    for row in correlations.itertuples():
        if math.isnan(row.rho):
            log.info("%s, %s: rho is undefined (n = %d)", row.model, row.measure, row.n)
            continue
        text = f"{row.model}, {row.measure}: rho = {row.rho:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}], n = {row.n}"
        if not math.isnan(row.rho_within_category):
            text += f", within category {row.rho_within_category:.3f}"
        if not math.isnan(row.rho_over_ceiling):
            text += f", {100 * row.rho_over_ceiling:.0f} % of the noise ceiling {row.ceiling:.3f}"
        log.info("%s", text)
    if len(comparisons):
        differ = int((comparisons["q"] < 0.05).sum())
        log.info("%d of %d compared pairs of correlations differ (q < 0.05)", differ, len(comparisons))


if __name__ == "__main__":
    run_script(main, get_parser)
