"""Predict memorability scores from latent codes, and score anybody's pictures.

--train reads latents_<model>.npy and splits.csv, trains the MLP head on the training split, stops it on the
validation split, and writes mlp_<model>.pth and mlp_history_<model>.csv (with --search also mlp_search.csv).
--evaluate predicts the test split once, beside what the MLP has to beat, and writes mlp_metrics.csv,
mlp_predictions.csv, mlp_curves.csv, mlp_calibration.csv and figures, and the pairs of pictures that are almost the same
in near_duplicates_<model>.csv. Without a flag: both.
--predict scores files, folders, patterns, the pictures that a table names, or paths from standard input (-), and
writes predictions.csv (or --output FILE), in the order given; it needs no more than the checkpoint and mlp_<model>.pth in
the output folder.
"""

import argparse
from pathlib import Path

from utils.core.cli import (
    build_parser,
    non_negative_int,
    positive_float,
    positive_int,
    run_script,
    share_below_one,
)
from utils.core.errors import UserError
from utils.core.names import HEADLINE_LOSS, LOSSES


def non_negative_float(text: str) -> float:
    """Parse a finite number of at least 0 (for argparse's ``type``)."""
    return 0.0 if text.strip() in {"0", "0.0"} else positive_float(text)


def get_parser() -> argparse.ArgumentParser:
    """Make the command line of this stage."""
    parser = build_parser(__doc__, "data", "output", "models", "compute", "precision", "cluster", "batch")
    steps = parser.add_argument_group("what to do (default: --train --evaluate)")
    steps.add_argument("--train", action="store_true", help="train the MLP head")
    steps.add_argument(
        "--evaluate", action="store_true", help="evaluate it, and the baselines, on the test split"
    )
    steps.add_argument(
        "--predict",
        nargs="+",
        metavar="PATH",
        help="score files, folders, patterns, a CSV with a path column, or -",
    )
    steps.add_argument(
        "--contact-sheet", action="store_true", help="with --predict: the pictures as a grid, sorted"
    )
    steps.add_argument(
        "--explain", action="store_true", help="with --predict: an attribution overlay per picture"
    )
    steps.add_argument(
        "--full-decode",
        action="store_true",
        help="with --predict: decode large JPEGs at full size (otherwise reduced: faster; scores differ by less than 0.001)",
    )
    steps.add_argument(
        "--explain-steps",
        type=positive_int,
        default=50,
        metavar="N",
        help="with --explain: steps of Integrated Gradients, exactly so many",
    )
    steps.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="with --predict: where the scores go (default: predictions.csv in the output folder)",
    )
    _training_flags(parser)
    _evaluation_flags(parser)
    return parser


def _evaluation_flags(parser: argparse.ArgumentParser) -> None:
    judge = parser.add_argument_group("evaluation")
    judge.add_argument(
        "--n-splits", type=positive_int, default=1, metavar="K",
        help="repeat over K seeded splits (over K training seeds where the split is your own)",
    )  # fmt: skip
    judge.add_argument(
        "--n-seeds", type=positive_int, default=1, metavar="K", help="train K heads in each split"
    )
    judge.add_argument(
        "--group-near-duplicates", action="store_true",
        help="keep near-duplicates on one side of every split (give it to --train and to --evaluate)",
    )  # fmt: skip
    judge.add_argument(
        "--resamples", type=non_negative_int, default=1000, help="bootstrap resamples of the intervals"
    )
    judge.add_argument(
        "--rival",
        nargs="+",
        metavar="NAME=FILE",
        help="anybody's predictions (image_id or path, score) beside ours; or NAME=CODES for a ridge on "
        "latents_<CODES>.npy; or resmem, vitmem where that package is installed",
    )
    judge.add_argument(
        "--rival-trained-on",
        nargs="+",
        metavar="NAME=FILE",
        help="list of the images a rival was trained on: where test images are among them, its rows say so",
    )
    judge.add_argument(
        "--error-measure",
        choices=LOSSES,
        default=HEADLINE_LOSS,
        help="reconstruction error used as a baseline",
    )


def _training_flags(parser: argparse.ArgumentParser) -> None:
    mlp = parser.add_argument_group("training")
    mlp.add_argument(
        "--hidden-sizes", type=positive_int, nargs="*", default=[256, 64], metavar="N",
        help="width of each hidden layer; the flag without a number makes a linear model",
    )  # fmt: skip
    mlp.add_argument(
        "--dropout", type=share_below_one, default=0.5, help="share of hidden units dropped in training"
    )
    mlp.add_argument("--learning-rate", type=positive_float, default=3e-5, help="of AdamW")
    mlp.add_argument("--weight-decay", type=non_negative_float, default=1e-2, help="of AdamW")
    mlp.add_argument(
        "--train-batch-size", type=positive_int, default=128, metavar="N", help="latent codes per step"
    )
    mlp.add_argument("--epochs", type=positive_int, default=50, help="the most epochs")
    mlp.add_argument(
        "--patience", type=positive_int, default=8, help="epochs without improvement before stopping"
    )
    mlp.add_argument(
        "--search", action="store_true",
        help="try hidden sizes, dropout, learning rate and weight decay in combination; validation alone decides",
    )  # fmt: skip


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that would be ignored."""
    if (args.contact_sheet or args.explain) and not args.predict:
        flag = "--contact-sheet" if args.contact_sheet else "--explain"
        raise UserError(f"{flag} shows scored pictures: name them with --predict PATH.")
    if args.precision != "float32" and not args.predict:
        raise UserError(
            "--precision says how the network computes that scores pictures: name them with --predict PATH."
        )
    if args.output and not args.predict:
        raise UserError("--output says where scores go: name the pictures with --predict PATH.")
    if args.predict and args.model_names and len(args.model_names) > 1:
        raise UserError(
            f"--predict scores with one model, found {len(args.model_names)} in --model-names. Name one."
        )


def main(args: argparse.Namespace) -> None:
    """Train, evaluate, predict: what was asked for, in this order."""
    check_flags(args)
    if not (args.train or args.evaluate or args.predict):
        args.train = args.evaluate = True
    from utils.attribution.explain import explain_scored
    from utils.core.processes import alone, barrier, is_main_rank
    from utils.core.run import Run
    from utils.prediction import scoring_stage, stage

    # Scoring anybody's pictures is no part of the study: what is on record of it stays.
    kind = "" if args.train or args.evaluate else "predict"
    with Run("mlp_predict", args, kind) as run:
        if args.train or args.evaluate:
            if is_main_rank():  # one head, one process; scoring below is shared out
                with alone():  # reading splits.csv meets the other ranks elsewhere
                    stage.learn(run, args)
            barrier()
        scored = scoring_stage.predict(run, args) if args.predict else None
        if scored and args.contact_sheet:
            scoring_stage.draw_contact_sheet(run, scored[1])
        if scored and args.explain:
            explain_scored(run, scored[0], scored[1]["path"].tolist(), args.explain_steps)


if __name__ == "__main__":
    run_script(main, get_parser, stage=True)
