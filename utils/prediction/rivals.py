"""Rivals: anybody's predictions of the same test images, in the same table, with the paired difference to ours."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.tables import output_file, read_csv, to_numbers
from utils.data.image_lists import read_image_ids
from utils.latents.codes import open_latents
from utils.latents.foreign_codes import match_names
from utils.prediction.data import PredictionData
from utils.prediction.evaluation import CEILING, difference_rows, metric_table
from utils.prediction.predictors import MLP, RIDGE
from utils.prediction.ridge import fit_ridge
from utils.prediction.rival_adapters import ADAPTERS, run_adapter

PREFIX = "rival: "
SCORE_COLUMNS = ("score", "prediction", "predicted", "memorability")
TRAINED_ON_TEST = "trained on test images"


@dataclass(frozen=True)
class Rival:
    """One rival.

    Attributes:
        name: As the user calls it.
        scores: Predicted score by ``image_id``.
        detail: Where the scores come from.
        trained_on: Images of the data set it was trained on, as far as anybody said.
    """

    name: str
    scores: pd.Series
    detail: str
    trained_on: frozenset[str] = frozenset()

    @property
    def column(self) -> str:
        """Its name in ``mlp_metrics.csv``."""
        return PREFIX + self.name


def parse_named(texts: Sequence[str], flag: str) -> dict[str, str]:
    """Split ``NAME=VALUE`` texts.

    Raises:
        UserError: A text of another form, or a name twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or (separator and not value):
            raise UserError(f"Expected {flag} NAME=FILE, found '{text}'.")
        if name in found:
            raise UserError(f"{flag} names '{name}' twice. Give every rival a name of its own.")
        found[name] = value
    return found


def gather_rivals(args: Namespace, data: PredictionData) -> list[Rival]:
    """Read or compute the predictions of every ``--rival``.

    Args:
        args: With ``rival, rival_trained_on, output_path, device, seed``.
        data: Codes, scores and split.

    Raises:
        UserError: A file that cannot be used, a package that is missing, or a list for no rival.
    """
    rivals = parse_named(args.rival or [], "--rival")
    trained_on = parse_named(args.rival_trained_on or [], "--rival-trained-on")
    lost = [name for name in trained_on if name not in rivals]
    if lost:
        raise UserError(
            f"--rival-trained-on names {', '.join(lost)}, and there is no such --rival. Rivals: "
            f"{', '.join(rivals) or 'none'}."
        )
    found = []
    for name, source in rivals.items():
        ids = data.images["image_id"].tolist()
        listed = read_image_ids([trained_on[name]]) if name in trained_on else []
        seen = frozenset(match_names(listed, ids).values())
        scores, detail = _scores(args, data, name, source)
        found.append(Rival(name, scores, detail, seen))
    return found


def _scores(args: Namespace, data: PredictionData, name: str, source: str) -> tuple[pd.Series, str]:
    """Return a rival's scores and where they come from."""
    if not source:
        if name not in ADAPTERS:
            raise UserError(f"Expected --rival NAME=FILE, or one of {', '.join(ADAPTERS)}, found '{name}'.")
        return run_adapter(name, data.images[data.images["split"] == "test"], args.device), ADAPTERS[
            name
        ].about
    if Path(source).is_file():
        return read_rival(Path(source), data.images["image_id"].tolist()), Path(source).name
    if output_file(args.output_path, "latents", source).is_file():
        return _ridge_on(args, data, source), f"ridge on latents_{source}.npy, the same training images"
    raise UserError(
        f"--rival {name}={source}: there is no such file, and no latents_{source}.npy in {args.output_path} to fit a ridge "
        "on."
    )


def read_rival(path: Path, image_ids: list[str]) -> pd.Series:
    """Read predictions: a column that names the images, and one with scores.

    Args:
        path: CSV with ``image_id`` or ``path``, and ``score`` (or the only column of numbers).
        image_ids: The images of the data set.

    Returns:
        Score by ``image_id``, of the images that are in the data set.

    Raises:
        UserError: Missing columns, cells that are no numbers, an image twice, no image in common.
    """
    frame = read_csv(path, text_columns=["image_id", "path"])
    key = next((name for name in ("image_id", "path") if name in frame.columns), None)
    rest = [str(name) for name in frame.columns if name != key]
    numeric = [name for name in rest if pd.to_numeric(frame[name], errors="coerce").notna().all()]
    usual = [name for name in SCORE_COLUMNS if name in rest]
    chosen = usual[0] if usual else numeric[0] if len(numeric) == 1 else None
    if key is None or chosen is None:
        raise UserError(
            f"{path}: expected a column image_id or path, and a column score, found: {', '.join(map(str, frame.columns))}."
        )
    names = frame[key].str.strip().str.replace("\\", "/", regex=False)
    scores = to_numbers(frame[chosen], path)
    meaning = match_names(list(dict.fromkeys(names)), image_ids)
    ids = names.map(meaning)
    known = ids.notna()
    if not known.any():
        raise UserError(
            f"None of the {len(frame)} images of {path} is in the data set: it names e.g. {names.iloc[0]}, the data set "
            f"e.g. {image_ids[0]}."
        )
    twice = ids[known].duplicated()
    if twice.any():
        raise UserError(
            f"{path}: {ids[known][twice].iloc[0]} stands there more than once. Expected one score per image."
        )
    return pd.Series(scores[known].to_numpy(), index=ids[known].to_numpy())


def _ridge_on(args: Namespace, data: PredictionData, name: str) -> pd.Series:
    """Predict the test images by a ridge on other codes, fitted on the same training images."""
    latents = open_latents(args.output_path, name)
    place = pd.Series(np.arange(len(latents.image_ids)), index=latents.image_ids)
    known = data.images[data.images["image_id"].isin(place.index)]
    positions = place.loc[known["image_id"]].to_numpy()
    scores = np.full(len(place), np.nan)
    scores[positions] = known["memorability"]
    rows = {
        part: np.sort(positions[(known["split"] == part).to_numpy()]) for part in ("train", "val", "test")
    }
    if min(map(len, rows.values())) == 0:
        raise UserError(
            f"--rival {name}: latents_{name}.npy has no codes of the training, validation or test images."
        )
    fit = fit_ridge(latents.matrix, scores, rows["train"], rows["val"], seed=args.seed)
    return pd.Series(fit.predict(latents.matrix, rows["test"]), index=place.index[rows["test"]])


def rival_rows(
    test: pd.DataFrame,
    rivals: Sequence[Rival],
    threshold: float,
    resamples: int,
    seed: int,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Evaluate rivals on the test images.

    Args:
        test: The test images with ``image_id, memorability, category`` and our predictions.
        rivals: Their predictions.
        threshold: Median training score.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
        cluster: ``--cluster``: what is resampled together.

    Returns:
        Rows of ``mlp_metrics.csv``: every metric of each rival, and ``mlp - rival`` and ``ridge - rival`` on the images
        that both predict. ``detail`` says ``trained on test images`` where that is so: such a number is no prediction.
    """
    if not rivals:
        return pd.DataFrame()
    test, details = test.copy(), {}
    for rival in rivals:
        test[rival.column] = test["image_id"].map(rival.scores)
        details[rival.column] = _detail(rival, test)
    names = [rival.column for rival in rivals]
    rows = metric_table(test, names, threshold, resamples, seed, cluster)
    pairs = [(ours, name) for name in names for ours in (MLP, RIDGE)]
    differences = difference_rows(test, [*names, MLP, RIDGE], resamples, seed, cluster, pairs)
    rows = pd.concat([rows[rows["predictor"] != CEILING], differences], ignore_index=True)
    return rows.assign(detail=rows["predictor"].map(lambda name: details[name.split(" - ")[-1]]))


def _detail(rival: Rival, test: pd.DataFrame) -> str:
    """Say what a rival is and whether its numbers are predictions."""
    there = int(test[rival.column].notna().sum())
    if there < 3:
        raise UserError(
            f"--rival {rival.name} predicts {there} of {len(test)} test images; at least 3 are needed. Name scores of the "
            "test images (split 'test' in splits.csv)."
        )
    detail = rival.detail
    if there < len(test):
        log.warning(
            "%s predicts %d of %d test images; its numbers are of those.", rival.name, there, len(test)
        )
        detail += f", {there} of {len(test)} test images"
    seen = int(test["image_id"].isin(rival.trained_on).sum())
    if seen:
        log.warning(
            "%s was %s (%d of %d): its numbers are no predictions.",
            rival.name,
            TRAINED_ON_TEST,
            seen,
            len(test),
        )
        detail += f", {TRAINED_ON_TEST} ({seen} of {len(test)})"
    return detail
