"""Two groups of people: correlations against scipy, disattenuation by hand, and differences that are there or are not."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from utils.statistics.two_groups import BETWEEN, Group, compare_groups


def people(n=400, seed=0, responses=(120, 120), second_sees=1.0):
    """Images whose true memorability two groups share; the measure follows what the second group adds or not."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.3, 0.95, n)
    other = np.clip(truth + (1 - second_sees) * rng.normal(0, 0.2, n), 0.02, 0.98)
    frame = pd.DataFrame({"measure": truth + rng.normal(0, 0.1, n)})
    for side, chance, count in (("a", truth, responses[0]), ("b", other, responses[1])):
        frame[f"hits_{side}"] = rng.binomial(count, chance)
        frame[f"alarms_{side}"] = rng.binomial(count, 0.1, n)
        frame[f"n_{side}"] = count
        frame[side] = (frame[f"hits_{side}"] - frame[f"alarms_{side}"]) / count
    return frame


def group(side):
    return Group(side, (f"hits_{side}", f"alarms_{side}", f"n_{side}"))


def compare(frame, **options):
    table = compare_groups(frame, ["measure"], group("a"), group("b"), resamples=300, **options)
    return table.set_index("measure")


def test_correlations_are_scipys_and_the_difference_is_theirs():
    frame = people()
    table = compare(frame)
    row = table.loc["measure"]
    a, b = (spearmanr(frame["measure"], frame[side]).statistic for side in "ab")
    assert table.loc[BETWEEN, "rho_first"] == pytest.approx(spearmanr(frame["a"], frame["b"]).statistic)
    assert (row["rho_first"], row["rho_second"]) == (pytest.approx(a), pytest.approx(b))
    assert row["difference"] == pytest.approx(a - b)
    assert row["ci_low"] < row["difference"] < row["ci_high"]


def test_disattenuation_divides_by_the_roots_of_the_reliabilities():
    table = compare(people())
    first, second = table.loc["measure", ["reliability_first", "reliability_second"]]
    row, between = table.loc["measure"], table.loc[BETWEEN]
    assert row["rho_first_disattenuated"] == pytest.approx(row["rho_first"] / np.sqrt(first))
    assert row["rho_second_disattenuated"] == pytest.approx(row["rho_second"] / np.sqrt(second))
    assert between["rho_first_disattenuated"] == pytest.approx(between["rho_first"] / np.sqrt(first * second))
    gap = row["rho_first_disattenuated"] - row["rho_second_disattenuated"]
    assert row["difference_disattenuated"] == pytest.approx(gap)


def test_groups_that_share_the_truth_differ_by_their_noise_alone():
    """Few responses lower a raw correlation; disattenuated, groups with one truth agree."""
    table = compare(people(n=1500, responses=(150, 25)))
    row = table.loc["measure"]
    assert row["ci_low"] > 0
    assert row["ci_low_disattenuated"] < 0 < row["ci_high_disattenuated"]
    assert table.loc[BETWEEN, "rho_first_disattenuated"] == pytest.approx(1, abs=0.05)


def test_a_group_that_sees_something_else_differs_also_without_noise():
    row = compare(people(n=1500, second_sees=0.2)).loc["measure"]
    assert row["ci_low_disattenuated"] > 0
    assert row["p_disattenuated"] < 0.05


def test_pairs_stay_together():
    """The same scores twice differ by nothing in every resample."""
    frame = people().assign(b=lambda table: table["a"])
    table = compare_groups(frame, ["measure"], Group("a"), Group("b"), resamples=50).set_index("measure")
    assert table.loc["measure", ["difference", "ci_low", "ci_high"]].tolist() == [0, 0, 0]
    assert np.isnan(table.loc["measure", "rho_first_disattenuated"])  # no counts, no reliability


def test_subcategories_are_resampled_whole():
    frame = people(n=60).loc[np.repeat(np.arange(60), 10)].reset_index(drop=True)  # ten alike in each
    frame["subcategory"] = np.repeat([f"s{number}" for number in range(60)], 10)
    whole, single = compare(frame, cluster="subcategory"), compare(frame, cluster="none")
    assert whole.loc["measure", "clusters"] == 60
    width = [
        table.loc["measure", "ci_high_first"] - table.loc["measure", "ci_low_first"]
        for table in (whole, single)
    ]
    assert width[0] > 2 * width[1]


def test_images_without_a_score_by_both_are_left_out():
    frame = people()
    frame.loc[:9, "b"] = np.nan
    assert compare(frame).loc[BETWEEN, "n"] == 390
