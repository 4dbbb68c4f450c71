"""Which images a network reconstructs best and worst, and a picture of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.core.figures import memorability_note

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

EXAMPLES_PER_ROW = 4


def pick_examples(table: pd.DataFrame, loss: str, count: int = EXAMPLES_PER_ROW) -> dict[str, pd.DataFrame]:
    """Pick the images with the lowest, middle and highest loss; none of them twice.

    Args:
        table: With ``image_id`` and a column `loss`.
        loss: The loss; larger is reconstructed worse.
        count: Images per group; fewer where there are not enough.

    Returns:
        ``best`` (lowest first), ``median`` (in order of loss) and ``worst`` (highest first); from fewer than
        three images, only the groups that can be filled.
    """
    ordered = table.sort_values([loss, "image_id"], kind="stable")
    total = len(ordered)
    count = max(1, min(count, total // 3))
    groups = {"best": ordered.iloc[:count]}
    if total >= 3:
        start = (total - count) // 2
        groups["median"] = ordered.iloc[start : start + count]
    if total >= 2:
        groups["worst"] = ordered.iloc[::-1].iloc[:count]
    return groups


def draw_examples(
    groups: dict[str, pd.DataFrame], pixels: dict[str, tuple[np.ndarray, np.ndarray]], loss: str, title: str
) -> Figure:
    """Draw original beside reconstruction for each picked image, with its loss and its memorability.

    Args:
        groups: From `pick_examples`; with ``image_id``, ``memorability`` and the loss.
        pixels: image_id -> original and reconstruction, each (3, S, S) in [0, 1].
        loss: Name of the loss.
        title: The model's name.

    Returns:
        A figure with one row per group.
    """
    import numpy as np

    from utils.core.figures import new_figure, shorten

    columns = max(len(group) for group in groups.values())
    figure, axes = new_figure(
        len(groups), columns, width=max(3.1 * columns, 4.5), height=2.05 * len(groups) + 0.6, squeeze=False
    )
    for row, (name, group) in zip(axes, groups.items(), strict=True):
        for axis in row:
            axis.axis("off")
        for axis, (_, image) in zip(row, group.iterrows(), strict=False):
            original, reconstruction = pixels[image["image_id"]]
            gap = np.ones((3, original.shape[1], max(original.shape[2] // 40, 1)), dtype=original.dtype)
            pair = np.concatenate([original, gap, reconstruction], axis=2).transpose(1, 2, 0)
            axis.imshow(pair.clip(0, 1))
            axis.set_title(
                f"{loss} {image[loss]:.3g}{memorability_note(image['memorability'], ' · ')}", fontsize=8.5
            )
            label = shorten(image["image_id"].split("/", 1)[-1], 40)
            axis.text(0.5, -0.03, label, transform=axis.transAxes, ha="center", va="top", fontsize=7)
        row[0].text(
            -0.03, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=11
        )
    figure.suptitle(f"{shorten(title, 60)}: original beside reconstruction", fontsize=10)
    return figure
