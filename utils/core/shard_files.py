"""What a finished shard is on disk: rows, arrays, the images left out, and what was read, in one archive."""

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


def shard_path(folder: Path, number: int) -> Path:
    """Return where a shard of a job stands."""
    return folder / f"shard_{number:06d}.npz"


_BLOB = "\0blob"  # in a row: where its bytes are


@dataclass
class Shard:
    """What one shard holds: rows and arrays by name, the images left out, and what was read, by image_id."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    read: dict[str, Seen] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        blobs = bytearray()  # JSON holds no bytes; a row says where its own are

        def keep(value: Any) -> Any:
            if isinstance(value, np.generic):
                return value.item()
            if isinstance(value, bytes):
                blobs.extend(value)
                return {_BLOB: [len(blobs) - len(value), len(blobs)]}
            raise TypeError(f"cannot keep a {type(value).__name__} in a shard's row")

        about = {"rows": self.rows, "skipped": self.skipped, "read": self.read}
        header = json.dumps(about, default=keep).encode()
        content = {f"array_{name}": np.concatenate(parts) for name, parts in self.arrays.items() if parts}
        content |= {"header": _as_array(header), "blobs": _as_array(blobs)}
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **content)  # type: ignore[arg-type]  # its stubs take any name for allow_pickle


def _as_array(content: bytes | bytearray) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


def read_header(shard: Path) -> dict[str, Any]:
    """Read all of a shard but its arrays.

    Raises:
        UserError: If it is missing, cut short or damaged.
    """
    with open_shard(shard) as content:
        blobs = content["blobs"]

        def restore(value: dict[str, Any]) -> Any:
            return blobs[slice(*value[_BLOB])].tobytes() if _BLOB in value else value

        return json.loads(content["header"].tobytes(), object_hook=restore)


@contextmanager
def open_shard(shard: Path) -> Iterator[Any]:
    """Open a shard's archive.

    Raises:
        UserError: If it is missing, cut short or damaged.
    """
    try:
        with np.load(shard, allow_pickle=False) as content:
            yield content
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(
            f"The shard {shard} is damaged ({error}). Delete it and run the same command again."
        ) from None
