"""Objects and segments of a photograph: one pass of a detector and a segmenter, cached, and the features made from it.

The networks run once per image. What they found is kept in ``scene_cache_<detector>_<segmenter>.sqlite``: boxes as
fractions of the picture's sides, labels and scores (from `SCORE_FLOOR` up), and the class of every pixel as a
losslessly packed uint8 mask. Another score threshold, or the attribution stage that asks where objects are, reads the
cache and needs no network.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.device import computing_in
from utils.core.digests import FileContent, file_digests
from utils.core.errors import ChangedFileError, UserError
from utils.core.log import log
from utils.core.shards import Batch, NoReadableImageError, ShardedResult
from utils.data.pixels import bounded, read_pixels
from utils.scenes.cache import (
    COLUMNS,
    SCORE_FLOOR,
    DamagedSceneCacheError,
    SceneCache,
    cache_path,
    write_scene_cache,
)
from utils.scenes.geometry import foreground_background_distance

if TYPE_CHECKING:
    import pandas as pd
    import torch

MAX_ASPECT = 4.0
"""A strip longer than this is scaled by its longer side for the segmenter, so that it cannot fill the memory."""

MAX_OBJECT_ASPECT = 100.0
"""Strips longer than this are less than one pixel wide in the detectors, which therefore do not see them."""


def read_picture(path: str | Path | FileContent) -> np.ndarray:
    """Decode a file, reduced to at most 1,024 px on its longer side: (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return bounded(read_pixels(path))


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
    detector: Any,
    pictures: Sequence[np.ndarray],
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """Run a torchvision detector over pictures of any sizes.

    Args:
        detector: takes a list of (3, H, W) tensors in [0, 1] and resizes them itself, so it gets the whole picture.
        pictures: (H, W, 3) uint8 RGB each.
        device: where the detector is.
        precision: ``float32`` or ``bf16``.

    Returns:
        Per picture ``box`` (K lists of left, top, right, bottom as fractions of the sides), ``label`` (K class
        indices) and ``score`` (K, falling), down to `SCORE_FLOOR`.
    """
    import torch

    detections: list[dict[str, list]] = [{"box": [], "label": [], "score": []} for _ in pictures]
    with torch.inference_mode():
        for positions in _by_shape(pictures):
            shape = pictures[positions[0]].shape[:2]
            if max(shape) > MAX_OBJECT_ASPECT * min(shape):
                continue
            batch = _to_tensor([pictures[position] for position in positions], device)
            height, width = batch.shape[2:]
            sides = batch.new_tensor([width, height, width, height])
            with computing_in(precision, device):
                found = detector(list(batch))
            for position, result in zip(positions, found, strict=True):
                boxes = (result["boxes"].float() / sides).clamp(0, 1)
                keep = (result["scores"] >= SCORE_FLOOR) & torch.isfinite(boxes).all(dim=1)
                detections[position] = {
                    "box": boxes[keep].cpu().tolist(),
                    "label": result["labels"][keep].cpu().tolist(),
                    "score": result["scores"][keep].cpu().tolist(),
                }
    return detections


def segmenter_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width a segmenter sees: the short side scaled to `short_side`, strips bounded by `MAX_ASPECT`."""
    scale = min(short_side / min(height, width), MAX_ASPECT * short_side / max(height, width))
    # Truncated like torchvision's own preset; at least 32 px, one cell of the deepest feature map.
    return max(32, int(height * scale + 1e-6)), max(32, int(width * scale + 1e-6))


def segment(
    segmenter: Any,
    preset: Any,
    pictures: Sequence[np.ndarray],
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> list[np.ndarray]:
    """Run a torchvision segmenter over pictures of any sizes.

    Args:
        segmenter: gives ``{"out": (N, classes, h, w) logits}``.
        preset: its preprocessing, of which ``resize_size``, ``mean`` and ``std`` are used.
        pictures: (H, W, 3) uint8 RGB each.
        device: where the segmenter is.
        precision: ``float32`` or ``bf16``.

    Returns:
        Per picture (H, W) uint8: the class of the largest logit, logits being scaled back to the picture's size.
    """
    import torch
    from torchvision.transforms.v2 import functional

    masks: list[np.ndarray] = [np.empty(0, np.uint8)] * len(pictures)
    with torch.inference_mode():
        for positions in _by_shape(pictures):
            batch = _to_tensor([pictures[position] for position in positions], device)
            shape = (batch.shape[2], batch.shape[3])
            size = segmenter_size(*shape, preset.resize_size[0])
            batch = functional.resize(batch, list(size), antialias=True)
            batch = functional.normalize(batch, list(preset.mean), list(preset.std))
            with computing_in(precision, device):
                logits = segmenter(batch)["out"]
            logits = torch.nn.functional.interpolate(
                logits.float(), size=shape, mode="bilinear", align_corners=False
            )
            classes = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            for position, mask in zip(positions, classes, strict=True):
                masks[position] = mask
    return masks


def scene_row(picture: np.ndarray, found: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Put what the networks found in one picture into a row of the cache."""
    import cv2

    height, width = mask.shape
    parts = zip(found["box"], found["label"], found["score"], strict=True)
    distance = foreground_background_distance(picture, mask)
    return {
        "height": height,
        "width": width,
        "objects": json.dumps([[*box, label, score] for box, label, score in parts]),
        "mask": cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1].tobytes(),
        "distance": None if np.isnan(distance) else float(distance),
    }


def make_work(
    detector: Any, segmenter: Any, preset: Any, device: torch.device | str, precision: str = "float32"
) -> Callable[[list[str], list[np.ndarray]], Batch]:
    """Make the per-batch work of the sharded run: both networks over one batch of pictures."""

    def work(image_ids: list[str], pictures: list[np.ndarray]) -> Batch:
        detections = detect(detector, pictures, device, precision)
        masks = segment(segmenter, preset, pictures, device, precision)
        return Batch([scene_row(*parts) for parts in zip(pictures, detections, masks, strict=True)])

    return work


def _skipped_among(images: pd.DataFrame, cache: SceneCache, on_error: str) -> list[tuple[str, str]]:
    """Which of the images could not be read, and why; fatal with ``--on-error fail``."""
    skipped = [(name, cache.skipped[name]) for name in images["image_id"] if name in cache.skipped]
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
        precision: ``float32`` or ``bf16``, of the networks.
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
    precision: str = "float32"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides whether two caches can be one: networks, weights, the seed of random ones, a reduced precision."""
        parts = {"detector": self.detector, "segmenter": self.segmenter, "weights": self.weights}
        if self.precision != "float32":
            parts["precision"] = self.precision
        return parts | ({"seed": self.seed} if self.weights == "random" else {})


def scene_networks_cached(detector: str, segmenter: str, what: str) -> bool:
    """Say whether detector and segmenter need no download; where they do, say in one line what is left out for it.

    Args:
        detector: One of `models.pretrained.DETECTORS`.
        segmenter: One of `models.pretrained.SEGMENTERS`.
        what: What needs them, in the user's words.
    """
    from models.pretrained import say_left_out, uncached

    missing = uncached([detector, segmenter])
    if missing:
        say_left_out([what], missing)
    return not missing


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
    from utils.core.processes import is_main_rank

    path = cache_path(output_path, settings.detector, settings.segmenter)
    try:
        cache = SceneCache(path) if path.exists() and not settings.overwrite else None
    except (DamagedSceneCacheError, ChangedFileError) as error:
        log.warning("%s; it is made anew.", str(error).partition(". ")[0])
        cache = None
    if cache is not None and cache.about["settings"] != settings.identity:
        log.info("%s was made with other weights or in another precision; it is made anew.", path)
        cache = None
    known, digests = cache.known if cache else {}, file_digests(output_path)
    pairs = zip(images["image_id"], images["path"], strict=True)
    unknown = images[[known.get(name) != digests.of(file) for name, file in pairs]]
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
    from utils.core.processes import is_main_rank

    detector, about_objects = load_detector(settings.detector, settings.weights, settings.seed)
    segmenter, about_segments = load_segmenter(settings.segmenter, settings.weights, settings.seed)
    about = {
        "settings": settings.identity,
        "digests": [about_objects["sha256"], about_segments["sha256"]],
        "object_names": about_objects["categories"],
        "segment_names": about_segments["categories"],
    }
    if old is not None and old.about["digests"] != about["digests"]:
        log.warning("%s was made with other weight files; all images are done again.", path)
        old, unknown = None, images
    device = settings.device
    work = make_work(
        detector.to(device), segmenter.to(device), about_segments["transforms"], device, settings.precision
    )
    try:
        result = _run_networks(unknown, work, path, about["digests"], settings)
        rows = result.rows()
    except NoReadableImageError as error:
        if old is None:
            raise
        result, rows = error.result, iter(())  # which must not end a study that has its other images
    if not is_main_rank():
        return None
    done = set(unknown["image_id"])
    kept = (dict(zip(COLUMNS, row, strict=True)) for row in old.rows()) if old else ()
    cache = write_scene_cache(
        path,
        about,
        heapq.merge(
            (row for row in kept if row["image_id"] not in done),
            ({**row, "sha256": result.read[row["image_id"]].digest} for row in rows),
            (
                {"image_id": name, "sha256": result.read[name].digest, "reason": why}
                for name, why in result.skipped
            ),
            key=itemgetter("image_id"),
        ),
    )
    result.finish([path], keep=False)  # the cache itself takes in single pictures
    return cache


def _run_networks(
    unknown: pd.DataFrame, work: Any, path: Path, digests: list[str | None], settings: SceneSettings
) -> ShardedResult:
    """Both networks over the unknown images, in shards."""
    from utils.core.shards import run_sharded

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
        overwrite=settings.overwrite,
        description="objects and segments",
    )
