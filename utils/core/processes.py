"""Processes under torchrun: which one this is, and where they meet; threads beside other work."""

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from utils.core.errors import UserError

_HOW_STARTED = "Start several processes with torchrun; for a single one: unset RANK WORLD_SIZE"
_alone = False  # set by alone(), read by barrier()


def rank() -> int:
    """Return this process's number under torchrun, else 0.

    Raises:
        UserError: If what stands for it in the environment is no such number.
    """
    number = _from_torchrun("RANK", 0)
    if number and not 0 <= number < world_size():
        raise UserError(
            f"RANK is {number} in the environment, of WORLD_SIZE {world_size()} processes. {_HOW_STARTED}"
        )
    return number


def world_size() -> int:
    """Return how many processes torchrun started, else 1.

    Raises:
        UserError: If what stands for it in the environment is no number.
    """
    return _from_torchrun("WORLD_SIZE", 1)


def _from_torchrun(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is '{text}' in the environment, not a number. {_HOW_STARTED}") from None


def is_main_rank() -> bool:
    """Say whether this process merges, writes tables and draws (rank 0, or the only one)."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Do something on one rank only: no :func:`barrier` inside waits, since the others never come there."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def barrier() -> None:
    """Wait until every rank has come here. Does nothing outside torchrun, or inside :func:`alone`.

    Raises:
        UserError: If the ranks cannot find one another, or one of them has ended.
    """
    if world_size() == 1 or _alone:
        return
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            # gloo on every device: ranks exchange nothing but these meetings. Days, since one may have far more to do.
            dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"The {world_size()} processes of this run could not meet ({_first_line(error)}). {_HOW_STARTED}"
        ) from None
    # Looked at rather than waited for: inside torch's own wait Python hears no signal, and SIGTERM would go unheard.
    try:
        meeting = dist.barrier(async_op=True)
        while not meeting.is_completed():
            time.sleep(0.01)
        meeting.wait()  # raises what went wrong
    except RuntimeError as error:
        raise UserError(
            f"Another process of this run has ended ({_first_line(error)}). What was finished is kept; run the same "
            "command again to go on."
        ) from None


def let_threads_sleep() -> None:
    """Let threads that wait for one another sleep rather than spin, unless OMP_WAIT_POLICY says otherwise.

    OpenMP's threads spin by default, and where other work holds a core they spin for one that cannot go on: fine-tuning took
    four times as long there, and on idle cores gains nothing (docs/performance.md). Has no effect once torch has been
    imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
