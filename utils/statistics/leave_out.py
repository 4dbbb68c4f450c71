"""Spearman's rho without each of many blocks of images, from one ranking of each column.

Ranking what is left after each deletion costs rows times deletions. Write R for the doubled centred mid-ranks of x, the
sum over k of sign(x_i - x_k), S for those of y, and A_c, B_c for the same sums over the members k of block c alone.
Without block c the ranks are R - A_c and S - B_c, so that their product over the images that are left is

    sum R S - sum A_c S - sum R B_c + sum A_c B_c - (the same products over the members of c).

The second sum is, over the members j of c, P(j) = sum_i sign(x_i - x_j) S_i, which cumulative sums give for all j at once;
the third likewise; ranks inside blocks come from one sort. Spreads follow from the lengths of the runs of ties. All of
that is linear in rows whatever the number of blocks, and exact.

The fourth sum alone takes rows times blocks. Up to `DIRECT_WORK` of them it is summed as it stands. Beyond, the images are
put into `CELLS` cells of nearly equal numbers along x and along y (ties never part), A_c and B_c are replaced by their means
over each cell, and the sum is that over a table of cells: a matrix product for all blocks together. Blocks that hold more
than `LARGE_BLOCK` of the rows are summed as they stand even then. The error: one member moves A_c, from its mean over a
cell, only at the images of its own cell, fewer than 2 n / CELLS that do not tie, by at most 1 on average; |B_c| <= n_c. So
the fourth sum errs by at most 4 n_c^2 n / CELLS, and rho, whose denominator without ties is (n - n_c)^3 / 3, by at most
about 12 (n_c / n)^2 / CELLS, below 3e-6. Errors of an image being as often up as down, what is left is near 1e-11
(tests/statistics/test_leave_out.py), while rho moves by 1e-4 from block to block, less only near -1 and 1; standard errors
then agree to 1e-6 of themselves.

With strata all of that holds inside each stratum; only strata that a block touches change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from utils.statistics.bootstrap import rank_cells

DIRECT_WORK = (
    5_000_000  # rows times blocks of a stratum up to which the product of two blocks' ranks is exact
)
CELLS = 512
LARGE_BLOCK = 0.01  # share of a stratum's rows
CHUNK = 200_000  # rows times blocks at a time: their working arrays stay in the processor's cache
LARGE_STRATUM = 1000  # rows from which a stratum is summed by itself
AT_ONCE = 4  # columns ranked at a time, so that memory does not follow their number
CONSTANT = 1e-12  # share of the largest spread below which nothing but rounding is left


@dataclass
class Column:
    """A column ranked once: n rows sorted by stratum, t runs of ties.

    Attributes:
        order: (n,) rows by stratum, then by value.
        low: (n,) where in `order` the run of each row begins.
        high: (n,) where it ends.
        ranks: (n,) doubled centred mid-rank in the stratum.
        left: (n,) what of it comes from rows outside the row's own block.
        spread: (strata,) sum of squared ranks.
        spread_after: (parts,) the same in the part's stratum without the part.
        cells: (n,) cell of each row in its stratum, where the stratum is summed by cells.
        means: by stratum, (parts, cells) mean rank against each small part over the rows of a cell.
    """

    order: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ranks: np.ndarray
    left: np.ndarray
    spread: np.ndarray
    spread_after: np.ndarray
    cells: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    means: dict[int, np.ndarray] = field(default_factory=dict)


class LeftOut:
    """Which rows go together, and in which strata they are ranked.

    A part is what one block has in one stratum. Rows are kept sorted by stratum.

    Args:
        blocks: (n,) block 0..deletions-1 of each row; some blocks may have none.
        deletions: how many blocks there are.
        strata: (n,) codes 0..g-1, all in use, or None for one stratum.
    """

    def __init__(self, blocks: np.ndarray, deletions: int, strata: np.ndarray | None = None) -> None:
        self.deletions = deletions
        self.pooled = strata is not None
        self.rows = None if strata is None else _stable_order(np.asarray(strata))
        self.stratum = self._sorted(np.zeros(len(blocks), dtype=np.int64) if strata is None else strata)
        self.part, codes = pd.factorize(self.stratum * deletions + self._sorted(blocks), sort=True)
        self.part_stratum, self.part_block = codes // deletions, codes % deletions
        self.size = np.bincount(self.stratum)
        self.first = np.cumsum(self.size) - self.size
        self.part_size = np.bincount(self.part)
        self.part_left = self.size[self.part_stratum] - self.part_size
        # Single rows and none at all have no ranks; whole strata that go, as subcategories do, need no further work.
        self.direct, self.small = self._ways(np.flatnonzero(self.part_left > 1))

    def rank(self, values: np.ndarray) -> Column:
        """Rank a column of n finite numbers."""
        values = self._sorted(values)
        order = np.argsort(values)
        if self.pooled:
            order = order[_stable_order(self.stratum[order])]
        begins = _begins(values[order], self.stratum[order])
        low, high = np.empty(len(order), dtype=np.int32), np.empty(len(order), dtype=np.int32)
        lengths = np.diff(begins, append=len(order))
        low[order], high[order] = np.repeat(begins, lengths), np.repeat(begins + lengths, lengths)
        offset = 2 * self.first + self.size
        ranks = (low + high.astype(np.int64) - offset[self.stratum]).astype(np.float64)
        cubes = np.add.reduceat(_cubes(lengths), np.searchsorted(begins, self.first))
        within, spread_after = self._inside(order, low, high, cubes)
        spread = _spread(self.size, cubes)
        column = Column(order, low, high, ranks, ranks - within, spread, spread_after)
        if self.small:
            self._put_into_cells(column, begins, lengths)
        return column

    def correlate(
        self, columns: Sequence[Column], pairs: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correlate pairs of columns.

        Args:
            columns: from `rank`.
            pairs: p pairs of positions in `columns`.

        Returns:
            (p,) Spearman's rho of all rows and (deletions, p) without each block, in [-1, 1]; ranks are divided by the
            size of their stratum. NaN where a column is constant in all strata.
        """
        fourth = self._direct_products(columns, pairs)
        spreads = [self._pool(column.spread, column.spread_after) for column in columns]
        rho = np.full((1 + self.deletions, len(pairs)), np.nan)
        for place, (a, b) in enumerate(pairs):
            x, y = columns[a], columns[b]
            if alike := self._alike(x, y):
                rho[:, place] = np.where(spreads[a] > 0, alike, np.nan)
                continue
            before = self._by_stratum(x.ranks * y.ranks)
            after = before[self.part_stratum] + fourth[place]
            after -= self._moved(x, y.ranks) + self._moved(y, x.ranks)
            after -= np.bincount(self.part, x.left * y.left, len(self.part_size))
            for stratum, parts in self.small.items():
                after[parts] += self._cell_products(x, y, stratum)
            spread = np.sqrt(spreads[a] * spreads[b])
            np.divide(self._pool(before, after), spread, out=rho[:, place], where=spread > 0)
        return np.clip(rho[0], -1, 1), np.clip(rho[1:], -1, 1)

    def _alike(self, x: Column, y: Column) -> int:
        """Return 1 for columns of one order, -1 for opposite ones, whose rho nothing can move, else 0."""
        if np.array_equal(x.low, y.low):
            return 1
        ends = 2 * self.first + self.size
        return -1 if np.array_equal(x.low, ends[self.stratum] - y.high) else 0

    def _sorted(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values) if self.rows is None else np.asarray(values)[self.rows]

    def _by_stratum(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.first) if self.pooled else values.sum(keepdims=True)

    def _ways(self, parts: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return the parts whose fourth sum is made as it stands, and by stratum those that are summed by cells."""
        sizes = self.size[self.part_stratum]
        small = parts[self.part_size[parts] <= LARGE_BLOCK * sizes[parts]]
        work = np.bincount(self.part_stratum[small], sizes[small], len(self.size))
        share = DIRECT_WORK * self.size / self.size.sum()
        by_cells = (work > share) & (work.sum() > DIRECT_WORK) & (self.size > CELLS)
        in_cells = small[by_cells[self.part_stratum[small]]]
        strata = self.part_stratum[in_cells]
        by_stratum = {int(stratum): in_cells[strata == stratum] for stratum in np.unique(strata)}
        return np.setdiff1d(parts, in_cells, assume_unique=True), by_stratum

    def _inside(
        self, order: np.ndarray, low: np.ndarray, high: np.ndarray, cubes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) ranks of the rows inside their parts, and (parts,) spreads of what the parts leave."""
        by_part = order[_stable_order(self.part[order])]
        begins = _begins(low[by_part], self.part[by_part])
        lengths = np.diff(begins, append=len(order))
        first = np.cumsum(self.part_size) - self.part_size
        offset = 2 * first + self.part_size
        ranks = np.empty(len(order))
        ranks[by_part] = np.repeat(2 * begins + lengths - offset[self.part[by_part[begins]]], lengths)
        members = by_part[begins]
        whole = high[members] - low[members]
        lost = np.add.reduceat(_cubes(whole - lengths) - _cubes(whole), np.searchsorted(begins, first))
        return ranks, _spread(self.part_left, cubes[self.part_stratum] + lost)

    def _moved(self, x: Column, ranks: np.ndarray) -> np.ndarray:
        """Return (parts,) sums over the stratum of the ranks against the part in x times other ranks."""
        through = np.zeros(len(ranks) + 1)
        np.cumsum(ranks[x.order], out=through[1:])  # 0 wherever a stratum ends
        return -np.bincount(self.part, through[x.low] + through[x.high], len(self.part_size))

    def _pool(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return (1 + deletions,) sums over strata, ranks divided by their sizes: of everything, then without each block."""
        scale, scale_after = (1 / np.maximum(size, 1.0) ** 2 for size in (self.size, self.part_left))
        old, new = before * scale, np.where(self.part_left > 1, after * scale_after, 0.0)
        change = new - old[self.part_stratum]
        without = old.sum() + np.bincount(self.part_block, change, self.deletions)
        # Nothing but rounding is left where nothing is left to sum.
        some = np.count_nonzero(old) + np.bincount(
            self.part_block, (new != 0).astype(float) - (old != 0)[self.part_stratum], self.deletions
        )
        return np.append(old.sum(), np.where(some > 0, without, 0.0))

    def _direct_products(self, columns: Sequence[Column], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the (pairs, parts) fourth sums of the parts that are summed as they stand; 0 for others."""
        sums = np.zeros((len(pairs), len(self.part_size)))
        members = [self.part[column.order].astype(np.int32) for column in columns if len(self.direct)]
        for parts in self._chunks():
            sizes = self.size[self.part_stratum[parts]]
            starts = np.cumsum(sizes) - sizes
            against = (
                self._against_one_stratum if len(np.unique(self.part_stratum[parts])) == 1 else self._against
            )
            ranks = [against(*pair, parts) for pair in zip(columns, members, strict=True)]
            for place, (a, b) in enumerate(pairs):
                sums[place, parts] = np.add.reduceat(ranks[a] * ranks[b], starts)
        return sums

    def _chunks(self) -> Iterator[np.ndarray]:
        """Yield the parts that are summed as they stand, a few at a time; large strata by themselves."""
        sizes = self.size[self.part_stratum[self.direct]]
        large = np.where(sizes >= LARGE_STRATUM, self.part_stratum[self.direct], -1)
        ends = np.append(np.flatnonzero(np.diff(large)) + 1, len(self.direct))
        through, first = np.cumsum(sizes), 0
        for end in ends:
            while first < end:
                before = through[first] - sizes[first]
                last = int(np.searchsorted(through, before + CHUNK, side="right"))
                last = min(max(last, first + 1), end)
                yield self.direct[first:last]
                first = last

    def _against(self, column: Column, by_value: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Return the ranks of the rows of each part's stratum against the part, one part after the other.

        Args:
            column: what is ranked.
            by_value: (n,) part of each row in `column.order`.
            parts: some parts.
        """
        sizes = self.size[self.part_stratum[parts]]
        starts = np.cumsum(sizes) - sizes
        shift = np.repeat(starts - self.first[self.part_stratum[parts]], sizes)
        rows = np.arange(len(shift)) - shift
        seen = np.zeros(len(rows) + 1)
        np.cumsum(by_value[rows] == np.repeat(parts, sizes), out=seen[1:])
        ranks = seen[column.low[rows] + shift]
        ranks += seen[column.high[rows] + shift]
        ranks -= np.repeat(2 * seen[starts] + self.part_size[parts], sizes)
        return ranks

    def _against_one_stratum(self, column: Column, by_value: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Return the same faster where all parts lie in one stratum."""
        first, size = (values[self.part_stratum[parts[0]]] for values in (self.first, self.size))
        rows = slice(first, first + size)
        seen = np.zeros((len(parts), size + 1), dtype=np.int32)
        np.cumsum(by_value[rows] == parts[:, None], axis=1, dtype=np.int32, out=seen[:, 1:])
        ranks = np.take(seen, column.low[rows] - first, axis=1)
        ranks += np.take(seen, column.high[rows] - first, axis=1)
        return (ranks - self.part_size[parts, None].astype(np.float64)).ravel()

    def _put_into_cells(self, column: Column, begins: np.ndarray, lengths: np.ndarray) -> None:
        """Fill in `cells` and `means`."""
        column.cells = np.zeros(len(column.order), dtype=np.int32)
        for stratum, parts in self.small.items():
            first, size = self.first[stratum], self.size[stratum]
            runs = slice(*np.searchsorted(begins, [first, first + size]))
            cell = np.repeat(rank_cells(begins[runs] - first, lengths[runs], size, CELLS), lengths[runs])
            rows = column.order[first : first + size]
            column.cells[rows] = cell
            column.means[stratum] = self._cell_means(column, rows, cell, parts)

    def _cell_means(
        self, column: Column, rows: np.ndarray, cell: np.ndarray, parts: np.ndarray
    ) -> np.ndarray:
        """Return the (parts, cells) mean, over the rows of a cell, of their ranks against the members of a part."""
        sizes = np.bincount(cell)
        place = np.full(len(self.part_size), -1)
        place[parts] = np.arange(len(parts))
        row_place = place[self.part[rows]]
        member = row_place >= 0
        shape = (len(parts), len(sizes))
        slot = row_place[member] * shape[1] + cell[member]
        counts = np.bincount(slot, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        # A member's rank among the rows of its own cell: on average they are that much below it.
        last = np.cumsum(sizes)
        inside = column.ranks[rows] - (2 * last - sizes - len(rows))[cell]
        own = np.bincount(slot, inside[member], shape[0] * shape[1]).reshape(shape)
        means = 2 * np.cumsum(counts, axis=1) - counts - counts.sum(axis=1, keepdims=True)
        return means - own / sizes

    def _cell_products(self, x: Column, y: Column, stratum: int) -> np.ndarray:
        """Return the fourth sums of the parts of a stratum that are summed by cells."""
        mean_x, mean_y = x.means[stratum], y.means[stratum]
        rows = slice(self.first[stratum], self.first[stratum] + self.size[stratum])
        shape = (mean_x.shape[1], mean_y.shape[1])
        together = np.bincount(
            x.cells[rows].astype(np.int64) * shape[1] + y.cells[rows], minlength=shape[0] * shape[1]
        )
        return np.einsum("pk,pk->p", mean_x @ together.reshape(shape).astype(np.float64), mean_y)


def _stable_order(codes: np.ndarray) -> np.ndarray:
    """Return the order that sorts codes and leaves equal ones as they stand; few codes are sorted by counting."""
    small = codes.astype(np.uint16) if codes.max(initial=0) < 2**16 else codes
    return np.argsort(small, kind="stable")


def _begins(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return where runs of equal values in equal groups begin."""
    new = np.ones(len(values), dtype=bool)
    new[1:] = (values[1:] != values[:-1]) | (groups[1:] != groups[:-1])
    return np.flatnonzero(new)


def _cubes(lengths: np.ndarray) -> np.ndarray:
    exact = lengths.astype(np.longdouble)  # whole numbers up to 2.6 million rows
    return exact * exact * exact


def _spread(size: np.ndarray, cubes: np.ndarray) -> np.ndarray:
    """Return the sum of squared ranks of so many rows, from the summed cubes of the lengths of their ties."""
    whole = _cubes(size)
    left = whole - cubes
    return np.where(left > CONSTANT * whole, left / 3, 0).astype(np.float64)


def correlate_without(
    x: np.ndarray, y: np.ndarray, blocks: np.ndarray, deletions: int, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman's rho of every x column with every y column, of all rows and without each block of them.

    Args:
        x: (n, t) finite numbers.
        y: (n, k) finite numbers; `x` itself for the correlations among its columns, which are then made once each.
        blocks: (n,) block 0..deletions-1 of each row.
        deletions: how many blocks there are.
        strata: (n,) codes 0..g-1, all in use: ranks inside them, divided by their sizes, are pooled.

    Returns:
        (t, k) and (deletions, t, k), in [-1, 1]; NaN where a column is constant.
    """
    left_out = LeftOut(blocks, deletions, strata)
    columns = [left_out.rank(column) for column in x.T]
    count = len(columns)
    rho = np.empty((1 + deletions, count, y.shape[1]))
    if x is y:
        pairs = [(a, b) for a in range(count) for b in range(a, count)]
        for (a, b), values in zip(pairs, np.vstack(left_out.correlate(columns, pairs)).T, strict=True):
            rho[:, a, b] = rho[:, b, a] = values
        return rho[0], rho[1:]
    for first in range(0, y.shape[1], AT_ONCE):
        some = [left_out.rank(column) for column in y[:, first : first + AT_ONCE].T]
        pairs = [(a, count + b) for a in range(count) for b in range(len(some))]
        whole, without = left_out.correlate(columns + some, pairs)
        rho[:, :, first : first + len(some)] = np.vstack([whole, without]).reshape(-1, count, len(some))
    return rho[0], rho[1:]
