"""How well memorability is predicted, by the MLP and by what it has to beat: one table, on the test split.

Every predictor is fitted on the training split; the validation split stops the MLP and sets the strength of
the ridge; the test split is predicted once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.core.log import log
from utils.prediction.predictors import (
    CATEGORY_MEAN,
    ERROR,
    MLP,
    RECOGNITION,
    RIDGE,
    SUBCATEGORY_MEAN,
    TOGETHER,
)
from utils.statistics.correlation_tables import (
    MIN_SUBCATEGORY,
    classification_metrics,
    false_discovery_q,
    find_clusters,
    paired_difference,
    regression_metrics,
    spearman,
)
from utils.statistics.noise_ceiling import score_reliability
from utils.statistics.resampling import Resampler

CEILING = "noise-ceiling"
DIFFERENCES = (
    (MLP, RIDGE),
    (MLP, TOGETHER),
    (TOGETHER, RIDGE),
    (RIDGE, ERROR),
    (MLP, CATEGORY_MEAN),
    (MLP, SUBCATEGORY_MEAN),
    (RECOGNITION, SUBCATEGORY_MEAN),
)
CEILING_SPLITS = 50
LEAST_KNOWN = (
    0.5  # a predictor that knows fewer of the test images is left out, not the images it does not know
)


# ---------------------------------------------------------------------- the table of metrics


def common_images(test: pd.DataFrame, predictors: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Keep the test images for which every predictor has a prediction, so that all are judged on the same ones.

    Args:
        test: One row per test image, with a column per predictor, NaN where it cannot say.
        predictors: Columns to judge.

    Returns:
        The images, and the predictors: one that knows less than half of the images is left out instead. Both are said
        in the log.
    """
    share = test[list(predictors)].notna().mean()
    kept = [name for name in predictors if share[name] >= LEAST_KNOWN]
    for name in predictors:
        if name not in kept:
            log.warning(
                "%s is known for %.0f %% of the test images only; it is not judged.", name, 100 * share[name]
            )
    complete = test[kept].notna().all(axis=1)
    if not complete.all():
        lacking = [name for name in kept if share[name] < 1]
        log.warning(
            "All predictors are judged on the %d of %d test images that every one of them knows; %s does not know the rest.",
            int(complete.sum()), len(test), ", ".join(lacking),
        )  # fmt: skip
    return test[complete].reset_index(drop=True), kept


def metric_table(
    test: pd.DataFrame,
    predictors: Sequence[str],
    threshold: float,
    resamples: int,
    seed: int,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Evaluate predictors on the same test images.

    Args:
        test: One row per test image: ``memorability``, ``category``, ``subcategory``, the counts where known, and a
            column per predictor.
        predictors: Columns to evaluate; each on the images it has a prediction for (see `common_images`).
        threshold: Median training score; observed and predicted scores above it count as memorable.
        resamples: Bootstrap resamples, 0 for none.
        seed: Seed of the resamples; the same for all, so that the images are resampled together.
        cluster: ``--cluster``: what is resampled together.

    Returns:
        ``predictor, metric, value, ci_low, ci_high, ci_low_independent, ci_high_independent, p, p_independent, n,
        cluster, clusters, resamples, seed``.
    """
    reliability = score_reliability(test, splits=CEILING_SPLITS, seed=seed) or {}
    ceiling = reliability.get("ceiling", np.nan)
    clustering = find_clusters(test, cluster)
    parts = []
    for name in predictors:
        known = test[test[name].notna()]
        codes = clustering.codes(known)
        observed, predicted = known["memorability"].to_numpy(float), known[name].to_numpy(float)
        metrics = pd.concat(
            [
                _correlations(known, observed, predicted, resamples, seed, codes),
                calibration_line(observed, predicted, Resampler(len(known), resamples, seed, codes)),
                classification_metrics(observed > threshold, predicted, threshold, resamples, seed, codes),
            ],
            ignore_index=True,
        )
        rho = metrics.loc[metrics["metric"] == "spearman", "value"].iloc[0]
        share = {"metric": "spearman_over_ceiling", "value": rho / ceiling}
        units = len(known) if codes is None else int(codes.max(initial=-1)) + 1
        whole = pd.concat([metrics, pd.DataFrame([share])], ignore_index=True)
        parts.append(whole.assign(predictor=name, n=len(known), clusters=units))
    top = {"predictor": CEILING, "metric": "spearman", "value": ceiling}
    top["resamples"] = reliability.get("splits", CEILING_SPLITS)
    rows = pd.concat([*parts, pd.DataFrame([top])], ignore_index=True)
    return rows.assign(
        n=rows["n"].fillna(len(test)).astype(int),
        cluster=clustering.unit,
        clusters=rows["clusters"].fillna(len(test)).astype(int),
        resamples=rows["resamples"].fillna(resamples).astype(int),
        seed=seed,
    )


def _correlations(
    test: pd.DataFrame,
    observed: NDArray,
    predicted: NDArray,
    resamples: int,
    seed: int,
    codes: NDArray | None,
) -> pd.DataFrame:
    """Rho, errors and R2, and rho inside categories and inside subcategories: what is left of it beyond recognition."""
    category = test["category"].fillna("").astype(str)
    grouped = category if (category != "").all() and category.nunique() > 1 else None
    parts = [regression_metrics(observed, predicted, resamples, seed, grouped, codes)]
    subcategory = test.get("subcategory", pd.Series("", index=test.index)).fillna("").astype(str)
    labels = category + "/" + subcategory
    inside = ((labels.map(labels.value_counts()) >= MIN_SUBCATEGORY) & (subcategory != "")).to_numpy()
    if labels[inside].nunique() > 1:
        some = None if codes is None else pd.factorize(codes[inside], sort=True)[0]
        found = regression_metrics(observed[inside], predicted[inside], resamples, seed, labels[inside], some)
        row = found[found["metric"] == "spearman_within_category"]
        parts.append(row.assign(metric="spearman_within_subcategory"))
    found = pd.concat(parts, ignore_index=True)
    if codes is None:
        independent = {"spearman": spearman(observed, predicted)[1]}
        found["p"] = found["metric"].map(independent).astype(float)
        for name in ("ci_low", "ci_high", "p"):
            found[f"{name}_independent"] = found[name]
    return found


def calibration_line(observed: NDArray, predicted: NDArray, resampler: Resampler) -> pd.DataFrame:
    """Slope and intercept of observed on predicted scores: 1 and 0 for predictions that mean what they say.

    A slope below 1 says that predictions are too far apart, above 1 that they are too close together (Cox 1958; Steyerberg,
    Clinical Prediction Models, chapter 15).

    Args:
        observed: (n,) scores.
        predicted: (n,) predictions.
        resampler: How the images are resampled.

    Returns:
        Rows ``calibration_slope`` and ``calibration_intercept``: ``metric, value, ci_low, ci_high``, and the interval of
        independent images; NaN for constant predictions.
    """

    def line(counts: NDArray) -> NDArray:
        total = counts.sum(axis=1)
        x, y = counts @ predicted / total, counts @ observed / total
        spread = counts @ predicted**2 / total - x**2
        together = counts @ (predicted * observed) / total - x * y
        real = spread > 1e-12 * np.maximum(x**2, 1e-12)
        slope = np.divide(together, spread, out=np.full_like(x, np.nan), where=real)
        return np.stack([slope, y - slope * x], axis=1)

    alone = Resampler(resampler.n, resampler.resamples, resampler.seed)
    ends = {}
    for suffix, some in (("", resampler), ("_independent", alone)):
        value, samples = some.evaluate(line)
        ends[f"ci_low{suffix}"], ends[f"ci_high{suffix}"] = some.interval(value, samples)
    return pd.DataFrame({"metric": ["calibration_slope", "calibration_intercept"], "value": value, **ends})


def difference_rows(
    test: pd.DataFrame,
    predictors: Sequence[str],
    resamples: int,
    seed: int,
    cluster: str | None = None,
    pairs: Sequence[tuple[str, str]] = DIFFERENCES,
) -> pd.DataFrame:
    """Compare predictors' Spearman correlations pairwise, on resamples drawn together.

    Args:
        test: As for `metric_table`.
        predictors: Those there are; pairs with a missing one are left out.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        cluster: ``--cluster``: what is resampled together.
        pairs: Which to compare.

    Returns:
        Rows of the form of `metric_table`, predictor ``a - b``, metric ``spearman``.
    """
    pairs = [pair for pair in pairs if set(pair) <= set(predictors)]
    differences = paired_difference(
        test, pairs, resamples=resamples, seed=seed, min_images=3, cluster=cluster
    )
    names = differences["measure_a"] + " - " + differences["measure_b"]
    columns = ["ci_low", "ci_high", "p", "ci_low_independent", "ci_high_independent", "p_independent"]
    columns += ["n", "cluster", "clusters", "resamples", "seed"]
    return differences[columns].assign(predictor=names, metric="spearman", value=differences["difference"])


def add_family_q(metrics: pd.DataFrame) -> pd.DataFrame:
    """Put q values beside the p values of one model's metrics, a family per claim.

    Families: that predictors predict at all, overall, within categories and within subcategories (one family each, its
    members the predictors); that predictors differ (its members the differences).
    """
    difference = metrics["predictor"].str.contains(" - ", regex=False)
    q = metrics["p"].groupby([difference, metrics["metric"]], sort=False).transform(false_discovery_q)
    return metrics.assign(q=q)


def _in_numbers(metrics: pd.DataFrame, difference: pd.Series, other: str) -> str:
    """Say the rho of the MLP and of another predictor, and their difference with its interval."""
    rho = metrics[metrics["metric"] == "spearman"].set_index("predictor")["value"]
    return (
        f"test rho {rho[MLP]:.3f} against {rho[other]:.3f}, difference {difference['value']:+.3f} "
        f"[{difference['ci_low']:+.3f}, {difference['ci_high']:+.3f}]"
    )


def verdict(metrics: pd.DataFrame) -> str:
    """Say in one sentence whether the MLP or the ridge predicts better."""
    row = metrics[metrics["predictor"] == f"{MLP} - {RIDGE}"].iloc[0]
    numbers = _in_numbers(metrics, row, RIDGE)
    if row["ci_high"] < 0:
        return f"Ridge regression on the same latents BEATS the MLP: {numbers}."
    if row["ci_low"] > 0:
        return f"The MLP beats ridge regression on the same latents: {numbers}."
    lead = "ridge is ahead" if row["value"] < 0 else "the MLP is ahead" if row["value"] > 0 else "equal"
    return f"The MLP and ridge regression on the same latents cannot be told apart ({lead}): {numbers}."


def recognition_verdict(metrics: pd.DataFrame) -> str:
    """Say in one sentence whether the MLP predicts more than recognising the subcategory does; empty without one."""
    rows = metrics[metrics["predictor"] == f"{MLP} - {SUBCATEGORY_MEAN}"]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    numbers = _in_numbers(metrics, row, SUBCATEGORY_MEAN)
    if row["ci_high"] < 0:
        return f"Knowing the subcategory's mean training score alone BEATS the MLP: {numbers}."
    if row["ci_low"] > 0:
        return f"The MLP predicts more than the subcategory's mean training score: {numbers}."
    return f"The MLP cannot be told from knowing the subcategory's mean training score: {numbers}."
