"""Which files are pictures, which need an optional package, and what to do about those that are neither."""

from functools import lru_cache
from pathlib import Path

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}
UNKNOWN = "not a picture, or of an unknown format"


def refused_by_name(path: str) -> str:
    """Return why a file is not opened at all: Pillow would take a raw file's thumbnail for the photograph. Else empty."""
    suffix = Path(path).suffix.lower()
    if suffix in RAW_SUFFIXES:
        return f"a camera's raw file ({suffix}); export it as JPEG, PNG or TIFF"
    return ""


@lru_cache(maxsize=1)
def read_heif() -> bool:
    """Let Pillow open HEIC and HEIF, if the optional package is there; say whether it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_heif(path: str, start: bytes) -> bool:
    """Say whether a file is HEIC or HEIF, by its first 12 bytes or its name."""
    return (start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS) or Path(
        path
    ).suffix.lower() in HEIF_SUFFIXES


def why_unknown(path: str, start: bytes) -> str:
    """Say what a file is that Pillow cannot identify, and what to do.

    Args:
        path: Its name.
        start: Its first few hundred bytes.
    """
    if is_heif(path, start) and not read_heif():
        return "HEIC needs an optional package: pip install pillow-heif"
    if b"<svg" in start.lower() or Path(path).suffix.lower() in {".svg", ".svgz"}:
        return "a vector drawing (SVG); export it as PNG"
    if start.startswith(b"%PDF"):
        return "a PDF document; export its pages as PNG"
    return UNKNOWN


def passed_over(path: str) -> str:
    """Say why a file in a folder was not even tried: its name is not a picture's."""
    suffix = Path(path).suffix.lower()
    known = refused_by_name(path) or (why_unknown(path, b"") if suffix in {".svg", ".svgz"} else "")
    return known or f"not a picture by its name ({suffix or 'no suffix'}); name the file itself to try"
