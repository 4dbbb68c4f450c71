"""The numbers of the conclusion, each from the table that a stage wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.tables import output_file, read_table
from utils.report.conclusion import Estimate, Findings
from utils.report.gallery_data import ImageScores
from utils.report.study_findings import EXPLORATORY, MEMORABILITY, Study, primary_row


def read_findings(output_path: Path, scores: ImageScores, caveats: Caveats, study: Study) -> Findings:
    """Read what the conclusion rests on; what is missing stays undefined.

    Args:
        output_path: The output folder.
        scores: The images of the study.
        caveats: What the runs say of themselves.
        study: Every test of the study.
    """
    categories = len({name for name in scores.texts.get("category", []) if name})
    given: dict[str, Any] = {
        "images": len(scores.ids),
        "scored": scores.scored,
        "categories": categories,
        "caveats": caveats,
    }
    tests = study.table[(study.table["role"] == EXPLORATORY) & (study.table["about"] == MEMORABILITY)]
    given |= {"tests": len(tests), "held": int(tests["finding"].sum())}
    given["families"] = len(tests[["table", "family"]].drop_duplicates())
    return Findings(**given, **_error(output_path, study), **_prediction(output_path, study))


def _rows(output_path: Path, table: str) -> pd.DataFrame | None:
    try:
        return read_table(output_file(output_path, table), table)
    except UserError:  # said where the table is shown
        return None


def _error(output_path: Path, study: Study) -> dict[str, Any]:
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
        "within": _estimate(
            row,
            "rho_within_category",
            "within_category",
            study.q_of("loss_correlations.csv", row.name, "_within_category"),
        ),
        "ceiling": row["ceiling"],
        "share": _estimate(row, "rho_over_ceiling", "rho_over_ceiling"),
    }


def _estimate(row: pd.Series, name: str, suffix: str, q: float = math.nan) -> Estimate:
    return Estimate(row[name], row[f"ci_low_{suffix}"], row[f"ci_high_{suffix}"], q)


def _prediction(output_path: Path, study: Study) -> dict[str, Any]:
    frame = _rows(output_path, "mlp_metrics")
    if frame is None:
        return {}
    frame = frame[frame["metric"] == "spearman"]
    head = frame[frame["predictor"] == "mlp"]
    if head.empty:
        return {}
    model = head["model"].iloc[0]
    others = frame[frame["model"] == model].reset_index(names="row").set_index("predictor")

    def estimate(name: str) -> Estimate:
        if name not in others.index:
            return Estimate()
        row = others.loc[name]
        q = study.q_of("mlp_metrics.csv", row["row"])
        return Estimate(row["value"], row["ci_low"], row["ci_high"], q)

    return {
        "prediction": estimate("mlp"),
        "test_images": int(head["n"].iloc[0]),
        "test_ceiling": others["value"].get("noise-ceiling", math.nan),
        "over_ridge": estimate("mlp - ridge"),
    }
