"""Who wrote what: every file that a run writes into its output folder is claimed, and whoever reads it can tell.

A claim says which command of which stage wrote a file, when, and what the file held then. It is made before the file
takes its name (:func:`utils.core.files.atomic_path`), so that even a run that is killed leaves no file of which nobody
knows what it should hold. Claims stand in ``runs/<stage>.written.log``, a line each; the last one of a file counts.

A stage that reads what another wrote compares the two (:func:`check_unchanged`): a file that was cut short, edited or
damaged since is refused, with the command that makes it anew. ``--accept-edited`` takes it as it stands, from then on,
and marks everything that is made from it. A file that nobody claims is the user's own, and is read as it is.
"""

import contextlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from utils.core.digests import UNREADABLE, file_digests
from utils.core.errors import ChangedFileError, UserError
from utils.core.files import atomic_path, file_sha256, read_json, watched_writes
from utils.core.log import log
from utils.core.names import RUNS_FOLDER, SHARDS_FOLDER

_SUFFIX = ".written.log"
_NOT_CLAIMED = {RUNS_FOLDER, SHARDS_FOLDER, "logs", "sample"}  # folders of files that no stage hands over


class Claim(NamedTuple):
    """What is known of a file that a run wrote.

    Attributes:
        file: Its path inside the output folder, with forward slashes.
        stage: The script that wrote it, without ``.py``.
        command: The command line that did, script first; empty where it is not known.
        sha256: What it held.
        at_ns: When it was written.
        before: What it replaced, for as long as nobody has seen that the new file took its place: a run that is killed
            between the two leaves the old one, which is as good. None from then on.
        kind: Of the run: empty where it is part of the study (:mod:`utils.core.records`).
        edited: Whether somebody edited it afterwards and said so with ``--accept-edited``; ``sha256`` is of the edited.
    """

    file: str
    stage: str
    command: tuple[str, ...]
    sha256: str
    at_ns: int
    before: str | None = None
    kind: str = ""
    edited: bool = False

    def holds(self, digest: str) -> bool:
        """Say whether a file of this digest is the one that was claimed."""
        return digest in (self.sha256, self.before)

    @property
    def how(self) -> str:
        """The command as it can be typed again."""
        return shlex.join(["python", *(self.command or (f"{self.stage}.py",))])

    @property
    def when(self) -> str:
        """When it was written, to the second, UTC."""
        return datetime.fromtimestamp(self.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ledger(output_path: Path, stage: str) -> Path:
    return Path(output_path) / RUNS_FOLDER / f"{stage}{_SUFFIX}"


def _line_of(claim: Claim) -> str:
    return json.dumps(claim._asdict())


def _text_of(ledger: Path) -> str:
    return ledger.read_text(encoding="utf-8", errors="replace")


def _read_ledger(path: Path) -> dict[str, list[Claim]]:
    """Return the claims of each file, oldest first; a line that was cut short by a kill says nothing."""
    claims: dict[str, list[Claim]] = {}
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        for line in _text_of(path).splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                fields: dict[str, Any] = json.loads(line)
                claim = Claim(**{**fields, "command": tuple(map(str, fields["command"]))})
                claims.setdefault(str(claim.file), []).append(claim)
    return claims


def _claims_of_record(path: Path) -> Iterator[Claim]:
    """Yield what the record of a run says of its outputs: for where claims are lost, or there were none yet.

    As of its start, so that a claim of the run itself, or of anybody since, is the later one.
    """
    try:
        record = read_json(path)
        at = int(datetime.fromisoformat(record["started"]).timestamp() * 1e9)
        for name, digest in record["output_sha256"].items():
            yield Claim(name, record["script"], tuple(record["command"]), digest, at)
    except (UserError, OSError, KeyError, ValueError, TypeError, AttributeError):
        return


_known: dict[str, tuple[Any, dict[str, Claim]]] = {}  # by folder: what its ledgers looked like, what they say


def written_by(output_path: Path) -> dict[str, Claim]:
    """Return the claim on every file of an output folder that a stage wrote, by its path inside the folder.

    The one answer to "what made this file": of whichever run wrote it last, complete or not, of part of the models or all.
    """
    folder = Path(output_path)
    ledgers = sorted((folder / RUNS_FOLDER).glob(f"*{_SUFFIX}"))
    records = sorted(folder.glob("run_*.json"))
    looks = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (*ledgers, *records)]
    looked, claims = _known.get(os.path.abspath(folder), (None, {}))
    if looks != looked:
        found = [claim for path in records for claim in _claims_of_record(path)]
        found += [claims[-1] for path in ledgers for claims in _read_ledger(path).values()]
        claims = {claim.file: claim for claim in sorted(found, key=lambda claim: claim.at_ns)}
        _known[os.path.abspath(folder)] = looks, claims
    return claims


class Claims:
    """What one run claims, from its first write to its end.

    Attributes:
        written: By file, what this run wrote.
        accepted: By file, the digest of what this run read although it was edited.
    """

    def __init__(
        self,
        output_path: Path,
        stage: str,
        kind: str,
        command: list[str],
        accept_edited: bool,
        on_edited: Callable[[str], None],
        on_read: Callable[[Path], None],
    ) -> None:
        self.folder = Path(output_path)
        self.stage, self.kind = stage, kind
        self.command = tuple(command)
        self.accept_edited = accept_edited
        self.on_edited, self.on_read = on_edited, on_read
        self.written: dict[str, Claim] = {}
        self.accepted: dict[str, str] = {}
        self._root = Path(os.path.abspath(output_path))
        self._earlier: dict[str, Claim] = {}
        self._times: dict[str, tuple[int, int, int]] = {}

    def _name(self, path: Path) -> str | None:
        """Return a file's name in claims; None for one that is not claimed."""
        absolute = Path(os.path.abspath(path))
        if not absolute.is_relative_to(self._root):
            return None
        inside = absolute.relative_to(self._root)
        return None if inside.parts[0] in _NOT_CLAIMED else inside.as_posix()

    @contextlib.contextmanager
    def claim(self, temporary: Path, path: Path) -> Iterator[None]:
        """Claim a finished file; in the block it takes its name."""
        name = self._name(path)
        if name is None:
            yield
            return
        last = self.written.get(name) or self._earlier.get(name)
        before = last.sha256 if last else file_digests(self.folder).of(path)
        held = file_sha256(temporary)
        claim = Claim(name, self.stage, self.command, held, time.time_ns(), before, self.kind)
        self._append(claim)
        yield
        self.written[name] = claim._replace(before=None)
        self._times[name] = _times(path)

    def just_wrote(self, path: Path) -> bool:
        """Say whether a file is one that this very run wrote, and nobody has touched since."""
        name = self._name(path)
        with contextlib.suppress(OSError):
            return name in self._times and _times(path) == self._times[name]
        return False

    def _append(self, claim: Claim) -> None:
        ledger = _ledger(self.folder, self.stage)
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with open(ledger, "a", encoding="utf-8") as stream:
            stream.write(f"\n{_line_of(claim)}\n")  # a line of its own, whatever a kill left before it

    def accept(self, claim: Claim, digest: str) -> None:
        """Take an edited file as it stands, from now on."""
        edited = claim._replace(sha256=digest, at_ns=time.time_ns(), before=None, edited=True)
        self.accepted[claim.file] = digest
        self._append(edited)
        log.warning(
            "%s was edited since it was written by %s; it is taken as it stands (--accept-edited).",
            self.folder / claim.file,
            claim.how,
        )

    def start(self) -> None:
        """See what an earlier run left.

        Raises:
            UserError: Something else stands where the folder of claims belongs.
        """
        ledger = _ledger(self.folder, self.stage)
        if ledger.parent.exists() and not ledger.parent.is_dir():
            raise UserError(f"{ledger.parent} is a file; a folder of run records belongs there. Remove it.")
        if ledger.is_dir():  # by whatever accident: nobody but us keeps anything there
            shutil.rmtree(ledger)
        self.settle()
        self._earlier = dict(written_by(self.folder))

    def settle(self) -> None:
        """Keep one claim of each file that this stage wrote and that still stands, and see what a kill left."""
        ledger = _ledger(self.folder, self.stage)
        histories = _read_ledger(ledger)
        claims = [
            self.written.get(name) or self._standing(name, history) for name, history in histories.items()
        ]
        lines = [_line_of(claim) for claim in claims if claim and (self.folder / claim.file).exists()]
        if not histories or lines == _text_of(ledger).splitlines():
            return
        with atomic_path(ledger) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _standing(self, name: str, history: list[Claim]) -> Claim | None:
        """Return the claim that is true of a file; None where it is another stage's, or nobody's."""
        last = history[-1]
        if last.before is None:
            return last
        found = file_digests(self.folder).of(self.folder / name)
        if found == last.sha256:
            return last._replace(before=None)
        earlier = [claim for claim in history[:-1] if claim.sha256 == found]
        if found == last.before:
            return earlier[-1]._replace(before=None) if earlier else None
        return last._replace(before=None)


def _times(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


_active: list[Claims] = []  # of the runs of this process, the innermost last


@contextlib.contextmanager
def claiming(claims: Claims, write: bool) -> Iterator[None]:
    """Claim what is written in the block, and let files that were edited be accepted.

    Args:
        claims: Of the run.
        write: Whether this process writes outputs; under torchrun only one does.
    """
    _active.append(claims)
    try:
        with contextlib.ExitStack() as stack:
            if write:
                claims.start()
                stack.enter_context(watched_writes(claims.claim))
                stack.callback(claims.settle)
            yield
    finally:
        _active.remove(claims)


def note_read(path: Path) -> None:
    """Tell the run of this process, if there is one, that it reads a table of its output folder."""
    if _active and path.parent.resolve() == _active[-1].folder.resolve():
        _active[-1].on_read(path)


def check_unchanged(path: Path, digest: str | None = None) -> None:
    """Refuse a file that holds something else than the stage that wrote it left in it.

    Args:
        path: A file of an output folder; one that no stage wrote is never refused.
        digest: What it held when it was read; looked up where it is not given, which reads a file only if its size or
            times have changed since it was last seen.

    Raises:
        ChangedFileError: It was cut short, edited or damaged; unless the run accepts that (``--accept-edited``).
    """
    path = Path(path)
    claim = written_by(path.parent).get(path.name)
    run = _active[-1] if _active else None
    if claim is None or (run is not None and run.just_wrote(path)):
        return
    digest = digest or file_digests(path.parent).of(path)
    if digest == UNREADABLE:  # whoever reads it will say why it cannot be read
        return
    if not claim.holds(digest):
        if run is None or not run.accept_edited:
            raise ChangedFileError(
                f"{path} has changed since it was written ({claim.when}): it was edited, replaced, cut short or damaged. To "
                f"make it anew, delete it and run: {claim.how}\nTo take it as it stands, add --accept-edited, which marks "
                "what is made from it."
            )
        run.accept(claim, digest)
    if run is not None and (claim.edited or not claim.holds(digest)):
        run.on_edited(claim.file)
