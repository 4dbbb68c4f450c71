"""The record of a run, its device, its seed, its files: what every script does around its own work."""

import datetime
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import UserError, log

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from utils.memcat import Dataset

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SAMPLE_CAVEAT = "sample data (planted scores)"
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
_CHECKSUM_LIMIT_BYTES = 64 * 2**20
_alone = False  # set by alone(), read by barrier()


# ------------------------------------------------------------------------------------------------ files


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it onto ``path`` when the block ends well.

    A reader sees the old file or the new one, never half of one, and a failed or killed write leaves the old
    file as it was.

    Args:
        path: Where the finished file is to stand. Its folder is created.

    Yields:
        A path in the same folder, with the same suffix, that does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically; what JSON does not know is written as text."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, default=str, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"Expected a JSON object in {path}, found something else. Delete the file and run the stage again."
        )
    return content


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Create ``folder`` and prove that files can be written there.

    Raises:
        UserError: If it is a file, or cannot be created or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"The output path {folder} is a file; a folder is needed. Choose another with --output-path."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise UserError(
            f"The output folder {folder} cannot be written to ({error.strerror}). "
            "Choose another with --output-path, or change its permissions."
        ) from None


# ------------------------------------------------------------------------------------------------ device, seed, ranks


def rank() -> int:
    """Return this process's number under torchrun, else 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes torchrun started, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_rank() -> bool:
    """Say whether this process merges, writes tables and draws (rank 0, or the only one)."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Do something on one rank only: no :func:`barrier` inside waits, since the others never come there."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def barrier() -> None:
    """Wait until every rank has come here. Does nothing outside torchrun, or inside :func:`alone`."""
    if world_size() == 1 or _alone:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        # gloo on every device: ranks exchange nothing but these meetings. Days, since one rank may have far more to do.
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.barrier()


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)


def resolve_device(name: str) -> "torch.device":
    """Turn ``--device`` into a device that exists here.

    Args:
        name: ``auto`` (CUDA, else MPS, else CPU; under torchrun the rank's own CUDA device), ``cpu``,
            ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UserError: If the name is unknown or the device is not here. Never a silent switch.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (number and (kind != "cuda" or not number.isdigit())):
        raise UserError(f"Expected --device auto, cpu, cuda, cuda:N or mps, found '{name}'.")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        index = int(number) if number else local % max(count, 1)
        if index >= count:
            raise UserError(
                f"--device {name} asks for CUDA device {index}, but this machine has {count}. Use --device auto or cpu."
            )
        return torch.device("cuda", index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps was asked for, but this machine has none. Use --device auto or cpu.")
    return torch.device(kind)


# ------------------------------------------------------------------------------------------------ the record


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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Run:
    """One run of one script: checks the output folder, seeds, logs to a file, keeps and writes the record.

    Use as a context manager. On leaving, ``run_<script>.json`` is written with status ``complete``, ``failed``
    or ``interrupted``. Tables and figures written through it carry the run's caveats (sample data, random
    weights), so that no such output can be mistaken for a result.

    Attributes:
        output_path: The output folder.
        args: The script's arguments.
    """

    def __init__(self, script: str, args: Namespace) -> None:
        self.script = script
        self.args = args
        self.output_path: Path = args.output_path
        self._device: torch.device | None = None
        self._caveats: set[str] = set()
        self._earlier_caveats: set[str] = set()  # of models done with: in the record, not on what follows
        self._counts: dict[str, int] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: list[str] = []
        self._skipped: set[tuple[str, str]] = set()
        self._log_file: logging.Handler | None = None
        self._started = ""

    def __enter__(self) -> "Run":
        check_writable(self.output_path)
        self._started = _now()
        if is_main_rank():
            folder = self.output_path / "logs"
            folder.mkdir(exist_ok=True)
            self._log_file = logging.FileHandler(folder / f"{self.script}.log", encoding="utf-8")
            self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(self._log_file)
        else:
            log.setLevel(logging.WARNING)
        if hasattr(self.args, "device"):
            seed_everything(self.args.seed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        status = "complete" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        if is_main_rank():
            write_json(self.output_path / f"run_{self.script}.json", self._record(status, error))
            said = "; ".join(sorted(self._caveats | self._earlier_caveats))
            if status == "complete" and said:
                log.warning("What this run wrote is marked where it applies: %s.", said)
        if self._log_file is not None:
            log.removeHandler(self._log_file)
            self._log_file.close()

    def _record(self, status: str, error: BaseException | None) -> dict[str, Any]:
        caveats = self._caveats | self._earlier_caveats
        return {
            "script": self.script,
            "status": status,
            "error": str(error) if error else None,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "arguments": dict(sorted(vars(self.args).items())),
            "seed": getattr(self.args, "seed", None),
            "device": str(self._device) if self._device else None,
            "processes": world_size(),
            "code": code_revision(),
            "versions": package_versions(),
            "platform": platform.platform(),
            "started": self._started,
            "ended": _now(),
            "counts": self._counts,
            "inputs": self._inputs,
            "outputs": sorted(set(self._outputs)),
            "sample": SAMPLE_CAVEAT in caveats,
            "random_weights": any("random weights" in text for text in caveats),
            "caveats": sorted(caveats),
        }

    @property
    def device(self) -> "torch.device":
        """The device of ``--device``, resolved and logged at first use."""
        if self._device is None:
            self._device = resolve_device(self.args.device)
            log.info("Device: %s", self._device)
        return self._device

    @property
    def caveat(self) -> str:
        """What must be said on every output of this run; empty when there is nothing to say."""
        return "; ".join(sorted(self._caveats))

    def note_caveats(self, caveats: Iterable[str]) -> None:
        """Add caveats found in what this run reads (a checkpoint's, say)."""
        self._caveats.update(caveats)

    @contextmanager
    def one_model(self) -> Iterator[None]:
        """Keep the caveats noted in the block to what is written in it: they are one model's, not the next one's.

        The record of the run names them all.
        """
        before = set(self._caveats)
        try:
            yield
        finally:
            self._earlier_caveats |= self._caveats
            self._caveats = before

    def note_sample(self, dataset: "Dataset") -> None:
        """Mark this run's outputs if the data set is the embedded sample."""
        if dataset.is_sample:
            self._caveats.add(SAMPLE_CAVEAT)

    def note_dataset(self, dataset: "Dataset") -> None:
        """Record what this run reads of a data set: its score table, and the folders its pictures are or belong in.

        Marks the outputs if it is the embedded sample. The folders let the pipeline see that pictures have come,
        gone or changed since.
        """
        self.note_sample(dataset)
        if dataset.scores_csv.is_file():
            self.add_input(dataset.scores_csv)
        pictures = [*dataset.full_table["path"], *(dataset.root / name for name, _ in dataset.skipped)]
        for folder in {Path(picture).parent for picture in pictures}:
            self._inputs[str(folder)] = {"folder": True}

    def note_random(self, what: str) -> None:
        """Mark this run's outputs as made with random weights in ``what`` (e.g. ``LPIPS``)."""
        text = f"random weights: {what}"
        if text not in self._caveats:
            log.warning("RANDOM WEIGHTS in %s: results show that the code runs, and nothing else.", what)
        self._caveats.add(text)

    @property
    def caveats(self) -> list[str]:
        """The caveats one by one, sorted; stored in checkpoints so that they travel with the weights."""
        return sorted(self._caveats)

    def count(self, **counts: int) -> None:
        """Record counts by name, e.g. ``images=10, done=9, skipped=1``."""
        self._counts.update(counts)

    def add_input(self, path: Path) -> None:
        """Record an input file: its size, and its SHA-256 where it is small."""
        size = path.stat().st_size
        checksum = file_sha256(path) if size <= _CHECKSUM_LIMIT_BYTES else None
        self._inputs[str(path)] = {"bytes": size, "sha256": checksum}

    def add_output(self, path: Path) -> Path:
        """Record an output file and return its path."""
        path = Path(path)
        inside = path.is_relative_to(self.output_path)
        self._outputs.append(str(path.relative_to(self.output_path) if inside else path))
        return path

    def write_table(
        self, frame: "pd.DataFrame", table: str, model: str | None = None, path: Path | None = None
    ) -> Path:
        """Write a declared table into the output folder, marked with this run's caveats, and record it.

        Args:
            frame: The rows; see :func:`utils.tables.write_table`.
            table: The table's name in :data:`utils.tables.TABLES`.
            model: Checkpoint stem for tables that exist once per model.
            path: Another place for it.
        """
        from utils.tables import output_file, write_table

        path = path or output_file(self.output_path, table, model)
        write_table(frame, path, table, caveat=self.caveat)
        log.info("Wrote %s (%d rows)", path, len(frame))
        return self.add_output(path)

    def read_table(self, table: str, model: str | None = None, inherit: bool = True) -> "pd.DataFrame":
        """Read a declared table from the output folder and record it as an input.

        Args:
            table: The table's name in :data:`utils.tables.TABLES`.
            model: Checkpoint stem for tables that exist once per model.
            inherit: Whether the caveats in it are from now on this run's; not for a table that this very stage
                brings up to date.
        """
        from utils.tables import CAVEAT_COLUMN, output_file, read_table

        path = output_file(self.output_path, table, model)
        frame = read_table(path, table)
        self.add_input(path)
        if inherit and CAVEAT_COLUMN in frame.columns:
            self.note_caveats(
                text for cell in frame[CAVEAT_COLUMN].unique() for text in cell.split("; ") if text
            )
        return frame

    def save_figure(
        self, figure: "Figure", stem: str, formats: tuple[str, ...] = ("png", "pdf")
    ) -> list[Path]:
        """Save a figure as ``<stem>.<format>`` in the output folder, marked with this run's caveats."""
        from utils.figures import save_figure

        paths = save_figure(figure, self.output_path, stem, formats, self.caveat)
        for path in paths:
            self.add_output(path)
        log.info("Wrote %s", ", ".join(str(path) for path in paths))
        return paths

    def report_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Say at the end of a stage which images were left out, and keep their names in ``skipped_images.csv``.

        Args:
            skipped: (image_id or path, reason) pairs. Rows of earlier runs of the same script are replaced; those
                of earlier calls in this run (another model, another step) stay.
        """
        import pandas as pd

        from utils.tables import output_file, read_table, write_table

        self._skipped.update(skipped)
        rows = sorted(self._skipped)
        path = output_file(self.output_path, "skipped_images")
        new = pd.DataFrame(rows, columns=["image_id", "reason"]).assign(stage=self.script)
        if path.exists():
            old = read_table(path, "skipped_images")
            new = pd.concat([old[old["stage"] != self.script], new], ignore_index=True)
            new = new.sort_values(["image_id", "stage"], kind="stable")  # whichever stage ran last
        elif not rows:
            return
        write_table(new, path, "skipped_images")
        self.add_output(path)
        if rows:
            shown = "; ".join(f"{name}: {reason}" for name, reason in rows[:5])
            more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
            log.warning("%d images were left out (all in %s): %s%s", len(rows), path, shown, more)
        self.count(skipped=len(rows))
