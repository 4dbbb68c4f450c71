"""One run of a stage in a folder at a time, and one change of a shared file at a time.

Two processes of one stage would write the same shards, tables and checkpoints, each over the other's. The lock is the
operating system's own on an open file (``flock``), so it is gone with its holder however that ended, and nothing has
to be cleaned up after a crash. What stands in the file only says who it is.
"""

import datetime
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.core.errors import UserError
from utils.core.leftovers import remove_leftovers
from utils.core.log import log
from utils.core.processes import is_main_rank

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LOGS_FOLDER = "logs"
LETTING_GO_S = 5.0


def _lock(stream: IO[str], wait: bool) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: It is locked by another, and ``wait`` is false.
        OSError: The file system has no locks.
    """
    if fcntl is None:
        raise OSError("this system has no flock")
    fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _lock_unless_held(stream: IO[str]) -> None:
    """Lock an open file, and give what a dead holder had just started a moment to let go of it.

    A process that is killed while it starts another leaves the lock to that one, until the other has become itself.

    Raises:
        BlockingIOError: It is locked by a process that lives.
        OSError: The file system has no locks.
    """
    until = time.monotonic() + LETTING_GO_S
    while True:
        try:
            return _lock(stream, wait=False)
        except BlockingIOError:
            if _holder_lives(stream) or time.monotonic() > until:
                raise
        time.sleep(0.05)


def _holder_lives(stream: IO[str]) -> bool:
    """Say whether the process that a lock names is there; one on another machine, or none named, counts as there."""
    stream.seek(0)
    try:
        about = json.loads(stream.read())
        if about["host"] != platform.node():
            return True
        os.kill(int(about["pid"]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, KeyError, TypeError, OSError):
        return True
    return True


@contextmanager
def only_run(output_path: Path, script: str) -> Iterator[None]:
    """Keep every other run of a script out of an output folder during the block; remove what dead ones left first.

    Under torchrun the main rank holds the lock for all of them. Where the file system has no locks, a warning says so.

    Args:
        output_path: The output folder.
        script: The script's name without ``.py``.

    Raises:
        UserError: If one is running there; says which process, on which machine, since when.
    """
    if not is_main_rank():
        yield
        return
    path = Path(output_path) / LOGS_FOLDER / f"{script}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8", errors="surrogateescape") as stream:
        try:
            _lock_unless_held(stream)
        except BlockingIOError:
            raise UserError(
                f"{script} is running in {output_path} already: {_holder(stream)}. Wait until it has ended, or choose "
                "another folder with --output-path."
            ) from None
        except OSError as error:  # some network file systems
            log.warning(
                "%s cannot be locked (%s). Make sure that no other run of %s writes into this folder.",
                *(path, error.strerror or error, script),
            )
        _rewrite(stream, _about_this_process())
        remove_leftovers(output_path)
        try:
            yield
        finally:
            _rewrite(stream, {})


def _about_this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _rewrite(stream: IO[str], about: dict[str, object]) -> None:
    stream.truncate(0)
    stream.write(json.dumps(about) + "\n" if about else "")
    stream.flush()


def _holder(stream: IO[str]) -> str:
    """Say who holds a lock, in words."""
    stream.seek(0)
    try:
        about = json.loads(stream.read())
        return f"process {about['pid']} on {about['host']}, since {about['since']} ({about['command']})"
    except (ValueError, KeyError, TypeError):  # taken this moment
        return "another process"


@contextmanager
def one_at_a_time(output_path: Path) -> Iterator[None]:
    """Let one process at a time read, change and write a file that all stages share; others wait a moment.

    Args:
        output_path: The output folder.
    """
    path = Path(output_path) / LOGS_FOLDER / "shared_files.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        with suppress(OSError):  # no locks here: the run has said so
            _lock(stream, wait=True)
        yield
