"""Rows of pictures on the report's first screen: the ends of memorability and of the reconstruction error."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from utils.core.names import HEADLINE_LOSS, LOSSES
from utils.report.gallery import GALLERY_FILE, GALLERY_FOLDER
from utils.report.gallery_data import ImageScores
from utils.report.gallery_pictures import picture_name

PER_STRIP = 6


def picture_strips(
    output_path: Path, scores: ImageScores, pairs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Choose the images at both ends of two scores, with their pictures.

    Args:
        output_path: The output folder.
        scores: The images.
        pairs: Where the pictures are (`utils.report.gallery`); of several models, the first one's are shown.

    Returns:
        Up to four strips; none where there are fewer than two strips' worth of images with pictures and a score.
    """
    strips: list[dict[str, Any]] = []
    for column in scores.columns:
        loss = next(
            (name for name in (HEADLINE_LOSS, *LOSSES) if any(c["label"] == name for c in scores.columns)), ""
        )
        titles = {
            "memorability": ("Best remembered", "Least remembered"),
            loss: (f"Reconstructed worst ({loss})", f"Reconstructed best ({loss})"),
        }.get(column["label"])
        if titles is None or not pairs or any(strip["title"] == titles[0] for strip in strips):
            continue
        rows = pairs[0]["rows"] or range(len(scores.ids))
        known = [
            number
            for number, value in enumerate(column["values"])
            if math.isfinite(value) and rows[number] >= 0
        ]
        known.sort(key=lambda number: column["values"][number], reverse=True)
        if len(known) < 2 * PER_STRIP:
            continue
        for title, chosen in zip(titles, (known[:PER_STRIP], known[: -PER_STRIP - 1 : -1]), strict=True):
            images = [
                _image(output_path, scores.ids[i], rows[i], column["values"][i], pairs[0]) for i in chosen
            ]
            strips.append({"title": title, "images": images})
    return strips


def _image(output_path: Path, image_id: str, row: int, value: float, pair: dict[str, Any]) -> dict[str, str]:
    file = output_path / GALLERY_FOLDER / pair["folder"] / picture_name(row, ".jpg")
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    link = urlencode({"image": image_id}, errors="surrogateescape")
    return {
        "id": image_id,
        "value": f"{value:.3g}",
        "data": f"data:image/jpeg;base64,{data}",
        "href": f"{GALLERY_FILE}#{link}",
    }
