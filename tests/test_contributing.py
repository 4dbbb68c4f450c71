"""CONTRIBUTING.md says what has to be touched to add a thing; here each is added, in a copy of the project."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import PROJECT_ROOT, write_memcat

from models.autoencoder import build_autoencoder
from models.checkpoints import save_autoencoder

SIZE = 32
# file -> (what stands there, what is put there instead)
ADDITIONS = {
    "utils/core/names.py": ('LOSSES = ("mse",', 'LOSSES = ("worst-pixel", "mse",'),
    "utils/reconstruction/losses.py": (
        '    if "mse" in names:\n',
        '    if "worst-pixel" in names:\n'
        '        values["worst-pixel"] = (image - reconstruction).abs().amax(dim=(1, 2, 3))\n'
        '    if "mse" in names:\n',
    ),
    "utils/core/feature_names.py": (
        "\nFEATURES = (\n",
        '\nFEATURES = (\n    Feature("red_share", "colour", "share, 0..1", "red over all channels; larger is redder"),\n',
    ),
    "utils/features/image.py": (
        '        "lab_l_mean": lab_mean[0],\n',
        '        "red_share": float(rgb[..., 0].sum() / max(rgb.sum(), 1)),\n        "lab_l_mean": lab_mean[0],\n',
    ),
    "utils/core/measure_names.py": (
        "MEASURES = {\n",
        'MEASURES = {\n    "code_length": "Euclidean length of the code",\n',
    ),
    "utils/latents/measures.py": (
        '    if "mahalanobis" in values:\n',
        '    if "code_length" in values:\n'
        "        lengths = [np.linalg.norm(block, axis=1) for _, block in row_blocks(matrix, members)]\n"
        '        values["code_length"] = np.concatenate(lengths)\n'
        '    if "mahalanobis" in values:\n',
    ),
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with one loss, one feature and one measure more."""
    folder = tmp_path_factory.mktemp("extended") / "project"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "*output*", "__pycache__", ".*_cache", "MemCat", "tests"
    )
    shutil.copytree(PROJECT_ROOT, folder, ignore=left_out)
    for name, (before, after) in ADDITIONS.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, name
        (folder / name).write_text(text.replace(before, after), encoding="utf-8")
    return folder


def run(folder, *arguments):
    command = [sys.executable, *map(str, arguments)]
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_added_reaches_tables_documents_and_report(extended, tmp_path):
    memcat, output = write_memcat(tmp_path / "MemCat", per_subcategory=4, side=40), tmp_path / "output"
    output.mkdir()
    save_autoencoder(output / "small.pth", build_autoencoder("vgg11", 0, width=0.0625), image_size=SIZE)
    where = ("--data-dir", memcat, "--output-path", output)
    small = (*where, "--image-size", SIZE, "--workers", 0)
    run(extended, "autoencoder_test.py", *small, "--losses", "worst-pixel", "mse")
    run(extended, "autoencoder_evaluation.py", *where)
    run(extended, "latent_analysis.py", *small, "--measure", "code_length")
    features = ("--features", "colour", "--resamples", 20, "--folds", 2, "--repeats", 1, "--workers", 0)
    run(extended, "feature_analysis.py", *where, *features)
    run(extended, "run_pipeline.py", "--report-only", "--output-path", output)

    losses = pd.read_csv(output / "test_loss_small.csv")
    assert (losses["worst-pixel"] ** 2 >= losses["mse"]).all()
    assert "worst-pixel" in set(pd.read_csv(output / "loss_correlations.csv")["measure"])
    assert pd.read_csv(output / "image_features.csv")["red_share"].between(0, 1).all()
    assert "red_share" in set(pd.read_csv(output / "feature_correlations.csv")["feature"])
    assert "code_length" in set(pd.read_csv(output / "distinctiveness_correlations.csv")["measure"])
    outputs = run(extended, "-m", "utils.core.contract")
    for name in ("`worst-pixel`", "`red_share`", "code_length"):
        assert name in outputs, name
    report = (output / "report.html").read_text(encoding="utf-8")
    for name in ("worst-pixel", "code_length"):
        assert name in report, name


def test_the_page_names_every_file_that_is_touched():
    page = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in ADDITIONS:
        assert name in page, name
