"""Every kind of fault, made in a copy of a finished study: the quick ones here, all in ``make soak``."""

from collections import Counter

import pytest
from faults import study as study_module
from faults.catalogue import FAULTS, is_quick, possible_here
from faults.fault import OUTCOMES, Fault
from faults.results import on
from faults.study import QUICK_STAGES, Study, rewrite
from faults.trial import try_fault

AREAS = ("pictures", "scores", "tables", "checkpoints", "heads", "matrices", "shards", "records", "folders")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("faults"), QUICK_STAGES)


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("all_faults"))


def _named(faults: list[Fault]) -> list[object]:
    return [pytest.param(fault, id=str(fault)) for fault in faults if possible_here(fault)]


@pytest.mark.parametrize("fault", _named([fault for fault in FAULTS if is_quick(fault)]))
def test_a_fault_is_met(fault: Fault, study: Study) -> None:
    assert try_fault(fault, study) == []


@pytest.mark.long
@pytest.mark.parametrize("fault", _named([fault for fault in FAULTS if not is_quick(fault)]))
def test_any_fault_is_met(fault: Fault, whole_study: Study) -> None:
    assert try_fault(fault, whole_study) == []


def test_there_are_kinds_of_every_area_and_each_is_one() -> None:
    names = Counter(map(str, FAULTS))
    assert [name for name, count in names.items() if count > 1] == []
    assert {fault.area for fault in FAULTS} == {*AREAS, "environment", "flags"}
    assert {fault.outcome for fault in FAULTS} == OUTCOMES.keys()
    assert len({(fault.area, fault.name) for fault in FAULTS}) >= 150
    assert {fault.area for fault in FAULTS if is_quick(fault)} >= {*AREAS, "environment", "flags"}


def test_what_is_believed_or_lost_is_seen(study: Study) -> None:
    """The trial itself: an outcome that is not the expected one, a file that is changed, lost or left, is told."""
    table = "test_loss_{model}.csv"
    ignored = Fault(
        "is changed and nobody looks", "tables", 6, "harmless", "", on(table, lambda path: rewrite(path, "x"))
    )
    assert any("test_loss" in text and "differs" in text for text in try_fault(ignored, study))
    lost = Fault(
        "is gone and nobody looks", "tables", 6, "harmless", "", on(table, lambda path: path.unlink())
    )
    assert any("test_loss" in text and "is missing" in text for text in try_fault(lost, study))
    fine = Fault("is none at all", "flags", 2, "refused", "nothing to say", flags=("--workers", 0))
    problems = try_fault(fine, study)
    assert "exit code 0 in place of 2" in problems
    assert any("does not say" in text for text in problems)
    left = Fault(
        "leaves a file", "folders", 2, "harmless", "", lambda place: rewrite(place.output / "a.partial", "x")
    )
    assert "left behind: output/a.partial" in try_fault(left, study)


def test_a_traceback_is_seen(study: Study) -> None:
    def broken() -> None:
        from utils.core.shard_files import Shard

        Shard.write = None  # type: ignore[method-assign, assignment]

    fault = Fault("is a bug", "environment", 2, "repaired", before=broken, flags=("--overwrite",))
    problems = try_fault(fault, study)
    assert any(text.startswith("traceback: TypeError") for text in problems)
    assert "exit code 1 in place of 0" in problems


def test_the_stages_of_the_small_study_are_all_there_are() -> None:
    scripts = {script for script, _ in study_module.STAGES.values()}
    root = study_module.Path(__file__).resolve().parents[2]
    assert scripts == {path.stem for path in root.glob("*.py")} - {"run_pipeline"}
