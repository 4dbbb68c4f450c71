"""A stage of the study as `run_pipeline.py` sees it, and the arguments its script is given."""

import argparse
import shlex
from dataclasses import dataclass

from utils.core.cli import shared_names
from utils.core.errors import UserError

GROUPS = ("data", "output", "models", "compute", "precision", "cluster", "batch", "weights", "scenes")


@dataclass(frozen=True)
class Stage:
    """One stage: its script, the flags that make it do all its work, and the shared flags it takes.

    Attributes:
        name: Script's file name without ``.py``.
        flags: Flags always given.
        groups: Groups of shared flags (see `utils.core.cli.build_parser`) that are handed on.
        own: Flags of this script that the pipeline offers under a name of its own: {pipeline's: script's}, others that go
            with it in front.
        models: Which of the ``--model-names`` that the user gave it gets: ``all``, ``first``, or none of them. With
            none given, the stages choose by themselves.
        needs_scores: Whether it is about memorability scores alone, and left out where pictures have none.
    """

    name: str
    flags: tuple[str, ...]
    groups: tuple[str, ...]
    own: dict[str, str]
    models: str = ""
    needs_scores: bool = False


def parse_extras(texts: list[str], names: list[str]) -> dict[str, list[str]]:
    """Split ``STAGE=FLAGS`` texts into the further arguments of each stage.

    Raises:
        UserError: A text names no stage, or its quotes do not close.
    """
    extras: dict[str, list[str]] = {}
    for text in texts:
        name, separator, flags = text.partition("=")
        if not separator or name not in names:
            known = ", ".join(names)
            raise UserError(f"Expected --extra STAGE=FLAGS with a stage among {known}; found '{text}'.")
        try:
            extras.setdefault(name, []).extend(shlex.split(flags))
        except ValueError as error:
            raise UserError(f"Cannot read the flags in --extra '{text}': {error}.") from None
    return extras


def stage_arguments(stage: Stage, args: argparse.Namespace) -> list[str]:
    """Return the arguments a stage's script is given: its own flags, and shared ones unlike their default."""
    defaults, takes = shared_names(*GROUPS), shared_names(*stage.groups)
    values = {
        name: getattr(args, name)
        for name in defaults
        if name in takes and getattr(args, name) != defaults[name]
    }
    arguments = [*stage.flags, *_model_arguments(stage, args.model_names)]
    for name, flag in stage.own.items():
        if getattr(args, name) not in (None, defaults.get(name)):
            values.pop(flag.split()[-1].strip("-").replace("-", "_"), None)
            arguments += _as_flag(flag, getattr(args, name))
    for name, value in values.items():
        arguments += _as_flag(f"--{name.replace('_', '-')}", value)
    return arguments


def _as_flag(flag: str, value: object) -> list[str]:
    if value is True:
        return [flag]
    return [*flag.split(), *map(str, value if isinstance(value, list) else [value])]


def _model_arguments(stage: Stage, names: list[str] | None) -> list[str]:
    if not names or not stage.models:
        return []
    return ["--model-names", *(names[:1] if stage.models == "first" else names)]
