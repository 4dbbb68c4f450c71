"""Files of the output folder that are no tables: weights, matrices, records, figures, pictures."""

from typing import NamedTuple


class OutputFile(NamedTuple):
    """One kind of file.

    Attributes:
        names: Its name in the output folder, or several; ``<...>`` stands for what differs.
        command: What writes it.
        about: What is in it.
    """

    names: tuple[str, ...]
    command: str
    about: str


_ALL = "every stage"
_FINETUNE = "python autoencoder_finetune.py"
_PRETRAIN = "python autoencoder_pretrain.py"
_LATENTS = "python latent_analysis.py"
_MLP = "python mlp_predict.py"
_IG = "python model_interpretation_IG.py"
_STEER = "python memorability_steering.py"


def _figure(stem: str, *formats: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{kind}" for kind in formats or ("png", "pdf"))


OTHER_FILES = (
    OutputFile(
        ("<model>.pth",),
        f"{_FINETUNE}, {_PRETRAIN}",
        "Autoencoder: `state_dict` (tensor names of the public checkpoint), `arch`, `width`, `meta` (image size, caveats, "
        "how it was trained). Read with `models.checkpoints.load_autoencoder`, or `torch.load` with `weights_only=True`.",
    ),
    OutputFile(
        ("mlp_<model>.pth",),
        f"{_MLP} --train",
        "MLP head: `state_dict` (standardisation of codes and scores included) and `meta` (architecture, encoder's "
        "SHA-256, image size, training scores, settings). Read with `models.checkpoints.load_mlp`.",
    ),
    OutputFile(
        ("latents_<model>.npy",),
        f"{_LATENTS} --calculate-latents",
        "Latent codes, (N, D) float32 (float16 on request); row i is row i of `latents_<model>.csv`. D = channels x "
        "height x width of the last block, 25,088 for vgg16 at 224 px. Open with `np.load(..., mmap_mode='r')`.",
    ),
    OutputFile(
        ("ig_<model>.npy",),
        f"{_IG} --save",
        "Attribution maps, (N, S, S) float16, in the order of `ig_<model>.csv`: attribution per pixel, summed over the "
        "colours, times the number of pixels; the mean of a map is its attribution sum.",
    ),
    OutputFile(
        ("ig_<model>@<baseline>.npy",),
        f"{_IG} --save --baseline black mean ...",
        "Maps of each further baseline, as `ig_<model>.npy`.",
    ),
    OutputFile(
        ("run_<script>.json",),
        _ALL,
        "Record of the stage's last complete run: arguments, seed, versions, device, code revision, start and end, counts, "
        "inputs with SHA-256, outputs, caveats, status, and what has to be the same for it to stand (`standing`). A run that fails, or does no part of the study, replaces none.",
    ),
    OutputFile(
        ("runs/<script>.failed.json", "runs/mlp_predict.predict.json"),
        _ALL,
        "Records of a run that failed or was interrupted, until a later one is complete; of scoring somebody's pictures.",
    ),
    OutputFile(
        ("runs/<script>.written.log",),
        _ALL,
        "Which command wrote each file of the folder, when, and its SHA-256: what a stage compares before it reads a file.",
    ),
    OutputFile(
        ("pipeline.json",),
        "python run_pipeline.py",
        "Commands, times and digests that say what has to run again.",
    ),
    OutputFile(
        ("report.html",),
        "python run_pipeline.py",
        "The study on one page: conclusion, weakest point, pictures, tables, figures. Holds all of it, fetches nothing, and "
        "can be sent as it is.",
    ),
    OutputFile(
        ("gallery.html", "gallery/<...>"),
        "python run_pipeline.py",
        "Every image with every score, to search, sort and open, from disk. `gallery/data.js`: the scores (about 0.8 kB an "
        "image); `gallery/pairs_<model>/`, `gallery/maps_<model>/`: a small picture per image, of which the page reads those "
        "in sight. To be sent together; made anew from the tables at any time (`--report-only`).",
    ),
    OutputFile(("logs/<script>.log",), _ALL, "What was printed, with times."),
    OutputFile(
        ("logs/<script>.lock", "logs/shared_files.lock"),
        _ALL,
        "Locked while a run of the script is at work here, and says which; empty otherwise. Safe to delete then.",
    ),
    OutputFile(
        ("shards/<...>",),
        _ALL,
        "What unfinished work needs to go on; the rows of finished per-image work, so that a picture that changes costs its own "
        "shard alone; digests of what was read. Nothing to read, safe to delete: it costs time, no result.",
    ),
    OutputFile(
        ("scene_cache_<detector>_<segmenter>.<...>",),
        "python feature_analysis.py, python model_interpretation_IG.py --detect",
        "Objects (boxes, classes, scores) and segment masks of each image, in one SQLite file.",
    ),
    OutputFile(
        ("sample/<...>",),
        "any stage with --sample",
        "The embedded sample: crops of photographs and their table.",
    ),
    OutputFile(
        _figure("pretraining_<model>"), _PRETRAIN, "Loss and held-out PSNR over the epochs, beside PCA's."
    ),
    OutputFile(
        _figure("pretraining_pictures_<model>"),
        _PRETRAIN,
        "The same held-out pictures, reconstructed, over the epochs.",
    ),
    OutputFile(
        _figure("training_<model>"),
        _FINETUNE,
        "Training loss of each image at its exposure, and a running mean.",
    ),
    OutputFile(
        _figure("reconstructions_<model>", "png"),
        "python autoencoder_test.py",
        "Originals beside reconstructions: best, median and worst by one loss.",
    ),
    OutputFile(
        ("pairs_<model>.zip",),
        "python autoencoder_test.py",
        "Every image beside its reconstruction, 128 px each: `000000.jpg` is row 0 of `test_loss_<model>.csv`, and so on. "
        "About 6 kB an image.",
    ),
    OutputFile(
        (*_figure("loss_forest"), *_figure("loss_scatter_<model>"), *_figure("reliability")),
        "python autoencoder_evaluation.py",
        "Correlations of the losses with memorability; losses against memorability; split halves of the scores.",
    ),
    OutputFile(
        (
            *_figure("latent_space_<model>"),
            *_figure("distinctive_images_<model>", "png"),
            *_figure("distinctiveness_<model>"),
            *_figure("latent_layers_<model>"),
            *_figure("distinctiveness_measures_<model>"),
        ),
        _LATENTS,
        "Map of the codes; most and least distinctive images above their neighbours; distinctiveness against memorability "
        "and error; layers; measures.",
    ),
    OutputFile(
        _figure("category_<what>"),
        "python category_plot.py",
        "Distributions and correlations by category, beside a CSV each.",
    ),
    OutputFile(
        _figure("mlp_<what>_<model>"),
        f"{_MLP} --train, --evaluate",
        "Learning curve, predicted against observed, ROC and precision-recall, calibration, largest misses.",
    ),
    OutputFile(
        ("contact_sheet.png", "contact_sheet_<page>.png", "explanations/<picture>.png"),
        f"{_MLP} --predict --contact-sheet, --explain",
        "Scored pictures in a grid; attribution overlays.",
    ),
    OutputFile(
        ("ig/<model>_<what>.png", *_figure("ig_<what>_<model>")),
        _IG,
        "Attribution overlays, most and least memorable images, mean map; checks and agreement of baselines.",
    ),
    OutputFile(
        _figure("feature_<what>"),
        "python feature_analysis.py --evaluate-features",
        "Correlations of the features, their clusters, the model of all of them.",
    ),
    OutputFile(
        ("steering/<model>/<image>/<step>_<method>.png", *_figure("steering_<what>_<model>")),
        _STEER,
        "Steered pictures and controls (`reconstruction.png`: where they start); strips, gains, changed features.",
    ),
)
