"""One pass over all pairs of rows, for every measure of distinctiveness that is made of pairs.

The product of two tiles of centred rows in float64 gives their Euclidean distances, and with three numbers per row
their cosine distances; from these, each row's nearest others and its kernel sums are gathered before the next tile.
So memory is bounded by the tiles and by K numbers per row, never by the square of the number of images.

The sums are in float64 throughout. A squared distance made from products is wrong by a few 1e-16 of the squared
norms; where that is not small against the distance itself (near-duplicates), the neighbours' distances are made
again from differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from utils.latents.neighbour_bounds import DEPTH
from utils.latents.neighbours import exact_squares
from utils.latents.rows import read_rows, row_blocks

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_NO_UNDERFLOW = 600.0  # exp(-x) is a normal float64 up to x = 708
_CANCELLED = 1e-4  # share of the squared norms below which a squared distance is made again from differences
_SCALE_ROWS = 2048
_MAX_TILE = 1024
_TILE_ARRAYS = 6  # float64 arrays of a tile's size alive at a time


@dataclass(frozen=True)
class Kernel:
    """A similarity that falls with Euclidean distance: ``exp(-d / scale)`` or ``exp(-d^2 / (2 scale^2))``.

    Attributes:
        power: 1 (exponential) or 2 (Gaussian).
        scale: In units of the distance.
    """

    power: int
    scale: float

    def log_similarities(self, squares: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Return a new tensor with the log of the similarity, from squared distances and distances."""
        return distances * (-1 / self.scale) if self.power == 1 else squares * (-0.5 / self.scale**2)

    def largest_exponent(self, square: float) -> float:
        """Return minus the log of the similarity at a squared distance."""
        return math.sqrt(square) / self.scale if self.power == 1 else square / (2 * self.scale**2)


@dataclass(frozen=True)
class PairStatistics:
    """What a pass found for ``n`` rows; row numbers count within the members searched.

    Attributes:
        euclidean: (n, K) Euclidean distances to the nearest others, ascending.
        neighbours: (n, K) which rows those are.
        cosine: (n, K) cosine distances (1 - cosine similarity) to the nearest others by that; NaN for zero rows.
        log_sums: For each kernel, (n,) log of the sum of similarities to all others.
    """

    euclidean: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    cosine: NDArray[np.float64]
    log_sums: list[NDArray[np.float64]]


class _Rows:
    """Members of a matrix as centred float64 rows on a device, with what the products need to know of each row."""

    def __init__(self, matrix: NDArray, members: NDArray, device: str) -> None:
        import torch

        self.matrix, self.members, self.device = matrix, members, torch.device(device)
        self.count, self.width = len(members), matrix.shape[1]
        self.centre = sum(block.sum(0, dtype=np.float64) for _, block in row_blocks(matrix, members)) / len(
            members
        )
        squares, offsets, norms = np.empty((3, self.count))
        done = 0
        for _, block in row_blocks(matrix, members):
            values = block - self.centre
            part = slice(done, done + len(block))
            done += len(block)
            squares[part], offsets[part] = np.einsum("ij,ij->i", values, values), values @ self.centre
            norms[part] = np.linalg.norm(block.astype(np.float64), axis=1)
        # a.b = (a - m).(b - m) + (a - m).m + (b - m).m + m.m: half of m.m goes to each row
        offsets += float(self.centre @ self.centre) / 2
        inverse = np.divide(1, norms, out=np.full(self.count, np.nan), where=norms > 0)  # NaN: no direction
        self.squares, self.offsets, self.inverse = (
            torch.from_numpy(values).to(self.device) for values in (squares, offsets, inverse)
        )

    def load(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return some columns of consecutive members, centred, in float64."""
        import torch

        values = read_rows(self.matrix, self.members[rows], columns) - self.centre[columns]
        return torch.from_numpy(values).to(self.device)

    def product(self, first: slice, second: slice) -> torch.Tensor:
        """Return (r, c) dot products of centred rows."""
        import torch

        shape = (first.stop - first.start, second.stop - second.start)
        total = torch.zeros(shape, dtype=torch.float64, device=self.device)
        for start in range(0, self.width, DEPTH):
            columns = slice(start, start + DEPTH)
            left = self.load(first, columns)
            right = left if first == second else self.load(second, columns)
            total.addmm_(left, right.T)
        return total


class _Nearest:
    """Each row's K smallest values so far."""

    def __init__(self, count: int, k: int, device: torch.device) -> None:
        import torch

        self.values = torch.full((count, k), math.inf, dtype=torch.float64, device=device)
        self.index = torch.full((count, k), -1, dtype=torch.int64, device=device)

    def offer(self, values: torch.Tensor, rows: slice, first: int) -> None:
        """Take in (r, c) values of rows, for the columns that begin with number ``first``."""
        import torch

        best, k = self.values[rows], self.values.shape[1]
        mask = values < best[:, -1:]
        counts = mask.sum(1)
        most = int(counts.max())
        if most == 0:
            return
        if most > min(k, values.shape[1] // 4):
            found, place = values.topk(min(k, values.shape[1]), largest=False)
        else:  # few improve on what is known: no need to sort the others
            row, column = torch.nonzero(mask, as_tuple=True)
            position = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
            found = values.new_full((len(values), most), math.inf)
            place = torch.zeros((len(values), most), dtype=torch.int64, device=row.device)
            found[row, position], place[row, position] = values[row, column], column
        merged, order = torch.cat([best, found], 1).sort(dim=1, stable=True)
        index = torch.cat([self.index[rows], place + first], 1).gather(1, order)
        self.values[rows], self.index[rows] = merged[:, :k], index[:, :k]


def _add_log_sums(
    total: torch.Tensor, logs: torch.Tensor, near: bool, rows: slice, columns: slice | None
) -> None:
    """Add a tile's similarities to the running log sums of its rows, and of its columns where they are others.

    The usual tile is exponentiated once for both. Where that could underflow, each row is shifted by its own
    largest similarity, so that an image far from all others keeps a sum that can be compared.

    Args:
        total: (n,) running log sums, changed in place.
        logs: (r, c) log similarities, minus infinity where a row meets itself; used up.
        near: Whether no similarity of the tile underflows.
        rows: The tile's rows.
        columns: Its columns, where they are not the rows.
    """
    import torch

    if near:
        similar = logs.exp_()
        total[rows] = torch.logaddexp(total[rows], similar.sum(1).log())
        if columns is not None:
            total[columns] = torch.logaddexp(total[columns], similar.sum(0).log())
        return
    for part, dim in ((rows, 1), (columns, 0)):
        if part is not None:
            total[part] = torch.logaddexp(total[part], torch.logsumexp(logs, dim))


def _spans(count: int, width: int, memory_bytes: int) -> list[slice]:
    """Divide rows into tiles whose arrays fit the memory."""
    row_bytes = 8 * 2 * min(width, DEPTH)
    fitting = int(
        (-row_bytes + math.sqrt(row_bytes**2 + 4 * 8 * _TILE_ARRAYS * memory_bytes)) / (2 * 8 * _TILE_ARRAYS)
    )
    step = max(1, min(fitting, _MAX_TILE, count))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _tiles(rows: _Rows, memory_bytes: int) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield each pair of tiles once, with the dot products of their centred rows."""
    spans = _spans(rows.count, rows.width, memory_bytes)
    for number, first in enumerate(spans):
        for second in spans[number:]:
            yield first, second, rows.product(first, second)


def pair_statistics(
    matrix: NDArray,
    members: NDArray,
    neighbours: int,
    kernels: Sequence[Kernel] = (),
    *,
    cosine: bool = True,
    device: str = "cpu",
    memory_bytes: int = 384 * 2**20,
    progress: Callable[[float], None] = lambda share: None,
) -> PairStatistics:
    """Visit every pair of rows once.

    Args:
        matrix: (N, D) finite codes, usually a memory map.
        members: (n,) row numbers, ascending, at least two: the rows compared with one another.
        neighbours: K, below n.
        kernels: Similarities to sum.
        cosine: Whether to look for nearest others by cosine distance too.
        device: A torch device that has float64.
        memory_bytes: Working memory of the tiles.
        progress: Called with the share of the pairs just done (they add up to 1).

    Returns:
        Nearest others and kernel sums of each member.

    Raises:
        ValueError: Fewer than two rows, or K not between 1 and n - 1.
    """
    import torch

    if not 1 <= neighbours < len(members):
        raise ValueError(f"expected K between 1 and {len(members) - 1}, got {neighbours}")
    rows = _Rows(matrix, members, device)
    near = _Nearest(rows.count, neighbours, rows.device)
    by_cosine = _Nearest(rows.count, neighbours, rows.device) if cosine else None
    sums = [torch.full_like(rows.squares, -math.inf) for _ in kernels]
    pairs = rows.count * (rows.count + 1) / 2
    for first, second, products in _tiles(rows, memory_bytes):
        same = first == second
        if by_cosine is not None:
            gaps = torch.add(products, rows.offsets[first][:, None]).add_(rows.offsets[second])
            gaps.mul_(rows.inverse[first][:, None]).mul_(rows.inverse[second]).neg_().add_(1)
            _offer_both(by_cosine, gaps, first, second)
        squares = (
            products.mul_(-2).add_(rows.squares[first][:, None]).add_(rows.squares[second]).clamp_min_(0)
        )
        farthest = float(squares.max())
        _offer_both(near, squares, first, second)
        distances = squares.sqrt() if any(kernel.power == 1 for kernel in kernels) else squares
        for kernel, total in zip(kernels, sums, strict=True):
            fits = kernel.largest_exponent(farthest) < _NO_UNDERFLOW
            logs = kernel.log_similarities(squares, distances)
            _add_log_sums(total, logs, fits, first, None if same else second)
        size = (first.stop - first.start) * (second.stop - second.start)
        progress((size + (first.stop - first.start)) / 2 / pairs if same else size / pairs)
    euclidean, index = _settled(rows, near, cosine=False)
    directions = (
        np.full_like(euclidean, np.nan) if by_cosine is None else _settled(rows, by_cosine, cosine=True)[0]
    )
    return PairStatistics(np.sqrt(euclidean), index, directions, [total.cpu().numpy() for total in sums])


def _offer_both(near: _Nearest, values: torch.Tensor, first: slice, second: slice) -> None:
    """Offer a tile to its rows and, transposed, to its columns; never a row to itself."""
    if first == second:
        values.fill_diagonal_(math.inf)
        near.offer(values, first, first.start)
        return
    near.offer(values, first, second.start)
    near.offer(values.T, second, first.start)


def _settled(rows: _Rows, near: _Nearest, cosine: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the nearest values and rows, with those made again from differences that products had cancelled."""
    values, index = near.values.cpu().numpy(), near.index.cpu().numpy()
    squares = rows.squares.cpu().numpy()
    size = 1.0 if cosine else np.maximum(squares[:, None], squares[index])
    row, place = np.nonzero(np.isfinite(values) & (values < _CANCELLED * size))
    first, second = rows.members[row], rows.members[index[row, place]]
    again = exact_squares(rows.matrix, first, second, cosine)
    values[row, place] = again / 2 if cosine else again
    order = np.argsort(values, axis=1, kind="stable")
    values, index = np.take_along_axis(values, order, 1), np.take_along_axis(index, order, 1)
    return np.where(np.isinf(values), np.nan, values), index


def median_distance(matrix: NDArray, members: NDArray) -> float:
    """Return the median Euclidean distance between rows, the scale of the kernels.

    Among all pairs up to 2,048 rows, among those of 2,048 evenly spaced rows above.

    Args:
        matrix: (N, D) codes.
        members: Row numbers, ascending, at least two.
    """
    import torch

    count = min(len(members), _SCALE_ROWS)
    chosen = members[np.arange(count) * len(members) // count]
    rows = _Rows(matrix, chosen, "cpu")
    products = rows.product(slice(0, count), slice(0, count))
    squares = (rows.squares[:, None] + rows.squares - 2 * products).clamp_min_(0)
    upper = torch.triu_indices(count, count, offset=1)
    return float(np.sqrt(np.median(squares[upper[0], upper[1]].numpy())))
