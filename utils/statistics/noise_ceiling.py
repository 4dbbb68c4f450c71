"""Noise ceiling: how well scores made of responses correlate with themselves, from the counts alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from utils.statistics.rank_correlation import spearman

log = logging.getLogger("memorability")

CORRECTED_SCORE = "memorability_w_fa_correction"
HIT_RATE = "memorability_wo_fa_correction"
COUNT_COLUMNS = ("hits", "false_alarms", "n_resp")
SCORE_TOLERANCE = 0.00501  # scores may be printed with two decimals; a larger gap means another formula


def noise_ceiling(
    hits: np.ndarray,
    false_alarms: np.ndarray | None,
    n_resp: np.ndarray,
    column: str = CORRECTED_SCORE,
    splits: int = 50,
    seed: int = 0,
) -> dict[str, float | int]:
    """Return how well the scores correlate with themselves, and so how well anything can correlate with them.

    Each image's responses are split at random into two halves (hypergeometric draws of its hits and of its
    false alarms; of an odd number either half gets the spare one, by chance, and each half is divided by its
    own size), the halves' scores are correlated, rho is averaged over the splits and stepped up to full
    length by Spearman-Brown. The ceiling of a model's rho is the root of that reliability. The MemCat
    article (Goetschalckx & Wagemans, 2019) reports 0.78 for hit rates.

    Args:
        hits: (n,) whole numbers, 0..n_resp.
        false_alarms: (n,) whole numbers, 0..n_resp; may be None for hit rates.
        n_resp: (n,) whole numbers; images with fewer than two responses cannot be split and are left out.
        column: `memorability_w_fa_correction` for (hits - false alarms) / responses,
            `memorability_wo_fa_correction` for hits / responses.
        splits: number of random splits, at least 1.
        seed: seed of the splits.

    Returns:
        `half_rho` (mean rho of the halves), `reliability` (Spearman-Brown corrected), `ceiling` (its root),
        `splits`, `seed`. Reliability and ceiling are NaN where the halves do not correlate positively,
        all three where the scores of a half are constant.

    Raises:
        ValueError: counts that are not whole, negative, larger than the responses; an unknown column.
    """
    kinds, responses = _check_counts(hits, false_alarms, n_resp, column)
    rng = np.random.default_rng(seed)
    rhos = [spearman(*_split(kinds, responses, rng))[0] for _ in range(splits)]
    half_rho = float(np.mean(rhos))
    positive = half_rho > 0  # False for NaN too
    reliability = 2 * half_rho / (1 + half_rho) if positive else float("nan")
    return {
        "half_rho": half_rho,
        "reliability": reliability,
        "ceiling": float(np.sqrt(reliability)),
        "splits": splits,
        "seed": seed,
    }


def split_halves(
    hits: np.ndarray,
    false_alarms: np.ndarray | None,
    n_resp: np.ndarray,
    column: str = CORRECTED_SCORE,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of two random halves of every image's responses, split as for `noise_ceiling`.

    Args:
        hits: (n,) whole numbers, 0..n_resp.
        false_alarms: (n,) whole numbers, 0..n_resp; may be None for hit rates.
        n_resp: (n,) whole numbers; images with fewer than two responses are left out.
        column: which score; see `noise_ceiling`.
        seed: seed of the split.

    Returns:
        Two vectors of scores, in [-1, 1].

    Raises:
        ValueError: as `noise_ceiling`.
    """
    kinds, responses = _check_counts(hits, false_alarms, n_resp, column)
    return _split(kinds, responses, np.random.default_rng(seed))


def counts_behind(
    frame: pd.DataFrame, target: str = "memorability", counts: Sequence[str] = COUNT_COLUMNS
) -> dict[str, np.ndarray | str | None] | None:
    """Return the response counts that explain a score column, as arguments of `noise_ceiling`.

    Args:
        frame: table of images with the score and, where known, the counts.
        target: the score column.
        counts: names of the columns with hits, false alarms and responses.

    Returns:
        `hits, false_alarms, n_resp, column`; None where counts are missing or the score is neither
        hits / responses nor (hits - false alarms) / responses (then the counts say nothing about its noise).
    """
    hits_name, false_name, n_name = counts
    if not {hits_name, n_name} <= set(frame.columns) or frame[[hits_name, n_name]].isna().any(axis=None):
        return None
    hits, responses, score = (frame[name].to_numpy(np.float64) for name in (hits_name, n_name, target))
    if (responses < 2).all():
        return None
    responses = np.maximum(responses, 1)  # no response, no hit: the score of such an image is 0
    formulas = {HIT_RATE: hits / responses}
    alarms = None
    if false_name in frame.columns and not frame[false_name].isna().any():
        alarms = frame[false_name].to_numpy(np.float64)
        formulas = {CORRECTED_SCORE: (hits - alarms) / responses, **formulas}
    for column, expected in formulas.items():
        if np.allclose(expected, score, rtol=0, atol=SCORE_TOLERANCE):
            return {"hits": hits, "false_alarms": alarms, "n_resp": responses, "column": column}
    return None


def score_ceiling(
    frame: pd.DataFrame,
    target: str = "memorability",
    counts: Sequence[str] = COUNT_COLUMNS,
    splits: int = 50,
    seed: int = 0,
) -> float:
    """Return the noise ceiling of a score column from the counts beside it.

    Args:
        frame: table of images with the score and, where known, the counts.
        target: the score column.
        counts: names of the columns with hits, false alarms and responses.
        splits: number of random splits.
        seed: seed of the splits.

    Returns:
        Ceiling in (0, 1]; NaN where `counts_behind` finds no counts that explain the score.
    """
    found = counts_behind(frame, target, counts)
    return (
        float("nan") if found is None else float(noise_ceiling(**found, splits=splits, seed=seed)["ceiling"])
    )


def _check_counts(
    hits: np.ndarray, false_alarms: np.ndarray | None, n_resp: np.ndarray, column: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return what the score counts (hits, and false alarms where they are taken off) and the responses."""
    if column not in (CORRECTED_SCORE, HIT_RATE):
        raise ValueError(f"expected column {CORRECTED_SCORE} or {HIT_RATE}, got '{column}'")
    responses = _whole(n_resp, "n_resp")
    kinds = [_whole(hits, "hits", responses)]
    if column == CORRECTED_SCORE:
        if false_alarms is None:
            raise ValueError(f"{column} needs false_alarms; for hit rates pass column='{HIT_RATE}'")
        kinds.append(_whole(false_alarms, "false_alarms", responses))
    enough = responses >= 2
    if not enough.any():
        raise ValueError("expected images with at least two responses, found none")
    if not enough.all():
        log.warning(
            "%d images with fewer than two responses are left out of the noise ceiling", (~enough).sum()
        )
    return [kind[enough] for kind in kinds], responses[enough]


def _whole(values: np.ndarray, name: str, most: np.ndarray | None = None) -> np.ndarray:
    """Return counts as integers, refusing anything that is not a count."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.round(values)).any():
        raise ValueError(f"expected whole numbers of at least 0 in {name}")
    if most is not None and (len(values) != len(most) or (values > most).any()):
        raise ValueError(f"expected one value of {name} per image, at most its n_resp")
    return values.astype(np.int64)


def _split(
    kinds: list[np.ndarray], responses: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (first kind minus the second) of two random halves of the responses."""
    first = responses // 2 + (responses % 2) * rng.integers(0, 2, size=len(responses))
    scores = np.zeros((2, len(responses)))
    for sign, count in zip((1, -1), kinds, strict=False):
        part = rng.hypergeometric(count, responses - count, first)
        scores += sign * np.stack([part, count - part])
    return scores[0] / first, scores[1] / (responses - first)
