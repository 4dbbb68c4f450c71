"""All faults."""

import os

from faults import pictures, results, scores, surroundings, weights
from faults.fault import Fault
from faults.study import QUICK_STAGES

FAULTS: list[Fault] = [
    *pictures.FAULTS,
    *scores.FAULTS,
    *results.FAULTS,
    *weights.FAULTS,
    *surroundings.FAULTS,
]


def possible_here(fault: Fault) -> bool:
    """Say whether this machine can offer what the fault needs."""
    return not (fault.needs == "no root" and os.geteuid() == 0)


def is_quick(fault: Fault) -> bool:
    """Say whether ``make test`` tries it: it is marked so, and needs only the stages of the quick study."""
    return fault.quick and {fault.stage, *fault.mended_by, *fault.through} <= set(QUICK_STAGES)
