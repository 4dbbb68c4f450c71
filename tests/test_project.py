"""The project as a whole: imports do no work, one thing stands in one place, the commands of the README exist."""

import ast
import importlib
import re
import shlex
import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT

from utils.core.cli import run_script
from utils.core.examples import EXAMPLES

SCRIPTS = sorted(path.name for path in PROJECT_ROOT.glob("*.py"))
MODULES = sorted(path for folder in ("models", "utils") for path in (PROJECT_ROOT / folder).rglob("*.py"))
DESIGNED = {
    "autoencoder_pretrain.py",
    "autoencoder_finetune.py",
    "autoencoder_test.py",
    "autoencoder_evaluation.py",
    "latent_analysis.py",
    "category_plot.py",
    "mlp_predict.py",
    "model_interpretation_IG.py",
    "feature_analysis.py",
    "memorability_steering.py",
    "run_pipeline.py",
}


def module_name(path):
    return ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_designed_script_is_there():
    assert set(SCRIPTS) == DESIGNED


def test_importing_everything_is_silent_and_writes_nothing(tmp_path):
    names = [path.stem for path in map(PROJECT_ROOT.joinpath, SCRIPTS)]
    names += [module_name(path) for path in MODULES]
    code = f"import sys; sys.path.insert(0, {str(PROJECT_ROOT)!r})\n" + "\n".join(
        f"import {name}" for name in names
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, '--help']; sys.path.insert(0, {str(PROJECT_ROOT)!r})\n"
        f"try:\n    runpy.run_path({str(PROJECT_ROOT / script)!r}, run_name='__main__')\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "heavy = ('torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'cv2', 'captum')\n"
        "print('HEAVY', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []"), done.stdout[-300:]
    assert "usage:" in done.stdout


def test_what_is_heavy_is_imported_through_one_door():
    for script in SCRIPTS:
        functions = [
            node for node in ast.walk(tree(PROJECT_ROOT / script)) if isinstance(node, ast.FunctionDef)
        ]
        for function in functions:
            lazy = [node for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]
            assert not lazy or function.name == "main", f"{script}: {function.name} imports"
    stages = [path for path in MODULES if path.name.endswith("stage.py")]
    assert len(stages) >= 8
    for path in stages:
        lazy = [
            node
            for function in ast.walk(tree(path))
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not lazy, f"{path.name} imports on line {lazy[0].lineno}, not at its top"


def test_no_script_imports_another():
    stems = {script.removesuffix(".py") for script in SCRIPTS}
    for script in SCRIPTS:
        for node in ast.walk(tree(PROJECT_ROOT / script)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not stems & set(names), script


def test_weights_are_loaded_in_one_place():
    for path in [*MODULES, *map(PROJECT_ROOT.joinpath, SCRIPTS)]:
        if path.name != "checkpoints.py":
            assert "torch.load(" not in path.read_text(encoding="utf-8"), path.name


def test_user_errors_are_raised_and_not_asserted():
    for path in [*MODULES, *map(PROJECT_ROOT.joinpath, SCRIPTS)]:
        assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)], path.name


def readme_commands() -> list[str]:
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    # Every block, whatever its language: skipping one would take its end for the beginning of the next.
    blocks = [block for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.S | re.M)]
    lines = [
        line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("python ") and ".py" in line]


def test_the_readme_prints_commands_that_parse():
    commands = readme_commands()
    assert {match for command in commands for match in re.findall(r"\w+\.py", command)} >= DESIGNED
    code = (
        "import importlib, shlex, sys\n"
        f"sys.path.insert(0, {str(PROJECT_ROOT)!r})\n"
        f"for command in {commands!r}:\n"
        "    words = shlex.split(command)[1:]\n"
        "    if words[0].startswith('-'): continue\n"
        "    folder, _, script = words[0].rpartition('/')\n"
        f"    sys.path.insert(0, {str(PROJECT_ROOT)!r} + '/' + folder)\n"
        "    importlib.import_module(script.removesuffix('.py')).get_parser().parse_args(words[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_ends_with_three_examples_that_parse(script, capsys):
    stem = script.removesuffix(".py")
    module = importlib.import_module(stem)
    with pytest.raises(SystemExit) as stopped:
        run_script(module.main, module.get_parser, ["--help"])
    assert stopped.value.code == 0
    shown = re.findall(r"^  (python .+)$", capsys.readouterr().out.partition("\nexamples:\n")[2], flags=re.M)
    assert shown == [command for command, _ in EXAMPLES[stem]]
    assert len(shown) == 3
    for command in shown:
        words = shlex.split(command)
        assert words[:2] == ["python", script]
        module.get_parser().parse_args(words[2:])


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_the_readme_lets_one_type_behind_any_stage_is_accepted_by_each(script):
    parser = importlib.import_module(script.removesuffix(".py")).get_parser()
    args = parser.parse_args(["--sample", "--weights", "available", "--image-size", "96"])
    assert (args.sample, args.weights, args.image_size) == (True, "available", 96)


def test_no_matrix_is_read_that_may_hold_code():
    files = [*MODULES, *PROJECT_ROOT.glob("*.py"), *(PROJECT_ROOT / "benchmarks").glob("*.py")]
    assert sum("np.load(" in path.read_text(encoding="utf-8") for path in files) > 5
    for path in files:
        text = path.read_text(encoding="utf-8")
        for line in re.findall(r"np\.load\((?!\.\.\.)[^\n]*|torch\.load\([^\n]*", text):
            assert "allow_pickle=False" in line or "weights_only=True" in line, f"{path}: {line}"
