"""Try a fault: make it, run the stage that meets it, look at what came of it, mend it, and see all be as before."""

import re
import shutil

from faults.fault import Fault
from faults.forked import Ended
from faults.study import START, Place, Study, content_of, differences


def try_fault(fault: Fault, study: Study) -> list[str]:
    """Try one fault on a copy of the study.

    Returns:
        What is wrong with how it was met, each in words; empty where all is well.
    """
    place = study.copy(fault.after)
    fault.make(place)
    damaged = place.content()
    problems = [f"stage {n} before it ends with {d.code}" for n in fault.through if (d := place.run(n)).code]
    done = _run(fault, place)
    problems += _told(fault, done, refused=done.code == 2)
    problems += [f"left behind: {name}" for name in place.leftovers()]
    now = place.content()
    if fault.outcome == "refused" or (fault.outcome == "sound" and done.code == 2):
        changed = _without_records(differences(now, damaged))
        problems += [f"touched by a run that was refused: {text}" for text in changed]
        problems += _mend(fault, study, place)
    elif fault.outcome == "as new":
        problems += _compare_with_new(fault, study, place)
        problems += _mend(fault, study, place)
    elif fault.outcome in {"left out", "sound"}:
        problems += _mend(fault, study, place)
    elif fault.outcome != "works":
        problems += differences(now, _expected(fault, study))
    return problems


def _run(fault: Fault, place: Place) -> Ended:
    return place.run(
        fault.stage, *fault.flags, environment=fault.environment, before=fault.before, **fault.options
    )


def _told(fault: Fault, done: Ended, refused: bool) -> list[str]:
    """Look at exit code and output of the run that met the fault."""
    problems = []
    if "Traceback (most recent call last)" in done.output:
        problems.append("traceback: " + done.output.strip().splitlines()[-1][:300])
    codes = {"refused": {2}, "sound": {0, 2}}.get(fault.outcome, {0})
    if done.code not in codes:
        problems.append(f"exit code {done.code} in place of {' or '.join(map(str, sorted(codes)))}")
    if not re.search(fault.says, done.output, flags=re.IGNORECASE | re.DOTALL):
        problems.append(f"does not say /{fault.says}/ but: {done.output.strip()[-400:]!r}")
    if refused and len(done.output.strip()) < 20:
        problems.append("refused without a message")
    return problems


def _mend(fault: Fault, study: Study, place: Place) -> list[str]:
    """Undo the fault, or follow the advice; then all must be as in the undisturbed study."""
    if not fault.mended_by:
        study.undo()
    for number in [*fault.mended_by, *fault.through, fault.stage]:
        done = place.run(number)
        if done.code:
            return [f"after mending, stage {number} ends with {done.code}: {done.output.strip()[-400:]!r}"]
        if "Traceback (most recent call last)" in done.output:
            return ["a traceback after mending"]
    problems = differences(place.content(), _expected(fault, study))
    problems += [f"left behind after mending: {name}" for name in place.leftovers()]
    return [f"after mending: {text}" for text in problems]


def _expected(fault: Fault, study: Study) -> dict[str, str]:
    return study.finished if fault.after is None else study.content_after(max(fault.after, fault.stage))


def _compare_with_new(fault: Fault, study: Study, place: Place) -> list[str]:
    """Compare what the stage made of changed data with what it makes of them where nothing was before."""
    found = place.content()
    kept = place.folder / "found"
    shutil.move(place.output, kept)
    study.lay_out_output(START)
    problems = []
    for number in (*fault.through, fault.stage):
        done = place.run(number)
        if done.code:
            problems.append(
                f"a new run of stage {number} ends with {done.code}: {done.output.strip()[-300:]!r}"
            )
    new = content_of(place.output)
    problems += [
        f"unlike a new run: {text}"
        for text in differences({name: found.get(name, "") for name in new}, new)
        if not text.startswith("pipeline.json")
    ]
    shutil.rmtree(place.output)
    shutil.move(kept, place.output)
    return problems


def _without_records(changes: list[str]) -> list[str]:
    """Records, links to them and lists of what was left out may change in a run that failed: they tell of it."""
    return [text for text in changes if not re.match(r"(run_|pipeline\.json|skipped_images)", text)]
