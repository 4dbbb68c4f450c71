"""A whole study, finished once and copied for every fault: sixteen small pictures, a very thin network, ten stages.

Every copy stands at the same place as the one before, so that paths in records and remembered digests hold in it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import write_memcat
from faults import forked
from faults.forked import Ended

SIZE = 32
PIXELS = ("--image-size", SIZE, "--workers", 0, "--device", "cpu")
THIN = ("--arch", "vgg11", "--width", 0.0625)
# Every stage by its number: script, and the flags that make a small study of it.
STAGES: dict[int, tuple[str, tuple[object, ...]]] = {
    0: ("autoencoder_pretrain", (*PIXELS, *THIN, "--epochs", 1, "--batch-size", 4, "--checkpoint-every", 2)),
    1: (
        "autoencoder_finetune",
        (*PIXELS, *THIN, "--pretrained", "none", "--loss", "mse", "--epochs", 1, "--checkpoint-every", 4),
    ),
    2: ("autoencoder_test", (*PIXELS, "--losses", "mse", "mae", "--batch-size", 1)),
    3: ("autoencoder_evaluation", ("--resamples", 20, "--splits", 4)),
    4: (
        "latent_analysis",
        (
            *(*PIXELS, "--calculate-latents", "--distinctiveness-analysis", "--measure", "all"),
            *("--resamples", 20, "--batch-size", 1),
        ),
    ),
    5: ("category_plot", ("--resamples", 20)),
    6: (
        "mlp_predict",
        (*PIXELS, "--train", "--evaluate", "--hidden-sizes", 4, "--epochs", 2, "--resamples", 20),
    ),
    7: (
        "model_interpretation_IG",
        (*PIXELS, "--save", "--steps", 2, "--max-doublings", 0, "--top-k", 1, "--split", "all"),
    ),
    8: (
        "feature_analysis",
        (
            *("--workers", 0, "--device", "cpu", "--resamples", 20, "--folds", 2, "--repeats", 1),
            *("--permutations", 19, "--features", "colour", "--batch-size", 1),
        ),
    ),
    9: (
        "memorability_steering",
        (
            *(*PIXELS, "--limit", 2, "--psnr-budget", 26, "--head-resamples", 2, "--resamples", 20),
            *("--judge", "none", "--error-measure", "mse", "--batch-size", 1),
        ),
    ),
}
NO_PICTURES = {5}  # stages that take no --data-dir
START = -1  # the study before its first stage
QUICK_STAGES = (1, 2, 4, 6)
TEMPORARY = re.compile(r"\.partial|\.tmp$")
_OF_RECORDS = (
    "status",
    "error",
    "outputs",
    "output_sha256",
    "caveats",
)  # the rest is times, or differs by history
_OF_RUNS = {"logs", "runs", "shards"}  # folders that tell of each run, and of what is to be gone on from


class Study:
    """The undisturbed study, and the place where its copies are damaged.

    Attributes:
        place: Where every copy stands: ``data`` and ``output``.
        stages: The numbers of its stages.
        seconds: What each stage took, undisturbed.
    """

    def __init__(self, folder: Path, stages: Iterable[int] = tuple(STAGES)) -> None:
        self.place = Place(folder / "place")
        self.stages = tuple(stages)
        self.seconds: dict[int, float] = {}
        self._kept = folder / "kept"
        forked.preload()
        write_memcat(self.place.data, per_subcategory=4, side=40)
        self._keep(START)
        for number in self.stages:
            done = self.place.run(number)
            if done.code:
                raise AssertionError(f"the undisturbed stage {number} failed:\n{done.output}")
            self.seconds[number] = done.seconds
            self._keep(number)
        self.place.remember()
        self.finished = self.place.content()

    def _keep(self, name: object) -> None:
        self.place.output.mkdir(exist_ok=True)
        shutil.copytree(self.place.output, self._kept / f"output_{name}")
        if not (self._kept / "data").exists():
            shutil.copytree(self.place.data, self._kept / "data")

    def copy(self, after: object = None) -> "Place":
        """Lay out the study as it was after a stage (the last one when left out), and return its place."""
        self.place.clear()
        self.restore_data()
        self.place.after = self.stages[-1] if after is None else after
        self.place.damaged = []
        self.lay_out_output(self.place.after)
        return self.place

    def restore_data(self) -> None:
        """Put the pictures and the score table back as they were."""
        _remove(self.place.data)
        shutil.copytree(self._kept / "data", self.place.data)

    def lay_out_output(self, after: object) -> None:
        """Lay out the output folder as it was after a stage."""
        _remove(self.place.output)
        shutil.copytree(self._kept / f"output_{after}", self.place.output)

    def undo(self) -> None:
        """Put back what a fault has damaged: data, and whatever of the output is not as a stage wrote it.

        What the run that met the fault wrote stays: it is the next run that has to put that right.
        """
        self.restore_data()
        for name in self.place.damaged:
            kept, now = self._kept / f"output_{self.place.after}" / name, self.place.output / name
            _remove(now)
            if kept.is_dir():
                shutil.copytree(kept, now)
            elif kept.exists():
                now.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(kept, now)

    def content_after(self, after: object) -> dict[str, str]:
        """Return what the output folder held after a stage of the undisturbed study."""
        return content_of(self._kept / f"output_{after}")


class Place:
    """A study on disk that may be damaged, with names for what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.output = folder / "data", folder / "output"
        self.damaged: list[str] = []  # what a fault has touched in the output
        self.after: object = None

    def clear(self) -> None:
        """Remove everything."""
        _remove(self.folder)
        self.folder.mkdir(parents=True)

    def remember(self) -> None:
        """Learn which model and which pictures the undisturbed study has."""
        self.model = next(p.stem for p in self.output.glob("mem_*.pth"))
        splits = pd.read_csv(self.output / "splits.csv", dtype=str)
        ids = {split: rows["image_id"].tolist() for split, rows in splits.groupby("split")}
        self.test_ids, self.train_ids = ids["test"], ids["train"]

    def run(self, number: int, *flags: object, **options: Any) -> Ended:
        """Run a stage by its number; see `forked.run`."""
        return forked.run(STAGES[number][0], self._arguments(number, flags), **options)

    def start(self, number: int, stream: int, environment: Mapping[str, str]) -> int:
        """Start a stage by its number and return its process id; see `forked.start`."""
        return forked.start(STAGES[number][0], self._arguments(number), stream, environment=environment)

    def _arguments(self, number: int, flags: Sequence[object] = ()) -> list[object]:
        where: list[object] = ["--output-path", self.output]
        if number not in NO_PICTURES:
            where += ["--data-dir", self.data]
        given = [str(flag).format(data=self.data, output=self.output) for flag in flags]
        return [*where, *STAGES[number][1], *given]

    def content(self) -> dict[str, str]:
        """Return what the output folder holds; see `content_of`."""
        return content_of(self.output)

    def leftovers(self) -> list[str]:
        """Name temporary files anywhere in the place, shards beyond those of their job, and locks that name a holder."""
        found = [p for p in self.folder.rglob("*") if TEMPORARY.search(p.name)]
        found += [p for p in self.output.glob("logs/*.lock") if p.stat().st_size]
        for manifest in self.output.glob("shards/*/manifest.json"):
            count = re.search(rb'"shards": (\d+)', manifest.read_bytes() if manifest.is_file() else b"")
            shards = manifest.parent.glob("shard_*.npz") if count else []
            found += [p for p in shards if int(p.stem.removeprefix("shard_")) >= int(count[1])]
        return sorted(str(p.relative_to(self.folder)) for p in found)

    # ------------------------------------------------------------------ names of what is in it

    @property
    def pictures(self) -> Path:
        """The image root."""
        return self.data / "MemCat_images" / "MemCat"

    @property
    def picture(self) -> Path:
        """A picture of the test split."""
        return self.pictures / self.test_ids[0]

    @property
    def scores(self) -> Path:
        """The score table."""
        return self.data / "MemCat_data" / "memcat_image_data.csv"

    def file(self, name: str) -> Path:
        """Return a file of the output folder that is to be damaged; ``{model}`` stands for the model's name."""
        name = name.replace("{model}", self.model)
        self.damaged.append(name)
        return self.output / name


def content_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file in an output folder, but for logs; records without their times.

    Returns:
        {path in the folder: SHA-256, or for links and empty folders what they are}.
    """
    found = {}
    for path in _walk(folder):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in _OF_RUNS:
            continue
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
            continue
        if path.suffix == ".json" and (path.name.startswith("run_") or path.name == "pipeline.json"):
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(current) / name for name in sorted(files))


def _timeless(record: Path) -> bytes:
    """Return a record without what differs from run to run by its nature: times, command line, versions."""

    try:
        content = json.loads(record.read_text())
        stages = content.get("stages", {"": content})
        return json.dumps(
            {name: {key: stage.get(key) for key in _OF_RECORDS} for name, stage in stages.items()},
            sort_keys=True,
        ).encode()
    except (ValueError, TypeError, AttributeError):
        return record.read_bytes()


def _remove(path: Path) -> None:
    """Remove whatever is at a path, closed folders included."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    for current, _, _ in os.walk(path):
        os.chmod(current, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name what is missing, new and different between two contents."""
    return [
        f"{name} {'is missing' if name not in found else 'is new' if name not in expected else 'differs'}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


# ---------------------------------------------------------------------------------------- damage


def rewrite(path: Path, content: bytes | str) -> None:
    """Write a file anew, as an editor or a failing disk would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut a file short to a share of its bytes."""
    content = path.read_bytes()
    rewrite(path, content[: int(len(content) * share)])


def flip_bit(path: Path, where: float = 0.6, keep_times: bool = False) -> None:
    """Flip one bit at a share of the file's length."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    rewrite(path, bytes(content))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_table(path: Path, change: Any) -> None:
    """Apply a change to a CSV as text, every cell as it stands."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(frame).to_csv(path, index=False, lineterminator="\n")


def edit_array(path: Path, change: Any) -> None:
    """Apply a change to a matrix on disk."""
    np.save(path, change(np.load(path, allow_pickle=False)))
