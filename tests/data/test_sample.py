"""The embedded sample: MemCat's layout, the same bytes every time, scores that follow from the counts."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import dataset_args
from PIL import Image
from scipy.stats import spearmanr
from skimage import data as photographs

from utils.core.errors import UserError
from utils.data import sample
from utils.data.dataset import load_dataset
from utils.data.splits import make_splits

ROOT = Path(__file__).resolve().parents[2]
MEMCAT_COLUMNS = [
    "image_file",
    "category",
    "subcategory",
    "current_height",
    "current_width",
    "source",
    "searched_label",
    "resize_factor",
    "H",
    "FA",
    "n_resp",
    "memorability_wo_fa_correction",
    "memorability_w_fa_correction",
]


def read_rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "MemCat_data" / "memcat_image_data.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def image_path(folder: Path, row: dict[str, str]) -> Path:
    return folder / "MemCat_images" / "MemCat" / row["category"] / row["subcategory"] / row["image_file"]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.build_sample(tmp_path_factory.mktemp("built") / "sample")


def test_the_header_counts_the_photographs_right() -> None:
    files = {source.file for source in sample.SOURCES}
    words = {8: "eight", 9: "nine", 10: "ten"}
    assert f"Read: {words[len(files)]} photographs" in sample.__doc__


def test_layout_and_columns_are_memcats(built: Path) -> None:
    rows = read_rows(built)
    assert list(rows[0]) == ["", *MEMCAT_COLUMNS, "group"]
    assert [row[""] for row in rows] == [str(number) for number in range(1, 41)]
    assert Counter(row["category"] for row in rows) == dict.fromkeys(sample.CATEGORIES, 8)
    on_disk = {path for path in (built / "MemCat_images").rglob("*") if path.is_file()}
    assert on_disk == {image_path(built, row) for row in rows}
    for category in sample.CATEGORIES:
        assert len({row["subcategory"] for row in rows if row["category"] == category}) >= 2


def test_real_table_has_the_same_header(built: Path, real_memcat_table: Path) -> None:
    header = real_memcat_table.open(encoding="utf-8").readline().rstrip("\n")
    with (built / "MemCat_data" / "memcat_image_data.csv").open(encoding="utf-8") as file:
        assert file.readline().rstrip("\n") == f'{header},"group"'


def test_crops_of_one_photograph_are_one_group_and_never_divided(built: Path, tmp_path: Path) -> None:
    crops = json.loads((built / "sample.json").read_text())["crops"]
    rows = read_rows(built)
    assert all(Path(crops[row["image_file"]]["photograph"]).stem == row["group"] for row in rows)
    dataset = load_dataset(dataset_args(built, tmp_path))
    for seed in range(5):
        splits = make_splits(dataset.table, seed)
        assert splits.groupby(dataset.table["group"]).nunique().max() == 1
        assert splits.value_counts()["test"] >= 10  # the fewest that correlations are computed for


def test_sizes_in_the_table_are_those_of_the_files(built: Path) -> None:
    for row in read_rows(built):
        with Image.open(image_path(built, row)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.size == (int(row["current_width"]), int(row["current_height"]))
            assert min(image.size) >= 100
            assert max(image.size) <= sample.MAX_SIDE_PX


def test_a_crop_shows_the_window_its_stamp_names(built: Path) -> None:
    crops = json.loads((built / "sample.json").read_text())["crops"]
    rows = {row["image_file"]: row for row in read_rows(built)}
    checked = 0
    for name, crop in crops.items():
        if crop["photograph"] != "data/astronaut.png" or rows[name]["resize_factor"] != "1.0":
            continue
        left, upper, right, lower = crop["box_px"]
        expected = photographs.astronaut()[upper:lower, left:right]
        expected = expected[:, ::-1] if crop["mirrored"] else expected
        found = np.asarray(Image.open(image_path(built, rows[name])), dtype=float)
        assert np.abs(found - expected).mean() < 4  # grey levels; JPEG only
        checked += 1
    assert checked >= 2


def test_no_window_repeats_and_no_picture_is_flat(built: Path) -> None:
    crops = json.loads((built / "sample.json").read_text())["crops"]
    assert len({(crop["photograph"], *crop["box_px"]) for crop in crops.values()}) == 40
    pictures = [np.asarray(Image.open(image_path(built, row))).astype(float) for row in read_rows(built)]
    assert len({picture.tobytes() for picture in pictures}) == 40
    assert min(picture.std() for picture in pictures) > 5


def test_scores_follow_from_the_counts(built: Path) -> None:
    for row in read_rows(built):
        hits, false_alarms, responses = int(row["H"]), int(row["FA"]), int(row["n_resp"])
        assert 0 <= hits <= responses
        assert 0 <= false_alarms <= responses
        assert sample.RESPONSES[0] <= responses <= sample.RESPONSES[1]
        assert float(row["memorability_wo_fa_correction"]) == pytest.approx(hits / responses, abs=1e-14)
        assert float(row["memorability_w_fa_correction"]) == pytest.approx(
            (hits - false_alarms) / responses, abs=1e-14
        )


def test_planted_scores_follow_the_pictures(built: Path) -> None:
    """Recomputed from the files themselves; binomial noise alone separates the two."""
    rows = read_rows(built)
    pixels = [np.asarray(Image.open(image_path(built, row)), dtype=float) / 255 for row in rows]
    detail = np.array([sample.measure_detail(image) for image in pixels])
    colour = np.array([sample.measure_colourfulness(image) for image in pixels])
    hit_rate, false_alarm_rate = sample.planted_rates(detail, colour)
    hits = np.array([int(row["H"]) / int(row["n_resp"]) for row in rows])
    false_alarms = np.array([int(row["FA"]) / int(row["n_resp"]) for row in rows])
    assert spearmanr(hits, hit_rate).statistic > 0.8
    assert 0 < np.abs(hits - hit_rate).mean() < 0.06
    assert np.abs(false_alarms - false_alarm_rate).mean() < 0.04


def test_planted_rates_by_hand() -> None:
    hit_rate, false_alarm_rate = sample.planted_rates(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    # z-scores of the detail are -1 and 1, those of the constant colourfulness 0
    np.testing.assert_allclose(hit_rate, [1 / (1 + np.exp(-0.4)), 1 / (1 + np.exp(-1.4))])
    np.testing.assert_allclose(false_alarm_rate, [1 / (1 + np.exp(2.0)), 1 / (1 + np.exp(2.4))])


def test_measures_by_hand() -> None:
    grey = np.full((8, 8, 3), 0.4)
    assert sample.measure_detail(grey) == 0
    assert sample.measure_colourfulness(grey) == 0
    half = np.zeros((8, 8, 3))
    half[:, 4:] = 1  # central differences see the step in the two columns beside it
    assert sample.measure_detail(half) == pytest.approx(2 / 8)
    red = np.zeros((8, 8, 3))
    red[..., 0] = 1  # red-green 1, yellow-blue 0.5, no spread
    assert sample.measure_colourfulness(red) == pytest.approx(0.3 * np.hypot(1, 0.5))


def test_same_seed_same_bytes(built: Path, tmp_path: Path) -> None:
    assert tree_bytes(sample.build_sample(tmp_path / "again")) == tree_bytes(built)
    other = tree_bytes(sample.build_sample(tmp_path / "other", seed=1))
    assert other.keys() == tree_bytes(built).keys()
    assert all(other[name] != content for name, content in tree_bytes(built).items())


def test_a_complete_sample_is_left_alone(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    assert sample.build_sample(built) == built
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "half", "version", "seed"])
def test_anything_but_this_sample_is_rebuilt(built: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(built, folder)
    picture = image_path(folder, read_rows(folder)[3])
    if damage == "missing":
        picture.unlink()
    elif damage == "half":
        picture.write_bytes(picture.read_bytes()[:500])
    else:
        stamp = json.loads((folder / "sample.json").read_text())
        (folder / "sample.json").write_text(json.dumps(stamp | {damage: 99}))
    assert not sample.sample_is_complete(folder)
    sample.build_sample(folder)
    assert tree_bytes(folder) == tree_bytes(built)
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "_write_table", broken)
    with pytest.raises(OSError, match="No space left"):
        sample.build_sample(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [10, 13, 57])
def test_any_size_is_shared_out_evenly(tmp_path: Path, size: int) -> None:
    rows = read_rows(sample.build_sample(tmp_path / "sample", size=size))
    counts = Counter(row["category"] for row in rows)
    assert sum(counts.values()) == size
    assert max(counts.values()) - min(counts.values()) <= 1


def test_too_small_a_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sample.build_sample(tmp_path / "sample", size=9)
    assert str(caught.value) == "The sample needs at least 10 images, two per category; 9 were asked for."
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "beach.jpg").write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        sample.build_sample(folder)
    assert str(caught.value) == (
        f"{folder} exists and is not a sample (it has no valid sample.json), so it is left alone. "
        "Move it away, or choose another folder for the sample."
    )
    assert tree_bytes(folder) == {"beach.jpg": b"mine"}


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sample").write_text("mine")
    with pytest.raises(UserError, match="is not a sample"):
        sample.build_sample(tmp_path / "sample")
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    with pytest.raises(UserError, match="Cannot write the sample to .*blocked"):
        sample.build_sample(tmp_path / "blocked" / "sample")


def test_a_package_without_its_photographs_is_named() -> None:
    with pytest.raises(
        UserError, match="package 'skimage' ships, but .*nothing.png is not there.*scikit-image"
    ):
        sample.find_photograph("skimage", "data/nothing.png")
    with pytest.raises(UserError, match="but no_such_package is not there"):
        sample.find_photograph("no_such_package", "x.png")


def test_command_line(built: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "utils.data.sample", str(tmp_path / "my sample")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert tree_bytes(tmp_path / "my sample") == tree_bytes(built)
    command[-1] = str(ROOT / "utils")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "is not a sample" in done.stderr
    assert "Traceback" not in done.stderr
