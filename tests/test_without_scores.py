"""A folder of pictures without scores: what can run runs, what is about scores says so, the pipeline leaves it out."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import dataset_args, make_picture
from in_process import run_here

from utils.core.errors import UserError
from utils.data.dataset import find_scores, load_dataset

SIZE = ("--image-size", 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures in two folders, and what the stages that need no scores make of them."""
    place = tmp_path_factory.mktemp("alone")
    for number in range(10):
        path = place / "pictures" / ("in" if number % 2 else "out") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number, 40, 36).save(path)
    start = ("--pretrained", "none", "--arch", "vgg11", "--width", 0.0625, "--loss", "mse")
    for script, flags in {
        "autoencoder_finetune.py": (*start, *SIZE),
        "autoencoder_test.py": ("--losses", "mse", *SIZE),
        "latent_analysis.py": ("--measure", "all", *SIZE),
        "feature_analysis.py": ("--features", "colour", "--crop-size", 32, "--workers", 0),
    }.items():
        done = run_here(script, "--data-dir", place / "pictures", "--output-path", place / "out", *flags)
        assert done.returncode == 0, f"{script}: {done.stderr}"
    return place


def test_errors_codes_distinctiveness_neighbours_and_features_are_there(folder):
    name = next((folder / "out").glob("test_loss_*.csv")).stem.removeprefix("test_loss_")
    losses = pd.read_csv(folder / "out" / f"test_loss_{name}.csv")
    assert len(losses) == 10
    assert losses["mse"].notna().all()
    assert losses["memorability"].isna().all()
    near = pd.read_csv(folder / "out" / f"distinctiveness_{name}.csv")
    assert near["nearest_image_id"].isin(near["image_id"]).all()
    measures = pd.read_csv(folder / "out" / f"distinctiveness_measures_{name}.csv")
    assert measures.drop(columns=["image_id", "category", "memorability"]).notna().any(axis=None)
    assert len(pd.read_csv(folder / "out" / "image_features.csv")) == 10
    for figure in (f"reconstructions_{name}.png", f"distinctive_images_{name}.png"):
        assert (folder / "out" / figure).stat().st_size > 0


def test_what_rests_on_scores_is_left_out_and_not_written_empty(folder):
    written = {path.name for path in (folder / "out").glob("*.csv")}
    assert not {
        name for name in written if "correlations" in name or name.startswith(("feature_model", "mlp"))
    }


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("autoencoder_evaluation.py", ()),
        ("category_plot.py", ()),
        ("mlp_predict.py", SIZE),
        ("feature_analysis.py", ("--evaluate-features",)),
        ("model_interpretation_IG.py", SIZE),
        ("memorability_steering.py", SIZE),
    ],
)
def test_a_stage_that_is_about_scores_says_so(folder, script, flags):
    data = () if script == "category_plot.py" else ("--data-dir", folder / "pictures")
    done = run_here(script, *data, "--output-path", folder / "out", *flags)
    assert done.returncode == 2
    assert "memorability scores" in done.stderr
    assert "--scores-csv" in done.stderr


def test_the_report_of_pictures_alone_is_written(folder):
    done = run_here("run_pipeline.py", "--report-only", "--output-path", folder / "out")
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "report.html").stat().st_size > 10_000


def test_results_inside_the_folder_are_no_pictures_of_it(tmp_path):
    make_picture(1, 12, 10).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    make_picture(2, 12, 10).save(tmp_path / "out" / "figure.png")
    dataset = load_dataset(dataset_args(tmp_path, tmp_path / "out"))
    assert dataset.table["image_id"].tolist() == ["a.png"]
    assert not dataset.has_scores


def test_a_table_beside_the_pictures_is_used_and_two_are_a_question(tmp_path):
    make_picture(1, 12, 10).save(tmp_path / "a.png")
    (tmp_path / "notes.csv").write_text("image,remark\na.png,nice\n")
    assert find_scores(dataset_args(tmp_path, tmp_path / "o")) is None
    (tmp_path / "mine.csv").write_text("image,mem\na.png,0.5\n")
    assert load_dataset(dataset_args(tmp_path, tmp_path / "o")).table["memorability"].tolist() == [0.5]
    (tmp_path / "theirs.csv").write_text("image,mem\na.png,0.7\n")
    with pytest.raises(UserError, match=r"mine.csv, .*theirs.csv. Choose one with --scores-csv"):
        find_scores(dataset_args(tmp_path, tmp_path / "o"))


def test_the_default_folder_without_a_table_is_a_mistake_and_no_study_without_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("MemCat").mkdir()
    make_picture(1, 12, 10).save("MemCat/a.png")
    with pytest.raises(UserError, match="Expected memcat_image_data.csv under MemCat"):
        load_dataset(dataset_args(Path("MemCat"), Path("o")))


def test_a_table_that_an_earlier_run_had_is_lost_and_not_absent(tmp_path):
    """A moved score table must not turn a scored study into one of pictures alone, its tables written anew."""
    for number in range(3):
        make_picture(number, 40, 36).save(tmp_path / f"{number}.png")
    splits = tmp_path / "out" / "splits.csv"
    splits.parent.mkdir()
    header = "image_id,category,subcategory,memorability,split\n"
    splits.write_text(header + "0.png,,,,test\n1.png,,,,train\n")
    assert len(load_dataset(dataset_args(tmp_path, tmp_path / "out")).table) == 3
    splits.write_text(header + "0.png,,,0.5,test\n1.png,,,,train\n")
    with pytest.raises(UserError, match="no score table .* any more.*--scores-csv"):
        load_dataset(dataset_args(tmp_path, tmp_path / "out"))
