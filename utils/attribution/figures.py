"""Pictures of attributions: original, map and overlay side by side; most and least memorable; means; checks.

Maps are drawn as attribution times the number of pixels (:func:`utils.attribution.map_measures.density`), whose mean over
the image is the difference the prediction makes to the baseline's. Red raises the predicted score, blue
lowers it.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.core.figures import DIVERGING, NEUTRAL, PALETTE, new_figure, save_figure, shorten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from utils.attribution.gradients import Explanation

PICTURES_FOLDER = "ig"
# Values beyond this share of all pixels take the end colours, or a handful of pixels would bleach the rest.
LIMIT_PERCENTILE = 99.0
# Smoothing of what is drawn (never of what is stored), as a share of the side: 3 px at 224.
DISPLAY_SIGMA_SHARE = 3 / 224
MAX_NAME_BYTES = 160


def picture_names(names: Sequence[str]) -> list[str]:
    """Turn image names into distinct PNG file names.

    Args:
        names: Image ids or paths; ``animal/bear/1.jpg`` becomes ``animal_bear_1.png``.

    Returns:
        As many file names; where two would be the same, or one is very long, a digest of the name is added.
    """
    plain = [re.sub(r"[^\w.-]+", "_", str(Path(name).with_suffix(""))).strip("._") for name in names]
    counts = {name: plain.count(name) for name in set(plain)}
    result = []
    for name, stem in zip(names, plain, strict=True):
        if not stem or counts[stem] > 1 or len(stem.encode()) > MAX_NAME_BYTES:
            stem = f"{stem[-MAX_NAME_BYTES // 4 :]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        result.append(f"{stem}.png")
    return result


def _smooth(attribution: np.ndarray) -> np.ndarray:
    """Scale a map to its density and smooth it for the eye."""
    from scipy.ndimage import gaussian_filter

    values = np.asarray(attribution, dtype=np.float64) * attribution.size
    return gaussian_filter(values, DISPLAY_SIGMA_SHARE * max(values.shape), mode="nearest")


def _limit(values: np.ndarray) -> float:
    """Return the half-width of a colour scale around zero."""
    limit = float(np.percentile(np.abs(values), LIMIT_PERCENTILE))
    return limit or float(np.abs(values).max()) or 1.0


def _bare(axes: Axes, title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


def draw_panels(
    panels: Sequence[Axes], pixels: np.ndarray, attribution: np.ndarray, titles: bool
) -> AxesImage:
    """Fill three axes with the original, the attribution and the overlay.

    Args:
        panels: Three axes.
        pixels: (3, H, W), [0, 1].
        attribution: (H, W), per pixel, in units of the score.
        titles: Whether to head the columns.

    Returns:
        The drawn attribution, for a colour bar.
    """
    import matplotlib as mpl

    heads = ("original", "attribution", "overlay") if titles else ("", "", "")
    image = np.clip(np.moveaxis(np.asarray(pixels), 0, -1), 0, 1)
    values = _smooth(attribution)
    limit = _limit(values)
    for axes, head in zip(panels, heads, strict=True):
        _bare(axes, head)
    panels[0].imshow(image)
    drawn = panels[1].imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
    # Over a grey picture, so that the colours mean attribution alone; opaque where the attribution is strong.
    grey = image @ np.array([0.299, 0.587, 0.114])
    panels[2].imshow(0.35 + 0.65 * grey, cmap="gray", vmin=0, vmax=1)
    colours = mpl.colormaps[DIVERGING](np.clip(values / (2 * limit) + 0.5, 0, 1))
    colours[..., 3] = np.clip(np.abs(values) / limit, 0, 1) * 0.85
    panels[2].imshow(colours)
    return drawn


def _colour_bar(figure: Figure, drawn: AxesImage, panels: Sequence[Axes]) -> None:
    bar = figure.colorbar(drawn, ax=list(panels), fraction=0.035, pad=0.02, extend="both")
    bar.set_label("attribution x pixels (score)\nblue lowers, red raises", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def describe(explanation: Explanation) -> str:
    """Say in one line what was predicted and how exact the attribution is."""
    observed = "" if explanation.observed is None else f"observed {explanation.observed:.3f}   "
    note = "" if explanation.converged else " (above tolerance)"
    return (
        f"predicted {explanation.prediction:.3f}   {observed}baseline {explanation.baseline_prediction:.3f}   "
        f"delta {explanation.delta:+.1e}{note}"
    )


def draw_explanation(
    pixels: np.ndarray, attribution: np.ndarray, explanation: Explanation, caveat: str = ""
) -> Path:
    """Draw one image's explanation into ``explanation.path``.

    Args:
        pixels: (3, H, W), [0, 1].
        attribution: (H, W), per pixel, in units of the score.
        explanation: The numbers to print, and where the picture goes.
        caveat: What must be said on the picture.

    Returns:
        The picture's path.
    """
    figure, panels = new_figure(1, 3, width=10.2, height=3.9)
    _colour_bar(figure, draw_panels(panels, pixels, attribution, titles=True), panels)
    figure.suptitle(f"{shorten(explanation.name, 90)}\n{describe(explanation)}", fontsize=10)
    return save_figure(figure, explanation.path.parent, explanation.path.stem, ("png",), caveat)[0]


def draw_gallery(
    items: Sequence[tuple[np.ndarray, np.ndarray, Explanation]], title: str, path: Path, caveat: str = ""
) -> Path:
    """Draw several images' explanations, two to a line, each on its own colour scale.

    Args:
        items: (pixels, attribution, explanation) per image, in reading order.
        title: What they have in common.
        path: The PNG to write.
        caveat: What must be said on the picture.

    Returns:
        ``path``.
    """
    across = 1 if len(items) == 1 else 2
    lines = -(-len(items) // across)
    gaps = [1, 1, 1, 0.08] * across
    figure, grid = new_figure(
        lines, 4 * across, 6.6 * across, 2.45 * lines + 1.1, squeeze=False, gridspec_kw={"width_ratios": gaps}
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (pixels, attribution, explanation) in enumerate(items):
        line, start = index // across, 4 * (index % across)
        panels = grid[line, start : start + 3]
        for axes in panels:
            axes.set_axis_on()
        drawn = draw_panels(panels, pixels, attribution, titles=line == 0)
        score = "unknown" if explanation.observed is None else f"{explanation.observed:.3f}"
        panels[0].set_xlabel(f"observed {score}, predicted {explanation.prediction:.3f}", fontsize=8)
        panels[1].set_xlabel(f"colours: -{drawn.norm.vmax:.2g} to {drawn.norm.vmax:.2g}", fontsize=8)
        panels[2].set_xlabel(shorten(explanation.name, 34), fontsize=8)
    note = "attribution x pixels (score): red raises the predicted score, blue lowers it;"
    end = " " if across > 1 else "\n"
    figure.suptitle(f"{title}\n{note}{end}each picture on its own scale", fontsize=10)
    return save_figure(figure, path.parent, path.stem, ("png",), caveat)[0]


def draw_mean_maps(
    mean: np.ndarray, mean_absolute: np.ndarray, count: int, title: str, path: Path, caveat: str = ""
) -> Path:
    """Draw where attribution falls on average over a set.

    Args:
        mean: (H, W), mean attribution per pixel.
        mean_absolute: (H, W), mean of the absolute attribution per pixel.
        count: Images averaged.
        title: Heading.
        path: The PNG to write.
        caveat: What must be said on the picture.

    Returns:
        ``path``.
    """
    figure, (left, right) = new_figure(1, 2, width=9.4, height=4.4)
    signed, mass = _smooth(mean), _smooth(mean_absolute)
    limit = _limit(signed)
    first = left.imshow(signed, cmap=DIVERGING, vmin=-limit, vmax=limit)
    second = right.imshow(mass, cmap="viridis", vmin=0, vmax=float(mass.max()) or 1.0)
    for axes, drawn, head, label in (
        (left, first, "mean attribution", "attribution x pixels (score)"),
        (right, second, "mean absolute attribution", "|attribution| x pixels (score)"),
    ):
        _bare(axes, head)
        figure.colorbar(drawn, ax=axes, fraction=0.045, pad=0.03).set_label(label)
    figure.suptitle(f"{title}, {count} images")
    return save_figure(figure, path.parent, path.stem, ("png",), caveat)[0]


# ---------------------------------------------------------------------------------------------- a whole set


def gallery_paths(output_path: Path, model: str) -> dict[str, Path]:
    """Return where the pictures over a model's whole set stand, by what they show."""
    kinds = ("mean_map", "most_memorable", "least_memorable")
    return {kind: Path(output_path) / PICTURES_FOLDER / f"{model}_{kind}.png" for kind in kinds}


def extremes(scores: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the highest and of the lowest scores, each from the extreme inwards.

    No row is in both: of fewer than ``2 top_k`` rows the upper half goes to the first (the middle one too).

    Args:
        scores: (N,).
        top_k: Rows wanted of each.
    """
    order = np.argsort(-scores, kind="stable")
    high = min(top_k, (len(order) + 1) // 2)
    low = min(top_k, len(order) - high)
    return order[:high], order[len(order) - low :][::-1]


def draw_set(
    frame: pd.DataFrame,
    maps: np.ndarray,
    load: Callable[[str], np.ndarray],
    output_path: Path,
    model: str,
    *,
    top_k: int,
    caveat: str = "",
) -> list[Path]:
    """Draw the mean map, and the most and least memorable images one by one and together.

    Args:
        frame: Rows of ``ig_<model>.csv`` with the images' ``path``.
        maps: (N, H, W) stored maps (:func:`utils.attribution.map_measures.density`), row i belonging to row i.
        load: Reads an image: (3, H, W), [0, 1].
        output_path: The output folder; pictures go to its folder ``ig``. Single images' pictures of earlier runs
            that are not drawn again are removed.
        model: The checkpoint's stem.
        top_k: Images to draw from either end; 0 for the mean map alone.
        caveat: What must be said on every picture.

    Returns:
        The pictures.
    """
    paths = gallery_paths(output_path, model)
    drawn = [_draw_mean_of(maps, paths["mean_map"], model, caveat)]
    rows = np.concatenate(extremes(frame["memorability"].to_numpy(), top_k))
    names = dict(zip(rows, picture_names(frame["image_id"].iloc[rows].tolist()), strict=True))
    folder = Path(output_path) / PICTURES_FOLDER
    for kind, chosen in zip(
        ("most", "least"), extremes(frame["memorability"].to_numpy(), top_k), strict=True
    ):
        items = []
        for row in chosen:
            explanation = _explanation(frame.iloc[row], folder / f"{model}_picture_{names[row]}")
            items.append((load(frame["path"].iloc[row]), maps[row] / np.float64(maps[row].size), explanation))
            drawn.append(draw_explanation(*items[-1], caveat))
        if items:
            title = f"The {kind} memorable of {len(frame)} images, by observed score ({model})"
            drawn.append(draw_gallery(items, title, paths[f"{kind}_memorable"], caveat))
    for stale in set(folder.glob(f"{glob.escape(model)}_picture_*.png")) - set(drawn):
        stale.unlink()
    return drawn


def _draw_mean_of(maps: np.ndarray, path: Path, model: str, caveat: str) -> Path:
    total, absolute = np.zeros(maps.shape[1:]), np.zeros(maps.shape[1:])
    for stored in maps:
        values = stored.astype(np.float64) / stored.size
        total += values
        absolute += np.abs(values)
    return draw_mean_maps(total / len(maps), absolute / len(maps), len(maps), model, path, caveat)


def _explanation(row: pd.Series, path: Path) -> Explanation:
    from utils.attribution.gradients import Explanation

    names = ("memorability", "prediction", "baseline_prediction", "convergence_delta")
    observed, prediction, baseline, delta = (float(row[name]) for name in names)
    return Explanation(row["image_id"], path, observed, prediction, baseline, delta, bool(row["converged"]))


# ---------------------------------------------------------------------------------------------- the checks


def draw_checks(checks: pd.DataFrame, verdicts: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of ``ig_checks.csv``: weight randomisation of signed and absolute maps, deletion and insertion.

    Args:
        checks: Rows of one model: ``image_id, check, level, value, control``.
        verdicts: By :func:`utils.attribution.checks.summarise_checks`.
        title: Heading.

    Returns:
        The figure, a panel per check, each with its verdict.
    """
    figure, panels = new_figure(2, 2, width=11.0, height=8.4)
    judged = verdicts.set_index("check")
    for axes, check in zip(
        panels.flat, ("randomisation", "randomisation_absolute", "deletion", "insertion"), strict=True
    ):
        rows = checks[checks["check"] == check]
        if check.startswith("randomisation"):
            _draw_randomisation(axes, rows, "absolute" if check.endswith("absolute") else "signed")
        else:
            _draw_curves(axes, rows, check)
        found = judged.loc[check]
        axes.set_title(
            f"{axes.get_title()}: {found['verdict']}\n"
            f"gain {found['mean']:+.3f} [{found['ci_low']:+.3f}, {found['ci_high']:+.3f}]"
        )
    figure.suptitle(title)
    return figure


def _draw_randomisation(axes: Axes, rows: pd.DataFrame, kind: str) -> None:
    from utils.attribution.checks import HALF, level_number

    wide = rows.pivot(index="level", columns="image_id", values="value")
    wide = wide.sort_index(key=lambda levels: levels.map(level_number))
    places, median = np.arange(len(wide)), wide.median(axis=1)
    axes.plot(places, wide.to_numpy(), color=PALETTE[0], alpha=0.2, linewidth=0.8)
    axes.plot(places, median, color=PALETTE[0], marker="o", label="median of the images")
    axes.axhline(HALF * median.iloc[0], color=PALETTE[1], linestyle="--", label="half of the control")
    axes.axhline(0, color=NEUTRAL, linewidth=0.8)
    axes.set_xticks(places, [_level_name(level) for level in wide.index], rotation=30, ha="right")
    axes.set(ylabel="Spearman rho with the true map", ylim=(None, 1.05))
    axes.set_title(f"weights shuffled, {kind} maps")
    axes.set_xlabel("weights shuffled, from the output down (none: half the steps)")
    axes.legend()


def _level_name(level: str) -> str:
    name = level.split(" ", 1)[-1]
    return name if name == "none" else f"+ {name}"


def _draw_curves(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    points = rows[rows["level"] != "area"]
    points = points.assign(fraction=points["level"].astype(float))
    mean = points.groupby("fraction")[["value", "control"]].mean()
    axes.plot(
        mean.index, mean["value"], color=PALETTE[0], marker="o", markersize=3, label="in the map's order"
    )
    axes.plot(mean.index, mean["control"], color=NEUTRAL, linestyle="--", label="in random order")
    axes.set(
        xlabel=f"share of patches {'deleted' if name == 'deletion' else 'inserted'}",
        ylabel="predicted score (mean)",
    )
    axes.set_title(f"{name}, {'lower' if name == 'deletion' else 'higher'} is better")
    axes.legend()


def draw_cascade(pixels: np.ndarray, cascade: np.ndarray, levels: Sequence[str], title: str) -> Figure:
    """Draw what becomes of maps while weights are shuffled from the output down (Adebayo et al. 2018, figure 2).

    Args:
        pixels: (M, 3, H, W), [0, 1].
        cascade: (L, M, H, W), the maps at each level, the true weights' first.
        levels: L names.
        title: Heading.

    Returns:
        The figure: a line per image and kind of map (signed, absolute), a column per level, each map on its own scale.
    """
    figure, panels = new_figure(
        2 * len(pixels), len(levels) + 1, width=1.5 * (len(levels) + 1), height=3.1 * len(pixels)
    )
    panels = np.asarray(panels).reshape(2 * len(pixels), len(levels) + 1)
    for number, image in enumerate(pixels):
        for line, kind in enumerate(("signed", "absolute")):
            row = panels[2 * number + line]
            _bare(row[0], "image" if not number and not line else "")
            row[0].imshow(np.clip(np.moveaxis(image, 0, -1), 0, 1))
            row[0].set_ylabel(kind)
            for axes, level, attribution in zip(row[1:], levels, cascade[:, number], strict=True):
                head = level if level == levels[0] else _level_name(level)
                _bare(axes, head if not number and not line else "")
                if kind == "signed":
                    values = _smooth(attribution)
                    limit = _limit(values)
                    axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
                else:
                    axes.imshow(_smooth(np.abs(attribution)), cmap="viridis")
    figure.suptitle(title)
    return figure


def draw_agreement(table: pd.DataFrame, title: str) -> Figure:
    """Draw how far the maps of different baselines agree.

    Args:
        table: By :func:`utils.attribution.agreement.agreement_table`.
        title: Heading.

    Returns:
        The figure: a grid of median rho between baselines, for signed and for absolute maps.
    """
    import pandas as pd
    import seaborn as sns

    names = list(dict.fromkeys([*table["baseline"], *table["other_baseline"]]))
    figure, panels = new_figure(1, 2, width=2.6 + 1.8 * len(names), height=1.8 + 0.8 * len(names))
    median = table.groupby(["baseline", "other_baseline"], sort=False)[["rho", "rho_absolute"]].median()
    for axes, column, head in zip(
        panels, ("rho", "rho_absolute"), ("signed maps", "absolute maps"), strict=True
    ):
        grid = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
        for (first, second), value in median[column].items():
            grid.loc[first, second] = grid.loc[second, first] = value
        sns.heatmap(
            grid, ax=axes, vmin=-1, vmax=1, cmap=DIVERGING, annot=True, fmt=".2f", square=True, cbar=False
        )
        axes.set_title(head)
    figure.suptitle(title)
    return figure
