"""Every test of the study in one table, and which of them hold over all of them: ``study_findings.csv``.

A row here is a p-value of a table that some stage wrote; its family is the one that the stage took q over. Families are
judged together (:func:`utils.statistics.families.study_q`), those about people's memorability apart from those about
pictures, codes and maps: that two measures of one picture go together is true of any pictures, and would otherwise
buy room for claims about people.

The primary hypothesis stands outside: it was named beforehand, is one test, and is judged by its own p and interval. It is
also a member of the family of losses, as q was always taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.core.contract import TABLES
from utils.core.errors import UserError
from utils.core.log import log
from utils.core.names import CAVEAT_COLUMN, HEADLINE_LOSS, LOSSES, RIVAL_MODEL
from utils.core.tables import models_with, output_file, read_table, write_table
from utils.statistics.families import study_q
from utils.statistics.rank_correlation import false_discovery_q

ALPHA = 0.05
PRIMARY, EXPLORATORY = "primary", "exploratory"
MEMORABILITY, PICTURES = "memorability", "pictures"
TABLE = "study_findings"
PLACE = ("row", "suffix")
_WITHIN_CATEGORY, _WITHIN_SUBCATEGORY = "_within_category", "_within_subcategory"
_HELD = {
    "": "",
    _WITHIN_CATEGORY: "within categories",
    _WITHIN_SUBCATEGORY: "within subcategories",
    "_given_covariates": "given pixel count and source",
}

Labels = Callable[[pd.DataFrame, str], dict[str, "pd.Series | str"]]
Frames = Iterable[tuple["Source", str, pd.DataFrame]]


@dataclass(frozen=True)
class Source:
    """A table with tests in it.

    Attributes:
        stage: The script that writes it.
        table: Its name among the declared tables.
        labels: Gives ``family``, ``what``, ``target`` and, where the rows lack it, ``model`` of a frame's rows, given the
            model that the file is of; ``about`` where it is not memorability.
        estimate: The column that is tested, before its suffix.
        held: By suffix of its columns and those of p, q and interval, what to add to the family's name.
    """

    stage: str
    table: str
    labels: Labels
    estimate: str = "rho"
    held: Mapping[str, str] = field(default_factory=lambda: {"": ""})


def _join(*parts: pd.Series | str) -> pd.Series | str:
    """Texts put together row by row."""
    whole: pd.Series | str = ""
    for part in parts:
        whole = whole + part
    return whole


def _pick(where: pd.Series, yes: pd.Series | str, no: pd.Series | str) -> pd.Series:
    """One text where a condition holds, the other where not."""
    chosen = pd.Series(yes, index=where.index, dtype=object)
    return chosen.where(where, no)


def _losses(frame: pd.DataFrame, _: str) -> dict:
    rival = frame["model"] == RIVAL_MODEL
    place = _pick(frame["category"] != "", " in " + frame["category"], "") if "category" in frame else ""
    claim = " by category" if "category" in frame else ""
    return {
        "family": _pick(rival, f"rivals{claim}", f"losses{claim}"),
        "what": _join(frame["measure"], place),
    }


def _comparisons(frame: pd.DataFrame, _: str) -> dict:
    one = frame["model_a"] == frame["model_b"]
    first = _join(frame["measure_a"], _pick(one, "", " of " + frame["model_a"]))
    second = _join(frame["measure_b"], _pick(one, "", " of " + frame["model_b"]))
    return {
        "family": "differences between " + frame["comparison"],
        "what": _join(first, " - ", second),
        "model": _pick(one, frame["model_a"], ""),
    }


def _slopes(frame: pd.DataFrame, _: str) -> dict:
    rival = frame["model"] == RIVAL_MODEL
    return {
        "family": _join("slopes ", frame["effect"], _pick(rival, ", rivals", "")),
        "what": frame["measure"],
    }


def _groups(frame: pd.DataFrame, _: str) -> dict:
    return {"family": "differences between two groups of people", "what": frame["measure"]}


def _distances(frame: pd.DataFrame, _: str) -> dict:
    held, loss = frame["held_constant"], frame["measure"].isin(LOSSES)
    with_error = frame["target"] != "memorability"
    kind = _pick(loss, "losses", "distances")
    family = _join(kind, " with ", frame["target"], _pick(held != "", ", the other held constant", ""))
    return {
        "family": family,
        "what": _join(frame["measure"], _pick(held != "", " given " + held, "")),
        "target": frame["target"],
        "about": _pick(with_error, PICTURES, MEMORABILITY),
    }


def _categories(frame: pd.DataFrame, model: str) -> dict:
    overall = frame["category"] == "all images"
    return {
        "family": _pick(overall, f"measures of {model}, all images", f"measures of {model} by category"),
        "what": _join(frame["measure"], _pick(overall, "", " in " + frame["category"])),
        "model": model,
    }


def _predictors(frame: pd.DataFrame, _: str) -> dict:
    difference = frame["predictor"].str.contains(" - ", regex=False)
    kind = _pick(difference, "differences of predictors", "predictors")
    return {
        "family": _join(kind, " on codes of ", frame["model"], ", ", frame["metric"]),
        "what": frame["predictor"],
    }


def _attribution_checks(frame: pd.DataFrame, _: str) -> dict:
    return {
        "family": "checks of attributions of " + frame["model"],
        "what": frame["check"],
        "target": "chance",
        "about": PICTURES,
    }


def _features(frame: pd.DataFrame, _: str) -> dict:
    against = _join(frame["target"], _pick(frame["model"] != "", " of " + frame["model"], ""))
    return {
        "family": _join("features (", frame["region"], ") with ", against),
        "what": frame["feature"],
        "target": frame["target"],
        "about": _pick(frame["target"] == "memorability", MEMORABILITY, PICTURES),
    }


def _feature_models(frame: pd.DataFrame, _: str) -> dict:
    what = _join(frame["predictors"], " by ", frame["learner"], " (", frame["region"], ")")
    return {"family": "models of features", "what": what}


def _commonality(frame: pd.DataFrame, _: str) -> dict:
    family = _join("unique variance beside the others (", frame["region"], "), ", frame["model"])
    return {"family": family, "what": frame["block"]}


def _steering(frame: pd.DataFrame, _: str) -> dict:
    what = _join(frame["method"], " - ", frame["versus"], " by ", frame["predictor"], _at(frame))
    return {
        "family": "gains of " + frame["model"],
        "what": what,
        "target": "predicted score",
        "about": PICTURES,
    }


def _steering_features(frame: pd.DataFrame, _: str) -> dict:
    what = _join(frame["feature"], " by ", frame["method"], _at(frame))
    return {"family": "features moved by " + frame["model"], "what": what, "target": "0", "about": PICTURES}


def _at(frame: pd.DataFrame) -> pd.Series:
    return frame["step"].map(" at {:g} dB".format)


_BY_CATEGORY = {name: words for name, words in _HELD.items() if name != _WITHIN_CATEGORY}
_TWO = {"": "", "_disattenuated": "disattenuated"}
_EVALUATION, _FEATURES, _STEERING = "autoencoder_evaluation", "feature_analysis", "memorability_steering"
SOURCES = (
    Source(_EVALUATION, "loss_correlations", _losses, held=_HELD),
    Source(_EVALUATION, "loss_correlations_by_category", _losses, held=_BY_CATEGORY),
    Source(_EVALUATION, "loss_comparisons", _comparisons, "difference"),
    Source(_EVALUATION, "mixed_model", _slopes, "slope"),
    Source(_EVALUATION, "group_correlations", _groups, "difference", held=_TWO),
    Source("latent_analysis", "distinctiveness_correlations", _distances, held=_HELD),
    Source("category_plot", "category_rho", _categories),
    Source("mlp_predict", "mlp_metrics", _predictors, "value"),
    Source("model_interpretation_IG", "ig_verdicts", _attribution_checks, "mean"),
    Source(
        _FEATURES,
        "feature_correlations",
        _features,
        held={name: _HELD[name] for name in ("", _WITHIN_CATEGORY)},
    ),
    Source(_FEATURES, "feature_model", _feature_models),
    Source(_FEATURES, "feature_commonality", _commonality, "unique"),
    Source(_STEERING, "steering_summary", _steering, "gain"),
    Source(_STEERING, "steering_features", _steering_features, "difference"),
)


def primary_row(frame: pd.DataFrame) -> pd.Series | None:
    """Return the row of the primary hypothesis: of the first model, by the loss it names or the first there is."""
    of_networks = frame[frame["model"] != RIVAL_MODEL]
    chosen = of_networks[of_networks["measure"] == HEADLINE_LOSS]
    rows = chosen if len(chosen) else of_networks
    return rows.iloc[0] if len(rows) else None


class Study(NamedTuple):
    """The tests of a study.

    Attributes:
        table: Rows of ``study_findings.csv``, and of each ``row`` and ``suffix``: where in its file it stands.
        missing: What could not be read, a sentence each.
    """

    table: pd.DataFrame
    missing: list[str]

    def q_of(self, table: str, row: Hashable, suffix: str = "") -> float:
        """The q over the whole study of one test; NaN where it was not made.

        Args:
            table: The file it is in.
            row: The row's label, as the file is read.
            suffix: Of the columns it stands in.
        """
        rows = self.table
        chosen = (rows["table"] == table) & (rows["row"] == row) & (rows["suffix"] == suffix)
        return float(rows.loc[chosen, "q_study"].iloc[0]) if chosen.any() else float("nan")


def write_study_findings(output_path: Path, stages: Iterable[str]) -> Study:
    """Collect every test of an output folder and write ``study_findings.csv``; remove it where there is no test.

    Args:
        output_path: The output folder.
        stages: Scripts that have a record there: tables of others are nobody's.
    """
    frames, missing = _read(output_path, set(stages))
    table = study_table(frames)
    path = output_file(output_path, TABLE)
    if len(table):
        write_table(table.drop(columns=list(PLACE)), path, TABLE)
    else:
        path.unlink(missing_ok=True)
    return Study(table, missing)


def _read(output_path: Path, stages: set[str]) -> tuple[list[tuple[Source, str, pd.DataFrame]], list[str]]:
    """Read every table with tests in it that is there."""
    frames, missing = [], []
    for source in SOURCES:
        if source.stage not in stages:
            continue
        of_models = "{model}" in TABLES[source.table].file
        for model in models_with(output_path, source.table) if of_models else [""]:
            path = output_file(output_path, source.table, model)
            if not path.exists():  # said in the stage's own section
                continue
            try:
                frames.append((source, model, read_table(path, source.table)))
            except UserError as error:
                log.warning("The findings over the whole study are without this table: %s", error)
                missing.append(str(error))
    return frames, missing


def study_table(frames: Frames) -> pd.DataFrame:
    """Put the tests of tables together and say which are findings.

    Args:
        frames: By source and model of the file ("" where it is of all): the rows as read.

    Returns:
        Rows of ``study_findings.csv`` with `PLACE`, in the order of stages, tables and rows, perhaps none. Tests without
        a p are left out, as are those that no family has (``together`` of the commonality).
    """
    names = [*(column.name for column in TABLES[TABLE].columns), *PLACE]
    parts = [part for source, model, frame in frames for part in _tests(source, model, frame)]
    if not parts:
        return pd.DataFrame(columns=names)
    table = pd.concat(parts, ignore_index=True)
    for _, rows in table.groupby("about"):
        family = list(zip(rows["table"], rows["family"], strict=True))
        table.loc[rows.index, "q_study"] = study_q(rows["q"].to_numpy(), family)
    aside = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    by_itself = (table["p"] < ALPHA) & aside
    table["finding"] = by_itself.where(table["role"] == PRIMARY, table["q_study"] < ALPHA)
    caveats = [CAVEAT_COLUMN] if CAVEAT_COLUMN in table else []
    return table[[*names, *caveats]].reset_index(drop=True)


def _tests(source: Source, model: str, frame: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """The tests of one table, a frame per kind of estimate."""
    if frame.empty:
        return
    common = frame[["model"]].copy() if "model" in frame else pd.DataFrame({"model": ""}, index=frame.index)
    common["stage"] = source.stage
    common["table"] = output_file(Path(), source.table, model).name
    common["target"], common["about"] = "memorability", MEMORABILITY
    common = common.assign(**source.labels(frame, model))
    if CAVEAT_COLUMN in frame:
        common[CAVEAT_COLUMN] = frame[CAVEAT_COLUMN].fillna("")
    primary = primary_row(frame) if source.table == "loss_correlations" else None
    for suffix, words in source.held.items():
        if f"p{suffix}" not in frame:
            continue
        part = common.assign(
            family=common["family"] + (f", {words}" if words else ""),
            estimate=frame[f"{source.estimate}{suffix}"],
            ci_low=frame[f"ci_low{suffix}"],
            ci_high=frame[f"ci_high{suffix}"],
            p=frame[f"p{suffix}"],
            role=EXPLORATORY,
            row=frame.index,
            suffix=suffix,
        )
        if f"q{suffix}" in frame:
            part["q"] = frame[f"q{suffix}"]
        else:  # the table leaves the family to its reader
            part["q"] = part.groupby("family")["p"].transform(false_discovery_q)
        if primary is not None and not suffix:
            part.loc[primary.name, "role"] = PRIMARY
        yield part[part["p"].notna() & part["q"].notna()]
