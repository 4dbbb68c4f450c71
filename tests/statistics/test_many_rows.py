"""Draws of many rows are ranked by cells: the same numbers where values are few, near ones otherwise."""

import numpy as np
import pytest
from correlated import plain_within
from scipy import stats

from utils.statistics import bootstrap, resampling
from utils.statistics.bootstrap import make_ranking
from utils.statistics.resampling import Resampler, correlate_pairs_resampled, correlate_resampled

ROWS = 3000


@pytest.fixture
def many(monkeypatch):
    """What is many, for tests."""

    def from_rows(rows):
        for module in (bootstrap, resampling):
            monkeypatch.setattr(module, "MANY_ROWS", rows)

    return from_rows


def columns(decimals, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 2))
    y = x[:, :1] + rng.normal(size=(ROWS, 3))
    y[:, 2] = 1.0
    return np.round(x, decimals), np.round(y, decimals)


PLANS = {
    "images": Resampler(ROWS, 12, 1),
    "clusters": Resampler(ROWS, 12, 1, np.arange(ROWS) // 20, draw=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
@pytest.mark.parametrize("strata", [None, np.arange(ROWS) % 4], ids=["all", "strata"])
def test_few_values_give_the_same_numbers(many, monkeypatch, plan, strata):
    x, y = columns(decimals=1)
    many(10**9)
    expected = correlate_resampled(x, y, plan, strata)
    many(100)
    monkeypatch.setattr(
        bootstrap.Ranking, "run_sums", None
    )  # the way that puts every row in order is not taken
    found = correlate_resampled(x, y, plan, strata)[1]
    assert np.isnan(found[:, :, 2]).all()
    assert found == pytest.approx(expected[1], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("strata", [None, np.arange(ROWS) % 4], ids=["all", "strata"])
def test_cells_move_a_draw_by_far_less_than_draws_differ(many, monkeypatch, strata):
    x, y = columns(decimals=9)
    plan = PLANS["images"]
    many(10**9)
    expected = correlate_resampled(x, y, plan, strata)
    assert expected[1].std(axis=0)[:, :2].min() > 5e-3
    many(100)
    monkeypatch.setattr(bootstrap.Ranking.in_cells, "__defaults__", (1000,))
    found = correlate_resampled(x, y, plan, strata)
    assert np.array_equal(found[0], expected[0], equal_nan=True), "rho of the data itself is not rounded"
    assert 0 < np.nanmax(np.abs(found[1] - expected[1])) < 6e-4
    pairs = correlate_pairs_resampled([(x[:, 0], y[:, 0])], plan, strata)
    assert (pairs[0], pairs[1][:, 0]) == (found[0][0, 0], pytest.approx(found[1][:, 0, 0], abs=1e-15))


def test_cells_join_neighbours_of_one_stratum():
    values, strata = np.random.default_rng(0).normal(size=1000), np.arange(1000) % 3
    ranking = make_ranking(values, strata).in_cells(50)
    runs = ranking.row_to_run
    assert 50 <= runs.max() + 1 <= 53
    assert [len(np.unique(strata[runs == run])) for run in range(runs.max() + 1)] == [1] * (runs.max() + 1)
    assert np.array_equal(ranking.stratum_first, [runs[strata == s].min() for s in range(3)])
    ranks = ranking.centred_ranks(np.ones((1, 1000)))[0]
    assert stats.spearmanr(ranks[strata == 1], values[strata == 1]).statistic > 0.998
    assert plain_within(ranks, values, strata) > 0.998
