"""Composition of a photograph as numbers: scaling, symmetry, orientations, saliency, faces (not in the paper).

Measures that the literature on image aesthetics and memorability uses. Where the Aesthetics Toolbox (Bartho,
Redies et al. 2025, Behavior Research Methods, doi 10.3758/s13428-025-02632-3) has a measure, its definition is
followed, and a departure is named in the docstring. All functions take grey pixels (H, W) uint8 or, where colour
counts, RGB pixels (H, W, 3) uint8. A value that a picture does not have is NaN.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from utils.data.pixels import bounded, entropy_bits, to_lab

FOURIER_MIN_CYCLES, FOURIER_MAX_CYCLES, FOURIER_BINS = 10, 256, 24
"""Range of frequencies, in cycles per longer side, and bins of equal ratio in which they are averaged."""

FOURIER_FLOOR = 1e-6
"""Spectral power per pixel below which a frequency is rounding error (that of 8-bit quantisation is 1/12)."""

BOX_MIN_PX, BOX_SHARE, BOX_SIZES = 2, 8, 3
"""Smallest box, the part of the shorter side that the largest may reach, and how many sizes a fit needs."""

GABOR_AREA_PX, GABOR_EDGES, GABOR_DIRECTIONS, GABOR_WAVELENGTH_PX = 120_000, 10_000, 24, 8.0
GABOR_SIDE_PX, GABOR_MIN_RESPONSE = 15, 1e-3
"""Pictures of 300 x 400 px; their 10,000 strongest edges; 24 directions (dark-to-light counts as another
direction than light-to-dark); three octaves below one cycle per pixel. Weaker responses are rounding."""

PHOG_AREA_PX, PHOG_BINS, PHOG_LEVELS = 100_000, 16, 3
PHOG_MIN_GRADIENT = 1e-3
"""Pictures of 100,000 px (Braun et al. 2013); 16 bins over 360 degrees; 2 x 2, 4 x 4 and 8 x 8 cells."""

SALIENCY_SIDE_PX, SALIENCY_SIGMA_PX, SALIENCY_FLOOR = 64, 2.5, 1e-6

FACE_SIDE_PX, FACE_MIN_PX, FACE_SCALE = 320, 24, 1.2
"""Longer side of the picture in which faces are sought, the smallest face, and the ratio of window sizes."""

MIN_SIDE_PX = 2 * 2**PHOG_LEVELS
"""A picture narrower than two pixels per finest PHOG cell has neither self-similarity nor oriented edges."""


def fourier_slope(grey: np.ndarray) -> float:
    """Slope of log power against log spatial frequency: 0 white noise, -2 natural pictures, lower is smoother.

    Redies et al. (2008, Network 18:365), as the toolbox has it: the picture is padded to a square with its mean,
    its power is averaged over orientations and then over bins of equal ratio from 10 to 256 cycles per
    longer side, and a straight line is fitted to the bins. It is not enlarged to 1,024 px first, which would
    only add frequencies that it does not have: those above half a cycle per pixel are left out.

    Args:
        grey: (H, W) uint8.

    Returns:
        The slope; NaN for a picture of one grey level or with a longer side below 41 px.
    """
    from scipy import fft

    side = max(grey.shape)
    highest = min(FOURIER_MAX_CYCLES, (side - 1) // 2)
    if highest < 2 * FOURIER_MIN_CYCLES:
        return np.nan
    square = np.zeros((side, side))
    square[: grey.shape[0], : grey.shape[1]] = grey - grey.mean(dtype=np.float64)
    spectrum = fft.rfft2(square, overwrite_x=True)
    power = spectrum.real**2 + spectrum.imag**2
    weights = np.full(power.shape, 2.0)  # every column but the first stands for its mirror image, too
    weights[:, 0] = 1
    cycles = np.hypot(fft.fftfreq(side, 1 / side)[:, None], fft.rfftfreq(side, 1 / side)[None, :])
    radius = np.rint(cycles).astype(np.intp).ravel()
    average = np.bincount(radius, (weights * power).ravel()) / np.bincount(radius, weights.ravel())
    used = np.arange(FOURIER_MIN_CYCLES, highest + 1)
    edges = np.geomspace(FOURIER_MIN_CYCLES, highest + 1, FOURIER_BINS + 1)
    bins = np.digitize(used, edges[1:-1])
    counts = np.bincount(bins, minlength=FOURIER_BINS)
    filled = counts > 0
    frequency = np.bincount(bins, used, FOURIER_BINS)[filled] / counts[filled]
    level = np.bincount(bins, average[used], FOURIER_BINS)[filled] / counts[filled] / side**2
    if (level < FOURIER_FLOOR).any():
        return np.nan
    return float(np.polyfit(np.log(frequency), np.log(level), 1)[0])


def mirror_symmetry(grey: np.ndarray) -> tuple[float, float]:
    """Correlation of a picture with its mirror image: 1 symmetric, 0 unrelated, -1 a negative of itself.

    After Mayer & Landwehr (2018, Psychology of Aesthetics, Creativity, and the Arts 12:399), who correlate the
    halves; over the whole picture the two differ by the halves' means alone. The toolbox compares filters of
    a trained network instead.

    Args:
        grey: (H, W) uint8.

    Returns:
        Left against right, and top against bottom; both NaN for a picture of one grey level.
    """
    centred = grey - grey.mean(dtype=np.float64)
    total = float((centred * centred).sum())
    if total < 1e-9 * grey.size:
        return np.nan, np.nan
    return (
        float((centred * centred[:, ::-1]).sum()) / total,
        float((centred * centred[::-1]).sum()) / total,
    )


def box_counting_dimension(mask: np.ndarray) -> float:
    """Box-counting dimension of a set of pixels: 0 points, 1 a line, 2 the plane.

    The slope of log number of boxes against log 1 / side, over boxes of 2, 4, 8 ... px up to an eighth of the
    shorter side, of which the first lies in the upper left corner.

    Args:
        mask: (H, W) bool, the set.

    Returns:
        The dimension; NaN for an empty set, or where fewer than three sizes of boxes fit.
    """
    limit = min(mask.shape) / BOX_SHARE
    sides, counts, side = [], [], 1
    while 2 * side <= limit:
        side *= 2
        mask = np.pad(mask, [(0, length % 2) for length in mask.shape])
        rows = mask[0::2] | mask[1::2]
        mask = rows[:, 0::2] | rows[:, 1::2]
        if side >= BOX_MIN_PX:
            sides.append(side)
            counts.append(np.count_nonzero(mask))
    if len(sides) < BOX_SIZES or counts[0] == 0:
        return np.nan
    return float(-np.polyfit(np.log(sides), np.log(counts), 1)[0])


def fractal_dimension(grey: np.ndarray) -> float:
    """Box-counting dimension of the border between what is lighter and what is darker than the mean.

    Spehar et al. (2003, Computers & Graphics 27:813), the toolbox's "2-dimensional" one; that one squeezes the
    picture to a square first, this one does not.

    Args:
        grey: (H, W) uint8.

    Returns:
        From 1 (a smooth outline) to 2 (an outline that fills the picture); NaN for a picture of one grey level or
        narrower than 64 px.
    """
    dark = grey < grey.mean(dtype=np.float64)
    border = np.zeros_like(dark)
    border[:, :-1] |= dark[:, :-1] != dark[:, 1:]
    border[:-1] |= dark[:-1] != dark[1:]
    return box_counting_dimension(border)


def edge_orientation_entropy(grey: np.ndarray) -> float:
    """Shannon entropy of edge directions: 0 parallel edges, log2(24) = 4.58 bits all directions alike.

    First-order entropy of Redies, Brachmann & Wagemans (2017, Vision Research 133:130): the strongest response of
    24 odd Gabor filters at each pixel of the picture at 120,000 px, the strongest 10,000 of these, added up by
    direction.

    Args:
        grey: (H, W) uint8.

    Returns:
        Bits; NaN for a picture without edges or narrower than 16 px.
    """
    import cv2

    if min(grey.shape) < MIN_SIDE_PX:
        return np.nan
    picture = _at_area(grey.astype(np.float32), GABOR_AREA_PX)
    responses = []
    for (odd_x, even_x), (odd_y, even_y) in _gabor_factors():
        # sin(a + b) = sin a cos b + cos a sin b, so that two passes of rows and columns make one filter
        first = cv2.sepFilter2D(picture, cv2.CV_32F, odd_x, even_y, borderType=cv2.BORDER_REFLECT)
        second = cv2.sepFilter2D(picture, cv2.CV_32F, even_x, odd_y, borderType=cv2.BORDER_REFLECT)
        responses.append(first + second)
    stacked = np.stack(responses)
    direction = np.abs(stacked).argmax(axis=0)
    response = np.take_along_axis(stacked, direction[None], axis=0)[0]
    # The filter of the opposite direction is this one's negative.
    direction = direction + np.where(response > 0, 0, GABOR_DIRECTIONS // 2)
    strength = np.abs(response)
    values = strength.ravel()
    if values.size > GABOR_EDGES:
        values = np.where(values >= np.partition(values, -GABOR_EDGES)[-GABOR_EDGES], values, 0)
    values = np.where(values >= GABOR_MIN_RESPONSE, values, 0).astype(np.float64)
    sums = np.bincount(direction.ravel(), values, GABOR_DIRECTIONS)
    return entropy_bits(sums) if sums.sum() > 0 else np.nan


def phog_self_similarity(rgb: np.ndarray) -> float:
    """How alike the gradient directions of parts and whole are: 0 not at all, 1 the same.

    Pyramid of histograms of oriented gradients (Amirshahi et al. 2012; Braun et al. 2013, Frontiers in Psychology
    4:808), with the weighting by strength that the toolbox has: a part's histogram is compared with the
    picture's by histogram intersection, times the ratio of the weaker to the stronger mean gradient; the median over
    the parts of a level, averaged over the levels of 2 x 2, 4 x 4 and 8 x 8 parts.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        From 0 to 1; NaN for a picture without gradients or narrower than 16 px.
    """
    if min(rgb.shape[:2]) < MIN_SIDE_PX:
        return np.nan
    lab = to_lab(_at_area(rgb, PHOG_AREA_PX)) * np.array(
        [2.55, 1, 1], np.float32
    )  # 8-bit ranges, as in the toolbox
    across, down = _strongest(np.gradient(lab, axis=1)), _strongest(np.gradient(lab, axis=0))
    strength = np.hypot(across, down).astype(np.float64)
    if strength.max() < PHOG_MIN_GRADIENT:
        return np.nan
    angle = np.arctan2(down, across) / (2 * np.pi) * PHOG_BINS
    direction = np.rint(angle).astype(np.intp) % PHOG_BINS  # bins are centred on 0, 22.5, 45 ... degrees
    finest = 2**PHOG_LEVELS
    height, width = strength.shape
    row = np.digitize(np.arange(height), np.rint(np.arange(1, finest) * height / finest))
    column = np.digitize(np.arange(width), np.rint(np.arange(1, finest) * width / finest))
    cell = (row[:, None] * finest + column[None, :]) * PHOG_BINS + direction
    sums = np.bincount(cell.ravel(), strength.ravel(), finest * finest * PHOG_BINS)
    sums = sums.reshape(finest, finest, PHOG_BINS)
    whole = sums.sum(axis=(0, 1))
    levels = []
    for level in range(PHOG_LEVELS, 0, -1):
        parts = sums.reshape(-1, PHOG_BINS)
        levels.append(float(np.median(_alike(parts, whole, len(parts)))))
        half = 2 ** (level - 1)
        sums = sums.reshape(half, 2, half, 2, PHOG_BINS).sum(axis=(1, 3))
    return float(np.mean(levels))


def saliency_map(grey: np.ndarray) -> np.ndarray | None:
    """Spectral residual of Hou & Zhang (2007, CVPR): what the smooth log spectrum does not explain stands out.

    Args:
        grey: (H, W) uint8, squeezed to 64 x 64.

    Returns:
        (64, 64) float64, >= 0, larger is more salient; None for a picture of one grey level.
    """
    import cv2
    from scipy import fft, ndimage

    if grey.min() == grey.max():
        return None
    size = (SALIENCY_SIDE_PX, SALIENCY_SIDE_PX)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    if np.ptp(small) == 0:
        return None
    spectrum = fft.fft2(small)
    amplitude = np.abs(spectrum)
    logarithm = np.log(np.maximum(amplitude, SALIENCY_FLOOR))
    residual = logarithm - ndimage.uniform_filter(logarithm, 3, mode="wrap")  # a spectrum is periodic
    phase = np.where(amplitude > SALIENCY_FLOOR, spectrum / np.maximum(amplitude, SALIENCY_FLOOR), 1)
    surprise = np.abs(fft.ifft2(np.exp(residual) * phase)) ** 2
    return ndimage.gaussian_filter(surprise, SALIENCY_SIGMA_PX, mode="reflect")


def saliency_entropy(grey: np.ndarray) -> float:
    """Shannon entropy of the saliency map: low where one thing stands out, 12 bits where nothing does.

    Args:
        grey: (H, W) uint8.

    Returns:
        Bits; NaN for a picture of one grey level.
    """
    saliency = saliency_map(grey)
    return np.nan if saliency is None else entropy_bits(saliency.ravel())


def face_count(rgb: np.ndarray) -> float:
    """Number of upright frontal faces, by the local-binary-pattern cascade that ships with scikit-image.

    Found: faces of at least 24 px in the picture reduced to 320 px. Profiles, small and masked faces are missed,
    and now and then something else is taken for a face.

    Args:
        rgb: (H, W, 3) uint8.
    """
    small = np.ascontiguousarray(bounded(rgb, FACE_SIDE_PX))
    if min(small.shape[:2]) < FACE_MIN_PX:
        return 0.0
    longest = min(small.shape[:2])
    faces = _face_cascade().detect_multi_scale(
        img=small,
        scale_factor=FACE_SCALE,
        step_ratio=1,
        min_size=(FACE_MIN_PX, FACE_MIN_PX),
        max_size=(longest, longest),
    )
    return float(len(faces))


def composition_features(rgb: np.ndarray, grey: np.ndarray) -> dict[str, float]:
    """Composition features of one picture; names and units in `FEATURES`.

    Args:
        rgb: (H, W, 3) uint8.
        grey: (H, W) uint8, the same picture.
    """
    left_right, up_down = mirror_symmetry(grey)
    return {
        "fourier_slope": fourier_slope(grey),
        "fractal_dimension": fractal_dimension(grey),
        "symmetry_left_right": left_right,
        "symmetry_up_down": up_down,
        "edge_orientation_entropy": edge_orientation_entropy(grey),
        "phog_self_similarity": phog_self_similarity(rgb),
        "saliency_entropy": saliency_entropy(grey),
    }


def definition() -> dict[str, object]:
    """Every setting of this module that decides a value."""
    return {name: value for name, value in sorted(globals().items()) if name.isupper()}


def _at_area(pixels: np.ndarray, area: int) -> np.ndarray:
    """Bring a picture to a number of pixels, its proportions kept."""
    import cv2

    height, width = pixels.shape[:2]
    scale = np.sqrt(area / (height * width))
    size = (max(MIN_SIDE_PX, round(width * scale)), max(MIN_SIDE_PX, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


@cache
def _gabor_factors() -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], ...]:
    """Odd Gabor filters of half the directions, four octaves wide as in Redies et al. (2017), as factors.

    Returns:
        For each direction the Gaussian times sine and times cosine along x, and the same along y.
    """
    frequency, octaves = 2 * np.pi / GABOR_WAVELENGTH_PX, 4
    sigma = 2 * np.sqrt(np.log(2) / 2) / frequency * (2**octaves + 1) / (2**octaves - 1)
    reach = np.arange(GABOR_SIDE_PX) - GABOR_SIDE_PX // 2
    envelope = np.exp(-(reach**2) / (2 * sigma**2))

    def factors(rate: float) -> tuple[np.ndarray, np.ndarray]:
        return (
            (envelope * np.sin(rate * reach)).astype(np.float32),
            (envelope * np.cos(rate * reach)).astype(np.float32),
        )

    angles = 2 * np.pi * np.arange(GABOR_DIRECTIONS // 2) / GABOR_DIRECTIONS
    return tuple((factors(frequency * np.cos(a)), factors(frequency * np.sin(a))) for a in angles)


def _strongest(gradients: np.ndarray) -> np.ndarray:
    """The channel with the largest absolute gradient, pixel by pixel: (H, W, C) to (H, W)."""
    largest, smallest = gradients.max(axis=-1), gradients.min(axis=-1)
    return np.where(-smallest > largest, smallest, largest)


def _alike(parts: np.ndarray, whole: np.ndarray, count: int) -> np.ndarray:
    """Histogram intersection of each part with the whole, times the ratio of their mean strengths."""
    total = parts.sum(axis=1)
    shares = parts / np.where(total > 0, total, 1)[:, None]
    shared = np.minimum(shares, whole / whole.sum()).sum(axis=1)
    strength = total * count / whole.sum()  # of the part, in units of the picture's
    return shared * np.minimum(strength, 1 / np.where(strength > 0, strength, np.inf))


@cache
def _face_cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
