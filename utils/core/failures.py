"""What ends a script for a reason outside it: the disk, memory, a missing package. One sentence each, and what to do."""

import errno
import os
import sys

from utils.core.errors import ImageError, UserError

LEAST_ADDRESS_SPACE = 4 * 10**9  # bytes
_AGAIN = "and run the same command again"
_DISK_REMEDIES = {
    errno.ENOSPC: f"there is no space left on the device; free some {_AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some {_AGAIN}",
    errno.EFBIG: f"the file would be larger than this process or file system allows; raise the limit (ulimit -f) {_AGAIN}",
    errno.EACCES: "permission was denied; change its permissions, or choose another folder with --output-path",
    errno.EROFS: "the file system is read-only; choose another folder with --output-path",
    errno.EPERM: "the operation is not permitted; change its permissions, or choose another with --output-path",
    errno.ENOENT: f"it is not there, or was deleted while this ran; put it back {_AGAIN}",
    errno.EEXIST: f"a file stands where a folder belongs; move it {_AGAIN}",
    errno.ENOTDIR: f"a file stands where a folder belongs; move it {_AGAIN}",
    errno.EISDIR: f"a folder stands where a file belongs; move it {_AGAIN}",
    errno.EIO: f"the device reported an error; check the disk {_AGAIN}",
    errno.EMFILE: f"too many files are open; raise the limit (ulimit -n) {_AGAIN}, or use fewer --workers",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter --output-path",
    errno.ELOOP: f"the links lead in a circle; mend them {_AGAIN}",
    errno.ESTALE: f"the network file system lost it; {_AGAIN.removeprefix('and ')}",
}
_NAMELESS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM}
"""What says enough without a file's name; anything else without one is a bug of ours."""
_NO_MEMORY = (  # as C++ says it through RuntimeError, OpenCV and the loader of shared libraries
    *(
        "can't allocate memory",
        "cannot allocate memory",
        "not enough memory",
        "insufficient memory",
        "bad_alloc",
    ),
    *("out of memory", "can't start new thread", "failed to map segment", "could not allocate"),
)


def check_address_space() -> None:
    """Refuse to start where a limit (``ulimit -v``) leaves too little room even for the libraries.

    OpenBLAS ends the whole process where it finds none, halfway through the work and without a word that helps: measured at
    3.5 GB, while 4.1 GB are enough for a small network.

    Raises:
        UserError: Saying the limit and what is needed.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"This process may use {limit / 1e9:.1f} GB of address space (ulimit -v), and torch and its libraries take "
            f"about {LEAST_ADDRESS_SPACE / 1e9:.0f} GB before they do anything. Raise the limit, e.g. ulimit -v unlimited."
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Say whether an error is that memory could not be had, in whatever words a library says it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    kinds = RuntimeError | ImportError | SystemError
    named = isinstance(error, kinds) or type(error).__module__.startswith("cv2")
    text = str(error).lower()
    return named and any(words in text for words in _NO_MEMORY)


def explain(error: Exception) -> str | None:
    """Put what a user can mend into one message; None for anything else, which is a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ImageError):  # where no other image could take its place
        return f"{error}. Mend or remove the file {_AGAIN}."
    if is_lack_of_memory(error):
        return (
            "There is not enough memory. What was finished is kept; run the same command again with a smaller --batch-size, "
            "fewer --workers or a smaller --image-size, or allow the process more memory."
        )
    if isinstance(error, ModuleNotFoundError):
        package = error.name or ""
        if package.split(".")[0] in {"utils", "models"}:
            return None
        return f"The package '{package}' is not installed. Install what the study needs with: make install"
    encoding = sys.getfilesystemencoding()
    if isinstance(error, UnicodeEncodeError) and encoding.lower() != "utf-8":
        return (
            f"File names are written in {encoding} here (by LC_ALL, LANG or PYTHONUTF8), which has no place for "
            f"{error.object[error.start : error.end]!a}. Set PYTHONUTF8=1 and run the same command again."
        )
    return _explain_disk(error) if isinstance(error, OSError) else None


def _explain_disk(error: OSError) -> str | None:
    remedy = _DISK_REMEDIES.get(error.errno or 0)
    if remedy is None or (error.filename is None and error.errno not in _NAMELESS):
        return None
    # An error of reading looks the same: a table of scores may be closed to this user as well.
    place = error.filename if error.filename is not None else "a file"
    return f"Could not read or write {os.fsdecode(place) if isinstance(place, bytes) else place}: {remedy}."
