"""The study as a user runs it: each stage a process of its own, in order, on a miniature MemCat, from the flags' defaults.

Both places that have a default are taken: the data are in ./MemCat, the results go to ./output.
"""

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT_ROOT, assert_user_error, run_script_process, write_memcat

from utils.core.contract import TABLES
from utils.core.declarations.other_files import OTHER_FILES
from utils.core.tables import output_file, read_table

MODEL = "mem_vgg_autoencoder_vgg11"
IMAGES = 24  # and one more that cannot be read
BROKEN = "animal/bear/broken.jpg"
SIDE_PX = 64
LOSSES = ["mse", "mae", "ssim", "lpips-sq", "style"]
SMALL = ["--image-size", SIDE_PX, "--device", "cpu", "--workers", 0]
RANDOM = ["--weights", "random"]
# In the order of the study; what each stage is given beside its defaults keeps it small.
STAGES = {
    "autoencoder_finetune.py": ["--arch", "vgg11", "--pretrained", "none", *SMALL, *RANDOM],
    "autoencoder_test.py": ["--losses", *LOSSES, *SMALL, *RANDOM],
    "autoencoder_evaluation.py": ["--resamples", 100],
    "latent_analysis.py": ["--calculate-latents", "--distinctiveness-analysis", "--resamples", 100, *SMALL],
    "category_plot.py": ["--resamples", 100, "--format", "png"],
    "mlp_predict.py": ["--epochs", 3, "--resamples", 100, *SMALL],
    "model_interpretation_IG.py": ["--save", "--steps", 4, "--limit", 3, *SMALL, *RANDOM],
    "feature_analysis.py": [
        *("--detector", "light", "--segmenter", "light", "--folds", 2, "--repeats", 1, "--resamples", 100),
        *RANDOM,
    ],
}
SCRIPTS = [*STAGES, "run_pipeline.py"]


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every result: all files but logs, run records and the shards' own bookkeeping."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".log", ".json"} and not path.name.startswith(".")
        if path.relative_to(folder).parts[0] != "shards"  # they say when each picture was read
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all stages once; the folder they ran in."""
    folder = tmp_path_factory.mktemp("study")
    write_memcat(folder / "MemCat", per_subcategory=IMAGES // 4)
    table = folder / "MemCat" / "MemCat_data" / "memcat_image_data.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1].replace("000000000001.jpg", "broken.jpg")]) + "\n")
    (folder / "MemCat" / "MemCat_images" / "MemCat" / "animal" / "bear" / "broken.jpg").write_bytes(
        b"\xff\xd8 not a picture"
    )
    for script, flags in STAGES.items():
        done = run_script_process(script, *flags, cwd=folder)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        assert "Traceback" not in done.stderr
    return folder


@pytest.mark.parametrize("script", STAGES)
def test_each_stage_leaves_a_complete_record(study: Path, script: str) -> None:
    record = json.loads((study / "output" / f"run_{script.removesuffix('.py')}.json").read_text())
    assert record["status"] == "complete"
    assert record["sample"] is False
    assert record["outputs"]
    missing = [name for name in record["outputs"] if not (study / "output" / name).is_file()]
    assert missing == []


def test_every_file_is_in_the_list_of_output_files(study: Path) -> None:
    tables = [table.file.replace("{model}", "*") for table in TABLES.values()]
    others = [re.sub("<[^>]*>", "*", name) for other in OTHER_FILES for name in other.names]
    files = [
        path.relative_to(study / "output").as_posix()
        for path in (study / "output").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    assert len(files) > 60
    unknown = [name for name in files if not any(fnmatch(name, pattern) for pattern in (*tables, *others))]
    assert unknown == []


@pytest.mark.parametrize(("table", "model", "rows"), [
    ("splits", None, IMAGES + 1),
    ("exposures", MODEL, IMAGES),
    ("training", MODEL, 1),
    ("test_loss", MODEL, IMAGES),
    ("loss_correlations", None, None),
    ("loss_correlations_by_category", None, None),
    ("loss_comparisons", None, None),
    ("latents", MODEL, IMAGES),
    ("distinctiveness", MODEL, IMAGES),
    ("distinctiveness_correlations", None, None),
    ("mlp_metrics", None, None),
    ("mlp_predictions", None, IMAGES),
    ("ig", MODEL, 3),
    ("image_features", None, IMAGES),
    ("feature_correlations", None, None),
    ("skipped_images", None, None),
])  # fmt: skip
def test_tables_have_their_columns_and_rows(
    study: Path, table: str, model: str | None, rows: int | None
) -> None:
    path = output_file(study / "output", table, model)
    frame = read_table(path, table)
    assert len(frame) == rows if rows is not None else len(frame) > 0
    declared = TABLES[table]
    expected = {column.name for column in declared.columns} - set(declared.optional)
    assert expected <= set(pd.read_csv(path, nrows=0).columns)
    if "image_id" in declared.key:
        assert frame["image_id"].is_monotonic_increasing or table == "exposures"
        readable = frame.loc[frame["image_id"] != BROKEN, "image_id"]
        assert len(readable) == len(frame) - (
            table == "splits"
        )  # splits are made before any picture is opened
        assert readable.str.fullmatch(r"(animal|food)/\w+/\d{12}\.jpg").all()


def test_the_tables_speak_of_the_same_images_and_scores(study: Path) -> None:
    output = study / "output"
    splits = read_table(output / "splits.csv", "splits").set_index("image_id").drop(index=BROKEN)
    assert splits["split"].value_counts().to_dict().keys() == {"train", "val", "test"}
    for table, model in (
        ("test_loss", MODEL),
        ("distinctiveness", MODEL),
        ("mlp_predictions", None),
        ("image_features", None),
    ):
        frame = read_table(output_file(output, table, model), table).set_index("image_id")
        assert list(frame.index) == list(splits.index)
        np.testing.assert_allclose(frame["memorability"], splits["memorability"], rtol=1e-8)
    attributed = read_table(output_file(output, "ig", MODEL), "ig")["image_id"]
    assert set(splits.loc[attributed, "split"]) == {"test"}


def test_matrices_have_a_row_per_image(study: Path) -> None:
    latents = np.load(study / "output" / f"latents_{MODEL}.npy", mmap_mode="r")
    assert latents.shape == (IMAGES, 512 * (SIDE_PX // 32) ** 2)
    assert latents.dtype == np.float32
    maps = np.load(study / "output" / f"ig_{MODEL}.npy", mmap_mode="r")
    assert maps.shape == (3, SIDE_PX, SIDE_PX)
    assert maps.dtype == np.float16


def test_losses_that_were_asked_for_are_evaluated(study: Path) -> None:
    frame = pd.read_csv(study / "output" / f"test_loss_{MODEL}.csv")
    assert [
        name for name in frame.columns if name in {*LOSSES, "ms-ssim", "lpips-vgg", "lpips-alex"}
    ] == LOSSES
    measures = read_table(study / "output" / "loss_correlations.csv", "loss_correlations")["measure"]
    assert set(LOSSES) <= set(measures)


def test_the_broken_picture_is_named_by_every_stage_that_reads_pictures(study: Path) -> None:
    skipped = read_table(study / "output" / "skipped_images.csv", "skipped_images")
    broken = skipped[skipped["image_id"] == BROKEN]
    assert {"autoencoder_finetune", "autoencoder_test", "latent_analysis", "feature_analysis"} <= set(
        broken["stage"]
    )
    assert broken["reason"].str.len().gt(5).all()


@pytest.mark.parametrize("pattern", [
    f"{MODEL}.pth", f"reconstructions_{MODEL}.png", f"mlp_{MODEL}.pth", "category_*.png", "category_*.csv",
    "ig/*.png",
])  # fmt: skip
def test_promised_files_are_there(study: Path, pattern: str) -> None:
    found = [path for path in (study / "output").glob(pattern) if path.stat().st_size > 0]
    assert found


def test_random_weights_are_said_in_the_tables(study: Path) -> None:
    frame = pd.read_csv(study / "output" / f"test_loss_{MODEL}.csv")
    assert frame["caveat"].str.contains("random weights").all()


@pytest.mark.parametrize("script", ["autoencoder_test.py", "autoencoder_evaluation.py"])
def test_a_stage_run_again_gives_the_same_bytes(study: Path, tmp_path: Path, script: str) -> None:
    shutil.copytree(study, tmp_path / "study")
    before = checksums(tmp_path / "study" / "output")
    done = run_script_process(script, *STAGES[script], "--overwrite", cwd=tmp_path / "study")
    assert done.returncode == 0, done.stderr
    after = checksums(tmp_path / "study" / "output")
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert set(after) == set(before)


def test_the_report_reads_what_the_stages_wrote(study: Path) -> None:
    done = run_script_process("run_pipeline.py", "--report-only", cwd=study)
    assert done.returncode == 0, done.stderr
    page = (study / "output" / "report.html").read_text(encoding="utf-8")
    assert "8 of 8 stages have run." in page
    assert "is missing. It is written by" not in page
    assert "has no row for this number" not in page
    assert page.count("<img ") >= 8


def test_without_anything_each_script_says_what_to_do(tmp_path: Path) -> None:
    """No MemCat, no checkpoint, no results: one message, exit code 2, nothing half-written."""

    def run(script: str):
        folder = tmp_path / script
        folder.mkdir()
        return run_script_process(script, cwd=folder)

    with ThreadPoolExecutor(2) as pool:
        for script, done in zip(SCRIPTS, pool.map(run, SCRIPTS), strict=True):
            assert_user_error(done)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            assert errors, f"{script}: {done.stderr}"
            # Where to get it, or which command writes it, or how to do without.
            assert any(word in done.stderr for word in ("--sample", "--demo", "python ")), (
                f"{script}: {done.stderr}"
            )
            left = [
                path.name
                for path in (tmp_path / script).rglob("*")
                if path.suffix in {".csv", ".npy", ".pth", ".png"}
            ]
            assert left == [], script


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_flag_ends_with_code_2(script: str, tmp_path: Path) -> None:
    assert (PROJECT_ROOT / script).is_file()
    done = run_script_process(script, "--no-such-flag", cwd=tmp_path)
    assert_user_error(done, "unrecognized arguments: --no-such-flag")
    assert list(tmp_path.iterdir()) == []
