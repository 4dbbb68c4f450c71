"""The study on one page: ``report.html``, made from the tables, figures and run records in an output folder.

It opens with the conclusion (`utils.report.conclusion`), then shows pictures, the findings over all tests
(`utils.report.study_findings`), then each stage. Nothing else is computed here that a stage has not written, save counts and
medians that say so. Every number names the file it came from, and what is
missing is said with the command that writes it. The page holds its pictures and fetches nothing, so that it can be sent to
somebody as it is; the gallery that it links to stands beside it.
"""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.core.caveats import Caveats
from utils.core.errors import UserError
from utils.core.files import atomic_path
from utils.core.log import in_words
from utils.core.records import last_runs
from utils.core.tables import output_file, read_table
from utils.report.assets import render
from utils.report.blocks import Block, missing_block, table_block, table_row
from utils.report.captions import caption_of
from utils.report.conclusion import conclusion, weaknesses
from utils.report.findings import read_findings
from utils.report.gallery import write_gallery
from utils.report.gallery_data import ImageScores, read_scores
from utils.report.headline import EXPLORATORY, headline_tiles
from utils.report.sections import STAGE_BLOCKS
from utils.report.steering import steering_blocks
from utils.report.strips import picture_strips
from utils.report.study_findings import Study, write_study_findings
from utils.report.study_section import study_blocks

REPORT_FILE = "report.html"
SCRIPTS = {
    "autoencoder_finetune": "Fine-tuning",
    "autoencoder_test": "Reconstruction",
    "autoencoder_evaluation": "Reconstruction error and memorability",
    "latent_analysis": "Latent distinctiveness",
    "category_plot": "Categories",
    "mlp_predict": "Prediction",
    "model_interpretation_IG": "Attribution",
    "feature_analysis": "Image features",
    "memorability_steering": "Steering (predicted memorability)",
}
BLOCKS = {**STAGE_BLOCKS, "memorability_steering": (steering_blocks,)}
CATEGORIES = "category_plot"
# Everything that correlates something with memorability but the primary hypothesis, which stage 3 tests.
ROLES = dict.fromkeys(
    ("latent_analysis", "category_plot", "mlp_predict", "model_interpretation_IG", "feature_analysis"),
    EXPLORATORY,
)
OPTIONAL = ("memorability_steering",)  # no part of the study that `run_pipeline.py` runs; missed by nobody
MAX_FIGURE_PX = 1600
FIGURE_SCALE = 1.5  # figures are saved at 150 dpi and laid out for 100
WIDE_PX = 720  # wider figures have a line to themselves
FIGURES_SHOWN = 6  # per section; the rest fold away
FIGURES_EMBEDDED = 24


def write_report(output_path: Path) -> tuple[Path, int]:
    """Write ``report.html`` from what an output folder holds.

    Args:
        output_path: Folder with the stages' tables, figures and run records; any of them may be missing.

    Returns:
        The report, and how many figures the stages left in the folder.

    Raises:
        UserError: The folder holds nothing of the study.
    """
    output_path = Path(output_path)
    runs = last_runs(output_path, SCRIPTS)
    if not runs:
        raise UserError(
            f"{output_path} holds no record of any stage, so there is nothing to report. Run the study first: "
            "python run_pipeline.py (or python run_pipeline.py --demo)."
        )
    page = render("report.html.j2", "report", **_context(output_path, runs))
    path = output_path / REPORT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return path, sum(len(_figure_files(output_path, run, (".png", ".pdf", ".svg"))) for run in runs.values())


def _context(output_path: Path, runs: dict[str, dict]) -> dict[str, Any]:
    """Collect everything the template shows."""
    caveats = Caveats(caveat for run in runs.values() for caveat in run.get("caveats", []))
    scores = read_scores(output_path)
    gallery = write_gallery(output_path, scores, runs)
    study = write_study_findings(output_path, runs)  # before what rests on it
    found = read_findings(output_path, scores, caveats, study)
    without: tuple[str, ...] = () if found.categories else (CATEGORIES,)
    if not found.scored:  # nobody misses what needs scores
        without = tuple(name for name in SCRIPTS if name not in runs)
    names = [name for name in SCRIPTS if name not in without and (name in runs or name not in OPTIONAL)]
    sections = [_section(name, output_path, runs.get(name), scores) for name in names]
    return {
        "title": "What makes these images memorable",
        "subtitle": _subtitle(len(scores.ids), runs, SCRIPTS.keys() - {*OPTIONAL, *without}),
        "caveats": list(caveats),
        "banner": _banner(caveats),
        "conclusion": conclusion(found),
        "weaknesses": weaknesses(found),
        "strips": picture_strips(output_path, scores, gallery.pairs) if gallery else [],
        "gallery": {"file": gallery.path.name, "about": gallery.about} if gallery else None,
        "tiles": [tile for tile in headline_tiles(output_path, study) if found.scored or not tile["missing"]],
        "sections": [
            *([_over_all(study)] if len(study.table) else []),
            *sections,
            {"title": "Record", "anchor": "record", "role": "", "blocks": _record(output_path, runs)},
        ],
    }


def _over_all(study: Study) -> dict[str, Any]:
    """The section on all tests of the study together."""
    return {
        "title": "Findings over the whole study",
        "anchor": "findings",
        "role": "",
        "blocks": study_blocks(study),
    }


def _banner(caveats: Caveats) -> tuple[str, str]:
    """Say in capitals what the numbers are not, and why; shown only where there are caveats."""
    if not caveats.forbid_conclusions:
        return "READ WITH CARE", "What the stages say of their own numbers:"
    planted = "The scores are planted" if caveats.has_sample else ""
    random = "some networks have random weights" if caveats.has_random_weights else ""
    why = " and ".join(part for part in (planted, random) if part)
    return (
        "NOT A RESULT ABOUT PEOPLE",
        f"{why[:1].upper()}{why[1:]}: the numbers that rest on them show that the code runs, nothing else.",
    )


def _subtitle(images: int, runs: dict[str, dict], stages: set[str]) -> str:
    """One line: how many images, when, how much of the study."""
    ended = max(run.get("ended") or "" for run in runs.values())
    ended = ended.replace("T", " ").removesuffix("+00:00")
    return f"{images:,} images. Last stage ended {ended} UTC. {len(stages & runs.keys())} of {len(stages)} stages have run."


def _section(name: str, output_path: Path, run: dict | None, scores: ImageScores) -> dict[str, Any]:
    """One stage's tables and figures."""
    if run is None:
        blocks = [missing_block(f"this stage has not been run. Run: python {name}.py")]
    else:
        blocks = [block for make in BLOCKS.get(name, ()) for block in _safely(make, output_path)]
        # Without scores, tables that compare with them are not there for a reason that was said already.
        blocks = [block for block in blocks if scores.scored or block["kind"] != "missing"]
        blocks += _figures(output_path, run, scores.counts())
    if run is not None and run.get("status") != "complete":
        blocks.insert(
            0, missing_block(f"the last run of this stage ended as {run.get('status')}: {run.get('error')}")
        )
    later = run and run["later_failure"]
    if later:
        text = f"A later run ({_moment(later, 'started')} UTC) ended as {later.get('status')}: {later.get('error')}"
        blocks.insert(0, {"kind": "text", "text": f"{text} What stands here is of the last complete run."})
    return {"title": SCRIPTS[name], "anchor": name, "role": ROLES.get(name, ""), "blocks": blocks}


def _safely(make: Callable[[Path], list[Block]], output_path: Path) -> list[Block]:
    """Make a stage's blocks, or say what is missing or broken."""
    try:
        return make(output_path)
    except UserError as error:
        return [missing_block(str(error))]


# ------------------------------------------------------------------------------------------------ figures


def _figure_files(output_path: Path, run: dict, suffixes: tuple[str, ...] = (".png",)) -> list[Path]:
    """Figures that a run recorded and that are still there."""
    files = (output_path / name for name in run.get("outputs", []))
    return [path for path in files if path.suffix in suffixes and path.is_file()]


def _figures(output_path: Path, run: dict, counts: dict[tuple[str, str], int]) -> list[Block]:
    """A stage's pictures, the first few in sight and the rest folded away."""
    files = _figure_files(output_path, run)
    figures = [_figure(path, output_path, counts) for path in files[:FIGURES_EMBEDDED]]
    if not figures:
        return []
    shown, folded = (
        sorted(part, key=lambda figure: figure["wide"])  # narrow ones first, so that they stand in pairs
        for part in (figures[:FIGURES_SHOWN], figures[FIGURES_SHOWN:])
    )
    blocks: list[Block] = [{"kind": "figures", "figures": shown, "more": folded}]
    if len(files) > FIGURES_EMBEDDED:
        rest = len(files) - FIGURES_EMBEDDED
        blocks.append({"kind": "text", "text": f"{rest} further pictures are in {files[-1].parent}."})
    return blocks


def _figure(path: Path, output_path: Path, counts: dict[tuple[str, str], int]) -> Block:
    """Embed one picture, reduced to what a page needs."""
    from PIL import Image

    with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as opened:
        image = opened.convert("RGB")
    if image.width > MAX_FIGURE_PX:
        height = round(image.height * MAX_FIGURE_PX / image.width)
        image = image.resize((MAX_FIGURE_PX, height), Image.Resampling.LANCZOS)
    encoded = []
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 88})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    # Lines and letters stay sharp in PNG; photographs are several times smaller as JPEG.
    _, kind, content = encoded[0] if encoded[0][0] < 2 * encoded[1][0] else encoded[1]
    name = path.relative_to(output_path).as_posix()
    data = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode('ascii')}"
    title, caption = caption_of(
        name, counts, len({model for table, model in counts if table == "test_loss"}) > 1
    )
    return {
        "data": data,
        "title": title,
        "alt": f"{title}. {caption}".strip(),
        "caption": caption,
        "file": name,
        "width": round(image.width / FIGURE_SCALE),
        "height": round(image.height / FIGURE_SCALE),
        "wide": image.width > WIDE_PX * FIGURE_SCALE,
    }


# ------------------------------------------------------------------------------------------------ record


def _record(output_path: Path, runs: dict[str, dict]) -> list[Block]:
    """What was run, when, on what, and how many images each stage did and left out."""
    rows, files = [], []
    for name, run in runs.items():
        files.append(f"run_{name}.json")
        counts = ", ".join(f"{key} {value:,}" for key, value in run.get("counts", {}).items())
        command = shlex.join(["python", *run["command"]])
        cells = [
            command,
            run["status"],
            _moment(run, "started"),
            _took(run),
            run.get("device") or "–",
            counts or "–",
        ]
        rows.append(table_row(cells, texts=len(cells)))
        rows[-1]["cells"][0]["style"] = "text command"
        rows[-1]["cells"][-1]["style"] = "text wide"
    header = ["command", "status", "started (UTC)", "took", "device", "counts"]
    blocks = [table_block("Runs", files, header, rows, texts=len(header)), *_versions(runs)]
    return [*blocks, *_safely(_left_out, output_path)]


def _left_out(output_path: Path) -> list[Block]:
    """How many images some stage left out."""
    skipped = output_file(output_path, "skipped_images")
    if not skipped.exists():
        return []
    count = read_table(skipped, "skipped_images")["image_id"].nunique()
    return [{"kind": "text", "text": f"{count:,} images were left out by some stage: {skipped.name}."}]


def _moment(run: dict, name: str) -> str:
    """A time of the record, as people write it."""
    return str(run.get(name) or "–").replace("T", " ").removesuffix("+00:00")


def _took(run: dict) -> str:
    """How long a run lasted, to the second it was recorded in."""
    if not (run.get("started") and run.get("ended")):
        return "–"
    seconds = (datetime.fromisoformat(run["ended"]) - datetime.fromisoformat(run["started"])).total_seconds()
    return in_words(seconds)


def _versions(runs: dict[str, dict]) -> list[Block]:
    """Code revision and library versions of the last stage that ran."""
    run = max(runs.values(), key=lambda run: run.get("ended") or "")
    code = run.get("code", {})
    commit = code.get("commit")
    revision = f"Code revision {commit}{', modified' if code.get('modified') else ''}. " if commit else ""
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return [{"kind": "text", "text": f"{revision}{run.get('platform', '')}. {versions}."}]
