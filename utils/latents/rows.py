"""Reading a matrix of codes block by block: the one chunk reader."""

import math
from collections.abc import Iterator

import numpy as np
from sklearn.utils import gen_batches

BLOCK_BYTES = 32 * 2**20  # what the passes over the whole matrix hold at a time


def row_blocks(
    matrix: np.ndarray, rows: np.ndarray | None = None, least: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk over a matrix in blocks of constant memory.

    Args:
        matrix: (N, ...) array, memory-mapped or not.
        rows: Rows to visit, in this order; all when None.
        least: Rows that a block has at least, whatever they take; a shorter rest joins the last one.

    Yields:
        The positions of a block's rows in ``rows``, and the block itself, (n, D) in the matrix's own type, at most
        32 MB in float32 where ``least`` allows it.
    """
    rows = np.arange(len(matrix)) if rows is None else rows
    step = max(least, BLOCK_BYTES // (4 * max(1, math.prod(matrix.shape[1:]))))
    places = np.arange(len(rows))
    for part in gen_batches(len(rows), step, min_batch_size=least):
        yield places[part], read_rows(matrix, rows[part]).reshape(len(places[part]), -1)


def read_rows(matrix: np.ndarray, rows: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
    """Read rows: a view where they are consecutive, otherwise a copy."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (len(rows) == 1 or np.all(np.diff(rows) == 1)):
        return matrix[rows[0] : rows[-1] + 1, columns]
    return matrix[rows, columns]


def take_rows(latents: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read rows of a latent matrix, in the order asked for.

    Args:
        latents: (N, D) or (N, C, h, w), any float type, possibly memory-mapped.
        rows: (n,) integer positions in 0..N-1.

    Returns:
        (n, D) float32. Read in file order, so that a matrix on disk is passed over forwards.
    """
    rows = np.asarray(rows, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    codes = np.empty((len(rows), int(np.prod(latents.shape[1:]))), dtype=np.float32)
    for place in order:
        codes[place] = latents[rows[place]].reshape(-1)
    return codes
