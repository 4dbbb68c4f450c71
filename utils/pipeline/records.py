"""Whether a stage has to run again: fingerprints of its command, code, inputs and outputs, in ``pipeline.json``."""

from pathlib import Path
from typing import Any

from utils.core.digests import FileDigests
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.records import COMPLETE, read_run, record_path
from utils.core.standing import fingerprints, why_again, without_leave

RECORD_FILE = "pipeline.json"
_CLOCKS_APART_NS = 2 * 10**9  # a file's time may be told by another clock, and be rounded


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
    outputs = {
        file: run.get("output_sha256", {}).get(file) or digests.of(output_path / file)
        for file in run["outputs"]
    }
    stages = read_record(output_path)
    for earlier in stages.values():  # a stage may complete what an earlier one wrote
        earlier["outputs"].update({file: outputs[file] for file in earlier["outputs"] if file in outputs})
    stages[name] = {
        **(run.get("standing") or fingerprints(command, code, run["inputs"], outputs, digests, started_ns)),
        "command": without_leave(command),
        "code": code,
        "seconds": round(seconds, 1),
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
    return why_again(output_path, read_record(output_path).get(name), command, code, name)
