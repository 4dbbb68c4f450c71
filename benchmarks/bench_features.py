"""Time the image features: per image and core, over processes, and of the two networks behind the scene features.

Everything in one run, on JPEG files of the asked size made from photographs that ship with scikit-image.
(1) All groups that need pixels only together, decode included, in this process with one thread, alternating with
the decode alone and with each group alone; (2) the same work on 1, 2, ... N worker processes, alternating:
efficiency is the rate over N times the rate of one process; also through the stage's own job (resumable shards
and all); (3) detector and segmenter, heavy or light, on the asked device with random weights (times do not
depend on them, but for the boxes a trained detector has left to sort), and what 10,000 images would take.
--parts core is (1) alone. Writes benchmarks/results/features_<hardware>.json, features_one_core_<hardware>.json and
features_networks_<hardware>.json.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
IMAGES = 10_000


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--images", type=int, default=48, help="files per timing")
    parser.add_argument(
        "--rounds", type=int, default=5, help="alternating rounds; the best of each is reported"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="1 must be among them")
    parser.add_argument(
        "--parts", nargs="+", choices=("core", "cores", "networks"), default=["cores", "networks"]
    )
    parser.add_argument("--networks", nargs="*", choices=("light", "heavy"), default=["light", "heavy"])
    parser.add_argument("--network-images", type=int, default=4, help="images per timing of the networks")
    parser.add_argument("--batch-size", type=int, default=2, help="images of equal size that share a pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output", type=Path, help="JSON (default: benchmarks/results/<topic>_<hardware>.json)"
    )
    return parser


def write_photographs(folder: Path, count: int, width: int, height: int) -> list[str]:
    """JPEG files of one size, no two alike: crops of the photographs, enlarged by differing factors."""
    import cv2
    from PIL import Image
    from skimage import data

    pictures = [getattr(data, name)()[..., :3] for name in PHOTOGRAPHS]
    paths = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        scale = max(width / picture.shape[1], height / picture.shape[0]) * (1 + number / count / 4)
        resized = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(resized[:height, :width]).save(path, quality=92)
        paths.append(str(path))
    return paths


def alternate(jobs: dict, rounds: int, clock=time.perf_counter) -> dict[str, float]:
    """Best seconds of each job over alternating rounds, after a warm-up of all: other work only ever adds."""
    times = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            if number:
                times[name].append(clock() - start)
    return {name: min(values) for name, values in times.items()}


def time_one_core(paths: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time per image in this process, one thread."""
    from utils.core.feature_names import GROUPS
    from utils.core.reading import prepare_worker
    from utils.data.pixels import read_pixels
    from utils.features.image import file_features, image_features

    prepare_worker()
    pixels = [read_pixels(path) for path in paths]
    jobs = {
        "decode": lambda: [read_pixels(path) for path in paths],
        **{name: partial(_features_of, image_features, pixels, (name,)) for name in GROUPS},
        "all_with_decode": lambda: [file_features(path) for path in paths],
    }
    return {
        name: seconds / len(paths) * 1e3
        for name, seconds in alternate(jobs, rounds, time.process_time).items()
    }


def _features_of(function, pixels, groups) -> None:
    for picture in pixels:
        function(picture, groups)


def time_processes(paths: list[str], processes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Images per second over pools that are already running, and the efficiency against one process."""
    from utils.core.reading import prepare_worker
    from utils.features.image import file_features

    context = multiprocessing.get_context("spawn")
    pools = {count: context.Pool(count, initializer=prepare_worker) for count in processes}
    try:
        jobs = {
            str(count): partial(pool.map, file_features, paths, chunksize=4) for count, pool in pools.items()
        }
        rates = {name: len(paths) / seconds for name, seconds in alternate(jobs, rounds).items()}
    finally:
        for pool in pools.values():
            pool.terminate()
    one = rates["1"]
    return {
        name: {"images_per_second": rate, "efficiency": rate / one / int(name)}
        for name, rate in rates.items()
    }


def time_stage(paths: list[str], processes: list[int], folder: Path) -> dict[str, dict[str, float]]:
    """The same through the stage's own job, starting of the processes and writing of the shards included."""
    import pandas as pd

    from utils.core.feature_names import GROUPS
    from utils.core.shards import run_sharded
    from utils.features.image import file_features

    repeated = paths * 15  # long enough for the start of the processes not to be all there is
    images = pd.DataFrame({"image_id": [f"{i:06d}" for i in range(len(repeated))], "path": repeated})
    best = {}
    for number, count in enumerate(processes * 2):
        start = time.perf_counter()
        run_sharded(
            f"bench_{number}",
            images,
            None,
            output_path=folder,
            settings={},
            load=partial(file_features, groups=GROUPS),
            batch_size=16,
            workers=count,
            executor="process",
            shard_size=256,
        )
        best[count] = min(best.get(count, float("inf")), time.perf_counter() - start)
    found = {
        str(count): {"images": len(images), "images_per_second": len(images) / seconds}
        for count, seconds in best.items()
    }
    for name, values in found.items():
        values["efficiency"] = values["images_per_second"] / found["1"]["images_per_second"] / int(name)
    return found


def time_networks(paths: list[str], args: argparse.Namespace, size: str) -> dict[str, float]:
    """Seconds per image of each network and of both with decode and packing; what 10,000 images would take."""
    import torch

    from models.pretrained import load_detector, load_segmenter
    from utils.core.names import DETECTORS, SEGMENTERS
    from utils.scenes.networks import detect, make_work, read_picture, segment

    device = torch.device(args.device)
    detector, _ = load_detector(DETECTORS[size], "random")
    segmenter, about = load_segmenter(SEGMENTERS[size], "random")
    detector, segmenter = detector.to(device), segmenter.to(device)
    preset = about["transforms"]
    work = make_work(detector, segmenter, preset, device)
    pixels = [read_picture(path) for path in paths]
    step = args.batch_size

    def batches(values):
        return [values[start : start + step] for start in range(0, len(values), step)]

    jobs = {
        "detector_s": lambda: [detect(detector, part, device) for part in batches(pixels)],
        "segmenter_s": lambda: [segment(segmenter, preset, part, device) for part in batches(pixels)],
        "both_with_decode_s": lambda: [
            work([str(i) for i in range(len(part))], [read_picture(path) for path in part])
            for part in batches(paths)
        ],
    }
    found = {name: seconds / len(paths) for name, seconds in alternate(jobs, args.rounds).items()}
    hours = found["both_with_decode_s"] * IMAGES / 3600
    networks = {"detector": DETECTORS[size], "segmenter": SEGMENTERS[size]}
    return {**networks, **found, f"extrapolated_hours_for_{IMAGES}_images": hours}


def main(args: argparse.Namespace) -> None:
    from benchmarks.common import record

    if 1 not in args.processes:
        raise SystemExit("--processes must hold 1, to which the others are compared")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photographs(folder, args.images, args.width, args.height)
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        if "core" in args.parts:
            figures = {"settings": settings, "one_core_ms_per_image": time_one_core(paths, args.rounds)}
            record("features_one_core", figures, path=args.output)
        if "cores" in args.parts:
            figures = {
                "settings": settings,
                "load_average_before": os.getloadavg()[0],
                "one_core_ms_per_image": time_one_core(paths, args.rounds),
                "processes": time_processes(paths, args.processes, args.rounds),
                "stage": time_stage(paths, args.processes, folder),
            }
            record("features", figures, path=args.output)
        if "networks" in args.parts:
            paths = paths[: args.network_images]
            settings["load_average_before"] = os.getloadavg()[0]
            figures = {size: time_networks(paths, args, size) for size in args.networks}
            record("features_networks", {"settings": settings, **figures}, args.device, args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
