"""Figures of a pretraining: held-out PSNR over the epochs, and the same held-out pictures over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from utils.core.figures import NEUTRAL, PALETTE, new_figure, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _label_plainly(axes: Axes) -> None:
    """Write 0.01 along a logarithmic axis: the default, 10 to the power of -2, is mathematics, which no text here is."""
    from matplotlib.ticker import LogFormatter

    class _Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""  # it knows which to label

    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_formatter(_Plain())


def draw_curve(history: pd.DataFrame, rival_psnr: float, title: str) -> Figure:
    """Draw held-out PSNR and training loss over the epochs, with the rival's PSNR across.

    Args:
        history: Rows of ``pretraining_<model>.csv``.
        rival_psnr: Of the principal components on the same held-out pictures, in dB.
        title: The model's name.
    """
    figure, (upper, lower) = new_figure(2, 1, height=5.6, sharex=True, height_ratios=(2, 1))
    for number, (depth, rows) in enumerate(history.groupby("depth", sort=True)):
        label = (
            f"{depth} block{'s' if depth > 1 else ''}" if depth < history["depth"].max() else "whole network"
        )
        colour = PALETTE[0] if depth == history["depth"].max() else PALETTE[(5, 4, 2, 3)[number % 4]]
        style = {"color": colour, "marker": ".", "markersize": 4, "linewidth": 1.4}
        upper.plot(rows["epoch"], rows["psnr"], label=label, **style)
        lower.plot(rows["epoch"], rows["loss"], **style)
    upper.axhline(rival_psnr, color=PALETTE[1], linestyle="--", linewidth=1.2)
    text = {"fontsize": 9, "color": PALETTE[1], "ha": "right", "va": "bottom"}
    upper.text(
        1,
        rival_psnr,
        f"principal components: {rival_psnr:.1f} dB",
        transform=upper.get_yaxis_transform(),
        **text,
    )
    best = history[history["best"]].iloc[0]
    upper.plot(best["epoch"], best["psnr"], "o", color=NEUTRAL, fillstyle="none", markersize=9)
    upper.annotate(
        f"kept: {best['psnr']:.2f} dB",
        (best["epoch"], best["psnr"]),
        textcoords="offset points",
        xytext=(-8, 8),
        ha="right",
        fontsize=9,
        color=NEUTRAL,
    )
    upper.set_ylabel("held-out PSNR (dB)\nhigher is better")
    lower.set_ylabel("training loss")
    lower.set_yscale("log")
    _label_plainly(lower)
    lower.set_xlabel("epoch")
    upper.legend(fontsize=8, loc="lower right")
    upper.set_title(f"Reconstruction over the training\n{shorten(title, 64)}", fontsize=10)
    return figure


def draw_progress(originals: np.ndarray, rows: dict[str, np.ndarray], ids: list[str], title: str) -> Figure:
    """Draw the same held-out pictures at several moments of the training, one row each.

    Args:
        originals: (K, 3, S, S) uint8.
        rows: Label: (K, 3, S, S) uint8 or floats in [0, 1], from the first moment to the last, and the rival.
        ids: image_id of each picture.
        title: The model's name.
    """
    everything = {"original": originals, **rows}
    figure, axes = new_figure(
        len(everything),
        len(ids),
        width=1.25 * len(ids) + 1.6,
        height=1.25 * len(everything) + 0.6,
        squeeze=False,
    )
    for line, (label, pictures) in zip(axes, everything.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.transpose(1, 2, 0))
            axis.axis("off")
        line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    for axis, name in zip(axes[0], ids, strict=True):
        axis.set_title(shorten(name.rsplit("/", 1)[-1], 18), fontsize=7)
    figure.suptitle(f"{shorten(title, 60)}: held-out pictures over the training", fontsize=10)
    return figure
