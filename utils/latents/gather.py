"""Where the codes of a run come from: checkpoints, another encoder, or a file."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from models.autoencoder import check_image_size
from utils.core.device import keep_freed_memory
from utils.core.errors import UserError
from utils.core.processes import barrier, is_main_rank
from utils.data.dataset import Dataset, load_dataset
from utils.data.splits import ensure_splits
from utils.latents.calculation import calculate_latents
from utils.latents.codes import CodeSet, is_foreign, latent_name
from utils.latents.encodings import (
    AUTOENCODER,
    Encoding,
    autoencoder_encoding,
    encoder_encoding,
    encoder_stem,
    write_encoder_card,
)
from utils.latents.foreign_codes import import_codes, read_foreign_codes
from utils.latents.stage import choose_models, code_sets

if TYPE_CHECKING:
    from utils.core.run import Run

log = logging.getLogger("memorability")


def check_sources(args: Namespace) -> None:
    """Refuse flags that contradict each other or would be ignored."""
    if args.codes is None:
        given = {
            "--codes-index": args.codes_index,
            "--codes-column": args.codes_column,
            "--codes-name": args.codes_name,
        }
        lost = [flag for flag, value in given.items() if value is not None]
        if lost:
            raise UserError(
                f"{', '.join(lost)} says how to read codes from a file: name the file with --codes."
            )
    elif args.encoder != AUTOENCODER or args.layer or args.pool or args.model_names:
        raise UserError(
            "--codes brings codes from a file, which no network makes here: leave out --encoder, --layer, --pool and "
            "--model-names."
        )
    if args.encoder == AUTOENCODER and args.encoder_weights is not None:
        raise UserError(
            "--encoder-weights are those of --encoder torchvision:..., timm:... or openclip:...; name it."
        )
    if args.encoder != AUTOENCODER and args.model_names:
        raise UserError("--model-names are autoencoder checkpoints; leave them out with --encoder.")


def gather_codes(args: Namespace, run: Run) -> tuple[Dataset, list[CodeSet]]:
    """Calculate or import codes where that was asked for, and return those to analyse.

    Args:
        args: The script's arguments.
        run: The run.

    Returns:
        The data set, and the sets of codes.
    """
    check_sources(args)
    if args.codes is not None:
        return _from_file(args, run)
    if args.encoder != AUTOENCODER:
        return _from_encoder(args, run)
    check_image_size(args.image_size)
    models = choose_models(args)
    dataset = _dataset(
        args,
        run,
        pictures=not all(path is None and is_foreign(args.output_path, stem) for stem, path in models),
    )
    if args.calculate_latents:
        _calculate(args, run, dataset, [path for _, path in models if path is not None])
    return dataset, code_sets(args, models)


def _dataset(args: Namespace, run: Run, pictures: bool = True) -> Dataset:
    dataset = load_dataset(args, pictures)
    dataset.note_on(run)
    if dataset.has_scores:  # for category_plot.py, whichever stages ran before
        ensure_splits(dataset, args.output_path, args.seed)
    run.count(images=len(dataset.table))
    return dataset


def _calculate(args: Namespace, run: Run, dataset: Dataset, checkpoints: list[Path]) -> None:
    """Calculate the codes of every checkpoint."""
    keep_freed_memory()
    skipped = list(dataset.skipped)
    for path in checkpoints:
        with run.one_model():
            skipped += calculate_latents(args, run, dataset, autoencoder_encoding(args, path, run.device))
    _finish(run, skipped)


def _finish(run: Run, skipped: list[tuple[str, str]]) -> None:
    if is_main_rank():
        run.report_skipped(skipped)
    barrier()  # the others read what rank 0 has merged


def _from_encoder(args: Namespace, run: Run) -> tuple[Dataset, list[CodeSet]]:
    """Take the codes of another encoder."""
    encoding: Encoding = encoder_encoding(args, run.device)
    dataset = _dataset(args, run)
    if args.calculate_latents:
        keep_freed_memory()
        with run.one_model():
            _finish(run, [*dataset.skipped, *calculate_latents(args, run, dataset, encoding)])
            if is_main_rank() and encoding.default in [(layer, encoding.pool) for layer in encoding.layers]:
                run.add_output(write_encoder_card(args, encoding))
    command = f"python latent_analysis.py --calculate-latents --encoder {args.encoder}"
    command += f" --layer {' '.join(args.layer)}" if args.layer else ""
    command += f" --pool {args.pool}" if args.pool else ""
    encoder = {"stem": args.encoder, "sha256": encoding.sha256}
    stem = encoder_stem(args.encoder)
    return dataset, [
        CodeSet(stem, latent_name(stem, layer, encoding.pool, encoding.default), command, encoder, layer)
        for layer in encoding.layers
    ]


def _from_file(args: Namespace, run: Run) -> tuple[Dataset, list[CodeSet]]:
    """Take codes from a file."""
    dataset = _dataset(args, run, pictures=False)
    codes = read_foreign_codes(args.codes, args.codes_index, args.codes_column, args.codes_name)
    if args.calculate_latents and is_main_rank():
        import_codes(run, codes, dataset.table["image_id"].tolist(), dataset.scores_csv, args.on_error)
    barrier()
    index = "" if args.codes_index is None else f" --codes-index {args.codes_index}"
    command = f"python latent_analysis.py --calculate-latents --codes {args.codes}{index}"
    return dataset, [CodeSet(codes.name, codes.name, command)]
