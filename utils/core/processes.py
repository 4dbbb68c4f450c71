"""Processes under torchrun: which one this is, and where they meet."""

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

_alone = False  # set by alone(), read by barrier()


def rank() -> int:
    """Return this process's number under torchrun, else 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes torchrun started, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
    """Wait until every rank has come here. Does nothing outside torchrun, or inside :func:`alone`."""
    if world_size() == 1 or _alone:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        # gloo on every device: ranks exchange nothing but these meetings. Days, since one rank may have far more to do.
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    # Looked at rather than waited for: inside torch's own wait Python hears no signal, and SIGTERM would go unheard.
    meeting = dist.barrier(async_op=True)
    while not meeting.is_completed():
        time.sleep(0.01)
    meeting.wait()  # raises what went wrong
