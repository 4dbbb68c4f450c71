"""Images that a user names one by one, or in files that list them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.core.cells import as_meant
from utils.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

LIST_SUFFIXES = (".txt", ".csv")


def read_image_ids(given: Sequence[str]) -> list[str]:
    """Expand image ids and files of image ids.

    Args:
        given: Image ids; ``.txt`` files with one id per line; ``.csv`` tables with a column ``image_id``.

    Returns:
        The ids in the order given, each once.

    Raises:
        UserError: If a list does not exist, names no image, or lacks the column.
    """
    ids: list[str] = []
    for text in given:
        ids += _read_list(Path(text)) if text.lower().endswith(LIST_SUFFIXES) else [text]
    return list(dict.fromkeys(ids))


def _read_list(path: Path) -> list[str]:
    from utils.core.tables import read_csv

    if not path.is_file():
        raise UserError(
            f"The image list {path} does not exist. Check the path, or name the images themselves with --image-ids."
        )
    if path.suffix.lower() == ".csv":
        frame = read_csv(path, text_columns=["image_id"])
        if "image_id" not in frame.columns:
            raise UserError(
                f"{path}: expected a column image_id, found: {', '.join(map(str, frame.columns))}. "
                "Any table of this study will do, or a .txt file with one image id per line."
            )
        ids = list(map(as_meant, frame["image_id"]))
    else:
        try:
            ids = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text. Expected one image id per line.") from None
    ids = [name.strip() for name in ids if name.strip()]
    if not ids:
        raise UserError(f"The image list {path} names no image. Expected one image id per line.")
    return ids


def named_images(table: pd.DataFrame, given: Sequence[str], data_name: str) -> pd.DataFrame:
    """Pick the rows of named images.

    Args:
        table: With ``image_id``, each once.
        given: See :func:`read_image_ids`.
        data_name: The data set's name, for messages.

    Returns:
        Those rows, in the table's order.

    Raises:
        UserError: If an image is not in the data set; names up to five and the likeliest meant.
    """
    wanted = read_image_ids(given)
    known = set(table["image_id"])
    unknown = [name for name in wanted if name not in known]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        close = difflib.get_close_matches(unknown[0], table["image_id"].tolist()[:20000], n=1)
        hint = f" Did you mean {close[0]}?" if close else f" They look like {table['image_id'].iloc[0]}."
        raise UserError(
            f"{len(unknown)} of {len(wanted)} images of --image-ids are not in {data_name}: {shown}.{hint}"
        )
    return table[table["image_id"].isin(wanted)].reset_index(drop=True)
