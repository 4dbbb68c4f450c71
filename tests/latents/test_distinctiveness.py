import logging

import numpy as np
import pandas as pd
import pytest
from latents.test_codes import write_latents
from scipy.stats import zscore

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.tables import output_file, read_table, write_table
from utils.latents.codes import open_latents
from utils.latents.distinctiveness import (
    Inference,
    centroid_distances,
    distinctiveness_correlations,
    distinctiveness_name,
    distinctiveness_table,
    find_neighbours,
    merge_correlations,
    standardise,
)
from utils.latents.neighbours import SearchSettings
from utils.statistics.correlation_tables import partial_spearman, spearman


def study(folder, codes, categories=None, **options):
    """Latent codes on disk, and what is known about their images."""
    count = len(codes)
    categories = categories or ["animal", "food"] * (count // 2) + ["animal"] * (count % 2)
    ids = [f"{place:03d}.jpg" for place in range(count)]
    write_latents(folder, codes.astype(np.float32), ids=ids)
    scores = np.random.default_rng(5).uniform(0.3, 0.9, count)
    about = pd.DataFrame({"image_id": ids, "category": categories, "memorability": scores})
    return open_latents(folder, "net"), about


def table_of(latents, about, **settings):
    within = settings.pop("within", False)
    settings = SearchSettings(**settings)
    found = find_neighbours(latents, settings, about["category"] if within else None)
    return distinctiveness_table(latents, found, about, settings)


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_known_answer_on_a_line(tmp_path):
    """Codes at 0, 1, 3, 7: the nearest others are 1, 0, 1, 3 at distances 1, 1, 2, 4."""
    latents, about = study(tmp_path, np.array([[0.0], [1], [3], [7]]), ["a", "a", "b", "b"])
    table = table_of(latents, about)
    assert table["nearest_image_id"].tolist() == ["001.jpg", "000.jpg", "001.jpg", "002.jpg"]
    assert table["nearest_distance"].tolist() == [1, 1, 2, 4]
    np.testing.assert_allclose(table["distinctiveness"], zscore([1, 1, 2, 4]))
    assert table["category_centroid_distance"].tolist() == [0.5, 0.5, 2, 2]
    np.testing.assert_allclose(table["global_centroid_distance"], [2.75, 1.75, 0.25, 4.25])
    assert table["duplicates"].tolist() == [0, 0, 0, 0]


def test_k_neighbours_are_averaged_and_the_nearest_stays_the_nearest(tmp_path):
    latents, about = study(tmp_path, np.array([[0.0], [1], [3], [7]]), ["a", "a", "b", "b"])
    table = table_of(latents, about, neighbours=2)
    assert table["nearest_distance"].tolist() == [1, 1, 2, 4]
    assert table["mean_neighbour_distance"].tolist() == [2, 1.5, 2.5, 5]
    np.testing.assert_allclose(table["distinctiveness"], zscore([2, 1.5, 2.5, 5]))


def test_within_category_and_lonely_images(tmp_path, caplog):
    latents, about = study(tmp_path, np.array([[0.0], [1], [3], [7]]), ["a", "b", "a", "c"])
    with caplog.at_level(logging.WARNING):
        table = table_of(latents, about, within=True)
    assert table["nearest_image_id"].tolist() == ["002.jpg", "", "000.jpg", ""]
    assert np.isnan(table["distinctiveness"].to_numpy()[[1, 3]]).all()
    assert "2 images have fewer than 1 others in their category (b, c)" in caplog.text


def test_two_images(tmp_path, caplog):
    latents, about = study(tmp_path, normal(2, 6))
    table = table_of(latents, about)
    assert table["nearest_image_id"].tolist() == ["001.jpg", "000.jpg"]
    assert table["distinctiveness"].tolist() == [0, 0]
    assert "equally far" in caplog.text


def test_duplicates_are_reported(tmp_path, caplog):
    codes = normal(10, 6)
    codes[7] = codes[2]
    latents, about = study(tmp_path, codes)
    table = table_of(latents, about).set_index("image_id")
    assert table.loc["007.jpg", "nearest_image_id"] == "002.jpg"
    assert table.loc["007.jpg", "nearest_distance"] == 0
    assert "2 images have exactly the same latent code as another" in caplog.text


def refusal(latents, categories=None, **settings):
    with pytest.raises(UserError) as caught:
        find_neighbours(latents, SearchSettings(**settings), categories)
    return str(caught.value)


def test_one_image_is_refused(tmp_path):
    message = refusal(study(tmp_path, normal(1, 6))[0])
    assert "latents_net.npy holds the code of one image" in message


def test_k_not_below_n_is_refused(tmp_path):
    message = refusal(study(tmp_path, normal(5, 6))[0], neighbours=5)
    assert "--neighbours 5" in message
    assert "holds 5. Use at most --neighbours 4" in message


def test_identical_codes_are_refused(tmp_path):
    assert "All 6 latent codes in" in refusal(study(tmp_path, np.ones((6, 4)))[0])


def test_codes_that_are_not_finite_name_their_images(tmp_path):
    codes = normal(8, 4)
    codes[3, 1], codes[6, 0] = np.nan, np.inf
    message = refusal(study(tmp_path, codes)[0])
    assert "in 2 of 8 rows (003.jpg, 006.jpg)" in message
    assert "--calculate-latents --overwrite" in message


def test_zero_codes_have_no_cosine_distance(tmp_path):
    codes = normal(8, 4)
    codes[3] = 0
    message = refusal(study(tmp_path, codes)[0], metric="cosine")
    assert "003.jpg" in message
    assert "--metric euclidean" in message


def test_categories_too_small_for_k_are_refused(tmp_path):
    latents, about = study(tmp_path, normal(4, 6), ["a", "a", "b", "b"])
    with pytest.raises(UserError, match="no category has more than 2 images"):
        table_of(latents, about, neighbours=2, within=True)


def test_standardise_equals_scipy_and_keeps_gaps():
    values = np.array([1.0, 4, 9, np.nan, 2])
    np.testing.assert_allclose(standardise(values), zscore(values, nan_policy="omit"))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("budget", [2**26, 600])
def test_centroid_distances_equal_the_plain_ones(metric, budget, monkeypatch):
    monkeypatch.setattr("utils.latents.distinctiveness._SUMS_BYTES", budget)
    codes, labels = np.abs(normal(40, 30)), np.array(["a", "b", "", "c"] * 10)
    values = codes.astype(float)
    if metric == "cosine":
        values /= np.linalg.norm(values, axis=1, keepdims=True)

    def distance(a, b):
        if metric == "euclidean":
            return np.linalg.norm(a - b)
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    own, overall = centroid_distances(codes, labels, metric)
    for row in range(40):
        assert overall[row] == pytest.approx(distance(values[row], values.mean(0)))
        if labels[row]:
            assert own[row] == pytest.approx(distance(values[row], values[labels == labels[row]].mean(0)))
        else:
            assert np.isnan(own[row])


def test_names_keep_every_way_of_measuring_apart():
    assert distinctiveness_name("net", "euclidean", 1, False) == "net"
    assert distinctiveness_name("net", "cosine", 5, True) == "net@cosine-k5-within-category"
    assert distinctiveness_name("net@conv4-avg", "cosine", 1, False) == "net@conv4-avg-cosine"


def planted(count=400):
    """Memorability driven by error alone; distinctiveness is error plus noise."""
    rng = np.random.default_rng(0)
    error = rng.standard_normal(count)
    ids = [f"{place:04d}.jpg" for place in range(count)]
    table = pd.DataFrame({"image_id": ids, "category": ["a", "b"] * (count // 2)})
    table["memorability"] = error + 0.3 * rng.standard_normal(count)
    table["distinctiveness"] = error + 0.6 * rng.standard_normal(count)
    table["category_centroid_distance"] = table["global_centroid_distance"] = rng.random(count)
    losses = pd.DataFrame({"image_id": ids[::-1], "mse": error[::-1]})
    return table, losses


def test_partial_correlations_tell_which_measure_carries_the_effect():
    table, losses = planted()
    rows = distinctiveness_correlations(table, table[["image_id"]], losses, Inference(200, 0))
    rows = rows.set_index(["measure", "target", "held_constant"])
    plain = rows.loc[("distinctiveness", "memorability", "")]
    assert plain["rho"] == pytest.approx(spearman(table["distinctiveness"], table["memorability"])[0])
    assert plain["rho"] > 0.6
    without_error = rows.loc[("distinctiveness", "memorability", "mse")]
    ordered = losses.set_index("image_id").loc[table["image_id"], "mse"].to_numpy()
    expected = partial_spearman(table["distinctiveness"], table["memorability"], ordered)
    assert without_error["rho"] == pytest.approx(expected[0])
    assert without_error["ci_low"] < 0 < without_error["ci_high"]
    without_distinctiveness = rows.loc[("mse", "memorability", "distinctiveness")]
    assert without_distinctiveness["ci_low"] > 0.6
    assert rows.loc[("mse", "distinctiveness", ""), "rho"] > 0.6
    assert rows["q"].notna().all()


def test_without_losses_there_are_no_partial_rows():
    table, _ = planted()
    rows = distinctiveness_correlations(table, table[["image_id"]], None, Inference(20, 0))
    assert rows["measure"].tolist() == [
        "distinctiveness",
        "category_centroid_distance",
        "global_centroid_distance",
    ]
    assert (rows["held_constant"] == "").all()


def test_merging_replaces_a_model_and_forgets_those_without_a_table():
    def rows(model, p):
        return pd.DataFrame(
            {
                "model": [model],
                "measure": "distinctiveness",
                "target": "memorability",
                "held_constant": "",
                "p": [p],
            }
        )

    old = pd.concat([rows("a", 0.5), rows("b", 0.02), rows("gone", 0.001)])
    merged = merge_correlations(rows("a", 0.04), old, keep=["a", "b"])
    assert merged[["model", "p"]].to_numpy().tolist() == [["a", 0.04], ["b", 0.02]]
    assert merged["q"].tolist() == [0.04, 0.04]


def test_the_table_of_correlations_does_not_depend_on_which_model_was_analysed_when(tmp_path):
    """Run twice, undeclared columns got 16 digits, and 24 became 24.0."""

    def rows(model, setting):
        rng = np.random.default_rng(len(model))
        found = pd.DataFrame(
            {
                "model": model,
                "measure": ["distinctiveness", "mean_k_5"],
                "target": "memorability",
                "held_constant": "",
                "n": 30,
                "rho": rng.random(2),
                "p": rng.random(2) / 30,
                "resamples": 100,
                "seed": 0,
                "setting": ["", setting],
                "clusters_of_its_own": [24, None],  # columns that no table declares
                "mean_of_its_own": rng.random(2),
                "n_of_its_own": [30, 30],
            }
        )
        empty = {"float": np.nan, "int": 0, "text": ""}
        missing = {
            column.name: empty[column.kind]
            for column in TABLES["distinctiveness_correlations"].columns
            if column.name not in found
        }
        return found.assign(**missing | {"cluster": "image"})

    def analyse(folder, *models):
        path = output_file(folder, "distinctiveness_correlations")
        old = read_table(path, "distinctiveness_correlations") if path.exists() else None
        new = pd.concat([rows(model, f"K = {len(model)}") for model in models], ignore_index=True)
        merged = merge_correlations(new, old, ["a", "bc", "def"])
        write_table(merged, path, "distinctiveness_correlations")
        return path.read_bytes()

    at_once = analyse(tmp_path / "at once", "a", "bc", "def")
    for name in ("def", "a", "bc"):
        one_by_one = analyse(tmp_path / "one by one", name)
    assert one_by_one == at_once
    assert analyse(tmp_path / "one by one", "a") == at_once
    header, first = at_once.decode().splitlines()[:2]
    assert dict(zip(header.split(","), first.split(","), strict=True))["clusters_of_its_own"] == "24"
