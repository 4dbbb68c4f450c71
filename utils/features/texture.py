"""Texture of a photograph: grey entropy and grey-level co-occurrence."""

from __future__ import annotations

from functools import cache

import numpy as np

from utils.data.pixels import entropy_bits

GLCM_LEVELS = 256
GLCM_OFFSETS = ((0, 1), (-1, 1), (-1, 0), (-1, -1))
"""(row, column) steps of the co-occurrence matrix: distance 1 px at 0, 45, 90 and 135 degrees."""


def glcm(grey: np.ndarray, offset: tuple[int, int], levels: int = GLCM_LEVELS) -> np.ndarray | None:
    """Grey-level co-occurrence matrix of one offset, symmetric and summing to 1 (Haralick et al. 1973).

    Args:
        grey: (H, W) integers in 0..levels-1.
        offset: (rows, columns) from a pixel to its neighbour; rows grow downwards.
        levels: number of grey levels.

    Returns:
        (levels, levels) float64, or None where the picture has no such pair of pixels.
    """
    height, width = grey.shape
    rows, columns = offset
    if abs(rows) >= height or abs(columns) >= width:
        return None
    first = grey[max(0, -rows) : height - max(0, rows), max(0, -columns) : width - max(0, columns)]
    second = grey[max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]
    pairs = first.astype(np.intp, copy=False) * levels + second
    counts = np.bincount(pairs.ravel(), minlength=levels * levels).reshape(levels, levels)
    return (counts + counts.T) / (2 * pairs.size)


@cache
def _grid(levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels, their (levels, levels) squared differences, and one more than those."""
    grid = np.arange(levels, dtype=np.float64)
    squared = (grid[:, None] - grid[None, :]) ** 2
    return grid, squared, 1 + squared


def glcm_properties(matrix: np.ndarray) -> tuple[float, float, float, float]:
    """Contrast, energy, homogeneity and correlation of a co-occurrence matrix, as scikit-image defines them.

    Args:
        matrix: (levels, levels), symmetric, summing to 1.

    Returns:
        Contrast in squared levels, energy in (0, 1], homogeneity in (0, 1], correlation in [-1, 1]; the
        correlation of a single grey level is undefined and NaN (scikit-image returns 1).
    """
    grid, squared, above = _grid(len(matrix))
    marginal = matrix.sum(axis=1)
    mean = marginal @ grid
    variance = marginal @ (grid - mean) ** 2
    contrast = float((matrix * squared).sum())
    energy = float(np.sqrt((matrix * matrix).sum()))
    homogeneity = float((matrix / above).sum())
    # Symmetric, so E[(i - j)^2] = 2 var - 2 cov, and the covariance needs no second pass over the matrix.
    correlation = 1 - contrast / (2 * variance) if variance > 1e-12 else np.nan
    return contrast, energy, homogeneity, float(correlation)


def texture_features(grey: np.ndarray) -> dict[str, float]:
    """Texture features of one picture, (H, W) uint8; names, units and GLCM settings in `FEATURES`."""
    wide = grey.astype(np.intp)  # once for all offsets
    matrices = [matrix for offset in GLCM_OFFSETS if (matrix := glcm(wide, offset)) is not None]
    # A single pixel has no neighbours, hence no matrix and no values.
    properties = [glcm_properties(matrix) for matrix in matrices] or [(np.nan,) * 4]
    values = np.mean(properties, axis=0)
    names = ("glcm_contrast", "glcm_energy", "glcm_homogeneity", "glcm_correlation")
    entropy = entropy_bits(np.bincount(grey.ravel(), minlength=256))
    return {"grey_entropy": entropy, **dict(zip(names, values.tolist(), strict=True))}
