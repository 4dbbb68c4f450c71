import errno
import json
import os
import platform
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from conftest import PROJECT_ROOT, dataset_args

from utils.core import locks
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.leftovers import remove_leftovers, temporary_path
from utils.core.run import Run
from utils.core.tables import read_table

HOLDER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(PROJECT_ROOT)!r})
from utils.core.locks import only_run
with only_run(Path(sys.argv[1]), "autoencoder_test"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_run_in_a_folder_says_who_holds_it(holder, tmp_path):
    expected = (
        rf"autoencoder_test is running in .* already: process {holder.pid} on .*, since 20\d\d-.* \(-c .*"
    )
    with pytest.raises(UserError, match=expected), Run("autoencoder_test", dataset_args(tmp_path, tmp_path)):
        pass
    assert not (tmp_path / "run_autoencoder_test.json").exists()  # that is the other's to write
    with Run("autoencoder_evaluation", dataset_args(tmp_path, tmp_path)):
        pass  # another stage may run


def test_a_lock_is_released_by_death(holder, tmp_path):
    holder.kill()
    holder.wait()
    with Run("autoencoder_test", dataset_args(tmp_path, tmp_path)):
        about = json.loads((tmp_path / "logs" / "autoencoder_test.lock").read_text())
        assert about["pid"] == os.getpid()
    assert (tmp_path / "logs" / "autoencoder_test.lock").read_text() == ""


@pytest.mark.parametrize("lets_go", [True, False])
def test_what_a_dead_holder_had_started_gets_a_moment_to_let_go(tmp_path, monkeypatch, lets_go):
    """A child between fork and exec still has the lock of the process that was killed."""
    monkeypatch.setattr(locks, "LETTING_GO_S", 5.0 if lets_go else 0.2)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / "logs" / "autoencoder_test.lock"
    path.parent.mkdir()
    child = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    locks._lock(child, wait=False)
    about = {"pid": dead.pid, "host": platform.node(), "since": "then", "command": "it"}
    path.write_text(json.dumps(about))
    timer = threading.Timer(0.3, child.close)
    if lets_go:
        timer.start()
        with locks.only_run(tmp_path, "autoencoder_test"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    else:
        with (
            pytest.raises(UserError, match=f"process {dead.pid}"),
            locks.only_run(tmp_path, "autoencoder_test"),
        ):
            pass
    child.close()


def test_other_ranks_share_the_lock_of_the_first(holder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with locks.only_run(tmp_path, "autoencoder_test"):
        pass


def test_a_file_system_without_locks_is_said_and_no_hindrance(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.only_run(tmp_path, "autoencoder_test"):
        assert "cannot be locked (No locks available). Make sure that no other run" in caplog.text
    with locks.one_at_a_time(tmp_path):
        pass


def test_stages_that_end_at_once_both_keep_their_skipped_images(tmp_path):
    def one(name):
        for number in range(4):  # not entered: a lock is a process's, not a thread's
            Run(name, dataset_args(tmp_path, tmp_path)).report_skipped([(f"{name}_{number}.jpg", "broken")])

    threads = [threading.Thread(target=one, args=(f"stage_{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = read_table(tmp_path / "skipped_images.csv", "skipped_images")
    assert table["image_id"].tolist() == [f"stage_{number}_3.jpg" for number in range(3)]


def leave(folder, machine, pid, age=0.0):
    path = folder / f".figure.{machine}-{pid}.partial.png"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_the_next_run_removes_what_dead_processes_left_and_nothing_else(tmp_path):
    machine = temporary_path(tmp_path / "a.png").name.split(".")[2].split("-")[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "out" / "ig"
    folder.mkdir(parents=True)
    gone = [leave(folder, machine, dead.pid), leave(folder.parent, "0" * 8, 1, age=25 * 3600)]
    kept = [leave(folder, machine, os.getppid()), leave(folder, "0" * 8, dead.pid)]
    kept += [folder / ".figure.partial.png", folder / "figure.partial.png"]
    for path in kept[2:]:
        path.write_bytes(b"not ours")
    with Run("autoencoder_test", dataset_args(tmp_path, tmp_path / "out")):
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in kept)


def test_what_this_process_number_left_in_an_earlier_life_is_removed(tmp_path):
    path = temporary_path(tmp_path / "table.csv")
    path.write_text("half")
    assert remove_leftovers(tmp_path) == []  # being written
    os.utime(path, (time.time() - 3600, time.time() - 3600))  # as long ago as no test has run
    assert remove_leftovers(tmp_path) == [path]


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    target = tmp_path / ("ü" * 125 + ".csv")
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert pd.Series(os.listdir(tmp_path)).tolist() == [target.name]
