"""What detector and segmenter found in each picture, kept in one file."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import UserError
from utils.scenes.geometry import (
    Detections,
    box_areas,
    boxes_in_crop,
    mask_in_crop,
)

SCORE_FLOOR = 0.05
"""Detections below this score are not kept: the detectors themselves drop them."""

DEFAULT_MIN_SCORE = 0.5
_LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
_CACHE_COMMAND = "python feature_analysis.py --calculate-features --features scene"


@dataclass(frozen=True)
class SceneCache:
    """Detections and masks of many pictures, by image id.

    ``image_id in cache`` tells whether a picture is there; ``cache.random`` whether the networks had random weights,
    in which case whoever uses it must say so (`random_parts` names them).

    Attributes:
        header: networks, weights, class names, score floor, image ids, and the files' sizes.
        arrays: ``size`` (n, 2) height and width; ``offset`` (n + 1) into ``box`` (k, 4), ``label`` (k) and ``score``
            (k); ``distance`` (n) CIELAB; ``mask_offset`` (n + 1) into ``mask_png``.
    """

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row", {name: row for row, name in enumerate(self.header["image_ids"])})

    @property
    def image_ids(self) -> list[str]:
        """All image ids, sorted."""
        return self.header["image_ids"]

    @property
    def random(self) -> bool:
        """Whether detector and segmenter had random weights."""
        return self.header["settings"]["weights"] == "random"

    @property
    def random_parts(self) -> str:
        """What to name in a caveat, e.g. ``detector and segmenter``; empty with pretrained weights."""
        return "detector and segmenter" if self.random else ""

    @property
    def segment_names(self) -> list[str]:
        """Class names of the masks' values."""
        return self.header["segment_names"]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._row

    def __len__(self) -> int:
        return len(self._row)

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of the picture as the networks saw it (long side at most 1,024 px)."""
        height, width = self.arrays["size"][self._find(image_id)]
        return int(height), int(width)

    def boxes(
        self, image_id: str, crop: bool = False, size: int = 224, min_score: float = DEFAULT_MIN_SCORE
    ) -> Detections:
        """Objects of one picture.

        Args:
            image_id: the picture.
            crop: give coordinates in the centre crop that the networks of the study see; boxes are cut at its
                edges and left out where nothing remains. Otherwise in pixels of `size(image_id)`.
            size: side of that crop in pixels.
            min_score: objects below this score are left out; at least `SCORE_FLOOR`.

        Raises:
            KeyError: the picture is not in the cache.
            UserError: `min_score` is below what the cache holds.
        """
        check_min_score(min_score)
        row = self._find(image_id)
        part = slice(*self.arrays["offset"][row : row + 2])
        names = self.header["object_names"]
        height, width = self.size(image_id)
        boxes = self.arrays["box"][part]
        keep = self.arrays["score"][part] >= min_score
        if crop:
            boxes = boxes_in_crop(boxes, height, width, size)
            keep &= box_areas(boxes) > 0
        else:
            boxes = boxes * np.float32([width, height, width, height])
        labels = tuple(names[index] for index in self.arrays["label"][part][keep])
        return Detections(boxes[keep], labels, self.arrays["score"][part][keep])

    def mask(self, image_id: str, crop: bool = False, size: int = 224) -> np.ndarray:
        """Class index of every pixel of one picture, 0 being background.

        Args:
            image_id: the picture.
            crop: give the (size, size) centre crop that the networks of the study see, by nearest neighbour;
                otherwise (H, W) of `size(image_id)`.
            size: side of that crop in pixels.

        Returns:
            uint8 class indices; names in `segment_names`.

        Raises:
            KeyError: the picture is not in the cache.
        """
        import cv2

        row = self._find(image_id)
        packed = self.arrays["mask_png"][slice(*self.arrays["mask_offset"][row : row + 2])]
        mask = cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
        return mask_in_crop(mask, size) if crop else mask

    def distance(self, image_id: str) -> float:
        """Distance between the mean LAB colours of foreground and background (CIE76); NaN without either."""
        return float(self.arrays["distance"][self._find(image_id)])

    def _find(self, image_id: str) -> int:
        try:
            return self._row[image_id]
        except KeyError:
            raise KeyError(f"{image_id} is not in the scene cache ({len(self)} images)") from None


def check_min_score(min_score: float) -> None:
    """Refuse a score threshold that the cache cannot answer.

    Raises:
        UserError: below `SCORE_FLOOR` or above 1.
    """
    if not SCORE_FLOOR <= min_score <= 1:
        raise UserError(
            f"--min-score {min_score:g} is outside {SCORE_FLOOR:g} to 1: the detectors give scores up to 1 "
            f"and drop objects below {SCORE_FLOOR:g}."
        )


def cache_path(output_path: Path, detector: str, segmenter: str) -> Path:
    """Where the cache of a pair of networks stands in the output folder."""
    return Path(output_path) / f"scene_cache_{detector}_{segmenter}.npz"


def load_scene_cache(
    output_path: Path, detector: str | None = None, segmenter: str | None = None
) -> SceneCache | None:
    """Read the detections and masks that the feature stage kept in an output folder.

    Args:
        output_path: the output folder.
        detector: network name, where caches of several networks stand there; None takes the only one.
        segmenter: likewise.

    Returns:
        The cache, or None if there is none (written by `feature_analysis.py --calculate-features`).

    Raises:
        UserError: the file is damaged, or several caches fit.
    """
    pattern = f"scene_cache_{detector or '*'}_{segmenter or '*'}.npz"
    found = sorted(Path(output_path).glob(pattern))
    if len(found) > 1:
        raise UserError(
            f"Several scene caches stand in {output_path}: {', '.join(path.name for path in found)}. "
            "Choose one with --detector and --segmenter."
        )
    return read_scene_cache(found[0]) if found else None


def read_scene_cache(path: Path) -> SceneCache:
    """Read one cache file.

    Raises:
        UserError: the file is damaged or not a scene cache.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        header = json.loads(arrays.pop("header").tobytes())
        return SceneCache(header, arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read as a scene cache ({error}). Delete it and run: {_CACHE_COMMAND}"
        ) from None


def write_scene_cache(path: Path, header: dict[str, Any], rows: list[dict]) -> None:
    """Pack rows as `scene_row` makes them into one cache file, atomically.

    Args:
        path: the file.
        header: ``settings`` (networks and weights), ``digests`` of the weight files, ``object_names`` and
            ``segment_names`` by class index, ``skipped`` (image id, reason, bytes) of unreadable files.
        rows: one per image, any order; ``image_id`` unique.
    """
    from base64 import b64decode

    from utils.core.files import atomic_path

    rows = sorted(rows, key=lambda row: row["image_id"])
    masks = [np.frombuffer(b64decode(row["mask_png"]), np.uint8) for row in rows]
    header = {
        **header,
        "score_floor": SCORE_FLOOR,
        "image_ids": [row["image_id"] for row in rows],
        "bytes": [row["bytes"] for row in rows],
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8),
        "size": np.array([[row["height"], row["width"]] for row in rows], np.int32),
        "offset": np.cumsum([0] + [len(row["score"]) for row in rows]).astype(np.int64),
        "box": np.array([box for row in rows for box in row["box"]], np.float32).reshape(-1, 4),
        "label": np.array([label for row in rows for label in row["label"]], np.int16),
        "score": np.array([score for row in rows for score in row["score"]], np.float32),
        "distance": np.array([row["distance"] for row in rows], np.float64),
        "mask_offset": np.cumsum([0] + [len(mask) for mask in masks]).astype(np.int64),
        "mask_png": np.concatenate([*masks, np.empty(0, np.uint8)]),
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def _rows_of(cache: SceneCache) -> list[dict]:
    """Unpack a cache into rows again, to add others to them."""
    from base64 import b64encode

    arrays = cache.arrays
    rows = []
    for row, image_id in enumerate(cache.image_ids):
        part = slice(*arrays["offset"][row : row + 2])
        packed = arrays["mask_png"][slice(*arrays["mask_offset"][row : row + 2])]
        rows.append(
            {
                "image_id": image_id,
                "bytes": cache.header["bytes"][row],
                "height": int(arrays["size"][row, 0]),
                "width": int(arrays["size"][row, 1]),
                "box": arrays["box"][part].tolist(),
                "label": arrays["label"][part].tolist(),
                "score": arrays["score"][part].tolist(),
                "distance": float(arrays["distance"][row]),
                "mask_png": b64encode(packed.tobytes()).decode(),
            }
        )
    return rows
