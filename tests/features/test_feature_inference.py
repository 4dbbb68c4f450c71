"""What image features prove: folds, permutations of whole clusters, unique and shared variance."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from utils.features.commonality import (
    TOGETHER,
    commonality,
    explained,
    orthonormal,
    ranked_columns,
    residual_scales,
)
from utils.features.fold_inference import ClusterPermutation, cluster_codes, fold_ranks, fold_test
from utils.features.model import ModelSettings, assign_folds, clusters_of, cross_validate


def clustered(rng: np.random.Generator, clusters: np.ndarray, columns: int, alike: float = 0.5) -> np.ndarray:
    """(n, columns) normal numbers of variance 1, of which the members of a cluster share `alike`."""
    count = clusters.max() + 1
    shared = rng.normal(size=(count, columns))[clusters]
    return np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=(len(clusters), columns))


# ------------------------------------------------------------------------------------- folds


def test_ranks_inside_folds_do_not_see_differences_between_them():
    values, folds = np.array([1.0, 2, 3, 101, 103, 102, 102]), np.array([0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(fold_ranks(values, folds), [-1 / 3, 0, 1 / 3, -1.5 / 4, 1.5 / 4, 0, 0])
    np.testing.assert_allclose(fold_ranks(values + 50 * folds, folds), fold_ranks(values, folds))


def test_rho_of_noise_is_centred_on_zero_where_the_pooled_one_is_far_below():
    pooled, inside = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(40, 40)), rng.normal(size=40)
        folds = rng.permutation(40) % 5
        predicted = cross_validate("ridge", x, y, folds, 0).predicted
        pooled.append(stats.spearmanr(predicted, y).statistic)
        inside.append(fold_test(predicted, y, folds, np.arange(40), permutations=1).rho)
    assert np.mean(pooled) < -0.1
    assert abs(np.mean(inside)) < 3 * np.std(inside) / np.sqrt(25)


def test_permuting_clusters_keeps_what_makes_members_alike():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 10)
    values = clustered(rng, clusters, 1, 0.6)[:, 0]
    permuted = ClusterPermutation(values, clusters).draw(np.random.default_rng(1))
    means = [np.bincount(clusters, column) / 10 for column in (values, permuted)]
    np.testing.assert_allclose(np.sort(means[0]), np.sort(means[1]))
    assert not np.allclose(means[0], means[1])
    for cluster in range(30):
        inside = [column[clusters == cluster] for column in (values, permuted)]
        np.testing.assert_allclose(*(np.sort(part - part.mean()) for part in inside), atol=1e-12)
    assert abs(np.corrcoef(values, permuted)[0, 1]) < 0.5


def test_with_clusters_of_one_image_it_is_the_ordinary_permutation():
    values = np.arange(12.0)
    permuted = ClusterPermutation(values, np.arange(12)).draw(np.random.default_rng(0))
    assert sorted(permuted) == sorted(values)
    assert not np.array_equal(permuted, values)


def test_one_cluster_only_is_no_clustering():
    assert cluster_codes(["a"] * 4, 4).tolist() == [0, 1, 2, 3]
    assert cluster_codes(None, 3).tolist() == [0, 1, 2]
    assert cluster_codes(["b", "a", "b"], 3).tolist() == [1, 0, 1]


def test_a_constant_prediction_has_no_rho():
    found = fold_test(np.ones(10), np.arange(10.0), np.arange(10) % 2, np.arange(10), permutations=9)
    assert np.isnan(found.rho)
    assert np.isnan(found.p)


def test_clusters_stay_in_one_fold_and_folds_stay_even_within_categories():
    rng = np.random.default_rng(0)
    subcategory = np.array([f"s{number:02d}" for number in rng.permutation(np.repeat(np.arange(40), 6))])
    category = np.array([f"c{int(name[1:]) % 2}" for name in subcategory])
    folds = assign_folds(category, 5, seed=0, clusters=subcategory)
    assert (pd.Series(folds).groupby(subcategory).nunique() == 1).all()
    table = pd.crosstab(category, folds)
    assert table.shape == (2, 5)
    assert int(np.ptp(table.to_numpy())) == 0, "equal clusters, equal categories: equal folds"


@pytest.mark.parametrize(
    ("studies", "low", "high"), [(150, 0.0, 0.1), pytest.param(2000, 0.03, 0.07, marks=pytest.mark.long)]
)
def test_false_positives_of_a_cross_validated_rho_under_a_clustered_null(studies, low, high):
    """Features and scores are alike inside subcategories and have nothing to do with each other: p < 0.05 in 3 to 7 %."""
    hits, clusters = 0, np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(0)
    for study in range(studies):
        x, y = clustered(rng, clusters, 8), clustered(rng, clusters, 1)[:, 0]
        folds = assign_folds([""] * 200, 5, study, clusters)
        predicted = np.empty(200)
        for fold in range(5):
            outside = folds != fold
            slopes = np.linalg.solve(x[outside].T @ x[outside] + 20 * np.eye(8), x[outside].T @ y[outside])
            predicted[~outside] = x[~outside] @ slopes
        hits += fold_test(predicted, y, folds, clusters, permutations=99, seed=study).p <= 0.05
    assert low <= hits / studies <= high


def test_fewer_clusters_than_folds_are_dealt_singly_and_the_log_says_what_that_means(caplog):
    frame = pd.DataFrame({"category": "a", "subcategory": np.repeat(["x", "y", "z"], 8)})
    assert clusters_of(frame, ModelSettings(folds=3)).max() == 2
    assert clusters_of(frame, ModelSettings(folds=5)) is None
    assert "3 clusters cannot be dealt to 5 folds as a whole" in caplog.text
    assert "may be recognition. Use fewer --folds." in caplog.text


# ------------------------------------------------------------------------------------- unique and shared variance


def test_explained_variance_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    x = np.column_stack([x, x[:, 0] + x[:, 1]])  # a dependent column changes nothing
    fitted = (
        np.column_stack([np.ones(50), x])
        @ np.linalg.lstsq(np.column_stack([np.ones(50), x]), y, rcond=None)[0]
    )
    expected = 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    basis = orthonormal(x - x.mean(axis=0))
    assert basis.shape == (50, 3)
    assert explained(basis, y[:, None])[0] == pytest.approx(expected)


def test_numbers_become_ranks_categories_indicators_and_gaps_are_marked():
    frame = pd.DataFrame({"a": [3.0, 1, np.nan, 100], "b": ["x", "y", "x", "z"], "c": 1.0})
    found = ranked_columns(frame)
    assert found.shape == (4, 4)  # ranks of a, gaps of a, y, z; c is constant
    ranks = np.array([2.0, 1, 2, 3]) - 2
    np.testing.assert_allclose(found[:, 0], ranks / np.linalg.norm(ranks))


def planted(seed: int, clusters: np.ndarray) -> pd.DataFrame:
    """Scores that rest on an error; `copy` is the error again, `noise` has nothing to do with them."""
    rng = np.random.default_rng(seed)
    error, noise = clustered(rng, clusters, 1)[:, 0], clustered(rng, clusters, 6)
    score = 0.8 * error + clustered(rng, clusters, 1)[:, 0]
    columns = {"error": error, "copy": error + 0.01 * rng.normal(size=len(error)), "memorability": score}
    return pd.DataFrame(columns | {f"noise{number}": noise[:, number] for number in range(6)})


NOISE = [f"noise{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("studies", "low", "high"), [(50, 0.0, 0.14), pytest.param(1000, 0.03, 0.07, marks=pytest.mark.long)]
)
def test_the_gain_of_features_that_say_nothing_is_centred_on_zero_and_significant_as_it_says(
    studies, low, high
):
    clusters = np.repeat(np.arange(40), 5)
    rows = pd.concat(
        [
            commonality(
                planted(seed, clusters),
                {"error": ["error"], "features": NOISE},
                clusters,
                permutations=59,
                seed=seed,
            )
            for seed in range(studies)
        ]
    )
    features = rows[rows["block"] == "features"]
    unique = features["unique"].to_numpy()
    assert abs(unique.mean()) < 3 * unique.std() / np.sqrt(len(unique))
    assert low <= (features["p"] <= 0.05).mean() <= high
    error = rows[rows["block"] == "error"]
    assert (error["p"] <= 0.05).all()
    assert error["unique"].mean() == pytest.approx(0.39 * 0.95, abs=0.06)  # 0.64 / 1.64, less for ranks


@pytest.mark.parametrize("variances", [(1.0, 1.0), (2.0, 0.3), (0.1, 1.0)])
def test_residuals_are_brought_back_to_the_size_of_the_errors(variances):
    """Against the expected sums of squares by whole matrices: residuals that have just these become errors."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 14)
    clusters = np.repeat(np.arange(14), sizes)
    n, members = len(clusters), np.eye(14)[clusters]
    columns = clustered(rng, clusters, 6, alike=0.8)
    rest = orthonormal(columns - columns.mean(axis=0))
    averaged = members @ np.diag(1 / sizes) @ members.T
    left = np.eye(n) - rest @ rest.T - 1 / n
    errors = variances[0] * members @ members.T + variances[1] * np.eye(n)
    expected = [np.trace(side @ left @ errors @ left) for side in (averaged, np.eye(n) - averaged)]
    centre = np.eye(n) - 1 / n
    wanted = [np.trace(side @ centre @ errors @ centre) for side in (averaged, np.eye(n) - averaged)]
    assert expected[0] < 0.7 * wanted[0], "nothing to bring back"
    draw = rng.normal(size=n)
    between, inside = averaged @ draw, draw - averaged @ draw
    residual = between * np.sqrt(expected[0] / (between @ between))
    residual += inside * np.sqrt(expected[1] / (inside @ inside))
    found = residual_scales(residual, rest, clusters)
    assert np.square(found) == pytest.approx(np.divide(wanted, expected))
    permuted = ClusterPermutation(residual, clusters, found).draw(np.random.default_rng(1))
    assert np.sort(np.bincount(clusters, permuted) / sizes) == pytest.approx(
        np.sort(found[0] * np.bincount(clusters, residual) / sizes)
    )


def test_residuals_of_single_images_are_corrected_for_degrees_of_freedom_alone():
    columns = np.random.default_rng(0).normal(size=(60, 5))
    rest = orthonormal(columns - columns.mean(axis=0))
    residual = np.random.default_rng(1).normal(size=60)
    assert residual_scales(residual, rest, np.arange(60)) == pytest.approx((np.sqrt(59 / 54), 1))
    assert residual_scales(residual, rest[:, :0], np.arange(60)) == pytest.approx((1, 1))
    clusters = np.repeat(np.arange(12), 5)
    assert residual_scales(residual - residual.mean(), rest[:, :0], clusters) == pytest.approx((1, 1))


def test_columns_that_take_every_difference_between_clusters_leave_nothing_to_scale():
    clusters = np.repeat(np.arange(4), 5)
    columns = np.eye(4)[clusters][:, 1:]
    rest = orthonormal(columns - columns.mean(axis=0))
    assert residual_scales(np.random.default_rng(0).normal(size=20), rest, clusters) == (1.0, 1.0)


@pytest.mark.long
def test_one_column_beside_ten_others_is_significant_as_it_says():
    """Few clusters, many columns: p < 0.05 in 11 to 13 % where the residuals are permuted as they are."""
    clusters = np.repeat(np.arange(24), 10)
    names = [f"noise{number}" for number in range(10)]
    p = []
    for seed in range(600):
        columns = clustered(np.random.default_rng(seed), clusters, 12)
        frame = pd.DataFrame(columns, columns=[*names, "one", "memorability"])
        rows = commonality(frame, {"features": names, "one": ["one"]}, clusters, permutations=99, seed=seed)
        p.append(rows.set_index("block").at["one", "p"])
    assert 0.03 <= (np.array(p) <= 0.05).mean() <= 0.075


def test_what_two_blocks_say_both_is_shared_and_what_one_says_is_unique():
    clusters = np.arange(400)
    found = commonality(
        planted(0, clusters),
        {"error": ["error"], "copy": ["copy"], "features": NOISE},
        clusters,
        permutations=99,
    ).set_index("block")
    assert found["shared"][["error", "copy"]].min() > 0.3
    assert found["unique"][["error", "copy"]].abs().max() < 0.02
    alone = commonality(
        planted(0, clusters), {"error": ["error"], "features": NOISE}, clusters, permutations=99
    ).set_index("block")
    assert alone.loc["error", "unique"] > 0.3
    assert abs(alone.loc["error", "shared"]) < 0.03
    assert alone.loc["error", "ci_low"] < alone.loc["error", "unique"] < alone.loc["error", "ci_high"]
    assert alone.loc["error", "ci_low"] > 0
    assert alone.loc[TOGETHER, "alone"] == pytest.approx(alone.loc["error", "unique"], abs=0.05)


def test_without_anything_to_explain_or_to_explain_it_by_there_is_no_row():
    frame = planted(0, np.arange(30))
    assert commonality(frame.assign(memorability=1.0), {"error": ["error"]}, np.arange(30)).empty
    assert commonality(frame.assign(error=2.0), {"error": ["error"]}, np.arange(30)).empty
    assert commonality(frame[:7], {"features": NOISE}, np.arange(7)).empty
