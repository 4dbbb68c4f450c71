"""Rank correlations with intervals: plain, within groups, partial; false discovery rate; mean.

Known answers are scipy's; intervals are 95 % percentile bootstrap intervals in which the columns of a row are
resampled together (`utils/bootstrap.py`). What does not exist (a constant column) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from utils.statistics.bootstrap import percentile_interval, resample_counts, resampled_rank_correlations


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


def within_group_spearman(x: np.ndarray, y: np.ndarray, groups: Sequence) -> float:
    """Return the pooled within-group rank correlation: what is left when groups are held constant.

    Both columns are ranked inside each group, divided by the group's size, centred there, and correlated over
    all images; a difference between groups cannot show. Dividing by the size lets an image weigh the same in
    a small group as in a large one; with groups of one size (MemCat's categories) it changes nothing.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        groups: (n,) labels; groups of a single image add nothing.

    Returns:
        rho in [-1, 1]; NaN where a column is constant inside every group.

    Raises:
        ValueError: lengths differ, a value is missing or infinite, or a label is missing.
    """
    x, y = as_matrices(x, y)
    estimate, _ = resampled_rank_correlations(x, y, 0, 0, group_codes(groups, len(x)))
    return float(estimate[0, 0])


def bootstrap_spearman(
    x: np.ndarray, y: np.ndarray, resamples: int = 1000, seed: int = 0, groups: Sequence | None = None
) -> SpearmanBootstrap:
    """Return Spearman's rho of x with y, or with every column of y, and its bootstrap interval.

    Args:
        x: (n,) finite numbers, as a rule the memorability scores.
        y: (n,) or (n, k) finite numbers. One draw of resamples serves all k columns.
        resamples: number of bootstrap resamples of the images (pairs stay together).
        seed: seed of the resampling; same seed and n, same resamples.
        groups: (n,) labels; with them rho is the pooled within-group one of `within_group_spearman`, and p
            has n - groups - 1 degrees of freedom. Groups should hold 50 images or more: a resample of a
            small group repeats images, which lowers its rho (by 0.018 for groups of 20 and rho 0.46, 0.006 for
            groups of 75), and the interval with it.

    Returns:
        A `SpearmanBootstrap`; its fields are numbers for a vector `y` and (k,) arrays for a matrix.

    Raises:
        ValueError: lengths differ, or a value or a label is missing or infinite.
    """
    vector = np.ndim(y) == 1
    x, y = as_matrices(x, y)
    codes = None if groups is None else group_codes(groups, len(x))
    rho, samples = resampled_rank_correlations(x, y, resamples, seed, codes)
    low, high = percentile_interval(samples)
    lost = 2 if codes is None else int(codes.max(initial=0)) + 2
    p = p_value(rho, len(x) - lost)
    pick = (0, 0) if vector else 0
    values = [float(part[pick]) if vector else part[pick] for part in (rho, low, high, p)]
    return SpearmanBootstrap(*values, len(x), resamples, seed, samples[:, 0, 0] if vector else samples[:, 0])


def partial_spearman(x: np.ndarray, y: np.ndarray, covariates: np.ndarray) -> tuple[float, float]:
    """Return the partial rank correlation of x and y with the covariates held constant.

    The ranks of x and of y are regressed on the ranks of the covariates (with intercept); the residuals are
    correlated.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        covariates: (n,) or (n, k) finite numbers.

    Returns:
        rho in [-1, 1] and its two-sided p-value from Student's t with n - 2 - k degrees of freedom; both NaN
        where x or y is constant or follows from the covariates.

    Raises:
        ValueError: lengths differ, or a value is missing or infinite.
    """
    x, y, covariates = as_matrices(x, y, covariates)
    ranks = stats.rankdata(np.hstack([x, y, covariates]), axis=0)
    design = np.column_stack([np.ones(len(ranks)), ranks[:, 2:] - ranks[:, 2:].mean(axis=0, keepdims=True)])
    both = ranks[:, :2] - ranks[:, :2].mean(axis=0)
    residuals = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
    spread = np.sqrt((residuals**2).sum(axis=0))
    if (spread <= 1e-9 * np.sqrt((both**2).sum(axis=0))).any():
        return float("nan"), float("nan")
    rho = float(np.clip(residuals[:, 0] @ residuals[:, 1] / spread.prod(), -1, 1))
    return rho, float(p_value(rho, len(x) - 2 - covariates.shape[1]))


def bootstrap_partial_spearman(
    x: np.ndarray, y: np.ndarray, covariates: np.ndarray, resamples: int = 1000, seed: int = 0
) -> SpearmanBootstrap:
    """Return the partial rank correlation of `partial_spearman` with its bootstrap interval.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        covariates: (n,) or (n, k) finite numbers, held constant.
        resamples: number of bootstrap resamples of the images.
        seed: seed of the resampling.

    Returns:
        A `SpearmanBootstrap` of plain numbers.

    Raises:
        ValueError: lengths differ, or a value is missing or infinite.
    """
    x, y, covariates = as_matrices(x, y, covariates)
    rho, p = partial_spearman(x[:, 0], y[:, 0], covariates)
    columns = np.hstack([x, y, covariates])
    _, matrices = resampled_rank_correlations(columns, columns, resamples, seed)
    samples = np.full(resamples, np.nan)
    # Partial correlations are entries of the scaled inverse; singular resamples have none.
    usable = np.isfinite(matrices).all(axis=(1, 2))
    usable[usable] = np.linalg.cond(matrices[usable]) < 1e12
    inverse = np.linalg.inv(matrices[usable])
    samples[usable] = -inverse[:, 0, 1] / np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1])
    low, high = (float(end) for end in percentile_interval(samples))
    if np.isnan(rho):
        low = high = float("nan")
    return SpearmanBootstrap(rho, low, high, p, len(x), resamples, seed, samples)


def false_discovery_q(p_values: Sequence[float]) -> np.ndarray:
    """Return Benjamini-Hochberg q values of a family of tests.

    Args:
        p_values: (k,) p-values in [0, 1]; NaN (no test) stays NaN and does not count as a member of the
            family.

    Returns:
        (k,) q values in [0, 1], never below their p-values.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    q = np.full(p_values.shape, np.nan)
    known = np.isfinite(p_values)
    if known.any():
        q[known] = stats.false_discovery_control(p_values[known], method="bh")
    return q


def mean_interval(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> dict[str, float | int]:
    """Return the mean of a column with its 95 % percentile bootstrap interval.

    Args:
        values: (n,) numbers; missing ones are left out.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        `mean`, `ci_low`, `ci_high`, `sd` (n - 1), `median`, `n`, `resamples`, `seed`; the interval is NaN for
        n < 2.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    result = {"mean": np.nan, "ci_low": np.nan, "ci_high": np.nan, "sd": np.nan, "median": np.nan}
    if n:
        result.update(mean=float(values.mean()), median=float(np.median(values)))
    if n >= 2:
        means = np.concatenate([counts @ values / n for counts in resample_counts(n, resamples, seed)])
        low, high = percentile_interval(means)
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
