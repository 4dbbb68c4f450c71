"""Stage 5: how do categories differ in memorability, reconstruction error and distinctiveness?

Reads only tables of the output folder (splits.csv, test_loss_<model>.csv, distinctiveness_<model>.csv) and draws
what is there: distributions by category, rho by category beside the overall one, scatters, images by split,
subcategories ranked by memorability. Writes category_*.png and .pdf, each with its numbers as .csv; needs no
images, no network and no display.
"""

import argparse

from utils.core.cli import build_parser, positive_int, run_script, seed
from utils.core.names import LOSSES

MEASURES = (
    "memorability",
    *LOSSES,
    "distinctiveness",
    "category_centroid_distance",
    "global_centroid_distance",
)


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "output", "cluster")
    parser.add_argument(
        "--categories", nargs="+", metavar="CATEGORY", help="only these (default: all there are)"
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=MEASURES,
        metavar="MEASURE",
        help=f"only these, of {', '.join(MEASURES)} (default: all there are but the centroid distances)",
    )
    parser.add_argument(
        "--format", nargs="+", choices=("png", "pdf", "svg"), default=["png", "pdf"], help="file formats"
    )
    parser.add_argument("--display", action="store_true", help="show the figures, or say where they are")
    parser.add_argument(
        "--resamples", type=positive_int, default=1000, metavar="N", help="bootstrap resamples"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read the tables, draw all figures, show them if asked."""
    from utils.categories.stage import Plotter
    from utils.categories.tables import read_study
    from utils.core.device import keep_freed_memory
    from utils.core.figures import show_or_say
    from utils.core.processes import is_main_rank
    from utils.core.run import Run

    if not is_main_rank():
        return
    keep_freed_memory()
    with Run("category_plot", args) as run:
        study = read_study(run, args.categories, args.measures)
        plotter = Plotter(args, run, study)
        plotter.images()
        plotter.models()
        run.count(
            images=len(study.images),
            categories=study.images["category"].nunique(),
            figures=len(plotter.paths),
        )
    if args.display:
        pictures = [path for path in plotter.paths if path.suffix == ".png"]
        show_or_say(pictures or plotter.paths)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
