"""Compare the autoencoder's floating-point rate with that of a large matrix product on the same cores.

Forward: what autoencoder_test.py runs (eval, inference mode, channels last). Training step: what
autoencoder_finetune.py runs (forward, loss, backward, finiteness check, Adam), counted as three forward passes;
the loss's own operations are not counted, so the step's rate is understated. The matrix product and the network
alternate within one process; the best of the rounds counts, since other work on the machine only ever slows.
Prints rates and ratios; writes benchmarks/results/network_<hardware>.json.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--arch", default="vgg16", help="vgg11, vgg13, vgg16 or vgg19")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8, help="of the forward pass; the step takes 1")
    parser.add_argument("--loss", default="lpips-sq", help="loss of the training step")
    parser.add_argument("--matrix-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's own time, which others on the machine do not touch (with --threads 1)",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file (default: benchmarks/results/network_<hardware>.json)"
    )
    return parser


def forward_flops(model, size: int) -> int:
    """Count the operations of one forward pass (two per multiplication and addition in convolutions)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops()


def make_step(args, folder: Path):
    """Return a function that takes one training step exactly as fine-tuning does."""
    import pandas as pd
    import torch

    from models.autoencoder import build_autoencoder
    from utils.reconstruction.finetuning import FineTuner, FineTuningSettings
    from utils.reconstruction.losses import ReconstructionLosses

    settings = FineTuningSettings(loss=args.loss, image_size=args.image_size)
    tuner = FineTuner(
        build_autoencoder(args.arch, seed=0).to(args.device),
        pd.DataFrame({"image_id": ["a"], "path": ["a"]}),
        settings,
        ReconstructionLosses([args.loss], "random", args.device),
        folder / "state.pt",
        "benchmark",
        load=None,
    )
    tuner.model.train()
    pixels = torch.rand(1, 3, args.image_size, args.image_size)
    return lambda: tuner._step([0], pixels)


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.common import describe_hardware, timer, write_results
    from models.autoencoder import build_autoencoder
    from utils.core.device import full_float32, keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    full_float32()
    model = build_autoencoder(args.arch, seed=0).eval().to(args.device, memory_format=torch.channels_last)
    flops = forward_flops(model, args.image_size)
    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size, device=args.device)
    left, right = (torch.rand(args.matrix_size, args.matrix_size, device=args.device) for _ in range(2))

    def forward():
        with torch.inference_mode():
            model(images.to(memory_format=torch.channels_last))

    def product():
        return left @ right

    seconds = timer(args.clock, args.device)

    with tempfile.TemporaryDirectory() as folder:
        step = make_step(args, Path(folder))
        jobs = {
            "matrix_product": (product, 2 * args.matrix_size**3),
            "forward": (forward, flops * args.batch_size),
            "training_step": (step, 3 * flops),
        }
        for function, _ in jobs.values():
            seconds(function)
        rounds = [
            {name: operations / seconds(function) / 1e9 for name, (function, operations) in jobs.items()}
            for _ in range(args.rounds)
        ]
    best = {name: max(one[name] for one in rounds) for name in jobs}
    medians = {name: statistics.median(one[name] for one in rounds) for name in jobs}
    write_results(
        "network",
        {
            "settings": vars(args),
            "hardware": describe_hardware(args.device),
            "forward_gflop_per_image": flops / 1e9,
            "gflop_per_second_best": best,
            "gflop_per_second_median": medians,
            "forward_ratio": best["forward"] / best["matrix_product"],
            "training_ratio": best["training_step"] / best["matrix_product"],
            "forward_images_per_second": best["forward"] * 1e9 / flops,
            "training_images_per_second": best["training_step"] * 1e9 / (3 * flops),
        },
        args.output,
    )


if __name__ == "__main__":
    main(get_parser().parse_args())
