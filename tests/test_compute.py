"""compute: items in order and few at a time, errors that end the rest, BLAS on one thread, and processes as threads."""

import importlib
import os
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import heatwalk as hw
from heatwalk import cluster, compute


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items_whichever_is_done_first(threads):
    def slow_at_first(item):
        time.sleep(0.004 * (12 - item) if item < 12 else 0)
        return item**2

    with compute.workers("threads", threads) as pool:
        assert list(pool.in_order(slow_at_first, range(40))) == [item**2 for item in range(40)]
    assert list(compute.in_order(slow_at_first, range(20), threads)) == [item**2 for item in range(20)]


def test_no_items_give_nothing():
    with compute.workers("threads", 2) as pool:
        assert list(pool.in_order(len, [])) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_two_items_a_worker_are_under_way_at_the_most(threads):
    begun, done = [], []

    def item_by_item():
        for item in range(30):
            begun.append(item)
            yield item

    with compute.workers("threads", threads) as pool:
        for result in pool.in_order(lambda item: item, item_by_item()):
            done.append(result)
            assert len(begun) - len(done) < 2 * threads
    assert done == list(range(30))


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_items_run_at_once_as_there_are_threads(threads):
    running, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    with compute.workers("threads", threads) as pool:
        list(pool.in_order(work, range(12)))
    assert most == threads


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_reaches_the_caller_and_the_rest_is_not_begun(threads):
    begun = []

    def fails(item):
        begun.append(item)
        time.sleep(0.01)
        if item == 3:
            raise hw.BadInput(hw.Problem("HW-XX-001", "here", "it is wrong", "mend it"))
        return item

    with compute.workers("threads", threads) as pool:
        results = pool.in_order(fails, range(1000))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(hw.BadInput, match="HW-XX-001 here: it is wrong; mend it"):
            next(results)
    assert len(begun) <= 4 + 2 * threads


def test_a_caller_that_stops_leaves_nothing_under_way():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01)

    with compute.workers("threads", 1) as pool:
        results = pool.in_order(work, range(1000))
        next(results)
        results.close()
    assert len(begun) <= 3


def blas_threads(of_thread=False):
    """Threads that each BLAS may use; one made with OpenMP, as that of faiss, has a number for every thread."""
    every = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return [each["num_threads"] for each in every if not (of_thread and each["threading_layer"] == "openmp")]


def test_blas_has_one_thread_inside_and_as_many_as_before_outside():
    before = blas_threads()
    with compute.workers("threads", 2) as pool:
        assert set(blas_threads()) == {1}
        for inside in pool.in_order(lambda _: blas_threads(of_thread=True), range(4)):
            assert inside == [1] * len(inside)
    assert blas_threads() == before
    with compute.one_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_settings_of_faiss_are_as_before_also_after_an_error():
    import faiss

    before = faiss.omp_get_max_threads()
    with compute.faiss_threads(before + 1):
        assert faiss.omp_get_max_threads() == before + 1
    with pytest.raises(ZeroDivisionError), compute.faiss_threads(before + 1):
        1 / 0  # noqa: B018
    assert faiss.omp_get_max_threads() == before


def test_threads_are_those_asked_for_or_all_that_are_free():
    with compute.workers("threads", 3) as pool:
        assert pool.threads == 3
    with compute.workers() as pool:
        assert pool.threads == compute.available_threads()
        assert pool.here is pool
    assert 1 <= compute.available_threads() <= os.cpu_count()


def test_what_workers_share_is_in_memory_unless_files_or_a_folder_are_asked_for(tmp_path):
    with compute.workers("threads", 1) as pool:
        assert pool.folder is None
    with compute.workers("threads", 1, tmp_path) as pool, compute.workers("threads", 1, tmp_path) as other:
        assert pool.folder.parent == other.folder.parent == tmp_path
        assert pool.folder != other.folder
        (pool.folder / "left").touch()
    assert not list(tmp_path.iterdir())
    with compute.workers("threads", 1, files=True) as pool:
        folder = pool.folder
        assert folder.is_dir()
    assert not folder.exists()
    assert tmp_path.is_dir()


@pytest.mark.parametrize(("length", "size"), [(0, 3), (1, 3), (3, 3), (10, 3), (10, 100)])
def test_blocks_are_consecutive_and_of_one_size_but_for_the_last(length, size):
    found = compute.blocks(length, size)
    assert [row for block in found for row in range(block.start, block.stop)] == list(range(length))
    assert [block.stop - block.start for block in found[:-1]] == [size] * max(len(found) - 1, 0)


def test_processes_compute_the_bytes_that_threads_do(tmp_path, tmp_path_factory, monkeypatch):
    stage = importlib.import_module("heatwalk.diffusion_map")  # the name in the package is the function
    monkeypatch.setattr(stage, "_SENT_FROM", 1000)
    points = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)

    def computed(**options):
        found = hw.neighbors(points, n_neighbors=15, method="inverted_lists", block_cells=512, **options)
        graph = hw.affinity(points, found, block_cells=512, **options)
        return [*found, *graph, *hw.diffusion_map(graph, n_components=2, tolerance=1e-3, **options)]

    expected = computed(scheduler="threads", threads=2)
    with cluster._local(
        2, tmp_path_factory.mktemp("workers")
    ) as address:  # what "processes" starts, once for all three
        made = computed(scheduler=address, threads=2, scratch=tmp_path)
    assert [np.asarray(one).tobytes() for one in made] == [np.asarray(one).tobytes() for one in expected]
    assert not list(tmp_path.iterdir())
