"""A second opinion: what a predictor that shares nothing with the steering one says of the steered pictures.

A judge looks at pictures through other features (the colour, texture and structure of stage 8, or another
encoder) and has learned from other images (those of the validation and test splits, none of which trained the
head). No picture is judged by a fit that knows the photograph it was made from: the fits are cross-validated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.features.image import image_features
from utils.statistics.rank_correlation import spearman

FOLDS = 5
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-1, 6))
MIN_IMAGES = 20

Embed = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Pictures, each (S, S, 3) uint8 RGB, to (N, D) finite float64 features."""


DESCRIBED_BY = ("colour", "texture", "structure")
"""Groups of features that judge a picture and say how it changed; composition would triple the cost per picture."""


def embed_features(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Describe pictures by their colour, texture and structure.

    A hue is an angle and undefined for grey, so it enters as its cosine and sine, both 0 where it is undefined; so
    does every other undefined value.
    """
    frame = pd.DataFrame([image_features(picture, DESCRIBED_BY) for picture in pictures])
    hue = np.deg2rad(frame.pop("hsv_hue_mean"))
    frame["hsv_hue_mean_cos"], frame["hsv_hue_mean_sin"] = np.cos(hue), np.sin(hue)
    return frame.fillna(0.0).to_numpy(np.float64)


@dataclass
class Judge:
    """Cross-validated ridge regressions of human scores on features of pictures.

    Attributes:
        name: How it is called in tables.
        embed: Turns pictures into features.
        fold_of: Fold of each image it learned from, by ``image_id``.
        models: One fitted scikit-learn pipeline per fold, trained on the other folds.
        rho: Spearman's rho of its predictions with the human scores of images it had not seen.
        rho_p: Two-sided p-value of it.
    """

    name: str
    embed: Embed
    fold_of: dict[str, int]
    models: list
    rho: float
    rho_p: float

    def score(self, image_ids: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Predict the scores of pictures made from images.

        Args:
            image_ids: N names; the fit that did not see an image predicts what was made from it.
            pictures: N pictures, (S, S, 3) uint8.

        Returns:
            (N,) scores, in units of the human score.
        """
        features = self.embed(pictures)
        folds = np.array([self.fold_of[name] for name in image_ids])
        scores = np.empty(len(folds))
        for fold in np.unique(folds):
            rows = folds == fold
            scores[rows] = self.models[fold].predict(features[rows])
        return scores


def train_judge(
    name: str,
    embed: Embed,
    image_ids: Sequence[str],
    pictures: Sequence[np.ndarray],
    scores: np.ndarray,
    groups: Sequence[str] | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> Judge:
    """Fit a judge on images that trained no part of what it judges.

    Args:
        name: How it is called.
        embed: Turns pictures into features.
        image_ids: N names.
        pictures: N pictures of them, such as it will be shown: reconstructions, (S, S, 3) uint8.
        scores: (N,) human scores.
        groups: N labels; images of one group are never on both sides of a fit.
        folds: Number of fits; fewer where there are fewer groups.
        seed: Seed of the folds.

    Raises:
        UserError: Too few images to learn from.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(image_ids if groups is None else groups)
    folds = min(folds, len(np.unique(labels)))
    if len(image_ids) < MIN_IMAGES or folds < 2:
        raise UserError(
            f"A judge needs at least {MIN_IMAGES} images in the validation and test splits, in two groups or more, "
            f"found {len(image_ids)} in {len(np.unique(labels))}. Use more images, or --judge none."
        )
    features = embed(pictures)
    fold_of, models, predicted = {}, [], np.empty(len(scores))
    division = GroupKFold(folds, shuffle=True, random_state=seed).split(features, groups=labels)
    for fold, (train, held_out) in enumerate(division):
        model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS))
        models.append(model.fit(features[train], scores[train]))
        predicted[held_out] = model.predict(features[held_out])
        fold_of.update({image_ids[row]: fold for row in held_out})
    rho, p = spearman(predicted, scores)
    return Judge(name, embed, fold_of, models, rho, p)


@dataclass
class TableJudge:
    """Scores that somebody else gave the pictures of an earlier run, e.g. with another predictor.

    Attributes:
        name: How it is called in tables.
        scores: Score by picture file, relative to the output folder.
    """

    name: str
    scores: dict[str, float]

    def of_files(self, files: Sequence[str]) -> np.ndarray:
        """Return the scores of picture files; NaN for those it does not know."""
        return np.array([self.scores.get(file, np.nan) for file in files])


def read_table_judge(path: Path, output_path: Path) -> TableJudge:
    """Read somebody else's scores.

    Args:
        path: CSV with ``path`` (as ``predictions.csv`` has it, or relative to the output folder) and ``score`` or
            ``memorability``.
        output_path: The output folder.

    Raises:
        UserError: A table without those columns, or with other than finite numbers.
    """
    from utils.core.tables import read_csv

    frame = read_csv(path, text_columns=["path"])
    column = next((name for name in ("score", "memorability") if name in frame.columns), None)
    if "path" not in frame.columns or column is None:
        raise UserError(
            f"{path}: expected the columns path and score (or memorability), found: "
            f"{', '.join(map(str, frame.columns))}."
        )
    values = pd.to_numeric(frame[column], errors="coerce")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(
            f"{path}: expected a number in {column}, found '{frame[column].iloc[row]}' in row {row + 2}."
        )
    root = output_path.resolve()
    scores = {}
    for name, value in zip(frame["path"], values, strict=True):
        whole = next(
            (p for p in (Path(name), output_path / name) if p.exists()), output_path / name
        ).resolve()
        scores[whole.relative_to(root).as_posix() if whole.is_relative_to(root) else name] = float(value)
    return TableJudge(path.stem, scores)
