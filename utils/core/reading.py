"""Reading ahead: threads or processes open and decode the next pictures while the work is at earlier ones."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from utils.core.digests import FileContent, FileDigests, Seen, read_file
from utils.core.errors import ImageError, UserError
from utils.core.signals import follow_parent_as_worker


def prepare_worker() -> None:
    """Set up a worker process: one thread, since the processes are the parallelism, and memory that is kept.

    Without the second, every large temporary array is paged in anew; the pages of all processes are handed out
    one after another, so that a second process gains little.
    """
    import cv2

    from utils.core.device import keep_freed_memory

    cv2.setNumThreads(1)
    keep_freed_memory()
    follow_parent_as_worker()


def make_pool(executor: str, workers: int) -> Executor | None:
    """Return threads or processes to read in; None, for the caller to read itself, with 0 workers."""
    if workers == 0:
        return None
    if executor == "thread":
        return ThreadPoolExecutor(workers)
    import multiprocessing

    # Not fork: the parent may hold torch's threads, which do not survive a fork.
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    )


def read_and_load(load: Callable[[Any], Any], path: str) -> tuple[Any, Seen]:
    """Read a file once, for its digest and for ``load``; return what came of it, an error of the image included."""
    file: FileContent | str
    try:
        file = read_file(path)
        seen = file.seen
    except OSError:
        folder = os.path.dirname(path) or os.curdir
        if not os.path.isdir(
            folder
        ):  # it was there when the images were listed: none of its pictures is to blame
            raise UserError(
                f"{folder} is gone since this run started (deleted, or its drive was taken off?). Put it back and run the "
                "same command again; what was finished is kept."
            ) from None
        file, seen = path, Seen.of_unreadable()  # what is wrong with it, the loader says
    try:
        return load(file), seen
    except ImageError as error:
        return error, seen


def values_ahead(
    load: Callable[[Any], Any],
    paths: Sequence[str],
    pool: Executor | None,
    ahead: int,
    digests: FileDigests | None,
) -> Iterator[Any]:
    """Yield ``load(path)`` in order, working up to ``ahead`` paths in advance; errors are yielded, not raised."""

    def submit(path: str) -> tuple[str, Future]:
        if pool is not None:
            return path, pool.submit(read_and_load, load, path)
        done: Future = Future()
        done.set_result(read_and_load(load, path))
        return path, done

    remaining = iter(paths)
    waiting = deque(submit(path) for path in itertools.islice(remaining, ahead if pool else 1))
    try:
        while waiting:
            path, future = waiting.popleft()
            value, seen = future.result()
            if digests is not None:
                digests.note(path, seen)
            yield value
            waiting.extend(submit(path) for path in itertools.islice(remaining, 1))
    finally:
        for _, future in waiting:
            future.cancel()


def read_ahead(
    load: Callable[[Any], Any],
    paths: Sequence[str],
    workers: int,
    ahead: int,
    digests: FileDigests | None = None,
) -> Iterator[Any]:
    """Yield ``load(path)`` for every path, in order, while threads work on the next ones.

    Args:
        load: Takes what stands for one path (:class:`utils.core.digests.FileContent`, or the path of a file that cannot
            be read); may raise :class:`ImageError`, which is yielded in the value's place.
        paths: What to read.
        workers: Threads; 0 loads when asked.
        ahead: How many paths are worked on in advance.
        digests: Notes what each file held.
    """
    pool = make_pool("thread", min(workers, len(paths)))
    try:
        yield from values_ahead(load, paths, pool, ahead, digests)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
