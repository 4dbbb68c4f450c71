"""What a hostile or huge picture may cost: no other program, no exception but ImageError, bounded memory."""

import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT_ROOT, make_picture
from PIL import Image, PngImagePlugin

from utils.core.errors import ImageError
from utils.core.names import IMAGE_SUFFIXES
from utils.data import images
from utils.data.images import DRAFT_MARGIN, FORMATS, load_pixels, picture_size, read_rgb

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n(x) show\n%%EOF\n"


def test_a_picture_whose_content_is_eps_starts_no_program(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for name in ("harmless.jpg", "harmless.png"):
        (tmp_path / name).write_bytes(EPS)
        with pytest.raises(ImageError, match="not a picture, or of an unknown format"):
            read_rgb(tmp_path / name)


def test_every_suffix_that_is_looked_for_is_of_a_format_that_is_read():
    known = Image.registered_extensions()
    known |= {".mpo": "JPEG", ".heic": "HEIF", ".heif": "HEIF"}  # read as JPEG; by an optional package
    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMATS)


def test_no_picture_is_opened_without_saying_of_which_format():
    files = [
        *PROJECT_ROOT.glob("*.py"),
        *PROJECT_ROOT.glob("utils/**/*.py"),
        *PROJECT_ROOT.glob("models/**/*.py"),
    ]
    calls = [
        (path.name, line)
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bImage\.open\(|imread\(|\bread_image\(|decode_image\(", line)
    ]
    assert len(calls) > 4
    assert [call for call in calls if "formats=" not in call[1]] == []


@pytest.mark.parametrize("format_name", ["DDS", "TGA", "ICO", "PCX", "SGI", "JPEG2000"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, format_name):
    make_picture(1, 32, 32).save(tmp_path / "x.png", format=format_name)
    with pytest.raises(ImageError, match="unknown format"):
        read_rgb(tmp_path / "x.png")


@pytest.mark.parametrize(
    "error",
    [
        *(
            KeyError("mode"),
            TypeError("'NoneType' object"),
            NotImplementedError("pixel format"),
            RuntimeError("odd"),
        ),
        *(
            struct.error("short"),
            zlib.error("bad"),
            OverflowError("large"),
            AttributeError("tile"),
            RecursionError(),
        ),
        *(
            IndexError("tag"),
            ZeroDivisionError("gap"),
            AssertionError(),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "x"),
        ),
    ],
)
@pytest.mark.parametrize("method", ["_open", "load_prepare"])
def test_whatever_a_decoder_raises_is_an_error_of_the_picture(tmp_path, monkeypatch, error, method):
    def stumble(*_):
        raise error

    make_picture(1).save(tmp_path / "x.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, method, stumble)
    with pytest.raises(ImageError, match="x.png: "):
        load_pixels(tmp_path / "x.png", 32)


def test_the_first_of_two_pictures_in_one_jpeg_is_read(tmp_path):
    first, second = make_picture(1), make_picture(2)
    first.save(tmp_path / "stereo.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "stereo.jpg") as opened:
        assert opened.format == "MPO"
    found = np.asarray(read_rgb(tmp_path / "stereo.jpg"), dtype=float)
    assert np.abs(found - np.asarray(first, dtype=float)).mean() < 3


def pictures_of_every_mode():
    picture = make_picture(4, 61, 47)
    grey = np.asarray(picture.convert("L"))
    rgba = picture.copy()
    rgba.putalpha(Image.fromarray(np.linspace(0, 255, 61 * 47).reshape(47, 61).astype(np.uint8)))
    clear = picture.convert("P")
    clear.info["transparency"] = 3
    return {
        **{mode: picture.convert(mode) for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr")},
        **{"RGBA": rgba, "LA": rgba.convert("LA"), "clear": clear},
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "I": Image.fromarray(grey.astype(np.int32) * 200),
        "F": Image.fromarray(grey.astype(np.float32) * 3),
    }


@pytest.mark.parametrize("mode", sorted(pictures_of_every_mode()))
def test_pictures_converted_in_strips_are_those_converted_whole(monkeypatch, mode):
    picture = pictures_of_every_mode()[mode]
    whole, factor = images._to_rgb(picture)
    assert (whole.size, factor) == ((61, 47), 1)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 200)
    assert images._to_rgb(picture)[0].tobytes() == whole.tobytes()
    monkeypatch.setattr(images, "REDUCE_ABOVE_PIXELS", 61 * 47 // 4 - 1)  # more than four times that
    reduced, factor = images._to_rgb(picture)
    assert factor == 3
    assert reduced.tobytes() == whole.reduce(3).tobytes()


def test_huge_pictures_are_read_reduced_and_cropped_alike(tmp_path, monkeypatch):
    picture = make_picture(5, 403, 305)
    picture.save(tmp_path / "x.png")
    picture.save(tmp_path / "x.jpg", quality=100, subsampling=0, exif=turned(6))
    expected = {name: load_pixels(tmp_path / name, 32) for name in ("x.png", "x.jpg")}
    monkeypatch.setattr(images, "REDUCE_ABOVE_PIXELS", 15_000)
    for name, before in expected.items():
        width, height = read_rgb(tmp_path / name).size
        assert width * height <= 15_000
        found = load_pixels(tmp_path / name, 32)
        assert np.abs(found - before).mean() < 1.5 / 255, name
    assert picture_size(tmp_path / "x.png") == (403, 305)


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_what_would_take_too_much_memory_is_refused_with_what_to_do(tmp_path, monkeypatch):
    picture = make_picture(5, 400, 300)
    for name in ("x.png", "x.webp", "x.jpg", "p.jpg"):
        picture.save(tmp_path / name, **({"progressive": True} if name == "p.jpg" else {}))
    monkeypatch.setattr(images, "MAX_DECODED_BYTES", 400 * 300 * 4 - 1)
    monkeypatch.setattr(images, "REDUCE_ABOVE_PIXELS", 400 * 300 // 2)
    for name in ("x.png", "x.webp", "p.jpg"):
        with pytest.raises(
            ImageError, match=r"400 x 300 pixels would take .* GiB to decode.*as a JPEG that is not"
        ):
            read_rgb(tmp_path / name)
    assert read_rgb(tmp_path / "x.jpg").size == (200, 150)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's record of peak memory")
def test_memory_per_pixel_stays_bounded(tmp_path):
    """Of the mode that took most (28 bytes per pixel before), in a process of its own, since peaks do not come down."""
    zeros = np.zeros((4000, 4000), dtype=np.float32)
    Image.fromarray(zeros).save(tmp_path / "x.tif", compression="tiff_lzw")
    code = (
        "import re, sys\nimport cv2, numpy, PIL.TiffImagePlugin\nfrom utils.data.images import load_pixels\n"
        "def peak():\n    return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\nload_pixels(sys.argv[1], 64)\nprint((peak() - before) * 1024 / 16e6)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.tif")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert 4 < float(done.stdout) < 13


# ---------------------------------------------------------------------------------------- draft decoding


@pytest.fixture(scope="module")
def large_jpeg(tmp_path_factory):
    """A picture with grain, 1603 x 1207: no side a multiple of 8."""
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    rng = np.random.default_rng(0)
    pixels = np.asarray(make_picture(6, 1603, 1207)) + rng.normal(0, 6, (1207, 1603, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return path


@pytest.mark.parametrize(
    ("size", "scale"), [(32, 8), (75, 8), (76, 4), (150, 4), (151, 2), (301, 2), (302, 1), (600, 1)]
)
def test_a_drafted_picture_keeps_twice_the_pixels_it_is_resized_to(large_jpeg, size, scale):
    drafted = images._read(large_jpeg, DRAFT_MARGIN * size)
    assert drafted.factor == scale
    assert drafted.image.size == (-(-1603 // scale), -(-1207 // scale))
    assert drafted.full_size == (1603, 1207)


@pytest.mark.parametrize("size", [32, 96, 224])
def test_draft_decoding_changes_pixels_little_and_moves_none(large_jpeg, size):
    full, drafted = load_pixels(large_jpeg, size), load_pixels(large_jpeg, size, draft=True)
    difference = np.abs(full - drafted) * 255
    assert 0 < difference.mean() < 0.5
    assert difference.max() < 8
    shifted = [
        np.abs(np.roll(full, step, axis) - drafted).mean() * 255 for step in (-1, 1) for axis in (1, 2)
    ]
    assert min(shifted) > 1.5 * difference.mean()


def test_draft_decoding_is_off_unless_asked_for_and_of_jpegs_alone(large_jpeg, tmp_path):
    with Image.open(large_jpeg) as opened:
        opened.save(tmp_path / "large.png")
        expected = images.preprocess(opened.convert("RGB"), 64)
    np.testing.assert_array_equal(load_pixels(large_jpeg, 64), expected)
    np.testing.assert_array_equal(load_pixels(tmp_path / "large.png", 64, draft=True), expected)
    make_picture(1, 120, 90).save(tmp_path / "small.jpg")
    small = load_pixels(tmp_path / "small.jpg", 64)
    np.testing.assert_array_equal(load_pixels(tmp_path / "small.jpg", 64, draft=True), small)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_drafted_picture_is_upright_and_not_shifted(large_jpeg, tmp_path, orientation):
    with Image.open(large_jpeg) as opened:
        opened.save(tmp_path / "turned.jpg", quality=95, exif=turned(orientation))
    upright = (1207, 1603) if orientation > 4 else (1603, 1207)
    assert images._read(tmp_path / "turned.jpg", 128).full_size == upright
    full, drafted = (load_pixels(tmp_path / "turned.jpg", 64, draft=draft) for draft in (False, True))
    assert np.abs(full - drafted).mean() * 255 < 0.5


def test_bytes_in_memory_are_read_alike(large_jpeg):
    from utils.core.digests import read_file

    content = read_file(large_jpeg)
    np.testing.assert_array_equal(
        load_pixels(content, 64, draft=True), load_pixels(large_jpeg, 64, draft=True)
    )
    assert content.content == large_jpeg.read_bytes()
    assert Image.open(io.BytesIO(content.content)).size == (1603, 1207)
