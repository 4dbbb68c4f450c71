import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import PROJECT_ROOT, assert_user_error, make_picture, run_script_process, write_memcat

import autoencoder_finetune
import autoencoder_pretrain
from models.autoencoder import build_autoencoder
from models.checkpoints import list_checkpoints, load_autoencoder, save_autoencoder
from models.initialisation import INITIALISATIONS
from utils.core.errors import UserError
from utils.core.tables import read_table
from utils.reconstruction.losses import check_losses

SMALL = ["--arch", "vgg11", "--width", "0.0625", "--image-size", "32", "--batch-size", "4"]
SMALL += ["--workers", "0", "--device", "cpu"]
NAME = "pretrained_vgg11_w0.0625"


def pretrain(data, output, *more):
    """Run the script's main in this process."""
    given = ["--data-dir", data, "--output-path", output, *SMALL, *more]
    autoencoder_pretrain.main(autoencoder_pretrain.get_parser().parse_args(list(map(str, given))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("holiday")
    for number in range(12):
        make_picture(number, 60, 45).save(folder / f"{number:02d}.png")
    make_picture(50, 60, 31).save(folder / "small.png")
    return folder


def test_any_folder_of_pictures_becomes_a_checkpoint_that_stage_1_takes(folder, tmp_path):
    pretrain(folder, tmp_path, "--epochs", 5, "--grow")
    table = read_table(tmp_path / f"pretraining_{NAME}.csv", "pretraining")
    assert table["depth"].tolist() == [1, 2, 3, 4, 5]
    assert table["best"].tolist() == [False] * 4 + [True]
    assert (table["pca_psnr"].nunique(), table["pca_ssim"].nunique()) == (1, 1)
    model, meta = load_autoencoder(tmp_path / f"{NAME}.pth", image_size=32, arch="vgg11", width=0.0625)
    assert meta["caveats"] == []
    made = meta["pretraining"]
    assert (made["data"], made["pictures"], made["held_out"], made["epochs"]) == (folder.name, 11, 1, 5)
    assert made["held_out_psnr"] == pytest.approx(table["psnr"].iloc[-1])
    assert made["settings"]["loss"] == (("mse", 1.0),)
    for stem in (f"pretraining_{NAME}", f"pretraining_pictures_{NAME}"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 5000
    skipped = pd.read_csv(tmp_path / "skipped_images.csv")
    assert skipped["image_id"].tolist() == ["small.png"]
    assert json.loads((tmp_path / "run_autoencoder_pretrain.json").read_text())["counts"]["images"] == 11
    assert list_checkpoints(tmp_path) == []  # it is a start, not a model of the study, until it is named

    rows = "".join(f"{number:02d}.png,{0.5 + number / 40}\n" for number in range(12))
    (tmp_path / "scores.csv").write_text("path,score\n" + rows)
    given = [
        "--data-dir",
        folder,
        "--scores-csv",
        tmp_path / "scores.csv",
        "--output-path",
        tmp_path / "study",
    ]
    given += [
        "--pretrained",
        tmp_path / f"{NAME}.pth",
        "--arch",
        "vgg11",
        "--image-size",
        32,
        "--loss",
        "mse",
    ]
    given += ["--workers", 0, "--device", "cpu", "--limit", 2]
    autoencoder_finetune.main(autoencoder_finetune.get_parser().parse_args(list(map(str, given))))
    (path,) = (tmp_path / "study").glob("*.pth")
    tuned = load_autoencoder(path)[1]
    assert tuned["caveats"] == []
    assert tuned["start"]["pretraining"] == made
    assert tuned["start"]["sha256"] == meta["sha256"]
    assert not any(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), load_autoencoder(path)[0].parameters(), strict=True)
        if a.ndim > 1
    )


def test_training_images_alone_are_seen_with_split_train(tmp_path):
    data = write_memcat(tmp_path / "data", per_subcategory=5)
    pretrain(data, tmp_path, "--split", "train", "--epochs", 1, "--model-name", "own.pth")
    splits = pd.read_csv(tmp_path / "splits.csv")
    counts = splits["split"].value_counts()
    made = load_autoencoder(tmp_path / "own.pth")[1]["pretraining"]
    assert (made["pictures"], made["held_out"]) == (counts["train"], counts["val"])
    assert made["split"] == "train"


def test_the_sample_marks_what_is_made_of_it(tmp_path):
    pretrain(tmp_path, tmp_path / "out", "--sample", "--epochs", 1)
    counts = pd.read_csv(tmp_path / "out" / "splits.csv")["split"].value_counts()
    made = load_autoencoder(tmp_path / "out" / f"{NAME}.pth")[1]["pretraining"]
    assert (made["data"], made["pictures"], made["held_out"]) == (
        "sample",
        counts["train"] + counts["test"],
        counts["val"],
    )
    assert load_autoencoder(tmp_path / "out" / f"{NAME}.pth")[1]["caveats"] == [
        "sample data (planted scores)"
    ]
    assert "caveat" in pd.read_csv(tmp_path / "out" / f"pretraining_{NAME}.csv").columns


def test_finished_work_is_kept_and_other_work_not_replaced(folder, tmp_path, caplog):
    more = ("--epochs", 1, "--loss", "mae=0.5", "ssim=0.5")
    pretrain(folder, tmp_path, *more)
    before = (tmp_path / f"{NAME}.pth").read_bytes()
    with caplog.at_level("INFO"):
        pretrain(folder, tmp_path, *more)
    assert "up to date" in caplog.text
    assert (tmp_path / f"{NAME}.pth").read_bytes() == before
    with pytest.raises(UserError, match=rf"{NAME}.pth is there already and was made otherwise.*--overwrite"):
        pretrain(folder, tmp_path, *more, "--seed", 1)
    pretrain(folder, tmp_path, *more, "--seed", 1, "--overwrite")
    assert (tmp_path / f"{NAME}.pth").read_bytes() != before


def test_a_changed_picture_is_trained_on_as_in_a_new_run(folder, tmp_path, caplog):
    data = shutil.copytree(folder, tmp_path / "data")
    more = ("--epochs", 1, "--loss", "mae=0.5", "ssim=0.5")
    pretrain(data, tmp_path / "out", *more)
    make_picture(99, 60, 45).save(data / "03.png")
    pretrain(data, tmp_path / "out", *more)
    assert f"{NAME}.pth was trained on other pictures" in caplog.text
    pretrain(data, tmp_path / "fresh", *more)
    found, new = (
        load_autoencoder(tmp_path / name / f"{NAME}.pth")[0].state_dict() for name in ("out", "fresh")
    )
    assert all(torch.equal(found[name], new[name]) for name in new)
    with pytest.raises(UserError, match="made otherwise"):
        pretrain(data, tmp_path / "out", *more, "--limit", 11)


def test_a_folder_with_three_pictures_is_refused(tmp_path):
    for number in range(3):
        make_picture(number).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=r"Expected at least 10 pictures in .*, found 3 that can be used"):
        pretrain(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"found 0 that can be used \(3 more are smaller than the crop"):
        pretrain(tmp_path, tmp_path / "out", "--image-size", 128)
    assert not list((tmp_path / "out").glob("*.pth"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width", "0.001"], ["leaves no channel", "at least 0.015625"]),
        (["--width", "0"], ["above 0"]),
        (["--image-size", "50"], ["multiple of 32"]),
        (["--loss", "lpips-sq"], ["mse, mae, ssim, ms-ssim"]),
        (["--loss", "mse=0"], ["above 0"]),
        (["--loss", "ms-ssim", "--image-size", "96"], ["ms-ssim needs images of at least 161 px"]),
        (["--epochs", "3", "--grow"], ["--no-grow"]),
        (["--epochs", "3", "--minutes", "1"], ["not allowed with"]),
        (["--held-out", "1"], ["below 1"]),
        (["--data-dir", "/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)
def test_bad_command_lines(folder, tmp_path, flags, words, capsys):
    given = ["--data-dir", str(folder), "--output-path", str(tmp_path / "out"), *SMALL, *flags]
    try:
        autoencoder_pretrain.main(autoencoder_pretrain.get_parser().parse_args(given))
        pytest.fail("it was taken")
    except (UserError, SystemExit) as error:
        said = f"{error} {capsys.readouterr().err}"
    for word in words:
        assert word in said
    assert not list(tmp_path.rglob("*.pth"))


def test_bad_input_is_one_message_and_code_2(tmp_path):
    done = run_script_process(
        "autoencoder_pretrain.py", "--data-dir", tmp_path, "--output-path", tmp_path / "out"
    )
    assert_user_error(done, "There is no picture in")


def test_the_script_offers_what_the_library_knows():
    assert autoencoder_pretrain.INITIALISATIONS == INITIALISATIONS
    assert check_losses(autoencoder_pretrain.PIXEL_LOSSES) == autoencoder_pretrain.PIXEL_LOSSES


def test_pretrained_networks_are_listed_only_when_named(tmp_path):
    for name in ("pretrained_vgg11.pth", "mem.pth"):
        save_autoencoder(tmp_path / name, build_autoencoder("vgg11", seed=0, width=0.0625))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["mem.pth"]


def test_killed_for_real_it_ends_with_the_same_bytes(folder, tmp_path):
    """SIGKILL at an arbitrary moment after the first saved state; then the same command again."""
    command = [
        sys.executable,
        str(PROJECT_ROOT / "autoencoder_pretrain.py"),
        *SMALL,
        "--data-dir",
        str(folder),
    ]
    command += ["--epochs", "12", "--precision", "bf16"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    subprocess.run([*command, "--output-path", str(tmp_path / "whole")], check=True, **quiet)
    killed = [*command, "--output-path", str(tmp_path / "killed"), "--checkpoint-every", "1"]
    state = tmp_path / "killed" / "shards" / f"pretrain_{NAME}" / "state.pt"
    process = subprocess.Popen(killed, **quiet)
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("*.pth"))
    subprocess.run(killed, check=True, **quiet)
    names = sorted(path.name for path in (tmp_path / "whole").glob(f"*{NAME}*"))
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert not state.parent.exists()
