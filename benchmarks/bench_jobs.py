"""What `make bench` times: for each job its sizes, its sides (`bench_works.py`) and what was aimed at."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.bench_works import (
    DRAWN,
    NETWORKS,
    Work,
    attributions,
    correlations,
    decoding,
    features,
    head,
    losses,
    neighbours,
    network,
    resamples,
    scenes,
    several_networks,
    training,
    unchanged,
)


@dataclass(frozen=True)
class Job:
    """One line of the table.

    Attributes:
        label: What is done, per unit.
        unit: What the sizes count; ``run`` where the whole is quoted, whatever the size.
        sizes: Three of them; the largest is quoted.
        sides: ``plain``, ``float32`` (ours as published) and, where a flag makes it faster, ``fast``.
        fast: That flag, in words.
        aim: The time of ``fast`` over ``float32`` (``float32`` over ``plain`` without one) that was aimed at.
        aimed: What was measured before, and aimed at, on a processor with AMX, in words.
        rounds: How often, where that is less than what is asked for: each takes long.
        brief: Its name in the README's table; empty where it is not in it.
    """

    label: str
    unit: str
    sizes: tuple[int, int, int]
    sides: dict[str, Callable[[int], Work]]
    fast: str = ""
    aim: float | None = None
    aimed: str = ""
    rounds: int | None = None
    brief: str = ""


def _precisions(job, **fixed) -> dict[str, Callable[[int], Work]]:
    names = {"plain": None, "float32": "float32", "fast": "bf16"}
    return {side: partial(job, precision=precision, **fixed) for side, precision in names.items()}


def _both(job, **fixed) -> dict[str, Callable[[int], Work]]:
    return {"plain": partial(job, ours=False, **fixed), "float32": partial(job, ours=True, **fixed)}


BF16 = "--precision bf16"
ROWS = (10_000, 30_000, 100_000)
JOBS = {
    "forward": Job(
        "autoencoder forward, batch 8",
        "picture",
        (4, 8, 16),
        _precisions(network, part="whole"),
        BF16,
        0.23,
        "0.38 s, 0.085 to 0.090 s",
        brief="autoencoder, per picture",
    ),
    "latents": Job(
        "codes, scores: encoder, batch 8",
        "picture",
        (4, 8, 16),
        _precisions(network, part="encoder"),
        BF16,
        0.23,
        "0.18 s, 0.042 s (scoring)",
        brief="scoring, codes, per picture",
    ),
    "training": Job(
        "training step, batch 1, mse",
        "step",
        (1, 2, 3),
        _precisions(training),
        BF16,
        0.40,
        "1.78 s, 0.71 s",
        rounds=2,
        brief="training step, batch 1",
    ),
    "training8": Job(
        "training step, batch 8, mse",
        "picture",
        (4, 8, 16),
        {
            "float32": partial(training, precision="float32", batch=8),
            "fast": partial(training, precision="bf16", batch=8),
        },
        BF16,
        0.28,
        "1.63 s, 0.45 s",
        rounds=1,
    ),
    "losses": Job(
        "eight losses, network included",
        "picture",
        (2, 4, 8),
        _precisions(losses),
        BF16,
        0.28,
        "1.27 s, 0.36 s",
        rounds=1,
        brief="eight losses with the network, per picture",
    ),
    "networks": Job(
        f"eight losses of {NETWORKS} networks (plain: one after the other)",
        "picture",
        (2, 4, 8),
        _precisions(several_networks),
        BF16,
        rounds=1,
    ),
    "attributions": Job(
        "Integrated Gradients of one picture",
        "step",
        (4, 8, 16),
        _both(attributions),
        rounds=1,
        brief="Integrated Gradients, per step",
    ),
    "scenes": Job("objects and segments, light networks", "picture", (2, 4, 8), _both(scenes)),
    "decoding": Job(
        "12-megapixel JPEG, decode and resize",
        "picture",
        (1, 2, 4),
        {
            "plain": partial(decoding, draft=None),
            "float32": partial(decoding, draft=False),
            "fast": partial(decoding, draft=True),
        },
        "drafted (scoring)",
        0.26,
        "70 ms, 18 ms",
        brief="12-megapixel JPEG, read and resized",
    ),
    "features": Job(
        "colour, texture, structure",
        "picture",
        (4, 8, 16),
        _both(features),
        aimed="19.6 ms (12.4 of it colour)",
        brief="colour, texture and structure, per picture",
    ),
    "neighbours": Job(
        "exact nearest neighbour, 512 values",
        "row",
        (1000, 2000, 4000),
        _both(neighbours),
        aim=1.0,
        aimed="4 times faiss at 1,000 rows, 1.0 times",
        brief="exact nearest neighbour among 4,000, per row",
    ),
    "long_neighbours": Job(
        "exact nearest neighbour, 25,088 values",
        "row",
        (250, 500, 1000),
        _both(neighbours, width=25_088),
        aim=1.0,
        aimed="1.7 times faiss at 1,000 rows, 1.0 times",
    ),
    "head": Job("MLP head, two epochs, 25,088 values", "row", (500, 1000, 2000), _both(head)),
    "resamples": Job(f"{DRAWN} resamples of 8 rho", "row", ROWS, _both(resamples, within=False)),
    "within": Job(
        f"{DRAWN} resamples of 8 rho within categories",
        "row",
        ROWS,
        {"float32": partial(resamples, ours=True, within=True)},
        aimed="2.5 to 31.7 s from 10,000 to 100,000 rows, linear",
    ),
    "table": Job(
        f"whole table of 8 rho, clustered, {DRAWN} resamples",
        "row",
        ROWS,
        {"float32": correlations},
        aimed="rows times subcategories, linear",
    ),
    "unchanged": Job(
        "autoencoder_test.py, nothing changed, 1,000 tiny pictures",
        "run",
        (100, 300, 1000),
        {"float32": unchanged},
        aimed="9.1 s, under 1 s",
        brief="a finished stage again, nothing changed",
    ),
}
