"""The numbers of the conclusion, each from the table that a stage wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.names import HEADLINE_LOSS, RIVAL_MODEL
from utils.core.tables import output_file, read_table
from utils.report.conclusion import Estimate, Findings
from utils.report.gallery_data import ImageScores


def read_findings(output_path: Path, scores: ImageScores, caveats: Caveats) -> Findings:
    """Read what the conclusion rests on; what is missing stays undefined.

    Args:
        output_path: The output folder.
        scores: The images of the study.
        caveats: What the runs say of themselves.
    """
    categories = len({name for name in scores.texts.get("category", []) if name})
    given: dict[str, Any] = {
        "images": len(scores.ids),
        "scored": scores.scored,
        "categories": categories,
        "caveats": caveats,
    }
    return Findings(**given, **_error(output_path), **_prediction(output_path))


def _rows(output_path: Path, table: str) -> pd.DataFrame | None:
    try:
        return read_table(output_file(output_path, table), table)
    except UserError:  # said where the table is shown
        return None


def primary_row(frame: pd.DataFrame) -> pd.Series | None:
    """Return the row of the primary hypothesis: of the first model, by the loss it names or the first there is."""
    of_networks = frame[frame["model"] != RIVAL_MODEL]
    chosen = of_networks[of_networks["measure"] == HEADLINE_LOSS]
    rows = chosen if len(chosen) else of_networks
    return rows.iloc[0] if len(rows) else None


def _error(output_path: Path) -> dict[str, Any]:
    frame = _rows(output_path, "loss_correlations")
    row = None if frame is None else primary_row(frame)
    if row is None:
        return {}
    return {
        "loss": row["measure"],
        "n": int(row["n"]),
        "error": Estimate(row["rho"], row["ci_low"], row["ci_high"]),
        "unit": row["cluster"],
        "clusters": int(row["clusters"]),
        "p": row["p"],
        "p_equivalence": row["p_equivalence"],
        "within": _estimate(row, "rho_within_category", "within_category"),
        "ceiling": row["ceiling"],
        "share": _estimate(row, "rho_over_ceiling", "rho_over_ceiling"),
    }


def _estimate(row: pd.Series, name: str, suffix: str) -> Estimate:
    return Estimate(row[name], row[f"ci_low_{suffix}"], row[f"ci_high_{suffix}"])


def _prediction(output_path: Path) -> dict[str, Any]:
    frame = _rows(output_path, "mlp_metrics")
    if frame is None:
        return {}
    frame = frame[frame["metric"] == "spearman"]
    head = frame[frame["predictor"] == "mlp"]
    if head.empty:
        return {}
    others = frame[frame["model"] == head["model"].iloc[0]].set_index("predictor")

    def estimate(name: str) -> Estimate:
        if name not in others.index:
            return Estimate()
        row = others.loc[name]
        return Estimate(row["value"], row["ci_low"], row["ci_high"])

    return {
        "prediction": estimate("mlp"),
        "test_images": int(head["n"].iloc[0]),
        "test_ceiling": others["value"].get("noise-ceiling", math.nan),
        "over_ridge": estimate("mlp - ridge"),
    }
