"""Images as a table names them, found among the files that are there: other folders, another case, no extension."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import IMAGE_SUFFIXES
from utils.data.folders import nameable, subfolders, walk

if TYPE_CHECKING:
    import pandas as pd


def plain_names(names: Iterable[str]) -> list[str]:
    """Write names with forward slashes and without ``./`` in front."""
    return [name.strip().replace("\\", "/").removeprefix("./") for name in names]


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
        level = sorted(below for folder in level for below in subfolders(folder) if below.name not in tops)
    return None


def locate_images(names: Sequence[str], places: Sequence[Path], table: Path) -> tuple[Path, list[str]] | None:
    """Find the image root, and what each image is called under it.

    Names that are right stay as they are: then nothing but a sample of the files is looked at. Else the pictures under
    the first place are listed, and each name is sought among them (`match_names`); and it is tried whether the place
    itself is one folder too deep.

    Args:
        names: The images as the table has them.
        places: Where to look, the first first.
        table: The table, for messages.

    Returns:
        The root and the names relative to it (those not found as they were); None if not one image is there.

    Raises:
        UserError: A name fits several files alike.
    """
    folders = [place for place in places if place.is_dir()]
    bare = not any("/" in name for name in names)
    for place in folders:
        root = find_image_root(place, names)
        if root is not None and not (bare and any(not (root / name).is_file() for name in names)):
            return root, list(names)
    for place in folders:
        files = pictures_below(place)
        found = match_names(names, files, table, place.resolve().name)
        if found:
            return _common_root(place, names, found)
    for place in folders:
        parent = place.resolve().parent
        if sum((parent / name).is_file() for name in names) > 0:
            log.info("Pictures: named from %s, one folder above --data-dir", parent)
            return parent, list(names)
    return None


def pictures_below(folder: Path, without: Path | None = None) -> list[str]:
    """List the picture files under a folder, relative to it, sorted.

    Args:
        folder: The folder; hidden ones in it are left out.
        without: A folder that is not looked into, such as that of the results.
    """
    found = []
    left_out = None if without is None else without.resolve()
    for current, folders, files in walk(folder):
        inside = Path(current).resolve()
        folders[:] = sorted(n for n in folders if not n.startswith(".") and inside / n != left_out)
        found += [
            (Path(current) / name).relative_to(folder).as_posix()
            for name in files
            if Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return nameable(found)


def _common_root(place: Path, names: Sequence[str], found: dict[str, str]) -> tuple[Path, list[str]]:
    """Return the deepest folder that keeps every name told apart as the table does, and the names under it."""
    tails = {
        file[: -len(name)].rstrip("/") for name, file in found.items() if f"/{file}".endswith(f"/{name}")
    }
    if len(tails) == 1 and all(f"/{file}".endswith(f"/{name}") for name, file in found.items()):
        return place / tails.pop(), list(names)
    log.info(
        "Pictures: %d of %d found under %s by another name than the table's, e.g. %s for %s",
        len(found),
        len(names),
        place,
        *next((file, name) for name, file in found.items() if name != file),
    )
    return place, [found.get(name, name) for name in names]


def match_names(
    names: Sequence[str], known: Iterable[str], table: Path, place: str | None = None
) -> dict[str, str]:
    """Find out which known file each name means.

    A name means the file whose path ends with it. Where no name does, leading folders that all names share are dropped:
    of absolute paths (``C:/study/pictures/...``) one by one, else down to the folder that is looked through. Where that
    does not help either, upper and lower case are taken as equal, and names without an extension mean the picture of that
    name.

    Args:
        names: As a table has them.
        known: Paths with forward slashes.
        table: The table, for messages.
        place: Name of the folder that the known files are in; any where left out.

    Returns:
        {name: known file} of the names that were found.

    Raises:
        UserError: A name fits several files alike.
    """
    files = list(known)
    shared = _shared_folders(names)
    absolute = all(re.match(r"/|[A-Za-z]:", name) for name in names)
    drops = [
        count
        for count in range(len(shared) + 1)
        if count == 0 or absolute or place is None or shared[count - 1].lower() == place.lower()
    ]
    for key in (_as_it_is, _any_case):
        tails = _by_tail(files, key)
        for dropped in drops:
            found = _choose(names, dropped, tails, key, table)
            if found:
                return found
    return {}


def as_known(names: pd.Series, known: pd.Series | None, table: Path) -> pd.Series:
    """Call images as another table does that found them on disk; as they are where that knows them, or nothing does.

    Args:
        names: As a score table has them.
        known: As the other table has them; None where there is none.
        table: The score table, for messages.
    """
    if known is None:
        return names
    there = names.isin(known)
    if there.all() or (there.any() and names.str.contains("/").any()):
        return names  # what is missing is missing
    found = match_names(names[~there].tolist(), known[~known.isin(names)].tolist(), table)
    return names.map(lambda name: found.get(name, name))


def _as_it_is(path: str) -> str:
    return path


def _any_case(path: str) -> str:
    """A path without its extension, if that is a picture's, in lower case."""
    pure = PurePosixPath(path.lower())
    return str(pure.with_suffix("")) if pure.suffix in IMAGE_SUFFIXES else str(pure)


def _shared_folders(names: Sequence[str]) -> list[str]:
    """Return the leading folders that all names have in common."""
    parents = [name.split("/")[:-1] for name in names]
    return [] if not parents else os.path.commonprefix(parents)  # type: ignore[return-value]


def _by_tail(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Index files by every ending of their path."""
    tails = defaultdict(list)
    for file in files:
        parts = key(file).split("/")
        for start in range(len(parts)):
            tails["/".join(parts[start:])].append(file)
    return tails


def _choose(
    names: Sequence[str], dropped: int, tails: dict[str, list[str]], key: Callable[[str], str], table: Path
) -> dict[str, str]:
    """Choose a file for each name, by the folder that most names are in where a name fits several."""
    fits = {name: tails.get(key("/".join(name.split("/")[dropped:])), []) for name in names}
    fits = {name: [f for f in files if _same_kind(name, f)] for name, files in fits.items()}
    folders = Counter(str(PurePosixPath(file).parent) for files in fits.values() for file in files)
    found = {}
    for name, files in fits.items():
        if len(files) > 1:
            most = max(folders[str(PurePosixPath(file).parent)] for file in files)
            files = [file for file in files if folders[str(PurePosixPath(file).parent)] == most]
        if len(files) > 1:
            raise UserError(
                f"{table}: '{name}' may mean {' or '.join(sorted(files)[:3])}. Write the names with their folders and "
                "extensions."
            )
        if files:
            found[name] = files[0]
    return found


def _same_kind(name: str, file: str) -> bool:
    """Whether an extension that a name has is the file's."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix not in IMAGE_SUFFIXES or suffix == PurePosixPath(file).suffix.lower()
