from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.core.contract import TABLES, describe_tables
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.core.tables import (
    kept_rows,
    models_with,
    output_file,
    read_csv,
    read_table,
    to_numbers,
    write_table,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "outputs.md"


def loss_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": ["b/x/2.jpg", "a/x/007.jpg"],
            "category": ["b", "a"],
            "subcategory": ["x", "x"],
            "memorability": [0.123456789012, 0.5],
            "mse": [1 / 3, 0.25],
        }
    )


def test_round_trip_sorted_and_to_nine_digits(tmp_path):
    path = output_file(tmp_path, "test_loss", "m")
    write_table(loss_frame(), path, "test_loss")
    assert path.name == "test_loss_m.csv"
    lines = path.read_text().splitlines()
    assert lines[0] == "image_id,category,subcategory,memorability,mse"
    assert lines[2] == "b/x/2.jpg,b,x,0.123456789,0.333333333"
    back = read_table(path, "test_loss")
    assert list(back["image_id"]) == ["a/x/007.jpg", "b/x/2.jpg"]
    assert back["mse"].dtype == np.float64


def test_a_caveat_is_repeated_on_every_row(tmp_path):
    write_table(loss_frame(), tmp_path / "t.csv", "test_loss", caveat="sample data")
    assert list(read_table(tmp_path / "t.csv", "test_loss")["caveat"]) == ["sample data"] * 2


def test_rows_kept_from_an_earlier_run_keep_what_was_said_of_them(tmp_path):
    def rows(epoch, **more):
        values = dict.fromkeys(("loss_mean", "loss_first_half", "loss_second_half"), 0.5)
        return pd.DataFrame([{"epoch": epoch, "images": 2, **values, **more}])

    path = tmp_path / "training_m.csv"
    write_table(rows(1), path, "training")
    old = read_table(path, "training")
    both = pd.concat([kept_rows(old, old["epoch"] == 1), rows(2)], ignore_index=True)
    write_table(both, path, "training", caveat="random weights: x")
    old = read_table(path, "training")
    assert old["caveat"].tolist() == ["", "random weights: x"]
    write_table(pd.concat([kept_rows(old, old["epoch"] > 0), rows(3)]), path, "training", caveat="sample")
    assert read_table(path, "training")["caveat"].tolist() == ["", "random weights: x", "sample"]
    none_kept = pd.concat([kept_rows(old, old["epoch"] > 9), rows(1, caveat=np.nan)])
    write_table(none_kept, path, "training", caveat="sample")
    assert read_table(path, "training")["caveat"].tolist() == ["sample"]
    write_table(kept_rows(old, old["epoch"] == 1), path, "training")
    assert "caveat" not in read_table(path, "training")


def test_a_missing_table_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(
        UserError, match=r"test_loss_m.csv is missing. It is written by: python autoencoder_test.py"
    ):
        read_table(tmp_path / "test_loss_m.csv", "test_loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="memorability"), "column memorability is missing"),
        (lambda f: f.assign(image_id="a"), "stands there more than once"),
        (lambda f: f.assign(mse=["x", 1]), r"column mse must hold finite numbers, found line 2: 'x'"),
        (lambda f: f.assign(mse=[np.inf, 1]), r"column mse must hold finite numbers, found line 2: 'inf'"),
        (lambda f: f.assign(mse=["", 1]), r"column mse must hold finite numbers, found line 2: ''"),
        (lambda f: f.assign(image_id=["", "b"]), "column image_id is empty in 1 rows"),
        (lambda f: f.assign(surprise=1), "unexpected column surprise"),
        (lambda f: f.iloc[:0], "it has a header and no rows.*python autoencoder_test.py"),
    ],
)
def test_wrong_tables_are_refused_by_file_and_column(tmp_path, change, message):
    path = tmp_path / "test_loss_m.csv"
    change(loss_frame()).to_csv(path, index=False)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path, "test_loss")
    assert str(path) in str(caught.value)


def test_writing_a_wrong_table_is_our_bug(tmp_path):
    with pytest.raises(ValueError, match="memorability is missing"):
        write_table(loss_frame().drop(columns="memorability"), tmp_path / "t.csv", "test_loss")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a CSV"),
        (b"\xff\xfe\x00binary\x81", "cannot be read as a CSV"),
        (b"a,b\n1\n2,3,4\n", "cannot"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_csv(tmp_path / "no.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_csv(tmp_path)


def test_text_stays_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,score\n007,0.5\nNA,0.25\n")
    assert list(read_csv(path, text_columns=["path"])["path"]) == ["007", "NA"]


def test_to_numbers_counts_what_it_does_not_show(tmp_path):
    with pytest.raises(UserError, match="line 2: 'a', line 3: 'b', line 4: 'c' and 1 more"):
        to_numbers(pd.Series(["a", "b", "c", "d"], name="x"), tmp_path / "t.csv")
    assert np.isnan(to_numbers(pd.Series(["", "2"], name="x"), tmp_path, allow_empty=True).iloc[0])


def test_models_with_finds_stems_with_underscores(tmp_path):
    for name in ("test_loss_a.csv", "test_loss_mem_b_1.csv", "test_losses.txt"):
        (tmp_path / name).write_text("")
    assert models_with(tmp_path, "test_loss") == ["a", "mem_b_1"]


def test_models_with_leaves_tables_of_a_longer_name_to_themselves(tmp_path):
    for name in ("net", "correlations", "measures_net", "measured"):
        (tmp_path / f"distinctiveness_{name}.csv").write_text("")
    assert models_with(tmp_path, "distinctiveness") == ["measured", "net"]
    assert models_with(tmp_path, "distinctiveness_measures") == ["net"]


def test_per_model_tables_need_a_model(tmp_path):
    with pytest.raises(ValueError, match="once per model"):
        output_file(tmp_path, "test_loss")


def test_every_loss_is_a_declared_column():
    assert [c.name for c in TABLES["test_loss"].columns if c.name in LOSSES] == list(LOSSES)


def test_declarations_are_complete():
    for name, table in TABLES.items():
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names)), name
        assert set(table.key) <= set(names), name
        assert set(table.optional) <= set(names), name
        assert all(
            column.kind in {"text", "int", "float", "bool"} and column.meaning for column in table.columns
        ), name
        assert table.about, name
        assert table.command, name


def test_the_documentation_is_made_from_the_declarations():
    assert DOCS.read_text(encoding="utf-8") == describe_tables(), (
        "run: python -m utils.core.tables > docs/outputs.md"
    )
