"""Encoders of others: layers, pooling, preprocessing, weights; torchvision's feature extractor is the oracle."""

import json
import subprocess
import sys
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import make_picture
from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor

from models import encoders
from models.encoders import PENULTIMATE, load_encoder
from utils.core.errors import UserError
from utils.latents.encodings import choose_layers, encoder_pixels

NAME = "torchvision:resnet18"


@pytest.fixture(scope="module")
def resnet():
    return load_encoder(NAME, "random")


@pytest.fixture(scope="module")
def images(resnet):
    size = resnet.preprocessing.crop
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def pooled(values, pool):
    return {"avg": values.mean((2, 3)), "max": values.amax((2, 3)), "none": values.flatten(1)}[pool]


@pytest.mark.parametrize("pool", ["avg", "max", "none"])
def test_every_layer_equals_torchvisions_feature_extractor(resnet, images, pool):
    """Also behind layers that a later one overwrites in place (bn1, then relu)."""
    copy = get_model("resnet18", weights=None)
    copy.load_state_dict(resnet.network.state_dict())
    for module in copy.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    names = ["conv1", "bn1", "relu", "layer1.0", "layer2.1", "layer4.1"]
    extractor = create_feature_extractor(copy.eval(), names)
    with torch.inference_mode():
        expected = extractor((images - resnet.mean) / resnet.std)
        found = resnet.codes(images, names, pool)
    for name in names:
        torch.testing.assert_close(found[name], pooled(expected[name], pool))
        assert resnet.length(name, pool) == found[name].shape[1]


def test_layers_are_blocks_in_order_and_the_classifiers_input_is_one(resnet, images):
    assert resnet.layers[:5] == ("conv1", "bn1", "relu", "maxpool", "layer1.0")
    assert resnet.layers[-3:] == ("avgpool", PENULTIMATE, "fc")
    assert resnet.default_layer == PENULTIMATE
    with torch.inference_mode():
        found = resnet.codes(images, resnet.layers, "avg")
    torch.testing.assert_close(found[PENULTIMATE], found["avgpool"])
    torch.testing.assert_close(found["fc"], resnet.network.fc(found[PENULTIMATE]))


def test_all_layers_come_from_one_forward_pass(resnet, images):
    calls = []
    handle = resnet.network.conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        resnet.codes(images, resnet.layers, "avg")
    handle.remove()
    assert len(calls) == 1
    assert not any(module._forward_hooks for module in resnet.network.modules())


def test_codes_carry_gradients_to_the_pixels(resnet, images):
    pixels = images.clone().requires_grad_(True)
    resnet.codes(pixels, ["bn1"], "max")["bn1"].sum().backward()
    assert float(pixels.grad.abs().sum()) > 0


def test_preprocessing_is_that_of_the_weights(resnet, tmp_path):
    make_picture(5, 331, 270).save(tmp_path / "a.png")
    picture = make_picture(5, 331, 270)
    expected = get_model_weights("resnet18").DEFAULT.transforms()(picture)
    found = torch.from_numpy(encoder_pixels(tmp_path / "a.png", resnet.preprocessing))
    assert (found.min() >= 0, found.max() <= 1) == (True, True)
    torch.testing.assert_close((found - resnet.mean) / resnet.std, expected, atol=1e-5, rtol=0)
    assert resnet.record()["preprocessing"]["resize"] == 256


def test_random_weights_are_loud(resnet, caplog):
    assert resnet.caveats == [f"random weights: encoder ({NAME})"]
    load_encoder("torchvision:squeezenet1_1", "random")
    assert "RANDOM WEIGHTS in torchvision:squeezenet1_1" in caplog.text


def test_weights_of_a_file_are_taken_strictly_and_recognised(resnet, tmp_path):
    state = resnet.network.state_dict()
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    again = load_encoder(NAME, path)
    assert again.sha256 == resnet.sha256
    assert again.caveats == []
    assert again.weights == str(path)
    state["fc.bias"] = state["fc.bias"] + 1
    assert encoders.tensors_sha256(state) != resnet.sha256
    del state["fc.bias"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"fc\.bias"):
        load_encoder(NAME, path)


def test_weights_that_are_not_cached_name_the_file_and_where_to_put_it(tmp_path, monkeypatch):
    def closed(*_args, **_options):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", closed)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_encoder("torchvision:squeezenet1_1")
    for word in (
        "squeezenet1_1-b8a52dc0.pth",
        str(tmp_path / "hub" / "checkpoints"),
        "--encoder-weights FILE",
    ):
        assert word in str(caught.value)


def test_published_weights_come_from_the_cache(resnet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(resnet.network.state_dict(), folder / "resnet18-f37072fd.pth")
    found = load_encoder(NAME)
    assert found.sha256 == resnet.sha256
    assert found.weights == "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "Expected --encoder autoencoder, torchvision:<name>"),
        ("keras:resnet", "Expected --encoder autoencoder"),
        ("torchvision:resnet1", "torchvision has no network 'resnet1'. It has: alexnet"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier of single pictures"),
    ],
)
def test_unknown_names_list_what_there_is(name, words):
    with pytest.raises(UserError) as caught:
        load_encoder(name, "random")
    assert words in str(caught.value)


def test_an_unknown_layer_lists_the_layers(resnet):
    with pytest.raises(
        UserError, match=r"torchvision:resnet18 has no layer conv9\. Its layers: conv1, bn1, relu"
    ):
        choose_layers(["conv1", "conv9"], resnet.layers, PENULTIMATE, NAME)
    assert choose_layers(["fc", "conv1"], resnet.layers, PENULTIMATE, NAME) == ("conv1", "fc")
    assert choose_layers(["all"], resnet.layers, PENULTIMATE, NAME) == resnet.layers


@pytest.mark.parametrize(
    ("name", "package"), [("timm:vit_tiny_patch16_224", "timm"), ("openclip:RN50:openai", "open_clip")]
)
def test_an_optional_package_that_is_missing_is_named(monkeypatch, name, package):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"needs the package {package}.*requirements-encoders\.txt"):
        load_encoder(name, "random")


def test_optional_packages_are_not_imported_for_torchvision():
    code = (
        "import sys; from models.encoders import load_encoder; load_encoder('torchvision:squeezenet1_1', 'random'); "
        "assert not {'timm', 'open_clip', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_timm_transformer_has_tokens_and_its_own_preprocessing(tmp_path):
    timm = pytest.importorskip("timm")
    encoder = load_encoder("timm:test_vit", "random")
    size = encoder.preprocessing.crop
    images = torch.rand(2, 3, size, size)
    seen = {}
    handle = encoder.network.blocks[1].register_forward_hook(lambda _m, _i, output: seen.update(out=output))
    with torch.inference_mode():
        token, mean = (encoder.codes(images, ["blocks.1"], pool)["blocks.1"] for pool in ("cls", "avg"))
    handle.remove()
    torch.testing.assert_close(token, seen["out"][:, 0])
    torch.testing.assert_close(mean, seen["out"][:, 1:].mean(1))
    assert encoder.has_class_token("blocks.1")
    assert not encoder.has_class_token("patch_embed")
    make_picture(5, 331, 270).save(tmp_path / "a.png")
    data = timm.data.resolve_model_data_config(encoder.network)
    expected = timm.data.create_transform(**data, is_training=False)(make_picture(5, 331, 270))
    found = torch.from_numpy(encoder_pixels(tmp_path / "a.png", encoder.preprocessing))
    torch.testing.assert_close((found - encoder.mean) / encoder.std, expected, atol=1e-5, rtol=0)


def test_an_open_clip_tower_is_its_image_encoder(tmp_path):
    clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-tower.json").write_text(
        json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    )
    clip.add_model_config(tmp_path / "tiny-tower.json")
    model, _, transform = clip.create_model_and_transforms("tiny-tower", pretrained=None)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    encoder = load_encoder("openclip:tiny-tower:mine", tmp_path / "tiny.pt")
    make_picture(5, 331, 270).save(tmp_path / "a.png")
    pixels = torch.from_numpy(encoder_pixels(tmp_path / "a.png", encoder.preprocessing))[None]
    with torch.inference_mode():
        expected = model.eval().encode_image(transform(make_picture(5, 331, 270))[None])
        found = encoder.codes(pixels, ["output"], "avg")["output"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.default_layer == "output"
    assert encoder.has_class_token("transformer.resblocks.1")
    with pytest.raises(UserError, match="with a tag among"):
        load_encoder("openclip:ViT-B-32:nonsense")


@pytest.mark.parametrize(
    ("name", "package", "create", "file"),
    [
        ("timm:test_vit", "timm", "create_model", "timm/test_vit.r160_in1k (model.safetensors)"),
        (
            "openclip:ViT-B-32:laion2b_s34b_b79k",
            "open_clip",
            "create_model",
            "open_clip_model.safetensors of laion/CLIP-ViT-B-32",
        ),
    ],
)
def test_hub_weights_that_are_not_cached_name_the_file_and_the_cache(
    monkeypatch, name, package, create, file
):
    module = pytest.importorskip(package)
    real = getattr(module, create)

    def offline(*arguments, pretrained=None, **options):
        if pretrained:
            raise OSError("no network")
        return real(*arguments, pretrained=pretrained, **options)

    monkeypatch.setattr(module, create, offline)
    with pytest.raises(UserError) as caught:
        load_encoder(name)
    for word in (file, "huggingface", "--encoder-weights FILE", "OSError: no network"):
        assert word in str(caught.value)
