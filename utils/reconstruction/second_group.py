"""A second column of human scores in the score table (``--second-score-column``): does it generalise over people?"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.tables import to_numbers
from utils.data.dataset import find_table
from utils.data.matching import as_known
from utils.data.scores import read_scores
from utils.data.user_tables import read_user_table
from utils.reconstruction.loss_tables import LossTable
from utils.statistics.two_groups import BETWEEN, Group, compare_groups

if TYPE_CHECKING:
    from utils.core.run import Run

SECOND = "second_score"
COUNTS = ("second_hits", "second_false_alarms", "second_n_resp")
MIN_IMAGES = 10


def add_second_scores(args: Namespace, losses: LossTable) -> pd.DataFrame:
    """Add the second group's scores, and their counts where named, to the images that have losses.

    Args:
        args: With ``second_score_column, second_counts, scores_csv, score_scale, data_dir``.
        losses: The losses with the first group's scores.

    Raises:
        UserError: A column is missing or holds no numbers, both columns are the same, or too few images have both.
    """
    if args.second_score_column == args.score_column:
        raise UserError(
            f"--score-column and --second-score-column are both {args.score_column}. Name two columns of human scores."
        )
    path = args.scores_csv or find_table(args.data_dir)
    table, found = read_scores(path, args.second_score_column, scale=args.score_scale)
    if found != args.second_score_column:
        raise UserError(f"{path} has no column '{args.second_score_column}'.")
    ids = as_known(table["image_id"], losses.frame["image_id"], path)
    second = pd.DataFrame({"image_id": ids, SECOND: table["memorability"]})
    if args.second_counts:
        raw = read_user_table(path).frame
        missing = [name for name in args.second_counts if name not in raw.columns]
        if missing:
            raise UserError(
                f"{path}: column {', '.join(missing)} of --second-counts is missing; found: "
                f"{', '.join(map(str, raw.columns))}."
            )
        for name, source in zip(COUNTS, args.second_counts, strict=True):
            second[name] = to_numbers(raw[source], path).to_numpy()
    twice = second["image_id"].duplicated()
    if twice.any():
        raise UserError(
            f"{path}: {second['image_id'][twice].iloc[0]} stands there more than once. Correct the file."
        )
    frame = losses.frame.merge(second, on="image_id", how="inner", validate="one_to_one")
    if len(frame) < MIN_IMAGES:
        raise UserError(
            f"Only {len(frame)} images have losses and both scores ({args.score_column}, {args.second_score_column} of "
            f"{path}); at least {MIN_IMAGES} are needed."
        )
    return frame


def compare_people(run: Run, args: Namespace, losses: LossTable) -> pd.DataFrame:
    """Write ``group_correlations.csv``.

    Args:
        run: The run.
        args: See :func:`add_second_scores`; and ``score_column, resamples, splits, seed, cluster``.
        losses: The losses with the first group's scores.
    """
    frame = add_second_scores(args, losses)
    own = tuple(name for name in ("hits", "false_alarms", "n_resp") if name in frame.columns)
    counted = len(own) == 3 and not frame[list(own)].isna().any(axis=None)
    first = Group("memorability", own if counted else ())
    second = Group(SECOND, COUNTS if args.second_counts else ())
    table = compare_groups(
        frame,
        list(losses.measures),
        first,
        second,
        cluster=args.cluster,
        resamples=args.resamples,
        splits=args.splits,
        seed=args.seed,
    )
    owners = table["measure"].map(lambda name: losses.measures.get(name, ("", name)))
    table = table.assign(
        model=[model for model, _ in owners],
        measure=[loss for _, loss in owners],
        first=args.score_column,
        second=args.second_score_column,
    )
    run.write_table(table, "group_correlations")
    _summarise(table)
    return table


def _summarise(table: pd.DataFrame) -> None:
    """Say the result in a line per measure."""
    for row in table.to_dict("records"):
        if row["measure"] == BETWEEN:
            log.info(
                "%s with %s: rho = %.3f [%.3f, %.3f], n = %d; without noise %.3f",
                *(
                    row[name]
                    for name in ("first", "second", "rho_first", "ci_low_first", "ci_high_first", "n")
                ),
                row["rho_first_disattenuated"],
            )
            continue
        log.info(
            "%s, %s: rho = %.3f with %s, %.3f with %s; difference %.3f [%.3f, %.3f], without noise %.3f [%.3f, %.3f]",
            *(row[name] for name in ("model", "measure", "rho_first", "first", "rho_second", "second")),
            *(row[name] for name in ("difference", "ci_low", "ci_high")),
            *(row[f"{name}_disattenuated"] for name in ("difference", "ci_low", "ci_high")),
        )
