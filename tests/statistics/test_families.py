"""Families of tests over a whole study: by hand, against trying every level, and on studies without any effect."""

import numpy as np
import pytest

from utils.statistics.families import study_q
from utils.statistics.rank_correlation import false_discovery_q


def holds_at(level, q, family):
    """Which tests hold at a level, by the procedure's own words (Benjamini & Bogomolov 2014, with BH for the families)."""
    names = sorted(set(family))
    simes = sorted(min(q[i] for i in range(len(q)) if family[i] == name) for name in names)
    chosen = max((r for r in range(1, len(names) + 1) if simes[r - 1] <= level * r / len(names)), default=0)
    return [value <= level * chosen / len(names) for value in q]


def families_of_p(rng, families, tests, effect=0.0):
    p = rng.uniform(size=(families, tests))
    p[rng.uniform(size=p.shape) < effect] **= 6
    q = np.concatenate([false_discovery_q(row) for row in p])
    return q, np.repeat(np.arange(families), tests)


def test_by_hand():
    # One family: nothing to choose from.
    assert study_q([0.01, 0.2], ["a", "a"]) == pytest.approx([0.01, 0.2])
    # Two families of one test: Benjamini-Hochberg of the two.
    assert study_q([0.01, 0.04], ["a", "b"]) == pytest.approx([0.02, 0.04])
    # a is chosen from 0.02 on, b from 0.5 on. Before that a's tests are held to half of the level: 0.04 holds from 0.08.
    assert study_q([0.01, 0.04, 0.5], ["a", "a", "b"]) == pytest.approx([0.02, 0.08, 0.5])
    # b chosen at 0.05 lets a's second test in at 0.05 already.
    assert study_q([0.01, 0.04, 0.05], ["a", "a", "b"]) == pytest.approx([0.02, 0.05, 0.05])
    # Two of three families are chosen from 0.06 on, not from 0.04, where the second has its p.
    assert study_q([0.001, 0.03, 0.04, 0.9], ["a", "a", "b", "c"]) == pytest.approx([0.003, 0.06, 0.06, 0.9])
    # The order of rows says nothing.
    assert study_q([0.05, 0.04, 0.01], ["b", "a", "a"]) == pytest.approx([0.05, 0.05, 0.02])


def test_tests_that_were_not_made_do_not_count():
    nan = float("nan")
    found = study_q([0.01, nan, nan, 0.04], ["a", "a", "none", "b"])
    assert found[[0, 3]] == pytest.approx([0.02, 0.04])  # of two families, not three
    assert np.isnan(found[[1, 2]]).all()
    assert np.isnan(study_q([nan], ["a"])).all()
    assert len(study_q([], [])) == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_holds_at_a_level_is_what_the_procedure_says(seed):
    """Every level of a grid, none of them on an edge."""
    rng = np.random.default_rng(seed)
    q, family = families_of_p(rng, families=int(rng.integers(1, 7)), tests=5, effect=0.2 * (seed % 3))
    shuffled = rng.permutation(len(q))
    q, family = q[shuffled], family[shuffled]
    found = study_q(q, [f"family {name}" for name in family])
    for level in np.linspace(0.0013, 0.9971, 71):
        assert (found <= level).tolist() == holds_at(level, q.tolist(), family.tolist())
    assert (found >= q - 1e-12).all()
    assert (found <= 1).all()


def test_a_study_without_effects_has_a_finding_in_one_of_twenty():
    """400 studies of 22 families: q alone finds something in about two thirds of them."""
    rng = np.random.default_rng(0)
    studies = [families_of_p(rng, families=22, tests=6) for _ in range(400)]
    share = np.mean([(study_q(q, family) < 0.05).any() for q, family in studies])
    alone = np.mean([(q < 0.05).any() for q, _ in studies])
    assert 0.02 < share < 0.08
    assert alone > 0.6
