"""Predict memorability scores from latent codes, and score anybody's pictures.

--train reads latents_<model>.npy and splits.csv, trains the MLP head on the training split, stops it on the
validation split, and writes mlp_<model>.pth and mlp_history_<model>.csv (with --search also mlp_search.csv).
--evaluate predicts the test split once, beside what the MLP has to beat, and writes mlp_metrics.csv,
mlp_predictions.csv, mlp_curves.csv, mlp_calibration.csv and figures. Without a flag: both.
--predict scores files, folders, patterns, the path column of a CSV, or paths from standard input (-), and
writes predictions.csv; it needs no more than the checkpoint and mlp_<model>.pth in the output folder.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.cli import build_parser, non_negative_int, positive_float, positive_int, run_script
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES

if TYPE_CHECKING:
    from utils.core.run import Run
    from utils.prediction.data import PredictionData
    from utils.prediction.scoring import Predictor


def dropout_share(text: str) -> float:
    """Parse a share of dropped units: at least 0, below 1 (for argparse's ``type``)."""
    value = 0.0 if text.strip() in {"0", "0.0"} else positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a share below 1, got {text}")
    return value


def non_negative_float(text: str) -> float:
    """Parse a finite number of at least 0 (for argparse's ``type``)."""
    return 0.0 if text.strip() in {"0", "0.0"} else positive_float(text)


def get_parser() -> argparse.ArgumentParser:
    """Make the command line of this stage."""
    parser = build_parser(__doc__, "data", "output", "models", "compute", "batch")
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
    _training_flags(parser)
    judge = parser.add_argument_group("evaluation")
    judge.add_argument(
        "--n-splits", type=positive_int, default=1, metavar="K", help="repeat over K seeded splits"
    )
    judge.add_argument(
        "--resamples", type=non_negative_int, default=1000, help="bootstrap resamples of the intervals"
    )
    judge.add_argument(
        "--error-measure", choices=LOSSES, default="lpips-sq", help="reconstruction error used as a baseline"
    )
    return parser


def _training_flags(parser: argparse.ArgumentParser) -> None:
    mlp = parser.add_argument_group("training")
    mlp.add_argument(
        "--hidden-sizes", type=positive_int, nargs="*", default=[256, 64], metavar="N",
        help="width of each hidden layer; the flag without a number makes a linear model",
    )  # fmt: skip
    mlp.add_argument(
        "--dropout", type=dropout_share, default=0.5, help="share of hidden units dropped in training"
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


def train(run: "Run", args: argparse.Namespace, data: "PredictionData") -> None:
    """Train the head (after a search, if asked for) and save it with all that scoring needs."""
    from models.checkpoints import mlp_file, save_mlp
    from utils.prediction.stage import (
        fit_head,
        head_meta,
        history_table,
        replace_model_rows,
        settings_of,
    )

    result, tried = fit_head(data, data.split, settings_of(args), args.search, run.device)
    replace_model_rows(run, "mlp_search", tried, data.stem)
    path = mlp_file(args.output_path, data.stem)
    save_mlp(path, result.model.state_dict(), **head_meta(run, data, result, args.search))
    run.add_output(path)
    run.write_table(history_table(result), "mlp_history", data.stem)
    log.info(
        "Wrote %s: kept epoch %d of %d, validation loss %.4f (1: no better than the mean score)",
        path, result.best_epoch, len(result.history), result.best_loss,
    )  # fmt: skip


def evaluate(run: "Run", args: argparse.Namespace, data: "PredictionData") -> None:
    """Evaluate the saved head and the baselines on the test split; write tables and figures."""
    from utils.prediction import stage as mlp_stage

    head, meta = mlp_stage.load_head(args, data)
    run.note_caveats(meta.get("caveats", []))
    evaluation = mlp_stage.evaluate_split(data, data.split, head, args.resamples, args.seed)
    splits = [mlp_stage.split_rows(evaluation.metrics, data.split)]
    for split in mlp_stage.further_splits(data, args):
        result, _ = mlp_stage.fit_head(data, split, *mlp_stage.saved_settings(meta), run.device)
        again = mlp_stage.evaluate_split(data, split, result.model, 0, args.seed)
        splits.append(mlp_stage.split_rows(again.metrics, split))
    mlp_stage.write_evaluation(run, args, data, evaluation, splits)
    mlp_stage.draw_evaluation(run, args, data, evaluation)
    log.info("%s", mlp_stage.summary(evaluation.metrics))


def predict(run: "Run", args: argparse.Namespace) -> None:
    """Score pictures with what is in the output folder."""
    from utils.core.processes import is_main_rank
    from utils.core.tables import output_file
    from utils.prediction.scoring import (
        describe_extremes,
        gather_paths,
        load_predictor,
        rank_scores,
        score_files,
    )

    name = args.model_names[0] if args.model_names else None
    files, skipped = gather_paths(args.predict)
    if skipped and args.on_error == "fail":
        raise UserError(f"{skipped[0][0]}: {skipped[0][1]}. Leave such files out with --on-error skip.")
    if args.limit and args.limit < len(files):
        files = [files[place * len(files) // args.limit] for place in range(args.limit)]
    predictor = load_predictor(args.output_path, name, str(run.device))
    check_image_size(args, predictor.image_size, f"mlp_{predictor.meta['encoder']['stem']}.pth")
    run.note_caveats(predictor.meta.get("caveats", []))
    result = score_files(
        predictor, files, args.output_path, batch_size=args.batch_size, workers=args.workers,
        on_error=args.on_error, overwrite=args.overwrite,
    )  # fmt: skip
    if not is_main_rank():
        return
    path = output_file(args.output_path, "predictions")
    if result.up_to_date:
        table = run.read_table("predictions")
    else:
        table = rank_scores(result.frame(), predictor.training_scores)
        run.write_table(table, "predictions")
    result.finish([path])
    run.report_skipped([*skipped, *result.skipped])
    run.count(images=len(files) + len(skipped), done=len(table))
    log.info(
        "Scored %d of %d pictures (path, score, percentile and rank are in %s).\n%s",
        len(table),
        len(files) + len(skipped),
        path,
        describe_extremes(table),
    )
    illustrate(run, args, predictor, table["path"].tolist())


def illustrate(run: "Run", args: argparse.Namespace, predictor: "Predictor", paths: list[str]) -> None:
    """Draw the contact sheet and the attribution overlays, where asked for."""
    if args.contact_sheet:
        from utils.prediction.contact_sheet import write_contact_sheet

        for page in write_contact_sheet(run.read_table("predictions"), args.output_path, run.caveat):
            log.info("Wrote %s", run.add_output(page))
    if args.explain:
        from utils.attribution.explain import explain_files

        for picture in explain_files(predictor, paths, args.output_path / "explanations", run.caveat):
            run.add_output(picture)
        log.info("Wrote %d attribution overlays to %s", len(paths), args.output_path / "explanations")


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that would be ignored."""
    if (args.contact_sheet or args.explain) and not args.predict:
        flag = "--contact-sheet" if args.contact_sheet else "--explain"
        raise UserError(f"{flag} shows scored pictures: name them with --predict PATH.")
    if args.predict and args.model_names and len(args.model_names) > 1:
        raise UserError(
            f"--predict scores with one model, found {len(args.model_names)} in --model-names. Name one."
        )


def check_image_size(args: argparse.Namespace, size: int, source: str) -> None:
    """Refuse an image size that was asked for and is not that of the latent codes or the head."""
    if args.image_size not in (size, get_parser().get_default("image_size")):
        raise UserError(
            f"--image-size {args.image_size} was asked for, but {source} is of images of {size} px."
        )


def main(args: argparse.Namespace) -> None:
    """Train, evaluate, predict: what was asked for, in this order."""
    check_flags(args)
    if not (args.train or args.evaluate or args.predict):
        args.train = args.evaluate = True
    from utils.core.processes import alone, barrier, is_main_rank
    from utils.core.run import Run

    with Run("mlp_predict", args) as run:
        if args.train or args.evaluate:
            if is_main_rank():  # one head, one process; scoring below is shared out
                with alone():  # reading splits.csv meets the other ranks elsewhere
                    learn(run, args)
            barrier()
        if args.predict:
            predict(run, args)


def learn(run: "Run", args: argparse.Namespace) -> None:
    """Train and evaluate the head of each named model (of the only one, without a name)."""
    from models.checkpoints import find_models
    from utils.prediction.data import load_prediction_data

    checkpoints: list[Path] = find_models(args, several=False)
    for checkpoint in checkpoints:
        with run.one_model():  # one head's caveats are not the next one's
            data = load_prediction_data(run, args, checkpoint)
            check_image_size(args, data.image_size, f"latents_{data.stem}.npy")
            run.count(images=len(data.images))
            if args.train:
                train(run, args, data)
            if args.evaluate:
                evaluate(run, args, data)


if __name__ == "__main__":
    run_script(main, get_parser)
