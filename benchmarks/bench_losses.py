"""Time eight losses per image: our single pass against one network pass per loss.

The plain recipe is what scripts of this kind usually do: batches of one, gradients left on, and for each loss
the network run again and the loss taken from its library (lpips, pytorch-msssim; style from the whole VGG19).
Ours is what autoencoder_test.py does. Both run in the same process, in alternating rounds, with random weights
(times do not depend on them), after the same warming up. Prints both and their ratio, and writes
benchmarks/results/losses_<hardware>.json.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--arch", default="vgg16", help="vgg11, vgg13, vgg16 or vgg19")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8, help="of our recipe; the plain one takes 1")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; the best of each counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the process's own time, which others on the machine do not touch (with --threads 1)",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file (default: benchmarks/results/losses_<hardware>.json)"
    )
    return parser


def plain_losses(device):
    """Build the eight losses the way single-loss scripts do: name -> function of image and reconstruction."""
    import lpips
    from pytorch_msssim import ms_ssim, ssim
    from torch.nn import functional

    from models.pretrained import load_trunk

    vgg19 = load_trunk("vgg19", "random").to(device)

    def gram(features):
        flat = features.flatten(2)
        return flat @ flat.transpose(1, 2)

    def distance(net):
        module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).to(device)
        return lambda image, reconstruction: module(image, reconstruction, normalize=True)

    return {
        "mse": functional.mse_loss,
        "mae": functional.l1_loss,
        "ssim": lambda a, b: 1 - ssim(a, b, data_range=1.0),
        "ms-ssim": lambda a, b: 1 - ms_ssim(a, b, data_range=1.0),
        "lpips-vgg": distance("vgg"),
        "lpips-alex": distance("alex"),
        "lpips-sq": distance("squeeze"),
        "style": lambda a, b: functional.mse_loss(gram(vgg19(a)), gram(vgg19(b))),
    }


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.common import describe_hardware, timer, write_results
    from models.autoencoder import build_autoencoder
    from utils.core.device import keep_freed_memory
    from utils.reconstruction.losses import LOSSES, ReconstructionLosses

    if args.threads:
        torch.set_num_threads(args.threads)
    plain = plain_losses(args.device)
    plain_model = build_autoencoder(args.arch, seed=0).eval().to(args.device)
    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size, device=args.device)

    def run_plain():
        for name in LOSSES:
            reconstruction = plain_model(images[:1])
            plain[name](images[:1], reconstruction).item()

    model = build_autoencoder(args.arch, seed=0).eval().to(args.device, memory_format=torch.channels_last)
    losses = ReconstructionLosses(weights="random", device=args.device)

    def run_ours():
        with torch.inference_mode():
            batch = images.to(memory_format=torch.channels_last)
            values = losses(batch, model(batch))
            torch.stack(list(values.values())).cpu()

    seconds = timer(args.clock, args.device)
    # The plain recipe is timed first and once more after the allocator is told to keep memory, which only our
    # scripts do; its reported time is the one without.
    run_plain()
    plain_seconds = [seconds(run_plain) for _ in range(args.rounds)]
    keep_freed_memory()
    run_plain(), run_ours()
    pairs = [(seconds(run_plain), seconds(run_ours) / args.batch_size) for _ in range(args.rounds)]
    # the best of the rounds: other work on the machine only ever adds time
    plain_best, helped, ours = min(plain_seconds), min(p for p, _ in pairs), min(o for _, o in pairs)
    write_results(
        "losses",
        {
            "settings": vars(args),
            "hardware": describe_hardware(args.device),
            "plain_seconds_per_image": plain_best,
            "plain_with_kept_memory_seconds_per_image": helped,
            "ours_seconds_per_image": ours,
            "ratio": ours / plain_best,
            "ratio_to_plain_with_kept_memory": ours / helped,
            "rounds": {"plain": plain_seconds, "plain_with_kept_memory_and_ours": pairs},
        },
        args.output,
    )


if __name__ == "__main__":
    main(get_parser().parse_args())
