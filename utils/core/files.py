"""Files: atomic writes, JSON, a folder that can be written to."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.leftovers import temporary_path

PROJECT_ROOT = Path(__file__).resolve().parents[2]


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
    temporary = temporary_path(path)
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # an empty folder is there by accident; another is named below
                path.rmdir()
        with ExitStack() as watched:
            for watch in _watches:
                watched.enter_context(watch(temporary, path))
            os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk does not say which file it is full for
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


Watch = Callable[[Path, Path], AbstractContextManager[None]]
_watches: list[Watch] = []


@contextmanager
def watched_writes(watch: Watch) -> Iterator[None]:
    """In the block, let ``watch(finished file, its path to be)`` surround the moment in which a file takes its name."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write ``content`` as JSON, atomically; what JSON does not know is written as text."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=indent, default=str, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="surrogateescape",  # file names need not be UTF-8
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"Expected a JSON object in {path}, found something else. Delete the file and run the stage again."
        )
    return content


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def current_folder() -> str:
    """Return the folder that this process works in; empty where it was deleted, which hurts relative paths alone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


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
