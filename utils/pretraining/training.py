"""The training loop of stage 0: an autoencoder from nothing, resumable after any kill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.autoencoder import Autoencoder
from models.checkpoints import load_strictly, read_weights_file, write_weights_file
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.reading import read_ahead
from utils.core.schema import check_shape
from utils.pretraining.muon import Muon
from utils.pretraining.pictures import PictureStore, random_crop
from utils.pretraining.settings import (
    DEPTHS,
    PretrainingSettings,
    Stage,
    epochs_within,
    learning_rate_at,
    plan_stages,
    stage_of,
)
from utils.reconstruction.losses import ReconstructionLosses

SHOWN = 6  # held-out pictures in the figure of progress
ADAM_SHARE = 0.1  # learning rate of Adam beside Muon, over Muon's
_SCORE_BATCH = 16
STATE_SHAPE = {
    "fingerprint": str,
    "settings": {str: object},
    "progress": {
        "stages": [{"epochs": int, "depth": int}],
        "history": [{str: object}],
        "skipped": {int: str},
    },
    "model": {str: object},
    "optimizers": [{"state": {int: object}, "param_groups": [{str: object}]}],
    "best": {str: object},
    "shown": {int: object},
}
_TIMED_STEPS = 3


def psnr(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, (N,); larger is better.

    Args:
        image: (N, 3, H, W), float, [0, 1].
        reconstruction: The same shape and range.
    """
    return -10 * (image - reconstruction).square().mean(dim=(1, 2, 3)).clamp_min(1e-10).log10()


@torch.inference_mode()
def score_held_out(
    model: Autoencoder, pixels: np.ndarray, depth: int = DEPTHS
) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruct held-out pictures in float32 and compare.

    Args:
        model: In any mode; it is left in evaluation mode.
        pixels: (N, 3, S, S) uint8.
        depth: Blocks that take part.

    Returns:
        PSNR in dB and SSIM (Wang et al. 2004) of every picture, each (N,); larger is better.
    """
    model.eval()
    device = next(model.parameters()).device
    ssim = ReconstructionLosses(["ssim"], device=device)
    decibels, similarities = [], []
    for start in range(0, len(pixels), _SCORE_BATCH):
        images = to_floats(pixels[start : start + _SCORE_BATCH], device)
        output = model(images, depth)
        decibels.append(psnr(images, output).cpu().numpy())
        similarities.append(1 - ssim(images, output)["ssim"].cpu().numpy())
    return np.concatenate(decibels), np.concatenate(similarities)


def scores_of_pixels(pixels: np.ndarray, reconstructions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return PSNR in dB and SSIM, each (N,), of (N, 3, S, S) reconstructions in [0, 1] of uint8 pictures."""
    ssim = ReconstructionLosses(["ssim"])
    decibels, similarities = [], []
    for start in range(0, len(pixels), _SCORE_BATCH):
        images = to_floats(pixels[start : start + _SCORE_BATCH], "cpu")
        output = torch.from_numpy(reconstructions[start : start + _SCORE_BATCH])
        decibels.append(psnr(images, output).numpy())
        similarities.append(1 - ssim(images, output)["ssim"].numpy())
    return np.concatenate(decibels), np.concatenate(similarities)


def to_floats(pixels: np.ndarray, device: torch.device | str) -> Tensor:
    """Turn (N, 3, S, S) uint8 into floats in [0, 1] on a device, channels last."""
    return torch.from_numpy(pixels).to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


def make_optimizers(
    model: Autoencoder, settings: PretrainingSettings
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Make the optimisers of a network, each with what the learning rate is multiplied by for it.

    Muon is for kernels; biases and batch norms go to an Adam beside it.
    """
    rate = settings.learning_rate
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if settings.optimizer == "adam":
        return [(torch.optim.Adam(model.parameters(), lr=rate, fused=fused), 1.0)]
    precision = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return [
        (Muon(kernels, lr=rate, precision=precision), 1.0),
        (torch.optim.Adam(others, lr=rate * ADAM_SHARE, fused=fused), ADAM_SHARE),
    ]


@dataclass
class Progress:
    """Where a pretraining stands.

    Attributes:
        stages: The plan.
        epoch: The epoch at work, from 1.
        batch: Batches of it that are done.
        loss_sum: Sum of the epoch's losses so far.
        steps: Steps taken in all.
        pictures: Crops shown in all.
        history: A row per finished epoch; see the table ``pretraining``.
        best_epoch: The best so far among those of the whole network; 0 for none.
        skipped: Reason by index of training pictures that could not be read.
    """

    stages: list[Stage]
    epoch: int = 1
    batch: int = 0
    loss_sum: float = 0.0
    steps: int = 0
    pictures: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs there are in all."""
        return sum(stage.epochs for stage in self.stages)

    @classmethod
    def from_saved(cls, saved: dict[str, Any]) -> Progress:
        """Undo ``asdict``."""
        return cls(**{**saved, "stages": [Stage(**stage) for stage in saved["stages"]]})


class Pretrainer:
    """Trains one autoencoder in place and keeps what is needed to go on after a kill.

    Nothing is drawn from a global generator: the order of an epoch and every crop follow from the seed, the epoch and
    the picture, so that position, weights and the optimiser's moments are the whole state.

    Args:
        model: Freshly initialised, on its device.
        images: ``image_id`` and ``path`` of the pictures to train on, at least a batch of them.
        held_out: (N, 3, S, S) uint8, the held-out pictures as every later stage sees them.
        settings: How.
        epochs: How many; None for as many as fit into ``minutes``.
        minutes: Time to train for, where epochs are not given.
        store: Reads the pictures.
        state_path: Where the state is kept.
        fingerprint: Digest of everything that decides the outcome; a state with another one is not used.
        checkpoint_every: Steps between two saved states, besides the end of each epoch.
        workers: Threads that read ahead.
        on_error: ``skip`` or ``fail``, for pictures that cannot be read.
    """

    def __init__(
        self,
        model: Autoencoder,
        images: pd.DataFrame,
        held_out: np.ndarray,
        settings: PretrainingSettings,
        store: PictureStore,
        state_path: Path,
        fingerprint: str,
        epochs: int | None = None,
        minutes: float | None = None,
        checkpoint_every: int = 200,
        workers: int = 2,
        on_error: str = "skip",
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.device = next(model.parameters()).device
        self.images, self.held_out, self.settings, self.store = images, held_out, settings, store
        self.state_path, self.fingerprint = state_path, fingerprint
        self.epochs, self.minutes = epochs, minutes
        self.checkpoint_every, self.workers, self.on_error = checkpoint_every, workers, on_error
        self.losses = ReconstructionLosses([name for name, _ in settings.loss], device=self.device)
        self.optimizers = make_optimizers(model, settings)
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        for norm in self.norms:
            norm.momentum = settings.batch_norm_momentum
        self.best: dict[str, Tensor] = {}
        self.shown: dict[int, Tensor] = {}  # epoch: reconstructions of the first held-out pictures, uint8
        self.progress = Progress([])

    @property
    def batches(self) -> int:
        """Whole batches in an epoch; what does not fill one is left for another epoch's order."""
        return len(self.images) // self.settings.batch_size

    def run(self) -> Progress:
        """Train to the end, from a saved state if there is one, and leave the best epoch's weights in the model.

        Raises:
            UserError: At a loss or gradient that is not finite (naming the step), at an unreadable picture with
                ``on_error="fail"``, or if no picture of an epoch could be read.
        """
        from tqdm import tqdm

        if not self._resume():
            self.progress = Progress(self._plan())
            self._save_state()
        started, before = time.monotonic(), self.progress.pictures
        total = self.progress.epochs * self.batches
        done = (self.progress.epoch - 1) * self.batches + self.progress.batch
        with tqdm(total=total, initial=done, desc="pretraining", unit="step") as bar:
            while self.progress.epoch <= self.progress.epochs:
                self._train_epoch(bar)
                self._end_epoch()
        seconds = time.monotonic() - started
        shown = self.progress.pictures - before
        log.info("%d crops in %.1f min (%.1f per second)", shown, seconds / 60, shown / max(seconds, 1e-9))
        load_strictly(self.model, self.best, "the best epoch")
        self.model.eval()
        return self.progress

    # -------------------------------------------------------------------------------------------- plan

    def _plan(self) -> list[Stage]:
        """Share out the epochs; where a time is given, time a few steps at each depth first."""
        if self.epochs is not None:
            return plan_stages(self.epochs, self.settings.grow)
        seconds = [self._epoch_seconds(depth) for depth in range(1, DEPTHS + 1)]
        epochs = epochs_within((self.minutes or 1) * 60, seconds, self.settings.grow)
        log.info(
            "An epoch takes about %.1f s with all blocks; %d epochs for %g minutes.",
            seconds[-1],
            epochs,
            self.minutes,
        )
        return plan_stages(epochs, self.settings.grow)

    def _epoch_seconds(self, depth: int) -> float:
        """Time a few steps on a copy, and the scoring of a few held-out pictures."""
        import copy

        model = copy.deepcopy(self.model).train()
        size = self.settings.image_size
        pixels = np.random.default_rng(0).integers(
            0, 256, (self.settings.batch_size, 3, size, size), np.uint8
        )
        seconds = []
        for _ in range(_TIMED_STEPS):
            start = time.monotonic()
            images = to_floats(pixels, self.device)
            self._objective(images, self._reconstruct(model, images, depth)).backward()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds.append(time.monotonic() - start)
        few = self.held_out[: 2 * _SCORE_BATCH]
        start = time.monotonic()
        score_held_out(model, few, depth)
        scoring = (time.monotonic() - start) / len(few) * len(self.held_out)
        return min(seconds) * self.batches + scoring

    # -------------------------------------------------------------------------------------------- steps

    def _train_epoch(self, bar: Any) -> None:
        """Take the epoch's remaining steps."""
        progress = self.progress
        number, epochs_before = stage_of(progress.stages, progress.epoch)
        stage = progress.stages[number]
        last = number == len(progress.stages) - 1
        for indices, pixels in self._read_batches():
            step = epochs_before * self.batches + progress.batch
            steps = stage.epochs * self.batches
            self._set_mode(frozen=last and step >= (1 - self.settings.frozen_share) * steps)
            rate = learning_rate_at(step, steps, self.settings.learning_rate, last)
            if indices:
                loss = self._step(pixels, stage.depth, rate, indices)
                progress.loss_sum += loss * len(indices)
                progress.pictures += len(indices)
                bar.set_postfix(loss=f"{loss:.4f}", epoch=progress.epoch, depth=stage.depth, refresh=False)
            progress.steps += 1
            progress.batch += 1
            bar.update()
            if progress.batch < self.batches and progress.steps % self.checkpoint_every == 0:
                self._save_state()

    def _read_batches(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the epoch's remaining batches: indices of readable pictures, and a crop of each, uint8."""
        size, epoch, seed = self.settings.batch_size, self.progress.epoch, self.settings.seed
        order = np.random.default_rng([seed, epoch]).permutation(len(self.images))[: self.batches * size]
        order = order[self.progress.batch * size :].tolist()
        paths = self.images["path"].tolist()
        values = read_ahead(self.store.load, [paths[index] for index in order], self.workers, 2 * size)
        for start in range(0, len(order), size):
            indices, crops = [], []
            for index in order[start : start + size]:
                value = next(values)
                if isinstance(value, ImageError):
                    self._skip(index, value)
                else:
                    indices.append(index)
                    rng = np.random.default_rng([seed, epoch, index])
                    crops.append(random_crop(value, self.settings.image_size, rng))
            yield indices, np.stack(crops) if crops else np.empty(0)

    def _skip(self, index: int, error: ImageError) -> None:
        if self.on_error == "fail":
            raise UserError(
                f"{error}. Mend or remove the file, or leave such pictures out with --on-error skip."
            )
        self.progress.skipped[index] = error.reason

    def _set_mode(self, frozen: bool) -> None:
        """Training mode; batch norm normalises by the batch or, when frozen, by its running statistics."""
        self.model.train()
        for norm in self.norms if frozen else ():
            norm.eval()

    def _reconstruct(self, model: Autoencoder, images: Tensor, depth: int) -> Tensor:
        precise = self.settings.precision == "float32"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=not precise):
            return model(images, depth)

    def _objective(self, images: Tensor, output: Tensor) -> Tensor:
        values = self.losses(images, output)
        return torch.stack([weight * values[name].mean() for name, weight in self.settings.loss]).sum()

    def _step(self, pixels: np.ndarray, depth: int, rate: float, indices: Sequence[int]) -> float:
        """Take one step; return the loss before it."""
        images = to_floats(pixels, self.device)
        loss = self._objective(images, self._reconstruct(self.model, images, depth))
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        value = loss.item()
        if not (np.isfinite(value) and bool(norm.isfinite())):
            self._stop(value, indices)
        for optimizer, scale in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
        return value

    def _stop(self, value: float, indices: Sequence[int]) -> None:
        names = ", ".join(self.images["image_id"].iloc[index] for index in list(indices)[:5])
        raise UserError(
            f"The loss or its gradient is not finite at step {self.progress.steps + 1} (epoch {self.progress.epoch}, loss "
            f"{value:g}, pictures {names}). The step was not taken; the last good state is {self.state_path}. "
            "Use a smaller --learning-rate or --gradient-clip, or --precision float32, with --overwrite to start anew."
        )

    # -------------------------------------------------------------------------------------------- epochs and state

    def _end_epoch(self) -> None:
        """Score the held-out pictures, keep the best weights, move on and save."""
        progress = self.progress
        number, _ = stage_of(progress.stages, progress.epoch)
        depth = progress.stages[number].depth
        shown = progress.pictures - sum(row["pictures"] for row in progress.history)
        if not shown:
            raise UserError(f"No picture could be read in epoch {progress.epoch}. Check --data-dir.")
        decibels, similarities = score_held_out(self.model, self.held_out, depth)
        row = {
            "epoch": progress.epoch,
            "depth": depth,
            "pictures": shown,
            "steps": progress.steps,
            "learning_rate": self.optimizers[0][0].param_groups[0]["lr"],
            "loss": progress.loss_sum / shown,
            "psnr": float(decibels.astype(np.float64).mean()),
            "ssim": float(similarities.astype(np.float64).mean()),
        }
        whole = [old["psnr"] for old in progress.history if old["depth"] == DEPTHS]
        if depth == DEPTHS and (not whole or row["psnr"] > max(whole)):
            progress.best_epoch = progress.epoch
            self.best = {
                name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
            }
        progress.history.append(row)
        if self._is_shown(progress.epoch):
            self.shown[progress.epoch] = self._show(depth)
        log.info(
            "Epoch %d of %d, %d blocks: loss %.5f, held out %.2f dB, SSIM %.3f",
            progress.epoch,
            progress.epochs,
            depth,
            row["loss"],
            row["psnr"],
            row["ssim"],
        )
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        self._save_state()

    def _is_shown(self, epoch: int) -> bool:
        """Say whether an epoch is in the figure: the end of each stage, and a few in between of the last."""
        ends = np.cumsum([stage.epochs for stage in self.progress.stages])
        first = int(ends[-2]) if len(ends) > 1 else 0
        between = {first + max(1, round((ends[-1] - first) * share)) for share in (0.02, 0.1, 0.3)}
        return epoch in {*ends.tolist(), *between}

    @torch.inference_mode()
    def _show(self, depth: int) -> Tensor:
        output = self.model.eval()(to_floats(self.held_out[:SHOWN], self.device), depth)
        return (output * 255).round().to(torch.uint8).cpu().contiguous()

    def _save_state(self) -> None:
        """Keep weights, optimiser, batch-norm statistics, position and what was best so far, atomically."""
        write_weights_file(
            self.state_path,
            {
                "fingerprint": self.fingerprint,
                "settings": asdict(self.settings),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
                "best": self.best,
                "shown": self.shown,
            },
        )

    def _resume(self) -> bool:
        """Take over a saved state, if there is one of this very run."""
        if not self.state_path.exists():
            return False
        remedy = "The training cannot go on from there; start it anew with --overwrite."
        state = check_shape(read_weights_file(self.state_path, remedy), STATE_SHAPE, self.state_path, remedy)
        if state["fingerprint"] != self.fingerprint:
            old, new = state["settings"], asdict(self.settings)
            changed = [
                f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]
            ]
            raise UserError(
                f"{self.state_path} is the state of an unfinished pretraining done otherwise "
                f"({', '.join(changed) or 'other pictures, epochs or minutes'}). Finish it with those settings, start anew "
                "with --overwrite, or use another --output-path."
            )
        load_strictly(self.model, state["model"], self.state_path)
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.best, self.shown = state["best"], state["shown"]
        self.progress = Progress.from_saved(state["progress"])
        log.info("Going on after %d steps (%s)", self.progress.steps, self.state_path)
        return True
