"""Absolute maps: on a linear network every attribution is known."""

from argparse import Namespace

import numpy as np
import pytest
import torch

from utils.attribution.gradients import AttributionSettings, integrated_gradients
from utils.attribution.released import absolute_gradients, check_released_flags
from utils.core.errors import UserError


class Linear(torch.nn.Module):
    """Red raises the score, green lowers it, blue does nothing."""

    def forward(self, images):
        return (images[:, 0] - images[:, 1]).mean(dim=(1, 2))


def test_absolute_maps_add_what_signed_ones_cancel():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = AttributionSettings(steps=5)
    signed = integrated_gradients(Linear(), images, ["a", "b", "c"], settings)
    absolute = absolute_gradients(Linear(), images, ["a", "b", "c"], settings)
    red, green = images[:, 0].numpy() / 64, images[:, 1].numpy() / 64
    np.testing.assert_allclose(absolute.maps, red + green, rtol=1e-5)
    np.testing.assert_allclose(signed.maps, red - green, atol=1e-7)
    np.testing.assert_allclose(absolute.attribution_sum, signed.attribution_sum, atol=1e-6)
    np.testing.assert_allclose(absolute.delta, 0, atol=1e-6)
    np.testing.assert_allclose(absolute.prediction, signed.prediction)
    assert (absolute.steps == 5).all()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"baseline": ["mean"]}, "--baseline mean"),
        ({"smooth": 3}, "--smooth 3"),
        ({"check": True}, "--check tests signed maps"),
    ],
)
def test_what_the_released_script_does_not_do_is_refused(changed, text):
    flags = {"recipe": "released", "baseline": ["black"], "smooth": 0, "check": False}
    check_released_flags(Namespace(**flags))
    check_released_flags(Namespace(**flags | changed | {"recipe": "corrected"}))
    with pytest.raises(UserError, match=text):
        check_released_flags(Namespace(**flags | changed))
