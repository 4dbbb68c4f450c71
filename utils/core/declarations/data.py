"""Data: what every stage reads and what it leaves out."""

from utils.core.declarations.columns import SCORED_IMAGE, SPLIT, Table, text

TABLES: dict[str, Table] = {
    "splits": Table(
        "splits.csv",
        "any stage",
        "Which images train, validate and test: 60/10/30 %, stratified by category, subcategory and score above or below the "
        "median. Images of one group are all in one split.",
        (
            *SCORED_IMAGE,
            SPLIT,
            text("group", "images that belong together, e.g. crops of one photograph; empty for none", True),
        ),
        optional=("group",),
    ),
    "skipped_images": Table(
        "skipped_images.csv",
        "any stage",
        "Images that a stage left out, and why.",
        (
            text("image_id", "image_id, or the path where there is no id"),
            text("reason", "what was wrong with it"),
            text("stage", "the script that left it out"),
        ),
        key=(),
    ),
}
