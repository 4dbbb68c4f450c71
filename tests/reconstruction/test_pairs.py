"""The small pictures beside each row of the losses: the right image, the right half, the same bytes every time."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from utils.reconstruction.pairs import encode_pairs, pack_pairs, pair_size


@pytest.mark.parametrize(
    ("image_size", "expected"), [(224, 128), (128, 128), (96, 96), (100, 96), (90, 88), (32, 32)]
)
def test_a_picture_is_no_larger_than_the_image(image_size, expected):
    assert pair_size(image_size) == expected


def test_left_is_the_image_and_right_its_reconstruction():
    image = torch.zeros(2, 3, 64, 64)
    image[0, 0], image[1, 2] = 1.0, 1.0  # red, blue
    reconstruction = torch.zeros(2, 3, 64, 64)
    reconstruction[:, 1] = 2.0  # green, and beyond the range
    for picture, first in zip(encode_pairs(image, reconstruction), ([254, 0, 0], [0, 0, 254]), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(picture)))
        assert pixels.shape == (64, 128, 3)
        assert np.abs(pixels[:, :64].astype(int) - first).max() <= 2  # up to the last column: no bleeding
        assert np.abs(pixels[:, 64:].astype(int) - [0, 255, 0]).max() <= 2


def test_member_i_is_row_i_and_the_bytes_are_the_same_every_time(tmp_path):
    rows = [{"image_id": name, "mse": 0.1, "pair": ascii(name).encode()} for name in ("../b", "a\udcff")]
    kept = pack_pairs(iter(rows), tmp_path / "one.zip")
    pack_pairs(iter(rows), tmp_path / "two.zip")
    assert kept == [{"image_id": "../b", "mse": 0.1}, {"image_id": "a\udcff", "mse": 0.1}]
    with zipfile.ZipFile(tmp_path / "one.zip") as pack:
        assert pack.namelist() == ["000000.jpg", "000001.jpg"]
        assert pack.read("000000.jpg") == b"'../b'"
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
