"""Time and memory of training and evaluating the MLP head, as a user runs `mlp_predict.py`.

Makes latent codes of a realistic kind (rectified mixtures of factors with falling spectrum; a part of the score
is a smooth, partly non-linear function of the factors, the rest is noise) for as many images as asked for, then
runs `mlp_predict.py --train` and `--evaluate` with default settings in processes of their own, and reports wall
time, the highest resident memory (pages of the mapped matrix count), epochs, and test rho beside that of the
ridge and of the planted signal. Writes benchmarks/results/mlp_<hardware>.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MODEL = "bench"
CHUNK = 1000


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=25_088, help="values per latent code")
    parser.add_argument("--factors", type=int, default=300, help="factors behind the codes")
    parser.add_argument("--strength", type=float, default=0.7, help="correlation of planted signal and score")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where the codes go (1 GB by default); a temporary folder"
    )
    parser.add_argument("--train-only", action="store_true", help="leave the evaluation out")
    parser.add_argument("--flags", default="", help="further flags of mlp_predict.py, in one string")
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/mlp_<hardware>.json)")
    return parser


def write_codes(path: Path, args: argparse.Namespace):
    """Write the codes in chunks; return scores, planted signal and each row's checksum."""
    import numpy as np
    import torch

    from utils.latents.codes import row_checksums

    draw = torch.Generator().manual_seed(args.seed)
    factors = torch.randn(args.images, args.factors, generator=draw)
    spectrum = torch.arange(1, args.factors + 1).float()
    loadings = torch.randn(args.factors, args.dimensions, generator=draw) * spectrum[:, None] ** -0.5
    loadings /= (loadings**2).sum(0).sqrt()
    weights = torch.randn(args.factors, generator=draw) * spectrum**-0.25
    signal = factors @ weights + 0.5 * weights.norm() * torch.relu(factors[:, 0]) * factors[:, 1]
    signal = (signal - signal.mean()) / signal.std()
    noise = torch.randn(args.images, generator=draw)
    scores = 0.6 + 0.1 * (args.strength * signal + (1 - args.strength**2) ** 0.5 * noise)
    matrix = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(args.images, args.dimensions)
    )
    checksums = []
    for start in range(0, args.images, CHUNK):
        part = factors[start : start + CHUNK] @ loadings
        codes = torch.relu(part + torch.randn(part.shape, generator=draw) - 0.8).numpy()
        matrix[start : start + CHUNK] = codes
        checksums += row_checksums(codes)
    matrix.flush()
    return scores.numpy(), signal.numpy(), checksums


def set_up(folder: Path, args: argparse.Namespace):
    """Write an output folder as the earlier stages leave it; return the planted signal."""
    import pandas as pd
    from PIL import Image

    from models.autoencoder import build_autoencoder
    from models.checkpoints import checkpoint_sha256, save_autoencoder
    from utils.core.tables import output_file, write_table
    from utils.latents.codes import latent_file

    (folder / "data").mkdir(parents=True, exist_ok=True)
    save_autoencoder(folder / f"{MODEL}.pth", build_autoencoder("vgg11", seed=0), image_size=224)
    scores, signal, checksums = write_codes(latent_file(folder, MODEL), args)
    ids = [f"{number:07d}.png" for number in range(args.images)]
    Image.new("RGB", (8, 8)).save(folder / "one.png")
    for name in ids:
        (folder / "data" / name).unlink(missing_ok=True)
        os.link(folder / "one.png", folder / "data" / name)
    pd.DataFrame({"path": ids, "score": scores}).to_csv(folder / "data" / "scores.csv", index=False)
    rows = pd.DataFrame({"image_id": ids, "layer": "conv5", "pool": "none", "image_size": 224})
    rows = rows.assign(encoder_sha256=checkpoint_sha256(folder / f"{MODEL}.pth")[:16], crc32=checksums)
    write_table(rows, output_file(folder, "latents", MODEL), "latents")
    return signal


def run_stage(folder: Path, step: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one step of the stage; return its wall time, processor time and peak memory."""
    from benchmarks.common import ROOT

    command = [sys.executable, str(ROOT / "mlp_predict.py"), step, "--data-dir", str(folder / "data")]
    command += ["--scores-csv", str(folder / "data" / "scores.csv"), "--output-path", str(folder)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *args.flags.split()])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{step} failed")
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,  # other work on the machine does not add to this
        "peak_gb": usage.ru_maxrss / scale,
    }


def quality(folder: Path, signal) -> dict[str, float]:
    """Test rho of every predictor, and of the planted signal itself."""
    from utils.core.tables import read_table
    from utils.statistics.correlation_tables import spearman

    metrics = read_table(folder / "mlp_metrics.csv", "mlp_metrics")
    rho = metrics[metrics["metric"] == "spearman"].set_index("predictor")["value"].dropna()
    splits = read_table(folder / "splits.csv", "splits")
    test = (splits["split"] == "test").to_numpy()
    return {**rho.to_dict(), "planted signal": spearman(signal[test], splits["memorability"][test])[0]}


def main(args: argparse.Namespace) -> None:
    from benchmarks.common import record
    from utils.core.tables import read_table

    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        signal = set_up(folder, args)
        found = {"settings": vars(args), "train": run_stage(folder, "--train", args)}
        history = read_table(folder / f"mlp_history_{MODEL}.csv", "mlp_history")
        found["epochs"] = len(history)
        found["best_epoch"] = int(history.loc[history["best"], "epoch"].iloc[0])
        if not args.train_only:
            found["evaluate"] = run_stage(folder, "--evaluate", args)
            found["test_rho"] = quality(folder, signal)
        record("mlp", found, path=args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
