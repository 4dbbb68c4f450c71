import logging

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_picture
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models.autoencoder import build_autoencoder
from models.initialisation import initialise
from utils.core.errors import UserError
from utils.pretraining.pictures import PictureStore
from utils.pretraining.settings import PretrainingSettings, Stage, learning_rate_at
from utils.pretraining.training import Pretrainer, score_held_out, scores_of_pixels

SIZE = 32
SETTINGS = PretrainingSettings(
    arch="vgg11", width=0.0625, image_size=SIZE, batch_size=4, loss=(("mse", 1.0), ("ssim", 0.1)), grow=True
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(13):
        make_picture(number, 48, 40).save(folder / f"{number:02d}.png")
    return pd.DataFrame(
        {
            "image_id": [f"{n:02d}.png" for n in range(13)],
            "path": [str(folder / f"{n:02d}.png") for n in range(13)],
        }
    )


def held_out_pixels(count=3):
    return np.stack([np.asarray(make_picture(90 + n, SIZE, SIZE)).transpose(2, 0, 1) for n in range(count)])


def make(folder, pictures, settings=SETTINGS, fingerprint="this", epochs=6, **options):
    model = initialise(build_autoencoder(settings.arch, width=settings.width), settings.initialisation, 0)
    options = {"checkpoint_every": 2, "workers": 0, **options}
    store = PictureStore(SIZE, 2**20)
    return Pretrainer(
        model,
        pictures,
        held_out_pixels(),
        settings,
        store,
        folder / "state.pt",
        fingerprint,
        epochs,
        **options,
    )


def same_weights(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_scores_are_those_of_scikit_image():
    pixels, other = held_out_pixels(), held_out_pixels(6)[3:]
    decibels, similarities = scores_of_pixels(pixels, other.astype(np.float32) / 255)
    pairs = [(a.transpose(1, 2, 0), b.transpose(1, 2, 0)) for a, b in zip(pixels, other, strict=True)]
    np.testing.assert_allclose(decibels, [peak_signal_noise_ratio(a, b) for a, b in pairs], atol=1e-4)
    options = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [structural_similarity(a, b, data_range=255, **options) for a, b in pairs]
    np.testing.assert_allclose(similarities, expected, atol=1e-4)
    model = build_autoencoder("vgg11", seed=0, width=0.0625).eval()
    with torch.inference_mode():
        output = model(torch.from_numpy(pixels).float() / 255).numpy()
    np.testing.assert_allclose(score_held_out(model, pixels), scores_of_pixels(pixels, output), atol=1e-3)


def test_it_grows_learns_and_keeps_the_best_of_the_whole_network(tmp_path, pictures):
    trainer = make(tmp_path, pictures, epochs=24)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    progress = trainer.run()
    history = pd.DataFrame(progress.history)
    assert history["depth"].tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 12
    assert history["pictures"].tolist() == [12] * 24  # three whole batches of thirteen pictures
    assert (progress.steps, progress.pictures) == (72, 288)
    whole = history[history["depth"] == 5]
    assert progress.best_epoch == whole.loc[whole["psnr"].idxmax(), "epoch"]
    assert score_held_out(trainer.model, trainer.held_out)[0].mean() == pytest.approx(
        whole["psnr"].max(), abs=1e-4
    )
    assert whole["loss"].iloc[-3:].mean() < 0.85 * whole["loss"].iloc[0]
    assert not any(
        torch.equal(before[n], v) for n, v in trainer.model.state_dict().items() if n.endswith("0.weight")
    )
    assert {3, 6, 9, 12, 24} <= set(trainer.shown)
    assert all(shown.shape == (3, 3, SIZE, SIZE) for shown in trainer.shown.values())


def test_only_the_outer_blocks_are_trained_at_first(tmp_path, pictures, monkeypatch):
    trainer = make(tmp_path, pictures)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    monkeypatch.setattr(trainer, "_end_epoch", lambda: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        trainer.run()
    moved = {
        ".".join(name.split(".")[:2])
        for name, value in trainer.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"encoder.conv1", "decoder.conv5"}


@pytest.mark.parametrize("grow", [True, False])
@pytest.mark.parametrize("step", [2, 3, 17])
def test_killed_at_any_step_it_ends_with_the_same_weights(tmp_path, pictures, grow, step):
    settings = PretrainingSettings(
        **{**SETTINGS.__dict__, "grow": grow, "frozen_share": 0.3, "optimizer": "muon" if grow else "adam"}
    )
    whole = make(tmp_path / "whole", pictures, settings)
    expected = whole.run()
    first = make(tmp_path / "killed", pictures, settings)
    take = first._step

    def step_or_die(*given):
        if first.progress.steps == step:
            raise Killed
        return take(*given)

    first._step = step_or_die
    with pytest.raises(Killed):
        first.run()
    second = make(tmp_path / "killed", pictures, settings)
    found = second.run()
    assert found == expected
    assert same_weights(whole.model, second.model)
    assert all(torch.equal(whole.shown[epoch], second.shown[epoch]) for epoch in whole.shown)
    state = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "killed")]
    assert state[0]["progress"] == state[1]["progress"]


def test_every_step_has_the_rate_of_its_schedule(tmp_path, pictures):
    progress = make(tmp_path, pictures).run()
    expected = [learning_rate_at(2, 3, 0.01, last=False)] * 4  # last of three steps, at each growing depth
    expected += [learning_rate_at(step, 6, 0.01, last=True) for step in (2, 5)]
    assert [row["learning_rate"] for row in progress.history] == pytest.approx(expected)


@pytest.mark.parametrize(("clip", "moves"), [(1e-13, False), (1.0, True)])
def test_gradients_are_clipped(tmp_path, pictures, clip, moves):
    """Adam divides by the gradient's size, and is stopped only by gradients far below its epsilon of 1e-8."""
    settings = PretrainingSettings(
        **{**SETTINGS.__dict__, "grow": False, "optimizer": "adam", "gradient_clip": clip}
    )
    trainer = make(tmp_path, pictures, settings, epochs=1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.run()
    moved = max(
        (parameter - old).abs().max().item()
        for parameter, old in zip(trainer.model.parameters(), before, strict=True)
    )
    assert (moved > 1e-3) == moves


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_computes_in_the_precision_asked_for(tmp_path, pictures, precision, dtype):
    settings = PretrainingSettings(**{**SETTINGS.__dict__, "precision": precision})
    trainer = make(tmp_path, pictures, settings)
    output = trainer._reconstruct(trainer.model, torch.rand(1, 3, SIZE, SIZE), 5)
    assert output.dtype == dtype
    assert trainer._objective(torch.rand(1, 3, SIZE, SIZE), output).dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_state(tmp_path, pictures):
    trainer = make(tmp_path, pictures)
    objective = trainer._objective
    trainer._objective = lambda *given: (
        objective(*given) * (float("nan") if trainer.progress.steps == 4 else 1.0)
    )
    with pytest.raises(
        UserError, match=r"not finite at step 5 \(epoch 2, loss nan, pictures \d\d.png.*--learning-rate"
    ):
        trainer.run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["progress"]["steps"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, pictures):
    trainer = make(tmp_path, pictures)
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        UserError, match=r"The loss or its gradient is not finite at step 1 \(epoch 1, loss 0\.\d+"
    ):
        trainer.run()
    assert weight.isfinite().all()


def test_a_state_of_other_settings_is_not_used(tmp_path, pictures):
    trainer = make(tmp_path, pictures)
    trainer.progress.stages = [Stage(5, 1)]
    trainer._save_state()
    slower = PretrainingSettings(**{**SETTINGS.__dict__, "learning_rate": 0.5})
    with pytest.raises(UserError, match=r"done otherwise \(learning_rate: 0.01 -> 0.5\).*--overwrite"):
        make(tmp_path, pictures, slower, "other").run()
    with pytest.raises(UserError, match="other pictures, epochs or minutes"):
        make(tmp_path, pictures, fingerprint="other").run()


def test_frozen_batch_norm_keeps_its_statistics_to_the_end(tmp_path, pictures):
    settings = PretrainingSettings(**{**SETTINGS.__dict__, "grow": False, "frozen_share": 0.5})
    trainer = make(tmp_path, pictures, settings, epochs=2)
    norm, seen = trainer.norms[0], []
    take = trainer._step
    trainer._step = lambda *given: (take(*given), seen.append(norm.running_mean.clone()))[0]
    trainer.run()
    assert [not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)] == [True] * 2 + [False] * 3


def test_pictures_that_break_are_left_out_or_stop_it(tmp_path, pictures):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    images = pd.concat(
        [pictures, pd.DataFrame({"image_id": ["broken.png"], "path": [str(broken)]})], ignore_index=True
    )
    settings = PretrainingSettings(**{**SETTINGS.__dict__, "grow": False, "batch_size": 14})
    progress = make(tmp_path / "a", images, settings, epochs=1).run()
    assert list(progress.skipped) == [13]
    assert progress.history[0]["pictures"] == 13
    with pytest.raises(UserError, match=r"broken.png.*--on-error skip"):
        make(tmp_path / "b", images, settings, epochs=1, on_error="fail").run()


def test_minutes_are_turned_into_epochs_once(tmp_path, pictures, caplog):
    settings = PretrainingSettings(**{**SETTINGS.__dict__, "grow": False})
    trainer = make(tmp_path, pictures, settings, epochs=None, minutes=0.01)
    trainer._epoch_seconds = lambda depth: 0.1 * depth
    with caplog.at_level(logging.INFO):
        assert trainer.run().epochs == 1  # 0.6 s, at 0.5 s an epoch
    assert "An epoch takes about 0.5 s with all blocks; 1 epochs for 0.01 minutes" in caplog.text
    again = make(tmp_path, pictures, settings, epochs=None, minutes=0.01)
    again._epoch_seconds = lambda depth: pytest.fail("timed anew")
    assert again.run().epochs == 1
    assert make(tmp_path / "x", pictures, settings)._epoch_seconds(5) > 0
