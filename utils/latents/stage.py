"""The work of ``latent_analysis.py`` on codes that are there: search, correlate, draw."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models.checkpoints import checkpoint_sha256, find_models, list_checkpoints
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.names import HEADLINE_LOSS, LAYERS, LOSSES
from utils.core.processes import is_main_rank, rank, world_size
from utils.core.run import Run
from utils.core.shards import SHARDS_FOLDER
from utils.core.tables import models_with, output_file, read_table
from utils.data.dataset import Dataset
from utils.data.images import load_pixels
from utils.latents.codes import (
    DEFAULT_LAYER,
    DEFAULT_POOL,
    CodeSet,
    Latents,
    check_same_images,
    command_for,
    find_code_model,
    latent_name,
    open_latents,
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
from utils.latents.encodings import choose_layers
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


# ------------------------------------------------------------------------------------------------ which codes


def choose_models(args: Namespace) -> list[tuple[str, Path | None]]:
    """Return the (stem, checkpoint) pairs to work on; the checkpoint may be gone when only codes are read.

    Raises:
        UserError: Listing the choices, if there is more than one or none.
    """
    if args.calculate_latents:
        return [(path.stem, path) for path in find_models(args, several=False)]
    if args.model_names:
        return [find_code_model(args, name) for name in args.model_names]
    if list_checkpoints(args.output_path):
        return [(path.stem, path) for path in find_models(args, several=False)]
    layer, pool = (args.layer or [DEFAULT_LAYER])[0], args.pool or DEFAULT_POOL
    suffix = latent_name("", layer, pool)
    with_latents = models_with(args.output_path, "latents")
    stems = [name.removesuffix(suffix) for name in with_latents if name.endswith(suffix)]
    stems = [stem for stem in stems if "@" not in stem]
    if len(stems) == 1:
        return [(stems[0], None)]
    if stems:
        raise UserError(
            f"There are latent codes of several models in {args.output_path}: {', '.join(stems)}. Choose with --model-names."
        )
    raise UserError(
        f"There are no latent codes (latents_<model>{suffix}.npy) and no checkpoint in {args.output_path}. They are written "
        f"by: {command_for(layer, pool)}"
    )


def code_sets(args: Namespace, models: list[tuple[str, Path | None]]) -> list[CodeSet]:
    """Return the codes of autoencoders that the flags ask for, a set per model and layer."""
    pool, sets = args.pool or DEFAULT_POOL, []
    for stem, path in models:
        encoder = None if path is None else {"stem": path.name, "sha256": checkpoint_sha256(path)}
        for layer in choose_layers(args.layer, LAYERS, DEFAULT_LAYER, f"The autoencoder {stem}"):
            name = latent_name(stem, layer, pool)
            sets.append(CodeSet(stem, name, command_for(layer, pool), encoder, layer))
    return sets


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


def read_codes(args: Namespace, run: Run, dataset: Dataset, codes: CodeSet) -> Latents:
    """Open codes and check that they are of this encoder and these images."""
    latents = open_latents(args.output_path, codes.name, codes.encoder, codes.command)
    run.note_caveats(latents.caveats)
    run.add_input(latents.path)
    skipped = output_file(args.output_path, "skipped_images")
    left_out: set[str] = set()
    if skipped.exists():
        table = read_table(skipped, "skipped_images")
        left_out = set(table.loc[table["stage"] == "latent_analysis", "image_id"]) - set(latents.image_ids)
    check_same_images(latents, set(dataset.table["image_id"]) - left_out, dataset.scores_csv, codes.command)
    return latents


def analyse_distinctiveness(
    args: Namespace, run: Run, dataset: Dataset, codes: CodeSet
) -> tuple[Latents, pd.DataFrame, pd.DataFrame, pd.DataFrame | None] | None:
    """Search, write ``distinctiveness_<name>.csv``, and correlate; None on ranks other than 0.

    Without memorability scores nothing is correlated.

    Returns:
        The codes, the table, its correlations (with ``model``), and the model's losses where there are any.
    """
    latents = read_codes(args, run, dataset, codes)
    name = distinctiveness_name(codes.name, args.metric, args.neighbours, args.within_category)
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
        neighbours = find_neighbours(latents, settings, categories, bar.update)
    if neighbours is None:
        return None
    table = distinctiveness_table(latents, neighbours, about, settings)
    run.write_table(table, "distinctiveness", name)
    forget_partial(settings)
    losses = _losses(args, run, codes.stem) if dataset.has_scores else None
    rows = pd.DataFrame()
    if dataset.has_scores:
        inference = Inference(args.resamples, args.seed, args.cluster)
        rows = distinctiveness_correlations(table, about, losses, inference)
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
    old = run.read_earlier("distinctiveness_correlations")
    keep = models_with(args.output_path, "distinctiveness")
    merged = merge_correlations(pd.concat(rows, ignore_index=True), old, keep)
    run.write_table(merged, "distinctiveness_correlations")
    return merged


# ------------------------------------------------------------------------------------------------ figures


def analyse_code_sets(args: Namespace, run: Run, dataset: Dataset, sets: list[CodeSet]) -> None:
    """Analyse the distinctiveness of every set of codes, draw, and merge the correlations."""
    analysed = []
    for codes in sets:
        with run.one_model():
            result = analyse_distinctiveness(args, run, dataset, codes)
            if result is not None and not dataset.has_scores:
                _draw_extremes(args, run, dataset, result[1], codes.name)
                continue
            if result is not None:
                analysed.append(result[2].assign(caveat=run.caveat))
                # of many layers, the figure along depth says more than a map of each
                if len(sets) == 1 or codes.name == codes.stem:
                    draw_codes(args, run, dataset, *result)
    if not dataset.has_scores:
        log.info(
            "Left out for want of scores: %s",
            output_file(args.output_path, "distinctiveness_correlations").name,
        )
    if not analysed:  # ranks other than 0, or no scores
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
    _draw_extremes(args, run, dataset, table, name)
    measured = [] if losses is None else [loss for loss in LOSSES if loss in losses.columns]
    loss = HEADLINE_LOSS if HEADLINE_LOSS in measured else measured[0] if measured else None
    run.save_figure(draw_scatter(table, rows, losses, name, loss), f"distinctiveness_{name}")


def _draw_extremes(args: Namespace, run: Run, dataset: Dataset, table: pd.DataFrame, name: str) -> None:
    """Draw the most and the least distinctive images beside their nearest others, where there are pictures."""
    if (dataset.table["path"] != "").any():
        groups = pick_extremes(table)
        wanted = {name for rows in groups.values() for name in (*rows["image_id"], *rows["nearest_image_id"])}
        figure = draw_extremes(groups, read_pictures(dataset, wanted), name, args.metric)
        run.save_figure(figure, f"distinctive_images_{name}", formats=("png",))


def read_pictures(dataset: Dataset, wanted: set[str]) -> dict[str, np.ndarray | str]:
    """Read a few images as the network sees them, small; say why where that fails."""
    pictures: dict[str, np.ndarray | str] = {}
    chosen = dataset.table[dataset.table["image_id"].isin(wanted)]
    for image_id, path in zip(chosen["image_id"], chosen["path"], strict=True):
        try:
            pictures[image_id] = load_pixels(path, PICTURE_PX)
        except ImageError as error:
            pictures[image_id] = error.reason
    return pictures
