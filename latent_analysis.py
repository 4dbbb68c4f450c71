"""Stage 4: where does each image lie in latent space, and how far from all others?

--calculate-latents reads the images and a checkpoint, and writes latents_<model>.npy (images x values, to be
memory-mapped) with latents_<model>.csv naming its rows; resumable, any number of images in constant memory.
--distinctiveness-analysis reads those, finds every image's nearest other code exactly, and writes
distinctiveness_<model>.csv, distinctiveness_correlations.csv (with memorability, with reconstruction error, and
each with the other held constant), latent_space_<model>.csv and figures. Neither flag: both.

The codes are those of an autoencoder checkpoint, of another encoder (--encoder), or of a file (--codes), which
needs neither a network nor pictures. Other layers, poolings and searches have names of their own, e.g.
latents_<model>@conv4-avg.npy and distinctiveness_<model>@cosine-k5.csv, and never replace the default ones. torchrun
shares both parts among processes.
"""

import argparse
from pathlib import Path

from utils.core.cli import build_parser, positive_int, run_script
from utils.core.log import log
from utils.core.measure_names import MEASURES
from utils.core.names import POOLS


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(
        __doc__ or "", "data", "output", "models", "compute", "precision", "cluster", "batch"
    )
    parser.add_argument("--calculate-latents", action="store_true", help="encode the images")
    parser.add_argument(
        "--distinctiveness-analysis",
        action="store_true",
        help="search, correlate, draw (reads the latent codes)",
    )
    _add_code_flags(parser.add_argument_group("latent codes"))
    _add_file_flags(parser.add_argument_group("codes from a file, without a network or pictures"))
    _add_search_flags(parser.add_argument_group("distinctiveness"))
    return parser


def _add_code_flags(codes: argparse._ArgumentGroup) -> None:
    codes.add_argument(
        "--encoder",
        default="autoencoder",
        metavar="NAME",
        help="autoencoder (a checkpoint), torchvision:<name>, timm:<name> or openclip:<name>:<tag>",
    )
    codes.add_argument(
        "--encoder-weights",
        metavar="FILE",
        help="weights of that encoder, for machines without a network; random for trials, which marks every output",
    )
    codes.add_argument(
        "--layer",
        nargs="+",
        metavar="NAME",
        help="encoder block (conv1 to conv5; default: conv5) or layer of another encoder (default: what its classifier "
        "sees); several, or all, from one forward pass",
    )
    codes.add_argument(
        "--pool",
        type=lambda text: "avg" if text == "mean" else text,
        choices=POOLS,
        metavar="{none,mean,max,cls}",
        help="keep every position, or reduce each channel to its mean (avg is the same) or maximum, or take a "
        "transformer's class token (default: none; mean with other encoders)",
    )
    codes.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how codes are stored; float16 halves the file",
    )


def _add_file_flags(files: argparse._ArgumentGroup) -> None:
    files.add_argument(
        "--codes",
        type=Path,
        metavar="FILE",
        help="matrix of codes (.npy), or thingsvision's output folder (features.npy, file_names.txt)",
    )
    files.add_argument(
        "--codes-index",
        type=Path,
        metavar="FILE",
        help="CSV (or text) that names the image of each row (default: file_names.txt beside the matrix)",
    )
    files.add_argument(
        "--codes-column", metavar="NAME", help="its column with the names (default: the usual ones)"
    )
    files.add_argument(
        "--codes-name",
        metavar="NAME",
        help="what to call them in latents_<name>.npy (default: the file's stem)",
    )


def _add_search_flags(search: argparse._ArgumentGroup) -> None:
    search.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean", help="distance of two codes"
    )
    search.add_argument(
        "--neighbours",
        type=positive_int,
        default=1,
        metavar="K",
        help="mean distance to the K nearest others",
    )
    search.add_argument(
        "--within-category",
        action="store_true",
        help="look for neighbours only among images of the same category",
    )
    search.add_argument(
        "--measure",
        nargs="+",
        choices=("nearest", "all", *MEASURES),
        default=["nearest"],
        metavar="NAME",
        help="further measures of distinctiveness, in distinctiveness_measures_<model>.csv: all, or any of "
        + ", ".join(MEASURES),
    )
    search.add_argument(
        "--measure-neighbours",
        type=positive_int,
        metavar="K",
        help="K of the measures mean_k_* (default: 50, or all others in a smaller set)",
    )
    search.add_argument(
        "--resamples", type=positive_int, default=1000, metavar="N", help="bootstrap resamples"
    )
    search.add_argument(
        "--memory-mb",
        type=positive_int,
        metavar="MB",
        help="working memory of the search besides the mapped file (default: 384 on a CPU, half of what is free on a GPU)",
    )


def main(args: argparse.Namespace) -> None:
    """Calculate latent codes, analyse their distinctiveness, or both."""
    from utils.core.device import full_float32
    from utils.core.run import Run
    from utils.latents.calculation import settle_latent_precision
    from utils.latents.gather import gather_codes
    from utils.latents.stage import analyse_code_sets
    from utils.prediction.layer_sweep import sweep_models

    if not args.calculate_latents and not args.distinctiveness_analysis:
        args.calculate_latents = args.distinctiveness_analysis = True
    full_float32()
    with Run("latent_analysis", args) as run:
        settle_latent_precision(args, run)
        dataset, sets = gather_codes(args, run)
        run.count(models=len({codes.stem for codes in sets}))
        if args.distinctiveness_analysis:
            analyse_code_sets(args, run, dataset, sets)
            sweep_models(args, run, dataset, sets)
        log.info(
            "Next: python category_plot.py, python mlp_predict.py (both with --output-path %s)",
            args.output_path,
        )


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
