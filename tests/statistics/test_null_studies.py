"""Studies in which there is nothing to find: what every table of stages 3 to 5 says of them after q."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated import draw_clustered
from utils.categories.tables import rho_table
from utils.latents.distinctiveness import MEASURES, Inference, distinctiveness_correlations
from utils.statistics.clusters import find_clusters
from utils.statistics.correlation_tables import (
    add_q,
    correlation_rows,
    correlations_by_category,
    paired_difference,
)
from utils.statistics.mixed_model import mixed_model_rows

SEEDS = 20
LOSSES = ("mse", "ssim", "lpips-sq")
CATEGORIES, SUBCATEGORIES, IMAGES = 3, 8, 10
OPTIONS = {"resamples": 199, "cluster": "subcategory"}


def shuffled_study(seed):
    """Losses and distances alike inside subcategories; scores that are, too, dealt anew to whole subcategories."""
    rng = np.random.default_rng(seed)
    sizes = np.full(CATEGORIES * SUBCATEGORIES, IMAGES)
    scores, shared, codes = draw_clustered(rng, sizes)
    frame = pd.DataFrame(
        {"image_id": [f"{row:04d}.jpg" for row in range(len(codes))], "memorability": scores}
    )
    frame["category"] = [f"c{code // SUBCATEGORIES}" for code in codes]
    frame["subcategory"] = [f"s{code:02d}" for code in codes]
    for name in (*LOSSES, *MEASURES):  # measures of one kind resemble each other, as losses do
        frame[name] = shared + draw_clustered(rng, sizes)[0]
    return frame


def families(frame, seed):
    """The q values of every family of tests: one per claim and table."""
    losses = list(LOSSES)
    rows = correlation_rows(frame, losses, seed=seed, **OPTIONS)
    for kind in ("", "_within_category", "_within_subcategory"):
        yield rows[f"q{kind}"]
    yield correlations_by_category(frame, losses, seed=seed, **OPTIONS)["q"]
    pairs = [(a, b) for a in losses for b in losses if a < b]
    yield paired_difference(frame, pairs, seed=seed, **OPTIONS)["q"]
    slopes = add_q(mixed_model_rows(frame, losses, find_clusters(frame)), ["effect"])
    yield from (part["q"] for _, part in slopes.groupby("effect"))
    table = frame[["image_id", "category", "memorability", *MEASURES]]
    errors = frame[["image_id", *LOSSES]]
    distances = distinctiveness_correlations(
        table, frame[["image_id", "subcategory"]], errors, Inference(199, seed, "subcategory")
    )
    # Losses go with distinctiveness here, as both share a cause: that is no claim about memorability.
    distances = distances[distances["target"] == "memorability"]
    claims = [distances["held_constant"] != "", distances["measure"].isin(LOSSES)]
    yield from (part["q"] for _, part in distances.groupby(claims))
    rho = rho_table(frame, losses, seed=seed, **OPTIONS)
    yield from (part["q"] for _, part in rho.groupby(rho["category"] == "all images"))


@pytest.mark.long
def test_shuffled_scores_give_no_more_findings_than_q_allows():
    """q < 0.05 promises at most 5 % of such families with any finding, not none; twice the standard error is allowed."""
    found = [bool((q < 0.05).any()) for seed in range(SEEDS) for q in families(shuffled_study(seed), seed)]
    assert len(found) == SEEDS * 13
    # The families of one seed share images, so that the seeds are what is independent.
    assert np.mean(found) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / SEEDS)


def test_an_effect_that_is_there_is_found():
    """The same families find a loss that follows the scores, so that finding nothing means something."""
    frame = shuffled_study(0)
    frame["lpips-sq"] = frame["memorability"] + 0.5 * frame["lpips-sq"]
    row = correlation_rows(frame, list(LOSSES), seed=0, **OPTIONS).set_index("measure").loc["lpips-sq"]
    assert (row[["q", "q_within_category", "q_within_subcategory"]] < 0.05).all()
