"""Per-image losses from elsewhere (``--table``), matched to a score table."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import CAVEAT_COLUMN, DEFAULT_DATA_DIR, DEFAULT_SCORE_COLUMN, LOSSES
from utils.core.run import Run
from utils.core.tables import to_numbers
from utils.data.scores import half_names, pixel_counts, read_counts
from utils.data.user_tables import NAMES, read_user_table, recognise, to_scores
from utils.reconstruction.loss_tables import (
    SCORE_COLUMNS,
    LossTable,
    _join,
    _named_source,
    _read_score_table,
)

# A table of losses may give images a path beside their id: then the id joins.
KEY_NAMES = ("image_id", *(name for name in NAMES["image"] if name != "path"), "path")
SHARED_LABELS = ("category", "subcategory", "group", "source")


def read_foreign(run: Run, args: Namespace) -> LossTable:
    """Read any table of losses (`--table`).

    Score, labels (category, subcategory, group, source), response counts and published halves are the table's own where
    it has those columns; what it lacks comes from the score table if one is named (`--scores-csv`, `--data-dir` or
    `--sample`). Columns are known by the names in `utils.data.user_tables.NAMES`, in any case.

    Args:
        run: The run, which records the inputs.
        args: With `table, loss_columns, score_column, score_scale, scores_csv, data_dir, sample, limit, on_error`.

    Returns:
        The losses under the name of the file.

    Raises:
        UserError: No column that names the images, no known loss or score column, rows that are missing,
            repeated or not numbers, or no image in common with the score table.
    """
    path = args.table
    table = read_user_table(path, [*SHARED_LABELS, CAVEAT_COLUMN])
    frame, key = table.frame, recognise(table.frame.columns, KEY_NAMES)
    run.add_input(path)
    run.note_caveats(Caveats.of_table(frame))
    ids = _key_column(frame, key, path)
    measures = {f"{path.stem}: {loss}": (path.stem, loss) for loss in _foreign_losses(frame, args, path)}
    numbers = {column: to_numbers(frame[loss], path) for column, (_, loss) in measures.items()}
    score_name = _own_score(frame, args.score_column)
    named = {"scores": score_name} if score_name else {}
    log.info(
        "%s",
        table.understood(images=str(key), losses=", ".join(loss for _, loss in measures.values()), **named),
    )
    own = _own_columns(frame, score_name, path, args.score_scale)
    if not (args.sample or args.scores_csv is not None or args.data_dir != DEFAULT_DATA_DIR):
        if score_name is None:
            raise UserError(
                f"{path}: there is no score column '{args.score_column}'. Choose one of its columns with "
                f"--score-column, or name a score table with --scores-csv; columns: {', '.join(frame.columns)}."
            )
        own.insert(0, "image_id", ids)
        scores, where = own.reindex(columns=[*SCORE_COLUMNS, *half_names(own)]), str(path)
    else:
        source = _named_source(args, run.output_path)
        column = _readable_column(source.path, source.column, score_name)
        scores = _read_score_table(run, replace(source, column=column))
        ids, where = _match_files(ids, scores, path, source.path), str(source.path)
        own.insert(0, "image_id", ids)
        # With scores of its own an image stays even where the score table does not know it.
        other = scores.drop(columns=[name for name in own if name != "image_id"])
        kept = "inner" if score_name is None else "left"
        scores = own.merge(other, how=kept, on="image_id", validate="one_to_one")
        scores = scores[[*SCORE_COLUMNS, *half_names(scores)]]
    labels = list(SHARED_LABELS)
    scores[labels] = scores[labels].fillna("")
    losses = pd.DataFrame({"image_id": ids, **numbers})
    return LossTable(_join(losses, scores, str(path), where, args), measures)


def _own_columns(frame: pd.DataFrame, score_name: str | None, path: Path, scale: str) -> pd.DataFrame:
    """Return what a foreign table itself says of its images: labels, score, counts, halves, size."""
    own = frame[[name for name in SHARED_LABELS if name in frame.columns]].copy()
    if score_name is not None:
        own["memorability"] = to_scores(frame[score_name], path, scale)
    counts = read_counts(frame, path)
    for column in (*counts, *half_names(frame)):
        own[column] = (
            counts[column] if column in counts else to_numbers(frame[column], path, allow_empty=True)
        )
    pixels = pixel_counts(frame, path)
    return own if pixels is None else own.assign(pixel_count=pixels)


def _key_column(frame: pd.DataFrame, key: str | None, path: Path) -> pd.Series:
    """Return what names the images of a foreign table, each once."""
    if key is None:
        raise UserError(
            f"{path}: expected a column image_id or image_file that names the images (or {', '.join(KEY_NAMES[2:])}); "
            f"found: {', '.join(map(str, frame.columns))}."
        )
    ids = frame[key].str.strip().str.replace("\\", "/", regex=False)
    if (ids == "").any():
        raise UserError(
            f"{path}: column {key} is empty in line {int(np.flatnonzero(ids == '')[0]) + 2}. Correct the file."
        )
    twice = ids.duplicated()
    if twice.any():
        raise UserError(
            f"{path}: {twice.sum()} images stand there more than once, e.g. {ids[twice].iloc[0]} again in line "
            f"{int(np.flatnonzero(twice)[0]) + 2}. Expected one row per image; correct the file."
        )
    return ids


def _foreign_losses(frame: pd.DataFrame, args: Namespace, path: Path) -> list[str]:
    """Return the loss columns of a foreign table: those named, else every known loss it has."""
    if args.loss_columns is None:
        losses = [loss for loss in LOSSES if loss in frame.columns]
        common = recognise(frame.columns, NAMES["loss"])
        if losses:
            return losses
        if common is not None:
            return [common]
    unknown = [name for name in args.loss_columns or [] if name not in frame.columns]
    if args.loss_columns and not unknown:
        return list(dict.fromkeys(args.loss_columns))
    numeric = [name for name in frame.columns if pd.to_numeric(frame[name], errors="coerce").notna().all()]
    what = (
        f"there is no loss column {', '.join(unknown)}" if unknown else "none of its columns is a known loss"
    )
    raise UserError(
        f"{path}: {what}. Name columns with --loss-columns; those that hold numbers: {', '.join(numeric) or 'none'}. "
        f"Known losses: {', '.join(LOSSES)}."
    )


def _own_score(frame: pd.DataFrame, wanted: str) -> str | None:
    """Return the score column of a foreign table, if it has one."""
    if wanted == DEFAULT_SCORE_COLUMN:
        return recognise(frame.columns, NAMES["score"])
    return wanted if wanted in frame.columns else None


def _readable_column(source: Path, wanted: str, own: str | None) -> str:
    """Return a score column to read from a score table that, where the scores are known, only adds categories."""
    if (
        own is None
        or source.suffix == ".txt"
        or source.is_dir()
        or wanted in read_user_table(source).frame.columns
    ):
        return wanted
    return DEFAULT_SCORE_COLUMN


def _match_files(ids: pd.Series, scores: pd.DataFrame, path: Path, source: Path) -> pd.Series:
    """Return the `image_id` of images that a foreign table names by id or by bare file name.

    Raises:
        UserError: Nothing matches, or a bare file name stands for several images.
    """
    if ids.isin(scores["image_id"]).any():
        return ids
    names = scores["image_id"].str.rsplit("/", n=1).str[-1]
    if not ids.isin(names).any():
        raise UserError(
            f"None of the {len(ids)} images of {path} stands in {source}: the losses name e.g. {ids.iloc[0]}, the scores "
            f"e.g. {scores['image_id'].iloc[0]}. Name the score table of these images with --scores-csv."
        )
    unclear = sorted(set(ids) & set(names[names.duplicated()]))
    if unclear:
        raise UserError(
            f"{path}: the file name {unclear[0]} stands for several images of {source} ({len(unclear)} such names). "
            "Expected a column image_id with folders, e.g. " + scores["image_id"].iloc[0]
        )
    known = dict(zip(names, scores["image_id"], strict=True))
    return ids.map(lambda name: known.get(name, name))
