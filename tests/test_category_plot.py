import numpy as np
import pandas as pd
import pytest
from conftest import assert_user_error, run_script_process
from in_process import run_here
from PIL import Image

from utils.categories.figures import draw_distributions, draw_rho, draw_scatters
from utils.categories.tables import (
    ALL_IMAGES,
    NO_CATEGORY,
    distribution_table,
    rho_table,
    split_table,
    subcategory_table,
)
from utils.core.tables import output_file, write_table
from utils.statistics.correlation_tables import mean_interval, spearman

LONG = "a category with a remarkably long name that nobody would choose (but somebody did)"


def images_of(categories, per_category=30):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"category": np.repeat(categories, per_category)})
    frame["image_id"] = [f"{row:05d}.jpg" for row in range(len(frame))]
    frame["subcategory"] = frame["category"] + " " + pd.Series(rng.integers(0, 3, len(frame)).astype(str))
    frame["memorability"] = rng.uniform(0.3, 0.9, len(frame))
    frame["split"] = rng.choice(["train", "val", "test"], len(frame), p=[0.6, 0.1, 0.3])
    return frame


def write_study(folder, frame, losses=True, distinctiveness=True, splits=True):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    ids = ["image_id", "category", "subcategory", "memorability"]
    if splits:
        write_table(frame[[*ids, "split"]], output_file(folder, "splits"), "splits")
    if losses:
        table = frame[ids].assign(
            mse=frame["memorability"] + rng.random(len(frame)), ssim=rng.random(len(frame))
        )
        write_table(table, output_file(folder, "test_loss", "net"), "test_loss")
    if distinctiveness:
        table = frame[["image_id", "category", "memorability"]].assign(
            nearest_image_id="x",
            nearest_distance=1.0,
            distinctiveness=rng.standard_normal(len(frame)),
            mean_neighbour_distance=1.0,
            category_centroid_distance=rng.random(len(frame)),
            global_centroid_distance=rng.random(len(frame)),
            duplicates=0,
        )
        write_table(table, output_file(folder, "distinctiveness", "net"), "distinctiveness")
    return folder


def plot(output, *flags):
    return run_here("category_plot.py", "--output-path", output, "--resamples", 50, *flags)


def figures(output, suffix):
    return {path.stem for path in output.glob(f"category_*.{suffix}")}


ALL = {
    "category_memorability",
    "category_subcategories",
    "category_splits",
    "category_losses_net",
    "category_distinctiveness_net",
    "category_rho_net",
    "category_scatter_net",
}


def test_draws_everything_that_is_there_each_beside_its_numbers(tmp_path):
    output = write_study(tmp_path, images_of(["animal", "food", "sports"]))
    done = plot(output)
    assert done.returncode == 0, done.stderr
    assert figures(output, "png") == figures(output, "pdf") == figures(output, "csv") == ALL
    rho = pd.read_csv(output / "category_rho_net.csv")
    assert set(rho["category"]) == {"animal", "food", "sports", ALL_IMAGES}
    assert set(rho["measure"]) == {"mse", "ssim", "distinctiveness"}
    for name in ALL:
        with Image.open(output / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # not blank
    before = {path.name: path.read_bytes() for path in output.glob("category_*")}
    assert plot(output).returncode == 0
    assert before == {path.name: path.read_bytes() for path in output.glob("category_*")}


def test_one_category_with_a_long_name_and_only_some_tables(tmp_path):
    output = write_study(tmp_path, images_of([LONG], 8), splits=False, distinctiveness=False)
    done = plot(output, "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert "Skipped: splits.csv is not in" in done.stderr
    assert "Skipped: distinctiveness_<model>.csv is not in" in done.stderr
    assert figures(output, "svg") == ALL - {"category_splits", "category_distinctiveness_net"}
    assert not figures(output, "png")
    assert set(pd.read_csv(output / "category_memorability.csv")["category"]) == {LONG}


def test_many_categories(tmp_path):
    names = [f"category {number:02d}" for number in range(40)]
    output = write_study(tmp_path, images_of(names, 12), losses=False)
    assert plot(output, "--format", "png").returncode == 0
    with Image.open(output / "category_rho_net.png") as picture:
        assert picture.height > 900


def test_no_categories_at_all(tmp_path):
    frame = images_of([""], 20).assign(subcategory="")
    output = write_study(tmp_path, frame)
    done = plot(output, "--format", "png")
    assert done.returncode == 0, done.stderr
    assert "no subcategories to rank" in done.stderr
    assert set(pd.read_csv(output / "category_memorability.csv")["category"]) == {"(no category)"}


def test_categories_and_measures_can_be_chosen(tmp_path):
    output = write_study(tmp_path, images_of(["animal", "food", "sports"]))
    flags = (
        "--categories",
        "food",
        "animal",
        "--measures",
        "ssim",
        "global_centroid_distance",
        "--format",
        "png",
    )
    assert plot(output, *flags).returncode == 0
    rho = pd.read_csv(output / "category_rho_net.csv")
    assert set(rho["category"]) == {"animal", "food", ALL_IMAGES}
    assert set(rho["measure"]) == {"ssim", "global_centroid_distance"}
    assert not (output / "category_memorability.png").exists()


def test_bad_choices_and_empty_folders_are_explained(tmp_path):
    output = write_study(tmp_path / "out", images_of(["animal", "food"]), distinctiveness=False)
    assert_user_error(plot(output, "--categories", "fod"), "fod", "Categories there: animal, food")
    done = plot(output, "--measures", "lpips-vgg")
    assert_user_error(done, "has lpips-vgg", "memorability, mse, ssim", "python autoencoder_test.py")
    assert_user_error(plot(tmp_path / "empty"), "Nothing to plot in", "python latent_analysis.py")


def test_tables_that_contradict_each_other_are_refused(tmp_path):
    frame = images_of(["animal", "food"])
    output = write_study(tmp_path, frame)
    other = frame.assign(memorability=frame["memorability"] + 0.1)
    write_study(output, other, losses=False, distinctiveness=False)
    assert_user_error(
        plot(output), "disagree about the memorability of 60 images", "00000.jpg", " in test_loss_"
    )


def test_without_a_display_it_says_where_the_figures_are(tmp_path):
    output = write_study(tmp_path, images_of(["animal"]), losses=False, distinctiveness=False)
    done = run_script_process(
        "category_plot.py", "--output-path", output, "--display", DISPLAY="", WAYLAND_DISPLAY=""
    )
    assert done.returncode == 0
    assert "There is no display here" in done.stderr
    assert "category_memorability.png" in done.stderr


def test_distributions_are_the_plain_numbers():
    frame = images_of(["animal", "food"])
    table = distribution_table(frame, ["memorability"], 100, 3).set_index("category")
    animals = frame.loc[frame["category"] == "animal", "memorability"]
    row = table.loc["animal"]
    assert row["mean"] == pytest.approx(animals.mean())
    assert row["p25"] == pytest.approx(animals.quantile(0.25))
    assert row["ci_low_independent"] == pytest.approx(mean_interval(animals, 100, 3)["ci_low"])
    codes = pd.factorize(frame.loc[animals.index, "subcategory"])[0]
    assert row["ci_low"] == pytest.approx(mean_interval(animals, 100, 3, codes)["ci_low"])
    assert (row["cluster"], row["clusters"]) == ("subcategory", 3)
    alone = distribution_table(frame, ["memorability"], 100, 3, "none").set_index("category")
    assert (alone["ci_low"] == alone["ci_low_independent"]).all()
    assert table.loc[ALL_IMAGES, "n"] == 60


def test_rho_by_category_is_the_plain_one():
    frame = images_of(["animal", "food"]).assign(mse=lambda f: f["memorability"] ** 2)
    frame.loc[frame["category"] == "food", "mse"] *= -1
    table = rho_table(frame, ["mse"], 50).set_index("category")["rho"]
    assert table["animal"] == pytest.approx(1)
    assert table["food"] == pytest.approx(-1)
    assert table[ALL_IMAGES] == pytest.approx(spearman(frame["mse"], frame["memorability"])[0])
    whole = rho_table(frame, ["mse"], 50)
    inside = whole["category"] != ALL_IMAGES
    assert whole.loc[~inside, "q"].tolist() == whole.loc[~inside, "p"].tolist(), "a family of its own"
    assert whole["clusters"].tolist() == [3, 3, 6]


def test_categories_too_small_for_a_rho_are_named_once_and_not_drawn():
    frame = images_of(["large", "larger", "small"])
    frame = frame[(frame["category"] != "small") | (frame.index % 10 == 0)].assign(mse=frame["memorability"])
    figure = draw_rho(rho_table(frame, ["mse"], resamples=20), "title")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["large", "larger", ALL_IMAGES]
    assert not figure.axes[0].texts
    assert "fewer than 10 images: small 3" in figure.get_suptitle().replace("\n", " ")


def test_without_categories_the_figures_speak_of_all_images():
    frame = images_of([NO_CATEGORY]).assign(mse=np.arange(30.0))
    table = distribution_table(frame, ["mse"], resamples=20)
    figure = draw_distributions(frame, table, "Reconstruction error")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [ALL_IMAGES]
    assert "by category" not in figure.get_suptitle()
    scatter = draw_scatters(frame, rho_table(frame, ["mse"], resamples=20), "title")
    assert not scatter.legends


def test_many_images_of_one_value_are_a_box_and_a_few_are_dots():
    frame = pd.concat([images_of(["many"], 3000), images_of(["few"], 12)], ignore_index=True).assign(mse=0.5)
    frame.loc[frame["category"] == "few", "mse"] = np.linspace(0, 1, 12)
    table = distribution_table(frame, ["mse"], resamples=20)
    figure = draw_distributions(frame, table, "Reconstruction error")
    dots = [len(drawn.get_offsets()) for drawn in figure.axes[0].collections if len(drawn.get_offsets()) > 1]
    assert dots == [12]


def test_splits_are_counted_with_zeros():
    frame = pd.DataFrame({"category": ["a", "a", "b"], "split": ["test", "train", "train"]})
    table = split_table(frame)
    assert table.to_numpy().tolist() == [
        ["a", "train", 1],
        ["a", "test", 1],
        ["b", "train", 1],
        ["b", "test", 0],
    ]


def test_subcategories_are_ranked():
    frame = pd.DataFrame(
        {"category": list("xxyy"), "subcategory": list("ppqr"), "memorability": [0.1, 0.3, 0.9, 0.5]}
    )
    table = subcategory_table(frame, 20)
    assert table["subcategory"].tolist() == ["q", "r", "p"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["mean"].tolist() == pytest.approx([0.9, 0.5, 0.2])
