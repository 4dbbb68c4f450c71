"""Codes from a file: what is refused and why, and that what is taken ends as the ordinary latents."""

from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
from conftest import assert_user_error
from in_process import run_here
from scipy.stats import spearmanr

from utils.core.errors import UserError
from utils.latents.codes import find_code_model, is_foreign, open_latents
from utils.latents.foreign_codes import match_names, read_foreign_codes

COUNT = 30


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns))


def write_codes(folder, codes=None, names=None, column="image_id"):
    """A matrix, its index and a score table in which the images stand in another order; no pictures."""
    codes = normal(COUNT, 5) if codes is None else codes
    names = [f"concept_{row:02d}" for row in range(len(codes))] if names is None else names
    folder.mkdir(exist_ok=True)
    np.save(folder / "spose.npy", codes)
    pd.DataFrame({column: names, "note": "x"}).to_csv(folder / "index.csv", index=False)
    scores = np.random.default_rng(4).uniform(0.2, 0.9, COUNT)
    table = pd.DataFrame({"path": [f"concept_{row:02d}" for row in range(COUNT)], "score": scores})
    table.iloc[::-1].to_csv(folder / "scores.csv", index=False)
    return folder


def run(folder, *flags):
    shared = (
        "--scores-csv",
        folder / "scores.csv",
        "--data-dir",
        folder / "nowhere",
        "--output-path",
        folder / "out",
    )
    return run_here("latent_analysis.py", *shared, "--resamples", 30, *flags)


def with_codes(folder, *flags):
    return run(folder, "--codes", folder / "spose.npy", "--codes-index", folder / "index.csv", *flags)


def test_a_file_of_codes_ends_as_ordinary_latents_without_pictures(tmp_path):
    order = np.random.default_rng(1).permutation(COUNT)
    codes = normal(COUNT, 5)
    folder = write_codes(tmp_path / "in", codes[order], [f"concept_{row:02d}" for row in order])
    done = with_codes(folder, "--measure", "centroid")
    assert done.returncode == 0, done.stderr
    latents = open_latents(folder / "out", "spose")
    assert latents.image_ids == [f"concept_{row:02d}" for row in range(COUNT)]
    np.testing.assert_array_equal(latents.matrix, codes.astype(np.float32))
    assert latents.layer == "file"
    scores = pd.read_csv(folder / "scores.csv").set_index("path")["score"].sort_index()
    centroid = np.linalg.norm(codes - codes.mean(0), axis=1)
    rows = pd.read_csv(folder / "out" / "distinctiveness_correlations.csv").set_index("measure")["rho"]
    assert rows["centroid"] == pytest.approx(spearmanr(centroid, scores).statistic)
    assert (folder / "out" / "latent_space_spose.png").exists()
    assert not (folder / "out" / "distinctive_images_spose.png").exists()
    assert is_foreign(folder / "out", "spose")


def test_codes_are_found_again_by_their_name_alone(tmp_path):
    folder = write_codes(tmp_path / "in")
    assert with_codes(folder, "--calculate-latents").returncode == 0
    assert not (folder / "out" / "distinctiveness_spose.csv").exists()
    done = run(folder, "--distinctiveness-analysis", "--model-names", "spose")
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "distinctiveness_spose.csv").exists()
    assert find_code_model(Namespace(output_path=folder / "out"), "spose") == ("spose", None)


def test_thingsvision_folder_is_taken_as_it_is(tmp_path):
    folder = write_codes(tmp_path / "in")
    theirs = tmp_path / "alexnet-features"
    theirs.mkdir()
    np.save(theirs / "features.npy", normal(COUNT, 6).reshape(COUNT, 2, 3))
    names = [f"/data/things/concept_{row:02d}" for row in range(COUNT)]
    (theirs / "file_names.txt").write_text("\n".join(names) + "\n")
    done = run(folder, "--codes", theirs, "--calculate-latents")
    assert done.returncode == 0, done.stderr
    latents = open_latents(folder / "out", "alexnet-features")
    assert latents.matrix.shape == (COUNT, 6)
    assert latents.image_ids[7] == "concept_07"


def test_names_are_matched_by_id_by_path_and_by_file_name_but_never_by_guess():
    ids = ["animal/bear/1.jpg", "animal/cat/1.jpg", "food/cake/2.jpg"]
    names = ["animal/bear/1.jpg", "/data/MemCat/animal/cat/1.jpg", "2.jpg", "1.jpg", "bear/2.jpg"]
    assert match_names(names, ids) == {
        "animal/bear/1.jpg": "animal/bear/1.jpg",
        "/data/MemCat/animal/cat/1.jpg": "animal/cat/1.jpg",
        "2.jpg": "food/cake/2.jpg",
    }


def test_images_without_a_code_and_codes_without_an_image_are_named(tmp_path):
    names = [f"concept_{row:02d}" for row in range(COUNT - 1)] + ["stranger"]
    folder = write_codes(tmp_path / "in", names=names)
    done = with_codes(folder, "--calculate-latents")
    assert done.returncode == 0, done.stderr
    skipped = pd.read_csv(folder / "out" / "skipped_images.csv").set_index("image_id")["reason"]
    assert skipped.to_dict() == {
        "concept_29": "it has no code in spose.npy",
        "stranger": "in index.csv but not in the score table",
    }
    assert len(open_latents(folder / "out", "spose").image_ids) == COUNT - 1
    assert_user_error(
        with_codes(folder, "--calculate-latents", "--on-error", "fail"), "1 of 30 images", "stranger"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: write_codes(f, normal(COUNT - 1, 5), [f"concept_{r:02d}" for r in range(COUNT)]),
            "has 29 rows",
        ),
        (lambda f: write_codes(f, names=["concept_00"] * COUNT), "more than once, e.g. concept_00"),
        (lambda f: write_codes(f, names=[f"other_{r}" for r in range(COUNT)]), "None of the 30 images"),
        (lambda f: write_codes(f, names=["concept_00", *[""] * (COUNT - 1)]), "row 2 names no image"),
        (lambda f: write_codes(f, np.ones((COUNT, 5))), "all 30 rows are equal"),
        (
            lambda f: write_codes(f, np.full((COUNT, 5), 1e60)),
            "in 30 of 30 rows, e.g. that of concept_00, column 0",
        ),
        (lambda f: write_codes(f, column="label"), "Choose one with --codes-column"),
        (lambda f: (write_codes(f) / "spose.npy").write_bytes(b"no"), "cannot be read as an .npy matrix"),
        (lambda f: (write_codes(f) / "index.csv").unlink(), "Name the table that says which image"),
        (lambda f: np.save(write_codes(f) / "spose.npy", np.arange(30.0)), "of shape (30,)"),
    ],
)
def test_bad_input_is_one_clear_message(tmp_path, change, words):
    change(tmp_path / "in")
    assert_user_error(with_codes(tmp_path / "in"), words)
    assert not list((tmp_path / "in" / "out").glob("latents_*"))


def test_a_value_that_is_not_finite_is_named_with_its_image_and_column(tmp_path):
    codes = normal(COUNT, 5)
    codes[3, 2] = np.nan
    folder = write_codes(tmp_path / "in", codes)
    with pytest.raises(UserError, match=r"1 of 30 rows, e.g. that of concept_03, column 2"):
        read_foreign_codes(folder / "spose.npy", folder / "index.csv")


def test_constant_columns_are_said(tmp_path, caplog):
    codes = normal(COUNT, 5)
    codes[:, 4] = 2
    folder = write_codes(tmp_path / "in", codes)
    read_foreign_codes(folder / "spose.npy", folder / "index.csv")
    assert "1 of 5 columns are constant (e.g. column 4)" in caplog.text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--codes-index", "index.csv"), "name the file with --codes"),
        (("--codes", "spose.npy", "--layer", "conv4"), "leave out --encoder, --layer"),
        (("--encoder-weights", "x.pth"), "--encoder-weights are those of --encoder"),
        (("--encoder", "timm:x", "--model-names", "net"), "--model-names are autoencoder checkpoints"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(tmp_path, flags, words):
    assert_user_error(run(write_codes(tmp_path / "in"), *flags), words)
