"""Muon, which steps along the nearest orthogonal matrix of each kernel's momentum instead of along the momentum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al. 2024: steep at 0, singular values end in about 0.7..1.2
_ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return about the orthogonal factor of a matrix: the same singular vectors, singular values near 1.

    Newton-Schulz iteration of degree five (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), which needs
    products alone. torch's own Muon takes matrices only, and no kernels.

    Args:
        matrix: (R, C) float.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp_min(1e-12)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per kernel, for parameters of two or more dimensions.

    A kernel (outputs, inputs, h, w) counts as the matrix (outputs, inputs h w). The step of a tall matrix is enlarged by
    the root of its aspect ratio, so that every output moves equally far.

    Args:
        parameters: The kernels.
        lr: Learning rate: about the root mean square singular value of a step.
        momentum: Nesterov's.
        precision: What the iteration is computed in; its result need not be exact.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 0.01,
        momentum: float = 0.95,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Take a step; parameters without a gradient stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                direction = parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1)
                step = (
                    orthogonalise(direction.to(self.precision)).to(parameter.dtype).reshape(parameter.shape)
                )
                rows, columns = direction.shape
                parameter.add_(step, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
