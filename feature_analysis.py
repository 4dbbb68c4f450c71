"""What memorable images look like: colour, texture, structure, composition, faces and scene, against memorability.

Reads: images and scores; to evaluate, also the attribution table (ig_<model>.csv), reconstruction errors
and distinctiveness, where there are any. Done: features of each image, from its file at its own size and from the
crop that the networks saw; their rank correlation with memorability and with each attribution measure;
memorability predicted from them, and what they add to error and distinctiveness.
Writes: image_features.csv, image_features_crop.csv and the objects and segments in
scene_cache_<detector>_<segmenter>.sqlite; feature_correlations.csv, feature_model.csv, feature_importance.csv,
feature_commonality.csv and their figures.
"""

import argparse

from utils.core.cli import build_parser, positive_int, run_script
from utils.core.feature_names import ALL_GROUPS
from utils.core.names import DEFAULT_IMAGE_SIZE


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the shared flags, what to do, which features, and how they are judged."""
    parser = build_parser(
        __doc__ or "",
        "data",
        "output",
        "models",
        "processing",
        "precision",
        "cluster",
        "batch",
        "weights",
        "scenes",
    )
    what = parser.add_argument_group("what to do (both, if neither is given)")
    what.add_argument("--calculate-features", action="store_true", help="compute the features of each image")
    what.add_argument(
        "--evaluate-features", action="store_true", help="correlate them and predict memorability"
    )
    what.add_argument(
        "--features",
        nargs="+",
        choices=ALL_GROUPS,
        help="groups of features to compute (default: all but faces)",
    )
    what.add_argument(
        "--recipe",
        choices=("corrected", "released"),
        default="corrected",
        help="released: also what the authors' script computes (columns released_...: from the 224 px crop, one "
        "direction of the GLCM, clutter as Sobel entropy, objects without a threshold), to be compared with ours",
    )
    what.add_argument(
        "--region",
        nargs="+",
        choices=("full", "crop"),
        default=["full", "crop"],
        help="features of the whole picture at its own size, of the crop that the networks saw, or both",
    )
    what.add_argument(
        "--crop-size", type=positive_int, default=DEFAULT_IMAGE_SIZE, metavar="PX", help="side of that crop"
    )
    _add_evaluation_flags(parser.add_argument_group("evaluation"))
    return parser


def _add_evaluation_flags(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--resamples", type=positive_int, default=1000, help="bootstrap resamples of the images")
    how.add_argument("--folds", type=positive_int, default=5, help="folds of the model of memorability")
    how.add_argument(
        "--repeats", type=positive_int, default=5, help="shuffles per feature for its importance"
    )
    how.add_argument(
        "--permutations", type=positive_int, default=499, help="permutations of whole clusters behind each p"
    )


def main(args: argparse.Namespace) -> None:
    """Calculate, evaluate, or both."""
    from utils.core.processes import is_main_rank
    from utils.core.run import Run
    from utils.features import stage

    stage.check_flags(args)
    both = args.calculate_features == args.evaluate_features
    with Run("feature_analysis", args) as run:
        if both or args.calculate_features:
            stage.calculate(run, args)
        if (both or args.evaluate_features) and is_main_rank():
            stage.evaluate(run, args)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
