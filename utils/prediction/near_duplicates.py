"""Pictures that are almost the same, and on which side of a split they lie.

A test image whose near-duplicate was trained on is no test. Two ways to find them: a perceptual hash of the picture (made
brighter, smaller, compressed again, cropped a little), and latent codes that lie far closer together than codes of
different pictures do (the same scene a moment later).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.run import Run
from utils.core.shards import run_sharded
from utils.data.pixels import read_pixels, to_grey
from utils.latents.neighbours import SearchSettings, exact_squares, nearest_neighbours
from utils.prediction.data import PredictionData
from utils.prediction.partition import split_positions

HASH_LIMIT = 6
"""Most differing bits of 63 of two hashes. Measured on LNSIM (2,632 pictures, 3.5 million pairs): three pairs within the
limit, all three near-duplicates to the eye; the next ones, at 8 bits, are not. Recompressed at quality 30 or halved in size
every picture stays within it, 20 % brighter 99 %, cropped by 5 % 79 %."""

CODE_LIMIT = 0.3
"""Largest distance of two codes, as a share of the median distance from a code to its nearest other one. Measured likewise:
two pairs of LNSIM lie within 0.3, both the same photograph; the next nine, up to 0.5, are different pictures of night.
benchmarks/near_duplicates.py has the shares of changed copies within each limit."""

HASH_SIDE_PX, HASH_WAVES = 32, 8
FLAT = 1.0  # grey levels; weaker waves than this are rounding
NEAREST = 3
BLOCK_PAIRS = 4_000_000

COLUMNS = ["image_id", "other_image_id", "split", "other_split", "across_splits", "found_by"]
COLUMNS += ["hash_bits", "code_distance", "family"]


def perceptual_hash(rgb: NDArray[np.uint8]) -> int | None:
    """63 bits that say how a picture's brightness is laid out, after Zauner (2010, pHash).

    Bit by bit: whether one of the lowest 8 x 8 cosine waves of the picture, reduced to 32 x 32 grey pixels, is stronger
    than the median of them; the mean brightness does not count.

    Args:
        rgb: (H, W, 3) uint8, any size.

    Returns:
        A whole number in [0, 2^63); the number of differing bits of two is about 31 for pictures that have nothing to do
        with each other. None for a picture of one colour, which has no layout.
    """
    import cv2

    size = (HASH_SIDE_PX, HASH_SIDE_PX)
    small = cv2.resize(to_grey(rgb).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    waves = dctn(small, norm="ortho")[:HASH_WAVES, :HASH_WAVES].ravel()[1:]
    if np.abs(waves).max() < FLAT:
        return None
    return int(sum(1 << place for place, bit in enumerate(waves > np.median(waves)) if bit))


def file_hash(path: str | Path) -> dict[str, str]:
    """Hash one file, as hexadecimal text, empty for a picture of one colour; made to run in a worker.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    found = perceptual_hash(read_pixels(path))
    return {"hash": "" if found is None else f"{found:016x}"}


def hash_images(
    images: pd.DataFrame, output_path: Path, workers: int, on_error: str, overwrite: bool
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Hash pictures, once for as long as they stay as they are.

    Args:
        images: ``image_id, path``.
        output_path: The output folder.
        workers: Processes that read.
        on_error: ``skip`` or ``fail``.
        overwrite: Hash again.

    Returns:
        ``image_id, hash``, and the images left out with the reason.
    """
    result = run_sharded(
        "perceptual_hashes",
        images,
        None,
        output_path=output_path,
        settings={"side_px": HASH_SIDE_PX, "waves": HASH_WAVES},
        load=file_hash,
        batch_size=16,
        workers=workers,
        shard_size=1024,
        on_error=on_error,
        overwrite=overwrite,
        description="perceptual hashes",
    )
    path = result.folder / "hashes.csv"
    if result.up_to_date:
        return pd.read_csv(path, dtype=str, keep_default_na=False), result.skipped
    frame = result.frame()
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False)
    result.finish([path])
    return frame, result.skipped


def hash_pairs(hashes: NDArray[np.uint64], limit: int = HASH_LIMIT) -> tuple[NDArray, NDArray]:
    """Find pairs of hashes that differ in few bits.

    Args:
        hashes: (n,) uint64.
        limit: Most differing bits.

    Returns:
        (P,) first rows, (P,) second rows (larger than the first). Of rows with one and the same hash the first is paired
        with each other one, and stands for all of them towards other hashes: a thousand copies are no half million pairs.
    """
    unique, first_row, back = np.unique(hashes, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first_row[back] != np.arange(len(hashes)))
    pairs = [np.stack([first_row[back[copies]], copies])]
    step = max(1, BLOCK_PAIRS // max(len(unique), 1))
    for start in range(0, len(unique), step):
        bits = np.bitwise_count(unique[start : start + step, None] ^ unique[None, start:])
        one, other = np.nonzero(bits <= limit)
        later = other > one
        pairs.append(np.sort(first_row[np.stack([one[later], other[later]]) + start], axis=0))
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return found[0], found[1]


def code_pairs(
    codes: NDArray, limit: float = CODE_LIMIT, progress: Callable[[float], None] = lambda rows: None
) -> tuple[NDArray, NDArray, float]:
    """Find codes that lie unusually close to each other.

    Args:
        codes: (N, D) latent codes, possibly memory-mapped.
        limit: Largest distance, as a share of the median nearest distance.
        progress: Told of finished rows.

    Returns:
        (P,) first rows, (P,) second rows (larger than the first), and the median nearest distance, the unit of the limit.
        Each code is compared with its three nearest.
    """
    nothing = np.empty(0, np.int64)
    if len(codes) < 3:
        return nothing, nothing, float("nan")
    flat = codes.reshape(len(codes), -1)
    found = nearest_neighbours(
        flat, SearchSettings(neighbours=min(NEAREST, len(codes) - 1)), progress=progress
    )
    if found is None:  # only a rank that shares a search with others gets none
        raise RuntimeError("the search for near-duplicates came back empty")
    unit = float(np.median(found.distance[:, 0]))
    row, place = np.nonzero(found.distance <= limit * unit)
    other = found.index[row, place]
    pairs = np.unique(np.stack([np.minimum(row, other), np.maximum(row, other)]), axis=1)
    return pairs[0], pairs[1], unit


def near_duplicate_table(
    image_ids: NDArray, splits: NDArray, hashes: NDArray[np.uint64], known: NDArray[np.bool_], codes: NDArray
) -> pd.DataFrame:
    """List the pairs of pictures that are almost the same.

    Args:
        image_ids: (n,) names, sorted.
        splits: (n,) ``train``, ``val`` or ``test``.
        hashes: (n,) perceptual hashes.
        known: (n,) bool, whether a picture could be hashed.
        codes: (n, D) latent codes, row i belonging to name i.

    Returns:
        Rows of ``near_duplicates_<model>.csv``, a pair each, those across splits first, then by code distance.
    """
    usable = np.flatnonzero(known)
    first, second = hash_pairs(hashes[usable])
    by_hash = set(zip(usable[first].tolist(), usable[second].tolist(), strict=True))
    first, second, unit = code_pairs(codes)
    by_code = set(zip(first.tolist(), second.tolist(), strict=True))
    pairs = np.array(sorted(by_hash | by_code), dtype=np.int64).reshape(-1, 2)
    left, right = pairs.T
    distance = np.sqrt(exact_squares(codes.reshape(len(codes), -1), left, right)) / unit if len(pairs) else []
    bits = np.bitwise_count(hashes[left] ^ hashes[right]).astype(float)
    how = {(True, True): "hash and codes", (True, False): "hash", (False, True): "codes"}
    table = pd.DataFrame(
        {
            "image_id": image_ids[left],
            "other_image_id": image_ids[right],
            "split": splits[left],
            "other_split": splits[right],
            "across_splits": splits[left] != splits[right],
            "found_by": [how[pair in by_hash, pair in by_code] for pair in map(tuple, pairs.tolist())],
            "hash_bits": np.where(known[left] & known[right], bits, np.nan),
            "code_distance": distance,
            "family": families(left, right, len(image_ids))[left] if len(pairs) else np.empty(0, np.int64),
        },
        columns=COLUMNS,
    )
    return table.sort_values(
        ["across_splits", "code_distance", "image_id", "other_image_id"],
        ascending=[False, True, True, True],
        ignore_index=True,
    )


def families(first: NDArray, second: NDArray, count: int) -> NDArray[np.int64]:
    """Number what hangs together through pairs: (count,) whole numbers, from 1 for families, 0 for images in no pair."""
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    paired = np.zeros(count, dtype=bool)
    paired[first] = paired[second] = True
    numbers = np.zeros(count, dtype=np.int64)
    numbers[paired] = np.unique(labels[paired], return_inverse=True)[1] + 1
    return numbers


def keep_together(splits: NDArray, family: NDArray[np.int64]) -> NDArray:
    """Put every family on one side: where any member is a test image all are, else where any validates all do.

    So nothing that any stage tests on, by ``splits.csv``, is trained on, and no near-duplicate of it is.

    Args:
        splits: (n,) ``train``, ``val`` or ``test``.
        family: (n,) family numbers, 0 for images without.

    Returns:
        (n,) splits.
    """
    together = splits.copy()
    for side in ("val", "test"):  # test last: it has the last word
        together[np.isin(family, family[(splits == side) & (family > 0)])] = side
    return together


def find_near_duplicates(run: Run, args: Namespace, data: PredictionData) -> pd.DataFrame:
    """Find near-duplicates among one model's images, write ``near_duplicates_<model>.csv``, say what was found.

    Args:
        run: The run.
        args: With ``output_path, workers, on_error, overwrite``.
        data: The images, their codes and splits.

    Returns:
        The table's rows.
    """
    images = data.images
    pictures = images.loc[images["path"] != "", ["image_id", "path"]]
    hashed = pd.DataFrame({"image_id": [], "hash": []}, dtype=str)
    if len(pictures):  # codes of another's file may come without
        hashed, _ = hash_images(pictures, args.output_path, args.workers, args.on_error, args.overwrite)
    found = images["image_id"].map(dict(zip(hashed["image_id"], hashed["hash"], strict=True)))
    known = (found.fillna("") != "").to_numpy()
    hashes = np.array([int(text or "0", 16) for text in found.fillna("")], dtype=np.uint64)
    codes = data.latents[images["position"].to_numpy()] if len(images) < len(data.latents) else data.latents
    table = near_duplicate_table(
        images["image_id"].to_numpy(object), images["split"].to_numpy(object), hashes, known, codes
    )
    run.write_table(table, "near_duplicates", data.stem)
    across = table[table["across_splits"]]
    if len(across):
        first = across.iloc[0]
        log.warning(
            "%d pairs of near-duplicates stand in different splits, e.g. %s (%s) and %s (%s): scores of the test split look "
            "better than they are. They are in near_duplicates_%s.csv; --group-near-duplicates keeps them on one side.",
            len(across), first["image_id"], first["split"], first["other_image_id"], first["other_split"], data.stem,
        )  # fmt: skip
    else:
        log.info("%d pairs of near-duplicates, none across splits.", len(table))
    return table


def group_near_duplicates(data: PredictionData, table: pd.DataFrame) -> PredictionData:
    """Keep every family of near-duplicates on one side, in the split and in all further ones.

    Args:
        data: The images and their splits.
        table: Their near-duplicates.

    Returns:
        The same with `keep_together` applied, and families as groups, joined with those there were.
    """
    images = data.images
    place = pd.Series(np.arange(len(images)), index=images["image_id"])
    first, second = (place.loc[table[name]].to_numpy() for name in ("image_id", "other_image_id"))
    family = families(first, second, len(images))
    splits = keep_together(images["split"].to_numpy(object), family)
    moved = int((splits != images["split"].to_numpy(object)).sum())
    log.info("%d images moved to the side of a near-duplicate.", moved)
    labels = images["group"].astype(str).to_numpy()
    order = np.argsort(labels, kind="stable")
    same = np.flatnonzero((labels[order][1:] == labels[order][:-1]) & (labels[order][1:] != ""))
    linked = families(np.append(first, order[same]), np.append(second, order[same + 1]), len(images))
    groups = np.where(linked > 0, np.char.add("family ", linked.astype(str)), "")
    images = images.assign(split=splits, group=groups)
    split = split_positions(images["split"], images["position"].to_numpy(), seed=data.split.seed)
    split_by = None if data.split_by == "image" else data.split_by
    return replace(data, images=images, split=split, split_by=split_by)
