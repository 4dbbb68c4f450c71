"""Colour, texture and structure of a photograph as numbers with units (paper: interpretability analysis).

All functions take pixels as (H, W, 3) uint8 arrays in RGB order, or (H, W) uint8 grey arrays, and return
dictionaries of floats keyed by the names declared in `FEATURES`. A feature that a picture does not have (the
hue of a grey picture, the co-occurrence correlation of a one-colour picture) is NaN, which the table writes
as an empty cell; it is never 0.

The paper names families of features, not their settings; every setting is a constant of this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.core.feature_names import ALL_FEATURES, GROUPS, RELEASED
from utils.data.pixels import MAX_SIDE_PX, bounded, entropy_bits, read_pixels, to_grey, to_lab
from utils.features import composition
from utils.features.released import released_features
from utils.features.texture import GLCM_LEVELS, GLCM_OFFSETS, texture_features

MIN_SIDE_PX = 3
"""The Sobel and Canny windows; a picture narrower than this has no structure features."""

MIN_MEAN_CHROMA = 1 / 255
"""Below one grey level of chroma on average a picture is grey and has no hue."""

MIN_RESULTANT = 1e-4
"""Below this resultant length hues cancel out (red against cyan) and have neither mean nor spread."""

LAB_BIN_LIGHTNESS, LAB_BIN_CHROMA = 10.0, 16.0

"""Cell of the LAB histogram behind colour diversity. A and B cells are centred on 0, so that the noise of
nearly grey pixels around 0 does not fall into four cells."""

CANNY_LOW, CANNY_HIGH = 100, 200

"""Hysteresis thresholds of Canny on the Euclidean 3x3 Sobel magnitude of the 0..255 grey image."""

SOBEL_BIN = 4.0
"""Width of the histogram cells behind Sobel entropy, in units of the 3x3 Sobel magnitude (0..1442)."""


def circular_hue(hue: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Weighted circular mean and standard deviation of hues, after Hanbury (2003).

    Args:
        hue: degrees, any shape.
        weight: non-negative, same shape; chroma here, so that grey pixels, whose hue is noise, do not count.

    Returns:
        Mean in [0, 360) degrees and circular standard deviation sqrt(-2 ln R) in degrees, R being the
        resultant length; both NaN where there is no weight or the hues cancel out.
    """
    radians = np.deg2rad(hue)
    total = float(weight.sum(dtype=np.float64))
    if total <= 0:
        return np.nan, np.nan
    x = float((weight * np.cos(radians)).sum(dtype=np.float64)) / total
    y = float((weight * np.sin(radians)).sum(dtype=np.float64)) / total
    resultant = min(float(np.hypot(x, y)), 1.0)
    if resultant < MIN_RESULTANT:
        return np.nan, np.nan
    # Single hues end within float32 rounding of R = 1; the root would blow that up to hundredths of a degree.
    spread = 0.0 if 1 - resultant < 1e-7 else float(np.rad2deg(np.sqrt(-2 * np.log(resultant))))
    return float(np.rad2deg(np.arctan2(y, x)) % 360), spread


def colourfulness(rgb: np.ndarray) -> float:
    """Colourfulness of Hasler & Suesstrunk (2003), metric M3; 0 for a grey picture, larger is more colourful.

    Args:
        rgb: (H, W, 3) uint8, sRGB.
    """
    import cv2

    red, green, blue = (plane.astype(np.float32) for plane in cv2.split(rgb))
    opponents = cv2.merge([red - green, 0.5 * (red + green) - blue])
    mean, std = cv2.meanStdDev(opponents)
    return float(np.hypot(*std.ravel()) + 0.3 * np.hypot(*mean.ravel()))


def percentile(values: np.ndarray, percent: float) -> float:
    """Return ``np.percentile`` of float values, bit for bit: several times quicker, since one place is sought at a time.

    Args:
        values: any shape, not empty, without NaN.
        percent: 0 to 100; between two values it is interpolated linearly.
    """
    place = (values.size - 1) * (percent / 100)
    below = math.floor(place)
    parted = np.partition(values, below, axis=None)
    low = parted[below]
    high = parted[below + 1 :].min(initial=np.inf) if below + 1 < values.size else low
    share, step = place - below, float(high - low)
    return float(low) + step * share if share < 0.5 else float(high) - step * (1 - share)


def colour_diversity(planes: Sequence[np.ndarray]) -> float:
    """Shannon entropy (bits) of the LAB histogram in fixed cells; 0 is one colour, larger is more colours.

    Args:
        planes: L 0..100, A and B around 0, (H, W) float32 each: apart, since numpy is several times quicker on those.
    """
    lightness, *chroma = planes
    cells = np.minimum(lightness / LAB_BIN_LIGHTNESS, 9.0).astype(np.int32)
    for plane in chroma:
        cells *= 17
        cells += np.rint(plane / LAB_BIN_CHROMA).astype(np.int32)
        cells += 8  # -128..128 to 0..16
    return entropy_bits(np.bincount(cells.ravel(), minlength=10 * 17 * 17))


def colour_features(rgb: np.ndarray) -> dict[str, float]:
    """Colour features of one picture, (H, W, 3) uint8 RGB; names and units in `FEATURES`."""
    import cv2

    lab = to_lab(rgb)
    hsv = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # H 0..360, S and V 0..1
    lab_mean, lab_std = (part.ravel() for part in cv2.meanStdDev(lab))
    hsv_mean, hsv_std = (part.ravel() for part in cv2.meanStdDev(hsv))
    chroma = hsv[..., 1] * hsv[..., 2]  # max(R, G, B) - min(R, G, B)
    hue_mean, hue_std = np.nan, np.nan
    if chroma.mean(dtype=np.float64) >= MIN_MEAN_CHROMA * (1 - 1e-6):
        hue_mean, hue_std = circular_hue(hsv[..., 0], chroma)
    planes = cv2.split(lab)
    contrast = [percentile(plane, 95) - percentile(plane, 5) for plane in planes[1:]]
    return {
        "lab_l_mean": lab_mean[0],
        "lab_l_std": lab_std[0],
        "lab_a_mean": lab_mean[1],
        "lab_a_std": lab_std[1],
        "lab_b_mean": lab_mean[2],
        "lab_b_std": lab_std[2],
        "hsv_hue_mean": hue_mean,
        "hsv_hue_std": hue_std,
        "hsv_saturation_mean": hsv_mean[1],
        "hsv_saturation_std": hsv_std[1],
        "hsv_value_mean": hsv_mean[2],
        "hsv_value_std": hsv_std[2],
        "chroma_contrast_a": contrast[0],
        "chroma_contrast_b": contrast[1],
        "colourfulness": colourfulness(rgb),
        "colour_diversity": colour_diversity(planes),
    }


def structure_features(grey: np.ndarray) -> dict[str, float]:
    """Edge density (the paper's clutter score) and Sobel entropy of one picture, (H, W) uint8.

    Both are NaN for a picture narrower than the 3x3 window.
    """
    import cv2

    if min(grey.shape) < MIN_SIDE_PX:
        return {"edge_density": np.nan, "sobel_entropy": np.nan}
    edges = cv2.Canny(grey, CANNY_LOW, CANNY_HIGH, apertureSize=3, L2gradient=True)
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3)
    # Whole numbers below 2^24, so the sum is exact and its root correctly rounded. cv2.magnitude rounds differently
    # with the position of the array in memory, which moved pixels on a cell's edge from one run to the next.
    cells = (np.sqrt(across * across + down * down) / SOBEL_BIN).astype(np.int32)
    return {
        "edge_density": cv2.countNonZero(edges) / grey.size,
        "sobel_entropy": entropy_bits(np.bincount(cells.ravel())),
    }


def image_features(rgb: np.ndarray, groups: Sequence[str] = GROUPS) -> dict[str, float]:
    """The features of the chosen groups for one picture, in the order of `FEATURES`.

    Args:
        rgb: (H, W, 3) uint8 in RGB order, any size; reduced to `MAX_SIDE_PX` where it is larger.
        groups: any of `GROUPS`, and ``released``.

    Returns:
        Feature name to value; NaN where undefined.

    Raises:
        ValueError: for an unknown group or pixels of another shape or type.
    """
    possible = (*GROUPS, RELEASED)
    unknown = sorted(set(groups) - set(possible))
    if unknown:
        raise ValueError(f"unknown feature group {', '.join(unknown)}; choose from {', '.join(possible)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected (H, W, 3) uint8 RGB pixels, received {rgb.shape} {rgb.dtype}")
    whole, rgb = rgb, bounded(rgb)
    grey = to_grey(rgb)
    compute: dict[str, Callable[[], dict[str, float]]] = {
        "colour": lambda: colour_features(rgb),
        "texture": lambda: texture_features(grey),
        "structure": lambda: structure_features(grey),
        "composition": lambda: composition.composition_features(rgb, grey),
        "faces": lambda: {"face_count": composition.face_count(rgb)},
        RELEASED: lambda: released_features(whole),
    }
    values: dict[str, float] = {}
    for group in possible:
        if group in groups:
            values.update(compute[group]())
    return {name: float(value) for name, value in values.items()}


def definition() -> dict[str, object]:
    """Every setting that decides a value, for the record that tells whether finished work still stands."""
    return {
        "MAX_SIDE_PX": MAX_SIDE_PX,
        "MIN_SIDE_PX": MIN_SIDE_PX,
        "MIN_MEAN_CHROMA": MIN_MEAN_CHROMA,
        "MIN_RESULTANT": MIN_RESULTANT,
        "LAB_BIN_LIGHTNESS": LAB_BIN_LIGHTNESS,
        "LAB_BIN_CHROMA": LAB_BIN_CHROMA,
        "GLCM_LEVELS": GLCM_LEVELS,
        "GLCM_OFFSETS": GLCM_OFFSETS,
        "CANNY_LOW": CANNY_LOW,
        "CANNY_HIGH": CANNY_HIGH,
        "SOBEL_BIN": SOBEL_BIN,
        "composition": composition.definition(),
        "features": list(ALL_FEATURES),
    }


def file_features(path: str | Path, groups: Sequence[str] = GROUPS) -> dict[str, float]:
    """Read one image file and compute its features; made to run in a worker process.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return image_features(read_pixels(path), groups)
