"""Published predictors of memorability as rivals: optional packages, imported only when asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from utils.core.device import resolve_device
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.data.images import read_rgb


@dataclass(frozen=True)
class Adapter:
    """How a published predictor is run.

    Attributes:
        package: What has to be installed.
        about: What it is, for the table.
        weights: Where its weights are, for the message when they are not.
        load: Returns a function from a picture (PIL, RGB) to a score.
    """

    package: str
    about: str
    weights: str
    load: Callable[[Any], Callable[[Any], float]]


def _load_resmem(device: Any) -> Callable[[Any], float]:
    """ResMem (Needell & Bainbridge 2022); its weights come inside the package."""
    import torch

    package: Any = importlib.import_module("resmem")
    model = package.ResMem(pretrained=True).eval().to(device)

    def score(image: Any) -> float:
        with torch.inference_mode():
            return float(model(package.transformer(image)[None].to(device)).reshape(-1)[0])

    return score


def _load_vitmem(device: Any) -> Callable[[Any], float]:
    """ViTMem (Hagen & Espeseth 2023); its package fetches its weights at first use."""
    package: Any = importlib.import_module("vitmem")
    model = package.ViTMem()
    return lambda image: float(model(image))


ADAPTERS = {
    "resmem": Adapter(
        "resmem",
        "ResMem, trained on MemCat and LaMem by its authors",
        "they come inside the package: install it again",
        _load_resmem,
    ),
    "vitmem": Adapter(
        "vitmem",
        "ViTMem, trained on LaMem and MemCat by its authors",
        "the file vitmem_base_patch16_224_miil_v1-f580d24a.pth of huggingface.co/brainpriority/vitmem belongs in "
        "$TORCH_HOME/hub/checkpoints (default ~/.cache/torch)",
        _load_vitmem,
    ),
}


def run_adapter(name: str, images: pd.DataFrame, device: str) -> pd.Series:
    """Score pictures with a published predictor.

    Args:
        name: One of :data:`ADAPTERS`.
        images: ``image_id`` and ``path``.
        device: See :func:`utils.core.device.resolve_device`.

    Returns:
        Score by ``image_id``; pictures that cannot be read are left out and named.

    Raises:
        UserError: The package is missing, its weights are not to be had, or there are no pictures.
    """
    adapter = ADAPTERS[name]
    if importlib.util.find_spec(adapter.package) is None:
        raise UserError(
            f"--rival {name} needs the package {adapter.package}, which is not installed. Install it with: pip install "
            f"{adapter.package}; or name a table of its scores with --rival {name}=FILE."
        )
    if (images["path"] == "").all():
        raise UserError(
            f"--rival {name} scores pictures, and there are none here. Name a table: --rival {name}=FILE."
        )
    try:
        score = adapter.load(resolve_device(device))
    except Exception as error:  # the package's own, of many kinds
        raise UserError(
            f"{adapter.package} could not be started ({type(error).__name__}: {error}). Its weights: {adapter.weights}. Or "
            f"name a table of its scores with --rival {name}=FILE."
        ) from error
    scores = {}
    for image_id, path in tqdm(
        zip(images["image_id"], images["path"], strict=True), total=len(images), desc=name
    ):
        try:
            scores[image_id] = score(read_rgb(path))
        except ImageError as error:
            log.warning("%s: %s is left out: %s", name, image_id, error.reason)
    return pd.Series(scores, dtype=np.float64)
