"""Figures by category. Everything is drawn from tables; names stand on the vertical axis, where long ones fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns

from utils.categories.tables import ALL_IMAGES, MEMORABILITY, NO_CATEGORY
from utils.core.figures import (
    NEUTRAL,
    PALETTE,
    category_colours,
    category_legend,
    new_figure,
    scatter_by_category,
    shorten,
    write_title,
)
from utils.statistics.clusters import IMAGE
from utils.statistics.correlation_tables import MIN_IMAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEAN = {
    "fmt": "o",
    "color": "black",
    "markerfacecolor": "white",
    "markersize": 5.5,
    "elinewidth": 1.4,
    "zorder": 5,
}
VIOLIN_FROM = 25  # images; fewer are drawn one by one
ROWS_PER_COLUMN = 45
LONGEST_NAME = 34
_LABELS = {
    MEMORABILITY: "memorability score",
    "distinctiveness": "distinctiveness (SD)",
    "category_centroid_distance": "distance to category centroid",
    "global_centroid_distance": "distance to global centroid",
}


def _label(measure: str) -> str:
    return _LABELS.get(measure, f"{measure} (larger: reconstructed worse)")


def _heading(measure: str) -> str:
    return _LABELS.get(measure, measure)


def _grid(count: int, most: int = 5) -> tuple[int, int]:
    """Return rows and columns for a number of panels."""
    columns = count if count <= 3 else min(most, -(-count // 2))
    return -(-count // columns), columns


def _name_width(names: Sequence[str]) -> float:
    """Inches that the longest name takes beside the panels."""
    return 0.4 + 0.078 * max((min(len(name), LONGEST_NAME) for name in names), default=0)


def _legend_width(categories: pd.Series) -> float:
    """Inches that the legend of the categories takes beside the panels."""
    return 0.5 + 0.08 * max((len(shorten(name)) for name in set(categories)), default=0)


def _row_height(count: int) -> float:
    """Inches per category: generous for few, tight for hundreds."""
    return float(np.clip(14 / max(count, 1), 0.2, 0.5))


def _nameless(frame: pd.DataFrame) -> bool:
    """Say whether no image has a category."""
    return bool((frame["category"] == NO_CATEGORY).all())


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    said = [ALL_IMAGES] if list(names) == [NO_CATEGORY] else [shorten(name, LONGEST_NAME) for name in names]
    axis.set_yticks(range(len(names)), said)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)


def _panels(
    measures: Sequence[str], names: Sequence[str], width: float = 2.9
) -> tuple[Figure, list[Axes], np.ndarray]:
    """Start a figure with a panel per measure and a row per name."""
    down, across = _grid(len(measures))
    figure, axes = new_figure(
        down,
        across,
        width=max(_name_width(names) + width * across + 0.3, 6.0),
        height=1.3 + down * (0.9 + _row_height(len(names)) * max(len(names), 2)),
        squeeze=False,
        sharey=True,
    )
    for axis in axes.flat[len(measures) :]:
        axis.set_visible(False)
    return figure, list(axes.flat[: len(measures)]), axes


# ------------------------------------------------------------------------------------------------ distributions


def draw_distributions(frame: pd.DataFrame, table: pd.DataFrame, title: str) -> Figure:
    """Draw each measure's distribution by category, with the mean and its 95 % interval.

    Args:
        frame: One row per image, with ``category`` and the measures.
        table: Its :func:`utils.categories.tables.distribution_table`.
        title: What is shown, of which network.
    """
    measures = list(dict.fromkeys(table["measure"]))
    names = [name for name in dict.fromkeys(sorted(table["category"])) if name != ALL_IMAGES]
    colours = category_colours(names)
    figure, panels, _ = _panels(measures, names, width=5.2 if len(measures) == 1 else 2.9)
    for axis, measure in zip(panels, measures, strict=True):
        rows = table[table["measure"] == measure].set_index("category")
        _distributions(axis, frame, measure, colours)
        means = rows.reindex(names)
        half_lengths = [means["mean"] - means["ci_low"], means["ci_high"] - means["mean"]]
        axis.errorbar(means["mean"], range(len(names)), xerr=half_lengths, **MEAN)
        if ALL_IMAGES in rows.index:
            axis.axvline(rows.loc[ALL_IMAGES, "mean"], color=NEUTRAL, linewidth=0.9, linestyle=(0, (4, 3)))
        _name_rows(axis, names)
        axis.set_xlabel(_label(measure) if len(measures) == 1 else _heading(measure))
        axis.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.locator_params(axis="x", nbins=5 if len(measures) == 1 else 4)
    by = "" if names == [NO_CATEGORY] else " by category"
    note = "dot: mean with 95 % interval; box or dashes: quartiles"
    note += "; vertical line: mean of all images" if len(names) > 1 else ""
    write_title(figure, f"{title}{by}, {len(frame):,} images\n{note}")
    return figure


def _distributions(axis: Axes, frame: pd.DataFrame, measure: str, colours: dict[str, str]) -> None:
    """Draw every category: its shape with its quartiles, or its images one by one where they are few.

    Many images of one single value have no shape, and thousands of dots in one place take minutes to be moved apart: their
    box says it all.
    """
    known = frame[frame["category"].isin(list(colours))].dropna(subset=measure)
    groups = known.groupby("category")[measure]
    many = known["category"].map(groups.size() >= VIOLIN_FROM)
    shaped = many & known["category"].map(groups.nunique() > 1)
    style = {
        "x": measure, "y": "category", "hue": "category", "order": list(colours), "hue_order": list(colours),
        "palette": colours, "legend": False, "ax": axis,
    }  # fmt: skip
    if shaped.any():
        sns.violinplot(
            known[shaped], **style, inner="quart", cut=0, density_norm="width", linewidth=0.8, alpha=0.5
        )
    if not shaped.all():
        few = known[~shaped]
        sns.boxplot(
            few, **style, width=0.4, whis=0, showfliers=False, showcaps=False, boxprops={"alpha": 0.4}
        )
    if not many.all():
        sns.swarmplot(known[~many], **style, size=3, warn_thresh=1, zorder=3)
    axis.set_ylabel("")


# ------------------------------------------------------------------------------------------------ correlations


def draw_rho(table: pd.DataFrame, title: str) -> Figure:
    """Draw rho with its interval by category, beside that of all images.

    Args:
        table: From :func:`utils.categories.tables.rho_table`.
        title: Title of the figure.
    """
    measures = list(dict.fromkeys(table["measure"]))
    largest = table.groupby("category")["n"].max().drop(ALL_IMAGES, errors="ignore")
    names = sorted(largest.index[largest >= MIN_IMAGES])
    names += [ALL_IMAGES] if ALL_IMAGES in set(table["category"]) else []
    names = names or sorted(largest.index)  # nothing is defined, and is said to be
    colours = category_colours([name for name in names if name != ALL_IMAGES]) | {ALL_IMAGES: "black"}
    figure, panels, axes = _panels(measures, names, width=5.2 if len(measures) == 1 else 2.6)
    for axis, measure in zip(panels, measures, strict=True):
        rows = table[table["measure"] == measure].set_index("category").reindex(names)
        _rho_panel(axis, rows, colours)
        axis.set_title(_heading(measure), fontsize=10)
    low = np.nanmin([*table["ci_low"], *table["ci_low_independent"], -0.05])
    high = np.nanmax([*table["ci_high"], *table["ci_high_independent"], 0.05])
    for axis in panels:
        axis.set_xlim(low - 0.04, high + 0.04)
        axis.locator_params(axis="x", nbins=4)
    for axis in axes[-1]:
        axis.set_xlabel("Spearman's ρ")
    write_title(figure, f"{title}\n{_about_rho(table, names, largest)}")
    return figure


def _rho_panel(axis: Axes, rows: pd.DataFrame, colours: dict[str, str]) -> None:
    """Draw one measure's rho by category."""
    axis.axvline(0, color=NEUTRAL, linewidth=0.8)
    if len(rows) > 1 and ALL_IMAGES in rows.index and np.isfinite(rows.loc[ALL_IMAGES, "rho"]):
        span = rows.loc[ALL_IMAGES, ["ci_low", "ci_high"]]
        axis.axvspan(*span, color="#DDDDDD", linewidth=0)
    for place, (name, row) in enumerate(rows.iterrows()):
        if not np.isfinite(row["rho"]):
            axis.text(0.02, place, "undefined", fontsize=8, color=NEUTRAL, va="center")
            continue
        ends = ("_independent", 5, 0.35), ("", 1.8, 1.0)  # thin and long over thick and short
        for suffix, width, alpha in ends:
            span = [row[f"ci_low{suffix}"], row[f"ci_high{suffix}"]]
            style = {"color": colours[name], "linewidth": width, "alpha": alpha}
            axis.plot(span, [place, place], solid_capstyle="butt", **style)
        axis.plot(row["rho"], place, "D" if name == ALL_IMAGES else "o", color=colours[name], markersize=6)
    _name_rows(axis, list(rows.index))
    axis.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    axis.set_axisbelow(True)


def _about_rho(table: pd.DataFrame, names: Sequence[str], largest: pd.Series) -> str:
    """Say what the lines are, and which categories are too small to have one."""
    clustered = (table["cluster"] != IMAGE).any()
    parts = [
        "thin: 95 % intervals, thick: if images were independent" if clustered else "lines: 95 % intervals"
    ]
    if ALL_IMAGES in names and len(names) > 1:
        parts.append("grey: interval of all images")
    small = largest[largest < MIN_IMAGES].sort_index()
    if len(small):
        shown = ", ".join(f"{shorten(name, 20)} {count}" for name, count in small.head(6).items())
        more = f" and {len(small) - 6} more categories" if len(small) > 6 else ""
        parts.append(f"fewer than {MIN_IMAGES} images: {shown}{more}")
    return "; ".join(parts)


def draw_scatters(frame: pd.DataFrame, table: pd.DataFrame, title: str) -> Figure:
    """Scatter memorability against each measure, in the colours of the categories.

    Args:
        frame: One row per image: ``category``, ``memorability`` and the measures.
        table: From :func:`utils.categories.tables.rho_table`.
        title: Title of the figure.
    """
    measures = list(dict.fromkeys(table["measure"]))
    categories = frame["category"].replace(NO_CATEGORY, "") if _nameless(frame) else frame["category"]
    legend = _legend_width(categories) if (categories != "").any() else 0.0
    down, across = _grid(len(measures))
    figure, axes = new_figure(
        down,
        across,
        width=max(0.6 + 2.9 * across, 4.6) + legend,
        height=1.2 + 2.9 * down,
        sharey=True,
        squeeze=False,
    )
    for axis, measure in zip(axes.flat, measures, strict=False):
        known = frame.dropna(subset=[measure, MEMORABILITY])
        scatter_by_category(axis, known[measure], known[MEMORABILITY], known["category"])
        rows = table[table["measure"] == measure].set_index("category")["rho"]
        rho = rows.get(ALL_IMAGES, rows.iloc[0] if len(rows) == 1 else np.nan)
        axis.set_title(f"ρ = {rho:.2f}" if np.isfinite(rho) else "ρ undefined", fontsize=10)
        axis.set_xlabel(_heading(measure))
        axis.locator_params(axis="x", nbins=4)
    for axis in axes.flat[len(measures) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(_LABELS[MEMORABILITY])
    category_legend(figure, categories)
    write_title(figure, f"{title}, {len(frame):,} images", beside=legend)
    return figure


# ------------------------------------------------------------------------------------------------ counts, ranks


def draw_splits(table: pd.DataFrame) -> Figure:
    """Draw how many images of each category are in each split.

    Args:
        table: From :func:`utils.categories.tables.split_table`.
    """
    counts = table.pivot(index="category", columns="split", values="n")[list(dict.fromkeys(table["split"]))]
    names = list(counts.index)
    figure, axis = new_figure(
        width=_name_width(names) + 6.2, height=1.5 + _row_height(len(names)) * max(len(names), 2)
    )
    left = np.zeros(len(names))
    for split, colour in zip(counts.columns, PALETTE, strict=False):
        axis.barh(range(len(names)), counts[split], left=left, color=colour, label=split, height=0.72)
        for place, (start, count) in enumerate(zip(left, counts[split], strict=True)):
            if count >= 0.06 * counts.sum(axis=1).max():
                axis.text(
                    start + count / 2,
                    place,
                    f"{count:,}",
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=9,
                )
        left += counts[split].to_numpy()
    _name_rows(axis, names)
    axis.set_xlabel("images")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    write_title(figure, f"Images by category and split ({int(counts.to_numpy().sum()):,} in all)")
    return figure


def draw_subcategories(table: pd.DataFrame) -> Figure:
    """Rank subcategories by mean memorability, in columns of at most 45.

    Args:
        table: From :func:`utils.categories.tables.subcategory_table`.
    """
    columns = max(1, -(-len(table) // ROWS_PER_COLUMN))
    per_column = -(-len(table) // columns)
    names = [shorten(name, 26) for name in table["subcategory"]]
    legend = _legend_width(table["category"])
    figure, axes = new_figure(
        1,
        columns,
        width=max((_name_width(names) + 2.3) * columns, 3.2 + legend) + legend,
        height=1.4 + 0.19 * max(per_column, 5),
        squeeze=False,
        sharex=True,
    )
    colours = category_colours(table["category"])
    for axis, start in zip(axes.flat, range(0, len(table), per_column), strict=True):
        part = table.iloc[start : start + per_column]
        shades = part["category"].map(colours)
        axis.hlines(range(len(part)), part["ci_low"], part["ci_high"], color=shades, linewidth=1.6)
        axis.scatter(part["mean"], range(len(part)), c=shades, s=22, zorder=3)
        labels = [f"{name}  {rank}" for name, rank in zip(names[start:], part["rank"], strict=False)]
        axis.set_yticks(range(len(part)), labels, fontsize=8)
        axis.set_ylim(per_column - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#E5E5E5", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_xlabel("mean memorability score")
    category_legend(figure, table["category"])
    write_title(figure, "Subcategories ranked by memorability (mean with 95 % interval)", beside=legend)
    return figure
