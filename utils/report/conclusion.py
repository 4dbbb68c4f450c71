"""What came out, in a few plain sentences made from the numbers, and the weakest point of it.

The rules are here, all of them, as functions of :class:`Findings`: which word a number gets, and what is held against it.
`utils.report.findings` reads the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from utils.core.caveats import Caveats
from utils.core.names import HEADLINE_LOSS
from utils.report.blocks import show, show_p

ALPHA = 0.05
NEGLIGIBLE = 0.1  # the bound of the tests of equivalence in the tables
FEW_CLUSTERS = 50  # below that, intervals and p-values are of a kind of their own (utils.statistics)
FEW_IMAGES = 100

YES, OPPOSITE, NOTHING, OPEN, UNDEFINED = "yes", "opposite", "nothing", "open", "undefined"
_PLURALS = {"subcategory": "subcategories", "group": "groups", "image": "images"}


class Estimate(NamedTuple):
    """A number with its 95 % interval and, of an exploratory one, its q over the whole study; NaN where undefined."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    q: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return math.isfinite(self.value)

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is on one side of zero, else 0."""
        if self.low > 0:
            return 1
        return -1 if self.high < 0 else 0

    @property
    def claim(self) -> int:
        """The sign where it is a finding over the whole study, else 0: what words of an exploratory number rest on."""
        return self.sign if self.q < ALPHA else 0

    def __str__(self) -> str:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return f"ρ = {show(self.value)}"
        return f"ρ = {show(self.value)} (95 % interval {show(self.low)} to {show(self.high)})"


@dataclass(frozen=True)
class Findings:
    """The numbers that the conclusion rests on.

    Attributes:
        images: Images in the study.
        scored: Whether any of them has a memorability score.
        categories: Categories they are in; 0 where they have none.
        loss: The reconstruction error the hypothesis is tested by; empty where no correlation was computed.
        n: Images with that error and a score.
        error: Its correlation with memorability.
        unit: What was resampled as a whole: ``subcategory``, ``group`` or ``image``.
        clusters: How many of them.
        p: Two-sided p-value of no correlation.
        p_equivalence: p-value of a correlation of 0.1 or more in size.
        within: The correlation within categories.
        ceiling: Noise ceiling of all images.
        share: The correlation over that ceiling.
        prediction: Correlation of predicted with observed scores of the test images.
        test_images: How many test images.
        test_ceiling: Noise ceiling of the test images.
        over_ridge: How much the correlation of the MLP exceeds that of ridge regression on the same codes.
        tests: How many exploratory tests about memorability the study made.
        families: How many families they are in.
        held: How many of them are findings over the whole study.
        caveats: What the runs say of themselves.
    """

    images: int
    scored: bool = True
    categories: int = 0
    loss: str = ""
    n: int = 0
    error: Estimate = Estimate()
    unit: str = "image"
    clusters: int = 0
    p: float = math.nan
    p_equivalence: float = math.nan
    within: Estimate = Estimate()
    ceiling: float = math.nan
    share: Estimate = Estimate()
    prediction: Estimate = Estimate()
    test_images: int = 0
    test_ceiling: float = math.nan
    over_ridge: Estimate = Estimate()
    tests: int = 0
    families: int = 0
    held: int = 0
    caveats: Caveats = field(default_factory=Caveats)


def verdict(found: Findings) -> str:
    """Say what the primary test came to.

    Returns:
        ``yes`` (interval above zero and p below 0.05), ``opposite`` (below zero, and p), ``nothing`` (as good as no
        correlation), ``open`` (these images do not tell), ``undefined``.
    """
    if not found.error.known:
        return UNDEFINED
    # Where interval and p disagree, or one is missing, the images do not tell.
    if found.error.sign and found.p < ALPHA:
        return YES if found.error.sign > 0 else OPPOSITE
    return NOTHING if found.p_equivalence < ALPHA else OPEN


def conclusion(found: Findings) -> list[str]:
    """Return the sentences, in order: asked, found, how sure, within categories, ceiling, prediction, all tests."""
    sentences = [_asked(found)]
    if found.loss:
        sentences += [_answer(found), _how_sure(found), _within(found), _ceiling(found)]
    sentences += [_prediction(found), _all_tests(found)]
    return [sentence for sentence in sentences if sentence]


def _asked(found: Findings) -> str:
    kinds = f" in {found.categories} categories" if found.categories > 1 else ""
    images = f"{found.n or found.images:,} images{kinds}"
    if not found.scored:
        return (
            f"{images} without scores: what follows is about the pictures, and says nothing of memorability."
        )
    if not found.loss:
        return f"{images}. Whether those reconstructed worse are remembered better was not asked of them."
    return (
        "Are images that the autoencoder reconstructs worse remembered better? This, the one primary hypothesis, was "
        f"tested on {images} by {found.loss}."
    )


def _answer(found: Findings) -> str:
    ruled_out = found.p_equivalence < ALPHA
    small = f"; but small: one of {NEGLIGIBLE} or more in size is ruled out" if ruled_out else ""
    answer = {
        YES: f"Yes: the worse an image is reconstructed, the better it tends to be remembered, {found.error}{small}.",
        OPPOSITE: f"No, the other way round: the worse an image is reconstructed, the worse it tends to be remembered, "
        f"{found.error}{small}.",
        NOTHING: f"No: as good as no correlation, {found.error}; one of {NEGLIGIBLE} or more in size is ruled out.",
        OPEN: f"Not shown: {found.error}; these images do not tell it from no correlation.",
        UNDEFINED: "No answer: the correlation is not defined for these images.",
    }[verdict(found)]
    given = [
        text
        for holds, text in (
            (found.caveats.has_sample, "planted scores"),
            (found.caveats.has_random_weights, "random weights"),
        )
        if holds
    ]
    return f"With {' and '.join(given)}, {answer[0].lower()}{answer[1:]}" if given else answer


def _how_sure(found: Findings) -> str:
    if not found.error.known:
        return ""
    if found.unit == "image" or not found.clusters:
        how = "The interval takes each image as telling something new"
    else:
        units = _PLURALS.get(found.unit, found.unit)
        how = f"The interval takes {found.clusters} {units} as what was sampled, since images of one {found.unit} are alike"
    p = f"; p {'' if found.p < 0.001 else '= '}{show_p(found.p)}" if math.isfinite(found.p) else ""
    return f"{how}{p}."


def _within(found: Findings) -> str:
    if not found.within.known or verdict(found) == UNDEFINED:
        return ""
    within = f"Compared within categories alone, {found.within}"
    if found.within.claim == 0:
        return f"{within}: whether anything remains there, these images do not tell{_counted(found.within)}."
    if found.within.claim * found.error.value < 0:
        return f"{within}: the sign turns round."
    if abs(found.within.value) < abs(found.error.value):
        share = 100 * found.within.value / found.error.value
        return f"{within}: {share:.0f} % of it remains; the rest is a difference between categories."
    return f"{within}: all of it remains."


def _ceiling(found: Findings) -> str:
    if not (math.isfinite(found.ceiling) and found.error.known):
        return ""
    share = f"; this one reaches {_percent(found.share)} of that" if found.share.known else ""
    return (
        f"People's scores are noisy themselves: no measure can be expected to pass ρ = {show(found.ceiling)} "
        f"(noise ceiling of all images){share}."
    )


def _percent(share: Estimate) -> str:
    if not (math.isfinite(share.low) and math.isfinite(share.high)):
        return f"{100 * share.value:.0f} %"
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _prediction(found: Findings) -> str:
    if not found.prediction.known:
        return ""
    how = {
        1: "rise with observed ones",
        -1: "run against observed ones",
        0: "are not shown to go with observed ones",
    }[found.prediction.claim]
    text = (
        f"Exploratory: scores predicted from the latent codes {how} on {found.test_images:,} test images, "
        f"{found.prediction}{_counted(found.prediction)}"
    )
    if math.isfinite(found.test_ceiling):
        text += f"; the noise ceiling of the test images is {show(found.test_ceiling)}"
    if found.over_ridge.known:
        than = {1: "better than", -1: "worse than", 0: "not shown to be better or worse than"}
        text += f". The network is {than[found.over_ridge.claim]} ridge regression on the same codes"
        text += _counted(found.over_ridge)
    return f"{text}."


def _counted(estimate: Estimate) -> str:
    """Say why a number whose own interval leaves out 0 is not claimed; nothing of others."""
    if estimate.claim or not estimate.sign or not math.isfinite(estimate.q):
        return ""
    return f" (by itself it leaves zero out; with all tests of the study counted, q = {show_p(estimate.q)})"


def _all_tests(found: Findings) -> str:
    if not found.tests:
        return ""
    many = (
        f"Exploratory: of all {found.tests:,} further tests about memorability, in {found.families} families"
    )
    if not found.held:
        return f"{many}, none is a finding once it is counted how many there are."
    holds = "is a finding" if found.held == 1 else "are findings"
    return f"{many}, {found.held:,} {holds} once it is counted how many there are."


def weaknesses(found: Findings) -> list[str]:  # long: a list of rules
    """Return what is to be held against the conclusion, the gravest first; never empty."""
    units = _PLURALS.get(found.unit, found.unit)
    said = verdict(found)
    sure = all(math.isfinite(number) for number in (found.error.low, found.error.high, found.p))
    others = [text for text in found.caveats if not Caveats([text]).forbid_conclusions]
    rules = (
        (
            found.caveats.has_sample,
            "The scores are planted: this is the embedded sample, which shows that the code runs and nothing about people.",
        ),
        (
            found.caveats.has_random_weights,
            "Some networks have random weights: what rests on them is noise.",
        ),
        (
            not found.scored,
            "There are no scores, so that nothing here was held against what people remember.",
        ),
        (
            found.scored and not found.loss,
            "Nothing was correlated with memorability: python autoencoder_evaluation.py has not run.",
        ),
        (bool(found.loss) and said == UNDEFINED, "The primary correlation is not defined for these images."),
        (
            found.loss not in ("", HEADLINE_LOSS),
            f"The hypothesis names {HEADLINE_LOSS}, which was not computed; {found.loss} stands in for it.",
        ),
        (bool(others), f"The tables say of themselves: {'; '.join(others)}."),
        (
            said == OPEN and not sure,
            f"There is no interval, or no p: {found.clusters} {units} are too few to say how sure this is.",
        ),
        (
            said == OPEN and sure and found.error.sign == 0,
            "The interval contains zero: more images, of more kinds, would be needed to tell.",
        ),
        (
            said == OPEN and sure and found.error.sign != 0,
            "The interval leaves zero out but p does not: the two methods disagree, so nothing is claimed.",
        ),
        (
            found.error.known and 0 < found.clusters < FEW_CLUSTERS and found.unit != "image",
            f"Few clusters: the images come from {found.clusters} {units} only, too few for a firm interval.",
        ),
        (
            found.error.known and 0 < found.n < FEW_IMAGES,
            f"Few images: {found.n} are not enough to settle a correlation of ordinary size.",
        ),
        (
            said in (YES, OPPOSITE) and found.within.known and found.within.claim != found.error.sign,
            "Not shown within categories: a difference between kinds of pictures could be all there is to it.",
        ),
        (
            found.error.known and found.categories <= 1,
            "One category, or none known: nothing here says that it holds for other kinds of pictures, or is not a "
            "difference between kinds.",
        ),
        (
            found.error.known and found.unit == "image",
            "Images are taken as independent: if some are alike, the interval is too narrow.",
        ),
        (
            found.error.known and not math.isfinite(found.ceiling),
            "How reliable the scores are is unknown: the table has no hits, false alarms and responses.",
        ),
    )
    held = [text for holds, text in rules if holds]
    if found.error.known:
        left = 100 * (1 - found.error.value**2)
        share = "more than 99" if left > 99 else f"{left:.0f}"
        held.append(f"A correlation is no cause, and {share} % of the variance of ranks is left over.")
    return held
