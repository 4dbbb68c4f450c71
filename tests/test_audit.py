"""The numbers of docs/paper.md that need no picture."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import audit_released as audit


def test_the_released_split_and_pairing_lose_the_images_that_the_audit_says(real_memcat_table):
    scores = pd.read_csv(real_memcat_table, dtype={"image_file": str})
    table = audit.split_rows(scores, 42)
    assert table["split"].value_counts().to_dict() == {"train": 5892, "test": 3177, "val": 931}
    lost = audit.lost_images(table, "test", 42)
    assert (lost["pairs"], lost["pairs_empty"], lost["pairs_of_one"], lost["pairs_of_two"]) == (
        1589,
        769,
        647,
        173,
    )
    assert lost["first_pair_empty"]
    assert lost["kept_share"] == pytest.approx(0.313, abs=5e-4)
    assert (lost["sd_single"], lost["sd_pair"]) == (0.138, 0.099)


def test_a_split_that_holds_the_first_rows_loses_nothing_and_one_that_holds_the_last_all():
    table = pd.DataFrame({"score": np.linspace(0, 1, 10), "split": ["val"] * 4 + ["test"] * 6})
    assert audit.lost_images(table, "val", 0)["pairs_of_two"] == 2
    assert audit.lost_images(table, "test", 0)["kept_share"] == pytest.approx(2 / 6, abs=1e-3)


def test_independent_resamples_describe_the_null_and_pairs_the_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    found = audit.resampled_intervals(x, y, resamples=100)
    assert found["independent"][1] < 0 < found["independent"][2]
    assert found["paired"][1] > 0.5


def test_no_weight_arrives_from_a_prefixed_checkpoint_without_strictness():
    assert audit.weights_that_arrive() == {"tensors": 192, "unexpected": 192, "arrived": 0}
