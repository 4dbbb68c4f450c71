"""Stage 0: train an autoencoder from nothing, on any folder of pictures; no scores are needed.

For studies without the ImageNet checkpoint, or with a network of their own size. Reads the pictures of --data-dir (or,
with --split train, the training images of splits.csv), holds some out, and trains on random crops, mirrored at random:
Muon, warm-up and cosine, gradients clipped; with --grow from the outer block inwards, one block deeper at a time. After
each epoch the held-out pictures are reconstructed; the best epoch is kept. Beside it stands what principal components
of 32 px blocks reach with a code of the same size.
Writes <model>.pth, which stage 1 takes with --pretrained like the ImageNet one, pretraining_<model>.csv and .png/.pdf
(held-out PSNR over the epochs), pretraining_pictures_<model>.png/.pdf (the same held-out pictures over the epochs).
A run that was killed goes on where it stood and, on a CPU, ends with the same bytes.
"""

import argparse

from utils.core.cli import build_parser, positive_float, positive_int, run_script, share_below_one
from utils.core.log import log
from utils.core.names import ARCHITECTURES

PIXEL_LOSSES = ("mse", "mae", "ssim", "ms-ssim")
INITIALISATIONS = ("delta-orthogonal", "he")
DEFAULT_EPOCHS = 100


def loss_term(text: str) -> tuple[str, float]:
    """Parse ``mse`` or ``mse=0.8`` (for argparse's ``type``)."""
    name, given, weight = text.partition("=")
    if name not in PIXEL_LOSSES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PIXEL_LOSSES)}, got '{name}'")
    return name, positive_float(weight) if given else 1.0


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "data", "output", "compute")
    _add_network(parser.add_argument_group("network"))
    _add_pictures(parser.add_argument_group("pictures"))
    _add_length(parser.add_argument_group("how long, and how it is kept"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    return parser


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--arch", choices=ARCHITECTURES, default="vgg16", help="architecture of the autoencoder"
    )
    group.add_argument(
        "--width",
        type=positive_float,
        default=1.0,
        metavar="W",
        help="multiplies every number of channels, e.g. 0.25",
    )
    group.add_argument(
        "--model-name",
        metavar="NAME",
        help="name of the checkpoint (default: pretrained_<arch>, with its width)",
    )
    group.add_argument(
        "--initialisation",
        choices=INITIALISATIONS,
        default=INITIALISATIONS[0],
        help="of the weights: delta-orthogonal passes the picture on from the first step",
    )
    group.add_argument(
        "--half",
        action="store_true",
        help="keep 16 bits of each weight in the checkpoint, which halves the file",
    )


def _add_pictures(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split",
        choices=("all", "train"),
        default="all",
        help="all pictures of the folder, or the images of splits.csv for training with those for validation held out",
    )
    group.add_argument(
        "--held-out",
        type=share_below_one,
        default=0.1,
        metavar="SHARE",
        help="share of the pictures held out with --split all",
    )
    group.add_argument(
        "--cache-mb",
        type=positive_int,
        default=2048,
        metavar="MB",
        help="decoded pictures kept in memory; those beyond it are decoded at every use",
    )


def _add_length(group: argparse._ArgumentGroup) -> None:
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"how often each picture is seen (default: {DEFAULT_EPOCHS})",
    )
    length.add_argument(
        "--minutes",
        type=positive_float,
        metavar="M",
        help="train for about so long: a few steps are timed first, and as many epochs planned as fit",
    )
    group.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=200,
        metavar="N",
        help="steps between two saved states",
    )


def _add_optimisation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--batch-size", type=positive_int, default=16, metavar="N", help="crops per step")
    group.add_argument(
        "--optimizer",
        choices=("muon", "adam"),
        default="muon",
        help="muon: orthogonalised momentum for kernels and Adam for the rest; adam for all",
    )
    group.add_argument(
        "--learning-rate",
        type=positive_float,
        metavar="RATE",
        help="after the warm-up (default: 0.01 for muon, 0.002 for adam)",
    )
    group.add_argument(
        "--loss",
        type=loss_term,
        nargs="+",
        default=[("mse", 1.0)],
        metavar="LOSS",
        help=f"{', '.join(PIXEL_LOSSES)}; or a mix with weights, e.g. mae=0.16 ms-ssim=0.84 (default: mse)",
    )
    group.add_argument(
        "--grow",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="outer block of encoder and decoder first, then a block deeper at a time (default: all at once, which got "
        "further in the same time from the orthogonal start)",
    )
    _add_regularity(group)


def _add_regularity(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gradient-clip",
        type=positive_float,
        default=1.0,
        metavar="NORM",
        help="largest norm of the gradient",
    )
    group.add_argument(
        "--batch-norm-momentum",
        type=share_below_one,
        default=0.1,
        metavar="SHARE",
        help="how fast the running statistics follow the batches",
    )
    group.add_argument(
        "--frozen-share",
        type=share_below_one,
        default=0.0,
        metavar="SHARE",
        help="last share of the steps in which batch norm keeps its running statistics",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bf16", "auto"),
        default="float32",
        help="of the network; losses stay float32, held-out pictures are scored in float32",
    )


def main(args: argparse.Namespace) -> None:
    """Train an autoencoder from nothing."""
    from models.autoencoder import check_image_size
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.processes import is_main_rank, world_size
    from utils.core.run import Run
    from utils.pretraining.stage import pretrain

    check_image_size(args.image_size)
    if args.epochs is None and args.minutes is None:
        args.epochs = DEFAULT_EPOCHS
    keep_freed_memory()
    full_float32()
    with Run("autoencoder_pretrain", args) as run:
        if world_size() > 1:
            log.warning("Pretraining uses one device: of %d processes, rank 0 does it alone.", world_size())
        if is_main_rank():
            pretrain(args, run)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
