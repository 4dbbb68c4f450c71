"""What the report says of each stage: headline tiles and tables, each from the file it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.names import LOSSES
from utils.core.tables import models_with, output_file, read_table

if TYPE_CHECKING:
    import pandas as pd

TRAINING_LOSS = (
    "lpips-sq"  # the headline is the loss of the fine-tuning, chosen before looking, not the best one
)
TOP_FEATURES = 12
INTERVAL_SCALE = "−1 … 1"
Block = dict[str, Any]


def missing_block(text: str) -> Block:
    """Say what is not there."""
    return {"kind": "missing", "text": text}


def table_block(
    title: str, files: list[str], header: list[str], rows: list[Block], text: str = "", texts: int = 1
) -> Block:
    """A table block; the first ``texts`` columns hold words."""
    return {
        "kind": "table",
        "title": title,
        "files": files,
        "header": header,
        "text_columns": [*header[:texts], INTERVAL_SCALE],
        "rows": rows,
        "text": text,
    }


def table_row(cells: Iterable[Any], texts: int = 1, strong: bool = False) -> Block:
    """Make a row of a table.

    Args:
        cells: Texts, tuples (value, low, high) to be drawn, or ``{"text", "range"}`` for a value above its interval.
        texts: How many of the first cells hold words.
        strong: Whether the row stands out.
    """
    made = []
    for number, cell in enumerate(cells):
        content: Block = {
            "text": "",
            "range": "",
            "interval": None,
            "style": "text" if number < texts else "",
        }
        if isinstance(cell, tuple):
            content |= {"interval": cell, "style": "text"}
        else:
            content |= cell if isinstance(cell, dict) else {"text": cell}
        made.append(content)
    return {"cells": made, "strong": strong}


def show(value: float | None, digits: int = 2) -> str:
    """Write a number for reading: fixed decimals, thousands separated, a dash where it is undefined.

    Below the last decimal, powers of ten where there are more than two decimals.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if digits > 2 and value != 0 and abs(value) < 10**-digits / 2:  # losses and deltas; a rho of 0.00 is 0.00
        return f"{value:.1e}"
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # adding 0 turns -0.00 into 0.00


def show_p(value: float | None) -> str:
    """Write a p or q value: three decimals, below that a bound."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_range(low: float, high: float, digits: int = 2) -> str:
    """Write an interval, or nothing where it is undefined."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return "[" + ", ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in (low, high)) + "]"


def _drawn(row: pd.Series) -> tuple[float, float, float] | str:
    """Values of a drawn interval, or a dash."""
    values = (row["rho"], row["ci_low"], row["ci_high"])
    return values if all(math.isfinite(value) for value in values) else "–"


def _label(row: pd.Series) -> str:
    """Name a correlation: its measure, with what if not memorability, and what is held constant."""
    target = row.get("target", "memorability")
    text = row["measure"] if target == "memorability" else f"{row['measure']} with {target}"
    return f"{text}, {row['held_constant']} held constant" if row.get("held_constant") else text


def _within_cell(row: pd.Series) -> Block:
    """The pooled within-category rho above its interval, where the table has one."""
    # Undeclared columns of open-ended tables come as text.
    low, high = (float(row.get(f"{end}_within_category", "") or math.nan) for end in ("ci_low", "ci_high"))
    return {"text": show(row["rho_within_category"]), "range": show_range(low, high)}


def _correlation_block(
    title: str, frame: pd.DataFrame, name: str, file: str, strong: str = "", text: str = ""
) -> Block:
    """The table every correlation is shown in: rho, interval, within category, ceiling."""
    header = [
        name,
        "n",
        "ρ",
        "95 % interval",
        INTERVAL_SCALE,
        "q",
        "within category",
        "noise ceiling",
        "ρ / ceiling",
    ]
    rows = [
        table_row(
            [
                _label(row),
                f"{row['n']:,.0f}",
                show(row["rho"]),
                show_range(row["ci_low"], row["ci_high"]),
                _drawn(row),
                show_p(row["q"]),
                _within_cell(row),
                show(row["ceiling"]),
                show(row["rho_over_ceiling"]),
            ],
            strong=_label(row) == strong,
        )
        for _, row in frame.iterrows()
    ]
    return table_block(title, [file], header, rows, text)


# ------------------------------------------------------------------------------------------------ stages


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
    text = (
        "Spearman's ρ with the memorability score; the interval is a 95 % percentile bootstrap. Within category: the same "
        "after ranking inside each category, so that a difference between categories cannot pass for an effect."
    )
    blocks = [
        _correlation_block(f"Losses of {model}", rows, "loss", path.name, TRAINING_LOSS, text)
        for model, rows in _by_model(read_table(path, "loss_correlations"))
    ]
    comparisons = output_file(output_path, "loss_comparisons")
    frame = read_table(comparisons, "loss_comparisons")
    differ = int((frame["q"] < 0.05).sum())
    return [
        *blocks,
        {
            "kind": "text",
            "text": f"{differ} of {len(frame)} compared pairs of correlations differ (q < 0.05; {comparisons.name}).",
        },
    ]


def _distinctiveness(output_path: Path) -> list[Block]:
    """The correlations of the distances in latent space; of those with the losses, only the training loss."""
    path = output_file(output_path, "distinctiveness_correlations")
    frame = read_table(path, "distinctiveness_correlations")
    with_losses = (
        frame[["measure", "target", "held_constant"]].isin(set(LOSSES) - {TRAINING_LOSS}).any(axis=1)
    )
    shown = frame[~with_losses]
    rest = (
        f"{len(frame) - len(shown)} further rows, with the other losses, are in the file."
        if with_losses.any()
        else ""
    )
    return [
        _correlation_block(f"Latent codes of {model}", rows, "measure", path.name, "distinctiveness", rest)
        for model, rows in _by_model(shown)
    ]


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
            for metric in dict.fromkeys(rows["metric"])
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
            column for column in TABLES["ig"].columns if column.kind == "float" and column.name in frame
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


def _features(output_path: Path) -> list[Block]:
    """The features that go most with memorability."""
    path = output_file(output_path, "feature_correlations")
    frame = read_table(path, "feature_correlations")
    frame = frame[frame["target"] == "memorability"].dropna(subset=["rho"])
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
                _drawn(row),
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
    header = ["learner", "predictors", "model", "n", "ρ", "95 % interval", INTERVAL_SCALE, "R²", "gain in ρ"]
    rows = [
        table_row(
            [
                row["learner"],
                row["predictors"],
                row["model"] or "–",
                f"{row['n']:,.0f}",
                show(row["rho"]),
                show_range(row["ci_low"], row["ci_high"]),
                _drawn(row),
                show(row["r2"]),
                {"text": show(row["gain"]), "range": show_range(row["gain_ci_low"], row["gain_ci_high"])},
            ],
            texts=3,
        )
        for _, row in read_table(path, "feature_model").iterrows()
    ]
    text = (
        "Each image predicted once, by a fit without it. Gain: over reconstruction error and distinctiveness alone, "
        "with the same learner."
    )
    return [table_block("All features together", [path.name], header, rows, text, texts=3)]


STAGE_BLOCKS: dict[str, tuple[Callable[[Path], list[Block]], ...]] = {
    "autoencoder_finetune": (_fine_tuning,),
    "autoencoder_test": (_reconstruction,),
    "autoencoder_evaluation": (_evaluation,),
    "latent_analysis": (_distinctiveness,),
    "mlp_predict": (_prediction,),
    "model_interpretation_IG": (_attribution,),
    "feature_analysis": (_features, _feature_models),
}


# ------------------------------------------------------------------------------------------------ headline


def headline_tiles(output_path: Path) -> list[Block]:
    """The headline numbers, each from one table, or what is missing instead."""
    makers = {
        "Reconstruction error and memorability": _reconstruction_tile,
        "Distinctiveness and memorability": _distinctiveness_tile,
        "Noise ceiling": _ceiling_tile,
        "Predicted and observed memorability": _prediction_tile,
        "Attributions": _attribution_tile,
        "Strongest image feature": _feature_tile,
    }
    tiles = []
    for what, make in makers.items():
        tile: Block = {
            "what": what,
            "missing": "",
            "number": None,
            "low": None,
            "high": None,
            "range": "",
            "note": "",
            "files": [],
        }
        try:
            tile |= make(output_path)
        except UserError as error:
            tile["missing"] = str(error)
        tiles.append(tile)
    return tiles


def _first(frame: pd.DataFrame, path: Path) -> pd.Series:
    """The first row, or a word where there is none."""
    if frame.empty:
        raise UserError(f"{path} has no row for this number.")
    return frame.iloc[0]


def _rho_tile(row: pd.Series, note: str, file: str, name: str = "rho") -> Block:
    """A tile for one correlation."""
    value, low, high = float(row[name]), float(row["ci_low"]), float(row["ci_high"])
    drawn = all(math.isfinite(number) for number in (value, low, high))
    return {
        "value": f"ρ = {show(value)}" if math.isfinite(value) else "undefined",
        "range": show_range(low, high),
        "number": value if drawn else None,
        "low": low,
        "high": high,
        "note": note,
        "files": [file],
    }


def _reconstruction_tile(output_path: Path) -> Block:
    path = output_file(output_path, "loss_correlations")
    frame = read_table(path, "loss_correlations")
    chosen = frame[frame["measure"] == TRAINING_LOSS]
    row = _first(chosen if len(chosen) else frame, path)
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}; "
    note += f"within category {show(row['rho_within_category'])}"
    return _rho_tile(row, note, path.name)


def _distinctiveness_tile(output_path: Path) -> Block:
    path = output_file(output_path, "distinctiveness_correlations")
    frame = read_table(path, "distinctiveness_correlations")
    plain = (frame["target"] == "memorability") & (frame["held_constant"] == "")
    chosen = frame[plain & (frame["measure"] == "distinctiveness")]
    row = _first(chosen if len(chosen) else frame, path)
    note = f"{row['measure']} of {row['model']}, n = {row['n']:,.0f}; within category {show(row['rho_within_category'])}"
    return _rho_tile(row, note, path.name)


def _ceiling_tile(output_path: Path) -> Block:
    path = output_file(output_path, "loss_correlations")
    ceilings = read_table(path, "loss_correlations")["ceiling"].dropna()
    if ceilings.empty:
        return {
            "missing": f"{path.name} has none: the score table has no hits, false alarms and responses per image."
        }
    return {
        "value": f"ρ = {show(ceilings.iloc[0])}",
        "note": "the highest correlation any measure can be expected to reach: the root of the scores' own reliability",
        "files": [path.name],
    }


def _prediction_tile(output_path: Path) -> Block:
    path = output_file(output_path, "mlp_metrics")
    frame = read_table(path, "mlp_metrics")
    frame = frame[frame["metric"] == "spearman"]
    row = _first(frame[frame["predictor"] == "mlp"], path)
    others = frame[
        (frame["model"] == row["model"])
        & frame["predictor"].isin(["ridge", "reconstruction-error", "noise-ceiling"])
    ]
    beside = ", ".join(f"{other['predictor']} {show(other['value'])}" for _, other in others.iterrows())
    return _rho_tile(
        row, f"MLP on {row['model']}, {row['n']} test images; beside it: {beside}", path.name, "value"
    )


def _attribution_tile(output_path: Path) -> Block:
    models = models_with(output_path, "ig")
    if not models:
        raise UserError(
            f"{output_path}/ig_<model>.csv is missing. It is written by: python model_interpretation_IG.py --save"
        )
    path = output_file(output_path, "ig", models[0])
    frame = read_table(path, "ig")
    return {
        "value": f"{show(100 * frame['positive_share'].median(), 0)} %",
        "range": "positive",
        "note": f"median over {len(frame)} images of {models[0]}; median size of the convergence delta "
        f"{show(frame['convergence_delta'].abs().median(), 4)}, largest {show(frame['convergence_delta'].abs().max(), 4)}",
        "files": [path.name],
    }


def _feature_tile(output_path: Path) -> Block:
    path = output_file(output_path, "feature_correlations")
    frame = read_table(path, "feature_correlations")
    frame = frame[frame["target"] == "memorability"].dropna(subset=["rho"])
    row = _first(frame.iloc[frame["rho"].abs().argsort()[::-1]], path)
    return _rho_tile(
        row,
        f"{row['feature']}, n = {row['n']:,.0f}, the largest of {len(frame)}; q {show_p(row['q'])}",
        path.name,
    )
