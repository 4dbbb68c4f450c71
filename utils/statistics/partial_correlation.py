"""Rank correlations with other columns held constant, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from utils.statistics.cluster_tests import residuals
from utils.statistics.rank_correlation import SpearmanBootstrap, as_matrices, p_value, rho_p
from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

SINGULAR = (
    1e-9  # share of a column's variance of ranks that the covariates leave, below which nothing is left
)


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
    left = residuals(ranks[:, :2], _design(ranks[:, 2:]))
    spread = np.sqrt((left**2).sum(axis=0))
    if not spread.all():
        return float("nan"), float("nan")
    rho = float(np.clip(left[:, 0] @ left[:, 1] / spread.prod(), -1, 1))
    return rho, float(p_value(rho, len(x) - 2 - covariates.shape[1]))


def bootstrap_partial_spearman(
    x: np.ndarray,
    y: np.ndarray,
    covariates: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> SpearmanBootstrap:
    """Return the partial rank correlation of `partial_spearman` with its interval.

    Args:
        x: (n,) finite numbers.
        y: (n,) finite numbers.
        covariates: (n,) or (n, k) finite numbers, held constant.
        resamples: number of bootstrap resamples of the images.
        seed: seed of the resampling.
        clusters: (n,) codes 0..G-1 of images that are resampled together, or None for single images; interval and p
            are then those of `utils.statistics.resampling`.

    Returns:
        A `SpearmanBootstrap` of plain numbers.

    Raises:
        ValueError: lengths differ, or a value is missing or infinite.
    """
    x, y, covariates = as_matrices(x, y, covariates)
    rho, p = partial_spearman(x[:, 0], y[:, 0], covariates)
    resampler = Resampler(len(x), resamples, seed, clusters)
    _, samples = partial_correlations(x, y, covariates, resampler)
    low, high = (float(end) for end in resampler.interval(rho, samples[:, 0, 0], FISHER))
    if clusters is not None:
        p = float(rho_p(np.asarray(rho), samples[:, 0, 0], resampler))
    return SpearmanBootstrap(rho, low, high, p, len(x), resamples, seed, samples[:, 0, 0])


def partial_correlations(
    x: np.ndarray, y: np.ndarray, covariates: np.ndarray, resampler: Resampler
) -> tuple[np.ndarray, np.ndarray]:
    """Return the partial rank correlation of every x column with every y column: of the data, and of each resample.

    Args:
        x: (n, t) finite numbers.
        y: (n, k) finite numbers.
        covariates: (n, c) finite numbers; one that is constant within a resample holds nothing constant there.
        resampler: how the rows are resampled.

    Returns:
        (t, k) rho of the data and (resamples, t, k) of the resamples; NaN where a column is constant or follows from
        the covariates.
    """
    columns = np.hstack([x, y, covariates])
    first, last = x.shape[1], x.shape[1] + y.shape[1]
    matrix, samples = correlate_resampled(columns, columns, resampler)
    return _given(matrix[None], first, last)[0], _given(samples, first, last)


def _given(matrix: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return partial correlations of columns before `first` with those before `last`, given the rest.

    Args:
        matrix: (b, c, c) rank correlations, NaN of constant columns.
        first: how many columns are x.
        last: how many are x or y.
    """
    held = np.nan_to_num(matrix[:, last:, last:])
    between = np.nan_to_num(matrix[:, :last, last:])
    explained = between @ np.linalg.pinv(held, rcond=1e-10, hermitian=True)
    left = matrix[:, :last, :last] - explained @ between.transpose(0, 2, 1)
    spread = np.diagonal(left, axis1=1, axis2=2)
    spread = np.where(spread > SINGULAR, spread, np.nan)
    rho = left / np.sqrt(spread[:, :, None] * spread[:, None, :])
    return np.clip(rho[:, :first, first:], -1, 1)


def covariate_matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return columns to be held constant as numbers: a column of text becomes one of 0 and 1 per value but the first.

    Args:
        frame: one row per image, without missing cells in these columns.
        names: its columns.
    """
    parts = []
    for name in names:
        column = frame[name]
        if pd.api.types.is_numeric_dtype(column):
            parts.append(column.to_numpy(dtype=np.float64)[:, None])
        else:
            parts.append(pd.get_dummies(column.astype(str)).to_numpy(dtype=np.float64)[:, 1:])
    return np.hstack([np.empty((len(frame), 0)), *parts])


def _design(ranks: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(ranks)), ranks - ranks.mean(axis=0, keepdims=True)])
