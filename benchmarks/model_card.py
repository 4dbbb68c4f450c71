"""Every number of ``models/weights/README.md``, recomputed from the published weights.

Reads LNSIM (see the card for where it comes from) and the two files in models/weights/. Splits the pictures as the
weights were trained (seed 0), encodes and reconstructs them, predicts the test third with the published head, and fits
on the training split what the head has to beat: ridge on the same codes, on the 24 colour, texture and structure
features, on both, on principal components of 32 px blocks, and ridge and head on the codes of the untrained network.
Writes model_card.csv and prints the card's tables.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.core.cli import build_parser, non_negative_int, run_script

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from utils.prediction.partition import Split

HEAD = "published head"
GROUPS = ("colour", "texture", "structure")


def get_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__ or "", "data", "output", "processing")
    parser.set_defaults(data_dir=Path("LNSIM"), output_path=Path("model_card_output"), device="cpu")
    parser.add_argument("--resamples", type=non_negative_int, default=1000, help="bootstrap resamples")
    return parser


def encode_all(model: Any, pixels: "np.ndarray") -> "np.ndarray":
    """Return (N, D) float32 latent codes of (N, 3, S, S) uint8 pictures."""
    import numpy as np
    import torch

    from utils.pretraining.training import to_floats

    codes = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 16):
            codes.append(model.encode(to_floats(pixels[start : start + 16], "cpu")).flatten(1).numpy())
    return np.concatenate(codes)


def image_features_of(table: "pd.DataFrame", workers: int, path: Path) -> "np.ndarray":
    """Return (N, 25) float32: the 24 features, the hue as cosine and sine; empty ones become the column's mean.

    They do not depend on the weights: a table from an earlier run is used again if it is of the same pictures.
    """
    import numpy as np
    import pandas as pd

    from utils.features.image import file_features
    from utils.features.model import linearise

    ids = table["image_id"].tolist()
    frame = pd.read_csv(path, dtype={"image_id": str}) if path.exists() else None
    if frame is None or frame["image_id"].tolist() != ids:
        work = partial(file_features, groups=GROUPS)
        with ProcessPoolExecutor(max(workers, 1)) as pool:
            rows = list(pool.map(work, table["path"], chunksize=16))
        frame = pd.DataFrame(rows)
        frame.insert(0, "image_id", ids)
        frame.to_csv(path, index=False)
    numbers = linearise(frame.drop(columns="image_id")).drop(columns="hsv_hue_mean")
    return numbers.fillna(numbers.mean()).to_numpy(np.float32)


def ridge_predictions(matrix: "np.ndarray", scores: "np.ndarray", split: "Split") -> "np.ndarray":
    """Fit on the training split, its strength on the validation split; predict all."""
    import numpy as np

    from utils.prediction.ridge import fit_ridge

    return fit_ridge(matrix, scores, split.train, split.val).predict(matrix, np.arange(len(matrix)))


def head_predictions(
    codes: "np.ndarray",
    untrained: "np.ndarray",
    scores: "np.ndarray",
    split: "Split",
    encoder: dict[str, Any],
) -> dict[str, "np.ndarray"]:
    """Predict with the published head, and with one trained in the same way on the untrained network's codes."""
    import numpy as np

    from models.builtin import builtin_head
    from models.checkpoints import load_mlp
    from utils.prediction.stage import saved_settings
    from utils.prediction.training import predict_rows, train_mlp

    head, meta = load_mlp(builtin_head(), encoder)
    rows = np.arange(len(codes))
    again = train_mlp(untrained, scores, split.train, split.val, saved_settings(meta)[0])
    return {
        HEAD: predict_rows(head, codes, rows),
        "head, untrained network": predict_rows(again.model, untrained, rows),
    }


def reconstruction_rows(
    table: "pd.DataFrame", names: list[str], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return mean PSNR and SSIM with intervals over pictures, per split."""
    import numpy as np

    from utils.statistics.rank_correlation import mean_interval

    rows = []
    for split in ("train", "val", "test"):
        part = table[table["split"] == split]
        for name in names:
            values = part[name].to_numpy(np.float64)
            found = mean_interval(values, resamples, seed)
            numbers = {"value": found["mean"], **{key: found[key] for key in ("ci_low", "ci_high", "n")}}
            rows.append({"what": name, "split": split, "metric": "mean", **numbers})
    return rows


def predict_all(
    model: Any,
    meta: dict[str, Any],
    rival: Any,
    pixels: "np.ndarray",
    table: "pd.DataFrame",
    split: "Split",
    args: argparse.Namespace,
) -> dict[str, "np.ndarray"]:
    """Return what each predictor says of every picture; all were fitted on the training split."""
    import numpy as np

    from models.autoencoder import build_autoencoder
    from models.initialisation import initialise

    scores = table["memorability"].to_numpy(np.float64)
    settings = meta["pretraining"]["settings"]
    start = build_autoencoder(model.arch, width=model.width)
    untrained = initialise(start, settings["initialisation"], settings["seed"]).eval()
    codes, plain = encode_all(model, pixels), encode_all(untrained, pixels)
    matrices = {
        "ridge, codes": codes,
        "ridge, 24 features": image_features_of(table, args.workers, args.output_path / "features.csv"),
        "ridge, untrained network": plain,
        "ridge, principal components": rival.codes(pixels),
    }
    found = {name: ridge_predictions(matrix, scores, split) for name, matrix in matrices.items()}
    both = np.stack([found["ridge, codes"], found["ridge, 24 features"]], axis=1)
    both = (both - both[split.train].mean(axis=0)) / both[split.train].std(axis=0)
    spread = 0.5 * (found["ridge, codes"].std() + found["ridge, 24 features"].std())
    found["both ridges, mean"] = scores[split.train].mean() + spread * both.mean(axis=1)
    found |= head_predictions(codes, plain, scores, split, meta)
    found["reconstruction error (-PSNR)"] = -table["PSNR"].to_numpy(np.float64)
    return found


def measure(args: argparse.Namespace) -> "pd.DataFrame":
    """Compute everything; return a row per number."""
    import numpy as np
    import pandas as pd

    from models.builtin import builtin_autoencoder
    from models.checkpoints import load_autoencoder
    from utils.data.dataset import load_dataset
    from utils.data.splits import load_splits
    from utils.prediction.evaluation import metric_table
    from utils.prediction.partition import split_positions
    from utils.pretraining.rival import fit_rival
    from utils.pretraining.stage import read_squares
    from utils.pretraining.training import score_held_out, scores_of_pixels
    from utils.statistics.correlation_tables import paired_difference

    model, meta = load_autoencoder(builtin_autoencoder())
    args.image_size = meta["image_size"]
    dataset = load_dataset(args)
    splits = load_splits(dataset, args.output_path, args.seed)[["image_id", "split"]]
    table = dataset.table.drop(columns="split").merge(splits, on="image_id", validate="one_to_one")
    pixels, ids, unreadable = read_squares(table, args)
    table = table[table["image_id"].isin(ids)].reset_index(drop=True)
    print(f"{len(table)} pictures read, {len(unreadable)} not")
    split = split_positions(table["split"], np.arange(len(table)), seed=args.seed)

    table["PSNR"], table["SSIM"] = score_held_out(model, pixels)
    rival = fit_rival(pixels[split.train], model.widths[-1])
    table["PSNR, PCA"], table["SSIM, PCA"] = scores_of_pixels(pixels, rival.reconstruct(pixels))
    found = predict_all(model, meta, rival, pixels, table, split, args)
    test = table.assign(**found)[table["split"] == "test"]
    threshold = float(table["memorability"].iloc[split.train].median())
    metrics = metric_table(test, list(found), threshold, args.resamples, args.seed)
    against = [(HEAD, name) for name in found if name != HEAD]
    differences = paired_difference(test, against, resamples=args.resamples, seed=args.seed)
    differences["what"] = f"{HEAD} - " + differences["measure_b"]
    differences = differences.rename(columns={"difference": "value"}).assign(
        metric="difference of rho", split="test"
    )
    quality = reconstruction_rows(
        table, ["PSNR", "SSIM", "PSNR, PCA", "SSIM, PCA"], args.resamples, args.seed
    )
    return pd.concat(
        [
            pd.DataFrame(quality),
            metrics.rename(columns={"predictor": "what"}).assign(split="test"),
            differences[
                ["what", "split", "metric", "value", "ci_low", "ci_high", "p", "n", "resamples", "seed"]
            ],
        ],
        ignore_index=True,
    )


def as_markdown(table: "pd.DataFrame") -> str:
    """Return the card's tables."""
    lines = ["| reconstruction | split | pictures | value | 95 % interval |", "|---|---|---|---|---|"]
    for row in table[table["metric"] == "mean"].itertuples():
        lines.append(
            f"| {row.what} | {row.split} | {row.n} | {row.value:.3f} | {row.ci_low:.3f} to {row.ci_high:.3f} |"
        )
    for metric in ("spearman", "difference of rho", "auc", "mae", "r2"):
        lines += ["", f"| predictor, test third | {metric} | 95 % interval |", "|---|---|---|"]
        rows = table[table["metric"] == metric]
        if metric in ("mae", "r2"):  # of predicted scores alone: an error in dB is none
            rows = rows[~rows["what"].str.startswith("reconstruction error")]
        for row in rows.itertuples():
            interval = "" if row.ci_low != row.ci_low else f"{row.ci_low:.3f} to {row.ci_high:.3f}"
            lines.append(f"| {row.what} | {row.value:.3f} | {interval} |")
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Write model_card.csv and print the tables."""
    args.output_path.mkdir(parents=True, exist_ok=True)
    table = measure(args)
    path = args.output_path / "model_card.csv"
    table.to_csv(path, index=False, float_format="%.9g")
    print(f"{as_markdown(table)}\n\nWrote {path}")


if __name__ == "__main__":
    run_script(main, get_parser)
