"""Numbers behind the figures of a prediction: calibration groups, ROC and precision-recall curves, percentiles."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.statistics.resampling import Resampler, Statistic

CURVE_POINTS = 101


def calibration_table(
    observed: NDArray, predicted: NDArray, resamples: int, seed: int, clusters: NDArray | None = None
) -> pd.DataFrame:
    """Mean observed score in groups of rising predicted score (deciles, fewer with under 30 images).

    Args:
        observed: (n,) scores.
        predicted: (n,) predictions.
        resamples: Bootstrap resamples within each group.
        seed: Seed of the resamples.
        clusters: (n,) codes of images that are resampled together; None for single images.

    Returns:
        ``group, n, predicted_mean, observed_mean, ci_low, ci_high``.
    """
    order = np.argsort(predicted, kind="stable")
    rows = []
    for number, group in enumerate(np.array_split(order, min(10, max(1, len(order) // 3))), start=1):
        codes = None if clusters is None else np.unique(clusters[group], return_inverse=True)[1]
        resampler = Resampler(len(group), resamples, seed, codes)
        mean, samples = resampler.evaluate(_mean_of(observed[group]))
        low, high = (float(end) for end in resampler.interval(mean, samples))
        row = {"group": number, "n": len(group), "predicted_mean": predicted[group].mean()}
        rows.append(row | {"observed_mean": float(mean), "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def _mean_of(values: NDArray) -> Statistic:
    """The mean of values as a statistic of counts."""
    return lambda counts: counts @ values / counts.sum(axis=1)


def curve_table(
    above: NDArray, predicted: NDArray, resamples: int, seed: int, clusters: NDArray | None = None
) -> pd.DataFrame:
    """ROC and precision-recall curves with pointwise intervals.

    Args:
        above: (n,) bool, whether the image is above the threshold.
        predicted: (n,) predictions.
        resamples: Bootstrap resamples of the images.
        seed: Seed of the resamples.
        clusters: (n,) codes of images that are resampled together; None for single images.

    Returns:
        ``curve, x, y, ci_low, ci_high`` on an even grid of x: ``roc`` (true over false positive rate) and
        ``pr`` (precision over recall). NaN where one class is absent.
    """
    order = np.argsort(-predicted, kind="stable")
    # Images with one score enter together: the curve has a point per distinct score.
    ends = np.flatnonzero(np.append(np.diff(predicted[order]) != 0, True))
    positive = above[order].astype(float)
    grid = np.linspace(0, 1, CURVE_POINTS)

    def curves(counts: NDArray) -> NDArray:
        hits = np.cumsum(counts[:, order] * positive, axis=1)[:, ends]
        alarms = np.cumsum(counts[:, order] * (1 - positive), axis=1)[:, ends]
        return np.stack([_one_curve(h, a, grid) for h, a in zip(hits, alarms, strict=True)])

    resampler = Resampler(len(order), resamples, seed, clusters)
    estimate, samples = resampler.evaluate(curves)
    low, high = (np.clip(end, 0, 1) for end in resampler.interval(estimate, samples))
    return pd.concat(
        [
            pd.DataFrame({"curve": name, "x": grid, "y": estimate[i], "ci_low": low[i], "ci_high": high[i]})
            for i, name in enumerate(("roc", "pr"))
        ],
        ignore_index=True,
    )


def _one_curve(hits: NDArray, alarms: NDArray, grid: NDArray) -> NDArray:
    """(2, points): true positive rate at each false positive rate, precision at each recall."""
    if hits[-1] == 0 or alarms[-1] == 0:
        return np.full((2, len(grid)), np.nan)
    recall, false_rate = hits / hits[-1], alarms / alarms[-1]
    roc = np.interp(grid, np.append(0.0, false_rate), np.append(0.0, recall))
    precision = hits / np.maximum(hits + alarms, 1.0)
    # Recall 0 is read at the first hit: before it there is no precision to speak of.
    reached = np.minimum(np.searchsorted(recall, np.maximum(grid - 1e-12, 1e-12)), len(recall) - 1)
    return np.stack([roc, precision[reached]])


def training_percentile(predicted: NDArray, training_scores: NDArray) -> NDArray[np.float64]:
    """Say where scores fall among the observed training scores.

    Args:
        predicted: (n,) scores.
        training_scores: (m,) observed scores of the training images.

    Returns:
        (n,) in [0, 100]: share of training scores below, ties counted half. Predictions are less spread than
        observed scores, so percentiles crowd towards the middle.
    """
    ordered = np.sort(np.asarray(training_scores, dtype=np.float64))
    below = np.searchsorted(ordered, predicted, side="left") + np.searchsorted(
        ordered, predicted, side="right"
    )
    return 50.0 * below / len(ordered)
