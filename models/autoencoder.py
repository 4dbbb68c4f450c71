"""The VGG convolutional autoencoder the paper starts from, tensor for tensor that of the public checkpoint.

Module names (``conv1``, ``0 EncoderLayer``, ``layer``) are those of the checkpoint's state dict, so that it loads
strictly and without a key map.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.core.errors import UserError
from utils.core.names import ARCHITECTURES, DEFAULT_ARCHITECTURE, LAYERS

WIDTHS = (64, 128, 256, 512, 512)
LAYERS_PER_BLOCK = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
DOWNSAMPLING = 2 ** len(WIDTHS)


def scaled_widths(width: float = 1.0) -> tuple[int, ...]:
    """Return the channels of the five encoder blocks at a width: 64, 128, 256, 512, 512 at 1, each rounded.

    Args:
        width: What every width is multiplied by; 1 is the paper's network.

    Raises:
        UserError: If the width is not a finite number above 0, or leaves a block without a channel.
    """
    if not 0 < width < math.inf:
        raise UserError(f"Expected a finite width above 0, got {width}.")
    widths = tuple(math.floor(full * width + 0.5) for full in WIDTHS)
    if min(widths) < 1:
        raise UserError(
            f"--width {width:g} leaves no channel in the first block, which has {WIDTHS[0]} at --width 1. "
            f"Use at least {1 / WIDTHS[0]:g}."
        )
    return widths


def width_of(widths: Sequence[int]) -> float | None:
    """Return a width at which `scaled_widths` gives these channels; None if there is none.

    Rounding lets many widths give the same channels; the one that the widest block says is preferred.

    Args:
        widths: Channels of the five encoder blocks.
    """
    if len(widths) != len(WIDTHS) or min(widths) < 1:
        return None
    lowest = max((channels - 0.5) / full for channels, full in zip(widths, WIDTHS, strict=True))
    below = min((channels + 0.5) / full for channels, full in zip(widths, WIDTHS, strict=True))
    for width in (widths[-1] / WIDTHS[-1], (lowest + below) / 2):
        if scaled_widths(width) == tuple(widths):
            return width
    return None


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
    """Five blocks, each halving height and width: (N, 3, S, S) in [0, 1] to (N, C, S/32, S/32), values >= 0.

    Args:
        layers: Convolutions of each block.
        widths: Channels of each block; the last, C, is 512 in the paper's network.
    """

    def __init__(self, layers: Sequence[int], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        for name, inputs, outputs, count in zip(LAYERS, (3, *widths[:-1]), widths, layers, strict=True):
            self.add_module(name, _encoder_block(inputs, outputs, count))

    def forward(self, images: Tensor, until: str = LAYERS[-1]) -> Tensor:
        """Encode images up to and including the block ``until`` (``conv1`` to ``conv5``)."""
        values = images
        for name in LAYERS:
            values = getattr(self, name)(values)
            if name == until:
                return values
        raise ValueError(f"unknown encoder block '{until}'; known: {', '.join(LAYERS)}")


class Decoder(nn.Module):
    """The encoder's mirror: (N, C, h, w) to (N, 3, 32 h, 32 w) in [0, 1].

    Args:
        layers: Convolutions of each block of the encoder.
        widths: Channels of each block of the encoder.
    """

    def __init__(self, layers: Sequence[int], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        inward = widths[::-1]
        for name, inputs, outputs, count in zip(LAYERS, inward, (*inward[1:], 3), layers[::-1], strict=True):
            self.add_module(name, _decoder_block(inputs, outputs, count))

    def forward(self, latents: Tensor, start: str = LAYERS[0]) -> Tensor:
        """Decode latent codes into images, from the block ``start`` on.

        A later ``start`` takes what the encoder has after fewer blocks: ``conv5`` undoes the encoder's ``conv1``.
        """
        values = latents
        for name in LAYERS[LAYERS.index(start) :]:
            values = getattr(self, name)(values)
        return torch.sigmoid(values)


class Autoencoder(nn.Module):
    """VGG encoder and mirrored decoder; input and output are [0, 1] RGB without ImageNet normalisation.

    Attributes:
        arch: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        width: What every number of channels is multiplied by; 1 in the paper's network.
        widths: Channels of the five encoder blocks.
    """

    def __init__(self, arch: str, width: float = 1.0) -> None:
        super().__init__()
        self.arch = arch
        self.width = float(width)
        self.widths = scaled_widths(width)
        self.encoder = Encoder(LAYERS_PER_BLOCK[arch], self.widths)
        self.decoder = Decoder(LAYERS_PER_BLOCK[arch], self.widths)

    def encode(self, images: Tensor) -> Tensor:
        """Return latent codes of images (N, 3, S, S), float, [0, 1]: (N, C, S/32, S/32), 512 channels at width 1."""
        return self.encoder(images)

    def forward(self, images: Tensor, depth: int = len(LAYERS)) -> Tensor:
        """Return reconstructions, (N, 3, S, S) in [0, 1], of images of that shape and range.

        Args:
            images: (N, 3, S, S), float, [0, 1].
            depth: How many blocks of encoder and decoder take part, counted from the outside; fewer than five only
                while the network is grown (``utils/pretraining``).
        """
        return self.decoder(self.encoder(images, until=LAYERS[depth - 1]), start=LAYERS[-depth])


def build_autoencoder(
    arch: str = DEFAULT_ARCHITECTURE, seed: int | None = None, width: float = 1.0
) -> Autoencoder:
    """Build an autoencoder with freshly drawn weights (He initialisation, zero biases).

    Args:
        arch: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        seed: Draw the weights from this seed, leaving torch's global state alone; None draws from that state.
        width: What every number of channels is multiplied by (a compact network has 0.25).

    Raises:
        UserError: If the architecture is unknown, or the width leaves no channel.
    """
    if arch not in LAYERS_PER_BLOCK:
        raise UserError(f"Unknown architecture '{arch}'; expected one of {', '.join(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        model = Autoencoder(arch, width)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
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
