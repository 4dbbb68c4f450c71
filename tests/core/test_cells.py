import csv

import pandas as pd
import pytest

from utils.core.cells import as_meant, as_text
from utils.core.tables import read_table, write_table

FORMULAS = [
    "=1+1",
    "@SUM(A1)",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "\t=1",
    "\r=1",
    "=",
    "-",
    "--1",
    "-1x",
    "+1 1",
    "-inf",
]
PLAIN = [
    "",
    "bear",
    "a=b",
    "'quoted'",
    "it's",
    "-1",
    "+1.5",
    "-.5e-3",
    "1e5",
    "007",
    " =1",
    "ünïcode",
    "a\tb",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_compute_is_written_as_text(text):
    assert as_text(text) == f"'{text}"
    assert as_meant(as_text(text)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_harmless_stays_as_it_is(text):
    assert as_text(text) == text
    assert as_meant(text) == text


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
@pytest.mark.parametrize("quotes", ["'", "''", "'''"])
def test_apostrophes_that_stood_there_are_kept(text, quotes):
    assert as_meant(as_text(quotes + text)) == quotes + text


def test_numbers_and_what_is_no_text_are_not_touched():
    for cell in (-1, 1.5, None, True, float("-inf")):
        assert as_text(cell) is cell
        assert as_meant(cell) is cell


def test_tables_come_back_as_they_were_and_hold_no_formula(tmp_path):
    names = [*FORMULAS, *PLAIN[1:], *(f"'{text}" for text in FORMULAS)]
    frame = pd.DataFrame({"image_id": names, "reason": names[::-1], "stage": "=autoencoder_test()"})
    write_table(frame, tmp_path / "skipped_images.csv", "skipped_images", caveat="-sample")
    with (tmp_path / "skipped_images.csv").open(encoding="utf-8", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and cell not in PLAIN]
    back = read_table(tmp_path / "skipped_images.csv", "skipped_images")
    expected = frame.sort_values("image_id", kind="stable").reset_index(drop=True)
    pd.testing.assert_frame_equal(back[expected.columns.tolist()], expected, check_dtype=False)
    assert back["caveat"].eq("-sample").all()
