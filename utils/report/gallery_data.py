"""What the gallery knows of each image: every score that some stage has written, in columns over one list of images."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.core.caveats import Caveats
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.tables import models_with, output_file, read_table

_TEXTS = ("category", "subcategory", "split")
_SCORE = "memorability"
DIGITS = 5  # significant ones: enough to sort by and to read, a third of the bytes


class Source(NamedTuple):
    """A table that scores images.

    Attributes:
        table: Its name in :data:`utils.core.contract.TABLES`.
        group: What its columns are, as a heading.
        without: Columns that say nothing of the image.
        names: Names under which columns stand in the gallery, where their own says too little there.
    """

    table: str
    group: str
    without: tuple[str, ...] = ()
    names: dict[str, str] = {}


SOURCES = (
    Source("test_loss", "Reconstruction error"),
    Source("exposures", "At its single exposure", ("order",), {"loss": "exposure loss"}),
    Source("distinctiveness", "Latent distinctiveness"),
    Source("distinctiveness_measures", "Distinctiveness by other measures"),
    Source("mlp_predictions", "Prediction"),
    Source("ig", "Attribution", ("prediction", "steps")),
    Source("rivals", "Detail without a network", ("pca_components", "image_size")),
    Source("image_features", "Image features"),
)


@dataclass
class ImageScores:
    """All images that some table knows, and what the tables say of them.

    Attributes:
        ids: Their ``image_id``, sorted.
        texts: ``category``, ``subcategory`` and ``split``, where some image has one.
        columns: One dict per score: ``key, label, group, unit, meaning`` and ``values`` (NaN where there is none).
        rows: By (table, model): the row of each image in that table, -1 where it has none.
        nearest: By model: the place in ``ids`` of the image with the nearest code, -1 where there is none.
        caveats: What the tables say of themselves.
        missing: What could not be read, and why.
    """

    ids: list[str]
    texts: dict[str, list[str]] = field(default_factory=dict)
    columns: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    nearest: dict[str, list[int]] = field(default_factory=dict)
    caveats: Caveats = field(default_factory=Caveats)
    missing: list[str] = field(default_factory=list)

    @property
    def scored(self) -> bool:
        """Whether any image has a memorability score."""
        return any(column["key"] == _SCORE for column in self.columns)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many images each table has, by (table, model)."""
        found = {key: sum(row >= 0 for row in rows) for key, rows in self.rows.items()}
        return {("splits", ""): len(self.ids), **found}


def read_scores(output_path: Path) -> ImageScores:
    """Collect every score of every image in an output folder.

    Args:
        output_path: The output folder; any table may be missing.

    Returns:
        The scores; without images where no table names one.
    """
    missing: list[str] = []
    tables = list(_tables(output_path, missing))
    splits = list(_read(output_file(output_path, "splits"), "splits", missing))
    frames = [*splits, *(frame for _, _, frame in tables)]
    ids = sorted({image_id for frame in frames for image_id in frame["image_id"]})
    scores = ImageScores(ids, missing=missing)
    index = pd.Index(ids)
    for name in _TEXTS:
        texts = _first_known(frames, name, index).fillna("").tolist()
        if any(texts):
            scores.texts[name] = texts
    memorability = _first_known(frames, _SCORE, index)
    if memorability.notna().any():
        about = "how well people recognised the image; larger: remembered better"
        scores.columns.append(_column(_SCORE, _SCORE, "Memorability", "score", about, memorability))
    several = {source.table for source, _, _ in tables if sum(other is source for other, _, _ in tables) > 1}
    for source, model, frame in tables:
        scores.caveats |= Caveats.of_table(frame)
        places = pd.Series(range(len(frame)), index=frame["image_id"]).reindex(index)
        scores.rows[source.table, model] = places.fillna(-1).astype(int).tolist()
        scores.columns += _columns(source, model if source.table in several else "", frame, index)
        if "nearest_image_id" in frame:
            nearest = frame.set_index("image_id")["nearest_image_id"].reindex(index).fillna("")
            scores.nearest[model] = index.get_indexer(nearest).tolist()
    return scores


def _read(path: Path, table: str, missing: list[str]) -> Iterator[pd.DataFrame]:
    """Yield a table that is there and can be read; note what is wrong with one that cannot."""
    if path.exists():
        try:
            yield read_table(path, table)
        except UserError as error:
            missing.append(str(error))


def _tables(output_path: Path, missing: list[str]) -> Iterator[tuple[Source, str, pd.DataFrame]]:
    """Yield every table that scores images, with its model (empty where there is one for all)."""
    for source in SOURCES:
        per_model = "{model}" in TABLES[source.table].file
        for model in models_with(output_path, source.table) if per_model else [""]:
            for frame in _read(output_file(output_path, source.table, model), source.table, missing):
                if "model" in frame:  # one table, a row per image and model
                    yield from ((source, str(name), rows) for name, rows in frame.groupby("model"))
                else:
                    yield source, model, frame


def _first_known(frames: list[pd.DataFrame], name: str, index: pd.Index) -> pd.Series:
    """Each image's value in the first table that has one."""
    found = pd.Series(index=index, dtype=object)
    for frame in frames:
        if name in frame:
            found = found.where(
                found.notna() & (found != ""), frame.set_index("image_id")[name].reindex(index)
            )
    return found


def _columns(source: Source, model: str, frame: pd.DataFrame, index: pd.Index) -> Iterator[dict[str, Any]]:
    """Yield the declared numbers of a table that some image has."""
    indexed = frame.set_index("image_id")
    for declared in TABLES[source.table].columns:
        name = declared.name
        if declared.kind == "text" or name not in indexed or name in (_SCORE, *source.without):
            continue
        values = indexed[name].reindex(index)
        if declared.kind == "bool":
            values = values.map({True: 1, False: 0, "True": 1, "False": 0})
        if values.notna().any():
            label = source.names.get(name, name)
            key = f"{label}@{model}" if model else label
            group = f"{source.group}: {model}" if model else source.group
            yield _column(key, label, group, declared.unit, declared.meaning, values)
    if source.table == "mlp_predictions":
        about = "predicted less observed memorability; larger: predicted too high (taken here from the two)"
        miss = (indexed["prediction"] - indexed[_SCORE]).reindex(index)
        group = f"{source.group}: {model}" if model else source.group
        yield _column(f"miss@{model}" if model else "miss", "miss", group, "score", about, miss)


def _column(key: str, label: str, group: str, unit: str, meaning: str, values: pd.Series) -> dict[str, Any]:
    numbers = values.astype(float).tolist()
    return {"key": key, "label": label, "group": group, "unit": unit, "meaning": meaning, "values": numbers}


def original_folders(output_path: Path, ids: list[str], folders: list[Path]) -> dict[str, str]:
    """Find where the files of the images are, as the page would address them.

    Args:
        output_path: Where the page stands.
        ids: ``image_id`` of the images.
        folders: Folders that stages read pictures from.

    Returns:
        By folder part of ``image_id``: the folder relative to the page, with forward slashes. Empty for images whose
        files are no longer there.
    """
    import os

    first = {posixpath.dirname(image_id): posixpath.basename(image_id) for image_id in reversed(ids)}
    found = {}
    for part, name in first.items():
        for folder in folders:
            if f"/{folder.as_posix()}".endswith(f"/{part}".rstrip("/")) and (folder / name).is_file():
                try:
                    found[part] = Path(os.path.relpath(folder, output_path)).as_posix()
                except ValueError:  # another drive
                    continue
                break
    return found


def as_script(content: dict[str, Any], columns: list[dict[str, Any]]) -> str:
    """Return the data as a script that a page opened from disk may load: ``window.GALLERY = {...}``.

    Args:
        content: What JSON can hold.
        columns: See :class:`ImageScores`; their numbers are shortened to five significant digits.
    """
    made = []
    for column in columns:
        about = {name: value for name, value in column.items() if name != "values"}
        numbers = ",".join(_number(value) for value in column["values"])
        made.append(f'{json.dumps(about)[:-1]},"values":[{numbers}]}}')
    # ASCII throughout: names that are no UTF-8 stay what they are, and no line separator can end the script early.
    return f'window.GALLERY = {json.dumps(content)[:-1]},"columns":[{",".join(made)}]}};\n'


def _number(value: float) -> str:
    return f"{value:.{DIGITS}g}" if math.isfinite(value) else "null"
