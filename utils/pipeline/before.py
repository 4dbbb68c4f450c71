"""What the pipeline says before its first stage starts: the plan, what is wrong with it, about how long it takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.errors import UserError
from utils.core.log import in_words, log
from utils.core.signals import follow_parent_as_worker
from utils.pipeline.plan import Step
from utils.pipeline.records import read_record

if TYPE_CHECKING:
    from utils.pipeline.checks import Findings


def _check(steps: Sequence[Step], output_path: Path, download: bool) -> Findings:
    from utils.core.log import setup_logging
    from utils.pipeline.checks import check_study

    setup_logging()
    return check_study(steps, output_path, download)


def check_apart(steps: Sequence[Step], output_path: Path, download: bool) -> Findings:
    """Run the checks in a process of their own, so that torch does not stay in memory beside the stages."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=follow_parent_as_worker) as pool:
        return pool.submit(_check, steps, output_path, download).result()


def _rounded(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds < 60 else in_words(seconds)


def say_plan(steps: Sequence[Step], findings: Findings, output_path: Path) -> None:
    """Print what will run, why, and about how long it takes."""
    earlier = read_record(output_path)
    total, rough = 0.0, False
    lines = []
    for step in steps:
        if not step.reason:
            lines.append(f"  {step.place}: unchanged since its last run, will be skipped")
        elif step.needs_scores and not findings.has_scores:
            lines.append(f"  {step.place}: left out, the pictures have no scores")
        else:
            seconds = earlier.get(step.name, {}).get("seconds")
            known = seconds is not None
            seconds = seconds if known else findings.seconds.get(step.name, 0.0)
            rough |= not known
            total += seconds
            took = f"took {in_words(seconds)} last time" if known else f"about {_rounded(seconds)}"
            lines.append(f"  {step.place}: {took} ({step.reason})\n    {step.command}")
    size = (
        f", about {max(findings.bytes_needed / 2**30, 0.1):.1f} GiB of disk" if findings.bytes_needed else ""
    )
    log.info("%d images%s; the plan:\n%s", findings.images, size, "\n".join(lines))
    if findings.downloads:
        log.info("Weights to download first: %s", ", ".join(findings.downloads))
    if total:
        basis = "; rough, from the rates of two CPU cores in benchmarks/README.md" if rough else ""
        log.info("Together about %s%s.", _rounded(total), basis)


def refuse_problems(findings: Findings) -> None:
    """Stop before the first stage where one is known to fail.

    Raises:
        UserError: With every problem found.
    """
    if len(findings.problems) == 1:
        raise UserError(f"Nothing was started. {findings.problems[0]}")
    if findings.problems:
        shown = "\n".join(f"  {number}. {text}" for number, text in enumerate(findings.problems, start=1))
        raise UserError(f"Nothing was started: {len(findings.problems)} things stand in the way.\n{shown}")
