"""Faults of what stages hand to one another: tables, matrices, shards, records."""

import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from faults.fault import Fault
from faults.study import Place, edit_array, edit_table, flip_bit, rewrite, truncate

Damage = Callable[[Path], object]


def _edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    return lambda path: edit_table(path, change)


def _lines(change: Callable[[list[str]], list[str]]) -> Damage:
    return lambda path: rewrite(path, "\n".join(change(path.read_text().splitlines())) + "\n")


def _last_number(frame: pd.DataFrame) -> str:
    """Name the last column of numbers."""
    numbers = [
        n
        for n in frame.columns
        if n != "memorability" and pd.to_numeric(frame[n], errors="coerce").notna().all()
    ]
    return numbers[-1] if numbers else "memorability"


def _cell(value: Callable[[str], str]) -> Damage:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        column = _last_number(frame)
        frame.loc[1, column] = value(frame.loc[1, column])
        return frame

    return _edit(change)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


TABLES: dict[str, Damage] = {
    "has lost its second half": _lines(lambda lines: lines[: len(lines) // 2]),
    "ends within a line": lambda path: truncate(path, 0.7),
    "has lost one row": _lines(lambda lines: lines[:2] + lines[3:]),
    "has two rows exchanged": _lines(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]),
    "has a row twice": _lines(lambda lines: [*lines, lines[1]]),
    "has one number edited": _cell(lambda text: f"{float(text) * 1.5 + 0.25:.9g}"),
    "has one digit flipped, and its old times": lambda path: _flip_digit(path),
    "has a word for a number": _cell(lambda text: "many"),
    "has an infinite number": _cell(lambda text: "inf"),
    "has an empty cell": _cell(lambda text: ""),
    "is a header alone": _lines(lambda lines: lines[:1]),
    "is empty": lambda path: rewrite(path, ""),
    "is binary": lambda path: rewrite(path, bytes(range(256)) * 4),
    "is UTF-16": lambda path: rewrite(path, path.read_text().encode("utf-16")),
    "has a column less": _edit(lambda frame: frame.drop(columns=_last_number(frame))),
    "has a column twice": _lines(lambda lines: [f"{line},{line.split(',')[0]}" for line in lines]),
    "has a row of another image": _edit(
        lambda frame: pd.concat([frame, frame.iloc[[0]].assign(image_id="animal/bear/none.jpg")])
    ),
    "is a folder": _folder,
    "is a link to itself": _link_to_itself,
    "is gone": lambda path: path.unlink(),
}


def _flip_digit(path: Path) -> None:
    before, content = path.stat(), bytearray(path.read_bytes())
    line = content.index(b"\n", content.index(b"\n") + 1)
    where = (
        next(i for i in range(line, len(content)) if chr(content[i]) == "." and chr(content[i + 1]).isdigit())
        + 1
    )
    content[where] ^= 1
    rewrite(path, bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _header(path: Path) -> None:
    content = path.read_bytes()
    rewrite(path, content.replace(b"'shape': (16", b"'shape': (99", 1))


def _pickled(path: Path) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _nan(matrix: np.ndarray) -> np.ndarray:
    matrix = np.array(matrix)
    matrix.reshape(-1)[3] = np.nan
    return matrix


MATRICES: dict[str, Damage] = {
    "is cut short": truncate,
    "has lost its last byte": lambda path: rewrite(path, path.read_bytes()[:-1]),
    "has bytes too many": lambda path: rewrite(path, path.read_bytes() + bytes(64)),
    "has a flipped bit": flip_bit,
    "has a flipped bit, and its old times": lambda path: flip_bit(path, 0.8, keep_times=True),
    "claims more rows than it has": _header,
    "has lost its last row": lambda path: edit_array(path, lambda m: m[:-1]),
    "has its rows in another order": lambda path: edit_array(path, lambda m: m[::-1]),
    "has a NaN in it": lambda path: edit_array(path, _nan),
    "has other numbers of equal kind": lambda path: edit_array(path, lambda m: m * 2),
    "is float64": lambda path: edit_array(path, lambda m: m.astype("float64")),
    "holds text": lambda path: edit_array(path, lambda m: m.astype("U8")),
    "holds objects": _pickled,
    "is stored by columns": lambda path: edit_array(path, np.asfortranarray),
    "is empty": lambda path: rewrite(path, b""),
    "is a text": lambda path: rewrite(path, "1 2 3\n"),
    "is an archive": lambda path: _archive(path),
    "is a folder": _folder,
    "is gone": lambda path: path.unlink(),
}


def _archive(path: Path) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, a=np.ones(3))


def on(name: str, damage: Damage) -> Callable[[Place], None]:
    """Return what damages a file of the output folder."""
    return lambda place: damage(place.file(name)) and None


TEST_LOSS, LATENTS, CODES = "test_loss_{model}.csv", "latents_{model}.csv", "latents_{model}.npy"
QUICK_TABLES = {
    "has lost its second half",
    "has one number edited",
    "is a folder",
    "is gone",
    "is a header alone",
}
QUICK_MATRICES = {"has a flipped bit"}


# ------------------------------------------------------------------------------------------ unfinished shards


def die_after_shards(count: int) -> Callable[[], None]:
    """Return what lets a process die, as by SIGKILL, when it has written that many shards."""

    def before() -> None:
        from utils.core.shard_files import Shard

        write, written = Shard.write, [0]

        def then_die(self: Any, *arguments: Any, **options: Any) -> None:
            write(self, *arguments, **options)
            written[0] += 1
            if written[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)

        Shard.write = then_die  # type: ignore[method-assign]

    return before


def _unfinished(stage: int, job: str, damage: Callable[[Path], object]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        done = place.run(stage, before=die_after_shards(1))
        assert done.code == -signal.SIGKILL, done.output
        damage(place.output / "shards" / job.replace("{model}", place.model))

    return make


def _shard(damage: Damage) -> Callable[[Path], object]:
    return lambda folder: damage(folder / "shard_000000.npz")


def _member(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Return what changes one member of an archive and leaves the archive intact."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            content = {member: archive.read(member) for member in archive.namelist()}
        content[name] = change(content[name])
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in content.items():
                archive.writestr(member, text)

    return damage


def _flip_in(content: bytes) -> bytes:
    where = len(content) - 3
    return content[:where] + bytes([content[where] ^ 4]) + content[where + 1 :]


def _without(name: str) -> Damage:
    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            content = {member: archive.read(member) for member in archive.namelist() if member != name}
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in content.items():
                archive.writestr(member, text)

    return damage


SHARDS: dict[str, Damage] = {
    "as it was written": lambda path: None,
    "is empty": lambda path: rewrite(path, b""),
    "is cut short": truncate,
    "has a flipped bit": flip_bit,
    "has a flipped bit inside an intact archive": _member("header.npy", _flip_in),
    "has a flipped bit in the numbers of an intact archive": lambda path: _flip_numbers(path),
    "is another archive": _archive,
    "lacks its header": _without("header.npy"),
    "holds objects": lambda path: _objects(path),
    "is text": lambda path: rewrite(path, "shard"),
    "is a folder": _folder,
    "is gone": lambda path: path.unlink(),
    "is a dangling link": lambda path: (path.unlink(), path.symlink_to("nowhere.npz")),
}


def _flip_numbers(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    _member(next((n for n in names if n.startswith("array_")), "header.npy"), _flip_in)(path)


def _objects(path: Path) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, header=np.array([{}], dtype=object), allow_pickle=True)


def _json(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        changed = change(content)
        rewrite(path, json.dumps(content if changed is None else changed))

    return damage


RECORDS: dict[str, Damage] = {
    "is empty": lambda path: rewrite(path, ""),
    "is cut short": truncate,
    "is a list": lambda path: rewrite(path, "[]"),
    "is an empty object": lambda path: rewrite(path, "{}"),
    "is binary": lambda path: rewrite(path, bytes(range(256))),
    "is a folder": _folder,
    "is gone": lambda path: path.unlink(),
}
MANIFESTS: dict[str, Damage] = {
    **RECORDS,
    "lacks its outputs": _json(lambda content: content.pop("outputs", None) and None),
    "lacks its settings": _json(lambda content: content.pop("settings") and None),
    "has a word for a count": _json(lambda content: content.update(shards="two")),
    "has a list for its outputs": _json(lambda content: content.update(outputs=[1])),
}
MANIFEST = "shards/test_loss_{model}/manifest.json"


def mended(name: str) -> str:
    """Return what is expected of the writer of a damaged file: only a folder in its place is not for it to remove."""
    return "sound" if name == "is a folder" else "repaired"


FAULTS = [
    # read by the stage that needs it: it says which file, and the command that makes it anew
    *(
        Fault(
            f"{what} {name}",
            "tables",
            reader,
            "refused",
            r"\.csv.*python \w+\.py",
            on(file, damage),
            "A1 A7 C",
            mended_by=(writer,),
            quick=reader == 6 and name == "has lost its second half",
        )
        for what, file, writer, reader in (("test_loss", TEST_LOSS, 2, 3), ("latents", LATENTS, 4, 6))
        for name, damage in TABLES.items()
    ),
    # found by the stage that wrote it: it is made anew
    *(
        Fault(
            f"{what} {name}, and is made anew",
            "tables",
            writer,
            mended(name),
            "",
            on(file, damage),
            "A1",
            quick=writer == 2 and name in QUICK_TABLES,
        )
        for what, file, writer in (
            ("test_loss", TEST_LOSS, 2),
            ("latents", LATENTS, 4),
            ("exposures", "exposures_{model}.csv", 1),
            ("predictions", "mlp_predictions.csv", 6),
            ("features", "image_features.csv", 8),
            ("ig", "ig_{model}.csv", 7),
        )
        for name, damage in TABLES.items()
        if what == "test_loss" or name in QUICK_TABLES
    ),
    *(
        Fault(
            f"splits {name}",
            "tables",
            2,
            "sound",
            "",
            on("splits.csv", damage),
            "B8",
            quick=name in QUICK_TABLES,
        )
        for name, damage in TABLES.items()
        if name not in {"has two rows exchanged"}
    ),
    *(
        Fault(
            f"latents {name}",
            "matrices",
            6,
            "refused",
            r"\.npy.*python \w+\.py",
            on(CODES, damage),
            "A1 C",
            mended_by=() if name == "is a folder" else (4,),  # which no stage removes
            quick=name in QUICK_MATRICES,
        )
        for name, damage in MATRICES.items()
    ),
    *(
        Fault(
            f"latents {name}, and is made anew",
            "matrices",
            4,
            mended(name),
            "",
            on(CODES, damage),
            "A1",
        )
        for name, damage in MATRICES.items()
    ),
    *(
        Fault(
            f"ig {name}, and is made anew",
            "matrices",
            7,
            mended(name),
            "",
            on("ig_{model}.npy", damage),
            "A1 C",
        )
        for name, damage in MATRICES.items()
    ),
    *(
        Fault(
            f"features cache {name}",
            "tables",
            8,
            mended(name),
            "",
            on("shards/features_colour/features.csv", damage),
            "A1 C",
        )
        for name, damage in TABLES.items()
        if name in QUICK_TABLES | {"is empty", "ends within a line", "has a word for a number"}
    ),
    *(
        Fault(
            f"shard {name}",
            "shards",
            stage,
            mended(name),
            "",
            _unfinished(stage, job, _shard(damage)),
            "B12",
            after=stage - 1,
            quick=stage == 2 and name in {"has a flipped bit inside an intact archive", "is another archive"},
        )
        for stage, job in ((2, "test_loss_{model}"), (4, "latents_{model}"))
        for name, damage in SHARDS.items()
    ),
    *(
        Fault(
            f"manifest of an unfinished job {name}",
            "shards",
            2,
            mended(name),
            "",
            _unfinished(
                2, "test_loss_{model}", lambda folder, damage=damage: damage(folder / "manifest.json")
            ),
            "C",
            after=1,
        )
        for name, damage in MANIFESTS.items()
        if name != "is a folder"  # which no stage removes
    ),
    *(
        Fault(
            f"manifest {name}",
            "shards",
            2,
            mended(name),
            "",
            on(MANIFEST, damage),
            "C",
            quick=name == "lacks its outputs",
        )
        for name, damage in MANIFESTS.items()
    ),
    *(
        Fault(
            f"record of the run {name}",
            "records",
            2,
            mended(name),
            "",
            on("run_autoencoder_test.json", damage),
            "C",
        )
        for name, damage in RECORDS.items()
    ),
    *(
        Fault(
            f"record of the writer {name}",
            "records",
            3,
            "sound",
            "",
            on("run_autoencoder_test.json", damage),
            "A1",
        )
        for name, damage in RECORDS.items()
    ),
    *(
        Fault(
            f"list of digests {name}",
            "records",
            2,
            mended(name),
            "",
            on("shards/digests.json", damage),
            "C",
            quick=name == "is cut short",
        )
        for name, damage in RECORDS.items()
    ),
]
