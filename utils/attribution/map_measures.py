"""What an attribution map says, in numbers."""

from __future__ import annotations

import math

import numpy as np


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, towards 1 all in one of many.

    With the n values sorted upwards, ``sum_i (2 i - n - 1) x_i / (n sum_i x_i)``, at most ``1 - 1/n``.

    Args:
        values: Any shape, >= 0.

    Returns:
        A number in [0, 1), or nan where all values are 0.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    total = ordered.sum()
    if total == 0:
        return math.nan
    ranks = np.arange(1, len(ordered) + 1)
    return float(((2 * ranks - len(ordered) - 1) * ordered).sum() / (len(ordered) * total))


def centre_distance(values: np.ndarray) -> float:
    """Return how far from the image's centre the mass of a map lies on average.

    Args:
        values: (H, W), >= 0.

    Returns:
        Mean distance of the mass from the centre in units of half the image's diagonal: 0 all at the centre,
        towards 1 all in the corners; about 0.54 for an evenly filled square. nan where all values are 0.
    """
    values = np.asarray(values, dtype=np.float64)
    total = values.sum()
    if total == 0:
        return math.nan
    height, width = values.shape
    rows = np.arange(height)[:, None] + 0.5 - height / 2
    columns = np.arange(width)[None, :] + 0.5 - width / 2
    return float((np.hypot(rows, columns) * values).sum() / total / (math.hypot(height, width) / 2))


def share_inside(attribution: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the share of the attribution's absolute mass that lies inside a region.

    Args:
        attribution: (H, W).
        mask: (H, W) bool; None where nothing is known about the region.

    Returns:
        A number in [0, 1]; nan without a mask or where the map is 0 everywhere.

    Raises:
        ValueError: If the shapes differ.
    """
    if mask is None:
        return math.nan
    if mask.shape != attribution.shape:
        raise ValueError(f"map {attribution.shape} and mask {mask.shape} differ in shape")
    mass = np.abs(np.asarray(attribution, dtype=np.float64))
    total = mass.sum()
    return float(mass[mask].sum() / total) if total else math.nan


def summarise_map(attribution: np.ndarray) -> dict[str, float]:
    """Describe a map by three numbers.

    Args:
        attribution: (H, W), attribution per pixel.

    Returns:
        ``positive_share`` (share of the absolute mass that is positive, [0, 1]), ``concentration`` (Gini
        coefficient of the absolute values over pixels, [0, 1); larger: fewer pixels carry the prediction) and
        ``centre_distance`` (of the absolute mass, see :func:`centre_distance`); nan where the map is 0
        everywhere.
    """
    values = np.asarray(attribution, dtype=np.float64)
    mass = np.abs(values)
    total = mass.sum()
    return {
        "positive_share": float(values[values > 0].sum() / total) if total else math.nan,
        "concentration": gini(mass),
        "centre_distance": centre_distance(mass),
    }


def density(maps: np.ndarray) -> np.ndarray:
    """Turn attributions per pixel into what is stored: attribution times the number of pixels, float16.

    An attribution of a 224 px image is of the order of a score difference over 50,176 pixels, 1e-6, where
    float16 has steps of 6e-8 and loses most digits. Multiplied by the number of pixels the values are of the
    order of the score difference itself, and the mean of a stored map is the attribution sum.

    Args:
        maps: (..., H, W) float.
    """
    limit = np.finfo(np.float16).max
    return np.clip(maps * (maps.shape[-1] * maps.shape[-2]), -limit, limit).astype(np.float16)
