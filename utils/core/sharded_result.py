"""The finished shards of one job: read in order, merged, and kept for the pictures that do not change."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.core.digests import Seen, combined_digest, file_digests
from utils.core.errors import UserError
from utils.core.files import atomic_path, read_json, write_json
from utils.core.log import log
from utils.core.matrix_files import create_matrix
from utils.core.processes import is_main_rank
from utils.core.schema import mismatch
from utils.core.shard_files import (
    DamagedShardError,
    Merged,
    array_digest,
    arrays_path,
    read_array,
    read_header,
    shard_path,
)

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
_MANIFEST_SHAPE = {
    "settings": {str: object},
    "images": str,
    "shards": int,
    "complete?": bool,
    "pictures?": str,
    "skipped?": [[str]],
    "outputs?": {str: str},
    "matrices?": {str: str},
    "rows?": [int],
}
_OF_A_FINISHED_JOB = {"pictures": str, "outputs": {str: str}}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what an earlier run of a job left; empty where there is nothing, or nothing that can be believed."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = read_json(path)
        wrong = mismatch(manifest, _MANIFEST_SHAPE)
        if not wrong and manifest.get("complete"):
            wrong = mismatch(manifest, _OF_A_FINISHED_JOB)
    except UserError:
        wrong = "expected a JSON object"
    if wrong:
        log.warning("%s is damaged (%s); the job is done anew where its shards cannot be used.", path, wrong)
        return {}
    return manifest


class ShardedResult:
    """The finished shards of one job, to be read in order, merged and then let go.

    Attributes:
        up_to_date: True if an earlier run with equal settings had already finished, and images and outputs hold
            what they held then; there is nothing to merge: read the outputs.
        skipped: (image_id, reason) of the images left out.
        read: What was read of each image, by image_id (on rank 0, unless up to date).
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], up_to_date: bool) -> None:
        self.folder = folder
        self.up_to_date = up_to_date
        self._manifest = manifest
        self._merged = merged_of(folder, manifest)
        self._matrices: dict[str, str] = {}
        self.skipped: list[tuple[str, str]] = []
        self.read: dict[str, Seen] = {}
        if up_to_date:
            self.skipped = [tuple(pair) for pair in manifest.get("skipped", [])]
        elif is_main_rank():
            for shard in self._shards():
                header = read_header(shard)
                self.skipped += [tuple(pair) for pair in header["skipped"]]
                self.read |= {name: Seen.of_json(seen) for name, seen in header["read"].items()}

    def _shards(self) -> Iterator[Path]:
        return (shard_path(self.folder, number) for number in range(self._manifest["shards"]))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows in order of ``image_id``, one shard in memory at a time."""
        for shard in self._shards():
            yield from read_header(shard)["rows"]

    def frame(self) -> "pd.DataFrame":
        """Return all rows, sorted by ``image_id``."""
        import pandas as pd

        return pd.DataFrame(list(self.rows()))

    def arrays(self, name: str) -> Iterator[np.ndarray]:
        """Yield the named array shard by shard, in the order of :meth:`rows`."""
        for number, shard in enumerate(self._shards()):
            digests = read_header(shard)["arrays"]
            if name in digests:
                yield find_array(shard, number, name, digests[name], self._merged)

    def write_matrix(self, name: str, path: Path, dtype: str | None = None) -> Path:
        """Stream the named array of all shards into one ``.npy`` file; memory stays at one shard.

        Args:
            name: The array's name in :class:`Batch`.
            path: The file to write, atomically.
            dtype: Its element type; that of the shards when left out.

        Returns:
            ``path``. Row i belongs to row i of :meth:`frame`.

        Raises:
            UserError: If the disk has no room for it, before anything is written.
        """
        count = sum(len(read_header(shard)["rows"]) for shard in self._shards())
        parts = self.arrays(name)
        first = next(parts)
        with atomic_path(path) as temporary:
            matrix = create_matrix(temporary, dtype or first.dtype, (count, *first.shape[1:]), path)
            start = 0
            for part in itertools.chain([first], parts):
                matrix[start : start + len(part)] = part
                start += len(part)
            matrix.flush()
            del matrix
        if start != count:
            raise RuntimeError(f"{path}: {start} arrays for {count} rows")
        if dtype in (None, first.dtype.name) and path.is_relative_to(self.folder.parent.parent):
            self._matrices[name] = str(path.relative_to(self.folder.parent.parent))
        return path

    def finish(self, outputs: Sequence[Path], keep: bool = True) -> None:
        """Remember what the outputs hold, so that an equal run later finds them up to date.

        Args:
            outputs: What was made of the shards.
            keep: Whether to keep the rows, so that a picture that changes costs its shard alone; arrays are kept in the
                matrices only. Not for an output that takes in single pictures by itself.
        """
        if not is_main_rank():
            return
        root = self.folder.parent.parent
        digests = file_digests(root)
        names = {
            os.path.relpath(path, root): digests.of(path) for path in outputs
        }  # --output may lie outside
        if not self.up_to_date:
            pictures = combined_digest((name, seen.digest) for name, seen in sorted(self.read.items()))
            self._manifest |= {"complete": True, "pictures": pictures, "skipped": self.skipped}
            self._manifest |= {"matrices": self._matrices, "rows": self._count_rows() if keep else []}
        write_json(self.folder / MANIFEST, self._manifest | {"outputs": names})
        digests.save()
        for pattern in ("arrays_*.npz",) if keep else ("arrays_*.npz", "shard_*.npz"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _count_rows(self) -> list[int]:
        return [len(read_header(shard)["rows"]) for shard in self._shards() if shard.exists()]


def merged_of(folder: Path, manifest: dict[str, Any]) -> Merged:
    """Return the matrices into which an earlier run of a job merged its arrays."""
    return Merged(folder.parent.parent, manifest.get("matrices", {}), manifest.get("rows", []))


def find_array(shard: Path, number: int, name: str, digest: str, merged: Merged) -> np.ndarray:
    """Return a shard's array: its own file's, or else its part of the matrix it was merged into.

    Raises:
        DamagedShardError: Neither is what the shard says it should be.
    """
    array = read_array(shard, name) if arrays_path(shard).exists() else merged.part(name, number)
    if array is None or array_digest(array) != digest:
        raise DamagedShardError(
            shard, f"its array {name} is {'gone' if array is None else 'not what was written'}"
        )
    return array
