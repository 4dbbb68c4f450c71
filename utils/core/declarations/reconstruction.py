"""Stages 1 and 2: fine-tuning and the losses of every image."""

from utils.core.declarations.columns import IMAGE_ID, SCORED_IMAGE, Column, Table, estimate, integer, real
from utils.core.names import LOSSES, STORED_LOSSES


def _loss_columns() -> tuple[Column, ...]:
    losses = (real(name, f"reconstruction error by {name}; larger: reconstructed worse") for name in LOSSES)
    stored = (
        real(
            name,
            f"{name.replace('-', ' - ', 1)}, what the authors' test script stores under the name of a loss "
            "(--recipe released); larger: reconstructed **better**",
        )
        for name in STORED_LOSSES
    )
    return (*losses, *stored)


TABLES: dict[str, Table] = {
    "exposures": Table(
        "exposures_{model}.csv",
        "python autoencoder_finetune.py",
        "The loss of each image at its single exposure during fine-tuning, before the step it causes.",
        (
            integer("order", "position in the sequence of exposures, from 0"),
            IMAGE_ID,
            real("loss", "training loss of the image at that moment; larger: reconstructed worse"),
        ),
    ),
    "training": Table(
        "training_{model}.csv",
        "python autoencoder_finetune.py",
        "One row per epoch of fine-tuning.",
        (
            integer("epoch", "epoch, from 1"),
            integer("images", "images seen in the epoch"),
            real("loss_mean", "mean training loss over the epoch's images"),
            estimate("loss_first_half", "mean loss over the first half of the epoch"),
            estimate("loss_second_half", "mean loss over the second half of the epoch"),
        ),
        key=("epoch",),
        open_ended=True,
    ),
    "test_loss": Table(
        "test_loss_{model}.csv",
        "python autoencoder_test.py",
        "Reconstruction error of each image, by each loss.",
        (*SCORED_IMAGE, *_loss_columns()),
        optional=(*LOSSES, *STORED_LOSSES),
    ),
    "rivals": Table(
        "rivals.csv",
        "python autoencoder_test.py",
        "What each picture's detail says without a network, from the pixels that the networks see; larger: harder to "
        "reconstruct. pca_error is an honest test on pictures outside the training split alone, to which it was fitted.",
        (
            IMAGE_ID,
            real("jpeg_bytes", "size as a JPEG of quality 75", "bytes"),
            real("pixel_variance", "mean squared distance of the pixels to the picture's own mean colour"),
            real("edge_energy", "mean squared Sobel gradient of the luma", "per pixel step"),
            real("pca_error", "mean squared error of a linear code of 32 px blocks (principal components)"),
            integer(
                "pca_components", "numbers per block of that code: as many as the first model's code has"
            ),
            integer("image_size", "side of the square the pixels were taken at", "px"),
        ),
    ),
}
