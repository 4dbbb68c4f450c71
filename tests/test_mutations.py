"""Do the tests fail when a verdict, label, threshold or direction is turned round? Each is, once, in a copy of the project.

A line coverage of 100 % says nothing of that. Every entry names what is broken and the test that has to notice; the
killer must pass on the unbroken copy, too, which the other runs of the suite show. Long: a process per entry.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import PROJECT_ROOT


@dataclass(frozen=True)
class Mutation:
    """One broken line: in which file, what stands there, what is put there, and which test must fail."""

    name: str
    file: str
    before: str
    after: str
    killer: str


MUTATIONS = (
    Mutation(
        "tests held to the whole level in families that were chosen",
        "utils/statistics/families.py",
        "len(counts) * q[made, None] / counts",
        "q[made, None]",
        "tests/statistics/test_families.py::test_by_hand",
    ),
    Mutation(
        "every family chosen that has a q below the level",
        "utils/statistics/families.py",
        "false_discovery_q(simes.to_numpy())",
        "simes.to_numpy()",
        "tests/statistics/test_families.py::test_by_hand",
    ),
    Mutation(
        "what is exploratory called a finding by the q of its family",
        "utils/report/study_findings.py",
        'table["q_study"] < ALPHA)',
        'table["q"] < ALPHA)',
        "tests/report/test_study_findings.py::test_what_is_exploratory_is_judged_over_all_families",
    ),
    Mutation(
        "claims about people and about pictures counted together",
        "utils/report/study_findings.py",
        'in table.groupby("about")',
        'in table.groupby("about", group_keys=False).pipe(lambda groups: [("", groups.obj)])',
        "tests/report/test_study_findings.py::test_what_is_true_of_pictures_buys_no_room_for_claims_about_people",
    ),
    Mutation(
        "the primary hypothesis judged by p alone",
        "utils/report/study_findings.py",
        '(table["p"] < ALPHA) & aside',
        '(table["p"] < ALPHA)',
        "tests/report/test_study_findings.py::test_the_primary_hypothesis_is_judged_by_itself",
    ),
    Mutation(
        "words of exploratory numbers resting on their own interval",
        "utils/report/conclusion.py",
        "return self.sign if self.q < ALPHA else 0",
        "return self.sign",
        "tests/report/test_conclusion.py::test_what_leaves_zero_out_by_itself_alone_is_not_claimed_and_says_why",
    ),
    Mutation(
        "residuals permuted as small as they are",
        "utils/features/commonality.py",
        "return float(factors[0]), float(factors[1])",
        "return 1.0, 1.0",
        "tests/features/test_feature_inference.py::test_residuals_are_brought_back_to_the_size_of_the_errors",
    ),
    Mutation(
        "a path that leads out of the data folder read unasked",
        "utils/data/inside.py",
        "    if outside:",
        "    if len(outside) == len(paths):",
        "tests/data/test_odd_folders.py::test_a_path_that_leads_out_of_the_data_folder_is_refused_unless_asked_for",
    ),
    Mutation(
        "a folder whose name begins alike taken for inside",
        "utils/data/inside.py",
        '.rstrip(os.sep)}{os.sep}"',
        '.rstrip(os.sep)}"',
        "tests/data/test_odd_folders.py::test_a_folder_whose_name_begins_alike_is_outside",
    ),
    Mutation(
        "the crop of a drafted picture from the reduced one",
        "utils/data/images.py",
        "for side in crop_box(*self.full_size, size))",
        "for side in crop_box(*(n * self.factor for n in self.image.size), size))",
        "tests/data/test_bounded_reading.py::test_a_drafted_picture_is_upright_and_not_shifted",
    ),
    Mutation(
        "large JPEGs drafted where nobody asked",
        "utils/data/images.py",
        "DRAFT_MARGIN * size if draft else None",
        "DRAFT_MARGIN * size if True else None",
        "tests/data/test_bounded_reading.py::test_draft_decoding_is_off_unless_asked_for_and_of_jpegs_alone",
    ),
    Mutation(
        "an apostrophe too many or too few",
        "utils/core/cells.py",
        'return cell[1:] if _is_formula(cell) and cell[0] == "\'" else cell',
        'return cell.lstrip("\'") if _is_formula(cell) else cell',
        "tests/core/test_cells.py::test_apostrophes_that_stood_there_are_kept",
    ),
    Mutation(
        "the second run in a folder let in",
        "utils/core/locks.py",
        "fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)",
        "fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB)",
        "tests/core/test_locks.py::test_the_second_run_in_a_folder_says_who_holds_it",
    ),
    Mutation(
        "a living process's temporary file removed",
        "utils/core/leftovers.py",
        "dead = machine == _machine() and (before_us or not _is_alive(pid))",
        "dead = machine == _machine()",
        "tests/core/test_locks.py::test_the_next_run_removes_what_dead_processes_left_and_nothing_else",
    ),
    Mutation(
        "per cent taken as they are",
        "utils/data/user_tables.py",
        "numbers = numbers / SCORE_SCALES[scale]",
        "numbers = numbers / 1.0",
        "tests/data/test_user_tables.py::test_tables_as_people_have_them",
    ),
    Mutation(
        "any shared folder dropped from a picture's name",
        "utils/data/matching.py",
        "if count == 0 or absolute or place is None or shared",
        "if True or shared",
        "tests/data/test_user_tables.py::test_folders_are_dropped_only_where_they_say_where_the_pictures_lie",
    ),
    Mutation(
        "a second checkpoint passed over",
        "utils/pipeline/checks.py",
        "if not named and len(there | made) > 1:",
        "if not named and len(there | made) > 2:",
        "tests/pipeline/test_checks.py::test_a_second_checkpoint_in_the_folder_is_noticed",
    ),
    Mutation(
        "steps doubled that were asked for exactly",
        "utils/pipeline/study.py",
        '"--max-doublings 0 --steps"',
        '"--steps"',
        "tests/pipeline/test_checks.py::test_steps_of_attribution_are_exact_unless_doubling_is_asked_for",
    ),
    Mutation(
        "another list of scores replaced unasked",
        "utils/prediction/scoring_stage.py",
        "if overwrite or not path.exists():",
        "if True:",
        "tests/prediction/test_scoring_inputs.py::test_a_list_of_other_pictures_is_not_replaced_unasked",
    ),
    Mutation(
        "rank 1 for the least memorable",
        "utils/prediction/scoring.py",
        'rank(method="min", ascending=False)',
        'rank(method="min", ascending=True)',
        "tests/prediction/test_scoring_inputs.py::test_rows_stand_in_the_order_given",
    ),
    Mutation(
        "training pictures taken for new ones",
        "utils/prediction/scoring.py",
        "in training_digests for path in paths",
        "not in training_digests for path in paths",
        "tests/prediction/test_scoring_inputs.py::test_pictures_that_the_head_was_trained_on_are_told_by_content",
    ),
    Mutation(
        "the conclusion's directions turned round",
        "utils/report/conclusion.py",
        "return YES if found.error.sign > 0 else OPPOSITE",
        "return YES if found.error.sign < 0 else OPPOSITE",
        "tests/report/test_conclusion.py::test_a_verdict_needs_interval_and_p",
    ),
    Mutation(
        "a yes without a p",
        "utils/report/conclusion.py",
        "if found.error.sign and found.p < ALPHA:",
        "if found.error.sign:",
        "tests/report/test_conclusion.py::test_a_verdict_needs_interval_and_p",
    ),
    Mutation(
        "an interval that ends at zero taken for an effect",
        "utils/report/conclusion.py",
        "if self.low > 0:",
        "if self.high > 0:",
        "tests/report/test_conclusion.py::test_a_verdict_needs_interval_and_p",
    ),
    Mutation(
        "no difference from zero taken for no correlation",
        "utils/report/conclusion.py",
        "return NOTHING if found.p_equivalence < ALPHA else OPEN",
        "return NOTHING if found.p >= ALPHA else OPEN",
        "tests/report/test_conclusion.py::test_a_verdict_needs_interval_and_p",
    ),
    Mutation(
        "an effect that turns round within categories passed over",
        "utils/report/conclusion.py",
        "if found.within.claim * found.error.value < 0:",
        "if found.within.claim * found.error.value > 1:",
        "tests/report/test_conclusion.py::test_what_remains_within_categories",
    ),
    Mutation(
        "fifty clusters called few",
        "utils/report/conclusion.py",
        "found.error.known and 0 < found.clusters < FEW_CLUSTERS and",
        "found.error.known and 0 < found.clusters <= FEW_CLUSTERS and",
        "tests/report/test_conclusion.py::test_no_weakness_is_named_without_reason",
    ),
    Mutation(
        "blue for what raises the score",
        "utils/report/gallery_pictures.py",
        "(_LOWERS if level < middle else _RAISES)",
        "(_RAISES if level < middle else _LOWERS)",
        "tests/report/test_gallery.py::test_a_map_is_red_where_it_raises_the_score_blue_where_it_lowers_it_and_clear_at_zero",
    ),
    Mutation(
        "the reconstruction where the image belongs",
        "utils/reconstruction/pairs.py",
        "for half in (images, reconstructions)",
        "for half in (reconstructions, images)",
        "tests/reconstruction/test_pairs.py::test_left_is_the_image_and_right_its_reconstruction",
    ),
    Mutation(
        "strips of the least remembered headed best remembered",
        "utils/report/strips.py",
        "reverse=True)",
        "reverse=False)",
        "tests/report/test_gallery.py::test_strips_show_both_ends",
    ),
    Mutation(
        "a hand-over that changed is read as if it had not",
        "utils/core/claims.py",
        "    if not claim.holds(digest):",
        "    if False:",
        "tests/core/test_claims.py::test_a_table_that_changed_since_it_was_written_is_refused_with_the_command_that_wrote_it",
    ),
    Mutation(
        "the file that a killed write was to replace is taken for an edited one",
        "utils/core/claims.py",
        "digest in (self.sha256, self.before)",
        "digest == self.sha256",
        "tests/core/test_claims.py::test_a_stage_killed_around_a_write_accuses_no_file_of_its_own",
    ),
    Mutation(
        "a failed run replaces the record of a complete one",
        "utils/core/records.py",
        "    if complete and not kind:",
        "    if not kind:",
        "tests/core/test_run.py::test_a_run_that_failed_replaces_no_record_of_a_complete_one",
    ),
    Mutation(
        "an input is digested when it is recorded, not when it is read",
        "utils/core/run.py",
        "seen = read_since(path, self._started_ns)",
        "seen = None",
        "tests/core/test_claims.py::test_a_score_table_that_is_edited_while_a_stage_runs_is_recorded_as_it_was_read",
    ),
    Mutation(
        "a stage that rests on a damaged file is called done",
        "utils/pipeline/status.py",
        "        if maker in undone:",
        "        if False:",
        "tests/pipeline/test_status.py::test_an_edited_file_damages_its_writer_and_nothing_before_it",
    ),
    Mutation(
        "a split that is not stratified by score",
        "utils/data/splits.py",
        '"a": above,',
        '"a": False,',
        "tests/data/test_dataset.py::test_high_and_low_scores_are_shared_out_alike",
    ),
    Mutation(
        "--limit takes the first images",
        "utils/data/dataset.py",
        "np.arange(limit) * len(table) // limit",
        "np.arange(limit)",
        "tests/data/test_dataset.py::test_limit_spans_the_categories",
    ),
    Mutation(
        "Canny's gradient as a sum of its parts",
        "utils/features/image.py",
        "L2gradient=True",
        "L2gradient=False",
        "tests/features/test_image_features.py::test_the_gradient_of_a_slanted_edge_is_its_length_and_not_the_sum_of_its_parts",
    ),
    Mutation(
        "a lower threshold for edges",
        "utils/features/image.py",
        "CANNY_LOW, CANNY_HIGH = 100, 200",
        "CANNY_LOW, CANNY_HIGH = 100, 150",
        "tests/features/test_image_features.py::test_an_edge_begins_where_the_gradient_passes_200",
    ),
    Mutation(
        "faint edges kept",
        "utils/features/image.py",
        "CANNY_LOW, CANNY_HIGH = 100, 200",
        "CANNY_LOW, CANNY_HIGH = 50, 200",
        "tests/features/test_image_features.py::test_an_edge_goes_on_where_the_gradient_stays_above_100",
    ),
    Mutation(
        "a hue for nearly grey pictures",
        "utils/features/image.py",
        "MIN_MEAN_CHROMA = 1 / 255",
        "MIN_MEAN_CHROMA = 1 / 2550",
        "tests/features/test_image_features.py::test_half_a_grey_level_of_chroma_is_not_a_hue_and_two_levels_are",
    ),
    Mutation(
        "foreground and background swapped",
        "utils/features/scene.py",
        "float(1 - shares[BACKGROUND])",
        "float(shares[BACKGROUND])",
        "tests/scenes/test_scene_features.py::test_segments_of_four_quarters_and_of_none",
    ),
    Mutation(
        "an object at the least score does not count",
        "utils/features/scene.py",
        "detections.scores >= min_score",
        "detections.scores > min_score",
        "tests/scenes/test_scene_features.py::test_an_object_counts_from_the_least_score_on",
    ),
    Mutation(
        "most and least distinctive swapped",
        "utils/latents/figures.py",
        "ascending=[False, True]",
        "ascending=[True, True]",
        "tests/test_latent_analysis.py::test_extremes_share_no_image",
    ),
    Mutation(
        "an image above itself instead of its neighbour",
        "utils/latents/figures.py",
        'pixels.get(row.nearest_image_id, "not read")',
        'pixels.get(row.image_id, "not read")',
        "tests/test_latent_analysis.py::test_every_extreme_stands_above_its_own_neighbour",
    ),
    Mutation(
        "best and worst reconstructed swapped",
        "utils/reconstruction/examples.py",
        '"best": ordered.iloc[:count]',
        '"best": ordered.iloc[::-1].iloc[:count]',
        "tests/test_autoencoder_test.py::test_pick_examples_known_answer",
    ),
    Mutation(
        "a contact sheet of the most memorable alone",
        "utils/prediction/contact_sheet.py",
        "table[-most // 2 :]",
        "table[most // 2 : most]",
        "tests/test_mlp_predict.py::test_a_contact_sheet_of_too_many_shows_both_ends_with_their_numbers",
    ),
    Mutation(
        "percentiles upside down on the contact sheet",
        "utils/prediction/contact_sheet.py",
        "(p{row.percentile:.0f})",
        "(p{100 - row.percentile:.0f})",
        "tests/test_mlp_predict.py::test_a_contact_sheet_of_too_many_shows_both_ends_with_their_numbers",
    ),
    Mutation(
        "predicted above counts from the cut on",
        "utils/statistics/prediction_metrics.py",
        "(score > threshold)",
        "(score >= threshold)",
        "tests/statistics/test_metrics.py::test_classification_metrics_against_sklearn",
    ),
    Mutation(
        "counts that do not explain a score give a ceiling",
        "utils/statistics/noise_ceiling.py",
        "SCORE_TOLERANCE = 0.00501",
        "SCORE_TOLERANCE = 0.0501",
        "tests/statistics/test_metrics.py::test_score_ceiling_only_for_scores_the_counts_explain",
    ),
    Mutation(
        "the least memorable subcategory first",
        "utils/categories/tables.py",
        'sort_values("mean", ascending=False',
        'sort_values("mean", ascending=True',
        "tests/test_category_plot.py::test_subcategories_are_ranked",
    ),
    Mutation(
        "the share of negative attribution called positive",
        "utils/attribution/map_measures.py",
        "values[values > 0].sum() / total",
        "values[values < 0].sum() / -total",
        "tests/attribution/test_attribution.py::test_map_summary_and_share_inside_by_hand",
    ),
    Mutation(
        "descent sold as ascent",
        "utils/steering/moves.py",
        "sign * score_gradient",
        "-sign * score_gradient",
        "tests/steering/test_steering.py::test_ascent_of_a_linear_score_is_the_straight_way_and_descent_its_opposite",
    ),
    Mutation(
        "a gain that survives one disturbance survives all",
        "utils/steering/stage.py",
        "min(kept) >=",
        "max(kept) >=",
        "tests/steering/test_steering.py::test_a_gain_survives_only_if_half_of_it_is_left_everywhere",
    ),
    Mutation(
        "the judge knows the photographs",
        "utils/steering/judge.py",
        "models.append(model.fit(features[train], scores[train]))",
        "models.append(model.fit(features, scores))",
        "tests/steering/test_steering.py::test_no_picture_is_judged_by_a_fit_that_knows_its_photograph",
    ),
    Mutation(
        "what one head got wrong is left out of the interval",
        "utils/steering/evaluation.py",
        "        variance = total\n",
        "        pass\n",
        "tests/steering/test_steering.py::test_heads_that_disagree_widen_the_interval",
    ),
    Mutation(
        "an interval of clusters takes Student's t for normal",
        "utils/statistics/resampling.py",
        "reach = stats.t.ppf(0.975, self.freedom)",
        "reach = stats.norm.ppf(0.975)",
        "tests/statistics/test_clusters.py::test_jackknife_interval_by_hand",
    ),
    Mutation(
        "images are resampled one by one by default",
        "utils/statistics/clusters.py",
        "        return Clustering(column, labels)",
        "        return Clustering(IMAGE)",
        "tests/statistics/test_clusters.py::test_default_is_subcategories_where_there_are_some",
    ),
    Mutation(
        "a subcategory's name alone makes a cluster",
        "utils/statistics/clusters.py",
        'known = frame["category"].astype(str) + "/" + known',
        'known = known + ""',
        "tests/statistics/test_clusters.py::test_a_subcategory_name_in_two_categories_is_two_clusters_and_is_said_once",
    ),
    Mutation(
        "p of a correlation is taken off Fisher's z",
        "utils/statistics/rank_correlation.py",
        "return resampler.p_of_zero(rho, samples, FISHER)",
        "return resampler.p_of_zero(rho, samples)",
        "tests/statistics/test_clusters.py::test_p_never_contradicts_the_interval",
    ),
    Mutation(
        "the jackknife's variance is that of draws",
        "utils/statistics/resampling.py",
        "return np.sqrt((len(values) - 1) / len(values) * squares)",
        "return np.sqrt(squares / (len(values) - 1))",
        "tests/statistics/test_clusters.py::test_leaving_out_clusters_gives_the_variance_known_as_cv3",
    ),
    Mutation(
        "R2 of few images keeps its bias",
        "utils/statistics/resampling.py",
        "            if scale.shed_bias:",
        "            if False:",
        "tests/statistics/test_clusters.py::test_skewed_metrics_of_few_images_come_from_leaving_them_out_on_a_scale_of_their_own",
    ),
    Mutation(
        "every rho is as good as none",
        "utils/statistics/resampling.py",
        "room = np.arctanh(bound) - np.abs",
        "room = np.arctanh(bound) + np.abs",
        "tests/statistics/test_clusters.py::test_equivalence_is_two_one_sided_tests",
    ),
    Mutation(
        "one family of tests for all claims",
        "utils/statistics/correlation_tables.py",
        "        if family:",
        "        if not family:",
        "tests/statistics/test_clusters.py::test_one_family_per_claim",
    ),
    Mutation(
        "slopes between and within are added",
        "utils/statistics/mixed_model.py",
        "[0, -1, 1]",
        "[0, 1, 1]",
        "tests/statistics/test_mixed_model.py::test_an_effect_between_clusters_alone_is_not_one_inside",
    ),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project's own files, to be broken one line at a time."""
    folder = tmp_path_factory.mktemp("mutated") / "project"
    left_out = shutil.ignore_patterns(".git", ".venv", "*output*", "__pycache__", ".*_cache", "MemCat")
    shutil.copytree(PROJECT_ROOT, folder, ignore=left_out)
    return folder


def test_no_entry_is_out_of_date():
    for mutation in MUTATIONS:
        text = (PROJECT_ROOT / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.before) == 1, mutation
        file, name = mutation.killer.split("::")
        assert f"def {name}(" in (PROJECT_ROOT / file).read_text(encoding="utf-8"), mutation


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_line_fails_a_test(copy, mutation):
    path = copy / mutation.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutation.before, mutation.after), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.killer],
            cwd=copy,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        path.write_text(whole, encoding="utf-8")
    assert done.returncode == 1, f"{mutation.killer} did not fail: {done.stdout[-500:]}"
    assert "1 failed" in done.stdout
