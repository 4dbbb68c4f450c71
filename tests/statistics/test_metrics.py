"""Statistics: known answers from scipy and scikit-learn, the count-based bootstrap against the plain loop, coverage."""

import itertools

import numpy as np
import pandas as pd
import pytest
from correlated import plain_within, row_of
from scipy import stats
from sklearn import metrics as reference

from utils.statistics import bootstrap
from utils.statistics.bootstrap import (
    make_ranking,
    percentile_interval,
    rank_correlations,
    resample_counts,
)
from utils.statistics.correlation_tables import (
    CORRELATION_COLUMNS,
    DIFFERENCE_COLUMNS,
    bootstrap_partial_spearman,
    classification_metrics,
    correlation_rows,
    correlations_by_category,
    false_discovery_q,
    mean_interval,
    noise_ceiling,
    paired_difference,
    partial_spearman,
    regression_metrics,
    score_ceiling,
    spearman,
)
from utils.statistics.noise_ceiling import split_halves
from utils.statistics.rank_correlation import group_codes
from utils.statistics.resampling import Resampler, correlate_resampled


def drawn_rows(n, resamples, seed):
    """The rows each resample consists of, the plain way: every row repeated as often as it was drawn."""
    counts = np.concatenate(list(resample_counts(n, resamples, seed))).astype(int)
    return [np.repeat(np.arange(n), row) for row in counts]


@pytest.fixture
def tied():
    """60 images, x and the first column of y with many ties, three groups of unequal size."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 9, 60) / 8
    y = np.column_stack([rng.integers(0, 5, 60), rng.normal(size=60), x + rng.normal(size=60)])
    return x, y, np.repeat([2, 0, 1], [7, 20, 33])


# --- the fast bootstrap is the plain one ---------------------------------------------------------


def test_resampled_rho_equals_plain_loop_with_ties(tied):
    x, y, _ = tied
    estimate, samples = correlate_resampled(x[:, None], y, Resampler(60, 200, 3))
    for k in range(y.shape[1]):
        assert estimate[0, k] == pytest.approx(stats.spearmanr(x, y[:, k]).statistic, abs=1e-12)
    plain = [
        [stats.spearmanr(x[rows], y[rows, k]).statistic for k in range(y.shape[1])]
        for rows in drawn_rows(60, 200, 3)
    ]
    assert np.abs(samples[:, 0] - np.array(plain)).max() < 1e-12


def test_resampled_within_group_rho_equals_plain_loop(tied):
    x, y, groups = tied
    row = row_of(x, y[:, 2], 100, 3, groups)
    assert row.rho_within_category == pytest.approx(plain_within(x, y[:, 2], groups), abs=1e-12)
    plain = [plain_within(x[rows], y[rows, 2], groups[rows]) for rows in drawn_rows(60, 100, 3)]
    _, samples = correlate_resampled(x[:, None], y[:, 2:], Resampler(60, 100, 3), groups)
    assert np.abs(samples[:, 0, 0] - np.array(plain)).max() < 1e-12
    ends = (row.ci_low_within_category, row.ci_high_within_category)
    assert ends == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=1e-12)


def test_within_group_rho_survives_a_group_nobody_drew():
    x, y, groups = np.arange(6.0), np.array([2.0, 1, 3, 4, 5, 9]), np.array([0, 0, 0, 1, 1, 1])
    counts = np.array([[1.0, 1, 1, 0, 0, 0]])
    got = rank_correlations([make_ranking(x, groups)], [make_ranking(y, groups)], counts)[0, 0, 0]
    assert got == pytest.approx(stats.spearmanr(x[:3], y[:3]).statistic, abs=1e-12)


def test_several_targets_share_the_draw(tied):
    x, y, _ = tied
    both = np.column_stack([x, y[:, 1]])
    _, samples = correlate_resampled(both, y, Resampler(60, 50, 1))
    _, alone = correlate_resampled(both[:, 1:], y[:, 2:], Resampler(60, 50, 1))
    assert np.array_equal(samples[:, 1, 2], alone[:, 0, 0])


def test_resamples_do_not_depend_on_the_block_size(monkeypatch):
    whole = np.concatenate(list(resample_counts(37, 20, seed=4)))
    monkeypatch.setattr(bootstrap, "BLOCK_VALUES", 80)
    blocks = list(resample_counts(37, 20, seed=4))
    assert [len(block) for block in blocks] == [2] * 10
    assert np.array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 37).all()


def test_counts_are_multinomial():
    counts = np.concatenate(list(resample_counts(20, 4000, seed=0)))
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.07)
    assert counts.var() == pytest.approx(1 - 1 / 20, abs=0.03)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 20, abs=0.05)


# --- one correlation -----------------------------------------------------------------------------


def test_spearman_agrees_with_scipy(tied):
    x, y, _ = tied
    for column in y.T:
        expected = stats.spearmanr(x, column)
        assert spearman(x, column) == (float(expected.statistic), float(expected.pvalue))
        result = row_of(x, column, 20)
        assert result.rho == pytest.approx(expected.statistic, abs=1e-12)
        assert result.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_pairs_stay_together():
    x = np.random.default_rng(0).normal(size=100)
    result = row_of(x, np.exp(x), 200)
    assert (result.rho, result.ci_low, result.ci_high) == (1.0, 1.0, 1.0)
    # Two independent resamples would centre the interval on 0; a paired one lies around the estimate.
    noisy = row_of(x, x + np.random.default_rng(1).normal(size=100), 500)
    assert 0.4 < noisy.ci_low < noisy.rho < noisy.ci_high < 0.9


def test_same_seed_same_interval_other_seed_another(tied):
    x, y, _ = tied
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (row_of(x, y[:, 1], 300, seed) for seed in (7, 7, 8))
    assert (first.ci_low, first.ci_high) == (again.ci_low, again.ci_high)
    assert (first.ci_low, first.ci_high) != (other.ci_low, other.ci_high)
    assert np.array_equal(np.random.get_state()[1], state), "global random state touched"  # noqa: NPY002


def test_matrix_gives_each_column_its_own_result(tied):
    x, y, _ = tied
    frame = pd.DataFrame({"memorability": x, **{name: y[:, k] for k, name in enumerate("abc")}})
    together = correlation_rows(frame, list("abc"), resamples=100, seed=2).set_index("measure")
    names = ["rho", "ci_low", "ci_high", "p"]
    for k, name in enumerate("abc"):
        assert list(together.loc[name, names]) == list(row_of(x, y[:, k], 100, 2)[names])


@pytest.mark.parametrize(("groups", "simulations"), [(None, 1200), (3, 800)])
def test_interval_covers_a_known_rho(groups, simulations):
    n, pearson = 150, 0.5
    # Spearman's rho of a bivariate normal sample of size m, ranked inside groups of that size.
    m = n / (groups or 1)
    truth = 6 / np.pi * (np.arcsin(pearson) + (m - 2) * np.arcsin(pearson / 2)) / (m + 1)
    labels, kind = (None, "") if groups is None else (np.arange(n) % groups, "_within_category")
    rng = np.random.default_rng(2024)
    covered = 0
    for seed in range(simulations):
        x = rng.normal(size=n)
        y = pearson * x + np.sqrt(1 - pearson**2) * rng.normal(size=n)
        row = row_of(x, y, 400, seed, labels)
        covered += row[f"ci_low{kind}"] <= truth <= row[f"ci_high{kind}"]
    assert 0.93 <= covered / simulations <= 0.97


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2], "equal length, got 3 and 2 rows"),
        ([1, np.nan, 3], [1, 2, 3], "got 1 missing or infinite ones in column 1"),
        ([1, 2, 3], [1, 2, np.inf], "got 1 missing or infinite ones in column 2"),
        ([], [], "at least one image, got none"),
    ],
)
def test_unusable_columns_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        spearman(np.array(x, dtype=float), np.array(y, dtype=float))


def test_groups_must_name_every_image():
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        group_codes(["a", "b"], 3)
    with pytest.raises(ValueError, match="1 missing labels"):
        group_codes(["a", None, "b"], 3)


def test_constant_column_has_no_rho():
    x, flat = np.arange(20.0), np.full(20, 0.3)
    assert np.isnan(spearman(x, flat)).all()
    row = row_of(x, flat, 50)
    assert np.isnan([row.rho, row.p, row.ci_low, row.ci_high]).all()
    row = row_of(x, np.repeat([1.0, 2.0], 10), 50, groups=np.repeat(["a", "b"], 10))
    assert np.isfinite(row.rho)
    assert np.isnan(row.rho_within_category)


def test_interval_needs_the_statistic_in_nearly_all_resamples():
    samples = np.linspace(0, 1, 1000)
    samples[:49] = np.nan
    assert np.isfinite(percentile_interval(samples)).all()
    samples[:51] = np.nan
    assert np.isnan(percentile_interval(samples)).all()
    assert percentile_interval(np.linspace(0, 1, 1001)) == (pytest.approx(0.025), pytest.approx(0.975))


# --- groups and covariates held constant ---------------------------------------------------------


def test_difference_between_groups_does_not_pass_for_an_effect():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(5), 400)
    x, y = groups + 0.1 * rng.normal(size=2000), groups + 0.1 * rng.normal(size=2000)
    assert spearman(x, y)[0] > 0.9
    row = row_of(x, y, 500, groups=groups)
    assert row.ci_low_within_category < 0 < row.ci_high_within_category
    assert row.ci_high_within_category - row.ci_low_within_category < 0.12


def test_effect_hidden_by_groups_is_found():
    rng = np.random.default_rng(3)
    groups = np.repeat(["a", "b"], 500)
    x = rng.normal(size=1000)
    y = 0.5 * x + 0.5 * rng.normal(size=1000)
    row = row_of(x + 9 * (groups == "a"), y - 0.9 * (groups == "a"), groups=groups)
    assert abs(row.rho) < 0.2
    assert row.rho_within_category > 0.6


@pytest.mark.parametrize("covariates", [1, 3])
def test_partial_rank_correlation_against_the_inverse_of_the_rank_matrix(covariates):
    rng = np.random.default_rng(covariates)
    z = rng.integers(0, 12, size=(90, covariates)).astype(float)
    x, y = z[:, 0] + rng.normal(size=90), z.sum(axis=1) + rng.normal(size=90)
    y = y.round()
    inverse = np.linalg.inv(np.corrcoef(stats.rankdata(np.column_stack([x, y, z]), axis=0).T))
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    rho, p = partial_spearman(x, y, z)
    assert rho == pytest.approx(expected, abs=1e-12)
    freedom = 90 - 2 - covariates
    t = abs(rho) * np.sqrt(freedom / (1 - rho**2))
    assert p == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
    result = bootstrap_partial_spearman(x, y, z, resamples=40, seed=6)
    plain = [partial_spearman(x[rows], y[rows], z[rows])[0] for rows in drawn_rows(90, 40, 6)]
    assert np.abs(result.samples - np.array(plain)).max() < 1e-9
    assert result.ci_low < result.rho < result.ci_high


def test_partial_rank_correlation_is_undefined_when_the_covariate_explains_all():
    x = np.arange(30.0)
    y = np.random.default_rng(0).normal(size=30)
    assert np.isnan(partial_spearman(x, y, np.exp(x / 9))).all()
    assert np.isnan(bootstrap_partial_spearman(x, y, np.exp(x / 9), 20).ci_low)
    assert np.isnan(partial_spearman(np.ones(30), y, x)).all()


def test_false_discovery_q_is_benjamini_hochberg():
    p = np.random.default_rng(1).uniform(size=40) ** 3
    assert false_discovery_q(p) == pytest.approx(stats.false_discovery_control(p, method="bh"))
    assert false_discovery_q([0.01, 0.04, 0.03, 0.5]) == pytest.approx(
        [0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5]
    )
    holes = false_discovery_q([0.01, np.nan, 0.04])
    assert np.isnan(holes[1])
    assert holes[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(false_discovery_q([np.nan])).all()


# --- noise ceiling -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "half_rho"),
    [("memorability_wo_fa_correction", 0.776), ("memorability_w_fa_correction", 0.745)],
)
def test_noise_ceiling_of_memcat(column, half_rho, real_memcat_table):
    table = pd.read_csv(real_memcat_table)
    got = noise_ceiling(table["H"], table["FA"], table["n_resp"], column, splits=25)
    assert got["half_rho"] == pytest.approx(half_rho, abs=0.01)
    assert got["reliability"] == pytest.approx(2 * got["half_rho"] / (1 + got["half_rho"]))
    assert got["ceiling"] == pytest.approx(np.sqrt(got["reliability"]))
    counted = table.rename(columns={"H": "hits", "FA": "false_alarms"})
    assert score_ceiling(counted, column, splits=25) == got["ceiling"]


@pytest.mark.parametrize("responses", [40, 41])
def test_noise_ceiling_matches_simulated_responses(responses):
    """Of responses simulated one by one, the ceiling is how well the noisy scores follow the true ones."""
    rng = np.random.default_rng(responses)
    truth = rng.uniform(0.3, 0.9, size=4000)
    hits = rng.binomial(responses, truth)
    got = noise_ceiling(hits, None, np.full(4000, responses), "memorability_wo_fa_correction", splits=25)
    assert got["ceiling"] == pytest.approx(stats.spearmanr(truth, hits).statistic, abs=0.01)
    # The halves, split response by response rather than by the hypergeometric law.
    answers = np.arange(responses) < hits[:, None]
    shuffled = rng.permuted(answers, axis=1)
    first = responses // 2
    rho = stats.spearmanr(shuffled[:, :first].mean(axis=1), shuffled[:, first:].mean(axis=1)).statistic
    assert got["half_rho"] == pytest.approx(rho, abs=0.015)


def test_odd_responses_divide_each_half_by_its_own_size():
    """Every response of an image alike: both halves must give the same score whatever their sizes."""
    responses = np.arange(3, 203, 2)
    always = noise_ceiling(responses * (responses % 4 == 1), None, responses, "memorability_wo_fa_correction")
    assert always["half_rho"] == pytest.approx(1.0)


def test_halves_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    responses = rng.integers(2, 60, 500)
    hits, alarms = rng.binomial(responses, 0.7), rng.binomial(responses, 0.2)
    first, second = split_halves(hits, alarms, responses, seed=4)
    small, large = responses // 2, responses - responses // 2
    whole = hits - alarms
    # Which half of an odd number is the larger one is drawn: one of the two weightings must give the whole.
    fits = [np.isclose(first * a + second * b, whole) for a, b in ((small, large), (large, small))]
    assert (fits[0] | fits[1]).all()
    assert 0.4 < fits[0][responses % 2 == 1].mean() < 0.6


def test_noise_ceiling_without_signal_is_undefined():
    hits = np.random.default_rng(0).binomial(30, 0.5, size=300)
    got = noise_ceiling(hits, None, np.full(300, 30), "memorability_wo_fa_correction", splits=25)
    assert abs(got["half_rho"]) < 0.1
    flat = noise_ceiling(np.full(50, 7), np.zeros(50), np.full(50, 7))
    assert np.isnan([flat["half_rho"], flat["ceiling"]]).all()


def test_noise_ceiling_leaves_out_images_that_cannot_be_split(caplog):
    rng = np.random.default_rng(1)
    responses = np.r_[np.full(200, 20), 1, 0]
    hits = np.r_[rng.binomial(20, rng.uniform(size=200)), 1, 0]
    with caplog.at_level("WARNING"):
        got = noise_ceiling(hits, np.zeros(202), responses)
    assert "2 images with fewer than two responses are left out of the noise ceiling" in caplog.text
    assert got["ceiling"] == noise_ceiling(hits[:200], np.zeros(200), responses[:200])["ceiling"]


@pytest.mark.parametrize(
    ("hits", "alarms", "responses", "column", "message"),
    [
        ([5.5], [0], [9], "memorability_w_fa_correction", "whole numbers of at least 0 in hits"),
        ([-1], [0], [9], "memorability_w_fa_correction", "whole numbers of at least 0 in hits"),
        ([10], [0], [9], "memorability_w_fa_correction", "one value of hits per image, at most its n_resp"),
        ([1], [10], [9], "memorability_w_fa_correction", "one value of false_alarms per image"),
        ([1], None, [9], "memorability_w_fa_correction", "needs false_alarms"),
        ([1], [0], [np.nan], "memorability_w_fa_correction", "whole numbers of at least 0 in n_resp"),
        ([1], [0], [9], "score", "expected column memorability_w_fa_correction or .*, got 'score'"),
    ],
)
def test_impossible_counts_are_refused(hits, alarms, responses, column, message):
    with pytest.raises(ValueError, match=message):
        noise_ceiling(hits, alarms, responses, column)


def test_score_ceiling_only_for_scores_the_counts_explain():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n_resp": 80, "hits": rng.binomial(80, rng.uniform(0.3, 0.9, 100))})
    frame["false_alarms"] = rng.binomial(80, 0.1, 100)
    corrected = (frame.hits - frame.false_alarms) / 80
    assert score_ceiling(frame.assign(memorability=corrected)) < score_ceiling(
        frame.assign(memorability=frame.hits / 80)
    )
    assert np.isfinite(score_ceiling(frame.assign(memorability=frame.hits / 80).drop(columns="false_alarms")))
    assert np.isnan(score_ceiling(frame.assign(memorability=corrected * 2)))
    assert np.isnan(score_ceiling(frame.assign(memorability=corrected).drop(columns="hits")))
    assert score_ceiling(frame.assign(memorability=corrected.round(2))) == score_ceiling(
        frame.assign(memorability=corrected)
    )
    # a hundredth more than the counts give is another formula, not two decimals
    assert np.isnan(score_ceiling(frame.assign(memorability=corrected + 0.01)))
    missing = frame.assign(memorability=corrected, n_resp=[np.nan] + [80] * 99)
    assert np.isnan(score_ceiling(missing))


# --- tables of correlations ----------------------------------------------------------------------


@pytest.fixture
def images():
    """120 images in three categories of four subcategories; `good` follows memorability, `bad` does not."""
    rng = np.random.default_rng(11)
    n_resp = rng.integers(70, 110, 120)
    hits = rng.binomial(n_resp, rng.uniform(0.3, 0.95, 120))
    alarms = rng.binomial(n_resp, 0.1)
    frame = pd.DataFrame(
        {
            "category": np.repeat(["animal", "food", "vehicle"], 40),
            "subcategory": np.repeat([f"kind {i}" for i in range(12)], 10),
            "memorability": (hits - alarms) / n_resp,
            "hits": hits,
            "false_alarms": alarms,
            "n_resp": n_resp,
        }
    )
    frame["good"] = frame.memorability + 0.2 * rng.normal(size=120)
    frame["bad"] = rng.normal(size=120)
    return frame


def test_correlation_rows_hold_every_statistic(images):
    table = correlation_rows(images, ["good", "bad"], resamples=200, seed=3, cluster="none")
    assert list(table.columns) == CORRELATION_COLUMNS
    assert list(table.measure) == ["good", "bad"]
    row = table.iloc[0]
    expected = stats.spearmanr(images.memorability, images.good)
    assert row.rho == pytest.approx(expected.statistic, abs=1e-12)
    assert row.p == pytest.approx(expected.pvalue, rel=1e-9)
    both, drawn = images[["memorability", "good"]].to_numpy().T, drawn_rows(120, 200, 3)
    plain = [stats.spearmanr(both[0, rows], both[1, rows]).statistic for rows in drawn]
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    category = images.category.to_numpy()
    assert row.rho_within_category == pytest.approx(plain_within(*both, category))
    plain = [plain_within(*both[:, rows], category[rows]) for rows in drawn]
    ends = (row.ci_low_within_category, row.ci_high_within_category)
    assert ends == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    assert row.rho_within_subcategory == pytest.approx(plain_within(*both, images.subcategory))
    assert (row.n, row.n_within_subcategory, row.resamples, row.seed) == (120, 120, 200, 3)
    assert row.ceiling == score_ceiling(images, seed=3)
    assert row.rho_over_ceiling == pytest.approx(row.rho / row.ceiling)
    assert row["mean"] == pytest.approx(images.good.mean())
    assert row.sd == pytest.approx(images.good.std(ddof=1))
    assert row["median"] == pytest.approx(images.good.median())
    assert list(table.q) == pytest.approx(list(stats.false_discovery_control(table.p)))


def test_missing_cells_are_left_out_of_their_own_measure_only(images):
    images.loc[images.index[:15], "good"] = np.nan
    table = correlation_rows(images, ["good", "bad"], resamples=50).set_index("measure")
    assert list(table.n) == [105, 120]
    rest = images.iloc[15:]
    assert table.rho["good"] == pytest.approx(stats.spearmanr(rest.memorability, rest.good).statistic)
    assert table.ceiling["good"] == score_ceiling(rest)
    assert table.ceiling["bad"] == score_ceiling(images)


def test_several_targets_have_their_own_rows_and_ceilings(images):
    images["attribution"] = images.good + 1
    table = correlation_rows(images, ["good", "bad"], ["memorability", "attribution"], resamples=50)
    assert list(zip(table.target, table.measure, strict=True)) == list(
        itertools.product(["memorability", "attribution"], ["good", "bad"])
    )
    assert table.rho[2] == 1.0
    assert table.ceiling.notna().tolist() == [True, True, False, False]
    alone = correlation_rows(images, ["bad"], "attribution", resamples=50)
    assert alone.ci_low[0] == table.ci_low[3]


def test_undefined_correlations_are_empty_and_explained(images, caplog):
    images["flat"] = 1.0
    images["rare"] = images.good.where(images.index < 9)
    with caplog.at_level("WARNING"):
        table = correlation_rows(images, ["flat", "rare", "good"], resamples=50)
    empty = ["rho", "p", "q", "ci_low", "ci_high", "rho_within_category", "rho_over_ceiling"]
    assert table.loc[[0, 1], empty].isna().all(axis=None)
    assert table.loc[2, empty].notna().all()
    assert caplog.messages == [
        "rho is undefined and left empty where: rare: 9 images, at least 10 needed; flat is constant"
    ]


def test_one_category_holds_nothing_constant(images):
    images.loc[images.category == "food", "category"] = ""
    animals = images[images.category != "vehicle"]
    row = correlation_rows(animals, ["good"], resamples=50).iloc[0]
    assert np.isnan(row.rho_within_category)
    assert np.isfinite(row.rho_within_subcategory)


def test_small_subcategories_are_left_out(images):
    images.loc[images.index[0], "subcategory"] = "kind 1"
    row = correlation_rows(images, ["good"], resamples=50).iloc[0]
    assert row.n_within_subcategory == 111
    assert (
        correlation_rows(images.drop(columns="subcategory"), ["good"], resamples=50).n_within_subcategory[0]
        == 0
    )


def test_unknown_and_infinite_columns_are_refused(images):
    with pytest.raises(ValueError, match="expected columns ugly; the table has category, subcategory"):
        correlation_rows(images, ["ugly"])
    images.loc[3, "good"] = np.inf
    with pytest.raises(ValueError, match="finite numbers in column good, got 1 infinite"):
        correlation_rows(images, ["good"])


def test_by_category_is_the_category_alone(images, caplog):
    images.loc[images.category == "food", "bad"] = 2.0
    with caplog.at_level("WARNING"):
        table = correlations_by_category(images, ["good", "bad"], resamples=60, seed=1, cluster="none")
    assert list(table.category) == ["animal"] * 2 + ["food"] * 2 + ["vehicle"] * 2
    assert "rho_within_category" not in table
    food = images[images.category == "food"]
    row = table[(table.category == "food") & (table.measure == "good")].iloc[0]
    own = row_of(food.memorability, food.good, 60, 1)
    assert (row.rho, row.ci_low, row.ci_high, row.n) == (own.rho, own.ci_low, own.ci_high, 40)
    assert row.ceiling == score_ceiling(food, seed=1)
    assert list(table.q) == pytest.approx(list(false_discovery_q(table.p)), nan_ok=True)
    assert caplog.messages == ["rho is undefined and left empty where: bad is constant in food"]
    caplog.clear()
    with caplog.at_level("WARNING"):
        few = correlations_by_category(images, ["good", "bad"], resamples=20, min_images=41)
    assert few.rho.isna().all()
    text = "; ".join(f"40 images in {name}, at least 41 needed" for name in ("animal", "food", "vehicle"))
    assert caplog.messages == [f"rho is undefined and left empty where: {text}"]
    for empty in (None, ""):
        with pytest.raises(ValueError, match="expected a category for at least one image"):
            correlations_by_category(images.assign(category=empty), ["good"])


def test_paired_difference_against_the_plain_loop(images):
    table = paired_difference(
        images, [("good", "bad"), ("bad", "good")], resamples=99, seed=5, cluster="none"
    )
    row = table.iloc[0]
    gaps = []
    for rows in drawn_rows(120, 99, 5):
        part = images.iloc[rows]
        rhos = [stats.spearmanr(part.memorability, part[name]).statistic for name in ("good", "bad")]
        gaps.append(rhos[0] - rhos[1])
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])), abs=1e-12)
    assert row.difference == pytest.approx(row.rho_a - row.rho_b)
    assert row.p == pytest.approx(2 * (1 + sum(np.array(gaps) <= 0)) / 100)
    assert table.difference[1] == -row.difference
    assert list(table.columns) == [*DIFFERENCE_COLUMNS, "resamples", "seed"]


def test_paired_difference_of_equals_and_of_too_few(images):
    images["twin"] = images.good * 3
    images["rare"] = images.good.where(images.index < 9)
    table = paired_difference(images, [("good", "twin"), ("good", "rare")], resamples=50)
    assert (table.difference[0], table.ci_low[0], table.ci_high[0], table.p[0]) == (0, 0, 0, 1)
    assert table.n.tolist() == [120, 9]
    assert table.loc[1, ["rho_a", "difference", "ci_low", "p", "q"]].isna().all()


def test_paired_interval_is_narrower_than_an_unpaired_one(images):
    images["near"] = images.good + 0.02 * np.random.default_rng(2).normal(size=120)
    row = paired_difference(images, [("good", "near")], resamples=400).iloc[0]
    single = row_of(images.memorability, images.good, 400)
    assert row.ci_high - row.ci_low < 0.5 * (single.ci_high - single.ci_low)


# --- means and predictions -----------------------------------------------------------------------


def test_mean_interval():
    values = np.random.default_rng(0).exponential(size=400)
    got = mean_interval(np.r_[values, np.nan], resamples=2000, seed=1)
    assert got["n"] == 400
    assert got["mean"] == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert got["ci_low"] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert got["ci_high"] == pytest.approx(values.mean() + half, abs=0.15 * half)
    one = mean_interval([0.5])
    assert (one["mean"], one["n"]) == (0.5, 1)
    assert np.isnan([one["ci_low"], one["sd"]]).all()
    assert np.isnan(mean_interval([])["mean"])


@pytest.fixture
def predictions():
    """120 images, enough for percentiles of every metric, scores and predictions with ties."""
    rng = np.random.default_rng(8)
    observed = rng.integers(20, 90, 120) / 100
    return observed, (0.5 * observed + 0.2 + 0.1 * rng.normal(size=120)).round(2)


def regression_reference(observed, predicted):
    return {
        "spearman": stats.spearmanr(observed, predicted).statistic,
        "mse": reference.mean_squared_error(observed, predicted),
        "mae": reference.mean_absolute_error(observed, predicted),
        "r2": reference.r2_score(observed, predicted),
    }


def classification_reference(above, score, threshold):
    called = score > threshold
    return {
        "auc": reference.roc_auc_score(above, score),
        "ap": reference.average_precision_score(above, score),
        "accuracy": reference.accuracy_score(above, called),
        "precision": reference.precision_score(above, called),
        "recall": reference.recall_score(above, called),
        "specificity": reference.recall_score(~above, ~called),
        "f1": reference.f1_score(above, called),
    }


def check_against(table, compute, n, resamples, seed):
    """Values and intervals must be those of the reference on the data and on the repeated rows."""
    expected = compute(np.arange(n))
    table = table.set_index("metric")
    assert list(table.index) == list(expected)
    assert (table.n == n).all()
    loop = pd.DataFrame([compute(rows) for rows in drawn_rows(n, resamples, seed)])
    for name, value in expected.items():
        assert table.value[name] == pytest.approx(value, abs=1e-12), name
        assert table.ci_low[name] == pytest.approx(loop[name].quantile(0.025), abs=1e-12), name
        assert table.ci_high[name] == pytest.approx(loop[name].quantile(0.975), abs=1e-12), name


def test_regression_metrics_against_sklearn(predictions):
    observed, predicted = predictions
    table = regression_metrics(observed, predicted, resamples=60, seed=2)
    assert list(table.columns) == ["metric", "value", "ci_low", "ci_high", "n"]
    check_against(table, lambda rows: regression_reference(observed[rows], predicted[rows]), 120, 60, 2)


def test_classification_metrics_against_sklearn(predictions):
    observed, predicted = predictions
    above, cut = observed > 0.55, 0.48
    table = classification_metrics(above, predicted, cut, resamples=60, seed=2)
    assert list(table.columns) == ["metric", "value", "ci_low", "ci_high", "n"]
    check_against(table, lambda rows: classification_reference(above[rows], predicted[rows], cut), 120, 60, 2)


def test_regression_metrics_within_categories(predictions):
    observed, predicted = predictions
    groups = np.repeat(["a", "b"], [45, 75])
    row = (
        regression_metrics(observed, predicted, 40, 1, groups)
        .set_index("metric")
        .loc["spearman_within_category"]
    )
    assert row.value == pytest.approx(plain_within(observed, predicted, groups))
    plain = [plain_within(observed[rows], predicted[rows], groups[rows]) for rows in drawn_rows(120, 40, 1)]
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    alone = regression_metrics(observed, predicted, 40, 1, ["a"] * 120)
    assert list(alone.metric) == ["spearman", "mse", "mae", "r2"]


def test_constant_prediction(predictions, caplog):
    observed, _ = predictions
    with caplog.at_level("WARNING"):
        table = regression_metrics(observed, np.full(120, observed.mean()), 50).set_index("metric")
    assert np.isnan(table.value["spearman"])
    assert table.value["r2"] == pytest.approx(0)
    assert "undefined and left empty: spearman" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        table = classification_metrics(observed > 0.5, np.full(120, 0.5), 0.5, 50).set_index("metric")
    assert (table.value["auc"], table.value["recall"], table.value["specificity"]) == (0.5, 0, 1)
    assert table.value["ap"] == pytest.approx((observed > 0.5).mean())
    assert table.loc["precision", ["value", "ci_low", "ci_high"]].isna().all()
    assert "undefined and left empty: precision" in caplog.text


def test_one_class_only(predictions):
    _, predicted = predictions
    table = classification_metrics(np.ones(120, bool), predicted, 0.4, 50).set_index("metric")
    assert np.isnan(table.value[["auc", "specificity"]]).all()
    assert table.value["ap"] == 1


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="observed and predicted of equal length, got 3 and 2"):
        regression_metrics([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="finite numbers in score, got 1"):
        classification_metrics([True, False], [0.1, np.nan], 0.5)
    with pytest.raises(ValueError, match="True and False"):
        classification_metrics([0.2, 0.9], [0.1, 0.3], 0.5)
    with pytest.raises(ValueError, match="one group label per image"):
        regression_metrics([1, 2, 3], [1, 2, 4], groups=["a", None, "b"])


def test_no_interval_reaches_beyond_its_metric():
    """Three clusters, of which one is predicted badly: Student's t alone would give an R2 above 1 and an error below 0."""
    rng = np.random.default_rng(4)
    clusters = np.repeat([0, 1, 2], 8)
    observed = rng.normal(size=24)
    predicted = observed + rng.normal(0, [0.05, 0.05, 2.0], (8, 3)).T.ravel()
    table = regression_metrics(observed, predicted, resamples=200, clusters=clusters).set_index("metric")
    assert table.loc["r2", "ci_high"] <= 1
    assert table.loc["r2", "ci_low"] < -1
    assert table.loc["mse", "ci_low"] == 0
    assert table.loc["mse", "ci_high"] > 1
    above = classification_metrics(observed > 0, predicted, 0.0, resamples=200, clusters=clusters)
    assert above["ci_low"].min() >= 0
    assert above["ci_high"].max() == 1
