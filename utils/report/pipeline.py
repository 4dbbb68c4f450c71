"""What `run_pipeline.py` rests on: which arguments a stage is given, and whether it has to run again.

The second is told by fingerprints of the stage's command, code, inputs and outputs, in ``pipeline.json``.
"""

import argparse
import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.core.cli import build_parser
from utils.core.digests import FileDigests
from utils.core.errors import UserError
from utils.core.files import read_json, write_json

RECORD_FILE = "pipeline.json"
GROUPS = ("data", "output", "models", "compute", "cluster", "batch", "weights", "scenes")
_SHARED_OUTPUTS = {"skipped_images.csv"}  # every stage replaces its own rows of these
_NOT_STAGES_CODE = "utils/report"  # shows what the stages made, and makes none of it


@dataclass(frozen=True)
class Stage:
    """One stage: its script, the flags that make it do all its work, and the shared flags it takes.

    Attributes:
        name: Script's file name without ``.py``.
        flags: Flags always given.
        groups: Groups of shared flags (see `utils.core.cli.build_parser`) that are handed on.
        own: Flags of this script that the pipeline offers under a name of its own: {pipeline's: script's}.
        models: Which of the ``--model-names`` that the user gave it gets: ``all``, ``first``, or none of them. With
            none given, the stages choose by themselves.
    """

    name: str
    flags: tuple[str, ...]
    groups: tuple[str, ...]
    own: dict[str, str]
    models: str = ""


def parse_extras(texts: list[str], names: list[str]) -> dict[str, list[str]]:
    """Split ``STAGE=FLAGS`` texts into the further arguments of each stage.

    Raises:
        UserError: A text names no stage, or its quotes do not close.
    """
    extras: dict[str, list[str]] = {}
    for text in texts:
        name, separator, flags = text.partition("=")
        if not separator or name not in names:
            known = ", ".join(names)
            raise UserError(f"Expected --extra STAGE=FLAGS with a stage among {known}; found '{text}'.")
        try:
            extras.setdefault(name, []).extend(shlex.split(flags))
        except ValueError as error:
            raise UserError(f"Cannot read the flags in --extra '{text}': {error}.") from None
    return extras


def stage_arguments(stage: Stage, args: argparse.Namespace) -> list[str]:
    """Return the arguments a stage's script is given: its own flags, and shared ones unlike their default."""
    defaults = vars(build_parser("", *GROUPS).parse_args([]))
    takes = set(vars(build_parser("", *stage.groups).parse_args([])))
    values = {
        name: getattr(args, name)
        for name in defaults
        if name in takes and getattr(args, name) != defaults[name]
    }
    arguments = [*stage.flags, *_model_arguments(stage, args.model_names)]
    for name, flag in stage.own.items():
        if getattr(args, name) not in (None, defaults.get(name)):
            values.pop(flag.strip("-").replace("-", "_"), None)
            arguments += _as_flag(flag, getattr(args, name))
    for name, value in values.items():
        arguments += _as_flag(f"--{name.replace('_', '-')}", value)
    return arguments


def _as_flag(flag: str, value: object) -> list[str]:
    if value is True:
        return [flag]
    return [flag, *map(str, value if isinstance(value, list) else [value])]


def _model_arguments(stage: Stage, names: list[str] | None) -> list[str]:
    if not names or not stage.models:
        return []
    return ["--model-names", *(names[:1] if stage.models == "first" else names)]


def in_words(seconds: float) -> str:
    """Return a duration as people say it, e.g. ``2 min 5 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def code_fingerprint(root: Path, script: str) -> str:
    """SHA-256 over a script and everything in ``utils/`` and ``models/`` it may use."""
    digest = hashlib.sha256()
    modules = [path for folder in ("models", "utils") for path in sorted((root / folder).rglob("*.py"))]
    for path in [root / f"{script}.py", *modules]:
        if path.is_relative_to(root / _NOT_STAGES_CODE):
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_record(output_path: Path) -> dict[str, Any]:
    """Read what the pipeline recorded about each stage's last complete run; empty where there is nothing."""
    path = output_path / RECORD_FILE
    return read_json(path).get("stages", {}) if path.exists() else {}


def record_stage(
    output_path: Path, name: str, command: list[str], code: str, started_ns: int, seconds: float
) -> list[str]:
    """Record a stage's complete run, from the stage's own ``run_<script>.json``.

    Args:
        output_path: The output folder.
        name: The stage's script without ``.py``.
        command: The arguments it was given.
        code: `code_fingerprint` when it started.
        started_ns: When it started: what it has read since counts as it was read.
        seconds: Wall-clock time it took.

    Returns:
        The outputs it reported, as paths inside the output folder where they lie there.

    Raises:
        UserError: The stage left no record of a complete run.
    """
    path = output_path / f"run_{name}.json"
    run = read_json(path) if path.exists() else {}
    if run.get("status") != "complete":
        raise UserError(
            f"The stage {name} ended well but left no complete record in {path}. Run it again by itself."
        )
    digests = FileDigests(output_path)  # with what the stage has read and written
    stages = read_record(output_path)
    outputs = {
        file: run.get("output_sha256", {}).get(file) or digests.of(output_path / file)
        for file in run["outputs"]
        if file not in _SHARED_OUTPUTS
    }
    for earlier in stages.values():  # a stage may complete what an earlier one wrote
        earlier["outputs"].update({file: outputs[file] for file in earlier["outputs"] if file in outputs})
    stages[name] = {
        "command": command,
        "code": code,
        "seconds": round(seconds, 1),
        "inputs": {
            str(Path(file).resolve()): noted
            if "sha256" in noted
            else {**digests.fingerprint(Path(file), started_ns), **noted}
            for file, noted in run["inputs"].items()
        },
        "outputs": outputs,
    }
    write_json(output_path / RECORD_FILE, {"stages": stages})
    digests.save()
    return run["outputs"]


def why_run(output_path: Path, name: str, command: list[str], code: str) -> str:
    """Say why a stage has to run, or return an empty text where its last complete run still stands.

    Args:
        output_path: The output folder.
        name: The stage's script without ``.py``.
        command: The arguments it would be given.
        code: `code_fingerprint` now.
    """
    digests = FileDigests(output_path)
    stage = read_record(output_path).get(name)
    if stage is None:
        return "no complete run of it is on record"
    if stage["command"] != command:
        return "its arguments changed"
    if stage["code"] != code:
        return "its code changed"
    for file, before in stage["inputs"].items():
        if digests.fingerprint(Path(file)) != before:
            return f"its input {file} changed"
    for file, before in stage["outputs"].items():
        if digests.of(output_path / file) != before:
            return f"its output {file} changed or is gone"
    return ""
