import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT_ROOT, assert_user_error

from utils.core.errors import ImageError, UserError
from utils.core.failures import explain
from utils.core.files import atomic_path


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("as it stands"), "as it stands"),
        (
            ImageError("a.jpg", "the file does not exist"),
            "a.jpg: the file does not exist. Mend or remove the file",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "out/x.csv"), "out/x.csv: there is no space left"),
        (OSError(errno.EFBIG, "File too large", "out/x.npy"), "out/x.npy: the file would be larger"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "out/x.csv"),
            "out/x.csv: it is not there, or was deleted",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"out/t.csv"), "out/t.csv: a folder stands where"),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "out/t"),
            "out/t: a file stands where a folder belongs",
        ),
        (OSError(errno.EIO, "Input/output error", "a.jpg"), "a.jpg: the device reported an error"),
        (MemoryError(), "not enough memory"),
        (np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(float)), "smaller --batch-size"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (RuntimeError("can't start new thread"), "fewer --workers"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (ModuleNotFoundError("No module named 'lpips'", name="lpips"), "'lpips' is not installed"),
    ],
)
def test_what_a_user_can_mend_is_one_message(error, words):
    text = explain(error)
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("our bug"),
        ValueError("out of memory"),  # no library says it so
        OSError(errno.EIO, "I/O error"),
        FileNotFoundError("no number, no name"),
        ModuleNotFoundError("No module named 'utils.x'", name="utils.x"),
        KeyError("x"),
    ],
)
def test_our_own_bugs_are_not_explained_away(error):
    assert explain(error) is None


@pytest.mark.parametrize("filename", [None, "temporary"])
def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path, filename):
    def fill(temporary):
        temporary.write_bytes(b"half")
        name = None if filename is None else str(temporary)
        raise OSError(errno.ENOSPC, "No space left on device", name)

    with (
        pytest.raises(OSError, match="No space left") as caught,
        atomic_path(tmp_path / "t.csv") as temporary,
    ):
        fill(temporary)
    assert caught.value.filename == str(tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, signal, sys
sys.path[:0] = [{root!r}]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import argparse, json
from pathlib import Path
from utils.core.cli import run_script
def main(args):
    {work}
run_script(main, argparse.ArgumentParser, [])
"""


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("x.json", "from utils.core.files import write_json; write_json(Path({path!r}), ['x' * 30_000])"),
        (
            "x.csv",
            "import pandas as pd; from utils.core.tables import write_table; "
            "write_table(pd.DataFrame(dict(image_id=[str(n) for n in range(5000)], reason='r', stage='s')), "
            "Path({path!r}), 'skipped_images')",
        ),
        (
            "x.npz",
            "import numpy as np; from utils.core.shard_files import Shard; "
            "Shard([], dict(a=[np.zeros(9_000)])).write(Path({path!r}))",
        ),
        (
            "x.png",
            "import numpy as np; from utils.core.figures import new_figure, save_figure; figure, axes = new_figure(); "
            "axes.imshow(np.random.default_rng(0).random((300, 300))); "
            "save_figure(figure, Path({path!r}).parent, 'x', ('png',))",
        ),
    ],
)
def test_a_file_size_limit_names_the_file_and_leaves_nothing(tmp_path, name, work):
    path = tmp_path / name
    code = LIMITED.format(root=str(PROJECT_ROOT), work=work.format(path=str(path)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{path}: the file would be larger than this process or file system allows" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_locale_cannot_write_are_explained(tmp_path):
    code = (
        "import sys\nfrom utils.core.cli import build_parser, run_script\n"
        "run_script(lambda args: open('b\\u00e4r.jpg'), lambda: build_parser('opens', 'output'))"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=ascii_only,
        cwd=PROJECT_ROOT,
        check=False,
    )
    assert_user_error(done, "written in ascii here", "has no place for '\\xe4'", "Set PYTHONUTF8=1")
    utf8 = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"},
        cwd=PROJECT_ROOT, check=False,
    )  # fmt: skip
    assert_user_error(utf8, "Could not read or write b\u00e4r.jpg")


@pytest.mark.parametrize(("limit", "code"), [(3 * 10**9, 2), (5 * 10**9, 0)])
def test_too_little_address_space_is_said_before_a_library_dies_of_it(tmp_path, limit, code):
    text = LIMITED.format(root=str(PROJECT_ROOT), work="Path(sys.argv[0]).exists()")
    text = text.replace("RLIMIT_FSIZE, (20_000, 20_000)", f"RLIMIT_AS, ({limit}, {limit})")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("may use 3.0 GB of address space (ulimit -v)" in done.stderr) == (code == 2)
    assert "Traceback" not in done.stderr


def test_a_file_in_a_folders_place_is_said(tmp_path):
    (tmp_path / "shards").write_text("x")
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "shards").mkdir(parents=True, exist_ok=True)
    assert "a file stands where a folder belongs" in str(explain(caught.value))
