"""Try for half an hour to lose something, to believe what is damaged, or to end without a clear word.

Parts: every kind of fault in tests/faults; every stage killed by SIGKILL and told to end by SIGTERM at random moments
and run again; mutated pictures of every accepted format; stages as several processes, one of which may die; 100,000
small pictures through stages 2 to 5. Each trial is one row of benchmarks/results/soak.csv, written when it is done: a
soak that was stopped goes on from there. What the counts mean, and what is not tried: docs/reliability.md.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from common import RESULTS, ROOT, record

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # before anything of the project: run from anywhere

os.environ["OMP_NUM_THREADS"] = "1"  # a fork keeps no threads; the processes are the parallelism

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from faults import forked, mutants  # noqa: E402
from faults.catalogue import FAULTS, possible_here  # noqa: E402
from faults.study import STAGES, START, Study, differences  # noqa: E402
from faults.trial import try_fault  # noqa: E402

PARTS = ("mutants", "ranks", "kills", "terms", "faults", "many")
ROWS = ["part", "case", "seed", "commit", "problems", "what", "seconds", "peak_mb", "count"]
SHARDED = (2, 4, 7, 8, 9)  # stages that share their images among processes
MUTANTS_A_TRIAL = 500
TRACEBACK = "Traceback (most recent call last)"


class Trial(NamedTuple):
    """One row to be: its part, its name, and what finds out what is wrong (and measures: seconds, peak MB, count)."""

    part: str
    case: str
    attempt: Callable[[Study], tuple[list[str], dict[str, float]]]


# ------------------------------------------------------------------------------------------------ faults


def fault_trials() -> Iterable[Trial]:
    for fault in FAULTS:
        if possible_here(fault):
            yield Trial("faults", str(fault), lambda study, fault=fault: (try_fault(fault, study), {}))


# ------------------------------------------------------------------------------------------------ kills


def kill_trials(times: int, seed: int, number: int) -> Iterable[Trial]:
    part = "kills" if number == signal.SIGKILL else "terms"
    for stage in STAGES:
        for attempt in range(times):
            rng = np.random.default_rng([seed, number, stage, attempt])
            yield Trial(
                part,
                f"stage {stage} {STAGES[stage][0]}, {attempt + 1}",
                lambda study, stage=stage, rng=rng: kill_and_resume(study, stage, number, rng),
            )


def kill_and_resume(
    study: Study, stage: int, number: int, rng: np.random.Generator
) -> tuple[list[str], dict[str, float]]:
    """Run a stage, end it at a random moment once or twice, run it to its end, and compare with the undisturbed one."""
    before = max((n for n in STAGES if n < stage), default=START)
    place = study.copy(before)
    problems, sent = [], 0
    for _ in range(1 + int(rng.random() < 0.4)):
        moment = float(rng.uniform(0, 1.05)) * study.seconds[stage]
        done = place.run(stage, signals=[(moment, number)])
        if done.code == 0:
            continue  # it was quicker
        sent += 1
        expected = {-signal.SIGKILL} if number == signal.SIGKILL else {143, -signal.SIGTERM}
        if done.code not in expected:
            problems.append(f"ended with {done.code}: {done.output.strip()[-300:]!r}")
        if number == signal.SIGTERM and done.code == -signal.SIGTERM and moment > 0.2 * study.seconds[stage]:
            problems.append("SIGTERM was not heard")
        if number == signal.SIGTERM and done.code == 143 and "again" not in done.output:
            problems.append("does not say how to go on")
        if TRACEBACK in done.output:
            problems.append(f"traceback: {done.output.strip()[-300:]!r}")
    done = place.run(stage)
    if done.code or TRACEBACK in done.output:
        problems.append(f"run again, it ends with {done.code}: {done.output.strip()[-300:]!r}")
    problems += differences(place.content(), study.content_after(stage))
    problems += [f"left behind: {name}" for name in place.leftovers()]
    return problems, {"count": sent}


# ------------------------------------------------------------------------------------------------ mutants


def mutant_trials(count: int, seed: int) -> Iterable[Trial]:
    for start in range(0, count, MUTANTS_A_TRIAL):
        size = min(MUTANTS_A_TRIAL, count - start)
        yield Trial(
            "mutants",
            f"numbers {start} to {start + size - 1}",
            lambda study, start=start, size=size: read_mutants(start, size, seed),
        )


def read_mutants(start: int, size: int, seed: int) -> tuple[list[str], dict[str, float]]:
    """Read mutants in a process of their own, so that what ends a process is seen as well."""
    with tempfile.TemporaryFile("w+") as stream:
        child = os.fork()
        if not child:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders' own complaints
                outcomes, problems, slowest = mutants.read_all(start, size, seed)
                problems += [f"took {slowest:.1f} s for one"] if slowest > 10 else []
                stream.write("\n".join([f"{outcomes['read']},{slowest}", *problems]))
                stream.flush()
            finally:
                os._exit(0)
        _, status, usage = os.wait4(child, 0)
        stream.seek(0)
        first, *problems = stream.read().splitlines() or [""]
    code = os.waitstatus_to_exitcode(status)
    if code or not first:
        problems.append(f"the process ended with {code}")
    peak = usage.ru_maxrss / 1024
    problems += [f"needed {peak:.0f} MB"] if peak > 2000 else []
    return problems, {"peak_mb": peak, "count": size, "seconds": float(first.split(",")[1]) if first else 0}


# ------------------------------------------------------------------------------------------------ ranks


def rank_trials(seed: int) -> Iterable[Trial]:
    for stage in (2, 4, 6, 7, 8, 9):
        for size in (2, 3):
            yield Trial(
                "ranks",
                f"stage {stage} as {size} processes",
                lambda study, stage=stage, size=size: as_ranks(study, stage, size, None),
            )
    for stage in SHARDED:
        for attempt in range(3):
            rng = np.random.default_rng([seed, stage, attempt])
            yield Trial(
                "ranks",
                f"stage {stage}, one of 2 processes dies, {attempt + 1}",
                lambda study, stage=stage, rng=rng: as_ranks(study, stage, 2, rng),
            )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_ranks(
    study: Study, stage: int, size: int, rng: np.random.Generator | None
) -> tuple[list[str], dict[str, float]]:
    """Run a stage as torchrun would start it; let one process die (with a generator) and run all again."""
    place = study.copy(max((n for n in STAGES if n < stage), default=START))
    problems = []
    if rng is not None:
        moment = float(rng.uniform(0.1, 1)) * study.seconds[stage]
        _run_ranks(place, stage, size, dead=int(rng.integers(size)), moment=moment)
    codes, output = _run_ranks(place, stage, size)
    if set(codes) != {0} or TRACEBACK in output:
        problems.append(f"ended with {codes}: {output.strip()[-400:]!r}")
    problems += differences(place.content(), study.content_after(stage))
    problems += [f"left behind: {name}" for name in place.leftovers()]
    return problems, {"count": size}


def _run_ranks(
    place: object, stage: int, size: int, dead: int | None = None, moment: float = 0.0
) -> tuple[list[int], str]:
    """Start all ranks; kill one after a moment and, as torchrun does, tell the others to end."""
    port = str(_free_port())
    with tempfile.TemporaryFile() as stream:
        children = []
        for rank in range(size):
            environment = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            children.append(place.start(stage, stream.fileno(), environment))  # type: ignore[attr-defined]
        if dead is not None:
            time.sleep(moment)
            os.kill(children[dead], signal.SIGKILL)
            time.sleep(0.3)
            for child in children:
                os.kill(child, signal.SIGTERM)
        codes = [_wait_for(child, forked.LIMIT_S) for child in children]
        stream.seek(0)
        return codes, stream.read().decode("utf-8", "backslashreplace")


def _wait_for(child: int, limit_s: float) -> int:
    """Wait for a child; kill it when the time is over."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -int(signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ many pictures


def many_trials(count: int, folder: Path, seed: int) -> Iterable[Trial]:
    """100,000 pictures, each of another content, in one study on disk; each stage in a process of its own."""
    yield Trial("many", f"making {count} pictures", lambda study: make_many(folder, count, seed))
    flags = ("--image-size", 32, "--device", "cpu", "--batch-size", 64)
    stages: dict[str, Sequence[object]] = {
        "autoencoder_test": (*flags, "--losses", "mse", "mae"),
        "autoencoder_evaluation": ("--resamples", 200),
        "latent_analysis": (*flags, "--calculate-latents", "--distinctiveness-analysis", "--resamples", 200),
        "category_plot": ("--resamples", 200),
    }
    for script, own in stages.items():
        yield Trial(
            "many",
            f"{script} on {count} pictures",
            lambda study, script=script, own=own: run_many(folder, script, own, count),
        )


def make_many(folder: Path, count: int, seed: int) -> tuple[list[str], dict[str, float]]:
    """Write pictures of 32 x 32 pixels in 100 subcategories, their table, and a thin network with random weights."""
    from PIL import Image

    from models.autoencoder import build_autoencoder
    from models.checkpoints import save_autoencoder

    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        category, subcategory = f"category{number % 10}", f"subcategory{number % 100:02d}"
        path = folder / "data" / "MemCat_images" / "MemCat" / category / subcategory / f"{number:012d}.jpg"
        if number < 100:
            path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
        hits, alarms = int(rng.binomial(100, 0.75)), int(rng.binomial(100, 0.1))
        rows.append((path.name, category, subcategory, hits, alarms, 100, (hits - alarms) / 100))
    names = ["image_file", "category", "subcategory", "H", "FA", "n_resp", "memorability_w_fa_correction"]
    (folder / "data" / "MemCat_data").mkdir()
    pd.DataFrame(rows, columns=names).to_csv(
        folder / "data" / "MemCat_data" / "memcat_image_data.csv", index=False
    )
    (folder / "output").mkdir()
    network = build_autoencoder("vgg11", 0, width=0.0625)
    save_autoencoder(
        folder / "output" / "thin.pth", network, image_size=32, caveats=["random weights: autoencoder"]
    )
    return [], {"seconds": time.monotonic() - started, "count": count}


def run_many(
    folder: Path, script: str, flags: Sequence[object], count: int
) -> tuple[list[str], dict[str, float]]:
    """Run one stage as a user does; its time, its peak memory, and whether every picture arrived."""
    where = ["--output-path", folder / "output"]
    where += [] if script == "category_plot" else ["--data-dir", folder / "data"]
    command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, [*where, *flags])]
    started = time.monotonic()
    with open(folder / f"{script}.txt", "w+") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        stream.seek(0)
        output = stream.read()
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    problems = [f"ended with {code}: {output.strip()[-400:]!r}"] if code else []
    for table in ("test_loss_thin.csv", "latents_thin.csv", "distinctiveness_thin.csv"):
        path = folder / "output" / table
        if path.exists() and len(pd.read_csv(path, usecols=[0])) != count:
            problems.append(f"{table} has not {count} rows")
    return problems, {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024, "count": count}


# ------------------------------------------------------------------------------------------------ the soak


def attempt(trial: Trial, study: Study) -> dict[str, object]:
    """Make one trial and return its row."""
    started = time.monotonic()
    try:
        problems, measured = trial.attempt(study)
    except Exception:  # of this script: told as a problem, and the soak goes on
        problems, measured = [traceback.format_exc(limit=-3)], {}
    return {
        "part": trial.part,
        "case": trial.case,
        "problems": len(problems),
        "what": " | ".join(problems)[:1000].replace("\n", " / "),
        "seconds": round(measured.get("seconds", time.monotonic() - started), 2),
        "peak_mb": round(measured["peak_mb"]) if "peak_mb" in measured else "",
        "count": int(measured.get("count", 1)),
    }


def work(parts: dict[str, list[Trial]], args: argparse.Namespace, number: int, commit: str) -> None:
    """Make every so many-th trial of each part, one row each, appended when it is done."""
    folder = args.folder / f"worker{number}"
    shutil.rmtree(folder, ignore_errors=True)
    study = Study(folder) if parts.keys() - {"mutants", "many"} else Study.__new__(Study)
    for part, trials in parts.items():
        until = time.monotonic() + 60 * args.minutes
        # one stage after another, and nothing beside it but what is left of the other parts
        own = trials[number :: args.workers] if part != "many" else trials[: (number == 0) * len(trials)]
        for trial in own:
            if time.monotonic() > until and part != "many":
                break
            row = {**attempt(trial, study), "seed": args.seed, "commit": commit}
            with open(args.results, "a", newline="", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                csv.DictWriter(stream, ROWS).writerow(row)
            if row["problems"]:
                sys.stdout.write(f"{row['part']}: {row['case']}: {row['what'][:300]}\n")
                sys.stdout.flush()
    shutil.rmtree(folder, ignore_errors=True)


def all_trials(args: argparse.Namespace, part: str) -> list[Trial]:
    trials: dict[str, Callable[[], Iterable[Trial]]] = {
        "faults": fault_trials,
        "kills": lambda: kill_trials(args.kills, args.seed, signal.SIGKILL),
        "terms": lambda: kill_trials(max(args.kills // 4, 1), args.seed, signal.SIGTERM),
        "mutants": lambda: mutant_trials(args.mutants, args.seed),
        "ranks": lambda: rank_trials(args.seed),
        "many": lambda: many_trials(args.pictures, args.folder / "many", args.seed),
    }
    return list(trials[part]())


def run_parts(args: argparse.Namespace) -> None:
    """Make what is not done yet, in worker processes."""
    from utils.core.run import code_revision

    commit = str(code_revision()["commit"])[:12]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    if args.anew or not args.results.exists():
        args.results.write_text(",".join(ROWS) + "\n", encoding="utf-8")
    forked.preload()
    done = pd.read_csv(args.results, dtype=str, keep_default_na=False)
    same = done[(done["commit"] == commit) & (done["seed"] == str(args.seed)) & (done["part"] != "many")]
    known = set(zip(same["part"], same["case"], strict=True))
    parts = {}
    for part in args.only or PARTS:
        trials = [trial for trial in all_trials(args, part) if (trial.part, trial.case) not in known]
        trials = [trial for trial in trials if (args.match or "") in trial.case]
        if part != "many":
            random.Random(args.seed).shuffle(trials)  # so that a part of them is a sample of them
        parts[part] = trials
    sys.stdout.write(", ".join(f"{part}: {len(trials)} trials" for part, trials in parts.items()) + "\n")
    sys.stdout.flush()
    children = []
    for number in range(args.workers):
        child = os.fork()
        if not child:
            try:
                work(parts, args, number, commit)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def summarise(results: Path) -> dict[str, dict[str, float]]:
    """Count trials and those with problems, part by part, and the largest time and memory."""
    rows = pd.read_csv(results, keep_default_na=False)
    summary: dict[str, dict[str, float]] = {}
    for part, own in rows.groupby("part", sort=False):
        peak = pd.to_numeric(own["peak_mb"], errors="coerce")
        summary[str(part)] = {
            "trials": len(own),
            "with_problems": int((own["problems"] > 0).sum()),
            "count": int(own["count"].sum()),
            "seconds": round(float(own["seconds"].sum()), 1),
            **({} if peak.isna().all() else {"peak_mb": float(peak.max())}),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts (default: all)")
    parser.add_argument("--match", help="only trials whose name holds this text")
    parser.add_argument("--kills", type=int, default=20, help="kills of each stage")
    parser.add_argument("--mutants", type=int, default=50_000, help="mutated pictures")
    parser.add_argument("--pictures", type=int, default=100_000, help="small pictures through stages 2 to 5")
    parser.add_argument("--seed", type=int, default=0, help="of moments, mutations and pictures")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="for each part at most; the rest is for the next soak",
    )
    parser.add_argument("--anew", action="store_true", help="forget what an earlier soak has done")
    parser.add_argument("--folder", type=Path, help="for what is made on the way (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS / "soak.csv", help="one row for each trial")
    args = parser.parse_args()
    own = args.folder is None
    args.folder = args.folder or Path(tempfile.mkdtemp(prefix="soak"))
    started = time.monotonic()
    try:
        run_parts(args)
    finally:
        shutil.rmtree(args.folder if own else args.folder / "many", ignore_errors=True)
    summary = summarise(args.results)
    record(
        "soak",
        {"wall_s": round(time.monotonic() - started), **summary},
        path=args.results.with_suffix(".json"),
    )
    raise SystemExit(1 if any(part["with_problems"] for part in summary.values()) else 0)


if __name__ == "__main__":
    main()
