"""What the prediction stage learns from: latent codes, scores, splits and the two measures, joined by image_id."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.checkpoints import load_autoencoder
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES
from utils.core.run import Run
from utils.core.tables import output_file
from utils.data.dataset import load_dataset
from utils.data.splits import load_splits
from utils.latents.codes import command_for, is_foreign, open_latents
from utils.prediction.partition import Split, split_positions
from utils.prediction.predictors import DISTINCTIVENESS, ERROR
from utils.prediction.ridge import check_finite


@dataclass(frozen=True)
class PredictionData:
    """Everything known about one model's images.

    Attributes:
        stem: The encoder checkpoint's file stem.
        encoder: ``stem``, ``sha256`` of the encoder the latent codes came from.
        image_size: Side in pixels of the images the codes came from.
        latents: (N, D) memory-mapped matrix.
        ids: (N,) image ids of its rows.
        images: Images with latent codes and a score: the data set's columns, ``split``, and ``position`` (row of
            the matrix); sorted by image_id.
        scores: (N,) memorability scores; NaN for rows whose image has none here.
        split: Positions of ``splits.csv``'s splits.
        measures: N rows: reconstruction error and distinctiveness, where those stages were run.
        error_measure: The loss used as reconstruction error; empty when there is none.
        score_column: Where the scores came from.
        dataset_name: Name of the data set.
        own_split: Whether the split is the user's own (column ``split``), which no other may replace.
        split_by: What stays together in further splits (``--split-by``).
    """

    stem: str
    encoder: dict[str, Any]
    image_size: int
    latents: NDArray
    ids: NDArray
    images: pd.DataFrame
    scores: NDArray[np.float64]
    split: Split
    measures: pd.DataFrame
    error_measure: str
    score_column: str
    dataset_name: str
    own_split: bool
    split_by: str | None


def load_prediction_data(run: Run, args: Namespace, checkpoint: Path) -> PredictionData:
    """Read and join latents, scores, splits, reconstruction error and distinctiveness.

    Args:
        run: The run; notes inputs, caveats and left-out images.
        args: With the data flags, ``output_path``, ``seed``, ``on_error`` and ``error_measure``.
        checkpoint: The encoder's file; where there is none, the codes of its stem are those of another encoder or of a
            file.

    Raises:
        UserError: Something is missing, of another encoder or data set, not finite, or too small.
    """
    stem = checkpoint.stem
    pictures = checkpoint.is_file() or not is_foreign(args.output_path, stem)
    dataset = load_dataset(args, pictures)
    dataset.require_scores("Learning to predict scores")
    dataset.note_on(run)
    splits = load_splits(dataset, args.output_path, args.seed)
    if checkpoint.is_file():
        _, checkpoint_meta = load_autoencoder(checkpoint)
        run.note_caveats(checkpoint_meta["caveats"])
        encoder = {"stem": stem, "sha256": checkpoint_meta["sha256"]}
        latents = open_latents(args.output_path, stem, encoder)
    else:
        latents = open_latents(args.output_path, stem)
        run.note_caveats(latents.caveats)
        encoder = {"stem": stem, "sha256": latents.encoder_sha256}
    run.add_input(latents.path)
    ids = np.array(latents.image_ids, dtype=object)
    check_finite(latents.matrix, ids, str(latents.path))
    images = dataset.table.drop(columns="split").merge(
        splits[["image_id", "split"]], on="image_id", validate="one_to_one"
    )
    images, missing = _with_positions(images, ids, args, stem)
    run.report_skipped([*dataset.skipped, *((name, "it has no latent code") for name in missing)])
    scores = np.full(len(ids), np.nan)
    scores[images["position"]] = images["memorability"]
    measures, error_measure = _measures(run, args, stem, ids)
    return PredictionData(
        stem,
        encoder,
        latents.image_size,
        latents.matrix,
        ids,
        images,
        scores,
        split_positions(images["split"], images["position"].to_numpy(), seed=args.seed),
        measures,
        error_measure,
        dataset.score_column,
        dataset.name,
        bool((dataset.table["split"].astype(str) != "").all()),
        dataset.split_by,
    )


def _with_positions(
    images: pd.DataFrame, ids: NDArray, args: Namespace, stem: str
) -> tuple[pd.DataFrame, list[str]]:
    """Add each image's row in the latent matrix; return the images that have one, and the names of the others."""
    place = pd.Series(np.arange(len(ids)), index=ids)
    known = images["image_id"].isin(place.index)
    missing = images.loc[~known, "image_id"].tolist()
    command = command_for()
    if not known.any():
        raise UserError(
            f"latents_{stem}.csv and the score table name different images: not one of {len(images)} images has a "
            f"latent code (e.g. {missing[0]}; latents have e.g. {ids[0]}). Calculate latents of this data set: {command}"
        )
    if missing and args.on_error == "fail":
        raise UserError(
            f"{len(missing)} of {len(images)} images have no latent code in latents_{stem}.csv, e.g. {missing[0]}. "
            f"Calculate them: {command}; or leave such images out with --on-error skip."
        )
    if missing:
        log.warning("%d of %d images have no latent code and are left out.", len(missing), len(images))
    surplus = len(ids) - int(known.sum())
    if surplus and args.limit is None:
        log.warning(
            "%d latent codes belong to images that are not in the data set; they are not used.", surplus
        )
    images = images[known].reset_index(drop=True)
    return images.assign(position=place.loc[images["image_id"]].to_numpy()), missing


def _measures(run: Run, args: Namespace, stem: str, ids: NDArray) -> tuple[pd.DataFrame, str]:
    """Read reconstruction error and distinctiveness of each latent row, where their stages were run."""
    measures = pd.DataFrame(index=np.arange(len(ids)))
    error = ""
    for table, column in (("test_loss", ERROR), ("distinctiveness", DISTINCTIVENESS)):
        path = output_file(args.output_path, table, stem)
        if not path.exists():
            log.warning(
                "Without %s the baseline '%s' is left out; it is written by: %s",
                path.name,
                column,
                TABLES[table].command,
            )
            continue
        frame = run.read_table(table, stem).set_index("image_id")
        if table == "test_loss":
            error = _choose_error(list(frame.columns), args.error_measure, path)
        measures[column] = (
            frame[error if table == "test_loss" else "distinctiveness"].reindex(ids).to_numpy(float)
        )
    return measures, error


def _choose_error(columns: Sequence[str], wanted: str, path: Path) -> str:
    """Return the loss to use as reconstruction error: the wanted one, else the first there is."""
    computed = [name for name in LOSSES if name in columns]
    if wanted in computed:
        return wanted
    if not computed:
        raise UserError(
            f"{path} holds none of the losses {', '.join(LOSSES)}. Write it again: python autoencoder_test.py"
        )
    log.warning("%s has no %s; reconstruction error is %s instead.", path.name, wanted, computed[0])
    return computed[0]


def training_digest(data: PredictionData, split: Split) -> str:
    """Digest which images train and validate, so that an MLP is never evaluated on images it was trained on."""
    digest = hashlib.sha256()
    for name in (*data.ids[split.train], "", *data.ids[split.val]):
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()
