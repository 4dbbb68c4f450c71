"""What image features are compared with: memorability, attributions, reconstruction error, distinctiveness."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pandas as pd

from utils.core.contract import TABLES
from utils.core.declarations.columns import MEMORABILITY
from utils.core.errors import UserError
from utils.core.feature_names import ALL_FEATURES
from utils.core.log import log
from utils.core.names import DEFAULT_SCORE_COLUMN, LOSSES
from utils.core.tables import models_with, output_file
from utils.features.crop import FULL
from utils.features.model import feature_group, linearise
from utils.statistics.correlation_tables import add_q, correlation_rows

if TYPE_CHECKING:
    from pathlib import Path

    from utils.core.run import Run

_WITHIN = ("rho", "ci_low", "ci_high", "p", "q")
CORRELATIONS = [
    *("n", "cluster", "clusters", "rho", "ci_low", "ci_high", "p", "q"),
    *("ci_low_independent", "ci_high_independent", "p_independent"),
    *(f"{name}_within_category" for name in _WITHIN),
    *("resamples", "seed"),
]


def chosen_models(output_path: Path, table: str, names: list[str] | None) -> list[str]:
    """The models that have a table in the output folder, of those that ``--model-names`` asks for.

    Args:
        output_path: the output folder.
        table: a per-model table's name.
        names: checkpoint names, with or without ``.pth``; None takes every model.
    """
    wanted = None if names is None else {name.removesuffix(".pth") for name in names}
    return [model for model in models_with(output_path, table) if wanted is None or model in wanted]


def asked_scores(run: Run, args: Namespace, frame: pd.DataFrame) -> pd.DataFrame:
    """Put in the scores that ``--score-column`` or ``--scores-csv`` ask for.

    The table of features keeps those of the run that calculated them, which may have been others.

    Args:
        run: the run; records the data set.
        args: with the data flags.
        frame: ``image_features.csv``.

    Returns:
        The frame as it is where neither flag is given; else its images that have such a score, with it.

    Raises:
        UserError: none of the images has one, or the data set cannot be read.
    """
    if args.scores_csv is None and args.score_column == DEFAULT_SCORE_COLUMN:
        return frame
    from utils.core.processes import alone
    from utils.data.dataset import load_dataset

    with alone():  # one rank evaluates
        dataset = load_dataset(args)
    dataset.note_on(run)
    scores = dataset.table[["image_id", MEMORABILITY.name]]
    joined = frame.drop(columns=MEMORABILITY.name).merge(scores, on="image_id", validate="one_to_one")
    if joined.empty:
        raise UserError(
            f"image_features.csv and {dataset.scores_csv} have no image in common (e.g. {frame['image_id'].iloc[0]} and "
            f"{scores['image_id'].iloc[0]}). Run: {TABLES['image_features'].command} with the same data flags."
        )
    return joined


def attribution_tables(run: Run, args: Namespace) -> dict[str, pd.DataFrame]:
    """Read the attribution table of each model: ``image_id`` and its measures.

    Where there is none, says which command writes it.
    """
    tables = {}
    for model in chosen_models(args.output_path, "ig", args.model_names):
        frame = run.read_table("ig", model)
        measures = [
            column.name
            for column in TABLES["ig"].columns
            if column.kind == "float" and column.name in frame and column.name != MEMORABILITY.name
        ]
        tables[model] = frame[["image_id", *measures]]
    if not tables:
        log.info(
            "No attribution table (%s) here: features are compared with memorability alone. %s adds the rest.",
            TABLES["ig"].file.format(model="<model>"),
            TABLES["ig"].command,
        )
    return tables


def error_tables(run: Run, args: Namespace) -> dict[str, pd.DataFrame]:
    """Read per model what the autoencoder says of each image: ``image_id``, its reconstruction errors, distinctiveness.

    Models need both tables; where one is missing, says which command writes it.
    """
    tables = {}
    for model in chosen_models(args.output_path, "test_loss", args.model_names):
        if not output_file(args.output_path, "distinctiveness", model).exists():
            continue
        errors = run.read_table("test_loss", model)
        errors = errors[["image_id", *(name for name in LOSSES if name in errors)]]
        distinct = run.read_table("distinctiveness", model)[["image_id", "distinctiveness"]]
        tables[model] = errors.merge(distinct, on="image_id", validate="one_to_one")
    if not tables:
        log.info(
            "No model has both reconstruction errors and distinctiveness here: what features add to them is left out. "
            "%s and %s write them.",
            TABLES["test_loss"].command,
            TABLES["distinctiveness"].command,
        )
    return tables


def feature_correlations(
    frame: pd.DataFrame,
    attributions: dict[str, pd.DataFrame],
    resamples: int,
    seed: int,
    cluster: str | None = None,
    region: str = FULL,
) -> pd.DataFrame:
    """Rank correlation of every feature with memorability and with every attribution measure.

    Args:
        frame: ``image_id, category, memorability``, what clusters are made of, and feature columns, one row per image.
        attributions: per model ``image_id`` and its measures.
        resamples: bootstrap resamples of the images.
        seed: seed of the resampling.
        cluster: ``--cluster``: what is resampled together.
        region: what the features were computed on, for the column of that name.

    Returns:
        The rows of ``feature_correlations.csv``; each q is taken over the features of one target.

    Raises:
        UserError: there is no feature in the frame, or an attribution table has none of its images.
    """
    frame = linearise(frame)
    features = [name for name in frame if name.removesuffix("_cos").removesuffix("_sin") in ALL_FEATURES]
    if not features:
        raise UserError(
            f"image_features.csv holds no feature. Run: {TABLES['image_features'].command} --overwrite"
        )
    drawn = (resamples, seed, cluster)
    tables = [_against(frame, features, [MEMORABILITY.name], "", *drawn)]
    for model, other in attributions.items():
        targets = [name for name in other.columns if name != "image_id"]
        clashing = {name: f"{name} (attribution)" for name in targets if name in frame}
        joined = frame.merge(other.rename(columns=clashing), on="image_id", validate="one_to_one")
        if joined.empty:
            raise UserError(
                f"ig_{model}.csv and image_features.csv have no image in common (e.g. {other['image_id'].iloc[0]} and "
                f"{frame['image_id'].iloc[0]}). Run both stages on the same images."
            )
        log.info("Attributions of %s: %d images in common with the features.", model, len(joined))
        tables.append(_against(joined, features, [clashing.get(t, t) for t in targets], model, *drawn))
    return pd.concat(tables, ignore_index=True).assign(region=region)


def _against(
    frame: pd.DataFrame,
    features: list[str],
    targets: list[str],
    model: str,
    resamples: int,
    seed: int,
    cluster: str | None,
) -> pd.DataFrame:
    """The rows of one model's targets."""
    table = correlation_rows(
        frame, features, targets, resamples=resamples, seed=seed, cluster=cluster, covariates=()
    )
    rows = add_q(table, ["target"])[["measure", "target", *CORRELATIONS]].rename(
        columns={"measure": "feature"}
    )
    return rows.assign(model=model, group=rows["feature"].map(feature_group))
