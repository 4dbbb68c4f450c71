"""The work that `make bench` times: each stage's as a user gets it, and the plain recipe of public libraries beside it.

A side is a function of a size that returns the work: called once to warm up, then timed. Networks are of full width with
random weights (times do not depend on them) at 224 px. The plain recipe is what a script of this kind usually does:
batches of one, gradients left on, the loss from its library, rows drawn and ranked again.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

SIDE_PX = 224
NETWORKS = 3
DRAWN = 20  # resamples that are timed; both recipes cost the same per resample
Work = Callable[[], object]


def _pixels(count: int):
    import torch

    return torch.rand(count, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))


def _in_batches(images, work, size: int = 8) -> None:
    import torch

    with torch.inference_mode():
        for batch in images.split(size):
            work(batch.contiguous(memory_format=torch.channels_last))


def network(count: int, part: str, precision: str | None) -> Work:
    """Forward passes of the whole network or of its encoder; the plain ones image by image, with gradients."""
    from models.autoencoder import build_autoencoder
    from utils.core.device import computing_in, keep_freed_memory

    model = build_autoencoder("vgg16", seed=0).eval()
    run, images = (model if part == "whole" else model.encoder), _pixels(count)
    if precision is None:
        return lambda: [run(image[None]).detach() for image in images]
    import torch

    keep_freed_memory()
    model.to(memory_format=torch.channels_last)

    def work() -> None:
        with computing_in(precision, "cpu"):
            _in_batches(images, run)

    return work


def losses(count: int, precision: str | None) -> Work:
    """All eight losses, network included."""
    from benchmarks.bench_losses import plain_losses
    from models.autoencoder import build_autoencoder
    from utils.core.device import computing_in, keep_freed_memory
    from utils.core.names import LOSSES
    from utils.reconstruction.losses import ReconstructionLosses

    model, images = build_autoencoder("vgg16", seed=0).eval(), _pixels(count)
    if precision is None:
        plain = plain_losses("cpu")
        return lambda: [
            plain[name](image[None], model(image[None])).item() for image in images for name in LOSSES
        ]
    import torch

    keep_freed_memory()
    model.to(memory_format=torch.channels_last)
    ours = ReconstructionLosses(weights="random", precision=precision)

    def one(batch) -> None:
        with computing_in(precision, "cpu"):
            made = model(batch)
        ours(batch, made.float())

    return lambda: _in_batches(images, one)


def several_networks(count: int, precision: str | None) -> Work:
    """All eight losses of three networks: of the same originals together, or (plain) one network after the other."""
    import torch

    from models.autoencoder import build_autoencoder
    from utils.core.device import computing_in, keep_freed_memory
    from utils.reconstruction.losses import ReconstructionLosses

    keep_freed_memory()
    images = _pixels(count)
    ours = ReconstructionLosses(weights="random", precision=precision or "float32")
    models = [
        build_autoencoder("vgg16", seed=seed).eval().to(memory_format=torch.channels_last)
        for seed in range(NETWORKS)
    ]

    def one(model, batch, kept: dict | None) -> None:
        with computing_in(precision or "float32", "cpu"):
            made = model(batch)
        ours(batch, made.float(), kept)

    def together(batch) -> None:
        kept: dict[str, list] = {}
        for model in models:
            one(model, batch, kept)

    if precision is None:
        return lambda: [_in_batches(images, partial(one, model, kept=None)) for model in models]
    return lambda: _in_batches(images, together)


def training(count: int, precision: str | None, batch: int = 1) -> Work:
    """Fine-tuning steps, mse (so that the network is what is timed)."""
    import pandas as pd
    import torch

    from models.autoencoder import build_autoencoder
    from utils.core.device import keep_freed_memory
    from utils.reconstruction.finetuning import FineTuner, FineTuningSettings
    from utils.reconstruction.losses import ReconstructionLosses

    images = _pixels(count)
    model = build_autoencoder("vgg16", seed=0).train()
    if precision is None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

        def step(image) -> None:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(image), image).backward()
            optimizer.step()

        return lambda: [step(part) for part in images.split(batch)]
    keep_freed_memory()
    folder = tempfile.mkdtemp()
    tuner = FineTuner(
        model,
        pd.DataFrame({"image_id": ["a"], "path": ["a"]}),
        FineTuningSettings(loss="mse", image_size=SIDE_PX, precision=precision),
        ReconstructionLosses(["mse"], "random", "cpu"),
        Path(folder) / "state.pt",
        "benchmark",
        load=None,
    )
    tuner.model.train()
    return lambda: [tuner._step([0] * len(part), part) for part in images.split(batch)]


def attributions(steps: int, ours: bool) -> Work:
    """Integrated Gradients of one picture's score over so many steps; plain is captum's on the network as loaded."""
    from argparse import Namespace

    from benchmarks.bench_attribution import make_network
    from models.score_network import prepare_network
    from utils.attribution.gradients import AttributionSettings, integrated_gradients
    from utils.core.device import keep_freed_memory

    network = make_network(Namespace(image_size=SIDE_PX, arch="vgg16", device="cpu"))
    images = _pixels(1)
    if ours:
        keep_freed_memory()
        prepared, settings = prepare_network(network), AttributionSettings(steps=steps, max_doublings=0)
        return lambda: integrated_gradients(prepared, images, ["a"], settings)
    from captum.attr import IntegratedGradients

    return lambda: IntegratedGradients(network).attribute(images, n_steps=steps, internal_batch_size=4)


def scenes(count: int, ours: bool) -> Work:
    """Objects and segments of pictures of 500 x 375 px by the light networks; plain one by one, with gradients."""
    import torch

    from models.pretrained import load_detector, load_segmenter
    from utils.core.device import keep_freed_memory
    from utils.core.names import DETECTORS, SEGMENTERS
    from utils.scenes.networks import make_work

    detector, _ = load_detector(DETECTORS["light"], "random")
    segmenter, about = load_segmenter(SEGMENTERS["light"], "random")
    pictures = [_photograph() for _ in range(count)]
    if ours:
        keep_freed_memory()
        work = make_work(detector, segmenter, about["transforms"], "cpu")
        parts = [pictures[start : start + 8] for start in range(0, count, 8)]
        return lambda: [work([str(number) for number in range(len(part))], part) for part in parts]

    def plain(picture) -> None:
        values = torch.from_numpy(picture).permute(2, 0, 1)
        detector([values / 255])
        segmenter(about["transforms"](values)[None])["out"].argmax(1)

    return lambda: [plain(picture) for picture in pictures]


def head(rows: int, ours: bool) -> Work:
    """Two epochs of the MLP head on codes of 25,088 values; plain is torch's own loader and loop."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    codes, scores = rng.random((rows, 25_088), dtype=np.float32), rng.random(rows)
    split = rows * 6 // 7
    if ours:
        from utils.core.device import keep_freed_memory
        from utils.prediction.training import TrainingSettings, train_mlp

        keep_freed_memory()
        settings = TrainingSettings(epochs=2)
        return lambda: train_mlp(codes, scores, np.arange(split), np.arange(split, rows), settings)
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.from_numpy(codes), torch.from_numpy(scores).float())
    parts = [torch.utils.data.Subset(data, range(*ends)) for ends in ((0, split), (split, rows))]

    def plain() -> None:
        layers = [nn.Linear(25_088, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 64), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(64, 1))
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-5)
        for _ in range(2):
            for values, wanted in DataLoader(parts[0], batch_size=128, shuffle=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(values)[:, 0], wanted).backward()
                optimizer.step()
            for values, wanted in DataLoader(parts[1], batch_size=128):
                nn.functional.mse_loss(network(values)[:, 0], wanted).item()

    return plain


def unchanged(count: int) -> Work:
    """`autoencoder_test.py` when nothing changed since it was run on so many tiny pictures, as a process of its own."""
    from benchmarks.bench_scale import prepare, run_measured, steps

    root = Path(tempfile.gettempdir()) / f"memorability_bench_unchanged_{count}"
    commands = steps(root / "data", root / "output")
    if not (root / "output" / "run_autoencoder_test.json").exists():
        shutil.rmtree(root, ignore_errors=True)
        prepare(root / "data", root / "output", count)
    run_measured(commands["errors (stage 2)"])  # also where an earlier run left it: the code may have changed
    # its highest memory cannot be told from that of this process, which started it
    return lambda: run_measured(commands["errors again, unchanged"]) | {"peak_memory_mb": None}


def neighbours(rows: int, ours: bool, width: int = 512) -> Work:
    """Every row's nearest other row, exactly; plain is faiss's flat index."""
    import numpy as np

    rng = np.random.default_rng(0)
    shift = rng.uniform(-1, 0.5, (rows, 1)).astype(np.float32)
    codes = np.maximum(rng.standard_normal((rows, width), dtype=np.float32) + shift, 0)
    if not ours:
        import faiss

        faiss.omp_set_num_threads(1)
        return lambda: faiss.knn(codes, codes, 2)
    from utils.latents.neighbours import SearchSettings, nearest_neighbours

    return lambda: nearest_neighbours(codes, SearchSettings())


def resamples(rows: int, ours: bool, within: bool) -> Work:
    """Resamples of eight rank correlations; plain draws rows and ranks them again with scipy."""
    import numpy as np
    import pandas as pd

    from benchmarks.bench_statistics import loop_of_rows, made_up

    scores, table = made_up(rows, 8)
    x = scores[["memorability_w_fa_correction"]].to_numpy(float)
    y = table.drop(columns="image_file").to_numpy(float)
    if not ours:
        return lambda: loop_of_rows(x[:, 0], y, DRAWN, 0)
    from utils.core.device import keep_freed_memory
    from utils.statistics.resampling import Resampler, correlate_resampled

    keep_freed_memory()
    strata = pd.factorize(scores["category"], sort=True)[0].astype(np.int64) if within else None
    return lambda: correlate_resampled(x, y, Resampler(rows, DRAWN, 0), strata)


def correlations(rows: int) -> Work:
    """The whole table of correlations of eight losses, its clusters (75 pictures each) left out in turn."""
    import pandas as pd

    from benchmarks.bench_statistics import made_up
    from utils.core.device import keep_freed_memory
    from utils.statistics.correlation_tables import correlation_rows

    keep_freed_memory()
    scores, losses_of = made_up(rows, 8)
    names = {"H": "hits", "FA": "false_alarms", "memorability_w_fa_correction": "memorability"}
    measures = losses_of.drop(columns="image_file")
    frame = pd.concat([scores.rename(columns=names), measures], axis=1)
    return lambda: correlation_rows(frame, list(measures), resamples=DRAWN, splits=10)


def _photograph():
    import cv2
    import numpy as np

    from utils.data.sample import SOURCES, find_photograph

    cv2.setNumThreads(1)
    photograph = cv2.imread(str(find_photograph(SOURCES[0].package, SOURCES[0].file)))[..., ::-1]
    return np.ascontiguousarray(cv2.resize(photograph, (500, 375)))


def features(count: int, ours: bool) -> Work:
    """Colour, texture and structure of photographs of 500 x 375 px; plain is scikit-image's functions of those names."""
    picture = _photograph()
    if ours:
        from utils.core.device import keep_freed_memory
        from utils.features.image import image_features

        keep_freed_memory()
        return lambda: [image_features(picture, ("colour", "texture", "structure")) for _ in range(count)]
    return lambda: [_plain_features(picture) for _ in range(count)]


def _plain_features(rgb) -> None:
    import numpy as np
    from skimage import color, feature, filters, measure

    lab, hsv = color.rgb2lab(rgb), color.rgb2hsv(rgb)
    for values in (lab, hsv):
        values.mean((0, 1)), values.std((0, 1))
    np.percentile(lab[..., 1], [5, 95]), np.percentile(lab[..., 2], [5, 95])
    grey = (color.rgb2gray(rgb) * 255).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = feature.graycomatrix(grey, [1], angles, symmetric=True, normed=True)
    for name in ("contrast", "energy", "homogeneity", "correlation"):
        feature.graycoprops(matrix, name).mean()
    measure.shannon_entropy(grey), feature.canny(grey / 255).mean(), filters.sobel(grey)


def decoding(count: int, draft: bool | None) -> Work:
    """12-megapixel JPEGs to the 224 px that the network sees; plain is Pillow and torchvision's transforms."""
    from argparse import Namespace

    from benchmarks.bench_draft import make_jpeg

    path = Path(tempfile.gettempdir()) / "memorability_bench_12_megapixels.jpg"
    if not path.exists():  # takes longer than reading it
        path.write_bytes(make_jpeg(0, Namespace(megapixels=12.0, grain=6.0, quality=92)))
    if draft is not None:
        from utils.data.images import load_pixels

        return lambda: [load_pixels(path, SIDE_PX, draft) for _ in range(count)]
    from PIL import Image
    from torchvision import transforms

    plain = transforms.Compose(
        [transforms.Resize(SIDE_PX), transforms.CenterCrop(SIDE_PX), transforms.ToTensor()]
    )
    return lambda: [plain(Image.open(path).convert("RGB")) for _ in range(count)]
