"""Train, validation and test: made once, reused by every stage."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import SAMPLE_CAVEAT
from utils.core.processes import barrier, is_main_rank
from utils.core.tables import output_file, read_table, write_table
from utils.data.dataset import Dataset

SPLIT_BLOCK = ("train",) * 6 + ("val",) + ("test",) * 3


def make_splits(table: pd.DataFrame, seed: int) -> pd.Series:
    """Assign each image to train (60 %), val (10 %) or test (30 %), stratified.

    Within category, subcategory and above or below the median score, images are shuffled and laid end to end;
    every ten in a row get six train, one val and three test in random order. So the shares are exact overall
    (up to the last ten) and even within every stratum. Rows that come with a split keep it.

    Args:
        table: With ``category, subcategory, memorability, split``, sorted by ``image_id``.
        seed: Seed of both shuffles.

    Returns:
        ``train``, ``val`` or ``test`` per row.
    """
    given = table["split"].astype(str)
    if (given != "").all():
        return given
    if (given != "").any():
        raise UserError(
            "The column split is filled for some images and empty for others. Fill it for all, or leave it out."
        )
    rng = np.random.default_rng(seed)
    above = table["memorability"] > table["memorability"].median()
    keys = pd.DataFrame(
        {"c": table["category"], "s": table["subcategory"], "a": above, "r": rng.permutation(len(table))}
    )
    order = keys.reset_index(drop=True).sort_values(["c", "s", "a", "r"]).index.to_numpy()
    blocks = [rng.permutation(SPLIT_BLOCK) for _ in range(-(-len(table) // len(SPLIT_BLOCK)))]
    splits = np.empty(len(table), dtype=object)
    splits[order] = np.concatenate(blocks)[: len(table)]
    return pd.Series(splits, index=table.index, name="split")


def load_splits(dataset: Dataset, output_path: Path, seed: int) -> pd.DataFrame:
    """Read ``splits.csv``, or write it at first need; every stage uses the same one.

    Args:
        dataset: The data set; its full table is split, so ``--limit`` never moves an image to another split.
        output_path: The output folder.
        seed: Seed of the split; only used when the file is made.

    Returns:
        ``image_id, category, subcategory, memorability, split`` of the images in ``dataset.table``.

    Raises:
        UserError: If ``splits.csv`` is of another data set.
    """
    path = output_file(output_path, "splits")
    full = dataset.full_table
    if not path.exists() and is_main_rank():
        splits = full.assign(split=make_splits(full, seed))[
            ["image_id", "category", "subcategory", "memorability", "split"]
        ]
        caveat = SAMPLE_CAVEAT if dataset.is_sample else ""
        write_table(splits, path, "splits", caveat=caveat)
        log.info(
            "Wrote %s (%s)",
            path,
            ", ".join(f"{count} {name}" for name, count in splits["split"].value_counts().items()),
        )
    barrier()  # under torchrun the other ranks wait for the file
    splits = read_table(path, "splits")
    unknown = set(dataset.table["image_id"]) - set(splits["image_id"])
    if unknown:
        raise UserError(
            f"{path} was made for other images: it does not know {len(unknown)} of {len(dataset.table)}, "
            f"e.g. {min(unknown)}. "
            "Use another --output-path for another data set, or delete splits.csv to split anew."
        )
    kept = dataset.table[["image_id", "category", "subcategory", "memorability"]]
    return kept.merge(splits[["image_id", "split"]], on="image_id", validate="one_to_one")
