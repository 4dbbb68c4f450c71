"""Which pixels the predicted memorability rests on: Integrated Gradients of encoder and MLP head.

Reads: images and scores, a checkpoint (<model>.pth) with its MLP head (mlp_<model>.pth), and the objects and
segments that feature_analysis.py found, where it did. Done: for each image the attribution of its predicted
score to its pixels, with a check that the attributions add up; numbers that describe each map. Writes:
ig_<model>.csv, the maps ig_<model>.npy, pictures in ig/, and with --check ig_checks.csv with its figure.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, non_negative_int, positive_float, positive_int, run_script
from utils.core.errors import UserError
from utils.core.names import IG_BASELINES, IG_METHODS

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from utils.attribution.gradients import Settings
    from utils.core.run import Run

SCRIPT = "model_interpretation_IG"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser: the shared flags, what to do, for which images, and how."""
    parser = build_parser(__doc__ or "", "data", "output", "models", "compute", "weights", "scenes")
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
        "--split", choices=("test", "train", "val", "all"), default="test", help="split to attribute"
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
    how.add_argument("--baseline", choices=IG_BASELINES, default="black", help="where the path starts")
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


def main(args: argparse.Namespace) -> None:
    """Attribute, describe, draw and check; or show what an earlier run drew."""
    from utils.core.processes import is_main_rank
    from utils.core.run import Run

    if args.save or args.check or args.detect or not args.display:
        with Run(SCRIPT, args) as run:
            save(run, args)
    if args.display and is_main_rank():
        display(args)


def save(run: "Run", args: argparse.Namespace) -> None:
    """Compute and write everything."""
    from utils.attribution.stage import attribute, check, draw, find_regions, merge, report
    from utils.core.device import full_float32, keep_freed_memory
    from utils.core.processes import is_main_rank

    keep_freed_memory()
    full_float32()  # or the convergence delta measures cuDNN's rounding
    settings = ig_settings(args)
    network, model, identity = load_network(run, args)
    images, skipped = select_images(run, args)
    result = attribute(run, network, images, settings, model, identity)
    cache = find_regions(run, images)
    if not is_main_rank():
        return
    run.report_skipped([*skipped, *result.skipped])
    frame, maps = merge(run, result, images, model, cache)
    report(run, frame, settings)
    draw(run, frame, maps, model)
    if args.check:
        check(run, network, frame, settings, model)


def ig_settings(args: argparse.Namespace) -> "Settings":
    """Collect the flags that decide how attributions are computed."""
    from utils.attribution.gradients import Settings

    names = (
        "steps",
        "method",
        "baseline",
        "internal_batch_size",
        "smooth",
        "tolerance",
        "max_doublings",
        "seed",
    )
    return Settings(**{name: getattr(args, name) for name in names})


def load_network(run: "Run", args: argparse.Namespace) -> tuple["nn.Module", str, dict]:
    """Load encoder and head as one network on the CPU; return it, the checkpoint's stem and what identifies both."""
    from models.autoencoder import check_image_size
    from models.checkpoints import checkpoint_sha256, find_models, load_autoencoder, load_mlp, mlp_file
    from models.score_network import ScoreNetwork

    check_image_size(args.image_size)
    path, *others = find_models(args, several=False)
    if others:
        names = ", ".join(model.name for model in (path, *others))
        raise UserError(
            f"One model is explained at a time, found {names} in --model-names. Name one of them."
        )
    autoencoder, encoder = load_autoencoder(path, image_size=args.image_size)
    head_path = mlp_file(args.output_path, path.stem)
    head, meta = load_mlp(head_path, encoder)
    if meta.get("image_size", args.image_size) != args.image_size:
        raise UserError(
            f"{head_path} was trained on images of {meta['image_size']} px, but --image-size is {args.image_size}. "
            f"Use --image-size {meta['image_size']}."
        )
    run.note_caveats([*encoder["caveats"], *meta.get("caveats", [])])
    run.add_input(path)
    run.add_input(head_path)
    identity = {"encoder": encoder["sha256"], "mlp": checkpoint_sha256(head_path)}
    return ScoreNetwork(autoencoder.encoder, head).eval(), path.stem, identity


def select_images(run: "Run", args: argparse.Namespace) -> tuple["pd.DataFrame", list[tuple[str, str]]]:
    """Return the images to attribute (``image_id, path``, scores and split), and what is wrong with the data set."""
    from utils.data.dataset import limit_rows, load_dataset
    from utils.data.image_lists import named_images
    from utils.data.splits import load_splits

    # --limit counts among the chosen images, not among all, of which the test split is less than a third.
    dataset = load_dataset(argparse.Namespace(**{**vars(args), "limit": None}))
    dataset.note_on(run)
    table = load_splits(dataset, args.output_path, args.seed)
    table = table.merge(dataset.table[["image_id", "path"]], on="image_id", validate="one_to_one")
    if args.image_ids:
        table = named_images(table, args.image_ids, dataset.name)
    elif args.split != "all":
        table = table[table["split"] == args.split].reset_index(drop=True)
    if table.empty:
        raise UserError(
            f"No image of {dataset.name} is in the {args.split} split. Choose another with --split, or all."
        )
    return limit_rows(table, args.limit), dataset.skipped


def display(args: argparse.Namespace) -> None:
    """Show the pictures over the whole set that stand in the output folder."""
    from utils.attribution.figures import gallery_paths
    from utils.core.figures import show_or_say
    from utils.core.tables import models_with

    models = [Path(name).stem for name in args.model_names or []] or models_with(args.output_path, "ig")
    paths = [
        path for model in models for path in gallery_paths(args.output_path, model).values() if path.exists()
    ]
    if not paths:
        raise UserError(
            f"There are no pictures of attributions in {args.output_path / 'ig'}"
            f"{' for ' + ', '.join(models) if models else ''}. They are made by: python {SCRIPT}.py --save"
        )
    show_or_say(paths)


if __name__ == "__main__":
    run_script(main, get_parser)
