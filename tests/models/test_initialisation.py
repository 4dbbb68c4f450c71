import pytest
import torch

from models.autoencoder import build_autoencoder
from models.initialisation import initialise
from utils.core.errors import UserError


def thin(kind, seed=0):
    return initialise(build_autoencoder("vgg11", width=0.125), kind, seed)


def test_the_centres_of_the_kernels_are_orthogonal_but_for_the_noise(monkeypatch):
    monkeypatch.setattr("models.initialisation.NOISE", 0.0)
    model = thin("delta-orthogonal").requires_grad_(False)
    square = model.encoder.conv5[0].layer[0].weight
    torch.testing.assert_close(square[:, :, 1, 1] @ square[:, :, 1, 1].T, torch.eye(64), atol=1e-5, rtol=0)
    assert square.abs().sum() == pytest.approx(square[:, :, 1, 1].abs().sum().item())
    wide = model.encoder.conv2[0].layer[0].weight[:, :, 1, 1]  # 8 channels in, 16 out: twice the variance
    torch.testing.assert_close(wide.T @ wide, 2 * torch.eye(8), atol=1e-5, rtol=0)
    up = model.decoder.conv1[0].weight
    for place in ((0, 0), (1, 1)):
        torch.testing.assert_close(up[:, :, *place] @ up[:, :, *place].T, torch.eye(64), atol=1e-5, rtol=0)
    assert model.encoder.conv1[0].layer[1].bias.tolist() == [1.0] * 8
    assert thin("he").encoder.conv1[0].layer[1].bias.tolist() == [0.0] * 8


def test_five_in_six_values_pass_a_relu_and_half_of_them_with_hes_weights():
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for kind, expected in (("delta-orthogonal", 0.84), ("he", 0.5)):
        with torch.no_grad():
            values = thin(kind).train().encoder.conv1[0](images)
        assert (values > 0).float().mean().item() == pytest.approx(expected, abs=0.05)


def test_hes_weights_have_hes_deviation():
    weight = thin("he").encoder.conv5[0].layer[0].weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    first, other = thin("he", 1), thin("he", 2)
    state = torch.random.get_rng_state()
    second = initialise(first.__class__("vgg11", 0.125), "he", 1)
    weights = [model.encoder.conv1[0].layer[0].weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.random.set_rng_state(state)
    initialise(first, "delta-orthogonal", 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_unknown_initialisations_are_refused():
    with pytest.raises(
        UserError, match="Unknown initialisation 'xavier'; expected one of delta-orthogonal, he"
    ):
        thin("xavier")
