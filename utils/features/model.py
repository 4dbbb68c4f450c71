"""How much of memorability image features explain, by cross-validation, and what they add to the autoencoder.

Every image is predicted exactly once, by a model fitted without it and without any image of its cluster. Two learners:
ridge regression (what a linear reading of the features gives) and gradient boosting (interactions and thresholds as
well). Predictions are correlated with memorability inside folds (`utils/features/fold_inference.py`); what features add
is told by `utils/features/commonality.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from utils.core.feature_names import ALL_FEATURES, RELEASED
from utils.core.log import log
from utils.features.commonality import TOGETHER, commonality
from utils.features.fold_inference import cluster_codes, fold_interval, fold_rho, fold_test
from utils.statistics.correlation_tables import false_discovery_q, find_clusters

CIRCULAR = ("hsv_hue_mean",)
LEARNERS = ("gradient boosting", "ridge")
FROM_FEATURES, FROM_ERROR, FROM_BOTH = "image features", "error and distinctiveness", "both"
SIZE = "pixel_count"

MIN_IMAGES_PER_FOLD = 4
"""With fewer images per fold neither the fit nor its rho says anything."""


@dataclass(frozen=True)
class ModelSettings:
    """How the models are fitted and judged.

    Attributes:
        folds: folds of the cross-validation.
        repeats: shuffles per feature behind the permutation importance.
        resamples: bootstrap resamples of the images.
        seed: seed of folds, learners, shuffles, permutations and resamples.
        permutations: permutations behind each p.
        cluster: ``--cluster``: which images hang together; dealt to folds, permuted and resampled as a whole.
    """

    folds: int = 5
    repeats: int = 5
    resamples: int = 1000
    seed: int = 0
    permutations: int = 999
    cluster: str | None = None

    @property
    def min_images(self) -> int:
        """The fewest images that are worth a model."""
        return MIN_IMAGES_PER_FOLD * self.folds


def linearise(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the cosine and sine of circular features, as ``<name>_cos`` and ``<name>_sin``.

    Ranks and linear models cannot see that 359 degrees is next to 0.
    """
    added: dict[str, pd.Series] = {}
    for name in CIRCULAR:
        if name in frame:
            radians = np.deg2rad(frame[name])
            added |= {f"{name}_cos": np.cos(radians), f"{name}_sin": np.sin(radians)}
    return frame.assign(**added)


def feature_group(name: str) -> str:
    """The group of a feature, or of the cosine or sine of one."""
    return ALL_FEATURES[name.removesuffix("_cos").removesuffix("_sin")].group


def predictor_columns(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The columns by which each feature of a linearised frame enters a model.

    Features that are the same in all images, or missing in all, are left out, as are those of the released recipe,
    which repeat ours.
    """
    columns = {}
    for name, feature in ALL_FEATURES.items():
        if feature.group == RELEASED:
            continue
        parts = [f"{name}_cos", f"{name}_sin"] if name in CIRCULAR else [name]
        if all(part in frame for part in parts) and any(frame[part].nunique() > 1 for part in parts):
            columns[name] = parts
    return columns


def assign_folds(
    category: Sequence[str], folds: int, seed: int, clusters: Sequence | np.ndarray | None = None
) -> np.ndarray:
    """Deal the images of each category evenly over the folds, whole clusters at a time.

    A fit that has seen other bears predicts a bear by recognising it; so the members of a cluster stay in one fold.

    Args:
        category: (n,) labels.
        folds: number of folds.
        seed: seed of the dealing; the global random state is left alone.
        clusters: (n,) labels of images that are alike, each within one category; None deals single images.

    Returns:
        (n,) fold numbers 0..folds-1. Single images: sizes differing by one at most, overall and within each category.
        Clusters: the largest first, each to the fold that has the fewest images of its category, then overall.
    """
    names = np.asarray(category, dtype=str)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    result = np.empty(len(names), dtype=int)
    if clusters is None:
        dealt = shuffled[np.argsort(names[shuffled], kind="stable")]
        result[dealt] = np.arange(len(names)) % folds
        return result
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    members = [np.flatnonzero(codes == code) for code in dict.fromkeys(codes[shuffled])]
    overall, inside = np.zeros(folds), {name: np.zeros(folds) for name in np.unique(names)}
    for images in sorted(members, key=len, reverse=True):
        own = inside[names[images[0]]]
        fold = int(np.lexsort((overall, own))[0])
        result[images] = fold
        own[fold] += len(images)
        overall[fold] += len(images)
    return result


def make_learner(name: str, n: int, seed: int) -> Any:
    """Make an unfitted learner that copes with missing values.

    Args:
        name: one of `LEARNERS`.
        n: images it will be fitted on; few images get small leaves.
        seed: seed of the learner.
    """
    if name == "gradient boosting":
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(
            learning_rate=0.05,
            max_iter=200,
            max_leaf_nodes=15,
            min_samples_leaf=max(2, min(20, n // 20)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Missing means "no object" or "no hue", which may itself matter: hence the indicator columns.
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(impute, StandardScaler(), RidgeCV(alphas=np.logspace(-2, 5, 22)))


@dataclass(frozen=True)
class CrossValidation:
    """One learner fitted once per fold.

    Attributes:
        predicted: (n,) the prediction of each image by the fit without it.
        models: one fitted learner per fold.
        folds: (n,) the fold of each image.
    """

    predicted: np.ndarray
    models: list[Any]
    folds: np.ndarray

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Predict (n, k) values, each image by the fit without it."""
        predicted = np.empty(len(values))
        for fold, model in enumerate(self.models):
            held_out = self.folds == fold
            predicted[held_out] = model.predict(values[held_out])
        return predicted


def cross_validate(
    learner: str, values: np.ndarray, target: np.ndarray, folds: np.ndarray, seed: int
) -> CrossValidation:
    """Fit a learner once per fold on the images outside it.

    Args:
        learner: one of `LEARNERS`.
        values: (n, k) predictors, NaN where missing.
        target: (n,) memorability.
        folds: (n,) fold numbers.
        seed: seed of the learner.
    """
    models = []
    with warnings.catch_warnings():
        # An indicator column that is constant within a fold: standardised to 0, which is right.
        warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
        for fold in range(folds.max() + 1):
            outside = folds != fold
            model = make_learner(learner, int(outside.sum()), seed)
            models.append(model.fit(values[outside], target[outside]))
        unjudged = CrossValidation(np.empty(0), models, folds)
        return CrossValidation(unjudged.predict(values), models, folds)


def permutation_importance(
    fitted: CrossValidation,
    values: np.ndarray,
    target: np.ndarray,
    columns: dict[str, list[int]],
    repeats: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """What the cross-validated rho loses when a feature is shuffled among the images of each fold.

    Shuffling stays inside folds so that each image is still judged by the fit without it.

    Args:
        fitted: the learner.
        values: (n, k) predictors it was fitted on.
        target: (n,) memorability.
        columns: per feature the columns it enters by; these are shuffled together.
        repeats: shuffles per feature.
        seed: seed of the shuffles.

    Returns:
        Per feature the mean and standard deviation of the loss over shuffles; larger means relied on more.
        NaN where the prediction is constant.
    """
    rng = np.random.default_rng(seed)
    reference = fold_rho(fitted.predicted, target, fitted.folds)
    members = [np.flatnonzero(fitted.folds == fold) for fold in range(len(fitted.models))]
    importance = {}
    for name, positions in columns.items():
        losses = []
        for _ in range(repeats):
            source = np.arange(len(values))
            for inside in members:
                source[inside] = rng.permutation(inside)
            shuffled = values.copy()
            shuffled[:, positions] = values[source][:, positions]
            losses.append(reference - fold_rho(fitted.predict(shuffled), target, fitted.folds))
        importance[name] = (float(np.mean(losses)), float(np.std(losses)))
    return importance


Fits = dict[tuple[str, str], CrossValidation]


def clusters_of(frame: pd.DataFrame, settings: ModelSettings) -> np.ndarray | None:
    """(n,) codes of the images that hang together; None where every image is on its own.

    With fewer clusters than folds the images are dealt singly, which the log says: then features that merely recognise a
    subcategory predict its memorability.
    """
    codes = find_clusters(frame, settings.cluster).codes(frame)
    if codes is None or codes.max(initial=0) + 1 >= settings.folds:
        return codes
    log.warning(
        "%d clusters cannot be dealt to %d folds as a whole: images are dealt singly, and what is predicted may be "
        "recognition. Use fewer --folds.",
        codes.max(initial=0) + 1,
        settings.folds,
    )
    return None


def fit_all(frame: pd.DataFrame, predictors: dict[str, list[str]], settings: ModelSettings) -> Fits:
    """Cross-validate every learner on every set of predictors, on the same images and folds.

    Args:
        frame: ``category, memorability``, what clusters are made of, and the predictors, one row per image.
        predictors: columns by the name of their set.
        settings: how to fit.

    Returns:
        The fits by learner and name of the set.
    """
    target = frame["memorability"].to_numpy(float)
    folds = assign_folds(frame["category"], settings.folds, settings.seed, clusters_of(frame, settings))
    return {
        (learner, name): cross_validate(learner, frame[columns].to_numpy(float), target, folds, settings.seed)
        for learner in LEARNERS
        for name, columns in predictors.items()
    }


def importance_rows(
    frame: pd.DataFrame, columns: dict[str, list[str]], fits: Fits, settings: ModelSettings
) -> pd.DataFrame:
    """Permutation importance of each image feature, for each learner: the rows of ``feature_importance.csv``.

    Args:
        frame: ``memorability`` and the linearised features, one row per image.
        columns: per feature the columns it enters by.
        fits: by `fit_all` on these images; those on `FROM_FEATURES` are used.
        settings: how often to shuffle.
    """
    names = [part for parts in columns.values() for part in parts]
    positions = {name: [names.index(part) for part in parts] for name, parts in columns.items()}
    values, target = frame[names].to_numpy(float), frame["memorability"].to_numpy(float)
    rows = []
    for learner in LEARNERS:
        fitted = fits[learner, FROM_FEATURES]
        importance = permutation_importance(
            fitted, values, target, positions, settings.repeats, settings.seed
        )
        rows += [
            {"learner": learner, "feature": name, "group": feature_group(name), "importance": mean, "sd": sd}
            for name, (mean, sd) in sorted(importance.items(), key=lambda item: -np.nan_to_num(item[1][0]))
        ]
    return pd.DataFrame(rows).assign(repeats=settings.repeats, n=len(frame), seed=settings.seed)


def model_rows(
    frame: pd.DataFrame, predictors: dict[str, list[str]], fits: Fits, settings: ModelSettings
) -> pd.DataFrame:
    """Judge cross-validated predictions: the rows of ``feature_model.csv`` except for ``model`` and ``q``.

    Args:
        frame: ``category`` and ``memorability``, and what clusters are made of, one row per image.
        predictors: columns by the name of their set.
        fits: by `fit_all` on these images.
        settings: how to judge.
    """
    target = frame["memorability"].to_numpy(float)
    codes = clusters_of(frame, settings)
    clusters = cluster_codes(codes, len(frame))
    rows = []
    for (learner, name), fitted in fits.items():
        test = fold_test(
            fitted.predicted, target, fitted.folds, clusters, settings.permutations, settings.seed
        )
        low, high = fold_interval(
            fitted.predicted, target, fitted.folds, codes, settings.resamples, settings.seed
        )
        error = target - fitted.predicted
        rows.append(
            {
                "learner": learner,
                "predictors": name,
                "columns": len(predictors[name]),
                "n": len(frame),
                "rho": test.rho,
                "ci_low": low,
                "ci_high": high,
                "p": test.p,
                "rho_within_category": _within_category(frame, fitted),
                "mae": np.abs(error).mean(),
                "r2": 1 - (error**2).sum() / ((target - _outside_means(target, fitted.folds)) ** 2).sum(),
            }
        )
    extra = {"folds": settings.folds, "resamples": settings.resamples, "seed": settings.seed}
    return pd.DataFrame(rows).assign(clusters=clusters.max() + 1, permutations=settings.permutations, **extra)


def _within_category(frame: pd.DataFrame, fitted: CrossValidation) -> float:
    """Rho from ranks inside each category of each fold, pooled; NaN with one category."""
    category = frame["category"].fillna("").astype(str)
    if (category == "").any() or category.nunique() < 2:
        return float("nan")
    labels = (category + "/" + pd.Series(fitted.folds, index=frame.index).astype(str)).to_numpy(str)
    return fold_rho(fitted.predicted, frame["memorability"].to_numpy(float), labels)


def _outside_means(target: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(n,) the mean score of the images outside each image's fold: what a fit that learned nothing predicts."""
    means = np.array([target[folds != fold].mean() for fold in range(folds.max() + 1)])
    return means[folds]


def commonality_rows(
    frame: pd.DataFrame, features: list[str], errors: list[str], settings: ModelSettings
) -> pd.DataFrame:
    """What each kind of measure explains that no other does: the rows of ``feature_commonality.csv`` except ``model``.

    Args:
        frame: ``category, memorability``, the predictors, and the pixel count where it is known, one row per image.
        features: columns of the image features.
        errors: columns of reconstruction errors and distinctiveness.
        settings: how to judge.
    """
    blocks = {
        "reconstruction error": [name for name in errors if name != "distinctiveness"],
        "distinctiveness": [name for name in errors if name == "distinctiveness"],
        "image features": features,
        "category": ["category"] if frame["category"].fillna("").ne("").all() else [],
        "size": [SIZE] if SIZE in frame and frame[SIZE].notna().all() else [],
    }
    clusters = cluster_codes(clusters_of(frame, settings), len(frame))
    found = commonality(
        frame,
        {name: columns for name, columns in blocks.items() if columns},
        clusters,
        permutations=settings.permutations,
        seed=settings.seed,
    )
    if found.empty:
        log.warning(
            "Unique and shared variance are left out: %d images are too few for the columns.", len(frame)
        )
    parts = found["block"] != TOGETHER
    q = found["p"].where(parts).pipe(false_discovery_q)
    return found.assign(
        q=q, clusters=clusters.max(initial=0) + 1, permutations=settings.permutations, seed=settings.seed
    )


@dataclass(frozen=True)
class FeatureModels:
    """What features say of memorability.

    Attributes:
        models: rows of ``feature_model.csv``.
        importances: rows of ``feature_importance.csv``.
        commonality: rows of ``feature_commonality.csv``; empty without reconstruction errors.
    """

    TABLES: ClassVar = {
        "feature_model": "models",
        "feature_importance": "importances",
        "feature_commonality": "commonality",
    }
    models: pd.DataFrame
    importances: pd.DataFrame
    commonality: pd.DataFrame


def feature_model(
    frame: pd.DataFrame, others: dict[str, pd.DataFrame], settings: ModelSettings
) -> FeatureModels | None:
    """Predict memorability from image features alone, and beside reconstruction error and distinctiveness.

    Args:
        frame: ``image_id, category, memorability``, what clusters are made of, and feature columns, one row per image.
        others: per model ``image_id`` and the columns of its errors and distinctiveness.
        settings: how to fit and judge.

    Returns:
        The tables' rows, or None where there are too few images or no feature that varies (said in the log).
    """
    from threadpoolctl import threadpool_limits

    frame = linearise(frame)
    columns = predictor_columns(frame)
    features = [part for parts in columns.values() for part in parts]
    if len(frame) < settings.min_images or not features:
        log.warning(
            "No model of memorability: %d images and %d columns that vary; at least %d images are needed.",
            len(frame),
            len(features),
            settings.min_images,
        )
        return None
    alone = {FROM_FEATURES: features}
    shared = []
    # Boosting on a few thousand rows gains nothing from threads and loses minutes where they have to share cores.
    with threadpool_limits(limits=1):
        fits = fit_all(frame, alone, settings)
        tables = [model_rows(frame, alone, fits, settings).assign(model="")]
        importances = importance_rows(frame, columns, fits, settings)
        for model, other in others.items():
            joined = frame.merge(other, on="image_id", validate="one_to_one")
            errors = [name for name in other.columns if name != "image_id"]
            if len(joined) < settings.min_images:
                log.warning("%s shares only %d images with image_features.csv: left out.", model, len(joined))
                continue
            sets = {FROM_ERROR: errors, FROM_BOTH: features + errors}
            if len(joined) < len(frame):  # on the same images the first rows say it already
                sets = alone | sets
            fits = fit_all(joined, sets, settings)
            tables.append(model_rows(joined, sets, fits, settings).assign(model=model))
            shared.append(commonality_rows(joined, features, errors, settings).assign(model=model))
    models = pd.concat(tables, ignore_index=True)
    models["q"] = false_discovery_q(models["p"])
    return FeatureModels(
        models, importances, pd.concat(shared, ignore_index=True) if shared else pd.DataFrame()
    )
