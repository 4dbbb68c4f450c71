"""How every figure looks and how it is saved."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from utils.core.caveats import Caveats
from utils.core.files import atomic_path
from utils.core.log import log

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours (black and the pale yellow left out), told apart with any common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B")
DIVERGING = "RdBu_r"
SEQUENTIAL = "viridis"
NEUTRAL = "#4D4D4D"
_STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "memorability",
    "pdf.fonttype": 42,
    "image.interpolation": "nearest",
    "text.parse_math": False,  # a file or category may have a $ in its name
}


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2, **options: Any
) -> tuple[Figure, Any]:
    """Start a figure in the project's style, without a display and without global state.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Width of the whole figure in inches.
        height: Height of the whole figure in inches.
        options: Passed to ``Figure.subplots`` (``squeeze``, ``sharex``, ``gridspec_kw``, ...).

    Returns:
        The figure and its axes, as ``Figure.subplots`` returns them. Nothing needs closing: the figure is not
        registered anywhere.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    mpl.rcParams.update(_STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def category_colours(categories: Sequence[str]) -> dict[str, str]:
    """Give each category, in sorted order, a colour of its own; they repeat after eight."""
    names = sorted(dict.fromkeys(categories))
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def shorten(text: str, length: int = 28) -> str:
    """Shorten a name for an axis, keeping its beginning and its end."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[-(length - 1 - head) :]}"


def save_figure(
    figure: Figure, output_path: Path, stem: str, formats: Sequence[str] = ("png", "pdf"), caveat: str = ""
) -> list[Path]:
    """Save a figure, atomically, in each format; equal figures give equal bytes.

    Args:
        figure: The figure.
        output_path: The folder.
        stem: File name without suffix.
        formats: Any of ``png``, ``pdf``, ``svg``.
        caveat: What must be said of the figure (sample data, random weights). At its foot stands only that there is
            something, in red, so that small figures keep their room; the words themselves are in the file's metadata and
            in the report. Nothing when empty.

    Returns:
        The paths, in the order of ``formats``.
    """
    if caveat:
        # supxlabel takes part in the layout, so the words never cover anything.
        foot = "NOT A RESULT" if Caveats([caveat]).forbid_conclusions else "WITH A CAVEAT"
        figure.supxlabel(f"{foot}, see report", fontsize=8, color="#B00020", fontweight="bold")
    # Dates and versions would make equal figures differ from day to day.
    metadata = {
        "png": {"Software": None, "Description": caveat or None},
        "pdf": {"CreationDate": None, "Producer": None, "Subject": caveat or None},
        "svg": {"Date": None, "Description": caveat or None},
    }
    paths = []
    for kind in formats:
        path = Path(output_path) / f"{stem}.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata.get(kind))
        paths.append(path)
    return paths


def write_title(figure: Figure, text: str, beside: float = 0.0) -> None:
    """Write a figure's title in as many lines as its width asks for.

    Args:
        figure: The figure.
        text: The title; its own line breaks are kept.
        beside: Inches on either side that stay free, for a legend.
    """
    figure.suptitle(_wrap(text, figure.get_figwidth() - 2 * beside), fontsize=11)


def _wrap(title: str, width_inches: float) -> str:
    width = max(int(width_inches * 11), 24)
    return "\n".join(line for part in title.splitlines() for line in textwrap.wrap(part, width))


def titled_legend(figure: Figure, handles: Sequence[Artist], across: int, title: str) -> None:
    """Put a legend under a figure's title, above all panels: the foot belongs to the caveat.

    Args:
        figure: The figure.
        handles: What is named, each with its label.
        across: Entries side by side.
        title: The title; see :func:`write_title`.
    """
    place = "outside upper center"
    title = _wrap(title, figure.get_figwidth())
    legend = figure.legend(handles=handles, loc=place, ncols=across, title=title, title_fontsize=11)
    legend.get_title().set_multialignment("center")


def has_display() -> bool:
    """Say whether pictures can be shown on this machine's screen."""
    if sys.platform in {"darwin", "win32"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def show_or_say(paths: Sequence[Path]) -> None:
    """Open pictures with the system's viewer; without a display, say where they are instead.

    Args:
        paths: Picture files.
    """
    if not paths:
        return
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    if has_display():
        try:
            for path in paths:
                subprocess.Popen([opener, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            log.warning("No program to show pictures with (%s) was found.", opener)
        else:
            return
    shown = "\n".join(f"  {path}" for path in paths)
    log.info(
        "There is no display here. Copy the pictures to a machine that has one, or open them through your editor:\n%s",
        shown,
    )


def memorability_note(score: float, before: str = "\n") -> str:
    """Return an image's score for its title; nothing where it has none."""
    return f"{before}memorability {score:.2f}" if np.isfinite(score) else ""


MAX_CATEGORIES = 8  # colours that can be told apart; smaller categories share a grey
OTHER = "#B5B5B5"


def colours_of(categories: pd.Series, most: int = MAX_CATEGORIES) -> dict[str, str]:
    """Give the largest categories a colour each, and leave the others out.

    Args:
        categories: Category of every image; empty for none.
        most: How many get a colour.

    Returns:
        {category: colour}, sorted by name.
    """
    sizes = categories[categories != ""].value_counts()
    return category_colours(sorted(sizes.index[:most]))


def dot_style(count: int) -> dict[str, float | bool]:
    """Size and transparency that suit a number of points; drawn as pixels where vectors would be huge."""
    return {
        "s": float(np.clip(6000 / max(count, 1), 3, 26)),
        "alpha": float(np.clip(900 / max(count, 1), 0.25, 0.85)),
        "linewidths": 0,
        "rasterized": count > 2000,
    }


def scatter_by_category(axis: Axes, x: pd.Series, y: pd.Series, categories: pd.Series) -> None:
    """Scatter points in the colours of their categories, in an order that hides none behind another."""
    colours = colours_of(categories)
    order = np.random.default_rng(0).permutation(len(x))
    shades = categories.map(colours).fillna(OTHER if colours else PALETTE[0]).to_numpy()
    axis.scatter(x.to_numpy()[order], y.to_numpy()[order], c=shades[order], **dot_style(len(x)))


def category_legend(figure: Figure, categories: pd.Series) -> None:
    """Name the categories beside the panels."""
    from matplotlib.lines import Line2D

    colours = colours_of(categories)
    names = sorted(set(categories) - {""})
    if not colours:
        return
    entries = {shorten(name): colour for name, colour in colours.items()}
    if len(names) > len(colours):
        entries[f"{len(names) - len(colours)} more"] = OTHER
    marks = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=6) for colour in entries.values()
    ]
    # at the side: the foot belongs to the caveat
    figure.legend(marks, list(entries), loc="outside right upper", handletextpad=0.3)
