import io
import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT

from utils.core.streams import _Lasting

TALKER = f"""
import sys
sys.path.insert(0, {str(PROJECT_ROOT)!r})
from utils.core.cli import build_parser, run_script
from utils.core.log import log

def main(args):
    from tqdm import tqdm
    for number in tqdm(range(3000), mininterval=0):
        log.info("line %d", number)
        print("out", number)
    args.output_path.mkdir()
    (args.output_path / "done").write_text("all of it")

run_script(main, lambda: build_parser("talks " * 20000, "output"))
"""


def run_in_shell(tmp_path, command):
    (tmp_path / "talker.py").write_text(TALKER)
    full = f"set -o pipefail; {sys.executable} talker.py {command}"
    return subprocess.run(
        ["bash", "-c", full], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("redirected", [
    "2>&1 | head -1", "| head -1", ">&- 2>&-", "0<&- >&- 2>&-", ">/dev/full 2>&1", "2>/dev/full",
])  # fmt: skip
def test_work_is_done_whatever_becomes_of_the_console(tmp_path, redirected):
    done = run_in_shell(tmp_path, f"--output-path out {redirected}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception ignored" not in done.stderr
    assert (tmp_path / "out" / "done").read_text() == "all of it"


@pytest.mark.parametrize("redirected", ["| head -1", ">&-", ">/dev/full"])
def test_help_that_nobody_reads_to_its_end(tmp_path, redirected):
    done = run_in_shell(tmp_path, f"--help {redirected}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_what_goes_wrong_is_still_an_error_without_a_console(tmp_path):
    assert run_in_shell(tmp_path, "--no-such-flag 2>&1 | head -0").returncode == 2
    assert run_in_shell(tmp_path, "--no-such-flag >&- 2>&-").returncode == 2


def test_children_have_the_descriptors_too(tmp_path):
    """Else what a worker opens first gets the number of standard error, and a C library's warnings are written into it."""
    code = (
        "import os, subprocess, sys\nfrom utils.core.streams import lasting_console\n"
        "with lasting_console():\n"
        "    child = 'import os; [os.fstat(number) for number in (0, 1, 2)]'\n"
        "    sys.exit(subprocess.run([sys.executable, '-c', child]).returncode)"
    )
    (tmp_path / "parent.py").write_text(f"import sys; sys.path.insert(0, {str(PROJECT_ROOT)!r})\n{code}")
    command = f"{sys.executable} {tmp_path / 'parent.py'} 0<&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0


def test_a_terminal_that_is_full_this_moment_is_kept():
    class Busy(io.StringIO):
        def write(self, text):
            if text == "busy":
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return super().write(text)

    stream = Busy()
    console = _Lasting(stream)
    assert console.write("busy") == 4
    console.write("heard")
    console.flush()
    assert stream.getvalue() == "heard"
