"""Studies without any effect, for everything that gives a p-value but the plain rank correlations: part of coverage.py."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.simulated import draw_clustered, gaps_of_equals, memcat_sizes
from utils.features.commonality import commonality

Row = dict[str, float | int | str]


def _row(
    name: str, clusters: int, images: int, p: list[float], independent: list[float] | None = None
) -> Row:
    row = {"statistic": name, "subcategories": clusters, "images": images, "simulations": len(p)}
    row["rejected"] = float(np.mean(np.array(p) < 0.05))
    if independent is not None:
        row["rejected_independent"] = float(np.mean(np.array(independent) < 0.05))
    return row


def _columns(rng: np.random.Generator, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, count) unrelated columns, alike inside clusters, and the clusters' codes."""
    drawn = [draw_clustered(rng, sizes)[0] for _ in range(count)]
    return np.column_stack(drawn), np.repeat(np.arange(len(sizes)), sizes)


def mixed(seed: int, studies: int) -> Iterator[Row]:
    """The slopes of the mixed model (stage 3)."""
    from utils.statistics.clusters import find_clusters
    from utils.statistics.mixed_model import BETWEEN, WITHIN, mixed_model_rows

    sizes, _ = memcat_sizes(15)
    found: dict[str, list[float]] = {WITHIN: [], BETWEEN: []}
    for study in range(studies):
        x, y, codes = draw_clustered(np.random.default_rng((seed, study)), sizes)
        frame = pd.DataFrame({"loss": x, "memorability": y, "subcategory": codes.astype(str)})
        rows = mixed_model_rows(frame, ["loss"], find_clusters(frame)).set_index("effect")["p"]
        for effect, values in found.items():
            values.append(rows[effect])
    for effect, values in found.items():
        yield _row(f"mixed model, slope {effect} subcategories", len(sizes), int(sizes.sum()), values)


def splits(seed: int, studies: int) -> Iterator[Row]:
    """The corrected t over splits (stage 6): two regressions on different halves of eight equal features."""
    from utils.prediction.repeats import corrected_mean

    corrected, naive = [], []
    for study in range(studies):
        gaps = gaps_of_equals(np.random.default_rng((seed, study)))
        corrected.append(corrected_mean(gaps, 30 / 60).p)
        naive.append(stats.ttest_1samp(gaps, 0).pvalue)
    yield _row("corrected t over ten splits", 0, 90, corrected, naive)


def checks(seed: int, studies: int) -> Iterator[Row]:
    """The verdicts on attributions (stage 7): gains that are alike inside subcategories and 0 on average."""
    from utils.attribution.checks import judge_gains

    clustered, alone, sizes = [], [], np.repeat([1, 3, 8], [4, 8, 4])
    for study in range(studies):
        gains, _, codes = draw_clustered(np.random.default_rng((seed, study)), sizes)
        clustered.append(judge_gains(gains, codes.astype(str))["p"])
        alone.append(judge_gains(gains)["p"])
    yield _row("gain of an attribution check", len(sizes), int(sizes.sum()), clustered, alone)


def _folds(learner: str, sizes: np.ndarray, seed: int, studies: int) -> tuple[list[float], list[float]]:
    from utils.features.fold_inference import fold_test
    from utils.features.model import assign_folds, cross_validate

    clustered, alone = [], []
    for study in range(studies):
        columns, codes = _columns(np.random.default_rng((seed, study)), sizes, 11)
        x, y = columns[:, :10], columns[:, 10]
        folds = assign_folds([""] * len(y), 5, study, codes)
        predicted = cross_validate(learner, x, y, folds, 0).predicted
        single = np.arange(len(y))
        for found, some in ((clustered, codes), (alone, single)):
            found.append(fold_test(predicted, y, folds, some, 199, study).p)
    return clustered, alone


def ridge(seed: int, studies: int) -> Iterator[Row]:
    """Ridge on features (stage 8)."""
    for sizes in (np.full(40, 10), memcat_sizes(15)[0]):
        found = _folds("ridge", sizes, seed, studies)
        yield _row("ridge on ten features", len(sizes), int(sizes.sum()), *found)


def boosting(seed: int, studies: int) -> Iterator[Row]:
    """Gradient boosting on features (stage 8)."""
    for sizes in (np.full(40, 8), memcat_sizes(15)[0]):
        found = _folds("gradient boosting", sizes, seed, studies)
        yield _row("gradient boosting on ten features", len(sizes), int(sizes.sum()), *found)


def unique(seed: int, studies: int) -> Iterator[Row]:
    """Unique variance (stage 8) beside an error that explains a third: of ten noise features, and of one more measure."""
    names = [f"noise{number}" for number in range(10)]
    blocks = {"error": ["error"], "ten features": names, "one measure beside eleven columns": ["one"]}
    for sizes in (np.full(24, 10), np.full(40, 10), memcat_sizes(15)[0]):
        found: dict[str, list[float]] = {name: [] for name in blocks if name != "error"}
        for study in range(studies):
            columns, codes = _columns(np.random.default_rng((seed, study)), sizes, 13)
            frame = pd.DataFrame(columns, columns=[*names, "error", "memorability", "one"])
            frame["memorability"] += 0.7 * frame["error"]
            p = commonality(frame, blocks, codes, permutations=199, seed=study).set_index("block")["p"]
            for name, values in found.items():
                values.append(p[name])
        for name, values in found.items():
            yield _row(f"unique variance of {name}", len(sizes), int(sizes.sum()), values)


NULLS: dict[str, Callable[[int, int], Iterator[Row]]] = {
    "mixed": mixed,
    "splits": splits,
    "checks": checks,
    "ridge": ridge,
    "boosting": boosting,
    "unique": unique,
}
