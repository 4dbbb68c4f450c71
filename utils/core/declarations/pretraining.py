"""Stage 0: an autoencoder from nothing."""

from utils.core.declarations.columns import Table, boolean, integer, real

TABLES: dict[str, Table] = {
    "pretraining": Table(
        "pretraining_{model}.csv",
        "python autoencoder_pretrain.py",
        "One row per epoch of pretraining.",
        (
            integer("epoch", "epoch, from 1"),
            integer(
                "depth",
                "blocks of encoder and decoder trained in it, counted from the outside; 5: the whole network",
            ),
            integer("pictures", "crops shown in the epoch"),
            integer("steps", "steps taken up to its end"),
            real("learning_rate", "learning rate of its last step"),
            real("loss", "mean training loss over the epoch's crops, before the step each causes"),
            real(
                "psnr",
                "mean peak signal-to-noise ratio of the held-out pictures after it; larger is better",
                "dB",
            ),
            real("ssim", "mean SSIM of the held-out pictures after it; larger is better"),
            boolean("best", "whether these weights were kept: the best PSNR of the whole network"),
            real(
                "pca_psnr",
                "of principal components of 32 px blocks with a code of the same size, on the same pictures",
                "dB",
            ),
            real("pca_ssim", "SSIM of the same principal components on the same pictures"),
        ),
        key=("epoch",),
    ),
}
