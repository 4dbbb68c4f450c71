"""Fine-tuning of the autoencoder: one exposure per image, resumable at any step, bit for bit on a CPU.

As in the paper's memory game: a network that knows natural images sees each image of the set once, and
its reconstruction error at that moment is kept. Everything random is the order, drawn anew for each epoch from
the seed alone, so a run that was killed needs its weights, optimizer and position to go on as if nothing had
happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.digests import FileDigests, Seen, combined_digest
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.schema import check_shape

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    from utils.reconstruction.losses import ReconstructionLosses

MODEL_STEM = "mem_vgg_autoencoder"
STATE_SHAPE = {
    "fingerprint": str,
    "settings": {str: object},
    "progress": {
        **dict.fromkeys(("epoch", "batch", "resumed"), int),
        "losses": [[float]],
        "indices": [[int]],
        "skipped": {int: str},
        "read": {int: [object]},
    },
    "model": {str: object},
    "optimizer": {"state": {int: object}, "param_groups": [{str: object}]},
}


@dataclass(frozen=True)
class FineTuningSettings:
    """What one model is fine-tuned with. The defaults are the paper's.

    Attributes:
        loss: The loss that is minimised, from `utils.core.names.LOSSES`.
        learning_rate: Of Adam.
        batch_size: Images per step; 1 as in a memory game.
        epochs: How often each image is seen.
        split: ``all`` images, or those of the ``train`` split.
        order: ``shuffled`` anew each epoch from the seed, or ``dataset`` for the order of the image ids.
        batch_norm: ``update``: normalise by the batch and let the running statistics follow; ``frozen``: keep
            the pretrained statistics.
        recipe: ``corrected`` or ``released``; see `utils.reconstruction.losses.ReconstructionLosses`.
        precision: ``float32`` or ``bf16`` (autocast; the loss itself is always float32).
        compile: Whether the network goes through torch.compile.
        seed: Seed of the order.
        image_size: Side of the images in pixels.
    """

    loss: str = "lpips-sq"
    learning_rate: float = 1e-5
    batch_size: int = 1
    epochs: int = 1
    split: str = "all"
    order: str = "shuffled"
    batch_norm: str = "update"
    recipe: str = "corrected"
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    image_size: int = 224


def model_name(
    settings: FineTuningSettings, arch: str = "vgg16", alone: bool = True, width: float | None = None
) -> str:
    """Name a model: ``mem_vgg_autoencoder`` for the default alone, else with its settings appended.

    The settings are kept in the checkpoint and in the run's record; nothing ever parses the name.

    Args:
        settings: Its settings.
        arch: Its architecture.
        alone: Whether it is the only model of its run.
        width: Its width where one was asked for; None for that of the checkpoint it starts from.
    """
    default = FineTuningSettings()
    grid = ("loss", "learning_rate", "batch_size", "epochs")
    parts = [MODEL_STEM]
    if not alone or any(getattr(settings, name) != getattr(default, name) for name in grid):
        parts += [
            settings.loss,
            f"lr{settings.learning_rate:g}",
            f"bs{settings.batch_size}",
            f"ep{settings.epochs}",
        ]
    if arch != "vgg16":
        parts.append(arch)
    if width not in (None, 1.0):
        parts.append(f"w{width:g}")
    if settings.recipe != default.recipe:
        parts.append(settings.recipe)
    if settings.order != ("dataset" if settings.recipe == "released" else "shuffled"):
        parts.append(f"{settings.order}-order")
    if settings.split != default.split:
        parts.append(f"{settings.split}-split")
    if settings.batch_norm != default.batch_norm:
        parts.append(f"{settings.batch_norm}-bn")
    if settings.precision != default.precision:
        parts.append(settings.precision)
    if settings.seed != default.seed:
        parts.append(f"seed{settings.seed}")
    return "_".join(parts)


def training_fingerprint(settings: FineTuningSettings, start: str, images: pd.DataFrame, **more: Any) -> str:
    """Digest everything that can change the outcome but the contents of the images, which are known when they are read.

    Args:
        settings: The settings.
        start: What the weights start from: a checkpoint's SHA-256, or the seed of random ones.
        images: With ``image_id``.
        more: Further plain values that matter.
    """
    values = {**asdict(settings), "start": start, **more}
    return combined_digest(
        [(json.dumps(values, sort_keys=True), ""), *((name, "") for name in images["image_id"])]
    )


def exposure_order(count: int, epoch: int, order: str, seed: int) -> np.ndarray:
    """Return the order in which images are shown: indices into the sorted list.

    Args:
        count: How many images.
        epoch: From 1; each epoch has its own order.
        order: ``shuffled`` or ``dataset``.
        seed: Seed of the shuffle.
    """
    import numpy as np

    if order == "dataset":
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass
class Progress:
    """Where a fine-tuning run stands.

    Attributes:
        epoch: The epoch at work, from 1.
        batch: Batches of it that are done.
        losses: Per epoch, the losses in order of exposure.
        indices: Per epoch, which image each loss belongs to.
        skipped: (index, reason) of images that could not be read, once each.
        read: What each image's file held when it was first read, by index (see `utils.core.digests.Seen`).
        resumed: Exposures that a previous process had done.
    """

    epoch: int = 1
    batch: int = 0
    losses: list[list[float]] = field(default_factory=lambda: [[]])
    indices: list[list[int]] = field(default_factory=lambda: [[]])
    skipped: dict[int, str] = field(default_factory=dict)
    read: dict[int, list[Any]] = field(default_factory=dict)
    resumed: int = 0

    def pictures(self, images: pd.DataFrame) -> str:
        """Digest what was read, as `utils.core.digests.FileDigests.of_images` does what is there."""
        return combined_digest((name, self.read[index][0]) for index, name in enumerate(images["image_id"]))

    def next_epoch(self) -> None:
        """Start the following epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.losses.append([])
        self.indices.append([])


class FineTuner:
    """Fine-tunes one autoencoder in place and keeps what is needed to go on after a kill.

    Args:
        model: The network, on its device, holding the weights to start from.
        images: ``image_id`` and ``path``, in dataset order.
        settings: How.
        losses: Computes ``settings.loss``.
        state_path: Where the state is kept every `checkpoint_every` steps.
        run_fingerprint: From `fingerprint`; a state with another one is not used.
        load: Reads a path into (3, S, S) float32 in [0, 1]; may raise ImageError.
        checkpoint_every: Steps between two saved states.
        workers: Threads that read ahead.
        on_error: ``skip`` or ``fail``, for images that cannot be read.
        request: What was asked for apart from the images; a state of the same request and other images is of images that
            came, went or changed since, and is started anew.
        digests: Notes what the images' files held; known to this object alone when left out.
    """

    def __init__(
        self,
        model: nn.Module,
        images: pd.DataFrame,
        settings: FineTuningSettings,
        losses: ReconstructionLosses,
        state_path: Path,
        run_fingerprint: str,
        load: Callable[[str], np.ndarray],
        checkpoint_every: int = 500,
        workers: int = 2,
        on_error: str = "skip",
        digests: FileDigests | None = None,
        request: str = "",
    ) -> None:
        import torch

        self.model = model.to(memory_format=torch.channels_last)
        self.device = next(model.parameters()).device
        self.images, self.settings, self.losses = images, settings, losses
        self.state_path, self.fingerprint = state_path, run_fingerprint
        self.load, self.checkpoint_every = load, checkpoint_every
        self.workers, self.on_error, self.request = workers, on_error, request
        self.digests = digests or FileDigests(state_path.parent)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, fused=self.device.type in ("cpu", "cuda")
        )
        self.progress = Progress()
        self._forward = torch.compile(model) if settings.compile else model

    def run(self) -> Progress:
        """Train to the end, from a saved state if there is one.

        Returns:
            All losses, in order of exposure.

        Raises:
            UserError: At a loss or gradient that is not finite (naming the images), at an unreadable image with
                ``on_error="fail"``, if no image could be read, or if torch.compile fails.
        """
        from tqdm import tqdm

        self._resume()
        self._set_mode()
        total = self.settings.epochs * len(self.images)
        done = (self.progress.epoch - 1) * len(self.images) + self.progress.batch * self.settings.batch_size
        started, steps = time.monotonic(), 0
        with tqdm(total=total, initial=min(done, total), desc="fine-tuning", unit="image") as bar:
            while True:
                for batch, pixels in self._batches():
                    if pixels is not None:
                        loss = self._step(batch, pixels)
                        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    self.progress.batch += 1
                    steps += 1
                    bar.update(self._batch_length(self.progress.batch - 1))
                    if steps % self.checkpoint_every == 0:
                        self._save_state()
                if self.progress.epoch == self.settings.epochs:
                    break
                self.progress.next_epoch()
        self._check_something_was_read()
        seconds = time.monotonic() - started
        log.info("%d exposures in %.1f s (%.2f per second)", total - done, seconds, (total - done) / seconds)
        return self.progress

    def _set_mode(self) -> None:
        """Training mode; batch norm normalises by the batch, or stays as pretrained."""
        from torch.nn.modules.batchnorm import _BatchNorm

        self.model.train()
        if self.settings.batch_norm == "frozen":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _batch_length(self, number: int) -> int:
        return min(self.settings.batch_size, len(self.images) - number * self.settings.batch_size)

    def _batches(self) -> Iterator[tuple[list[int], torch.Tensor | None]]:
        """Yield the epoch's remaining batches: indices of readable images, and their (N, 3, S, S) pixels."""
        import numpy as np
        import torch

        from utils.core.reading import read_ahead

        size = self.settings.batch_size
        order = exposure_order(
            len(self.images), self.progress.epoch, self.settings.order, self.settings.seed
        ).tolist()[self.progress.batch * size :]
        paths = self.images["path"].tolist()
        values = read_ahead(
            self.load,
            [str(paths[index]) for index in order],
            self.workers,
            2 * size + 2 * self.workers,
            self.digests,
        )
        for start in range(0, len(order), size):
            indices, pixels = [], []
            for index in order[start : start + size]:
                value = next(values)
                self.progress.read.setdefault(index, list(self.digests.last_seen(paths[index])))
                if isinstance(value, ImageError):
                    self._skip(index, value)
                else:
                    indices.append(index)
                    pixels.append(value)
            yield indices, torch.from_numpy(np.stack(pixels)) if pixels else None

    def _skip(self, index: int, error: Any) -> None:
        if self.on_error == "fail":
            raise UserError(
                f"{error}. Mend or remove the file, or leave such images out with --on-error skip."
            )
        self.progress.skipped[index] = error.reason

    def _check_something_was_read(self) -> None:
        if not self.progress.losses[0]:
            reasons = "; ".join(
                f"{self.images['image_id'].iloc[index]}: {reason}"
                for index, reason in list(self.progress.skipped.items())[:3]
            )
            raise UserError(
                f"None of the {len(self.images)} images could be read ({reasons}). Check --data-dir."
            )

    def _step(self, indices: list[int], pixels: torch.Tensor) -> float:
        """Show a batch, note its losses, and take the step they cause."""
        import torch

        images = pixels.to(self.device, memory_format=torch.channels_last)
        values = self.losses(images, self._reconstruct(images))[self.settings.loss]
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.objective(self.settings.loss, values).mean().backward()
        noted = values.detach().cpu().tolist()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not (values.isfinite().all() and torch.nn.utils.get_total_norm(gradients).isfinite()):
            self._stop_at(indices, noted)
        self.optimizer.step()
        self.progress.losses[-1] += noted
        self.progress.indices[-1] += indices
        return sum(noted) / len(noted)

    def _reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        precise = self.settings.precision == "float32"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=not precise):
            if not self.settings.compile:
                return self._forward(images)
            try:
                return self._forward(images)
            except RuntimeError as error:  # what torch.compile raises when there is no working compiler
                first = str(error).strip().splitlines()[0][:300]
                raise UserError(
                    f"--compile failed on this machine ({first}). Run again without it."
                ) from error

    def _stop_at(self, indices: list[int], noted: Sequence[float]) -> None:
        names = ", ".join(self.images["image_id"].iloc[index] for index in indices)
        position = len(self.progress.losses[-1]) + 1
        kept = (
            f"The last saved state ({self.state_path}) is from before it. "
            if self.state_path.exists()
            else ""
        )
        raise UserError(
            f"The {self.settings.loss} loss or its gradient is not finite at {names} (exposure {position} of epoch "
            f"{self.progress.epoch}, loss {', '.join(f'{value:g}' for value in noted)}). The step was not taken. "
            f"{kept}Use a smaller --learning-rate, --precision float32, or look at the image."
        )

    def _save_state(self) -> None:
        """Keep weights, optimizer, batch-norm statistics and position, atomically."""
        from models.checkpoints import write_weights_file

        write_weights_file(
            self.state_path,
            {
                "fingerprint": self.fingerprint,
                "request": self.request,
                "settings": asdict(self.settings),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _resume(self) -> None:
        """Take over a saved state, if there is one of this very run."""
        from models.checkpoints import load_strictly, read_weights_file

        if not self.state_path.exists():
            return
        remedy = "The training cannot go on from there; start it anew with --overwrite."
        state = check_shape(read_weights_file(self.state_path, remedy), STATE_SHAPE, self.state_path, remedy)
        same_images = state["fingerprint"] == self.fingerprint
        changed = self._what_changed(state["progress"]) if same_images else "images came or went"
        if changed and (same_images or (self.request and state.get("request") == self.request)):
            log.warning(
                "The images changed since the training was interrupted (%s): it starts anew, since every exposure hangs on "
                "those before it.",
                changed,
            )
            return
        if changed:
            raise UserError(
                f"{self.state_path} is the state of an unfinished fine-tuning with other settings "
                f"({differences(state['settings'], asdict(self.settings))}). Finish it with those, or start anew "
                "with --overwrite, or use another --output-path."
            )
        load_strictly(self.model, state["model"], self.state_path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.progress.resumed = sum(map(len, self.progress.losses))
        log.info("Going on after %d exposures (%s)", self.progress.resumed, self.state_path)

    def _what_changed(self, progress: dict[str, Any]) -> str:
        """Name the first image that holds something else than when it was exposed, or could not be read and can be now."""
        for index, values in progress["read"].items():
            path, seen = self.images["path"].iloc[index], Seen.of_json(values)
            self.digests.note(path, seen)
            if self.digests.of(path) != seen.digest:
                return str(self.images["image_id"].iloc[index])
        for index in progress["skipped"]:
            try:
                self.load(self.images["path"].iloc[index])
            except ImageError:
                continue
            return str(self.images["image_id"].iloc[index])
        return ""


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in words which settings changed between two runs; the fingerprint knew that something did."""
    changed = [f"{name}: {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    return ", ".join(changed) or "other images, helper weights or weights to start from"


def loss_curve(progress: Progress, title: str, loss: str) -> Any:
    """Draw the loss of every exposure and its running mean.

    Args:
        progress: The finished run.
        title: The model's name.
        loss: Name of the loss.

    Returns:
        A figure; see `utils.core.figures.save_figure`.
    """
    import numpy as np

    from utils.core.figures import PALETTE, new_figure, shorten

    values = np.concatenate([np.asarray(losses) for losses in progress.losses])
    window = min(200, max(5, len(values) // 20))
    figure, axes = new_figure()
    position = np.arange(1, len(values) + 1)
    size = 5 if len(values) < 200 else 2.5
    axes.plot(position, values, ".", markersize=size, alpha=0.5, color=PALETTE[5], label="one exposure")
    if len(values) >= window:
        means = np.convolve(values, np.ones(window) / window, mode="valid")
        label = f"mean of {window} exposures"
        axes.plot(position[window - 1 :], means, color=PALETTE[1], linewidth=1.8, label=label)
    for boundary in np.cumsum([len(losses) for losses in progress.losses])[:-1]:
        axes.axvline(boundary + 0.5, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xlabel("exposure (one image each, in the order shown)")
    axes.set_ylabel(f"{loss} before the step")
    axes.set_title(f"Reconstruction error over {len(values):,} exposures\n{shorten(title, 64)}", fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    axes.legend(loc="upper right", ncols=2)
    return figure
