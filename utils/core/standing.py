"""Whether the last complete run of a stage still stands: the fingerprints of its command, code, inputs and outputs.

A run writes them into its record; `run_pipeline.py` and the stage's own script ask the same question of them, so that
what is finished is told in the time that it takes to digest the files, before anything heavy is imported.
"""

import hashlib
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.core.claims import Claim, written_by
from utils.core.digests import FileDigests
from utils.core.errors import UserError
from utils.core.files import PROJECT_ROOT, current_folder
from utils.core.log import log
from utils.core.processes import is_main_rank
from utils.core.records import COMPLETE, read_run, record_path

_SHARED_OUTPUTS = {"skipped_images.csv"}  # every stage replaces its own rows of these
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
        if path.exists() and not any(path.is_relative_to(root / folder) for folder in _NOT_STAGES_CODE):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def fingerprints(
    command: Iterable[str],
    code: str,
    inputs: Mapping[str, Mapping[str, Any]],
    outputs: Mapping[str, str],
    digests: FileDigests,
    started_ns: int,
) -> dict[str, Any]:
    """Return what has to be the same for a run to stand, for its record.

    Args:
        command: The arguments it was given.
        code: `code_fingerprint` when it started.
        inputs: What it noted of each input: file or folder by path.
        outputs: SHA-256 of each output, by its path in the output folder.
        digests: What is known of files.
        started_ns: When it started: what it has read since counts as it was read.
    """
    return {
        "command": without_leave(command),
        "code": code,
        "inputs": {
            str(Path(file).resolve()): dict(noted)
            if "sha256" in noted
            else {**digests.fingerprint(Path(file), started_ns), **noted}
            for file, noted in inputs.items()
        },
        "outputs": {file: digest for file, digest in outputs.items() if file not in _SHARED_OUTPUTS},
    }


def why_again(
    output_path: Path, before: Mapping[str, Any] | None, command: Iterable[str], code: str, stage: str
) -> str:
    """Say why a stage has to run, or return an empty text where its last complete run still stands.

    Args:
        output_path: The output folder.
        before: What `fingerprints` returned of its last complete run; None where there is none.
        command: The arguments it would be given.
        code: `code_fingerprint` now.
        stage: Its script without ``.py``.
    """
    if before is None:
        return "no complete run of it is on record"
    command = list(command)
    if before["command"] != without_leave(command):
        return "its arguments changed"
    if before["code"] != code:
        return "its code changed"
    digests = FileDigests(output_path)  # with what other processes have read since
    for file, noted in before["inputs"].items():
        if digests.fingerprint(Path(file)) != noted:
            return f"its input {file} changed"
    claims, accept = written_by(output_path), "--accept-edited" in command
    for file, digest in before["outputs"].items():
        found = digests.of(output_path / file)
        if found != digest and not (found and (accept or _meant(claims.get(file), found, stage))):
            return f"its output {file} changed or is gone"
    if is_main_rank():
        digests.save()
    if before.get("unreadable"):  # the stage itself tries them, and does nothing else where none can be read
        return f"{before['unreadable'][0]} could not be read, and is tried again"
    return ""


def _meant(claim: Claim | None, digest: str, stage: str) -> bool:
    """Say whether another stage completed a file since, or was told to take it as edited (``--accept-edited``)."""
    return claim is not None and claim.sha256 == digest and (claim.edited or claim.stage != stage)


def still_stands(script: str, arguments: Iterable[str], args: Namespace) -> bool:
    """Say whether a stage has nothing to do, and say so to the user.

    Args:
        script: The script without ``.py``.
        arguments: As typed.
        args: The same, parsed.

    Returns:
        False as well where the outcome depends on what no record holds: which weights are cached, a display.
    """
    asks_more = args.overwrite or getattr(args, "display", False)
    if asks_more or getattr(args, "weights", "") == "available" or not args.output_path.is_dir():
        return False
    try:
        run = read_run(args.output_path, script) or {}
    except UserError:  # damaged; the run that now comes writes it anew
        return False
    before = run.get("standing")
    if run.get("status") != COMPLETE or before is None or run.get("working_directory") != current_folder():
        return False
    code = code_fingerprint(PROJECT_ROOT, script)
    if why_again(args.output_path, before, arguments, code, script):
        return False
    if is_main_rank():
        os.utime(record_path(args.output_path, script))  # it was looked at, and is true now
        record_path(args.output_path, script, complete=False).unlink(
            missing_ok=True
        )  # of a run that failed before
    log.info(
        "%s is up to date: command, code, %d inputs and %d outputs are as its last run left them (%s). --overwrite runs it.",
        script,
        len(before["inputs"]),
        len(before["outputs"]),
        run["ended"],
    )
    return True


def without_leave(command: Iterable[str]) -> list[str]:
    """Return a command without the flags that say what may be read, and change nothing in what is made of it."""
    return [word for word in command if word not in _CHANGES_NO_OUTPUT]
