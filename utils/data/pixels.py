"""Pixels as arrays: decoding, bounding, colour spaces."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from utils.core.digests import FileContent

MAX_SIDE_PX = 1024
"""Larger pictures are reduced to this longer side first (MemCat's longest is 800): edge and texture measures
depend on the size in pixels, and one 50-megapixel photograph must not hold up ten thousand others."""


def entropy_bits(counts: np.ndarray) -> float:
    """Shannon entropy of a histogram, in bits; 0 is one value only, log2(cells) is all cells alike.

    Args:
        counts: non-negative counts or weights, any shape, not all zero.
    """
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # + 0.0: one cell gives 0, not -0


def bounded(rgb: np.ndarray, max_side: int = MAX_SIDE_PX) -> np.ndarray:
    """Reduce pixels by area averaging to a longer side of `max_side`; smaller pictures pass unchanged."""
    import cv2

    height, width = rgb.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


@cache
def _linear_light() -> np.ndarray:
    """The sRGB decoding curve (IEC 61966-2-1) for the 256 levels, (1, 256) float32 in [0, 1]."""
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)[None]


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB pixels: (H, W, 3) uint8 to (H, W, 3) float32, L 0..100, A and B around 0."""
    import cv2

    # Linear float32, because from uint8 OpenCV returns scaled L and shifted A, B, and from float sRGB it
    # interpolates the gamma curve so coarsely that L is off by up to 0.19.
    return cv2.cvtColor(cv2.LUT(rgb, _linear_light()), cv2.COLOR_LRGB2LAB)


def to_grey(rgb: np.ndarray) -> np.ndarray:
    """Grey levels of sRGB pixels by ITU-R BT.601 luma: (H, W, 3) uint8 to (H, W) uint8."""
    import cv2

    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def read_pixels(path: str | Path | FileContent) -> np.ndarray:
    """Decode an image file with the project's one decoder, (H, W, 3) uint8 RGB at its own size.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    from utils.data.images import read_rgb

    return np.asarray(read_rgb(path), dtype=np.uint8)
