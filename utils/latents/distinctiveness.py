"""Distinctiveness (Bagheri & Mohsenzadeh, arXiv:2410.15235): how far a latent code lies from all others.

The search itself is in :mod:`utils.latents.neighbours`; here are the measures made from it, per image, and their
correlations with memorability and with reconstruction error.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import LOSSES
from utils.core.tables import as_written, kept_rows
from utils.latents.codes import Latents
from utils.latents.neighbour_bounds import NonFiniteRowsError, ZeroRowsError
from utils.latents.neighbours import Neighbours, SearchSettings, nearest_neighbours
from utils.latents.rows import row_blocks
from utils.statistics.correlation_tables import (
    MIN_IMAGES,
    add_q,
    bootstrap_partial_spearman,
    correlation_rows,
    find_clusters,
)
from utils.statistics.noise_ceiling import reliability_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray


MEASURES = ("distinctiveness", "category_centroid_distance", "global_centroid_distance")
_SUMS_BYTES = 64 * 2**20


def distinctiveness_name(latent_name: str, metric: str, neighbours: int, within_category: bool) -> str:
    """Return what stands for ``<model>`` in the files of one way to measure.

    The default way (Euclidean, one neighbour, among all images) keeps the latent codes' own name; any other
    appends what differs, so that it never replaces the default one.

    Args:
        latent_name: Name of the latent codes (see :func:`utils.latents.codes.latent_name`).
        metric: ``euclidean`` or ``cosine``.
        neighbours: K.
        within_category: Whether neighbours are sought within the category.
    """
    parts = [metric] if metric != "euclidean" else []
    parts += [f"k{neighbours}"] if neighbours != 1 else []
    parts += ["within-category"] if within_category else []
    if not parts:
        return latent_name
    return f"{latent_name}{'-' if '@' in latent_name else '@'}{'-'.join(parts)}"


# ------------------------------------------------------------------------------------------------ per image


def standardise(distances: NDArray) -> NDArray[np.float64]:
    """Return z scores (population standard deviation, as scipy.stats.zscore); 0 where all are equal, NaN stays NaN.

    Args:
        distances: (N,) distances, larger is farther.
    """
    mean, spread = np.nanmean(distances), np.nanstd(distances)
    if spread <= 1e-12 * max(abs(mean), 1e-300):
        log.warning("All images are equally far from their neighbours: every distinctiveness is 0.")
        return np.where(np.isnan(distances), np.nan, 0.0)
    return (distances - mean) / spread


def centroid_distances(
    matrix: NDArray, categories: Sequence[str], metric: str = "euclidean"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure each code's distance to the mean code of its category and to that of all images, in float64.

    Constant memory: the matrix is passed over twice (three times for cosine). For cosine the codes are brought to
    unit length first, so that a centroid is a mean direction.

    Args:
        matrix: (N, D) finite codes.
        categories: N category names; an empty one has no centroid.
        metric: ``euclidean`` or ``cosine``.

    Returns:
        (N,) distances to the category's centroid, which includes the image itself (NaN without a category), and (N,)
        distances to the global one.
    """
    names, labels = np.unique(np.asarray(categories, dtype=str), return_inverse=True)
    count, width = len(names), matrix.shape[1]
    cosine = metric == "cosine"
    norms: NDArray | None = None
    if cosine:
        norms = np.empty(len(matrix))
        for rows, block in row_blocks(matrix):
            norms[rows] = np.linalg.norm(block.astype(np.float64), axis=1)
    squares, dots, lengths = np.zeros((2, len(matrix))), np.zeros((2, len(matrix))), np.zeros((2, count))
    step = max(1, min(width, _SUMS_BYTES // (8 * (count + 1))))
    for start in range(0, width, step):
        columns = slice(start, start + step)
        centres = _centroids(matrix, labels, count, norms, columns)
        for rows, block in row_blocks(matrix):
            values = _prepared(block[:, columns], rows, norms)
            for which, centre in enumerate((centres[0][labels[rows]], centres[1])):
                if cosine:
                    dots[which, rows] += (values * centre).sum(1)
                else:
                    squares[which, rows] += np.square(values - centre).sum(1)
        lengths[0] += np.square(centres[0]).sum(1)
        lengths[1] += np.square(centres[1]).sum()
    if cosine:
        with np.errstate(invalid="ignore", divide="ignore"):
            own, overall = 1 - dots[0] / np.sqrt(lengths[0][labels]), 1 - dots[1] / np.sqrt(lengths[1][0])
    else:
        own, overall = np.sqrt(squares)
    return np.where(names[labels] == "", np.nan, own), overall


def _prepared(block: NDArray, rows: NDArray, norms: NDArray | None) -> NDArray[np.float64]:
    """Return rows in float64, divided by their norms where there are any."""
    values = block.astype(np.float64)
    if norms is not None:
        values /= norms[rows, None]
    return values


def _centroids(
    matrix: NDArray, labels: NDArray, count: int, norms: NDArray | None, columns: slice
) -> tuple[NDArray, NDArray]:
    """Return the (count, d) means of the groups and the (d,) mean of all rows, over some columns."""
    sums = np.zeros((count, len(range(*columns.indices(matrix.shape[1])))))
    for rows, block in row_blocks(matrix):
        values = _prepared(block[:, columns], rows, norms)
        for label in np.unique(labels[rows]):
            sums[label] += values[labels[rows] == label].sum(0)
    sizes = np.bincount(labels, minlength=count)
    return sums / sizes[:, None], sums.sum(0) / len(matrix)


def _check_searchable(latents: Latents, neighbours: int) -> None:
    """Refuse what has no distinctiveness.

    Raises:
        UserError: Fewer than two images, K not below N, or all codes identical.
    """
    count = len(latents.matrix)
    if count < 2:
        raise UserError(
            f"{latents.path} holds the code of one image, and distinctiveness is the distance to another. "
            "Calculate the latent codes of at least two images (raise --limit)."
        )
    if neighbours >= count:
        raise UserError(
            f"--neighbours {neighbours} asks for more other images than there are: {latents.path} holds {count}. "
            f"Use at most --neighbours {count - 1}."
        )
    first = np.array(latents.matrix[0])
    if all((block == first).all() for _, block in row_blocks(latents.matrix)):
        raise UserError(
            f"All {count} latent codes in {latents.path} are identical, so no image is more distinctive than another. "
            "The images are all the same, or the network is broken: look at reconstructions_<model>.png, or use "
            "another checkpoint."
        )


def find_neighbours(
    latents: Latents,
    settings: SearchSettings,
    categories: Sequence[str] | None = None,
    progress: Callable[[float], None] = lambda rows: None,
) -> Neighbours | None:
    """Search, with errors that name images.

    Args:
        latents: The codes.
        settings: How to search.
        categories: Category of each image to search within it; None searches among all.
        progress: See :func:`utils.latents.neighbours.nearest_neighbours`.

    Returns:
        The neighbours; None on ranks other than 0.

    Raises:
        UserError: The codes have no distinctiveness, or some are not finite or (cosine) all zero: named.
    """
    _check_searchable(latents, settings.neighbours)
    settings = replace(
        settings, fingerprint=f"{latents.digest} {'within' if categories is not None else 'all'}"
    )
    groups = None if categories is None else np.asarray(categories, dtype=str)
    try:
        return nearest_neighbours(latents.matrix, settings, groups, progress)
    except (NonFiniteRowsError, ZeroRowsError) as error:
        names = [latents.image_ids[row] for row in error.rows]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        if isinstance(error, ZeroRowsError):
            raise UserError(
                f"{latents.path}: the codes of {len(names)} images are all zero ({shown}), and a zero vector has no "
                "cosine distance. Use --metric euclidean, or leave these images out."
            ) from None
        raise UserError(
            f"{latents.path}: expected finite latent codes, found NaN or infinity in {len(names)} of "
            f"{len(latents.matrix)} rows ({shown}). Write them again with: python latent_analysis.py "
            "--calculate-latents --overwrite"
        ) from None


def distinctiveness_table(
    latents: Latents, found: Neighbours, about: pd.DataFrame, settings: SearchSettings
) -> pd.DataFrame:
    """Make ``distinctiveness_<model>.csv``.

    Args:
        latents: The codes.
        found: Their neighbours.
        about: ``image_id, category, memorability``, one row per image, any order.
        settings: The search's settings.

    Returns:
        The table's columns, sorted by ``image_id``; images with fewer than K neighbours (a small category searched
        within itself) have no distinctiveness.
    """
    frame = pd.DataFrame({"image_id": latents.image_ids})
    frame = frame.merge(about[["image_id", "category", "memorability"]], on="image_id", validate="one_to_one")
    ids = np.array([*latents.image_ids, ""], dtype=object)  # index -1: nobody
    means = found.distance.mean(1)
    lonely = int(np.isnan(means).sum())
    if lonely:
        small = sorted(set(frame.loc[np.isnan(means), "category"]))
        log.warning(
            "%d images have fewer than %d others in their category (%s): their distinctiveness stays empty.",
            lonely,
            settings.neighbours,
            ", ".join(small[:5]),
        )
    if lonely == len(frame):
        raise UserError(
            f"--within-category --neighbours {settings.neighbours}: no category has more than {settings.neighbours} "
            "images. Search among all images, or for fewer neighbours."
        )
    own, overall = centroid_distances(latents.matrix, frame["category"], settings.metric)
    copies = int((found.duplicates > 0).sum())
    if copies:
        log.warning("%d images have exactly the same latent code as another (column duplicates).", copies)
    return frame.assign(
        nearest_image_id=ids[found.index[:, 0]],
        nearest_distance=found.distance[:, 0],
        distinctiveness=standardise(means),
        mean_neighbour_distance=means,
        category_centroid_distance=own,
        global_centroid_distance=overall,
        duplicates=found.duplicates,
    )


# ------------------------------------------------------------------------------------------------ correlations


@dataclass(frozen=True)
class Inference:
    """How intervals and p-values of the correlations come about.

    Attributes:
        resamples: Bootstrap resamples.
        seed: Their seed.
        cluster: What is resampled as a whole (:func:`utils.statistics.clusters.find_clusters`).
    """

    resamples: int = 1000
    seed: int = 0
    cluster: str | None = None

    def rows(
        self, frame: pd.DataFrame, measures: Sequence[str], target: str = "memorability"
    ) -> pd.DataFrame:
        """Return rows of the table in which nothing is held constant."""
        found = correlation_rows(
            frame, measures, target, resamples=self.resamples, seed=self.seed, cluster=self.cluster
        )
        return found.assign(held_constant="")


def distinctiveness_correlations(
    table: pd.DataFrame, about: pd.DataFrame, losses: pd.DataFrame | None, inference: Inference
) -> pd.DataFrame:
    """Correlate the measures with memorability and with reconstruction error: do they say different things?

    Args:
        table: Rows of ``distinctiveness_<model>.csv``.
        about: The data set's columns (labels and response counts, where there are any), by ``image_id``.
        losses: ``test_loss_<model>.csv``, or None.
        inference: How intervals and p-values come about.

    Returns:
        Rows of ``distinctiveness_correlations.csv`` without ``model``; ``held_constant`` names what is partialled
        out of both columns (first-order partial Spearman correlation).
    """
    frame = with_groups_and_counts(table, about)
    rows = [inference.rows(frame, list(MEASURES))]
    if losses is not None:
        names = [name for name in LOSSES if name in losses.columns]
        frame = frame.merge(losses[["image_id", *names]], on="image_id", how="left", validate="one_to_one")
        rows.append(inference.rows(frame, names, target="distinctiveness"))
        pairs = [pair for loss in names for pair in (("distinctiveness", loss), (loss, "distinctiveness"))]
        rows.append(pd.DataFrame([partial_row(frame, *pair, inference) for pair in pairs]))
    return add_families(pd.concat(rows, ignore_index=True))


def with_groups_and_counts(table: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Add what the correlations need of each image: labels, size, response counts or halves, where there are any.

    Args:
        table: Measures by ``image_id``, with ``category``.
        about: The data set's columns by ``image_id``.
    """
    labels = ("subcategory", "group", "source", "pixel_count")
    columns = [name for name in about.columns if name in labels] + reliability_columns(about)
    frame = table.merge(about[["image_id", *columns]], on="image_id", validate="one_to_one")
    return frame.assign(category=frame["category"].fillna(""))


def partial_row(frame: pd.DataFrame, measure: str, held: str, inference: Inference) -> dict:
    """Correlate a measure with memorability with another column's ranks held constant, as a row of the table."""
    block = frame[frame[["memorability", measure, held]].notna().all(axis=1)]
    clustering = find_clusters(frame, inference.cluster)
    codes = clustering.codes(block)
    row = {"measure": measure, "target": "memorability", "held_constant": held, "n": len(block)}
    row |= {"resamples": inference.resamples, "seed": inference.seed, "n_within_subcategory": 0}
    row |= {"cluster": clustering.unit, "clusters": len(block) if codes is None else len(np.unique(codes))}
    if len(block) < MIN_IMAGES:
        return row
    first, second, third = (block[name].to_numpy(float) for name in (measure, "memorability", held))
    for suffix, some in (("", codes), ("_independent", None)):
        estimate = bootstrap_partial_spearman(first, second, third, inference.resamples, inference.seed, some)
        row |= {"rho": estimate.rho, f"p{suffix}": estimate.p}
        row |= {f"ci_low{suffix}": estimate.ci_low, f"ci_high{suffix}": estimate.ci_high}
    return row


def add_families(rows: pd.DataFrame) -> pd.DataFrame:
    """Take q over one family per claim.

    The claims: measures of distinctiveness go with memorability; losses go with distinctiveness; measures do so with
    the loss held constant; losses do so with a measure held constant.

    Args:
        rows: Rows of ``distinctiveness_correlations.csv``, of one model or several.
    """
    partial = rows["held_constant"].fillna("") != ""
    claims = rows.assign(_partial=partial, _loss=rows["measure"].isin(LOSSES))
    return add_q(claims, ["target", "_partial", "_loss"]).drop(columns=["_partial", "_loss"])


def merge_correlations(new: pd.DataFrame, old: pd.DataFrame | None, keep: Sequence[str]) -> pd.DataFrame:
    """Replace the rows of the models just analysed; q is taken over all models again.

    Args:
        new: Rows with ``model``.
        old: The table so far, or None.
        keep: Models whose old rows still belong (their distinctiveness tables exist).
    """
    if old is not None:
        stays = old["model"].isin(keep) & ~old["model"].isin(new["model"])
        new = pd.concat([kept_rows(old, stays), new], ignore_index=True)
    # As they are read again, so that it makes no difference which model was analysed when.
    new = new.assign(p=as_written(new["p"])).sort_values("model", kind="stable", ignore_index=True)
    return add_families(new)


def forget_partial(settings: SearchSettings) -> None:
    """Delete the partial results of a finished search."""
    if settings.partial_folder is not None:
        shutil.rmtree(settings.partial_folder, ignore_errors=True)
