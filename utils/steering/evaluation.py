"""What steering came to: gains with intervals, against every control, by the head and by the judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from utils.core.feature_names import FEATURES
from utils.statistics.rank_correlation import false_discovery_q

METHODS = ("gradient", "ridge")
CONTROLS = ("descent", "random", "contrast", "saturation", "sharpness")
RECONSTRUCTION = "reconstruction"
PREDICTORS = ("head", "judge")
SURVIVING_SHARE = 0.5
"""Part of its gain that a steered picture has to keep under every disturbance to count as surviving."""

LEVEL = 0.95


def interval_over_images_and_heads(
    by_image: np.ndarray, by_head: np.ndarray | None, clusters: np.ndarray | None = None
) -> tuple[float, float, float, float]:
    """Return a mean, its 95 % interval and the p-value of no change.

    All images are moved by one head, so what a head got wrong moves them all alike, and the spread over images
    does not show it: a head trained on shuffled scores can move a judge consistently in either direction. The
    spread of the mean over heads trained on resampled images does.

    Args:
        by_image: (N,) differences, one per image, under the head itself.
        by_head: (H,) means over the same images under heads trained on bootstrap resamples of the training
            images; None leaves the interval to the images alone (it then holds for this head only).
        clusters: (N,) labels of images that are alike; their differences may depend on each other (cluster-robust
            variance, with clusters - 1 degrees of freedom).

    Returns:
        Mean, lower and upper end, two-sided p; NaN where there are fewer than two images.
    """
    finite = np.isfinite(by_image)
    known = by_image[finite]
    labels = (
        np.arange(len(known)) if clusters is None else np.unique(clusters[finite], return_inverse=True)[1]
    )
    number = len(np.unique(labels))
    if number < 2:
        return (float(known.mean()) if len(known) else float("nan"), float("nan"), float("nan"), float("nan"))
    mean, freedom = float(known.mean()), number - 1.0
    totals = np.bincount(labels, weights=known - mean)
    variance = float((totals**2).sum()) / len(known) ** 2 * number / freedom
    if by_head is not None:
        heads = float(np.var(by_head, ddof=1))
        total = variance + heads
        if total > 0:  # Satterthwaite's degrees of freedom of a sum of two variances
            freedom = total**2 / (variance**2 / freedom + heads**2 / (len(by_head) - 1))
        variance = total
    if variance == 0:
        return mean, mean, mean, float(mean == 0)
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom))


def ratio_interval(
    judge: np.ndarray,
    head: np.ndarray,
    heads: Sequence[tuple[np.ndarray, np.ndarray]],
    resamples: int,
    seed: int,
) -> tuple[float, float, float]:
    """Return how much of the head's gain the judge confirms: mean gain of the judge over mean gain of the head.

    Args:
        judge: (N,) gains by the judge, in its own standard deviations.
        head: (N,) gains by the head, in its own.
        heads: The same pair for each head trained on resampled images.
        resamples: Bootstrap resamples; each draws images, and one of the heads.
        seed: Their seed.

    Returns:
        The ratio and its 95 % percentile interval; NaN where the head's mean gain is not above 0.
    """
    if not head.mean() > 0:
        return float("nan"), float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    pairs = [*heads] or [(judge, head)]
    drawn = []
    for _ in range(resamples):
        rows = generator.integers(0, len(head), len(head))
        one, other = pairs[generator.integers(len(pairs))]
        drawn.append(one[rows].mean() / other[rows].mean())
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(judge.mean() / head.mean()), float(low), float(high)


def gains_of(rows: pd.DataFrame, predictor: str, method: str) -> pd.Series:
    """Return what a method gained by a predictor, by ``image_id``; 0 for the reconstruction itself."""
    before, after = (
        ("score_before", "score_after") if predictor == "head" else ("judge_before", "judge_after")
    )
    if method == RECONSTRUCTION:
        first = rows.drop_duplicates("image_id").set_index("image_id")
        return first[before] * 0.0
    chosen = rows[rows["method"] == method].set_index("image_id")
    return chosen[after] - chosen[before]


def spread_of(rows: pd.DataFrame, predictor: str) -> float:
    """Return the standard deviation of a predictor's scores over the reconstructions."""
    column = "score_before" if predictor == "head" else "judge_before"
    return float(rows.drop_duplicates("image_id")[column].std(ddof=1))


def summarise(
    rows: pd.DataFrame, resampled: pd.DataFrame, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Make ``steering_summary.csv`` of one model.

    Args:
        rows: Rows of ``steering_<model>.csv``.
        resampled: ``head_number, image_id, step, method, head_gain, judge_gain`` of the heads trained on
            resampled images; may be empty.
        resamples: Bootstrap resamples behind the intervals of the ratio.
        seed: Their seed.

    Returns:
        A row per step, method, control (``versus``; ``reconstruction`` is the gain itself) and predictor.
    """
    table = []
    for step, at_step in rows.groupby("step", sort=True):
        heads_here = resampled[resampled["step"] == step] if len(resampled) else resampled
        present = [name for name in (*METHODS, *CONTROLS) if (at_step["method"] == name).any()]
        for method in present:
            against = (
                [RECONSTRUCTION, *(name for name in CONTROLS if name in present)]
                if method in METHODS
                else [RECONSTRUCTION]
            )
            for versus in against:
                for predictor in PREDICTORS:
                    if predictor == "judge" and at_step["judge_before"].isna().all():
                        continue
                    table.append(_summary_row(at_step, heads_here, step, method, versus, predictor))
        _add_transfer(table, at_step, heads_here, resamples, seed)
    frame = pd.DataFrame(table)
    frame["q"] = false_discovery_q(frame["p"])
    return frame


def _summary_row(
    rows: pd.DataFrame, heads: pd.DataFrame, step: float, method: str, versus: str, predictor: str
) -> dict[str, object]:
    gain, other = (gains_of(rows, predictor, name) for name in (method, versus))
    pair = pd.concat([gain.rename("a"), other.rename("b")], axis=1).dropna()
    difference = (pair["a"] - pair["b"]).to_numpy()
    by_head = _means_by_head(heads, method, predictor, pair["b"])
    mean, low, high, p = interval_over_images_and_heads(difference, by_head, _clusters_of(rows, pair.index))
    spread = spread_of(rows, predictor)
    chosen = rows[rows["method"] == method]
    return {
        "step": step,
        "method": method,
        "versus": versus,
        "predictor": predictor,
        "n": len(pair),
        "gain": mean,
        "ci_low": low,
        "ci_high": high,
        "p": p,
        "gain_sd": mean / spread if spread > 0 else np.nan,
        "heads": 0 if by_head is None else len(by_head),
        "share_rose": float((pair["a"] > 0).mean()) if len(pair) else np.nan,
        "share_survived": float(chosen["survived"].mean()),
        "psnr_median": float(chosen["psnr"].median()),
        "transfer": np.nan,
        "transfer_ci_low": np.nan,
        "transfer_ci_high": np.nan,
    }


def _clusters_of(rows: pd.DataFrame, image_ids: pd.Index) -> np.ndarray | None:
    """Labels of images that are alike, where the rows have a column ``cluster``."""
    if "cluster" not in rows:
        return None
    return rows.drop_duplicates("image_id").set_index("image_id")["cluster"].reindex(image_ids).to_numpy()


def _means_by_head(heads: pd.DataFrame, method: str, predictor: str, control: pd.Series) -> np.ndarray | None:
    """Mean difference to a control under each resampled head; None where there are not two."""
    if not len(heads):
        return None
    chosen = heads[heads["method"] == method]
    if chosen["head_number"].nunique() < 2:
        return None
    differences = chosen[f"{predictor}_gain"] - chosen["image_id"].map(control)
    return differences.groupby(chosen["head_number"]).mean().to_numpy()


def _add_transfer(
    table: list[dict], rows: pd.DataFrame, heads: pd.DataFrame, resamples: int, seed: int
) -> None:
    """Add to each method's own judge row how much of the head's gain the judge confirms."""
    spreads = {name: spread_of(rows, name) for name in PREDICTORS}
    step = rows["step"].iloc[0]
    for row in table:
        own = row["step"] == step and row["versus"] == RECONSTRUCTION and row["predictor"] == "judge"
        if not own or row["method"] not in METHODS or not all(spread > 0 for spread in spreads.values()):
            continue
        head, judge = (gains_of(rows, name, row["method"]) / spreads[name] for name in PREDICTORS)
        pairs = []
        if len(heads):
            for _, part in heads[heads["method"] == row["method"]].groupby("head_number"):
                ordered = part.set_index("image_id").reindex(head.index)
                pairs.append(tuple((ordered[f"{n}_gain"] / spreads[n]).to_numpy() for n in ("judge", "head")))
        ratio = ratio_interval(judge.to_numpy(), head.to_numpy(), pairs, resamples, seed)
        row["transfer"], row["transfer_ci_low"], row["transfer_ci_high"] = ratio


def sentences(summary: pd.DataFrame) -> list[str]:
    """Put one step of ``steering_summary.csv`` in words: what was gained, against what, and whether the judge agrees.

    Everything is *predicted* memorability: without people nothing is known to be more memorable.
    """
    texts = []
    for method in METHODS:
        rows = summary[summary["method"] == method].set_index(["versus", "predictor"])
        if (RECONSTRUCTION, "head") not in rows.index:
            continue
        own = rows.loc[(RECONSTRUCTION, "head")]
        texts.append(
            f"{method}, {own['step']:g} dB: predicted memorability rises by {own['gain']:+.4f} "
            f"[{own['ci_low']:+.4f}, {own['ci_high']:+.4f}] over {own['n']} images; "
            f"{own['share_survived']:.0%} of the gains survive JPEG, shift and blur."
        )
        beaten = [
            name
            for name in CONTROLS
            if (name, "head") in rows.index and rows.loc[(name, "head"), "ci_low"] > 0
        ]
        left = [name for name in CONTROLS if (name, "head") in rows.index and name not in beaten]
        texts.append(
            f"  By the head it beats {', '.join(beaten) or 'no control'}"
            f"{'; not ' + ', '.join(left) if left else ''}."
        )
        if (RECONSTRUCTION, "judge") not in rows.index:
            continue
        judged = rows.loc[(RECONSTRUCTION, "judge")]
        agrees = (
            "agrees"
            if judged["ci_low"] > 0
            else "DISAGREES"
            if judged["ci_high"] < 0
            else "DOES NOT CONFIRM IT"
        )
        texts.append(
            f"  The judge {agrees}: {judged['gain']:+.4f} [{judged['ci_low']:+.4f}, {judged['ci_high']:+.4f}]; it confirms "
            f"{judged['transfer']:.2f} [{judged['transfer_ci_low']:.2f}, {judged['transfer_ci_high']:.2f}] of the gain."
        )
    return texts


def feature_changes(changes: pd.DataFrame) -> pd.DataFrame:
    """Say which properties of the pictures move with the score: rows of ``steering_features.csv``.

    Args:
        changes: ``image_id, step, method, feature, before, after``; a hue is left to its sine and cosine elsewhere.

    Returns:
        A row per step, method and feature: mean difference with its 95 % interval over the images, in units of the
        feature and in its standard deviations over the reconstructions, p and q.
    """
    names = [feature.name for feature in FEATURES]
    table = []
    for (step, method), part in changes.groupby(["step", "method"], sort=True):
        for name in names:
            rows = part[part["feature"] == name].dropna(subset=["before", "after"])
            if len(rows) < 2:
                continue
            clusters = rows["cluster"].to_numpy() if "cluster" in rows else None
            changed = (rows["after"] - rows["before"]).to_numpy()
            mean, low, high, p = interval_over_images_and_heads(changed, None, clusters)
            spread = float(rows["before"].std(ddof=1))
            table.append(
                {
                    "step": step,
                    "method": method,
                    "feature": name,
                    "n": len(rows),
                    "difference": mean,
                    "ci_low": low,
                    "ci_high": high,
                    "difference_sd": mean / spread if spread > 0 else np.nan,
                    "p": p,
                }
            )
    frame = pd.DataFrame(table)
    frame["q"] = false_discovery_q(frame["p"])
    return frame
