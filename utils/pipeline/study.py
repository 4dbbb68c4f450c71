"""The stages of the study in order, and the demo that `make demo` runs."""

from pathlib import Path
from typing import Any

from utils.core.names import DETECTORS, LOSSES, SEGMENTERS
from utils.pipeline.stages import Stage

STAGES = (
    Stage(
        "autoencoder_finetune",
        (),
        ("data", "output", "compute", "weights"),
        {"pretrained": "--pretrained", "arch": "--arch", "width": "--width", "recipe": "--recipe"},
    ),
    Stage(
        "autoencoder_test",
        (),
        ("data", "output", "compute", "precision", "batch", "weights"),
        {"losses": "--losses"},
        "all",
    ),
    Stage("autoencoder_evaluation", (), ("data", "output", "cluster"), {"seed": "--seed"}, "all", True),
    Stage(
        "latent_analysis",
        ("--calculate-latents", "--distinctiveness-analysis", "--measure", "all"),
        ("data", "output", "compute", "precision", "cluster", "batch"),
        {},
        "all",
    ),
    Stage("category_plot", (), ("output", "cluster"), {"seed": "--seed"}, needs_scores=True),
    Stage(
        "mlp_predict",
        ("--train", "--evaluate"),
        ("data", "output", "compute", "cluster", "batch"),
        {},
        "first",
        True,
    ),
    Stage(
        "model_interpretation_IG",
        ("--save", "--detect"),
        ("data", "output", "compute", "cluster", "weights", "scenes"),
        {"ig_steps": "--max-doublings 0 --steps", "ig_limit": "--limit"},
        "first",
        True,
    ),
    Stage(
        "feature_analysis",
        ("--calculate-features", "--evaluate-features"),
        ("data", "output", "processing", "precision", "cluster", "batch", "weights", "scenes"),
        {},
        "all",
    ),
)

# The demo: everything on the embedded sample with the compact network in the box, without a download. What needs weights
# that are not cached is left out; ms-ssim needs 161 px and more.
DEMO: dict[str, Any] = {
    "sample": True,
    "output_path": Path("demo_output"),
    "pretrained": "builtin",
    "image_size": 96,
    "weights": "available",
    "losses": [loss for loss in LOSSES if loss != "ms-ssim"],
    "ig_steps": 32,
    "detector": DETECTORS["light"],
    "segmenter": SEGMENTERS["light"],
    "extra": [
        "autoencoder_finetune=--loss mse --batch-norm frozen",
        "mlp_predict=--error-measure mse",
        "model_interpretation_IG=--max-doublings 3",
        "feature_analysis=--folds 3 --repeats 2",
    ],
}
