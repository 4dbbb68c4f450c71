"""Latent codes on disk: how the files are called, and the one way to open them.

A matrix ``latents_<name>.npy`` has one row per image, and ``latents_<name>.csv`` names its rows in order, with
the encoder that made them and a checksum of each row. So a matrix that was cut short, swapped for another, or
made by another model is refused instead of being read as something it is not.

``<name>`` is the checkpoint's file stem for the code every later stage uses (last block, not pooled), and
``<stem>@<layer>-<pool>``, e.g. ``mem_vgg_autoencoder@conv4-avg``, for any other, so that neither ever replaces
the other.
"""

import hashlib
import zlib
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.checkpoints import find_models, list_checkpoints
from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.matrix_files import map_matrix
from utils.core.names import LAYERS
from utils.core.tables import models_with, output_file, read_table

FOREIGN_LAYER = "file"  # in place of a layer: the codes came from a file, without a network
DEFAULT_LAYER, DEFAULT_POOL = "conv5", "none"
SHA_LENGTH = 16  # of the encoder's SHA-256 in the table: 64 bits
_CHECKED_ROWS = 32


class Latents(NamedTuple):
    """Latent codes and the names of their rows.

    Attributes:
        matrix: (N, D) read-only memory map, float32 or float16; row i belongs to ``image_ids[i]``.
        image_ids: N names, sorted.
        encoder_sha256: First 16 hexadecimal digits of the checkpoint's SHA-256.
        layer: Encoder block the codes come from, ``conv1`` to ``conv5``.
        pool: ``none``, ``avg`` or ``max`` over positions.
        image_size: Side of the images in pixels.
        path: The matrix's file.
        digest: SHA-256 over the names and checksums of all rows: equal for equal codes of equal images.
        caveats: What must be said of everything made from them (sample data, random weights).
    """

    matrix: np.ndarray
    image_ids: list[str]
    encoder_sha256: str
    layer: str
    pool: str
    image_size: int
    path: Path
    digest: str
    caveats: Caveats


class CodeSet(NamedTuple):
    """Latent codes that a stage is to read.

    Attributes:
        stem: The model: a checkpoint's file stem, or what stands for another encoder or a file of codes.
        name: What stands for ``<name>`` in the files of these codes.
        command: The command that writes them, for messages.
        encoder: ``stem`` and ``sha256`` of the network that should have made them; None where there is none to ask.
        layer: Where in the network they come from; empty for a file of codes.
    """

    stem: str
    name: str
    command: str
    encoder: Mapping[str, Any] | None = None
    layer: str = ""


def latent_name(
    model: str,
    layer: str = DEFAULT_LAYER,
    pool: str = DEFAULT_POOL,
    default: tuple[str, str] = (DEFAULT_LAYER, DEFAULT_POOL),
) -> str:
    """Return what stands for ``<name>`` in the files of these codes.

    Args:
        model: The checkpoint's file stem, or an encoder's.
        layer: Layer of the encoder.
        pool: Pooling over positions.
        default: The layer and pooling whose codes bear the model's name alone.
    """
    if (layer, pool) == default:
        return model
    return f"{model}@{layer}-{pool}"


def latent_file(output_path: Path, name: str) -> Path:
    """Return the path of the matrix of a latent name."""
    return Path(output_path) / f"latents_{name}.npy"


def command_for(layer: str = DEFAULT_LAYER, pool: str = DEFAULT_POOL) -> str:
    """Return the command that writes codes of this layer and pooling, for messages."""
    flags = "" if layer == DEFAULT_LAYER else f" --layer {layer}"
    flags += "" if pool == DEFAULT_POOL else f" --pool {pool}"
    return f"python latent_analysis.py --calculate-latents{flags}"


def row_checksums(codes: np.ndarray) -> list[int]:
    """Return the CRC-32 of each row's bytes as they are stored.

    Args:
        codes: (n, D) array in the element type of the file.
    """
    return [zlib.crc32(np.ascontiguousarray(row).data) for row in codes]


def _open_matrix(path: Path, rows: int, command: str) -> np.ndarray:
    """Map a matrix and check its size, shape and type."""
    again = f"Write it again with: {command} --overwrite"
    if not path.exists():
        raise UserError(f"{path} is missing. It is written by: {command}")
    matrix = map_matrix(path, again)
    if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.float16) or not matrix.shape[1]:
        raise UserError(
            f"{path}: expected a float32 or float16 matrix (images x values), found {matrix.dtype} of shape "
            f"{matrix.shape}. {again}"
        )
    if len(matrix) != rows:
        raise UserError(
            f"{path} has {len(matrix)} rows, but {path.with_suffix('.csv')} names {rows} images. They do not "
            f"belong together. {again}"
        )
    return matrix


def _one_value(table: Any, column: str, path: Path, command: str) -> Any:
    """Return the single value of a column that is the same in every row."""
    values = table[column].unique()
    if len(values) != 1:
        raise UserError(
            f"{path}: column {column} must be the same in every row, found {', '.join(map(str, values[:3]))}. "
            f"Write the file again with: {command} --overwrite"
        )
    return values[0]


def open_latents(
    output_path: Path, name: str, encoder: Mapping[str, Any] | None = None, command: str | None = None
) -> Latents:
    """Open latent codes, after checking that the matrix, its table and the encoder belong together.

    Constant memory: the matrix stays on disk. Checksums of 32 rows spread over the file are compared; whether
    all values are finite is left to whoever reads them all.

    Args:
        output_path: The output folder.
        name: The checkpoint's file stem, or what :func:`latent_name` returned.
        encoder: Meta of the checkpoint that should have made them (from
            :func:`models.checkpoints.load_autoencoder`, or a dict with ``stem`` and ``sha256``); None skips that
            check.
        command: The command to name in messages; the one that writes the default codes when None.

    Returns:
        The codes.

    Raises:
        UserError: If a file is missing, cut short, of another kind or length, or was made by another encoder.
    """
    path = latent_file(output_path, name)
    command = command or command_for()
    table_path = output_file(output_path, "latents", name)
    table = read_table(table_path, "latents", command)
    if table.empty:
        raise UserError(f"{table_path} names no image. Write it again with: {command} --overwrite")
    matrix = _open_matrix(path, len(table), command)
    sha, layer, pool, size = (
        _one_value(table, column, table_path, command)
        for column in ("encoder_sha256", "layer", "pool", "image_size")
    )
    if encoder is not None and sha != encoder["sha256"][:SHA_LENGTH]:
        raise UserError(
            f"{path} was made by an encoder with SHA-256 {sha}..., but the checkpoint {encoder['stem']} has "
            f"{encoder['sha256'][:SHA_LENGTH]}...: it was changed or replaced since. "
            f"Write the latent codes again with: {command} --overwrite"
        )
    _check_rows(matrix, table, path, command)
    rows = "".join(f"{a}\0{b}\n" for a, b in zip(table["image_id"], table["crc32"], strict=True))
    return Latents(
        matrix,
        table["image_id"].tolist(),
        sha,
        layer,
        pool,
        int(size),
        path,
        digest=hashlib.sha256(rows.encode()).hexdigest(),
        caveats=Caveats.of_table(table),
    )


def _check_rows(matrix: np.ndarray, table: Any, path: Path, command: str) -> None:
    """Compare the checksums of rows spread over the file."""
    rows = np.unique(np.linspace(0, len(matrix) - 1, _CHECKED_ROWS).astype(int))
    expected = table["crc32"].to_numpy()
    wrong = [int(row) for row in rows if row_checksums(matrix[row : row + 1])[0] != expected[row]]
    if wrong:
        names = ", ".join(table["image_id"].iloc[row] for row in wrong[:3])
        raise UserError(
            f"{path} does not hold the codes that {path.with_suffix('.csv').name} describes: the checksums of "
            f"{len(wrong)} of {len(rows)} rows tried differ (e.g. {names}). One of the two files was replaced or "
            f"damaged. Write both again with: {command} --overwrite"
        )


def check_same_images(
    latents: Latents, image_ids: Iterable[str], source: Path | str, command: str | None = None
) -> None:
    """Refuse latent codes of another image list.

    Args:
        latents: The codes.
        image_ids: The images that should be there.
        source: Where that list comes from, for the message.
        command: The command that writes the codes; that of an autoencoder's when None.

    Raises:
        UserError: Naming both files, the counts, and an image that only one of them has.
    """
    wanted, coded = set(image_ids), set(latents.image_ids)
    missing, extra = sorted(wanted - coded), sorted(coded - wanted)
    if not missing and not extra:
        return
    parts = [
        f"{len(names)} only in {where}, e.g. {names[0]}"
        for names, where in ((missing, source), (extra, latents.path.name))
        if names
    ]
    raise UserError(
        f"{latents.path} and {source} are of different image lists ({len(coded)} and {len(wanted)} images; "
        f"{'; '.join(parts)}). Use the same --data-dir, --scores-csv, --sample and --limit as for the latent codes, or "
        f"write them again with: {command or command_for(latents.layer, latents.pool)}"
    )


def find_code_model(args: Namespace, name: str) -> tuple[str, Path | None]:
    """Return the stem and checkpoint of one of ``--model-names``; no checkpoint where the codes are of no autoencoder.

    Args:
        args: With ``output_path`` and ``model_names``.
        name: A checkpoint in the output folder, or what stands for ``<model>`` in a ``latents_<model>.npy``.

    Raises:
        UserError: There is neither.
    """
    stem = name.removesuffix(".pth")
    path = Path(args.output_path) / f"{stem}.pth"
    if not path.is_file() and needs_no_checkpoint(args.output_path, stem):
        return stem, None
    (path,) = find_models(Namespace(output_path=args.output_path, model_names=[name]))
    return path.stem, path


def find_code_models(args: Namespace) -> list[tuple[str, Path | None]]:
    """Return the stem and checkpoint of the models whose codes a stage is to read.

    Args:
        args: With ``output_path`` and ``model_names``; without names, the one checkpoint there is, else the one model
            with codes.

    Raises:
        UserError: A named model has neither, or there is none, or a choice is needed.
    """
    if args.model_names:
        return [find_code_model(args, str(name)) for name in args.model_names]
    stems = [name for name in models_with(args.output_path, "latents") if "@" not in name]
    stems = [stem for stem in stems if needs_no_checkpoint(args.output_path, stem)]
    if list_checkpoints(args.output_path) or not stems:
        return [(path.stem, path) for path in find_models(args, several=False)]
    if len(stems) > 1:
        raise UserError(
            f"There are latent codes of several models in {args.output_path}: {', '.join(stems)}. Choose with --model-names."
        )
    return [(stems[0], None)]


def _layers_of(output_path: Path, name: str) -> set[str]:
    """Return the layers that a table of codes names; none without the table."""
    path = output_file(output_path, "latents", name)
    return set(read_table(path, "latents", as_input=False)["layer"]) if path.exists() else set()


def is_foreign(output_path: Path, name: str) -> bool:
    """Return whether the latent codes of a name came from a file, without a network.

    Args:
        output_path: The output folder.
        name: What stands for ``<model>`` in their files.
    """
    return FOREIGN_LAYER in _layers_of(output_path, name)


def needs_no_checkpoint(output_path: Path, name: str) -> bool:
    """Return whether the latent codes of a name are there and are those of another encoder or of a file.

    Args:
        output_path: The output folder.
        name: What stands for ``<model>`` in their files.
    """
    layers = _layers_of(output_path, name)
    return bool(layers) and not layers & set(LAYERS)


def encoder_card_file(output_path: Path, stem: str) -> Path:
    """Return where it is written how another encoder can be made again."""
    return Path(output_path) / f"encoder_{stem}.json"


def refuse_codes_alone(output_path: Path, stem: str) -> None:
    """Refuse codes of which no network is known, where pixels have to be led through one.

    Args:
        output_path: The output folder.
        stem: The model.

    Raises:
        UserError: Saying where the codes came from.
    """
    if encoder_card_file(output_path, stem).is_file():
        return
    source = (
        "a file, without a network"
        if is_foreign(output_path, stem)
        else "an encoder that is not on record here"
    )
    raise UserError(
        f"latents_{stem}.npy came from {source}: attributions follow the score through the network to the pixels. Name an "
        "autoencoder checkpoint with --model-names, or write the codes with: python latent_analysis.py --encoder NAME"
    )
