"""``docs/results.md``, made from the tables of a study on LNSIM: every number with interval, n, and on which pictures."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.files import read_json
from utils.core.names import LOSSES
from utils.core.tables import output_file, read_table

if TYPE_CHECKING:
    import pandas as pd

MEANINGS = {
    "distinctiveness": "distance of the code to its nearest other",
    "exposure": "loss at the single exposure while fine-tuning, before the step it causes",
    "pca_error": "rival: mse of a linear code of the same size",
    "jpeg_bytes": "rival: size as a JPEG",
    "pixel_variance": "rival: variance of the pixels",
    "edge_energy": "rival: mean squared gradient",
}
RIVALS = ("pca_error", "jpeg_bytes", "pixel_variance", "edge_energy")


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        output_path: Where the stages wrote.
        data_dir: LNSIM's folder.
        network: Stem of the pretrained network.
        fine_tuned: Stem of the network that was fine-tuned on every picture; None where none was, and then there are neither
            exposures nor attributions nor features.
        meta: What is known of the pretrained network (`models.checkpoints.load_autoencoder`).
        machine: ``processor, cores, threads, load``.
        command: What was typed.
    """

    output_path: Path
    data_dir: Path
    network: str
    fine_tuned: str | None
    meta: dict[str, Any]
    machine: dict[str, Any]
    command: str

    def table(self, name: str, model: str | None = None) -> pd.DataFrame:
        """Read one of the study's tables."""
        return read_table(output_file(self.output_path, name, model), name)

    def has(self, name: str, model: str | None = None) -> bool:
        """Say whether the study has a table."""
        return output_file(self.output_path, name, model).exists()


# ------------------------------------------------------------------------------------------ numbers


def study_frame(study: Study) -> pd.DataFrame:
    """Join, per picture, the score and its published halves, the split, and every measure of the study.

    Returns:
        ``image_id, memorability, half..., split`` and the pretrained network's losses and distinctiveness, the exposure, the
        rivals.
    """
    from utils.data.dataset import load_dataset
    from utils.data.scores import half_names

    run = read_json(study.output_path / "run_autoencoder_test.json")["arguments"]
    args = Namespace(
        **{**run, "data_dir": study.data_dir, "output_path": study.output_path, "scores_csv": None}
    )
    table = load_dataset(args).table
    frame = table[["image_id", "memorability", *half_names(table)]]
    losses = study.table("test_loss", study.network)
    columns = {
        "test_loss": [name for name in LOSSES if name in losses],
        "distinctiveness": ["distinctiveness"],
    }
    parts = [study.table("splits")[["image_id", "split"]]]
    parts += [study.table(name, study.network)[["image_id", *kept]] for name, kept in columns.items()]
    if study.fine_tuned:
        exposures = study.table("exposures", study.fine_tuned).rename(columns={"loss": "exposure"})
        parts.append(exposures[["image_id", "exposure"]])
    if study.has("rivals"):
        parts.append(study.table("rivals")[["image_id", *RIVALS]])
    for part in parts:
        frame = frame.merge(part, on="image_id", how="left", validate="one_to_one")
    return frame


def measures_of(frame: pd.DataFrame) -> list[str]:
    """Return the measures of a study's frame, in the order to report."""
    known = (*LOSSES, "exposure", "distinctiveness", *RIVALS)
    return [name for name in known if name in frame.columns]


def correlations(frame: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Correlate every measure with memorability: the project's one function for it."""
    from utils.statistics.correlation_tables import correlation_rows

    return correlation_rows(frame, measures_of(frame), resamples=resamples)


def partial_correlations(frame: pd.DataFrame, error: str = "mse", resamples: int = 1000) -> pd.DataFrame:
    """Correlate the network's error with memorability while each rival is held constant.

    Returns:
        ``measure, held_constant, n, rho, ci_low, ci_high, p``.
    """
    import pandas as pd

    from utils.statistics.correlation_tables import bootstrap_partial_spearman

    rows = []
    for rival in (name for name in RIVALS if name in frame.columns):
        block = frame[["memorability", error, rival]].dropna()
        values = (block[name].to_numpy(float) for name in (error, "memorability", rival))
        found = bootstrap_partial_spearman(*values, resamples=resamples, seed=0)
        row = {"measure": error, "held_constant": rival, "n": len(block)}
        rows.append(row | {"rho": found.rho, "ci_low": found.ci_low, "ci_high": found.ci_high, "p": found.p})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ text


def number(value: float, digits: int = 2) -> str:
    """Write a number, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def with_interval(row: Any, digits: int = 2, value: str = "rho") -> str:
    """Write an estimate with its 95 % interval."""
    if math.isnan(row[value]) or math.isnan(row["ci_low"]):
        return number(row[value], digits)
    ends = f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"
    return f"{number(row[value], digits)} {ends}"


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table's lines."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def verdict(row: Any) -> str:
    """Say what an interval says about 0."""
    if row["ci_low"] > 0:
        return "positive: the interval lies above 0"
    if row["ci_high"] < 0:
        return "negative: the interval lies below 0"
    return "a null: the interval includes 0"


def _correlation_lines(table: pd.DataFrame) -> list[str]:
    rows = [
        [
            f"`{row['measure']}`",
            MEANINGS.get(row["measure"], "reconstruction error of the network"),
            with_interval(row),
            f"{row['p']:.2g}",
            f"{row['q']:.2g}",
            number(row["rho_over_ceiling"]),
            f"{row['n']:,}",
        ]
        for _, row in table.iterrows()
    ]
    return markdown(["measure", "what", "rho with memorability", "p", "q", "over the ceiling", "n"], rows)


def _opening(study: Study, frame: pd.DataFrame, ceiling: dict[str, float]) -> list[str]:
    counts = frame["split"].value_counts()
    meta, machine = study.meta, study.machine
    return [
        "# Results on LNSIM",
        "",
        "Made from the tables of one study; do not edit by hand. To make it again (README says where LNSIM comes from):",
        "",
        "```",
        study.command,
        "```",
        "",
        *markdown(
            ["", ""],
            [
                ["pictures", f"{len(frame):,} outdoor photographs with human scores (Lu et al. 2020)"],
                ["split", ", ".join(f"{name} {counts.get(name, 0):,}" for name in ("train", "val", "test"))],
                [
                    "noise ceiling of a rho",
                    f"{number(ceiling['ceiling'], 3)} ({ceiling['splits']} published splits of the participants in halves, "
                    f"which correlate at {number(ceiling['half_rho'], 3)})",
                ],
                [
                    "network",
                    f"`{study.network}`: {meta['arch']}, width {meta.get('width', 1):g}, {meta['image_size']} px"
                    f"{_training(meta.get('pretraining'))}",
                ],
                [
                    "machine",
                    f"{machine['processor']}, {machine['threads']} of {machine['cores']} threads, load "
                    f"{machine['load']:.0f} when it ended",
                ],
                ["date", time.strftime("%Y-%m-%d")],
            ],
        ),
        "Intervals are 95 % bootstrap intervals. rho is Spearman's; positive means that pictures with more of the measure "
        "are remembered better. q is Benjamini and Hochberg's, over the rows of its table.",
        "",
    ]


def _training(known: dict[str, Any] | None) -> str:
    """Say how a network of stage 0 was trained and what it reached; nothing of others."""
    if not known:
        return ""
    return (
        f"; {known['parameters'] / 1e6:.1f} million weights trained from nothing on {known['pictures']:,} pictures, "
        f"{known['epochs']} times each: {known['held_out_psnr']:.1f} dB on {known['held_out']:,} held-out ones, where "
        f"{known['pca_components']} principal components of a block reach {known['pca_psnr']:.1f}"
    )


def _held_out(study: Study, frame: pd.DataFrame, table: pd.DataFrame, partial: pd.DataFrame) -> list[str]:
    error = table[table["measure"] == "mse"].iloc[0]
    exposures = (
        "(For the exposures a copy of it was fine-tuned on all pictures, each exposure being taken before the step it "
        "causes.) "
    )
    lines = [
        "## The headline: the held-out third",
        "",
        f"{len(frame):,} pictures of the test split: the network was not trained on them, nor the linear code fitted to "
        f"them. {exposures if study.fine_tuned else ''}Reconstruction error (`mse`) and memorability: rho "
        f"{with_interval(error)}; {verdict(error)}, "
        f"q {error['q']:.2g} over the measures below. The paper reports about 0.45 on MemCat.",
        "",
        *_correlation_lines(table),
    ]
    if len(partial):
        lines += [
            "The same error with a rival held constant (partial rank correlation), which is what the network adds to it:",
            "",
            *markdown(
                ["held constant", "rho of `mse` with memorability", "p", "n"],
                [
                    [f"`{row['held_constant']}`", with_interval(row), f"{row['p']:.2g}", f"{row['n']:,}"]
                    for _, row in partial.iterrows()
                ],
            ),
        ]
    return lines


def _all_pictures(study: Study, table: pd.DataFrame) -> list[str]:
    return [
        "## All pictures, those that the network was trained on included",
        "",
        "**Not a test**: three fifths of these pictures trained the network. For comparison with the paper, which has no "
        "held-out pictures.",
        "",
        *_correlation_lines(table),
    ]


def _prediction(study: Study) -> list[str]:
    table = study.table("mlp_metrics")
    table = table[(table["model"] == study.network) & table["metric"].isin(["spearman", "mae", "auc"])]
    ours = [name for name in dict.fromkeys(table["predictor"]) if " - " not in name]
    rows = []
    for name in ours:
        of_it = table[table["predictor"] == name].set_index("metric")
        cells = [
            with_interval(of_it.loc[metric], digits, "value") if metric in of_it.index else "-"
            for metric, digits in (("spearman", 2), ("mae", 3), ("auc", 2))
        ]
        rows.append([name, *cells, f"{int(of_it['n'].max()):,}"])
    return [
        "## Predicting the score (test split only)",
        "",
        f"From the codes of `{study.network}`; trained on the training split, stopped on the validation split.",
        "",
        *markdown(["predictor", "rho", "mean absolute error", "AUC above/below median", "n"], rows),
    ]


def _features(study: Study) -> list[str]:
    table = study.table("feature_correlations")
    table = table[(table["target"] == "memorability") & (table["region"] == "full")].dropna(subset="rho")
    order = table["rho"].abs().sort_values(ascending=False).index
    top = table.loc[order].head(10)
    model = study.table("feature_model")
    model = model[model["region"] == "full"]
    return [
        "## What the pixels have in common",
        "",
        f"The ten of {len(table)} features (colour, texture, structure, composition; from the files, no network) that "
        f"correlate most with memorability, of all {int(table['n'].max()):,} pictures; q over all features. "
        f"{int((table['q'] < 0.05).sum())} of {len(table)} have q < 0.05.",
        "",
        *markdown(
            ["feature", "rho", "q", "n"],
            [
                [f"`{row['feature']}`", with_interval(row), f"{row['q']:.2g}", f"{row['n']:,}"]
                for _, row in top.iterrows()
            ],
        ),
        "Memorability predicted from them by cross-validation (each picture by a fit without it):",
        "",
        *markdown(
            ["learner", "from", "rho", "n"],
            [
                [
                    row["learner"],
                    f"{row['predictors']}{f' (`{row.model}`)' if row['model'] else ''}",
                    with_interval(row),
                    f"{row['n']:,}",
                ]
                for _, row in model.iterrows()
            ],
        ),
    ]


def _attribution(study: Study) -> list[str]:
    table = study.table("ig", study.network)
    moved = (table["prediction"] - table["baseline_prediction"]).abs()
    off = (table["convergence_delta"].abs() / moved).median()
    converged = table["converged"].astype(str).str.lower().eq("true").mean()
    quartiles = {
        name: table[name].quantile([0.25, 0.5, 0.75]) for name in ("concentration", "centre_distance")
    }
    shown = {
        name: f"{number(q.iloc[1])} (quartiles {number(q.iloc[0])} to {number(q.iloc[2])})"
        for name, q in quartiles.items()
    }
    return [
        "## Where the predicted score comes from",
        "",
        f"Integrated Gradients of {len(table):,} pictures of the test split: {100 * converged:.0f} % add up within the "
        f"tolerance, the median gap is {100 * off:.1g} % of the change in prediction. Concentration (Gini) "
        f"{shown['concentration']}; distance from the centre {shown['centre_distance']}, 0.54 for an even map.",
        "",
    ]


def _times(study: Study) -> list[str]:
    stages = read_json(study.output_path / "pipeline.json")["stages"]
    total = sum(stage["seconds"] for stage in stages.values())
    rows = [[f"`{name}.py`", f"{stage['seconds']:,.0f} s"] for name, stage in stages.items()]
    return [
        "## Time",
        "",
        "Of the last run of each stage, with whatever else the machine was doing (its load stands above). What an earlier "
        "run had finished is not in it: a stage that was resumed, or found its work done, shows less than it costs.",
        "",
        *markdown(["stage", "wall time"], [*rows, ["together", f"{total / 60:,.0f} min"]]),
    ]


def write_document(study: Study, path: Path) -> None:
    """Write the document, and ``held_out.csv`` beside the study's tables.

    Args:
        study: The finished study.
        path: The Markdown file.
    """
    from utils.core.files import atomic_path
    from utils.statistics.noise_ceiling import score_reliability

    frame = study_frame(study)
    held_out = frame[frame["split"] == "test"]
    table, everything = correlations(held_out), correlations(frame)
    with atomic_path(study.output_path / "held_out.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    ceiling = score_reliability(frame) or {"ceiling": math.nan, "half_rho": math.nan, "splits": 0}
    lines = [
        *_opening(study, frame, ceiling),
        *_held_out(study, held_out, table, partial_correlations(held_out)),
        *_prediction(study),
        *(_features(study) + _attribution(study) if study.fine_tuned else []),
        *_all_pictures(study, everything),
        *_times(study),
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
