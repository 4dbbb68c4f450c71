"""How well memorability is predicted, by the MLP and by what it has to beat: one table, on the test split.

Every predictor is fitted on the training split; the validation split stops the MLP and sets the strength of
the ridge; the test split is predicted once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.mlp import MemorabilityMLP
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import SPLITS, TEST, TRAIN, VALIDATION
from utils.data.splits import make_splits
from utils.prediction.ridge import RidgeFit, Standardisation, fit_least_squares, fit_ridge
from utils.prediction.training import predict_rows
from utils.statistics.bootstrap import percentile_interval, resample_counts
from utils.statistics.correlation_tables import (
    classification_metrics,
    mean_interval,
    paired_difference,
    regression_metrics,
    spearman,
)
from utils.statistics.noise_ceiling import score_reliability

MLP, RIDGE, CONSTANT, CEILING = "mlp", "ridge", "constant", "noise-ceiling"
ERROR, DISTINCTIVENESS, TOGETHER = "reconstruction-error", "distinctiveness", "ridge+error+distinctiveness"
DIFFERENCES = ((MLP, RIDGE), (MLP, TOGETHER), (TOGETHER, RIDGE), (RIDGE, ERROR))
CEILING_SPLITS = 50
CURVE_POINTS = 101


@dataclass(frozen=True)
class Split:
    """Positions (rows of the latent matrix) of one train/val/test split.

    Attributes:
        number: 0 for the split of ``splits.csv``, then 1, 2, ...
        seed: The seed it was drawn from.
        train: (n,) positions.
        val: (m,) positions.
        test: (k,) positions.
    """

    number: int
    seed: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass
class Predictions:
    """What every predictor says of every image, and how each was made.

    Attributes:
        values: One row per row of the latent matrix, one column per predictor; NaN where it cannot say.
        details: What each predictor is, in a few words.
    """

    values: pd.DataFrame
    details: dict[str, str] = field(default_factory=dict)


def split_positions(names: pd.Series, positions: NDArray, number: int = 0, seed: int = 0) -> Split:
    """Gather the positions of each split.

    Args:
        names: ``train``, ``val`` or ``test`` per image.
        positions: The image's row in the latent matrix.
        number: The split's number.
        seed: The seed it was drawn from.

    Raises:
        UserError: If a split is too small: 2 training, 1 validation and 3 test images are the least.
    """
    found = {name: np.sort(np.asarray(positions)[names.to_numpy() == name]) for name in SPLITS}
    least = {TRAIN: 2, VALIDATION: 1, TEST: 3}
    if any(len(found[name]) < least[name] for name in least):
        have = ", ".join(f"{name} {len(found[name])}" for name in least)
        need = ", ".join(f"{name} {count}" for name, count in least.items())
        raise UserError(
            f"There are too few images with latent codes to train and test on: found {have}; needed at least {need}. "
            "Use more images (a larger --limit, or a larger set)."
        )
    return Split(number, seed, *(found[name] for name in SPLITS))


def repeated_splits(
    table: pd.DataFrame, positions: NDArray, count: int, seed: int, split_by: str | None = None
) -> list[Split]:
    """Draw further splits of the same images, as ``splits.csv`` is drawn, from the seeds after its own.

    Args:
        table: ``category, subcategory, memorability``, and ``group, source`` where known, sorted by ``image_id``.
        positions: Each image's row in the latent matrix.
        count: How many splits beyond the first.
        seed: Seed of the run; split k is drawn from ``seed + k``.
        split_by: What stays together; see `utils.data.splits.make_splits`.
    """
    free = table.assign(split="")
    return [
        split_positions(make_splits(free, seed + number, split_by), positions, number, seed + number)
        for number in range(1, count + 1)
    ]


# ---------------------------------------------------------------------- predictors


def predict_with_all(
    latents: NDArray,
    scores: NDArray,
    split: Split,
    model: MemorabilityMLP,
    measures: pd.DataFrame,
    standardisation: Standardisation | None = None,
    seed: int = 0,
) -> Predictions:
    """Fit every baseline on the training rows and predict all rows with it and with the MLP.

    Args:
        latents: (N, ...) float matrix.
        scores: (N,) float; NaN where unknown.
        split: Which rows train, validate and test.
        model: The trained MLP.
        measures: N rows; columns ERROR and DISTINCTIVENESS, NaN where unknown, absent where the stage that
            makes them was not run.
        standardisation: Of the training rows; computed when not given.
        seed: For the ridge, where rows must be drawn.

    Returns:
        Predictions of the MLP, the constant, the ridge, and, where the measures are there, a line for each
        measure and a plane over ridge, error and distinctiveness. The plane is fitted on the ridge's
        leave-one-out predictions of the training rows: its fit of them would look better than it is.
    """
    every = np.arange(len(latents))
    ridge = fit_ridge(latents, scores, split.train, split.val, standardisation, seed=seed)
    values = pd.DataFrame(index=every)
    values[MLP] = predict_rows(model, latents, every)
    values[CONSTANT] = float(scores[split.train].mean())
    values[RIDGE] = ridge.predict(latents, every)
    layers = " ".join(str(size) for size in model.hidden_sizes) or "none"
    predictions = Predictions(values, {MLP: f"hidden {layers}, dropout {model.dropout:g}"})
    predictions.details[RIDGE] = f"strength {ridge.strength:.6g}"
    predictions.details[CONSTANT] = "mean of the training scores"
    _warn_at_edge(ridge)
    for name in (ERROR, DISTINCTIVENESS):
        if name in measures:
            _add_line(predictions, name, measures[[name]].to_numpy(), scores, split.train)
    if ERROR in measures and DISTINCTIVENESS in measures:
        everywhere = np.column_stack([values[RIDGE] - ridge.intercept, measures[[ERROR, DISTINCTIVENESS]]])
        for_training = everywhere.copy()
        for_training[ridge.fitted_rows, 0] = _left_out_share(ridge, scores)
        _add_line(predictions, TOGETHER, everywhere, scores, ridge.fitted_rows, for_training)
    return predictions


def _left_out_share(ridge: RidgeFit, scores: NDArray) -> NDArray[np.float64]:
    """What the latents add to each training row's leave-one-out prediction, beyond the mean of the others.

    The mean of the others falls as a row's own score rises. A ridge that says little but the mean would, left
    out row by row, follow the scores backwards, and a plane fitted on it would turn everything around.
    """
    own = scores[ridge.fitted_rows]
    others = (own.sum() - own) / (len(own) - 1)
    return ridge.left_out - others


def _add_line(
    predictions: Predictions,
    name: str,
    features: NDArray,
    scores: NDArray,
    train: NDArray,
    train_features: NDArray | None = None,
) -> None:
    """Fit a line or plane on the training rows that have all features, and predict every row that has them."""
    train_features = features if train_features is None else train_features
    usable = train[np.isfinite(train_features[train]).all(axis=1)]
    if len(usable) < 2:
        log.warning("%s is known for %d training images only; it is left out.", name, len(usable))
        return
    fitted = fit_least_squares(train_features[usable], scores[usable])
    predictions.values[name] = fitted.predict(features)
    slopes = " ".join(f"{slope:.4g}" for slope in fitted.coefficients)
    predictions.details[name] = f"least squares, slope {slopes}"


def _warn_at_edge(ridge: RidgeFit) -> None:
    best = int(np.argmin(ridge.validation_mse))
    if len(ridge.strengths) > 1 and best == len(ridge.strengths) - 1:
        log.warning(
            "The ridge chose the weakest penalty tried (%.3g); a weaker one may do better.", ridge.strength
        )


# ---------------------------------------------------------------------- the table of metrics


def metric_table(
    test: pd.DataFrame, predictors: Sequence[str], threshold: float, resamples: int, seed: int
) -> pd.DataFrame:
    """Evaluate predictors on the same test images.

    Args:
        test: One row per test image: ``memorability``, ``category``, the counts where known, and a column per
            predictor.
        predictors: Columns to evaluate; each on the images it has a prediction for.
        threshold: Median training score; observed and predicted scores above it count as memorable.
        resamples: Bootstrap resamples, 0 for none.
        seed: Seed of the resamples; the same for all, so that the images are resampled together.

    Returns:
        ``predictor, metric, value, ci_low, ci_high, p, n, resamples, seed``.
    """
    reliability = score_reliability(test, splits=CEILING_SPLITS, seed=seed) or {}
    ceiling = reliability.get("ceiling", np.nan)
    parts = []
    for name in predictors:
        known = test[test[name].notna()]
        observed, predicted = known["memorability"].to_numpy(float), known[name].to_numpy(float)
        groups = known["category"].astype(str)
        grouped = groups if (groups != "").all() and groups.nunique() > 1 else None
        found = pd.concat(
            [
                regression_metrics(observed, predicted, resamples, seed, grouped),
                classification_metrics(observed > threshold, predicted, threshold, resamples, seed),
            ],
            ignore_index=True,
        )
        rho, p = spearman(observed, predicted)
        found["p"] = np.where(found["metric"] == "spearman", p, np.nan)
        share = {"metric": "spearman_over_ceiling", "value": rho / ceiling, "n": len(known)}
        parts.append(pd.concat([found, pd.DataFrame([share])], ignore_index=True).assign(predictor=name))
    top = {
        "predictor": CEILING,
        "metric": "spearman",
        "value": ceiling,
        "n": len(test),
        "resamples": reliability.get("splits", CEILING_SPLITS),
    }
    rows = pd.concat([*parts, pd.DataFrame([top])], ignore_index=True)
    return rows.assign(resamples=rows["resamples"].fillna(resamples).astype(int), seed=seed)


def difference_rows(
    test: pd.DataFrame,
    predictors: Sequence[str],
    resamples: int,
    seed: int,
    pairs: Sequence[tuple[str, str]] = DIFFERENCES,
) -> pd.DataFrame:
    """Compare predictors' Spearman correlations pairwise, on resamples drawn together.

    Args:
        test: As for `metric_table`.
        predictors: Those there are; pairs with a missing one are left out.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        pairs: Which to compare.

    Returns:
        Rows of the form of `metric_table`, predictor ``a - b``, metric ``spearman``.
    """
    pairs = [pair for pair in pairs if set(pair) <= set(predictors)]
    found = paired_difference(test, pairs, resamples=resamples, seed=seed, min_images=3)
    return pd.DataFrame(
        {
            "predictor": found["measure_a"] + " - " + found["measure_b"],
            "metric": "spearman",
            "value": found["difference"],
            "ci_low": found["ci_low"],
            "ci_high": found["ci_high"],
            "p": found["p"],
            "n": found["n"],
            "resamples": resamples,
            "seed": seed,
        }
    )


def over_splits(split_rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of each metric over the splits: ``predictor, metric, n_splits, mean_over_splits, ...``."""
    grouped = split_rows.groupby(["predictor", "metric"], sort=False)["value"]
    return grouped.agg(n_splits="size", mean_over_splits="mean", sd_over_splits="std").reset_index()


def verdict(metrics: pd.DataFrame) -> str:
    """Say in one sentence whether the MLP or the ridge predicts better."""
    rho = metrics[metrics["metric"] == "spearman"].set_index("predictor")["value"]
    row = metrics[metrics["predictor"] == f"{MLP} - {RIDGE}"].iloc[0]
    numbers = (
        f"test rho {rho[MLP]:.3f} against {rho[RIDGE]:.3f}, difference {row['value']:+.3f} "
        f"[{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
    )
    if row["ci_high"] < 0:
        return f"Ridge regression on the same latents BEATS the MLP: {numbers}."
    if row["ci_low"] > 0:
        return f"The MLP beats ridge regression on the same latents: {numbers}."
    lead = "ridge is ahead" if row["value"] < 0 else "the MLP is ahead" if row["value"] > 0 else "equal"
    return f"The MLP and ridge regression on the same latents cannot be told apart ({lead}): {numbers}."


# ---------------------------------------------------------------------- numbers behind the figures


def calibration_table(observed: NDArray, predicted: NDArray, resamples: int, seed: int) -> pd.DataFrame:
    """Mean observed score in groups of rising predicted score (deciles, fewer with under 30 images).

    Args:
        observed: (n,) scores.
        predicted: (n,) predictions.
        resamples: Bootstrap resamples within each group.
        seed: Seed of the resamples.

    Returns:
        ``group, n, predicted_mean, observed_mean, ci_low, ci_high``.
    """
    order = np.argsort(predicted, kind="stable")
    rows = []
    for number, group in enumerate(np.array_split(order, min(10, max(1, len(order) // 3))), start=1):
        spread = mean_interval(observed[group], resamples, seed)
        row = {"group": number, "n": len(group), "predicted_mean": predicted[group].mean()}
        rows.append(
            row | {"observed_mean": spread["mean"], "ci_low": spread["ci_low"], "ci_high": spread["ci_high"]}
        )
    return pd.DataFrame(rows)


def curve_table(above: NDArray, predicted: NDArray, resamples: int, seed: int) -> pd.DataFrame:
    """ROC and precision-recall curves with pointwise intervals.

    Args:
        above: (n,) bool, whether the image is above the threshold.
        predicted: (n,) predictions.
        resamples: Bootstrap resamples of the images.
        seed: Seed of the resamples.

    Returns:
        ``curve, x, y, ci_low, ci_high`` on an even grid of x: ``roc`` (true over false positive rate) and
        ``pr`` (precision over recall). NaN where one class is absent.
    """
    order = np.argsort(-predicted, kind="stable")
    # Images with one score enter together: the curve has a point per distinct score.
    ends = np.flatnonzero(np.append(np.diff(predicted[order]) != 0, True))
    positive = above[order].astype(float)
    grid = np.linspace(0, 1, CURVE_POINTS)

    def curves(counts: NDArray) -> NDArray:
        hits = np.cumsum(counts[:, order] * positive, axis=1)[:, ends]
        alarms = np.cumsum(counts[:, order] * (1 - positive), axis=1)[:, ends]
        return np.stack([_one_curve(h, a, grid) for h, a in zip(hits, alarms, strict=True)])

    estimate = curves(np.ones((1, len(order))))[0]
    samples = [curves(counts) for counts in resample_counts(len(order), resamples, seed)]
    low, high = percentile_interval(np.concatenate([np.empty((0, *estimate.shape)), *samples]))
    return pd.concat(
        [
            pd.DataFrame({"curve": name, "x": grid, "y": estimate[i], "ci_low": low[i], "ci_high": high[i]})
            for i, name in enumerate(("roc", "pr"))
        ],
        ignore_index=True,
    )


def _one_curve(hits: NDArray, alarms: NDArray, grid: NDArray) -> NDArray:
    """(2, points): true positive rate at each false positive rate, precision at each recall."""
    if hits[-1] == 0 or alarms[-1] == 0:
        return np.full((2, len(grid)), np.nan)
    recall, false_rate = hits / hits[-1], alarms / alarms[-1]
    roc = np.interp(grid, np.append(0.0, false_rate), np.append(0.0, recall))
    precision = hits / np.maximum(hits + alarms, 1.0)
    # Recall 0 is read at the first hit: before it there is no precision to speak of.
    reached = np.minimum(np.searchsorted(recall, np.maximum(grid - 1e-12, 1e-12)), len(recall) - 1)
    return np.stack([roc, precision[reached]])


def training_percentile(predicted: NDArray, training_scores: NDArray) -> NDArray[np.float64]:
    """Say where scores fall among the observed training scores.

    Args:
        predicted: (n,) scores.
        training_scores: (m,) observed scores of the training images.

    Returns:
        (n,) in [0, 100]: share of training scores below, ties counted half. Predictions are less spread than
        observed scores, so percentiles crowd towards the middle.
    """
    ordered = np.sort(np.asarray(training_scores, dtype=np.float64))
    below = np.searchsorted(ordered, predicted, side="left") + np.searchsorted(
        ordered, predicted, side="right"
    )
    return 50.0 * below / len(ordered)
