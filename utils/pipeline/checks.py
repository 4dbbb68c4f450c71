"""What can be known to go wrong before the first stage starts: data, sizes, weights, choices, disk."""

from __future__ import annotations

import logging
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from models.autoencoder import DOWNSAMPLING, check_image_size, scaled_widths
from models.builtin import builtin_autoencoder
from models.checkpoints import find_pretrained, list_checkpoints, load_autoencoder
from models.pretrained import fetch_weights, network_files, uncached
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import DETECTORS, SEGMENTERS
from utils.data.dataset import load_dataset
from utils.data.splits import SHARES
from utils.pipeline.plan import Step
from utils.reconstruction.finetune_stage import combinations
from utils.reconstruction.finetuning import model_name
from utils.reconstruction.losses import check_losses, uses_pretrained

ONE_MODEL = ("latent_analysis", "mlp_predict", "model_interpretation_IG")
SPARE_BYTES = 200 * 2**20  # figures, tables, logs
# Seconds per image at 224 px and width 1 on two CPU cores; the commands are in benchmarks/README.md.
RATES = {
    "autoencoder_finetune": 1 / 1.7,
    "autoencoder_test": 1 / 2.2,
    "latent_analysis": 1 / 15,
    "model_interpretation_IG": 7.0,
    "feature_analysis": 0.072,
}
HEAVY_SCENE, LIGHT_SCENE = 3.9, 0.16  # the same, of objects and segments, at any size
START_SECONDS = 4.0  # imports, reading and figures of any stage
STEPS_OF_RATE = 50


@dataclass
class Findings:
    """What the checks found.

    Attributes:
        images: How many images the study has; 0 where that could not be told.
        has_scores: Whether they have scores.
        problems: What will stop a stage, each a whole message.
        downloads: Networks whose weights are not on this machine yet, with file and size.
        networks: Their names.
        bytes_needed: About what the outputs will take.
        seconds: About how long each stage will take, where a rate is known.
    """

    images: int = 0
    has_scores: bool = True
    problems: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    bytes_needed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def check_study(steps: Sequence[Step], output_path: Path, download: bool) -> Findings:
    """Look at everything that the steps will need.

    Args:
        steps: The chosen stages.
        output_path: The output folder.
        download: Whether to fetch weights that are not cached now, rather than hours later.

    Returns:
        What was found; every problem, not only the first.
    """
    log.setLevel(logging.ERROR)  # the stages say it themselves
    found = Findings()
    by_name = {step.name: step.args for step in steps if step.reason}
    for check in (_check_data, _check_sizes, _check_weights, _check_models):
        for problem in _refusals(check, by_name, found):
            if problem not in found.problems:
                found.problems.append(problem)
    if download and not found.problems and found.networks:
        log.setLevel(logging.INFO)
        found.problems += _refusals(lambda *_: iter([lambda: fetch_weights(found.networks)]), by_name, found)
    width = _width({step.name: step.args for step in steps})
    found.seconds = {step.name: estimate_seconds(step, found.images, width) for step in steps}
    found.bytes_needed = _bytes_needed(by_name, found.images, width)
    free = shutil.disk_usage(_existing(output_path)).free
    if free < found.bytes_needed:
        found.problems.append(
            f"The outputs will take about {found.bytes_needed / 2**30:.1f} GiB, and {output_path} has "
            f"{free / 2**30:.1f} GiB free. Free some, or choose another folder with --output-path."
        )
    return found


Check = Callable[[dict[str, Namespace], Findings], Iterator[Callable[[], object]]]


def _refusals(check: Check, stages: dict[str, Namespace], found: Findings) -> list[str]:
    """Run a check's steps one by one; return what each refuses."""
    problems = []
    for step in check(stages, found):
        try:
            step()
        except UserError as error:
            problems.append(str(error))
    return problems


def _check_data(stages: dict[str, Namespace], found: Findings) -> Iterator[Callable[[], object]]:
    """Yield what reads the score table and finds the pictures."""
    args = next((args for args in stages.values() if hasattr(args, "data_dir")), None)

    def load(args: Namespace) -> None:
        with tempfile.TemporaryDirectory() as folder:  # the sample is built where nothing stays
            place = Path(folder) if args.sample else args.output_path
            dataset = load_dataset(Namespace(**{**vars(args), "output_path": place}))
        found.images, found.has_scores = len(dataset.table), dataset.has_scores

    if args is not None:
        yield partial(load, args)


def _check_sizes(stages: dict[str, Namespace], found: Findings) -> Iterator[Callable[[], object]]:
    """Yield what holds image sizes against the autoencoder and the losses."""
    finetune, test = stages.get("autoencoder_finetune"), stages.get("autoencoder_test")
    for args in stages.values():
        if getattr(args, "image_size", None):
            yield partial(check_image_size, args.image_size)
    if finetune is not None:
        yield lambda: scaled_widths(finetune.width or 1.0)
        yield lambda: check_losses(finetune.loss, finetune.image_size)
    if test is not None:
        yield lambda: check_losses(test.losses, test.image_size)


def _check_weights(stages: dict[str, Namespace], found: Findings) -> Iterator[Callable[[], object]]:
    """Yield what looks for the start of the fine-tuning and for the helper networks of every stage."""
    finetune = stages.get("autoencoder_finetune")
    if finetune is not None and finetune.pretrained.lower() == "builtin":
        yield lambda: load_autoencoder(builtin_autoencoder(), image_size=finetune.image_size)
    elif finetune is not None and finetune.pretrained.lower() != "none":
        yield lambda: find_pretrained(finetune.pretrained, [finetune.data_dir, finetune.output_path])
    if finetune is not None and finetune.weights == "available":
        yield lambda: _one_of_the_losses(finetune.loss)
    found.networks = uncached(
        network
        for name, args in stages.items()
        if getattr(args, "weights", "") == "pretrained"
        for network in needed_networks(name, args)
    )
    found.downloads = network_files(found.networks)


def _one_of_the_losses(losses: Sequence[str]) -> None:
    if all(uncached(uses_pretrained([loss])) for loss in losses):
        raise UserError(
            f"--weights available leaves no loss to fine-tune with: {', '.join(losses)} needs weights that are not cached. "
            "Add --extra 'autoencoder_finetune=--loss mse', or --weights pretrained to download them."
        )


def needed_networks(stage: str, args: Namespace) -> list[str]:
    """Return the helper networks whose weights a stage will read."""
    if stage == "autoencoder_finetune":
        return uses_pretrained(args.loss)
    if stage == "autoencoder_test":
        return uses_pretrained(args.losses)
    if stage == "model_interpretation_IG" and args.detect:
        return [args.detector or DETECTORS["heavy"], args.segmenter or SEGMENTERS["heavy"]]
    if stage == "feature_analysis" and (args.features is None or "scene" in args.features):
        return [DETECTORS.get(args.detector, args.detector), SEGMENTERS.get(args.segmenter, args.segmenter)]
    return []


def _check_models(stages: dict[str, Namespace], found: Findings) -> Iterator[Callable[[], object]]:
    """Yield what sees whether each stage will know which checkpoint is meant."""
    users = {name: args for name, args in stages.items() if name in ONE_MODEL}
    if not users:
        return
    first = next(iter(users.values()))
    there = {path.name for path in list_checkpoints(first.output_path)}
    made = _models_made(stages.get("autoencoder_finetune"))
    named = {name for args in users.values() for name in args.model_names or []}

    def choose() -> None:
        files = {name: f"{name.removesuffix('.pth')}.pth" for name in named}
        # Any file that is named will do, also a start such as the ImageNet checkpoint.
        missing = sorted(
            name
            for name, file in files.items()
            if file not in made and not (first.output_path / file).is_file()
        )
        if missing:
            raise UserError(
                f"--model-names {missing[0]} is neither in {first.output_path} nor written by stage 1 (there: "
                f"{', '.join(sorted(there)) or 'none'}; written: {', '.join(sorted(made)) or 'none'})."
            )
        if not named and len(there | made) > 1:
            new = f" beside {', '.join(sorted(made))}, which stage 1 writes" if made - there else ""
            raise UserError(
                f"{', '.join(sorted(there if new else there | made))} in {first.output_path}{new}: stages 4, 6 and 7 work "
                f"with one checkpoint. Choose with --model-names {sorted(made or there)[0]}, or use another --output-path."
            )

    yield choose


def _models_made(finetune: Namespace | None) -> set[str]:
    if finetune is None:
        return set()
    todo = combinations(finetune)
    return {f"{model_name(s, finetune.arch, len(todo) == 1, finetune.width)}.pth" for s in todo}


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _width(stages: dict[str, Namespace]) -> float:
    finetune = stages.get("autoencoder_finetune")
    if finetune is None:
        return 1.0
    return finetune.width or (0.25 if finetune.pretrained.lower() == "builtin" else 1.0)


def _bytes_needed(stages: dict[str, Namespace], images: int, width: float) -> int:
    """Return about what the checkpoint, the codes and the maps take."""
    size = next((args.image_size for args in stages.values() if hasattr(args, "image_size")), 224)
    needed = SPARE_BYTES
    if "autoencoder_finetune" in stages:
        needed += int(3 * 128e6 * width**2)  # the model, its last state and a copy while it is written
    if "latent_analysis" in stages:
        needed += images * scaled_widths(width)[-1] * (size // DOWNSAMPLING) ** 2 * 4 * 2
    if "model_interpretation_IG" in stages:
        limit = stages["model_interpretation_IG"].limit
        needed += min(limit or images, int(images * SHARES["test"]) or images) * size**2 * 2 * 2
    return needed


def estimate_seconds(step: Step, images: int, width: float) -> float:
    """Say about how long a stage takes on two CPU cores, from rates at 224 px and full width; larger than 0.

    Convolutions cost by the square of the side; of the width between once and twice its square, here once.
    """
    args = step.args
    per_image = RATES.get(step.name, 0.0)
    scale = 1.0
    if step.name != "feature_analysis":
        scale = (getattr(args, "image_size", 224) / 224) ** 2 * max(width, 0.1)
    if step.name == "model_interpretation_IG":
        tested = int(images * SHARES["test"])
        images = min(args.limit or tested, tested)
        scale *= args.steps / STEPS_OF_RATE
    scene = 0.0
    if step.name == "feature_analysis" and not uncached(needed_networks(step.name, args)):
        light = DETECTORS["light"] in needed_networks(step.name, args)
        scene = LIGHT_SCENE if light else HEAVY_SCENE
    return START_SECONDS + images * (per_image * scale + scene)
