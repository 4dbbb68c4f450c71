"""Around the training loop of stage 1: which models, from which start, finished or not, and what is written."""

import itertools
import shutil
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from models.autoencoder import Autoencoder, build_autoencoder
from models.builtin import builtin_autoencoder
from models.checkpoints import (
    checkpoint_sha256,
    find_pretrained,
    load_autoencoder,
    read_finished,
    save_autoencoder,
)
from utils.core.digests import combined_digest
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.names import TRAIN
from utils.core.records import read_run
from utils.core.run import Run
from utils.core.shards import SHARDS_FOLDER
from utils.data.dataset import Dataset
from utils.data.images import load_pixels
from utils.data.splits import load_splits
from utils.reconstruction.exposure_tables import exposure_table, training_table
from utils.reconstruction.finetuning import (
    FineTuner,
    FineTuningSettings,
    Progress,
    differences,
    loss_curve,
    training_fingerprint,
)
from utils.reconstruction.losses import ReconstructionLosses, uses_pretrained

READ_LENGTH = 16  # hexadecimal digits kept of each picture's SHA-256: 64 bits


class _Identity(NamedTuple):
    """What a model is made from: everything but the images' contents, and the same without the images themselves."""

    fingerprint: str
    request: str


def combinations(args: Namespace) -> list[FineTuningSettings]:
    """Return the settings of every model asked for, in the order given, each once."""
    grid = itertools.product(args.loss, args.learning_rate, args.batch_size, args.epochs)
    return [
        FineTuningSettings(
            loss=loss,
            learning_rate=rate,
            batch_size=size,
            epochs=epochs,
            split=args.split,
            order=args.order or ("dataset" if args.recipe == "released" else "shuffled"),
            batch_norm=args.batch_norm,
            recipe=args.recipe,
            precision=args.precision,
            compile=args.compile,
            seed=args.seed,
            image_size=args.image_size,
        )
        for loss, rate, size, epochs in dict.fromkeys(grid)
    ]


def chosen_images(args: Namespace, dataset: Dataset) -> pd.DataFrame:
    """Return ``image_id`` and ``path`` of the images to see, in dataset order."""
    images = dataset.table[["image_id", "path"]]
    if args.split == TRAIN:
        splits = load_splits(dataset, args.output_path, args.seed)
        images = images[images["image_id"].isin(splits.loc[splits["split"] == TRAIN, "image_id"])]
        if images.empty:
            raise UserError(
                f"No image of the train split is among the {len(dataset.table)} chosen. Use a larger --limit, "
                "or --split all."
            )
    return images.reset_index(drop=True)


def find_start(args: Namespace, run: Run) -> tuple[Path | None, str]:
    """Return the checkpoint to start from (None for random weights) and what identifies it."""
    if args.pretrained.lower() == "none":
        width = args.width or 1.0
        kind = args.arch if width == 1 else f"{args.arch} width {width:g}"
        run.note_random(f"autoencoder ({kind}) before fine-tuning")
        return None, f"random {kind} seed {args.seed}"
    if args.pretrained.lower() == "builtin":
        path = builtin_autoencoder()
        load_autoencoder(path, image_size=args.image_size)  # refuses another size than it was trained at
    else:
        path = find_pretrained(args.pretrained, [args.data_dir, args.output_path])
    run.add_input(path)
    return path, checkpoint_sha256(path)


def load_start(args: Namespace, run: Run, path: Path | None) -> tuple[Autoencoder, dict[str, Any]]:
    """Build the network with the weights to start from, on the run's device.

    Returns:
        The network, and where its weights come from: ``stem, sha256`` and, if stage 0 made them, ``pretraining``; empty
        for random weights. It is kept in what is trained from there, so that every table can be traced to it.
    """
    if path is None:
        return build_autoencoder(args.arch, args.seed, args.width or 1.0).to(run.device), {}
    model, meta = load_autoencoder(path, run.device, arch=args.arch, width=args.width)
    run.note_caveats(meta["caveats"])
    known = ("stem", "sha256", "pretraining")
    own = {name: meta[name] for name in known if name in meta}
    return model, meta.get("start") or own


def data_flags(arguments: dict[str, Any]) -> dict[str, str]:
    """Return which images a command asked for, as text."""
    names = ("data_dir", "scores_csv", "score_column", "sample", "limit", "split", "group_column", "split_by")
    # Names and not places: a study may be moved with its data.
    return {name: Path(str(arguments.get(name))).name for name in names}


def what_changed(before: dict[str, str], now: dict[str, str]) -> str:
    """Say how images differ from those that a model was trained on; empty where they do not.

    Args:
        before: What each image's file held then, by image_id (its digest's beginning).
        now: What it holds now.
    """
    found = {
        "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
        "gone": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
    }
    return ", ".join(f"{len(names)} {kind} (e.g. {names[0]})" for kind, names in found.items() if names)


def find_finished(
    args: Namespace,
    run: Run,
    path: Path,
    settings: FineTuningSettings,
    identity: _Identity,
    images: pd.DataFrame,
) -> dict[str, Any] | None:
    """Return the meta of a model that was already trained exactly so.

    One of other images under the same flags is trained anew, since every exposure hangs on those before it; the old one
    stands until then. One that was asked for otherwise is not replaced.

    Raises:
        UserError: The model was made with other settings, or of images that other flags name.
    """
    if args.overwrite or not path.exists():
        return None
    meta = read_finished(path)
    if meta is None:
        return None
    earlier = read_run(args.output_path, "autoencoder_finetune") or {}
    same_flags = data_flags(earlier.get("arguments", {})) == data_flags(vars(args))
    alike = meta.get("fingerprint") == identity.fingerprint
    if not alike and not (same_flags and meta.get("request") == identity.request):
        how = differences(meta["settings"], asdict(settings)) if "settings" in meta else "not by this stage"
        raise UserError(
            f"{path} is there already and was made otherwise ({how}). "
            "Train it anew with --overwrite, or use another --output-path."
        )
    paths = dict(zip(images["image_id"], images["path"], strict=True))
    changed = "" if alike and meta.get("pictures") == run.digests.of_images(images) else "other images"
    now = {name: run.digests.of(file)[:READ_LENGTH] for name, file in paths.items()} if changed else {}
    changed = what_changed(meta.get("read", {}), now) if changed and "read" in meta else changed
    readable = first_readable(
        [(name, paths[name]) for name, _ in meta.get("skipped", []) if name in paths], args
    )
    if changed or readable:
        log.warning(
            "%s was trained on other images: %s. It is trained anew, and stands until that is finished; to keep it, leave "
            "this stage out (run_pipeline.py --from-stage autoencoder_test).",
            path,
            changed or f"{readable} could not be read then and can be now",
        )
        return None
    outputs = [args.output_path / name for name in meta.get("outputs", {})]
    if {output.name: run.digests.of(output) for output in outputs} != meta.get("outputs"):
        return None
    run.note_caveats(meta["caveats"])
    for output in (path, *outputs):
        run.add_output(output)
    run.add_earlier_figures(f"training_{path.stem}")
    log.info("%s: up to date; --overwrite trains it again.", path)
    return meta


def first_readable(pictures: Iterable[tuple[str, str]], args: Namespace) -> str | None:
    """Return the first of some pictures, as (image_id, path), that can be read; None where none can."""
    for name, path in pictures:
        try:
            load_pixels(path, args.image_size)
        except ImageError:
            continue
        return name
    return None


def describe(settings: dict[str, Any]) -> str:
    """Put settings into one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "unknown settings"


def unreadable(progress: Progress, images: pd.DataFrame) -> list[tuple[str, str]]:
    """Return image_id and reason of the images that could not be read."""
    return [(str(images["image_id"].iloc[index]), reason) for index, reason in progress.skipped.items()]


def save_model(
    run: Run,
    path: Path,
    model: Autoencoder,
    settings: FineTuningSettings,
    identity: _Identity,
    progress: Progress,
    images: pd.DataFrame,
    start: dict[str, Any],
) -> None:
    """Write a model's tables, its curve and, last of all, its weights."""
    tables = [
        run.write_table(exposure_table(progress, images), "exposures", path.stem),
        run.write_table(training_table(progress), "training", path.stem),
    ]
    run.save_figure(loss_curve(progress, path.stem, settings.loss), f"training_{path.stem}")
    save_autoencoder(
        path,
        model,
        image_size=settings.image_size,
        caveats=run.caveats,
        settings=asdict(settings),
        fingerprint=identity.fingerprint,
        request=identity.request,
        pictures=progress.pictures(images),
        read={name: progress.read[place][0][:READ_LENGTH] for place, name in enumerate(images["image_id"])},
        outputs={table.name: run.digests.of(table) for table in tables},
        start=start,
        exposures=sum(map(len, progress.losses)),
        skipped=unreadable(progress, images),
    )
    run.add_output(path)
    log.info("Wrote %s", path)


def train_one(
    args: Namespace,
    run: Run,
    images: pd.DataFrame,
    settings: FineTuningSettings,
    path: Path,
    start: tuple,
) -> tuple[_Identity, list[tuple[str, str]]]:
    """Train one model, or find it finished; return its identity and the images that could not be read."""
    more = {"arch": args.arch, "weights": args.weights}
    identity = _Identity(
        training_fingerprint(settings, start[1], images, **more),
        training_fingerprint(settings, start[-1], images[:0], **more),
    )
    finished = find_finished(args, run, path, settings, identity, images)
    if finished is not None:
        return identity, finished.get("skipped", [])
    if args.weights == "random" and uses_pretrained([settings.loss]):
        run.note_random(f"{settings.loss} ({', '.join(uses_pretrained([settings.loss]))})")
    losses = ReconstructionLosses([settings.loss], args.weights, run.device, settings.recipe, args.seed)
    model, origin = load_start(args, run, start[0])
    state = args.output_path / SHARDS_FOLDER / f"finetune_{path.stem}" / "state.pt"
    if args.overwrite:
        state.unlink(missing_ok=True)
    log.info("%s: %d images, %s", path.stem, len(images), describe(vars(settings)))
    if settings.batch_norm == "update" and settings.batch_size < 8:
        log.info(
            "Batch norm: at batch size %d the running statistics end up following the last few images; "
            "--batch-norm frozen keeps those of the start.",
            settings.batch_size,
        )
    tuner = FineTuner(
        model,
        images,
        settings,
        losses,
        state,
        identity.fingerprint,
        request=combined_digest([(identity.request, ""), *data_flags(vars(args)).items()]),
        load=partial(load_pixels, size=settings.image_size),
        checkpoint_every=args.checkpoint_every,
        workers=args.workers,
        on_error=args.on_error,
        digests=run.digests,
    )
    progress = tuner.run()
    save_model(run, path, model, settings, identity, progress, images, origin)
    # With all that is in it: a kill while the state was being written leaves its temporary file.
    shutil.rmtree(state.parent, ignore_errors=True)
    return identity, unreadable(progress, images)
