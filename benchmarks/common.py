"""What the benchmarks share: the yardstick (a large matrix product), clocks, memory, and the results file."""

from __future__ import annotations

import json
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
if str(ROOT) not in sys.path:  # the benchmarks are run as files, from anywhere
    sys.path.insert(0, str(ROOT))


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Return the processor's name without marks of trade, and its units for bf16."""
    import torch

    known = getattr(torch.cpu, "get_capabilities", dict)()
    units = "AMX" if known.get("amx_bf16") else "AVX512-BF16" if known.get("avx512_bf16") else ""
    name = re.sub(r"\((R|TM)\)", "", cpu_name())
    return f"{name} with {units}" if units else name


def describe_hardware(device: str = "cpu") -> dict[str, Any]:
    """Describe what a benchmark ran on: processor, cores used by torch, device, versions."""
    import torch

    cuda = torch.device(device).type == "cuda"
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if cuda else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def synchronise(device: str) -> None:
    """Wait for a CUDA device; a CPU has nothing to wait for."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def write_results(topic: str, results: dict[str, Any], path: Path | None = None) -> Path:
    """Print results and write them to ``benchmarks/results/<topic>_<hardware>.json`` (or `path`)."""
    hardware = results.get("hardware") or describe_hardware()
    label = f"{hardware['cpu']}-{hardware['threads']}threads"
    if hardware["device"] != "cpu":
        label = hardware["device"]
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    path = path or RESULTS / f"{topic}_{slug}.json"
    text = json.dumps({"command": [Path(sys.argv[0]).name, *sys.argv[1:]], **results}, indent=2, default=str)
    sys.stdout.write(text + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def timer(clock: str = "wall", device: str = "cpu") -> Callable[[Callable[[], object]], float]:
    """Return a function that times one call, in seconds, waiting for the device.

    Args:
        clock: ``wall``, or ``cpu`` for this process's own time, which other processes do not lengthen.
        device: Where the work runs.
    """
    now = time.perf_counter if clock == "wall" else time.process_time

    def once(work: Callable[[], object]) -> float:
        synchronise(device)
        start = now()
        work()
        synchronise(device)
        return now() - start

    return once


def seconds(work: Callable[[], object], repeats: int = 5, warmup: int = 1, device: str = "cpu") -> float:
    """Return the median wall time of `work` in seconds, waiting for the device each time."""

    def once() -> float:
        start = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - start

    for _ in range(warmup):
        once()
    return statistics.median(once() for _ in range(repeats))


def matmul_flops(size: int = 4096, device: str = "cpu", dtype: Any = None, repeats: int = 5) -> float:
    """Measure the floating-point rate of a large square matrix product: the yardstick of the ratios.

    Returns:
        Operations per second (a multiplication and an addition count as two), the median over `repeats`.
    """
    import torch

    values = torch.rand(size, size, device=device, dtype=dtype or torch.float32)
    return 2 * size**3 / seconds(lambda: values @ values, repeats=repeats, device=device)


def peak_memory_mb() -> float:
    """Return this process's peak resident memory in MB (pages of mapped files that were touched count)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def record(topic: str, figures: dict[str, Any], device: str = "cpu", path: Path | None = None) -> Path:
    """Write figures with date, hardware, versions and code revision; see `write_results`."""
    from utils.core.run import code_revision, package_versions

    context = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": describe_hardware(device),
        "versions": package_versions(),
        "code": code_revision(),
    }
    return write_results(topic, {**context, "figures": figures}, path)
