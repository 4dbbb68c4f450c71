"""Faults of checkpoints and heads, and of the state that training goes on from."""

import io
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from typing import Any

import torch
from faults.fault import Fault
from faults.study import Place, flip_bit, rewrite, truncate

PTH, HEAD = "{model}.pth", "mlp_{model}.pth"
RAN = "/tmp/a_fault_ran_code"


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (RAN,)


def resaved(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Place], None]:
    """Return what loads a file of weights, changes its content (in place, or for what is returned) and saves it."""

    def make(place: Place) -> None:
        path = place.file(name)
        content = torch.load(path, weights_only=True)
        changed = change(content)
        stream = io.BytesIO()
        torch.save(content if changed is None else changed, stream)
        rewrite(path, stream.getvalue())

    return make


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[dict[str, Any]], object]:
    """Return what changes the state dict of a file's content."""

    def on_content(content: dict[str, Any]) -> None:
        change(content["state_dict"])

    return on_content


def _put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.__setitem__(key, value)


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.__delitem__(key)


def _meta(key: str, value: object = None, drop: bool = False) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["meta"].pop(key) if drop else content["meta"].__setitem__(key, value)


def _first(state: dict[str, torch.Tensor]) -> str:
    return next(name for name, value in state.items() if value.is_floating_point() and value.ndim)


def _nan(state: dict[str, torch.Tensor]) -> None:
    state[_first(state)].view(-1)[0] = float("nan")


def _nudge(state: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        value = state[_first(state)]
        value[(0,) * value.ndim] += 0.25


def _whole(name: str, content: Callable[[], bytes]) -> Callable[[Place], None]:
    return lambda place: rewrite(place.file(name), content())


def _pickled(protocol: int) -> bytes:
    return pickle.dumps({"state_dict": _Runs()}, protocol=protocol)


def _zipped_code() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": _Runs()}, stream)
    return stream.getvalue()


def _old_format_code() -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": _Runs()}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def _instead(name: str, make: Callable[[Any], object]) -> Callable[[Place], None]:
    def fault(place: Place) -> None:
        path = place.file(name)
        path.unlink()
        make(path)

    return fault


def damages(name: str) -> dict[str, Callable[[Place], object]]:
    """Return what may befall any file of weights."""
    return {
        "is empty": _whole(name, lambda: b""),
        "is cut short": lambda place: truncate(place.file(name)),
        "has lost its last byte": lambda place: truncate(place.file(name), 0.9999),
        "is a web page": _whole(name, lambda: b"<!DOCTYPE html><html>sign in</html>"),
        "is text": _whole(name, lambda: b"weights\n"),
        "is zeros": _whole(name, lambda: bytes(5000)),
        "has a flipped bit": lambda place: flip_bit(place.file(name)),
        "has a flipped bit and its old times": lambda place: flip_bit(place.file(name), 0.7, keep_times=True),
        "has one number changed": resaved(name, tensors(_nudge)),
        "has a weight of NaN": resaved(name, tensors(_nan)),
        "is a list": resaved(name, lambda content: [1, 2]),
        "holds a list for its tensors": resaved(name, _put("state_dict", [1, 2])),
        "holds no tensor": resaved(name, _put("state_dict", {})),
        "has lost its tensors": resaved(name, _drop("state_dict")),
        "names its tensors by numbers": resaved(
            name, lambda content: _put("state_dict", dict(enumerate(content["state_dict"].values())))(content)
        ),
        "has lost one tensor": resaved(name, tensors(lambda state: state.pop(_first(state)))),
        "has one tensor too many": resaved(name, tensors(lambda state: state.update(more=torch.ones(2)))),
        "has a tensor of another shape": resaved(
            name, tensors(lambda state: state.update({_first(state): torch.ones(2, 2)}))
        ),
        "has a tensor of text": resaved(name, tensors(lambda state: state.update({_first(state): "ones"}))),
        "has a list for its description": resaved(name, _put("meta", [1])),
        "has no caveats but None": resaved(name, _meta("caveats", None)),
        "would run code (protocol 0)": _whole(name, lambda: _pickled(0)),
        "would run code (protocol 4)": _whole(name, lambda: _pickled(4)),
        "would run code (archive)": _whole(name, _zipped_code),
        "would run code (old format)": _whole(name, _old_format_code),
        "is a folder": _instead(name, lambda path: path.mkdir()),
        "is a dangling link": _instead(name, lambda path: path.symlink_to("nowhere.pth")),
        "is gone": _instead(name, lambda path: None),
    }


HEAD_ALONE: dict[str, Callable[[Place], object]] = {
    "has lost its description": resaved(HEAD, _drop("meta")),
    "has no description but None": resaved(HEAD, _put("meta", None)),
    "does not say its architecture": resaved(HEAD, _meta("architecture", drop=True)),
    "has another architecture": resaved(
        HEAD, _meta("architecture", {"n_inputs": 3, "hidden_sizes": [2], "dropout": 0.0})
    ),
    "has an architecture of words": resaved(HEAD, _meta("architecture", {"layers": "three"})),
    "has lost its training scores": resaved(HEAD, _meta("training_scores", drop=True)),
    "has words for training scores": resaved(HEAD, _meta("training_scores", ["low", "high"])),
    "does not say its encoder": resaved(HEAD, _meta("encoder", drop=True)),
    "was trained on another encoder": resaved(HEAD, _meta("encoder", {"stem": "x", "sha256": "0" * 64})),
    "has a list for its encoder": resaved(HEAD, _meta("encoder", ["x"])),
    "is a checkpoint": lambda place: shutil.copy(place.file(PTH), place.file(HEAD)),
}
CHECKPOINT_ALONE: dict[str, Callable[[Place], object]] = {
    "is a head": lambda place: shutil.copy(place.file(HEAD), place.file(PTH)),
    "was trained on another size": resaved(PTH, _meta("image_size", 64)),
    "has a word for its size": resaved(PTH, _meta("image_size", "small")),
    "says a width that is not its own": resaved(PTH, _put("width", 0.5)),
    "says a width of NaN": resaved(PTH, _put("width", float("nan"))),
}
# By what reads the head: stage 7.  A file that is gone is named with its writer.
QUICK = {"has a flipped bit", "has a list for its description", "names its tensors by numbers", "is empty"}


def _half_trained(place: Place) -> list[Any]:
    """Kill fine-tuning after a state was saved; return the files that it left to go on from."""
    before = {p for p in place.output.rglob("*") if p.is_file()}
    done = place.run(1, "--overwrite", before=die_at_save(2))
    assert done.code == -signal.SIGKILL, done.output
    found = [
        p for p in place.output.rglob("*") if p.is_file() and p not in before and p.suffix in {".pt", ".pth"}
    ]
    assert len(found) == 1, found
    place.damaged += [str(p.relative_to(place.output)) for p in found]
    return found


def die_at_save(times: int) -> Callable[[], None]:
    """Return what lets a training process die, as by SIGKILL, once it has saved its state that often."""

    def before() -> None:
        from utils.reconstruction.finetuning import FineTuner

        save, count = FineTuner._save_state, [0]

        def then_die(self: Any) -> None:
            save(self)
            count[0] += 1
            if count[0] == times:
                os.kill(os.getpid(), signal.SIGKILL)

        FineTuner._save_state = then_die  # type: ignore[method-assign]

    return before


def state(damage: Callable[[Any], object]) -> Callable[[Place], None]:
    """Return what damages the state that fine-tuning would go on from."""
    return lambda place: [damage(path) for path in _half_trained(place)] and None


def _state_resaved(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], None]:
    def damage(path: Any) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return damage


def _nudge_state(content: dict[str, Any]) -> None:
    _nudge(content["model"])


STATES: dict[str, Callable[[Any], object]] = {
    "as it was saved": lambda path: None,
    "empty": lambda path: rewrite(path, b""),
    "cut short": truncate,
    "with a flipped bit": flip_bit,
    "with one number changed": _state_resaved(_nudge_state),
    "without its optimizer": _state_resaved(lambda content: content.pop("optimizer")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "text": lambda path: rewrite(path, "state"),
    "a list": lambda path: torch.save([1], path),
    "of another run": _state_resaved(lambda content: content.update(fingerprint="0" * 64)),
}

FAULTS = [
    *(
        Fault(
            name,
            "checkpoints",
            stage,
            "refused",
            r"\.pth",
            make,
            "A5 C",
            quick=stage == 2 and name in QUICK,
        )
        for name, make in {**damages(PTH), **CHECKPOINT_ALONE}.items()
        for stage in (2, 4)
        if not (stage == 4 and name not in QUICK)
    ),
    *(
        Fault(name, "heads", 7, "refused", r"mlp_.*\.pth", make, "A5 C")
        for name, make in {**damages(HEAD), **HEAD_ALONE}.items()
    ),
    *(
        Fault(f"{name}, and is made anew", "checkpoints", 1, "repaired", "", damages(PTH)[name], "A5")
        for name in ("is empty", "is cut short", "has a flipped bit", "has one number changed", "is gone")
    ),
    *(
        Fault(
            f"{name}, and is made anew",
            "heads",
            6,
            "repaired",
            "",
            damages(HEAD)[name],
            "A5",
            quick=name == "is empty",
        )
        for name in ("is empty", "is cut short", "has a flipped bit", "has one number changed", "is gone")
    ),
    *(
        Fault(
            f"state of training, {name}",
            "checkpoints",
            1,
            "repaired" if name == "as it was saved" else "sound",
            "",
            state(damage),
            "A5",
            after=0,
        )
        for name, damage in STATES.items()
    ),
]
