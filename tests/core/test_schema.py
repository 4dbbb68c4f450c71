import pytest

from utils.core.errors import UserError
from utils.core.schema import check_shape, mismatch

SHAPE = {"meta": {"caveats?": [str], "size?": (int, None)}, "state": {str: float}, "done?": bool}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"meta": {}, "state": {}}, ""),
        ({"meta": {"caveats": ("a", "b"), "size": None, "more": 1}, "state": {"a": 1, "b": 0.5}}, ""),
        ({"meta": {"size": 96}, "state": {}, "done": True}, ""),
        ([], "expected named values at it, found a list"),
        (None, "expected named values at it, found nothing"),
        ({"state": {}, "x": 1}, "expected meta in it, found state, x"),
        ({"meta": [], "state": {}}, "expected named values at meta, found a list"),
        ({"meta": {"caveats": None}, "state": {}}, "expected a list at meta/caveats, found nothing"),
        ({"meta": {"caveats": "a"}, "state": {}}, "expected a list at meta/caveats, found text ('a')"),
        (
            {"meta": {"caveats": ["a", 3]}, "state": {}},
            "expected text at meta/caveats[1], found a whole number ('3')",
        ),
        ({"meta": {"size": "96"}, "state": {}}, "expected a whole number at meta/size, found text ('96')"),
        (
            {"meta": {"size": True}, "state": {}},
            "expected a whole number at meta/size, found true or false ('True')",
        ),
        (
            {"meta": {}, "state": {0: 1.0}},
            "expected names that are text in state, found a whole number ('0')",
        ),
        ({"meta": {}, "state": {"a": None}}, "expected a number at state/a, found nothing"),
        ({"meta": {}, "state": {}, "done": 1}, "expected true or false at done, found a whole number ('1')"),
    ],
)
def test_the_place_is_named_with_what_was_expected_and_found(content, text):
    assert mismatch(content, SHAPE) == text


def test_of_several_shapes_the_nearest_is_explained():
    shape = (None, {"a": int})
    assert mismatch(None, shape) == mismatch({"a": 1}, shape) == ""
    assert mismatch({"a": "x"}, shape) == "expected a whole number at a, found text ('x')"


def test_the_error_names_the_file_and_what_to_do(tmp_path):
    assert check_shape({"a": 1}, {"a": int}, tmp_path / "x.json", "Delete it.") == {"a": 1}
    with pytest.raises(
        UserError, match=r"x\.json is not what it should be: expected a in it, found b\. Delete it\."
    ):
        check_shape({"b": 1}, {"a": int}, tmp_path / "x.json", "Delete it.")
