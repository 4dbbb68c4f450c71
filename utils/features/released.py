"""The features that the authors' released script computes, for comparison only (``--recipe released``).

Written anew from what that script does, not from its text. It sees the 224 px crop of the networks, and departs from
the text in ways that these functions keep on purpose; what each changes is in ``docs/paper.md``. None of
its features uses HSV, Canny or a segmenter.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from utils.data.pixels import entropy_bits
from utils.features.texture import glcm, glcm_properties
from utils.scenes.cache import SCORE_FLOOR, SceneCache
from utils.scenes.geometry import box_areas

CROP_PX = 224
HORIZONTAL = (0, 1)
"""The one of the four computed directions whose GLCM properties are read."""


def released_features(rgb: np.ndarray) -> dict[str, float]:
    """Colour, texture and clutter of one picture as the released script has them.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        The first seven of `RELEASED_FEATURES`.
    """
    import cv2
    from PIL import Image
    from skimage.color import rgb2gray
    from skimage.filters import sobel

    from utils.data.images import preprocess

    pixels = preprocess(Image.fromarray(rgb), CROP_PX).transpose(1, 2, 0)
    crop = np.rint(pixels * 255).astype(np.uint8)
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)  # 8 bit: L times 2.55, A and B shifted by 128
    swapped = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)  # weights of red and blue exchanged
    matrix = cast(np.ndarray, glcm(swapped, HORIZONTAL))  # never None: a crop has neighbours
    contrast, energy, _, _ = glcm_properties(matrix)
    # Entropy over distinct real numbers, of which a photograph has nearly as many as pixels.
    _, counts = np.unique(sobel(rgb2gray(crop)), return_counts=True)
    return {
        "released_colour_diversity": entropy_bits(np.bincount(lab.ravel())),
        "released_lab_l_mean": float(lab[..., 0].mean()),
        "released_lab_a_mean": float(lab[..., 1].mean()),
        "released_lab_b_mean": float(lab[..., 2].mean()),
        "released_texture_contrast": contrast,
        "released_texture_energy": energy,
        "released_clutter_score": entropy_bits(counts),
    }


def released_object_features(cache: SceneCache, image_id: str) -> dict[str, float]:
    """Objects of one picture without a threshold: whatever the detector returns counts.

    The released script shows the detector the crop; here the detector saw the whole picture, and its boxes are cut to
    the crop. Without a box the mean area is 0, as in that script.

    Args:
        cache: What the detector found.
        image_id: The picture.

    Returns:
        The last three of `RELEASED_FEATURES`.
    """
    detections = cache.boxes(image_id, crop=True, size=CROP_PX, min_score=SCORE_FLOOR)
    areas = box_areas(detections.boxes)
    return {
        "released_object_count": float(len(detections.labels)),
        "released_object_area_mean": float(areas.mean()) if len(areas) else 0.0,
        "released_object_classes": float(len(set(detections.labels))),
    }
