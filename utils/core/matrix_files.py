"""Matrices on disk: room on the disk reserved before they are written, and opened without trust in what is there."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.claims import check_unchanged
from utils.core.errors import UserError


def create_matrix(path: Path, dtype: Any, shape: tuple[int, ...], target: Path | None = None) -> np.memmap:
    """Create a ``.npy`` file whose every byte has its place on the disk, and map it for writing.

    A memory map into a file that has only its length, and no blocks, dies by SIGBUS where the disk turns out to be full:
    without a message, and with half a file left.

    Args:
        path: The file to create.
        dtype: Its element type.
        shape: Its shape.
        target: The file that it is to become, for messages.

    Returns:
        The writable map, zeros.

    Raises:
        UserError: Naming the file and how much room it takes, if the disk or a limit of this process has not got it.
    """
    needed = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    matrix: np.memmap | None = None
    try:
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        reserve(path)
    except OSError as error:
        matrix = None  # let go of the file before it is removed
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        limit = "this process may not write files that large (ulimit -f)"
        why = limit if error.errno == errno.EFBIG else "the disk has not that much free"
        raise UserError(
            f"{target or path} takes {needed:,} bytes, and {why}. What was finished is kept; make room and run the same "
            "command again."
        ) from None
    return matrix


def reserve(path: Path) -> None:
    """Give every byte of a file its place on the disk, where the operating system can.

    Raises:
        OSError: The disk has not got it.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    with open(path, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV):  # the file system cannot
                raise


def map_matrix(path: Path, remedy: str, dimensions: int | None = None) -> np.ndarray:
    """Map a ``.npy`` file for reading, after a check that it is what its stage wrote.

    For that check the file is read once, block by block; its digest is known from then on for as long as its size and
    times stay. The rows themselves are read when they are asked for.

    Args:
        path: The file.
        remedy: What to do if it is not what it should be, a sentence.
        dimensions: How many axes it must have; any number when left out.

    Raises:
        UserError: If it is missing, cut short, holds Python objects, or has another number of axes; or has changed since it
            was written (:class:`utils.core.errors.ChangedFileError`).
    """
    check_unchanged(path)
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. {remedy}") from None
    except (ValueError, EOFError, IsADirectoryError) as error:
        raise UserError(
            f"{path} cannot be read as a matrix: it has {path.stat().st_size:,} bytes and is cut short, or is no .npy file "
            f"({error}). {remedy}"
        ) from None
    if not isinstance(matrix, np.ndarray) or (dimensions is not None and matrix.ndim != dimensions):
        found = f"one of shape {matrix.shape}" if isinstance(matrix, np.ndarray) else "an archive"
        raise UserError(f"{path}: expected a matrix of {dimensions} axes, found {found}. {remedy}")
    return matrix
