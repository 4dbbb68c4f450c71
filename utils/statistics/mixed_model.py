"""A mixed model beside the correlations: is a measure's slope inside subcategories that between them?

Ranks of the score on ranks of the measure, parted into the subcategory's mean and the deviation from it (Mundlak 1978;
van de Pol & Wright 2009), with a random intercept and, uncorrelated with it, a random slope of the deviation
per subcategory (Barr, Levy, Scheepers & Tily 2013), fitted by REML from sums over clusters. statsmodels' MixedLM, which
the tests hold it to, goes through the clusters one by one at every step of its search (minutes at 100,000 images).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from scipy import optimize, stats

from utils.statistics.clusters import Clustering
from utils.statistics.resampling import MIN_CLUSTERS
from utils.statistics.row_statistics import MIN_IMAGES

log = logging.getLogger("memorability")

WITHIN, BETWEEN, CONTEXT = "within", "between", "between - within"
EFFECTS: dict[str, tuple[list[int], int]] = {
    WITHIN: ([0, 1, 0], 1),
    BETWEEN: ([0, 0, 1], 2),
    CONTEXT: ([0, -1, 1], 2),
}
"""Per effect its contrast of (constant, within, between), and the degrees of freedom lost to it."""
MIXED_MODEL_COLUMNS = [
    *("measure", "effect", "n", "clusters", "slope", "se", "ci_low", "ci_high", "p"),
    *("sd_intercept", "sd_slope", "sd_residual", "icc", "random_slope", "converged"),
]
NOTHING_LEFT = (
    1e-12  # residual variance, where ranks have variance 1, below which the likelihood has no maximum
)
STARTS = (0.1, 1.0)  # of the search, for each ratio of a random variance to the residual's
TOLERANCES = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000}
MIN_BETWEEN = MIN_CLUSTERS + 1  # a line through the cluster means needs more of them than it has coefficients


def mixed_model_rows(
    frame: pd.DataFrame,
    measures: Sequence[str],
    clustering: Clustering,
    target: str = "memorability",
    min_images: int = MIN_IMAGES,
) -> pd.DataFrame:
    """Return the slopes of measures within and between clusters.

    Args:
        frame: one row per image.
        measures: columns to evaluate, each on the images that have it and the target.
        clustering: the clusters (`utils.statistics.clusters.find_clusters`).
        target: column they are to explain.
        min_images: a measure with fewer images, or with fewer than 4 clusters or no cluster of two, is left empty.

    Returns:
        Three rows per measure (MIXED_MODEL_COLUMNS): the slope inside clusters, that of the cluster means, and their
        difference, in standard deviations of ranks per standard deviation of ranks. Student's t with clusters - 1
        (within) or clusters - 2 degrees of freedom. `icc` is that of the target's ranks
        (`intraclass_correlation`). Without rows where the images have no clusters.
    """
    if clustering.labels is None:
        return pd.DataFrame(columns=MIXED_MODEL_COLUMNS)
    rows: list[dict[str, object]] = []
    for measure in measures:
        block = frame[frame[[measure, target]].notna().all(axis=1)]
        codes = cast(np.ndarray, clustering.codes(block))  # there are labels
        usable = (
            len(block) >= min_images
            and MIN_BETWEEN <= len(np.unique(codes)) < len(block)
            and block[measure].nunique() > 1
            and block[target].nunique() > 1
        )
        if usable:
            found = _fit(block[measure].to_numpy(float), block[target].to_numpy(float), codes)
            rows += [{"measure": measure, "n": len(block), **row} for row in found]
        else:
            empty = {"measure": measure, "n": len(block), "clusters": len(np.unique(codes))}
            rows += [{**empty, "effect": name, "random_slope": False, "converged": False} for name in EFFECTS]
    return pd.DataFrame(rows).reindex(columns=MIXED_MODEL_COLUMNS)


@dataclass(frozen=True)
class _Fit:
    """What is needed of one fitted model."""

    coefficients: np.ndarray
    covariance: np.ndarray
    random: np.ndarray
    residual: float
    converged: bool


def _fit(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> list[dict[str, object]]:
    """Return the three rows of one measure."""
    clusters = int(codes.max()) + 1
    x, y = (stats.zscore(stats.rankdata(values)) for values in (x, y))
    means = (np.bincount(codes, x) / np.bincount(codes))[codes]
    varies = np.abs(x - means).max() > 1e-9
    inside = [x - means] if varies else []
    design = np.column_stack([np.ones(len(x)), *inside, means])
    fitted, random_slope = _reml_with_slopes(y, design, codes, slopes=varies)
    if not fitted.converged:
        log.warning("A mixed model did not converge; its row says so.")
    about = {
        "clusters": clusters,
        "sd_intercept": float(np.sqrt(fitted.random[0, 0])),
        "sd_slope": float(np.sqrt(fitted.random[1, 1])) if random_slope else np.nan,
        "sd_residual": float(np.sqrt(fitted.residual)),
        "icc": intraclass_correlation(y, codes),
        "random_slope": random_slope,
        "converged": fitted.converged,
    }
    rows: list[dict[str, object]] = []
    for effect, (contrast, lost) in EFFECTS.items():
        if contrast[1] and not varies:
            rows.append({"effect": effect, **about})
            continue
        weights = np.array(contrast if varies else [contrast[0], contrast[2]])
        slope, se = (
            float(weights @ fitted.coefficients),
            float(np.sqrt(weights @ fitted.covariance @ weights)),
        )
        reach = stats.t.ppf(0.975, clusters - lost) * se
        p = 2 * stats.t.sf(abs(slope / se), clusters - lost) if se > 0 else np.nan
        ends = {"ci_low": slope - reach, "ci_high": slope + reach}
        rows.append({"effect": effect, "slope": slope, "se": se, **ends, "p": p, **about})
    return rows


def _reml_with_slopes(
    y: np.ndarray, design: np.ndarray, codes: np.ndarray, slopes: bool
) -> tuple[_Fit, bool]:
    """Fit with random slopes of the second column where asked for and possible, else with random intercepts alone."""
    if slopes:
        fitted = _reml(y, design, codes, design[:, :2])
        if fitted.converged:
            return fitted, True
    return _reml(y, design, codes, design[:, :1]), False


def intraclass_correlation(values: np.ndarray, codes: np.ndarray) -> float:
    """Return how alike the images of one cluster are: ICC(1) from the one-way analysis of variance.

    Args:
        values: (n,) numbers.
        codes: (n,) cluster codes 0..G-1; at least two clusters, one of them of two images or more.

    Returns:
        1 where clusters are of one value each, around 0 where clusters do not matter (slightly negative by chance).
    """
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / sizes
    n, groups = len(values), len(sizes)
    between = (sizes * (means - values.mean()) ** 2).sum() / (groups - 1)
    within = ((values - means[codes]) ** 2).sum() / (n - groups)
    typical = (n - (sizes**2).sum() / n) / (groups - 1)  # size of a cluster that counts, where sizes differ
    return float((between - within) / (between + (typical - 1) * within))


class _Sums:
    """What the likelihood needs of each cluster: products of columns, summed; the rows are not looked at again.

    Args:
        columns: (n, k) columns whose products are wanted, the fixed effects' and the target's.
        codes: (n,) cluster codes 0..G-1.
        random: (n, r) columns with a random effect per cluster.
    """

    def __init__(self, columns: np.ndarray, codes: np.ndarray, random: np.ndarray) -> None:
        clusters = int(codes.max()) + 1

        def over_clusters(right: np.ndarray) -> np.ndarray:
            cells = [[np.bincount(codes, a * b, clusters) for b in right.T] for a in random.T]
            return np.array(cells).transpose(2, 0, 1)

        self.plain = columns.T @ columns
        self.crossed, self.among = over_clusters(columns), over_clusters(random)

    def weighted(self, ratios: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the products of the columns through the inverse covariance of the rows, and its log determinant.

        Woodbury: a matrix per cluster as small as its random effects, in place of one as large as the cluster.

        Args:
            ratios: (r,) variances of the random effects over the residual's, which counts as 1.
        """
        inner = np.eye(len(ratios)) + ratios[:, None] * self.among
        explained = self.crossed.transpose(0, 2, 1) @ np.linalg.solve(inner, ratios[:, None] * self.crossed)
        return self.plain - explained.sum(axis=0), float(np.linalg.slogdet(inner)[1].sum())


def _reml(y: np.ndarray, design: np.ndarray, codes: np.ndarray, random: np.ndarray) -> _Fit:
    """Fit one mixed model; whether it converged is part of the answer.

    Random effects are uncorrelated (Bates, Kliegl, Vasishth & Baayen 2015): a correlation of theirs that few clusters leave
    undetermined would pull the slope between clusters after those inside. Given the ratios of their variances to the
    residual's, coefficients and residual variance follow, so that the likelihood is searched over the ratios alone.
    """
    sums = _Sums(np.column_stack([design, y]), codes, random)
    freedom = len(y) - design.shape[1]

    def solved(ratios: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Return the design's weighted products, the coefficients, the residual variance and a log determinant."""
        products, log_determinant = sums.weighted(ratios)
        a, b = products[:-1, :-1], products[:-1, -1]
        coefficients = np.linalg.pinv(a, hermitian=True) @ b
        return a, coefficients, (products[-1, -1] - b @ coefficients) / freedom, log_determinant

    def criterion(ratios: np.ndarray) -> float:
        """Return minus twice the restricted log likelihood, up to a constant."""
        a, _, residual, log_determinant = solved(ratios)
        if residual < NOTHING_LEFT:
            return np.inf
        return freedom * np.log(residual) + log_determinant + np.linalg.slogdet(a)[1]

    # The likelihood can have a hill on the edge, where a variance is 0, and another inside.
    with np.errstate(invalid="ignore"):  # infinities compared, where nothing is left
        found = [
            optimize.minimize(
                criterion, start, method="Nelder-Mead", bounds=[(0, None)] * len(start), options=TOLERANCES
            )
            for start in itertools.product(STARTS, repeat=random.shape[1])
        ]
    best = min(found, key=lambda result: result.fun)
    if not (best.success and np.isfinite(best.fun)):
        q, r = design.shape[1], random.shape[1]
        return _Fit(np.full(q, np.nan), np.full((q, q), np.nan), np.full((r, r), np.nan), np.nan, False)
    a, coefficients, residual, _ = solved(best.x)
    covariance = residual * np.linalg.pinv(a, hermitian=True)
    return _Fit(coefficients, covariance, residual * np.diag(best.x), residual, True)
