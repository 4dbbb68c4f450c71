"""Temporary files: named so that the next run can tell those of a dead process, and removed by it."""

import hashlib
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_UNTOUCHED_SECONDS = 24 * 3600  # after that nobody writes it any more, on whatever machine
_NAME = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)\.partial(\.[^.]*)?")
_BEGAN = time.time() - 2  # this process, as file systems with coarse clocks tell it
_LONGEST_STEM = 200  # bytes, of the 255 that a file name may have


@cache
def _machine() -> str:
    """Name what a process id is unique in: this machine and, in a container, its own process table."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


def temporary_path(path: Path) -> Path:
    """Return a hidden path beside ``path``, with its suffix, that says which process writes it."""
    stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM])
    return path.with_name(f".{stem}.{_machine()}-{os.getpid()}.partial{path.suffix}")


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files that no process writes any more, in a folder and all below it.

    That is: those of a process of this machine that is gone, or had the number of this one before it began (in a
    container numbers come again), and whatever nobody has touched for a day.

    Returns:
        What was removed.
    """
    removed = []
    for path, machine, pid in _temporary_files(folder):
        try:
            touched = path.lstat().st_mtime
            before_us = pid == os.getpid() and touched < _BEGAN
            dead = machine == _machine() and (before_us or not _is_alive(pid))
            if dead or time.time() - touched > _UNTOUCHED_SECONDS:
                path.unlink()
                removed.append(path)
        except OSError:  # gone meanwhile, or not ours to remove
            continue
    return removed


def _temporary_files(folder: Path) -> Iterator[tuple[Path, str, int]]:
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if match := _NAME.fullmatch(name):
                yield Path(current) / name, match[1], int(match[2])


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill(pid, 0) ends the process
        return True
    with suppress(PermissionError):  # somebody else's is alive too
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True
