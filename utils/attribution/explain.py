"""Pictures of what single images' predicted scores rest on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.score_network import prepare_network
from utils.attribution.figures import draw_explanation, picture_names
from utils.attribution.gradients import (
    AttributionSettings,
    Explanation,
    integrated_gradients,
    internal_batch_size,
)
from utils.core.log import in_words, log
from utils.core.run import Run
from utils.latents.encodings import picture_reader
from utils.prediction.scoring import Predictor

DRAWING_SECONDS = 0.5  # of one overlay


class _Pictures(Sequence):
    """(name, pixels) pairs that are read when they are asked for, so that a large folder need not fit in memory."""

    def __init__(self, paths: Sequence[str], read: Callable[[str], np.ndarray]) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.paths[index], self.read(self.paths[index])


def explain_files(
    predictor: Predictor, paths: Sequence[str], out_dir: Path, caveat: str = "", steps: int = 50
) -> list[Path]:
    """Draw an attribution overlay per picture: which pixels raise and lower its predicted score.

    Args:
        predictor: Encoder and head.
        paths: Readable pictures.
        out_dir: Folder of the overlays.
        caveat: Printed on every overlay (sample data, random weights).
        steps: Points at which the gradient is taken; never doubled. Every overlay says how well they added up.

    Returns:
        The overlays' paths, in the order given.
    """
    pictures = _Pictures(paths, picture_reader(predictor.network, predictor.image_size))
    settings = AttributionSettings(steps=steps, max_doublings=0)
    if paths:
        seconds = len(paths) * _seconds_per_picture(predictor, pictures[0][1], settings)
        what = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
        log.info("Explaining %s at %d steps: about %s.", what, steps, in_words(seconds))
    with tqdm(total=len(paths), desc="explaining", unit="picture") as bar:
        explanations = explain_images(
            predictor.network,
            pictures,
            out_dir,
            settings=settings,
            device=predictor.device,
            caveat=caveat,
            progress=bar.update,
        )
    return [explanation.path for explanation in explanations]


def _seconds_per_picture(predictor: Predictor, pixels: np.ndarray, settings: AttributionSettings) -> float:
    """Time a few steps on one picture, after a first that warms up; the drawing of an overlay is added."""
    network = prepare_network(predictor.network, predictor.device)
    image = torch.from_numpy(pixels[None]).to(predictor.device)
    few = replace(settings, steps=min(settings.steps, internal_batch_size(settings, predictor.device)))
    for _ in range(2):
        started = time.perf_counter()
        integrated_gradients(network, image, ["timed"], few)
        taken = time.perf_counter() - started
    return taken / few.steps * settings.steps + DRAWING_SECONDS


def explain_images(
    network: nn.Module,
    images: Sequence[tuple[str, np.ndarray]],
    out_dir: Path,
    *,
    settings: AttributionSettings | None = None,
    observed: Sequence[float | None] | None = None,
    device: torch.device | str = "cpu",
    caveat: str = "",
    progress: Callable[[int], object] = lambda count: None,
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
        progress: Told how many images are done since it was last told.

    Returns:
        One explanation per image, in the order given.
    """
    settings = settings or AttributionSettings()
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
        attributions = integrated_gradients(
            prepared, torch.from_numpy(pixels).to(device), names[start : start + step], settings
        )
        for offset, image in enumerate(pixels):
            index = start + offset
            explanation = Explanation.of(names[index], paths[index], attributions, offset, observed[index])
            draw_explanation(image, attributions.maps[offset], explanation, caveat)
            explanations.append(explanation)
            progress(1)
    return explanations


def explain_scored(run: Run, predictor: Predictor, paths: list[str], steps: int) -> None:
    """Draw an overlay of each scored picture into ``explanations/``."""
    folder = run.output_path / "explanations"
    for picture in explain_files(predictor, paths, folder, run.caveat, steps):
        run.add_output(picture)
    log.info("Wrote %d attribution overlays to %s", len(paths), folder)
