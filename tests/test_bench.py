"""What the measuring of speed rests on: tiny pictures, exponents, the table."""

import pandas as pd
import pytest
from PIL import Image

from benchmarks.bench import exponent, table_lines
from benchmarks.tiny_pictures import write_tiny_pictures


def test_any_number_of_tiny_pictures_with_scores(tmp_path):
    table = pd.read_csv(write_tiny_pictures(tmp_path, 20, different=3))
    assert len(table) == table["path"].nunique() == 20
    assert table["score"].between(0, 1).all()
    assert table["category"].nunique() == 5
    sizes = {Image.open(tmp_path / path).size for path in table["path"]}
    assert sizes == {(32, 24)}
    assert len({(tmp_path / path).stat().st_ino for path in table["path"]}) == 3
    assert len({(tmp_path / path).read_bytes() for path in table["path"]}) == 3


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_is_that_of_the_times(power):
    rows = pd.DataFrame({"size": [1, 2, 4], "processor_seconds": [3 * n**power for n in (1, 2, 4)]})
    assert exponent(rows) == pytest.approx(power)


def test_the_table_states_times_per_unit_and_ratios_at_the_largest_size():
    seconds = {"plain": 4.0, "float32": 1.0, "fast": 0.5}  # per picture
    rows = [
        {"job": "forward", "side": side, "size": n, "processor_seconds": n * each, "peak_memory_mb": 100}
        for side, each in seconds.items()
        for n in (1, 2, 4)
    ]
    line = table_lines(pd.DataFrame(rows))[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:5] == ["4 s (4 times ours)", "1 s", "--precision bf16", "0.5 s, 0.50"]
    assert cells[6:] == ["1.00", "100 MB"]
