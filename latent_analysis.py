"""Stage 4: where does each image lie in latent space, and how far from all others?

--calculate-latents reads the images and a checkpoint, and writes latents_<model>.npy (images x values, to be
memory-mapped) with latents_<model>.csv naming its rows; resumable, any number of images in constant memory.
--distinctiveness-analysis reads those, finds every image's nearest other code exactly, and writes
distinctiveness_<model>.csv, distinctiveness_correlations.csv (with memorability, with reconstruction error, and
each with the other held constant), latent_space_<model>.csv and figures. Neither flag: both.

Other layers, poolings and searches have names of their own, e.g. latents_<model>@conv4-avg.npy and
distinctiveness_<model>@cosine-k5.csv, and never replace the default ones. torchrun shares both parts among processes.
"""

import argparse

from utils.core.cli import build_parser, positive_int, run_script
from utils.core.log import log
from utils.core.measure_names import MEASURES
from utils.core.names import LAYERS, POOLS


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "data", "output", "models", "compute", "cluster", "batch")
    parser.add_argument("--calculate-latents", action="store_true", help="encode the images")
    parser.add_argument(
        "--distinctiveness-analysis",
        action="store_true",
        help="search, correlate, draw (reads the latent codes)",
    )
    _add_code_flags(parser.add_argument_group("latent codes"))
    _add_search_flags(parser.add_argument_group("distinctiveness"))
    return parser


def _add_code_flags(codes: argparse._ArgumentGroup) -> None:
    codes.add_argument(
        "--layer",
        choices=LAYERS,
        default=LAYERS[-1],
        help="encoder block",
    )
    codes.add_argument(
        "--pool",
        choices=POOLS,
        default=POOLS[0],
        help="keep every position, or reduce each channel to its mean or maximum (512 values at conv5)",
    )
    codes.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how codes are stored; float16 halves the file",
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
    from models.autoencoder import check_image_size
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.processes import barrier, is_main_rank
    from utils.core.run import Run
    from utils.data.dataset import load_dataset
    from utils.latents import stage

    if not args.calculate_latents and not args.distinctiveness_analysis:
        args.calculate_latents = args.distinctiveness_analysis = True
    check_image_size(args.image_size)
    full_float32()
    with Run("latent_analysis", args) as run:
        models = stage.choose_models(args)
        dataset = load_dataset(args)
        dataset.note_on(run)
        run.count(images=len(dataset.table), models=len(models))
        if args.calculate_latents:
            keep_freed_memory()
            skipped = list(dataset.skipped)
            for _, path in models:
                with run.one_model():
                    skipped += stage.calculate_latents(args, run, dataset, path)
            if is_main_rank():
                run.report_skipped(skipped)
            barrier()  # the others read what rank 0 has merged
        if args.distinctiveness_analysis:
            stage.analyse_models(args, run, dataset, models)
        log.info(
            "Next: python category_plot.py, python mlp_predict.py (both with --output-path %s)",
            args.output_path,
        )


if __name__ == "__main__":
    run_script(main, get_parser)
