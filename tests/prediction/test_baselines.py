"""What recognition alone predicts, stacked by weights that may not turn a prediction around."""

import numpy as np
import pytest

from utils.prediction.baselines import fit_stack, group_means


def test_means_of_training_images_with_and_without_their_own_score():
    labels = ["a", "a", "a", "b", "b", "c", ""]
    scores = np.array([0.2, 0.4, 0.9, 0.5, 0.7, 0.1, 0.3])
    train = np.array([0, 1, 3, 6])
    found = group_means(labels, scores, train)
    overall = scores[train].mean()
    others = (scores[train].sum() - scores) / 3
    np.testing.assert_allclose(found.values, [0.3, 0.3, 0.3, 0.5, 0.5, overall, overall])
    np.testing.assert_allclose(found.left_out, [0.4, 0.2, 0.3, others[3], 0.5, overall, others[6]])
    assert found.seen.tolist() == [True, True, True, False, True, False, False]


def test_a_group_without_training_images_falls_back_to_the_coarser_one():
    category, subcategory = ["animal"] * 4 + ["food"], ["bear", "bear", "cat", "cat", "cake"]
    scores = np.array([0.6, 0.8, 0.1, 0.1, 0.2])
    coarse = group_means(category, scores, np.array([0, 1, 4]))
    fine = group_means(subcategory, scores, np.array([0, 1, 4]), coarse)
    np.testing.assert_allclose(fine.values, [0.7, 0.7, 0.7, 0.7, 0.2])
    assert fine.seen.tolist() == [True, True, False, False, False]


def test_scores_outside_the_training_rows_are_never_looked_at():
    rng = np.random.default_rng(0)
    labels, scores, train = rng.integers(0, 4, 40).astype(str), rng.random(40), np.arange(20)
    changed = scores.copy()
    changed[20:] = np.nan
    np.testing.assert_array_equal(
        group_means(labels, scores, train).values, group_means(labels, changed, train).values
    )


def test_a_stacks_weight_is_the_shrinkage_of_a_mixed_model():
    """30 groups of 10, variance between equal to that within: the mean of nine others deserves 1 / (1 + 1/9)."""
    weights = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 30, 300)
        scores = rng.normal(size=30)[groups] + rng.normal(size=300)
        means = group_means(groups.astype(str), scores, np.arange(300))
        weights.append(fit_stack(means.left_out[:, None], scores).weights[0])
    assert np.mean(weights) == pytest.approx(0.9, abs=0.03)


def test_means_that_say_nothing_are_left_out_rather_than_turned_around():
    rng = np.random.default_rng(1)
    weights = []
    for _ in range(50):
        scores = rng.normal(size=120)
        means = group_means(rng.integers(0, 12, 120).astype(str), scores, np.arange(120))
        weights.append(fit_stack(means.left_out[:, None], scores).weights[0])
    assert min(weights) == 0
    assert np.mean(weights) < 0.2


def test_a_stack_predicts_the_mean_plus_weighted_deviations():
    rng = np.random.default_rng(2)
    predictions = rng.normal(size=(200, 2))
    scores = predictions @ [0.5, 2.0] + 3
    stack = fit_stack(predictions + 0.0, scores + rng.normal(0, 1e-6, 200))
    np.testing.assert_allclose(stack.predict(predictions), scores, atol=0.05)
