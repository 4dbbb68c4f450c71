"""What turns pictures into codes: the study's autoencoder, or any other encoder, with one face for the stage."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.autoencoder import WIDTHS, Autoencoder
from models.checkpoints import load_autoencoder
from models.encoders import RANDOM, LayerCodes, Preprocessing, load_encoder
from utils.core.claims import check_unchanged
from utils.core.digests import FileContent
from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.names import LAYERS
from utils.core.schema import check_shape
from utils.data.images import load_pixels, read_rgb
from utils.latents.codes import DEFAULT_LAYER, DEFAULT_POOL, SHA_LENGTH, encoder_card_file


@dataclass(frozen=True)
class Encoding:
    """A network and how its codes are made.

    Attributes:
        stem: What the output files are called after.
        label: What to call it in messages.
        sha256: Identifies the network: SHA-256 of its weights, in hexadecimal.
        image_size: Side of the square images it sees, in pixels.
        layers: Layers wanted, shallow to deep.
        pool: Pooling over positions.
        default: The layer and pooling whose codes bear the stem alone.
        load: Reads one picture as (3, S, S) float32 in [0, 1].
        compute: (N, 3, S, S) pictures on the device to (N, D) codes per layer, from one forward pass.
        lengths: D per layer.
        caveats: What must be said of its codes.
        inputs: Weight files.
        settings: What else decides the codes, for the record: preprocessing, the weights' name.
    """

    stem: str
    label: str
    sha256: str
    image_size: int
    layers: tuple[str, ...]
    pool: str
    default: tuple[str, str]
    load: Callable[[str], NDArray[np.float32]]
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    lengths: dict[str, int]
    caveats: Sequence[str] = ()
    inputs: tuple[Path, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def choose_layers(
    wanted: Sequence[str] | None, there: Sequence[str], default: str, label: str
) -> tuple[str, ...]:
    """Return the layers that ``--layer`` asks for, shallow to deep.

    Args:
        wanted: Names, or ``all``; None for the default.
        there: Every layer, shallow to deep.
        default: What None means.
        label: The network, for the message.

    Raises:
        UserError: An unknown layer; lists the layers.
    """
    if not wanted:
        return (default,)
    if "all" in wanted:
        return tuple(there)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UserError(f"{label} has no layer {', '.join(unknown)}. Its layers: {', '.join(there)}; or all.")
    return tuple(name for name in there if name in wanted)


# ------------------------------------------------------------------------------------------------ the autoencoder


def code_length(image_size: int, layer: str, pool: str, widths: Sequence[int] = WIDTHS) -> int:
    """Return how many values a code has: 25,088 for conv5 at 224 px without pooling, in the paper's network.

    Args:
        image_size: Side of the square images, in pixels.
        layer: Encoder block, ``conv1`` to ``conv5``.
        pool: ``none`` keeps every position, ``avg`` and ``max`` one value a channel.
        widths: Channels of the encoder's blocks.
    """
    block = LAYERS.index(layer)
    return widths[block] * (1 if pool != "none" else (image_size // 2 ** (block + 1)) ** 2)


def _pooled(values: torch.Tensor, pool: str) -> torch.Tensor:
    """Reduce (N, C, h, w) to (N, D)."""
    if pool == "avg":
        return values.mean((2, 3))
    if pool == "max":
        return values.amax((2, 3))
    return values.contiguous().flatten(1)


def encode(model: Autoencoder, images: torch.Tensor, layer: str, pool: str) -> torch.Tensor:
    """Return (N, D) float32 codes of (N, 3, S, S) images in [0, 1], flattened channel by channel.

    Args:
        model: The autoencoder.
        images: On the model's device.
        layer: Encoder block, ``conv1`` to ``conv5``.
        pool: ``none`` keeps every position, ``avg`` and ``max`` reduce each channel to one value.
    """
    return _pooled(model.encoder(images, until=layer), pool)


def encode_layers(
    model: Autoencoder, images: torch.Tensor, layers: Sequence[str], pool: str
) -> dict[str, torch.Tensor]:
    """Return the codes of several blocks from one forward pass, that ends with the last of them."""
    codes, values = {}, images
    for name in LAYERS[: max(map(LAYERS.index, layers)) + 1]:
        values = getattr(model.encoder, name)(values)
        if name in layers:
            codes[name] = _pooled(values, pool)
    return codes


def autoencoder_encoding(args: Namespace, path: Path, device: torch.device) -> Encoding:
    """Describe how an autoencoder checkpoint makes codes.

    Args:
        args: With ``layer, pool, image_size``.
        path: The checkpoint.
        device: Where it computes.

    Raises:
        UserError: The checkpoint cannot be used, or has no such layer or pooling.
    """
    if args.pool == "cls":
        raise UserError(
            "--pool cls takes a transformer's class token, and the autoencoder has none. Use none, mean or max."
        )
    model, meta = load_autoencoder(path, device, args.image_size)
    model = model.to(memory_format=torch.channels_last)
    pool = args.pool or DEFAULT_POOL
    layers = choose_layers(args.layer, LAYERS, DEFAULT_LAYER, f"The autoencoder {path.name}")
    return Encoding(
        path.stem,
        path.name,
        meta["sha256"],
        args.image_size,
        layers,
        pool,
        (DEFAULT_LAYER, DEFAULT_POOL),
        partial(load_pixels, size=args.image_size),
        lambda images: encode_layers(model, images, layers, pool),
        {name: code_length(args.image_size, name, pool, model.widths) for name in layers},
        meta["caveats"],
        (path,),
    )


# ------------------------------------------------------------------------------------------------ any other encoder

AUTOENCODER = "autoencoder"


def encoder_stem(name: str) -> str:
    """Return what the files of an encoder are called after, e.g. ``torchvision-resnet50``."""
    return name.replace(":", "-").replace("/", "-").replace("@", "-")


def encoder_pixels(path: Path | str | FileContent, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Read a picture as an encoder wants it, but for the normalisation, which the encoder does itself.

    Args:
        path: The file.
        preprocessing: Of the encoder's weights.

    Returns:
        (3, crop, crop), float32, [0, 1], RGB.

    Raises:
        ImageError: The picture cannot be used.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    size = [preprocessing.resize] * (2 if preprocessing.squash else 1)
    image = transforms.resize(read_rgb(path), size, InterpolationMode(preprocessing.interpolation))
    image = transforms.center_crop(image, [preprocessing.crop, preprocessing.crop])
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def picture_reader(
    network: torch.nn.Module, image_size: int, draft: bool = False
) -> Callable[[str], NDArray[np.float32]]:
    """Return what reads pictures for a network of encoder and head, as its encoder was trained to see them.

    Args:
        network: A :class:`models.score_network.ScoreNetwork`.
        image_size: Side of the square in pixels, for the autoencoder.
        draft: Whether large JPEGs may be decoded reduced, for the autoencoder; see
            :func:`utils.data.images.load_pixels`.
    """
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, LayerCodes):
        return partial(encoder_pixels, preprocessing=encoder.encoder.preprocessing)
    return partial(load_pixels, size=image_size, draft=draft)


# What makes an encoder again, so that a later stage can lead a score back to the pixels: beside its codes.


def write_encoder_card(args: Namespace, encoding: Encoding) -> Path:
    """Write ``encoder_<stem>.json``.

    Args:
        args: With ``encoder, encoder_weights, seed, output_path``.
        encoding: Its codes.
    """
    path = encoder_card_file(args.output_path, encoding.stem)
    weights = None if args.encoder_weights is None else str(args.encoder_weights)
    card = {"encoder": args.encoder, "weights": weights, "seed": args.seed, "sha256": encoding.sha256}
    layer, pool = encoding.default
    write_json(path, {**card, "layer": layer, "pool": pool, **encoding.settings["preprocessing"]})
    return path


def load_from_card(output_path: Path, stem: str) -> tuple[LayerCodes, dict[str, Any]]:
    """Make an encoder again.

    Args:
        output_path: The output folder.
        stem: What its files are called after.

    Returns:
        The layer that the codes of that name come from, on the CPU, and its ``stem, sha256, caveats``.

    Raises:
        UserError: Its weights are not to be had, or are others than those that made the codes.
    """
    path = encoder_card_file(output_path, stem)
    check_unchanged(path)
    shape = {"encoder": str, "weights": (str, None), "seed": int, "sha256": str, "layer": str, "pool": str}
    again = "Write it again with: python latent_analysis.py --calculate-latents --encoder NAME --overwrite"
    card = check_shape(read_json(path), shape, path, again)
    encoder = load_encoder(card["encoder"], card["weights"], card["seed"])
    if encoder.sha256 != card["sha256"]:
        raise UserError(
            f"The weights of {card['encoder']} have SHA-256 {encoder.sha256[:12]}, those that made latents_{stem}.npy had "
            f"{card['sha256'][:12]} ({path}): they were changed since. Write the codes again with: python "
            f"latent_analysis.py --calculate-latents --encoder {card['encoder']} --overwrite"
        )
    meta = {"stem": stem, "sha256": encoder.sha256[:SHA_LENGTH], "caveats": encoder.caveats}
    return LayerCodes(encoder, card["layer"], card["pool"]), meta


def encoder_encoding(args: Namespace, device: torch.device) -> Encoding:
    """Describe how another encoder makes codes.

    Args:
        args: With ``encoder, encoder_weights, layer, pool, seed``.
        device: Where it computes.

    Raises:
        UserError: See :func:`models.encoders.load_encoder`; an unknown layer, or one without a class token.
    """
    encoder = load_encoder(args.encoder, args.encoder_weights, args.seed).to(device)
    pool = args.pool or "avg"
    layers = choose_layers(args.layer, encoder.layers, encoder.default_layer, args.encoder)
    if pool == "cls":
        with_token = tuple(name for name in encoder.layers if encoder.has_class_token(name))
        without = [name for name in layers if name not in with_token]
        if args.layer and "all" in args.layer and with_token:
            layers = with_token
        elif without:
            raise UserError(
                f"--pool cls takes a transformer's class token, and {', '.join(without)} of {args.encoder} has none. Layers "
                f"with one: {', '.join(with_token) or 'none'}."
            )
    given = args.encoder_weights
    return Encoding(
        encoder_stem(args.encoder),
        args.encoder,
        encoder.sha256,
        encoder.preprocessing.crop,
        layers,
        pool,
        (encoder.default_layer, "avg"),
        partial(encoder_pixels, preprocessing=encoder.preprocessing),
        lambda images: encoder.codes(images, layers, pool),
        {name: encoder.length(name, pool) for name in layers},
        encoder.caveats,
        () if given in (None, RANDOM) else (Path(given),),
        encoder.record(),
    )
