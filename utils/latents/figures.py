"""Figures of the latent space: its map, its most and least distinctive images, distinctiveness against memorability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.core.figures import (
    NEUTRAL,
    SEQUENTIAL,
    category_legend,
    dot_style,
    memorability_note,
    new_figure,
    scatter_by_category,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.latents.space import Projection

PER_ROW = 8
PICTURE_PX = 160


def draw_latent_space(table: pd.DataFrame, projection: Projection, model: str, memorability: str) -> Figure:
    """Draw the latent space by category and by memorability: principal components, and UMAP where it is there.

    Args:
        table: Rows of ``latent_space_<model>.csv``.
        projection: The components, for their shares of the variance.
        model: Name for the title.
        memorability: Name of the score.
    """
    kinds = [("pc1", "pc2")] + ([("umap1", "umap2")] if "umap1" in table else [])
    figure, axes = new_figure(len(kinds), 2, width=10.4, height=0.9 + 3.9 * len(kinds), squeeze=False)
    shares = [f"{value:.1%} of variance" for value in projection.explained[:2]] + ["", ""]
    labels = {"pc1": f"component 1 ({shares[0]})", "pc2": f"component 2 ({shares[1]})".replace(" ()", "")}
    labels |= {"umap1": "UMAP 1", "umap2": "UMAP 2"}
    categories = table["category"].fillna("")
    colour_order = np.random.default_rng(1).permutation(len(table))
    for row, (x, y) in zip(axes, kinds, strict=True):
        scatter_by_category(row[0], table[x], table[y], categories)
        shuffled = table.iloc[colour_order]
        dots = row[1].scatter(
            shuffled[x], shuffled[y], c=shuffled["memorability"], cmap=SEQUENTIAL, **dot_style(len(table))
        )
        bar = figure.colorbar(dots, ax=row[1], shrink=0.85)
        bar.set_label(memorability)
        bar.solids.set_alpha(1)
        for axis in row:
            axis.set_xlabel(labels[x])
            axis.set_ylabel(labels[y])
    axes[0, 0].set_title("by category" if (categories != "").any() else "no categories")
    axes[0, 1].set_title("by memorability")
    note = f", components fitted on {projection.fitted_rows:,}" if projection.fitted_rows < len(table) else ""
    figure.suptitle(f"Latent space of {shorten(model, 60)}: {len(table):,} images{note}", fontsize=11)
    category_legend(figure, categories)
    return figure


def pick_extremes(table: pd.DataFrame, most: int = PER_ROW) -> dict[str, pd.DataFrame]:
    """Return the most and the least distinctive images, none of them in both.

    Args:
        table: Rows of ``distinctiveness_<model>.csv``.
        most: How many of each, at most.
    """
    known = table.dropna(subset=["distinctiveness"])
    ranked = known.sort_values(["distinctiveness", "image_id"], ascending=[False, True])
    count = min(most, max(len(ranked) // 2, 1))
    return {"Most distinctive": ranked.head(count), "Least distinctive": ranked.tail(count).iloc[::-1]}


def draw_extremes(
    groups: dict[str, pd.DataFrame], pixels: dict[str, np.ndarray | str], model: str, metric: str
) -> Figure:
    """Show images beside their nearest neighbours.

    Args:
        groups: From :func:`pick_extremes`.
        pixels: (3, S, S) in [0, 1] of every image and neighbour by ``image_id``, or why it could not be read.
        model: Name for the title.
        metric: The distance's name.
    """
    columns = max(len(rows) for rows in groups.values())
    figure, axes = new_figure(
        4,
        columns,
        width=max(1.5 * columns + 0.9, 6.4),
        height=8.4,
        squeeze=False,
        gridspec_kw={"hspace": 0.02},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for block, (title, rows) in enumerate(groups.items()):
        for place, row in enumerate(rows.itertuples()):
            top, bottom = axes[2 * block, place], axes[2 * block + 1, place]
            _picture(top, pixels.get(row.image_id, "not read"))
            top.set_title(f"{row.distinctiveness:+.2f} SD{memorability_note(row.memorability)}", fontsize=8)
            _picture(bottom, pixels.get(row.nearest_image_id, "not read"))
            bottom.set_title(f"distance {row.nearest_distance:.4g}", fontsize=8)
        for offset, text in ((0, title), (1, "nearest other")):
            axes[2 * block + offset, 0].text(
                -0.12,
                0.5,
                text,
                rotation=90,
                ha="center",
                va="center",
                fontsize=10,
                transform=axes[2 * block + offset, 0].transAxes,
            )
    figure.suptitle(
        f"Distinctiveness in the latent space of {shorten(model, 50)} ({metric} distance)", fontsize=11
    )
    return figure


def _picture(axis: Axes, picture: np.ndarray | str) -> None:
    if isinstance(picture, str):
        axis.text(0.5, 0.5, picture, ha="center", va="center", fontsize=7, color=NEUTRAL, wrap=True)
        return
    axis.imshow(np.moveaxis(picture, 0, -1))


def _rho_text(rows: pd.DataFrame, measure: str, target: str, held: str = "") -> str:
    """Put a row of the correlations in words."""
    same = rows[(rows["measure"] == measure) & (rows["target"] == target) & (rows["held_constant"] == held)]
    if same.empty or not np.isfinite(same["rho"].iloc[0]):
        return "ρ undefined"
    row = same.iloc[0]
    return f"ρ = {row['rho']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"


def draw_scatter(
    table: pd.DataFrame, rows: pd.DataFrame, losses: pd.DataFrame | None, model: str, loss: str | None
) -> Figure:
    """Draw distinctiveness against memorability, and against reconstruction error where it is known.

    Args:
        table: Rows of ``distinctiveness_<model>.csv``.
        rows: This model's correlations.
        losses: ``test_loss_<model>.csv``, or None.
        model: Name for the title.
        loss: The loss to show.
    """
    against = None if losses is None or loss is None else (losses, loss)
    panels = 1 if against is None else 2
    figure, axes = new_figure(1, panels, width=2.6 + 4.2 * panels, height=4.7, squeeze=False)
    categories = table["category"].fillna("")
    scatter_by_category(axes[0, 0], table["distinctiveness"], table["memorability"], categories)
    title = _rho_text(rows, "distinctiveness", "memorability")
    axes[0, 0].set_xlabel("distinctiveness (SD; larger: farther from its nearest neighbour)")
    axes[0, 0].set_ylabel("memorability score")
    if against is not None:
        losses, loss = against
        title += f"\n{_rho_text(rows, 'distinctiveness', 'memorability', loss)} with {loss} held constant"
        merged = table.merge(losses[["image_id", loss]], on="image_id", validate="one_to_one")
        scatter_by_category(
            axes[0, 1], merged["distinctiveness"], merged[loss], merged["category"].fillna("")
        )
        axes[0, 1].set_title(f"{_rho_text(rows, loss, 'distinctiveness')}\n", fontsize=10)
        axes[0, 1].set_xlabel("distinctiveness (SD)")
        axes[0, 1].set_ylabel(f"reconstruction error ({loss})")
    axes[0, 0].set_title(title, fontsize=10)
    figure.suptitle(
        f"Distinctiveness in the latent space of {shorten(model, int(9 * figure.get_figwidth()) - 50)}: "
        f"{len(table):,} images",
        fontsize=11,
    )
    category_legend(figure, categories)
    return figure
