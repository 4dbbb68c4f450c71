import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args, make_picture
from PIL import Image, ImageOps

from utils.core.errors import ImageError, UserError
from utils.data import images
from utils.data.dataset import find_table, limit_rows, load_dataset
from utils.data.images import crop_box, list_images, load_pixels, preprocess, read_rgb
from utils.data.scores import read_scores
from utils.data.splits import load_splits, make_splits

# ---------------------------------------------------------------------------------------- preprocessing


@pytest.mark.parametrize(
    ("width", "height"), [(90, 70), (70, 90), (64, 64), (301, 100), (33, 200), (640, 427), (20, 31)]
)
@pytest.mark.parametrize("size", [32, 64])
def test_preprocessing_equals_torchvisions(width, height, size):
    from torchvision.transforms import v2

    image = make_picture(width * 1000 + height, width, height)
    steps = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    expected = steps(image).numpy().astype(np.float32) / np.float32(255)
    ours = preprocess(image, size)
    assert ours.shape == (3, size, size)
    assert ours.dtype == np.float32
    # One step of 255 in a few pixels: resizing a box rounds its corners, resizing all and cropping does not.
    np.testing.assert_allclose(ours, expected, atol=1.001 / 255)
    assert np.mean(ours != expected) < 0.02


def test_crop_box_is_the_centre():
    assert crop_box(640, 480, 240) == (80.0, 0.0, 560.0, 480.0)
    assert crop_box(480, 640, 240) == (0.0, 80.0, 480.0, 560.0)


def test_red_is_red_in_the_first_channel(tmp_path):
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "red.png")
    pixels = load_pixels(tmp_path / "red.png", 32)
    assert pixels[0].min() == 1.0
    assert pixels[1:].max() == 0.0


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 20, 20))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn 90 degrees clockwise to see it upright"
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_rgb(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 0, 0)
    assert upright.getpixel((10, 35)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_odd_metadata_do_not_stop_a_turned_picture(tmp_path, orientation):
    """A width written as text: Pillow turns such a picture only if it need not write the metadata again."""
    entries = [(256, 2, 3, b"ab\0\0"), (274, 3, 1, struct.pack("<HH", orientation, 0))]
    block = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    odd = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + block + bytes(4)
    plain = Image.Exif()
    plain[274] = orientation
    picture = make_picture(3)
    picture.save(tmp_path / "odd.jpg", exif=odd)
    picture.save(tmp_path / "plain.jpg", exif=plain)
    with Image.open(tmp_path / "plain.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    for name in ("odd.jpg", "plain.jpg"):
        assert np.array_equal(np.asarray(read_rgb(tmp_path / name)), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "RGBA", "LA", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "HSV": "tif", "LAB": "tif"}.get(mode, "png")
    image = make_picture(1)
    if mode == "HSV":
        image.convert("HSV").convert("RGB").save(tmp_path / "x.tif")
    elif mode == "LAB":
        Image.new("LAB", (50, 40), (128, 128, 128)).save(tmp_path / "x.tif")
    else:
        image.convert(mode).save(tmp_path / f"x.{suffix}")
    pixels = load_pixels(tmp_path / f"x.{suffix}", 32)
    assert pixels.shape == (3, 32, 32)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    if mode in {"P", "RGBA", "CMYK", "YCbCr"}:
        np.testing.assert_allclose(pixels, preprocess(image, 32), atol=0.2)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "deep.png")
    grey = np.asarray(read_rgb(tmp_path / "deep.png"))[..., 0]
    np.testing.assert_allclose(grey, values / 257, atol=0.51)


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.save(tmp_path / "clear.png")
    assert read_rgb(tmp_path / "clear.png").getpixel((5, 5)) == (255, 255, 255)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "clear_palette.png", transparency=0)
    assert read_rgb(tmp_path / "clear_palette.png").getpixel((5, 5)) == (255, 255, 255)


def test_a_very_wide_picture_costs_only_its_crop(tmp_path):
    Image.new("RGB", (20_000, 60), (10, 20, 30)).save(tmp_path / "wide.png")
    assert load_pixels(tmp_path / "wide.png", 224).shape == (3, 224, 224)


def broken_files(folder: Path) -> dict[str, str]:
    """Write one file of each broken kind; return what is to be said of it."""
    make_picture(3, 400, 300).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 100)
    return {
        "truncated.jpg": "cannot be read",
        "empty.jpg": "the file is empty",
        "page.jpg": "not a picture",
        "video.mp4": "not a picture",
        "absent.jpg": "does not exist",
    }


def test_broken_files_are_named_with_the_reason(tmp_path):
    for name, words in broken_files(tmp_path).items():
        with pytest.raises(ImageError, match=words) as caught:
            load_pixels(tmp_path / name, 32)
        assert caught.value.path == str(tmp_path / name)


def test_a_picture_above_the_limit_is_refused(tmp_path, monkeypatch):
    make_picture(1).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="90 x 70 pixels are more than 1,000"):
        read_rgb(tmp_path / "x.png")


# ---------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    "images", ["MemCat_images/MemCat", "images", ".", "MemCat/MemCat_images/MemCat", "images/MemCat"]
)
@pytest.mark.parametrize("table", ["MemCat_data", "data", ".", "deep/MemCat_data"])
def test_every_unpacked_layout_is_found_without_flags(tmp_path, mini_memcat, images, table):
    shutil.copytree(mini_memcat / "MemCat_images" / "MemCat", tmp_path / "in" / images, dirs_exist_ok=True)
    (tmp_path / "in" / table).mkdir(parents=True, exist_ok=True)
    shutil.copy(mini_memcat / "MemCat_data" / "memcat_image_data.csv", tmp_path / "in" / table)
    dataset = load_dataset(dataset_args(tmp_path / "in", tmp_path / "out"))
    assert len(dataset.table) == 12
    assert dataset.table["image_id"].iloc[0] == "animal/bear/000000000001.jpg"
    assert dataset.table["image_id"].is_monotonic_increasing
    assert all(Path(path).is_file() for path in dataset.table["path"])
    assert dataset.skipped == []
    assert dataset.full_table[["hits", "false_alarms", "n_resp"]].notna().all(axis=None)
    assert dataset.name == "MemCat"


def test_no_memcat_says_where_it_comes_from_and_how_to_try(tmp_path):
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError) as caught:
            find_table(folder)
        for words in (str(folder), "gestaltrevision.be/projects/memcat", "--data-dir", "--sample"):
            assert words in str(caught.value)


def test_table_without_images_is_one_clear_message(tmp_path, mini_memcat):
    shutil.copytree(mini_memcat / "MemCat_data", tmp_path / "MemCat_data")
    with pytest.raises(
        UserError, match=r"None of the 12 images named in .*expected e.g. animal/bear/000000000001.jpg"
    ):
        load_dataset(dataset_args(tmp_path, tmp_path / "out"))


def test_real_table_with_images_for_a_subset_of_its_rows(tmp_path, real_memcat_table):
    data = tmp_path / "MemCat"
    (data / "MemCat_data").mkdir(parents=True)
    shutil.copy(real_memcat_table, data / "MemCat_data" / "memcat_image_data.csv")
    rows = pd.read_csv(real_memcat_table).iloc[::250]
    for number, row in enumerate(rows.itertuples()):
        path = data / "MemCat_images" / "MemCat" / row.category / row.subcategory / row.image_file
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number).save(path)
    dataset = load_dataset(dataset_args(data, tmp_path / "out"))
    assert len(dataset.table) == 40
    assert len(dataset.skipped) == 9960
    merged = dataset.table.merge(
        rows.assign(image_id=rows["category"] + "/" + rows["subcategory"] + "/" + rows["image_file"]),
        on="image_id",
    )
    assert len(merged) == 40
    np.testing.assert_allclose(
        merged["memorability"], (merged["H"] - merged["FA"]) / merged["n_resp_y"], atol=1e-12
    )
    with pytest.raises(UserError, match="9960 images do not fit"):
        load_dataset(dataset_args(data, tmp_path / "out", on_error="fail"))


def test_real_table_in_full(real_memcat_table):
    table, column = read_scores(real_memcat_table)
    assert column == "memorability_w_fa_correction"
    assert len(table) == 10_000
    assert table["image_id"].is_unique
    assert table.groupby("category").size().to_dict() == dict.fromkeys(
        ("animal", "food", "landscape", "sports", "vehicle"), 2000
    )
    assert table["subcategory"].nunique() == 134
    splits = make_splits(table.sort_values("image_id").reset_index(drop=True), seed=0)
    assert splits.value_counts().to_dict() == {"train": 6000, "test": 3000, "val": 1000}


# ---------------------------------------------------------------------------------------- tables of scores


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures of mine"
    folder.mkdir()
    for number, name in enumerate(("ä b.jpg", "b.png", "c.jpg")):
        make_picture(number).save(folder / name)
    return folder


def test_any_csv_with_path_and_score(tmp_path, pictures):
    table = pictures.parent / "mine.csv"
    table.write_text("score,path,category\n0.5,ä b.jpg,x\n-0.1,b.png,y\n1,./c.jpg,x\n", encoding="utf-8")
    dataset = load_dataset(dataset_args(pictures, tmp_path / "out", scores_csv=table))
    assert dataset.table.set_index("image_id")["memorability"].to_dict() == {
        "ä b.jpg": 0.5,
        "b.png": -0.1,
        "c.jpg": 1.0,
    }
    assert dataset.score_column == "score"
    assert dataset.full_table[["hits", "false_alarms", "n_resp"]].isna().all(axis=None)


def test_absolute_paths_and_given_splits(tmp_path, pictures):
    table = tmp_path / "mine.csv"
    rows = [
        f"{pictures / name},0.{number + 1},{split}"
        for number, (name, split) in enumerate(
            (("ä b.jpg", "train"), ("b.png", "Validation"), ("c.jpg", "TEST"))
        )
    ]
    table.write_text("path,score,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    dataset = load_dataset(dataset_args(tmp_path / "nowhere", tmp_path / "out", scores_csv=table))
    assert list(dataset.table["image_id"]) == ["b.png", "c.jpg", "ä b.jpg"]
    assert list(load_splits(dataset, tmp_path / "out", 0)["split"]) == ["val", "test", "train"]


def test_lamem_split_files(tmp_path, pictures):
    lamem = tmp_path / "lamem"
    (lamem / "splits").mkdir(parents=True)
    shutil.copytree(pictures, lamem / "images")
    (lamem / "images" / "ä b.jpg").rename(lamem / "images" / "a.jpg")
    for split, name, score in (("train", "a.jpg", 0.9), ("val", "b.png", 0.5), ("test", "c.jpg", 0.7)):
        (lamem / "splits" / f"{split}_1.txt").write_text(f"{name} {score}\n")
    dataset = load_dataset(dataset_args(lamem, tmp_path / "out"))
    assert dict(zip(dataset.table["image_id"], dataset.table["split"], strict=True)) == {
        "a.jpg": "train",
        "b.png": "val",
        "c.jpg": "test",
    }
    one = load_dataset(dataset_args(lamem, tmp_path / "out", scores_csv=lamem / "splits" / "val_1.txt"))
    assert one.table[["image_id", "memorability"]].values.tolist() == [["b.png", 0.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thing,score\na.jpg,0.5\n", "column image_file, category, subcategory is missing"),
        (
            "path,other\nb.png,0.5\n",
            r"no score column 'memorability_w_fa_correction'.*columns that hold numbers: other",
        ),
        ("path,score\nb.png,high\n", "column score must hold finite numbers, found line 2: 'high'"),
        ("path,score\nb.png,\n", "column score must hold finite numbers, found line 2: ''"),
        ("path,score\nb.png,0.5\nc.jpg,55\n", r"must lie in \[-1, 1\], column score holds line 3: 55"),
        (
            "path,score,hits,false_alarms,n_resp\nb.png,0.5,9,0,8\n",
            "line 2 has hits 9, false_alarms 0, n_resp 8",
        ),
        ("path,score,split\nb.png,0.5,holdout\n", "column split holds 'holdout'"),
        ("path,score\n", "names no image"),
        ("", "cannot be read as a CSV"),
    ],
)
def test_wrong_score_tables_name_the_file_and_the_fault(tmp_path, pictures, text, message):
    table = tmp_path / "mine.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(dataset_args(pictures, tmp_path / "out", scores_csv=table))
    assert str(table) in str(caught.value)


def test_a_missing_score_table_is_named(tmp_path, pictures):
    with pytest.raises(UserError, match="no.csv does not exist"):
        load_dataset(dataset_args(pictures, tmp_path / "out", scores_csv=tmp_path / "no.csv"))


def test_duplicates_are_counted_and_only_equal_ones_used(tmp_path, pictures):
    table = tmp_path / "mine.csv"
    table.write_text(
        "path,score\nb.png,0.5\nb.png,0.5\nc.jpg,0.1\nc.jpg,0.9\nä b.jpg,0.2\n", encoding="utf-8"
    )
    dataset = load_dataset(dataset_args(pictures, tmp_path / "out", scores_csv=table))
    assert list(dataset.table["image_id"]) == ["b.png", "ä b.jpg"]
    assert dict(dataset.skipped) == {
        "b.png": "listed 2 times with equal values, used once",
        "c.jpg": "listed 2 times with different values, not used",
    }
    with pytest.raises(UserError, match="listed 2 times"):
        load_dataset(dataset_args(pictures, tmp_path / "out", scores_csv=table, on_error="fail"))


def test_a_table_of_contradictions_alone_is_one_clear_message(tmp_path, pictures):
    table = tmp_path / "scores.csv"
    table.write_text("path,score\na.jpg,0.1\na.jpg,0.2\n")
    with pytest.raises(UserError, match="every image stands there more than once") as caught:
        load_dataset(dataset_args(pictures, tmp_path, scores_csv=table))
    assert str(table) in str(caught.value)


def test_images_on_either_side_alone_are_named(tmp_path, mini_memcat):
    data = tmp_path / "MemCat"
    shutil.copytree(mini_memcat, data)
    root = data / "MemCat_images" / "MemCat"
    (root / "animal" / "bear" / "000000000001.jpg").rename(root / "animal" / "bear" / "new.jpg")
    dataset = load_dataset(dataset_args(data, tmp_path / "out"))
    assert len(dataset.table) == 11
    assert dict(dataset.skipped) == {
        "animal/bear/000000000001.jpg": "in the table but not on disk",
        "animal/bear/new.jpg": "on disk but not in the table",
    }


def test_same_file_name_in_two_folders_stays_two_images(tmp_path):
    rows = []
    for category in ("a", "b"):
        (tmp_path / category / "x").mkdir(parents=True)
        make_picture(1).save(tmp_path / category / "x" / "1.jpg")
        rows.append(f"1.jpg,{category},x,0.5")
    table = tmp_path / "memcat_image_data.csv"
    table.write_text(
        "image_file,category,subcategory,memorability_w_fa_correction\n" + "\n".join(rows) + "\n"
    )
    dataset = load_dataset(dataset_args(tmp_path, tmp_path / "out"))
    assert list(dataset.table["image_id"]) == ["a/x/1.jpg", "b/x/1.jpg"]


def test_limit_spans_the_categories(mini_memcat, tmp_path):
    dataset = load_dataset(dataset_args(mini_memcat, tmp_path, limit=4))
    assert list(dataset.table["subcategory"]) == ["bear", "cat", "cake", "soup"]
    assert len(dataset.full_table) == 12
    assert len(limit_rows(dataset.full_table, 99)) == 12


# ---------------------------------------------------------------------------------------- splits


def test_splits_are_stratified_seeded_and_exact():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "category": np.repeat(["a", "b"], 500),
            "subcategory": np.tile(["x", "y"], 500),
            "memorability": rng.uniform(size=1000),
            "split": "",
        }
    )
    splits = make_splits(table, 0)
    assert splits.value_counts().to_dict() == {"train": 600, "test": 300, "val": 100}
    above = table["memorability"] > table["memorability"].median()
    for _, rows in table.groupby(["category", "subcategory", above]):
        counts = splits[rows.index].value_counts(normalize=True)
        assert abs(counts["train"] - 0.6) < 0.05
        assert abs(counts["test"] - 0.3) < 0.05
    assert make_splits(table, 0).equals(splits)
    assert not make_splits(table, 1).equals(splits)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_high_and_low_scores_are_shared_out_alike(seed):
    """100 images above the median and 100 below, of one kind: each half gives exactly 60, 10 and 30."""
    scores = np.random.default_rng(100 + seed).permutation(200) / 200  # not the shuffle of the split itself
    table = pd.DataFrame({"category": "a", "subcategory": "x", "memorability": scores, "split": ""})
    splits = make_splits(table, seed)
    above = table["memorability"] > table["memorability"].median()
    for half in (above, ~above):
        assert splits[half].value_counts().to_dict() == {"train": 60, "test": 30, "val": 10}


def test_splits_are_written_once_and_reused(tmp_path, mini_memcat):
    dataset = load_dataset(dataset_args(mini_memcat, tmp_path))
    first = load_splits(dataset, tmp_path, seed=0)
    again = load_splits(dataset, tmp_path, seed=99)
    assert first.equals(again)
    limited = load_splits(load_dataset(dataset_args(mini_memcat, tmp_path, limit=5)), tmp_path, seed=0)
    assert len(limited) == 5
    assert limited.merge(first, on=["image_id", "split"]).shape[0] == 5


def test_splits_of_another_data_set_are_refused(tmp_path, mini_memcat, pictures):
    load_splits(load_dataset(dataset_args(mini_memcat, tmp_path)), tmp_path, 0)
    table = tmp_path / "mine.csv"
    table.write_text("path,score\nb.png,0.5\n")
    other = load_dataset(dataset_args(pictures, tmp_path, scores_csv=table))
    with pytest.raises(
        UserError, match=r"splits.csv was made for other images: it does not know 1 of 1, e.g. b.png"
    ):
        load_splits(other, tmp_path, 0)


def test_half_filled_split_columns_are_refused():
    table = pd.DataFrame(
        {"category": "", "subcategory": "", "memorability": [0.1, 0.2], "split": ["train", ""]}
    )
    with pytest.raises(UserError, match="filled for some images and empty for others"):
        make_splits(table, 0)


# ---------------------------------------------------------------------------------------- plain folders


def test_list_images_takes_files_folders_and_patterns(tmp_path, pictures, monkeypatch):
    (pictures / "deep").mkdir()
    make_picture(1).save(pictures / "deep" / "d.JPG".lower())
    (pictures / "notes.txt").write_text("")
    names = [path.name for path in list_images([pictures])]
    assert names == ["b.png", "c.jpg", "d.jpg", "ä b.jpg"]
    assert [path.name for path in list_images([pictures / "*.jpg", pictures / "c.jpg"])] == [
        "c.jpg",
        "ä b.jpg",
    ]


def test_list_images_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_images([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="There is no picture in"):
        list_images([tmp_path])
    with pytest.raises(UserError, match="There is no picture in"):
        list_images([tmp_path / "*.jpg"])
