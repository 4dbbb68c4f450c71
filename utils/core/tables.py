"""Every table that one stage hands to the next: its file, its columns, their units; one writer, one reader.

``docs/outputs.md`` is made from the declarations here (``python -m utils.core.contract > docs/outputs.md``).
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.cells import harmless, restored
from utils.core.claims import check_unchanged, note_read, written_by
from utils.core.contract import TABLES
from utils.core.declarations.columns import IMAGE_ID, Table
from utils.core.digests import FileContent, read_input
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.names import CAVEAT_COLUMN

if TYPE_CHECKING:
    import pandas as pd

FLOAT_FORMAT = "%.9g"
_SHARED = {"skipped_images"}  # every stage replaces its own rows of these, and depends on nobody else's
_NUMBERS = ("float64", "int64", "Int64", "bool")  # types that are written as they should be


def output_file(output_path: Path, table: str, model: str | None = None) -> Path:
    """Return where a table stands in the output folder.

    Args:
        output_path: The output folder.
        table: A name in :data:`TABLES`.
        model: The checkpoint's file stem, for tables that exist once per model.
    """
    name = TABLES[table].file
    if "{model}" in name:
        if model is None:
            raise ValueError(f"the table {table} exists once per model; say which")
        name = name.format(model=model)
    return Path(output_path) / name


def models_with(output_path: Path, table: str) -> list[str]:
    """Return the sorted stems of the models for which a per-model table exists in the output folder.

    A table that a stage wrote and that is gone since is said to be.
    """

    def pattern(file: str) -> re.Pattern[str]:
        return re.compile(re.escape(file).replace(re.escape("{model}"), "(.+)"))

    own = TABLES[table].file
    before, after = own.split("{model}")
    # distinctiveness_correlations.csv is not the table of a model "correlations"
    longer = [
        pattern(other.file)
        for other in TABLES.values()
        if other.file.startswith(before) and other.file != own
    ]

    def models_of(names: Iterable[str]) -> dict[str, str]:
        mine = (name for name in names if not any(other.fullmatch(name) for other in longer))
        return {match[1]: match[0] for match in map(pattern(own).fullmatch, mine) if match}

    there = models_of(path.name for path in Path(output_path).glob(f"{before}*{after}"))
    written = written_by(Path(output_path))
    for model, file in models_of(written).items():
        if model not in there:
            _say_missing(str(Path(output_path) / file), written[file].when, written[file].how)
    return sorted(there)


@cache  # once is enough
def _say_missing(file: str, when: str, command: str) -> None:
    log.warning(
        "%s (written %s) is gone; what follows is without it. It is made anew by: %s", file, when, command
    )


def write_table(frame: "pd.DataFrame", path: Path, table: str, caveat: str = "") -> None:
    """Check a table against its declaration and write it, atomically.

    UTF-8, header, declared columns first in declared order, rows sorted by ``image_id`` where there is one,
    floats to 9 significant digits, undefined values as empty cells, texts that a spreadsheet would compute with an
    apostrophe in front (:mod:`utils.core.cells`). Where ``caveat`` is not empty, a last
    column ``caveat`` repeats it on every row; rows that come with a caveat of their own (kept from an earlier run,
    empty for none) keep that one.

    Args:
        frame: The rows.
        path: Where to write.
        table: A name in :data:`TABLES`.
        caveat: What must be said of every number in it (sample data, random weights).

    Raises:
        ValueError: If the frame does not fit the declaration (a bug of ours, not of the user).
    """
    declared = TABLES[table]
    problem = _problem(frame, declared)
    if problem:
        raise ValueError(f"table {table}: {problem}")
    names = [column.name for column in declared.columns if column.name in frame.columns]
    frame = frame[names + [name for name in frame.columns if name not in names]]
    if IMAGE_ID.name in frame.columns:
        frame = frame.sort_values("image_id", kind="stable")
    caveats: pd.Series | str = caveat
    if CAVEAT_COLUMN in frame.columns:
        own = frame[CAVEAT_COLUMN].astype(object)
        caveats = own.where(own.notna(), caveat)
    frame = frame.drop(columns=CAVEAT_COLUMN, errors="ignore").assign(**{CAVEAT_COLUMN: caveats})
    if frame[CAVEAT_COLUMN].eq("").all():
        frame = frame.drop(columns=CAVEAT_COLUMN)
    frame = _typed(frame, [name for name in frame.columns if not _holds_text(frame[name])])
    frame = harmless(frame)
    with atomic_path(path) as temporary:
        frame.to_csv(
            temporary,
            index=False,
            float_format=FLOAT_FORMAT,
            encoding="utf-8",
            errors="backslashreplace",  # a name on disk that is not UTF-8
            lineterminator="\n",
            quoting=_quoting(frame),
        )


def _quoting(frame: "pd.DataFrame") -> int:
    """Return how cells are put in quotes: where needed, or all where a bare carriage return would end a row unquoted."""
    texts = frame.select_dtypes(exclude="number")
    returns = any(texts[name].astype(str).str.contains("\r", regex=False).any() for name in texts.columns)
    return csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL


def read_table(path: Path, table: str, command: str | None = None, as_input: bool = True) -> "pd.DataFrame":
    """Read a declared table and check it.

    Args:
        path: The file.
        table: A name in :data:`TABLES`.
        command: The command to name when the file is missing, in place of the declared one.
        as_input: Whether what the run writes depends on it; not where it is only to be brought up to date.

    Returns:
        The rows; text columns as ``str`` with empty cells as ``""``, numbers as ``float64`` or ``int64``, NaN for
        empty cells of nullable number columns.

    Raises:
        UserError: If the file is missing (names the stage that writes it), is not a table, lacks a column,
            repeats a key, or holds something that is not a number where one belongs; or has changed since its stage
            wrote it (:class:`utils.core.errors.ChangedFileError`).
    """
    declared = TABLES[table]
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing. It is written by: {command or declared.command}")
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; a table belongs there. Remove it and run: {command or declared.command}"
        )
    content = read_whole(path)
    check_unchanged(path, content.seen.digest)
    if as_input and table not in _SHARED:
        note_read(path)
    frame = read_csv(
        content, text_columns=[column.name for column in declared.columns if column.kind == "text"]
    )
    frame = restored(frame)
    for column in declared.columns:
        if column.name in frame.columns and column.kind in {"int", "float"}:
            frame[column.name] = to_numbers(frame[column.name], path, allow_empty=column.nullable)
    known = {*(column.name for column in declared.columns), CAVEAT_COLUMN}
    frame = _typed(frame, [name for name in frame.columns if name not in known])
    problem = _problem(frame, declared)
    if frame.empty and declared.key == (IMAGE_ID.name,):  # a row per image
        problem = problem or "it has a header and no rows"
    if problem:
        raise UserError(f"{path}: {problem}. Delete the file and run again: {command or declared.command}")
    for column in declared.columns:
        if column.name in frame.columns and column.kind == "int" and not frame[column.name].isna().any():
            frame[column.name] = frame[column.name].astype("int64")
    return frame


def kept_rows(old: "pd.DataFrame", keep: "pd.Series") -> "pd.DataFrame":
    """Return rows of a table as read that are to stand beside new ones, each with the caveat it had (or none).

    Args:
        old: The table as read.
        keep: Which rows stay.
    """
    rows = old[keep]
    return rows if CAVEAT_COLUMN in rows.columns else rows.assign(**{CAVEAT_COLUMN: ""})


def read_whole(path: Path) -> FileContent:
    """Read a table's file whole, and remember what it held.

    Raises:
        UserError: It is missing, or a folder.
    """
    try:
        return read_input(path)
    except FileNotFoundError:
        raise UserError(f"The table {path} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a CSV file was expected.") from None


def read_csv(path: Path | FileContent, text_columns: Iterable[str] = (), **options: object) -> "pd.DataFrame":
    """Read any CSV a user may hand over, with one clear message where that fails.

    Args:
        path: The file, or what was read of it.
        text_columns: Columns kept as text whatever they look like (``007.jpg``, ``NA``).
        options: Passed to :func:`pandas.read_csv`.

    Raises:
        UserError: If the file is missing, empty, binary or not a table.
    """
    import pandas as pd

    # Read whole, once: what is digested is what is parsed, even if the file changes meanwhile.
    content = path if isinstance(path, FileContent) else read_whole(path)
    try:
        frame = pd.read_csv(
            io.BytesIO(content.content),
            dtype=dict.fromkeys(text_columns, str),
            keep_default_na=False,
            na_values={},
            **options,
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a CSV table ({error}). Expected UTF-8 text with a header line."
        ) from None
    if "header" not in options:
        refuse_repeated_columns(path, _header(content.content, str(options.get("sep", ","))))
    return frame


def _header(content: bytes, separator: str) -> list[str]:
    """Return the names in a table's first line, as they stand there: pandas numbers those that repeat."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace", newline="")
    return next((row for row in csv.reader(text, delimiter=separator) if row), [])


def refuse_repeated_columns(path: Path | FileContent, names: Iterable[object]) -> None:
    """Refuse a table in which one name stands over several columns: nothing says which is meant.

    Raises:
        UserError: Naming them.
    """
    counts = Counter(str(name).strip() for name in names if str(name).strip())
    repeated = [f"{name} ({count} times)" for name, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: columns of one name: {', '.join(repeated)}. Rename or remove those that are not meant."
        )


def to_numbers(values: "pd.Series", path: Path, allow_empty: bool = False) -> "pd.Series":
    """Turn a column into numbers, or say which rows are none.

    Args:
        values: The column as read.
        path: The file it came from, for the message.
        allow_empty: Whether empty cells are allowed (they become NaN).

    Raises:
        UserError: Naming the column, up to three rows (counted as a text editor counts lines) and what they hold.
    """
    import numpy as np
    import pandas as pd

    text = values.astype(str).str.strip()
    numbers = pd.to_numeric(text.where(text != "", None), errors="coerce").astype("float64")
    bad = ~np.isfinite(numbers) & ~((text == "") & allow_empty)
    if bad.any():
        rows = np.flatnonzero(bad)
        shown = ", ".join(f"line {row + 2}: '{text.iloc[row]}'" for row in rows[:3])
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        raise UserError(
            f"{path}: column {values.name} must hold finite numbers, found {shown}{more}. Correct the file."
        )
    return numbers


def _holds_text(cells: "pd.Series") -> bool:
    return cells.dtype not in _NUMBERS and bool(cells.map(lambda cell: isinstance(cell, str)).any())


def _typed(frame: "pd.DataFrame", columns: Iterable[str]) -> "pd.DataFrame":
    """Give columns of numbers and empty cells, however they were put together, the type of what they hold.

    So that rows that were read stand beside new ones in the same form: 24 stays 24, and 0.1 has no more digits.

    Args:
        frame: The table.
        columns: Those to look at; one that holds anything but numbers stays as it is.
    """
    import numpy as np
    import pandas as pd

    typed = {}
    for name in columns:
        cells = frame[name]
        if cells.dtype in _NUMBERS or cells.map(lambda cell: isinstance(cell, bool)).any():
            continue
        filled = ~(cells.isna() | (cells.astype(str).str.strip() == ""))
        numbers = pd.to_numeric(cells.where(filled, None), errors="coerce").astype("float64")
        if not filled.any() or numbers[filled].isna().any() or np.isinf(numbers[filled]).any():
            continue
        whole = (numbers[filled] % 1 == 0).all() and (numbers[filled].abs() < 2**53).all()
        typed[name] = numbers.astype("Int64") if whole else numbers
    return frame.assign(**typed)


def as_written(values: "pd.Series") -> "pd.Series":
    """Return numbers as they stand in a table, with as many digits: what is computed from both is the same."""
    return values.map(lambda value: float(FLOAT_FORMAT % value), na_action="ignore")


def _problem(frame: "pd.DataFrame", declared: Table) -> str:
    """Say what is wrong with a frame, or return an empty text."""
    missing = [
        c.name for c in declared.columns if c.name not in frame.columns and c.name not in declared.optional
    ]
    if missing:
        return f"column {', '.join(missing)} is missing (found: {', '.join(map(str, frame.columns))})"
    known = {c.name for c in declared.columns} | {CAVEAT_COLUMN}
    extra = [str(name) for name in frame.columns if name not in known]
    if extra and not declared.open_ended:
        return f"unexpected column {', '.join(extra)}"
    if declared.key and frame.duplicated(list(declared.key)).any():
        repeated = frame.loc[frame.duplicated(list(declared.key)), list(declared.key)].iloc[0]
        return f"the row {' / '.join(map(str, repeated))} stands there more than once"
    for column in declared.columns:
        if column.name in frame.columns and not column.nullable:
            empty = frame[column.name].isna() | (frame[column.name].astype(str) == "")
            if empty.any():
                return f"column {column.name} is empty in {int(empty.sum())} rows"
    return ""
