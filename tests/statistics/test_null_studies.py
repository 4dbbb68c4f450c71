"""Studies in which there is nothing to find: what every table of stages 3 to 8 says of them, and the study as a whole."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.null_studies import LOSSES, MODEL, PARTS, shares, shuffled_study, study
from utils.features import model as feature_models
from utils.report.study_findings import EXPLORATORY, MEMORABILITY, PRIMARY
from utils.statistics.correlation_tables import correlation_rows
from utils.statistics.rank_correlation import false_discovery_q

SEEDS = 20


@pytest.mark.long
def test_shuffled_scores_give_no_more_findings_than_the_rules_allow():
    """Twenty studies, boosting included: of studies at 5 % each, three with a finding are nothing strange."""
    found = shares([study(shuffled_study(seed), seed) for seed in range(SEEDS)])
    most = stats.binom.ppf(0.975, SEEDS, 0.05) / SEEDS
    assert found["any exploratory finding in a study"][0] <= most
    assert found["the primary hypothesis of a study"][0] <= most
    # The families of one seed share images, so that the seeds are what is independent.
    assert found["any q below 0.05 in a family"][0] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / SEEDS)


@pytest.fixture(scope="module")
def two_studies():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_models, "LEARNERS", ("ridge",))
        return [study(shuffled_study(seed), seed) for seed in range(2)]


def test_two_shuffled_studies_give_nothing_and_images_taken_as_independent_would(two_studies):
    """The same in short, with ridge alone; and that the families can find something where inference is wrong."""
    found = shares(two_studies)
    assert found["any exploratory finding in a study"] == (0, 2)
    assert found["the primary hypothesis of a study"] == (0, 2)
    alone = [
        correlation_rows(shuffled_study(seed), list(LOSSES), resamples=20, splits=1, cluster="none")["p"]
        for seed in range(30)
    ]
    assert np.mean(np.concatenate(alone) < 0.05) > 0.15


def test_families_of_the_study_are_those_that_q_was_taken_over(two_studies):
    """In every table: Benjamini-Hochberg of the p-values of a family gives the q that its stage wrote."""
    table = two_studies[0]
    families = table.groupby(["table", "family"])
    for name, rows in families:
        np.testing.assert_allclose(rows["q"], false_discovery_q(rows["p"]), rtol=1e-9, err_msg=str(name))
    assert len(families) == 37
    assert table["table"].nunique() == 11
    assert not table.duplicated(["table", "family", "model", "what"]).any()
    assert (table["role"] == PRIMARY).sum() == 1
    primary = table[table["role"] == PRIMARY].iloc[0]
    assert (primary["table"], primary["model"], primary["what"]) == (
        "loss_correlations.csv",
        MODEL,
        "lpips-sq",
    )
    # What goes with distinctiveness or is a check of maps is no claim about people.
    others = table[table["about"] != MEMORABILITY]
    assert set(others["table"]) == {"distinctiveness_correlations.csv", "ig_verdicts.csv"}
    assert not others["target"].eq("memorability").any()


def test_an_effect_that_is_there_is_found():
    """The same tables find a loss that follows the scores, so that finding nothing means something."""
    frame = shuffled_study(0)
    frame["lpips-sq"] = frame["memorability"] + 0.5 * frame["lpips-sq"]
    table = study(frame, 0, PARTS[:1])
    rows = table[(table["table"] == "loss_correlations.csv") & (table["what"] == "lpips-sq")]
    assert len(rows) == 3
    assert rows["finding"].all()
    assert table.loc[table["role"] == EXPLORATORY, "finding"].sum() > 5
