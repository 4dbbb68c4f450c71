"""The headline of the report: a tile per number, each from one table, or what is missing instead."""

import math
from pathlib import Path

import pandas as pd

from utils.core.errors import UserError
from utils.core.names import HEADLINE_LOSS
from utils.core.tables import models_with, output_file, read_table
from utils.report.blocks import Block, show, show_p, show_range


def headline_tiles(output_path: Path) -> list[Block]:
    """The headline numbers, each from one table, or what is missing instead."""
    makers = {
        "Reconstruction error and memorability": _reconstruction_tile,
        "Distinctiveness and memorability": _distinctiveness_tile,
        "Noise ceiling": _ceiling_tile,
        "Predicted and observed memorability": _prediction_tile,
        "Attributions": _attribution_tile,
        "Strongest image feature": _feature_tile,
    }
    tiles = []
    for what, make in makers.items():
        tile: Block = {
            "what": what,
            "missing": "",
            "number": None,
            "low": None,
            "high": None,
            "range": "",
            "note": "",
            "files": [],
        }
        try:
            tile |= make(output_path)
        except UserError as error:
            tile["missing"] = str(error)
        tiles.append(tile)
    return tiles


def _first(frame: pd.DataFrame, path: Path) -> pd.Series:
    """The first row, or a word where there is none."""
    if frame.empty:
        raise UserError(f"{path} has no row for this number.")
    return frame.iloc[0]


def _rho_tile(row: pd.Series, note: str, file: str, name: str = "rho") -> Block:
    """A tile for one correlation."""
    value, low, high = float(row[name]), float(row["ci_low"]), float(row["ci_high"])
    drawn = all(math.isfinite(number) for number in (value, low, high))
    return {
        "value": f"ρ = {show(value)}" if math.isfinite(value) else "undefined",
        "range": show_range(low, high),
        "number": value if drawn else None,
        "low": low,
        "high": high,
        "note": note,
        "files": [file],
    }


def _reconstruction_tile(output_path: Path) -> Block:
    path = output_file(output_path, "loss_correlations")
    frame = read_table(path, "loss_correlations")
    chosen = frame[frame["measure"] == HEADLINE_LOSS]
    row = _first(chosen if len(chosen) else frame, path)
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}; "
    note += f"within category {show(row['rho_within_category'])}"
    return _rho_tile(row, note, path.name)


def _distinctiveness_tile(output_path: Path) -> Block:
    path = output_file(output_path, "distinctiveness_correlations")
    frame = read_table(path, "distinctiveness_correlations")
    plain = (frame["target"] == "memorability") & (frame["held_constant"] == "")
    chosen = frame[plain & (frame["measure"] == "distinctiveness")]
    row = _first(chosen if len(chosen) else frame, path)
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}; within category {show(row['rho_within_category'])}"
    return _rho_tile(row, note, path.name)


def _ceiling_tile(output_path: Path) -> Block:
    path = output_file(output_path, "loss_correlations")
    ceilings = read_table(path, "loss_correlations")["ceiling"].dropna()
    if ceilings.empty:
        return {
            "missing": f"{path.name} has none: the score table has no hits, false alarms and responses per image."
        }
    return {
        "value": f"ρ = {show(ceilings.iloc[0])}",
        "note": "the highest correlation any measure can be expected to reach: the root of the scores' own reliability",
        "files": [path.name],
    }


def _prediction_tile(output_path: Path) -> Block:
    path = output_file(output_path, "mlp_metrics")
    frame = read_table(path, "mlp_metrics")
    frame = frame[frame["metric"] == "spearman"]
    row = _first(frame[frame["predictor"] == "mlp"], path)
    others = frame[
        (frame["model"] == row["model"])
        & frame["predictor"].isin(["ridge", "reconstruction-error", "noise-ceiling"])
    ]
    beside = ", ".join(f"{other['predictor']} {show(other['value'])}" for _, other in others.iterrows())
    return _rho_tile(
        row, f"MLP on {row['model']}, {row['n']} test images; beside it: {beside}", path.name, "value"
    )


def _attribution_tile(output_path: Path) -> Block:
    models = models_with(output_path, "ig")
    if not models:
        raise UserError(
            f"{output_path}/ig_<model>.csv is missing. It is written by: python model_interpretation_IG.py --save"
        )
    path = output_file(output_path, "ig", models[0])
    frame = read_table(path, "ig")
    return {
        "value": f"{show(100 * frame['positive_share'].median(), 0)} %",
        "range": "positive",
        "note": f"median over {len(frame)} images of {models[0]}; median size of the convergence delta "
        f"{show(frame['convergence_delta'].abs().median(), 4)}, largest {show(frame['convergence_delta'].abs().max(), 4)}",
        "files": [path.name],
    }


def _feature_tile(output_path: Path) -> Block:
    path = output_file(output_path, "feature_correlations")
    frame = read_table(path, "feature_correlations")
    frame = frame[frame["target"] == "memorability"]
    frame = frame[frame["region"].isin(frame["region"].head(1))].dropna(subset=["rho"])
    row = _first(frame.iloc[frame["rho"].abs().argsort()[::-1]], path)
    return _rho_tile(
        row,
        f"{row['feature']}, n = {row['n']:,.0f}, the largest of {len(frame)}; q {show_p(row['q'])}",
        path.name,
    )
