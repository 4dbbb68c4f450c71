"""Exact nearest neighbours among the rows of a matrix that may be larger than memory.

The search multiplies float32 tiles (fast, but subject to cancellation), keeps every pair that rounding could
have hidden, and recomputes those from differences in float64. So the neighbour found is the nearest one, also among
duplicates and near-duplicates, and neither the tile size, nor the device, nor the number of ranks can change
a result.

How it works, for rows ``a`` and ``b`` after subtracting the mean of all rows:

1. ``|a - b|^2 = |a|^2 + |b|^2 - 2 a.b``. The product of one pair of tiles serves the rows of both, which halves the work.
2. A dot product of length ``n`` in precision ``u`` is wrong by at most ``n u / (1 - n u) |a| |b|`` in whatever
   order it is summed (the standard bound, as in Higham, Accuracy and Stability of Numerical Algorithms). Products are
   taken over at most ``DEPTH`` columns at a time to keep ``n`` small. Since ``2 |a| |b| <= |a|^2 + |b|^2``, the
   error of a squared distance is at most ``e(a) + e(b)``, one number per row.
3. A pair whose lower bound does not exceed the row's K-th smallest upper bound remains a candidate; usually one or two
   per row do. Rows with too many (clusters of near-duplicates, ties) are searched again in float64.
4. The candidates' distances are computed as sums of squared differences in float64; ties go to the lowest row.
"""

import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.core.digests import combined_digest
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.shard_files import array_digest
from utils.latents.neighbour_bounds import DEPTH, Candidates, Codes
from utils.latents.rows import BLOCK_BYTES

if TYPE_CHECKING:
    import torch


METRICS = ("euclidean", "cosine")
_EXACT_BYTES = 512 * 2**10  # of rows in float64 at once: they stay in the processor's cache


_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Neighbours:
    """What a search found.

    Attributes:
        index: (N, K) int64, rows of the nearest other rows, nearest first, ties by row; -1 where there are fewer.
        distance: (N, K) float64, their distances in the metric's own units, larger is farther; NaN where there are fewer.
        duplicates: (N,) int64, how many other rows of the same group hold exactly the same values.
    """

    index: np.ndarray
    distance: np.ndarray
    duplicates: np.ndarray


@dataclass(frozen=True)
class SearchSettings:
    """How to search. Nothing here but ``metric`` and ``neighbours`` can change a result.

    Attributes:
        metric: ``euclidean``, or ``cosine`` (1 - cosine similarity, 0..2).
        neighbours: K, at least 1.
        device: A torch device for the float32 products.
        memory_bytes: Working memory on that device; the matrix itself is read from where it is.
        tile_rows: Rows per tile; from the memory when None.
        rank: Number of this process, of ``world`` processes; each takes every ``world``-th row of tiles.
        world: How many processes share the search.
        partial_folder: Where partial results go, to resume from and to merge; needed when ``world > 1``.
        fingerprint: What the partial results depend on besides these settings (e.g. the file's checksum).
        checkpoint_seconds: How often a partial result is written.
    """

    metric: str = "euclidean"
    neighbours: int = 1
    device: str = "cpu"
    memory_bytes: int = 384 * 2**20
    tile_rows: int | None = None
    rank: int = 0
    world: int = 1
    partial_folder: Path | None = None
    fingerprint: str = ""
    checkpoint_seconds: float = 60.0


# ------------------------------------------------------------------------------------------------ the scan


def _plan_tile(codes: Codes, settings: SearchSettings) -> int:
    """Choose the rows per tile: at least eight tiles (the diagonal is computed in full), within the memory."""
    if settings.tile_rows:
        return min(settings.tile_rows, codes.count)
    row_bytes = 4 * (codes.width + 2 * min(codes.width, DEPTH))
    room = settings.memory_bytes / 2
    # 20 T^2 + held T = room: five T x T arrays (two products, two of the comparison, its mask), one tile, one chunk twice
    fitting = int((-row_bytes + math.sqrt(row_bytes**2 + 80 * room)) / 40)
    wanted = max(512 if settings.device == "cpu" else 4096, math.ceil(codes.count / 8))
    return max(1, min(fitting, wanted, 2048 if settings.device == "cpu" else 16384, codes.count))


def _partners(tile: int, tiles: int) -> list[int]:
    """Return the tiles with which ``tile`` is multiplied, itself first: half of all, so that each pair occurs once."""
    steps = tiles // 2
    last = steps - 1 if tiles % 2 == 0 and tile >= steps else steps
    return [(tile + step) % tiles for step in range(last + 1)]


class _Scan:
    """All pairs of tiles of one rank, float32, on one device."""

    def __init__(self, codes: Codes, settings: SearchSettings, k: int) -> None:
        import torch

        self.codes, self.settings, self.device = codes, settings, torch.device(settings.device)
        self.rows = _plan_tile(codes, settings)
        self.tiles = math.ceil(codes.count / self.rows)
        squares, share = codes.bounds()
        self.squares, self.share = squares.to(self.device), share.to(self.device)
        self.state = Candidates.empty(self.share, k, limit=32 + 8 * k)
        size = self.rows**2
        self.products, self.spare = (torch.empty(size, device=self.device) for _ in range(2))
        self.held = torch.empty(self.rows * codes.width)
        self.chunk = torch.empty(self.rows * min(codes.width, DEPTH))
        cached = codes.count * codes.width * 4 <= settings.memory_bytes / 2
        self.cache = None
        if cached:
            cache = torch.empty(codes.count, codes.width, device=self.device)
            for tile in range(self.tiles):
                cache[self.span(tile)] = self.load(tile, self.held)
            self.cache = cache

    def span(self, tile: int) -> slice:
        """Return the rows of a tile."""
        return slice(tile * self.rows, min((tile + 1) * self.rows, self.codes.count))

    def load(self, tile: int, buffer: "torch.Tensor", columns: slice = slice(None)) -> "torch.Tensor":
        """Return a tile, or some of its columns, on the device; valid until the buffer is used again."""
        span = self.span(tile)
        if self.cache is not None:
            return self.cache[span, columns]
        return self.codes.load(np.arange(span.start, span.stop), columns, buffer=buffer).to(self.device)

    def multiply(self, held: "torch.Tensor", other: int) -> "torch.Tensor":
        """Return ``-2 a.b`` for the rows of a held tile and of another one, summed over chunks of columns."""
        import torch

        span = self.span(other)
        shape = (len(held), span.stop - span.start)
        products, part = (buffer[: shape[0] * shape[1]].view(shape) for buffer in (self.products, self.spare))
        for start in range(0, self.codes.width, DEPTH):
            columns = slice(start, start + DEPTH)
            target = products if start == 0 else part
            torch.mm(held[:, columns], self.load(other, self.chunk, columns).T, out=target)
            if start:
                products.add_(part)
        return products.mul_(-2)

    def tile_row(self, tile: int) -> None:
        """Multiply one tile with its partners and take in what comes out, for the rows of both."""
        left = self.load(tile, self.held)
        mine = self.span(tile)
        for other in _partners(tile, self.tiles):
            theirs = self.span(other)
            products = self.multiply(left, other)
            if other == tile:
                products.fill_diagonal_(math.inf)
            self.state.offer(products, mine, theirs, self.squares[theirs], self.share[theirs], self.spare)
            if other != tile:
                self.state.offer(products.T, theirs, mine, self.squares[mine], self.share[mine], self.spare)

    def run(self, progress: Callable[[int], None]) -> Candidates:
        """Do this rank's rows of tiles, resuming from and writing partial results where a folder is given."""
        import time

        import torch

        saved = _Partial(self) if self.settings.partial_folder else None
        start = saved.load() if saved else 0
        mine = range(self.settings.rank, self.tiles, self.settings.world)
        last = time.monotonic()
        old = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False  # its 10-bit products would void the error bound
        try:
            for number, tile in enumerate(mine):
                if number >= start:
                    self.tile_row(tile)
                    if saved and time.monotonic() - last > self.settings.checkpoint_seconds:
                        saved.save(number + 1)
                        last = time.monotonic()
                progress(len(_partners(tile, self.tiles)))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = old
        if saved:
            saved.save(len(mine))
        return self.state


class _Partial:
    """A rank's partial result on disk: the state after a number of its rows of tiles."""

    _NAMES = ("best", "crowded", "rows", "columns", "lowers")

    def __init__(self, scan: _Scan) -> None:
        self.scan, settings = scan, scan.settings
        if settings.partial_folder is None:
            raise ValueError("a partial result needs a folder to be kept in")
        self.folder = settings.partial_folder
        self.key = repr(
            (
                settings.fingerprint,
                settings.metric,
                scan.codes.count,
                scan.codes.width,
                scan.state.best.shape[1],
                scan.rows,
            )
            + (settings.world,)
        )

    def _digest(self, arrays: dict[str, np.ndarray]) -> str:
        return combined_digest((name, array_digest(array)) for name, array in arrays.items())

    def path(self, rank: int) -> Path:
        """Return the file of a rank."""
        return self.folder / f"neighbours_{rank:04d}_of_{self.scan.settings.world:04d}.npz"

    def save(self, done: int) -> None:
        """Write this rank's state, atomically."""
        state = self.scan.state
        state.tidy()
        parts = [part.cpu().numpy() for part in (state.best, state.crowded, *state.candidates())]
        arrays = dict(zip(self._NAMES, parts, strict=True))
        with atomic_path(self.path(self.scan.settings.rank)) as temporary:
            np.savez(
                temporary,
                key=self.key,
                done=done,
                sha256=self._digest(arrays),
                **arrays,  # type: ignore[arg-type]  # numpy's stubs take any name for allow_pickle
            )

    def load(self, rank: int | None = None) -> int:
        """Take in a rank's file (this rank's when None) if it is of this search; return its finished rows of tiles."""
        import torch

        path = self.path(self.scan.settings.rank if rank is None else rank)
        if not path.exists():
            return 0
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["key"]) != self.key:
                    return 0
                arrays = {name: file[name] for name in self._NAMES}
                if str(file["sha256"]) != self._digest(arrays):
                    raise ValueError("its content is not what was written")
                done = int(file["done"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s); its part of the search is done again.", path, error)
            return 0
        state = self.scan.state
        saved = {name: torch.from_numpy(array).to(self.scan.device) for name, array in arrays.items()}
        state.absorb(Candidates(share=state.share, limit=state.limit, used=len(saved["rows"]), **saved))
        return done


def _merge_ranks(scan: _Scan) -> None:
    """Take in the other ranks' results (all of them are finished by now)."""
    saved = _Partial(scan)
    for rank in range(scan.settings.world):
        if rank != scan.settings.rank and not saved.load(rank):
            expected = len(range(rank, scan.tiles, scan.settings.world))
            if expected:
                raise UserError(
                    f"Expected the partial neighbours of rank {rank} in {saved.path(rank)}, found none of this search. "
                    "All ranks must write to the same output folder; start the same torchrun command again."
                )


# ------------------------------------------------------------------------------------------------ exact distances


def exact_squares(
    matrix: np.ndarray, first: np.ndarray, second: np.ndarray, cosine: bool = False
) -> np.ndarray:
    """Compute squared distances of pairs of rows from differences in float64, so that nothing cancels.

    Args:
        matrix: (N, D) array.
        first: (P,) rows.
        second: (P,) rows.
        cosine: Divide every row by its norm first.

    Returns:
        (P,) float64; the same pair, in either order and any company, gives the same bits.
    """
    keys = np.minimum(first, second) * len(matrix) + np.maximum(first, second)
    keys, back = np.unique(keys, return_inverse=True)
    low, high = np.divmod(keys, len(matrix))
    result = np.empty(len(keys))
    step = max(1, _EXACT_BYTES // (8 * max(1, matrix.shape[1])))
    for start in range(0, len(keys), step):
        block = slice(start, start + step)
        left, right = (matrix[rows[block]].astype(np.float64) for rows in (low, high))
        if cosine:
            left /= np.sqrt(np.einsum("ij,ij->i", left, left))[:, None]
            right /= np.sqrt(np.einsum("ij,ij->i", right, right))[:, None]
        left -= right
        result[start : start + step] = np.einsum("ij,ij->i", left, left)
    return result[back.reshape(-1)]


def _nearest(
    row: np.ndarray, column: np.ndarray, square: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep each row's k nearest candidates, ties by column; sorted by row, then distance."""
    order = np.lexsort((column, square, row))
    row, column, square = row[order], column[order], square[order]
    starts = np.r_[0, np.flatnonzero(np.diff(row)) + 1]
    place = np.arange(len(row)) - np.repeat(starts, np.diff(np.r_[starts, len(row)]))
    keep = place < k
    return row[keep], column[keep], square[keep]


def _joined(parts: list[_Pairs]) -> _Pairs:
    """Put (row, column, squared distance) of several searches one behind the other."""
    row, column, square = (np.concatenate(values) for values in zip(*parts, strict=True))
    return row, column, square


def _resolve_crowded(codes: Codes, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Search rows with too many float32 candidates again, in float64 on the CPU, a few rows at a time.

    Whatever still cannot be told apart is recomputed, however much it is: exactness before speed.
    """
    import torch

    squares, share = codes.bounds(precise=True)
    step = int(max(1, min(1024, 8_000_000 // codes.count, BLOCK_BYTES // (8 * codes.width))))
    results = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        state = Candidates.empty(share[part], k, limit=codes.count)
        left = codes.load(part, precise=True) * -2.0
        for low in range(0, codes.count, step):
            span = slice(low, min(low + step, codes.count))
            products = torch.zeros(len(part), span.stop - low, dtype=torch.float64)
            for column in range(0, codes.width, DEPTH):
                columns = slice(column, column + DEPTH)
                products += left[:, columns] @ codes.load(np.arange(low, span.stop), columns, precise=True).T
            inside = np.flatnonzero((part >= low) & (part < span.stop))
            products[inside, part[inside] - low] = math.inf
            state.offer(
                products, slice(0, len(part)), span, squares[span], share[span], torch.empty_like(products)
            )
        state.tidy()
        row, nearest = (values.numpy() for values in state.candidates()[:2])
        square = exact_squares(codes.matrix, codes.rows[part[row]], codes.rows[nearest], codes.cosine)
        results.append(_nearest(part[row], nearest, square, k))
    return _joined(results)


def _resolve(codes: Codes, state: Candidates, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the candidates into each row's k nearest: (row, column, squared distance) within ``codes.rows``."""
    state.tidy()
    row, column = (values.cpu().numpy() for values in state.candidates()[:2])
    square = exact_squares(codes.matrix, codes.rows[row], codes.rows[column], codes.cosine)
    result = _nearest(row, column, square, k)
    crowded = np.flatnonzero(state.crowded.cpu().numpy())
    if len(crowded):
        log.info("%d rows have many near-equal neighbours; searching those again in float64.", len(crowded))
        extra = _resolve_crowded(codes, crowded, k)
        result = _joined([result, extra])
    return result


def _spread_over_duplicates(
    codes: Codes, members: np.ndarray, found: tuple[np.ndarray, np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give every member its k nearest: copies of itself at distance 0, then its set's neighbours with their copies."""
    by_set = np.argsort(codes.group_of, kind="stable")
    ends = np.searchsorted(codes.group_of[by_set], np.arange(codes.count + 1))
    row, column, square = found
    order = np.argsort(row, kind="stable")
    row, column, square = row[order], column[order], square[order]
    limits = np.searchsorted(row, np.arange(codes.count + 1))
    index, distance = np.full((len(members), k), -1), np.full((len(members), k), np.nan)
    # Almost no row has a copy, or a neighbour with one: what was found is the answer as it stands.
    copied = np.diff(ends) > 1
    touched = copied.copy()
    touched[row[copied[column]]] = True
    plain = ~touched[row]
    place = np.arange(len(row)) - limits[row]
    at_plain = np.searchsorted(members, codes.rows[row[plain]])
    index[at_plain, place[plain]] = codes.rows[column[plain]]
    distance[at_plain, place[plain]] = square[plain]
    copies = [members[by_set[a:b]] for a, b in zip(ends[:-1], ends[1:], strict=True)] if touched.any() else []
    for own in np.flatnonzero(touched):
        same, span = copies[own], slice(limits[own], limits[own + 1])
        # k + 1 copies of anything are enough, one of them being the row itself
        near = [same[: k + 1], *(copies[j][:k] for j in column[span])]
        ids = np.concatenate(near)
        squares = np.repeat(np.r_[0.0, square[span]], [len(part) for part in near])
        best = np.lexsort((ids, squares))
        ids, squares = ids[best], squares[best]
        for member in same:
            others = np.flatnonzero(ids != member)[:k]
            at = np.searchsorted(members, member)
            index[at, : len(others)], distance[at, : len(others)] = ids[others], squares[others]
    return index, distance


# ------------------------------------------------------------------------------------------------ the search


def _search_group(
    matrix: np.ndarray, members: np.ndarray, settings: SearchSettings, progress: Callable[[float], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Search among the rows ``members``; None on ranks that do not merge."""
    from utils.core.processes import barrier

    codes = Codes(matrix, members, settings.metric)
    duplicates = np.bincount(codes.group_of)[codes.group_of] - 1
    k = min(settings.neighbours, codes.count - 1)
    triples = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    if k > 0:
        scan = _Scan(codes, settings, k)
        pairs = scan.tiles * (scan.tiles + 1) / 2
        state = scan.run(lambda done: progress(done / pairs * len(members)))
        if settings.world > 1:
            barrier()
            if settings.rank:
                return None
            _merge_ranks(scan)
        scan.cache = None
        triples = _resolve(codes, state, k)
    elif settings.rank:
        return None
    index, squares = _spread_over_duplicates(codes, members, triples, settings.neighbours)
    return index, squares / 2 if settings.metric == "cosine" else np.sqrt(squares), duplicates


def nearest_neighbours(
    matrix: np.ndarray,
    settings: SearchSettings,
    groups: np.ndarray | None = None,
    progress: Callable[[float], None] = lambda rows: None,
) -> Neighbours | None:
    """Find every row's K nearest other rows, exactly.

    Args:
        matrix: (N, D) float16 or float32 values, usually a memory map, sorted by ``image_id`` so that ties go to the
            lowest one.
        settings: Metric, K, device, memory, ranks.
        groups: (N,) labels; neighbours are sought within a row's own group only. One group when None.
        progress: Called with the number of rows' worth of work just done.

    Returns:
        The neighbours; None on ranks other than 0.

    Raises:
        NonFiniteRowsError: If rows hold NaN or infinity.
        ZeroRowsError: If the metric is cosine and rows are all zero.
        ValueError: If the metric is unknown, K is not positive, or the matrix is not float16 or float32.
    """
    if matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32):
        raise ValueError(f"Expected a float16 or float32 matrix, got {matrix.dtype} of shape {matrix.shape}.")
    if settings.metric not in METRICS or settings.neighbours < 1:
        raise ValueError(
            f"Expected a metric of {METRICS} and neighbours >= 1, got {settings.metric}, {settings.neighbours}."
        )
    count, k = len(matrix), settings.neighbours
    index, distance = np.full((count, k), -1, np.int64), np.full((count, k), np.nan)
    duplicates = np.zeros(count, np.int64)
    labels = (
        np.zeros(count, np.int64) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    for label in range(labels.max() + 1 if count else 0):
        members = np.flatnonzero(labels == label)
        own = _settings_of_group(settings, label)
        result = _search_group(matrix, members, own, progress)
        if result is not None:
            index[members], distance[members], duplicates[members] = result
    return None if settings.rank else Neighbours(index, distance, duplicates)


def _settings_of_group(settings: SearchSettings, label: int) -> SearchSettings:
    """Give each group a folder of its own for partial results."""
    from dataclasses import replace

    if settings.partial_folder is None:
        return settings
    return replace(settings, partial_folder=settings.partial_folder / f"group_{label:04d}")
