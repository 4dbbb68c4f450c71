"""Images in clusters, drawn with a known correlation: for coverage.py and for the tests of size and coverage."""

import numpy as np

# Images in each of MemCat's 134 subcategories, by category; counted from its score table.
MEMCAT_SIZES = {
    "animal": ("100 100 100 100 99 100 100 100 99 99 97 99 100 61 48 99 99 100 100 100 100"),
    "food": ("31 80 82 45 55 84 75 86 81 87 87 43 39 64 61 54 73 82 39 85 51 35 82 84 87 82 84 49 63 50"),
    "landscape": ("95 86 88 79 96 94 55 95 89 57 95 41 4 92 61 96 94 49 80 93 48 14 99 73 98 96 33"),
    "sports": (
        "26 31 99 69 63 47 100 27 21 54 21 23 53 99 62 77 78 30 54 39 64 100 73 85 100 60 98 88 80 32 99 48"
    ),
    "vehicle": ("98 98 91 67 62 70 64 33 72 99 98 94 96 94 68 100 20 99 93 96 98 98 100 92"),
}


def memcat_sizes(divide: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the size of each subcategory (divided, at least 1) and its category."""
    parts = [np.array(text.split(), dtype=int) for text in MEMCAT_SIZES.values()]
    sizes, category = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.maximum(1, sizes // divide), category


def draw_clustered(
    rng: np.random.Generator, sizes: np.ndarray, icc: float = 0.5, between: float = 0.0, within: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw two normal columns whose values are alike inside clusters.

    Args:
        rng: source of randomness.
        sizes: (G,) images per cluster.
        icc: share of each column's variance that lies between clusters.
        between: correlation of the cluster means.
        within: correlation inside clusters.

    Returns:
        x, y and the clusters' codes, each (n,). Pearson's r of the pair is icc * between + (1 - icc) * within.
    """
    codes = np.repeat(np.arange(len(sizes)), sizes)

    def pair(count: int, r: float) -> np.ndarray:
        first, second = rng.normal(size=(2, count))
        return np.stack([first, r * first + np.sqrt(1 - r * r) * second])

    means, rest = pair(len(sizes), between), pair(len(codes), within)
    x, y = np.sqrt(icc) * means[:, codes] + np.sqrt(1 - icc) * rest
    return x, y, codes


def population_rho(r: float) -> float:
    """Return Spearman's rho of a bivariate normal population with Pearson's r."""
    return 6 / np.pi * np.arcsin(r / 2)


def draw_confounded(
    rng: np.random.Generator, sizes: np.ndarray, icc: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw two normal columns that share a cause and nothing else: their partial rank correlation given it is 0.

    Args:
        rng: source of randomness.
        sizes: (G,) images per cluster.
        icc: share of each column's variance that lies between clusters.

    Returns:
        x, y, their cause and the clusters' codes, each (n,).
    """
    # Ranks of normal columns with Pearson's r correlate a little less than r; the rest of x and y makes up for that, so
    # that rho(x, y) = rho(x, cause) rho(y, cause) in the population.
    shared = population_rho(np.sqrt(0.5)) ** 2
    rest = 2 * (2 * np.sin(np.pi * shared / 6)) - 1
    x, y, codes = draw_clustered(rng, sizes, icc, rest, rest)
    cause = draw_clustered(rng, sizes, icc)[0]
    return x + cause, y + cause, cause, codes


def gaps_of_equals(rng: np.random.Generator) -> np.ndarray:
    """Differ in test error between two regressions on different halves of eight equal features: neither is better.

    Args:
        rng: What the study and its splits are drawn from.

    Returns:
        (10,) mean squared error of the first less the second's, on 30 of 90 images after training on 60, per split.
    """
    x = rng.normal(size=(90, 8))
    y = x.sum(axis=1) * 0.2 + rng.normal(size=90)
    gaps = []
    for _ in range(10):
        order = rng.permutation(90)
        train, test = order[:60], order[60:]
        errors = []
        for half in (slice(0, 4), slice(4, 8)):
            slope = np.linalg.lstsq(x[train, half], y[train], rcond=None)[0]
            errors.append(((y[test] - x[test, half] @ slope) ** 2).mean())
        gaps.append(errors[0] - errors[1])
    return np.array(gaps)
