"""What the gallery costs: time to make it, time to make it again, bytes, for any number of generated images.

    python benchmarks/bench_gallery.py --images 10000 --output-path /tmp/gallery

Fabricates an output folder (coloured shapes, noisy "reconstructions", tables of plausible numbers, attribution maps of
three in ten images), times `write_gallery` on it twice, and prints what it weighs. The folder stays, to be looked at.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utils.core.contract import TABLES
from utils.core.measure_names import MEASURES
from utils.core.names import LOSSES
from utils.core.tables import output_file, write_table
from utils.reconstruction.pairs import PAIR, encode_pairs, pack_pairs
from utils.report.gallery import write_gallery
from utils.report.gallery_data import read_scores

MODEL = "mem_vgg_autoencoder"
CATEGORIES = {
    "animal": ("bear", "cat", "owl", "whale"),
    "food": ("bread", "coffee", "pizza", "soup"),
    "landscape": ("beach", "forest", "mountain", "street"),
    "sports": ("golf", "judo", "rowing", "tennis"),
    "vehicle": ("bus", "car", "rocket", "tram"),
}


def draw(rng: np.random.Generator, hue: float, size: int = 128) -> torch.Tensor:
    """A generated picture, (3, size, size) in [0, 1]: a gradient with a few discs, coloured by its subcategory."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    phase = torch.tensor([0.0, 2.1, 4.2]).view(3, 1, 1) + hue
    picture = 0.5 + 0.35 * torch.sin(phase + 2 * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)))
    for _ in range(int(rng.integers(1, 6))):
        centre, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.05, 0.25)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        picture = torch.where(inside, torch.tensor(rng.uniform(0, 1, 3)).float().view(3, 1, 1), picture)
    return picture


def fabricate(output_path: Path, count: int, seed: int = 0) -> None:
    """Write tables, pairs and maps of ``count`` generated images."""
    rng = np.random.default_rng(seed)
    kinds = [(category, sub) for category, subs in CATEGORIES.items() for sub in subs]
    images = pd.DataFrame(
        [kinds[i * len(kinds) // count] for i in range(count)], columns=["category", "subcategory"]
    )
    images["image_id"] = [f"{c}/{s}/{s}_{i:05d}.jpg" for i, (c, s) in enumerate(images.to_numpy())]
    images["memorability"] = rng.beta(8, 4, count).round(4)
    images["split"] = rng.choice(["train", "val", "test"], count, p=[0.6, 0.1, 0.3])
    rows = []
    for i, image_id in enumerate(images["image_id"]):
        picture = draw(rng, kinds.index((images["category"][i], images["subcategory"][i])) * 0.7)
        blurred = torch.nn.functional.avg_pool2d(picture[None], 9, 1, 4)
        rows.append({"image_id": image_id, PAIR: encode_pairs(picture[None], blurred)[0]})
    pack_pairs(iter(rows), output_path / f"pairs_{MODEL}.zip")

    def write(table: str, frame: pd.DataFrame, model: str | None = None) -> None:
        for column in TABLES[table].columns:
            if column.name not in frame and column.name in {*LOSSES, *MEASURES}:
                frame = frame.assign(
                    **{column.name: rng.gamma(9, 0.01, count) + 0.1 * images["memorability"]}
                )
            elif column.name not in frame and column.name not in TABLES[table].optional:
                made = {"float": rng.normal(size=len(frame)), "int": 1, "bool": True, "text": ""}
                frame = frame.assign(**{column.name: made[column.kind]})
        declared = [column.name for column in TABLES[table].columns if column.name in frame]
        write_table(frame[declared], output_file(output_path, table, model), table)

    write("splits", images)
    write("test_loss", images, MODEL)
    nearest = images.assign(nearest_image_id=rng.permutation(images["image_id"]))
    write("distinctiveness", nearest, MODEL)
    write("distinctiveness_measures", images, MODEL)
    write(
        "mlp_predictions",
        images.assign(model=MODEL, prediction=rng.beta(8, 4, count), ridge=rng.beta(8, 4, count)),
    )
    features = {c.name: rng.normal(size=count) for c in TABLES["image_features"].columns if c.kind == "float"}
    features.pop("memorability")
    write("image_features", images.assign(**features))
    test = images[images["split"] == "test"]
    write("ig", test, MODEL)
    maps = np.lib.format.open_memmap(output_path / f"ig_{MODEL}.npy", "w+", np.float16, (len(test), 224, 224))
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    for row in maps:
        a, b = rng.uniform(-0.7, 0.7, (2, 2))
        row[:] = np.exp(-8 * ((x - a[0]) ** 2 + (y - a[1]) ** 2)) - np.exp(
            -9 * ((x - b[0]) ** 2 + (y - b[1]) ** 2)
        )
    maps.flush()


def main() -> None:
    """Fabricate, time, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--output-path", type=Path, required=True)
    args = parser.parse_args()
    args.output_path.mkdir(parents=True, exist_ok=True)
    if not (args.output_path / "splits.csv").exists():
        fabricate(args.output_path, args.images)
    found: dict = {"images": args.images}
    for name in ("first_s", "again_s"):
        started, worked = time.perf_counter(), time.process_time()
        write_gallery(args.output_path, read_scores(args.output_path), {})
        found[name] = round(time.perf_counter() - started, 1)
        found[name.replace("_s", "_processor_s")] = round(time.process_time() - worked, 1)
    folder = args.output_path / "gallery"
    found["page_bytes"] = (args.output_path / "gallery.html").stat().st_size
    found["data_bytes"] = (folder / "data.js").stat().st_size
    for kind, suffix in (("pairs", "jpg"), ("maps", "png")):
        files = list(folder.glob(f"{kind}_*/*/*.{suffix}"))
        found[kind] = {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
