"""What is resampled, images or whole clusters of them, and the interval and p that follow.

Images of one subcategory are alike, so that a few thousand of them say no more than a few dozen independent ones. A
`Resampler` draws whole clusters then (a pairs cluster bootstrap; Davison & Hinkley 1997, section 3.8; Cameron, Gelbach
& Miller 2008), as counts per image, so that everything in `utils/statistics/bootstrap.py` serves unchanged. With
fewer than 50 clusters the percentile interval is too narrow (it covers 0.92 at 27, 0.88 to 0.92 at 5, where 0.95 is
meant); clusters are then left out one by one instead, and the interval comes from Student's t with clusters - 1
degrees of freedom (the jackknife; MacKinnon, Nielsen & Webb 2023, their CV3), on Fisher's z for correlations.
`benchmarks/coverage.py` measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from utils.statistics.bootstrap import (
    BLOCK_VALUES,
    make_ranking,
    percentile_interval,
    rank_correlations,
    resample_counts,
)

FEW_CLUSTERS = 50  # below it clusters are left out one by one rather than drawn
MIN_CLUSTERS = 3  # two clusters say nothing about a third
LARGEST_RHO = 1 - 1e-9  # beyond it Fisher's z has no end
BOOTSTRAP, JACKKNIFE, NOTHING = "bootstrap", "jackknife", "nothing"

Statistic = Callable[[np.ndarray], np.ndarray]  # (b, n) counts to (b, ...) values


@dataclass(frozen=True)
class Resampler:
    """How the images of one table are resampled.

    Attributes:
        n: number of images.
        resamples: bootstrap resamples, 0 for none.
        seed: seed of the drawing; the global random state is left alone.
        clusters: (n,) codes 0..G-1, all in use, of the cluster each image belongs to; None for images that are
            resampled one by one.
        within: (G,) stratum of each cluster; clusters are then drawn inside their strata, which takes the strata
            (five categories, say) as given. Only with clusters.
    """

    n: int
    resamples: int = 1000
    seed: int = 0
    clusters: np.ndarray | None = None
    within: np.ndarray | None = None

    @property
    def units(self) -> int:
        """How many things are resampled: clusters, or images."""
        return self.n if self.clusters is None else int(self.clusters.max(initial=-1)) + 1

    @property
    def scheme(self) -> str:
        """``bootstrap``, ``jackknife`` (few clusters), or ``nothing`` (too few to say anything)."""
        if self.clusters is None or self.units >= FEW_CLUSTERS:
            return BOOTSTRAP
        return JACKKNIFE if self.units >= MIN_CLUSTERS else NOTHING

    def counts(self, columns: int = 1) -> Iterator[np.ndarray]:
        """Yield how often each image counts in each resample.

        Args:
            columns: how many (block, n) arrays the caller holds at once; bounds the block.

        Yields:
            (b, n) float64 counts: `resamples` bootstrap draws in all, or one row per cluster without it.
        """
        if self.resamples == 0 or self.scheme == NOTHING:
            return
        if self.clusters is None:
            yield from resample_counts(self.n, self.resamples, self.seed, columns)
            return
        for block in self._cluster_counts(max(1, BLOCK_VALUES // (self.n * max(1, columns)))):
            yield np.take(block, self.clusters, axis=1)

    def _cluster_counts(self, block: int) -> Iterator[np.ndarray]:
        """Yield (b, G) counts of the clusters."""
        if self.scheme == JACKKNIFE:
            for first in range(0, self.units, block):
                left_out = np.arange(first, min(first + block, self.units))
                counts = np.ones((len(left_out), self.units))
                counts[np.arange(len(left_out)), left_out] = 0
                yield counts
            return
        strata = np.zeros(self.units, dtype=np.int64) if self.within is None else self.within
        members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
        rng = np.random.default_rng(self.seed)
        for first in range(0, self.resamples, block):
            rows = []
            for _ in range(min(block, self.resamples - first)):
                drawn = [inside[rng.integers(0, len(inside), size=len(inside))] for inside in members]
                rows.append(np.bincount(np.concatenate(drawn), minlength=self.units))
            yield np.asarray(rows, dtype=np.float64)

    def evaluate(self, statistic: Statistic, columns: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return a statistic of the data and of every resample.

        Args:
            statistic: maps (b, n) counts to (b, ...) values, NaN where it does not exist.
            columns: how many (b, n) arrays it holds at once.

        Returns:
            (...) estimate and (resamples, ...) values (for the jackknife one per cluster).
        """
        estimate = statistic(np.ones((1, self.n)))
        samples = [statistic(counts) for counts in self.counts(columns)]
        return estimate[0], np.concatenate([np.empty((0, *estimate.shape[1:])), *samples])

    def interval(
        self, estimate: np.ndarray | float, samples: np.ndarray, *, correlation: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the 95 % interval of a statistic.

        Args:
            estimate: (...) the statistic of the data.
            samples: (resamples, ...) as `evaluate` returns them.
            correlation: whether it lies in [-1, 1]; the jackknife then works on Fisher's z.

        Returns:
            Lower and upper ends; NaN where the statistic or its interval does not exist.
        """
        estimate = np.asarray(estimate, dtype=np.float64)
        if self.scheme == BOOTSTRAP or len(samples) == 0:
            low, high = percentile_interval(samples)
        else:
            centre = _fisher(estimate) if correlation else estimate
            reach = stats.t.ppf(0.975, self.units - 1) * self._spread(samples, correlation)
            low, high = centre - reach, centre + reach
            if correlation:
                low, high = np.tanh(low), np.tanh(high)
        unknown = np.isnan(estimate)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def standard_error(self, samples: np.ndarray) -> np.ndarray:
        """Return the standard error of a statistic from its values in the resamples; NaN without any."""
        return self._spread(samples, correlation=False)

    def p_of_zero(
        self, estimate: np.ndarray | float, samples: np.ndarray, *, correlation: bool = False
    ) -> np.ndarray:
        """Return the two-sided p-value of a statistic being 0.

        From bootstrap draws: twice the smaller tail around 0, with one added to both counts, hence at least
        2 / (resamples + 1). From the jackknife: Student's t with clusters - 1 degrees of freedom.

        Args:
            estimate: (...) the statistic of the data.
            samples: (resamples, ...) as `evaluate` returns them.
            correlation: whether it lies in [-1, 1].
        """
        estimate = np.asarray(estimate, dtype=np.float64)
        low, _ = self.interval(estimate, samples, correlation=correlation)
        if self.scheme == BOOTSTRAP:
            tail = np.minimum((samples <= 0).sum(axis=0), (samples >= 0).sum(axis=0))
            p = np.minimum(1.0, 2 * (tail + 1) / (len(samples) + 1))
        else:
            p = 2 * stats.t.sf(np.abs(self._t(estimate, samples, correlation)), self.units - 1)
        return np.where(np.isnan(low), np.nan, p)

    def p_of_equivalence(self, rho: np.ndarray | float, samples: np.ndarray, bound: float) -> np.ndarray:
        """Return the p-value of a correlation being at least `bound` in size: small where it is as good as none.

        Two one-sided tests (Schuirmann 1987; Lakens 2017) on Fisher's z, with the standard error of the resamples
        and units - 1 degrees of freedom; the larger of the two p-values.

        Args:
            rho: (...) correlations.
            samples: (resamples, ...) as `evaluate` returns them.
            bound: the smallest correlation that would matter, in (0, 1).
        """
        spread = self._spread(samples, correlation=True)
        room = np.arctanh(bound) - np.abs(_fisher(np.asarray(rho, dtype=np.float64)))
        distance = np.divide(room, spread, out=np.full(np.shape(room), np.nan), where=spread > 0)
        return stats.t.sf(distance, max(self.units - 1, 1))

    def _t(self, estimate: np.ndarray, samples: np.ndarray, correlation: bool) -> np.ndarray:
        centre = _fisher(estimate) if correlation else estimate
        spread = self._spread(samples, correlation)
        # A statistic that no cluster moves: it is what it is, 0 or not.
        certain = np.where(centre == 0, 0.0, np.inf)
        return np.divide(centre, spread, out=np.broadcast_to(certain, centre.shape).copy(), where=spread > 0)

    def _spread(self, samples: np.ndarray, correlation: bool) -> np.ndarray:
        """Return the standard error; NaN where a jackknife value, or more than 5 % of the draws, do not exist."""
        values = _fisher(samples) if correlation else np.asarray(samples, dtype=np.float64)
        if len(values) < 2:
            return np.full(values.shape[1:], np.nan)
        if self.scheme == BOOTSTRAP:
            known = np.isfinite(percentile_interval(samples)[0])
            return np.where(known, np.nanstd(np.where(known, values, 0.0), axis=0, ddof=1), np.nan)
        squares = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        return np.sqrt((self.units - 1) / self.units * squares)


def correlate_resampled(
    x: np.ndarray, y: np.ndarray, resampler: Resampler, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman's rho of every x column with every y column: of the data, and of each resample.

    Args:
        x: (n, t) finite numbers.
        y: (n, k) finite numbers; row i belongs to row i of `x`.
        resampler: how the rows are resampled.
        strata: (n,) integer codes 0..g-1; with them the ranks are taken inside each stratum, divided by its size (an
            image weighs the same in a small one as in a large one), centred and pooled. Strata should hold 50 images
            or more: a resample of a small one repeats images, which lowers its rho (by 0.018 for strata of 20 and rho
            0.46, 0.006 for strata of 75), and the interval with it.

    Returns:
        (t, k) rho of the data and (resamples, t, k) rho of the resamples.
    """
    x_rankings = [make_ranking(column, strata) for column in x.T]
    y_rankings = [make_ranking(column, strata) for column in y.T]
    return resampler.evaluate(
        lambda counts: rank_correlations(x_rankings, y_rankings, counts), columns=x.shape[1]
    )


def bca_interval(
    estimate: np.ndarray | float, samples: np.ndarray, left_out: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bias-corrected and accelerated bootstrap interval (Efron 1987) along the first axis.

    For statistics whose bootstrap distribution is biased or skewed at small n, such as R2 and average precision.

    Args:
        estimate: (...) the statistic of the data.
        samples: (resamples, ...) the statistic in every resample, NaN where it did not exist.
        left_out: (units, ...) the statistic without each image (or cluster), for the acceleration.
        level: coverage aimed at, in (0, 1).

    Returns:
        Lower and upper ends; NaN where the statistic existed in fewer than 95 % of the resamples or without some
        unit.
    """
    estimate = np.asarray(estimate, dtype=np.float64)
    samples = np.asarray(samples, dtype=np.float64)
    known = np.isfinite(percentile_interval(samples)[0]) & np.isfinite(estimate)
    known &= np.isfinite(left_out).all(axis=0)
    shape = estimate.shape
    ends = np.full((2, *shape), np.nan)
    for at in np.argwhere(known) if shape else ([()] if known else []):
        place = tuple(at)
        values = samples[(slice(None), *place)]
        values = values[np.isfinite(values)]
        below = np.mean(values < estimate[place]) + np.mean(values == estimate[place]) / 2
        half = 0.5 / len(values)
        bias = stats.norm.ppf(np.clip(below, half, 1 - half))
        gaps = left_out[(slice(None), *place)].mean() - left_out[(slice(None), *place)]
        square = (gaps**2).sum()
        acceleration = (gaps**3).sum() / (6 * square**1.5) if square > 0 else 0.0
        z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
        shares = stats.norm.cdf(bias + z / (1 - acceleration * z))
        ends[(slice(None), *place)] = np.quantile(values, shares)
    return ends[0], ends[1]


def leave_one_out(statistic: Statistic, n: int, clusters: np.ndarray | None = None) -> np.ndarray:
    """Return a statistic without each image, or without each cluster, in turn.

    Args:
        statistic: maps (b, n) counts to (b, ...) values.
        n: number of images.
        clusters: (n,) cluster codes 0..G-1, or None to leave out images.
    """
    codes = np.arange(n) if clusters is None else clusters
    units = int(codes.max()) + 1
    block = max(1, BLOCK_VALUES // n)
    parts = []
    for first in range(0, units, block):
        left_out = np.arange(first, min(first + block, units))
        parts.append(statistic((codes[None, :] != left_out[:, None]).astype(np.float64)))
    return np.concatenate(parts)


def _fisher(rho: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(rho, -LARGEST_RHO, LARGEST_RHO))
