"""Measure how often the 95 % intervals contain the truth, and how often p < 0.05 where there is nothing to find.

Scores and measures are drawn at MemCat's structure (134 subcategories of their real sizes in 5 categories, half of each
column's variance between subcategories) and at fewer subcategories, with known correlations; R2 and average precision of
few independent images; whatever else gives a p-value, under its null; and whole studies of nothing. Each part replaces its
rows of benchmarks/results/coverage.csv, so that parts can be run one by one; the tables of docs/method.md are made from that
file (--document). A share over S simulations has a standard error of sqrt(0.05 * 0.95 / S).
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # one core; before numpy is loaded
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from benchmarks import null_rates, null_studies  # noqa: E402
from benchmarks.common import RESULTS, cpu_name  # noqa: E402
from benchmarks.simulated import draw_clustered, draw_confounded, memcat_sizes, population_rho  # noqa: E402

ICC, BETWEEN, WITHIN = 0.5, 0.6, 0.3
TRUTH = population_rho(ICC * BETWEEN + (1 - ICC) * WITHIN)
ALONE = 100  # simulations in which independent images are looked at too: they only show how far off they are
RESAMPLES = 300  # of the bootstraps beside the jackknife
FEW = (3, 5, 11, 27)
SMALL = (15, 20, 30, 40, 60)
CSV, DOCUMENT = RESULTS / "coverage.csv", ROOT / "docs" / "method.md"
SHARES = ["coverage", "coverage_bootstrap", "coverage_independent"]
SHARES += ["rejected", "rejected_wild", "rejected_independent"]
COLUMNS = [
    "part",
    "statistic",
    "subcategories",
    "images",
    "simulations",
    *SHARES,
    "seed",
    "date",
    "cpu",
    "versions",
]
Rows = Iterator[dict[str, float | int | str]]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[], help="what to measure")
    parser.add_argument(
        "--simulations", type=int, help="(default: 500; 1000 for few, small and stages; 100 studies)"
    )
    parser.add_argument(
        "--divide", type=int, default=1, help="memcat: divide the sizes of subcategories by this"
    )
    parser.add_argument("--only", nargs="+", default=list(null_rates.NULLS), help="stages: which of them")
    parser.add_argument("--seed", type=int, default=1, help="of the draws")
    parser.add_argument("--output", type=Path, default=CSV, help="the table whose rows are replaced")
    parser.add_argument("--document", action="store_true", help="put the table's numbers into docs/method.md")
    return parser


def _judge(
    columns: tuple[np.ndarray, np.ndarray],
    clusters: np.ndarray,
    truth: float,
    *,
    alone: bool,
    held: np.ndarray | None = None,
    partial: bool = False,
    gap: bool = False,
) -> dict[str, float]:
    """Return whether each interval holds the truth and each p is below 0.05, in one simulated study.

    Args:
        columns: (n, 1) measure and (n, 1 or 2) scores; of two the difference of their rhos is judged.
        clusters: (n,) codes.
        truth: what the intervals should hold.
        alone: whether independent images and drawn clusters are looked at.
        held: (n,) codes of strata, or a covariate with `partial`.
        partial: whether the partial rho given `held` is judged.
        gap: whether there are two scores.
    """
    from utils.statistics.partial_correlation import partial_correlations
    from utils.statistics.rank_correlation import rho_p
    from utils.statistics.resampling import FISHER, PLAIN, Resampler, correlate_resampled

    n, found = len(clusters), {}
    plans = {"": Resampler(n, 0, 0, clusters)}
    if alone:
        plans |= {
            "_bootstrap": Resampler(n, RESAMPLES, 0, clusters, draw=True),
            "_independent": Resampler(n, RESAMPLES, 0),
        }
    for kind, plan in plans.items():
        x, y = columns
        if partial and held is not None:
            rho, samples = partial_correlations(x, y, held[:, None], plan)
        else:
            rho, samples = correlate_resampled(x, y, plan, held)
        if gap:
            rho, samples = rho[:, :1] - rho[:, 1:], samples[:, :, :1] - samples[:, :, 1:]
        low, high = plan.interval(rho, samples, PLAIN if gap else FISHER)
        found[f"coverage{kind}"] = float(low[0, 0] <= truth <= high[0, 0])
        if kind != "_bootstrap":
            p = plan.p_of_zero(rho, samples) if gap else rho_p(rho, samples, plan)
            found[f"rejected{kind}"] = float(p[0, 0] < 0.05)
    return found


def _row(name: str, clusters: int, images: int, studies: list[dict[str, float]]) -> dict:
    shares = pd.DataFrame(studies).mean().to_dict()
    return {
        "statistic": name,
        "subcategories": clusters,
        "images": images,
        "simulations": len(studies),
        **shares,
    }


def _with_null(about: dict[str, float], null: dict[str, float]) -> dict[str, float]:
    """Take coverage from the study with an effect, and rejections from the one without."""
    return {
        **{name: value for name, value in about.items() if name.startswith("coverage")},
        **{name: value for name, value in null.items() if name.startswith("rejected")},
    }


def memcat(args: argparse.Namespace) -> Rows:
    """Overall and within-category rho, partial rho, differences: MemCat's structure."""
    sizes, category = memcat_sizes(args.divide)
    found: dict[str, list[dict[str, float]]] = {}
    for study in range(args.simulations or 500):
        rng = np.random.default_rng((args.seed, study))
        x, y, codes = draw_clustered(rng, sizes, ICC, BETWEEN, WITHIN)
        u, v, _ = draw_clustered(rng, sizes, ICC)  # unrelated
        plan = {"clusters": codes, "alone": study < ALONE}
        about = _judge((x[:, None], y[:, None]), truth=TRUTH, **plan)
        null = _judge((u[:, None], v[:, None]), truth=0.0, **plan)
        found.setdefault("rho", []).append(_with_null(about, null))

        strata = category[codes]
        level = np.arange(5.0)[strata]  # a difference between categories in both columns
        x, y, u, v = (column[:, None] for column in (x + level, y - level, u + level, v - level))
        about = _judge((x, y), truth=TRUTH, held=strata, **plan)
        null = _judge((u, v), truth=0.0, held=strata, **plan)
        found.setdefault("rho within category", []).append(_with_null(about, null))

        x, y, cause, _ = draw_confounded(rng, sizes, ICC)
        about = _judge((x[:, None], y[:, None]), truth=0.0, held=cause, partial=True, **plan)
        found.setdefault("partial rho", []).append(about)

        y, u, _ = draw_clustered(rng, sizes, ICC)
        measures = np.column_stack([y + u, y + draw_clustered(rng, sizes, ICC)[0]])  # equally good ones
        about = _judge((y[:, None], measures), truth=0.0, gap=True, **plan)
        found.setdefault("difference of rhos", []).append(about)
    yield from (_row(name, len(sizes), int(sizes.sum()), studies) for name, studies in found.items())


def few(args: argparse.Namespace) -> Rows:
    """Rho with few subcategories, and the wild bootstrap beside it."""
    from utils.statistics import cluster_tests

    cluster_tests.WILD_DRAWS = 399
    all_sizes, _ = memcat_sizes(5)
    for clusters in FEW:
        studies, images = [], []
        for study in range(args.simulations or 1000):
            rng = np.random.default_rng((args.seed, clusters, study))
            sizes = rng.permutation(all_sizes)[:clusters]
            x, y, codes = draw_clustered(rng, sizes, ICC, BETWEEN, WITHIN)
            u, v, _ = draw_clustered(rng, sizes, ICC)
            plan = {"clusters": codes, "alone": study < ALONE}
            about = _judge((x[:, None], y[:, None]), truth=TRUTH, **plan)
            null = _judge((u[:, None], v[:, None]), truth=0.0, **plan)
            wild = cluster_tests.wild_rho_p(u[:, None], v[:, None], codes, study)[0, 0]
            studies.append(_with_null(about, null) | {"rejected_wild": float(wild < 0.05)})
            images.append(len(codes))
        yield _row("rho", clusters, round(np.mean(images)), studies)


def small(args: argparse.Namespace) -> Rows:
    """R2 and average precision of few independent images: left out one by one, and percentiles of draws."""
    from utils.statistics import prediction_metrics as metrics

    logging.disable(logging.WARNING)
    cut = 0.2

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.normal(size=n)
        return y, 0.02 + 0.45 * (0.5 * y + np.sqrt(0.75) * rng.normal(size=n))

    def judged(y: np.ndarray, predicted: np.ndarray, resamples: int) -> pd.DataFrame:
        tables = (
            metrics.regression_metrics(y, predicted, resamples),
            metrics.classification_metrics(y > cut, predicted, cut, resamples),
        )
        return pd.concat(tables).set_index("metric").loc[["r2", "ap"]]

    truth = judged(*draw(np.random.default_rng(0), 2_000_000), 0)["value"]
    for n in SMALL:
        studies: dict[str, list[dict[str, float]]] = {name: [] for name in truth.index}
        for study in range(args.simulations or 1000):
            y, predicted = draw(np.random.default_rng((args.seed, n, study)), n)
            for kind, fewest in (("coverage", 100), ("coverage_bootstrap", 0)):
                metrics.FEW_IMAGES = fewest
                table = judged(y, predicted, RESAMPLES)
                for name, row in table[table["ci_low"].notna()].iterrows():
                    inside = float(row["ci_low"] <= truth[name] <= row["ci_high"])
                    studies[name].append({kind: inside})
        for name, values in studies.items():
            row = _row(str(name), 0, n, values)
            yield row | {"simulations": int(pd.DataFrame(values)["coverage"].notna().sum())}


def stages(args: argparse.Namespace) -> Rows:
    """Whatever else gives a p-value, under its null."""
    logging.disable(logging.WARNING)
    for name in args.only:
        yield from null_rates.NULLS[name](args.seed, args.simulations or 1000)


def studies(args: argparse.Namespace) -> Rows:
    """Whole studies of nothing: how often something in them is called a finding."""
    logging.disable(logging.WARNING)
    seeds = range(args.simulations or 100)
    found = null_studies.shares(
        [null_studies.study(null_studies.shuffled_study(seed), seed) for seed in seeds]
    )
    sizes = null_studies.SIZES
    for name, (share, count) in found.items():
        about = {
            "statistic": name,
            "subcategories": len(sizes),
            "images": int(sizes.sum()),
            "simulations": count,
        }
        yield about | {"rejected": share}


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "memcat": memcat,
    "few": few,
    "small": small,
    "stages": stages,
    "studies": studies,
}


def update(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the rows of the same part, statistic, clusters and images in the file; return all."""
    key = ["part", "statistic", "subcategories", "images"]
    table = pd.concat([pd.read_csv(path), rows] if path.exists() else [rows], ignore_index=True)
    table = table.drop_duplicates(key, keep="last").reindex(columns=COLUMNS)
    place = table["part"].map({name: number for number, name in enumerate(PARTS)})
    table = (
        table.assign(place=place)
        .sort_values(["place", "subcategories", "images"], kind="stable")
        .drop(columns="place")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6g")
    return table


def main(args: argparse.Namespace) -> None:
    from utils.core.run import package_versions

    versions = {"python": sys.version.split()[0]} | {
        name: version
        for name, version in package_versions().items()
        if name in ("numpy", "scipy", "scikit-learn")
    }
    about = {
        "seed": args.seed,
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "versions": " ".join(f"{name} {version}" for name, version in versions.items()),
    }
    for part in args.parts:
        rows = pd.DataFrame(PARTS[part](args)).assign(part=part, **about)
        print(rows.dropna(axis=1, how="all").drop(columns=[*about, "part"]).round(3).to_string(index=False))
        update(args.output, rows)
    if args.document:
        from benchmarks.coverage_document import replace_tables

        replace_tables(pd.read_csv(args.output), DOCUMENT)


if __name__ == "__main__":
    main(get_parser().parse_args())
