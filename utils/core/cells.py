"""Text cells that a spreadsheet would take for a formula: written as text, read back as they were.

A file called ``=HYPERLINK(...).jpg``, or a category ``@SUM(1)``, is computed by Excel or LibreOffice when somebody opens
the table. An apostrophe in front makes it text there. Both directions follow one pattern, in which apostrophes may stand
already, so that no text is lost or changed on the way: what is written with one more is read with one less.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("=", "+", "-", "@", "\t", "\r", "'")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"'*(?!{_NUMBER}\Z)[=+\-@\t\r]")


def as_text(cell: Any) -> Any:
    """Return a cell as it is written: a text that begins as a formula gets an apostrophe in front; numbers do not."""
    return f"'{cell}" if _is_formula(cell) else cell


def as_meant(cell: Any) -> Any:
    """Return a cell that was written with :func:`as_text` as it was before."""
    return cell[1:] if _is_formula(cell) and cell[0] == "'" else cell


def _is_formula(cell: Any) -> bool:
    return isinstance(cell, str) and cell.startswith(_FIRST) and _FORMULA.match(cell) is not None


def harmless(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table as it is written; see :func:`as_text`."""
    return _mapped(frame, as_text)


def restored(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table that was written with :func:`harmless` as it was before."""
    return _mapped(frame, as_meant)


def _mapped(frame: "pd.DataFrame", change: Any) -> "pd.DataFrame":
    changed = {}
    for name in frame.select_dtypes(exclude=["number", "bool"]).columns:
        cells = frame[name].tolist()
        if any(isinstance(cell, str) and cell.startswith(_FIRST) for cell in cells):
            changed[name] = list(map(change, cells))
    return frame.assign(**changed).rename(columns=change) if changed else frame.rename(columns=change)
