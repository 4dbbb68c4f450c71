import numpy as np
import pytest

from utils.core.errors import UserError
from utils.core.matrix_files import create_matrix, map_matrix


def test_what_is_written_is_mapped(tmp_path):
    create_matrix(tmp_path / "m.npy", np.float16, (3, 2, 2))[:] = np.arange(12).reshape(3, 2, 2)
    assert np.array_equal(map_matrix(tmp_path / "m.npy", "x", 3), np.arange(12).reshape(3, 2, 2))
    assert create_matrix(tmp_path / "empty.npy", np.float32, (0, 4)).shape == (0, 4)


@pytest.mark.parametrize("size", [0, 5, 100, 128 + 47])
def test_a_matrix_cut_short_says_its_size_and_what_to_do(tmp_path, size):
    create_matrix(tmp_path / "m.npy", np.float32, (3, 2, 2))
    content = (tmp_path / "m.npy").read_bytes()
    (tmp_path / "m.npy").write_bytes(content[:size])
    with pytest.raises(
        UserError, match=rf"m\.npy cannot be read.* {size} bytes and is cut short.*Do it again\."
    ):
        map_matrix(tmp_path / "m.npy", "Do it again.")


def test_what_is_no_such_matrix_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(4))
    (tmp_path / "folder.npy").mkdir()
    for name, words in (
        ("a.npz", "found an archive"),
        ("pickled.npy", "cannot be read as a matrix"),
        ("flat.npy", r"expected a matrix of 3 axes, found one of shape \(4,\)"),
        ("folder.npy", "cannot be read as a matrix"),
        ("gone.npy", "is missing"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{words}.* Do it again"):
            map_matrix(tmp_path / name, "Do it again.", 3)
