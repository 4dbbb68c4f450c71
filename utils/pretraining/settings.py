"""What a pretraining is done with, how its epochs are shared out, and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.core.errors import UserError
from utils.core.names import LAYERS

DEPTHS = len(LAYERS)
OUTER_SHARE = 0.5  # of all epochs, for the growing depths together; the whole network gets the rest
OUTER_FLOOR = 0.3  # of the learning rate, where the schedule of a growing depth ends
WARM_UP_STEPS = 100
_WARM_UP_SHARE = 0.1  # of a stage, where that is less


@dataclass(frozen=True)
class PretrainingSettings:
    """Everything that decides the weights, beside the pictures.

    Attributes:
        arch: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        width: What every number of channels is multiplied by.
        image_size: Side of the square crops in pixels.
        batch_size: Crops per step.
        optimizer: ``muon`` (kernels; Adam for the rest) or ``adam``.
        learning_rate: Of the optimiser, at the height of the schedule.
        loss: (name, weight) of each reconstruction loss in the sum that is minimised.
        grow: Train the outer block of encoder and decoder first, then one block deeper at a time.
        initialisation: See `models.initialisation.initialise`.
        gradient_clip: Largest L2 norm of all gradients together.
        batch_norm_momentum: How fast the running statistics follow the batches, 0..1.
        frozen_share: Last share of the steps in which batch norm keeps its running statistics, 0..1.
        precision: ``float32`` or ``bf16`` (autocast) for the network; losses are float32.
        split: ``all`` pictures, or those of splits.csv for training.
        held_out: Share of the pictures held out, where no splits.csv says which.
        seed: Of weights, order and crops.
    """

    arch: str = "vgg16"
    width: float = 1.0
    image_size: int = 224
    batch_size: int = 16
    optimizer: str = "muon"
    learning_rate: float = 1e-2
    loss: tuple[tuple[str, float], ...] = (("mse", 1.0),)
    grow: bool = False
    initialisation: str = "delta-orthogonal"
    gradient_clip: float = 1.0
    batch_norm_momentum: float = 0.1
    frozen_share: float = 0.0
    precision: str = "float32"
    split: str = "all"
    held_out: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """Some epochs in a row at one depth.

    Attributes:
        depth: Blocks of encoder and decoder that are trained, counted from the outside: 1 to 5.
        epochs: How many.
    """

    depth: int
    epochs: int


def plan_stages(epochs: int, grow: bool) -> list[Stage]:
    """Share out the epochs over the depths: half of them evenly to the growing ones, the rest to the whole network.

    Args:
        epochs: All epochs.
        grow: Whether to grow; without it, all epochs are at full depth.

    Raises:
        UserError: If there are too few epochs to give each depth one.
    """
    if not grow:
        return [Stage(DEPTHS, epochs)]
    if epochs < DEPTHS:
        raise UserError(
            f"Growing takes an epoch at each of {DEPTHS} depths, but there are {epochs} in all. Use more --epochs or "
            "--minutes, or train all blocks at once with --no-grow."
        )
    outer = max(1, int(epochs * OUTER_SHARE / (DEPTHS - 1)))
    stages = [Stage(depth, outer) for depth in range(1, DEPTHS)]
    return [*stages, Stage(DEPTHS, epochs - outer * (DEPTHS - 1))]


def epochs_within(seconds: float, epoch_seconds: Sequence[float], grow: bool) -> int:
    """Return how many epochs fit into a time.

    Args:
        seconds: The time there is.
        epoch_seconds: What an epoch takes at each depth, from 1 to 5.
        grow: See `plan_stages`.

    Returns:
        The most that fit; at least what `plan_stages` needs.
    """
    epochs = DEPTHS if grow else 1

    def cost(count: int) -> float:
        return sum(stage.epochs * epoch_seconds[stage.depth - 1] for stage in plan_stages(count, grow))

    while cost(epochs + 1) <= seconds:
        epochs += 1
    return epochs


def stage_of(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """Return which stage an epoch (from 1) belongs to, and how many epochs of that stage come before it."""
    before = 0
    for number, stage in enumerate(stages):
        if epoch <= before + stage.epochs:
            return number, epoch - 1 - before
        before += stage.epochs
    raise ValueError(f"epoch {epoch} is beyond the {before} of the plan")


def learning_rate_at(step: int, steps: int, peak: float, last: bool) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine (Loshchilov & Hutter 2017, eq. 5).

    Args:
        step: Within its stage, from 0.
        steps: How many the stage has.
        peak: The learning rate after the warm-up.
        last: Whether the whole network is trained: the cosine then falls to 0, before that to a third or so, since the
            weights go on being trained in the next stage.
    """
    warm_up = max(1, min(WARM_UP_STEPS, round(steps * _WARM_UP_SHARE)))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    floor = 0.0 if last else OUTER_FLOOR
    position = (step - warm_up) / max(steps - warm_up, 1)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * position)))
