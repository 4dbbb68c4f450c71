"""What `make bench` times: each stage's work as a user gets it, and the plain recipe of public libraries beside it.

A side is a function of a size that returns the work: called once to warm up, then timed. Networks are of full width with
random weights (times do not depend on them) at 224 px. The plain recipe is what a script of this kind usually does:
batches of one, gradients left on, the loss from its library, rows drawn and ranked again.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SIDE_PX = 224
DRAWN = 20  # resamples that are timed; both recipes cost the same per resample
Work = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """One line of the table.

    Attributes:
        label: What is done, per unit.
        unit: What the sizes count.
        sizes: Three of them; the largest is quoted.
        sides: ``plain``, ``float32`` (ours as published) and, where a flag makes it faster, ``fast``.
        fast: That flag, in words.
        aim: The time of ``fast`` over ``float32`` (``float32`` over ``plain`` without one) that was aimed at.
    """

    label: str
    unit: str
    sizes: tuple[int, int, int]
    sides: dict[str, Callable[[int], Work]]
    fast: str = ""
    aim: float | None = None


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


def training(count: int, precision: str | None) -> Work:
    """Fine-tuning steps at batch size one, mse (so that the network is what is timed)."""
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

        return lambda: [step(image[None]) for image in images]
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
    return lambda: [tuner._step([0], image[None]) for image in images]


def neighbours(rows: int, ours: bool) -> Work:
    """Every row's nearest other row, exactly, among 512-dimensional codes; plain is faiss's flat index."""
    import numpy as np

    rng = np.random.default_rng(0)
    shift = rng.uniform(-1, 0.5, (rows, 1)).astype(np.float32)
    codes = np.maximum(rng.standard_normal((rows, 512), dtype=np.float32) + shift, 0)
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


def table(rows: int) -> Work:
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


def features(count: int, ours: bool) -> Work:
    """Colour, texture and structure of photographs of 500 x 375 px; plain is scikit-image's functions of those names."""
    import cv2
    import numpy as np

    from utils.data.sample import SOURCES, find_photograph

    cv2.setNumThreads(1)
    photograph = cv2.imread(str(find_photograph(SOURCES[0].package, SOURCES[0].file)))[..., ::-1]
    picture = np.ascontiguousarray(cv2.resize(photograph, (500, 375)))
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


def _precisions(job, **fixed) -> dict[str, Callable[[int], Work]]:
    names = {"plain": None, "float32": "float32", "fast": "bf16"}
    return {side: partial(job, precision=precision, **fixed) for side, precision in names.items()}


def _both(job, **fixed) -> dict[str, Callable[[int], Work]]:
    return {"plain": partial(job, ours=False, **fixed), "float32": partial(job, ours=True, **fixed)}


BF16 = "--precision bf16"
JOBS = {
    "forward": Job(
        "autoencoder forward", "picture", (1, 2, 4), _precisions(network, part="whole"), BF16, 0.23
    ),
    "training": Job("training step, batch 1, mse", "step", (1, 2, 3), _precisions(training), BF16, 0.40),
    "losses": Job("eight losses, network included", "picture", (1, 2, 3), _precisions(losses), BF16, 0.28),
    "latents": Job(
        "codes, scores: encoder", "picture", (1, 2, 4), _precisions(network, part="encoder"), BF16, 0.23
    ),
    "decoding": Job(
        "12-megapixel JPEG, decode and resize",
        "picture",
        (1, 2, 4),
        {
            "plain": partial(decoding, draft=None),
            "float32": partial(decoding, draft=False),
            "fast": partial(decoding, draft=True),
        },
        "drafted (scoring)",
        0.26,
    ),
    "neighbours": Job(
        "exact nearest neighbour, 512 values", "row", (1000, 2000, 4000), _both(neighbours), aim=1.0
    ),
    "resamples": Job(
        f"{DRAWN} resamples of 8 rho", "row", (10_000, 30_000, 100_000), _both(resamples, within=False)
    ),
    "within": Job(
        f"{DRAWN} resamples of 8 rho within categories",
        "row",
        (10_000, 30_000, 100_000),
        {"float32": partial(resamples, ours=True, within=True)},
    ),
    "table": Job(
        f"whole table of 8 rho, clustered, {DRAWN} resamples",
        "row",
        (10_000, 30_000, 100_000),
        {"float32": table},
    ),
    "features": Job("colour, texture, structure", "picture", (4, 8, 16), _both(features)),
}
