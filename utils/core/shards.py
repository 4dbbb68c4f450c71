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

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.digests import FileDigests, Seen, combined_digest, file_digests
from utils.core.errors import ImageError, UserError
from utils.core.files import write_json
from utils.core.log import log
from utils.core.names import SHARDS_FOLDER
from utils.core.processes import barrier, is_main_rank, rank, world_size
from utils.core.reading import make_pool, read_and_load, values_ahead
from utils.core.shard_files import DamagedShardError, Merged, Shard, read_header, shard_path
from utils.core.sharded_result import MANIFEST, ShardedResult, find_array, merged_of, read_manifest

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
        value, _ = read_and_load(load, str(paths[image_id]))
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


def _rows_as_loaded(ids: list[str], values: list[Any]) -> Batch:
    """The work of jobs whose loader already does everything (worker processes): values are rows or Batches of one."""
    if values and isinstance(values[0], Batch):
        names = values[0].arrays
        return Batch(
            [row for value in values for row in value.rows],
            {name: np.concatenate([value.arrays[name] for value in values]) for name in names},
        )
    return Batch(values)


def _take_in(shard: Shard, batch: Batch, ids: list[str]) -> None:
    """Add to a shard what one batch yielded."""
    if len(batch.rows) != len(ids):
        raise RuntimeError(f"{len(batch.rows)} rows came back for {len(ids)} images")
    shard.rows += [{"image_id": image_id, **row} for image_id, row in zip(ids, batch.rows, strict=True)]
    for name, array in batch.arrays.items():
        shard.arrays.setdefault(name, []).append(np.asarray(array))


def _run_shard(
    images: "pd.DataFrame",
    values: Iterator[Any],
    works: Sequence[Work],
    reading: "_Reading",
    digests: FileDigests,
    bar: Any,
) -> list[Shard]:
    """Work through one shard's images, each batch by each of the works in turn; return a shard of each."""
    shards = [Shard() for _ in works]
    ids = images["image_id"].tolist()
    paths = dict(zip(ids, images["path"], strict=True))
    for start in range(0, len(ids), reading.batch_size):
        good_ids, good_values = [], []
        for image_id in ids[start : start + reading.batch_size]:
            value, seen = next(values), digests.last_seen(paths[image_id])
            for shard in shards:
                shard.read[image_id] = seen
            if not isinstance(value, ImageError):
                good_ids.append(image_id)
                good_values.append(value)
                continue
            if reading.on_error == "fail":
                raise UserError(
                    f"{value}. Mend or remove the file, or leave such images out with --on-error skip."
                )
            for shard in shards:
                shard.skipped.append((image_id, value.reason))
        for shard, work in zip(shards, works, strict=True) if good_ids else ():
            _take_in(shard, work(good_ids, good_values), good_ids)
        bar.update(min(reading.batch_size, len(ids) - start))
    return shards


@dataclass(frozen=True)
class _Reading:
    """How images are read: by what, how many at a time, by how many workers of which kind."""

    load: Callable[[Any], Any]
    batch_size: int = 8
    workers: int = 2
    executor: str = "thread"
    on_error: str = "skip"


@dataclass(frozen=True)
class Job:
    """One of several jobs over the same images.

    Attributes:
        name: Its name, e.g. ``test_loss_mem_vgg_autoencoder``; its shards stand in ``shards/<name>``.
        work: Takes the ids and loaded values of a batch, returns their :class:`Batch`.
        settings: Everything besides the images that can change a number.
    """

    name: str
    work: Work
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Prepared:
    """A job, the folder of its shards, its manifest, and whether all of it was done already."""

    job: Job
    folder: Path
    manifest: dict[str, Any]
    done: bool


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
    jobs: Sequence[_Prepared], images: "pd.DataFrame", size: int, reading: _Reading, description: str
) -> None:
    """Work through this rank's unfinished shards of all jobs, number by number, reading ahead of the work."""
    from tqdm import tqdm

    digests = file_digests(jobs[0].folder.parent.parent)
    own = {
        number: images.iloc[number * size : (number + 1) * size]
        for number in range(rank(), -(-len(images) // size), world_size())
    }
    pending: dict[int, list[_Prepared]] = {}
    for each in jobs:
        reasons = _why_each_unfinished(each.folder, each.manifest, own, digests, reading.load)
        left = [number for number in own if reasons[number]]
        for number in left:
            pending.setdefault(number, []).append(each)
        total, going_on = sum(map(len, own.values())), sum(len(own[number]) for number in left)
        if len(left) < len(own):
            log.info("%s: going on after %d of %d images.", each.folder.name, total - going_on, total)
    paths = [str(path) for number in sorted(pending) for path in own[number]["path"]]
    pool = make_pool(reading.executor, min(reading.workers, len(paths)))
    bar = tqdm(
        total=sum(map(len, own.values())),
        initial=sum(map(len, own.values())) - len(paths),
        desc=description,
        unit="image",
        disable=not is_main_rank(),
    )
    try:
        ahead = 2 * reading.batch_size + 2 * reading.workers
        values = values_ahead(reading.load, paths, pool, ahead, digests)
        with bar:
            for number in sorted(pending):
                todo = pending[number]
                works = [each.job.work for each in todo]
                shards = _run_shard(own[number], values, works, reading, digests, bar)
                for each, shard in zip(todo, shards, strict=True):
                    shard.write(shard_path(each.folder, number), _job_digest(each.folder, each.manifest))
    except BrokenProcessPool:
        raise UserError(
            f"{jobs[0].folder.name}: a worker process was ended from outside, most often for lack of memory. What was "
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
    (result,) = run_together(
        [Job(name, work or _rows_as_loaded, settings)],
        images,
        output_path=output_path,
        load=load,
        batch_size=batch_size,
        workers=workers,
        executor=executor,
        shard_size=shard_size,
        on_error=on_error,
        overwrite=overwrite,
        description=description or name,
    )
    return result


def run_together(
    jobs: Sequence[Job],
    images: "pd.DataFrame",
    *,
    output_path: Path,
    load: Callable[[Any], Any],
    shard_size: int | None = None,
    overwrite: bool = False,
    description: str = "",
    **reading: Any,
) -> list[ShardedResult]:
    """Do several jobs over the same images as `run_sharded` does one, with the same bytes, reading each image once.

    Each batch goes to the work of every job that has not finished its shard, one after the other, as the same list of
    values: works can share what they make of it.

    Args:
        jobs: At least one, with different names.
        images: As for `run_sharded`, like all that follows.
        output_path: The output folder.
        load: Makes one image's value.
        shard_size: Images per shard.
        overwrite: Do finished work again.
        description: Shown beside the progress bar.
        **reading: ``batch_size``, ``workers``, ``executor``, ``on_error``.

    Returns:
        A result for each job, in order.

    Raises:
        UserError: If no image could be used at all, or at the first unusable one with ``on_error="fail"``.
    """
    how = _Reading(load, **reading)
    images = images.sort_values("image_id", kind="stable").reset_index(drop=True)
    if images["image_id"].duplicated().any() or images.empty:
        raise ValueError(f"{jobs[0].name}: {len(images)} images, ids must be unique and at least one")
    size = max(shard_size or 8 * how.batch_size, how.batch_size)
    size = -(-size // how.batch_size) * how.batch_size
    prepared = []
    for job in jobs:
        folder = Path(output_path) / SHARDS_FOLDER / job.name
        settings = {**job.settings, "batch_size": how.batch_size, "shard_size": size}
        manifest, done = _prepare(folder, images, settings, -(-len(images) // size), overwrite, load)
        prepared.append(_Prepared(job, folder, manifest, done))
        if done:
            log.info("%s: up to date (%d images); --overwrite does it again.", job.name, len(images))
    unfinished = [each for each in prepared if not each.done]
    if unfinished:
        _finish_shards(unfinished, images, size, how, description)
        barrier()
    results = [ShardedResult(each.folder, each.manifest, up_to_date=each.done) for each in prepared]
    _check_something_was_read(unfinished, results, len(images))
    return results


def _check_something_was_read(
    unfinished: Sequence[_Prepared], results: Sequence[ShardedResult], count: int
) -> None:
    """Let go of jobs not one of whose images could be read, and say why."""
    empty = [result for result in results if not result.up_to_date and len(result.skipped) == count]
    if not (is_main_rank() and empty):
        return
    for each in unfinished:
        shutil.rmtree(each.folder, ignore_errors=True)
    reasons = "; ".join(f"{image_id}: {reason}" for image_id, reason in empty[0].skipped[:3])
    raise NoReadableImageError(
        f"{unfinished[0].job.name}: none of the {count} images could be read ({reasons}). Check the files.",
        empty[0],
    )
