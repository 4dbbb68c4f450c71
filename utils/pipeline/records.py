"""Whether a stage has to run again: fingerprints of its command, code, inputs and outputs, in ``pipeline.json``."""

import hashlib
from pathlib import Path
from typing import Any

from utils.core.claims import Claim, written_by
from utils.core.digests import FileDigests
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import COMPLETE, read_run, record_path

RECORD_FILE = "pipeline.json"
_SHARED_OUTPUTS = {"skipped_images.csv"}  # every stage replaces its own rows of these
_CLOCKS_APART_NS = 2 * 10**9  # a file's time may be told by another clock, and be rounded
_CHANGES_NO_OUTPUT = {"--accept-edited"}
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
    path = record_path(output_path, name)
    run = read_run(output_path, name)
    if (
        run is None
        or run.get("status") != COMPLETE
        or path.stat().st_mtime_ns < started_ns - _CLOCKS_APART_NS
    ):
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
        "command": _without_leave(command),
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
    if stage["command"] != _without_leave(command):
        return "its arguments changed"
    if stage["code"] != code:
        return "its code changed"
    for file, before in stage["inputs"].items():
        if digests.fingerprint(Path(file)) != before:
            return f"its input {file} changed"
    claims, accept = written_by(output_path), "--accept-edited" in command
    for file, before in stage["outputs"].items():
        found = digests.of(output_path / file)
        if found != before and not (found and (accept or _edited_on_purpose(claims.get(file), found))):
            return f"its output {file} changed or is gone"
    return ""


def _edited_on_purpose(claim: Claim | None, digest: str) -> bool:
    """Say whether a later stage was told to take a file as somebody edited it (``--accept-edited``)."""
    return claim is not None and claim.edited and claim.sha256 == digest


def _without_leave(command: list[str]) -> list[str]:
    """Return a command without the flags that say what may be read, and change nothing in what is made of it."""
    return [word for word in command if word not in _CHANGES_NO_OUTPUT]
