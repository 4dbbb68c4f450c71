"""The work of ``category_plot.py``: which figures a study's tables allow, each saved beside its numbers."""

from argparse import Namespace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from utils.categories.figures import (
    draw_distributions,
    draw_rho,
    draw_scatters,
    draw_splits,
    draw_subcategories,
)
from utils.categories.tables import (
    Study,
    distribution_table,
    rho_table,
    split_table,
    subcategory_table,
    with_labels,
)
from utils.core.log import log
from utils.core.run import Run


class Plotter:
    """Draws the figures of one study, each beside its numbers."""

    def __init__(self, args: Namespace, run: Run, study: Study) -> None:
        self.args, self.run, self.study = args, run, study
        self.paths: list[Path] = []
        self.sampling = {"resamples": args.resamples, "seed": args.seed}
        self.inference = {**self.sampling, "cluster": args.cluster}

    def wants(self, measure: str) -> bool:
        """Say whether a measure is to be drawn."""
        return self.args.measures is None or measure in self.args.measures

    def save(self, figure: Figure, table: pd.DataFrame, name: str, model: str | None = None) -> None:
        """Write a figure and, under the same name, its numbers."""
        path = self.run.write_table(table, name, model)
        self.paths += self.run.save_figure(figure, path.stem, tuple(dict.fromkeys(self.args.format)))

    def images(self) -> None:
        """Draw what belongs to the images themselves: memorability, splits, subcategories."""
        images = self.study.images
        if self.wants("memorability"):
            table = distribution_table(images, ["memorability"], **self.inference)
            self.save(
                draw_distributions(images, table, "Memorability scores"), table, "category_memorability"
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
        kinds = (
            (self.study.losses, "category_losses", "Reconstruction error"),
            (self.study.distances, "category_distinctiveness", "Distinctiveness"),
        )
        for frames, name, title in kinds:
            for model, frame in frames.items():
                labelled = with_labels(frame, self.study.images)
                table = distribution_table(labelled, list(frame.columns[3:]), **self.inference)
                self.save(draw_distributions(frame, table, f"{title} ({model})"), table, name, model)
        for model in sorted({*self.study.losses, *self.study.distances}):
            self.correlations(model)

    def correlations(self, model: str) -> None:
        """Draw rho by category and the scatters behind it, of all measures of a model."""
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
        table = rho_table(with_labels(frame, self.study.images), measures, **self.inference)
        self.save(
            draw_rho(table, f"Rank correlation with memorability ({model})"), table, "category_rho", model
        )
        figure = draw_scatters(
            frame, table, f"Memorability against reconstruction error and distinctiveness ({model})"
        )
        self.save(figure, frame, "category_scatter", model)
