"""How every figure looks and how it is saved."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import log
from utils.runs import atomic_path

if TYPE_CHECKING:
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
}


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2, **options: object
) -> tuple["Figure", "Axes | object"]:
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
    figure: "Figure", output_path: Path, stem: str, formats: Sequence[str] = ("png", "pdf"), caveat: str = ""
) -> list[Path]:
    """Save a figure, atomically, in each format; equal figures give equal bytes.

    Args:
        figure: The figure.
        output_path: The folder.
        stem: File name without suffix.
        formats: Any of ``png``, ``pdf``, ``svg``.
        caveat: Printed in red at the figure's foot (sample data, random weights); nothing when empty.

    Returns:
        The paths, in the order of ``formats``.
    """
    if caveat:
        # supxlabel takes part in the layout, so the words never cover anything.
        label = figure.supxlabel(
            _wrap(f"NOT A RESULT: {caveat}", figure.get_figwidth()), fontsize=8, color="#B00020"
        )
        label.set_fontweight("bold")
    # Dates and versions would make equal figures differ from day to day.
    metadata = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None},
        "svg": {"Date": None},
    }
    paths = []
    for kind in formats:
        path = Path(output_path) / f"{stem}.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata.get(kind))
        paths.append(path)
    return paths


def _wrap(text: str, width_inches: float) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, max(int(width_inches * 14), 30)))


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
