"""The measures of distinctiveness: their names, meanings and verdict, for the tables, the stage and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

WITHIN = "_within_category"  # appended to a measure's name when it compares images of one category alone
MEASURES = {
    "nearest_euclidean": "Euclidean distance to the nearest other code (the paper's, before z-scoring)",
    "mean_k_euclidean": "mean Euclidean distance to the K nearest other codes",
    "nearest_cosine": "cosine distance to the nearest other code by that distance",
    "mean_k_cosine": "mean cosine distance to the K nearest other codes by that distance",
    "centroid": "Euclidean distance to the mean code, the image included",
    "mahalanobis": "Mahalanobis distance to the mean code, under Ledoit and Wolf's shrunk covariance",
    "summed_similarity_unit": "minus the log of the summed similarity exp(-d) to all other codes (GCM, c = 1)",
    "summed_similarity_median": "minus the log of the summed similarity exp(-d / m), m the median distance (GCM, c = 1/m)",
    "density_median": "minus the log of the mean Gaussian kernel exp(-d^2 / 2h^2) to all other codes, h the median distance",
    "density_half_median": "the same with h half the median distance",
    "local_outlier_factor": "local outlier factor of 20 neighbours; 1 is as dense as its neighbours",
    "negative_dot_product": "minus the mean dot product with all other codes, not centred",
}


def signs_in_words(rows: pd.DataFrame) -> str:
    """Say whether the sign of the correlation hangs on the measure.

    Args:
        rows: Rows of ``distinctiveness_correlations.csv`` of one model.
    """
    plain = rows[(rows["target"] == "memorability") & (rows["held_constant"].fillna("") == "")]
    plain = plain[plain["measure"].isin(MEASURES) & plain["rho"].notna()]
    more, less = plain[plain["rho"] > 0], plain[plain["rho"] < 0]
    if plain.empty:
        return "No measure of distinctiveness has a correlation with memorability."
    if more.empty or less.empty:
        side = "more" if less.empty else "less"
        return f"By every one of {len(plain)} measures, distinctive images are {side} memorable."
    sure = int((more["ci_low"] > 0).sum()), int((less["ci_high"] < 0).sum())
    verdict = (
        "The sign hangs on the measure" if all(sure) else "Signs differ, but not on both sides beyond chance"
    )
    return (
        f"{verdict}: by {len(more)} of {len(plain)} measures distinctive images are more memorable "
        f"({sure[0]} with an interval above 0; most by {more.loc[more['rho'].idxmax(), 'measure']}, rho "
        f"{more['rho'].max():.3f}), by {len(less)} less ({sure[1]} with an interval below 0; most by "
        f"{less.loc[less['rho'].idxmin(), 'measure']}, rho {less['rho'].min():.3f})."
    )
