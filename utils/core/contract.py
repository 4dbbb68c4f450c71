"""Every table that one stage hands to the next: its file, its columns, their units.

``docs/outputs.md`` is made from the declarations here (``python -m utils.core.contract > docs/outputs.md``).
"""

from dataclasses import dataclass

from utils.core.feature_names import FEATURES, SCENE_FEATURES
from utils.core.names import LOSSES


@dataclass(frozen=True)
class Column:
    """One column: its name, kind (``text, int, float, bool``), meaning and unit, and whether cells may be empty."""

    name: str
    kind: str
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: file name (``{model}`` is the checkpoint's stem), who writes it, its columns and its key.

    Attributes:
        file: File name in the output folder.
        command: The command that writes it; named in errors when the file is missing.
        about: One sentence: what a row is.
        columns: Declared columns, in order.
        key: Columns that together name a row once; empty when rows need no key.
        optional: Names of declared columns that a file may lack altogether.
        open_ended: Whether further columns are welcome.
    """

    file: str
    command: str
    about: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ("image_id",)
    optional: tuple[str, ...] = ()
    open_ended: bool = False


IMAGE_ID = Column(
    "image_id", "text", "path relative to the image root, forward slashes; the key of every table"
)

CATEGORY = Column("category", "text", "category of the image", nullable=True)
SUBCATEGORY = Column("subcategory", "text", "subcategory of the image", nullable=True)
MEMORABILITY = Column(
    "memorability", "float", "memorability score (of --score-column); larger: better remembered"
)

SPLIT = Column("split", "text", "train, val or test")
MODEL = Column("model", "text", "file stem of the checkpoint")
_VARIANCES = "variances of the training score"


def _loss_columns() -> tuple[Column, ...]:
    return tuple(
        Column(name, "float", f"reconstruction error by {name}; larger: reconstructed worse")
        for name in LOSSES
    )


def _region_columns(name: str, region: str) -> tuple[Column, ...]:
    return (
        Column(
            f"share_inside_{name}",
            "float",
            f"share of the absolute attribution inside {region}; empty where there is none or nobody looked",
            "share, 0..1",
            nullable=True,
        ),
        Column(
            f"area_{name}",
            "float",
            f"share of the picture's crop covered by {region}, which is what an even map would put there; 0 where there is none",
            "share, 0..1",
            nullable=True,
        ),
    )


def _feature_columns() -> tuple[Column, ...]:
    return tuple(
        Column(
            feature.name,
            "float",
            feature.meaning + (f"; empty where {feature.undefined}" if feature.undefined else ""),
            feature.unit,
            nullable=bool(feature.undefined),
        )
        for feature in (*FEATURES, *SCENE_FEATURES)
    )


def _loss_correlation_columns(*held: Column) -> tuple[Column, ...]:
    """The columns of a correlation of losses with memorability; `held` are those of its within-group rho."""
    return (
        Column("n", "int", "images with both the loss and a score"),
        Column("rho", "float", "Spearman's rho with memorability; empty where undefined", nullable=True),
        Column("p", "float", "two-sided p-value of rho = 0", nullable=True),
        Column("q", "float", "Benjamini-Hochberg q over all rows of the table", nullable=True),
        Column(
            "ci_low", "float", "lower end of the 95 % percentile bootstrap interval of rho", nullable=True
        ),
        Column("ci_high", "float", "upper end of it", nullable=True),
        Column("resamples", "int", "bootstrap resamples of the images"),
        Column("seed", "int", "seed of the resamples and of the random halves behind the ceiling"),
        *held,
        Column(
            "rho_within_subcategory", "float", "rho from ranks inside each subcategory, pooled", nullable=True
        ),
        Column("n_within_subcategory", "int", "images in subcategories of 10 or more, on which it rests"),
        Column(
            "ceiling",
            "float",
            "noise ceiling of rho, from the response counts; empty without them",
            nullable=True,
        ),
        Column("rho_over_ceiling", "float", "rho divided by the ceiling", nullable=True),
        Column("mean", "float", "mean loss"),
        Column("sd", "float", "standard deviation of the loss (n - 1)", nullable=True),
        Column("median", "float", "median loss"),
    )


_LOSS_MEASURE = Column(
    "measure", "text", "loss; 'exposure': the training loss at the image's single exposure"
)

_CATEGORY_PLOT = "python category_plot.py"
_DISTRIBUTION = (
    Column("measure", "text", "column that is summarised"),
    Column("category", "text", "category; all images for the last row"),
    Column("n", "int", "images"),
    Column("mean", "float", "mean"),
    Column("ci_low", "float", "lower end of the mean's 95 % bootstrap interval", nullable=True),
    Column("ci_high", "float", "upper end of it", nullable=True),
    Column("sd", "float", "standard deviation (n - 1)", nullable=True),
    *(
        Column(name, "float", meaning)
        for name, meaning in (
            ("minimum", "smallest value"),
            ("p05", "5th percentile"),
            ("p25", "25th percentile"),
            ("median", "median"),
            ("p75", "75th percentile"),
            ("p95", "95th percentile"),
            ("maximum", "largest value"),
        )
    ),
    Column("resamples", "int", "bootstrap resamples"),
    Column("seed", "int", "seed of the bootstrap"),
)

TABLES: dict[str, Table] = {
    "splits": Table(
        "splits.csv",
        "any stage",
        "Which images train, validate and test: 60/10/30 %, stratified by category, subcategory and score above or below the median.",
        (IMAGE_ID, CATEGORY, SUBCATEGORY, MEMORABILITY, SPLIT),
    ),
    "skipped_images": Table(
        "skipped_images.csv",
        "any stage",
        "Images that a stage left out, and why.",
        (
            Column("image_id", "text", "image_id, or the path where there is no id"),
            Column("reason", "text", "what was wrong with it"),
            Column("stage", "text", "the script that left it out"),
        ),
        key=(),
    ),
    "exposures": Table(
        "exposures_{model}.csv",
        "python autoencoder_finetune.py",
        "The loss of each image at its single exposure during fine-tuning, before the step it causes.",
        (
            Column("order", "int", "position in the sequence of exposures, from 0"),
            IMAGE_ID,
            Column("loss", "float", "training loss of the image at that moment; larger: reconstructed worse"),
        ),
    ),
    "training": Table(
        "training_{model}.csv",
        "python autoencoder_finetune.py",
        "One row per epoch of fine-tuning.",
        (
            Column("epoch", "int", "epoch, from 1"),
            Column("images", "int", "images seen in the epoch"),
            Column("loss_mean", "float", "mean training loss over the epoch's images"),
            Column("loss_first_half", "float", "mean loss over the first half of the epoch", nullable=True),
            Column("loss_second_half", "float", "mean loss over the second half of the epoch", nullable=True),
        ),
        key=("epoch",),
        open_ended=True,
    ),
    "test_loss": Table(
        "test_loss_{model}.csv",
        "python autoencoder_test.py",
        "Reconstruction error of each image, by each loss.",
        (IMAGE_ID, CATEGORY, SUBCATEGORY, MEMORABILITY, *_loss_columns()),
        optional=LOSSES,
    ),
    "latents": Table(
        "latents_{model}.csv",
        "python latent_analysis.py --calculate-latents",
        "Names the rows of latents_<model>.npy, in order. For another layer or pooling, <model> is followed by "
        "@<layer>-<pool>.",
        (
            IMAGE_ID,
            Column("layer", "text", "encoder block the codes come from, conv1 to conv5"),
            Column("pool", "text", "pooling over positions: none, avg or max"),
            Column("image_size", "int", "side of the square image the encoder saw", "px"),
            Column("encoder_sha256", "text", "first 16 hexadecimal digits of the checkpoint's SHA-256"),
            Column("crc32", "int", "CRC-32 of the row's bytes in the matrix"),
        ),
    ),
    "distinctiveness": Table(
        "distinctiveness_{model}.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "How far each image's latent code lies from the others. For another layer, pooling, metric or search, <model> is "
        "followed by @ and what differs.",
        (
            IMAGE_ID,
            CATEGORY,
            MEMORABILITY,
            Column(
                "nearest_image_id",
                "text",
                "image with the nearest other code (ties: the first by image_id); empty where the category has no other "
                "image and the search was within it",
                nullable=True,
            ),
            Column(
                "nearest_distance",
                "float",
                "distance to that code; larger: farther",
                "of the metric",
                nullable=True,
            ),
            Column(
                "distinctiveness",
                "float",
                "mean distance to the K nearest other codes (K = 1 by default), z-scored over all images; larger: more "
                "distinctive",
                "standard deviations",
                nullable=True,
            ),
            Column(
                "mean_neighbour_distance",
                "float",
                "the same before z-scoring",
                "of the metric",
                nullable=True,
            ),
            Column(
                "category_centroid_distance",
                "float",
                "distance to the mean code of the image's category, the image included",
                "of the metric",
                nullable=True,
            ),
            Column(
                "global_centroid_distance",
                "float",
                "distance to the mean code of all images",
                "of the metric",
            ),
            Column("duplicates", "int", "how many other images searched have exactly the same code"),
        ),
    ),
    "latent_space": Table(
        "latent_space_{model}.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "Coordinates of each image in the map of the latent space (latent_space_<model>.png).",
        (
            IMAGE_ID,
            CATEGORY,
            MEMORABILITY,
            Column("pc1", "float", "first principal component of the codes; its largest loading is positive"),
            Column("pc2", "float", "second principal component"),
            Column(
                "umap1", "float", "first UMAP coordinate, of 50 components; only with umap-learn installed"
            ),
            Column("umap2", "float", "second UMAP coordinate"),
        ),
        optional=("umap1", "umap2"),
    ),
    "distinctiveness_correlations": Table(
        "distinctiveness_correlations.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "Spearman correlations of distinctiveness with memorability and with reconstruction error, also with the other "
        "held constant. model is what follows distinctiveness_ in the table's name.",
        (
            MODEL,
            Column("measure", "text", "column that is correlated"),
            Column("target", "text", "column it is correlated with"),
            Column(
                "held_constant",
                "text",
                "column whose ranks are partialled out of both; empty for none",
                nullable=True,
            ),
            Column("n", "int", "images that have all of them"),
            Column("rho", "float", "Spearman's rho, partial where something is held constant", nullable=True),
            Column("p", "float", "two-sided p-value", nullable=True),
            Column("q", "float", "Benjamini-Hochberg q over all rows of the table", nullable=True),
            Column("ci_low", "float", "lower end of the 95 % bootstrap interval of rho", nullable=True),
            Column("ci_high", "float", "upper end", nullable=True),
            Column("resamples", "int", "bootstrap resamples"),
            Column("seed", "int", "seed of the bootstrap"),
            Column("rho_within_category", "float", "rho of ranks centred within categories", nullable=True),
            Column("ceiling", "float", "noise ceiling of rho from the response counts", nullable=True),
            Column("rho_over_ceiling", "float", "rho divided by the ceiling", nullable=True),
        ),
        key=("model", "measure", "target", "held_constant"),
        open_ended=True,
    ),
    "loss_correlations": Table(
        "loss_correlations.csv",
        "python autoencoder_evaluation.py",
        "Correlation of each model's losses with memorability (positive: what is reconstructed worse is remembered better). "
        "With --table, model is the name of that file.",
        (
            MODEL,
            _LOSS_MEASURE,
            *_loss_correlation_columns(
                Column(
                    "rho_within_category",
                    "float",
                    "rho from ranks inside each category, pooled; empty with fewer than two categories",
                    nullable=True,
                ),
                Column("ci_low_within_category", "float", "lower end of its 95 % interval", nullable=True),
                Column("ci_high_within_category", "float", "upper end of it", nullable=True),
            ),
        ),
        key=("model", "measure"),
    ),
    "loss_correlations_by_category": Table(
        "loss_correlations_by_category.csv",
        "python autoencoder_evaluation.py",
        "The same inside each category, with the category's own noise ceiling. Empty where no category is known.",
        (
            MODEL,
            Column("category", "text", "category of the images"),
            _LOSS_MEASURE,
            *_loss_correlation_columns(),
        ),
        key=("model", "category", "measure"),
    ),
    "loss_comparisons": Table(
        "loss_comparisons.csv",
        "python autoencoder_evaluation.py",
        "Differences between two correlations with memorability, from the same resamples of the same images: between the "
        "losses of a model, and between models by the same loss.",
        (
            Column("comparison", "text", "losses (of one model) or models (by one loss)"),
            Column("model_a", "text", "model of the first correlation"),
            Column("measure_a", "text", "its loss"),
            Column("model_b", "text", "model of the second correlation"),
            Column("measure_b", "text", "its loss"),
            Column("n", "int", "images that have both losses"),
            Column("rho_a", "float", "first correlation, on these images", nullable=True),
            Column("rho_b", "float", "second correlation", nullable=True),
            Column("difference", "float", "rho_a - rho_b", nullable=True),
            Column("ci_low", "float", "lower end of the 95 % paired bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column(
                "p",
                "float",
                "two-sided, from the resampled differences; at least 2 / (resamples + 1)",
                nullable=True,
            ),
            Column("q", "float", "Benjamini-Hochberg q over all rows of the table", nullable=True),
            Column("resamples", "int", "bootstrap resamples"),
            Column("seed", "int", "their seed"),
        ),
        key=("model_a", "measure_a", "model_b", "measure_b"),
    ),
    "category_memorability": Table(
        "category_memorability.csv",
        _CATEGORY_PLOT,
        "Memorability by category: the numbers of category_memorability.png.",
        _DISTRIBUTION,
        key=("measure", "category"),
    ),
    "category_losses": Table(
        "category_losses_{model}.csv",
        _CATEGORY_PLOT,
        "Reconstruction error by category: the numbers of category_losses_<model>.png.",
        _DISTRIBUTION,
        key=("measure", "category"),
    ),
    "category_distinctiveness": Table(
        "category_distinctiveness_{model}.csv",
        _CATEGORY_PLOT,
        "Distinctiveness by category: the numbers of category_distinctiveness_<model>.png.",
        _DISTRIBUTION,
        key=("measure", "category"),
    ),
    "category_rho": Table(
        "category_rho_{model}.csv",
        _CATEGORY_PLOT,
        "Correlation of each measure with memorability, by category and overall: the numbers of category_rho_<model>.png.",
        (
            Column("measure", "text", "column that is correlated with memorability"),
            Column("category", "text", "category; all images for the overall row"),
            Column("n", "int", "images"),
            Column("rho", "float", "Spearman's rho", nullable=True),
            Column("ci_low", "float", "lower end of its 95 % bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column("p", "float", "two-sided p-value", nullable=True),
            Column("q", "float", "Benjamini-Hochberg q over the table", nullable=True),
            Column("resamples", "int", "bootstrap resamples"),
            Column("seed", "int", "seed of the bootstrap"),
        ),
        key=("measure", "category"),
    ),
    "category_scatter": Table(
        "category_scatter_{model}.csv",
        _CATEGORY_PLOT,
        "The points of category_scatter_<model>.png: memorability and one column per measure.",
        (IMAGE_ID, Column("category", "text", "category, (no category) where there is none"), MEMORABILITY),
        open_ended=True,
    ),
    "category_splits": Table(
        "category_splits.csv",
        _CATEGORY_PLOT,
        "Images by category and split: the numbers of category_splits.png.",
        (
            Column("category", "text", "category"),
            SPLIT,
            Column("n", "int", "images"),
        ),
        key=("category", "split"),
    ),
    "category_subcategories": Table(
        "category_subcategories.csv",
        _CATEGORY_PLOT,
        "Subcategories ranked by mean memorability: the numbers of category_subcategories.png.",
        (
            Column("rank", "int", "1 for the most memorable"),
            Column("category", "text", "category"),
            Column("subcategory", "text", "subcategory"),
            Column("n", "int", "images"),
            Column("mean", "float", "mean memorability score"),
            Column("ci_low", "float", "lower end of its 95 % bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column("sd", "float", "standard deviation (n - 1)", nullable=True),
            Column("resamples", "int", "bootstrap resamples"),
            Column("seed", "int", "seed of the bootstrap"),
        ),
        key=("category", "subcategory"),
    ),
    "mlp_history": Table(
        "mlp_history_{model}.csv",
        "python mlp_predict.py --train",
        "One row per epoch of training the MLP.",
        (
            Column("epoch", "int", "epoch, from 1"),
            Column(
                "train_loss", "float", "mean squared error on the training split, with dropout", _VARIANCES
            ),
            Column("validation_loss", "float", "mean squared error on the validation split", _VARIANCES),
            Column("validation_rho", "float", "Spearman's rho on the validation split", nullable=True),
            Column("best", "bool", "whether this is the epoch whose weights were kept"),
        ),
        key=("epoch",),
    ),
    "mlp_search": Table(
        "mlp_search.csv",
        "python mlp_predict.py --train --search",
        "One row per setting tried; the validation split alone decides.",
        (
            MODEL,
            Column("hidden_sizes", "text", "width of each hidden layer; 'none' for a linear model"),
            Column("dropout", "float", "share of hidden units dropped in training"),
            Column("learning_rate", "float", "of AdamW"),
            Column("weight_decay", "float", "of AdamW"),
            Column("batch_size", "int", "images per step"),
            Column("epochs", "int", "the most epochs"),
            Column("patience", "int", "epochs without improvement before stopping"),
            Column("seed", "int", "seed of weights, order and dropout"),
            Column("best_epoch", "int", "epoch with the smallest validation loss"),
            Column("validation_loss", "float", "mean squared error on the validation split", _VARIANCES),
            Column("validation_rho", "float", "Spearman's rho on the validation split", nullable=True),
            Column("selected", "bool", "whether this setting was chosen"),
        ),
        key=("model", "hidden_sizes", "dropout", "learning_rate", "weight_decay"),
    ),
    "mlp_metrics": Table(
        "mlp_metrics.csv",
        "python mlp_predict.py --evaluate",
        "How well the test split is predicted, by the MLP and by what it has to beat. AUC and the rest of the above/below "
        "metrics cut observed and predicted scores at the median of the training scores.",
        (
            MODEL,
            Column(
                "predictor",
                "text",
                "mlp; constant (mean training score); ridge (on the same latents); reconstruction-error and "
                "distinctiveness (a line each); ridge+error+distinctiveness; noise-ceiling; 'a - b': a difference",
            ),
            Column(
                "metric", "text", "spearman, spearman_within_category, mse, mae, r2, auc, ap, accuracy, ..."
            ),
            Column("value", "float", "the metric on the test split", nullable=True),
            Column("ci_low", "float", "lower end of the 95 % percentile bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column("p", "float", "p value of a correlation or a difference, two-sided", nullable=True),
            Column("n", "int", "test images"),
            Column("resamples", "int", "bootstrap resamples (noise-ceiling: random halves)"),
            Column("seed", "int", "seed of the resamples"),
            Column("detail", "text", "what the predictor is: settings, ridge strength, loss", nullable=True),
            Column("n_splits", "int", "seeded splits the next two columns are over (--n-splits)"),
            Column("mean_over_splits", "float", "mean of the metric over the splits", nullable=True),
            Column("sd_over_splits", "float", "standard deviation over the splits (n - 1)", nullable=True),
        ),
        key=("model", "predictor", "metric"),
    ),
    "mlp_splits": Table(
        "mlp_splits.csv",
        "python mlp_predict.py --n-splits K",
        "The test metrics of each of K seeded splits; split 0 is that of splits.csv.",
        (
            MODEL,
            Column("split_number", "int", "0 for splits.csv, then 1, 2, ..."),
            Column("split_seed", "int", "seed the split was drawn from"),
            Column("predictor", "text", "as in mlp_metrics.csv"),
            Column("metric", "text", "as in mlp_metrics.csv"),
            Column("value", "float", "the metric on that split's test images", nullable=True),
            Column("n", "int", "test images"),
        ),
        key=("model", "split_number", "predictor", "metric"),
    ),
    "mlp_predictions": Table(
        "mlp_predictions.csv",
        "python mlp_predict.py --evaluate",
        "Predicted scores of all images. Only those of the test split say how good the predictor is.",
        (
            IMAGE_ID,
            MODEL,
            CATEGORY,
            SUBCATEGORY,
            SPLIT,
            MEMORABILITY,
            Column("prediction", "float", "memorability score predicted by the MLP"),
            Column("ridge", "float", "memorability score predicted by ridge regression on the same latents"),
            Column("percentile", "float", "share of training scores below the prediction", "%"),
        ),
        key=("image_id", "model"),
    ),
    "mlp_calibration": Table(
        "mlp_calibration.csv",
        "python mlp_predict.py --evaluate",
        "Test images in up to ten groups of rising predicted score: what was predicted and what was observed.",
        (
            MODEL,
            Column("group", "int", "1: lowest predicted scores"),
            Column("n", "int", "images"),
            Column("predicted_mean", "float", "mean predicted score"),
            Column("observed_mean", "float", "mean observed score"),
            Column(
                "ci_low",
                "float",
                "lower end of the 95 % bootstrap interval of the observed mean",
                nullable=True,
            ),
            Column("ci_high", "float", "upper end of it", nullable=True),
        ),
        key=("model", "group"),
    ),
    "mlp_curves": Table(
        "mlp_curves.csv",
        "python mlp_predict.py --evaluate",
        "ROC and precision-recall curves of the MLP on the test split (above or below the training median).",
        (
            MODEL,
            Column(
                "curve",
                "text",
                "roc (y: true positive rate over x: false positive rate) or pr (y: precision over x: recall)",
            ),
            Column("x", "float", "share"),
            Column("y", "float", "share", nullable=True),
            Column(
                "ci_low", "float", "lower end of the pointwise 95 % bootstrap interval of y", nullable=True
            ),
            Column("ci_high", "float", "upper end of it", nullable=True),
        ),
        key=("model", "curve", "x"),
    ),
    "predictions": Table(
        "predictions.csv",
        "python mlp_predict.py --predict PATH",
        "Scores of the pictures that were asked for, the most memorable first.",
        (
            Column("path", "text", "the picture, as it was found"),
            Column("memorability", "float", "predicted memorability score, in units of the training scores"),
            Column(
                "percentile", "float", "share of (observed) training scores below it, ties counted half", "%"
            ),
            Column("rank", "int", "1: the most memorable; equal scores share the better rank"),
        ),
        key=("path",),
    ),
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
            Column("prediction", "float", "predicted memorability score of the image", "score"),
            Column("baseline_prediction", "float", "predicted memorability score of the baseline", "score"),
            Column("attribution_sum", "float", "sum of the attributions over all pixels", "score"),
            Column(
                "convergence_delta",
                "float",
                "attribution_sum - (prediction - baseline_prediction); 0 for an exact integral; with --smooth, on average over "
                "the noisy copies",
                "score",
            ),
            Column("converged", "bool", "whether the delta is within the tolerance"),
            Column("steps", "int", "steps of the integral, after any doubling"),
            Column(
                "positive_share",
                "float",
                "share of the absolute attribution that raises the prediction; 0.5: balanced",
                "share, 0..1",
                nullable=True,
            ),
            Column(
                "concentration",
                "float",
                "Gini coefficient of the absolute attribution over pixels; larger: fewer pixels carry the prediction",
                "0..1",
                nullable=True,
            ),
            Column(
                "centre_distance",
                "float",
                "mean distance of the absolute attribution from the image's centre; 0.54 if it is even, larger: further out",
                "half diagonals, 0..1",
                nullable=True,
            ),
            *_region_columns("objects", "all detected objects (their boxes together)"),
            *_region_columns("largest_object", "the box of the largest detected object"),
            *_region_columns("foreground", "all segments but background"),
        ),
    ),
    "ig_checks": Table(
        "ig_checks.csv",
        "python model_interpretation_IG.py --save --check",
        "Whether the attributions can be trusted, on a few images. randomisation, randomisation_absolute: Spearman's rho over pixels "
        "(signed, absolute) between the true map and that of a network whose weights were shuffled from the output down to a level; "
        "level '0 none' has the true weights and half the steps. deletion, insertion: predicted score after a share (level) of the "
        "patches was replaced by the baseline, or put onto it, from most to least in favour; 'area' is the mean along the way.",
        (
            IMAGE_ID,
            MODEL,
            Column("check", "text", "randomisation, randomisation_absolute, deletion or insertion"),
            Column("level", "text", "weights shuffled, share of patches, or area"),
            Column(
                "value", "float", "rho, or predicted score in the map's order", "rho or score", nullable=True
            ),
            Column(
                "control", "float", "predicted score in random orders, on average", "score", nullable=True
            ),
        ),
        key=("image_id", "model", "check", "level"),
    ),
    "image_features": Table(
        "image_features.csv",
        "python feature_analysis.py --calculate-features",
        "Colour, texture, structure and scene of each image, from its file at its own size (longer side reduced to "
        "1,024 px at most). Only the groups of the last --calculate-features run are there.",
        (IMAGE_ID, CATEGORY, SUBCATEGORY, MEMORABILITY, *_feature_columns()),
        optional=tuple(feature.name for feature in (*FEATURES, *SCENE_FEATURES)),
    ),
    "feature_correlations": Table(
        "feature_correlations.csv",
        "python feature_analysis.py --evaluate-features",
        "Rank correlation of each feature with memorability and with each column of the attribution table. Hue is "
        "circular, so that its rank correlation depends on where the circle is cut: read its cosine (red against cyan) "
        "and sine (yellow-green against blue-violet) instead.",
        (
            Column("feature", "text", "column of image_features.csv; hue also by its cosine and sine"),
            Column("target", "text", "memorability, or a column of ig_<model>.csv"),
            Column("model", "text", "model of the attribution table; empty for memorability", nullable=True),
            Column("group", "text", "colour, texture, structure or scene"),
            Column("n", "int", "images that have both"),
            Column(
                "rho",
                "float",
                "Spearman correlation; empty for a constant feature or under 10 images",
                nullable=True,
            ),
            Column("ci_low", "float", "lower end of its 95 % percentile bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column("p", "float", "two-sided p of rho", nullable=True),
            Column("q", "float", "Benjamini-Hochberg q over all features of one target", nullable=True),
            Column(
                "rho_within_category",
                "float",
                "the same from ranks inside each category, pooled; empty with one category",
                nullable=True,
            ),
            Column("resamples", "int", "bootstrap resamples of the images"),
            Column("seed", "int", "seed of the resampling"),
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
            Column("learner", "text", "gradient boosting, or ridge (linear)"),
            Column("predictors", "text", "image features, error and distinctiveness, or both"),
            Column(
                "model",
                "text",
                "model of the error and distinctiveness; empty for features alone",
                nullable=True,
            ),
            Column("columns", "int", "number of predictor columns"),
            Column("n", "int", "images"),
            Column(
                "folds",
                "int",
                "folds, dealt within categories; each image is predicted once, by a fit without it",
            ),
            Column("rho", "float", "Spearman correlation of prediction and memorability", nullable=True),
            Column("ci_low", "float", "lower end of its 95 % percentile bootstrap interval", nullable=True),
            Column("ci_high", "float", "upper end of it", nullable=True),
            Column("p", "float", "two-sided p of rho", nullable=True),
            Column(
                "rho_within_category", "float", "rho from ranks inside each category, pooled", nullable=True
            ),
            Column("r2", "float", "1 - squared error / variance; below 0 is worse than the mean"),
            Column("mae", "float", "mean absolute error", "memorability score"),
            Column(
                "gain",
                "float",
                "rho minus that of error and distinctiveness with the same learner; only where predictors are both",
                nullable=True,
            ),
            Column("gain_ci_low", "float", "lower end of its 95 % paired bootstrap interval", nullable=True),
            Column("gain_ci_high", "float", "upper end of it", nullable=True),
            Column("gain_p", "float", "two-sided bootstrap p of the gain", nullable=True),
            Column("resamples", "int", "bootstrap resamples of the images"),
            Column("seed", "int", "seed of folds, learners and resampling"),
        ),
        key=("learner", "predictors", "model"),
    ),
    "feature_importance": Table(
        "feature_importance.csv",
        "python feature_analysis.py --evaluate-features",
        "Permutation importance in the model of image features alone: what its rho loses when a feature is shuffled "
        "among the images of each fold. Features that say the same share their importance.",
        (
            Column("learner", "text", "gradient boosting or ridge"),
            Column("feature", "text", "column of image_features.csv"),
            Column("group", "text", "colour, texture, structure or scene"),
            Column(
                "importance",
                "float",
                "mean loss of the cross-validated rho; larger: relied on more",
                nullable=True,
            ),
            Column("sd", "float", "standard deviation of the loss over shuffles", nullable=True),
            Column("repeats", "int", "shuffles"),
            Column("n", "int", "images"),
            Column("seed", "int", "seed of the shuffles"),
        ),
        key=("learner", "feature"),
    ),
}


def describe_tables() -> str:
    """Return ``docs/outputs.md``: every table, its columns and their units, as Markdown."""
    lines = [
        "# Output tables",
        "",
        "Made from `utils/core/contract.py` by `python -m utils.core.contract > docs/outputs.md`; do not edit by hand.",
        "",
        "UTF-8 CSV with a header, sorted by `image_id` where there is one, floats to 9 significant digits, undefined",
        "values as empty cells. `<model>` is the checkpoint's file stem. A last column `caveat` is there only when the",
        "numbers come from the embedded sample or from random weights, and says so on every row of which it is true.",
    ]
    for table in TABLES.values():
        lines += [
            "",
            f"## `{table.file.format(model='<model>')}`",
            "",
            table.about,
            "",
            f"Written by `{table.command}`.",
        ]
        if table.key:
            lines += ["", f"One row per {', '.join(f'`{name}`' for name in table.key)}."]
        lines += ["", "| column | kind | unit | meaning |", "|---|---|---|---|"]
        for column in table.columns:
            notes = [column.meaning]
            if column.nullable:
                notes.append("may be empty")
            if column.name in table.optional:
                notes.append("column may be absent")
            lines.append(f"| `{column.name}` | {column.kind} | {column.unit} | {'; '.join(notes)} |")
        if table.open_ended:
            lines += ["", "Further columns may follow."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(describe_tables(), end="")
