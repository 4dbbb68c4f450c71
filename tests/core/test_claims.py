"""Who wrote what: a file that changed since is refused, accepted or mended; a kill between two moments harms nobody."""

import hashlib
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import dataset_args, edit_in_place

from utils.core.claims import check_unchanged, written_by
from utils.core.errors import ChangedFileError, UserError
from utils.core.files import atomic_path
from utils.core.matrix_files import map_matrix
from utils.core.records import read_run
from utils.core.run import Run
from utils.core.tables import models_with, read_table
from utils.data.dataset import load_dataset

FILE = "training_m.csv"


def training(loss: float = 0.5) -> pd.DataFrame:
    columns = ["loss_mean", "loss_first_half", "loss_second_half"]
    return pd.DataFrame({"epoch": [1, 2], "images": [2, 2]}).assign(**dict.fromkeys(columns, loss))


def run(output: Path, stage: str = "writer", **flags: object) -> Run:
    return Run(stage, Namespace(output_path=output, **flags))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with one table in it, written by a stage."""
    monkeypatch.setattr("utils.core.cli._command", ["writer.py", "--seed", "3", "--output-path", "a b"])
    with run(tmp_path) as writer:
        writer.write_table(training(), "training", "m")
    return tmp_path


def edit(folder: Path, how: str) -> None:
    """Change a table so that it is still one: another number of the same length, a row less, half a number."""
    text = (folder / FILE).read_text()
    if how == "a number":
        edit_in_place(folder / FILE, text.replace("0.5", "0.4", 1))
    elif how == "a row less":
        (folder / FILE).write_text("".join(text.splitlines(keepends=True)[:-1]))
    else:
        (folder / FILE).write_text(text[:-2])


HOWS = ("a number", "a row less", "cut short")


@pytest.mark.parametrize("how", HOWS)
def test_a_table_that_changed_since_it_was_written_is_refused_with_the_command_that_wrote_it(
    written: Path, how: str
) -> None:
    """An edited hand-over; one cut short."""
    edit(written, how)
    with pytest.raises(ChangedFileError) as caught, run(written, "reader") as reader:
        reader.read_table("training", "m")
    assert f"{written / FILE} has changed since it was written (20" in str(caught.value)
    assert "delete it and run: python writer.py --seed 3 --output-path 'a b'\n" in str(caught.value)
    assert "--accept-edited" in str(caught.value)
    with pytest.raises(UserError, match="has changed since"):  # by whatever way it is read
        read_table(written / FILE, "training")


@pytest.mark.parametrize("how", HOWS)
def test_its_writer_run_again_mends_it(written: Path, how: str) -> None:
    before = (written / FILE).read_bytes()
    edit(written, how)
    with run(written) as writer:
        writer.write_table(training(), "training", "m")
    assert (written / FILE).read_bytes() == before
    with run(written, "reader") as reader:
        reader.read_table("training", "m")


def test_an_edit_on_purpose_is_taken_recorded_and_marked_from_then_on(written: Path) -> None:
    edit(written, "a number")
    digest_of = {name: claim.sha256 for name, claim in written_by(written).items()}
    with run(written, "reader", accept_edited=True) as reader:
        assert reader.read_table("training", "m")["loss_mean"].tolist() == [0.4, 0.5]
        reader.write_table(training(), "training", "n")
    record = read_run(written, "reader")
    assert list(record["accepted_edits"]) == [FILE]
    assert record["accepted_edits"][FILE] != digest_of[FILE]
    assert record["caveats"] == [f"edited by hand: {FILE}"]
    assert set(read_table(written / "training_n.csv", "training")["caveat"]) == {f"edited by hand: {FILE}"}
    with run(written, "another") as other:  # without the flag
        other.read_table("training", "m")
        assert other.caveat == f"edited by hand: {FILE}"
    assert written_by(written)[FILE].stage == "writer"
    edit(written, "a row less")
    with pytest.raises(ChangedFileError, match="python writer.py"):  # what was accepted was another edit
        read_table(written / FILE, "training")
    with run(written) as writer:
        writer.write_table(training(), "training", "m")
    with run(written, "another") as other:
        other.read_table("training", "m")
        assert other.caveat == ""


def test_a_file_that_no_stage_wrote_is_read_as_it_is(written: Path) -> None:
    training(0.3).to_csv(written / "training_own.csv", index=False)
    with run(written, "reader") as reader:
        assert reader.read_table("training", "own")["loss_mean"].tolist() == [0.3, 0.3]
    training(0.2).to_csv(written / "training_own.csv", index=False)
    with run(written, "reader") as reader:
        assert reader.read_table("training", "own")["loss_mean"].tolist() == [0.2, 0.2]


def test_a_folder_that_was_copied_is_as_good(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "output"
    shutil.copytree(written, copy)
    with run(copy, "reader") as reader:
        reader.read_table("training", "m")
    edit(copy, "a number")
    with pytest.raises(ChangedFileError):
        read_table(copy / FILE, "training")


def test_records_from_before_there_were_claims_are_held_to_as_well(written: Path) -> None:
    shutil.rmtree(written / "runs")
    read_table(written / FILE, "training")
    edit(written, "a number")
    with pytest.raises(ChangedFileError, match="python writer.py --seed 3"):
        read_table(written / FILE, "training")


@pytest.mark.parametrize("damage", ["a folder", "binary", "empty"])
def test_lost_claims_harm_no_run_and_the_record_stands_in_for_them(written: Path, damage: str) -> None:
    ledger = written / "runs" / "writer.written.log"
    ledger.unlink()
    if damage == "a folder":
        ledger.mkdir()
    else:
        ledger.write_bytes(bytes(range(256)) if damage == "binary" else b"")
    read_table(written / FILE, "training")
    edit(written, "a number")
    with pytest.raises(ChangedFileError, match="python writer.py --seed 3"):
        read_table(written / FILE, "training")
    with run(written) as writer:
        writer.write_table(training(), "training", "m")
    read_table(written / FILE, "training")


def test_a_file_where_the_folder_of_records_belongs_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with (
        pytest.raises(UserError, match="runs is a file; a folder of run records belongs there"),
        run(tmp_path),
    ):
        pass


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up or settled after it."""


def kill(folder: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the table anew and die before or after it takes its name, leaving what a killed process leaves."""
    replace = os.replace

    def dying(source: Path, target: Path) -> None:
        if Path(target).name == FILE:
            if moment == "after":
                replace(source, target)
            shutil.copytree(folder, folder.parent / "left", dirs_exist_ok=True)
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed), run(folder) as writer:
            writer.write_table(training(0.25), "training", "m")


@pytest.mark.parametrize(("moment", "value"), [("before", 0.5), ("after", 0.25)])
def test_a_stage_killed_around_a_write_accuses_no_file_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, moment: str, value: float
) -> None:
    """The claim is made first, so that neither the old nor the new file is taken for an edited one."""
    folder = tmp_path_factory.mktemp("killed") / "output"
    with run(folder) as writer:
        writer.write_table(training(), "training", "m")
    kill(folder, moment, monkeypatch)
    left = folder.parent / "left"
    with run(left, "reader") as reader:
        assert reader.read_table("training", "m")["loss_mean"].tolist() == [value, value]
    with run(left):  # settles which of the two stands
        pass
    (claim,) = (claim for name, claim in written_by(left).items() if name == FILE)
    assert claim.before is None
    read_table(left / FILE, "training")
    edit_in_place(left / FILE, (left / FILE).read_text().replace(str(value), str(value)[:-1] + "1", 1))
    with pytest.raises(ChangedFileError):
        read_table(left / FILE, "training")


def test_a_file_new_to_the_folder_whose_write_was_killed_is_claimed_by_nobody(tmp_path: Path) -> None:
    with run(tmp_path) as writer:
        writer.write_table(training(), "training", "m")
        (tmp_path / FILE).unlink()  # as if the rename had never come
    assert FILE not in (tmp_path / "runs" / "writer.written.log").read_text()


def test_a_line_that_a_kill_cut_short_says_nothing_and_harms_no_other(written: Path) -> None:
    ledger = written / "runs" / "writer.written.log"
    ledger.write_text(ledger.read_text() + '\n{"file": "training_n.csv", "sha')
    with run(written) as writer:
        writer.write_table(training(), "training", "k")
    assert sorted(written_by(written)) == ["training_k.csv", FILE]
    assert [json.loads(line)["file"] for line in ledger.read_text().splitlines()] == [FILE, "training_k.csv"]


def test_rows_of_other_models_in_a_table_that_was_edited_are_left_out_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A table of several models, edited: its writer, run again, ends well and carries no unproved row on."""
    with run(tmp_path, "one") as one:
        one.report_skipped([("a.jpg", "empty")])
    path = tmp_path / "skipped_images.csv"
    path.write_text(path.read_text().replace("empty", "emptied"))
    with run(tmp_path, "two") as two:
        two.report_skipped([("b.jpg", "gone")])
    assert read_table(path, "skipped_images")["image_id"].tolist() == ["b.jpg"]
    assert "skipped_images.csv has changed since it was written" in caplog.text
    assert "Until then it has this run's rows alone." in caplog.text


def test_any_file_can_be_checked_and_is_read_once_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices: looked at by size and times as long as those stay, so that a memory map stays lazy."""
    matrix = tmp_path / "ig_m.npy"
    with run(tmp_path), atomic_path(matrix) as temporary:
        temporary.write_bytes(b"maps")
    long_ago = 10**18
    monkeypatch.setattr("utils.core.digests._COARSEST_CLOCK_NS", -(10**12))  # its times are old enough
    os.utime(matrix, ns=(long_ago, long_ago))
    check_unchanged(matrix)
    with monkeypatch.context() as patch:
        patch.setattr("utils.core.digests.file_sha256", lambda path: pytest.fail("it was read again"))
        check_unchanged(matrix)
    edit_in_place(matrix, b"mops")
    with pytest.raises(ChangedFileError):
        check_unchanged(matrix)


@pytest.mark.parametrize("how", ["a number", "cut short"])
def test_a_matrix_that_changed_since_it_was_written_is_refused(tmp_path: Path, how: str) -> None:
    """An edited matrix of attributions or codes; one cut short."""
    path = tmp_path / "ig_m.npy"
    with run(tmp_path) as writer, atomic_path(path) as temporary:
        np.save(temporary, np.zeros((3, 2, 2), np.float16))
        writer.add_output(path)
    matrix = map_matrix(path, "Do it again.")
    assert isinstance(matrix, np.memmap)  # nothing of it is held in memory
    whole = path.read_bytes()
    if how == "a number":
        edit_in_place(path, whole[:-1] + b"\1")
    else:
        path.write_bytes(whole[:-4])
    with pytest.raises(ChangedFileError, match=r"ig_m\.npy has changed since it was written"):
        map_matrix(path, "Do it again.")


def test_a_score_table_that_is_edited_while_a_stage_runs_is_recorded_as_it_was_read(
    tmp_path: Path, mini_memcat: Path
) -> None:
    """Edited after the first shard, the old scores were written and the next run said "unchanged"."""
    data = shutil.copytree(mini_memcat, tmp_path / "MemCat")
    args = dataset_args(data, tmp_path / "output")
    with Run("autoencoder_test", args) as stage:
        dataset = load_dataset(args)
        before = hashlib.sha256(dataset.scores_csv.read_bytes()).hexdigest()
        dataset.scores_csv.write_text(dataset.scores_csv.read_text().replace(",1,", ",2,"))
        dataset.note_on(stage)
        load_dataset(args).note_on(stage)  # read again meanwhile: what was read first counts
    noted = read_run(tmp_path / "output", "autoencoder_test")["inputs"][str(dataset.scores_csv)]
    assert noted["sha256"] == before
    with Run("autoencoder_test", args) as stage:
        load_dataset(args).note_on(stage)
    noted = read_run(tmp_path / "output", "autoencoder_test")["inputs"][str(dataset.scores_csv)]
    assert noted["sha256"] == hashlib.sha256(dataset.scores_csv.read_bytes()).hexdigest() != before


def test_a_folder_where_a_table_belongs_is_named_with_what_writes_the_table(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(
        UserError, match=r"training_m\.csv is a folder; .* run: python autoencoder_finetune\.py"
    ):
        read_table(tmp_path / FILE, "training")


def test_a_table_that_was_written_and_is_gone_is_missed_aloud_and_once(written, caplog):
    with run(written, "second") as other:
        other.write_table(training(), "training", "k")
    (written / FILE).unlink()
    with caplog.at_level("WARNING", logger="memorability"):
        assert models_with(written, "training") == ["k"]
        assert models_with(written, "training") == ["k"]
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert FILE in said
    assert "is gone" in said
    assert "python writer.py --seed 3 --output-path 'a b'" in said
