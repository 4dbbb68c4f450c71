"""Which precision a stage's networks compute in, and what may not be computed in bf16."""

import logging
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import PROJECT_ROOT

from utils.core import precision
from utils.core.device import computing_in
from utils.core.errors import UserError
from utils.core.precision import (
    BF16_CAVEAT,
    LEAST_RANK_CORRELATION,
    RANKS_MOVE,
    refuse_reduced_precision,
    settle_precision,
    settle_training_precision,
)
from utils.core.run import Run

MEASURED = PROJECT_ROOT / "benchmarks" / "results" / "precision.csv"


@pytest.fixture
def settle(tmp_path: Path, monkeypatch):
    """Settle a precision on a machine with units for bf16 or without; return it with the run's caveat."""

    def settled(asked: str, outputs=(), unmeasured: str = "", units: bool = True) -> tuple[str, str]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units})
        monkeypatch.setattr(precision, "RANKS_MOVE", {"wobbly": 0.95})
        args = Namespace(precision=asked, output_path=tmp_path, device="cpu", seed=0)
        with Run("trial", args) as run:
            settle_precision(args, run, outputs, unmeasured)
            return args.precision, run.caveat

    return settled


def test_bf16_is_marked_and_float32_is_not(settle) -> None:
    assert settle("float32") == ("float32", "")
    assert settle("bf16", ["steady"]) == ("bf16", BF16_CAVEAT)
    assert settle("bf16", units=False) == ("bf16", BF16_CAVEAT)


def test_auto_takes_bf16_where_there_are_units_and_says_so(settle, caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert settle("auto", ["steady"]) == ("bf16", BF16_CAVEAT)
        assert "bf16, for which cpu has units" in caplog.text
        assert settle("auto", ["steady"], units=False) == ("float32", "")
        assert "cpu has no units for bf16" in caplog.text


def test_what_moves_ranks_is_refused_by_name_and_avoided_by_auto(settle, caplog) -> None:
    with pytest.raises(
        UserError, match=r"moves the ranks of wobbly \(rank correlation with float32's 0.950\)"
    ):
        settle("bf16", ["steady", "wobbly"])
    with caplog.at_level(logging.INFO):
        assert settle("auto", ["steady", "wobbly"]) == ("float32", "")
    assert "float32, since bf16 moves the ranks of wobbly" in caplog.text


def test_what_has_not_been_measured_is_in_bf16_only_where_asked_by_name(settle, caplog) -> None:
    assert settle("bf16", unmeasured="segments") == ("bf16", BF16_CAVEAT)
    with caplog.at_level(logging.INFO):
        assert settle("auto", unmeasured="segments") == ("float32", "")
    assert "segments: what bf16 does to it has not been measured" in caplog.text


def test_some_results_are_float32_alone() -> None:
    for asked in ("float32", "auto"):
        args = Namespace(precision=asked)
        refuse_reduced_precision(args, "Maps", "reason")
        assert args.precision == "float32"
    with pytest.raises(UserError, match="Maps are computed in float32 alone: reason"):
        refuse_reduced_precision(Namespace(precision="bf16"), "Maps", "reason")


def test_what_is_refused_is_what_was_measured_to_move() -> None:
    """The limit, the list in the code and the measurement say the same."""
    measured = pd.read_csv(MEASURED)
    trained = measured[~measured["network"].str.contains("untrained") & measured["rank_correlation"].notna()]
    as_computed = trained.groupby(
        ["network", "image_size", "output"], as_index=False
    ).last()  # trunks in bf16 too
    lowest = as_computed.groupby("output")["rank_correlation"].min()
    moved = lowest[lowest < LEAST_RANK_CORRELATION]
    assert pytest.approx(moved.to_dict(), abs=5e-4) == RANKS_MOVE


def test_in_bf16_the_network_computes_so_and_else_not() -> None:
    layer, values = torch.nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            with computing_in(name, "cpu"):
                assert layer(values).dtype == dtype


@pytest.mark.parametrize(
    ("asked", "units", "expected"),
    [("auto", True, "bf16"), ("auto", False, "float32"), ("bf16", False, "bf16")],
)
def test_training_in_bf16_is_marked_and_auto_says_what_it_took(
    asked, units, expected, monkeypatch, tmp_path, caplog
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units}, raising=False)
    args = Namespace(precision=asked, output_path=tmp_path, device="cpu", seed=0)
    with caplog.at_level(logging.INFO), Run("trial", args) as run:
        assert settle_training_precision(args, run) == expected
    assert run.caveats == (["network trained in bf16"] if expected == "bf16" else [])
    said = [record.getMessage() for record in caplog.records if "--precision auto" in record.getMessage()]
    assert len(said) == (asked == "auto")
    assert not said or ("float32" in said[0]) == (not units)
