"""The work of ``feature_analysis.py``: features of every image, and what they have to do with memorability."""

from argparse import Namespace
from functools import partial

import pandas as pd

from utils.core.errors import UserError
from utils.core.feature_names import ALL_GROUPS, DEFAULT_GROUPS, RELEASED
from utils.core.files import atomic_path
from utils.core.log import log
from utils.core.precision import settle_precision
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.shards import run_sharded
from utils.core.tables import output_file, read_csv
from utils.data.dataset import WITHOUT_SCORES, Dataset, load_dataset
from utils.features import image as image_features
from utils.features.crop import (
    CROP,
    FULL,
    REGION_TABLES,
    crop_features,
    crop_scene_features,
    same_everywhere,
)
from utils.features.evaluation import asked_scores, attribution_tables, error_tables, feature_correlations
from utils.features.figures import draw_clusters, draw_commonality, draw_correlations, draw_model
from utils.features.model import SIZE, FeatureModels, ModelSettings, feature_model
from utils.features.released import released_object_features
from utils.features.scene import scene_features
from utils.scenes.cache import cache_path, check_min_score
from utils.scenes.networks import SceneSettings, ensure_scene_cache, scene_networks_cached
from utils.statistics.correlation_tables import add_q

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
    """Compute the chosen groups over the chosen regions; write image_features.csv and image_features_crop.csv."""
    dataset = load_dataset(args)
    dataset.note_on(run)
    chosen = available_groups(args)
    frames = {region: calculate_region(run, args, dataset, chosen, region) for region in args.region}
    if not is_main_rank():
        return
    crop = output_file(args.output_path, REGION_TABLES[CROP])
    if set(frames) == {FULL, CROP} and same_everywhere(frames[FULL], frames[CROP]):
        log.info("The networks saw every picture whole and at its own size: image_features.csv says it all.")
        crop.unlink(missing_ok=True)
        del frames[CROP]
    for region, frame in frames.items():
        run.write_table(frame, REGION_TABLES[region])


def calculate_region(
    run: Run, args: Namespace, dataset: Dataset, chosen: list[str], region: str
) -> pd.DataFrame | None:
    """Compute the chosen groups over one region; return the table's rows, None on ranks that do not merge."""
    images = dataset.table[["image_id", "path"]]
    parts, skipped = [], list(dataset.skipped)
    file_groups = [group for group in ALL_GROUPS if group in chosen and group != "scene"]
    if "scene" in chosen:
        scene, left_out = scene_frame(run, args, images, region)
        parts.append(scene)
        skipped += left_out
    jobs = [file_groups] if file_groups else []
    if args.recipe == "released" and region == FULL:
        jobs.append([RELEASED])  # by itself, so that ours are not computed again
    for job in jobs:
        pixels, left_out = file_frame(args, images, job, region)
        parts.append(pixels)
        skipped += left_out
    return join_features(run, dataset, parts, skipped, region) if is_main_rank() else None


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
    run: Run, args: Namespace, images: pd.DataFrame, region: str = FULL
) -> tuple[pd.DataFrame | None, list[tuple[str, str]]]:
    """Find objects and segments, or read them from the cache; return their features and the images left out."""
    if args.weights == "random":
        run.note_random("detector and segmenter")
    settle_precision(args, run, unmeasured="objects and segments")
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
        args.precision,
    )
    cache, skipped = ensure_scene_cache(images, args.output_path, settings)
    if cache is None:
        return None, skipped
    run.add_output(cache_path(args.output_path, args.detector, args.segmenter))
    known = images[images["image_id"].isin([name for name in images["image_id"] if name in cache])]
    rows = []
    for name, path in zip(known["image_id"], known["path"], strict=True):
        if region == CROP:
            found = crop_scene_features(cache, name, path, args.crop_size, args.min_score)
        else:
            found = scene_features(cache, name, args.min_score)
            if args.recipe == "released":
                found |= released_object_features(cache, name)
        rows.append({"image_id": name, **found})
    frame = pd.DataFrame(rows)
    if region == CROP:
        return frame, skipped
    with_objects = int((frame["object_count"] > 0).sum())
    log.info(
        "Objects with a score of at least %g in %d of %d images.", args.min_score, with_objects, len(frame)
    )
    if not with_objects:
        log.warning("No objects were found at all; lower --min-score, or choose another --detector.")
    return frame, skipped


def file_frame(
    args: Namespace, images: pd.DataFrame, groups: list[str], region: str = FULL
) -> tuple[pd.DataFrame | None, list[tuple[str, str]]]:
    """Compute the groups that need pixels only, in worker processes; return them and the images left out."""
    settings = {"groups": groups, "definition": image_features.definition()}
    load, name = partial(image_features.file_features, groups=tuple(groups)), f"features_{'_'.join(groups)}"
    if region == CROP:
        settings["crop_size"] = args.crop_size
        load, name = partial(crop_features, groups=tuple(groups), size=args.crop_size), f"{name}_crop"
    result = run_sharded(
        name,
        images,
        None,
        output_path=args.output_path,
        settings=settings,
        load=load,
        batch_size=16,
        workers=args.workers,
        executor="process",
        shard_size=SHARD_SIZE,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=", ".join(groups) + (f" of the {args.crop_size} px crop" if region == CROP else ""),
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


def join_features(
    run: Run, dataset: Dataset, parts: list[pd.DataFrame], skipped: list[tuple[str, str]], region: str
) -> pd.DataFrame:
    """Join the groups with the scores, and say what was left out or is undefined."""
    about = [name for name in ("group", SIZE) if dataset.table[name].replace("", None).notna().any()]
    frame = dataset.table[["image_id", "category", "subcategory", "memorability", *about]]
    for part in parts:
        frame = frame.merge(part, on="image_id", validate="one_to_one")
    names = [name for part in parts for name in part.columns if name != "image_id"]
    empty = frame[names].isna().sum()
    empty = empty[empty > 0]
    where = " in the crop" if region == CROP else ""
    if len(empty):
        listed = ", ".join(f"{name} {count}" for name, count in empty.items())
        log.info("Undefined values%s, left empty (column and number of images): %s.", where, listed)
    if region == (FULL if FULL in run.args.region else CROP):
        run.count(total=len(dataset.table), done=len(frame), undefined_values=int(empty.sum()))
        run.report_skipped(skipped)
    return frame


def evaluate(run: Run, args: Namespace) -> None:
    """Correlate the features, predict memorability from them, draw all of it."""
    frames = read_regions(run, args)
    if next(iter(frames.values()))["memorability"].isna().all():
        if args.evaluate_features and not args.calculate_features:
            raise UserError(
                f"The pictures of {args.output_path} have no memorability scores, with which features are compared. "
                f"{WITHOUT_SCORES}"
            )
        log.info("Left out for want of scores: feature_correlations.csv, feature_model.csv and their figures")
        return
    attributions = attribution_tables(run, args)
    tables = []
    for region, frame in frames.items():
        table = feature_correlations(frame, attributions, args.resamples, args.seed, args.cluster, region)
        tables.append(table)
        suffix = "" if region == FULL else f"_{region}"
        for stem, figure in (
            (f"feature_correlations{suffix}", draw_correlations(table)),
            (f"feature_clusters{suffix}", draw_clusters(frame, table)),
        ):
            if figure is not None:
                run.save_figure(figure, stem)
    run.write_table(pd.concat(tables, ignore_index=True), "feature_correlations")
    settings = ModelSettings(
        args.folds, args.repeats, args.resamples, args.seed, args.permutations, args.cluster
    )
    errors = error_tables(run, args)
    found = {region: feature_model(frame, errors, settings) for region, frame in frames.items()}
    model_regions(run, {region: models for region, models in found.items() if models is not None})


def model_regions(run: Run, found: dict[str, FeatureModels]) -> None:
    """Write and draw what features of each region say of memorability; q of the models over all regions."""
    if not found:
        return
    for region, part in found.items():
        suffix = "" if region == FULL else f"_{region}"
        run.save_figure(draw_model(part.models, part.importances), f"feature_model{suffix}")
        if len(part.commonality):
            run.save_figure(draw_commonality(part.commonality), f"feature_commonality{suffix}")
    tables = {
        name: pd.concat(
            [getattr(part, kind).assign(region=region) for region, part in found.items()], ignore_index=True
        )
        for name, kind in FeatureModels.TABLES.items()
    }
    tables["feature_model"] = add_q(tables["feature_model"])
    for name, table in tables.items():
        if len(table):
            run.write_table(table, name)


def read_regions(run: Run, args: Namespace) -> dict[str, pd.DataFrame]:
    """Read the tables of features of the chosen regions, with the scores that are asked for, the whole pictures' first.

    Raises:
        UserError: None of them is there.
    """
    wanted = [region for region in (FULL, CROP) if region in args.region]
    there = [region for region in wanted if output_file(args.output_path, REGION_TABLES[region]).exists()]
    frames = {}
    for region in there or wanted[:1]:
        frame = run.read_table(REGION_TABLES[region]).drop(columns="caveat", errors="ignore")
        frames[region] = asked_scores(run, args, frame)
    return frames
