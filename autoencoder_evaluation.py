"""Stage 3: how well reconstruction error follows memorability, by every loss and model.

Read: test_loss_<model>.csv and exposures_<model>.csv in the output folder (or any table of losses, --table),
and the score table for response counts and categories. Done: Spearman's rho, with the interval and p-value of
resampled subcategories (--cluster) beside those of independent images; the same with categories, subcategories, and
picture size and source held constant; the noise ceiling; slopes within and between subcategories (a mixed model); paired
comparisons of losses and models. No network is needed. Written: loss_correlations.csv,
loss_correlations_by_category.csv, loss_comparisons.csv, mixed_model.csv, loss_forest, loss_scatter_<model> and
reliability as .png and .pdf.
"""

import argparse
from pathlib import Path

from utils.core.cli import build_parser, positive_int, run_script, seed
from utils.core.errors import UserError
from utils.core.names import LOSSES


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this stage."""
    parser = build_parser(__doc__, "data", "output", "models", "cluster")
    own = parser.add_argument_group("evaluation")
    own.add_argument(
        "--table",
        type=Path,
        metavar="PATH",
        help="evaluate this CSV (image_id or image_file, a score column, loss columns; any of category, subcategory, group, "
        "source, hits, false_alarms, n_resp) in place of the study's tables",
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
    own.add_argument(
        "--second-score-column",
        metavar="COLUMN",
        help="scores by other people in the same score table: every loss with both, in group_correlations.csv",
    )
    own.add_argument(
        "--second-counts",
        nargs=3,
        metavar="COLUMN",
        help="their hits, false alarms and responses, for their reliability",
    )
    own.add_argument("--seed", type=seed, default=0, help="seed of resamples and halves")
    return parser


def main(args: argparse.Namespace) -> None:
    """Evaluate the losses, write the tables, draw the figures."""
    from utils.core.device import keep_freed_memory
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.reconstruction import evaluation_stage as stage
    from utils.reconstruction.second_group import compare_people

    if not is_main_rank():
        return
    if args.second_counts and args.second_score_column is None:
        raise UserError("--second-counts belong to --second-score-column COLUMN: name the scores they make.")
    if args.table is not None:
        stage.protect_study(args)
    keep_freed_memory()
    with Run("autoencoder_evaluation", args) as run:
        losses = stage.read_losses(run, args)
        correlations = stage.loss_correlations(losses, args)
        by_category = stage.loss_correlations_by_category(losses, args)
        comparisons = stage.loss_comparisons(losses, args)
        slopes = stage.loss_slopes(losses, args)
        run.write_table(correlations, "loss_correlations")
        run.write_table(by_category, "loss_correlations_by_category")
        run.write_table(comparisons, "loss_comparisons")
        run.write_table(slopes, "mixed_model")
        stage.draw_losses(run, losses, correlations, args)
        stage.summarise(correlations, slopes, comparisons)
        if args.second_score_column is not None:
            compare_people(run, args, losses)
        run.count(images=len(losses.frame), measures=len(losses.measures))


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
