"""Pretrained helper networks: LPIPS and style trunks, object detectors, segmenters.

Every network comes from torchvision's weight enums. Files are looked up in ``$TORCH_HOME/hub/checkpoints``
and downloaded there, with their checksum verified, when missing. With neither a file nor a network, the
error names the file, the folder, its size and its address. ``weights="random"`` builds the same networks
with seeded random weights, for demonstrations and tests; callers say so in everything they write.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.cli import command_with
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import DETECTORS as DETECTOR_SIZES
from utils.core.names import SEGMENTERS as SEGMENTER_SIZES

if TYPE_CHECKING:
    import torch
    from torch import nn

# The default argument comes first in each: the heavy network of the paper, then lighter ones.
TRUNKS = ("vgg16", "alexnet", "squeezenet1_1", "vgg19")
DETECTORS = tuple(DETECTOR_SIZES.values())
SEGMENTERS = (*SEGMENTER_SIZES.values(), "deeplabv3_mobilenet_v3_large")

# Which LPIPS v0.1 linear layers belong to which trunk (file names inside the lpips distribution).
LPIPS_LINEAR_FILES = {"vgg16": "vgg.pth", "alexnet": "alex.pth", "squeezenet1_1": "squeeze.pth"}

# VGG16 and DeepLab have several published sets; these are the ones LPIPS v0.1 and the paper were made with.
_ENUM_MEMBERS = {
    **dict.fromkeys(TRUNKS, "IMAGENET1K_V1"),
    **dict.fromkeys(DETECTORS, "COCO_V1"),
    **dict.fromkeys(SEGMENTERS, "COCO_WITH_VOC_LABELS_V1"),
}

_DOWNLOAD_PROBE_SECONDS = 20


def weight_file(name: str) -> Path:
    """Return where torchvision keeps the weight file of a network, whether or not it is there yet.

    Args:
        name: One of `TRUNKS`, `DETECTORS` or `SEGMENTERS`.

    Raises:
        UserError: For an unknown name.
    """
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_weight_enum(name).url).name


def uncached(names: Iterable[str]) -> list[str]:
    """Return which networks' weights would have to be downloaded, each once, in order.

    Args:
        names: Any of `TRUNKS`, `DETECTORS` or `SEGMENTERS`.
    """
    return [name for name in dict.fromkeys(names) if not weight_file(name).is_file()]


def network_files(names: Iterable[str]) -> list[str]:
    """Return the weight files of networks with their sizes, as people read them."""
    return [f"{weight_file(name).name} ({_megabytes(_weight_enum(name))})" for name in names]


def fetch_weights(names: Iterable[str]) -> None:
    """Fetch the weight files of networks that are not cached.

    Args:
        names: Any of `TRUNKS`, `DETECTORS` or `SEGMENTERS`.

    Raises:
        UserError: One cannot be fetched: names the file, its size, where to get it and where to put it.
    """
    for name in names:
        _ensure_file(name)


def say_left_out(what: Sequence[str], networks: Sequence[str]) -> None:
    """Say in one line what ``--weights available`` leaves out, for want of which files, and which command adds it.

    Args:
        what: What is left out, in the user's words: losses, features.
        networks: Those without a cached file (from `uncached`).
    """
    files = ", ".join(network_files(networks))
    log.info(
        "Left out, for want of weights that are not cached: %s. To download %s and add it: %s",
        ", ".join(what),
        files,
        command_with("--weights", "pretrained"),
    )


def load_trunk(name: str, weights: str = "pretrained", seed: int = 0) -> nn.Sequential:
    """Load the convolutional part of an ImageNet classifier.

    Args:
        name: One of `TRUNKS`.
        weights: ``"pretrained"`` (IMAGENET1K_V1) or ``"random"`` (He-normal from `seed`, zero biases).
        seed: Seed of the random weights; unused for pretrained ones. Global random state is left alone.

    Returns:
        torchvision's ``.features`` on the CPU, in eval mode, without gradients to its parameters.

    Raises:
        UserError: For an unknown name, a file that is missing and cannot be fetched, or a damaged file.
    """
    import torch
    import torchvision

    _check(name, TRUNKS, "trunk", weights)
    with torch.device("meta"):  # no memory and no time for a classifier that is dropped below
        network = torchvision.models.get_model(name, weights=None)
    if weights == "random":
        trunk = network.features.to_empty(device="cpu")
        _he_normal_(trunk, _seed_for(name, seed))
    else:
        _assign_strictly(network, name)
        trunk = network.features
    return trunk.eval().requires_grad_(False)


def load_detector(
    name: str = DETECTORS[0], weights: str = "pretrained", seed: int = 0
) -> tuple[nn.Module, dict[str, Any]]:
    """Load an object detector trained on COCO.

    Args:
        name: One of `DETECTORS`.
        weights: ``"pretrained"`` (COCO_V1) or ``"random"`` (torchvision's initialisation from `seed`).
        seed: Seed of the random weights; unused for pretrained ones. Global random state is left alone.

    Returns:
        The network on the CPU in eval mode without gradients, taking a list of (3, H, W) images in [0, 1];
        and what is known about it: ``name, weights, random, file, sha256, categories`` (91 names by class
        index, "__background__" first and "N/A" where COCO has gaps), ``transforms`` (its preprocessing).

    Raises:
        UserError: For an unknown name, a file that is missing and cannot be fetched, or a damaged file.
    """
    _check(name, DETECTORS, "detector", weights)
    return _load_whole(name, weights, seed)


def load_segmenter(
    name: str = SEGMENTERS[0], weights: str = "pretrained", seed: int = 0
) -> tuple[nn.Module, dict[str, Any]]:
    """Load a semantic segmenter trained on COCO with the 21 Pascal VOC labels.

    Args:
        name: One of `SEGMENTERS`.
        weights: ``"pretrained"`` or ``"random"`` (torchvision's initialisation from `seed`).
        seed: Seed of the random weights; unused for pretrained ones. Global random state is left alone.

    Returns:
        The network on the CPU in eval mode without gradients, giving ``{"out": (N, 21, H, W) logits}`` for
        normalised (N, 3, H, W) images; and what is known about it, as in `load_detector` (``categories`` has
        21 names, "__background__" first).

    Raises:
        UserError: For an unknown name, a file that is missing and cannot be fetched, or a damaged file.
    """
    _check(name, SEGMENTERS, "segmenter", weights)
    return _load_whole(name, weights, seed)


def load_lpips_linear(trunk_name: str) -> list[torch.Tensor]:
    """Read the linear weights of LPIPS v0.1 from the installed lpips distribution.

    Only the data file is read: the package itself is not imported.

    Args:
        trunk_name: One of `LPIPS_LINEAR_FILES`.

    Returns:
        One (C_l,) non-negative float32 vector per compared layer, from the shallowest to the deepest.

    Raises:
        UserError: If the lpips distribution or its weight file is missing or damaged.
    """
    if trunk_name not in LPIPS_LINEAR_FILES:
        raise UserError(
            f"No LPIPS weights for {trunk_name!r}; known trunks: {', '.join(LPIPS_LINEAR_FILES)}."
        )
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise UserError(
            "The lpips package, whose data files hold the linear weights of LPIPS v0.1, is not installed. "
            "Install it with: pip install lpips"
        )
    path = Path(spec.origin).parent / "weights" / "v0.1" / LPIPS_LINEAR_FILES[trunk_name]
    if not path.is_file():
        raise UserError(
            f"{path} is missing from the installed lpips package; reinstall it with: "
            "pip install --force-reinstall --no-deps lpips"
        )
    state = _read_tensors(path, "reinstall it with: pip install --force-reinstall --no-deps lpips")
    return [state[f"lin{layer}.model.1.weight"].float().flatten() for layer in range(len(state))]


def _read_tensors(path: Path, remedy: str) -> dict[str, torch.Tensor]:
    """Read a dict of tensors, ending the message about a damaged file with what to do about it."""
    import torch

    from models.checkpoints import read_weights_file

    try:
        state = read_weights_file(path)
    except UserError as error:
        size = path.stat().st_size
        raise UserError(f"{error} It has {size:,} bytes. Delete {path} and {remedy}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a dict of tensors. Delete it and {remedy}")
    return state


def _check(name: str, known: tuple[str, ...], kind: str, weights: str) -> None:
    if name not in known:
        raise UserError(f"Unknown {kind} {name!r}; choose one of: {', '.join(known)}.")
    if weights not in ("pretrained", "random"):
        raise UserError(f"Unknown weights {weights!r}; choose one of: pretrained, random.")


def _weight_enum(name: str) -> Any:
    from torchvision.models import get_model_weights

    if name not in _ENUM_MEMBERS:
        raise UserError(f"Unknown network {name!r}; choose one of: {', '.join(_ENUM_MEMBERS)}.")
    return get_model_weights(name)[_ENUM_MEMBERS[name]]


def _megabytes(enum: Any) -> str:
    return f"{enum.meta['_file_size']:.0f} MB"


def _ensure_file(name: str) -> Path:
    """Return the weight file of a network, fetching it when it is not cached."""
    enum, path = _weight_enum(name), weight_file(name)
    if not path.is_file():
        _download(enum.url, path, _megabytes(enum))
    return path


def ensure_published(enum: Any) -> Path:
    """Return the file of any torchvision weights, fetching it when it is not cached.

    Args:
        enum: A member of a torchvision weights enum.

    Raises:
        UserError: It is missing and cannot be fetched: names the file, its size, where to get it and where to put it.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(enum.url).name
    if not path.is_file():
        otherwise = "Or name it with --encoder-weights FILE; --encoder-weights random goes on without and marks all outputs."
        _download(enum.url, path, _megabytes(enum), otherwise)
    _warn_unless_published(path)
    return path


def _remedy(name: str) -> str:
    enum = _weight_enum(name)
    return (
        f"run again to download it, or put {enum.url} ({_megabytes(enum)}) there yourself; "
        "--weights available leaves out what needs it, --weights random puts random weights in its place and marks "
        "every output."
    )


_GO_ON_WITHOUT = (
    "--weights available leaves out what needs it, --weights random puts random weights in its place and marks every "
    "output."
)


def _download(url: str, path: Path, size: str, otherwise: str = _GO_ON_WITHOUT) -> None:
    """Fetch a file atomically with its checksum verified (torch.hub writes a .partial file, then renames)."""
    import torch

    log.info("Downloading %s (%s) to %s", url, size, path.parent)
    digest_prefix = path.stem.rsplit("-", 1)[
        -1
    ]  # torchvision ends its names with the first digits of the SHA-256
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torch.hub waits for ever on a network that swallows packets, so ask first, with a time limit
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_DOWNLOAD_PROBE_SECONDS).close()
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest_prefix)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise UserError(
            f"The pretrained weights {path.name} ({size}) are not in {path.parent} and could not be "
            f"downloaded ({error}). On a machine with a network, download {url} and put it into that folder "
            f"(or set TORCH_HOME to the folder that holds hub/checkpoints). {otherwise}"
        ) from error


def _warn_unless_published(path: Path) -> str:
    """Return the SHA-256 of a weight file and warn when it is not the one its name promises."""
    from utils.core.files import file_sha256

    digest = file_sha256(path)
    if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
        log.warning(
            "%s is not the published file of that name (SHA-256 %s...): results will differ from others'.",
            path,
            digest[:12],
        )
    return digest


def _assign_strictly(network: nn.Module, name: str) -> None:
    """Give a network without storage the tensors of its file; missing, extra or misshapen is an error."""
    from models.checkpoints import load_strictly

    path = _ensure_file(name)
    state = _read_tensors(path, _remedy(name))
    try:
        count = load_strictly(network, state, path, assign=True)
    except UserError as error:
        raise UserError(f"{error} Delete {path} and {_remedy(name)}") from None
    _warn_unless_published(path)
    log.info("Loaded %s: all %d tensors of %s", path, count, name)


def _load_whole(name: str, weights: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Build a detector or segmenter and describe it."""
    import torch
    import torchvision

    enum = _weight_enum(name)
    meta = {
        "name": name,
        "weights": "random" if weights == "random" else str(enum),
        "random": weights == "random",
        "file": None,
        "sha256": None,
        "categories": list(enum.meta["categories"]),
        "transforms": enum.transforms(),
    }
    with torch.random.fork_rng(devices=[]):  # torchvision initialises from the global generator
        torch.manual_seed(_seed_for(name, seed))
        if weights == "random":
            network = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        else:
            path = _ensure_file(name)
            # read once refusing pickled code, because torchvision itself reads with weights_only=False
            _read_tensors(path, _remedy(name))
            meta["file"], meta["sha256"] = str(path), _warn_unless_published(path)
            try:
                # torchvision builds it, because the enum decides more: frozen batch norm and its epsilon
                network = torchvision.models.get_model(name, weights=enum)
            except RuntimeError as error:
                raise UserError(
                    f"{path} does not hold the weights of {name} ({str(error).splitlines()[-1].strip()}). "
                    f"Delete it and {_remedy(name)}"
                ) from error
    return network.eval().requires_grad_(False), meta


def _seed_for(name: str, seed: int) -> int:
    """Give each network its own stream, so that two of them never share their first weights."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _he_normal_(trunk: nn.Module, seed: int) -> None:
    """Fill convolutions with He-normal weights (He et al. 2015, eq. 10) and zero biases, in place."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2.0 / module.weight[0].numel()) ** 0.5
            with torch.no_grad():
                module.weight.normal_(0.0, deviation, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
