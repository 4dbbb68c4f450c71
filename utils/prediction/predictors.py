"""The MLP and what it has to beat, each fitted on the training rows and asked of every row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.mlp import MemorabilityMLP
from utils.core.log import log
from utils.prediction.baselines import fit_stack, group_means
from utils.prediction.partition import Split
from utils.prediction.ridge import RidgeFit, Standardisation, fit_least_squares, fit_ridge
from utils.prediction.training import predict_rows

MLP, RIDGE, CONSTANT = "mlp", "ridge", "constant"
ERROR, DISTINCTIVENESS, TOGETHER = "reconstruction-error", "distinctiveness", "ridge+error+distinctiveness"
CATEGORY_MEAN, SUBCATEGORY_MEAN, RECOGNITION = (
    "category-mean",
    "subcategory-mean",
    "ridge+category+subcategory",
)


@dataclass
class Predictions:
    """What every predictor says of every image, and how each was made.

    Attributes:
        values: One row per row of the latent matrix, one column per predictor; NaN where it cannot say.
        details: What each predictor is, in a few words.
    """

    values: pd.DataFrame
    details: dict[str, str] = field(default_factory=dict)


def predict_with_all(
    latents: NDArray,
    scores: NDArray,
    split: Split,
    model: MemorabilityMLP,
    measures: pd.DataFrame,
    standardisation: Standardisation | None = None,
    seed: int = 0,
    groups: pd.DataFrame | None = None,
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
        groups: N rows; ``category`` and ``subcategory``, empty where unknown.

    Returns:
        Predictions of the MLP, the constant, the ridge, and, where the measures are there, a line for each
        measure and a plane over ridge, error and distinctiveness. The plane is fitted on the ridge's
        leave-one-out predictions of the training rows: its fit of them would look better than it is. With groups
        also what recognition alone predicts, see `_add_recognition`.
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
    if groups is not None:
        _add_recognition(predictions, groups, scores, split, ridge)
    return predictions


def _add_recognition(
    predictions: Predictions, groups: pd.DataFrame, scores: NDArray, split: Split, ridge: RidgeFit
) -> None:
    """Add the training means of an image's category and subcategory, and both stacked with the ridge on the codes.

    Subcategories of one name in two categories are two. Where no held-out image is of a subcategory that was trained on
    (``--split-by subcategory``), the subcategory says nothing and stays out of the stack.
    """
    category = groups["category"].fillna("").astype(str)
    subcategory = groups["subcategory"].fillna("").astype(str)
    labelled = np.unique(category[split.train][category[split.train] != ""])
    if len(labelled) < 2:
        return
    parts = {CATEGORY_MEAN: group_means(category, scores, split.train)}
    held_out = np.concatenate([split.val, split.test])
    names = (category + "/" + subcategory).where(subcategory != "", "")
    fine = group_means(names, scores, split.train, parts[CATEGORY_MEAN])
    if (names[split.train] != "").any():
        parts[SUBCATEGORY_MEAN] = fine
    for name, means in parts.items():
        predictions.values[name] = means.values
        known = int(means.seen[split.test].sum())
        predictions.details[name] = (
            f"mean of its training scores; known for {known} of {len(split.test)} test images"
        )
    stacked = [name for name, means in parts.items() if means.seen[held_out].any()]
    rows = ridge.fitted_rows
    left_out = np.column_stack([ridge.left_out, *(parts[name].left_out[rows] for name in stacked)])
    stack = fit_stack(left_out, scores[rows])
    everywhere = np.column_stack([predictions.values[RIDGE], *(parts[name].values for name in stacked)])
    predictions.values[RECOGNITION] = stack.predict(everywhere)
    shown = ", ".join(
        f"{name} {weight:.3g}" for name, weight in zip([RIDGE, *stacked], stack.weights, strict=True)
    )
    predictions.details[RECOGNITION] = f"stacked, weights {shown}"


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
