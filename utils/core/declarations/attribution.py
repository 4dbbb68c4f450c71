"""Stage 7: which pixels a predicted score rests on."""

from utils.core.declarations.columns import (
    CATEGORY,
    IMAGE_ID,
    MEMORABILITY,
    MODEL,
    SPLIT,
    SUBCATEGORY,
    Column,
    Table,
    boolean,
    estimate,
    integer,
    interval,
    real,
    text,
)


def _region_columns(name: str, region: str) -> tuple[Column, ...]:
    return (
        estimate(
            f"share_inside_{name}",
            f"share of the absolute attribution inside {region}; empty where there is none or nobody looked",
            "share, 0..1",
        ),
        estimate(
            f"area_{name}",
            f"share of the picture's crop covered by {region}, which is what an even map would put there; 0 where there is none",
            "share, 0..1",
        ),
    )


TABLES: dict[str, Table] = {
    "ig": Table(
        "ig_{model}.csv",
        "python model_interpretation_IG.py --save",
        "Integrated Gradients of the predicted memorability score, one row per image. Row i belongs to the map ig_<model>.npy[i] "
        "(float16, one value per pixel: attribution summed over the colour channels, times the number of pixels, so that the mean "
        "of a map is attribution_sum). Columns on objects and foreground are empty until python feature_analysis.py "
        "--calculate-features, or --detect, has looked for them.",
        (
            IMAGE_ID,
            CATEGORY,
            SUBCATEGORY,
            SPLIT,
            MEMORABILITY,
            real("prediction", "predicted memorability score of the image", "score"),
            real("baseline_prediction", "predicted memorability score of the baseline", "score"),
            real("attribution_sum", "sum of the attributions over all pixels", "score"),
            real(
                "convergence_delta",
                "attribution_sum - (prediction - baseline_prediction); 0 for an exact integral; with --smooth, on average over "
                "the noisy copies",
                "score",
            ),
            boolean(
                "converged",
                "whether |delta| is at most the tolerance times |prediction - baseline_prediction|, however small that is",
            ),
            integer("steps", "steps of the integral, after any doubling"),
            estimate(
                "positive_share",
                "share of the absolute attribution that raises the prediction; 0.5: balanced",
                "share, 0..1",
            ),
            estimate(
                "concentration",
                "Gini coefficient of the absolute attribution over pixels; larger: fewer pixels carry the prediction",
                "0..1",
            ),
            estimate(
                "centre_distance",
                "mean distance of the absolute attribution from the image's centre; 0.54 if it is even, larger: further out",
                "half diagonals, 0..1",
            ),
            *_region_columns("objects", "all detected objects (their boxes together)"),
            *_region_columns("largest_object", "the box of the largest detected object"),
            *_region_columns("foreground", "all segments but background"),
        ),
    ),
    "ig_baselines": Table(
        "ig_baselines_{model}.csv",
        "python model_interpretation_IG.py --save --baseline black mean blur expected",
        "Whether maps agree when the baseline changes, for each image and pair of baselines. The maps of the first baseline are "
        "ig_<model>.npy, those of each other one ig_<model>@<baseline>.npy, row by row.",
        (
            IMAGE_ID,
            text("baseline", "baseline of the one map"),
            text("other_baseline", "baseline of the other map"),
            estimate("rho", "Spearman's rho of the two maps over pixels, signed"),
            estimate("rho_absolute", "the same of the absolute maps"),
        ),
        key=("image_id", "baseline", "other_baseline"),
    ),
    "ig_verdicts": Table(
        "ig_verdicts.csv",
        "python model_interpretation_IG.py --save --check",
        "What the checks of ig_checks.csv came to: a gain per image that is positive where the attribution passes. Randomisation "
        "(signed and absolute maps): half of the agreement that the true weights have with themselves, less what is left of it "
        "with all weights shuffled. Deletion, insertion: how much lower, or higher, the score runs than in random orders.",
        (
            MODEL,
            text("check", "randomisation, randomisation_absolute, deletion or insertion"),
            integer("n", "images"),
            integer(
                "clusters", "subcategories, whose images are averaged first; images where there are none"
            ),
            estimate("mean", "mean gain over clusters", "rho or score"),
            *interval("its 95 % interval (Student's t over clusters)"),
            estimate("p", "two-sided p of a mean gain of 0"),
            text("verdict", "passed, failed, or unclear where the interval contains 0 or does not exist"),
        ),
        key=("model", "check"),
    ),
    "ig_checks": Table(
        "ig_checks.csv",
        "python model_interpretation_IG.py --save --check",
        "Whether the attributions can be trusted, on a few images. randomisation, randomisation_absolute: Spearman's rho over pixels "
        "(signed, absolute) between the true map and that of a network whose weights were shuffled from the output down to a level; "
        "level '0 none' has the true weights and half the steps. single_layer, single_layer_absolute: the same with the weights of "
        "that layer alone shuffled (shown, not judged). deletion, insertion: predicted score after a share (level) of the "
        "patches was replaced by the baseline, or put onto it, from most to least in favour; 'area' is the mean along the way.",
        (
            IMAGE_ID,
            MODEL,
            text("check", "randomisation, single_layer (both also _absolute), deletion or insertion"),
            text("level", "weights shuffled, share of patches, or area"),
            estimate("value", "rho, or predicted score in the map's order", "rho or score"),
            estimate("control", "predicted score in random orders, on average", "score"),
        ),
        key=("image_id", "model", "check", "level"),
    ),
}
