"""Which precision a stage's networks compute in: what ``--precision`` asks for, and what has been measured of it.

What bf16 does to each output on real photographs is in the table of docs/method.md, which `benchmarks/bench_precision.py`
measures. A result whose ranks it moves by more than `LEAST_RANK_CORRELATION` allows is refused in bf16, and one that has
not been measured is never computed so without being asked for.
"""

from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from utils.core.device import resolve_precision
from utils.core.errors import UserError
from utils.core.log import log

if TYPE_CHECKING:
    from utils.core.run import Run

LEAST_RANK_CORRELATION = 0.99
"""Spearman's rho of bf16's values with float32's, over photographs, below which an output is not computed in bf16."""

RANKS_MOVE: dict[str, float] = {"attribution": 0.977}
"""Outputs below it, with their rho: the lowest over trained networks in benchmarks/results/precision.csv."""

BF16_CAVEAT = "networks computed in bf16"
TRAINED_CAVEAT = "network trained in bf16"
UNMEASURED = "what bf16 does to it has not been measured with trained weights"


def settle_precision(args: Namespace, run: "Run", outputs: Iterable[str] = (), unmeasured: str = "") -> None:
    """Turn ``--precision`` into ``float32`` or ``bf16``, in place, say so, and mark what follows if it is bf16.

    Args:
        args: With ``precision``.
        run: The run.
        outputs: What is computed, by the names in docs/method.md's table.
        unmeasured: What is computed of which nothing is known in bf16; empty where there is nothing of the kind.

    Raises:
        UserError: bf16 was asked for by name and moves the ranks of one of the outputs.
    """
    asked = args.precision
    moved = {name: RANKS_MOVE[name] for name in outputs if name in RANKS_MOVE}
    listed = ", ".join(f"{name} (rank correlation with float32's {rho:.3f})" for name, rho in moved.items())
    if asked == "bf16" and moved:
        raise UserError(
            f"--precision bf16 moves the ranks of {listed}, which is under {LEAST_RANK_CORRELATION} (docs/method.md, "
            "Precision). Use --precision float32, or leave it out."
        )
    args.precision = resolve_precision(asked, run.device)
    if asked == "auto":
        why = f"bf16 moves the ranks of {listed}" if moved else f"{unmeasured}: {UNMEASURED}"
        if args.precision == "bf16" and (moved or unmeasured):
            args.precision = "float32"
            log.info("--precision auto: float32, since %s.", why)
        else:
            _say_what_auto_took(args.precision, run)
    if args.precision == "bf16":
        run.note_caveats([BF16_CAVEAT])


def _say_what_auto_took(precision: str, run: "Run") -> None:
    has = "bf16, for which %s has units" if precision == "bf16" else "float32, since %s has no units for bf16"
    log.info(f"--precision auto: {has}.", run.device)


def settle_training_precision(args: Namespace, run: "Run") -> str:
    """Return ``float32`` or ``bf16`` for a training, say which ``auto`` took, and mark what comes of bf16.

    The caveat goes into the checkpoint, and from there to all that is measured with it.
    """
    precision = resolve_precision(args.precision, run.device)
    if args.precision == "auto":
        _say_what_auto_took(precision, run)
    if precision == "bf16":
        run.note_caveats([TRAINED_CAVEAT])
    return precision


def refuse_reduced_precision(args: Namespace, what: str, why: str) -> None:
    """Keep to float32 where bf16 would spoil the result.

    Args:
        args: With ``precision``; ``auto`` becomes ``float32``.
        what: The computation, to begin a sentence with.
        why: The reason, as a clause.

    Raises:
        UserError: bf16 was asked for by name.
    """
    if args.precision == "bf16":
        raise UserError(f"{what} are computed in float32 alone: {why}. Leave out --precision bf16.")
    if args.precision == "auto":
        log.info("--precision auto: float32, since %s.", why)
    args.precision = "float32"
