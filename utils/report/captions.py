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
            "Spearman's ρ of each loss with memorability and its 95 % interval: over all images, and within "
            "categories; the rivals that need no network beside them.",
            "Right of zero: reconstructed worse, remembered better. An interval that crosses zero shows no "
            "direction.",
            "test_loss",
        ),
    ),
    (
        r"loss_scatter_rivals",
        Caption(
            "Picture detail and memorability",
            "Each image by a measure of its detail that needs no network.",
            "A curve that rises to the right: more detail, remembered better. If it rises as the losses' do, the "
            "network may add little.",
            "rivals",
        ),
    ),
    (
        r"loss_scatter_(?P<model>.+)",
        Caption(
            "Each image: loss and memorability",
            "One panel per loss, one point per image, and a smooth curve where there are images enough.",
            "A curve that rises to the right: reconstructed worse, remembered better. Look whether each "
            "category's rises, too.",
            "test_loss",
        ),
    ),
    (
        r"reliability",
        Caption(
            "How reliable the scores are, and what is attained",
            "Scores from one half of the responses against those from the other; and the share of the attainable "
            "ρ that each loss reaches.",
            "The tighter the cloud, the more a measure can explain. At 100 % nothing is left that the scores "
            "could tell.",
        ),
    ),
    (
        r"latent_space_(?P<model>.+)",
        Caption(
            "Map of the latent space",
            "Each image at the first two principal components of its code (and by UMAP, where it is installed), "
            "coloured by category and by memorability.",
            "Near means alike to the network. Two of very many dimensions: distances are only hinted at.",
            "distinctiveness",
        ),
    ),
    (
        r"distinctive_images_(?P<model>.+)",
        Caption(
            "Most and least distinctive images",
            "Images above the image with the nearest code, with how many standard deviations they lie apart.",
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
            "Each image by how far its code lies from the nearest other, against memorability and against its "
            "reconstruction error.",
            "A rising cloud: what lies apart is remembered, or reconstructed worse, as the axis says.",
            "distinctiveness",
        ),
    ),
    (
        r"latent_layers_(?P<model>.+)",
        Caption(
            "Along the layers",
            "ρ of distinctiveness, and of a ridge on the codes, with memorability, layer by layer.",
            "Where the band, which holds for the whole curve, leaves zero, that layer tells something.",
        ),
    ),
    (
        r"category_memorability",
        Caption(
            "Memorability by category",
            "Each category's scores: points or density, quartiles, and the mean with its 95 % interval; dashed, "
            "the mean of all.",
            "Differences between rows are between kinds of pictures, not single ones.",
            "splits",
        ),
    ),
    (
        r"category_losses_(?P<model>.+)",
        Caption(
            "Reconstruction error by category",
            "Each category's losses: points or density, quartiles, and the mean with its 95 % interval; dashed, "
            "the mean of all.",
            "A category that is high here and in memorability makes an overall ρ without any effect within.",
            "test_loss",
        ),
    ),
    (
        r"category_distinctiveness_(?P<model>.+)",
        Caption(
            "Distinctiveness by category",
            "Each category's distinctiveness: points or density, quartiles, and the mean with its 95 % interval.",
            "High: images of this category lie apart from all others.",
            "distinctiveness",
        ),
    ),
    (
        r"category_rho_(?P<model>.+)",
        Caption(
            "ρ within each category",
            "Spearman's ρ of each measure with memorability and its interval, category by category, beside that "
            "of all images.",
            "Intervals on one side of zero in every row: the relation holds in each kind of picture. Rows without"
            " one have too few images.",
            "test_loss",
        ),
    ),
    (
        r"category_scatter_(?P<model>.+)",
        Caption(
            "Each measure and memorability, by category",
            "One panel per measure, one point per image, coloured by category.",
            "Look whether each colour leans the same way; if only the colours as wholes do, it is a difference "
            "between categories.",
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
            "Loss on the training and validation split, and the validation correlation, over the epochs.",
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
            "The further above the diagonal (or the base rate), the better; the band is wide where images are "
            "few.",
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
            "Test images whose score was predicted furthest too low and too high.",
            "What they share is what the head does not see.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_most_memorable",
        Caption(
            "Attribution of the most memorable images",
            "Image, attribution map and overlay, the highest observed scores first.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_least_memorable",
        Caption(
            "Attribution of the least memorable images",
            "Image, attribution map and overlay, the lowest observed scores first.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig/(?P<model>.+)_mean_map",
        Caption(
            "Mean attribution map",
            "Attribution averaged over images: signed, and in size.",
            "A bright middle on the right: predictions rest on the centre of pictures. Patches on the left are "
            "what a few pictures leave.",
            "ig",
        ),
    ),
    (
        r"ig/(?P<model>.+)_picture_(?P<image>.+)",
        Caption(
            "Attribution of one image",
            "The image, which of its pixels the predicted score rests on, and both together.",
            "Red raises the predicted score, blue lowers it.",
        ),
    ),
    (
        r"ig_baselines_(?P<model>.+)",
        Caption(
            "Do maps depend on the baseline?",
            "Median agreement over pixels between the maps of one image under two baselines, signed and absolute.",
            "Near 1: the baseline hardly matters.",
        ),
    ),
    (
        r"ig_cascade_(?P<model>.+)",
        Caption(
            "Do maps depend on the weights?",
            "Maps of a few images as layers are shuffled one after another from the output down.",
            "They should dissolve: a map that survives random weights says nothing about the network.",
        ),
    ),
    (
        r"ig_layers_(?P<model>.+)",
        Caption(
            "Which layers do maps rest on?",
            "Agreement with the true maps as the weights of one layer alone are shuffled, and of all down to it.",
            "A layer whose loss leaves the maps as they are tells them little.",
        ),
    ),
    (
        r"ig_checks_(?P<model>.+)",
        Caption(
            "Checks of the attributions",
            "Agreement with maps of shuffled weights; the predicted score as pixels of most attribution are "
            "removed or brought in, beside random orders.",
            "Each panel says its verdict; deletion should run lower, insertion higher, than random orders.",
        ),
    ),
    (
        r"ig_(?P<model>.+)",
        Caption(
            "Attribution",
            "A summary of the attribution maps.",
            "See the title.",
            "ig",
        ),
    ),
    (
        r"feature_correlations(?:_.*)?",
        Caption(
            "Image features",
            "ρ of each feature with memorability with its interval, and within categories; by kind of feature.",
            "Far from zero and clear of it: the feature goes with memorability. Many were looked at: exploratory.",
            "image_features",
        ),
    ),
    (
        r"feature_clusters(?:_.*)?",
        Caption(
            "Which features go together",
            "Features ordered by how alike they are: their correlations with the targets and with each other.",
            "Blocks are features that say much the same.",
            "image_features",
        ),
    ),
    (
        r"feature_model(?:_.*)?",
        Caption(
            "All features together",
            "How well memorability is predicted from each set of measures in images left out, and which features "
            "it rests on.",
            "What a combination gains over its parts is what the parts do not share.",
            "image_features",
        ),
    ),
    (
        r"feature_commonality(?:_.*)?",
        Caption(
            "Unique and shared",
            "Share of the variance of ranked memorability that each kind of measure explains alone, or with "
            "others.",
            "Unique shares are what only that kind of measure knows.",
            "image_features",
        ),
    ),
    (
        r"steering_strips_(?P<model>.+)",
        Caption(
            "Steered pictures",
            "Photographs, their reconstructions, and both moved versions, with predicted scores.",
            "Compare each moved version with the reconstruction, not the photograph. Nobody's memory was tested.",
        ),
    ),
    (
        r"steering_gains_(?P<model>.+)",
        Caption(
            "What steering gains",
            "Mean gain in predicted score of each method and control with its interval, by the head and by the "
            "judge.",
            "Above its controls, by the judge as well: more than any change of that size would do.",
        ),
    ),
    (
        r"steering_features_(?P<model>.+)",
        Caption(
            "What steering changes",
            "Which image features change most when the score is raised, beside what lowering it does.",
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


def caption_of(name: str, counts: dict[tuple[str, str], int], several: bool) -> tuple[str, str]:
    """Return the title and the caption of a figure.

    Args:
        name: Its path in the output folder, with forward slashes.
        counts: Images by (table, model); model empty for tables that exist once.
        several: Whether figures of several models are about, so that titles have to name theirs.

    Returns:
        What it is; and what is seen, how to read it, and how many images are in it where a table says so. A figure that
        is not known is called by its name.
    """
    stem = PurePosixPath(name).with_suffix("").as_posix()
    for pattern, caption in CAPTIONS:
        match = re.fullmatch(pattern, stem)
        if match:
            model = match.groupdict().get("model") or ""
            title = f"{caption.title} ({model})" if model and several else caption.title
            found = [n for (table, of), n in counts.items() if table == caption.table and of in (model, "")]
            found = found or [n for (table, _), n in counts.items() if table == caption.table and not model]
            images = max(found, default=0)
            n = f" n = {images:,} images." if images else ""
            return title, f"{caption.seen} {caption.reading}{n}"
    return PurePosixPath(stem).name.replace("_", " "), ""
