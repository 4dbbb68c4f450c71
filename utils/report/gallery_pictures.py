"""The gallery's pictures: small files, so that a browser reads those in sight and no others."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from utils.core.claims import check_unchanged
from utils.core.digests import file_digests
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.picture_pack import member_name

PER_FOLDER = 1000  # folders with ten thousand files are slow to open and to copy
MAP_PX = 128
_LEVELS = 31  # of a map's colours: 15 below zero, zero, 15 above
_RAISES, _LOWERS = (
    (178, 24, 43),
    (33, 102, 172),
)  # red and blue of ColorBrewer's RdBu, told apart by the colour-blind
_SOURCE = "source.json"  # in a folder of pictures: what they were made from


def picture_name(number: int, suffix: str) -> str:
    """Return where the picture of a row stands in its folder, counted from 0: ``003/003517.jpg``."""
    return f"{number // PER_FOLDER:03d}/{Path(member_name(number)).stem}{suffix}"


def unpack_pairs(output_path: Path, model: str, folder: Path) -> bool:
    """Lay the pictures of ``pairs_<model>.zip`` out as files, unless they are there already.

    Args:
        output_path: The output folder.
        model: The model's name.
        folder: Where they go.

    Returns:
        Whether there are any.

    Raises:
        UserError: The archive is damaged.
    """
    pack = output_path / f"pairs_{model}.zip"
    if not pack.exists():
        return False

    def pictures() -> Iterator[bytes]:
        with zipfile.ZipFile(pack) as archive:
            for number in range(len(archive.namelist())):
                yield archive.read(member_name(number))

    try:
        _lay_out(output_path, pack, folder, ".jpg", pictures)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(
            f"{pack} is damaged ({error}). Delete it and run again: python autoencoder_test.py"
        ) from None
    return True


def draw_maps(output_path: Path, model: str, folder: Path) -> bool:
    """Draw the attribution maps of a model as see-through pictures to lay over the images, unless they are there.

    Args:
        output_path: The output folder.
        model: The model's name.
        folder: Where they go.

    Returns:
        Whether there are any.

    Raises:
        UserError: The matrix cannot be read.
    """
    matrix = output_path / f"ig_{model}.npy"
    if not matrix.exists():
        return False
    try:
        maps = np.load(matrix, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{matrix} is damaged ({error}). Delete it and run again: python model_interpretation_IG.py --save"
        ) from None
    _lay_out(output_path, matrix, folder, ".png", lambda: (encode_map(one) for one in maps))
    return True


def encode_map(one: np.ndarray) -> bytes:
    """Draw one attribution map: red raises the predicted score, blue lowers it, the weaker the more see-through.

    Args:
        one: (S, S), signed.

    Returns:
        A PNG of at most 128 x 128 px. Full colour at the 99th percentile of the absolute values: single pixels would
        leave the rest blank.
    """
    from PIL import Image

    side = min(MAP_PX, one.shape[0])
    small = np.asarray(Image.fromarray(one.astype(np.float32)).resize((side, side), Image.Resampling.BOX))
    top = float(np.percentile(np.abs(small), 99)) or float(np.abs(small).max()) or 1.0
    middle = _LEVELS // 2
    levels = np.rint(np.clip(small / top, -1, 1) * middle).astype(int) + middle
    picture = Image.fromarray(levels.astype(np.uint8), mode=None).convert("P")
    strength = np.abs(np.arange(_LEVELS) - middle) / middle
    picture.putpalette(
        [value for level in range(_LEVELS) for value in (_LOWERS if level < middle else _RAISES)]
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=bytes(np.rint(255 * strength).astype(np.uint8)), optimize=False)
    return buffer.getvalue()


def _lay_out(
    output_path: Path, source: Path, folder: Path, suffix: str, pictures: Callable[[], Iterable[bytes]]
) -> None:
    """Write pictures as files, unless the folder says that it holds those of the same source."""
    digests = file_digests(output_path)
    check_unchanged(source)
    wanted = {"sha256": digests.of(source), "per_folder": PER_FOLDER}
    mark = folder / _SOURCE
    if mark.exists():
        try:
            if read_json(mark).get("made_from") == wanted:
                return
        except UserError:
            pass  # a damaged mark: once more
    shutil.rmtree(folder, ignore_errors=True)
    size = count = 0
    for number, content in enumerate(pictures()):
        path = folder / picture_name(number, suffix)
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(content)
        size, count = size + len(content), count + 1
    write_json(
        mark, {"made_from": wanted, "pictures": count, "bytes": size}
    )  # last: a killed run starts again
    digests.save()


def size_of(folder: Path) -> tuple[int, int]:
    """Return how many pictures a folder holds, and their bytes."""
    mark = folder / _SOURCE
    about = read_json(mark) if mark.exists() else {}
    return about.get("pictures", 0), about.get("bytes", 0)
