"""Computing latent codes: encode images into shards, then write a matrix per layer."""

from __future__ import annotations

import logging
import shutil
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.core.device import computing_in
from utils.core.errors import UserError
from utils.core.precision import refuse_reduced_precision, settle_precision
from utils.core.processes import is_main_rank
from utils.core.shards import Batch, ShardedResult, run_sharded
from utils.core.tables import output_file
from utils.latents.codes import SHA_LENGTH, latent_file, latent_name, row_checksums
from utils.latents.encodings import AUTOENCODER, Encoding

if TYPE_CHECKING:
    from utils.core.run import Run
    from utils.core.shards import Work
    from utils.data.dataset import Dataset

log = logging.getLogger("memorability")


def settle_latent_precision(args: Namespace, run: Run) -> None:
    """Settle in which precision codes are calculated, where they are.

    Raises:
        UserError: bf16 was asked for and no network runs, or what comes of it cannot be ranked.
    """
    if not args.calculate_latents or args.codes is not None:
        refuse_reduced_precision(args, "Distances between codes", "no network runs here")
        return
    foreign = "" if args.encoder == AUTOENCODER else f"the codes of {args.encoder}"
    settle_precision(args, run, ["distinctiveness"], foreign)


def _make_work(args: Namespace, encoding: Encoding, device: torch.device) -> Work:
    """Return the function that turns a batch of images into codes, an array per layer."""

    def work(ids: list[str], values: list[np.ndarray]) -> Batch:
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(values)).to(device, memory_format=torch.channels_last)
            with computing_in(args.precision, device):
                computed = encoding.compute(images)
            codes = {name: part.float().cpu().numpy() for name, part in computed.items()}
        with np.errstate(over="ignore"):  # reported below, with the image's name
            codes = {name: np.ascontiguousarray(part.astype(args.dtype)) for name, part in codes.items()}
        for part in codes.values():
            _check_finite(ids, part, encoding.label, args.dtype)
        checks = {name: row_checksums(part) for name, part in codes.items()}
        rows = [{_check_name(encoding, name): checks[name][row] for name in codes} for row in range(len(ids))]
        return Batch(rows, {_array_name(encoding, name): part for name, part in codes.items()})

    return work


def _check_finite(ids: list[str], codes: np.ndarray, label: str, dtype: str) -> None:
    bad = [image_id for image_id, row in zip(ids, codes, strict=True) if not np.isfinite(row).all()]
    if bad:
        hint = " They may be too large for --dtype float16." if dtype == "float16" else ""
        raise UserError(
            f"The latent codes of {', '.join(bad[:5])} by {label} hold NaN or infinity.{hint} Otherwise the network's "
            "weights are broken: choose another checkpoint with --model-names."
        )


def _array_name(encoding: Encoding, layer: str) -> str:
    return "latent" if len(encoding.layers) == 1 else f"latent_{encoding.layers.index(layer)}"


def _check_name(encoding: Encoding, layer: str) -> str:
    return "crc32" if len(encoding.layers) == 1 else f"crc32_{encoding.layers.index(layer)}"


def _check_space(args: Namespace, encoding: Encoding, images: int) -> None:
    """Refuse before hours of work what the disk cannot hold: the shards, and the matrices made from them."""
    values = sum(encoding.lengths.values())
    size = images * values * np.dtype(args.dtype).itemsize
    free = shutil.disk_usage(args.output_path).free
    log.info("Latent codes: %s values per image, %.2f GB.", f"{size // images:,} bytes of", size / 1e9)
    if 2 * size > free:
        raise UserError(
            f"Latent codes of {images} images ({', '.join(encoding.layers)}, --pool {encoding.pool}, {args.dtype}) take "
            f"{size / 1e9:.1f} GB, and as much again while they are merged; {args.output_path} has {free / 1e9:.1f} GB "
            "free. Free some, choose another --output-path, or use --pool mean or --dtype float16."
        )


def calculate_latents(
    args: Namespace, run: Run, dataset: Dataset, encoding: Encoding
) -> list[tuple[str, str]]:
    """Write ``latents_<name>.npy`` and ``.csv`` of every layer wanted; return the images that could not be read."""
    run.note_caveats(encoding.caveats)
    for path in encoding.inputs:
        run.add_input(path)
    names = {
        layer: latent_name(encoding.stem, layer, encoding.pool, encoding.default) for layer in encoding.layers
    }
    job = (
        next(iter(names.values()))
        if len(names) == 1
        else f"{encoding.stem}@{len(names)}-layers-{encoding.pool}"
    )
    _check_space(args, encoding, len(dataset.table))
    about = {"pool": encoding.pool, "image_size": encoding.image_size, "precision": args.precision}
    layers = encoding.layers[0] if len(names) == 1 else list(encoding.layers)
    settings = {
        "checkpoint": encoding.sha256,
        "dtype": args.dtype,
        "caveat": run.caveat,
        "layer": layers,
    }
    result = run_sharded(
        f"latents_{job}",
        dataset.table[["image_id", "path"]],
        _make_work(args, encoding, run.device),
        output_path=args.output_path,
        settings={**settings, **about, **encoding.settings},
        load=encoding.load,
        batch_size=args.batch_size,
        workers=args.workers,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=f"latents {job}",
    )
    outputs = [
        path
        for name in names.values()
        for path in (latent_file(args.output_path, name), output_file(args.output_path, "latents", name))
    ]
    if is_main_rank() and not result.up_to_date:
        for layer, name in names.items():
            _write_layer(run, encoding, layer, name, result)
        result.finish(outputs)
    for output in outputs:
        run.add_output(output)
    return result.skipped


def _write_layer(run: Run, encoding: Encoding, layer: str, name: str, result: ShardedResult) -> None:
    """Write one layer's matrix and the table that names its rows."""
    path = latent_file(run.output_path, name)
    result.write_matrix(_array_name(encoding, layer), path)
    frame = result.frame()
    run.write_table(
        frame[["image_id"]].assign(
            crc32=frame[_check_name(encoding, layer)],
            layer=layer,
            pool=encoding.pool,
            image_size=encoding.image_size,
            encoder_sha256=encoding.sha256[:SHA_LENGTH],
        ),
        "latents",
        name,
    )
    log.info("Wrote %s (%d x %d, %s)", path, *_shape(path), run.args.dtype)


def _shape(path: Path) -> tuple[int, int]:
    return np.load(path, mmap_mode="r", allow_pickle=False).shape
