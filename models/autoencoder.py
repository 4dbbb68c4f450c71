"""The VGG convolutional autoencoder the paper starts from, tensor for tensor that of the public checkpoint.

Module names (``conv1``, ``0 EncoderLayer``, ``layer``) are those of the checkpoint's state dict, so that it loads
strictly and without a key map.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from utils.core.errors import UserError
from utils.core.names import ARCHITECTURES

WIDTHS = (64, 128, 256, 512, 512)
LAYERS_PER_BLOCK = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
BLOCKS = tuple(f"conv{number}" for number in range(1, 6))
DOWNSAMPLING = 2 ** len(WIDTHS)


class EncoderLayer(nn.Module):
    """3x3 convolution, batch norm, ReLU: (N, inputs, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer."""
        return self.layer(values)


class DecoderLayer(nn.Module):
    """Batch norm, ReLU, 3x3 convolution: (N, inputs, H, W) to (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Not in place: the batch norm's input is also the output of the layer before.
        self.layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Apply the layer."""
        return self.layer(values)


def _encoder_block(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    block: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(layers):
        block[f"{number} EncoderLayer"] = EncoderLayer(inputs if number == 0 else outputs, outputs)
    block[f"{layers} MaxPooling"] = nn.MaxPool2d(kernel_size=2, stride=2)
    return nn.Sequential(block)


def _decoder_block(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    block: OrderedDict[str, nn.Module] = OrderedDict()
    block["0 UpSampling"] = nn.ConvTranspose2d(inputs, inputs, kernel_size=2, stride=2)
    for number in range(1, layers + 1):
        block[f"{number} DecoderLayer"] = DecoderLayer(inputs, outputs if number == layers else inputs)
    return nn.Sequential(block)


class Encoder(nn.Module):
    """Five blocks, each halving height and width: (N, 3, S, S) in [0, 1] to (N, 512, S/32, S/32), values >= 0."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        for name, inputs, outputs, count in zip(BLOCKS, (3, *WIDTHS[:-1]), WIDTHS, layers, strict=True):
            self.add_module(name, _encoder_block(inputs, outputs, count))

    def forward(self, images: Tensor, until: str = BLOCKS[-1]) -> Tensor:
        """Encode images up to and including the block ``until`` (``conv1`` to ``conv5``)."""
        values = images
        for name in BLOCKS:
            values = getattr(self, name)(values)
            if name == until:
                return values
        raise ValueError(f"unknown encoder block '{until}'; known: {', '.join(BLOCKS)}")


class Decoder(nn.Module):
    """The encoder's mirror: (N, 512, h, w) to (N, 3, 32 h, 32 w) in [0, 1]."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        widths = WIDTHS[::-1]
        for name, inputs, outputs, count in zip(BLOCKS, widths, (*widths[1:], 3), layers[::-1], strict=True):
            self.add_module(name, _decoder_block(inputs, outputs, count))

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latent codes into images."""
        values = latents
        for name in BLOCKS:
            values = getattr(self, name)(values)
        return torch.sigmoid(values)


class Autoencoder(nn.Module):
    """VGG encoder and mirrored decoder; input and output are [0, 1] RGB without ImageNet normalisation.

    Attributes:
        arch: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
    """

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.arch = arch
        self.encoder = Encoder(LAYERS_PER_BLOCK[arch])
        self.decoder = Decoder(LAYERS_PER_BLOCK[arch])

    def encode(self, images: Tensor) -> Tensor:
        """Return latent codes (N, 512, S/32, S/32) of images (N, 3, S, S), float, [0, 1]."""
        return self.encoder(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions, (N, 3, S, S) in [0, 1], of images of that shape and range."""
        return self.decoder(self.encoder(images))


def build_autoencoder(arch: str = "vgg16", seed: int | None = None) -> Autoencoder:
    """Build an autoencoder with freshly drawn weights (He initialisation, zero biases).

    Args:
        arch: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        seed: Draw the weights from this seed, leaving torch's global state alone; None draws from that state.

    Raises:
        UserError: If the architecture is unknown.
    """
    if arch not in LAYERS_PER_BLOCK:
        raise UserError(f"Unknown architecture '{arch}'; expected one of {', '.join(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = Autoencoder(arch)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return model


def check_image_size(size: int) -> None:
    """Refuse image sizes that five poolings do not divide.

    Raises:
        UserError: If ``size`` is not a multiple of 32.
    """
    if size % DOWNSAMPLING:
        lower = max(size // DOWNSAMPLING, 1) * DOWNSAMPLING
        raise UserError(
            f"--image-size {size} does not fit the autoencoder, which halves the image five times: "
            f"expected a multiple of {DOWNSAMPLING}, e.g. {lower} or {lower + DOWNSAMPLING}."
        )
