import warnings

import numpy as np
import pytest
import torch
from fabricated import write_trunk_files
from skimage.metrics import structural_similarity

from models.pretrained import load_lpips_linear, load_trunk
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.reconstruction.losses import (
    LPIPS_TRUNKS,
    MS_SSIM_MIN_SIDE_PX,
    STYLE_LAYERS,
    ReconstructionLosses,
    check_losses,
    to_lpips_range,
    uses_pretrained,
)

SIDE = 176
LPIPS_NETS = {"lpips-vgg": "vgg", "lpips-alex": "alex", "lpips-sq": "squeeze"}


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory):
    """A TORCH_HOME with fabricated files of all trunks, in force for the whole module."""
    folder = tmp_path_factory.mktemp("torch_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        write_trunk_files()
        yield folder


@pytest.fixture(scope="module")
def losses(torch_home):
    """All eight losses with the fabricated pretrained trunks."""
    return ReconstructionLosses()


@pytest.fixture(scope="module")
def pair():
    """Three smooth images and reconstructions: slightly noisy, contrast-inverted, blurred; a border stays black."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(3, 3, 12, 12, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").clamp(0, 1)
    image[:, :, :9] = 0.0  # zeros exercise the normalisation of empty feature vectors
    noisy = (image[0] + 0.05 * torch.randn(image[0].shape, generator=generator)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(image[2], 9, stride=1, padding=4)
    return image, torch.stack([noisy, 1 - image[1], blurred])


@pytest.fixture(scope="module")
def values(losses, pair):
    with torch.inference_mode():
        return losses(*pair)


def lpips_oracle(net):
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips still calls torchvision's deprecated pretrained=
        return lpips.LPIPS(net=net, verbose=False)


def numpy_features(images, name, layers):
    """Features from torch, everything after them in numpy."""
    trunk, outputs = load_trunk(name), []
    for index, layer in enumerate(trunk):
        images = layer(images)
        if index in layers:
            outputs.append(images.numpy().astype(np.float64).copy())
    return outputs


def test_order_and_shape(values):
    assert tuple(values) == LOSSES
    assert all(value.shape == (3,) and value.dtype == torch.float32 for value in values.values())


def test_mse_and_mae_equal_numpy(pair, values):
    difference = pair[0].double().numpy() - pair[1].double().numpy()
    np.testing.assert_allclose(values["mse"].numpy(), (difference**2).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(values["mae"].numpy(), np.abs(difference).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_ssim_equals_skimage(pair, values):
    expected = [
        1
        - structural_similarity(
            a.double().numpy(),
            b.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(values["ssim"].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (161, 163), (224, 192)])
def test_ms_ssim_equals_pytorch_msssim(shape):
    from pytorch_msssim import ms_ssim

    image = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    other = (image + 0.2 * torch.flip(image, dims=(0,))).clamp(0, 1)
    expected = 1 - ms_ssim(image, other, data_range=1.0, size_average=False)
    torch.testing.assert_close(
        ReconstructionLosses(["ms-ssim"])(image, other)["ms-ssim"], expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", sorted(LPIPS_NETS))
def test_lpips_equals_the_lpips_package(name, pair, values):
    oracle = lpips_oracle(LPIPS_NETS[name])
    with torch.no_grad():
        batch = oracle(*pair, normalize=True).flatten()
        single = oracle(pair[0][:1], pair[1][:1], normalize=True).flatten()
    torch.testing.assert_close(values[name], batch, atol=1e-5, rtol=0)
    torch.testing.assert_close(values[name][:1], single, atol=1e-5, rtol=0)
    assert values[name].min() > 1e-3  # far above the tolerance, or the comparison would say nothing


@pytest.mark.parametrize("name", sorted(LPIPS_NETS))
def test_released_lpips_takes_unscaled_images(name, pair, torch_home):
    oracle = lpips_oracle(LPIPS_NETS[name])
    with torch.no_grad():
        expected = oracle(*pair, normalize=False).flatten()
        found = ReconstructionLosses([name], recipe="released")(*pair)[name]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_lpips_range_has_one_place():
    ends = to_lpips_range(torch.tensor([0.0, 0.5, 1.0]))
    assert ends.tolist() == [-1.0, 0.0, 1.0]


def test_style_equals_numpy_gram(pair, values, torch_home):
    mean = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    deviation = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    normalised = [torch.tensor((x.numpy() - mean) / deviation, dtype=torch.float32) for x in pair]
    expected = np.zeros(3)
    for a, b in zip(*(numpy_features(x, "vgg19", STYLE_LAYERS) for x in normalised), strict=True):
        n, c, h, w = a.shape
        grams = [np.einsum("nik,njk->nij", x, x) / (c * h * w) for x in (f.reshape(n, c, -1) for f in (a, b))]
        expected += ((grams[0] - grams[1]) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(values["style"].numpy(), expected, rtol=1e-4)


def test_released_style_is_the_undivided_gram_of_the_last_map(pair, torch_home):
    a, b = (numpy_features(x, "vgg19", (36,))[0].reshape(3, 512, -1) for x in pair)
    grams = [np.einsum("nik,njk->nij", x, x) for x in (a, b)]
    expected = ((grams[0] - grams[1]) ** 2).mean(axis=(1, 2))
    with torch.no_grad():
        found = ReconstructionLosses(["style"], recipe="released")(*pair)["style"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_style_layers_are_the_first_convolutions_after_relu(torch_home):
    trunk = load_trunk("vgg19")
    for index in STYLE_LAYERS:
        assert isinstance(trunk[index], torch.nn.ReLU)
        before = trunk[index - 2] if index > 1 else torch.nn.MaxPool2d(2)
        assert isinstance(before, torch.nn.MaxPool2d)


def test_identical_images_give_zero(losses, pair):
    with torch.inference_mode():
        for name, value in losses(pair[0], pair[0].clone()).items():
            assert value.abs().max() <= 1e-5, name


def test_worse_images_give_more(losses, pair):
    image = pair[0][[0, 2]]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        levels = [losses(image, (image + scale * noise).clamp(0, 1)) for scale in (0.02, 0.1, 0.4)]
    for name in LOSSES:
        for image_levels in torch.stack([level[name] for level in levels]).T:
            assert (image_levels.diff() > 0).all(), (name, image_levels)
            assert image_levels[0] > 0, name


def test_value_is_independent_of_neighbours(losses, pair, values):
    """Alone, in another order, and beside other neighbours; also the dark, inverted image beside any other."""
    with torch.inference_mode():
        reversed_values = losses(pair[0].flip(0), pair[1].flip(0))
        for name in LOSSES:
            torch.testing.assert_close(reversed_values[name].flip(0), values[name], rtol=1e-5, atol=1e-6)
        for index in range(3):
            alone = losses(pair[0][index : index + 1], pair[1][index : index + 1])
            for name in LOSSES:
                torch.testing.assert_close(alone[name], values[name][index : index + 1], rtol=1e-5, atol=1e-6)


def test_subset_gives_the_same_values_as_all(pair, values, torch_home):
    names = ["style", "ssim", "lpips-sq"]
    with torch.inference_mode():
        subset = ReconstructionLosses(names)(*pair)
    assert list(subset) == ["ssim", "lpips-sq", "style"]
    for name, value in subset.items():
        torch.testing.assert_close(value, values[name], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(pair, values, torch_home):
    from utils.core.device import full_float32

    full_float32()
    with torch.inference_mode():
        found = ReconstructionLosses(device="cuda")(*(images.cuda() for images in pair))
    for name in LOSSES:
        torch.testing.assert_close(found[name].cpu(), values[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [(name, "corrected") for name in LOSSES] + [(name, "released") for name in ("lpips-sq", "style")],
)
def test_gradient_points_towards_the_image(name, recipe, pair, torch_home):
    """Finite everywhere, on contrast-inverted and black regions too, and a small step against it lowers the loss."""
    losses = ReconstructionLosses([name], recipe=recipe)
    image = pair[0][[0, 1]]
    start = pair[1][[0, 1]].clone().requires_grad_()
    value = losses(image, start)[name]
    value.sum().backward()
    assert torch.isfinite(start.grad).all()
    slope = start.grad[0].flatten().norm()
    assert slope > 0
    step = 1e-3 * start.grad[0] / start.grad[0].abs().max()
    with torch.no_grad():
        after = losses(image[:1], start[:1] - step)[name]
    assert after[0] < value[0]


def test_gradient_agrees_with_finite_differences(torch_home):
    losses = ReconstructionLosses(["ms-ssim", "ssim"])
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    other = (image * 0.7 + 0.1).requires_grad_()
    direction = torch.randn(image.shape, generator=generator)
    for name in losses.names:
        (gradient,) = torch.autograd.grad(losses(image, other)[name].sum(), other)
        with torch.no_grad():
            up, down = (losses(image, other + s * 1e-2 * direction)[name] for s in (1, -1))
        assert (gradient * direction).sum().item() == pytest.approx(((up - down) / 2e-2).item(), rel=0.05)


def test_split_gradient_path_equals_joint_path(pair, torch_home):
    """With gradients the two halves go through the trunk separately, without them together: same values."""
    losses = ReconstructionLosses(["lpips-sq", "style"])
    with torch.inference_mode():
        joint = losses(*pair)
    split = losses(pair[0], pair[1].clone().requires_grad_())
    for name in joint:
        torch.testing.assert_close(split[name].detach(), joint[name], rtol=1e-5, atol=1e-6)


def test_released_objective_reverses_lpips_alone():
    losses = ReconstructionLosses(["mse"], recipe="released")
    value = torch.tensor([0.2, 0.4])
    torch.testing.assert_close(losses.objective("lpips-sq", value), 1 - value)
    torch.testing.assert_close(losses.objective("mse", value), value)
    assert torch.equal(ReconstructionLosses(["mse"]).objective("lpips-sq", value), value)


def test_what_the_released_test_script_stores_is_one_minus_lpips_beside_the_loss():
    values = {"mse": torch.tensor([0.1]), "ssim": torch.tensor([0.3]), "lpips-sq": torch.tensor([0.25])}
    stored = ReconstructionLosses(["mse"], recipe="released").stored(values)
    assert list(stored) == ["mse", "ssim", "lpips-sq", "1-lpips-sq"]
    assert stored["1-lpips-sq"].item() == pytest.approx(0.75)
    assert stored["lpips-sq"].item() == 0.25
    assert ReconstructionLosses(["mse"]).stored(values) == values


def test_reduced_precision_around_it_does_not_reach_the_losses(pair, torch_home):
    losses = ReconstructionLosses(["lpips-sq"])
    with torch.inference_mode():
        plain = losses(*pair)["lpips-sq"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = losses(*pair)["lpips-sq"]
    assert torch.equal(plain, inside)


def test_random_weights_are_seeded_and_leave_the_global_state_alone(pair):
    state = torch.get_rng_state()
    with torch.inference_mode():
        first, again, other = (
            ReconstructionLosses(["lpips-sq"], weights="random", seed=seed)(*pair)["lpips-sq"]
            for seed in (0, 0, 1)
        )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_tapped_layers_match_the_linear_weights():
    for trunk, taps in LPIPS_TRUNKS.values():
        assert len(load_lpips_linear(trunk)) == len(taps)


def test_uses_pretrained_names_the_trunks():
    assert uses_pretrained(["mse", "style", "lpips-alex"]) == ["alexnet", "vgg19"]
    assert uses_pretrained(["mse", "ssim"]) == []


def test_unknown_loss_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        check_losses(["mse", "lpips"])
    assert str(caught.value) == f"Unknown loss: 'lpips'. Choose from: {', '.join(LOSSES)}."
    with pytest.raises(UserError, match="none at all"):
        check_losses([])


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match=r"Unknown recipe 'paper'; choose one of: corrected, released\."):
        ReconstructionLosses(["mse"], recipe="paper")


def test_ms_ssim_states_its_minimum():
    assert check_losses(["ms-ssim"], MS_SSIM_MIN_SIDE_PX) == ("ms-ssim",)
    for call in (
        lambda: check_losses(["mse", "ms-ssim"], 160),
        lambda: ReconstructionLosses(["ms-ssim"])(torch.rand(1, 3, 160, 224), torch.rand(1, 3, 160, 224)),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "at least 161 px" in str(caught.value)
        assert "got 160 px" in str(caught.value)
        assert "--image-size" in str(caught.value)


@pytest.mark.parametrize(
    "shapes", [((1, 3, 32, 32), (2, 3, 32, 32)), ((1, 1, 32, 32),) * 2, ((3, 32, 32),) * 2]
)
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="same shape") as caught:
        ReconstructionLosses(["mse"])(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    assert str(shapes[0]) in str(caught.value)


def test_docstring_example():
    import doctest

    import utils.reconstruction.losses

    assert doctest.testmod(utils.reconstruction.losses).failed == 0
    assert doctest.testmod(utils.reconstruction.losses).attempted > 0


@pytest.mark.parametrize("name", ["lpips-sq", "style"])
def test_trunks_in_bf16_are_close_and_the_losses_stay_float32(pair, name):
    with torch.inference_mode():
        plain, reduced = (
            ReconstructionLosses([name], weights="random", precision=precision)(*pair)[name]
            for precision in ("float32", "bf16")
        )
    assert reduced.dtype == torch.float32
    assert not torch.equal(plain, reduced)
    torch.testing.assert_close(reduced, plain, rtol=0.1, atol=0)
