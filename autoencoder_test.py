"""Stage 2: how badly does each network reconstruct each image, by eight losses?

Reads the images and the checkpoints that stage 1 wrote (all in the output folder, or those of --model-names).
Runs each image through each network once and computes all losses from that one reconstruction; larger always
means reconstructed worse. Writes test_loss_<model>.csv, reconstructions_<model>.png (best, median and worst images
by --figure-loss) and rivals.csv (what each picture's detail says without a network). Resumes after a kill; several
processes share the work under torchrun.
"""

import argparse

from utils.core.cli import build_parser, run_script
from utils.core.log import log
from utils.core.names import LOSSES, RECIPES


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(
        __doc__ or "", "data", "output", "models", "compute", "precision", "batch", "weights"
    )
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
        choices=RECIPES,
        default="corrected",
        help="corrected: as published; released: LPIPS on unscaled [0, 1] images and style from the last VGG19 "
        "feature map, as in the authors' scripts, in files called ..._<model>_released-losses (larger still means "
        "worse; what those scripts store under the name of a loss stands beside it as 1-lpips-...: larger is better)",
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Compute the losses of every chosen checkpoint."""
    from functools import partial

    from models.autoencoder import check_image_size
    from models.checkpoints import find_models, load_autoencoder
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.precision import settle_precision
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.data.dataset import load_dataset
    from utils.pretraining.rival import fit_rival
    from utils.reconstruction import testing_stage as stage
    from utils.reconstruction.rivals import write_rivals

    check_image_size(args.image_size)
    stage.check_loss_flags(args)
    keep_freed_memory()
    full_float32()
    with Run("autoencoder_test", args) as run:
        settle_precision(args, run, args.losses)
        models = find_models(args)
        dataset = load_dataset(args)
        dataset.note_on(run)
        stage.note_random_trunks(args, run)
        skipped = list(dataset.skipped) + stage.losses_of_models(args, run, dataset, models)
        code_width = load_autoencoder(models[0])[0].widths[-1]
        skipped += write_rivals(run, dataset, partial(fit_rival, channels=code_width), code_width)
        if is_main_rank():
            run.report_skipped(skipped)
        run.count(images=len(dataset.table), models=len(models))
        log.info("Next: python autoencoder_evaluation.py --output-path %s", args.output_path)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
