"""Moves through the latent space, each up to the same change of the picture.

A picture starts as its own reconstruction, D(E(x)), never as x itself: what the autoencoder loses is no part of a
move. Every move is cut at the same fidelity cost, the mean squared difference of its picture from D(E(x)), so that
methods and controls differ in where they go and not in how far. A code also has to stay where codes of
photographs lie: no farther from the nearest training code than training codes lie from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

BISECTIONS = 12
"""Halvings of a bracket: a length is then known to one part in four thousand."""

PATH_BISECTIONS = 4
"""The same on the way, where a length need not be exact."""

DOUBLINGS = 24
PATH_STEPS = 6
"""Gradients taken between two stations of a path, each after an equal share of the change in the picture."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class CodeNetwork:
    """An autoencoder and a head on its codes.

    Attributes:
        encoder: (N, 3, S, S) images in [0, 1] to codes (N, ...), values >= 0.
        decoder: Codes to images in [0, 1].
        head: Codes to (N,) scores.
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module

    def score_images(self, images: Tensor) -> Tensor:
        """Predict the scores of images, (N,)."""
        return self.head(self.encoder(images))

    def score_decoded(self, codes: Tensor) -> Tensor:
        """Predict the scores of what codes look like, f(E(D(z))), (N,)."""
        return self.score_images(self.decoder(codes))


@dataclass(frozen=True)
class Neighbourhood:
    """Where codes of photographs lie.

    Attributes:
        codes: (M, D) float32 training codes.
        radius: Largest distance to the nearest of them that a code may have; see `neighbourhood_of`.
    """

    codes: Tensor
    radius: float

    def distances(self, codes: Tensor) -> Tensor:
        """Return the Euclidean distance of each of (N, ...) codes to its nearest training code, (N,)."""
        flat = codes.flatten(1)
        nearest = [
            torch.cdist(flat, part.to(flat), compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
            for part in self.codes.split(_ROWS_AT_ONCE)
        ]
        return torch.stack(nearest).amin(dim=0)


def neighbourhood_of(codes: np.ndarray, nearest: np.ndarray, quantile: float = 0.95) -> Neighbourhood:
    """Describe where training codes lie.

    Args:
        codes: (M, ...) training codes.
        nearest: (M,) distance of each to its nearest other training code.
        quantile: Share of the training codes that are no farther from another than the radius.
    """
    flat = torch.from_numpy(np.ascontiguousarray(codes.reshape(len(codes), -1), dtype=np.float32))
    return Neighbourhood(flat, float(np.quantile(nearest, quantile)))


@dataclass(frozen=True)
class Bounds:
    """What a move may cost, per image of a batch.

    Attributes:
        start: (N, 3, S, S) the reconstructions, D(E(x)).
        squared_error: (N,) largest mean squared difference from `start`.
        radius: (N,) largest distance from the nearest training code; the start's own where that is larger.
        perceptual: A perceptual distance of two batches of images, (N,), e.g. LPIPS; None for none.
        perceptual_limit: Largest value of it.
    """

    start: Tensor
    squared_error: Tensor
    radius: Tensor
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    perceptual_limit: float = float("inf")

    def with_error(self, squared_error: Tensor) -> Bounds:
        """The same with another fidelity cost."""
        return replace(self, squared_error=squared_error)

    def affords(self, images: Tensor) -> Tensor:
        """Say of (N, 3, S, S) images whether they differ from the start by no more than allowed, (N,) bool."""
        cheap = squared_difference(images, self.start) <= self.squared_error
        if self.perceptual is None:
            return cheap
        return cheap & (self.perceptual(self.start, images) <= self.perceptual_limit)


@dataclass(frozen=True)
class Moved:
    """Codes after a move.

    Attributes:
        codes: (N, ...).
        images: (N, 3, S, S) what they look like.
        squared_error: (N,) mean squared difference from the reconstructions.
        limited_by_codes: (N,) bool, whether the neighbourhood of the training codes ended the move before the
            fidelity budget was used up.
    """

    codes: Tensor
    images: Tensor
    squared_error: Tensor
    limited_by_codes: Tensor


def squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference of images, (N,)."""
    return ((first - second) ** 2).flatten(1).mean(dim=1)


def squared_error_of(psnr: float) -> float:
    """Return the mean squared difference, in the squared [0, 1] pixel range, of a PSNR in dB."""
    return 10.0 ** (-psnr / 10.0)


def psnr_of(squared_error: Tensor | np.ndarray) -> np.ndarray:
    """Return the PSNR in dB of mean squared differences in the squared [0, 1] range; infinite for none."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(np.asarray(squared_error, dtype=np.float64))


def longest(feasible: Callable[[Tensor], Tensor], first: Tensor, bisections: int = BISECTIONS) -> Tensor:
    """Find, for each image by itself, the largest length for which a condition holds.

    Doubles the length until the condition fails, then halves the bracket. The condition is taken to hold up to
    one length and to fail beyond it.

    Args:
        feasible: Maps (N,) lengths to (N,) bool.
        first: (N,) lengths > 0 to begin with.
        bisections: Halvings of the bracket.

    Returns:
        (N,) lengths for which the condition was seen to hold; 0 where it held for none.
    """
    low, high = torch.zeros_like(first), first.clone()
    growing = torch.ones_like(first, dtype=torch.bool)
    for _ in range(DOUBLINGS):
        holds = feasible(high) & growing
        low = torch.where(holds, high, low)
        high = torch.where(holds, high * 2, high)
        growing = holds
        if not growing.any():
            break
    for _ in range(bisections):
        middle = (low + high) / 2
        holds = feasible(middle)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low


def _spread(lengths: Tensor, like: Tensor) -> Tensor:
    return lengths.view(-1, *([1] * (like.ndim - 1)))


def normalised(directions: Tensor) -> Tensor:
    """Scale each of (N, ...) directions to length 1; a direction of length 0 stays as it is."""
    lengths = directions.flatten(1).norm(dim=1).clamp_min(1e-30)
    return directions / _spread(lengths, directions)


def move_along(
    network: CodeNetwork,
    start: Tensor,
    directions: Tensor,
    bounds: Bounds,
    neighbourhood: Neighbourhood,
    first: Tensor | None = None,
    bisections: int = BISECTIONS,
) -> Moved:
    """Go from codes along directions as far as the bounds allow.

    Codes are outputs of a ReLU, so a move stops being straight where a value reaches 0 and stays there.

    Args:
        network: For its decoder.
        start: (N, ...) codes.
        directions: (N, ...) of length 1, or 0 for no move.
        bounds: What the move may cost.
        neighbourhood: Where the codes must stay.
        first: (N,) lengths to begin the search with.
        bisections: How exactly the length is found.
    """

    def at(lengths: Tensor) -> tuple[Tensor, Tensor]:
        codes = (start + _spread(lengths, start) * directions).clamp_min(0)
        return codes, network.decoder(codes)

    def near(codes: Tensor) -> Tensor:
        return neighbourhood.distances(codes) <= bounds.radius * (1 + 1e-6)

    def feasible(lengths: Tensor) -> Tensor:
        codes, images = at(lengths)
        return bounds.affords(images) & near(codes)

    with torch.inference_mode():
        if first is None:
            first = 1e-2 * start.flatten(1).norm(dim=1)
        lengths = longest(feasible, first.clamp_min(1e-6), bisections)
        codes, images = at(lengths)
        error = squared_difference(images, bounds.start)
        beyond, dearer = at(lengths * (1 + 2.0 ** (1 - bisections)) + 1e-9)
        limited = bounds.affords(dearer) & ~near(beyond)
    return Moved(codes.clone(), images.clone(), error.clone(), limited.clone())


def score_gradient(network: CodeNetwork, codes: Tensor) -> Tensor:
    """Return the gradient of f(E(D(z))) with respect to (N, ...) codes z, each scaled to length 1."""
    with torch.enable_grad():
        leaf = codes.detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network.score_decoded(leaf).sum(), leaf)
    return normalised(gradient)


def climb(
    network: CodeNetwork,
    start: Tensor,
    bounds: Sequence[Bounds],
    neighbourhood: Neighbourhood,
    sign: float = 1.0,
    steps: int = PATH_STEPS,
) -> list[Moved]:
    """Follow the gradient of the predicted score, up or down, as far as each of several bounds allows.

    The gradient is that of the decoded and encoded picture's score, f(E(D(z))), which is what counts in the end.
    It is taken anew after each equal share of the change in the picture (projected gradient ascent: every point is
    inside the bounds). One path serves all bounds.

    Args:
        network: Its weights need no gradients.
        start: (N, ...) codes.
        bounds: What the path may cost up to each of its stations, rising.
        neighbourhood: Where the codes must stay.
        sign: 1 to raise the score, -1 to lower it.
        steps: How often the gradient is taken between two stations.

    Returns:
        The codes at each station.
    """
    codes, stations = start, []
    spent = torch.zeros_like(bounds[0].squared_error)
    length = None
    for station in bounds:
        root, goal = spent.sqrt(), station.squared_error.sqrt()
        for step in range(1, steps + 1):
            part = station.with_error((root + (goal - root) * step / steps) ** 2)
            precision = BISECTIONS if step == steps else PATH_BISECTIONS
            directions = sign * score_gradient(network, codes)
            moved = move_along(network, codes, directions, part, neighbourhood, length, precision)
            length = (moved.codes - codes).flatten(1).norm(dim=1) / 2
            codes = moved.codes
        spent = station.squared_error
        stations.append(moved)
    return stations
