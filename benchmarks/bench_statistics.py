"""Time the statistics of the evaluation, and the evaluation as a whole.

On one core: bootstrap resamples of Spearman's rho for eight losses by counts per image, against the usual loop (draw
rows, rank them again with scipy) on fewer resamples of the same data, both in alternating rounds; the largest difference
between the two on the same resamples; the noise ceiling. Then autoencoder_evaluation.py as a user runs it, in a process
of its own on a made-up table of 10,000 images and eight losses: all tables and figures, wall time and highest memory.
Writes benchmarks/results/statistics_<hardware>.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # one core; before numpy is loaded
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PARTS = ("bootstrap", "tables", "whole_evaluation")

# VmHWM and not ru_maxrss: the latter survives exec and would be at least this process's own.
EVALUATE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--losses", type=int, default=8)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument(
        "--loop-resamples", type=int, default=50, help="resamples of the usual loop, per round"
    )
    parser.add_argument("--splits", type=int, default=50, help="random halves behind the noise ceiling")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; the median is reported")
    parser.add_argument(
        "--output", type=Path, help="JSON (default: benchmarks/results/statistics_<hardware>.json)"
    )
    return parser


def made_up(images: int, losses: int):
    """Scores from counts, in five categories of subcategories of 75, and losses that follow them less and less."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    responses = rng.integers(80, 120, images)
    hits = rng.binomial(responses, rng.beta(6, 3, images))
    alarms = rng.binomial(responses, 0.12)
    number = np.arange(images)
    category = np.array(["animal", "food", "landscape", "sports", "vehicle"])[number * 5 // images]
    scores = pd.DataFrame(
        {
            "image_file": [f"{i:06d}.jpg" for i in number],
            "category": category,
            "subcategory": [f"kind{i // 75}" for i in number],
            "H": hits,
            "FA": alarms,
            "n_resp": responses,
            "memorability_wo_fa_correction": hits / responses,
            "memorability_w_fa_correction": (hits - alarms) / responses,
        }
    )
    table = scores[["image_file"]].copy()
    score = scores.memorability_w_fa_correction.to_numpy()
    for k in range(losses):
        table[f"loss{k}"] = np.exp(score + (0.2 + 0.1 * k) * rng.normal(size=images))
    return scores, table


def loop_of_rows(x, y, resamples: int, seed: int):
    """The usual loop: draw rows, rank again."""
    import numpy as np
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    rho = np.empty((resamples, y.shape[1]))
    for r in range(resamples):
        rows = rng.integers(0, len(x), size=len(x))
        for k in range(y.shape[1]):
            rho[r, k] = spearmanr(x[rows], y[rows, k]).statistic
    return rho


def time_bootstrap(x, y, args: argparse.Namespace) -> dict[str, float]:
    """Time both bootstraps in alternating rounds, and compare them on the same draws."""
    import numpy as np

    from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

    ours, loop = [], []
    for _ in range(args.rounds):
        started = time.perf_counter()
        plan = Resampler(len(x), args.resamples, 0)
        rho, samples = correlate_resampled(x[:, None], y, plan)
        plan.interval(rho, samples, FISHER)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        plain = loop_of_rows(x, y, args.loop_resamples, seed=0)
        loop.append((time.perf_counter() - started) * args.resamples / args.loop_resamples)
    seconds, loop_seconds = float(np.median(ours)), float(np.median(loop))
    return {
        "seconds": seconds,
        "seconds_per_loss": seconds / y.shape[1],
        "usual_loop_seconds_extrapolated": loop_seconds,
        "usual_loop_over_ours": loop_seconds / seconds,
        "largest_difference_of_rho": float(np.abs(samples[: len(plain), 0] - plain).max()),
        "seconds_aimed_at": 5.0,
    }


def time_tables(frame, measures: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Time each table of the evaluation by itself, in processor time; the highest memory so far beside it."""
    import itertools
    import resource

    import numpy as np

    from utils.core.device import keep_freed_memory
    from utils.statistics.correlation_tables import (
        correlation_rows,
        correlations_by_category,
        noise_ceiling,
        paired_difference,
    )

    keep_freed_memory()
    options = {"resamples": args.resamples}
    pairs = list(itertools.combinations(measures, 2))
    counts = (frame.hits, frame.false_alarms, frame.n_resp)
    works = {
        f"noise_ceiling_{args.splits}_splits": lambda: noise_ceiling(*counts, splits=args.splits),
        "correlation_rows": lambda: correlation_rows(frame, measures, splits=args.splits, **options),
        "correlations_by_category": lambda: correlations_by_category(
            frame, measures, splits=args.splits, **options
        ),
        "paired_difference": lambda: paired_difference(frame, pairs, **options),
    }
    found = {}
    for name, work in works.items():
        times = []
        for _ in range(args.rounds):
            started = time.process_time()
            work()
            times.append(time.process_time() - started)
        found[f"{name}_processor_seconds"] = float(np.median(times))
        found[f"{name}_peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def time_stage(scores, table, args: argparse.Namespace) -> dict[str, float | int]:
    """Run the whole stage in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        scores.to_csv(Path(folder) / "scores.csv", index=False)
        table.to_csv(Path(folder) / "losses.csv", index=False)
        command = [sys.executable, "-c", EVALUATE, str(ROOT / "autoencoder_evaluation.py")]
        command += ["--table", f"{folder}/losses.csv", "--scores-csv", f"{folder}/scores.csv"]
        command += ["--output-path", f"{folder}/out", "--resamples", str(args.resamples), "--loss-columns"]
        command += [name for name in table.columns if name != "image_file"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        files = sorted(path.name for path in (Path(folder) / "out").iterdir() if path.is_file())
    return {
        "wall_seconds": wall,
        "peak_memory_mb": int(done.stdout.split()[-2]) / 1024,
        "wall_seconds_aimed_at": 45.0,
        "peak_memory_mb_aimed_at": 800.0,
        "files": files,
    }


def main(args: argparse.Namespace) -> None:
    from benchmarks.common import record

    scores, table = made_up(args.images, args.losses)
    renamed = {"H": "hits", "FA": "false_alarms", "memorability_w_fa_correction": "memorability"}
    measures = [name for name in table.columns if name != "image_file"]
    frame = scores.rename(columns=renamed).assign(**{name: table[name] for name in measures})
    works = {
        "bootstrap": lambda: time_bootstrap(frame.memorability.to_numpy(), frame[measures].to_numpy(), args),
        "tables": lambda: time_tables(frame, measures, args),
        "whole_evaluation": lambda: time_stage(scores, table, args),
    }
    figures = {"images": args.images, "losses": args.losses, "resamples": args.resamples}
    figures |= {part: works[part]() for part in args.parts}
    record("statistics", figures, path=args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
