"""The latent space in two dimensions: principal components of a memory map, and UMAP where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA

from utils.latents.rows import row_blocks

COMPONENTS = 50
MAX_FIT_ROWS = 5000


@dataclass(frozen=True)
class Projection:
    """Principal components of the rows.

    Attributes:
        scores: (N, C) float64 coordinates; component 1 first.
        explained: (C,) share of the fitted rows' total variance along each component, 0..1.
        fitted_rows: How many rows the components were fitted on.
    """

    scores: NDArray[np.float64]
    explained: NDArray[np.float64]
    fitted_rows: int


def principal_components(
    matrix: NDArray, components: int = COMPONENTS, max_fit_rows: int = MAX_FIT_ROWS
) -> Projection:
    """Project rows on their principal components, in constant memory.

    Fitted block by block (Ross et al. 2008, as scikit-learn has it) on at most ``max_fit_rows`` evenly spaced
    rows; then all rows are projected. Signs are such that each component's largest loading is positive.

    Args:
        matrix: (N, D) finite codes, usually a memory map.
        components: How many are wanted; at most min(N, D) are given.
        max_fit_rows: Rows to fit on.

    Returns:
        The coordinates of all rows.
    """
    fitted = min(len(matrix), max_fit_rows)
    rows = np.arange(fitted) * len(matrix) // fitted
    pca = IncrementalPCA(min(components, fitted, matrix.shape[1]))
    with np.errstate(invalid="ignore"):  # codes that are all equal have no variance to share out
        for _, block in row_blocks(matrix, rows, least=pca.n_components):
            pca.partial_fit(block.astype(np.float64))
    scores = [pca.transform(block.astype(np.float64)) for _, block in row_blocks(matrix)]
    return Projection(np.concatenate(scores), np.nan_to_num(pca.explained_variance_ratio_), fitted)


def umap_coordinates(scores: NDArray, seed: int = 0) -> NDArray[np.float64] | None:
    """Lay rows out by UMAP of their principal components, where umap-learn is installed.

    Args:
        scores: (N, C) principal-component coordinates.
        seed: Makes the layout repeatable (and single-threaded).

    Returns:
        (N, 2) coordinates, in no unit; None without umap-learn or with fewer than 10 rows.
    """
    if importlib.util.find_spec("umap") is None or len(scores) < 10:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        return UMAP(n_neighbors=min(15, len(scores) - 1), random_state=seed, n_jobs=1).fit_transform(scores)


def latent_space_table(about: pd.DataFrame, projection: Projection, umap: NDArray | None) -> pd.DataFrame:
    """Return the rows of ``latent_space_<model>.csv``.

    Args:
        about: ``image_id, category, memorability`` in the order of the codes.
        projection: Their principal components.
        umap: Their UMAP coordinates, or None.
    """
    scores = projection.scores
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))
    table = about[["image_id", "category", "memorability"]].assign(pc1=scores[:, 0], pc2=second)
    return table if umap is None else table.assign(umap1=umap[:, 0], umap2=umap[:, 1])
