"""Pictures of every accepted format with seeded mutations, of which a reader may make a picture or an `ImageError`."""

import io
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from conftest import make_picture
from PIL import Image

from utils.core.digests import FileContent, Seen
from utils.core.errors import ImageError
from utils.data.images import load_pixels

Rng = np.random.Generator
SIZE = 32
# (name, Pillow's name, mode, options): every format that is accepted, in the ways it is met.
FORMATS: tuple[tuple[str, str, str, dict[str, object]], ...] = (
    ("jpeg", "JPEG", "RGB", {"quality": 80}),
    ("jpeg progressive", "JPEG", "RGB", {"progressive": True}),
    ("jpeg cmyk", "JPEG", "CMYK", {}),
    (
        "jpeg with exif",
        "JPEG",
        "RGB",
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    ),
    ("png", "PNG", "RGB", {}),
    ("png palette", "PNG", "P", {}),
    ("png transparent", "PNG", "RGBA", {}),
    ("png bilevel", "PNG", "1", {}),
    ("png 16 bit", "PNG", "I;16", {}),
    ("gif", "GIF", "P", {}),
    ("gif animated", "GIF", "P", {"save_all": True}),
    ("bmp", "BMP", "RGB", {}),
    ("bmp palette", "BMP", "P", {}),
    ("tiff", "TIFF", "RGB", {}),
    ("tiff lzw", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("tiff deflate", "TIFF", "RGB", {"compression": "tiff_deflate"}),
    ("tiff jpeg", "TIFF", "RGB", {"compression": "jpeg"}),
    ("tiff float", "TIFF", "F", {}),
    ("webp", "WEBP", "RGB", {}),
    ("webp lossless", "WEBP", "RGBA", {"lossless": True}),
    ("webp animated", "WEBP", "RGB", {"save_all": True}),
    ("ppm", "PPM", "RGB", {}),
    ("pgm", "PPM", "L", {}),
)


def whole(number: int) -> bytes:
    """Return an undamaged picture of the format with that number."""
    _, kind, mode, options = FORMATS[number]
    stream, picture = io.BytesIO(), make_picture(number, 48, 40)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    more = {"append_images": [make_picture(99, 48, 40).convert(mode)]} if options.get("save_all") else {}
    picture = picture if picture.mode == mode else picture.convert(mode)
    picture.save(stream, kind, **options, **more)
    return stream.getvalue()


def _flip_bits(content: bytes, rng: Rng, end: int) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(min(end, len(changed))))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _extreme_number(content: bytes, rng: Rng) -> bytes:
    where = int(rng.integers(min(len(content) - 4, 96)))
    value = (0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)[int(rng.integers(6))]
    return content[:where] + value.to_bytes(4, ("big", "little")[int(rng.integers(2))]) + content[where + 4 :]


def _cut_out(content: bytes, rng: Rng) -> bytes:
    start, end = sorted(int(n) for n in rng.integers(len(content), size=2))
    return content[:start] + content[end:]


def _doubled(content: bytes, rng: Rng) -> bytes:
    start, end = sorted(int(n) for n in rng.integers(len(content), size=2))
    return content[:end] + content[start:]


def _noise_in(content: bytes, rng: Rng) -> bytes:
    where = int(rng.integers(len(content)))
    return content[:where] + rng.bytes(int(rng.integers(1, 64))) + content[where:]


def _spliced(content: bytes, rng: Rng) -> bytes:
    other = whole(int(rng.integers(len(FORMATS))))
    return content[: int(rng.integers(len(content)))] + other[int(rng.integers(len(other))) :]


MUTATIONS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "bits of the header": lambda content, rng: _flip_bits(content, rng, 64),
    "bits anywhere": lambda content, rng: _flip_bits(content, rng, len(content)),
    "an extreme number in the header": _extreme_number,
    "cut short": lambda content, rng: content[: int(rng.integers(len(content)))],
    "a part cut out": _cut_out,
    "a part doubled": _doubled,
    "noise in between": _noise_in,
    "spliced with another": _spliced,
}


class Mutant(NamedTuple):
    """A mutated picture and what it was made by."""

    form: str
    mutation: str
    number: int
    content: bytes


def mutants(start: int, count: int, seed: int) -> Iterator[Mutant]:
    """Yield mutants number ``start`` to ``start + count``; each depends on its number and the seed alone."""
    names = list(MUTATIONS)
    for number in range(start, start + count):
        rng = np.random.default_rng([seed, number])
        which, how = number % len(FORMATS), names[number // len(FORMATS) % len(names)]
        yield Mutant(FORMATS[which][0], how, number, MUTATIONS[how](whole(which), rng))


def read_all(start: int, count: int, seed: int) -> tuple[Counter[str], list[str], float]:
    """Read mutants as a stage does.

    Returns:
        How many were ``read`` and ``refused``; what else came of one, in words; the most processor seconds for one.
    """
    outcomes, problems, slowest = Counter[str](), [], 0.0
    for mutant in mutants(start, count, seed):
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # arithmetic that has no defined result
                pixels = load_pixels(FileContent("mutant.jpg", mutant.content, Seen.of_unreadable()), SIZE)
            outcomes["read"] += 1
            if pixels.shape != (3, SIZE, SIZE) or not (
                np.isfinite(pixels).all() and 0 <= pixels.min() <= pixels.max() <= 1
            ):
                problems.append(f"{mutant[:3]}: not a picture of {SIZE} px in [0, 1]")
        except ImageError:
            outcomes["refused"] += 1
        except Exception as error:  # what must not happen, to be told with the mutant's number
            problems.append(f"{mutant[:3]}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.process_time() - began)
    return outcomes, problems, slowest
