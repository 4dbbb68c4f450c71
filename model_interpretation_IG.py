"""Which pixels the predicted memorability rests on: Integrated Gradients of encoder and MLP head.

Reads: images and scores, a checkpoint (<model>.pth) with its MLP head (mlp_<model>.pth), and the objects and
segments that feature_analysis.py found, where it did. Done: for each image the attribution of its predicted
score to its pixels, with a check that the attributions add up; numbers that describe each map. Writes:
ig_<model>.csv, the maps ig_<model>.npy, pictures in ig/; with --check ig_checks.csv and ig_verdicts.csv with their
figures; with several --baseline ig_baselines_<model>.csv with its figure, and the further maps.
"""

import argparse

from utils.core.cli import build_parser, non_negative_int, positive_float, positive_int, run_script
from utils.core.names import IG_BASELINES, IG_METHODS, TEST, TRAIN, VALIDATION


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the shared flags, what to do, for which images, and how."""
    parser = build_parser(
        __doc__ or "", "data", "output", "models", "compute", "precision", "cluster", "weights", "scenes"
    )
    # Left out, they mean the objects and segments that are there (or the heavy networks with --detect).
    parser.set_defaults(detector=None, segmenter=None)
    what = parser.add_argument_group("what to do")
    what.add_argument(
        "--save",
        action="store_true",
        help="compute and save (done anyway with --check or --detect, or without --display)",
    )
    what.add_argument(
        "--display", action="store_true", help="show the pictures; without a display, say where they are"
    )
    what.add_argument(
        "--top-k",
        type=non_negative_int,
        default=8,
        metavar="K",
        help="most and least memorable images to draw",
    )
    what.add_argument(
        "--check", action="store_true", help="also test the attributions: shuffled weights, deletion"
    )
    what.add_argument("--check-images", type=positive_int, default=8, metavar="N", help="images for --check")
    what.add_argument(
        "--detect",
        action="store_true",
        help="look for objects and foreground where feature_analysis.py has not yet",
    )
    which = parser.add_argument_group("which images (--limit counts among these)")
    which.add_argument(
        "--split", choices=(TEST, TRAIN, VALIDATION, "all"), default=TEST, help="split to attribute"
    )
    which.add_argument(
        "--image-ids",
        nargs="+",
        metavar="ID",
        help="these images of any split: ids, or .txt and .csv files that list them",
    )
    _add_integration_flags(parser.add_argument_group("Integrated Gradients"))
    return parser


def _add_integration_flags(how: argparse._ArgumentGroup) -> None:
    """Add the flags that say how attributions are computed."""
    how.add_argument("--steps", type=positive_int, default=50, metavar="N", help="steps along the path")
    how.add_argument(
        "--method", choices=IG_METHODS, default="gausslegendre", help="rule of the numerical integral"
    )
    how.add_argument(
        "--baseline",
        nargs="+",
        choices=IG_BASELINES,
        default=["black"],
        help="where the path starts; expected averages over training images; of several, the first is analysed and the "
        "agreement of their maps reported",
    )
    how.add_argument(
        "--internal-batch-size",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="image-steps per pass, which set the memory; 0 chooses by device (4 on a CPU, 64 on CUDA)",
    )
    how.add_argument(
        "--smooth",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="average over N noisy copies, standard deviation 0.1 (0: none)",
    )
    how.add_argument(
        "--tolerance",
        type=positive_float,
        default=0.05,
        help="largest delta, relative to the change in prediction",
    )
    how.add_argument(
        "--max-doublings",
        type=non_negative_int,
        default=3,
        metavar="N",
        help="doublings of the steps above it",
    )

    how.add_argument(
        "--recipe",
        choices=("corrected", "released"),
        default="corrected",
        help="released: maps as the authors' script shows them, absolute values added over colours, steps never "
        "doubled, under the name <model>_released-maps",
    )


def main(args: argparse.Namespace) -> None:
    """Attribute, describe, draw and check; or show what an earlier run drew."""
    from utils.attribution import stage
    from utils.core.processes import is_main_rank
    from utils.core.run import Run

    if args.save or args.check or args.detect or not args.display:
        with Run("model_interpretation_IG", args) as run:
            stage.save(run, args)
    if args.display and is_main_rank():
        stage.display(args)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
