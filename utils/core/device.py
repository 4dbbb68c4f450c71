"""Devices and how networks run on them: seeds, memory kept between batches on a CPU, full float32 on a GPU."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from typing import TYPE_CHECKING

from utils.core.errors import UserError

if TYPE_CHECKING:
    import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global state
    torch.manual_seed(seed)


def resolve_device(name: str) -> torch.device:
    """Turn ``--device`` into a device that exists here.

    Args:
        name: ``auto`` (CUDA, else MPS, else CPU; under torchrun the rank's own CUDA device), ``cpu``,
            ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UserError: If the name is unknown or the device is not here. Never a silent switch.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (number and (kind != "cuda" or not number.isdigit())):
        raise UserError(f"Expected --device auto, cpu, cuda, cuda:N or mps, found '{name}'.")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        kind = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        index = int(number) if number else local % max(count, 1)
        if index >= count:
            raise UserError(
                f"--device {name} asks for CUDA device {index}, but this machine has {count}. Use --device auto or cpu."
            )
        return torch.device("cuda", index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps was asked for, but this machine has none. Use --device auto or cpu.")
    return torch.device(kind)


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn ``--precision`` into ``float32`` or ``bf16``.

    Args:
        name: ``float32``, ``bf16``, or ``auto``: bf16 where the device computes in it at more than float32's speed.
        device: Where the network runs.
    """
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)  # not in the oldest torch that we take
        known: dict[str, bool] = capabilities() if device.type == "cpu" else {}
        fast = any(
            known.get(name, False) for name in ("avx512_bf16", "amx_bf16")
        )  # others emulate it, slowly
    return "bf16" if fast else "float32"


def computing_in(precision: str, device: torch.device | str) -> torch.autocast:
    """Return a context in which networks compute in a precision.

    In bf16 convolutions and matrix products take bfloat16 (8 bits of mantissa instead of 24) and sum in float32; weights
    and what autocast holds to be delicate stay float32. What leaves the network is for the caller to widen.

    Args:
        precision: ``float32`` or ``bf16``.
        device: Where the network is.
    """
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h

_MMAP_THRESHOLD_BYTES = 2**30
_TRIM_THRESHOLD_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed tensors for the next ones.

    glibc gives every large block back to the kernel as soon as it is freed, so each activation of each layer
    is paged in again, zeroed, for every batch: a tenth to a third of a VGG16 pass on a CPU. Resident memory
    stays at its highest mark instead of falling between batches.

    Returns:
        Whether the C library took the setting; False, without effect, on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )


def full_float32() -> None:
    """Let CUDA convolutions and matrix products use all of float32.

    PyTorch lets cuDNN round convolution inputs to TF32 (10 bits of mantissa) unless told otherwise, which moves
    a reconstruction loss in its third digit. Nothing changes on a CPU.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
