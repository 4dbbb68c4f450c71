"""The columns of a row of correlations, which several stages write (`utils.statistics.correlation_tables`)."""

from utils.core.declarations.columns import Column, estimate, integer, interval, resampling, text

INDEPENDENT = "if all images were independent"
FAMILY = "Benjamini-Hochberg q of it, over the same rows as q"
CLUSTERED = "the 95 % interval of rho, clusters resampled as a whole (left out one by one: jackknife)"


def cluster_columns() -> tuple[Column, ...]:
    """Declare what is resampled as a whole, and how many there are of it."""
    return (
        text("cluster", "what is resampled as a whole: subcategory, group or image (--cluster)"),
        integer("clusters", "how many of them there are"),
    )


def independent_columns(suffix: str = "") -> tuple[Column, ...]:
    """Declare the interval and p-value of images that are resampled one by one."""
    return (
        *interval(f"the interval {INDEPENDENT}", suffix=f"{suffix}_independent"),
        estimate(f"p{suffix}_independent", f"p-value {INDEPENDENT}"),
    )


def rho_columns(
    family: str, rho: str = "Spearman's rho with memorability; empty where undefined"
) -> tuple[Column, ...]:
    """Declare rho with its error, intervals and p-values.

    Args:
        family: over which rows q is taken.
        rho: its meaning.
    """
    return (
        integer("n", "images with both columns"),
        *cluster_columns(),
        estimate("rho", rho),
        estimate("se", "standard error of rho from the resamples"),
        *interval(CLUSTERED),
        estimate(
            "p",
            "two-sided p-value of rho = 0, of clusters left out one by one; below 0.05 where the interval excludes 0",
        ),
        estimate("q", family),
        estimate("p_wild", "the wild cluster bootstrap's p-value; only for 3 to 49 clusters"),
        estimate(
            "p_equivalence", "p-value of |rho| >= 0.1 (two one-sided tests); small: as good as no correlation"
        ),
        estimate("se_independent", f"standard error {INDEPENDENT}"),
        *independent_columns(),
    )


def drawn_columns() -> tuple[Column, ...]:
    """Declare the intervals of clusters drawn with replacement, from everywhere and inside their categories."""
    return (
        estimate(
            "se_bootstrap", "standard error with clusters drawn with replacement; empty without clusters"
        ),
        *interval(
            "the percentile interval of these draws, which is somewhat too narrow", suffix="_bootstrap"
        ),
        estimate(
            "se_fixed_categories",
            "standard error with clusters drawn inside their categories, which are taken as given; empty where "
            "clusters span categories or a category has one only",
        ),
        *interval("the interval that goes with it", suffix="_fixed_categories"),
    )


def held_constant_columns(kind: str, about: str, family: str = FAMILY) -> tuple[Column, ...]:
    """Declare a rho with something held constant.

    Args:
        kind: the suffix of its columns.
        about: what is held constant, and how.
        family: over which rows q is taken.
    """
    return (
        estimate(f"rho_{kind}", about),
        *interval("its 95 % interval, clusters resampled as for rho", suffix=f"_{kind}"),
        estimate(f"p_{kind}", "two-sided p-value of it being 0, as for rho"),
        estimate(f"q_{kind}", family),
    )


def within_category_columns() -> tuple[Column, ...]:
    """Declare the within-category rho."""
    return (
        *held_constant_columns(
            "within_category",
            "rho from ranks inside each category, pooled; empty with fewer than two categories",
        ),
        *interval(f"its interval {INDEPENDENT}", suffix="_within_category_independent"),
    )


def within_subcategory_columns() -> tuple[Column, ...]:
    """Declare the within-subcategory rho."""
    return (
        *held_constant_columns("within_subcategory", "rho from ranks inside each subcategory, pooled"),
        integer("n_within_subcategory", "images in subcategories of 10 or more, on which it rests"),
    )


def covariate_columns() -> tuple[Column, ...]:
    """Declare the partial rho given pixel count and source."""
    return (
        text(
            "covariates", "what the next columns hold constant: pixel_count, source, or empty", nullable=True
        ),
        *held_constant_columns("given_covariates", "partial rank correlation given the covariates"),
    )


def ceiling_columns() -> tuple[Column, ...]:
    """Declare the noise ceiling and rho over it."""
    return (
        estimate(
            "ceiling", "noise ceiling of rho, from response counts or published halves; empty without them"
        ),
        *interval("the 95 % interval of the ceiling", suffix="_ceiling"),
        estimate("rho_over_ceiling", "rho divided by the ceiling"),
        *interval("its 95 % interval, both from the same resamples", suffix="_rho_over_ceiling"),
    )


def within_ceiling_columns() -> tuple[Column, ...]:
    """Declare the noise ceiling of the within-category rho, and that rho over it."""
    return (
        estimate(
            "ceiling_within_category",
            "noise ceiling of the within-category rho: halves ranked inside categories",
        ),
        *interval("the 95 % interval of that ceiling", suffix="_ceiling_within_category"),
        estimate("rho_within_category_over_ceiling", "within-category rho divided by it"),
        *interval(
            "its 95 % interval, both from the same resamples", suffix="_rho_within_category_over_ceiling"
        ),
    )


def measure_columns(measure: str) -> tuple[Column, ...]:
    """Declare mean, standard deviation and median of what is correlated."""
    return (
        estimate("mean", f"mean {measure}"),
        estimate("sd", f"standard deviation of the {measure} (n - 1)"),
        estimate("median", f"median {measure}"),
    )


def correlation_columns(measure: str, *, by_category: bool = False, **rho: str) -> tuple[Column, ...]:
    """Declare a whole row of `correlation_rows`, its names of measure and target apart.

    Args:
        measure: what is correlated, for the meanings of its mean and spread.
        by_category: whether the rows are of one category each, so that nothing holds the category constant.
        rho: arguments of `rho_columns`.
    """
    return (
        *rho_columns(**rho),
        *(() if by_category else drawn_columns()),
        *resampling(
            "bootstrap resamples (none for what leaves out clusters)",
            "seed of the resamples, of wild draws, and of the random halves behind the ceiling",
        ),
        *(() if by_category else within_category_columns()),
        *within_subcategory_columns(),
        *covariate_columns(),
        *ceiling_columns(),
        *(() if by_category else within_ceiling_columns()),
        *measure_columns(measure),
    )
