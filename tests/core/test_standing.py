"""A stage whose last complete run stands says so at once, and one whose command, code or files changed runs."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import edit_in_place

from utils.core import cli, standing
from utils.core.files import atomic_path
from utils.core.run import Run


@pytest.fixture
def stage(tmp_path: Path, monkeypatch):
    """A made-up stage that copies a file; returns whether it ran."""
    monkeypatch.chdir(tmp_path)
    Path("source.txt").write_text("first")
    ran: list[int] = []

    def main(args) -> None:
        with Run("copier", args) as run:
            ran.append(1)
            run.add_input(Path("source.txt"))
            target = args.output_path / "copy.txt"
            target.write_text(Path("source.txt").read_text() + args.more)
            run.add_output(target)
            run.report_skipped([("a.jpg", args.skipped)] if args.skipped else [])

    def get_parser():
        parser = cli.build_parser("Copies.", "output", "weights")
        parser.add_argument("--more", default="")
        parser.add_argument("--skipped", default="")
        parser.add_argument("--display", action="store_true")
        parser.prog = "copier.py"
        return parser

    main.__code__ = main.__code__.replace(co_filename="copier.py")

    def run(*arguments: str) -> bool:
        ran.clear()
        cli.run_script(main, get_parser, ["--output-path", "out", *arguments], stage=True)
        return bool(ran)

    return run


def test_a_finished_stage_does_not_run_again_and_says_so(stage, capsys) -> None:
    assert stage()
    assert not stage()
    assert "copier is up to date: command, code, 1 inputs and 1 outputs" in capsys.readouterr().err
    failed = Path("out/runs/copier.failed.json")  # of a run before: what stands now is said of the stage
    failed.parent.mkdir(exist_ok=True)
    failed.write_text("{}")
    assert not stage()
    assert not failed.exists()
    assert stage("--overwrite")


@pytest.mark.parametrize(("reason", "again"), [("cut short", True), ("in the table but not on disk", False)])
def test_a_picture_that_could_not_be_read_is_tried_again(stage, reason, again) -> None:
    assert stage("--skipped", reason)
    assert stage("--skipped", reason) == again


@pytest.mark.parametrize("flag", [("--more", "x"), ("--display",), ("--weights", "available")])
def test_another_command_runs_and_so_does_what_no_record_can_answer(stage, flag) -> None:
    stage()
    assert stage(*flag)
    assert stage(*flag) == (flag[0] != "--more")


def test_a_changed_input_or_output_runs_even_at_the_same_size_and_time(stage) -> None:
    stage()
    edit_in_place(Path("source.txt"), "other")
    assert stage()
    assert Path("out/copy.txt").read_text() == "other"
    assert not stage()
    edit_in_place(Path("out/copy.txt"), "wrong")
    assert stage()
    assert Path("out/copy.txt").read_text() == "other"
    Path("out/copy.txt").unlink()
    assert stage()


def test_changed_code_another_folder_and_an_unfinished_run_do_not_stand(stage, monkeypatch) -> None:
    stage()
    with monkeypatch.context() as patch:
        patch.setattr(standing, "code_fingerprint", lambda root, script: "other code")
        assert stage()
    assert not stage()
    record = Path("out/run_copier.json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "status": "failed"}))
    assert stage()
    here = Path.cwd()
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")  # the same words mean other files there
    Path("out").symlink_to(here / "out")
    Path("source.txt").write_text("third")
    assert stage()


def test_what_another_stage_completed_still_stands(stage) -> None:
    stage()
    with Run("later", Namespace(output_path=Path("out"))), atomic_path(Path("out/copy.txt")) as temporary:
        temporary.write_text("completed")
    assert not stage()
    Path("out/copy.txt").write_text("spoilt")
    assert stage()


def test_a_finished_stage_is_told_without_importing_what_is_heavy(tmp_path) -> None:
    code = "import sys, utils.core.standing; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
