"""Time Integrated Gradients against the encoder's floating-point bound, and measure its memory.

Three times, in alternating rounds of one process, the best of each, with random weights (times do not depend
on them): ours (utils.attribution.gradients: captum on the prepared network), the same passes without captum (a plain
loop over torch.autograd.grad on the same prepared network), and captum on the network as it is loaded. Two
bounds for one image-step (forward, and backward with respect to the input): its floating-point operations
over the highest rate that any of the encoder's convolutions reaches by itself, and the time of all its
convolutions by themselves. Memory is the highest resident size of a process of its own, at several numbers of
steps. Writes benchmarks/results/attribution_<hardware>.json.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--arch", default="vgg16", help="vgg11, vgg13, vgg16 or vgg19")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=1, help="images per call")
    parser.add_argument("--steps", type=int, default=50, help="steps of the timed calls")
    parser.add_argument("--internal-batch-size", type=int, default=0, help="0: the default of the device")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="alternating rounds; the best of each is reported, since other work on the machine only adds time",
    )
    parser.add_argument("--memory-steps", type=int, nargs="*", default=[10, 50, 200])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="clock the process's CPU time, for machines shared with other work; use with --threads 1",
    )
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--output", type=Path, help="JSON (default: benchmarks/results/attribution_<hardware>.json)"
    )
    return parser


def make_network(args: argparse.Namespace):
    from models.autoencoder import build_autoencoder
    from models.mlp import build_mlp
    from models.score_network import ScoreNetwork

    head = build_mlp(512 * (args.image_size // 32) ** 2, seed=0)
    return ScoreNetwork(build_autoencoder(args.arch, seed=0).encoder, head).eval().to(args.device)


def convolutions(network, size: int, batch: int, device: str) -> list[tuple]:
    """List the encoder's convolutions with an input of the right shape: (module, input, GFLOP per image)."""
    import torch
    from torch import nn

    found = []

    def remember(module, inputs, output):
        work = 2 * module.weight[0].numel() * output[0].numel() / 1e9
        values = torch.rand(batch, *inputs[0].shape[1:], device=device)
        found.append((module, values.contiguous(memory_format=torch.channels_last), work))

    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(remember) for module in modules]
    with torch.no_grad():
        network(torch.rand(1, 3, size, size, device=device))
    for hook in hooks:
        hook.remove()
    return found


def best_of(function, device: str, clock, repeats: int = 3) -> float:
    from benchmarks.common import synchronise

    function()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = clock()
        function()
        synchronise(device)
        times.append(clock() - start)
    return min(times)


def bounds(prepared, args: argparse.Namespace, batch: int, clock) -> dict[str, float]:
    """Time each convolution by itself, forward and backward with respect to its input."""
    import torch

    total_gflop, total_seconds, best_rate = 0.0, 0.0, 0.0
    for module, values, gflop in convolutions(prepared, args.image_size, batch, args.device):
        with torch.no_grad():
            forward = best_of(lambda module=module, values=values: module(values), args.device, clock)
            upstream = torch.rand_like(module(values))
        options = (module.stride, module.padding, module.dilation, False, [0, 0], 1)

        def backward(upstream=upstream, values=values, weight=module.weight, options=options):
            torch.ops.aten.convolution_backward(
                upstream, values, weight, None, *options, [True, False, False]
            )

        seconds = (forward, best_of(backward, args.device, clock))
        total_gflop += 2 * gflop
        total_seconds += sum(seconds) / batch
        best_rate = max(best_rate, *(gflop * batch / second for second in seconds))
    return {
        "gflop_per_image_step": total_gflop,
        "best_convolution_gflops": best_rate,
        "bound_seconds_per_image_step": total_gflop / best_rate,
        "convolutions_alone_seconds_per_image_step": total_seconds,
    }


def recipes(network, prepared, args: argparse.Namespace) -> dict:
    """Return the three calls to time, each doing ``images x steps`` image-steps."""
    import torch
    from captum.attr import IntegratedGradients

    from utils.attribution.gradients import AttributionSettings, integrated_gradients, internal_batch_size

    settings = AttributionSettings(
        steps=args.steps, internal_batch_size=args.internal_batch_size, max_doublings=0
    )
    images = torch.rand(args.images, 3, args.image_size, args.image_size, device=args.device)
    ids = [str(number) for number in range(args.images)]
    size = internal_batch_size(settings, images.device)
    total = args.images * args.steps
    batch = torch.rand(size, *images.shape[1:], device=args.device)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def ours():
        integrated_gradients(prepared, images, ids, settings)

    def bare_passes():
        for start in range(0, total, size):
            values = batch[: total - start].clone().requires_grad_()
            torch.autograd.grad(prepared(values).sum(), values)

    def as_loaded():
        IntegratedGradients(network).attribute(images, n_steps=args.steps, internal_batch_size=size)

    return {"ours": ours, "bare_passes": bare_passes, "captum_on_loaded_network": as_loaded}


def peak_megabytes(args: argparse.Namespace, steps: int) -> float:
    """Attribute one image in a process of its own and return its highest resident size."""
    command = [
        sys.executable,
        __file__,
        "--memory-only",
        "--images",
        "1",
        "--steps",
        str(steps),
        "--arch",
        args.arch,
    ]
    command += ["--image-size", str(args.image_size), "--internal-batch-size", str(args.internal_batch_size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.common import describe_hardware, peak_memory_mb, synchronise, write_results
    from models.score_network import prepare_network
    from utils.attribution.gradients import AttributionSettings, internal_batch_size
    from utils.core.device import full_float32, keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    network = make_network(args)
    prepared = prepare_network(network, args.device)
    keep_freed_memory()
    full_float32()
    calls = recipes(network, prepared, args)
    if args.memory_only:
        calls["ours"]()
        print(peak_memory_mb())
        return
    size = internal_batch_size(
        AttributionSettings(internal_batch_size=args.internal_batch_size), torch.device(args.device)
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    limits: list[dict] = []
    for _ in range(args.rounds):
        limits.append(bounds(prepared.encoder, args, size, clock))
        for name, call in calls.items():
            synchronise(args.device)
            start = clock()
            call()
            synchronise(args.device)
            times[name].append((clock() - start) / (args.images * args.steps))
    best = {f"{name}_seconds_per_image_step": min(values) for name, values in times.items()}
    bound = {name: min(limit[name] for limit in limits) for name in limits[0]}
    bound["best_convolution_gflops"] = max(limit["best_convolution_gflops"] for limit in limits)
    ours = best["ours_seconds_per_image_step"]
    memory = {str(steps): peak_megabytes(args, steps) for steps in args.memory_steps if args.device == "cpu"}
    write_results(
        "attribution",
        {
            "settings": {
                name: value for name, value in vars(args).items() if name not in ("output", "memory_only")
            }
            | {"internal_batch_size": size},
            "hardware": describe_hardware(args.device),
            **bound,
            **best,
            "share_of_bound": bound["bound_seconds_per_image_step"] / ours,
            "share_of_convolutions_alone": bound["convolutions_alone_seconds_per_image_step"] / ours,
            "overhead_over_bare_passes": ours / best["bare_passes_seconds_per_image_step"] - 1,
            "speed_up_over_captum_on_loaded_network": best["captum_on_loaded_network_seconds_per_image_step"]
            / ours,
            "seconds_per_image_at_50_steps": 50 * ours,
            "peak_megabytes_by_steps": memory,
        },
        args.output,
    )


if __name__ == "__main__":
    main(get_parser().parse_args())
