"""What the authors' released script computes, written anew: each departure from the text is really there."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data, filters
from skimage.color import rgb2gray
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import shannon_entropy

from utils.core.feature_names import RELEASED_FEATURES
from utils.features import released
from utils.scenes.geometry import Detections


@pytest.fixture(scope="module")
def crop():
    """A 224 px square, so that the crop is the picture."""
    return cv2.resize(data.coffee(), (224, 224), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def found(crop):
    return released.released_features(crop)


def test_every_declared_feature_is_computed_in_order(found):
    class Cache:
        def boxes(self, *_, **__):
            return Detections(np.empty((0, 4), np.float32), (), np.empty(0, np.float32))

    names = [*found, *released.released_object_features(Cache(), "a")]
    assert names == [feature.name for feature in RELEASED_FEATURES]


def test_colour_is_in_eight_bit_units_and_diversity_throws_the_channels_together(crop, found):
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)
    assert found["released_colour_diversity"] == pytest.approx(shannon_entropy(lab))
    means = [found[f"released_lab_{channel}_mean"] for channel in "lab"]
    assert means == pytest.approx(lab.reshape(-1, 3).mean(axis=0))
    white = released.released_features(np.full((224, 224, 3), 255, np.uint8))
    assert (white["released_lab_l_mean"], white["released_lab_a_mean"]) == (255, 128)
    # One colour with three different coordinates is one colour; thrown together it is three values.
    assert released.released_features(np.full((224, 224, 3), (200, 30, 60), np.uint8))[
        "released_colour_diversity"
    ] == pytest.approx(np.log2(3))


def test_texture_reads_one_direction_of_a_grey_with_red_and_blue_exchanged(crop, found):
    grey = cv2.cvtColor(crop[..., ::-1].copy(), cv2.COLOR_RGB2GRAY)
    matrices = graycomatrix(
        grey, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 256, symmetric=True, normed=True
    )
    contrast, energy = graycoprops(matrices, "contrast")[0], graycoprops(matrices, "energy")[0]
    assert found["released_texture_contrast"] == pytest.approx(contrast[0])
    assert found["released_texture_energy"] == pytest.approx(energy[0])
    assert contrast[0] != pytest.approx(contrast.mean(), rel=0.01)  # one direction is not the mean of four


def test_clutter_is_the_entropy_of_distinct_sobel_magnitudes(crop, found):
    assert found["released_clutter_score"] == pytest.approx(
        shannon_entropy(filters.sobel(rgb2gray(crop))), abs=1e-6
    )
    plain = released.released_features(np.full((224, 224, 3), 90, np.uint8))
    assert plain["released_clutter_score"] == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    assert released.released_features(noise)["released_clutter_score"] > 15.5


def test_it_sees_the_crop_of_the_networks(crop):
    wide = np.hstack([np.zeros((224, 100, 3), np.uint8), crop, np.zeros((224, 100, 3), np.uint8)])
    assert released.released_features(wide) == pytest.approx(released.released_features(crop))
    large = np.asarray(Image.fromarray(crop).resize((448, 448), Image.Resampling.NEAREST))
    assert released.released_features(large)["released_lab_l_mean"] == pytest.approx(
        released.released_features(crop)["released_lab_l_mean"], abs=1
    )


def test_objects_count_whatever_their_score():
    class Cache:
        def boxes(self, image_id, crop=False, size=0, min_score=1.0):
            assert (image_id, crop, size, min_score) == ("a", True, 224, 0.05)
            boxes = np.array([[0, 0, 10, 20], [0, 0, 30, 10]], np.float32)
            return Detections(boxes, ("cat", "cat"), np.array([0.9, 0.06], np.float32))

    assert released.released_object_features(Cache(), "a") == {
        "released_object_count": 2,
        "released_object_area_mean": 250,
        "released_object_classes": 1,
    }
