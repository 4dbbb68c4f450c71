"""Time and memory of all measures of distinctiveness on random codes of any size.

Prints progress with the memory held (anonymous, without the mapped file): a flat line shows long before the end.

    python benchmarks/bench_measures.py --images 100000 --values 512
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BLOCK_ROWS = 10_000


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--values", type=int, default=512)
    parser.add_argument("--memory-mb", type=int, default=384, help="as the stage's default")
    return parser


def anonymous_mb() -> float:
    """Return the resident memory of this process that belongs to no file, in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from utils.core.device import keep_freed_memory
    from utils.core.measure_names import MEASURES
    from utils.latents.measures import DEFAULT_NEIGHBOURS, MeasureSettings, measure_group

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.npy"
        codes = np.lib.format.open_memmap(path, "w+", np.float32, (args.images, args.values))
        rng = np.random.default_rng(0)
        for start in range(0, args.images, BLOCK_ROWS):
            rows = codes[start : start + BLOCK_ROWS]
            rows[:] = rng.standard_normal(rows.shape) * np.linspace(0.2, 2, args.values)
        del codes
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        began, clock, done, said, peak = time.time(), time.process_time(), 0.0, 0.0, anonymous_mb()
        print(f"before: {peak:.0f} MB", flush=True)

        def progress(share: float) -> None:
            nonlocal done, said, peak
            done, peak = done + share, max(peak, anonymous_mb())
            if done >= said:
                said += 0.02
                seconds = time.process_time() - clock
                print(f"{100 * done:5.1f} %: {anonymous_mb():.0f} MB, {seconds:.0f} s of CPU", flush=True)

        settings = MeasureSettings(tuple(MEASURES), memory_bytes=args.memory_mb * 2**20)
        measure_group(matrix, np.arange(args.images), settings, DEFAULT_NEIGHBOURS, progress)
        peak = max(peak, anonymous_mb())
        print(
            f"{args.images} x {args.values}: {time.time() - began:.0f} s, {time.process_time() - clock:.0f} s of CPU, "
            f"at most {peak:.0f} MB besides the mapped file"
        )


if __name__ == "__main__":
    main(get_parser().parse_args())
