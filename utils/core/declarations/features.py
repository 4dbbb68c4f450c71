"""Stage 8: image features and what they have to do with memorability."""

from utils.core.declarations.columns import (
    SCORED_IMAGE,
    Column,
    Table,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)
from utils.core.feature_names import ALL_FEATURES, ALL_GROUPS, RELEASED


def _feature_columns() -> tuple[Column, ...]:
    return tuple(
        Column(
            feature.name,
            "float",
            feature.meaning + (f"; empty where {feature.undefined}" if feature.undefined else ""),
            feature.unit,
            nullable=bool(feature.undefined),
        )
        for feature in ALL_FEATURES.values()
    )


TABLES: dict[str, Table] = {
    "image_features": Table(
        "image_features.csv",
        "python feature_analysis.py --calculate-features",
        "Colour, texture, structure, composition, faces and scene of each image, from its file at its own size (longer "
        "side reduced to 1,024 px at most). Only the groups of the last --calculate-features run are there.",
        (*SCORED_IMAGE, *_feature_columns()),
        optional=tuple(ALL_FEATURES),
    ),
    "feature_correlations": Table(
        "feature_correlations.csv",
        "python feature_analysis.py --evaluate-features",
        "Rank correlation of each feature with memorability and with each column of the attribution table. Hue is "
        "circular, so that its rank correlation depends on where the circle is cut: read its cosine (red against cyan) "
        "and sine (yellow-green against blue-violet) instead.",
        (
            text("feature", "column of image_features.csv; hue also by its cosine and sine"),
            text("target", "memorability, or a column of ig_<model>.csv"),
            text("model", "model of the attribution table; empty for memorability", nullable=True),
            text("group", f"one of {', '.join((*ALL_GROUPS, RELEASED))}"),
            integer("n", "images that have both"),
            estimate("rho", "Spearman correlation; empty for a constant feature or under 10 images"),
            *interval("its 95 % percentile bootstrap interval"),
            estimate("p", "two-sided p of rho"),
            estimate("q", "Benjamini-Hochberg q over all features of one target"),
            estimate(
                "rho_within_category",
                "the same from ranks inside each category, pooled; empty with one category",
            ),
            *resampling("bootstrap resamples of the images", "seed of the resampling"),
        ),
        key=("feature", "target", "model"),
    ),
    "feature_model": Table(
        "feature_model.csv",
        "python feature_analysis.py --evaluate-features",
        "Memorability predicted from features by cross-validation: how well, and what features add to reconstruction error "
        "and distinctiveness. Rows of one model share their images and folds; features alone are repeated for a "
        "model only where it has fewer images.",
        (
            text("learner", "gradient boosting, or ridge (linear)"),
            text("predictors", "image features, error and distinctiveness, or both"),
            text("model", "model of the error and distinctiveness; empty for features alone", nullable=True),
            integer("columns", "number of predictor columns"),
            integer("n", "images"),
            integer(
                "folds", "folds, dealt within categories; each image is predicted once, by a fit without it"
            ),
            estimate("rho", "Spearman correlation of prediction and memorability"),
            *interval("its 95 % percentile bootstrap interval"),
            estimate("p", "two-sided p of rho"),
            estimate("rho_within_category", "rho from ranks inside each category, pooled"),
            real("r2", "1 - squared error / variance; below 0 is worse than the mean"),
            real("mae", "mean absolute error", "memorability score"),
            estimate(
                "gain",
                "rho minus that of error and distinctiveness with the same learner; only where predictors are both",
            ),
            *interval("its 95 % paired bootstrap interval", prefix="gain_"),
            estimate("gain_p", "two-sided bootstrap p of the gain"),
            *resampling("bootstrap resamples of the images", "seed of folds, learners and resampling"),
        ),
        key=("learner", "predictors", "model"),
    ),
    "feature_importance": Table(
        "feature_importance.csv",
        "python feature_analysis.py --evaluate-features",
        "Permutation importance in the model of image features alone: what its rho loses when a feature is shuffled "
        "among the images of each fold. Features that say the same share their importance.",
        (
            text("learner", "gradient boosting or ridge"),
            text("feature", "column of image_features.csv"),
            text("group", f"one of {', '.join((*ALL_GROUPS, RELEASED))}"),
            estimate("importance", "mean loss of the cross-validated rho; larger: relied on more"),
            estimate("sd", "standard deviation of the loss over shuffles"),
            integer("repeats", "shuffles"),
            integer("n", "images"),
            integer("seed", "seed of the shuffles"),
        ),
        key=("learner", "feature"),
    ),
}
