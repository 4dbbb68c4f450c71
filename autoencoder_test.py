"""Stage 2: how badly does each network reconstruct each image, by eight losses?

Reads the images and the checkpoints that stage 1 wrote (all in the output folder, or those of --model-names).
Runs each image through each network once and computes all losses from that one reconstruction; larger always
means reconstructed worse. Writes test_loss_<model>.csv and reconstructions_<model>.png (best, median and worst
images by --figure-loss). Resumes after a kill; several processes share the work under torchrun.
"""

import argparse
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, run_script
from utils.core.log import log
from utils.core.names import LOSSES

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from models.autoencoder import Autoencoder
    from utils.core.run import Run
    from utils.core.shards import ShardedResult, Work
    from utils.data.dataset import Dataset


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "data", "output", "models", "compute", "batch", "weights")
    group = parser.add_argument_group("losses")
    group.add_argument(
        "--losses",
        nargs="+",
        choices=LOSSES,
        default=list(LOSSES),
        metavar="LOSS",
        help="which losses to compute",
    )
    group.add_argument(
        "--figure-loss",
        choices=LOSSES,
        metavar="LOSS",
        help="loss that picks the images of the figure (default: lpips-sq, or the first that is computed)",
    )
    group.add_argument(
        "--recipe",
        choices=("corrected", "released"),
        default="corrected",
        help="corrected: as published; released: LPIPS on unscaled [0, 1] images and style from the last VGG19 "
        "feature map, as in the authors' scripts (larger still means worse; the files are called "
        "..._<model>_released-losses)",
    )
    return parser


def make_work(args: argparse.Namespace, run: "Run", model: "Autoencoder") -> "Work":
    """Return the function that turns a batch of images into rows of losses, with one forward pass."""
    from functools import cache

    import numpy as np
    import torch

    from utils.core.shards import Batch
    from utils.reconstruction.losses import ReconstructionLosses

    @cache
    def losses() -> ReconstructionLosses:  # at the first batch: a finished job needs no trunks
        return ReconstructionLosses(args.losses, args.weights, run.device, args.recipe, args.seed)

    def work(ids: list[str], values: list[np.ndarray]) -> Batch:
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(values)).to(run.device, memory_format=torch.channels_last)
            computed = losses()(images, model(images))
            columns = {name: value.double().cpu().tolist() for name, value in computed.items()}
        check_finite(ids, columns)
        return Batch([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    return work


def check_finite(ids: list[str], columns: dict[str, list[float]]) -> None:
    """Stop at a loss that is not a finite number, naming the image: such a network is broken.

    Raises:
        UserError: Naming the loss, the image and what to do.
    """
    import math

    from utils.core.errors import UserError

    for name, values in columns.items():
        for image_id, value in zip(ids, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"The {name} loss of {image_id} is {value}: the network's weights or the image are broken. "
                    "Fine-tune again with a smaller --learning-rate (python autoencoder_finetune.py --overwrite), "
                    "or choose another checkpoint with --model-names."
                )


def reconstruct(
    args: argparse.Namespace, model: "Autoencoder", paths: dict[str, "Path"], device: "torch.device"
) -> dict[str, tuple]:
    """Return original and reconstruction, (3, S, S) each, of a few images by image_id."""
    import torch

    from utils.data.images import load_pixels

    pairs = {}
    with torch.inference_mode():
        for image_id, path in paths.items():
            original = load_pixels(path, args.image_size)
            batch = torch.from_numpy(original)[None].to(device, memory_format=torch.channels_last)
            pairs[image_id] = (original, model(batch)[0].cpu().numpy())
    return pairs


def write_results(
    args: argparse.Namespace,
    run: "Run",
    dataset: "Dataset",
    model: "Autoencoder",
    label: str,
    result: "ShardedResult",
) -> None:
    """Write the table and the figure of one model."""
    from utils.core.tables import output_file
    from utils.reconstruction.examples import draw_examples, pick_examples

    about = dataset.table[["image_id", "path", "category", "subcategory", "memorability"]]
    table_path = output_file(args.output_path, "test_loss", label)
    if result.up_to_date:
        found = run.read_table("test_loss", label, inherit=False)
        run.add_output(table_path)
    else:
        found = result.frame()
    # The scores anew even when the losses are up to date: they may come from another column or table by now.
    table = found[["image_id", *args.losses]].merge(
        about.drop(columns="path"), on="image_id", validate="one_to_one"
    )
    run.write_table(table, "test_loss", label)
    loss = args.figure_loss or ("lpips-sq" if "lpips-sq" in args.losses else args.losses[0])
    groups = pick_examples(table, loss)
    wanted = {image_id for group in groups.values() for image_id in group["image_id"]}
    chosen = about[about["image_id"].isin(wanted)]
    pixels = reconstruct(args, model, dict(zip(chosen["image_id"], chosen["path"], strict=True)), run.device)
    run.save_figure(draw_examples(groups, pixels, loss, label), f"reconstructions_{label}", formats=("png",))
    result.finish([table_path])


def losses_of_model(
    args: argparse.Namespace, run: "Run", dataset: "Dataset", path: "Path"
) -> list[tuple[str, str]]:
    """Test one checkpoint; return the images that could not be read."""
    from functools import partial

    import torch

    from models.checkpoints import load_autoencoder
    from utils.core.processes import is_main_rank
    from utils.core.shards import run_sharded
    from utils.data.images import load_pixels

    model, meta = load_autoencoder(path, run.device, args.image_size)
    model = model.to(memory_format=torch.channels_last)
    run.note_caveats(meta["caveats"])
    run.add_input(path)
    settings = {
        "checkpoint": meta["sha256"],
        "losses": args.losses,
        "recipe": args.recipe,
        "weights": args.weights,
        "seed": args.seed if args.weights == "random" else None,
        "image_size": args.image_size,
        "caveat": run.caveat,
    }
    label = path.stem if args.recipe == "corrected" else f"{path.stem}_released-losses"
    result = run_sharded(
        f"test_loss_{label}",
        dataset.table[["image_id", "path"]],
        make_work(args, run, model),
        output_path=args.output_path,
        settings=settings,
        load=partial(load_pixels, size=args.image_size),
        batch_size=args.batch_size,
        workers=args.workers,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description=label,
    )
    if is_main_rank():
        write_results(args, run, dataset, model, label, result)
    return result.skipped


def main(args: argparse.Namespace) -> None:
    """Compute the losses of every chosen checkpoint."""
    from models.autoencoder import check_image_size
    from models.checkpoints import find_models
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.data.dataset import load_dataset
    from utils.reconstruction.losses import cached_losses, check_losses, uses_pretrained

    check_image_size(args.image_size)
    args.losses = list(check_losses(args.losses, args.image_size))
    if args.weights == "available":
        args.losses, args.weights = cached_losses(args.losses), "pretrained"
    if args.figure_loss is not None:
        check_figure_loss(args)
    keep_freed_memory()
    full_float32()
    with Run("autoencoder_test", args) as run:
        models = find_models(args)
        dataset = load_dataset(args)
        dataset.note_on(run)
        if args.weights == "random" and uses_pretrained(args.losses):
            run.note_random(f"LPIPS and style ({', '.join(uses_pretrained(args.losses))})")
        skipped = list(dataset.skipped)
        for path in models:
            with run.one_model():
                skipped += losses_of_model(args, run, dataset, path)
        if is_main_rank():
            run.report_skipped(skipped)
        run.count(images=len(dataset.table), models=len(models))
        log.info("Next: python autoencoder_evaluation.py --output-path %s", args.output_path)


def check_figure_loss(args: argparse.Namespace) -> None:
    """Refuse a figure by a loss that is not computed."""
    from utils.core.errors import UserError

    if args.figure_loss not in args.losses:
        raise UserError(
            f"--figure-loss {args.figure_loss} is not among the losses to compute ({', '.join(args.losses)}). "
            "Add it to --losses, or choose one of those."
        )


if __name__ == "__main__":
    run_script(main, get_parser)
