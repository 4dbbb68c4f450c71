"""How much of an attribution lies on detected objects and on the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.attribution.map_measures import share_inside

if TYPE_CHECKING:
    import pandas as pd

    from utils.scenes.cache import SceneCache

REGIONS = ("objects", "largest_object", "foreground")
REGION_COLUMNS = tuple(f"{kind}_{region}" for region in REGIONS for kind in ("share_inside", "area"))


def region_masks(cache: SceneCache, image_id: str, size: int, min_score: float) -> dict[str, np.ndarray]:
    """Return where objects and foreground are in the crop that the networks see.

    Args:
        cache: Detections and masks.
        image_id: The picture; must be in the cache.
        size: Side of the crop in pixels.
        min_score: Objects below this score are left out.

    Returns:
        For each of :data:`REGIONS` a (size, size) bool mask, all False where there is none. The largest object is
        the one whose box covers most of the crop.
    """
    from utils.scenes.geometry import BACKGROUND, box_areas, box_mask

    boxes = cache.boxes(image_id, crop=True, size=size, min_score=min_score).boxes
    largest = boxes[np.argmax(box_areas(boxes))][None] if len(boxes) else boxes
    return {
        "objects": box_mask(boxes, size, size),
        "largest_object": box_mask(largest, size, size),
        "foreground": cache.mask(image_id, crop=True, size=size) != BACKGROUND,
    }


def region_row(attribution: np.ndarray, masks: dict[str, np.ndarray]) -> dict[str, float]:
    """Measure a map against regions.

    Args:
        attribution: (S, S), in any unit.
        masks: (S, S) bool by region.

    Returns:
        ``share_inside_<region>``, the share of the absolute attribution inside, nan where the region is empty; and
        ``area_<region>``, the share of the crop it covers, 0 where it is empty.
    """
    row = {}
    for region, mask in masks.items():
        row[f"share_inside_{region}"] = share_inside(attribution, mask if mask.any() else None)
        row[f"area_{region}"] = float(mask.mean())
    return row


def region_frame(
    image_ids: Sequence[str], maps: np.ndarray, cache: SceneCache | None, min_score: float
) -> pd.DataFrame:
    """Measure maps against the cached objects and segments.

    Args:
        image_ids: N names.
        maps: (N, S, S), row i belonging to name i; read one at a time, so it may be a memory map.
        cache: Detections and masks; None where there are none.
        min_score: Objects below this score are left out.

    Returns:
        :data:`REGION_COLUMNS`, one row per image in the order given; nan for images that are not in the cache.
    """
    import pandas as pd

    rows = []
    for image_id, attribution in zip(image_ids, maps, strict=True):
        masks = {}
        if cache is not None and image_id in cache:
            masks = region_masks(cache, image_id, attribution.shape[-1], min_score)
        rows.append(region_row(np.asarray(attribution, dtype=np.float32), masks))
    return pd.DataFrame(rows, columns=list(REGION_COLUMNS), dtype=np.float64)
