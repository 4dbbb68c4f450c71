"""Do measures predict what other people remember as well? Two groups' scores of the same images, on the same resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.statistics.clusters import find_clusters
from utils.statistics.noise_ceiling import score_reliability
from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

BETWEEN = "(between groups)"


@dataclass(frozen=True)
class Group:
    """One group of people.

    Attributes:
        score: Column with its scores.
        counts: Columns with its hits, false alarms and responses; empty where unknown.
    """

    score: str
    counts: tuple[str, ...] = ()

    def reliability(self, frame: pd.DataFrame, splits: int, seed: int) -> float:
        """Return how well its scores correlate with themselves (split halves, Spearman-Brown).

        NaN without counts, or with counts that do not make the scores.
        """
        found = score_reliability(frame, self.score, self.counts, splits, seed) if self.counts else None
        return float("nan") if found is None else float(found["reliability"])


def compare_groups(
    frame: pd.DataFrame,
    measures: Sequence[str],
    first: Group,
    second: Group,
    *,
    cluster: str | None = None,
    resamples: int = 1000,
    splits: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate two groups' scores with each other, and every measure with both.

    A correlation is disattenuated by dividing it by the root of the reliability of each human score in it (Spearman
    1904); the reliabilities are taken as known, so the intervals do not hold their own uncertainty.

    Args:
        frame: A row per image, with both groups' scores.
        measures: Columns to correlate.
        first: One group.
        second: The other.
        cluster: What is resampled as a whole; see :func:`utils.statistics.clusters.find_clusters`.
        resamples: Bootstrap resamples; both correlations of a measure come from the same ones.
        splits: Random halves behind each reliability.
        seed: Seed of resamples and halves.

    Returns:
        A row for the groups with each other (measure ``(between groups)``: ``rho_first`` is their correlation), then one
        per measure: ``rho_first, rho_second`` with intervals, ``difference`` (first - second) with interval and p, the
        reliabilities, and the same disattenuated.
    """
    frame = frame.dropna(subset=[first.score, second.score])
    clustering = find_clusters(frame, cluster)
    resampler = clustering.resampler(frame, resamples, seed)
    reliabilities = np.array([group.reliability(frame, splits, seed) for group in (first, second)])
    scores = frame[[first.score, second.score]].to_numpy(float)
    rows = [_between(scores, resampler, reliabilities)]
    for name in measures:
        known = frame[name].notna().to_numpy()
        own = resampler if known.all() else clustering.resampler(frame[known], resamples, seed)
        rows.append(_measure(name, scores[known], frame.loc[known, name].to_numpy(float), own, reliabilities))
    table = pd.DataFrame(rows)
    return table.assign(
        reliability_first=reliabilities[0],
        reliability_second=reliabilities[1],
        cluster=clustering.unit,
        resamples=resamples,
        seed=seed,
    )


def _between(scores: NDArray, resampler: Resampler, reliabilities: NDArray) -> dict[str, object]:
    """Correlate the groups with each other."""
    rho, samples = correlate_resampled(scores[:, :1], scores[:, 1:], resampler)
    low, high = resampler.interval(rho[0, 0], samples[:, 0, 0], FISHER)
    noise = float(np.sqrt(reliabilities.prod()))
    return {
        "measure": BETWEEN,
        "n": len(scores),
        "clusters": resampler.units,
        **_cells("first", float(rho[0, 0]), float(low), float(high), noise),
    }


def _measure(
    name: str, scores: NDArray, values: NDArray, resampler: Resampler, reliabilities: NDArray
) -> dict[str, object]:
    """Correlate one measure with both groups."""
    rho, samples = correlate_resampled(scores, values[:, None], resampler)
    rho, samples, roots = rho[:, 0], samples[:, :, 0], np.sqrt(reliabilities)
    row: dict[str, object] = {"measure": name, "n": len(scores), "clusters": resampler.units}
    for place, side in enumerate(("first", "second")):
        low, high = resampler.interval(rho[place], samples[:, place], FISHER)
        row |= _cells(side, float(rho[place]), float(low), float(high), float(roots[place]))
    for suffix, scale in (("", np.ones(2)), ("_disattenuated", roots)):
        gap, gaps = float(-np.diff(rho / scale)[0]), -np.diff(samples / scale, axis=1)[:, 0]
        low, high = resampler.interval(gap, gaps)
        row |= {f"difference{suffix}": gap, f"ci_low{suffix}": float(low), f"ci_high{suffix}": float(high)}
        row[f"p{suffix}"] = float(resampler.p_of_zero(gap, gaps))
    return row


def _cells(side: str, rho: float, low: float, high: float, noise: float) -> dict[str, object]:
    return {
        f"rho_{side}": rho,
        f"ci_low_{side}": low,
        f"ci_high_{side}": high,
        f"rho_{side}_disattenuated": rho / noise,
    }
