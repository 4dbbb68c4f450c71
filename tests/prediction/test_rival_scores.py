"""Rivals: their rows are metrics of their own scores, and a rival that was trained on test images is caught."""

import sys
import types
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
from conftest import make_picture
from latents.test_codes import write_latents
from scipy.stats import spearmanr

from utils.core.errors import UserError
from utils.prediction import rival_adapters
from utils.prediction.evaluation import MLP, RIDGE
from utils.prediction.rivals import TRAINED_ON_TEST, Rival, gather_rivals, parse_named, read_rival, rival_rows

IDS = [f"animal/bear/{row:04d}.jpg" for row in range(60)]


def images():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"image_id": IDS, "memorability": rng.uniform(0.2, 0.9, 60), "category": "animal"})
    return frame.assign(split=np.repeat(["train", "val", "test"], [30, 6, 24]), path="", position=range(60))


def predicted_split():
    rng = np.random.default_rng(1)
    test = images().query("split == 'test'").reset_index(drop=True)
    for name, noise in ((MLP, 0.2), (RIDGE, 0.3)):
        test[name] = test["memorability"] + rng.normal(0, noise, 24)
    return test


class Data:
    """What gather_rivals reads of the prediction data."""

    def __init__(self):
        self.images = images()


def arguments(folder, *rivals, trained_on=()):
    return Namespace(
        rival=list(rivals), rival_trained_on=list(trained_on), output_path=folder, device="cpu", seed=0
    )


def rows_of(rivals):
    return rival_rows(predicted_split(), rivals, 0.5, 200, 0).set_index(["predictor", "metric"])


def test_a_rivals_rows_are_metrics_of_its_scores_and_paired_differences():
    test = predicted_split()
    scores = pd.Series(test["memorability"] + np.random.default_rng(2).normal(0, 0.05, 24))
    scores.index = test["image_id"]
    rows = rows_of([Rival("clip", scores, "clip.csv")])
    rho = spearmanr(scores, test["memorability"]).statistic
    assert rows.loc[("rival: clip", "spearman"), "value"] == pytest.approx(rho)
    assert rows.loc[("rival: clip", "mse"), "value"] == pytest.approx(
        np.square(scores - test["memorability"].to_numpy()).mean()
    )
    for ours in (MLP, RIDGE):
        row = rows.loc[(f"{ours} - rival: clip", "spearman")]
        assert row["value"] == pytest.approx(spearmanr(test[ours], test["memorability"]).statistic - rho)
        assert row["ci_low"] < row["value"] < row["ci_high"]
    assert set(rows["detail"]) == {"clip.csv"}
    assert "noise-ceiling" not in rows.index.get_level_values("predictor")


def test_a_planted_overlap_with_the_test_images_is_caught(tmp_path, caplog):
    pd.DataFrame({"image_id": IDS, "score": 0.5 + np.arange(60) / 200}).to_csv(
        tmp_path / "r.csv", index=False
    )
    (tmp_path / "seen.txt").write_text("\n".join([*IDS[:30], IDS[40], IDS[41]]) + "\n")
    (tmp_path / "clean.txt").write_text("\n".join(IDS[:30]) + "\n")
    lists = (f"leaky={tmp_path / 'seen.txt'}", f"clean={tmp_path / 'clean.txt'}")
    args = arguments(tmp_path, f"leaky={tmp_path / 'r.csv'}", f"clean={tmp_path / 'r.csv'}", trained_on=lists)
    detail = rows_of(gather_rivals(args, Data()))["detail"]
    for ours in ("", "mlp - "):
        assert detail[f"{ours}rival: leaky", "spearman"] == f"r.csv, {TRAINED_ON_TEST} (2 of 24)"
        assert detail[f"{ours}rival: clean", "spearman"] == "r.csv"
    assert "leaky was trained on test images (2 of 24)" in caplog.text


def test_a_rival_that_lacks_test_images_is_evaluated_on_those_it_has():
    test = predicted_split()
    scores = pd.Series(np.arange(20.0), index=test["image_id"][:20])
    rows = rows_of([Rival("half", scores, "h.csv")])
    assert rows.loc[("rival: half", "spearman"), "n"] == 20
    assert rows.loc[("mlp - rival: half", "spearman"), "n"] == 20
    assert rows["detail"].iloc[0] == "h.csv, 20 of 24 test images"
    with pytest.raises(UserError, match="predicts 2 of 24 test images"):
        rows_of([Rival("few", scores[:2], "f.csv")])


def test_a_ridge_on_other_codes_is_a_rival(tmp_path):
    codes = images()["memorability"].to_numpy()[:, None] + np.random.default_rng(3).normal(0, 0.01, (60, 3))
    write_latents(tmp_path, codes.astype(np.float32), name="clip", ids=IDS)
    (rival,) = gather_rivals(arguments(tmp_path, "CLIP=clip"), Data())
    assert rival.scores.index.tolist() == IDS[36:]
    assert spearmanr(rival.scores, predicted_split()["memorability"]).statistic > 0.9
    assert rival.detail == "ridge on latents_clip.npy, the same training images"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image_id,score\na.jpg,0.5\n", "None of the 1 images"),
        ("name,score\na.jpg,0.5\n", "expected a column image_id or path"),
        ("image_id,x,y\nanimal/bear/0001.jpg,1,2\n", "and a column score"),
        ("image_id,score\nanimal/bear/0001.jpg,high\n", "must hold finite numbers"),
        ("path,score\nanimal/bear/0001.jpg,1\n/x/animal/bear/0001.jpg,1\n", "stands there more than once"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, words):
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(UserError) as caught:
        read_rival(tmp_path / "r.csv", IDS)
    assert words in str(caught.value)


def test_scores_are_matched_by_path_too(tmp_path):
    (tmp_path / "r.csv").write_text(
        "path,resmem\n/data/animal/bear/0002.jpg,0.7\n0003.jpg,0.6\nother.jpg,0.1\n"
    )
    assert read_rival(tmp_path / "r.csv", IDS).to_dict() == {IDS[2]: 0.7, IDS[3]: 0.6}


def test_flags_that_make_no_sense(tmp_path):
    with pytest.raises(UserError, match="twice"):
        parse_named(["a=x", "a=y"], "--rival")
    with pytest.raises(UserError, match="NAME=FILE, found '=x'"):
        parse_named(["=x"], "--rival")
    with pytest.raises(UserError, match="there is no such --rival"):
        gather_rivals(arguments(tmp_path, trained_on=["a=x.txt"]), Data())
    with pytest.raises(UserError, match="no such file, and no latents_nowhere"):
        gather_rivals(arguments(tmp_path, "a=nowhere"), Data())
    with pytest.raises(UserError, match="one of resmem, vitmem"):
        gather_rivals(arguments(tmp_path, "clip"), Data())


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rival_adapters.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs the package resmem.*pip install resmem"):
        gather_rivals(arguments(tmp_path, "resmem"), Data())


def test_an_adapter_scores_pictures_one_by_one_and_leaves_unreadable_ones_out(tmp_path, monkeypatch, caplog):
    make_picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    package = types.SimpleNamespace(ViTMem=lambda: lambda image: image.size[0] / 1000)
    monkeypatch.setitem(sys.modules, "vitmem", package)
    monkeypatch.setattr(rival_adapters.importlib.util, "find_spec", lambda _: package)
    frame = pd.DataFrame({"image_id": ["a", "b"], "path": [str(tmp_path / f"{name}.png") for name in "ab"]})
    assert rival_adapters.run_adapter("vitmem", frame, "cpu").to_dict() == {"a": 0.09}
    assert "vitmem: b is left out" in caplog.text
    package.ViTMem = lambda: 1 / 0
    with pytest.raises(UserError, match=r"vitmem_base_patch16_224_miil_v1-f580d24a\.pth.*hub/checkpoints"):
        rival_adapters.run_adapter("vitmem", frame, "cpu")
    with pytest.raises(UserError, match="there are none here"):
        rival_adapters.run_adapter("vitmem", frame.assign(path=""), "cpu")
