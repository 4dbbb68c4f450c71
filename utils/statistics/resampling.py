"""What is resampled, images or whole clusters of them, and the interval and p that follow.

Images of one subcategory are alike, so that a few thousand of them say no more than a few dozen independent ones. A
`Resampler` then leaves out one cluster after another: the standard error is the jackknife's (CV3 of MacKinnon, Nielsen &
Webb 2023, "Cluster-robust inference: a guide to empirical practice", Journal of Econometrics 232), interval and p come
from Student's t with clusters - 1 degrees of freedom, on Fisher's z for correlations, and so never contradict each other.
Clusters drawn with replacement (the pairs cluster bootstrap; Davison & Hinkley 1997, section 3.8), or a sandwich
variance, are too sure of themselves where clusters are unequal in size and their number is in the dozens.
`benchmarks/coverage.py` measures both.

Everything can be computed from counts per image, so that `utils/statistics/bootstrap.py` serves draws and deletions alike;
rank correlations without a cluster follow faster from one ranking (`utils/statistics/leave_out.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from utils.statistics.bootstrap import (
    BLOCK_VALUES,
    MANY_ROWS,
    make_ranking,
    percentile_interval,
    rank_correlations,
    resample_counts,
)
from utils.statistics.leave_out import LeftOut, correlate_without

MIN_CLUSTERS = 3  # two clusters say nothing about a third
MOST_DELETIONS = 1000  # more clusters than that are dealt to as many blocks, and left out a block at a time
NEAR = 1e-9  # how near the end of its range a statistic may come: beyond, its scale has no end
BOOTSTRAP, JACKKNIFE, NOTHING = "bootstrap", "jackknife", "nothing"

Statistic = Callable[[np.ndarray], np.ndarray]  # (b, n) counts to (b, ...) values


@dataclass(frozen=True)
class Scale:
    """Where a statistic is nearly normal, whatever its size and range.

    Attributes:
        there: from the statistic to the scale.
        back: from the scale to the statistic.
        shed_bias: whether the jackknife's estimate of the bias is taken off there before the ends are found.
    """

    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    shed_bias: bool = False


def _itself(values: np.ndarray) -> np.ndarray:
    return values


PLAIN = Scale(_itself, _itself)
FISHER = Scale(lambda rho: np.arctanh(np.clip(rho, NEAR - 1, 1 - NEAR)), np.tanh)  # correlations
LOGIT = Scale(lambda share: special.logit(np.clip(share, NEAR, 1 - NEAR)), special.expit, True)  # shares
UNEXPLAINED = Scale(lambda r2: np.log(np.maximum(1 - r2, NEAR)), lambda log: 1 - np.exp(log), True)  # R2


@dataclass(frozen=True)
class Resampler:
    """How the images of one table are resampled.

    Attributes:
        n: number of images.
        resamples: bootstrap resamples, 0 for none; deletions do not depend on it.
        seed: seed of the drawing; the global random state is left alone.
        clusters: (n,) codes 0..G-1, all in use, of the cluster each image belongs to; None for images that are
            resampled one by one.
        draw: draw clusters with replacement rather than leave them out: for what needs draws, such as bands over a
            whole curve.
        within: (G,) stratum of each cluster; clusters are then drawn inside their strata, which takes the strata (five
            categories, say) as given.
    """

    n: int
    resamples: int = 1000
    seed: int = 0
    clusters: np.ndarray | None = None
    draw: bool = False
    within: np.ndarray | None = None

    @property
    def units(self) -> int:
        """How many things are resampled: clusters, or images."""
        return self.n if self.clusters is None else int(self.clusters.max(initial=-1)) + 1

    @property
    def scheme(self) -> str:
        """``bootstrap`` (of images), ``jackknife`` (of clusters), or ``nothing`` (too few clusters to say anything)."""
        if self.clusters is None:
            return BOOTSTRAP
        if self.units < MIN_CLUSTERS:
            return NOTHING
        return BOOTSTRAP if self.draw or self.within is not None else JACKKNIFE

    @property
    def freedom(self) -> int:
        """Degrees of freedom of Student's t: how many things are left out or drawn, less their mean."""
        return max(self.deletions if self.scheme == JACKKNIFE else self.units, 2) - 1

    @property
    def deletions(self) -> int:
        """How many times something is left out, by the jackknife."""
        return min(self.units, MOST_DELETIONS)

    def blocks(self) -> np.ndarray:
        """Return the (n,) number 0..deletions-1 of the deletion that leaves out each image.

        More clusters than deletions are dealt by chance to blocks of equal numbers, which go together.
        """
        if self.clusters is None:
            raise ValueError("single images are drawn, not left out")
        dealt = np.arange(self.units) * self.deletions // self.units
        if self.deletions < self.units:
            dealt = np.random.default_rng(self.seed).permutation(dealt)
        return dealt[self.clusters]

    def counts(self, columns: int = 1) -> Iterator[np.ndarray]:
        """Yield how often each image counts in each resample.

        Args:
            columns: how many (block, n) arrays the caller holds at once; bounds the block.

        Yields:
            (b, n) float64 counts: `resamples` bootstrap draws in all, or a row per cluster (or block of clusters)
            without it.
        """
        if self.scheme == NOTHING or (self.scheme == BOOTSTRAP and not self.resamples):
            return
        if self.clusters is None:
            yield from resample_counts(self.n, self.resamples, self.seed, columns)
            return
        block = max(1, BLOCK_VALUES // (self.n * max(1, columns)))
        if self.scheme == BOOTSTRAP:
            for drawn in self._cluster_counts(block):
                yield np.take(drawn, self.clusters, axis=1)
            return
        blocks = self.blocks()
        for first in range(0, self.deletions, block):
            left_out = np.arange(first, min(first + block, self.deletions))
            yield (blocks[None, :] != left_out[:, None]).astype(np.float64)

    def _cluster_counts(self, block: int) -> Iterator[np.ndarray]:
        """Yield (b, G) counts of clusters drawn with replacement."""
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
        self, estimate: np.ndarray | float, samples: np.ndarray, scale: Scale = PLAIN
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the 95 % interval of a statistic: percentiles of draws, or Student's t with the jackknife's error.

        Args:
            estimate: (...) the statistic of the data.
            samples: (resamples, ...) as `evaluate` returns them.
            scale: where the jackknife works; percentiles are the same on every one.

        Returns:
            Lower and upper ends; NaN where the statistic or its interval does not exist.
        """
        estimate = np.asarray(estimate, dtype=np.float64)
        if self.scheme == BOOTSTRAP or len(samples) == 0:
            low, high = percentile_interval(samples)
        else:
            centre = scale.there(estimate)
            if scale.shed_bias:
                centre = centre + (len(samples) - 1) * (centre - scale.there(samples).mean(axis=0))
            reach = stats.t.ppf(0.975, self.freedom) * self._spread(samples, scale)
            low, high = np.sort([scale.back(centre - reach), scale.back(centre + reach)], axis=0)
        unknown = np.isnan(estimate)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def standard_error(self, samples: np.ndarray) -> np.ndarray:
        """Return the standard error of a statistic from its values in the resamples; NaN without any."""
        return self._spread(samples, PLAIN)

    def p_of_zero(
        self, estimate: np.ndarray | float, samples: np.ndarray, scale: Scale = PLAIN
    ) -> np.ndarray:
        """Return the two-sided p-value of a statistic being 0.

        From bootstrap draws: twice the smaller tail around 0, with one added to both counts, hence at least
        2 / (resamples + 1). From the jackknife: Student's t with `freedom` degrees of freedom,
        below 0.05 where the interval leaves out 0.

        Args:
            estimate: (...) the statistic of the data.
            samples: (resamples, ...) as `evaluate` returns them.
            scale: where the jackknife works; 0 must be 0 there.
        """
        estimate = np.asarray(estimate, dtype=np.float64)
        low, _ = self.interval(estimate, samples, scale)
        if self.scheme == BOOTSTRAP:
            tail = np.minimum((samples <= 0).sum(axis=0), (samples >= 0).sum(axis=0))
            p = np.minimum(1.0, 2 * (tail + 1) / (len(samples) + 1))
        else:
            p = 2 * stats.t.sf(np.abs(self._t(estimate, samples, scale)), self.freedom)
        return np.where(np.isnan(low), np.nan, p)

    def p_of_equivalence(self, rho: np.ndarray | float, samples: np.ndarray, bound: float) -> np.ndarray:
        """Return the p-value of a correlation being at least `bound` in size: small where it is as good as none.

        Two one-sided tests (Schuirmann 1987; Lakens 2017) on Fisher's z, with the standard error of the resamples
        and `freedom` degrees of freedom; the larger of the two p-values.

        Args:
            rho: (...) correlations.
            samples: (resamples, ...) as `evaluate` returns them.
            bound: the smallest correlation that would matter, in (0, 1).
        """
        spread = self._spread(samples, FISHER)
        room = np.arctanh(bound) - np.abs(FISHER.there(np.asarray(rho, dtype=np.float64)))
        distance = np.divide(room, spread, out=np.full(np.shape(room), np.nan), where=spread > 0)
        return stats.t.sf(distance, self.freedom)

    def _t(self, estimate: np.ndarray, samples: np.ndarray, scale: Scale) -> np.ndarray:
        centre, spread = scale.there(estimate), self._spread(samples, scale)
        # A statistic that no cluster moves: it is what it is, 0 or not.
        certain = np.where(centre == 0, 0.0, np.inf)
        return np.divide(centre, spread, out=np.broadcast_to(certain, centre.shape).copy(), where=spread > 0)

    def _spread(self, samples: np.ndarray, scale: Scale) -> np.ndarray:
        """Return the standard error; NaN where a jackknife value, or more than 5 % of the draws, do not exist."""
        values = scale.there(np.asarray(samples, dtype=np.float64))
        if len(values) < 2:
            return np.full(values.shape[1:], np.nan)
        if self.scheme == BOOTSTRAP:
            known = np.isfinite(percentile_interval(samples)[0])
            return np.where(known, np.nanstd(np.where(known, values, 0.0), axis=0, ddof=1), np.nan)
        squares = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        return np.sqrt((len(values) - 1) / len(values) * squares)


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
    if resampler.scheme == JACKKNIFE:
        return correlate_without(x, y, resampler.blocks(), resampler.deletions, strata)
    sides = [[make_ranking(column, strata) for column in matrix.T] for matrix in (x, y)]
    rho = rank_correlations(sides[0], sides[1], np.ones((1, resampler.n)))[0]
    if resampler.n >= MANY_ROWS:
        sides = [[ranking.in_cells() for ranking in side] for side in sides]
    drawn = [rank_correlations(sides[0], sides[1], counts) for counts in resampler.counts(x.shape[1])]
    return rho, np.concatenate([np.empty((0, *rho.shape)), *drawn])


def correlate_pairs_resampled(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    resampler: Resampler,
    strata: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return Spearman's rho of pairs of columns, each with its own partner alone.

    Args:
        pairs: p pairs of (m,) finite numbers.
        resampler: how n images are resampled.
        strata: (m,) codes as for `correlate_resampled`.
        rows: (n,) mask of the m images that have the columns; all where None. The others are resampled with them.

    Returns:
        (p,) rho of the data and (resamples, p) of the resamples.
    """
    rows = np.ones(resampler.n, dtype=bool) if rows is None else rows
    if resampler.scheme == JACKKNIFE:
        left_out = LeftOut(resampler.blocks()[rows], resampler.deletions, strata)
        both = [left_out.correlate([left_out.rank(x), left_out.rank(y)], [(0, 1)]) for x, y in pairs]
        return np.concatenate([rho for rho, _ in both]), np.concatenate([drawn for _, drawn in both], axis=1)
    found = [[make_ranking(column, strata) for column in pair] for pair in pairs]

    def rhos(counts: np.ndarray) -> np.ndarray:
        return np.stack([rank_correlations([x], [y], counts[:, rows])[:, 0, 0] for x, y in found], axis=1)

    rho = rhos(np.ones((1, resampler.n)))
    if len(rows) >= MANY_ROWS:
        found = [[ranking.in_cells() for ranking in pair] for pair in found]
    return rho[0], np.concatenate([np.empty((0, len(found))), *map(rhos, resampler.counts(2))])
