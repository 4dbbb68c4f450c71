"""The records of runs: what each run was given, read, wrote and came to, and where that is kept.

``run_<script>.json``
    The last complete run of a stage, of the study's own kind; the report and the pipeline rest on it.
``runs/<script>.failed.json``
    The last run that failed or was interrupted, for as long as no later one was complete.
``runs/<script>.<kind>.json``
    The last complete run of another kind, which does no part of the study: ``mlp_predict.predict.json`` of scoring
    somebody's pictures. ``runs/<script>.<kind>.failed.json`` likewise.

None of them replaces another. Which files there are and who wrote them is kept apart (:mod:`utils.core.claims`), since a
stage may write some of its files in one run and the others in the next.
"""

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.core.claims import written_by
from utils.core.errors import UserError
from utils.core.files import PROJECT_ROOT, read_json, write_json
from utils.core.log import log
from utils.core.names import RUNS_FOLDER

COMPLETE, FAILED, INTERRUPTED = "complete", "failed", "interrupted"

_PACKAGES = (
    *(
        "torch",
        "torchvision",
        "numpy",
        "pandas",
        "scipy",
        "scikit-image",
        "scikit-learn",
        "opencv-python-headless",
    ),
    *("pillow", "captum", "lpips", "matplotlib"),
)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_revision() -> dict[str, Any]:
    """Return the git commit of this code and whether it was modified (None where git cannot tell)."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "modified": None if status is None else bool(status)}


def package_versions() -> dict[str, str]:
    """Return the installed versions of what can change a number."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def now() -> str:
    """Return the time as records have it: UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def record_path(output_path: Path, script: str, kind: str = "", complete: bool = True) -> Path:
    """Return where the record of a stage's last run stands.

    Args:
        output_path: The output folder.
        script: The stage's script without ``.py``.
        kind: Empty for runs that are part of the study; see above.
        complete: Whether the run ended well.
    """
    if complete and not kind:
        return Path(output_path) / f"run_{script}.json"
    name = ".".join(part for part in (script, kind, "" if complete else FAILED) if part)
    return Path(output_path) / RUNS_FOLDER / f"{name}.json"


def read_run(output_path: Path, script: str, kind: str = "", complete: bool = True) -> dict[str, Any] | None:
    """Read the record of a stage's last run, complete or not (see :func:`record_path`); None where there is none.

    A damaged one counts as none, with a warning: the stage, run again, writes it anew.
    """
    path = record_path(output_path, script, kind, complete)
    try:
        return read_json(path) if path.is_file() else None
    except UserError as error:
        log.warning("%s Until then it counts as none.", error)
        return None


def write_run(output_path: Path, record: dict[str, Any], kind: str = "") -> None:
    """Write the record of a run; that of an earlier failure goes when a run was complete."""
    script, complete = record["script"], record["status"] == COMPLETE
    write_json(record_path(output_path, script, kind, complete), record)
    if complete:
        record_path(output_path, script, kind, complete=False).unlink(missing_ok=True)


def last_runs(output_path: Path, scripts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the record of the last complete run of each stage, of the last failed one where none ever was complete.

    ``outputs`` are all files that stand there and that the stage wrote, in whichever run, those of its last run first;
    ``later_failure`` is the record of a run that failed since, or None.

    Args:
        output_path: The output folder.
        scripts: The stages; those without any record are left out.
    """
    runs = {}
    claims = written_by(output_path)
    for script in scripts:
        complete, failed = (read_run(output_path, script, complete=which) for which in (True, False))
        run = complete or failed
        if run is None:
            continue
        others = sorted(file for file, claim in claims.items() if (claim.stage, claim.kind) == (script, ""))
        outputs = dict.fromkeys([*run.get("outputs", []), *others])
        runs[script] = run | {
            "outputs": [file for file in outputs if (Path(output_path) / file).exists()],
            "later_failure": failed if complete else None,
        }
    return runs
