"""Known answers for composition features: synthetic pictures whose value follows from the definition."""

import cv2
import numpy as np
import pytest
from scipy import ndimage, signal
from skimage import data

from utils.data.pixels import to_lab
from utils.features import composition


def noise(slope, height, width, seed=0):
    """A picture whose power falls with spatial frequency as frequency ** slope, 8 bit."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) * frequency ** (slope / 2)).real
    return np.clip(128 + 40 * field / field.std(), 0, 255).round().astype(np.uint8)


def stripes(angle, side=320, period=16):
    down, across = np.mgrid[:side, :side]
    wave = np.sin(2 * np.pi / period * (across * np.cos(angle) + down * np.sin(angle)))
    return (128 + 100 * wave).round().astype(np.uint8)


def coloured(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def photograph():
    return cv2.resize(data.coffee(), (240, 160), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def grey(photograph):
    return cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)


# ---- Fourier slope


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
@pytest.mark.parametrize("side", [256, 255])
def test_fourier_slope_of_noise_is_the_one_it_was_made_with(slope, side):
    assert composition.fourier_slope(noise(slope, side, side)) == pytest.approx(slope, abs=0.06)


def test_fourier_slope_of_a_wide_picture_follows_from_its_padded_square(grey):
    """An independent way: the full transform, a loop over frequencies, numpy's own histogram."""
    side = max(grey.shape)
    square = np.full((side, side), grey.mean())
    square[: grey.shape[0], : grey.shape[1]] = grey
    power = np.abs(np.fft.fftshift(np.fft.fft2(square))) ** 2
    middle = side // 2
    radius = np.rint(np.hypot(*(np.indices(power.shape) - middle)))
    used = np.arange(10, (side - 1) // 2 + 1)
    average = np.array([power[radius == cycles].mean() for cycles in used])
    edges = np.geomspace(10, used[-1] + 1, 25)
    members = [used[(used >= low) & (used < high)] for low, high in zip(edges[:-1], edges[1:], strict=True)]
    points = [(np.log(m.mean()), np.log(average[m - 10].mean())) for m in members if len(m)]
    expected = np.polyfit(*np.array(points).T, 1)[0]
    assert composition.fourier_slope(grey) == pytest.approx(expected, abs=1e-6)


def test_fourier_slope_does_not_depend_on_brightness_or_contrast():
    field = noise(-2.0, 200, 200)
    weaker = (field.astype(float) / 2 + 20).round().astype(np.uint8)
    assert composition.fourier_slope(weaker) == pytest.approx(composition.fourier_slope(field), abs=0.02)


# ---- symmetry


def test_a_mirrored_picture_is_symmetric_in_its_own_direction(grey):
    left_right = np.hstack([grey, grey[:, ::-1]])
    found = composition.mirror_symmetry(left_right)
    assert found[0] == pytest.approx(1, abs=1e-12)
    assert found[1] < 0.9
    assert composition.mirror_symmetry(left_right.T)[::-1] == pytest.approx(found)


def test_symmetry_is_the_correlation_with_the_mirror_image(grey):
    expected = [np.corrcoef(grey.ravel(), mirror.ravel())[0, 1] for mirror in (grey[:, ::-1], grey[::-1])]
    assert composition.mirror_symmetry(grey) == pytest.approx(expected)


def test_a_ramp_is_the_negative_of_its_mirror_image_and_noise_is_unrelated_to_it():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    assert composition.mirror_symmetry(ramp) == pytest.approx((-1, 1))
    assert composition.mirror_symmetry(noise(0, 128, 128)) == pytest.approx((0, 0), abs=0.05)


# ---- box counting


def sierpinski(power):
    row, column = np.indices((2**power, 2**power))
    return (row & column) == 0


@pytest.mark.parametrize(
    ("mask", "dimension"),
    [
        (sierpinski(8), np.log2(3)),
        (np.arange(256)[:, None] == np.full(256, 77), 1.0),
        (np.eye(256, dtype=bool), 1.0),
        (np.ones((256, 256), bool), 2.0),
        (np.pad([[True]], ((100, 155), (100, 155))), 0.0),
    ],
    ids=["Sierpinski triangle", "line", "diagonal", "plane", "point"],
)
def test_box_counting_dimension_of_known_sets(mask, dimension):
    assert composition.box_counting_dimension(mask) == pytest.approx(dimension, abs=1e-9)


def test_box_counts_equal_a_direct_count_where_boxes_do_not_fit():
    mask = np.random.default_rng(0).random((101, 147)) < 0.01
    sides = [2, 4, 8]
    counts = []
    for side in sides:
        boxes = {(row // side, column // side) for row, column in np.argwhere(mask)}
        counts.append(len(boxes))
    expected = -np.polyfit(np.log(sides), np.log(counts), 1)[0]
    assert composition.box_counting_dimension(mask) == pytest.approx(expected)


def test_fractal_dimension_of_a_straight_border_is_one_and_of_noise_nearly_two():
    halves = np.where(np.arange(256) < 100, 40, 200).astype(np.uint8) * np.ones((256, 1), np.uint8)
    assert composition.fractal_dimension(halves) == pytest.approx(1, abs=1e-9)
    assert composition.fractal_dimension(noise(0, 256, 256)) > 1.95


# ---- edge orientations


def test_parallel_edges_have_two_directions_and_random_ones_have_them_all():
    # dark to light and light to dark: one bit, for directions that one of the filters has
    for index in (0, 3, 6):
        angle = 2 * np.pi * index / composition.GABOR_DIRECTIONS
        assert composition.edge_orientation_entropy(stripes(angle)) == pytest.approx(1, abs=0.1)
    random = composition.edge_orientation_entropy(noise(-1, 320, 320))
    assert random == pytest.approx(np.log2(24), abs=0.05)


def test_edge_orientation_entropy_equals_its_definition_with_all_24_filters():
    picture = noise(-2.5, 300, 400, seed=3)  # 120,000 px, so that nothing is resized
    responses = []
    reach = np.arange(-7, 8)
    sigma = 8 / np.pi * np.sqrt(np.log(2) / 2) * 17 / 15
    for index in range(24):
        angle = 2 * np.pi * index / 24
        along = reach[None] * np.cos(angle) + reach[:, None] * np.sin(angle)
        kernel = np.exp(-(reach[None] ** 2 + reach[:, None] ** 2) / (2 * sigma**2)) * np.sin(
            np.pi / 4 * along
        )
        padded = np.pad(picture.astype(float), 7, mode="symmetric")
        responses.append(signal.fftconvolve(padded, kernel[::-1, ::-1], mode="valid"))
    strength, direction = np.max(responses, axis=0), np.argmax(responses, axis=0)
    kept = strength >= np.sort(strength, axis=None)[-10_000]
    sums = np.array([strength[kept & (direction == index)].sum() for index in range(24)])
    shares = sums[sums > 0] / sums.sum()
    expected = -(shares * np.log2(shares)).sum()
    assert composition.edge_orientation_entropy(picture) == pytest.approx(expected, abs=1e-4)


# ---- self-similarity


def slow_self_similarity(rgb):
    """The definition once more, part by part, with numpy's histogram."""
    lab = to_lab(rgb) * [2.55, 1, 1]
    gradients = []
    for axis in (1, 0):
        channels = np.gradient(lab, axis=axis)
        choice = np.abs(channels).argmax(axis=2)
        gradients.append(np.take_along_axis(channels, choice[..., None], axis=2)[..., 0])
    strength = np.hypot(*gradients)
    degrees = np.rad2deg(np.arctan2(gradients[1], gradients[0])) % 360
    degrees = np.where(degrees >= 360 - 11.25, degrees - 360, degrees)

    def histogram(part):
        return np.histogram(degrees[part], np.arange(17) * 22.5 - 11.25, weights=strength[part])[0]

    height, width = strength.shape
    whole = histogram(np.s_[:, :])
    levels = []
    for cells in (2, 4, 8):
        rows = np.rint(np.arange(cells + 1) * height / cells).astype(int)
        columns = np.rint(np.arange(cells + 1) * width / cells).astype(int)
        values = []
        for row in range(cells):
            for column in range(cells):
                part = histogram(np.s_[rows[row] : rows[row + 1], columns[column] : columns[column + 1]])
                shared = np.minimum(part / part.sum(), whole / whole.sum()).sum()
                ratio = part.sum() * cells**2 / whole.sum()
                values.append(shared * min(ratio, 1 / ratio))
        levels.append(np.median(values))
    return np.mean(levels)


def test_self_similarity_equals_its_definition(photograph, monkeypatch):
    monkeypatch.setattr(composition, "PHOG_AREA_PX", photograph.shape[0] * photograph.shape[1])
    found = composition.phog_self_similarity(photograph)
    assert found == pytest.approx(slow_self_similarity(photograph), abs=1e-6)


def test_a_repeated_pattern_is_more_self_similar_than_one_object():
    tile = noise(-2, 40, 40)
    repeated = composition.phog_self_similarity(coloured(np.tile(tile, (8, 8))))
    lonely = np.full((320, 320), 128, np.uint8)
    lonely[20:60, 20:60] = tile
    assert repeated > 0.85
    assert composition.phog_self_similarity(coloured(lonely)) < 0.05


# ---- saliency


def test_what_stands_out_is_salient_and_lowers_the_entropy():
    field = noise(0, 256, 256)
    assert composition.saliency_entropy(field) > 11.5
    odd = np.random.default_rng(1).normal(100, 2, (256, 256)).round().astype(np.uint8)
    odd[96:112, 160:176] = 200
    peak = np.unravel_index(np.argmax(composition.saliency_map(odd)), (64, 64))
    assert 23 <= peak[0] <= 28
    assert 39 <= peak[1] <= 44
    assert composition.saliency_entropy(odd) < composition.saliency_entropy(field) - 0.2


def test_saliency_equals_its_definition(grey):
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA) / 255
    spectrum = np.fft.fft2(small)
    logarithm = np.log(np.abs(spectrum))
    smooth = ndimage.convolve(logarithm, np.ones((3, 3)) / 9, mode="wrap")
    surprise = np.abs(np.fft.ifft2(np.exp(logarithm - smooth + 1j * np.angle(spectrum)))) ** 2
    expected = ndimage.gaussian_filter(surprise, 2.5)
    np.testing.assert_allclose(composition.saliency_map(grey), expected, rtol=1e-6)


# ---- faces


def test_one_face_is_found_where_there_is_one_and_none_elsewhere():
    assert composition.face_count(data.astronaut()) == 1
    assert composition.face_count(data.coffee()) == 0
    assert composition.face_count(np.hstack([data.astronaut()] * 2)) == 2


# ---- what has no value


def test_a_plain_picture_has_no_composition_but_no_faces_either():
    plain = np.full((128, 96, 3), 77, np.uint8)
    found = composition.composition_features(plain, plain[..., 0])
    assert all(np.isnan(value) for value in found.values()), found
    assert composition.face_count(plain) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (15, 40), (40, 15), (16, 16)])
def test_small_pictures_give_numbers_or_nothing(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = composition.composition_features(pixels, pixels[..., 0])
    assert np.isnan(found["fractal_dimension"])
    assert np.isnan(found["phog_self_similarity"]) == (min(shape) < 16)
    assert np.isnan(found["edge_orientation_entropy"]) == (min(shape) < 16)
    assert np.isnan(found["fourier_slope"]) == (max(shape) < 41)
    assert composition.face_count(pixels) == 0
