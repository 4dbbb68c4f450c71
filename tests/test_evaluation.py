"""Stage 3: statistics of planted losses, joins by name, foreign tables, figures, and what users get wrong."""

import csv
import itertools
import json
import logging
import shutil
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
from conftest import assert_user_error, run_script_process
from correlated import plain_within, row_of
from PIL import Image
from scipy import stats

import autoencoder_evaluation as evaluation
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.core.run import Run
from utils.core.tables import output_file, read_table, write_table
from utils.reconstruction import evaluation_stage
from utils.reconstruction.figures import draw_forest, draw_reliability, draw_scatter, smooth_curve
from utils.reconstruction.foreign_table import KEY_NAMES, recognise
from utils.statistics.clusters import find_clusters
from utils.statistics.correlation_tables import (
    paired_difference,
    partial_spearman,
    score_ceiling,
)
from utils.statistics.mixed_model import mixed_model_rows

QUICK = ("--resamples", "60", "--splits", "5")
MODEL, OTHER = "mem_vgg_autoencoder", "other"


def planted_scores(images=120, seed=3):
    """A MemCat-like score table: three categories of two subcategories, scores from counts."""
    rng = np.random.default_rng(seed)
    category = np.repeat(["animal", "food", "vehicle"], -(-images // 3))[:images]
    responses = rng.integers(80, 110, images)
    hits = rng.binomial(responses, rng.uniform(0.35, 0.95, images))
    alarms = rng.binomial(responses, 0.1)
    frame = pd.DataFrame(
        {
            "image_file": [f"{number:06d}.jpg" for number in range(images)],
            "category": category,
            "subcategory": [f"{name} {number % 2}" for number, name in enumerate(category)],
            "H": hits,
            "FA": alarms,
            "n_resp": responses,
        }
    )
    frame["memorability_wo_fa_correction"] = hits / responses
    frame["memorability_w_fa_correction"] = (hits - alarms) / responses
    return frame


def planted_losses(scores, seed=0, losses=LOSSES):
    """A test_loss table whose losses follow memorability less and less."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "image_id": scores.category + "/" + scores.subcategory + "/" + scores.image_file,
            "category": scores.category,
            "subcategory": scores.subcategory,
            "memorability": scores.memorability_w_fa_correction,
        }
    )
    for position, loss in enumerate(losses):
        frame[loss] = frame.memorability + (0.1 + 0.1 * position) * rng.normal(size=len(frame)) + 2
    return frame


def write_study(folder, scores, models=(MODEL, OTHER), exposures=True):
    for seed, model in enumerate(models):
        write_table(planted_losses(scores, seed), output_file(folder, "test_loss", model), "test_loss")
    if exposures:
        losses = planted_losses(scores, 9)
        frame = pd.DataFrame(
            {"order": np.arange(len(losses))[::-1], "image_id": losses.image_id, "loss": losses.ssim}
        )
        write_table(frame, output_file(folder, "exposures", MODEL), "exposures")
    scores.to_csv(folder / "scores.csv")
    return folder


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "output", planted_scores())


@pytest.fixture
def no_figures(monkeypatch):
    """Leave the drawing out of tests that look at numbers only."""
    monkeypatch.setattr(evaluation_stage, "draw_losses", lambda *_: None)


@pytest.fixture(autouse=True)
def no_slopes(request, monkeypatch):
    """Leave the mixed models, which take seconds, to the test that is about them."""
    if "slopes" not in request.node.name:
        monkeypatch.setattr(
            evaluation_stage,
            "mixed_model_rows",
            lambda frame, *_: mixed_model_rows(frame, [], find_clusters(frame, "none")),
        )


@pytest.fixture(autouse=True)
def heard(caplog):
    """Let caplog hear the project's log, whatever an earlier test did to it."""
    logger = logging.getLogger("memorability")
    before = logger.propagate, logger.level
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="memorability")
    yield
    logger.propagate, logger.level = before


def evaluate(folder, *arguments):
    evaluation.main(
        evaluation.get_parser().parse_args(["--output-path", str(folder), *QUICK, *map(str, arguments)])
    )


def test_one_minus_lpips_has_the_opposite_correlation(tmp_path, no_figures):
    """What the released test script calls a loss is a similarity: the sign of rho is the other one."""
    scores = planted_scores()
    frame = planted_losses(scores, losses=("lpips-sq",))
    frame["1-lpips-sq"] = 1 - frame["lpips-sq"]
    write_table(frame, output_file(tmp_path, "test_loss", "m_released-losses"), "test_loss")
    scores.to_csv(tmp_path / "scores.csv")
    evaluate(tmp_path, "--scores-csv", tmp_path / "scores.csv")
    rho = pd.read_csv(tmp_path / "loss_correlations.csv").set_index("measure")["rho"]
    assert rho["lpips-sq"] > 0.5
    assert rho["1-lpips-sq"] == pytest.approx(-rho["lpips-sq"])


def refused(folder, *arguments):
    """Run, expect a user error, check that nothing was written; return its text."""
    with pytest.raises(UserError) as error:
        evaluate(folder, *arguments)
    assert not list(folder.glob("loss_correlations*"))
    assert not list(folder.glob("*.p[nd][gf]"))
    return str(error.value)


def results(folder, name="loss_correlations"):
    return read_table(output_file(folder, name), name)


def test_a_loss_table_cut_short_is_not_evaluated_as_if_it_were_whole(tmp_path):
    """An edited hand-over: with 10 of 30 images left it was evaluated, and nothing was said."""
    scores = planted_scores(30)
    with Run("autoencoder_test", Namespace(output_path=tmp_path)) as run:
        run.write_table(planted_losses(scores), "test_loss", MODEL)
    path = output_file(tmp_path, "test_loss", MODEL)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:11]))
    assert f"{path} has changed since it was written" in refused(tmp_path)


def test_losses_that_were_computed_and_are_gone_are_missed(tmp_path):
    """Without them the exposures alone were evaluated, and nothing was said."""
    scores = planted_scores(30)
    with Run("autoencoder_test", Namespace(output_path=tmp_path)) as run:
        run.write_table(planted_losses(scores), "test_loss", MODEL)
    write_study(tmp_path, scores, models=())
    path = output_file(tmp_path, "test_loss", MODEL)
    path.unlink()
    assert f"{path} is missing. It was written by: python " in refused(tmp_path)


# --- the numbers ---------------------------------------------------------------------------------


def test_correlations_of_a_study(study, no_figures):
    evaluate(study, "--scores-csv", study / "scores.csv")
    table = results(study)
    assert list(zip(table.model, table.measure, strict=True)) == [
        *((MODEL, loss) for loss in (*LOSSES, "exposure")),
        *((OTHER, loss) for loss in LOSSES),
    ]
    scores = planted_scores()
    for row in table[table.measure != "exposure"].itertuples():
        losses = planted_losses(scores, (MODEL, OTHER).index(row.model))
        expected = stats.spearmanr(losses[row.measure], losses.memorability)
        assert row.rho == pytest.approx(expected.statistic, abs=1e-8)
        assert row.p_independent == pytest.approx(expected.pvalue, rel=1e-7)
        within = plain_within(losses[row.measure], losses.memorability, losses.category)
        assert row.rho_within_category == pytest.approx(within, abs=1e-8)
        assert row.ci_low < row.rho < row.ci_high
        assert (row.n, row.resamples, row.seed, row.n_within_subcategory) == (120, 60, 0, 120)
        assert row.mean == pytest.approx(losses[row.measure].mean(), rel=1e-8)
    counted = scores.rename(
        columns={"H": "hits", "FA": "false_alarms", "memorability_w_fa_correction": "memorability"}
    )
    assert table.ceiling.unique() == pytest.approx([score_ceiling(counted, splits=5)], abs=0.02)
    assert table.rho_over_ceiling.to_numpy() == pytest.approx(
        (table.rho / table.ceiling).to_numpy(), rel=1e-7
    )
    exposure = table[table.measure == "exposure"].iloc[0]
    seen = planted_losses(scores, 9)
    assert exposure.rho == pytest.approx(stats.spearmanr(seen.ssim, seen.memorability).statistic, abs=1e-8)


def test_subcategories_are_resampled_and_the_independent_interval_stands_beside(study, no_figures):
    evaluate(study, "--scores-csv", study / "scores.csv", "--loss-columns", "mse", "--model-names", MODEL)
    row = results(study).iloc[0]
    losses = planted_losses(planted_scores()).sort_values("image_id")
    codes = pd.factorize(losses.subcategory)[0]
    together, alone = (row_of(losses.memorability, losses.mse, clusters=c) for c in (codes, None))
    assert (row.cluster, row.clusters) == ("subcategory", 6)
    assert (row.ci_low, row.ci_high, row.p) == pytest.approx((together.ci_low, together.ci_high, together.p))
    assert (row.ci_low_independent, row.ci_high_independent) == pytest.approx((alone.ci_low, alone.ci_high))
    comparison = results(study, "loss_comparisons")
    assert comparison.empty
    evaluate(study, "--scores-csv", study / "scores.csv", "--loss-columns", "mse", "--cluster", "none")
    row = results(study).iloc[0]
    assert row.cluster == "image"
    assert (row.ci_low, row.ci_high) == pytest.approx((alone.ci_low, alone.ci_high))


def test_clusters_that_the_table_lacks_stop_the_stage(study):
    message = refused(study, "--scores-csv", study / "scores.csv", "--cluster", "group")
    assert message == "--cluster group: no image has a group. To treat images as independent: --cluster none."


def test_slopes_within_and_between_subcategories(study, no_figures):
    evaluate(study, "--scores-csv", study / "scores.csv", "--loss-columns", "mse", "style")
    table = results(study, "mixed_model")
    assert table.effect.tolist() == ["within", "between", "between - within"] * 4
    assert set(table.model) == {MODEL, OTHER}
    losses = planted_losses(planted_scores()).sort_values("image_id")
    own = mixed_model_rows(losses, ["mse"], find_clusters(losses))
    first = table[(table.model == MODEL) & (table.measure == "mse")]
    assert first.slope.to_numpy() == pytest.approx(own.slope.to_numpy(), rel=1e-6)
    inside = table[table.effect == "within"]
    assert inside.q.to_numpy() == pytest.approx(stats.false_discovery_control(inside.p.to_numpy()), rel=1e-6)
    evaluate(study, "--cluster", "none", "--loss-columns", "mse")
    assert results(study, "mixed_model").empty


def test_picture_size_and_source_are_held_constant_where_the_table_has_them(tmp_path, no_figures):
    rng = np.random.default_rng(6)
    scores = planted_scores()
    height = rng.integers(200, 800, len(scores))
    scores = scores.assign(
        current_height=height, current_width=500, source=rng.choice(["coco", "sun"], len(scores))
    )
    study = write_study(tmp_path / "out", scores, models=(MODEL,), exposures=False)
    evaluate(study, "--scores-csv", study / "scores.csv", "--loss-columns", "mse")
    row = results(study).iloc[0]
    losses = planted_losses(scores)
    held = np.column_stack([height * 500, scores.source == "sun"])
    assert row.covariates == "pixel_count, source"
    expected = partial_spearman(losses.mse, losses.memorability, held)[0]
    assert row.rho_given_covariates == pytest.approx(expected, rel=1e-6)


def test_correlations_by_category(study, no_figures):
    evaluate(study, "--scores-csv", study / "scores.csv")
    table = results(study, "loss_correlations_by_category")
    assert len(table) == 3 * 17
    row = table[(table.category == "food") & (table.model == OTHER) & (table.measure == "mae")].iloc[0]
    losses = planted_losses(planted_scores(), 1)
    food = losses[losses.category == "food"]
    assert row.rho == pytest.approx(stats.spearmanr(food.mae, food.memorability).statistic, abs=1e-8)
    assert row.n == 40
    assert 0 < row.ceiling < 1


def test_comparisons_of_losses_and_models(study, no_figures):
    evaluate(study, "--scores-csv", study / "scores.csv")
    table = results(study, "loss_comparisons")
    assert table.comparison.value_counts().to_dict() == {"losses": 36 + 28, "models": 8}
    assert (
        table[table.comparison == "models"].measure_a == table[table.comparison == "models"].measure_b
    ).all()
    assert (table[table.comparison == "losses"].model_a == table[table.comparison == "losses"].model_b).all()
    row = table[(table.comparison == "models") & (table.measure_a == "style")].iloc[0]
    frames = [planted_losses(planted_scores(), seed).sort_values("image_id") for seed in (0, 1)]
    joined = frames[0].assign(other=frames[1]["style"])
    own = paired_difference(joined, [("style", "other")], resamples=60, seed=0).iloc[0]
    for name in ("n", "rho_a", "rho_b", "difference", "ci_low", "ci_high", "p"):
        assert row[name] == pytest.approx(own[name], abs=1e-8), name
    for _, kind in table.groupby("comparison"):  # two claims, two families
        assert kind.q.to_numpy() == pytest.approx(stats.false_discovery_control(kind.p.to_numpy()), rel=1e-6)


def test_effect_of_categories_does_not_survive_holding_them_constant(tmp_path, no_figures):
    rng = np.random.default_rng(0)
    level = np.repeat([0.2, 0.5, 0.8], 100)
    frame = pd.DataFrame(
        {"image_id": [f"{i}.jpg" for i in range(300)], "category": np.repeat(["a", "b", "c"], 100)}
    )
    frame["memorability"] = level + 0.05 * rng.normal(size=300)
    frame["mse"] = level + 0.05 * rng.normal(size=300)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    evaluate(tmp_path / "out", "--table", tmp_path / "mine.csv")
    row = results(tmp_path / "out").iloc[0]
    assert row.rho > 0.8
    assert row.ci_low_within_category < 0 < row.ci_high_within_category


def test_same_command_same_bytes(study):
    shutil.copytree(study, study.parent / "again")
    for folder in (study, study.parent / "again"):
        arguments = ("--model-names", MODEL, "--loss-columns", "mse", "exposure")
        evaluate(folder, "--scores-csv", folder / "scores.csv", *arguments)
    names = sorted(path.name for path in study.glob("*") if path.suffix in {".csv", ".png", ".pdf"})
    assert {"loss_forest.png", "loss_forest.pdf", "reliability.png", f"loss_scatter_{MODEL}.pdf"} <= set(
        names
    )
    for name in names:
        assert (study / name).read_bytes() == (study.parent / "again" / name).read_bytes(), name
    for path in study.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert image.width > 500
    record = json.loads((study / "run_autoencoder_evaluation.json").read_text())
    assert record["status"] == "complete"
    assert set(record["outputs"]) >= {"loss_correlations.csv", "loss_comparisons.csv", "loss_forest.png"}
    assert any(name.endswith("scores.csv") for name in record["inputs"])


def test_seed_moves_the_interval_and_not_the_estimate(study, no_figures):
    evaluate(study, "--cluster", "none")
    first = results(study)
    evaluate(study, "--cluster", "none", "--seed", 5)
    second = results(study)
    assert (first.rho == second.rho).all()
    assert (first.ci_low != second.ci_low).any()


# --- where the scores come from ------------------------------------------------------------------


def test_without_a_score_table_the_recorded_scores_serve(study, caplog):
    evaluate(study, "--loss-columns", "mse")
    table = results(study)
    assert table.rho.notna().all()
    assert table.ceiling.isna().all()
    assert "No score table was found, so the noise ceiling stays empty" in caplog.text
    assert not (study / "reliability.png").exists()
    assert "reliability.png is not drawn" in caplog.text


def test_the_score_table_of_the_test_stage_is_found_again(study, no_figures):
    arguments = {
        "sample": False,
        "scores_csv": str(study / "scores.csv"),
        "data_dir": "MemCat",
        "score_column": "memorability_wo_fa_correction",
    }
    (study / "run_autoencoder_test.json").write_text(json.dumps({"arguments": arguments}))
    evaluate(study, "--loss-columns", "mse")
    table = results(study)
    losses = planted_losses(planted_scores())
    hit_rate = planted_scores().memorability_wo_fa_correction
    assert table.rho[0] == pytest.approx(stats.spearmanr(losses.mse, hit_rate).statistic, abs=1e-8)
    assert table.ceiling.notna().all()


def test_another_score_column_is_said(study, no_figures, caplog):
    evaluate(study, "--scores-csv", study / "scores.csv", "--score-column", "memorability_wo_fa_correction")
    assert "images have another memorability in" in caplog.text


def test_another_score_column_needs_a_score_table(study):
    message = refused(study, "--score-column", "memorability_wo_fa_correction")
    assert message.startswith(
        "--score-column memorability_wo_fa_correction needs the score table, and none was found"
    )


def test_losses_are_joined_by_name_not_by_position(study, no_figures):
    planted_scores().sample(frac=1, random_state=1).to_csv(study / "shuffled.csv")
    evaluate(study, "--scores-csv", study / "scores.csv")
    first = output_file(study, "loss_correlations").read_bytes()
    evaluate(study, "--scores-csv", study / "shuffled.csv")
    assert output_file(study, "loss_correlations").read_bytes() == first


def test_score_table_that_contradicts_itself(study, no_figures, caplog):
    scores = planted_scores()
    other = scores.iloc[[3]].assign(memorability_w_fa_correction=0.123)
    pd.concat([scores, scores.iloc[[8]], other]).to_csv(study / "twice.csv", index=False)
    evaluate(study, "--scores-csv", study / "twice.csv")
    assert f"1 images stand in {study / 'twice.csv'} with different scores and are left out" in caplog.text
    assert (results(study).n == 119).all()


def test_score_table_with_absolute_paths(study, no_figures):
    scores = planted_losses(planted_scores(), losses=())
    table = pd.DataFrame({"path": "/somewhere/images/" + scores.image_id, "score": scores.memorability})
    table.to_csv(study / "absolute.csv", index=False)
    evaluate(study, "--scores-csv", study / "absolute.csv", "--loss-columns", "mse")
    assert results(study).n.tolist() == [120, 120]
    assert results(study).rho_within_category.notna().all(), "categories come from the loss tables"


def test_images_without_a_score_are_counted_or_fatal(study, no_figures, caplog):
    planted_scores().iloc[:100].to_csv(study / "part.csv")
    message = refused(study, "--scores-csv", study / "part.csv", "--on-error", "fail")
    assert message.startswith(
        f"20 of 120 images in {study} have no score in {study / 'part.csv'} (e.g. vehicle/"
    )
    evaluate(study, "--scores-csv", study / "part.csv")
    assert (results(study).n == 100).all()
    assert "20 of 120 images" in caplog.text


def test_exposures_alone(tmp_path, no_figures):
    folder = write_study(tmp_path / "output", planted_scores(), models=())
    message = refused(folder)
    assert "The exposures in" in message
    assert "Name it with --scores-csv" in message
    evaluate(folder, "--scores-csv", folder / "scores.csv")
    assert list(results(folder).measure) == ["exposure"]
    assert results(folder, "loss_comparisons").empty


def test_exposures_find_their_scores_in_the_splits(tmp_path, no_figures):
    folder = write_study(tmp_path / "output", planted_scores(), models=())
    splits = planted_losses(planted_scores(), losses=()).assign(split="train")
    write_table(splits, output_file(folder, "splits"), "splits")
    evaluate(folder)
    assert results(folder).n.tolist() == [120]


def test_models_tested_on_different_images(study, no_figures):
    fewer = planted_losses(planted_scores(), 1).iloc[:50]
    write_table(fewer, output_file(study, "test_loss", OTHER), "test_loss")
    evaluate(study)
    table = results(study)
    assert table.groupby("model").n.unique().map(list).to_dict() == {MODEL: [120], OTHER: [50]}
    models = results(study, "loss_comparisons").query("comparison == 'models'")
    assert (models.n == 50).all()
    assert models.rho_a.iloc[0] == pytest.approx(
        stats.spearmanr(
            *planted_losses(planted_scores()).iloc[:50][["mse", "memorability"]].T.to_numpy()
        ).statistic
    )
    by_category = results(study, "loss_correlations_by_category")
    assert set(by_category[by_category.model == OTHER].category) == {"animal", "food"}


def test_limit(study, no_figures):
    evaluate(study, "--limit", 30)
    assert (results(study).n == 30).all()


def test_caveats_of_the_losses_are_handed_on(study, no_figures):
    path = output_file(study, "test_loss", OTHER)
    write_table(planted_losses(planted_scores()), path, "test_loss", caveat="random weights: LPIPS")
    evaluate(study)
    assert set(results(study).caveat) == {"random weights: LPIPS"}


# --- choosing models and losses ------------------------------------------------------------------


def test_chosen_models_and_losses(study, no_figures):
    evaluate(study, "--model-names", f"{OTHER}.pth", "--loss-columns", "style", "mse")
    table = results(study)
    assert list(zip(table.model, table.measure, strict=True)) == [(OTHER, "style"), (OTHER, "mse")]


def test_unknown_model(study):
    message = refused(study, "--model-names", "ghost.pth")
    assert message.startswith(f"There are no losses of ghost in {study}. Found: {MODEL}, {OTHER}.")
    assert message.endswith("python autoencoder_test.py --model-names ghost")


def test_unknown_loss_lists_the_known_ones(study):
    message = refused(study, "--loss-columns", "mse", "psnr")
    assert f"found psnr. All losses that autoencoder_test.py can compute: {', '.join(LOSSES)}." in message


def test_empty_folder_names_the_stage_before(tmp_path):
    message = refused(tmp_path)
    assert message == (
        f"There is no test_loss_<model>.csv in {tmp_path}. It is written by: python autoencoder_test.py "
        "(or evaluate a table of your own with --table PATH)"
    )


# --- any table -----------------------------------------------------------------------------------


def test_foreign_table_gets_the_same_numbers_as_the_study(study, tmp_path, no_figures):
    planted_losses(planted_scores()).rename(columns={"memorability": "rating"}).to_csv(
        tmp_path / "theirs.csv"
    )
    evaluate(study, "--model-names", MODEL, "--loss-columns", *LOSSES)
    evaluate(tmp_path / "out", "--table", tmp_path / "theirs.csv", "--score-column", "rating")
    ours, theirs = results(study), results(tmp_path / "out")
    assert set(theirs.model) == {"theirs"}
    pd.testing.assert_frame_equal(ours.drop(columns="model"), theirs.drop(columns="model"))


def test_foreign_table_by_file_name_takes_scores_and_categories_from_the_score_table(tmp_path, no_figures):
    scores = planted_scores()
    scores.to_csv(tmp_path / "scores.csv")
    theirs = pd.DataFrame({"image_file": scores.image_file, "sparse error": planted_losses(scores).mse})
    theirs.sample(frac=1, random_state=2).to_csv(tmp_path / "theirs.csv", index=False)
    arguments = ("--table", tmp_path / "theirs.csv", "--loss-columns", "sparse error")
    evaluate(tmp_path / "out", *arguments, "--scores-csv", tmp_path / "scores.csv")
    row = results(tmp_path / "out").iloc[0]
    losses = planted_losses(scores)
    assert row.measure == "sparse error"
    assert row.rho == pytest.approx(stats.spearmanr(losses.mse, losses.memorability).statistic, abs=1e-8)
    assert np.isfinite([row.rho_within_category, row.ceiling]).all()
    assert len(results(tmp_path / "out", "loss_correlations_by_category")) == 3


def test_foreign_scores_win_over_the_score_table_that_adds_categories(tmp_path, no_figures):
    scores = planted_scores()
    scores.to_csv(tmp_path / "scores.csv")
    losses = planted_losses(scores)
    own = np.random.default_rng(4).permutation(losses.memorability)
    theirs = pd.DataFrame({"image_id": losses.image_id, "rating": own, "mse": own**2})
    theirs.loc[len(theirs)] = ["elsewhere/x.jpg", 0.5, 0.2]
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    arguments = ("--table", tmp_path / "theirs.csv", "--score-column", "rating")
    evaluate(tmp_path / "out", *arguments, "--scores-csv", tmp_path / "scores.csv")
    row = results(tmp_path / "out").iloc[0]
    assert (row.n, row.rho) == (
        121,
        pytest.approx(stats.spearmanr(theirs.rating, theirs.mse).statistic, abs=1e-8),
    )
    assert np.isfinite(row.rho_within_category)
    assert np.isnan(row.ceiling), "the counts do not explain these scores"


def test_foreign_table_keeps_its_own_counts_and_labels(tmp_path, no_figures):
    """As somebody hands it over: common names in any case, counts and subcategories of its own, no score table."""
    scores = planted_scores()
    theirs = pd.DataFrame(
        {
            "Image_Name": scores.image_file,
            "Score": scores.memorability_w_fa_correction,
            "Loss": planted_losses(scores).mse,
            "category": scores.category,
            "subcategory": scores.subcategory,
            "H": scores.H,
            "false_alarms": scores.FA,
            "n_resp": scores.n_resp,
        }
    )
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    evaluate(tmp_path / "out", "--table", tmp_path / "theirs.csv")
    row = results(tmp_path / "out").iloc[0]
    losses = planted_losses(scores)
    assert row.measure == "Loss"
    assert row.rho == pytest.approx(stats.spearmanr(losses.mse, losses.memorability).statistic, abs=1e-8)
    counted = theirs.rename(columns={"Score": "memorability", "H": "hits"})
    assert row.ceiling == pytest.approx(score_ceiling(counted, splits=5), rel=1e-8)
    assert np.isfinite([row.rho_within_category, row.rho_within_subcategory]).all()


def test_own_counts_win_over_those_of_the_score_table_that_adds_the_rest(tmp_path, no_figures):
    scores = planted_scores()
    scores.to_csv(tmp_path / "scores.csv")
    halved = scores.assign(H=scores.H // 2, FA=0, n_resp=scores.n_resp // 2)
    theirs = pd.DataFrame(
        {
            "filename": scores.image_file,
            "score": halved.H / halved.n_resp,
            "hits": halved.H,
            "false_alarms": 0,
            "n_resp": halved.n_resp,
            "error": planted_losses(scores).mse,
        }
    )
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    evaluate(tmp_path / "out", "--table", tmp_path / "theirs.csv", "--scores-csv", tmp_path / "scores.csv")
    row = results(tmp_path / "out").iloc[0]
    expected = score_ceiling(theirs.rename(columns={"score": "memorability"}), splits=5)
    assert row.ceiling == pytest.approx(expected, abs=0.02), "another order of rows, other random halves"
    assert np.isfinite(row.rho_within_category), "categories come from the score table"


def test_a_known_name_wins_over_another_and_case_does_not_matter():
    assert recognise(["filename", "IMAGE_ID", "Loss"], KEY_NAMES) == "IMAGE_ID"
    assert recognise(["image_id", "IMAGE_ID"], KEY_NAMES) == "image_id"
    assert recognise(["a", "b"], KEY_NAMES) is None


def test_a_study_is_not_replaced_by_a_foreign_table(study, tmp_path, no_figures):
    planted_losses(planted_scores()).to_csv(tmp_path / "theirs.csv")
    message = refused(study, "--table", tmp_path / "theirs.csv")
    assert "holds a study (test_loss_*.csv)" in message
    assert "--output-path theirs_evaluation, or add --overwrite" in message
    evaluate(study, "--table", tmp_path / "theirs.csv", "--overwrite")
    assert set(results(study).model) == {"theirs"}


def spoil(frame, column, row, value):
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda f: spoil(f, "mse", 4, ""), (), "column mse must hold finite numbers, found line 6: ''"),
        (
            lambda f: spoil(f, "mae", 0, "high"),
            (),
            "column mae must hold finite numbers, found line 2: 'high'",
        ),
        (lambda f: spoil(f, "mae", 0, "inf"), (), "column mae must hold finite numbers, found line 2: 'inf'"),
        (
            lambda f: spoil(f, "memorability", 2, "nan"),
            (),
            "column memorability must hold finite numbers, found line 4",
        ),
        (
            lambda f: pd.concat([f, f[:2]]),
            (),
            "2 images stand there more than once, e.g. animal/animal 0/000000.jpg",
        ),
        (lambda f: spoil(f, "image_id", 7, " "), (), "column image_id is empty in line 9"),
        (lambda f: f.rename(columns={"image_id": "thing"}), (), "expected a column image_id or image_file"),
        (lambda f: f.drop(columns="memorability"), (), "no score column 'memorability_w_fa_correction'"),
        (
            lambda f: f.assign(hits=9, false_alarms=0, n_resp=5),
            (),
            "hits and false alarms must be whole numbers between 0 and n_resp; line 2 has hits 9",
        ),
        (lambda f: f, ("--score-column", "rating"), "there is no score column 'rating'"),
        (
            lambda f: f,
            ("--loss-columns", "psnr"),
            "there is no loss column psnr. Name columns with --loss-columns",
        ),
        (lambda f: f[["image_id", "memorability"]], (), f"Known losses: {', '.join(LOSSES)}."),
        (lambda f: f[:9], (), "Expected at least 10 images with losses and scores in"),
        (lambda f: f[:0], (), "names no image. Expected a row per image below the header."),
    ],
)
def test_foreign_tables_that_cannot_be_used(tmp_path, change, arguments, message):
    change(planted_losses(planted_scores())).to_csv(tmp_path / "theirs.csv", index=False)
    text = refused(tmp_path / "out", "--table", tmp_path / "theirs.csv", *arguments)
    assert message in text
    assert "theirs.csv" in text


def test_foreign_table_that_is_no_table(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 4)
    assert "empty.csv cannot be read as a CSV table" in refused(
        tmp_path / "o", "--table", tmp_path / "empty.csv"
    )
    assert "binary.csv cannot be read as a CSV table" in refused(
        tmp_path / "o", "--table", tmp_path / "binary.csv"
    )
    assert "absent.csv does not exist" in refused(tmp_path / "o", "--table", tmp_path / "absent.csv")


def test_names_that_match_nothing(study, tmp_path):
    scores = planted_scores().assign(image_file=lambda frame: "x" + frame.image_file)
    scores.to_csv(tmp_path / "other.csv")
    message = refused(study, "--scores-csv", tmp_path / "other.csv")
    assert message.startswith(
        f"None of the 120 images with losses in {study} has a score in {tmp_path / 'other.csv'}"
    )
    assert (
        "the losses name e.g. animal/animal 0/000000.jpg, the scores e.g. animal/animal 0/x000000.jpg"
        in message
    )
    planted_losses(planted_scores()).to_csv(tmp_path / "theirs.csv")
    arguments = ("--table", tmp_path / "theirs.csv", "--scores-csv", tmp_path / "other.csv")
    assert f"None of the 120 images of {tmp_path / 'theirs.csv'}" in refused(tmp_path / "out", *arguments)


def test_file_names_that_stand_for_several_images(tmp_path):
    scores = planted_scores().assign(image_file=[f"{number // 2}.jpg" for number in range(120)])
    scores.to_csv(tmp_path / "scores.csv")
    theirs = pd.DataFrame({"image_file": [f"{number}.jpg" for number in range(60)], "mse": np.arange(60.0)})
    theirs.to_csv(tmp_path / "theirs.csv")
    arguments = ("--table", tmp_path / "theirs.csv", "--scores-csv", tmp_path / "scores.csv")
    message = refused(tmp_path / "out", *arguments)
    assert "stands for several images of" in message
    assert "Expected a column image_id with folders" in message


# --- damaged tables of the study -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: spoil(f, "style", 3, ""), "column style must hold finite numbers, found line 5: ''"),
        (lambda f: spoil(f, "style", 3, "1,5"), "column style must hold finite numbers, found line 5: '1,5'"),
        (lambda f: pd.concat([f, f[:1]]), "stands there more than once"),
        (lambda f: f.drop(columns="memorability"), "column memorability is missing"),
    ],
)
def test_damaged_loss_tables(study, change, message):
    path = output_file(study, "test_loss", OTHER)
    change(planted_losses(planted_scores())).to_csv(path, index=False)
    text = refused(study)
    assert str(path) in text
    assert message in text


def test_loss_tables_that_disagree_about_the_scores(study):
    other = planted_losses(planted_scores()).assign(
        memorability=planted_scores().memorability_wo_fa_correction
    )
    write_table(other, output_file(study, "test_loss", OTHER), "test_loss")
    message = refused(study)
    assert "disagree about memorability: animal/animal 0/000000.jpg has" in message
    assert f"in test_loss_{MODEL}.csv" in message


# --- what cannot be computed ---------------------------------------------------------------------


def test_constant_losses_are_empty_cells_and_said(study, caplog):
    frame = planted_losses(planted_scores()).assign(mse=0.25)
    write_table(frame, output_file(study, "test_loss", OTHER), "test_loss")
    evaluate(
        study, "--loss-columns", "mse", "mae", "--model-names", OTHER, "--scores-csv", study / "scores.csv"
    )
    assert f"rho is undefined and left empty where: {OTHER}: mse is constant\n" in caplog.text
    assert f"{OTHER}, mse: rho is undefined (n = 120)" in caplog.text
    with (study / "loss_correlations.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["model"], row["measure"], row["n"], row["n_within_subcategory"]) == (
        OTHER,
        "mse",
        "120",
        "120",
    )
    empty = [name for name in row if name.startswith(("rho", "ci_", "p", "q")) and "ceiling" not in name]
    assert {"rho", "p", "q", "ci_low", "ci_high", "rho_within_category"} <= set(empty)
    assert [name for name in empty if row[name] != ""] == []
    assert results(study, "loss_comparisons").loc[0, ["difference", "ci_low", "p", "q"]].isna().all()
    for path in study.glob("loss_*.csv"):
        assert "nan" not in path.read_text().lower(), path


@pytest.mark.parametrize(
    ("category", "said"), [("animal", "only one category (animal)"), ("", "no category")]
)
def test_one_category_or_none(tmp_path, caplog, category, said):
    frame = planted_losses(planted_scores(40), losses=("mse",)).assign(category=category, subcategory="")
    frame.to_csv(tmp_path / "theirs.csv", index=False)
    evaluate(tmp_path / "out", "--table", tmp_path / "theirs.csv")
    assert f"There is {said} in {tmp_path / 'theirs.csv'}" in caplog.text
    row = results(tmp_path / "out").iloc[0]
    assert np.isfinite(row.rho)
    assert np.isnan(row.rho_within_category)
    assert len(results(tmp_path / "out", "loss_correlations_by_category")) == (1 if category else 0)
    assert (tmp_path / "out" / "loss_scatter_theirs.png").exists()


# --- figures -------------------------------------------------------------------------------------


def assert_inside_page(figure):
    """Everything that is drawn, words included, must lie on the page."""
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= -0.01
    assert drawn.y0 >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01


def forest_rows(models, measures):
    rng = np.random.default_rng(0)
    rows = [{"model": model, "measure": measure} for model in models for measure in measures]
    table = pd.DataFrame(rows).assign(n=100, rho=rng.uniform(-0.2, 0.5, len(rows)), ceiling=0.9)
    table["rho_over_ceiling"] = table.rho / table.ceiling
    for name, half in itertools.product(("", "_within_category"), ((0.1, ""), (0.05, "_independent"))):
        table[f"ci_low{name}{half[1]}"] = table.rho - half[0]
        table[f"ci_high{name}{half[1]}"] = table.rho + half[0]
    table["rho_within_category"] = table.rho
    table.loc[0, [name for name in table if name.startswith(("rho", "ci_"))]] = np.nan
    return table.assign(cluster="subcategory")


@pytest.mark.parametrize("models", [1, 2, 7])
def test_forest_and_reliability_fit_the_page(models):
    names = [f"mem_vgg_autoencoder_lpips-sq_lr1e-05_bs1_epochs{number}_released" for number in range(models)]
    table = forest_rows(names, (*LOSSES, "exposure"))
    figure = draw_forest(table)
    assert_inside_page(figure)
    assert sum(text.get_text() == "undefined" for axis in figure.axes for text in axis.texts) == 1
    counted = planted_scores().rename(
        columns={"H": "hits", "FA": "false_alarms", "memorability_w_fa_correction": "memorability"}
    )
    assert_inside_page(draw_reliability(counted, table, splits=5, seed=0))
    assert draw_reliability(counted.drop(columns="n_resp"), table, splits=5, seed=0) is None


@pytest.mark.parametrize(("images", "categories"), [(60, 1), (200, 12), (2000, 5)])
def test_scatter_fits_the_page(images, categories):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"memorability": rng.uniform(size=images), "a: mse": rng.exponential(size=images)})
    frame["a: style"] = 1.0
    frame["category"] = [
        f"a category with quite a long name {number % categories}" for number in range(images)
    ]
    table = pd.DataFrame({"measure": ["mse", "style"], "rho": [0.3, np.nan], "n": images, "cluster": "image"})
    figure = draw_scatter(
        frame, {"mse": "a: mse", "style": "a: style"}, table, "a_model_with_a_long_name" * 4
    )
    assert_inside_page(figure)
    assert [axis.get_title() for axis in figure.axes] == ["mse   ρ = 0.30", "style   ρ undefined"]
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert ("(the 8 largest of 12 categories)" in labels) == (categories == 12)


def test_curves_are_the_line_or_bend_that_the_images_follow():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 3, 400)
    line = smooth_curve(x, 2 * x)
    assert line["y"].to_numpy() == pytest.approx(2 * line["x"].to_numpy())
    assert line["x"].between(*np.quantile(x, [0.0099, 0.9901])).all()
    bend = smooth_curve(x, np.sin(x) + rng.normal(0, 0.1, 400))
    truth = np.sin(bend["x"])
    assert np.abs(bend["y"] - truth).max() < 0.06
    assert ((bend["ci_low"] <= truth) & (truth <= bend["ci_high"])).mean() > 0.8
    assert smooth_curve(x[:49], x[:49]) is None
    assert smooth_curve(x[:50], x[:50]) is not None
    assert smooth_curve(np.ones(400), x) is None


def test_bands_of_alike_images_are_wider():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(20), 15)
    x = np.repeat(rng.normal(size=20), 15) + rng.normal(0, 0.1, 300)
    y = np.repeat(rng.normal(size=20), 15) + rng.normal(0, 0.1, 300)
    width = {
        name: (curve["ci_high"] - curve["ci_low"]).mean()
        for name, curve in (("alone", smooth_curve(x, y)), ("together", smooth_curve(x, y, codes)))
    }
    assert width["together"] > 1.5 * width["alone"]


def test_no_curve_is_drawn_through_a_few_images():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"memorability": rng.uniform(size=100), "a": rng.uniform(size=100)})
    frame["category"] = ["many"] * 60 + ["few"] * 40
    table = pd.DataFrame({"measure": ["mse"], "rho": [0.3], "n": [100], "cluster": ["image"]})
    figure = draw_scatter(frame, {"mse": "a"}, table, "net")
    assert len(figure.axes[0].lines) == 2  # one curve, on its white rim
    assert "from 50 images" in figure.legends[0].get_title().get_text()
    few = draw_scatter(frame[40:].assign(category="x"), {"mse": "a"}, table, "net")
    assert len(few.axes[0].lines) == 2
    none = draw_scatter(frame[60:], {"mse": "a"}, table, "net")
    assert not none.axes[0].lines
    assert "no curves: fewer than 50" in none.legends[0].get_title().get_text()


# --- as a user runs it ---------------------------------------------------------------------------


def test_from_the_command_line(study):
    done = run_script_process(
        "autoencoder_evaluation.py", "--output-path", study, "--loss-columns", "mse", *QUICK
    )
    assert done.returncode == 0, done.stderr
    assert f"{MODEL}, mse: rho = 0." in done.stderr
    assert (study / "loss_forest.png").exists()
    done = run_script_process("autoencoder_evaluation.py", "--output-path", study, "--loss-columns", "psnr")
    assert_user_error(done, "found psnr", "lpips-sq")
