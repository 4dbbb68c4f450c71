"""Every figure that a stage saves has a caption of its own: what it is, what is seen, how to read it, of how many images."""

import re

import pytest

from utils.core.declarations.other_files import OTHER_FILES
from utils.report.captions import CAPTIONS, caption_of

WHATS = {
    "category_<what>": (
        "memorability",
        "losses_m",
        "distinctiveness_m",
        "rho_m",
        "scatter_m",
        "subcategories",
        "splits",
    ),
    "mlp_<what>_<model>": ("learning", "predicted", "roc_pr", "calibration", "misses"),
    "ig/<model>_<what>": ("most_memorable", "least_memorable", "mean_map", "picture_a_b"),
    "ig_<what>_<model>": ("checks", "cascade", "baselines"),
    "feature_<what>": ("correlations", "correlations_crop", "clusters", "model", "commonality"),
    "steering_<what>_<model>": ("strips", "gains", "features"),
}


def figures():
    for declared in OTHER_FILES:
        for name in declared.names:
            if name.endswith(".png") and not name.startswith("steering/"):
                stem = name.removesuffix(".png")
                for what in WHATS.get(stem, ("",)):
                    filled = stem.replace("<what>", what).replace("<model>", "m")
                    yield re.sub("<[a-z]+>", "1", filled)


@pytest.mark.parametrize("stem", figures())
def test_every_figure_has_its_caption(stem):
    title, caption = caption_of(f"{stem}.png", {}, several=False)
    assert title != stem.replace("_", " ")
    assert caption.count(". ") >= 1  # what is seen, and how to read it
    assert title != "Attribution"  # the last resort


def test_a_caption_counts_the_images_of_its_own_model_and_names_it_among_several():
    counts = {("test_loss", "a"): 40, ("test_loss", "b"): 12, ("rivals", ""): 41}
    assert (
        caption_of("loss_scatter_b.png", counts, several=True)[0] == "Each image: loss and memorability (b)"
    )
    assert caption_of("loss_scatter_b.png", counts, several=False)[0] == "Each image: loss and memorability"
    assert caption_of("loss_scatter_b.png", counts, several=True)[1].endswith(" n = 12 images.")
    assert caption_of("loss_scatter_rivals.png", counts, several=True)[1].endswith(" n = 41 images.")
    assert caption_of("loss_forest.png", counts, several=True)[1].endswith(" n = 40 images.")
    assert "n =" not in caption_of("loss_scatter_c.png", counts, several=True)[1]


def test_an_unknown_figure_is_called_by_its_name():
    assert caption_of("my/own_figure.png", {}, several=False) == ("own figure", "")


def test_no_caption_hides_behind_another():
    for number, (pattern, _) in enumerate(CAPTIONS):
        name = re.sub(r"\(\?P<\w+>\.\+\)", "x", pattern)
        name = re.sub(r"\(\?:[^)]*\)\?", "", name)
        first = next(place for place, (other, _) in enumerate(CAPTIONS) if re.fullmatch(other, name))
        assert first == number, name
