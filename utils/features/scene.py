"""Features of objects and segments, from what the scene networks found."""

from __future__ import annotations

import numpy as np

from utils.data.pixels import entropy_bits
from utils.scenes.cache import DEFAULT_MIN_SCORE, SceneCache
from utils.scenes.geometry import BACKGROUND, Detections, box_areas

MIN_SEGMENT_SHARE = 0.001
"""A class on fewer than one pixel in a thousand does not count as a segment class."""


def object_features(
    detections: Detections, height: float = 1, width: float = 1, min_score: float = DEFAULT_MIN_SCORE
) -> dict[str, float]:
    """Object features of one picture.

    Args:
        detections: boxes in the units of `height` and `width` (fractions by default).
        height: height of the picture.
        width: width of the picture.
        min_score: objects below this score do not count.

    Returns:
        The first five of `SCENE_FEATURES`; areas are NaN where there is no object.
    """
    kept = detections.scores >= min_score
    labels = [label for label, keep in zip(detections.labels, kept, strict=True) if keep]
    areas = box_areas(detections.boxes[kept]) / (height * width)
    return {
        "object_count": float(len(labels)),
        "object_classes": float(len(set(labels))),
        "object_area_mean": float(areas.mean()) if len(labels) else np.nan,
        "object_area_largest": float(areas.max()) if len(labels) else np.nan,
        "person_present": float("person" in labels),
    }


def segment_features(mask: np.ndarray) -> dict[str, float]:
    """Segment features of one picture.

    Args:
        mask: (H, W) uint8 class indices, 0 being background.

    Returns:
        ``segment_classes, foreground_share, segment_entropy``, see `SCENE_FEATURES`.
    """
    counts = np.bincount(mask.ravel(), minlength=BACKGROUND + 1)
    shares = counts / mask.size
    return {
        "segment_classes": float((np.delete(shares, BACKGROUND) >= MIN_SEGMENT_SHARE).sum()),
        "foreground_share": float(1 - shares[BACKGROUND]),
        "segment_entropy": entropy_bits(counts),
    }


def scene_features(
    cache: SceneCache, image_id: str, min_score: float = DEFAULT_MIN_SCORE
) -> dict[str, float]:
    """All of `SCENE_FEATURES` for one picture, from what the networks found in it."""
    height, width = cache.size(image_id)
    return {
        **object_features(cache.boxes(image_id, min_score=min_score), height, width, min_score),
        **segment_features(cache.mask(image_id)),
        "foreground_background_distance": cache.distance(image_id),
    }
