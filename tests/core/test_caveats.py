import pandas as pd

from utils.core.caveats import Caveats
from utils.core.names import SAMPLE_CAVEAT


def test_each_text_once_sorted_and_back_from_a_cell():
    both = Caveats([SAMPLE_CAVEAT, Caveats.random_weights("LPIPS"), SAMPLE_CAVEAT])
    assert list(both) == ["random weights: LPIPS", SAMPLE_CAVEAT]
    assert str(both) == f"random weights: LPIPS; {SAMPLE_CAVEAT}"
    assert Caveats([str(both)]) == both
    assert Caveats([SAMPLE_CAVEAT]) | ["random weights: LPIPS"] == both
    assert Caveats([SAMPLE_CAVEAT]) != both


def test_nothing_to_say_is_false_and_empty():
    assert not Caveats(["", ""])
    assert str(Caveats()) == ""
    assert not Caveats.of_table(pd.DataFrame({"image_id": ["a"]}))


def test_a_table_says_what_any_of_its_rows_say():
    frame = pd.DataFrame({"caveat": ["", f"random weights: LPIPS; {SAMPLE_CAVEAT}", SAMPLE_CAVEAT]})
    assert list(Caveats.of_table(frame)) == ["random weights: LPIPS", SAMPLE_CAVEAT]


def test_the_two_kinds_are_told_apart():
    sample, random = Caveats([SAMPLE_CAVEAT]), Caveats([Caveats.random_weights("style")])
    assert (sample.has_sample, sample.has_random_weights) == (True, False)
    assert (random.has_sample, random.has_random_weights) == (False, True)
