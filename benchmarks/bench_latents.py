"""Time latent codes per image against the rate of a large matrix product, the most a processor can do.

The encoder of vgg16 at 224 px takes 30.7 GFLOP per image (convolutions, a multiplication and an addition counted
as two). Rounds of encoding and of the matrix product alternate, so that both see the same machine. Weights are
random; times do not depend on them. Writes benchmarks/results/latents_<hardware>.json.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vgg16", help="vgg11, vgg13, vgg16 or vgg19 (default: vgg16)")
    parser.add_argument("--image-size", type=int, default=224, help="default: 224")
    parser.add_argument("--batch-size", type=int, default=8, help="default: 8, as the script's")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5; medians are reported")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser


def convolution_operations(model, image_size: int) -> int:
    """Count the encoder's operations by watching one image pass."""
    import torch

    total = 0

    def count(module, inputs, output) -> None:
        nonlocal total
        per_value = 2 * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        total += per_value * output[0].numel()

    convolutions = [m for m in model.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    with torch.inference_mode():
        model.encode(torch.rand(1, 3, image_size, image_size))
    for hook in hooks:
        hook.remove()
    return total


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.common import describe_hardware, synchronise, write_results
    from models.autoencoder import build_autoencoder
    from utils.core.device import full_float32, keep_freed_memory
    from utils.latents.encodings import encode

    keep_freed_memory()
    full_float32()
    model = build_autoencoder(args.arch, seed=0).eval()
    operations = convolution_operations(model, args.image_size)
    model = model.to(args.device, memory_format=torch.channels_last)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.rand(shape, device=args.device).to(memory_format=torch.channels_last)
    square = torch.rand(4096, 4096, device=args.device)

    def seconds(work) -> float:
        synchronise(args.device)
        start = time.perf_counter()
        work()
        synchronise(args.device)
        return time.perf_counter() - start

    with torch.inference_mode():
        works = (lambda: encode(model, images, "conv5", "none").cpu(), lambda: square @ square)
        for work in works:
            work()
        rounds = [tuple(seconds(work) for work in works) for _ in range(args.rounds)]
    encoding, product = (statistics.median(column) for column in zip(*rounds, strict=True))
    rate, peak = operations * args.batch_size / encoding, 2 * 4096**3 / product
    write_results(
        "latents",
        {
            "settings": vars(args),
            "hardware": describe_hardware(args.device),
            "operations_per_image": operations,
            "seconds_per_image": encoding / args.batch_size,
            "operations_per_second": rate,
            "matrix_product_operations_per_second": peak,
            "share_of_matrix_product": rate / peak,
            "share_of_matrix_product_by_round": [
                operations * args.batch_size / a / (2 * 4096**3 / b) for a, b in rounds
            ],
        },
        args.output,
    )


if __name__ == "__main__":
    main(get_parser().parse_args())
