"""The trivial rivals: known answers, and the order in which they put pictures."""

import io

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image
from sklearn.decomposition import PCA

from utils.data.images import preprocess
from utils.reconstruction.rivals import RIVALS, measure_rivals, pca_errors, to_bytes


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
