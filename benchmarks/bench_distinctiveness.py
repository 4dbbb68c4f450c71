"""Time the exact nearest-neighbour search, measure its memory, and write out what larger sets would cost.

compare   ours beside faiss-cpu's exact flat search (and, with --baselines, plain torch tiles and scikit-learn's
          brute force) on one random matrix, in alternating rounds of one process; the distances of ours are checked
          in float64.
memory    peak memory of the search over a memory map, in a process of its own: RssAnon, the memory that is the
          process's own; pages of the map are the page cache's and are given back under pressure.
scale     one search over many rows, with the rate reached, and from that the cost of larger sets.

Writes benchmarks/results/distinctiveness-<what>_<hardware>.json.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LARGER = ((1_000_000, 512), (1_000_000, 25_088))


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("compare", "memory", "scale"))
    parser.add_argument("--rows", type=int, help="default: 4000 (compare), 10000 (memory), 100000 (scale)")
    parser.add_argument("--columns", type=int, help="default: 25088, for scale 512")
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="alternating rounds; the fastest of each is reported, since other work on the machine only adds time",
    )
    parser.add_argument(
        "--baselines", action="store_true", help="also plain torch tiles and scikit-learn, once"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the matrix goes (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser


def make_matrix(path: Path, rows: int, columns: int):
    """Write codes that look like an encoder's: non-negative, sparse, of unequal norms; return the memory map."""
    import numpy as np

    rng = np.random.default_rng(0)
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (rows, columns))
    for start in range(0, rows, 500):
        count = min(500, rows - start)
        shift = rng.uniform(-1, 0.5, (count, 1)).astype(np.float32)
        matrix[start : start + count] = np.maximum(
            rng.standard_normal((count, columns), dtype=np.float32) + shift, 0
        )
    matrix.flush()
    del matrix
    return np.load(path, mmap_mode="r", allow_pickle=False)


def plain_tiles(matrix, tile: int = 2000):
    """Nearest neighbour by norms, products and minimum: what one would write first."""
    import torch

    values = torch.from_numpy(matrix.copy())
    norms = values.square().sum(1)
    nearest = []
    for start in range(0, len(values), tile):
        distances = norms[start : start + tile, None] + norms - 2 * values[start : start + tile] @ values.T
        distances[:, start : start + tile].fill_diagonal_(float("inf"))
        nearest.append(distances.min(1).indices)
    return torch.cat(nearest).numpy()


def compare(args: argparse.Namespace, folder: Path) -> dict:
    """Time ours and faiss in alternating rounds, and check ours."""
    import faiss
    import numpy as np

    from utils.latents.neighbours import SearchSettings, exact_squares, nearest_neighbours

    matrix = make_matrix(folder / "codes.npy", args.rows, args.columns)
    settings = SearchSettings(device=args.device)
    nearest_neighbours(matrix[:600], settings), faiss.knn(matrix[:600], matrix[:600], 2)  # libraries warm up
    times: dict[str, list[float]] = {"ours": [], "faiss": []}
    for _ in range(args.rounds):
        start = time.perf_counter()
        found = nearest_neighbours(matrix, settings)
        times["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        _, index = faiss.knn(matrix, matrix, 2)
        times["faiss"].append(time.perf_counter() - start)
    rows = np.arange(args.rows)
    by_faiss = np.where(index[:, 0] == rows, index[:, 1], index[:, 0])
    theirs = np.sqrt(exact_squares(matrix, rows, by_faiss))
    result = {
        "seconds": times,
        "ours_seconds": min(times["ours"]),
        "faiss_seconds": min(times["faiss"]),
        "ratio_to_faiss": min(times["ours"]) / min(times["faiss"]),
        "ratio_of_medians": statistics.median(times["ours"]) / statistics.median(times["faiss"]),
        "rows_where_faiss_found_a_farther_neighbour": int(
            (theirs > found.distance[:, 0] * (1 + 1e-12)).sum()
        ),
        "rows_where_ours_is_farther": int((theirs < found.distance[:, 0] * (1 - 1e-12)).sum()),
    }
    if args.baselines:
        from sklearn.neighbors import NearestNeighbors

        start = time.perf_counter()
        plain_tiles(matrix)
        result["plain_torch_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        distance, index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(matrix).kneighbors()
        result["scikit_learn_seconds"] = time.perf_counter() - start
        result["rows_where_scikit_learn_differs"] = int((index[:, 0] != found.index[:, 0]).sum())
        result["largest_relative_difference_of_distance_to_scikit_learn"] = float(
            np.abs(distance[:, 0] / found.distance[:, 0] - 1).max()
        )
    return result


def own_memory_mb() -> float:
    """Return RssAnon, in MB (10^6 bytes): resident memory that is no file's."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


def watched_search(path: Path, device: str, connection) -> None:
    """Search, and send the peak of the process's own memory, and what it was with the libraries loaded."""
    import numpy as np

    from utils.latents.neighbours import SearchSettings, nearest_neighbours

    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    nearest_neighbours(matrix[:64], SearchSettings(device=device))
    before, peak, stop = own_memory_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], own_memory_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    nearest_neighbours(matrix, SearchSettings(device=device))
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    connection.send({"peak_mb": peak[0], "with_libraries_only_mb": before, "seconds": seconds})


def memory(args: argparse.Namespace, folder: Path) -> dict:
    """Measure in a fresh process, so that making the matrix does not count."""
    make_matrix(folder / "codes.npy", args.rows, args.columns)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=watched_search, args=(folder / "codes.npy", args.device, theirs))
    process.start()
    result = ours.recv()
    process.join()
    return {**result, "matrix_mb": args.rows * args.columns * 4 / 1e6}


def scale(args: argparse.Namespace, folder: Path) -> dict:
    """Time one search over many rows, and extrapolate by the number of multiplications."""
    from utils.latents.neighbours import SearchSettings, nearest_neighbours

    matrix = make_matrix(folder / "codes.npy", args.rows, args.columns)
    start = time.perf_counter()
    nearest_neighbours(matrix, SearchSettings(device=args.device))
    seconds = time.perf_counter() - start
    rate = args.rows**2 * args.columns / seconds  # each pair of rows once: n^2/2 products of 2 d operations
    larger = [
        {
            "rows": rows,
            "columns": columns,
            "matrix_gb": rows * columns * 4 / 1e9,
            "operations": float(rows**2 * columns),
            "days_at_this_rate": rows**2 * columns / rate / 86400,
        }
        for rows, columns in LARGER
    ]
    return {"seconds": seconds, "operations_per_second": rate, "larger_sets_extrapolated": larger}


def main(args: argparse.Namespace) -> None:
    from benchmarks.common import describe_hardware, write_results

    defaults = {"compare": (4000, 25088), "memory": (10_000, 25088), "scale": (100_000, 512)}[args.what]
    args.rows, args.columns = args.rows or defaults[0], args.columns or defaults[1]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = {"compare": compare, "memory": memory, "scale": scale}[args.what](args, Path(folder))
    settings = {"rows": args.rows, "columns": args.columns, "rounds": args.rounds, "device": args.device}
    result = {"settings": settings, "hardware": describe_hardware(args.device), **result}
    write_results(f"distinctiveness-{args.what}", result, args.output)


if __name__ == "__main__":
    main(get_parser().parse_args())
