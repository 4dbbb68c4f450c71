"""Mahalanobis distance to the mean, with a covariance shrunk so that it exists whatever the number of values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from utils.latents.rows import BLOCK_BYTES, read_rows, row_blocks


class TooLargeError(ValueError):
    """The smaller side of the matrix does not fit the memory. ``bytes_needed`` says what would."""

    def __init__(self, bytes_needed: int) -> None:
        super().__init__(f"the covariance takes {bytes_needed:,} bytes")
        self.bytes_needed = bytes_needed


@dataclass(frozen=True)
class Mahalanobis:
    """Distances to the mean.

    Attributes:
        distances: (n,) Mahalanobis distances (not squared), in standard deviations; larger is farther.
        shrinkage: Ledoit-Wolf's weight of the sphere in the covariance, 0..1.
    """

    distances: NDArray[np.float64]
    shrinkage: float


def mahalanobis_distances(matrix: NDArray, members: NDArray, memory_bytes: int) -> Mahalanobis:
    """Measure each row's Mahalanobis distance to the mean under Ledoit & Wolf's (2004) shrunk covariance.

    ``(1 - s) S + s mu I``, with the covariance S (divided by n), mu its mean variance, and s the shrinkage that
    minimises the expected squared error; equal to scikit-learn's ``LedoitWolf``. Whichever is smaller is factorised,
    the (D, D) covariance or, by Woodbury's identity, the (n, n) matrix of dot products.

    Args:
        matrix: (N, D) finite codes.
        members: (n,) row numbers, ascending, at least two.
        memory_bytes: What two matrices of the smaller side may take.

    Returns:
        Distances and shrinkage. All distances are 0 where all rows are equal.

    Raises:
        TooLargeError: The smaller side does not fit the memory.
    """
    count, width = len(members), matrix.shape[1]
    side = min(count, width)
    if 2 * 8 * side**2 > memory_bytes:
        raise TooLargeError(2 * 8 * side**2)
    centre = sum(block.sum(0, dtype=np.float64) for _, block in row_blocks(matrix, members)) / count
    second = _scatter(matrix, members, centre) if width <= count else _products(matrix, members, centre)
    squares = _square_norms(matrix, members, centre)
    mean_variance = float(squares.sum()) / (count * width)
    if mean_variance == 0:
        return Mahalanobis(np.zeros(count), 0.0)
    shrinkage = _shrinkage(second, squares, mean_variance, count, width)
    sphere, share = shrinkage * mean_variance, (1 - shrinkage) / count
    if width <= count:
        second *= share
        second[np.diag_indices(side)] += sphere
        distances = _solved_by_covariance(matrix, members, centre, second)
    elif sphere > 0:
        # x' (s I + r X'X)^-1 x = (|x|^2 - g' (s/r I + G)^-1 g) / s, with G = XX' and g its column for x
        ridge = second.copy()
        ridge[np.diag_indices(side)] += sphere / share if share > 0 else np.inf
        inner = (
            np.einsum("ij,ij->j", second, cho_solve(cho_factor(ridge, lower=True), second))
            if share > 0
            else 0.0
        )
        distances = (squares - inner) / sphere
    else:
        distances = np.full(count, np.nan)  # more values than images and no shrinkage: no inverse
    return Mahalanobis(np.sqrt(np.maximum(distances, 0)), shrinkage)


def _step(width: int) -> int:
    return max(1, BLOCK_BYTES // (8 * width))


def _scatter(matrix: NDArray, members: NDArray, centre: NDArray) -> NDArray[np.float64]:
    """Return X'X of the centred rows, (D, D)."""
    total = np.zeros((matrix.shape[1],) * 2)
    for _, block in row_blocks(matrix, members):
        values = block - centre
        total += values.T @ values
    return total


def _products(matrix: NDArray, members: NDArray, centre: NDArray) -> NDArray[np.float64]:
    """Return XX' of the centred rows, (n, n), summed over blocks of columns."""
    total = np.zeros((len(members),) * 2)
    step = _step(len(members))
    for start in range(0, matrix.shape[1], step):
        columns = slice(start, start + step)
        values = read_rows(matrix, members, columns) - centre[columns]
        total += values @ values.T
    return total


def _square_norms(matrix: NDArray, members: NDArray, centre: NDArray) -> NDArray[np.float64]:
    parts = [np.square(block - centre).sum(1) for _, block in row_blocks(matrix, members)]
    return np.concatenate(parts)


def _shrinkage(second: NDArray, squares: NDArray, mean_variance: float, count: int, width: int) -> float:
    """Return Ledoit & Wolf's shrinkage from the sums that X'X and XX' share.

    Their b^2 needs the mean of |x|^4 alone, and the squared Frobenius norm is the same for X'X and XX'.
    """
    norm = float(np.einsum("ij,ij->", second, second)) / count**2
    spread = norm - width * mean_variance**2  # D times d^2
    noise = (float(np.square(squares).sum()) / count - norm) / count  # D times b^2, before the cap
    return 0.0 if spread <= 0 or noise <= 0 else min(noise, spread) / spread


def _solved_by_covariance(
    matrix: NDArray, members: NDArray, centre: NDArray, covariance: NDArray
) -> NDArray[np.float64]:
    """Return squared distances, block by block."""
    try:
        factor = cho_factor(covariance, lower=True, overwrite_a=True)
    except np.linalg.LinAlgError:
        return np.full(len(members), np.nan)
    parts = []
    for _, block in row_blocks(matrix, members):
        values = (block - centre).T
        parts.append(np.einsum("ij,ij->j", values, cho_solve(factor, values)))
    return np.concatenate(parts)
