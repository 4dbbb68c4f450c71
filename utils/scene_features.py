"""Objects and segments of a photograph: one pass of a detector and a segmenter, cached, and the features made from it.

The networks run once per image. What they found is kept in ``scene_cache_<detector>_<segmenter>.npz``: boxes as
fractions of the picture's sides, labels and scores (from `SCORE_FLOOR` up), and the class of every pixel as a
losslessly packed uint8 mask. Another score threshold, or the attribution stage that asks where objects are, reads the
cache and needs no network.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.cli import UserError, log
from utils.image_features import Feature, bounded, entropy_bits, read_pixels, to_lab
from utils.shards import Batch, ImageError, ShardedResult

if TYPE_CHECKING:
    import pandas as pd
    import torch

SCORE_FLOOR = 0.05
"""Detections below this score are not kept: the detectors themselves drop them."""

DEFAULT_MIN_SCORE = 0.5

MIN_SEGMENT_SHARE = 0.001
"""A class on fewer than one pixel in a thousand does not count as a segment class."""

BACKGROUND = 0
"""Index of the background class in the masks."""

MAX_ASPECT = 4.0
"""A strip longer than this is scaled by its longer side for the segmenter, so that it cannot fill the memory."""

MAX_OBJECT_ASPECT = 100.0
"""Strips longer than this are less than one pixel wide in the detectors, which therefore do not see them."""

_LIGHT = "fasterrcnn_mobilenet_v3_large_320_fpn"
_CACHE_COMMAND = "python feature_analysis.py --calculate-features --features scene"

SCENE_FEATURES = (
    Feature(
        "object_count",
        "scene",
        "objects",
        "detected objects with at least the threshold's score (--min-score)",
    ),
    Feature("object_classes", "scene", "classes", "distinct classes among those objects"),
    Feature(
        "object_area_mean",
        "scene",
        "share of the image, 0..1",
        "mean box area of those objects",
        "there is no such object",
    ),
    Feature(
        "object_area_largest",
        "scene",
        "share of the image, 0..1",
        "largest box area of those objects",
        "there is no such object",
    ),
    Feature("person_present", "scene", "0 or 1", "1 if one of those objects is a person"),
    Feature("segment_classes", "scene", "classes", "foreground classes on at least 0.1 % of the pixels"),
    Feature("foreground_share", "scene", "share of pixels, 0..1", "pixels of any class but background"),
    Feature(
        "segment_entropy",
        "scene",
        "bits, 0..4.4",
        "Shannon entropy of the class shares, background included; 0 is one class only",
    ),
    Feature(
        "foreground_background_distance",
        "scene",
        "CIELAB units (CIE76)",
        "distance between the mean LAB colours of foreground and background",
        "there is no foreground or no background",
    ),
)


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


# ---------------------------------------------------------------------------------------------- features


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of (K, 4) boxes in the square of their unit, (K,) float64."""
    boxes = boxes.astype(np.float64)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


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


# ---------------------------------------------------------------------------------------------- geometry


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
    from utils.memcat import crop_box

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
    from utils.memcat import crop_box

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


# ---------------------------------------------------------------------------------------------- the cache


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

    def features(self, image_id: str, min_score: float = DEFAULT_MIN_SCORE) -> dict[str, float]:
        """All of `SCENE_FEATURES` for one picture, from the cache alone."""
        row = self._find(image_id)
        height, width = self.size(image_id)
        return {
            **object_features(self.boxes(image_id, min_score=min_score), height, width, min_score),
            **segment_features(self.mask(image_id)),
            "foreground_background_distance": float(self.arrays["distance"][row]),
        }

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

    from utils.runs import atomic_path

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


# ---------------------------------------------------------------------------------------------- inference


class Picture(NamedTuple):
    """A decoded file on its way to the networks: pixels (H, W, 3) uint8 RGB, and the file's size in bytes."""

    pixels: np.ndarray
    file_bytes: int


def read_picture(path: str | Path) -> Picture:
    """Decode a file, reduced to at most 1,024 px on its longer side.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return Picture(bounded(read_pixels(path)), Path(path).stat().st_size)


def _by_shape(pictures: Sequence[np.ndarray]) -> list[list[int]]:
    """Positions of pictures of equal shape. Only those share a pass: padding would let neighbours change a result."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(position)
    return list(groups.values())


def _to_tensor(pictures: Sequence[np.ndarray], device: torch.device | str) -> torch.Tensor:
    """Stack pictures of one shape: (N, 3, H, W) float32 in [0, 1] on the device."""
    import torch

    stacked = torch.from_numpy(np.stack(pictures)).to(device)
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


def detect(
    detector: Any, pictures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """Run a torchvision detector over pictures of any sizes.

    Args:
        detector: takes a list of (3, H, W) tensors in [0, 1] and resizes them itself, so it gets the whole picture.
        pictures: (H, W, 3) uint8 RGB each.
        device: where the detector is.

    Returns:
        Per picture ``box`` (K lists of left, top, right, bottom as fractions of the sides), ``label`` (K class
        indices) and ``score`` (K, falling), down to `SCORE_FLOOR`.
    """
    import torch

    found = [{"box": [], "label": [], "score": []} for _ in pictures]
    with torch.inference_mode():
        for positions in _by_shape(pictures):
            sides = pictures[positions[0]].shape[:2]
            if max(sides) > MAX_OBJECT_ASPECT * min(sides):
                continue
            batch = _to_tensor([pictures[position] for position in positions], device)
            height, width = batch.shape[2:]
            sides = batch.new_tensor([width, height, width, height])
            for position, result in zip(positions, detector(list(batch)), strict=True):
                boxes = (result["boxes"] / sides).clamp(0, 1)
                keep = (result["scores"] >= SCORE_FLOOR) & torch.isfinite(boxes).all(dim=1)
                found[position] = {
                    "box": boxes[keep].cpu().tolist(),
                    "label": result["labels"][keep].cpu().tolist(),
                    "score": result["scores"][keep].cpu().tolist(),
                }
    return found


def segmenter_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width a segmenter sees: the short side scaled to `short_side`, strips bounded by `MAX_ASPECT`."""
    scale = min(short_side / min(height, width), MAX_ASPECT * short_side / max(height, width))
    # Truncated like torchvision's own preset; at least 32 px, one cell of the deepest feature map.
    return max(32, int(height * scale + 1e-6)), max(32, int(width * scale + 1e-6))


def segment(
    segmenter: Any, preset: Any, pictures: Sequence[np.ndarray], device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """Run a torchvision segmenter over pictures of any sizes.

    Args:
        segmenter: gives ``{"out": (N, classes, h, w) logits}``.
        preset: its preprocessing, of which ``resize_size``, ``mean`` and ``std`` are used.
        pictures: (H, W, 3) uint8 RGB each.
        device: where the segmenter is.

    Returns:
        Per picture (H, W) uint8: the class of the largest logit, logits being scaled back to the picture's size.
    """
    import torch
    from torchvision.transforms.v2 import functional

    masks: list[np.ndarray] = [np.empty(0, np.uint8)] * len(pictures)
    with torch.inference_mode():
        for positions in _by_shape(pictures):
            batch = _to_tensor([pictures[position] for position in positions], device)
            shape = tuple(batch.shape[2:])
            batch = functional.resize(
                batch, list(segmenter_size(*shape, preset.resize_size[0])), antialias=True
            )
            logits = segmenter(functional.normalize(batch, list(preset.mean), list(preset.std)))["out"]
            logits = torch.nn.functional.interpolate(logits, size=shape, mode="bilinear", align_corners=False)
            classes = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            for position, mask in zip(positions, classes, strict=True):
                masks[position] = mask
    return masks


def scene_row(picture: Picture, found: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Put what the networks found in one picture into a row that JSON can keep."""
    from base64 import b64encode

    import cv2

    height, width = mask.shape
    packed = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
    return {
        "bytes": picture.file_bytes,
        "height": height,
        "width": width,
        **found,
        "distance": foreground_background_distance(picture.pixels, mask),
        "mask_png": b64encode(packed.tobytes()).decode(),
    }


def make_work(
    detector: Any, segmenter: Any, preset: Any, device: torch.device | str
) -> Callable[[list[str], list[Picture]], Batch]:
    """Make the per-batch work of the sharded run: both networks over one batch of pictures."""

    def work(image_ids: list[str], pictures: list[Picture]) -> Batch:
        pixels = [picture.pixels for picture in pictures]
        found = detect(detector, pixels, device)
        masks = segment(segmenter, preset, pixels, device)
        return Batch([scene_row(*parts) for parts in zip(pictures, found, masks, strict=True)])

    return work


def _file_bytes(path: str) -> int:
    file = Path(path)
    return file.stat().st_size if file.exists() else -1


def _unknown(images: pd.DataFrame, cache: SceneCache | None) -> pd.DataFrame:
    """The images that a cache neither holds nor found unreadable, or whose files have changed size since."""
    if cache is None:
        return images
    known = dict(zip(cache.image_ids, cache.header["bytes"], strict=True))
    known |= {image_id: size for image_id, _, size in cache.header["skipped"]}
    pairs = zip(images["image_id"], images["path"], strict=True)
    return images[[known.get(image_id) != _file_bytes(path) for image_id, path in pairs]]


def _any_readable(images: pd.DataFrame) -> bool:
    for path in images["path"]:
        try:
            read_pixels(path)
        except ImageError:
            continue
        return True
    return False


def _skipped_among(images: pd.DataFrame, cache: SceneCache, on_error: str) -> list[tuple[str, str]]:
    """Which of the images an earlier pass found unreadable, and why; fatal with ``--on-error fail``."""
    asked = set(images["image_id"])
    skipped = [(image_id, reason) for image_id, reason, _ in cache.header["skipped"] if image_id in asked]
    if skipped and on_error == "fail":
        raise UserError(
            f"{skipped[0][0]}: {skipped[0][1]}. "
            "Mend or remove the file, or leave such images out with --on-error skip."
        )
    return skipped


@dataclass(frozen=True)
class SceneSettings:
    """How objects and segments are found.

    Attributes:
        detector: one of `models.pretrained.DETECTORS`.
        segmenter: one of `models.pretrained.SEGMENTERS`.
        weights: ``pretrained`` or ``random``.
        seed: seed of random weights.
        device: where the networks run.
        batch_size: images read per pass; those of equal shape share it.
        workers: threads that decode ahead.
        on_error: ``skip`` or ``fail`` for unreadable images.
        overwrite: run the networks on all images again.
    """

    detector: str
    segmenter: str
    weights: str = "pretrained"
    seed: int = 0
    device: torch.device | str = "cpu"
    batch_size: int = 8
    workers: int = 2
    on_error: str = "skip"
    overwrite: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What decides whether two caches can be one: networks, weights, and the seed of random ones."""
        parts = {"detector": self.detector, "segmenter": self.segmenter, "weights": self.weights}
        return parts | ({"seed": self.seed} if self.weights == "random" else {})


def ensure_scene_cache(
    images: pd.DataFrame, output_path: Path, settings: SceneSettings
) -> tuple[SceneCache | None, list[tuple[str, str]]]:
    """Make sure that the cache of a pair of networks holds these images; the networks see only those it lacks.

    Args:
        images: ``image_id`` and ``path``.
        output_path: the output folder.
        settings: networks and how to run them.

    Returns:
        The cache (None on the ranks that do not merge) and (image_id, reason) of the images left out.

    Raises:
        UserError: weights that are missing and cannot be fetched, a damaged cache, no readable image.
    """
    from utils.runs import is_main_rank

    path = cache_path(output_path, settings.detector, settings.segmenter)
    cache = read_scene_cache(path) if path.exists() and not settings.overwrite else None
    if cache is not None and cache.header["settings"] != settings.identity:
        log.info("%s was made with other weights; it is made anew.", path)
        cache = None
    unknown = _unknown(images, cache)
    if unknown.empty:
        log.info("Objects and segments of %d images are up to date in %s.", len(images), path.name)
    else:
        cache = _extend_cache(path, cache, images, unknown, settings)
    if not is_main_rank() or cache is None:
        return None, []
    return cache, _skipped_among(images, cache, settings.on_error)


def _extend_cache(
    path: Path, old: SceneCache | None, images: pd.DataFrame, unknown: pd.DataFrame, settings: SceneSettings
) -> SceneCache | None:
    """Run the networks on the unknown images and write the cache anew; None on ranks that do not merge."""
    from models.pretrained import load_detector, load_segmenter
    from utils.runs import is_main_rank

    detector, about_objects = load_detector(settings.detector, settings.weights, settings.seed)
    segmenter, about_segments = load_segmenter(settings.segmenter, settings.weights, settings.seed)
    header = {
        "settings": settings.identity,
        "digests": [about_objects["sha256"], about_segments["sha256"]],
        "object_names": about_objects["categories"],
        "segment_names": about_segments["categories"],
    }
    if old is not None and old.header["digests"] != header["digests"]:
        log.warning("%s was made with other weight files; all images are done again.", path)
        old, unknown = None, images
    if old is not None and settings.on_error == "skip" and not _any_readable(unknown):
        # Nothing to run on, which must not end a study that has its other images.
        header["skipped"] = _merge_skipped(
            old, unknown, [(name, "unreadable") for name in unknown["image_id"]]
        )
        write_scene_cache(path, header, _rows_of(old))
        return read_scene_cache(path)
    device = settings.device
    work = make_work(detector.to(device), segmenter.to(device), about_segments["transforms"], device)
    result = _run_networks(unknown, work, path, header["digests"], settings)
    if not is_main_rank():
        return None
    done = set(unknown["image_id"])
    kept = [row for row in _rows_of(old) if row["image_id"] not in done] if old else []
    header["skipped"] = _merge_skipped(old, unknown, result.skipped)
    write_scene_cache(path, header, kept + list(result.rows()))
    result.finish([path])
    return read_scene_cache(path)


def _merge_skipped(
    old: SceneCache | None, unknown: pd.DataFrame, skipped: list[tuple[str, str]]
) -> list[list[Any]]:
    """Unreadable images with their reasons and sizes: those found now, and the earlier ones not tried again."""
    paths = dict(zip(unknown["image_id"], unknown["path"], strict=True))
    earlier = [list(entry) for entry in old.header["skipped"] if entry[0] not in paths] if old else []
    return sorted(
        earlier + [[image_id, reason, _file_bytes(paths[image_id])] for image_id, reason in skipped]
    )


def _run_networks(
    unknown: pd.DataFrame, work: Any, path: Path, digests: list[str | None], settings: SceneSettings
) -> ShardedResult:
    """Both networks over the unknown images, in shards."""
    from utils.shards import run_sharded

    def run(overwrite: bool) -> ShardedResult:
        return run_sharded(
            f"scenes_{settings.detector}_{settings.segmenter}",
            unknown,
            work,
            output_path=path.parent,
            settings={**settings.identity, "digests": digests},
            load=read_picture,
            batch_size=settings.batch_size,
            workers=settings.workers,
            on_error=settings.on_error,
            overwrite=overwrite,
            description="objects and segments",
        )

    result = run(settings.overwrite)
    # "Up to date" means an earlier cache had these images, but the one that stands there now has not.
    return run(True) if result.up_to_date else result
