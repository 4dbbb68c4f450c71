"""The part of ``latent_analysis.py`` that measures distinctiveness in many ways (``--measure``)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from tqdm import tqdm

from utils.core.log import log
from utils.core.measure_names import MEASURES, WITHIN, signs_in_words
from utils.core.names import LOSSES
from utils.latents.codes import Latents
from utils.latents.distinctiveness import Inference, partial_row, with_groups_and_counts
from utils.latents.measures import Measured, MeasureSettings, measure, measures_table

if TYPE_CHECKING:
    import torch

    from utils.core.run import Run


DEFAULT_MEMORY_MB = 384


def chosen_measures(names: Sequence[str]) -> tuple[str, ...]:
    """Return the measures that ``--measure`` asks for besides the nearest neighbour of ``distinctiveness_<model>.csv``."""
    if "all" in names:
        return tuple(MEASURES)
    return tuple(name for name in MEASURES if name in names)


def analyse_measures(
    args: Namespace, run: Run, latents: Latents, about: pd.DataFrame, losses: pd.DataFrame | None
) -> pd.DataFrame:
    """Measure, write ``distinctiveness_measures_<model>.csv``, and correlate.

    Args:
        args: With ``measure, measure_neighbours, memory_mb, resamples, seed, cluster``.
        run: The run.
        latents: The codes.
        about: The data set's rows in the order of the codes.
        losses: ``test_loss_<model>.csv``, or None.

    Returns:
        Rows for ``distinctiveness_correlations.csv`` without ``model``.
    """
    names = chosen_measures(args.measure)
    settings = MeasureSettings(
        names, args.measure_neighbours, _device(run.device), (args.memory_mb or DEFAULT_MEMORY_MB) * 2**20
    )
    categories = about["category"] if (about["category"] != "").any() else None
    with tqdm(total=1.0, desc="measures", bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        measured = measure(latents, settings, categories, bar.update)
    table = measures_table(latents, measured, about)
    run.write_table(table, "distinctiveness_measures", latents.path.stem.removeprefix("latents_"))
    if about["memorability"].isna().all():
        return pd.DataFrame()
    rows = correlate_measures(
        table, about, losses, measured, Inference(args.resamples, args.seed, args.cluster)
    )
    log.info("%s", signs_in_words(rows))
    return rows


def _device(device: torch.device) -> str:
    """The pass is in float64, which Apple's GPUs have not."""
    return "cpu" if device.type == "mps" else str(device)


def correlate_measures(
    table: pd.DataFrame,
    about: pd.DataFrame,
    losses: pd.DataFrame | None,
    measured: Measured,
    inference: Inference,
) -> pd.DataFrame:
    """Correlate every measure with memorability, alone and with reconstruction error held constant.

    Args:
        table: Rows of ``distinctiveness_measures_<model>.csv``.
        about: The data set's columns (subcategory and response counts, where there are any), by ``image_id``.
        losses: ``test_loss_<model>.csv``, or None.
        measured: What the table was made from, for what each measure depends on.
        inference: How intervals and p-values come about.

    Returns:
        A row per measure; with losses, two more: the measure with the error held constant, and the error (lpips-sq
        where there is one) with the measure held constant.
    """
    frame = with_groups_and_counts(table, about)
    names = [name for name in measured.values if np.isfinite(frame[name]).any()]
    rows = [inference.rows(frame, names)]
    computed = [name for name in LOSSES if losses is not None and name in losses.columns]
    if losses is not None and computed:
        error = "lpips-sq" if "lpips-sq" in computed else computed[0]
        frame = frame.merge(losses[["image_id", error]], on="image_id", how="left", validate="one_to_one")
        whole = [name for name in names if not name.endswith(WITHIN)]
        pairs = [pair for name in whole for pair in ((name, error), (error, name))]
        rows.append(pd.DataFrame([partial_row(frame, *pair, inference) for pair in pairs]))
    result = pd.concat(rows, ignore_index=True)
    return result.assign(setting=result["measure"].map(measured.settings).fillna(""))
