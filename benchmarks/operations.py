"""Count the operations of each stage per picture, and what they would take on one GPU: a calculation, not a measurement.

Operations are counted by torch on networks without storage (a multiplication and an addition are two), those of
detector and segmenter are torchvision's own figures. The assumed rates stand in the document beside the times. Writes
the table of docs/performance.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DOCUMENT = ROOT / "docs" / "performance.md"
MARKS = ("<!-- operations: written by benchmarks/operations.py -->", "<!-- /operations -->")
IMAGES, STEPS, SIDE_PX = 10_000, 50, 224
# Achieved, in operations per second: about 60 % of 67e12 (float32 without TF32) and 40 % of 990e12 (bf16) of one H200.
FLOAT32, BF16 = 40e12, 400e12


def count(module, side: int = SIDE_PX) -> float:
    """Return the operations of one forward pass over one picture."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def operations() -> dict[str, float]:
    """Return the operations per picture of each stage."""
    import torch
    import torchvision

    from models.autoencoder import Autoencoder
    from utils.core.names import DETECTORS, SEGMENTERS
    from utils.reconstruction.losses import LPIPS_TRUNKS

    with torch.device("meta"):
        autoencoder = Autoencoder("vgg16").eval()
        trunks = [*(name for name, _ in LPIPS_TRUNKS.values()), "vgg19"]
        features = {name: torchvision.models.get_model(name, weights=None).features.eval() for name in trunks}
    whole, encoder = count(autoencoder), count(autoencoder.encoder)
    helpers = sum(2 * count(features[name]) for name in trunks)  # original and reconstruction
    published = [
        torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
        for name in (DETECTORS["heavy"], SEGMENTERS["heavy"])
    ]
    return {
        "1 fine-tuning, lpips-sq": 3 * whole + 3 * count(features["squeezenet1_1"]),
        "2 eight losses": whole + helpers,
        "4 codes": encoder,
        "6 scoring": encoder,
        f"7 attributions, {STEPS} steps": 2 * STEPS * encoder,
        "7, 8 objects and segments": 2e9 * sum(published),
    }


def main() -> None:
    found = operations()
    lines = [
        f"| stage | GFLOP per picture | {IMAGES:,} pictures, float32 | the same, bf16 |",
        "|---|---|---|---|",
    ]
    for stage, each in found.items():
        fast = "refused" if "attributions" in stage else f"{each * IMAGES / BF16:.0f} s"
        lines.append(f"| {stage} | {each / 1e9:,.1f} | {each * IMAGES / FLOAT32:.0f} s | {fast} |")
    total = sum(found.values()) * IMAGES / FLOAT32
    lines.append(f"| together | {sum(found.values()) / 1e9:,.0f} | {total / 60:.0f} min | |")
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(MARKS[0])
    written = "\n".join(lines)
    DOCUMENT.write_text(
        f"{before}{MARKS[0]}\n{written}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
