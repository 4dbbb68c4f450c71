"""The figures of the feature stage, drawn from its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns

from utils.core.feature_names import ALL_GROUPS, RELEASED
from utils.core.figures import DIVERGING, NEUTRAL, PALETTE, new_figure, shorten, write_title
from utils.features.commonality import TOGETHER
from utils.features.crop import CROP
from utils.features.model import CIRCULAR, FROM_FEATURES, LEARNERS, feature_group, linearise
from utils.statistics.correlation_tables import MIN_IMAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUP_COLOURS = dict(zip((*ALL_GROUPS, RELEASED), PALETTE, strict=False))
TOP_IMPORTANCES = 15
PALE = 0.35
WITHIN = {"marker": "D", "linestyle": "none", "color": "black", "markerfacecolor": "white", "markersize": 4}


def draw_correlations(table: pd.DataFrame) -> Figure | None:
    """Bars of each feature's rho with memorability, with interval, group, and rho within categories.

    Args:
        table: the rows of ``feature_correlations.csv``.

    Returns:
        The figure, or None where no feature has a rho.
    """
    rows = table[(table["target"] == "memorability") & ~table["feature"].isin(CIRCULAR)]
    if rows["rho"].isna().all():
        return None
    rows = rows.sort_values("rho", kind="stable", na_position="first").reset_index(drop=True)
    figure, axes = new_figure(width=7.2, height=max(1.6 + 0.24 * len(rows), 2.8))
    place = np.arange(len(rows))
    bars = axes.barh(place, rows["rho"], height=0.72, color=[GROUP_COLOURS[group] for group in rows["group"]])
    for bar, q in zip(bars, rows["q"], strict=True):
        bar.set_alpha(0.9 if q < 0.05 else PALE)
    axes.hlines(place, rows["ci_low"], rows["ci_high"], color="black", linewidth=1)
    axes.plot(rows["rho_within_category"], place, **WITHIN)
    axes.axvline(0, color=NEUTRAL, linewidth=0.8)
    for row in np.flatnonzero(rows["rho"].isna()):
        note = "constant" if rows["n"][row] >= MIN_IMAGES else f"defined in {rows['n'][row]} images"
        axes.annotate(
            note, (0, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color=NEUTRAL
        )
    axes.set_yticks(place, [shorten(name, 34) for name in rows["feature"]], fontsize=8.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("Spearman ρ with memorability, 95 % interval")
    of_crop = " of the networks' crop" if (rows["region"] == CROP).all() else ""
    axes.set_title(f"Image features{of_crop} and memorability ({rows['n'].max():,} images)", loc="left")
    figure.legend(
        handles=_correlation_legend(rows),
        loc="outside upper center",
        ncols=4,
        fontsize=8.5,
        columnspacing=1.2,
    )
    return figure


def _correlation_legend(rows: pd.DataFrame) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    present = [group for group in GROUP_COLOURS if group in set(rows["group"])]
    handles = [Patch(color=GROUP_COLOURS[group], label=group) for group in present]
    handles.append(Patch(color=NEUTRAL, alpha=PALE, label="pale: q ≥ 0.05"))
    if rows["rho_within_category"].notna().any():
        handles.append(Line2D([], [], label="ρ within categories", **WITHIN))
    return handles


def draw_clusters(frame: pd.DataFrame, table: pd.DataFrame) -> Figure | None:
    """Features ordered by how alike they are: their correlations with the targets and with each other.

    Args:
        frame: ``image_features.csv``.
        table: the rows of ``feature_correlations.csv``.

    Returns:
        The figure, or None where fewer than three features vary.
    """
    from scipy.cluster import hierarchy

    features = _varying_features(frame)
    if features.shape[1] < 3:
        return None
    between = features.corr(method="spearman", min_periods=10).fillna(0.0)
    links, order = _cluster(between)
    targets = _target_matrix(table, order)
    side = max(0.21 * len(order), 2.2)  # a few features must not be crushed by their names
    ratios = [0.7, max(0.5, 0.24 * targets.shape[1]), side]
    figure, (tree, strip, square) = new_figure(
        1, 3, width=3.4 + sum(ratios), height=3.0 + side, gridspec_kw={"width_ratios": ratios, "wspace": 0.02}
    )
    hierarchy.dendrogram(
        links, orientation="left", ax=tree, no_labels=True, link_color_func=lambda node: NEUTRAL
    )
    tree.invert_yaxis()  # the first leaf on top, as in the matrices
    tree.axis("off")
    _draw_matrix(strip, targets, _limit(targets), "ρ with targets", shrink=1.8 / ratios[1])
    strip.set_yticks(np.arange(len(order)) + 0.5, [shorten(name, 34) for name in order], fontsize=8)
    _draw_matrix(square, between.loc[order, order], 1.0, "ρ between features", shrink=min(3 / ratios[2], 1))
    of_crop = " of the networks' crop" if (table["region"] == CROP).all() else ""
    write_title(
        figure,
        f"Image features{of_crop}, ordered by how alike they are ({len(frame):,} images), and their ρ with each target "
        "(on how many images)",
    )
    return figure


def _limit(targets: pd.DataFrame) -> float:
    """End of the colour scale: the strongest correlation, but never so small that noise looks strong."""
    return round(max(0.1, float(np.nanmax(np.abs(targets.to_numpy()), initial=0))), 2)


def _cluster(between: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Average-linkage clusters by 1 - |rho|, and the features in the order of their leaves."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    distance = 1 - between.abs().to_numpy()
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance.clip(0), checks=False)
    links = hierarchy.linkage(condensed, method="average", optimal_ordering=True)
    return links, [between.columns[leaf] for leaf in hierarchy.leaves_list(links)]


def _varying_features(frame: pd.DataFrame) -> pd.DataFrame:
    """The linearised features that take at least two values on at least ten images."""
    frame = linearise(frame)
    names = [name for name in frame.columns if _is_feature(name) and name not in CIRCULAR]
    return frame[[name for name in names if frame[name].nunique() > 1 and frame[name].notna().sum() >= 10]]


def _is_feature(name: str) -> bool:
    try:
        feature_group(name)
    except KeyError:
        return False
    return True


def _target_matrix(table: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Features by targets, memorability first, each with its number of images; several models' carry the model's name.

    Targets that are undefined with every feature (objects where nobody looked for any) are left out.
    """
    several = table.loc[table["model"] != "", "model"].nunique() > 1
    names = table["target"] + (
        table["model"].map(lambda model: f" ({model})" if model else "") if several else ""
    )
    counts = table.groupby(names)["n"].transform("max")
    names = [f"{shorten(name, 34)} ({count:,})" for name, count in zip(names, counts, strict=True)]
    matrix = table.assign(name=names).pivot(index="feature", columns="name", values="rho")
    return matrix.reindex(index=order, columns=list(dict.fromkeys(names))).dropna(axis=1, how="all")


def _draw_matrix(axes: Axes, values: pd.DataFrame, limit: float, label: str, shrink: float) -> None:
    """Draw a heat map around zero under its scale; undefined cells are grey."""
    axes.set_facecolor("#D0D0D0")
    columns = [shorten(name, 44) for name in values.columns]
    scale = {"location": "top", "shrink": shrink, "label": label, "ticks": [-limit, 0, limit]}
    sns.heatmap(
        values.astype(float), vmin=-limit, vmax=limit, cmap=DIVERGING, cbar_kws=scale, xticklabels=columns,
        yticklabels=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", length=0, pad=2, labelsize=8, rotation=90)
    axes.tick_params(axis="y", length=0, pad=2)


def draw_model(models: pd.DataFrame, importances: pd.DataFrame) -> Figure:
    """How well memorability is predicted from each set of predictors, and which features the model rests on.

    Args:
        models: the rows of ``feature_model.csv``.
        importances: the rows of ``feature_importance.csv``.
    """
    models = models.assign(
        label=[_set_label(*pair) for pair in zip(models["predictors"], models["model"], strict=True)]
    )
    labels = list(dict.fromkeys(models["label"]))
    best = importances.groupby("feature")["importance"].max().sort_values(ascending=False, kind="stable")
    names = best.head(TOP_IMPORTANCES).index.tolist()
    height = 1.8 + max(0.62 * len(labels), 0.34 * len(names))
    figure, (left, right) = new_figure(1, 2, width=11, height=height)
    for number, learner in enumerate(LEARNERS):
        shift = (number - 0.5) * 0.36
        rows = models[models["learner"] == learner].set_index("label").reindex(labels)
        place = np.arange(len(labels)) + shift
        left.barh(place, rows["rho"], height=0.34, color=PALETTE[number], label=learner)
        left.hlines(place, rows["ci_low"], rows["ci_high"], color="black", linewidth=1)
        shown = importances[importances["learner"] == learner].set_index("feature").reindex(names)
        place = np.arange(len(names)) + shift
        right.barh(place, shown["importance"], height=0.34, color=PALETTE[number])
        right.errorbar(shown["importance"], place, xerr=shown["sd"], fmt="none", ecolor="black", elinewidth=1)
    left.set_yticks(np.arange(len(labels)), labels)
    left.set_xlabel("cross-validated Spearman ρ, 95 % interval")
    left.set_title("Memorability predicted from measures", loc="left")
    right.set_yticks(np.arange(len(names)), [shorten(name, 34) for name in names])
    right.set_xlabel("loss of ρ when the feature is shuffled, ± 1 s.d.")
    right.set_title(f"Features it rests on (top {len(names)})", loc="left")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.axvline(0, color=NEUTRAL, linewidth=0.8)
    left.set_ylim(max(len(labels), 3) - 0.5, -0.5)  # one or two sets must not become slabs
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def draw_commonality(table: pd.DataFrame) -> Figure:
    """What each kind of measure explains of memorability that no other does, and what it shares with them.

    Args:
        table: the rows of ``feature_commonality.csv``.
    """
    models = list(dict.fromkeys(table["model"]))
    rows = table[table["block"] != TOGETHER]
    figure, panels = new_figure(
        1,
        len(models),
        width=1.6 + 4.6 * len(models),
        height=1.5 + 0.5 * rows["block"].nunique(),
        squeeze=False,
    )
    for axes, model in zip(panels[0], models, strict=True):
        part = rows[rows["model"] == model].reset_index(drop=True)
        place = np.arange(len(part))
        axes.barh(place - 0.19, part["alone"], height=0.36, color=NEUTRAL, alpha=PALE, label="alone")
        axes.barh(place + 0.19, part["unique"], height=0.36, color=PALETTE[0], label="unique")
        axes.hlines(place + 0.19, part["ci_low"], part["ci_high"], color="black", linewidth=1)
        axes.axvline(0, color=NEUTRAL, linewidth=0.8)
        labels = [
            f"{block} *" if q < 0.05 else block for block, q in zip(part["block"], part["q"], strict=True)
        ]
        axes.set_yticks(place, labels)
        axes.invert_yaxis()
        total = table.loc[(table["model"] == model) & (table["block"] == TOGETHER), "alone"].iloc[0]
        axes.set_title(f"{shorten(model, 30)}: {total:.1%} together", loc="left")
        axes.set_xlabel("share of the variance of ranked memorability (* q < 0.05)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _set_label(predictors: str, model: str) -> str:
    images = {FROM_FEATURES: "image features"}.get(predictors, predictors.replace("error and", "error and\n"))
    return f"{images}\n({shorten(model, 30)})" if model else f"{images}\n(all images)"
