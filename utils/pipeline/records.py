"""Whether a stage has to run again: fingerprints of its command, code, inputs and outputs, in ``pipeline.json``."""

import hashlib
from pathlib import Path
from typing import Any

from utils.core.digests import FileDigests
from utils.core.errors import UserError
from utils.core.files import read_json, write_json

RECORD_FILE = "pipeline.json"
_SHARED_OUTPUTS = {"skipped_images.csv"}  # every stage replaces its own rows of these
_NOT_STAGES_CODE = (
    "utils/report",
    "utils/pipeline",
)  # show and order what the stages make, and make none of it


def code_fingerprint(root: Path, script: str) -> str:
    """SHA-256 over a script and everything in ``utils/`` and ``models/`` it may use."""
    digest = hashlib.sha256()
    modules = [path for folder in ("models", "utils") for path in sorted((root / folder).rglob("*.py"))]
    for path in [root / f"{script}.py", *modules]:
        if any(path.is_relative_to(root / folder) for folder in _NOT_STAGES_CODE):
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
