import numpy as np
import pytest
from sklearn.decomposition import PCA

from utils.pretraining.rival import fit_rival, from_blocks, to_blocks


def pictures(count, side=64, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 4))
    return coarse.repeat(side // 4, axis=2).repeat(side // 4, axis=3).astype(np.uint8)


def test_blocks_are_the_squares_of_the_code_and_come_back():
    pixels = pictures(2, 64)
    pixels[1, 2, 32 + 5, 7] = 201  # second picture, blue, lower left block
    blocks = to_blocks(pixels)
    assert blocks.shape == (8, 3072)
    assert blocks[4 + 2].reshape(3, 32, 32)[2, 5, 7] == pytest.approx(201 / 255)
    np.testing.assert_allclose(from_blocks(blocks, 64) * 255, pixels, atol=1e-4)


def test_it_is_the_principal_component_analysis_of_the_blocks():
    train, held_out = pictures(30, seed=1), pictures(3, seed=2)
    rival = fit_rival(train, channels=5)
    assert (rival.components, rival.blocks) == (5, 120)
    exact = PCA(5, svd_solver="full").fit(to_blocks(train))
    expected = exact.inverse_transform(exact.transform(to_blocks(held_out))).clip(0, 1)
    np.testing.assert_allclose(rival.reconstruct(held_out), from_blocks(expected, 64), atol=1e-3)


def test_never_more_components_than_blocks():
    assert fit_rival(pictures(2, side=32), channels=128).components == 2
