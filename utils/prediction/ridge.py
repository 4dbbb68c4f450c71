"""Linear pieces of the prediction stage: standardisation, ridge and least squares.

Everything here reads the latent matrix in row chunks, so a memory-mapped matrix larger than memory works and
gives the same numbers as one held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from utils.core.errors import UserError
from utils.core.log import log
from utils.latents.rows import row_blocks, take_rows

# A dimension that hardly moves in training would blow up an unusual test image; its divisor is at least this
# share of the mean standard deviation.
SCALE_FLOOR = 0.01
# A dimension that is constant in training says nothing: this divisor takes it out of every later image.
CONSTANT_SCALE = 1e30
# Ridge strengths tried, as multiples of the mean eigenvalue of the Gram matrix: half a decade apart.
RELATIVE_STRENGTHS = tuple(float(x) for x in np.logspace(-3, 3, 13))
# The larger side of the Gram matrix that is factorised (16,000 x 16,000 float64 is 2 GB, and needs a copy).
MAX_GRAM_SIDE = 16_000


def check_finite(latents: NDArray, image_ids: Sequence[str] | NDArray, source: str) -> None:
    """Refuse a latent matrix with values that are not finite.

    Args:
        latents: (N, ...) float matrix, possibly memory-mapped.
        image_ids: N names, one per row.
        source: The file the matrix came from, named in the message.

    Raises:
        UserError: Some rows hold NaN or infinity; the first five are named.
    """
    bad: list[str] = []
    for part, codes in row_blocks(latents):
        finite = np.isfinite(codes).all(axis=1)
        bad += [str(image_ids[row]) for row in part[~finite]]
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise UserError(
            f"{source}: expected finite latent codes, found NaN or infinity in {len(bad)} of "
            f"{len(latents)} rows ({shown}). Write them again with: "
            "python latent_analysis.py --calculate-latents --overwrite"
        )


@dataclass(frozen=True)
class Standardisation:
    """Mean and divisor of each latent dimension, from training rows only.

    Attributes:
        mean: (D,) float32.
        scale: (D,) float32, > 0: the standard deviation, floored (see SCALE_FLOOR, CONSTANT_SCALE).
        n: How many rows they came from.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    n: int

    def apply(self, codes: NDArray) -> NDArray[np.float32]:
        """Centre and scale (n, D) codes; each training column then has mean 0 and, as a rule, spread 1."""
        return ((codes - self.mean) / self.scale).astype(np.float32, copy=False)


def fit_standardisation(latents: NDArray, train_rows: NDArray) -> Standardisation:
    """Mean and standard deviation per latent dimension, from the training rows and no others.

    Args:
        latents: (N, ...) float matrix, possibly memory-mapped.
        train_rows: (n,) positions of the training rows.

    Returns:
        The standardisation; sums are float64 around the first row, so a large mean costs no precision.
    """
    shift = take_rows(latents, train_rows[:1])[0].astype(np.float64)
    total = np.zeros_like(shift)
    squares = np.zeros_like(shift)
    for _, codes in row_blocks(latents, train_rows):
        centred = codes - shift
        total += centred.sum(axis=0)
        squares += np.einsum("ij,ij->j", centred, centred)
    n = len(train_rows)
    deviation = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0.0))
    # Rounding leaves a constant column with a tiny spread instead of none.
    moving = deviation > 1e-7 * np.maximum(np.abs(shift + total / n), 1e-30)
    floor = SCALE_FLOOR * float(deviation[moving].mean()) if moving.any() else 1.0
    scale = np.where(moving, np.maximum(deviation, floor), CONSTANT_SCALE)
    return Standardisation((shift + total / n).astype(np.float32), scale.astype(np.float32), n)


@dataclass(frozen=True)
class RidgeFit:
    """A ridge regression on standardised latent codes.

    Attributes:
        weights: (D,) float32, per standardised dimension.
        intercept: Mean training score.
        strength: Penalty on the squared weights, in the units of scikit-learn's `alpha`.
        standardisation: What the codes are centred and scaled by.
        strengths: Every strength tried.
        validation_mse: Mean squared error on the validation rows for each of them.
        left_out: (n,) prediction of each training row from the fit without it, at the chosen strength.
        fitted_rows: (n,) the training rows used.
    """

    weights: NDArray[np.float32]
    intercept: float
    strength: float
    standardisation: Standardisation
    strengths: NDArray[np.float64]
    validation_mse: NDArray[np.float64]
    left_out: NDArray[np.float64] = field(repr=False)
    fitted_rows: NDArray[np.int64] = field(repr=False)

    def predict(self, latents: NDArray, rows: NDArray) -> NDArray[np.float64]:
        """Predict (n,) scores for the given rows; larger is more memorable."""
        predicted = np.empty(len(rows))
        for part, codes in row_blocks(latents, rows):
            predicted[part] = self.standardisation.apply(codes) @ self.weights
        return predicted + self.intercept


def row_products(
    latents: NDArray, rows: NDArray, standardisation: Standardisation, tile_rows: int = 1024
) -> NDArray:
    """Inner products of standardised codes, tile by tile: (n, n) float64, symmetric.

    Two tiles of codes are held at a time; products are float32, as the codes are.
    """
    n = len(rows)
    gram = np.empty((n, n))
    for start in range(0, n, tile_rows):
        left = standardisation.apply(take_rows(latents, rows[start : start + tile_rows]))
        for other in range(start, n, tile_rows):
            right_rows = rows[other : other + tile_rows]
            right = left if other == start else standardisation.apply(take_rows(latents, right_rows))
            block = left @ right.T
            gram[start : start + len(left), other : other + len(right)] = block
            gram[other : other + len(right), start : start + len(left)] = block.T
    return gram


def dimension_products(latents: NDArray, rows: NDArray, standardisation: Standardisation) -> NDArray:
    """Inner products of standardised dimensions: (D, D) float64, for when D is smaller than the row count."""
    dims = int(np.prod(latents.shape[1:]))
    total = np.zeros((dims, dims))
    for _, codes in row_blocks(latents, rows):
        standardised = standardisation.apply(codes).astype(np.float64)
        total += standardised.T @ standardised
    return total


def project_rows(
    latents: NDArray, rows: NDArray, standardisation: Standardisation, coefficients: NDArray
) -> NDArray[np.float64]:
    """Multiply the transposed standardised codes (D, n) with (n, k) coefficients: (D, k)."""
    total = np.zeros((int(np.prod(latents.shape[1:])), coefficients.shape[1]))
    for part, codes in row_blocks(latents, rows):
        total += standardisation.apply(codes).T @ coefficients[part].astype(np.float32)
    return total


class _Spectrum:
    """The eigenvectors of the codes' inner products, from which the ridge of every strength follows.

    Of the (n, n) Gram matrix of the rows or the (D, D) matrix of the dimensions, whichever is smaller.
    """

    def __init__(self, latents: NDArray, rows: NDArray, standardisation: Standardisation) -> None:
        self.latents, self.rows, self.standardisation = latents, rows, standardisation
        self.of_rows = len(rows) <= int(np.prod(latents.shape[1:]))
        inner_products = row_products if self.of_rows else dimension_products
        matrix = inner_products(latents, rows, standardisation)
        self.mean_eigenvalue = float(np.trace(matrix)) / len(matrix)
        self.values, self.vectors = eigh(matrix, overwrite_a=True, check_finite=False)

    def weights(self, centred_scores: NDArray, strengths: NDArray) -> NDArray[np.float64]:
        """(D, k) weights, one column per strength."""
        right = centred_scores
        if not self.of_rows:
            right = project_rows(self.latents, self.rows, self.standardisation, right[:, None])[:, 0]
        shrunk = (self.vectors.T @ right)[:, None] / (self.values[:, None] + strengths)
        solved = self.vectors @ shrunk
        return project_rows(self.latents, self.rows, self.standardisation, solved) if self.of_rows else solved

    def freedom(self, strength: float) -> NDArray[np.float64]:
        """1 - leverage of each row, (n,): strength * diagonal of inverse(Gram + strength * identity)."""
        if self.of_rows:
            return np.square(self.vectors) @ (strength / (self.values + strength))
        freedom = np.empty(len(self.rows))
        for part, codes in row_blocks(self.latents, self.rows):
            along = self.standardisation.apply(codes).astype(np.float64) @ self.vectors
            freedom[part] = 1.0 - np.square(along) @ (1.0 / (self.values + strength))
        return freedom


def fit_ridge(
    latents: NDArray,
    scores: NDArray,
    train_rows: NDArray,
    validation_rows: NDArray,
    standardisation: Standardisation | None = None,
    strengths: Sequence[float] | None = None,
    max_rows: int = MAX_GRAM_SIDE,
    seed: int = 0,
) -> RidgeFit:
    """Ridge regression of scores on standardised latent codes, its strength chosen on the validation rows.

    The intercept is not penalised. Works on the smaller of the Gram and the covariance matrix. Where both
    sides exceed `max_rows`, a random `max_rows` of the training rows are used and the log says so.

    Args:
        latents: (N, ...) float matrix, possibly memory-mapped.
        scores: (N,) float; rows outside train and validation are never looked at.
        train_rows: (n,) positions to fit on.
        validation_rows: (m,) positions to choose the strength on.
        standardisation: Of the training rows; computed when not given.
        strengths: Penalties in scikit-learn's `alpha` units; by default RELATIVE_STRENGTHS times the mean
            eigenvalue of the Gram matrix.
        max_rows: The largest Gram matrix to factorise.
        seed: Which rows are used where there are too many.

    Returns:
        The fit with the smallest validation error (the stronger penalty on a tie).
    """
    dims = int(np.prod(latents.shape[1:]))
    standardisation = standardisation or fit_standardisation(latents, train_rows)
    rows = np.asarray(train_rows)
    if min(len(rows), dims) > max_rows:
        rows = _draw_rows(rows, max_rows, seed)
    targets = np.asarray(scores, dtype=np.float64)[rows]
    intercept = float(targets.mean())
    spectrum = _Spectrum(latents, rows, standardisation)
    default = np.array(RELATIVE_STRENGTHS) * max(spectrum.mean_eigenvalue, 1e-12)
    penalties = np.sort(np.asarray(default if strengths is None else strengths, dtype=np.float64))[::-1]
    weights = spectrum.weights(targets - intercept, penalties)
    predicted = _predict_many(latents, validation_rows, standardisation, weights) + intercept
    errors = ((predicted - np.asarray(scores, dtype=np.float64)[validation_rows, None]) ** 2).mean(axis=0)
    best = int(np.argmin(errors))
    fitted = _predict_many(latents, rows, standardisation, weights[:, best : best + 1])[:, 0] + intercept
    # Allen's PRESS identity: a left-out residual is the residual over 1 - leverage; 1/n is the intercept's.
    freedom = np.maximum(spectrum.freedom(float(penalties[best])) - 1.0 / len(rows), 1e-12)
    return RidgeFit(
        weights=weights[:, best].astype(np.float32),
        intercept=intercept,
        strength=float(penalties[best]),
        standardisation=standardisation,
        strengths=penalties,
        validation_mse=errors,
        left_out=targets - (targets - fitted) / freedom,
        fitted_rows=rows,
    )


def _draw_rows(rows: NDArray, count: int, seed: int) -> NDArray:
    log.warning("Ridge is fitted on %d of %d training rows, drawn from the seed.", count, len(rows))
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def _predict_many(
    latents: NDArray, rows: NDArray, standardisation: Standardisation, weights: NDArray
) -> NDArray[np.float64]:
    """(n, k) products of standardised codes with (D, k) weights."""
    predicted = np.empty((len(rows), weights.shape[1]))
    single = weights.astype(np.float32)
    for part, codes in row_blocks(latents, rows):
        predicted[part] = standardisation.apply(codes) @ single
    return predicted


@dataclass(frozen=True)
class LeastSquares:
    """An ordinary least-squares line or plane: what a single measure, or a few, say about the score."""

    coefficients: NDArray[np.float64]
    intercept: float

    def predict(self, features: NDArray) -> NDArray[np.float64]:
        """Predict (n,) scores from (n, k) features; larger is more memorable."""
        return np.asarray(features, dtype=np.float64) @ self.coefficients + self.intercept


def fit_least_squares(features: NDArray, scores: NDArray) -> LeastSquares:
    """Fit scores by ordinary least squares with an intercept.

    Args:
        features: (n, k) float; k = 0 gives the constant that predicts the mean score.
        scores: (n,) float.

    Returns:
        The smallest-norm solution, so collinear features are no error.
    """
    features = np.asarray(features, dtype=np.float64)
    mean = features.mean(axis=0)
    # Scaled first: units (an error of 1e-3, a distance of 1e2) must not decide how collinear ones are split.
    spread = features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    solution = np.linalg.lstsq((features - mean) / spread, scores - np.mean(scores), rcond=None)[0] / spread
    return LeastSquares(solution, float(np.mean(scores) - mean @ solution))
