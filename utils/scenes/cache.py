"""What detector and segmenter found in each picture, kept in one SQLite file, a row per picture."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.claims import check_unchanged
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.schema import mismatch
from utils.scenes.geometry import (
    Detections,
    box_areas,
    boxes_in_crop,
    mask_in_crop,
)

SCORE_FLOOR = 0.05
"""Detections below this score are not kept: the detectors themselves drop them."""

DEFAULT_MIN_SCORE = 0.5
_CACHE_COMMAND = "python feature_analysis.py --calculate-features --features scene"
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pictures (
    image_id TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,  -- of the picture's file
    reason TEXT,           -- why it could not be read, where it could not
    height INTEGER,        -- as the networks saw it, long side at most 1,024 px
    width INTEGER,
    objects TEXT,          -- JSON: [left, top, right, bottom (shares of the sides), class, score] of each, by score
    mask BLOB,             -- PNG of the class of every pixel, 0 being background
    distance REAL          -- between the mean CIELAB colours of foreground and background; NULL without either
) WITHOUT ROWID;
"""
_ABOUT_SHAPE = {
    "settings": {str: object, "weights": str},
    "digests": [object],
    "object_names": [str],
    "segment_names": [str],
}
COLUMNS = ("image_id", "sha256", "reason", "height", "width", "objects", "mask", "distance")


class DamagedSceneCacheError(UserError):
    """A file that is no scene cache, or not all of one."""


class SceneCache:
    """Detections and masks of many pictures, by image id, read from the file when they are asked for.

    ``image_id in cache`` tells whether a picture is there; ``cache.random`` whether the networks had random weights,
    in which case whoever uses it must say so (`random_parts` names them).

    Attributes:
        path: the file.
        about: ``settings`` (networks, weights), ``digests`` of the weight files, ``object_names`` and
            ``segment_names`` by class index.
        known: by image id, SHA-256 of the picture's file when the networks saw it, or when it could not be read.
        skipped: by image id, why a picture could not be read.

    Raises:
        DamagedSceneCacheError: the file is damaged or not a scene cache.
        ChangedFileError: it has changed since it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        check_unchanged(self.path)
        try:
            self._file = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
            about = self._query("SELECT name, value FROM about")
            self.about: dict[str, Any] = {name: json.loads(value) for name, value in about}
            rows = list(self._query("SELECT image_id, sha256, reason FROM pictures"))
            ((pages,), (page_bytes,)) = *self._query("PRAGMA page_count"), *self._query("PRAGMA page_size")
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(error) from None
        if (
            pages * page_bytes != self.path.stat().st_size
        ):  # SQLite itself finds out only where something is missing
            raise self._damaged("it is cut short")
        wrong = mismatch(self.about, _ABOUT_SHAPE)
        if wrong:
            raise self._damaged(wrong)
        self.known: dict[str, str] = {name: sha256 for name, sha256, _ in rows}
        self.skipped: dict[str, str] = {name: reason for name, _, reason in rows if reason is not None}

    def _damaged(self, why: object) -> DamagedSceneCacheError:
        return DamagedSceneCacheError(
            f"{self.path} cannot be read as a scene cache ({why}). Delete it and run: {_CACHE_COMMAND}"
        )

    def _query(self, text: str, values: tuple = ()) -> Iterator[tuple]:
        try:
            yield from self._file.execute(text, values)
        except sqlite3.Error as error:
            raise self._damaged(error) from None

    @property
    def image_ids(self) -> list[str]:
        """Ids of all pictures that the networks saw, sorted."""
        return [name for name in self.known if name not in self.skipped]

    @property
    def random(self) -> bool:
        """Whether detector and segmenter had random weights."""
        return self.about["settings"]["weights"] == "random"

    @property
    def in_bf16(self) -> bool:
        """Whether detector and segmenter computed in bf16."""
        return self.about["settings"].get("precision") == "bf16"

    @property
    def random_parts(self) -> str:
        """What to name in a caveat, e.g. ``detector and segmenter``; empty with pretrained weights."""
        return "detector and segmenter" if self.random else ""

    @property
    def segment_names(self) -> list[str]:
        """Class names of the masks' values."""
        return self.about["segment_names"]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.known and image_id not in self.skipped

    def __len__(self) -> int:
        return len(self.known) - len(self.skipped)

    def rows(self) -> Iterable[tuple]:
        """Yield all rows in the order of `COLUMNS`, by image id."""
        return self._query(f"SELECT {', '.join(COLUMNS)} FROM pictures ORDER BY image_id")

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of the picture as the networks saw it (long side at most 1,024 px)."""
        return self._values(image_id, "height", "width")

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
        height, width, objects = self._values(image_id, "height", "width", "objects")
        table = np.array(json.loads(objects), np.float32).reshape(-1, 6)
        boxes, classes, scores = table[:, :4], table[:, 4].astype(int), table[:, 5]
        keep = scores >= min_score
        if crop:
            boxes = boxes_in_crop(boxes, height, width, size)
            keep &= box_areas(boxes) > 0
        else:
            boxes = boxes * np.array([width, height, width, height], np.float32)
        labels = tuple(self.about["object_names"][index] for index in classes[keep])
        return Detections(boxes[keep], labels, scores[keep])

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

        packed = np.frombuffer(self._values(image_id, "mask")[0], np.uint8)
        mask = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE))
        return mask_in_crop(mask, size) if crop else mask

    def distance(self, image_id: str) -> float:
        """Distance between the mean LAB colours of foreground and background (CIE76); NaN without either."""
        (distance,) = self._values(image_id, "distance")
        return np.nan if distance is None else distance

    def _values(self, image_id: str, *columns: str) -> tuple:
        if image_id not in self:
            raise KeyError(f"{image_id} is not in the scene cache ({len(self)} images)")
        query = f"SELECT {', '.join(columns)} FROM pictures WHERE image_id = ?"
        return next(iter(self._query(query, (image_id,))))


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
    return Path(output_path) / f"scene_cache_{detector}_{segmenter}.sqlite"


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
    pattern = cache_path(output_path, detector or "*", segmenter or "*").name
    caches = sorted(Path(output_path).glob(pattern))
    if len(caches) > 1:
        raise UserError(
            f"Several scene caches stand in {output_path}: {', '.join(path.name for path in caches)}. "
            "Choose one with --detector and --segmenter."
        )
    return SceneCache(caches[0]) if caches else None


def write_scene_cache(path: Path, about: dict[str, Any], rows: Iterable[dict[str, Any]]) -> SceneCache:
    """Write one cache file, atomically; equal content gives equal bytes.

    Args:
        path: the file.
        about: see `SceneCache`.
        rows: one per picture, sorted by image id, with `COLUMNS` as keys (those that are absent stay empty).
    """
    entries = [(name, json.dumps(value, ensure_ascii=False)) for name, value in sorted(about.items())]
    pictures = (tuple(map(row.get, COLUMNS)) for row in rows)
    with atomic_path(path) as temporary, closing(sqlite3.connect(temporary)) as file:
        file.executescript(
            f"PRAGMA journal_mode = MEMORY; {_SCHEMA}"
        )  # a kill leaves nothing beside the file
        with file:
            file.executemany("INSERT INTO about VALUES (?, ?)", entries)
            file.executemany(f"INSERT INTO pictures VALUES ({', '.join('?' * len(COLUMNS))})", pictures)
    return SceneCache(path)
