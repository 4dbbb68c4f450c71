"""Looking through folders that may hold anything: closed ones, links that lead nowhere or in a circle."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.core.log import log


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Look through a folder and all below it, as :func:`os.walk` does, and say which could not be looked into.

    Links to folders are not followed, so there is no circle.
    """
    return os.walk(folder, onerror=_say_closed)


def is_utf8(name: str) -> bool:
    """Say whether a file's name can be written into a table."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(name: str) -> str:
    """Write a name that is not UTF-8 so that it can be read and told apart: with the codes of its odd bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def nameable(names: Iterable[str]) -> list[str]:
    """Return the names that can be written into a table, sorted, and say which cannot."""
    names = sorted(names)
    for name in names:
        if not is_utf8(name):
            log.warning("%s is left out: its name is not UTF-8. Rename it.", as_utf8(name))
    return [name for name in names if is_utf8(name)]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, links to folders among them, sorted."""
    try:
        with os.scandir(folder) as entries:
            # Not entry.is_dir(): a link to itself would end the run.
            return sorted(Path(entry.path) for entry in entries if os.path.isdir(entry.path))
    except OSError as error:
        _say_closed(error)
        return []


def _say_closed(error: OSError) -> None:
    log.warning("%s cannot be looked into (%s); what is in it is left out.", error.filename, error.strerror)
