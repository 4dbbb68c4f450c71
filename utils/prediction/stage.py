"""The work of ``mlp_predict.py``: fit a head, keep it with what scoring needs, evaluate, write, draw, score."""

from argparse import Namespace
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.checkpoints import load_mlp, mlp_file, save_mlp
from models.mlp import MemorabilityMLP
from utils.core.errors import ImageError, UserError
from utils.core.log import log
from utils.core.names import DEFAULT_IMAGE_SIZE, TEST
from utils.core.records import package_versions
from utils.core.run import Run
from utils.core.tables import kept_rows, output_file, read_table
from utils.data.images import load_pixels
from utils.latents.codes import find_code_models
from utils.prediction import evaluation as judge
from utils.prediction import figures as mlp_figures
from utils.prediction.curves import calibration_table, curve_table, training_percentile
from utils.prediction.data import PredictionData, load_prediction_data, training_digest
from utils.prediction.near_duplicates import find_near_duplicates, group_near_duplicates
from utils.prediction.partition import Split, repeated_splits
from utils.prediction.predictors import ERROR, MLP, RIDGE, Predictions, predict_with_all
from utils.prediction.repeats import over_splits
from utils.prediction.ridge import fit_standardisation
from utils.prediction.rivals import gather_rivals, rival_rows
from utils.prediction.scoring import DIGEST_LENGTH
from utils.prediction.training import (
    TrainingResult,
    TrainingSettings,
    predict_rows,
    search_mlp,
    settings_grid,
    train_mlp,
)
from utils.statistics.correlation_tables import find_clusters

SHOWN_MISSES = 6
PREPROCESSING = "EXIF applied, RGB, short side to image_size (bilinear, antialiased), centre crop, [0, 1]"


@dataclass
class Evaluation:
    """One split, evaluated.

    Attributes:
        predictions: Of every predictor for every row of the latent matrix.
        predictors: Those that are judged.
        test: The test images that all of them know, with their predictions.
        metrics: Rows of ``mlp_metrics.csv``, without the columns over splits.
        threshold: Median training score, the cut between above and below.
        resamples: Bootstrap resamples behind the intervals.
        seed: Seed of the resamples.
        cluster: What is resampled together (``--cluster``).
    """

    predictions: Predictions
    predictors: list[str]
    test: pd.DataFrame
    metrics: pd.DataFrame
    threshold: float
    resamples: int
    seed: int
    cluster: str | None


# ---------------------------------------------------------------------- training


def settings_of(args: Namespace) -> TrainingSettings:
    """Gather the training flags."""
    return TrainingSettings(
        hidden_sizes=tuple(args.hidden_sizes),
        dropout=args.dropout,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        batch_size=args.train_batch_size,
        epochs=args.epochs,
        patience=args.patience,
        seed=args.seed,
    )


def fit_head(
    data: PredictionData, split: Split, settings: TrainingSettings, search: bool, device: torch.device
) -> tuple[TrainingResult, list[dict[str, Any]]]:
    """Train a head on one split, after a search over the grid if asked for.

    Args:
        data: Latents and scores.
        split: Rows to train and to stop on; its test rows are not read.
        settings: Of the training; the grid replaces some of them in a search.
        search: Whether to try the grid.
        device: Where to train.

    Returns:
        The trained head, and the rows for ``mlp_search.csv`` (none without a search).
    """
    where = (data.latents, data.scores, split.train, split.val)
    if search:
        return search_mlp(*where, settings_grid(settings), device, data.ids)
    label = f"MLP, split {split.number}" if split.number else "MLP"
    return train_mlp(*where, settings, device=device, image_ids=data.ids, description=label), []


def head_meta(run: Run, data: PredictionData, result: TrainingResult, searched: bool) -> dict[str, Any]:
    """What is saved beside a head's weights, so that it can be used and judged without anything else."""
    return {
        "architecture": result.model.architecture(),
        "encoder": data.encoder,
        "image_size": data.image_size,
        "preprocessing": PREPROCESSING,
        "training_scores": np.sort(data.scores[data.split.train]).tolist(),
        "score_column": data.score_column,
        "dataset": data.dataset_name,
        "split_sha256": training_digest(data, data.split),
        "training_pictures": _training_pictures(run, data),
        "settings": {**asdict(result.settings), "hidden_sizes": list(result.settings.hidden_sizes)},
        "searched": searched,
        "best_epoch": result.best_epoch,
        "validation_loss": result.best_loss,
        "versions": package_versions(),
        "caveats": run.caveats,
    }


def _training_pictures(run: Run, data: PredictionData) -> list[str]:
    """Return the beginnings of the SHA-256 of the pictures that a head learns from or stops by, where there are pictures."""
    seen = np.concatenate([data.split.train, data.split.val])
    paths = data.images.loc[data.images["position"].isin(seen), "path"]
    return sorted({run.digests.of(path)[:DIGEST_LENGTH] for path in paths if path})


def saved_settings(meta: dict[str, Any]) -> tuple[TrainingSettings, bool]:
    """Return a head's settings and whether they were searched for, so that further splits are treated alike."""
    settings = {field.name: meta["settings"][field.name] for field in fields(TrainingSettings)}
    return TrainingSettings(**{**settings, "hidden_sizes": tuple(settings["hidden_sizes"])}), meta["searched"]


def history_table(result: TrainingResult) -> pd.DataFrame:
    """Rows of ``mlp_history_<model>.csv``."""
    frame = pd.DataFrame(result.history)
    return frame.assign(best=frame["epoch"] == result.best_epoch)


def load_head(args: Namespace, data: PredictionData) -> tuple[MemorabilityMLP, dict[str, Any]]:
    """Load the head to evaluate; refuse one that was trained on other images, which may be test images now.

    Raises:
        UserError: No head, another encoder, another split or score column.
    """
    path = mlp_file(args.output_path, data.stem)
    settings = {field.name: object for field in fields(TrainingSettings)}
    head, meta = load_mlp(
        path, data.encoder, needs={"settings": {**settings, "hidden_sizes": [int]}, "searched": bool}
    )
    if meta.get("score_column") != data.score_column:
        raise UserError(
            f"{path} was trained on the score column {meta.get('score_column')}, but --score-column is "
            f"{data.score_column}. Train it again with: python mlp_predict.py --train"
        )
    if meta.get("split_sha256") != training_digest(data, data.split):
        raise UserError(
            f"{path} was trained on other images than are trained on now (another split, data set or --limit, or "
            "--group-near-duplicates), so its test images may be among them. Train again: python mlp_predict.py --train"
        )
    return head, meta


# ---------------------------------------------------------------------- evaluation


def evaluate_split(
    data: PredictionData, split: Split, head: MemorabilityMLP, resamples: int, seed: int, cluster: str | None
) -> Evaluation:
    """Fit the baselines on a split's training rows and evaluate everything on its test rows."""
    standardisation = fit_standardisation(data.latents, split.train)
    groups = data.images.set_index("position")[["category", "subcategory"]].reindex(range(len(data.latents)))
    predictions = predict_with_all(
        data.latents, data.scores, split, head, data.measures, standardisation, seed, groups
    )
    if data.error_measure and ERROR in predictions.details:
        predictions.details[ERROR] += f", {data.error_measure}"
    test = data.images[data.images["position"].isin(split.test)].reset_index(drop=True)
    test = pd.concat([test, predictions.values.iloc[test["position"]].reset_index(drop=True)], axis=1)
    test, names = judge.common_images(test, list(predictions.values.columns))
    threshold = float(np.median(data.scores[split.train]))
    metrics = pd.concat(
        [
            judge.metric_table(test, names, threshold, resamples, seed, cluster),
            judge.difference_rows(test, names, resamples, seed, cluster),
        ],
        ignore_index=True,
    )
    metrics["detail"] = metrics["predictor"].map(predictions.details).fillna("")
    metrics = judge.add_family_q(metrics)
    return Evaluation(predictions, names, test, metrics, threshold, resamples, seed, cluster)


def evaluate_again(data: PredictionData, evaluation: Evaluation, head: MemorabilityMLP) -> pd.DataFrame:
    """Evaluate another head on the same test images: its own metrics and its differences from the other predictors."""
    test = evaluation.test
    test = test.assign(**{MLP: predict_rows(head, data.latents, test["position"].to_numpy())})
    arguments = (0, evaluation.seed, evaluation.cluster)
    own = judge.metric_table(test, [MLP], evaluation.threshold, *arguments)
    differences = judge.difference_rows(test, evaluation.predictors, *arguments)
    return pd.concat(
        [own[own["predictor"] == MLP], differences[differences["predictor"].str.startswith(f"{MLP} - ")]],
        ignore_index=True,
    )


def further_splits(data: PredictionData, args: Namespace) -> list[Split]:
    """The splits of ``--n-splits`` after that of ``splits.csv``; none beside a user's own."""
    if data.own_split:
        return []
    table = data.images[["category", "subcategory", "group", "source", "memorability"]]
    return repeated_splits(
        table, data.images["position"].to_numpy(), args.n_splits - 1, args.seed, data.split_by
    )


def training_seeds(data: PredictionData, args: Namespace) -> int:
    """How many heads are trained in each split; a user's own split is repeated over seeds, for it is not drawn again."""
    if not data.own_split or args.n_splits == 1:
        return args.n_seeds
    seeds = max(args.n_seeds, args.n_splits)
    log.info(
        "The split is your own (column split) and stays: --n-splits %d trains %d heads from different seeds on it. They say "
        "nothing about other splits, so there is no interval over splits.",
        args.n_splits,
        seeds,
    )
    return seeds


def split_rows(metrics: pd.DataFrame, split: Split, mlp_seed: int) -> pd.DataFrame:
    """Rows of ``mlp_splits.csv`` for one split and training seed."""
    rows = metrics[["predictor", "metric", "value", "n"]]
    return rows.assign(split_number=split.number, split_seed=split.seed, mlp_seed=mlp_seed)


def replace_model_rows(run: Run, table: str, rows: pd.DataFrame | list[dict], model: str) -> None:
    """Write rows of one model into a table that keeps those of other models.

    Without rows, those of an earlier run of the model are taken out: they no longer describe its head.
    """
    frame = pd.DataFrame(rows).assign(model=model)
    path = output_file(run.output_path, table)
    old = run.read_earlier(table)
    if old is not None:
        old = kept_rows(old, old["model"] != model)
        frame = old if frame.empty else pd.concat([old, frame], ignore_index=True)
    if frame.empty:
        path.unlink(missing_ok=True)
        return
    run.write_table(frame.sort_values("model", kind="stable", ignore_index=True), table)


def write_evaluation(
    run: Run, args: Namespace, data: PredictionData, evaluation: Evaluation, splits: list[pd.DataFrame]
) -> None:
    """Write the tables of an evaluation."""
    by_split = pd.concat(splits, ignore_index=True)
    share = len(data.split.test) / len(data.split.train)
    summary = over_splits(by_split, share)
    # Only a difference can be 0 in a way that means something.
    summary["p_over_splits"] = summary["p_over_splits"].where(
        summary["predictor"].str.contains(" - ", regex=False)
    )
    metrics = evaluation.metrics.merge(summary, on=["predictor", "metric"], how="left", validate="one_to_one")
    replace_model_rows(run, "mlp_metrics", metrics, data.stem)
    replace_model_rows(run, "mlp_splits", by_split if len(splits) > 1 else [], data.stem)
    replace_model_rows(run, "mlp_predictions", _prediction_rows(data, evaluation), data.stem)
    observed = evaluation.test["memorability"].to_numpy(float)
    predicted = evaluation.test[MLP].to_numpy(float)
    codes = find_clusters(evaluation.test, evaluation.cluster).codes(evaluation.test)
    drawn = (evaluation.resamples, evaluation.seed, codes)
    replace_model_rows(run, "mlp_calibration", calibration_table(observed, predicted, *drawn), data.stem)
    above = observed > evaluation.threshold
    replace_model_rows(run, "mlp_curves", curve_table(above, predicted, *drawn), data.stem)


def _prediction_rows(data: PredictionData, evaluation: Evaluation) -> pd.DataFrame:
    values = evaluation.predictions.values.iloc[data.images["position"]].reset_index(drop=True)
    columns = ["image_id", "category", "subcategory", "split", "memorability"]
    return data.images[columns].assign(
        prediction=values[MLP],
        ridge=values[RIDGE],
        percentile=training_percentile(values[MLP], data.scores[data.split.train]),
    )


def summary(metrics: pd.DataFrame) -> str:
    """The test correlations of every predictor as text, and who won."""
    rho = metrics[metrics["metric"] == "spearman"]
    lines = [f"{'predictor':<36}{'test rho':>9}   95 % interval"]
    for row in rho.itertuples():
        if not np.isfinite(row.value):
            lines.append(f"{row.predictor:<36}{'-':>9}")
            continue
        interval = f"   [{row.ci_low:.3f}, {row.ci_high:.3f}]" if np.isfinite(row.ci_low) else ""
        lines.append(f"{row.predictor:<36}{row.value:>9.3f}{interval}")
    return "\n".join([*lines, judge.verdict(metrics), judge.recognition_verdict(metrics)]).rstrip()


# ---------------------------------------------------------------------- figures


def draw_evaluation(run: Run, args: Namespace, data: PredictionData, evaluation: Evaluation) -> None:
    """Draw the figures of an evaluation from the tables just written."""
    stem = data.stem

    def of_model(table: str) -> pd.DataFrame:
        frame = read_table(output_file(args.output_path, table), table)
        return frame[frame["model"] == stem]

    metrics, predictions = of_model("mlp_metrics"), of_model("mlp_predictions")
    test = predictions[predictions["split"] == TEST]
    above = (test["memorability"] > evaluation.threshold).to_numpy()
    figures = {
        "mlp_predicted": mlp_figures.predicted_against_observed(test, metrics, stem),
        "mlp_roc_pr": mlp_figures.roc_and_precision_recall(of_model("mlp_curves"), metrics, above),
        "mlp_calibration": mlp_figures.calibration(of_model("mlp_calibration")),
    }
    history = output_file(args.output_path, "mlp_history", stem)
    if history.exists():
        figures["mlp_learning"] = mlp_figures.learning_curve(read_table(history, "mlp_history"))
    for name, figure in figures.items():
        run.save_figure(figure, f"{name}_{stem}")
    if (data.images["path"] != "").any():
        _draw_misses(run, data, test)


def _draw_misses(run: Run, data: PredictionData, test: pd.DataFrame) -> None:
    """Draw the test images whose score was missed most, upwards and downwards, and by more than is usual."""
    missed = test.assign(error=test["prediction"] - test["memorability"]).sort_values(
        ["error", "image_id"], ascending=[False, True]
    )
    usual = missed["error"].abs().median()
    missed = missed[missed["error"].abs() >= usual]
    over, under = missed[missed["error"] > 0][:SHOWN_MISSES], missed[missed["error"] < 0][::-1][:SHOWN_MISSES]
    misses = pd.concat([over, under], ignore_index=True)
    if misses.empty:  # a model that is never wrong
        return
    paths = data.images.set_index("image_id")["path"]
    pictures = []
    for image_id in misses["image_id"]:
        try:
            pixels = load_pixels(paths[image_id], 224)
        except ImageError as error:
            log.warning("%s is shown blank among the largest misses: %s", image_id, error.reason)
            pixels = np.ones((3, 224, 224), dtype=np.float32)
        pictures.append((pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8))
    run.save_figure(mlp_figures.largest_misses(misses, pictures, len(test)), f"mlp_misses_{data.stem}")


# ---------------------------------------------------------------------- steps


def check_image_size(args: Namespace, size: int, source: str) -> None:
    """Refuse an image size that was asked for and is not that of the latent codes or the head."""
    if args.image_size not in (size, DEFAULT_IMAGE_SIZE):
        raise UserError(
            f"--image-size {args.image_size} was asked for, but {source} is of images of {size} px."
        )


def learn(run: Run, args: Namespace) -> None:
    """Train and evaluate the head of each named model (of the only one, without a name)."""
    for stem, checkpoint in find_code_models(args):
        with run.one_model():  # one head's caveats are not the next one's
            data = load_prediction_data(run, args, checkpoint or args.output_path / f"{stem}.pth")
            check_image_size(args, data.image_size, f"latents_{data.stem}.npy")
            run.count(images=len(data.images))
            if args.evaluate or args.group_near_duplicates:
                pairs = find_near_duplicates(run, args, data)
                if args.group_near_duplicates:
                    data = group_near_duplicates(data, pairs)
            if args.train:
                train(run, args, data)
            if args.evaluate:
                evaluate(run, args, data)


def train(run: Run, args: Namespace, data: PredictionData) -> None:
    """Train the head (after a search, if asked for) and save it with all that scoring needs."""
    result, tried = fit_head(data, data.split, settings_of(args), args.search, run.device)
    replace_model_rows(run, "mlp_search", tried, data.stem)
    path = mlp_file(args.output_path, data.stem)
    save_mlp(path, result.model.state_dict(), **head_meta(run, data, result, args.search))
    run.add_output(path)
    run.write_table(history_table(result), "mlp_history", data.stem)
    log.info(
        "Wrote %s: kept epoch %d of %d, validation loss %.4f (1: no better than the mean score)",
        path, result.best_epoch, len(result.history), result.best_loss,
    )  # fmt: skip


def evaluate(run: Run, args: Namespace, data: PredictionData) -> None:
    """Evaluate the saved head and the baselines on the test split; write tables and figures."""
    head, meta = load_head(args, data)
    run.note_caveats(meta.get("caveats", []))
    settings, searched = saved_settings(meta)
    evaluation = evaluate_split(data, data.split, head, args.resamples, args.seed, args.cluster)
    drawn = (evaluation.threshold, args.resamples, args.seed, args.cluster)
    rivals = rival_rows(evaluation.test, gather_rivals(args, data), *drawn)
    evaluation.metrics = judge.add_family_q(pd.concat([evaluation.metrics, rivals], ignore_index=True))
    splits = [split_rows(evaluation.metrics, data.split, settings.seed)]
    seeds = training_seeds(data, args)
    for split in (data.split, *further_splits(data, args)):
        of_split = evaluation if split is data.split else None
        for seed in range(settings.seed, settings.seed + seeds):
            if of_split is evaluation and seed == settings.seed:
                continue  # the saved head
            result, _ = fit_head(data, split, replace(settings, seed=seed), searched, run.device)
            if of_split is None:
                of_split = evaluate_split(data, split, result.model, 0, args.seed, args.cluster)
                rows = of_split.metrics
            else:
                rows = evaluate_again(data, of_split, result.model)
            splits.append(split_rows(rows, split, seed))
    write_evaluation(run, args, data, evaluation, splits)
    draw_evaluation(run, args, data, evaluation)
    log.info("%s", summary(evaluation.metrics))
