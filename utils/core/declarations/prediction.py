"""Stage 6: memorability predicted from codes."""

from utils.core.declarations.columns import (
    CATEGORY,
    IMAGE_ID,
    MEMORABILITY,
    MODEL,
    SPLIT,
    SUBCATEGORY,
    Table,
    boolean,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)

_VARIANCES = "variances of the training score"

TABLES: dict[str, Table] = {
    "mlp_history": Table(
        "mlp_history_{model}.csv",
        "python mlp_predict.py --train",
        "One row per epoch of training the MLP.",
        (
            integer("epoch", "epoch, from 1"),
            real("train_loss", "mean squared error on the training split, with dropout", _VARIANCES),
            real("validation_loss", "mean squared error on the validation split", _VARIANCES),
            estimate("validation_rho", "Spearman's rho on the validation split"),
            boolean("best", "whether this is the epoch whose weights were kept"),
        ),
        key=("epoch",),
    ),
    "mlp_search": Table(
        "mlp_search.csv",
        "python mlp_predict.py --train --search",
        "One row per setting tried; the validation split alone decides.",
        (
            MODEL,
            text("hidden_sizes", "width of each hidden layer; 'none' for a linear model"),
            real("dropout", "share of hidden units dropped in training"),
            real("learning_rate", "of AdamW"),
            real("weight_decay", "of AdamW"),
            integer("batch_size", "images per step"),
            integer("epochs", "the most epochs"),
            integer("patience", "epochs without improvement before stopping"),
            integer("seed", "seed of weights, order and dropout"),
            integer("best_epoch", "epoch with the smallest validation loss"),
            real("validation_loss", "mean squared error on the validation split", _VARIANCES),
            estimate("validation_rho", "Spearman's rho on the validation split"),
            boolean("selected", "whether this setting was chosen"),
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
            text(
                "predictor",
                "mlp; constant (mean training score); ridge (on the same latents); reconstruction-error and "
                "distinctiveness (a line each); ridge+error+distinctiveness; category-mean and subcategory-mean (of the "
                "training scores); ridge+category+subcategory (stacked); noise-ceiling; rival: NAME (--rival); "
                "'a - b': a difference",
            ),
            text(
                "metric",
                "spearman, spearman_within_category, spearman_within_subcategory, mse, mae, r2, calibration_slope, "
                "calibration_intercept, auc, ap, accuracy, ...",
            ),
            estimate("value", "the metric on the test split"),
            *interval(
                "the 95 % interval, clusters left out one by one (images resampled where there are none; AP and R2 of "
                "fewer than 100 images: left out one by one)"
            ),
            estimate(
                "p", "two-sided p of a correlation (cluster-robust) or of a difference (resampled clusters)"
            ),
            estimate(
                "q",
                "Benjamini-Hochberg q over the predictors of one metric, or over the differences, of one model",
            ),
            *interval("the 95 % interval if all images were independent", suffix="_independent"),
            estimate("p_independent", "two-sided p if all images were independent"),
            integer("n", "test images, the same for all predictors"),
            text("cluster", "what is resampled together: subcategory, group or image"),
            integer("clusters", "how many of them"),
            *resampling("bootstrap resamples (noise-ceiling: random halves)", "seed of the resamples"),
            text(
                "detail",
                "what the predictor is: settings, ridge strength, loss; of a rival, its file and whether it was trained on test images",
                nullable=True,
            ),
            integer(
                "n_splits", "seeded splits the next columns are over (--n-splits); 1 for a user's own split"
            ),
            integer("n_seeds", "training seeds of the MLP in each split (--n-seeds)"),
            estimate("mean_over_splits", "mean of the metric over the splits, seeds averaged in each"),
            estimate("sd_over_splits", "standard deviation over the splits (n - 1)"),
            *interval(
                "the 95 % interval of that mean, corrected for images that splits share (Nadeau & Bengio 2003)",
                suffix="_over_splits",
            ),
            estimate(
                "p_over_splits", "two-sided p of a mean difference of 0 by the corrected t; differences only"
            ),
            estimate("sd_over_seeds", "standard deviation over the seeds inside a split, pooled"),
        ),
        key=("model", "predictor", "metric"),
    ),
    "mlp_splits": Table(
        "mlp_splits.csv",
        "python mlp_predict.py --n-splits K",
        "The test metrics of each of K seeded splits and each training seed; split 0 is that of splits.csv.",
        (
            MODEL,
            integer("split_number", "0 for splits.csv, then 1, 2, ..."),
            integer("split_seed", "seed the split was drawn from"),
            integer("mlp_seed", "seed the MLP was trained from"),
            text("predictor", "as in mlp_metrics.csv"),
            text("metric", "as in mlp_metrics.csv"),
            estimate("value", "the metric on that split's test images"),
            integer("n", "test images"),
        ),
        key=("model", "split_number", "mlp_seed", "predictor", "metric"),
    ),
    "near_duplicates": Table(
        "near_duplicates_{model}.csv",
        "python mlp_predict.py --evaluate",
        "Pairs of pictures that are almost the same, by a perceptual hash of the picture or by their latent codes; those that "
        "stand in different splits first. --group-near-duplicates keeps each family on one side.",
        (
            IMAGE_ID,
            text("other_image_id", "the picture it resembles"),
            SPLIT,
            text("other_split", "split of the other picture"),
            boolean("across_splits", "whether the two stand in different splits (of splits.csv)"),
            text("found_by", "hash, codes, or hash and codes"),
            estimate("hash_bits", "differing bits of 63 of the hashes; 6 or fewer: found by hash"),
            real(
                "code_distance",
                "distance of the codes in units of the median distance to the nearest other code; 0.5 or less: found by codes",
            ),
            integer("family", "number of the set of pictures that hang together through pairs"),
        ),
        key=("image_id", "other_image_id"),
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
            real("prediction", "memorability score predicted by the MLP"),
            real("ridge", "memorability score predicted by ridge regression on the same latents"),
            real("percentile", "share of training scores below the prediction", "%"),
        ),
        key=("image_id", "model"),
    ),
    "mlp_calibration": Table(
        "mlp_calibration.csv",
        "python mlp_predict.py --evaluate",
        "Test images in up to ten groups of rising predicted score: what was predicted and what was observed.",
        (
            MODEL,
            integer("group", "1: lowest predicted scores"),
            integer("n", "images"),
            real("predicted_mean", "mean predicted score"),
            real("observed_mean", "mean observed score"),
            *interval("the 95 % bootstrap interval of the observed mean"),
        ),
        key=("model", "group"),
    ),
    "mlp_curves": Table(
        "mlp_curves.csv",
        "python mlp_predict.py --evaluate",
        "ROC and precision-recall curves of the MLP on the test split (above or below the training median).",
        (
            MODEL,
            text(
                "curve",
                "roc (y: true positive rate over x: false positive rate) or pr (y: precision over x: recall)",
            ),
            real("x", "share"),
            estimate("y", "share"),
            *interval("the pointwise 95 % bootstrap interval of y"),
        ),
        key=("model", "curve", "x"),
    ),
    "predictions": Table(
        "predictions.csv",
        "python mlp_predict.py --predict PATH",
        "Scores of the pictures that were asked for, in the order given (`--output FILE` puts them elsewhere).",
        (
            text("path", "the picture, as it was found"),
            real("memorability", "predicted memorability score, in units of the training scores"),
            real("percentile", "share of (observed) training scores below it, ties counted half", "%"),
            integer("rank", "1: the most memorable; equal scores share the better rank"),
            boolean(
                "in_training",
                "whether the head was trained on this very file: then its score is no prediction",
            ),
        ),
        key=("path",),
        optional=("in_training",),
    ),
}
