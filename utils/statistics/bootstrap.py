"""The one paired bootstrap of the project: resamples as counts per row, exact ranks of each resample.

Drawing rows and ranking them again costs a sort per resample. Here a resample is a vector of counts (how
often each row was drawn). The rows are sorted once; the mid-rank of a value in a resample then follows from a
cumulative sum of the counts over the groups of tied values, and a count-weighted Pearson correlation of those
mid-ranks is exactly Spearman's rho of the resampled rows. One draw serves every column, so pairs stay
together and differences between columns are paired without further work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_VALUES = 200_000  # values per working array: 1.6 MB, so that a block stays in the processor's cache
MANY_ROWS = (
    200_000  # rows from which draws are ranked by cells; below, a resample's working arrays stay in the cache
)
MANY_CELLS = 16_384  # cells of rank: what is looked up per cell stays in the cache
MIN_DEFINED = 0.95  # share of resamples in which a statistic must exist for its interval to mean anything


@dataclass(frozen=True)
class Ranking:
    """A column sorted once, from which the mid-ranks of any resample follow.

    Attributes:
        order: (n,) row numbers sorted by stratum, then by value.
        starts: (t,) first position in `order` of each run of tied values, or None where nothing is tied.
        row_to_run: (n,) the run of tied values each row belongs to.
        stratum_first: (g,) first run of each stratum.
    """

    order: np.ndarray
    starts: np.ndarray | None
    row_to_run: np.ndarray
    stratum_first: np.ndarray

    def centred_ranks(self, counts: np.ndarray) -> np.ndarray:
        """Return the centred mid-ranks of every row in every resample.

        Args:
            counts: (b, n) float64, how often each row was drawn in each of b resamples.

        Returns:
            (b, n) float64. Without strata twice the mid-rank minus (n + 1): whole numbers, hence exact in
            float64. With strata the same inside each stratum, divided by the size the stratum has in that
            resample, so that an image weighs the same in a small stratum as in a large one.
        """
        return np.take(self.run_ranks(self.run_sums(counts)), self.row_to_run, axis=1)

    def run_sums(self, values: np.ndarray) -> np.ndarray:
        """Return (b, n, ...) values of the rows summed over each run of tied values: (b, t, ...), in sorted order."""
        values = np.take(values, self.order, axis=1)
        return values if self.starts is None else np.add.reduceat(values, self.starts, axis=1)

    @property
    def has_few_runs(self) -> bool:
        """Whether what is looked up per run stays in the processor's cache."""
        return self.starts is not None and len(self.starts) <= 4 * MANY_CELLS

    def in_cells(self, cells: int = MANY_CELLS) -> Ranking:
        """Return the ranking with neighbouring values taken for ties, about so many of them over all strata.

        What a rank lacks is less than one cell and 0 on average inside each. Measured at a million rows: rho of a draw moves
        by 2e-7, with five strata by 2e-6 at most, where its standard error is 6e-4.
        """
        rows = len(self.row_to_run)
        begins = np.arange(rows) if self.starts is None else self.starts
        lengths = np.diff(begins, append=rows)
        of_run = rank_cells(begins, lengths, rows, cells)
        new = np.diff(of_run, prepend=-1) != 0
        new[self.stratum_first] = True  # strata never share a cell
        of_run = np.cumsum(new) - 1
        return Ranking(self.order, begins[new], of_run[self.row_to_run], of_run[self.stratum_first])

    def run_ranks(self, run_counts: np.ndarray) -> np.ndarray:
        """Return the centred mid-rank that the rows of each run share, as `centred_ranks` does for every row.

        Args:
            run_counts: (b, t) float64 from `run_sums` of the counts.
        """
        ranks = np.cumsum(run_counts, axis=1)
        if len(self.stratum_first) == 1:
            size = ranks[:, -1:].copy()
            ranks *= 2
            ranks -= run_counts
            ranks -= size
            return ranks
        first = np.append(self.stratum_first, run_counts.shape[1])
        through = ranks[:, first[1:] - 1]
        before = np.concatenate([np.zeros((len(ranks), 1)), through[:, :-1]], axis=1)
        sizes = through - before
        scale = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
        runs = np.diff(first)
        ranks *= 2
        ranks -= run_counts
        ranks -= np.repeat(2 * before + sizes, runs, axis=1)
        ranks *= np.repeat(scale, runs, axis=1)
        return ranks


def make_ranking(values: np.ndarray, strata: np.ndarray | None = None) -> Ranking:
    """Sort a column once, inside strata where they are given.

    Args:
        values: (n,) finite numbers.
        strata: (n,) integer codes 0..g-1 in which every code occurs, or None for a single stratum.

    Returns:
        The `Ranking` from which `centred_ranks` are computed.
    """
    values = np.asarray(values)
    codes = np.zeros(len(values), dtype=np.int64) if strata is None else np.asarray(strata)
    order = np.argsort(values, kind="stable") if strata is None else np.lexsort((values, codes))
    new_stratum = np.diff(codes[order], prepend=-1) != 0
    new_run = new_stratum.copy()
    new_run[1:] |= values[order][1:] != values[order][:-1]
    run_of_position = np.cumsum(new_run) - 1
    row_to_run = np.empty(len(values), dtype=np.int64)
    row_to_run[order] = run_of_position
    starts = np.flatnonzero(new_run)
    return Ranking(
        order=order,
        starts=None if len(starts) == len(values) else starts,
        row_to_run=row_to_run,
        stratum_first=run_of_position[np.flatnonzero(new_stratum)],
    )


def rank_cells(begins: np.ndarray, lengths: np.ndarray, size: int, cells: int) -> np.ndarray:
    """Put runs of tied values into about so many cells of equal numbers of rows.

    Ties never part: cells begin with runs. A run longer than a cell has one of its own (whatever follows begins beyond), so
    that the rows of a cell that do not tie are fewer than 2 size / cells.

    Args:
        begins: (t,) first position of each run, the first 0.
        lengths: (t,) rows of each.
        size: number of rows.
        cells: number of cells; up to twice as many where there are long runs.

    Returns:
        (t,) cell 0, 1, ... of each run.
    """
    new = (lengths * cells > size) | (np.diff(begins * cells // size, prepend=-1) != 0)
    return np.cumsum(new) - 1


def resample_counts(n: int, resamples: int, seed: int, columns: int = 1) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples of n rows as counts, in blocks.

    The same n and seed give the same resamples whatever the block size, so that statistics computed in
    separate calls on the same rows are still paired.

    Args:
        n: number of rows, at least 1.
        resamples: how many resamples to draw in all.
        seed: seed of an own generator; the global random state is left alone.
        columns: how many (block, n) arrays the caller holds at once; bounds the block.

    Yields:
        (b, n) float64 counts, each row summing to n.
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, BLOCK_VALUES // (n * max(1, columns))))
    for first in range(0, resamples, block):
        rows = [
            np.bincount(rng.integers(0, n, size=n), minlength=n) for _ in range(min(block, resamples - first))
        ]
        yield np.asarray(rows, dtype=np.float64)


def rank_correlations(x: list[Ranking], y: list[Ranking], counts: np.ndarray) -> np.ndarray:
    """Return Spearman's rho of every x column with every y column in every resample.

    Args:
        x: t rankings of n rows.
        y: k rankings of the same n rows, in the same strata.
        counts: (b, n) float64 counts; a row of ones gives the correlation of the data itself.

    Returns:
        (b, t, k) float64 in [-1, 1]; NaN where a column is constant within the resample.
    """
    if counts.shape[1] >= MANY_ROWS and all(ranking.has_few_runs for ranking in (*x, *y)):
        return np.stack([_few_runs_correlations(x, y, drawn) for drawn in counts])
    # Counts and weighted x ranks lie side by side, so that one look into memory brings both of a row: what a resample
    # of a million rows costs is the looks.
    carried = np.empty((*counts.shape, 1 + len(x)))
    carried[..., 0] = counts
    x_spread = np.empty((len(counts), len(x)))
    for position, ranking in enumerate(x):
        ranks = ranking.centred_ranks(counts)
        weighted = np.multiply(ranks, counts, out=carried[..., 1 + position])
        x_spread[:, position] = np.einsum("bn,bn->b", weighted, ranks)
    products = np.empty((len(counts), len(x), len(y)))
    spread = np.empty_like(products)
    for position, ranking in enumerate(y):
        sums = ranking.run_sums(carried)
        run_counts = np.ascontiguousarray(sums[..., 0])
        ranks = ranking.run_ranks(run_counts)
        products[:, :, position] = np.einsum("brt,br->bt", sums[..., 1:], ranks)
        ranks *= ranks
        y_spread = np.einsum("br,br->b", ranks, run_counts)
        spread[:, :, position] = np.sqrt(x_spread * y_spread[:, None])
    rho = np.full_like(products, np.nan)
    np.divide(products, spread, out=rho, where=spread > 0)
    return np.clip(rho, -1.0, 1.0)


def _few_runs_correlations(x: list[Ranking], y: list[Ranking], drawn: np.ndarray) -> np.ndarray:
    """Return (t, k) rho of one resample of many rows: sums over runs without putting the rows in order."""

    def ranked(ranking: Ranking) -> tuple[np.ndarray, float]:
        runs = np.bincount(ranking.row_to_run, drawn)
        ranks = ranking.run_ranks(runs[None])[0]
        return ranks, float(runs @ ranks**2)

    sides = [[(ranking.row_to_run, *ranked(ranking)) for ranking in side] for side in (x, y)]
    weighted = [ranks[rows] * drawn for rows, ranks, _ in sides[0]]
    products = [[one @ ranks[rows] for rows, ranks, _ in sides[1]] for one in weighted]
    squares = [np.array([square for *_, square in side]) for side in sides]
    spread = np.sqrt(squares[0][:, None] * squares[1])
    rho = np.divide(products, spread, out=np.full(spread.shape, np.nan), where=spread > 0)
    return np.clip(rho, -1.0, 1.0)


def rank_correlation(x: np.ndarray, y: np.ndarray, strata: np.ndarray | None = None) -> float:
    """Return Spearman's rho of two columns of n finite numbers, inside strata where given; NaN where one is constant."""
    one = np.ones((1, len(x)))
    return float(rank_correlations([make_ranking(x, strata)], [make_ranking(y, strata)], one)[0, 0, 0])


def percentile_interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile bootstrap interval along the first axis.

    Args:
        samples: (resamples, ...) a statistic in every resample, NaN where it did not exist.
        level: coverage aimed at, in (0, 1).

    Returns:
        Lower and upper ends, each of shape samples.shape[1:]; NaN where the statistic existed in fewer than
        95 % of the resamples (or there were none), because an interval over the rest would be too narrow.
    """
    samples = np.asarray(samples, dtype=np.float64)
    empty = np.full(samples.shape[1:], np.nan)
    if len(samples) == 0:
        return empty, empty.copy()
    defined = np.isfinite(samples).mean(axis=0) >= MIN_DEFINED
    usable = np.where(defined, samples, 0.0)
    quantile = np.nanquantile if np.isnan(usable).any() else np.quantile
    low, high = quantile(usable, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)
