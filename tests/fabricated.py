"""Fabricated weight files of the right names and shapes, to exercise the real loading path without a network."""

from pathlib import Path

import torch
import torchvision

from models.pretrained import TRUNKS, load_trunk, weight_file


def write_trunk_file(name: str, seed: int = 1) -> Path:
    """Write the weight file of a trunk into the current TORCH_HOME: seeded features and an all-zero classifier.

    The classifier's tensors are views of a single zero, so that the file holds the features alone.
    """
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    features = load_trunk(name, "random", seed).state_dict()
    state = {
        key: features[key.removeprefix("features.")]
        if key.startswith("features.")
        else torch.zeros(()).expand(value.shape)
        for key, value in network.state_dict().items()
    }
    path = weight_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def write_trunk_files(seed: int = 1) -> None:
    """Write the weight files of all trunks into the current TORCH_HOME."""
    for name in TRUNKS:
        write_trunk_file(name, seed)
