"""Measure what the number of images costs: time and memory of every step with a dummy network and tiny pictures.

Writes pictures of 32 x 24 px (`tiny_pictures.py`), saves an autoencoder of four channels with random weights, and runs the
stages' scripts one after the other, each in a process of its own, at each size. Appends a row per step and size to
benchmarks/results/scale.csv: processor and wall time, and the highest memory of any of its processes.
"""

import argparse
import csv
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "benchmarks" / "results" / "scale.csv"
IMAGE_PX, RESAMPLES = 32, 200


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--folder", type=Path, help="where pictures and outputs go (default: a temporary folder)"
    )
    return parser


def steps(data: Path, output: Path) -> dict[str, list[str]]:
    """Return the command of each step."""
    where = ["--output-path", str(output)]
    read = ["--data-dir", str(data), "--scores-csv", str(data / "scores.csv"), *where]
    network = [
        *read,
        "--image-size",
        str(IMAGE_PX),
        "--device",
        "cpu",
        "--workers",
        "0",
        "--batch-size",
        "64",
    ]
    few = ["--resamples", str(RESAMPLES)]
    return {
        "errors (stage 2)": ["autoencoder_test.py", *network, "--losses", "mse", "mae", "ssim"],
        "evaluation (stage 3)": ["autoencoder_evaluation.py", *read, *few],
        "codes (stage 4)": ["latent_analysis.py", *network, "--calculate-latents"],
        "neighbours (stage 4)": ["latent_analysis.py", *network, "--distinctiveness-analysis", *few],
        "categories (stage 5)": ["category_plot.py", *where],
        "split and head (stage 6)": ["mlp_predict.py", *network, "--train", "--epochs", "2"],
        "report": ["run_pipeline.py", "--report-only", *where],
        "errors again, unchanged": ["autoencoder_test.py", *network, "--losses", "mse", "mae", "ssim"],
    }


def run_measured(command: list[str]) -> dict[str, float]:
    """Run a command; return its processor and wall time, and its highest memory."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    errors = process.stderr.read() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    return {
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_mb": usage.ru_maxrss / 1024,
    }


def prepare(data: Path, output: Path, count: int) -> None:
    """Write pictures and network; in a process of its own, since a child's highest memory counts its parent's."""
    from benchmarks.tiny_pictures import write_tiny_pictures
    from models.autoencoder import build_autoencoder
    from models.checkpoints import save_autoencoder

    output.mkdir(parents=True)
    write_tiny_pictures(data, count)
    model = build_autoencoder("vgg11", seed=0, width=1 / 64)
    caveats = ["random weights: autoencoder"]
    save_autoencoder(output / "dummy.pth", model, image_size=IMAGE_PX, caveats=caveats)


def main(args: argparse.Namespace) -> None:
    root = args.folder or Path(tempfile.mkdtemp(prefix="memorability-scale-"))
    earlier = list(csv.DictReader(RESULT.open(encoding="utf-8"))) if RESULT.exists() else []
    rows = {(int(row["images"]), row["step"]): row for row in earlier}
    for count in args.images:
        data, output = root / f"tiny{count}", root / f"output{count}"
        process = multiprocessing.get_context("spawn").Process(target=prepare, args=(data, output, count))
        process.start()
        process.join()
        for step, command in steps(data, output).items():
            found = run_measured(command)
            sys.stderr.write(
                f"{count} {step}: {found['processor_seconds']:.1f} s, {found['peak_memory_mb']:.0f} MB\n"
            )
            numbers = {name: f"{value:.5g}" for name, value in found.items()}
            rows[count, step] = {"images": count, "step": step, **numbers, "date": time.strftime("%Y-%m-%d")}
            with RESULT.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[count, step]))
                writer.writeheader()
                writer.writerows(rows.values())


if __name__ == "__main__":
    main(get_parser().parse_args())
