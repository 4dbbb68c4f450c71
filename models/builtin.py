"""The trained networks that ship with the code, in ``models/weights/``; its README.md is their model card."""

import csv
from pathlib import Path

from models.checkpoints import mlp_file
from utils.core.errors import UserError

WEIGHTS_FOLDER = Path(__file__).resolve().parent / "weights"
MODEL_CARD = "model_card.csv"  # written by benchmarks/model_card.py
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


def builtin_test_rho() -> str:
    """Say how well the head predicts human scores of pictures it was not trained on, from the model card's table.

    Returns:
        E.g. ``Spearman's rho 0.22 [0.15, 0.29] with human scores of 789 test pictures of LNSIM``.
    """
    with _shipped(WEIGHTS_FOLDER / MODEL_CARD).open(encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["what"], row["metric"]) == ("published head", "spearman")
        ]
    (row,) = rows
    rho, low, high = (f"{float(row[name]):.2f}" for name in ("value", "ci_low", "ci_high"))
    return f"Spearman's rho {rho} [{low}, {high}] with human scores of {row['n']} test pictures of LNSIM"


def _shipped(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"{path} is missing, although it ships with the code: fetch it again with git checkout -- models/weights."
        )
    return path
