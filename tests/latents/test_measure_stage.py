"""Correlations of the measures of distinctiveness, what they say in words, and the flag that asks for them."""

import numpy as np
import pandas as pd
import pytest
from latents.test_distinctiveness import normal, study
from scipy.stats import rankdata, spearmanr

from utils.core.measure_names import MEASURES, WITHIN, signs_in_words
from utils.latents.distinctiveness import Inference
from utils.latents.measure_stage import chosen_measures, correlate_measures
from utils.latents.measures import MeasureSettings, measure, measures_table


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    latents, about = study(tmp_path_factory.mktemp("codes"), normal(60, 6))
    found = measure(latents, MeasureSettings(neighbours=5), about["category"])
    return about, found, measures_table(latents, found, about)


def rows_of(measured, losses=None):
    about, found, table = measured
    rows = correlate_measures(table, about, losses, found, Inference(100, 0))
    return rows.set_index(["measure", "held_constant"])


def test_every_measure_has_a_row_alone_and_with_the_error_held_constant_and_the_other_way_round(measured):
    about, _, table = measured
    error = np.random.default_rng(1).random(60) + about["memorability"]
    rows = rows_of(measured, pd.DataFrame({"image_id": about["image_id"], "mse": 1.0, "lpips-sq": error}))
    for name in MEASURES:
        x, y, z = (rankdata(v) for v in (table[name], about["memorability"], error))
        assert rows.loc[(name, ""), "rho"] == pytest.approx(spearmanr(x, y).statistic)
        for own, held, label in ((x, z, (name, "lpips-sq")), (z, x, ("lpips-sq", name))):
            left, right = (v - np.polyval(np.polyfit(held, v, 1), held) for v in (own, y))
            assert rows.loc[label, "rho"] == pytest.approx(np.corrcoef(left, right)[0, 1])
            assert rows.loc[label, "ci_low"] < rows.loc[label, "rho"] < rows.loc[label, "ci_high"]
    assert rows.loc[("mean_k_cosine", ""), "setting"] == "K = 5"
    assert np.isfinite(rows.loc[("centroid", ""), "rho_within_category"])
    assert ("centroid" + WITHIN, "") in rows.index


def test_without_losses_nothing_is_held_constant(measured):
    assert set(rows_of(measured).index.get_level_values("held_constant")) == {""}


def plain(**rho):
    rows = [(name, value, value - 0.05, value + 0.05) for name, value in rho.items()]
    frame = pd.DataFrame(rows, columns=["measure", "rho", "ci_low", "ci_high"])
    return frame.assign(target="memorability", held_constant="")


def test_disagreement_in_sign_is_said_in_words():
    said = signs_in_words(plain(centroid=0.2, nearest_euclidean=-0.1, mahalanobis=-0.04))
    assert said.startswith(
        "The sign hangs on the measure: by 1 of 3 measures distinctive images are more memorable"
    )
    assert "(1 with an interval above 0; most by centroid, rho 0.200)" in said
    assert "by 2 less (1 with an interval below 0; most by nearest_euclidean, rho -0.100)" in said


def test_signs_that_chance_explains_are_not_said_to_hang_on_the_measure():
    said = signs_in_words(plain(centroid=0.2, nearest_euclidean=-0.01))
    assert said.startswith("Signs differ, but not on both sides beyond chance: by 1 of 2 measures")


@pytest.mark.parametrize(("sign", "word"), [(1, "more"), (-1, "less")])
def test_agreement_is_said_too(sign, word):
    said = signs_in_words(plain(centroid=0.2 * sign, nearest_euclidean=0.1 * sign))
    assert said == f"By every one of 2 measures, distinctive images are {word} memorable."


def test_the_flag_names_measures():
    assert chosen_measures(["nearest"]) == ()
    assert chosen_measures(["nearest", "all"]) == tuple(MEASURES)
    assert chosen_measures(["mahalanobis", "centroid"]) == ("centroid", "mahalanobis")
