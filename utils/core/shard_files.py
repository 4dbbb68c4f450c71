"""What a finished shard is on disk: rows, the images left out and what was read in one archive, arrays in another.

Each says by digests what was put in, and of which job it is, so that one that is damaged, or of another job, is done again
instead of being believed. Arrays are merged into a matrix when the job is finished, and from then on stand there alone; the
rows stay, so that a picture that changes later costs its own shard and not the whole job.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.digests import Seen
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.schema import mismatch

_BLOB = "\0blob"  # in a row: where its bytes are
_SHAPE = {
    "job": str,
    "rows": [{"image_id": str}],
    "skipped": [[str]],
    "read": {str: [object]},
    "arrays": {str: str},
}


class DamagedShardError(UserError):
    """A shard that is missing, cut short, damaged, or no shard. ``reason`` says which, in a few words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The shard {path} is damaged ({reason}). Run the same command again; it is done anew."
        )
        self.reason = reason


def shard_path(folder: Path, number: int) -> Path:
    """Return where the rows of a job's shard stand."""
    return folder / f"shard_{number:06d}.npz"


def arrays_path(shard: Path) -> Path:
    """Return where the arrays of a shard stand until they are merged."""
    return shard.with_name(shard.name.replace("shard_", "arrays_"))


@dataclass
class Shard:
    """What one shard holds: rows and arrays by name, the images left out, and what was read, by image_id."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    read: dict[str, Seen] = field(default_factory=dict)

    def write(self, path: Path, job: str = "") -> None:
        """Write it, atomically: the arrays, then what tells that they are whole.

        Args:
            path: See :func:`shard_path`.
            job: What identifies the job and everything that can change its numbers.
        """
        blobs = bytearray()  # JSON holds no bytes; a row says where its own are

        def keep(value: Any) -> Any:
            if isinstance(value, np.generic):
                return value.item()
            if isinstance(value, bytes):
                blobs.extend(value)
                return {_BLOB: [len(blobs) - len(value), len(blobs)]}
            raise TypeError(f"cannot keep a {type(value).__name__} in a shard's row")

        arrays = {name: np.concatenate(parts) for name, parts in self.arrays.items() if parts}
        if arrays:
            _write_archive(arrays_path(path), arrays)
        about = {
            "job": job,
            "rows": self.rows,
            "skipped": self.skipped,
            "read": self.read,
            "arrays": {name: array_digest(array) for name, array in arrays.items()},
        }
        content = {"header": _as_array(json.dumps(about, default=keep).encode()), "blobs": _as_array(blobs)}
        _write_archive(path, content | {"sha256": _as_array(_digest(content).encode())})


def _write_archive(path: Path, content: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **content)  # type: ignore[arg-type]  # its stubs take any name for allow_pickle


def _as_array(content: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


def _digest(content: Any) -> str:
    return hashlib.sha256(content["header"].tobytes() + content["blobs"].tobytes()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """Digest an array: element type, shape, values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_header(shard: Path) -> dict[str, Any]:
    """Read all of a shard but its arrays.

    Returns:
        ``job``; ``rows``; ``skipped``, (image_id, reason) pairs; ``read``, what the images held, by image_id; ``arrays``,
        the digest of each by name.

    Raises:
        DamagedShardError: If it is missing, cut short, damaged, or no shard.
    """
    with _open(shard) as content:
        if content["sha256"].tobytes().decode() != _digest(content):
            raise DamagedShardError(shard, "its content is not what was written")
        blobs = content["blobs"]

        def restore(value: dict[str, Any]) -> Any:
            return blobs[slice(*value[_BLOB])].tobytes() if _BLOB in value else value

        header = json.loads(content["header"].tobytes(), object_hook=restore)
    wrong = mismatch(header, _SHAPE)
    if wrong:
        raise DamagedShardError(shard, wrong)
    return header


def read_array(shard: Path, name: str) -> np.ndarray:
    """Read one of a shard's arrays that are not merged yet.

    Raises:
        DamagedShardError: If it is missing, cut short or damaged.
    """
    with _open(arrays_path(shard)) as content:
        return content[name]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as content:
            yield content
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedShardError(path, str(error)) from None
    except (NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DamagedShardError(path, str(error)) from None


@dataclass(frozen=True)
class Merged:
    """Matrices into which a finished job merged its arrays, from which a shard's own part is read again.

    Attributes:
        root: The output folder.
        matrices: File by the array's name, relative to it.
        rows: How many rows each shard had then.
    """

    root: Path
    matrices: dict[str, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)

    def part(self, name: str, number: int) -> np.ndarray | None:
        """Return a shard's part of an array; None where there is none."""
        if name not in self.matrices or number >= len(self.rows):
            return None
        start = sum(self.rows[:number])
        try:
            matrix = np.load(self.root / self.matrices[name], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if not isinstance(matrix, np.ndarray):  # an archive of matrices
            return None
        return np.array(matrix[start : start + self.rows[number]])
