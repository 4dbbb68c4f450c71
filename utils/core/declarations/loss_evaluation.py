"""Stage 3: how losses follow memorability."""

from utils.core.declarations.columns import (
    MODEL,
    Column,
    Table,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)


def _loss_correlation_columns(*held: Column) -> tuple[Column, ...]:
    """The columns of a correlation of losses with memorability; `held` are those of its within-group rho."""
    return (
        integer("n", "images with both the loss and a score"),
        estimate("rho", "Spearman's rho with memorability; empty where undefined"),
        estimate("p", "two-sided p-value of rho = 0"),
        estimate("q", "Benjamini-Hochberg q over all rows of the table"),
        *interval("the 95 % percentile bootstrap interval of rho"),
        *resampling(
            "bootstrap resamples of the images",
            "seed of the resamples and of the random halves behind the ceiling",
        ),
        *held,
        estimate("rho_within_subcategory", "rho from ranks inside each subcategory, pooled"),
        integer("n_within_subcategory", "images in subcategories of 10 or more, on which it rests"),
        estimate("ceiling", "noise ceiling of rho, from the response counts; empty without them"),
        estimate("rho_over_ceiling", "rho divided by the ceiling"),
        real("mean", "mean loss"),
        estimate("sd", "standard deviation of the loss (n - 1)"),
        real("median", "median loss"),
    )


_LOSS_MEASURE = text("measure", "loss; 'exposure': the training loss at the image's single exposure")

TABLES: dict[str, Table] = {
    "loss_correlations": Table(
        "loss_correlations.csv",
        "python autoencoder_evaluation.py",
        "Correlation of each model's losses with memorability (positive: what is reconstructed worse is remembered better). "
        "With --table, model is the name of that file. Rows of the model 'rivals' are measures that know no network (rivals.csv).",
        (
            MODEL,
            _LOSS_MEASURE,
            *_loss_correlation_columns(
                estimate(
                    "rho_within_category",
                    "rho from ranks inside each category, pooled; empty with fewer than two categories",
                ),
                *interval("its 95 % interval", suffix="_within_category"),
            ),
        ),
        key=("model", "measure"),
    ),
    "loss_correlations_by_category": Table(
        "loss_correlations_by_category.csv",
        "python autoencoder_evaluation.py",
        "The same inside each category, with the category's own noise ceiling. Empty where no category is known.",
        (MODEL, text("category", "category of the images"), _LOSS_MEASURE, *_loss_correlation_columns()),
        key=("model", "category", "measure"),
    ),
    "loss_comparisons": Table(
        "loss_comparisons.csv",
        "python autoencoder_evaluation.py",
        "Differences between two correlations with memorability, from the same resamples of the same images: between the "
        "losses of a model, between models by the same loss, and between each loss and the rivals that know no network.",
        (
            text(
                "comparison",
                "losses (of one model), models (by one loss), or rivals (a loss and a measure of rivals.csv)",
            ),
            text("model_a", "model of the first correlation"),
            text("measure_a", "its loss"),
            text("model_b", "model of the second correlation"),
            text("measure_b", "its loss"),
            integer("n", "images that have both losses"),
            estimate("rho_a", "first correlation, on these images"),
            estimate("rho_b", "second correlation"),
            estimate("difference", "rho_a - rho_b"),
            *interval("the 95 % paired bootstrap interval"),
            estimate("p", "two-sided, from the resampled differences; at least 2 / (resamples + 1)"),
            estimate("q", "Benjamini-Hochberg q over all rows of the table"),
            *resampling(seed="their seed"),
        ),
        key=("model_a", "measure_a", "model_b", "measure_b"),
    ),
}
