import numpy as np
import pandas as pd
import pytest
from conftest import make_picture

from utils.core.errors import ImageError, UserError
from utils.pretraining.pictures import (
    PictureStore,
    check_enough,
    hold_out,
    leave_out_small,
    pictures_of_folder,
    random_crop,
)


def test_a_folder_of_any_depth_without_scores(tmp_path):
    for name in ("b.png", "a/c.jpg", "a/d/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(1).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    images = pictures_of_folder(tmp_path)
    assert images["image_id"].tolist() == ["a/c.jpg", "a/d/e.jpg", "b.png"]
    with pytest.raises(UserError, match="Expected a folder of pictures at .*nowhere, found nothing"):
        pictures_of_folder(tmp_path / "nowhere")


def test_pictures_that_the_crop_does_not_fit_into_are_left_out_and_named(tmp_path):
    for name, size in (("large.png", (40, 33)), ("exact.png", (32, 50)), ("small.png", (100, 31))):
        make_picture(1, *size).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    kept, skipped = leave_out_small(pictures_of_folder(tmp_path), 32)
    assert kept["image_id"].tolist() == ["exact.png", "large.png"]
    assert dict(skipped)["small.png"] == "100 x 31 px is smaller than the crop of 32 px"
    assert "not a picture" in dict(skipped)["broken.jpg"]


def test_the_held_out_are_a_share_chosen_by_the_seed():
    images = pd.DataFrame({"image_id": [f"{n:03d}.jpg" for n in range(200)]})
    chosen = hold_out(images, 0.1, seed=3)
    assert chosen.sum() == 20
    assert np.array_equal(chosen, hold_out(images, 0.1, seed=3))
    assert not np.array_equal(chosen, hold_out(images, 0.1, seed=4))
    assert hold_out(images.head(3), 0.1, 0).sum() == 1
    assert hold_out(pd.DataFrame({"image_id": range(20_000)}), 0.1, 0).sum() == 1000


@pytest.mark.parametrize(
    ("counts", "skipped", "message"),
    [
        ((2, 1, 1), [], "Expected at least 10 pictures in here, found 3 that can be used."),
        (
            (2, 1, 1),
            [("a", "9 x 9 px is smaller than the crop of 32 px")],
            r"\(1 more are smaller than the crop",
        ),
        ((20, 0, 1), [], "No picture of here is held out"),
        ((9, 1, 16), [], "9 pictures to train on in here do not fill one batch of 16"),
    ],
)
def test_folders_that_nothing_can_be_learnt_from(counts, skipped, message):
    with pytest.raises(UserError, match=message):
        check_enough(*counts, "here", skipped)
    check_enough(16, 1, 16, "here", skipped)


def test_pictures_are_reduced_once_kept_and_never_enlarged(tmp_path):
    make_picture(1, 120, 80).save(tmp_path / "a.png")
    make_picture(2, 33, 90).save(tmp_path / "b.png")
    store = PictureStore(32, cache_bytes=10_000)
    large, narrow = store.load(str(tmp_path / "a.png")), store.load(str(tmp_path / "b.png"))
    assert large.shape == (37, 56, 3)  # 8/7 of 32, rounded
    assert narrow.shape == (90, 33, 3)
    assert store.load(str(tmp_path / "a.png")) is large
    assert store.load(str(tmp_path / "b.png")) is not narrow  # 6,216 of 10,000 bytes taken: 8,910 do not fit
    with pytest.raises(ImageError, match="does not exist"):
        store.load(str(tmp_path / "c.png"))


def test_crops_are_everywhere_and_every_second_one_is_mirrored():
    pixels = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    rng = np.random.default_rng(0)
    found = [random_crop(pixels, 4, rng).tobytes() for _ in range(400)]
    squares = [pixels[top : top + 4, left : left + 4] for top in range(3) for left in range(2)]
    plain = {square.transpose(2, 0, 1).tobytes() for square in squares}
    mirrored = {square[:, ::-1].transpose(2, 0, 1).tobytes() for square in squares}
    assert set(found) == plain | mirrored
    assert 160 < sum(crop in plain for crop in found) < 240
    again = [random_crop(pixels, 4, np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(*again)
