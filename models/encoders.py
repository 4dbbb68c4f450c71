"""Encoders of others: any classifier of torchvision or timm, any image tower of open_clip, at any depth.

A network is named ``torchvision:<name>``, ``timm:<name>`` or ``openclip:<name>:<tag>``; timm and open_clip are optional
(``requirements-encoders.txt``) and imported only when one of theirs is asked for. Preprocessing is that of the weights.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.log import log

if TYPE_CHECKING:
    pass

RANDOM = "random"  # in place of a file of weights
PENULTIMATE, OUTPUT = "penultimate", "output"
PROVIDERS = ("torchvision", "timm", "openclip")
_PASSIVE = (nn.Dropout, nn.Identity, nn.Flatten)  # repeat what stands before them
_EXTRAS = "pip install -r requirements-encoders.txt"


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants to see.

    Attributes:
        resize: Short side in pixels before the crop.
        crop: Side of the centre crop in pixels.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``, antialiased.
        mean: Per channel, subtracted from [0, 1] pixels.
        std: Per channel, divided by.
        squash: Whether both sides are resized to ``resize``, whatever the picture's shape.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False


class ImageEncoder(nn.Module):
    """A network, its layers and its preprocessing: pixels in [0, 1] to codes.

    Args:
        name: As the user names it, ``torchvision:resnet50``.
        network: In evaluation mode.
        preprocessing: Of its weights.
        weights: Where these come from: a published name, a file, or ``random``.
        classifier: Name of the last linear layer, whose input is ``penultimate``; empty for none.
        prefix_tokens: How many tokens of a transformer are no positions (the class token first); 0 without.

    Attributes:
        layers: Every layer, shallow to deep.
        sha256: SHA-256 over the names and values of all tensors, in hexadecimal.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        network: nn.Module,
        preprocessing: Preprocessing,
        weights: str,
        classifier: str = "",
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.weights, self.preprocessing = name, weights, preprocessing
        self.network = network.eval().requires_grad_(False)
        self.classifier, self.prefix_tokens = classifier, prefix_tokens
        for key in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, key), dtype=torch.float32)[:, None, None]
            self.register_buffer(key, values, persistent=False)
        self.sha256 = tensors_sha256(network.state_dict())
        self._tokens = 0
        self.shapes = self._probe()
        self.layers = tuple(self.shapes)

    @property
    def caveats(self) -> list[str]:
        """What must be said of everything made with it."""
        return [Caveats.random_weights(f"encoder ({self.name})")] if self.weights == RANDOM else []

    @property
    def default_layer(self) -> str:
        """What the classifier sees; the output where there is no classifier."""
        return PENULTIMATE if PENULTIMATE in self.layers else OUTPUT

    def _probe(self) -> dict[str, torch.Size]:
        """Find which layers give a tensor, in which order, of which shape, by one forward pass."""
        shapes: dict[str, torch.Size] = {}
        size = self.preprocessing.crop
        device = self.mean.device
        with (
            torch.inference_mode(),
            self._hooks(self._candidates(), lambda n, v: shapes.setdefault(n, v.shape)),
        ):
            output = _tensor(self.network(torch.zeros(1, 3, size, size, device=device)))
        if not self.classifier:  # otherwise the output is that of the classifier, which is a layer
            shapes[OUTPUT] = output.shape
        if self.prefix_tokens:
            counts = [shape[1] for shape in shapes.values() if len(shape) == 3]
            self._tokens = max(set(counts), key=counts.count) if counts else 0
        return shapes

    def _candidates(self) -> list[str]:
        return [*_depths(self.network), *([PENULTIMATE] if self.classifier else [])]

    @contextmanager
    def _hooks(self, layers: Sequence[str], take: Callable[[str, Tensor], object]) -> Iterator[None]:
        """Hand over each layer's output as soon as it is there: a later layer may overwrite it in place."""
        modules = dict(self.network.named_modules())

        # The hooks return nothing: what a hook returns would take the place of the layer's output.
        def before(module: nn.Module, values: tuple[Tensor, ...]) -> None:
            take(PENULTIMATE, values[0])

        def after(name: str, module: nn.Module, values: object, output: object) -> None:
            if isinstance(output, Tensor):
                take(name, output)

        handles = [
            modules[self.classifier].register_forward_pre_hook(before)
            if name == PENULTIMATE
            else modules[name].register_forward_hook(partial(after, name))
            for name in layers
            if name != OUTPUT
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def codes(self, images: Tensor, layers: Sequence[str], pool: str) -> dict[str, Tensor]:
        """Return codes of several layers from one forward pass.

        Args:
            images: (N, 3, S, S), float, [0, 1], S the crop of the preprocessing.
            layers: Names in ``layers``.
            pool: ``none, avg, max`` over positions, or ``cls`` for the class token; layers that give one vector per
                image are taken as they are.

        Returns:
            (N, D) codes by layer.
        """
        found: dict[str, Tensor] = {}

        def take(name: str, values: Tensor) -> None:
            if name not in found:
                # a gradient needs the values as they were, which a layer that works in place will not leave
                found[name] = self.pooled(name, values.clone() if values.requires_grad else values, pool)

        with self._hooks(layers, take):
            output = _tensor(self.network((images - self.mean) / self.std))
        if OUTPUT in layers:
            found[OUTPUT] = self.pooled(OUTPUT, output, pool)
        return {name: found[name] for name in layers}

    def length(self, layer: str, pool: str) -> int:
        """Return D, the number of values of a layer's codes."""
        return self.pooled(layer, torch.empty(self.shapes[layer], device="meta"), pool).shape[1]

    def has_class_token(self, layer: str) -> bool:
        """Return whether a layer's output begins with a class token."""
        shape = self.shapes[layer]
        return self.prefix_tokens > 0 and len(shape) == 3 and shape[1] == self._tokens

    def pooled(self, layer: str, values: Tensor, pool: str) -> Tensor:
        """Reduce one layer's output to (N, D).

        Positions are the last two axes of maps, the middle two of maps with channels last, the second of tokens, of which
        those in front that are no positions are left out.
        """
        if values.dim() <= 2 or pool == "none":
            codes = values.flatten(1)
        elif pool == "cls":
            codes = values[:, 0]
        else:
            if values.dim() == 3:
                values = values[:, self.prefix_tokens :] if self.has_class_token(layer) else values
                axes: tuple[int, ...] = (1,)
            else:
                last = values.shape[1] == values.shape[2] != values.shape[3]
                axes = (1, 2) if last else (2, 3)
            codes = values.mean(axes) if pool == "avg" else values.amax(axes)
        return (
            codes.clone() if codes.data_ptr() == values.data_ptr() and codes.device.type != "meta" else codes
        )

    def record(self) -> dict[str, Any]:
        """Return what decides its codes, for the run's record."""
        return {"encoder": self.name, "weights": self.weights, "preprocessing": asdict(self.preprocessing)}


class LayerCodes(nn.Module):
    """One layer's codes as a network of its own: (N, 3, S, S) pixels in [0, 1] to (N, D).

    Args:
        encoder: The encoder.
        layer: One of its layers.
        pool: Pooling over positions.
    """

    def __init__(self, encoder: ImageEncoder, layer: str, pool: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.pool = encoder, layer, pool

    def forward(self, images: Tensor) -> Tensor:
        """Return the codes."""
        return self.encoder.codes(images, [self.layer], self.pool)[self.layer]


def _tensor(output: Any) -> Tensor:
    """Return the tensor of an output (some networks give a tuple)."""
    return output[0] if isinstance(output, tuple | list) else output


def _is_container(module: nn.Module) -> bool:
    """Return whether a module is but a sequence, or holds a stack of blocks of one kind."""
    if type(module) in (nn.Sequential, nn.ModuleList):
        return True
    stacks = [
        list(child.children()) for child in module.children() if type(child) in (nn.Sequential, nn.ModuleList)
    ]
    return any(len(stack) >= 2 and len({type(block) for block in stack}) == 1 for stack in stacks)


def _depths(network: nn.Module, prefix: str = "") -> list[str]:
    """Return the names of the modules that count as layers: what a sequence is made of, down to blocks."""
    names = []
    for name, child in network.named_children():
        if _is_container(child):
            names += _depths(child, f"{prefix}{name}.")
        elif not isinstance(child, _PASSIVE):
            names.append(prefix + name)
    return names


def tensors_sha256(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 over the names and values of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}\n".encode())
        digest.update(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ loading


def load_encoder(name: str, weights: Path | str | None = None, seed: int = 0) -> ImageEncoder:
    """Load an encoder with the weights it was published with.

    Args:
        name: ``torchvision:<name>``, ``timm:<name>`` or ``openclip:<name>:<tag>``.
        weights: A file of weights, for machines without a network; ``random`` for none; None for the published ones,
            from the cache of their library or downloaded to it.
        seed: Of random weights.

    Returns:
        The encoder on the CPU.

    Raises:
        UserError: An unknown name, an optional package that is missing, or weights that are neither there nor to be had.
    """
    provider, _, rest = name.partition(":")
    if provider not in PROVIDERS or not rest:
        raise UserError(
            f"Expected --encoder autoencoder, torchvision:<name>, timm:<name> or openclip:<name>:<tag>, found '{name}'."
        )
    if weights not in (None, RANDOM) and not Path(weights).is_file():
        raise UserError(f"The weights {weights} of --encoder-weights do not exist.")
    package = {"openclip": "open_clip"}.get(provider, provider)
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--encoder {name} needs the package {package}, which is not installed. Install it with: {_EXTRAS}"
        )
    loader = {"torchvision": _load_torchvision, "timm": _load_timm, "openclip": _load_openclip}[provider]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = loader(name, rest, weights)
    if encoder.weights == RANDOM:
        log.warning("RANDOM WEIGHTS in %s: results show that the code runs, and nothing else.", name)
    log.info("Encoder %s: weights %s, SHA-256 %s", name, encoder.weights, encoder.sha256[:12])
    return encoder


def _load_file(network: nn.Module, path: Path, name: str) -> None:
    """Give a network the tensors of a file, strictly."""
    from models.checkpoints import load_strictly, read_weights_file

    if path.suffix == ".safetensors":
        safetensors: Any = importlib.import_module("safetensors.torch")
        state = safetensors.load_file(path)
    else:
        state = read_weights_file(path)
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a dict of tensors; expected the weights of {name}.")
    load_strictly(network, {key.removeprefix("module."): value for key, value in state.items()}, path)


def _last_linear(network: nn.Module) -> str:
    """Return the name of the last linear layer; empty for none."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


def _load_torchvision(name: str, rest: str, weights: Path | str | None) -> ImageEncoder:
    from torchvision.models import get_model, get_model_weights, list_models

    from models.pretrained import ensure_published

    if rest not in list_models():
        raise UserError(f"torchvision has no network '{rest}'. It has: {', '.join(list_models())}.")
    enum: Any = get_model_weights(rest).DEFAULT
    transforms = enum.transforms()
    if not hasattr(transforms, "crop_size"):
        raise UserError(f"{name} is no classifier of single pictures, and only those have codes here.")
    network = get_model(rest, weights=None, **({"init_weights": True} if rest == "inception_v3" else {}))
    if weights != RANDOM:
        path = ensure_published(enum) if weights is None else Path(weights)
        _load_file(network, path, name)
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    preprocessing = Preprocessing(
        resize, crop, transforms.interpolation.value, tuple(transforms.mean), tuple(transforms.std)
    )
    prefix = int(any(key.endswith("class_token") for key in network.state_dict()))
    label = str(enum) if weights is None else str(weights)
    return ImageEncoder(name, network, preprocessing, label, _last_linear(network), prefix)


def _load_timm(name: str, rest: str, weights: Path | str | None) -> ImageEncoder:
    timm: Any = importlib.import_module("timm")
    try:
        network = timm.create_model(rest, pretrained=False)
    except (RuntimeError, ValueError) as error:
        close = ", ".join(timm.list_models(f"*{rest[:8]}*")[:8]) or "timm.list_models() lists them"
        raise UserError(f"timm has no network '{rest}' ({error}). Like it: {close}.") from None
    config = network.pretrained_cfg
    if weights is None:
        network = _published(
            name,
            lambda: timm.create_model(rest, pretrained=True),
            f"{config.get('hf_hub_id') or config.get('url') or 'no published weights'} (model.safetensors)",
        )
    elif weights != RANDOM:
        _load_file(network, Path(weights), name)
    data = timm.data.resolve_model_data_config(network)
    crop = int(data["input_size"][-1])
    preprocessing = Preprocessing(
        int(crop / data["crop_pct"]),
        crop,
        data["interpolation"] if data["interpolation"] != "random" else "bilinear",
        tuple(data["mean"]),
        tuple(data["std"]),
        data.get("crop_mode") == "squash",
    )
    heads = [key for key, module in network.named_modules() if module is network.get_classifier()]
    classifier = heads[0] if heads and isinstance(network.get_classifier(), nn.Linear) else ""
    label = f"{rest}.{config.get('tag', '')}" if weights is None else str(weights)
    return ImageEncoder(
        name, network, preprocessing, label, classifier, getattr(network, "num_prefix_tokens", 0)
    )


def _load_openclip(name: str, rest: str, weights: Path | str | None) -> ImageEncoder:
    clip: Any = importlib.import_module("open_clip")
    architecture, _, tag = rest.partition(":")
    if architecture not in clip.list_models():
        raise UserError(
            f"open_clip has no network '{architecture}'. It has: {', '.join(clip.list_models())}."
        )
    tags = clip.list_pretrained_tags_by_model(architecture)
    if weights is None and tag not in tags:
        raise UserError(
            f"Expected --encoder openclip:{architecture}:<tag> with a tag among {', '.join(tags)}; found "
            f"'{tag}'."
        )
    model: Any
    if weights is None:
        source = clip.get_pretrained_cfg(architecture, tag)
        model = _published(
            name,
            lambda: clip.create_model(architecture, pretrained=tag),
            f"open_clip_model.safetensors of {source['hf_hub']}"
            if source.get("hf_hub")
            else str(source.get("url")),
        )
    else:
        model = clip.create_model(architecture, pretrained=None)
        if weights != RANDOM:
            _load_file(model, Path(weights), name)
    config = model.visual.preprocess_cfg
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    if config.get("resize_mode", "shortest") == "longest":
        raise UserError(f"{name} pads pictures to a square, which is not done here. Choose another network.")
    preprocessing = Preprocessing(
        size,
        size,
        config["interpolation"],
        tuple(config["mean"]),
        tuple(config["std"]),
        config.get("resize_mode") == "squash",
    )
    prefix = int(hasattr(model.visual, "class_embedding"))
    label = f"{architecture} {tag}" if weights is None else str(weights)
    return ImageEncoder(name, model.visual, preprocessing, label, prefix_tokens=prefix)


def _published(name: str, load: Callable[[], nn.Module], file: str) -> nn.Module:
    """Load published weights from the cache or the network, or say which file is missing and where it belongs."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return load()
    except Exception as error:  # the libraries' own, of many kinds
        reason = (str(error).splitlines() or ["no reason given"])[0][:200]
        raise UserError(
            f"The weights of {name} are not in the cache ({HF_HUB_CACHE}) and could not be downloaded "
            f"({type(error).__name__}: {reason}). On a machine with a network, download {file} and name it with "
            "--encoder-weights FILE, or fill that cache there and copy it here (HF_HOME moves it). --encoder-weights random "
            "goes on without, and marks every output."
        ) from error
