"""Run the whole study: the eight stages in order, then a report.

Reads: the images and the score table (--data-dir, or the embedded sample with --sample or --demo),
and the pretrained autoencoder. Done: each stage's script is run by itself, as a user would run it. A stage
whose command, code, inputs and outputs are those of its last complete run is skipped with a word; the first
failure stops the study and names the command to run again. Writes: what the stages write, pipeline.json
(the commands, times and fingerprints this decision rests on) and report.html.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from utils.core.cli import (
    EXIT_USER_ERROR,
    build_parser,
    positive_float,
    positive_int,
    run_script,
)
from utils.core.errors import UserError
from utils.core.log import in_words, log
from utils.core.names import ARCHITECTURES, LOSSES, RECIPES
from utils.core.signals import run_child, signal_that_ended
from utils.pipeline.before import check_apart, refuse_problems, say_plan
from utils.pipeline.plan import Step, make_step
from utils.pipeline.records import record_stage, why_run
from utils.pipeline.stages import GROUPS, Stage, parse_extras, stage_arguments
from utils.pipeline.status import say_status
from utils.pipeline.study import DEMO, STAGES

ROOT = Path(__file__).resolve().parent


def get_parser(demo: bool = False) -> argparse.ArgumentParser:
    """Return the parser: the shared flags, which stages to run, and the stages' flags that are wanted most.

    Args:
        demo: Whether the defaults are those of --demo; anything typed beside it still wins.
    """
    parser = build_parser(__doc__ or "", *GROUPS)
    names = [stage.name for stage in STAGES]
    _which_flags(parser.add_argument_group("which stages"), names)
    own = parser.add_argument_group("flags of single stages (each script's --help says more)")
    own.add_argument("--arch", choices=ARCHITECTURES, help="autoencoder to fine-tune (stage 1)")
    own.add_argument("--width", type=positive_float, metavar="W", help="multiplies its channels (stage 1)")
    own.add_argument(
        "--pretrained", metavar="PATH", help="checkpoint to start from, or none for random weights (stage 1)"
    )
    own.add_argument("--recipe", choices=RECIPES, help="whose choices fine-tuning follows (stage 1)")
    own.add_argument(
        "--losses", nargs="+", choices=LOSSES, metavar="LOSS", help="losses to compute (stage 2)"
    )
    own.add_argument(
        "--ig-steps",
        type=positive_int,
        metavar="N",
        help="steps of Integrated Gradients, exactly so many (stage 7; default: 50, doubled where they do not add up)",
    )
    own.add_argument("--ig-limit", type=positive_int, metavar="N", help="images to attribute (stage 7)")
    own.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="STAGE=FLAGS",
        help="further flags for one stage, e.g. --extra mlp_predict='--search --n-splits 5'; may be repeated",
    )
    if demo:
        parser.set_defaults(**DEMO)
    return parser


def _which_flags(which: argparse._ArgumentGroup, names: list[str]) -> None:
    which.add_argument(
        "--demo",
        action="store_true",
        help=f"a small study that needs no data and no download: {_demo_text()}",
    )
    which.add_argument(
        "--stages", nargs="+", choices=names, metavar="STAGE", help=f"only these, of {', '.join(names)}"
    )
    which.add_argument("--from-stage", choices=names, metavar="STAGE", help="start at this stage")
    which.add_argument("--to-stage", choices=names, metavar="STAGE", help="end with this stage")
    which.add_argument(
        "--report-only", action="store_true", help="run no stage, write the report from what is there"
    )
    which.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, say what would run and how long; write nothing",
    )
    which.add_argument(
        "--status",
        action="store_true",
        help="run nothing, say how each stage stands in the output folder: done, stale, damaged or missing",
    )


def _demo_text() -> str:
    words: list[str] = []
    for name, value in DEMO.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif name == "extra":  # given once for each stage
            words += [f"{flag} {shlex.quote(one)}" for one in value]
        else:
            words.append(f"{flag} {' '.join(map(str, value if isinstance(value, list) else [value]))}")
    return " ".join(words)


def main(args: argparse.Namespace) -> None:
    """Check the chosen stages, run them, skip those that stand, then write the report; alone in the folder."""
    if args.status:
        say_status(args.output_path, STAGES, ROOT)
        return
    from utils.core.files import check_writable
    from utils.core.locks import only_run
    from utils.report.report import write_report

    steps = plan(args)
    if args.dry_run:
        check(steps, args)
        return
    check_writable(args.output_path)
    with only_run(args.output_path, "run_pipeline"):
        run_stages(steps, args)
        report, figures = write_report(args.output_path)
    log.info("Report:  %s (open it in a browser)", report)
    log.info("Figures: %d files in %s", figures, args.output_path)


def plan(args: argparse.Namespace) -> list[Step]:
    """Return the chosen stages with what each is given, read by its own parser."""
    extras = parse_extras(args.extra, [stage.name for stage in STAGES])
    return [
        make_step(
            stage, STAGES, stage_arguments(stage, args) + extras.get(stage.name, []), ROOT, args.output_path
        )
        for stage in ([] if args.report_only else choose_stages(args))
    ]


def check(steps: list[Step], args: argparse.Namespace) -> list[Step]:
    """Say what will run and refuse what is known to fail; return the steps that are not left out for want of scores."""
    if not any(step.reason for step in steps):
        return steps
    findings = check_apart(steps, args.output_path, download=not args.dry_run)
    say_plan(steps, findings, args.output_path)
    refuse_problems(findings)
    return [step for step in steps if findings.has_scores or not step.needs_scores]


def run_stages(steps: list[Step], args: argparse.Namespace) -> None:
    """Run the steps that have to run."""
    started = time.monotonic()
    for step in check(steps, args):
        run_stage(step, args.output_path)
    if steps:
        log.info("The stages took %s.", in_words(time.monotonic() - started))


def choose_stages(args: argparse.Namespace) -> list[Stage]:
    """Return the stages that the flags ask for, in order.

    Raises:
        UserError: --stages stands beside --from-stage or --to-stage, or the latter two leave nothing.
    """
    names = [stage.name for stage in STAGES]
    if args.stages:
        if args.from_stage or args.to_stage:
            raise UserError("Give either --stages, or --from-stage and --to-stage, not both.")
        return [stage for stage in STAGES if stage.name in args.stages]
    first = names.index(args.from_stage) if args.from_stage else 0
    last = names.index(args.to_stage) if args.to_stage else len(names) - 1
    if first > last:
        raise UserError(
            f"--from-stage {args.from_stage} comes after --to-stage {args.to_stage}; nothing would run."
        )
    return list(STAGES[first : last + 1])


def run_stage(step: Step, output_path: Path) -> None:
    """Run one stage as a subprocess on this console, unless its last complete run still stands.

    Raises:
        SystemExit: The stage failed; with code 2 where that was the stage's (the user can mend it), else 1.
        KeyboardInterrupt: The stage was interrupted.
    """
    # Asked again: an earlier stage may have changed what this one reads.
    reason = why_run(output_path, step.name, step.arguments, step.code)
    if not reason and "--overwrite" not in step.arguments:
        log.info("%s: unchanged since its last run, skipped", step.place)
        return
    log.info("%s (%s): %s", step.place, reason or "--overwrite", step.command)
    started, started_ns = time.monotonic(), time.time_ns()
    status = run_child([sys.executable, str(step.script), *step.arguments])
    if status:
        _report_failure(step.place, step.command, status)
    seconds = time.monotonic() - started
    outputs = record_stage(output_path, step.name, step.arguments, step.code, started_ns, seconds)
    shortened = ", ".join(outputs[:4]) + (f" and {len(outputs) - 4} more" if len(outputs) > 4 else "")
    log.info("%s: done in %s; wrote %s", step.place, in_words(seconds), shortened or "nothing")


def _report_failure(place: str, shown: str, status: int) -> None:
    """Say which command failed, and leave."""
    if (ending := signal_that_ended(status)) is not None:
        raise ending
    log.error("%s failed (exit code %d); its message stands above.", place, status)
    log.error("To run it again by itself:\n  %s", shown)
    log.error("The same run_pipeline.py command goes on from there.")
    raise SystemExit(status if status == EXIT_USER_ERROR else 1)


if __name__ == "__main__":
    run_script(main, lambda: get_parser(demo="--demo" in sys.argv[1:]))
