"""Images and their memorability scores: finding them, reading them, splitting them, and the one preprocessing.

MemCat (Goetschalckx & Wagemans 2019, PeerJ 7:e8169) in each layout people unpack it to, any CSV with
``path,score``, LaMem split files, plain folders of pictures, and the embedded sample.
"""

import glob
import os
import struct
import warnings
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from utils.cli import DEFAULT_SCORE_COLUMN, UserError, log
from utils.runs import SAMPLE_CAVEAT, barrier, is_main_rank
from utils.shards import ImageError
from utils.tables import output_file, read_csv, read_table, to_numbers, write_table

TABLE_NAME = "memcat_image_data.csv"
TABLE_FOLDERS = ("", "MemCat_data", "data")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jfif"}
)
COUNT_COLUMNS = {
    "H": "hits",
    "FA": "false_alarms",
    "hits": "hits",
    "false_alarms": "false_alarms",
    "n_resp": "n_resp",
}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
SPLIT_BLOCK = ("train",) * 6 + ("val",) + ("test",) * 3
MAX_PIXELS = 500_000_000
DATASET_COLUMNS = [
    "image_id",
    "path",
    "category",
    "subcategory",
    "memorability",
    "hits",
    "false_alarms",
    "n_resp",
    "split",
]
HOW_TO_GET_MEMCAT = (
    "MemCat comes from https://gestaltrevision.be/projects/memcat (images and data archives): unpack both in one folder "
    "and name it with --data-dir. To try the study without it, add --sample."
)


@dataclass
class Dataset:
    """A set of images with memorability scores.

    Attributes:
        name: ``MemCat``, ``sample`` or the table's file name.
        root: The image root; ``image_id`` is relative to it.
        table: One row per usable image, sorted by ``image_id``: ``image_id, path, category, subcategory,
            memorability, hits, false_alarms, n_resp, split`` (NaN or empty text where the source has none).
            After ``--limit``.
        full_table: The same before ``--limit``.
        score_column: The column the scores came from.
        scores_csv: The table's file.
        skipped: (image_id or path, reason) of what was left out.
        is_sample: Whether this is the embedded sample with its planted scores.
    """

    name: str
    root: Path
    table: pd.DataFrame
    full_table: pd.DataFrame
    score_column: str
    scores_csv: Path
    skipped: list[tuple[str, str]] = field(default_factory=list)
    is_sample: bool = False

    @property
    def has_counts(self) -> bool:
        """Whether every image has hits, false alarms and responses, so that a noise ceiling can be had."""
        return bool(self.full_table[["hits", "false_alarms", "n_resp"]].notna().all(axis=None))


# ------------------------------------------------------------------------------------------------ preprocessing


def read_rgb(path: Path | str) -> Image.Image:
    """Read any picture file as 8-bit RGB, upright.

    The EXIF orientation is applied: a photograph is scored as a person sees it. Greyscale, CMYK and palette
    pictures are converted, 16-bit and float greyscale is scaled to 8 bits rather than clipped, transparency is
    laid over white, and of an animation the first frame is taken.

    Args:
        path: The file.

    Returns:
        The picture, mode RGB.

    Raises:
        ImageError: If the file is missing, empty, truncated, not a picture, or above 500 megapixels.
    """
    try:
        if os.path.getsize(path) == 0:
            raise ImageError(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(path, f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
                image.load()
                return _to_rgb(_upright(image))
    except FileNotFoundError:
        raise ImageError(path, "the file does not exist") from None
    except Image.DecompressionBombError:
        raise ImageError(path, f"it has more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise ImageError(path, "not a picture, or of an unknown format") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, struct.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"cannot be read ({reason.removesuffix('.')})") from None


# Pillow's own limit would refuse panoramas and scans that fit in memory; read_rgb has a higher one of its own.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes all metadata anew, and an odd entry among them stops it.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit pictures use 0..65535; a float picture is stretched between 0 and its own maximum if above 1.
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        grey = np.clip(values / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def crop_box(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """Return which part of a picture the networks see, in its own pixels: (left, top, right, bottom).

    The box that "resize the short side to ``size``, then crop the central ``size`` x ``size``" keeps. Rounding
    follows torchvision's ``Resize`` and ``CenterCrop``.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        size: Side of the square.
    """
    short = min(width, height)
    new_width, new_height = int(size * width / short), int(size * height / short)
    left, top = round((new_width - size) / 2.0), round((new_height - size) / 2.0)
    across, down = width / new_width, height / new_height
    return left * across, top * down, min((left + size) * across, width), min((top + size) * down, height)


def preprocess(image: Image.Image, size: int = 224) -> np.ndarray:
    """The one preprocessing: short side to ``size`` (bilinear, antialiased), centre crop, [0, 1].

    Resize and crop happen in one step over :func:`crop_box`, so a picture of any shape costs only its crop.

    Args:
        image: A picture, mode RGB.
        size: Side of the square in pixels.

    Returns:
        (3, size, size), float32, [0, 1], RGB; torchvision's ``Resize(size)``, ``CenterCrop(size)``, ``ToTensor()`` on
        the same PIL image, but for one step of 255 in under 2 % of the values.
    """
    box = crop_box(*image.size, size)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255.0)


def load_pixels(path: Path | str, size: int = 224) -> np.ndarray:
    """Read and preprocess one picture: (3, size, size), float32, [0, 1].

    Raises:
        ImageError: If the picture cannot be used; see :func:`read_rgb`.
    """
    return preprocess(read_rgb(path), size)


# ------------------------------------------------------------------------------------------------ finding


def find_table(data_dir: Path) -> Path:
    """Find the score table under a data folder.

    Raises:
        UserError: If there is none, or more than one outside the usual places.
    """
    if not data_dir.is_dir():
        found = "a file" if data_dir.exists() else "nothing"
        raise UserError(f"Expected a data folder at {data_dir}, found {found}. {HOW_TO_GET_MEMCAT}")
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
    raise UserError(
        f"Expected {TABLE_NAME} under {data_dir} (at the top, in MemCat_data/ or in data/), found none. {HOW_TO_GET_MEMCAT}"
    )


def find_image_root(data_dir: Path, relative: Sequence[str]) -> Path | None:
    """Find the folder under which most of the named files stand, looking up to four folders deep.

    Args:
        data_dir: Where to look.
        relative: Paths relative to the image root, as the table has them.

    Returns:
        The folder, or None if not one of (a sample of) the files exists anywhere.
    """
    step = max(len(relative) // 200, 1)
    probe = relative[::step]
    tops = {name.split("/", 1)[0] for name in probe if "/" in name}
    best, best_count = None, 0
    level = [data_dir]
    for _ in range(5):
        for folder in level:
            count = sum((folder / name).is_file() for name in probe)
            if count > best_count:
                best, best_count = folder, count
        if best is not None:
            return best
        level = sorted(
            Path(entry.path)
            for folder in level
            for entry in os.scandir(folder)
            if entry.is_dir() and entry.name not in tops
        )
    return None


# ------------------------------------------------------------------------------------------------ tables


def _read_memcat_like(frame: pd.DataFrame, path: Path) -> pd.Series:
    """Return the image ids of a table in MemCat's form or with a path column."""
    if "path" in frame.columns:
        return frame["path"].str.strip().str.replace("\\", "/", regex=False).str.removeprefix("./")
    missing = [name for name in ("image_file", "category", "subcategory") if name not in frame.columns]
    if missing:
        raise UserError(
            f"{path}: column {', '.join(missing)} is missing. Expected a 'path' column with a score column, or MemCat's "
            f"image_file, category, subcategory; found: {', '.join(frame.columns)}."
        )
    return frame["category"] + "/" + frame["subcategory"] + "/" + frame["image_file"]


def _score_name(frame: pd.DataFrame, wanted: str, path: Path) -> str:
    if wanted in frame.columns:
        return wanted
    if wanted == DEFAULT_SCORE_COLUMN and "score" in frame.columns:
        return "score"
    numeric = [name for name in frame.columns if pd.to_numeric(frame[name], errors="coerce").notna().all()]
    raise UserError(
        f"{path}: there is no score column '{wanted}'. Choose one with --score-column; columns that hold numbers: "
        f"{', '.join(numeric) or 'none'}."
    )


def _check_scores(scores: pd.Series, path: Path) -> None:
    outside = np.flatnonzero((scores < -1) | (scores > 1))
    if len(outside):
        shown = ", ".join(f"line {row + 2}: {scores.iloc[row]:g}" for row in outside[:3])
        raise UserError(
            f"{path}: memorability scores must lie in [-1, 1], column {scores.name} holds {shown}"
            f"{f' and {len(outside) - 3} more' if len(outside) > 3 else ''}. Choose another with --score-column, or rescale."
        )


def _check_counts(table: pd.DataFrame, path: Path) -> None:
    known = table[["hits", "false_alarms", "n_resp"]].dropna()
    wrong = (
        (known < 0).any(axis=1)
        | (known.round() != known).any(axis=1)
        | (known["hits"] > known["n_resp"])
        | (known["false_alarms"] > known["n_resp"])
    )
    if wrong.any():
        row = known.index[wrong][0]
        raise UserError(
            f"{path}: hits and false alarms must be whole numbers between 0 and n_resp; line {row + 2} has "
            f"{', '.join(f'{name} {known.at[row, name]:g}' for name in known.columns)}. Correct the file."
        )


def read_scores(path: Path, score_column: str = DEFAULT_SCORE_COLUMN) -> tuple[pd.DataFrame, str]:
    """Read a score table of any known form, by header and never by position.

    Args:
        path: MemCat's table, a CSV with ``path`` and a score column (optionally ``category, subcategory, split,
            hits, false_alarms, n_resp``), a LaMem split file, or LaMem's folder of split files.
        score_column: The column with the scores; ``score`` is taken if the default one is absent.

    Returns:
        The table (``image_id, category, subcategory, memorability, hits, false_alarms, n_resp, split``, in the
        file's order) and the name of the score column used.

    Raises:
        UserError: If columns are missing, scores are not numbers in [-1, 1], or counts do not add up.
    """
    if path.is_dir() or path.suffix == ".txt":
        return _read_lamem(path), "score"
    text = ["path", "image_file", "category", "subcategory", "split"]
    frame = read_csv(path, text_columns=text)
    name = _score_name(frame, score_column, path)
    table = pd.DataFrame({"image_id": _read_memcat_like(frame, path)})
    for column in ("category", "subcategory", "split"):
        table[column] = frame[column] if column in frame.columns else ""
    table["memorability"] = to_numbers(frame[name], path)
    _check_scores(table["memorability"].rename(name), path)
    table[["hits", "false_alarms", "n_resp"]] = np.nan
    for source, target in COUNT_COLUMNS.items():
        if source in frame.columns:
            table[target] = to_numbers(frame[source], path, allow_empty=True)
    _check_counts(table, path)
    unknown = sorted(set(table["split"].str.lower()) - SPLIT_NAMES.keys() - {""})
    if unknown:
        raise UserError(
            f"{path}: column split holds '{unknown[0]}'; expected train, val or test (or an empty cell)."
        )
    table["split"] = table["split"].str.lower().map(SPLIT_NAMES).fillna("")
    return table, name


def _read_lamem(path: Path) -> pd.DataFrame:
    """Read LaMem's ``name score`` lines: one file, or train_1, val_1 and test_1 of its splits folder."""
    files = [path] if path.is_file() else [path / f"{split}_1.txt" for split in ("train", "val", "test")]
    parts = []
    for file in files:
        if not file.is_file():
            raise UserError(f"The LaMem split file {file} does not exist. Name one with --scores-csv.")
        part = read_csv(file, sep=r"\s+", header=None, names=["image_id", "score"], text_columns=["image_id"])
        if isinstance(part.index, pd.MultiIndex) or not isinstance(part.index, pd.RangeIndex):
            raise UserError(f"{file}: expected two words per line, 'name score'. Check the file.")
        scores = to_numbers(part["score"], file)
        _check_scores(scores, file)
        split = SPLIT_NAMES.get(file.stem.split("_")[0], "")
        parts.append(pd.DataFrame({"image_id": part["image_id"], "memorability": scores, "split": split}))
    table = pd.concat(parts, ignore_index=True)
    table[["category", "subcategory"]] = ""
    table[["hits", "false_alarms", "n_resp"]] = np.nan
    return table


# ------------------------------------------------------------------------------------------------ the data set


def list_images(paths: Iterable[Path | str]) -> list[Path]:
    """List picture files from files, folders (recursive) and glob patterns, sorted, each once.

    Files named outright are kept whatever their suffix; in folders and patterns only known picture suffixes count.

    Raises:
        UserError: If a path does not exist, or a folder or pattern holds no picture.
    """
    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = [
                file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
            ]
        else:
            files = [Path(name) for name in glob.glob(str(given), recursive=True)]
            files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
            if not files and not glob.has_magic(str(given)):
                raise UserError(
                    f"{given} does not exist. Expected a picture, a folder or a pattern such as 'photos/*.jpg'."
                )
        if not files:
            raise UserError(
                f"There is no picture in {given} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})."
            )
        found.update({str(file): file for file in files})
    return [found[name] for name in sorted(found)]


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
        if len(rows.drop_duplicates()) == 1:
            keep[rows.index[0]] = True
            skipped.append((str(image_id), f"listed {len(rows)} times with equal values, used once"))
        else:
            skipped.append((str(image_id), f"listed {len(rows)} times with different values, not used"))
    return table[keep], skipped


def _unlisted(root: Path, ids: set[str], is_tree: bool) -> list[tuple[str, str]]:
    """Name the pictures on disk that the table does not know (only within category folders, where there are any)."""
    tops = sorted({name.split("/", 1)[0] for name in ids if "/" in name}) if is_tree else []
    found = []
    for folder in [root / top for top in tops]:
        for current, folders, files in os.walk(folder):
            folders.sort()
            for file in files:
                image_id = (Path(current) / file).relative_to(root).as_posix()
                if Path(file).suffix.lower() in IMAGE_SUFFIXES and image_id not in ids:
                    found.append((image_id, "on disk but not in the table"))
    return found


def limit_rows(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """Keep ``limit`` rows, evenly spaced, so that a small subset still spans the categories."""
    if limit is None or limit >= len(table):
        return table
    return table.iloc[np.arange(limit) * len(table) // limit].reset_index(drop=True)


def _image_root(table: pd.DataFrame, data_dir: Path, scores_csv: Path) -> Path:
    ids = table["image_id"].tolist()
    if not ids:
        raise UserError(
            f"{scores_csv}: every image stands there more than once with different values, so none can be used. "
            "Correct the file."
        )
    if all(os.path.isabs(name) for name in ids):
        return Path(os.path.commonpath([os.path.dirname(name) for name in ids]))
    for place in dict.fromkeys((data_dir, scores_csv.parent)):
        root = find_image_root(place, ids) if place.is_dir() else None
        if root is not None:
            return root
    raise UserError(
        f"None of the {len(ids)} images named in {scores_csv} was found under {data_dir}: expected e.g. {ids[0]}. "
        f"Name the folder with the images with --data-dir. {HOW_TO_GET_MEMCAT}"
    )


def load_dataset(args: Namespace) -> Dataset:
    """Find the score table and the images, join them, and check both.

    Args:
        args: With ``data_dir, scores_csv, score_column, sample, limit, on_error, output_path, seed`` (see
            :mod:`utils.cli`).

    Returns:
        The data set; images in the table but not on disk, on disk but not in the table, and duplicates are in
        ``skipped``.

    Raises:
        UserError: If nothing is found, the table is wrong, or an image is missing with ``--on-error fail``.
    """
    data_dir, scores_csv = args.data_dir, args.scores_csv
    if args.sample:
        from utils.sample import build_sample

        if is_main_rank():
            build_sample(args.output_path / "sample")
        barrier()
        data_dir, scores_csv = build_sample(args.output_path / "sample"), None
        log.warning("SAMPLE DATA: the embedded photographs with planted scores stand in for --data-dir.")
    scores_csv = scores_csv or find_table(data_dir)
    if not scores_csv.exists():
        raise UserError(
            f"The score table {scores_csv} does not exist. Check --scores-csv. {HOW_TO_GET_MEMCAT}"
        )
    table, score_column = read_scores(scores_csv, args.score_column)
    if table.empty:
        raise UserError(f"{scores_csv} names no image. Expected a row per image below the header.")
    table, skipped = _repeated(table)
    root = _image_root(table, data_dir, scores_csv)
    table, missing = _locate(table, root)
    skipped += missing + _unlisted(root, set(table["image_id"]), "image_file" in _header(scores_csv))
    if skipped and args.on_error == "fail":
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise UserError(
            f"{len(skipped)} images do not fit together with {scores_csv} ({shown}). Leave them out with --on-error skip."
        )
    table = table.sort_values("image_id").reset_index(drop=True)[DATASET_COLUMNS]
    limited = limit_rows(table, args.limit)
    name = "sample" if args.sample else "MemCat" if scores_csv.name == TABLE_NAME else scores_csv.name
    log.info(
        "%s: %d images in %s, scores: column %s of %s", name, len(limited), root, score_column, scores_csv
    )
    return Dataset(name, root, limited, table, score_column, scores_csv, skipped, args.sample)


def _header(scores_csv: Path) -> list[str]:
    if scores_csv.is_dir() or scores_csv.suffix == ".txt":
        return []
    return list(read_csv(scores_csv, nrows=0).columns)


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


# ------------------------------------------------------------------------------------------------ splits


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
