"""Whether maps agree when the baseline changes: what is said of an image must not hang on what counts as absent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from utils.attribution.checks import map_agreement

AGREEMENT_COLUMNS = ["image_id", "baseline", "other_baseline", "rho", "rho_absolute"]
MEANT_THE_SAME = 0.5
"""Below this median rho two baselines explain different things: they share less than a quarter of their rank variance."""


class MapRows(Protocol):
    """Whatever gives the map of a row: an array, a memory map, or rows read in another order."""

    def __getitem__(self, position: int, /) -> np.ndarray:
        """Return (H, W)."""
        ...


def agreement_table(maps: Mapping[str, MapRows], image_ids: Sequence[str]) -> pd.DataFrame:
    """Compare the maps that different baselines give the same images.

    Args:
        maps: Per baseline (N, H, W), row i belonging to name i; read one at a time, so they may be memory maps.
        image_ids: N names.

    Returns:
        Rows of ``ig_baselines_<model>.csv``: a row per image and pair of baselines with Spearman's rho over pixels, of the
        signed and of the absolute values; NaN where a map is constant.
    """
    rows = []
    for position, image_id in enumerate(image_ids):
        for first, second in itertools.combinations(maps, 2):
            pair = [np.asarray(maps[name][position], dtype=np.float32) for name in (first, second)]
            rows.append([image_id, first, second, *map_agreement(*pair)])
    return pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)


def summarise_agreement(table: pd.DataFrame) -> list[tuple[bool, str]]:
    """Say per pair of baselines how far their maps agree.

    Args:
        table: By `agreement_table`.

    Returns:
        (agree, sentence) per pair: whether the median signed rho is at least :data:`MEANT_THE_SAME`.
    """
    lines = []
    for (first, second), part in table.groupby(["baseline", "other_baseline"], sort=False):
        median, absolute = part["rho"].median(), part["rho_absolute"].median()
        agree = bool(median >= MEANT_THE_SAME)
        verdict = "agree" if agree else "DO NOT AGREE"
        lines.append(
            (
                agree,
                f"Baselines {first} and {second}: the maps {verdict}: median rho {median:.2f} (absolute values "
                f"{absolute:.2f}) over {len(part)} images.",
            )
        )
    return lines
