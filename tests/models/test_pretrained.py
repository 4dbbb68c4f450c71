import logging
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision
from fabricated import write_trunk_file

from models import pretrained
from models.pretrained import (
    DETECTORS,
    LPIPS_LINEAR_FILES,
    SEGMENTERS,
    TRUNKS,
    load_detector,
    load_lpips_linear,
    load_segmenter,
    load_trunk,
    weight_file,
)
from utils.core.errors import UserError

LIGHT_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
LIGHT_SEGMENTER = "lraspp_mobilenet_v3_large"
FILES = {
    "vgg16": "vgg16-397923af.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "deeplabv3_resnet101": "deeplabv3_resnet101_coco-586e9e4e.pth",
}


@pytest.fixture(autouse=True)
def torch_home(tmp_path, monkeypatch):
    """An empty TORCH_HOME and no network for every test here."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path


def test_files_stand_where_torchvision_keeps_them(torch_home):
    for name, file in FILES.items():
        assert weight_file(name) == torch_home / "hub" / "checkpoints" / file


@pytest.mark.parametrize("name", TRUNKS)
def test_trunk_loads_every_tensor_of_the_file(name):
    path = write_trunk_file(name, seed=4)
    saved = torch.load(path, weights_only=True)
    trunk = load_trunk(name)
    state = trunk.state_dict()
    assert state
    for key, value in state.items():
        assert torch.equal(value, saved[f"features.{key}"]), key
    assert len(state) == sum(key.startswith("features.") for key in saved)
    assert not trunk.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_trunk_computes_what_torchvision_computes(torch_home):
    path = write_trunk_file("squeezenet1_1")
    reference = torchvision.models.squeezenet1_1(weights=None)
    reference.load_state_dict(torch.load(path, weights_only=True))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_trunk("squeezenet1_1")(image), reference.eval().features(image))


@pytest.mark.parametrize("name", ["squeezenet1_1", "vgg19"])
def test_without_file_and_network_the_error_says_everything(name, torch_home):
    with pytest.raises(UserError) as caught:
        load_trunk(name)
    message = str(caught.value)
    size = {"squeezenet1_1": "5 MB", "vgg19": "548 MB"}[name]
    for part in (
        FILES[name],
        size,
        str(torch_home / "hub" / "checkpoints"),
        f"https://download.pytorch.org/models/{FILES[name]}",
        "TORCH_HOME",
        "--weights random",
        "no network in this test",
    ):
        assert part in message
    assert not list((torch_home / "hub" / "checkpoints").glob("*"))


def test_detector_and_segmenter_offline_errors_name_their_files(torch_home):
    with pytest.raises(UserError, match="fasterrcnn_resnet50_fpn_coco-258fb6c6.pth .160 MB."):
        load_detector()
    with pytest.raises(UserError, match="deeplabv3_resnet101_coco-586e9e4e.pth .233 MB."):
        load_segmenter()


def test_a_download_with_the_wrong_checksum_is_refused(torch_home, monkeypatch):
    class Answer:
        def close(self):
            pass

    def deliver(url, path, hash_prefix):
        assert hash_prefix == "b8a52dc0"
        raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "1234")')

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Answer())
    monkeypatch.setattr(torch.hub, "download_url_to_file", deliver)
    with pytest.raises(UserError, match="invalid hash value") as caught:
        load_trunk("squeezenet1_1")
    assert "squeezenet1_1-b8a52dc0.pth" in str(caught.value)


def test_a_successful_download_is_used(torch_home, monkeypatch):
    prepared = write_trunk_file("squeezenet1_1", seed=9)
    content = prepared.read_bytes()
    prepared.unlink()

    class Answer:
        def close(self):
            pass

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Answer())
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, path, hash_prefix: Path(path).write_bytes(content)
    )
    expected = load_trunk("squeezenet1_1", "random", seed=9)
    for found, wanted in zip(load_trunk("squeezenet1_1").parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"<!DOCTYPE html><html><body>Log in first</body></html>", "web page"),
        (lambda data: data[: len(data) // 2], "cannot be read"),
        (lambda data: b"", "empty"),
        (lambda data: b"not a weight file at all", "cannot be read"),
    ],
)
def test_damaged_files_are_named(damage, words):
    path = write_trunk_file("squeezenet1_1")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load_trunk("squeezenet1_1")
    message = str(caught.value)
    assert words in message
    assert f"Delete {path}" in message
    assert "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in message


def test_the_wrong_network_under_the_right_name_is_refused():
    path = write_trunk_file("squeezenet1_1")
    write_trunk_file("alexnet").replace(path)
    with pytest.raises(UserError) as caught:
        load_trunk("squeezenet1_1")
    message = str(caught.value)
    assert str(path) in message
    assert "features.0.weight" in message
    assert "missing" in message


def test_a_file_that_is_not_the_published_one_is_said(caplog):
    path = write_trunk_file("squeezenet1_1")
    with caplog.at_level(logging.WARNING):
        load_trunk("squeezenet1_1")
    assert f"{path} is not the published file" in caplog.text


def test_pickled_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trap"), "w"))

    path = weight_file("squeezenet1_1")
    path.parent.mkdir(parents=True)
    torch.save({"features.0.weight": Trap()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        load_trunk("squeezenet1_1")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["squeezenet1_1", "vgg16"])
def test_random_trunks_are_seeded(name):
    state = torch.get_rng_state()
    first, again, other = (load_trunk(name, "random", seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)
    with torch.no_grad():
        spread = first(torch.randn(1, 3, 64, 64)).std()
    assert 0.01 < spread < 100  # the signal neither dies nor explodes on its way


def test_random_vgg16_and_vgg19_differ():
    assert not torch.equal(load_trunk("vgg16", "random")[0].weight, load_trunk("vgg19", "random")[0].weight)


def test_random_detector_and_segmenter_work_and_are_seeded():
    state = torch.get_rng_state()
    detector, about = load_detector(LIGHT_DETECTOR, "random")
    again, _ = load_detector(LIGHT_DETECTOR, "random")
    segmenter, labels = load_segmenter(LIGHT_SEGMENTER, "random")
    assert torch.equal(state, torch.get_rng_state())
    assert about["random"]
    assert about["weights"] == "random"
    assert len(about["categories"]) == 91
    assert len(labels["categories"]) == 21
    assert labels["categories"][0] == about["categories"][0] == "__background__"
    for a, b in zip(detector.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    image = torch.rand(3, 64, 80)
    with torch.inference_mode():
        (found,) = detector([about["transforms"](image)])
        logits = segmenter(labels["transforms"](image)[None])["out"]
    assert set(found) == {"boxes", "labels", "scores"}
    assert logits.shape[1] == 21


@pytest.mark.parametrize(
    ("load", "name", "extra"),
    [
        (load_detector, LIGHT_DETECTOR, {"weights_backbone": None}),
        (load_segmenter, LIGHT_SEGMENTER, {"weights_backbone": None}),
    ],
)
def test_whole_networks_load_through_torchvision(load, name, extra, caplog):
    path = weight_file(name)
    path.parent.mkdir(parents=True)
    torch.manual_seed(5)
    reference = torchvision.models.get_model(name, weights=None, **extra)
    frozen = dict(reference.state_dict())
    if load is load_detector:  # the published detectors have frozen batch norms, which count nothing
        frozen = {key: value for key, value in frozen.items() if not key.endswith("num_batches_tracked")}
    torch.save(frozen, path)
    network, about = load(name)
    assert not about["random"]
    assert about["file"] == str(path)
    assert len(about["sha256"]) == 64
    found = network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in frozen.items())
    assert "is not the published file" in caplog.text
    torch.save({"wrong": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="does not hold the weights") as caught:
        load(name)
    assert str(path) in str(caught.value)


def test_lpips_linear_weights_come_from_the_installed_data_files(monkeypatch):
    lengths = {name: [len(weight) for weight in load_lpips_linear(name)] for name in LPIPS_LINEAR_FILES}
    assert lengths == {
        "vgg16": [64, 128, 256, 512, 512],
        "alexnet": [64, 192, 384, 256, 256],
        "squeezenet1_1": [64, 128, 256, 384, 384, 512, 512],
    }
    assert all(weight.min() >= 0 for name in LPIPS_LINEAR_FILES for weight in load_lpips_linear(name))
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install lpips"):
        load_lpips_linear("vgg16")


def test_missing_lpips_data_file_is_named(tmp_path, monkeypatch):
    class Spec:
        origin = str(tmp_path / "lpips" / "__init__.py")

    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(UserError) as caught:
        load_lpips_linear("alexnet")
    assert str(tmp_path / "lpips" / "weights" / "v0.1" / "alex.pth") in str(caught.value)


@pytest.mark.parametrize(
    ("call", "known"),
    [
        (lambda: load_trunk("resnet50"), TRUNKS),
        (lambda: load_detector("yolo"), DETECTORS),
        (lambda: load_segmenter("unet"), SEGMENTERS),
        (lambda: load_trunk("vgg16", "some"), ("pretrained", "random")),
        (lambda: weight_file("yolo"), TRUNKS),
        (lambda: load_lpips_linear("vgg19"), tuple(LPIPS_LINEAR_FILES)),
    ],
)
def test_unknown_names_list_the_known_ones(call, known):
    with pytest.raises(UserError) as caught:
        call()
    for name in known:
        assert name in str(caught.value)
