"""Where the pictures of a table may lie, and one spelling for each."""

import os
from collections.abc import Sequence
from pathlib import Path

from utils.core.errors import UserError


def one_spelling(name: str) -> str:
    """Write a path the one way it can be compared by: ``a//b``, ``a/./b`` and ``c/../a/b`` are ``a/b``."""
    return os.path.normpath(name).replace(os.sep, "/") if name else name


def refuse_outside(paths: Sequence[str], root: Path, folders: Sequence[Path], table: Path) -> None:
    """Refuse a table whose paths lead out of the folders that a user named: it may have come from anybody.

    What a link inside those folders leads to is inside: whoever made the folder made the link. A table of absolute paths
    alone has the folder that they share for its root, and none of them is outside.

    Args:
        paths: Where the images were found, by the table's names.
        root: The image root.
        folders: Where they may be besides.
        table: The table, for the message.

    Raises:
        UserError: Naming the first, and what to do.
    """
    inside = tuple(f"{os.path.abspath(folder).rstrip(os.sep)}{os.sep}" for folder in (root, *folders))
    outside = [path for path in paths if not os.path.abspath(path).startswith(inside)]
    if outside:
        raise UserError(
            f"{table}: {len(outside)} of {len(paths)} paths lead out of {root}, e.g. to {os.path.abspath(outside[0])}. "
            "Name a folder that holds them all with --data-dir, or read them where they are with --allow-outside."
        )
