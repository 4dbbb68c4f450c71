"""Boxes and masks: areas, crops, colours inside and outside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from utils.data.pixels import to_lab

BACKGROUND = 0
"""Index of the background class in the masks."""


class Detections(NamedTuple):
    """Objects in one picture, best score first.

    Attributes:
        boxes: (K, 4) float32, left, top, right, bottom in pixels (fractions inside the cache).
        labels: K class names.
        scores: (K,) float32, 0..1; larger is surer.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]
    scores: np.ndarray


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of (K, 4) boxes in the square of their unit, (K,) float64."""
    boxes = boxes.astype(np.float64)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def foreground_background_distance(rgb: np.ndarray, mask: np.ndarray) -> float:
    """Euclidean distance between the mean LAB colours of foreground and background (CIE76); larger stands out more.

    Args:
        rgb: (H, W, 3) uint8.
        mask: (H, W) uint8 class indices, 0 being background.

    Returns:
        The distance, or NaN if there is no foreground or no background.
    """
    foreground = mask != BACKGROUND
    if foreground.all() or not foreground.any():
        return np.nan
    lab = to_lab(rgb)
    difference = lab[foreground].mean(axis=0, dtype=np.float64) - lab[~foreground].mean(
        axis=0, dtype=np.float64
    )
    return float(np.linalg.norm(difference))


def boxes_in_crop(boxes: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Move boxes into the centre crop that the networks of the study see, cut at its edges.

    Args:
        boxes: (K, 4) as fractions of the picture's sides.
        height: height of the picture in pixels.
        width: width of the picture in pixels.
        size: side of the crop in pixels.

    Returns:
        (K, 4) float32 in pixels of the crop; boxes wholly outside have no area left.
    """
    from utils.data.images import crop_box

    left, top, right, bottom = crop_box(width, height, size)
    start = np.array([left, top, left, top])
    scale = size / np.array([right - left, bottom - top] * 2)
    return ((boxes * [width, height, width, height] - start) * scale).clip(0, size).astype(np.float32)


def mask_in_crop(mask: np.ndarray, size: int) -> np.ndarray:
    """The centre crop that the networks of the study see, of a class mask, by nearest neighbour.

    Args:
        mask: (H, W) uint8.
        size: side of the crop in pixels.

    Returns:
        (size, size) uint8.
    """
    from utils.data.images import crop_box

    height, width = mask.shape
    left, top, right, bottom = crop_box(width, height, size)
    centres = (np.arange(size) + 0.5) / size
    rows = (top + centres * (bottom - top)).astype(int).clip(0, height - 1)
    columns = (left + centres * (right - left)).astype(int).clip(0, width - 1)
    return mask[np.ix_(rows, columns)]


def box_mask(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels whose centre lies in any of (K, 4) pixel boxes, (height, width) bool; all False without boxes."""
    inside = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in np.ceil(boxes - 0.5).astype(int).clip(min=0):
        inside[top:bottom, left:right] = True
    return inside
