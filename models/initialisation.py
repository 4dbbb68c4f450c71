"""How the weights of an autoencoder that is trained from nothing are drawn."""

from __future__ import annotations

import torch
from torch import nn

from models.autoencoder import Autoencoder
from utils.core.errors import UserError

INITIALISATIONS = ("delta-orthogonal", "he")
NOISE = (
    0.1  # what is left of He's weights around the orthogonal centre, so that the kernels are not all alike
)
SHIFT = 1.0  # of every batch norm, in standard deviations: five in six values then pass the ReLU unchanged


def initialise(model: Autoencoder, kind: str, seed: int) -> Autoencoder:
    """Draw an autoencoder's weights anew, in place.

    ``delta-orthogonal`` lets the picture through from the first step: at the centre of each kernel stands an orthogonal
    matrix (Xiao et al. 2018, arXiv:1806.05393, algorithm 1), and each batch norm shifts its output upwards, so that the
    ReLUs are nearly linear. With He's weights (He et al. 2015, eq. 10; ``he``) 27 layers of random kernels and ReLUs
    blur what the decoder is to rebuild, and the first hour is spent on undoing that.

    Args:
        model: The network, freshly built.
        kind: One of `INITIALISATIONS`.
        seed: Decides the weights; torch's global state is left alone.

    Returns:
        The model.
    """
    if kind not in INITIALISATIONS:
        raise UserError(f"Unknown initialisation '{kind}'; expected one of {', '.join(INITIALISATIONS)}.")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if kind == "delta-orthogonal":
                _centre(module.weight, isinstance(module, nn.ConvTranspose2d), generator)
        elif isinstance(module, nn.BatchNorm2d) and kind == "delta-orthogonal":
            nn.init.constant_(module.bias, SHIFT)
    return model


@torch.no_grad()
def _centre(weight: torch.Tensor, transposed: bool, generator: torch.Generator) -> None:
    """Put an orthogonal matrix at the centre of a 3x3 kernel, or at each of a 2x2 stride-2 transposed one's places."""
    weight.mul_(NOISE)
    rows, columns = weight.shape[:2]
    matrix = nn.init.orthogonal_(torch.empty(rows, columns), generator=generator)
    if transposed:
        weight.add_(matrix[:, :, None, None])
    else:
        weight[:, :, 1, 1] += (
            matrix * max(1.0, rows / columns) ** 0.5
        )  # more channels out than in: same variance
