"""Attribution maps as the authors' released script shows them, for comparison (``--recipe released``).

Written anew from what that script does: Integrated Gradients from black with a fixed number of steps, of which the
*absolute* values are added over the colour channels. Such a map cannot tell what raises a prediction from what lowers
it. Its network saw pairs of images; here it is ours, one image at a time.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from utils.attribution.gradients import (
    Attributions,
    AttributionSettings,
    internal_batch_size,
    make_baselines,
    predict,
)
from utils.core.errors import UserError

LABEL = "_released-maps"
"""What the name of a model's tables ends in, so that they stand beside those of the corrected recipe."""


def check_released_flags(args: Namespace) -> None:
    """Refuse what the released script does not do.

    Raises:
        UserError: Naming the flag and what to do.
    """
    if args.recipe != "released":
        return
    if list(args.baseline) != ["black"] or args.smooth:
        raise UserError(
            "--recipe released starts from black and does not smooth; found --baseline "
            f"{' '.join(args.baseline)} and --smooth {args.smooth}. Leave these flags out, or leave --recipe out."
        )
    if args.check:
        raise UserError("--check tests signed maps; leave it out, or leave --recipe released out.")


def absolute_gradients(
    network: nn.Module, images: Tensor, image_ids: Sequence[str], settings: AttributionSettings
) -> Attributions:
    """Attribute each predicted score to pixels, without a sign.

    Args:
        network: Maps (N, 3, S, S) images to (N,) scores.
        images: (N, 3, S, S) float, [0, 1].
        image_ids: N names.
        settings: Of these `steps`, `method`, `internal_batch_size` and `tolerance` count; nothing is done again.

    Returns:
        Maps (N, H, W) >= 0, whose sum is no difference of predictions; ``attribution_sum`` and ``delta`` are those
        of the signed attributions, so that the two recipes can be compared.
    """
    from captum.attr import IntegratedGradients

    images = images.contiguous(memory_format=torch.channels_last)
    baselines = make_baselines(images, "black", image_ids)
    prediction, baseline_prediction = predict(network, images), predict(network, baselines)
    values = IntegratedGradients(network).attribute(
        images,
        baselines=baselines,
        n_steps=settings.steps,
        method=settings.method,
        internal_batch_size=internal_batch_size(settings, images.device),
    )
    values = values.detach().cpu()
    sums = values.double().sum(dim=(1, 2, 3)).numpy()
    gap = prediction - baseline_prediction
    return Attributions(
        maps=values.abs().sum(dim=1).float().numpy(),
        prediction=prediction,
        baseline_prediction=baseline_prediction,
        attribution_sum=sums,
        delta=sums - gap,
        steps=np.full(len(images), settings.steps, dtype=np.int64),
        converged=np.abs(sums - gap) <= settings.tolerance * np.abs(gap),
    )
