"""The numbers of a row of correlations: rho with every interval and p, held constant in every way, over its ceiling.

`utils/statistics/correlation_tables.py` makes tables of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from utils.statistics.cluster_tests import wild_rho_p
from utils.statistics.clusters import Clustering
from utils.statistics.noise_ceiling import COUNT_COLUMNS, resampled_ceiling
from utils.statistics.partial_correlation import covariate_matrix, partial_correlations
from utils.statistics.rank_correlation import group_codes, p_value, rho_p
from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

MIN_IMAGES = 10  # below this neither rho nor its interval says anything
MIN_SUBCATEGORY = 10  # smaller subcategories are left out of the pooled within-subcategory rho
EQUIVALENCE_BOUND = 0.1  # a rho smaller than this is as good as none (Cohen's small effect)
COVARIATES = ("pixel_count", "source")  # held constant where a table has them

Values = dict[str, np.ndarray]  # statistic to (targets, measures) values


@dataclass(frozen=True)
class Options:
    """The settings of one table of correlations.

    Attributes:
        clustering: which images are resampled together.
        category: column held constant for the within-category rho, or None.
        subcategory: the same for the within-subcategory rho, or None.
        counts: columns with hits, false alarms and responses.
        covariates: columns held constant for the partial rho; those that the table lacks are passed over.
        resamples: bootstrap resamples.
        seed: seed of resamples and splits.
        splits: random splits behind the noise ceiling.
        min_images: a pair with fewer images is left empty.
    """

    clustering: Clustering
    category: str | None = "category"
    subcategory: str | None = "subcategory"
    counts: tuple[str, ...] = COUNT_COLUMNS
    covariates: tuple[str, ...] = COVARIATES
    resamples: int = 1000
    seed: int = 0
    splits: int = 50
    min_images: int = MIN_IMAGES


def complete_blocks(
    frame: pd.DataFrame, targets: Sequence[str], measures: Sequence[str]
) -> Iterator[tuple[list[str], list[str], np.ndarray]]:
    """Yield the targets and measures that are present on the same images, with those images' mask.

    Columns that share their missing cells share one draw of resamples and one ranking.

    Raises:
        ValueError: a column is absent or holds infinite values.
    """
    absent = [name for name in [*targets, *measures] if name not in frame.columns]
    if absent:
        raise ValueError(
            f"expected columns {', '.join(absent)}; the table has {', '.join(map(str, frame.columns))}"
        )
    families: list[dict[bytes, list[str]]] = [{}, {}]
    for names, family in zip((targets, measures), families, strict=True):
        for name in names:
            values = frame[name].to_numpy(dtype=np.float64)
            if np.isinf(values).any():
                raise ValueError(
                    f"expected finite numbers in column {name}, got {int(np.isinf(values).sum())} infinite"
                )
            family.setdefault((~np.isnan(values)).tobytes(), []).append(name)
    for target_mask, some_targets in families[0].items():
        for measure_mask, some_measures in families[1].items():
            both = np.frombuffer(target_mask, dtype=bool) & np.frombuffer(measure_mask, dtype=bool)
            yield some_targets, some_measures, both


def block_statistics(
    block: pd.DataFrame, targets: list[str], measures: list[str], options: Options
) -> dict[str, np.ndarray | int | str]:
    """Return the statistics of every target with every measure on images that have them all.

    Args:
        block: one row per image.
        targets: t columns.
        measures: k columns.
        options: the settings.

    Returns:
        (t, k) arrays by the name of the column in the table, and what is the same for all pairs.
    """
    clusters = options.clustering.codes(block)
    values: dict[str, np.ndarray | int | str] = {
        "n": len(block),
        "cluster": options.clustering.unit,
        "clusters": len(block) if clusters is None else len(np.unique(clusters)),
    }
    if len(block) >= options.min_images:
        values |= _overall(block, targets, measures, options)
        values |= _given_covariates(block, targets, measures, options)
    alike = _grouped(block, options.category, fewest=2)
    if len(alike) >= options.min_images:
        values |= _within_category(alike, targets, measures, options)
    alike = _grouped(block, options.subcategory, fewest=MIN_SUBCATEGORY)
    values["n_within_subcategory"] = len(alike)
    if len(alike) >= options.min_images:
        labels = _labels(alike, options.subcategory)
        values |= _within(alike, targets, measures, options, labels, "within_subcategory")[0]
    return values


def _overall(block: pd.DataFrame, targets: list[str], measures: list[str], options: Options) -> Values:
    """Return rho, its intervals and p-values, and its ceiling."""
    x, y = (block[names].to_numpy(dtype=np.float64) for names in (targets, measures))
    resampler = options.clustering.resampler(block, options.resamples, options.seed)
    rho, samples = correlate_resampled(x, y, resampler)
    low, high = resampler.interval(rho, samples, FISHER)
    values = {
        "rho": rho,
        "se": resampler.standard_error(samples),
        "ci_low": low,
        "ci_high": high,
        "p": rho_p(rho, samples, resampler),
        "p_wild": wild_rho_p(x, y, resampler.clusters, options.seed),
        "p_equivalence": resampler.p_of_equivalence(rho, samples, EQUIVALENCE_BOUND),
    }
    values |= _independent(x, y, values, options)
    values |= _drawn(x, y, replace(resampler, draw=True), "bootstrap")
    values |= _fixed_categories(block, x, y, options)
    return values | _over_ceiling(block, targets, rho, samples, resampler, options)


def _independent(x: np.ndarray, y: np.ndarray, values: Values, options: Options) -> Values:
    """Return what the interval and p would be if every image told something new."""
    names = ("se", "ci_low", "ci_high", "p")
    if options.clustering.labels is None:
        return {f"{name}_independent": values[name] for name in names}
    alone = Resampler(len(x), options.resamples, options.seed)
    rho, samples = correlate_resampled(x, y, alone)
    found = (
        alone.standard_error(samples),
        *alone.interval(rho, samples, FISHER),
        p_value(rho, len(x) - 2),
    )
    return {f"{name}_independent": part for name, part in zip(names, found, strict=True)}


def _fixed_categories(block: pd.DataFrame, x: np.ndarray, y: np.ndarray, options: Options) -> Values:
    """Return the interval of clusters resampled inside their categories; nothing where they do not lie inside."""
    if options.category is None or options.category not in block.columns:
        return {}
    categories = _labels(block, options.category).fillna("")
    if categories.nunique() < 2:
        return {}
    resampler = options.clustering.resampler_within(block, categories, options.resamples, options.seed)
    if resampler is None:
        return {}
    return _drawn(x, y, resampler, "fixed_categories")


def _drawn(x: np.ndarray, y: np.ndarray, resampler: Resampler, name: str) -> Values:
    """Return standard error and percentile interval of clusters drawn with replacement; nothing for single images."""
    if resampler.clusters is None:
        return {}
    rho, samples = correlate_resampled(x, y, resampler)
    found = (resampler.standard_error(samples), *resampler.interval(rho, samples))
    return {f"{part}_{name}": value for part, value in zip(("se", "ci_low", "ci_high"), found, strict=True)}


def _over_ceiling(
    block: pd.DataFrame,
    targets: list[str],
    rho: np.ndarray,
    samples: np.ndarray,
    resampler: Resampler,
    options: Options,
    strata: np.ndarray | None = None,
) -> Values:
    """Return the ceiling of each target and rho over it, with intervals from the same resamples.

    Args:
        block: one row per image.
        targets: t columns.
        rho: (t, k) correlations.
        samples: (resamples, t, k) of the resampler.
        resampler: how the images are resampled.
        options: the settings.
        strata: (n,) codes of the categories held constant in rho, and then in the ceiling.
    """
    kind = "" if strata is None else "_within_category"
    names = [f"{end}ceiling{kind}" for end in ("", "ci_low_", "ci_high_")]
    names += [f"{end}rho{kind}_over_ceiling" for end in ("", "ci_low_", "ci_high_")]
    values = {name: np.full(rho.shape, np.nan) for name in names}
    for t, target in enumerate(targets):
        own_ceiling = resampled_ceiling(
            block,
            target,
            resampler,
            strata=strata,
            counts=options.counts,
            splits=options.splits,
            seed=options.seed,
        )
        if own_ceiling is None:
            continue
        ceiling, drawn = own_ceiling
        share = rho[t] / ceiling
        ends = [
            *resampler.interval(ceiling, drawn, FISHER),
            share,
            *resampler.interval(share, samples[:, t] / drawn[:, None]),
        ]
        for name, part in zip(names, [ceiling, *ends], strict=True):
            values[name][t] = part
    return values


def _within(
    alike: pd.DataFrame,
    targets: list[str],
    measures: list[str],
    options: Options,
    labels: pd.Series,
    name: str,
) -> tuple[Values, np.ndarray, Resampler]:
    """Return the pooled within-group rho with its interval and p, its resamples, and how they were drawn."""
    x, y = (alike[names].to_numpy(dtype=np.float64) for names in (targets, measures))
    strata = group_codes(labels, len(alike))
    resampler = options.clustering.resampler(alike, options.resamples, options.seed)
    if resampler.clusters is None and name == "within_subcategory":
        # Drawn image by image with replacement, groups this small repeat images and shift the resampled rho.
        resampler = Resampler(len(alike), 0, options.seed)
    rho, samples = correlate_resampled(x, y, resampler, strata)
    low, high = resampler.interval(rho, samples, FISHER)
    values = {f"rho_{name}": rho, f"ci_low_{name}": low, f"ci_high_{name}": high}
    values[f"p_{name}"] = rho_p(rho, samples, resampler, lost=int(strata.max()) + 2)
    return values, samples, resampler


def _within_category(
    alike: pd.DataFrame, targets: list[str], measures: list[str], options: Options
) -> Values:
    """Return the pooled within-category rho, its interval if images were independent, its ceiling, and rho over that."""
    labels = _labels(alike, options.category)
    values, samples, resampler = _within(alike, targets, measures, options, labels, "within_category")
    strata = group_codes(labels, len(alike))
    names = ("ci_low_within_category", "ci_high_within_category")
    alone = tuple(values[name] for name in names)
    if resampler.clusters is not None:
        x, y = (alike[some].to_numpy(dtype=np.float64) for some in (targets, measures))
        single = Resampler(len(alike), options.resamples, options.seed)
        alone = single.interval(*correlate_resampled(x, y, single, strata), FISHER)
    values |= {f"{name}_independent": part for name, part in zip(names, alone, strict=True)}
    rho = values["rho_within_category"]
    return values | _over_ceiling(alike, targets, rho, samples, resampler, options, strata)


def _given_covariates(
    block: pd.DataFrame, targets: list[str], measures: list[str], options: Options
) -> dict[str, np.ndarray | str]:
    """Return the partial rho given the covariates that the table has on all of these images and that vary."""
    names = [
        name
        for name in options.covariates
        if name in block.columns
        and not (block[name].isna() | (block[name].astype(str) == "")).any()
        and block[name].nunique() > 1
    ]
    if not names:
        return {}
    x, y = (block[some].to_numpy(dtype=np.float64) for some in (targets, measures))
    held = covariate_matrix(block, names)
    resampler = options.clustering.resampler(block, options.resamples, options.seed)
    rho, samples = partial_correlations(x, y, held, resampler)
    low, high = resampler.interval(rho, samples, FISHER)
    p = rho_p(rho, samples, resampler, lost=2 + held.shape[1])
    found = zip(("rho", "ci_low", "ci_high", "p"), (rho, low, high, p), strict=True)
    return {"covariates": ", ".join(names), **{f"{name}_given_covariates": part for name, part in found}}


def _labels(frame: pd.DataFrame, column: str | None) -> pd.Series:
    """Return group labels with empty text, as tables are read, taken for what it is: no label."""
    return frame[column].where(frame[column] != "")


def _grouped(block: pd.DataFrame, column: str | None, fewest: int) -> pd.DataFrame:
    """Return the images in groups of at least `fewest`; none where fewer than two such groups exist.

    With a single group the within-group rho would repeat rho while claiming that something was held constant.
    """
    if column is None or column not in block.columns:
        return block.iloc[:0]
    labels = _labels(block, column)
    sizes = labels.value_counts()
    kept = sizes.index[sizes >= fewest]
    return block[labels.isin(kept)] if len(kept) >= 2 else block.iloc[:0]
