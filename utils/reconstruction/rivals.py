"""The trivial rivals of a reconstruction error: what a picture's detail alone says about memorability.

A network reconstructs a busy picture worse than a plain one, so before an error is taken to say something about memory it
has to say more than measures that know no network: how many bytes the picture compresses to, how much its pixels vary,
how strong its edges are, and how badly a linear code of the same size reconstructs it. All look at the very pixels that
the network sees, and all are larger for pictures that are harder to reconstruct.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import sobel

from models.autoencoder import DOWNSAMPLING as BLOCK_PX
from utils.core.errors import ImageError
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.shards import Batch, run_sharded
from utils.core.tables import output_file
from utils.data.dataset import Dataset, limit_rows
from utils.data.images import load_pixels
from utils.data.splits import load_splits

BLOCKS_TO_FIT = 20_000
JPEG_QUALITY = 75
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class LinearCode(Protocol):
    """A linear autoencoder of pictures, such as principal components of blocks."""

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """Encode and decode (N, 3, S, S) uint8 pictures; (N, 3, S, S) floats in [0, 1]."""
        ...


def measure_rivals(pixels: np.ndarray) -> dict[str, float]:
    """Measure one picture without any network.

    Args:
        pixels: (3, S, S) float32, [0, 1], RGB, as the network sees them.

    Returns:
        ``jpeg_bytes`` (size as a JPEG of quality 75, 4:2:0), ``pixel_variance`` (mean squared distance of the pixels to
        the picture's own mean colour: the mse of the best one-colour reconstruction), ``edge_energy`` (mean squared Sobel
        gradient of the luma, per pixel step). Each at least 0; larger for more detail.
    """
    wide = pixels.astype(np.float64)
    luma = np.tensordot(_LUMA, wide, axes=1)
    across, down = (sobel(luma, axis=axis, mode="nearest") / 8 for axis in (1, 0))
    return {
        "jpeg_bytes": float(_jpeg_bytes(to_bytes(pixels))),
        "pixel_variance": float(wide.var(axis=(1, 2)).mean()),
        "edge_energy": float((across**2 + down**2).mean()),
    }


def pca_errors(pixels: np.ndarray, code: LinearCode) -> np.ndarray:
    """Return the mean squared error of a linear code, per picture.

    Args:
        pixels: (N, 3, S, S) float32, [0, 1].
        code: Fitted to training pictures, as many numbers per position as the network's code has.

    Returns:
        (N,) at least 0, comparable with the loss ``mse``.
    """
    difference = code.reconstruct(to_bytes(pixels)).astype(np.float64) - pixels
    return (difference**2).mean(axis=(1, 2, 3))


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return pixels in [0, 1] as whole numbers 0..255: what they were before preprocessing divided them."""
    return np.rint(pixels * 255).astype(np.uint8)


def _jpeg_bytes(pixels: np.ndarray) -> int:
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.tell()


def write_rivals(
    run: Run,
    dataset: Dataset,
    fit: Callable[[np.ndarray], LinearCode],
    components: int,
) -> list[tuple[str, str]]:
    """Measure every picture of a data set and write ``rivals.csv``.

    Args:
        run: The run; its arguments are those of stage 2.
        dataset: The data set; the linear code is fitted to its training split, evenly spaced pictures of it where those
            are many.
        fit: Fits a linear code to (N, 3, S, S) uint8 pictures.
        components: Numbers per position of that code.

    Returns:
        (image_id, reason) of the pictures that could not be read.
    """
    args = run.args
    training = _pictures_to_fit(dataset, args)

    @cache
    def code() -> LinearCode:  # at the first batch: a finished job fits nothing
        return fit(_read_bytes(training["path"], args.image_size))

    def work(ids: list[str], values: list[np.ndarray]) -> Batch:
        errors = pca_errors(np.stack(values), code())
        rows = [
            {**measure_rivals(pixels), "pca_error": float(error)}
            for pixels, error in zip(values, errors, strict=True)
        ]
        return Batch(rows)

    digest = run.digests.of_images(training)[:16]  # every row hangs on what they show
    result = run_sharded(
        "rivals",
        dataset.table[["image_id", "path"]],
        work,
        output_path=args.output_path,
        settings={"image_size": args.image_size, "components": components, "fitted_to": digest},
        load=partial(load_pixels, size=args.image_size),
        batch_size=args.batch_size,
        workers=args.workers,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description="rivals",
    )
    if is_main_rank():
        path = output_file(args.output_path, "rivals")
        if result.up_to_date:
            run.add_output(path)
        else:
            about = {"pca_components": components, "image_size": args.image_size}
            run.write_table(result.frame().assign(**about), "rivals")
        result.finish([path])
    return result.skipped


def _pictures_to_fit(dataset: Dataset, args: Namespace) -> pd.DataFrame:
    """Return the training pictures that the linear code is fitted to: all, or as many as give it enough blocks."""
    splits = load_splits(dataset, args.output_path, args.seed)
    training = set(splits.loc[splits["split"] == "train", "image_id"])
    images = dataset.table[["image_id", "path"]]
    chosen = images[images["image_id"].isin(training)] if training else images
    return limit_rows(chosen.reset_index(drop=True), -(-BLOCKS_TO_FIT // (args.image_size // BLOCK_PX) ** 2))


def _read_bytes(paths: Iterable[str], size: int) -> np.ndarray:
    """Read pictures as (N, 3, size, size) uint8; those that cannot be read are left to the stage to report."""
    sizes = []
    for path in paths:
        with contextlib.suppress(ImageError):
            sizes.append(to_bytes(load_pixels(path, size)))
    return np.stack(sizes)
