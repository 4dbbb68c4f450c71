"""What a fault is, and what must come of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faults.study import Place

# What a stage that meets a fault may do. In every case: no traceback, nothing half-written, no temporary files; and when
# the fault is mended, every file ends byte for byte as in the undisturbed study.
OUTCOMES = {
    "refused": "exit code 2, one message that names what is wrong and what to do, outputs as they were",
    "repaired": "exit code 0 and byte for byte the undisturbed study",
    "left out": "exit code 0, the image named as left out; used again when it is mended",
    "as new": "exit code 0 and byte for byte what a new run makes of the data as they are now",
    "harmless": "exit code 0 and byte for byte the undisturbed study, the fault being none",
    "works": "exit code 0, of a study that begins with it",
    "sound": "refused or repaired, as above: either is right",
}


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: What is wrong, in words.
        area: Pictures, scores, tables, checkpoints, heads, matrices, shards, records, folders, environment, flags.
        stage: Number of the stage that meets it.
        outcome: One of `OUTCOMES`.
        says: Regular expression that the output must hold (any case).
        make: Makes it, in a copy of the finished study.
        point: Of the list of known faults, the number (see docs/reliability.md).
        flags: Given to the stage.
        environment: Set for the stage.
        before: Called in the stage's process before it starts.
        through: Stages run before it on the damaged copy (and in the new run it is compared with).
        after: The study is laid out as it was after this stage; the last one when left out.
        mended_by: Stages to run again in place of undoing it: what the message advises.
        quick: Whether ``make test`` tries it, too.
        needs: What the machine must offer: ``no root`` where permissions must hold.
    """

    name: str
    area: str
    stage: int
    outcome: str
    says: str = ""
    make: Callable[[Place], object] = lambda place: None
    point: str = ""
    flags: tuple[object, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] | None = None
    after: int | None = None
    through: tuple[int, ...] = ()
    mended_by: tuple[int, ...] = ()
    quick: bool = False
    needs: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.area}: {self.name} (stage {self.stage})"
