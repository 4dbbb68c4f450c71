"""What tables are declared with: columns, tables, and the columns and groups of columns that several tables share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: its name, kind (``text, int, float, bool``), meaning and unit, and whether cells may be empty."""

    name: str
    kind: str
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: file name (``{model}`` is the checkpoint's stem), who writes it, its columns and its key.

    Attributes:
        file: File name in the output folder.
        command: The command that writes it; named in errors when the file is missing.
        about: One sentence: what a row is.
        columns: Declared columns, in order.
        key: Columns that together name a row once; empty when rows need no key.
        optional: Names of declared columns that a file may lack altogether.
        open_ended: Whether further columns are welcome.
    """

    file: str
    command: str
    about: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ("image_id",)
    optional: tuple[str, ...] = ()
    open_ended: bool = False


def text(name: str, meaning: str, nullable: bool = False) -> Column:
    """Declare a column of text."""
    return Column(name, "text", meaning, nullable=nullable)


def integer(name: str, meaning: str, unit: str = "") -> Column:
    """Declare a column of whole numbers."""
    return Column(name, "int", meaning, unit)


def real(name: str, meaning: str, unit: str = "") -> Column:
    """Declare a column of numbers that are always defined."""
    return Column(name, "float", meaning, unit)


def estimate(name: str, meaning: str, unit: str = "") -> Column:
    """Declare a column of numbers that some data leave undefined, such as the correlation of a constant."""
    return Column(name, "float", meaning, unit, nullable=True)


def boolean(name: str, meaning: str) -> Column:
    """Declare a column of True and False."""
    return Column(name, "bool", meaning)


def interval(
    of: str, prefix: str = "", suffix: str = "", upper: str = "upper end of it"
) -> tuple[Column, Column]:
    """Declare ``ci_low`` and ``ci_high``.

    Args:
        of: Of what the interval is, and which: "its 95 % bootstrap interval".
        prefix: What stands before both names.
        suffix: What stands after both names.
        upper: Meaning of ``ci_high``.
    """
    return (
        estimate(f"{prefix}ci_low{suffix}", f"lower end of {of}"),
        estimate(f"{prefix}ci_high{suffix}", upper),
    )


def resampling(
    resamples: str = "bootstrap resamples", seed: str = "seed of the bootstrap"
) -> tuple[Column, Column]:
    """Declare ``resamples`` and ``seed``, with which an interval can be drawn again."""
    return integer("resamples", resamples), integer("seed", seed)


IMAGE_ID = text("image_id", "path relative to the image root, forward slashes; the key of every table")
CATEGORY = text("category", "category of the image", nullable=True)
SUBCATEGORY = text("subcategory", "subcategory of the image", nullable=True)
MEMORABILITY = estimate(
    "memorability",
    "memorability score (of --score-column); larger: better remembered; empty for pictures without scores",
)
SCORED_IMAGE = (IMAGE_ID, CATEGORY, SUBCATEGORY, MEMORABILITY)
SPLIT = text("split", "train, val or test")
MODEL = text("model", "file stem of the checkpoint")
