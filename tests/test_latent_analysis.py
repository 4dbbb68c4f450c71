import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_user_error, run_script_process, write_memcat
from in_process import run_here
from sklearn.decomposition import PCA

from models.autoencoder import build_autoencoder
from models.checkpoints import load_autoencoder, load_mlp, save_autoencoder
from utils.core.tables import read_table
from utils.data.images import load_pixels
from utils.latents.encodings import code_length, encode
from utils.latents.figures import draw_extremes, pick_extremes
from utils.latents.space import principal_components

SIZE = 32
SCRIPT = "latent_analysis.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_memcat(tmp_path_factory.mktemp("data"), per_subcategory=3, side=48)


def make_output(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    save_autoencoder(folder / "net.pth", build_autoencoder("vgg11", seed), image_size=SIZE, caveats=[])
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A study in which the script ran with no flag; not to be changed."""
    output = make_output(tmp_path_factory.mktemp("out"))
    done = run(output, data, runner=run_script_process)
    assert done.returncode == 0, done.stderr
    return output


def run(output, data, *flags, runner=run_here):
    shared = ("--data-dir", data, "--output-path", output, "--image-size", SIZE, "--workers", 0)
    return runner(SCRIPT, *shared, "--resamples", 50, *flags)


def copy_study(finished, folder):
    """What the distinctiveness analysis needs, to be damaged at will."""
    folder.mkdir(exist_ok=True)
    for path in finished.iterdir():
        if path.is_file() and path.suffix in {".csv", ".npy", ".pth"}:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_no_flag_does_both(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "latents_net.npy",
        "latents_net.csv",
        "distinctiveness_net.csv",
        "distinctiveness_correlations.csv",
        "latent_space_net.csv",
        "latent_space_net.png",
        "latent_space_net.pdf",
        "distinctive_images_net.png",
        "distinctiveness_net.png",
    } <= names
    table = pd.read_csv(finished / "distinctiveness_net.csv")
    assert list(table.columns[:6]) == [
        "image_id",
        "category",
        "memorability",
        "nearest_image_id",
        "nearest_distance",
        "distinctiveness",
    ]
    assert len(table) == 12
    assert table["distinctiveness"].mean() == pytest.approx(0, abs=1e-7)
    record = json.loads((finished / "run_latent_analysis.json").read_text())
    assert record["status"] == "complete"
    assert record["counts"]["images"] == 12
    assert (finished / "splits.csv").is_file()  # or category_splits would hang on which stages ran before
    assert not list((finished / "shards").glob("distinctiveness*"))


def test_codes_are_the_encoders_own(finished, data):
    model, _ = load_autoencoder(finished / "net.pth")
    matrix = np.load(finished / "latents_net.npy")
    ids = pd.read_csv(finished / "latents_net.csv")["image_id"]
    assert matrix.shape == (12, 512)
    for row in (0, 7):
        path = data / "MemCat_images" / "MemCat" / ids[row]
        with torch.inference_mode():
            code = model.encode(torch.from_numpy(load_pixels(path, SIZE))[None])[0].flatten().numpy()
        np.testing.assert_allclose(matrix[row], code, rtol=1e-4, atol=1e-6)


def test_the_nearest_is_the_nearest_of_the_matrix(finished):
    matrix = np.load(finished / "latents_net.npy").astype(float)
    table = pd.read_csv(finished / "distinctiveness_net.csv")
    distances = np.linalg.norm(matrix[:, None] - matrix[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert table["nearest_image_id"].tolist() == table["image_id"].iloc[distances.argmin(1)].tolist()
    np.testing.assert_allclose(table["nearest_distance"], distances.min(1), rtol=1e-8)


def test_running_again_is_up_to_date_and_gives_the_same_bytes(finished, data, tmp_path):
    names = (
        "latents_net.csv",
        "distinctiveness_net.csv",
        "distinctiveness_correlations.csv",
        "latent_space_net.png",
    )
    before = {name: (finished / name).read_bytes() for name in names}
    modified = (finished / "latents_net.npy").stat().st_mtime_ns
    done = run(finished, data)
    assert done.returncode == 0
    assert "up to date" in done.stderr
    assert (finished / "latents_net.npy").stat().st_mtime_ns == modified
    assert before == {name: (finished / name).read_bytes() for name in names}


def test_another_layer_and_search_never_replace_the_default_files(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.glob("*net.*")}
    flags = (
        "--layer",
        "conv4",
        "--pool",
        "avg",
        "--dtype",
        "float16",
        "--metric",
        "cosine",
        "--neighbours",
        3,
    )
    done = run(output, data, *flags)
    assert done.returncode == 0, done.stderr
    matrix = np.load(output / "latents_net@conv4-avg.npy")
    assert (matrix.shape, matrix.dtype) == ((12, 512), np.float16)
    name = "net@conv4-avg-cosine-k3"
    assert (output / f"distinctiveness_{name}.csv").exists()
    assert all((output / file).read_bytes() == content for file, content in before.items())
    correlations = pd.read_csv(output / "distinctiveness_correlations.csv", keep_default_na=False)
    assert set(correlations["model"]) == {"net", name}


@pytest.mark.parametrize("layer", ["conv1", "conv3", "conv5"])
def test_code_length_is_that_of_the_code(layer):
    model = build_autoencoder("vgg11", 0).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        whole = encode(model, images, layer, "none")
        block = model.encoder(images, until=layer)
        assert torch.equal(whole, block.flatten(1))
        assert whole.shape == (2, code_length(64, layer, "none"))
        assert torch.allclose(encode(model, images, layer, "avg"), block.flatten(2).mean(2))
        assert torch.equal(encode(model, images, layer, "max"), block.flatten(2).amax(2))


def test_the_default_code_of_the_paper_has_25088_values():
    assert code_length(224, "conv5", "none") == 25_088
    compact = build_autoencoder("vgg11", width=0.25)
    assert code_length(96, "conv5", "none", compact.widths) == 1152


def analyse(output, data, *flags):
    return run(output, data, "--distinctiveness-analysis", *flags)


def test_a_truncated_matrix_is_refused(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    path = output / "latents_net.npy"
    path.write_bytes(path.read_bytes()[:-100])
    assert_user_error(
        analyse(output, data), "latents_net.npy", "cut short", "--calculate-latents --overwrite"
    )


def test_codes_of_another_model_are_refused(finished, data, tmp_path):
    output = make_output(copy_study(finished, tmp_path / "out"), seed=1)
    old = (output / "distinctiveness_net.csv").read_bytes()
    assert_user_error(analyse(output, data), "latents_net.npy was made by an encoder", "net.pth has")
    assert (output / "distinctiveness_net.csv").read_bytes() == old


def test_codes_of_other_images_are_refused(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    done = analyse(output, data, "--limit", 6)
    assert_user_error(
        done, "different image lists (12 and 6 images", "latents_net.npy", "memcat_image_data.csv"
    )


def test_too_many_neighbours_are_refused(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    assert_user_error(analyse(output, data, "--neighbours", 12), "--neighbours 12", "at most --neighbours 11")


def test_one_image_is_refused_but_its_code_is_kept(data, tmp_path):
    output = make_output(tmp_path / "out")
    assert_user_error(run(output, data, "--limit", 1), "holds the code of one image")
    assert np.load(output / "latents_net.npy").shape == (1, 512)
    assert not (output / "distinctiveness_net.csv").exists()


def test_a_missing_matrix_names_the_command(data, tmp_path):
    output = make_output(tmp_path / "out")
    assert_user_error(
        analyse(output, data), "latents_net.csv is missing", "latent_analysis.py --calculate-latents"
    )


def test_codes_alone_are_enough_without_the_checkpoint(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    (output / "net.pth").unlink()
    assert analyse(output, data).returncode == 0
    (output / "latents_other.csv").write_bytes((output / "latents_net.csv").read_bytes())
    assert_user_error(analyse(output, data), "several models", "net, other", "--model-names")


def test_an_unreadable_image_is_skipped_in_both_parts(tmp_path):
    data = write_memcat(tmp_path / "data", per_subcategory=2, side=48)
    victim = next((data / "MemCat_images").rglob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:300])
    output = make_output(tmp_path / "out")
    done = run(output, data)
    assert done.returncode == 0, done.stderr
    assert victim.name in (output / "skipped_images.csv").read_text()
    assert len(pd.read_csv(output / "distinctiveness_net.csv")) == 7
    assert analyse(output, data).returncode == 0
    assert victim.name in (output / "skipped_images.csv").read_text()


def test_broken_weights_are_refused_naming_the_images(data, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    model = build_autoencoder("vgg11", 0)
    model.encoder.conv1[0].layer[0].weight.data[0] = float("nan")
    save_autoencoder(output / "net.pth", model, image_size=SIZE, caveats=[])
    done = run(output, data, "--calculate-latents")
    assert_user_error(done, "animal/bear/000000000001.jpg", "NaN or infinity", "net.pth")
    assert not (output / "latents_net.npy").exists()


def test_principal_components_equal_scikit_learn():
    rng = np.random.default_rng(0)
    matrix = (rng.standard_normal((120, 8)) * [9, 7, 5, 3, 1, 1, 1, 1]) @ rng.standard_normal((8, 300))
    matrix = (matrix + 20).astype(np.float32)
    found = principal_components(matrix, 4)
    oracle = PCA(4, svd_solver="full").fit(matrix)
    expected = oracle.transform(matrix)
    signs = np.sign((found.scores * expected).sum(0))
    np.testing.assert_allclose(found.scores, expected * signs, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(found.explained, oracle.explained_variance_ratio_, rtol=1e-3)


def test_principal_components_of_few_rows_and_of_a_subset():
    matrix = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    assert principal_components(matrix).scores.shape == (3, 3)
    many = np.random.default_rng(0).standard_normal((90, 20)).astype(np.float32)
    subset = principal_components(many, 2, max_fit_rows=30)
    assert subset.fitted_rows == 30
    assert subset.scores.shape == (90, 2)


def test_extremes_share_no_image():
    table = pd.DataFrame({"image_id": list("abcde"), "distinctiveness": [1.0, 2, np.nan, 3, 4]})
    groups = pick_extremes(table, 8)
    assert groups["Most distinctive"]["image_id"].tolist() == ["e", "d"]
    assert groups["Least distinctive"]["image_id"].tolist() == ["a", "b"]


def test_every_extreme_stands_above_its_own_neighbour():
    table = pd.DataFrame({"image_id": list("abcd"), "distinctiveness": [1.0, 2, 3, 4], "memorability": 0.5})
    table = table.assign(nearest_image_id=list("badc"), nearest_distance=[1.0, 1, 5, 5])
    grey = {name: np.full((3, 2, 2), value) for name, value in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)}
    figure = draw_extremes(pick_extremes(table), grey, "net", "euclidean")
    shown = [axis.images[0].get_array()[0, 0, 0] if axis.images else None for axis in figure.axes]
    assert shown == [0.4, 0.3, 0.3, 0.4, 0.1, 0.2, 0.2, 0.1]


def test_measures_get_a_table_and_rows_of_their_own(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    done = run(output, data, "--distinctiveness-analysis", "--measure", "centroid", "nearest_euclidean")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(output / "distinctiveness_measures_net.csv")
    usual = pd.read_csv(output / "distinctiveness_net.csv")
    np.testing.assert_allclose(table["nearest_euclidean"], usual["nearest_distance"], rtol=1e-6)
    np.testing.assert_allclose(
        table["centroid_within_category"], usual["category_centroid_distance"], rtol=1e-6
    )
    assert "mahalanobis" not in table
    rows = pd.read_csv(output / "distinctiveness_correlations.csv", keep_default_na=False)
    rho = rows[rows["held_constant"] == ""].set_index("measure")["rho"]
    assert rho["nearest_euclidean"] == rho["distinctiveness"]


def test_k_of_the_measures_beyond_the_set_is_a_user_error(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    flags = ("--distinctiveness-analysis", "--measure", "all", "--measure-neighbours", 12)
    assert_user_error(run(output, data, *flags), "at most --measure-neighbours 11")


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    """A study of every block of the autoencoder; not to be changed."""
    output = make_output(tmp_path_factory.mktemp("swept"))
    done = run(output, data, "--layer", "all", "--pool", "mean")
    assert done.returncode == 0, done.stderr
    return output


def test_every_layer_from_one_pass_equals_the_layer_alone(swept, data, tmp_path):
    output = make_output(tmp_path / "out")
    done = run(output, data, "--layer", "conv3", "--pool", "avg", "--calculate-latents")
    assert done.returncode == 0, done.stderr
    alone = np.load(output / "latents_net@conv3-avg.npy")
    np.testing.assert_array_equal(np.load(swept / "latents_net@conv3-avg.npy"), alone)
    tables = [pd.read_csv(folder / "latents_net@conv3-avg.csv") for folder in (output, swept)]
    pd.testing.assert_frame_equal(*tables)
    assert np.load(swept / "latents_net@conv1-avg.npy").shape == (12, 64)


def test_several_layers_give_a_curve_along_depth(swept):
    curve = pd.read_csv(swept / "latent_layers_net.csv")
    own = curve[curve["measure"] == "distinctiveness"].set_index("layer")
    assert own.index.tolist() == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    rows = pd.read_csv(swept / "distinctiveness_correlations.csv")
    rows = rows[rows["measure"] == "distinctiveness"].set_index("model")["rho"]
    for layer in own.index:
        assert own.loc[layer, "rho"] == pytest.approx(rows[f"net@{layer}-avg"])
    assert own["values"].tolist() == [64, 128, 256, 512, 512]
    assert (swept / "latent_layers_net.png").exists()


def test_an_unknown_layer_lists_the_layers(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    assert_user_error(
        run(output, data, "--layer", "conv6"), "has no layer conv6", "conv1, conv2, conv3, conv4, conv5"
    )


def test_another_encoder_ends_as_ordinary_latents_and_is_explained(data, tmp_path):
    name = "torchvision-squeezenet1_1"
    flags = ("--encoder", "torchvision:squeezenet1_1", "--encoder-weights", "random")
    done = run(tmp_path, data, *flags, "--layer", "features.0", "output")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / f"latents_{name}.csv")
    assert table["layer"].unique().tolist() == ["output"]
    assert table["image_size"].unique().tolist() == [224]
    assert table["caveat"].unique().tolist() == ["random weights: encoder (torchvision:squeezenet1_1)"]
    assert np.load(tmp_path / f"latents_{name}@features.0-avg.npy").shape == (12, 64)
    rows = pd.read_csv(tmp_path / "distinctiveness_correlations.csv")
    assert set(rows["model"]) == {name, f"{name}@features.0-avg"}
    assert (tmp_path / f"latent_layers_{name}.csv").exists()
    shared = ("--data-dir", data, "--output-path", tmp_path, "--workers", 0)
    done = run_here("mlp_predict.py", *shared, "--train", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    integration = ("--steps", 4, "--max-doublings", 0, "--limit", 1, "--top-k", 1)
    done = run_here("model_interpretation_IG.py", *shared, *integration)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / f"ig_{name}.csv")
    maps = np.load(tmp_path / f"ig_{name}.npy")
    assert maps.shape == (1, 224, 224)
    head, _ = load_mlp(tmp_path / f"mlp_{name}.pth")
    codes = np.load(tmp_path / f"latents_{name}.npy")[table["image_id"].tolist().index(found["image_id"][0])]
    with torch.inference_mode():
        score = float(head(torch.from_numpy(codes)[None])[0])
    assert found["prediction"][0] == pytest.approx(score, abs=1e-4)
    (tmp_path / f"encoder_{name}.json").unlink()
    done = run_here("model_interpretation_IG.py", *shared)
    assert_user_error(done, f"latents_{name}.npy came from an encoder that is not on record")


def test_the_autoencoder_has_no_class_token(finished, data, tmp_path):
    output = copy_study(finished, tmp_path / "out")
    assert_user_error(run(output, data, "--pool", "cls", "--overwrite"), "the autoencoder has none")


def test_codes_in_bf16_are_close_marked_and_not_taken_for_float32s(finished, data, tmp_path):
    output = make_output(tmp_path / "out")
    calculate = ("--calculate-latents", "--precision", "bf16")
    assert run(output, data, *calculate).returncode == 0
    plain, reduced = (np.load(folder / "latents_net.npy") for folder in (finished, output))
    assert not np.array_equal(plain, reduced)
    assert np.linalg.norm(plain - reduced) < 0.1 * np.linalg.norm(plain)
    table = read_table(output / "latents_net.csv", "latents")
    assert table["caveat"].str.contains("networks computed in bf16").all()
    assert_user_error(analyse(output, data, "--precision", "bf16"), "float32 alone", "no network runs here")
    assert run(output, data, "--calculate-latents").returncode == 0
    np.testing.assert_array_equal(np.load(output / "latents_net.npy"), plain)
