import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT_ROOT

from utils.core.signals import Ended, ended_by_signals, signal_that_ended

STAGE = """
import argparse, os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from utils.core.cli import build_parser, run_script
from utils.core.files import atomic_path

def get_parser():
    return build_parser("sleeps", "output")

def main(args):
    from utils.core.run import Run
    with Run("sleeper", args), atomic_path(args.output_path / "half.csv") as temporary:
        temporary.write_text("half")
        (args.output_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

run_script(main, get_parser)
"""
PARENT = """
import sys
sys.path.insert(0, {root!r})
from utils.core.cli import build_parser, run_script
from utils.core.signals import run_child, signal_that_ended

def main(args):
    code = run_child([sys.executable, {stage!r}, "--output-path", str(args.output_path)])
    raise signal_that_ended(code) or SystemExit(1)

run_script(main, lambda: build_parser("runs", "output"))
"""


def wait_for(condition, what, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def hear_signals():
    """Hear what tests in the background are deaf to: nohup and shells leave these two ignored, and a stage keeps to it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(script, output):
    command = [sys.executable, str(script), "--output-path", str(output)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, preexec_fn=hear_signals
    )
    wait_for((output / "pid").exists, "the start of the stage")
    return process


@pytest.fixture
def stage(tmp_path):
    path = tmp_path / "sleeper.py"
    path.write_text(STAGE.format(root=str(PROJECT_ROOT)))
    return path


@pytest.fixture
def parent(tmp_path, stage):
    path = tmp_path / "parent.py"
    path.write_text(PARENT.format(root=str(PROJECT_ROOT), stage=str(stage)))
    return path


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_stage_told_to_end_cleans_up_and_says_how_to_go_on(stage, tmp_path, number, code):
    output = tmp_path / "out"
    process = start(stage, output)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert '"status": "interrupted"' in (output / "runs" / "sleeper.failed.json").read_text()
    assert sorted(path.name for path in output.iterdir()) == ["logs", "pid", "runs", "shards"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_pipeline_ended_alone_takes_its_stage_with_it(parent, tmp_path, number):
    output = tmp_path / "out"
    process = start(parent, output)
    child = int((output / "pid").read_text())
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said
    wait_for(lambda: not is_alive(child), "the end of the stage")
    assert '"status": "interrupted"' in (output / "runs" / "sleeper.failed.json").read_text()
    assert not list(output.glob(".*"))


def test_a_worker_ends_with_its_parent(tmp_path):
    code = (
        f"import os, sys, time; sys.path.insert(0, {str(PROJECT_ROOT)!r})\n"
        "from utils.core.reading import make_pool\n"
        "if __name__ == '__main__':\n"
        "    pool = make_pool('process', 1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "holder.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        assert is_alive(worker)
        process.kill()
    wait_for(lambda: not is_alive(worker), "the end of the worker")


def test_told_twice_at_once_the_process_cleans_up_once():
    cleaned = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does, to the whole group
            cleaned.append(True)

    with pytest.raises(Ended) as ended, ended_by_signals():
        work()
    assert cleaned == [True]
    assert ended.value.exit_code == 143


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("code", "number"), [(130, 2), (-2, 2), (143, 15), (-15, 15), (1, None), (2, None), (-9, None)]
)
def test_exit_codes_of_a_child_say_whether_it_was_told_to_end(code, number):
    ended = signal_that_ended(code)
    assert (ended.signal if ended else None) == number


def test_a_library_that_makes_another_error_of_it_is_ended_all_the_same():
    """Found by the soak: numpy turned the interruption into a ValueError, and the stage ended with a traceback."""

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise ValueError("not a valid buffer") from None

    with pytest.raises(Ended) as caught, ended_by_signals():
        interrupted()
    assert caught.value.exit_code == 143
