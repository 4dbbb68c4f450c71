"""The one mechanism for long per-image work: read ahead, compute, keep finished shards, resume, merge.

The sorted image list is cut once into shards of fixed size, each a whole number of batches. A shard is written
atomically when it is finished; a run that was killed starts again at the first unfinished one. Because shard
and batch boundaries never depend on what happened before, a resumed run ends with the same bytes as an
undisturbed one. Under torchrun, rank r of N takes the shards r, r + N, r + 2N, ...: whole shards rather than
single images, so that any number of processes works on the same batches and gives the same bytes; rank 0 merges.
"""

import hashlib
import itertools
import json
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.errors import ImageError, UserError
from utils.core.files import atomic_path, read_json, write_json
from utils.core.log import log
from utils.core.processes import barrier, is_main_rank, rank, world_size

if TYPE_CHECKING:
    import pandas as pd

SHARDS_FOLDER = "shards"


@dataclass
class Batch:
    """What one batch yields.

    Attributes:
        rows: One dict per image, in the batch's order; ``image_id`` is added by the mechanism.
        arrays: By name, arrays whose first axis is the batch.
    """

    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


Work = Callable[[list[str], list[Any]], Batch]


def _fingerprint(images: "pd.DataFrame", settings: dict[str, Any]) -> str:
    """Digest everything that can change a number: settings, image ids, file sizes."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for image_id, path in zip(images["image_id"], images["path"], strict=True):
        try:
            size = Path(path).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{image_id}\0{size}\n".encode())
    return digest.hexdigest()


def _json_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot keep a {type(value).__name__} in a shard's row")


def _write_shard(path: Path, rows: list[dict], arrays: dict[str, list[np.ndarray]], skipped: list) -> None:
    header = json.dumps({"rows": rows, "skipped": skipped}, default=_json_number).encode()
    content = {f"array_{name}": np.concatenate(parts) for name, parts in arrays.items() if parts}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, header=np.frombuffer(header, dtype=np.uint8), **content)


class ShardedResult:
    """The finished shards of one job, to be read in order, merged and then let go.

    Attributes:
        up_to_date: True if an earlier run with equal settings had already finished and its outputs are there;
            then there is nothing to merge: read the outputs.
        skipped: (image_id, reason) of the images left out.
        outputs: Names of the outputs that :meth:`finish` recorded (only when up to date).
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], up_to_date: bool) -> None:
        self.folder = folder
        self.up_to_date = up_to_date
        self._manifest = manifest
        self.outputs: list[str] = manifest.get("outputs", [])
        self.skipped: list[tuple[str, str]] = [tuple(pair) for pair in manifest.get("skipped", [])]
        if not up_to_date and is_main_rank():
            self.skipped = [
                tuple(pair) for shard in self._shards() for pair in self._header(shard)["skipped"]
            ]

    def _shards(self) -> Iterator[Path]:
        return (_shard_path(self.folder, number) for number in range(self._manifest["shards"]))

    @staticmethod
    def _open(shard: Path) -> Any:
        try:
            return np.load(shard, allow_pickle=False)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"The shard {shard} is damaged ({error}). Delete it and run the same command again."
            ) from None

    def _header(self, shard: Path) -> dict[str, Any]:
        with self._open(shard) as content:
            return json.loads(content["header"].tobytes())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows in order of ``image_id``, one shard in memory at a time."""
        for shard in self._shards():
            yield from self._header(shard)["rows"]

    def frame(self) -> "pd.DataFrame":
        """Return all rows, sorted by ``image_id``."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    def arrays(self, name: str) -> Iterator[np.ndarray]:
        """Yield the named array shard by shard, in the order of :meth:`rows`."""
        for shard in self._shards():
            with self._open(shard) as content:
                if f"array_{name}" in content:
                    yield content[f"array_{name}"]

    def write_matrix(self, name: str, path: Path, dtype: str | None = None) -> Path:
        """Stream the named array of all shards into one ``.npy`` file; memory stays at one shard.

        Args:
            name: The array's name in :class:`Batch`.
            path: The file to write, atomically.
            dtype: Its element type; that of the shards when left out.

        Returns:
            ``path``. Row i belongs to row i of :meth:`frame`.
        """
        count = sum(len(self._header(shard)["rows"]) for shard in self._shards())
        parts = self.arrays(name)
        first = next(parts)
        with atomic_path(path) as temporary:
            matrix = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=dtype or first.dtype, shape=(count, *first.shape[1:])
            )
            start = 0
            for part in itertools.chain([first], parts):
                matrix[start : start + len(part)] = part
                start += len(part)
            matrix.flush()
            del matrix
        if start != count:
            raise RuntimeError(f"{path}: {start} arrays for {count} rows")
        return path

    def finish(self, outputs: Sequence[Path]) -> None:
        """Drop the shards and remember the outputs, so that an equal run later finds them up to date."""
        if not is_main_rank() or self.up_to_date:
            return
        root = self.folder.parent.parent
        names = [str(Path(path).relative_to(root)) for path in outputs]
        manifest = {**self._manifest, "complete": True, "outputs": names, "skipped": self.skipped}
        write_json(self.folder / "manifest.json", manifest)
        for shard in self.folder.glob("shard_*.npz"):
            shard.unlink()


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard_{number:06d}.npz"


def _is_finished(shard: Path) -> bool:
    # is_zipfile reads the directory at the file's end, so a file cut short does not pass.
    return shard.exists() and zipfile.is_zipfile(shard)


def _prepare(folder: Path, manifest: dict[str, Any], overwrite: bool) -> tuple[dict[str, Any], bool]:
    """Compare with what an earlier run left; return the manifest to use and whether all is done already."""
    path = folder / "manifest.json"
    old = read_json(path) if path.exists() else {}
    same = old.get("fingerprint") == manifest["fingerprint"] and not overwrite
    root = folder.parent.parent
    done = bool(same and old.get("complete") and all((root / name).exists() for name in old["outputs"]))
    barrier()  # every rank has read the old manifest before rank 0 replaces it
    if is_main_rank() and not done and (not same or old.get("complete")):
        if old and not same and not old.get("complete") and not overwrite:
            changed = _changes(old.get("settings", {}), manifest["settings"])
            log.warning(
                "An unfinished run of %s had other settings (%s); it is started anew.", folder.name, changed
            )
        shutil.rmtree(folder, ignore_errors=True)
        write_json(path, manifest)
    barrier()
    return (old if done else manifest), done


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    new = json.loads(json.dumps(new, default=str))
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


def _load_or_error(load: Callable[[str], Any], path: str) -> Any:
    try:
        return load(path)
    except ImageError as error:
        return error


def _read_ahead(
    load: Callable[[str], Any], paths: Sequence[str], pool: Executor | None, ahead: int
) -> Iterator[Any]:
    """Yield ``load(path)`` in order, working up to ``ahead`` paths in advance; errors are yielded, not raised."""
    if pool is None:
        for path in paths:
            yield _load_or_error(load, path)
        return
    waiting: deque[Future] = deque()
    remaining = iter(paths)
    for path in remaining:
        waiting.append(pool.submit(_load_or_error, load, path))
        if len(waiting) >= ahead:
            break
    try:
        while waiting:
            value = waiting.popleft().result()
            for path in remaining:
                waiting.append(pool.submit(_load_or_error, load, path))
                break
            yield value
    finally:
        for future in waiting:
            future.cancel()


def read_ahead(load: Callable[[str], Any], paths: Sequence[str], workers: int, ahead: int) -> Iterator[Any]:
    """Yield ``load(path)`` for every path, in order, while threads work on the next ones.

    Args:
        load: Reads one image; may raise :class:`ImageError`, which is yielded in the value's place.
        paths: What to read.
        workers: Threads; 0 loads when asked.
        ahead: How many paths are worked on in advance.
    """
    pool = _make_pool("thread", min(workers, len(paths)))
    try:
        yield from _read_ahead(load, paths, pool, ahead)
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
    shard: "pd.DataFrame", values: Iterator[Any], work: Work, batch_size: int, on_error: str, bar: Any
) -> tuple[list[dict], dict[str, list[np.ndarray]], list[tuple[str, str]]]:
    """Work through one shard's images; return its rows, arrays and skipped images."""
    rows: list[dict] = []
    arrays: dict[str, list[np.ndarray]] = {}
    skipped: list[tuple[str, str]] = []
    ids = shard["image_id"].tolist()
    for start in range(0, len(ids), batch_size):
        good_ids, good_values = [], []
        for image_id in ids[start : start + batch_size]:
            value = next(values)
            if not isinstance(value, ImageError):
                good_ids.append(image_id)
                good_values.append(value)
                continue
            if on_error == "fail":
                raise UserError(
                    f"{value}. Mend or remove the file, or leave such images out with --on-error skip."
                )
            skipped.append((image_id, value.reason))
        if good_ids:
            batch = work(good_ids, good_values)
            if len(batch.rows) != len(good_ids):
                raise RuntimeError(f"{len(batch.rows)} rows came back for {len(good_ids)} images")
            rows += [
                {"image_id": image_id, **row} for image_id, row in zip(good_ids, batch.rows, strict=True)
            ]
            for name, array in batch.arrays.items():
                arrays.setdefault(name, []).append(np.asarray(array))
        bar.update(min(batch_size, len(ids) - start))
    return rows, arrays, skipped


@dataclass(frozen=True)
class _Reading:
    """How images are read: by what, how many at a time, by how many workers of which kind."""

    load: Callable[[str], Any]
    batch_size: int
    workers: int
    executor: str


def _finish_shards(
    folder: Path,
    images: "pd.DataFrame",
    size: int,
    work: Work,
    reading: _Reading,
    on_error: str,
    description: str,
) -> None:
    """Work through this rank's unfinished shards, reading ahead of the work."""
    from tqdm import tqdm

    own = range(rank(), -(-len(images) // size), world_size())
    pending = [number for number in own if not _is_finished(_shard_path(folder, number))]
    parts = [images.iloc[number * size : (number + 1) * size] for number in pending]
    paths = [str(path) for part in parts for path in part["path"]]
    total = sum(min(size, len(images) - number * size) for number in own)
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
        values = _read_ahead(reading.load, paths, pool, ahead=ahead)
        with bar:
            for number, part in zip(pending, parts, strict=True):
                finished = _run_shard(part, values, work, reading.batch_size, on_error, bar)
                _write_shard(_shard_path(folder, number), *finished)
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
    load: Callable[[str], Any],
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
        load: Reads one image from its path, in the pool; raises :class:`ImageError` for one that cannot be used.
            Must be picklable for ``executor="process"``.
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
    manifest = {
        "fingerprint": _fingerprint(images, settings),
        "settings": settings,
        "images": len(images),
        "shards": -(-len(images) // size),
    }
    manifest, done = _prepare(folder, manifest, overwrite)
    if done:
        log.info("%s: up to date (%d images); --overwrite does it again.", name, len(images))
        return ShardedResult(folder, manifest, up_to_date=True)
    reading = _Reading(load, batch_size, workers, executor)
    _finish_shards(folder, images, size, work or _rows_as_loaded, reading, on_error, description or name)
    barrier()
    result = ShardedResult(folder, manifest, up_to_date=False)
    if is_main_rank() and len(result.skipped) == len(images):
        reasons = "; ".join(f"{image_id}: {reason}" for image_id, reason in result.skipped[:3])
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"{name}: none of the {len(images)} images could be read ({reasons}). Check the files."
        )
    return result
