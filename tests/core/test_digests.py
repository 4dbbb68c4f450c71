import json
import os
import time

import pytest
from conftest import edit_in_place

from utils.core import digests as module
from utils.core.digests import UNREADABLE, FileDigests, Seen, combined_digest, read_file
from utils.core.files import file_sha256

HOUR_NS = 3600 * 10**9


@pytest.fixture
def looks(monkeypatch):
    """Count how often files are read for their digest, an hour after they were written."""
    seen = []
    monkeypatch.setattr(module, "file_sha256", lambda path: seen.append(path) or file_sha256(path))
    monkeypatch.setattr(module.time, "time_ns", lambda real=time.time_ns: real() + HOUR_NS)
    return seen


def test_a_file_is_read_once_while_size_and_times_stay(tmp_path, looks):
    path = tmp_path / "a"
    path.write_text("1234")
    digests = FileDigests(tmp_path)
    assert digests.of(path) == digests.of(path) == file_sha256(path)
    assert len(looks) == 1
    digests.save()
    assert FileDigests(tmp_path).of(path) == file_sha256(path)
    assert len(looks) == 1


def test_an_edit_of_equal_size_and_date_is_noticed(tmp_path, looks):
    path = tmp_path / "a"
    path.write_text("1234")
    digests = FileDigests(tmp_path)
    before = digests.of(path)
    edit_in_place(path, "1235")
    assert digests.of(path) == file_sha256(path) != before


def test_touching_a_file_changes_nothing(tmp_path, looks):
    path = tmp_path / "a"
    path.write_text("1234")
    digests = FileDigests(tmp_path)
    before = digests.of(path)
    os.utime(path)
    assert digests.of(path) == before
    assert len(looks) == 2


def test_a_file_changed_a_moment_ago_is_not_trusted_by_its_times(tmp_path):
    """An edit within the clock's tick leaves size and times as they were."""
    path = tmp_path / "a"
    path.write_text("1234")
    times = module._times(path.stat())
    fresh = Seen("x", times, max(times[1:]) + 1)
    assert not fresh.still_holds(times)
    assert Seen("x", times, max(times[1:]) + HOUR_NS).still_holds(times)
    digests = FileDigests(tmp_path)
    digests.note(path, fresh)
    assert digests.of(path) == file_sha256(path)


def test_what_is_decoded_is_what_is_digested(tmp_path):
    path = tmp_path / "a"
    path.write_text("1234")
    file = read_file(path)
    assert (file.content, file.seen.digest, os.fspath(file)) == (b"1234", file_sha256(path), str(path))
    digests = FileDigests(tmp_path)
    digests.note(path, file.seen)
    path.write_text("12345")
    assert digests.of(path, since_ns=file.seen.read_ns) == file.seen.digest
    assert digests.of(path, since_ns=file.seen.read_ns + 1) == file_sha256(path)


def test_a_file_that_is_gone_or_comes_back_is_another(tmp_path, looks):
    digests = FileDigests(tmp_path)
    path = tmp_path / "a"
    assert digests.of(path) == UNREADABLE
    path.write_text("1")
    assert digests.of(path) == file_sha256(path)
    path.unlink()
    assert digests.of(path) == UNREADABLE


def test_fingerprints_tell_contents_apart(tmp_path):
    digests = FileDigests(tmp_path)
    assert digests.fingerprint(tmp_path / "nothing") == {}
    folder = tmp_path / "bear"
    folder.mkdir()
    empty = digests.fingerprint(folder)
    (folder / "notes.txt").write_text("no picture")
    assert digests.fingerprint(folder) == empty
    (folder / "1.JPG").write_text("one")
    one = digests.fingerprint(folder)
    assert (one["pictures"], empty["pictures"]) == (1, 0)
    edit_in_place(folder / "1.JPG", "two")
    other = digests.fingerprint(folder)
    assert (other["names_sha256"], other["sha256"] != one["sha256"]) == (one["names_sha256"], True)
    assert digests.fingerprint(folder / "1.JPG") == {"bytes": 3, "sha256": file_sha256(folder / "1.JPG")}


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"a": 1}', '{"PATH": ["x", 3, 4]}', "\x00", '{"PATH": ["x", [4], 4]}'),
        *(
            '{"PATH": ["x", [4, "1", 2], 4]}',
            '{"PATH": [7, [4, 1, 2], 4]}',
            '{"PATH": ["x", [4, 1, 2], null]}',
        ),
    ],
)
def test_a_damaged_memory_costs_a_second_look_and_nothing_else(tmp_path, content):
    (tmp_path / "shards").mkdir()
    path = tmp_path / "a"
    (tmp_path / "shards" / "digests.json").write_text(content.replace("PATH", str(path)))
    path.write_text("1234")
    digests = FileDigests(tmp_path)
    assert digests.of(path) == file_sha256(path)
    digests.save()
    assert list(json.loads((tmp_path / "shards" / "digests.json").read_text())) == [str(path)]


def test_file_names_need_not_be_utf8(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    with open(path, "w") as stream:
        stream.write("1")
    digests = FileDigests(tmp_path)
    digests.of(path)
    digests.save()
    assert FileDigests(tmp_path).last_seen(path).digest == file_sha256(path)
    assert digests.fingerprint(tmp_path)["pictures"] == 1


def test_order_and_names_count():
    assert combined_digest([("a", "1"), ("b", "2")]) != combined_digest([("b", "2"), ("a", "1")])
    assert combined_digest([("a", "1")]) != combined_digest([("b", "1")])
