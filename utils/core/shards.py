"""The one mechanism for long per-image work: read ahead, compute, keep finished shards, resume, merge.

The sorted image list is cut once into shards of fixed size, each a whole number of batches. A shard is written
atomically when it is finished; a run that was killed starts again at the first unfinished one. Because shard
and batch boundaries never depend on what happened before, a resumed run ends with the same bytes as an
undisturbed one. A shard remembers what each of its images held when it was read, and is done again if one has
changed, come or gone, also after the job was finished: of the others the rows are kept, and the arrays in the matrices they
were merged into. A finished job is up to date while its images and its outputs hold what they held. Under torchrun, rank r
of N takes the shards r, r + N, r + 2N, ...: whole shards rather than single images, so that any number of processes
works on the same batches and gives the same bytes; rank 0 merges.
"""

import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.digests import FileContent, FileDigests, Seen, combined_digest, file_digests, read_file
from utils.core.errors import ImageError, UserError
from utils.core.files import write_json
from utils.core.log import log
from utils.core.names import SHARDS_FOLDER
from utils.core.processes import barrier, is_main_rank, rank, world_size
from utils.core.shard_files import DamagedShardError, Merged, Shard, read_header, shard_path
from utils.core.sharded_result import MANIFEST, ShardedResult, find_array, merged_of, read_manifest
from utils.core.signals import follow_parent_as_worker

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Batch:
    """What one batch yields.

    Attributes:
        rows: One dict per image, in the batch's order, of what JSON can hold, and bytes; ``image_id`` is added by the
            mechanism.
        arrays: By name, arrays whose first axis is the batch.
    """

    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


Work = Callable[[list[str], list[Any]], Batch]
Load = Callable[[Any], Any]


class NoReadableImageError(UserError):
    """Not one image of a job could be read. ``result`` says why; it has no rows, and may be finished."""

    def __init__(self, message: str, result: "ShardedResult") -> None:
        super().__init__(message)
        self.result = result


def _why_unfinished(
    shard: Path,
    number: int,
    images: "pd.DataFrame",
    job: str,
    merged: Merged,
    digests: FileDigests,
    load: Load,
) -> str | None:
    """Say why a shard has to be done: ``new``, ``damaged: ...``, ``changed: <image>``; None if it need not.

    A picture that could not be read is tried again: the disk may have had a bad moment, or the reader learned more.
    """
    if not shard.exists():
        return "new"
    try:
        header = read_header(shard)
        if header["job"] != job:
            return "damaged: it is of another job"
        for name, digest in header["arrays"].items():
            find_array(shard, number, name, digest, merged)
    except DamagedShardError as error:
        return f"damaged: {error.reason}"
    paths = dict(zip(images["image_id"], images["path"], strict=True))
    if header["read"].keys() != paths.keys():
        return f"changed: {min(header['read'].keys() ^ paths.keys())}"
    for image_id, path in paths.items():
        seen = Seen.of_json(header["read"][image_id])
        digests.note(path, seen)
        if digests.of(path) != seen.digest:
            return f"changed: {image_id}"
    readable = _readable_again(load, [image_id for image_id, _ in header["skipped"]], paths)
    return f"changed: {readable}" if readable else None


def _readable_again(load: Load, skipped: Sequence[str], paths: dict[str, Any]) -> str | None:
    """Return the first of the images left out that can be read now."""
    for image_id in skipped:
        value, _ = _read_and_load(load, str(paths[image_id]))
        if not isinstance(value, ImageError):
            return image_id
    return None


def _is_up_to_date(manifest: dict[str, Any], images: "pd.DataFrame", root: Path, load: Load) -> bool:
    """Say whether an earlier run was finished, and images and outputs hold what they held then."""
    digests = file_digests(root)
    paths = dict(zip(images["image_id"], images["path"], strict=True))
    return (
        manifest.get("complete", False)
        and all(digests.of(root / name) == digest for name, digest in manifest["outputs"].items())
        and digests.of_images(images) == manifest["pictures"]
        and not _readable_again(load, [image_id for image_id, _ in manifest.get("skipped", [])], paths)
    )


def _prepare(
    folder: Path, images: "pd.DataFrame", settings: dict[str, Any], shards: int, overwrite: bool, load: Load
) -> tuple[dict[str, Any], bool]:
    """Compare with what an earlier run left; return the manifest to use and whether all is done already."""
    identity = combined_digest((image_id, "") for image_id in images["image_id"])
    new = {"settings": json.loads(json.dumps(settings, default=str)), "images": identity, "shards": shards}
    old = read_manifest(folder)
    same = (not old or old["settings"] == new["settings"]) and not overwrite
    equal = same and all(old.get(name) == value for name, value in new.items())
    done = equal and _is_up_to_date(old, images, folder.parent.parent, load)
    if same:  # what it merged its arrays into, for the shards whose pictures are as they were
        new |= {name: old[name] for name in ("matrices", "rows") if name in old}
    barrier()  # every rank has read the old manifest before rank 0 replaces it
    if is_main_rank() and not done:
        if not same and not old.get("complete") and not overwrite:
            changed = _changes(old["settings"], new["settings"])
            log.warning(
                "An unfinished run of %s had other settings (%s); it is started anew.", folder.name, changed
            )
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
        for shard in folder.glob("shard_*.npz"):
            if shard.name >= shard_path(folder, shards).name:
                shard.unlink()
        write_json(folder / MANIFEST, new)
    barrier()
    return (old if done else new), done


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {old.get(name)} -> {new.get(name)}" for name in names) or "other images"


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


def _make_pool(executor: str, workers: int) -> Executor | None:
    if workers == 0:
        return None
    if executor == "thread":
        return ThreadPoolExecutor(workers)
    import multiprocessing

    # Not fork: the parent may hold torch's threads, which do not survive a fork.
    return ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    )


def _read_and_load(load: Callable[[Any], Any], path: str) -> tuple[Any, Seen]:
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


def _read_ahead(
    load: Callable[[Any], Any],
    paths: Sequence[str],
    pool: Executor | None,
    ahead: int,
    digests: FileDigests | None,
) -> Iterator[Any]:
    """Yield ``load(path)`` in order, working up to ``ahead`` paths in advance; errors are yielded, not raised."""

    def submit(path: str) -> tuple[str, Future]:
        if pool is not None:
            return path, pool.submit(_read_and_load, load, path)
        done: Future = Future()
        done.set_result(_read_and_load(load, path))
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
    pool = _make_pool("thread", min(workers, len(paths)))
    try:
        yield from _read_ahead(load, paths, pool, ahead, digests)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _rows_as_loaded(ids: list[str], values: list[Any]) -> Batch:
    """The work of jobs whose loader already does everything (worker processes): values are rows or Batches of one."""
    if values and isinstance(values[0], Batch):
        names = values[0].arrays
        return Batch(
            [row for value in values for row in value.rows],
            {name: np.concatenate([value.arrays[name] for value in values]) for name in names},
        )
    return Batch(values)


def _run_shard(
    images: "pd.DataFrame",
    values: Iterator[Any],
    work: Work,
    batch_size: int,
    on_error: str,
    digests: FileDigests,
    bar: Any,
) -> Shard:
    """Work through one shard's images."""
    shard = Shard()
    ids = images["image_id"].tolist()
    paths = dict(zip(ids, images["path"], strict=True))
    for start in range(0, len(ids), batch_size):
        good_ids, good_values = [], []
        for image_id in ids[start : start + batch_size]:
            value = next(values)
            shard.read[image_id] = digests.last_seen(paths[image_id])
            if not isinstance(value, ImageError):
                good_ids.append(image_id)
                good_values.append(value)
                continue
            if on_error == "fail":
                raise UserError(
                    f"{value}. Mend or remove the file, or leave such images out with --on-error skip."
                )
            shard.skipped.append((image_id, value.reason))
        if good_ids:
            batch = work(good_ids, good_values)
            if len(batch.rows) != len(good_ids):
                raise RuntimeError(f"{len(batch.rows)} rows came back for {len(good_ids)} images")
            shard.rows += [
                {"image_id": image_id, **row} for image_id, row in zip(good_ids, batch.rows, strict=True)
            ]
            for name, array in batch.arrays.items():
                shard.arrays.setdefault(name, []).append(np.asarray(array))
        bar.update(min(batch_size, len(ids) - start))
    return shard


@dataclass(frozen=True)
class _Reading:
    """How images are read: by what, how many at a time, by how many workers of which kind."""

    load: Callable[[Any], Any]
    batch_size: int
    workers: int
    executor: str


def _job_digest(folder: Path, manifest: dict[str, Any]) -> str:
    """Digest what a shard's numbers hang on besides its pictures."""
    return combined_digest([(folder.name, ""), (json.dumps(manifest["settings"], sort_keys=True), "")])


def _why_each_unfinished(
    folder: Path, manifest: dict[str, Any], parts: dict[int, "pd.DataFrame"], digests: FileDigests, load: Load
) -> dict[int, str | None]:
    """Say of each shard, by number, why it has to be done (see `_why_unfinished`), and log what is done again."""
    job, merged = _job_digest(folder, manifest), merged_of(folder, manifest)
    reasons = {
        number: _why_unfinished(shard_path(folder, number), number, part, job, merged, digests, load)
        for number, part in parts.items()
    }
    _say_what_is_done_again(folder, reasons)
    return reasons


def _say_what_is_done_again(folder: Path, reasons: dict[int, str | None]) -> None:
    """Say in a line of each kind which finished shards are done again, and why."""
    name = folder.name
    damaged = [
        f"{shard_path(folder, number).name}: {why.removeprefix('damaged: ')}"
        for number, why in reasons.items()
        if why and why.startswith("damaged: ")
    ]
    changed = [
        why.removeprefix("changed: ") for why in reasons.values() if why and why.startswith("changed: ")
    ]
    if damaged:
        log.warning(
            "%s: %d shards are damaged or lack something and are done again (%s).",
            name,
            len(damaged),
            "; ".join(damaged[:3]),
        )
    if changed:
        log.info(
            "%s: %d shards are done again, since images have changed, come or gone (e.g. %s).",
            name,
            len(changed),
            ", ".join(changed[:3]),
        )


def _finish_shards(
    folder: Path,
    manifest: dict[str, Any],
    images: "pd.DataFrame",
    size: int,
    work: Work,
    reading: _Reading,
    on_error: str,
    description: str,
) -> None:
    """Work through this rank's unfinished shards, reading ahead of the work."""
    from tqdm import tqdm

    digests = file_digests(folder.parent.parent)
    own = {
        number: images.iloc[number * size : (number + 1) * size]
        for number in range(rank(), -(-len(images) // size), world_size())
    }
    reasons = _why_each_unfinished(folder, manifest, own, digests, reading.load)
    pending = {number: part for number, part in own.items() if reasons[number]}
    paths = [str(path) for part in pending.values() for path in part["path"]]
    total = sum(map(len, own.values()))
    if len(pending) < len(own):
        log.info("%s: going on after %d of %d images.", folder.name, total - len(paths), total)
    pool = _make_pool(reading.executor, min(reading.workers, len(paths)))
    bar = tqdm(
        total=total,
        initial=total - len(paths),
        desc=description,
        unit="image",
        disable=not is_main_rank(),
    )
    try:
        ahead = 2 * reading.batch_size + 2 * reading.workers
        values = _read_ahead(reading.load, paths, pool, ahead, digests)
        with bar:
            for number, part in pending.items():
                shard = _run_shard(part, values, work, reading.batch_size, on_error, digests, bar)
                shard.write(shard_path(folder, number), _job_digest(folder, manifest))
    except BrokenProcessPool:
        raise UserError(
            f"{folder.name}: a worker process was ended from outside, most often for lack of memory. What was "
            "finished is kept; run the same command again with fewer --workers."
        ) from None
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def run_sharded(
    name: str,
    images: "pd.DataFrame",
    work: Work | None,
    *,
    output_path: Path,
    settings: dict[str, Any],
    load: Callable[[Any], Any],
    batch_size: int = 8,
    workers: int = 2,
    executor: str = "thread",
    shard_size: int | None = None,
    on_error: str = "skip",
    overwrite: bool = False,
    description: str = "",
) -> ShardedResult:
    """Do per-image work that may take hours: in shards, resumable, read ahead, over any number of ranks.

    Args:
        name: The job's name, e.g. ``latents_mem_vgg_autoencoder``; its shards stand in ``shards/<name>``.
        images: ``image_id`` (unique) and ``path`` of every image.
        work: Takes the ids and loaded values of up to ``batch_size`` images, returns their :class:`Batch`. None
            if ``load`` does everything and returns a row (dict) or a Batch of one.
        output_path: The output folder.
        settings: Everything besides the images that can change a number. An unfinished run with other settings
            is started anew, a finished one is done again.
        load: Makes one image's value in the pool, of what stands for its path (see :func:`read_ahead`); raises
            :class:`ImageError` for one that cannot be used. Must be picklable for ``executor="process"``.
        batch_size: Images per call of ``work``.
        workers: Pool size; 0 loads in the main thread.
        executor: ``thread`` for decoding (it releases the interpreter's lock) or ``process`` for Python-heavy work.
        shard_size: Images per shard; rounded up to whole batches. About a minute's work is a good size: it is
            what a kill can cost.
        on_error: ``skip`` leaves unusable images out and names them; ``fail`` stops at the first.
        overwrite: Do finished work again.
        description: Shown beside the progress bar.

    Returns:
        The result to merge, on every rank; only rank 0 should read it.

    Raises:
        UserError: If no image could be used at all, or at the first unusable one with ``on_error="fail"``.
    """
    images = images.sort_values("image_id", kind="stable").reset_index(drop=True)
    if images["image_id"].duplicated().any() or images.empty:
        raise ValueError(f"{name}: {len(images)} images, ids must be unique and at least one")
    size = max(shard_size or 8 * batch_size, batch_size)
    size = -(-size // batch_size) * batch_size
    settings = {**settings, "batch_size": batch_size, "shard_size": size}
    folder = Path(output_path) / SHARDS_FOLDER / name
    manifest, done = _prepare(folder, images, settings, -(-len(images) // size), overwrite, load)
    if done:
        log.info("%s: up to date (%d images); --overwrite does it again.", name, len(images))
        return ShardedResult(folder, manifest, up_to_date=True)
    reading = _Reading(load, batch_size, workers, executor)
    _finish_shards(
        folder, manifest, images, size, work or _rows_as_loaded, reading, on_error, description or name
    )
    barrier()
    result = ShardedResult(folder, manifest, up_to_date=False)
    if is_main_rank() and len(result.skipped) == len(images):
        reasons = "; ".join(f"{image_id}: {reason}" for image_id, reason in result.skipped[:3])
        shutil.rmtree(folder, ignore_errors=True)
        raise NoReadableImageError(
            f"{name}: none of the {len(images)} images could be read ({reasons}). Check the files.", result
        )
    return result
