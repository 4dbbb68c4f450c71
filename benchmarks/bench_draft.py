"""Measure what decoding large JPEGs reduced brings and costs: processor time, pixels, scores.

Enlarges windows of the embedded sample's photographs to 12 megapixels, adds grain, saves them as JPEGs, and reads each
as every stage does and as `mlp_predict.py --predict` does. Differences of pixels are in steps of 255, at 96 and at 224
px; scores are the built-in network's, at 96 px. Writes benchmarks/results/draft_<hardware>.json.
"""

import argparse
import io
import time
from pathlib import Path

from common import record


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--grain", type=float, default=6.0, help="standard deviation, of 255")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def make_jpeg(number: int, args: argparse.Namespace) -> bytes:
    """Enlarge a window of one of the sample's photographs, with grain, as a JPEG."""
    import numpy as np
    from PIL import Image

    from utils.data.sample import SOURCES, find_photograph

    rng = np.random.default_rng(number)
    source = SOURCES[number % len(SOURCES)]
    with Image.open(find_photograph(source.package, source.file)) as opened:
        photograph = opened.convert("RGB")
    share = rng.uniform(0.6, 1.0)
    width, height = (round(side * share) for side in photograph.size)
    left, top = (
        int(rng.integers(side - part + 1))
        for side, part in zip(photograph.size, (width, height), strict=True)
    )
    scale = (args.megapixels * 1e6 / (width * height)) ** 0.5
    window = photograph.crop((left, top, left + width, top + height))
    large = np.asarray(window.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))
    grainy = large + rng.normal(0, args.grain, large.shape)
    stream = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=args.quality)
    return stream.getvalue()


def compare(size: int, files: list[Path], rounds: int) -> tuple[dict, list]:
    """Read each file both ways: processor seconds, differences, and the pixels."""
    import numpy as np

    from utils.data.images import load_pixels

    pixels, seconds = {}, {}
    for draft in (False, True):
        times, read = [], []
        for file in files:
            each = []
            for _ in range(rounds):
                start = time.process_time()
                picture = load_pixels(file, size, draft=draft)
                each.append(time.process_time() - start)
            times.append(min(each))
            read.append(picture)
        pixels[draft], seconds[draft] = np.stack(read), float(np.median(times))
    difference = np.abs(pixels[False] - pixels[True]) * 255
    numbers = {
        "image_size": size,
        "full_ms": seconds[False] * 1e3,
        "draft_ms": seconds[True] * 1e3,
        "mean_difference": float(difference.mean()),
        "worst_picture": float(difference.mean(axis=(1, 2, 3)).max()),
        "worst_pixel": float(difference.max()),
    }
    return numbers, [pixels[False], pixels[True]]


def main() -> None:
    import tempfile

    import numpy as np
    from scipy.stats import spearmanr

    from utils.prediction.scoring import load_predictor

    args = get_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(args.pictures):
            files.append(Path(folder) / f"{number}.jpg")
            files[-1].write_bytes(make_jpeg(number, args))
        predictor = load_predictor(folder, "builtin", "cpu")
        rows = []
        for size in (predictor.image_size, 224):
            numbers, pixels = compare(size, files, args.rounds)
            if size == predictor.image_size:
                full, draft = (predictor.score_pixels(one) for one in pixels)
                numbers |= {
                    "score_difference_mean": float(np.abs(full - draft).mean()),
                    "score_difference_most": float(np.abs(full - draft).max()),
                    "score_sd": float(full.std()),
                    "score_rank_correlation": float(spearmanr(full, draft).statistic),
                }
            rows.append(numbers)
    record("draft", {"settings": vars(args), "rows": rows})


if __name__ == "__main__":
    main()
