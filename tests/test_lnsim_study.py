"""The study on LNSIM: what it hands to the pipeline, and what its document says of planted numbers."""

import math
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT_ROOT
from scipy import stats

import run_pipeline
from models.autoencoder import build_autoencoder
from models.checkpoints import save_autoencoder
from utils.core.errors import UserError
from utils.core.files import write_json
from utils.core.names import RIVALS
from utils.core.tables import output_file, write_table

sys.path.insert(
    0, str(PROJECT_ROOT / "benchmarks")
)  # the benchmarks are run as files and import each other so
import lnsim_document as document
import lnsim_study as study

NETWORK, FINE_TUNED, IMAGES, SPLITS = "net", "tuned", 60, 3


@pytest.fixture
def arguments(tmp_path):
    save_autoencoder(tmp_path / "net.pth", build_autoencoder("vgg11", 0, 0.0625), image_size=96, caveats=[])
    given = [
        "--data-dir",
        tmp_path / "LNSIM",
        "--output-path",
        tmp_path / "out",
        "--checkpoint",
        tmp_path / "net.pth",
    ]
    return study.get_parser().parse_args([str(part) for part in given])


def test_the_pipeline_understands_what_it_is_given(arguments):
    network = study.place_checkpoint(arguments)
    assert network == arguments.output_path / "net.pth"
    command = study.pipeline_command(arguments, network, 96)
    given = run_pipeline.get_parser().parse_args(command[2:])
    assert (given.pretrained, given.image_size, given.weights) == (str(network.resolve()), 96, "available")
    assert given.model_names == ["net.pth", "mem_vgg_autoencoder_mse_lr1e-05_bs1_ep1.pth"]
    assert "ms-ssim" not in given.losses  # five scales do not fit into 96 px
    assert "ms-ssim" in study.pipeline_command(arguments, network, 224)


def test_a_changed_checkpoint_is_copied_again_and_a_missing_one_named(arguments):
    copy = study.place_checkpoint(arguments)
    before = copy.stat().st_mtime_ns
    assert study.place_checkpoint(arguments).stat().st_mtime_ns == before
    copy.write_bytes(b"other")
    assert study.place_checkpoint(arguments).read_bytes() == arguments.checkpoint.read_bytes()
    arguments.checkpoint = Path("absent.pth")
    with pytest.raises(UserError, match=r"absent.pth does not exist"):
        study.place_checkpoint(arguments)
    with pytest.raises(UserError, match="which stage 1 writes"):
        study.fine_tuned_model(arguments.output_path)


def test_the_documents_command_names_no_folder_of_anybody(monkeypatch):
    typed = ["x", "--data-dir", "/home/me/LNSIM", "--checkpoint", "/home/me/wide.pth", "--output-path=/tmp/x"]
    monkeypatch.setattr(sys, "argv", typed)
    assert study.own_command() == "python benchmarks/lnsim_study.py --data-dir LNSIM --checkpoint wide.pth"


# ---------------------------------------------------------------------------------------- the document


def planted_frame(seed=0):
    """Scores that follow mse on the test split alone, and its opposite on the others."""
    rng = np.random.default_rng(seed)
    split = np.array(["train"] * 36 + ["val"] * 6 + ["test"] * 18)
    error = rng.uniform(size=IMAGES)
    sign = np.where(split == "test", 1, -1)
    frame = pd.DataFrame({"image_id": [f"{number:04d}.jpg" for number in range(IMAGES)], "split": split})
    frame["memorability"] = 0.5 + 0.3 * sign * error + rng.normal(0, 0.01, IMAGES)
    frame["mse"] = error
    for name in RIVALS:
        frame[name] = rng.uniform(size=IMAGES)
    return frame.assign(distinctiveness=rng.normal(size=IMAGES))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The tables of a finished study, small and made up; LNSIM itself is stood in for."""
    frame, out = planted_frame(), tmp_path
    about = frame[["image_id", "memorability"]].assign(category="", subcategory="")
    tables = {
        ("test_loss", NETWORK): about.assign(mse=frame["mse"]),
        ("splits", None): about.assign(split=frame["split"]),
        ("rivals", None): frame[["image_id", *RIVALS]].assign(pca_components=8, image_size=96),
        ("exposures", FINE_TUNED): frame[["image_id"]].assign(order=range(IMAGES), loss=1 - frame["mse"]),
    }
    for (name, model), table in tables.items():
        write_table(table, output_file(out, name, model), name)
    frame[["image_id", "distinctiveness"]].to_csv(out / f"distinctiveness_{NETWORK}.csv", index=False)
    write_json(out / "run_autoencoder_test.json", {"arguments": {}})
    write_json(out / "pipeline.json", {"stages": {"autoencoder_test": {"seconds": 90.0}}})
    halves = {f"half{half}_split{split:02d}": frame["memorability"] for half in (1, 2) for split in (1, 2, 3)}
    dataset = Namespace(table=frame[["image_id", "memorability"]].assign(**halves))
    monkeypatch.setattr("utils.data.dataset.load_dataset", lambda args: dataset)
    meta = {"arch": "vgg16", "width": 0.25, "image_size": 96}
    machine = {"processor": "a processor", "cores": 2, "threads": 1, "load": 0.2}
    monkeypatch.setattr(
        document.Study, "table", lambda self, name, model=None: pd.read_csv(output_file(out, name, model))
    )
    return document.Study(out, tmp_path, NETWORK, FINE_TUNED, meta, machine, "python it.py"), frame


def test_the_headline_is_of_the_held_out_pictures_alone(finished, monkeypatch, tmp_path):
    for name in ("_prediction", "_features", "_attribution"):
        monkeypatch.setattr(document, name, lambda study: [])
    a_study, frame = finished
    document.write_document(a_study, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    headline, everything = text.split("## All pictures")
    test = frame[frame["split"] == "test"]
    expected = stats.spearmanr(test["mse"], test["memorability"]).statistic
    assert expected > 0.9
    row = next(line for line in headline.splitlines() if line.startswith("| `mse` | recon"))
    assert f"| {expected:.2f} [" in row
    assert row.endswith("| 18 |")
    assert "positive: the interval lies above 0" in headline
    over_all = stats.spearmanr(frame["mse"], frame["memorability"]).statistic
    row = next(line for line in everything.splitlines() if line.startswith("| `mse` | recon"))
    assert f"| {over_all:.2f} [" in row
    assert row.endswith("| 60 |")
    assert "**Not a test**" in everything
    for rival in RIVALS:  # beside the error, and held constant
        assert f"| `{rival}` | rival" in headline
        assert f"| `{rival}` | " in headline.split("held constant", 1)[1]
    exposure = next(line for line in headline.splitlines() if line.startswith("| `exposure`"))
    assert f"| {-expected:.2f} [" in exposure
    assert "train 36, val 6, test 18" in text
    held_out = pd.read_csv(a_study.output_path / "held_out.csv").set_index("measure")
    assert held_out.at["mse", "rho"] == pytest.approx(expected)


def test_a_network_as_it_is_has_neither_exposures_nor_what_needs_gradients(
    finished, monkeypatch, tmp_path, arguments
):
    arguments.no_fine_tuning = True
    command = study.pipeline_command(arguments, study.place_checkpoint(arguments), 96)
    given = run_pipeline.get_parser().parse_args(command[2:])
    assert given.model_names == ["net.pth"]
    assert given.stages == ["autoencoder_test", "autoencoder_evaluation", "latent_analysis", "mlp_predict"]
    assert all(text.startswith("mlp_predict=") for text in given.extra)

    monkeypatch.setattr(document, "_prediction", lambda study: [])
    known = {"parameters": 2_000_000, "pictures": 36, "epochs": 3, "held_out_psnr": 23.14, "held_out": 6}
    known |= {"pca_components": 8, "pca_psnr": 28.66}
    meta = {**finished[0].meta, "pretraining": known}
    document.write_document(replace(finished[0], fine_tuned=None, meta=meta), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| `mse` | recon" in text
    assert not any(word in text for word in ("xposure", "## What the pixels", "Integrated Gradients"))
    assert (
        "2.0 million weights trained from nothing on 36 pictures, 3 times each: 23.1 dB on 6 held-out" in text
    )


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.01, 0.2, "positive"), (-0.2, -0.01, "negative"), (-0.1, 0.1, "null")]
)
def test_a_verdict_follows_the_interval(low, high, words):
    assert words in document.verdict({"ci_low": low, "ci_high": high})


def test_numbers_are_written_plainly():
    assert document.number(-0.001) == "0.00"
    assert document.number(math.nan) == "-"
    assert document.with_interval({"rho": 0.123, "ci_low": -0.2, "ci_high": 0.456}) == "0.12 [-0.20, 0.46]"
    assert document.with_interval({"rho": 0.9, "ci_low": math.nan, "ci_high": math.nan}) == "0.90"
    assert document.with_interval({"rho": math.nan, "ci_low": math.nan, "ci_high": math.nan}) == "-"
