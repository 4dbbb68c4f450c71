"""A pack of small pictures, one for each row of a table: an uncompressed ZIP that any program opens."""


def member_name(number: int) -> str:
    """Return the name of the picture of a row, counted from 0.

    Not the image's own name: that may be anything, the name of a file elsewhere included.
    """
    return f"{number:06d}.jpg"
