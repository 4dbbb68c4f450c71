"""Stage 1: fine-tune the ImageNet autoencoder on the images, each seen once, as in a memory game.

Reads the images and imagenet_vgg16_autoencoder.pth. Shows every image once (Adam, batch size one, a perceptual
loss) and keeps its loss at that moment, before the step it causes. --loss, --learning-rate, --batch-size and
--epochs take several values: one model for each combination, each starting from the pretrained weights again.
Writes, for each model, <model>.pth, exposures_<model>.csv, training_<model>.csv and training_<model>.png/.pdf.
A run that was killed goes on where it stood. Fine-tuning is sequential: under torchrun, rank 0 does it alone.
"""

import argparse

from utils.core.cli import build_parser, positive_float, positive_int, run_script
from utils.core.log import log
from utils.core.names import (
    ARCHITECTURES,
    BASE_CHECKPOINT,
    DEFAULT_ARCHITECTURE,
    HEADLINE_LOSS,
    LOSSES,
    RECIPES,
    TRAIN,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "data", "output", "compute", "weights")
    _add_grid(
        parser.add_argument_group("what to train with (several values: one model for each combination)")
    )
    _add_protocol(parser.add_argument_group("how the images are shown"))
    _add_start_and_speed(parser.add_argument_group("start, speed and safety"))
    return parser


def _add_grid(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--loss",
        "--losses",
        nargs="+",
        choices=LOSSES,
        default=[HEADLINE_LOSS],
        metavar="LOSS",
        help=", ".join(LOSSES),
    )
    group.add_argument(
        "--learning-rate",
        "--learning-rates",
        nargs="+",
        type=positive_float,
        default=[1e-5],
        metavar="RATE",
        help="learning rate of Adam",
    )
    group.add_argument(
        "--batch-size",
        "--batch-sizes",
        nargs="+",
        type=positive_int,
        default=[1],
        metavar="N",
        help="images per step",
    )
    group.add_argument(
        "--epochs",
        nargs="+",
        type=positive_int,
        default=[1],
        metavar="N",
        help="how often each image is seen",
    )


def _add_protocol(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split",
        choices=("all", TRAIN),
        default="all",
        help="all images, or those of splits.csv for training",
    )
    group.add_argument(
        "--order",
        choices=("shuffled", "dataset"),
        help="shuffled from the seed, or by image id (default: shuffled; dataset in the released recipe)",
    )
    group.add_argument(
        "--batch-norm",
        choices=("update", "frozen"),
        default="update",
        help="normalise by the batch and let the running statistics follow (at batch size one: the last few "
        "images), or keep those of the pretrained network",
    )
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        default="corrected",
        help="corrected: the paper's text; released: the choices of the authors' scripts (1 - LPIPS is minimised, "
        "on [0, 1] images; dataset order; one model carried through all combinations; style from the last "
        "feature map)",
    )


def _add_start_and_speed(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pretrained",
        default=BASE_CHECKPOINT,
        metavar="PATH",
        help="checkpoint to start from; builtin for the compact one that ships with this project (with --image-size 96); "
        "none for random weights (every output says so)",
    )
    group.add_argument(
        "--arch", choices=ARCHITECTURES, default=DEFAULT_ARCHITECTURE, help="architecture of the autoencoder"
    )
    group.add_argument(
        "--width",
        type=positive_float,
        metavar="W",
        help="multiplies every number of channels, e.g. 0.25 (default: that of the checkpoint; 1 for random weights)",
    )
    group.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=500,
        metavar="N",
        help="steps between two saved states",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bf16", "auto"),
        default="float32",
        help="of the network in training (auto: bf16 where the device has units for it); losses stay float32",
    )
    group.add_argument("--compile", action="store_true", help="use torch.compile (slow start, faster steps)")


def main(args: argparse.Namespace) -> None:
    """Fine-tune a model for every combination of settings."""
    from models.autoencoder import check_image_size, scaled_widths
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.precision import settle_training_precision
    from utils.core.processes import is_main_rank, world_size
    from utils.core.run import Run
    from utils.data.dataset import load_dataset
    from utils.reconstruction import finetune_stage as stage
    from utils.reconstruction.finetuning import model_name
    from utils.reconstruction.losses import cached_losses, check_losses

    check_image_size(args.image_size)
    scaled_widths(args.width or 1.0)
    check_losses(args.loss, args.image_size)
    if args.weights == "available":
        args.loss, args.weights = cached_losses(args.loss), "pretrained"
    keep_freed_memory()
    full_float32()
    with Run("autoencoder_finetune", args) as run:
        args.precision = settle_training_precision(args, run)
        dataset = load_dataset(args)
        dataset.note_on(run)
        images = stage.chosen_images(args, dataset)
        if world_size() > 1:
            log.warning("Fine-tuning is sequential: of %d processes, rank 0 does it alone.", world_size())
        if not is_main_rank():
            return
        todo = stage.combinations(args)
        start: tuple = stage.find_start(args, run)
        skipped = list(dataset.skipped)
        for settings in todo:
            name = model_name(settings, args.arch, alone=len(todo) == 1, width=args.width)
            path = args.output_path / f"{name}.pth"
            with run.one_model():
                identity, unreadable = stage.train_one(args, run, images, settings, path, start)
            skipped += unreadable
            if settings.recipe == "released":
                start = (path, *identity)  # carried on into the next, as the released scripts do
        run.report_skipped(skipped)
        run.count(images=len(images), models=len(todo))


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
