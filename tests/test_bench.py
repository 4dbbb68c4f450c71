"""What the measuring of speed rests on: tiny pictures, exponents, the table."""

import re

import pandas as pd
import pytest
from conftest import PROJECT_ROOT
from PIL import Image

from benchmarks.bench import DOCUMENT, MARKS, README, brief_lines, exponent, table_lines
from benchmarks.bench_jobs import JOBS
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


def made_up_times(job: str, sizes: tuple[int, ...], per_unit: dict[str, float]) -> pd.DataFrame:
    rows = [
        {
            "job": job,
            "side": side,
            "size": n,
            "processor_seconds": n * each,
            "wall_seconds": 2 * n * each,
            "peak_memory_mb": 100.0,
        }
        for side, each in per_unit.items()
        for n in sizes
    ]
    return pd.DataFrame(rows)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_states_times_per_unit_and_ratios_at_the_largest_size():
    times = made_up_times("forward", (1, 2, 4), {"plain": 4.0, "float32": 1.0, "fast": 0.5})
    cells = cells_of(table_lines(times)[-1])
    assert cells[1:6] == ["4 s (4 times ours)", "1 s", "0.5 s --precision bf16", "0.50 of ours", "0.23"]
    assert cells[7:] == ["1 s", "1.00", "100 MB"]
    assert cells_of(brief_lines(times)[-1])[1:] == ["4 s", "1 s", "0.5 s: --precision bf16"]


def test_without_a_faster_flag_ours_is_held_to_the_plain_recipe_and_whole_runs_are_not_divided():
    times = made_up_times("neighbours", (1, 2, 4), {"plain": 4.0, "float32": 1.0})
    assert cells_of(table_lines(times)[-1])[2:6] == ["1 s", "1 s", "0.25 of plain", "1"]
    times = made_up_times("unchanged", (100, 300, 1000), {"float32": 0.001}).assign(
        peak_memory_mb=float("nan")
    )
    assert cells_of(table_lines(times)[-1])[2:4] == ["1 s", "1 s"]
    assert cells_of(table_lines(times)[-1])[-1] == ""


@pytest.mark.parametrize(("document", "lines"), [(DOCUMENT, table_lines), (README, brief_lines)])
def test_the_documents_hold_what_the_measurement_gives(document, lines):
    begin, end = MARKS[document]
    written = document.read_text(encoding="utf-8").split(begin)[1].split(end)[0].strip().splitlines()
    (source,) = re.findall(r"benchmarks/results/bench_\S+\.csv", written[0])
    table = pd.read_csv(PROJECT_ROOT / source)
    assert table["job"].isin(JOBS).all()
    assert written[2:] == lines(table)


def test_each_job_has_three_sizes_and_ours():
    for job in JOBS.values():
        assert len(set(job.sizes)) == 3
        assert "float32" in job.sides
        assert bool(job.fast) == ("fast" in job.sides)
