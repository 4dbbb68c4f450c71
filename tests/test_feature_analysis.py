"""The feature stage as a user runs it, its comparisons, and its model of memorability."""

import json
import shutil
import urllib.error

import numpy as np
import pandas as pd
import pytest
from conftest import make_picture, run_script_process, write_memcat
from PIL import Image
from scipy import stats

import feature_analysis
from utils.core.cli import run_script
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.feature_names import RELEASED_FEATURES
from utils.core.tables import read_table, write_table
from utils.data.dataset import find_image_root
from utils.data.images import load_pixels
from utils.features import evaluation as feature_evaluation
from utils.features import figures as feature_figures
from utils.features import image as image_features
from utils.features import model as feature_model
from utils.features import stage as feature_stage

PIXEL_GROUPS = ("--features", "colour", "texture", "structure")
QUICKLY = ("--resamples", "50", "--repeats", "1", "--folds", "2", "--permutations", "19")
LIGHT = ("--weights", "random", "--detector", "light", "--segmenter", "light")


@pytest.fixture(scope="session")
def memcat24(tmp_path_factory):
    """Two dozen generated images in two categories."""
    return write_memcat(tmp_path_factory.mktemp("MemCat24"), per_subcategory=6)


def run(*arguments, expect=0):
    """Run the stage in this process and check its exit code."""
    arguments = [*map(str, arguments), "--workers", "0"]
    if expect == 0:
        run_script(feature_analysis.main, feature_analysis.get_parser, arguments)
        return
    with pytest.raises(SystemExit) as stopped:
        run_script(feature_analysis.main, feature_analysis.get_parser, arguments)
    assert stopped.value.code == expect


def run_on(data, output, *arguments, **options):
    run("--data-dir", data, "--output-path", output, *arguments, **options)


@pytest.fixture(scope="session")
def calculated(memcat24, tmp_path_factory):
    """An output folder with image_features.csv of the two dozen images. Read-only."""
    output = tmp_path_factory.mktemp("calculated")
    run_on(memcat24, output, "--calculate-features", "--region", "full", *PIXEL_GROUPS)
    return output


@pytest.fixture
def output(calculated, tmp_path):
    """A copy of the calculated output folder, to change."""
    return shutil.copytree(calculated, tmp_path / "output")


def table(folder, name, model=None):
    return read_table(folder / TABLES[name].file.format(model=model), name)


# ---- the stage, from end to end


def test_released_features_stand_beside_ours_and_leave_them_and_the_model_alone(memcat24, tmp_path):
    arguments = ("--features", "structure", "scene", *LIGHT, *QUICKLY)
    run_on(memcat24, tmp_path / "ours", *arguments)
    run_on(memcat24, tmp_path / "both", *arguments, "--recipe", "released")
    ours, both = (table(tmp_path / name, "image_features") for name in ("ours", "both"))
    theirs = [feature.name for feature in RELEASED_FEATURES]
    assert [name for name in both if name not in ours] == theirs
    assert both[list(ours)].equals(ours)
    correlations = table(tmp_path / "both", "feature_correlations")
    assert set(theirs) <= set(correlations["feature"])
    assert not set(theirs) & set(table(tmp_path / "both", "feature_importance")["feature"])
    models = [table(tmp_path / name, "feature_model") for name in ("ours", "both")]
    assert models[0].equals(models[1])


def test_whole_stage_with_light_networks_then_again(memcat24, tmp_path):
    """Both halves, in processes of their own; then again, and with another threshold, without a network."""
    arguments = (
        "--data-dir",
        memcat24,
        "--output-path",
        tmp_path,
        *LIGHT,
        *QUICKLY,
        "--limit",
        12,
        "--folds",
        3,
    )
    first = run_script_process("feature_analysis.py", *arguments)
    assert first.returncode == 0, first.stderr
    names = ("image_features", "feature_correlations", "feature_model", "feature_importance")
    frames = {name: table(tmp_path, name) for name in names}
    assert len(frames["image_features"]) == 12
    # these pictures have no groups
    every = [column.name for column in TABLES["image_features"].columns if column.name != "group"]
    every = [name for name in every if not name.startswith("released_") and name != "face_count"]
    assert list(frames["image_features"].columns) == [*every, "caveat"]
    for name, frame in frames.items():
        assert frame["caveat"].eq("random weights: detector and segmenter").all(), name
    assert "No objects were found at all" in first.stderr
    assert "object_area_mean 12" in first.stderr
    assert "python model_interpretation_IG.py --save adds the rest" in first.stderr
    for stem in ("feature_correlations", "feature_clusters", "feature_model"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
        assert (tmp_path / f"{stem}.pdf").exists()
    record = json.loads((tmp_path / "run_feature_analysis.json").read_text())
    assert record["counts"]["done"] == 12
    assert record["counts"]["undefined_values"] == frames["image_features"][every[4:]].isna().sum().sum()
    assert (
        "scene_cache_fasterrcnn_mobilenet_v3_large_320_fpn_lraspp_mobilenet_v3_large.sqlite"
        in record["outputs"]
    )

    before = {
        path.name: path.read_bytes()
        for path in tmp_path.iterdir()
        if path.suffix in {".csv", ".png", ".sqlite"}
    }
    again = run_script_process("feature_analysis.py", *arguments, "--min-score", 0.3)
    assert again.returncode == 0, again.stderr
    assert "Objects and segments of 12 images are up to date" in again.stderr
    assert "features_colour_texture_structure_composition: up to date" in again.stderr
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content, name


def test_values_are_those_of_the_module_and_joined_by_id(memcat24, calculated):
    frame = table(calculated, "image_features").set_index("image_id")
    scores = pd.read_csv(memcat24 / "MemCat_data" / "memcat_image_data.csv")
    ids = scores["category"] + "/" + scores["subcategory"] + "/" + scores["image_file"]
    root = find_image_root(memcat24, ids.tolist())
    for image_id, score in list(zip(ids, scores["memorability_w_fa_correction"], strict=True))[::5]:
        assert frame.loc[image_id, "memorability"] == pytest.approx(score)
        for name, value in image_features.file_features(root / image_id, PIXEL_GROUPS[1:]).items():
            np.testing.assert_allclose(frame.loc[image_id, name], value, rtol=1e-8, atol=1e-8, err_msg=name)


def test_worker_processes_change_nothing(memcat24, calculated, tmp_path):
    done = run_script_process(
        "feature_analysis.py",
        "--data-dir",
        memcat24,
        "--output-path",
        tmp_path,
        "--calculate-features",
        *PIXEL_GROUPS,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image_features.csv").read_bytes() == (calculated / "image_features.csv").read_bytes()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(memcat24, calculated, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_stage, "SHARD_SIZE", 16)
    real, seen = image_features.image_features, []

    def killed(*arguments):
        seen.append(1)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(image_features, "image_features", killed)
    run_on(memcat24, tmp_path, "--calculate-features", *PIXEL_GROUPS, expect=130)
    assert not (tmp_path / "image_features.csv").exists()
    run_on(memcat24, tmp_path, "--calculate-features", *PIXEL_GROUPS)
    assert len(seen) == 20 + 8  # the first 16 stood already
    assert (tmp_path / "image_features.csv").read_bytes() == (calculated / "image_features.csv").read_bytes()


def test_groups_can_be_chosen(memcat24, tmp_path):
    run_on(memcat24, tmp_path, "--calculate-features", "--features", "structure", "--limit", "4")
    frame = table(tmp_path, "image_features")
    assert list(frame.columns[4:]) == ["pixel_count", "edge_density", "sobel_entropy"]
    assert len(frame) == 4
    run_on(memcat24, tmp_path, "--calculate-features", "--features", "texture", "structure", "--limit", "4")
    assert "glcm_energy" in table(tmp_path, "image_features")


def test_one_colour_and_tiny_images_leave_empty_cells_and_are_counted(memcat24, tmp_path, capsys):
    data = shutil.copytree(memcat24, tmp_path / "data")
    files = sorted((data / "MemCat_images").rglob("*.jpg"))
    Image.new("RGB", (30, 20), (90, 90, 90)).save(files[0])
    Image.new("RGB", (1, 1), (200, 30, 30)).save(files[1])
    run_on(data, tmp_path / "output", "--calculate-features", *PIXEL_GROUPS)
    assert "glcm_correlation 2" in capsys.readouterr().err
    text = (tmp_path / "output" / "image_features.csv").read_text()
    assert "nan" not in text.lower()
    frame = table(tmp_path / "output", "image_features")
    names = frame.columns[4:]
    assert set(names[frame[names].iloc[0].isna()]) == {"hsv_hue_mean", "hsv_hue_std", "glcm_correlation"}
    assert set(names[frame[names].iloc[1].isna()]) == {name for name in names if "glcm" in name} | {
        "edge_density",
        "sobel_entropy",
    }
    assert frame[names].iloc[2:].notna().all(axis=None)


# ---- what a user can get wrong


def test_unreadable_image_is_left_out_or_fatal(memcat24, tmp_path, capsys):
    data = shutil.copytree(memcat24, tmp_path / "data")
    broken = sorted((data / "MemCat_images").rglob("*.jpg"))[3]
    broken.write_bytes(broken.read_bytes()[:200])
    run_on(data, tmp_path / "skip", "--calculate-features", *PIXEL_GROUPS)
    assert len(table(tmp_path / "skip", "image_features")) == 23
    assert table(tmp_path / "skip", "skipped_images")["image_id"].str.endswith(broken.name).tolist() == [True]
    capsys.readouterr()
    run_on(data, tmp_path / "fail", "--calculate-features", *PIXEL_GROUPS, "--on-error", "fail", expect=2)
    message = capsys.readouterr().err
    assert broken.name in message
    assert "Traceback" not in message
    assert not (tmp_path / "fail" / "image_features.csv").exists()


def test_evaluating_before_calculating_names_the_command(tmp_path, capsys):
    run("--evaluate-features", "--output-path", tmp_path, expect=2)
    assert (
        f"{tmp_path / 'image_features.csv'} is missing. It is written by: python feature_analysis.py --calculate-features"
        in capsys.readouterr().err
    )


def test_image_list_that_does_not_exist(memcat24, tmp_path, capsys):
    run_on(memcat24, tmp_path, "--scores-csv", tmp_path / "gone.csv", expect=2)
    assert (
        f"The score table {tmp_path / 'gone.csv'} does not exist. Check --scores-csv."
        in capsys.readouterr().err
    )


def test_missing_detector_weights_offline(memcat24, tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    run_on(memcat24, tmp_path / "output", "--features", "scene", expect=2)
    message = capsys.readouterr().err
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    assert (
        f"The pretrained weights fasterrcnn_resnet50_fpn_coco-258fb6c6.pth (160 MB) are not in {folder}"
        in message
    )
    assert (
        "--weights available leaves out what needs it, --weights random puts random weights in its place"
        in message
    )
    assert "Traceback" not in message
    assert not list((tmp_path / "output").glob("*.csv"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--min-score", "0.01"), "--min-score 0.01 is outside 0.05 to 1"),
        (("--folds", "1"), "--folds 1 leaves nothing to fit on; expected at least 2."),
        (
            ("--detector", "yolo", "--features", "scene"),
            "Unknown detector 'yolo'; choose one of: fasterrcnn_resnet50_fpn",
        ),
    ],
)
def test_wrong_flags(memcat24, tmp_path, capsys, flags, words):
    run_on(memcat24, tmp_path, *flags, expect=2)
    assert words in capsys.readouterr().err


def test_short_names_of_networks():
    args = feature_analysis.get_parser().parse_args(["--detector", "light"])
    assert args.detector == "fasterrcnn_mobilenet_v3_large_320_fpn"
    assert args.segmenter == "deeplabv3_resnet101"


# ---- correlations


def test_correlations_are_scipys_and_q_is_per_target(output, capsys):
    run("--evaluate-features", "--output-path", output, *QUICKLY)
    assert "ig_<model>.csv) here: features are compared with memorability alone" in capsys.readouterr().err
    frame, found = table(output, "image_features"), table(output, "feature_correlations")
    assert frame.columns[4] == "pixel_count", "known of every image, and held constant: no feature"
    assert found["feature"].tolist() == [*frame.columns[5:], "hsv_hue_mean_cos", "hsv_hue_mean_sin"]
    row = found.set_index("feature").loc["sobel_entropy"]
    rho, p = stats.spearmanr(frame["sobel_entropy"], frame["memorability"])
    assert (row["rho"], row["p_independent"]) == (pytest.approx(rho), pytest.approx(p))
    assert (row["cluster"], row["clusters"], row["region"]) == ("subcategory", 4, "full")
    assert row["p"] != pytest.approx(p), "p allows for images of one subcategory that are alike"
    assert row["ci_low"] <= row["rho"] <= row["ci_high"]
    assert (row["n"], row["group"], row["model"], row["target"]) == (24, "structure", "", "memorability")
    tested = found.dropna(subset=["p"])
    assert found.loc[found["p"].isna(), "feature"].tolist() == [
        "edge_density"
    ]  # smooth pictures have no edges
    for kind in ("", "_within_category"):
        q = stats.false_discovery_control(tested[f"p{kind}"])
        np.testing.assert_allclose(tested[f"q{kind}"], q, rtol=1e-6)
        assert (tested[f"ci_low{kind}"] <= tested[f"ci_high{kind}"]).all()


def test_q_is_taken_over_the_features_of_one_target_not_over_the_table():
    """One target that every feature follows, and one that none does: its q must not profit from the other's."""
    frame = planted(80)[["image_id", "category", "memorability", "lab_l_mean", "glcm_energy", "edge_density"]]
    rng = np.random.default_rng(3)
    frame["memorability"] = rng.normal(size=80)
    followed = frame[["lab_l_mean", "glcm_energy", "edge_density"]].sum(axis=1)
    other = pd.DataFrame(
        {"image_id": frame["image_id"], "followed": followed, "left_alone": rng.normal(size=80)}
    )
    found = feature_evaluation.feature_correlations(frame, {"net": other}, 20, 0)
    assert set(found["target"]) == {"memorability", "followed", "left_alone"}
    for (target, model), rows in found.groupby(["target", "model"]):
        np.testing.assert_allclose(
            rows["q"], stats.false_discovery_control(rows["p"]), err_msg=f"{target} {model}"
        )
    alone = found[found["target"] == "left_alone"]
    whole = stats.false_discovery_control(found["p"])[(found["target"] == "left_alone").to_numpy()]
    assert not np.allclose(alone["q"], whole), "the test could not tell"


def test_the_crop_has_columns_of_its_own_and_rows_that_are_told_apart(memcat24, tmp_path):
    run_on(memcat24, tmp_path, "--features", "colour", "texture", "--limit", 12, *QUICKLY)
    full, crop = (table(tmp_path, name) for name in ("image_features", "image_features_crop"))
    assert full["image_id"].tolist() == crop["image_id"].tolist()
    root = find_image_root(memcat24, full["image_id"].tolist())
    pixels = load_pixels(root / full["image_id"][5], 224)
    seen = image_features.image_features((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    assert crop["glcm_contrast"][5] == pytest.approx(seen["glcm_contrast"])
    assert crop["glcm_contrast"][5] != pytest.approx(full["glcm_contrast"][5], rel=0.05)
    found = table(tmp_path, "feature_correlations")
    for region, frame in (("full", full), ("crop", crop)):
        row = found[(found["region"] == region) & (found["feature"] == "glcm_contrast")].iloc[0]
        assert row["rho"] == pytest.approx(
            stats.spearmanr(frame["glcm_contrast"], frame["memorability"]).statistic
        )
    models, rests_on = (table(tmp_path, name) for name in ("feature_model", "feature_importance"))
    assert models[["region", "learner"]].to_numpy().tolist() == [
        [region, learner] for region in ("full", "crop") for learner in feature_model.LEARNERS
    ]
    assert set(rests_on["region"]) == {"full", "crop"}
    tested = models["p"].notna()
    np.testing.assert_allclose(
        models["q"][tested], stats.false_discovery_control(models["p"][tested]), rtol=1e-6
    )
    crop_alone = feature_model.feature_model(crop, {}, feature_model.ModelSettings(2, 1, 50, 0, 19)).models
    np.testing.assert_allclose(models["mae"][2:], crop_alone["mae"], rtol=1e-6)
    for stem in ("feature_correlations_crop", "feature_model", "feature_model_crop"):
        assert (tmp_path / f"{stem}.png").exists()


def test_a_crop_that_is_the_whole_picture_has_no_table(tmp_path):
    data = write_memcat(tmp_path / "data", per_subcategory=1, side=60)
    for path in data.rglob("*.jpg"):
        make_picture(1, 64, 64).save(path.with_suffix(".png"))
        path.write_bytes(path.with_suffix(".png").read_bytes())
    flags = ("--calculate-features", "--features", "colour", "--crop-size", 64)
    run_on(data, tmp_path / "out", *flags)
    assert not (tmp_path / "out" / "image_features_crop.csv").exists()


def test_the_scores_evaluated_are_those_asked_for(memcat24, output):
    flags = ("--evaluate-features", "--score-column", "memorability_wo_fa_correction", *QUICKLY)
    run_on(memcat24, output, *flags)
    frame = table(output, "image_features").drop(columns="memorability")
    source = pd.read_csv(next(memcat24.rglob("memcat_image_data.csv")))
    source["image_id"] = source["category"] + "/" + source["subcategory"] + "/" + source["image_file"]
    frame = frame.merge(source[["image_id", "memorability_wo_fa_correction"]], on="image_id", validate="1:1")
    rho = stats.spearmanr(frame["sobel_entropy"], frame["memorability_wo_fa_correction"]).statistic
    found = table(output, "feature_correlations").set_index("feature")
    assert found.loc["sobel_entropy", "rho"] == pytest.approx(rho)
    assert rho != pytest.approx(
        stats.spearmanr(frame["sobel_entropy"], table(output, "image_features")["memorability"]).statistic
    )


def attribution(frame, **columns):
    """A table as model_interpretation_IG.py writes it, for the images of a feature table."""
    rng = np.random.default_rng(5)
    made = frame[["image_id", "category", "subcategory", "memorability"]].assign(
        split="test", converged=True, steps=50
    )
    for column in TABLES["ig"].columns:
        if column.kind == "float" and column.name not in made:
            made[column.name] = rng.normal(size=len(made))
    return made.assign(**columns)


def test_each_attribution_column_is_a_target_joined_by_image(output):
    frame = table(output, "image_features")
    part = frame.iloc[3:19].sample(frac=1, random_state=0)
    ig = attribution(part, prediction=part["sobel_entropy"] * 2 + 1, share_inside_objects=np.nan)
    write_table(ig, output / "ig_net.csv", "ig")
    run("--evaluate-features", "--output-path", output, *QUICKLY)
    found = table(output, "feature_correlations")
    measures = [c.name for c in TABLES["ig"].columns if c.kind == "float" and c.name != "memorability"]
    assert list(dict.fromkeys(found["target"])) == ["memorability", *measures]
    assert set(found.loc[found["target"] != "memorability", "model"]) == {"net"}
    row = found[(found["feature"] == "sobel_entropy") & (found["target"] == "prediction")].iloc[0]
    assert (row["rho"], row["n"]) == (pytest.approx(1), 16)
    empty = found[found["target"] == "share_inside_objects"]
    assert empty["rho"].isna().all()
    assert (empty["n"] == 0).all()
    assert (output / "feature_clusters.png").exists()


def test_attributions_of_other_images_are_refused(output, capsys):
    frame = table(output, "image_features")
    write_table(attribution(frame).assign(image_id="other/" + frame["image_id"]), output / "ig_net.csv", "ig")
    run("--evaluate-features", "--output-path", output, expect=2)
    message = capsys.readouterr().err
    assert "ig_net.csv and image_features.csv have no image in common" in message
    assert "Run both stages on the same images." in message


def test_no_feature_in_the_table():
    with pytest.raises(UserError, match="image_features.csv holds no feature"):
        feature_evaluation.feature_correlations(
            pd.DataFrame({"image_id": ["a"], "memorability": [0.5]}), {}, 10, 0
        )


# ---- the model of memorability


def autoencoder_tables(frame, folder, model="net"):
    """Reconstruction errors and distinctiveness as the earlier stages write them."""
    rng = np.random.default_rng(8)
    base = frame[["image_id", "category", "subcategory", "memorability"]]
    errors = base.assign(mse=rng.random(len(base)), ssim=rng.random(len(base)))
    write_table(errors.sample(frac=1, random_state=1), folder / f"test_loss_{model}.csv", "test_loss")
    distinct = base.drop(columns="subcategory").assign(nearest_image_id="", duplicates=0)
    for column in TABLES["distinctiveness"].columns:
        if column.kind == "float" and column.name not in distinct:
            distinct[column.name] = rng.normal(size=len(base))
    write_table(distinct, folder / f"distinctiveness_{model}.csv", "distinctiveness")


def test_what_features_add_to_error_and_distinctiveness(output):
    autoencoder_tables(table(output, "image_features"), output)
    run("--evaluate-features", "--output-path", output, *QUICKLY)
    models = table(output, "feature_model")
    rows = set(zip(models["learner"], models["predictors"], models["model"], strict=True))
    sets = [
        ("image features", ""),
        *((name, "net") for name in ("error and distinctiveness", "both")),  # of the same images
    ]
    assert rows == {(learner, *one) for learner in feature_model.LEARNERS for one in sets}
    assert (models["n"] == 24).all()
    both = models[models["predictors"] == "both"]
    # 23 of the 24 features (smooth pictures have no edges at all), hue as two, two errors, distinctiveness
    assert both["columns"].tolist() == [26, 26]
    tested = models["p"].notna()
    np.testing.assert_allclose(
        models["q"][tested], stats.false_discovery_control(models["p"][tested]), rtol=1e-6
    )


def test_group_and_pixel_count_come_with_the_scores(memcat24, tmp_path):
    scores = pd.read_csv(next(memcat24.rglob("*.csv")), dtype={"image_file": str})
    scores["group"] = [f"g{number // 2}" for number in range(len(scores))]
    scores["pixel_count"] = 1000 + np.arange(len(scores)) % 7
    scores.to_csv(tmp_path / "scores.csv", index=False)
    output = tmp_path / "out"
    flags = ("--scores-csv", tmp_path / "scores.csv", "--region", "full", "--features", "texture")
    run_on(memcat24, output, "--calculate-features", *flags)
    frame = table(output, "image_features")
    assert frame["pixel_count"].between(1000, 1006).all()
    autoencoder_tables(frame, output)
    run("--evaluate-features", "--output-path", output, "--cluster", "group", *QUICKLY)
    assert set(table(output, "feature_correlations")["cluster"]) == {"group"}
    blocks = table(output, "feature_commonality").set_index("block")
    assert blocks.loc["size", "columns"] == 1
    assert (blocks["clusters"] == frame["group"].nunique()).all()


def test_too_few_images_for_a_model_is_said(memcat24, tmp_path, capsys):
    run_on(memcat24, tmp_path, *PIXEL_GROUPS, "--limit", "12", "--resamples", "20", "--region", "full")
    assert (
        "No model of memorability: 12 images and 23 columns that vary; at least 20" in capsys.readouterr().err
    )
    assert not (tmp_path / "feature_model.csv").exists()
    assert len(table(tmp_path, "feature_correlations")) == 25


def planted(n=400, seed=0):
    """Features of which only edge density and hue matter, the latter around the circle."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {name: rng.normal(size=n) for name in ("lab_l_mean", "glcm_energy", "edge_density", "object_count")}
    )
    frame["hsv_hue_mean"] = rng.uniform(0, 360, n)
    frame.loc[::7, "hsv_hue_mean"] = np.nan
    hue = np.cos(np.deg2rad(frame["hsv_hue_mean"].fillna(90)))
    frame["memorability"] = frame["edge_density"] + hue + 0.2 * rng.normal(size=n)
    return frame.assign(category=rng.choice(["animal", "food"], n), image_id=[f"{i:04d}" for i in range(n)])


QUICK = feature_model.ModelSettings(folds=4, repeats=2, resamples=50, permutations=99)


def test_planted_features_are_found_and_their_importance_is_theirs():
    found = feature_model.feature_model(planted(), {}, QUICK)
    models, importances = found.models, found.importances
    assert (models["rho"] > 0.9).all()
    assert (models["r2"] > 0.85).all()
    for learner, rows in importances.groupby("learner"):
        rows = rows.set_index("feature")["importance"]
        assert set(rows.index[:2]) == {"edge_density", "hsv_hue_mean"}, learner
        assert (rows[:2] > 0.2).all()
        assert (rows[2:].abs() < 0.02).all()


def test_images_are_predicted_by_fits_without_them():
    """Noise predicts nothing: a model that had seen its test images would reach a high rho here."""
    frame = planted()
    frame["memorability"] = np.random.default_rng(1).normal(size=len(frame))
    models = feature_model.feature_model(frame, {}, QUICK).models
    assert (models["rho"].abs() < 0.15).all()
    assert (models["p"] > 0.05).all()
    assert (models["r2"] < 0.05).all()


def test_gain_is_what_the_features_add():
    frame = planted()
    rng = np.random.default_rng(2)
    other = pd.DataFrame(
        {"image_id": frame["image_id"], "mse": frame["memorability"] + rng.normal(size=len(frame))}
    )
    found = feature_model.feature_model(frame, {"net": other.iloc[::-1].iloc[:300]}, QUICK)
    models = found.models
    of_net = models[models["model"] == "net"]
    assert set(of_net["predictors"]) == {"image features", "error and distinctiveness", "both"}
    assert (of_net["n"] == 300).all()
    blocks = found.commonality.set_index("block")
    assert set(blocks["model"]) == {"net"}
    features = blocks.loc["image features"]
    assert features["ci_low"] > 0.1
    assert features["p"] == pytest.approx(1 / 100)
    assert features["q"] < 0.05
    assert blocks.loc["together", "alone"] > features["unique"]
    assert features["alone"] == pytest.approx(features["unique"] + features["shared"])


def test_same_seed_same_model():
    first, second = (feature_model.feature_model(planted(120), {}, QUICK) for _ in range(2))
    pd.testing.assert_frame_equal(first.models, second.models)
    pd.testing.assert_frame_equal(first.importances, second.importances)


def test_no_feature_that_varies_is_said(capsys):
    frame = planted(60)[["image_id", "category", "memorability"]].assign(
        edge_density=0.5, object_area_mean=np.nan
    )
    assert feature_model.feature_model(frame, {}, QUICK) is None


def test_folds_are_even_within_categories():
    category = ["a"] * 11 + ["b"] * 7 + [""] * 2
    folds = feature_model.assign_folds(category, 4, seed=3)
    assert np.bincount(folds).tolist() == [5, 5, 5, 5]
    for name in ("a", "b"):
        counts = np.bincount(folds[np.array(category) == name], minlength=4)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(folds, feature_model.assign_folds(category, 4, seed=3))
    assert (folds != feature_model.assign_folds(category, 4, seed=4)).any()


def test_circular_features_become_cosine_and_sine():
    frame = feature_model.linearise(pd.DataFrame({"hsv_hue_mean": [359.0, 1.0, 180.0, np.nan]}))
    cosine, sine = frame["hsv_hue_mean_cos"], frame["hsv_hue_mean_sin"]
    assert cosine[0] == pytest.approx(cosine[1])
    assert abs(sine[0] - sine[1]) < 0.04
    assert cosine[2] == pytest.approx(-1)
    assert cosine.isna().tolist() == sine.isna().tolist() == [False, False, False, True]
    assert feature_model.predictor_columns(frame) == {
        "hsv_hue_mean": ["hsv_hue_mean_cos", "hsv_hue_mean_sin"]
    }
    assert feature_model.feature_group("hsv_hue_mean_sin") == "colour"


# ---- figures


def test_figures_say_what_is_undefined_and_mark_what_is_not_significant():
    frame = planted(60).assign(object_area_mean=np.nan, grey_entropy=3.0)
    found = feature_evaluation.feature_correlations(frame, {}, 20, 0)
    figure = feature_figures.draw_correlations(found)
    axes = figure.axes[0]
    assert {text.get_text() for text in axes.texts} == {"constant", "defined in 0 images"}
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 8  # four that vary, hue as two, and the two undefined ones
    alpha = {label: bar.get_alpha() for label, bar in zip(labels, axes.patches, strict=False)}
    assert alpha["edge_density"] == pytest.approx(0.9)
    assert alpha["lab_l_mean"] == pytest.approx(feature_figures.PALE)
    assert feature_figures.draw_correlations(found.assign(rho=np.nan)) is None


def test_clusters_put_what_is_alike_side_by_side():
    frame = planted(200)
    frame["sobel_entropy"] = frame["edge_density"] ** 3
    found = feature_evaluation.feature_correlations(frame, {}, 20, 0)
    figure = feature_figures.draw_clusters(frame, found)
    order = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert abs(order.index("sobel_entropy") - order.index("edge_density")) == 1
    assert len(order) == 7  # five that vary by themselves, hue as two
    assert feature_figures.draw_clusters(frame[["edge_density", "glcm_energy"]], found) is None
