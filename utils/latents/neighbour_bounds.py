"""What the search of :mod:`utils.latents.neighbours` rests on: centred rows, error bounds, candidates within them."""

import math
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from utils.latents.rows import BLOCK_BYTES, read_rows, row_blocks

if TYPE_CHECKING:
    import torch

DEPTH = 4096  # columns per float32 product: bounds the error at 2.5e-4 of the squared norms, costs 2 % of the time
_FLOOR = 1e-30  # absolute part of every error bound: covers numbers lost to underflow (rows are scaled to norm <= 1)


class NonFiniteRowsError(ValueError):
    """Some rows hold NaN or infinity. ``rows`` lists them."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"{len(rows)} row(s) hold NaN or infinite values: {rows[:10]}")
        self.rows = rows


class ZeroRowsError(ValueError):
    """Some rows are all zero, so that their cosine distance is undefined. ``rows`` lists them."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(f"{len(rows)} row(s) are all zero: {rows[:10]}")
        self.rows = rows


def _as_tensor(array: np.ndarray) -> "torch.Tensor":
    """Wrap an array without copying it; read-only maps are only ever read here, so torch's warning is moot."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


class Codes:
    """Centred, scaled float32 rows of a matrix, with the numbers that the error bounds need.

    Rows that repeat an earlier one exactly are set aside: the search runs over ``rows``, the first of each.
    Cosine is searched as Euclidean distance between rows of unit length: ``1 - cos = |a/|a| - b/|b||^2 / 2``.
    """

    def __init__(self, matrix: np.ndarray, members: np.ndarray, metric: str) -> None:
        self.matrix, self.cosine = matrix, metric == "cosine"
        self.norms, checks, self.centre = self._first_pass(members)
        self.rows, self.group_of = _set_duplicates_aside(matrix, members, checks)
        if self.cosine:
            self.norms = self.norms[np.searchsorted(members, self.rows)]
        self.count, self.width = len(self.rows), matrix.shape[1]
        self.squares = self._squares()

    def _first_pass(self, members: np.ndarray) -> "tuple[np.ndarray, np.ndarray, torch.Tensor]":
        """Norms of the rows (cosine only), their checksums, and their mean (float32; of the unit rows for cosine).

        Also sets ``scale``, a power of two that brings every centred row's norm to 1 or less, exactly.
        """
        import torch

        norms = np.empty(len(members) if self.cosine else 0)
        checks = np.empty(len(members), np.uint32)
        bad: list[int] = []
        total, done, largest = torch.zeros(self.matrix.shape[1], dtype=torch.float64), 0, 0.0
        for _, block in row_blocks(self.matrix, members):
            block = np.add(block, 0.0, dtype=np.float32)  # a copy, in which -0.0 has become 0.0
            values = torch.from_numpy(block)
            where = slice(done, done + len(block))
            done += len(block)
            checks[where] = [zlib.crc32(row) for row in block]
            low, high = (float(end) for end in values.aminmax())
            if not math.isfinite(low + high):
                bad += members[where][~torch.isfinite(values).all(1).numpy()].tolist()
            if self.cosine:
                part = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
                norms[where], low, high = part.numpy(), -1.0, 1.0
                values = values / part[:, None].clamp_min(1e-300)
            total += values.sum(0)
            largest = max(largest, -low, high)
        if bad:
            raise NonFiniteRowsError(bad)
        if self.cosine and not norms.all():
            raise ZeroRowsError(members[norms == 0].tolist())
        exponent = math.ceil(math.log2(2 * largest * math.sqrt(self.matrix.shape[1]))) if largest > 0 else 0
        self.scale = 2.0 ** -max(exponent, -100)
        # any centre will do; this one makes the norms, and with them the error bounds, small
        return norms, checks, torch.nan_to_num(total / len(members), 0.0, 0.0, 0.0).to(torch.float32)

    def _squares(self, precise: bool = False) -> np.ndarray:
        """Return (n,) squared norms of the rows as :meth:`load` gives them: partial sums as long as a product's."""
        import torch

        step, squares = max(1, BLOCK_BYTES // (8 * self.width)), np.zeros(self.count)
        for start in range(0, self.count, step):
            part = slice(start, min(start + step, self.count))
            rows = self.load(np.arange(part.start, part.stop), precise=precise)
            for chunk in rows.split(DEPTH, dim=1):
                squares[part] += torch.linalg.vector_norm(chunk, dim=1).to(torch.float64).square().numpy()
        return squares

    def load(
        self,
        part: np.ndarray,
        columns: slice = slice(None),
        precise: bool = False,
        buffer: "torch.Tensor | None" = None,
    ) -> "torch.Tensor":
        """Read rows (numbers within ``rows``), centred and scaled, as an (n, d) tensor on the CPU.

        float32, or float64 if ``precise``; in the memory of ``buffer`` where one is given.
        """
        import torch

        kind = torch.float64 if precise else torch.float32
        values = _as_tensor(read_rows(self.matrix, self.rows[part], columns)).to(kind)
        centre = self.centre[columns].to(kind)
        if self.cosine:
            norms = torch.from_numpy(self.norms[part])[:, None]
            # the reciprocal of an extreme norm does not fit float32
            extreme = bool((norms < 1e-30).any() or (norms > 1e30).any())
            values = (values.double() * (1 / norms)).to(kind) if extreme else values * (1 / norms).to(kind)
        out = None if buffer is None else buffer[: values.numel()].view(values.shape)
        return torch.mul(values, self.scale, out=out).sub_(centre * self.scale)

    def bounds(self, precise: bool = False) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return (n,) squared norms and (n,) error shares, both in units of the scaled squared distance.

        ``|computed - true| <= share[i] + share[j]``: the product, the sums around it, the rounding of the centred
        rows, and for cosine the rounding of the unit rows (which does not shrink with the centred norm).
        """
        import torch

        unit = 2.0**-53 if precise else 2.0**-24
        depth = min(self.width, DEPTH) + math.ceil(self.width / DEPTH) + 16
        growth = depth * unit / (1 - depth * unit)
        squares = self._squares(precise=True) if precise else self.squares
        share = 2 * growth * squares + _FLOOR  # once for the product, once for the squared norms themselves
        if self.cosine:
            share += 12 * unit * self.scale * np.sqrt(squares) + 18 * (unit * self.scale) ** 2
        kind = torch.float64 if precise else torch.float32
        return torch.from_numpy(squares).to(kind), torch.from_numpy(share).to(kind)


def _set_duplicates_aside(
    matrix: np.ndarray, members: np.ndarray, checks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find rows that are equal value for value.

    Returns:
        The first row of each set of equal rows, ascending, and for every member the position of its set's first row therein.
    """
    first = members.copy()
    order = np.argsort(checks, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(checks[order]) != 0])
    for start, end in zip(starts, np.r_[starts[1:], len(order)], strict=True):
        if end - start == 1:
            continue
        kept: list[int] = []
        for position in order[start:end]:
            twin = next(
                (k for k in kept if np.array_equal(matrix[members[k]], matrix[members[position]])), None
            )
            if twin is None:
                kept.append(position)
            else:
                first[position] = members[twin]
    return np.unique(first, return_inverse=True)


@dataclass
class Candidates:
    """Running state of a scan over ``count`` rows: what could still be among the K nearest.

    Lower and upper bounds of the squared distance from row i to row j are kept without ``|i|^2`` and without i's
    share of the error, which are the same for the whole row: the pair is a candidate while
    ``lower(i, j) <= best(i) + 2 share(i)``.

    Attributes:
        best: (count, K) the K smallest upper bounds of each row, ascending.
        share: (count,) error share of each row.
        crowded: (count,) rows with more candidates than ``limit``; they keep none.
        limit: How many candidates a row may have.
        rows, columns, lowers: (capacity,) the candidates and their lower bounds; the first ``used`` are filled. One
            growing store: many small tensors that outlive large ones would keep the freed memory from being reused.
    """

    best: "torch.Tensor"
    share: "torch.Tensor"
    crowded: "torch.Tensor"
    limit: int
    rows: "torch.Tensor"
    columns: "torch.Tensor"
    lowers: "torch.Tensor"
    used: int = 0

    @classmethod
    def empty(cls, share: "torch.Tensor", k: int, limit: int) -> "Candidates":
        """Start with nothing found."""
        import torch

        capacity, device = 4 * len(share) + 1024, share.device
        return cls(
            best=torch.full((len(share), k), math.inf, dtype=share.dtype, device=device),
            share=share,
            crowded=torch.zeros(len(share), dtype=torch.bool, device=device),
            limit=limit,
            rows=torch.empty(capacity, dtype=torch.int64, device=device),
            columns=torch.empty(capacity, dtype=torch.int64, device=device),
            lowers=torch.empty(capacity, dtype=share.dtype, device=device),
        )

    def candidates(self) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Return the rows, columns and lower bounds found so far."""
        return self.rows[: self.used], self.columns[: self.used], self.lowers[: self.used]

    def _keep(self, rows: "torch.Tensor", columns: "torch.Tensor", lowers: "torch.Tensor") -> None:
        """Append candidates, making room where there is none."""
        import torch

        if self.used + len(rows) > len(self.rows):
            self.tidy()
            if self.used + len(rows) > len(self.rows) // 2:
                more = len(self.rows) + 2 * len(rows)
                stores = (self.rows, self.columns, self.lowers)
                self.rows, self.columns, self.lowers = (
                    torch.cat([old, old.new_empty(more)]) for old in stores
                )
        place = slice(self.used, self.used + len(rows))
        self.rows[place], self.columns[place], self.lowers[place] = rows, columns, lowers
        self.used = place.stop

    def thresholds(self, rows: "torch.Tensor | slice") -> "torch.Tensor":
        """Return, for each of these rows, the largest lower bound that is still a candidate."""
        limit = self.best[rows, -1] + 2 * self.share[rows]
        return limit.masked_fill(self.crowded[rows], -math.inf)

    def offer(
        self,
        products: "torch.Tensor",
        rows: slice,
        columns: slice,
        squares: "torch.Tensor",
        share: "torch.Tensor",
        spare: "torch.Tensor",
    ) -> None:
        """Take in one tile.

        Args:
            products: (r, c) ``-2 a.b``; infinite where a row meets itself. Left as it is.
            rows: Whose candidates these are, among the rows of this state.
            columns: Which rows they are compared with.
            squares: (c,) squared norms of the columns.
            share: (c,) error shares of the columns.
            spare: Buffer of at least r x c values.
        """
        import torch

        upper = torch.add(
            products, (squares + share)[None, :], out=spare.view(-1)[: products.numel()].view(products.shape)
        )
        smallest = upper.amin(1)
        self._improve(upper, smallest, rows)
        limit = self.thresholds(rows)
        # upper - lower is twice the column's share, so most rows of most tiles are done with here
        todo = torch.nonzero(smallest - 2 * share.max() * (1 + 1e-6) <= limit).squeeze(1)
        if not len(todo):
            return
        near = (products[todo] if len(todo) < len(products) else products) + (squares - share)[None, :]
        mask = near <= limit[todo][:, None]
        full = mask.sum(1) > self.limit
        if full.any():
            self.crowded[rows.start + todo[full]] = True
            mask[full] = False
        row, column = torch.nonzero(mask, as_tuple=True)
        self._keep(rows.start + todo[row], columns.start + column, near[row, column])

    def _improve(self, upper: "torch.Tensor", smallest: "torch.Tensor", rows: slice) -> None:
        """Update the K smallest upper bounds of each row."""
        import torch

        best = self.best[rows]
        k = best.shape[1]
        if k == 1:
            torch.minimum(best[:, 0], smallest, out=best[:, 0])
            return
        better = torch.nonzero(smallest < best[:, -1]).squeeze(1)
        if len(better):
            new = upper[better].topk(min(k, upper.shape[1]), largest=False, sorted=True).values
            best[better] = torch.cat([best[better], new], 1).sort(1).values[:, :k]

    def tidy(self) -> None:
        """Drop what later tiles have ruled out, and mark the rows that still have too many candidates."""
        import torch

        row, _, lower = self.candidates()
        keep = lower <= self.thresholds(row)
        self.crowded |= torch.bincount(row[keep], minlength=len(self.best)) > self.limit
        keep &= ~self.crowded[row]
        kept = int(keep.sum())
        for store in (self.rows, self.columns, self.lowers):
            store[:kept] = store[: self.used][keep]
        self.used = kept

    def absorb(self, other: "Candidates") -> None:
        """Merge the state of another scan over the same rows (another rank's tiles)."""
        import torch

        k = self.best.shape[1]
        self.best = torch.cat([self.best, other.best], 1).sort(1).values[:, :k].contiguous()
        self.crowded |= other.crowded
        self._keep(*other.candidates())
