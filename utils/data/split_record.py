"""What ``splits.csv`` was made from, so that it can be told when it has to be made anew, and when somebody edited it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utils.core.digests import combined_digest
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.names import SHARDS_FOLDER
from utils.core.schema import mismatch
from utils.data.dataset import Dataset

_FILE = "splits.json"
_MADE_FROM = ("image_id", "category", "subcategory", "group", "source", "memorability", "split")


@dataclass(frozen=True)
class SplitRecord:
    """How ``splits.csv`` was made.

    Attributes:
        source: Score table and column, see `source_of`.
        basis: Digest of what they held, see `basis_of`.
        assignment: Digest of which image went where, see `assignment_of`.
        seed: Seed of the split.
    """

    source: list[str]
    basis: str
    assignment: str
    seed: int

    @classmethod
    def read(cls, output_path: Path) -> "SplitRecord | None":
        """Read the record of an output folder; None where there is none that can be believed."""
        path = output_path / SHARDS_FOLDER / _FILE
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = read_json(path)
        except UserError:
            return None
        shape = {"source": [str], "basis": str, "assignment": str, "seed": int}
        return None if mismatch(content, shape) else cls(**{name: content[name] for name in shape})

    def write(self, output_path: Path) -> None:
        """Keep it in an output folder."""
        write_json(output_path / SHARDS_FOLDER / _FILE, asdict(self))


def source_of(dataset: Dataset) -> list[str]:
    """Say what a command asked to split: score table and column, with or without groups or images that have no picture.

    Of another source, a file is not made anew: its flags are others, not what they name.
    """
    full = dataset.full_table
    return [
        Path(dataset.scores_csv).name,  # and not where it stands: a study may be moved with its data
        dataset.score_column,
        "some without a picture" if (full["path"] == "").any() else "pictures",
        "groups" if (full["group"] != "").any() else "no groups",
    ]


def basis_of(dataset: Dataset) -> str:
    """Digest everything in a data set's table that decides its split."""
    columns = [name for name in _MADE_FROM if name in dataset.full_table.columns]
    text = dataset.full_table[columns].to_csv(index=False, float_format="%.17g")
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def assignment_of(splits: pd.DataFrame) -> str:
    """Digest which image went where."""
    rows = splits.sort_values("image_id")
    return combined_digest(zip(rows["image_id"].astype(str), rows["split"].astype(str), strict=True))
