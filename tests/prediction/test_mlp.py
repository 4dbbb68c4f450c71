"""The MLP head, its training loop, and the linear baselines it is compared with."""

import numpy as np
import pytest
import torch
from correlated import row_of
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression, Ridge

from models.checkpoints import load_mlp, save_mlp
from models.mlp import MemorabilityMLP, build_mlp
from utils.core.errors import UserError
from utils.latents.rows import take_rows
from utils.prediction.ridge import (
    check_finite,
    fit_least_squares,
    fit_ridge,
    fit_standardisation,
)
from utils.prediction.training import (
    SEARCH_GRID,
    TrainingSettings,
    check_scores,
    predict_rows,
    search_mlp,
    settings_grid,
    train_mlp,
)

FAST = TrainingSettings(
    hidden_sizes=(16,), dropout=0.1, learning_rate=3e-3, batch_size=32, epochs=30, patience=5
)


def planted(n=600, dims=24, strength=0.7, seed=0):
    """Latents, scores, the signal in them, and 60/10/30 rows: the score is strength * signal + noise."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, dims)).astype(np.float32)
    signal = latents @ rng.normal(size=dims)
    signal = (signal - signal.mean()) / signal.std()
    scores = 0.7 + 0.1 * (strength * signal + np.sqrt(1 - strength**2) * rng.normal(size=n))
    order = rng.permutation(n)
    return latents, scores, signal, np.split(order, [int(0.6 * n), int(0.7 * n)])


def weight_bytes(model):
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


# ---------------------------------------------------------------------- the module


def test_scores_are_in_units_of_the_training_score_and_accept_feature_maps():
    model = build_mlp(8, (4,), 0.5, seed=1).eval()
    mean, scale = torch.arange(8.0), torch.full((8,), 2.0)
    latents = torch.randn(5, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    plain = build_mlp(8, (4,), 0.5, seed=1).eval()
    expected = plain.layers((latents.flatten(1) - mean) / 2.0).squeeze(-1) * 0.1 + 0.7
    model.set_standardisation(mean, scale, 0.7, 0.1)
    with torch.no_grad():
        assert model(latents).shape == (5,)
        torch.testing.assert_close(model(latents), expected)
        torch.testing.assert_close(model(latents.flatten(1)), expected)


def test_a_hand_solved_network_gives_its_known_answer():
    model = MemorabilityMLP(2, (2,), 0.0)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        model.layers[0].bias.copy_(torch.tensor([0.0, 1.0]))
        model.layers[3].weight.copy_(torch.tensor([[3.0, -2.0]]))
        model.layers[3].bias.copy_(torch.tensor([0.25]))
    # hidden = relu(1 + 4, -1 + 1 + 1) = (5, 1); output = 15 - 2 + 0.25
    assert model(torch.tensor([[1.0, 2.0]])).item() == pytest.approx(13.25)


def test_dropout_acts_in_training_only():
    model = build_mlp(16, (32,), 0.5)
    codes = torch.ones(1, 16)
    assert not torch.equal(model(codes), model(codes))
    model.eval()
    assert torch.equal(model(codes), model(codes))


def test_no_hidden_layer_is_a_linear_model():
    model = build_mlp(6, (), 0.0).eval()
    a, b = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(a) + model(b), model(a + b) + model(torch.zeros(1, 6)))


def test_codes_of_another_length_are_refused_with_the_remedy():
    message = (
        r"This MLP takes latent codes of 8 values, got 12 \(shape \(2, 3, 2, 2\)\)\. "
        r"Use the encoder and the image size it was trained with\."
    )
    with pytest.raises(UserError, match=message):
        build_mlp(8)(torch.zeros(2, 3, 2, 2))


@pytest.mark.parametrize("arguments", [(0, (4,), 0.5), (4, (0,), 0.5), (4, (4,), 1.0), (4, (4,), -0.1)])
def test_impossible_architectures_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        MemorabilityMLP(*arguments)


def test_standardisation_is_checked():
    model = build_mlp(3)
    with pytest.raises(ValueError, match=r"Expected mean and scale of shape \(3,\), got \(2,\) and \(3,\)"):
        model.set_standardisation(torch.zeros(2), torch.ones(3), 0.0, 1.0)
    with pytest.raises(ValueError, match="Every scale must be positive"):
        model.set_standardisation(torch.zeros(3), torch.zeros(3), 0.0, 1.0)


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, second, other = build_mlp(8, seed=3), build_mlp(8, seed=3), build_mlp(8, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert weight_bytes(first) == weight_bytes(second) != weight_bytes(other)


def test_architecture_rebuilds_the_module():
    model = build_mlp(8, (5, 3), 0.25)
    again = MemorabilityMLP(**model.architecture())
    again.load_state_dict(model.state_dict())
    assert weight_bytes(again) == weight_bytes(model)


# ---------------------------------------------------------------------- reading rows


def test_rows_come_in_the_order_asked_for_flattened_and_single(tmp_path):
    values = np.arange(24, dtype=np.float16).reshape(6, 2, 2)
    np.save(tmp_path / "latents.npy", values)
    mapped = np.load(tmp_path / "latents.npy", mmap_mode="r")
    rows = np.array([4, 0, 4, 2])
    taken = take_rows(mapped, rows)
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, values.reshape(6, 4)[rows])


def test_latents_that_are_not_finite_are_named():
    latents = np.zeros((1100, 3), dtype=np.float32)
    latents[1, 2], latents[1050, 0] = np.nan, np.inf
    names = [f"animal/bär {i}.jpg" for i in range(1100)]
    with pytest.raises(UserError) as error:
        check_finite(latents, names, "latents_x.npy")
    assert str(error.value) == (
        "latents_x.npy: expected finite latent codes, found NaN or infinity in 2 of 1100 rows "
        "(animal/bär 1.jpg, animal/bär 1050.jpg). Write them again with: "
        "python latent_analysis.py --calculate-latents --overwrite"
    )
    check_finite(np.zeros((3, 2)), names[:3], "fine.npy")


# ---------------------------------------------------------------------- standardisation


def test_standardisation_is_mean_and_spread_of_the_training_rows():
    rng = np.random.default_rng(0)
    latents = (rng.normal(size=(900, 5)) * [1, 2, 3, 4, 1] + [0, 0, 1e4, -5, 0]).astype(np.float32)
    rows = rng.choice(900, 700, replace=False)
    fitted = fit_standardisation(latents, rows)
    exact = latents[rows].astype(np.float64)
    np.testing.assert_allclose(fitted.mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fitted.scale, exact.std(axis=0), rtol=1e-5)
    assert fitted.n == 700
    applied = fitted.apply(latents[rows])
    np.testing.assert_allclose(applied.std(axis=0), 1.0, atol=1e-3)


def test_dimensions_that_hardly_move_in_training_cannot_blow_up_a_test_row():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(200, 3)).astype(np.float32)
    latents[:, 1] = 0.3  # constant in training
    latents[:, 2] *= 1e-5  # hardly moves in training
    latents[150:, 1:] = 1.0
    applied = fit_standardisation(latents, np.arange(150)).apply(latents[150:])
    assert np.abs(applied[:, 1]).max() < 1e-20
    assert np.abs(applied[:, 2]).max() < 1e3  # 1e5 without the floor


# ---------------------------------------------------------------------- ridge


@pytest.mark.parametrize(("n", "dims"), [(80, 200), (300, 20)], ids=["dual", "primal"])
def test_ridge_equals_scikit_learn_in_both_forms(n, dims):
    latents, scores, _, (train, val, test) = planted(n, dims, seed=2)
    fitted = fit_ridge(latents, scores, train, val, strengths=[0.5, 5.0, 50.0, 500.0])
    standardised = fitted.standardisation.apply(latents).astype(np.float64)
    errors = {}
    for strength in (500.0, 50.0, 5.0, 0.5):
        oracle = Ridge(alpha=strength).fit(standardised[train], scores[train])
        errors[strength] = ((oracle.predict(standardised[val]) - scores[val]) ** 2).mean()
    np.testing.assert_allclose(fitted.validation_mse, list(errors.values()), rtol=1e-4)
    assert fitted.strength == min(errors, key=errors.get)
    oracle = Ridge(alpha=fitted.strength).fit(standardised[train], scores[train])
    np.testing.assert_allclose(fitted.weights, oracle.coef_, atol=2e-6)
    np.testing.assert_allclose(fitted.predict(latents, test), oracle.predict(standardised[test]), atol=1e-5)


@pytest.mark.parametrize(("n", "dims"), [(40, 60), (60, 10)], ids=["dual", "primal"])
def test_left_out_predictions_equal_refits_without_the_row(n, dims):
    latents, scores, _, (train, val, _) = planted(n, dims, seed=5)
    fitted = fit_ridge(latents, scores, train, val, strengths=[3.0])
    standardised = fitted.standardisation.apply(latents).astype(np.float64)
    refitted = []
    for left_out in train:
        rest = train[train != left_out]
        oracle = Ridge(alpha=3.0).fit(standardised[rest], scores[rest])
        refitted.append(oracle.predict(standardised[[left_out]])[0])
    np.testing.assert_allclose(fitted.left_out, refitted, atol=1e-5)


def test_default_strengths_span_the_best_one_and_rows_beyond_the_limit_are_drawn():
    latents, scores, _, (train, val, test) = planted(600, 24, seed=1)
    fitted = fit_ridge(latents, scores, train, val)
    assert np.argmin(fitted.validation_mse) > 0
    assert spearmanr(fitted.predict(latents, test), scores[test]).statistic > 0.5
    small = fit_ridge(latents, scores, train, val, max_rows=20)
    assert len(small.fitted_rows) == 20 == len(small.left_out)
    assert set(small.fitted_rows) <= set(train)


def test_ridge_on_a_matrix_in_tiles_equals_one_tile(tmp_path):
    from utils.prediction.ridge import row_products

    latents, _, _, (train, _, _) = planted(200, 300)
    standardisation = fit_standardisation(latents, train)
    np.save(tmp_path / "latents.npy", latents)
    mapped = np.load(tmp_path / "latents.npy", mmap_mode="r")
    tiled = row_products(mapped, train, standardisation, tile_rows=32)
    codes = standardisation.apply(latents[train]).astype(np.float64)
    np.testing.assert_allclose(tiled, codes @ codes.T, atol=1e-3)
    np.testing.assert_array_equal(tiled, tiled.T)


def test_least_squares_equals_scikit_learn_and_the_constant_is_the_mean():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 3)) * [1e-3, 1.0, 1e2]
    scores = rng.normal(size=50)
    fitted = fit_least_squares(features, scores)
    oracle = LinearRegression().fit(features, scores)
    np.testing.assert_allclose(fitted.predict(features), oracle.predict(features), atol=1e-10)
    constant = fit_least_squares(np.empty((50, 0)), scores)
    np.testing.assert_allclose(constant.predict(np.empty((4, 0))), scores.mean())


# ---------------------------------------------------------------------- training


def test_planted_signal_of_known_strength_is_found_within_its_interval():
    latents, scores, signal, (train, val, test) = planted(2000, 24, strength=0.7)
    result = train_mlp(latents, scores, train, val, FAST)
    found = row_of(predict_rows(result.model, latents, test), scores[test], 500)
    truth = spearmanr(signal[test], scores[test]).statistic  # the best any model of the latents can do
    assert found.ci_low <= truth <= found.ci_high
    assert found.rho == pytest.approx(truth, abs=0.05)


def test_shuffled_scores_give_an_interval_that_contains_zero():
    latents, scores, _, (train, val, test) = planted(1000, 24)
    scores = np.random.default_rng(1).permutation(scores)
    result = train_mlp(latents, scores, train, val, FAST)
    found = row_of(predict_rows(result.model, latents, test), scores[test], 500)
    assert found.ci_low <= 0 <= found.ci_high


def test_a_marker_in_the_test_rows_is_not_exploited():
    """One dimension holds the score itself in test rows and 0 in all others; the rest is noise."""
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(1000, 24)).astype(np.float32)
    scores = rng.uniform(0.2, 1.0, 1000)
    train, val, test = np.split(rng.permutation(1000), [600, 700])
    latents[:, 0] = 0.0
    latents[test, 0] = scores[test]
    result = train_mlp(latents, scores, train, val, FAST)
    found = row_of(predict_rows(result.model, latents, test), scores[test], 500)
    assert found.ci_low <= 0 <= found.ci_high
    # The marker is there for the taking: a model that may see half of the test rows finds it.
    leaky = train_mlp(latents, scores, np.concatenate([train, test[:200]]), test[200:250], FAST)
    taken = predict_rows(leaky.model, latents, test[250:])
    assert spearmanr(taken, scores[test[250:]]).statistic > 0.5


def test_test_rows_cannot_change_a_single_byte():
    latents, scores, _, (train, val, test) = planted(300, 16)
    clean = train_mlp(latents, scores, train, val, FAST)
    ridge = fit_ridge(latents, scores, train, val)
    candidates = settings_grid(FAST, {"dropout": (0.0, 0.3)})
    _, rows = search_mlp(latents, scores, train, val, candidates)
    latents, scores = latents.copy(), scores.copy()
    latents[test], scores[test] = np.nan, np.nan
    assert weight_bytes(train_mlp(latents, scores, train, val, FAST).model) == weight_bytes(clean.model)
    np.testing.assert_array_equal(fit_ridge(latents, scores, train, val).weights, ridge.weights)
    assert search_mlp(latents, scores, train, val, candidates)[1] == rows


def test_same_seed_same_bytes_from_memory_or_disk_and_the_global_state_is_left(tmp_path):
    latents, scores, _, (train, val, _) = planted(300, 16)
    np.save(tmp_path / "latents.npy", latents.reshape(300, 4, 2, 2))
    mapped = np.load(tmp_path / "latents.npy", mmap_mode="r")
    torch.manual_seed(5)
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = train_mlp(latents, scores, train, val, FAST)
    assert torch.equal(state, torch.random.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(99)
    second = train_mlp(mapped, scores, train, val, FAST)
    assert weight_bytes(first.model) == weight_bytes(second.model)
    assert first.history == second.history
    other = train_mlp(latents, scores, train, val, TrainingSettings(**(vars(FAST) | {"seed": 1})))
    assert weight_bytes(other.model) != weight_bytes(first.model)


def test_early_stopping_restores_the_best_epoch():
    latents, scores, _, (train, val, _) = planted(120, 200, strength=0.3)
    result = train_mlp(latents, scores, train, val, FAST)
    losses = [row["validation_loss"] for row in result.history]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == result.best_epoch + FAST.patience < FAST.epochs  # it went on, got worse and stopped
    error = ((predict_rows(result.model, latents, val) - scores[val]) ** 2).mean() / scores[train].var()
    assert error == pytest.approx(result.best_loss, rel=1e-6)
    assert error < losses[-1]
    assert not result.model.training


def test_search_starts_each_candidate_afresh_and_selects_on_validation_only():
    latents, scores, _, (train, val, _) = planted(300, 16)
    candidates = settings_grid(FAST, {"learning_rate": (1e-5, 3e-3), "hidden_sizes": ((8,), (16, 4))})
    best, rows = search_mlp(latents, scores, train, val, candidates)
    assert [row["learning_rate"] for row in rows] == [1e-5, 1e-5, 3e-3, 3e-3]
    assert [row["hidden_sizes"] for row in rows] == ["8", "16 4", "8", "16 4"]
    chosen = [row["selected"] for row in rows]
    assert sum(chosen) == 1
    assert chosen.index(True) == int(np.argmin([row["validation_loss"] for row in rows]))
    alone = train_mlp(latents, scores, train, val, best.settings)
    assert weight_bytes(alone.model) == weight_bytes(best.model)


def test_the_default_grid_is_every_combination_once():
    settings = settings_grid(FAST)
    assert len(settings) == len(set(settings)) == np.prod([len(values) for values in SEARCH_GRID.values()])
    assert {item.epochs for item in settings} == {FAST.epochs}


def test_unusable_scores_are_refused_whole_message():
    scores = np.full(10, 0.5)
    with pytest.raises(UserError) as error:
        check_scores(scores, np.arange(6), np.arange(6, 8))
    assert str(error.value) == (
        "All 6 training images have the same memorability score (0.5), so there is nothing to predict. "
        "Check --score-column."
    )
    with pytest.raises(UserError) as error:
        check_scores(np.arange(4.0), np.arange(1), np.arange(0))
    assert str(error.value) == (
        "Training needs at least 2 training images and 1 validation image, found 1 and 0 in splits.csv. "
        "Use more images."
    )
    with pytest.raises(
        UserError, match="Every training and validation image needs a finite memorability score"
    ):
        check_scores(np.array([0.1, np.nan, 0.3]), np.array([0, 1]), np.array([2]))


def test_a_loss_that_is_not_finite_stops_and_names_the_batch():
    latents, scores, _, (train, val, _) = planted(100, 8)
    latents[train[3]] = np.inf
    names = np.array([f"food/{i}.jpg" for i in range(100)])
    with pytest.raises(
        UserError, match=r"no longer finite, at a batch with food/\d+\.jpg, .*Lower --learning-rate"
    ):
        train_mlp(latents, scores, train, val, FAST, fit_standardisation(latents, val), image_ids=names)


def test_a_validation_split_of_one_image_is_enough():
    latents, scores, _, (train, val, _) = planted(100, 8)
    result = train_mlp(latents, scores, train, val[:1], FAST)
    assert np.isnan(result.history[0]["validation_rho"])
    assert np.isfinite(result.best_loss)


# ---------------------------------------------------------------------- the saved head


def saved_head(path, hidden_sizes=(4,)):
    model = build_mlp(8, hidden_sizes, seed=2).eval()
    model.set_standardisation(torch.arange(8.0), torch.full((8,), 2.0), 0.7, 0.1)
    encoder = {"stem": "mem_vgg_autoencoder", "sha256": "a" * 64}
    save_mlp(path, model.state_dict(), architecture=model.architecture(), encoder=encoder, image_size=224)
    return model, encoder


def test_a_saved_head_comes_back_whole_and_the_file_depends_on_its_content_alone(tmp_path):
    model, encoder = saved_head(tmp_path / "mlp_a.pth")
    saved_head(tmp_path / "mlp_b.pth")
    assert (tmp_path / "mlp_a.pth").read_bytes() == (tmp_path / "mlp_b.pth").read_bytes()
    again, meta = load_mlp(tmp_path / "mlp_a.pth", encoder)
    assert weight_bytes(again) == weight_bytes(model)
    assert not again.training
    assert meta["image_size"] == 224


def test_a_head_on_another_encoder_is_refused_by_name(tmp_path):
    saved_head(tmp_path / "mlp_a.pth")
    with pytest.raises(UserError) as error:
        load_mlp(tmp_path / "mlp_a.pth", {"stem": "other", "sha256": "b" * 64})
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path / 'mlp_a.pth'} was trained on the encoder mem_vgg_autoencoder (SHA-256 aaaa"
    )
    assert "but the encoder at hand is other (bbbb" in message
    assert "python mlp_predict.py --train" in message


def test_a_head_that_does_not_fit_its_own_architecture_names_the_tensors(tmp_path):
    model, encoder = saved_head(tmp_path / "mlp_a.pth")
    wrong = build_mlp(8, (4, 2)).architecture()
    save_mlp(tmp_path / "mlp_a.pth", model.state_dict(), architecture=wrong, encoder=encoder)
    with pytest.raises(
        UserError, match=r"do not fit the network \(MemorabilityMLP\): 2 missing: layers\.6\.bias"
    ):
        load_mlp(tmp_path / "mlp_a.pth")
    save_mlp(tmp_path / "mlp_a.pth", model.state_dict(), encoder=encoder)
    with pytest.raises(UserError, match="does not say its architecture"):
        load_mlp(tmp_path / "mlp_a.pth")
