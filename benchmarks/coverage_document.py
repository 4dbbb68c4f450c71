"""The tables of docs/method.md that say how often intervals cover and p-values reject, made from coverage.csv."""

from pathlib import Path

import pandas as pd

BEGIN, END = "  <!-- from benchmarks/results/coverage.csv -->", "  <!-- end of coverage.csv -->"
CORRELATIONS = {
    "statistic": "statistic",
    "subcategories": "subcategories",
    "images": "images",
    "simulations": "simulations",
    "coverage": "coverage",
    "coverage_bootstrap": "of clusters drawn",
    "coverage_independent": "of images drawn",
    "rejected": "p < 0.05 under the null",
    "rejected_wild": "wild bootstrap",
    "rejected_independent": "if images were independent",
}
STAGES = {
    name: CORRELATIONS[name] for name in ("statistic", "subcategories", "images", "simulations", "rejected")
}
STAGES["rejected_independent"] = CORRELATIONS["rejected_independent"]
STUDIES = {"statistic": "what is found", "simulations": "of how many", "rejected": "share"}
SMALL = {
    "images": "images",
    "simulations": "simulations",
    "statistic": "metric",
    "coverage": "coverage",
    "coverage_bootstrap": "percentiles of draws",
}


def markdown(table: pd.DataFrame, columns: dict[str, str]) -> list[str]:
    """Return a table's lines, indented to stand in a list; shares with three digits, empty where not measured."""
    lines = [f"| {' | '.join(columns.values())} |", f"|{'---|' * len(columns)}"]
    for row in table[list(columns)].to_dict("records"):
        cells = ["" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return [f"  {line}" for line in lines]


def tables(rows: pd.DataFrame) -> str:
    """Return the document's part between its marks, marks included.

    Args:
        rows: benchmarks/results/coverage.csv.
    """
    part = rows["part"]
    where = rows[["cpu", "versions", "date"]].drop_duplicates()
    said = "; ".join(f"{row.cpu}, {row.versions}, {row.date}" for row in where.itertuples())
    lines = [
        BEGIN,
        *markdown(rows[part.isin(["memcat", "few"])], CORRELATIONS),
        "",
        "  Everything else that gives a p-value, under its null:",
        "",
        *markdown(rows[part == "stages"].assign(subcategories=_none_for_0), STAGES),
        "",
        "  Whole studies of nothing, 240 images in 24 subcategories, all tables of stages 3 to 8:",
        "",
        *markdown(rows[part == "studies"], STUDIES),
        "",
        "  R2 and average precision of few independent images:",
        "",
        *markdown(rows[part == "small"], SMALL),
        "",
        f"  Measured on {said}.",
        END,
    ]
    return "\n".join(lines)


def _none_for_0(rows: pd.DataFrame) -> pd.Series:
    return rows["subcategories"].map(lambda count: str(count) if count else "none")


def replace_tables(rows: pd.DataFrame, document: Path) -> None:
    """Put the tables into the document, in place of those that stand between its marks."""
    text = document.read_text(encoding="utf-8")
    start, stop = text.index(BEGIN), text.index(END) + len(END)
    document.write_text(text[:start] + tables(rows) + text[stop:], encoding="utf-8")
