"""What files of weights hold: their shapes, and a digest kept in the file itself, so that a damaged one is known when read.

The archive of ``torch.save`` has checksums, and ``torch.load`` does not look at them: a flipped bit is another weight.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

DIGEST_NAME = "content_sha256"
TRAIN_MLP = "Train it again with: python mlp_predict.py --train"
MAKE_AGAIN = {  # by the kind that a file of ours says it is
    "autoencoder": "Make it anew with the command that trained it (python autoencoder_finetune.py, or "
    "autoencoder_pretrain.py) and --overwrite, or copy it again",
    "mlp": TRAIN_MLP,
}
TENSORS = {str: torch.Tensor}
AUTOENCODER_META = {"meta?": {"image_size?": (int, None), "caveats?": [str]}}
TRAINED_SHAPE = {  # of a model that a stage trained, for the stage that finds it finished
    "meta": {"fingerprint": str, "settings?": {str: object}, "outputs?": {str: str}, "caveats": [str]}
}
MLP_SHAPE = {
    "meta": {
        "architecture?": {"n_inputs": int, "hidden_sizes?": [int], "dropout?": float},
        "encoder?": {"stem?": str, "sha256?": str},
        "image_size?": (int, None),
        "training_scores?": [float],
        "caveats?": [str],
        "settings?": {"hidden_sizes": [int]},
    },
    "state_dict": TENSORS,
}


def content_digest(content: Any) -> str:
    """Digest tensors and plain values, nested in any way: names in order, element types, shapes, bytes.

    Args:
        content: What ``torch.save`` is given, or ``torch.load`` gave back.

    Returns:
        SHA-256, in hexadecimal; equal for equal content, in whatever order its names stand.
    """
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a value, with its kind and length before it, so that no two contents read alike."""
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    elif isinstance(value, Mapping):
        digest.update(f"names {len(value)}\n".encode())
        for name in sorted(value, key=repr):
            digest.update(f"{name!r}\n".encode("utf-8", "surrogatepass"))
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for one in value:
            _add(digest, one)
    else:
        digest.update(f"value {value!r}\n".encode("utf-8", "surrogatepass"))
