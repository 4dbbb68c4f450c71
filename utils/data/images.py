"""Reading picture files, and the one preprocessing."""

import glob
import io
import os
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from utils.core.digests import FileContent
from utils.core.errors import ImageError, UserError
from utils.core.names import IMAGE_SUFFIXES

MAX_PIXELS = 500_000_000


def read_rgb(path: Path | str | FileContent) -> Image.Image:
    """Read any picture file as 8-bit RGB, upright.

    The EXIF orientation is applied: a photograph is scored as a person sees it. Greyscale, CMYK and palette
    pictures are converted, 16-bit and float greyscale is scaled to 8 bits rather than clipped, transparency is
    laid over white, and of an animation the first frame is taken.

    Args:
        path: The file, or what was read from it.

    Returns:
        The picture, mode RGB.

    Raises:
        ImageError: If the file is missing, empty, truncated, not a picture, or above 500 megapixels.
    """
    try:
        size = len(path.content) if isinstance(path, FileContent) else os.path.getsize(path)
        if size == 0:
            raise ImageError(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path.content) if isinstance(path, FileContent) else path) as image:
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
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 0))
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


def load_pixels(path: Path | str | FileContent, size: int = 224) -> np.ndarray:
    """Read and preprocess one picture: (3, size, size), float32, [0, 1].

    Raises:
        ImageError: If the picture cannot be used; see :func:`read_rgb`.
    """
    return preprocess(read_rgb(path), size)


def list_images(paths: Iterable[Path | str]) -> list[Path]:
    """List picture files from files, folders (recursive) and glob patterns, sorted, each once.

    Files named outright are kept whatever their suffix; in folders and patterns only known picture suffixes count.

    Raises:
        UserError: If a path does not exist, or a folder or pattern holds no picture.
    """
    pictures: dict[str, Path] = {}
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
        pictures.update({str(file): file for file in files})
    return [pictures[name] for name in sorted(pictures)]
