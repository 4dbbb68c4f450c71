"""Stage 5: distributions and correlations by category."""

from utils.core.declarations.columns import (
    IMAGE_ID,
    MEMORABILITY,
    SPLIT,
    Table,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)
from utils.core.declarations.correlations import cluster_columns

_CATEGORY_PLOT = "python category_plot.py"


_DISTRIBUTION = (
    text("measure", "column that is summarised"),
    text("category", "category; all images for the last row"),
    integer("n", "images"),
    *cluster_columns(),
    real("mean", "mean"),
    *interval("the mean's 95 % interval, clusters resampled as a whole; empty with fewer than 3"),
    *interval("the interval if all images were independent", suffix="_independent"),
    estimate("sd", "standard deviation (n - 1)"),
    *(
        real(name, meaning)
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
    *resampling(),
)

TABLES: dict[str, Table] = {
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
            text("measure", "column that is correlated with memorability"),
            text("category", "category; all images for the overall row"),
            integer("n", "images"),
            *cluster_columns(),
            estimate("rho", "Spearman's rho"),
            *interval("its 95 % interval, clusters resampled as a whole; empty with fewer than 3"),
            *interval("the interval if all images were independent", suffix="_independent"),
            estimate("p", "two-sided p-value, cluster-robust"),
            estimate("q", "Benjamini-Hochberg q: over the rows by category, and over those of all images"),
            estimate("p_independent", "p-value if all images were independent"),
            *resampling(),
        ),
        key=("measure", "category"),
    ),
    "category_scatter": Table(
        "category_scatter_{model}.csv",
        _CATEGORY_PLOT,
        "The points of category_scatter_<model>.png: memorability and one column per measure.",
        (IMAGE_ID, text("category", "category, (no category) where there is none"), MEMORABILITY),
        open_ended=True,
    ),
    "category_splits": Table(
        "category_splits.csv",
        _CATEGORY_PLOT,
        "Images by category and split: the numbers of category_splits.png.",
        (text("category", "category"), SPLIT, integer("n", "images")),
        key=("category", "split"),
    ),
    "category_subcategories": Table(
        "category_subcategories.csv",
        _CATEGORY_PLOT,
        "Subcategories ranked by mean memorability: the numbers of category_subcategories.png.",
        (
            integer("rank", "1 for the most memorable"),
            text("category", "category"),
            text("subcategory", "subcategory"),
            integer("n", "images"),
            real("mean", "mean memorability score"),
            *interval("its 95 % bootstrap interval, of images of this subcategory"),
            estimate("sd", "standard deviation (n - 1)"),
            *resampling(),
        ),
        key=("category", "subcategory"),
    ),
}
