"""What a user gives to be scored: files, folders, patterns, tables, standard input; pictures in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.core.digests import FileContent, Seen
from utils.core.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
STANDARD_INPUT = "-"


def gather_paths(given: Sequence[str], may_be_empty: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """Turn what a user names into picture files.

    Args:
        given: Picture files, folders (searched through), glob patterns, CSV tables with a ``path`` column (paths
            relative to the table's folder, or to the current one), and ``-`` for one path per line (or per NUL)
            on standard input.
        may_be_empty: Whether it is no error that every named file is left out.

    Returns:
        Paths in the order given (those of a folder or pattern sorted), each once, and (path, reason) of those left
        out: named in a table or on standard input but not there, or with a name that cannot be written down as UTF-8.

    Raises:
        UserError: A path that does not exist, a folder or pattern without a picture, a table without ``path``,
            or nothing at all.
    """
    from utils.data.folders import as_utf8, is_utf8
    from utils.data.images import list_images

    files: dict[str, None] = {}
    skipped: list[tuple[str, str]] = []
    for text in given:
        if text == STANDARD_INPUT:
            names, folder = _lines_of_standard_input(), Path()
        elif text.lower().endswith(TABLE_SUFFIXES) and Path(text).is_file():
            names, folder = _paths_in_table(Path(text)), Path(text).parent
        else:
            files |= dict.fromkeys(map(str, list_images([text])))
            continue
        for name in names:
            path = next((path for path in (folder / name, Path(name)) if path.is_file()), None)
            if path is None:
                skipped.append((name, "the file does not exist"))
            else:
                files[str(path)] = None
    unwritable = sorted(name for name in files if not is_utf8(name))
    skipped += [(as_utf8(name), "its name is not UTF-8") for name in unwritable]
    paths = [name for name in files if name not in set(unwritable)]
    if not paths and not (may_be_empty and skipped):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3]) or "no path was given"
        raise UserError(f"There is no picture to score ({reasons}). Name files, folders, patterns or a CSV.")
    return paths, skipped


def _lines_of_standard_input() -> list[str]:
    content = os.fsdecode(sys.stdin.buffer.read())
    lines = content.split("\0") if "\0" in content else content.splitlines()
    return [line.strip("\r\n") for line in lines if line.strip()]


def _paths_in_table(path: Path) -> list[str]:
    from utils.data.user_tables import read_user_table

    table = read_user_table(path)
    column = table.column("image")
    if column is None:
        raise UserError(
            f"{path}: expected a column 'path' with one picture per row, found: "
            f"{', '.join(map(str, table.frame.columns))}."
        )
    names = [str(name).strip().replace("\\", "/") for name in table.frame[column] if str(name).strip()]
    if not names:
        raise UserError(f"{path}: the column '{column}' names no picture.")
    return names


def not_tried(given: Sequence[str], files: Sequence[str]) -> list[tuple[str, str]]:
    """List the files of the named folders that are no pictures by their name, each with the reason.

    Args:
        given: As for `gather_paths`; only folders count.
        files: What is scored.
    """
    from utils.data.folders import is_utf8
    from utils.data.formats import passed_over

    scored = set(files)
    found = {}
    for folder in (Path(text) for text in given if Path(text).is_dir()):
        for path in sorted(folder.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden and str(path) not in scored and is_utf8(str(path)):
                found[str(path)] = passed_over(str(path))
    return list(found.items())


def in_memory(picture: Any, name: str) -> FileContent:
    """Write a picture that is no file as one, without loss, so that it is read as every file is.

    Args:
        picture: A PIL image; or an array (H, W), (H, W, 3) or (H, W, 4), uint8, or float in [0, 1].
        name: What to call it.

    Raises:
        UserError: It is neither.
    """
    import io

    import numpy as np
    from PIL import Image

    if not isinstance(picture, Image.Image):
        values = np.asarray(picture)
        if values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1:
            values = (values * 255).round().astype(np.uint8)
        fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
        if values.dtype != np.uint8 or not fits or not values.size:
            raise UserError(
                f"{name}: expected a path, a PIL image, or an array (H, W, 3) of uint8 or of floats in [0, 1]; found shape "
                f"{values.shape} of {values.dtype}."
            )
        picture = Image.fromarray(values)
    if picture.mode not in {"RGB", "RGBA", "L", "LA", "P", "I;16", "1"}:
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=picture.getexif())  # with its orientation
    return FileContent(name, buffer.getvalue(), Seen.of_unreadable())
