"""Distinctiveness by many measures at once: is it the images, or the measure, that gives a correlation its sign?

The paper's distinctiveness is one choice (Euclidean distance to the nearest other code). Here are the others that the
literature uses, every one oriented so that larger means more distinctive, across the set and within each category.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.measure_names import MEASURES, WITHIN
from utils.latents.codes import Latents
from utils.latents.mahalanobis import TooLargeError, mahalanobis_distances
from utils.latents.pairs import Kernel, PairStatistics, median_distance, pair_statistics
from utils.latents.rows import row_blocks

LOF_NEIGHBOURS = 20
DEFAULT_NEIGHBOURS = 50
_KERNELS = {
    "summed_similarity_unit": (1, "unit"),
    "summed_similarity_median": (1, "median"),
    "density_median": (2, "median"),
    "density_half_median": (2, "half"),
}
_NEIGHBOUR_MEASURES = ("nearest_euclidean", "mean_k_euclidean", "local_outlier_factor")
_COSINE = ("nearest_cosine", "mean_k_cosine")


@dataclass(frozen=True)
class MeasureSettings:
    """How to measure.

    Attributes:
        measures: Names in :data:`utils.core.measure_names.MEASURES`.
        neighbours: K of the mean over K neighbours; None for 50, or all others in a smaller set.
        device: A torch device that has float64.
        memory_bytes: Working memory besides the mapped matrix.
    """

    measures: tuple[str, ...] = tuple(MEASURES)
    neighbours: int | None = None
    device: str = "cpu"
    memory_bytes: int = 384 * 2**20


@dataclass
class Measured:
    """Measures of every image and what was chosen to make them.

    Attributes:
        values: (N,) float64 per column: each measure, and each with ``_within_category``; NaN where undefined.
        settings: For each column what its number depends on (K, scale, bandwidth, shrinkage), as text.
    """

    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


def measure(
    latents: Latents,
    settings: MeasureSettings,
    categories: Sequence[str] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Measured:
    """Measure every image's distinctiveness across the set and, where there are categories, within its own.

    Args:
        latents: The codes.
        settings: Which measures, and how.
        categories: Category of each image, empty text for none; None leaves the within-category measures out.
        progress: Called with shares of the work that add up to 1.

    Returns:
        The measures.

    Raises:
        UserError: Codes that are not finite, K that is too large, a set of one image.
    """
    _check(latents, settings)
    count = len(latents.matrix)
    groups: dict[str, NDArray] = {}
    if categories is not None:
        labels = np.asarray(categories, dtype=str)
        groups = {str(name): np.flatnonzero(labels == name) for name in np.unique(labels[labels != ""])}
        if groups and max(map(len, groups.values())) < 2:
            raise UserError(
                f"Every category has one image with a code in {latents.path}, so nothing is distinctive within its "
                "category. Give several images the same category in the score table, or leave the categories out."
            )
    work = [float(count) ** 2, *(float(len(members)) ** 2 for members in groups.values())]
    k = settings.neighbours or min(DEFAULT_NEIGHBOURS, count - 1)
    whole, said = measure_group(
        latents.matrix, np.arange(count), settings, k, lambda share: progress(share * work[0] / sum(work))
    )
    result = Measured(dict(whole), dict(said))
    if not groups:
        return result
    for name in whole:
        result.values[name + WITHIN] = np.full(count, np.nan)
        result.settings[name + WITHIN] = f"K = {k}" if name.startswith("mean_k") else "each category its own"
    for part, members in zip(work[1:], groups.values(), strict=True):
        own, _ = measure_group(
            latents.matrix,
            members,
            settings,
            k,
            partial(_share, progress, part / sum(work)),
        )
        for name, values in own.items():
            result.values[name + WITHIN][members] = values
    _warn_empty(result, {name: len(members) for name, members in groups.items()}, k)
    return result


def _share(progress: Callable[[float], None], part: float, share: float) -> None:
    """Report a share of a part of the work."""
    progress(part * share)


def _check(latents: Latents, settings: MeasureSettings) -> None:
    """Refuse what cannot be measured."""
    count = len(latents.matrix)
    if count < 2:
        raise UserError(
            f"{latents.path} holds the code of one image, and distinctiveness is the distance to others. "
            "Calculate the latent codes of at least two images (raise --limit)."
        )
    if settings.neighbours is not None and settings.neighbours >= count:
        raise UserError(
            f"--measure-neighbours {settings.neighbours} asks for more other images than there are: {latents.path} holds "
            f"{count}. Use at most --measure-neighbours {count - 1}."
        )
    bad = [row for rows, block in row_blocks(latents.matrix) for row in rows[~np.isfinite(block).all(1)]]
    if bad:
        shown = ", ".join(latents.image_ids[row] for row in bad[:5])
        raise UserError(
            f"{latents.path}: expected finite latent codes, found NaN or infinity in {len(bad)} of {count} rows "
            f"({shown}{', ...' if len(bad) > 5 else ''}). Write them again."
        )


def _warn_empty(result: Measured, sizes: dict[str, int], k: int) -> None:
    """Say which categories are too small for which within-category measures."""
    small = [name for name, size in sizes.items() if size <= max(k, LOF_NEIGHBOURS)]
    empty = [
        name for name, values in result.values.items() if name.endswith(WITHIN) and np.isnan(values).any()
    ]
    if small and empty:
        log.warning(
            "Categories with too few images for some measures within them (K = %d, local outlier factor of %d): %s; %s "
            "stay empty there.",
            k,
            LOF_NEIGHBOURS,
            ", ".join(f"{name} ({sizes[name]})" for name in small[:5]) + (", ..." if len(small) > 5 else ""),
            ", ".join(empty),
        )


def measure_group(
    matrix: NDArray,
    members: NDArray,
    settings: MeasureSettings,
    k: int,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Measure rows among themselves.

    Args:
        matrix: (N, D) finite codes.
        members: (n,) row numbers, ascending.
        settings: Which measures, and how.
        k: K of the mean over neighbours.
        progress: Called with shares of the work.

    Returns:
        (n,) values of each measure, NaN where n is too small, and what each depends on.
    """
    count = len(members)
    values = {name: np.full(count, np.nan) for name in settings.measures}
    said = dict.fromkeys(settings.measures, "")
    if count < 2:
        progress(1.0)
        return values, said
    if needs := [n for n in settings.measures if n in (*_NEIGHBOUR_MEASURES, *_COSINE, *_KERNELS)]:
        scales = _scales(matrix, members, needs)
        kernels = {
            name: Kernel(_KERNELS[name][0], scales[_KERNELS[name][1]]) for name in needs if name in _KERNELS
        }
        kernels = {name: kernel for name, kernel in kernels.items() if kernel.scale > 0}
        pairs = pair_statistics(
            matrix,
            members,
            _most_neighbours(needs, k, count),
            list(kernels.values()),
            cosine=any(name in _COSINE for name in needs),
            device=settings.device,
            memory_bytes=settings.memory_bytes,
            progress=progress,
        )
        values |= {name: made for name, made in _from_pairs(pairs, k).items() if name in values}
        for (name, kernel), total in zip(kernels.items(), pairs.log_sums, strict=True):
            values[name] = -total if kernel.power == 1 else np.log(count - 1) - total
            said[name] = f"{'c = 1 /' if kernel.power == 1 else 'h ='} {kernel.scale:.6g}"
        said |= {name: f"K = {k}" for name in said if name.startswith("mean_k")}
    else:
        progress(1.0)
    _add_single_passes(matrix, members, settings, values, said)
    return values, said


def _most_neighbours(needs: Sequence[str], k: int, count: int) -> int:
    """Return how many nearest others have to be known."""
    most = max(k if any(name.startswith("mean_k") for name in needs) else 1, 1)
    most = max(most, LOF_NEIGHBOURS if "local_outlier_factor" in needs else 1)
    return min(most, count - 1)


def _scales(matrix: NDArray, members: NDArray, needs: Sequence[str]) -> dict[str, float]:
    """Return the scales of the kernels that are needed."""
    scales = {"unit": 1.0}
    if any(_KERNELS[name][1] != "unit" for name in needs if name in _KERNELS):
        scales["median"] = median_distance(matrix, members)
        scales["half"] = scales["median"] / 2
    return scales


def _from_pairs(found: PairStatistics, k: int) -> dict[str, NDArray[np.float64]]:
    """Make the measures that rest on the nearest others."""
    neighbours = found.euclidean.shape[1]
    empty = np.full(len(found.euclidean), np.nan)
    enough = neighbours >= k
    return {
        "nearest_euclidean": found.euclidean[:, 0],
        "mean_k_euclidean": found.euclidean[:, :k].mean(1) if enough else empty,
        "nearest_cosine": found.cosine[:, 0],
        "mean_k_cosine": found.cosine[:, :k].mean(1) if enough else empty,
        "local_outlier_factor": local_outlier_factor(found) if neighbours >= LOF_NEIGHBOURS else empty,
    }


def local_outlier_factor(found: PairStatistics, k: int = LOF_NEIGHBOURS) -> NDArray[np.float64]:
    """Return Breunig, Kriegel, Ng & Sander's (2000) local outlier factor; equal to scikit-learn's, sign apart.

    Args:
        found: At least K neighbours of each row.
        k: K.

    Returns:
        (n,) mean density of the neighbours over the row's own; 1 inside a cluster, larger outside.
    """
    distances, index = found.euclidean[:, :k], found.neighbours[:, :k]
    reach = np.maximum(distances, distances[index, k - 1])
    density = 1 / (reach.mean(1) + 1e-10)  # scikit-learn's guard for duplicates
    return density[index].mean(1) / density


def _add_single_passes(
    matrix: NDArray,
    members: NDArray,
    settings: MeasureSettings,
    values: dict[str, NDArray[np.float64]],
    said: dict[str, str],
) -> None:
    """Fill in the measures that need no pairs: centroid, dot product, Mahalanobis."""
    count = len(members)
    if {"centroid", "negative_dot_product"} & values.keys():
        total = sum(block.sum(0, dtype=np.float64) for _, block in row_blocks(matrix, members))
        parts = [
            (np.sqrt(np.square(wide - total / count).sum(1)), np.square(wide).sum(1) - wide @ total)
            for wide in (block.astype(np.float64) for _, block in row_blocks(matrix, members))
        ]
        made = {
            "centroid": np.concatenate([part[0] for part in parts]),
            "negative_dot_product": np.concatenate([part[1] for part in parts]) / (count - 1),
        }
        values |= {name: made[name] for name in made if name in values}
    if "mahalanobis" in values:
        try:
            mahalanobis = mahalanobis_distances(matrix, members, settings.memory_bytes)
            values["mahalanobis"], said["mahalanobis"] = (
                mahalanobis.distances,
                f"shrinkage {mahalanobis.shrinkage:.6g}",
            )
        except TooLargeError as error:
            log.warning(
                "mahalanobis stays empty: the covariance of %d codes of %d values needs --memory-mb %d, or codes that are "
                "pooled (--pool).",
                count,
                matrix.shape[1],
                -(-error.bytes_needed // 2**20),
            )


def measures_table(latents: Latents, measured: Measured, about: pd.DataFrame) -> pd.DataFrame:
    """Make ``distinctiveness_measures_<model>.csv``.

    Args:
        latents: The codes.
        measured: Their measures.
        about: ``image_id, category, memorability``, one row per image, any order.
    """
    frame = pd.DataFrame({"image_id": latents.image_ids})
    frame = frame.merge(about[["image_id", "category", "memorability"]], on="image_id", validate="one_to_one")
    return frame.assign(**measured.values)
