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

from utils.statistics.resampling import FISHER, Resampler


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


def rho_p(rho: np.ndarray, samples: np.ndarray, resampler: Resampler, lost: int = 2) -> np.ndarray:
    """Return the two-sided p-value of rank correlations being 0.

    Args:
        rho: (...) correlations of the data.
        samples: (resamples, ...) as the resampler gave them.
        resampler: how the images are resampled. Clusters: the jackknife's Student's t on Fisher's z, which is below 0.05
            where the interval leaves out 0. Single images: Student's t, as in scipy.
        lost: degrees of freedom that single images lose: 2, or one per group and covariate held constant more.
    """
    if resampler.clusters is None:
        return p_value(rho, resampler.n - lost)
    return resampler.p_of_zero(rho, samples, FISHER)


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
