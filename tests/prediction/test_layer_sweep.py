"""Curves along depth: their rho against scipy, and bands that cover a whole curve at once."""

from argparse import Namespace
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, spearmanr

from utils.core.processes import barrier
from utils.latents.codes import CodeSet
from utils.prediction import layer_sweep
from utils.prediction.layer_sweep import curve_rows, draw_layers, ridge_predictions, simultaneous_bands
from utils.statistics.resampling import Resampler

LAYERS = ["conv1", "conv2", "conv3"]


def test_a_curve_is_spearmans_rho_layer_by_layer_with_wider_joint_bands():
    rng = np.random.default_rng(0)
    target = rng.standard_normal(200)
    values = target[:, None] * [0.0, 0.5, 1.0] + rng.standard_normal((200, 3))
    rows = curve_rows(values, target, LAYERS, Resampler(200, 400, 1))
    assert rows["layer"].tolist() == LAYERS
    assert rows["depth"].tolist() == [1, 2, 3]
    for place in range(3):
        assert rows["rho"][place] == pytest.approx(spearmanr(values[:, place], target).statistic)
    assert ((rows["band_high"] - rows["band_low"]) > (rows["ci_high"] - rows["ci_low"])).all()
    assert (rows["band_low"] < rows["rho"]).all()
    assert (rows["band_high"] > rows["rho"]).all()


def test_bands_of_independent_curves_reach_as_far_as_sidak_says():
    """Of L independent normal values, |z| stays below the (1 + 0.95^(1/L)) / 2 quantile for all with probability 0.95."""
    samples = np.random.default_rng(1).standard_normal((40_000, 5)) * [1, 2, 3, 4, 5] / 100
    errors = np.array([1, 2, 3, 4, 5]) / 100
    low, high = simultaneous_bands(np.zeros(5), samples, errors)
    reach = norm.ppf((1 + 0.95 ** (1 / 5)) / 2)
    np.testing.assert_allclose(high / errors, reach, rtol=0.01)
    np.testing.assert_allclose(low, -high)


def test_a_constant_layer_has_no_band_and_spoils_no_other():
    samples = np.random.default_rng(1).standard_normal((100, 2)) / 10
    samples[:, 1] = np.nan
    low, high = simultaneous_bands(np.array([0.1, np.nan]), samples, np.array([0.1, np.nan]))
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()


def test_ridge_predicts_the_test_images_alone():
    rng = np.random.default_rng(2)
    codes = rng.standard_normal((60, 4)).astype(np.float32)
    ids = [f"{row:02d}.jpg" for row in range(60)]
    scores = codes @ np.array([1.0, -1, 0.5, 0]) * 0.1
    names = np.repeat(["train", "val", "test"], [36, 6, 18])
    splits = pd.DataFrame({"image_id": ids, "memorability": scores, "split": names})
    found = ridge_predictions(codes, ids, splits)
    assert found.index.tolist() == ids[42:]
    assert spearmanr(found, scores[42:]).statistic > 0.99


def test_the_figure_shows_every_curve():
    rows = pd.concat(
        [
            pd.DataFrame({"layer": LAYERS, "depth": [1, 2, 3], "rho": [0.1, 0.2, 0.3], "n": 30}).assign(
                measure=measure, target="memorability", band_low=-0.1, band_high=0.5
            )
            for measure in ("distinctiveness", "ridge")
        ]
    )
    figure = draw_layers(rows, "net")
    assert len(figure.axes[0].lines) == 3  # and the line at 0
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == LAYERS


def test_under_torchrun_the_sweep_waits_for_nobody(monkeypatch):
    """Only rank 0 sweeps: a barrier inside would wait for ever."""
    met = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: met.append(1))
    swept = []
    monkeypatch.setattr(layer_sweep, "sweep_layers", lambda *_: (barrier(), swept.append(1)))
    args = Namespace(metric="euclidean", neighbours=1, within_category=False)
    sets = [CodeSet("net", f"net@{layer}", "", None, layer) for layer in LAYERS]
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        layer_sweep.sweep_models(args, SimpleNamespace(one_model=nullcontext), None, sets)
    assert (swept, met) == ([1], [])
