"""The work of ``model_interpretation_IG.py``: compute in shards, merge, say how exact, draw, check."""

import logging
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from models.autoencoder import check_image_size
from models.checkpoints import checkpoint_sha256, load_autoencoder, load_mlp, mlp_file
from models.encoders import LayerCodes
from models.score_network import ScoreNetwork, prepare_network
from utils.attribution.agreement import agreement_table, summarise_agreement
from utils.attribution.checks import PASSED, check_attributions, summarise_checks
from utils.attribution.figures import draw_agreement, draw_cascade, draw_checks, draw_set, gallery_paths
from utils.attribution.gradients import (
    EXPECTED,
    REFERENCES,
    AttributionSettings,
    as_batch,
    integrated_gradients,
    internal_batch_size,
)
from utils.attribution.layer_figure import draw_single_layers
from utils.attribution.regions import REGION_COLUMNS, region_frame
from utils.attribution.released import LABEL, absolute_gradients, check_released_flags
from utils.core.contract import TABLES
from utils.core.device import full_float32, keep_freed_memory
from utils.core.errors import ImageError, UserError
from utils.core.figures import show_or_say
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.matrix_files import map_matrix
from utils.core.names import CAVEAT_COLUMN, DETECTORS, SEGMENTERS, TRAIN
from utils.core.precision import BF16_CAVEAT, refuse_reduced_precision
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.shard_files import array_digest
from utils.core.shards import Batch, ShardedResult, run_sharded
from utils.core.tables import kept_rows, models_with, output_file, read_csv
from utils.data.dataset import limit_rows, load_dataset, require_score_table
from utils.data.image_lists import named_images
from utils.data.splits import load_splits
from utils.latents.codes import find_code_models, refuse_codes_alone
from utils.latents.encodings import load_from_card, picture_reader
from utils.scenes.cache import SceneCache, check_min_score, load_scene_cache
from utils.scenes.networks import SceneSettings, ensure_scene_cache, scene_networks_cached
from utils.statistics.clusters import find_clusters

SCRIPT = "model_interpretation_IG"
AGAIN = f"Make it anew with: python {SCRIPT}.py --save --overwrite"


@dataclass(frozen=True)
class References:
    """The training images that Expected Gradients averages over.

    Attributes:
        image_ids: Their names.
        pixels: (R, 3, S, S) float, [0, 1].
    """

    image_ids: list[str]
    pixels: torch.Tensor


def load_references(args: Namespace, images: pd.DataFrame, network: nn.Module) -> References | None:
    """Draw the reference images from the training split, where ``--baseline expected`` asks for them.

    Args:
        args: With ``baseline, seed, image_size``.
        images: The whole data set, with ``image_id, path, split``.
        network: What the pictures are read for.

    Raises:
        UserError: No training image can be read.
    """
    if EXPECTED not in args.baseline:
        return None
    pool = images[images["split"] == TRAIN].reset_index(drop=True)
    order = np.random.default_rng(args.seed).permutation(len(pool))
    load = picture_reader(network, args.image_size)
    names: list[str] = []
    pixels: list[np.ndarray] = []
    for row in order:
        if len(names) == REFERENCES:
            break
        try:
            pixels.append(load(pool["path"][row]))
        except ImageError as error:
            log.warning("%s is no reference: %s", pool["image_id"][row], error.reason)
            continue
        names.append(pool["image_id"][row])
    if not names:
        raise UserError(
            "--baseline expected averages over training images, and none can be read. Choose another."
        )
    return References(names, torch.from_numpy(np.stack(pixels)))


def attribute(
    run: Run,
    network: nn.Module,
    images: pd.DataFrame,
    settings: AttributionSettings,
    model: str,
    identity: dict[str, str],
    references: References | None = None,
) -> ShardedResult:
    """Compute the attributions of all images, shard by shard.

    Args:
        run: The run; its arguments say how images are read.
        network: Maps (N, 3, S, S) images to (N,) scores.
        images: ``image_id`` and ``path``.
        settings: How attributions are computed.
        model: What the job is called after: the checkpoint's stem, for further baselines with the baseline's name.
        identity: What identifies the weights.
        references: The training images of Expected Gradients; None for other baselines.

    Returns:
        Rows and the array ``maps``, see :func:`utils.attribution.gradients.as_batch`.
    """
    args = run.args
    prepared = prepare_network(network, run.device)
    size = internal_batch_size(settings, run.device)
    pixels_of_references = None if references is None else references.pixels.to(run.device)
    drawn = {} if references is None else {"references": references.image_ids}
    if references is not None:  # every map hangs on what they show, not on their names alone
        drawn["references_sha256"] = [array_digest(references.pixels.numpy())]

    def work(ids: list[str], pixels: list[np.ndarray]) -> Batch:
        tensor = torch.from_numpy(np.stack(pixels)).to(run.device)
        if args.recipe == "released":
            return as_batch(absolute_gradients(prepared, tensor, ids, settings))
        return as_batch(integrated_gradients(prepared, tensor, ids, settings, pixels_of_references))

    return run_sharded(
        f"ig_{model}",
        images[["image_id", "path"]],
        work,
        output_path=args.output_path,
        settings={
            **asdict(settings),
            **identity,
            **drawn,
            "image_size": args.image_size,
            "device": run.device.type,
        },
        load=picture_reader(network, args.image_size),
        batch_size=size,
        workers=args.workers,
        # About a minute's work: eight images of 50 steps on two cores.
        shard_size=2 * size if run.device.type == "cpu" else 8 * size,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=f"attributions, {settings.baseline} baseline, {settings.steps} steps",
    )


def find_regions(run: Run, images: pd.DataFrame) -> SceneCache | None:
    """Return where objects and foreground are, as far as anybody has looked; with ``--detect``, look.

    Args:
        run: The run.
        images: ``image_id`` and ``path``.

    Returns:
        Detections and masks; None where there are none, and on the ranks that do not merge.
    """
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
    if cache is not None and cache.in_bf16:
        run.note_caveats([BF16_CAVEAT])
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
    maps = map_matrix(matrix, AGAIN, 3)
    frame = numbers.merge(images, on="image_id", validate="one_to_one")
    if not len(maps) == len(numbers) == len(frame):
        raise UserError(
            f"{matrix} holds {len(maps)} maps and {table} {len(numbers)} rows, which do not belong together. "
            + AGAIN
        )
    frame = pd.concat([frame, region_frame(frame["image_id"], maps, cache, run.args.min_score)], axis=1)
    run.write_table(frame[[column.name for column in TABLES["ig"].columns]], "ig", model)
    result.finish([run.add_output(matrix), table])
    return frame, maps


def report(run: Run, frame: pd.DataFrame, settings: AttributionSettings) -> None:
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
            "The attributions of %d images do not add up within %g of the change in prediction, even with more steps "
            "(column converged), e.g. %s. Where that change is close to 0, nothing can be said of the image against "
            "this baseline: try another. Else raise --steps or --max-doublings.",
            len(failed),
            settings.tolerance,
            ", ".join(failed[:3]),
        )
    empty = frame[["positive_share", "share_inside_objects", "share_inside_foreground"]].isna().sum()
    if empty.any():
        shown = ", ".join(f"{name} {count}" for name, count in empty.items() if count)
        log.info("Empty cells: %s.", shown)


def draw_attributions(
    run: Run, network: nn.Module, frame: pd.DataFrame, maps: np.ndarray, model: str
) -> None:
    """Draw the mean map and the most and least memorable images."""
    load = picture_reader(network, run.args.image_size)
    paths = draw_set(frame, maps, load, run.args.output_path, model, top_k=run.args.top_k, caveat=run.caveat)
    for path in paths:
        run.add_output(path)
    log.info("Wrote %d pictures in %s", len(paths), paths[0].parent)


def check(
    run: Run,
    network: ScoreNetwork,
    frame: pd.DataFrame,
    settings: AttributionSettings,
    model: str,
    references: References | None = None,
) -> None:
    """Test the attributions on a few images; write ``ig_checks.csv``, ``ig_verdicts.csv`` and figures, say what came out.

    Args:
        run: The run.
        network: A :class:`models.score_network.ScoreNetwork`.
        frame: The images, with ``image_id, path`` and what clusters are made of.
        settings: How attributions were computed.
        model: The checkpoint's stem.
        references: The training images of Expected Gradients.
    """
    args = run.args
    chosen = limit_rows(frame, args.check_images).reset_index(drop=True)
    log.info("Checking the attributions on %d images", len(chosen))
    load = picture_reader(network, args.image_size)
    pixels = torch.from_numpy(np.stack([load(path) for path in chosen["path"]]))
    drawn = None if references is None else references.pixels.to(run.device)
    found = check_attributions(network, pixels, chosen["image_id"].tolist(), settings, run.device, drawn)
    checks = pd.DataFrame(found.rows)
    clustering = find_clusters(chosen, args.cluster)
    labels = None
    if clustering.labels is not None:
        labels = dict(zip(chosen["image_id"], clustering.labels.loc[chosen.index], strict=True))
    verdicts = summarise_checks(checks, labels)
    for verdict, text in zip(verdicts["verdict"], verdicts["sentence"], strict=True):
        log.log(logging.INFO if verdict == PASSED else logging.WARNING, "%s", text)
    figure = draw_checks(
        checks, verdicts, f"Can the attributions of {model} be trusted? ({len(chosen)} images)"
    )
    run.save_figure(figure, f"ig_checks_{model}")
    shown = pixels[: found.cascade.shape[1]].numpy()
    figure = draw_cascade(
        shown, found.cascade, found.levels, f"Maps of {model} while its weights are shuffled"
    )
    run.save_figure(figure, f"ig_cascade_{model}")
    run.save_figure(
        draw_single_layers(checks, f"Maps of {model} while one layer is shuffled"), f"ig_layers_{model}"
    )
    for table, rows in (("ig_checks", checks), ("ig_verdicts", verdicts.drop(columns="sentence"))):
        rows = rows.assign(model=model)
        old = run.read_earlier(table)
        if old is not None:
            rows = pd.concat([kept_rows(old, old["model"] != model), rows], ignore_index=True)
        run.write_table(rows, table)


def compare_baselines(
    run: Run, frame: pd.DataFrame, maps: np.ndarray, others: dict[str, ShardedResult], model: str
) -> None:
    """Write the maps of further baselines and how far they agree: ``ig_baselines_<model>.csv`` and its figure.

    Args:
        run: The run.
        frame: The images of the first baseline's maps, row by row.
        maps: (N, S, S) the first baseline's maps.
        others: What :func:`attribute` returned for each further baseline.
        model: The checkpoint's stem.
    """
    found, common = {run.args.baseline[0]: (frame["image_id"].tolist(), maps)}, set(frame["image_id"])
    for baseline, result in others.items():
        matrix, rows = run.args.output_path / f"ig_{model}@{baseline}.npy", result.folder / "rows.csv"
        if not result.up_to_date:
            result.write_matrix("maps", matrix)
            with atomic_path(rows) as temporary:
                result.frame().to_csv(temporary, index=False)
        result.finish([run.add_output(matrix), rows])
        numbers = read_csv(rows, text_columns=["image_id"])
        failed = int((numbers["converged"].astype(str) != "True").sum())
        log.info("Baseline %s: %d maps, %d of them not within the tolerance.", baseline, len(numbers), failed)
        found[baseline] = (numbers["image_id"].tolist(), map_matrix(matrix, AGAIN, 3))
        common &= set(numbers["image_id"])
    names = sorted(common)
    aligned = {
        baseline: _Rows(kept, [ids.index(name) for name in names]) for baseline, (ids, kept) in found.items()
    }
    table = agreement_table(aligned, names)
    for agree, text in summarise_agreement(table):
        log.log(logging.INFO if agree else logging.WARNING, "%s", text)
    run.write_table(table, "ig_baselines", model)
    title = f"Do the maps of {model} hang on the baseline? (median rho, {len(names)} images)"
    run.save_figure(draw_agreement(table, title), f"ig_baselines_{model}")


class _Rows:
    """Rows of a matrix on disk, in another order, read when they are asked for."""

    def __init__(self, matrix: np.ndarray, places: list[int]) -> None:
        self.matrix, self.places = matrix, places

    def __getitem__(self, position: int) -> np.ndarray:
        return self.matrix[self.places[position]]


def ig_settings(args: Namespace) -> AttributionSettings:
    """Collect the flags that decide how attributions are computed."""
    names = (
        "steps",
        "method",
        "internal_batch_size",
        "smooth",
        "tolerance",
        "max_doublings",
        "seed",
    )
    return AttributionSettings(**{name: getattr(args, name) for name in names}, baseline=args.baseline[0])


def load_network(run: Run, args: Namespace) -> tuple[ScoreNetwork, str, dict]:
    """Load encoder and head as one network on the CPU; return it, the checkpoint's stem and what identifies both."""
    (stem, path), *others = find_code_models(args)
    if others:
        names = ", ".join(f"{model}.pth" for model in (stem, *(other for other, _ in others)))
        raise UserError(
            f"One model is explained at a time, found {names} in --model-names. Name one of them."
        )
    head_path = mlp_file(args.output_path, stem)
    if path is None:
        refuse_codes_alone(args.output_path, stem)
        layer, encoder = load_from_card(args.output_path, stem)
        head, meta = load_mlp(head_path, encoder)
        network = ScoreNetwork(layer, head).eval()
    else:
        check_image_size(args.image_size)
        autoencoder, encoder = load_autoencoder(path, image_size=args.image_size)
        head, meta = load_mlp(head_path, encoder)
        if meta.get("image_size", args.image_size) != args.image_size:
            raise UserError(
                f"{head_path} was trained on images of {meta['image_size']} px, but --image-size is {args.image_size}. "
                f"Use --image-size {meta['image_size']}."
            )
        network = ScoreNetwork(autoencoder.encoder, head).eval()
        run.add_input(path)
    run.note_caveats([*encoder["caveats"], *meta.get("caveats", [])])
    run.add_input(head_path)
    identity = {"encoder": encoder["sha256"], "mlp": checkpoint_sha256(head_path)}
    return network, stem, identity


def select_images(
    run: Run, args: Namespace, network: nn.Module
) -> tuple[pd.DataFrame, References | None, list[tuple[str, str]]]:
    """Return the images to attribute (``image_id, path``, scores, split), references, and what is wrong with the data."""
    # --limit counts among the chosen images, not among all, of which the test split is less than a third.
    dataset = load_dataset(Namespace(**{**vars(args), "limit": None}))
    dataset.note_on(run)
    table = load_splits(dataset, args.output_path, args.seed)
    known = dataset.table[["image_id", "path", "group"]]
    table = table.merge(known, on="image_id", validate="one_to_one")
    references = load_references(args, table, network)
    if args.image_ids:
        table = named_images(table, args.image_ids, dataset.name)
    elif args.split != "all":
        table = table[table["split"] == args.split].reset_index(drop=True)
    if table.empty:
        raise UserError(
            f"No image of {dataset.name} is in the {args.split} split. Choose another with --split, or all."
        )
    return limit_rows(table, args.limit), references, dataset.skipped


def save(run: Run, args: Namespace) -> None:
    """Compute and write everything."""
    require_score_table(args, "The head, whose predictions are attributed,")
    refuse_reduced_precision(
        args, "Attributions", "those in bf16 rank a picture's pixels otherwise (docs/method.md, Precision)"
    )
    keep_freed_memory()
    full_float32()  # or the convergence delta measures cuDNN's rounding
    check_released_flags(args)
    settings = ig_settings(args)
    network, model, identity = load_network(run, args)
    if args.recipe == "released":
        model += LABEL
    images, references, skipped = select_images(run, args, network)
    result = attribute(run, network, images, settings, model, identity, _needed(settings, references))
    others = {}
    for baseline in args.baseline[1:]:
        changed, name = replace(settings, baseline=baseline), f"{model}@{baseline}"
        others[baseline] = attribute(
            run, network, images, changed, name, identity, _needed(changed, references)
        )
    cache = None
    if isinstance(network.encoder, LayerCodes):
        log.info(
            "Shares inside objects and foreground stay empty: those were found on the crop that the autoencoder sees."
        )
    else:
        cache = find_regions(run, images)
    if not is_main_rank():
        return
    run.report_skipped([*skipped, *result.skipped])
    frame, maps = merge(run, result, images, model, cache)
    report(run, frame, settings)
    draw_attributions(run, network, frame, maps, model)
    if others:
        compare_baselines(run, frame, maps, others, model)
    if args.check:
        check(run, network, frame, settings, model, _needed(settings, references))


def _needed(settings: AttributionSettings, references: References | None) -> References | None:
    return references if settings.baseline == EXPECTED else None


def display(args: Namespace) -> None:
    """Show the pictures over the whole set that stand in the output folder."""
    models = [Path(name).stem for name in args.model_names or []] or models_with(args.output_path, "ig")
    paths = [
        path for model in models for path in gallery_paths(args.output_path, model).values() if path.exists()
    ]
    if not paths:
        raise UserError(
            f"There are no pictures of attributions in {args.output_path / 'ig'}"
            f"{' for ' + ', '.join(models) if models else ''}. They are made by: python {SCRIPT}.py --save"
        )
    show_or_say(paths)
