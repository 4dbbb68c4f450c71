"""Codes from elsewhere (``--codes``): a matrix with an index that names its rows, or thingsvision's output folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.core.errors import UserError
from utils.core.files import atomic_path, file_sha256
from utils.core.log import log
from utils.core.matrix_files import create_matrix
from utils.core.tables import read_csv
from utils.latents.codes import FOREIGN_LAYER, SHA_LENGTH, latent_file, row_checksums
from utils.latents.rows import row_blocks

if TYPE_CHECKING:
    from utils.core.run import Run

FEATURES, FILE_NAMES = "features.npy", "file_names.txt"  # what thingsvision writes
NAME_COLUMNS = ("image_id", "path", "image_file", "image_name", "file_name", "filename", "image", "name")


@dataclass(frozen=True)
class ForeignCodes:
    """Codes as they were found.

    Attributes:
        name: What the output files are to be called after.
        path: The matrix's file.
        index_path: The file that names its rows.
        matrix: (N, D) memory map, any number type.
        names: N names of images, each once, as the index has them.
    """

    name: str
    path: Path
    index_path: Path
    matrix: NDArray
    names: list[str]


def read_foreign_codes(
    codes: Path, index: Path | None, column: str | None = None, name: str | None = None
) -> ForeignCodes:
    """Open codes from elsewhere, after checking that matrix and index belong together.

    Args:
        codes: An ``.npy`` file, or a folder with ``features.npy`` and ``file_names.txt``.
        index: CSV with a row per row of the matrix, or a text file with a name per line; None takes
            ``file_names.txt`` beside the matrix.
        column: The column that names the images; one of :data:`NAME_COLUMNS`, or the only one, when None.
        name: What to call the codes; the file's stem, or the folder's name, when None.

    Raises:
        UserError: A file is missing or of another kind, lengths differ, names are empty or repeated, values are not
            finite.
    """
    folder = codes if codes.is_dir() else codes.parent
    path = codes / FEATURES if codes.is_dir() else codes
    index = index or folder / FILE_NAMES
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. --codes takes an .npy matrix (a row per image), or a folder with {FEATURES} and "
            f"{FILE_NAMES} as thingsvision writes them."
        )
    if not index.is_file():
        raise UserError(
            f"The index {index} does not exist. Name the table that says which image each row of {path.name} belongs to "
            "with --codes-index."
        )
    matrix = _open(path)
    names = _read_names(index, column)
    if len(names) != len(matrix):
        raise UserError(
            f"{path} has {len(matrix)} rows, but {index} names {len(names)} images. Expected one name per row, in the same "
            "order."
        )
    _check_names(names, index)
    _check_values(matrix, names, path)
    own = folder.resolve().name if path.name == FEATURES else path.stem
    return ForeignCodes((name or own).replace("@", "-"), path, index, matrix, names)


def _open(path: Path) -> NDArray:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an .npy matrix ({error}).") from None
    if matrix.ndim < 2 or not len(matrix) or matrix.dtype.kind not in "fiu" or not matrix[0].size:
        raise UserError(
            f"{path}: expected a matrix of numbers (images x values), found {matrix.dtype} of shape {matrix.shape}."
        )
    return matrix.reshape(len(matrix), -1)


def _read_names(index: Path, column: str | None) -> list[str]:
    """Read the names of the rows, in order."""
    if index.suffix.lower() != ".csv":
        try:
            lines = index.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(
                f"{index} is not UTF-8 text. Expected one image name per line, or a CSV table."
            ) from None
        return [_tidy(line) for line in lines if line.strip()]
    there = [str(name) for name in read_csv(index, nrows=0).columns]
    known = [name for name in NAME_COLUMNS if name in there] or (there if len(there) == 1 else [])
    chosen = column or (known[0] if known else None)
    if chosen not in there:
        raise UserError(
            f"{index}: expected a column {column or 'that names the images (' + ', '.join(NAME_COLUMNS) + ')'}, found: "
            f"{', '.join(there)}. Choose one with --codes-column."
        )
    return [_tidy(value) for value in read_csv(index, text_columns=[chosen])[chosen]]


def _tidy(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _check_names(names: list[str], index: Path) -> None:
    if "" in names:
        raise UserError(f"{index}: row {names.index('') + 1} names no image. Correct the file.")
    twice = [name for name, count in pd.Series(names).value_counts().items() if count > 1]
    if twice:
        raise UserError(
            f"{index} names {len(twice)} images more than once, e.g. {twice[0]}. Expected one row per image; correct the "
            "file and the matrix."
        )


def _check_values(matrix: NDArray, names: list[str], path: Path) -> None:
    """Refuse values that are not finite in float32; say which columns are constant."""
    bad: list[int] = []
    low, high = np.full(matrix.shape[1], np.inf), np.full(matrix.shape[1], -np.inf)
    for rows, block in row_blocks(matrix):
        with np.errstate(over="ignore"):
            values = block.astype(np.float32)
        bad += rows[~np.isfinite(values).all(1)].tolist()
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    if bad:
        with np.errstate(over="ignore"):
            columns = np.flatnonzero(~np.isfinite(matrix[bad[0]].astype(np.float32)))
        raise UserError(
            f"{path}: expected finite numbers (in float32), found others in {len(bad)} of {len(matrix)} rows, e.g. that of "
            f"{names[bad[0]]}, column {columns[0]}. Correct or leave out these rows."
        )
    flat = np.flatnonzero(low == high)
    if len(flat) == matrix.shape[1]:
        raise UserError(
            f"{path}: all {len(matrix)} rows are equal, so no image is more distinctive than another."
        )
    if len(flat):
        log.warning(
            "%s: %d of %d columns are constant (e.g. column %d) and say nothing of the images.",
            path,
            len(flat),
            matrix.shape[1],
            flat[0],
        )


def match_names(names: list[str], image_ids: list[str]) -> dict[str, str]:
    """Find the image each name means: the id itself, a longer path that ends with it, or a file name that only one has.

    Args:
        names: Names in an index, each once.
        image_ids: The images of the data set.

    Returns:
        ``image_id`` by name, for the names that mean exactly one image.
    """
    known = set(image_ids)
    by_file: dict[str, list[str]] = {}
    for image_id in image_ids:
        by_file.setdefault(image_id.rsplit("/", 1)[-1], []).append(image_id)
    found = {}
    for name in names:
        if name in known:
            found[name] = name
            continue
        same_file = by_file.get(name.rsplit("/", 1)[-1], [])
        fitting = [i for i in same_file if name.endswith("/" + i) or i.endswith("/" + name)]
        if len(fitting) == 1:
            found[name] = fitting[0]
    return found


def import_codes(
    run: Run, codes: ForeignCodes, image_ids: list[str], scores: Path | str, on_error: str
) -> str:
    """Write codes from elsewhere as ``latents_<name>.npy`` and ``.csv``, in the order of the images.

    Args:
        run: The run.
        codes: The codes.
        image_ids: The images of the data set.
        scores: Where that list comes from, for messages.
        on_error: ``fail`` refuses names that are not in the data set; ``skip`` leaves them out and says so.

    Returns:
        What the codes are called.

    Raises:
        UserError: No image in common, or two names that mean one image, or unknown names with ``fail``.
    """
    meaning = match_names(codes.names, image_ids)
    unknown = [name for name in codes.names if name not in meaning]
    if not meaning:
        raise UserError(
            f"None of the {len(codes.names)} images of {codes.index_path} stands in {scores}: the codes name e.g. "
            f"{codes.names[0]}, the scores e.g. {image_ids[0]}. Name the score table of these images with --scores-csv."
        )
    if unknown and on_error == "fail":
        raise UserError(
            f"{len(unknown)} of {len(codes.names)} images of {codes.index_path} are not in {scores}, e.g. {unknown[0]}. "
            "Correct the names, or leave such images out with --on-error skip."
        )
    rows = pd.DataFrame({"image_id": [meaning.get(name) for name in codes.names]}).dropna()
    twice = rows["image_id"].duplicated()
    if twice.any():
        raise UserError(
            f"{codes.index_path}: two rows mean the same image, {rows['image_id'][twice].iloc[0]}. Expected one row per "
            "image."
        )
    rows = rows.sort_values("image_id")
    missing = sorted(set(image_ids) - set(rows["image_id"]))
    run.report_skipped(
        [(name, f"in {codes.index_path.name} but not in the score table") for name in unknown]
        + [(name, f"it has no code in {codes.path.name}") for name in missing]
    )
    target = latent_file(run.output_path, codes.name)
    checks = _write_rows(codes.matrix, rows.index.to_numpy(), target)
    # identifies the codes as a checkpoint's checksum does those of a network
    digest = hashlib.sha256((file_sha256(codes.path) + file_sha256(codes.index_path)).encode()).hexdigest()
    table = pd.DataFrame({"image_id": rows["image_id"], "crc32": checks}).assign(
        layer=FOREIGN_LAYER, pool="none", image_size=0, encoder_sha256=digest[:SHA_LENGTH]
    )
    for path in (codes.path, codes.index_path):
        run.add_input(path)
    run.write_table(table, "latents", codes.name)
    log.info("Wrote %s (%d x %d)", run.add_output(target), len(rows), codes.matrix.shape[1])
    return codes.name


def _write_rows(matrix: NDArray, order: NDArray, target: Path) -> list[int]:
    """Write rows in another order as float32, block by block; return their checksums."""
    checks: list[int] = []
    with atomic_path(target) as temporary:
        out = create_matrix(temporary, np.float32, (len(order), matrix.shape[1]), target)
        done = 0
        for _, block in row_blocks(matrix, order):
            values = np.ascontiguousarray(block, dtype=np.float32)
            out[done : done + len(values)] = values
            checks += row_checksums(values)
            done += len(values)
        out.flush()
    return checks
