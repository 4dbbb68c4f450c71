"""Several processes of one run: what they are told wrongly, and what they say when one of them is gone."""

import os
import re
import socket
import subprocess
import sys

import pytest
import torch.distributed  # noqa: F401  # in the parent: the forks below share it

from utils.core.errors import UserError
from utils.core.processes import barrier, rank, world_size


@pytest.mark.parametrize(
    ("variables", "call", "words"),
    [
        ({"RANK": "first", "WORLD_SIZE": "2"}, rank, "RANK is 'first'"),
        ({"WORLD_SIZE": "two"}, world_size, "WORLD_SIZE is 'two'"),
        ({"RANK": "5", "WORLD_SIZE": "2"}, rank, "RANK is 5"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, rank, "RANK is -1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, barrier, "could not meet .*MASTER_ADDR"),
    ],
)
def test_what_the_environment_says_wrongly_is_one_message(monkeypatch, variables, call, words):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "torchrun" in str(caught.value)


def test_outside_torchrun_there_is_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), world_size()) == (0, 1)
    barrier()


def test_a_process_that_waits_for_a_dead_one_says_so():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.environ.update(RANK=str(number), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                barrier()
                if number == 0:
                    try:
                        barrier()
                    except UserError as error:
                        code = 7 if "Another process of this run has ended" in str(error) else 8
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [7, 1]


_ASKS_OPENMP = """
import argparse, sys
from utils.core.cli import run_script

def main(args):
    import torch

run_script(main, argparse.ArgumentParser, [])
"""


@pytest.mark.parametrize(("given", "spins"), [(None, False), ("ACTIVE", True)])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(given, spins):
    # What counts is what OpenMP read, which happens once, while torch is imported.
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    variables |= {"OMP_DISPLAY_ENV": "VERBOSE"} | ({"OMP_WAIT_POLICY": given} if given else {})
    done = subprocess.run(
        [sys.executable, "-c", _ASKS_OPENMP], capture_output=True, text=True, env=variables, check=True
    )
    count = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if count is None:
        pytest.skip("torch's OpenMP is not GNU's, and does not tell")
    assert (int(count[1]) > 0) == spins
