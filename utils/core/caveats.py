"""What must be said of numbers: that they come from sample data, random weights, or a table that was edited by hand."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from utils.core.names import CAVEAT_COLUMN, SAMPLE_CAVEAT

if TYPE_CHECKING:
    import pandas as pd

_SEPARATOR = "; "
_RANDOM = "random weights: "
_EDITED = "edited by hand: "


class Caveats:
    """Texts, each once, sorted; one cell of a table as text.

    A text that holds several, as a cell of a table does, is taken apart; empty ones say nothing. False when there is
    nothing to say.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = tuple(sorted({part for text in texts for part in text.split(_SEPARATOR) if part}))

    @classmethod
    def of_table(cls, frame: "pd.DataFrame") -> "Caveats":
        """Return what a table says of its own rows."""
        return cls(frame[CAVEAT_COLUMN].unique() if CAVEAT_COLUMN in frame.columns else ())

    @staticmethod
    def random_weights(what: str) -> str:
        """Return the text that says that ``what`` (e.g. ``LPIPS``) had random weights."""
        return _RANDOM + what

    @staticmethod
    def edited(file: str) -> str:
        """Return the text that says that a file was edited since a stage wrote it (``--accept-edited``)."""
        return _EDITED + file

    @property
    def has_sample(self) -> bool:
        """Whether one of them is that the data are the embedded sample."""
        return SAMPLE_CAVEAT in self._texts

    @property
    def has_random_weights(self) -> bool:
        """Whether one of them is that a network had random weights."""
        return any(text.startswith(_RANDOM) for text in self._texts)

    @property
    def forbid_conclusions(self) -> bool:
        """Whether the numbers say nothing about images and people, rather than something less exactly."""
        return self.has_sample or self.has_random_weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __or__(self, others: Iterable[str]) -> "Caveats":
        return Caveats((*self, *others))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caveats) and self._texts == other._texts

    def __hash__(self) -> int:
        return hash(self._texts)

    def __str__(self) -> str:
        return _SEPARATOR.join(self._texts)

    def __repr__(self) -> str:
        return f"Caveats({list(self._texts)})"
