"""mlp_predict.py as users run it, and the parts it is made of."""

import io
import json
import os
import re
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_user_error, edit_in_place, make_picture, run_script_process, write_memcat
from PIL import Image, ImageDraw
from scipy.stats import percentileofscore, spearmanr
from sklearn.metrics import precision_recall_curve, roc_curve

import mlp_predict
from models.autoencoder import build_autoencoder
from models.checkpoints import checkpoint_sha256, load_mlp, save_autoencoder
from models.mlp import build_mlp
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.core.run import Run
from utils.core.tables import output_file, read_table, write_table
from utils.data.dataset import find_image_root
from utils.data.images import load_pixels
from utils.data.scores import read_scores
from utils.latents.codes import latent_file, row_checksums
from utils.prediction import evaluation as judge
from utils.prediction import predictors
from utils.prediction import stage as mlp_stage
from utils.prediction.curves import calibration_table, curve_table, training_percentile
from utils.prediction.partition import Split
from utils.prediction.scoring import Predictor, gather_paths, load_predictor, rank_scores

STEM = "mem_vgg_autoencoder"
SIZE = 64
FAST = [
    "--epochs",
    "6",
    "--resamples",
    "50",
    "--hidden-sizes",
    "16",
    "--learning-rate",
    "1e-3",
    "--device",
    "cpu",
]
PREDICTORS = {
    predictors.MLP,
    predictors.CONSTANT,
    predictors.RIDGE,
    predictors.ERROR,
    predictors.DISTINCTIVENESS,
    predictors.TOGETHER,
    predictors.CATEGORY_MEAN,
    predictors.SUBCATEGORY_MEAN,
    predictors.RECOGNITION,
    judge.CEILING,
}


def stage(*arguments):
    """Run the stage in this process."""
    mlp_predict.main(mlp_predict.get_parser().parse_args(list(map(str, arguments))))


def write_latents(folder, codes, ids, sha, size=SIZE):
    """Write latent codes as latent_analysis.py does."""
    frame = pd.DataFrame({"image_id": ids, "layer": "conv5", "pool": "none", "image_size": size})
    frame = frame.assign(encoder_sha256=sha[:16], crc32=row_checksums(codes))
    write_table(frame, output_file(folder, "latents", STEM), "latents")
    np.save(latent_file(folder, STEM), codes)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A VGG11 autoencoder with random weights, as autoencoder_finetune.py saves it."""
    path = tmp_path_factory.mktemp("checkpoint") / f"{STEM}.pth"
    save_autoencoder(
        path, build_autoencoder("vgg11", seed=0), image_size=SIZE, caveats=["random weights: test"]
    )
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """24 pictures with scores, laid out like MemCat, and the encoder's latent codes of them."""
    return write_memcat(tmp_path_factory.mktemp("MemCat"), per_subcategory=6)


@pytest.fixture(scope="session")
def codes(checkpoint, pictures):
    table, _ = read_scores(pictures / "MemCat_data" / "memcat_image_data.csv")
    ids = sorted(table["image_id"])
    root = find_image_root(pictures, ids)
    model = build_autoencoder("vgg11", seed=0).eval()
    with torch.inference_mode():
        images = torch.from_numpy(np.stack([load_pixels(root / name, SIZE) for name in ids]))
        return ids, model.encode(images).flatten(1).numpy()


def lay_out(folder, checkpoint, codes):
    """An output folder as the earlier stages leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.link(checkpoint, folder / checkpoint.name)
    ids, values = codes
    write_latents(folder, values, ids, checkpoint_sha256(checkpoint))
    rng = np.random.default_rng(0)
    base = pd.DataFrame(
        {"image_id": ids, "category": [name.split("/")[0] for name in ids], "memorability": 0.5}
    )
    losses = base.assign(subcategory="x", **{name: rng.random(len(ids)) for name in LOSSES})
    write_table(losses, output_file(folder, "test_loss", STEM), "test_loss")
    columns = [column.name for column in TABLES["distinctiveness"].columns]
    near = base.assign(**{name: 1 for name in columns if name not in base})
    near = near.assign(nearest_image_id=ids[::-1], distinctiveness=rng.normal(size=len(ids)))
    write_table(near, output_file(folder, "distinctiveness", STEM), "distinctiveness")
    return folder


@pytest.fixture
def output(tmp_path, checkpoint, codes):
    return lay_out(tmp_path / "output", checkpoint, codes)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, checkpoint, codes, pictures):
    """An output folder after --train --evaluate. Read-only."""
    folder = lay_out(tmp_path_factory.mktemp("trained") / "output", checkpoint, codes)
    stage("--data-dir", pictures, "--output-path", folder, *FAST)
    return folder


@pytest.fixture
def deployed(tmp_path, trained):
    """An output folder that holds just the checkpoint and the MLP."""
    folder = tmp_path / "deployed"
    folder.mkdir()
    for name in (f"{STEM}.pth", f"mlp_{STEM}.pth"):
        os.link(trained / name, folder / name)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Six pictures in a folder with a subfolder; names with spaces and non-ASCII letters."""
    names = ["a.jpg", "with space.png", "schöne Bären 日本.jpg", "deep/er/b.jpeg", "c.webp", "deep/d.bmp"]
    for seed, name in enumerate(names):
        path = tmp_path / "my photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(100 + seed).save(path)
    return tmp_path / "my photos"


def predictions_in(folder):
    return read_table(output_file(folder, "predictions"), "predictions")


# ---------------------------------------------------------------------- train and evaluate


def test_the_stage_writes_every_table_and_figure(trained):
    metrics = read_table(trained / "mlp_metrics.csv", "mlp_metrics")
    alone = metrics[~metrics["predictor"].str.contains(" - ")]
    assert set(alone["predictor"]) == PREDICTORS
    expected = {
        "spearman",
        "mse",
        "mae",
        "r2",
        "auc",
        "ap",
        "accuracy",
        "precision",
        "recall",
        "specificity",
        "f1",
    }
    for name in PREDICTORS - {judge.CEILING}:
        assert expected <= set(alone.loc[alone["predictor"] == name, "metric"]), name
    rows = alone.set_index(["predictor", "metric"])
    assert rows.loc[(predictors.CONSTANT, "auc"), "value"] == 0.5
    assert rows.loc[(predictors.ERROR, "spearman"), "detail"].endswith("lpips-sq")
    assert {"mlp - ridge", "ridge - reconstruction-error"} <= set(metrics["predictor"])
    splits = read_table(trained / "splits.csv", "splits").set_index("image_id")["split"]
    predictions = read_table(trained / "mlp_predictions.csv", "mlp_predictions").set_index("image_id")
    assert predictions["split"].to_dict() == splits.to_dict()
    test = predictions[predictions["split"] == "test"]
    assert (rows["n"] == len(test)).all()
    reported = rows.loc[(predictors.MLP, "spearman"), "value"]
    assert reported == pytest.approx(spearmanr(test["prediction"], test["memorability"]).statistic)
    assert rows.loc[(predictors.MLP, "mse"), "value"] == pytest.approx(
        ((test["prediction"] - test["memorability"]) ** 2).mean()
    )
    history = read_table(trained / f"mlp_history_{STEM}.csv", "mlp_history")
    assert history["best"].sum() == 1
    assert history.loc[history["best"], "validation_loss"].iloc[0] == history["validation_loss"].min()
    for name in ("predicted", "roc_pr", "calibration", "learning", "misses"):
        for kind in ("png", "pdf"):
            assert (trained / f"mlp_{name}_{STEM}.{kind}").stat().st_size > 1000
    record = json.loads((trained / "run_mlp_predict.json").read_text())
    assert record["status"] == "complete"
    assert f"mlp_{STEM}.pth" in record["outputs"]


def test_the_saved_head_says_everything_about_itself(trained, checkpoint, pictures):
    head, meta = load_mlp(trained / f"mlp_{STEM}.pth")
    splits = read_table(trained / "splits.csv", "splits")
    scores = splits.loc[splits["split"] == "train", "memorability"]
    assert meta["encoder"] == {"stem": STEM, "sha256": checkpoint_sha256(checkpoint)}
    assert meta["image_size"] == SIZE
    np.testing.assert_allclose(meta["training_scores"], sorted(scores), rtol=1e-8)
    assert meta["score_column"] == "memorability_w_fa_correction"
    assert {"torch", "numpy", "python"} <= set(meta["versions"])
    assert head.score_mean.item() == pytest.approx(scores.mean(), rel=1e-6)
    assert meta["settings"]["hidden_sizes"] == [16] == list(head.hidden_sizes)


def test_same_seed_same_bytes_and_evaluate_alone_agrees(tmp_path, trained, checkpoint, codes, pictures):
    again = lay_out(tmp_path / "again", checkpoint, codes)
    stage("--train", "--data-dir", pictures, "--output-path", again, *FAST)
    assert not (again / "mlp_metrics.csv").exists()
    stage("--evaluate", "--data-dir", pictures, "--output-path", again, *FAST)
    names = [f"mlp_{STEM}.pth", f"mlp_history_{STEM}.csv", "mlp_metrics.csv", "mlp_predictions.csv"]
    names += ["mlp_calibration.csv", "mlp_curves.csv", f"mlp_predicted_{STEM}.png", f"mlp_misses_{STEM}.pdf"]
    for name in names:
        assert (again / name).read_bytes() == (trained / name).read_bytes(), name


def test_under_torchrun_the_training_rank_meets_the_others_once(output, pictures, monkeypatch):
    meetings = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    over = Namespace(is_completed=lambda: True, wait=lambda: None)

    def meet(async_op: bool) -> Namespace:
        meetings.append(os.environ["RANK"])
        return over

    monkeypatch.setattr(torch.distributed, "barrier", meet)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        stage("--data-dir", pictures, "--output-path", output, *FAST, "--train", "--epochs", "1")
    assert meetings == ["0", "1"]  # a rank that meets more often than the others waits for ever


def test_caveats_of_one_model_do_not_stick_to_the_next(tmp_path, monkeypatch):
    seen = []

    def load(run, args, path):
        run.note_caveats([f"random weights: {path.stem}"])
        return SimpleNamespace(stem=path.stem, image_size=224, images=[])

    models = [(name, Path(f"{name}.pth")) for name in ("a", "b")]
    monkeypatch.setattr("utils.prediction.stage.find_code_models", lambda _: models)
    monkeypatch.setattr("utils.prediction.stage.load_prediction_data", load)
    monkeypatch.setattr(mlp_stage, "train", lambda run, args, data: seen.append(run.caveat))
    stage("--train", "--output-path", tmp_path, "--device", "cpu")
    assert seen == ["random weights: a", "random weights: b"]
    record = json.loads((tmp_path / "run_mlp_predict.json").read_text())
    assert record["caveats"] == seen


def test_rivals_stand_in_the_table_with_differences_and_what_they_were_trained_on(output, pictures, codes):
    ids, _ = codes
    pd.DataFrame({"path": ids, "score": np.linspace(0, 1, len(ids))}).to_csv(
        output / "theirs.csv", index=False
    )
    (output / "seen.txt").write_text("\n".join(ids) + "\n")
    rival = (
        "--rival",
        f"theirs={output / 'theirs.csv'}",
        "--rival-trained-on",
        f"theirs={output / 'seen.txt'}",
    )
    stage("--data-dir", pictures, "--output-path", output, *FAST, *rival)
    metrics = read_table(output_file(output, "mlp_metrics"), "mlp_metrics")
    rows = metrics[metrics["predictor"].str.contains("rival: theirs", regex=False)]
    assert {"rival: theirs", "mlp - rival: theirs", "ridge - rival: theirs"} <= set(rows["predictor"])
    count = metrics.loc[metrics["predictor"] == "mlp", "n"].iloc[0]
    assert set(rows["detail"]) == {f"theirs.csv, trained on test images ({count} of {count})"}


def test_search_and_splits_are_recorded(output, pictures, monkeypatch):
    monkeypatch.setattr(
        "utils.prediction.training.SEARCH_GRID", {"dropout": (0.0, 0.5), "learning_rate": (1e-3,)}
    )
    arguments = ["--data-dir", pictures, "--output-path", output, "--search", "--n-splits", "3", *FAST]
    stage(*arguments)
    search = read_table(output / "mlp_search.csv", "mlp_search")
    assert search["dropout"].tolist() == [0.0, 0.5]
    assert search.loc[search["selected"], "validation_loss"].iloc[0] == search["validation_loss"].min()
    splits = read_table(output / "mlp_splits.csv", "mlp_splits")
    assert sorted(set(splits["split_number"])) == [0, 1, 2]
    assert dict(zip(splits["split_number"], splits["split_seed"], strict=True)) == {0: 0, 1: 1, 2: 2}
    metrics = read_table(output / "mlp_metrics.csv", "mlp_metrics").set_index(["predictor", "metric"])
    rho = splits[(splits["predictor"] == "ridge") & (splits["metric"] == "mse")]["value"]
    assert rho.nunique() == 3
    row = metrics.loc[("ridge", "mse")]
    assert row["value"] == rho.iloc[0]
    assert (row["n_splits"], row["mean_over_splits"]) == (3, pytest.approx(rho.mean()))
    assert row["sd_over_splits"] == pytest.approx(rho.std(ddof=1))
    other = metrics.reset_index().assign(model="another")
    with Run("mlp_predict", Namespace(output_path=output)) as run:
        run.write_table(pd.concat([metrics.reset_index(), other]), "mlp_metrics")
    stage("--data-dir", pictures, "--output-path", output, *FAST)
    assert not (output / "mlp_search.csv").exists()  # they described the head that was replaced
    assert not (output / "mlp_splits.csv").exists()
    kept = read_table(output / "mlp_metrics.csv", "mlp_metrics")
    assert kept.groupby("model")["n_splits"].unique().map(list).to_dict() == {"another": [3], STEM: [1]}


def test_without_the_other_stages_their_baselines_are_left_out(output, pictures, caplog):
    output_file(output, "test_loss", STEM).unlink()
    output_file(output, "distinctiveness", STEM).unlink()
    stage("--data-dir", pictures, "--output-path", output, *FAST)
    found = set(read_table(output / "mlp_metrics.csv", "mlp_metrics")["predictor"])
    recognition = {predictors.CATEGORY_MEAN, predictors.SUBCATEGORY_MEAN, predictors.RECOGNITION}
    assert {name for name in found if " - " not in name} == recognition | {
        predictors.MLP,
        predictors.CONSTANT,
        predictors.RIDGE,
        judge.CEILING,
    }
    assert {"mlp - ridge", "mlp - subcategory-mean"} <= found
    assert "it is written by: python autoencoder_test.py" in caplog.text


# ---------------------------------------------------------------------- known answers through the whole stage


@pytest.fixture
def many(tmp_path, checkpoint, monkeypatch):
    """A function that sets up tiny pictures with given scores and latent codes as a user's own set.

    Figures are left out: they take longer than all the rest, and other tests draw them.
    """
    monkeypatch.setattr(mlp_stage, "draw_evaluation", lambda *_: None)

    def build(latents, scores):
        folder, data = tmp_path / "output", tmp_path / "data"
        folder.mkdir()
        data.mkdir()
        Image.new("RGB", (8, 8), "grey").save(tmp_path / "one.png")
        ids = [f"{number:04d}.png" for number in range(len(scores))]
        for name in ids:
            os.link(tmp_path / "one.png", data / name)
        pd.DataFrame({"path": ids, "score": scores}).to_csv(data / "scores.csv", index=False)
        os.link(checkpoint, folder / checkpoint.name)
        write_latents(folder, latents.astype(np.float32), ids, checkpoint_sha256(checkpoint))
        return folder, [
            "--data-dir",
            data,
            "--scores-csv",
            data / "scores.csv",
            "--output-path",
            folder,
            "--device",
            "cpu",
        ]

    return build


def planted(strength, n=500, dims=32, seed=4):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, dims))
    signal = latents @ rng.normal(size=dims)
    signal = (signal - signal.mean()) / signal.std()
    noise = np.sqrt(1 - strength**2) * rng.normal(size=n)
    return latents, np.clip(0.6 + 0.12 * (strength * signal + noise), -1, 1), signal


def mlp_rho(folder):
    metrics = read_table(folder / "mlp_metrics.csv", "mlp_metrics").set_index(["predictor", "metric"])
    return metrics.loc[(predictors.MLP, "spearman")], metrics


def test_a_planted_signal_is_reported_within_its_own_interval(many):
    latents, scores, signal = planted(0.8)
    folder, arguments = many(latents, scores)
    stage(*arguments, "--learning-rate", "3e-3", "--resamples", "500")
    row, metrics = mlp_rho(folder)
    test = read_table(folder / "splits.csv", "splits")["split"].to_numpy() == "test"
    truth = spearmanr(signal[test], scores[test]).statistic
    assert row["ci_low"] <= truth <= row["ci_high"]
    assert row["p"] < 1e-6
    assert metrics.loc[(predictors.RIDGE, "spearman"), "value"] == pytest.approx(truth, abs=0.05)
    assert np.isnan(metrics.loc[(judge.CEILING, "spearman"), "value"])  # no counts, no ceiling


def test_a_shuffled_score_is_reported_as_nothing(many):
    latents, scores, _ = planted(0.8)
    folder, arguments = many(latents, np.random.default_rng(0).permutation(scores))
    stage(*arguments, "--learning-rate", "3e-3", "--resamples", "500")
    row, _ = mlp_rho(folder)
    assert row["ci_low"] <= 0 <= row["ci_high"]


def test_a_marker_in_test_rows_changes_neither_head_nor_ridge(many):
    """The marker is the score itself, in a column that is 0 elsewhere: nothing trained may have seen it."""
    latents, scores, _ = planted(0.0)
    latents[:, 0] = 0.0
    folder, arguments = many(latents, scores)
    stage("--train", *arguments, "--learning-rate", "3e-3")
    clean = (folder / f"mlp_{STEM}.pth").read_bytes()
    splits = read_table(folder / "splits.csv", "splits")
    test = (splits["split"] == "test").to_numpy()
    latents[test, 0] = scores[test]
    write_latents(
        folder,
        latents.astype(np.float32),
        splits["image_id"].tolist(),
        checkpoint_sha256(folder / f"{STEM}.pth"),
    )
    stage(*arguments, "--learning-rate", "3e-3", "--resamples", "500")
    assert (folder / f"mlp_{STEM}.pth").read_bytes() == clean
    row, metrics = mlp_rho(folder)
    assert row["ci_low"] <= 0 <= row["ci_high"]
    ridge = metrics.loc[(predictors.RIDGE, "spearman")]
    assert not ridge["ci_low"] > 0


# ---------------------------------------------------------------------- bad input of training


def test_constant_scores_too_few_images_and_bad_latents_are_refused(many, tmp_path, checkpoint):
    latents, scores, _ = planted(0.5, n=60)
    folder, arguments = many(latents, np.full(60, 0.5))
    with pytest.raises(UserError, match=r"All 36 training images have the same memorability score \(0\.5\)"):
        stage(*arguments)
    assert not (folder / f"mlp_{STEM}.pth").exists()
    with pytest.raises(
        UserError, match="There are too few images with latent codes to train and test on: found train"
    ):
        stage(*arguments, "--limit", "4")
    ids = [f"{number:04d}.png" for number in range(60)]
    sha = checkpoint_sha256(checkpoint)
    broken = latents.astype(np.float32)
    broken[7, 3] = np.nan
    write_latents(folder, broken, ids, sha)
    with pytest.raises(UserError, match=r"NaN or infinity in 1 of 60 rows \(0007\.png\)"):
        stage(*arguments)
    write_latents(folder, latents.astype(np.float32), [f"other/{name}" for name in ids], sha)
    with pytest.raises(UserError, match=r"name different images: not one of 60 images .*latent_analysis\.py"):
        stage(*arguments)
    write_latents(folder, latents.astype(np.float32), ids, "f" * 64)
    with pytest.raises(UserError, match=r"was made by an encoder with SHA-256 ffff"):
        stage(*arguments)


def test_images_without_a_latent_code_are_named_or_fatal(many):
    latents, scores, _ = planted(0.5, n=60)
    folder, arguments = many(latents, scores)
    ids = [f"{number:04d}.png" for number in range(60)]
    write_latents(
        folder, latents[:57].astype(np.float32), ids[:57], checkpoint_sha256(folder / f"{STEM}.pth")
    )
    with pytest.raises(UserError, match=r"3 of 60 images have no latent code .* e\.g\. 0057\.png"):
        stage(*arguments, *FAST, "--on-error", "fail")
    stage(*arguments, *FAST)
    skipped = read_table(folder / "skipped_images.csv", "skipped_images")
    assert set(ids[57:]) <= set(skipped["image_id"])
    assert len(read_table(folder / "mlp_predictions.csv", "mlp_predictions")) == 57


def test_a_head_of_another_split_is_not_evaluated(output, pictures):
    stage("--train", "--data-dir", pictures, "--output-path", output, *FAST)
    (output / "splits.csv").unlink()
    with pytest.raises(UserError, match=r"was trained on other images than are trained on now .*--train"):
        stage("--evaluate", "--data-dir", pictures, "--output-path", output, *FAST, "--seed", "5")
    with pytest.raises(UserError, match="was trained on the score column memorability_w_fa_correction, but"):
        stage(
            "--evaluate", "--data-dir", pictures, "--output-path", output, *FAST,
            "--score-column", "memorability_wo_fa_correction",
        )  # fmt: skip


def test_a_missing_latent_matrix_names_the_stage(tmp_path, checkpoint, pictures):
    os.link(checkpoint, tmp_path / checkpoint.name)
    done = run_script_process(
        "mlp_predict.py", "--data-dir", pictures, "--output-path", tmp_path, "--device", "cpu"
    )
    assert_user_error(done, f"latents_{STEM}.csv is missing", "python latent_analysis.py --calculate-latents")


# ---------------------------------------------------------------------- scoring


def test_scores_equal_those_of_the_evaluation_and_need_only_two_files(deployed, trained, pictures):
    stage(
        "--predict",
        pictures / "MemCat_images",
        "--output-path",
        deployed,
        "--device",
        "cpu",
        "--batch-size",
        "3",
    )
    found = predictions_in(deployed)
    root = pictures / "MemCat_images" / "MemCat"
    found["image_id"] = [os.path.relpath(path, root).replace(os.sep, "/") for path in found["path"]]
    expected = read_table(trained / "mlp_predictions.csv", "mlp_predictions")
    both = found.merge(expected, on="image_id", validate="one_to_one")
    assert len(both) == len(expected) == 24
    np.testing.assert_allclose(both["memorability_x"], both["prediction"], atol=2e-6)
    np.testing.assert_allclose(both["percentile_x"], both["percentile_y"], atol=1e-6)
    assert found["path"].is_monotonic_increasing  # in the order given; of a folder, by name
    assert found.sort_values("rank")["memorability"].is_monotonic_decreasing
    assert sorted(found["rank"]) == list(range(1, 25))
    assert set(found["in_training"].astype(str)) == {"True", "False"}
    trained_on = both["split"].isin(["train", "val"])
    assert (both["in_training"].astype(str) == trained_on.astype(str)).all()
    assert (found["caveat"] == "random weights: test").all()


def test_files_folders_patterns_tables_and_standard_input_name_the_same_pictures(
    photos, tmp_path, monkeypatch
):
    everything, skipped = gather_paths([str(photos)])
    assert len(everything) == 6
    assert skipped == []
    assert gather_paths([str(photos / "**" / "*.*")])[0] == everything
    assert gather_paths([*everything, str(photos)])[0] == everything
    table = photos / "list.csv"
    names = [os.path.relpath(path, photos) for path in everything] + ["gone.jpg"]
    pd.DataFrame({"path": names, "other": 1}).to_csv(table, index=False)
    assert gather_paths([str(table)]) == (everything, [("gone.jpg", "the file does not exist")])
    for separator in ("\n", "\0"):
        text = separator.join([*everything, ""]).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert gather_paths(["-"])[0] == everything


def test_names_that_are_not_text_are_left_out_by_name(photos):
    odd = os.fsencode(photos) + b"/caf\xe9.jpg"
    try:
        with open(odd, "wb") as stream:
            make_picture(1).save(stream, "JPEG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    paths, skipped = gather_paths([str(photos)])
    assert len(paths) == 6
    assert [reason for _, reason in skipped] == ["its name is not UTF-8"]
    assert skipped[0][0].endswith("caf\\udce9.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("thing,score\na.jpg,1\n", "expected a column 'path' with one picture per row, found: thing, score"),
        ("path,score\n", "the column 'path' names no picture"),
        ("path\nnothing.jpg\n", r"There is no picture to score \(nothing.jpg: the file does not exist\)"),
    ],
)
def test_tables_without_pictures_are_refused(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        gather_paths([str(tmp_path / "list.csv")])


def test_unreadable_files_are_listed_and_do_not_stop_the_rest(deployed, photos):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:600])
    (photos / "empty.png").write_bytes(b"")
    (photos / "film.mp4").write_bytes(b"\0\0\0 ftypisom" + bytes(100))
    done = run_script_process(
        "mlp_predict.py",
        "--predict",
        photos,
        photos / "film.mp4",
        "--output-path",
        deployed,
        "--device",
        "cpu",
    )
    assert done.returncode == 0, done.stderr
    assert "Scored 6 of 9 pictures" in done.stderr
    assert "schöne Bären 日本.jpg" in done.stderr
    skipped = read_table(deployed / "skipped_images.csv", "skipped_images").set_index("image_id")["reason"]
    assert skipped[str(photos / "empty.png")] == "the file is empty"
    assert skipped[str(photos / "film.mp4")] == "not a picture, or of an unknown format"
    assert "cannot be read" in skipped[str(photos / "broken.jpg")]
    assert len(predictions_in(deployed)) == 6
    with pytest.raises(UserError, match=r"broken\.jpg: cannot be read .*--on-error skip"):
        stage("--predict", photos, "--output-path", deployed, "--device", "cpu", "--on-error", "fail")


def test_what_cannot_be_scored_ends_with_one_message(deployed, tmp_path, photos):
    (tmp_path / "nothing here").mkdir()
    (photos / "film.mp4").write_bytes(b"\0\0\0 ftypisom" + bytes(100))
    done = run_script_process("mlp_predict.py", "--predict", tmp_path / "gone", "--output-path", deployed)
    assert_user_error(done, f"{tmp_path / 'gone'} does not exist")
    for path, message in (
        (tmp_path / "nothing here", "There is no picture in .*nothing here"),
        (photos / "film.mp4", r"none of the 1 images could be read \(.*film\.mp4: not a picture"),
    ):
        with pytest.raises(UserError, match=message):
            stage("--predict", path, "--output-path", deployed, "--device", "cpu")
    assert not (deployed / "predictions.csv").exists()


def test_scoring_again_is_up_to_date_until_a_picture_changes(deployed, photos, caplog):
    arguments = ["--predict", photos, "--output-path", deployed, "--device", "cpu"]
    stage(*arguments)
    first = (deployed / "predictions.csv").read_bytes()
    caplog.set_level("INFO", logger="memorability")
    stage(*arguments)
    assert "up to date" in caplog.text
    assert (deployed / "predictions.csv").read_bytes() == first
    make_picture(999).save(other := io.BytesIO(), "BMP")
    edit_in_place(photos / "deep" / "d.bmp", other.getvalue())
    stage(*arguments)
    assert (deployed / "predictions.csv").read_bytes() != first


def test_another_encoder_is_refused_by_name(deployed, tmp_path):
    (deployed / f"{STEM}.pth").unlink()
    with pytest.raises(UserError, match=rf"is the head of the encoder {STEM}\.pth, which is not in"):
        load_predictor(deployed)
    save_autoencoder(deployed / f"{STEM}.pth", build_autoencoder("vgg11", seed=9), image_size=SIZE)
    with pytest.raises(
        UserError, match=rf"was trained on the encoder {STEM} \(SHA-256 .*but the encoder at hand is {STEM}"
    ):
        load_predictor(deployed)


def test_missing_and_ambiguous_heads_name_the_choices(deployed):
    os.link(deployed / f"mlp_{STEM}.pth", deployed / "mlp_other.pth")
    with pytest.raises(UserError, match=rf"for several models in .*: {STEM}\.pth, other\.pth\. Choose"):
        load_predictor(deployed)
    with pytest.raises(UserError, match=r"There is no MLP head mlp_third\.pth"):
        load_predictor(deployed, "third.pth")
    assert load_predictor(deployed, f"{STEM}.pth", "cpu").image_size == SIZE


def test_the_image_size_is_the_heads_and_limit_takes_evenly_spaced_pictures(deployed, photos):
    arguments = ["--predict", photos, "--output-path", deployed, "--device", "cpu"]
    with pytest.raises(
        UserError, match=rf"--image-size 96 was asked for, but mlp_{STEM}\.pth is of images of 64 px"
    ):
        stage(*arguments, "--image-size", "96")
    stage(*arguments, "--image-size", "64", "--limit", "2")
    everything = gather_paths([str(photos)])[0]
    assert sorted(predictions_in(deployed)["path"]) == [everything[0], everything[3]]


def test_the_python_call_gives_the_same_table(deployed, photos):
    predictor = load_predictor(deployed, device="cpu")
    table = predictor.score([photos])
    stage("--predict", photos, "--output-path", deployed, "--device", "cpu")
    written = predictions_in(deployed)
    assert table["path"].tolist() == written["path"].tolist()
    np.testing.assert_allclose(table["memorability"], written["memorability"], rtol=1e-8)
    assert predictor.skipped == []
    assert predictor.caveat == "random weights: test"
    (photos / "empty.png").write_bytes(b"")
    assert len(predictor.score(photos)) == 6
    assert predictor.skipped == [(str(photos / "empty.png"), "the file is empty")]


class _Mean(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(1, 2, 3))


def test_ten_thousand_files_of_which_three_are_broken(tmp_path):
    one = tmp_path / "one.png"
    Image.new("RGB", (8, 8), (51, 51, 51)).save(one)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(9997):
        os.link(one, folder / f"{number:05d}.png")
    for number in range(3):
        (folder / f"broken {number}.jpg").write_bytes(b"no picture")
    predictor = Predictor(_Mean(), 8, torch.device("cpu"), np.linspace(0, 1, 101), {}, ("a", "b"))
    table = predictor.score(folder, batch_size=64)
    assert len(table) == 9997
    assert sorted(name[-12:] for name, _ in predictor.skipped) == [
        f"broken {number}.jpg" for number in range(3)
    ]
    np.testing.assert_allclose(table["memorability"], 0.2, atol=1e-6)
    assert (table["rank"] == 1).all()


def test_contact_sheet_and_explanations(deployed, photos):
    stage("--predict", photos, "--output-path", deployed, "--device", "cpu", "--contact-sheet")
    with Image.open(deployed / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 6 * 150
    pair = [photos / "a.jpg", photos / "with space.png"]
    flags = ("--output-path", deployed, "--device", "cpu")
    with pytest.raises(UserError, match=r"holds the scores of 4 other pictures, .*--output FILE"):
        stage("--predict", *pair, *flags)
    stage("--predict", *pair, *flags, "--output", deployed / "pair.csv", "--explain", "--explain-steps", "3")
    assert read_table(deployed / "pair.csv", "predictions")["path"].tolist() == [str(path) for path in pair]
    assert len(predictions_in(deployed)) == 6
    overlays = sorted((deployed / "explanations").glob("*.png"))
    assert len(overlays) == 2
    with pytest.raises(UserError, match=r"--explain shows scored pictures: name them with --predict PATH"):
        stage("--explain", "--output-path", deployed)


def test_a_contact_sheet_of_many_pictures_has_pages_and_says_what_it_leaves_out(tmp_path):
    from utils.prediction.contact_sheet import contact_sheet_paths, write_contact_sheet

    one = tmp_path / "one.png"
    Image.new("RGB", (8, 8), "teal").save(one)
    table = pd.DataFrame(
        {"path": str(one), "memorability": 0.5, "percentile": 50.0, "rank": np.arange(1, 231)}
    )
    pages = write_contact_sheet(table, tmp_path)
    assert [page.name for page in pages] == [f"contact_sheet_0{number}.png" for number in (1, 2, 3)]
    assert len(contact_sheet_paths(tmp_path, 100_000)) == 10
    with Image.open(pages[0]) as full, Image.open(pages[2]) as rest:
        assert rest.size[1] < full.size[1]
    for count, expected in (
        (130, ["contact_sheet_01.png", "contact_sheet_02.png"]),
        (9, ["contact_sheet.png"]),
    ):
        write_contact_sheet(table[:count], tmp_path)
        assert sorted(path.name for path in tmp_path.glob("contact_sheet*")) == expected


def test_a_contact_sheet_of_too_many_shows_both_ends_with_their_numbers(tmp_path, monkeypatch):
    from utils.prediction import contact_sheet

    written = []
    plain = ImageDraw.ImageDraw.text

    def note(draw, place, text, *rest, **options):
        written.append(text)
        return plain(draw, place, text, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    monkeypatch.setattr(contact_sheet, "SHEET_PICTURES_PER_PAGE", 2)
    monkeypatch.setattr(contact_sheet, "SHEET_MOST_PAGES", 2)
    names = [str(tmp_path / f"{number}.png") for number in range(1, 10)]
    table = pd.DataFrame(
        {"path": names, "memorability": np.linspace(0.9, 0.1, 9), "percentile": np.arange(90, 0, -10.0)}
    )
    contact_sheet.write_contact_sheet(table.assign(rank=np.arange(1, 10)), tmp_path)
    assert written[0] == "The 2 most and the 2 least memorable of 9 pictures (page 1 of 2)"
    shown = [text for text in written if text.endswith("0)")]
    assert shown == ["1.  0.900  (p90)", "2.  0.800  (p80)", "8.  0.200  (p20)", "9.  0.100  (p10)"]


# ---------------------------------------------------------------------- the numbers


def test_percentiles_equal_scipys_mean_rank():
    training = np.array([0.2, 0.4, 0.4, 0.9])
    predicted = np.array([0.1, 0.2, 0.3, 0.4, 1.0])
    expected = [percentileofscore(training, value, kind="mean") for value in predicted]
    np.testing.assert_allclose(training_percentile(predicted, training), expected)
    assert expected == [0.0, 12.5, 25.0, 50.0, 100.0]


def test_ranks_share_ties_and_the_order_is_the_users():
    table = rank_scores({"b": 0.5, "a": 0.5, "c": 0.9}, ["b", "lost", "c", "a"], np.array([0.5, 0.7]))
    assert table["path"].tolist() == ["b", "c", "a"]
    assert table["rank"].tolist() == [2, 1, 2]
    assert table["percentile"].tolist() == [25.0, 100.0, 25.0]
    assert "in_training" not in table


def test_curves_equal_scikit_learns():
    rng = np.random.default_rng(0)
    above = rng.random(300) < 0.4
    predicted = np.round(above + rng.normal(size=300), 1)  # with ties
    table = curve_table(above, predicted, 50, 0)
    false_rate, true_rate, _ = roc_curve(above, predicted, drop_intermediate=False)
    roc = table[table["curve"] == "roc"]
    inside = roc[(roc["x"] > 0) & (roc["x"] < 1)]
    np.testing.assert_allclose(inside["y"], np.interp(inside["x"], false_rate, true_rate), atol=1e-12)
    precision, recall, _ = precision_recall_curve(above, predicted)
    pr = table[table["curve"] == "pr"]
    for x, y in zip(pr["x"][1:], pr["y"][1:], strict=True):
        # scikit-learn lists falling recall: the last point that reaches x is the highest threshold that does.
        assert y == pytest.approx(precision[:-1][recall[:-1] >= x - 1e-12][-1])
    assert (table["ci_low"] <= table["y"] + 1e-9).mean() > 0.95


def test_calibration_groups_are_deciles_of_the_prediction():
    observed = np.arange(100) / 100
    table = calibration_table(observed, observed**2, 100, 0)
    assert table["n"].tolist() == [10] * 10
    np.testing.assert_allclose(table["observed_mean"], np.arange(10) / 10 + 0.045)
    assert ((table["ci_low"] < table["observed_mean"]) & (table["observed_mean"] < table["ci_high"])).all()
    assert len(calibration_table(observed[:12], observed[:12], 10, 0)) == 4


@pytest.mark.parametrize(
    ("difference", "interval", "words"),
    [
        (-0.2, (-0.3, -0.1), "Ridge regression on the same latents BEATS the MLP"),
        (0.2, (0.1, 0.3), "The MLP beats ridge regression"),
        (-0.01, (-0.1, 0.1), r"cannot be told apart \(ridge is ahead\)"),
    ],
)
def test_the_verdict_says_who_won(difference, interval, words):
    rows = [
        ("mlp", 0.3, 0.2, 0.4),
        ("ridge", 0.3 - difference, 0.2, 0.4),
        ("mlp - ridge", difference, *interval),
    ]
    metrics = pd.DataFrame(rows, columns=["predictor", "value", "ci_low", "ci_high"]).assign(
        metric="spearman"
    )
    assert re.search(words, judge.verdict(metrics))
    assert "test rho 0.300" in mlp_stage.summary(metrics)


def test_the_three_together_are_not_fooled_by_the_ridges_fit_of_its_own_training_rows():
    """Noise latents and one good measure: an in-sample ridge would take all the weight, left-out ones none."""
    rng = np.random.default_rng(0)
    n = 300
    latents = rng.normal(size=(n, 400)).astype(np.float32)
    error = rng.normal(size=n)
    scores = 0.6 + 0.05 * error + 0.05 * rng.normal(size=n)
    split = Split(0, 0, *np.split(np.arange(n), [180, 210]))
    measures = pd.DataFrame({predictors.ERROR: error, predictors.DISTINCTIVENESS: rng.normal(size=n)})
    found = predictors.predict_with_all(latents, scores, split, build_mlp(400).eval(), measures)
    test = split.test
    alone = spearmanr(found.values[predictors.ERROR][test], scores[test]).statistic
    together = spearmanr(found.values[predictors.TOGETHER][test], scores[test]).statistic
    assert alone > 0.5
    assert together > alone - 0.1


def test_scores_in_bf16_are_close_marked_and_not_taken_for_float32s(deployed, photos, caplog):
    arguments = ["--predict", photos, "--output-path", deployed, "--device", "cpu"]
    stage(*arguments)
    plain = predictions_in(deployed).set_index("path")
    stage(*arguments, "--precision", "bf16")
    reduced = predictions_in(deployed).set_index("path").loc[plain.index]
    assert (reduced["caveat"] == "networks computed in bf16; random weights: test").all()
    assert not reduced["memorability"].equals(plain["memorability"])
    np.testing.assert_allclose(reduced["memorability"], plain["memorability"], atol=0.05)
    assert "networks computed in bf16" in load_predictor(deployed, device="cpu", precision="bf16").caveat
    with pytest.raises(UserError, match="name them with --predict"):
        stage("--train", "--output-path", deployed, "--precision", "bf16")
