"""Figures of the steering stage: strips of pictures, gains beside their controls, what changed in the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from utils.core.errors import ImageError
from utils.core.figures import NEUTRAL, PALETTE, new_figure, shorten
from utils.data.images import load_pixels
from utils.steering.evaluation import CONTROLS, METHODS, RECONSTRUCTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.core.run import Run

STRIPS = 6
SHOWN_FEATURES = 12
COLUMNS = ("photograph", "less memorable (predicted)", "reconstruction", "more memorable (predicted)")


def draw_all(
    run: Run,
    model: str,
    table: pd.DataFrame,
    summary: pd.DataFrame,
    changes: pd.DataFrame,
    images: pd.DataFrame,
) -> None:
    """Draw and save the stage's figures, the strips at the largest change."""
    step = table["step"].min()
    strips = draw_strips(table[table["step"] == step], images, run.output_path, run.args.image_size, model)
    run.save_figure(strips, f"steering_strips_{model}", formats=("png",))
    run.save_figure(draw_gains(summary, model), f"steering_gains_{model}")
    run.save_figure(draw_changes(changes[changes["step"] == step], model), f"steering_features_{model}")


def pick_strips(table: pd.DataFrame, count: int = STRIPS) -> list[str]:
    """Pick images evenly from the largest gain to the smallest, both included.

    Args:
        table: Rows of one step of ``steering_<model>.csv``.
        count: How many, at most.
    """
    risen = table[table["method"] == "gradient"]
    gain = (risen["score_after"] - risen["score_before"]).set_axis(risen["image_id"])
    ordered = gain.sort_values(ascending=False, kind="stable").index
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[place] for place in places]


def draw_strips(table: pd.DataFrame, images: pd.DataFrame, folder: Path, size: int, model: str) -> Figure:
    """Show photographs, their reconstructions and both moved versions, with the predicted scores beneath.

    Args:
        table: Rows of one step.
        images: ``image_id`` and ``path``.
        folder: The output folder, in which ``picture`` stands.
        size: Side of the pictures.
        model: Name for the title.
    """
    names = pick_strips(table)
    figure, axes = new_figure(len(names), 4, width=8.4, height=2.3 * len(names) + 0.9, squeeze=False)
    paths = images.set_index("image_id")["path"]
    for row, name in zip(axes, names, strict=True):
        own = table[table["image_id"] == name].set_index("method")
        start = (folder / own.loc["gradient", "picture"]).with_name(f"{RECONSTRUCTION}.png")
        _show(row[0], _photograph(paths[name], size), f"remembered: {own.iloc[0]['memorability']:.2f}")
        _show(row[2], start, _score(own.loc["gradient"], "before"))
        for axis, method in ((row[1], "descent"), (row[3], "gradient")):
            _show(axis, folder / own.loc[method, "picture"], _score(own.loc[method], "after"))
        row[0].text(
            -0.06,
            0.5,
            shorten(name.split("/")[-1], 22),
            transform=row[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            fontsize=7,
            color=NEUTRAL,
        )
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, fontsize=9)
    figure.suptitle(
        f"Steering of {shorten(model, 40)} at {table['step'].iloc[0]:g} dB: from the largest gain of the head to the "
        "smallest",
        fontsize=10,
    )
    return figure


def _photograph(path: str, size: int) -> np.ndarray | str:
    try:
        return load_pixels(path, size).transpose(1, 2, 0)
    except ImageError:
        return "not read"


def _score(row: pd.Series, when: str) -> str:
    text = f"head {row[f'score_{when}']:.3f}"
    judge = row[f"judge_{when}"]
    return text + (f" · judge {judge:.3f}" if np.isfinite(judge) else "")


def _show(axis: Axes, picture: np.ndarray | Path | str, text: str) -> None:
    axis.set_axis_off()
    if isinstance(picture, str):
        axis.text(0.5, 0.5, picture, ha="center", va="center", fontsize=8, color=NEUTRAL)
    else:
        axis.imshow(
            np.asarray(Image.open(picture, formats=["PNG"])) if isinstance(picture, Path) else picture
        )
    axis.text(0.5, -0.04, text, transform=axis.transAxes, ha="center", va="top", fontsize=8)


def draw_gains(summary: pd.DataFrame, model: str) -> Figure:
    """Draw the mean gain of every method and control with its interval: a panel by head and one by judge."""
    own = summary[summary["versus"] == RECONSTRUCTION]
    predictors = [name for name in ("head", "judge") if (own["predictor"] == name).any()]
    figure, axes = new_figure(
        1, len(predictors), width=2.2 + 3.9 * len(predictors), height=4.4, squeeze=False
    )
    methods = [name for name in (*METHODS, *CONTROLS) if (own["method"] == name).any()]
    steps = sorted(own["step"].unique(), reverse=True)
    for axis, predictor in zip(axes[0], predictors, strict=True):
        for number, step in enumerate(steps):
            rows = (
                own[(own["predictor"] == predictor) & (own["step"] == step)]
                .set_index("method")
                .reindex(methods)
            )
            places = np.arange(len(methods)) + (number - (len(steps) - 1) / 2) * 0.22
            ends = np.abs(rows[["ci_low", "ci_high"]].sub(rows["gain"], axis=0).to_numpy().T)
            axis.errorbar(
                rows["gain"],
                places,
                xerr=ends,
                fmt="o",
                markersize=4,
                capsize=2,
                color=PALETTE[number],
                label=f"{step:g} dB",
            )
        axis.axvline(0, color=NEUTRAL, linewidth=0.8)
        axis.set_yticks(range(len(methods)), methods if axis is axes[0][0] else [""] * len(methods))
        axis.set_ylim(len(methods) - 0.4, -0.6)
        axis.axhline(len(set(methods) & set(METHODS)) - 0.5, color=NEUTRAL, linewidth=0.6, linestyle=":")
        axis.set_xlabel("change in predicted memorability (score)")
        axis.set_title(
            f"by the {predictor}" + (" it was steered by" if predictor == "head" else ", a second opinion")
        )
    axes[0][0].legend(title="least PSNR", loc="best")
    figure.suptitle(
        f"{shorten(model, 40)}: mean gain over {own['n'].max()} images with 95 % intervals; methods above the line, "
        "controls below",
        fontsize=9,
    )
    return figure


def draw_changes(changes: pd.DataFrame, model: str) -> Figure:
    """Draw which features change most when the score is raised, beside what descent does to them."""
    wide = changes.pivot(index="feature", columns="method", values="difference_sd").dropna(
        subset=["gradient"]
    )
    order = wide["gradient"].abs().sort_values(ascending=False, kind="stable").index[:SHOWN_FEATURES]
    figure, axis = new_figure(width=6.8, height=1.4 + 0.33 * len(order))
    for name, colour, marker in (
        ("gradient", PALETTE[1], "o"),
        ("ridge", PALETTE[4], "s"),
        ("descent", PALETTE[0], "v"),
        ("random", PALETTE[6], "x"),
    ):
        if name in wide:
            axis.plot(
                wide.loc[order, name], range(len(order)), marker, color=colour, label=name, markersize=6
            )
    axis.axvline(0, color=NEUTRAL, linewidth=0.8)
    axis.set_yticks(range(len(order)), order)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    axis.set_xlabel("mean change (standard deviations of the feature over the reconstructions)")
    axis.legend(loc="best")
    axis.set_title(
        f"What moves with the predicted score\n{shorten(model, 40)}, {changes['step'].iloc[0]:g} dB, up to "
        f"{changes['n'].max()} images",
        fontsize=10,
    )
    return figure
