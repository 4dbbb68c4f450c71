"""The record of a run, its device, its seed, its files: what every script does around its own work."""

import logging
import platform
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.caveats import Caveats
from utils.core.claims import Claims, claiming
from utils.core.cli import typed_command
from utils.core.device import resolve_device, seed_everything
from utils.core.digests import FileDigests, file_digests, name_pictures, read_since
from utils.core.errors import ChangedFileError
from utils.core.figures import save_figure
from utils.core.files import PROJECT_ROOT, check_writable, current_folder
from utils.core.locks import LOGS_FOLDER, one_at_a_time, only_run
from utils.core.log import log
from utils.core.names import SAMPLE_CAVEAT
from utils.core.processes import is_main_rank, world_size
from utils.core.records import COMPLETE, FAILED, INTERRUPTED, code_revision, now, package_versions, write_run
from utils.core.standing import code_fingerprint, fingerprints
from utils.core.tables import output_file, read_table, write_table

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure


class Run:
    """One run of one script: checks the output folder, seeds, logs to a file, keeps and writes the record.

    Use as a context manager. On leaving, its record is written with status ``complete``, ``failed`` or ``interrupted``:
    to ``run_<script>.json`` where it was complete, beside it otherwise (:mod:`utils.core.records`). Tables and figures
    written through it carry the run's caveats (sample data, random weights), so that no such output can be mistaken for
    a result.

    Attributes:
        output_path: The output folder.
        args: The script's arguments.
    """

    def __init__(self, script: str, args: Namespace, kind: str = "") -> None:
        """Prepare a run.

        Args:
            script: The script without ``.py``.
            args: Its arguments.
            kind: For a run that does no part of the study (``predict``): it has a record of its own.
        """
        self.script = script
        self.args = args
        self.kind = kind
        self.output_path: Path = args.output_path
        self._device: torch.device | None = None
        self._caveats = Caveats()
        self._earlier_caveats = Caveats()  # of models done with: in the record, not on what follows
        self._counts: dict[str, int] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: list[str] = []
        self._skipped: set[tuple[str, str]] = set()
        self._claims = Claims(
            self.output_path,
            script,
            kind,
            typed_command(),
            getattr(args, "accept_edited", False),
            lambda file: self.note_caveats([Caveats.edited(file)]),
            self._note_read,
        )
        self._claiming = ExitStack()
        self._log_file: logging.Handler | None = None
        self._started, self._started_ns = "", 0
        self._folder, self._code = "", ""
        self._lock = ExitStack()

    def __enter__(self) -> "Run":
        check_writable(self.output_path)
        self._lock.enter_context(only_run(self.output_path, self.script))
        self._started, self._started_ns, self._folder = now(), time.time_ns(), current_folder()
        self._code = code_fingerprint(PROJECT_ROOT, self.script)
        if is_main_rank():
            folder = self.output_path / LOGS_FOLDER
            folder.mkdir(exist_ok=True)
            self._log_file = logging.FileHandler(
                folder / f"{self.script}.log", encoding="utf-8", errors="backslashreplace"
            )
            self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(self._log_file)
        else:
            log.setLevel(logging.WARNING)
        if hasattr(self.args, "device"):
            seed_everything(self.args.seed)
        self._claiming.enter_context(claiming(self._claims, write=is_main_rank()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)  # Ctrl-C, SIGTERM, SIGHUP
        status = COMPLETE if kind is None else INTERRUPTED if interrupted else FAILED
        try:
            self._claiming.close()
            if is_main_rank():
                write_run(self.output_path, self._record(status, error), self.kind)
                self.digests.save()
                said = self._caveats | self._earlier_caveats
                if status == COMPLETE and said:
                    log.warning("What this run wrote is marked where it applies: %s.", said)
        finally:
            if self._log_file is not None:
                log.removeHandler(self._log_file)
                self._log_file.close()
            self._lock.close()

    def _record(self, status: str, error: BaseException | None) -> dict[str, Any]:
        caveats = self._caveats | self._earlier_caveats
        outputs = {
            name: self._claims.written[name].sha256
            if name in self._claims.written
            else self.digests.of(self.output_path / name)
            for name in sorted(set(self._outputs))
        }
        command, seen = typed_command(), (self.digests, self._started_ns)
        standing = None
        if status == COMPLETE and not self.kind:
            standing = fingerprints(command[1:], self._code, self._inputs, outputs, *seen)
            unreadable = [name for name, reason in self._skipped if "on disk" not in reason]
            standing |= {"unreadable": sorted(unreadable)} if unreadable else {}
        return {
            "script": self.script,
            "status": status,
            "error": str(error) if error else None,
            "command": command,
            "working_directory": self._folder,
            "arguments": dict(sorted(vars(self.args).items())),
            "seed": getattr(self.args, "seed", None),
            "device": str(self._device) if self._device else None,
            "processes": world_size(),
            "code": code_revision(),
            "versions": package_versions(),
            "platform": platform.platform(),
            "started": self._started,
            "ended": now(),
            "counts": self._counts,
            "inputs": self._inputs,
            "outputs": list(outputs),
            "output_sha256": outputs,
            "standing": standing,
            "accepted_edits": dict(sorted(self._claims.accepted.items())),
            "sample": caveats.has_sample,
            "random_weights": caveats.has_random_weights,
            "caveats": list(caveats),
        }

    @property
    def device(self) -> "torch.device":
        """The device of ``--device``, resolved and logged at first use."""
        if self._device is None:
            self._device = resolve_device(self.args.device)
            log.info("Device: %s", self._device)
        return self._device

    @property
    def digests(self) -> FileDigests:
        """What the files of this run hold."""
        return file_digests(self.output_path)

    @property
    def caveat(self) -> str:
        """What must be said on every output of this run; empty when there is nothing to say."""
        return str(self._caveats)

    def note_caveats(self, caveats: Iterable[str]) -> None:
        """Add caveats found in what this run reads (a checkpoint's, say)."""
        self._caveats |= caveats

    @contextmanager
    def one_model(self) -> Iterator[None]:
        """Keep the caveats noted in the block to what is written in it: they are one model's, not the next one's.

        The record of the run names them all.
        """
        before = self._caveats
        try:
            yield
        finally:
            self._earlier_caveats |= self._caveats
            self._caveats = before

    def note_sample(self) -> None:
        """Mark this run's outputs as made from the embedded sample."""
        self._caveats |= [SAMPLE_CAVEAT]

    def add_picture_folder(self, folder: Path) -> None:
        """Record a folder that pictures are read from, so that the pipeline sees them come, go or change."""
        self._inputs[str(folder)] = name_pictures(folder)

    def note_random(self, what: str) -> None:
        """Mark this run's outputs as made with random weights in ``what`` (e.g. ``LPIPS``)."""
        text = Caveats.random_weights(what)
        if text not in self._caveats:
            log.warning("RANDOM WEIGHTS in %s: results show that the code runs, and nothing else.", what)
        self._caveats |= [text]

    @property
    def caveats(self) -> list[str]:
        """The caveats one by one, sorted; stored in checkpoints so that they travel with the weights."""
        return list(self._caveats)

    def count(self, **counts: int) -> None:
        """Record counts by name, e.g. ``images=10, done=9, skipped=1``."""
        self._counts.update(counts)

    def add_input(self, path: Path) -> None:
        """Record an input file as it was when this run first read it, or else as it is now: its size and its SHA-256."""
        seen = read_since(path, self._started_ns)
        read = seen and {"bytes": seen.times[0], "sha256": seen.digest}
        self._inputs[str(path)] = read or self.digests.fingerprint(path)

    def _note_read(self, path: Path) -> None:
        """Record a table of the output folder as an input, unless this run wrote it."""
        if path.name not in self._claims.written and path.name not in self._outputs:
            self.add_input(path)

    def add_output(self, path: Path) -> Path:
        """Record an output file and return its path. What a run brings up to date is its output, no input any more."""
        path = Path(path)
        self._inputs.pop(str(path), None)
        inside = path.is_relative_to(self.output_path)
        self._outputs.append(str(path.relative_to(self.output_path) if inside else path))
        return path

    def write_table(
        self, frame: "pd.DataFrame", table: str, model: str | None = None, path: Path | None = None
    ) -> Path:
        """Write a declared table into the output folder, marked with this run's caveats, and record it.

        Args:
            frame: The rows; see :func:`utils.core.tables.write_table`.
            table: The table's name in :data:`utils.core.contract.TABLES`.
            model: Checkpoint stem for tables that exist once per model.
            path: Another place for it.
        """
        path = path or output_file(self.output_path, table, model)
        write_table(frame, path, table, caveat=self.caveat)
        log.info("Wrote %s (%d rows)", path, len(frame))
        return self.add_output(path)

    def read_table(self, table: str, model: str | None = None, inherit: bool = True) -> "pd.DataFrame":
        """Read a declared table from the output folder and record it as an input.

        Args:
            table: The table's name in :data:`utils.core.contract.TABLES`.
            model: Checkpoint stem for tables that exist once per model.
            inherit: Whether the caveats in it are from now on this run's; not for a table that this very stage
                brings up to date.
        """
        path = output_file(self.output_path, table, model)
        frame = read_table(path, table)
        if inherit:
            self.note_caveats(Caveats.of_table(frame))
        return frame

    def read_earlier(self, table: str) -> "pd.DataFrame | None":
        """Read a table of several models that this stage is about to bring up to date; None where there is none.

        One that was changed since this stage wrote it is left out with a warning, which says how its rows can be made
        anew: nobody knows which of them are right, and a stage that is run again has to mend what is damaged.
        """
        path = output_file(self.output_path, table)
        if not path.exists():
            return None
        try:
            return read_table(path, table, as_input=False)
        except ChangedFileError as error:
            log.warning("%s Until then it has this run's rows alone.", error)
            return None

    def save_figure(
        self, figure: "Figure", stem: str, formats: tuple[str, ...] = ("png", "pdf")
    ) -> list[Path]:
        """Save a figure as ``<stem>.<format>`` in the output folder, marked with this run's caveats."""
        paths = save_figure(figure, self.output_path, stem, formats, self.caveat)
        for path in paths:
            self.add_output(path)
        log.info("Wrote %s", ", ".join(str(path) for path in paths))
        return paths

    def add_earlier_figures(self, stem: str) -> None:
        """Record the figures ``<stem>.<format>`` of an earlier run that still stand: the report shows what records name."""
        for suffix in (".pdf", ".png", ".svg"):
            path = self.output_path / f"{stem}{suffix}"
            if path.exists():
                self.add_output(path)

    def report_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Say at the end of a stage which images were left out, and keep their names in ``skipped_images.csv``.

        Args:
            skipped: (image_id or path, reason) pairs. Rows of earlier runs of the same script are replaced; those
                of earlier calls in this run (another model, another step) stay. The table is gone when no stage leaves
                anything out any more.
        """
        import pandas as pd

        self._skipped.update(skipped)
        rows = sorted(self._skipped)
        path = output_file(self.output_path, "skipped_images")
        with one_at_a_time(self.output_path):  # another stage may be at the same table
            new = pd.DataFrame(rows, columns=["image_id", "reason"]).assign(stage=self.script)
            old = self.read_earlier("skipped_images")
            if old is not None:
                new = pd.concat([old[old["stage"] != self.script], new], ignore_index=True)
                new = new.sort_values(["image_id", "stage"], kind="stable")  # whichever stage ran last
                self._inputs.pop(str(path), None)  # what others left out changes nothing here
            if new.empty:  # as if nothing had ever been left out
                path.unlink(missing_ok=True)
                return
            write_table(new, path, "skipped_images")
        if rows:
            self.add_output(path)
            shown = "; ".join(f"{name}: {reason}" for name, reason in rows[:5])
            more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
            log.warning("%d images were left out (all in %s): %s%s", len(rows), path, shown, more)
        self.count(skipped=len(rows))
