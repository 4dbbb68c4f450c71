"""All tests of a study in one table: which tables are read, who is judged by what, and what the report says of it."""

import numpy as np
import pandas as pd
import pytest
from test_report import MODEL, read, results, write  # noqa: F401  # the fixture

from utils.core.contract import TABLES
from utils.report.study_findings import SOURCES, study_table, write_study_findings
from utils.statistics.families import study_q

STAGES = {source.stage for source in SOURCES}


def losses(p, q=None, **more):
    """Rows of loss_correlations.csv as they are read, lpips-sq last."""
    frame = pd.DataFrame({"measure": ["mse", "lpips-sq"], "model": MODEL, "rho": 0.3, "p": p})
    frame = frame.assign(ci_low=[0.1, 0.1], ci_high=[0.5, 0.5], q=p if q is None else q)
    return frame.assign(**more)


def source(table):
    return next(one for one in SOURCES if one.table == table)


def judged(*frames):
    return study_table([(source(name), model, frame) for name, model, frame in frames])


def test_every_declared_q_is_among_the_sources():
    """A table with a q that the study does not count would be a way around it; so would one with a p and no family."""
    declared = {
        name for name, table in TABLES.items() if {"p", "q"} & {column.name for column in table.columns}
    }
    assert declared - {"study_findings"} == {one.table for one in SOURCES}
    for one in SOURCES:
        columns = {column.name for column in TABLES[one.table].columns}
        kinds = {name[1:] for name in columns if name.startswith("q_") or name == "q"}
        assert kinds <= set(one.held), one.table
        for suffix in one.held:
            assert {f"{name}{suffix}" for name in (one.estimate, "p", "ci_low", "ci_high")} <= columns, (
                one.table
            )


@pytest.mark.parametrize(("p", "low", "finding"), [
    (0.049, 0.1, True),
    (0.05, 0.1, False),
    (0.049, -0.1, False),  # the interval holds 0: the two disagree, nothing is claimed
])  # fmt: skip
def test_the_primary_hypothesis_is_judged_by_itself(p, low, finding):
    table = judged(("loss_correlations", "", losses([0.9, p], ci_low=[0.1, low])))
    rows = table.set_index("what")
    assert rows["role"].to_dict() == {"mse": "exploratory", "lpips-sq": "primary"}
    assert rows.loc["lpips-sq", "finding"] == finding
    assert not rows.loc["mse", "finding"]


def test_what_is_exploratory_is_judged_over_all_families():
    """Two families: q = 0.03 alone is no finding beside a family with nothing, and is beside one that holds, too."""
    comparisons = pd.DataFrame(
        {
            "comparison": "losses",
            "model_a": MODEL,
            "model_b": MODEL,
            "measure_a": "mse",
            "measure_b": ["ssim"],
        }
    ).assign(difference=0.1, ci_low=0.0, ci_high=0.2, p=0.8, q=0.8)
    main = losses([0.03, 0.9])
    for q, finding in ((0.8, False), (0.04, True)):
        table = judged(
            ("loss_correlations", "", main), ("loss_comparisons", "", comparisons.assign(p=q, q=q))
        )
        rows = table.set_index("what")
        assert rows.loc["mse", "finding"] == finding
        assert rows["q_study"].to_dict() == pytest.approx(
            dict(zip(rows.index, study_q(rows["q"], rows["table"]), strict=True))
        )


def test_what_is_true_of_pictures_buys_no_room_for_claims_about_people():
    """A family between measurements that holds leaves those about memorability as they are."""
    distances = pd.DataFrame(
        {"measure": ["mse"], "target": "distinctiveness", "held_constant": "", "model": MODEL}
    )
    distances = distances.assign(rho=0.9, ci_low=0.8, ci_high=0.95, p=1e-9, q=1e-9)
    comparison = pd.DataFrame({"learner": ["ridge"], "predictors": "both", "model": MODEL, "region": "full"})
    comparison = comparison.assign(rho=0.1, ci_low=0.0, ci_high=0.2, p=0.8, q=0.8)
    frames = [("loss_correlations", "", losses([0.03, 0.9])), ("feature_model", "", comparison)]
    without, beside = judged(*frames), judged(*frames, ("distinctiveness_correlations", "", distances))
    assert beside["about"].tolist() == ["memorability"] * 3 + ["pictures"]
    assert beside["q_study"].tolist()[:3] == without["q_study"].tolist()
    assert beside["q_study"].tolist()[3] == 1e-9


def test_tests_that_were_not_made_are_no_rows():
    frame = losses([np.nan, 0.01])
    assert judged(("loss_correlations", "", frame))["what"].tolist() == ["lpips-sq"]
    assert judged(("loss_correlations", "", frame.iloc[:0])).empty


def test_a_family_that_its_stage_left_to_the_reader_gets_its_q():
    checks = pd.DataFrame({"model": ["a", "a", "b"], "check": ["deletion", "insertion", "deletion"]})
    checks = checks.assign(mean=0.1, ci_low=0.0, ci_high=0.2, p=[0.01, 0.04, 0.04])
    assert judged(("ig_verdicts", "", checks))["q"].tolist() == pytest.approx([0.02, 0.04, 0.04])


def test_tables_of_stages_without_a_record_do_not_count_and_a_stale_file_goes(results):  # noqa: F811
    everything = write_study_findings(results, STAGES)
    assert {"loss_correlations.csv", "mlp_metrics.csv", "feature_model.csv"} <= set(everything.table["table"])
    some = write_study_findings(results, {"mlp_predict"})
    assert set(some.table["table"]) == {"mlp_metrics.csv"}
    written = pd.read_csv(results / "study_findings.csv", keep_default_na=False)
    assert written["what"].tolist() == some.table["what"].tolist()
    assert not {"row", "suffix"} & set(written)
    assert write_study_findings(results, ()).table.empty
    assert not (results / "study_findings.csv").exists()


def test_a_caveat_stays_with_its_rows(results):  # noqa: F811
    frame = pd.read_csv(results / "mlp_metrics.csv").assign(caveat="sample data (planted scores)")
    frame.to_csv(results / "mlp_metrics.csv", index=False)
    write_study_findings(results, STAGES)
    rows = pd.read_csv(results / "study_findings.csv", keep_default_na=False)
    said = rows.groupby("table")["caveat"].unique()
    assert said["mlp_metrics.csv"].tolist() == ["sample data (planted scores)"]
    assert said["loss_correlations.csv"].tolist() == [""]


def test_the_report_counts_tests_families_and_findings(results):  # noqa: F811
    text = read(results)
    table = pd.read_csv(results / "study_findings.csv", keep_default_na=False)
    people = table[(table["about"] == "memorability") & (table["role"] != "primary")]
    families = len(people[["table", "family"]].drop_duplicates())
    assert (
        f"Findings over the whole study {len(people)} tests about memorability, the primary hypothesis apart, in "
        f"{families} families (one per claim): {people['finding'].sum()} of them are findings."
    ) in text
    assert "lpips-sq losses yes, primary – 0.84 " in text
    assert f"< 0.001 < 0.001 {MODEL} loss_correlations.csv" in text
    assert (
        "hue features (x) with memorability yes < 0.001 -0.55 [-0.70, -0.40] 0.500 < 0.001 – feature_corr"
        in text
    )
    assert "4 tests of pictures, codes, maps and predicted scores with each other" in text


def test_a_table_that_cannot_be_read_is_said_there(results):  # noqa: F811
    path = results / "mlp_metrics.csv"
    path.write_text(path.read_text().replace("0.61", "good"))
    found = write_study_findings(results, STAGES)
    assert "mlp_metrics.csv" not in set(found.table["table"])
    assert "found line 2: 'good'" in found.missing[0]
