"""Correlations without each block of images, from one ranking: against ranking again, and against scipy."""

import numpy as np
import pandas as pd
import pytest
from correlated import plain_within
from scipy import stats

from utils.statistics import leave_out, resampling
from utils.statistics.bootstrap import make_ranking, rank_cells, rank_correlations
from utils.statistics.leave_out import CELLS, correlate_without
from utils.statistics.noise_ceiling import resampled_ceiling
from utils.statistics.partial_correlation import partial_correlations
from utils.statistics.resampling import Resampler, correlate_pairs_resampled, correlate_resampled

ROWS = 900
ERROR = {"as it stands": 1e-12, "by cells": 1e-4}  # of 60 cells


def ranked_again(x, y, plan, strata=None):
    """The plain way: the images ranked anew in each resample."""
    x, y = ([make_ranking(column, strata) for column in matrix.T] for matrix in (x, y))
    return plan.evaluate(lambda counts: rank_correlations(x, y, counts))


def coded(labels):
    return np.unique(labels, return_inverse=True)[1]


def example(seed=0):
    """Two x and four y columns (ties, two values, all but one the same), uneven clusters of up to 40."""
    rng = np.random.default_rng(seed)
    codes = coded(rng.zipf(1.5, ROWS) % 60)
    x = rng.normal(size=(ROWS, 2)) + 0.5 * rng.normal(size=60)[codes][:, None]
    y = x[:, :1] + rng.normal(size=(ROWS, 4))
    y[:, 1], y[:, 2], y[:, 3] = np.round(y[:, 1]), y[:, 2] > 1, codes == 7
    x[:, 1] = np.round(x[:, 1], 1)
    return x, y, codes


STRATA = {
    "none": lambda codes: None,
    "crossing the clusters": lambda codes: coded(np.random.default_rng(1).integers(0, 5, len(codes))),
    "small": lambda codes: coded(np.random.default_rng(2).integers(0, 200, len(codes))),
    "the clusters themselves": lambda codes: codes,
    "of several clusters": lambda codes: coded(codes // 7),
}


@pytest.fixture(params=["as it stands", "by cells"])
def way(request, monkeypatch):
    """Both ways of the fourth sum."""
    if request.param == "by cells":
        monkeypatch.setattr(leave_out, "DIRECT_WORK", 0)
        monkeypatch.setattr(leave_out, "CELLS", 60)
        monkeypatch.setattr(leave_out, "LARGE_BLOCK", 0.1)
    return request.param


def agree(found, expected, way):
    for ours, plain in zip(found, expected, strict=True):
        assert np.array_equal(np.isnan(ours), np.isnan(plain))
        assert ours == pytest.approx(plain, abs=ERROR[way], nan_ok=True)


@pytest.mark.parametrize("strata", STRATA.values(), ids=STRATA.keys())
def test_nothing_need_be_ranked_again(strata, way):
    x, y, codes = example()
    inside = strata(codes)
    plan = Resampler(ROWS, 0, 0, codes)
    agree(correlate_resampled(x, y, plan, inside), ranked_again(x, y, plan, inside), way)


def test_strata_of_many_rows_are_summed_by_themselves(monkeypatch):
    x, y, codes = example()
    plan, strata = Resampler(ROWS, 0, 0, codes), np.arange(ROWS) // 300
    monkeypatch.setattr(leave_out, "LARGE_STRATUM", 200)
    monkeypatch.setattr(leave_out, "CHUNK", 1000)
    agree(correlate_resampled(x, y, plan, strata), ranked_again(x, y, plan, strata), "as it stands")


def test_blocks_of_several_clusters(monkeypatch, way):
    monkeypatch.setattr(resampling, "MOST_DELETIONS", 11)
    x, y, codes = example()
    plan, strata = Resampler(ROWS, 0, 5, codes), coded(codes % 4)
    found = correlate_resampled(x, y, plan, strata)
    assert found[1].shape == (11, 2, 4)
    agree(found, ranked_again(x, y, plan, strata), way)


def test_a_column_constant_without_one_cluster_has_no_rho(way):
    x, y, codes = example()
    y[:, 0] = np.where(codes == 5, y[:, 0], 1.0)
    plan = Resampler(ROWS, 0, 0, codes)
    for strata in (None, coded(codes // 3), np.arange(ROWS) % 41):
        found = correlate_resampled(x, y, plan, strata)
        assert np.isnan(found[1][5, :, 0]).all()
        assert np.isfinite(np.delete(found[1][:, 0, 0], 5)).all()
        agree(found, ranked_again(x, y, plan, strata), way)


def test_scipy_says_the_same_of_the_rows_that_are_left(way):
    x, y, codes = example()
    plan = Resampler(ROWS, 0, 0, codes)
    _, samples = correlate_resampled(x, y, plan)
    strata = coded(codes % 3)
    _, within = correlate_resampled(x, y, plan, strata)
    for cluster in (0, 1, 20):
        left = codes != cluster
        expected = stats.spearmanr(x[left, 1], y[left, 1]).statistic
        assert samples[cluster, 1, 1] == pytest.approx(expected, abs=ERROR[way])
        expected = plain_within(x[left, 1], y[left, 1], strata[left])
        assert within[cluster, 1, 1] == pytest.approx(expected, abs=ERROR[way])


@pytest.mark.parametrize("alike", [False, True])
def test_cells_err_less_than_the_bound_and_by_far(monkeypatch, alike):
    rows, deletions = 30_000, 300
    rng = np.random.default_rng(0)
    blocks = np.arange(rows) * deletions // rows
    # Alike: all members of a block beside each other in both columns, the worst there is.
    x = np.arange(rows) * 1.0 if alike else rng.normal(size=rows)
    y = x + (3 if alike else 1) * rng.normal(size=rows)
    columns = np.column_stack([y, np.round(y, 1)])
    by_cells = correlate_without(x[:, None], columns, blocks, deletions)
    monkeypatch.setattr(leave_out, "DIRECT_WORK", rows * deletions)
    exact = correlate_without(x[:, None], columns, blocks, deletions)
    assert by_cells[0] == pytest.approx(exact[0], abs=1e-15)
    error = np.abs(by_cells[1] - exact[1]).max()
    assert 0 < error < 12 / deletions**2 / CELLS / (3 if alike else 100)
    if not alike:
        errors = [plan_error(samples) for samples in (by_cells[1], exact[1])]
        assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def plan_error(samples):
    return np.sqrt(((samples - samples.mean(axis=0)) ** 2).sum(axis=0))


def test_large_blocks_are_exact_beside_cells(monkeypatch):
    rng = np.random.default_rng(3)
    blocks = np.where(np.arange(6000) < 900, 0, 1 + np.arange(6000) % 400)
    x = rng.normal(size=(6000, 1)) + (blocks == 0)[:, None]
    y = x + rng.normal(size=(6000, 1))
    monkeypatch.setattr(leave_out, "DIRECT_WORK", 6000)
    _, samples = correlate_without(x, y, blocks, 401)
    left = blocks > 0
    assert samples[0, 0, 0] == pytest.approx(stats.spearmanr(x[left], y[left]).statistic, abs=1e-14)
    left = blocks != 9
    assert samples[9, 0, 0] == pytest.approx(stats.spearmanr(x[left], y[left]).statistic, abs=1e-7)


def test_partial_correlations_and_ceilings_take_the_same_way(monkeypatch):
    x, y, codes = example()
    plan, held = Resampler(ROWS, 0, 0, codes), np.column_stack([x[:, 1], y[:, 2]])
    rng = np.random.default_rng(0)
    responses = rng.integers(1, 40, ROWS)  # some images cannot be split
    hits = rng.binomial(responses, 1 / (1 + np.exp(-x[:, 0])))
    frame = pd.DataFrame({"hits": hits, "n_resp": responses, "memorability": hits / responses})
    strata = coded(codes % 3)

    def both():
        ceilings = resampled_ceiling(frame, "memorability", plan, strata=strata, splits=12)
        return [*partial_correlations(x[:, :1], y[:, :2], held, plan), *ceilings]

    fast = both()
    monkeypatch.setattr(resampling, "JACKKNIFE", "never")
    monkeypatch.setattr(Resampler, "scheme", "jackknife")  # counts as before, no short cut
    for ours, plain in zip(fast, both(), strict=True):
        assert ours == pytest.approx(plain, abs=1e-12)


def test_rows_without_the_columns_still_go_with_their_blocks():
    x, y, codes = example()
    rows = codes != 4
    plan = Resampler(ROWS, 0, 0, codes)
    rho, samples = correlate_pairs_resampled([(x[rows, 0], y[rows, 0])], plan, rows=rows)
    assert samples.shape == (len(np.unique(codes)), 1)
    assert samples[4] == pytest.approx(rho, abs=1e-15), "block 4 has none of these rows"
    left = rows & (codes != 6)
    assert samples[6, 0] == pytest.approx(stats.spearmanr(x[left, 0], y[left, 0]).statistic, abs=1e-12)


def test_columns_with_themselves_are_correlated_once():
    x, y, codes = example()
    rho, samples = correlate_without(y, y, codes, codes.max() + 1)
    other = correlate_without(y, y.copy(), codes, codes.max() + 1)
    assert rho == pytest.approx(other[0], abs=1e-15)
    assert samples == pytest.approx(other[1], abs=1e-15, nan_ok=True)


def test_nothing_moves_the_rho_of_one_order_or_its_opposite(way):
    x, _, codes = example()
    both = np.column_stack([np.exp(x[:, 1]), -x[:, 1]])
    rho, samples = correlate_without(x[:, 1:], both, codes, codes.max() + 1, codes % 4)
    assert (samples[:, 0] == [1, -1]).all()
    assert (rho == [[1, -1]]).all()


def test_cells_are_even_and_ties_never_part():
    lengths = np.array([1, 1, 1, 40, 1, 1, 2, 1, 1, 1, 1, 30, 29, 1, 1])
    begins, size = np.cumsum(lengths) - lengths, lengths.sum()
    found = rank_cells(begins, lengths, size, 10)
    assert list(found) == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 4, 5, 6, 6]
    assert len(np.unique(rank_cells(np.arange(1000), np.ones(1000, dtype=int), 1000, 64))) == 64
