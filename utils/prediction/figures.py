"""Figures of the prediction stage; each draws from a table that is written beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.core.figures import NEUTRAL, PALETTE, category_colours, dot_style, new_figure, shorten, write_title

BAND_FROM = 15  # images above and below the threshold each; bands of fewer fill the panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _number(value: float, low: float, high: float) -> str:
    """An estimate with its interval, or 'undefined'."""
    if not np.isfinite(value):
        return "undefined"
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")


def _metric(metrics: pd.DataFrame, name: str, predictor: str = "mlp") -> str:
    row = metrics[(metrics["predictor"] == predictor) & (metrics["metric"] == name)].iloc[0]
    return _number(row["value"], row["ci_low"], row["ci_high"])


def predicted_against_observed(test: pd.DataFrame, metrics: pd.DataFrame, model: str) -> Figure:
    """Scatter of observed over predicted scores of the test images, by category.

    Args:
        test: ``memorability, prediction, category`` of the test split.
        metrics: The rows of ``mlp_metrics.csv`` of this model.
        model: Stem of the checkpoint, for the title.
    """
    figure, axes = new_figure(width=6.4, height=5.2)
    style = dot_style(len(test))
    groups = test["category"].astype(str)
    for name, colour in category_colours(groups).items():
        part = test[groups == name]
        label = shorten(name, 20) or "all images"
        axes.scatter(part["prediction"], part["memorability"], color=colour, label=label, **style)
    low = float(min(test["prediction"].min(), test["memorability"].min()))
    high = float(max(test["prediction"].max(), test["memorability"].max()))
    axes.plot([low, high], [low, high], color=NEUTRAL, lw=1, ls="--", label="predicted = observed")
    axes.set_xlabel("predicted memorability score")
    axes.set_ylabel("observed memorability score")
    axes.set_title(f"ρ = {_metric(metrics, 'spearman')}, R² = {_metric(metrics, 'r2')}", fontsize=10)
    write_title(
        figure, f"Memorability predicted from the codes of {shorten(model, 60)}, {len(test):,} test images"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=float(np.sqrt(40 / style["s"])))
    return figure


def roc_and_precision_recall(curves: pd.DataFrame, metrics: pd.DataFrame, above: np.ndarray) -> Figure:
    """ROC and precision-recall curves, with pointwise 95 % bands where there are images enough for them.

    Args:
        curves: The rows of ``mlp_curves.csv`` of this model.
        metrics: The rows of ``mlp_metrics.csv`` of this model.
        above: Whether each test image is above the threshold; their share is what guessing reaches in precision.
    """
    fewest = min(int(above.sum()), int((~above).sum()))
    figure, panels = new_figure(1, 2, width=9.2, height=4.4)
    labels = {
        "roc": ("false positive rate", "true positive rate", f"ROC: area {_metric(metrics, 'auc')}"),
        "pr": ("recall", "precision", f"Precision-recall: average precision\n{_metric(metrics, 'ap')}"),
    }
    for axes, (name, (x_label, y_label, title)) in zip(panels, labels.items(), strict=True):
        part = curves[curves["curve"] == name]
        if fewest >= BAND_FROM and part["ci_low"].notna().any():
            axes.fill_between(
                part["x"],
                part["ci_low"],
                part["ci_high"],
                color=PALETTE[0],
                alpha=0.2,
                lw=0,
                label="95 % interval",
            )
        axes.plot(part["x"], part["y"], color=PALETTE[0], lw=2, label="MLP")
        guess = [0, 1] if name == "roc" else [above.mean(), above.mean()]
        axes.plot([0, 1], guess, color=NEUTRAL, lw=1, ls="--", label="guessing")
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.02), title=title)
        axes.legend(loc="lower right" if name == "roc" else "lower left")
    band = "" if fewest >= BAND_FROM else f"\nno bands: fewer than {BAND_FROM} images on one side"
    figure.suptitle(
        f"Is an image more memorable than the median training image? {len(above):,} test images, "
        f"{above.sum():,} of them are{band}",
        fontsize=11,
    )
    return figure


def calibration(table: pd.DataFrame) -> Figure:
    """Mean observed over mean predicted score in groups of rising prediction.

    Args:
        table: The rows of ``mlp_calibration.csv`` of this model.
    """
    figure, axes = new_figure(width=5.2, height=4.6)
    errors = np.abs(table[["ci_low", "ci_high"]].to_numpy().T - table["observed_mean"].to_numpy())
    axes.errorbar(
        table["predicted_mean"],
        table["observed_mean"],
        yerr=np.nan_to_num(errors),
        fmt="o",
        color=PALETTE[0],
        capsize=3,
        label="mean, 95 % interval",
    )
    ends = [table["predicted_mean"].min(), table["predicted_mean"].max()]
    axes.plot(ends, ends, color=NEUTRAL, lw=1, ls="--", label="predicted = observed")
    groups = "decile of the prediction" if len(table) == 10 else f"prediction, {len(table)} groups"
    axes.set(
        xlabel="mean predicted score",
        ylabel="mean observed score",
        title=f"Calibration of predicted memorability\n{table['n'].sum():,} test images by {groups}",
    )
    axes.legend(loc="upper left")
    return figure


def learning_curve(history: pd.DataFrame) -> Figure:
    """Loss on both splits and validation rho over the epochs.

    Args:
        history: ``mlp_history_<model>.csv``.
    """
    figure, (losses, rhos) = new_figure(1, 2, width=9.2, height=3.8)
    best = int(history.loc[history["best"], "epoch"].iloc[0])
    losses.plot(history["epoch"], history["train_loss"], color=PALETTE[1], label="training (with dropout)")
    losses.plot(history["epoch"], history["validation_loss"], color=PALETTE[0], label="validation")
    losses.axhline(1.0, color=NEUTRAL, lw=1, ls=":", label="constant prediction")
    losses.set(
        xlabel="epoch",
        ylabel="mean squared error\n(variances of the score)",
        title="Error of predicted memorability",
    )
    rhos.plot(history["epoch"], history["validation_rho"], color=PALETTE[0], marker="o", ms=3)
    rhos.set(xlabel="epoch", ylabel="Spearman's ρ", title="Predicted and observed, validation split")
    for axes in (losses, rhos):
        axes.axvline(best, color=PALETTE[2], lw=1.5, label=f"kept: epoch {best}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def largest_misses(misses: pd.DataFrame, pictures: Sequence[np.ndarray], count: int) -> Figure:
    """The test images whose score the MLP missed most, in both directions.

    Args:
        misses: ``image_id, memorability, prediction`` per picture, at least one.
        pictures: (S, S, 3) uint8 per row.
        count: Test images that they are taken from.
    """
    below = (misses["prediction"] < misses["memorability"]).to_numpy().astype(int)
    columns = max(int((below == 0).sum()), int(below.sum()))
    figure, axes = new_figure(2, columns, width=2.1 * columns, height=5.6, squeeze=False)
    places = [0, 0]
    for line, row, picture in zip(below, misses.itertuples(), pictures, strict=True):
        panel: Axes = axes[line][places[line]]
        places[line] += 1
        panel.imshow(picture)
        panel.set_title(
            f"{shorten(Path(row.image_id).name, 22)}\npredicted {row.prediction:.3f}\nobserved {row.memorability:.3f}",
            fontsize=8,
        )
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
        for side in panel.spines.values():
            side.set_visible(False)
    axes[0][0].set_ylabel("overestimated")
    axes[1][0].set_ylabel("underestimated")
    figure.suptitle(f"Largest misses of predicted memorability among {count:,} test images", fontsize=11)
    return figure
