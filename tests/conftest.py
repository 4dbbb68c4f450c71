"""What the tests share: a miniature MemCat of generated pictures, and ways to run scripts as a user does."""

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.core.log import log
from utils.statistics.clusters import say_once


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Write names that are not UTF-8 so that several processes of tests can tell each other what was printed."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections
    ]
    return report


PROJECT_ROOT = Path(__file__).resolve().parent.parent
CATEGORIES = {"animal": ("bear", "cat"), "food": ("cake", "soup")}


def memcat_table_path() -> Path:
    """Where the real MemCat table is, if anywhere: $MEMCAT_TABLE, or ../shared/data beside the project."""
    given = os.environ.get("MEMCAT_TABLE")
    return Path(given) if given else PROJECT_ROOT.parent / "shared" / "data" / "memcat_image_data.csv"


@pytest.fixture(autouse=True)
def _log_as_in_a_library() -> Iterator[None]:
    """Give every test the log as it is before any script set it up, so that caplog sees it."""
    say_once.cache_clear()  # what is said once in a run is said in every test
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    log.propagate = True
    yield
    log.handlers[:], log.propagate, log.level = handlers, propagate, level


@pytest.fixture(scope="session")
def real_memcat_table() -> Path:
    path = memcat_table_path()
    if not path.is_file():
        pytest.skip("the real MemCat table is not here (set MEMCAT_TABLE)")
    return path


def edit_in_place(path: Path, content: str | bytes) -> None:
    """Change what a file holds, but neither its size nor the time of its last change."""
    before = path.stat()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def make_picture(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """A smooth random picture with some structure, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_memcat(folder: Path, per_subcategory: int = 3, side: int = 70) -> Path:
    """Write a miniature MemCat (12 images by default) in its unpacked layout; return the data folder."""
    rng = np.random.default_rng(7)
    rows = []
    number = 0
    for category, subcategories in CATEGORIES.items():
        for subcategory in subcategories:
            for _ in range(per_subcategory):
                number += 1
                name = f"{number:012d}.jpg"
                path = folder / "MemCat_images" / "MemCat" / category / subcategory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                make_picture(number, side + 20, side).save(path, quality=95)
                responses = int(rng.integers(85, 115))
                hits = int(rng.binomial(responses, rng.uniform(0.4, 0.95)))
                alarms = int(rng.binomial(responses, 0.1))
                rows.append(
                    (
                        name,
                        category,
                        subcategory,
                        side,
                        side + 20,
                        "test",
                        subcategory,
                        1,
                        hits,
                        alarms,
                        responses,
                    )
                )
    columns = ["image_file", "category", "subcategory", "current_height", "current_width", "source"]
    columns += ["searched_label", "resize_factor", "H", "FA", "n_resp"]
    table = pd.DataFrame(rows, columns=columns)
    table["memorability_wo_fa_correction"] = table["H"] / table["n_resp"]
    table["memorability_w_fa_correction"] = (table["H"] - table["FA"]) / table["n_resp"]
    table.index += 1
    (folder / "MemCat_data").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "MemCat_data" / "memcat_image_data.csv", index_label="")
    return folder


@pytest.fixture(scope="session")
def mini_memcat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen generated images in two categories with scores, laid out like MemCat. Read-only: copy before changing."""
    return write_memcat(tmp_path_factory.mktemp("MemCat"))


def dataset_args(data_dir: Path, output_path: Path, **changes: object) -> Namespace:
    """The arguments that ``load_dataset`` and ``Run`` read, with the parser's defaults."""
    values = {
        "data_dir": data_dir,
        "scores_csv": None,
        "score_column": "memorability_w_fa_correction",
        "score_scale": "unit",
        "group_column": None,
        "split_by": None,
        "sample": False,
        "limit": None,
        "on_error": "skip",
        "allow_outside": False,
        "output_path": output_path,
        "overwrite": False,
        "seed": 0,
        "device": "cpu",
    }
    return Namespace(**{**values, **changes})


def run_script_process(script: str, *arguments: object, cwd: Path = PROJECT_ROOT, **environment: str):
    """Run a script as a user does, in a process of its own; return the finished process with its output."""
    command = [sys.executable, str(PROJECT_ROOT / script), *map(str, arguments)]
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=600, check=False
    )


def assert_user_error(done: subprocess.CompletedProcess, *words: str) -> None:
    """Check that a script ended as it should on a user's mistake: exit code 2, the words, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, f"'{word}' is not in: {done.stderr}"
