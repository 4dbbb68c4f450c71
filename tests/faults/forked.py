"""Run a stage in a fork of this process, which has imported everything: a run costs what the stage does, and nothing else.

The child is a process of its own in every respect that matters here: it may be killed at any moment, run out of memory,
lose its output; and what it leaves on disk is all that it leaves.
"""

import contextlib
import faulthandler
import gc
import hashlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CRASHED = 1
LIMIT_S = 300.0  # of one stage of the small study; a run that takes longer hangs
_PACKAGES = ("models", "utils")
# Imported inside functions, so that the stages start at once; every child would pay for them anew.
_LATER = (
    *(
        "scipy.stats",
        "scipy.spatial.distance",
        "sklearn.linear_model",
        "sklearn.model_selection",
        "skimage.metrics",
    ),
    *(
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_pdf",
        "captum.attr",
    ),
    *(
        "torch._dynamo",
        "torch.distributed",
        "tqdm.auto",
        "jinja2",
        "cv2",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
    ),
)
SCRIPTS = (
    *(
        "autoencoder_pretrain",
        "autoencoder_finetune",
        "autoencoder_test",
        "autoencoder_evaluation",
        "latent_analysis",
    ),
    *("category_plot", "mlp_predict", "model_interpretation_IG", "feature_analysis", "memorability_steering"),
    "run_pipeline",
)


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (-N for signal N), what it said on both streams, seconds, peak memory in MB."""

    code: int
    output: str
    seconds: float
    peak_mb: float


def preload() -> None:
    """Import everything that a stage may import, once, and let no library keep threads that a fork would lose."""
    for name in SCRIPTS:
        importlib.import_module(name)
    for package in _PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(found.name)
    for name in _LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import cv2
    import torch
    from matplotlib.figure import Figure

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    Figure().subplots().imshow(np.zeros((2, 2)))  # fills the caches of matplotlib


def start(
    script: str,
    arguments: Sequence[object],
    stream: int,
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] | None = None,
    drawn: bool = False,
) -> int:
    """Fork, and run a script's main in the child as a command line would; return the child's process id.

    Args:
        script: The script's name without ``.py``.
        arguments: Its command line.
        stream: File descriptor that standard output and error go to.
        environment: Variables set in the child.
        before: Called in the child before the script, e.g. to lower a limit.
        drawn: Whether figures are drawn, or only noted.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    try:
        gc.freeze()  # else the first collection goes through all that the parent has imported
        os.setpgid(0, 0)
        _become_a_script(stream, environment or {}, drawn)
        if before is not None:
            before()
        _leave(_main(script, [str(argument) for argument in arguments]))
    except BaseException:
        os._exit(CRASHED)
    raise AssertionError("unreachable")


def _become_a_script(stream: int, environment: Mapping[str, str], drawn: bool) -> None:
    """Forget the tests around it: streams, handlers of signals, handlers of the log."""
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.disable()
    os.environ.update(environment)
    from utils.core.log import log

    log.handlers.clear()
    if not drawn:
        _sketch_figures()


def _sketch_figures() -> None:
    """Let figures be saved as what they show, in words and digests: drawing takes most of a small study's time."""
    from matplotlib.figure import Figure

    def save(figure: Figure, path: Path, format: str, **_: object) -> None:
        lines = [format, *(text.get_text() for text in figure.texts)]
        for axes in figure.axes:
            lines += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
            lines += [text.get_text() for text in axes.texts]
            shown = [line.get_xydata() for line in axes.lines]
            shown += [points.get_offsets() for points in axes.collections]
            shown += [image.get_array() for image in axes.images]
            lines += [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in shown]
        Path(path).write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")

    Figure.savefig = save  # type: ignore[method-assign, assignment]


def _main(script: str, arguments: list[str]) -> int:
    from utils.core.cli import run_script

    module = importlib.import_module(script)
    sys.argv = [f"{script}.py", *arguments]
    try:
        if script == "run_pipeline":
            _fork_the_stages(module)
            run_script(module.main, lambda: module.get_parser(demo="--demo" in arguments), arguments)
        else:
            run_script(module.main, module.get_parser, arguments, stage=True)
    except SystemExit as stop:
        if isinstance(stop.code, int) or stop.code is None:
            return stop.code or 0
        sys.stderr.write(f"{stop.code}\n")
        return 1
    except BaseException:
        sys.stderr.write(traceback.format_exc())
        return CRASHED
    return 0


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _fork_the_stages(pipeline: object) -> None:
    """Let the pipeline start its stages by forks of this process rather than by new ones."""

    def run_child(command: Sequence[str]) -> int:
        sys.stderr.flush()
        child = start(Path(command[1]).stem, command[2:], 2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    pipeline.run_child = run_child  # type: ignore[attr-defined]


def run(
    script: str,
    arguments: Sequence[object],
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] | None = None,
    signals: Sequence[tuple[float, int]] = (),
    drawn: bool = False,
    limit_s: float = LIMIT_S,
) -> Ended:
    """Run a script in a fork and wait for its end.

    Args:
        script: The script's name without ``.py``.
        arguments: Its command line.
        environment: Variables set in the child.
        before: Called in the child before the script.
        signals: (seconds after the start, signal) to send to it, in order.
        drawn: Whether figures are drawn, or only noted.
        limit_s: It is killed after that, and the output says so.
    """
    with tempfile.TemporaryFile() as stream:
        started = time.monotonic()
        child = start(script, arguments, stream.fileno(), environment=environment, before=before, drawn=drawn)
        status, usage, late = _wait(child, started, list(signals), limit_s)
        seconds = time.monotonic() - started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # what it may have started
        stream.seek(0)
        output = stream.read().decode("utf-8", "backslashreplace")
    if late:
        output += f"\n[took longer than {limit_s:g} s and was killed]\n"
    return Ended(os.waitstatus_to_exitcode(status), output, seconds, usage.ru_maxrss / 1024)


def _wait(
    child: int, started: float, signals: list[tuple[float, int]], limit_s: float
) -> tuple[int, resource.struct_rusage, bool]:
    """Wait for a child, sending signals when their time has come."""
    late = False
    for when, number in [*signals, (limit_s, signal.SIGKILL)]:
        while True:
            done, status, usage = os.wait4(child, os.WNOHANG)
            if done:
                return status, usage, late
            rest = started + when - time.monotonic()
            if rest <= 0:
                break
            time.sleep(min(rest, 0.002))
        late = when == limit_s
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
    _, status, usage = os.wait4(child, 0)
    return status, usage, late


def lower_limit(which: int, value: int) -> Callable[[], None]:
    """Return what lowers one of the process's resource limits (``resource.RLIMIT_...``)."""
    return lambda: resource.setrlimit(which, (value, value))
