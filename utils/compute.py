"""How networks are run: memory kept between batches on a CPU, full float32 on a GPU."""

from __future__ import annotations

import ctypes
import sys

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
