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


# What clusters and the size of pictures are known from, where the score table says.
ABOUT = (
    text("group", "images that belong together (--group-column); absent where none do", nullable=True),
    Column(
        "pixel_count",
        "float",
        "pixels of the picture by the score table; absent where it has none",
        nullable=True,
    ),
)

TABLES: dict[str, Table] = {
    "image_features": Table(
        "image_features.csv",
        "python feature_analysis.py --calculate-features",
        "Colour, texture, structure, composition, faces and scene of each image, from its file at its own size (longer "
        "side reduced to 1,024 px at most). Only the groups of the last --calculate-features run are there.",
        (*SCORED_IMAGE, *ABOUT, *_feature_columns()),
        optional=(*(column.name for column in ABOUT), *ALL_FEATURES),
    ),
    "image_features_crop": Table(
        "image_features_crop.csv",
        "python feature_analysis.py --calculate-features",
        "The same features of the crop that the networks saw, at the size they saw it (--region crop).",
        (*SCORED_IMAGE, *ABOUT, *_feature_columns()),
        optional=(*(column.name for column in ABOUT), *ALL_FEATURES),
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
            text(
                "region",
                "full: features of the whole picture (image_features.csv); crop: of what the network saw",
            ),
            text("group", f"one of {', '.join((*ALL_GROUPS, RELEASED))}"),
            integer("n", "images that have both"),
            text("cluster", "what is resampled together: subcategory, group or image"),
            integer("clusters", "how many of them"),
            estimate("rho", "Spearman correlation; empty for a constant feature or under 10 images"),
            *interval("its 95 % interval, clusters resampled whole"),
            estimate("p", "two-sided p of rho, cluster-robust"),
            estimate("q", "Benjamini-Hochberg q over all features of one target and region"),
            *interval("its 95 % interval if all images were independent", suffix="_independent"),
            estimate("p_independent", "two-sided p of rho if all images were independent"),
            estimate(
                "rho_within_category",
                "the same from ranks inside each category, pooled; empty with one category",
            ),
            *interval("its 95 % interval, clusters resampled whole", suffix="_within_category"),
            estimate("p_within_category", "two-sided p of it, cluster-robust"),
            estimate(
                "q_within_category", "Benjamini-Hochberg q of it over all features of one target and region"
            ),
            *resampling("bootstrap resamples of the images", "seed of the resampling"),
        ),
        key=("feature", "target", "model", "region"),
    ),
    "feature_model": Table(
        "feature_model.csv",
        "python feature_analysis.py --evaluate-features",
        "Memorability predicted from features of a region by cross-validation: how well. Rows of one model share their images and folds; "
        "features alone are repeated for a model only where it has fewer images. What features add to error and "
        "distinctiveness is in feature_commonality.csv.",
        (
            text("region", "full: of the whole picture; crop: of what the networks saw"),
            text("learner", "gradient boosting, or ridge (linear)"),
            text("predictors", "image features, error and distinctiveness, or both"),
            text("model", "model of the error and distinctiveness; empty for features alone", nullable=True),
            integer("columns", "number of predictor columns"),
            integer("n", "images"),
            integer(
                "clusters",
                "what is dealt to folds, permuted and resampled as a whole: subcategories, or images",
            ),
            integer(
                "folds",
                "folds, whole clusters dealt within categories; each image is predicted once, by a fit without it",
            ),
            estimate(
                "rho", "Spearman correlation of prediction and memorability from ranks inside folds, pooled"
            ),
            *interval(
                "its 95 % interval, clusters resampled whole, widened for training images that folds share"
            ),
            estimate("p", "two-sided p of rho, by permuting whole clusters, corrected likewise"),
            estimate("q", "Benjamini-Hochberg q over the table, all regions"),
            estimate("rho_within_category", "rho from ranks inside each category of each fold, pooled"),
            real("r2", "1 - squared error / squared error of the training mean; below 0 is worse than that"),
            real("mae", "mean absolute error", "memorability score"),
            integer("permutations", "permutations behind p"),
            *resampling("bootstrap resamples", "seed of folds, learners, permutations and resampling"),
        ),
        key=("region", "learner", "predictors", "model"),
    ),
    "feature_commonality": Table(
        "feature_commonality.csv",
        "python feature_analysis.py --evaluate-features",
        "Variance of ranked memorability that each kind of measure explains alone, that only it explains, and that it shares with "
        "the others, in linear models of ranks. What chance explains is measured by permutation and taken off: a kind of measure "
        "that adds nothing has a unique variance of 0 on average, and may fall below it.",
        (
            text("region", "full: of the whole picture; crop: of what the networks saw"),
            text("model", "model of the reconstruction error and distinctiveness"),
            text(
                "block",
                "reconstruction error, distinctiveness, image features, category, size; together: all of them",
            ),
            integer("columns", "columns after ranking: gaps and categories have their own"),
            integer("n", "images"),
            integer("clusters", "what is permuted and left out as a whole: subcategories, or images"),
            estimate("alone", "share of variance that the block explains by itself", "share"),
            estimate("unique", "share of variance that is lost without the block", "share"),
            estimate(
                "shared", "alone - unique; below 0: the block says more beside the others than alone", "share"
            ),
            *interval("the 95 % interval of unique (delete-one-cluster jackknife)"),
            estimate("p", "one-sided p of unique, by permuting whole clusters"),
            estimate("q", "Benjamini-Hochberg q over the blocks of one model and region"),
            integer("permutations", "permutations behind p"),
            integer("seed", "seed of the permutations"),
        ),
        key=("region", "model", "block"),
    ),
    "feature_importance": Table(
        "feature_importance.csv",
        "python feature_analysis.py --evaluate-features",
        "Permutation importance in the model of image features alone: what its rho loses when a feature is shuffled "
        "among the images of each fold. Features that say the same share their importance.",
        (
            text("region", "full: of the whole picture; crop: of what the networks saw"),
            text("learner", "gradient boosting or ridge"),
            text("feature", "column of image_features.csv"),
            text("group", f"one of {', '.join((*ALL_GROUPS, RELEASED))}"),
            estimate(
                "importance",
                "mean loss of the cross-validated rho (ranks inside folds); larger: relied on more",
            ),
            estimate("sd", "standard deviation of the loss over shuffles"),
            integer("repeats", "shuffles"),
            integer("n", "images"),
            integer("seed", "seed of the shuffles"),
        ),
        key=("region", "learner", "feature"),
    ),
}
