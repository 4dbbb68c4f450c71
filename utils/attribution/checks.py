"""Two checks of whether attributions mean anything: randomised weights, and deletion against chance.

Randomised weights (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): a map that explains what
a network has learned must change when the weights are scrambled. Deletion and insertion (Petsiuk et al.,
"RISE", BMVC 2018): taking away first what the map calls most in favour of a high score must lower the
predicted score faster than taking parts away at random.

Each check can fail, or say nothing: its verdict needs a 95 % interval over images that is clear of zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from models.score_network import ScoreNetwork, prepare_network
from utils.attribution.gradients import (
    EXPECTED,
    AttributionSettings,
    image_seed,
    integrated_gradients,
    make_baselines,
    predict,
)

# Enough for a map whose likeness to another is asked; checking costs as many passes as eight images' attributions.
MOST_STEPS = 16
PATCH_PX = 16
CURVE_POINTS = 15
RANDOM_ORDERS = 5
CONTROL_LEVEL = "0 none"
RANDOMISATION = {"randomisation": "signed", "randomisation_absolute": "absolute"}
SINGLE_LAYER = {"single_layer": "signed", "single_layer_absolute": "absolute"}  # shown, not judged
HALF = 0.5  # of the agreement that the true weights leave with themselves: more must not survive shuffled weights
CASCADE_IMAGES = 4
PASSED, FAILED, UNCLEAR = "passed", "failed", "unclear"


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
    height, width = attribution.shape
    grid = patch_grid(height, width, patch)
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


def _parts(network: ScoreNetwork) -> list[tuple[str, nn.Module]]:
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


def randomised_networks(
    network: ScoreNetwork, seed: int, cascade: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies with weights shuffled: more and more of them from the output to the input, or each part's alone.

    Both are Adebayo et al.'s: a cascade says how much of the network has to be lost before the map changes, single layers
    which of them it rests on. A part is shuffled in the same way in both.

    Args:
        network: A :class:`models.score_network.ScoreNetwork`; left as it is.
        seed: Seed of the shuffling.
        cascade: Whether what was shuffled stays so.

    Yields:
        (level, network): ``1 head``, ``2 conv5`` (head and conv5, or conv5 alone), ... up to all weights, or the first
        layer. In a cascade the same object, changed further each time.
    """
    changed = copy.deepcopy(network)
    for place, (name, _) in enumerate(_parts(network)):
        if not cascade:
            changed = copy.deepcopy(network)
        shuffle_weights(_parts(changed)[place][1], seed + place + 1)
        yield f"{place + 1} {name}", changed


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


@dataclass(frozen=True)
class Checks:
    """What checking some images gave.

    Attributes:
        rows: Rows of ``ig_checks.csv`` without the model's name: ``image_id, check, level, value, control``.
        cascade: (L, M, H, W) float32, the maps of the first M images at each level of shuffled weights, the true
            weights' first.
        levels: L names, ``true weights`` first.
    """

    rows: list[dict]
    cascade: np.ndarray
    levels: list[str]


def check_attributions(
    network: ScoreNetwork,
    images: Tensor,
    image_ids: Sequence[str],
    settings: AttributionSettings,
    device: torch.device | str = "cpu",
    references: Tensor | None = None,
) -> Checks:
    """Run both checks on some images.

    Args:
        network: A :class:`models.score_network.ScoreNetwork`, unfolded; left as it is.
        images: (N, 3, S, S) float, [0, 1], on the CPU.
        image_ids: N names.
        settings: How attributions are computed, with at most :data:`MOST_STEPS` steps, and none doubled.
        device: Where to compute.
        references: (R, 3, S, S), for Expected Gradients.

    Returns:
        The rows, and the first images' maps at each level.
    """
    settings = replace(settings, steps=min(settings.steps, MOST_STEPS), max_doublings=0)
    images = images.to(device)

    def maps_of(prepared: nn.Module, settings: AttributionSettings = settings) -> np.ndarray:
        return integrated_gradients(prepared, images, image_ids, settings, references).maps

    prepared = prepare_network(network, device)
    maps = maps_of(prepared)
    rows = []
    # Expected Gradients have no one baseline; what is taken away shows the image's own mean colour then.
    kind = "mean" if settings.baseline == EXPECTED else settings.baseline
    baselines = make_baselines(images, kind, image_ids, settings.seed)
    for image, baseline, attribution, name in zip(images, baselines, maps, image_ids, strict=True):
        curves = perturbation_curves(
            prepared, image, baseline, attribution, seed=image_seed(settings.seed, name)
        )
        rows += _curve_rows(name, curves)
    # How far maps differ when nothing was shuffled: the true weights with half the steps.
    fewer = replace(settings, steps=max(settings.steps // 2, 1))
    rows += _agreement_rows(CONTROL_LEVEL, maps, maps_of(prepared, fewer), image_ids)
    cascade, levels = [maps[:CASCADE_IMAGES]], ["true weights"]
    for level, changed in randomised_networks(network, settings.seed):
        other = maps_of(prepare_network(changed, device))
        rows += _agreement_rows(level, maps, other, image_ids)
        cascade.append(other[:CASCADE_IMAGES])
        levels.append(level)
    for level, changed in randomised_networks(network, settings.seed, cascade=False):
        other = maps_of(prepare_network(changed, device))
        rows += _agreement_rows(level, maps, other, image_ids, SINGLE_LAYER)
    return Checks(rows, np.stack(cascade), levels)


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


def _agreement_rows(
    level: str,
    maps: np.ndarray,
    others: np.ndarray,
    image_ids: Sequence[str],
    checks: Iterable[str] = RANDOMISATION,
) -> list[dict]:
    """Rows of a level: the checks are those of signed and of absolute maps."""
    rows = []
    for image_id, first, second in zip(image_ids, maps, others, strict=True):
        for check, rho in zip(checks, map_agreement(first, second), strict=True):
            rows.append(
                {"image_id": image_id, "check": check, "level": level, "value": rho, "control": np.nan}
            )
    return rows


# ------------------------------------------------------------------------------------------------ verdicts


def level_number(level: str) -> int:
    """How many parts were shuffled at a level of the randomisation: 0 for ``0 none``, 6 for ``6 conv1``."""
    return int(level.split(" ", 1)[0])


def check_gains(checks: pd.DataFrame) -> pd.DataFrame:
    """Put every check as one number per image that is positive where the attribution passes.

    Args:
        checks: Rows of ``ig_checks.csv`` of one model.

    Returns:
        Columns ``check, image_id, gain``. Randomisation: half of the agreement that the true weights have with
        themselves, less the agreement that is left with all weights shuffled (rho). Deletion: how much lower the
        score runs in the map's order than in random orders; insertion: how much higher (score).
    """
    parts = []
    for check in RANDOMISATION:
        rows = checks[checks["check"] == check]
        wide = rows.pivot(index="image_id", columns="level", values="value")
        gain = HALF * wide[CONTROL_LEVEL] - wide[max(wide.columns, key=level_number)]
        parts.append(gain.rename("gain").reset_index().assign(check=check))
    for check, sign in (("deletion", 1.0), ("insertion", -1.0)):
        areas = checks[(checks["check"] == check) & (checks["level"] == "area")]
        gain = sign * (areas["control"] - areas["value"])
        parts.append(areas[["image_id", "check"]].assign(gain=gain))
    return pd.concat(parts, ignore_index=True)[["check", "image_id", "gain"]]


def judge_gains(gains: np.ndarray, clusters: Sequence[str] | None = None) -> dict[str, float | int | str]:
    """Judge whether a gain is positive for images like these.

    Args:
        gains: (n,) one per image; NaN is left out.
        clusters: (n,) labels of images that are alike: their gains are averaged first. None for single images.

    Returns:
        ``n, clusters, mean, ci_low, ci_high, p`` (mean over clusters, Student's t, two-sided) and ``verdict``: passed
        where the 95 % interval is above 0, failed where it is below, unclear where it contains 0 or does not exist.
    """
    values = pd.Series(np.asarray(gains, dtype=np.float64))
    labels = pd.Series(range(len(values)) if clusters is None else list(clusters))
    means = values.groupby(labels).mean().dropna().to_numpy()
    row: dict[str, float | int | str] = {"n": int(values.notna().sum()), "clusters": len(means)}
    mean = float(means.mean()) if len(means) else float("nan")
    low = high = p = float("nan")
    if len(means) > 1:
        error = float(means.std(ddof=1)) / np.sqrt(len(means))
        half = float(stats.t.ppf(0.975, len(means) - 1)) * error
        low, high = mean - half, mean + half
        p = float(2 * stats.t.sf(abs(mean) / error, len(means) - 1)) if error > 0 else float("nan")
    verdict = PASSED if low > 0 else FAILED if high < 0 else UNCLEAR
    return {**row, "mean": mean, "ci_low": low, "ci_high": high, "p": p, "verdict": verdict}


def summarise_checks(checks: pd.DataFrame, clusters: dict[str, str] | None = None) -> pd.DataFrame:
    """Judge the checks of one model.

    Args:
        checks: Rows of ``ig_checks.csv`` of one model.
        clusters: Label of each image's cluster, by image id; None for single images.

    Returns:
        A row per check, ``check, n, clusters, mean, ci_low, ci_high, p, verdict, sentence``: signed and absolute
        randomisation, deletion, insertion.
    """
    gains = check_gains(checks)
    rows = []
    for check, part in gains.groupby("check", sort=False):
        labels = None if clusters is None else [clusters[name] for name in part["image_id"]]
        row = judge_gains(part["gain"].to_numpy(), labels)
        rows.append({"check": check, **row, "sentence": _sentence(str(check), row, checks, part["gain"])})
    return pd.DataFrame(rows)


def _sentence(check: str, row: dict, checks: pd.DataFrame, gain: pd.Series) -> str:
    """Say in words what a check came to."""
    interval = f"{row['mean']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"
    verdict = row["verdict"]
    if check in RANDOMISATION:
        left = checks[checks["check"] == check].groupby("level")["value"].median()
        left = left.sort_index(key=lambda levels: levels.map(level_number))
        words = {
            PASSED: "depend on the weights",
            FAILED: "HARDLY DEPEND ON THE WEIGHTS",
            UNCLEAR: "MAY OR MAY NOT DEPEND ON THE WEIGHTS",
        }[verdict]
        return (
            f"Randomisation, {RANDOMISATION[check]} maps: they {words}: median rho {left.iloc[-1]:.2f} with all weights "
            f"shuffled, {left[CONTROL_LEVEL]:.2f} with the true weights and half the steps; half of that less what is "
            f"left: {interval}."
        )
    words = {
        PASSED: "beats random orders",
        FAILED: "IS WORSE THAN RANDOM ORDERS",
        UNCLEAR: "CANNOT BE TOLD FROM RANDOM ORDERS",
    }[verdict]
    return (
        f"{check.capitalize()}: the map's order {words}: mean gain {interval} (score), "
        f"{int((gain > 0).sum())} of {len(gain)} images."
    )
