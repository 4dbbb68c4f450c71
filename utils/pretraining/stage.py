"""The work of ``autoencoder_pretrain.py``: which pictures, which network, finished or not, and what is written."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from models.autoencoder import Autoencoder, build_autoencoder, scaled_widths
from models.checkpoints import read_finished, save_autoencoder
from models.initialisation import initialise
from utils.core.digests import combined_digest
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.names import PRETRAINED_PREFIX
from utils.core.precision import settle_training_precision
from utils.core.reading import read_ahead
from utils.core.records import read_run
from utils.core.shards import SHARDS_FOLDER
from utils.core.tables import output_file
from utils.data.dataset import limit_rows, load_dataset
from utils.data.images import load_pixels
from utils.data.splits import load_splits
from utils.pretraining.figures import draw_curve, draw_progress
from utils.pretraining.pictures import (
    PictureStore,
    check_enough,
    hold_out,
    leave_out_small,
    pictures_of_folder,
)
from utils.pretraining.rival import MOST_BLOCKS, BlockPca, fit_rival
from utils.pretraining.settings import PretrainingSettings
from utils.pretraining.training import SHOWN, Pretrainer, Progress, scores_of_pixels
from utils.reconstruction.finetune_stage import data_flags
from utils.reconstruction.losses import check_losses

if TYPE_CHECKING:
    from utils.core.run import Run

LEARNING_RATES = {"muon": 1e-2, "adam": 2e-3}


def settings_from(args: Namespace, run: Run) -> PretrainingSettings:
    """Check the flags against each other and gather them."""
    scaled_widths(args.width)
    check_losses([name for name, _ in args.loss], args.image_size)
    return PretrainingSettings(
        arch=args.arch,
        width=args.width,
        image_size=args.image_size,
        batch_size=args.batch_size,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate or LEARNING_RATES[args.optimizer],
        loss=tuple(args.loss),
        grow=args.grow,
        initialisation=args.initialisation,
        gradient_clip=args.gradient_clip,
        batch_norm_momentum=args.batch_norm_momentum,
        frozen_share=args.frozen_share,
        precision=settle_training_precision(args, run),
        split=args.split,
        held_out=args.held_out,
        seed=args.seed,
    )


def model_name(args: Namespace) -> str:
    """Name the model: ``pretrained_vgg16``, with its width where it is not 1, or as ``--model-name`` says."""
    if args.model_name:
        return args.model_name.removesuffix(".pth")
    return f"{PRETRAINED_PREFIX}{args.arch}" + ("" if args.width == 1 else f"_w{args.width:g}")


def choose_pictures(args: Namespace, run: Run) -> tuple[pd.DataFrame, pd.DataFrame, list[tuple[str, str]]]:
    """Find the pictures to train on and those held out.

    With ``--split train`` they are the train and val images of splits.csv, so that no test image is ever seen; else a
    share of all pictures in the folder is held out, with or without scores. Of the embedded sample the validation images are
    held out either way, since several of its pictures are crops of one photograph.

    Returns:
        ``image_id`` and ``path`` of both, and what was left out.
    """
    skipped: list[tuple[str, str]] = []
    if args.split == "train" or args.sample:
        dataset = load_dataset(args)
        dataset.note_on(run)
        skipped += dataset.skipped
        splits = load_splits(dataset, args.output_path, args.seed)[["image_id", "split"]]
        images = dataset.table[["image_id", "path"]].merge(splits, on="image_id", validate="one_to_one")
        if args.split == "train":
            images = images[images["split"] != "test"]
    else:
        images = limit_rows(pictures_of_folder(args.data_dir), args.limit)
        for folder in {Path(path).parent for path in images["path"]}:
            run.add_picture_folder(folder)
    images, small = leave_out_small(images.reset_index(drop=True), args.image_size)
    skipped += small
    if args.on_error == "fail" and skipped:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise UserError(
            f"{len(skipped)} pictures cannot be used ({shown}). Leave them out with --on-error skip."
        )
    if "split" in images.columns:
        out = (images["split"] == "val").to_numpy()
    else:
        out = hold_out(images, args.held_out, args.seed) if len(images) else np.zeros(0, dtype=bool)
    images = images[["image_id", "path"]]
    train, held_out = (images[chosen].reset_index(drop=True) for chosen in (~out, out))
    check_enough(len(train), len(held_out), args.batch_size, args.data_dir, skipped)
    return train, held_out, skipped


def read_squares(
    images: pd.DataFrame, args: Namespace
) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Read pictures as every later stage sees them.

    Returns:
        (N, 3, S, S) uint8 of those that can be read, their image_ids, and (image_id, reason) of the others.
    """
    load = partial(load_pixels, size=args.image_size)
    pixels, ids, skipped = [], [], []
    values = read_ahead(load, images["path"].tolist(), args.workers, 2 * args.workers + 2)
    for image_id, value in zip(images["image_id"], values, strict=True):
        if isinstance(value, ImageError):
            if args.on_error == "fail":
                raise UserError(
                    f"{value}. Mend or remove the file, or leave such pictures out with --on-error skip."
                )
            skipped.append((str(image_id), value.reason))
        else:
            pixels.append(np.rint(value * 255).astype(np.uint8))
            ids.append(str(image_id))
    if not pixels:
        raise UserError(
            f"None of {len(images)} pictures could be read, e.g. {skipped[0][0]}: {skipped[0][1]}."
        )
    return np.stack(pixels), ids, skipped


class Identity(NamedTuple):
    """What decides a network: everything, the contents of the pictures among it, and the same without the pictures."""

    fingerprint: str
    request: str


def pretraining_identity(
    settings: PretrainingSettings, args: Namespace, run: Run, train: pd.DataFrame, held_out: pd.DataFrame
) -> Identity:
    """Digest everything that decides the outcome."""
    values = {**asdict(settings), "epochs": args.epochs, "minutes": args.minutes, "half": args.half}
    request = [(json.dumps(values, sort_keys=True), "")]
    pictures = {"train": run.digests.of_images(train), "held out": run.digests.of_images(held_out)}
    return Identity(combined_digest([*request, *pictures.items()]), combined_digest(request))


def is_finished(args: Namespace, run: Run, path: Path, wanted: Identity) -> bool:
    """Say whether this very model is there already; refuse to replace one that was asked for otherwise.

    Of pictures that have changed, come or gone under the same flags it is trained anew, and the old one stands until then.
    """
    if args.overwrite or not path.exists():
        return False
    meta = read_finished(path)
    if meta is None:
        return False
    if meta.get("fingerprint") != wanted.fingerprint:
        earlier = read_run(args.output_path, "autoencoder_pretrain") or {}
        same_flags = data_flags(earlier.get("arguments", {})) == data_flags(vars(args))
        if same_flags and meta.get("request") == wanted.request:
            log.warning(
                "%s was trained on other pictures: some have changed, come or gone. It is trained anew, and stands until "
                "that is finished.",
                path,
            )
            return False
        raise UserError(
            f"{path} is there already and was made otherwise. Train it anew with --overwrite, give this one another "
            "--model-name, or use another --output-path."
        )
    outputs = [path, output_file(args.output_path, "pretraining", path.stem)]
    if not all(output.exists() for output in outputs):
        return False
    run.note_caveats(meta["caveats"])
    for output in outputs:
        run.add_output(output)
    for figure in ("pretraining", "pretraining_pictures"):
        run.add_earlier_figures(f"{figure}_{path.stem}")
    log.info("%s: up to date; --overwrite trains it again.", path)
    return True


def history_table(progress: Progress, rival: tuple[float, float]) -> pd.DataFrame:
    """Return the rows of ``pretraining_<model>.csv``."""
    table = pd.DataFrame(progress.history)
    return table.assign(best=table["epoch"] == progress.best_epoch, pca_psnr=rival[0], pca_ssim=rival[1])


def pretrain(args: Namespace, run: Run) -> None:
    """Train the network, or find it finished."""
    settings = settings_from(args, run)
    train, held_out, skipped = choose_pictures(args, run)
    path = args.output_path / f"{model_name(args)}.pth"
    wanted = pretraining_identity(settings, args, run, train, held_out)
    if is_finished(args, run, path, wanted):
        return
    state = args.output_path / SHARDS_FOLDER / f"pretrain_{path.stem}" / "state.pt"
    if args.overwrite:
        state.unlink(missing_ok=True)
    squares, ids, unreadable = read_squares(held_out, args)
    log.info("%s: %d pictures to train on, %d held out", path.stem, len(train), len(ids))
    model = initialise(build_autoencoder(args.arch, width=args.width), settings.initialisation, args.seed)
    trainer = Pretrainer(
        model.to(run.device),
        train,
        squares,
        settings,
        PictureStore(args.image_size, args.cache_mb * 2**20),
        state,
        wanted.fingerprint,
        epochs=args.epochs,
        minutes=args.minutes,
        checkpoint_every=args.checkpoint_every,
        workers=args.workers,
        on_error=args.on_error,
    )
    progress = trainer.run()
    few = limit_rows(train, MOST_BLOCKS // max((args.image_size // 32) ** 2, 1) + 1)
    rival = fit_rival(read_squares(few, args)[0], model.widths[-1])
    write_outputs(run, path, trainer, rival, ids, wanted)
    shutil.rmtree(state.parent, ignore_errors=True)
    broken = [(str(train["image_id"].iloc[index]), reason) for index, reason in progress.skipped.items()]
    run.report_skipped([*skipped, *unreadable, *broken])
    run.count(images=len(train), held_out=len(ids), epochs=progress.epochs, steps=progress.steps)


def write_outputs(
    run: Run, path: Path, trainer: Pretrainer, rival: BlockPca, ids: list[str], wanted: Identity
) -> None:
    """Write the table, the figures and, last of all, the weights."""
    squares, progress, model = trainer.held_out, trainer.progress, trainer.model
    linear = rival.reconstruct(squares)
    decibels, similarities = scores_of_pixels(squares, linear)
    against = float(decibels.mean(dtype=np.float64)), float(similarities.mean(dtype=np.float64))
    table = history_table(progress, against)
    run.write_table(table, "pretraining", path.stem)
    best = table[table["best"]].iloc[0]
    log.info(
        "%s: held out %.2f dB, SSIM %.3f (epoch %d); %d principal components a block: %.2f dB, SSIM %.3f",
        *(path.stem, best["psnr"], best["ssim"], best["epoch"], rival.components, *against),
    )
    run.save_figure(draw_curve(table, against[0], path.stem), f"pretraining_{path.stem}")
    reached = table.set_index("epoch")["psnr"]
    depths = table.set_index("epoch")["depth"]
    rows = {
        f"epoch {epoch}, {depths[epoch]} block{'s' if depths[epoch] > 1 else ''}\n{reached[epoch]:.1f} dB": shown.numpy()
        for epoch, shown in sorted(trainer.shown.items())
    }
    rows[f"PCA, {rival.components} a block\n{against[0]:.1f} dB"] = linear[:SHOWN]
    figure = draw_progress(squares[:SHOWN], rows, ids[:SHOWN], path.stem)
    run.save_figure(figure, f"pretraining_pictures_{path.stem}")
    save_autoencoder(
        path,
        model,
        half=run.args.half,
        image_size=trainer.settings.image_size,
        caveats=run.caveats,
        fingerprint=wanted.fingerprint,
        request=wanted.request,
        pretraining=describe(trainer, model, best, against, rival, run),
    )
    run.add_output(path)
    log.info("Wrote %s", path)


def describe(
    trainer: Pretrainer,
    model: Autoencoder,
    best: pd.Series,
    against: tuple[float, float],
    rival: BlockPca,
    run: Run,
) -> dict[str, Any]:
    """Say on what, how long and how well a network was trained: kept in the checkpoint, instead of a caveat."""
    progress = trainer.progress
    return {
        "data": "sample" if run.args.sample else run.args.data_dir.resolve().name,
        "split": trainer.settings.split,
        "pictures": len(trainer.images),
        "pictures_sha256": run.digests.of_images(trainer.images),
        "held_out": len(trainer.held_out),
        "stages": [asdict(stage) for stage in progress.stages],
        "epochs": progress.epochs,
        "steps": progress.steps,
        "crops": progress.pictures,
        "best_epoch": progress.best_epoch,
        "held_out_psnr": float(best["psnr"]),
        "held_out_ssim": float(best["ssim"]),
        "pca_components": rival.components,
        "pca_psnr": against[0],
        "pca_ssim": against[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": asdict(trainer.settings),
    }
