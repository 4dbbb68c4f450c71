"""Reading picture files, and the one preprocessing."""

import glob
import io
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from utils.core.digests import FileContent
from utils.core.errors import ImageError, UserError
from utils.core.names import IMAGE_SUFFIXES
from utils.data.folders import walk
from utils.data.formats import is_heif, read_heif, refused_by_name, why_unknown

# What a file's content may be, whatever its name says. Pillow knows more, among them EPS, for which it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "HEIF")
MAX_PIXELS = 500_000_000
MAX_DECODED_BYTES = 2**30
REDUCE_ABOVE_PIXELS = 2**26  # 8192 x 8192; no network or feature here looks at more than 1024 px
DRAFT_MARGIN = 2  # a drafted picture keeps this many times the pixels that it is resized to
_STRIP_PIXELS = 2**20  # converted at a time
_NARROW_MODES = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 2,
    "I;16L": 2,
    "I;16B": 2,
    "I;16N": 2,
}  # bytes per pixel; others 4
# Bytes per pixel that decoders take beside the picture; measured, see docs/method.md.
_DECODER_BYTES = {"WEBP": 12}
_PROGRESSIVE_BYTES = 6  # a progressive JPEG's coefficients, whatever the scale it is decoded at


def read_rgb(path: Path | str | FileContent) -> Image.Image:
    """Read any picture file as 8-bit RGB, upright.

    The EXIF orientation is applied: a photograph is scored as a person sees it. Greyscale, CMYK and palette
    pictures are converted, 16-bit and float greyscale is scaled to 8 bits rather than clipped, transparency is
    laid over white, and of an animation the first frame is taken. A picture above `REDUCE_ABOVE_PIXELS` comes back
    reduced by a whole factor (averaged; a JPEG by 2, 4 or 8 while it is decoded) to less than that, so that memory
    stays bounded.

    Args:
        path: The file, or what was read from it.

    Returns:
        The picture, mode RGB.

    Raises:
        ImageError: If the file is missing, empty, truncated, not a picture of one of `FORMATS`, above 500 megapixels,
            or would take more than `MAX_DECODED_BYTES` to decode.
    """
    return _read(path).image


class _Picture(NamedTuple):
    """A picture as read: RGB, upright, perhaps reduced.

    Attributes:
        image: Its pixels.
        factor: By how much it was reduced from its full size.
        full_size: Width and height, upright.
        start: Where the full picture begins in ``image``, (x, y) in its pixels: the last block of a row or column may
            reach beyond the picture, and a turn may bring it to the front.
    """

    image: Image.Image
    factor: int
    full_size: tuple[int, int]
    start: tuple[float, float]

    def crop_box(self, size: int) -> tuple[float, float, float, float]:
        """Return :func:`crop_box` of the full picture in pixels of ``image``."""
        left, top, right, bottom = (side / self.factor for side in crop_box(*self.full_size, size))
        (x, y), (width, height) = self.start, self.image.size
        return left + x, top + y, min(right + x, width), min(bottom + y, height)


def _read(path: Path | str | FileContent, least_side: int | None = None) -> _Picture:
    """Read a picture, as :func:`read_rgb` says.

    Args:
        path: The file, or what was read from it.
        least_side: Where given, a JPEG is decoded at a half, a quarter or an eighth of its size as long as its short
            side keeps this many pixels: several times faster, and not quite the same pixels.
    """
    image, scale, full_size, orientation = _decode(path, least_side)
    try:
        rgb, factor = _to_rgb(image)
        del image
        factor *= scale
        beyond = [reduced - full / factor for reduced, full in zip(rgb.size, full_size, strict=True)]
        if orientation in _TURNS:
            rgb = rgb.transpose(_TURNS[orientation])
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(path, error) from None
    if orientation in _ON_THEIR_SIDE:
        full_size, beyond = full_size[::-1], beyond[::-1]
    start = (beyond[0] * (orientation in _FROM_THE_RIGHT), beyond[1] * (orientation in _FROM_BELOW))
    return _Picture(rgb, factor, full_size, start)


def picture_size(path: Path | str | FileContent) -> tuple[int, int]:
    """Return a picture's width and height in pixels, as stored, from its header.

    Raises:
        ImageError: If it cannot be opened.
    """
    with _opened(path) as image:
        return image.size


def _unreadable(path: Path | str | FileContent, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(path, f"cannot be read ({reason.removesuffix('.')})")


def _formats_here() -> list[str]:
    """Return those of `FORMATS` that this Pillow, with what is installed beside it, can read."""
    Image.init()  # does nothing but the first time
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _opened(path: Path | str | FileContent) -> Iterator[Image.Image]:
    """Open a picture of a known format; whatever Pillow stumbles over in the block becomes an ImageError."""
    try:
        size = len(path.content) if isinstance(path, FileContent) else Path(path).stat().st_size
        if size == 0:
            raise ImageError(path, "the file is empty")
        if refusal := refused_by_name(str(path)):
            raise ImageError(path, refusal)
        if is_heif(str(path), start_of(path)):
            read_heif()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = io.BytesIO(path.content) if isinstance(path, FileContent) else path
            with Image.open(source, formats=_formats_here()) as image:
                yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "the file does not exist") from None
    except Image.DecompressionBombError:
        raise ImageError(path, f"it has more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise ImageError(path, why_unknown(str(path), start_of(path))) from None
    except Exception as error:  # its decoders raise many kinds on damaged files, some of them unawares
        raise _unreadable(path, error) from None


def _decode(
    path: Path | str | FileContent, least_side: int | None
) -> tuple[Image.Image, int, tuple[int, int], int]:
    """Return a picture as it is stored, by how much a JPEG was reduced, its full size, and its EXIF orientation."""
    with _opened(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(path, f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
        scale = _draft_scale(width, height, least_side)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))  # does nothing to other formats
            scale = round(width / image.width)
        bytes_per_pixel = _NARROW_MODES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0)
        needed = math.prod(image.size) * bytes_per_pixel
        if image.info.get("progressive"):
            needed += width * height * _PROGRESSIVE_BYTES
        if needed > MAX_DECODED_BYTES:
            raise ImageError(
                path,
                f"{width} x {height} pixels would take {needed / 2**30:.1f} GiB to decode, more than "
                f"{MAX_DECODED_BYTES / 2**30:.0f}; save it smaller, or as a JPEG that is not progressive",
            )
        image.load()
        # Not ImageOps.exif_transpose: it writes all metadata anew, and an odd entry among them stops it.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image, scale, (width, height), orientation if orientation in _TURNS else 1


def _draft_scale(width: int, height: int, least_side: int | None) -> int:
    """Return by how much a JPEG is to be reduced while it is decoded: 1, 2, 4 or 8."""
    wanted = 1
    if least_side is not None:
        wanted = max(
            scale for scale in (1, 2, 4, 8) if scale == 1 or min(width, height) // scale >= least_side
        )
    needed = next(scale for scale in (1, 2, 4, 8) if width * height <= REDUCE_ABOVE_PIXELS * scale**2)
    return max(wanted, needed)


def start_of(path: Path | str | FileContent) -> bytes:
    """Return the first bytes of a picture file, enough to know its kind."""
    if isinstance(path, FileContent):
        return path.content[:400]
    with open(path, "rb") as stream:
        return stream.read(400)


# Pillow's own limit would refuse panoramas and scans that fit in memory; read_rgb has one of its own.
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
_ON_THEIR_SIDE = {5, 6, 7, 8}  # orientations whose width is the upright height
_FROM_THE_RIGHT = {2, 3, 6, 7}  # whose upright rows run against the stored rows (or columns)
_FROM_BELOW = {3, 4, 7, 8}


def _to_rgb(image: Image.Image) -> tuple[Image.Image, int]:
    """Convert to RGB, and reduce what is too large, strip by strip: some conversions take 30 bytes per pixel."""
    width, height = image.size
    factor = math.ceil(math.sqrt(width * height / REDUCE_ABOVE_PIXELS))
    if image.mode == "RGB" and factor == 1:
        return image, 1
    top = _brightest(image)
    rgb = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = max(_STRIP_PIXELS // (width * factor), 1) * factor
    for start in range(0, height, rows):
        strip = _strip_to_rgb(image.crop((0, start, width, min(start + rows, height))), top)
        rgb.paste(strip.reduce(factor) if factor > 1 else strip, (0, start // factor))
    return rgb, factor


def _brightest(image: Image.Image) -> float:
    """Return the value that becomes white: 65535 in 16-bit pictures, a float picture's maximum if that is above 1."""
    if not image.mode.startswith("F"):
        return 65535.0
    _, highest = image.getextrema()
    return max(float(highest), 1.0)  # type: ignore[arg-type]  # one band


def _strip_to_rgb(image: Image.Image, top: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are no finite numbers")
        grey = np.clip(values.astype(np.float64) / top * 255.0 + 0.5, 0, 255).astype(np.uint8)
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


def preprocess(
    image: Image.Image, size: int = 224, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """The one preprocessing: short side to ``size`` (bilinear, antialiased), centre crop, [0, 1].

    Resize and crop happen in one step over :func:`crop_box`, so a picture of any shape costs only its crop.

    Args:
        image: A picture, mode RGB.
        size: Side of the square in pixels.
        box: What is seen of it; :func:`crop_box` when left out.

    Returns:
        (3, size, size), float32, [0, 1], RGB; torchvision's ``Resize(size)``, ``CenterCrop(size)``, ``ToTensor()`` on
        the same PIL image, but for one step of 255 in under 2 % of the values.
    """
    box = box or crop_box(*image.size, size)
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255.0)


def load_pixels(path: Path | str | FileContent, size: int = 224, draft: bool = False) -> np.ndarray:
    """Read and preprocess one picture: (3, size, size), float32, [0, 1].

    Args:
        path: The file, or what was read from it.
        size: Side of the square in pixels.
        draft: Whether a large JPEG may be decoded reduced, down to twice ``size`` along its short side: what is resized
            further afterwards differs little (docs/method.md has the numbers). For scoring; what is published is
            computed without.

    Raises:
        ImageError: If the picture cannot be used; see :func:`read_rgb`.
    """
    picture = _read(path, DRAFT_MARGIN * size if draft else None)
    return preprocess(picture.image, size, picture.crop_box(size))


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
            below = (Path(current) / name for current, _, names in walk(path) for name in names)
            files = [file for file in below if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
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
