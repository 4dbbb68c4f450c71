"""The statistics of the study, for every stage, so that a number in one table means what it means in another.

Here are the tables of correlations: `correlation_rows` evaluates measures against memorability, and
`paired_difference` compares them. The statistics they are made of live in the other modules of `utils/statistics`, and
are meant to be imported from here. Images of one subcategory are resampled together (`--cluster`); what intervals and
p-values would be if all images were independent stands beside, in the columns that end in ``_independent``. A
correlation that does not exist (constant column, too few images) is NaN here, an empty cell in the tables, and a
warning that names the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from utils.core.log import log
from utils.statistics.clusters import PLURALS, Clustering, find_clusters, say_few
from utils.statistics.noise_ceiling import COUNT_COLUMNS, noise_ceiling, score_ceiling
from utils.statistics.partial_correlation import bootstrap_partial_spearman, partial_spearman
from utils.statistics.prediction_metrics import classification_metrics, regression_metrics
from utils.statistics.rank_correlation import (
    SpearmanBootstrap,
    false_discovery_q,
    mean_interval,
    spearman,
)
from utils.statistics.resampling import MIN_CLUSTERS, Resampler, correlate_resampled
from utils.statistics.row_statistics import (
    COVARIATES,
    MIN_IMAGES,
    MIN_SUBCATEGORY,
    Options,
    block_statistics,
    complete_blocks,
)

__all__ = [
    "MIN_IMAGES",
    "MIN_SUBCATEGORY",
    "SpearmanBootstrap",
    "add_q",
    "bootstrap_partial_spearman",
    "classification_metrics",
    "correlation_rows",
    "correlations_by_category",
    "false_discovery_q",
    "find_clusters",
    "mean_interval",
    "noise_ceiling",
    "paired_difference",
    "partial_spearman",
    "regression_metrics",
    "score_ceiling",
    "spearman",
]


NOT_BY_CATEGORY = (
    *("within_category", "within_category_over_ceiling", "within_category_independent"),
    *("fixed_categories", "bootstrap"),
)
HELD_CONSTANT = ("within_category", "within_subcategory", "given_covariates")
_FIVE = ("rho", "ci_low", "ci_high", "p", "q")
CORRELATION_COLUMNS = [
    *("measure", "target", "n", "cluster", "clusters"),
    *("rho", "se", "ci_low", "ci_high", "p", "q", "p_wild", "p_equivalence"),
    *("se_independent", "ci_low_independent", "ci_high_independent", "p_independent"),
    *("se_bootstrap", "ci_low_bootstrap", "ci_high_bootstrap"),
    *("se_fixed_categories", "ci_low_fixed_categories", "ci_high_fixed_categories"),
    *("resamples", "seed"),
    *(f"{name}_within_category" for name in _FIVE),
    *("ci_low_within_category_independent", "ci_high_within_category_independent"),
    *(f"{name}_within_subcategory" for name in _FIVE),
    "n_within_subcategory",
    "covariates",
    *(f"{name}_given_covariates" for name in _FIVE),
    *("ceiling", "ci_low_ceiling", "ci_high_ceiling"),
    *("rho_over_ceiling", "ci_low_rho_over_ceiling", "ci_high_rho_over_ceiling"),
    *("ceiling_within_category", "ci_low_ceiling_within_category", "ci_high_ceiling_within_category"),
    "rho_within_category_over_ceiling",
    *("ci_low_rho_within_category_over_ceiling", "ci_high_rho_within_category_over_ceiling"),
    *("mean", "sd", "median"),
]
DIFFERENCE_COLUMNS = [
    *("measure_a", "measure_b", "n", "cluster", "clusters", "rho_a", "rho_b", "difference"),
    *("ci_low", "ci_high", "p", "q"),
    *("ci_low_independent", "ci_high_independent", "p_independent"),
]


def correlation_rows(
    frame: pd.DataFrame,
    measures: Sequence[str],
    target: str | Sequence[str] = "memorability",
    *,
    category: str | None = "category",
    subcategory: str | None = "subcategory",
    counts: Sequence[str] = COUNT_COLUMNS,
    resamples: int = 1000,
    seed: int = 0,
    splits: int = 50,
    min_images: int = MIN_IMAGES,
    cluster: str | None = None,
    covariates: Sequence[str] = COVARIATES,
) -> pd.DataFrame:
    """Evaluate measures against one or more targets: the one table of statistics every stage reports.

    A measure is compared on the images that have both it and the target. The category, subcategory and count
    columns are used where the frame has them.

    Args:
        frame: one row per image.
        measures: columns to evaluate, in the order of the result.
        target: column, or columns, to evaluate against.
        category: column whose groups are held constant for `rho_within_category`, or None.
        subcategory: the same for `rho_within_subcategory` (groups of at least 10 images), or None.
        counts: names of the columns with hits, false alarms and responses, for the noise ceiling.
        resamples: number of bootstrap resamples.
        seed: seed of resampling and splits.
        splits: number of random splits behind the noise ceiling.
        min_images: a pair with fewer images is left empty.
        cluster: what is resampled together (``--cluster``): ``subcategory``, ``group``, ``none``, or None for
            subcategories where the frame has them (`find_clusters`).
        covariates: columns held constant for `rho_given_covariates`, those of them that the frame has.

    Returns:
        A row per target and measure with CORRELATION_COLUMNS; undefined statistics are NaN and named in a
        warning. Each q is taken over all rows (`add_q` takes it over smaller families); `rho_over_ceiling` keeps
        rho's sign; sd has n - 1.

    Raises:
        ValueError: a column is absent or holds infinite values.
        UserError: the frame does not have the clusters asked for.
    """
    frame = frame.reset_index(drop=True)  # rows may come from several tables
    clustering = find_clusters(frame, cluster)
    options = Options(
        clustering,
        category,
        subcategory,
        tuple(counts),
        tuple(covariates),
        resamples,
        seed,
        splits,
        min_images,
    )
    table = _correlation_table(frame, measures, target, options)
    say_few(clustering, frame)
    _warn_undefined(_why_undefined(frame, table, min_images))
    return table


def correlations_by_category(
    frame: pd.DataFrame,
    measures: Sequence[str],
    target: str | Sequence[str] = "memorability",
    *,
    category: str = "category",
    subcategory: str | None = "subcategory",
    counts: Sequence[str] = COUNT_COLUMNS,
    resamples: int = 1000,
    seed: int = 0,
    splits: int = 50,
    min_images: int = MIN_IMAGES,
    cluster: str | None = None,
    covariates: Sequence[str] = COVARIATES,
) -> pd.DataFrame:
    """Evaluate measures inside each category; the noise ceiling is the category's own.

    Args:
        frame: one row per image, with the category column.
        measures: columns to evaluate.
        target: column, or columns, to evaluate against.
        category: column that splits the images; those without a category are left out.
        subcategory: column whose groups are held constant for `rho_within_subcategory`, or None.
        counts: names of the columns with hits, false alarms and responses, for the noise ceiling.
        resamples: number of bootstrap resamples.
        seed: seed of resampling and splits.
        splits: number of random splits behind the noise ceiling.
        min_images: a category with fewer images is left empty.
        cluster: as for `correlation_rows`.
        covariates: as for `correlation_rows`.

    Returns:
        `category` and the columns of `correlation_rows` without those that hold the category constant; q over the
        whole table.

    Raises:
        ValueError: a column is absent, holds infinite values, or no image has a category.
        UserError: the frame does not have the clusters asked for.
    """
    frame = frame.reset_index(drop=True)  # rows may come from several tables
    options = Options(
        find_clusters(frame, cluster),
        None,
        subcategory,
        tuple(counts),
        tuple(covariates),
        resamples,
        seed,
        splits,
        min_images,
    )
    parts, reasons = [], []
    for name, part in frame.groupby(frame[category].where(frame[category] != ""), sort=True):
        table = _correlation_table(part, measures, target, options)
        reasons += _why_undefined(part, table, min_images, f" in {name}")
        table.insert(0, "category", name)
        parts.append(table)
    if not parts:
        raise ValueError(f"expected a category for at least one image in column {category}, found none")
    _warn_undefined(reasons)
    _say_few_categories(parts, options.clustering)
    whole = add_q(pd.concat(parts, ignore_index=True))
    return whole.drop(columns=[name for name in whole if name.endswith(NOT_BY_CATEGORY)])


def add_q(table: pd.DataFrame, family: Sequence[str] = ()) -> pd.DataFrame:
    """Put Benjamini-Hochberg q values beside the p-values of a table, one family of tests per claim.

    Args:
        table: with any of the columns `p`, `p_within_category`, `p_within_subcategory`, `p_given_covariates`, each a
            claim of its own. p-values of independent images and of equivalence have no q.
        family: columns whose values part the rows into families; all rows are one when empty.

    Returns:
        The table with `q...` for each of them; existing columns are filled in their place.
    """
    names = [name for name in ("p", *(f"p_{kind}" for kind in HELD_CONSTANT)) if name in table.columns]
    q_values = {}
    for name in names:
        p = table[name].astype(np.float64)
        if family:
            groups = [table[column] for column in family]
            q_values[f"q{name[1:]}"] = p.groupby(groups, sort=False, dropna=False).transform(
                false_discovery_q
            )
        else:
            q_values[f"q{name[1:]}"] = false_discovery_q(p)
    return table.assign(**q_values)


def paired_difference(
    frame: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    target: str = "memorability",
    *,
    resamples: int = 1000,
    seed: int = 0,
    min_images: int = MIN_IMAGES,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Compare how strongly two measures of the same images correlate with a target, for many pairs.

    Both rhos of a pair come from the same resamples of the images that have both measures, so what the
    measures share does not widen the interval of their difference. With clusters interval and p come from the
    jackknife (`utils.statistics.resampling`). Of single images p is twice the smaller tail of the resampled
    differences around 0 (with one added to both counts, hence never 0); its smallest value is 2 / (resamples + 1).

    Args:
        frame: one row per image.
        pairs: names (a, b) of columns to compare.
        target: column both are correlated with.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        min_images: a pair with fewer common images is left empty.
        cluster: as for `correlation_rows`.

    Returns:
        A row per pair: `measure_a, measure_b, n, cluster, clusters, rho_a, rho_b, difference` (rho_a - rho_b),
        `ci_low, ci_high, p, q, ci_low_independent, ci_high_independent, p_independent, resamples, seed`; q over all
        pairs.

    Raises:
        UserError: the frame does not have the clusters asked for.
    """
    frame = frame.reset_index(drop=True)  # rows may come from several tables
    pairs = list(pairs)
    clustering = find_clusters(frame, cluster)
    present = frame[[target]].notna().to_numpy()[:, 0]
    by_rows: dict[bytes, list[tuple[str, str]]] = {}
    for a, b in pairs:
        common = present & frame[a].notna().to_numpy() & frame[b].notna().to_numpy()
        by_rows.setdefault(common.tobytes(), []).append((a, b))
    differences = {}
    for key, members in by_rows.items():
        block = frame.loc[np.frombuffer(key, dtype=bool)]
        if len(block) >= min_images:
            differences.update(_block_differences(block, members, target, clustering, resamples, seed))
        else:
            differences.update(dict.fromkeys(members, {"n": len(block)}))
    rows = [{"measure_a": a, "measure_b": b, **differences[a, b]} for a, b in pairs]
    table = pd.DataFrame(rows).reindex(columns=DIFFERENCE_COLUMNS)
    return add_q(table).assign(resamples=resamples, seed=seed, cluster=clustering.unit)


def _correlation_table(
    frame: pd.DataFrame, measures: Sequence[str], target: str | Sequence[str], options: Options
) -> pd.DataFrame:
    """Return the rows of `correlation_rows`, warnings apart."""
    targets = [target] if isinstance(target, str) else list(target)
    rows: dict[tuple[str, str], dict] = {}
    for some_targets, some_measures, usable in complete_blocks(frame, targets, measures):
        block = frame.loc[usable]
        values = block_statistics(block, some_targets, some_measures, options)
        for (t, name), (k, measure) in itertools.product(enumerate(some_targets), enumerate(some_measures)):
            column = block[measure].astype(np.float64)
            rows[name, measure] = {
                **{
                    key: value[t, k] if isinstance(value, np.ndarray) else value
                    for key, value in values.items()
                },
                "measure": measure,
                "target": name,
                "mean": column.mean(),
                "sd": column.std(),
                "median": column.median(),
            }
    table = pd.DataFrame([rows[pair] for pair in itertools.product(targets, measures)])
    table = table.assign(resamples=options.resamples, seed=options.seed).reindex(columns=CORRELATION_COLUMNS)
    return add_q(table.assign(covariates=table["covariates"].fillna("")))


def _block_differences(
    block: pd.DataFrame,
    pairs: list[tuple[str, str]],
    target: str,
    clustering: Clustering,
    resamples: int,
    seed: int,
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the cells of `paired_difference`, n to p, for pairs that share their complete rows."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(pairs)))
    place = {name: position for position, name in enumerate(names)}
    x, y = block[[target]].to_numpy(dtype=np.float64), block[names].to_numpy(dtype=np.float64)
    resampler = clustering.resampler(block, resamples, seed)
    kinds = {"": resampler}
    if resampler.clusters is not None:
        kinds["_independent"] = Resampler(len(block), resamples, seed)
    cells: dict[tuple[str, str], dict[str, float]] = {
        pair: {"n": len(block), "clusters": resampler.units} for pair in pairs
    }
    for kind, scheme in kinds.items():
        rho, samples = correlate_resampled(x, y, scheme)
        for a, b in pairs:
            rho_a, rho_b = rho[0, place[a]], rho[0, place[b]]
            gaps = samples[:, 0, place[a]] - samples[:, 0, place[b]]
            low, high = scheme.interval(rho_a - rho_b, gaps)
            p = scheme.p_of_zero(rho_a - rho_b, gaps)
            cells[a, b] |= {"rho_a": rho_a, "rho_b": rho_b, "difference": rho_a - rho_b}
            cells[a, b] |= {f"ci_low{kind}": float(low), f"ci_high{kind}": float(high), f"p{kind}": float(p)}
    if resampler.clusters is None:
        for found in cells.values():
            found |= {f"{name}_independent": found[name] for name in ("ci_low", "ci_high", "p")}
    return cells


def _say_few_categories(parts: list[pd.DataFrame], clustering: Clustering) -> None:
    """Say once in which categories there are too few clusters for an interval."""
    if clustering.labels is None:
        return
    few = [part["category"].iloc[0] for part in parts if part["clusters"].max() < MIN_CLUSTERS]
    if few:
        log.warning(
            "Fewer than %d %s in %s: intervals and p-values stay empty there but for those of independent images.",
            MIN_CLUSTERS,
            PLURALS[clustering.unit],
            ", ".join(few),
        )


def _why_undefined(frame: pd.DataFrame, table: pd.DataFrame, min_images: int, where: str = "") -> list[str]:
    """Return why correlations do not exist, a text per reason."""
    undefined = table[table["rho"].isna()]
    few = undefined[undefined["n"] < min_images]
    reasons = []
    for count, rows in few.groupby("n"):
        which = "" if len(rows) == len(table) else f"{', '.join(dict.fromkeys(rows['measure']))}: "
        reasons.append(f"{which}{count} images{where}, at least {min_images} needed")
    constant: dict[str, None] = {}
    for row in undefined[undefined["n"] >= min_images].itertuples():
        flat = [name for name in (row.measure, row.target) if frame[name].nunique() == 1]
        shared = f"{row.measure} or {row.target} is constant on the images they share"
        constant |= dict.fromkeys([f"{name} is constant{where}" for name in flat] or [shared + where])
    return reasons + list(constant)


def _warn_undefined(reasons: list[str]) -> None:
    """Say once which correlations stay empty."""
    if reasons:
        more = f"; and {len(reasons) - 8} more such cases" if len(reasons) > 8 else ""
        log.warning("rho is undefined and left empty where: %s%s", "; ".join(reasons[:8]), more)
