"""model_interpretation_IG.py as a user runs it, on a miniature MemCat and a small network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_user_error, run_script_process
from PIL import Image

import model_interpretation_IG as script
from models.autoencoder import build_autoencoder
from models.checkpoints import checkpoint_sha256, mlp_file, save_autoencoder, save_mlp
from models.mlp import build_mlp
from models.score_network import ScoreNetwork
from utils.attribution import stage as attribution_stage
from utils.attribution.checks import map_agreement
from utils.attribution.gradients import AttributionSettings
from utils.core.errors import UserError
from utils.core.tables import models_with, read_table
from utils.data.dataset import find_image_root
from utils.data.image_lists import named_images, read_image_ids
from utils.data.images import load_pixels
from utils.scenes.cache import cache_path, write_scene_cache
from utils.scenes.networks import scene_row

MODEL = "mem_vgg_autoencoder"
SIZE = 64
QUICK = (
    "--image-size",
    SIZE,
    "--steps",
    2,
    "--max-doublings",
    0,
    "--top-k",
    1,
    "--workers",
    0,
    "--device",
    "cpu",
)


def make_models(
    folder: Path, stem: str = MODEL, seed: int = 0, encoder_sha256: str | None = None
) -> ScoreNetwork:
    """Write a checkpoint and its head; return them as one network."""
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder = build_autoencoder("vgg11", seed=seed)
    path = folder / f"{stem}.pth"
    save_autoencoder(path, autoencoder, image_size=SIZE, caveats=["random weights: autoencoder"])
    head = build_mlp(512 * (SIZE // 32) ** 2, (8,), seed=seed)
    head.set_standardisation(torch.zeros(head.n_inputs), torch.ones(head.n_inputs), 0.7, 0.1)
    encoder = {"stem": stem, "sha256": encoder_sha256 or checkpoint_sha256(path)}
    details = {"architecture": head.architecture(), "encoder": encoder, "image_size": SIZE, "caveats": []}
    save_mlp(mlp_file(folder, stem), head.state_dict(), **details)
    return ScoreNetwork(autoencoder.encoder, head).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture
def output(models, tmp_path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "output"))


def run(data: Path, output: Path, *flags: object) -> None:
    arguments = ["--data-dir", data, "--output-path", output, *QUICK, *flags]
    script.main(script.get_parser().parse_args(list(map(str, arguments))))


def read(output: Path, model: str = MODEL) -> tuple[pd.DataFrame, np.ndarray]:
    return read_table(output / f"ig_{model}.csv", "ig"), np.load(output / f"ig_{model}.npy")


@pytest.fixture(scope="module")
def finished(models, mini_memcat, tmp_path_factory) -> Path:
    """An output folder after one run over all images; read-only."""
    folder = Path(shutil.copytree(models, tmp_path_factory.mktemp("finished") / "output"))
    run(mini_memcat, folder, "--split", "all", "--top-k", 2)
    return folder


# ------------------------------------------------------------------------------------- what is written


def test_table_and_maps_belong_together(finished, mini_memcat):
    frame, maps = read(finished)
    assert maps.shape == (12, SIZE, SIZE)
    assert maps.dtype == np.float16
    assert frame["image_id"].is_monotonic_increasing
    np.testing.assert_allclose(maps.mean(axis=(1, 2), dtype=np.float64), frame["attribution_sum"], atol=1e-5)
    gap = frame["prediction"] - frame["baseline_prediction"]
    np.testing.assert_allclose(frame["attribution_sum"] - gap, frame["convergence_delta"], atol=1e-9)
    assert frame["concentration"].between(0.2, 0.9).all()
    assert frame[["share_inside_objects", "area_foreground"]].isna().all(axis=None)
    text = (finished / f"ig_{MODEL}.csv").read_text()
    assert "nan" not in text.lower()
    assert text.count("random weights: autoencoder") == 12


def test_released_maps_stand_beside_ours_and_have_no_sign(finished, mini_memcat, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "output"))
    run(mini_memcat, folder, "--split", "all", "--recipe", "released")
    ours, signed = read(folder)
    theirs, absolute = read(folder, f"{MODEL}_released-maps")
    assert signed.tobytes() == read(finished)[1].tobytes()
    assert absolute.min() >= 0
    assert theirs["positive_share"].eq(1).all()
    # Adding absolute values over colours first leaves at least what adding signed ones first does.
    assert (absolute >= np.abs(signed) * (1 - 2e-3)).all()
    for name in ("prediction", "baseline_prediction"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-6)
    np.testing.assert_allclose(theirs["attribution_sum"], ours["attribution_sum"], atol=1e-6)


def test_predictions_are_those_of_encoder_and_head(finished, mini_memcat, tmp_path):
    network = make_models(tmp_path)
    frame, _ = read(finished)
    root = mini_memcat / "MemCat_images" / "MemCat"
    pixels = torch.from_numpy(np.stack([load_pixels(root / name, SIZE) for name in frame["image_id"]]))
    with torch.no_grad():
        np.testing.assert_allclose(frame["prediction"], network(pixels).numpy(), atol=1e-5)
        np.testing.assert_allclose(frame["baseline_prediction"], network(pixels[:1] * 0).item(), atol=1e-5)


def test_pictures_and_the_record_of_the_run(finished):
    pictures = sorted(path.name for path in (finished / "ig").iterdir())
    assert len([name for name in pictures if name.startswith(f"{MODEL}_picture_")]) == 4
    galleries = [f"{MODEL}_{kind}.png" for kind in ("least_memorable", "mean_map", "most_memorable")]
    assert [name for name in pictures if "_picture_" not in name] == galleries
    frame, _ = read(finished)
    best = frame.loc[frame["memorability"].idxmax(), "image_id"]
    assert f"{MODEL}_picture_{best.replace('/', '_').removesuffix('.jpg')}.png" in pictures
    record = json.loads((finished / "run_model_interpretation_IG.json").read_text())
    assert record["status"] == "complete"
    assert record["counts"]["images"] == 12
    assert record["random_weights"] is True
    assert {f"ig_{MODEL}.npy", f"ig_{MODEL}.csv", f"ig/{MODEL}_mean_map.png"} <= set(record["outputs"])


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(output, mini_memcat, finished, monkeypatch):
    real = attribution_stage.integrated_gradients
    calls = []

    def killed_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(attribution_stage, "integrated_gradients", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(mini_memcat, output, "--split", "all", "--top-k", 2)
    assert not (output / f"ig_{MODEL}.csv").exists()
    run(mini_memcat, output, "--split", "all", "--top-k", 2)
    assert len(calls) == 3 + 1, "the first shard of eight images was kept, the second of four done again"
    for name in (f"ig_{MODEL}.csv", f"ig_{MODEL}.npy", f"ig/{MODEL}_mean_map.png"):
        assert (output / name).read_bytes() == (finished / name).read_bytes(), name


def test_another_run_computes_nothing_anew_and_drops_stale_pictures(
    finished, mini_memcat, tmp_path, monkeypatch
):
    output = Path(shutil.copytree(finished, tmp_path / "output"))
    monkeypatch.setattr(attribution_stage, "integrated_gradients", lambda *_: pytest.fail("computed anew"))
    before = (output / f"ig_{MODEL}.csv").read_bytes()
    run(mini_memcat, output, "--split", "all", "--top-k", 1)
    assert (output / f"ig_{MODEL}.csv").read_bytes() == before
    assert len(list((output / "ig").glob("*_picture_*.png"))) == 2


def test_test_split_by_default_and_limit_counts_within_it(output, mini_memcat):
    run(mini_memcat, output)
    test_images, _ = read(output)
    assert set(test_images["split"]) == {"test"}
    assert 2 < len(test_images) < 8
    run(mini_memcat, output, "--limit", 2)
    frame, maps = read(output)
    assert len(frame) == len(maps) == 2
    assert set(frame["image_id"]) <= set(test_images["image_id"])


def test_named_images_of_any_split(output, mini_memcat, tmp_path):
    listed = tmp_path / "wanted.txt"
    listed.write_text("food/soup/000000000012.jpg\n\nanimal/bear/000000000001.jpg\n")
    run(mini_memcat, output, "--image-ids", listed, "animal/cat/000000000004.jpg", "--baseline", "uniform")
    frame, _ = read(output)
    numbers = [name.split("/")[-1] for name in frame["image_id"]]
    assert numbers == ["000000000001.jpg", "000000000004.jpg", "000000000012.jpg"]


def test_checks_are_written_and_keep_other_models_rows(output, mini_memcat):
    run(mini_memcat, output, "--limit", 2, "--check", "--check-images", 1)
    make_models(output, "other", seed=1)
    run(mini_memcat, output, "--limit", 1, "--check", "--model-names", "other.pth")
    checks = read_table(output / "ig_checks.csv", "ig_checks")
    assert set(checks["model"]) == {MODEL, "other"}
    levels = checks.loc[(checks["model"] == MODEL) & (checks["check"] == "randomisation"), "level"]
    assert levels.tolist() == ["0 none", "1 head", "2 conv5", "3 conv4", "4 conv3", "5 conv2", "6 conv1"]
    for name in (f"ig_checks_{MODEL}.png", "ig_checks_other.pdf", f"ig_cascade_{MODEL}.png"):
        assert (output / name).exists()
    verdicts = read_table(output / "ig_verdicts.csv", "ig_verdicts")
    expected = {"randomisation", "randomisation_absolute", "deletion", "insertion"}
    assert set(zip(verdicts["model"], verdicts["check"], strict=True)) == {
        (model, check) for model in (MODEL, "other") for check in expected
    }
    assert (verdicts["verdict"] == "unclear").all(), "one image has no interval"
    assert models_with(output, "ig") == [MODEL, "other"], "ig_checks.csv is no model's table"


def test_several_baselines_are_compared_image_by_image(output, mini_memcat, caplog):
    caplog.set_level("INFO")
    flags = ("--limit", 2, "--baseline", "mean", "black", "expected")
    run(mini_memcat, output, *flags)
    table = read_table(output / f"ig_baselines_{MODEL}.csv", "ig_baselines")
    frame, maps = read(output)
    assert len(table) == 2 * 3
    assert models_with(output, "ig") == [MODEL]
    further = np.load(output / f"ig_{MODEL}@black.npy")
    row = table[(table["image_id"] == frame["image_id"][1]) & (table["other_baseline"] == "black")].iloc[0]
    assert row["baseline"] == "mean"
    pair = [np.asarray(values[1], dtype=np.float32) for values in (maps, further)]
    assert (row["rho"], row["rho_absolute"]) == pytest.approx(map_agreement(*pair), abs=1e-6)
    assert "Baselines mean and black: the maps" in caplog.text
    for name in (f"ig_{MODEL}@expected.npy", f"ig_baselines_{MODEL}.png"):
        assert (output / name).exists()
    before = (output / f"ig_baselines_{MODEL}.csv").read_bytes()
    caplog.clear()
    run(mini_memcat, output, *flags)
    assert f"ig_{MODEL}@expected: up to date" in caplog.text
    assert (output / f"ig_baselines_{MODEL}.csv").read_bytes() == before


def test_expected_gradients_average_over_training_images(output, mini_memcat):
    run(mini_memcat, output, "--limit", 1, "--baseline", "expected", "--steps", 5)
    frame, _ = read(output)
    splits = read_table(output / "splits.csv", "splits")
    network = make_models(output / "again")
    root = find_image_root(mini_memcat, splits["image_id"].tolist())
    train = splits.loc[splits["split"] == "train", "image_id"]
    images = torch.from_numpy(np.stack([load_pixels(root / name, SIZE) for name in train]))
    with torch.no_grad():
        mean = float(network(images).mean())
    assert frame["baseline_prediction"][0] == pytest.approx(mean, abs=1e-5)


# ------------------------------------------------------------------------------------- objects and foreground


def write_cache(output: Path, image_ids: list[str], weights: str = "random") -> None:
    """Objects and segments: all of the first picture, the left half of the second, nothing in the third."""
    found = [
        {"box": [[0, 0, 1, 1], [0, 0, 0.5, 1]], "label": [0, 0], "score": [0.9, 0.8]},
        {"box": [[0, 0, 0.5, 1], [0, 0, 1, 1]], "label": [0, 0], "score": [0.9, 0.3]},
        {"box": [], "label": [], "score": []},
    ]
    masks = [np.zeros((70, 70), np.uint8) for _ in found]
    masks[0][:35], masks[1][:] = 3, 5
    picture = np.zeros((70, 70, 3), np.uint8)
    rows = [
        {"image_id": name, "sha256": "", **scene_row(picture, *parts)}
        for name, *parts in zip(image_ids, found, masks, strict=True)
    ]
    header = {
        "settings": {"detector": "d", "segmenter": "s", "weights": weights, "seed": 0},
        "digests": [],
        "object_names": ["cat"],
        "segment_names": [str(number) for number in range(21)],
    }
    write_scene_cache(cache_path(output, "d", "s"), header, rows)


def test_regions_fill_in_later_without_computing_maps_again(
    finished, mini_memcat, tmp_path, monkeypatch, capfd
):
    output = Path(shutil.copytree(finished, tmp_path / "output"))
    before, maps = read(output)
    write_cache(output, before["image_id"].tolist()[:3])
    monkeypatch.setattr(attribution_stage, "integrated_gradients", lambda *_: pytest.fail("computed anew"))
    run(mini_memcat, output, "--split", "all", "--detector", "d", "--segmenter", "s")
    frame, _ = read(output)
    pd.testing.assert_frame_equal(frame[before.columns[:14]], before[before.columns[:14]])
    mass = np.abs(maps[:3].astype(np.float64))
    left = mass[1, :, : SIZE // 2].sum() / mass[1].sum()
    expected = {
        "area_objects": [1, 0.5, 0],
        "share_inside_objects": [1, left, np.nan],
        "area_largest_object": [1, 0.5, 0],
        "share_inside_largest_object": [1, left, np.nan],
        "area_foreground": [0.5, 1, 0],
        "share_inside_foreground": [mass[0, : SIZE // 2].sum() / mass[0].sum(), 1, np.nan],
    }
    # Pictures are 90 x 70: the crop leaves out 10 px on either side, and half of 90 is still the crop's middle.
    for name, values in expected.items():
        np.testing.assert_allclose(frame[name][:3], values, atol=1e-6, err_msg=name)
    assert frame["area_objects"][3:].isna().all()
    table = output / f"ig_{MODEL}.csv"
    assert "detector and segmenter" in table.read_text()
    write_cache(output, before["image_id"].tolist()[:3], weights="pretrained")
    run(mini_memcat, output, "--split", "all", "--detector", "d", "--segmenter", "s")
    assert "random weights: autoencoder" in table.read_text()
    assert "detector and segmenter" not in table.read_text()  # those networks are not random any more


# ------------------------------------------------------------------------------------- bad input


def test_a_head_trained_on_another_encoder_is_refused_by_both_names(output, mini_memcat):
    make_models(output, "other", seed=1)
    shutil.copy(mlp_file(output, "other"), mlp_file(output, MODEL))
    with pytest.raises(UserError) as error:
        run(mini_memcat, output, "--model-names", MODEL)
    assert "was trained on the encoder other" in str(error.value)
    assert f"the encoder at hand is {MODEL}" in str(error.value)
    assert "python mlp_predict.py --train" in str(error.value)


def test_several_models_are_refused_by_name(output, mini_memcat):
    make_models(output, "other", seed=1)
    with pytest.raises(
        UserError, match=rf"One model .*found {MODEL}.pth, other.pth in --model-names. Name one of them."
    ):
        run(mini_memcat, output, "--model-names", MODEL, "other")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--display"], ["display"]),
        (["--display", "--check"], ["save", "display"]),
        (["--display", "--detect"], ["save", "display"]),
        (["--check"], ["save"]),
        ([], ["save"]),
    ],
)
def test_no_flag_is_ignored_beside_display(tmp_path, monkeypatch, flags, expected):
    done = []
    monkeypatch.setattr(attribution_stage, "save", lambda run, args: done.append("save"))
    monkeypatch.setattr(attribution_stage, "display", lambda args: done.append("display"))
    run(tmp_path, tmp_path / "output", *flags)
    assert done == expected


def test_a_missing_head_names_the_stage_and_nothing_is_left(output, mini_memcat):
    mlp_file(output, MODEL).unlink()
    done = run_script_process(
        "model_interpretation_IG.py", "--data-dir", mini_memcat, "--output-path", output, *QUICK
    )
    assert_user_error(done, f"mlp_{MODEL}.pth is missing", "python mlp_predict.py --train")
    assert not list(output.glob("ig*"))


def test_another_image_size_is_refused(output, mini_memcat):
    with pytest.raises(
        UserError, match=r"trained on images of 64 px, but --image-size is 96. Use --image-size 64"
    ):
        run(mini_memcat, output, "--image-size", 96)


def test_image_lists_that_do_not_fit_are_refused(tmp_path):
    table = pd.DataFrame({"image_id": ["animal/cat/1.jpg", "animal/cat/2.jpg"]})
    cases = {
        str(tmp_path / "gone.txt"): "The image list .*gone.txt does not exist. Check the path",
        "animal/cat/11.jpg": "1 of 1 images of --image-ids are not in MemCat: animal/cat/11.jpg. "
        "Did you mean animal/cat/1.jpg?",
        "zzz": "are not in MemCat: zzz. They look like animal/cat/1.jpg.",
    }
    (tmp_path / "empty.txt").write_text("\n")
    cases[str(tmp_path / "empty.txt")] = "empty.txt names no image. Expected one image id per line."
    (tmp_path / "other.csv").write_text("path,score\na,1\n")
    cases[str(tmp_path / "other.csv")] = "other.csv: expected a column image_id, found: path, score."
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg\n")
    cases[str(tmp_path / "latin.txt")] = "latin.txt is not UTF-8 text"
    for given, message in cases.items():
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            named_images(table, [given], "MemCat")
    (tmp_path / "ids.csv").write_text("image_id,x\nb,1\na,2\n")
    assert read_image_ids([str(tmp_path / "ids.csv"), "c", "a"]) == ["b", "a", "c"]


def test_display_without_pictures_or_without_a_display(finished, tmp_path):
    flags = ("--display", "--output-path")
    done = run_script_process("model_interpretation_IG.py", *flags, tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert_user_error(done, "There are no pictures of attributions in", "model_interpretation_IG.py --save")
    done = run_script_process("model_interpretation_IG.py", *flags, finished, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0, done.stderr
    assert "There is no display here" in done.stderr
    assert str(finished / "ig" / f"{MODEL}_most_memorable.png") in done.stderr


def test_unreadable_and_black_pictures(output, mini_memcat, tmp_path):
    data = Path(shutil.copytree(mini_memcat, tmp_path / "data"))
    root = data / "MemCat_images" / "MemCat"
    black, broken = "animal/bear/000000000002.jpg", "food/cake/000000000007.jpg"
    Image.new("RGB", (90, 70)).save(root / black)
    (root / broken).write_bytes(b"not a picture")
    run(data, output, "--split", "all")
    frame, maps = read(output)
    assert len(frame) == len(maps) == 11
    row = frame.set_index("image_id").loc[black]
    assert row["attribution_sum"] == 0
    assert row[["positive_share", "concentration", "centre_distance"]].isna().all()
    assert frame.drop(index=frame.index[frame["image_id"] == black])["concentration"].notna().all()
    skipped = read_table(output / "skipped_images.csv", "skipped_images")
    assert skipped["image_id"].tolist() == [broken]
    with pytest.raises(UserError, match="000000000007.jpg: not a picture"):
        run(data, output, "--split", "all", "--on-error", "fail", "--overwrite")


def test_a_split_without_images_is_named(output, tmp_path, mini_memcat):
    data = Path(shutil.copytree(mini_memcat, tmp_path / "data"))
    table = next(data.rglob("*.csv"))
    pd.read_csv(table, index_col=0).assign(split="train").to_csv(table)
    with pytest.raises(
        UserError, match="No image of MemCat is in the val split. Choose another with --split, or all."
    ):
        run(data, output, "--split", "val")


def test_the_flags_defaults_are_the_settings_defaults():
    args = script.get_parser().parse_args([])
    assert attribution_stage.ig_settings(args) == AttributionSettings()


def test_attributions_in_bf16_are_refused_with_the_reason(output, mini_memcat):
    with pytest.raises(UserError, match="Attributions are computed in float32 alone: those in bf16 rank"):
        run(mini_memcat, output, "--precision", "bf16")
