"""What a steered picture has to beat at the same change of the picture, and what its gain has to survive."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.steering.moves import Bounds, longest

JPEG_QUALITY = 75
SHIFT_PX = 4
BLUR_SIGMA_PX = 1.0


def _edit_functions() -> dict[str, Callable[[Tensor, float], Tensor]]:
    from torchvision.transforms import v2

    return {
        "contrast": v2.functional.adjust_contrast,
        "saturation": v2.functional.adjust_saturation,
        "sharpness": v2.functional.adjust_sharpness,
    }


EDITS = ("contrast", "saturation", "sharpness")
"""Plain edits of the picture, each made stronger until it costs what the move costs."""


def edit_to_cost(name: str, bounds: Bounds) -> Tensor:
    """Strengthen one plain property of pictures until they differ from the start as much as allowed.

    Args:
        name: One of `EDITS`.
        bounds: The pictures to begin with and the mean squared difference to reach; nothing else counts here.

    Returns:
        (N, 3, S, S) images; a picture that the edit cannot change so much (a grey one has no saturation) gets the
        strongest edit tried.
    """
    edit = _edit_functions()[name]

    def at(strengths: Tensor) -> Tensor:
        pairs = zip(bounds.start, strengths.tolist(), strict=True)
        return torch.stack([edit(image, 1.0 + strength) for image, strength in pairs])

    def feasible(strengths: Tensor) -> Tensor:
        return bounds.affords(at(strengths))

    with torch.inference_mode():
        first = torch.full_like(bounds.squared_error, 1e-3)
        return at(longest(feasible, first)).clone()


def random_directions(codes: Tensor, seeds: list[int]) -> Tensor:
    """Draw a direction for each of (N, ...) codes, uniform over all directions, of length 1."""
    drawn = []
    for code, seed in zip(codes, seeds, strict=True):
        values = np.random.default_rng(seed).standard_normal(tuple(code.shape))
        drawn.append(torch.from_numpy(values / np.linalg.norm(values)).to(code))
    return torch.stack(drawn)


def to_eight_bit(image: Tensor) -> np.ndarray:
    """Round a (3, S, S) image in [0, 1] to (S, S, 3) uint8, as it is saved."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Turn (S, S, 3) uint8 into (3, S, S) float32 in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(stream, formats=["JPEG"]).convert("RGB"))


def _shifted(pixels: np.ndarray) -> np.ndarray:
    """Move the picture right and down by `SHIFT_PX`; what comes in from outside mirrors the border."""
    padded = np.pad(pixels, ((SHIFT_PX, 0), (SHIFT_PX, 0), (0, 0)), mode="reflect")
    return np.ascontiguousarray(padded[: pixels.shape[0], : pixels.shape[1]])


def _blurred(pixels: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(pixels, (0, 0), BLUR_SIGMA_PX)


DISTURBANCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": _jpeg,
    "shift": _shifted,
    "blur": _blurred,
}
"""What happens to pictures on their way: (S, S, 3) uint8 to the same."""
