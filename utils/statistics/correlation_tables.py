"""The statistics of the study, for every stage, so that a number in one table means what it means in another.

Here are the tables of correlations: `correlation_rows` evaluates measures against memorability, and
`paired_difference` compares them. The statistics they are made of live in `utils/rank_correlation.py`,
`utils/noise_ceiling.py` and `utils/prediction_metrics.py`, and are meant to be imported from here. A
correlation that does not exist (constant column, too few images) is NaN here, an empty cell in the tables,
and a warning that names the reason.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from utils.statistics.bootstrap import percentile_interval, resampled_rank_correlations
from utils.statistics.noise_ceiling import COUNT_COLUMNS, noise_ceiling, score_ceiling
from utils.statistics.prediction_metrics import classification_metrics, regression_metrics
from utils.statistics.rank_correlation import (
    SpearmanBootstrap,
    bootstrap_partial_spearman,
    bootstrap_spearman,
    false_discovery_q,
    group_codes,
    mean_interval,
    p_value,
    partial_spearman,
    spearman,
    within_group_spearman,
)

__all__ = [
    "SpearmanBootstrap",
    "bootstrap_partial_spearman",
    "bootstrap_spearman",
    "classification_metrics",
    "correlation_rows",
    "correlations_by_category",
    "false_discovery_q",
    "mean_interval",
    "noise_ceiling",
    "paired_difference",
    "partial_spearman",
    "regression_metrics",
    "score_ceiling",
    "spearman",
    "within_group_spearman",
]

log = logging.getLogger("memorability")

MIN_IMAGES = 10  # below this neither rho nor its interval says anything
MIN_SUBCATEGORY = 10  # smaller subcategories are left out of the pooled within-subcategory rho
CORRELATION_COLUMNS = [
    "measure",
    "target",
    "n",
    "rho",
    "p",
    "q",
    "ci_low",
    "ci_high",
    "resamples",
    "seed",
    "rho_within_category",
    "ci_low_within_category",
    "ci_high_within_category",
    "rho_within_subcategory",
    "n_within_subcategory",
    "ceiling",
    "rho_over_ceiling",
    "mean",
    "sd",
    "median",
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

    Returns:
        A row per target and measure with CORRELATION_COLUMNS; undefined statistics are NaN and named in a
        warning. q is taken over all rows; `rho_over_ceiling` keeps rho's sign; sd has n - 1.

    Raises:
        ValueError: a column is absent or holds infinite values.
    """
    options = _Options(category, subcategory, tuple(counts), resamples, seed, splits, min_images)
    table = _correlation_table(frame, measures, target, options)
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

    Returns:
        `category` and the columns of `correlation_rows` without the within-category ones; q over the whole
        table.

    Raises:
        ValueError: a column is absent, holds infinite values, or no image has a category.
    """
    parts, reasons = [], []
    for name, part in frame.groupby(_labels(frame, category), sort=True):
        options = _Options(None, subcategory, tuple(counts), resamples, seed, splits, min_images)
        table = _correlation_table(part, measures, target, options)
        reasons += _why_undefined(part, table, min_images, f" in {name}")
        table.insert(0, "category", name)
        parts.append(table)
    if not parts:
        raise ValueError(f"expected a category for at least one image in column {category}, found none")
    _warn_undefined(reasons)
    whole = pd.concat(parts, ignore_index=True)
    whole["q"] = false_discovery_q(whole["p"])
    return whole.drop(columns=[name for name in whole if name.endswith("within_category")])


def paired_difference(
    frame: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    target: str = "memorability",
    *,
    resamples: int = 1000,
    seed: int = 0,
    min_images: int = MIN_IMAGES,
) -> pd.DataFrame:
    """Compare how strongly two measures of the same images correlate with a target, for many pairs.

    Both rhos of a pair come from the same resamples of the images that have both measures, so what the
    measures share does not widen the interval of their difference. p is twice the smaller tail of the
    resampled differences around 0 (with one added to both counts, hence never 0); its smallest value is 2 /
    (resamples + 1).

    Args:
        frame: one row per image.
        pairs: names (a, b) of columns to compare.
        target: column both are correlated with.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        min_images: a pair with fewer common images is left empty.

    Returns:
        A row per pair: `measure_a, measure_b, n, rho_a, rho_b, difference` (rho_a - rho_b), `ci_low, ci_high,
        p, q, resamples, seed`; q over all pairs.
    """
    pairs = list(pairs)
    present = frame[[target]].notna().to_numpy()[:, 0]
    by_rows: dict[bytes, list[tuple[str, str]]] = {}
    for a, b in pairs:
        common = present & frame[a].notna().to_numpy() & frame[b].notna().to_numpy()
        by_rows.setdefault(common.tobytes(), []).append((a, b))
    found = {}
    for key, members in by_rows.items():
        block = frame.loc[np.frombuffer(key, dtype=bool)]
        found.update(_block_differences(block, members, target, resamples, seed, min_images))
    columns = ["measure_a", "measure_b", "n", "rho_a", "rho_b", "difference", "ci_low", "ci_high", "p"]
    table = pd.DataFrame([found[pair] for pair in pairs], columns=columns)
    table["q"] = false_discovery_q(table["p"])
    return table.assign(resamples=resamples, seed=seed)


@dataclass(frozen=True)
class _Options:
    """The settings of one table of correlations."""

    category: str | None
    subcategory: str | None
    counts: tuple[str, ...]
    resamples: int
    seed: int
    splits: int
    min_images: int


def _correlation_table(
    frame: pd.DataFrame, measures: Sequence[str], target: str | Sequence[str], options: _Options
) -> pd.DataFrame:
    """Return the rows of `correlation_rows`, warnings apart."""
    targets = [target] if isinstance(target, str) else list(target)
    rows: dict[tuple[str, str], dict] = {}
    for some_targets, some_measures, usable in _complete_blocks(frame, targets, measures):
        block = frame.loc[usable]
        values = _block_statistics(block, some_targets, some_measures, options)
        for (t, name), (k, measure) in itertools.product(enumerate(some_targets), enumerate(some_measures)):
            column = block[measure].astype(np.float64)
            rows[name, measure] = {
                **{key: value[t, k] for key, value in values.items()},
                "measure": measure,
                "target": name,
                "n": len(block),
                "mean": column.mean(),
                "sd": column.std(),
                "median": column.median(),
            }
    table = pd.DataFrame([rows[pair] for pair in itertools.product(targets, measures)])
    table = table.assign(resamples=options.resamples, seed=options.seed)
    table["q"] = false_discovery_q(table["p"])
    table["rho_over_ceiling"] = table["rho"] / table["ceiling"]
    return table[CORRELATION_COLUMNS]


def _complete_blocks(
    frame: pd.DataFrame, targets: Sequence[str], measures: Sequence[str]
) -> Iterator[tuple[list[str], list[str], np.ndarray]]:
    """Yield the targets and measures that are present on the same images, with those images' mask.

    Columns that share their missing cells share one draw of resamples and one ranking.
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


def _block_statistics(
    block: pd.DataFrame, targets: list[str], measures: list[str], options: _Options
) -> dict[str, np.ndarray]:
    """Return (targets, measures) arrays of rho, p, the intervals, the within-group rhos and the ceiling."""
    empty = np.full((len(targets), len(measures)), np.nan)
    values = {"rho": empty, "p": empty, "ci_low": empty, "ci_high": empty, "ceiling": empty}
    if len(block) >= options.min_images:
        rho, low, high = _rho_and_interval(block, targets, measures, None, options)
        values = {"rho": rho, "p": p_value(rho, len(block) - 2), "ci_low": low, "ci_high": high}
        ceilings = [score_ceiling(block, t, options.counts, options.splits, options.seed) for t in targets]
        values["ceiling"] = np.repeat(np.array(ceilings)[:, None], len(measures), axis=1)
    within_names = ("rho_within_category", "ci_low_within_category", "ci_high_within_category")
    values |= dict.fromkeys((*within_names, "rho_within_subcategory"), empty)
    alike = _grouped(block, options.category, fewest=2)
    if len(alike) >= options.min_images:
        within = _rho_and_interval(alike, targets, measures, options.category, options)
        values |= dict(zip(within_names, within, strict=True))
    alike = _grouped(block, options.subcategory, fewest=MIN_SUBCATEGORY)
    values["n_within_subcategory"] = np.full(empty.shape, len(alike))
    if len(alike) >= options.min_images:
        # No interval: drawn with replacement, groups this small repeat images and shift the resampled rho.
        unsampled = replace(options, resamples=0)
        rho, *_ = _rho_and_interval(alike, targets, measures, options.subcategory, unsampled)
        values["rho_within_subcategory"] = rho
    return values


def _labels(frame: pd.DataFrame, column: str) -> pd.Series:
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


def _rho_and_interval(
    block: pd.DataFrame, targets: list[str], measures: list[str], groups: str | None, options: _Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (targets, measures) arrays of rho and both ends of its interval."""
    x, y = (block[names].to_numpy(dtype=np.float64) for names in (targets, measures))
    codes = None if groups is None else group_codes(block[groups], len(block))
    rho, samples = resampled_rank_correlations(x, y, options.resamples, options.seed, codes)
    low, high = percentile_interval(samples)
    return rho, np.where(np.isnan(rho), np.nan, low), np.where(np.isnan(rho), np.nan, high)


def _block_differences(
    block: pd.DataFrame,
    pairs: list[tuple[str, str]],
    target: str,
    resamples: int,
    seed: int,
    min_images: int,
) -> dict[tuple[str, str], list]:
    """Return the cells of `paired_difference`, n to p, for pairs that share their complete rows."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(pairs)))
    place = {name: position for position, name in enumerate(names)}
    if len(block) < min_images:
        return {pair: [*pair, len(block), *[np.nan] * 6] for pair in pairs}
    x, y = block[[target]].to_numpy(dtype=np.float64), block[names].to_numpy(dtype=np.float64)
    rho, samples = resampled_rank_correlations(x, y, resamples, seed)
    cells = {}
    for a, b in pairs:
        gaps = samples[:, 0, place[a]] - samples[:, 0, place[b]]
        rho_a, rho_b = rho[0, place[a]], rho[0, place[b]]
        low, high = percentile_interval(gaps)
        tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (resamples + 1)) if np.isfinite(low) else np.nan
        cells[a, b] = [a, b, len(block), rho_a, rho_b, rho_a - rho_b, float(low), float(high), p]
    return cells


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
