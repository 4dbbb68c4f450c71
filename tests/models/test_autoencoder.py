import csv
from pathlib import Path

import pytest
import torch
from conftest import PROJECT_ROOT

from models.autoencoder import (
    LAYERS_PER_BLOCK,
    WIDTHS,
    build_autoencoder,
    check_image_size,
    scaled_widths,
    width_of,
)
from utils.core.errors import UserError
from utils.core.names import ARCHITECTURES

KEYS = PROJECT_ROOT.parent / "shared" / "data" / "checkpoint_keys_vgg16.csv"


def test_vgg16_has_exactly_the_tensors_of_the_public_checkpoint():
    if not Path(KEYS).is_file():
        pytest.skip("the list of the public checkpoint's tensors is not here")
    with open(KEYS, newline="") as stream:
        expected = [(row["name"], row["shape"], row["dtype"]) for row in csv.DictReader(stream)]
    state = build_autoencoder("vgg16", seed=0).state_dict()
    ours = [
        (name, "x".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    ]
    assert ours == expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shapes_and_ranges(arch):
    model = build_autoencoder(arch, seed=0).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latents = model.encode(images)
        output = model(images)
        again = model.decoder(latents)
    assert latents.shape == (2, 512, 2, 2)
    assert latents.min() >= 0
    assert output.shape == images.shape
    assert 0 <= output.min() <= output.max() <= 1
    assert torch.equal(output, again)


def test_architectures_are_those_of_the_command_line():
    assert tuple(LAYERS_PER_BLOCK) == ARCHITECTURES


def test_parameter_count_is_the_papers():
    assert sum(p.numel() for p in build_autoencoder("vgg16", seed=0).parameters()) == pytest.approx(
        31.9e6, rel=0.005
    )


def test_earlier_blocks_can_be_read_and_unknown_ones_are_refused():
    model = build_autoencoder("vgg11", seed=0).eval()
    with torch.inference_mode():
        assert model.encoder(torch.rand(1, 3, 64, 64), until="conv2").shape == (1, 128, 16, 16)
        with pytest.raises(ValueError, match="unknown encoder block 'conv9'"):
            model.encoder(torch.rand(1, 3, 32, 32), until="conv9")


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = build_autoencoder("vgg11", seed=5), build_autoencoder("vgg11", seed=5)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = build_autoencoder("vgg11", seed=6)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_reconstruction_of_an_image_does_not_depend_on_its_neighbours():
    model = build_autoencoder("vgg11", seed=0).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_unknown_architectures_and_odd_sizes_are_refused():
    with pytest.raises(
        UserError, match="Unknown architecture 'resnet50'; expected one of vgg11, vgg13, vgg16, vgg19"
    ):
        build_autoencoder("resnet50")
    with pytest.raises(UserError, match="multiple of 32, e.g. 192 or 224"):
        check_image_size(200)
    check_image_size(224)


def test_a_width_scales_every_channel_and_keeps_every_name():
    compact, full = build_autoencoder("vgg16", seed=0, width=0.25), build_autoencoder("vgg16", seed=0)
    assert compact.widths == (16, 32, 64, 128, 128)
    assert list(compact.state_dict()) == list(full.state_dict())
    for (name, small), large in zip(compact.state_dict().items(), full.state_dict().values(), strict=True):
        scaled = tuple(size if size in (1, 2, 3) else size // 4 for size in large.shape)
        assert tuple(small.shape) == scaled, name
    assert sum(p.numel() for p in compact.parameters()) == pytest.approx(2.0e6, rel=0.01)
    with torch.inference_mode():
        assert compact.encode(torch.rand(1, 3, 96, 96)).shape == (1, 128, 3, 3)
        assert compact(torch.rand(1, 3, 96, 96)).shape == (1, 3, 96, 96)


@pytest.mark.parametrize("width", [0.008, 0.02, 0.1, 0.25, 1 / 3, 0.7, 1.0, 1.37, 2.0])
def test_the_width_is_found_again_from_the_channels(width):
    assert scaled_widths(width_of(scaled_widths(width))) == scaled_widths(width)


def test_widths_round_half_up_and_odd_ones_belong_to_no_width():
    assert scaled_widths(1.0) == WIDTHS
    assert scaled_widths(0.1) == (6, 13, 26, 51, 51)
    assert scaled_widths(2.5 / 64)[0] == 3
    assert width_of(WIDTHS) == 1.0
    assert width_of((16, 32, 64, 128, 64)) is None
    assert width_of((16, 32, 64, 128)) is None


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (0.0078, r"--width 0.0078 leaves no channel in the first block, .* Use at least 0.015625"),
        (0.0, "Expected a finite width above 0, got 0.0"),
        (float("nan"), "Expected a finite width above 0, got nan"),
    ],
)
def test_a_width_without_channels_is_refused(width, message):
    with pytest.raises(UserError, match=message):
        build_autoencoder("vgg16", width=width)
