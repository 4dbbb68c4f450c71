"""The pipeline: what each stage is given, what is skipped, how it stops; on made-up stages, then on the real parsers."""

import hashlib
import importlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import edit_in_place

import run_pipeline
from utils.core.cli import run_script
from utils.core.errors import UserError
from utils.core.locks import only_run
from utils.core.log import in_words
from utils.pipeline.checks import Findings
from utils.pipeline.stages import Stage, parse_extras, stage_arguments

FAKE_STAGE = """
import json, pathlib, sys

def get_parser():
    from utils.core.cli import build_parser
    parser = build_parser("", "output", "compute")
    parser.add_argument("--more")
    return parser

def work():
    output = pathlib.Path(sys.argv[sys.argv.index("--output-path") + 1])
    with open(output / "ran.txt", "a") as log:
        log.write("NAME ")
    marker = output / "NAME.fails"
    if marker.exists():
        print("the stage's own message", file=sys.stderr)
        sys.exit(int(marker.read_text()))
    source = output / "SOURCE"
    (output / "NAME.csv").write_text("made from " + source.read_text())
    record = {"status": "complete", "inputs": {str(source): {}}, "outputs": ["NAME.csv"]}
    record["ended"] = "2026-01-01T00:00:00+00:00"
    (output / "run_NAME.json").write_text(json.dumps(record))
    # and then

if __name__ == "__main__":
    work()
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Three made-up stages, each reading what the one before wrote, and their output folder."""
    root, output = tmp_path / "code", tmp_path / "output"
    for folder in (root / "utils", root / "models", output):
        folder.mkdir(parents=True)
    stages = []
    for source, name in (("images.txt", "first"), ("first.csv", "second"), ("second.csv", "third")):
        (root / f"{name}.py").write_text(FAKE_STAGE.replace("NAME", name).replace("SOURCE", source))
        stages.append(Stage(name, (), ("output", "compute"), {}))
    (output / "images.txt").write_text("pictures")
    monkeypatch.setattr(run_pipeline, "ROOT", root)
    monkeypatch.setattr(run_pipeline, "STAGES", tuple(stages))
    monkeypatch.setattr(run_pipeline, "check_apart", lambda *args, **flags: Findings())
    monkeypatch.setattr("utils.report.report.write_report", lambda path: (Path(path) / "report.html", 0))
    caplog.set_level(logging.INFO)
    return output


def run(output: Path, *flags: str) -> str:
    """Run the pipeline; return which made-up stages ran."""
    (output / "ran.txt").unlink(missing_ok=True)
    run_pipeline.main(run_pipeline.get_parser().parse_args(["--output-path", str(output), *flags]))
    return (output / "ran.txt").read_text().strip() if (output / "ran.txt").exists() else ""


def test_all_stages_run_in_order_then_none(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(study) == "first second third"
    assert (study / "third.csv").read_text() == "made from made from made from pictures"
    assert "Stage 2/3 second: done in" in caplog.text
    assert "wrote second.csv" in caplog.text
    assert f"Report:  {study / 'report.html'}" in caplog.text
    assert run(study) == ""
    assert caplog.text.count("unchanged since its last run, skipped") == 3


def test_a_changed_input_reruns_what_depends_on_it(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(study)
    (study / "images.txt").write_text("other pictures")
    caplog.clear()
    assert run(study) == "first second third"
    assert f"Stage 1/3 first (its input {study / 'images.txt'} changed): python " in caplog.text
    (study / "images.txt").write_text("other pictures")  # written again, the same bytes
    assert run(study) == ""


def test_a_picture_that_comes_later_reruns_the_stage(study: Path) -> None:
    (study / "animal").mkdir()
    (study / "animal" / "1.jpg").write_bytes(b"one")
    script = run_pipeline.ROOT / "first.py"
    folders = ", ".join(f"{str(study / name)!r}: {{}}" for name in ("animal", "food"))
    script.write_text(
        script.read_text().replace('"inputs": {str(source): {}', f'"inputs": {{str(source): {{}}, {folders}')
    )
    assert run(study) == "first second third"
    (study / "animal" / "notes.txt").write_text("no picture")
    assert run(study) == ""
    (study / "animal" / "2.JPG").write_bytes(b"two")
    assert run(study) == "first"
    (study / "animal" / "1.jpg").write_bytes(b"another")
    assert run(study) == "first"
    edit_in_place(study / "animal" / "1.jpg", b"changed")
    assert run(study) == "first"
    (study / "food").mkdir()  # was missing altogether
    assert run(study) == "first"
    assert run(study) == ""


def test_an_input_edited_while_the_stage_ran_is_not_taken_for_what_it_read(study: Path) -> None:
    """The record says what was read; the file holds something else by the time the stage ends."""
    script = run_pipeline.ROOT / "first.py"
    digest = hashlib.sha256((study / "images.txt").read_bytes()).hexdigest()
    text = script.read_text().replace(
        "{str(source): {}", f'{{str(source): {{"bytes": 8, "sha256": {digest!r}}}'
    )
    assert text != script.read_text()
    script.write_text(text.replace("# and then", 'source.write_text("nothing like it")'))
    assert run(study, "--to-stage", "first") == "first"
    assert run(study, "--to-stage", "first") == "first"


def test_a_lost_output_reruns_its_stage_alone(study: Path) -> None:
    run(study)
    (study / "second.csv").unlink()
    assert run(study) == "second"  # and what it wrote is what the third read before


def test_changed_code_reruns_its_stage_alone(study: Path) -> None:
    run(study)
    script = run_pipeline.ROOT / "third.py"
    script.write_text(script.read_text() + "# changed\n")
    assert run(study) == "third"
    (run_pipeline.ROOT / "utils" / "shared.py").write_text("x = 1\n")
    assert run(study) == "first second third"


def test_a_stage_may_complete_what_an_earlier_one_wrote(study: Path) -> None:
    script = run_pipeline.ROOT / "third.py"
    text = script.read_text().replace('"outputs": ["third.csv"]', '"outputs": ["third.csv", "first.csv"]')
    script.write_text(text.replace("# and then", '(output / "first.csv").write_text("completed")'))
    assert run(study) == "first second third"
    assert run(study) == "second third"  # the second read what the third has completed since
    assert run(study) == ""


def test_changed_arguments_rerun(study: Path) -> None:
    run(study)
    assert run(study, "--seed", "1") == "first second third"
    assert run(study, "--seed", "1", "--extra", "second=--more 'a b'") == "second"
    assert json.loads((study / "pipeline.json").read_text())["stages"]["second"]["command"][-2:] == [
        "--more",
        "a b",
    ]


def test_overwrite_reruns(study: Path) -> None:
    run(study)
    assert run(study, "--overwrite", "--stages", "second") == "second"


def test_a_hidden_run_of_a_stage_by_hand_is_no_reason_to_trust_it(study: Path) -> None:
    run(study)
    (study / "second.csv").write_text("made by hand with other settings")
    assert run(study) == "second"


@pytest.mark.parametrize(("flags", "expected"), [
    (["--from-stage", "second"], "second third"),
    (["--to-stage", "second"], "first second"),
    (["--from-stage", "second", "--to-stage", "second"], "second"),
    (["--stages", "third", "first"], "first third"),
    (["--report-only"], ""),
])  # fmt: skip
def test_chosen_stages(study: Path, flags: list[str], expected: str) -> None:
    run(study)
    for name in ("first", "second", "third"):
        (study / f"{name}.csv").write_text("changed")
    assert run(study, *flags) == expected


def test_contradicting_choices_are_refused(study: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(study, "--stages", "first", "--to-stage", "second")
    assert str(caught.value) == "Give either --stages, or --from-stage and --to-stage, not both."
    with pytest.raises(UserError) as caught:
        run(study, "--from-stage", "third", "--to-stage", "first")
    assert str(caught.value) == "--from-stage third comes after --to-stage first; nothing would run."


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (77, 1), (130, 130)])
def test_the_first_failure_stops_and_names_the_command(
    study: Path, capfd: pytest.CaptureFixture, code: int, expected: int
) -> None:
    (study / "second.fails").write_text(str(code))
    with pytest.raises(SystemExit) as caught:
        run_script(run_pipeline.main, run_pipeline.get_parser, ["--output-path", str(study), "--seed", "3"])
    assert caught.value.code == expected
    assert (study / "ran.txt").read_text().strip() == "first second"
    said = capfd.readouterr().err
    assert "the stage's own message" in said
    assert "Traceback" not in said
    if expected != 130:
        script = Path(run_pipeline.ROOT, "second.py")
        assert f"Stage 2/3 second failed (exit code {code})" in said
        assert f"second.py --output-path {study} --seed 3" in said
        assert script.is_file()
    (study / "second.fails").unlink()
    assert run(study, "--seed", "3") == "second third"


def test_a_stage_killed_by_ctrl_c_counts_as_interrupted(study: Path) -> None:
    script = run_pipeline.ROOT / "second.py"
    script.write_text(
        script.read_text().replace(
            "    work()",
            f"    import os, signal\n    signal.signal({int(signal.SIGINT)}, signal.SIG_DFL)\n    os.kill(os.getpid(), 2)\n",
        )
    )
    with pytest.raises(KeyboardInterrupt):
        run(study)


def test_a_stage_without_a_complete_record_is_not_believed(study: Path) -> None:
    script = run_pipeline.ROOT / "second.py"
    script.write_text(script.read_text().replace("    work()", "    pass"))
    with pytest.raises(UserError, match="second ended well but left no complete record in .*run_second.json"):
        run(study)


def test_a_damaged_record_is_named(study: Path) -> None:
    (study / "pipeline.json").write_text("not json")
    with pytest.raises(UserError, match="Expected a JSON object in .*pipeline.json"):
        run(study)


def test_an_unwritable_output_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="The output path .*file is a file"):
        run_pipeline.main(run_pipeline.get_parser().parse_args(["--output-path", str(tmp_path / "file")]))


@pytest.mark.parametrize("text", ["nonsense=--x", "first", "=--x"])
def test_extras_need_a_known_stage(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_extras([text], ["first", "second"])
    assert (
        str(caught.value) == f"Expected --extra STAGE=FLAGS with a stage among first, second; found '{text}'."
    )


def test_extras_with_open_quotes_are_named() -> None:
    with pytest.raises(UserError, match="Cannot read the flags in --extra 'first=\"a': No closing quotation"):
        parse_extras(['first="a'], ["first"])
    assert parse_extras(["first=--a 1", "first=--b 'x y'"], ["first"]) == {
        "first": ["--a", "1", "--b", "x y"]
    }


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (7300, "2 h 1 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert in_words(seconds) == expected


# -------------------------------------------------------------------------------------------- the real stages


def accepted(stage: Stage, arguments: list[str]) -> object:
    """Parse arguments with the stage's own parser."""
    return importlib.import_module(stage.name).get_parser().parse_args(arguments)


EVERYTHING = shlex.split(
    "--data-dir d --scores-csv s.csv --score-column c --sample --limit 9 --on-error fail --output-path o --overwrite "
    "--model-names a.pth b.pth --image-size 64 --workers 1 --device cpu --seed 4 --batch-size 3 --weights random "
    "--arch vgg11 --pretrained none --recipe released --losses mse ssim --ig-steps 4 --ig-limit 2 "
    "--detector light --segmenter light --min-score 0.3"
)


@pytest.mark.parametrize("stage", run_pipeline.STAGES, ids=lambda stage: stage.name)
def test_each_stage_understands_what_it_is_given(stage: Stage) -> None:
    args = run_pipeline.get_parser().parse_args(EVERYTHING)
    given = accepted(stage, stage_arguments(stage, args))
    assert given.output_path == Path("o")
    assert given.overwrite
    if "data" in stage.groups:
        assert (given.sample, given.scores_csv, given.on_error) == (True, Path("s.csv"), "fail")
        assert given.limit == (2 if stage.name == "model_interpretation_IG" else 9)
    if "compute" in stage.groups:
        assert (given.image_size, given.device) == (64, "cpu")
    if hasattr(given, "seed"):
        assert given.seed == 4
    if "scenes" in stage.groups:
        assert given.detector == "fasterrcnn_mobilenet_v3_large_320_fpn"
        assert (given.segmenter, given.min_score) == ("lraspp_mobilenet_v3_large", 0.3)
    if "weights" in stage.groups:
        assert given.weights == "random"
    if stage.models:
        assert given.model_names == (["a.pth"] if stage.models == "first" else ["a.pth", "b.pth"])
    accepted(stage, stage_arguments(stage, run_pipeline.get_parser(demo=True).parse_args(["--demo"])))


@pytest.mark.parametrize("stage", run_pipeline.STAGES, ids=lambda stage: stage.name)
def test_defaults_stay_the_stages_own(stage: Stage) -> None:
    arguments = stage_arguments(stage, run_pipeline.get_parser().parse_args([]))
    assert arguments == list(stage.flags)


def test_what_is_resampled_as_a_whole_reaches_every_stage_that_infers() -> None:
    args = run_pipeline.get_parser().parse_args(["--cluster", "none"])
    told = {stage.name for stage in run_pipeline.STAGES if "--cluster" in stage_arguments(stage, args)}
    assert told == {stage.name for stage in run_pipeline.STAGES} - {
        "autoencoder_finetune",
        "autoencoder_test",
    }


def test_demo_is_a_default_that_yields() -> None:
    args = run_pipeline.get_parser(demo=True).parse_args(
        ["--demo", "--weights", "pretrained", "--ig-steps", "50"]
    )
    assert (args.sample, args.output_path, args.pretrained) == (True, Path("demo_output"), "builtin")
    assert (args.weights, args.ig_steps) == ("pretrained", 50)


def test_the_demo_has_no_random_network_in_it_and_its_help_can_be_typed() -> None:
    demo = vars(run_pipeline.get_parser(demo=True).parse_args(["--demo"]))
    assert "random" not in (demo["weights"], demo["pretrained"])
    text = run_pipeline._demo_text()
    typed = vars(run_pipeline.get_parser().parse_args(shlex.split(text)))
    assert {name: typed[name] for name in run_pipeline.DEMO} == {
        name: demo[name] for name in run_pipeline.DEMO
    }


def test_importing_the_pipeline_is_light() -> None:
    code = "import sys, run_pipeline; run_pipeline.get_parser(); print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=run_pipeline.ROOT
    )
    assert done.stdout.strip() == "set()"


def test_the_precision_reaches_the_stages_that_measure_with_networks_and_no_other() -> None:
    args = run_pipeline.get_parser().parse_args(["--precision", "auto"])
    told = {stage.name for stage in run_pipeline.STAGES if "--precision" in stage_arguments(stage, args)}
    assert told == {"autoencoder_test", "latent_analysis", "feature_analysis"}


def test_a_second_pipeline_in_one_folder_says_who_holds_it(study: Path) -> None:
    expected = f"run_pipeline is running in .* already: process {os.getpid()} on "
    with only_run(study, "run_pipeline"), pytest.raises(UserError, match=expected):
        run(study)
    assert not (study / "ran.txt").exists()
    assert run(study) == "first second third"
