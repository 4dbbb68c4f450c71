"""Near-duplicates: changed copies are found, different pictures are not, and none is left on the other side of a split."""

import io

import numpy as np
import pandas as pd
import pytest
from conftest import make_picture
from PIL import Image, ImageEnhance

from benchmarks.common import RESULTS
from utils.prediction.near_duplicates import (
    CODE_LIMIT,
    HASH_LIMIT,
    code_pairs,
    families,
    hash_pairs,
    keep_together,
    near_duplicate_table,
    perceptual_hash,
)


def bits(first: Image.Image, second: Image.Image) -> int:
    hashes = [perceptual_hash(np.asarray(picture.convert("RGB"))) for picture in (first, second)]
    return (hashes[0] ^ hashes[1]).bit_count()


def recompressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda picture: picture.resize((90, 70)),
        lambda picture: ImageEnhance.Brightness(picture).enhance(0.8),
        lambda picture: picture.crop((1, 1, 179, 139)),
        lambda picture: picture.convert("L"),
    ],
)
def test_a_changed_copy_stays_within_the_limit(change):
    picture = make_picture(3, 180, 140)
    assert bits(picture, change(picture)) <= HASH_LIMIT


def test_different_pictures_differ_in_about_half_of_63_bits():
    hashes = np.array(
        [perceptual_hash(np.asarray(make_picture(seed))) for seed in range(60)], dtype=np.uint64
    )
    pairs = np.bitwise_count(hashes[:, None] ^ hashes)[np.triu_indices(60, 1)]
    assert 28 < pairs.mean() < 34
    assert pairs.min() > HASH_LIMIT


def test_the_hash_is_the_sign_of_low_cosine_waves_around_their_median():
    """A picture of one wave: that wave alone stands out, by its own definition of the cosine transform."""
    place = np.arange(32)
    wave = np.cos(np.pi * (2 * place + 1) * 3 / 64)  # three half waves across
    grey = (128 + 100 * np.broadcast_to(wave, (32, 32))).round().astype(np.uint8)
    found = perceptual_hash(np.repeat(grey[:, :, None], 3, axis=2))
    assert found >> 2 & 1 == 1, "row 0, column 3 is the third wave after the mean"
    negative = perceptual_hash(np.repeat(255 - grey[:, :, None], 3, axis=2))
    assert negative >> 2 & 1 == 0


def test_all_pairs_within_the_limit_are_found_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 50, dtype=np.uint64)
    hashes[40] = hashes[3] ^ np.uint64(0b101)
    hashes[9] = hashes[8]
    monkeypatch.setattr("utils.prediction.near_duplicates.BLOCK_PAIRS", 120)
    assert list(zip(*hash_pairs(hashes), strict=True)) == [(3, 40), (8, 9)]


def test_a_thousand_copies_are_a_thousand_pairs_and_one_family():
    hashes = np.full(1000, 12345, dtype=np.uint64)
    hashes[500] ^= np.uint64(1)
    first, second = hash_pairs(hashes)
    assert len(first) == 999
    assert set(families(first, second, 1000)) == {1}


def test_a_picture_of_one_colour_has_no_layout_to_compare():
    assert perceptual_hash(np.full((40, 50, 3), 77, np.uint8)) is None


def test_codes_far_closer_than_others_are_found_once():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(60, 30)).astype(np.float32)
    codes[50] = codes[4] + 0.05
    first, second, unit = code_pairs(codes)
    assert list(zip(first, second, strict=True)) == [(4, 50)]
    brute = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    np.fill_diagonal(brute, np.inf)
    assert unit == pytest.approx(np.median(brute.min(axis=1)), rel=1e-5)


def test_the_table_says_how_each_pair_was_found_and_whether_it_spans_a_split():
    rng = np.random.default_rng(0)
    ids = np.array([f"{number:02d}.jpg" for number in range(40)])
    codes = rng.normal(size=(40, 30)).astype(np.float32)
    hashes = rng.integers(0, 2**63, 40, dtype=np.uint64)
    known = np.ones(40, dtype=bool)
    codes[1], hashes[1] = codes[0] + 0.01, hashes[0]
    hashes[3] = hashes[2] ^ np.uint64(1)
    codes[5] = codes[4] + 0.01
    codes[6] = codes[4] - 0.01
    known[30], known[31], hashes[30], hashes[31] = False, False, 0, 0  # unreadable: no hash is no equal hash
    splits = np.array(["train", "test"] * 20)
    splits[6] = "test"
    table = near_duplicate_table(ids, splits, hashes, known, codes)
    assert not table["image_id"].isin(["30.jpg", "31.jpg"]).any()
    found = {(row.image_id, row.other_image_id): row for row in table.itertuples()}
    assert set(found) == {
        ("00.jpg", "01.jpg"),
        ("02.jpg", "03.jpg"),
        ("04.jpg", "05.jpg"),
        ("04.jpg", "06.jpg"),
        ("05.jpg", "06.jpg"),
    }
    assert found["00.jpg", "01.jpg"].found_by == "hash and codes"
    assert found["02.jpg", "03.jpg"].found_by == "hash"
    assert found["02.jpg", "03.jpg"].hash_bits == 1
    assert found["02.jpg", "03.jpg"].code_distance > 0.5
    assert found["04.jpg", "05.jpg"].found_by == "codes"
    assert not found["05.jpg", "06.jpg"].across_splits
    assert (
        found["04.jpg", "05.jpg"].family
        == found["05.jpg", "06.jpg"].family
        != found["00.jpg", "01.jpg"].family
    )


def test_a_table_of_no_pairs_is_empty_and_whole():
    rng = np.random.default_rng(0)
    table = near_duplicate_table(
        np.array([f"{n}.jpg" for n in range(9)]),
        np.array(["train"] * 9),
        rng.integers(0, 2**63, 9, dtype=np.uint64),
        np.ones(9, dtype=bool),
        rng.normal(size=(9, 20)).astype(np.float32),
    )
    assert table.empty
    assert "family" in table


def test_a_family_goes_to_the_side_that_is_held_back_most():
    family = families(np.array([0, 1, 4, 6]), np.array([1, 2, 5, 7]), 9)
    assert family.tolist() == [1, 1, 1, 0, 2, 2, 3, 3, 0]
    splits = np.array(["train", "val", "test", "train", "train", "val", "train", "train", "test"])
    together = keep_together(splits, family)
    assert together.tolist() == ["test", "test", "test", "train", "val", "val", "train", "train", "test"]


def test_the_limits_are_those_that_were_calibrated():
    """Both find every recompressed or smaller copy, and among LNSIM's pictures only pairs that are the same to the eye."""
    recorded = pd.read_csv(RESULTS / "near_duplicates.csv").set_index(["found by", "limit"])
    for key, pairs in ((("hash", HASH_LIMIT), 3), (("codes", CODE_LIMIT), 2)):
        row = recorded.loc[key]
        assert row[["JPEG 30", "half size", "blurred by 2 px"]].min() == 1
        assert row["cropped by 2 %"] > 0.98
        assert row["pairs of originals"] == pairs
