"""For all tables, not for chosen ones: what is written is read back, and no join loses a row unnoticed."""

import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils.core.errors import UserError
from utils.core.files import read_json, write_json
from utils.core.shard_files import Shard, read_header, shard_path
from utils.core.tables import read_table, write_table
from utils.data.scores import read_scores

QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
# Everything a cell of text may hold but surrogates and NUL, with what is known to be mistaken for something else.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(
        [
            *(
                "007",
                "1e3",
                "NA",
                "NaN",
                "null",
                "None",
                "true",
                "-",
                "+1",
                "=1+1",
                "@x",
                "1,5",
                "a,b",
                'a"b',
                '"',
                "'",
            ),
            *(
                "a\nb",
                "a\r\nb",
                "a\rb",
                " a ",
                "\t",
                "\ufeffa",
                "表",
                "e\u0301",
                "\u2028",
                "#1",
                "inf",
                "0x10",
                "1_000",
            ),
        ]
    ),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
NAMES = st.lists(TEXT.filter(lambda text: text != ""), min_size=1, max_size=6, unique=True)


def nine_digits(values):
    return [float(f"{value:.9g}") for value in values]


@st.composite
def splits_tables(draw):
    ids = draw(NAMES)
    texts = st.lists(TEXT, min_size=len(ids), max_size=len(ids))
    numbers = st.lists(FLOATS, min_size=len(ids), max_size=len(ids))
    parts = st.lists(st.sampled_from(["train", "val", "test"]), min_size=len(ids), max_size=len(ids))
    return pd.DataFrame(
        {
            "image_id": ids,
            "category": draw(texts),
            "subcategory": draw(texts),
            "memorability": draw(numbers),
            "split": draw(parts),
        }
    )


@QUICK
@given(frame=splits_tables())
def test_what_is_written_is_read_back(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "splits.csv"
    write_table(frame, path, "splits")
    read = read_table(path, "splits")
    expected = frame.sort_values("image_id", kind="stable").reset_index(drop=True)
    for name in ("image_id", "category", "subcategory", "split"):
        assert read[name].tolist() == expected[name].tolist(), name
    assert read["memorability"].tolist() == nine_digits(expected["memorability"])


@QUICK
@given(frame=splits_tables())
def test_written_again_it_is_the_same_bytes(tmp_path: Path, frame: pd.DataFrame) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_table(frame, first, "splits")
    write_table(read_table(first, "splits"), second, "splits")
    assert second.read_bytes() == first.read_bytes()


def test_a_bare_carriage_return_ends_no_row(tmp_path: Path) -> None:
    """Found by the test above: the csv module leaves it unquoted."""
    frame = pd.DataFrame({"image_id": ["a"], "category": ["\r"], "subcategory": ["x\ry"]})
    write_table(frame.assign(memorability=0.5, split="test"), tmp_path / "splits.csv", "splits")
    read = read_table(tmp_path / "splits.csv", "splits")
    assert read[["category", "subcategory", "memorability"]].to_numpy().tolist() == [["\r", "x\ry", 0.5]]


@QUICK
@given(frame=splits_tables(), rng=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(tmp_path: Path, frame: pd.DataFrame, rng: object) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_table(frame, first, "splits")
    order = list(range(len(frame)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    write_table(frame.iloc[order], second, "splits")
    assert second.read_bytes() == first.read_bytes()


@QUICK
@given(frame=splits_tables(), data=st.data())
def test_of_a_damaged_table_comes_a_table_or_one_message(
    tmp_path: Path, frame: pd.DataFrame, data: st.DataObject
) -> None:
    path = tmp_path / "splits.csv"
    write_table(frame, path, "splits")
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 20, len(content))))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=8)) + content[end:])
    message = ""
    try:
        read = read_table(path, "splits")
    except UserError as error:
        message = str(error)
    if message:
        assert str(path) in message
    else:
        assert not read["image_id"].duplicated().any()
        assert np.isfinite(read["memorability"]).all()


CELLS = st.text(string.ascii_letters + "äß表 ,\"'_-=", min_size=1, max_size=8).map(str.strip).filter(bool)


@QUICK
@given(
    names=st.lists(CELLS, min_size=1, max_size=8, unique=True),
    scores=st.lists(st.floats(-1, 1, width=64), min_size=8, max_size=8),
)
def test_no_row_of_a_score_table_is_lost(tmp_path: Path, names: list[str], scores: list[float]) -> None:
    path = tmp_path / "scores.csv"
    frame = pd.DataFrame({"path": [f"{name}.jpg" for name in names], "score": scores[: len(names)]})
    frame.to_csv(path, index=False)
    table, column = read_scores(path)
    assert column == "score"
    assert table["image_id"].tolist() == frame["path"].tolist()
    assert table["memorability"].tolist() == pytest.approx(frame["score"].tolist(), abs=1e-15)


@QUICK
@given(present=st.lists(st.booleans(), min_size=2, max_size=6).filter(any))
def test_every_image_of_the_table_is_used_or_named(
    tmp_path_factory: pytest.TempPathFactory, present: list[bool]
) -> None:
    """The join of table and pictures: what is on one side alone is in ``skipped``, by name."""
    from utils.data.dataset import load_dataset

    folder = tmp_path_factory.mktemp("join")
    names = [f"{number}.jpg" for number in range(len(present))]
    pd.DataFrame({"path": names, "score": 0.5}).to_csv(folder / "scores.csv", index=False)
    for name, there in zip(names, present, strict=True):
        if there:
            (folder / name).write_bytes(b"x")
    args = dataset_args(folder, folder, scores_csv=folder / "scores.csv", score_column="score")
    dataset = load_dataset(args)
    skipped = [name for name, _ in dataset.skipped]
    assert sorted([*dataset.table["image_id"], *skipped]) == sorted(names)
    assert dataset.table["image_id"].tolist() == [n for n, there in zip(names, present, strict=True) if there]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(content=st.dictionaries(TEXT, JSON, max_size=4))
def test_a_record_is_read_back(tmp_path: Path, content: dict[str, object]) -> None:
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content


@QUICK
@given(
    rows=st.lists(
        st.dictionaries(TEXT, st.one_of(FLOATS, TEXT, st.binary(max_size=9)), max_size=3), max_size=4
    )
)
def test_a_shard_is_read_back(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    shard = Shard(rows=[{"image_id": str(number), **row} for number, row in enumerate(rows)])
    shard.write(shard_path(tmp_path, 0))
    assert read_header(shard_path(tmp_path, 0))["rows"] == shard.rows
