"""Data that change under a finished study: run again, it ends where a run into an empty folder ends, byte for byte."""

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import edit_in_place, make_picture, write_memcat
from in_process import run_here

SMALL = ["--image-size", 32, "--device", "cpu", "--workers", 0]
FEW = ["--resamples", 20]
STAGES = {  # in the order of the study
    "autoencoder_finetune.py": [
        *("--arch", "vgg11", "--width", 1 / 64, "--pretrained", "none", "--loss", "mse"),
        *("--weights", "random", *SMALL),
    ],
    "autoencoder_test.py": ["--losses", "mse", "ssim", *SMALL],
    "autoencoder_evaluation.py": FEW,
    "latent_analysis.py": ["--calculate-latents", "--distinctiveness-analysis", *FEW, *SMALL],
    "category_plot.py": [*FEW, "--format", "png"],
    "mlp_predict.py": ["--train", "--evaluate", "--epochs", 2, *FEW, *SMALL],
    "model_interpretation_IG.py": ["--save", "--steps", 2, "--limit", 3, *SMALL],
    "feature_analysis.py": [
        *(
            "--calculate-features",
            "--evaluate-features",
            "--features",
            "colour",
            "--folds",
            2,
            "--repeats",
            1,
        ),
        *("--workers", 0, *FEW),
    ],
}
SPARED = {".json", ".log", ".lock"}  # when and from where; what was read when


def run_study(data: Path, output: Path) -> str:
    """Run all stages, in this process; return what they said."""
    said = ""
    for script, flags in STAGES.items():
        folder = [] if script == "category_plot.py" else ["--data-dir", data]
        done = run_here(script, *folder, "--output-path", output, *flags)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        said += done.stderr
    return said


def results(output: Path) -> dict[str, str]:
    """SHA-256 of every result by name."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix not in SPARED and path.relative_to(output).parts[0] != "shards"
    }


def pictures_of(data: Path) -> list[Path]:
    return sorted((data / "MemCat_images").rglob("*.jpg"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the output of a whole study; one picture could not be read."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_memcat(folder / "data", per_subcategory=5, side=40)
    broken = pictures_of(data)[7]
    shutil.copy(broken, folder / "whole.jpg")
    broken.write_bytes(broken.read_bytes()[:300])
    run_study(data, folder / "output")
    return folder


def replace_pictures(folder: Path) -> None:
    """One by another of equal size and date, one by another of another size; the unreadable one is mended."""
    pictures = pictures_of(folder / "data")
    content = bytearray(pictures[3].read_bytes())
    content[-30] ^= 3
    edit_in_place(pictures[3], bytes(content))
    make_picture(99, 60, 40).save(pictures[12])
    shutil.copy(folder / "whole.jpg", pictures[7])


def correct_a_score(folder: Path) -> None:
    """One that lies on the other side of the median by now."""
    path = folder / "data" / "MemCat_data" / "memcat_image_data.csv"
    table = pd.read_csv(path, index_col=0)
    row = table["memorability_w_fa_correction"].idxmin()
    table.loc[row, "H"], table.loc[row, "FA"] = (
        table.loc[row, "n_resp"],
        0,
    )  # and its counts, which go with it
    table.loc[row, ["memorability_w_fa_correction", "memorability_wo_fa_correction"]] = 1.0
    table.to_csv(path, index_label="")


def delete_a_picture(folder: Path) -> None:
    pictures_of(folder / "data")[17].unlink()


@pytest.mark.long
@pytest.mark.parametrize("change", [replace_pictures, correct_a_score, delete_a_picture])
def test_what_changed_is_done_again_and_ends_as_a_new_run(finished: Path, tmp_path: Path, change) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    before = results(folder / "output")
    change(folder)
    said = run_study(folder / "data", folder / "output")
    after = results(folder / "output")
    run_study(folder / "data", folder / "new")
    assert after == results(folder / "new")
    assert after != before
    trained = "It is trained anew" in said
    assert trained == (change is not correct_a_score)
    again = run_study(folder / "data", folder / "output")
    assert results(folder / "output") == after
    assert "anew" not in again
