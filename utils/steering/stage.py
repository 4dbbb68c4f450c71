"""The steps of the steering stage: networks, heads, judge, moves in shards, tables."""

from __future__ import annotations

import zlib
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from models.checkpoints import checkpoint_sha256, load_autoencoder, load_mlp, mlp_file
from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.run import Run
from utils.core.shard_files import array_digest
from utils.core.shards import ShardedResult, run_sharded
from utils.core.tables import kept_rows, output_file
from utils.data.dataset import limit_rows
from utils.data.images import load_pixels
from utils.latents.neighbours import SearchSettings, nearest_neighbours
from utils.latents.rows import take_rows
from utils.prediction.data import PredictionData, load_prediction_data
from utils.prediction.ridge import RidgeFit, fit_ridge, fit_standardisation
from utils.prediction.stage import saved_settings
from utils.prediction.training import train_mlp
from utils.reconstruction.losses import cached_losses
from utils.statistics.clusters import find_clusters
from utils.steering.controls import (
    DISTURBANCES,
    to_unit_range,
)
from utils.steering.evaluation import (
    SURVIVING_SHARE,
    feature_changes,
    sentences,
    summarise,
)
from utils.steering.judge import Judge, TableJudge, embed_features, read_table_judge, train_judge
from utils.steering.moves import (
    CodeNetwork,
    neighbourhood_of,
)
from utils.steering.steerer import LPIPS, Steerer, Study, decode_all

NO_JUDGE, FEATURE_JUDGE = "none", "features"


# ------------------------------------------------------------------------------------------------ preparation


def check_budgets(args: Namespace) -> None:
    """Refuse budgets that leave nothing to do, or everything.

    Raises:
        UserError: An LPIPS budget of 0 or one that would need a download with ``--weights available``, or a PSNR budget so
            low that any picture would do.
    """
    if args.lpips_budget is not None and args.lpips_budget <= 0:
        raise UserError(
            f"--lpips-budget {args.lpips_budget:g} leaves no room for any change: expected a number above 0, e.g. 0.1."
        )
    if args.weights == "available":
        if args.lpips_budget is not None:
            cached_losses(
                [LPIPS]
            )  # an error where they are not: without its budget it would be another experiment
        args.weights = "pretrained"
    bad = [value for value in args.psnr_budget if not 5 <= value <= 60]
    if bad:
        raise UserError(
            f"--psnr-budget {bad[0]:g}: expected decibels from 5 (almost another picture) to 60 (no change that 8 bits "
            "would keep), e.g. 32 28 24."
        )


def prepare_study(run: Run, args: Namespace, checkpoint: Path) -> Study:
    """Load and fit what the moves need.

    Args:
        run: The run; notes inputs and caveats.
        args: The script's arguments.
        checkpoint: The autoencoder.

    Raises:
        UserError: A missing or foreign head, codes without a decoder, too few images for a judge.
    """
    # --limit counts among the images to steer, not among those the head was trained on.
    data = load_prediction_data(run, Namespace(**{**vars(args), "limit": None}), checkpoint)
    autoencoder, encoder = load_autoencoder(checkpoint, run.device, args.image_size)
    head_path = mlp_file(args.output_path, checkpoint.stem)
    head, meta = load_mlp(head_path, encoder, run.device)
    run.note_caveats([*encoder["caveats"], *meta.get("caveats", [])])
    for path in (checkpoint, head_path):
        run.add_input(path)
    for module in (autoencoder, head):
        module.requires_grad_(False)
    network = CodeNetwork(autoencoder.encoder, autoencoder.decoder, head)
    ridge = fit_ridge(data.latents, data.scores, data.split.train, data.split.val)
    codes = take_rows(data.latents, data.split.train)
    neighbours = nearest_neighbours(codes, SearchSettings())
    if neighbours is None:  # only a rank that shares a search with others gets none
        raise RuntimeError("the search for neighbours of the training codes came back empty")
    identity = {
        "encoder": encoder["sha256"],
        "head": checkpoint_sha256(head_path),
        "codes": array_digest(codes),  # of training, on which directions and limits hang
        "judge": args.judge
        if args.judge in (NO_JUDGE, FEATURE_JUDGE)
        else checkpoint_sha256(judge_path(args)),
    }
    study = Study(
        checkpoint.stem,
        network,
        ridge_direction(ridge),
        resampled_heads(data, meta, ridge, args, run.device),
        neighbourhood_of(codes, neighbours.distance[:, 0], args.radius_quantile),
        None,
        identity,
        data,
    )
    return replace(study, judge=make_judge(run, args, study))


def ridge_direction(fit: RidgeFit) -> Tensor:
    """Return the direction in which a ridge regression's score rises fastest, (D,), in the space of the codes."""
    return torch.from_numpy(fit.weights / fit.standardisation.scale)


def cluster_labels(images: pd.DataFrame, choice: str | None) -> pd.Series:
    """Return which images are alike.

    Args:
        images: All images of the study, with ``image_id`` and, where known, ``group``, ``category`` and ``subcategory``.
        choice: ``--cluster``; None takes groups (crops of one photograph) where there are any, which a judge must not
            see on both sides, else what :func:`utils.statistics.clusters.find_clusters` takes.

    Returns:
        A label by ``image_id``; the id itself for an image that is alike to none.
    """
    if choice is None and "group" in images and images["group"].fillna("").replace("", np.nan).nunique() > 1:
        choice = "group"
    labels = find_clusters(images, choice).labels
    return (images["image_id"] if labels is None else labels).set_axis(images["image_id"])


def resampled_heads(
    data: PredictionData, meta: dict[str, Any], fit: RidgeFit, args: Namespace, device: torch.device
) -> list[tuple[nn.Module, Tensor]]:
    """Train heads on bootstrap resamples of the training images, whole clusters at a time.

    Args:
        data: Codes, scores and splits.
        meta: Of the head itself, for its settings.
        fit: The ridge on all training images, for its strength.
        args: With ``head_resamples`` and ``seed``.
        device: Where to train.

    Returns:
        Pairs of a head and the direction of a ridge on the same resample.
    """
    labels = cluster_labels(data.images, args.cluster).set_axis(data.images["position"].to_numpy())
    of_train = labels.reindex(data.split.train)
    members = {name: part.index.to_numpy() for name, part in of_train.groupby(of_train)}
    names = sorted(members)
    settings, _ = saved_settings(meta)
    heads: list[tuple[nn.Module, Tensor]] = []
    for number in range(1, args.head_resamples + 1):
        generator = np.random.default_rng([args.seed, number])
        rows = np.sort(
            np.concatenate([members[names[i]] for i in generator.integers(0, len(names), len(names))])
        )
        standardisation = fit_standardisation(data.latents, rows)
        trained = train_mlp(
            data.latents,
            data.scores,
            rows,
            data.split.val,
            replace(settings, seed=settings.seed + number),
            standardisation,
            device,
            data.ids.tolist(),
            f"head on resample {number}/{args.head_resamples}",
        )
        ridge = fit_ridge(
            data.latents, data.scores, rows, data.split.val, standardisation, strengths=[fit.strength]
        )
        heads.append((trained.model.to(device).eval().requires_grad_(False), ridge_direction(ridge)))
    return heads


def judge_path(args: Namespace) -> Path:
    """Find the file that ``--judge`` names, as it stands or in the output folder.

    Raises:
        UserError: If there is none.
    """
    for path in (Path(args.judge), args.output_path / args.judge, args.output_path / f"{args.judge}.pth"):
        if path.is_file():
            return path
    raise UserError(
        f"--judge {args.judge}: expected {FEATURE_JUDGE}, {NO_JUDGE}, an autoencoder checkpoint (.pth) or a CSV with the "
        f"columns path and score; there is no such file here or in {args.output_path}."
    )


def make_judge(run: Run, args: Namespace, study: Study) -> Judge | TableJudge | None:
    """Make the second opinion: trained on what the head has never seen, through other features.

    It learns from reconstructions, D(E(x)), of validation and test images, since steered pictures look like those.

    Raises:
        UserError: The judge is the steered encoder itself, or there are too few images to train it.
    """
    if args.judge == NO_JUDGE:
        return None
    embed, name = embed_features, FEATURE_JUDGE
    if args.judge != FEATURE_JUDGE:
        path = judge_path(args)
        run.add_input(path)
        if path.suffix.lower() == ".csv":
            return read_table_judge(path, args.output_path)
        autoencoder, meta = load_autoencoder(path, run.device, args.image_size)
        if meta["sha256"] == study.identity["encoder"]:
            raise UserError(f"--judge {args.judge} is the steered encoder itself; a judge has to be another.")
        run.note_caveats(meta["caveats"])
        embed, name = partial(_embed_codes, autoencoder.encoder, run.device), path.stem
    images = study.data.images[study.data.images["split"] != "train"]
    log.info("Judge: ridge on %s of %d images that trained no head", name, len(images))
    codes = take_rows(study.data.latents, images["position"].to_numpy())
    judge = train_judge(
        name,
        embed,
        images["image_id"].tolist(),
        decode_all(study.network, codes, run.device, args),
        images["memorability"].to_numpy(float),
        cluster_labels(study.data.images, args.cluster).reindex(images["image_id"]).tolist(),
        seed=args.seed,
    )
    log.info(
        "The judge's own rho with the human scores of images it had not seen: %.3f (p %.2g)",
        judge.rho,
        judge.rho_p,
    )
    if not (judge.rho > 0 and judge.rho_p < 0.05):
        log.warning(
            "The judge does not predict memorability itself (rho %.3f): its verdict says little.", judge.rho
        )
    return judge


def _embed_codes(encoder: nn.Module, device: torch.device, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Codes of pictures under another encoder, (N, D)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 8):
            batch = np.stack([to_unit_range(picture) for picture in pictures[start : start + 8]])
            parts.append(encoder(torch.from_numpy(batch).to(device)).flatten(1).double().cpu().numpy())
    return np.concatenate(parts)


def choose_images(study: Study, args: Namespace) -> pd.DataFrame:
    """Return the images to steer: of one split, ``--limit`` of them, evenly spaced.

    Raises:
        UserError: If the split is empty, or holds images that trained the head.
    """
    images = study.data.images
    images = images[images["split"] == args.split].reset_index(drop=True)
    if images.empty:
        raise UserError(
            f"No image of {study.data.dataset_name} is in the {args.split} split. Choose another --split."
        )
    return limit_rows(images, args.limit)


# ------------------------------------------------------------------------------------------------ work


def steer(run: Run, args: Namespace, study: Study, images: pd.DataFrame) -> ShardedResult:
    """Move all images, shard by shard."""
    settings = {
        **study.identity,
        "training": study.data.split.train.tolist(),
        "scores": zlib.crc32(np.nan_to_num(study.data.scores).tobytes()),
        "psnr_budget": sorted(args.psnr_budget),
        "lpips_budget": args.lpips_budget,
        "weights": args.weights if args.lpips_budget is not None else None,
        "radius_quantile": args.radius_quantile,
        "head_resamples": args.head_resamples,
        "cluster": args.cluster,
        "image_size": args.image_size,
        "seed": args.seed,
        "caveat": run.caveat,
    }
    return run_sharded(
        f"steering_{study.stem}",
        images[["image_id", "path"]],
        Steerer(study, args, run.device),
        output_path=args.output_path,
        settings=settings,
        load=partial(load_pixels, size=args.image_size),
        batch_size=args.batch_size,
        workers=args.workers,
        shard_size=args.batch_size,
        on_error=args.on_error,
        overwrite=args.overwrite,
        description="steering",
    )


# ------------------------------------------------------------------------------------------------ tables


def survives(before: dict[str, float], after: dict[str, float]) -> bool:
    """Say whether a gain is one, and keeps `SURVIVING_SHARE` of itself under every disturbance of the picture."""
    gain = after["score"] - before["score"]
    kept = [after[name] - before[name] for name in DISTURBANCES]
    return bool(gain > 0 and min(kept) >= SURVIVING_SHARE * gain)


def table_rows(result: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Lay out what the shards hold.

    Args:
        result: ``image_id, before, moves, heads``, one row per image.

    Returns:
        Rows of ``steering_<model>.csv``; gains under resampled heads; features before and after.
    """
    moves, heads, features = [], [], []
    for row in result.itertuples():
        before = row.before
        for move in row.moves:
            disturbed = {
                f"gain_{name}": move[name] - before[name] if name in move else np.nan for name in DISTURBANCES
            }
            moves.append(
                {
                    "image_id": row.image_id,
                    "step": move["step"],
                    "method": move["method"],
                    "score_before": before["score"],
                    "score_after": move["score"],
                    "judge_before": before["judge"],
                    "judge_after": move["judge"],
                    **{name: move[name] for name in ("psnr", "ssim", "lpips", "code_shift", "code_distance")},
                    "limited_by": move["limited_by"],
                    "rose": move["score"] > before["score"],
                    **disturbed,
                    "survived": survives(before, move)
                    if all(name in move for name in DISTURBANCES)
                    else None,
                    "picture": move["picture"],
                }
            )
            features += [
                {
                    "image_id": row.image_id,
                    "step": move["step"],
                    "method": move["method"],
                    "feature": name,
                    "before": value,
                    "after": move["features"][name],
                }
                for name, value in before["features"].items()
            ]
        heads += [{"image_id": row.image_id, **one} for one in row.heads]
    numeric = ["judge_before", "judge_after", "psnr", "lpips", "code_shift", "code_distance", "survived"]
    table = pd.DataFrame(moves).astype(dict.fromkeys(numeric, float))
    return table, pd.DataFrame(heads), pd.DataFrame(features)


def write_tables(
    run: Run, study: Study, result: ShardedResult, images: pd.DataFrame
) -> tuple[pd.DataFrame, ...]:
    """Write the three tables; return the moves and the two summaries of this model."""
    args = run.args
    names = ("steering_summary", "steering_features")
    written = [
        output_file(run.output_path, "steering", study.stem),
        *(output_file(run.output_path, n) for n in names),
    ]
    if not (result.up_to_date and all(path.exists() for path in written)):
        table, heads, features = table_rows(result.frame())
        about = ["image_id", "category", "subcategory", "memorability"]
        table = table.merge(images[about], on="image_id", validate="many_to_one")
        clusters = cluster_labels(study.data.images, args.cluster)
        with_clusters = table.assign(cluster=table["image_id"].map(clusters))
        summary = summarise(with_clusters, heads, args.resamples, args.seed)
        summary = summary.assign(resamples=args.resamples, seed=args.seed)
        changes = feature_changes(features.assign(cluster=features["image_id"].map(clusters)))
        run.write_table(table[[c.name for c in TABLES["steering"].columns]], "steering", study.stem)
        replace_model(run, summary, "steering_summary", study.stem)
        replace_model(run, changes, "steering_features", study.stem)
        result.finish(written)
    # Read back in either case: what is in memory has more digits, and a later run would draw other figures.
    table = run.read_table("steering", study.stem, inherit=False)
    of_all = [run.read_table(name, inherit=False) for name in names]
    for path in written:
        run.add_output(path)
    return table, *(frame[frame["model"] == study.stem] for frame in of_all)


def report(run: Run, table: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Say in words what came out."""
    last = summary[summary["step"] == summary["step"].min()]
    stuck = table[(table["method"] == "gradient") & ~table["rose"]]
    run.count(images=table["image_id"].nunique(), not_risen=len(stuck))
    if len(stuck):
        log.warning(
            "The score could not be raised within the budget in %d of %d cases (column rose); their pictures are kept.",
            len(stuck),
            int((table["method"] == "gradient").sum()),
        )
    for text in sentences(last):
        log.info("%s", text)


def replace_model(run: Run, frame: pd.DataFrame, table: str, model: str) -> None:
    """Write a table that holds several models, replacing this one's rows."""
    frame = frame.assign(model=model)
    old = run.read_earlier(table)
    if old is not None:
        frame = pd.concat([kept_rows(old, old["model"] != model), frame], ignore_index=True)
    run.write_table(frame, table)
