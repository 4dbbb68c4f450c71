"""What each kind of measure explains of memorability that no other does, and what it shares: commonality analysis.

After Newton & Spurrell (Applied Statistics 1967) and Nimon & Oswald (Organizational Research Methods 2013), for ranks:
linear models of the ranked score on blocks of ranked predictors. A block's *unique* variance is what R2 loses when the
block is taken out of the model of all; what it explains alone minus that is *shared* with the others.

R2 never falls when a column is added, noise included, and under clustering it rises faster than the number of columns
says. So the gain that chance brings is measured, by permuting whole clusters (Freedman & Lane, JBES 1983: the residuals
of the model without the block are permuted), and taken off: a block that says nothing new has a unique variance of
zero on average.

Residuals are smaller than the errors they stand for, the more so between clusters: ten columns that are alike inside 24
clusters take 10 of the 23 differences between these. Permuted as they are, they find too little by chance (in 240 images
of 24 subcategories p < 0.05 in 11 to 13 % of nulls for single columns beside ten others). So their part between clusters
and their part inside are brought back to what the errors' variances, estimated from both, would give
(:func:`residual_scales`), and p compares the gain with what is left unexplained, which does not hang on the scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from utils.features.fold_inference import ClusterPermutation

AT_ONCE = 64  # permutations in one product of matrices

MOST_DELETIONS = 200
"""Jackknife deletions at most; more clusters than that are deleted several at a time."""

DEPENDENT = 1e-10
"""Directions of a standardised design with a smaller share of the largest variance are rounding, not information."""

TOGETHER = "together"


@dataclass(frozen=True)
class Design:
    """Blocks of predictors ready for linear models: ranked, centred, complete.

    Attributes:
        columns: (n, k) float64, mean 0.
        members: Positions of each block's columns.
    """

    columns: np.ndarray
    members: dict[str, np.ndarray]

    def without(self, block: str) -> np.ndarray:
        """(n, j) the columns of every other block."""
        return np.delete(self.columns, self.members[block], axis=1)


def ranked_columns(values: pd.DataFrame) -> np.ndarray:
    """Rank numbers, spell out categories, and mark what is missing.

    Args:
        values: (n, k) numeric or text columns, NaN where missing.

    Returns:
        (n, j) float64: per numeric column its ranks (a missing value gets the middle rank) and, where some values are
        missing, whether it is; per text column an indicator for each label but the first. Columns that are constant are
        left out; all are centred and of unit length.
    """
    parts = []
    for name in values:
        column = values[name]
        if not pd.api.types.is_numeric_dtype(column):
            parts.append(pd.get_dummies(column, drop_first=True).to_numpy(float))
            continue
        missing = column.isna().to_numpy()
        ranks = column.rank().to_numpy(float, copy=True)
        ranks[missing] = (np.count_nonzero(~missing) + 1) / 2
        parts += [ranks[:, None], missing[:, None].astype(float)]
    whole = np.concatenate(parts, axis=1) if parts else np.empty((len(values), 0))
    whole = whole - whole.mean(axis=0, keepdims=True) if len(whole) else whole
    length = np.sqrt((whole**2).sum(axis=0))
    kept = length > 1e-9 * np.sqrt(max(len(whole), 1))
    return whole[:, kept] / length[kept]


def make_design(frame: pd.DataFrame, blocks: Mapping[str, list[str]]) -> Design:
    """Put together the blocks whose columns vary.

    Args:
        frame: One row per image.
        blocks: Columns by the name of their block; blocks without a column that varies are left out.
    """
    parts, members, start = [], {}, 0
    for name, columns in blocks.items():
        found = ranked_columns(frame[columns])
        if found.shape[1]:
            members[name] = np.arange(start, start + found.shape[1])
            parts.append(found)
            start += found.shape[1]
    return Design(np.concatenate(parts, axis=1) if parts else np.empty((len(frame), 0)), members)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """(n, r) orthonormal basis of the span of (n, k) columns; r = 0 where there are none."""
    if not columns.shape[1]:
        return np.empty((len(columns), 0))
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, singular**2 > DEPENDENT * singular[0] ** 2]


def explained(basis: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """R2 of least squares on a basis.

    Args:
        basis: (n, r) orthonormal, of centred columns.
        targets: (n, t), one target per column.

    Returns:
        (t,) in [0, 1].
    """
    centred = targets - targets.mean(axis=0, keepdims=True)
    return ((basis.T @ centred) ** 2).sum(axis=0) / (centred**2).sum(axis=0)


def less_chance(gain: float, chance: float, room: float) -> float:
    """Take off what chance gains (Ezekiel's correction, with the chance measured rather than counted in columns).

    Args:
        gain: R2 gained.
        chance: R2 gained on average when there is nothing to gain.
        room: The R2 that there was to gain.

    Returns:
        0 on average when there is nothing to gain, `room` when everything was gained; may be negative.
    """
    return (gain - chance) / (1 - chance / room) if room > chance else 0.0


def commonality(
    frame: pd.DataFrame,
    blocks: Mapping[str, list[str]],
    clusters: np.ndarray,
    target: str = "memorability",
    permutations: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Unique and shared variance of each block.

    Args:
        frame: One row per image, with the target, finite.
        blocks: Columns of the frame by the name of their block.
        clusters: (n,) integer codes of images that are alike; permuted and deleted whole.
        target: The column to explain, by its ranks.
        permutations: Permutations per block.
        seed: Seed of an own generator.

    Returns:
        ``block, columns, n, alone, unique, shared, ci_low, ci_high, p``: shares of the variance of the ranked target,
        chance taken off; the interval (95 %, delete-one-cluster jackknife) and p (one-sided, by permutation) are those of
        `unique`, and in the last row, `together`, those of all blocks at once, against nothing. Empty without blocks, for
        a constant target, or with no more images than columns.
    """
    design = make_design(frame, blocks)
    y = frame[target].rank().to_numpy(float)
    y = y - y.mean()
    if not design.members or not y.any() or design.columns.shape[1] >= len(y) - 1:
        return pd.DataFrame(
            columns=["block", "columns", "n", "alone", "unique", "shared", "ci_low", "ci_high", "p"]
        )
    rng = np.random.default_rng(seed)
    whole = orthonormal(design.columns)
    rows = []
    for name, members in design.members.items():
        rest = orthonormal(design.without(name))
        unique, p = _gain(whole, rest, y, clusters, permutations, rng)
        alone, _ = _gain(orthonormal(design.columns[:, members]), rest[:, :0], y, clusters, permutations, rng)
        low, high = _jackknife_interval(
            design, np.delete(np.arange(design.columns.shape[1]), members), y, clusters, unique
        )
        rows.append([name, len(members), len(y), alone, unique, alone - unique, low, high, p])
    total, p = _gain(whole, whole[:, :0], y, clusters, permutations, rng)
    low, high = _jackknife_interval(design, np.arange(0), y, clusters, total)
    rows.append([TOGETHER, design.columns.shape[1], len(y), total, total, 0.0, low, high, p])
    names = ["block", "columns", "n", "alone", "unique", "shared", "ci_low", "ci_high", "p"]
    return pd.DataFrame(rows, columns=names)


def residual_scales(residual: np.ndarray, rest: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """By what to multiply residuals so that they vary between and inside clusters as the centred errors do.

    Errors are taken as a common part of each cluster and a part of each image. Least squares on `rest` shrinks the sums of
    squares of both; what they are expected to be is linear in the two variances, which follow from the two sums found
    (Henderson's method of fitting constants).

    Args:
        residual: (n,) residuals of a linear model with constant.
        rest: (n, r) orthonormal basis of its centred columns.
        clusters: (n,) integer codes 0..g-1, all in use.

    Returns:
        Factors of the cluster means and of the deviations from them.
    """
    sizes = np.bincount(clusters).astype(float)
    n, groups = float(len(residual)), len(sizes)
    basis = np.column_stack([np.full(len(residual), n**-0.5), rest])
    sums = np.stack([np.bincount(clusters, column, groups) for column in basis.T], axis=1)  # (g, r + 1)
    means = np.bincount(clusters, residual) / sizes
    between = float((sizes * means**2).sum())
    inside = float((residual**2).sum()) - between
    taken = float((sums**2 / sizes[:, None]).sum())  # of the directions between clusters
    freedom = np.array([groups - taken, n - groups - (basis.shape[1] - taken)])
    if freedom[0] < 1e-6 or between <= 0:
        return 1.0, 1.0
    squares = float((sums**2).sum())
    # How much of a unit variance of the common parts is left between clusters: of (I - means of the basis x its sums).
    of_common = n - 2 * squares + float((((sums @ (sums.T @ sums)) * sums).sum(axis=1) / sizes).sum())
    left = n - squares - of_common
    if freedom[1] < 1e-6 or inside <= 0:  # single images, or nothing inside clusters
        return float(np.sqrt((groups - 1) / freedom[0])), 1.0
    shared, own = np.linalg.solve([[of_common, freedom[0]], [left, freedom[1]]], [between, inside])
    if shared <= 0 or own <= 0:  # no common part to be seen: what each level has lost of its own
        return float(np.sqrt((groups - 1) / freedom[0])), float(np.sqrt((n - groups) / freedom[1]))
    alike = n - float((sizes**2).sum()) / n  # of centred errors, as residuals are
    factors = np.sqrt([(alike * shared + (groups - 1) * own) / between, (n - groups) * own / inside])
    return float(factors[0]), float(factors[1])


def _gain(
    whole: np.ndarray,
    rest: np.ndarray,
    y: np.ndarray,
    clusters: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """What `whole` gains over `rest`, chance taken off, and its p by permuting the residuals of `rest`."""
    fitted = rest @ (rest.T @ y)
    residual, total = y - fitted, float(y @ y)
    before = float(explained(rest, y[:, None])[0])
    gain = float(explained(whole, y[:, None])[0]) - before
    permutation = ClusterPermutation(residual, clusters, residual_scales(residual, rest, clusters))
    gains, unexplained = np.empty(permutations), np.empty(permutations)
    for start in range(0, permutations, AT_ONCE):
        count = min(AT_ONCE, permutations - start)
        drawn = np.stack([permutation.draw(rng) for _ in range(count)], axis=1) + fitted[:, None]
        drawn -= drawn.mean(axis=0)
        squares, whole_squares, rest_squares = (
            (side**2).sum(axis=0) for side in (drawn, whole.T @ drawn, rest.T @ drawn)
        )
        gains[start : start + count] = whole_squares - rest_squares
        unexplained[start : start + count] = squares - whole_squares
    observed = gain / max(1 - before - gain, 1e-12)
    beyond = gains / np.maximum(unexplained, 1e-12 * total) >= observed - 1e-12
    p = (int(beyond.sum()) + 1) / (permutations + 1)
    return less_chance(gain, float(gains.mean()) / total, 1 - before), p


def _jackknife_interval(
    design: Design, rest: np.ndarray, y: np.ndarray, clusters: np.ndarray, estimate: float
) -> tuple[float, float]:
    """95 % interval of the gain of all columns over the columns `rest`, from deleting one cluster after another."""
    deleted = clusters % MOST_DELETIONS if clusters.max(initial=0) >= MOST_DELETIONS else clusters
    count = int(deleted.max(initial=0)) + 1
    if count < 3:
        return float("nan"), float("nan")
    table = np.column_stack([np.ones(len(y)), design.columns, y])
    moments = np.stack([part.T @ part for part in (table[deleted == number] for number in range(count))])
    everything = np.arange(design.columns.shape[1])
    total = moments.sum(axis=0)
    values = [
        _explained_by(total - moment, everything) - _explained_by(total - moment, rest) for moment in moments
    ]
    error = np.sqrt((count - 1) * np.var(values))
    half = stats.t.ppf(0.975, count - 1) * error
    return float(estimate - half), float(estimate + half)


def _explained_by(moments: np.ndarray, columns: np.ndarray) -> float:
    """R2 from the cross products of (1, columns, y): (k + 2, k + 2)."""
    count = moments[0, 0]
    centred = moments - np.outer(moments[0], moments[0]) / count
    if not len(columns):
        return 0.0
    inside = centred[np.ix_(columns + 1, columns + 1)]
    towards = centred[columns + 1, -1]
    values, vectors = np.linalg.eigh(inside)
    kept = values > DEPENDENT * values[-1]
    parts = vectors[:, kept].T @ towards
    return float((parts**2 / values[kept]).sum() / centred[-1, -1])
