"""What the benchmarks share: the hardware's description, timing with a device, and the results file."""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


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
