"""Noise ceiling: how well scores made of responses correlate with themselves.

From the response counts alone, or from split halves where those were published in place of counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from utils.core.log import log
from utils.core.names import HALF_PATTERN
from utils.statistics.bootstrap import rank_correlation
from utils.statistics.rank_correlation import spearman
from utils.statistics.resampling import Resampler, correlate_pairs_resampled

CORRECTED_SCORE = "memorability_w_fa_correction"
HIT_RATE = "memorability_wo_fa_correction"
COUNT_COLUMNS = ("hits", "false_alarms", "n_resp")
INTERVAL_SPLITS = 10  # splits behind the interval of a ceiling: more of them hardly move it
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
    return {**_stepped_up(rhos), "splits": splits, "seed": seed}


def ceiling_from_halves(first: np.ndarray, second: np.ndarray) -> dict[str, float | int]:
    """Return how well scores correlate with themselves, from published halves of the responses.

    The same arithmetic as `noise_ceiling`, on splits that somebody else drew.

    Args:
        first: (n, splits) scores from one half of the responses, a column per split.
        second: (n, splits) scores from the other half.

    Returns:
        `half_rho, reliability, ceiling, splits` as `noise_ceiling`; nothing is drawn, hence no seed.

    Raises:
        ValueError: shapes that differ, or no split.
    """
    first, second = (np.asarray(half, dtype=np.float64) for half in (first, second))
    if first.shape != second.shape or first.ndim != 2 or not first.shape[1]:
        raise ValueError(
            f"expected two (n, splits) arrays of halves with a split at least, got {first.shape} and {second.shape}"
        )
    rhos = [spearman(*halves)[0] for halves in zip(first.T, second.T, strict=True)]
    return {**_stepped_up(rhos), "splits": len(rhos)}


def _stepped_up(rhos: Sequence[float]) -> dict[str, float]:
    """Average the rhos of halves and step them up to full length by Spearman-Brown."""
    half_rho = float(np.mean(rhos))
    positive = half_rho > 0  # False for NaN too
    reliability = 2 * half_rho / (1 + half_rho) if positive else float("nan")
    return {"half_rho": half_rho, "reliability": reliability, "ceiling": float(np.sqrt(reliability))}


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
) -> dict[str, Any] | None:
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


def halves_behind(frame: pd.DataFrame, target: str = "memorability") -> tuple[np.ndarray, np.ndarray] | None:
    """Return the published split halves that explain a score column.

    Args:
        frame: table of images with the score and, where known, a pair of columns per split
            (`utils.core.names.half_columns`).
        target: the score column.

    Returns:
        (n, splits) scores of the first and of the second halves; None where there are none, one is unknown, or
        the score is not their mean (then they say nothing about its noise).
    """
    halves: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for name in frame.columns:
        match = re.fullmatch(HALF_PATTERN, str(name))
        if match:
            halves[int(match[1]) - 1][int(match[2])] = name
    splits = sorted(halves[0].keys() & halves[1].keys())
    first, second = (frame[[half[k] for k in splits]].to_numpy(np.float64) for half in halves)
    mean = (first + second).mean(axis=1) / 2 if splits else np.empty(0)
    explained = splits and np.allclose(mean, frame[target], rtol=0, atol=SCORE_TOLERANCE)
    return (first, second) if explained else None


def one_split(
    frame: pd.DataFrame, target: str = "memorability", seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scores of two halves of the responses, to look at: a random split of the counts, or the first published.

    Args:
        frame: as for `score_reliability`.
        target: the score column.
        seed: seed of the random split.
    """
    counts = counts_behind(frame, target)
    if counts is not None:
        return split_halves(**counts, seed=seed)
    halves = halves_behind(frame, target)
    return None if halves is None else (halves[0][:, 0], halves[1][:, 0])


def reliability_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that tell how noisy a score is: response counts and published halves, where there are any."""
    return [name for name in frame if name in COUNT_COLUMNS or re.fullmatch(HALF_PATTERN, str(name))]


def score_reliability(
    frame: pd.DataFrame,
    target: str = "memorability",
    counts: Sequence[str] = COUNT_COLUMNS,
    splits: int = 50,
    seed: int = 0,
) -> dict[str, float | int] | None:
    """Return how well a score column correlates with itself, from the counts beside it or else from published halves.

    Args:
        frame: table of images with the score and, where known, the counts or the halves.
        target: the score column.
        counts: names of the columns with hits, false alarms and responses.
        splits: number of random splits of the counts; published halves are taken as they are.
        seed: seed of the splits.

    Returns:
        As `noise_ceiling` or `ceiling_from_halves`; None where neither counts nor halves explain the score.
    """
    behind = counts_behind(frame, target, counts)
    if behind is not None:
        return noise_ceiling(**behind, splits=splits, seed=seed)
    halves = halves_behind(frame, target)
    return None if halves is None else ceiling_from_halves(*halves)


def score_ceiling(
    frame: pd.DataFrame,
    target: str = "memorability",
    counts: Sequence[str] = COUNT_COLUMNS,
    splits: int = 50,
    seed: int = 0,
) -> float:
    """Return the noise ceiling of a score column; see `score_reliability` for the arguments.

    Returns:
        Ceiling in (0, 1]; NaN where neither counts nor halves explain the score.
    """
    reliability = score_reliability(frame, target, counts, splits, seed)
    return float("nan") if reliability is None else float(reliability["ceiling"])


def resampled_ceiling(
    frame: pd.DataFrame,
    target: str,
    resampler: Resampler,
    *,
    strata: np.ndarray | None = None,
    counts: Sequence[str] = COUNT_COLUMNS,
    splits: int = 50,
    seed: int = 0,
) -> tuple[float, np.ndarray] | None:
    """Return the noise ceiling of a score column, and what it becomes in each resample of the images.

    In a resample the halves of 10 splits are correlated anew; their mean is shifted by what it lacks on the data itself
    to the mean over all splits, and stepped up as usual. From the same resampler as a rho, the ceilings are paired with
    its resamples, so that the interval of rho over ceiling follows.

    Args:
        frame: one row per image of the resampler, as for `score_reliability`.
        target: the score column.
        resampler: how the images are resampled.
        strata: (n,) codes 0..g-1 of groups held constant; the halves are then ranked inside them, which gives the
            ceiling of a within-group rho.
        counts: names of the columns with hits, false alarms and responses.
        splits: number of random splits of the counts; published halves are taken as they are.
        seed: seed of the splits.

    Returns:
        Ceiling in (0, 1], NaN where the halves do not correlate positively, and (resamples,) ceilings; None where
        neither counts nor halves explain the score.
    """
    half_scores = _halves(frame, target, counts, splits, seed)
    if half_scores is None:
        return None
    first, second, usable = half_scores
    inside = None if strata is None else np.unique(strata[usable], return_inverse=True)[1]
    pairs = list(zip(first.T, second.T, strict=True))
    rhos, drawn = correlate_pairs_resampled(pairs[:INTERVAL_SPLITS], resampler, inside, usable)
    part = float(rhos.mean())
    others = [rank_correlation(*halves, inside) for halves in pairs[INTERVAL_SPLITS:]]
    whole = float(np.mean([*rhos, *others]))
    return (
        float(_root_of_reliability(np.array(whole))),
        _root_of_reliability(drawn.mean(axis=1) + whole - part),
    )


def _halves(
    frame: pd.DataFrame, target: str, counts: Sequence[str], splits: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return (m, splits) scores of both halves and the (n,) mask of the m images that can be split."""
    known = counts_behind(frame, target, counts)
    if known is None:
        published = halves_behind(frame, target)
        return None if published is None else (*published, np.ones(len(frame), dtype=bool))
    kinds, responses = _check_counts(known["hits"], known["false_alarms"], known["n_resp"], known["column"])
    rng = np.random.default_rng(seed)
    drawn = np.stack([_split(kinds, responses, rng) for _ in range(splits)], axis=-1)
    return drawn[0], drawn[1], known["n_resp"] >= 2


def _root_of_reliability(half_rho: np.ndarray) -> np.ndarray:
    """Return the ceiling that follows from the rho of halves; NaN where it is not positive."""
    positive = np.where(half_rho > 0, half_rho, np.nan)
    return np.sqrt(2 * positive / (1 + positive))


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
