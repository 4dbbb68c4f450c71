"""The work of ``latent_analysis.py``: encode images into shards, search, correlate, draw."""

import shutil
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models.autoencoder import WIDTHS, Autoencoder
from models.checkpoints import checkpoint_sha256, find_models, list_checkpoints, load_autoencoder
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.names import HEADLINE_LOSS, LAYERS, LOSSES
from utils.core.processes import is_main_rank, rank, world_size
from utils.core.run import Run
from utils.core.shards import SHARDS_FOLDER, Batch, Work, run_sharded
from utils.core.tables import models_with, output_file, read_table
from utils.data.dataset import Dataset
from utils.data.images import load_pixels
from utils.latents.codes import (
    SHA_LENGTH,
    Latents,
    check_same_images,
    command_for,
    latent_file,
    latent_name,
    open_latents,
    row_checksums,
)
from utils.latents.distinctiveness import (
    Inference,
    distinctiveness_correlations,
    distinctiveness_name,
    distinctiveness_table,
    find_neighbours,
    forget_partial,
    merge_correlations,
)
from utils.latents.figures import (
    PICTURE_PX,
    draw_extremes,
    draw_latent_space,
    draw_scatter,
    pick_extremes,
)
from utils.latents.measure_stage import analyse_measures, chosen_measures
from utils.latents.neighbours import SearchSettings
from utils.latents.space import latent_space_table, principal_components, umap_coordinates

GPU_MEMORY_SHARE = 0.5  # of what is free, for the search
DEFAULT_MEMORY_MB = 384


# ------------------------------------------------------------------------------------------------ which model


def choose_models(args: Namespace) -> list[tuple[str, Path | None]]:
    """Return the (stem, checkpoint) pairs to work on; the checkpoint may be gone when only codes are read.

    Raises:
        UserError: Listing the choices, if there is more than one or none.
    """
    if args.calculate_latents or args.model_names or list_checkpoints(args.output_path):
        return [(path.stem, path) for path in find_models(args, several=False)]
    suffix = latent_name("", args.layer, args.pool)
    there = models_with(args.output_path, "latents")
    stems = [name.removesuffix(suffix) for name in there if name.endswith(suffix)]
    stems = [stem for stem in stems if "@" not in stem]
    if len(stems) == 1:
        return [(stems[0], None)]
    if stems:
        raise UserError(
            f"There are latent codes of several models in {args.output_path}: {', '.join(stems)}. Choose with --model-names."
        )
    raise UserError(
        f"There are no latent codes (latents_<model>{suffix}.npy) and no checkpoint in {args.output_path}. They are written "
        f"by: {command_for(args.layer, args.pool)}"
    )


# ------------------------------------------------------------------------------------------------ latent codes


def code_length(image_size: int, layer: str, pool: str, widths: Sequence[int] = WIDTHS) -> int:
    """Return how many values a code has: 25,088 for conv5 at 224 px without pooling, in the paper's network.

    Args:
        image_size: Side of the square images, in pixels.
        layer: Encoder block, ``conv1`` to ``conv5``.
        pool: ``none`` keeps every position, ``avg`` and ``max`` one value a channel.
        widths: Channels of the encoder's blocks.
    """
    block = LAYERS.index(layer)
    return widths[block] * (1 if pool != "none" else (image_size // 2 ** (block + 1)) ** 2)


def encode(model: Autoencoder, images: torch.Tensor, layer: str, pool: str) -> torch.Tensor:
    """Return (N, D) float32 codes of (N, 3, S, S) images in [0, 1], flattened channel by channel.

    Args:
        model: The autoencoder.
        images: On the model's device.
        layer: Encoder block, ``conv1`` to ``conv5``.
        pool: ``none`` keeps every position, ``avg`` and ``max`` reduce each channel to one value.
    """
    codes = model.encoder(images, until=layer)
    if pool == "avg":
        return codes.mean((2, 3))
    if pool == "max":
        return codes.amax((2, 3))
    return codes.contiguous().flatten(1)


def _make_work(args: Namespace, model: Autoencoder, device: torch.device, name: str) -> Work:
    """Return the function that turns a batch of images into codes."""

    def work(ids: list[str], values: list[np.ndarray]) -> Batch:
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(values)).to(device, memory_format=torch.channels_last)
            codes = encode(model, images, args.layer, args.pool).float().cpu().numpy()
        with np.errstate(over="ignore"):  # reported below, with the image's name
            codes = np.ascontiguousarray(codes.astype(args.dtype))
        bad = [image_id for image_id, row in zip(ids, codes, strict=True) if not np.isfinite(row).all()]
        if bad:
            hint = " They may be too large for --dtype float16." if args.dtype == "float16" else ""
            raise UserError(
                f"The latent codes of {', '.join(bad[:5])} by {name} hold NaN or infinity.{hint} Otherwise the network's "
                "weights are broken: choose another checkpoint with --model-names."
            )
        return Batch([{"crc32": value} for value in row_checksums(codes)], {"latent": codes})

    return work


def _check_space(args: Namespace, images: int, widths: Sequence[int]) -> None:
    """Refuse before hours of work what the disk cannot hold: the shards, and the matrix made from them."""
    values = code_length(args.image_size, args.layer, args.pool, widths)
    size = images * values * np.dtype(args.dtype).itemsize
    free = shutil.disk_usage(args.output_path).free
    log.info("Latent codes: %s values per image, %.2f GB.", f"{size // images:,} bytes of", size / 1e9)
    if 2 * size > free:
        raise UserError(
            f"Latent codes of {images} images ({args.layer}, --pool {args.pool}, {args.dtype}) take {size / 1e9:.1f} GB, "
            f"and as much again while they are merged; {args.output_path} has {free / 1e9:.1f} GB free. Free some, choose "
            "another --output-path, or use --pool avg or --dtype float16."
        )


def calculate_latents(args: Namespace, run: Run, dataset: Dataset, path: Path) -> list[tuple[str, str]]:
    """Write ``latents_<name>.npy`` and ``.csv`` of one checkpoint; return the images that could not be read."""
    model, meta = load_autoencoder(path, run.device, args.image_size)
    model = model.to(memory_format=torch.channels_last)
    run.note_caveats(meta["caveats"])
    run.add_input(path)
    name = latent_name(path.stem, args.layer, args.pool)
    _check_space(args, len(dataset.table), model.widths)
    about = {"layer": args.layer, "pool": args.pool, "image_size": args.image_size}
    settings = {"checkpoint": meta["sha256"], "dtype": args.dtype, "caveat": run.caveat, **about}
    result = run_sharded(
        f"latents_{name}",
        dataset.table[["image_id", "path"]],
        _make_work(args, model, run.device, path.name),
        output_path=args.output_path,
        settings=settings,
        load=partial(load_pixels, size=args.image_size),
        batch_size=args.batch_size,
        workers=args.workers,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=f"latents {name}",
    )
    outputs = [latent_file(args.output_path, name), output_file(args.output_path, "latents", name)]
    if is_main_rank() and not result.up_to_date:
        result.write_matrix("latent", outputs[0])
        table = result.frame().assign(encoder_sha256=meta["sha256"][:SHA_LENGTH], **about)
        run.write_table(table, "latents", name)
        result.finish(outputs)
        log.info("Wrote %s (%d x %d, %s)", outputs[0], *_shape(outputs[0]), args.dtype)
    for output in outputs:
        run.add_output(output)
    return result.skipped


def _shape(path: Path) -> tuple[int, int]:
    return np.load(path, mmap_mode="r").shape


# ------------------------------------------------------------------------------------------------ distinctiveness


def neighbour_search_settings(args: Namespace, device: torch.device, name: str) -> SearchSettings:
    """Turn the flags into a search's settings; on a GPU, half of its free memory is used unless told otherwise."""
    memory = (args.memory_mb or DEFAULT_MEMORY_MB) * 2**20
    if device.type == "cuda" and args.memory_mb is None:
        memory = int(torch.cuda.mem_get_info(device)[0] * GPU_MEMORY_SHARE)
    return SearchSettings(
        metric=args.metric,
        neighbours=args.neighbours,
        device=str(device),
        memory_bytes=memory,
        rank=rank(),
        world=world_size(),
        partial_folder=Path(args.output_path) / SHARDS_FOLDER / f"distinctiveness_{name}",
    )


def read_codes(args: Namespace, run: Run, dataset: Dataset, stem: str, path: Path | None) -> Latents:
    """Open the codes of a model and check that they are of this checkpoint and these images."""
    command = command_for(args.layer, args.pool)
    encoder = None if path is None else {"stem": path.name, "sha256": checkpoint_sha256(path)}
    name = latent_name(stem, args.layer, args.pool)
    latents = open_latents(args.output_path, name, encoder, command)
    run.note_caveats(latents.caveats)
    run.add_input(latents.path)
    skipped = output_file(args.output_path, "skipped_images")
    left_out: set[str] = set()
    if skipped.exists():
        table = read_table(skipped, "skipped_images")
        left_out = set(table.loc[table["stage"] == "latent_analysis", "image_id"]) - set(latents.image_ids)
    check_same_images(latents, set(dataset.table["image_id"]) - left_out, dataset.scores_csv)
    return latents


def analyse_distinctiveness(
    args: Namespace, run: Run, dataset: Dataset, stem: str, path: Path | None
) -> tuple[Latents, pd.DataFrame, pd.DataFrame, pd.DataFrame | None] | None:
    """Search, write ``distinctiveness_<name>.csv``, and correlate; None on ranks other than 0.

    Returns:
        The codes, the table, its correlations (with ``model``), and the model's losses where there are any.
    """
    latents = read_codes(args, run, dataset, stem, path)
    name = distinctiveness_name(
        latent_name(stem, args.layer, args.pool), args.metric, args.neighbours, args.within_category
    )
    about = dataset.table.set_index("image_id").loc[latents.image_ids].reset_index()
    if args.within_category and (about["category"] == "").all():
        raise UserError(
            f"--within-category: {dataset.scores_csv} has no categories. Search among all images."
        )
    settings = neighbour_search_settings(args, run.device, name)
    with tqdm(
        total=len(latents.matrix), desc=f"neighbours {name}", unit="image", disable=not is_main_rank()
    ) as bar:
        categories = about["category"] if args.within_category else None
        found = find_neighbours(latents, settings, categories, bar.update)
    if found is None:
        return None
    table = distinctiveness_table(latents, found, about, settings)
    run.write_table(table, "distinctiveness", name)
    forget_partial(settings)
    losses = _losses(args, run, stem)
    rows = distinctiveness_correlations(
        table, about, losses, Inference(args.resamples, args.seed, args.cluster)
    )
    if chosen_measures(args.measure):
        more = analyse_measures(args, run, latents, about, losses)
        rows = pd.concat([rows, more], ignore_index=True)
    rows.insert(0, "model", name)
    return latents, table, rows, losses


def _losses(args: Namespace, run: Run, stem: str) -> pd.DataFrame | None:
    """Read the model's reconstruction errors, if stage 2 has written them."""
    if output_file(args.output_path, "test_loss", stem).exists():
        return run.read_table("test_loss", stem)
    log.info(
        "No test_loss_%s.csv: correlations with reconstruction error held constant need: python autoencoder_test.py",
        stem,
    )
    return None


def write_correlations(args: Namespace, run: Run, rows: list[pd.DataFrame]) -> pd.DataFrame:
    """Bring ``distinctiveness_correlations.csv`` up to date with the models just analysed."""
    path = output_file(args.output_path, "distinctiveness_correlations")
    old: Any = read_table(path, "distinctiveness_correlations") if path.exists() else None
    keep = models_with(args.output_path, "distinctiveness")
    merged = merge_correlations(pd.concat(rows, ignore_index=True), old, keep)
    run.write_table(merged, "distinctiveness_correlations")
    return merged


# ------------------------------------------------------------------------------------------------ figures


def analyse_models(args: Namespace, run: Run, dataset: Dataset, models: list) -> None:
    """Analyse the distinctiveness of every model's codes, draw, and merge the correlations."""
    analysed = []
    for stem, path in models:
        with run.one_model():
            result = analyse_distinctiveness(args, run, dataset, stem, path)
            if result is not None:
                analysed.append(result[2].assign(caveat=run.caveat))
                draw_codes(args, run, dataset, *result)
    if not analysed:  # ranks other than 0
        return
    merged = write_correlations(args, run, analysed)
    for row in merged[merged["model"].isin([rows["model"].iloc[0] for rows in analysed])].itertuples():
        if row.measure == "distinctiveness" and row.held_constant == "":
            log.info(
                "%s: rho of distinctiveness with memorability %.3f [%.3f, %.3f], n = %d",
                row.model,
                row.rho,
                row.ci_low,
                row.ci_high,
                row.n,
            )


def draw_codes(
    args: Namespace,
    run: Run,
    dataset: Dataset,
    latents: Latents,
    table: pd.DataFrame,
    rows: pd.DataFrame,
    losses: pd.DataFrame | None,
) -> None:
    """Write the figures of one model, and the coordinates behind the map."""
    name = rows["model"].iloc[0]
    codes = latents.path.stem.removeprefix("latents_")
    projection = principal_components(latents.matrix)
    space = latent_space_table(table, projection, umap_coordinates(projection.scores, args.seed))
    run.write_table(space, "latent_space", codes)
    run.save_figure(
        draw_latent_space(space, projection, codes, "memorability score"),
        f"latent_space_{codes}",
    )
    groups = pick_extremes(table)
    wanted = {name for rows in groups.values() for name in (*rows["image_id"], *rows["nearest_image_id"])}
    figure = draw_extremes(groups, read_pictures(dataset, wanted), name, args.metric)
    run.save_figure(figure, f"distinctive_images_{name}", formats=("png",))
    measured = [] if losses is None else [loss for loss in LOSSES if loss in losses.columns]
    loss = HEADLINE_LOSS if HEADLINE_LOSS in measured else measured[0] if measured else None
    run.save_figure(draw_scatter(table, rows, losses, name, loss), f"distinctiveness_{name}")


def read_pictures(dataset: Dataset, wanted: set[str]) -> dict[str, np.ndarray | str]:
    """Read a few images as the network sees them, small; say why where that fails."""
    pictures = {}
    chosen = dataset.table[dataset.table["image_id"].isin(wanted)]
    for image_id, path in zip(chosen["image_id"], chosen["path"], strict=True):
        try:
            pictures[image_id] = load_pixels(path, PICTURE_PX)
        except ImageError as error:
            pictures[image_id] = error.reason
    return pictures
