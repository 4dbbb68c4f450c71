"""Known answers for colour, texture and structure features."""

import cv2
import numpy as np
import pytest
from scipy import stats
from skimage import color, data
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import shannon_entropy

from utils.core.feature_names import FEATURES
from utils.features import image as features
from utils.features import texture

NAMES = [feature.name for feature in FEATURES]


def plain(colour, height=24, width=36):
    return np.full((height, width, 3), colour, np.uint8)


@pytest.fixture(scope="module")
def photograph():
    return cv2.resize(data.coffee(), (500, 375), interpolation=cv2.INTER_AREA)


# ---- declaration


def test_every_declared_feature_is_computed_in_order(photograph):
    assert list(features.image_features(photograph)) == NAMES
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("group", features.GROUPS)
def test_groups_select_their_own_columns(photograph, group):
    expected = [feature.name for feature in FEATURES if feature.group == group]
    assert list(features.image_features(photograph, [group])) == expected


def test_unknown_group_is_named(photograph):
    with pytest.raises(
        ValueError,
        match="unknown feature group smell; choose from colour, texture, structure, composition, faces, released",
    ):
        features.image_features(photograph, ["smell"])


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\) uint8 RGB pixels, received"):
        features.image_features(pixels)


# ---- colour: pure colours, units, channel order

PURE = {  # sRGB primaries in CIELAB (D65), and their HSV hue
    "red": ((255, 0, 0), (53.24, 80.09, 67.20), 0.0),
    "green": ((0, 255, 0), (87.73, -86.18, 83.18), 120.0),
    "blue": ((0, 0, 255), (32.30, 79.19, -107.86), 240.0),
}


@pytest.mark.parametrize("name", PURE)
def test_pure_colours_have_their_textbook_lab_and_hue(name):
    rgb, (lightness, a, b), hue = PURE[name]
    found = features.colour_features(plain(rgb))
    assert found["lab_l_mean"] == pytest.approx(lightness, abs=0.05)
    assert found["lab_a_mean"] == pytest.approx(a, abs=0.05)
    assert found["lab_b_mean"] == pytest.approx(b, abs=0.05)
    assert found["hsv_hue_mean"] == pytest.approx(hue, abs=1e-3)
    assert found["hsv_saturation_mean"] == pytest.approx(1)
    assert found["hsv_value_mean"] == pytest.approx(1)
    for spread in (
        "lab_l_std",
        "lab_a_std",
        "lab_b_std",
        "hsv_hue_std",
        "chroma_contrast_a",
        "colour_diversity",
    ):
        assert found[spread] == pytest.approx(0, abs=1e-4), spread


def test_red_is_red_everywhere(tmp_path):
    """Guards against reading or converting in BGR order: each place that depends on order is looked at."""
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), (255, 0, 0)).save(path)
    pixels = features.read_pixels(path)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    found = features.file_features(path)
    assert found["lab_a_mean"] > 70
    assert found["lab_b_mean"] > 60  # blue would be strongly negative
    assert found["hsv_hue_mean"] == pytest.approx(0, abs=1e-3)
    assert found["colourfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))
    assert features.to_grey(pixels)[0, 0] == round(0.299 * 255)  # 76; blue in its place would be 29


def test_black_grey_and_white_lightness():
    lightness = [features.colour_features(plain([level] * 3))["lab_l_mean"] for level in (0, 119, 255)]
    assert lightness == pytest.approx([0, 50.03, 100], abs=0.01)


def test_grey_picture_has_no_hue_but_everything_else():
    found = features.image_features(
        np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(96, 0)
    )
    missing = {name for name, value in found.items() if np.isnan(value)}
    assert missing == {"hsv_hue_mean", "hsv_hue_std"}
    assert found["colourfulness"] == 0


def test_lab_means_agree_with_skimage(photograph):
    expected = color.rgb2lab(photograph)
    found = features.colour_features(photograph)
    for axis, name in enumerate("lab"):
        assert found[f"lab_{name}_mean"] == pytest.approx(expected[..., axis].mean(), abs=0.01)
        assert found[f"lab_{name}_std"] == pytest.approx(expected[..., axis].std(), abs=0.01)


def test_saturation_and_value_agree_with_skimage(photograph):
    expected = color.rgb2hsv(photograph)
    found = features.colour_features(photograph)
    assert found["hsv_saturation_mean"] == pytest.approx(expected[..., 1].mean(), abs=1e-4)
    assert found["hsv_value_std"] == pytest.approx(expected[..., 2].std(), abs=1e-4)


# ---- hue is circular


def hues(*degrees):
    hsv = np.ones((1, len(degrees), 3), np.float32)
    hsv[0, :, 0] = degrees
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def test_hue_mean_goes_around_zero_not_through_cyan():
    found = features.colour_features(hues(350, 10))
    assert found["hsv_hue_mean"] == pytest.approx(0, abs=0.2) or found["hsv_hue_mean"] > 359.8
    assert found["hsv_hue_std"] == pytest.approx(np.rad2deg(stats.circstd(np.deg2rad([350, 10]))), abs=0.2)


def test_circular_hue_agrees_with_scipy_on_equal_weights():
    degrees = np.random.default_rng(3).normal(355, 30, 2000) % 360
    mean, spread = features.circular_hue(degrees.astype(np.float32), np.ones(2000, np.float32))
    assert mean == pytest.approx(stats.circmean(degrees, high=360), abs=1e-3)
    assert spread == pytest.approx(stats.circstd(degrees, high=360), abs=1e-3)


def test_circular_hue_counts_pixels_by_chroma():
    mean, _ = features.circular_hue(np.array([0.0, 90.0]), np.array([1.0, 3.0]))
    assert mean == pytest.approx(np.rad2deg(np.arctan2(3, 1)))


def test_opposite_hues_have_no_mean():
    assert np.isnan(features.circular_hue(np.array([0.0, 180.0]), np.ones(2))).all()
    assert np.isnan(features.circular_hue(np.array([0.0, 180.0]), np.zeros(2))).all()


def test_single_coloured_pixel_on_grey_is_not_a_hue():
    picture = plain([128] * 3, 100, 100)
    picture[0, 0] = (255, 0, 0)
    assert np.isnan(features.colour_features(picture)["hsv_hue_mean"])


def test_half_a_grey_level_of_chroma_is_not_a_hue_and_two_levels_are():
    picture = plain([128] * 3, 10, 10)
    picture[:5] = (129, 128, 128)
    assert np.isnan(features.colour_features(picture)["hsv_hue_mean"])
    picture[:] = (130, 128, 128)
    assert features.colour_features(picture)["hsv_hue_mean"] == pytest.approx(0, abs=1e-3)


# ---- colourfulness, chroma contrast, colour diversity


def test_colourfulness_of_three_primaries_by_hand():
    # rg = 255, -255, 0; yb = 127.5, 127.5, -255: the value also reported for this picture elsewhere, 206.52.
    assert features.colourfulness(
        np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    ) == pytest.approx(np.hypot(255 * np.sqrt(2 / 3), 127.5 * np.sqrt(2)) + 0.0)


def test_colourfulness_formula_on_a_photograph(photograph):
    red, green, blue = (photograph[..., channel].astype(float) for channel in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert features.colourfulness(photograph) == pytest.approx(expected, rel=1e-6)


def test_chroma_contrast_is_the_distance_of_two_halves():
    picture = plain((0, 255, 0))
    picture[:, :18] = (255, 0, 0)
    found = features.colour_features(picture)
    assert found["chroma_contrast_a"] == pytest.approx(80.09 + 86.18, abs=0.1)
    assert found["chroma_contrast_b"] == pytest.approx(83.18 - 67.20, abs=0.1)


def test_chroma_contrast_ignores_a_few_pixels():
    picture = plain((200, 200, 200), 10, 100)
    picture[0, :40] = (255, 0, 0)  # 4 % of the pixels
    assert features.colour_features(picture)["chroma_contrast_a"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("colours", [1, 2, 4])
def test_colour_diversity_of_equal_patches_is_their_number_in_bits(colours):
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)][:colours]
    picture = np.concatenate([plain(colour) for colour in palette], axis=1)
    assert features.colour_features(picture)["colour_diversity"] == pytest.approx(np.log2(colours), abs=1e-9)


def test_colour_diversity_does_not_count_noise_around_grey():
    noise = np.random.default_rng(0).integers(-1, 2, (64, 64, 3))
    picture = (np.array([135, 135, 135]) + noise).astype(np.uint8)
    assert features.colour_features(picture)["colour_diversity"] < 0.05


# ---- texture


def two_tone():
    picture = plain((0, 0, 0))
    picture[:, :18] = 255
    return picture


def test_two_tone_picture_has_one_bit():
    found = features.image_features(two_tone())
    assert found["grey_entropy"] == pytest.approx(1)
    assert found["colour_diversity"] == pytest.approx(1)


def test_grey_entropy_agrees_with_skimage(photograph):
    grey = features.to_grey(photograph)
    assert texture.texture_features(grey)["grey_entropy"] == pytest.approx(shannon_entropy(grey))


def test_checkerboard_by_hand():
    """Cells of 1 px, black and white: straight neighbours always differ, diagonal ones never do."""
    grey = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    straight = texture.glcm_properties(texture.glcm(grey, (0, 1)))
    diagonal = texture.glcm_properties(texture.glcm(grey, (-1, 1)))
    assert straight == pytest.approx((255**2, np.sqrt(0.5), 1 / (1 + 255**2), -1))
    # 7 x 7 diagonal pairs: 25 of one colour and 24 of the other.
    assert diagonal == pytest.approx((0, np.hypot(25, 24) / 49, 1, 1))
    expected = (np.array(straight) + np.array(diagonal)) / 2  # two straight and two diagonal directions
    found = texture.texture_features(grey)
    assert [found[name] for name in NAMES if name.startswith("glcm")] == pytest.approx(expected, rel=1e-6)


def test_horizontal_gradient_by_hand():
    """Level = column: horizontal neighbours differ by 1, vertical ones not at all."""
    grey = np.tile(np.arange(16, dtype=np.uint8), (6, 1))
    contrast, energy, homogeneity, correlation = texture.glcm_properties(texture.glcm(grey, (0, 1)))
    assert (contrast, homogeneity) == (pytest.approx(1), pytest.approx(0.5))
    assert energy == pytest.approx(np.sqrt(30 * (1 / 30) ** 2))  # 15 steps up and 15 down, all alike
    assert 0.9 < correlation < 1
    contrast, energy, homogeneity, correlation = texture.glcm_properties(texture.glcm(grey, (-1, 0)))
    assert (contrast, homogeneity, correlation) == (0, pytest.approx(1), pytest.approx(1))
    assert energy == pytest.approx(0.25)  # 16 cells of 1/16


def test_glcm_agrees_with_skimage_in_every_direction(photograph):
    grey = features.to_grey(photograph)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    theirs = graycomatrix(grey, [1], angles, 256, symmetric=True, normed=True)
    # Their rows count downwards, so their 45 degrees is our 135: the same four directions.
    for offset, index in zip(texture.GLCM_OFFSETS, (0, 3, 2, 1), strict=True):
        np.testing.assert_allclose(texture.glcm(grey, offset), theirs[:, :, 0, index], atol=1e-15)
    found = texture.texture_features(grey)
    for name in ("contrast", "energy", "homogeneity", "correlation"):
        assert found[f"glcm_{name}"] == pytest.approx(graycoprops(theirs, name).mean(), rel=1e-9)


@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 14, 200), (255, 255, 255)])
def test_one_colour_picture_has_no_correlation(colour):
    found = features.image_features(plain(colour))
    assert np.isnan(found["glcm_correlation"])
    assert found["glcm_contrast"] == 0
    assert (found["glcm_energy"], found["glcm_homogeneity"], found["grey_entropy"]) == (1, 1, 0)


# ---- structure


def test_edge_density_of_a_drawn_square():
    """A 60 px square has an outline of 4 x 60 pixels, give or take its corners; its inside has no edge."""
    grey = np.full((120, 160), 40, np.uint8)
    grey[30:90, 50:110] = 220
    found = features.structure_features(grey)
    assert found["edge_density"] * grey.size == pytest.approx(240, abs=8)


def test_edge_density_grows_with_squares_and_ignores_faint_ones():
    def squares(number, level):
        grey = np.full((100, 400), 40, np.uint8)
        for index in range(number):
            grey[20:70, 100 * index + 20 : 100 * index + 70] = level
        return features.structure_features(grey)["edge_density"]

    assert squares(0, 220) == 0
    assert squares(4, 220) == pytest.approx(4 * squares(1, 220))
    assert squares(4, 60) == 0  # a step of 20 levels has a Sobel magnitude of 80, under the lower threshold


def upright_edge(*levels_by_rows):
    """Dark left half, and a right half whose level above the left's is given for each block of 20 rows."""
    grey = np.full((20 * len(levels_by_rows), 60), 40, np.uint8)
    for block, level in enumerate(levels_by_rows):
        grey[20 * block : 20 * (block + 1), 30:] += np.uint8(level)
    return grey


def test_an_edge_begins_where_the_gradient_passes_200():
    """A step of h levels has a Sobel magnitude of 4 h on an upright edge."""
    assert features.structure_features(upright_edge(51))["edge_density"] > 0
    assert features.structure_features(upright_edge(49))["edge_density"] == 0


def test_an_edge_goes_on_where_the_gradient_stays_above_100():
    """A step of 52 that fades to 26 (104) keeps its whole length; one that fades to 24 (96) loses the faint half."""

    def lower_rows(level):
        edges = [features.structure_features(upright_edge(52, step))["edge_density"] for step in (0, level)]
        return (edges[1] - edges[0]) * 40 * 60

    assert lower_rows(26) > lower_rows(24) + 12


def test_the_gradient_of_a_slanted_edge_is_its_length_and_not_the_sum_of_its_parts():
    """A slanted step of 40 levels has both parts at 120 or less: 170 together as a length, 240 as a sum."""
    rows, columns = np.mgrid[:60, :60]
    grey = np.where(rows + columns < 60, 40, 80).astype(np.uint8)
    assert features.structure_features(grey)["edge_density"] == 0
    assert features.structure_features((grey - 40) * 2 + 40)["edge_density"] > 0


def test_sobel_entropy_of_a_vertical_edge():
    """Of 36 columns the two beside the edge have magnitude 4 x 255, the others 0."""
    share = 2 / 36
    expected = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert features.structure_features(features.to_grey(two_tone()))["sobel_entropy"] == pytest.approx(
        expected
    )


def test_sobel_entropy_of_a_plain_picture_is_zero():
    assert features.structure_features(np.full((9, 9), 7, np.uint8)) == {
        "edge_density": 0,
        "sobel_entropy": 0,
    }


# ---- sizes and files


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_pictures_smaller_than_the_window_have_no_structure(size):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = features.image_features(picture)
    assert np.isnan(found["edge_density"])
    assert np.isnan(found["sobel_entropy"])
    assert np.isfinite(found["lab_l_mean"])
    assert np.isnan(found["glcm_contrast"]) == (size == (1, 1))


def test_bounded_keeps_small_pictures_and_shrinks_large_ones():
    small = plain((1, 2, 3))
    assert features.bounded(small) is small
    large = np.zeros((2048, 4096, 3), np.uint8)
    large[:, 2048:] = 255
    reduced = features.bounded(large)
    assert reduced.shape == (512, 1024, 3)
    assert features.image_features(large)["grey_entropy"] == pytest.approx(1)


def test_a_thin_strip_keeps_at_least_one_pixel():
    assert features.bounded(np.zeros((1, 5000, 3), np.uint8)).shape == (1, 1024, 3)


def test_photograph_values_are_in_their_declared_ranges(photograph):
    found = features.image_features(photograph)
    assert all(np.isfinite(value) for value in found.values())
    assert 0 < found["lab_l_mean"] < 100
    assert 0 <= found["hsv_hue_mean"] < 360
    assert 0 < found["grey_entropy"] < 8
    assert 0 < found["colour_diversity"] < 11.5
    assert 0 < found["sobel_entropy"] < 8.5
    assert 0 < found["edge_density"] < 1


def test_same_picture_same_values(photograph):
    assert features.image_features(photograph) == features.image_features(photograph.copy())


def test_gradients_of_equal_size_share_a_cell(monkeypatch):
    """240 and 44 make 244 exactly; a root that is off by its last digit, as cv2.magnitude's is on some machines and
    alignments, puts them into the cell below and makes two runs differ."""
    halves = {(1, 0): (240, 246), (0, 1): (44, 0)}  # cell 61 holds 244 to 248

    def gradient(grey, _, dx, dy, **__):
        left, right = halves[dx, dy]
        found = np.full(grey.shape, left, np.float32)
        found[:, grey.shape[1] // 2 :] = right
        return found

    monkeypatch.setattr(cv2, "Sobel", gradient)
    assert features.structure_features(np.zeros((3, 74), np.uint8))["sobel_entropy"] == 0


def test_sobel_entropy_from_exact_whole_numbers(photograph):
    grey = features.to_grey(photograph)
    across, down = (cv2.Sobel(grey, cv2.CV_64F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    cells = np.floor(np.sqrt(across**2 + down**2) / features.SOBEL_BIN).astype(int)
    found = features.structure_features(grey)["sobel_entropy"]
    assert found == pytest.approx(features.entropy_bits(np.bincount(cells.ravel())), rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 20, 41, 1000])
@pytest.mark.parametrize("percent", [0, 5, 50, 95, 100])
def test_percentiles_are_numpys_bit_for_bit(size, percent):
    draw = np.random.default_rng(size)
    for values in (
        draw.normal(0, 30, size).astype(np.float32),
        draw.integers(0, 3, size).astype(np.float32),
    ):
        # numpy takes the share as float32 where it is given a single number
        assert (
            features.percentile(values.reshape(1, -1), percent)
            == np.percentile(values, [percent, percent])[0]
        )
