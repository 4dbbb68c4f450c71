from argparse import Namespace

import pytest
import torch

from models.autoencoder import build_autoencoder
from models.checkpoints import (
    checkpoint_sha256,
    find_models,
    find_pretrained,
    list_checkpoints,
    load_autoencoder,
    load_strictly,
    read_mlp,
    read_weights_file,
    save_autoencoder,
    save_mlp,
)
from utils.core.errors import UserError
from utils.core.run import Run


@pytest.fixture(scope="module")
def model():
    return build_autoencoder("vgg11", seed=1)


@pytest.fixture(scope="module")
def vgg16():
    return build_autoencoder("vgg16", seed=2)


def same_weights(left, right) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    )


def test_a_checkpoint_that_was_replaced_since_its_stage_wrote_it_is_refused_unless_that_is_accepted(tmp_path):
    path, head = tmp_path / "m.pth", tmp_path / "mlp_m.pth"
    with Run("autoencoder_finetune", Namespace(output_path=tmp_path)):
        save_autoencoder(path, build_autoencoder("vgg11", seed=1, width=0.1), image_size=64)
        save_mlp(head, {}, encoder={})
    load_autoencoder(path)
    save_autoencoder(path, build_autoencoder("vgg11", seed=2, width=0.1), image_size=64)
    save_mlp(head, {}, encoder={"stem": "another"})
    for load in (lambda: load_autoencoder(path), lambda: read_mlp(head)):
        with pytest.raises(UserError, match="has changed since it was written"):
            load()
    with Run("autoencoder_test", Namespace(output_path=tmp_path, accept_edited=True)) as run:
        load_autoencoder(path)
        assert run.caveat == "edited by hand: m.pth"


def public_form(model) -> dict:
    """A checkpoint as the public one is: nested, ``module.`` before every name, optimizer state beside it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {
        "epoch": 99,
        "arch": "vgg16",
        "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }


def test_round_trip_keeps_every_weight_and_the_meta(tmp_path, model):
    path = tmp_path / "mem.pth"
    save_autoencoder(path, model, image_size=64, caveats=["random weights: x"], loss="mse")
    loaded, meta = load_autoencoder(path, image_size=64)
    assert same_weights(model, loaded)
    assert not loaded.training
    assert (meta["stem"], meta["arch"], meta["image_size"], meta["loss"]) == ("mem", "vgg11", 64, "mse")
    assert meta["caveats"] == ["random weights: x"]
    assert meta["sha256"] == checkpoint_sha256(path)


def test_equal_weights_give_equal_bytes_under_any_name(tmp_path, model):
    for name in ("a.pth", "b.pth"):
        save_autoencoder(tmp_path / name, model, image_size=64)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_the_public_checkpoints_form_loads_weight_for_weight(tmp_path, vgg16):
    torch.save(public_form(vgg16), tmp_path / "imagenet_vgg16_autoencoder.pth")
    loaded, meta = load_autoencoder(tmp_path / "imagenet_vgg16_autoencoder.pth", arch="vgg16", image_size=224)
    assert same_weights(vgg16, loaded)
    assert (meta["arch"], meta["image_size"], meta["caveats"]) == ("vgg16", None, [])


def test_a_bare_state_dict_loads(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    assert same_weights(model, load_autoencoder(tmp_path / "bare.pth")[0])


def change(model, path, edit):
    state = dict(model.state_dict())
    edit(state)
    torch.save({"state_dict": state}, path)


FIRST = "encoder.conv1.0 EncoderLayer.layer.0.bias"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(FIRST), f"1 missing: {FIRST}"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({FIRST: torch.zeros(7)}), r"1 misshapen: .*bias \(\(7,\), expected \(64,\)\)"),
    ],
)
def test_anything_missing_extra_or_misshapen_is_named(tmp_path, model, edit, message):
    path = tmp_path / "wrong.pth"
    change(model, path, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_autoencoder(path)
    assert str(path) in str(caught.value)


def test_another_architecture_is_refused(tmp_path, model):
    save_autoencoder(tmp_path / "m.pth", model)
    with pytest.raises(
        UserError, match=r"m.pth is a vgg11 autoencoder, but vgg16 was asked for. Use --arch vgg11"
    ):
        load_autoencoder(tmp_path / "m.pth", arch="vgg16")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(
        UserError, match=r"linear.pth is not a checkpoint of the VGG autoencoder.*found 2 tensors"
    ):
        load_autoencoder(tmp_path / "linear.pth")


def compact():
    return build_autoencoder("vgg11", seed=3, width=1 / 16)


def test_the_width_is_recorded_and_recognised_without_a_record(tmp_path):
    save_autoencoder(tmp_path / "ours.pth", compact(), image_size=32)
    torch.save(compact().state_dict(), tmp_path / "bare.pth")
    for name in ("ours.pth", "bare.pth"):
        loaded, meta = load_autoencoder(tmp_path / name, arch="vgg11", width=1 / 16)
        assert (loaded.widths, meta["width"]) == ((4, 8, 16, 32, 32), 1 / 16)
        assert same_weights(compact(), loaded)
    assert torch.load(tmp_path / "ours.pth", weights_only=True)["width"] == 1 / 16


def test_another_width_is_refused(tmp_path):
    save_autoencoder(tmp_path / "m.pth", compact())
    with pytest.raises(
        UserError, match=r"m.pth is an autoencoder of width 0.0625, but 1 was asked for. Use --width 0.0625"
    ):
        load_autoencoder(tmp_path / "m.pth", width=1.0)


def test_channels_of_no_width_and_a_record_that_is_wrong_are_refused(tmp_path):
    state = compact().state_dict()
    torch.save({"width": 0.25, "state_dict": state}, tmp_path / "lies.pth")
    with pytest.raises(UserError, match=r"lies.pth do not fit the network \(Autoencoder\): \d+ misshapen"):
        load_autoencoder(tmp_path / "lies.pth")
    first = "encoder.conv5.0 EncoderLayer.layer.0.weight"
    torch.save({**state, first: state[first][:7]}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd.pth is not a checkpoint .* found 4, 8, 16, 32, 7"):
        load_autoencoder(tmp_path / "odd.pth")


def test_weights_stored_in_half_precision_are_computed_with_in_float32(tmp_path):
    for half in (True, False):
        save_autoencoder(tmp_path / f"{half}.pth", compact(), half=half)
    assert (tmp_path / "True.pth").stat().st_size < 0.6 * (tmp_path / "False.pth").stat().st_size
    loaded, _ = load_autoencoder(tmp_path / "True.pth")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for name, value in compact().state_dict().items():
        rounded = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], rounded), name
    huge = compact()
    with torch.no_grad():
        huge.encoder.conv1[0].layer[0].bias[0] = 1e6
    with pytest.raises(UserError, match=r"conv1.0 EncoderLayer.layer.0.bias holds values beyond 16 bits"):
        save_autoencoder(tmp_path / "huge.pth", huge, half=True)
    assert not (tmp_path / "huge.pth").exists()


def test_another_image_size_is_refused(tmp_path, model):
    save_autoencoder(tmp_path / "m.pth", model, image_size=64)
    with pytest.raises(UserError, match="trained on images of 64 px, but --image-size is 224"):
        load_autoencoder(tmp_path / "m.pth", image_size=224)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", "is a web page, not a weights file"),
        (b"\n\n <html>sign in</html>", "is a web page"),
        (b"", "is empty"),
        (b"PK\x03\x04 cut short", "cannot be read as a file of weights"),
        (b"just text", "cannot be read as a file of weights"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message):
    path = tmp_path / "imagenet_vgg16_autoencoder.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_autoencoder(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_cut_short_is_refused(tmp_path, model):
    save_autoencoder(tmp_path / "m.pth", model)
    data = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"m.pth cannot be read as a file of weights"):
        load_autoencoder(tmp_path / "m.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_no_code_is_run_from_a_weights_file(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read_weights_file(tmp_path / "evil.pth")
    assert "code was run" not in capsys.readouterr().out


def test_a_dict_without_tensors_is_named_by_its_content(tmp_path):
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"holds no state dict of tensors \(found: epoch, loss\)"):
        load_autoencoder(tmp_path / "m.pth")


def test_load_strictly_counts():
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert load_strictly(target, source.state_dict(), "here") == 2
    assert torch.equal(source.weight, target.weight)


def test_find_pretrained_says_where_it_looked_and_where_it_comes_from(tmp_path):
    with pytest.raises(UserError) as caught:
        find_pretrained("imagenet_vgg16_autoencoder.pth", [tmp_path / "data", tmp_path / "out"])
    for words in (str(tmp_path / "data"), "Horizon2333/imagenet-autoencoder", "--pretrained none"):
        assert words in str(caught.value)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "imagenet_vgg16_autoencoder.pth").write_bytes(b"x")
    found = find_pretrained("imagenet_vgg16_autoencoder.pth", [tmp_path / "data", tmp_path / "out"])
    assert found == tmp_path / "out" / "imagenet_vgg16_autoencoder.pth"


def test_find_models_takes_all_one_or_the_named(tmp_path):
    args = Namespace(output_path=tmp_path, model_names=None)
    with pytest.raises(UserError, match=r"no autoencoder checkpoint.*python autoencoder_finetune.py"):
        find_models(args)
    for name in ("b.pth", "a.pth", "mlp_a.pth", ".a.12.partial.pth", "imagenet_vgg16_autoencoder.pth"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_models(args)] == ["a.pth", "b.pth"]
    with pytest.raises(
        UserError, match=r"several checkpoints in .*: a.pth, b.pth. Choose with --model-names"
    ):
        find_models(args, several=False)
    args.model_names = ["b", "b.pth"]
    assert [path.name for path in find_models(args, several=False)] == ["b.pth"]
    args.model_names = ["c.pth"]
    with pytest.raises(UserError, match=r"c.pth is not in .*Checkpoints there: a.pth, b.pth"):
        find_models(args)
    assert len(list_checkpoints(tmp_path)) == 2


def test_mlp_heads_are_bound_to_their_encoder(tmp_path):
    path = tmp_path / "mlp_mem.pth"
    with pytest.raises(
        UserError, match=r"mlp_mem.pth is missing. It is written by: python mlp_predict.py --train"
    ):
        read_mlp(path)
    state = torch.nn.Linear(3, 1).state_dict()
    save_mlp(path, state, encoder={"stem": "mem", "sha256": "a" * 64}, hidden=[3])
    back, meta = read_mlp(path, {"stem": "mem", "sha256": "a" * 64})
    assert torch.equal(back["weight"], state["weight"])
    assert meta["hidden"] == [3]
    with pytest.raises(
        UserError,
        match=r"trained on the encoder mem \(SHA-256 aaaaaaaaaaaa\).*at hand is other \(bbbbbbbbbbbb\)",
    ):
        read_mlp(path, {"stem": "other", "sha256": "b" * 64})


def test_an_autoencoder_is_no_mlp_head(tmp_path, model):
    save_autoencoder(tmp_path / "m.pth", model)
    with pytest.raises(UserError, match="is not an MLP head"):
        read_mlp(tmp_path / "m.pth")
