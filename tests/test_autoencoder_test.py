import io
import json
import logging
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT_ROOT, assert_user_error, run_script_process
from PIL import Image
from skimage.metrics import structural_similarity

import autoencoder_test
from models.autoencoder import Autoencoder, build_autoencoder
from models.checkpoints import load_autoencoder, save_autoencoder
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.core.tables import read_table
from utils.data.images import load_pixels
from utils.reconstruction import testing_stage
from utils.reconstruction.examples import draw_examples, pick_examples
from utils.reconstruction.losses import ReconstructionLosses, _Trunk

SIZE = 32
QUICK = ["mse", "mae", "ssim", "lpips-sq"]
COMMON = ["--image-size", str(SIZE), "--weights", "random", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One small autoencoder with random weights, said so in its meta."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    model = build_autoencoder("vgg11", seed=0)
    save_autoencoder(path, model, image_size=SIZE, caveats=["random weights: autoencoder"])
    return path


@pytest.fixture
def output(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / checkpoint.name)
    return tmp_path


def run(data, output, *more, losses=QUICK):
    given = ["--data-dir", data, "--output-path", output, *COMMON, "--losses", *losses, *more]
    autoencoder_test.main(autoencoder_test.get_parser().parse_args(list(map(str, given))))


@pytest.fixture(scope="module")
def baseline(checkpoint, mini_memcat, tmp_path_factory):
    """The output of one undisturbed run with the default batch size; read-only."""
    folder = tmp_path_factory.mktemp("baseline")
    shutil.copy(checkpoint, folder / checkpoint.name)
    run(mini_memcat, folder)
    return folder


def table(output, name="small"):
    return read_table(output / f"test_loss_{name}.csv", "test_loss")


def test_values_are_those_of_the_one_reconstruction(mini_memcat, baseline):
    """Against numpy and scikit-image on a reconstruction made here, image by image."""
    found = table(baseline).set_index("image_id")
    assert len(found) == 12
    assert list(found.columns) == ["category", "subcategory", "memorability", *QUICK, "caveat"]
    model, _ = load_autoencoder(baseline / "small.pth")
    for image_id, row in found.iterrows():
        image = load_pixels(mini_memcat / "MemCat_images" / "MemCat" / image_id, SIZE)
        with torch.inference_mode():
            reconstruction = model(torch.from_numpy(image)[None])[0].numpy()
        assert row["mse"] == pytest.approx(((image - reconstruction) ** 2).mean(), rel=1e-4)
        assert row["mae"] == pytest.approx(np.abs(image - reconstruction).mean(), rel=1e-4)
        similarity = structural_similarity(
            image,
            reconstruction,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        assert row["ssim"] == pytest.approx(1 - similarity, abs=1e-4)
        assert image_id.split("/")[:2] == [row["category"], row["subcategory"]]


def test_all_eight_losses_where_the_images_are_large_enough(mini_memcat, tmp_path):
    save_autoencoder(tmp_path / "m.pth", build_autoencoder("vgg11", seed=0), image_size=192, caveats=[])
    parser = autoencoder_test.get_parser()
    given = ["--data-dir", mini_memcat, "--output-path", tmp_path, *COMMON, "--image-size", 192, "--limit", 2]
    autoencoder_test.main(parser.parse_args(list(map(str, given))))
    found = table(tmp_path, "m")
    assert [name for name in found.columns if name in LOSSES] == list(LOSSES)
    assert (found[list(LOSSES)] > 0).all(axis=None)
    assert "random weights: LPIPS and style (vgg16, alexnet, squeezenet1_1, vgg19)" in found["caveat"].iloc[0]


def test_one_forward_pass_per_image_for_all_losses(mini_memcat, output, monkeypatch):
    seen = []
    forward = Autoencoder.forward
    monkeypatch.setattr(Autoencoder, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    monkeypatch.setattr(testing_stage, "reconstruct", lambda args, model, paths, device: None)
    monkeypatch.setattr(testing_stage, "write_results", lambda *given: None)
    run(mini_memcat, output, "--batch-size", 5, losses=QUICK)
    assert seen == [5, 5, 2]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_values_do_not_depend_on_the_batch_size(mini_memcat, output, baseline, batch_size):
    run(mini_memcat, output, "--batch-size", batch_size)
    pd.testing.assert_frame_equal(table(output), table(baseline), rtol=1e-5, atol=1e-6)


def test_rerun_is_up_to_date_and_needs_no_trunks(mini_memcat, baseline, monkeypatch, caplog):
    output = baseline
    before = {path: path.read_bytes() for path in output.glob("*small*")}
    names = {"small.pth", "test_loss_small.csv", "reconstructions_small.png", "pairs_small.zip"}
    assert {path.name for path in before} == names

    def refuse(*args, **kwargs):
        raise AssertionError("the losses were computed again")

    monkeypatch.setattr(ReconstructionLosses, "__init__", refuse)
    with caplog.at_level(logging.INFO):
        run(mini_memcat, output)
    assert "up to date" in caplog.text
    assert {path: path.read_bytes() for path in before} == before


def test_stopped_and_run_again_gives_the_same_bytes(mini_memcat, output, monkeypatch):
    one = ("--batch-size", 1)
    run(mini_memcat, output, *one)
    names = ("test_loss_small.csv", "reconstructions_small.png", "pairs_small.zip")
    whole = [(output / name).read_bytes() for name in names]
    for name in names:
        (output / name).unlink()
    shutil.rmtree(output / "shards")  # finished shards are kept, and nothing would be done
    calls = []
    forward = Autoencoder.forward

    def stop(self, images):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            run(mini_memcat, output, *one)
    assert not (output / "test_loss_small.csv").exists()
    assert len(list((output / "shards").rglob("shard_*.npz"))) == 1
    run(mini_memcat, output, *one)
    assert [(output / name).read_bytes() for name in names] == whole


def test_several_models_and_a_choice_of_them(mini_memcat, output):
    second = build_autoencoder("vgg11", seed=1)
    save_autoencoder(output / "other.pth", second, image_size=SIZE, caveats=[])
    run(mini_memcat, output, "--model-names", "other.pth", losses=["mse"])
    assert not (output / "test_loss_small.csv").exists()
    run(mini_memcat, output, losses=["mse"])
    assert not np.allclose(table(output)["mse"], table(output, "other")["mse"])


def test_models_tested_together_leave_the_bytes_of_each_alone_and_share_the_originals(
    mini_memcat, output, tmp_path_factory, monkeypatch
):
    names = ["small.pth", "other.pth", "third.pth"]
    for seed, name in enumerate(names[1:], 1):
        save_autoencoder(output / name, build_autoencoder("vgg11", seed=seed), image_size=SIZE, caveats=[])
    alone = tmp_path_factory.mktemp("alone")
    seen: dict[str, int] = {}
    through = _Trunk.__call__

    def count(self, images):
        seen[self.name] = seen.get(self.name, 0) + len(images)
        return through(self, images)

    monkeypatch.setattr(_Trunk, "__call__", count)
    monkeypatch.setattr(testing_stage, "MODELS_AT_ONCE", 2)
    losses = ["mse", "lpips-vgg", "lpips-sq", "style"]
    for name in names:
        shutil.copy(output / name, alone / name)
        run(mini_memcat, alone, "--model-names", name, "--limit", 5, "--batch-size", 2, losses=losses)
    assert seen == dict.fromkeys(["vgg16", "squeezenet1_1", "vgg19"], 3 * 2 * 5)
    seen.clear()
    together = ("--model-names", *names, "--limit", 5, "--batch-size", 2)
    run(mini_memcat, output, *together, losses=losses)
    # two models at once, then the third: the originals twice, not three times
    assert seen == {"vgg16": (2 + 3) * 5, "squeezenet1_1": 3 * 2 * 5, "vgg19": (2 + 3) * 5}
    for name in ("small", "other", "third"):
        for file in (f"test_loss_{name}.csv", f"pairs_{name}.zip", f"reconstructions_{name}.png"):
            assert (output / file).read_bytes() == (alone / file).read_bytes()


def test_a_models_caveat_does_not_mark_the_next_one(mini_memcat, output):
    save_autoencoder(output / "z.pth", build_autoencoder("vgg11", seed=1), image_size=SIZE, caveats=[])
    run(mini_memcat, output, losses=["mse"])  # small.pth first
    assert set(table(output)["caveat"]) == {"random weights: autoencoder"}
    assert "caveat" not in table(output, "z")


def test_scores_follow_the_score_column_though_the_losses_are_up_to_date(mini_memcat, output, caplog):
    run(mini_memcat, output, losses=["mse"])
    before = table(output)
    with caplog.at_level(logging.INFO):
        run(mini_memcat, output, "--score-column", "memorability_wo_fa_correction", losses=["mse"])
    assert "up to date" in caplog.text
    after = table(output)
    scores = pd.read_csv(mini_memcat / "MemCat_data" / "memcat_image_data.csv")
    scores.index = scores["category"] + "/" + scores["subcategory"] + "/" + scores["image_file"]
    expected = scores["memorability_wo_fa_correction"].reindex(after["image_id"])
    np.testing.assert_allclose(after["memorability"], expected, rtol=1e-8)
    assert not np.allclose(before["memorability"], after["memorability"])
    assert after["mse"].equals(before["mse"])


def test_released_losses_get_their_own_file(mini_memcat, output):
    run(mini_memcat, output, losses=["mse", "lpips-sq"])
    run(mini_memcat, output, "--recipe", "released", losses=["mse", "lpips-sq"])
    corrected, released = table(output), table(output, "small_released-losses")
    np.testing.assert_allclose(corrected["mse"], released["mse"])
    assert (released["lpips-sq"] < corrected["lpips-sq"]).all()  # half the contrast goes in
    assert (output / "reconstructions_small_released-losses.png").exists()
    np.testing.assert_allclose(released["1-lpips-sq"], 1 - released["lpips-sq"], rtol=1e-6)
    assert not [name for name in corrected if name.startswith("1-")]


def test_damaged_image_is_left_out_and_named(mini_memcat, output, tmp_path_factory):
    data = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(mini_memcat, data)
    victim = sorted((data / "MemCat_images").rglob("*.jpg"))[3]
    victim.write_bytes(b"")
    run(data, output, losses=["mse"])
    assert len(table(output)) == 11
    skipped = read_table(output / "skipped_images.csv", "skipped_images")
    assert skipped["image_id"].tolist() == [victim.relative_to(data / "MemCat_images" / "MemCat").as_posix()]
    with pytest.raises(UserError, match=victim.name):
        run(data, output, "--on-error", "fail", "--overwrite", losses=["mse"])


def test_broken_network_is_said_with_the_image(mini_memcat, output):
    model = build_autoencoder("vgg11", seed=0)
    with torch.no_grad():
        model.decoder.conv5[-1].layer[2].bias.fill_(torch.nan)
    save_autoencoder(output / "small.pth", model, image_size=SIZE, caveats=[])
    with pytest.raises(UserError) as caught:
        run(mini_memcat, output)
    assert "The mse loss of animal/bear/" in str(caught.value)
    assert "is nan" in str(caught.value)
    assert "--model-names" in str(caught.value)
    assert not (output / "test_loss_small.csv").exists()


@pytest.mark.parametrize(
    ("flags", "losses", "words"),
    [
        (["--image-size", "64"], QUICK, ["small.pth", "32 px", "--image-size is 64"]),
        (["--image-size", "33"], QUICK, ["multiple of 32"]),
        ([], ["ms-ssim"], ["at least 161 px", "got 32 px"]),
        (["--figure-loss", "style"], QUICK, ["--figure-loss style", "mse, mae, ssim, lpips-sq"]),
        (["--model-names", "absent.pth"], QUICK, ["absent.pth", "small.pth"]),
    ],
)
def test_bad_input(mini_memcat, output, flags, losses, words):
    with pytest.raises(UserError) as caught:
        run(mini_memcat, output, *flags, losses=losses)
    for word in words:
        assert word in str(caught.value)
    assert not list(output.glob("test_loss*"))


def test_bad_command_lines(mini_memcat, tmp_path):
    given = ["--data-dir", mini_memcat, "--output-path", tmp_path]
    done = run_script_process("autoencoder_test.py", *given, "--losses", "psnr")
    assert_user_error(done, "psnr", "lpips-sq")
    done = run_script_process("autoencoder_test.py", *given)
    assert_user_error(done, str(tmp_path), "python autoencoder_finetune.py")
    (tmp_path / "notes.pth").write_bytes(b"<!DOCTYPE html><html>")
    done = run_script_process("autoencoder_test.py", *given, "--weights", "random")
    assert_user_error(done, "notes.pth", "web page")


@pytest.mark.long
def test_two_processes_give_the_same_bytes_as_one(mini_memcat, output, tmp_path_factory, checkpoint):
    run(mini_memcat, output, "--batch-size", 1)
    other = tmp_path_factory.mktemp("two")
    shutil.copy(checkpoint, other / "small.pth")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [PROJECT_ROOT / "autoencoder_test.py", "--data-dir", mini_memcat, "--output-path", other]
    command += [*COMMON, "--losses", *QUICK, "--batch-size", "1"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    pd.testing.assert_frame_equal(table(other), table(output), rtol=1e-6)


# ---------------------------------------------------------------------------------------------- the figure


def losses_table(count):
    return pd.DataFrame(
        {
            "image_id": [f"a/b/{n:02d}.jpg" for n in range(count)],
            "memorability": np.linspace(0.4, 0.9, count),
            "mse": np.arange(count, dtype=float)[::-1],
        }
    )


def test_pick_examples_known_answer():
    groups = {
        name: group["mse"].tolist() for name, group in pick_examples(losses_table(13), "mse", 3).items()
    }
    assert groups == {"best": [0, 1, 2], "median": [5, 6, 7], "worst": [12, 11, 10]}


@pytest.mark.parametrize("count", range(1, 15))
def test_pick_examples_takes_no_image_twice(count):
    groups = pick_examples(losses_table(count), "mse")
    names = [name for group in groups.values() for name in group["image_id"]]
    assert len(set(names)) == len(names)
    assert list(groups) == ["best", "median", "worst"] if count >= 3 else ["best", "worst"][:count]


def test_figure_shows_both_numbers_and_both_pictures():
    groups = pick_examples(losses_table(6), "mse")
    original, reconstruction = np.zeros((3, 8, 8), np.float32), np.full((3, 8, 8), 0.5, np.float32)
    pixels = {f"a/b/{n:02d}.jpg": (original, reconstruction) for n in range(6)}
    figure = draw_examples(groups, pixels, "mse", "a_model")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "mse 0 · memorability 0.90"
    assert titles[-1] == "mse 4 · memorability 0.50"
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (8, 17, 3)
    assert (shown[:, :8] == 0).all()
    assert (shown[:, 9:] == 0.5).all()


def test_every_image_has_its_picture_beside_its_reconstruction_in_the_order_of_the_table(
    mini_memcat, baseline
):
    found = table(baseline)
    model, _ = load_autoencoder(baseline / "small.pth")
    with zipfile.ZipFile(baseline / "pairs_small.zip") as pack:
        assert len(pack.namelist()) == len(found) == 12
        for number in (0, 7, 11):
            pixels = np.asarray(Image.open(io.BytesIO(pack.read(f"{number:06d}.jpg")))) / 255
            image_id = found["image_id"].iloc[number]
            image = load_pixels(mini_memcat / "MemCat_images" / "MemCat" / image_id, SIZE)
            with torch.inference_mode():
                reconstruction = model(torch.from_numpy(image)[None])[0].numpy()
            expected = np.concatenate([image, reconstruction], axis=2).transpose(1, 2, 0)
            # JPEG blurs; another image of the set would be off by several times as much.
            assert np.abs(pixels.mean((0, 1)) - expected.mean((0, 1))).max() < 0.01
            assert np.abs(pixels[:, :SIZE] - expected[:, :SIZE]).mean() < 0.08


def test_bf16_is_close_marked_recorded_and_not_mistaken_for_float32(mini_memcat, output, baseline):
    arguments = ("--precision", "bf16")
    run(mini_memcat, output, *arguments)
    plain, reduced = table(baseline), table(output)
    assert "networks computed in bf16" in reduced["caveat"].iloc[0]
    assert not reduced["mse"].equals(plain["mse"])
    np.testing.assert_allclose(reduced[QUICK], plain[QUICK], rtol=0.1)
    record = json.loads((output / "run_autoencoder_test.json").read_text())
    assert record["arguments"]["precision"] == "bf16"
    assert "networks computed in bf16" in record["caveats"]
    run(mini_memcat, output)
    pd.testing.assert_frame_equal(table(output), plain)
