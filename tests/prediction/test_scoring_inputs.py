"""What can be scored, in which order, what is said of what cannot, and whose scores are remembered."""

import io
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_picture
from in_process import run_here
from PIL import Image, features

from utils.core.errors import ImageError, UserError
from utils.core.files import file_sha256
from utils.data import formats
from utils.data.images import read_rgb
from utils.prediction.inputs import gather_paths, in_memory, not_tried
from utils.prediction.scoring import DIGEST_LENGTH, Predictor
from utils.prediction.scoring_stage import check_other_list


class _Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(1, 2, 3))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(_Mean(), 8, torch.device("cpu"), np.linspace(0, 1, 101), {}, ("a", "b"))


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (10, 10), (value, value, value))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, value in (("b.png", 102), ("a.png", 204), ("c.png", 51)):
        grey(value).save(folder / name)
    return folder


# ---------------------------------------------------------------------- kinds of files

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", HEIC, "HEIC needs an optional package: pip install pillow-heif"),
        ("named_wrongly.jpg", HEIC, "HEIC needs an optional package: pip install pillow-heif"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a vector drawing (SVG); export it as PNG"),
        ("a.jpg", b"<?xml version='1.0'?><svg/>", "a vector drawing (SVG); export it as PNG"),
        ("a.pdf", b"%PDF-1.7", "a PDF document; export its pages as PNG"),
        ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(50), formats.UNKNOWN),
    ],
)
def test_what_cannot_be_read_is_named_with_what_to_do(tmp_path, monkeypatch, name, content, reason):
    monkeypatch.setattr(formats, "read_heif", lambda: False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_rgb(tmp_path / name)
    assert caught.value.reason == reason


def test_a_raw_file_is_refused_though_pillow_would_read_its_thumbnail(tmp_path):
    grey(9).save(tmp_path / "thumbnail.tif")
    raw = (tmp_path / "thumbnail.tif").rename(tmp_path / "photo.NEF")
    with Image.open(raw) as image:
        assert image.format == "TIFF"
    with pytest.raises(ImageError, match=r"a camera's raw file \(.nef\); export it as JPEG, PNG or TIFF"):
        read_rgb(raw)


def test_heic_is_read_where_the_optional_package_is(tmp_path, monkeypatch):
    registered = []
    package = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    formats.read_heif.cache_clear()
    try:
        (tmp_path / "a.heic").write_bytes(HEIC)
        with pytest.raises(ImageError, match="not a picture, or of an unknown format"):
            read_rgb(tmp_path / "a.heic")  # this made-up package opens nothing
        assert registered == [True]
    finally:
        formats.read_heif.cache_clear()


@pytest.mark.parametrize(("suffix", "kind"), [("avif", "AVIF"), ("mpo", "MPO"), ("webp", "WEBP")])
def test_formats_that_pillow_reads_are_found_in_folders(tmp_path, suffix, kind):
    needed = {"AVIF": "avif", "WEBP": "webp"}
    if kind in needed and not features.check(needed[kind]):
        pytest.skip(f"this Pillow has no {kind}")
    more = {"save_all": True, "append_images": [make_picture(2)]} if kind == "MPO" else {}
    make_picture(1).save(tmp_path / f"x.{suffix}", kind, **more)
    assert gather_paths([str(tmp_path)])[0] == [str(tmp_path / f"x.{suffix}")]
    assert read_rgb(tmp_path / f"x.{suffix}").size == make_picture(1).size


def test_every_file_of_a_folder_that_is_not_scored_is_listed(photos):
    for name in ("notes.txt", "list.csv", "photo.cr2", "film.mp4", "no_suffix", ".hidden"):
        (photos / name).write_bytes(b"x")
    files, skipped = gather_paths([str(photos)])
    assert [Path(name).name for name in files] == ["a.png", "b.png", "c.png"]
    assert skipped == []
    reasons = {Path(name).name: reason for name, reason in not_tried([str(photos)], files)}
    assert set(reasons) == {"notes.txt", "list.csv", "photo.cr2", "film.mp4", "no_suffix"}
    assert reasons["photo.cr2"].startswith("a camera's raw file")
    assert reasons["notes.txt"] == "not a picture by its name (.txt); name the file itself to try"
    assert not_tried([str(photos / "a.png")], files) == []


# ---------------------------------------------------------------------- order


def test_rows_stand_in_the_order_given(predictor, photos):
    order = [photos / "c.png", photos / "a.png", photos / "b.png", photos / "c.png"]
    table = predictor.score(order)
    assert [Path(path).name for path in table["path"]] == ["c.png", "a.png", "b.png"]
    np.testing.assert_allclose(table["memorability"], [0.2, 0.8, 0.4], atol=1e-6)
    assert table["rank"].tolist() == [3, 1, 2]


def test_paths_images_and_arrays_may_be_mixed(predictor, photos, caplog):
    caplog.set_level(logging.WARNING)
    (photos / "empty.png").write_bytes(b"")
    floats = np.full((12, 9, 3), 0.6)
    given = [grey(255), photos, np.full((5, 7), 51, np.uint8), str(photos / "b.png"), floats]
    table = predictor.score(given)
    assert [Path(path).name for path in table["path"]] == [
        *("image 0", "a.png", "b.png", "c.png", "image 2", "image 4")
    ]
    np.testing.assert_allclose(table["memorability"], [1, 0.8, 0.4, 0.2, 0.2, 0.6], atol=1e-6)
    assert predictor.skipped == [(str(photos / "empty.png"), "the file is empty")]
    assert predictor.score(grey(51))["memorability"].tolist() == pytest.approx([0.2])
    assert predictor.score(np.zeros((4, 4, 3), np.uint8))["path"].tolist() == ["image 0"]


@pytest.mark.parametrize(
    "picture", [np.full((4, 4, 3), 2.0), np.zeros((4, 4, 2), np.uint8), np.zeros(3, int), object()]
)
def test_an_array_that_is_no_picture_is_refused(picture):
    with pytest.raises(UserError, match=r"image 3: expected a path, a PIL image, or an array \(H, W, 3\)"):
        in_memory(picture, "image 3")


def test_an_image_in_memory_is_turned_as_its_file_would_be(tmp_path):
    image = Image.new("RGB", (20, 10), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / "turned.jpg") as opened:
        held = read_rgb(in_memory(opened, "image 0"))
    assert held.size == (10, 20)
    assert np.array_equal(np.asarray(held), np.asarray(read_rgb(tmp_path / "turned.jpg")))


# ---------------------------------------------------------------------- training pictures, other lists


def test_pictures_that_the_head_was_trained_on_are_told_by_content(predictor, photos):
    predictor.training_digests = frozenset({file_sha256(photos / "b.png")[:DIGEST_LENGTH]})
    (photos / "copy under another name.png").write_bytes((photos / "b.png").read_bytes())
    table = predictor.score(photos)
    assert table["in_training"].tolist() == [False, True, False, True]
    predictor.training_digests = frozenset()
    assert "in_training" not in predictor.score(photos)


def test_a_list_of_other_pictures_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "predictions.csv"
    check_other_list(path, ["a"], False)
    row = {"memorability": 0.5, "percentile": 50.0, "rank": 1}
    pd.DataFrame([{"path": name, **row} for name in ("a", "b")]).to_csv(path, index=False)
    check_other_list(path, ["b", "a", "c"], False)  # the same and more
    with pytest.raises(UserError, match=r"holds the scores of 1 other pictures, e.g. b\. .*--output FILE"):
        check_other_list(path, ["a"], False)
    check_other_list(path, ["a"], True)
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="is there already and is no list of scores"):
        check_other_list(path, ["a"], False)
    with pytest.raises(UserError, match="is a folder; expected a file"):
        check_other_list(tmp_path, ["a"], False)


def test_what_ships_knows_its_training_pictures():
    from models.builtin import builtin_head

    digests = builtin_head().with_suffix(".pictures.txt").read_text().split()
    assert len(digests) == len(set(digests)) == 1842  # of 1,843: two files are the same
    assert {len(digest) for digest in digests} == {DIGEST_LENGTH}


def test_a_picture_in_memory_is_not_changed_on_its_way():
    noise = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_rgb(in_memory(noise, "x"))), noise)
    assert np.array_equal(np.asarray(read_rgb(in_memory(noise / 255, "x"))), noise)
    with Image.open(io.BytesIO(in_memory(noise, "x").content)) as image:
        assert image.format == "PNG"


def test_a_list_may_go_anywhere_and_is_up_to_date_there(photos, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    arguments = (
        "--predict",
        "photos",
        "--output-path",
        "deep/out",
        "--output",
        "mine.csv",
        "--device",
        "cpu",
    )
    assert run_here("mlp_predict.py", *arguments).returncode == 0
    first = Path("mine.csv").read_bytes()
    assert len(pd.read_csv("mine.csv")) == 3
    assert not Path("deep/out/predictions.csv").exists()
    done = run_here("mlp_predict.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr + caplog.text
    assert Path("mine.csv").read_bytes() == first
