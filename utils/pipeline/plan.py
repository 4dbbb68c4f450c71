"""What a run of the pipeline would do: each stage's arguments read by its own parser, and why it runs or not."""

import argparse
import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from utils.core.cli import parse_or_refuse
from utils.core.standing import code_fingerprint
from utils.pipeline.records import why_run
from utils.pipeline.stages import Stage


@dataclass(frozen=True)
class Step:
    """A stage that was chosen.

    Attributes:
        name: Its script without ``.py``.
        place: As it is counted, e.g. ``Stage 2/8 autoencoder_test``.
        script: The script's file.
        arguments: What it is given.
        args: The same, as its own parser reads them.
        code: `code_fingerprint` now.
        reason: Why it has to run; empty where its last complete run still stands.
        needs_scores: Whether it is about scores alone.
    """

    name: str
    place: str
    script: Path
    arguments: list[str]
    args: argparse.Namespace
    code: str
    reason: str
    needs_scores: bool

    @property
    def command(self) -> str:
        """The command, ready for a shell."""
        return shlex.join(["python", str(self.script), *self.arguments])


def make_step(
    stage: Stage, stages: Sequence[Stage], arguments: list[str], root: Path, output_path: Path
) -> Step:
    """Read a stage's arguments with its own parser, and see whether it has to run.

    Raises:
        UserError: The stage's parser refuses them.
    """
    script = Path(os.path.relpath(root / f"{stage.name}.py"))
    args = parse_or_refuse(_load(script).get_parser(), arguments, script.name)
    code = code_fingerprint(root, stage.name)
    reason = why_run(output_path, stage.name, arguments, code)
    if not reason and "--overwrite" in arguments:
        reason = "--overwrite"
    place = f"Stage {stages.index(stage) + 1}/{len(stages)} {stage.name}"
    return Step(stage.name, place, script, arguments, args, code, reason, stage.needs_scores)


def _load(script: Path) -> ModuleType:
    """Import a stage's script for its parser; importing one does no work."""
    spec = importlib.util.spec_from_file_location(f"stage_{script.stem}", script)
    if spec is None or spec.loader is None:
        raise ImportError(f"{script} is no Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
