"""The rival of every autoencoder: principal components of blocks of pixels, with a code of the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.autoencoder import DOWNSAMPLING

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

MOST_BLOCKS = 20_000
_BATCH = 2_000


def to_blocks(pixels: np.ndarray) -> np.ndarray:
    """Cut pictures into the 32 px squares that share one position of the latent code.

    Args:
        pixels: (N, 3, S, S) uint8, S a multiple of 32.

    Returns:
        (N * (S / 32) ** 2, 3072) float32 in [0, 1], picture by picture, row by row.
    """
    count, channels, side, _ = pixels.shape
    across = side // DOWNSAMPLING
    cut = pixels.reshape(count, channels, across, DOWNSAMPLING, across, DOWNSAMPLING)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(count * across**2, -1).astype(np.float32) / np.float32(255)


def from_blocks(blocks: np.ndarray, side: int) -> np.ndarray:
    """Undo `to_blocks`: (N * (S / 32) ** 2, 3072) floats to (N, 3, S, S)."""
    across = side // DOWNSAMPLING
    cut = blocks.reshape(-1, across, across, 3, DOWNSAMPLING, DOWNSAMPLING)
    return cut.transpose(0, 3, 1, 4, 2, 5).reshape(-1, 3, side, side)


@dataclass
class BlockPca:
    """A linear autoencoder of 32 px blocks: as many numbers per block as the network's code has channels.

    Attributes:
        pca: Fitted.
        blocks: How many it was fitted to.
    """

    pca: IncrementalPCA
    blocks: int

    @property
    def components(self) -> int:
        """Numbers per block."""
        return int(self.pca.n_components_)

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        """Return (N, components * (S / 32) ** 2) float32: what it knows of each picture."""
        return self.pca.transform(to_blocks(pixels)).astype(np.float32).reshape(len(pixels), -1)

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """Encode and decode (N, 3, S, S) uint8 pictures; the result is float32, clipped to [0, 1]."""
        codes = self.pca.transform(to_blocks(pixels))
        return from_blocks(self.pca.inverse_transform(codes).astype(np.float32).clip(0, 1), pixels.shape[-1])


def fit_rival(pixels: np.ndarray, channels: int) -> BlockPca:
    """Fit principal components to the blocks of the training pictures (Ross et al. 2008, by scikit-learn).

    Args:
        pixels: (N, 3, S, S) uint8, the training pictures as every later stage sees them.
        channels: Of the network's code: how many components; fewer where there are not as many blocks.

    Returns:
        The rival, fitted to at most 20,000 blocks, evenly spaced.
    """
    from sklearn.decomposition import IncrementalPCA

    blocks = to_blocks(pixels)
    if len(blocks) > MOST_BLOCKS:
        blocks = blocks[np.arange(MOST_BLOCKS) * len(blocks) // MOST_BLOCKS]
    components = min(channels, *blocks.shape)
    pca = IncrementalPCA(n_components=components)
    size = max(_BATCH, components)
    for start in range(0, len(blocks), size):
        batch = blocks[start : start + size]
        if len(batch) >= components:  # a last batch of fewer blocks than components cannot be taken in
            pca.partial_fit(batch)
    return BlockPca(pca, len(blocks))
