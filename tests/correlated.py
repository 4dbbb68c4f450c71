"""What the tables of correlations say of two columns, asked for as the stages do; and the same arithmetic, plainly."""

import numpy as np
import pandas as pd
from scipy import stats

from utils.statistics.correlation_tables import correlation_rows


def row_of(x, y, resamples=60, seed=0, groups=None, clusters=None):
    """The row of ``correlation_rows`` for one measure ``y`` and scores ``x``; groups are categories."""
    frame = pd.DataFrame({"memorability": x, "loss": y})
    options = {} if clusters is None else {"cluster": "subcategory"}
    frame = frame if groups is None else frame.assign(category=groups)
    frame = frame if clusters is None else frame.assign(subcategory=np.asarray(clusters).astype(str))
    table = correlation_rows(frame, ["loss"], resamples=resamples, seed=seed, splits=1, **options)
    return table.iloc[0]


def plain_within(x, y, groups):
    """Pooled within-group rho, group by group with scipy's ranks."""
    x, y, groups = map(np.asarray, (x, y, groups))
    parts = []
    for group in np.unique(groups):
        inside = groups == group
        parts.append([(stats.rankdata(v[inside]) - (inside.sum() + 1) / 2) / inside.sum() for v in (x, y)])
    a, b = np.hstack(parts)
    return np.corrcoef(a, b)[0, 1]
