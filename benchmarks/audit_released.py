"""Recompute the numbers of docs/paper.md that need no picture.

(1) What the split and the pairing of the authors' released scripts make of a score table: sizes, and how many images
are lost where row labels are used as positions. (2) The interval of a rho when the two columns are resampled
independently, as in their distinctiveness step, beside pairs resampled together. (3) How many weights arrive from a
checkpoint whose names carry the prefix of a wrapped network when it is loaded without strictness. Reads MemCat's
score table and, for (2), a table of losses with the columns image_file and Loss. Written from what those scripts do.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SCORE = "memorability_w_fa_correction"
TRAIN, VALIDATION = 0.6, 0.1
SPLITS = ("train", "val", "test")


def get_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--scores-csv", type=Path, required=True, help="memcat_image_data.csv")
    parser.add_argument("--losses-csv", type=Path, help="losses with columns image_file and Loss")
    parser.add_argument("--seed", type=int, default=42, help="of the split and of the pairing")
    return parser


def split_rows(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return ``score`` and ``split`` in the order in which the split table is written.

    Strata are category, subcategory and above or below the median, in order of appearance; within each, shares are rounded
    down and the rest goes to the test set.
    """
    high = scores[SCORE] >= scores[SCORE].median()
    generator = np.random.RandomState(seed)
    parts = []
    for category in scores["category"].unique():
        inside = scores["category"] == category
        for subcategory in scores.loc[inside, "subcategory"].unique():
            for level in (True, False):
                rows = np.flatnonzero(inside & (scores["subcategory"] == subcategory) & (high == level))
                generator.shuffle(rows)
                first = int(len(rows) * TRAIN)
                second = first + int((len(rows) - first) * VALIDATION / (1 - TRAIN))
                labels = np.repeat(SPLITS, [first, second - first, len(rows) - second])
                parts.append(pd.DataFrame({"score": scores[SCORE].to_numpy()[rows], "split": labels}))
    return pd.concat(parts, ignore_index=True)


def lost_images(table: pd.DataFrame, split: str, seed: int) -> dict[str, Any]:
    """Count what is left of one split when its row labels are read as positions within it, two at a time.

    Returns:
        ``images, kept_share, pairs, pairs_empty, pairs_of_one, pairs_of_two, first_pair_empty`` and the standard
        deviation of single scores and of the means of pairs.
    """
    labels = table.index[table["split"] == split].tolist()
    np.random.RandomState(seed).shuffle(labels)
    pairs = [labels[start : start + 2] for start in range(0, len(labels), 2)]
    left = np.array([sum(label < len(labels) for label in pair) for pair in pairs])
    means = [table.loc[pair, "score"].mean() for pair in pairs if len(pair) == 2]
    return {
        "images": len(labels),
        "kept_share": round(left.sum() / len(labels), 3),
        "pairs": len(pairs),
        "pairs_empty": int((left == 0).sum()),
        "pairs_of_one": int((left == 1).sum()),
        "pairs_of_two": int((left == 2).sum()),
        "first_pair_empty": bool(left[0] == 0),
        "sd_single": round(float(table.loc[labels, "score"].std(ddof=0)), 3),
        "sd_pair": round(float(np.std(means)), 3),
    }


def resampled_intervals(x: np.ndarray, y: np.ndarray, resamples: int = 1000) -> dict[str, list[float]]:
    """Return rho's mean and 95 % percentile interval from independent and from paired resamples."""
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    n = len(x)
    found: dict[str, list[float]] = {"independent": [], "paired": []}
    for _ in range(resamples):
        first, second = generator.integers(0, n, (2, n))
        found["independent"].append(spearmanr(x[first], y[second])[0])
        found["paired"].append(spearmanr(x[first], y[first])[0])
    return {
        name: [round(float(value), 4) for value in (np.mean(rhos), *np.percentile(rhos, [2.5, 97.5]))]
        for name, rhos in found.items()
    }


def weights_that_arrive() -> dict[str, int]:
    """Load a state dict with the prefix ``module.`` without strictness, and count."""
    import torch

    from models.autoencoder import Autoencoder

    torch.manual_seed(0)
    saved = {f"module.{name}": value for name, value in Autoencoder("vgg16").state_dict().items()}
    fresh = Autoencoder("vgg16")
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    answer = fresh.load_state_dict(saved, strict=False)
    changed = sum(not torch.equal(before[name], value) for name, value in fresh.state_dict().items())
    return {"tensors": len(before), "unexpected": len(answer.unexpected_keys), "arrived": changed}


def main(args: argparse.Namespace) -> None:
    """Print every number."""
    scores = pd.read_csv(args.scores_csv, dtype={"image_file": str})
    table = split_rows(scores, args.seed)
    print(pd.DataFrame({split: lost_images(table, split, args.seed) for split in SPLITS}).to_string())
    if args.losses_csv is not None:
        losses = pd.read_csv(args.losses_csv, dtype={"image_file": str})
        joined = losses[["image_file", "Loss"]].merge(scores, on="image_file", validate="one_to_one")
        found = resampled_intervals(joined["Loss"].to_numpy(), joined[SCORE].to_numpy())
        for name, values in found.items():
            print(f"{name} resamples: mean rho {values[0]}, 95 % {values[1]} to {values[2]}")
    print("checkpoint with the prefix, loaded without strictness:", weights_that_arrive())


if __name__ == "__main__":
    main(get_parser().parse_args())
