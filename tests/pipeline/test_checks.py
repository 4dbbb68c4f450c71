"""What is known to fail is said before the first stage starts, with everything that will run and how long."""

import logging
import os
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_picture

import run_pipeline
from utils.core.errors import UserError
from utils.pipeline import checks
from utils.pipeline.before import check_apart, refuse_problems, say_plan
from utils.pipeline.checks import Findings, check_study, needed_networks

COMPACT = ("--pretrained", "builtin", "--weights", "available", "--image-size", "96")
FINETUNE_MSE = ("--extra", "autoencoder_finetune=--loss mse")


@pytest.fixture(autouse=True)
def _no_cached_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module", autouse=True)
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Four scored pictures in the current folder's ``MemCat``, which every command here finds by itself."""
    place = tmp_path_factory.mktemp("here")
    for number in range(4):
        path = place / "MemCat" / "all" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number, 12, 10).save(path)
    names = "".join(f"all/{number}.png,0.5\n" for number in range(4))
    (place / "MemCat" / "scores.csv").write_text("path,score\n" + names)
    before = Path.cwd()
    os.chdir(place)
    yield
    os.chdir(before)


def steps_of(output: Path, *flags: str) -> list:
    arguments = ["--output-path", str(output), *flags]
    return run_pipeline.plan(run_pipeline.get_parser(demo="--demo" in flags).parse_args(arguments))


def problems_of(output: Path, *flags: str, download: bool = False) -> list[str]:
    return check_study(steps_of(output, *flags), output, download).problems


def test_the_demo_has_nothing_in_its_way(tmp_path):
    found = check_study(steps_of(tmp_path / "o", "--demo"), tmp_path / "o", True)
    assert (found.problems, found.images, found.has_scores, found.networks) == ([], 40, True, [])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*COMPACT, *FINETUNE_MSE, "--losses", "ms-ssim"), "ms-ssim needs images of at least 161 px"),
        ((*COMPACT[:-1], "64", *FINETUNE_MSE, "--losses", "mse"), "was trained on images of 96 px"),
        ((*COMPACT, "--losses", "mse"), "no loss to fine-tune with: lpips-sq needs weights that are not cached"),
        (("--pretrained", "nowhere.pth"), "The pretrained autoencoder was not found"),
        (("--pretrained", "none", "--image-size", "100"), "expected a multiple of 32"),
        (("--pretrained", "none", "--data-dir", "nowhere"), "Expected a data folder at nowhere"),
        ((*COMPACT, *FINETUNE_MSE, "--model-names", "other"), "--model-names other is neither in"),
    ],
)  # fmt: skip
def test_what_would_stop_a_later_stage_is_said_first(tmp_path, flags, message):
    assert any(message in problem for problem in problems_of(tmp_path / "o", *flags))


def test_all_that_stands_in_the_way_is_said_at_once(tmp_path):
    flags = ("--pretrained", "builtin", "--image-size", "64", "--losses", "ms-ssim")
    problems = problems_of(tmp_path / "o", *flags)
    assert len(problems) == 2
    with pytest.raises(UserError, match=r"(?s)Nothing was started: 2 things .*\n  1\. .*\n  2\. "):
        refuse_problems(Findings(problems=problems))


def test_a_second_checkpoint_in_the_folder_is_noticed(tmp_path):
    flags = (*COMPACT, *FINETUNE_MSE, "--losses", "mse")
    assert problems_of(tmp_path, *flags) == []
    (tmp_path / "old.pth").write_bytes(b"weights")
    [problem] = problems_of(tmp_path, *flags)
    assert problem.startswith(
        f"old.pth in {tmp_path} beside mem_vgg_autoencoder_mse_lr1e-05_bs1_ep1.pth, which stage 1"
    )
    assert "Choose with --model-names mem_vgg_autoencoder_mse" in problem
    assert problems_of(tmp_path, *flags, "--model-names", "old") == []
    (tmp_path / "imagenet_vgg16_autoencoder.pth").write_bytes(b"weights")  # counts where it is named
    assert problems_of(tmp_path, *flags, "--model-names", "imagenet_vgg16_autoencoder.pth") == []
    assert problems_of(tmp_path, *flags, "--to-stage", "autoencoder_evaluation") == []


def test_several_models_of_stage_1_need_a_choice_too(tmp_path):
    grid = ("--extra", "autoencoder_finetune=--loss mse --learning-rate 1e-5 1e-4")
    [problem] = problems_of(tmp_path, *COMPACT, *grid, "--losses", "mse")
    assert "stages 4, 6 and 7 work with one checkpoint" in problem


def test_a_full_disk_is_seen_before_it_is_full(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(1, 1, 50 * 2**20))
    [problem] = problems_of(tmp_path / "not" / "there", *COMPACT, *FINETUNE_MSE, "--losses", "mse")
    assert "The outputs will take about 0.2 GiB" in problem
    assert "0.0 GiB free" in problem


def test_weights_are_fetched_before_the_first_stage_and_only_if_all_else_is_well(tmp_path, monkeypatch):
    asked = []

    def fetch(names):
        asked.append(list(names))
        raise UserError("no network")

    monkeypatch.setattr(checks, "fetch_weights", fetch)
    flags = (
        "--sample",
        "--pretrained",
        "none",
        "--losses",
        "mse",
        "--segmenter",
        "light",
        "--image-size",
        "64",
    )
    found = check_study(steps_of(tmp_path, *flags), tmp_path, False)
    assert (asked, found.problems) == ([], [])
    assert found.networks == ["squeezenet1_1", "fasterrcnn_resnet50_fpn", "lraspp_mobilenet_v3_large"]
    assert found.downloads[0] == "squeezenet1_1-b8a52dc0.pth (5 MB)"
    assert problems_of(tmp_path, *flags, download=True) == ["no network"]
    assert problems_of(tmp_path, *flags, "--model-names", "other", download=True) != ["no network"]
    assert len(asked) == 1


def test_networks_of_stages_that_do_not_run_are_not_asked_for(tmp_path):
    steps = steps_of(tmp_path, "--stages", "latent_analysis", "mlp_predict")
    assert check_study(steps, tmp_path, False).networks == []
    [step] = steps_of(
        tmp_path, "--stages", "feature_analysis", "--extra", "feature_analysis=--features colour"
    )
    assert needed_networks(step.name, step.args) == []


def test_pictures_without_scores_leave_out_what_is_about_scores(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    (tmp_path / "p").mkdir()
    make_picture(1, 40, 40).save(tmp_path / "p" / "a.png")
    flags = (
        "--data-dir",
        str(tmp_path / "p"),
        "--pretrained",
        "none",
        "--image-size",
        "32",
        "--losses",
        "mse",
    )
    arguments = ["--output-path", str(tmp_path / "o"), "--weights", "available", *FINETUNE_MSE, *flags]
    monkeypatch.setattr(run_pipeline, "check_apart", check_study)
    args = run_pipeline.get_parser().parse_args(arguments)
    kept = run_pipeline.check(run_pipeline.plan(args), args)
    assert [step.name for step in kept] == [
        *("autoencoder_finetune", "autoencoder_test", "latent_analysis", "feature_analysis"),
    ]


def test_the_plan_says_why_what_and_how_long(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    steps = steps_of(tmp_path, "--demo")
    found = Findings(images=40, seconds={step.name: 10.0 for step in steps}, downloads=["x.pth (5 MB)"])
    say_plan(steps, found, tmp_path)
    assert "Stage 1/8 autoencoder_finetune: about 10 s (no complete run of it is on record)" in caplog.text
    assert "Weights to download first: x.pth (5 MB)" in caplog.text
    assert "Together about 1 min 20 s; rough" in caplog.text
    found.has_scores = False
    say_plan(steps, found, tmp_path)
    assert "Stage 6/8 mlp_predict: left out, the pictures have no scores" in caplog.text
    assert "Together about 40 s" in caplog.text


def test_estimates_grow_with_images_sides_and_steps(tmp_path):
    def seconds(stage, *flags, images=100):
        [step] = steps_of(tmp_path, "--stages", stage, *flags)
        return checks.estimate_seconds(step, images, 1.0)

    assert seconds("autoencoder_test", images=1000) > 5 * seconds("autoencoder_test")
    assert seconds("autoencoder_test", "--image-size", "96") < seconds("autoencoder_test")
    assert seconds("model_interpretation_IG", "--ig-steps", "8") < seconds("model_interpretation_IG")
    # 30 test images of 100, 7 s each at 50 steps
    assert seconds("model_interpretation_IG") == pytest.approx(4 + 30 * 7)


def test_flags_that_a_stage_does_not_know_are_refused_before_any_runs(tmp_path):
    with pytest.raises(UserError) as caught:
        steps_of(tmp_path, "--extra", "mlp_predict=--hiden-sizes 3")
    assert str(caught.value) == (
        "mlp_predict.py does not understand what it would be given: unrecognized arguments: --hiden-sizes 3. Did you mean "
        "--hidden-sizes?"
    )


def test_steps_of_attribution_are_exact_unless_doubling_is_asked_for(tmp_path):
    def doublings(*flags):
        [step] = steps_of(tmp_path, "--stages", "model_interpretation_IG", *flags)
        return step.args.steps, step.args.max_doublings

    assert doublings("--ig-steps", "8") == (8, 0)
    assert doublings() == (50, 3)
    assert doublings("--ig-steps", "8", "--extra", "model_interpretation_IG=--max-doublings 2") == (8, 2)
    assert doublings("--demo") == (32, 3)


def test_a_dry_run_writes_nothing_and_runs_nothing(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(run_pipeline, "check_apart", lambda *args, **flags: Findings(images=40))
    monkeypatch.setattr(run_pipeline, "run_stage", lambda *args: pytest.fail("ran"))
    arguments = ["--demo", "--dry-run", "--output-path", str(tmp_path / "o")]
    run_pipeline.main(run_pipeline.get_parser(demo=True).parse_args(arguments))
    assert "40 images; the plan:" in caplog.text
    assert not (tmp_path / "o").exists()


def test_the_checks_run_in_a_process_of_their_own(tmp_path):
    steps = steps_of(tmp_path, "--stages", "latent_analysis", "--image-size", "100")
    found = check_apart(steps, tmp_path, False)
    assert found.images == 4
    assert "expected a multiple of 32" in found.problems[0]
