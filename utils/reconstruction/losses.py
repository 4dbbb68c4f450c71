"""The eight reconstruction losses, each one value per image, larger meaning reconstructed worse.

`ReconstructionLosses` computes any subset of them for a batch from one reconstruction, so that the network
runs once per image and not once per loss. A value depends on its own image alone, never on its neighbours in
the batch, and every loss can be minimised. torch is imported inside the functions, so that a script can list
the losses in its ``--help`` without loading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.core.device import computing_in
from utils.core.errors import UserError
from utils.core.names import LOSSES, RECIPES

if TYPE_CHECKING:
    import torch
    from torch import nn


# Five scales of an 11-pixel window need more than 10 * 2**4 pixels.
MS_SSIM_MIN_SIDE_PX = 161
_SSIM_MIN_SIDE_PX = 11

# Trunk of each LPIPS, and the layers it compares, by index in torchvision's .features (all after their ReLU).
LPIPS_TRUNKS = {
    "lpips-vgg": ("vgg16", (3, 8, 15, 22, 29)),
    "lpips-alex": ("alexnet", (1, 4, 7, 9, 11)),
    "lpips-sq": ("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12)),
}
# relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 of VGG19
STYLE_LAYERS = (1, 6, 11, 20, 29)
_STYLE_LAST_LAYER = (36,)  # the pooled end of .features, for the released recipe
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# ImageNet statistics expressed in [-1, 1] units, rounded as published with LPIPS v0.1
_LPIPS_SHIFT = (-0.030, -0.088, -0.188)
_LPIPS_SCALE = (0.458, 0.448, 0.450)
_MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def check_losses(names: Sequence[str], image_size: int | None = None) -> tuple[str, ...]:
    """Check names of losses, and that they can be computed at an image size.

    Args:
        names: Names from `LOSSES`; repeated ones count once.
        image_size: Side of the square images in pixels, if known.

    Returns:
        The names in the order of `LOSSES`.

    Raises:
        UserError: For an unknown name (the known ones are listed), for no name at all, or for an image size
            too small for one of them (the minimum is stated).
    """
    unknown = [name for name in names if name not in LOSSES]
    if unknown or not names:
        shown = ", ".join(repr(name) for name in unknown) or "none at all"
        raise UserError(f"Unknown loss: {shown}. Choose from: {', '.join(LOSSES)}.")
    if image_size is not None:
        if "ms-ssim" in names and image_size < MS_SSIM_MIN_SIDE_PX:
            raise UserError(
                f"ms-ssim needs images of at least {MS_SSIM_MIN_SIDE_PX} px (five scales of an 11 px "
                f"window), got {image_size} px. Use a larger --image-size (192 is the next that the "
                "autoencoder takes), or leave ms-ssim out of the losses."
            )
        if image_size < _SSIM_MIN_SIDE_PX:
            raise UserError(
                f"The losses need images of at least {_SSIM_MIN_SIDE_PX} px, got {image_size} px."
            )
    return tuple(name for name in LOSSES if name in names)


def uses_pretrained(names: Sequence[str]) -> list[str]:
    """List the pretrained trunks that some losses need, e.g. ``["vgg16", "vgg19"]``; empty if none."""
    trunks = [LPIPS_TRUNKS[name][0] for name in LOSSES if name in names and name in LPIPS_TRUNKS]
    return trunks + (["vgg19"] if "style" in names else [])


def cached_losses(names: Sequence[str]) -> list[str]:
    """Return the losses that need no download, and say in one line which do (``--weights available``).

    Raises:
        UserError: None is left.
    """
    from models.pretrained import say_left_out, uncached

    missing = {name: uncached(uses_pretrained([name])) for name in names}
    kept = [name for name in names if not missing[name]]
    if not kept:
        raise UserError(
            f"--weights available leaves nothing of {', '.join(names)}: the weights they need are not cached. Choose a loss "
            "that needs none (mse, mae, ssim, ms-ssim), or --weights pretrained to download them."
        )
    if len(kept) < len(names):
        networks = dict.fromkeys(network for found in missing.values() for network in found)
        say_left_out([name for name in names if missing[name]], list(networks))
    return kept


class ReconstructionLosses:
    """Reconstruction losses of images against their reconstructions, one value per image.

    | name | value | range | source |
    |---|---|---|---|
    | mse | mean squared difference | 0..1 | |
    | mae | mean absolute difference | 0..1 | |
    | ssim | 1 - SSIM, Gaussian window 11 px, sigma 1.5, data range 1 | 0..2 | Wang et al. 2004, eq. 13 |
    | ms-ssim | 1 - MS-SSIM, five scales | 0..1 | Wang et al. 2003, eq. 7 |
    | lpips-vgg, lpips-alex, lpips-sq | LPIPS v0.1 | 0.. | Zhang et al. 2018, eq. 1 |
    | style | squared distance of VGG19 Gram matrices | 0.. | Johnson et al. 2016, eqs. 3-4 |

    Identical images give 0 in every loss, and a larger value means a worse reconstruction. ``style`` compares
    the first convolution of each of the five blocks after its ReLU, as the layer names of Gatys et al. 2016
    mean; each Gram matrix is divided by channels x height x width, and the squared Frobenius distances are
    summed.

    With ``recipe="released"`` two losses are what the authors' released scripts compute: LPIPS is fed [0, 1]
    images without mapping them to [-1, 1], and ``style`` is the mean squared difference of undivided Gram
    matrices of the last VGG19 feature map, from [0, 1] images without ImageNet normalisation. Values keep
    their orientation; `objective` holds the sign that those scripts minimise.

    Args:
        names: Which losses, from `LOSSES`.
        weights: ``"pretrained"`` or ``"random"``, for the trunks of LPIPS and style.
        device: Where the trunks live and the images will be.
        recipe: ``"corrected"`` or ``"released"``.
        seed: Seed of random trunk weights.
        precision: ``float32`` or ``bf16``, of the trunks of LPIPS and style; all else is float32.

    Raises:
        UserError: For unknown names or recipe, or when trunk weights are missing and cannot be fetched.

    Example:
        >>> import torch
        >>> image = torch.zeros(2, 3, 32, 32)
        >>> losses = ReconstructionLosses(["mae", "mse"])
        >>> {name: value.tolist() for name, value in losses(image, image + 0.5).items()}
        {'mse': [0.25, 0.25], 'mae': [0.5, 0.5]}
    """

    def __init__(
        self,
        names: Sequence[str] = LOSSES,
        weights: str = "pretrained",
        device: str | torch.device = "cpu",
        recipe: str = RECIPES[0],
        seed: int = 0,
        precision: str = "float32",
    ) -> None:
        if recipe not in RECIPES:
            raise UserError(f"Unknown recipe {recipe!r}; choose one of: {', '.join(RECIPES)}.")
        self.names = check_losses(names)
        self.recipe = recipe
        self._released = recipe == "released"
        self._lpips: dict[str, _Lpips] = {}
        for name in self.names:
            if name in LPIPS_TRUNKS:
                self._lpips[name] = _Lpips(name, weights, seed, device, precision)
        self._style_trunk: _Trunk | None = None
        if "style" in self.names:
            layers = _STYLE_LAST_LAYER if self._released else STYLE_LAYERS
            self._style_trunk = _Trunk("vgg19", layers, weights, seed, device, precision)

    def __call__(
        self, image: torch.Tensor, reconstruction: torch.Tensor, kept: dict[str, list] | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute the losses in float32 (but for trunks in bf16), whatever the precision around them.

        Args:
            image: (N, 3, H, W) floats in [0, 1].
            reconstruction: (N, 3, H, W) floats in [0, 1]; gradients flow to it where they are enabled.
            kept: Where what the VGG trunks make of ``image`` is kept, and taken from in later calls with the same images
                (another network's reconstructions of them): empty at first. At 224 px 27 MB per image for all losses.
                Values are the same bits with it and without.

        Returns:
            Name -> (N,) float32, in the order of `LOSSES`.

        Raises:
            ValueError: If the two do not have the same (N, 3, H, W) shape.
            UserError: If the images are too small for one of the losses.
        """
        import torch

        if image.shape != reconstruction.shape or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                "Expected two batches of the same shape (N, 3, H, W), got "
                f"{tuple(image.shape)} and {tuple(reconstruction.shape)}."
            )
        check_losses(self.names, min(image.shape[-2:]))
        with torch.autocast(image.device.type, enabled=False):
            image, reconstruction = image.float(), reconstruction.float()
            values = _pixel_losses(self.names, image, reconstruction)
            values |= _structural_losses(self.names, image, reconstruction)
            prepare = _unchanged if self._released else to_lpips_range
            for name, lpips in self._lpips.items():
                values[name] = lpips(prepare(image), prepare(reconstruction), kept)
            if self._style_trunk is not None:
                style = _released_style if self._released else _style
                values["style"] = style(self._style_trunk, image, reconstruction, kept)
        return {name: values[name] for name in self.names}

    def objective(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Turn a loss into what fine-tuning minimises.

        Args:
            name: The loss.
            value: (N,) values of it, larger meaning reconstructed worse.

        Returns:
            The value itself; under the released recipe ``1 - value`` for LPIPS, which drives reconstructions
            *away* from the image, as the released scripts do.
        """
        return 1 - value if self._released and name in LPIPS_TRUNKS else value

    def stored(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add what the authors' test script stores under the name of a loss: for LPIPS, one minus it.

        Args:
            values: Name -> (N,) losses, larger meaning reconstructed worse.

        Returns:
            The same, and under the released recipe ``1-lpips-...`` -> (N,) beside them, larger meaning reconstructed
            *better*: a rank correlation with it has the other sign.
        """
        if not self._released:
            return values
        return values | {
            f"1-{name}": self.objective(name, value) for name, value in values.items() if name in LPIPS_TRUNKS
        }


def to_lpips_range(images: torch.Tensor) -> torch.Tensor:
    """Map [0, 1] images to the [-1, 1] that LPIPS expects. No other place does this."""
    return images * 2 - 1


def imagenet_normalised(images: torch.Tensor) -> torch.Tensor:
    """Standardise (N, 3, H, W) images in [0, 1] by the ImageNet channel means and deviations."""
    return _standardise(images, _IMAGENET_MEAN, _IMAGENET_STD)


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    return images


def _standardise(images: torch.Tensor, mean: Sequence[float], deviation: Sequence[float]) -> torch.Tensor:
    return (images - images.new_tensor(mean).view(1, 3, 1, 1)) / images.new_tensor(deviation).view(1, 3, 1, 1)


def _pixel_losses(
    names: Sequence[str], image: torch.Tensor, reconstruction: torch.Tensor
) -> dict[str, torch.Tensor]:
    values = {}
    if "mse" in names:
        values["mse"] = (image - reconstruction).square().mean(dim=(1, 2, 3))
    if "mae" in names:
        values["mae"] = (image - reconstruction).abs().mean(dim=(1, 2, 3))
    return values


def _structural_losses(
    names: Sequence[str], image: torch.Tensor, reconstruction: torch.Tensor
) -> dict[str, torch.Tensor]:
    """1 - SSIM and 1 - MS-SSIM; the first scale of the second is the first, computed once."""
    import torch
    from torch.nn import functional

    if "ssim" not in names and "ms-ssim" not in names:
        return {}
    values = {}
    similarity, contrast = _ssim_per_channel(image, reconstruction)
    if "ssim" in names:
        values["ssim"] = 1 - similarity.mean(dim=1)
    if "ms-ssim" in names:
        factors = [contrast]
        for scale in range(1, len(_MS_SSIM_EXPONENTS)):
            padding = [side % 2 for side in image.shape[-2:]]
            image = functional.avg_pool2d(image, 2, padding=padding)
            reconstruction = functional.avg_pool2d(reconstruction, 2, padding=padding)
            similarity, contrast = _ssim_per_channel(image, reconstruction)
            # luminance counts at the coarsest scale alone
            factors.append(similarity if scale == len(_MS_SSIM_EXPONENTS) - 1 else contrast)
        powers = [_power_of_positive(f, e) for f, e in zip(factors, _MS_SSIM_EXPONENTS, strict=True)]
        values["ms-ssim"] = 1 - torch.stack(powers).prod(dim=0).mean(dim=1)
    return values


def _power_of_positive(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """``max(base, 0) ** exponent`` with gradient 0, not NaN, where a negative base was cut off."""
    import torch

    positive = base > 0
    return torch.where(positive, torch.where(positive, base, 1.0) ** exponent, 0.0)


def _ssim_per_channel(image: torch.Tensor, reconstruction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean SSIM and mean contrast-structure term over the window positions inside the image, both (N, 3)."""
    import torch

    stacked = torch.cat(
        [image, reconstruction, image * image, reconstruction * reconstruction, image * reconstruction], dim=1
    )
    mean_i, mean_r, square_i, square_r, product = _gaussian_filter(stacked).chunk(5, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    variances = (square_i - mean_i * mean_i) + (square_r - mean_r * mean_r)
    contrast = (2 * (product - mean_i * mean_r) + c2) / (variances + c2)
    luminance = (2 * mean_i * mean_r + c1) / (mean_i * mean_i + mean_r * mean_r + c1)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def _gaussian_filter(images: torch.Tensor) -> torch.Tensor:
    """Filter (N, C, H, W) with the 11 px, sigma 1.5 Gaussian, at positions where the window fits."""
    import torch
    from torch.nn import functional

    offsets = torch.arange(11, dtype=torch.float32, device=images.device) - 5
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (window / window.sum()).expand(images.shape[1], 1, 11)
    images = functional.conv2d(images, window.unsqueeze(-1), groups=images.shape[1])
    return functional.conv2d(images, window.unsqueeze(-2), groups=images.shape[1])


class _Trunk:
    """The first layers of a pretrained network, up to the last one whose output is wanted."""

    def __init__(
        self,
        name: str,
        taps: Sequence[int],
        weights: str,
        seed: int,
        device: str | torch.device,
        precision: str = "float32",
    ) -> None:
        import torch

        from models.pretrained import load_trunk

        self.name = name
        features: nn.Sequential = load_trunk(name, weights, seed)
        layers = features[: max(taps) + 1].to(device).to(memory_format=torch.channels_last)
        self.layers = list(layers)
        self.taps = frozenset(taps)
        self.precision = precision

    def __call__(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the wanted outputs as float32, shallow to deep, for prepared (N, 3, H, W) images."""
        import torch

        images = images.contiguous(memory_format=torch.channels_last)
        for index, layer in enumerate(self.layers):
            with computing_in(
                self.precision, images.device
            ):  # not around the yield: what reads it is float32
                images = layer(images)
            if index in self.taps:
                yield images.float()

    def pairs(
        self,
        image: torch.Tensor,
        reconstruction: torch.Tensor,
        prepare: Callable[[torch.Tensor], torch.Tensor],
        describe: Callable[[torch.Tensor], Any],
        kept: dict[str, list] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yield what ``describe`` makes of the outputs for both batches; no gradient is computed for the image's half.

        ``kept`` holds that half by trunk. VGG's is computed by itself, so that its bits do not hang on whether another
        network's reconstructions follow; the small trunks take both batches at once, and 2 % of the losses' time.
        """
        import torch

        if torch.is_grad_enabled() and reconstruction.requires_grad:
            with torch.no_grad():
                targets = [describe(features) for features in self(prepare(image))]
            yield from zip(targets, map(describe, self(prepare(reconstruction))), strict=True)
        elif self.name.startswith("vgg"):
            originals: Iterable
            if kept is None:  # layer by layer: none is held
                originals = map(describe, self(prepare(image)))
            else:
                if self.name not in kept:
                    kept[self.name] = list(map(describe, self(prepare(image))))
                originals = kept[self.name]
            yield from zip(originals, map(describe, self(prepare(reconstruction))), strict=True)
        else:
            for both in self(prepare(torch.cat([image, reconstruction]))):
                first, second = both.chunk(2)
                yield describe(first), describe(second)


class _Lpips:
    """LPIPS v0.1 with the published linear weights (Zhang et al. 2018, eq. 1)."""

    def __init__(
        self, name: str, weights: str, seed: int, device: str | torch.device, precision: str
    ) -> None:
        from models.pretrained import load_lpips_linear

        trunk_name, taps = LPIPS_TRUNKS[name]
        self.trunk = _Trunk(trunk_name, taps, weights, seed, device, precision)
        self.linear = [weight.to(device) for weight in load_lpips_linear(trunk_name)]

    def __call__(
        self, image: torch.Tensor, reconstruction: torch.Tensor, kept: dict[str, list] | None = None
    ) -> torch.Tensor:
        """Return (N,) distances of two batches in the range of `to_lpips_range`."""
        total = image.new_zeros(len(image))
        pairs = self.trunk.pairs(image, reconstruction, _lpips_standardised, _unit_length, kept)
        for (first, second), weight in zip(pairs, self.linear, strict=True):
            total = total + (first - second).square().mean(dim=(2, 3)) @ weight
        return total


def _lpips_standardised(images: torch.Tensor) -> torch.Tensor:
    return _standardise(images, _LPIPS_SHIFT, _LPIPS_SCALE)


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    """Scale the channel vector at each position to length 1; an all-zero one and its gradient stay 0."""
    import torch

    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Compute undivided Gram matrices: (N, C, H, W) -> (N, C, C), sums over positions of channel products."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2)


def _gram_and_size(features: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return Gram matrices and C x H x W: 1 MB at most where the features took 13."""
    return gram_matrix(features), features[0].numel()


def _style(
    trunk: _Trunk, image: torch.Tensor, reconstruction: torch.Tensor, kept: dict[str, list] | None = None
) -> torch.Tensor:
    """Sum over layers of the squared Frobenius distance of Gram matrices divided by C x H x W."""
    total = image.new_zeros(len(image))
    for (first, size), (second, _) in trunk.pairs(
        image, reconstruction, imagenet_normalised, _gram_and_size, kept
    ):
        total = total + ((first - second) / size).square().sum(dim=(1, 2))
    return total


def _released_style(
    trunk: _Trunk, image: torch.Tensor, reconstruction: torch.Tensor, kept: dict[str, list] | None = None
) -> torch.Tensor:
    """Mean squared difference of undivided Gram matrices of the last feature map."""
    ((first, second),) = trunk.pairs(image, reconstruction, _unchanged, gram_matrix, kept)
    return (first - second).square().mean(dim=(1, 2))
