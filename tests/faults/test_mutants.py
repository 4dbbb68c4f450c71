"""A few mutants of every format in every way; thousands in ``make soak``."""

import io

import numpy as np
import pytest
from faults.mutants import FORMATS, MUTATIONS, SIZE, mutants, read_all, whole
from PIL import Image

from utils.core.digests import FileContent, Seen
from utils.core.errors import ImageError
from utils.data.images import load_pixels


@pytest.mark.parametrize("number", range(len(FORMATS)), ids=[name for name, *_ in FORMATS])
def test_every_format_is_read_when_whole(number):
    pixels = load_pixels(FileContent("whole", whole(number), Seen.of_unreadable()), SIZE)
    assert pixels.shape == (3, SIZE, SIZE)
    assert np.ptp(pixels) > 0.1


def test_a_mutant_depends_on_its_number_alone():
    one = list(mutants(100, 3, seed=1))
    assert one == [*mutants(100, 1, seed=1), *mutants(101, 2, seed=1)]
    assert [m.content for m in one] != [m.content for m in mutants(100, 3, seed=2)]


def test_of_mutants_comes_a_picture_or_an_image_error():
    count = len(FORMATS) * len(MUTATIONS) * 2
    outcomes, problems, slowest = read_all(0, count, seed=0)
    assert problems == []
    assert sum(outcomes.values()) == count
    assert min(outcomes["read"], outcomes["refused"]) > count / 10
    assert slowest < 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_picture_with_a_value_that_is_no_number_is_refused(value):
    """Found by the mutants: what such a value becomes as 8 bits depends on the machine."""
    stream, values = io.BytesIO(), np.full((9, 9), 0.5, dtype=np.float32)
    values[4, 4] = value
    Image.fromarray(values).save(stream, "TIFF")
    with pytest.raises(ImageError, match="no finite numbers"):
        load_pixels(FileContent("x.tif", stream.getvalue(), Seen.of_unreadable()), SIZE)


def test_another_error_would_be_told(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("faults.mutants.load_pixels", broken)
    _, problems, _ = read_all(0, 2, seed=0)
    assert len(problems) == 2
    assert "ZeroDivisionError: a bug" in problems[0]
