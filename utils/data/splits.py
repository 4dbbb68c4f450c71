"""Train, validation and test: made once, reused by every stage."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.locks import one_at_a_time
from utils.core.log import log
from utils.core.names import SAMPLE_CAVEAT, TEST, TRAIN, VALIDATION
from utils.core.processes import barrier, is_main_rank
from utils.core.tables import output_file, read_table, write_table
from utils.data.dataset import Dataset
from utils.data.split_record import SplitRecord, assignment_of, basis_of, source_of

SPLIT_BLOCK = (TRAIN,) * 6 + (VALIDATION,) + (TEST,) * 3
SHARES = {TRAIN: 0.6, VALIDATION: 0.1, TEST: 0.3}
LARGE_SHARE = 0.005  # a unit above this share of the images is dealt before the others, wherever it fits


def make_splits(table: pd.DataFrame, seed: int, split_by: str | None = None) -> pd.Series:
    """Assign each image to train (60 %), val (10 %) or test (30 %), stratified.

    Within category, subcategory and above or below the median score, images are shuffled and laid end to end;
    every ten in a row get six train, one val and three test in random order. So the shares are exact overall
    (up to the last ten) and even within every stratum. Rows that come with a split keep it.

    Where images belong together, whole units are dealt instead (see `split_units`), by `_deal`.

    Args:
        table: With ``category, subcategory, memorability, split``, and ``group, source`` where known, sorted by
            ``image_id``.
        seed: Seed of the shuffles.
        split_by: What stays together, of `utils.core.names.SPLIT_BY`; None for groups where there are any.

    Returns:
        ``train``, ``val`` or ``test`` per row.

    Raises:
        UserError: The column split is half filled or divides what ``split_by`` was to keep together; there is
            nothing to split by, or too little.
    """
    given = table["split"].astype(str)
    units = split_units(table, split_by)
    if (given != "").all():
        _check_given(given, units, split_by)
        return given
    if (given != "").any():
        raise UserError(
            "The column split is filled for some images and empty for others. Fill it for all, or leave it out."
        )
    if units is not None:
        return _deal(table, units, split_by or "group", seed)
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


def split_units(table: pd.DataFrame, split_by: str | None) -> pd.Series | None:
    """Say which images must stay on one side of a split.

    Images of one group always do, unless ``split_by`` is ``image``; with ``subcategory`` or ``source`` so do the
    images of one of those, and whatever a group ties to them.

    Args:
        table: With ``category, subcategory``, and ``group, source`` where known.
        split_by: See `make_splits`.

    Returns:
        A whole number per row, equal for images that belong together; None where every image is on its own.

    Raises:
        UserError: The table says nothing of what is to be kept together.
    """
    group = table["group"].astype(str) if "group" in table.columns else pd.Series("", index=table.index)
    if split_by == "image" or (split_by is None and (group == "").all()):
        return None
    labels = [group]
    if split_by in {"subcategory", "source"}:
        label = table[split_by].astype(str) if split_by in table.columns else group.mask(group != "", "")
        if split_by == "subcategory":  # two categories may have subcategories of one name
            label = label.where(label == "", table["category"].astype(str) + "/" + label)
        labels.append(label)
    if (labels[-1] == "").all():
        remedy = " Name the column that holds it with --group-column." if split_by == "group" else ""
        raise UserError(
            f"--split-by {split_by} needs a {split_by} for the images, and the score table has none.{remedy}"
        )
    return _connected(labels)


def _connected(labels: list[pd.Series]) -> pd.Series:
    """Number the sets of rows that share a label (empty ones apart), directly or by way of other rows."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(labels[0]))
    edges, nodes = [], len(rows)
    for label in labels:
        codes, names = pd.factorize(label.where(label != ""))
        edges.append(np.stack([rows[codes >= 0], codes[codes >= 0] + nodes]))
        nodes += len(names)
    start, end = np.concatenate(edges, axis=1)
    _, component = connected_components(coo_matrix((np.ones(len(start)), (start, end)), shape=(nodes, nodes)))
    return pd.Series(component[: len(rows)], index=labels[0].index)


def _deal(table: pd.DataFrame, units: pd.Series, what: str, seed: int) -> pd.Series:
    """Assign whole units to the splits, their shares of the images as near 60/10/30 % as the units allow.

    Large units come first, by size, each into a split drawn among those where it fits, in proportion to the room
    left. The others follow in the order of their strata (size, then the category and subcategory of a unit's first image
    and whether its mean score is above the median), shuffled within; each goes where the share of the images laid out so
    far lags most. By size first, since large units would otherwise all go to the split that lags most at once: training.
    """
    rng = np.random.default_rng(seed)
    about = table.groupby(units.to_numpy()).agg(
        category=("category", "first"), subcategory=("subcategory", "first"), score=("memorability", "mean")
    )
    about["size"] = units.value_counts()
    if len(about) < len(SHARES):
        raise UserError(
            f"Expected at least {len(SHARES)} sets of images that belong together, to be divided among train, val and test "
            f"by {what}; found {len(about)}. Split by something else with --split-by, or fill a column split."
        )
    about["above"] = about["score"] > table["memorability"].median()
    about["draw"] = rng.permutation(len(about))
    large = about["size"] > max(1, LARGE_SHARE * len(table))
    room = {name: share * len(table) for name, share in SHARES.items()}
    chosen: dict[int, str] = {}
    for unit, size in about[large].sort_values(["size", "draw"], ascending=[False, True])["size"].items():
        fitting = [name for name in room if room[name] >= size]
        weights = np.array([room[name] for name in fitting])
        drawn = rng.choice(fitting, p=weights / weights.sum()) if fitting else max(room, key=room.__getitem__)
        chosen[unit] = str(drawn)
        room[chosen[unit]] -= size
    left = {name: max(space, 0.0) for name, space in room.items()}
    total, laid, taken = sum(left.values()) or 1.0, 0, dict.fromkeys(SHARES, 0)
    strata = ["size", "category", "subcategory", "above", "draw"]
    for unit, size in about[~large].sort_values(strata)["size"].items():
        laid += size
        chosen[unit] = max(SHARES, key=lambda name: left[name] / total * laid - taken[name])
        taken[chosen[unit]] += size
    _fill_empty(chosen, about["size"])
    return units.map(chosen).rename("split")


def _fill_empty(chosen: dict[int, str], sizes: pd.Series) -> None:
    """Give a split without images the smallest unit of the split with most units."""
    for name in SHARES:
        if name not in chosen.values():
            counts = pd.Series(chosen).value_counts()
            units = [unit for unit, split in chosen.items() if split == counts.index[0]]
            chosen[min(units, key=lambda unit: sizes[unit])] = name


def _divided(splits: pd.Series, units: pd.Series | None) -> pd.Series:
    """Return the units that stand in more than one split."""
    if units is None:
        return pd.Series(dtype=int)
    counts = splits.groupby(units.to_numpy()).nunique()
    return counts[counts > 1]


def _check_given(given: pd.Series, units: pd.Series | None, split_by: str | None) -> None:
    """Look for images that belong together in a user's own split: an error if that was asked for, else a warning.

    Raises:
        UserError: ``--split-by`` was given and the table's own split does not keep to it.
    """
    divided = _divided(given, units)
    if divided.empty:
        return
    mixed = (
        f"{len(divided)} sets of images that belong together stand in more than one split of the column split"
    )
    if split_by is not None:
        raise UserError(
            f"{mixed}, and --split-by {split_by} asks to keep them together. Correct the column split, or leave it or "
            "--split-by out."
        )
    log.warning("%s: scores of the test split will look better than they are.", mixed)


def load_splits(dataset: Dataset, output_path: Path, seed: int) -> pd.DataFrame:
    """Read ``splits.csv``, or write it at first need; every stage uses the same one.

    It holds what the score table holds now: where that has changed, or images came or went, the file is brought to what a
    new run would write (see `utils.data.split_record`).

    Args:
        dataset: The data set; its full table is split, so ``--limit`` never moves an image to another split.
        output_path: The output folder.
        seed: Seed of the split; only used when the file is made for the first time.

    Returns:
        ``image_id, category, subcategory, memorability, split`` of the images in ``dataset.table``.

    Raises:
        UserError: If ``splits.csv`` is of another data set, or divides images that belong together.
    """
    path = output_file(output_path, "splits")
    full = dataset.full_table
    ensure_splits(dataset, output_path, seed)
    splits = read_table(path, "splits")
    unknown = set(dataset.table["image_id"]) - set(splits["image_id"])
    if unknown:
        raise UserError(
            f"{path} was made for other images: it does not know {len(unknown)} of {len(dataset.table)}, "
            f"e.g. {min(unknown)}. "
            "Use another --output-path for another data set, or delete splits.csv to split anew."
        )
    if (full["split"] == "").any():
        _check_kept(
            full.merge(splits[["image_id", "split"]], on="image_id", suffixes=("_own", "")), dataset, path
        )
    kept = dataset.table[["image_id", "category", "subcategory", "memorability"]]
    return kept.merge(splits[["image_id", "split"]], on="image_id", validate="one_to_one")


def ensure_splits(dataset: Dataset, output_path: Path, seed: int) -> None:
    """Bring ``splits.csv`` up to date, or write it; so every stage that knows the scores leaves it for those that do not.

    Args:
        dataset: The data set.
        output_path: The output folder.
        seed: Seed of the split; only used when the file is made for the first time.
    """
    if is_main_rank():
        with one_at_a_time(output_path):  # another stage may be at the same table
            _bring_up_to_date(dataset, output_file(output_path, "splits"), seed)
    barrier()  # under torchrun the other ranks wait for the file


def _bring_up_to_date(dataset: Dataset, path: Path, seed: int) -> None:
    """Write ``splits.csv`` where there is none, and write it anew where what it was made from has changed since.

    What another score table or column says of the same images is no change: several may share one split.
    """
    made = SplitRecord.read(path.parent)
    if not path.exists():
        _write_splits(dataset, path, seed)
        return
    if made is None or made.source != source_of(dataset):
        return
    changed = made.basis != basis_of(dataset)
    try:
        old = read_table(path, "splits")
    except UserError as error:
        log.warning("%s It is split anew.", error)
        _write_splits(dataset, path, made.seed)
        return
    if made.assignment != assignment_of(old):
        if changed:
            _refresh_scores(dataset, path, old)
    elif changed:
        log.warning("%s: the score table or the images have changed since; it is split anew.", path)
        _write_splits(dataset, path, made.seed)


def _refresh_scores(dataset: Dataset, path: Path, old: pd.DataFrame) -> None:
    """Take the scores from the score table into a ``splits.csv`` that somebody edited; who is where stays."""
    own = old.set_index("image_id")
    now = dataset.full_table.set_index("image_id")["memorability"].reindex(own.index)
    fresh = now.fillna(own["memorability"])
    if not np.allclose(fresh, own["memorability"], rtol=1e-8, atol=0):
        log.info(
            "%s: %s", path, "its scores are those of the score table now, its splits as they were edited."
        )
        write_table(own.assign(memorability=fresh).reset_index(), path, "splits")


def _write_splits(dataset: Dataset, path: Path, seed: int) -> None:
    """Split the data set and write ``splits.csv``."""
    full = dataset.full_table
    columns = ["image_id", "category", "subcategory", "memorability", "split"]
    if (full["group"] != "").any():
        columns.append("group")
        if dataset.split_by == "image":
            log.warning(
                "--split-by image divides groups of images that belong together: scores of the test split will look better "
                "than they are."
            )
    splits = full.assign(split=make_splits(full, seed, dataset.split_by))[columns]
    write_table(splits, path, "splits", caveat=SAMPLE_CAVEAT if dataset.is_sample else "")
    SplitRecord(source_of(dataset), basis_of(dataset), assignment_of(splits), seed).write(path.parent)
    counts = ", ".join(f"{count} {name}" for name, count in splits["split"].value_counts().items())
    log.info("Wrote %s (%s)", path, counts)


def _check_kept(joined: pd.DataFrame, dataset: Dataset, path: Path) -> None:
    """Refuse a ``splits.csv`` that divides what belongs together.

    Raises:
        UserError: It was made before the groups were known, or by another ``--split-by``.
    """
    units = split_units(joined, dataset.split_by)
    divided = _divided(joined["split"], units)
    if units is not None and len(divided):
        example = joined.loc[(units == divided.index[0]).to_numpy(), ["image_id", "split"]]
        shown = example.drop_duplicates("split").head(2)
        named = " and ".join(f"{row.image_id} ({row.split})" for row in shown.itertuples())
        raise UserError(
            f"{path} divides {len(divided)} sets of images that belong together by {dataset.split_by or 'group'}, e.g. "
            f"{named}: it was split otherwise. Delete splits.csv to split anew, or use another --output-path."
        )
