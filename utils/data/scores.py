"""Score tables in the dialects people have them in: MemCat's, ``path,score``, LaMem's, LNSIM's."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import DEFAULT_SCORE_COLUMN, HALF_PATTERN, SPLITS
from utils.core.tables import read_csv, to_numbers
from utils.data.lnsim import holds_lnsim_scores, read_lnsim
from utils.data.lnsim import score_files as lnsim_files
from utils.data.matching import plain_names
from utils.data.user_tables import UserTable, read_user_table, to_scores
from utils.data.user_tables import score_column as find_score_column

COUNT_COLUMNS = {
    "H": "hits",
    "FA": "false_alarms",
    "hits": "hits",
    "false_alarms": "false_alarms",
    "n_resp": "n_resp",
}

SIZE_COLUMNS = (("current_height", "current_width"), ("height", "width"))
LABELS = ("category", "subcategory", "group", "source")

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def _read_memcat_like(table: UserTable) -> tuple[pd.Series, str]:
    """Return the image ids of a table in MemCat's form or with a column that names pictures, and that column's name."""
    frame = table.frame
    folders = ["category", "subcategory"]
    if "image_file" in frame.columns and set(folders) <= set(frame.columns):
        return frame["category"] + "/" + frame["subcategory"] + "/" + frame["image_file"], "image_file"
    column = table.column("image")
    if column is None:
        missing = [name for name in ("image_file", *folders) if name not in frame.columns]
        raise table.unclear(
            f"column {', '.join(missing)} is missing. Expected a 'path' column with a score column, or MemCat's "
            f"image_file, category, subcategory; found: {', '.join(map(str, frame.columns))}."
        )
    return pd.Series(plain_names(frame[column].astype(str)), index=frame.index), column


def _check_counts(table: pd.DataFrame, path: Path) -> None:
    known = table[["hits", "false_alarms", "n_resp"]].dropna()
    wrong = (
        (known < 0).any(axis=1)
        | (known.round() != known).any(axis=1)
        | (known["hits"] > known["n_resp"])
        | (known["false_alarms"] > known["n_resp"])
    )
    if wrong.any():
        row = known.index[wrong][0]
        raise UserError(
            f"{path}: hits and false alarms must be whole numbers between 0 and n_resp; line {row + 2} has "
            f"{', '.join(f'{name} {known.at[row, name]:g}' for name in known.columns)}. Correct the file."
        )


def read_counts(frame: pd.DataFrame, path: Path) -> dict[str, pd.Series]:
    """Return the response counts that a table has: any of ``hits, false_alarms, n_resp``.

    Raises:
        UserError: If they are no counts, or do not add up.
    """
    counts = {
        target: to_numbers(frame[source], path, allow_empty=True)
        for source, target in COUNT_COLUMNS.items()
        if source in frame.columns
    }
    if len(counts) == len(set(COUNT_COLUMNS.values())):
        _check_counts(pd.DataFrame(counts), path)
    return counts


def pixel_counts(frame: pd.DataFrame, path: Path) -> pd.Series | None:
    """Return how many pixels each image has by a table's columns on its size; None where it has none."""
    if "pixel_count" in frame.columns:
        return to_numbers(frame["pixel_count"], path, allow_empty=True)
    for sides in SIZE_COLUMNS:
        if set(sides) <= set(frame.columns):
            height, width = (to_numbers(frame[side], path, allow_empty=True) for side in sides)
            return height * width
    return None


def half_names(frame: pd.DataFrame) -> list[str]:
    """Return the columns that hold published split halves of the score."""
    return [name for name in frame.columns if re.fullmatch(HALF_PATTERN, str(name))]


def score_files(path: Path) -> list[Path]:
    """Return the files that a score table consists of: itself, or those of a folder in LaMem's or LNSIM's form."""
    if not path.is_dir():
        return [path]
    return lnsim_files(path) if holds_lnsim_scores(path) else _lamem_files(path)


def read_scores(
    path: Path,
    score_column: str = DEFAULT_SCORE_COLUMN,
    group_column: str | None = None,
    scale: str = "unit",
) -> tuple[pd.DataFrame, str]:
    """Read a score table of any known form, by header and never by position.

    Args:
        path: MemCat's table, a CSV or Excel file with ``path`` and a score column (see `utils.data.user_tables` for the
            dialects and the names of columns; optionally ``category, subcategory, group, source,
            split, hits, false_alarms, n_resp``, or ``half1_split01, half2_split01`` ... with the scores of split halves), a
            LaMem split file, LaMem's folder of split files, or LNSIM's folder ``Random_splits``.
        score_column: The column with the scores; ``score`` is taken if the default one is absent.
        group_column: The column that says which images belong together (crops of one photograph, near-duplicates);
            ``group`` where there is one when left out.
        scale: ``unit`` or ``percent`` (``--score-scale``).

    Returns:
        The table (``image_id, category, subcategory, group, source, memorability, pixel_count, hits, false_alarms, n_resp,
        split``, and the columns of published halves where there are any, in the file's order) and the name of the score
        column used.

    Raises:
        UserError: If columns are missing, scores are not numbers in [-1, 1], or counts do not add up.
    """
    if path.is_dir() and holds_lnsim_scores(path):
        return _without(read_lnsim(path), *LABELS, "split"), "mean hit rate"
    if path.is_dir() or path.suffix == ".txt":
        return _read_lamem(path, scale), "score"
    text = ["path", "image_file", *LABELS, "split", *([group_column] if group_column else [])]
    read = read_user_table(path, text)
    frame = read.frame
    if group_column is not None and group_column not in frame.columns:
        raise UserError(
            f"{path}: there is no column '{group_column}' to group images by. Choose another with --group-column; found: "
            f"{', '.join(map(str, frame.columns))}."
        )
    name = find_score_column(read, score_column)
    ids, images = _read_memcat_like(read)
    if images != "image_file":
        log.info(
            "%s", read.understood(images=images, scores=name) + (" in per cent" if scale == "percent" else "")
        )
    table = pd.DataFrame({"image_id": ids})
    for column in (*LABELS, "split"):
        name_there = (group_column or column) if column == "group" else column
        table[column] = frame[name_there].str.strip() if name_there in frame.columns else ""
    table["memorability"] = to_scores(frame[name], path, scale)
    table["pixel_count"] = np.nan
    table[["hits", "false_alarms", "n_resp"]] = np.nan
    pixels = pixel_counts(frame, path)
    known = read_counts(frame, path) | ({} if pixels is None else {"pixel_count": pixels})
    table = table.assign(**known)
    for column in half_names(frame):
        table[column] = to_numbers(frame[column], path, allow_empty=True)
    unknown = sorted(set(table["split"].str.lower()) - SPLIT_NAMES.keys() - {""})
    if unknown:
        raise UserError(
            f"{path}: column split holds '{unknown[0]}'; expected train, val or test (or an empty cell)."
        )
    table["split"] = table["split"].str.lower().map(SPLIT_NAMES).fillna("")
    return table, name


def _read_lamem(path: Path, scale: str) -> pd.DataFrame:
    """Read LaMem's ``name score`` lines: one file, or train_1, val_1 and test_1 of its splits folder."""
    files = [path] if path.is_file() else _lamem_files(path)
    parts = []
    for file in files:
        if not file.is_file():
            raise UserError(f"The LaMem split file {file} does not exist. Name one with --scores-csv.")
        part = read_csv(file, sep=r"\s+", header=None, names=["image_id", "score"], text_columns=["image_id"])
        if isinstance(part.index, pd.MultiIndex) or not isinstance(part.index, pd.RangeIndex):
            raise UserError(f"{file}: expected two words per line, 'name score'. Check the file.")
        scores = to_scores(part["score"], file, scale)
        split = SPLIT_NAMES.get(file.stem.split("_")[0], "")
        parts.append(pd.DataFrame({"image_id": part["image_id"], "memorability": scores, "split": split}))
    return _without(pd.concat(parts, ignore_index=True), *LABELS)


def _lamem_files(folder: Path) -> list[Path]:
    return [folder / f"{split}_1.txt" for split in SPLITS]


def _without(table: pd.DataFrame, *texts: str) -> pd.DataFrame:
    """Add what a source does not know: empty texts, and no counts."""
    table[list(texts)] = ""
    table[["pixel_count", "hits", "false_alarms", "n_resp"]] = np.nan
    return table
