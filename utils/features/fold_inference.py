"""What a cross-validated prediction proves: correlated inside folds, tested by permuting whole clusters.

Predictions of different folds come from different fits. A fit's mean leans away from the scores of the fold it has not
seen, so that pooled over folds predictions of pure noise correlate *negatively* with the scores (Parker, Guenter &
Bedo, "Stratification bias in low signal microarray studies", BMC Bioinformatics 2007): ridge on 40 noise features has a
pooled rho of -0.18 at n = 40. So both are ranked inside each fold, and what is left is pooled.

The fits also share training images, and what fold k says of fold j is what fold j says of fold k: for a learner linear
in the scores the two are the same number, so the variance of the pooled rho is twice what independent folds would give,
whatever their number. No estimate from the folds alone can see that (Bengio & Grandvalet, "No unbiased estimator of the
variance of k-fold cross-validation", JMLR 2004), hence the constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

OVERLAP_VARIANCE = 2.0
"""Variance of a rho pooled over folds, over what it would be if the folds' fits shared no image.

For a learner linear in the scores by the argument above, and 1.9 to 2.0 in simulations under clustered nulls. Trees look at
neighbours and come near it: with 1.5 for them a null was rejected in 8 % of simulations (docs/method.md)."""


@dataclass(frozen=True)
class FoldTest:
    """A cross-validated rank correlation and its permutation test.

    Attributes:
        rho: From ranks inside each fold, pooled; in [-1, 1], NaN where either side is constant in every fold.
        p: Two-sided, by permutation, corrected for training images that fits share; at least 1 / (permutations + 1).
        permutations: How many were drawn.
    """

    rho: float
    p: float
    permutations: int


def fold_ranks(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Mid-ranks inside each fold, centred and divided by the fold's size.

    Args:
        values: (n,) finite numbers.
        folds: (n,) fold of each image.

    Returns:
        (n,) float64 in (-1/2, 1/2), mean 0 in every fold.
    """
    ranks = np.empty(len(values))
    for fold in np.unique(folds):
        inside = folds == fold
        found = rankdata(values[inside])
        ranks[inside] = (found - found.mean()) / inside.sum()
    return ranks


class ClusterPermutation:
    """Draws values as they could have fallen if they had nothing to do with anything else but were still clustered.

    The clusters' means change places among the clusters, and inside each cluster the deviations from its mean change
    places among its images: whatever makes the members of a cluster alike stays. With clusters of one image this is the
    ordinary permutation.

    Args:
        values: (n,) numbers.
        clusters: (n,) integer codes 0..g-1, all in use.
        scales: Factors of the clusters' means and of the deviations.
    """

    def __init__(
        self, values: np.ndarray, clusters: np.ndarray, scales: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        self.by_cluster = np.argsort(clusters, kind="stable")
        self.clusters = clusters[self.by_cluster]
        self.means = np.bincount(clusters, values) / np.bincount(clusters)
        self.deviations = scales[1] * (values[self.by_cluster] - self.means[self.clusters])
        self.means = scales[0] * self.means

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(n,) the values, permuted."""
        # Cluster number plus a share of one: sorted, the clusters stay where they are and their images do not.
        shuffled = np.argsort(self.clusters + rng.random(len(self.clusters)))
        permuted = np.empty(len(self.clusters))
        permuted[self.by_cluster] = rng.permutation(self.means)[self.clusters] + self.deviations[shuffled]
        return permuted


def cluster_codes(labels: Sequence | np.ndarray | None, n: int) -> np.ndarray:
    """Clusters as integers 0..g-1; without labels, or with a single cluster, every image is one of its own."""
    if labels is None:
        return np.arange(n)
    codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    return codes if codes.max(initial=0) else np.arange(n)


def fold_rho(predicted: np.ndarray, target: np.ndarray, folds: np.ndarray) -> float:
    """Rank correlation inside folds, pooled: in [-1, 1], NaN where either side is constant in every fold."""
    x, y = fold_ranks(predicted, folds), fold_ranks(target, folds)
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread > 0 else float("nan")


def fold_test(
    predicted: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    clusters: np.ndarray,
    permutations: int = 999,
    seed: int = 0,
) -> FoldTest:
    """Correlate cross-validated predictions with their target inside folds, and test it.

    Args:
        predicted: (n,) prediction of each image by the fit without its fold.
        target: (n,) memorability.
        folds: (n,) fold of each image. For p to hold under dependence, a cluster must lie in one fold.
        clusters: (n,) integer codes of images that are alike, 0..g-1 (see `cluster_codes`).
        permutations: Permutations of the target, by `ClusterPermutation`.
        seed: Seed of an own generator.

    Returns:
        Rho and p. Under the null hypothesis features tell nothing about memorability, though both may be alike inside
        clusters.
    """
    rho = fold_rho(predicted, target, folds)
    if np.isnan(rho):
        return FoldTest(rho, float("nan"), permutations)
    x, y = fold_ranks(predicted, folds), fold_ranks(target, folds)
    rng, null, permutation = (
        np.random.default_rng(seed),
        np.empty(permutations),
        ClusterPermutation(y, clusters),
    )
    for number in range(permutations):
        permuted = permutation.draw(rng)
        permuted -= permuted.mean()
        null[number] = x @ permuted / np.sqrt((x @ x) * (permuted @ permuted))
    stretched = np.sqrt(OVERLAP_VARIANCE) * np.abs(null)
    beyond = int((stretched >= abs(rho) - 1e-12).sum())
    return FoldTest(rho, (beyond + 1) / (permutations + 1), permutations)


def fold_interval(
    predicted: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    clusters: np.ndarray | None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of a rank correlation inside folds, by resampling whole clusters, widened for shared training images.

    Args:
        predicted: (n,) prediction of each image by the fit without its fold.
        target: (n,) memorability.
        folds: (n,) fold of each image.
        clusters: (n,) integer codes of images that are alike; None for single images.
        resamples: bootstrap resamples; none are drawn with few clusters, see `Resampler`.
        seed: seed of the resampling.

    Returns:
        Lower and upper end, each as far from rho as the resamples say times the root of the overlap's variance, on
        Fisher's z; NaN where they do not exist.
    """
    resampler = Resampler(len(predicted), resamples, seed, clusters)
    codes = np.unique(folds, return_inverse=True)[1]
    rho, samples = correlate_resampled(predicted[:, None], target[:, None], resampler, codes)
    ends = [float(end[0, 0]) for end in resampler.interval(rho, samples, FISHER)]
    z, *reach = np.arctanh(np.clip([float(rho[0, 0]), *ends], -1 + 1e-9, 1 - 1e-9))
    low, high = (float(np.tanh(z + np.sqrt(OVERLAP_VARIANCE) * (end - z))) for end in reach)
    return low, high
