import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT_ROOT, edit_in_place

from utils.core.errors import ImageError, UserError
from utils.core.shards import Batch, Job, run_sharded, run_together

BAD = {"i03", "i10"}


def read_number(path: str) -> int:
    """A loader: the number in the file; 'bad' files cannot be used."""
    text = Path(path).read_text()
    if text == "bad":
        raise ImageError(path, "cut short")
    return int(text)


def read_row(path: str) -> Batch:
    """A loader that does everything, for worker processes."""
    value = read_number(path)
    return Batch([{"value": value * 2.0}], {"vector": np.full((1, 2), value, dtype=np.float32)})


@pytest.fixture
def images(tmp_path) -> pd.DataFrame:
    rows = []
    for number in range(21):
        name = f"i{number:02d}"
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("bad" if name in BAD else str(number))
        rows.append((name, str(path)))
    return pd.DataFrame(rows, columns=["image_id", "path"]).sample(frac=1, random_state=0)


class Work:
    """Computes a row and a vector per image, notes its batches, and can be made to die."""

    def __init__(self, die_at: int | None = None):
        self.batches: list[list[str]] = []
        self.die_at = die_at

    def __call__(self, ids, values):
        if self.die_at == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(ids)
        vectors = np.stack([np.full(3, value, dtype=np.float32) for value in values])
        return Batch(
            [{"value": np.float32(value) / 3, "batch": len(ids)} for value in values], {"vector": vectors}
        )


def run(images, work, tmp_path, **changes):
    options = {
        "output_path": tmp_path / "out",
        "settings": {"a": 1},
        "load": read_number,
        "batch_size": 2,
        "shard_size": 5,
    }
    return run_sharded("job", images, work, **{**options, **changes})


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_rows_come_back_sorted_and_bad_images_are_named(images, tmp_path, workers):
    result = run(images, Work(), tmp_path, workers=workers)
    frame = result.frame()
    assert list(frame["image_id"]) == [f"i{n:02d}" for n in range(21) if f"i{n:02d}" not in BAD]
    np.testing.assert_allclose(
        frame["value"], [np.float32(n) / 3 for n in range(21) if f"i{n:02d}" not in BAD]
    )
    assert result.skipped == [("i03", "cut short"), ("i10", "cut short")]
    path = result.write_matrix("vector", tmp_path / "out" / "m.npy")
    matrix = np.load(path, mmap_mode="r")
    np.testing.assert_array_equal(matrix[:, 0], [int(i[1:]) for i in frame["image_id"]])
    half = np.load(result.write_matrix("vector", tmp_path / "out" / "h.npy", dtype="float16"))
    assert half.dtype == np.float16


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(images, tmp_path):
    whole = Work()
    result = run(images, whole, tmp_path / "a")
    result.frame().to_csv(tmp_path / "a.csv")
    result.write_matrix("vector", tmp_path / "a.npy")
    for die_at in (0, 1, 4, 7):
        with pytest.raises(KeyboardInterrupt):
            run(images, Work(die_at), tmp_path / "b")
    shards = sorted((tmp_path / "b" / "out" / "shards" / "job").glob("shard_*"))
    assert shards
    last = Work()
    result = run(images, last, tmp_path / "b")
    assert len(last.batches) < len(whole.batches)
    result.frame().to_csv(tmp_path / "b.csv")
    result.write_matrix("vector", tmp_path / "b.npy")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_a_shard_cut_short_is_done_again(images, tmp_path):
    run(images, Work(), tmp_path)
    shard = sorted((tmp_path / "out" / "shards" / "job").glob("shard_*"))[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    work = Work()
    result = run(images, work, tmp_path)
    assert len(work.batches) == 3
    assert len(result.frame()) == 19


def test_a_damaged_shard_is_named(images, tmp_path):
    result = run(images, Work(), tmp_path)
    shard = sorted((tmp_path / "out" / "shards" / "job").glob("shard_*"))[0]
    shard.write_bytes(b"")
    with pytest.raises(UserError, match="shard_000000.npz is damaged"):
        result.frame()


def test_a_finished_job_is_up_to_date_until_something_changes(images, tmp_path):
    out = tmp_path / "out"

    def finish(work, **changes):
        result = run(images, work, tmp_path, **changes)
        if not result.up_to_date:
            result.finish([result.write_matrix("vector", out / "m.npy")])
        return result

    finish(Work())
    assert not list((out / "shards" / "job").glob("arrays_*"))  # they are in the matrix now
    again = finish(work := Work())
    assert again.up_to_date
    assert again.skipped == [("i03", "cut short"), ("i10", "cut short")]
    assert work.batches == []
    assert not finish(Work(), settings={"a": 2}).up_to_date
    assert not finish(Work(), settings={"a": 2}, overwrite=True).up_to_date
    assert finish(Work(), settings={"a": 2}).up_to_date
    (out / "m.npy").unlink()
    assert not finish(Work(), settings={"a": 2}).up_to_date
    edit_in_place(tmp_path / "in" / "i08", "9")
    assert not finish(Work(), settings={"a": 2}).up_to_date
    edit_in_place(out / "m.npy", (out / "m.npy").read_bytes()[:-1] + b"x")
    assert not finish(Work(), settings={"a": 2}).up_to_date  # nor is an output that was changed since
    assert finish(Work(), settings={"a": 2}).up_to_date


def test_a_picture_that_could_not_be_read_and_can_be_now_is_used(images, tmp_path):
    result = run(images, Work(), tmp_path)
    result.finish([result.write_matrix("vector", tmp_path / "out" / "m.npy")])
    edit_in_place(tmp_path / "in" / "i03", "333")
    again = run(images, Work(), tmp_path)
    assert [name for name, _ in again.skipped] == ["i10"]
    assert len(again.frame()) == 20


def test_only_the_shards_of_changed_pictures_are_done_again(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(7), tmp_path)  # two shards of six images are finished
    edit_in_place(tmp_path / "in" / "i08", "9")
    os.utime(tmp_path / "in" / "i01")  # touched, not changed
    work = Work()
    frame = run(images, work, tmp_path).frame().set_index("image_id")
    assert [name for batch in work.batches for name in batch if name < "i12"] == [
        f"i{n:02d}" for n in (6, 7, 8, 9, 11)
    ]
    assert frame.at["i08", "value"] == pytest.approx(3)


def test_each_file_is_read_once(images, tmp_path, monkeypatch):
    result = run(
        images, Work(), tmp_path, load=lambda file: int(file.content) if file.content != b"bad" else 0
    )
    result.finish([result.write_matrix("vector", tmp_path / "out" / "m.npy")])
    monkeypatch.setattr("utils.core.digests._COARSEST_CLOCK_NS", -(10**15))  # as if the files were old
    monkeypatch.setattr("utils.core.digests.file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    assert run(images, Work(), tmp_path).up_to_date


def test_jobs_done_together_give_what_each_gives_alone_and_read_once(images, tmp_path):
    """Also where one of them was stopped before and needs fewer shards than the other."""
    settings = {"one": {"a": 1}, "two": {"a": 2}}

    def together(names, output, works):
        jobs = [Job(name, work, settings[name]) for name, work in zip(names, works, strict=True)]
        how = {"load": read_and_note, "batch_size": 2, "shard_size": 5, "workers": 0}
        return run_together(jobs, images, output_path=output, **how)

    reads = []

    def read_and_note(path):
        reads.append(Path(path.path).name)
        return read_number(path)

    alone = [together([name], tmp_path / "alone", [Work()])[0] for name in settings]
    with pytest.raises(KeyboardInterrupt):
        together(["two"], tmp_path / "out", [Work(die_at=5)])
    reads.clear()
    works = [Work(), Work()]
    both = together(list(settings), tmp_path / "out", works)
    assert sorted(set(reads)) == sorted(images["image_id"])
    assert len(reads) == len(images) + 1  # the unreadable one of the finished shard is tried again
    assert len(works[1].batches) < len(works[0].batches)
    for one, other in zip(alone, both, strict=True):
        assert one.skipped == other.skipped
        pd.testing.assert_frame_equal(one.frame(), other.frame(), check_exact=True)
        arrays = [np.concatenate(list(result.arrays("vector"))).tobytes() for result in (one, other)]
        assert arrays[0] == arrays[1]


def test_bytes_in_rows_come_back(images, tmp_path):
    def work(ids, values):
        return Batch([{"value": 1, "packed": bytes([value, 0, 255])} for value in values])

    rows = list(run(images, work, tmp_path).rows())
    assert [row["packed"] for row in rows] == [bytes([int(row["image_id"][1:]), 0, 255]) for row in rows]


def test_unfinished_shards_of_other_settings_are_never_mixed_in(images, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(6), tmp_path)
    work = Work()
    result = run(images, work, tmp_path, settings={"a": 2})
    assert "other settings (a: 1 -> 2)" in caplog.text
    assert sum(map(len, work.batches)) == 19
    assert len(result.frame()) == 19


def test_on_error_fail_stops_at_the_first_and_names_it(images, tmp_path):
    with pytest.raises(UserError, match=r"i03: cut short. Mend or remove the file"):
        run(images, Work(), tmp_path, on_error="fail")


def test_nothing_readable_is_an_error(images, tmp_path):
    for path in images["path"]:
        Path(path).write_text("bad")
    with pytest.raises(UserError, match=r"none of the 21 images could be read \(i00: cut short"):
        run(images, Work(), tmp_path)


def test_repeated_ids_are_our_bug(images, tmp_path):
    with pytest.raises(ValueError, match="must be unique"):
        run(images.assign(image_id="x"), Work(), tmp_path)


def test_worker_processes_give_the_same(images, tmp_path):
    result = run(images, None, tmp_path, load=read_row, executor="process", workers=2)
    assert list(result.frame()["value"]) == [2.0 * n for n in range(21) if f"i{n:02d}" not in BAD]
    assert np.load(result.write_matrix("vector", tmp_path / "m.npy")).shape == (19, 2)
    assert [name for name, _ in result.skipped] == sorted(BAD)


def read_and_die(path: str):
    """A loader in whose process the system runs out of memory."""
    os._exit(1)


def test_a_worker_killed_from_outside_is_explained(images, tmp_path):
    with pytest.raises(UserError, match="lack of memory.*fewer --workers"):
        run(images, None, tmp_path, load=read_and_die, executor="process", workers=1)


def test_our_bugs_in_the_loader_are_not_swallowed(images, tmp_path):
    def broken(path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(images, Work(), tmp_path, load=broken)


RANKED = """
import sys, os
sys.path[:0] = [{root!r}, *{tests!r}]
import pandas as pd
from pathlib import Path
from test_shards import Work, read_number
from utils.core.processes import is_main_rank
from utils.core.shards import run_sharded
images = pd.read_csv({csv!r})
result = run_sharded("job", images, Work(), output_path=Path({out!r}), settings={{"a": 1}}, load=read_number,
                     batch_size=2, shard_size=5)
if is_main_rank():
    result.frame().to_csv({table!r})
    result.finish([result.write_matrix("vector", Path({out!r}) / "m.npy")])
"""


def test_two_ranks_give_the_bytes_of_one(images, tmp_path):
    images.to_csv(tmp_path / "images.csv", index=False)
    single = run(images, Work(), tmp_path / "single")
    single.frame().to_csv(tmp_path / "single.csv")
    code = RANKED.format(
        root=str(PROJECT_ROOT),
        tests=[str(PROJECT_ROOT / "tests"), str(PROJECT_ROOT / "tests" / "core")],
        csv=str(tmp_path / "images.csv"),
        out=str(tmp_path / "out"),
        table=str(tmp_path / "ranks.csv"),
    )
    (tmp_path / "ranked.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(tmp_path / "ranked.py"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ranks.csv").read_bytes() == (tmp_path / "single.csv").read_bytes()
    manifest = json.loads((tmp_path / "out" / "shards" / "job" / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["shards"] == 4
    assert np.load(tmp_path / "out" / "m.npy").shape == (19, 3)


def test_image_errors_survive_the_way_back_from_a_worker():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a b.jpg", "cut short")))
    assert (error.path, error.reason, str(error)) == ("a b.jpg", "cut short", "a b.jpg: cut short")


def test_partial_loader_is_picklable_for_processes(images, tmp_path):
    result = run(images, None, tmp_path, load=partial(read_row), executor="process", workers=1, shard_size=50)
    assert len(result.frame()) == 19
