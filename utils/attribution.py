"""Integrated Gradients: which pixels a predicted memorability score rests on.

The network is a function of pixels with one output per image, the predicted memorability score. Integrated
Gradients (Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017, equation 1) follows
the straight line from a baseline image to the image and integrates the gradient along it. The attributions of
all pixels add up to the difference between the two predictions (completeness), which makes the error of the
numerical integral, the convergence delta, visible for every image.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from utils.cli import IG_BASELINES, IG_METHODS, UserError

if TYPE_CHECKING:
    from utils.shards import Batch

# Image-steps per forward and backward pass. On a CPU larger ones are slower (the activations leave the cache
# and every pass touches fresh memory); a GPU needs many to be busy.
INTERNAL_BATCH_SIZES = {"cpu": 4, "mps": 16, "cuda": 64}
BLUR_SIGMA_SHARE = 0.1


@dataclass(frozen=True)
class Settings:
    """How attributions are computed.

    Attributes:
        steps: Points at which the gradient is taken along the path.
        method: Rule of the numerical integral, one of :data:`utils.cli.IG_METHODS`.
        baseline: Where the path starts, one of :data:`utils.cli.IG_BASELINES`; see :func:`make_baselines`.
        internal_batch_size: Image-steps per pass; sets the memory, whatever the steps. 0 chooses by device.
        smooth: Noisy copies of each image to average over (SmoothGrad); 0 for none.
        smooth_stdev: Standard deviation of that noise, in units of the [0, 1] pixel range.
        tolerance: Largest convergence delta accepted, relative to ``|f(image) - f(baseline)|``. The default
            is the 5 % that Sundararajan et al. (section 5) ask for.
        tolerance_floor: Convergence delta always accepted, in units of the memorability score. The default is
            a tenth of what one more hit among MemCat's 99 responses changes.
        max_doublings: How often the steps are doubled for images above the tolerance.
        seed: Seed of the ``uniform`` baseline and of the noise.
    """

    steps: int = 50
    method: str = "gausslegendre"
    baseline: str = "black"
    internal_batch_size: int = 0
    smooth: int = 0
    smooth_stdev: float = 0.1
    tolerance: float = 0.05
    tolerance_floor: float = 1e-3
    max_doublings: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in IG_METHODS:
            raise UserError(f"Unknown --method '{self.method}'; expected one of {', '.join(IG_METHODS)}.")
        if self.baseline not in IG_BASELINES:
            raise UserError(
                f"Unknown --baseline '{self.baseline}'; expected one of {', '.join(IG_BASELINES)}."
            )
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, found {self.steps}.")


@dataclass
class Attributions:
    """Integrated Gradients of N images.

    Attributes:
        maps: (N, H, W) float32, attribution per pixel, summed over the colour channels, in units of the score;
            positive where the pixel raises the predicted score above the baseline's.
        prediction: (N,) float64, predicted score of the image.
        baseline_prediction: (N,) float64, predicted score of its baseline.
        attribution_sum: (N,) float64, sum over the map.
        delta: (N,) float64, ``attribution_sum - (prediction - baseline_prediction)``; 0 for an exact
            integral. With smoothing the predictions in it are those of the noisy copies, on average.
        steps: (N,) int64, steps used.
        converged: (N,) bool, whether the delta is within the tolerance.
    """

    maps: np.ndarray
    prediction: np.ndarray
    baseline_prediction: np.ndarray
    attribution_sum: np.ndarray
    delta: np.ndarray
    steps: np.ndarray
    converged: np.ndarray


# ------------------------------------------------------------------------------------------------ the network


class ScoreNetwork(nn.Module):
    """Encoder and MLP head as one function of pixels: (N, 3, S, S) in [0, 1] to (N,) memorability scores.

    Args:
        encoder: Maps images to latent codes (N, C, h, w).
        head: Maps latent codes to scores (N,).
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Predict the memorability scores of images."""
        return self.head(self.encoder(images))


def fold_batch_norm(network: nn.Module) -> int:
    """Fold each batch norm behind a convolution in an ``nn.Sequential`` into that convolution, in place.

    Exact in evaluation mode, where a batch norm is a fixed scale and shift per channel; it spares a pass over
    every activation, forward and backward.

    Args:
        network: A network in evaluation mode.

    Returns:
        How many batch norms were folded.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    folded = 0
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for first, second in zip(names, names[1:], strict=False):
            convolution, norm = module._modules[first], module._modules[second]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[first] = fuse_conv_bn_eval(convolution, norm)
                module._modules[second] = nn.Identity()
                folded += 1
    return folded


def prepare_network(network: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Copy a network into the form in which gradients with respect to pixels are cheapest.

    Evaluation mode, no gradients for the weights (the backward pass then costs one convolution per layer
    instead of two), batch norms folded, channels last. The function computed is the same up to rounding.

    Args:
        network: Maps (N, 3, S, S) images to (N,) scores; left as it is.
        device: Where the copy goes.
    """
    prepared = copy.deepcopy(network).eval().requires_grad_(False)
    fold_batch_norm(prepared)
    return prepared.to(device=device, memory_format=torch.channels_last)


def predict(network: nn.Module, images: Tensor, batch_size: int = 8) -> np.ndarray:
    """Predict scores without gradients.

    Args:
        network: Maps (N, 3, S, S) images to (N,) scores.
        images: (N, 3, S, S) float, [0, 1], on the network's device.
        batch_size: Images per pass.

    Returns:
        (N,) float64.

    Raises:
        ValueError: If the network does not give one number per image.
    """
    scores = []
    with torch.no_grad():
        for chunk in images.split(batch_size):
            score = network(chunk)
            if score.shape != (len(chunk),):
                raise ValueError(
                    f"expected one score per image, shape ({len(chunk)},), got {tuple(score.shape)}"
                )
            scores.append(score.cpu().double().numpy())
    return np.concatenate(scores)


# ------------------------------------------------------------------------------------------------ baselines


def image_seed(seed: int, image_id: str) -> int:
    """Return a seed that belongs to one image, whatever its neighbours in a batch."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{image_id}".encode()).digest()[:8], "big")


def make_baselines(images: Tensor, kind: str, image_ids: Sequence[str], seed: int = 0) -> Tensor:
    """Make the image from which each path starts.

    Args:
        images: (N, 3, H, W) float, [0, 1].
        kind: ``black`` (all 0, the default of Sundararajan et al.); ``white`` (all 1); ``mean`` (the image's
            own mean colour; not the data set's, so that an image's map does not depend on which others were
            run); ``blur`` (Gaussian, sigma a tenth of the side: keeps the layout of colours and removes the
            detail); ``uniform`` (independent uniform noise in [0, 1], drawn from the seed and the image's
            id).
        image_ids: N names; used by ``uniform`` alone.
        seed: Seed of ``uniform``.

    Returns:
        Tensor of the shape, type and device of ``images``.
    """
    if kind == "black":
        return torch.zeros_like(images)
    if kind == "white":
        return torch.ones_like(images)
    if kind == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images).clone()
    if kind == "blur":
        from scipy.ndimage import gaussian_filter

        sigma = BLUR_SIGMA_SHARE * min(images.shape[-2:])
        values = gaussian_filter(images.cpu().numpy(), sigma=(0, 0, sigma, sigma), mode="reflect")
    elif kind == "uniform":
        draws = [np.random.default_rng(image_seed(seed, name)).random(images.shape[1:]) for name in image_ids]
        values = np.stack(draws)
    else:
        raise UserError(f"Unknown --baseline '{kind}'; expected one of {', '.join(IG_BASELINES)}.")
    return torch.from_numpy(values.astype(np.float32)).to(images)


# ------------------------------------------------------------------------------------------------ attribution


def internal_batch_size(settings: Settings, device: torch.device) -> int:
    """Return the image-steps per pass: the setting, or the default of the kind of device."""
    return settings.internal_batch_size or INTERNAL_BATCH_SIZES.get(device.type, 4)


def integrated_gradients(
    network: nn.Module, images: Tensor, image_ids: Sequence[str], settings: Settings | None = None
) -> Attributions:
    """Attribute the predicted score of each image to its pixels.

    Images whose convergence delta is above the tolerance are done again with twice the steps, up to
    ``settings.max_doublings`` times; the attempt with the smallest delta is kept (the delta does not always
    fall with more steps).

    Args:
        network: Maps (N, 3, S, S) images to (N,) scores; best from :func:`prepare_network`.
        images: (N, 3, S, S) float, [0, 1], on the network's device.
        image_ids: N names; they seed what is drawn at random.
        settings: How; the defaults when left out.

    Returns:
        The attributions, image by image in the order given.

    Raises:
        UserError: If a prediction is not finite, naming the image.
    """
    settings = settings or Settings()
    size = internal_batch_size(settings, images.device)
    parts = [
        _attribute_chunk(
            network, images[start : start + size], list(image_ids[start : start + size]), settings
        )
        for start in range(0, len(images), size)
    ]
    names = Attributions.__dataclass_fields__
    return Attributions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _attribute_chunk(
    network: nn.Module, images: Tensor, image_ids: list[str], settings: Settings
) -> Attributions:
    """Attribute at most one internal batch of images, doubling the steps where needed."""
    images = images.contiguous(memory_format=torch.channels_last)
    baselines = make_baselines(images, settings.baseline, image_ids, settings.seed)
    prediction, baseline_prediction = predict(network, images), predict(network, baselines)
    for name, value in zip(image_ids, prediction + baseline_prediction, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"The network predicts {value} for the image {name} or its {settings.baseline} baseline; "
                "a finite score was expected. Its weights are damaged: train the models again, or choose others "
                "with --model-names."
            )
    gap = prediction - baseline_prediction
    limit = np.maximum(settings.tolerance * np.abs(gap), settings.tolerance_floor)
    result: Attributions | None = None
    pending = np.arange(len(images))
    for doubling in range(settings.max_doublings + 1):
        steps = settings.steps * 2**doubling
        names = [image_ids[index] for index in pending]
        maps, errors = _one_attempt(
            network, images[pending], baselines[pending], names, replace(settings, steps=steps)
        )
        sums = maps.sum(axis=(1, 2), dtype=np.float64)
        delta = sums - gap[pending] if errors is None else errors
        if result is None:
            counts = np.full(len(images), steps, dtype=np.int64)
            result = Attributions(
                maps, prediction, baseline_prediction, sums, delta, counts, np.abs(delta) <= limit
            )
        else:
            better = np.abs(delta) < np.abs(result.delta[pending])
            chosen = pending[better]
            result.maps[chosen], result.attribution_sum[chosen] = maps[better], sums[better]
            result.delta[chosen], result.steps[chosen] = delta[better], steps
            result.converged = np.abs(result.delta) <= limit
        pending = np.flatnonzero(~result.converged)
        if not len(pending):
            break
    return result


def _one_attempt(
    network: nn.Module, images: Tensor, baselines: Tensor, image_ids: list[str], settings: Settings
) -> tuple[np.ndarray, np.ndarray | None]:
    """Run captum once: maps (N, H, W) float32, and the deltas where they cannot be had from the sums."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(network)
    options = {
        "n_steps": settings.steps,
        "method": settings.method,
        "internal_batch_size": internal_batch_size(settings, images.device),
    }
    if settings.smooth:
        return _smoothed(method, images, baselines, image_ids, settings, options)
    # captum's own convergence delta would predict images and baselines once more; ours takes the predictions
    # we have.
    values = method.attribute(images, baselines=baselines, **options)
    return values.detach().sum(dim=1).cpu().float().numpy(), None


def _smoothed(
    method: object, images: Tensor, baselines: Tensor, image_ids: list[str], settings: Settings, options: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Average over noisy copies of each image (SmoothGrad, Smilkov et al. 2017), image by image.

    One image at a time, because captum draws from torch's global generator: so each image gets noise of its
    own seed whatever the batch, and that generator is left as it was.
    """
    from captum.attr import NoiseTunnel

    tunnel = NoiseTunnel(method)
    maps, deltas = [], []
    devices = [images.device] if images.device.type == "cuda" else []
    for image, baseline, name in zip(images.split(1), baselines.split(1), image_ids, strict=True):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(image_seed(settings.seed, name) % 2**63)
            values, delta = tunnel.attribute(
                image,
                nt_type="smoothgrad",
                nt_samples=settings.smooth,
                nt_samples_batch_size=min(settings.smooth, options["internal_batch_size"]),
                stdevs=settings.smooth_stdev,
                baselines=baseline,
                return_convergence_delta=True,
                **options,
            )
        maps.append(values.detach().sum(dim=1).cpu().float().numpy())
        deltas.append(delta.cpu().double().mean().item())
    return np.concatenate(maps), np.array(deltas)


# ---------------------------------------------------------------------------- what a map says


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative values: 0 all equal, towards 1 all in one of many.

    With the n values sorted upwards, ``sum_i (2 i - n - 1) x_i / (n sum_i x_i)``, at most ``1 - 1/n``.

    Args:
        values: Any shape, >= 0.

    Returns:
        A number in [0, 1), or nan where all values are 0.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    total = ordered.sum()
    if total == 0:
        return math.nan
    ranks = np.arange(1, len(ordered) + 1)
    return float(((2 * ranks - len(ordered) - 1) * ordered).sum() / (len(ordered) * total))


def centre_distance(values: np.ndarray) -> float:
    """Return how far from the image's centre the mass of a map lies on average.

    Args:
        values: (H, W), >= 0.

    Returns:
        Mean distance of the mass from the centre in units of half the image's diagonal: 0 all at the centre,
        towards 1 all in the corners; about 0.54 for an evenly filled square. nan where all values are 0.
    """
    values = np.asarray(values, dtype=np.float64)
    total = values.sum()
    if total == 0:
        return math.nan
    height, width = values.shape
    rows = np.arange(height)[:, None] + 0.5 - height / 2
    columns = np.arange(width)[None, :] + 0.5 - width / 2
    return float((np.hypot(rows, columns) * values).sum() / total / (math.hypot(height, width) / 2))


def share_inside(attribution: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the share of the attribution's absolute mass that lies inside a region.

    Args:
        attribution: (H, W).
        mask: (H, W) bool; None where nothing is known about the region.

    Returns:
        A number in [0, 1]; nan without a mask or where the map is 0 everywhere.

    Raises:
        ValueError: If the shapes differ.
    """
    if mask is None:
        return math.nan
    if mask.shape != attribution.shape:
        raise ValueError(f"map {attribution.shape} and mask {mask.shape} differ in shape")
    mass = np.abs(np.asarray(attribution, dtype=np.float64))
    total = mass.sum()
    return float(mass[mask].sum() / total) if total else math.nan


def summarise_map(attribution: np.ndarray) -> dict[str, float]:
    """Describe a map by three numbers.

    Args:
        attribution: (H, W), attribution per pixel.

    Returns:
        ``positive_share`` (share of the absolute mass that is positive, [0, 1]), ``concentration`` (Gini
        coefficient of the absolute values over pixels, [0, 1); larger: fewer pixels carry the prediction) and
        ``centre_distance`` (of the absolute mass, see :func:`centre_distance`); nan where the map is 0
        everywhere.
    """
    values = np.asarray(attribution, dtype=np.float64)
    mass = np.abs(values)
    total = mass.sum()
    return {
        "positive_share": float(values[values > 0].sum() / total) if total else math.nan,
        "concentration": gini(mass),
        "centre_distance": centre_distance(mass),
    }


def density(maps: np.ndarray) -> np.ndarray:
    """Turn attributions per pixel into what is stored: attribution times the number of pixels, float16.

    An attribution of a 224 px image is of the order of a score difference over 50,176 pixels, 1e-6, where
    float16 has steps of 6e-8 and loses most digits. Multiplied by the number of pixels the values are of the
    order of the score difference itself, and the mean of a stored map is the attribution sum.

    Args:
        maps: (..., H, W) float.
    """
    limit = np.finfo(np.float16).max
    return np.clip(maps * (maps.shape[-1] * maps.shape[-2]), -limit, limit).astype(np.float16)


def as_batch(found: Attributions) -> Batch:
    """Turn attributions into what a shard keeps: a row per image, and the stored maps (array ``maps``)."""
    from utils.shards import Batch

    rows = [
        {
            "prediction": float(found.prediction[index]),
            "baseline_prediction": float(found.baseline_prediction[index]),
            "attribution_sum": float(found.attribution_sum[index]),
            "convergence_delta": float(found.delta[index]),
            "converged": bool(found.converged[index]),
            "steps": int(found.steps[index]),
            **summarise_map(found.maps[index]),
        }
        for index in range(len(found.maps))
    ]
    return Batch(rows, {"maps": density(found.maps)})


# ------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class Explanation:
    """One image explained by :func:`explain_images`.

    Attributes:
        name: The image's name.
        path: The picture: original, attribution and overlay side by side.
        observed: Observed memorability score, None where unknown.
        prediction: Predicted memorability score.
        baseline_prediction: Predicted score of the baseline.
        delta: Convergence delta, in units of the score.
        converged: Whether the delta is within the tolerance.
    """

    name: str
    path: Path
    observed: float | None
    prediction: float
    baseline_prediction: float
    delta: float
    converged: bool

    @classmethod
    def of(
        cls, name: str, path: Path, found: Attributions, index: int, observed: float | None
    ) -> Explanation:
        """Take the numbers of one image out of a batch's attributions."""
        numbers = (found.prediction[index], found.baseline_prediction[index], found.delta[index])
        return cls(name, path, observed, *map(float, numbers), bool(found.converged[index]))


def explain_images(
    network: nn.Module,
    images: Sequence[tuple[str, np.ndarray]],
    out_dir: Path,
    *,
    settings: Settings | None = None,
    observed: Sequence[float | None] | None = None,
    device: torch.device | str = "cpu",
    caveat: str = "",
) -> list[Explanation]:
    """Draw what the predicted memorability of arbitrary images rests on, one picture per image.

    Args:
        network: Maps (N, 3, S, S) images in [0, 1] to (N,) scores, e.g. a :class:`ScoreNetwork`; left as it
            is.
        images: (name, pixels) pairs; pixels are (3, S, S) float, [0, 1], all of one size. A name becomes a
            file name (slashes become underscores).
        out_dir: Folder of the pictures; created.
        settings: How attributions are computed; the defaults when left out.
        observed: Memorability scores to print beside the predictions, None where unknown.
        device: Where to compute.
        caveat: What must be said on every picture (sample data, random weights).

    Returns:
        One explanation per image, in the order given.
    """
    from utils.attribution_figures import draw_explanation, picture_names

    settings = settings or Settings()
    names = [name for name, _ in images]
    paths = [Path(out_dir) / picture for picture in picture_names(names)]
    observed = [None] * len(images) if observed is None else observed
    prepared = prepare_network(network, device)
    explanations = []
    step = internal_batch_size(settings, torch.device(device))
    for start in range(0, len(images), step):
        pixels = np.stack(
            [np.asarray(values, dtype=np.float32) for _, values in images[start : start + step]]
        )
        found = integrated_gradients(
            prepared, torch.from_numpy(pixels).to(device), names[start : start + step], settings
        )
        for offset, image in enumerate(pixels):
            index = start + offset
            explanation = Explanation.of(names[index], paths[index], found, offset, observed[index])
            draw_explanation(image, found.maps[offset], explanation, caveat)
            explanations.append(explanation)
    return explanations
