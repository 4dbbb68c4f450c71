"""A data set of any number of tiny pictures with scores, for what depends on how many there are.

Pictures are 32 x 24 px, a few hundred of them different in content; the others are hard links to those, so that a
million of them take little room on disk but stand in a million files. Laid out as a table `path,score` beside a folder.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CATEGORIES = ("animal", "food", "landscape", "sports", "vehicle")
DIFFERENT = 500
_PER_FOLDER = 10_000  # names in one folder
_MOST_LINKS = 30_000  # to one file; some file systems allow 32,000


def write_tiny_pictures(folder: Path, count: int, different: int = DIFFERENT) -> Path:
    """Write pictures and their scores.

    Args:
        folder: Where to; created.
        count: How many pictures.
        different: How many of them differ; at least as many as the links to one file demand.

    Returns:
        The score table ``scores.csv``: path, score, category, subcategory (75 pictures each), and counts.
    """
    import numpy as np
    import pandas as pd
    from PIL import Image

    rng = np.random.default_rng(0)
    different = min(count, max(different, -(-count // _MOST_LINKS)))
    masters = folder / "masters"
    masters.mkdir(parents=True, exist_ok=True)
    for number in range(different):
        coarse = rng.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((32, 24), Image.Resampling.BICUBIC)
        picture.save(masters / f"{number}.jpg", quality=85)
    for first in range(0, count, _PER_FOLDER):
        part = folder / "pictures" / f"{first // _PER_FOLDER:04d}"
        part.mkdir(parents=True, exist_ok=True)
        for number in range(first, min(first + _PER_FOLDER, count)):
            os.link(masters / f"{number % different}.jpg", part / f"{number:07d}.jpg")
    number = np.arange(count)
    responses = rng.integers(80, 120, count)
    hits = rng.binomial(responses, rng.beta(6, 3, count))
    table = pd.DataFrame(
        {
            "path": [f"pictures/{n // _PER_FOLDER:04d}/{n:07d}.jpg" for n in number],
            "score": hits / responses,
            "category": np.array(CATEGORIES)[number * len(CATEGORIES) // count],
            "subcategory": [f"kind{n // 75}" for n in number],
        }
    )
    table.to_csv(folder / "scores.csv", index=False)
    return folder / "scores.csv"


def main(args: argparse.Namespace) -> None:
    sys.stdout.write(f"{write_tiny_pictures(args.folder, args.count)}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    main(parser.parse_args())
