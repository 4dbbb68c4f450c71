"""Shards that are damaged, of another job, or of pictures that changed: done again, and nothing else is."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_in_place
from test_shards import Work, images, read_number, run  # noqa: F401  # a fixture

from utils.core.errors import ImageError, UserError
from utils.core.matrix_files import create_matrix
from utils.core.shard_files import Shard


def finish(table, work, folder, **changes):
    """Run the job to its end; return the work that was done and the bytes of what came out."""
    result = run(table, work, folder, **changes)
    out = folder / "out"
    if not result.up_to_date:
        result.frame().to_csv(out / "t.csv", index=False)
        result.finish([result.write_matrix("vector", out / "m.npy"), out / "t.csv"])
    return sorted(name for batch in work.batches for name in batch), [
        (out / name).read_bytes() for name in ("m.npy", "t.csv")
    ]


def fresh(table, folder):
    """What a run into an empty folder gives."""
    return finish(table, Work(), folder)[1]


def shards_of(folder, kind="shard"):
    return sorted((folder / "out" / "shards" / "job").glob(f"{kind}_*.npz"))


def resave(path, change):
    """Change an archive's content and write it again, intact."""
    with np.load(path) as content:
        parts = dict(content)
    change(parts)
    np.savez(path, **parts)


def flip(name):
    def change(parts):
        parts[name] = parts[name].copy()
        parts[name].view(np.uint8).reshape(-1)[-3] ^= 1

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("shard", flip("header")),
        ("shard", flip("sha256")),
        ("shard", lambda parts: parts.update(blobs=np.ones(3, np.uint8))),
        ("shard", lambda parts: parts.pop("header")),
        ("shard", lambda parts: parts.update(header=np.frombuffer(b"[1, 2]", np.uint8))),
        ("shard", lambda parts: parts.update(sha256=np.ones((2, 2)))),
        ("arrays", flip("vector")),
        ("arrays", lambda parts: parts.update(vector=parts["vector"][:-1])),
        ("arrays", lambda parts: parts.update(vector=parts["vector"].astype(np.float64))),
        ("arrays", lambda parts: parts.pop("vector")),
    ],
)
def test_an_intact_archive_with_other_content_is_done_again(images, tmp_path, caplog, kind, change):  # noqa: F811
    expected = fresh(images, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(7), tmp_path)  # two shards of six images are finished
    resave(shards_of(tmp_path, kind)[0], change)
    done, content = finish(images, Work(), tmp_path)
    assert [name for name in done if name < "i12"] == ["i00", "i01", "i02", "i04", "i05"]
    assert content == expected
    assert "1 shards are damaged or lack something and are done again (shard_000000.npz: " in caplog.text


@pytest.mark.parametrize(
    "replace",
    [
        lambda first, second: shutil.copy(second, first),
        lambda first, _: np.savez(first, other=np.zeros(3)),
        lambda first, _: first.write_bytes(b"PK\x03\x04 half an archive"),
        lambda first, _: Shard().write(first, "another job"),
        lambda first, _: np.save(first.open("wb"), np.zeros(3)),
    ],
)
def test_another_archive_in_a_shards_place_is_done_again(images, tmp_path, replace):  # noqa: F811
    expected = fresh(images, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(7), tmp_path)
    replace(*shards_of(tmp_path))
    done, content = finish(images, Work(), tmp_path)
    assert [name for name in done if name < "i12"] == ["i00", "i01", "i02", "i04", "i05"]
    assert content == expected


def test_a_shard_of_other_settings_is_never_used(images, tmp_path):  # noqa: F811
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(7), tmp_path / "other", settings={"a": 2})
    with pytest.raises(KeyboardInterrupt):
        run(images, Work(0), tmp_path)
    for path in (*shards_of(tmp_path / "other"), *shards_of(tmp_path / "other", "arrays")):
        shutil.copy(path, tmp_path / "out" / "shards" / "job" / path.name)
    assert len(finish(images, Work(), tmp_path)[0]) == 19


# ---------------------------------------------------------------------- pictures that change


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "redone"),
    [
        (
            lambda path: edit_in_place(path, "9"),
            ["i06", "i07", "i08", "i09", "i11"],
        ),  # of equal size and date
        (lambda path: path.write_text("1234"), ["i06", "i07", "i08", "i09", "i11"]),
        (lambda path: path.write_text("bad"), ["i06", "i07", "i09", "i11"]),  # later rows stand elsewhere
    ],
)
def test_a_changed_picture_costs_its_shard_alone(images, tmp_path, change, redone, finished, caplog):  # noqa: F811
    caplog.set_level("INFO")
    if finished:
        finish(images, Work(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(images, Work(9), tmp_path)  # of four shards, the last is not finished
    change(tmp_path / "in" / "i08")
    done, content = finish(images, Work(), tmp_path)
    assert [name for name in done if name < "i18"] == redone
    assert content == fresh(images, tmp_path / "whole")
    assert "1 shards are done again, since images have changed, come or gone (e.g. i08)" in caplog.text


def test_a_picture_that_goes_or_comes_costs_what_lies_behind_it(images, tmp_path):  # noqa: F811
    finish(images, Work(), tmp_path)
    fewer = images[images["image_id"] != "i13"]
    done, content = finish(fewer, Work(), tmp_path)
    assert done == ["i12", *(f"i{n}" for n in range(14, 21))]
    assert content == fresh(fewer, tmp_path / "fewer")
    done, content = finish(images, Work(), tmp_path)
    assert done == [f"i{n}" for n in range(12, 21)]
    assert content == fresh(images, tmp_path / "whole")


def test_fewer_shards_leave_none_behind(images, tmp_path):  # noqa: F811
    finish(images, Work(), tmp_path)
    few = images[images["image_id"] < "i06"]
    done, content = finish(few, Work(), tmp_path)
    assert done == []
    assert content == fresh(few, tmp_path / "few")
    assert len(shards_of(tmp_path)) == 1


def test_killed_while_a_changed_picture_is_done_again_it_still_ends_alike(images, tmp_path):  # noqa: F811
    finish(images, Work(), tmp_path)
    for name in ("i01", "i08", "i15"):
        (tmp_path / "in" / name).write_text("77")
    for die_at in (0, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            run(images, Work(die_at), tmp_path)
    done, content = finish(images, Work(), tmp_path)
    assert content == fresh(images, tmp_path / "whole")
    assert not {"i18", "i19", "i20"} & set(done)


def test_a_damaged_matrix_costs_the_damaged_part(images, tmp_path):  # noqa: F811
    _, expected = finish(images, Work(), tmp_path)
    matrix = tmp_path / "out" / "m.npy"
    edit_in_place(matrix, matrix.read_bytes()[:-1] + b"x")
    done, content = finish(images, Work(), tmp_path)
    assert done == ["i18", "i19", "i20"]
    assert content == expected


def test_an_archive_in_a_matrixs_place_is_made_anew(images, tmp_path):  # noqa: F811
    _, expected = finish(images, Work(), tmp_path)
    with open(tmp_path / "out" / "m.npy", "wb") as stream:
        np.savez(stream, a=np.ones(3))
    _, content = finish(images, Work(), tmp_path)
    assert content == expected


def test_what_could_not_be_read_and_can_be_now_is_used(images, tmp_path):  # noqa: F811
    """The file is what it was: the disk had a bad moment, or the reader learned a format."""
    cannot = {"i05"}

    def load(file):
        if Path(os.fspath(file)).name in cannot:
            raise ImageError(file, "bad moment")
        return read_number(os.fspath(file))

    finish(images, Work(), tmp_path, load=load)
    assert finish(images, Work(), tmp_path, load=load)[0] == []
    cannot.clear()
    done, content = finish(images, Work(), tmp_path, load=load)
    assert done == ["i00", "i01", "i02", "i04", "i05"]
    assert content == fresh(images, tmp_path / "whole")


# ---------------------------------------------------------------------- manifests


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("outputs"),
        lambda manifest: manifest.pop("pictures"),
        lambda manifest: manifest.update(outputs=["m.npy"]),
        lambda manifest: manifest.update(settings=None),
        lambda manifest: manifest.update(shards="4"),
        lambda manifest: manifest.update(rows={"a": 1}),
        lambda manifest: manifest.clear(),
        None,
    ],
)
def test_a_damaged_manifest_is_said_and_made_again(images, tmp_path, change, caplog):  # noqa: F811
    _, expected = finish(images, Work(), tmp_path)
    path = tmp_path / "out" / "shards" / "job" / "manifest.json"
    manifest = json.loads(path.read_text())
    if change is None:
        path.write_text("{half")
    else:
        change(manifest)
        path.write_text(json.dumps(manifest))
    assert finish(images, Work(), tmp_path)[1] == expected
    assert f"{path} is damaged" in caplog.text
    assert finish(images, Work(), tmp_path)[0] == []


# ---------------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "has not that much free"), (errno.EFBIG, "ulimit -f")]
)
def test_a_disk_without_room_for_the_matrix_is_said_before_it_is_written(
    images,  # noqa: F811
    tmp_path,
    monkeypatch,
    number,
    words,
):
    def no_room(stream, start, length):
        raise OSError(number, os.strerror(number))

    result = run(images, Work(), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", no_room, raising=False)
        with pytest.raises(UserError) as caught:
            result.write_matrix("vector", tmp_path / "out" / "m.npy")
    assert f"{tmp_path / 'out' / 'm.npy'} takes 228 bytes" in str(caught.value)  # 19 rows of 3 float32
    assert words in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shards"]
    assert finish(images, Work(), tmp_path) == ([], fresh(images, tmp_path / "whole"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_reserve_is_written_to_all_the_same(tmp_path, monkeypatch, number):
    def cannot(stream, start, length):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    create_matrix(tmp_path / "m.npy", "float32", (3, 2))[:] = 7
    assert (np.load(tmp_path / "m.npy") == 7).all()


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "x", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("only root can make a disk to fill")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_is_said_in_time(tiny_disk):
    with pytest.raises(UserError, match=r"m\.npy takes 4,000,000 bytes, and the disk has not that much free"):
        create_matrix(tiny_disk / "m.npy", "float32", (1000, 1000))
    assert list(tiny_disk.iterdir()) == []
    create_matrix(tiny_disk / "m.npy", "float32", (100, 100))[:] = 1
