"""How much of a map is left when the weights of one layer are shuffled, beside all from the output down to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utils.attribution.checks import CONTROL_LEVEL, RANDOMISATION, SINGLE_LAYER, level_number
from utils.core.figures import NEUTRAL, PALETTE, new_figure


def draw_single_layers(checks: pd.DataFrame, title: str) -> Figure:
    """Draw agreement with the true map by layer: that layer shuffled alone, and the cascade down to it.

    Args:
        checks: Rows of ``ig_checks.csv`` of one model.
        title: Heading.

    Returns:
        The figure, a panel for signed and one for absolute maps; medians, and quartiles over the images.
    """
    figure, panels = new_figure(1, 2, width=11.0, height=4.6)
    for axes, single, cascade in zip(panels, SINGLE_LAYER, RANDOMISATION, strict=True):
        for number, (check, label) in enumerate(
            ((single, "this layer alone"), (cascade, "from the output down to it"))
        ):
            rows = checks[(checks["check"] == check) & (checks["level"] != CONTROL_LEVEL)]
            spread = rows.groupby("level")["value"].quantile([0.25, 0.5, 0.75]).unstack()
            spread = spread.sort_index(key=lambda levels: levels.map(level_number))
            places = np.arange(len(spread)) + 0.12 * (2 * number - 1)
            reach = np.abs(spread[[0.25, 0.75]].to_numpy() - spread[[0.5]].to_numpy()).T
            axes.errorbar(
                places,
                spread[0.5].to_numpy(),
                yerr=reach,
                fmt="o",
                color=PALETTE[number],
                capsize=2,
                label=label,
            )
        axes.axhline(0, color=NEUTRAL, linewidth=0.8)
        axes.set_xticks(np.arange(len(spread)), [level.split(" ", 1)[1] for level in spread.index])
        axes.set(
            ylabel="Spearman rho with the true map",
            xlabel="layer, from the output to the input",
            ylim=(None, 1.05),
        )
        axes.set_title(f"{SINGLE_LAYER[single]} maps ({rows['image_id'].nunique()} images)")
        axes.legend()
    figure.suptitle(title)
    return figure
