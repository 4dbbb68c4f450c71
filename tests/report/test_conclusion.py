"""The words of the conclusion: each verdict, direction and weak point from the numbers that call for it, and no others."""

import math
from dataclasses import replace

import pytest

from utils.core.caveats import Caveats
from utils.core.names import SAMPLE_CAVEAT
from utils.report.conclusion import (
    NOTHING,
    OPEN,
    OPPOSITE,
    UNDEFINED,
    YES,
    Estimate,
    Findings,
    conclusion,
    verdict,
    weaknesses,
)

MEMCAT = Findings(
    images=10_000,
    categories=5,
    loss="lpips-sq",
    n=10_000,
    error=Estimate(0.452, 0.385, 0.509),
    unit="subcategory",
    clusters=134,
    p=0.0001,
    p_equivalence=0.99,
    within=Estimate(0.21, 0.17, 0.25, q=0.001),
    ceiling=0.86,
    share=Estimate(0.525, 0.45, 0.59),
    prediction=Estimate(0.6, 0.55, 0.65, q=0.001),
    test_images=3000,
    test_ceiling=0.85,
    over_ridge=Estimate(-0.02, -0.05, 0.01, q=0.4),
    tests=214,
    families=22,
    held=30,
)


def said(found):
    return " ".join(conclusion(found))


@pytest.mark.parametrize(("low", "high", "p", "p_equivalence", "expected"), [
    (0.1, 0.4, 0.01, 0.9, YES),
    (-0.4, -0.1, 0.01, 0.9, OPPOSITE),
    (-0.1, 0.4, 0.2, 0.9, OPEN),
    (-0.1, 0.4, 0.01, 0.9, OPEN),  # p and interval disagree
    (0.01, 0.4, 0.06, 0.9, OPEN),  # interval and p disagree
    (0.01, 0.4, 0.05, 0.9, OPEN),
    (0.01, 0.4, math.nan, math.nan, OPEN),
    (math.nan, math.nan, 0.01, 0.9, OPEN),
    (-0.05, 0.05, 0.8, 0.001, NOTHING),
    (-0.05, 0.05, 0.8, 0.05, OPEN),
    (0.01, 0.05, 0.01, 0.001, YES),  # small, but there
])  # fmt: skip
def test_a_verdict_needs_interval_and_p(low, high, p, p_equivalence, expected):
    found = replace(MEMCAT, error=Estimate(0.2, low, high), p=p, p_equivalence=p_equivalence)
    assert verdict(found) == expected


def test_the_answer_says_the_direction():
    assert (
        "Yes: the worse an image is reconstructed, the better it tends to be remembered, ρ = 0.45 (95 % interval 0.39 "
        "to 0.51)."
    ) in said(replace(MEMCAT, error=Estimate(0.452, 0.39, 0.51)))
    opposite = said(replace(MEMCAT, error=Estimate(-0.452, -0.51, -0.39)))
    assert (
        "No, the other way round: the worse an image is reconstructed, the worse it tends to be" in opposite
    )
    assert "Yes" not in opposite
    still_open = said(replace(MEMCAT, error=Estimate(0.1, -0.1, 0.3), p=0.3))
    assert "Not shown: ρ = 0.10 (95 % interval -0.10 to 0.30); these images do not tell" in still_open
    nothing = said(replace(MEMCAT, error=Estimate(0.01, -0.03, 0.05), p=0.6, p_equivalence=0.001))
    assert "No: as good as no correlation" in nothing
    undefined = said(replace(MEMCAT, error=Estimate()))
    assert "No answer: the correlation is not defined" in undefined
    assert verdict(replace(MEMCAT, error=Estimate())) == UNDEFINED
    assert "nan" not in undefined


def test_what_is_there_but_as_good_as_nothing_is_called_small():
    there = replace(MEMCAT, error=Estimate(0.056, 0.018, 0.0956), p=0.004, p_equivalence=0.01)
    text = "ρ = 0.06 (95 % interval 0.02 to 0.10); but small: one of 0.1 or more in size is ruled out."
    assert text in said(there)
    assert text.replace("0.06 (", "-0.06 (").replace("0.02 to 0.10", "-0.10 to -0.02") in said(
        replace(there, error=Estimate(-0.056, -0.0956, -0.018))
    )
    assert "but small" not in said(replace(there, p_equivalence=0.05))
    assert "but small" not in said(replace(there, p_equivalence=math.nan))
    assert "more than 99 % of the variance" in weaknesses(there)[-1]


def test_the_question_comes_first_then_the_answer_and_how_sure_it_is():
    asked, answer, sure, within, ceiling, prediction, every = conclusion(MEMCAT)
    assert asked.endswith("was tested on 10,000 images in 5 categories by lpips-sq.")
    assert answer.startswith("Yes")
    assert sure == (
        "The interval takes 134 subcategories as what was sampled, since images of one subcategory are alike; p < 0.001."
    )
    assert within.startswith("Compared within categories alone, ρ = 0.21")
    assert "ρ = 0.86 (noise ceiling of all images); this one reaches 52 % (45 to 59) of that." in ceiling
    assert prediction.startswith(
        "Exploratory: scores predicted from the latent codes rise with observed ones on 3,000"
    )
    assert "the noise ceiling of the test images is 0.85." in prediction
    assert every == (
        "Exploratory: of all 214 further tests about memorability, in 22 families, 30 are findings once it is counted how "
        "many there are."
    )
    assert "1 is a finding once" in said(replace(MEMCAT, held=1))
    assert "none is a finding once" in said(replace(MEMCAT, held=0))


@pytest.mark.parametrize(("within", "expected"), [
    (Estimate(0.226, 0.2, 0.25, 0.049), "50 % of it remains; the rest is a difference between categories"),
    (Estimate(0.2, -0.01, 0.4), "whether anything remains there, these images do not tell"),
    (Estimate(-0.2, -0.3, -0.1, 0.049), "the sign turns round"),
    (Estimate(0.5, 0.4, 0.6, 0.049), "all of it remains"),
])  # fmt: skip
def test_what_remains_within_categories(within, expected):
    assert expected in said(replace(MEMCAT, within=within))


@pytest.mark.parametrize(("prediction", "over", "how", "than"), [
    (Estimate(0.6, 0.5, 0.7, 0.049), Estimate(0.1, 0.05, 0.2, 0.049), "rise with", "better than ridge"),
    (Estimate(-0.6, -0.7, -0.5, 0.049), Estimate(-0.1, -0.2, -0.05, 0.049), "run against", "worse than ridge"),
    (Estimate(0.1, -0.2, 0.4, 0.3), Estimate(0.1, -0.1, 0.2, 0.3), "are not shown to", "not shown to be better or worse"),
    (Estimate(0.6, 0.5, 0.7, 0.05), Estimate(0.1, 0.05, 0.2, 0.05), "are not shown to", "not shown to be better or worse"),
])  # fmt: skip
def test_what_is_said_of_prediction(prediction, over, how, than):
    text = conclusion(replace(MEMCAT, prediction=prediction, over_ridge=over))[-2]
    assert how in text
    assert f"is {than}" in text


def test_what_leaves_zero_out_by_itself_alone_is_not_claimed_and_says_why():
    """An interval clear of zero whose q over the whole study is no longer below 0.05."""
    why = "(by itself it leaves zero out; with all tests of the study counted, q = 0.210)"
    clear = Estimate(0.2, 0.1, 0.3, 0.21)
    text = said(replace(MEMCAT, within=clear))
    assert f"whether anything remains there, these images do not tell {why}." in text
    assert any("Not shown within categories" in weak for weak in weaknesses(replace(MEMCAT, within=clear)))
    prediction, over = (
        said(replace(MEMCAT, **{name: clear})).split("Exploratory: scores")[1]
        for name in ("prediction", "over_ridge")
    )
    assert (
        f"are not shown to go with observed ones on 3,000 test images, ρ = 0.20 (95 % interval 0.10 to 0.30) {why}"
        in prediction
    )
    assert f"not shown to be better or worse than ridge regression on the same codes {why}." in over
    assert "by itself" not in said(MEMCAT)
    assert "by itself" not in said(replace(MEMCAT, within=Estimate(0.2, -0.1, 0.3, 0.21)))


def test_without_scores_or_correlations_nothing_is_claimed():
    found = Findings(images=60, scored=False)
    assert conclusion(found) == [
        "60 images without scores: what follows is about the pictures, and says nothing of memorability."
    ]
    assert weaknesses(found) == [
        "There are no scores, so that nothing here was held against what people remember."
    ]
    found = Findings(images=60)
    assert conclusion(found) == [
        "60 images. Whether those reconstructed worse are remembered better was not asked of them."
    ]
    assert weaknesses(found)[0].startswith(
        "Nothing was correlated with memorability: python autoencoder_evaluation.py"
    )


def test_a_sound_study_still_has_its_weak_point():
    assert weaknesses(MEMCAT) == [
        "A correlation is no cause, and 80 % of the variance of ranks is left over."
    ]


@pytest.mark.parametrize(("changes", "expected"), [
    ({"caveats": Caveats([SAMPLE_CAVEAT])}, "The scores are planted"),
    ({"caveats": Caveats([Caveats.random_weights("LPIPS")])}, "Some networks have random weights"),
    ({"caveats": Caveats([Caveats.edited("splits.csv")])}, "The tables say of themselves: edited by hand: splits.csv."),
    ({"error": Estimate()}, "The primary correlation is not defined"),
    ({"loss": "mse"}, "The hypothesis names lpips-sq, which was not computed; mse stands in for it"),
    ({"error": Estimate(0.1, -0.1, 0.3), "p": 0.4}, "The interval contains zero"),
    ({"error": Estimate(0.1, 0.01, 0.3), "p": 0.08}, "The interval leaves zero out but p does not"),
    ({"error": Estimate(0.4, math.nan, math.nan)}, "There is no interval, or no p: 134 subcategories are too few"),
    ({"p": math.nan}, "There is no interval, or no p"),
    ({"clusters": 49}, "Few clusters: the images come from 49 subcategories only"),
    ({"n": 99}, "Few images: 99"),
    ({"within": Estimate(0.1, -0.1, 0.3)}, "Not shown within categories"),
    ({"within": Estimate(-0.2, -0.3, -0.1)}, "Not shown within categories"),
    ({"categories": 1, "within": Estimate()}, "One category"),
    ({"unit": "image", "clusters": 10_000}, "Images are taken as independent"),
    ({"ceiling": math.nan}, "How reliable the scores are is unknown"),
])  # fmt: skip
def test_each_weakness_is_named_first_where_it_is_the_only_one(changes, expected):
    first, *rest = weaknesses(replace(MEMCAT, **changes))
    assert first.startswith(expected)
    assert [text for text in rest if not text.startswith("A correlation is no cause")] == []


@pytest.mark.parametrize(
    "changes", [{"clusters": 50}, {"n": 100}, {"within": Estimate(0.01, 0.001, 0.02, 0.049)}]
)
def test_no_weakness_is_named_without_reason(changes):
    assert len(weaknesses(replace(MEMCAT, **changes))) == 1


def test_the_gravest_weakness_comes_first_and_planted_scores_are_said_in_the_answer():
    found = replace(
        MEMCAT,
        caveats=Caveats([SAMPLE_CAVEAT, Caveats.random_weights("LPIPS")]),
        clusters=11,
        n=40,
        loss="mse",
    )
    names = ("planted", "random weights", "hypothesis names", "Few clusters", "Few images", "no cause")
    assert all(name in text for name, text in zip(names, weaknesses(found), strict=True))
    assert conclusion(found)[1].startswith("With planted scores and random weights, yes: the worse")
