"""--weights available: what needs no download is done, what does is left out in one line that says how to add it."""

import shlex
from argparse import Namespace

import pandas as pd
import pytest
from conftest import assert_user_error, dataset_args
from fabricated import write_trunk_file
from in_process import run_here

from models.autoencoder import build_autoencoder
from models.checkpoints import list_checkpoints, save_autoencoder
from models.pretrained import uncached
from utils.attribution.stage import find_regions
from utils.core import cli
from utils.core.errors import UserError
from utils.core.names import DETECTORS, SEGMENTERS
from utils.core.run import Run
from utils.core.tables import output_file, read_table
from utils.scenes.networks import scene_networks_cached
from utils.steering.stage import check_budgets

LIGHT = ["--detector", "light", "--segmenter", "light"]


@pytest.fixture(autouse=True)
def torch_home(tmp_path, monkeypatch):
    """An empty cache of weights, and no way to fill it."""

    def refuse(*args, **kwargs):
        raise AssertionError("--weights available must not download")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("models.pretrained._download", refuse)
    return tmp_path / "torch"


@pytest.fixture
def arguments(mini_memcat, tmp_path):
    return [
        "--data-dir",
        mini_memcat,
        "--output-path",
        tmp_path / "out",
        "--limit",
        4,
        "--weights",
        "available",
    ]


SMALL = ["--image-size", 32, "--device", "cpu", "--workers", 0]


def left_out(done):
    """The lines that say what was left out."""
    return [line for line in done.stderr.splitlines() if "Left out, for want of weights" in line]


def test_stage_1_does_not_choose_another_loss_by_itself(arguments, tmp_path):
    train = [*arguments, *SMALL, "--arch", "vgg11", "--pretrained", "none"]
    done = run_here("autoencoder_finetune.py", *train)
    assert_user_error(done, "leaves nothing of lpips-sq", "mse, mae, ssim, ms-ssim", "--weights pretrained")
    assert list_checkpoints(tmp_path / "out") == []
    done = run_here("autoencoder_finetune.py", *train, "--loss", "lpips-sq", "mae")
    assert done.returncode == 0, done.stderr
    (line,) = left_out(done)
    assert (
        "lpips-sq. To download squeezenet1_1-b8a52dc0.pth (5 MB) and add it: python autoencoder_finetune.py"
        in line
    )
    assert len(list_checkpoints(tmp_path / "out")) == 1


def test_stage_2_computes_the_losses_that_need_no_download(arguments, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    save_autoencoder(out / "net.pth", build_autoencoder("vgg11", seed=0), image_size=32, caveats=[])
    done = run_here(
        "autoencoder_test.py", *arguments, *SMALL, "--losses", "mse", "lpips-sq", "lpips-alex", "style"
    )
    assert done.returncode == 0, done.stderr
    (line,) = left_out(done)
    assert "not cached: lpips-alex, lpips-sq, style. To download alexnet-owt-7be5be79.pth (233 MB), " in line
    table = read_table(output_file(out, "test_loss", "net"), "test_loss")
    assert [name for name in table if name in ("mse", "lpips-sq", "lpips-alex", "style")] == ["mse"]
    assert "caveat" not in table  # nothing random in it
    command = shlex.split(line.split("add it: ")[1])
    assert command[:2] == ["python", "autoencoder_test.py"]
    assert command[-2:] == ["--weights", "pretrained"]
    assert "available" not in command

    write_trunk_file("squeezenet1_1")  # as a download would
    done = run_here("autoencoder_test.py", *arguments, *SMALL, "--losses", "mse", "lpips-sq")
    assert done.returncode == 0, done.stderr
    assert left_out(done) == []
    assert "lpips-sq" in read_table(output_file(out, "test_loss", "net"), "test_loss")


def test_stage_8_computes_the_features_that_need_no_download(arguments, tmp_path):
    calculate = [*arguments, *LIGHT, "--calculate-features"]
    done = run_here("feature_analysis.py", *calculate, "--features", "colour", "scene", "--workers", 0)
    assert done.returncode == 0, done.stderr
    (line,) = left_out(done)
    assert (
        "scene features. To download fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth (74 MB), lraspp"
        in line
    )
    table = read_table(output_file(tmp_path / "out", "image_features"), "image_features")
    assert "colourfulness" in table
    assert "object_count" not in table
    done = run_here("feature_analysis.py", *calculate, "--features", "scene")
    assert_user_error(done, "leaves nothing of --features scene", "--weights pretrained")


def test_stage_7_leaves_out_objects_and_foreground(mini_memcat, tmp_path, caplog):
    args = dataset_args(
        mini_memcat, tmp_path / "out", detect=True, weights="available", workers=0, min_score=0.5
    )
    args.detector, args.segmenter = DETECTORS["light"], SEGMENTERS["light"]
    with caplog.at_level("INFO"), Run("model_interpretation_IG", args) as run:
        assert find_regions(run, pd.DataFrame({"image_id": ["a.jpg"], "path": ["a.jpg"]})) is None
    assert "not cached: objects and foreground. To download" in caplog.text


def test_stage_9_needs_no_download_without_an_lpips_budget_and_refuses_one():
    args = Namespace(lpips_budget=0.1, psnr_budget=[28.0], weights="available")
    with pytest.raises(UserError, match="leaves nothing of lpips-sq"):
        check_budgets(args)
    args.lpips_budget = None
    check_budgets(args)
    assert args.weights == "pretrained"
    write_trunk_file("squeezenet1_1")
    check_budgets(Namespace(lpips_budget=0.1, psnr_budget=[28.0], weights="available"))


def test_what_is_cached_is_not_missed():
    assert uncached(["alexnet", "squeezenet1_1", "alexnet"]) == ["alexnet", "squeezenet1_1"]
    write_trunk_file("squeezenet1_1")
    assert uncached(["alexnet", "squeezenet1_1"]) == ["alexnet"]
    assert not scene_networks_cached(DETECTORS["light"], SEGMENTERS["light"], "x")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--limit", "4", "--weights", "random", "--seed", "1"], "--limit 4 --seed 1 --weights pretrained"),
        (["--weights=random", "--data-dir", "my pictures"], "--data-dir 'my pictures' --weights pretrained"),
        ([], "--weights pretrained"),
    ],
)
def test_the_command_with_another_value(typed, expected):
    def main(args: Namespace) -> None:
        found.append(cli.command_with("--weights", "pretrained"))

    found: list[str] = []
    cli.run_script(main, lambda: cli.build_parser("x", "data", "output", "weights", "compute"), typed)
    assert found == [f"python test_weights_available.py {expected}"]
