"""LNSIM as published: a fabricated folder of the same form, and the real one where LNSIM_DIR names it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args, make_picture
from in_process import run_here
from scipy import stats
from scipy.io import savemat

from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.run import Run
from utils.core.tables import output_file, read_table, write_table
from utils.data.dataset import find_table, load_dataset
from utils.data.lnsim import explain_missing_pictures, find_lnsim, read_lnsim
from utils.data.scores import read_scores, score_files
from utils.data.splits import make_splits
from utils.statistics.noise_ceiling import ceiling_from_halves, score_ceiling, score_reliability

SPLITS, IMAGES = 4, 12


def write_lnsim(folder: Path, images: int = IMAGES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Write a folder in LNSIM's form; return both matrices of hit rates."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.4, 0.9, images)
    halves = [np.clip(truth + rng.normal(0, 0.05, (SPLITS, images)), 0, 1) for _ in range(2)]
    (folder / "Random_splits").mkdir(parents=True)
    (folder / "Image_data").mkdir()
    for number, matrix in enumerate(halves, start=1):
        savemat(
            folder / "Random_splits" / f"subject_hrs{number}.mat",
            {f"subject_hrs{number}": matrix},
            do_compression=True,
        )
    for number in range(1, images + 1):
        make_picture(number).save(folder / "Image_data" / f"{number:04d}.jpg")
    return halves[0], halves[1]


@pytest.fixture
def lnsim(tmp_path):
    folder = tmp_path / "my LNSIM"
    write_lnsim(folder)
    return folder


def test_the_folder_alone_gives_pictures_scores_and_halves(tmp_path):
    folder = tmp_path / "LNSIM"
    first, second = write_lnsim(folder)
    dataset = load_dataset(dataset_args(folder, tmp_path / "out"))
    assert dataset.name == "LNSIM"
    assert list(dataset.table["image_id"]) == [f"{number:04d}.jpg" for number in range(1, IMAGES + 1)]
    assert all(Path(path).is_file() for path in dataset.table["path"])
    np.testing.assert_allclose(dataset.table["memorability"], (first + second).mean(axis=0) / 2, rtol=1e-12)
    np.testing.assert_array_equal(dataset.table["half1_split03"], first[2])
    np.testing.assert_array_equal(dataset.table["half2_split03"], second[2])
    assert dataset.skipped == []
    with Run("autoencoder_test", dataset_args(folder, tmp_path / "out")) as run:
        dataset.note_on(run)
    noted = read_json(tmp_path / "out" / "run_autoencoder_test.json")["inputs"]
    assert {Path(path).name for path in noted} >= {"subject_hrs1.mat", "subject_hrs2.mat"}


def test_the_published_halves_give_the_ceiling(lnsim, tmp_path):
    table = load_dataset(dataset_args(lnsim, tmp_path / "out")).table
    halves = [[f"half{half}_split{split:02d}" for split in range(1, SPLITS + 1)] for half in (1, 2)]
    rhos = [stats.spearmanr(table[a], table[b]).statistic for a, b in zip(*halves, strict=True)]
    expected = 2 * np.mean(rhos) / (1 + np.mean(rhos))
    got = score_reliability(table, splits=99)
    assert got["splits"] == SPLITS
    assert got["half_rho"] == pytest.approx(np.mean(rhos))
    assert got["reliability"] == pytest.approx(expected)
    assert score_ceiling(table) == pytest.approx(np.sqrt(expected))
    assert np.isnan(score_ceiling(table.assign(memorability=table["memorability"] + 0.02)))
    assert np.isnan(score_ceiling(table.drop(columns=halves[1])))
    assert np.isnan(score_ceiling(table.assign(half1_split01=np.nan)))


def test_published_halves_of_an_own_table_are_read(tmp_path):
    folder = tmp_path / "LNSIM"
    write_lnsim(folder)
    whole = read_lnsim(folder / "Random_splits")
    table = tmp_path / "mine.csv"
    whole.rename(columns={"image_id": "path", "memorability": "score"}).to_csv(table, index=False)
    own = load_dataset(dataset_args(folder, tmp_path / "out", scores_csv=table)).table
    published = load_dataset(dataset_args(folder, tmp_path / "out")).table
    assert score_ceiling(own) == pytest.approx(score_ceiling(published))


def test_halves_of_simulated_responses_give_the_ceiling_of_the_truth():
    """Hit rates of halves of simulated responses: the ceiling is how well the whole follows the true rates."""
    rng = np.random.default_rng(3)
    truth = rng.uniform(0.3, 0.9, 3000)
    answers = rng.random((3000, 40)) < truth[:, None]
    first, second = [], []
    for _ in range(10):
        shuffled = rng.permuted(answers, axis=1)
        first.append(shuffled[:, :20].mean(axis=1))
        second.append(shuffled[:, 20:].mean(axis=1))
    got = ceiling_from_halves(np.array(first).T, np.array(second).T)
    assert got["ceiling"] == pytest.approx(stats.spearmanr(truth, answers.mean(axis=1)).statistic, abs=0.01)


def test_halves_without_signal_and_halves_that_do_not_fit():
    rng = np.random.default_rng(0)
    against = rng.normal(size=(50, 1))
    noisy = rng.normal(size=(50, 1)) - against
    assert ceiling_from_halves(against, noisy)["half_rho"] < 0
    assert np.isnan([ceiling_from_halves(against, noisy)[name] for name in ("reliability", "ceiling")]).all()
    with pytest.raises(ValueError, match=r"got \(50, 1\) and \(50, 2\)"):
        ceiling_from_halves(against, rng.normal(size=(50, 2)))
    with pytest.raises(ValueError, match="a split at least"):
        ceiling_from_halves(np.empty((5, 0)), np.empty((5, 0)))


def test_the_ceiling_reaches_the_tables_and_the_figure(tmp_path):
    """Stage 3 on losses of an LNSIM folder: no counts, no categories, and yet a ceiling and its figure."""
    folder, out = tmp_path / "LNSIM", tmp_path / "out"
    write_lnsim(folder)
    table = load_dataset(dataset_args(folder, out)).table
    losses = table[["image_id", "category", "subcategory", "memorability"]].assign(
        mse=table["memorability"] ** 2
    )
    write_table(losses, output_file(out, "test_loss", "net"), "test_loss")
    done = run_here(
        "autoencoder_evaluation.py", "--data-dir", folder, "--output-path", out, "--resamples", 20
    )
    assert done.returncode == 0, done.stderr
    row = read_table(output_file(out, "loss_correlations"), "loss_correlations").iloc[0]
    assert row["rho"] == pytest.approx(1)
    assert row["ceiling"] == pytest.approx(score_ceiling(table), rel=1e-8)
    assert (out / "reliability.png").is_file()


def test_without_categories_splits_are_even_above_and_below_the_median():
    scores = np.random.default_rng(0).normal(size=1000)
    table = pd.DataFrame({"category": "", "subcategory": "", "memorability": scores, "split": ""})
    splits = make_splits(table, 0)
    assert splits.value_counts().to_dict() == {"train": 600, "test": 300, "val": 100}
    above = splits[scores > np.median(scores)].value_counts()
    assert all(abs(above[name] - half) <= 4 for name, half in (("train", 300), ("test", 150), ("val", 50)))


# ---------------------------------------------------------------------------------------- bad input


def test_a_folder_still_zipped_prints_the_command_that_unpacks_it(lnsim, tmp_path):
    pictures = lnsim / "Image_data"
    before = {path.name: path.read_bytes() for path in pictures.glob("*.jpg")}
    try:
        subprocess.run(["zip", "-q", "-s", "64k", "images.zip", *sorted(before)], cwd=pictures, check=True)
    except FileNotFoundError:
        (pictures / "images.zip").write_bytes(b"last part")
        (pictures / "images.z01").write_bytes(b"first part")
    for name in before:
        (pictures / name).unlink()
    (pictures / "images.z01").touch()  # twelve small pictures may fit in one part
    with pytest.raises(UserError, match=r"still in .*images.zip. Unpack them with:") as caught:
        load_dataset(dataset_args(lnsim, tmp_path / "out"))
    command = str(caught.value).splitlines()[-1].strip()
    assert command.startswith(f"cd '{pictures}' && zip -s 0 images.zip")
    if (pictures / "images.z01").stat().st_size and (pictures / "images.zip").read_bytes() != b"last part":
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(load_dataset(dataset_args(lnsim, tmp_path / "out")).table) == IMAGES
    (pictures / "images.z01").unlink()
    assert "whose first, images.z01, is missing. To get LNSIM anew: git clone" in explain_missing_pictures(
        lnsim
    )


def test_scores_without_pictures_say_where_pictures_belong(lnsim, tmp_path):
    for path in (lnsim / "Image_data").iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"Image_data/0001.jpg and so on. To get LNSIM anew: git clone .*27e8e4a"
    ):
        load_dataset(dataset_args(lnsim, tmp_path / "out"))


def test_missing_scores_are_named(lnsim, tmp_path):
    (lnsim / "Random_splits" / "subject_hrs2.mat").unlink()
    with pytest.raises(UserError, match=r"scores are not complete: .*subject_hrs2.mat is missing"):
        load_dataset(dataset_args(lnsim, tmp_path / "out"))
    (lnsim / "Random_splits" / "subject_hrs1.mat").unlink()
    with pytest.raises(
        UserError,
        match=r"has LNSIM's pictures .* without its scores: expected Random_splits/subject_hrs1.mat and",
    ):
        load_dataset(dataset_args(lnsim, tmp_path / "out"))


def test_any_other_folder_is_no_lnsim(tmp_path):
    (tmp_path / "Image_data").mkdir()
    make_picture(1).save(tmp_path / "Image_data" / "holiday.jpg")
    assert find_lnsim(tmp_path) is None
    dataset = load_dataset(dataset_args(tmp_path, tmp_path / "out"))
    assert (dataset.name, dataset.has_scores) == (tmp_path.name, False)
    with pytest.raises(UserError, match="memcat_image_data.csv"):
        find_table(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>" * 20, "cannot be read as a MATLAB file"),
        (b"", "cannot be read as a MATLAB file"),
        ({"other": np.ones((2, 3))}, "expected a matrix subject_hrs2, found other"),
        (
            {"subject_hrs2": np.ones((2, 3))},
            r"one shape \(splits, pictures\), found \(4, 12\) in .* \(2, 3\)",
        ),
        (
            {"subject_hrs2": np.full((SPLITS, IMAGES), 55.0)},
            r"hit rates in \[0, 1\], found values from 55 to 55",
        ),
        ({"subject_hrs2": np.full((SPLITS, IMAGES), np.nan)}, r"hit rates in \[0, 1\]"),
        ({"subject_hrs2": "words"}, "expected numbers in subject_hrs2"),
    ],
)
def test_broken_score_files_name_the_file_and_the_fault(lnsim, tmp_path, content, message):
    path = lnsim / "Random_splits" / "subject_hrs2.mat"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(dataset_args(lnsim, tmp_path / "out"))
    assert str(lnsim / "Random_splits") in str(caught.value)


def test_missing_pictures_are_counted(lnsim, tmp_path):
    (lnsim / "Image_data" / "0005.jpg").unlink()
    dataset = load_dataset(dataset_args(lnsim, tmp_path / "out"))
    assert len(dataset.table) == IMAGES - 1
    assert dataset.skipped == [("0005.jpg", "in the table but not on disk")]


# ---------------------------------------------------------------------------------------- the real one


@pytest.fixture
def real_lnsim():
    if not os.environ.get("LNSIM_DIR"):
        pytest.skip("the real LNSIM is not here (set LNSIM_DIR)")
    return Path(os.environ["LNSIM_DIR"])


def test_the_real_lnsim(real_lnsim, tmp_path):
    dataset = load_dataset(dataset_args(real_lnsim, tmp_path))
    assert (len(dataset.table), len(dataset.skipped)) == (2632, 0)
    got = score_reliability(dataset.table)
    assert got["splits"] == 25
    assert got["half_rho"] == pytest.approx(0.779, abs=5e-4)
    assert got["ceiling"] == pytest.approx(0.936, abs=5e-4)
    assert make_splits(dataset.table, 0).value_counts().to_dict() == {"train": 1579, "test": 789, "val": 264}


def test_score_files_of_each_form(tmp_path, lnsim):
    assert [path.name for path in score_files(lnsim / "Random_splits")] == [
        "subject_hrs1.mat",
        "subject_hrs2.mat",
    ]
    assert [path.name for path in score_files(tmp_path)] == ["train_1.txt", "val_1.txt", "test_1.txt"]
    assert score_files(tmp_path / "mine.csv") == [tmp_path / "mine.csv"]
    assert read_scores(lnsim / "Random_splits")[1] == "mean hit rate"
