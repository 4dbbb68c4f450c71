"""Contact sheets: scored pictures in a grid, the most memorable first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from utils.core.figures import NEUTRAL, shorten
from utils.core.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image as PILImage

SHEET_COLUMNS = 10
SHEET_PICTURES_PER_PAGE = 100
SHEET_MOST_PAGES = 10
_TILE_PX = 150
_CAPTION_PX = 34
_MARGIN_PX = 6


def contact_sheet_paths(output_path: Path, pictures: int) -> list[Path]:
    """Name the pages a contact sheet of so many pictures takes."""
    pages = min(-(-pictures // SHEET_PICTURES_PER_PAGE), SHEET_MOST_PAGES)
    if pages == 1:
        return [Path(output_path) / "contact_sheet.png"]
    return [Path(output_path) / f"contact_sheet_{number:02d}.png" for number in range(1, pages + 1)]


def write_contact_sheet(table: pd.DataFrame, output_path: Path, caveat: str = "") -> list[Path]:
    """Write the scored pictures as a grid, the most memorable first.

    Args:
        table: ``path, memorability, percentile, rank``, in any order. Of more than 1,000 pictures the 500 most
            and the 500 least memorable are shown, and the page says so.
        output_path: Folder of the pages; pages of an earlier sheet that are not drawn again are removed.
        caveat: Printed on every page (sample data, random weights).

    Returns:
        The pages' paths.
    """
    table = table.sort_values(["rank", "path"], ignore_index=True)
    most = SHEET_PICTURES_PER_PAGE * SHEET_MOST_PAGES
    title = f"{len(table)} pictures, most memorable first"
    if len(table) > most:
        title = f"The {most // 2} most and the {most // 2} least memorable of {len(table)} pictures"
        table = pd.concat([table[: most // 2], table[-most // 2 :]], ignore_index=True)
    paths = contact_sheet_paths(output_path, len(table))
    for number, path in enumerate(paths):
        part = table[number * SHEET_PICTURES_PER_PAGE : (number + 1) * SHEET_PICTURES_PER_PAGE]
        of = f" (page {number + 1} of {len(paths)})" if len(paths) > 1 else ""
        with atomic_path(path) as temporary:
            _draw_page(part, title + of, caveat).save(temporary, format="PNG")
    for stale in {
        *Path(output_path).glob("contact_sheet_[0-9][0-9].png"),
        *contact_sheet_paths(output_path, 1),
    }:
        if stale not in paths:
            stale.unlink(missing_ok=True)
    return paths


def _draw_page(table: pd.DataFrame, title: str, caveat: str) -> PILImage.Image:
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font_file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, title_font = ImageFont.truetype(str(font_file), 11), ImageFont.truetype(str(font_file), 16)
    columns = min(SHEET_COLUMNS, max(len(table), 4))
    rows = -(-len(table) // columns)
    head = 34 + (20 if caveat else 0)
    step_x, step_y = _TILE_PX + _MARGIN_PX, _TILE_PX + _CAPTION_PX + _MARGIN_PX
    page = Image.new("RGB", (columns * step_x + _MARGIN_PX, head + rows * step_y), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN_PX, 8), title, fill="black", font=title_font)
    if caveat:
        draw.text((_MARGIN_PX, 32), f"NOT A RESULT: {caveat}", fill="#B00020", font=font)
    for position, row in enumerate(table.itertuples()):
        x, y = _MARGIN_PX + position % columns * step_x, head + position // columns * step_y
        picture = _thumbnail(row.path)
        if picture is not None:
            page.paste(picture, (x + (_TILE_PX - picture.width) // 2, y + (_TILE_PX - picture.height) // 2))
        draw.text(
            (x, y + _TILE_PX + 2),
            f"{row.rank}.  {row.memorability:.3f}  (p{row.percentile:.0f})",
            fill="black",
            font=font,
        )
        draw.text((x, y + _TILE_PX + 17), shorten(Path(row.path).name, 22), fill=NEUTRAL, font=font)
    return page


def _thumbnail(path: str) -> PILImage.Image | None:
    """The whole picture within a tile; None if it has become unreadable since it was scored."""
    from utils.core.errors import ImageError
    from utils.data.images import read_rgb

    try:
        picture = read_rgb(path)
    except ImageError:
        return None
    picture.thumbnail((_TILE_PX, _TILE_PX))
    return picture
