"""Stage 4: latent codes, distinctiveness and the map of the space."""

from utils.core.declarations.columns import (
    CATEGORY,
    IMAGE_ID,
    MEMORABILITY,
    MODEL,
    Column,
    Table,
    estimate,
    integer,
    interval,
    real,
    resampling,
    text,
)
from utils.core.declarations.correlations import correlation_columns
from utils.core.measure_names import MEASURES, WITHIN


def _measure_columns() -> tuple[Column, ...]:
    """Declare each measure of distinctiveness, across the set and within the image's category."""
    return (
        *(estimate(name, f"{meaning}; larger: more distinctive") for name, meaning in MEASURES.items()),
        *(estimate(name + WITHIN, f"{name} among the images of the category alone") for name in MEASURES),
    )


TABLES: dict[str, Table] = {
    "latents": Table(
        "latents_{model}.csv",
        "python latent_analysis.py --calculate-latents",
        "Names the rows of latents_<model>.npy, in order. For another layer or pooling, <model> is followed by "
        "@<layer>-<pool>; <model> is the checkpoint's stem, an encoder's name, or the name of a file of codes.",
        (
            IMAGE_ID,
            text(
                "layer",
                "where the codes come from: conv1 to conv5 of the autoencoder, a layer of another encoder, or file",
            ),
            text("pool", "pooling over positions: none, avg, max or cls (a transformer's class token)"),
            integer("image_size", "side of the square image the encoder saw; 0 for a file of codes", "px"),
            text(
                "encoder_sha256",
                "first 16 hexadecimal digits of the SHA-256 of the checkpoint, of the encoder's weights, or of the file of "
                "codes with its index",
            ),
            integer("crc32", "CRC-32 of the row's bytes in the matrix"),
        ),
    ),
    "distinctiveness": Table(
        "distinctiveness_{model}.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "How far each image's latent code lies from the others. For another layer, pooling, metric or search, <model> is "
        "followed by @ and what differs.",
        (
            IMAGE_ID,
            CATEGORY,
            MEMORABILITY,
            text(
                "nearest_image_id",
                "image with the nearest other code (ties: the first by image_id); empty where the category has no other "
                "image and the search was within it",
                nullable=True,
            ),
            estimate("nearest_distance", "distance to that code; larger: farther", "of the metric"),
            estimate(
                "distinctiveness",
                "mean distance to the K nearest other codes (K = 1 by default), z-scored over all images; larger: more "
                "distinctive",
                "standard deviations",
            ),
            estimate("mean_neighbour_distance", "the same before z-scoring", "of the metric"),
            estimate(
                "category_centroid_distance",
                "distance to the mean code of the image's category, the image included",
                "of the metric",
            ),
            real("global_centroid_distance", "distance to the mean code of all images", "of the metric"),
            integer("duplicates", "how many other images searched have exactly the same code"),
        ),
    ),
    "distinctiveness_measures": Table(
        "distinctiveness_measures_{model}.csv",
        "python latent_analysis.py --distinctiveness-analysis --measure all",
        "Distinctiveness by many measures, across the set and within each category; empty where a category is too small. "
        "Only the measures asked for have columns.",
        (IMAGE_ID, CATEGORY, MEMORABILITY, *_measure_columns()),
        optional=(*MEASURES, *(name + WITHIN for name in MEASURES)),
    ),
    "latent_layers": Table(
        "latent_layers_{model}.csv",
        "python latent_analysis.py --layer all",
        "How distinctiveness, and a ridge on the codes, correlate with memorability along the layers of a network: the "
        "numbers of latent_layers_<model>.png. With test_loss_<model>.csv, also distinctiveness with reconstruction error.",
        (
            text("layer", "layer of the encoder"),
            integer("depth", "its place among the layers analysed, from 1 at the pixels"),
            text("measure", "distinctiveness (all images), or ridge (predicted scores of the test images)"),
            text("target", "memorability, or a loss"),
            integer("n", "images"),
            estimate("rho", "Spearman's rho"),
            *interval("its 95 % bootstrap interval, layer by layer"),
            estimate("band_low", "lower end of the 95 % band that holds for all layers of the curve at once"),
            estimate("band_high", "upper end of it"),
            integer("values", "values per code"),
            text("cluster", "what was resampled as a whole: subcategory, group or image"),
            integer("clusters", "how many of them"),
            *resampling(),
        ),
        key=("layer", "measure", "target"),
    ),
    "latent_space": Table(
        "latent_space_{model}.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "Coordinates of each image in the map of the latent space (latent_space_<model>.png).",
        (
            IMAGE_ID,
            CATEGORY,
            MEMORABILITY,
            real("pc1", "first principal component of the codes; its largest loading is positive"),
            real("pc2", "second principal component"),
            real("umap1", "first UMAP coordinate, of 50 components; only with umap-learn installed"),
            real("umap2", "second UMAP coordinate"),
        ),
        optional=("umap1", "umap2"),
    ),
    "distinctiveness_correlations": Table(
        "distinctiveness_correlations.csv",
        "python latent_analysis.py --distinctiveness-analysis",
        "Spearman correlations of distinctiveness with memorability and with reconstruction error, also with the other "
        "held constant. model is what follows distinctiveness_ in the table's name.",
        (
            MODEL,
            text("measure", "column that is correlated"),
            text("target", "column it is correlated with"),
            text(
                "held_constant",
                "column whose ranks are partialled out of both; empty for none",
                nullable=True,
            ),
            *correlation_columns(
                "measure",
                rho="Spearman's rho, partial where something is held constant",
                family="Benjamini-Hochberg q over one claim: measures with memorability, losses with distinctiveness, and "
                "either with the other held constant",
            ),
            text(
                "setting",
                "what a measure of --measure depends on: K, scale c, bandwidth h, shrinkage",
                nullable=True,
            ),
        ),
        key=("model", "measure", "target", "held_constant"),
        optional=("setting",),
        open_ended=True,
    ),
}
