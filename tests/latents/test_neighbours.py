"""The search against brute force in float64: scikit-learn's, and differences where its cancellation would blur ties."""

import multiprocessing
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from utils.core.errors import UserError
from utils.latents import neighbours
from utils.latents.neighbour_bounds import DEPTH, Candidates, Codes, NonFiniteRowsError, ZeroRowsError
from utils.latents.neighbours import SearchSettings, exact_squares, nearest_neighbours


def brute(matrix, k=1, metric="euclidean"):
    """Every pair's difference in float64; ties to the lowest row."""
    values = matrix.astype(np.float64)
    if metric == "cosine":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    squares = np.stack([np.square(values - row).sum(1) for row in values])
    np.fill_diagonal(squares, np.inf)
    index = np.argsort(squares, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(squares, index, 1)
    return index, nearest / 2 if metric == "cosine" else np.sqrt(nearest)


def check(matrix, k=1, metric="euclidean", **options):
    """Compare a search with brute force, indices and distances."""
    found = nearest_neighbours(matrix, SearchSettings(metric=metric, neighbours=k, **options))
    index, distance = brute(matrix, k, metric)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-9, atol=1e-15)
    assert np.array_equal(found.index, index)
    assert not (found.index == np.arange(len(matrix))[:, None]).any()
    return found


def normal(rows, columns, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("tile_rows", [None, 32, 61, 150, 400])
@pytest.mark.parametrize("k", [1, 4])
def test_euclidean_equals_scikit_learn(tile_rows, k):
    matrix = np.maximum(normal(300, 700), 0)
    found = check(matrix, k, tile_rows=tile_rows)
    oracle = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(matrix.astype(np.float64))
    distance, index = oracle.kneighbors()  # without a query, a row is not its own neighbour
    assert np.array_equal(found.index, index[:, :k])
    np.testing.assert_allclose(found.distance, distance[:, :k], rtol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_cosine_equals_scikit_learn(k):
    matrix = np.maximum(normal(200, 500), 0)
    found = check(matrix, k, "cosine", tile_rows=64)
    oracle = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(
        matrix.astype(np.float64)
    )
    distance, index = oracle.kneighbors()
    assert np.array_equal(found.index, index)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-9)


def test_more_columns_than_one_product_takes():
    assert DEPTH < 9000
    check(normal(60, 9000), 2, tile_rows=25)


def test_near_duplicates_at_a_thousandth_of_a_large_code():
    """Float32 norms of 1e2..1e3 cannot resolve distances of 1e-3; 40 in each of 6 clusters overflow the candidates."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((6, 2000)) * 10 + 100
    matrix = np.repeat(centres, 40, axis=0).astype(np.float32)
    matrix += (rng.standard_normal(matrix.shape) * 1e-3 / np.sqrt(2000)).astype(np.float32)
    matrix = matrix[rng.permutation(len(matrix))]
    naive = torch.cdist(torch.from_numpy(matrix), torch.from_numpy(matrix)).fill_diagonal_(np.inf)
    assert (naive.argmin(1).numpy() != brute(matrix)[0][:, 0]).mean() > 0.2, "the case is not adversarial"
    check(matrix, 1)
    check(matrix, 3, tile_rows=50)
    check(matrix, 1, "cosine", tile_rows=100)


def test_duplicates_are_found_at_distance_zero_and_reported():
    matrix = normal(120, 64)
    matrix[60:90] = matrix[:30]
    matrix[100:110] = matrix[0]
    found = check(matrix, 5, tile_rows=33)
    assert found.duplicates[0] == 11
    assert found.duplicates[1] == 1
    assert found.duplicates[95] == 0
    assert found.distance[65, 0] == 0
    assert found.index[65, 0] == 5
    assert found.index[0, 0] == 60


def test_minus_zero_is_a_duplicate_of_zero():
    matrix = np.array([[0.0, 1], [-0.0, 1], [5, 5]], np.float32)
    assert nearest_neighbours(matrix, SearchSettings()).duplicates.tolist() == [1, 1, 0]


def test_all_rows_identical():
    found = check(np.full((40, 9), 3.5, np.float32), 3)
    assert found.index[0].tolist() == [1, 2, 3]
    assert found.index[39].tolist() == [0, 1, 2]
    assert (found.distance == 0).all()


def test_ties_go_to_the_lowest_row():
    check(np.eye(150, dtype=np.float32), 2, tile_rows=40)
    grid = np.random.default_rng(2).integers(0, 12, (300, 2)).astype(np.float32)
    check(grid, 3, tile_rows=77)


@pytest.mark.parametrize(
    "change",
    [
        lambda matrix: matrix + 1e4,
        lambda matrix: matrix * 1e-25,
        lambda matrix: matrix * 1e30,
        lambda matrix: np.r_[matrix[:1] * 1e7, matrix[1:]],
        lambda matrix: matrix * np.geomspace(1e-6, 1e6, len(matrix))[:, None],
    ],
    ids=["offset", "tiny", "huge", "outlier", "scales"],
)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_offsets_and_scales(change, metric):
    check(change(normal(90, 300).astype(np.float64)).astype(np.float32), 2, metric, tile_rows=32)


def test_float16_matrices():
    check(normal(80, 50).astype(np.float16), 2, tile_rows=30)


def test_float64_matrices_are_refused_since_the_bounds_are_of_float32():
    with pytest.raises(ValueError, match="got float64 of shape"):
        nearest_neighbours(np.zeros((3, 3)), SearchSettings())


def test_two_rows():
    assert check(normal(2, 30)).index.tolist() == [[1], [0]]


def test_one_row_has_no_neighbour():
    found = nearest_neighbours(normal(1, 30), SearchSettings())
    assert found.index.tolist() == [[-1]]
    assert np.isnan(found.distance).all()


def test_more_neighbours_than_rows_leaves_cells_empty():
    found = nearest_neighbours(normal(3, 30), SearchSettings(neighbours=4))
    assert (found.index[:, :2] >= 0).all()
    assert (found.index[:, 2:] == -1).all()


def test_groups_are_searched_apart():
    matrix, groups = normal(90, 40), np.array(["b", "a", "b"] * 29 + ["c", "a", "b"])
    found = nearest_neighbours(matrix, SearchSettings(neighbours=2, tile_rows=16), groups)
    for name in "ab":
        members = np.flatnonzero(groups == name)
        index, distance = brute(matrix[members], 2)
        assert np.array_equal(found.index[members], members[index])
        np.testing.assert_allclose(found.distance[members], distance)
    assert found.index[87].tolist() == [-1, -1]


def test_rows_that_are_not_finite_are_named():
    matrix = normal(50, 20)
    matrix[7, 3], matrix[31, 0] = np.nan, np.inf
    with pytest.raises(NonFiniteRowsError) as caught:
        nearest_neighbours(matrix, SearchSettings())
    assert caught.value.rows == [7, 31]


def test_large_finite_values_are_not_taken_for_infinite():
    matrix = np.full((4, 300), 3e38, np.float32)
    matrix[1, 0] = 1e38
    assert nearest_neighbours(matrix, SearchSettings()).index[:, 0].tolist() == [2, 0, 0, 0]


def test_zero_rows_have_no_cosine():
    matrix = normal(20, 5)
    matrix[4] = 0
    with pytest.raises(ZeroRowsError) as caught:
        nearest_neighbours(matrix, SearchSettings(metric="cosine"))
    assert caught.value.rows == [4]


def test_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="manhattan"):
        nearest_neighbours(normal(3, 3), SearchSettings(metric="manhattan"))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("columns", [3, 500, 6000])
def test_the_error_bound_holds(metric, columns):
    """The premise of exactness: no computed squared distance is off by more than its two rows' shares."""
    matrix = (normal(64, columns) + 3) * np.geomspace(1, 30, 64, dtype=np.float32)[:, None]
    codes = Codes(matrix, np.arange(64), metric)
    squares, share = codes.bounds()
    loaded = codes.load(np.arange(64))
    computed = squares[:, None] + squares[None, :] - 2 * loaded @ loaded.T
    values = matrix.astype(np.float64)
    if metric == "cosine":
        values /= np.linalg.norm(values, axis=1, keepdims=True)
    true = np.stack([np.square(values - row).sum(1) for row in values]) * codes.scale**2
    error = np.abs(computed.numpy().astype(np.float64) - true)
    assert (error <= (share[:, None] + share[None, :]).numpy()).all()


def test_exact_squares_do_not_depend_on_order_or_company():
    matrix = normal(40, 999)
    first, second = np.random.default_rng(3).integers(0, 40, (2, 200))
    together = exact_squares(matrix, first, second)
    assert np.array_equal(together, exact_squares(matrix, second, first))
    alone = [exact_squares(matrix, first[i : i + 1], second[i : i + 1])[0] for i in range(200)]
    assert np.array_equal(together, alone)


def test_results_do_not_depend_on_tiles_to_the_last_bit():
    matrix = normal(200, 333)
    results = [nearest_neighbours(matrix, SearchSettings(tile_rows=rows)) for rows in (13, 64, 200)]
    assert all(np.array_equal(results[0].distance, other.distance) for other in results[1:])


def test_every_pair_of_tiles_occurs_once():
    for tiles in range(1, 12):
        pairs = [frozenset((a, b)) for a in range(tiles) for b in neighbours._partners(a, tiles)]
        assert len(pairs) == len(set(pairs)) == tiles * (tiles + 1) // 2


def test_progress_adds_up_to_the_rows():
    done = []
    nearest_neighbours(normal(100, 20), SearchSettings(tile_rows=9), progress=done.append)
    assert sum(done) == pytest.approx(100)


def test_a_killed_search_goes_on_where_it_stopped(tmp_path, monkeypatch):
    matrix = normal(150, 40)
    settings = SearchSettings(tile_rows=20, partial_folder=tmp_path, fingerprint="a", checkpoint_seconds=0)
    calls, original = [], neighbours._Scan.tile_row

    def stop_after(scan, tile, most):
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(tile)
        original(scan, tile)

    monkeypatch.setattr(neighbours._Scan, "tile_row", lambda scan, tile: stop_after(scan, tile, 3))
    with pytest.raises(KeyboardInterrupt):
        nearest_neighbours(matrix, settings)
    monkeypatch.setattr(neighbours._Scan, "tile_row", lambda scan, tile: stop_after(scan, tile, 99))
    found = nearest_neighbours(matrix, settings)
    assert calls == list(range(8))
    assert np.array_equal(found.index, brute(matrix)[0])


@pytest.mark.parametrize("damage", ["cut", "flipped", "list", "pickle"])
def test_a_damaged_partial_result_is_done_again(tmp_path, caplog, damage, monkeypatch):
    matrix = normal(60, 40)
    settings = SearchSettings(tile_rows=20, partial_folder=tmp_path, fingerprint="a", checkpoint_seconds=0)
    original = neighbours._Scan.tile_row

    def stop_at_the_last(scan, tile):
        if tile == 2:
            raise KeyboardInterrupt
        original(scan, tile)

    with monkeypatch.context() as patched:
        patched.setattr(neighbours._Scan, "tile_row", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            nearest_neighbours(matrix, settings)
    (path,) = tmp_path.rglob("*.npz")
    with np.load(path) as content:
        parts = dict(content)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "flipped":
        parts["best"] = parts["best"] / 4
        np.savez(path, **parts)
    elif damage == "list":
        np.savez(path, key=parts["key"], best=parts["best"])
    else:
        np.savez(path, **{**parts, "best": np.array([{}], dtype=object)})
    found = nearest_neighbours(matrix, settings)
    assert np.array_equal(found.index, brute(matrix)[0])
    assert f"{path} is damaged" in caplog.text


def test_partial_results_of_another_search_are_ignored(tmp_path):
    first, second = normal(60, 40), normal(60, 40, seed=9)
    for matrix, fingerprint in ((first, "first"), (second, "second")):
        found = nearest_neighbours(
            matrix, SearchSettings(tile_rows=20, partial_folder=tmp_path, fingerprint=fingerprint)
        )
        assert np.array_equal(found.index, brute(matrix)[0])


def test_ranks_share_the_tiles_and_rank_0_merges(tmp_path, monkeypatch):
    """Threads stand in for processes: each rank has its own settings, and they meet at the barrier."""
    matrix, groups = normal(160, 50), np.array(["a", "b"] * 80)
    matrix[10] = matrix[30]
    meeting = threading.Barrier(3)
    monkeypatch.setattr("utils.core.processes.barrier", partial(meeting.wait, 60))
    results = {}

    def work(rank):
        settings = SearchSettings(
            neighbours=2, tile_rows=16, rank=rank, world=3, partial_folder=tmp_path, fingerprint="x"
        )
        results[rank] = nearest_neighbours(matrix, settings, groups)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = nearest_neighbours(matrix, SearchSettings(neighbours=2), groups)
    assert results[1] is None
    assert results[2] is None
    for name in ("index", "distance", "duplicates"):
        assert np.array_equal(getattr(results[0], name), getattr(alone, name))


def test_a_missing_rank_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.core.processes.barrier", lambda: None)
    settings = SearchSettings(tile_rows=16, world=2, partial_folder=tmp_path)
    with pytest.raises(UserError, match=r"rank 1 in .*neighbours_0001_of_0002\.npz"):
        nearest_neighbours(normal(80, 10), settings)


def test_crowded_rows_keep_no_candidates():
    state = Candidates.empty(torch.zeros(4), 1, limit=5)
    products = torch.zeros(4, 10)
    products[1] = torch.arange(10)
    state.offer(products, slice(0, 4), slice(0, 10), torch.zeros(10), torch.zeros(10), torch.empty(40))
    state.tidy()
    assert state.crowded.tolist() == [True, False, True, True]
    assert state.candidates()[0].tolist() == [1]


def peak_of_search(path, connection):
    """Run a search over a memory map, and send how far the memory of our own (not the map's pages) rose."""

    def own():
        return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) / 1024

    matrix = np.load(path, mmap_mode="r")
    nearest_neighbours(matrix[:300], SearchSettings())  # libraries take their share once
    before, peak, stop = own(), [0.0], threading.Event()

    def watch():
        while not stop.wait(0.005):
            peak[0] = max(peak[0], own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    nearest_neighbours(matrix, SearchSettings(memory_bytes=16 * 2**20))
    stop.set()
    watcher.join()
    connection.send(peak[0] - before)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="reads /proc")
def test_memory_stays_within_its_budget(tmp_path):
    """The matrix is 100 MB; the search may hold 16 MB, plus the blocks of the passes over it."""
    path = tmp_path / "codes.npy"
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (2500, 10000))
    for start in range(0, 2500, 500):
        matrix[start : start + 500] = normal(500, 10000, seed=start)
    matrix.flush()
    del matrix
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=peak_of_search, args=(path, theirs))
    process.start()
    assert ours.poll(300), "no answer"
    peak = ours.recv()
    process.join()
    assert peak < 85, f"{peak:.0f} MB"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_cuda_gives_the_same_bits_as_the_cpu(metric):
    matrix = np.maximum(normal(3000, 5000), 0)
    matrix[100:200] = matrix[:100] + 1e-5
    on_cpu, on_cuda = (
        nearest_neighbours(matrix, SearchSettings(metric=metric, neighbours=3, device=device))
        for device in ("cpu", "cuda")
    )
    assert np.array_equal(on_cpu.index, on_cuda.index)
    assert np.array_equal(on_cpu.distance, on_cuda.distance)
