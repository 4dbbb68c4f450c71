"""Time every stage's work against the plain recipe of public libraries: `make bench`.

Each job of `bench_jobs.py` is run in processes of its own, forked from one that has read the libraries, plain and ours in
turn, several times. Kept are the median processor time, which other work on the machine lengthens little, and wall time
of the work alone, after a warm-up, and the highest memory of the process so far. Three sizes give the exponent with which
time grows. Writes benchmarks/results/bench_<machine>.csv and .png, and from the CSV the tables of docs/performance.md and
README.md.
"""

import argparse
import math
import multiprocessing
import os
import re
import resource
import sys
import textwrap
import time
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # processor time is then the work's, on any number of cores
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DOCUMENT, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
MARKS = {DOCUMENT: ("<!-- bench: written by make bench -->", "<!-- /bench -->")}
MARKS[README] = ("<!-- speed: written by make bench -->", "<!-- /speed -->")


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
        "--table-only", action="store_true", help="write documents and figure from the CSV as it is"
    )
    return parser


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def run_one(job: str, side: str, results) -> None:
    """Warm up at the smallest size, and time one side at each size, in this process."""
    from benchmarks.bench_jobs import JOBS
    from benchmarks.common import peak_memory_mb

    make, sizes = JOBS[job].sides[side], JOBS[job].sizes
    make(sizes[0])()
    for size in sizes:
        work = make(size)
        wall, processor = time.perf_counter(), processor_seconds()
        measured = work()
        found = {
            "processor_seconds": processor_seconds() - processor,
            "wall_seconds": time.perf_counter() - wall,
            "peak_memory_mb": peak_memory_mb(),
        }
        results.put(found | measured if isinstance(measured, dict) else found)


def measure(name: str, rounds: int) -> list[dict]:
    """Run all sides of a job in turn; return a row per side and size."""
    from statistics import median

    from benchmarks.bench_jobs import JOBS

    context = multiprocessing.get_context("fork")  # nothing has started a thread yet
    job, rows = JOBS[name], []
    rounds = min(rounds, job.rounds or rounds)
    found: dict[tuple[str, int], list[dict]] = {(side, size): [] for size in job.sizes for side in job.sides}
    for _ in range(rounds):
        for side in job.sides:
            results = context.SimpleQueue()
            process = context.Process(target=run_one, args=(name, side, results))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} {side} failed with exit code {process.exitcode}.")
            for size in job.sizes:
                found[side, size].append(results.get())
    for (side, size), runs in found.items():
        row = {"job": name, "side": side, "unit": job.unit, "size": size, "rounds": rounds}
        row |= {key: None if runs[0][key] is None else median(run[key] for run in runs) for key in runs[0]}
        rows.append(row)
        sys.stderr.write(f"{name} {side} {size}: {row['processor_seconds']:.3f} s\n")
    return rows


def exponent(rows) -> float:
    """Return the slope of log time over log size (least squares)."""
    import numpy as np

    return float(np.polyfit(np.log(rows["size"]), np.log(rows["processor_seconds"]), 1)[0])


def _largest(table, name: str):
    """Return the rows of a job at its largest size by side, and their seconds per unit."""
    from benchmarks.bench_jobs import JOBS

    of_job = table[table["job"] == name]
    largest = of_job[of_job["size"] == of_job["size"].max()].set_index("side")
    units = 1 if JOBS[name].unit == "run" else largest["size"]
    return largest, largest["processor_seconds"] / units, largest["wall_seconds"] / units


def table_lines(table) -> list[str]:
    """Return the Markdown table: processor time per unit of each side at the largest size."""
    from benchmarks.bench_jobs import JOBS

    lines = [
        "| job | plain recipe | ours | reached | ratio | aimed at | before, aimed at | wall time | exponent | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in JOBS if name in set(table["job"])):
        job = JOBS[name]
        largest, seconds, wall = _largest(table, name)
        ours, ratio, side = seconds["float32"], "", "float32"
        plain = (
            f"{_time(seconds['plain'])} ({seconds['plain'] / ours:.2g} times ours)"
            if "plain" in seconds
            else ""
        )
        reached = _time(ours)
        if "fast" in seconds:
            side, reached = "fast", f"{_time(seconds['fast'])} {job.fast}"
            ratio = f"{seconds['fast'] / ours:.2f} of ours"
        elif job.aim:
            ratio = f"{ours / seconds['plain']:.2f} of plain"
        growth = exponent(table[(table["job"] == name) & (table["side"] == side)])
        memory = largest["peak_memory_mb"][side]
        cells = [
            f"{job.label}, per {job.unit}",
            plain,
            _time(ours),
            reached,
            ratio,
            f"{job.aim:g}" if job.aim else "",
            job.aimed,
            _time(wall[side]),
            f"{growth:.2f}",
            "" if memory != memory else f"{memory:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def brief_lines(table) -> list[str]:
    """Return the README's Markdown table: the jobs a user waits for, plain, ours, and with the flag."""
    from benchmarks.bench_jobs import JOBS

    lines = ["| work | plain recipe | this project | with |", "|---|---|---|---|"]
    for name in (name for name, job in JOBS.items() if job.brief and name in set(table["job"])):
        _, seconds, _ = _largest(table, name)
        plain = _time(seconds["plain"]) if "plain" in seconds else ""
        fast = f"{_time(seconds['fast'])}: {JOBS[name].fast}" if "fast" in seconds else ""
        lines.append(f"| {JOBS[name].brief} | {plain} | {_time(seconds['float32'])} | {fast} |")
    return lines


def write_tables(table, name: str) -> None:
    """Put the tables between their marks in docs/performance.md and README.md, with the CSV they come from."""
    from benchmarks.common import RESULTS

    path = (RESULTS / f"bench_{slug(name)}.csv").relative_to(ROOT).as_posix()
    for document, lines in ((DOCUMENT, table_lines(table)), (README, brief_lines(table))):
        if not document.exists():
            continue
        begin, end = MARKS[document]
        before, rest = document.read_text(encoding="utf-8").split(begin)
        written = "\n".join([f"On {name}, one thread (`{path}`):", "", *lines])
        document.write_text(f"{before}{begin}\n{written}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def slug(name: str) -> str:
    """Return a machine's name as it stands in file names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


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
        counted = "pictures" if JOBS[name].unit == "run" else f"{JOBS[name].unit}s"
        title = textwrap.fill(JOBS[name].label, 38)
        axis.set(title=title, xlabel=counted, xscale="log", yscale="log")
        axis.set_ylabel("processor time (s)")
        axis.title.set_fontsize(10)
        sizes = sorted({int(size) for size in table.loc[table["job"] == name, "size"]})
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from benchmarks.common import RESULTS, machine_name

    if not args.table_only:
        import torch  # noqa: F401 - read once, by the process that the others are forked from

    name = machine_name()
    path = RESULTS / f"bench_{slug(name)}.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["job"])
    for job in [] if args.table_only else args.jobs:
        rows = pd.DataFrame(measure(job, args.rounds))
        rows = rows.assign(threads=int(os.environ["OMP_NUM_THREADS"]), date=time.strftime("%Y-%m-%d"))
        table = pd.concat([table[table["job"] != job], rows], ignore_index=True).astype({"size": int})
        # after each job: a stopped run keeps what it has
        table.to_csv(path, index=False, float_format="%.5g")
    draw(pd.read_csv(path), path.with_suffix(".png"))
    write_tables(pd.read_csv(path), name)


if __name__ == "__main__":
    main(get_parser().parse_args())
