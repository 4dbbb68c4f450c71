"""The work of ``feature_analysis.py``: features of every image, and what they have to do with memorability."""

from argparse import Namespace
from functools import partial

import pandas as pd

from utils.core.errors import UserError
from utils.core.feature_names import ALL_GROUPS, DEFAULT_GROUPS, RELEASED
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.shards import run_sharded
from utils.core.tables import read_csv
from utils.data.dataset import Dataset, load_dataset
from utils.features import image as image_features
from utils.features.evaluation import asked_scores, attribution_tables, error_tables, feature_correlations
from utils.features.figures import draw_clusters, draw_correlations, draw_model
from utils.features.model import ModelSettings, feature_model
from utils.features.released import released_object_features
from utils.features.scene import scene_features
from utils.scenes.cache import cache_path, check_min_score
from utils.scenes.networks import SceneSettings, ensure_scene_cache, scene_networks_cached

SHARD_SIZE = 256


def check_flags(args: Namespace) -> None:
    """Refuse a threshold that is none, and one fold.

    Raises:
        UserError: Naming the flag.
    """
    check_min_score(args.min_score)
    if args.folds < 2:
        raise UserError("--folds 1 leaves nothing to fit on; expected at least 2.")


def calculate(run: Run, args: Namespace) -> None:
    """Compute the chosen groups and write image_features.csv."""
    dataset = load_dataset(args)
    dataset.note_on(run)
    images = dataset.table[["image_id", "path"]]
    parts, skipped = [], list(dataset.skipped)
    chosen = available_groups(args)
    file_groups = [group for group in ALL_GROUPS if group in chosen and group != "scene"]
    if "scene" in chosen:
        scene, left_out = scene_frame(run, args, images)
        parts.append(scene)
        skipped += left_out
    jobs = [file_groups] if file_groups else []
    if args.recipe == "released":
        jobs.append([RELEASED])  # by itself, so that ours are not computed again
    for job in jobs:
        pixels, left_out = file_frame(args, images, job)
        parts.append(pixels)
        skipped += left_out
    if is_main_rank():
        write_features(run, dataset, parts, skipped)


def available_groups(args: Namespace) -> list[str]:
    """Return the groups of features to compute; with ``--weights available`` none that needs a download.

    Raises:
        UserError: Nothing is left.
    """
    chosen = list(args.features or DEFAULT_GROUPS)
    if args.weights != "available":
        return chosen
    if "scene" in chosen and not scene_networks_cached(args.detector, args.segmenter, "scene features"):
        chosen.remove("scene")
    args.weights = "pretrained"
    if not chosen:
        raise UserError(
            "--weights available leaves nothing of --features scene: detector or segmenter are not cached. Name other "
            "groups, or download them with --weights pretrained."
        )
    return chosen


def scene_frame(
    run: Run, args: Namespace, images: pd.DataFrame
) -> tuple[pd.DataFrame | None, list[tuple[str, str]]]:
    """Find objects and segments, or read them from the cache; return their features and the images left out."""
    if args.weights == "random":
        run.note_random("detector and segmenter")
    settings = SceneSettings(
        args.detector,
        args.segmenter,
        args.weights,
        args.seed,
        run.device,
        args.batch_size,
        args.workers,
        args.on_error,
        args.overwrite,
    )
    cache, skipped = ensure_scene_cache(images, args.output_path, settings)
    if cache is None:
        return None, skipped
    run.add_output(cache_path(args.output_path, args.detector, args.segmenter))
    rows = []
    for image_id in images["image_id"]:
        if image_id in cache:
            theirs = released_object_features(cache, image_id) if args.recipe == "released" else {}
            rows.append({"image_id": image_id, **scene_features(cache, image_id, args.min_score), **theirs})
    frame = pd.DataFrame(rows)
    with_objects = int((frame["object_count"] > 0).sum())
    log.info(
        "Objects with a score of at least %g in %d of %d images.", args.min_score, with_objects, len(frame)
    )
    if not with_objects:
        log.warning("No objects were found at all; lower --min-score, or choose another --detector.")
    return frame, skipped


def file_frame(
    args: Namespace, images: pd.DataFrame, groups: list[str]
) -> tuple[pd.DataFrame | None, list[tuple[str, str]]]:
    """Compute the groups that need pixels only, in worker processes; return them and the images left out."""
    result = run_sharded(
        f"features_{'_'.join(groups)}",
        images,
        None,
        output_path=args.output_path,
        settings={"groups": groups, "definition": image_features.definition()},
        load=partial(image_features.file_features, groups=tuple(groups)),
        batch_size=16,
        workers=args.workers,
        executor="process",
        shard_size=SHARD_SIZE,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=", ".join(groups),
    )
    if not is_main_rank():
        return None, []
    # Kept beside the job's manifest, so that another threshold or another group computes nothing again.
    path = result.folder / "features.csv"
    if not result.up_to_date:
        with atomic_path(path) as temporary:
            result.frame().to_csv(temporary, index=False)
        result.finish([path])
    frame = read_csv(path, text_columns=["image_id"])
    numbers = frame.columns.drop("image_id")
    frame[numbers] = frame[numbers].replace("", None).astype(float)
    return frame, result.skipped


def write_features(
    run: Run, dataset: Dataset, parts: list[pd.DataFrame], skipped: list[tuple[str, str]]
) -> None:
    """Join the groups with the scores, write the table, and say what was left out or is undefined."""
    frame = dataset.table[["image_id", "category", "subcategory", "memorability"]]
    for part in parts:
        frame = frame.merge(part, on="image_id", validate="one_to_one")
    names = [name for part in parts for name in part.columns if name != "image_id"]
    empty = frame[names].isna().sum()
    empty = empty[empty > 0]
    if len(empty):
        listed = ", ".join(f"{name} {count}" for name, count in empty.items())
        log.info("Undefined values, left empty (column and number of images): %s.", listed)
    run.count(total=len(dataset.table), done=len(frame), undefined_values=int(empty.sum()))
    run.write_table(frame, "image_features")
    run.report_skipped(skipped)


def evaluate(run: Run, args: Namespace) -> None:
    """Correlate the features, predict memorability from them, draw both."""
    frame = run.read_table("image_features").drop(columns="caveat", errors="ignore")
    frame = asked_scores(run, args, frame)
    table = feature_correlations(frame, attribution_tables(run, args), args.resamples, args.seed)
    run.write_table(table, "feature_correlations")
    for stem, figure in (
        ("feature_correlations", draw_correlations(table)),
        ("feature_clusters", draw_clusters(frame, table)),
    ):
        if figure is not None:
            run.save_figure(figure, stem)
    settings = ModelSettings(args.folds, args.repeats, args.resamples, args.seed)
    found = feature_model(frame, error_tables(run, args), settings)
    if found is None:
        return
    models, importances = found
    run.write_table(models, "feature_model")
    run.write_table(importances, "feature_importance")
    run.save_figure(draw_model(models, importances), "feature_model")
