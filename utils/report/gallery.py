"""``gallery.html``: all images with every score, to search, sort and open; beside it its data and its small pictures.

It opens from disk, without a server: a browser lets no page read files from there, but loads a script and pictures. The
data are therefore a script, and every picture is a file of its own, of which the page asks for those in sight.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import log
from utils.report.assets import render
from utils.report.gallery_data import ImageScores, as_script, original_folders
from utils.report.gallery_pictures import draw_maps, size_of, unpack_pairs

GALLERY_FILE = "gallery.html"
GALLERY_FOLDER = "gallery"
DATA_FILE = "data.js"


class Gallery(NamedTuple):
    """A gallery that was written.

    Attributes:
        path: The page.
        pairs: Per model, where the pictures of images and reconstructions are.
        about: What it holds and weighs, in words.
    """

    path: Path
    pairs: list[dict[str, Any]]
    about: str


def write_gallery(output_path: Path, scores: ImageScores, runs: dict[str, dict]) -> Gallery | None:
    """Write ``gallery.html`` and ``gallery/`` from what an output folder holds.

    Args:
        output_path: The output folder; pictures may be missing.
        scores: What its tables say of each image.
        runs: The records of the runs that made it, by script: where its pictures came from.

    Returns:
        What was written, or None where no table names an image.
    """
    if not scores.ids:
        return None
    folder = output_path / GALLERY_FOLDER
    content = _content(output_path, folder, scores, runs)
    script = as_script(content, scores.columns)
    with atomic_path(folder / DATA_FILE) as temporary:
        temporary.write_text(script, encoding="ascii")
    _remove_stale(folder, {one["folder"] for kind in ("pairs", "maps") for one in content[kind]})
    path = output_path / GALLERY_FILE
    about = _size_in_words(folder, content, len(script))
    page = render(
        "gallery.html.j2",
        "gallery",
        data=f"{GALLERY_FOLDER}/{DATA_FILE}",
        caveats=list(scores.caveats),
        forbidden=scores.caveats.forbid_conclusions,
        missing=scores.missing,
        size=about,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    log.info("Gallery: %s", path)
    return Gallery(path, content["pairs"], about)


def _content(output_path: Path, folder: Path, scores: ImageScores, runs: dict[str, dict]) -> dict[str, Any]:
    """Everything but the columns: names, texts, neighbours, and where the pictures are."""
    inputs = {name: noted for run in runs.values() for name, noted in run.get("inputs", {}).items()}
    folders = [Path(name) for name, noted in inputs.items() if "pictures" in noted]
    texts = {}
    for name, values in scores.texts.items():
        levels = sorted(set(values))
        place = {level: number for number, level in enumerate(levels)}
        texts[name] = {"levels": levels, "index": [place[value] for value in values]}
    return {
        "ids": scores.ids,
        "texts": texts,
        "nearest": scores.nearest,
        "pairs": _pictures(output_path, folder, scores, "test_loss", unpack_pairs, "pairs"),
        "maps": _pictures(output_path, folder, scores, "ig", draw_maps, "maps"),
        "originals": original_folders(output_path, scores.ids, folders),
    }


def _pictures(
    output_path: Path, folder: Path, scores: ImageScores, table: str, make: Any, kind: str
) -> list[dict[str, Any]]:
    """Lay out one kind of pictures for every model, and say where each image's is."""
    made = []
    for (name, model), rows in scores.rows.items():
        if name != table:
            continue
        place = folder / f"{kind}_{model}"
        try:
            if make(output_path, model, place):
                if size_of(place)[0] != max(rows) + 1:
                    raise UserError(f"{place} and the table of {model} are of different images.")
                same = rows == list(range(len(rows)))
                made.append({"model": model, "folder": place.name, "rows": None if same else rows})
        except UserError as error:
            log.warning("The gallery does without these pictures: %s", error)
            scores.missing.append(str(error))
    return made


def _remove_stale(folder: Path, used: set[str]) -> None:
    """Remove pictures that were laid out for a model that is no longer there."""
    for place in folder.iterdir():
        if place.name not in used and size_of(place)[0]:
            shutil.rmtree(place)


def _size_in_words(folder: Path, content: dict[str, Any], script: int) -> str:
    """Say what the gallery weighs."""
    counts = [size_of(folder / one["folder"]) for kind in ("pairs", "maps") for one in content[kind]]
    pictures, size = (sum(numbers) for numbers in zip(*counts, strict=True)) if counts else (0, 0)
    return (
        f"{len(content['ids']):,} images; data {in_bytes(script)}, {pictures:,} small pictures {in_bytes(size)} "
        "(only those in sight are read)."
    )


def in_bytes(size: int) -> str:
    """Write a number of bytes for reading: ``4.1 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
