"""Images and their memorability scores: finding them and joining them with their table.

MemCat (Goetschalckx & Wagemans 2019, PeerJ 7:e8169) in each layout people unpack it to, LNSIM as published, any CSV
with ``path,score``, LaMem split files, plain folders of pictures, and the embedded sample.
"""

import os
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import DEFAULT_DATA_DIR, IMAGE_SUFFIXES
from utils.core.processes import barrier, is_main_rank
from utils.core.tables import output_file, read_csv, to_numbers
from utils.data.folders import as_utf8, walk
from utils.data.inside import one_spelling, refuse_outside
from utils.data.lnsim import explain_missing_pictures, find_lnsim, holds_lnsim_scores
from utils.data.matching import find_image_root, locate_images, pictures_below
from utils.data.scores import half_names, read_scores, score_files
from utils.data.user_tables import TABLE_SUFFIXES, read_user_table, score_column

if TYPE_CHECKING:
    from utils.core.run import Run

TABLE_NAME = "memcat_image_data.csv"
TABLE_FOLDERS = ("", "MemCat_data", "data")
DATASET_COLUMNS = [
    "image_id",
    "path",
    "category",
    "subcategory",
    "group",
    "source",
    "memorability",
    "pixel_count",
    "hits",
    "false_alarms",
    "n_resp",
    "split",
]

HOW_TO_GET_MEMCAT = (
    "MemCat comes from https://gestaltrevision.be/projects/memcat (images and data archives): unpack both in one folder "
    "and name it with --data-dir. To try the study without it, add --sample."
)


WITHOUT_SCORES = (
    "Name their table with --scores-csv. Without scores run: autoencoder_finetune.py, autoencoder_test.py, "
    "latent_analysis.py, feature_analysis.py --calculate-features, and mlp_predict.py --predict FOLDER."
)


@dataclass
class Dataset:
    """A set of images with memorability scores.

    Attributes:
        name: ``MemCat``, ``LNSIM``, ``sample`` or the table's file name.
        root: The image root; ``image_id`` is relative to it.
        table: One row per usable image, sorted by ``image_id``: ``image_id, path, category, subcategory, group, source,
            memorability, hits, false_alarms, n_resp, split`` (NaN or empty text where the table has none; images of one
            ``group`` belong together), and the split halves of the scores where those were published. After ``--limit``.
        full_table: The same before ``--limit``.
        score_column: The column the scores came from.
        scores_csv: The table's file, or the folder of its files.
        skipped: (image_id or path, reason) of what was left out.
        is_sample: Whether this is the embedded sample with its planted scores.
        split_by: What stays together when images are split (``--split-by``); None for groups where there are any.
    """

    name: str
    root: Path
    table: pd.DataFrame
    full_table: pd.DataFrame
    score_column: str
    scores_csv: Path
    skipped: list[tuple[str, str]] = field(default_factory=list)
    is_sample: bool = False
    split_by: str | None = None

    @property
    def has_scores(self) -> bool:
        """Whether the images have memorability scores."""
        return bool(self.full_table["memorability"].notna().any())

    def require_scores(self, what: str) -> None:
        """Refuse pictures without scores.

        Args:
            what: What needs them, as the beginning of a sentence.

        Raises:
            UserError: Saying what runs without.
        """
        if not self.has_scores:
            raise _without_scores(what, self.root)

    def note_on(self, run: "Run") -> None:
        """Record on a run what it reads of this data set: the score table, the folders its pictures are or belong in.

        Marks the run's outputs if this is the embedded sample. The folders let the pipeline see that pictures have
        come, gone or changed since.
        """
        self.mark(run)
        for file in score_files(self.scores_csv):
            if file.is_file():
                run.add_input(file)
        there = self.full_table.loc[self.full_table["path"] != "", "path"]
        pictures = [*there, *(self.root / name for name, _ in self.skipped)]
        for folder in {Path(picture).parent for picture in pictures}:
            run.add_picture_folder(folder)

    def mark(self, run: "Run") -> None:
        """Mark a run's outputs if this is the embedded sample."""
        if self.is_sample:
            run.note_sample()


def find_table(data_dir: Path) -> Path:
    """Find the score table under a data folder.

    Raises:
        UserError: If there is none, or more than one outside the usual places.
    """
    table = _table_in(data_dir)
    if table is None:
        raise UserError(
            f"Expected {TABLE_NAME} under {data_dir} (at the top, in MemCat_data/ or in data/), found none. "
            f"{HOW_TO_GET_MEMCAT}"
        )
    return table


def _table_in(data_dir: Path) -> Path | None:
    """Return the score table under a data folder, None where there is none."""
    if not data_dir.is_dir():
        kind = "a file" if data_dir.exists() else "nothing"
        raise UserError(f"Expected a data folder at {data_dir}, found {kind}. {HOW_TO_GET_MEMCAT}")
    for folder in TABLE_FOLDERS:
        if (data_dir / folder / TABLE_NAME).is_file():
            return data_dir / folder / TABLE_NAME
    deeper = sorted(
        path for depth in (2, 3) for path in data_dir.glob("/".join(["*"] * depth) + f"/{TABLE_NAME}")
    )
    if len(deeper) == 1:
        return deeper[0]
    if deeper:
        raise UserError(
            f"Several score tables under {data_dir}: {', '.join(map(str, deeper))}. Choose one with --scores-csv."
        )
    if (data_dir / "splits").is_dir() and list((data_dir / "splits").glob("*_1.txt")):
        return data_dir / "splits"
    lnsim = find_lnsim(data_dir)
    if lnsim is not None:
        return lnsim
    own = _own_tables(data_dir)
    if len(own) == 1:
        return own[0]
    if own:
        raise UserError(
            f"Several tables in {data_dir} could be that of the scores: {', '.join(map(str, own))}. Choose one with "
            "--scores-csv."
        )
    return None


def _own_tables(data_dir: Path) -> list[Path]:
    """Return the tables at the top of a data folder that name pictures and hold scores."""
    found = []
    for path in sorted(data_dir.iterdir()):
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            try:
                table = read_user_table(path)
                score_column(table)
            except UserError:
                continue
            found += [path] if table.column("image") else []
    return found


def find_scores(args: Namespace) -> Path | None:
    """Return the score table that the flags name or the data folder holds; None for a folder of pictures alone.

    Only a folder that was named with ``--data-dir`` may be without scores: where the default one has none, something is
    missing.

    Raises:
        UserError: There is no table and no picture either, or several tables.
    """
    if args.scores_csv is not None:
        return args.scores_csv
    table = _table_in(args.data_dir)
    if table is None and (
        args.data_dir == DEFAULT_DATA_DIR or not pictures_below(args.data_dir, args.output_path)
    ):
        return find_table(args.data_dir)
    return table


def require_score_table(args: Namespace, what: str) -> None:
    """Refuse a folder of pictures alone before anything is loaded.

    Args:
        args: The data flags.
        what: What needs scores, as the beginning of a sentence.

    Raises:
        UserError: Saying what runs without.
    """
    if not args.sample and find_scores(args) is None:
        raise _without_scores(what, args.data_dir)


def _without_scores(what: str, place: Path) -> UserError:
    return UserError(f"{what} needs memorability scores, and {place} holds pictures alone. {WITHOUT_SCORES}")


def _pictures_alone(args: Namespace) -> Dataset:
    """Return the data set of a folder of pictures without scores.

    Raises:
        UserError: An earlier run into this output folder had scores: their table is lost, not absent.
    """
    splits = output_file(args.output_path, "splits")
    if (
        splits.is_file()
        and to_numbers(read_csv(splits)["memorability"], splits, allow_empty=True).notna().any()
    ):
        raise UserError(
            f"There is no score table in {args.data_dir} any more, but the study in {args.output_path} was made with one. "
            "Put it back or name it with --scores-csv; for the pictures without scores, choose another --output-path."
        )
    ids = pictures_below(args.data_dir, args.output_path)
    table = pd.DataFrame({"image_id": ids, "path": [str(args.data_dir / name) for name in ids]})
    table = table.reindex(columns=DATASET_COLUMNS)
    texts = ["category", "subcategory", "group", "source", "split"]
    table[texts] = ""
    numbers = [name for name in DATASET_COLUMNS if name not in {"image_id", "path", *texts}]
    table[numbers] = table[numbers].astype("float64")
    limited = limit_rows(table, args.limit)
    log.warning(
        "%s holds %d pictures and no score table: what needs scores is left out. Name a table with --scores-csv.",
        args.data_dir,
        len(limited),
    )
    return Dataset(
        args.data_dir.resolve().name, args.data_dir, limited, table, "", args.data_dir, split_by=args.split_by
    )


def _repeated(table: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Deal with image ids that stand in the table more than once.

    Equal rows are kept once; of rows that disagree none is kept, since nothing says which is right.
    """
    repeated = table["image_id"].duplicated(keep=False)
    if not repeated.any():
        return table, []
    skipped = []
    keep = ~repeated
    for image_id, rows in table[repeated].groupby("image_id"):
        if len(rows.drop(columns="path", errors="ignore").drop_duplicates()) == 1:
            keep[rows.index[0]] = True
            skipped.append((str(image_id), f"listed {len(rows)} times with equal values, used once"))
        else:
            skipped.append((str(image_id), f"listed {len(rows)} times with different values, not used"))
    return table[keep], skipped


def _unlisted(root: Path, ids: set[str], is_tree: bool) -> list[tuple[str, str]]:
    """Name the pictures on disk that the table does not know (only within category folders, where there are any)."""
    tops = sorted({name.split("/", 1)[0] for name in ids if "/" in name}) if is_tree else []
    unlisted = []
    for folder in [root / top for top in tops]:
        for current, folders, files in walk(folder):
            folders.sort()
            for file in files:
                image_id = (Path(current) / file).relative_to(root).as_posix()
                if Path(file).suffix.lower() in IMAGE_SUFFIXES and image_id not in ids:
                    unlisted.append((as_utf8(image_id), "on disk but not in the table"))
    return unlisted


def limit_rows(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Keep ``limit`` rows, evenly spaced, so that a small subset still spans the categories."""
    if limit is None or limit >= len(table):
        return table
    return table.iloc[np.arange(limit) * len(table) // limit].reset_index(drop=True)


def _find_images(table: pd.DataFrame, data_dir: Path, scores_csv: Path) -> tuple[Path, pd.DataFrame]:
    """Return the image root, and the table with every image named as it is found there."""
    ids = table["image_id"].tolist()
    if not ids:
        raise UserError(
            f"{scores_csv}: every image stands there more than once with different values, so none can be used. "
            "Correct the file."
        )
    if all(os.path.isabs(name) for name in ids) and any(map(os.path.isfile, ids)):
        return Path(os.path.commonpath([os.path.dirname(name) for name in ids])), table
    found = locate_images(ids, list(dict.fromkeys((data_dir, scores_csv.parent))), scores_csv)
    if found is not None:
        root, names = found
        return root, table.assign(image_id=names)
    if holds_lnsim_scores(scores_csv):
        raise UserError(explain_missing_pictures(scores_csv.parent))
    if not data_dir.is_dir():
        raise UserError(
            f"There is no folder {data_dir}. Name the one with the images with --data-dir. {HOW_TO_GET_MEMCAT}"
        )
    raise UserError(
        f"None of the {len(ids)} images named in {scores_csv} was found under {data_dir}: expected e.g. {ids[0]}. "
        f"Name the folder with the images with --data-dir. {HOW_TO_GET_MEMCAT}"
    )


def load_dataset(args: Namespace, pictures: bool = True) -> Dataset:
    """Find the score table and the images, join them, and check both.

    Args:
        args: With ``data_dir, scores_csv, score_column, score_scale, group_column, split_by, sample, limit, on_error,
            allow_outside, output_path, seed`` (see :mod:`utils.core.cli`).
        pictures: Whether the pictures are needed. Where they are not (codes from a file), an image without one stays,
            with an empty ``path``.

    Returns:
        The data set; images in the table but not on disk, on disk but not in the table, and duplicates are in
        ``skipped``.

    Raises:
        UserError: If nothing is found, the table is wrong or its paths lead out of the data folder (without
            ``--allow-outside``), or an image is missing with ``--on-error fail``.
    """
    data_dir, scores_csv = args.data_dir, args.scores_csv
    if args.sample:
        from utils.data.sample import build_sample

        if is_main_rank():
            build_sample(args.output_path / "sample")
        barrier()
        data_dir = build_sample(args.output_path / "sample")
        scores_csv = find_table(data_dir)
        log.warning("SAMPLE DATA: the embedded photographs with planted scores stand in for --data-dir.")
    else:
        scores_csv = find_scores(args)
        if scores_csv is None:
            return _pictures_alone(args)
    if not scores_csv.exists():
        raise UserError(
            f"The score table {scores_csv} does not exist. Check --scores-csv. {HOW_TO_GET_MEMCAT}"
        )
    table, column = read_scores(scores_csv, args.score_column, args.group_column, args.score_scale)
    if table.empty:
        raise UserError(f"{scores_csv} names no image. Expected a row per image below the header.")
    table["image_id"] = table["image_id"].map(one_spelling)
    table, skipped = _repeated(table)
    if pictures:
        root, table = _find_images(table, data_dir, scores_csv)
        table, missing = _locate(table, root)
        table, same = _repeated(table)  # by an absolute and by a relative path
        skipped += (
            same + missing + _unlisted(root, set(table["image_id"]), "image_file" in _header(scores_csv))
        )
    else:
        root, table = _with_what_pictures_there_are(table, data_dir)
    if not args.allow_outside:
        refuse_outside(table.loc[table["path"] != "", "path"].tolist(), root, [data_dir], scores_csv)
    if skipped and args.on_error == "fail":
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise UserError(
            f"{len(skipped)} images do not fit together with {scores_csv} ({shown}). Leave them out with --on-error skip."
        )
    table = table.sort_values("image_id").reset_index(drop=True)[[*DATASET_COLUMNS, *half_names(table)]]
    limited = limit_rows(table, args.limit)
    name = "sample" if args.sample else _name(scores_csv)
    where = f"in {root}" if (table["path"] != "").any() else "without pictures"
    log.info("%s: %d images %s, scores: column %s of %s", name, len(limited), where, column, scores_csv)
    return Dataset(name, root, limited, table, column, scores_csv, skipped, args.sample, args.split_by)


def _with_what_pictures_there_are(table: pd.DataFrame, data_dir: Path) -> tuple[Path, pd.DataFrame]:
    """Add each image's path, empty where there is no picture; every image stays."""
    root = find_image_root(data_dir, table["image_id"].tolist()) if data_dir.is_dir() else None
    if root is None:
        return data_dir, table.assign(path="")
    paths = [root / name for name in table["image_id"]]
    return root, table.assign(path=[str(path) if path.is_file() else "" for path in paths])


def _name(scores_csv: Path) -> str:
    if holds_lnsim_scores(scores_csv):
        return "LNSIM"
    return "MemCat" if scores_csv.name == TABLE_NAME else scores_csv.name


def _header(scores_csv: Path) -> list[str]:
    if scores_csv.is_dir() or scores_csv.suffix != ".csv":
        return []
    return list(read_csv(scores_csv, nrows=0, encoding_errors="replace").columns)


def _locate(table: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Add each image's path, make its id relative to the root, and drop those that are not on disk."""
    paths = [root / name for name in table["image_id"]]
    table = table.assign(path=[str(path) for path in paths])
    ids = [
        os.path.relpath(path, root).replace(os.sep, "/")
        if os.path.isabs(name)
        else os.path.normpath(name).replace(os.sep, "/")
        for path, name in zip(paths, table["image_id"], strict=True)
    ]
    table["image_id"] = ids
    exists = np.array([path.is_file() for path in paths])
    missing = [(image_id, "in the table but not on disk") for image_id in table.loc[~exists, "image_id"]]
    return table[exists], missing
