"""What goes wrong for reasons a user can mend."""


class UserError(Exception):
    """Something the user can mend. Its text says what was expected, what was found, where, what to do next.

    Scripts end with exit code 2 and this text alone, without a traceback.
    """


class ChangedFileError(UserError):
    """A file that one stage hands to the next holds something else than was written."""


class ImageError(Exception):
    """One image cannot be used: unreadable, truncated, empty. Skipped or fatal by ``--on-error``.

    Attributes:
        path: The image file; anything that names it when written as text.
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, path: object, reason: str) -> None:
        # Both go to the base class so that the error survives the way back from a worker process.
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
