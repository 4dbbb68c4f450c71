"""Which rows of the latent matrix train, validate and test, once and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.core.errors import UserError
from utils.core.names import SPLITS, TEST, TRAIN, VALIDATION
from utils.data.splits import make_splits


@dataclass(frozen=True)
class Split:
    """Positions (rows of the latent matrix) of one train/val/test split.

    Attributes:
        number: 0 for the split of ``splits.csv``, then 1, 2, ...
        seed: The seed it was drawn from.
        train: (n,) positions.
        val: (m,) positions.
        test: (k,) positions.
    """

    number: int
    seed: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


def split_positions(names: pd.Series, positions: NDArray, number: int = 0, seed: int = 0) -> Split:
    """Gather the positions of each split.

    Args:
        names: ``train``, ``val`` or ``test`` per image.
        positions: The image's row in the latent matrix.
        number: The split's number.
        seed: The seed it was drawn from.

    Raises:
        UserError: If a split is too small: 2 training, 1 validation and 3 test images are the least.
    """
    found = {name: np.sort(np.asarray(positions)[names.to_numpy() == name]) for name in SPLITS}
    least = {TRAIN: 2, VALIDATION: 1, TEST: 3}
    if any(len(found[name]) < least[name] for name in least):
        have = ", ".join(f"{name} {len(found[name])}" for name in least)
        need = ", ".join(f"{name} {count}" for name, count in least.items())
        raise UserError(
            f"There are too few images with latent codes to train and test on: found {have}; needed at least {need}. "
            "Use more images (a larger --limit, or a larger set)."
        )
    return Split(number, seed, *(found[name] for name in SPLITS))


def repeated_splits(
    table: pd.DataFrame, positions: NDArray, count: int, seed: int, split_by: str | None = None
) -> list[Split]:
    """Draw further splits of the same images, as ``splits.csv`` is drawn, from the seeds after its own.

    Args:
        table: ``category, subcategory, memorability``, and ``group, source`` where known, sorted by ``image_id``.
        positions: Each image's row in the latent matrix.
        count: How many splits beyond the first.
        seed: Seed of the run; split k is drawn from ``seed + k``.
        split_by: What stays together; see `utils.data.splits.make_splits`.
    """
    free = table.assign(split="")
    return [
        split_positions(make_splits(free, seed + number, split_by), positions, number, seed + number)
        for number in range(1, count + 1)
    ]
