"""Time every stage's work against the plain recipe of public libraries: `make bench`.

Each job of `bench_jobs.py` is run in a process of its own, forked from one that has read the libraries, plain and ours in
turn, several times. Kept are the median processor time, which other work on the machine lengthens little, and wall time
of the work alone, after a warm-up, and the highest memory of the process. Three sizes give the exponent with which time
grows. Writes benchmarks/results/bench_<hardware>.csv and .png, and the table of docs/performance.md.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # processor time is then the work's, on any number of cores
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DOCUMENT = ROOT / "docs" / "performance.md"
MARKS = ("<!-- bench: written by make bench -->", "<!-- /bench -->")


def get_parser() -> argparse.ArgumentParser:
    from benchmarks.bench_jobs import JOBS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="JOB", help=", ".join(JOBS)
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is run at each size")
    parser.add_argument(
        "--table-only", action="store_true", help="write document and figure from the CSV as it is"
    )
    return parser


def run_one(job: str, side: str, size: int, results) -> None:
    """Warm up at the smallest size and time one side at one size, in this process."""
    from benchmarks.bench_jobs import JOBS
    from benchmarks.common import peak_memory_mb

    JOBS[job].sides[side](JOBS[job].sizes[0])()
    work = JOBS[job].sides[side](size)
    wall, processor = time.perf_counter(), time.process_time()
    work()
    results.put(
        {
            "processor_seconds": time.process_time() - processor,
            "wall_seconds": time.perf_counter() - wall,
            "peak_memory_mb": peak_memory_mb(),
        }
    )


def measure(name: str, rounds: int) -> list[dict]:
    """Run all sides of a job in turn at each size; return a row per side and size."""
    from statistics import median

    from benchmarks.bench_jobs import JOBS

    context = multiprocessing.get_context("fork")  # nothing has started a thread yet
    job, rows = JOBS[name], []
    for size in job.sizes:
        found: dict[str, list[dict]] = {side: [] for side in job.sides}
        for _ in range(rounds):
            for side in job.sides:
                results = context.SimpleQueue()
                process = context.Process(target=run_one, args=(name, side, size, results))
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{name} {side} {size} failed with exit code {process.exitcode}.")
                found[side].append(results.get())
        for side, runs in found.items():
            row = {"job": name, "side": side, "unit": job.unit, "size": size, "rounds": rounds}
            row |= {key: median(run[key] for run in runs) for key in runs[0]}
            rows.append(row)
            sys.stderr.write(f"{name} {side} {size}: {row['processor_seconds']:.3f} s\n")
    return rows


def exponent(rows) -> float:
    """Return the slope of log time over log size (least squares)."""
    import numpy as np

    return float(np.polyfit(np.log(rows["size"]), np.log(rows["processor_seconds"]), 1)[0])


def table_lines(table) -> list[str]:
    """Return the Markdown table: processor time per unit of each side at the largest size."""
    from benchmarks.bench_jobs import JOBS

    lines = [
        "| job | plain recipe | ours | with | reached, ratio to ours | aimed at | exponent | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(table["job"]):
        job, of_job = JOBS[name], table[table["job"] == name]
        largest = of_job[of_job["size"] == of_job["size"].max()].set_index("side")
        seconds = largest["processor_seconds"] / largest["size"]
        ours = seconds["float32"]
        plain = (
            f"{_time(seconds['plain'])} ({seconds['plain'] / ours:.2g} times ours)"
            if "plain" in seconds
            else ""
        )
        fast = f"{_time(seconds['fast'])}, {seconds['fast'] / ours:.2f}" if "fast" in seconds else ""
        if not fast and job.aim and "plain" in seconds:
            fast = f"{ours / seconds['plain']:.2f} of plain"
        side = "fast" if "fast" in seconds else "float32"
        growth = exponent(of_job[of_job["side"] == side])
        lines.append(
            f"| {job.label}, per {job.unit} | {plain} | {_time(ours)} | {job.fast} | {fast} | {job.aim or ''} | "
            f"{growth:.2f} | {largest['peak_memory_mb'][side]:.0f} MB |"
        )
    return lines


def _time(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 0.1
        else f"{seconds * 1e3:.3g} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.3g} us"
    )


def draw(table, path: Path) -> None:
    """Draw processor time over size, a panel per job, plain and ours."""
    import matplotlib.pyplot as plt

    from benchmarks.bench_jobs import JOBS

    names = list(dict.fromkeys(table["job"]))
    columns = 3
    figure, axes = plt.subplots(
        math.ceil(len(names) / columns),
        columns,
        figsize=(11, 3.1 * math.ceil(len(names) / columns)),
        squeeze=False,
    )
    looks = {
        "plain": ("0.5", "o", "plain recipe"),
        "float32": ("C0", "s", "ours, float32"),
        "fast": ("C3", "^", "ours, fast"),
    }
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        for side, (colour, marker, label) in looks.items():
            rows = table[(table["job"] == name) & (table["side"] == side)]
            if len(rows):
                label = JOBS[name].fast if side == "fast" else label
                axis.plot(rows["size"], rows["processor_seconds"], color=colour, marker=marker, label=label)
        axis.set(title=JOBS[name].label, xlabel=f"{JOBS[name].unit}s", xscale="log", yscale="log")
        axis.set_ylabel("processor time (s)")
        axis.title.set_fontsize(10)
        sizes = sorted(set(table.loc[table["job"] == name, "size"]))
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from benchmarks.common import RESULTS, cpu_name

    if not args.table_only:
        import torch  # noqa: F401 - read once, by the process that the others are forked from

    label = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    path = RESULTS / f"bench_{label}.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["job"])
    for name in [] if args.table_only else args.jobs:
        rows = pd.DataFrame(measure(name, args.rounds))
        rows = rows.assign(threads=int(os.environ["OMP_NUM_THREADS"]), date=time.strftime("%Y-%m-%d"))
        table = pd.concat([table[table["job"] != name], rows], ignore_index=True)
        table.to_csv(
            path, index=False, float_format="%.5g"
        )  # after each job: a stopped run keeps what it has
    draw(table, path.with_suffix(".png"))
    if DOCUMENT.exists():
        before, rest = DOCUMENT.read_text(encoding="utf-8").split(MARKS[0])
        written = "\n".join([f"On {cpu_name()}, one thread:", "", *table_lines(table)])
        DOCUMENT.write_text(
            f"{before}{MARKS[0]}\n{written}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
        )


if __name__ == "__main__":
    main(get_parser().parse_args())
