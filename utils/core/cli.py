"""What every script's command line shares: one parser, one way to fail, one way to talk.

Imports nothing heavier than the standard library, so that ``--help`` answers at once; the scripts import
torch, numpy and their kin inside ``main``.
"""

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from utils.core.errors import UserError
from utils.core.examples import EXAMPLES
from utils.core.failures import check_address_space, explain
from utils.core.log import log, setup_logging
from utils.core.names import (
    CLUSTERS,
    DEFAULT_DATA_DIR,
    DEFAULT_IMAGE_SIZE,
    DEFAULT_SCORE_COLUMN,
    DETECTORS,
    MAX_IMAGE_SIZE,
    SEGMENTERS,
    SPLIT_BY,
)
from utils.core.processes import let_threads_sleep
from utils.core.signals import Ended, ended_by_signals, follow_pipeline
from utils.core.standing import still_stands
from utils.core.streams import lasting_console

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default, once, and leaves out those that say nothing (None, False)."""

    def _get_help_string(self, action: argparse.Action) -> str:
        # By identity: 0 and 1 are equal to False and True, and are defaults worth showing.
        if any(action.default is value for value in (None, False, True, argparse.SUPPRESS)):
            return action.help or ""
        return super()._get_help_string(action) or ""


class _Parser(argparse.ArgumentParser):
    """Ends ``--help`` with worked examples, and a mistake with one line that says what was probably meant.

    Attributes:
        examples: (command, what it is for) pairs.
    """

    examples: Sequence[tuple[str, str]] = ()
    refuses = False  # whether a mistake is a UserError and does not end the process

    def format_help(self) -> str:
        shown = [f"  {command}\n      {purpose}" for command, purpose in self.examples]
        return "\n".join([super().format_help(), "examples:", *shown, ""]) if shown else super().format_help()

    def error(self, message: str) -> NoReturn:
        meant = self._meant(message)
        hint = f" Did you mean {meant}?" if meant else ""
        if self.refuses:
            raise UserError(f"{message.rstrip('.')}.{hint}")
        self.exit(
            EXIT_USER_ERROR,
            f"ERROR: {message.rstrip('.')}.{hint} All flags: python {self.prog} --help\n",
        )

    def _meant(self, message: str) -> str:
        """Return the flag or value most like the one that a message refuses; empty where none is."""
        flag, _, value = message.partition(": invalid choice: ")
        if value:
            action = next((a for a in self._actions if "/".join(a.option_strings) in flag.split()), None)
            written = re.match(r"'([^']*)'", value)
            return _nearest(written[1] if written else "", map(str, (action and action.choices) or ()))
        if not message.startswith("unrecognized arguments: "):
            return ""
        unknown = next((word for word in message.split() if word.startswith("-")), "").partition("=")[0]
        return _nearest(unknown, self._option_string_actions)


def parse_or_refuse(parser: argparse.ArgumentParser, arguments: list[str], script: str) -> argparse.Namespace:
    """Parse the arguments that one script is to give another.

    Raises:
        UserError: The parser refuses them; names the other script.
    """
    if isinstance(parser, _Parser):
        parser.refuses = True
    try:
        return parser.parse_args(arguments)
    except UserError as error:
        raise UserError(f"{script} does not understand what it would be given: {error}") from None


def _nearest(written: str, known: Iterable[str]) -> str:
    """Return the known word that a written one begins, or else most resembles; empty where none comes near."""
    known = sorted(known)
    flat = written.lower().replace("_", "-")
    begun = [name for name in known if len(flat) > 3 and name.lower().startswith(flat)]
    return next(iter(begun or difflib.get_close_matches(flat, known, 1)), "")


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1 (for argparse's ``type``)."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {value}")
    return value


def non_negative_int(text: str) -> int:
    """Parse a whole number of at least 0 (for argparse's ``type``)."""
    return 0 if text.strip() in {"0", "+0", "-0"} else positive_int(text)


def seed(text: str) -> int:
    """Parse a seed that every library takes, a whole number from 0 to 2^32 - 1 (for argparse's ``type``)."""
    value = non_negative_int(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number below 2^32 = 4294967296, got {value}")
    return value


def image_side(text: str) -> int:
    """Parse the side of the square that the networks see (for argparse's ``type``)."""
    value = positive_int(text)
    if value > MAX_IMAGE_SIZE:
        raise argparse.ArgumentTypeError(
            f"expected at most {MAX_IMAGE_SIZE} px, got {value}: one image would fill the memory"
        )
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0 (for argparse's ``type``)."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


def share_below_one(text: str) -> float:
    """Parse a share of at least 0 and below 1 (for argparse's ``type``)."""
    value = 0.0 if text.strip() in {"0", "0.0"} else positive_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a share below 1, got {text}")
    return value


def _sample_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--allow-outside",
        action="store_true",
        help="read pictures whose paths in the table lead out of --data-dir (../elsewhere/a.jpg)",
    )
    group.add_argument(
        "--sample",
        action="store_true",
        help="use the embedded sample (planted scores) in place of --data-dir",
    )


def _data_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="folder with the images and the score table"
    )
    group.add_argument(
        "--scores-csv",
        type=Path,
        help="score table: MemCat's CSV, a CSV (comma, semicolon or tab) or .xlsx with path and score, or a LaMem split "
        "file (default: found in --data-dir)",
    )
    group.add_argument(
        "--score-column",
        default=DEFAULT_SCORE_COLUMN,
        help="column of the table that holds the memorability score",
    )
    group.add_argument(
        "--score-scale",
        choices=("unit", "percent"),
        default="unit",
        help="percent: scores run from 0 to 100 and are divided by 100; unit: they are taken as they are",
    )
    group.add_argument(
        "--group-column",
        metavar="COLUMN",
        help="column of the table that says which images belong together, e.g. crops of one photograph "
        "(default: group, where there is one)",
    )
    group.add_argument(
        "--split-by",
        choices=SPLIT_BY,
        help="what is never divided between training, validation and test (default: group, where there are any)",
    )
    _sample_flag(group)
    group.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="use only N images, evenly spaced over the sorted list",
    )
    group.add_argument(
        "--on-error",
        choices=("skip", "fail"),
        default="skip",
        help="what to do with images that are missing or unreadable",
    )


def _output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output-path", type=Path, default=Path("output"), help="folder for all results")
    group.add_argument("--overwrite", action="store_true", help="do finished work again")
    group.add_argument(
        "--accept-edited",
        action="store_true",
        help="take files of earlier stages that were edited since as they stand, and mark what is made from them",
    )


def _models_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model-names",
        nargs="+",
        metavar="NAME",
        help="checkpoints in the output folder, e.g. mem_vgg_autoencoder.pth",
    )


def _image_size_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image-size",
        type=image_side,
        default=DEFAULT_IMAGE_SIZE,
        metavar="PX",
        help="side of the square the networks see",
    )


def _compute_flags(group: argparse._ArgumentGroup) -> None:
    _image_size_flag(group)
    _processing_flags(group)


def _processing_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers", type=non_negative_int, default=2, help="workers that read images (0: in the main thread)"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--seed", type=seed, default=0, help="seed of everything drawn at random")


def _precision_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--precision",
        choices=("float32", "bf16", "auto"),
        default="float32",
        help="of the networks: auto takes bf16 where the device has units for it and no ranks move (docs/method.md)",
    )


def _cluster_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cluster",
        choices=CLUSTERS,
        help="what is resampled as a whole for intervals and p-values, since its images are alike "
        "(default: subcategory where one has more than one image, else single images)",
    )


def _batch_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch-size", type=positive_int, default=8, help="images per pass; does not change the results"
    )


def _weights_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights",
        choices=("pretrained", "available", "random"),
        default="pretrained",
        help="weights of the helper networks (LPIPS, style, detectors): pretrained downloads what is not cached, available "
        "leaves out what would need a download, random is for trials and marks every output",
    )


def _long_name(short_names: dict[str, str], text: str) -> str:
    return short_names.get(text, text)


def _scene_flags(group: argparse._ArgumentGroup) -> None:
    for flag, short_names in (("--detector", DETECTORS), ("--segmenter", SEGMENTERS)):
        group.add_argument(
            flag,
            type=partial(_long_name, short_names),
            default="heavy",
            metavar="NAME",
            help=", ".join(f"{short} ({name})" for short, name in short_names.items())
            + ", or another name in models/pretrained.py",
        )
    group.add_argument(
        "--min-score", type=positive_float, default=0.5, help="detected objects below this score do not count"
    )


_GROUPS: dict[str, tuple[str, Callable[[argparse._ArgumentGroup], None]]] = {
    "data": ("data", _data_flags),
    "output": ("output", _output_flags),
    "models": ("models", _models_flags),
    "compute": ("computation", _compute_flags),
    "processing": ("computation", _processing_flags),  # for stages that do not use the study's square crop
    "precision": ("computation: precision", _precision_flags),
    "cluster": ("dependence of images", _cluster_flags),
    "batch": ("computation: batches", _batch_flags),
    "weights": ("helper networks", _weights_flags),
    "scenes": ("objects and segments", _scene_flags),
}


# Flags of a whole study: what is typed behind one stage can be typed behind each.
_EVERYWHERE = {"--sample": _sample_flag, "--image-size": _image_size_flag, "--weights": _weights_flags}


def shared_names(*groups: str) -> dict[str, object]:
    """Return the shared flags of the named groups that have a meaning there, as {name: default}."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in groups:
        _GROUPS[name][1](parser.add_argument_group(name))
    return vars(parser.parse_args([]))


def build_parser(description: str, *groups: str) -> argparse.ArgumentParser:
    """Make a script's parser with the shared flags of the named groups.

    Args:
        description: What the script reads, does and writes; shown by ``--help`` as it stands.
        groups: Any of ``data, output, models, compute, processing, precision, cluster, batch, weights, scenes``;
            ``processing`` is ``compute`` without ``--image-size``.

    Returns:
        A parser to which the script adds its own flags. ``--sample``, ``--image-size`` and ``--weights`` are accepted
        whatever the groups. Abbreviated flags are refused, so that a new flag
        never changes the meaning of somebody's command.
    """
    parser = _Parser(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    for name in groups:
        title, add_flags = _GROUPS[name]
        add_flags(parser.add_argument_group(title))
    absent = [add for flag, add in _EVERYWHERE.items() if flag not in parser._option_string_actions]
    if absent:
        title = "accepted, so that one set of flags can be given to every stage; of no effect in this one"
        group = parser.add_argument_group(title)
        for add in absent:
            add(group)
    return parser


_command: list[str] = []  # of this process, as typed: script, then arguments


def typed_command() -> list[str]:
    """Return this process's command as typed: script, then arguments."""
    return list(_command) or [Path(sys.argv[0]).name, *sys.argv[1:]]


def command_with(flag: str, value: str) -> str:
    """Return this process's command, ready for a shell, with a flag set to another value.

    Args:
        flag: A flag that takes one value, e.g. ``--weights``.
        value: Its new value; what was given before is dropped.
    """
    script, *arguments = _command or ["<script>.py"]
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != flag and not argument.startswith(f"{flag}="):
            kept.append(argument)
        skip = argument == flag
    return shlex.join(["python", script, *kept, flag, value])


@lasting_console()
def run_script(
    main: Callable[[argparse.Namespace], object],
    get_parser: Callable[[], argparse.ArgumentParser],
    arguments: Sequence[str] | None = None,
    *,
    stage: bool = False,
) -> None:
    """Parse, run ``main`` and turn what a user can mend into one message and exit code 2.

    Args:
        main: The script's work; takes the parsed arguments.
        get_parser: Makes the script's parser.
        arguments: The command line without the program's name; the process's own when left out.
        stage: Whether it is a stage that has nothing to do while its last complete run stands (:mod:`utils.core.standing`).

    Raises:
        SystemExit: With code 2 after what a user can mend (:mod:`utils.core.failures`), 130 after Ctrl-C, 143 after
            SIGTERM.
    """
    follow_pipeline()
    let_threads_sleep()
    parser = get_parser()
    parser.prog = Path(main.__code__.co_filename).name
    if isinstance(parser, _Parser):
        parser.examples = EXAMPLES.get(parser.prog.removesuffix(".py"), ())
    args = parser.parse_args(arguments)
    _command[:] = [Path(main.__code__.co_filename).name, *(sys.argv[1:] if arguments is None else arguments)]
    setup_logging()
    try:
        with ended_by_signals():
            if not stage or not still_stands(parser.prog.removesuffix(".py"), _command[1:], args):
                check_address_space()
                main(args)
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        log.error("%s", text)
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt as error:
        code = error.exit_code if isinstance(error, Ended) else EXIT_INTERRUPTED
        said = "Interrupted" if code == EXIT_INTERRUPTED else f"Interrupted ({error})"
        log.error("%s. What was finished is kept; run the same command again to go on.", said)
        raise SystemExit(code) from None
