"""``run_pipeline.py --status``: each stage done, stale, damaged or missing, because of what; nothing is run or written."""

import json
import logging
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
from conftest import PROJECT_ROOT, edit_in_place

import run_pipeline
from utils.core.errors import UserError
from utils.core.run import Run
from utils.core.standing import code_fingerprint
from utils.pipeline.records import record_stage, why_run
from utils.pipeline.stages import Stage
from utils.pipeline.status import StageStatus, study_status

STAGES = tuple(Stage(name, (), ("output",), {}) for name in ("first", "second", "third"))


def training(loss: float) -> pd.DataFrame:
    columns = ["loss_mean", "loss_first_half", "loss_second_half"]
    return pd.DataFrame({"epoch": [1], "images": [2]}).assign(**dict.fromkeys(columns, loss))


def run_stage(study: Path, name: str, reads: str = "", **flags: object) -> None:
    """Let a stage read the scores or another's table, and write its own."""
    with Run(name, Namespace(output_path=study / "output", **flags)) as run:
        if reads:
            run.read_table("training", reads)
        else:
            run.add_input(study / "scores.csv")
            run.add_picture_folder(study / "pictures")
        run.write_table(training(0.5), "training", name)


def states(study: Path) -> dict[str, tuple[str, str]]:
    found = study_status(study / "output", STAGES, study / "code")
    return {stage.name: (stage.state, stage.why) for stage in found}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three stages, each done once and resting on the one before."""
    monkeypatch.setattr("utils.core.run.PROJECT_ROOT", tmp_path / "code")
    (tmp_path / "scores.csv").write_text("path,score\n")
    for folder in ("pictures", "code/utils", "code/models"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pictures" / "1.jpg").write_bytes(b"one")
    for place, name in enumerate(("first", "second", "third")):
        (tmp_path / "code" / f"{name}.py").write_text("")
        monkeypatch.setattr("utils.core.cli._command", [f"{name}.py", "--seed", "1"])
        run_stage(tmp_path, name, ["", "first", "second"][place])
        code = code_fingerprint(tmp_path / "code", name)
        record_stage(tmp_path / "output", name, ["--seed", "1"], code, 0, 1.0)
    return tmp_path


def test_a_study_that_stands_is_done(study: Path) -> None:
    found = states(study)
    assert {state for state, _ in found.values()} == {"done"}
    assert all(why.endswith(" UTC") for _, why in found.values())


def test_a_stage_that_never_ended_well_is_missing_and_what_rests_on_it_is_not_done(study: Path) -> None:
    shutil.rmtree(study / "output")
    assert states(study) == {
        name: ("missing", f"run: python {name}.py") for name in ("first", "second", "third")
    }
    with pytest.raises(UserError), Run("first", Namespace(output_path=study / "output")):
        raise UserError("no score table")
    assert states(study)["first"] == (
        "missing",
        "its last run ended as failed: no score table; run: python first.py",
    )


def test_an_edited_file_damages_its_writer_and_nothing_before_it(study: Path) -> None:
    path = study / "output" / "training_second.csv"
    edit_in_place(path, path.read_text().replace("0.5", "0.4", 1))
    found = states(study)
    assert found["first"][0] == "done"
    assert found["second"] == (
        "damaged",
        "training_second.csv changed since it was written, or is gone; make it anew with: python second.py --seed 1",
    )
    assert found["third"] == ("stale", "rests on training_second.csv, and second is not done")
    path.unlink()
    assert states(study)["second"][0] == "damaged"


def test_an_edit_that_was_accepted_is_no_damage(study: Path) -> None:
    path = study / "output" / "training_second.csv"
    path.write_text(path.read_text().replace("0.5", "0.25"))
    run_stage(study, "third", "second", accept_edited=True)
    found = states(study)
    assert {state for state, _ in found.values()} == {"done"}
    assert found["second"][1].endswith(
        " UTC; training_second.csv was edited by hand since, which was accepted"
    )
    assert found["third"][1].endswith(" UTC")


def test_the_pipeline_leaves_an_edit_alone_that_is_or_was_accepted(study: Path) -> None:
    """Or the stage that wrote the file would take it back before anybody reads it."""
    path = study / "output" / "training_second.csv"
    path.write_text(path.read_text().replace("0.5", "0.25"))
    code = code_fingerprint(study / "code", "second")

    def why(*flags: str) -> str:
        return why_run(study / "output", "second", ["--seed", "1", *flags], code)

    assert why() == "its output training_second.csv changed or is gone"
    assert why("--accept-edited") == ""
    run_stage(study, "third", "second", accept_edited=True)
    assert why() == ""
    path.unlink()
    assert why("--accept-edited") == "its output training_second.csv changed or is gone"


@pytest.mark.parametrize("what", ["scores.csv", "a picture's content", "a picture more"])
def test_a_changed_input_makes_its_stage_stale_and_what_rests_on_it(study: Path, what: str) -> None:
    if what == "scores.csv":
        (study / what).write_text("path,score\n1.jpg,0.5\n")
    elif what == "a picture more":
        (study / "pictures" / "2.jpg").write_bytes(b"two")
    else:
        edit_in_place(study / "pictures" / "1.jpg", b"two")
    found = states(study)
    changed = study / ("scores.csv" if what == "scores.csv" else "pictures")
    assert found["first"] == ("stale", f"its input {changed} changed")
    assert found["second"] == ("stale", "rests on training_first.csv, and first is not done")
    assert found["third"] == ("stale", "rests on training_second.csv, and second is not done")


def test_a_stage_run_again_makes_what_read_the_older_file_stale(study: Path) -> None:
    with Run("first", Namespace(output_path=study / "output")) as run:
        run.add_input(study / "scores.csv")
        run.write_table(training(0.75), "training", "first")
    found = states(study)
    assert found["first"][0] == "done"
    assert found["second"] == ("stale", f"its input {study / 'output' / 'training_first.csv'} changed")


def test_changed_code_makes_its_stage_stale(study: Path) -> None:
    (study / "code" / "third.py").write_text("# changed\n")
    assert states(study)["third"] == ("stale", "its code changed")
    assert states(study)["second"][0] == "done"


def test_a_later_failure_is_said_beside_a_stage_that_stands(study: Path) -> None:
    with pytest.raises(UserError), Run("third", Namespace(output_path=study / "output")):
        raise UserError("no such model")
    state, why = states(study)["third"]
    assert state == "done"
    assert why.endswith("; a later run ended as failed: no such model")


def test_the_command_prints_a_line_per_stage_and_writes_nothing(
    study: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_pipeline, "STAGES", STAGES)
    monkeypatch.setattr(run_pipeline, "ROOT", study / "code")
    caplog.set_level(logging.INFO, logger="memorability")
    before = {path: path.read_bytes() for path in sorted(study.rglob("*")) if path.is_file()}
    run_pipeline.main(
        run_pipeline.get_parser().parse_args(["--status", "--output-path", str(study / "output")])
    )
    assert [line.split()[:3] for line in caplog.messages[1:]] == [
        [str(place), name, "done"] for place, name in enumerate(("first", "second", "third"), start=1)
    ]
    assert {path: path.read_bytes() for path in sorted(study.rglob("*")) if path.is_file()} == before


def test_an_output_folder_may_be_moved(study: Path) -> None:
    (study / "output").rename(study / "elsewhere")
    found = study_status(study / "elsewhere", STAGES, study / "code")
    assert [stage.state for stage in found] == ["done", "done", "done"]


def test_a_folder_that_is_not_there_is_all_missing_and_stays_away(tmp_path: Path) -> None:
    found = study_status(tmp_path / "nothing", STAGES, tmp_path)
    assert found[0] == StageStatus("first", "missing", "run: python first.py")
    assert not (tmp_path / "nothing").exists()


def test_it_answers_without_torch(study: Path) -> None:
    script = (
        "import sys, json; sys.argv = ['run_pipeline.py', '--status', '--output-path', sys.argv[1]]\n"
        "import run_pipeline; from utils.core.cli import run_script\n"
        "run_script(run_pipeline.main, run_pipeline.get_parser)\n"
        "print(json.dumps(sorted({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(study / "output")],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
