"""Score tables in the dialects people have them in: MemCat's, ``path,score``, LaMem's."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.names import DEFAULT_SCORE_COLUMN
from utils.core.tables import read_csv, to_numbers

COUNT_COLUMNS = {
    "H": "hits",
    "FA": "false_alarms",
    "hits": "hits",
    "false_alarms": "false_alarms",
    "n_resp": "n_resp",
}

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def _read_memcat_like(frame: pd.DataFrame, path: Path) -> pd.Series:
    """Return the image ids of a table in MemCat's form or with a path column."""
    if "path" in frame.columns:
        return frame["path"].str.strip().str.replace("\\", "/", regex=False).str.removeprefix("./")
    missing = [name for name in ("image_file", "category", "subcategory") if name not in frame.columns]
    if missing:
        raise UserError(
            f"{path}: column {', '.join(missing)} is missing. Expected a 'path' column with a score column, or MemCat's "
            f"image_file, category, subcategory; found: {', '.join(frame.columns)}."
        )
    return frame["category"] + "/" + frame["subcategory"] + "/" + frame["image_file"]


def _score_name(frame: pd.DataFrame, wanted: str, path: Path) -> str:
    if wanted in frame.columns:
        return wanted
    if wanted == DEFAULT_SCORE_COLUMN and "score" in frame.columns:
        return "score"
    numeric = [name for name in frame.columns if pd.to_numeric(frame[name], errors="coerce").notna().all()]
    raise UserError(
        f"{path}: there is no score column '{wanted}'. Choose one with --score-column; columns that hold numbers: "
        f"{', '.join(numeric) or 'none'}."
    )


def _check_scores(scores: pd.Series, path: Path) -> None:
    outside = np.flatnonzero((scores < -1) | (scores > 1))
    if len(outside):
        shown = ", ".join(f"line {row + 2}: {scores.iloc[row]:g}" for row in outside[:3])
        raise UserError(
            f"{path}: memorability scores must lie in [-1, 1], column {scores.name} holds {shown}"
            f"{f' and {len(outside) - 3} more' if len(outside) > 3 else ''}. Choose another with --score-column, or rescale."
        )


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


def read_scores(path: Path, score_column: str = DEFAULT_SCORE_COLUMN) -> tuple[pd.DataFrame, str]:
    """Read a score table of any known form, by header and never by position.

    Args:
        path: MemCat's table, a CSV with ``path`` and a score column (optionally ``category, subcategory, split,
            hits, false_alarms, n_resp``), a LaMem split file, or LaMem's folder of split files.
        score_column: The column with the scores; ``score`` is taken if the default one is absent.

    Returns:
        The table (``image_id, category, subcategory, memorability, hits, false_alarms, n_resp, split``, in the
        file's order) and the name of the score column used.

    Raises:
        UserError: If columns are missing, scores are not numbers in [-1, 1], or counts do not add up.
    """
    if path.is_dir() or path.suffix == ".txt":
        return _read_lamem(path), "score"
    text = ["path", "image_file", "category", "subcategory", "split"]
    frame = read_csv(path, text_columns=text)
    name = _score_name(frame, score_column, path)
    table = pd.DataFrame({"image_id": _read_memcat_like(frame, path)})
    for column in ("category", "subcategory", "split"):
        table[column] = frame[column] if column in frame.columns else ""
    table["memorability"] = to_numbers(frame[name], path)
    _check_scores(table["memorability"].rename(name), path)
    table[["hits", "false_alarms", "n_resp"]] = np.nan
    for source, target in COUNT_COLUMNS.items():
        if source in frame.columns:
            table[target] = to_numbers(frame[source], path, allow_empty=True)
    _check_counts(table, path)
    unknown = sorted(set(table["split"].str.lower()) - SPLIT_NAMES.keys() - {""})
    if unknown:
        raise UserError(
            f"{path}: column split holds '{unknown[0]}'; expected train, val or test (or an empty cell)."
        )
    table["split"] = table["split"].str.lower().map(SPLIT_NAMES).fillna("")
    return table, name


def _read_lamem(path: Path) -> pd.DataFrame:
    """Read LaMem's ``name score`` lines: one file, or train_1, val_1 and test_1 of its splits folder."""
    files = [path] if path.is_file() else [path / f"{split}_1.txt" for split in ("train", "val", "test")]
    parts = []
    for file in files:
        if not file.is_file():
            raise UserError(f"The LaMem split file {file} does not exist. Name one with --scores-csv.")
        part = read_csv(file, sep=r"\s+", header=None, names=["image_id", "score"], text_columns=["image_id"])
        if isinstance(part.index, pd.MultiIndex) or not isinstance(part.index, pd.RangeIndex):
            raise UserError(f"{file}: expected two words per line, 'name score'. Check the file.")
        scores = to_numbers(part["score"], file)
        _check_scores(scores, file)
        split = SPLIT_NAMES.get(file.stem.split("_")[0], "")
        parts.append(pd.DataFrame({"image_id": part["image_id"], "memorability": scores, "split": split}))
    table = pd.concat(parts, ignore_index=True)
    table[["category", "subcategory"]] = ""
    table[["hits", "false_alarms", "n_resp"]] = np.nan
    return table
