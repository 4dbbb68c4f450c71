"""Scoring decodes large JPEGs reduced; ranks stay, scores hardly move, and nothing else does so."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.sample import SOURCES, find_photograph
from utils.prediction.scoring import load_predictor


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs, enlarged to two megapixels and saved as JPEGs."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, source in enumerate(SOURCES[:11:2]):
        with Image.open(find_photograph(source.package, source.file)) as opened:
            photograph = opened.convert("RGB")
        scale = (2e6 / (photograph.width * photograph.height)) ** 0.5
        size = (round(photograph.width * scale), round(photograph.height * scale))
        photograph.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)
    return folder


def test_scores_of_drafted_pictures_keep_their_ranks(photographs: Path, tmp_path: Path) -> None:
    predictor = load_predictor(tmp_path, "builtin", "cpu")
    drafted = predictor.score(photographs, workers=0)
    full = predictor.score(photographs, workers=0, draft=False)
    assert drafted["path"].tolist() == full["path"].tolist()  # the most memorable first
    difference = np.abs(drafted["memorability"] - full["memorability"])
    assert 0 < difference.max() < 0.002
    assert full["memorability"].std() > 10 * difference.max()


def test_the_shell_drafts_unless_told_otherwise(photographs: Path, tmp_path: Path) -> None:
    from in_process import run_here

    def settings(*flags: str) -> dict:
        common = ["--output-path", tmp_path, "--model-names", "builtin", "--workers", 0]
        done = run_here("mlp_predict.py", "--predict", photographs, *common, *flags)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "shards" / "predictions" / "manifest.json").read_text())["settings"]

    assert settings()["draft"] is True
    drafted = (tmp_path / "predictions.csv").read_bytes()
    assert settings("--full-decode")["draft"] is False
    assert (tmp_path / "predictions.csv").read_bytes() != drafted
