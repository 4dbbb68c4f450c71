"""Every table that one stage hands to the next: its file, its columns, their units.

A table is declared in the module of :mod:`utils.core.declarations` that bears the name of its part of the study.
``docs/outputs.md`` is made from the declarations (``python -m utils.core.contract > docs/outputs.md``).
"""

from utils.core.declarations import (
    attribution,
    categories,
    data,
    features,
    latents,
    loss_evaluation,
    prediction,
    pretraining,
    reconstruction,
    steering,
    study,
)
from utils.core.declarations.columns import Table
from utils.core.declarations.other_files import OTHER_FILES

TABLES: dict[str, Table] = {
    **data.TABLES,
    **pretraining.TABLES,
    **reconstruction.TABLES,
    **latents.TABLES,
    **loss_evaluation.TABLES,
    **categories.TABLES,
    **prediction.TABLES,
    **attribution.TABLES,
    **features.TABLES,
    **steering.TABLES,
    **study.TABLES,
}


def describe_tables() -> str:
    """Return ``docs/outputs.md``: every file, and every table with its columns and their units, as Markdown."""
    lines = [
        "# Output files",
        "",
        "Made from `utils/core/contract.py` by `python -m utils.core.contract > docs/outputs.md`; do not edit by hand.",
        "",
        "UTF-8 CSV with a header, sorted by `image_id` where there is one, floats to 9 significant digits, undefined",
        "values as empty cells. `<model>` is the checkpoint's file stem. A last column `caveat` is there only when the",
        "numbers come from the embedded sample or from random weights, and says so on every row of which it is true.",
        "Where a text begins as a spreadsheet's formula (`=`, `+`, `-`, `@`, a tab or a return, and no number), one",
        "apostrophe stands before it, which the readers here take away.",
    ]
    lines += ["", "## Tables", ""]
    lines += [f"- `{table.file.format(model='<model>')}`: {table.about}" for table in TABLES.values()]
    lines += ["", "## Other files", "", "| file | written by | what it holds |", "|---|---|---|"]
    lines += [
        f"| {', '.join(f'`{name}`' for name in other.names)} | `{other.command}` | {other.about} |"
        for other in OTHER_FILES
    ]
    lines += ["", "# Tables, column by column"]
    for table in TABLES.values():
        lines += [
            "",
            f"## `{table.file.format(model='<model>')}`",
            "",
            table.about,
            "",
            f"Written by `{table.command}`.",
        ]
        if table.key:
            lines += ["", f"One row per {', '.join(f'`{name}`' for name in table.key)}."]
        lines += ["", "| column | kind | unit | meaning |", "|---|---|---|---|"]
        for column in table.columns:
            notes = [column.meaning]
            if column.nullable:
                notes.append("may be empty")
            if column.name in table.optional:
                notes.append("column may be absent")
            lines.append(f"| `{column.name}` | {column.kind} | {column.unit} | {'; '.join(notes)} |")
        if table.open_ended:
            lines += ["", "Further columns may follow."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(describe_tables(), end="")
