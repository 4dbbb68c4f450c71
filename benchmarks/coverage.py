"""Measure how often the 95 % intervals contain the truth, and how often p < 0.05 where there is nothing to find.

Scores and measures are drawn at MemCat's structure (134 subcategories of their real sizes in 5 categories, half of each
column's variance between subcategories), and at fewer subcategories, with known correlations; then R2 and average
precision of independent images at small n. Writes benchmarks/results/coverage_<hardware>.json and prints the table of
docs/method.md. A share over S simulations has a standard error of sqrt(0.05 * 0.95 / S).
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # one core; before numpy is loaded
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from benchmarks.common import record  # noqa: E402
from benchmarks.simulated import draw_clustered, memcat_sizes, population_rho  # noqa: E402

ICC, BETWEEN, WITHIN = 0.5, 0.6, 0.3
TRUTH = population_rho(ICC * BETWEEN + (1 - ICC) * WITHIN)
ALONE = 100  # simulations in which independent images are looked at too: they only show how far off they are
FEW = (3, 5, 11, 27)
SMALL = (15, 20, 30, 40, 60)
Rows = Iterator[dict[str, float | int | str]]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=500, help="at MemCat's structure")
    parser.add_argument(
        "--few-simulations", type=int, default=1000, help="with fewer subcategories, at small n"
    )
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--divide", type=int, default=1, help="divide the sizes of the subcategories by this")
    parser.add_argument("--seed", type=int, default=1, help="of the draws at MemCat's structure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--output", type=Path, help="JSON (default: benchmarks/results/coverage_<hardware>.json)"
    )
    return parser


def memcat(args: argparse.Namespace) -> Rows:
    """Overall and within-category rho, partial rho, differences: MemCat's structure."""
    from utils.statistics.correlation_tables import paired_difference
    from utils.statistics.partial_correlation import (
        bootstrap_partial_spearman,
    )

    sizes, category = memcat_sizes(args.divide)
    found: dict[str, list[tuple[float, ...]]] = {}

    def note(name: str, covered: list[float], p: list[float]) -> None:
        unknown = [np.nan] * (2 - len(p))
        found.setdefault(name, []).append(
            (*covered, *unknown, *(float(value < 0.05) for value in p), *unknown)
        )

    def inside(result: object, truth: float) -> float:
        return float(result.ci_low <= truth <= result.ci_high)

    for seed in range(args.simulations):
        rng = np.random.default_rng((args.seed, seed))
        x, y, codes = draw_clustered(rng, sizes, ICC, BETWEEN, WITHIN)
        u, v, _ = draw_clustered(rng, sizes, ICC)  # unrelated
        kinds = (codes, None) if seed < ALONE else (codes,)
        strata, plan = category[codes], {"resamples": args.resamples, "seed": seed}
        pair = [_interval(x, y, c, **plan) for c in kinds]
        null = [_p(u, v, c) for c in kinds]
        note("rho", [float(low <= TRUTH <= high) for low, high in pair], null)

        level = np.arange(5.0)[strata]  # a difference between categories in both columns
        pair = [_interval(x + level, y - level, c, strata=strata, **plan) for c in kinds]
        null = [_p(u + level, v - level, c, strata) for c in kinds]
        note("rho within category", [float(low <= TRUTH <= high) for low, high in pair], null)

        z = draw_clustered(rng, sizes, ICC)[0]  # drives both columns and is held constant
        pair = [bootstrap_partial_spearman(u + z, v + z, z, clusters=c, **plan) for c in kinds]
        note("partial rho (of 0)", [inside(result, 0.0) for result in pair], [result.p for result in pair])

        frame = pd.DataFrame(
            {"memorability": y, "a": y + u, "b": y + v, "subcategory": codes, "category": strata}
        )
        rows = [
            paired_difference(
                frame, [("a", "b")], cluster="none" if c is None else "subcategory", **plan
            ).iloc[0]
            for c in kinds
        ]
        covered = [float(row["ci_low"] <= 0 <= row["ci_high"]) for row in rows]
        note("difference (of 0)", covered, [row["p"] for row in rows])
    yield from (_row(name, len(sizes), values) for name, values in found.items())


def few(args: argparse.Namespace) -> Rows:
    """Rho with few subcategories: the jackknife and the wild bootstrap."""
    from utils.statistics import cluster_tests

    cluster_tests.WILD_DRAWS = 999
    all_sizes, _ = memcat_sizes(max(args.divide, 5))
    for clusters in FEW:
        values = []
        for seed in range(args.few_simulations):
            rng = np.random.default_rng((clusters, seed))
            sizes = rng.permutation(all_sizes)[:clusters]
            x, y, codes = draw_clustered(rng, sizes, ICC, BETWEEN, WITHIN)
            u, v, _ = draw_clustered(rng, sizes, ICC)
            pair = [_interval(x, y, c, args.resamples, seed) for c in (codes, None)]
            null = [_p(u, v, c) < 0.05 for c in (codes, None)]
            values.append((*(low <= TRUTH <= high for low, high in pair), *null))
        yield _row("rho", clusters, values)


def small(args: argparse.Namespace) -> Rows:
    """R2 and average precision of few independent images: bias-corrected and accelerated, and percentile."""
    from utils.statistics.prediction_metrics import classification_metrics, regression_metrics

    logging.disable(logging.WARNING)
    cut = 0.2

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.normal(size=n)
        return y, 0.02 + 0.45 * (0.5 * y + np.sqrt(0.75) * rng.normal(size=n))

    y, predicted = draw(np.random.default_rng(0), 2_000_000)
    truth = {
        "r2": regression_metrics(y, predicted, 0).set_index("metric").at["r2", "value"],
        "ap": classification_metrics(y > cut, predicted, cut, 0).set_index("metric").at["ap", "value"],
    }
    for n in SMALL:
        covered: dict[str, list[tuple[bool, bool]]] = {name: [] for name in truth}
        for seed in range(args.few_simulations):
            y, predicted = draw(np.random.default_rng((n, seed)), n)
            if len(np.unique(y > cut)) < 2:
                continue
            tables = [
                pd.concat(
                    [
                        regression_metrics(y, predicted, args.resamples, seed, bca_below=below),
                        classification_metrics(
                            y > cut, predicted, cut, args.resamples, seed, bca_below=below
                        ),
                    ]
                ).set_index("metric")
                for below in (10_000, 0)
            ]
            for name, value in truth.items():
                ends = [table.loc[name, ["ci_low", "ci_high"]].to_numpy(float) for table in tables]
                if np.isfinite(ends).all():
                    covered[name].append(tuple(low <= value <= high for low, high in ends))
        for name, values in covered.items():
            bca, percentile = np.mean(values, axis=0)
            yield {
                "statistic": name,
                "images": n,
                "simulations": len(values),
                "bca": bca,
                "percentile": percentile,
            }


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {"memcat": memcat, "few": few, "small": small}


def _interval(
    x: np.ndarray,
    y: np.ndarray,
    clusters: np.ndarray | None,
    resamples: int,
    seed: int,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:
    from utils.statistics.resampling import Resampler, correlate_resampled

    resampler = Resampler(len(x), resamples, seed, clusters)
    rho, samples = correlate_resampled(x[:, None], y[:, None], resampler, strata)
    low, high = resampler.interval(rho, samples, correlation=True)
    return float(low[0, 0]), float(high[0, 0])


def _p(x: np.ndarray, y: np.ndarray, clusters: np.ndarray | None, strata: np.ndarray | None = None) -> float:
    from utils.statistics.rank_correlation import rho_p
    from utils.statistics.resampling import Resampler, correlate_resampled

    rho, _ = correlate_resampled(x[:, None], y[:, None], Resampler(len(x), 0), strata)
    return float(rho_p(x[:, None], y[:, None], rho, clusters, strata)[0, 0])


def _row(name: str, clusters: int, values: list) -> dict[str, float | int | str]:
    shares = np.nanmean(np.array(values, dtype=float), axis=0)
    names = ("coverage", "coverage_independent", "rejected", "rejected_independent")
    about = {"statistic": name, "subcategories": clusters, "simulations": len(values)}
    return about | dict(zip(names, map(float, shares), strict=True))


def main(args: argparse.Namespace) -> None:
    figures = {
        "icc": ICC,
        "rho": TRUTH,
        "resamples": args.resamples,
        "divide": args.divide,
        **{name: list(PARTS[name](args)) for name in args.parts},
    }
    for name in args.parts:
        print(pd.DataFrame(figures[name]).round(3).to_string(index=False))
    record("coverage", figures, path=args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
