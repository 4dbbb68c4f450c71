"""Along the depth of a network: how distinctiveness, and a linear prediction, go with memorability layer by layer.

The bands of the figure are simultaneous: with 95 % confidence they hold for all layers of a curve at once, so that a
peak picked from the curve is covered too (the maximum of the standardised deviations over the layers, per resample).
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.core.figures import PALETTE, new_figure, shorten
from utils.core.names import HEADLINE_LOSS, LOSSES
from utils.core.processes import alone, is_main_rank
from utils.core.tables import output_file, read_table
from utils.data.splits import load_splits
from utils.latents.codes import CodeSet, open_latents
from utils.prediction.partition import split_positions
from utils.prediction.ridge import fit_ridge
from utils.statistics.cluster_tests import FEW_CLUSTERS
from utils.statistics.clusters import find_clusters
from utils.statistics.resampling import FISHER, Resampler, correlate_resampled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from utils.core.run import Run
    from utils.data.dataset import Dataset

log = logging.getLogger("memorability")

MEMORABILITY = "memorability"
DISTINCTIVENESS, RIDGE = "distinctiveness", "ridge"
LEVEL = 0.95
MIN_IMAGES = 10


def simultaneous_bands(
    rho: NDArray, samples: NDArray, errors: NDArray, level: float = LEVEL
) -> tuple[NDArray, NDArray]:
    """Return bands that cover all values of a curve at once.

    Args:
        rho: (L,) the curve.
        samples: (resamples, L) curves of the resamples, drawn together.
        errors: (L,) standard errors.
        level: Joint confidence.

    Returns:
        Lower and upper ends, within -1..1; NaN where a value has no standard error.
    """
    usable = np.isfinite(errors) & (errors > 0)
    if not usable.any() or not len(samples):
        return np.full_like(rho, np.nan), np.full_like(rho, np.nan)
    deviations = np.abs(samples[:, usable] - samples[:, usable].mean(0)) / errors[usable]
    reach = float(np.nanquantile(deviations.max(1), level))
    low, high = (np.where(usable, np.clip(rho + sign * reach * errors, -1, 1), np.nan) for sign in (-1, 1))
    return low, high


def curve_rows(values: NDArray, target: NDArray, layers: Sequence[str], resampler: Resampler) -> pd.DataFrame:
    """Correlate one number per image and layer with a target, with bands over the layers.

    Args:
        values: (n, L) finite numbers.
        target: (n,) finite numbers.
        layers: L names, shallow to deep.
        resampler: How the images are resampled.

    Returns:
        A row per layer: ``layer, depth, n, rho, ci_low, ci_high, band_low, band_high``.
    """
    rho, samples = correlate_resampled(target[:, None], values, resampler)
    rho, samples = rho[0], samples[:, 0]
    empty = np.full(len(layers), np.nan)
    low, high = resampler.interval(rho, samples, FISHER)
    band_low = band_high = empty
    drawn = samples
    if (
        resampler.clusters is not None
    ):  # bands need whole curves drawn; those without one cluster are no draws
        drawn = correlate_resampled(target[:, None], values, replace(resampler, draw=True))[1][:, 0]
    if resampler.clusters is None or resampler.units >= FEW_CLUSTERS:
        band_low, band_high = simultaneous_bands(rho, drawn, resampler.standard_error(samples))
    return pd.DataFrame(
        {
            "layer": list(layers),
            "depth": np.arange(1, len(layers) + 1),
            "n": len(target),
            "rho": rho,
            "ci_low": low,
            "ci_high": high,
            "band_low": band_low,
            "band_high": band_high,
        }
    )


def sweep_models(args: Namespace, run: Run, dataset: Dataset, sets: Sequence[CodeSet]) -> None:
    """Follow each model through its layers, where several were analysed by the paper's distinctiveness.

    Args:
        args: See :func:`sweep_layers`; and ``metric, neighbours, within_category``.
        run: The run.
        dataset: The images.
        sets: Codes of any number of models, each shallow to deep.
    """
    if not is_main_rank() or (args.metric, args.neighbours, args.within_category) != ("euclidean", 1, False):
        return
    for stem in dict.fromkeys(codes.stem for codes in sets):
        own = [codes for codes in sets if codes.stem == stem]
        if len(own) > 1:
            with run.one_model(), alone():  # reading splits.csv would wait for ranks that are not here
                sweep_layers(args, run, dataset, own)


def sweep_layers(args: Namespace, run: Run, dataset: Dataset, sets: Sequence[CodeSet]) -> pd.DataFrame | None:
    """Write ``latent_layers_<model>.csv`` and its figure from the codes of several layers.

    Args:
        args: With ``output_path, seed, resamples, cluster``.
        run: The run.
        dataset: The images.
        sets: The codes of one model, shallow to deep, whose distinctiveness has been analysed.

    Returns:
        The table; None where there are too few images to correlate.
    """
    stem, layers = sets[0].stem, [codes.layer for codes in sets]
    splits = load_splits(dataset, args.output_path, args.seed)
    distances, predictions, widths = {}, {}, {}
    for codes in sets:
        latents = open_latents(args.output_path, codes.name, codes.encoder, codes.command)
        run.note_caveats(latents.caveats)
        table = read_table(output_file(args.output_path, "distinctiveness", codes.name), "distinctiveness")
        distances[codes.layer] = table.set_index("image_id")["distinctiveness"]
        predictions[codes.layer] = ridge_predictions(latents.matrix, latents.image_ids, splits)
        widths[codes.layer] = latents.matrix.shape[1]
    about = dataset.table.set_index("image_id")
    parts = [
        _curve(args, about, pd.DataFrame(distances), layers, MEMORABILITY).assign(measure=DISTINCTIVENESS),
        _curve(args, about, pd.DataFrame(predictions), layers, MEMORABILITY).assign(measure=RIDGE),
    ]
    errors = output_file(args.output_path, "test_loss", stem)
    if errors.exists():
        losses = read_table(errors, "test_loss").set_index("image_id")
        there = [name for name in LOSSES if name in losses.columns]
        error = HEADLINE_LOSS if HEADLINE_LOSS in there else there[0]
        joined = about.join(losses[[error]])
        parts.append(
            _curve(args, joined, pd.DataFrame(distances), layers, error).assign(measure=DISTINCTIVENESS)
        )
    rows = (
        pd.concat([part for part in parts if not part.empty], ignore_index=True) if parts else pd.DataFrame()
    )
    if rows.empty:
        log.warning("Fewer than %d images: no curve along the layers.", MIN_IMAGES)
        return None
    rows = rows.assign(values=rows["layer"].map(widths), resamples=args.resamples, seed=args.seed)
    run.write_table(rows, "latent_layers", stem)
    run.save_figure(draw_layers(rows, stem), f"latent_layers_{stem}")
    return rows


def ridge_predictions(matrix: NDArray, image_ids: Sequence[str], splits: pd.DataFrame) -> pd.Series:
    """Predict the test images' scores from codes, by a ridge fitted on the training images, chosen on validation.

    Args:
        matrix: (N, D) codes.
        image_ids: N names.
        splits: Rows of ``splits.csv``.

    Returns:
        Predicted scores of the test images by ``image_id``.
    """
    place = pd.Series(np.arange(len(image_ids)), index=list(image_ids))
    known = splits[splits["image_id"].isin(place.index)]
    positions = place.loc[known["image_id"]].to_numpy()
    scores = np.full(len(image_ids), np.nan)
    scores[positions] = known["memorability"]
    split = split_positions(known["split"], positions)
    fit = fit_ridge(matrix, scores, split.train, split.val)
    return pd.Series(fit.predict(matrix, split.test), index=np.asarray(image_ids, dtype=object)[split.test])


def _curve(
    args: Namespace, about: pd.DataFrame, values: pd.DataFrame, layers: Sequence[str], target: str
) -> pd.DataFrame:
    """Return one curve's rows; empty with too few images."""
    frame = about.join(values, how="inner").dropna(subset=[*layers, target])
    if len(frame) < MIN_IMAGES:
        return pd.DataFrame()
    clustering = find_clusters(frame, args.cluster)
    resampler = clustering.resampler(frame, args.resamples, args.seed)
    rows = curve_rows(frame[list(layers)].to_numpy(float), frame[target].to_numpy(float), layers, resampler)
    return rows.assign(target=target, cluster=clustering.unit, clusters=resampler.units)


def draw_layers(rows: pd.DataFrame, model: str) -> Figure:
    """Draw the curves along depth with their simultaneous bands.

    Args:
        rows: Rows of ``latent_layers_<model>.csv``.
        model: For the title.
    """
    layers = rows.drop_duplicates("layer").sort_values("depth")
    figure, axis = new_figure(width=max(6.4, 2.4 + 0.42 * len(layers)), height=4.8)
    curves = rows.groupby(["measure", "target"], sort=False)
    for colour, ((measure, target), curve) in zip(PALETTE, curves, strict=False):
        label = "ridge on the codes" if measure == RIDGE else "distinctiveness"
        label += " with memorability" if target == MEMORABILITY else f" with reconstruction error ({target})"
        axis.plot(
            curve["depth"],
            curve["rho"],
            "o-",
            color=colour,
            markersize=4,
            label=f"{label}, n = {curve['n'].iloc[0]:,} {'test images' if measure == RIDGE else 'images'}",
        )
        axis.fill_between(
            curve["depth"], curve["band_low"], curve["band_high"], color=colour, alpha=0.2, linewidth=0
        )
    axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axis.set_xticks(layers["depth"], [shorten(name, 22) for name in layers["layer"]], rotation=45, ha="right")
    axis.set_ylabel("Spearman's ρ")
    axis.set_xlabel("layer, shallow to deep")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    figure.suptitle(f"{shorten(model, 60)}: along depth, bands simultaneous at 95 %", fontsize=11)
    return figure
