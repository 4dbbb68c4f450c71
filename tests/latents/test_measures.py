"""Every measure of distinctiveness against an independent implementation: scikit-learn, scipy, or pairs by hand."""

import numpy as np
import pytest
from latents.test_distinctiveness import normal, study
from scipy.spatial.distance import cdist, pdist
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors

from utils.core.errors import UserError
from utils.core.measure_names import MEASURES, WITHIN
from utils.latents import pairs
from utils.latents.mahalanobis import TooLargeError, mahalanobis_distances
from utils.latents.measures import LOF_NEIGHBOURS, MeasureSettings, measure, measure_group
from utils.latents.pairs import Kernel, median_distance, pair_statistics

K = 7
SMALL_TILES = 96 * 1024  # bytes: about forty rows per tile, so that 120 rows take several


def everything(matrix, members=None, **settings):
    members = np.arange(len(matrix)) if members is None else members
    values, _ = measure_group(
        matrix, members, MeasureSettings(**{"memory_bytes": SMALL_TILES, **settings}), K
    )
    return values


def oracle(name, matrix):
    """The measure from libraries, in float64, with the whole distance matrix in memory."""
    wide = matrix.astype(np.float64)
    others = ~np.eye(len(wide), dtype=bool)
    kind = "cosine" if name.endswith("cosine") else "euclidean"
    distances = cdist(wide, wide, kind)
    scale = np.median(pdist(wide))
    if name.startswith(("nearest", "mean_k")):
        k = 1 if name.startswith("nearest") else K
        found = NearestNeighbors(n_neighbors=k, metric=kind, algorithm="brute").fit(wide)
        return found.kneighbors()[0].mean(1)
    if name.startswith("summed_similarity"):
        similar = np.exp(-distances / (1 if name.endswith("unit") else scale))
        return -np.log(np.where(others, similar, 0).sum(1))
    if name.startswith("density"):
        width = scale if name == "density_median" else scale / 2
        rest = [np.delete(wide, row, 0) for row in range(len(wide))]
        unit = wide.shape[1] * np.log(
            width * np.sqrt(2 * np.pi)
        )  # of a normalised Gaussian, which ours is not
        scores = [
            KernelDensity(bandwidth=width).fit(part).score_samples([row])[0]
            for part, row in zip(rest, wide, strict=True)
        ]
        return -np.array(scores) - unit
    return {
        "centroid": lambda: np.linalg.norm(wide - wide.mean(0), axis=1),
        "mahalanobis": lambda: np.sqrt(LedoitWolf().fit(wide).mahalanobis(wide)),
        "local_outlier_factor": lambda: (
            -LocalOutlierFactor(LOF_NEIGHBOURS).fit(wide).negative_outlier_factor_
        ),
        "negative_dot_product": lambda: -np.where(others, wide @ wide.T, 0).sum(1) / (len(wide) - 1),
    }[name]()


@pytest.mark.parametrize("name", MEASURES)
def test_equals_an_independent_implementation(name):
    matrix = np.maximum(normal(121, 23), -0.5) * np.linspace(0.2, 2, 23, dtype=np.float32) + 3
    assert len(pairs._spans(121, 23, SMALL_TILES)) > 2
    found = everything(matrix, measures=(name,))[name]
    np.testing.assert_allclose(found, oracle(name, matrix), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_a_far_image_is_more_distinctive_by_every_measure(name):
    """Direction: an image away from a cluster must come out on top."""
    matrix = normal(80, 4, seed=3) * 0.1 + np.array([5, 5, 0, 0], np.float32)
    matrix[41] = [-3, 4, 0, 0]
    assert everything(matrix)[name].argmax() == 41


def test_more_columns_than_one_product_takes(monkeypatch):
    matrix = normal(90, 150)
    whole = everything(matrix)
    monkeypatch.setattr(pairs, "DEPTH", 64)
    split = everything(matrix)
    for name in MEASURES:
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(40, 90), (90, 40), (50, 50)])
def test_mahalanobis_equals_scikit_learn_on_either_side(rows, columns):
    matrix = normal(rows, columns) * np.linspace(0.1, 3, columns, dtype=np.float32)
    found = mahalanobis_distances(matrix, np.arange(rows), 2**20)
    fitted = LedoitWolf().fit(matrix.astype(np.float64))
    assert found.shrinkage == pytest.approx(fitted.shrinkage_, rel=1e-9)
    np.testing.assert_allclose(found.distances**2, fitted.mahalanobis(matrix.astype(np.float64)), rtol=1e-8)


def test_mahalanobis_says_what_memory_it_needs():
    with pytest.raises(TooLargeError) as caught:
        mahalanobis_distances(normal(30, 40), np.arange(30), 1000)
    assert caught.value.bytes_needed == 2 * 8 * 30**2


def test_near_duplicates_far_from_the_centre_keep_their_distance():
    """Products cancel here: 1e-4 apart at a norm of 1e4; twins at exactly 0."""
    matrix = np.repeat(normal(30, 8) * 1e4, 2, axis=0)
    matrix[1::2, 0] += np.float32(0.25)
    matrix[3] = matrix[2]
    found = pair_statistics(matrix, np.arange(60), 1)
    expected = np.abs(matrix[0::2, 0].astype(np.float64) - matrix[1::2, 0])
    np.testing.assert_allclose(found.euclidean[0::2, 0], expected, rtol=1e-12)
    assert found.euclidean[2, 0] == found.euclidean[3, 0] == 0
    assert found.cosine[2, 0] == 0


def test_similarity_of_an_image_beyond_float64_can_still_be_compared():
    """exp(-2000) is 0 in float64; its log is not."""
    matrix = np.array([[0], [1], [2], [2000], [5000]], np.float32)
    found = pair_statistics(matrix, np.arange(5), 1, [Kernel(1, 1.0), Kernel(2, 1.0)])
    distances = cdist(matrix, matrix)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(found.log_sums[0], logsumexp(-distances, axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.log_sums[1], logsumexp(-(distances**2) / 2, axis=1), rtol=1e-8)


def test_underflow_in_one_of_many_tiles():
    matrix = normal(300, 2)
    matrix[250:] += 3000
    matrix[299] += 9000
    found = pair_statistics(matrix, np.arange(300), 1, [Kernel(1, 1.0)], memory_bytes=SMALL_TILES)
    distances = cdist(matrix.astype(np.float64), matrix.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(found.log_sums[0], logsumexp(-distances, axis=1), rtol=1e-9)


def test_a_zero_code_has_no_cosine_distance_and_is_nobodys_neighbour():
    matrix = np.abs(normal(30, 5))
    matrix[4] = 0
    found = everything(matrix)
    rest = np.delete(np.arange(30), 4)
    assert np.isnan(found["nearest_cosine"][4])
    expected = np.sort(cdist(matrix[rest], matrix[rest], "cosine") + 9 * np.eye(29), 1)[:, 0]
    np.testing.assert_allclose(found["nearest_cosine"][rest], expected, atol=1e-6)
    assert np.isfinite(found["nearest_euclidean"]).all()


def test_constant_codes_and_columns_end_in_numbers_or_gaps_never_in_errors():
    same = everything(np.ones((30, 5), np.float32))
    assert (same["nearest_euclidean"] == 0).all()
    assert (same["mahalanobis"] == 0).all()
    assert np.isnan(same["density_median"]).all()  # a bandwidth of 0
    one_column = normal(60, 5)
    one_column[:, 2] = 7
    for name, values in everything(one_column).items():
        np.testing.assert_allclose(values, oracle(name, one_column), rtol=1e-6, err_msg=name)


def test_scale_of_a_large_set_is_that_of_evenly_spaced_rows():
    matrix = normal(2048 * 3, 2)
    assert median_distance(matrix, np.arange(len(matrix))) == pytest.approx(
        np.median(pdist(matrix[::3])), rel=1e-6
    )


def test_within_category_is_the_measure_of_the_category_alone(tmp_path):
    codes = normal(90, 6)
    names = ["animal", "food", "sports"] * 30
    latents, about = study(tmp_path, codes, names)
    found = measure(latents, MeasureSettings(neighbours=K), about["category"])
    food = np.flatnonzero(np.array(names) == "food")
    for name in MEASURES:
        np.testing.assert_allclose(
            found.values[name + WITHIN][food], oracle(name, codes[food]), rtol=1e-8, err_msg=name
        )
        np.testing.assert_allclose(found.values[name], oracle(name, codes), rtol=1e-8, err_msg=name)
    assert found.settings["mean_k_cosine"] == f"K = {K}"
    assert found.settings["density_median"].startswith("h = ")


def test_small_categories_stay_empty_and_are_named(tmp_path, caplog):
    latents, about = study(tmp_path, normal(34, 4), ["animal"] * 30 + ["food"] * 3 + ["lonely"])
    found = measure(latents, MeasureSettings(neighbours=5), about["category"])
    assert np.isnan(found.values["nearest_euclidean_within_category"]).tolist() == [False] * 33 + [True]
    assert np.isnan(found.values["mean_k_euclidean_within_category"]).sum() == 4
    assert np.isnan(found.values["local_outlier_factor_within_category"]).sum() == 4
    assert "food (3)" in caplog.text
    assert "lonely (1)" in caplog.text


def test_one_image_per_category_is_refused(tmp_path):
    latents, about = study(tmp_path, normal(5, 4), list("abcde"))
    with pytest.raises(UserError, match="Every category has one image"):
        measure(latents, MeasureSettings(), about["category"])


def test_k_larger_than_the_set_is_refused_and_the_default_shrinks(tmp_path):
    latents, _ = study(tmp_path, normal(12, 4))
    with pytest.raises(UserError, match=r"at most --measure-neighbours 11"):
        measure(latents, MeasureSettings(neighbours=12))
    found = measure(latents, MeasureSettings())
    assert found.settings["mean_k_euclidean"] == "K = 11"
    assert np.isnan(found.values["local_outlier_factor"]).all()


def test_values_that_are_not_finite_are_named(tmp_path):
    codes = normal(12, 4)
    codes[3, 1] = np.inf
    latents, _ = study(tmp_path, codes)
    with pytest.raises(UserError, match=r"1 of 12 rows \(003.jpg\)"):
        measure(latents, MeasureSettings())
