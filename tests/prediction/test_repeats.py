"""Repeated splits: the corrected interval by hand, and in a simulation where the naive one is far too narrow."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.simulated import gaps_of_equals
from utils.prediction.repeats import corrected_mean, over_splits


def test_the_corrected_interval_by_hand():
    values = np.array([0.50, 0.54, 0.46, 0.52, 0.48])
    found = corrected_mean(values, test_share=0.5)
    error = np.sqrt(1 / 5 + 0.5) * values.std(ddof=1)
    assert found.mean == pytest.approx(0.5)
    assert found.ci_high - found.mean == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert found.mean - found.ci_low == pytest.approx(found.ci_high - found.mean)
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / error, 4))


def test_without_two_splits_or_without_spread_there_is_no_interval():
    assert np.isnan(corrected_mean(np.array([0.5]), 0.5).ci_low)
    assert np.isnan(corrected_mean(np.array([np.nan, 0.5]), 0.5).sd)
    flat = corrected_mean(np.array([0.5, 0.5]), 0.5)
    assert (flat.ci_low, flat.ci_high) == (0.5, 0.5)
    assert np.isnan(flat.p)
    assert np.isnan(corrected_mean(np.array([]), 0.5).mean)


def test_seeds_are_averaged_inside_a_split_and_are_no_further_splits():
    rows = pd.DataFrame(
        {
            "predictor": "mlp",
            "metric": "spearman",
            "split_number": [0, 0, 1, 1, 2, 2],
            "mlp_seed": [0, 1] * 3,
            "value": [0.4, 0.6, 0.5, 0.7, 0.3, 0.5],
        }
    )
    found = over_splits(rows, 0.5).iloc[0]
    assert (found["n_splits"], found["n_seeds"]) == (3, 2)
    expected = corrected_mean(np.array([0.5, 0.6, 0.4]), 0.5)
    assert found["ci_low_over_splits"] == pytest.approx(expected.ci_low)
    assert found["sd_over_seeds"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    one = over_splits(rows[rows["mlp_seed"] == 0], 0.5).iloc[0]
    assert np.isnan(one["sd_over_seeds"])


def test_two_equal_learners_differ_in_one_study_of_twenty_not_in_every_fifth():
    """Two regressions on different halves of eight equal features: neither is better; ten splits of 90 images."""
    naive, corrected, studies = 0, 0, 300
    for seed in range(studies):
        gaps = gaps_of_equals(np.random.default_rng(seed))
        corrected += corrected_mean(gaps, 30 / 60).p < 0.05
        naive += stats.ttest_1samp(gaps, 0).pvalue < 0.05
    assert naive / studies > 0.2
    assert 0.01 <= corrected / studies <= 0.09
