"""Faults of folders, of the environment and of the command line."""

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from conftest import make_picture
from faults.fault import Fault
from faults.forked import lower_limit
from faults.study import Place, rewrite

from utils.core.leftovers import temporary_path


def _file_in_place_of_output(place: Place) -> None:
    place.damaged.append("")  # all of it
    shutil.rmtree(place.output)
    rewrite(place.output, "a file")


def _delete_at_shard(which: str) -> Callable[[], None]:
    """Return what deletes the output folder (or part of it) when the first shard has been written."""

    def before() -> None:
        from utils.core.shard_files import Shard

        write = Shard.write

        def then_delete(self: object, path: object, *more: object) -> None:
            write(self, path, *more)  # type: ignore[arg-type]
            folder = {"job": path.parent, "shards": path.parent.parent, "output": path.parent.parent.parent}[
                which
            ]  # type: ignore[attr-defined]
            shutil.rmtree(folder)

        Shard.write = then_delete  # type: ignore[method-assign, assignment]

    return before


def _close(*streams: int) -> Callable[[], None]:
    def before() -> None:
        for stream in streams:
            os.close(stream)

    return before


def _full(stream: int) -> Callable[[], None]:
    def before() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), stream)

    return before


def _nobody_reads(stream: int) -> Callable[[], None]:
    def before() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, stream)
        os.close(writer)

    return before


def _no_cwd() -> None:
    import tempfile

    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def _of_a_dead_process(path: Path) -> Path:
    """Return the temporary file that a process which is gone would have written ``path`` by."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    temporary = temporary_path(path)
    return temporary.with_name(temporary.name.replace(str(os.getpid()), str(child)))


def _odd_name(name: str) -> Callable[[Place], None]:
    """Return what adds a scored picture of that name in a category of that name."""

    def make(place: Place) -> None:
        path = place.pictures / "food" / "soup" / f"{name}.jpg"
        make_picture(77, 60, 40).save(path, "JPEG")
        lines = place.scores.read_text().splitlines()
        cells = lines[-1].split(",")
        cells[0], cells[1] = "17", '"' + path.name.replace('"', '""') + '"'
        rewrite(place.scores, "\n".join([*lines, ",".join(cells)]) + "\n")

    return make


ODD_NAMES = (
    "$x^{2}$",
    "a b",
    "ä-ö",
    "表",
    "a,b",
    'a"b',
    "a'b",
    "=1+1",
    "-o",
    "%s{x}",
    "a\nb",
    "#1",
    "[1]",
    "~",
    "e\u0301",
)

FLAGS: dict[str, tuple[int, str, tuple[object, ...]]] = {
    "an unknown flag": (2, "--nonsense", ("--nonsense",)),
    "an abbreviated flag": (2, "--over", ("--over",)),
    "a word for a number": (2, "--limit", ("--limit", "ten")),
    "no image": (2, "--limit", ("--limit", 0)),
    "a negative number": (2, "--limit", ("--limit", -3)),
    "a seed of 2^32": (2, "seed", ("--seed", 2**32)),
    "a seed of 10^30": (2, "seed", ("--seed", 10**30)),
    "a negative seed": (2, "seed", ("--seed", -1)),
    "a size of 0": (2, "image-size", ("--image-size", 0)),
    "a size of 33": (2, "image.size", ("--image-size", 33)),
    "a size of 65536": (2, "image.size", ("--image-size", 65536)),
    "a size that is not the checkpoint's": (2, "image-size", ("--image-size", 64)),
    "an unknown device": (2, "device", ("--device", "abacus")),
    "a device that is not there": (2, "device|cuda", ("--device", "cuda:97")),
    "a batch of 0": (2, "batch-size", ("--batch-size", 0)),
    "workers below 0": (2, "workers", ("--workers", -1)),
    "an unknown loss": (2, "losses", ("--losses", "psnr")),
    "a loss that needs more pixels": (2, "ms-ssim", ("--losses", "ms-ssim")),
    "no loss": (2, "losses", ("--losses",)),
    "an unknown model": (2, r"nobody.*mem_vgg", ("--model-names", "nobody")),
    "a model of another folder": (2, "checkpoint", ("--model-names", "../x.pth")),
    "a data folder that is nowhere": (2, "data folder", ("--data-dir", "{data}/nowhere")),
    "a file for a data folder": (2, "a file", ("--data-dir", "{data}/MemCat_data/memcat_image_data.csv")),
    "a table that is nowhere": (2, "scores-csv|score table", ("--scores-csv", "{data}/no.csv")),
    "a picture for a table": (
        2,
        "CSV|column",
        ("--scores-csv", "{data}/MemCat_images/MemCat/animal/bear/000000000001.jpg"),
    ),
    "a column of scores that is nowhere": (2, "none_such", ("--score-column", "none_such")),
    "a column of words for scores": (2, "source", ("--score-column", "source")),
    "a column of groups that is nowhere": (2, "none_such", ("--group-column", "none_such")),
    "an unknown way to split": (2, "split-by", ("--split-by", "moon")),
    "another split than there is": (2, "split", ("--split-by", "subcategory")),
    "an empty output path": (2, "output", ("--output-path", "{data}/MemCat_data/memcat_image_data.csv")),
    "an output path below a file": (
        2,
        "output",
        ("--output-path", "{data}/MemCat_data/memcat_image_data.csv/out"),
    ),
    "an output path of 300 letters": (2, "output|too long", ("--output-path", "{output}/" + "x" * 300)),
    "no table to evaluate": (3, "none_such", ("--table", "{data}/none_such.csv")),
    "an unknown column of losses": (3, "none_such", ("--loss-columns", "none_such")),
    "an unknown second score": (3, "none_such", ("--second-score-column", "none_such")),
    "0 resamples": (3, "resamples", ("--resamples", 0)),
    "an unknown unit of resampling": (3, "cluster", ("--cluster", "planet")),
    "a layer that is not there": (4, "layer", ("--layer", "conv9")),
    "an unknown measure": (4, "measure", ("--measure", "charm")),
    "0 neighbours": (4, "neighbours", ("--neighbours", 0)),
    "more neighbours than images": (4, "neighbours", ("--measure-neighbours", 4000)),
    "codes that are nowhere": (4, r"none\.npy", ("--codes", "{data}/none.npy")),
    "codes that are a table of scores": (
        4,
        "codes|memcat_image",
        ("--codes", "{data}/MemCat_data/memcat_image_data.csv"),
    ),
    "an unknown encoder": (4, "encoder", ("--encoder", "moon:x")),
    "an unknown category": (5, "none_such", ("--categories", "none_such")),
    "an unknown measure of categories": (5, "none_such", ("--measures", "none_such")),
    "an unknown format": (5, "format", ("--format", "bmp")),
    "a rate of 0": (6, "learning-rate", ("--learning-rate", 0)),
    "an infinite rate": (6, "learning-rate", ("--learning-rate", "inf")),
    "a rate of NaN": (6, "learning-rate", ("--learning-rate", "nan")),
    "a dropout of 1": (6, "dropout", ("--dropout", 1)),
    "no image to score": (6, "nowhere.jpg", ("--predict", "{data}/nowhere.jpg")),
    "a folder without pictures to score": (6, "no picture", ("--predict", "{data}/MemCat_data")),
    "a rival that is nowhere": (6, "none.csv", ("--rival", "{data}/none.csv")),
    "an unknown image to attribute": (7, "none_such", ("--image-ids", "none_such")),
    "0 steps": (7, "steps", ("--steps", 0)),
    "an unknown baseline": (7, "baseline", ("--baseline", "pink")),
    "1 fold": (8, "folds", ("--folds", 1)),
    "an unknown group of features": (8, "features", ("--features", "charm")),
    "an unknown detector": (8, "detector", ("--features", "scene", "--detector", "nobody")),
    "an unknown judge": (9, "judge", ("--judge", "nobody")),
    "a budget that leaves no room": (9, "psnr", ("--psnr-budget", 2)),
    "a start that is nowhere": (1, "none.pth", ("--pretrained", "{data}/none.pth")),
    "another architecture than the start's": (
        1,
        "arch",
        ("--pretrained", "{output}/pretrained_vgg11_w0.0625.pth", "--arch", "vgg16", "--overwrite"),
    ),
    "a width of 0": (1, "width", ("--width", 0)),
    "0 epochs": (1, "epochs", ("--epochs", 0)),
}
QUICK_FLAGS = {"a seed of 2^32", "a size of 65536", "an unknown model", "an output path below a file"}

ENVIRONMENT: dict[str, dict[str, str]] = {
    "threads are a word": {"OMP_NUM_THREADS": "many"},
    "the home folder is nowhere": {"HOME": "/nonexistent"},
    "the folder of matplotlib is nowhere": {"MPLCONFIGDIR": "/nonexistent/mpl"},
    "the folder for temporary files is nowhere": {"TMPDIR": "/nonexistent/tmp"},
    "the time zone is unknown": {"TZ": "Mars/Olympus"},
    "the terminal is one column wide": {"COLUMNS": "1"},
    "no device may be seen": {"CUDA_VISIBLE_DEVICES": ""},
    "the display is nowhere": {"DISPLAY": ":99"},
    "the path of programs is empty": {"PATH": ""},
    "the cache of torch is nowhere": {"TORCH_HOME": "/nonexistent/torch"},
}
BAD_RANKS: dict[str, dict[str, str]] = {
    "the rank is a word": {"RANK": "first", "WORLD_SIZE": "2"},
    "the number of processes is a word": {"WORLD_SIZE": "two"},
    "the rank is beyond the processes": {"RANK": "5", "WORLD_SIZE": "2"},
    "the processes have no address": {"RANK": "0", "WORLD_SIZE": "2"},
}
STREAMS: dict[str, Callable[[], None]] = {
    "standard output is closed": _close(1),
    "standard error is closed": _close(2),
    "both streams are closed": _close(1, 2),
    "all streams are closed": _close(0, 1, 2),
    "standard output is full": _full(1),
    "nobody reads standard output": _nobody_reads(1),
    "nobody reads standard error": _nobody_reads(2),
    "standard error is full": _full(2),
    "new files are closed to everybody": lambda: os.umask(0o777) and None,
    "few files may be open": lower_limit(resource.RLIMIT_NOFILE, 64),
    "no core may be dumped": lower_limit(resource.RLIMIT_CORE, 0),
    "the stack is deep": lambda: sys.setrecursionlimit(200_000),
}

FAULTS = [
    *(
        Fault(name, "flags", stage, "refused", says, flags=flags, point="C", quick=name in QUICK_FLAGS)
        for name, (stage, says, flags) in FLAGS.items()
    ),
    *(
        Fault(name, "environment", 2, "repaired", environment=values, flags=("--overwrite",))
        for name, values in ENVIRONMENT.items()
    ),
    *(
        Fault(
            name,
            "environment",
            2,
            "refused",
            "RANK|WORLD_SIZE|torchrun|MASTER",
            environment=values,
            flags=("--overwrite",),
        )
        for name, values in BAD_RANKS.items()
    ),
    *(
        Fault(
            name,
            "environment",
            2,
            "repaired",
            before=before,
            flags=("--overwrite",),
            point="C",
            quick=name in {"both streams are closed", "nobody reads standard error"},
            needs="no root" if name == "new files are closed to everybody" else "",
        )
        for name, before in STREAMS.items()
    ),
    Fault("the current folder is gone", "environment", 2, "repaired", before=_no_cwd, flags=("--overwrite",)),
    Fault(
        "no file may be larger than 2 kB",
        "environment",
        2,
        "refused",
        r"test_loss|shard|limit|large",
        before=lower_limit(resource.RLIMIT_FSIZE, 2048),
        flags=("--overwrite",),
        point="B10 C",
    ),
    Fault(
        "3 GB of addresses",
        "environment",
        2,
        "sound",
        before=lower_limit(resource.RLIMIT_AS, 3 * 2**30),
        flags=("--overwrite",),
        point="C",
    ),
    Fault(
        "output path is a file", "folders", 2, "refused", "is a file", _file_in_place_of_output, quick=True
    ),
    Fault(
        "output folder is closed",
        "folders",
        2,
        "refused",
        "cannot be written",
        lambda place: place.output.chmod(0o500),
        needs="no root",
    ),
    Fault(
        "folder of shards is a file",
        "folders",
        2,
        "refused",
        "shards",
        lambda place: (shutil.rmtree(place.file("shards")), rewrite(place.output / "shards", "x")),
    ),
    Fault(
        "folder of logs is a file",
        "folders",
        2,
        "refused",
        "logs",
        lambda place: (shutil.rmtree(place.file("logs")), rewrite(place.output / "logs", "x")),
        flags=("--overwrite",),  # what is finished writes no log
    ),
    Fault(
        "folder of logs is gone",
        "folders",
        2,
        "repaired",
        "",
        lambda place: shutil.rmtree(place.file("logs")),
    ),
    Fault(
        "folder of shards is gone",
        "folders",
        2,
        "repaired",
        "",
        lambda place: [
            shutil.rmtree(place.output / "shards" / name.format(model=place.model))
            for name in ("test_loss_{model}", "rivals")
        ],
    ),
    *(
        Fault(
            f"folder of {which} is deleted while the stage runs",
            "folders",
            2,
            "refused",
            r"deleted|gone|missing|disappeared|no such file",
            before=_delete_at_shard(which),
            flags=("--overwrite",),
            point="A7",
            after=1,
        )
        for which in ("job", "shards")
    ),
    *(
        Fault(
            f"a picture is called {name!a}",
            "folders",
            2,
            "works",
            "",
            _odd_name(name),
            "B11",
            after=-1,
            through=(1,),
            options={"drawn": True},
        )
        for name in ODD_NAMES
    ),
    Fault(
        "a temporary file of a dead process is there",
        "folders",
        2,
        "repaired",
        "",
        lambda place: rewrite(_of_a_dead_process(place.output / "test_loss_x.csv"), "x"),
        "E",
        flags=("--overwrite",),  # a stage that stands looks at nothing
        quick=True,
    ),
    Fault(
        "a temporary figure of a dead process is there",
        "folders",
        3,
        "repaired",
        "",
        lambda place: rewrite(_of_a_dead_process(place.output / "loss_forest.png"), "x"),
        "E",
        flags=("--overwrite",),  # a stage that stands looks at nothing
    ),
]
