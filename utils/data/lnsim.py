"""LNSIM, as its authors publish it: outdoor photographs, memorability scores and their split halves.

Lu, Xu, Yang & Wang (2020), Understanding and predicting the memorability of outdoor natural scenes, IEEE Transactions on
Image Processing 29, 4927-4941. Its repository holds ``Image_data/0001.jpg`` ... ``2632.jpg`` (plain JPEGs at commit 27e8e4a,
a zip in two parts since) and ``Random_splits/subject_hrs1.mat`` and ``subject_hrs2.mat``: 25 times the participants were
divided at random into two groups, and these are the hit rates of each photograph in either group.
"""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.names import IMAGE_SUFFIXES, half_columns

SCORE_FOLDER = "Random_splits"
IMAGE_FOLDER = "Image_data"
HALVES = ("subject_hrs1", "subject_hrs2")
REPOSITORY = "https://github.com/JiaxinLu-home/Natural-Scene-Memorability-Dataset"
COMMIT = "27e8e4a"  # the last with plain JPEGs
HOW_TO_GET_LNSIM = f"To get LNSIM anew: git clone -n {REPOSITORY} LNSIM && git -C LNSIM checkout {COMMIT}"
_SHARE_WITH_NAMES = 0.9


def score_files(folder: Path) -> list[Path]:
    """Return where the two files of scores stand, or belong, in a folder ``Random_splits``."""
    return [folder / f"{name}.mat" for name in HALVES]


def holds_lnsim_scores(folder: Path) -> bool:
    """Say whether a folder is LNSIM's ``Random_splits`` (by one of its files, so that the other can be missed)."""
    return any(path.exists() for path in score_files(folder))


def find_lnsim(data_dir: Path) -> Path | None:
    """Return LNSIM's folder of scores where the data folder is LNSIM as published, else None.

    Raises:
        UserError: The pictures are there and the scores are not.
    """
    scores = data_dir / SCORE_FOLDER
    if holds_lnsim_scores(scores):
        return scores
    if not _looks_like_lnsim(data_dir / IMAGE_FOLDER):
        return None
    expected = " and ".join(f"{SCORE_FOLDER}/{path.name}" for path in score_files(scores))
    raise UserError(
        f"{data_dir} has LNSIM's pictures ({IMAGE_FOLDER}/) without its scores: expected {expected}, found neither. "
        f"For pictures with scores of your own, name their table with --scores-csv. {HOW_TO_GET_LNSIM}"
    )


def _looks_like_lnsim(pictures: Path) -> bool:
    """Say whether a folder holds pictures named 0001.jpg ..., or the zip they come in since."""
    if not pictures.is_dir():
        return False
    if (pictures / "images.zip").exists():
        return True
    names = [path.stem for path in pictures.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    numbered = sum(len(name) == 4 and name.isdecimal() for name in names)
    return bool(names) and numbered >= _SHARE_WITH_NAMES * len(names)


def read_lnsim(folder: Path) -> pd.DataFrame:
    """Read LNSIM's scores and their halves.

    Args:
        folder: ``Random_splits``.

    Returns:
        ``image_id`` (``0001.jpg`` for the first column of the matrices, and so on), ``memorability`` (mean hit rate over
        both groups and all splits, 0..1), and a pair of columns per split (`utils.core.names.half_columns`).

    Raises:
        UserError: A file is missing, is no MATLAB file, lacks its matrix, or the two do not fit together.
    """
    matrices = [_read_matrix(path, path.stem) for path in score_files(folder)]
    first, second = matrices
    if first.shape != second.shape:
        raise UserError(
            f"{folder}: expected matrices of one shape (splits, pictures), found {first.shape} in {HALVES[0]}.mat and "
            f"{second.shape} in {HALVES[1]}.mat. {HOW_TO_GET_LNSIM}"
        )
    splits, images = first.shape
    columns = {"image_id": [f"{number:04d}.jpg" for number in range(1, images + 1)]}
    columns["memorability"] = np.concatenate(matrices).mean(axis=0)
    for split, names in enumerate(half_columns(splits)):
        columns |= dict(zip(names, (first[split], second[split]), strict=True))
    return pd.DataFrame(columns)


def _read_matrix(path: Path, name: str) -> np.ndarray:
    """Read one matrix of hit rates, (splits, pictures), 0..1."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise UserError(f"LNSIM's scores are not complete: {path} is missing. {HOW_TO_GET_LNSIM}")
    try:
        variables = loadmat(path)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a MATLAB file ({error or type(error).__name__}). {HOW_TO_GET_LNSIM}"
        ) from None
    if name not in variables:
        names = ", ".join(key for key in variables if not key.startswith("__")) or "nothing"
        raise UserError(f"{path}: expected a matrix {name}, found {names}. {HOW_TO_GET_LNSIM}")
    matrix = np.asarray(variables[name])
    if matrix.dtype.kind not in "fiu" or matrix.ndim != 2 or not matrix.size:
        raise UserError(
            f"{path}: expected numbers in {name}, (splits, pictures), found shape {matrix.shape} of {matrix.dtype}. "
            f"{HOW_TO_GET_LNSIM}"
        )
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all() or matrix.min() < 0 or matrix.max() > 1:
        raise UserError(
            f"{path}: expected hit rates in [0, 1], found values from {matrix.min():g} to {matrix.max():g}. "
            f"{HOW_TO_GET_LNSIM}"
        )
    return matrix


def explain_missing_pictures(data_dir: Path) -> str:
    """Say what to do about an LNSIM folder without pictures: unpack them, or fetch them."""
    pictures = data_dir / IMAGE_FOLDER
    archive = pictures / "images.zip"
    if not archive.exists():
        return f"Expected {pictures}/0001.jpg and so on. {HOW_TO_GET_LNSIM}"
    if not (pictures / "images.z01").exists():
        return f"{archive} is the last part of a zip whose first, images.z01, is missing. {HOW_TO_GET_LNSIM}"
    command = f"cd {shlex.quote(str(pictures))} && zip -s 0 images.zip --out whole.zip && unzip whole.zip"
    return f"The pictures of LNSIM are still in {archive}. Unpack them with:\n  {command}"
