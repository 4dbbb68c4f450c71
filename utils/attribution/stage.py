"""The steps of the attribution stage: compute in shards, merge, say how exact, draw, check."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from models.score_network import prepare_network
from utils.attribution.gradients import (
    Settings,
    as_batch,
    integrated_gradients,
    internal_batch_size,
)
from utils.attribution.regions import REGION_COLUMNS, region_frame
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import CAVEAT_COLUMN
from utils.core.shards import Batch, ShardedResult, run_sharded
from utils.core.tables import kept_rows, output_file
from utils.data.dataset import limit_rows
from utils.data.images import load_pixels

if TYPE_CHECKING:
    from torch import nn

    from utils.core.run import Run
    from utils.scenes.cache import SceneCache

SCRIPT = "model_interpretation_IG.py"


def attribute(
    run: Run,
    network: nn.Module,
    images: pd.DataFrame,
    settings: Settings,
    model: str,
    identity: dict[str, str],
) -> ShardedResult:
    """Compute the attributions of all images, shard by shard.

    Args:
        run: The run; its arguments say how images are read.
        network: Maps (N, 3, S, S) images to (N,) scores.
        images: ``image_id`` and ``path``.
        settings: How attributions are computed.
        model: The checkpoint's stem.
        identity: What identifies the weights.

    Returns:
        Rows and the array ``maps``, see :func:`utils.attribution.gradients.as_batch`.
    """
    args = run.args
    prepared = prepare_network(network, run.device)
    size = internal_batch_size(settings, run.device)

    def work(ids: list[str], pixels: list[np.ndarray]) -> Batch:
        tensor = torch.from_numpy(np.stack(pixels)).to(run.device)
        return as_batch(integrated_gradients(prepared, tensor, ids, settings))

    return run_sharded(
        f"ig_{model}",
        images[["image_id", "path"]],
        work,
        output_path=args.output_path,
        settings={**asdict(settings), **identity, "image_size": args.image_size, "device": run.device.type},
        load=partial(load_pixels, size=args.image_size),
        batch_size=size,
        workers=args.workers,
        # About a minute's work: eight images of 50 steps on two cores.
        shard_size=2 * size if run.device.type == "cpu" else 8 * size,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=f"attributions, {settings.steps} steps",
    )


def find_regions(run: Run, images: pd.DataFrame) -> SceneCache | None:
    """Return where objects and foreground are, as far as anybody has looked; with ``--detect``, look.

    Args:
        run: The run.
        images: ``image_id`` and ``path``.

    Returns:
        Detections and masks; None where there are none, and on the ranks that do not merge.
    """
    from utils.core.names import DETECTORS, SEGMENTERS
    from utils.scenes.cache import check_min_score, load_scene_cache
    from utils.scenes.networks import SceneSettings, ensure_scene_cache, scene_networks_cached

    args = run.args
    check_min_score(args.min_score)
    detector, segmenter = args.detector or DETECTORS["heavy"], args.segmenter or SEGMENTERS["heavy"]
    detect, weights = args.detect, args.weights
    if detect and weights == "available":
        detect, weights = scene_networks_cached(detector, segmenter, "objects and foreground"), "pretrained"
    if detect:
        options = {"device": run.device, "workers": args.workers, "on_error": args.on_error}
        settings = SceneSettings(detector, segmenter, weights, args.seed, **options)
        cache, _ = ensure_scene_cache(images[["image_id", "path"]], args.output_path, settings)
    else:
        cache = load_scene_cache(args.output_path, args.detector, args.segmenter)
    if cache is not None and cache.random:
        run.note_random(cache.random_parts)
    known = 0 if cache is None else sum(image_id in cache for image_id in images["image_id"])
    if known < len(images):
        log.info(
            "Objects and foreground are known for %d of %d images; their columns stay empty for the others. To fill "
            "them run this command again (the maps are kept) with --detect, or after: "
            "python feature_analysis.py --calculate-features",
            known,
            len(images),
        )
    return cache


def merge(
    run: Run, result: ShardedResult, images: pd.DataFrame, model: str, cache: SceneCache | None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Write maps and table.

    Args:
        run: The run.
        result: What :func:`attribute` returned.
        images: ``image_id, path, category, subcategory, memorability, split``.
        model: The checkpoint's stem.
        cache: Detections and masks, measured anew at each run.

    Returns:
        The table's rows with their ``path``, and the stored maps, row by row.
    """
    folder = run.args.output_path
    table, matrix = output_file(folder, "ig", model), folder / f"ig_{model}.npy"
    if result.up_to_date:
        known = [*REGION_COLUMNS, CAVEAT_COLUMN, "category", "subcategory", "memorability", "split"]
        # Not its caveats: regions are measured anew, perhaps with other networks than those the old table names.
        numbers = run.read_table("ig", model, inherit=False).drop(columns=known, errors="ignore")
    else:
        numbers = result.frame()
        result.write_matrix("maps", matrix)
    maps = np.load(matrix, mmap_mode="r")
    frame = numbers.merge(images, on="image_id", validate="one_to_one")
    if not len(maps) == len(numbers) == len(frame):
        raise UserError(
            f"{matrix} holds {len(maps)} maps and {table} {len(numbers)} rows, which do not belong together. "
            f"Do both again with: python {SCRIPT} --save --overwrite"
        )
    frame = pd.concat([frame, region_frame(frame["image_id"], maps, cache, run.args.min_score)], axis=1)
    run.write_table(frame[[column.name for column in TABLES["ig"].columns]], "ig", model)
    result.finish([run.add_output(matrix), table])
    return frame, maps


def report(run: Run, frame: pd.DataFrame, settings: Settings) -> None:
    """Say how exact the attributions are, and what could not be measured."""
    failed = frame.loc[~frame["converged"], "image_id"].tolist()
    doubled = int((frame["steps"] > settings.steps).sum())
    run.count(images=len(frame), doubled=doubled, not_converged=len(failed))
    median = frame["convergence_delta"].abs().median()
    log.info(
        "%d maps; median |delta| %.2g (score); steps doubled for %d images.", len(frame), median, doubled
    )
    if failed:
        log.warning(
            "The attributions of %d images do not add up within %g of the change in prediction, even with more "
            "steps (column converged), e.g. %s. Raise --steps or --max-doublings.",
            len(failed),
            settings.tolerance,
            ", ".join(failed[:3]),
        )
    empty = frame[["positive_share", "share_inside_objects", "share_inside_foreground"]].isna().sum()
    if empty.any():
        shown = ", ".join(f"{name} {count}" for name, count in empty.items() if count)
        log.info("Empty cells: %s.", shown)


def draw(run: Run, frame: pd.DataFrame, maps: np.ndarray, model: str) -> None:
    """Draw the mean map and the most and least memorable images."""
    from utils.attribution.figures import draw_set

    load = partial(load_pixels, size=run.args.image_size)
    paths = draw_set(frame, maps, load, run.args.output_path, model, top_k=run.args.top_k, caveat=run.caveat)
    for path in paths:
        run.add_output(path)
    log.info("Wrote %d pictures in %s", len(paths), paths[0].parent)


def check(run: Run, network: nn.Module, frame: pd.DataFrame, settings: Settings, model: str) -> None:
    """Test the attributions on a few images; write ``ig_checks.csv`` and its figure, say what came out.

    Args:
        run: The run.
        network: A :class:`models.score_network.ScoreNetwork`.
        frame: The images, with ``image_id`` and ``path``.
        settings: How attributions were computed.
        model: The checkpoint's stem.
    """
    from utils.attribution.checks import check_attributions, summarise_checks
    from utils.attribution.figures import draw_checks

    args = run.args
    chosen = limit_rows(frame, args.check_images)
    log.info("Checking the attributions on %d images", len(chosen))
    pixels = torch.from_numpy(np.stack([load_pixels(path, args.image_size) for path in chosen["path"]]))
    rows = check_attributions(network, pixels, chosen["image_id"].tolist(), settings, run.device)
    checks = pd.DataFrame(rows).assign(model=model)
    for passed, text in summarise_checks(checks):
        log.log(logging.INFO if passed else logging.WARNING, "%s", text)
    figure = draw_checks(checks, f"Can the attributions of {model} be trusted? ({len(chosen)} images)")
    run.save_figure(figure, f"ig_checks_{model}")
    if output_file(args.output_path, "ig_checks").exists():
        old = run.read_table("ig_checks", inherit=False)
        checks = pd.concat([kept_rows(old, old["model"] != model), checks], ignore_index=True)
    run.write_table(checks, "ig_checks")
