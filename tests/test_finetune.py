import copy
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT_ROOT, assert_user_error, edit_in_place, make_picture, run_script_process
from torch import nn

import autoencoder_finetune
from models.autoencoder import build_autoencoder
from models.checkpoints import load_autoencoder, read_weights_file, save_autoencoder
from utils.core.digests import FileDigests
from utils.core.errors import ImageError, UserError
from utils.core.tables import read_table
from utils.data.images import load_pixels
from utils.reconstruction.exposure_tables import exposure_table, training_table
from utils.reconstruction.finetuning import (
    FineTuner,
    FineTuningSettings,
    Progress,
    exposure_order,
    loss_curve,
    model_name,
    training_fingerprint,
)
from utils.reconstruction.losses import ReconstructionLosses

IMAGES = 7
SMALL = ["--arch", "vgg11", "--image-size", "32", "--pretrained", "none", "--weights", "random"]
SMALL += ["--workers", "0", "--device", "cpu"]


class TinyAutoencoder(nn.Module):
    """Two convolutions with a batch norm between them: everything that a resumed run must bring back."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
            )

    def forward(self, images):
        return torch.sigmoid(self.layers(images))


def pixels_of(path):
    """A fixed random image for each name."""
    return np.random.default_rng(int(path)).random((3, 16, 16), dtype=np.float32)


def image_list(count=IMAGES):
    return pd.DataFrame(
        {"image_id": [f"a/{n}.jpg" for n in range(count)], "path": list(map(str, range(count)))}
    )


def make_tuner(folder, settings=None, load=pixels_of, images=None, model=None, losses=None, **options):
    settings = settings or FineTuningSettings(loss="mse", learning_rate=1e-2, image_size=16)
    images = image_list() if images is None else images
    return FineTuner(
        model or TinyAutoencoder(),
        images,
        settings,
        losses or ReconstructionLosses([settings.loss], "random", recipe=settings.recipe),
        folder / "state.pt",
        training_fingerprint(settings, "tiny", images),
        load,
        **{"checkpoint_every": 3, "workers": 0, **options},
    )


def arguments(*given):
    return autoencoder_finetune.get_parser().parse_args(list(map(str, given)))


def finetune(data, output, *more):
    """Run the script's main in this process."""
    autoencoder_finetune.main(arguments("--data-dir", data, "--output-path", output, *SMALL, *more))


def exposures(output, name):
    return (
        read_table(output / f"exposures_{name}.csv", "exposures").sort_values("order").reset_index(drop=True)
    )


# ---------------------------------------------------------------------------------------------- names and order


def test_model_names():
    assert model_name(FineTuningSettings()) == "mem_vgg_autoencoder"
    assert model_name(FineTuningSettings(), alone=False) == "mem_vgg_autoencoder_lpips-sq_lr1e-05_bs1_ep1"
    assert model_name(FineTuningSettings(loss="mse")) == "mem_vgg_autoencoder_mse_lr1e-05_bs1_ep1"
    assert (
        model_name(FineTuningSettings(recipe="released", order="dataset")) == "mem_vgg_autoencoder_released"
    )
    odd = FineTuningSettings(split="train", order="dataset", batch_norm="frozen", precision="bf16", seed=3)
    assert (
        model_name(odd, "vgg11") == "mem_vgg_autoencoder_vgg11_dataset-order_train-split_frozen-bn_bf16_seed3"
    )
    assert model_name(FineTuningSettings(), width=0.25) == "mem_vgg_autoencoder_w0.25"
    assert (
        model_name(FineTuningSettings(), width=1.0)
        == model_name(FineTuningSettings(), width=None)
        == "mem_vgg_autoencoder"
    )


def test_names_of_a_grid_are_distinct():
    args = arguments("--loss", "mse", "style", "mse", "--epochs", "1", "2", "--batch-size", "1", "4")
    from utils.reconstruction.finetune_stage import combinations

    found = combinations(args)
    assert len(found) == 8  # mse named twice counts once
    assert len({model_name(settings, alone=False) for settings in found}) == 8
    assert found[0] == FineTuningSettings(loss="mse")


def test_defaults_are_those_of_the_paper():
    from utils.reconstruction.finetune_stage import combinations

    assert combinations(arguments()) == [
        FineTuningSettings("lpips-sq", 1e-5, 1, 1, "all", "shuffled", "update", "corrected")
    ]
    assert combinations(arguments("--recipe", "released"))[0].order == "dataset"
    assert combinations(arguments("--recipe", "released", "--order", "shuffled"))[0].order == "shuffled"
    assert arguments("--losses", "mse", "--learning-rates", "1e-3", "--batch-sizes", "2").batch_size == [2]


def test_exposure_order():
    first = exposure_order(50, 1, "shuffled", 0)
    assert sorted(first) == list(range(50))
    assert list(first) != list(range(50))
    assert np.array_equal(first, exposure_order(50, 1, "shuffled", 0))
    assert not np.array_equal(first, exposure_order(50, 2, "shuffled", 0))
    assert not np.array_equal(first, exposure_order(50, 1, "shuffled", 1))
    assert list(exposure_order(5, 2, "dataset", 9)) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------------------------------------- training itself


@pytest.mark.parametrize("batch_size", [1, 3])
def test_losses_are_those_before_each_step(tmp_path, batch_size):
    """Against a plain loop with torch's own loss and Adam."""
    settings = FineTuningSettings(
        loss="mse", learning_rate=1e-2, batch_size=batch_size, epochs=2, image_size=16
    )
    tuner = make_tuner(tmp_path, settings)
    progress = tuner.run()
    model = TinyAutoencoder().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in (1, 2):
        order = np.random.default_rng([0, epoch]).permutation(IMAGES)
        assert progress.indices[epoch - 1] == order.tolist()
        expected = []
        for start in range(0, IMAGES, batch_size):
            images = torch.stack([torch.from_numpy(pixels_of(n)) for n in order[start : start + batch_size]])
            values = (model(images) - images).square().mean(dim=(1, 2, 3))
            optimizer.zero_grad()
            values.mean().backward()
            optimizer.step()
            expected += values.tolist()
        np.testing.assert_allclose(progress.losses[epoch - 1], expected, rtol=1e-4)
    wanted = dict(model.named_parameters())
    for name, found in tuner.model.named_parameters():
        if name != "layers.0.bias":  # has no gradient but rounding error, since a batch norm follows it
            torch.testing.assert_close(found, wanted[name], rtol=1e-2, atol=1e-4)


def test_training_lowers_the_loss(tmp_path):
    progress = make_tuner(
        tmp_path, FineTuningSettings(loss="mae", learning_rate=1e-2, epochs=6, image_size=16)
    ).run()
    means = training_table(progress)["loss_mean"]
    assert means.iloc[-1] < means.iloc[0]


@pytest.mark.parametrize("mode", ["update", "frozen"])
def test_batch_norm_statistics(tmp_path, mode):
    settings = FineTuningSettings(loss="mse", learning_rate=1e-2, batch_norm=mode, image_size=16)
    tuner = make_tuner(tmp_path, settings)
    norm = tuner.model.layers[1]
    before, scale = norm.running_mean.clone(), norm.weight.detach().clone()
    tuner.run()
    assert torch.equal(norm.running_mean, before) == (mode == "frozen")
    assert norm.num_batches_tracked == (0 if mode == "frozen" else IMAGES)
    assert not torch.equal(norm.weight, scale)  # frozen statistics, not frozen weights


@pytest.mark.parametrize(("recipe", "sign"), [("corrected", -1), ("released", 1)])
def test_released_recipe_drives_reconstructions_away(tmp_path, recipe, sign):
    settings = FineTuningSettings(
        loss="lpips-sq", learning_rate=3e-3, epochs=8, recipe=recipe, order="dataset", image_size=16
    )
    images = image_list(1)
    # 16 px is too small for SqueezeNet's poolings
    progress = make_tuner(
        tmp_path,
        settings,
        images=images,
        load=lambda path: np.kron(pixels_of(path), np.ones((1, 4, 4), np.float32)),
    ).run()
    change = progress.losses[-1][0] - progress.losses[0][0]
    assert np.sign(change) == sign


def test_bf16_is_close_to_float32(tmp_path):
    losses = {}
    for precision in ("float32", "bf16"):
        (tmp_path / precision).mkdir()
        settings = FineTuningSettings(loss="mse", precision=precision, image_size=16, learning_rate=1e-2)
        losses[precision] = make_tuner(tmp_path / precision, settings).run().losses[0]
    assert losses["float32"] != losses["bf16"]
    np.testing.assert_allclose(losses["bf16"], losses["float32"], rtol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(tmp_path):
    from utils.core.device import full_float32

    full_float32()
    (tmp_path / "cpu").mkdir()
    expected = make_tuner(tmp_path / "cpu").run().losses[0]
    found = make_tuner(tmp_path, model=TinyAutoencoder().cuda()).run().losses[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.long
def test_compiled_is_close_to_eager(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    eager = make_tuner(tmp_path, FineTuningSettings(loss="mse", image_size=16), checkpoint_every=100).run()
    compiled = make_tuner(tmp_path, FineTuningSettings(loss="mse", compile=True, image_size=16)).run()
    np.testing.assert_allclose(compiled.losses[0], eager.losses[0], rtol=1e-4)


def test_failing_compiler_is_said_plainly(tmp_path, monkeypatch):
    def broken(model):
        def forward(images):
            raise RuntimeError("no working compiler\nlong story")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match=r"--compile failed on this machine \(no working compiler\)"):
        make_tuner(tmp_path, FineTuningSettings(loss="mse", compile=True, image_size=16)).run()


# ---------------------------------------------------------------------------------------------- going on after a kill


class StopAt:
    """A loader that is interrupted at its k-th image, as by Ctrl-C or a full disk."""

    def __init__(self, k):
        self.left = k

    def __call__(self, path):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return pixels_of(path)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("batch_norm", ["update", "frozen"])
def test_stopped_anywhere_it_ends_bit_for_bit_the_same(tmp_path, batch_size, batch_norm):
    settings = FineTuningSettings(
        loss="mse", learning_rate=1e-2, batch_size=batch_size, epochs=2, batch_norm=batch_norm, image_size=16
    )
    (tmp_path / "whole").mkdir()
    whole = make_tuner(tmp_path / "whole", settings, checkpoint_every=10**6)
    expected = whole.run()
    for stop in range(2 * IMAGES):
        folder = tmp_path / f"stopped_{stop}"
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            make_tuner(folder, settings, load=StopAt(stop), checkpoint_every=2).run()
        again = make_tuner(folder, settings, checkpoint_every=2)
        progress = again.run()
        assert progress.losses == expected.losses, stop
        assert progress.indices == expected.indices, stop
        for name, tensor in again.model.state_dict().items():
            assert torch.equal(tensor, whole.model.state_dict()[name]), (stop, name)
        assert (progress.resumed > 0) == (stop >= 2 * batch_size), stop


def test_state_of_other_settings_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_tuner(tmp_path, load=StopAt(5)).run()
    other = FineTuningSettings(loss="mse", learning_rate=5e-2, image_size=16)
    with pytest.raises(UserError) as caught:
        make_tuner(tmp_path, other).run()
    message = str(caught.value)
    assert str(tmp_path / "state.pt") in message
    assert "learning_rate: 0.01 -> 0.05" in message
    assert "--overwrite" in message


def test_damaged_state_is_named(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half a state")
    with pytest.raises(UserError, match="state.pt cannot be read"):
        make_tuner(tmp_path).run()


def test_fingerprint_notices_what_matters(tmp_path):
    images = image_list()
    base = training_fingerprint(FineTuningSettings(), "start", images)
    assert base == training_fingerprint(FineTuningSettings(), "start", images)
    assert base != training_fingerprint(FineTuningSettings(seed=1), "start", images)
    assert base != training_fingerprint(FineTuningSettings(), "other start", images)
    assert base != training_fingerprint(FineTuningSettings(), "start", images.iloc[1:])
    assert base != training_fingerprint(FineTuningSettings(), "start", images, arch="vgg11")


def stored_images(folder, count=IMAGES):
    """Files that hold the number of the image they stand for."""
    images = image_list(count)
    images["path"] = [str(folder / f"{number}.txt") for number in range(count)]
    for number, path in enumerate(images["path"]):
        Path(path).write_text(f"{number:03d}")
    return images


def test_a_state_is_not_gone_on_with_when_an_exposed_image_was_edited(tmp_path, caplog):
    images, seen = stored_images(tmp_path), []

    def load(file):
        seen.append(int(file.content))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return pixels_of(file.content)

    settings = FineTuningSettings(loss="mse", learning_rate=1e-2, image_size=16, order="dataset")
    with pytest.raises(KeyboardInterrupt):
        make_tuner(tmp_path, settings, load=load, images=images).run()
    edit_in_place(Path(images["path"][IMAGES - 1]), "777")  # not seen yet
    assert make_tuner(tmp_path, settings, load=load, images=images).run().resumed == 3
    edit_in_place(Path(images["path"][1]), "555")
    progress = make_tuner(tmp_path, settings, load=load, images=images).run()
    assert progress.resumed == 0
    assert "The images changed since the training was interrupted (a/1.jpg): it starts anew" in caplog.text
    whole = make_tuner(tmp_path / "fresh", settings, load=load, images=images).run()
    assert progress.losses == whole.losses


def test_what_was_read_is_digested_as_what_is_there(tmp_path):
    images = stored_images(tmp_path)
    digests = FileDigests(tmp_path)
    progress = make_tuner(
        tmp_path, load=lambda file: pixels_of(file.content), images=images, digests=digests
    ).run()
    assert progress.pictures(images) == digests.of_images(images)
    edit_in_place(Path(images["path"][2]), "555")
    assert progress.pictures(images) != digests.of_images(images)


# ---------------------------------------------------------------------------------------------- what can go wrong


def test_non_finite_loss_stops_and_names_the_image(tmp_path):
    def load(path):
        image = pixels_of(path)
        if path == "4":
            image[0, 0, 0] = np.nan
        return image

    tuner = make_tuner(tmp_path, load=load)
    with pytest.raises(UserError) as caught:
        tuner.run()
    message = str(caught.value)
    assert "a/4.jpg" in message
    assert "mse loss" in message
    position = exposure_order(IMAGES, 1, "shuffled", 0).tolist().index(4) + 1
    assert f"exposure {position} of epoch 1" in message
    assert "--learning-rate" in message
    assert all(torch.isfinite(parameter).all() for parameter in tuner.model.parameters())


def test_non_finite_gradient_stops_before_the_step(tmp_path):
    class Cliff(ReconstructionLosses):
        def __call__(self, image, reconstruction):
            values = super().__call__(image, reconstruction)
            return {name: value + torch.sqrt(value * 0) for name, value in values.items()}

    tuner = make_tuner(tmp_path, losses=Cliff(["mse"]))
    before = copy.deepcopy(tuner.model.state_dict())
    with pytest.raises(UserError, match="not finite at a/"):
        tuner.run()
    for name, parameter in tuner.model.named_parameters():
        assert torch.equal(parameter, before[name])


def unreadable(path):
    if path in ("2", "5"):
        raise ImageError(path, "truncated")
    return pixels_of(path)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_unreadable_images_are_left_out_once(tmp_path, batch_size):
    settings = FineTuningSettings(loss="mse", batch_size=batch_size, epochs=2, image_size=16)
    progress = make_tuner(tmp_path, settings, load=unreadable).run()
    assert progress.skipped == {2: "truncated", 5: "truncated"}
    for epoch in (0, 1):
        assert sorted(progress.indices[epoch]) == [0, 1, 3, 4, 6]
        assert len(progress.losses[epoch]) == 5
    table = exposure_table(progress, image_list())
    assert list(table["order"]) == [0, 1, 2, 3, 4]
    assert set(table["image_id"]) == {f"a/{n}.jpg" for n in (0, 1, 3, 4, 6)}


def test_unreadable_image_is_fatal_on_request(tmp_path):
    with pytest.raises(UserError, match="truncated"):
        make_tuner(tmp_path, load=unreadable, on_error="fail").run()


def test_nothing_readable_is_an_error(tmp_path):
    def load(path):
        raise ImageError(path, "empty file")

    with pytest.raises(UserError, match=r"None of the 7 images could be read .*empty file"):
        make_tuner(tmp_path, load=load).run()


# ---------------------------------------------------------------------------------------------- tables and curve


def test_training_table_known_answer():
    progress = Progress(losses=[[4.0, 2.0, 3.0, 1.0, 0.0], [1.0]], indices=[[0, 1, 2, 3, 4], [0]])
    table = training_table(progress)
    assert table["epoch"].tolist() == [1, 2]
    assert table["images"].tolist() == [5, 1]
    assert table["loss_mean"].tolist() == [2.0, 1.0]
    assert table["loss_first_half"].iloc[0] == 3.0
    assert table["loss_second_half"].iloc[0] == pytest.approx(4 / 3)
    assert np.isnan(table["loss_first_half"].astype(float).iloc[1])


def test_exposures_are_those_of_the_first_epoch():
    progress = Progress(epoch=2, losses=[[0.3, 0.1], [9.0, 9.0]], indices=[[1, 0], [0, 1]])
    table = exposure_table(progress, image_list())
    assert table["image_id"].tolist() == ["a/1.jpg", "a/0.jpg"]
    assert table["loss"].tolist() == [0.3, 0.1]


def test_loss_curve_shows_every_exposure():
    progress = Progress(losses=[list(np.linspace(1, 0, 30)), list(np.zeros(10))])
    axes = loss_curve(progress, "m", "mse").axes[0]
    points, means = axes.lines[0], axes.lines[1]
    assert len(points.get_xdata()) == 40
    np.testing.assert_allclose(means.get_ydata()[0], np.linspace(1, 0, 30)[:5].mean())
    assert "mse" in axes.get_ylabel()
    assert len(loss_curve(Progress(losses=[[1.0]]), "m", "mse").axes[0].lines) == 1


# ---------------------------------------------------------------------------------------------- the script


def test_script_writes_everything_and_is_up_to_date_afterwards(mini_memcat, tmp_path, caplog):
    finetune(mini_memcat, tmp_path, "--limit", 5, "--checkpoint-every", 2)
    name = "mem_vgg_autoencoder_vgg11"
    table = exposures(tmp_path, name)
    assert sorted(table["order"]) == [0, 1, 2, 3, 4]
    assert table["image_id"].is_unique
    assert (table["loss"] > 0).all()
    order = exposure_order(5, 1, "shuffled", 0)
    assert table["image_id"].tolist() == np.sort(table["image_id"])[order].tolist()
    model, meta = load_autoencoder(tmp_path / f"{name}.pth", image_size=32, arch="vgg11")
    start = build_autoencoder("vgg11", seed=0)
    assert not torch.equal(model.encoder.conv1[0].layer[0].weight, start.encoder.conv1[0].layer[0].weight)
    assert meta["settings"]["loss"] == "lpips-sq"
    assert any("random weights" in caveat for caveat in meta["caveats"])
    assert (tmp_path / f"training_{name}.png").stat().st_size > 5000
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["digests.json"]
    before = {path: path.read_bytes() for path in tmp_path.glob(f"*{name}*")}
    assert len(before) == 5
    caplog.clear()
    with caplog.at_level(logging.INFO):
        finetune(mini_memcat, tmp_path, "--limit", 5)
    assert "up to date" in caplog.text
    assert {path: path.read_bytes() for path in before} == before


def results(output):
    """What a run left, by name: all but its records and bookkeeping."""
    kinds = {".pth", ".csv", ".png", ".pdf"}
    return {path.name: path.read_bytes() for path in output.iterdir() if path.suffix in kinds}


def fresh(data, folder, *more):
    """What a run into an empty folder leaves."""
    finetune(data, folder / "fresh", *more)
    return results(folder / "fresh")


THIN = ("--loss", "mse", "--width", 1 / 64)


@pytest.mark.parametrize("change", ["replaced", "deleted", "new", "readable"])
def test_pictures_that_change_come_or_go_are_trained_on_as_in_a_new_run(
    mini_memcat, tmp_path, caplog, change
):
    data, output = shutil.copytree(mini_memcat, tmp_path / "data"), tmp_path / "out"
    pictures = sorted((data / "MemCat_images").rglob("*.jpg"))
    away, name = tmp_path / "away.jpg", pictures[3].relative_to(data / "MemCat_images" / "MemCat").as_posix()
    if change == "new":
        pictures[3].rename(away)
    if change == "readable":
        shutil.copy(pictures[3], away)
        pictures[3].write_bytes(away.read_bytes()[:300])
    finetune(data, output, *THIN)
    if change == "replaced":
        make_picture(99, 64, 48).save(pictures[3])
    elif change == "deleted":
        pictures[3].unlink()
    else:
        shutil.move(away, pictures[3])
    finetune(data, output, *THIN)
    kind = {"replaced": "changed", "deleted": "gone", "new": "new", "readable": "changed"}[change]
    assert f"was trained on other images: 1 {kind} (e.g. {name})" in caplog.text
    expected = fresh(data, tmp_path, *THIN)
    assert results(output) == expected
    caplog.clear()
    finetune(data, output, *THIN)
    assert "trained anew" not in caplog.text


def test_an_image_that_a_better_moment_reads_is_trained_on(mini_memcat, tmp_path, caplog, monkeypatch):
    """The file is what it was."""
    victim = sorted((mini_memcat / "MemCat_images").rglob("*.jpg"))[2].name
    module = "utils.reconstruction.finetune_stage.load_pixels"

    def bad_moment(file, size):
        if os.fspath(file).endswith(victim):
            raise ImageError(file, "a bad moment")
        return load_pixels(file, size)

    with monkeypatch.context() as patched:
        patched.setattr(module, bad_moment)
        finetune(mini_memcat, tmp_path / "out", *THIN)
        finetune(mini_memcat, tmp_path / "out", *THIN)
    assert "trained anew" not in caplog.text
    finetune(mini_memcat, tmp_path / "out", *THIN)
    assert f"{victim} could not be read then and can be now" in caplog.text
    assert results(tmp_path / "out") == fresh(mini_memcat, tmp_path, *THIN)


@pytest.mark.parametrize("change", ["replaced", "deleted", "other flags"])
def test_an_interrupted_training_starts_anew_on_other_images(
    mini_memcat, tmp_path, caplog, monkeypatch, change
):
    data, output = shutil.copytree(mini_memcat, tmp_path / "data"), tmp_path / "out"
    flags, step = (*THIN, "--checkpoint-every", 1), FineTuner._step

    def stop(tuner, indices, pixels):
        if len(tuner.progress.losses[0]) == 6:
            raise KeyboardInterrupt
        return step(tuner, indices, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(FineTuner, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(data, output, *flags)
    (state,) = output.rglob("state.pt")
    seen = read_weights_file(state)["progress"]["indices"][0][0]
    picture = sorted((data / "MemCat_images").rglob("*.jpg"))[seen]
    if change == "other flags":
        with pytest.raises(UserError, match="state of an unfinished fine-tuning with other settings"):
            finetune(data, output, *flags, "--limit", 11)
        return
    if change == "replaced":
        make_picture(99).save(picture)
    else:
        picture.unlink()
    finetune(data, output, *flags)
    assert "it starts anew" in caplog.text
    assert results(output) == fresh(data, tmp_path, *flags)


def test_an_edited_picture_or_table_is_noticed_by_its_content(mini_memcat, tmp_path, caplog):
    data, output = shutil.copytree(mini_memcat, tmp_path / "data"), tmp_path / "out"
    finetune(data, output, "--limit", 2, "--loss", "mse")
    (table,) = output.glob("exposures_*.csv")
    written = table.read_text()
    edit_in_place(table, written.replace("0.", "1.", 1))
    finetune(data, output, "--limit", 2, "--loss", "mse")
    assert table.read_text() == written
    picture = (
        data
        / "MemCat_images"
        / "MemCat"
        / exposures(output, table.stem.removeprefix("exposures_")).at[0, "image_id"]
    )
    content = bytearray(picture.read_bytes())
    content[-20] ^= 1
    edit_in_place(picture, bytes(content))
    finetune(data, output, "--limit", 2, "--loss", "mse")
    assert (
        "mem_vgg_autoencoder_mse_lr1e-05_bs1_ep1_vgg11.pth was trained on other images: 1 changed (e.g. "
        in caplog.text
    )
    assert results(output) == fresh(data, tmp_path, "--limit", 2, "--loss", "mse")


def test_what_a_kill_left_beside_the_state_goes_with_it(mini_memcat, tmp_path):
    left = (
        tmp_path / "shards" / "finetune_mem_vgg_autoencoder_mse_lr1e-05_bs1_ep1_vgg11" / ".state.1.partial.pt"
    )
    left.parent.mkdir(parents=True)
    left.write_bytes(b"cut sho")
    finetune(mini_memcat, tmp_path, "--limit", 2, "--loss", "mse", "--checkpoint-every", 1)
    assert len(list(tmp_path.glob("*.pth"))) == 1
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["digests.json"]


def test_first_exposure_is_the_loss_of_the_starting_weights(mini_memcat, tmp_path):
    finetune(
        mini_memcat, tmp_path, "--limit", 2, "--loss", "mse", "--order", "dataset", "--batch-norm", "frozen"
    )
    (path,) = tmp_path.glob("exposures_*.csv")
    first = exposures(tmp_path, path.stem.removeprefix("exposures_")).iloc[0]
    image = mini_memcat / "MemCat_images" / "MemCat" / first["image_id"]
    pixels = torch.from_numpy(load_pixels(image, 32))[None]
    with torch.inference_mode():
        reconstruction = build_autoencoder("vgg11", seed=0).eval()(pixels)
    assert first["loss"] == pytest.approx((reconstruction - pixels).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("recipe", ["corrected", "released"])
def test_each_model_starts_anew_unless_released(mini_memcat, tmp_path, recipe):
    more = ("--limit", 2, "--loss", "mse", "--learning-rate", "1e-3", "2e-3", "--order", "dataset")
    finetune(mini_memcat, tmp_path, *more, "--recipe", recipe)
    suffix = "vgg11_released" if recipe == "released" else "vgg11_dataset-order"
    names = [f"mem_vgg_autoencoder_mse_lr{rate}_bs1_ep1_{suffix}" for rate in ("0.001", "0.002")]
    firsts = [exposures(tmp_path, name)["loss"].iloc[0] for name in names]
    assert (firsts[0] == firsts[1]) == (recipe == "corrected")


def test_start_from_a_checkpoint(mini_memcat, tmp_path):
    start = build_autoencoder("vgg11", seed=7)
    save_autoencoder(tmp_path / "start.pth", start, image_size=32, caveats=[])
    output = tmp_path / "out"
    finetune(mini_memcat, output, "--limit", 1, "--loss", "mse", "--pretrained", tmp_path / "start.pth")
    (path,) = output.glob("*.pth")
    model, meta = load_autoencoder(path)
    moved = (model.encoder.conv1[0].layer[0].weight - start.encoder.conv1[0].layer[0].weight).abs().max()
    assert 0 < moved < 5e-5  # one step of Adam at 1e-5
    assert meta["caveats"] == []


def test_split_train_sees_the_train_images_alone(mini_memcat, tmp_path):
    finetune(mini_memcat, tmp_path, "--loss", "mse", "--split", "train")
    splits = read_table(tmp_path / "splits.csv", "splits")
    train = set(splits.loc[splits["split"] == "train", "image_id"])
    (path,) = tmp_path.glob("exposures_*.csv")
    assert set(read_table(path, "exposures")["image_id"]) == train
    assert 0 < len(train) < 12


def test_other_settings_do_not_replace_a_finished_model(mini_memcat, tmp_path):
    finetune(mini_memcat, tmp_path, "--limit", 2)
    (path,) = tmp_path.glob("*.pth")
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        finetune(mini_memcat, tmp_path, "--limit", 3)
    assert str(path) in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert path.read_bytes() == before
    finetune(mini_memcat, tmp_path, "--limit", 3, "--overwrite")
    assert path.read_bytes() != before


def test_damaged_image_is_named_in_skipped_images(mini_memcat, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(mini_memcat, data)
    victim = sorted((data / "MemCat_images").rglob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    finetune(data, tmp_path / "out", "--loss", "mse")
    skipped = read_table(tmp_path / "out" / "skipped_images.csv", "skipped_images")
    assert skipped["image_id"].tolist() == [victim.relative_to(data / "MemCat_images" / "MemCat").as_posix()]
    finetune(data, tmp_path / "out", "--loss", "mse")  # up to date, and still says so
    assert read_table(tmp_path / "out" / "skipped_images.csv", "skipped_images").equals(skipped)
    with pytest.raises(UserError, match=victim.name):
        finetune(data, tmp_path / "other", "--loss", "mse", "--on-error", "fail")
    assert not list((tmp_path / "other").glob("*.pth"))


def test_ranks_other_than_0_do_nothing_and_are_told_why(mini_memcat, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    finetune(mini_memcat, tmp_path, "--limit", 1)
    assert "sequential" in caplog.text
    assert "rank 0 does it alone" in caplog.text
    assert not list(tmp_path.glob("*.pth"))
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pretrained", "nowhere.pth"], ["nowhere.pth", "--pretrained none", "imagenet-autoencoder"]),
        (["--image-size", "60"], ["--image-size 60", "multiple of 32"]),
        (["--loss", "ms-ssim"], ["ms-ssim", "at least 161 px", "got 32 px"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--weights", "pretrained"], ["squeezenet1_1-b8a52dc0.pth", "--weights random"]),
    ],
)
def test_bad_input_in_process(mini_memcat, tmp_path, flags, words, monkeypatch):
    import urllib.error
    import urllib.request

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError) as caught:
        finetune(mini_memcat, tmp_path / "out", *flags)
    for word in words:
        assert word in str(caught.value)
    assert not list((tmp_path / "out").glob("*.pth"))


def test_checkpoint_of_another_architecture_is_refused(mini_memcat, tmp_path):
    save_autoencoder(tmp_path / "start.pth", build_autoencoder("vgg13", seed=0), image_size=32, caveats=[])
    with pytest.raises(UserError, match="vgg13.*vgg11|vgg11.*vgg13"):
        finetune(mini_memcat, tmp_path / "out", "--loss", "mse", "--pretrained", tmp_path / "start.pth")


def test_a_compact_network_keeps_its_width_without_being_told(mini_memcat, tmp_path):
    start = build_autoencoder("vgg11", seed=0, width=0.0625)
    save_autoencoder(tmp_path / "start.pth", start, image_size=32, caveats=[])
    more = ("--loss", "mse", "--limit", 2, "--pretrained", tmp_path / "start.pth")
    finetune(mini_memcat, tmp_path / "out", *more)
    (path,) = (tmp_path / "out").glob("*.pth")
    assert load_autoencoder(path)[1]["width"] == 0.0625
    with pytest.raises(
        UserError, match=r"start.pth is an autoencoder of width 0.0625, but 0.25 was asked for"
    ):
        finetune(mini_memcat, tmp_path / "other", *more, "--width", "0.25")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pretrained", "none", "--width", "0.001"], ["leaves no channel", "at least 0.015625"]),
        (["--loss", "lpips"], ["lpips-sq", "ms-ssim"]),
        (["--learning-rate", "-1"], ["above 0"]),
        (["--batch-size", "0"], ["at least 1"]),
        (["--checkpoint-every", "0"], ["at least 1"]),
        (["--pretrained", "none", "--data-dir", "/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)
def test_bad_command_lines(tmp_path, flags, words):
    done = run_script_process("autoencoder_finetune.py", "--output-path", tmp_path / "out", *flags)
    assert_user_error(done, *words)


def test_killed_for_real_it_ends_with_the_same_bytes(tmp_path):
    """SIGKILL at an arbitrary step after the first saved state; then the same command again."""
    data = tmp_path / "data"
    folder = data / "images"
    folder.mkdir(parents=True)
    rows = []
    for number in range(8):
        make_picture(number).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{0.5 + number / 20}")
    (data / "scores.csv").write_text("path,score\n" + "\n".join(rows) + "\n")
    command = [sys.executable, str(PROJECT_ROOT / "autoencoder_finetune.py"), *SMALL]
    command += [
        "--data-dir",
        str(folder),
        "--scores-csv",
        str(data / "scores.csv"),
        "--workers",
        "2",
        "--checkpoint-every",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = [*command, "--output-path", str(tmp_path / "whole"), "--checkpoint-every", "1000"]
    subprocess.run(whole, check=True, capture_output=True, env=environment)

    killed = [*command, "--output-path", str(tmp_path / "killed")]
    process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    state = tmp_path / "killed" / "shards" / "finetune_mem_vgg_autoencoder_vgg11" / "state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not list((tmp_path / "killed").glob("*.pth"))
    saved = read_weights_file(state)["progress"]
    assert 0 < len(saved["losses"][0]) < 8

    again = subprocess.run(killed, check=True, capture_output=True, text=True, env=environment)
    assert "Going on after" in again.stderr
    compared = 0
    for path in sorted((tmp_path / "whole").glob("*mem_vgg*")):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
        compared += 1
    assert compared == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: state.pop("progress"),
            "expected progress in it, found fingerprint, request, settings",
        ),
        (lambda state: state.update(model=3), "expected named values at model, found a whole number"),
        (
            lambda state: state["progress"].update(losses=None),
            "expected a list at progress/losses, found nothing",
        ),
        (lambda state: next(iter(state["model"].values())).add_(1e-3), "is damaged"),
    ],
)
def test_a_saved_state_that_is_damaged_is_not_gone_on_from(tmp_path, change, words):
    tuner = make_tuner(tmp_path, checkpoint_every=2)
    tuner.run()
    state = torch.load(tuner.state_path, weights_only=True)
    change(state)
    torch.save(state if words == "is damaged" else {**state, "content_sha256": None}, tuner.state_path)
    with pytest.raises(UserError, match=f"state.pt.*{words}.*start it anew with --overwrite"):
        make_tuner(tmp_path).run()


def test_a_finished_model_that_is_damaged_is_trained_again(mini_memcat, tmp_path, caplog):
    finetune(mini_memcat, tmp_path, "--loss", "mse", "--limit", 2, "--width", 1 / 64)
    (path,) = tmp_path.glob("*.pth")
    whole = path.read_bytes()
    place = len(whole) // 2
    edit_in_place(path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    finetune(mini_memcat, tmp_path, "--loss", "mse", "--limit", 2, "--width", 1 / 64)
    assert f"{path} is damaged" in caplog.text
    assert "trained anew" in caplog.text
    assert path.read_bytes() == whole
