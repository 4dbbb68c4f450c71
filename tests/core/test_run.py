import json
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import dataset_args

from utils.core.claims import written_by
from utils.core.cli import typed_command
from utils.core.device import resolve_device, resolve_precision, seed_everything
from utils.core.errors import UserError
from utils.core.files import atomic_path, check_writable, file_sha256, write_json
from utils.core.names import SAMPLE_CAVEAT
from utils.core.records import last_runs, read_run
from utils.core.run import Run
from utils.core.tables import read_table
from utils.data.dataset import load_dataset


def arguments(output: Path, **more: object) -> Namespace:
    return Namespace(output_path=output, seed=3, device="cpu", **more)


def test_atomic_path_replaces_only_when_all_went_well(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"

    def killed_half_way():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed_half_way()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["table.csv"]


def test_an_empty_folder_in_the_place_of_a_file_gives_way_and_another_is_named(tmp_path):
    target = tmp_path / "table.csv"
    target.mkdir()
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    target.unlink()
    (target / "mine").mkdir(parents=True)

    def replace():
        with atomic_path(target) as temporary:
            temporary.write_text("new")

    with pytest.raises(OSError, match=r"table\.csv"):
        replace()
    assert (target / "mine").exists()


def test_a_run_needs_no_current_folder_where_its_paths_are_absolute(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with Run("some_stage", arguments(tmp_path / "out")) as run:
        run.write_table(training(), "training", "m")
    assert read_run(tmp_path / "out", "some_stage")["working_directory"] == ""


def test_check_writable_names_the_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="file is a file; a folder is needed"):
        check_writable(file)
    with pytest.raises(UserError, match="cannot be written to"):
        check_writable(file / "below")
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # Root may write anywhere, so the refusal is provoked where the system would make it.
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("utils.core.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot be written to \(Permission denied\).*--output-path"):
        check_writable(tmp_path)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", "", "cuda:"])
def test_unknown_devices_are_refused(name):
    if name == "cuda:":  # an empty number is read as no number
        pytest.skip("same as cuda") if torch.cuda.is_available() else None
    with pytest.raises(UserError, match="--device"):
        resolve_device(name)


def test_a_missing_device_is_an_error_and_no_silent_switch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="asks for CUDA device 0, but this machine has 0"):
        resolve_device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", torch.device("cpu")) == expected
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    assert resolve_precision("float32", torch.device("cpu")) == "float32"


def test_seeding_makes_every_generator_repeat():
    def draw():
        return float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002 - the global state is what is tested

    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first


def test_the_record_says_what_was_done(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("a\n1\n")
    with Run("some_stage", arguments(tmp_path / "out", limit=4)) as run:
        run.add_input(source)
        result = run.add_output(tmp_path / "out" / "result.csv")
        result.write_text("a\n2\n")
        run.count(images=4, done=3)
        assert run.device == torch.device("cpu")
    record = json.loads((tmp_path / "out" / "run_some_stage.json").read_text())
    assert record["status"] == "complete"
    assert record["arguments"]["limit"] == 4
    assert record["seed"] == 3
    assert record["device"] == "cpu"
    assert record["counts"] == {"images": 4, "done": 3}
    assert record["inputs"][str(source)]["sha256"] == file_sha256(source)
    assert record["outputs"] == ["result.csv"]
    assert record["output_sha256"] == {"result.csv": file_sha256(tmp_path / "out" / "result.csv")}
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["sample"] is False
    assert record["random_weights"] is False
    assert record["started"] <= record["ended"]


def test_a_table_that_a_run_brings_up_to_date_is_no_input(tmp_path):
    """Or the pipeline would find that its input has changed since."""
    frame = pd.DataFrame({"epoch": [1], "images": [2], "loss_mean": [0.5]})
    frame = frame.assign(loss_first_half=0.5, loss_second_half=0.5)
    with Run("some_stage", arguments(tmp_path)) as run:
        run.write_table(frame, "training", "m")
    with Run("some_stage", arguments(tmp_path)) as run:
        found = run.read_table("training", "m", inherit=False)
        run.write_table(found.assign(loss_mean=0.25), "training", "m")
    record = json.loads((tmp_path / "run_some_stage.json").read_text())
    assert (list(record["inputs"]), list(record["outputs"])) == ([], ["training_m.csv"])


def test_a_run_that_failed_replaces_no_record_of_a_complete_one(tmp_path):
    """A typing error overwrote what the report rests on."""
    with pytest.raises(UserError), Run("some_stage", arguments(tmp_path)):
        raise UserError("no such thing")
    assert read_run(tmp_path, "some_stage") is None
    record = json.loads((tmp_path / "runs" / "some_stage.failed.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "no such thing")
    with Run("some_stage", arguments(tmp_path)) as run:
        run.count(images=7)
    assert not (tmp_path / "runs" / "some_stage.failed.json").exists()
    with pytest.raises(KeyboardInterrupt), Run("some_stage", arguments(tmp_path)):
        raise KeyboardInterrupt
    assert read_run(tmp_path, "some_stage")["counts"] == {"images": 7}
    assert read_run(tmp_path, "some_stage", complete=False)["status"] == "interrupted"
    (found,) = last_runs(tmp_path, ["some_stage", "another"]).values()
    assert (found["counts"], found["later_failure"]["status"]) == ({"images": 7}, "interrupted")


@pytest.mark.parametrize("damage", ["cut short", "a list", "a folder"])
def test_a_damaged_record_counts_as_none_until_the_stage_writes_it_anew(tmp_path, caplog, damage):
    with Run("some_stage", arguments(tmp_path)):
        pass
    path = tmp_path / "run_some_stage.json"
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_text("[]" if damage == "a list" else path.read_text()[:40])
    assert read_run(tmp_path, "some_stage") is None
    assert ("Until then it counts as none." in caplog.text) == (damage != "a folder")
    assert last_runs(tmp_path, ["some_stage"]) == {}
    with Run("some_stage", arguments(tmp_path)):
        pass
    assert read_run(tmp_path, "some_stage")["status"] == "complete"


def test_a_run_that_is_no_part_of_the_study_has_a_record_of_its_own(tmp_path):
    with Run("mlp_predict", arguments(tmp_path)) as run:
        run.count(images=7)
    with Run("mlp_predict", arguments(tmp_path), kind="predict") as run:
        run.count(images=1)
    with pytest.raises(UserError), Run("mlp_predict", arguments(tmp_path), kind="predict"):
        raise UserError("no such picture")
    assert read_run(tmp_path, "mlp_predict")["counts"] == {"images": 7}
    assert read_run(tmp_path, "mlp_predict", "predict")["counts"] == {"images": 1}
    assert read_run(tmp_path, "mlp_predict", "predict", complete=False)["error"] == "no such picture"
    assert read_run(tmp_path, "mlp_predict", complete=False) is None


def training(loss=0.5):
    return pd.DataFrame(
        {
            "epoch": [1],
            "images": [2],
            "loss_mean": [loss],
            "loss_first_half": [0.5],
            "loss_second_half": [0.5],
        }
    )


def test_what_each_file_was_written_by_outlives_runs_of_other_models(tmp_path, monkeypatch):
    """After a second model was added, the first one's training curve vanished from the report."""
    commands = []
    for model in ("a", "b"):
        monkeypatch.setattr("utils.core.cli._command", ["some_stage.py", "--model-names", model])
        commands.append(typed_command())
        with Run("some_stage", arguments(tmp_path)) as run:
            run.write_table(training(), "training", model)
    monkeypatch.setattr("utils.core.cli._command", ["some_stage.py", "--model-names", "c"])

    def stopped_half_way():
        with Run("some_stage", arguments(tmp_path)) as run:
            run.write_table(training(0.25), "training", "b")
            raise UserError("no space")

    with pytest.raises(UserError, match="no space"):
        stopped_half_way()
    claims = written_by(tmp_path)
    assert {name: list(claim.command) for name, claim in claims.items()} == {
        "training_a.csv": commands[0],
        "training_b.csv": ["some_stage.py", "--model-names", "c"],
    }
    assert claims["training_b.csv"].sha256 == file_sha256(tmp_path / "training_b.csv")
    assert last_runs(tmp_path, ["some_stage"])["some_stage"]["outputs"] == [
        "training_b.csv",
        "training_a.csv",
    ]
    (tmp_path / "training_a.csv").unlink()
    assert last_runs(tmp_path, ["some_stage"])["some_stage"]["outputs"] == ["training_b.csv"]


def test_sample_and_random_weights_are_loud_and_travel_with_the_tables(tmp_path):
    with Run("autoencoder_test", arguments(tmp_path)) as run:
        run.note_sample()
        run.note_random("LPIPS")
        path = run.write_table(
            pd.DataFrame(
                {
                    "epoch": [1],
                    "images": [2],
                    "loss_mean": [0.5],
                    "loss_first_half": [0.5],
                    "loss_second_half": [0.5],
                }
            ),
            "training",
            "m",
        )
    assert set(read_table(path, "training")["caveat"]) == {f"random weights: LPIPS; {SAMPLE_CAVEAT}"}
    record = json.loads((tmp_path / "run_autoencoder_test.json").read_text())
    assert record["sample"] is True
    assert record["random_weights"] is True
    with Run("autoencoder_test", arguments(tmp_path)):
        pass  # another model since, with nothing to say: the table still says what it is
    with Run("autoencoder_evaluation", arguments(tmp_path)) as run:
        assert run.caveat == ""
        run.read_table("training", "m", inherit=False)
        assert run.caveat == ""
        run.read_table("training", "m")
        assert run.caveat == f"random weights: LPIPS; {SAMPLE_CAVEAT}"


def test_caveats_of_one_model_do_not_mark_the_next(tmp_path):
    with Run("some_stage", arguments(tmp_path)) as run:
        run.note_caveats([SAMPLE_CAVEAT])
        with run.one_model():
            run.note_caveats(["random weights: autoencoder"])
            assert run.caveats == ["random weights: autoencoder", SAMPLE_CAVEAT]
        assert run.caveats == [SAMPLE_CAVEAT]
    record = json.loads((tmp_path / "run_some_stage.json").read_text())
    assert record["caveats"] == ["random weights: autoencoder", SAMPLE_CAVEAT]
    assert record["random_weights"] is True


def test_the_score_table_and_the_folders_of_pictures_are_inputs(tmp_path, mini_memcat):
    args = dataset_args(mini_memcat, tmp_path / "output")
    gone = next(path for path in sorted(mini_memcat.rglob("*.jpg")))
    with Run("autoencoder_test", args) as run:
        dataset = load_dataset(args)
        dataset.skipped.append(("food/nothing_yet/1.jpg", "in the table but not on disk"))
        dataset.note_on(run)
    inputs = json.loads((tmp_path / "output" / "run_autoencoder_test.json").read_text())["inputs"]
    assert inputs[str(dataset.scores_csv)]["sha256"] == file_sha256(dataset.scores_csv)
    assert str(gone.parent) in inputs
    assert str(dataset.root / "food" / "nothing_yet") in inputs


def test_skipped_images_are_kept_per_stage(tmp_path):
    for stage, rows in (
        ("one", [("a.jpg", "empty")]),
        ("two", [("b.jpg", "cut short")]),
        ("one", [("c.jpg", "gone")]),
    ):
        with Run(stage, arguments(tmp_path)) as run:
            run.report_skipped(rows)
    table = read_table(tmp_path / "skipped_images.csv", "skipped_images")
    assert sorted(zip(table["image_id"], table["stage"], strict=True)) == [("b.jpg", "two"), ("c.jpg", "one")]


def test_when_nothing_is_left_out_any_more_all_is_as_if_nothing_ever_was(tmp_path):
    for stage, rows in (("one", [("a.jpg", "empty")]), ("two", []), ("one", [])):
        with Run(stage, arguments(tmp_path)) as run:
            run.report_skipped(rows)
    assert not (tmp_path / "skipped_images.csv").exists()
    for stage in ("one", "two"):
        record = json.loads((tmp_path / f"run_{stage}.json").read_text())
        assert record["outputs"] == []
        assert record["inputs"] == {}


def test_skipped_images_of_every_step_of_a_run_are_kept(tmp_path):
    with Run("one", arguments(tmp_path)) as run:
        run.report_skipped([("a.jpg", "no latent code")])
        run.report_skipped([("b.jpg", "cut short")])
    table = read_table(tmp_path / "skipped_images.csv", "skipped_images")
    assert table["image_id"].tolist() == ["a.jpg", "b.jpg"]
    assert json.loads((tmp_path / "run_one.json").read_text())["counts"]["skipped"] == 2


def test_write_json_is_atomic_and_readable(tmp_path):
    write_json(tmp_path / "x.json", {"path": Path("a/b"), "ü": 1})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "path": os.path.join("a", "b"),
        "ü": 1,
    }
