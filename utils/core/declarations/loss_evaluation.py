"""Stage 3: how losses follow memorability."""

from utils.core.declarations.columns import (
    MODEL,
    Column,
    Table,
    boolean,
    estimate,
    integer,
    interval,
    resampling,
    text,
)
from utils.core.declarations.correlations import cluster_columns, correlation_columns, independent_columns

_CLAIMS = "Benjamini-Hochberg q over the losses of all models, or over the rivals"
_LOSS_MEASURE = text("measure", "loss; 'exposure': the training loss at the image's single exposure")


def _group_columns(side: str) -> tuple[Column, ...]:
    """The columns of the correlation with one group's scores."""
    return (
        estimate(f"rho_{side}", f"Spearman's rho with the {side} group's scores"),
        *interval("its 95 % bootstrap interval", suffix=f"_{side}"),
        estimate(
            f"rho_{side}_disattenuated", "the same over the root of the reliability of the human scores in it"
        ),
    )


TABLES: dict[str, Table] = {
    "loss_correlations": Table(
        "loss_correlations.csv",
        "python autoencoder_evaluation.py",
        "Correlation of each model's losses with memorability (positive: what is reconstructed worse is remembered better). "
        "With --table, model is the name of that file. Rows of the model 'rivals' are measures that know no network (rivals.csv).",
        (
            MODEL,
            _LOSS_MEASURE,
            *correlation_columns("loss", family=_CLAIMS),
        ),
        key=("model", "measure"),
    ),
    "loss_correlations_by_category": Table(
        "loss_correlations_by_category.csv",
        "python autoencoder_evaluation.py",
        "The same inside each category, with the category's own noise ceiling. Empty where no category is known.",
        (
            MODEL,
            text("category", "category of the images"),
            _LOSS_MEASURE,
            *correlation_columns("loss", by_category=True, family=_CLAIMS),
        ),
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
            *cluster_columns(),
            estimate("rho_a", "first correlation, on these images"),
            estimate("rho_b", "second correlation"),
            estimate("difference", "rho_a - rho_b"),
            *interval("the 95 % paired interval, clusters resampled as a whole"),
            estimate(
                "p",
                "two-sided; without clusters from the resampled differences, and at least 2 / (resamples + 1)",
            ),
            estimate("q", "Benjamini-Hochberg q over the comparisons of one kind"),
            *independent_columns(),
            *resampling(seed="their seed"),
        ),
        key=("model_a", "measure_a", "model_b", "measure_b"),
    ),
    "mixed_model": Table(
        "mixed_model.csv",
        "python autoencoder_evaluation.py",
        "Slopes of memorability on each loss inside clusters (subcategories) and between them, from a mixed model of ranks "
        "with random intercept and slope. Without rows where images have no clusters.",
        (
            MODEL,
            _LOSS_MEASURE,
            text("effect", "within clusters, between their means, or between - within"),
            integer("n", "images that have the loss and a score"),
            text("cluster", "subcategory or group (--cluster)"),
            integer("clusters", "how many of them there are"),
            estimate("slope", "slope", "standard deviations of ranks of memorability per one of the loss"),
            estimate("se", "its standard error"),
            *interval("its 95 % interval"),
            estimate(
                "p",
                "two-sided p-value of it being 0 (Student's t with clusters - 1 or - 2 degrees of freedom)",
            ),
            estimate("q", "Benjamini-Hochberg q over the rows of the same effect, rivals apart"),
            estimate("sd_intercept", "standard deviation of the clusters' intercepts", "of ranks"),
            estimate(
                "sd_slope", "standard deviation of the slopes within clusters; empty without random slopes"
            ),
            estimate("sd_residual", "standard deviation of what is left", "of ranks"),
            estimate("icc", "intraclass correlation of the ranks of memorability in the clusters"),
            boolean(
                "random_slope",
                "whether slopes within clusters could differ (False where that did not converge)",
            ),
            boolean("converged", "whether the model was fitted; False leaves little to believe"),
        ),
        key=("model", "measure", "effect"),
    ),
    "group_correlations": Table(
        "group_correlations.csv",
        "python autoencoder_evaluation.py --second-score-column COLUMN",
        "Two groups of people who saw the same images: their scores with each other, and every loss with both, from the same "
        "resamples. Reliabilities are taken as known.",
        (
            text("model", "file stem of the checkpoint; empty for the groups with each other", nullable=True),
            text(
                "measure",
                "loss; (between groups) for the correlation of the groups' scores, which is in rho_first",
            ),
            text("first", "column of the first group's scores"),
            text("second", "column of the second group's scores"),
            integer("n", "images with both scores and the loss"),
            *_group_columns("first"),
            *_group_columns("second"),
            estimate("difference", "rho_first - rho_second"),
            *interval("its 95 % paired bootstrap interval"),
            estimate("p", "two-sided p-value of no difference"),
            estimate("difference_disattenuated", "difference of the disattenuated correlations"),
            *interval("its interval", suffix="_disattenuated"),
            estimate("p_disattenuated", "two-sided p-value of no difference between those"),
            estimate(
                "reliability_first", "split-half reliability of the first scores, stepped up (Spearman-Brown)"
            ),
            estimate("reliability_second", "the same of the second"),
            text("cluster", "what was resampled as a whole: subcategory, group or image"),
            integer("clusters", "how many of them"),
            *resampling(),
        ),
        key=("model", "measure"),
    ),
}
