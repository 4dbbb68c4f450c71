"""Features of the crop that the networks saw, at the size they saw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.feature_names import GROUPS
from utils.data.images import load_pixels
from utils.features.image import image_features
from utils.features.scene import object_features, segment_features
from utils.scenes.cache import DEFAULT_MIN_SCORE, SceneCache
from utils.scenes.geometry import foreground_background_distance

FULL, CROP = "full", "crop"
REGION_TABLES = {FULL: "image_features", CROP: "image_features_crop"}


def crop_pixels(path: str | Path, size: int) -> np.ndarray:
    """Read what the networks see of a picture: (size, size, 3) uint8 RGB.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return np.rint(np.moveaxis(load_pixels(path, size), 0, -1) * 255).astype(np.uint8)


def crop_features(path: str | Path, groups: Sequence[str] = GROUPS, size: int = 224) -> dict[str, float]:
    """Compute the features of the crop of one image file; made to run in a worker process.

    Args:
        path: the picture.
        groups: any of `GROUPS`.
        size: side of the crop in pixels.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return image_features(crop_pixels(path, size), groups)


def crop_scene_features(
    cache: SceneCache, image_id: str, path: str | Path, size: int, min_score: float = DEFAULT_MIN_SCORE
) -> dict[str, float]:
    """All of `SCENE_FEATURES` for the crop of one picture, from what the networks found in the whole of it.

    Args:
        cache: detections and masks.
        image_id: the picture; must be in the cache.
        path: its file, for the colours of foreground and background.
        size: side of the crop in pixels.
        min_score: objects below this score do not count.
    """
    mask = cache.mask(image_id, crop=True, size=size)
    return {
        **object_features(
            cache.boxes(image_id, crop=True, size=size, min_score=min_score), size, size, min_score
        ),
        **segment_features(mask),
        "foreground_background_distance": foreground_background_distance(crop_pixels(path, size), mask),
    }


def same_everywhere(full: pd.DataFrame, crop: pd.DataFrame) -> bool:
    """Whether the crop has the features of the whole picture in every image: pictures of just that size.

    Args:
        full: ``image_id`` and features.
        crop: the same of the crop.
    """
    if full["image_id"].tolist() != crop["image_id"].tolist():
        return False
    names = [name for name in full.select_dtypes("number") if name in crop]
    return bool(np.allclose(full[names], crop[names], rtol=1e-9, equal_nan=True))
