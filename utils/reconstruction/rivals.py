"""The trivial rivals of a reconstruction error: what a picture's detail alone says about memorability.

A network reconstructs a busy picture worse than a plain one, so before an error is taken to say something about memory it
has to say more than measures that know no network: how many bytes the picture compresses to, how much its pixels vary,
how strong its edges are, and how badly a linear code of the same size reconstructs it. All look at the very pixels that
the network sees, and all are larger for pictures that are harder to reconstruct.
"""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np

RIVALS = ("jpeg_bytes", "pixel_variance", "edge_energy", "pca_error")
RIVAL_MODEL = "rivals"  # stands where the name of a network stands in tables of correlations
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
    from scipy.ndimage import sobel

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
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.tell()
