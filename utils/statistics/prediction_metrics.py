"""How good a prediction of memorability is: regression and above/below metrics with intervals.

Resamples are counts per image (`utils/statistics/resampling.py`), so every metric of a resample is a weighted one and
nothing is copied. Intervals are percentiles of resampled images, or of clusters left out one by one; those of R2 and
average precision, whose bootstrap distributions are biased and skewed, come from leaving out below 100 images as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from utils.core.log import log
from utils.statistics.bootstrap import make_ranking, rank_correlations
from utils.statistics.rank_correlation import rho_p
from utils.statistics.resampling import FISHER, LOGIT, PLAIN, UNEXPLAINED, Resampler, Statistic

METRIC_COLUMNS = ["metric", "value", "ci_low", "ci_high", "n"]
CLUSTER_COLUMNS = ["ci_low_independent", "ci_high_independent", "p", "p_independent"]
CORRELATIONS = ("spearman", "spearman_within_category")
SCALES = {**dict.fromkeys(CORRELATIONS, FISHER), "r2": UNEXPLAINED, "ap": LOGIT}
SKEWED = ("r2", "ap")
FEW_IMAGES = 100  # below it the percentile interval of the skewed ones is too narrow
# Where a metric ends, for those that do not lie in [0, 1].
LEAST = {**dict.fromkeys(CORRELATIONS, -1.0), "r2": -np.inf}
MOST = {"mse": np.inf, "mae": np.inf}


def regression_metrics(
    observed: np.ndarray,
    predicted: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    groups: Sequence | None = None,
    clusters: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return Spearman's rho, MSE, MAE and R2 of a prediction, with 95 % intervals.

    Args:
        observed: (n,) finite scores.
        predicted: (n,) finite predictions of them, on the same scale.
        resamples: number of bootstrap resamples of the images; the same seed and n give the same resamples
            for every model.
        seed: seed of the resampling.
        groups: (n,) labels (categories); adds `spearman_within_category`, pooled over the groups.
        clusters: (n,) codes 0..G-1 of images that are resampled together, or None for single images.

    Returns:
        Columns `metric, value, ci_low, ci_high, n`, a row each for `spearman` (larger is better), `mse`,
        `mae` (smaller is better), `r2` (1 - MSE / variance of the observed; negative is worse than their
        mean), and `spearman_within_category` with groups. With clusters also CLUSTER_COLUMNS: the interval of
        independent images, and the p-value of a correlation either way. Undefined values are NaN and named in a
        warning.

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
        mse, mae, shift, square = (counts @ errors / counts.sum(axis=1, keepdims=True)).T
        r2 = 1 - _ratio(mse, square - shift**2)
        return np.stack([rhos[0], mse, mae, r2, *rhos[1:]], axis=1)

    names = ["spearman", "mse", "mae", "r2", "spearman_within_category"][: 3 + len(rankings)]
    lost = {name: 2 if s is None else int(s.max()) + 2 for name, s in zip(CORRELATIONS, strata, strict=False)}
    plan = _Plan(len(observed), resamples, seed, clusters, lost)
    return _with_intervals(names, evaluate, plan)


def classification_metrics(
    observed_above: np.ndarray,
    score: np.ndarray,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return how well a score tells images above a cut from those below, with 95 % intervals.

    Args:
        observed_above: (n,) truth: True where the image is above the cut.
        score: (n,) finite predictions, larger meaning rather above.
        threshold: an image counts as predicted above where `score > threshold`.
        resamples: number of bootstrap resamples of the images.
        seed: seed of the resampling.
        clusters: (n,) codes 0..G-1 of images that are resampled together, or None for single images.

    Returns:
        Columns `metric, value, ci_low, ci_high, n`, a row each for `auc` (area under the ROC curve, ties
        counting one half), `ap` (average precision), `accuracy`, `precision`, `recall`, `specificity`, `f1`;
        all in [0, 1], larger is better. A metric that does not exist (no image of one class, none predicted
        above) is NaN and named in a warning. With clusters also the interval of independent images.

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
        accuracy, f1 = (tp + tn) / counts.sum(axis=1), _ratio(2 * tp, 2 * tp + fp + fn)
        return np.stack([auc, ap, accuracy, precision, recall, _ratio(tn, tn + fp), f1], axis=1)

    names = ["auc", "ap", "accuracy", "precision", "recall", "specificity", "f1"]
    return _with_intervals(names, evaluate, _Plan(len(score), resamples, seed, clusters))


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


@dataclass(frozen=True)
class _Plan:
    """How the images of one table of metrics are resampled, and the degrees of freedom that each correlation loses."""

    n: int
    resamples: int
    seed: int
    clusters: np.ndarray | None
    lost: dict[str, int] = field(default_factory=dict)

    def infer(self, names: list[str], evaluate: Statistic, resampler: Resampler) -> tuple[np.ndarray, ...]:
        """Return value, both ends of the interval, and p (of correlations alone) of every metric."""
        value, samples = resampler.evaluate(evaluate)
        scales = [SCALES.get(name, PLAIN) for name in names]
        ends = np.array([resampler.interval(*pair) for pair in zip(value, samples.T, scales, strict=True)])
        if resampler.clusters is None and self.resamples and self.n < FEW_IMAGES:
            # Percentiles are too narrow for skewed metrics of few images: these are left out one by one.
            one_by_one = Resampler(self.n, self.resamples, self.seed, np.arange(self.n))
            _, left_out = one_by_one.evaluate(evaluate)
            for at in np.flatnonzero(np.isin(names, SKEWED)):
                ends[at] = one_by_one.interval(value[at], left_out[:, at], scales[at])
        low, high = ends.T
        # The jackknife's t knows nothing of where a metric ends; beyond it there is no value to be sure of.
        least = np.array([LEAST.get(name, 0.0) for name in names])
        most = np.array([MOST.get(name, 1.0) for name in names])
        p = np.full(len(names), np.nan)
        for place, name in enumerate(names):
            if name in self.lost:
                p[place] = rho_p(value[place], samples[:, place], resampler, self.lost[name])
        return value, np.maximum(low, least), np.minimum(high, most), p


def _with_intervals(names: list[str], evaluate: Statistic, plan: _Plan) -> pd.DataFrame:
    """Return metrics and their intervals; `evaluate` maps (b, n) counts to (b, metrics) values."""
    alone = Resampler(plan.n, plan.resamples, plan.seed)
    value, low, high, p = plan.infer(names, evaluate, alone)
    undefined = [name for name, known in zip(names, np.isfinite(value), strict=True) if not known]
    if undefined:
        log.warning(
            "undefined and left empty: %s (constant values, or a class without images)", ", ".join(undefined)
        )
    rows = {"metric": names, "value": value, "ci_low": low, "ci_high": high, "n": plan.n}
    table = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    if plan.clusters is None:
        return table
    clustered = Resampler(plan.n, plan.resamples, plan.seed, plan.clusters)
    _, low_together, high_together, p_together = plan.infer(names, evaluate, clustered)
    table = table.assign(
        ci_low=low_together, ci_high=high_together, ci_low_independent=low, ci_high_independent=high
    )
    return table.assign(p=p_together, p_independent=p) if plan.lost else table


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
