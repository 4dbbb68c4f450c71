"""Files of weights that are damaged, or of another shape than expected: one message, never another number."""

import re

import numpy as np
import pytest
import torch

from models.autoencoder import build_autoencoder
from models.checkpoints import (
    DIGEST_NAME,
    DamagedWeightsError,
    load_autoencoder,
    load_mlp,
    read_weights_file,
    save_autoencoder,
    save_mlp,
    write_weights_file,
)
from models.mlp import build_mlp
from models.weight_contents import content_digest
from utils.core.errors import UserError

HEAD_META = {
    "image_size": 32,
    "training_scores": [0.5, 0.7],
    "caveats": [],
    "encoder": {"stem": "m", "sha256": "a"},
}


@pytest.fixture(scope="module")
def thin():
    return build_autoencoder("vgg11", seed=1, width=1 / 64)


def head_content(**changes):
    head = build_mlp(4, (3,))
    content = {"kind": "mlp", "meta": {**HEAD_META, "architecture": head.architecture()}}
    content["state_dict"] = head.state_dict()
    return {**content, **changes}


def same(left, right):
    return content_digest(left) == content_digest(right)


def test_no_flipped_bit_is_believed(tmp_path, thin):
    path = tmp_path / "net.pth"
    save_autoencoder(path, thin, image_size=32, caveats=["random weights: autoencoder"])
    whole, content = path.read_bytes(), read_weights_file(path)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(whole), size=150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert same(read_weights_file(path), content), place  # padding, names inside the archive
        except DamagedWeightsError:
            refused += 1
    assert refused > 100


def test_a_flipped_bit_in_a_tensor_names_the_file_and_the_command(tmp_path, thin):
    save_autoencoder(tmp_path / "net.pth", thin, image_size=32)
    save_mlp(
        tmp_path / "mlp_net.pth",
        build_mlp(4, (3,)).state_dict(),
        architecture=build_mlp(4, (3,)).architecture(),
    )
    write_weights_file(tmp_path / "state.pt", {"model": {"a": torch.arange(64.0)}})
    for name, load, words in (
        ("net.pth", load_autoencoder, "python autoencoder_finetune.py"),
        ("mlp_net.pth", load_mlp, "python mlp_predict.py --train"),
        ("state.pt", read_weights_file, "is damaged"),
    ):
        path = tmp_path / name
        load(path)
        content = torch.load(path, weights_only=True)
        tensors = content.get("state_dict", content.get("model"))
        weight = next(value for value in tensors.values() if value.numel() > 1)
        weight.view(torch.uint8).flatten()[5] ^= 1
        torch.save(content, path)  # an intact archive, with the digest of what was in it before
        with pytest.raises(
            DamagedWeightsError, match=f"{re.escape(str(path))} (is damaged.*{re.escape(words)}|{words})"
        ):
            load(path)


def test_files_without_a_digest_load_as_they_did(tmp_path, thin):
    torch.save({"state_dict": thin.state_dict(), "arch": "vgg11"}, tmp_path / "public.pth")
    torch.save(thin.state_dict(), tmp_path / "bare.pth")
    for name in ("public.pth", "bare.pth"):
        model, _ = load_autoencoder(tmp_path / name)
        assert same(model.state_dict(), thin.state_dict())


def test_the_digest_is_of_names_types_shapes_and_values():
    content = {"a": torch.zeros(2, 3), "b": [1, {"c": "text", 4: None}]}
    digests = {
        content_digest(other)
        for other in (
            content,
            {**content, "a": torch.zeros(3, 2)},
            {**content, "a": torch.zeros(2, 3, dtype=torch.int32)},
            {**content, "a": -torch.zeros(2, 3)},
            {**content, "a": torch.zeros(0)},
            {"x": content["a"], "b": content["b"]},
            {**content, "b": [1, {"c": "text", "4": None}]},
            {**content, "b": [1.0, {"c": "text", 4: None}]},
            {**content, "b": [1, {"c": "text"}, 4, None]},
        )
    }
    assert len(digests) == 9
    assert content_digest({"b": [1, {4: None, "c": "text"}], "a": torch.zeros(2, 3)}) == content_digest(
        content
    )


def test_the_digest_is_in_the_file_and_not_in_what_is_read(tmp_path):
    write_weights_file(tmp_path / "x.pth", {"a": torch.ones(3)})
    assert set(torch.load(tmp_path / "x.pth", weights_only=True)) == {"a", DIGEST_NAME}
    assert set(read_weights_file(tmp_path / "x.pth")) == {"a"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": ["a", "list"]}, "expected named values at meta, found a list"),
        ({"meta": None}, "expected named values at meta, found nothing"),
        ({"meta": {"caveats": None}}, "expected a list at meta/caveats, found nothing"),
        ({"meta": {"caveats": "random"}}, "expected a list at meta/caveats, found text"),
        ({"meta": {"image_size": "96"}}, "expected a whole number at meta/image_size, found text"),
        ({"state_dict": {0: torch.zeros(2), 1: torch.zeros(3)}}, "expected names that are text in it"),
        ({"state_dict": {"a": 3}}, "holds no state dict of tensors"),
    ],
)
def test_checkpoints_of_another_shape(tmp_path, thin, change, words):
    path = tmp_path / "net.pth"
    content = {"arch": "vgg11", "meta": {}, "state_dict": thin.state_dict()}
    torch.save({**content, **change}, path)
    with pytest.raises(UserError, match=words) as caught:
        load_autoencoder(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": None}, "expected named values at meta"),
        ({"meta": []}, "expected named values at meta"),
        ({"meta": {**HEAD_META}}, "does not say its architecture"),
        ({"state_dict": None}, "expected named values at state_dict"),
        ({"state_dict": {0: torch.zeros(2)}}, "expected names that are text in state_dict"),
        ({"state_dict": {"a": torch.zeros(2)}}, "do not fit the network"),
        (
            {"meta": {**HEAD_META, "training_scores": None, "architecture": {"n_inputs": 4}}},
            "meta/training_scores",
        ),
        ({"meta": {"image_size": 32, "architecture": {"n_inputs": 4}}}, "expected training_scores in it"),
        (
            {"meta": {**HEAD_META, "architecture": {"n_inputs": 4, "layers": 3}}},
            "says an architecture that is none",
        ),
        ({"meta": {**HEAD_META, "architecture": {"n_inputs": 0}}}, "says an architecture that is none"),
        (
            {"meta": {**HEAD_META, "architecture": {"n_inputs": 4, "hidden_sizes": [7]}}},
            "do not fit the network",
        ),
        ({"meta": {**HEAD_META, "encoder": "net.pth"}}, "expected named values at meta/encoder"),
    ],
)
def test_heads_of_another_shape(tmp_path, change, words):
    path = tmp_path / "mlp_net.pth"
    torch.save(head_content(**change), path)
    with pytest.raises(UserError, match=words) as caught:
        load_mlp(path, needs={"training_scores": [float]})
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("missing", ["meta", "state_dict"])
def test_heads_that_lack_a_part(tmp_path, missing):
    content = head_content()
    del content[missing]
    torch.save(content, tmp_path / "mlp_net.pth")
    with pytest.raises(
        UserError, match=f"expected {missing} in it, found kind, .*python mlp_predict.py --train"
    ):
        load_mlp(tmp_path / "mlp_net.pth")
