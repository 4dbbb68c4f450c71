"""Time the scoring of picture files against the encoder's floating-point bound.

Scores generated JPEG files as `mlp_predict.py --predict` does (decode, resize, encoder, MLP head; threads read
ahead of the computation), with random weights (times do not depend on them). The bound is the number of
pictures per second if every operation of the encoder's convolutions ran at the highest rate that any one of
them reaches by itself in the same process; a large matrix product is given as a second, lower yardstick. Bound
and scoring alternate, the best round of each counts, since other work on the machine only adds time. Also
timed: the network alone on pixels in memory, and reading without a worker. Writes
benchmarks/results/scoring_<hardware>.json.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--arch", default="vgg16", help="vgg11, vgg13, vgg16 or vgg19")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=64, help="files per round (640 x 480 px)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output", type=Path, help="JSON (default: benchmarks/results/scoring_<hardware>.json)"
    )
    return parser


def make_predictor(folder: Path, args: argparse.Namespace):
    """Save an encoder and a head with random weights and load them as a user would."""
    import numpy as np

    from models.autoencoder import build_autoencoder
    from models.checkpoints import checkpoint_sha256, mlp_file, save_autoencoder, save_mlp
    from models.mlp import build_mlp
    from utils.prediction.scoring import load_predictor

    save_autoencoder(folder / "bench.pth", build_autoencoder(args.arch, seed=0), image_size=args.image_size)
    head = build_mlp(512 * (args.image_size // 32) ** 2, seed=0)
    save_mlp(
        mlp_file(folder, "bench"),
        head.state_dict(),
        architecture=head.architecture(),
        encoder={"stem": "bench", "sha256": checkpoint_sha256(folder / "bench.pth")},
        image_size=args.image_size,
        training_scores=np.linspace(0, 1, 6000).tolist(),
    )
    return load_predictor(folder, device=args.device)


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEG files with some structure, each different."""
    import numpy as np
    from PIL import Image

    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(
            folder / f"{number}.jpg", quality=90
        )


def convolutions(network, args: argparse.Namespace) -> list[tuple]:
    """List the encoder's convolutions: (module, input of the right shape, operations per picture)."""
    import torch
    from torch import nn

    found = []

    def remember(module, inputs, output):
        values = torch.rand(args.batch_size, *inputs[0].shape[1:], device=args.device)
        values = values.contiguous(memory_format=torch.channels_last)
        found.append((module, values, 2 * module.weight[0].numel() * output[0].numel()))

    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(remember) for module in modules]
    with torch.inference_mode():
        network(torch.rand(1, 3, args.image_size, args.image_size, device=args.device))
    for hook in hooks:
        hook.remove()
    return found


def timed(function, device: str) -> float:
    from benchmarks.common import synchronise

    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def measure(predictor, pictures: Path, args: argparse.Namespace) -> dict[str, float]:
    """Alternate bound, network alone, and scoring from files; keep the best of each."""
    import numpy as np
    import torch

    from benchmarks.common import matmul_flops

    layers = convolutions(predictor.network, args)
    batch = np.random.default_rng(0).random(
        (args.batch_size, 3, args.image_size, args.image_size), dtype=np.float32
    )
    best = {"convolution": 0.0, "matmul": 0.0, "network": 0.0, "files": 0.0, "files_without_workers": 0.0}
    for _ in range(args.rounds + 1):  # the first round also warms up
        with torch.inference_mode():
            for module, values, work in layers:
                module(values)
                seconds = timed(lambda module=module, values=values: module(values), args.device)
                best["convolution"] = max(best["convolution"], work * args.batch_size / seconds)
        best["matmul"] = max(best["matmul"], matmul_flops(device=args.device, repeats=1))
        seconds = timed(lambda: [predictor.score_pixels(batch) for _ in range(2)], args.device)
        best["network"] = max(best["network"], 2 * args.batch_size / seconds)
        for name, workers in (("files", args.workers), ("files_without_workers", 0)):
            score = lambda workers=workers: predictor.score(pictures, args.batch_size, workers)  # noqa: E731
            best[name] = max(best[name], args.pictures / timed(score, args.device))
    operations = sum(work for *_, work in layers)
    bound = best["convolution"] / operations
    return {
        "gflop_per_picture": operations / 1e9,
        "best_convolution_gflops": best["convolution"] / 1e9,
        "matrix_product_gflops": best["matmul"] / 1e9,
        "bound_pictures_per_second": bound,
        "network_alone_pictures_per_second": best["network"],
        "scored_files_per_second": best["files"],
        "scored_files_per_second_without_workers": best["files_without_workers"],
        "ratio_to_bound": best["files"] / bound,
        "ratio_to_matrix_product": best["files"] * operations / best["matmul"],
        "ratio_to_network_alone": best["files"] / best["network"],
    }


def main(args: argparse.Namespace) -> None:
    from benchmarks.common import record

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        pictures.mkdir()
        write_pictures(pictures, args.pictures)
        record("scoring", measure(make_predictor(folder, args), pictures, args), args.device, args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
