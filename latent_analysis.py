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
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, positive_int, run_script
from utils.core.log import log
from utils.core.measure_names import MEASURES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from utils.core.run import Run
    from utils.data.dataset import Dataset
    from utils.latents.codes import Latents


def get_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = build_parser(__doc__ or "", "data", "output", "models", "compute", "batch")
    parser.add_argument("--calculate-latents", action="store_true", help="encode the images")
    parser.add_argument(
        "--distinctiveness-analysis",
        action="store_true",
        help="search, correlate, draw (reads the latent codes)",
    )
    codes = parser.add_argument_group("latent codes")
    codes.add_argument(
        "--layer",
        choices=("conv1", "conv2", "conv3", "conv4", "conv5"),
        default="conv5",
        help="encoder block",
    )
    codes.add_argument(
        "--pool",
        choices=("none", "avg", "max"),
        default="none",
        help="keep every position, or reduce each channel to its mean or maximum (512 values at conv5)",
    )
    codes.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how codes are stored; float16 halves the file",
    )
    search = parser.add_argument_group("distinctiveness")
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
    return parser


def main(args: argparse.Namespace) -> None:
    """Calculate latent codes, analyse their distinctiveness, or both."""
    from models.autoencoder import check_image_size
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.processes import barrier, is_main_rank
    from utils.core.run import Run
    from utils.data.dataset import load_dataset
    from utils.latents.stage import calculate_latents, choose_models

    if not args.calculate_latents and not args.distinctiveness_analysis:
        args.calculate_latents = args.distinctiveness_analysis = True
    check_image_size(args.image_size)
    full_float32()
    with Run("latent_analysis", args) as run:
        models = choose_models(args)
        dataset = load_dataset(args)
        dataset.note_on(run)
        run.count(images=len(dataset.table), models=len(models))
        if args.calculate_latents:
            keep_freed_memory()
            skipped = list(dataset.skipped)
            for _, path in models:
                with run.one_model():
                    skipped += calculate_latents(args, run, dataset, path)
            if is_main_rank():
                run.report_skipped(skipped)
            barrier()  # the others read what rank 0 has merged
        if args.distinctiveness_analysis:
            analyse(args, run, dataset, models)
        log.info(
            "Next: python category_plot.py, python mlp_predict.py (both with --output-path %s)",
            args.output_path,
        )


def analyse(args: argparse.Namespace, run: "Run", dataset: "Dataset", models: list) -> None:
    """Analyse the distinctiveness of every model's codes, draw, and merge the correlations."""
    from utils.latents.stage import analyse_distinctiveness, write_correlations

    analysed = []
    for stem, path in models:
        with run.one_model():
            result = analyse_distinctiveness(args, run, dataset, stem, path)
            if result is not None:
                analysed.append(result[2].assign(caveat=run.caveat))
                draw(args, run, dataset, *result)
    if not analysed:  # ranks other than 0
        return
    merged = write_correlations(args, run, analysed)
    for row in merged[merged["model"].isin([rows["model"].iloc[0] for rows in analysed])].itertuples():
        if row.measure == "distinctiveness" and row.held_constant == "":
            log.info(
                "%s: rho of distinctiveness with memorability %.3f [%.3f, %.3f], n = %d",
                row.model,
                row.rho,
                row.ci_low,
                row.ci_high,
                row.n,
            )


def draw(
    args: argparse.Namespace,
    run: "Run",
    dataset: "Dataset",
    latents: "Latents",
    table: "pd.DataFrame",
    rows: "pd.DataFrame",
    losses: "pd.DataFrame | None",
) -> None:
    """Write the figures of one model, and the coordinates behind the map."""
    from utils.core.names import LOSSES
    from utils.latents.figures import draw_extremes, draw_latent_space, draw_scatter, pick_extremes
    from utils.latents.space import latent_space_table, principal_components, umap_coordinates

    name = rows["model"].iloc[0]
    codes = latents.path.stem.removeprefix("latents_")
    projection = principal_components(latents.matrix, seed=args.seed)
    space = latent_space_table(table, projection, umap_coordinates(projection.scores, args.seed))
    run.write_table(space, "latent_space", codes)
    run.save_figure(
        draw_latent_space(space, projection, codes, "memorability score"),
        f"latent_space_{codes}",
    )
    groups = pick_extremes(table)
    wanted = {name for rows in groups.values() for name in (*rows["image_id"], *rows["nearest_image_id"])}
    figure = draw_extremes(groups, read_pictures(dataset, wanted), name, args.metric)
    run.save_figure(figure, f"distinctive_images_{name}", formats=("png",))
    there = [] if losses is None else [loss for loss in LOSSES if loss in losses.columns]
    loss = "lpips-sq" if "lpips-sq" in there else there[0] if there else None
    run.save_figure(draw_scatter(table, rows, losses, name, loss), f"distinctiveness_{name}")


def read_pictures(dataset: "Dataset", wanted: set[str]) -> dict[str, "np.ndarray | str"]:
    """Read a few images as the network sees them, small; say why where that fails."""
    from utils.core.errors import ImageError
    from utils.data.images import load_pixels
    from utils.latents.figures import PICTURE_PX

    pictures = {}
    chosen = dataset.table[dataset.table["image_id"].isin(wanted)]
    for image_id, path in zip(chosen["image_id"], chosen["path"], strict=True):
        try:
            pictures[image_id] = load_pixels(path, PICTURE_PX)
        except ImageError as error:
            pictures[image_id] = error.reason
    return pictures


if __name__ == "__main__":
    run_script(main, get_parser)
