"""A second column of human scores: what is read, what is refused, what is written."""

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.reconstruction.loss_tables import LossTable
from utils.reconstruction.second_group import COUNTS, SECOND, add_second_scores, compare_people

COUNT = 40


@pytest.fixture
def study(tmp_path):
    """A score table of two groups with counts, the losses of its images, and arguments."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 0.9, COUNT)
    table = pd.DataFrame({"path": [f"animal/{row:02d}.jpg" for row in range(COUNT)], "category": "animal"})
    for side in "ab":
        table[f"hits_{side}"], table[f"n_{side}"] = rng.binomial(80, truth), 80
        table[f"alarms_{side}"] = rng.binomial(80, 0.1, COUNT)
        table[side] = (table[f"hits_{side}"] - table[f"alarms_{side}"]) / 80
    table.to_csv(tmp_path / "scores.csv", index=False)
    frame = pd.DataFrame(
        {
            "image_id": table["path"],
            "memorability": table["a"],
            "category": "animal",
            "subcategory": "",
            "hits": table["hits_a"],
            "false_alarms": table["alarms_a"],
            "n_resp": table["n_a"],
            "net: mse": truth + rng.normal(0, 0.2, COUNT),
        }
    )
    args = Namespace(
        score_column="a",
        score_scale="unit",
        second_score_column="b",
        second_counts=["hits_b", "alarms_b", "n_b"],
        scores_csv=tmp_path / "scores.csv",
        data_dir=tmp_path,
        cluster=None,
        resamples=50,
        splits=5,
        seed=0,
    )
    return LossTable(frame, {"net: mse": ("net", "mse")}), args, table


def changed(args, **values):
    return Namespace(**{**vars(args), **values})


def test_the_table_has_the_groups_and_every_loss_with_both(study):
    losses, args, table = study
    written = {}
    run = SimpleNamespace(write_table=lambda frame, name: written.update({name: frame}))
    rows = compare_people(run, args, losses).set_index("measure")
    assert rows.loc["(between groups)", "rho_first"] == pytest.approx(
        spearmanr(table["a"], table["b"]).statistic
    )
    values = losses.frame["net: mse"]
    assert rows.loc["mse", "model"] == "net"
    assert rows.loc["mse", "rho_second"] == pytest.approx(spearmanr(values, table["b"]).statistic)
    assert 0 < rows.loc["mse", "reliability_second"] < 1
    assert 0 < rows.loc["mse", "reliability_first"] < 1
    declared = {column.name for column in TABLES["group_correlations"].columns}
    assert set(written["group_correlations"].columns) == declared


def test_scores_are_joined_by_image(study):
    losses, args, table = study
    shuffled = LossTable(losses.frame.sample(frac=1, random_state=1), losses.measures)
    frame = add_second_scores(args, shuffled).set_index("image_id")
    assert frame[SECOND].loc[table["path"]].tolist() == pytest.approx(table["b"].tolist())
    assert frame[COUNTS[0]].loc[table["path"]].tolist() == table["hits_b"].tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"second_score_column": "a"}, "are both a"),
        ({"second_score_column": "c"}, "no score column 'c'"),
        ({"second_counts": ["hits_b", "alarms_b", "n_c"]}, "column n_c of --second-counts is missing"),
    ],
)
def test_what_cannot_be_compared_is_said(study, changes, words):
    losses, args, _ = study
    with pytest.raises(UserError) as caught:
        add_second_scores(changed(args, **changes), losses)
    assert words in str(caught.value)


def test_too_few_images_with_both_scores(study):
    losses, args, _ = study
    few = LossTable(losses.frame.head(5), losses.measures)
    with pytest.raises(UserError, match="Only 5 images have losses and both scores"):
        add_second_scores(args, few)
