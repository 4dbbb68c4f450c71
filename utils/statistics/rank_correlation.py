"""Rank correlations with intervals: plain and within groups; false discovery rate; mean.

Known answers are scipy's; intervals are 95 % intervals in which the columns of a row are resampled together
(`utils/statistics/bootstrap.py`), single images or whole clusters (`utils/statistics/resampling.py`). What does not
exist (a constant column) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from utils.statistics.bootstrap import make_ranking
from utils.statistics.cluster_tests import cluster_robust_p
from utils.statistics.resampling import JACKKNIFE, Resampler, correlate_resampled


@dataclass(frozen=True)
class SpearmanBootstrap:
    """Spearman's rho with its bootstrap interval; numbers for a vector `y`, (k,) arrays for an (n, k) matrix.

    Attributes:
        rho: correlation in [-1, 1]; NaN where a column is constant.
        ci_low: lower end of the 95 % percentile interval.
        ci_high: upper end.
        p: two-sided p-value of rho = 0 from Student's t, as in `scipy.stats.spearmanr`.
        n: number of images.
        resamples: number of bootstrap resamples.
        seed: seed they were drawn from.
        samples: (resamples,) or (resamples, k) rho of every resample; column differences of it are paired.
    """

    rho: float | np.ndarray
    ci_low: float | np.ndarray
    ci_high: float | np.ndarray
    p: float | np.ndarray
    n: int
    resamples: int
    seed: int
    samples: np.ndarray = field(repr=False)


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return Spearman's rank correlation (ties by mid-ranks) and its two-sided p-value.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers, row i belonging to row i of `x`.

    Returns:
        rho in [-1, 1] and p in [0, 1]; both NaN where a column is constant or n < 3.

    Raises:
        ValueError: lengths differ, or a value is missing or infinite.
    """
    x, y = as_matrices(x, y)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan")
    result = stats.spearmanr(x[:, 0], y[:, 0])
    return float(result.statistic), float(result.pvalue)


def rho_p(
    x: np.ndarray,
    y: np.ndarray,
    rho: np.ndarray,
    clusters: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the two-sided p-value of every x column's rank correlation with every y column.

    With few clusters it is the larger one of the wild cluster bootstrap's and the jackknife's: the former alone rejects
    somewhat too often where clusters are as unequal in size as MemCat's subcategories (benchmarks/coverage.py), and
    with the latter p and interval never contradict each other.

    Args:
        x: (n, t) finite numbers.
        y: (n, k) finite numbers.
        rho: (t, k) their rank correlations, inside the strata where there are any.
        clusters: (n,) codes of images that hang together, or None: Student's t then, as in scipy.
        strata: (n,) codes of the groups held constant, or None.
        seed: seed of the wild draws with few clusters.
    """
    if clusters is None:
        lost = 2 if strata is None else int(strata.max(initial=0)) + 2
        return p_value(rho, len(x) - lost)
    one = np.ones((1, len(x)))
    x_ranks, y_ranks = (
        [make_ranking(column, strata).centred_ranks(one)[0] for column in matrix.T] for matrix in (x, y)
    )
    # Ranks centred in their strata have no constant left to estimate; a wild draw whose clusters share a stratum has.
    nuisance = None if strata is None else _dummies(strata, clusters)
    p = np.array([[cluster_robust_p(a, b, clusters, nuisance, seed) for b in y_ranks] for a in x_ranks])
    left_out = Resampler(len(x), 1, seed, clusters)
    if left_out.scheme == JACKKNIFE:
        found, samples = correlate_resampled(x, y, left_out, strata)
        p = np.maximum(p, left_out.p_of_zero(found, samples, correlation=True))
    return np.where(np.isnan(rho), np.nan, p)


def _dummies(strata: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return a column of 0 and 1 per stratum that several clusters share, and one for all others together."""
    pairs = np.unique(np.column_stack([strata, clusters]), axis=0)
    shared = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    columns = [strata == stratum for stratum in shared]
    if len(shared) <= strata.max():
        columns.append(~np.isin(strata, shared))
    return np.column_stack(columns).astype(np.float64)


def false_discovery_q(p_values: Sequence[float]) -> np.ndarray:
    """Return Benjamini-Hochberg q values of a family of tests.

    Args:
        p_values: (k,) p-values in [0, 1]; NaN (no test) stays NaN and does not count as a member of the
            family.

    Returns:
        (k,) q values in [0, 1], never below their p-values.
    """
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known], method="bh")
    return q


def mean_interval(
    values: np.ndarray, resamples: int = 1000, seed: int = 0, clusters: np.ndarray | None = None
) -> dict[str, float | int]:
    """Return the mean of a column with its 95 % bootstrap interval.

    Args:
        values: (n,) numbers; missing ones are left out.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        clusters: (n,) codes of images that are resampled together, or None for single images.

    Returns:
        `mean`, `ci_low`, `ci_high`, `sd` (n - 1), `median`, `n`, `resamples`, `seed`; the interval is NaN for
        n < 2 and with fewer than 3 clusters.
    """
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    values = values[known]
    n = len(values)
    if clusters is not None:
        clusters = np.unique(np.asarray(clusters)[known], return_inverse=True)[1]
    result = {"mean": np.nan, "ci_low": np.nan, "ci_high": np.nan, "sd": np.nan, "median": np.nan}
    if n:
        result.update(mean=float(values.mean()), median=float(np.median(values)))
    if n >= 2:
        resampler = Resampler(n, resamples, seed, clusters)
        mean, means = resampler.evaluate(lambda counts: counts @ values / counts.sum(axis=1))
        low, high = resampler.interval(mean, means)
        result.update(ci_low=float(low), ci_high=float(high), sd=float(values.std(ddof=1)))
    return {**result, "n": n, "resamples": resamples, "seed": seed}


def as_matrices(*columns: np.ndarray) -> list[np.ndarray]:
    """Return the columns as (n, k) float64 matrices of equal n, all values finite."""
    matrices = []
    for position, column in enumerate(columns):
        matrix = np.asarray(column, dtype=np.float64)
        matrix = matrix[:, None] if matrix.ndim == 1 else matrix
        if len(matrix) != len(columns[0]):
            raise ValueError(
                f"expected columns of equal length, got {len(columns[0])} and {len(matrix)} rows"
            )
        if not len(matrix):
            raise ValueError("expected at least one image, got none")
        bad = int((~np.isfinite(matrix)).sum())
        if bad:
            raise ValueError(
                f"expected finite numbers, got {bad} missing or infinite ones in column {position + 1}"
            )
        matrices.append(matrix)
    return matrices


def group_codes(labels: Sequence, n: int) -> np.ndarray:
    """Return group labels as integers 0..g-1, all of them in use."""
    codes, _ = pd.factorize(pd.Series(np.asarray(labels)), sort=True)
    if len(codes) != n:
        raise ValueError(f"expected a group label per image, got {len(codes)} labels for {n} images")
    if (codes < 0).any():
        raise ValueError(f"expected a group label per image, got {(codes < 0).sum()} missing labels")
    return codes


def p_value(rho: float | np.ndarray, freedom: int) -> np.ndarray:
    """Return the two-sided p-value of a rank correlation from Student's t; NaN without freedom."""
    rho = np.asarray(rho, dtype=np.float64)
    if freedom < 1:
        return np.full(rho.shape, np.nan)
    with np.errstate(divide="ignore"):
        t = rho * np.sqrt(freedom / ((1 + rho) * (1 - rho)))
    return 2 * stats.t.sf(np.abs(t), freedom)
