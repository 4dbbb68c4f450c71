"""What the report is built of: blocks, rows of tables, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

INTERVAL_SCALE = "−1 … 1"
Block = dict[str, Any]


def missing_block(text: str) -> Block:
    """Say what is not there."""
    return {"kind": "missing", "text": text}


def table_block(
    title: str,
    files: list[str],
    header: list[str],
    rows: list[Block],
    text: str = "",
    texts: int = 1,
    fold: bool = False,
) -> Block:
    """A table block; the first ``texts`` columns hold words. Columns that say nothing in any row are left out.

    With ``fold`` only its title and number of rows are in sight until it is opened.
    """
    says = [
        number < texts or not rows or any(_says(row["cells"][number]) for row in rows)
        for number in range(len(header))
    ]
    header = [name for name, kept in zip(header, says, strict=True) if kept]
    rows = [
        row | {"cells": [cell for cell, kept in zip(row["cells"], says, strict=True) if kept]} for row in rows
    ]
    return {
        "kind": "table",
        "title": title,
        "files": files,
        "header": header,
        "text_columns": [*header[:texts], INTERVAL_SCALE],
        "rows": rows,
        "text": text,
        "fold": fold,
    }


def _says(cell: Block) -> bool:
    """Whether a cell holds anything but a dash."""
    return cell["interval"] is not None or cell["text"] not in ("", "–") or bool(cell["range"])


def table_row(cells: Iterable[Any], texts: int = 1, strong: bool = False) -> Block:
    """Make a row of a table.

    Args:
        cells: Texts, tuples (value, low, high) to be drawn, or ``{"text", "range"}`` for a value above its interval.
        texts: How many of the first cells hold words.
        strong: Whether the row stands out.
    """
    made = []
    for number, cell in enumerate(cells):
        content: Block = {
            "text": "",
            "range": "",
            "interval": None,
            "style": "text" if number < texts else "",
        }
        if isinstance(cell, tuple):
            content |= {"interval": cell, "style": "text"}
        else:
            content |= cell if isinstance(cell, dict) else {"text": cell}
        made.append(content)
    return {"cells": made, "strong": strong}


def show(value: float | None, digits: int = 2) -> str:
    """Write a number for reading: fixed decimals, thousands separated, a dash where it is undefined.

    Below the last decimal, powers of ten where there are more than two decimals.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if digits > 2 and value != 0 and abs(value) < 10**-digits / 2:  # losses and deltas; a rho of 0.00 is 0.00
        return f"{value:.1e}"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # adding 0 turns -0.00 into 0.00


def show_p(value: float | None) -> str:
    """Write a p or q value: three decimals, below that a bound."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_range(low: float, high: float, digits: int = 2) -> str:
    """Write an interval, or nothing where it is undefined."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return "[" + ", ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in (low, high)) + "]"


def drawn_interval(row: pd.Series) -> tuple[float, float, float] | str:
    """Values of a drawn interval, or a dash."""
    values = (row["rho"], row["ci_low"], row["ci_high"])
    return values if all(math.isfinite(value) for value in values) else "–"


def _label(row: pd.Series) -> str:
    """Name a correlation: its measure, with what if not memorability, and what is held constant."""
    target = row.get("target", "memorability")
    text = row["measure"] if target == "memorability" else f"{row['measure']} with {target}"
    return f"{text}, {row['held_constant']} held constant" if row.get("held_constant") else text


def _within_cell(row: pd.Series) -> Block:
    """The pooled within-category rho above its interval."""
    ends = (row[f"{end}_within_category"] for end in ("ci_low", "ci_high"))
    return {"text": show(row["rho_within_category"]), "range": show_range(*ends)}


def correlation_block(
    title: str, frame: pd.DataFrame, name: str, file: str, strong: str = "", text: str = ""
) -> Block:
    """The table every correlation is shown in: rho, interval, within category, ceiling."""
    header = [
        name,
        "n",
        "ρ",
        "95 % interval",
        INTERVAL_SCALE,
        "if images were independent",
        "q",
        "within category",
        "noise ceiling",
        "ρ / ceiling",
    ]
    rows = [
        table_row(
            [
                _label(row),
                f"{row['n']:,.0f}",
                show(row["rho"]),
                show_range(row["ci_low"], row["ci_high"]),
                drawn_interval(row),
                show_range(row["ci_low_independent"], row["ci_high_independent"]),
                show_p(row["q"]),
                _within_cell(row),
                show(row["ceiling"]),
                show(row["rho_over_ceiling"]),
            ],
            strong=_label(row) == strong,
        )
        for _, row in frame.iterrows()
    ]
    return table_block(title, [file], header, rows, text)
