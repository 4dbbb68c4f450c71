"""The embedded sample: a miniature MemCat made from photographs that the dependencies ship.

Read: nine photographs inside the installed scikit-image and scikit-learn packages (nothing is downloaded).
Done: windows of them are cut out, mirrored, reduced and given planted memorability scores.
Written: a folder with MemCat's own layout and MemCat's own table columns (and one more, ``group``: the photograph an image
was cut from, so that its crops stay on one side of every split), and ``sample.json``, which records the recipe, the seed,
and for every image the photograph and the window it came from.

The pictures are real, the scores are not: a stated function of the picture (see `planted_rates`) sets each
image's hit and false-alarm rate, and binomial draws make hits and false alarms of it. No person was asked.
No photograph of sport ships with the dependencies, so the two photographs of people stand in for that
category.

``python -m utils.data.sample PATH`` writes the sample for anybody who wants to look at it.
"""

import argparse
import csv
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.core.cli import run_script
from utils.core.digests import file_digests
from utils.core.errors import UserError
from utils.core.files import file_sha256
from utils.core.log import log

SAMPLE_VERSION = (
    2  # raise it whenever a change of the recipe changes a byte: samples of other versions are rebuilt
)
SAMPLE_SIZE = 40
CATEGORIES = ("animal", "food", "landscape", "sports", "vehicle")
COLUMNS = (
    "",
    "image_file",
    "category",
    "subcategory",
    "current_height",
    "current_width",
    "source",
    "searched_label",
    "resize_factor",
    "H",
    "FA",
    "n_resp",
    "memorability_wo_fa_correction",
    "memorability_w_fa_correction",
    "group",  # not MemCat's: the photograph that an image is a crop of
)
IMAGE_FOLDER = Path("MemCat_images", "MemCat")
TABLE_FILE = Path("MemCat_data", "memcat_image_data.csv")
STAMP_FILE = "sample.json"
MAX_SIDE_PX = 500  # most MemCat images have a long side of 500 to 640 px
JPEG_QUALITY = 95
ASPECTS = (1.0, 4 / 3, 3 / 2, 3 / 4)  # width / height of a window
MAX_OVERLAP = (
    0.55  # intersection over union of two windows of one photograph; loosened only when they run out
)
TRIES_PER_OVERLAP = 40
EDGE_THRESHOLD = 0.06  # grey levels in [0, 1] per pixel
RESPONSES = (85, 115)  # MemCat has 99 responses per image on average


@dataclass(frozen=True)
class Source:
    """One photograph as one subcategory: which file, and how large its windows are.

    Attributes:
        category: MemCat category that the windows are filed under.
        subcategory: Name of the subcategory folder.
        package: Installed package that ships the photograph.
        file: Path of the photograph inside that package.
        scales: Smallest and largest window, as a share of the largest window that fits.
        focus: Point of interest (share of width, share of height) that every window contains.
    """

    category: str
    subcategory: str
    package: str
    file: str
    scales: tuple[float, float]
    focus: tuple[float, float]


SOURCES = (
    Source("animal", "cat", "skimage", "data/chelsea.png", (0.75, 0.98), (0.45, 0.48)),
    Source("animal", "cat_closeup", "skimage", "data/chelsea.png", (0.50, 0.70), (0.38, 0.42)),
    Source("food", "coffee", "skimage", "data/coffee.png", (0.65, 0.98), (0.50, 0.40)),
    Source("food", "coffee_closeup", "skimage", "data/coffee.png", (0.40, 0.60), (0.52, 0.60)),
    Source("landscape", "temple", "sklearn", "datasets/images/china.jpg", (0.45, 0.98), (0.47, 0.60)),
    Source("landscape", "garden", "sklearn", "datasets/images/flower.jpg", (0.45, 0.95), (0.50, 0.45)),
    Source("landscape", "moon", "skimage", "data/moon.png", (0.45, 0.95), (0.55, 0.60)),
    Source("sports", "astronaut", "skimage", "data/astronaut.png", (0.45, 0.98), (0.42, 0.30)),
    Source("sports", "cameraman", "skimage", "data/camera.png", (0.45, 0.98), (0.45, 0.25)),
    Source("vehicle", "motorcycle", "skimage", "data/motorcycle_left.png", (0.45, 0.95), (0.55, 0.60)),
    Source("vehicle", "rocket", "skimage", "data/rocket.jpg", (0.45, 0.98), (0.50, 0.60)),
)


def build_sample(folder: str | Path, seed: int = 0, size: int = SAMPLE_SIZE) -> Path:
    """Build the sample in a folder, or leave it alone where it is already complete.

    The same seed and size give the same bytes in the same environment. The tree is built beside the folder
    and renamed, so that no half-built sample is ever seen; a sample whose stamp names another recipe, seed or
    size, or whose files changed, is built anew.

    Args:
        folder: Where the sample goes; created with its parents.
        seed: Seed of windows, mirroring, responses and noise.
        size: Number of images, shared out evenly over the five categories; at least 10.

    Returns:
        The folder, which now serves as a ``--data-dir``.

    Raises:
        UserError: The folder holds something that is not a sample, cannot be written, the size is below 10,
            or a photograph is missing from an installed package.
    """
    folder = Path(folder)
    if size < 2 * len(CATEGORIES):
        raise UserError(
            f"The sample needs at least {2 * len(CATEGORIES)} images, two per category; "
            f"{size} were asked for."
        )
    if sample_is_complete(folder, seed, size):
        return folder
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"Cannot write the sample to {folder}: {error.strerror}. "
            "Choose another folder (for a stage, with --output-path)."
        ) from error
    try:
        _write_tree(workshop / "new", seed, size)
        _move_into_place(workshop, folder, seed, size)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    log.info("Built the sample: %d images of 5 categories with planted scores, in %s", size, folder)
    return folder


def sample_is_complete(folder: str | Path, seed: int = 0, size: int = SAMPLE_SIZE) -> bool:
    """Say whether a folder holds this very sample, every file of it unchanged.

    Args:
        folder: Folder to look at.
        seed: Seed the sample must have been built from.
        size: Number of images it must have.

    Returns:
        True if the stamp names this recipe, seed and size, and every file has its recorded SHA-256.
    """
    stamp = _read_stamp(Path(folder))
    if (stamp.get("version"), stamp.get("seed"), stamp.get("size")) != (SAMPLE_VERSION, seed, size):
        return False
    digests = file_digests(Path(folder).parent)
    return all(digests.of(Path(folder, name)) == digest for name, digest in stamp.get("files", {}).items())


def planted_rates(detail: np.ndarray, colourfulness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn two properties of the pictures into the rates at which nobody in particular remembers them.

    With both properties z-scored over the sample, an image is remembered with probability
    ``logistic(0.9 + 0.5 detail + 0.3 colourfulness)`` and taken for known when it is new with probability
    ``logistic(-2.2 - 0.2 detail)``. The coefficients are ours; they put scores where MemCat has them
    (about 0.4 to 0.9) and leave binomial noise of about 0.05.

    Args:
        detail: (N,) share of pixels on an edge, [0, 1].
        colourfulness: (N,) Hasler and Suesstrunk's colourfulness, 0 for grey pictures.

    Returns:
        Hit rates and false-alarm rates, each (N,) in (0, 1).
    """
    z_detail, z_colour = _z_scores(detail), _z_scores(colourfulness)
    return _logistic(0.9 + 0.5 * z_detail + 0.3 * z_colour), _logistic(-2.2 - 0.2 * z_detail)


def measure_detail(pixels: np.ndarray) -> float:
    """Share of pixels whose grey-level gradient exceeds a threshold.

    Args:
        pixels: (height, width, 3) float, [0, 1].

    Returns:
        Share in [0, 1]; larger is more detailed.
    """
    down, across = np.gradient(pixels.mean(axis=2))
    return float((np.hypot(down, across) > EDGE_THRESHOLD).mean())


def measure_colourfulness(pixels: np.ndarray) -> float:
    """Colourfulness of a picture (Hasler & Suesstrunk 2003, "Measuring colorfulness in natural images").

    Args:
        pixels: (height, width, 3) RGB float, [0, 1].

    Returns:
        Spread plus 0.3 times the mean of the two opponent channels; 0 for grey, larger is more colourful.
    """
    red, green, blue = np.moveaxis(pixels, 2, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def find_photograph(package: str, file: str) -> Path:
    """Find a photograph inside an installed package without importing the package.

    Args:
        package: Name of the top-level package.
        file: Path inside it, with forward slashes.

    Returns:
        Path of the photograph.

    Raises:
        UserError: The package is not installed, or came without the file.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"The sample is cut from photographs that the package '{package}' ships, but {path or package} "
            "is not there. Install it again from the package index: python -m pip install --force-reinstall "
            f"{'scikit-image' if package == 'skimage' else 'scikit-learn'}"
        )
    return path


def _write_tree(root: Path, seed: int, size: int) -> None:
    """Write images, table and stamp under a folder of our own."""
    rng = np.random.default_rng(seed)
    windows: dict[str, list[tuple[int, int, int, int]]] = {}
    rows, measures = [], []
    for source, number in _plan(size):
        row, measured = _write_crop(root, source, number, windows.setdefault(source.file, []), rng)
        rows.append(row)
        measures.append(measured)
    _plant_scores(rows, np.array(measures), rng)
    _write_table(root / TABLE_FILE, rows)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    stamp = {
        "what": "Sample of crops of real photographs with planted memorability scores; no person was asked.",
        "version": SAMPLE_VERSION,
        "seed": seed,
        "size": size,
        "crops": {row["image_file"]: row["crop"] for row in rows},
        "files": {name: file_sha256(root / name) for name in files},
    }
    (root / STAMP_FILE).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def _plan(size: int) -> list[tuple[Source, int]]:
    """List (source, running number) for every image, categories in turn and their subcategories in turn."""
    counts = [size // len(CATEGORIES) + (index < size % len(CATEGORIES)) for index in range(len(CATEGORIES))]
    plan = []
    for category, count in zip(CATEGORIES, counts, strict=True):
        sources = [source for source in SOURCES if source.category == category]
        plan += [(sources[index % len(sources)], index // len(sources) + 1) for index in range(count)]
    return sorted(plan, key=lambda item: (item[0].category, item[0].subcategory, item[1]))


def _write_crop(
    root: Path, source: Source, number: int, taken: list, rng: np.random.Generator
) -> tuple[dict, tuple[float, float]]:
    """Cut one window, save it as a JPEG, and return its table row (scores still missing) and measures."""
    with Image.open(find_photograph(source.package, source.file), formats=["JPEG", "PNG"]) as opened:
        photograph = opened.convert("RGB")
    window = _choose_window(photograph.size, source, taken, rng)
    mirrored = bool(rng.integers(2))
    crop = photograph.crop(window)
    if mirrored:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factor = min(1.0, MAX_SIDE_PX / max(crop.size))
    if factor < 1:
        crop = crop.resize([round(side * factor) for side in crop.size], Image.Resampling.LANCZOS)
    name = f"{source.subcategory}_{number:03d}.jpg"
    path = root / IMAGE_FOLDER / source.category / source.subcategory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    crop.save(path, quality=JPEG_QUALITY)
    pixels = np.asarray(crop, dtype=np.float64) / 255
    row = {
        "image_file": name,
        "category": source.category,
        "subcategory": source.subcategory,
        "current_height": crop.height,
        "current_width": crop.width,
        "source": source.package,
        "searched_label": source.subcategory,
        "resize_factor": round(factor, 6),
        "group": Path(source.file).stem,
        "crop": {"photograph": source.file, "box_px": list(window), "mirrored": mirrored},
    }
    return row, (measure_detail(pixels), measure_colourfulness(pixels))


def _choose_window(
    photo_size: tuple[int, int], source: Source, taken: list, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a window (left, upper, right, lower) unlike those taken from the photograph, and note it."""
    width, height = photo_size
    focus_x, focus_y = round(width * source.focus[0]), round(height * source.focus[1])
    limit, tries = MAX_OVERLAP, 0
    while True:
        aspect = float(rng.choice(ASPECTS))
        scale = float(rng.uniform(*source.scales))
        window_width = round(scale * min(width, height * aspect))
        window_height = round(scale * min(height, width / aspect))
        left = _draw_start(focus_x, window_width, width, rng)
        upper = _draw_start(focus_y, window_height, height, rng)
        window = (left, upper, left + window_width, upper + window_height)
        if window not in taken and all(_overlap(window, other) <= limit for other in taken):
            taken.append(window)
            return window
        tries += 1
        if tries % TRIES_PER_OVERLAP == 0:
            limit += 0.05


def _draw_start(focus: int, length: int, available: int, rng: np.random.Generator) -> int:
    """Draw where a window starts, so that it lies inside the photograph and contains the focus."""
    return int(rng.integers(max(0, focus - length), min(focus, available - length) + 1))


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Intersection over union of two windows, [0, 1]."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def _plant_scores(rows: list[dict], measures: np.ndarray, rng: np.random.Generator) -> None:
    """Add responses, hits, false alarms and both scores to the rows, from (N, 2) measures."""
    hit_rates, false_alarm_rates = planted_rates(measures[:, 0], measures[:, 1])
    responses = rng.integers(RESPONSES[0], RESPONSES[1] + 1, size=len(rows))
    hits, false_alarms = rng.binomial(responses, hit_rates), rng.binomial(responses, false_alarm_rates)
    for row, hit, false_alarm, count in zip(
        rows, hits.tolist(), false_alarms.tolist(), responses.tolist(), strict=True
    ):
        row |= {"H": hit, "FA": false_alarm, "n_resp": count}
        row["memorability_wo_fa_correction"] = round(hit / count, 15)
        row["memorability_w_fa_correction"] = round((hit - false_alarm) / count, 15)


def _write_table(path: Path, rows: list[dict]) -> None:
    """Write the score table as MemCat's is written: unnamed row number first, texts quoted."""
    path.parent.mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(COLUMNS)
        for number, row in enumerate(rows, start=1):
            writer.writerow([str(number), *(row[column] for column in COLUMNS[1:])])


def _move_into_place(workshop: Path, folder: Path, seed: int, size: int) -> None:
    """Put the finished tree where the old one was; a process that was faster with the same sample wins."""
    try:
        if folder.exists():
            os.rename(folder, workshop / "old")
        os.rename(workshop / "new", folder)
    except OSError as error:
        if not sample_is_complete(folder, seed, size):
            raise UserError(
                f"Cannot put the sample in {folder}: {error.strerror}. Remove that folder by hand."
            ) from error


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace anything that does not carry our stamp."""
    if not folder.exists() or _read_stamp(folder):
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(
            f"{folder} exists and is not a sample (it has no valid {STAMP_FILE}), so it is left alone. "
            "Move it away, or choose another folder for the sample."
        )


def _read_stamp(folder: Path) -> dict:
    """Read the stamp, or return an empty dict where there is none that can be read."""
    try:
        stamp = json.loads((folder / STAMP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and "version" in stamp else {}


def _z_scores(values: np.ndarray) -> np.ndarray:
    """Centre and scale to unit spread; all zeros where there is no spread."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def _logistic(values: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-values))


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m utils.data.sample``."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.data.sample",
        description="Write the embedded sample: crops of real photographs with planted scores, "
        "laid out as MemCat is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", metavar="PATH", help="folder to write; must be new, empty, or a sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of windows and planted noise")
    parser.add_argument("--size", type=int, default=SAMPLE_SIZE, help="number of images, at least 10")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the sample where the arguments say."""
    build_sample(args.folder, args.seed, args.size)
    log.info("The sample is in %s; use it with --data-dir %s", args.folder, args.folder)


if __name__ == "__main__":
    run_script(main, get_parser)
