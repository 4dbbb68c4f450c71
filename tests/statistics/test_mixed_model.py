"""Slopes within and between clusters: known ones are found, alone and together, and what cannot be fitted says so."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from benchmarks.simulated import draw_clustered
from utils.statistics.clusters import find_clusters
from utils.statistics.mixed_model import (
    MIXED_MODEL_COLUMNS,
    _reml,
    _Sums,
    intraclass_correlation,
    mixed_model_rows,
)


def clustered(between, within, clusters=40, size=12, seed=0, icc=0.5):
    x, y, codes = draw_clustered(np.random.default_rng(seed), np.full(clusters, size), icc, between, within)
    return pd.DataFrame(
        {"loss": x, "memorability": y, "category": "c", "subcategory": [f"s{code}" for code in codes]}
    )


def slopes(frame, measure="loss"):
    return mixed_model_rows(frame, [measure], find_clusters(frame)).set_index("effect")


def test_an_effect_between_clusters_alone_is_not_one_inside():
    rows = slopes(clustered(between=0.9, within=0.0))
    assert list(rows.reset_index().columns) == ["effect", *(c for c in MIXED_MODEL_COLUMNS if c != "effect")]
    assert rows.loc["within", "ci_low"] < 0 < rows.loc["within", "ci_high"]
    assert rows.loc["between", "ci_low"] > 0.3
    assert rows.loc["between - within", "p"] < 0.001
    assert rows.loc["between - within", "slope"] == pytest.approx(
        rows.loc["between", "slope"] - rows.loc["within", "slope"]
    )
    assert (rows["clusters"] == 40).all()
    assert (rows["n"] == 480).all()
    assert rows["converged"].all()


def test_an_effect_inside_clusters_alone_is_not_one_between():
    rows = slopes(clustered(between=0.0, within=0.8, seed=3))
    assert rows.loc["within", "slope"] == pytest.approx(0.8, abs=0.12)
    assert rows.loc["between", "ci_low"] < 0 < rows.loc["between", "ci_high"]
    assert rows.loc["between - within", "slope"] < 0


def test_slopes_are_those_of_the_cluster_means_and_of_the_deviations():
    frame = clustered(0.5, 0.3, seed=5)
    z = frame[["loss", "memorability"]].apply(lambda column: stats.zscore(stats.rankdata(column)))
    z = z.assign(s=frame["subcategory"])
    z["mean"] = z.groupby("s")["loss"].transform("mean")
    z["inside"] = z["loss"] - z["mean"]
    rows = slopes(frame)
    # In clusters of one size the slope between them is that of their means, and so is its error.
    means = z.groupby("s")[["loss", "memorability"]].mean()
    line = stats.linregress(means["loss"], means["memorability"])
    assert rows.loc["between", "slope"] == pytest.approx(line.slope, abs=1e-3)
    assert rows.loc["between", "se"] == pytest.approx(line.stderr, rel=0.01)
    assert rows.loc["between", "p"] == pytest.approx(line.pvalue, rel=0.05)
    fitted = smf.mixedlm("memorability ~ inside + mean", z, groups="s").fit(reml=True)
    assert rows.loc["within", "slope"] == pytest.approx(fitted.params["inside"], abs=0.05)


def test_slopes_that_differ_between_clusters_widen_the_interval():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(30), 40)
    slope = rng.normal(0.3, 0.5, 30)[codes]
    x = rng.normal(size=1200)
    frame = pd.DataFrame({"loss": x, "memorability": slope * x + 0.5 * rng.normal(size=1200)})
    frame["subcategory"] = [f"s{code}" for code in codes]
    row = slopes(frame).loc["within"]
    assert row["random_slope"]
    assert row["sd_slope"] > 0.25
    fixed = stats.linregress(
        *(stats.zscore(stats.rankdata(frame[name])) for name in ("loss", "memorability"))
    )
    assert row["se"] > 2 * fixed.stderr


@pytest.mark.parametrize("icc", [0.0, 0.3, 0.8])
def test_intraclass_correlation_of_known_clusters(icc):
    x, _, codes = draw_clustered(np.random.default_rng(2), np.resize([5, 20, 50], 300), icc)
    assert intraclass_correlation(x, codes) == pytest.approx(icc, abs=0.06)


def test_intraclass_correlation_by_hand():
    # MSB = 2 * ((1.5 - 3.5)^2 + (5.5 - 3.5)^2) / 1 = 16, MSW = (0.5 + 0.5) / 2 = 0.5, clusters of 2
    got = intraclass_correlation(np.array([1.0, 2, 5, 6]), np.array([0, 0, 1, 1]))
    assert got == pytest.approx((16 - 0.5) / (16 + 0.5))


def test_what_cannot_be_fitted_is_empty_and_has_not_converged():
    frame = clustered(0.5, 0.5, clusters=3)
    rows = slopes(frame)
    assert rows[["slope", "p"]].isna().all(axis=None)
    assert not rows["converged"].any()
    rows = slopes(clustered(0.5, 0.5).assign(loss=1.0))
    assert rows["slope"].isna().all()
    alone = frame.drop(columns="subcategory")
    assert mixed_model_rows(alone, ["loss"], find_clusters(alone)).empty
    assert list(mixed_model_rows(alone, ["loss"], find_clusters(alone)).columns) == MIXED_MODEL_COLUMNS


def test_a_measure_that_is_the_same_within_clusters_has_no_slope_inside():
    frame = clustered(0.8, 0.0)
    frame["loss"] = frame.groupby("subcategory")["loss"].transform("mean")
    rows = slopes(frame)
    assert np.isnan(rows.loc["within", "slope"])
    assert np.isnan(rows.loc["between - within", "slope"])
    z = frame[["loss", "memorability"]].apply(lambda column: stats.zscore(stats.rankdata(column)))
    line = stats.linregress(*z.groupby(frame["subcategory"]).mean().to_numpy().T)
    assert rows.loc["between", "slope"] == pytest.approx(line.slope, abs=1e-4)
    assert rows.loc["between", ["se", "p"]].to_list() == pytest.approx([line.stderr, line.pvalue], rel=0.02)


def test_images_without_the_measure_are_left_out():
    frame = clustered(0.5, 0.3)
    frame.loc[:119, "loss"] = np.nan
    row = slopes(frame).loc["within"]
    assert (row["n"], row["clusters"]) == (360, 30)


def dense_criterion(y, design, codes, random, ratios):
    """Minus twice the restricted log likelihood, up to a constant, and the coefficients, by matrices of all rows."""
    total = np.eye(len(y)) + (codes[:, None] == codes) * (random @ np.diag(ratios) @ random.T)
    inverse = np.linalg.inv(total)
    products = design.T @ inverse @ design
    coefficients = np.linalg.solve(products, design.T @ inverse @ y)
    residual = y - design @ coefficients
    freedom = len(y) - design.shape[1]
    variance = residual @ inverse @ residual / freedom
    determinants = np.linalg.slogdet(total)[1] + np.linalg.slogdet(products)[1]
    return freedom * np.log(variance) + determinants, coefficients, variance


def columns(seed, clusters=9, size=8, within=0.4):
    x, y, codes = draw_clustered(np.random.default_rng(seed), np.full(clusters, size), 0.5, 0.5, within)
    means = (np.bincount(codes, x) / np.bincount(codes))[codes]
    design = np.column_stack([np.ones(len(x)), x - means, means])
    return y, design, codes, design[:, :2]


@pytest.mark.parametrize("ratios", [(0.6, 0.2), (0.6, 0.0), (0.0, 0.0)])
def test_sums_over_clusters_say_what_the_covariance_of_all_rows_says(ratios):
    y, design, codes, random = columns(0)
    total = np.eye(len(y)) + (codes[:, None] == codes) * (random @ np.diag(ratios) @ random.T)
    products, log_determinant = _Sums(design, codes, random).weighted(np.array(ratios))
    assert products == pytest.approx(design.T @ np.linalg.solve(total, design), rel=1e-9, abs=1e-9)
    assert log_determinant == pytest.approx(np.linalg.slogdet(total)[1], abs=1e-9)


@pytest.mark.parametrize("seed", range(6))  # the slopes' variance is 0 in some of them
def test_no_other_variances_are_likelier(seed):
    y, design, codes, random = columns(seed)
    fitted = _reml(y, design, codes, random)
    ratios = np.diag(fitted.random) / fitted.residual
    best, coefficients, variance = dense_criterion(y, design, codes, random, ratios)
    assert fitted.coefficients == pytest.approx(coefficients, abs=1e-8)
    assert fitted.residual == pytest.approx(variance)
    assert fitted.converged
    grid = [0, 0.01, 0.03, 0.1, 0.3, 1, 3]
    others = [
        dense_criterion(y, design, codes, random, pair)[0] for pair in itertools.product(grid, repeat=2)
    ]
    assert best <= min(others) + 1e-6
    assert fitted.random[0, 1] == 0


def test_intercepts_and_slopes_are_those_of_statsmodels():
    y, design, codes, random = columns(3, clusters=30, size=12)
    frame = pd.DataFrame({"y": y, "inside": design[:, 1], "means": design[:, 2], "cluster": codes})
    # As variance components, which are uncorrelated; `re_formula` would let them correlate.
    components = {"intercept": "1", "slope": "0 + inside"}
    model = smf.mixedlm("y ~ inside + means", frame, groups="cluster", re_formula="0", vc_formula=components)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model.fit(reml=True)
    fitted = _reml(y, design, codes, random)
    assert fitted.coefficients == pytest.approx(expected.fe_params.to_numpy(), abs=1e-4)
    assert np.sqrt(np.diag(fitted.covariance)) == pytest.approx(expected.bse_fe.to_numpy(), rel=0.01)
    assert np.diag(fitted.random) == pytest.approx(expected.vcomp, abs=2e-3)
    assert fitted.residual == pytest.approx(expected.scale, rel=1e-3)


def test_a_target_that_leaves_nothing_has_not_converged():
    _, design, codes, random = columns(0)
    fitted = _reml(design @ [0.1, 2.0, 3.0], design, codes, random)
    assert not fitted.converged
    assert np.isnan(fitted.coefficients).all()
