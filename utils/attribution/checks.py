"""Two checks of whether attributions mean anything: randomised weights, and deletion against chance.

Randomised weights (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): a map that explains what
a network has learned must change when the weights are scrambled. Deletion and insertion (Petsiuk et al.,
"RISE", BMVC 2018): taking away first what the map calls most in favour of a high score must lower the
predicted score faster than taking parts away at random.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.score_network import prepare_network
from utils.attribution.gradients import (
    AttributionSettings,
    image_seed,
    integrated_gradients,
    make_baselines,
    predict,
)

if TYPE_CHECKING:
    import pandas as pd

# Enough for a map whose likeness to another is asked; checking costs as many passes as eight images' attributions.
MOST_STEPS = 16
PATCH_PX = 16
CURVE_POINTS = 15
RANDOM_ORDERS = 5
CONTROL_LEVEL = "0 none"


@dataclass(frozen=True)
class Curves:
    """Predicted scores of one image while its patches are replaced by the baseline.

    Attributes:
        fractions: (P,) share of the patches deleted (or inserted), 0 to 1.
        deletion: (P,) scores; patches go from most in favour of a high score to most against it.
        insertion: (P,) scores; patches come, onto the baseline, in that same order.
        random_deletion: (R, P) scores; patches go in random orders.
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random_deletion: np.ndarray

    @property
    def random_insertion(self) -> np.ndarray:
        """(R, P) scores; a random order of deletion read backwards is a random order of insertion."""
        return self.random_deletion[:, ::-1]


def area(fractions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the area under curves by the trapezoid rule: the mean score along the way.

    Args:
        fractions: (P,) rising from 0 to 1.
        scores: (..., P).
    """
    return np.trapezoid(scores, fractions, axis=-1)


def patch_grid(height: int, width: int, patch: int = PATCH_PX) -> np.ndarray:
    """Number the patches of an image, each of about ``patch`` pixels' side: (H, W) int."""
    rows, columns = max(height // patch, 1), max(width // patch, 1)
    return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width


def perturbation_curves(
    network: nn.Module,
    image: Tensor,
    baseline: Tensor,
    attribution: np.ndarray,
    *,
    seed: int,
    patch: int = PATCH_PX,
    points: int = CURVE_POINTS,
    random_orders: int = RANDOM_ORDERS,
    batch_size: int = 8,
) -> Curves:
    """Predict the score of one image while more and more of it is replaced by the baseline.

    Whole patches go rather than single pixels, in the map's order and in random orders alike: scattered
    single pixels are a texture of their own, to which the network reacts whatever they held.

    Args:
        network: Maps (N, 3, H, W) images to (N,) scores.
        image: (3, H, W) float, [0, 1].
        baseline: (3, H, W) float, [0, 1]; what deleted patches show.
        attribution: (H, W); summed over each patch, sorted from most positive to most negative.
        seed: Seed of the random orders.
        patch: Side of a patch in pixels.
        points: Points along each curve, ends included.
        random_orders: Random orders to compare with.
        batch_size: Images per pass.

    Returns:
        The curves.
    """
    grid = patch_grid(*attribution.shape, patch)
    mass = np.bincount(grid.ravel(), weights=attribution.ravel().astype(np.float64))
    generator = np.random.default_rng(seed)
    down = np.argsort(-mass, kind="stable")
    # Counts that are symmetric around one half: then an insertion curve is a deletion curve read backwards,
    # since inserting the k best is deleting all but them, worst first.
    counts = np.round(np.linspace(0, len(mass), points)).astype(int)
    counts = np.unique(np.concatenate([counts, len(mass) - counts]))
    orders = [down, down[::-1], *(generator.permutation(len(mass)) for _ in range(random_orders))]
    scores = np.stack(
        [_scores_along(network, image, baseline, grid, order, counts, batch_size) for order in orders]
    )
    return Curves(counts / len(mass), scores[0], scores[1, ::-1], scores[2:])


def _scores_along(
    network: nn.Module,
    image: Tensor,
    baseline: Tensor,
    grid: np.ndarray,
    order: np.ndarray,
    counts: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Predict with the first ``counts[i]`` patches of ``order`` deleted, for each i."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    place_of_pixel = torch.from_numpy(place[grid]).to(image.device)
    scores = []
    for start in range(0, len(counts), batch_size):
        limits = torch.as_tensor(counts[start : start + batch_size], device=image.device)
        deleted = place_of_pixel[None, None] < limits[:, None, None, None]
        scores.append(predict(network, torch.where(deleted, baseline[None], image[None]), batch_size))
    return np.concatenate(scores)


# ---------------------------------------------------------------------------- random weights


def _parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name the network's parts from the output to the input: the head, then the encoder's blocks."""
    return [("head", network.head), *reversed(list(network.encoder.named_children()))]


def shuffle_weights(module: nn.Module, seed: int) -> None:
    """Shuffle the entries of every weight tensor and buffer among themselves, in place.

    Shuffling rather than drawing anew keeps the size and spread of the weights, so that only what was learned
    is lost, and needs no knowledge of how each layer is initialised.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1:
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].view_as(tensor))


def randomised_networks(network: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies with more and more weights shuffled, from the output to the input.

    Args:
        network: A :class:`models.score_network.ScoreNetwork`; left as it is.
        seed: Seed of the shuffling.

    Yields:
        (level, network): ``1 head``, ``2 conv5`` (head and conv5), ... up to all weights. The same object,
        changed further each time.
    """
    changed = copy.deepcopy(network)
    for number, (name, part) in enumerate(_parts(changed), start=1):
        shuffle_weights(part, seed + number)
        yield f"{number} {name}", changed


def map_agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return how alike two maps are.

    Args:
        first: (H, W).
        second: (H, W).

    Returns:
        Spearman rho over pixels of the signed values, and of the absolute values; nan where a map is
        constant.
    """
    from scipy.stats import rankdata

    def rho(x: np.ndarray, y: np.ndarray) -> float:
        x, y = rankdata(x), rankdata(y)
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            return float("nan")
        return float(np.corrcoef(x, y)[0, 1])

    first, second = first.ravel(), second.ravel()
    return rho(first, second), rho(np.abs(first), np.abs(second))


# ------------------------------------------------------------------------------------------------ all checks


def check_attributions(
    network: nn.Module,
    images: Tensor,
    image_ids: Sequence[str],
    settings: AttributionSettings,
    device: torch.device | str = "cpu",
) -> list[dict]:
    """Run both checks on some images.

    Args:
        network: A :class:`models.score_network.ScoreNetwork`, unfolded; left as it is.
        images: (N, 3, S, S) float, [0, 1], on the CPU.
        image_ids: N names.
        settings: How attributions are computed, with at most :data:`MOST_STEPS` steps, and none doubled.
        device: Where to compute.

    Returns:
        Rows of ``ig_checks.csv`` without the model's name: ``image_id, check, level, value, control``.
    """
    settings = replace(settings, steps=min(settings.steps, MOST_STEPS), max_doublings=0)
    images = images.to(device)
    prepared = prepare_network(network, device)
    maps = integrated_gradients(prepared, images, image_ids, settings).maps
    rows = []
    baselines = make_baselines(images, settings.baseline, image_ids, settings.seed)
    for image, baseline, attribution, name in zip(images, baselines, maps, image_ids, strict=True):
        curves = perturbation_curves(
            prepared, image, baseline, attribution, seed=image_seed(settings.seed, name)
        )
        rows += _curve_rows(name, curves)
    rows += _agreement_rows(
        CONTROL_LEVEL, maps, _control_maps(prepared, images, image_ids, settings), image_ids
    )
    for level, changed in randomised_networks(network, settings.seed):
        other = integrated_gradients(prepare_network(changed, device), images, image_ids, settings).maps
        rows += _agreement_rows(level, maps, other, image_ids)
    return rows


def _control_maps(
    network: nn.Module, images: Tensor, image_ids: Sequence[str], settings: AttributionSettings
) -> np.ndarray:
    """Maps of the unchanged network with half the steps: how far maps differ when nothing was shuffled."""
    fewer = replace(settings, steps=max(settings.steps // 2, 1))
    return integrated_gradients(network, images, image_ids, fewer).maps


def _curve_rows(image_id: str, curves: Curves) -> list[dict]:
    rows = []
    for check, scores, controls in (
        ("deletion", curves.deletion, curves.random_deletion),
        ("insertion", curves.insertion, curves.random_insertion),
    ):
        for fraction, score, control in zip(curves.fractions, scores, controls.mean(axis=0), strict=True):
            level = f"{fraction:.3f}"
            rows.append(
                {"image_id": image_id, "check": check, "level": level, "value": score, "control": control}
            )
        areas = area(curves.fractions, scores), area(curves.fractions, controls).mean()
        rows.append(
            {"image_id": image_id, "check": check, "level": "area", "value": areas[0], "control": areas[1]}
        )
    return rows


def _agreement_rows(level: str, maps: np.ndarray, others: np.ndarray, image_ids: Sequence[str]) -> list[dict]:
    rows = []
    for image_id, first, second in zip(image_ids, maps, others, strict=True):
        for check, rho in zip(
            ("randomisation", "randomisation_absolute"), map_agreement(first, second), strict=True
        ):
            rows.append(
                {"image_id": image_id, "check": check, "level": level, "value": rho, "control": np.nan}
            )
    return rows


def summarise_checks(checks: pd.DataFrame) -> list[tuple[bool, str]]:
    """Say what the checks of one model came to.

    Args:
        checks: Rows of ``ig_checks.csv`` of one model.

    Returns:
        (passed, sentence) of the weight randomisation, the deletion and the insertion. Randomisation passes if
        shuffling all weights leaves less than half of the agreement (median signed rho) that halving the steps
        leaves; deletion and insertion pass if the map's order beats random orders on average.
    """
    lines = []
    rho = checks[checks["check"] == "randomisation"].groupby("level")["value"].median()
    absolute = checks[checks["check"] == "randomisation_absolute"].groupby("level")["value"].median()
    control, last = rho[CONTROL_LEVEL], rho.iloc[-1]
    passed = bool(last < control / 2)
    verdict = "depend on the weights" if passed else "HARDLY DEPEND ON THE WEIGHTS"
    lines.append(
        (
            passed,
            f"Randomisation: the maps {verdict}: median rho {last:.2f} with all weights shuffled (absolute values "
            f"{absolute.iloc[-1]:.2f}), {control:.2f} with the true weights and half the steps.",
        )
    )
    for name, sign in (("deletion", 1), ("insertion", -1)):
        areas = checks[(checks["check"] == name) & (checks["level"] == "area")]
        gain = sign * (areas["control"] - areas["value"])
        passed = bool(gain.mean() > 0)
        lines.append(
            (
                passed,
                f"{name.capitalize()}: the map's order {'beats' if passed else 'DOES NOT BEAT'} random orders: mean gain "
                f"{gain.mean():+.4f} (score), {int((gain > 0).sum())} of {len(gain)} images.",
            )
        )
    return lines
