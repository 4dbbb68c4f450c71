"""What ``category_plot.py`` draws: the study's tables, by category, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES, SPLITS
from utils.core.tables import models_with, output_file
from utils.statistics.correlation_tables import (
    correlation_rows,
    correlations_by_category,
    find_clusters,
    mean_interval,
)

if TYPE_CHECKING:
    from utils.core.run import Run


NO_CATEGORY = "(no category)"
ALL_IMAGES = "all images"
MEMORABILITY = "memorability"
DISTANCES = ("distinctiveness", "category_centroid_distance", "global_centroid_distance")
INTERVALS = ("ci_low", "ci_high", "ci_low_independent", "ci_high_independent")
_PERCENTILES = {"minimum": 0, "p05": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "maximum": 100}


@dataclass(frozen=True)
class Study:
    """The tables of an output folder that have categories.

    Attributes:
        images: One row per image: ``image_id, category, memorability``; ``subcategory, split, group`` (empty if unknown).
        losses: Per model, ``image_id, category, memorability`` and the losses.
        distances: Per model, the same with the measures of distinctiveness.
    """

    images: pd.DataFrame
    losses: dict[str, pd.DataFrame]
    distances: dict[str, pd.DataFrame]


def read_study(run: Run, categories: Sequence[str] | None, measures: Sequence[str] | None) -> Study:
    """Read what is in the output folder, say what is not, and keep the categories and measures asked for.

    Args:
        run: The run, for its output folder and caveats.
        categories: Categories to keep; all when None.
        measures: Measures to keep; memorability, the losses and distinctiveness when None.

    Raises:
        UserError: If there is nothing to read, a category is unknown, or a measure asked for is nowhere.
    """
    folder = run.output_path
    splits = {"": _read(run, "splits", None)} if output_file(folder, "splits").exists() else {}
    losses = {name: _read(run, "test_loss", name) for name in models_with(folder, "test_loss")}
    names = models_with(folder, "distinctiveness")
    distances = {name: _read(run, "distinctiveness", name) for name in names}
    named = {
        output_file(folder, table, model or None).name: frame
        for table, frames in (("splits", splits), ("test_loss", losses), ("distinctiveness", distances))
        for model, frame in frames.items()
    }
    images = _images(named, folder)
    if images["memorability"].isna().all():
        raise UserError(
            f"The images of {folder} have no memorability scores (and so no categories), by which this stage draws. Name "
            "their table with --scores-csv in the stages before it."
        )
    for present, file, command in (
        (splits, "splits.csv", "any stage that reads the images"),
        (losses, "test_loss_<model>.csv", "python autoencoder_test.py"),
        (distances, "distinctiveness_<model>.csv", "python latent_analysis.py"),
    ):
        if not present:
            log.info("Skipped: %s is not in %s (written by: %s).", file, folder, command)
    if measures is not None:
        _check_measures(measures, [*losses.values(), *distances.values()], folder)
    wanted = [*LOSSES, DISTANCES[0]] if measures is None else list(measures)
    losses = {name: _keep(frame, [m for m in LOSSES if m in wanted]) for name, frame in losses.items()}
    distances = {
        name: _keep(frame, [m for m in DISTANCES if m in wanted]) for name, frame in distances.items()
    }
    study = Study(
        images,
        {name: frame for name, frame in losses.items() if frame.shape[1] > 3},
        {name: frame for name, frame in distances.items() if frame.shape[1] > 3},
    )
    return study if categories is None else _choose(study, categories, folder)


def _read(run: Run, table: str, model: str | None) -> pd.DataFrame:
    """Read a table (the run takes over its caveats)."""
    frame = run.read_table(table, model)
    frame["category"] = frame["category"].replace("", NO_CATEGORY)
    return frame


def _images(tables: dict[str, pd.DataFrame], folder: Path) -> pd.DataFrame:
    """Bring together what the tables say about the images themselves; they must not contradict each other."""
    if not tables:
        raise UserError(
            f"Nothing to plot in {folder}: none of splits.csv, test_loss_<model>.csv and distinctiveness_<model>.csv is "
            "there. They are written by: python autoencoder_test.py, python latent_analysis.py"
        )
    names = ["image_id", "category", "subcategory", "memorability", "split", "group"]
    parts = [table.reindex(columns=names).assign(file=file) for file, table in tables.items()]
    stacked = pd.concat(parts, ignore_index=True)
    scores = stacked.groupby("image_id")["memorability"].agg(["min", "max"])
    differ = scores[(scores["max"] - scores["min"]) > 1e-6]
    if len(differ):
        image_id = differ.index[0]
        said = stacked[stacked["image_id"] == image_id].drop_duplicates("memorability")
        shown = ", ".join(f"{row.memorability:.4g} in {row.file}" for row in said.itertuples())
        raise UserError(
            f"The tables in {folder} disagree about the memorability of {len(differ)} images, e.g. {image_id} ({shown}): "
            "they are of other data sets or score columns. Delete the old ones and run their stages again."
        )
    # first() takes, per column, the first cell that is not missing
    known = stacked.drop(columns="file").replace({"subcategory": {"": None}, "group": {"": None}})
    images = known.groupby("image_id", sort=True).first().reset_index()
    return images.fillna({"subcategory": "", "split": "", "group": ""})


def _keep(frame: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    present = [name for name in measures if name in frame.columns and frame[name].notna().any()]
    return frame[["image_id", "category", "memorability", *present]]


def _check_measures(measures: Sequence[str], frames: list[pd.DataFrame], folder: Path) -> None:
    known = [MEMORABILITY, *LOSSES, *DISTANCES]
    present = [
        name for name in known if any(name in frame.columns for frame in frames) or name == MEMORABILITY
    ]
    missing = [name for name in measures if name not in present]
    if missing:
        raise UserError(
            f"No table in {folder} has {', '.join(missing)}. There are: {', '.join(present)}. Losses are written by "
            "python autoencoder_test.py, distances by python latent_analysis.py"
        )


def _choose(study: Study, categories: Sequence[str], folder: Path) -> Study:
    present = sorted(study.images["category"].unique())
    unknown = [name for name in categories if name not in present]
    if unknown:
        raise UserError(
            f"--categories {', '.join(unknown)}: not in the tables of {folder}. Categories there: {', '.join(present)}."
        )

    def keep(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["category"].isin(categories)].reset_index(drop=True)

    return Study(
        keep(study.images),
        {name: keep(frame) for name, frame in study.losses.items()},
        {name: keep(frame) for name, frame in study.distances.items()},
    )


# ------------------------------------------------------------------------------------------------ numbers


def with_labels(frame: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Put each image's subcategory and group, as far as they are known, beside its measures."""
    names = [
        name for name in ("subcategory", "group") if name in images.columns and name not in frame.columns
    ]
    return frame.merge(images[["image_id", *names]], on="image_id", how="left", validate="one_to_one")


def distribution_table(
    frame: pd.DataFrame,
    measures: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Summarise measures by category, and over all images last.

    Args:
        frame: One row per image, with ``category``, the measures, and ``subcategory`` or ``group`` where known.
        measures: Columns to summarise.
        resamples: Bootstrap resamples behind the interval of the mean.
        seed: Their seed.
        cluster: What is resampled as a whole (:func:`utils.statistics.clusters.find_clusters`).

    Returns:
        A row per measure and category: n, mean with 95 % interval (and that of independent images), sd, percentiles.
    """
    clustering = find_clusters(frame, cluster)
    rows = []
    for measure in measures:
        known = frame.dropna(subset=[measure])
        groups = [*known.groupby("category", sort=True), (ALL_IMAGES, known)]
        for name, group in groups:
            if group.empty or (name == ALL_IMAGES and len(groups) == 2):
                continue  # one category is all images
            values, codes = group[measure].to_numpy(float), clustering.codes(group)
            row = {"measure": measure, "category": name, "cluster": clustering.unit}
            row["clusters"] = len(values) if codes is None else len(np.unique(codes))
            row |= mean_interval(values, resamples, seed, codes)
            alone = mean_interval(values, resamples, seed)
            row |= {f"{end}_independent": alone[end] for end in ("ci_low", "ci_high")}
            row |= {key: float(np.percentile(values, at)) for key, at in _PERCENTILES.items()}
            rows.append(row)
    columns = ["measure", "category", "n", "cluster", "clusters", "mean", *INTERVALS, "sd"]
    return pd.DataFrame(rows)[[*columns, *_PERCENTILES, "resamples", "seed"]]


def rho_table(
    frame: pd.DataFrame,
    measures: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Correlate measures with memorability inside each category and, last, over all images.

    Args:
        frame: One row per image, with ``category``, ``memorability``, the measures, and ``subcategory`` or ``group``
            where known.
        measures: Columns to correlate.
        resamples: Bootstrap resamples.
        seed: Their seed.
        cluster: What is resampled as a whole (:func:`utils.statistics.clusters.find_clusters`).
    """
    options: dict[str, Any] = {"subcategory": None, "resamples": resamples, "seed": seed, "cluster": cluster}
    # By category and over all images are two claims, each a family of tests.
    parts = [correlations_by_category(frame, measures, **options)]
    if frame["category"].nunique() > 1:
        parts.append(correlation_rows(frame, measures, category=None, **options).assign(category=ALL_IMAGES))
    table = pd.concat(parts, ignore_index=True)
    order = {name: place for place, name in enumerate(measures)}
    table = table.sort_values(
        "measure", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )
    columns = [
        "measure",
        "category",
        "n",
        "cluster",
        "clusters",
        "rho",
        *INTERVALS,
        "p",
        "q",
        "p_independent",
    ]
    return table[[*columns, "resamples", "seed"]]


def split_table(images: pd.DataFrame) -> pd.DataFrame:
    """Count images by category and split, zeros included; empty where no image has a split."""
    known = images[images["split"] != ""]
    names = [name for name in SPLITS if name in set(known["split"])]
    names += sorted(set(known["split"]) - set(SPLITS))
    counts = known.groupby(["category", "split"]).size()
    rows = [
        {"category": category, "split": split, "n": int(counts.get((category, split), 0))}
        for category in sorted(known["category"].unique())
        for split in names
    ]
    return pd.DataFrame(rows, columns=["category", "split", "n"])


def subcategory_table(images: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Rank subcategories by mean memorability, the most memorable first; empty where there are none.

    The interval of a mean is of images of this very subcategory, hence of single images.
    """
    known = images[images["subcategory"] != ""]
    rows = [
        {"category": category, "subcategory": name, **mean_interval(group["memorability"], resamples, seed)}
        for (category, name), group in known.groupby(["category", "subcategory"], sort=True)
    ]
    columns = ["category", "subcategory", "n", "mean", "ci_low", "ci_high", "sd", "resamples", "seed"]
    table = pd.DataFrame(rows, columns=[*columns, "median"])[columns]
    table = table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table
