"""Stage 9 (optional): move latent codes so that their predicted memorability rises, and see what remains of it.

Reads the images, a checkpoint (<model>.pth), its latents and its MLP head (mlp_<model>.pth). Done: each picture
starts as its own reconstruction and is moved along the gradient of the predicted score, and along the weights of a
ridge regression, up to stated changes of the picture; the same changes are spent on controls (descent, a random
direction, contrast, saturation, sharpness). Every result is saved as 8-bit PNG, read again and scored, by the head
and by a judge that shares neither features nor training images with it. Writes steering_<model>.csv,
steering_summary.csv, steering_features.csv, the pictures in steering/<model>/ and figures.
All of it is predicted memorability: whether people remember such pictures better, only people can say.
"""

import argparse

from utils.core.cli import build_parser, non_negative_int, positive_float, positive_int, run_script

DEFAULT_IMAGES = 32
GROUPS = ("data", "output", "models", "compute", "precision", "cluster", "batch", "weights")


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", *GROUPS)
    parser.set_defaults(limit=DEFAULT_IMAGES)
    moves = parser.add_argument_group("moves (--limit counts images of the split)")
    moves.add_argument(
        "--psnr-budget",
        nargs="+",
        type=positive_float,
        default=[32.0, 28.0, 24.0],
        metavar="DB",
        help="least PSNR of a moved picture against its reconstruction; several values: several steps",
    )
    moves.add_argument(
        "--lpips-budget",
        type=float,
        metavar="LPIPS",
        help="largest LPIPS (squeezenet) against it, too; needs that network's weights",
    )
    moves.add_argument(
        "--radius-quantile",
        type=positive_float,
        default=0.95,
        metavar="Q",
        help="a code may lie as far from the nearest training code as this share of the training codes do",
    )
    moves.add_argument(
        "--split", choices=("test", "val"), default="test", help="split the images are taken from"
    )
    proof = parser.add_argument_group("proof")
    proof.add_argument(
        "--judge",
        default="features",
        metavar="WHO",
        help="second opinion: features (ridge on colour, texture and structure), another checkpoint (ridge on its codes), "
        "a CSV with path,score of the pictures of an earlier run, or none",
    )
    proof.add_argument(
        "--head-resamples",
        type=non_negative_int,
        default=8,
        metavar="N",
        help="heads trained on resampled images, so that intervals hold for more than this one head (0: they do not)",
    )
    proof.add_argument(
        "--resamples", type=positive_int, default=1000, metavar="N", help="bootstrap resamples of ratios"
    )
    proof.add_argument(
        "--error-measure", default="lpips-sq", metavar="LOSS", help=argparse.SUPPRESS
    )  # asked for by the loader of the prediction data
    return parser


def main(args: argparse.Namespace) -> None:
    """Steer, measure, compare, draw."""
    from models.autoencoder import check_image_size
    from models.checkpoints import find_models
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.precision import refuse_reduced_precision
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.steering import stage
    from utils.steering.figures import draw_all

    check_image_size(args.image_size)
    stage.check_budgets(args)
    keep_freed_memory()
    full_float32()
    refuse_reduced_precision(args, "Moves", "they follow gradients, and budgets are met to the last digit")
    with Run("memorability_steering", args) as run:
        checkpoint = find_models(args, several=False)[0]
        study = stage.prepare_study(run, args, checkpoint)
        images = stage.choose_images(study, args)
        result = stage.steer(run, args, study, images)
        if not is_main_rank():
            return
        run.report_skipped(result.skipped)
        table, summary, changes = stage.write_tables(run, study, result, images)
        draw_all(run, study.stem, table, summary, changes, images)
        stage.report(run, table, summary)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
