"""What the benchmarks share: the yardstick (a large matrix product), timing, memory, and the results file."""

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the benchmarks are run as files, from anywhere
    sys.path.insert(0, str(ROOT))

from utils.runs import code_revision, package_versions, write_json  # noqa: E402 - needs the path above

RESULTS = Path(__file__).resolve().parent / "results"


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Describe what a figure was measured on."""
    import torch

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
        flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
        model = (
            f"{names[0] if names else model}{' with AVX-512' if 'avx512f' in flags else ' without AVX-512'}"
        )
    described = {"cpu": model, "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def matmul_flops(size: int = 4096, device: str = "cpu", dtype: Any = None, repeats: int = 5) -> float:
    """Measure the floating-point rate of a large square matrix product: the yardstick of the ratios.

    Returns:
        Operations per second (a multiplication and an addition count as two), the median over ``repeats``.
    """
    import torch

    values = torch.rand(size, size, device=device, dtype=dtype or torch.float32)
    values @ values
    return 2 * size**3 / seconds(lambda: values @ values, repeats=repeats, device=device)


def seconds(work: Callable[[], object], repeats: int = 5, warmup: int = 1, device: str = "cpu") -> float:
    """Return the median wall time of ``work`` in seconds, waiting for the device each time."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(warmup):
        once()
    return statistics.median(once() for _ in range(repeats))


def peak_memory_mb() -> float:
    """Return this process's peak resident memory in MB (mapped files that were touched count)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def record(topic: str, figures: dict[str, Any], label: str = "cpu-2core", device: str = "cpu") -> Path:
    """Write figures with their hardware, versions, code revision and command to ``results/<topic>_<label>.json``."""
    content = {
        "topic": topic,
        "command": "python " + " ".join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(device),
        "versions": package_versions(),
        "code": code_revision(),
        "figures": figures,
    }
    path = RESULTS / f"{topic}_{label}.json"
    write_json(path, content)
    print(json.dumps(figures, indent=2))
    print(f"Wrote {path}")
    return path
