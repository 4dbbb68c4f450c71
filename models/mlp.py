"""The MLP head: latent codes in, one memorability score per image out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.core.errors import UserError

DEFAULT_HIDDEN_SIZES = (256, 64)
DEFAULT_DROPOUT = 0.5


class MemorabilityMLP(nn.Module):
    """Fully connected head that maps latent codes to memorability scores.

    The standardisation of inputs and scores is part of the module (buffers, so it is saved with the
    weights): it takes latent codes as the encoder gives them and answers in units of the memorability score.
    That keeps scoring, evaluation and attribution on the same function. Until `set_standardisation` is
    called both are the identity.

    Args:
        n_inputs: Length of a flattened latent code (25,088 for the VGG16 encoder at 224 px).
        hidden_sizes: Width of each hidden layer; an empty sequence makes a linear model.
        dropout: Share of hidden units dropped in training, in [0, 1).

    Raises:
        ValueError: A size below 1 or a dropout outside [0, 1).
    """

    input_mean: Tensor
    input_scale: Tensor
    score_mean: Tensor
    score_scale: Tensor

    def __init__(
        self,
        n_inputs: int,
        hidden_sizes: Sequence[int] = DEFAULT_HIDDEN_SIZES,
        dropout: float = DEFAULT_DROPOUT,
    ) -> None:
        super().__init__()
        if n_inputs < 1 or any(size < 1 for size in hidden_sizes):
            raise ValueError(
                f"Layer sizes must be 1 or more, got {n_inputs} inputs and hidden {list(hidden_sizes)}."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"Dropout must be at least 0 and below 1, got {dropout}.")
        self.n_inputs = int(n_inputs)
        self.hidden_sizes = tuple(int(size) for size in hidden_sizes)
        self.dropout = float(dropout)
        widths = [self.n_inputs, *self.hidden_sizes]
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(self.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self.register_buffer("input_mean", torch.zeros(self.n_inputs))
        self.register_buffer("input_scale", torch.ones(self.n_inputs))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_scale", torch.ones(()))

    def set_standardisation(
        self, input_mean: Tensor, input_scale: Tensor, score_mean: float, score_scale: float
    ) -> None:
        """Store the mean and spread of the training rows.

        Args:
            input_mean: (D,) float, mean of each latent dimension.
            input_scale: (D,) float > 0, what each centred dimension is divided by.
            score_mean: Mean training score.
            score_scale: Standard deviation of the training scores, > 0.

        Raises:
            ValueError: Shapes other than (D,), or a scale that is not positive.
        """
        if input_mean.shape != (self.n_inputs,) or input_scale.shape != (self.n_inputs,):
            raise ValueError(
                f"Expected mean and scale of shape ({self.n_inputs},), got {tuple(input_mean.shape)} and "
                f"{tuple(input_scale.shape)}."
            )
        if not (bool((input_scale > 0).all()) and score_scale > 0):
            raise ValueError("Every scale must be positive.")
        self.input_mean.copy_(input_mean)
        self.input_scale.copy_(input_scale)
        self.score_mean.fill_(float(score_mean))
        self.score_scale.fill_(float(score_scale))

    def standardised(self, latents: Tensor) -> Tensor:
        """Predict in standard deviations of the training score, the scale on which the loss is computed.

        Args:
            latents: (N, D) or (N, C, h, w) with C*h*w = D, float, as the encoder gives them.

        Returns:
            (N,) float; larger is more memorable, 0 is the training mean.

        Raises:
            UserError: Codes of another length than the head was built for.
        """
        codes = latents.flatten(1)
        if codes.shape[1] != self.n_inputs:
            raise UserError(
                f"This MLP takes latent codes of {self.n_inputs} values, got {codes.shape[1]} "
                f"(shape {tuple(latents.shape)}). Use the encoder and the image size it was trained with."
            )
        return self.layers((codes - self.input_mean) / self.input_scale).squeeze(-1)

    def forward(self, latents: Tensor) -> Tensor:
        """Predict memorability scores.

        Args:
            latents: (N, D) or (N, C, h, w) with C*h*w = D, float, as the encoder gives them.

        Returns:
            (N,) float in units of the training score; larger is more memorable. Not clipped to the range of a
            score, so that the order of very memorable images is kept.

        Raises:
            UserError: Codes of another length than the head was built for.
        """
        return self.standardised(latents) * self.score_scale + self.score_mean

    def architecture(self) -> dict[str, Any]:
        """Return the arguments that rebuild this module, ready for JSON or a checkpoint."""
        return {"n_inputs": self.n_inputs, "hidden_sizes": list(self.hidden_sizes), "dropout": self.dropout}


def build_mlp(
    n_inputs: int,
    hidden_sizes: Sequence[int] = DEFAULT_HIDDEN_SIZES,
    dropout: float = DEFAULT_DROPOUT,
    seed: int = 0,
) -> MemorabilityMLP:
    """Build an MLP whose initial weights depend on the seed alone; torch's global generator is left alone.

    Args:
        n_inputs: Length of a flattened latent code.
        hidden_sizes: Width of each hidden layer.
        dropout: Share of hidden units dropped in training, in [0, 1).
        seed: Seed of the initial weights.

    Returns:
        The module on the CPU, in training mode.

    Raises:
        ValueError: A size below 1 or a dropout outside [0, 1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MemorabilityMLP(n_inputs, hidden_sizes, dropout)
