"""Tables as people have them, in one reading: which character separates, which marks decimals, what a column is called.

What is understood is declared here (`DELIMITERS`, `NAMES`) and nowhere else. What could mean two things is an error that
shows the first rows; what was understood is said by whoever asked (`UserTable.understood`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.errors import UserError
from utils.core.names import DEFAULT_SCORE_COLUMN, IMAGE_SUFFIXES
from utils.core.tables import read_csv, read_whole, refuse_repeated_columns, to_numbers

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
EXCEL_SUFFIXES = (".xlsx", ".xlsm")
TABLE_SUFFIXES = (".csv", ".tsv", *EXCEL_SUFFIXES)
# The first of these names that a table has is taken, spelled in any case, with spaces or dashes for underscores.
NAMES: dict[str, tuple[str, ...]] = {
    "image": (
        *("path", "image_id", "image_file", "image_name", "image_path", "image", "filename", "file_name"),
        *("filepath", "file_path", "file", "img", "picture", "stimulus", "name"),
    ),
    "score": (*(DEFAULT_SCORE_COLUMN, "memorability", "memorability_score", "score", "mem_score", "mem"),),
    "loss": ("loss", "reconstruction_loss", "reconstruction_error", "error"),
}
SCORE_SCALES = {"unit": 1.0, "percent": 100.0}
SHOWN_ROWS = 3
_SAMPLE_LINES = 50
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+\s*%?\s*")
_DECIMAL_POINT = re.compile(r"\s*[+-]?\d*\.\d+\s*%?\s*")


@dataclass(frozen=True)
class UserTable:
    """A table as read.

    Attributes:
        path: The file.
        frame: Its rows; text where asked for or where a column holds anything but numbers.
        form: How it was read, e.g. ``semicolon-separated, decimal commas``.
        first_lines: The header and a few rows, as they stand in the file.
    """

    path: Path
    frame: pd.DataFrame
    form: str
    first_lines: str

    def column(self, what: str) -> str | None:
        """Return the column that holds something of `NAMES`; None where there is none."""
        return recognise(self.frame.columns, NAMES[what])

    def understood(self, **columns: str) -> str:
        """Say in one line how the table was read, e.g. with ``images="filename", scores="mem"``."""
        named = "; ".join(f"{what} from column {name}" for what, name in columns.items())
        return f"{self.path}: {self.form}; {named}"

    def unclear(self, problem: str) -> UserError:
        """Make the error for what cannot be told from the table: the problem, and its first rows."""
        return UserError(f"{self.path}: {problem} Its first lines:\n{self.first_lines}")


def recognise(header: Iterable[object], names: Sequence[str]) -> str | None:
    """Return the column that has one of these names, the first of them first; case, spaces and dashes do not count."""
    flat = {_flat(column): str(column) for column in reversed(list(header))}
    return next((flat[name] for name in names if name in flat), None)


def _naming_images(header: Iterable[object]) -> list[str]:
    return [str(column) for column in header if _flat(column) in NAMES["image"]]


def _flat(column: object) -> str:
    return re.sub(r"[\s-]+", "_", str(column).strip().lower())


def read_user_table(path: Path, text_columns: Iterable[str] = ()) -> UserTable:
    """Read a table that a user hands over: CSV in any of the usual dialects, or Excel's ``.xlsx``.

    Args:
        path: The file.
        text_columns: Columns kept as text whatever they look like; the one that names the images always is.

    Raises:
        UserError: It is missing, empty, no table, or cannot be told apart into columns.
    """
    if path.suffix.lower() in EXCEL_SUFFIXES and path.is_file():
        return _read_excel(path, text_columns)
    if path.suffix.lower() == ".xls":
        raise UserError(f"{path} is in Excel's old format. Save it as .xlsx or as CSV.")
    content = read_whole(path)
    text, encoding = _decode(path, content.content)
    lines = [line for line in text.splitlines() if line.strip()][:_SAMPLE_LINES]
    separator = _separator(lines)
    header = next(csv.reader(lines[:1], delimiter=separator), [])
    decimal = _decimal(lines, separator)
    kept = [*text_columns, *_naming_images(header)]
    frame = read_csv(replace(content, content=text.encode()), kept, sep=separator, decimal=decimal)
    form = f"{DELIMITERS[separator]}-separated" + (", decimal commas" if decimal == "," else "")
    form += f", {encoding}" if encoding else ""
    table = UserTable(path, _with_points(frame, kept, decimal), form, _indented(lines[: SHOWN_ROWS + 1]))
    _check_header(table)
    return table


def _decode(path: Path, content: bytes) -> tuple[str, str]:
    """Return a file's text and, unless it is UTF-8, its encoding: UTF-16 as Excel's "Unicode text", or Windows-1252."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace"), "UTF-16"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        if b"\0" in content[:4096]:
            raise UserError(
                f"{path} cannot be read as a CSV table ({error}). Expected text with a header line, or .xlsx."
            ) from None
        return content.decode("cp1252", errors="replace"), "Windows-1252"


def _separator(lines: list[str]) -> str:
    """Return the delimiter that cuts most of the lines into as many cells, more than one, as the header."""
    best, best_fit = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        if widths and widths[0] > 1:
            fit = (sum(width == widths[0] for width in widths) / len(widths), widths[0])
            best, best_fit = (delimiter, fit) if fit > best_fit else (best, best_fit)
    return best


def _decimal(lines: list[str], separator: str) -> str:
    """Return the decimal mark: a comma where numbers are written with one, and none with a point."""
    if separator == ",":
        return "."
    cells = [cell for row in csv.reader(lines[1:], delimiter=separator) for cell in row]
    commas = any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells)
    return "," if commas and not any(_DECIMAL_POINT.fullmatch(cell) for cell in cells) else "."


def _with_points(frame: pd.DataFrame, text_columns: Sequence[str], decimal: str) -> pd.DataFrame:
    """Write the numbers that pandas left as text (``75,5 %``) with points."""
    if decimal == ".":
        return frame
    for name in frame.columns.difference(list(text_columns)):
        column = frame[name]
        if not str(column.dtype).startswith(("float", "int")):
            text = column.astype(str)
            marked = text.str.fullmatch(_DECIMAL_COMMA.pattern)
            frame[name] = text.where(~marked, text.str.replace(",", ".", regex=False))
    return frame


def _read_excel(path: Path, text_columns: Iterable[str]) -> UserTable:
    import zipfile

    import pandas as pd

    try:
        with pd.ExcelFile(io.BytesIO(read_whole(path).content), engine="openpyxl") as book:
            sheets = {str(sheet): book.parse(sheet, nrows=0) for sheet in book.sheet_names}
            filled = [sheet for sheet, top in sheets.items() if len(top.columns)]
            if not filled:
                raise UserError(f"{path} is empty. Expected a header line and a row per image.")
            header = list(sheets[filled[0]].columns)
            top = book.parse(filled[0], header=None, nrows=1).fillna("")
            refuse_repeated_columns(path, top.iloc[0] if len(top) else [])
            kept = [*text_columns, *_naming_images(header)]
            frame = book.parse(filled[0], dtype=dict.fromkeys(kept, str), keep_default_na=False, na_values=[])
    except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an Excel file ({error}). Save it again, or as CSV."
        ) from None
    of = f" (the first of {len(filled)})" if len(filled) > 1 else ""
    first = [" | ".join(map(str, row)) for row in [header, *frame.head(SHOWN_ROWS).to_numpy().tolist()]]
    table = UserTable(path, frame, f"Excel sheet {filled[0]}{of}", _indented(first))
    _check_header(table)
    return table


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _check_header(table: UserTable) -> None:
    """Refuse a table whose first line is a row: a picture's name where a column's would stand.

    Raises:
        UserError: Saying which line is missing.
    """
    names = [str(name) for name in table.frame.columns]
    pictures = [name for name in names if Path(name.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES]
    if pictures and table.column("image") is None:
        raise table.unclear(
            f"the first line names a picture ({pictures[0]}), so the header is missing. Write one above it, e.g. path,score."
        )


def score_column(table: UserTable, wanted: str = DEFAULT_SCORE_COLUMN) -> str:
    """Return the column that holds the scores.

    Args:
        table: The table.
        wanted: ``--score-column``; with its default, any of `NAMES` will do where there is only one.

    Raises:
        UserError: There is none, or there are several and nothing says which is meant.
    """
    import pandas as pd

    frame = table.frame
    if wanted in frame.columns:
        return wanted
    found = [name for name in frame.columns if _flat(name) in NAMES["score"]]
    if wanted == DEFAULT_SCORE_COLUMN and "score" in map(_flat, found):
        return next(str(name) for name in found if _flat(name) == "score")
    if wanted == DEFAULT_SCORE_COLUMN and len(found) == 1:
        return str(found[0])
    numeric = [str(n) for n in frame.columns if pd.to_numeric(frame[n], errors="coerce").notna().all()]
    if wanted == DEFAULT_SCORE_COLUMN and found:
        raise table.unclear(
            f"{' and '.join(map(str, found))} could each be the memorability score. Choose with --score-column."
        )
    raise table.unclear(
        f"there is no score column '{wanted}'. Choose one with --score-column; columns that hold numbers: "
        f"{', '.join(numeric) or 'none'}."
    )


def to_scores(values: pd.Series, path: Path, scale: str = "unit") -> pd.Series:
    """Turn a column of scores into numbers in [-1, 1].

    Args:
        values: The column as read; its name is that of the column.
        path: The file it came from, for messages.
        scale: ``unit`` for scores as they are, ``percent`` for 0 to 100 (with or without a percent sign).

    Raises:
        UserError: What is no number, lies outside, or does not fit the scale.
    """
    import numpy as np

    text = values.astype(str).str.strip()
    signs = int(text.str.endswith("%").sum())
    if signs and scale != "percent":
        first = text[text.str.endswith("%")].iloc[0]
        raise UserError(
            f"{path}: column {values.name} holds per cent, e.g. '{first}'. Add --score-scale percent to divide by 100."
        )
    numbers = to_numbers(text.str.removesuffix("%").rename(values.name) if signs else values, path)
    if scale == "percent" and len(numbers) and not signs and float(numbers.abs().max()) <= 1:
        raise UserError(
            f"{path}: --score-scale percent expects scores from 0 to 100, but column {values.name} lies between "
            f"{numbers.min():g} and {numbers.max():g}. Leave the flag out."
        )
    numbers = numbers / SCORE_SCALES[scale]
    outside = np.flatnonzero((numbers < -1) | (numbers > 1))
    if len(outside):
        shown = ", ".join(f"line {row + 2}: {values.iloc[row]}" for row in outside[:3])
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        from_0_to_100 = scale == "unit" and 1 < float(numbers.max()) <= 100 and float(numbers.min()) >= 0
        remedy = (
            "If they run from 0 to 100, add --score-scale percent; else choose another with --score-column, or rescale."
            if from_0_to_100
            else "Choose another with --score-column, or rescale."
        )
        raise UserError(
            f"{path}: memorability scores must lie in [-1, 1], column {values.name} holds {shown}{more}. {remedy}"
        )
    return numbers
