"""The headline of the report: a tile per number, each from one table, or what is missing instead."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from utils.core.errors import UserError
from utils.core.tables import output_file, read_table
from utils.report.blocks import Block, show, show_p, show_range
from utils.report.study_findings import ALPHA, Study, primary_row

PRIMARY, EXPLORATORY = "primary hypothesis", "exploratory"


def headline_tiles(output_path: Path, study: Study) -> list[Block]:
    """The headline numbers, each from one table, or what is missing instead.

    Args:
        output_path: The output folder.
        study: Every test of the study, by which exploratory numbers are judged.
    """
    makers: dict[str, tuple[str, Callable[[Path], Block]]] = {
        "Reconstruction error and memorability": (PRIMARY, _reconstruction_tile),
        "Noise ceiling, all images": ("", _ceiling_tile),
        "Distinctiveness and memorability": (EXPLORATORY, partial(_distinctiveness_tile, study=study)),
        "Predicted and observed memorability": (EXPLORATORY, partial(_prediction_tile, study=study)),
        "Noise ceiling, test images": ("", _test_ceiling_tile),
        "Strongest image feature": (EXPLORATORY, partial(_feature_tile, study=study)),
    }
    tiles = []
    for what, (role, make) in makers.items():
        tile: Block = {
            "what": what,
            "role": role,
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
    row = primary_row(frame)
    if row is None:
        raise UserError(f"{path} has no row for this number.")
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}{_within(row)}"
    return _rho_tile(row, note, path.name)


def _within(row: pd.Series) -> str:
    """The rho within categories, where there are some."""
    value = row["rho_within_category"]
    return f"; within category {show(value)}" if math.isfinite(value) else ""


def _distinctiveness_tile(output_path: Path, study: Study) -> Block:
    path = output_file(output_path, "distinctiveness_correlations")
    frame = read_table(path, "distinctiveness_correlations")
    plain = (frame["target"] == "memorability") & (frame["held_constant"] == "")
    chosen = frame[plain & (frame["measure"] == "distinctiveness")]
    row = _first(chosen if len(chosen) else frame, path)
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}{_within(row)}{_judged(study, path, row)}"
    return _rho_tile(row, note, path.name)


def _judged(study: Study, path: Path, row: pd.Series) -> str:
    """Say what an exploratory number comes to once all tests of the study are counted."""
    q = study.q_of(path.name, row.name)
    if not math.isfinite(q):
        return ""
    return f"; {'a finding' if q < ALPHA else 'no finding'} over the whole study, q {show_p(q)}"


def _ceiling_tile(output_path: Path) -> Block:
    path = output_file(output_path, "loss_correlations")
    ceilings = read_table(path, "loss_correlations")["ceiling"].dropna()
    if ceilings.empty:
        return {
            "missing": f"{path.name} has none: the score table has no hits, false alarms and responses per image."
        }
    return {
        "value": f"ρ = {show(ceilings.iloc[0])}",
        "note": "the highest correlation any measure can be expected to reach with the scores of all images: the root of "
        "their own reliability",
        "files": [path.name],
    }


def _test_ceiling_tile(output_path: Path) -> Block:
    path = output_file(output_path, "mlp_metrics")
    frame = read_table(path, "mlp_metrics")
    frame = frame[(frame["metric"] == "spearman") & (frame["predictor"] == "noise-ceiling")]
    row = _first(frame, path)
    if not math.isfinite(row["value"]):
        return {
            "missing": f"{path.name} has none: the score table has no hits, false alarms and responses per image."
        }
    return {
        "value": f"ρ = {show(row['value'])}",
        "note": f"what a prediction can be expected to reach on the {row['n']} test images; another number than that of all "
        "images, since it rests on these few",
        "files": [path.name],
    }


def _prediction_tile(output_path: Path, study: Study) -> Block:
    path = output_file(output_path, "mlp_metrics")
    frame = read_table(path, "mlp_metrics")
    frame = frame[frame["metric"] == "spearman"]
    row = _first(frame[frame["predictor"] == "mlp"], path)
    others = frame[
        (frame["model"] == row["model"]) & frame["predictor"].isin(["ridge", "reconstruction-error"])
    ]
    beside = ", ".join(f"{other['predictor']} {show(other['value'])}" for _, other in others.iterrows())
    return _rho_tile(
        row,
        f"MLP on {row['model']}, {row['n']} test images"
        + (f"; beside it: {beside}" if beside else "")
        + _judged(study, path, row),
        path.name,
        "value",
    )


def _feature_tile(output_path: Path, study: Study) -> Block:
    path = output_file(output_path, "feature_correlations")
    frame = read_table(path, "feature_correlations")
    frame = frame[frame["target"] == "memorability"]
    frame = frame[frame["region"].isin(frame["region"].head(1))].dropna(subset=["rho"])
    row = _first(frame.iloc[frame["rho"].abs().argsort()[::-1]], path)
    return _rho_tile(
        row,
        f"{row['feature']}, n = {row['n']:,.0f}, the largest of {len(frame)}{_judged(study, path, row)}",
        path.name,
    )
