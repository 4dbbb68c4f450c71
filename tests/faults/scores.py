"""Faults of the score table, which people make and edit."""

from collections.abc import Callable

import pandas as pd
from faults.fault import Fault
from faults.study import Place, edit_table, rewrite

TEST, EVALUATION = 2, 3
SCORE, COUNT = "memorability_w_fa_correction", "n_resp"


def edited(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Place], None]:
    """Return what applies a change to the score table's cells."""
    return lambda place: edit_table(place.scores, change)


def text_edited(change: Callable[[bytes], bytes]) -> Callable[[Place], None]:
    """Return what applies a change to the score table's bytes."""
    return lambda place: rewrite(place.scores, change(place.scores.read_bytes()))


def cell(column: str, value: str, row: int = 3) -> Callable[[Place], None]:
    """Return what puts a text into one cell."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return edited(change)


def _twice(value: str | None) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        row = frame.iloc[[2]].copy()
        if value is not None:
            row[SCORE] = value
        return pd.concat([frame, row])

    return change


def _no_such_image(frame: pd.DataFrame) -> pd.DataFrame:
    row = frame.iloc[[2]].copy()
    row["image_file"] = "999999999999.jpg"
    return pd.concat([frame, row])


def _column_twice(place: Place) -> None:
    lines = place.scores.read_text().splitlines()
    rewrite(place.scores, "\n".join([f"{lines[0]},{SCORE}", *(f"{line},0.5" for line in lines[1:])]) + "\n")


def _folder(place: Place) -> None:
    place.scores.unlink()
    place.scores.mkdir()


REFUSED: dict[str, tuple[str, Callable[[Place], object]]] = {
    "is gone": ("memcat_image_data.csv|score table", lambda place: place.scores.unlink()),
    "is a folder": ("memcat_image_data.csv|score table|folder", _folder),
    "is empty": ("cannot be read as a CSV", lambda place: rewrite(place.scores, "")),
    "is a header alone": ("names no image", text_edited(lambda text: text.split(b"\n")[0] + b"\n")),
    "is binary": (
        "cannot be read as a CSV|column",
        lambda place: rewrite(place.scores, bytes(range(256)) * 9),
    ),
    "is a web page": ("column|CSV", lambda place: rewrite(place.scores, "<!DOCTYPE html><html>404</html>\n")),
    "lacks the column of scores": (SCORE, edited(lambda frame: frame.drop(columns=SCORE))),
    "lacks the column of names": ("image_file|path", edited(lambda frame: frame.drop(columns="image_file"))),
    "has a column twice": (f"one name: {SCORE}", _column_twice),
    "holds a word for a score": (r"line 5.*high", cell(SCORE, "high")),
    "holds a comma as decimal point": (r"0,5", cell(SCORE, "0,5")),
    "holds an infinite score": (r"line 5.*inf", cell(SCORE, "inf")),
    "holds a score of NaN": (r"line 5", cell(SCORE, "NaN")),
    "lacks a score": (r"line 5", cell(SCORE, "")),
    "names none of the pictures": (
        "was found under",
        edited(lambda frame: frame.assign(image_file=[f"x{n}.jpg" for n in range(len(frame))])),
    ),
    "has a row with too many cells": (
        "CSV",
        text_edited(lambda text: text + b"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n"),
    ),
    "has a quote that never closes": (
        "CSV|quote|EOF",
        text_edited(lambda text: text.replace(b",bear,", b',"bear,', 1)),
    ),
    "holds responses below 0": (f"{COUNT}|responses|negative|below 0|H|hits", cell(COUNT, "-4")),
    "holds more hits than responses": ("hits|responses|H", cell("H", "9999")),
    "holds a word for a count": (r"line 5.*many", cell(COUNT, "many")),
}
HARMLESS: dict[str, Callable[[Place], object]] = {
    "is UTF-16": text_edited(lambda text: text.decode().encode("utf-16")),
    "begins with a byte-order mark": text_edited(lambda text: b"\xef\xbb\xbf" + text),
    "ends its lines as Windows does": text_edited(lambda text: text.replace(b"\n", b"\r\n")),
    "lacks its last line's end": text_edited(lambda text: text.rstrip(b"\n")),
    "has its rows in another order": edited(lambda frame: frame.iloc[::-1]),
    "has its columns in another order": edited(lambda frame: frame[frame.columns[::-1]]),
    "has a further column": edited(lambda frame: frame.assign(remark="x")),
    "has every cell in quotes": lambda place: pd.read_csv(place.scores, dtype=str).to_csv(
        place.scores, index=False, quoting=1
    ),
    "has semicolons": text_edited(lambda text: text.replace(b",", b";")),
    "has empty lines at its end": text_edited(lambda text: text + b"\n\n"),
}

FAULTS = [
    *(
        Fault(
            name,
            "scores",
            TEST,
            "refused",
            says,
            make,
            quick=name in {"is a folder", "has a column twice", "holds a word for a score"},
        )
        for name, (says, make) in REFUSED.items()
    ),
    *(Fault(name, "scores", TEST, "harmless", "", make) for name, make in HARMLESS.items()),
    Fault(
        "has other bytes and equal scores",
        "scores",
        EVALUATION,
        "harmless",
        "",
        HARMLESS["has a further column"],
    ),
    Fault("lists an image twice, alike", "scores", TEST, "left out", "listed 2 times", edited(_twice(None))),
    Fault(
        "lists an image twice, with two scores",
        "scores",
        TEST,
        "left out",
        "different values",
        edited(_twice("0.1")),
    ),
    Fault(
        "names an image that is nowhere", "scores", TEST, "left out", "not on disk", edited(_no_such_image)
    ),
    Fault(
        "lost a row",
        "scores",
        TEST,
        "left out",
        "not in the table",
        edited(lambda frame: frame.drop(index=3)),
    ),
    *(
        Fault(
            "holds one corrected score",
            "scores",
            stage,
            "as new",
            "",
            cell(SCORE, "0.123"),
            "A2 B8",
            through=through,
        )
        for stage, through in (
            (2, (1,)),
            (3, (1, 2)),
            (6, (1, 2, 4)),
            (5, (1, 2, 3, 4)),
            (8, (1, 2, 4, 6, 7)),
        )
    ),
    Fault(
        "holds a category that is a formula",
        "scores",
        5,
        "works",
        "",
        edited(lambda frame: frame.assign(category=frame["category"].replace("food", "=1+1"))),
        "D",
        after=-1,
        through=(1, 2),
    ),
]
