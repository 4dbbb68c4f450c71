"""The report: every number from the file it names, everything missing said, nothing outside the page."""

import base64
import io
import json
import re
from argparse import Namespace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.run import Run
from utils.core.tables import output_file, write_table
from utils.report import sections
from utils.report.blocks import show, show_p, show_range, table_block, table_row
from utils.report.report import FIGURES_EMBEDDED, OPTIONAL, SCRIPTS, write_report
from utils.statistics.correlation_tables import correlation_rows

MODEL = "mem_vgg_autoencoder"
LOSSES = ["mse", "lpips-sq"]


def fill(table: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the declared columns a test does not care about."""
    values = {"text": "x", "int": 1, "float": 0.5, "bool": True}
    missing = {
        c.name: values[c.kind]
        for c in TABLES[table].columns
        if c.name not in frame and c.name not in TABLES[table].optional
    }
    names = [c.name for c in TABLES[table].columns if c.name in frame or c.name in missing]
    more = [name for name in frame if name not in names] if TABLES[table].open_ended else []
    return frame.assign(**missing)[names + more]


def write(folder: Path, table: str, frame: pd.DataFrame, model: str | None = None) -> None:
    write_table(fill(table, frame), output_file(folder, table, model), table)


def write_run(folder: Path, name: str, outputs: tuple[str, ...] = (), **changes: object) -> None:
    record = {
        "status": "complete",
        "caveats": [],
        "outputs": list(outputs),
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:05:06+00:00",
        "device": "cpu",
        "counts": {"images": 1234},
        "command": [f"{name}.py", "--output-path", "x"],
        "code": {"commit": "0123abcdef" * 4, "modified": True},
        "versions": {"torch": "2.15.0"},
        "platform": "Linux",
    }
    (folder / f"run_{name}.json").write_text(json.dumps(record | changes))


def _distinctiveness(correlations: pd.DataFrame) -> pd.DataFrame:
    """One measure: with error held constant, plain, with error itself, and with an error that is not shown."""
    rows = pd.concat([correlations.iloc[:1]] * 4).assign(measure="distinctiveness")
    return rows.assign(
        ci_low_within_category=[np.nan, -0.5, np.nan, np.nan],
        ci_high_within_category=[np.nan, -0.1, np.nan, np.nan],
        target=["memorability", "memorability", "lpips-sq", "mse"],
        held_constant=["lpips-sq", "", "", ""],
        rho=[0.12, -0.4321, 0.87, 0.99],
    )


def write_results(tmp_path: Path) -> None:
    """Write every table the report reads, and a figure of one stage."""
    rng = np.random.default_rng(0)
    images = pd.DataFrame({"image_id": [f"a/{number:03d}.jpg" for number in range(60)]})
    images["category"] = np.repeat(["animal", "food"], 30)
    images["memorability"] = rng.uniform(0.4, 0.9, 60)
    for loss in LOSSES:
        images[loss] = images["memorability"] + rng.normal(0, 0.1, 60)
    write(tmp_path, "splits", images.assign(split="test"))
    write(tmp_path, "test_loss", images, MODEL)
    write(tmp_path, "training", pd.DataFrame({"epoch": [1], "images": [60], "loss_mean": [0.123456]}), MODEL)
    correlations = correlation_rows(images, LOSSES, resamples=50).assign(model=MODEL)
    correlations["ceiling"] = 0.875
    write(tmp_path, "loss_correlations", correlations)
    write(
        tmp_path,
        "loss_comparisons",
        pd.DataFrame(
            {
                "model_a": MODEL,
                "model_b": MODEL,
                "measure_a": ["mse", "mae", "ssim"],
                "q": [0.01, 0.2, np.nan],
            }
        ),
    )
    write(
        tmp_path,
        "distinctiveness_correlations",
        _distinctiveness(correlations),
    )
    metrics = pd.DataFrame(
        [
            ("mlp", "spearman", 0.61, 0.50, 0.70),
            ("mlp", "mse", 0.0123, 0.01, 0.02),
            ("ridge", "spearman", 0.65, 0.55, 0.75),
            ("mlp - ridge", "spearman", -0.04, -0.1, 0.02),
            ("noise-ceiling", "spearman", 0.79, np.nan, np.nan),
        ],
        columns=["predictor", "metric", "value", "ci_low", "ci_high"],
    ).assign(model=MODEL, n=18)
    write(tmp_path, "mlp_metrics", metrics)
    ig = (
        images[["image_id"]]
        .head(4)
        .assign(convergence_delta=[0.001, -0.003, 0.002, 0.0], positive_share=[0.2, 0.4, 0.6, 0.8])
    )
    write(tmp_path, "ig", ig, MODEL)
    features = pd.DataFrame(
        {"feature": ["clutter", "hue", "flat"], "target": "memorability", "model": "", "n": 60}
    )
    features = features.assign(
        rho=[0.2, -0.55, np.nan],
        ci_low=[0.1, -0.7, np.nan],
        ci_high=[0.3, -0.4, np.nan],
        q=[0.04, 0.0001, np.nan],
    )
    write(tmp_path, "feature_correlations", features)
    models = pd.DataFrame(
        {"learner": "ridge", "predictors": ["image features", "both"], "model": ["", MODEL], "n": 60}
    )
    models = models.assign(rho=[0.31, 0.44], q=[0.02, 0.003])
    write(tmp_path, "feature_model", models.assign(ci_low=0.2, ci_high=0.5, r2=0.09))
    blocks = pd.DataFrame({"model": MODEL, "block": ["image features", "together"], "n": 60, "columns": 9})
    blocks = blocks.assign(alone=[0.11, 0.3], unique=[0.073, 0.3], shared=[0.037, 0.0], q=[0.01, np.nan])
    write(tmp_path, "feature_commonality", blocks.assign(ci_low=[0.02, 0.2], ci_high=[0.12, 0.4]))
    Image.effect_noise((1800, 300), 40).convert("RGB").save(tmp_path / "losses.png")
    Image.new("RGB", (600, 300), "white").save(tmp_path / "plain.png")
    for name in SCRIPTS.keys() - set(OPTIONAL):
        write_run(tmp_path, name)
    write_run(tmp_path, "autoencoder_evaluation", ("losses.png", "plain.png", "losses.pdf", "gone.png"))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An output folder with every table the report reads, and a figure of one stage."""
    write_results(tmp_path)
    return tmp_path


def read(folder: Path) -> str:
    """The report's visible text, tags taken out."""
    page = write_report(folder)[0].read_text(encoding="utf-8")
    body = page.split("</style>")[1].split("<script>")[0]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def test_headline_numbers_are_those_of_the_tables(results: Path) -> None:
    text = read(results)
    losses = pd.read_csv(results / "loss_correlations.csv").set_index("measure").loc["lpips-sq"]
    assert (
        f"Reconstruction error and memorability primary hypothesis ρ = {losses.rho:.2f} "
        f"[{losses.ci_low:.2f}, {losses.ci_high:.2f}] "
        f"lpips-sq of {MODEL}, n = 60; within category {losses.rho_within_category:.2f} from loss_correlations.csv"
    ) in text
    assert "Distinctiveness and memorability exploratory ρ = -0.43" in text
    assert "Noise ceiling, all images ρ = 0.88 the highest correlation" in text
    assert (
        "Noise ceiling, test images ρ = 0.79 what a prediction can be expected to reach on the 18 test"
        in text
    )
    assert (
        f"ρ = 0.61 [0.50, 0.70] MLP on {MODEL}, 18 test images; beside it: ridge 0.65; no finding over the whole "
        "study, q 0.500 from mlp_metrics.csv" in text
    )
    assert "Strongest image feature exploratory" in text
    assert (
        "ρ = -0.55 [-0.70, -0.40] hue, n = 60, the largest of 2; a finding over the whole study, q < 0.001 from "
        "feature_correlations.csv" in text
    )


def test_sections_hold_every_loss_predictor_and_feature(results: Path) -> None:
    text = read(results)
    assert text.startswith(
        " What makes these images memorable 60 images. Last stage ended 2026-01-02 03:05:06 UTC."
    )
    assert "8 of 8 stages have run." in text
    losses = pd.read_csv(results / "loss_correlations.csv")
    for _, row in losses.iterrows():
        assert f" {row.measure} 60 {row.rho:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}] " in text
    assert (
        "1 of 3 compared pairs of correlations differ (q over the whole study < 0.05; loss_comparisons.csv)."
        in text
    )
    assert (
        "metric mlp ridge noise-ceiling spearman 0.61 [0.50, 0.70] 0.65 [0.55, 0.75] 0.79 mse 0.0123 [0.0100, 0.0200]"
        in text
    )
    assert "mlp - ridge" not in text
    assert " distinctiveness 60 -0.43 " in text
    assert " [-0.50, -0.10] " in text
    assert " distinctiveness, lpips-sq held constant 60 0.12 " in text
    assert " distinctiveness with lpips-sq 60 0.87 " in text
    assert "1 further rows, with the other losses, are in the file." in text
    assert text.index("hue 60 -0.55") < text.index("clutter 60 0.20")
    assert "ridge image features – 60 0.31 [0.20, 0.50] 0.020 0.09" in text
    assert f"ridge both {MODEL} 60 0.44 [0.20, 0.50] 0.003 0.09" in text
    assert f"{MODEL} image features 60 0.110 0.073 [0.020, 0.120] 0.037 0.010" in text
    assert "0.1235" in text
    assert f"Code revision {'0123abcdef' * 4}, modified. Linux. torch 2.15.0." in text
    assert (
        "python feature_analysis.py --output-path x complete 2026-01-02 03:04:05 1 min 1 s cpu images 1,234"
        in text
    )
    assert "images 1,234" in text


def test_figures_are_inside_and_nothing_is_fetched(results: Path) -> None:
    path, figures = write_report(results)
    page = path.read_text(encoding="utf-8")
    assert figures == 2  # the PDF and a PNG it recorded are gone
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(https?:|//|file:)""", page) == []
    assert re.findall(r"<script[^>]+>|fetch\(|XMLHttpRequest|import\(", page) == []  # what it has is inside
    embedded = re.findall(
        r'src="data:image/(png|jpeg);base64,([^"]+)" alt="([^"]+)" width="(\d+)" height="(\d+)"', page
    )
    assert [(kind, alt, width, height) for kind, _, alt, width, height in embedded] == [
        ("png", "plain.", "400", "200"),
        ("jpeg", "losses.", "1067", "178"),
    ]
    with Image.open(io.BytesIO(base64.b64decode(embedded[1][1]))) as image:
        assert image.size == (1600, 267)


def test_many_figures_fold_and_the_rest_is_counted(results: Path) -> None:
    names = [f"picture_{number:02d}.png" for number in range(FIGURES_EMBEDDED + 3)]
    for name in names:
        Image.new("RGB", (30, 20)).save(results / name)
    write_run(results, "category_plot", tuple(names))
    text = read(results)
    assert f"{FIGURES_EMBEDDED - 6} more figures of this stage" in text
    assert f"3 further pictures are in {results}." in text
    assert "picture_23.png" in text
    assert "picture_24.png" not in text


def draw(folder: Path, name: str, kind: str = "") -> None:
    """Let a run of stage 6 draw one figure."""
    with (
        Run("mlp_predict", Namespace(output_path=folder), kind) as run,
        atomic_path(folder / name) as temporary,
    ):
        Image.new("RGB", (30, 20)).save(temporary)
        run.add_output(folder / name)


def test_a_run_of_another_model_or_kind_hides_no_figure_of_the_study(results: Path) -> None:
    """After a second model was added, the first one's figures vanished."""
    draw(results, "mlp_roc_pr_a.png")
    draw(results, "mlp_roc_pr_gone.png")
    draw(results, "mlp_roc_pr_b.png")
    draw(results, "contact_sheet.png", kind="predict")
    (results / "mlp_roc_pr_gone.png").unlink()
    path, figures = write_report(results)
    page = path.read_text(encoding="utf-8")
    assert figures == 4
    assert page.count("<code>mlp_roc_pr_a.png") == page.count("<code>mlp_roc_pr_b.png") == 1
    assert "gone.png" not in page
    assert "contact_sheet.png" not in page


def test_a_failure_since_the_last_complete_run_is_said_beside_its_results(results: Path) -> None:
    """A typing error hid a complete table behind "the last run failed"."""
    with pytest.raises(UserError), Run("autoencoder_test", Namespace(output_path=results)):
        raise UserError("The checkpoint foo.pth is not in x.")
    text = read(results)
    assert "8 of 8 stages have run." in text
    assert "ended as failed: The checkpoint foo.pth is not in x. What stands here is of the last" in text


def test_without_caveats_there_is_no_banner(results: Path) -> None:
    assert "NOT A RESULT" not in read(results)


@pytest.mark.parametrize(("caveats", "said"), [
    (["sample data (planted scores)", "random weights: style"], "The scores are planted and some networks have random"),
    (["sample data (planted scores)"], "The scores are planted: the numbers"),
    (["random weights: style"], "Some networks have random weights"),
])  # fmt: skip
def test_caveats_of_any_stage_are_loud(results: Path, caveats: list[str], said: str) -> None:
    write_run(results, "mlp_predict", caveats=caveats)
    text = read(results)
    assert f"NOT A RESULT ABOUT PEOPLE {said}" in text
    for caveat in caveats:
        assert caveat in text
    assert text.index("NOT A RESULT") < text.index("What came out")


def test_an_edited_table_is_said_without_calling_the_rest_nothing(results: Path) -> None:
    write_run(results, "mlp_predict", caveats=["edited by hand: splits.csv"])
    text = read(results)
    assert (
        "READ WITH CARE What the stages say of their own numbers: 1 reason edited by hand: splits.csv" in text
    )
    assert "NOT A RESULT" not in text
    assert "The tables say of themselves: edited by hand: splits.csv." in text


def test_a_stage_that_has_not_run_is_said(results: Path) -> None:
    (results / "run_mlp_predict.json").unlink()
    text = read(results)
    assert "7 of 8 stages have run." in text
    assert "Not there: this stage has not been run. Run: python mlp_predict.py" in text


def test_a_failed_stage_is_said(results: Path) -> None:
    write_run(results, "latent_analysis", status="failed", error="no space <left>")
    assert "Not there: the last run of this stage ended as failed: no space <left>" in read(results)


@pytest.mark.parametrize(("table", "command"), [
    ("loss_correlations", "python autoencoder_evaluation.py"),
    ("distinctiveness_correlations", "python latent_analysis.py --distinctiveness-analysis"),
    ("mlp_metrics", "python mlp_predict.py --evaluate"),
    ("feature_correlations", "python feature_analysis.py --evaluate-features"),
])  # fmt: skip
def test_a_missing_table_is_said_twice_with_its_command(results: Path, table: str, command: str) -> None:
    (results / f"{table}.csv").unlink()
    assert read(results).count(f"{table}.csv is missing. It is written by: {command}") >= 2


def test_missing_tables_of_models_are_said(results: Path) -> None:
    for name in ("training", "test_loss", "ig"):
        (results / f"{name}_{MODEL}.csv").unlink()
    text = read(results)
    assert "training_<model>.csv is missing. It is written by: python autoencoder_finetune.py" in text
    assert "test_loss_<model>.csv is missing. It is written by: python autoencoder_test.py" in text
    assert "ig_<model>.csv is missing. It is written by: python model_interpretation_IG.py --save" in text


def test_a_broken_table_is_said_and_the_rest_stands(results: Path) -> None:
    path = results / "mlp_metrics.csv"
    path.write_text(path.read_text().replace("0.61", "good"))
    text = read(results)
    assert "column value must hold finite numbers, found line 2: 'good'" in text
    assert "Distinctiveness and memorability exploratory ρ = -0.43" in text


def test_undefined_numbers_are_words_not_nan(results: Path) -> None:
    frame = pd.read_csv(results / "loss_correlations.csv")
    frame[["rho", "ci_low", "ci_high", "ceiling", "rho_within_category", "q", "rho_over_ceiling"]] = np.nan
    write(results, "loss_correlations", frame)
    text = read(results)
    assert "nan" not in text.lower().split()
    assert "Reconstruction error and memorability primary hypothesis undefined" in text
    assert (
        "loss_correlations.csv has none: the score table has no hits, false alarms and responses per image."
        in text
    )


@pytest.mark.parametrize(
    "table", ["loss_correlations", "distinctiveness_correlations", "mlp_metrics", "feature_correlations"]
)
def test_a_table_without_rows_is_said(results: Path, table: str) -> None:
    path = results / f"{table}.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert f"{path} has no row for this number." in read(results)


def test_skipped_images_are_counted(results: Path) -> None:
    write(
        results,
        "skipped_images",
        pd.DataFrame({"image_id": ["a", "b", "b"], "reason": "empty", "stage": "autoencoder_test"}),
    )
    assert "2 images were left out by some stage: skipped_images.csv." in read(results)


def test_names_are_escaped(results: Path) -> None:
    write_run(results, "category_plot", status="failed", error="<img src=x onerror=alert(1)>")
    page = write_report(results)[0].read_text(encoding="utf-8")
    assert "<img src=x" not in page


def test_the_same_folder_gives_the_same_bytes(results: Path) -> None:
    first = write_report(results)[0].read_bytes()
    findings = (results / "study_findings.csv").read_bytes()
    assert write_report(results)[0].read_bytes() == first
    assert (results / "study_findings.csv").read_bytes() == findings


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_report(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no record of any stage, so there is nothing to report. Run the study first: "
        "python run_pipeline.py (or python run_pipeline.py --demo)."
    )
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_written_for_reading() -> None:
    assert [show(value) for value in (0.456, -0.001, 12345.6, np.nan, None)] == [
        "0.46",
        "0.00",
        "12,345.60",
        "–",
        "–",
    ]
    assert [show(value, 4) for value in (0.00002, 0.0, 0.12345)] == ["2.0e-05", "0.0000", "0.1235"]
    assert [show_p(value) for value in (0.0004, 0.0304, 1.0, np.nan)] == ["< 0.001", "0.030", "1.000", "–"]
    assert [show_range(-0.001, 0.25), show_range(np.nan, 0.2)] == ["[0.00, 0.25]", ""]


def test_measures_of_distinctiveness_have_a_table_of_their_own_and_a_word_on_their_signs(results):
    path = results / "distinctiveness_correlations.csv"
    frame = pd.read_csv(path, keep_default_na=False)
    plain = frame[frame["held_constant"] == ""].iloc[:1].assign(target="memorability")
    more = [
        plain.assign(measure=name, rho=rho, ci_low=rho - 0.05, ci_high=rho + 0.05)
        for name, rho in (("centroid", 0.2), ("nearest_euclidean", -0.1), ("centroid_within_category", 0.3))
    ]
    pd.concat([frame, *more]).to_csv(path, index=False)
    first, second = sections._distinctiveness(results)
    assert [row["cells"][0]["text"] for row in second["rows"]] == [
        "centroid",
        "nearest_euclidean",
        "centroid_within_category",
    ]
    assert second["text"].startswith("The sign hangs on the measure: by 1 of 2 measures")
    assert not {"centroid", "nearest_euclidean"} & {row["cells"][0]["text"] for row in first["rows"]}


def test_without_categories_nothing_is_said_of_them(results: Path) -> None:
    for path in results.glob("*.csv"):
        frame = pd.read_csv(path, keep_default_na=False)
        within = [name for name in frame if "within_category" in name]
        frame.assign(**dict.fromkeys(within, ""), **({"category": ""} if "category" in frame else {})).to_csv(
            path, index=False
        )
    (results / "run_category_plot.json").unlink()
    text = read(results)
    found = re.findall(r".{30}\bcategor.{30}", text.replace("One category, or none known", ""), re.IGNORECASE)
    assert found == []
    assert "7 of 7 stages have run." in text
    assert "Reconstruction error and memorability primary hypothesis" in text


def test_columns_and_rows_without_a_number_are_left_out(results: Path) -> None:
    metrics = pd.read_csv(results / "mlp_metrics.csv")
    metrics.loc[metrics["metric"] == "mse", ["value", "ci_low", "ci_high"]] = np.nan
    write(results, "mlp_metrics", metrics)
    (block,) = sections._prediction(results)
    assert [row["cells"][0]["text"] for row in block["rows"]] == ["spearman"]
    table = table_block(
        "t", [], ["name", "never", "once"], [table_row(["a", "–", "1"]), table_row(["b", "", "–"])]
    )
    assert table["header"] == ["name", "once"]
    assert [[cell["text"] for cell in row["cells"]] for row in table["rows"]] == [["a", "1"], ["b", "–"]]


def test_pictures_without_scores_get_what_is_about_pictures_and_no_list_of_what_is_not_there(
    results: Path,
) -> None:
    for path in results.glob("*.csv"):
        if not path.name.startswith("test_loss"):
            path.unlink()
    losses = pd.read_csv(results / f"test_loss_{MODEL}.csv").assign(memorability=np.nan, category="")
    write(results, "test_loss", losses, MODEL)
    for name in SCRIPTS:
        if name != "autoencoder_test":
            (results / f"run_{name}.json").unlink(missing_ok=True)
    text = read(results)
    assert "60 images without scores: what follows is about the pictures" in text
    assert "1 of 1 stages have run." in text
    assert f"Reconstruction error of {MODEL}" in text
    assert "Not there" not in text
    assert "is missing" not in text
    write_run(results, "feature_analysis", status="failed", error="no space left")
    assert "Not there: the last run of this stage ended as failed: no space left" in read(results)
