"""What a file holds, by its content: the one rule by which anything here is up to date, or is not.

A file is what its SHA-256 says, never what its size or its date say. So that nothing is read twice to know it,
pictures are hashed from the very bytes that are decoded (:func:`read_file`), and each output folder remembers the
digests of files together with their size and times: as long as those stay the same, the digest does too. As in git's
index, a file that was changed a moment before it was read is not remembered, because a further change might leave
its times as they were.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.core.errors import UserError
from utils.core.files import file_sha256, read_json, write_json
from utils.core.names import IMAGE_SUFFIXES, SHARDS_FOLDER

if TYPE_CHECKING:
    import pandas as pd

DIGESTS_FILE = "digests.json"
UNREADABLE = ""  # stands for the digest of a file that is missing or cannot be read
_COARSEST_CLOCK_NS = 2 * 10**9  # FAT keeps times to two seconds, the coarsest file system in use


class Seen(NamedTuple):
    """What a file held when it was read, and by what it is known again.

    Attributes:
        digest: SHA-256 of its bytes.
        times: Size in bytes, time of the last change of its content, and of anything about it.
        read_ns: When it was read.
    """

    digest: str
    times: tuple[int, int, int]
    read_ns: int

    @classmethod
    def of_unreadable(cls) -> "Seen":
        """Stand for a file that is missing or cannot be read just now."""
        return cls(UNREADABLE, (-1, -1, -1), time.time_ns())

    @classmethod
    def of_json(cls, values: list[Any]) -> "Seen":
        """Take back what JSON kept of one.

        Raises:
            ValueError: It is none.
        """
        digest, times, read_ns = values
        if not (
            isinstance(digest, str) and len(times) == 3 and all(type(n) is int for n in (*times, read_ns))
        ):
            raise ValueError(f"{values} does not say what a file held")
        return cls(digest, tuple(times), read_ns)

    def still_holds(self, times: tuple[int, int, int]) -> bool:
        """Say whether a file of this size and these times holds what was read."""
        return times == self.times and max(times[1:]) < self.read_ns - _COARSEST_CLOCK_NS


@dataclass(frozen=True)
class FileContent(os.PathLike[str]):
    """A file that was read whole; stands for its path wherever one is taken.

    Attributes:
        path: Where it stands.
        content: Its bytes.
        seen: Their digest.
    """

    path: str
    content: bytes
    seen: Seen

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


def read_file(path: Path | str) -> FileContent:
    """Read a file whole and digest it.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as stream:
        times, now = _times(os.fstat(stream.fileno())), time.time_ns()
        content = stream.read()
    return FileContent(str(path), content, Seen(hashlib.sha256(content).hexdigest(), times, now))


_read_here: dict[str, list[Seen]] = {}  # inputs that this process has read whole, in the order of reading


def read_input(path: Path | str) -> FileContent:
    """Read a file that numbers come from whole, and remember what it held then (:func:`read_since`).

    Raises:
        OSError: If it cannot be read.
    """
    content = read_file(path)
    _read_here.setdefault(os.path.abspath(path), []).append(content.seen)
    return content


def read_since(path: Path | str, since_ns: int) -> Seen | None:
    """Return what a file held when this process first read it after a time; None where it did not."""
    seen = _read_here.get(os.path.abspath(path), [])
    return next((one for one in seen if one.read_ns >= since_ns), None)


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def combined_digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Digest (name, digest) pairs, in the order given, into one."""
    digest = hashlib.sha256()
    for name, one in pairs:
        digest.update(f"{name}\0{one}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class FileDigests:
    """The digests of files, remembered in an output folder.

    Attributes:
        file: Where they are kept between runs.
    """

    def __init__(self, output_path: Path) -> None:
        self.file = Path(output_path) / SHARDS_FOLDER / DIGESTS_FILE
        self._known: dict[str, Seen] = {}
        self._load()

    def _load(self) -> None:
        """Take in what the file knows and this process does not; a damaged one costs a second look, nothing else."""
        try:
            entries = read_json(self.file) if self.file.exists() else {}
            for path, seen in entries.items():
                self.note(path, Seen.of_json(seen))
        except (UserError, OSError, TypeError, ValueError):
            return

    def note(self, path: Path | str, seen: Seen) -> None:
        """Remember what was read, unless it was read again since."""
        name = os.path.abspath(path)
        self._known[name] = max(seen, self._known.get(name, seen), key=lambda one: one.read_ns)

    def last_seen(self, path: Path | str) -> Seen:
        """Return what a file held when it was read last; :data:`UNREADABLE` where it never could be."""
        return self._known.get(os.path.abspath(path)) or Seen.of_unreadable()

    def of(self, path: Path | str, since_ns: int | None = None) -> str:
        """Return the SHA-256 of a file as it stands now; :data:`UNREADABLE` where it cannot be read.

        The file is read only if it is not known, or its size or times have changed since.

        Args:
            path: The file.
            since_ns: If the file was read after this time, what it held then is returned, whatever it holds now.
        """
        name = os.path.abspath(path)
        known = self._known.get(name)
        if known is not None and since_ns is not None and known.read_ns >= since_ns:
            return known.digest
        try:
            if known is None or not known.still_holds(_times(os.stat(name))):
                times, now = _times(os.stat(name)), time.time_ns()
                known = Seen(file_sha256(name), times, now)
        except OSError:
            known = Seen.of_unreadable()
        self._known[name] = known
        return known.digest

    def of_images(self, images: "pd.DataFrame") -> str:
        """Digest the content of all images of a table with ``image_id`` and ``path``, in its order."""
        return combined_digest(
            (image_id, self.of(path))
            for image_id, path in zip(images["image_id"], images["path"], strict=True)
        )

    def fingerprint(self, path: Path, since_ns: int | None = None) -> dict[str, Any]:
        """Identify what is at a path by content: a file, or the pictures directly in a folder.

        Args:
            path: A file or folder.
            since_ns: See :meth:`of`.

        Returns:
            A JSON object to compare with an earlier one; empty where there is neither.
        """
        path = Path(path)
        if path.is_dir():
            contents = ((name, self.of(path / name, since_ns)) for name in list_pictures(path))
            return {**name_pictures(path), "sha256": combined_digest(contents)}
        return {"bytes": path.stat().st_size, "sha256": self.of(path, since_ns)} if path.is_file() else {}

    def save(self) -> None:
        """Keep what is known for the next run, beside what other processes have kept meanwhile."""
        self._load()
        write_json(self.file, self._known, indent=None)


@lru_cache(maxsize=16)
def _file_digests(output_path: str) -> FileDigests:
    return FileDigests(Path(output_path))


def file_digests(output_path: Path) -> FileDigests:
    """Return what this process knows of files, as kept in an output folder: one object per folder."""
    return _file_digests(os.path.abspath(output_path))


def list_pictures(folder: Path) -> list[str]:
    """Return the sorted names of the pictures directly in a folder; none where it cannot be listed."""
    with suppress(PermissionError), os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(entry.path)
        )
    return []


def name_pictures(folder: Path) -> dict[str, Any]:
    """Identify the pictures directly in a folder by their names; empty where there is no such folder."""
    if not Path(folder).is_dir():
        return {}
    names = list_pictures(folder)
    return {"pictures": len(names), "names_sha256": combined_digest((name, "") for name in names)}
