"""How good a prediction of memorability is: regression and above/below metrics with intervals.

Resamples are counts per image (`utils/bootstrap.py`), so every metric of a resample is a weighted one and
nothing is copied.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.statistics.bootstrap import make_ranking, percentile_interval, rank_correlations, resample_counts

log = logging.getLogger("memorability")

METRIC_COLUMNS = ["metric", "value", "ci_low", "ci_high", "n"]


def regression_metrics(
    observed: np.ndarray,
    predicted: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> pd.DataFrame:
    """Return Spearman's rho, MSE, MAE and R2 of a prediction, with 95 % percentile bootstrap intervals.

    Args:
        observed: (n,) finite scores.
        predicted: (n,) finite predictions of them, on the same scale.
        resamples: number of bootstrap resamples of the images; the same seed and n give the same resamples
            for every model.
        seed: seed of the resampling.
        groups: (n,) labels (categories); adds `spearman_within_category`, pooled over the groups.

    Returns:
        Columns `metric, value, ci_low, ci_high, n`, a row each for `spearman` (larger is better), `mse`,
        `mae` (smaller is better), `r2` (1 - MSE / variance of the observed; negative is worse than their
        mean), and `spearman_within_category` with groups. Undefined values are NaN and named in a warning.

    Raises:
        ValueError: lengths differ, or a value is missing or infinite.
    """
    observed, predicted = _paired(observed, predicted, "observed", "predicted")
    strata = [None]
    if groups is not None:
        codes, labels = pd.factorize(pd.Series(np.asarray(groups)), sort=True)
        if len(codes) != len(observed) or (codes < 0).any():
            raise ValueError("expected one group label per image, none missing")
        if len(labels) > 1:
            strata.append(codes)
    rankings = [([make_ranking(observed, s)], [make_ranking(predicted, s)]) for s in strata]
    centred = observed - observed.mean()
    errors = np.column_stack([(observed - predicted) ** 2, np.abs(observed - predicted), centred, centred**2])

    def evaluate(counts: np.ndarray) -> np.ndarray:
        rhos = [rank_correlations(x, y, counts)[:, 0, 0] for x, y in rankings]
        mse, mae, shift, square = (counts @ errors / len(observed)).T
        r2 = 1 - _ratio(mse, square - shift**2)
        return np.stack([rhos[0], mse, mae, r2, *rhos[1:]], axis=1)

    names = ["spearman", "mse", "mae", "r2", "spearman_within_category"][: 3 + len(rankings)]
    return _with_intervals(names, evaluate, len(observed), resamples, seed)


def classification_metrics(
    observed_above: np.ndarray,
    score: np.ndarray,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how well a score tells images above a cut from those below, with 95 % bootstrap intervals.

    Args:
        observed_above: (n,) truth: True where the image is above the cut.
        score: (n,) finite predictions, larger meaning rather above.
        threshold: an image counts as predicted above where `score > threshold`.
        resamples: number of bootstrap resamples of the images.
        seed: seed of the resampling.

    Returns:
        Columns `metric, value, ci_low, ci_high, n`, a row each for `auc` (area under the ROC curve, ties
        counting one half), `ap` (average precision), `accuracy`, `precision`, `recall`, `specificity`, `f1`;
        all in [0, 1], larger is better. A metric that does not exist (no image of one class, none predicted
        above) is NaN and named in a warning.

    Raises:
        ValueError: lengths differ, a score is missing or infinite, or the truth is not boolean (or 0 and 1).
    """
    above, score = _paired(observed_above, score, "observed_above", "score")
    if not np.isin(above, (0.0, 1.0)).all():
        raise ValueError("expected observed_above to hold True and False (or 1 and 0) only")
    called = (score > threshold).astype(np.float64)
    cells = np.column_stack(
        [above * called, (1 - above) * called, above * (1 - called), (1 - above) * (1 - called)]
    )
    descending = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[descending], prepend=np.inf))

    def evaluate(counts: np.ndarray) -> np.ndarray:
        tp, fp, fn, tn = (counts @ cells).T
        auc, ap = _ranking_metrics(counts[:, descending], above[descending], starts)
        precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
        accuracy, f1 = (tp + tn) / len(score), _ratio(2 * tp, 2 * tp + fp + fn)
        return np.stack([auc, ap, accuracy, precision, recall, _ratio(tn, tn + fp), f1], axis=1)

    names = ["auc", "ap", "accuracy", "precision", "recall", "specificity", "f1"]
    return _with_intervals(names, evaluate, len(score), resamples, seed)


def _ranking_metrics(
    counts: np.ndarray, above: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC AUC and average precision per resample; columns by falling score, `starts` opens ties."""
    positives = np.add.reduceat(counts * above, starts, axis=1)
    negatives = np.add.reduceat(counts * (1 - above), starts, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    n_positive, n_negative = true_positives[:, -1], false_positives[:, -1]
    wins = (positives * (n_negative[:, None] - false_positives + negatives / 2)).sum(axis=1)
    precision = _ratio(true_positives, true_positives + false_positives)
    # A tie that nobody drew has no precision and no positives: it adds nothing.
    gained = np.where(positives > 0, positives * precision, 0.0).sum(axis=1)
    return _ratio(wins, n_positive * n_negative), _ratio(gained, n_positive)


def _with_intervals(names: list[str], evaluate: object, n: int, resamples: int, seed: int) -> pd.DataFrame:
    """Return metrics and their intervals; `evaluate` maps (b, n) counts to (b, metrics) values."""
    value = evaluate(np.ones((1, n)))[0]
    samples = [evaluate(counts) for counts in resample_counts(n, resamples, seed)]
    low, high = percentile_interval(np.concatenate([np.empty((0, len(names))), *samples]))
    low, high = (np.where(np.isnan(value), np.nan, end) for end in (low, high))
    undefined = [name for name, known in zip(names, np.isfinite(value), strict=True) if not known]
    if undefined:
        log.warning(
            "undefined and left empty: %s (constant values, or a class without images)", ", ".join(undefined)
        )
    rows = {"metric": names, "value": value, "ci_low": low, "ci_high": high, "n": n}
    return pd.DataFrame(rows, columns=METRIC_COLUMNS)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, giving NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _paired(first: np.ndarray, second: np.ndarray, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two columns as finite float64 vectors of equal, non-zero length."""
    pair = [np.asarray(values, dtype=np.float64).reshape(-1) for values in (first, second)]
    if len(pair[0]) != len(pair[1]) or not len(pair[0]):
        raise ValueError(
            f"expected {names[0]} and {names[1]} of equal length, got {len(pair[0])} and {len(pair[1])}"
        )
    for values, name in zip(pair, names, strict=True):
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise ValueError(f"expected finite numbers in {name}, got {bad} missing or infinite")
    return pair[0], pair[1]
