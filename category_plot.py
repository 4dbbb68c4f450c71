"""Stage 5: how do categories differ in memorability, reconstruction error and distinctiveness?

Reads only tables of the output folder (splits.csv, test_loss_<model>.csv, distinctiveness_<model>.csv) and draws
what is there: distributions by category, rho by category beside the overall one, scatters, images by split,
subcategories ranked by memorability. Writes category_*.png and .pdf, each with its numbers as .csv; needs no
images, no network and no display.
"""

import argparse
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, non_negative_int, positive_int, run_script
from utils.core.log import log
from utils.core.names import LOSSES

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from utils.categories.tables import Study
    from utils.core.run import Run

MEASURES = (
    "memorability",
    *LOSSES,
    "distinctiveness",
    "category_centroid_distance",
    "global_centroid_distance",
)


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "output")
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
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the bootstrap")
    return parser


class Plotter:
    """Draws the figures of one study, each beside its numbers."""

    def __init__(self, args: argparse.Namespace, run: "Run", study: "Study") -> None:
        self.args, self.run, self.study = args, run, study
        self.paths: list[Path] = []
        self.sampling = {"resamples": args.resamples, "seed": args.seed}

    def wants(self, measure: str) -> bool:
        """Say whether a measure is to be drawn."""
        return self.args.measures is None or measure in self.args.measures

    def save(self, figure: "Figure", table: "pd.DataFrame", name: str, model: str | None = None) -> None:
        """Write a figure and, under the same name, its numbers."""
        path = self.run.write_table(table, name, model)
        self.paths += self.run.save_figure(figure, path.stem, tuple(dict.fromkeys(self.args.format)))

    def images(self) -> None:
        """Draw what belongs to the images themselves: memorability, splits, subcategories."""
        from utils.categories.figures import draw_distributions, draw_splits, draw_subcategories
        from utils.categories.tables import distribution_table, split_table, subcategory_table

        images = self.study.images
        if self.wants("memorability"):
            table = distribution_table(images, ["memorability"], **self.sampling)
            self.save(
                draw_distributions(images, table, "Memorability by category"), table, "category_memorability"
            )
            ranks = subcategory_table(images, **self.sampling)
            if len(ranks):
                self.save(draw_subcategories(ranks), ranks, "category_subcategories")
            else:
                log.info("Skipped: the images have no subcategories to rank.")
        counts = split_table(images)
        if len(counts):
            self.save(draw_splits(counts), counts, "category_splits")
        else:
            log.info("Skipped: the images have no splits to count (splits.csv is not there).")

    def models(self) -> None:
        """Draw the measures of every model."""
        from utils.categories.figures import draw_distributions
        from utils.categories.tables import distribution_table

        kinds = (
            (self.study.losses, "category_losses", "Reconstruction error by category"),
            (self.study.distances, "category_distinctiveness", "Distinctiveness by category"),
        )
        for frames, name, title in kinds:
            for model, frame in frames.items():
                table = distribution_table(frame, list(frame.columns[3:]), **self.sampling)
                self.save(draw_distributions(frame, table, f"{title}: {model}"), table, name, model)
        for model in sorted({*self.study.losses, *self.study.distances}):
            self.correlations(model)

    def correlations(self, model: str) -> None:
        """Draw rho by category and the scatters behind it, of all measures of a model."""
        from utils.categories.figures import draw_rho, draw_scatters
        from utils.categories.tables import rho_table

        frames = [frames[model] for frames in (self.study.losses, self.study.distances) if model in frames]
        frame = frames[0]
        for other in frames[1:]:
            keys = ["image_id", "category", "memorability"]
            frame = frame.merge(
                other.drop(columns=keys[1:]), on="image_id", how="outer", validate="one_to_one"
            )
            known = other.set_index("image_id")
            for key in keys[1:]:
                frame[key] = frame[key].fillna(frame["image_id"].map(known[key]))
        measures = [name for name in frame.columns if name not in {"image_id", "category", "memorability"}]
        table = rho_table(frame, measures, **self.sampling)
        self.save(draw_rho(table, f"Correlation with memorability: {model}"), table, "category_rho", model)
        figure = draw_scatters(frame, table, f"Memorability by category: {model}")
        self.save(figure, frame, "category_scatter", model)


def main(args: argparse.Namespace) -> None:
    """Read the tables, draw all figures, show them if asked."""
    from utils.categories.tables import read_study
    from utils.core.figures import show_or_say
    from utils.core.processes import is_main_rank
    from utils.core.run import Run

    if not is_main_rank():
        return
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
    run_script(main, get_parser)
