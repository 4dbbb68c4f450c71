"""Integrated Gradients, and Expected Gradients: which pixels a predicted memorability score rests on.

The network is a function of pixels with one output per image, the predicted memorability score. Integrated
Gradients (Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017, equation 1) follows
the straight line from a baseline image to the image and integrates the gradient along it. The attributions of
all pixels add up to the difference between the two predictions (completeness), which makes the error of the
numerical integral, the convergence delta, visible for every image.

A single baseline decides what counts as absent: from black, dark pixels can say nothing. Expected Gradients (Erion et
al., "Improving performance of deep learning models with axiomatic attribution priors and expected gradients", Nature
Machine Intelligence 2021) averages over training images as baselines instead, each with a random point on its path.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from utils.attribution.map_measures import density, summarise_map
from utils.core.errors import UserError
from utils.core.names import IG_BASELINES, IG_METHODS

if TYPE_CHECKING:
    from utils.core.shards import Batch

# Image-steps per forward and backward pass. On a CPU larger ones are slower (the activations leave the cache
# and every pass touches fresh memory); a GPU needs many to be busy.
INTERNAL_BATCH_SIZES = {"cpu": 4, "mps": 16, "cuda": 64}
BLUR_SIGMA_SHARE = 0.1
EXPECTED = "expected"
REFERENCES = 50  # training images that Expected Gradients averages over: as many as the default steps


@dataclass(frozen=True)
class AttributionSettings:
    """How attributions are computed.

    Attributes:
        steps: Points at which the gradient is taken along the path.
        method: Rule of the numerical integral, one of :data:`utils.core.names.IG_METHODS`.
        baseline: Where the path starts, one of :data:`utils.core.names.IG_BASELINES`; see :func:`make_baselines`;
            ``expected`` is Expected Gradients over reference images, with `steps` of them at a time.
        internal_batch_size: Image-steps per pass; sets the memory, whatever the steps. 0 chooses by device.
        smooth: Noisy copies of each image to average over (SmoothGrad); 0 for none.
        smooth_stdev: Standard deviation of that noise, in units of the [0, 1] pixel range.
        tolerance: Largest convergence delta accepted, relative to ``|f(image) - f(baseline)|``, whatever the size
            of that. The default is the 5 % that Sundararajan et al. (section 5) ask for.
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
    max_doublings: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in IG_METHODS:
            raise UserError(f"Unknown --method '{self.method}'; expected one of {', '.join(IG_METHODS)}.")
        if self.baseline not in IG_BASELINES:
            raise UserError(
                f"Unknown --baseline '{self.baseline}'; expected one of {', '.join(IG_BASELINES)}."
            )
        if self.baseline == EXPECTED and self.smooth:
            raise UserError(
                "--smooth averages over noisy copies of an image, --baseline expected over other images; choose one."
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
        baseline_prediction: (N,) float64, predicted score of its baseline; of the references on average with
            Expected Gradients.
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
        raise ValueError(f"expected a baseline that is one image, got '{kind}'")
    return torch.from_numpy(values.astype(np.float32)).to(images)


def internal_batch_size(settings: AttributionSettings, device: torch.device) -> int:
    """Return the image-steps per pass: the setting, or the default of the kind of device."""
    return settings.internal_batch_size or INTERNAL_BATCH_SIZES.get(device.type, 4)


def integrated_gradients(
    network: nn.Module,
    images: Tensor,
    image_ids: Sequence[str],
    settings: AttributionSettings | None = None,
    references: Tensor | None = None,
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
        references: (R, 3, S, S) float, [0, 1], the images that Expected Gradients averages over; needed with
            ``baseline="expected"``, unused without.

    Returns:
        The attributions, image by image in the order given.

    Raises:
        UserError: If a prediction is not finite, naming the image.
        ValueError: Expected Gradients without references.
    """
    settings = settings or AttributionSettings()
    paths = _paths(network, images, settings, references)
    size = internal_batch_size(settings, images.device)
    parts = [
        _attribute_chunk(
            network, images[start : start + size], list(image_ids[start : start + size]), settings, paths
        )
        for start in range(0, len(images), size)
    ]
    names = Attributions.__dataclass_fields__
    return Attributions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class _References:
    """What Expected Gradients averages over: (R, 3, S, S) images and their mean predicted score."""

    images: Tensor
    prediction: float


def _paths(
    network: nn.Module, images: Tensor, settings: AttributionSettings, references: Tensor | None
) -> _References | None:
    """Put the references on the images' device and predict them once; None where each image has its baseline."""
    if settings.baseline != EXPECTED:
        return None
    if references is None or not len(references):
        raise ValueError("Expected Gradients needs at least one reference image, got none")
    references = references.to(images).contiguous(memory_format=torch.channels_last)
    return _References(references, float(predict(network, references).mean()))


def _check_finite(image_ids: Sequence[str], sums: np.ndarray, baseline: str) -> None:
    """Refuse a network that predicts no number for an image or its baseline; `sums` holds both together."""
    for name, value in zip(image_ids, sums, strict=True):
        if not math.isfinite(value):
            raise UserError(
                f"The network predicts {value} for the image {name} or its {baseline} baseline; "
                "a finite score was expected. Its weights are damaged: train the models again, or choose others "
                "with --model-names."
            )


def _attribute_chunk(
    network: nn.Module,
    images: Tensor,
    image_ids: list[str],
    settings: AttributionSettings,
    references: _References | None,
) -> Attributions:
    """Attribute at most one internal batch of images, doubling the steps where needed."""
    images = images.contiguous(memory_format=torch.channels_last)
    prediction = predict(network, images)
    if references is None:
        baselines = make_baselines(images, settings.baseline, image_ids, settings.seed)
        baseline_prediction = predict(network, baselines)
    else:
        baselines, baseline_prediction = images, np.full(len(images), references.prediction)
    _check_finite(image_ids, prediction + baseline_prediction, settings.baseline)
    gap = prediction - baseline_prediction
    limit = settings.tolerance * np.abs(gap)
    result: Attributions | None = None
    pending = np.arange(len(images))
    for doubling in range(settings.max_doublings + 1):
        steps = settings.steps * 2**doubling
        names = [image_ids[index] for index in pending]
        attempt = replace(settings, steps=steps)
        if references is None:
            maps, errors = _one_attempt(network, images[pending], baselines[pending], names, attempt)
        else:
            maps, errors = _expected(network, images[pending], references.images, names, attempt), None
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
    if result is None:
        raise ValueError(f"expected max_doublings of at least 0, got {settings.max_doublings}")
    return result


def _one_attempt(
    network: nn.Module, images: Tensor, baselines: Tensor, image_ids: list[str], settings: AttributionSettings
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


def _expected(
    network: nn.Module,
    images: Tensor,
    references: Tensor,
    image_ids: list[str],
    settings: AttributionSettings,
) -> np.ndarray:
    """Expected Gradients (Erion et al. 2021, equation 2): maps (N, H, W) float32.

    Each of the steps has a reference and a point on the path from it to the image. The references come in a random
    order, each once before any comes again, and the points are one from each of as many even parts of the path, in
    random order: what is left to chance is their pairing. All of it is drawn from the image's own seed.
    """
    size = internal_batch_size(settings, images.device)
    maps = []
    for image, name in zip(images, image_ids, strict=True):
        rng = np.random.default_rng(image_seed(settings.seed, name))
        rounds = -(-settings.steps // len(references))
        order = np.concatenate([rng.permutation(len(references)) for _ in range(rounds)])[: settings.steps]
        places = (rng.permutation(settings.steps) + rng.random(settings.steps)) / settings.steps
        total = torch.zeros_like(image, dtype=torch.float64)
        for start in range(0, settings.steps, size):
            chosen = references[torch.from_numpy(order[start : start + size]).to(image.device)]
            share = torch.from_numpy(places[start : start + size]).to(image)[:, None, None, None]
            points = (chosen + share * (image - chosen)).requires_grad_()
            (slopes,) = torch.autograd.grad(network(points).sum(), points)
            total += ((image - chosen) * slopes).sum(dim=0).double()
        maps.append((total / settings.steps).sum(dim=0).cpu().float().numpy())
    return np.stack(maps)


def _smoothed(
    method: object,
    images: Tensor,
    baselines: Tensor,
    image_ids: list[str],
    settings: AttributionSettings,
    options: dict,
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


def as_batch(found: Attributions) -> Batch:
    """Turn attributions into what a shard keeps: a row per image, and the stored maps (array ``maps``)."""
    from utils.core.shards import Batch

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


@dataclass(frozen=True)
class Explanation:
    """One image explained by :func:`utils.attribution.explain.explain_images`.

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
        prediction, baseline, delta = (
            float(values[index]) for values in (found.prediction, found.baseline_prediction, found.delta)
        )
        return cls(name, path, observed, prediction, baseline, delta, bool(found.converged[index]))
