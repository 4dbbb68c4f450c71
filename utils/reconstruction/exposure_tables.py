"""What fine-tuning writes as tables: the loss of each image's first exposure, and a row per epoch."""

import numpy as np
import pandas as pd

from utils.reconstruction.finetuning import Progress


def exposure_table(progress: Progress, images: pd.DataFrame) -> pd.DataFrame:
    """Return ``order, image_id, loss`` of each image's first exposure, in order of exposure."""
    names = images["image_id"].to_numpy()[progress.indices[0]]
    return pd.DataFrame({"order": range(len(names)), "image_id": names, "loss": progress.losses[0]})


def training_table(progress: Progress) -> pd.DataFrame:
    """Return a row per epoch: number of images, mean loss, and the means of its two halves."""
    rows = []
    for epoch, losses in enumerate(progress.losses, start=1):
        values = np.asarray(losses)
        half = len(values) // 2
        rows.append(
            {
                "epoch": epoch,
                "images": len(values),
                "loss_mean": values.mean(),
                "loss_first_half": values[:half].mean() if half else None,
                "loss_second_half": values[half:].mean(),
            }
        )
    return pd.DataFrame(rows)
