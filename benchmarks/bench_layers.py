"""Time codes of every layer from one forward pass against the forward pass alone.

The two alternate; the processor's time is taken (user and system, all threads), so that other work on the machine weighs
less. Weights are random; times do not depend on them. Writes benchmarks/results/layers_<hardware>.json.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NETWORKS = (
    "autoencoder",
    "torchvision:vgg16",
    "torchvision:resnet50",
    "torchvision:vit_b_16",
    "torchvision:alexnet",
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--encoders", nargs="+", default=list(NETWORKS), help=f"default: {' '.join(NETWORKS)}"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="default: 8, as the script's")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7; medians are reported")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser


def passes(name: str, batch: int):
    """Return the forward pass and the pass that gives every layer's codes, as functions without arguments."""
    import torch

    if name == "autoencoder":
        from models.autoencoder import build_autoencoder
        from utils.core.names import LAYERS
        from utils.latents.encodings import encode_layers

        model = build_autoencoder("vgg16", seed=0).eval().to(memory_format=torch.channels_last)
        images = torch.rand(batch, 3, 224, 224).to(memory_format=torch.channels_last)
        return lambda: model.encoder(images), lambda: encode_layers(model, images, LAYERS, "avg"), len(LAYERS)
    from models.encoders import load_encoder

    encoder = load_encoder(name, "random").to(memory_format=torch.channels_last)
    size = encoder.preprocessing.crop
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    plain = (images - encoder.mean) / encoder.std
    return (
        lambda: encoder.network(plain),
        lambda: encoder.codes(images, encoder.layers, "avg"),
        len(encoder.layers),
    )


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.common import describe_hardware, write_results
    from utils.core.device import keep_freed_memory

    keep_freed_memory()
    results = {"hardware": describe_hardware(), "batch_size": args.batch_size, "rounds": args.rounds}
    with torch.inference_mode():
        for name in args.encoders:
            forward, every_layer, layers = passes(name, args.batch_size)
            times = {forward: [], every_layer: []}
            for _ in range(args.rounds + 1):  # the first is to warm up
                for work, seconds in times.items():
                    start = time.process_time()
                    work()
                    seconds.append(time.process_time() - start)
            alone, all_layers = (statistics.median(seconds[1:]) for seconds in times.values())
            results[name] = {
                "layers": layers,
                "forward_seconds": alone,
                "all_layers_seconds": all_layers,
                "ratio": statistics.median(
                    b / a for a, b in zip(times[forward][1:], times[every_layer][1:], strict=True)
                ),
            }
    write_results("layers", results, args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
