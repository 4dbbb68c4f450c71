"""How a study stands: which stages are done, and which are not, because of what. Nothing is run, nothing is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.core.claims import Claim, written_by
from utils.core.digests import FileDigests, file_digests, name_pictures
from utils.core.log import log
from utils.core.records import read_run
from utils.core.standing import code_fingerprint
from utils.pipeline.records import read_record
from utils.pipeline.stages import Stage

DONE, STALE, DAMAGED, MISSING = "done", "stale", "damaged", "missing"
_SHOWN = 3


class StageStatus(NamedTuple):
    """How one stage stands.

    Attributes:
        name: Its script without ``.py``.
        state: ``done``, ``stale`` (what it rests on has changed since), ``damaged`` (a file that it wrote has) or
            ``missing`` (it has never ended well here).
        why: When it was done; else what has changed, and what to run.
    """

    name: str
    state: str
    why: str


def study_status(output_path: Path, stages: Sequence[Stage], root: Path) -> list[StageStatus]:
    """Say how each stage of a study stands, from the records and the files in an output folder.

    A stage that rests on one that is not done is stale with it. What only the command line says (other flags) is not
    known here; ``--dry-run`` holds a command against the records.

    Args:
        output_path: The output folder.
        stages: The stages, in order.
        root: Where their scripts are.
    """
    claims, digests = written_by(output_path), file_digests(output_path)
    found: list[StageStatus] = []
    for stage in stages:
        run = read_run(output_path, stage.name)
        failed = read_run(output_path, stage.name, complete=False)
        if run is None:
            found.append(StageStatus(stage.name, MISSING, _why_missing(stage.name, failed)))
            continue
        damaged = _damaged_files(output_path, stage.name, run, claims, digests)
        if damaged:
            how = next((claims[name].how for name in damaged if name in claims), f"python {stage.name}.py")
            text = f"{_listed(damaged)} changed since it was written, or is gone; make it anew with: {how}"
            found.append(StageStatus(stage.name, DAMAGED, text))
            continue
        undone = {one.name for one in found if one.state != DONE}
        changed = _what_changed(output_path, stage.name, run, claims, digests, undone, root)
        if changed:
            found.append(StageStatus(stage.name, STALE, changed))
            continue
        found.append(StageStatus(stage.name, DONE, _when_done(run, failed, claims)))
    return found


def say_status(output_path: Path, stages: Sequence[Stage], root: Path) -> None:
    """Print a line per stage."""
    log.info("%s:", output_path)
    for place, stage in enumerate(study_status(output_path, stages, root), start=1):
        log.info("%2d  %-24s %-8s %s", place, stage.name, stage.state, stage.why)


def _ended(failed: dict[str, Any]) -> str:
    return f"ended as {failed.get('status')}: {failed.get('error')}"


def _when_done(run: dict[str, Any], failed: dict[str, Any] | None, claims: dict[str, Claim]) -> str:
    """Say when a stage was done, and what has to be known beside that."""
    texts = [str(run.get("ended", "")).replace("T", " ").replace("+00:00", " UTC")]
    edited = sorted(
        file for file, claim in claims.items() if claim.edited and claim.stage == run.get("script")
    )
    if edited:
        texts.append(f"{_listed(edited)} was edited by hand since, which was accepted")
    if failed:
        texts.append(f"a later run {_ended(failed)}")
    return "; ".join(texts)


def _why_missing(name: str, failed: dict[str, Any] | None) -> str:
    text = f"run: python {name}.py"
    return f"its last run {_ended(failed)}; {text}" if failed else text


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _damaged_files(
    output_path: Path, name: str, run: dict[str, Any], claims: dict[str, Claim], digests: FileDigests
) -> list[str]:
    """Return the files of a stage that do not hold what it, or whoever edited them on purpose, left in them."""
    own = [file for file, claim in claims.items() if (claim.stage, claim.kind) == (name, "")]
    # What another stage wrote since, is the other's.
    named = [file for file in run.get("outputs", []) if file not in claims]
    damaged = [file for file in own if not claims[file].holds(digests.of(output_path / file))]
    return sorted(damaged) + [file for file in named if not (output_path / file).exists()]


def _what_changed(
    output_path: Path,
    name: str,
    run: dict[str, Any],
    claims: dict[str, Claim],
    digests: FileDigests,
    undone: set[str],
    root: Path,
) -> str:
    """Return what a stage rests on that is not as it was; empty where all of it is."""
    last = run.get("standing") or read_record(output_path).get(name, {})
    pictures = last.get("inputs", {})  # with what the pictures of a folder hold
    inputs = {_place(output_path, run, file): noted for file, noted in run.get("inputs", {}).items()}
    for file in inputs:
        maker = _maker(output_path, file, claims)
        if maker in undone:
            return f"rests on {file.name}, and {maker} is not done"
    for file, noted in inputs.items():
        known = pictures.get(str(file), noted)
        if not _still(file, known if noted.items() <= known.items() else noted, digests):
            return f"its input {file} changed"
    written = last.get("outputs", {})
    recorded = {file: claims[file].sha256 for file in written if file in claims}
    if written and recorded == written and last.get("code") != code_fingerprint(root, name):
        return "its code changed"
    return ""


def _place(output_path: Path, run: dict[str, Any], file: str) -> Path:
    """Return where an input stands now: where it stood, but in the output folder as it is called today."""
    base = Path(run.get("working_directory", "."))
    path = (base / file).resolve()
    then = (base / run.get("arguments", {}).get("output_path", output_path)).resolve()
    return Path(output_path).resolve() / path.relative_to(then) if path.is_relative_to(then) else path


def _maker(output_path: Path, file: Path, claims: dict[str, Claim]) -> str:
    """Return the stage that wrote an input; empty for what comes from outside."""
    try:
        inside = file.relative_to(Path(output_path).resolve()).as_posix()
    except ValueError:
        return ""
    return claims[inside].stage if inside in claims else ""


def _still(file: Path, noted: dict[str, Any], digests: FileDigests) -> bool:
    """Say whether an input is what it was: a file, or a folder of pictures by their names, and content where known."""
    if "sha256" in noted:
        return digests.fingerprint(file) == noted
    return name_pictures(file) == noted
