"""Score tables as people have them, and pictures by other names than the disk's."""

import logging
from pathlib import Path

import pandas as pd
import pytest
from conftest import dataset_args, make_picture
from in_process import run_here

from utils.core.errors import UserError
from utils.core.tables import write_table
from utils.data.dataset import load_dataset
from utils.data.matching import as_known, match_names
from utils.data.user_tables import NAMES, read_user_table, recognise

FILES = ["dogs/one.jpg", "dogs/two.jpg", "cats/three.png"]
SCORES = [0.75, 0.5, 0.125]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "pictures"
    for seed, name in enumerate(FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(seed, 12, 10).save(folder / name)
    return folder


def lines(names: list[str], scores: list[object], separator: str = ",", header: str = "path,score") -> str:
    rows = [separator.join((name, str(score))) for name, score in zip(names, scores, strict=True)]
    return "\n".join([header.replace(",", separator), *rows]) + "\n"


def with_commas(scores: list[float]) -> list[str]:
    return [str(score).replace(".", ",") for score in scores]


def load(pictures: Path, table: Path, **flags: object):
    return load_dataset(
        dataset_args(flags.pop("data_dir", pictures), table.parent, scores_csv=table, **flags)
    )


PERCENT = {"score_scale": "percent"}
UNDERSTOOD = {
    "commas": (lines(FILES, SCORES), {}, "comma-separated; images from column path; scores from column score"),
    "semicolons, decimal commas": (lines(FILES, with_commas(SCORES), ";"), {}, "semicolon-separated, decimal commas"),
    "semicolons, points": (lines(FILES, SCORES, ";"), {}, "semicolon-separated; images"),
    "tabs": (lines(FILES, SCORES, "\t"), {}, "tab-separated"),
    "byte-order mark": ("\ufeff" + lines(FILES, SCORES), {}, "images from column path"),
    "per cent signs": (lines(FILES, ["75%", "50 %", "12.5%"]), PERCENT, "column score in per cent"),
    "per cent, decimal commas": (lines(FILES, ["75,0 %", "50,0", "12,5%"], ";"), PERCENT, "decimal commas"),
    "0 to 100": (lines(FILES, [75, 50, 12.5]), PERCENT, "in per cent"),
    "other names": (lines(FILES, SCORES, header="File Name,Memorability"), {}, "column File Name; scores from column M"),
    "image_name, mem": (lines(FILES, SCORES, header="image_name,mem"), {}, "scores from column mem"),
    "no extensions": (lines([f.rsplit(".")[0] for f in FILES], SCORES), {}, "dogs/one.jpg for dogs/one"),
    "other case": (lines([f.upper() for f in FILES], SCORES), {}, "dogs/one.jpg for DOGS/ONE.JPG"),
    "Windows": (lines(["D:\\my study\\p\\" + f.replace("/", "\\") for f in FILES], SCORES), {}, "for D:/my study/p/d"),
    "backslashes": (lines([".\\" + f.replace("/", "\\") for f in FILES], SCORES), {}, "column path"),
    "file names alone": (lines([f.split("/")[1] for f in FILES], SCORES), {}, "dogs/one.jpg for one.jpg"),
    "one folder above": (lines(["pictures/" + f for f in FILES], SCORES), {}, "for pictures/dogs/one.jpg"),
    "an absolute path of another machine": (lines(["/home/me/" + f for f in FILES], SCORES), {}, "for /home/me/dogs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNDERSTOOD)
def test_tables_as_people_have_them(pictures, tmp_path, caplog, kind):
    caplog.set_level(logging.INFO)
    text, flags, said = UNDERSTOOD[kind]
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    dataset = load(pictures, tmp_path / "mine.csv", **flags)
    assert dataset.table.set_index("image_id")["memorability"].to_dict() == dict(
        zip(FILES, SCORES, strict=True)
    )
    assert all(Path(path).is_file() for path in dataset.table["path"])
    assert dataset.skipped == []
    assert said in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_encodings_of_spreadsheets_are_read_and_named(pictures, tmp_path, caplog, encoding):
    caplog.set_level(logging.INFO)
    text = lines(FILES, SCORES).replace("\n", ",schön\n").replace("score,schön", "score,Bemerkung für uns")
    (tmp_path / "mine.csv").write_bytes(text.encode(encoding))
    assert len(load(pictures, tmp_path / "mine.csv").table) == 3
    assert {"utf-16": "UTF-16", "cp1252": "Windows-1252"}[encoding] in caplog.text


def test_excel_files_are_read_and_the_sheet_named(pictures, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pd.ExcelWriter(tmp_path / "mine.xlsx") as book:
        pd.DataFrame({"filename": FILES, "score": SCORES}).to_excel(book, sheet_name="Scores", index=False)
        pd.DataFrame({"a": [1]}).to_excel(book, sheet_name="Notes", index=False)
    dataset = load(pictures, tmp_path / "mine.xlsx")
    assert dataset.table["memorability"].tolist() == [0.125, 0.75, 0.5]
    assert "Excel sheet Scores (the first of 2); images from column filename" in caplog.text
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="broken.xlsx cannot be read as an Excel file"):
        load(pictures, tmp_path / "broken.xlsx")
    (tmp_path / "old.xls").write_bytes(b"\xd0\xcf")
    with pytest.raises(UserError, match="Save it as .xlsx or as CSV"):
        load(pictures, tmp_path / "old.xls")


def test_numbers_in_excel_keep_the_names_of_pictures(tmp_path):
    pd.DataFrame({"image": ["007", "NA"], "score": [0.1, 0.2]}).to_excel(tmp_path / "x.xlsx", index=False)
    assert read_user_table(tmp_path / "x.xlsx").frame["image"].tolist() == ["007", "NA"]


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (lines(FILES, ["75%", "50%", "12%"]), {}, r"per cent, e.g. '75%'. Add --score-scale percent"),
        (lines(FILES, [75, 50, 12]), {}, r"run from 0 to 100, add --score-scale percent"),
        (lines(FILES, [750, 50, 12]), {}, r"Choose another with --score-column, or rescale"),
        (lines(FILES, SCORES), PERCENT, r"lies between 0.125 and 0.75. Leave the flag out"),
        (lines(FILES, [75, 50, 120]), PERCENT, r"line 4: 120"),
        (lines(FILES, SCORES, header="path,hit_rate"), {}, r"columns that hold numbers: hit_rate"),
        (lines(FILES, ["0.1,0.2"] * 3, header="path,memorability,mem"), {}, r"memorability and mem could each be"),
        (lines(FILES, SCORES).partition("\n")[2], {}, r"names a picture \(dogs/one.jpg\), so the header is missing"),
        (lines(FILES, ["0,5", "0.5", "0,1"], ";"), {}, r"finite numbers, found line 2: '0,5'"),
    ],
)  # fmt: skip
def test_what_could_mean_two_things_is_an_error_that_names_the_way_out(
    pictures, tmp_path, text, flags, message
):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load(pictures, tmp_path / "mine.csv", **flags)
    assert "mine.csv" in str(caught.value)


def test_what_cannot_be_told_shows_the_first_rows(pictures, tmp_path):
    (tmp_path / "mine.csv").write_text(lines(FILES, ["0.1,0.2"] * 3, header="path,memorability,mem"))
    with pytest.raises(UserError) as caught:
        load(pictures, tmp_path / "mine.csv")
    assert str(caught.value).endswith(
        "Its first lines:\n  path,memorability,mem\n  dogs/one.jpg,0.1,0.2\n  dogs/two.jpg,0.1,0.2\n  cats/three.png,0.1,0.2"
    )


def test_a_data_folder_one_level_too_deep_is_noticed(pictures, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "mine.csv").write_text(lines(FILES, SCORES))
    dataset = load(pictures, tmp_path / "mine.csv", data_dir=pictures / "dogs")
    assert dataset.table["image_id"].tolist() == sorted(FILES)
    assert "one folder above --data-dir" in caplog.text


def test_a_picture_that_is_missing_is_not_replaced_by_another_of_its_name(tmp_path):
    """The table knows both folders, and the file of one is gone."""
    for name in ("dogs/one.jpg", "dogs/two.jpg"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(1, 12, 10).save(tmp_path / "p" / name)
    (tmp_path / "mine.csv").write_text(lines(["dogs/two.jpg", "cats/one.jpg", "cats/two.jpg"], SCORES))
    dataset = load(tmp_path / "p", tmp_path / "mine.csv")
    assert dataset.table["image_id"].tolist() == ["dogs/two.jpg"]
    assert {name for name, why in dataset.skipped if "not on disk" in why} == {"cats/one.jpg", "cats/two.jpg"}


def test_a_name_that_fits_two_files_is_refused(tmp_path):
    names = ["one", "two"]
    files = ["one.jpg", "one.png", "two.jpg"]
    with pytest.raises(UserError, match=r"'one' may mean one.jpg or one.png"):
        match_names(names, files, tmp_path)
    assert match_names(["one.png", "two.jpg"], files, tmp_path) == {
        "one.png": "one.png",
        "two.jpg": "two.jpg",
    }


def test_of_two_copies_the_folder_that_has_more_is_taken(tmp_path):
    files = ["old/one.jpg", "new/one.jpg", "new/two.jpg"]
    assert match_names(["one.jpg", "two.jpg"], files, tmp_path) == {
        "one.jpg": "new/one.jpg",
        "two.jpg": "new/two.jpg",
    }


def test_folders_are_dropped_only_where_they_say_where_the_pictures_lie(tmp_path):
    files = ["cats/one.jpg"]
    assert match_names(["dogs/one.jpg"], files, tmp_path, "pictures") == {}
    assert match_names(["pictures/one.jpg"], files, tmp_path, "pictures") == {
        "pictures/one.jpg": "cats/one.jpg"
    }
    assert match_names(["C:/x/one.jpg"], files, tmp_path, "pictures") == {"C:/x/one.jpg": "cats/one.jpg"}


def test_later_stages_call_images_as_the_earlier_found_them():
    table = Path("mine.csv")
    known = pd.Series(FILES)
    for names in (["one", "two", "three"], ["D:/p/" + name for name in FILES], FILES[:2]):
        assert set(as_known(pd.Series(names), known, table)) <= set(FILES)
    assert as_known(pd.Series(["dogs/one.jpg", "birds/two.jpg"]), known, table).tolist()[1] == "birds/two.jpg"


def test_the_first_name_of_the_list_wins_in_any_spelling():
    assert recognise(["File", "Image ID", "PATH"], NAMES["image"]) == "PATH"
    assert recognise(["File-Name", "x"], NAMES["image"]) == "File-Name"
    assert recognise(["x"], NAMES["score"]) is None


def test_stage_3_finds_the_scores_of_images_that_the_table_calls_otherwise(tmp_path):
    """Losses by image_id as it was found on disk, scores by bare file name, in per cent."""
    names = [f"{number}.jpg" for number in range(12)]
    ids = [f"{'dogs' if number < 6 else 'cats'}/{name}" for number, name in enumerate(names)]
    rows = pd.DataFrame({"image_id": ids, "category": "", "subcategory": ""})
    rows = rows.assign(mse=[(7 * n % 12) / 12 for n in range(12)], memorability=[n / 12 for n in range(12)])
    (tmp_path / "out").mkdir()
    write_table(rows, tmp_path / "out" / "test_loss_m.csv", "test_loss")
    scores = [str(round(100 * n / 12, 6)).replace(".", ",") + " %" for n in range(12)]
    (tmp_path / "mine.csv").write_text(lines(names, scores, ";", header="file,mem"))
    flags = (
        "--scores-csv",
        tmp_path / "mine.csv",
        "--score-scale",
        "percent",
        "--resamples",
        10,
        "--splits",
        2,
    )
    done = run_here("autoencoder_evaluation.py", "--output-path", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "loss_correlations.csv")
    assert table["n"].tolist() == [12]


def test_losses_from_elsewhere_are_read_in_the_same_dialects(tmp_path):
    values = [str(n / 12).replace(".", ",") for n in range(12)]
    rows = [f"{n}.jpg;{values[n]};{values[-n]}" for n in range(12)]
    (tmp_path / "theirs.csv").write_text("\n".join(["Filename;Reconstruction Error;Mem", *rows]) + "\n")
    flags = ("--table", tmp_path / "theirs.csv", "--resamples", 10, "--splits", 2)
    done = run_here("autoencoder_evaluation.py", "--output-path", tmp_path / "out", *flags)
    assert done.returncode == 0, done.stderr
    assert (
        "semicolon-separated, decimal commas; images from column Filename; losses from column" in done.stderr
    )
    assert pd.read_csv(tmp_path / "out" / "loss_correlations.csv")["n"].tolist() == [12]


def test_a_data_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text(lines(FILES, SCORES))
    with pytest.raises(
        UserError, match=r"There is no folder .*gone\. Name the one with the images with --data-dir"
    ):
        load(tmp_path / "gone", tmp_path / "mine.csv")
