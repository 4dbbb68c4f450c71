"""The only place that loads or saves weights of ours: autoencoders and MLP heads.

Strict, from ``weights_only=True``: a tensor that is missing, extra or misshapen is an error that names it. (The
authors' script loads with ``strict=False``, which keeps random weights without a word.)
"""

import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from models.autoencoder import (
    LAYERS_PER_BLOCK,
    WIDTHS,
    Autoencoder,
    build_autoencoder,
    scaled_widths,
    width_of,
)
from models.mlp import MemorabilityMLP
from models.weight_contents import (
    AUTOENCODER_META,
    DIGEST_NAME,
    MAKE_AGAIN,
    MLP_SHAPE,
    TENSORS,
    TRAIN_MLP,
    TRAINED_SHAPE,
    content_digest,
)
from utils.core.claims import check_unchanged
from utils.core.digests import file_digests
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.names import BASE_CHECKPOINT, PRETRAINED_PREFIX
from utils.core.schema import Shape, check_shape, mismatch

FORMAT = "image-memorability 1"
WHERE_FROM = (
    f"{BASE_CHECKPOINT} is the VGG16 ImageNet autoencoder of https://github.com/Horizon2333/imagenet-autoencoder "
    "(its README links the file): save it under that name in this folder, the data folder or the output folder, or name "
    "it with --pretrained. To try the study without it, add --pretrained builtin --image-size 96 (a compact network that "
    "ships with this project), or --pretrained none (random weights; every output says so)."
)


# ------------------------------------------------------------------------------------------------ files


class DamagedWeightsError(UserError):
    """A file of weights that is cut short, or holds something else than was saved in it."""


def read_weights_file(path: Path, remedy: str = "") -> Any:
    """Read a file of weights without running any code from it, and check that it holds what was saved in it.

    Args:
        path: A file written by ``torch.save``. One that was written by :func:`write_weights_file` says by a digest what
            it holds; another (the public checkpoint, one of ours from before there were digests) is taken as it is.
        remedy: What to do about a damaged one, a sentence; chosen by the kind of file when left out.

    Returns:
        Its content, on the CPU, without the digest.

    Raises:
        DamagedWeightsError: If the file is empty, a web page, cut short, holds more than tensors and plain values, or
            something else than was saved.
        UserError: If the file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist.")
    with open(path, "rb") as stream:
        start = stream.read(512).lstrip().lower()
    if not start:
        raise DamagedWeightsError(
            f"The weights file {path} is empty. {remedy or 'Download or train it again.'}"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")) or b"<html" in start:
        raise DamagedWeightsError(
            f"{path} is a web page, not a weights file: the download saved a page. Download the file itself again."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = content.pop(DIGEST_NAME, None) if isinstance(content, dict) else None
        damaged = saved is not None and saved != content_digest(content)
    except (
        Exception
    ) as error:  # torch.load fails in many ways; each means that this file is not what it should be
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedWeightsError(
            f"{path} cannot be read as a file of weights ({first[:200]}). It may be cut short or of another kind. "
            f"{remedy or 'Download or train it again.'}"
        ) from None
    if damaged:
        again = MAKE_AGAIN.get(str(content.get("kind")), "Write it again") + "."
        raise DamagedWeightsError(
            f"{path} is damaged: it holds something else than was saved in it (the SHA-256 of its content differs). "
            f"{remedy or again}"
        )
    return content


def write_weights_file(path: Path, content: Mapping[str, Any]) -> None:
    """Write weights atomically, with a digest of them; equal content gives equal bytes."""
    buffer = io.BytesIO()  # not the path: torch would store the temporary file's name inside
    torch.save({**content, DIGEST_NAME: content_digest(content)}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_finished(path: Path) -> dict[str, Any] | None:
    """Read the meta of a model that a training stage finds where it is to write its own.

    Returns:
        The meta; empty for a file that no training stage wrote, None for a damaged one, which is of no use to anybody: it
        is said, and the stage that would write the model writes it again.
    """
    try:
        content = read_weights_file(path)
    except DamagedWeightsError as error:
        log.warning("%s It is trained anew.", str(error).split(". ")[0] + ".")
        return None
    meta = content.get("meta", {}) if isinstance(content, dict) else {}
    return meta if not mismatch({"meta": meta}, TRAINED_SHAPE) else {}


def checkpoint_sha256(path: Path) -> str:
    """Return a weights file's SHA-256; read again only if the file has changed."""
    return file_digests(path.parent).of(path)


# ------------------------------------------------------------------------------------------------ state dicts


def load_strictly(
    model: nn.Module, state: Mapping[str, torch.Tensor], source: Path | str, assign: bool = False
) -> int:
    """Copy every tensor of ``state`` into ``model``, or say which do not fit.

    Args:
        model: The freshly built network.
        state: Its tensors by name.
        source: Where they come from, for messages.
        assign: Take the tensors themselves instead of copying them, for a network built without storage.

    Returns:
        How many tensors arrived: all of them.

    Raises:
        UserError: Naming up to five missing, unexpected and misshapen tensors.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "misshapen": [
            f"{name} ({tuple(state[name].shape)}, expected {tuple(own[name].shape)})"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        texts = [
            f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for kind, names in problems.items()
            if names
        ]
        raise UserError(
            f"The weights in {source} do not fit the network ({type(model).__name__}): {'; '.join(texts)}."
        )
    model.load_state_dict(state, strict=True, assign=assign)
    return len(own)


def _state_dict(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Find the tensors in a checkpoint: nested or bare, with or without ``module.`` before every name."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not (
        isinstance(state, Mapping)
        and state
        and all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        content_names = (
            ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        )
        raise UserError(
            f"{path} holds no state dict of tensors (found: {content_names}). Expected an autoencoder checkpoint."
        )
    check_shape(state, TENSORS, path, "Expected an autoencoder checkpoint.")
    state = dict(state)
    consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _recognise(state: Mapping[str, torch.Tensor], path: Path) -> str:
    """Tell the architecture from the names of the convolutions."""
    counts = tuple(
        sum(
            1
            for name in state
            if name.startswith(f"encoder.conv{block}.") and name.endswith("layer.0.weight")
        )
        for block in range(1, 6)
    )
    for arch, layers in LAYERS_PER_BLOCK.items():
        if layers == counts:
            return arch
    shown = ", ".join(list(state)[:3])
    raise UserError(
        f"{path} is not a checkpoint of the VGG autoencoder: expected encoder and decoder blocks of "
        f"{', '.join(LAYERS_PER_BLOCK)}, found {len(state)} tensors such as {shown}."
    )


def _recognise_width(state: Mapping[str, torch.Tensor], path: Path) -> float:
    """Tell the width from the channels of each encoder block's first convolution (a public file does not say it)."""
    firsts = [state.get(f"encoder.conv{block}.0 EncoderLayer.layer.0.weight") for block in range(1, 6)]
    widths = [len(tensor) for tensor in firsts if tensor is not None and tensor.ndim == 4]
    width = width_of(widths)
    if width is None:
        raise UserError(
            f"{path} is not a checkpoint of the VGG autoencoder: expected five encoder blocks of "
            f"{', '.join(map(str, WIDTHS))} channels, all times one width, found {', '.join(map(str, widths))}."
        )
    return width


def _recognise_expected(
    content: Any, state: Mapping[str, torch.Tensor], path: Path, arch: str | None, width: float | None
) -> tuple[str, float]:
    """Tell architecture and width, and refuse others than expected (None: any)."""
    recognised = _recognise(state, path)
    if arch is not None and arch != recognised:
        raise UserError(
            f"{path} is a {recognised} autoencoder, but {arch} was asked for. Use --arch {recognised} or another checkpoint."
        )
    found_width = content.get("width") if isinstance(content, Mapping) else None
    if not isinstance(found_width, float):  # a public file, or one of ours from before there were widths
        found_width = _recognise_width(state, path)
    if width is not None and scaled_widths(width) != scaled_widths(found_width):
        raise UserError(
            f"{path} is an autoencoder of width {found_width:g}, but {width:g} was asked for. "
            f"Use --width {found_width:g} or another checkpoint."
        )
    return recognised, found_width


# ------------------------------------------------------------------------------------------------ autoencoders


def save_autoencoder(path: Path, model: Autoencoder, half: bool = False, **meta: Any) -> None:
    """Save an autoencoder with what is needed to use it again.

    Args:
        path: The ``.pth`` file to write.
        model: The network.
        half: Whether to keep 16 bits of each weight instead of 32; it is computed with in float32 all the same.
        meta: Plain values kept beside the weights: ``image_size``, ``caveats`` (list of texts), and the settings
            it was trained with.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        lost = [name for name, value in state.items() if not value.isfinite().all()]
        if lost:
            raise UserError(f"{', '.join(lost[:3])} holds values beyond 16 bits; {path} was not written.")
    write_weights_file(
        path,
        {
            "format": FORMAT,
            "kind": "autoencoder",
            "arch": model.arch,
            "width": model.width,
            "meta": meta,
            "state_dict": state,
        },
    )


def load_autoencoder(
    path: Path,
    device: torch.device | str = "cpu",
    image_size: int | None = None,
    arch: str | None = None,
    width: float | None = None,
) -> tuple[Autoencoder, dict[str, Any]]:
    """Load an autoencoder, ours or the public ImageNet checkpoint, strictly.

    Args:
        path: The checkpoint.
        device: Where the network is to live.
        image_size: The size the images will have; refused if the checkpoint was trained at another.
        arch: The architecture that is expected; any when left out.
        width: The width that is expected; any when left out.

    Returns:
        The network in eval mode, float32 whatever precision its weights are stored in, and its meta: ``stem, path,
        sha256, arch, width, image_size`` (None if unknown), ``caveats`` (list of texts) and whatever was saved with it.

    Raises:
        UserError: If the file is not such a checkpoint, or of another architecture, width or image size.
    """
    path = Path(path)
    content = read_weights_file(path)
    check_unchanged(path)
    state = _state_dict(content, path)
    check_shape(content, AUTOENCODER_META, path, f"{MAKE_AGAIN['autoencoder']}.")
    found_arch, found_width = _recognise_expected(content, state, path, arch, width)
    saved = dict(content.get("meta", {})) if isinstance(content, Mapping) and "meta" in content else {}
    meta = {
        **{"image_size": None, "caveats": [], **saved},
        **{"arch": found_arch, "width": found_width, "stem": path.stem, "path": str(path)},
    }
    if image_size is not None and meta["image_size"] not in (None, image_size):
        raise UserError(
            f"{path} was trained on images of {meta['image_size']} px, but --image-size is {image_size}. "
            f"Use --image-size {meta['image_size']} or another checkpoint."
        )
    model = build_autoencoder(found_arch, width=found_width)
    count = load_strictly(model, state, path)
    meta["sha256"] = checkpoint_sha256(path)
    kind = found_arch if found_width == 1 else f"{found_arch} width {found_width:g}"
    log.info("Loaded %s: %s autoencoder, all %d tensors arrived", path, kind, count)
    return model.to(device).eval(), meta


def find_pretrained(given: str, places: list[Path]) -> Path:
    """Find the checkpoint that fine-tuning starts from.

    Args:
        given: The value of ``--pretrained``: a path, or a file name looked for in ``places`` too.
        places: Folders to look in after the current one.

    Raises:
        UserError: If it is nowhere; says where it comes from and where to put it.
    """
    candidates = [Path(given), *(place / Path(given).name for place in places)]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in dict.fromkeys(candidates))
    raise UserError(f"The pretrained autoencoder was not found (looked for {looked}). {WHERE_FROM}")


def list_checkpoints(output_path: Path) -> list[Path]:
    """Return the models of an output folder, sorted by name: no MLP heads, no partial files, nothing to start from.

    What stage 0 trained (``pretrained_...``) is a start like the ImageNet checkpoint, and a model where it is named.
    """
    paths = Path(output_path).glob("*.pth")
    return sorted(
        path
        for path in paths
        if not path.name.startswith((".", "mlp_", PRETRAINED_PREFIX)) and path.name != BASE_CHECKPOINT
    )


def find_models(args: Namespace, several: bool = True) -> list[Path]:
    """Return the checkpoints a stage is to use.

    Args:
        args: With ``output_path`` and ``model_names``.
        several: Whether the stage takes all of them when none is named; else there must be exactly one.

    Raises:
        UserError: If there is none, a named one is missing, or a choice is needed.
    """
    checkpoints = list_checkpoints(args.output_path)
    listed = ", ".join(path.name for path in checkpoints) or "none"
    if args.model_names:
        named = [
            args.output_path / (name if name.endswith(".pth") else f"{name}.pth")
            for name in map(str, args.model_names)
        ]
        named = [path if path.exists() else args.output_path / path.name for path in named]
        missing = [path.name for path in named if not path.is_file()]
        if missing:
            raise UserError(
                f"The checkpoint {', '.join(missing)} is not in {args.output_path}. Checkpoints there: {listed}."
            )
        return list(dict.fromkeys(named))
    if not checkpoints:
        raise UserError(
            f"There is no autoencoder checkpoint (*.pth) in {args.output_path}. It is written by: "
            "python autoencoder_finetune.py (add --sample --pretrained none to try it without MemCat and weights)"
        )
    if len(checkpoints) > 1 and not several:
        raise UserError(
            f"There are several checkpoints in {args.output_path}: {listed}. Choose with --model-names."
        )
    return checkpoints


# ------------------------------------------------------------------------------------------------ MLP heads


def mlp_file(output_path: Path, model: str) -> Path:
    """Return where the MLP head for an autoencoder (by its stem) is kept."""
    return Path(output_path) / f"mlp_{model}.pth"


def save_mlp(path: Path, state: Mapping[str, torch.Tensor], **meta: Any) -> None:
    """Save an MLP head that needs nothing else to be used.

    Args:
        path: The file, ``mlp_<model>.pth``.
        state: Its tensors, standardisation included.
        meta: Plain values: architecture, ``encoder`` (dict with ``stem`` and ``sha256``), ``image_size``,
            training score distribution, versions, ``caveats``.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    write_weights_file(path, {"format": FORMAT, "kind": "mlp", "meta": meta, "state_dict": tensors})


def read_mlp(
    path: Path, encoder: Mapping[str, Any] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an MLP head's tensors and meta.

    Args:
        path: The file, ``mlp_<model>.pth``.
        encoder: Meta of the autoencoder it is to work on (from :func:`load_autoencoder`); None skips the check.

    Returns:
        Tensors by name, and the meta that :func:`save_mlp` was given.

    Raises:
        UserError: If the file is missing or not an MLP head, or was trained on another encoder (naming both).
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is missing. It is written by: python mlp_predict.py --train")
    content = read_weights_file(path)
    check_unchanged(path)
    if not isinstance(content, Mapping) or content.get("kind") != "mlp":
        raise UserError(
            f"{path} is not an MLP head of this project. Train one with: python mlp_predict.py --train"
        )
    check_shape(content, MLP_SHAPE, path, TRAIN_MLP + ".")
    meta = dict(content["meta"])
    trained_on = meta.get("encoder", {})
    if encoder is not None and trained_on.get("sha256") != encoder["sha256"]:
        raise UserError(
            f"{path} was trained on the encoder {trained_on.get('stem')} (SHA-256 {str(trained_on.get('sha256'))[:12]}), "
            f"but the encoder at hand is {encoder['stem']} ({encoder['sha256'][:12]}). Use that checkpoint, or train again "
            "with: python latent_analysis.py --calculate-latents && python mlp_predict.py --train"
        )
    return dict(content["state_dict"]), meta


def load_mlp(
    path: Path,
    encoder: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    needs: Mapping[str, Shape] | None = None,
) -> tuple[MemorabilityMLP, dict[str, Any]]:
    """Load an MLP head, strictly, ready to score latent codes.

    Args:
        path: The file, ``mlp_<model>.pth``.
        encoder: Meta of the autoencoder it is to work on (from :func:`load_autoencoder`); None skips the check.
        device: Where the head is to live.
        needs: What its meta has to say, by name, for what it is wanted for (see :mod:`utils.core.schema`).

    Returns:
        The head in eval mode and the meta of :func:`read_mlp`.

    Raises:
        UserError: See :func:`read_mlp`; or tensors that do not fit the saved architecture.
    """
    state, meta = read_mlp(path, encoder)
    check_shape(meta, dict(needs or {}), path, TRAIN_MLP + ".")
    if "architecture" not in meta:
        raise UserError(
            f"{path} does not say its architecture. Train it again with: python mlp_predict.py --train"
        )
    try:
        model = MemorabilityMLP(**meta["architecture"])
    except (TypeError, ValueError, RuntimeError) as error:  # unknown names, or sizes that no network has
        raise UserError(f"{path} says an architecture that is none ({error}). {TRAIN_MLP}.") from None
    load_strictly(model, state, path)
    return model.to(device).eval(), meta
