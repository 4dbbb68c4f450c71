"""Encoder and head as one network, folded for speed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ScoreNetwork(nn.Module):
    """Encoder and MLP head as one function of pixels: (N, 3, S, S) in [0, 1] to (N,) memorability scores.

    Args:
        encoder: Maps images to latent codes (N, C, h, w).
        head: Maps latent codes to scores (N,).
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Predict the memorability scores of images."""
        return self.head(self.encoder(images))


def fold_batch_norm(network: nn.Module) -> int:
    """Fold each batch norm behind a convolution in an ``nn.Sequential`` into that convolution, in place.

    Exact in evaluation mode, where a batch norm is a fixed scale and shift per channel; it spares a pass over
    every activation, forward and backward.

    Args:
        network: A network in evaluation mode.

    Returns:
        How many batch norms were folded.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = 0
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for first, second in zip(names, names[1:], strict=False):
            convolution, norm = module._modules[first], module._modules[second]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[first] = fuse_conv_bn_eval(convolution, norm)
                module._modules[second] = nn.Identity()
                folded += 1
    return folded


def prepare_network(network: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Copy a network into the form in which gradients with respect to pixels are cheapest.

    Evaluation mode, no gradients for the weights (the backward pass then costs one convolution per layer
    instead of two), batch norms folded, channels last. The function computed is the same up to rounding.

    Args:
        network: Maps (N, 3, S, S) images to (N,) scores; left as it is.
        device: Where the copy goes.
    """
    prepared = copy.deepcopy(network).eval().requires_grad_(False)
    fold_batch_norm(prepared)
    return prepared.to(device=device).to(memory_format=torch.channels_last)
