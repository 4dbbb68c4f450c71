"""Looking through folders that may hold anything: closed ones, links that lead nowhere or in a circle."""

import os
from collections.abc import Iterator
from pathlib import Path

from utils.core.log import log


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Look through a folder and all below it, as :func:`os.walk` does, and say which could not be looked into.

    Links to folders are not followed, so there is no circle.
    """
    return os.walk(folder, onerror=_say_closed)


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
