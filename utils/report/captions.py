"""What each figure shows and how to read it; the stages' files say only their names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple


class Caption(NamedTuple):
    """A caption.

    Attributes:
        title: What the figure is, in a few words.
        seen: What is drawn.
        reading: How to read it.
        table: Name of the table whose rows are the images drawn; empty where the figure itself says how many.
    """

    title: str
    seen: str
    reading: str
    table: str = ""


# By the figure's file name; the first that fits. {model} stands for the model's name.
CAPTIONS: tuple[tuple[str, Caption], ...] = (
    (
        r"training_(?P<model>.+)",
        Caption(
            "Training loss",
            "The loss of each image at its exposure, in the order shown, and a running mean.",
            "A falling line: the network learns these images; a flat one: it knew them, or learns too slowly.",
            "exposures",
        ),
    ),
    (
        r"pretraining_pictures_(?P<model>.+)",
        Caption(
            "Held-out pictures over pretraining",
            "The same held-out pictures as reconstructed after more and more epochs.",
            "They should come to resemble the first row, and not stop early.",
        ),
    ),
    (
        r"pretraining_(?P<model>.+)",
        Caption(
            "Pretraining",
            "Loss and held-out PSNR over the epochs, beside PCA's.",
            "Higher PSNR is better; above PCA's line the network beats a linear code.",
        ),
    ),
    (
        r"reconstructions_(?P<model>.+)",
        Caption(
            "Best, median and worst reconstructions",
            "Originals beside what the network made of them.",
            "Compare the two halves of each pair: what is lost in the lowest row is what makes the loss large.",
        ),
    ),
    (
        r"loss_forest",
        Caption(
            "Reconstruction error and memorability",
            "Spearman's ρ of each loss with memorability, with its 95 % interval.",
            "Right of zero: reconstructed worse, remembered better. An interval that crosses zero shows no direction.",
            "test_loss",
        ),
    ),
    (
        r"loss_scatter_rivals",
        Caption(
            "Picture detail and memorability",
            "Each image by a measure of its detail that needs no network.",
            "If these clouds lean as those of the losses do, the network may add little.",
            "rivals",
        ),
    ),
    (
        r"loss_scatter_(?P<model>.+)",
        Caption(
            "Each image: loss and memorability",
            "One point per image and panel, coloured by category.",
            "A cloud that rises to the right: reconstructed worse, remembered better. Look whether each colour rises, too.",
            "test_loss",
        ),
    ),
    (
        r"reliability",
        Caption(
            "How reliable the scores are",
            "Scores from one random half of the responses against those from the other.",
            "The tighter the cloud, the more a measure can explain; its correlation gives the noise ceiling.",
        ),
    ),
    (
        r"latent_space_(?P<model>.+)",
        Caption(
            "Map of the latent space",
            "Each image at the first two principal components of its code.",
            "Near means alike to the network. Two of very many dimensions: distances are only hinted at.",
            "distinctiveness",
        ),
    ),
    (
        r"distinctive_images_(?P<model>.+)",
        Caption(
            "Most and least distinctive images",
            "Images above the image with the nearest code.",
            "The most distinctive ones resemble not even their nearest neighbour; the least are near-duplicates.",
        ),
    ),
    (
        r"distinctiveness_measures_(?P<model>.+)",
        Caption(
            "Distinctiveness by many measures",
            "ρ with memorability for each measure of distinctiveness.",
            "Where measures differ in sign, distinctiveness is no one thing.",
            "distinctiveness_measures",
        ),
    ),
    (
        r"distinctiveness_(?P<model>.+)",
        Caption(
            "Distinctiveness, memorability and error",
            "Each image by how far its code lies from the nearest other.",
            "A rising cloud: distinctive images are remembered, or reconstructed, as the axis says.",
            "distinctiveness",
        ),
    ),
    (
        r"latent_layers_(?P<model>.+)",
        Caption(
            "Along the layers",
            "ρ with memorability, layer by layer, with the band that holds for the whole curve.",
            "Where the band leaves zero, that layer tells something.",
        ),
    ),
    (
        r"category_memorability",
        Caption(
            "Memorability by category",
            "The distribution of scores in each category.",
            "Differences between rows are between kinds of pictures, not single ones.",
            "splits",
        ),
    ),
    (
        r"category_losses_(?P<model>.+)",
        Caption(
            "Reconstruction error by category",
            "The distribution of each loss in each category.",
            "A category that is high here and in memorability makes an overall ρ without any effect within.",
            "test_loss",
        ),
    ),
    (
        r"category_distinctiveness_(?P<model>.+)",
        Caption(
            "Distinctiveness by category",
            "The distribution of distinctiveness in each category.",
            "High: images of this category lie apart from all others.",
            "distinctiveness",
        ),
    ),
    (
        r"category_rho_(?P<model>.+)",
        Caption(
            "ρ within each category",
            "Spearman's ρ of each measure with memorability, category by category.",
            "Red or blue throughout a row: the relation holds in each kind of picture. Empty: too few images.",
            "test_loss",
        ),
    ),
    (
        r"category_scatter_(?P<model>.+)",
        Caption(
            "Loss and memorability, category by category",
            "One panel per category, one point per image.",
            "Look whether each panel leans the same way.",
            "test_loss",
        ),
    ),
    (
        r"category_subcategories",
        Caption(
            "Subcategories from most to least memorable",
            "Mean score of each subcategory with its interval.",
            "Overlapping intervals: their order is not settled.",
            "splits",
        ),
    ),
    (
        r"category_splits",
        Caption(
            "Images per category and split",
            "How many images of each category are in training, validation and test.",
            "The shares should be alike across categories.",
            "splits",
        ),
    ),
    (
        r"mlp_learning_(?P<model>.+)",
        Caption(
            "Learning curve",
            "Training and validation loss over the epochs; the kept epoch is marked.",
            "Where validation rises while training falls, the head memorises.",
        ),
    ),
    (
        r"mlp_predicted_(?P<model>.+)",
        Caption(
            "Predicted and observed scores",
            "Each test image by its predicted and its observed score.",
            "On the diagonal: predicted exactly. Flat clouds: predictions hedge towards the mean.",
        ),
    ),
    (
        r"mlp_roc_pr_(?P<model>.+)",
        Caption(
            "Above or below the median",
            "ROC and precision-recall curve for telling the more memorable half.",
            "The further above the diagonal (or the base rate), the better; the band is wide where images are few.",
        ),
    ),
    (
        r"mlp_calibration_(?P<model>.+)",
        Caption(
            "Calibration",
            "Groups of test images of rising predicted score: predicted against observed mean.",
            "On the diagonal: a predicted score means what it says.",
        ),
    ),
    (
        r"mlp_misses_(?P<model>.+)",
        Caption(
            "Largest misses",
            "Test images whose score was predicted much too high or much too low.",
            "What they share is what the head does not see.",
        ),
    ),
    (
        r"mlp_layers_(?P<model>.+)",
        Caption(
            "Prediction by layer",
            "Test correlation of predictions from each layer.",
            "Higher is better; compare with the ceiling.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_most_memorable",
        Caption(
            "Attribution: images predicted most memorable",
            "Image and attribution map side by side.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_least_memorable",
        Caption(
            "Attribution: images predicted least memorable",
            "Image and attribution map side by side.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_mean_map",
        Caption(
            "Mean attribution map",
            "Absolute attribution averaged over images.",
            "A bright middle: predictions rest on the centre of pictures.",
            "ig",
        ),
    ),
    (
        r"ig/(?P<model>.+)_picture_(?P<image>.+)",
        Caption(
            "Attribution of one image",
            "The image and which of its pixels the predicted score rests on.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig_baselines_(?P<model>.+)",
        Caption(
            "Do maps depend on the baseline?",
            "Agreement of the maps of one image under two baselines.",
            "Near 1: the baseline hardly matters.",
        ),
    ),
    (
        r"ig_cascade_(?P<model>.+)",
        Caption(
            "Do maps depend on the weights?",
            "Agreement with the true maps as layers are shuffled one after another.",
            "It should fall: a map that survives random weights says nothing about the network.",
        ),
    ),
    (
        r"ig_checks_(?P<model>.+)",
        Caption(
            "Deletion and insertion",
            "The predicted score as the pixels with most attribution are removed, or brought in.",
            "The curve should leave that of random pixels.",
        ),
    ),
    (
        r"ig_(?P<model>.+)",
        Caption("Attribution", "A summary of the attribution maps.", "See the title.", "ig"),
    ),
    (
        r"feature_correlations(?:_.*)?",
        Caption(
            "Image features",
            "ρ of each feature with memorability and with the attribution measures.",
            "Far from zero and small q: the feature goes with the target. Many were looked at: exploratory.",
            "image_features",
        ),
    ),
    (
        r"feature_clusters(?:_.*)?",
        Caption(
            "Which features go together",
            "Correlations of the features, ordered so that similar ones stand together.",
            "Blocks are features that say much the same.",
            "image_features",
        ),
    ),
    (
        r"feature_model(?:_.*)?",
        Caption(
            "All features together",
            "How well features, error and distinctiveness predict memorability, each and together.",
            "What a combination gains over its parts is what the parts do not share.",
            "image_features",
        ),
    ),
    (
        r"feature_commonality(?:_.*)?",
        Caption(
            "Unique and shared",
            "Share of the variance of ranked memorability that each kind of measure explains alone, or with others.",
            "Unique shares are what only that kind of measure knows.",
            "image_features",
        ),
    ),
    (
        r"steering_strips_(?P<model>.+)",
        Caption(
            "Steered pictures",
            "Pictures whose code was moved so that the predicted score changes.",
            "Left to right: from lowered to raised prediction. Nobody's memory was tested.",
        ),
    ),
    (
        r"steering_gains_(?P<model>.+)",
        Caption(
            "What steering gains",
            "Change in predicted score against change in the picture, with controls.",
            "Above its controls: more than any change of that size would do.",
        ),
    ),
    (
        r"steering_features_(?P<model>.+)",
        Caption(
            "What steering changes",
            "Image features before and after steering.",
            "Away from zero: the feature moved with the score.",
        ),
    ),
    (
        r"contact_sheet(?:_\d+)?",
        Caption(
            "Contact sheet",
            "Scored pictures in a grid, the most memorable first.",
            "Predicted scores, not people's.",
        ),
    ),
    (
        r"explanations/(?P<image>.+)",
        Caption(
            "Attribution of one picture",
            "Which pixels its predicted score rests on.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
)


def caption_of(name: str, counts: dict[tuple[str, str], int]) -> tuple[str, str]:
    """Return the title and the caption of a figure.

    Args:
        name: Its path in the output folder, with forward slashes.
        counts: Images by (table, model); model empty for tables that exist once.

    Returns:
        What it is; and what is seen, how to read it, and how many images are in it where a table says so. A figure that
        is not known is called by its name.
    """
    stem = PurePosixPath(name).with_suffix("").as_posix()
    for pattern, caption in CAPTIONS:
        match = re.fullmatch(pattern, stem)
        if match:
            model = match.groupdict().get("model") or ""
            title = f"{caption.title} ({model})" if model else caption.title
            found = [n for (table, of), n in counts.items() if table == caption.table and of in (model, "")]
            found = found or [n for (table, _), n in counts.items() if table == caption.table and not model]
            images = max(found, default=0)
            n = f" n = {images:,} images." if images else ""
            return title, f"{caption.seen} {caption.reading}{n}"
    return PurePosixPath(stem).name.replace("_", " "), ""
