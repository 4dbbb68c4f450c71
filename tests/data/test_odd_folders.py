"""Folders and tables that a careful person would not make, and somebody always has."""

import os
import shutil

import pandas as pd
import pytest
from conftest import dataset_args, make_picture

from utils.core.digests import list_pictures, name_pictures
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.run import Run
from utils.core.shards import run_sharded
from utils.core.tables import read_table, write_table
from utils.data import folders
from utils.data.dataset import load_dataset
from utils.data.images import list_images, load_pixels
from utils.data.inside import one_spelling
from utils.data.matching import pictures_below
from utils.pretraining.pictures import pictures_of_folder


@pytest.fixture
def study(tmp_path):
    """data/pictures/{a,b,c}.png, and outside/d.png beside data."""
    for number, name in enumerate(("data/pictures/a", "data/pictures/b", "data/pictures/c", "outside/d")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number, 40, 32).save(path)
    return tmp_path


def load(study, rows, **options):
    table = study / "data" / "scores.csv"
    table.write_text("path,score\n" + "".join(f"{name},{score}\n" for name, score in rows))
    return load_dataset(dataset_args(study / "data", study / "out", scores_csv=table, **options))


# ------------------------------------------------------------------------------------ paths that lead outside


def test_a_path_that_leads_out_of_the_data_folder_is_refused_unless_asked_for(study):
    rows = [("pictures/a.png", 0.5), ("../outside/d.png", 0.7)]
    expected = r"1 of 2 paths lead out of .*data, e\.g\. to .*/outside/d\.png.*--data-dir.*--allow-outside"
    with pytest.raises(UserError, match=expected):
        load(study, rows)
    assert load(study, rows, allow_outside=True).table["image_id"].tolist() == [
        "../outside/d.png",
        "pictures/a.png",
    ]


@pytest.mark.parametrize(
    "name", ["pictures/../../outside/d.png", "{study}/outside/d.png", "./../outside/d.png"]
)
def test_however_it_is_written(study, name):
    with pytest.raises(UserError, match="--allow-outside"):
        load(study, [("pictures/a.png", 0.5), (name.format(study=study), 0.7)])


def test_a_folder_whose_name_begins_alike_is_outside(study):
    shutil.copytree(study / "outside", study / "data-private")
    with pytest.raises(UserError, match="--allow-outside"):
        load(study, [("pictures/a.png", 0.5), ("../data-private/d.png", 0.7)])


def test_absolute_paths_inside_and_links_that_the_folders_owner_made_are_read(study):
    (study / "data" / "linked").symlink_to(study / "outside")
    rows = [("pictures/a.png", 0.5), (f"{study}/data/pictures/b.png", 0.6), ("linked/d.png", 0.7)]
    assert load(study, rows).table["image_id"].tolist() == [
        "linked/d.png",
        "pictures/a.png",
        "pictures/b.png",
    ]


def test_paths_of_another_machine_are_missing_and_not_forbidden(study):
    dataset = load(study, [("pictures/a.png", 0.5), ("/home/else/d.png", 0.7), ("../elsewhere/d.png", 0.7)])
    assert dataset.table["image_id"].tolist() == ["pictures/a.png"]
    assert [reason for _, reason in dataset.skipped] == ["in the table but not on disk"] * 2
    table = study / "data" / "scores.csv"
    table.write_text("path,score\n/home/else/d.png,0.5\n/home/else/e.png,0.6\n")
    args = dataset_args(study / "data", study / "out", scores_csv=table)
    assert load_dataset(args, pictures=False).table["path"].tolist() == ["", ""]


def test_a_table_of_absolute_paths_alone_has_its_own_root(study):
    rows = [(f"{study}/outside/d.png", 0.5), (f"{study}/data/pictures/b.png", 0.6)]
    dataset = load(study, rows)
    assert dataset.root == study
    assert dataset.table["image_id"].tolist() == ["data/pictures/b.png", "outside/d.png"]


# ------------------------------------------------------------------------------------ spellings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a//b.png", "a/b.png"),
        ("a/./b.png", "a/b.png"),
        ("c/../a/b.png", "a/b.png"),
        ("../b.png", "../b.png"),
        ("", ""),
    ],
)
def test_one_spelling(name, expected):
    assert one_spelling(name) == expected


def test_one_picture_under_several_spellings_is_one_picture(study):
    rows = [
        ("pictures//a.png", 0.5),
        ("pictures/a.png", 0.5),
        ("pictures/../pictures/b.png", 0.6),
        ("pictures/c.png", 0.7),
    ]
    dataset = load(study, rows)
    assert dataset.table["image_id"].tolist() == ["pictures/a.png", "pictures/b.png", "pictures/c.png"]
    assert dataset.skipped == [("pictures/a.png", "listed 2 times with equal values, used once")]
    contradicting = load(study, [("pictures//a.png", 0.5), ("pictures/a.png", 0.9), ("pictures/c.png", 0.7)])
    assert contradicting.table["image_id"].tolist() == ["pictures/c.png"]
    mixed = load(
        study, [(f"{study}/data/pictures/a.png", 0.5), ("pictures/a.png", 0.5), ("pictures/c.png", 0.7)]
    )
    assert mixed.table["image_id"].tolist() == ["pictures/a.png", "pictures/c.png"]


# ------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_two_columns_of_one_name_are_refused_naming_them(study, separator):
    table = study / "data" / "scores.csv"
    lines = [["path", "score", "note", "score"], ["pictures/a.png", "0.5", "x", "0.9"]]
    table.write_text("".join(separator.join(line) + "\n" for line in lines))
    with pytest.raises(
        UserError, match=r"scores\.csv: columns of one name: score \(2 times\)\. Rename or remove"
    ):
        load_dataset(dataset_args(study / "data", study / "out", scores_csv=table))


def test_two_columns_of_one_name_in_excel(study):
    table = study / "data" / "scores.xlsx"
    pd.DataFrame([["path", "score", "score"], ["pictures/a.png", 0.5, 0.9]]).to_excel(
        table, header=False, index=False
    )
    with pytest.raises(UserError, match=r"score \(2 times\)"):
        load_dataset(dataset_args(study / "data", study / "out", scores_csv=table))


def test_empty_names_and_names_that_only_look_numbered_are_no_repetition(study):
    table = study / "data" / "scores.csv"
    table.write_text("path,score,score.1,,\npictures/a.png,0.5,0.9,,\n")
    loaded = load_dataset(dataset_args(study / "data", study / "out", scores_csv=table))
    assert loaded.table["memorability"].tolist() == [0.5]


# ------------------------------------------------------------------------------------ links and closed folders


def test_links_in_a_circle_and_to_nowhere_are_no_hindrance(study):
    for folder in (study / "data", study / "data" / "pictures"):
        (folder / "circle.png").symlink_to("circle.png")
        (folder / "circle").symlink_to("circle")
        (folder / "back").symlink_to(study / "data")
        (folder / "nowhere.png").symlink_to("absent.png")
    rows = [("a.png", 0.5), ("b.png", 0.6), ("c.png", 0.7)]  # under a root that has to be looked for
    dataset = load(study, rows)
    assert dataset.root == study / "data" / "pictures"
    assert [path.name for path in list_images([study / "data"])] == ["a.png", "b.png", "c.png"]
    assert list_pictures(study / "data" / "pictures") == ["a.png", "b.png", "c.png"]


def close(monkeypatch, closed):
    """Close a folder to this user: the tests may run as root, who may look everywhere."""
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_closed_folder_beside_the_pictures_is_named_and_left_out(study, monkeypatch, caplog):
    (study / "data" / "deep").mkdir()
    (study / "data" / "pictures").rename(study / "data" / "deep" / "pictures")
    closed = study / "data" / "closed"
    closed.mkdir()
    close(monkeypatch, closed)
    dataset = load(study, [("a.png", 0.5), ("b.png", 0.6)])
    assert len(dataset.table) == 2
    assert f"{closed} cannot be looked into (Permission denied); what is in it is left out." in caplog.text
    caplog.clear()
    assert len(list_images([study / "data"])) == 3
    assert str(closed) in caplog.text
    assert folders.subfolders(closed) == []
    assert name_pictures(closed)["pictures"] == 0


# ------------------------------------------------------------------------------------ names that are not UTF-8


@pytest.fixture
def latin(study):
    """A picture whose name is Latin-1, as an old archive unpacks it."""
    path = os.path.join(os.fsencode(study / "data" / "pictures"), b"caf\xe9.png")
    try:
        shutil.copy(study / "data" / "pictures" / "a.png", path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    return os.fsdecode(path)


def test_a_name_that_is_not_utf8_is_said_and_left_out(study, latin, caplog):
    assert pictures_below(study / "data") == [f"pictures/{name}.png" for name in "abc"]
    assert "pictures/caf\\udce9.png is left out: its name is not UTF-8" in caplog.text
    assert len(list_images([study / "data"])) == 4
    assert load_pixels(latin, 32).shape == (3, 32, 32)
    assert pictures_of_folder(study / "data")["image_id"].tolist() == pictures_below(study / "data")


def test_a_name_that_is_not_utf8_beside_the_tables_pictures_is_named(mini_memcat, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(mini_memcat, data)
    name = os.fsencode(data / "MemCat_images" / "MemCat" / "animal" / "bear") + b"/caf\xe9.jpg"
    with open(name, "wb") as stream:
        stream.write(b"x")
    args = dataset_args(data, tmp_path / "out")
    with Run("autoencoder_test", args) as run:
        run.report_skipped(load_dataset(args).skipped)
        log.warning("%s", os.fsdecode(name))
    table = read_table(tmp_path / "out" / "skipped_images.csv", "skipped_images")
    assert table["image_id"].tolist() == ["animal/bear/caf\\udce9.jpg"]
    assert "caf\\udce9.jpg" in (tmp_path / "out" / "logs" / "autoencoder_test.log").read_text(
        encoding="utf-8"
    )


def test_a_table_takes_whatever_name_comes(tmp_path):
    frame = pd.DataFrame({"image_id": ["a\udce9.jpg"], "reason": ["x"], "stage": ["s"]})
    write_table(frame, tmp_path / "skipped_images.csv", "skipped_images")
    assert "a\\udce9.jpg" in (tmp_path / "skipped_images.csv").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------ gone while read


def test_a_folder_deleted_while_its_pictures_are_read_ends_the_run(study, monkeypatch):
    images = pd.DataFrame({"image_id": ["a", "b", "c"]})
    images["path"] = [str(study / "data" / "pictures" / f"{name}.png") for name in images["image_id"]]

    def load_then_delete(path):
        pixels = load_pixels(path, 32)
        shutil.rmtree(study / "data", ignore_errors=True)
        return {"mean": float(pixels.mean())}

    with pytest.raises(
        UserError, match="pictures is gone since this run started.*run the same command again"
    ):
        run_sharded(
            "job", images, None, output_path=study / "out", settings={}, load=load_then_delete, workers=0
        )


def test_a_single_deleted_picture_is_left_out_as_before(study):
    images = pd.DataFrame({"image_id": ["a", "b"]})
    images["path"] = [str(study / "data" / "pictures" / f"{name}.png") for name in images["image_id"]]
    (study / "data" / "pictures" / "b.png").unlink()

    def load_mean(path):
        return {"mean": float(load_pixels(path, 32).mean())}

    result = run_sharded(
        "job", images, None, output_path=study / "out", settings={}, load=load_mean, workers=0
    )
    assert result.skipped == [("b", "the file does not exist")]
