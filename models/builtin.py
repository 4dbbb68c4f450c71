"""The trained networks that ship with the code, in ``models/weights/``; its README.md is their model card."""

from pathlib import Path

from models.checkpoints import mlp_file
from utils.core.errors import UserError

WEIGHTS_FOLDER = Path(__file__).resolve().parent / "weights"
BUILTIN = "lnsim_vgg16_w025"
"""A quarter-width vgg16 autoencoder and its head, trained on LNSIM's training split (Lu et al. 2020)."""


def builtin_autoencoder() -> Path:
    """Return the checkpoint of the compact autoencoder.

    Raises:
        UserError: If the file is not where it ships.
    """
    return _shipped(WEIGHTS_FOLDER / f"{BUILTIN}.pth")


def builtin_head() -> Path:
    """Return the head that was trained on human scores for codes of `builtin_autoencoder`.

    Raises:
        UserError: If the file is not where it ships.
    """
    return _shipped(mlp_file(WEIGHTS_FOLDER, BUILTIN))


def _shipped(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"{path} is missing, although it ships with the code: fetch it again with git checkout -- {path.parent.name}."
        )
    return path
