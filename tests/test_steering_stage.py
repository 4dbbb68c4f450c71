"""memorability_steering.py as a user runs it, after the stages it needs, on a small network."""

import shutil

import numpy as np
import pytest
from conftest import assert_user_error, write_memcat
from in_process import run_here
from PIL import Image

from models.autoencoder import build_autoencoder
from models.checkpoints import save_autoencoder
from utils.core.tables import read_table
from utils.steering.evaluation import CONTROLS, METHODS

MODEL = "small"
SIZE = 32
QUICK = ("--image-size", SIZE, "--workers", 0, "--device", "cpu")
STEER = (*QUICK, "--limit", 3, "--psnr-budget", 26, "--head-resamples", 2, "--resamples", 50)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Pictures with scores, a thin autoencoder, its latents and its head."""
    folder = tmp_path_factory.mktemp("steering")
    memcat, output = write_memcat(folder / "MemCat", per_subcategory=16, side=40), folder / "output"
    output.mkdir()
    for name, seed in ((MODEL, 0), ("other", 1)):
        network = build_autoencoder("vgg11", seed, width=0.0625)
        save_autoencoder(
            output / f"{name}.pth", network, image_size=SIZE, caveats=["random weights: autoencoder"]
        )
    where = ("--data-dir", memcat, "--output-path", output, *QUICK, "--model-names", f"{MODEL}.pth")
    assert run_here("latent_analysis.py", "--calculate-latents", *where).returncode == 0
    done = run_here("mlp_predict.py", "--train", *where, "--hidden-sizes", 4, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    return memcat, output


@pytest.fixture
def steer(study, tmp_path):
    memcat, trained = study
    output = shutil.copytree(trained, tmp_path / "output")

    def run(*flags, model=MODEL):
        where = ("--data-dir", memcat, "--output-path", output, "--model-names", f"{model}.pth")
        return run_here("memorability_steering.py", *where, *STEER, *flags)

    return output, run


def test_a_run_writes_every_move_and_its_controls_and_a_second_finds_them_done(steer):
    output, run = steer
    done = run()
    assert done.returncode == 0, done.stderr
    table = read_table(output / f"steering_{MODEL}.csv", "steering")
    assert table["image_id"].nunique() == 3
    assert set(table["method"]) == {*METHODS, *CONTROLS}
    assert (table["psnr"].dropna() > 25.9).all()
    assert table["judge_after"].notna().all()
    for row in table.itertuples():
        assert np.asarray(Image.open(output / row.picture)).shape == (SIZE, SIZE, 3)
    summary = read_table(output / "steering_summary.csv", "steering_summary")
    assert set(summary["predictor"]) == {"head", "judge"}
    assert (summary.loc[summary["method"].isin(METHODS), "heads"] == 2).all()
    for name in ("steering_strips", "steering_gains", "steering_features"):
        assert (output / f"{name}_{MODEL}.png").is_file()
    assert "does not predict memorability itself" in done.stderr  # noise for scores, as a judge should say
    before = {path.name: path.read_bytes() for path in output.glob("steering*.csv")}
    again = run()
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stderr
    assert {path.name: path.read_bytes() for path in output.glob("steering*.csv")} == before


def test_another_encoder_may_judge_and_the_steered_one_may_not(steer):
    output, run = steer
    done = run("--judge", "other.pth", "--head-resamples", 0)
    assert done.returncode == 0, done.stderr
    summary = read_table(output / "steering_summary.csv", "steering_summary")
    assert (summary["heads"] == 0).all()
    assert_user_error(run("--judge", f"{MODEL}.pth"), "is the steered encoder itself")


def test_mistakes_are_explained(steer):
    output, run = steer
    assert_user_error(run("--judge", "nobody"), "--judge nobody: expected features, none", "no such file")
    assert_user_error(run("--psnr-budget", 2), "expected decibels from 5")
    assert_user_error(run("--lpips-budget", 0), "leaves no room for any change")
    shutil.copy(output / f"mlp_{MODEL}.pth", output / "mlp_other.pth")
    for kind in ("npy", "csv"):
        shutil.copy(output / f"latents_{MODEL}.{kind}", output / f"latents_other.{kind}")
    assert_user_error(run(model="other"), "other")
    (output / f"mlp_{MODEL}.pth").unlink()
    assert_user_error(run(), f"mlp_{MODEL}.pth is missing", "python mlp_predict.py --train")
    assert not list(output.glob("steering*"))
