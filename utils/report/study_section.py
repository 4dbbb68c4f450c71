"""What the report says of all tests of the study together."""

import pandas as pd

from utils.report.blocks import Block, missing_block, show, show_p, show_range, table_block, table_row
from utils.report.study_findings import MEMORABILITY, PICTURES, PRIMARY, Study

SHOWN = 12
HOW = (
    "q counts the tests of one family. The q of the study counts families, too: these are chosen first, then the tests in "
    "them, so that of studies in which nothing has to do with memorability about 5 % at most show any finding here. The "
    "primary hypothesis is one test, named beforehand; it has its own 5 % and is judged by its own p and interval."
)
_HEADER = ["what", "claim", "finding", "q, study", "estimate", "95 % interval", "p", "q", "model", "from"]


def study_blocks(study: Study) -> list[Block]:
    """The counts in a sentence, the tests that come nearest in sight, all further findings folded."""
    table = study.table
    primary = table["role"] == PRIMARY
    people = table[~primary & (table["about"] == MEMORABILITY)].sort_values("q_study", kind="stable")
    kind = "about memorability, the primary hypothesis apart"
    blocks: list[Block] = [{"kind": "text", "text": f"{_counts(people, kind)} {HOW}"}] if len(people) else []
    pictures = table[~primary & (table["about"] == PICTURES)].sort_values("q_study", kind="stable")
    rest = people.iloc[SHOWN:]
    first = pd.concat([table[primary], people.head(SHOWN)])
    if len(first):
        blocks.append(_table("The primary hypothesis, and what comes nearest to a finding beside it", first))
    if rest["finding"].any():
        blocks.append(_table("Further findings about memorability", rest[rest["finding"]], fold=True))
    if len(pictures):
        text = _counts(pictures, "of pictures, codes, maps and predicted scores with each other")
        blocks.append({"kind": "text", "text": text})
        if pictures["finding"].any():
            blocks.append(_table("Findings of that kind", pictures[pictures["finding"]], fold=True))
    return [*blocks, *(missing_block(text) for text in study.missing)]


def _counts(rows: pd.DataFrame, kind: str) -> str:
    """How many tests in how many families, and how many of them hold."""
    families = len(rows[["table", "family"]].drop_duplicates())
    held = int(rows["finding"].sum())
    found = {0: "none is a finding", 1: "one of them is a finding"}.get(
        held, f"{held:,} of them are findings"
    )
    return f"{len(rows):,} tests {kind}, in {families} famil{'y' if families == 1 else 'ies'} (one per claim): {found}."


def _table(title: str, rows: pd.DataFrame, fold: bool = False) -> Block:
    """The rows of `study_findings.csv` that are shown."""
    cells = []
    for _, row in rows.iterrows():
        primary = row["role"] == PRIMARY
        cells.append(
            table_row(
                [
                    row["what"] if row["target"] == "memorability" else f"{row['what']} with {row['target']}",
                    row["family"],
                    f"{'yes' if row['finding'] else 'no'}{', primary' if primary else ''}",
                    "–" if primary else show_p(row["q_study"]),
                    show(row["estimate"]),
                    show_range(row["ci_low"], row["ci_high"]),
                    show_p(row["p"]),
                    show_p(row["q"]),
                    row["model"] or "–",
                    row["table"],
                ],
                texts=3,
                strong=primary,
            )
        )
        for cell in cells[-1]["cells"][-2:]:
            cell["style"] = "text"
    block = table_block(title, ["study_findings.csv"], _HEADER, cells, texts=3, fold=fold)
    block["text_columns"] += _HEADER[-2:]
    return block
