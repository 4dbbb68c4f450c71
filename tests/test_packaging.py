"""How the project is installed: in place or not at all, and the same packages by every way."""

import importlib.util
import re
import shutil
import subprocess
import zipfile

import pytest
from conftest import PROJECT_ROOT

BACKEND = PROJECT_ROOT / ".packaging" / "refuse_wheels.py"


def requirement_names(name):
    lines = (PROJECT_ROOT / name).read_text(encoding="utf-8").splitlines()
    return {
        re.split(r"[><=~! ]", line)[0].lower() for line in lines if line and not line.startswith(("#", "-"))
    }


@pytest.fixture
def backend():
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("refuse_wheels", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wheel_is_refused_with_what_to_do_instead(backend, tmp_path):
    for ask in (backend.get_requires_for_build_wheel, lambda: backend.build_wheel(str(tmp_path))):
        with pytest.raises(SystemExit) as stopped:
            ask()
        assert "pip install -e . -c constraints.txt" in str(stopped.value)
    assert list(tmp_path.iterdir()) == []


def test_an_editable_installation_needs_what_the_requirements_name(backend, tmp_path, monkeypatch):
    place = tmp_path / "project"
    for folder in ("models", "utils"):
        (place / folder).mkdir(parents=True)
        (place / folder / "__init__.py").write_text("")
    names = (
        "requirements.txt",
        "requirements-encoders.txt",
        "requirements-heif.txt",
        "README.md",
        "pyproject.toml",
    )
    for name in names:
        shutil.copy(PROJECT_ROOT / name, place / name)
    monkeypatch.chdir(place)
    wheel = backend.build_editable(str(tmp_path))
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        meta = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("METADATA"))
    required = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", meta, flags=re.M)
    assert {name.lower() for name in required} == requirement_names("requirements.txt")
    assert set(re.findall(r"^Provides-Extra: (.+)$", meta, flags=re.M)) == {"encoders", "heif"}


def test_every_requirement_has_an_exact_version_in_the_constraints():
    pinned = requirement_names("constraints.txt")
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-encoders.txt"):
        assert requirement_names(name) <= pinned | {"open_clip_torch"}, name


def test_versions_of_torch_in_the_readme_are_those_that_were_tested():
    readme = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    constraints = (PROJECT_ROOT / "constraints.txt").read_text(encoding="utf-8")
    named = re.findall(r'"(torch(?:vision)?==[\d.]+)"', readme)
    assert len(named) == 2
    assert all(f"\n{pin}\n" in constraints for pin in named)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_takes_torch_from_another_index_where_one_is_named(tmp_path):
    command = ["make", "-n", "install", f"VENV={tmp_path / 'none'}", "TORCH_INDEX=https://example.org/cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert "--index-url https://example.org/cpu" in done.stdout
    pins = subprocess.run(
        ["grep", "-E", "^torch(vision)?==", "constraints.txt"],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
    ).stdout.split()
    assert [pin.split("==")[0] for pin in pins] == ["torch", "torchvision"]


def test_what_the_dockerfile_copies_is_there():
    text = (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, flags=re.M) for name in line.split()]
    assert copied
    assert all((PROJECT_ROOT / name).exists() for name in copied)
    command = re.search(r"^CMD (\[.+\])$", text, flags=re.M)[1]
    assert (PROJECT_ROOT / eval(command)[1]).is_file()  # a list of literals of ours
