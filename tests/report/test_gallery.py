"""The gallery's data and pictures: each score the table's, each picture the image's, nothing done twice, nothing let in."""

import json
import logging
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report.gallery_folder import EVIL, IDS, MODEL, SCRIPT, SIZE, colour, images, write, write_study

from utils.report.gallery import in_bytes, write_gallery
from utils.report.gallery_data import as_script, original_folders, read_scores
from utils.report.gallery_pictures import encode_map, picture_name
from utils.report.strips import picture_strips


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path)
    return tmp_path


def gallery(folder, runs=None):
    return write_gallery(folder, read_scores(folder), runs or {})


def data(folder):
    text = (folder / "gallery" / "data.js").read_text(encoding="ascii")
    assert text.startswith("window.GALLERY = ")
    assert text.endswith(";\n")
    return json.loads(text.removeprefix("window.GALLERY = ").removesuffix(";\n"))


def column(found, key):
    return next(one for one in found["columns"] if one["key"] == key)["values"]


def test_every_score_is_the_tables_own(study):
    gallery(study)
    found = data(study)
    assert found["ids"] == IDS
    assert column(found, "memorability") == pytest.approx(images()["memorability"])
    assert column(found, "mse") == pytest.approx(images()["mse"])
    assert column(found, "distinctiveness") == pytest.approx(np.linspace(-1, 1, 9), abs=1e-4)
    assert column(found, "miss") == pytest.approx(0.5 - images()["memorability"], abs=1e-4)
    assert column(found, "positive_share")[:4] == [0.5, None, None, 0.5]  # test images alone
    assert column(found, "converged")[0] == 1
    assert "order" not in {one["key"] for one in found["columns"]}
    category = found["texts"]["category"]
    assert [category["levels"][number] for number in category["index"]] == images()["category"].tolist()
    assert found["nearest"][MODEL] == [*range(1, 9), 0]
    about = next(one for one in found["columns"] if one["key"] == "mse")
    assert about["group"] == "Reconstruction error"
    assert about["meaning"].endswith("larger: reconstructed worse")


def test_scores_of_two_models_are_told_apart(study):
    write(study, "test_loss", images().assign(mse=7.0), "other")
    gallery(study)
    found = data(study)
    assert column(found, "mse@other") == [7.0] * 9
    assert column(found, f"mse@{MODEL}") == pytest.approx(images()["mse"])
    assert "distinctiveness" in {one["key"] for one in found["columns"]}


def test_each_picture_is_that_of_its_image_though_tables_hold_different_images(study):
    write(study, "splits", pd.concat([images(), images().tail(1).assign(image_id="animal/ant.jpg")]))
    gallery(study)
    found = data(study)
    assert found["ids"][0] == "animal/ant.jpg"
    pairs, maps = found["pairs"][0], found["maps"][0]
    assert pairs["rows"] == [-1, *range(9)]
    assert maps["rows"] == [-1, 0, -1, -1, 1, -1, -1, 2, -1, -1]
    for number in range(9):
        pixels = np.asarray(Image.open(study / "gallery" / pairs["folder"] / picture_name(number, ".jpg")))
        assert np.abs(pixels[:, :SIZE].astype(int) - colour(number)).max() <= 4
        assert np.abs(pixels[:, SIZE:].astype(int) + colour(number) - 255).max() <= 4


def test_a_map_is_red_where_it_raises_the_score_blue_where_it_lowers_it_and_clear_at_zero():
    one = np.zeros((30, 30))
    one[:10], one[10:20] = 1.0, -0.5
    import io

    pixels = np.asarray(Image.open(io.BytesIO(encode_map(one))).convert("RGBA")).astype(int)
    raises, lowers, zero = pixels[5, 5], pixels[15, 5], pixels[25, 5]
    assert raises[0] > raises[2] + 100
    assert lowers[2] > lowers[0] + 100
    assert raises[3] == 255
    assert 100 < lowers[3] < 155
    assert zero[3] == 0
    assert encode_map(np.zeros((30, 30)))  # nothing to say, and no division by zero


def test_unchanged_pictures_are_left_alone_and_changed_ones_made_again(study):
    gallery(study)
    picture = study / "gallery" / f"pairs_{MODEL}" / picture_name(3, ".jpg")
    picture.write_bytes(b"mine")  # as good as any sign that it was not written again
    gallery(study)
    assert picture.read_bytes() == b"mine"
    with zipfile.ZipFile(study / f"pairs_{MODEL}.zip", "a") as pack:
        pack.comment = b"another file"
    gallery(study)
    assert picture.read_bytes() != b"mine"


def test_pictures_of_a_model_that_is_gone_are_removed_and_nothing_else(study):
    gallery(study)
    (study / "gallery" / "mine").mkdir()
    (study / f"pairs_{MODEL}.zip").unlink()
    gallery(study)
    assert sorted(path.name for path in (study / "gallery").iterdir()) == ["data.js", f"maps_{MODEL}", "mine"]


def test_a_killed_run_does_not_leave_half_the_pictures(study, monkeypatch):
    def fail(self, name):
        if name == "000004.jpg":
            raise KeyboardInterrupt
        return read(self, name)

    read = zipfile.ZipFile.read
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", fail)
        with pytest.raises(KeyboardInterrupt):
            gallery(study)
    assert len(list(study.glob("gallery/pairs_*/*/*.jpg"))) == 4
    gallery(study)
    assert len(list(study.glob("gallery/pairs_*/*/*.jpg"))) == 9


def test_pictures_of_other_images_are_not_shown(study, caplog):
    write(study, "test_loss", images().head(5), MODEL)
    with caplog.at_level(logging.WARNING):
        gallery(study)
    assert data(study)["pairs"] == []
    assert "are of different images" in caplog.text
    assert "are of different images" in (study / "gallery.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [f"pairs_{MODEL}.zip", f"ig_{MODEL}.npy", f"test_loss_{MODEL}.csv"])
@pytest.mark.parametrize("content", [None, b"", b"no such thing"])
def test_what_is_missing_or_broken_is_left_out_and_said(study, name, content):
    (study / name).unlink()
    if content is not None:
        (study / name).write_bytes(content)
    assert gallery(study) is not None
    found = data(study)
    assert found["ids"] == IDS
    kind = "maps" if name.startswith("ig") else "pairs"
    assert found[kind] == []
    if content is not None:
        assert name in (study / "gallery.html").read_text(encoding="utf-8")


def test_a_folder_without_scores_has_a_gallery_and_an_empty_one_has_none(tmp_path):
    assert gallery(tmp_path) is None
    write(
        tmp_path,
        "image_features",
        pd.DataFrame({"image_id": ["b.jpg", "a.jpg"], "memorability": 0.5, "edge_density": [0.2, 0.1]}),
    )
    gallery(tmp_path)
    found = data(tmp_path)
    assert found["ids"] == ["a.jpg", "b.jpg"]
    assert found["texts"] == {}
    assert column(found, "edge_density") == [0.1, 0.2]


def test_names_stay_names(study):
    path = gallery(study).path
    page, script = (
        path.read_text(encoding="utf-8"),
        (study / "gallery" / "data.js").read_text(encoding="ascii"),
    )
    assert "hacked" not in page
    assert [name for name in data(study)["ids"] if "hacked" in name] == [EVIL, SCRIPT]
    assert script.count("hacked") == 2  # as two names, and nowhere else


def test_a_name_that_is_no_utf_8_and_a_line_separator_stay_inside_their_strings():
    script = as_script({"ids": ["caf\udce9.jpg", "a\u2028b"]}, [])
    assert script.isascii()
    assert json.loads(script.removeprefix("window.GALLERY = ").removesuffix(";\n"))["ids"] == [
        "caf\udce9.jpg",
        "a\u2028b",
    ]


def test_the_files_of_the_images_are_found_where_stages_read_them(tmp_path):
    for name in ("data/animal/cat/a.jpg", "data/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    output = tmp_path / "out put"
    folders = [tmp_path / "data", tmp_path / "data" / "animal" / "cat", tmp_path / "gone"]
    found = original_folders(output, ["animal/cat/a.jpg", "animal/dog/d.jpg", "b.jpg"], folders)
    assert found == {"animal/cat": "../data/animal/cat", "": "../data"}


def test_strips_show_both_ends(study):
    frame = pd.concat(
        [images(), *(images().assign(image_id=[f"z/{k}{n}.jpg" for n in range(9)]) for k in "a")]
    )
    frame = frame.assign(memorability=np.linspace(0, 1, 18), mse=np.linspace(1, 0, 18))
    write(study, "test_loss", frame, MODEL)
    write(study, "splits", frame)
    with zipfile.ZipFile(study / f"pairs_{MODEL}.zip", "a") as pack:
        for number in range(9, 18):
            pack.writestr(f"{number:06d}.jpg", b"picture")
    written = gallery(study)
    strips = picture_strips(study, read_scores(study), written.pairs)
    titles = [strip["title"] for strip in strips]
    assert titles == [
        "Best remembered",
        "Least remembered",
        "Reconstructed worst (mse)",
        "Reconstructed best (mse)",
    ]
    assert [image["value"] for image in strips[0]["images"]][:2] == ["1", "0.941"]
    assert [image["value"] for image in strips[1]["images"]][:2] == ["0", "0.0588"]
    assert [image["value"] for image in strips[2]["images"]][:2] == ["1", "0.941"]
    assert strips[0]["images"][0]["href"] == "gallery.html#image=z%2Fa8.jpg"


def test_sizes_are_in_words():
    assert [in_bytes(size) for size in (7, 1_500, 4_100_000, 2_000_000_000)] == [
        "7 bytes",
        "1.5 kB",
        "4.1 MB",
        "2.0 GB",
    ]
