"""What each kind of measure explains of memorability that no other does, and what it shares: commonality analysis.

After Newton & Spurrell (Applied Statistics 1967) and Nimon & Oswald (Organizational Research Methods 2013), for ranks:
linear models of the ranked score on blocks of ranked predictors. A block's *unique* variance is what R2 loses when the
block is taken out of the model of all; what it explains alone minus that is *shared* with the others.

R2 never falls when a column is added, noise included, and under clustering it rises faster than the number of columns
says. So the gain that chance brings is measured, by permuting whole clusters (Freedman & Lane, JBES 1983: the residuals
of the model without the block are permuted), and taken off: a block that says nothing new has a unique variance of
zero on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from utils.features.fold_inference import ClusterPermutation

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
    residual = y - fitted
    before = float(explained(rest, y[:, None])[0])
    gain = float(explained(whole, y[:, None])[0]) - before
    null, permutation = np.empty(permutations), ClusterPermutation(residual, clusters)
    for number in range(permutations):
        permuted = (fitted + permutation.draw(rng))[:, None]
        null[number] = (explained(whole, permuted) - explained(rest, permuted))[0]
    p = (int((null >= gain - 1e-12).sum()) + 1) / (permutations + 1)
    return less_chance(gain, float(null.mean()), 1 - before), p


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
