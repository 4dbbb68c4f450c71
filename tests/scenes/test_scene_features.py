"""Known answers for objects and segments, the cache, and the two passes behind it."""

import dataclasses
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import edit_in_place
from PIL import Image

from utils.core.device import computing_in
from utils.core.errors import UserError
from utils.core.feature_names import SCENE_FEATURES
from utils.core.run import Run
from utils.data.images import preprocess
from utils.features.scene import object_features, scene_features, segment_features
from utils.scenes import networks as scene
from utils.scenes.cache import SceneCache, check_min_score, load_scene_cache, write_scene_cache
from utils.scenes.geometry import Detections, box_mask, boxes_in_crop, mask_in_crop

DETECTOR, SEGMENTER = "fasterrcnn_mobilenet_v3_large_320_fpn", "lraspp_mobilenet_v3_large"
OBJECT_NAMES = ["__background__", "person", "dog", "kite"]
SEGMENT_NAMES = ["__background__", "cat", "person"]
PRESET = SimpleNamespace(resize_size=[64], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def detections(*objects):
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in objects], np.float32)
    return Detections(boxes, tuple(label for _, label, _ in objects), scores)


# ---- objects

THREE = detections(
    ((0, 0, 50, 40), "person", 0.9),  # 2000 px
    ((10, 10, 20, 20), "dog", 0.6),  # 100 px
    ((0, 0, 100, 100), "kite", 0.3),  # below the default threshold
)


def test_objects_above_the_threshold_by_hand():
    found = object_features(THREE, height=100, width=200)
    assert found == {
        "object_count": 2,
        "object_classes": 2,
        "object_area_mean": pytest.approx((2000 + 100) / 2 / 20000),
        "object_area_largest": pytest.approx(0.1),
        "person_present": 1,
    }


def test_a_lower_threshold_adds_the_weak_object():
    found = object_features(THREE, 100, 200, min_score=0.25)
    assert (found["object_count"], found["object_area_largest"]) == (3, pytest.approx(0.5))


def test_an_object_counts_from_the_least_score_on():
    found = object_features(
        detections(((0, 0, 1, 1), "dog", 0.5), ((0, 0, 1, 1), "cat", 0.49)), min_score=0.5
    )
    assert (found["object_count"], found["object_classes"]) == (1, 1)


def test_two_of_a_kind_are_one_class_and_no_person():
    found = object_features(detections(((0, 0, 1, 1), "dog", 0.9), ((0, 0, 1, 0.5), "dog", 0.8)))
    assert (found["object_count"], found["object_classes"], found["person_present"]) == (2, 1, 0)


def test_no_objects_have_a_count_but_no_area():
    found = object_features(detections())
    assert (found["object_count"], found["object_classes"], found["person_present"]) == (0, 0, 0)
    assert np.isnan(found["object_area_mean"])
    assert np.isnan(found["object_area_largest"])


@pytest.mark.parametrize("score", [0.01, 1.5, float("nan")])
def test_threshold_outside_the_cache_is_refused(score):
    with pytest.raises(
        UserError, match=rf"--min-score {score:g} is outside 0.05 to 1: .* drop objects below 0.05"
    ):
        check_min_score(score)


# ---- segments


def test_segments_of_two_halves_by_hand():
    mask = np.zeros((40, 100), np.uint8)
    mask[:, 50:] = 7
    assert segment_features(mask) == {
        "segment_classes": 1,
        "foreground_share": pytest.approx(0.5),
        "segment_entropy": pytest.approx(1),
    }


def test_segments_of_four_quarters_and_of_none():
    mask = np.repeat(np.arange(4, dtype=np.uint8), 25).reshape(10, 10)
    assert segment_features(mask) == {
        "segment_classes": 3,
        "foreground_share": pytest.approx(0.75),
        "segment_entropy": pytest.approx(2),
    }
    empty = segment_features(np.zeros((10, 10), np.uint8))
    assert empty == {"segment_classes": 0, "foreground_share": 0, "segment_entropy": 0}


def test_a_speck_is_not_a_segment_class():
    mask = np.zeros((100, 100), np.uint8)
    mask[0, :9] = 3
    assert segment_features(mask)["segment_classes"] == 0
    mask[0, :10] = 3
    assert segment_features(mask)["segment_classes"] == 1


def test_foreground_background_distance_of_red_on_green():
    pixels = np.full((20, 30, 3), (0, 255, 0), np.uint8)
    pixels[5:10, 5:10] = (255, 0, 0)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 15
    # CIELAB of the two primaries: (53.24, 80.09, 67.20) and (87.73, -86.18, 83.18)
    expected = np.linalg.norm(np.array([53.24, 80.09, 67.20]) - np.array([87.73, -86.18, 83.18]))
    assert scene.foreground_background_distance(pixels, mask) == pytest.approx(expected, abs=0.1)
    assert scene.foreground_background_distance(np.full_like(pixels, 90), mask) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("value", [0, 15])
def test_no_foreground_or_no_background_has_no_distance(value):
    mask = np.full((8, 8), value, np.uint8)
    assert np.isnan(scene.foreground_background_distance(np.zeros((8, 8, 3), np.uint8), mask))


# ---- geometry


def test_box_mask_counts_pixel_centres():
    assert box_mask(np.empty((0, 4), np.float32), 5, 5).sum() == 0
    mask = box_mask(np.array([[1, 2, 4, 3], [0, 0, 0.4, 5]], np.float32), 5, 6)
    assert mask.sum() == 3  # the second box is thinner than half a pixel
    assert mask[2, 1:4].all()


def test_boxes_in_crop_by_hand():
    """A 200 x 400 picture keeps its middle 200 x 200, scaled by a half."""
    boxes = np.array([[0.25, 0, 0.75, 1], [0, 0, 0.2, 1], [0.5, 0.5, 1, 1]], np.float32)
    found = boxes_in_crop(boxes, height=200, width=400, size=100)
    np.testing.assert_allclose(found, [[0, 0, 100, 100], [0, 0, 0, 100], [50, 50, 100, 100]], atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (224, 224), (97, 1000)])
def test_boxes_and_masks_lie_where_the_preprocessing_puts_the_pixels(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    box = np.array([0.42, 0.3, 0.61, 0.8])
    left, top, right, bottom = np.rint(box * [width, height, width, height]).astype(int)
    pixels[top:bottom, left:right] = 255
    seen = preprocess(Image.fromarray(pixels), 224)[0] > 0.5
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    fractions = np.array([[left / width, top / height, right / width, bottom / height]])
    found = boxes_in_crop(fractions, height, width, 224)[0]
    np.testing.assert_allclose(found, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1)
    mask = mask_in_crop((pixels[..., 0] > 0).astype(np.uint8) * 5, 224)
    assert set(np.unique(mask)) <= {0, 5}
    assert ((mask > 0) != seen).mean() < 0.02  # they may differ along the outline only
    assert (box_mask(found[None], 224, 224) != seen).mean() < 0.02


# ---- the two passes


class FakeDetector(torch.nn.Module):
    """Finds the picture's mean colour: one box whose score is the mean, from the left edge to a third."""

    def forward(self, images):
        self.sizes = getattr(self, "sizes", []) + [len(images)]
        return [
            {
                "boxes": torch.tensor([[0.0, 0.0, image.shape[2] / 3, image.shape[1]], [0, 0, 1, 1]]),
                "labels": torch.tensor([1, 2]),
                "scores": torch.stack([image.mean(), torch.tensor(0.01)]),
            }
            for image in images
        ]


class FakeSegmenter(torch.nn.Module):
    """Class 1 where the picture is bright, background elsewhere."""

    def forward(self, images):
        self.seen = images
        bright = images[:, :1]
        return {"out": torch.cat([torch.zeros_like(bright), bright, torch.full_like(bright, -9)], dim=1)}


def half_bright(height, width, level=200):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = level
    return pixels


def test_detect_keeps_order_over_mixed_sizes_and_drops_weak_objects():
    pictures = [half_bright(30, 60, 200), half_bright(20, 20, 80), half_bright(30, 60, 120)]
    detector = FakeDetector()
    found = scene.detect(detector, pictures)
    assert detector.sizes == [2, 1]  # equal shapes share a pass
    assert [one["score"][0] for one in found] == pytest.approx([100 / 255, 40 / 255, 60 / 255], rel=1e-5)
    for one in found:
        assert one["label"] == [1]
        np.testing.assert_allclose(one["box"], [[0, 0, 1 / 3, 1]], rtol=1e-6)


def test_detect_leaves_out_boxes_that_are_not_numbers():
    class Broken(torch.nn.Module):
        def forward(self, images):
            boxes = torch.tensor([[0, 0, float("nan"), 1], [0, 0, 1, 1]])
            return [{"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.8])}]

    assert scene.detect(Broken(), [half_bright(4, 4)])[0]["label"] == [2]


def test_segment_gives_masks_of_the_pictures_own_size():
    pictures = [half_bright(50, 80), half_bright(40, 30), half_bright(50, 80)]
    masks = scene.segment(FakeSegmenter(), PRESET, pictures)
    for picture, mask in zip(pictures, masks, strict=True):
        assert mask.dtype == np.uint8
        assert mask.shape == picture.shape[:2]
        assert ((mask == 1) == (picture[..., 0] > 0)).mean() > 0.95


def test_segmenter_sees_what_torchvisions_preset_gives():
    from torchvision.transforms._presets import SemanticSegmentation

    preset = SemanticSegmentation(resize_size=64)
    picture = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    network = FakeSegmenter()
    scene.segment(network, preset, [picture])
    expected = preset(torch.from_numpy(picture).permute(2, 0, 1))
    assert network.seen.shape[1:] == expected.shape
    # The preset rounds to whole levels after resizing; half a level over the smallest deviation.
    assert (network.seen[0] - expected).abs().max() < 0.51 / 255 / 0.224


def test_strips_are_bounded_for_the_segmenter_and_skipped_by_the_detector():
    assert scene.segmenter_size(375, 500, 520) == (520, 693)
    assert scene.segmenter_size(1, 1000, 520) == (32, 2080)
    detector = FakeDetector()
    assert scene.detect(detector, [np.full((1, 1000, 3), 255, np.uint8)]) == [
        {"box": [], "label": [], "score": []}
    ]


def test_real_light_networks_with_random_weights_do_not_mind_their_neighbours():
    from models.pretrained import load_detector, load_segmenter

    detector, _ = load_detector(DETECTOR, "random", seed=1)
    segmenter, about = load_segmenter(SEGMENTER, "random", seed=1)
    rng = np.random.default_rng(2)
    pictures = [
        rng.integers(0, 256, shape, dtype=np.uint8) for shape in [(48, 64, 3), (64, 48, 3), (48, 64, 3)]
    ]
    about["transforms"].resize_size = [64]
    masks = scene.segment(segmenter, about["transforms"], pictures)
    for position, picture in enumerate(pictures):
        np.testing.assert_array_equal(
            scene.segment(segmenter, about["transforms"], [picture])[0], masks[position]
        )
    assert all(
        one["label"] == [] for one in scene.detect(detector, pictures)
    )  # untrained: nothing above 0.05


# ---- the cache


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for number, (height, width) in enumerate([(40, 60), (60, 40), (40, 60), (50, 50), (40, 60)]):
        path = folder / f"{number}.png"
        Image.fromarray(half_bright(height, width, 120 + 30 * number)).save(path)
        rows.append({"image_id": f"set/{number}.png", "path": str(path)})
    return pd.DataFrame(rows)


@pytest.fixture
def networks(monkeypatch):
    """Replace the networks and count how many pictures each has seen."""
    seen = {"count": 0, "digest": "a"}

    class Counting(FakeDetector):
        def forward(self, pictures):
            seen["count"] += len(pictures)
            return super().forward(pictures)

    def about(names):
        return {"sha256": seen["digest"], "categories": names, "transforms": PRESET}

    monkeypatch.setattr("models.pretrained.load_detector", lambda *_: (Counting(), about(OBJECT_NAMES)))
    monkeypatch.setattr(
        "models.pretrained.load_segmenter", lambda *_: (FakeSegmenter(), about(SEGMENT_NAMES))
    )
    return seen


SETTINGS = scene.SceneSettings("fast", "small", batch_size=2, workers=0)


def test_cache_answers_with_boxes_masks_and_features(tmp_path, images, networks):
    cache, skipped = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert skipped == []
    assert cache.image_ids == images["image_id"].tolist()
    assert "set/1.png" in cache
    assert "other" not in cache
    found = cache.boxes("set/1.png", min_score=0.1)
    assert found.labels == ("person",)
    np.testing.assert_allclose(found.boxes, [[0, 0, 40 / 3, 60]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [75 / 255], rtol=1e-5)
    assert cache.boxes("set/1.png", min_score=0.9).labels == ()
    cropped = cache.boxes("set/1.png", crop=True, size=80, min_score=0.1)
    np.testing.assert_allclose(cropped.boxes, [[0, 0, 80 / 3, 80]], rtol=1e-5)
    mask = cache.mask("set/1.png")
    assert mask.shape == (60, 40) == cache.size("set/1.png")
    assert (mask == 1).mean() == pytest.approx(0.5, abs=0.05)
    assert cache.mask("set/1.png", crop=True).shape == (224, 224)
    assert cache.segment_names == SEGMENT_NAMES
    assert not cache.random
    features = scene_features(cache, "set/1.png", min_score=0.1)
    assert list(features) == [feature.name for feature in SCENE_FEATURES]
    assert features["person_present"] == 1
    assert features["foreground_background_distance"] > 30


def test_masks_and_boxes_are_kept_bit_by_bit(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 21, (37, 53), dtype=np.uint8)
    picture = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    found = {"box": [[0.1, 0.2, 0.7, 1 / 3]], "label": [2], "score": [float(np.float32(0.9))]}
    about = {"settings": {"weights": "random"}, "digests": []}
    about |= {"object_names": OBJECT_NAMES, "segment_names": SEGMENT_NAMES}
    rows = [{"image_id": "a", "sha256": "0", **scene.scene_row(picture, found, mask)}]
    cache = write_scene_cache(tmp_path / "cache.sqlite", about, rows)
    np.testing.assert_array_equal(cache.mask("a"), mask)
    boxes = cache.boxes("a")
    np.testing.assert_array_equal(
        boxes.boxes, np.float32([[0.1, 0.2, 0.7, 1 / 3]]) * np.float32([53, 37, 53, 37])
    )
    assert (boxes.labels, boxes.scores.tolist()) == (("dog",), [np.float32(0.9)])


def test_networks_run_once_per_image_and_a_threshold_needs_none(tmp_path, images, networks, monkeypatch):
    scene.ensure_scene_cache(images.head(2), tmp_path, SETTINGS)
    assert networks["count"] == 2
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert networks["count"] == 5
    assert cache.image_ids == images["image_id"].tolist()

    def refuse(*_):
        raise AssertionError("a network was loaded although the cache has every image")

    monkeypatch.setattr("models.pretrained.load_detector", refuse)
    cache, _ = scene.ensure_scene_cache(images.tail(3), tmp_path, SETTINGS)
    counts = [
        sum(scene_features(cache, name, score)["object_count"] for name in cache.image_ids)
        for score in (0.05, 0.3, 1)
    ]
    assert counts == [5, 3, 0]  # mean brightness 60, 75, 90, 105, 120 of 255


def test_in_two_steps_gives_the_same_bytes(tmp_path, images, networks):
    first, second = tmp_path / "first", tmp_path / "second"
    scene.ensure_scene_cache(images, first, SETTINGS)
    scene.ensure_scene_cache(images.iloc[[3, 1]], second, SETTINGS)
    scene.ensure_scene_cache(images, second, SETTINGS)
    name = scene.cache_path(first, "fast", "small").name
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, images, networks, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("utils.core.shards.run_sharded", _one_batch_per_shard(scene))
    scene.ensure_scene_cache(images, first, SETTINGS)
    real, calls = scene.segment, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(scene, "segment", killed)
    with pytest.raises(KeyboardInterrupt):
        scene.ensure_scene_cache(images, second, SETTINGS)
    assert not list(second.glob("*.sqlite*"))
    networks["count"] = 0
    scene.ensure_scene_cache(images, second, SETTINGS)
    assert networks["count"] == 1  # of five images in three shards, two shards were finished
    name = scene.cache_path(first, "fast", "small").name
    assert (first / name).read_bytes() == (second / name).read_bytes()


def _one_batch_per_shard(module):
    from utils.core.shards import run_sharded

    return lambda *positional, **named: run_sharded(*positional, shard_size=1, **named)


def test_a_changed_file_is_looked_at_again(tmp_path, images, networks):
    scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    Image.fromarray(half_bright(44, 66, 250)).save(images["path"][1])
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert networks["count"] == 6
    assert cache.size("set/1.png") == (44, 66)
    content = bytearray(Path(images["path"][1]).read_bytes())
    content[30] ^= 1  # within a checksum, so that it is no picture any more
    edit_in_place(Path(images["path"][1]), bytes(content))
    cache, skipped = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert [name for name, _ in skipped] == ["set/1.png"]
    assert "set/1.png" not in cache
    content[30] ^= 1
    edit_in_place(Path(images["path"][1]), bytes(content))  # mended: used again
    cache, skipped = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert (skipped, len(cache), networks["count"]) == ([], 5, 7)


def test_a_cache_that_was_edited_is_refused_by_readers_and_mended_by_its_writer(tmp_path, images, networks):
    with Run("feature_analysis", Namespace(output_path=tmp_path)):
        scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    path = scene.cache_path(tmp_path, "fast", "small")
    before = path.read_bytes()
    edit_in_place(path, before.replace(b"set/1.png", b"set/9.png", 1))
    with pytest.raises(UserError, match="has changed since it was written"):
        load_scene_cache(tmp_path)
    with Run("feature_analysis", Namespace(output_path=tmp_path)):
        scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert networks["count"] == 2 * len(images)
    assert path.read_bytes() == before


def test_unreadable_images_are_named_once_and_not_tried_again(tmp_path, images, networks, monkeypatch):
    scene.ensure_scene_cache(images.head(3), tmp_path, SETTINGS)
    with open(images["path"][4], "wb") as stream:
        stream.write(b"\x89PNG broken")
    for _ in range(2):
        cache, skipped = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
        assert [image_id for image_id, _ in skipped] == ["set/4.png"]
        assert len(cache) == 4
    assert networks["count"] == 4
    with pytest.raises(UserError, match=r"set/4\.png: .*Mend or remove the file.*--on-error skip"):
        scene.ensure_scene_cache(images, tmp_path, scene.SceneSettings("fast", "small", on_error="fail"))


def test_only_unreadable_images_left_does_not_end_the_study(tmp_path, images, networks):
    scene.ensure_scene_cache(images.head(4), tmp_path, SETTINGS)
    with open(images["path"][4], "wb") as stream:
        stream.write(b"")
    cache, skipped = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert len(cache) == 4
    assert [image_id for image_id, _ in skipped] == ["set/4.png"]


def test_other_weights_start_anew(tmp_path, images, networks):
    scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    random = scene.SceneSettings("fast", "small", weights="random", workers=0)
    cache, _ = scene.ensure_scene_cache(images, tmp_path, random)
    assert cache.random
    assert cache.random_parts == "detector and segmenter"
    assert networks["count"] == 10
    scene.ensure_scene_cache(images.head(2), tmp_path, SETTINGS)
    networks["digest"] = "b"
    scene.ensure_scene_cache(images.head(3), tmp_path, SETTINGS)
    assert networks["count"] == 15  # the third image needed the networks, whose files had changed: all again


def test_no_objects_anywhere(tmp_path, images, networks, monkeypatch):
    class Blind(torch.nn.Module):
        def forward(self, pictures):
            empty = torch.empty(0)
            return [{"boxes": torch.empty(0, 4), "labels": empty.long(), "scores": empty} for _ in pictures]

    about = {"sha256": None, "categories": OBJECT_NAMES}
    monkeypatch.setattr("models.pretrained.load_detector", lambda *_: (Blind(), about))
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert cache.boxes("set/0.png", crop=True).boxes.shape == (0, 4)
    assert scene_features(cache, "set/0.png")["object_count"] == 0


def test_loading_finds_the_one_cache_or_says_which_there_are(tmp_path, images, networks):
    assert load_scene_cache(tmp_path) is None
    scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert len(load_scene_cache(tmp_path)) == 5
    assert load_scene_cache(tmp_path, detector="slow") is None
    scene.ensure_scene_cache(images, tmp_path, scene.SceneSettings("slow", "small", workers=0))
    with pytest.raises(UserError) as error:
        load_scene_cache(tmp_path)
    assert str(error.value) == (
        f"Several scene caches stand in {tmp_path}: scene_cache_fast_small.sqlite, scene_cache_slow_small.sqlite. "
        "Choose one with --detector and --segmenter."
    )
    assert len(load_scene_cache(tmp_path, detector="slow")) == 5


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_damaged_cache_is_named_with_a_remedy(tmp_path, content):
    path = scene.cache_path(tmp_path, "fast", "small")
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_scene_cache(tmp_path)
    assert str(error.value).startswith(f"{path} cannot be read as a scene cache (")
    assert str(error.value).endswith(
        "Delete it and run: python feature_analysis.py --calculate-features --features scene"
    )


def test_a_cut_cache_is_refused_by_readers_and_made_anew_by_its_writer(tmp_path, images, networks, caplog):
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    whole = cache.path.read_bytes()
    for size in (len(whole) - 4096, len(whole) - 1, len(whole) // 2, 150):
        cache.path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be read as a scene cache"):
            load_scene_cache(tmp_path)
    scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert f"{cache.path} cannot be read as a scene cache" in caplog.text
    assert "it is made anew" in caplog.text
    assert cache.path.read_bytes() == whole


def test_a_cache_that_breaks_while_it_is_read_is_one_message(tmp_path, images, networks):
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    content = cache.path.read_bytes()
    cache.path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(UserError, match="cannot be read as a scene cache.*Delete it and run"):
        SceneCache(cache.path).mask("set/0.png")


def test_image_that_is_not_there_is_named(tmp_path, images, networks):
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    with pytest.raises(KeyError, match=r"set/9\.png is not in the scene cache \(5 images\)"):
        cache.mask("set/9.png")


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTER])
def test_real_networks_run_in_bf16_and_give_what_float32_gives_a_little_moved(name):
    from models.pretrained import load_detector, load_segmenter

    picture = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if name == DETECTOR:
        detector, _ = load_detector(DETECTOR, "random", seed=1)
        detector.roi_heads.score_thresh = 0.0  # untrained: nothing above 0.05
        with torch.inference_mode(), computing_in("bf16", "cpu"):
            (found,) = detector([torch.rand(3, 64, 64)])
        assert found["boxes"].isfinite().all()
        assert scene.detect(detector, [picture], precision="bf16")[0]["label"] == []
    else:
        segmenter, about = load_segmenter(SEGMENTER, "random", seed=1)
        about["transforms"].resize_size = [64]
        masks = [
            scene.segment(segmenter, about["transforms"], [picture], precision=precision)[0]
            for precision in ("float32", "bf16")
        ]
        assert (masks[0] == masks[1]).mean() > 0.8


def test_a_cache_in_bf16_says_so_and_is_not_taken_for_one_in_float32(tmp_path, images, networks):
    reduced = dataclasses.replace(SETTINGS, precision="bf16")
    cache, _ = scene.ensure_scene_cache(images, tmp_path, reduced)
    assert cache.in_bf16
    cache, _ = scene.ensure_scene_cache(images, tmp_path, SETTINGS)
    assert not cache.in_bf16
    assert networks["count"] == 2 * len(images)
