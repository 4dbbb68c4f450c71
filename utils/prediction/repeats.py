"""What repeated splits prove: an interval that knows that splits share images, and a mean over training seeds.

The test metrics of J random splits are no J independent facts: every two splits share most of their training images.
Their variance over J is too small by far; Nadeau & Bengio ("Inference for the generalization error", Machine Learning
2003) add the share of test to training images: ``(1/J + n_test/n_train) s^2``, with J - 1 degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class CorrectedMean:
    """A mean over splits.

    Attributes:
        mean: Over the splits.
        sd: Standard deviation over the splits (n - 1); NaN for one.
        ci_low: Lower end of the corrected 95 % interval; NaN for fewer than two splits.
        ci_high: Upper end of it.
        p: Two-sided p of a mean of 0, by the corrected t.
    """

    mean: float
    sd: float
    ci_low: float
    ci_high: float
    p: float


def corrected_mean(values: NDArray, test_share: float) -> CorrectedMean:
    """Mean of a metric over random splits, with the corrected resampled interval.

    Args:
        values: (J,) the metric on each split; splits where it does not exist (NaN) are left out.
        test_share: Test images over training images, > 0.

    Returns:
        The mean with its interval and p; these are NaN for fewer than two splits, or without any spread.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    count, nothing = len(values), float("nan")
    mean = float(values.mean()) if count else nothing
    if count < 2:
        return CorrectedMean(mean, nothing, nothing, nothing, nothing)
    sd = float(values.std(ddof=1))
    error = np.sqrt(1 / count + test_share) * sd
    half = float(stats.t.ppf(0.975, count - 1) * error)
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else nothing
    return CorrectedMean(mean, sd, mean - half, mean + half, p)


def over_splits(rows: pd.DataFrame, test_share: float) -> pd.DataFrame:
    """Summarise each metric over splits and training seeds.

    Args:
        rows: ``predictor, metric, split_number, mlp_seed, value``: a row per split, and per seed where the predictor was
            trained from several.
        test_share: Test images over training images.

    Returns:
        ``predictor, metric, n_splits, n_seeds, mean_over_splits, sd_over_splits, ci_low_over_splits,
        ci_high_over_splits, p_over_splits, sd_over_seeds``. Seeds are averaged inside each split first: further seeds are
        no further splits. The last is the standard deviation over seeds inside a split, pooled over the splits; NaN for
        one seed.
    """
    found = []
    for (predictor, metric), part in rows.groupby(["predictor", "metric"], sort=False):
        by_split = part.groupby("split_number")["value"]
        seeds = int(by_split.size().max())
        inside = float(np.sqrt(by_split.var(ddof=1).mean())) if seeds > 1 else float("nan")
        mean = corrected_mean(by_split.mean().to_numpy(), test_share)
        ends = [mean.mean, mean.sd, mean.ci_low, mean.ci_high, mean.p]
        found.append([predictor, metric, by_split.ngroups, seeds, *ends, inside])
    names = ["predictor", "metric", "n_splits", "n_seeds", "mean_over_splits", "sd_over_splits"]
    names += ["ci_low_over_splits", "ci_high_over_splits", "p_over_splits", "sd_over_seeds"]
    return pd.DataFrame(found, columns=names)
