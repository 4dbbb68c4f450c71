"""Calibrate the limits of near-duplicates: what share of changed copies they find, and what else they call one.

Reads pictures (LNSIM, say) and their codes by the network that ships with the code, as latent_analysis.py
--calculate-latents writes them with --image-size 96. Every 18th picture is changed in known ways (compressed, resized,
cropped, brightened, blurred, mirrored) and hashed and encoded again. Writes benchmarks/results/near_duplicates.csv: per
limit the share of copies within it, and how many pairs of the original pictures are (which should be next to none).
"""

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.common import RESULTS

HASH_LIMITS = (2, 4, 6, 8, 10, 12)
CODE_LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EVERY = 18


def recompressed(picture: Image.Image) -> Image.Image:
    """As a JPEG of quality 30."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Without a margin on every side, a share of the side in all."""

    def change(picture: Image.Image) -> Image.Image:
        x, y = (round(side * share / 2) for side in picture.size)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": recompressed,
    "half size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "20 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "blurred by 2 px": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "cropped by 2 %": cropped(0.02),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.1),
    "mirrored": ImageOps.mirror,
}


def measure(pictures: Path, codes: np.ndarray, image_ids: list[str]) -> pd.DataFrame:
    """Return a row per way to find copies, limit and change.

    Args:
        pictures: folder.
        codes: (N, D) codes of all pictures.
        image_ids: their N names.
    """
    from benchmarks.model_card import encode_all
    from models.builtin import builtin_autoencoder
    from models.checkpoints import load_autoencoder
    from utils.data.images import preprocess, read_rgb
    from utils.latents.neighbours import SearchSettings, nearest_neighbours
    from utils.prediction.near_duplicates import code_pairs, hash_pairs, perceptual_hash

    model, meta = load_autoencoder(builtin_autoencoder())
    nearest = nearest_neighbours(codes, SearchSettings(neighbours=1))
    if nearest is None:
        raise RuntimeError("the search came back empty")
    unit = float(np.median(nearest.distance))
    bits: dict[str, list[int]] = {name: [] for name in CHANGES}
    distances: dict[str, list[float]] = {name: [] for name in CHANGES}
    for row in range(0, len(image_ids), EVERY):
        picture = read_rgb(pictures / image_ids[row])
        own = perceptual_hash(np.asarray(picture)) or 0
        copies = {name: change(picture) for name, change in CHANGES.items()}
        pixels = np.stack(
            [np.rint(preprocess(copy, meta["image_size"]) * 255).astype(np.uint8) for copy in copies.values()]
        )
        for name, code in zip(copies, encode_all(model, pixels), strict=True):
            bits[name].append((own ^ (perceptual_hash(np.asarray(copies[name])) or 0)).bit_count())
            distances[name].append(float(np.linalg.norm(code - codes[row])) / unit)
    hashes = [perceptual_hash(np.asarray(read_rgb(pictures / name))) or 0 for name in image_ids]
    rows = []
    for kind, found, limits in (("hash", bits, HASH_LIMITS), ("codes", distances, CODE_LIMITS)):
        for limit in limits:
            if kind == "hash":
                pairs = len(hash_pairs(np.array(hashes, dtype=np.uint64), int(limit))[0])
            else:
                pairs = len(code_pairs(codes, limit)[0])
            shares = {name: float(np.mean(np.array(values) <= limit)) for name, values in found.items()}
            rows.append({"found by": kind, "limit": limit, **shares, "pairs of originals": pairs})
    return pd.DataFrame(rows).assign(copies=len(bits["mirrored"]), originals=len(image_ids))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("latents", type=Path, help="latents_lnsim_vgg16_w025.npy, its index beside it")
    parser.add_argument("--output", type=Path, default=RESULTS / "near_duplicates.csv")
    args = parser.parse_args()
    index = pd.read_csv(args.latents.with_suffix(".csv"), dtype={"image_id": str})
    table = measure(args.pictures, np.load(args.latents, allow_pickle=False), index["image_id"].tolist())
    table.to_csv(args.output, index=False, float_format="%.3f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
