"""Which images hang together: what ``--cluster`` means for a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import CLUSTERS
from utils.statistics.resampling import MIN_CLUSTERS, Resampler

SUBCATEGORY, GROUP, NO_CLUSTERS = CLUSTERS
IMAGE = "image"  # what is resampled where nothing hangs together
PLURALS = {SUBCATEGORY: "subcategories", GROUP: "groups", IMAGE: "images"}
HOW_TO_IGNORE = "To treat images as independent: --cluster none."


@dataclass(frozen=True)
class Clustering:
    """What is resampled as a whole.

    Attributes:
        unit: ``subcategory``, ``group`` or ``image``.
        labels: label of each image's cluster, by the index of the frame; None for single images.
    """

    unit: str
    labels: pd.Series | None = None

    def codes(self, frame: pd.DataFrame) -> np.ndarray | None:
        """Return the cluster codes 0..G-1 of some rows of the frame it was made from; None for single images."""
        if self.labels is None:
            return None
        return pd.factorize(self.labels.loc[frame.index], sort=True)[0]

    def resampler(self, frame: pd.DataFrame, resamples: int, seed: int) -> Resampler:
        """Return how some rows of the frame are resampled."""
        return Resampler(len(frame), resamples, seed, self.codes(frame))

    def resampler_within(
        self, frame: pd.DataFrame, strata: pd.Series, resamples: int, seed: int
    ) -> Resampler | None:
        """Return how clusters are resampled inside strata.

        None with fewer than 3 clusters, where one lies in several strata, or where a stratum holds one only, of whose
        spread nothing is known.
        """
        codes = self.codes(frame)
        if codes is None or not len(codes):
            return None
        groups = pd.factorize(strata.loc[frame.index], sort=True)[0]
        pairs = np.unique(np.column_stack([codes, groups]), axis=0)
        if len(pairs) > len(np.unique(codes)) or (np.bincount(pairs[:, 1]) < 2).any():
            return None
        return Resampler(len(frame), resamples, seed, codes, within=pairs[:, 1])


def find_clusters(frame: pd.DataFrame, choice: str | None = None) -> Clustering:
    """Decide which images of a table are resampled together.

    Args:
        frame: one row per image, with ``subcategory`` (and ``category``) or ``group`` where they are known.
        choice: ``subcategory``, ``group`` or ``none``; None takes subcategories where one of them has more than one
            image and there are several, else single images.

    Returns:
        The clusters. Subcategories of one name in two categories are two. Images without a label are clusters of
        their own.

    Raises:
        UserError: the clusters asked for are not in the table, hold one image each, or are one cluster only.
    """
    if choice not in (None, *CLUSTERS):
        raise ValueError(f"expected {', '.join(CLUSTERS)}, got '{choice}'")
    if not frame.index.is_unique:
        raise ValueError("expected a frame whose index names each image once; got repeated values")
    if choice == NO_CLUSTERS:
        return Clustering(IMAGE)
    column = choice or SUBCATEGORY
    labels = _cluster_labels(frame, column)
    why = _why_not(labels, column)
    if not why and labels is not None:
        _say_odd(frame, column)
        return Clustering(column, labels)
    if choice is not None:
        raise UserError(f"--cluster {choice}: {why}. {HOW_TO_IGNORE}")
    if labels is not None and labels.nunique() == 1 and len(labels) > 1:
        say_once(
            f"All {len(labels)} images are of one subcategory ({frame[column].iloc[0]}): intervals and p-values take them "
            "as independent and say nothing about other subcategories."
        )
    return Clustering(IMAGE)


@cache  # several tables of a run rest on the same images
def say_once(text: str) -> None:
    """Warn, the first time."""
    log.warning("%s", text)


def _say_odd(frame: pd.DataFrame, column: str) -> None:
    """Say how labels are taken that are no clean nesting: missing ones, and names that stand in several categories."""
    names = frame[column].astype(str).where(frame[column].notna() & (frame[column].astype(str) != ""))
    missing = int(names.isna().sum())
    if missing:
        say_once(
            f"{missing} of {len(names)} images have no {column}: each is taken as one by itself, like no other."
        )
    if column == SUBCATEGORY and "category" in frame.columns:
        homes = frame["category"].astype(str).groupby(names).nunique()
        several = list(homes.index[homes > 1])
        if several:
            shown = ", ".join(several[:3]) + (", ..." if len(several) > 3 else "")
            say_once(
                f"{len(several)} of {len(homes)} subcategories stand in more than one category ({shown}): taken as another "
                "one in each. If the same is meant, correct the table, or give --group-column and --cluster group."
            )


def say_few(clustering: Clustering, frame: pd.DataFrame) -> None:
    """Warn where there are too few clusters for an interval."""
    if clustering.labels is None or not len(frame):
        return
    count = clustering.labels.loc[frame.index].nunique()
    if count < MIN_CLUSTERS:
        log.warning(
            "The %d images come from %d %s, at least %d needed: intervals and p-values stay empty but for those of "
            "independent images. %s",
            len(frame),
            count,
            PLURALS[clustering.unit],
            MIN_CLUSTERS,
            HOW_TO_IGNORE,
        )


def _cluster_labels(frame: pd.DataFrame, column: str) -> pd.Series | None:
    """Return a label per image, subcategories with their category; None without any."""
    if column not in frame.columns:
        return None
    labels = frame[column].where(frame[column].astype(str) != "")
    if labels.isna().all():
        return None
    known = labels.astype(str)
    if column == SUBCATEGORY and "category" in frame.columns:
        known = frame["category"].astype(str) + "/" + known
    alone = pd.Series([f"\0{number}" for number in range(len(frame))], index=frame.index)
    return known.where(labels.notna(), alone)


def _why_not(labels: pd.Series | None, column: str) -> str:
    """Return why images cannot be resampled by these labels; empty where they can."""
    if labels is None:
        return f"no image has a {column}"
    count = labels.nunique()
    if count == len(labels):
        return f"every {column} has one image only, nothing is resampled together"
    if count == 1:
        return f"all {len(labels)} images are of one {column}, there is nothing to resample"
    return ""
