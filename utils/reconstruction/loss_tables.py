"""Losses per image, joined with memorability scores: what `autoencoder_evaluation.py` evaluates.

Two sources: the tables of this study in the output folder (`test_loss_<model>.csv`, `exposures_<model>.csv`),
or any table of losses that somebody else made (`--table`). The scores, categories and response counts come
from the score table wherever one is found, by `image_id`, never by position.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.claims import written_by
from utils.core.errors import UserError
from utils.core.files import read_json
from utils.core.log import log
from utils.core.names import (
    CAVEAT_COLUMN,
    DEFAULT_DATA_DIR,
    DEFAULT_SCORE_COLUMN,
    LOSSES,
    RIVAL_MODEL,
    RIVALS,
    SAMPLE_CAVEAT,
    STORED_LOSSES,
)
from utils.core.run import Run
from utils.core.tables import models_with, output_file
from utils.data.dataset import WITHOUT_SCORES, find_table, limit_rows
from utils.data.matching import as_known
from utils.data.scores import half_names, read_scores, score_files

EXPOSURE = "exposure"  # the training loss of an image at its single exposure, as a loss among the others
SCORE_COLUMNS = [
    "image_id",
    "category",
    "subcategory",
    "group",
    "source",
    "memorability",
    "pixel_count",
    "hits",
    "false_alarms",
    "n_resp",
]
MAX_DIFFERENCE = 1e-6  # between a score recorded with the losses and the same score read again


@dataclass(frozen=True)
class LossTable:
    """Losses and scores, a row per image.

    Attributes:
        frame: SCORE_COLUMNS (empty text or NaN
            where unknown), published halves of the scores where there are any, sorted by `image_id`, and a column per
            measure; NaN where a model has no loss for an image.
        measures: (model, loss) of each measure column, in the order to report.
    """

    frame: pd.DataFrame
    measures: dict[str, tuple[str, str]]

    @property
    def models(self) -> list[str]:
        """The models, in the order to report; the rivals that know no network, where measured, are the last."""
        return list(dict.fromkeys(model for model, _ in self.measures.values()))

    def columns_of(self, model: str) -> dict[str, str]:
        """Return {loss: column} of one model."""
        return {loss: column for column, (owner, loss) in self.measures.items() if owner == model}


def read_study_losses(run: Run, args: Namespace) -> LossTable:
    """Read the loss and exposure tables of the output folder and join the scores.

    Args:
        run: The run, whose output folder is read and which records the inputs.
        args: With `model_names, loss_columns, scores_csv, data_dir, score_column, score_scale, sample, limit, on_error`.

    Returns:
        All chosen models and losses in one table.

    Raises:
        UserError: No table, a model or a loss that is not there, tables that contradict each other, or no
            image in common with the score table.
    """
    frames = _study_frames(run, args)
    losses_of = {
        model: [name for name in frame if name in (*LOSSES, *STORED_LOSSES, EXPOSURE)]
        for model, frame in frames.items()
    }
    wanted = _chosen_losses(args.loss_columns, losses_of, run.output_path)
    measures: dict[str, tuple[str, str]] = {}
    parts = []
    for model, frame in frames.items():
        names = {loss: f"{model}: {loss}" for loss in wanted if loss in losses_of[model]}
        measures |= {column: (model, loss) for loss, column in names.items()}
        parts.append(frame.set_index("image_id")[list(names)].rename(columns=names))
    if args.loss_columns is None and output_file(run.output_path, "rivals").exists():
        names = {rival: f"{RIVAL_MODEL}: {rival}" for rival in RIVALS}
        measures |= {column: (RIVAL_MODEL, rival) for rival, column in names.items()}
        rivals = run.read_table("rivals").set_index("image_id")[list(RIVALS)]
        parts.append(rivals.rename(columns=names))
    losses = pd.concat(parts, axis=1, sort=True).rename_axis("image_id").reset_index()
    recorded = _recorded_scores(run, frames)
    _require_scores(args, recorded, run.output_path)
    source = _score_source(args, run.output_path)
    scores = (
        None
        if source is None
        else _read_score_table(run, source, None if recorded is None else recorded["image_id"])
    )
    if scores is None and recorded is None:
        raise UserError(
            f"The exposures in {run.output_path} hold no memorability scores, and no score table was found. Name it with "
            "--scores-csv (or --data-dir), or compute the losses first: python autoencoder_test.py"
        )
    if scores is None and args.score_column != DEFAULT_SCORE_COLUMN:
        raise UserError(
            f"--score-column {args.score_column} needs the score table, and none was found for {run.output_path}. Name it "
            "with --scores-csv or --data-dir; without --score-column the scores recorded with the losses are used."
        )
    if scores is None or source is None:
        log.warning(
            "No score table was found, so the noise ceiling stays empty. Name it with --scores-csv or --data-dir."
        )
        scores, where = recorded, "the loss tables"
    else:
        where = str(source.path)
        scores = _reconcile(recorded, scores, where)
    return LossTable(_join(losses, scores, str(run.output_path), where, args), measures)


def _study_frames(run: Run, args: Namespace) -> dict[str, pd.DataFrame]:
    """Return a frame per model: `image_id`, its losses, its exposure, and the scores that were recorded."""
    tested, exposed = (models_with(run.output_path, table) for table in ("test_loss", "exposures"))
    known = sorted({*tested, *exposed})
    if not known:
        raise UserError(
            f"There is no test_loss_<model>.csv in {run.output_path}. It is written by: python autoencoder_test.py "
            f"(or evaluate a table of your own with --table PATH)"
        )
    _refuse_lost(run.output_path, exposed, tested)
    chosen = known if args.model_names is None else [Path(name).stem for name in args.model_names]
    chosen = list(dict.fromkeys(chosen))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise UserError(
            f"There are no losses of {', '.join(unknown)} in {run.output_path}. Found: {', '.join(known)}. Choose among "
            f"these with --model-names, or compute them: python autoencoder_test.py --model-names {' '.join(unknown)}"
        )
    frames = {}
    for model in chosen:
        parts = []
        if model in tested:
            parts.append(run.read_table("test_loss", model))
        if model in exposed:
            exposures = run.read_table("exposures", model).rename(columns={"loss": EXPOSURE})
            parts.append(exposures.drop(columns="order"))
        parts = [part.drop(columns=CAVEAT_COLUMN, errors="ignore") for part in parts]
        frames[model] = parts[0] if len(parts) == 1 else parts[0].merge(parts[1], how="outer", on="image_id")
    return frames


def _refuse_lost(output_path: Path, exposed: list[str], tested: list[str]) -> None:
    """Refuse to go on with the exposures of a model alone where its losses were computed, and their table is gone.

    Raises:
        UserError: Naming the table and the command that writes it.
    """
    claims = written_by(output_path)
    for model in exposed:
        path = output_file(output_path, "test_loss", model)
        if model not in tested and path.name in claims:
            raise UserError(f"{path} is missing. It was written by: {claims[path.name].how}")


def _chosen_losses(wanted: list[str] | None, found: dict[str, list[str]], place: Path) -> list[str]:
    """Return the losses to evaluate, in the order of LOSSES."""
    present = {loss for losses in found.values() for loss in losses}
    known = [loss for loss in (*LOSSES, *STORED_LOSSES, EXPOSURE) if loss in present]
    if wanted is None:
        return known
    unknown = [loss for loss in wanted if loss not in known]
    if unknown:
        raise UserError(
            f"Expected --loss-columns among those in {place}: {', '.join(known)}; found {', '.join(unknown)}. "
            f"All losses that autoencoder_test.py can compute: {', '.join(LOSSES)}."
        )
    return list(dict.fromkeys(wanted))


def _require_scores(args: Namespace, recorded: pd.DataFrame | None, output_path: Path) -> None:
    """Refuse losses of pictures that have no scores, unless a score table is named now.

    Raises:
        UserError: This stage is about scores alone.
    """
    if recorded is not None and recorded.empty and args.scores_csv is None:
        raise UserError(
            f"The images of {output_path} have no memorability scores, and this stage compares losses with nothing else. "
            f"{WITHOUT_SCORES}"
        )


def _recorded_scores(run: Run, frames: dict[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Return the scores that stand beside the losses (or in `splits.csv`), or None where there are none."""
    base = ["image_id", "category", "subcategory", "memorability"]
    parts = {
        output_file(run.output_path, "test_loss", model): frame.dropna(subset="memorability")[base]
        for model, frame in frames.items()
        if "memorability" in frame
    }
    splits = output_file(run.output_path, "splits")
    if not parts and splits.exists():
        parts = {splits: run.read_table("splits")[base]}
    if not parts:
        return None
    scores = pd.concat([part.assign(file=path.name) for path, part in parts.items()], ignore_index=True)
    spread = scores.groupby("image_id")["memorability"].agg(np.ptp)
    if (spread > MAX_DIFFERENCE).any():
        image_id = spread.index[spread > MAX_DIFFERENCE][0]
        rows = scores[scores["image_id"] == image_id].drop_duplicates("memorability")
        shown = ", ".join(
            f"{score:g} in {file}" for file, score in zip(rows["file"], rows["memorability"], strict=True)
        )
        raise UserError(
            f"The loss tables in {run.output_path} disagree about memorability: {image_id} has {shown}. They were made "
            "from different score columns or score tables. Choose models of one kind with --model-names, or run "
            "python autoencoder_test.py --overwrite"
        )
    scores = scores.drop(columns="file").drop_duplicates("image_id")
    return scores.assign(hits=np.nan, false_alarms=np.nan, n_resp=np.nan)


@dataclass(frozen=True)
class ScoreSource:
    """A score table and how to read it: see `utils.data.scores.read_scores`."""

    path: Path
    column: str
    group_column: str | None
    scale: str


def _score_source(args: Namespace, output_path: Path) -> ScoreSource | None:
    """Return where the scores are: by the flags, else as the losses were made, else what --data-dir holds."""
    if args.sample or args.scores_csv is not None or args.data_dir != DEFAULT_DATA_DIR:
        return _named_source(args, output_path)
    earlier = next(
        (
            read_json(record)["arguments"]
            for script in ("autoencoder_test", "autoencoder_finetune")
            if (record := output_path / f"run_{script}.json").exists()
        ),
        None,
    )
    if earlier is None:
        return _named_source(args, output_path) if DEFAULT_DATA_DIR.is_dir() else None
    column = args.score_column if args.score_column != DEFAULT_SCORE_COLUMN else earlier["score_column"]
    scores_csv = earlier["scores_csv"] and Path(earlier["scores_csv"])
    again = Namespace(
        sample=earlier["sample"],
        scores_csv=scores_csv,
        data_dir=Path(earlier["data_dir"]),
        score_column=column,
        group_column=args.group_column or earlier.get("group_column"),
        score_scale=args.score_scale if args.score_scale != "unit" else earlier.get("score_scale", "unit"),
    )
    place = output_path / "sample" if again.sample else again.scores_csv or again.data_dir
    return _named_source(again, output_path) if place.exists() else None


def _named_source(args: Namespace, output_path: Path) -> ScoreSource:
    """Return score table and columns as `--sample`, `--scores-csv` or `--data-dir` name them."""
    path = find_table(output_path / "sample") if args.sample else args.scores_csv or find_table(args.data_dir)
    return ScoreSource(path, args.score_column, args.group_column, args.score_scale)


def _read_score_table(run: Run, source: ScoreSource, known: pd.Series | None = None) -> pd.DataFrame:
    """Return a score table's SCORE_COLUMNS, an image per row; what it says twice and differently is left out.

    Args:
        run: The run, which records the inputs.
        source: The table.
        known: The images as the losses name them, for tables that call them otherwise.
    """
    path = source.path
    scores, name = read_scores(path, source.column, source.group_column, source.scale)
    for file in score_files(path):
        run.add_input(file)
    if path.is_relative_to(run.output_path / "sample"):
        run.note_caveats({SAMPLE_CAVEAT})
    log.info("Scores: column %s of %s", name, path)
    ids = scores["image_id"]
    if all(os.path.isabs(image_id) for image_id in ids):
        root = os.path.commonpath([os.path.dirname(image_id) for image_id in ids])
        ids = ids.map(lambda image_id: os.path.relpath(image_id, root))
    scores["image_id"] = ids.map(lambda image_id: os.path.normpath(image_id).replace(os.sep, "/"))
    scores["image_id"] = as_known(scores["image_id"], known, path)
    scores = scores[[*SCORE_COLUMNS, *half_names(scores)]].drop_duplicates()
    twice = scores["image_id"].duplicated(keep=False)
    if twice.any():
        log.warning(
            "%d images stand in %s with different scores and are left out.",
            scores.loc[twice, "image_id"].nunique(),
            path,
        )
    return scores[~twice]


def _reconcile(recorded: pd.DataFrame | None, scores: pd.DataFrame, where: str) -> pd.DataFrame:
    """Say where the score table differs from the scores recorded with the losses; take over categories it lacks."""
    if recorded is None:
        return scores
    both = recorded.merge(scores, on="image_id", suffixes=("_recorded", ""), validate="one_to_one")
    other = ((both["memorability_recorded"] - both["memorability"]).abs() > MAX_DIFFERENCE).sum()
    if other:
        log.warning(
            "%d of %d images have another memorability in %s than in the loss tables (another --score-column?); "
            "that of %s is used.",
            other,
            len(both),
            where,
            where,
        )
    known = recorded.set_index("image_id")
    lacking = [name for name in ("category", "subcategory") if (scores[name] == "").all()]
    return scores.assign(**{name: scores["image_id"].map(known[name]).fillna("") for name in lacking})


def _join(
    losses: pd.DataFrame, scores: pd.DataFrame, losses_from: str, where: str, args: Namespace
) -> pd.DataFrame:
    """Join losses and scores one to one by `image_id`; losses without a score are left out and counted.

    Raises:
        UserError: No image in common, or with `--on-error fail` any loss without a score.
    """
    if losses.empty or scores.empty:
        empty = losses_from if losses.empty else where
        raise UserError(f"{empty} names no image. Expected a row per image below the header.")
    joined = scores.merge(losses, on="image_id", how="inner", validate="one_to_one")
    absent = sorted(set(losses["image_id"]) - set(scores["image_id"]))
    if joined.empty:
        raise UserError(
            f"None of the {len(losses)} images with losses in {losses_from} has a score in {where}: the losses name e.g. "
            f"{losses['image_id'].iloc[0]}, the scores e.g. {scores['image_id'].iloc[0]}. Name the score table of these "
            "images with --scores-csv."
        )
    if absent:
        text = f"{len(absent)} of {len(losses)} images in {losses_from} have no score in {where} (e.g. {absent[0]})"
        if args.on_error == "fail":
            raise UserError(
                f"{text}. Leave them out with --on-error skip, or name another table with --scores-csv."
            )
        log.warning("%s; they are left out.", text)
    return limit_rows(joined.sort_values("image_id").reset_index(drop=True), args.limit)
