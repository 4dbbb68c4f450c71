"""The report's section on steering."""

from __future__ import annotations

import math
from pathlib import Path

from utils.core.tables import output_file, read_table
from utils.report.blocks import Block, show, show_p, show_range, table_block, table_row


def steering_blocks(output_path: Path) -> list[Block]:
    """What steering gained, by the head and by the judge, and against each control: the largest change alone."""
    path = output_file(output_path, "steering_summary")
    frame = read_table(path, "steering_summary")
    blocks = []
    for model, rows in frame.groupby("model", sort=True):
        step = rows["step"].min()
        table = [
            table_row(
                [
                    row["method"],
                    row["versus"],
                    row["predictor"],
                    f"{row['n']:,}",
                    show(row["gain"], 4),
                    show_range(row["ci_low"], row["ci_high"], 4),
                    show_p(row["q"]),
                    show(row["transfer"]),
                    show_range(row["transfer_ci_low"], row["transfer_ci_high"]),
                ],
                texts=3,
                strong=row["versus"] == "reconstruction" and math.isfinite(row["transfer"]),
            )
            for _, row in rows[rows["step"] == step].iterrows()
        ]
        header = ["method", "minus", "by", "n", "gain", "95 % interval", "q", "confirmed", "95 % interval"]
        text = (
            f"Change in predicted memorability at {step:g} dB from the reconstruction. The judge shares neither features "
            "nor training images with the head that was steered by; confirmed: its gain over the head's, each in its own "
            "standard deviations. Nothing here says that people remember these pictures better."
        )
        blocks.append(table_block(f"Steering of {model}", [path.name], header, table, text, texts=3))
    return blocks
