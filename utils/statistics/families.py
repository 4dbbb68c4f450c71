"""Many families of tests in one study: which of them hold once it is counted how many were tried.

Every claim has a family of tests, and q is Benjamini-Hochberg's inside it. A study has dozens of families, so that one of
them has some q below 0.05 in many studies without any effect (39 % of 41, docs/method.md).
This is the step above: families are tested first, by
their Simes p (Simes 1986), with Benjamini-Hochberg's rule over the families; inside a family that was chosen, tests are
held to the level times the share of families that were chosen (Benjamini & Bogomolov, "Selective inference on multiple
families of hypotheses", JRSS B 76, 2014). So the false share of what is called a finding is held at the level on average
over the families chosen, and a study in which nothing is there has any finding in at most that share of runs. Like
Benjamini-Hochberg's own, both hold for tests that are independent or positively dependent.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from utils.statistics.rank_correlation import false_discovery_q


def study_q(q: Sequence[float] | np.ndarray, family: Sequence[Hashable]) -> np.ndarray:
    """The smallest level at which each test holds in its study, families chosen first.

    At a level a, R(a) of m families are chosen: the most for which the R-th smallest Simes p is at most a * R / m. A test
    holds where its q is at most a * R(a) / m. R grows with a, hence what holds at one level holds at every larger one.

    Args:
        q: (n,) Benjamini-Hochberg q of each test inside its family; NaN for tests that were not made.
        family: (n,) what family each is in, of those that q was taken over.

    Returns:
        (n,) numbers from q to 1; NaN where q is. A family of m = 1 keeps its q.
    """
    q = np.asarray(q, dtype=np.float64)
    made = ~np.isnan(q)
    result = np.full(len(q), np.nan)
    if not made.any():
        return result
    # Simes' p of a family, the smallest of count * p_(j) / j, is the smallest q in it.
    simes = pd.Series(q[made]).groupby(pd.factorize(pd.Series(list(family), dtype=object)[made])[0]).min()
    chosen_from = np.sort(
        false_discovery_q(simes.to_numpy())
    )  # the level from which 1, 2, ... m families are chosen
    counts = np.arange(1, len(chosen_from) + 1)
    levels = np.maximum(chosen_from, len(counts) * q[made, None] / counts)
    result[made] = np.minimum(levels.min(axis=1), 1.0)
    return result
