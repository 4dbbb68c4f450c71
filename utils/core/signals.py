"""How a process ends when it is told to, and that its children end with it.

SIGTERM (schedulers, ``kill``), SIGHUP (a closed terminal) and Ctrl-C all raise :class:`KeyboardInterrupt` in the main
thread, so that every ``finally`` on the way out cleans up and every record says ``interrupted``; the exit code says
which of them it was (128 + signal).
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

_SAME_REQUEST_SECONDS = 2.0  # a scheduler tells the whole group, and the parent passes it on
_GRACE_SECONDS = 60.0  # what a stage may take to finish its batch and clean up
_LOOK_SECONDS = 0.5  # how often a child looks for its parent
_PARENT = "MEMORABILITY_PARENT"  # pid, in the environment of a stage that is to end with its pipeline


class Ended(KeyboardInterrupt):
    """This process was told to end.

    Attributes:
        signal: By which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """What a shell calls a process ended by that signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal


def _signals() -> list[int]:
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def signal_that_ended(code: int) -> Ended | None:
    """Tell from a child's exit code by which signal it was told to end; None if it ended for another reason.

    Args:
        code: 128 + signal where it cleaned up, -signal where it did not come to that.
    """
    return next((Ended(number) for number in _signals() if code in (128 + number, -number)), None)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise :class:`Ended` in the block when this process is told to end.

    A signal that is ignored on entry stays ignored (``nohup``). Told again within two seconds, the process goes on
    cleaning up; told again after that, it leaves at once. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = [-_SAME_REQUEST_SECONDS]

    told: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        before, last[0] = last[0], time.monotonic()
        if last[0] - before >= _SAME_REQUEST_SECONDS:
            told.append(number)
            raise Ended(number)

    heard = [number for number in _signals() if signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    except Exception:  # a library made another error of ours: numpy does, where it reads a buffer's format
        if told:
            raise Ended(told[0]) from None
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _watch(parent: int, number: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def follow_pipeline() -> None:
    """End this process as by SIGTERM when the pipeline that started it is gone; nothing where none did.

    By a thread that looks for the parent rather than by ``prctl``: the same on every POSIX system.
    """
    parent = os.environ.pop(_PARENT, "")  # not for this process's own children
    if parent and hasattr(os, "getppid"):
        _watch(int(parent), signal.SIGTERM)


def follow_parent_as_worker() -> None:
    """Set up a worker process: it ends with its parent, and leaves Ctrl-C, which reaches both, to it."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent is not None and parent.pid is not None and hasattr(signal, "SIGKILL"):
        _watch(parent.pid, signal.SIGKILL)  # it holds nothing, and may wait in a lock for ever


def run_child(command: Sequence[str]) -> int:
    """Run a stage on this console and return its exit code; whatever ends this process ends the stage.

    Told to end, this process passes it on and waits until the stage has cleaned up. Ended by SIGKILL, it can do
    nothing, and the stage sees for itself that it is gone (:func:`follow_pipeline`).

    Raises:
        KeyboardInterrupt: After the stage has ended, if this process was told to.
    """
    with subprocess.Popen(command, env={**os.environ, _PARENT: str(os.getpid())}) as child:
        try:
            return child.wait()
        except BaseException as error:
            number = error.signal if isinstance(error, Ended) else signal.SIGINT
            with suppress(ProcessLookupError, ValueError):  # it may have ended meanwhile
                child.send_signal(number)
            try:
                child.wait(_GRACE_SECONDS)
            except BaseException:  # too long, or told once more
                child.kill()
                raise
            raise
