"""The work of ``mlp_predict.py --predict``: score what was named, and keep the list."""

import hashlib
from argparse import Namespace
from pathlib import Path

import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.precision import settle_precision
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.tables import output_file, read_table
from utils.prediction.contact_sheet import write_contact_sheet
from utils.prediction.inputs import gather_paths, not_tried
from utils.prediction.scoring import Predictor, describe_extremes, load_predictor, rank_scores, score_files
from utils.prediction.stage import check_image_size


def predict(run: Run, args: Namespace) -> tuple[Predictor, pd.DataFrame] | None:
    """Score pictures with what is in the output folder.

    Returns:
        What scored them, and the table of the scored, in the order given; None on ranks other than 0.
    """
    name = args.model_names[0] if args.model_names else None
    files, skipped = gather_paths(args.predict)
    if skipped and args.on_error == "fail":
        raise UserError(f"{skipped[0][0]}: {skipped[0][1]}. Leave such files out with --on-error skip.")
    passed = not_tried(args.predict, files)
    path = args.output or output_file(args.output_path, "predictions")
    if args.limit and args.limit < len(files):
        files = [files[place * len(files) // args.limit] for place in range(args.limit)]
    check_other_list(path, [*files, *(name for name, _ in skipped)], args.overwrite)
    settle_precision(args, run, ["predicted score"])
    predictor = load_predictor(args.output_path, name, str(run.device), args.precision)
    check_image_size(args, predictor.image_size, f"mlp_{predictor.meta['encoder']['stem']}.pth")
    run.note_caveats(predictor.meta.get("caveats", []))
    result = score_files(
        predictor, files, args.output_path, batch_size=args.batch_size, workers=args.workers,
        on_error=args.on_error, overwrite=args.overwrite, job=_job(args),
        draft=not args.full_decode,
    )  # fmt: skip
    if not is_main_rank():
        return None
    if result.up_to_date:
        table = read_table(path, "predictions")
        run.add_input(path)
    else:
        rows = result.frame()
        scored = dict(zip(rows["image_id"], rows["memorability"], strict=True))
        digests = {file: run.digests.of(file) for file in scored} if predictor.training_digests else {}
        table = rank_scores(scored, files, predictor.training_scores, digests, predictor.training_digests)
        run.write_table(table, "predictions", path=path)
    result.finish([path])
    run.report_skipped([*skipped, *result.skipped, *passed])
    run.count(images=len(files) + len(skipped), done=len(table), passed_over=len(passed))
    log.info(
        "Scored %d of %d pictures (path, score, percentile and rank are in %s, in the order given).\n%s",
        len(table),
        len(files) + len(skipped),
        path,
        describe_extremes(table),
    )
    if "in_training" in table and table["in_training"].astype(str).eq("True").any():
        log.warning(
            "%d of them were among the pictures that the head was trained on (column in_training): their scores are "
            "remembered, not predicted.",
            table["in_training"].astype(str).eq("True").sum(),
        )
    return predictor, table


def _job(args: Namespace) -> str:
    """Name the shards of a list that goes elsewhere than usual, so that two lists do not undo each other's."""
    if args.output is None:
        return "predictions"
    return f"predictions_{hashlib.sha256(str(args.output.resolve()).encode()).hexdigest()[:12]}"


def check_other_list(path: Path, wanted: list[str], overwrite: bool) -> None:
    """Refuse to replace a list of scores that holds other pictures than those that are asked for.

    Args:
        path: Where the list is to go.
        wanted: All pictures asked for.
        overwrite: Whether it may be replaced nevertheless.

    Raises:
        UserError: Something would be lost.
    """
    if overwrite or not path.exists():
        return
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; expected a file such as {path / 'predictions.csv'}.")
    try:
        lost = sorted(set(read_table(path, "predictions")["path"]) - set(wanted))
    except UserError:
        raise UserError(
            f"{path} is there already and is no list of scores. Name another file with --output, or replace it with "
            "--overwrite."
        ) from None
    if lost:
        raise UserError(
            f"{path} holds the scores of {len(lost)} other pictures, e.g. {lost[0]}. Write this list elsewhere with "
            "--output FILE, or replace that one with --overwrite."
        )


def draw_contact_sheet(run: Run, table: pd.DataFrame) -> None:
    """Draw the scored pictures as a grid, the most memorable first."""
    for page in write_contact_sheet(table, run.output_path, run.caveat):
        log.info("Wrote %s", run.add_output(page))
