"""The trivial rivals: known answers, and the order in which they put pictures."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args, make_picture
from in_process import run_here
from PIL import Image
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from models.autoencoder import build_autoencoder
from models.checkpoints import save_autoencoder
from utils.core.names import RIVALS
from utils.core.tables import output_file, read_table
from utils.data.dataset import load_dataset
from utils.data.images import load_pixels, preprocess
from utils.data.splits import load_splits
from utils.reconstruction.figures import draw_forest
from utils.reconstruction.rivals import measure_rivals, pca_errors, to_bytes


def plain(colour, side=32):
    return np.tile(np.array(colour, np.float32)[:, None, None], (1, side, side))


def test_a_plain_picture_has_no_variance_and_no_edges_and_few_bytes():
    found = measure_rivals(plain((0.2, 0.4, 0.6), 128))
    assert found["pixel_variance"] == pytest.approx(0, abs=1e-12)
    assert found["edge_energy"] == pytest.approx(0, abs=1e-12)
    noise = np.random.default_rng(0).random((3, 128, 128)).astype(np.float32)
    assert 600 < found["jpeg_bytes"] < measure_rivals(noise)["jpeg_bytes"] / 2


def test_variance_is_the_error_of_the_mean_colour():
    picture = preprocess(make_picture(3), 64)
    mean = picture.mean(axis=(1, 2), keepdims=True)
    assert measure_rivals(picture)["pixel_variance"] == pytest.approx(
        ((picture - mean) ** 2).mean(), rel=1e-5
    )


def test_a_ramp_has_the_edge_energy_of_its_slope():
    ramp = np.tile(np.arange(40, dtype=np.float32) / 100, (3, 40, 1))
    inner = measure_rivals(ramp)["edge_energy"]
    # 0.01 per pixel; the two border columns see half of it.
    assert inner == pytest.approx((38 * 0.01**2 + 2 * 0.005**2) / 40, rel=1e-4)
    assert measure_rivals(ramp.transpose(0, 2, 1))["edge_energy"] == pytest.approx(inner)
    green_only = ramp * np.array([0, 1, 0], np.float32)[:, None, None]
    assert measure_rivals(green_only)["edge_energy"] == pytest.approx(0.587**2 * inner, rel=1e-4)


def test_jpeg_bytes_are_those_of_the_file(tmp_path):
    image = make_picture(5, 48, 48)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    assert measure_rivals(preprocess(image, 48))["jpeg_bytes"] == len(stream.getvalue())


def test_more_detail_is_more_by_every_rival():
    coarse = np.asarray(Image.effect_noise((4, 4), 80).resize((64, 64), Image.Resampling.BICUBIC)) / 255
    fine = np.asarray(Image.effect_noise((64, 64), 80)) / 255
    few, many = (measure_rivals(np.tile(grey, (3, 1, 1)).astype(np.float32)) for grey in (coarse, fine))
    assert many["edge_energy"] > few["edge_energy"]
    assert many["jpeg_bytes"] > few["jpeg_bytes"]
    assert set(many) == set(RIVALS) - {"pca_error"}


class Linear:
    """Principal components of whole pictures."""

    def __init__(self, pixels, components):
        self.pca = PCA(components).fit(pixels.reshape(len(pixels), -1) / 255)

    def reconstruct(self, pixels):
        flat = self.pca.transform(pixels.reshape(len(pixels), -1) / 255)
        return self.pca.inverse_transform(flat).reshape(pixels.shape)


def test_pca_error_is_what_the_components_leave_out():
    pictures = np.stack([preprocess(make_picture(number), 16) for number in range(12)])
    code = Linear(to_bytes(pictures), 3)
    errors = pca_errors(pictures, code)
    assert errors.shape == (12,)
    values = np.linalg.svd((pictures.reshape(12, -1) - pictures.reshape(12, -1).mean(0)), compute_uv=False)
    assert errors.mean() == pytest.approx((values[3:] ** 2).sum() / pictures.size, rel=1e-4)
    assert pca_errors(pictures, Linear(to_bytes(pictures), 11)).max() == pytest.approx(0, abs=1e-12)


def test_bytes_are_those_that_preprocessing_divided():
    image = make_picture(1, 32, 32)
    assert np.array_equal(to_bytes(preprocess(image, 32)).transpose(1, 2, 0), np.asarray(image))


# ---------------------------------------------------------------------------------------- through the stages


@pytest.fixture(scope="module")
def tested(tmp_path_factory, mini_memcat):
    """Stage 2 of a thin network on the miniature MemCat."""
    out = tmp_path_factory.mktemp("rivals")
    network = build_autoencoder("vgg11", seed=0, width=0.0625)
    save_autoencoder(out / "net.pth", network, image_size=32, caveats=[])
    flags = [
        "--data-dir",
        mini_memcat,
        "--output-path",
        out,
        "--image-size",
        32,
        "--device",
        "cpu",
        "--workers",
        0,
    ]
    done = run_here("autoencoder_test.py", *flags, "--losses", "mse", "mae")
    assert done.returncode == 0, done.stderr
    return out, flags


def test_stage_2_writes_the_rivals_of_every_picture(tested, mini_memcat):
    out, _ = tested
    table = read_table(output_file(out, "rivals"), "rivals")
    dataset = load_dataset(dataset_args(mini_memcat, out))
    assert list(table["image_id"]) == list(dataset.table["image_id"])
    pixels = np.stack([load_pixels(path, 32) for path in dataset.table["path"]])
    for name in ("jpeg_bytes", "pixel_variance", "edge_energy"):
        np.testing.assert_allclose(table[name], [measure_rivals(one)[name] for one in pixels], rtol=1e-6)
    training = load_splits(dataset, out, 0)["split"].to_numpy() == "train"
    reference = PCA(int(training.sum()) - 1).fit(pixels[training].reshape(training.sum(), -1))
    again = reference.inverse_transform(reference.transform(pixels.reshape(len(pixels), -1)))
    wanted = ((again.clip(0, 1) - pixels.reshape(len(pixels), -1)) ** 2).mean(axis=1)
    # Fitted to the training pictures alone: those it reconstructs, the others it does not.
    np.testing.assert_allclose(table["pca_error"], wanted, atol=1e-3)
    assert table["pca_error"][training].max() < 1e-4 < table["pca_error"][~training].min()


def test_a_changed_training_picture_changes_the_code_of_all(tested, mini_memcat, tmp_path):
    out, flags = tested
    data, output = shutil.copytree(mini_memcat, tmp_path / "data"), shutil.copytree(out, tmp_path / "out")
    splits = read_table(output_file(output, "splits"), "splits")
    name = splits.loc[splits["split"] == "train", "image_id"].iloc[0]
    make_picture(99).save(data / "MemCat_images" / "MemCat" / name)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(out / "net.pth", fresh)
    for folder in (output, fresh):
        places = ["--data-dir", data, "--output-path", folder]
        done = run_here(
            "autoencoder_test.py", *flags[4:], *places, "--losses", "mse", "mae", "--batch-size", 2
        )
        assert done.returncode == 0, done.stderr
    assert (output / "rivals.csv").read_bytes() == (fresh / "rivals.csv").read_bytes()


def test_the_forest_has_the_rivals_under_every_network_and_no_panel_of_their_own():
    rows = [("a", "mse"), ("b", "mse"), ("rivals", "jpeg_bytes"), ("rivals", "pca_error")]
    table = pd.DataFrame(rows, columns=["model", "measure"])
    ends = [f"{end}{within}" for end in ("ci_low", "ci_high") for within in ("", "_within_category")]
    names = ["rho", "rho_within_category", "ceiling", "n", *ends, *(f"{end}_independent" for end in ends)]
    table = table.assign(**dict.fromkeys(names, 0.5), cluster="image")
    figure = draw_forest(table)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title().splitlines()[0] for axis in panels] == ["a", "b"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["mse", "rival: jpeg_bytes", "rival: pca_error"]
    assert not any("not computed" in text.get_text() for axis in panels for text in axis.texts)
    alone = draw_forest(table[2:])
    assert alone.axes[0].get_title().startswith("rivals")


def test_stage_3_sets_them_beside_the_losses(tested):
    out, flags = tested
    flags = flags[:4]
    done = run_here("autoencoder_evaluation.py", *flags, "--resamples", 20)
    assert done.returncode == 0, done.stderr
    table = read_table(output_file(out, "loss_correlations"), "loss_correlations")
    assert list(zip(table["model"], table["measure"], strict=True)) == [
        ("net", "mse"),
        ("net", "mae"),
        *(("rivals", name) for name in RIVALS),
    ]
    scores = read_table(output_file(out, "test_loss", "net"), "test_loss")["memorability"]
    bytes_ = read_table(output_file(out, "rivals"), "rivals")["jpeg_bytes"]
    got = table.set_index("measure").at["jpeg_bytes", "rho"]
    assert got == pytest.approx(spearmanr(bytes_, scores).statistic)
    pairs = read_table(output_file(out, "loss_comparisons"), "loss_comparisons")
    kinds = pairs["comparison"].value_counts().to_dict()
    assert kinds == {"rivals": 2 * len(RIVALS), "losses": 1}
    assert not ((pairs["model_a"] == "rivals") & (pairs["model_b"] == "rivals")).any()
    done = run_here("autoencoder_evaluation.py", *flags, "--resamples", 20, "--loss-columns", "mse")
    assert done.returncode == 0, done.stderr
    assert len(read_table(output_file(out, "loss_correlations"), "loss_correlations")) == 1
