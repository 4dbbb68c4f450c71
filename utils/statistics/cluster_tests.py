"""The wild cluster bootstrap: a second opinion on a rank correlation whose images come in few clusters.

A rank correlation is the slope of one column's centred ranks on the other's. Its p-value here allows the residuals of
one cluster to hang together in any way (Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with
clustered errors", Review of Economics and Statistics 90). It stands beside the jackknife's, which goes with the
interval: with a handful of clusters it hardly ever rejects, with a dozen or two of unequal size somewhat too often
(benchmarks/coverage.py).
"""

from __future__ import annotations

import numpy as np

from utils.statistics.bootstrap import make_ranking
from utils.statistics.resampling import MIN_CLUSTERS

FEW_CLUSTERS = 50  # with more the wild bootstrap adds nothing
WILD_DRAWS = 9_999
WEBB_BELOW = 12  # with fewer clusters two signs make too few different draws (Webb 2023)
WEBB_WEIGHTS = np.sqrt([0.5, 1.0, 1.5]) * np.array([[-1.0], [1.0]])
BLOCK = 1_000


def wild_rho_p(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """Return the wild cluster bootstrap's p-value of every x column's rank correlation with every y column.

    Args:
        x: (n, t) finite numbers.
        y: (n, k) finite numbers.
        clusters: (n,) codes 0..G-1, all in use; None for single images.
        seed: seed of the wild draws.

    Returns:
        (t, k) p in (0, 1]; NaN for single images, with fewer than 3 or at least 50 clusters, or where a column is constant.
    """
    if clusters is None or int(clusters.max(initial=-1)) + 1 >= FEW_CLUSTERS:
        return np.full((x.shape[1], y.shape[1]), np.nan)
    one = np.ones((1, len(x)))
    x_ranks, y_ranks = (
        [make_ranking(column).centred_ranks(one)[0] for column in matrix.T] for matrix in (x, y)
    )
    return np.array([[wild_cluster_p(a, b, clusters, seed=seed) for b in y_ranks] for a in x_ranks])


def wild_cluster_p(
    x: np.ndarray, y: np.ndarray, clusters: np.ndarray, nuisance: np.ndarray | None = None, seed: int = 0
) -> float:
    """Return the two-sided p-value of the slope of y on x being 0, whatever hangs together inside a cluster.

    The wild cluster bootstrap of the cluster-robust t with the null imposed, 9,999 draws of a sign per cluster (of Webb's
    six weights below 12 clusters).

    Args:
        x: (n,) ranks, or any numbers.
        y: (n,) the same of the other column.
        clusters: (n,) codes 0..G-1, all in use.
        nuisance: (n, q) columns held constant in both, the constant included; only the constant when None.
        seed: seed of the wild draws.

    Returns:
        p in (0, 1]; NaN with fewer than 3 clusters, or where x or y is constant given the nuisance columns.
    """
    clusters = np.asarray(clusters)
    count = int(clusters.max(initial=-1)) + 1
    design = np.ones((len(x), 1)) if nuisance is None else np.asarray(nuisance, dtype=np.float64)
    x, y = (
        residuals(np.asarray(x, dtype=np.float64), design),
        residuals(np.asarray(y, dtype=np.float64), design),
    )
    if count < MIN_CLUSTERS or not x.any() or not y.any():
        return float("nan")
    sums = _ClusterSums.of(x, y, design, clusters, count)
    t = float(sums.t(np.ones((1, count)))[0])
    rng = np.random.default_rng(seed)
    weights = WEBB_WEIGHTS.ravel() if count < WEBB_BELOW else np.array([-1.0, 1.0])
    as_large = 0
    for first in range(0, WILD_DRAWS, BLOCK):
        drawn = rng.choice(weights, (min(BLOCK, WILD_DRAWS - first), count))
        # Draws that only flip every sign give the same |t| up to rounding, and count as equal.
        as_large += int((np.abs(sums.t(drawn)) >= abs(t) * (1 - 1e-9)).sum())
    return (as_large + 1) / (WILD_DRAWS + 1)


class _ClusterSums:
    """What the t of every wild draw follows from: sums over each cluster, never the images again."""

    def __init__(
        self, xy: np.ndarray, xx: np.ndarray, xz: np.ndarray, zy: np.ndarray, zz: np.ndarray
    ) -> None:
        self.xy, self.xx, self.xz, self.zy = xy, xx, xz, zy
        self.solve = np.linalg.pinv(zz)

    @classmethod
    def of(
        cls, x: np.ndarray, y: np.ndarray, design: np.ndarray, clusters: np.ndarray, count: int
    ) -> _ClusterSums:
        """Sum x*y, x*x, x*z and z*y over each cluster, and z*z over all."""

        def total(values: np.ndarray) -> np.ndarray:
            return np.stack([np.bincount(clusters, column, count) for column in values.T], axis=1)

        parts = [
            total(part)
            for part in (np.column_stack([x * y, x * x]), x[:, None] * design, design * y[:, None])
        ]
        return cls(parts[0][:, 0], parts[0][:, 1], parts[1], parts[2], design.T @ design)

    def t(self, weights: np.ndarray) -> np.ndarray:
        """Return the cluster-robust t, without its finite-sample factor, of y times each row of cluster weights.

        Args:
            weights: (b, G); a row of ones gives the data's own t.
        """
        products = weights @ self.xy
        slope = products / self.xx.sum()
        nuisance = weights @ self.zy @ self.solve  # coefficients of the columns held constant, fitted again
        scores = weights * self.xy - nuisance @ self.xz.T - slope[:, None] * self.xx
        spread = np.sqrt((scores**2).sum(axis=1))
        certain = np.where(products == 0, 0.0, np.inf)  # no residual is left: the slope is what it is
        return np.divide(products, spread, out=certain, where=spread > 0)


def residuals(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Return what is left of (n,) or (n, k) values after regression on the (n, q) design, zeros where nothing is."""
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    scale = np.abs(values).max(axis=0, initial=0.0)
    return np.where(np.abs(left).max(axis=0, initial=0.0) <= 1e-9 * scale, 0.0, left)
