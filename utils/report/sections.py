"""What the report says of each stage: tables, each from the file it names."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.measure_names import MEASURES, WITHIN, signs_in_words
from utils.core.names import HEADLINE_LOSS, LOSSES, RIVAL_MODEL
from utils.core.tables import models_with, output_file, read_table
from utils.report.blocks import (
    INTERVAL_SCALE,
    Block,
    correlation_block,
    drawn_interval,
    show,
    show_p,
    show_range,
    table_block,
    table_row,
)

TOP_FEATURES = 12
PRIMARY_HYPOTHESIS = (
    "The primary hypothesis: over all images, those that the fine-tuned autoencoder reconstructs worse by {loss} are "
    "remembered better. It is one test, judged by its own interval and p. Everything else in this report is exploratory: "
    "q beside it counts the tests of one claim, and it is called a finding only where the q over the whole study is below "
    "0.05 (study_findings.csv)."
)


def _by_model(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each model in turn."""
    return frame.groupby("model", sort=True)


def _fine_tuning(output_path: Path) -> list[Block]:
    """Mean loss of each epoch of each model."""
    rows, files = [], []
    for model in models_with(output_path, "training"):
        path = output_file(output_path, "training", model)
        files.append(path.name)
        for _, row in read_table(path, "training").iterrows():
            halves = [show(row[name], 4) for name in ("loss_first_half", "loss_second_half")]
            rows.append(
                table_row(
                    [
                        model,
                        f"{row['epoch']:.0f}",
                        f"{row['images']:,.0f}",
                        show(row["loss_mean"], 4),
                        *halves,
                    ]
                )
            )
    if not rows:
        raise UserError(
            f"{output_path}/training_<model>.csv is missing. It is written by: python autoencoder_finetune.py"
        )
    header = ["model", "epoch", "images", "mean loss", "first half", "second half"]
    return [table_block("Training loss", files, header, rows)]


def _reconstruction(output_path: Path) -> list[Block]:
    """Median of each loss over the images, by model."""
    models = models_with(output_path, "test_loss")
    if not models:
        raise UserError(
            f"{output_path}/test_loss_<model>.csv is missing. It is written by: python autoencoder_test.py"
        )
    blocks = []
    for model in models:
        path = output_file(output_path, "test_loss", model)
        frame = read_table(path, "test_loss")
        rows = [
            table_row(
                [
                    loss,
                    f"{frame[loss].notna().sum():,}",
                    *(show(frame[loss].quantile(q), 4) for q in (0.05, 0.5, 0.95)),
                ]
            )
            for loss in LOSSES
            if loss in frame
        ]
        header = ["loss", "images", "5th percentile", "median", "95th percentile"]
        blocks.append(
            table_block(
                f"Reconstruction error of {model}",
                [path.name],
                header,
                rows,
                "Larger is reconstructed worse.",
            )
        )
    return blocks


def _evaluation(output_path: Path) -> list[Block]:
    """The correlation of each loss with memorability, and how many losses differ from each other."""
    path = output_file(output_path, "loss_correlations")
    frame = read_table(path, "loss_correlations")
    text = f"Spearman's ρ with the memorability score; {_resampled(frame)}"
    if frame["rho_within_category"].notna().any():
        text += (
            " Within category: the same after ranking inside each category, so that a difference between categories cannot "
            "pass for an effect."
        )
    measures = list(frame.loc[frame["model"] != RIVAL_MODEL, "measure"]) or list(frame["measure"])
    headline = HEADLINE_LOSS if HEADLINE_LOSS in measures or not measures else measures[0]
    blocks = [
        correlation_block(
            "Rivals that need no network" if model == RIVAL_MODEL else f"Losses of {model}",
            rows,
            "measure" if model == RIVAL_MODEL else "loss",
            path.name,
            headline,
            "" if number else text,
        )
        for number, (model, rows) in enumerate(_by_model(frame))
    ]
    comparisons = output_file(output_path, "loss_comparisons")
    compared = len(read_table(comparisons, "loss_comparisons"))
    return [
        {"kind": "text", "text": PRIMARY_HYPOTHESIS.format(loss=headline)},
        *blocks,
        *_slopes(output_path),
        {
            "kind": "text",
            "text": f"{_held(output_path, comparisons.name)} of {compared} compared pairs of correlations differ (q over "
            f"the whole study < 0.05; {comparisons.name}).",
        },
    ]


def _held(output_path: Path, file: str) -> int:
    """How many tests of a table are findings over the whole study."""
    path = output_file(output_path, "study_findings")
    if not path.exists():  # no table has a test
        return 0
    study = read_table(path, "study_findings")
    return int(study.loc[study["table"] == file, "finding"].sum())


def _resampled(frame: pd.DataFrame) -> str:
    """Say what the intervals are of."""
    units = [unit for unit in dict.fromkeys(frame["cluster"]) if unit != "image"]
    if not units:
        return "the interval is a 95 % percentile bootstrap of images."
    row = frame[frame["cluster"] == units[0]].iloc[0]
    return (
        f"the interval is of whole clusters: {row['clusters']:.0f} of one {units[0]} each, since their images are alike. "
        "Beside it, what it would be if every image told something new."
    )


def _slopes(output_path: Path) -> list[Block]:
    """The slopes within and between clusters, by model."""
    path = output_file(output_path, "mixed_model")
    frame = read_table(path, "mixed_model") if path.exists() else pd.DataFrame()
    if frame.empty:
        return []
    text = (
        "Standard deviations of ranks of memorability per one of the loss, from a mixed model: inside clusters, between "
        "their means, and the difference. An effect between them alone is one of what is shown, not of the single picture."
    )
    blocks = []
    for model, rows in _by_model(frame):
        effects = list(dict.fromkeys(rows["effect"]))
        table = []
        for measure, some in rows.groupby("measure", sort=False):
            found = some.set_index("effect")
            cells = [
                {"text": show(row["slope"]), "range": show_range(row["ci_low"], row["ci_high"])}
                for _, row in found.loc[effects].iterrows()
            ]
            table.append(table_row([measure, *cells], strong=measure == HEADLINE_LOSS))
        title = f"Slopes within and between {rows['cluster'].iloc[0]} means: losses of {model}"
        blocks.append(table_block(title, [path.name], ["loss", *effects], table, text))
    return blocks


_ALL_MEASURES = {*MEASURES, *(name + WITHIN for name in MEASURES)}


def _distinctiveness(output_path: Path) -> list[Block]:
    """The correlations of the distances in latent space; of those with the losses, only the training loss."""
    path = output_file(output_path, "distinctiveness_correlations")
    frame = read_table(path, "distinctiveness_correlations")
    with_losses = (
        frame[["measure", "target", "held_constant"]].isin(set(LOSSES) - {HEADLINE_LOSS}).any(axis=1)
    )
    shown = frame[~with_losses]
    rest = (
        f"{len(frame) - len(shown)} further rows, with the other losses, are in the file."
        if with_losses.any()
        else ""
    )
    many = shown[["measure", "held_constant"]].isin(_ALL_MEASURES).any(axis=1)
    blocks = [
        correlation_block(f"Latent codes of {model}", rows, "measure", path.name, "distinctiveness", rest)
        for model, rows in _by_model(shown[~many])
    ]
    for model, rows in _by_model(shown[many]):
        title = f"Distinctiveness by many measures: latent codes of {model}"
        blocks.append(correlation_block(title, rows, "measure", path.name, "centroid", signs_in_words(rows)))
    return blocks


def _prediction(output_path: Path) -> list[Block]:
    """Test metrics of the MLP and of what it has to beat: a column per predictor."""
    path = output_file(output_path, "mlp_metrics")
    frame = read_table(path, "mlp_metrics")
    differences = frame["predictor"].str.contains(" - ", regex=False)
    blocks = []
    for model, rows in _by_model(frame[~differences]):
        predictors = list(dict.fromkeys(rows["predictor"]))
        values = {(row["predictor"], row["metric"]): row for _, row in rows.iterrows()}
        table = [
            table_row([metric, *(_metric_cell(values.get((name, metric)), metric) for name in predictors)])
            for metric in dict.fromkeys(rows.loc[rows["value"].notna(), "metric"])
        ]
        title = f"What predicts the scores of the {rows['n'].max()} test images: latent codes of {model}"
        text = "Below each value its 95 % percentile bootstrap interval. auc to f1: above or below the training median."
        blocks.append(table_block(title, [path.name], ["metric", *predictors], table, text))
    return blocks


def _metric_cell(row: pd.Series | None, metric: str) -> Block | str:
    """A value above its interval; errors in score units need more decimals than shares."""
    if row is None:
        return ""
    digits = 4 if metric in {"mse", "mae"} else 2
    return {"text": show(row["value"], digits), "range": show_range(row["ci_low"], row["ci_high"], digits)}


def _attribution(output_path: Path) -> list[Block]:
    """Medians and quartiles of what Integrated Gradients says of each image."""
    models = models_with(output_path, "ig")
    if not models:
        raise UserError(
            f"{output_path}/ig_<model>.csv is missing. It is written by: python model_interpretation_IG.py --save"
        )
    blocks = []
    for model in models:
        path = output_file(output_path, "ig", model)
        frame = read_table(path, "ig")
        numbers = [
            column
            for column in TABLES["ig"].columns
            if column.kind == "float" and column.name in frame and frame[column.name].notna().any()
        ]
        rows = [
            table_row(
                [
                    c.name,
                    f"{frame[c.name].notna().sum():,}",
                    *(show(frame[c.name].quantile(q), 3) for q in (0.25, 0.5, 0.75)),
                    c.meaning,
                ]
            )
            for c in numbers
        ]
        for row in rows:
            row["cells"][-1]["style"] = "text wide"
        header = ["measure", "images", "lower quartile", "median", "upper quartile", "meaning"]
        block = table_block(f"Attributions of {model}", [path.name], header, rows)
        block["text_columns"].append("meaning")
        blocks.append(block)
    return blocks


def _first_region(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the region that comes first: of whole pictures, where there are any."""
    return frame[frame["region"].isin(frame["region"].head(1))]


def _features(output_path: Path) -> list[Block]:
    """The features that go most with memorability."""
    path = output_file(output_path, "feature_correlations")
    frame = read_table(path, "feature_correlations")
    frame = frame[frame["target"] == "memorability"]
    frame = _first_region(frame).dropna(subset=["rho"])
    top = frame.reindex(frame["rho"].abs().sort_values(ascending=False, kind="stable").index).head(
        TOP_FEATURES
    )
    header = ["feature", "n", "ρ", "95 % interval", INTERVAL_SCALE, "q", "within category"]
    rows = [
        table_row(
            [
                row["feature"],
                f"{row['n']:,.0f}",
                show(row["rho"]),
                show_range(row["ci_low"], row["ci_high"]),
                drawn_interval(row),
                show_p(row["q"]),
                show(row["rho_within_category"]),
            ]
        )
        for _, row in top.iterrows()
    ]
    text = f"The {len(rows)} of {len(frame)} features whose Spearman correlation with memorability is largest in size."
    return [table_block("Features and memorability", [path.name], header, rows, text)]


def _feature_models(output_path: Path) -> list[Block]:
    """How well features predict memorability together, and what they add to error and distinctiveness."""
    path = output_file(output_path, "feature_model")
    header = ["learner", "predictors", "model", "n", "ρ", "95 % interval", INTERVAL_SCALE, "q", "R²"]
    rows = [
        table_row(
            [
                row["learner"],
                row["predictors"],
                row["model"] or "–",
                f"{row['n']:,.0f}",
                show(row["rho"]),
                show_range(row["ci_low"], row["ci_high"]),
                drawn_interval(row),
                show_p(row["q"]),
                show(row["r2"]),
            ],
            texts=3,
        )
        for _, row in _first_region(read_table(path, "feature_model")).iterrows()
    ]
    text = "Each image predicted once, by a fit without it or any image of its subcategory; ρ from ranks inside folds."
    blocks = [table_block("All features together", [path.name], header, rows, text, texts=3)]
    path = output_file(output_path, "feature_commonality")
    if path.exists():
        blocks.append(_commonality(path))
    return blocks


def _commonality(path: Path) -> Block:
    """What each kind of measure explains that no other does."""
    header = [
        "model",
        "kind of measure",
        "n",
        "alone",
        "unique",
        "95 % interval",
        INTERVAL_SCALE,
        "shared",
        "q",
    ]
    rows = [
        table_row(
            [
                row["model"],
                row["block"],
                f"{row['n']:,.0f}",
                show(row["alone"], 3),
                show(row["unique"], 3),
                show_range(row["ci_low"], row["ci_high"], 3),
                drawn_interval(row.rename({"unique": "rho"})),
                show(row["shared"], 3),
                show_p(row["q"]),
            ],
            texts=2,
        )
        for _, row in _first_region(read_table(path, "feature_commonality")).iterrows()
    ]
    text = (
        "Shares of the variance of ranked memorability, what chance explains taken off. Unique: lost without the kind of "
        "measure; shared: what it explains alone less that."
    )
    return table_block("What each kind of measure adds", [path.name], header, rows, text, texts=2)


STAGE_BLOCKS: dict[str, tuple[Callable[[Path], list[Block]], ...]] = {
    "autoencoder_finetune": (_fine_tuning,),
    "autoencoder_test": (_reconstruction,),
    "autoencoder_evaluation": (_evaluation,),
    "latent_analysis": (_distinctiveness,),
    "mlp_predict": (_prediction,),
    "model_interpretation_IG": (_attribution,),
    "feature_analysis": (_features, _feature_models),
}
