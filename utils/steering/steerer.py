"""Moving batches of images and measuring what came out: the work between reading pictures and writing tables."""

from __future__ import annotations

import zlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from utils.core.files import atomic_path
from utils.core.shards import Batch
from utils.features.image import image_features
from utils.prediction.data import PredictionData
from utils.reconstruction.losses import ReconstructionLosses
from utils.steering.controls import (
    DISTURBANCES,
    EDITS,
    edit_to_cost,
    random_directions,
    to_eight_bit,
    to_unit_range,
)
from utils.steering.evaluation import METHODS, RECONSTRUCTION
from utils.steering.judge import DESCRIBED_BY, Judge, TableJudge
from utils.steering.moves import (
    Bounds,
    CodeNetwork,
    Moved,
    Neighbourhood,
    climb,
    move_along,
    normalised,
    psnr_of,
    squared_error_of,
)

FOLDER = "steering"
LPIPS = "lpips-sq"


@dataclass(frozen=True)
class Study:
    """Everything the moves need.

    Attributes:
        stem: The encoder checkpoint's stem.
        network: Encoder, decoder and the head that is to be raised, in eval mode, without gradients for weights.
        ridge: (D,) direction of the ridge weights in the space of the codes.
        heads: Heads trained on bootstrap resamples of the training images, each with its ridge direction.
        neighbourhood: Where training codes lie.
        judge: The second opinion; None without one.
        identity: What identifies the weights behind all of them.
        data: Codes, scores and splits.
    """

    stem: str
    network: CodeNetwork
    ridge: Tensor
    heads: list[tuple[nn.Module, Tensor]]
    neighbourhood: Neighbourhood
    judge: Judge | TableJudge | None
    identity: dict[str, Any]
    data: PredictionData


def code_shape(network: CodeNetwork, image_size: int, device: torch.device) -> tuple[int, ...]:
    """Return the shape of one code, (C, h, w)."""
    with torch.inference_mode():
        return tuple(network.encoder(torch.zeros(1, 3, image_size, image_size, device=device)).shape[1:])


def decode_all(
    network: CodeNetwork, codes: np.ndarray, device: torch.device, args: Namespace
) -> list[np.ndarray]:
    """Decode (N, D) codes into 8-bit pictures, (S, S, 3) each."""
    shape = code_shape(network, args.image_size, device)
    pictures = []
    with torch.inference_mode():
        for start in range(0, len(codes), args.batch_size):
            part = torch.from_numpy(codes[start : start + args.batch_size]).to(device).view(-1, *shape)
            pictures += [to_eight_bit(image) for image in network.decoder(part)]
    return pictures


def picture_name(image_id: str) -> str:
    """Name the folder of an image's pictures: its id without folders."""
    return image_id.replace("/", "_").rsplit(".", 1)[0]


class Steerer:
    """Moves batches of images and measures what came out; the work of :func:`utils.core.shards.run_sharded`."""

    def __init__(self, study: Study, args: Namespace, device: torch.device) -> None:
        self.study, self.args, self.device = study, args, device
        self.shape = code_shape(study.network, args.image_size, device)
        self.budgets = sorted(args.psnr_budget, reverse=True)
        self.root = args.output_path
        self.ssim = ReconstructionLosses(["ssim"], device=device)
        self.lpips = None
        if args.lpips_budget is not None:
            self.lpips = ReconstructionLosses([LPIPS], args.weights, device, seed=args.seed)

    def __call__(self, ids: list[str], pixels: list[np.ndarray]) -> Batch:
        """Return a row per image, which holds all its moves."""
        with torch.inference_mode():
            images = torch.from_numpy(np.stack(pixels)).to(self.device)
            codes = self.study.network.encoder(images)
            start = self.study.network.decoder(codes).clone()
            codes = codes.clone()
            own = self.study.neighbourhood.distances(codes)
        radius = own.clamp_min(self.study.neighbourhood.radius)
        limit = self.args.lpips_budget or float("inf")
        bounds = [
            Bounds(
                start, torch.full_like(radius, squared_error_of(budget)), radius, self._perceptual(), limit
            )
            for budget in self.budgets
        ]
        before = self._measure(ids, start, RECONSTRUCTION, None)
        rows: list[dict[str, Any]] = [{"before": one, "moves": [], "heads": []} for one in before]
        for budget, moved in zip(self.budgets, self._moves(ids, codes, bounds), strict=True):
            self._add_moves(ids, codes, budget, moved, before, rows)
        self._add_resampled(ids, codes, bounds, rows)
        return Batch(rows)

    def _perceptual(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        if self.lpips is None:
            return None
        lpips = self.lpips
        return lambda first, second: lpips(first, second)[LPIPS]

    def _moves(
        self, ids: list[str], codes: Tensor, bounds: list[Bounds]
    ) -> Iterator[dict[str, Moved | Tensor]]:
        """Yield for each step all methods and controls, at the cost that gradient ascent came to there."""
        network, near = self.study.network, self.study.neighbourhood
        risen = climb(network, codes, bounds, near)
        # Ascent that ends early, at the edge of the training codes, makes everything else cheaper, too.
        matched = [one.with_error(up.squared_error) for one, up in zip(bounds, risen, strict=True)]
        fallen = climb(network, codes, matched, near, sign=-1.0)
        straight = self._direction(self.study.ridge, codes)
        for budget, bound, up, down in zip(self.budgets, matched, risen, fallen, strict=True):
            seeds = [zlib.crc32(f"{self.args.seed} {budget:g} {name}".encode()) for name in ids]
            yield {
                "gradient": up,
                "ridge": move_along(network, codes, straight, bound, near),
                "descent": down,
                "random": move_along(network, codes, random_directions(codes, seeds), bound, near),
                **{name: edit_to_cost(name, bound) for name in EDITS},
            }

    def _add_moves(
        self,
        ids: list[str],
        codes: Tensor,
        budget: float,
        moved: dict[str, Moved | Tensor],
        before: list[dict],
        rows: list[dict],
    ) -> None:
        """Save and measure the pictures of one step."""
        for method, result in moved.items():
            images = result.images if isinstance(result, Moved) else result
            after = self._measure(ids, images, f"{budget:g}_{method}", before, disturb=method in METHODS)
            where = self._where(codes, result)
            for row, one, place in zip(rows, after, where, strict=True):
                row["moves"].append({"step": budget, "method": method, **one, **place})

    def _direction(self, weights: Tensor, codes: Tensor) -> Tensor:
        return normalised(weights.to(codes).view(1, *self.shape).expand_as(codes))

    def _where(self, codes: Tensor, result: Moved | Tensor) -> list[dict[str, Any]]:
        """How far a code went and how far from training codes it lies; edits have no code of their own."""
        if not isinstance(result, Moved):
            return [{"code_shift": None, "code_distance": None, "limited_by": "fidelity"}] * len(codes)
        shift = (result.codes - codes).flatten(1).norm(dim=1)
        distance = self.study.neighbourhood.distances(result.codes)
        limits = ["codes" if limited else "fidelity" for limited in result.limited_by_codes.tolist()]
        return [
            {"code_shift": a, "code_distance": b, "limited_by": c}
            for a, b, c in zip(shift.tolist(), distance.tolist(), limits, strict=True)
        ]

    def _add_resampled(self, ids: list[str], codes: Tensor, bounds: list[Bounds], rows: list[dict]) -> None:
        """Make the methods' moves under heads trained on resampled images; keep their gains alone."""
        near, network = self.study.neighbourhood, self.study.network
        start = [to_eight_bit(image) for image in bounds[0].start]
        judge_start = self._judge_scores(ids, start, None)
        for number, (head, ridge) in enumerate(self.study.heads):
            other = CodeNetwork(network.encoder, network.decoder, head)
            risen = climb(other, codes, bounds, near)
            straight = self._direction(ridge, codes)
            head_start = self._head_scores(start, head)
            for budget, bound, up in zip(self.budgets, bounds, risen, strict=True):
                matched = bound.with_error(up.squared_error)
                for method, moved in (
                    ("gradient", up),
                    ("ridge", move_along(other, codes, straight, matched, near)),
                ):
                    after = [to_eight_bit(image) for image in moved.images]
                    head_gain = self._head_scores(after, head) - head_start
                    judge_gain = self._judge_scores(ids, after, None) - judge_start
                    for row, one, two in zip(rows, head_gain.tolist(), judge_gain.tolist(), strict=True):
                        gains = {"head_gain": one, "judge_gain": None if np.isnan(two) else two}
                        row["heads"].append(
                            {"head_number": number, "step": budget, "method": method, **gains}
                        )

    def _head_scores(self, pictures: list[np.ndarray], head: nn.Module | None = None) -> np.ndarray:
        network = self.study.network
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack([to_unit_range(picture) for picture in pictures])).to(
                self.device
            )
            return (head or network.head)(network.encoder(batch)).double().cpu().numpy()

    def _judge_scores(
        self, ids: list[str], pictures: list[np.ndarray], files: list[str] | None
    ) -> np.ndarray:
        judge = self.study.judge
        if isinstance(judge, Judge):
            return judge.score(ids, pictures)
        if isinstance(judge, TableJudge) and files is not None:
            return judge.of_files(files)
        return np.full(len(ids), np.nan)

    def _measure(
        self, ids: list[str], images: Tensor, name: str, before: list[dict] | None, disturb: bool = True
    ) -> list[dict[str, Any]]:
        """Save pictures as 8-bit PNG, read them again and measure what was read."""
        files = [f"{FOLDER}/{self.study.stem}/{picture_name(image_id)}/{name}.png" for image_id in ids]
        pictures = [save_and_read(self.root / file, image) for file, image in zip(files, images, strict=True)]
        scores = self._head_scores(pictures)
        judged = self._judge_scores(ids, pictures, files)
        measured: list[dict[str, Any]] = [
            {
                "picture": file,
                "score": float(score),
                "judge": None if np.isnan(verdict) else float(verdict),
                "features": image_features(picture, DESCRIBED_BY),
            }
            for file, score, verdict, picture in zip(files, scores, judged, pictures, strict=True)
        ]
        if disturb:
            for disturbance, apply in DISTURBANCES.items():
                for one, score in zip(measured, self._head_scores([apply(p) for p in pictures]), strict=True):
                    one[disturbance] = float(score)
        if before is not None:
            self._compare(measured, pictures, before)
        return measured

    def _compare(self, measured: list[dict], pictures: list[np.ndarray], before: list[dict]) -> None:
        """Add how much pictures differ from their reconstructions, both read from their files."""
        starts = [np.asarray(Image.open(self.root / one["picture"], formats=["PNG"])) for one in before]
        first, second = (
            torch.from_numpy(np.stack([to_unit_range(picture) for picture in side])).to(self.device)
            for side in (starts, pictures)
        )
        with torch.inference_mode():
            error = ((first.double() - second.double()) ** 2).flatten(1).mean(dim=1).cpu().numpy()
            ssim = 1 - self.ssim(first, second)["ssim"].double().cpu().numpy()
            lpips = None if self.lpips is None else self.lpips(first, second)[LPIPS].double().cpu().tolist()
        for number, one in enumerate(measured):
            # Equal files have an infinite PSNR, which no table holds: the cell stays empty.
            one["psnr"] = float(psnr_of(error[number])) if error[number] > 0 else None
            one["ssim"] = float(ssim[number])
            one["lpips"] = None if lpips is None else lpips[number]


def save_and_read(path: Path, image: Tensor) -> np.ndarray:
    """Save a (3, S, S) image in [0, 1] as 8-bit PNG and return what the file holds, (S, S, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(to_eight_bit(image)).save(temporary, format="PNG")
    with Image.open(path, formats=["PNG"]) as saved:
        return np.asarray(saved)
