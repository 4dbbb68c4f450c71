import argparse
import errno
import sys
from pathlib import Path

import pytest

from utils.core.cli import (
    build_parser,
    non_negative_int,
    positive_float,
    positive_int,
    run_script,
    share_below_one,
    shared_names,
)
from utils.core.errors import UserError
from utils.core.log import log

ALL_GROUPS = ("data", "output", "models", "compute", "cluster", "batch", "weights")


def parser():
    return build_parser("does things", *ALL_GROUPS)


def test_defaults_are_those_of_the_design():
    args = parser().parse_args([])
    assert args.data_dir == Path("MemCat")
    assert args.output_path == Path("output")
    assert args.score_column == "memorability_w_fa_correction"
    assert (args.image_size, args.seed, args.device, args.on_error) == (224, 0, "auto", "skip")
    assert args.weights == "pretrained"
    assert args.cluster is None
    assert not args.sample
    assert not args.overwrite


def test_every_flag_uses_dashes_and_has_help():
    for action in parser()._actions:
        assert action.help
        for option in action.option_strings:
            assert "_" not in option


def test_help_shows_defaults_once_and_not_the_empty_ones(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "(default: 224)" in " ".join(text.split())
    assert "None" not in text
    assert "False" not in text


def test_abbreviated_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["--out", "x"])
    assert stopped.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (positive_int, "0", "at least 1"),
        (positive_int, "two", "whole number, got 'two'"),
        (non_negative_int, "-1", "at least 1"),
        (positive_float, "-0.1", "above 0"),
        (positive_float, "nan", "above 0"),
        (positive_float, "inf", "above 0"),
        (positive_float, "x", "expected a number, got 'x'"),
    ],
)
def test_wrong_numbers_are_refused_with_a_reason(parse, text, message):
    with pytest.raises(Exception, match=message):
        parse(text)


def test_right_numbers_pass():
    assert positive_int("3") == 3
    assert non_negative_int("0") == 0
    assert positive_float("1e-5") == 1e-5


def run_failing(error, capsys):
    def main(args):
        raise error

    handlers = list(log.handlers)
    log.handlers.clear()
    try:
        with pytest.raises(SystemExit) as stopped:
            run_script(main, parser, [])
    finally:
        log.handlers[:] = handlers
    return stopped.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_message_and_exit_code_2(capsys):
    code, text = run_failing(UserError("expected a, found b in c.csv; do d"), capsys)
    assert code == 2
    assert text == "ERROR: expected a, found b in c.csv; do d\n"


def test_a_full_disk_is_the_users_to_mend(capsys):
    code, text = run_failing(OSError(errno.ENOSPC, "No space left on device", "out/x.csv"), capsys)
    assert code == 2
    assert "out/x.csv" in text
    assert "no space left" in text


def test_a_file_closed_to_the_user_is_not_said_to_be_written(capsys):
    code, text = run_failing(PermissionError(errno.EACCES, "Permission denied", "scores.csv"), capsys)
    assert code == 2
    assert text.startswith(
        "ERROR: Could not read or write scores.csv: permission was denied; change its permissions"
    )


def test_a_missing_package_names_the_remedy(capsys):
    code, text = run_failing(ModuleNotFoundError("No module named 'lpips'", name="lpips"), capsys)
    assert code == 2
    assert "'lpips' is not installed" in text
    assert "make install" in text


def test_ctrl_c_says_how_to_go_on(capsys):
    code, text = run_failing(KeyboardInterrupt(), capsys)
    assert code == 130
    assert "run the same command again" in text


@pytest.mark.parametrize("error", [RuntimeError("our bug"), OSError(errno.EIO, "I/O error")])
def test_our_own_bugs_keep_their_traceback(error):
    def main(args):
        raise error

    with pytest.raises(type(error)):
        run_script(main, parser, [])


def test_cli_imports_nothing_heavy():
    import subprocess

    code = "import sys, utils.core.cli; print([m for m in ('numpy', 'torch', 'pandas', 'tqdm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shares_are_from_0_up_to_but_not_including_1():
    assert [share_below_one(text) for text in ("0", " 0.0 ", "0.25", "0.999")] == [0, 0, 0.25, 0.999]
    for text, message in (
        ("1", "below 1, got 1"),
        ("-0.1", "above 0"),
        ("nan", "above 0"),
        ("half", "a number"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            share_below_one(text)


def help_of(parser):
    return " ".join(parser.format_help().split())


def said_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda args: None, parser, list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["--output_path", "x"], "--output-path"),
        (["--batchsize", "3"], "--batch-size"),
        (["--image-siz=96"], "--image-size"),
        (["--overwite"], "--overwrite"),
        (["--weights", "availble"], "available"),
        (["--on-error", "Skip"], "skip"),
        (["--split-by", "groups"], "group"),
    ],
)
def test_a_mistyped_flag_or_value_is_one_line_with_what_was_meant(capsys, arguments, meant):
    said = said_of(capsys, *arguments)
    assert said.count("\n") == 1
    assert f"Did you mean {meant}?" in said
    assert said.endswith("--help\n")


@pytest.mark.parametrize("arguments", [["--nothing-like-it"], ["picture.jpg"], ["--limit", "0"], ["--seed"]])
def test_nothing_is_suggested_where_nothing_comes_near(capsys, arguments):
    said = said_of(capsys, *arguments)
    assert said.count("\n") == 1
    assert "Did you mean" not in said


@pytest.mark.parametrize("groups", [("output",), ("data", "output"), ALL_GROUPS])
def test_flags_of_a_whole_study_are_accepted_by_every_parser(groups):
    typed = ["--sample", "--weights", "available", "--image-size", "96"]
    args = build_parser("x", *groups).parse_args(typed)
    assert (args.sample, args.weights, args.image_size) == (True, "available", 96)
    says = "of no effect in this one" in help_of(build_parser("x", *groups))
    assert says == (groups != ALL_GROUPS)
    assert ("image_size" in shared_names(*groups)) == (groups == ALL_GROUPS)


@pytest.mark.parametrize(
    ("flag", "good", "bad", "words"),
    [
        ("--seed", "4294967295", "4294967296", "below 2^32"),
        ("--image-size", "4096", "65536", "at most 4096 px, got 65536"),
    ],
)
def test_numbers_that_no_library_or_memory_takes_are_refused(flag, good, bad, words, capsys):
    assert build_parser("x", "compute").parse_args([flag, good])
    with pytest.raises(SystemExit) as stopped:
        build_parser("x", "compute").parse_args([flag, bad])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
