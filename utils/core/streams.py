"""The console may go away before the work is done: ``| head -1``, a closed terminal, ``2>&-``, a full log disk.

None of these ends a run, since its log file and its outputs are elsewhere; what can no longer be shown is dropped.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Lasting:
    """A standard stream that is led nowhere at the first text it cannot take."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (
            BlockingIOError
        ):  # a terminal that cannot take more this moment: this text is lost, not the console
            return len(text)
        except OSError:
            self._lead_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BlockingIOError:
            return
        except OSError:
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        """Put the null device in the stream's place, for what is still in its buffer and for C libraries too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_closed_descriptors() -> None:
    """Open the null device where a standard descriptor is closed.

    Else the next file that is opened gets its number, and whatever a library says on "standard error" is written
    into a table.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(
                os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY
            )  # the lowest free number
            os.set_inheritable(nowhere, True)  # worker processes need it as much


@contextmanager
def lasting_console() -> Iterator[None]:
    """Keep standard output and error usable in the block, whatever becomes of what they lead to."""
    _open_closed_descriptors()
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    before = sys.stdout, sys.stderr
    own = (sys.__stdout__, sys.__stderr__)  # anything else there is somebody's who catches what is said
    for name, stream in zip(("stdout", "stderr"), before, strict=True):
        if stream is not None and stream in own:
            setattr(sys, name, _Lasting(stream))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
