"""Dependence: what is resampled together, intervals and p-values of clustered images, their size and coverage."""

import logging

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from correlated import plain_within, row_of
from scipy import special, stats
from sklearn.metrics import average_precision_score, r2_score

from benchmarks.simulated import draw_clustered, draw_confounded, memcat_sizes, population_rho
from utils.core.errors import UserError
from utils.reconstruction.evaluation_stage import why_no_ceiling
from utils.statistics import bootstrap, cluster_tests, resampling
from utils.statistics.cluster_tests import wild_cluster_p, wild_rho_p
from utils.statistics.clusters import find_clusters
from utils.statistics.correlation_tables import (
    CORRELATION_COLUMNS,
    add_q,
    classification_metrics,
    correlation_rows,
    correlations_by_category,
    mean_interval,
    paired_difference,
    partial_spearman,
    regression_metrics,
    score_ceiling,
)
from utils.statistics.noise_ceiling import ceiling_from_halves, resampled_ceiling
from utils.statistics.partial_correlation import bootstrap_partial_spearman, partial_correlations
from utils.statistics.rank_correlation import rho_p
from utils.statistics.resampling import (
    FISHER,
    LOGIT,
    UNEXPLAINED,
    Resampler,
    correlate_resampled,
)

UNEVEN = np.array([3, 1, 4, 2, 6, 5, 2])


def codes_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def rows_of(counts):
    """The rows a resample consists of, one by one."""
    return np.repeat(np.arange(len(counts)), counts.astype(int))


def many(clusters=60, seed=0):
    """Enough clusters for the bootstrap."""
    return draw_clustered(np.random.default_rng(seed), np.resize(UNEVEN, clusters), 0.5, 0.6, 0.3)


def frame_of(x, y, codes, **columns):
    names = np.array([f"s{code:03d}" for code in codes])
    return pd.DataFrame({"memorability": y, "loss": x, "category": "all", "subcategory": names, **columns})


# --- what is drawn -------------------------------------------------------------------------------


def test_whole_clusters_are_drawn_together(monkeypatch):
    codes = codes_of(np.resize(UNEVEN, 60))
    plan = Resampler(len(codes), 30, 4, codes, draw=True)
    counts = np.concatenate(list(plan.counts()))
    assert (plan.scheme, counts.shape) == ("bootstrap", (30, len(codes)))
    per_cluster = counts[:, np.unique(codes, return_index=True)[1]]
    assert (counts == per_cluster[:, codes]).all()
    assert (per_cluster.sum(axis=1) == 60).all()
    assert len(np.unique(counts.sum(axis=1))) > 1, "the number of images varies with the clusters drawn"
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 500)
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 500)
    assert np.array_equal(np.concatenate(list(plan.counts())), counts)


def test_clusters_are_drawn_inside_their_strata():
    codes = codes_of(np.resize(UNEVEN, 60))
    within = np.arange(60) % 3
    plan = Resampler(len(codes), 20, 0, codes, within=within)
    for counts in np.concatenate(list(plan.counts())):
        per_cluster = counts[np.unique(codes, return_index=True)[1]]
        assert [per_cluster[within == stratum].sum() for stratum in range(3)] == [20, 20, 20]


def test_clusters_are_left_out_one_by_one(monkeypatch):
    codes = codes_of(UNEVEN)
    plan = Resampler(len(codes), 0, 0, codes)  # there is nothing to draw, hence no number of draws
    counts = np.concatenate(list(plan.counts()))
    assert (plan.scheme, plan.freedom) == ("jackknife", 6)
    assert np.array_equal(counts, (codes[None, :] != np.arange(7)[:, None]).astype(float))
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 60)
    assert np.array_equal(np.concatenate(list(plan.counts())), counts)
    assert Resampler(4, 100, 0, np.array([0, 0, 1, 1])).scheme == "nothing"
    assert not list(Resampler(4, 100, 0, np.array([0, 0, 1, 1])).counts())


def test_more_clusters_than_deletions_are_left_out_a_block_at_a_time(monkeypatch):
    codes = codes_of(np.resize(UNEVEN, 400))
    values = np.random.default_rng(0).normal(size=400)[codes] + 0.1 * np.arange(len(codes)) / len(codes)

    def mean(counts):
        return counts @ values / counts.sum(axis=1)

    one_by_one = Resampler(len(codes), 0, 1, codes)
    single = one_by_one.standard_error(one_by_one.evaluate(mean)[1])
    monkeypatch.setattr(resampling, "MOST_DELETIONS", 60)
    plan = Resampler(len(codes), 0, 1, codes)
    counts = np.concatenate(list(plan.counts()))
    assert (counts.shape, plan.freedom) == ((60, len(codes)), 59)
    assert (counts.sum(axis=0) == 59).all(), "each image is left out once"
    per_cluster = counts[:, np.unique(codes, return_index=True)[1]]
    assert (counts == per_cluster[:, codes]).all()
    assert np.ptp((1 - per_cluster).sum(axis=1)) <= 1, "blocks of equal numbers of clusters"
    error = plan.standard_error(plan.evaluate(mean)[1])
    assert error == pytest.approx(single, rel=0.3)  # two estimates, with 59 and 399 degrees of freedom


def test_cluster_bootstrap_is_the_plain_loop_over_clusters():
    x, y, codes = many()
    y = np.round(y, 1)  # ties
    plan = Resampler(len(x), 25, 7, codes, draw=True)
    rho, samples = correlate_resampled(x[:, None], y[:, None], plan)
    assert rho[0, 0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    for counts, value in zip(np.concatenate(list(plan.counts())), samples[:, 0, 0], strict=True):
        rows = rows_of(counts)
        assert value == pytest.approx(stats.spearmanr(x[rows], y[rows]).statistic, abs=1e-12)
    low, high = plan.interval(rho, samples)
    assert (low[0, 0], high[0, 0]) == tuple(np.quantile(samples[:, 0, 0], [0.025, 0.975]))


def test_jackknife_interval_by_hand():
    rng = np.random.default_rng(0)
    codes = codes_of(UNEVEN)
    x = rng.normal(size=len(codes))
    y = x + rng.normal(size=len(codes))
    plan = Resampler(len(x), 1000, 0, codes)
    rho, samples = correlate_resampled(x[:, None], y[:, None], plan)
    low, high = plan.interval(rho, samples, FISHER)
    z = [np.arctanh(stats.spearmanr(x[codes != g], y[codes != g]).statistic) for g in range(7)]
    se = np.sqrt(6 / 7 * ((z - np.mean(z)) ** 2).sum())
    reach = stats.t.ppf(0.975, 6) * se
    z_all = np.arctanh(stats.spearmanr(x, y).statistic)
    assert (low[0, 0], high[0, 0]) == pytest.approx((np.tanh(z_all - reach), np.tanh(z_all + reach)))
    p = plan.p_of_zero(rho, samples, FISHER)[0, 0]
    assert p == pytest.approx(2 * stats.t.sf(abs(z_all / se), 6))


def test_leaving_out_without_numbers_gives_no_interval():
    codes = np.array([0, 0, 1, 1, 2, 2])
    x, y = np.array([1.0, 2, 1, 1, 1, 1]), np.arange(6.0)
    plan = Resampler(6, 100, 0, codes)
    rho, samples = correlate_resampled(x[:, None], y[:, None], plan)
    assert np.isfinite(rho).all()
    assert np.isnan(samples[0]).all(), "without cluster 0 nothing varies"
    assert np.isnan(plan.interval(rho, samples, FISHER)).all()


# --- p-values ------------------------------------------------------------------------------------


def test_leaving_out_clusters_gives_the_variance_known_as_cv3():
    """Of a regression slope, whose delete-one-cluster values have a closed form (MacKinnon, Nielsen & Webb 2023, eq. 14)."""
    x, y, codes = many(60, seed=2)
    design = np.column_stack([np.ones(len(x)), x])

    def slope(counts):
        return np.array(
            [np.linalg.lstsq(design * w[:, None] ** 0.5, y * w**0.5, rcond=None)[0][1] for w in counts]
        )

    plan = Resampler(len(x), 0, 0, codes)
    error = plan.standard_error(plan.evaluate(slope)[1])
    fitted = sm.OLS(y, design).fit()
    bread = np.linalg.inv(design.T @ design)
    # The deviations of the deleted coefficients: (X'X)^-1 X_g' (I - H_gg)^-1 u_g.
    moves = []
    for g in range(60):
        part = design[codes == g]
        hat = part @ bread @ part.T
        moves.append(bread @ part.T @ np.linalg.solve(np.eye(len(part)) - hat, fitted.resid[codes == g]))
    moves = np.array(moves) - np.mean(moves, axis=0)
    assert error == pytest.approx(np.sqrt(59 / 60 * (moves[:, 1] ** 2).sum()))
    clustered = sm.OLS(y, design).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert 1 < error / clustered.bse[1] < 1.3, "the sandwich is the smaller one"


@pytest.mark.parametrize("clusters", [7, 20])
def test_wild_bootstrap_is_that_of_regressions_fitted_anew(monkeypatch, clusters):
    monkeypatch.setattr(cluster_tests, "WILD_DRAWS", 200)
    x, y, codes = draw_clustered(np.random.default_rng(5), np.resize(UNEVEN, clusters), 0.5, 0.5, 0.2)
    ranks = stats.rankdata(np.column_stack([x, y]), axis=0)
    design = np.eye(2)[codes % 2]
    weights = [-1.0, 1.0] if clusters >= 12 else cluster_tests.WEBB_WEIGHTS.ravel()
    drawn = np.random.default_rng(3).choice(weights, (200, clusters))

    def t_of(values):
        fitted = sm.OLS(values, np.column_stack([ranks[:, 0], design])).fit(
            cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
        )
        return abs(fitted.tvalues[0])

    null = sm.OLS(ranks[:, 1], design).fit()
    t = t_of(ranks[:, 1])
    count = sum(t_of(null.fittedvalues + null.resid * row[codes]) >= t * (1 - 1e-9) for row in drawn)
    got = wild_cluster_p(ranks[:, 0], ranks[:, 1], codes, design, seed=3)
    assert got == pytest.approx((count + 1) / 201)


@pytest.mark.parametrize("clusters", [9, 60])
def test_p_never_contradicts_the_interval(clusters):
    rng = np.random.default_rng(12)
    sizes, judged = np.resize(UNEVEN, clusters), []
    for _ in range(60):
        x, y, codes = draw_clustered(rng, sizes, 0.3, 0.4 if clusters > 9 else 0.7, 0.1)
        strata, both = codes % 2, np.column_stack([y, x + y])
        plan = Resampler(len(x), 0, 0, codes)
        for rho, samples in (
            correlate_resampled(x[:, None], both, plan),
            correlate_resampled(x[:, None], both, plan, strata),
            partial_correlations(x[:, None], both, codes[:, None] % 5, plan),
        ):
            low, high = plan.interval(rho, samples, FISHER)
            judged += zip(
                (rho_p(rho, samples, plan) < 0.05).ravel(), ((low > 0) | (high < 0)).ravel(), strict=True
            )
            gaps, found = rho[:, 0] - rho[:, 1], samples[..., 0] - samples[..., 1]
            low, high = plan.interval(gaps, found)
            judged += zip(plan.p_of_zero(gaps, found) < 0.05, (low > 0) | (high < 0), strict=True)
    assert set(judged) == {(True, True), (False, False)}


def test_the_wild_bootstrap_stands_beside_few_clusters_only():
    x, y, codes = draw_clustered(np.random.default_rng(5), np.full(20, 3), 0.5)
    p = wild_rho_p(x[:, None], np.column_stack([y, x]), codes, seed=1)
    ranks = stats.rankdata(np.column_stack([x, y]), axis=0)
    assert p.shape == (1, 2)
    assert p[0, 0] == pytest.approx(wild_cluster_p(ranks[:, 0], ranks[:, 1], codes, seed=1))
    assert p[0, 1] < 0.001
    assert np.isnan(wild_rho_p(x[:, None], y[:, None], None)).all()
    assert np.isnan(wild_rho_p(x[:, None], y[:, None], np.arange(60))).all(), "50 clusters or more"


def test_webb_weights_have_mean_zero_and_variance_one():
    weights = cluster_tests.WEBB_WEIGHTS
    assert weights.size == 6
    assert weights.mean() == pytest.approx(0, abs=1e-12)
    assert (weights**2).mean() == pytest.approx(1)


def test_p_of_what_cannot_be_tested():
    x, y = np.arange(8.0), np.array([1.0, 3, 2, 4, 6, 5, 8, 7])
    assert np.isnan(wild_cluster_p(x, y, np.array([0, 0, 0, 0, 1, 1, 1, 1])))
    assert np.isnan(wild_cluster_p(x, np.ones(8), np.arange(8) // 2))
    assert np.isnan(wild_cluster_p(x, y, np.arange(8) // 2, np.column_stack([np.ones(8), x])))
    assert wild_cluster_p(x, x, np.arange(8) // 2) < 0.1


def false_positives(function, sizes, simulations, seed):
    rng = np.random.default_rng(seed)
    return np.mean([function(*draw_clustered(rng, sizes, 0.5)) < 0.05 for _ in range(simulations)])


def own_p(x, y, codes, strata=None):
    plan = Resampler(len(x), 0, 0, codes)
    return float(rho_p(*correlate_resampled(x[:, None], y[:, None], plan, strata), plan)[0, 0])


@pytest.mark.parametrize(("clusters", "simulations"), [(134, 600), (27, 600), (8, 1000)])
def test_clustered_null_is_rejected_as_often_as_it_should(clusters, simulations):
    sizes = np.random.default_rng(1).permutation(memcat_sizes(divide=15)[0])[:clusters]
    assert 0.03 <= false_positives(own_p, sizes, simulations, seed=clusters) <= 0.07


def test_independent_p_rejects_the_clustered_null_far_too_often():
    sizes, _ = memcat_sizes(divide=2)
    found = false_positives(lambda x, y, _: stats.spearmanr(x, y).pvalue, sizes, 200, seed=0)
    assert found > 0.4


def test_within_category_null_is_rejected_as_often_as_it_should():
    sizes, category = memcat_sizes(divide=15)

    def p(x, y, codes):
        strata = category[codes]
        level = np.arange(5.0)[strata]  # categories differ in both, which must not pass for an effect
        return own_p(x + level, y - level, codes, strata)

    assert 0.03 <= false_positives(p, sizes, 500, seed=3) <= 0.07


def test_partial_null_is_rejected_as_often_as_it_should():
    sizes, _ = memcat_sizes(divide=15)
    rng, found = np.random.default_rng(8), []
    for _ in range(400):
        x, y, z, codes = draw_confounded(rng, sizes)
        found.append(bootstrap_partial_spearman(x, y, z, 0, clusters=codes).p < 0.05)
        assert stats.spearmanr(x, y).statistic > 0.2
    assert 0.03 <= np.mean(found) <= 0.07


def test_difference_null_is_rejected_as_often_as_it_should():
    rng = np.random.default_rng(9)
    sizes, _ = memcat_sizes(divide=30)
    found = []
    for seed in range(250):
        x, y, codes = draw_clustered(rng, sizes, 0.5)
        other, _, _ = draw_clustered(rng, sizes, 0.5)
        frame = frame_of(y + x, y, codes, b=y + other)  # equally good measures of y
        row = paired_difference(frame, [("loss", "b")], resamples=199, seed=seed, cluster="subcategory").iloc[
            0
        ]
        found.append(row["p"] < 0.05)
    # 3 to 7 % and what 250 simulations leave open; benchmarks/coverage.py runs enough of them
    assert 0.02 <= np.mean(found) <= 0.08


# --- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clusters", "simulations"), [(134, 400), (27, 600), (5, 600)])
def test_clustered_interval_covers_the_known_rho(clusters, simulations):
    truth = population_rho(0.5 * 0.6 + 0.5 * 0.3)
    rng = np.random.default_rng(clusters)
    sizes = rng.permutation(memcat_sizes(divide=20)[0])[:clusters]
    covered = 0
    for _ in range(simulations):
        x, y, codes = draw_clustered(rng, sizes, 0.5, 0.6, 0.3)
        plan = Resampler(len(x), 0, 0, codes)
        low, high = plan.interval(*correlate_resampled(x[:, None], y[:, None], plan), FISHER)
        covered += low[0, 0] <= truth <= high[0, 0]
    assert 0.93 <= covered / simulations <= 0.97


# --- held constant, ceilings, means, predictions -------------------------------------------------


def test_partial_correlations_of_clusters_are_the_plain_loop():
    x, y, codes = many(seed=3)
    z = np.column_stack([np.round(x + y), codes % 3 == 0]).astype(float)
    plan = Resampler(len(x), 15, 2, codes, draw=True)
    rho, samples = partial_correlations(x[:, None], np.column_stack([y, y**3 + x]), z, plan)
    assert rho[0, 0] == pytest.approx(partial_spearman(x, y, z)[0], abs=1e-12)
    for counts, value in zip(np.concatenate(list(plan.counts())), samples, strict=True):
        rows = rows_of(counts)
        assert value[0, 0] == pytest.approx(partial_spearman(x[rows], y[rows], z[rows])[0], abs=1e-9)
        assert value[0, 1] == pytest.approx(partial_spearman(x[rows], (y**3 + x)[rows], z[rows])[0], abs=1e-9)


def test_a_covariate_that_a_resample_lacks_holds_nothing_constant_there():
    rng = np.random.default_rng(0)
    codes = codes_of(np.full(60, 3))
    x, y = rng.normal(size=(2, 180))
    rare = (codes == 0).astype(float)[:, None]
    _, samples = partial_correlations(x[:, None], y[:, None], rare, Resampler(180, 40, 0, codes, draw=True))
    assert np.isfinite(samples).all()


def test_ceiling_of_resamples_is_the_ceiling_of_their_rows():
    rng = np.random.default_rng(4)
    codes = codes_of(np.full(60, 4))
    responses = np.full(240, 40)
    hits = rng.binomial(responses, rng.uniform(0.3, 0.9, 60)[codes])
    frame = pd.DataFrame({"memorability": hits / 40, "hits": hits, "n_resp": responses})
    plan = Resampler(240, 12, 0, codes, draw=True)
    ceiling, drawn = resampled_ceiling(frame, "memorability", plan, splits=5, seed=9)
    assert ceiling == pytest.approx(score_ceiling(frame, splits=5, seed=9), abs=1e-12)
    # The same halves, from the function that draws them one split at a time.
    halves = []
    rng = np.random.default_rng(9)
    for _ in range(5):
        first = rng.hypergeometric(hits, responses - hits, 20)
        halves.append((first / 20, (hits - first) / 20))
    for counts, value in zip(np.concatenate(list(plan.counts())), drawn, strict=True):
        rows = rows_of(counts)
        mean = np.mean([stats.spearmanr(a[rows], b[rows]).statistic for a, b in halves])
        assert value == pytest.approx(np.sqrt(2 * mean / (1 + mean)), abs=0.02)


def test_ceiling_of_published_halves_has_an_interval_and_one_within_categories():
    rng = np.random.default_rng(1)
    codes = codes_of(np.full(60, 6))
    level = np.repeat([0.0, 0.3], 180)
    truth = rng.normal(0.5, 0.05, 360) + level
    halves = {f"half{h}_split{s:02d}": truth + rng.normal(0, 0.05, 360) for s in (1, 2) for h in (1, 2)}
    frame = frame_of(truth, np.mean(list(halves.values()), axis=0), codes, **halves)
    frame["category"] = np.where(level > 0, "b", "a")
    row = correlation_rows(frame, ["loss"], resamples=200, cluster="subcategory").iloc[0]
    first, second = (np.column_stack([halves[f"half{h}_split{s:02d}"] for s in (1, 2)]) for h in (1, 2))
    assert row["ceiling"] == pytest.approx(ceiling_from_halves(first, second)["ceiling"])
    assert row["ci_low_ceiling"] < row["ceiling"] < row["ci_high_ceiling"]
    assert row["ci_low_rho_over_ceiling"] < row["rho_over_ceiling"] < row["ci_high_rho_over_ceiling"]
    inside = np.mean([plain_within(first[:, k], second[:, k], frame["category"]) for k in (0, 1)])
    assert row["ceiling_within_category"] == pytest.approx(np.sqrt(2 * inside / (1 + inside)))
    assert row["ceiling_within_category"] < row["ceiling"] - 0.02
    for name in ("ceiling_within_category", "rho_within_category_over_ceiling"):
        assert row[f"ci_low_{name}"] < row[name] < row[f"ci_high_{name}"]
    strata, plan = pd.factorize(frame["category"])[0], Resampler(360, 0, 0, codes)
    _, without = resampled_ceiling(frame, "memorability", plan, strata=strata)
    _, rhos = correlate_resampled(frame[["memorability"]].to_numpy(), truth[:, None], plan, strata)
    ends = plan.interval(row["rho_within_category_over_ceiling"], rhos[:, 0, 0] / without)
    found = [row[f"ci_{end}_rho_within_category_over_ceiling"] for end in ("low", "high")]
    assert found == pytest.approx([float(end) for end in ends])
    assert row["rho_within_category_over_ceiling"] == pytest.approx(
        row["rho_within_category"] / row["ceiling_within_category"]
    )


def test_mean_of_clusters_has_the_interval_of_clusters():
    rng = np.random.default_rng(2)
    codes = codes_of(np.full(60, 30))
    values = rng.normal(size=60)[codes] + 0.1 * rng.normal(size=1800)
    alone, together = mean_interval(values), mean_interval(values, clusters=codes)
    assert alone["mean"] == together["mean"]
    widths = [found["ci_high"] - found["ci_low"] for found in (alone, together)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(30), rel=0.15)
    values[codes == 3] = np.nan
    assert mean_interval(values, clusters=codes)["n"] == 1770
    assert np.isnan(mean_interval(values[:60], clusters=codes[:60])["ci_low"]), "two clusters"


def test_prediction_metrics_of_clusters_are_those_without_each_cluster():
    x, y, codes = many(seed=6)
    above = y > 0.1
    plan = Resampler(len(x), 0, 0, codes)
    table = regression_metrics(y, x, 20, 5, clusters=codes).set_index("metric")
    cut = classification_metrics(above, x, 0.0, 20, 5, clusters=codes).set_index("metric")
    left = [codes != cluster for cluster in range(60)]
    reach = stats.t.ppf(0.975, 59) * np.sqrt(59 / 60 * 60)
    for found, values in (
        (table.loc["mse"], [((y - x)[k] ** 2).mean() for k in left]),
        (cut.loc["accuracy"], [(above == (x > 0))[k].mean() for k in left]),
    ):
        ends = found["value"] - reach * np.std(values), found["value"] + reach * np.std(values)
        assert (found["ci_low"], found["ci_high"]) == pytest.approx(ends)
    for found, values, scale in (
        (table.loc["r2"], [r2_score(y[k], x[k]) for k in left], UNEXPLAINED),
        (cut.loc["ap"], [average_precision_score(above[k], x[k]) for k in left], LOGIT),
        (table.loc["spearman"], [stats.spearmanr(y[k], x[k]).statistic for k in left], FISHER),
    ):
        low, high = plan.interval(found["value"], np.array(values), scale)
        assert (found["ci_low"], found["ci_high"]) == pytest.approx((float(low), float(high)))
    plain = regression_metrics(y, x, 20, 5).set_index("metric")
    assert table["ci_low_independent"].equals(plain["ci_low"])
    assert table.loc["spearman", "p_independent"] == pytest.approx(stats.spearmanr(x, y).pvalue)
    assert table.loc["spearman", "p"] == pytest.approx(own_p(y, x, codes))
    assert np.isnan(table.loc["mse", "p"])


def test_skewed_metrics_of_few_images_come_from_leaving_them_out_on_a_scale_of_their_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=25)
    y = 0.6 * x + 0.8 * rng.normal(size=25)
    above = y > 0
    few = regression_metrics(y, x, 300).set_index("metric")
    cut = classification_metrics(above, x, 0.0, 300).set_index("metric")
    left = [np.arange(25) != image for image in range(25)]
    t = stats.t.ppf(0.975, 24)
    judged = (
        (
            few.loc["r2"],
            lambda k: r2_score(y[k], x[k]),
            lambda r2: np.log(1 - r2),
            lambda log: 1 - np.exp(log),
        ),
        (cut.loc["ap"], lambda k: average_precision_score(above[k], x[k]), special.logit, special.expit),
    )
    for row, metric, there, back in judged:
        whole, values = metric(slice(None)), [metric(k) for k in left]
        moved = there(np.array(values))
        centre = 25 * there(whole) - 24 * moved.mean()
        reach = t * np.sqrt(24 / 25 * ((moved - moved.mean()) ** 2).sum())
        expected = sorted([back(centre - reach), back(centre + reach)])
        assert [row["ci_low"], row["ci_high"]] == pytest.approx(expected)
    plan = Resampler(25, 300)
    counts = np.concatenate(list(plan.counts()))
    drawn = [np.abs(y - x)[rows_of(row)].mean() for row in counts]
    assert [few.loc["mae", "ci_low"], few.loc["mae", "ci_high"]] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975])
    )
    y, x = np.tile(y, 4), np.tile(x, 4)  # a hundred images are not few
    found = regression_metrics(y, x, 50).set_index("metric").loc["r2"]
    counts = np.concatenate(list(Resampler(100, 50).counts()))
    drawn = [r2_score(y[rows_of(row)], x[rows_of(row)]) for row in counts]
    assert [found["ci_low"], found["ci_high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


@pytest.mark.parametrize("images", [20, 40])
def test_intervals_of_r2_and_average_precision_cover_at_small_n(images):
    """The truth is that of two million images; benchmarks/coverage.py runs more sizes and simulations."""
    truth, inside = {"r2": 0.2475, "ap": 0.6585}, {"r2": [], "ap": []}
    for seed in range(300):
        rng = np.random.default_rng((images, seed))
        y = rng.normal(size=images)
        predicted = 0.02 + 0.45 * (0.5 * y + np.sqrt(0.75) * rng.normal(size=images))
        tables = regression_metrics(y, predicted, 20), classification_metrics(y > 0.2, predicted, 0.2, 20)
        found = pd.concat(tables).set_index("metric")
        for name, value in truth.items():
            low, high = found.loc[name, ["ci_low", "ci_high"]]
            if np.isfinite(low):
                inside[name].append(low <= value <= high)
    assert len(inside["ap"]) > 290
    for covered in inside.values():
        assert 0.93 <= np.mean(covered) <= 0.97


def test_scales_lead_there_and_back():
    for scale, values in (
        (FISHER, [-0.9, 0.0, 0.5]),
        (LOGIT, [0.01, 0.5, 0.99]),
        (UNEXPLAINED, [-3.0, 0.0, 0.9]),
    ):
        assert scale.back(scale.there(np.array(values))) == pytest.approx(values)
        assert np.isfinite(scale.there(np.array([1.0]))).all()


# --- a row of the tables -------------------------------------------------------------------------


@pytest.fixture
def clustered_frame():
    rng = np.random.default_rng(11)
    sizes, category = memcat_sizes(divide=10)
    x, y, codes = draw_clustered(rng, sizes, 0.5, 0.6, 0.3)
    frame = frame_of(x, y, codes, pixel_count=rng.integers(1, 9, len(x)) * 1e5)
    frame["source"] = rng.choice(["coco", "sun", "imagenet"], len(x))
    return frame.assign(category=np.array(list("abcde"))[category[codes]], other=y + rng.normal(size=len(x)))


def test_a_row_holds_every_interval_beside_the_others(clustered_frame):
    table = correlation_rows(clustered_frame, ["loss", "other"], resamples=150, cluster=None)
    assert list(table.columns) == CORRELATION_COLUMNS
    row = table.iloc[0]
    codes = pd.factorize(clustered_frame["subcategory"])[0]
    x, y = clustered_frame["loss"].to_numpy(), clustered_frame["memorability"].to_numpy()
    plan, pair = Resampler(len(x), 0, 0, codes), (y[:, None], x[:, None])
    rho, samples = correlate_resampled(*pair, plan)
    assert (row["cluster"], row["clusters"], row["n"]) == ("subcategory", 134, len(x))
    assert [row["ci_low"], row["ci_high"]] == [end[0, 0] for end in plan.interval(rho, samples, FISHER)]
    assert row["p"] == rho_p(rho, samples, plan)[0, 0]
    assert np.isnan(row["p_wild"]), "only for few clusters"
    alone = row_of(y, x, 150)
    assert (row["ci_low_independent"], row["p_independent"]) == (alone.ci_low, alone.p)
    assert row["se"] == pytest.approx(plan.standard_error(samples)[0, 0])
    draws = correlate_resampled(*pair, Resampler(len(x), 150, 0, codes, draw=True))[1][:, 0, 0]
    assert row["se_bootstrap"] == pytest.approx(draws.std(ddof=1))
    ends = [row["ci_low_bootstrap"], row["ci_high_bootstrap"]]
    assert ends == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    assert row["se"] > row["se_fixed_categories"] * 0.8 > row["se_independent"]
    strata = pd.factorize(clustered_frame["category"])[0]
    rho, samples = correlate_resampled(*pair, plan, strata)
    assert row["rho_within_category"] == pytest.approx(plain_within(x, y, strata))
    assert row["p_within_category"] == pytest.approx(rho_p(rho, samples, plan)[0, 0], rel=1e-9)
    assert [row["ci_low_within_category"], row["ci_high_within_category"]] == pytest.approx(
        [end[0, 0] for end in plan.interval(rho, samples, FISHER)]
    )
    single = row_of(y, x, 150, groups=clustered_frame["category"])
    assert row["ci_low_within_category_independent"] == single.ci_low_within_category
    assert (
        row["ci_low_within_subcategory"] < row["rho_within_subcategory"] < row["ci_high_within_subcategory"]
    )
    dummies = pd.get_dummies(clustered_frame["source"]).to_numpy(float)[:, 1:]
    held = np.column_stack([clustered_frame["pixel_count"], dummies])
    assert row["rho_given_covariates"] == pytest.approx(partial_spearman(x, y, held)[0])
    assert row["covariates"] == "pixel_count, source"
    for kind in ("", "_within_category", "_within_subcategory", "_given_covariates"):
        expected = stats.false_discovery_control(table[f"p{kind}"].to_numpy())
        assert table[f"q{kind}"].to_numpy() == pytest.approx(expected)


def test_without_clusters_the_interval_is_the_independent_one(clustered_frame):
    row = correlation_rows(clustered_frame, ["loss"], resamples=50, cluster="none").iloc[0]
    x, y = clustered_frame["loss"], clustered_frame["memorability"]
    assert (row["cluster"], row["clusters"]) == ("image", len(clustered_frame))
    _, samples = correlate_resampled(y.to_numpy()[:, None], x.to_numpy()[:, None], Resampler(len(x), 50))
    assert (row["ci_low"], row["ci_high"]) == tuple(np.quantile(samples[:, 0, 0], [0.025, 0.975]))
    assert row["p"] == pytest.approx(stats.spearmanr(x, y).pvalue)
    assert row["ci_low_within_category"] == row["ci_low_within_category_independent"]
    assert (row["ci_low"], row["p"]) == (row["ci_low_independent"], row["p_independent"])
    assert np.isnan(row["ci_low_within_subcategory"])
    assert np.isnan(row[["ci_low_fixed_categories", "ci_low_bootstrap"]].astype(float)).all()


def test_equivalence_is_two_one_sided_tests():
    codes = codes_of(np.full(200, 5))
    x, y, _ = draw_clustered(np.random.default_rng(5), np.full(200, 5), 0.1)
    plan = Resampler(1000, 400, 0, codes)
    rho, samples = correlate_resampled(x[:, None], y[:, None], plan)
    se = np.sqrt(199 / 200 * 200) * np.arctanh(samples).std()
    z, bound = np.arctanh(rho[0, 0]), np.arctanh(0.1)
    expected = max(stats.t.sf((bound - z) / se, 199), stats.t.sf((z + bound) / se, 199))
    assert plan.p_of_equivalence(rho, samples, 0.1)[0, 0] == pytest.approx(expected)
    assert expected < 0.05
    assert plan.p_of_equivalence(np.array([[0.1]]), samples, 0.1)[0, 0] == pytest.approx(0.5)
    assert plan.p_of_equivalence(np.array([[-0.4]]), samples, 0.1)[0, 0] > 0.99


def test_categories_have_their_own_clusters(clustered_frame, caplog):
    table = correlations_by_category(clustered_frame, ["loss"], resamples=30, cluster="subcategory")
    assert table["clusters"].tolist() == [21, 30, 27, 32, 24]
    assert not [name for name in table if "within_category" in name or "fixed" in name or "bootstrap" in name]
    assert np.isfinite(table["p_wild"]).all()
    few = clustered_frame[clustered_frame["subcategory"] > "s019"]  # two subcategories are left in a
    alone = few[few["category"] == "a"]
    assert alone["subcategory"].nunique() == 1
    table = correlations_by_category(few, ["loss"], resamples=30, cluster="subcategory")
    assert "Fewer than 3 subcategories in a:" in caplog.text
    first = table.iloc[0]
    assert np.isnan([first["ci_low"], first["p"], first["q"]]).all()
    assert np.isfinite([first["rho"], first["ci_low_independent"], first["p_independent"]]).all()


def test_differences_of_clusters(clustered_frame):
    row = paired_difference(clustered_frame, [("loss", "other")], resamples=100, seed=3, cluster=None).iloc[0]
    codes = pd.factorize(clustered_frame["subcategory"])[0]
    y = clustered_frame["memorability"].to_numpy()
    both = clustered_frame[["loss", "other"]].to_numpy()
    plan = Resampler(len(y), 0, 0, codes)
    rho, samples = correlate_resampled(y[:, None], both, plan)
    gap, gaps = rho[0, 0] - rho[0, 1], samples[:, 0, 0] - samples[:, 0, 1]
    reach = stats.t.ppf(0.975, 133) * np.sqrt(133) * gaps.std()
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((gap - reach, gap + reach))
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(gap) / (np.sqrt(133) * gaps.std()), 133))
    alone = paired_difference(
        clustered_frame, [("loss", "other")], resamples=100, seed=3, cluster="none"
    ).iloc[0]
    assert row["ci_low_independent"] == alone["ci_low"] == alone["ci_low_independent"]
    assert row["p_independent"] == alone["p"]
    assert (row["cluster"], row["clusters"]) == ("subcategory", 134)


def test_one_family_per_claim():
    table = pd.DataFrame(
        {"target": ["a", "a", "b"], "p": [0.01, 0.04, 0.04], "p_within_category": [0.5, 0.1, np.nan]}
    )
    whole, parted = add_q(table), add_q(table, ["target"])
    assert whole["q"].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert parted["q"].tolist() == pytest.approx([0.02, 0.04, 0.04])
    assert parted["q_within_category"].tolist()[:2] == pytest.approx([0.5, 0.2])
    assert np.isnan(parted["q_within_category"][2])


# --- which clusters, and what users get wrong ----------------------------------------------------


def images(subcategory, category="c", **columns):
    return pd.DataFrame({"category": category, "subcategory": subcategory, **columns})


def test_default_is_subcategories_where_there_are_some(caplog):
    caplog.set_level(logging.WARNING, logger="memorability")
    assert find_clusters(images(["a", "a", "b", "b"])).unit == "subcategory"
    assert find_clusters(images(["a", "b", "c", "d"])).unit == "image"
    assert find_clusters(images(["", "", "", ""])).unit == "image"
    assert find_clusters(pd.DataFrame({"memorability": [1.0, 2.0]})).unit == "image"
    assert find_clusters(images(["a", "a", "b"]), "none").unit == "image"
    assert not caplog.records
    assert find_clusters(images(["a", "a", "a"])).unit == "image"
    assert (
        "All 3 images are of one subcategory (a): intervals and p-values take them as independent"
        in caplog.text
    )


def test_images_without_a_label_stand_alone(caplog):
    frame = images(["a", "a", "", "", "b"], group=["x", "x", None, "y", "y"])
    assert len(set(find_clusters(frame).codes(frame))) == 4
    assert find_clusters(frame, "group").codes(frame).tolist() in ([1, 1, 0, 2, 2], [0, 0, 2, 1, 1])
    assert "2 of 5 images have no subcategory: each is taken as one by itself" in caplog.text
    assert "1 of 5 images have no group" in caplog.text


def test_a_subcategory_name_in_two_categories_is_two_clusters_and_is_said_once(caplog):
    frame = images(["other", "other", "other", "bear"], ["animal", "food", "food", "animal"])
    assert len(set(find_clusters(frame).codes(frame))) == 3
    find_clusters(frame)
    said = "1 of 2 subcategories stand in more than one category (other): taken as another one in each"
    assert caplog.text.count(said) == 1
    caplog.clear()
    find_clusters(images(["other", "other", "bear", "bear"], ["animal", "animal", "food", "food"]))
    assert not caplog.records


@pytest.mark.parametrize(
    ("frame", "choice", "message"),
    [
        (
            images(["a", "a", "b"]),
            "group",
            "--cluster group: no image has a group. To treat images as independent",
        ),
        (images(["", "", ""]), "subcategory", "--cluster subcategory: no image has a subcategory"),
        (
            images(["a", "b", "c"]),
            "subcategory",
            "every subcategory has one image only, nothing is resampled",
        ),
        (
            images(["a", "a", "a"]),
            "subcategory",
            "all 3 images are of one subcategory, there is nothing to resample",
        ),
        (images(["a", "a"], group=["g", "g"]), "group", "all 2 images are of one group"),
    ],
)
def test_clusters_that_are_not_there_are_named(frame, choice, message):
    with pytest.raises(UserError, match=message):
        find_clusters(frame, choice)


def test_groups_that_span_categories_are_not_resampled_inside_them(clustered_frame):
    number = np.arange(len(clustered_frame)) % 60
    frame = clustered_frame.assign(group=[f"g{k}" for k in number])
    row = correlation_rows(frame, ["loss"], resamples=30, cluster="group").iloc[0]
    assert (row["cluster"], row["clusters"]) == ("group", 60)
    assert np.isfinite([row["ci_low"], row["p"], row["p_within_category"]]).all()
    assert np.isnan(row["ci_low_fixed_categories"])


def test_rows_that_come_from_several_tables_keep_their_own_clusters(clustered_frame):
    whole = correlation_rows(clustered_frame, ["loss"], resamples=20, splits=1)
    halves = [
        part.reset_index(drop=True)
        for _, part in clustered_frame.groupby(clustered_frame.index < 300, sort=False)
    ]
    pd.testing.assert_frame_equal(
        correlation_rows(pd.concat(halves), ["loss"], resamples=20, splits=1), whole
    )
    with pytest.raises(ValueError, match="names each image once"):
        find_clusters(pd.concat(halves))


def test_two_clusters_leave_intervals_empty_and_say_so(caplog):
    rng = np.random.default_rng(0)
    frame = images(np.repeat(["a", "b"], 20), memorability=rng.normal(size=40), loss=rng.normal(size=40))
    row = correlation_rows(frame, ["loss"], resamples=30, cluster=None).iloc[0]
    assert "The 40 images come from 2 subcategories, at least 3 needed" in caplog.text
    assert np.isnan([row["ci_low"], row["p"], row["se"], row["p_equivalence"]]).all()
    assert np.isfinite([row["rho"], row["ci_low_independent"], row["p_independent"]]).all()


def test_halves_that_do_not_match_the_images_give_no_ceiling():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"memorability": rng.normal(size=20), "half1_split01": 0.5, "half2_split01": 0.4})
    assert resampled_ceiling(frame, "memorability", Resampler(20, 10)) is None
    assert "the scores are not the means of their split halves (half1_split01, ...)" in why_no_ceiling(frame)
    assert why_no_ceiling(frame[["memorability"]]).startswith(
        "no hits, false alarms and responses were found"
    )
    with pytest.raises(ValueError, match=r"got \(20, 1\) and \(19, 1\)"):
        ceiling_from_halves(np.zeros((20, 1)), np.zeros((19, 1)))


def test_wild_draws_do_not_depend_on_their_blocks(monkeypatch):
    x, y, codes = draw_clustered(np.random.default_rng(5), np.full(20, 3), 0.5)
    whole = wild_cluster_p(x, y, codes, seed=1)
    monkeypatch.setattr(cluster_tests, "BLOCK", 77)
    assert wild_cluster_p(x, y, codes, seed=1) == whole
