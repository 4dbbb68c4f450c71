"""The networks in the box: where stage 1 starts from on request, and what scores pictures on a fresh clone."""

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import assert_user_error, dataset_args, make_picture
from in_process import run_here
from scipy.stats import spearmanr

from models import builtin
from models.autoencoder import build_autoencoder
from models.checkpoints import load_autoencoder, save_autoencoder, save_mlp
from models.mlp import MemorabilityMLP
from utils.core.errors import UserError
from utils.data.dataset import load_dataset
from utils.data.splits import make_splits
from utils.prediction import load_predictor

SIZE = 32


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A box with a thin untrained network and head, of the real ones' names and form."""
    folder = tmp_path / "weights"
    folder.mkdir()
    network = build_autoencoder("vgg11", seed=3, width=0.0625)
    path = folder / f"{builtin.BUILTIN}.pth"
    save_autoencoder(path, network, image_size=SIZE, caveats=[])
    head = MemorabilityMLP(network.widths[-1] * (SIZE // 32) ** 2, (4,), 0.0)
    save_mlp(
        folder / f"mlp_{builtin.BUILTIN}.pth",
        head.state_dict(),
        architecture=head.architecture(),
        encoder={"stem": path.stem, "sha256": load_autoencoder(path)[1]["sha256"]},
        image_size=SIZE,
        training_scores=[0.4, 0.6, 0.8],
        caveats=[],
    )
    with (folder / builtin.MODEL_CARD).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "split", "metric", "value", "ci_low", "ci_high", "n"])
        writer.writerow(["ridge, codes", "test", "spearman", 0.5, 0.4, 0.6, 789])
        writer.writerow(["published head", "test", "mae", 0.5, 0.4, 0.6, 789])
        writer.writerow(["published head", "test", "spearman", 0.2149, 0.1512, 0.2788, 789])
    monkeypatch.setattr(builtin, "WEIGHTS_FOLDER", folder)
    return folder


@pytest.fixture
def holiday(tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for number in range(3):
        make_picture(number).save(folder / f"{number}.jpg")
    return folder


RHO = r"rho 0\.21 \[0\.15, 0\.28\] with human scores of 789 test pictures"


def test_a_fresh_clone_scores_pictures_and_says_how_well(box, holiday, tmp_path):
    out = tmp_path / "output"
    done = run_here("mlp_predict.py", "--predict", holiday, "--output-path", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "ships with this project" in line]
    assert "There is no MLP head in" in line
    assert re.search(RHO, line)
    table = pd.read_csv(out / "predictions.csv")
    expected = load_predictor(out).score(holiday)
    np.testing.assert_allclose(table["memorability"], expected["memorability"], rtol=1e-6)
    assert "caveat" not in table
    assert len(table) == 3


def test_the_folders_own_head_comes_first_and_the_box_can_be_asked_for(box, holiday, tmp_path, caplog):
    out = tmp_path / "output"
    out.mkdir()
    network = build_autoencoder("vgg11", seed=9, width=0.0625)
    save_autoencoder(out / "own.pth", network, image_size=SIZE, caveats=[])
    mine = torch_head(box)
    save_mlp(
        out / "mlp_own.pth",
        mine.state_dict(),
        architecture=mine.architecture(),
        encoder={"stem": "own", "sha256": load_autoencoder(out / "own.pth")[1]["sha256"]},
        image_size=SIZE,
        training_scores=[0.5],
        caveats=[],
    )
    with caplog.at_level("INFO"):
        assert load_predictor(out).meta["encoder"]["stem"] == "own"
    assert "ships with this project" not in caplog.text
    with caplog.at_level("INFO"):
        assert load_predictor(out, "builtin").meta["encoder"]["stem"] == builtin.BUILTIN
    assert re.search(RHO, caplog.text)
    with pytest.raises(UserError, match=r"no MLP head mlp_other\.pth"):
        load_predictor(out, "other")


def torch_head(box):
    from models.checkpoints import load_mlp

    return load_mlp(box / f"mlp_{builtin.BUILTIN}.pth")[0]


def test_scoring_at_another_size_is_refused(box, holiday, tmp_path):
    done = run_here(
        "mlp_predict.py", "--predict", holiday, "--output-path", tmp_path / "output", "--image-size", "64"
    )
    assert_user_error(done, "--image-size 64 was asked for", "32 px")


def test_stage_1_starts_from_the_box(box, mini_memcat, tmp_path):
    out = tmp_path / "output"
    arguments = [
        "--data-dir",
        mini_memcat,
        "--output-path",
        out,
        "--limit",
        2,
        "--arch",
        "vgg11",
        "--loss",
        "mse",
    ]
    arguments += ["--pretrained", "builtin", "--device", "cpu", "--workers", 0]
    assert_user_error(
        run_here("autoencoder_finetune.py", *arguments), "trained on images of 32 px, but --image-size is 224"
    )
    assert not list(out.glob("*.pth"))
    done = run_here("autoencoder_finetune.py", *arguments, "--image-size", SIZE, "--learning-rate", "1e-12")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.pth")
    trained, meta = load_autoencoder(path)
    start, _ = load_autoencoder(builtin.builtin_autoencoder())
    assert meta["caveats"] == []
    for (name, one), (_, other) in zip(trained.named_parameters(), start.named_parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-9, err_msg=name)


def test_an_incomplete_box_is_named(box):
    (box / f"{builtin.BUILTIN}.pth").unlink()
    with pytest.raises(UserError, match="is missing, although it ships with the code"):
        builtin.builtin_autoencoder()
    shutil.rmtree(box)
    with pytest.raises(UserError, match="model_card.csv is missing"):
        builtin.builtin_test_rho()


def test_the_published_rho_is_that_of_the_published_weights(tmp_path):
    """On the real LNSIM, where LNSIM_DIR names it: what --predict claims is what the files in the box do."""
    if not os.environ.get("LNSIM_DIR"):
        pytest.skip("the real LNSIM is not here (set LNSIM_DIR)")
    table = load_dataset(dataset_args(Path(os.environ["LNSIM_DIR"]), tmp_path)).table
    test = table[make_splits(table, 0) == "test"]
    scored = load_predictor(tmp_path, "builtin", "cpu").score(test["path"].tolist())
    joined = test.merge(scored, on="path", suffixes=("", "_predicted"))
    rho = spearmanr(joined["memorability"], joined["memorability_predicted"]).statistic
    assert f"rho {rho:.2f} [" in builtin.builtin_test_rho()
    assert f"of {len(joined)} test pictures" in builtin.builtin_test_rho()
