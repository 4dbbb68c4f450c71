"""Figures of the evaluation: correlations with intervals, scatters with a curve per category, reliability of the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.core.figures import (
    NEUTRAL,
    PALETTE,
    category_colours,
    dot_style,
    new_figure,
    shorten,
    titled_legend,
    write_title,
)
from utils.core.names import RIVAL_MODEL, RIVALS
from utils.statistics.clusters import IMAGE, find_clusters
from utils.statistics.noise_ceiling import one_split, score_reliability
from utils.statistics.rank_correlation import spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERALL, WITHIN = PALETTE[0], PALETTE[1]
HEXBIN_FROM = 1500  # images; fewer are drawn one by one
CURVE_FROM = 50  # images; a curve of fewer would show noise
MAX_LINES = 8  # categories with a curve of their own: as many as there are colours
MEMORABILITY_LABEL = "memorability score"


def draw_forest(correlations: pd.DataFrame) -> Figure:
    """Draw rho with its interval per loss, overall beside within category; a panel per model, the rivals in each.

    Args:
        correlations: rows of `loss_correlations.csv`.

    Returns:
        The figure; undefined correlations are named as such.
    """
    correlations = _rivals_in_every_panel(correlations)
    models = list(dict.fromkeys(correlations["model"]))
    measures = list(dict.fromkeys(correlations["measure"]))
    clustered = (correlations["cluster"] != IMAGE).any()
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    figure, axes = new_figure(
        rows,
        columns,
        width=2.2 + 3.9 * columns,
        height=1.3 + (0.7 + 0.36 * len(measures)) * rows,
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, model in zip(axes.flat, models, strict=False):
        table = correlations[correlations["model"] == model].set_index("measure").reindex(measures)
        _forest_panel(axis, table)
        ceiling = table["ceiling"].max()
        reach = f"\nnoise ceiling {ceiling:.2f}" if np.isfinite(ceiling) else ""
        axis.set_title(shorten(model, 38) + reach, fontsize=10)
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(measures)), measures)
    axes[0, 0].set_ylim(len(measures) - 0.4, -0.6)
    for axis in axes[-1]:
        axis.set_xlabel(
            "Spearman's ρ with memorability (95 % interval"
            + (";\nthick: if images were independent)" if clustered else ")")
        )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    title = f"Reconstruction error and memorability\n{_image_count(correlations['n'])}"
    titled_legend(figure, handles, len(labels), title)
    return figure


def _image_count(counts: pd.Series) -> str:
    """Say on how many images a figure's numbers rest."""
    low, high = counts.min(), counts.max()
    if not np.isfinite(high):
        return "no images"
    return f"{high:,.0f} images" if low == high else f"{low:,.0f} to {high:,.0f} images"


def _rivals_in_every_panel(correlations: pd.DataFrame) -> pd.DataFrame:
    """Repeat the rows of the rivals, which know no network, under each network, named as what they are."""
    of_rivals = correlations["model"] == RIVAL_MODEL
    networks, rivals = correlations[~of_rivals], correlations[of_rivals]
    if rivals.empty or networks.empty:
        return correlations
    rivals = rivals.assign(measure="rival: " + rivals["measure"])
    return pd.concat([networks, *(rivals.assign(model=model) for model in networks["model"].unique())])


def _forest_panel(axis: Axes, table: pd.DataFrame) -> None:
    """Draw one model's losses, in the order of the rows."""
    places = np.arange(len(table))
    axis.axvline(0, color=NEUTRAL, linewidth=0.8)
    kinds = (
        ("overall", -0.13, OVERALL, "o", ""),
        ("within category", 0.13, WITHIN, "D", "_within_category"),
    )
    for label, shift, colour, marker, suffix in kinds:
        rho = table[f"rho{suffix}"].to_numpy(np.float64)
        for kind, width, alpha in (
            ("_independent", 5, 0.35),
            ("", 1.8, 1.0),
        ):  # thin and long over thick and short
            low, high = (table[f"{end}{suffix}{kind}"].to_numpy(np.float64) for end in ("ci_low", "ci_high"))
            axis.hlines(places + shift, low, high, color=colour, linewidth=width, alpha=alpha)
        face = colour if marker == "o" else "white"
        axis.plot(
            rho,
            places + shift,
            marker,
            color=colour,
            markerfacecolor=face,
            markersize=6,
            label=label,
            zorder=3,
        )
    note = {"fontsize": 8, "color": NEUTRAL}
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for place in places[table["rho"].isna()]:
        text = "undefined" if pd.notna(table["n"].iloc[place]) else "not computed"
        axis.text(0.02, place, text, transform=axis.get_yaxis_transform(), va="center", bbox=box, **note)
    axis.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axis.set_axisbelow(True)


def draw_scatter(frame: pd.DataFrame, columns: dict[str, str], table: pd.DataFrame, model: str) -> Figure:
    """Draw memorability against each loss of a model, with a smooth curve per category.

    The curves are natural cubic splines (:func:`smooth_curve`), which show whatever monotone or other shape there is;
    a category of fewer than :data:`CURVE_FROM` images has none. Without categories one curve is of all images.

    Args:
        frame: a row per image with `memorability`, `category`, the measure columns and what clusters are made of.
        columns: {loss: column of `frame`}.
        table: rows of `loss_correlations.csv` of this model.
        model: name for the title.

    Returns:
        The figure, a panel per loss.
    """
    across = min(4 if len(columns) in (4, 7, 8) or len(columns) > 9 else 3, len(columns))
    down = -(-len(columns) // across)
    figure, axes = new_figure(
        down, across, width=1.2 + 2.9 * across, height=1.5 + 2.7 * down, sharey=True, squeeze=False
    )
    sizes = frame.loc[frame["category"] != "", "category"].value_counts()
    shown = sorted(sizes.index[:MAX_LINES])
    colours = category_colours(shown)
    unit = table["cluster"].iloc[0]
    codes = None if unit == IMAGE else find_clusters(frame, unit).codes(frame)
    curves = 0
    rho = table.set_index("measure")["rho"]
    for axis, (loss, column) in zip(axes.flat, columns.items(), strict=False):
        data = frame[["memorability", "category", column]].assign(cluster=codes).dropna(subset=column)
        curves += _scatter_panel(axis, data, column, colours)
        value = f"ρ = {rho[loss]:.2f}".replace("-", "−") if np.isfinite(rho[loss]) else "ρ undefined"
        axis.set_title(f"{shorten(loss, 24)}   {value}")
        named = {"exposure": "training loss at exposure", **dict.fromkeys(RIVALS, "measure, no network")}
        axis.set_xlabel(named.get(loss, "reconstruction error"))
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(MEMORABILITY_LABEL)
    name = f"reconstruction error: {shorten(model, int(9 * figure.get_figwidth()) - 46)}"
    against = "measures that need no network" if model == RIVAL_MODEL else name
    title = f"Memorability against {against}, {_image_count(table['n'])}\n{_about_curves(curves, unit)}"
    _category_legend(figure, colours, len(sizes), title)
    return figure


def _about_curves(curves: int, unit: str) -> str:
    """Say what the curves are, or why there are none."""
    if not curves:
        return f"no curves: fewer than {CURVE_FROM} images of a kind"
    resampled = "images taken as independent" if unit == IMAGE else f"clustered by {unit}"
    return f"curves: natural cubic splines with 95 % bands ({resampled}), from {CURVE_FROM} images"


def _category_legend(figure: Figure, colours: dict[str, str], categories: int, title: str) -> None:
    """Name the categories under the figure's title, and say if not all have a colour."""
    from matplotlib.lines import Line2D

    if not colours:
        write_title(figure, title)
        return
    handles = [
        Line2D([], [], color=colour, linewidth=2.5, label=shorten(name)) for name, colour in colours.items()
    ]
    if categories > len(colours):
        handles.append(
            Line2D([], [], linestyle="none", label=f"(the {len(colours)} largest of {categories} categories)")
        )
    across = _legend_columns(figure, [handle.get_label() for handle in handles])
    # Above the panels: the foot of the figure is where caveats go.
    titled_legend(figure, handles, across, title)


def _legend_columns(figure: Figure, labels: list[str]) -> int:
    """Return how many entries of a legend fit side by side across a figure."""
    width_inches = 0.6 + 0.08 * max(len(label) for label in labels)
    return min(max(int(figure.get_figwidth() / width_inches), 1), len(labels))


def _scatter_panel(axis: Axes, data: pd.DataFrame, column: str, colours: dict[str, str]) -> int:
    """Draw one loss: density or points, and the categories' curves; return how many curves."""
    x, y = data[column].to_numpy(np.float64), data["memorability"].to_numpy(np.float64)
    if len(x) >= HEXBIN_FROM:
        low, high = np.quantile(x, [0.005, 0.995])
        if low == high:
            low, high = low - 0.5, high + 0.5
        inside = (x >= low) & (x <= high)
        axis.hexbin(
            x[inside],
            y[inside],
            gridsize=32,
            cmap="Greys",
            bins="log",
            linewidths=0,
            alpha=0.6,
            rasterized=True,
        )
        axis.set_xlim(low, high)
    else:
        tints = [colours.get(name, NEUTRAL) for name in data["category"]]
        axis.scatter(x, y, c=tints, **dot_style(len(x)))
    groups = {name: (data["category"] == name).to_numpy() for name in colours} or {"": np.ones(len(x), bool)}
    curves = 0
    for name, inside in groups.items():
        codes = data["cluster"].to_numpy()[inside] if data["cluster"].notna().all() else None
        curve = smooth_curve(x[inside], y[inside], codes)
        if curve is None:
            continue
        curves += 1
        colour = colours.get(name, OVERALL)
        axis.fill_between(
            curve["x"], curve["ci_low"], curve["ci_high"], color=colour, alpha=0.25, linewidth=0
        )
        axis.plot(curve["x"], curve["y"], color="white", linewidth=3.4, solid_capstyle="round")
        axis.plot(curve["x"], curve["y"], color=colour, linewidth=1.9, solid_capstyle="round")
    axis.locator_params(axis="x", nbins=4)
    return curves


def smooth_curve(x: np.ndarray, y: np.ndarray, codes: np.ndarray | None = None) -> pd.DataFrame | None:
    """Fit a natural cubic spline of four degrees of freedom, with a pointwise 95 % band for its mean.

    The middle 98 % of x are drawn, where there is something to fit to. The band is from the sandwich estimator:
    robust to unequal variances, and to what images of one cluster share where there are at least ten clusters.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        codes: (n,) cluster of each image; None if images are independent.

    Returns:
        ``x, y, ci_low, ci_high`` at 60 places, ascending in x; None for fewer than :data:`CURVE_FROM` images and for fewer
        than ten values of x.
    """
    import statsmodels.api as sm
    from patsy import build_design_matrices, dmatrix

    if len(x) < CURVE_FROM or len(np.unique(x)) < 10:
        return None
    low, high = np.quantile(x, [0.01, 0.99])
    if low == high:
        return None
    # knots at quantiles of ranks would follow ties; of values they follow the images
    basis = dmatrix("cr(x, df=4) - 1", {"x": (x - low) / (high - low)})
    places = np.linspace(0, 1, 60)
    drawn = build_design_matrices([basis.design_info], {"x": places})[0]
    if codes is not None and len(np.unique(codes)) >= 10:
        fit = sm.OLS(y, basis).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    else:
        fit = sm.OLS(y, basis).fit(cov_type="HC3")
    band = fit.get_prediction(drawn).summary_frame(alpha=0.05)
    return pd.DataFrame(
        {
            "x": low + places * (high - low),
            "y": band["mean"],
            "ci_low": band["mean_ci_lower"],
            "ci_high": band["mean_ci_upper"],
        }
    )


def draw_reliability(
    frame: pd.DataFrame, correlations: pd.DataFrame, splits: int, seed: int
) -> Figure | None:
    """Draw how reliable the scores are, and how much of what is attainable each loss attains.

    Args:
        frame: a row per image with `memorability, hits, false_alarms, n_resp`, or published halves.
        correlations: rows of `loss_correlations.csv`.
        splits: number of random splits behind the ceiling, where it comes from counts.
        seed: seed of the splits; the one drawn is the first.

    Returns:
        The figure, or None where neither counts nor halves explain the scores.
    """
    ceiling = score_reliability(frame, splits=splits, seed=seed)
    halves = one_split(frame, seed=seed)
    if ceiling is None or halves is None:
        return None
    first, second = halves
    table = correlations.dropna(subset=["rho_over_ceiling"])
    models, measures = table["model"].nunique(), table["measure"].nunique()
    height = max(4.8, 1.7 + 0.25 * -(-models // 2) + 0.1 * measures * max(models, 3))
    figure, (left, right) = new_figure(
        1, 2, width=10.2, height=height, gridspec_kw={"width_ratios": [1, 1.2]}
    )
    _halves_panel(left, first, second)
    splits = int(ceiling["splits"])
    drawn = "the published halves of the responses" if splits == 1 else f"one of {splits} random halvings"
    left.set_title(f"{drawn}: ρ = {spearman(first, second)[0]:.2f}")
    _share_panel(right, table)
    mean = "" if splits == 1 else f"mean ρ of the {splits} halvings {ceiling['half_rho']:.3f}, "
    title = (
        f"Reliability of the memorability scores of {len(first):,} images\n{mean}Spearman-Brown "
        f"{ceiling['reliability']:.3f}, noise ceiling of a ρ {ceiling['ceiling']:.3f}"
    )
    handles, labels = right.get_legend_handles_labels()
    if labels:
        across = _legend_columns(figure, labels)
        titled_legend(figure, handles, across, title)
    else:
        write_title(figure, title)
    return figure


def _halves_panel(axis: Axes, first: np.ndarray, second: np.ndarray) -> None:
    """Draw the scores of one half of the responses against those of the other."""
    if len(first) >= HEXBIN_FROM:
        axis.hexbin(first, second, gridsize=32, cmap="Blues", bins="log", linewidths=0, rasterized=True)
    else:
        axis.scatter(first, second, color=OVERALL, **dot_style(len(first)))
    ends = [min(first.min(), second.min()), max(first.max(), second.max())]
    axis.plot(ends, ends, color=NEUTRAL, linewidth=0.8, linestyle="--")
    axis.set_xlabel("score from one half")
    axis.set_ylabel("score from the other half")
    axis.set_aspect("equal", adjustable="box")


def _share_panel(axis: Axes, table: pd.DataFrame) -> None:
    """Draw rho over the ceiling, with its interval, per loss; the models side by side."""
    models = list(dict.fromkeys(table["model"]))
    measures = list(dict.fromkeys(table["measure"]))
    axis.axvline(0, color=NEUTRAL, linewidth=0.8)
    axis.axvline(1, color=NEUTRAL, linewidth=0.8, linestyle="--")
    step = 0.7 / max(len(models), 3)
    for position, model in enumerate(models):
        rows = table[table["model"] == model].set_index("measure").reindex(measures)
        places = np.arange(len(measures)) + step * (position - (len(models) - 1) / 2)
        low, value, high = (rows[name] / rows["ceiling"] for name in ("ci_low", "rho", "ci_high"))
        colour = PALETTE[position % len(PALETTE)]
        axis.hlines(places, low, high, color=colour, linewidth=2)
        marker = "osDv^P*X"[position // len(PALETTE) % 8]
        axis.plot(value, places, marker, color=colour, markersize=5, label=shorten(model, 40))
    axis.set_yticks(range(len(measures)), [shorten(measure, 24) for measure in measures])
    axis.set_ylim(max(len(measures), 1) - 0.4, -0.6)
    axis.set_xlim(right=1.04)
    axis.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_xlabel("ρ / noise ceiling (95 % interval)")
    axis.set_title("share of the attainable ρ that each error reaches")
