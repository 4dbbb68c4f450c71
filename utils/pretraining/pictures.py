"""Pictures to train on: which are held out, and random crops of the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from utils.core.errors import ImageError, UserError
from utils.data.folders import nameable
from utils.data.images import list_images, picture_size, read_rgb

if TYPE_CHECKING:
    pass

FEWEST = 10
RESIZE = 8 / 7  # short side of the pictures that crops are cut from, over the crop's: 256 for 224
MOST_HELD_OUT = 1000  # of a folder without splits.csv: enough for a PSNR to the second digit


def pictures_of_folder(folder: Path) -> pd.DataFrame:
    """List the pictures of a folder and those below it.

    Returns:
        ``image_id`` (the path relative to the folder) and ``path``, sorted by it.
    """
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing"
        raise UserError(f"Expected a folder of pictures at {folder}, found {kind}. Name one with --data-dir.")
    ids = nameable(path.relative_to(folder).as_posix() for path in list_images([folder]))
    return pd.DataFrame({"image_id": ids, "path": [str(folder / name) for name in ids]})


def leave_out_small(images: pd.DataFrame, size: int) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Leave out pictures that a crop of ``size`` pixels does not fit into: enlarged ones would teach blur.

    Only the files' headers are read; what cannot be opened is left out, too.

    Returns:
        The pictures that are left, and (image_id, reason) of the others.
    """
    skipped = []
    for image_id, path in zip(images["image_id"], images["path"], strict=True):
        try:
            width, height = picture_size(path)
        except ImageError as error:
            skipped.append((str(image_id), error.reason))
            continue
        if min(width, height) < size:
            skipped.append((str(image_id), f"{width} x {height} px is smaller than the crop of {size} px"))
    kept = ~images["image_id"].isin([name for name, _ in skipped])
    return images[kept].reset_index(drop=True), skipped


def hold_out(images: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Choose at random which pictures are held out: (N,) bool, at least one and at most `MOST_HELD_OUT` of them."""
    count = min(max(1, round(len(images) * share)), MOST_HELD_OUT)
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return np.isin(np.arange(len(images)), chosen)


def check_enough(
    train: int, held_out: int, batch_size: int, place: Path, skipped: Sequence[tuple[str, str]]
) -> None:
    """Refuse folders that nothing can be learnt from.

    Raises:
        UserError: If there are fewer than ten pictures, none to hold out, or fewer than a batch to train on.
    """
    small = sum("smaller than the crop" in reason for _, reason in skipped)
    others = f" ({small} more are smaller than the crop: use a smaller --image-size)" if small else ""
    if train + held_out < FEWEST:
        raise UserError(
            f"Expected at least {FEWEST} pictures in {place}, found {train + held_out} that can be used{others}."
        )
    if held_out < 1:
        raise UserError(
            f"No picture of {place} is held out, so nothing could be measured. Use more pictures."
        )
    if train < batch_size:
        raise UserError(
            f"{train} pictures to train on in {place} do not fill one batch of {batch_size}{others}. "
            "Use a smaller --batch-size or more pictures."
        )


class PictureStore:
    """Pictures decoded once and kept as bytes, short side a little above the crop's, as far as memory allows.

    Args:
        size: Side of the crops in pixels; every picture must be at least as large.
        cache_bytes: How much may be kept; what does not fit is decoded at every use.
    """

    def __init__(self, size: int, cache_bytes: int) -> None:
        self.size = size
        self._room = cache_bytes
        self._kept: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def load(self, path: str) -> np.ndarray:
        """Return a picture, (H, W, 3) uint8.

        Raises:
            ImageError: If it cannot be read.
        """
        kept = self._kept.get(path)
        if kept is not None:
            return kept
        picture = read_rgb(path)
        short = min(picture.size)
        target = min(round(self.size * RESIZE), short)
        if target < short:
            across, down = (max(self.size, round(side * target / short)) for side in picture.size)
            picture = picture.resize((across, down), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.uint8)
        with self._lock:
            if pixels.nbytes <= self._room and path not in self._kept:
                self._room -= pixels.nbytes
                self._kept[path] = pixels
        return pixels


def random_crop(pixels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a square out of a picture at a random place and mirror every second one, left to right.

    Args:
        pixels: (H, W, 3) uint8, both sides at least ``size``.
        size: Side of the square in pixels.
        rng: Decides; the same state gives the same crop.

    Returns:
        (3, size, size) uint8.
    """
    height, width = pixels.shape[:2]
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    square = pixels[top : top + size, left : left + size]
    if rng.random() < 0.5:
        square = square[:, ::-1]
    return square.transpose(2, 0, 1)
