"""Reading a matrix of codes block by block: the one chunk reader."""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 32 * 2**20  # what the passes over the whole matrix hold at a time


def row_blocks(matrix: np.ndarray, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk over a matrix in blocks of constant memory.

    Args:
        matrix: (N, D) array, memory-mapped or not.
        rows: Rows to visit, in this order; all when None.

    Yields:
        The row numbers of a block and the block itself, at most 32 MB in float32.
    """
    rows = np.arange(len(matrix)) if rows is None else rows
    step = max(1, BLOCK_BYTES // (4 * max(1, matrix.shape[1])))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield part, read_rows(matrix, part)


def read_rows(matrix: np.ndarray, rows: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
    """Read rows: a view where they are consecutive, otherwise a copy."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (len(rows) == 1 or np.all(np.diff(rows) == 1)):
        return matrix[rows[0] : rows[-1] + 1, columns]
    return matrix[rows, columns]
