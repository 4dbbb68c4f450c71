"""Small pictures of every image beside its reconstruction, packed in one file for the gallery and for people."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.files import atomic_path
from utils.core.picture_pack import member_name

if TYPE_CHECKING:
    import torch

PAIR = "pair"  # in a shard's row: the bytes of the picture
MOST_PX = 128
_QUALITY = 82
_BLOCK = 8  # of a JPEG: where the two halves meet on a block's edge, neither bleeds into the other


def pair_size(image_size: int) -> int:
    """Return the side of each half in pixels: at most 128, a multiple of 8, never larger than the image."""
    return max(_BLOCK, min(MOST_PX, image_size // _BLOCK * _BLOCK))


def encode_pairs(images: torch.Tensor, reconstructions: torch.Tensor) -> list[bytes]:
    """Return a JPEG for each image: left what the network saw, right what it made of it.

    Args:
        images: (B, 3, S, S), [0, 1].
        reconstructions: The same shape.

    Returns:
        B JPEGs of 2 T x T pixels, T from :func:`pair_size`.
    """
    import torch
    from PIL import Image

    size = pair_size(images.shape[-1])
    halves = [
        torch.nn.functional.interpolate(half.float(), (size, size), mode="bilinear", antialias=True)
        for half in (images, reconstructions)
    ]
    pixels = (torch.cat(halves, dim=3).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    encoded = []
    for one in pixels:
        buffer = io.BytesIO()
        Image.fromarray(one).save(
            buffer, "JPEG", quality=_QUALITY, subsampling=0
        )  # halved chroma bleeds across
        encoded.append(buffer.getvalue())
    return encoded


def pack_pairs(rows: Iterable[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Write the pictures of finished rows into one uncompressed ZIP, and return the rows without them.

    Args:
        rows: In order; each with its picture under ``pair``. One row's picture is in memory at a time.
        path: The file to write, atomically. Member i is the picture of row i.
    """
    kept = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as pack:
        for number, row in enumerate(rows):
            # A ZipInfo of its own has the same date in every run, so that equal pictures make equal files.
            pack.writestr(zipfile.ZipInfo(member_name(number)), row[PAIR])
            kept.append({name: value for name, value in row.items() if name != PAIR})
    return kept
