"""The work of ``autoencoder_test.py``: the losses of every image by one checkpoint, their table and their figure."""

import math
from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from models.autoencoder import Autoencoder
from models.checkpoints import load_autoencoder
from utils.core.device import computing_in
from utils.core.errors import UserError
from utils.core.names import HEADLINE_LOSS, STORED_LOSSES
from utils.core.processes import is_main_rank
from utils.core.run import Run
from utils.core.shards import Batch, Job, ShardedResult, Work, run_together
from utils.core.tables import output_file
from utils.data.dataset import Dataset
from utils.data.images import load_pixels
from utils.reconstruction.examples import draw_examples, pick_examples
from utils.reconstruction.losses import ReconstructionLosses, cached_losses, check_losses, uses_pretrained
from utils.reconstruction.pairs import PAIR, encode_pairs, pack_pairs, pair_size

MODELS_AT_ONCE = 4  # in memory: weights of full width take 120 MB each


def check_loss_flags(args: Namespace) -> None:
    """Put the losses in their order, once each; refuse those the image size is too small for, and a figure by another.

    With ``--weights available`` only those stay whose networks are cached.

    Raises:
        UserError: Naming the flag.
    """
    args.losses = list(check_losses(args.losses, args.image_size))
    if args.weights == "available":
        args.losses, args.weights = cached_losses(args.losses), "pretrained"
    if args.figure_loss is not None and args.figure_loss not in args.losses:
        raise UserError(
            f"--figure-loss {args.figure_loss} is not among the losses to compute ({', '.join(args.losses)}). "
            "Add it to --losses, or choose one of those."
        )


def note_random_trunks(args: Namespace, run: Run) -> None:
    """Say of every output that follows which helper networks are random, if any."""
    if args.weights == "random" and uses_pretrained(args.losses):
        run.note_random(f"LPIPS and style ({', '.join(uses_pretrained(args.losses))})")


class Originals:
    """The batch at work and what the losses' trunks make of its originals: the same for every network that is tested.

    One batch is held at a time. At 224 px and a batch of 8 that is 220 MB with all losses.
    """

    def __init__(self, args: Namespace, device: torch.device) -> None:
        self._args, self._device = args, device
        self._values: list[np.ndarray] | None = None
        self._images = torch.empty(0)
        self._kept: dict[str, list] = {}

    @cached_property
    def losses(self) -> ReconstructionLosses:
        """The losses, made at the first batch: a finished job needs no trunks."""
        args = self._args
        return ReconstructionLosses(
            args.losses, args.weights, self._device, args.recipe, args.seed, args.precision
        )

    def of(self, values: list[np.ndarray]) -> tuple[torch.Tensor, dict[str, list]]:
        """Return a batch's images and what is kept of them, the same for the same list."""
        if self._values is not values:
            self._kept = {}
            self._images = torch.from_numpy(np.stack(values)).to(
                self._device, memory_format=torch.channels_last
            )
            self._values = values
        return self._images, self._kept


def make_work(args: Namespace, run: Run, model: Autoencoder, originals: Originals, shared: bool) -> Work:
    """Return the function that turns a batch of images into rows of losses, with one forward pass.

    Args:
        args: The script's arguments.
        run: The run.
        model: The network.
        originals: Of the run.
        shared: Whether another network is at the same batches, so that what the trunks make of originals is worth keeping.
    """

    def work(ids: list[str], values: list[np.ndarray]) -> Batch:
        with torch.inference_mode():
            images, kept = originals.of(values)
            with computing_in(args.precision, run.device):
                reconstructions = model(images)
            reconstructions = reconstructions.float()
            losses = originals.losses
            computed = losses.stored(losses(images, reconstructions, kept if shared else None))
            columns = {name: value.double().cpu().tolist() for name, value in computed.items()}
            check_finite(ids, columns)
            columns[PAIR] = encode_pairs(images, reconstructions)
        return Batch([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])

    return work


def check_finite(ids: list[str], columns: dict[str, list[float]]) -> None:
    """Stop at a loss that is not a finite number, naming the image: such a network is broken.

    Raises:
        UserError: Naming the loss, the image and what to do.
    """
    for name, values in columns.items():
        for image_id, value in zip(ids, values, strict=True):
            if not math.isfinite(value):
                raise UserError(
                    f"The {name} loss of {image_id} is {value}: the network's weights or the image are broken. "
                    "Fine-tune again with a smaller --learning-rate (python autoencoder_finetune.py --overwrite), "
                    "or choose another checkpoint with --model-names."
                )


def reconstruct(
    args: Namespace, model: Autoencoder, paths: dict[str, Path], device: torch.device
) -> dict[str, tuple]:
    """Return original and reconstruction, (3, S, S) each, of a few images by image_id."""
    pairs = {}
    with torch.inference_mode():
        for image_id, path in paths.items():
            original = load_pixels(path, args.image_size)
            batch = torch.from_numpy(original)[None].to(device, memory_format=torch.channels_last)
            with computing_in(args.precision, device):
                made = model(batch)[0]
            pairs[image_id] = (original, made.float().cpu().numpy())
    return pairs


def write_results(
    args: Namespace,
    run: Run,
    dataset: Dataset,
    model: Autoencoder,
    label: str,
    result: ShardedResult,
) -> None:
    """Write the table and the figure of one model."""
    about = dataset.table[["image_id", "path", "category", "subcategory", "memorability"]]
    table_path = output_file(args.output_path, "test_loss", label)
    pairs_path = args.output_path / f"pairs_{label}.zip"
    if result.up_to_date:
        losses = run.read_table("test_loss", label, inherit=False)
        run.add_output(table_path)
    else:
        losses = pd.DataFrame(pack_pairs(result.rows(), pairs_path))
    run.add_output(pairs_path)
    # The scores anew even when the losses are up to date: they may come from another column or table by now.
    columns = ["image_id", *args.losses, *(name for name in STORED_LOSSES if name in losses)]
    table = losses[columns].merge(about.drop(columns="path"), on="image_id", validate="one_to_one")
    run.write_table(table, "test_loss", label)
    loss = args.figure_loss or (HEADLINE_LOSS if HEADLINE_LOSS in args.losses else args.losses[0])
    groups = pick_examples(table, loss)
    wanted = {image_id for group in groups.values() for image_id in group["image_id"]}
    chosen = about[about["image_id"].isin(wanted)]
    pixels = reconstruct(args, model, dict(zip(chosen["image_id"], chosen["path"], strict=True)), run.device)
    run.save_figure(draw_examples(groups, pixels, loss, label), f"reconstructions_{label}", formats=("png",))
    result.finish([table_path, pairs_path])


class _Tested(NamedTuple):
    """A network that is tested: its name in files, its weights, what must be said of it."""

    label: str
    model: Autoencoder
    caveats: list[str]


def losses_of_models(
    args: Namespace, run: Run, dataset: Dataset, paths: Sequence[Path]
) -> list[tuple[str, str]]:
    """Test checkpoints, `MODELS_AT_ONCE` at a time on the same batches; return the images that could not be read."""
    originals, skipped = Originals(args, run.device), []
    for start in range(0, len(paths), MODELS_AT_ONCE):
        group = paths[start : start + MODELS_AT_ONCE]
        tested, jobs = [], []
        for path in group:
            with run.one_model():
                each, settings = _prepare(args, run, path)
            tested.append(each)
            work = make_work(args, run, each.model, originals, shared=len(group) > 1)
            jobs.append(Job(f"test_loss_{each.label}", work, settings))
        results = run_together(
            jobs,
            dataset.table[["image_id", "path"]],
            output_path=args.output_path,
            load=partial(load_pixels, size=args.image_size),
            batch_size=args.batch_size,
            workers=args.workers,
            on_error=args.on_error,
            overwrite=args.overwrite,
            description=tested[0].label if len(tested) == 1 else f"{len(tested)} models",
        )
        for each, result in zip(tested, results, strict=True):
            skipped += result.skipped
            with run.one_model():
                run.note_caveats(each.caveats)
                if is_main_rank():
                    write_results(args, run, dataset, each.model, each.label, result)
    return skipped


def _prepare(args: Namespace, run: Run, path: Path) -> tuple[_Tested, dict[str, Any]]:
    """Load a checkpoint; return it, and everything besides the images that its losses hang on."""
    model, meta = load_autoencoder(path, run.device, args.image_size)
    model = model.to(memory_format=torch.channels_last)
    run.note_caveats(meta["caveats"])
    run.add_input(path)
    settings = {
        "checkpoint": meta["sha256"],
        "losses": args.losses,
        "recipe": args.recipe,
        "weights": args.weights,
        "seed": args.seed if args.weights == "random" else None,
        "image_size": args.image_size,
        "pairs": pair_size(args.image_size),
        "precision": args.precision,
        "caveat": run.caveat,
    }
    label = path.stem if args.recipe == "corrected" else f"{path.stem}_released-losses"
    return _Tested(label, model, list(meta["caveats"])), settings
