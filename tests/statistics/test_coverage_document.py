"""What docs/method.md says of coverage is what was recorded, and what was recorded is what is promised."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.coverage import CSV, DOCUMENT, update
from benchmarks.coverage_document import BEGIN, END, replace_tables, tables


@pytest.fixture(scope="module")
def recorded():
    return pd.read_csv(CSV)


def test_the_document_holds_the_tables_of_the_recorded_file(recorded):
    assert tables(recorded) in DOCUMENT.read_text(encoding="utf-8")


def test_recorded_coverage_lies_between_93_and_97_percent_and_nulls_are_rejected_in_3_to_7(recorded):
    covered = recorded["coverage"].dropna()
    assert len(covered) >= 18
    assert covered.between(0.93, 0.97).all()
    single = recorded[recorded["part"] != "studies"]
    rejected = single[(single["subcategories"] != 3) & single["rejected"].notna()]
    assert len(rejected) >= 14
    # A share of few simulations is known to its standard error only: boosting is fitted thousands of times for one row.
    open_to = np.where(rejected["simulations"] < 200, np.sqrt(0.05 * 0.95 / rejected["simulations"]), 0.0)
    assert (rejected["rejected"] >= 0.03 - open_to).all()
    assert (single["rejected"].dropna() <= 0.07).all(), "three subcategories may be cautious, never bold"


def test_recorded_studies_of_nothing_have_no_more_findings_than_allowed(recorded):
    """And q alone, family by family, would have found something in many of them."""
    rows = recorded[recorded["part"] == "studies"].set_index("statistic")
    for name in ("any exploratory finding in a study", "the primary hypothesis of a study"):
        count = rows.loc[name, "simulations"]
        assert rows.loc[name, "rejected"] <= stats.binom.ppf(0.975, count, 0.05) / count
    assert rows.loc["any q below 0.05 in a study", "rejected"] > 0.2
    assert rows.loc["any q below 0.05 in a family", "rejected"] <= 0.07


def test_tables_take_the_place_of_those_before_them(tmp_path, recorded):
    document = tmp_path / "method.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    replace_tables(recorded, document)
    assert document.read_text(encoding="utf-8") == f"before\n{tables(recorded)}\nafter\n"


def test_a_part_measured_again_replaces_its_own_rows_alone(tmp_path, recorded):
    path = tmp_path / "coverage.csv"
    update(path, recorded)
    again = recorded[recorded["part"] == "few"].assign(coverage=0.5)
    table = update(path, again)
    assert len(table) == len(recorded)
    assert (table.loc[table["part"] == "few", "coverage"] == 0.5).all()
    assert table.loc[table["part"] != "few", "coverage"].equals(
        recorded.loc[recorded["part"] != "few", "coverage"]
    )
