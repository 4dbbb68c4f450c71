"""Faults of picture files, and of the folders they stand in."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable

import numpy as np
from conftest import make_picture
from faults.fault import Fault
from faults.study import Place, rewrite, truncate
from PIL import Image

TEST, LATENTS = 2, 4


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """Return another picture than any of the study's, in a format and mode."""
    stream = io.BytesIO()
    make_picture(99, 61, 43).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def huge_png(side: int) -> bytes:
    """Return a PNG that says it has ``side`` pixels each way, and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def _sixteen_bit() -> bytes:
    stream = io.BytesIO()
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def _turned() -> bytes:
    picture, exif, stream = make_picture(98, 61, 43), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture.save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def _animated(kind: str) -> bytes:
    stream = io.BytesIO()
    frames = [make_picture(seed, 40, 40) for seed in (1, 2)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\nshowpage\n%%EOF\n"
)
# What a picture may hold and be none: each is left out by name.
NO_PICTURES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"\xff",
    "text": lambda: b"not a picture\n",
    "a web page": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": lambda: bytes(4000),
    "noise": lambda: np.random.default_rng(0).bytes(4000),
    "the content of EPS": lambda: EPS,
    "the content of SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "the content of PDF": lambda: (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    ),
    "a damaged DDS": lambda: b"DDS " + struct.pack("<30I", 124, 0x1007, 64, 64, *range(1, 27)),
    "an icon cut short": lambda: b"\x00\x00\x01\x00\x01\x00\x10\x10",
    "a zip archive": lambda: b"PK\x05\x06" + bytes(18),
    "a header that claims 10^10 pixels": lambda: huge_png(100_000),
    "a header that claims 0 pixels": lambda: huge_png(0),
    "a PNG without its pixels": lambda: huge_png(64),
    "a PNG with a wrong checksum": lambda: _flip(encoded("PNG"), 20),
    "a GIF cut short": lambda: encoded("GIF")[:60],
    "a WebP cut short": lambda: encoded("WEBP")[:60],
    "a TIFF cut short": lambda: encoded("TIFF")[:60],
    "a BMP cut short": lambda: encoded("BMP")[:60],
}
# What a picture may be, whatever its name says: each is used, and gives what a new run gives.
OTHER_PICTURES: dict[str, Callable[[], bytes]] = {
    "another JPEG": lambda: encoded("JPEG"),
    "a PNG under the name of a JPEG": lambda: encoded("PNG"),
    "a 16-bit PNG": _sixteen_bit,
    "a CMYK JPEG": lambda: encoded("JPEG", "CMYK"),
    "a grey JPEG": lambda: encoded("JPEG", "L"),
    "a picture with a palette": lambda: encoded("PNG", "P"),
    "a picture with transparency": lambda: encoded("PNG", "RGBA"),
    "a bilevel picture": lambda: encoded("PNG", "1"),
    "a picture turned by EXIF": _turned,
    "an animated GIF": lambda: _animated("GIF"),
    "an animated PNG": lambda: _animated("PNG"),
    "a progressive JPEG": lambda: encoded("JPEG", progressive=True),
    "a JPEG with a broken colour profile": lambda: encoded("JPEG", icc_profile=b"broken" * 9),
    "a WebP": lambda: encoded("WEBP"),
    "a TIFF": lambda: encoded("TIFF"),
    "a BMP": lambda: encoded("BMP"),
}


def _flip(content: bytes, where: int) -> bytes:
    return content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]


def _same_size(place: Place) -> None:
    """Replace a picture by another of as many bytes."""
    size = place.picture.stat().st_size
    content = encoded("JPEG", quality=20)
    rewrite(place.picture, content[:size] + bytes(max(size - len(content), 0)))


def _instead(make: Callable[[object], object]) -> Callable[[Place], None]:
    def fault(place: Place) -> None:
        place.picture.unlink()
        make(place.picture)

    return fault


def _all_unreadable(place: Place) -> None:
    for path in place.pictures.rglob("*.jpg"):
        rewrite(path, "no picture")


def _moved(place: Place) -> None:
    shutil.move(place.picture, place.data / place.picture.name)


def _extra(place: Place) -> None:
    rewrite(place.picture.with_name("never_scored.jpg"), encoded("JPEG"))


def _loop_beside(place: Place) -> None:
    (place.data / "loop").symlink_to(place.data / "loop")
    (place.pictures / "loop").symlink_to(place.pictures)


def _closed_beside(place: Place) -> None:
    for folder in (place.data / "closed", place.pictures / "closed"):
        folder.mkdir()
        folder.chmod(0)


def _bytes_name(place: Place) -> None:
    name = os.fsencode(place.picture.parent) + b"/caf\xe9.jpg"
    with open(name, "wb") as stream:
        stream.write(encoded("JPEG"))


def _left_out(name: str, make: Callable[[Place], object], stage: int = TEST, **more: object) -> Fault:
    said = {"says": r"left out.*{name}", "point": "A3 A4", **more}
    said["says"] = str(said["says"]).replace("{name}", r"\.jpg")
    return Fault(name, "pictures", stage, "left out", make=make, **said)  # type: ignore[arg-type]


FAULTS = [
    *(
        _left_out(
            f"is {name}",
            lambda place, content=content: rewrite(place.picture, content()),
            quick=name in {"empty", "the content of EPS", "a damaged DDS"},
        )
        for name, content in NO_PICTURES.items()
    ),
    *(
        Fault(
            f"is replaced by {name}",
            "pictures",
            TEST,
            "as new",
            make=lambda place, content=content: rewrite(place.picture, content()),
            through=(1,),
            point="A3",
        )
        for name, content in OTHER_PICTURES.items()
    ),
    Fault(
        "is replaced by one of as many bytes", "pictures", TEST, "as new", "", _same_size, "A3", through=(1,)
    ),
    Fault(
        "is replaced by one of as many bytes",
        "pictures",
        LATENTS,
        "as new",
        "",
        _same_size,
        "A3",
        through=(1, 2),
    ),
    _left_out("is gone", _instead(lambda path: None), quick=True),
    _left_out("is gone", _instead(lambda path: None), LATENTS),
    _left_out("is gone", _instead(lambda path: None), 1),
    _left_out("is gone", _instead(lambda path: None), 8),
    _left_out("cannot be read", lambda place: rewrite(place.picture, "no"), LATENTS),
    _left_out("cannot be read", lambda place: rewrite(place.picture, "no"), 1),
    _left_out("cannot be read", lambda place: rewrite(place.picture, "no"), 8),
    _left_out("is moved to another folder", _moved),
    _left_out("is a folder", _instead(lambda path: path.mkdir())),
    _left_out("is a dangling link", _instead(lambda path: path.symlink_to("nowhere.jpg"))),
    _left_out("is a link to itself", _instead(lambda path: path.symlink_to(path.name))),
    _left_out("is a pipe", _instead(lambda path: os.mkfifo(path))),
    _left_out("is closed to this user", lambda place: place.picture.chmod(0), needs="no root"),
    _left_out("is cut short", lambda place: truncate(place.picture)),
    _left_out("has lost its end", lambda place: truncate(place.picture, 0.9)),
    Fault(
        "none can be read",
        "pictures",
        TEST,
        "refused",
        "none of the 16 images could be read",
        _all_unreadable,
        quick=True,
    ),
    Fault(
        "are not where the table says",
        "pictures",
        TEST,
        "refused",
        r"--data-dir",
        lambda place: shutil.rmtree(place.data / "MemCat_images"),
    ),
    *(
        Fault(
            f"{name}, with --on-error fail",
            "pictures",
            TEST,
            "refused",
            r"\.jpg.*--on-error skip",
            make,
            flags=("--on-error", "fail"),
        )
        for name, make in {
            "one is gone": _instead(lambda path: None),
            "one cannot be read": lambda place: truncate(place.picture, 0.3),
            "one is not in the table": _extra,
        }.items()
    ),
    _left_out("one is not in the table", _extra),
    Fault("a loop of links stands beside", "pictures", TEST, "harmless", "", _loop_beside, "B11", quick=True),
    Fault(
        "a closed folder stands beside",
        "pictures",
        TEST,
        "harmless",
        "",
        _closed_beside,
        "B11",
        needs="no root",
    ),
    _left_out("one has a name that is not UTF-8", _bytes_name, point="B11"),
    Fault(
        "a hidden file stands beside",
        "pictures",
        TEST,
        "harmless",
        "",
        lambda place: rewrite(place.picture.with_name(".DS_Store"), b"\0\0"),
    ),
    Fault(
        "one has other times",
        "pictures",
        TEST,
        "harmless",
        "up to date",
        lambda place: os.utime(place.picture, (1, 1)),
        quick=True,
    ),
    Fault(
        "one has other permissions",
        "pictures",
        TEST,
        "harmless",
        "",
        lambda place: place.picture.chmod(0o444),
    ),
]
