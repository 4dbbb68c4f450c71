"""Stage 9: codes moved so that their predicted score changes."""

from utils.core.declarations.columns import (
    CATEGORY,
    IMAGE_ID,
    MEMORABILITY,
    MODEL,
    SUBCATEGORY,
    Column,
    Table,
    boolean,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)

_COMMAND = "python memorability_steering.py"
_STEP = real("step", "least PSNR of a steered picture against its reconstruction (--psnr-budget)", "dB")
_METHOD = text(
    "method",
    "gradient, ridge: methods; descent, random, contrast, saturation, sharpness: controls at the same change of the "
    "picture",
)


def _disturbed(name: str, what: str) -> Column:
    return estimate(f"gain_{name}", f"predicted gain with both pictures {what}; empty for controls", "score")


TABLES: dict[str, Table] = {
    "steering": Table(
        "steering_{model}.csv",
        _COMMAND,
        "Predicted memorability before and after each move of each image. Before is always the image's reconstruction "
        "D(E(x)); every score is that of a saved 8-bit PNG, read again.",
        (
            IMAGE_ID,
            CATEGORY,
            SUBCATEGORY,
            MEMORABILITY,
            _STEP,
            _METHOD,
            real("score_before", "score that the steered head predicts for the reconstruction", "score"),
            real("score_after", "score that it predicts for the moved picture", "score"),
            estimate("judge_before", "score that the judge predicts for the reconstruction", "score"),
            estimate("judge_after", "score that the judge predicts for the moved picture", "score"),
            estimate(
                "psnr",
                "PSNR of the moved picture against the reconstruction; empty where they are equal",
                "dB",
            ),
            real("ssim", "SSIM of the same; 1: equal"),
            estimate("lpips", "LPIPS (squeezenet) of the same; only with --lpips-budget"),
            estimate("code_shift", "Euclidean length of the move in the code; empty for plain edits"),
            estimate(
                "code_distance",
                "distance of the moved code to the nearest training code; empty for plain edits",
            ),
            text(
                "limited_by",
                "what ended the move: fidelity (the budget) or codes (the training codes' neighbourhood)",
            ),
            boolean("rose", "whether the head's score rose at all"),
            _disturbed("jpeg", "saved as JPEG of quality 75"),
            _disturbed("shift", "shifted by 4 px"),
            _disturbed("blur", "blurred, standard deviation 1 px"),
            estimate(
                "survived",
                "1 where the score rose and at least half of the gain is left under each of the three; 0 otherwise; empty "
                "for controls",
            ),
            text("picture", "the moved picture, in the output folder"),
        ),
        key=("image_id", "step", "method"),
    ),
    "steering_summary": Table(
        "steering_summary.csv",
        _COMMAND,
        "Mean predicted gains over the images, and their paired differences to each control. One family of tests: all "
        "rows of a model.",
        (
            MODEL,
            _STEP,
            _METHOD,
            text("versus", "control that is subtracted; reconstruction for the gain itself"),
            text(
                "predictor",
                "head (which was steered by) or judge (which shares neither features nor images with it)",
            ),
            integer("n", "images"),
            estimate("gain", "mean gain, or mean difference of gains", "score"),
            *interval("its 95 % interval, over images (whole clusters) and, where heads > 0, over heads"),
            estimate("p", "two-sided p-value of no difference, with the same two sources of spread"),
            estimate("q", "Benjamini-Hochberg q over the model's rows"),
            estimate(
                "gain_sd", "gain in standard deviations of the predictor's scores over the reconstructions"
            ),
            integer(
                "heads",
                "heads trained on resampled images that the interval takes in; 0: it holds for this head only",
            ),
            estimate("share_rose", "share of the images with a difference above 0", "share, 0..1"),
            estimate(
                "share_survived",
                "share of the images whose gain survives JPEG, shift and blur",
                "share, 0..1",
            ),
            estimate("psnr_median", "median PSNR of the pictures", "dB"),
            estimate(
                "transfer",
                "the judge's gain_sd over the head's: how much of the gain a second opinion confirms; in rows of the judge",
            ),
            *interval("its 95 % bootstrap interval over images and heads", prefix="transfer_"),
            *resampling("bootstrap resamples behind the interval of transfer"),
        ),
        key=("model", "step", "method", "versus", "predictor"),
    ),
    "steering_features": Table(
        "steering_features.csv",
        _COMMAND,
        "Which properties of the pictures move with the predicted score: features of the moved picture minus those of the "
        "reconstruction.",
        (
            MODEL,
            _STEP,
            _METHOD,
            text("feature", "feature of image_features.csv"),
            integer("n", "images on which it is defined before and after"),
            real("difference", "mean difference, in the feature's unit"),
            *interval("its 95 % interval over the images (whole clusters)"),
            estimate(
                "difference_sd", "difference in standard deviations of the feature over the reconstructions"
            ),
            estimate("p", "two-sided p-value of no difference"),
            estimate("q", "Benjamini-Hochberg q over the model's rows"),
        ),
        key=("model", "step", "method", "feature"),
    ),
}
