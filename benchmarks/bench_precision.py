"""Measure what bf16 does to every output that ranks images: losses, latent codes, neighbours, distinctiveness, scores.

Real photographs go through the same network in float32 and in bf16 (as --precision bf16 computes), on one machine. The
first network is the trained one that ships with this project, at the 96 px it was trained at and at 192 px, which
ms-ssim needs; with --full-width FILE a checkpoint of full width beside it, at 96 and 224 px (`random` stands for an
untrained one). Weights of LPIPS and style are the published ones where they are cached, else random ones, which the
column `trunks` and
the document's table say. Writes benchmarks/results/precision.csv, on which `utils/core/precision.py` rests, and its table
into docs/method.md (with --table-only from the CSV as it is).
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RESULT = Path(__file__).resolve().parent / "results" / "precision.csv"
MARKS = ("<!-- precision: written by benchmarks/bench_precision.py -->", "<!-- /precision -->")
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "method.md"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, help="folder of photographs")
    parser.add_argument("--images", type=int, default=200, help="at 96 px; evenly spaced over the folder")
    parser.add_argument("--large-images", type=int, default=64, help="at 192 and 224 px")
    parser.add_argument("--full-width", metavar="FILE", help="checkpoint of full width, or random")
    parser.add_argument("--table-only", action="store_true", help="write the document's table again")
    return parser


def rank_correlation(first, second) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def compared(plain, other) -> dict[str, float]:
    """Return how far values are from those of float32: ranks, and relative differences."""
    import numpy as np

    relative = np.abs(other - plain) / np.abs(plain)
    return {
        "rank_correlation": rank_correlation(plain, other),
        "median_relative_error": float(np.median(relative)),
        "largest_relative_error": float(relative.max()),
    }


def nearest(codes):
    """Return for each row the nearest other row and its distance, in float64."""
    import numpy as np
    from scipy.spatial.distance import cdist

    distances = cdist(codes, codes)
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1), distances.min(axis=1)


def batches(pixels, size: int = 8) -> Iterator:
    import torch

    for start in range(0, len(pixels), size):
        batch = torch.from_numpy(pixels[start : start + size])
        yield batch.contiguous(memory_format=torch.channels_last)


def loss_rows(model, pixels, names, weights: str) -> Iterator[dict]:
    """Compare the losses in float32, with the network in bf16, and with network and trunks in it."""
    import numpy as np
    import torch

    from utils.core.device import computing_in
    from utils.reconstruction.losses import ReconstructionLosses

    values = {}
    for what, network, trunks in (
        ("float32", "float32", "float32"),
        ("network", "bf16", "float32"),
        ("network and trunks", "bf16", "bf16"),
    ):
        losses = ReconstructionLosses(names, weights, precision=trunks)
        parts = []
        for images in batches(pixels):
            with torch.inference_mode():
                with computing_in(network, "cpu"):
                    made = model(images)
                parts.append({name: value.numpy() for name, value in losses(images, made.float()).items()})
        values[what] = {name: np.concatenate([part[name] for part in parts]).astype(float) for name in names}
    for name in names:
        for what in ("network", "network and trunks"):
            yield {
                "output": name,
                "in_bf16": what,
                **compared(values["float32"][name], values[what][name]),
            }


def code_rows(model, pixels) -> Iterator[dict]:
    """Compare latent codes, nearest neighbours and distinctiveness."""
    import numpy as np
    import torch

    from utils.core.device import computing_in

    codes = {}
    for precision in ("float32", "bf16"):
        with torch.inference_mode(), computing_in(precision, "cpu"):
            parts = [model.encoder(images).float().flatten(1).numpy() for images in batches(pixels)]
        codes[precision] = np.concatenate(parts).astype(float)
    plain, other = codes["float32"], codes["bf16"]
    away = np.linalg.norm(other - plain, axis=1) / np.linalg.norm(plain, axis=1)
    about = {"in_bf16": "network"}
    yield {
        "output": "latent code",
        **about,
        "median_relative_error": np.median(away),
        "largest_relative_error": away.max(),
    }
    (near, distance), (near_bf16, distance_bf16) = nearest(plain), nearest(other)
    yield {"output": "nearest neighbour", **about, "kept": float((near == near_bf16).mean())}
    yield {"output": "distinctiveness", **about, **compared(distance, distance_bf16)}


def score_rows(pixels) -> Iterator[dict]:
    """Compare the predicted scores of the head that ships with this project."""
    from utils.prediction.scoring import load_predictor

    scores = {}
    for precision in ("float32", "bf16"):
        predictor = load_predictor(model="builtin", device="cpu", precision=precision)
        scores[precision] = predictor.score_pixels(pixels)
    yield {
        "output": "predicted score",
        "in_bf16": "network",
        **compared(scores["float32"], scores["bf16"]),
    }


def attribution_rows(pixels, steps: int = 32) -> Iterator[dict]:
    """Compare Integrated Gradients of the score (black baseline, Gauss-Legendre) pixel by pixel; medians over pictures."""
    import numpy as np
    import torch

    from utils.core.device import computing_in
    from utils.prediction.scoring import load_predictor

    network = load_predictor(model="builtin", device="cpu").network
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    shares, weights = (
        torch.tensor(values / 2, dtype=torch.float32)[:, None, None, None] for values in (nodes + 1, weights)
    )
    found = []
    for image in map(torch.from_numpy, pixels):
        maps = {}
        for precision in ("float32", "bf16"):
            path = (shares * image).requires_grad_()
            with computing_in(precision, "cpu"):
                scores = network(path)
            (gradient,) = torch.autograd.grad(scores.float().sum(), path)
            maps[precision] = (image * (weights * gradient).sum(0)).sum(0).double().numpy().ravel()
        found.append(rank_correlation(maps["float32"], maps["bf16"]))
    yield {"output": "attribution", "in_bf16": "network", "rank_correlation": float(np.median(found))}


def rows(args: argparse.Namespace) -> Iterator[dict]:
    """Compare everything, network by network."""
    import numpy as np

    from models.autoencoder import build_autoencoder
    from models.builtin import BUILTIN, builtin_autoencoder
    from models.checkpoints import load_autoencoder
    from models.pretrained import uncached
    from utils.core.names import LOSSES
    from utils.data.images import list_images, load_pixels
    from utils.reconstruction.losses import uses_pretrained

    weights = "random" if uncached(uses_pretrained(LOSSES)) else "pretrained"
    files = list(map(str, list_images([str(args.pictures)])))

    def read(count: int, size: int):
        chosen = [files[place * len(files) // count] for place in range(min(count, len(files)))]
        return np.stack([load_pixels(path, size) for path in chosen])

    model, _ = load_autoencoder(builtin_autoencoder())
    small = [name for name in LOSSES if name != "ms-ssim"]
    networks = [
        (BUILTIN, model, 96, args.images, small),
        (BUILTIN, model, 192, args.large_images, list(LOSSES)),
    ]
    if args.full_width:
        full = (
            build_autoencoder("vgg16", seed=0).eval()
            if args.full_width == "random"
            else load_autoencoder(Path(args.full_width))[0]
        )
        name = "vgg16, untrained" if args.full_width == "random" else Path(args.full_width).stem
        networks += [
            (name, full, 96, args.images, small),
            (name, full, 224, args.large_images, list(LOSSES)),
        ]
    for name, network, size, count, losses in networks:
        pixels = read(count, size)
        about = {"network": name, "image_size": size, "images": len(pixels)}
        for row in loss_rows(network, pixels, losses, weights):
            yield {**about, **row, "trunks": weights if uses_pretrained([row["output"]]) else ""}
        for row in code_rows(network, pixels):
            yield {**about, **row}
        if size == 96 and name == BUILTIN:  # the head that ships belongs to this network
            for row in score_rows(pixels):
                yield {**about, **row}
            for row in attribution_rows(pixels[:: len(pixels) // 24 + 1]):
                yield {**about, **row, "images": len(pixels[:: len(pixels) // 24 + 1])}


def write_document(table) -> None:
    """Put the table into docs/method.md, between its marks."""
    lines = [
        "| output | network | in bf16 | rank correlation | median relative difference | largest | neighbours kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        numbers = (
            row.rank_correlation,
            100 * row.median_relative_error,
            100 * row.largest_relative_error,
            100 * row.kept,
        )
        forms = ("{:.4f}", "{:.2g} %", "{:.2g} %", "{:.4g} %")
        cells = [
            "" if value != value else form.format(value) for value, form in zip(numbers, forms, strict=True)
        ]
        network = f"{row.network}, {row.image_size} px, {row.images} pictures"
        output = f"{row.output} (random trunk)" if row.trunks == "random" else row.output
        lines.append(f"| {output} | {network} | {row.in_bf16} | {' | '.join(cells)} |")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    DOCUMENT.write_text(
        before + MARKS[0] + "\n" + "\n".join(lines) + "\n" + MARKS[1] + after, encoding="utf-8"
    )


def main(args: argparse.Namespace) -> None:
    import pandas as pd

    from benchmarks.common import describe_hardware
    from utils.core.names import LOSSES
    from utils.reconstruction.losses import uses_pretrained

    if not args.table_only:
        if args.pictures is None:
            raise SystemExit("Name a folder of photographs with --pictures.")
        table = pd.DataFrame(rows(args))
        hardware = describe_hardware()
        table["hardware"] = f"{hardware['cpu']}, {hardware['cpu_capability']}, torch {hardware['torch']}"
        table["date"] = time.strftime("%Y-%m-%d")
        table.to_csv(RESULT, index=False, float_format="%.6g")
    table = pd.read_csv(RESULT)
    without = table["output"].isin([name for name in LOSSES if not uses_pretrained([name])])
    write_document(table[~(without & (table["in_bf16"] == "network and trunks"))])


if __name__ == "__main__":
    main(get_parser().parse_args())
