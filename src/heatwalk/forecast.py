"""What a stage will need: seconds, peak memory and disk, from the size of its input, before anything runs.

Bytes follow from what the stages hold; seconds from figures of two cores of an AMD EPYC (docs/scaling.md), between
those of a quiet machine and of one that other programs use too, and shared out over the threads. Seconds of another
machine differ by its speed, bytes do not.
"""

import resource
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from heatwalk.errors import OutOfResources, Problem

_PROCESS = 165e6  # bytes of a stage that has read nothing
_ADDRESS_SPACE = 2.5e9  # bytes of libraries and of threads, beside what is held; 2.2e9 were seen
_START = 0.5  # seconds until it has begun to read
_UNION = 0.72  # entries of the symmetric graph for every directed edge known from both ends or one, measured
_FIRST_ROWS = 2048  # of a sparse input, by which its density is judged
_PARALLEL = (
    "neighbors", "affinity", "diffusion_map", "deep_diffusion_map", "curvature", "pseudotime", "particles",
    "generation_metrics", "extension",
)  # fmt: skip
_SCHEDULED = ("neighbors", "affinity", "diffusion_map", "curvature", "extension")
_WORKER = 180e6  # bytes of a worker process
_WORKER_STARTS = 2.0  # seconds
_TORCH = 350e6  # bytes; what the driver of a GPU holds beside it is not known
_RANKED = 0.2  # of an exact search: distances from differences, which no GPU computes
_PLACED = 2**17  # new cells placed at a time


class Size(NamedTuple):
    """What a stage's needs depend on."""

    n_cells: int
    n_columns: int = 0  # genes, channels or coordinates of the input
    n_stored: int = 0  # values of the input: the stored ones, or all of a dense one
    n_selected: int = 0  # columns that the representation is computed from; 0: it is passed through
    dimension: int = 50  # of the representation
    value_bytes: int = 4
    n_neighbors: int = 30
    n_edges: int = 0  # of the symmetric graph; 0: not known yet
    n_modes: int = 15
    landmarks: int = 0
    prototypes: int = 384
    n_reference: int = 0  # cells of a query's reference
    n_particles: int = 1000
    epochs: int = 20  # of the training of a random walk
    score_epochs: int = 40  # of a riemannian_diffusion, as the next one
    score_prototypes: int = 1024
    operator: int = 3000  # samples that the particles' operator is made of
    pairs: int = 10  # of generation_metrics, as the next one
    most: int = 1000
    method: str = "auto"  # of neighbors, as the next one
    min_recall: float = 0.99
    device: str = "cpu"
    scheduler: str = "threads"

    @property
    def edges(self) -> int:
        return self.n_edges or int(self.n_cells * (1 + 2 * _UNION * min(self.n_neighbors, self.n_cells - 1)))


class Need(NamedTuple):
    seconds: float
    memory: int  # bytes at the peak
    result: int  # bytes that stay on disk
    scratch: int  # bytes on disk while it runs

    @property
    def disk(self) -> int:
        return self.result + self.scratch


def of_source(source, kind: str, options: Mapping[str, Mapping]) -> Size:
    """The size of an opened input, by its first rows; options: of every stage."""
    n_cells, n_columns = source.n_cells, int(np.prod(source.item_shape)) if source.item_shape else len(source.features)
    n_stored = n_cells * n_columns
    if source.sparse:
        first = next(source.blocks(min(n_cells, _FIRST_ROWS)))
        n_stored = int(first.nnz * (n_cells / max(first.shape[0], 1)))
    pca, n_top_genes = options["pca"], options["cells"]["n_top_genes"]
    passes, auto = kind == "points" and pca["n_components"] == "auto", min(50, n_columns)
    n_selected = min(n_top_genes or n_columns, n_columns) if kind in ("counts", "logged") else n_columns
    dimension = n_columns if passes else auto if pca["n_components"] == "auto" else pca["n_components"]
    if pca["use_rep"] in source.obsm:
        passes, dimension = True, source.obsm[pca["use_rep"]].shape[1]
    n_modes, particles = options["diffusion_map"]["n_components"], options["particles"]
    walk, score = options["random_walk"], options["riemannian_diffusion"]
    return Size(
        n_cells,
        n_columns,
        n_stored,
        n_selected=0 if passes else n_selected,
        dimension=dimension,
        value_bytes=source.dtype.itemsize if passes else 4,
        n_neighbors=min(options["neighbors"]["n_neighbors"], max(n_cells - 1, 1)),
        n_modes=50 if n_modes == "auto" else n_modes,
        landmarks=options["diffusion_map"]["landmarks"],
        prototypes=options["deep_diffusion_map"]["prototypes"],
        n_particles=max(particles["n_particles"], walk["n_points"], score["n_points"]),
        epochs=walk["epochs"],
        score_epochs=score["epochs"],
        score_prototypes=score["prototypes"],
        operator=particles["landmarks"],
        **{name: options["generation_metrics"][name] for name in ("pairs", "most")},
        **{name: value for name, value in options["neighbors"].items() if name in ("method", "min_recall")},
    )


def of_results(
    results: Mapping[str, Mapping], options: Mapping, borrowed: Mapping[str, Mapping] | None = None
) -> Size | None:
    """The size that the published results of earlier stages have; None where they do not say.

    options: of the stage; borrowed: results of a query's reference.
    """
    size, borrowed = {}, borrowed or {}
    if "cells" in results:
        cells = results["cells"]
        size = {"n_cells": cells["split"].shape[0], "n_columns": cells["selected"].shape[0]}
        size["n_stored"] = cells["data"].shape[0] if "data" in cells else int(np.prod(cells["values"].shape))
        passes = (
            "pca" in borrowed or options.get("use_rep") or (options.get("n_components") == "auto" and "values" in cells)
        )
        size["n_selected"] = 0 if passes else int(np.count_nonzero(cells["selected"][:]))
    if "pca" in results:
        coordinates = results["pca"]["coordinates"]
        size |= {"n_cells": coordinates.shape[0], "dimension": coordinates.shape[1]}
        size["value_bytes"] = coordinates.dtype.itemsize
    if "neighbors" in results:
        size["n_neighbors"] = results["neighbors"]["indices"].shape[1]
    if "affinity" in results:
        affinity = results["affinity"]
        size |= {"n_cells": affinity["degrees"].shape[0], "n_edges": affinity["indices"].shape[0]}
    if "neighbors" in borrowed:
        size["n_reference"], size["n_neighbors"] = borrowed["neighbors"]["indices"].shape
    for name, array in (("deep_diffusion_map", "coordinates"), ("diffusion_map", "eigenvectors")):
        for known in (results, borrowed):
            if name in known:
                size["n_modes"] = known[name][array].shape[1]
    for name, field in (
        ("n_neighbors", "n_neighbors"),
        ("n_components", "n_modes"),
        ("landmarks", "landmarks"),
        ("prototypes", "prototypes"),
        ("n_particles", "n_particles"),
        ("n_points", "n_particles"),
        ("epochs", "epochs"),
        ("pairs", "pairs"),
        ("most", "most"),
    ):
        if isinstance(options.get(name), int):
            size[field] = options[name]
    if "objective" in options:
        size |= {f"score_{name}": size.pop(name) for name in ("epochs", "prototypes")}
    if "riemannian_diffusion" in borrowed:
        size["score_epochs"] = 0
    if "n_particles" in options:
        size["operator"] = size.pop("landmarks")
    if "affinity" in results and options.get("n_components") == "auto":
        size["n_modes"] = 50
    size |= {name: options[name] for name in ("method", "min_recall") if size and name in options}
    return Size(**size) if size else None


def forecast(stage: str, size: Size, *, threads: int = 2, memory: int | None = None, block_cells: int = 8192) -> Need:
    """What one stage needs. memory: bytes it may use where it has a choice."""
    seconds, held, result, scratch = _STAGES[stage](size, threads, memory, block_cells)
    share = 2 / threads if stage in _PARALLEL else 1
    start = _START
    if stage in _SCHEDULED and size.scheduler == "processes":
        start, held = start + _WORKER_STARTS, held + threads * _WORKER
    return Need(start + seconds * share, int(_PROCESS + held), int(result), int(scratch))


def refuse(stage: str, need: Need, memory: int, where: str) -> None:
    """Raise OutOfResources when a stage's memory does not fit what it may use."""
    if need.memory > memory:
        raise OutOfResources(Problem("HW-RS-004", where, _too_much(stage, need, memory), _way_out(stage, need)))


def refuse_limit(stage: str, where: str, memory: float = _PROCESS) -> None:
    """Raise OutOfResources when the address space of this process is limited to less than a stage takes.

    Libraries that are refused address space do not say so: a thread's start never returns, OpenBLAS ends the process.
    memory: bytes at the peak; before the input is opened, those of a stage that has read nothing.
    """
    limit, needed = resource.getrlimit(resource.RLIMIT_AS)[0], _ADDRESS_SPACE + memory
    if limit != resource.RLIM_INFINITY and limit < needed:
        cause = f"{stage} needs at least {needed / 1e6:,.0f} MB of address space, {limit / 1e6:,.0f} MB are available"
        remedy = f"type: ulimit -v {int(needed / 1024) + 1} (or unlimited), then: heatwalk resume"
        raise OutOfResources(Problem("HW-RS-008", where, cause, remedy))


def _too_much(stage: str, need: Need, memory: int) -> str:
    return f"{stage} needs about {need.memory / 1e9:.2f} GB of memory, it may use {memory / 1e9:.2f} GB"


def _way_out(stage: str, need: Need) -> str:
    fewer = {
        "diffusion_map": ", or diffusion_map: n_components to less",
        "pca": ", or for counts cells: n_top_genes to less",
        "cells": ", or block_cells to less",
    }
    return f"set memory to {np.ceil(need.memory / 1e8 + 0.5) / 10:.1f}GB or more{fewer.get(stage, '')}"


def _cells(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    block = min(block_cells, size.n_cells) * size.n_stored / max(size.n_cells, 1)
    held = 360 * size.n_cells + 500 * size.n_columns + 40 * block
    written = 2.5 * size.n_stored + 60 * size.n_cells
    # Sparse values are unpacked and checked one by one.
    value = 1e-8 if size.n_stored == size.n_cells * size.n_columns else 5e-8
    return 1.2e-6 * size.n_cells + value * size.n_stored, held, written, 0


def _pca(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    held = 85 * size.n_cells
    seconds = 1.4e-6 * size.n_cells
    if size.n_selected:
        held += 8 * size.n_selected**2 * (threads + 3) + 16 * 1024 * size.n_selected * threads
        seconds += 8e-11 * size.n_cells * size.n_selected**2 + 1e-9 * size.n_selected**3
    return seconds, held, 0.95 * size.n_cells * size.dimension * size.value_bytes, 0


def _neighbors(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    n, k, row = size.n_cells, size.n_neighbors, size.dimension * size.value_bytes
    found = n * k * (4 + size.value_bytes)
    all_pairs = 8e-11 * n**2 * (size.dimension + 40)
    if size.device != "cpu":
        return _RANKED * all_pairs, n * row + 4e7 + _TORCH, 0.7 * found, 0
    if size.method == "exact" or (size.method == "auto" and n <= 20_000):
        return all_pairs, n * row + 4e7, 0.7 * found, 0
    gathered = min(2.0**28, 2 * n * row)  # by all threads together
    held = 100 * n + gathered + 10e6 * threads
    # A cell is compared with a share of all that hardly falls as they become more: noise has many dimensions. It
    # grows with a power of the logarithm of the share of neighbours that may be missed.
    lists = float(-np.log10(max(1 - size.min_recall, 1e-6)) / 2) ** 3.5
    seconds = (2.6 * (n / 2e5) ** 1.1 + 3.4e-11 * lists * n**2) * (size.dimension + 100) / 150
    return seconds, held, 0.7 * found + 4 * n, n * row + found


def _affinity(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    directed = size.n_cells * size.n_neighbors
    held = 105 * size.n_cells + 63 * min(directed, 2**20 * 2 * threads) + 2e7
    scratch = directed * (8 + size.value_bytes) + 12 * (size.n_cells + 2 * directed)
    # Where neighbours stand in memory, and what is written, leave caches the later the fewer the edges are.
    seconds = 1.75e-7 * size.edges * (size.edges / 1.3e7) ** 0.27
    return seconds, held, 10.5 * size.edges + 40 * size.n_cells, scratch


def _diffusion_map(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    from heatwalk.diffusion_map import band_bytes, bytes_held
    from heatwalk.landmarks import EXTRA

    vectors = bytes_held(size.n_cells, size.edges, size.n_modes + 1, size.landmarks, threads)
    matrix = 12 * size.edges
    streams = size.scheduler != "threads" or (memory is not None and vectors + matrix > memory)
    held = vectors + (band_bytes(size.edges) if streams else matrix)
    # Products grow with the number of cells as the bandwidth shrinks: (n)^0.2 on data of four dimensions.
    products = 45 * size.n_modes * (size.n_cells / 2e5) ** 0.2
    seconds = products * (7.5e-10 * size.edges + 1.5e-8 * size.n_cells) * (2 if streams else 1)
    if 0 < size.landmarks < size.n_cells:  # and the map of a part that measures their error
        seconds = 2.8e-8 * size.edges * (size.n_modes + 1 + EXTRA) / 2 + 2
    return seconds, held - _PROCESS, 8 * size.n_cells * size.n_modes, matrix if streams else 0


def _deep_diffusion_map(
    size: Size, threads: int, memory: int | None, block_cells: int
) -> tuple[float, float, float, float]:
    from heatwalk.deep_diffusion_map import band_bytes, bytes_held

    n, n_features = size.n_cells, min(size.prototypes, max(size.n_cells // 3, 1)) + 64
    vectors, matrix = bytes_held(n, size.dimension, n_features, size.n_modes, size.edges, threads), 12 * size.edges
    streams = memory is not None and vectors + matrix > memory
    held = vectors + (band_bytes(size.edges) if streams else matrix)
    products = n_features + 4 * size.n_modes + 16
    rounds = products * 1.1e-9 * size.edges * (2 if streams else 1) + n * (1.2e-10 * n_features**2 + 4e-5)
    return 40 + 10 * rounds, held - _PROCESS, 4 * n * size.n_modes + 2e6, matrix if streams else 0


def _curvature(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    from heatwalk.curvature import bytes_held
    from heatwalk.genes import bytes_held as of_genes

    n, row = size.n_cells, size.dimension * size.value_bytes
    held = bytes_held(n, row, threads) + of_genes(n, size.n_columns, 1, threads)
    # Of up to 20,000 cells surfaces may go through 500 cells instead of 300.
    return 20 + 4.5e-4 * n + 4e-4 * min(n, 20_000), held, 60 * n + 26 * size.n_columns, 0


def _pseudotime(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    from heatwalk.genes import bytes_held

    n, variables = size.n_cells, size.n_modes + 1
    block = min(block_cells, n) * size.n_stored / max(n, 1)
    held = 8e7 + bytes_held(n, size.n_columns, variables, threads) + 40 * block * threads + 400 * n
    return 4 + 1.3e-8 * size.n_stored * variables + 2e-5 * n, held, 10 * n + 26 * size.n_columns * variables, 0


def _particles(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    from heatwalk.surroundings import width_of

    n, d, m = size.n_cells, size.dimension, size.n_particles
    operator, width = min(n, size.operator), width_of(n, d)
    solved, moved = 33 * operator**2, 14 * operator**2 + 16 * m * operator
    held = n * (24 * d + 20 * width + 1000) + max(solved, moved) + 48 * m * d + 3e7
    seconds, _, _, _ = _neighbors(size._replace(n_neighbors=width + 1, method="auto"), threads, memory, block_cells)
    seconds += 2.2e-10 * operator**3 + 3e-7 * m * operator + 2e-10 * m * n * (d + 40) + 1e-8 * (n + 3 * m) * d * width
    values = m * size.n_selected
    return 2 + seconds + 6e-8 * values, held, 8 * m * d + 8 * values, 0


def _random_walk(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    n, d, m, nodes = size.n_cells, size.dimension, size.n_particles, min(size.n_cells, 10_000)
    held = n * (28 * d + 150) + nodes * (4e3 + 8 * d) + 48 * m * d + 2.75e8  # torch
    trained = 8 + size.epochs * 100 * (0.014 + 2e-5 * d)
    values = m * size.n_selected
    seconds = 5 + trained + 4e-3 * nodes + 2e-10 * m * n * (d + 40) + 6e-8 * values
    return seconds, held, 8 * m * d + 8 * values + 1e6 + 5e3 * d, 0


def _riemannian_diffusion(
    size: Size, threads: int, memory: int | None, block_cells: int
) -> tuple[float, float, float, float]:
    n, d, m = size.n_cells, size.dimension, min(size.score_prototypes, size.n_cells // 2)
    # torch, blocks of distances, and what compiles the kernels that a training draws from
    held = n * (40 * d + 200) + 1e5 * m * threads + (4.2e8 if size.score_epochs else 2.5e8)
    trained = size.score_epochs * (1.0 + 1.5e-3 * m)
    solved = 1.4e-5 * n * m * 2 / threads + 2e-5 * size.n_particles * m
    return 8 + trained + solved, held, 16 * n + 8 * size.n_particles * d + 2e6 + (700 + 8 * d) * m, 0


def _generation_metrics(
    size: Size, threads: int, memory: int | None, block_cells: int
) -> tuple[float, float, float, float]:
    n, d = size.n_cells, size.dimension
    count = min(size.most, size.n_particles, n // 20)
    held = 12 * n * d + 80 * count**2 * threads + 3e8  # what POT imports
    return 2 + (size.pairs + 1) * 3.3e-6 * count**2 + 1e-10 * n * (n / 10 + size.n_particles) * (d + 40), held, 1e4, 0


def _extension(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    n, row, placed = size.n_reference, size.dimension * size.value_bytes, min(size.n_cells, _PLACED)
    gathered = n * row + 4e7 if n <= 20_000 else min(2.0**28, 2 * n * row) + 10e6 * threads
    held = (
        n * (160 + 8 * size.n_modes + 4 * size.dimension)
        + gathered
        + placed * (60 * size.n_neighbors + 3 * row + 24 * size.n_modes)
    )
    # Every new cell is compared with a share of the reference, which is divided into lists first.
    seconds = (7e-11 * size.n_cells * n + 4e-6 * n) * (size.dimension + 100) / 150 + 3e-5 * size.n_cells
    return seconds, held, size.n_cells * (4 * size.n_modes + 24), n * row if n > 20_000 else 0


def _atlas(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    everything = 2.5 * size.n_stored + 12 * size.edges + 8 * size.n_cells * (size.dimension / 2 + size.n_modes + 12)
    return 3.7e-8 * everything, 1.2e8 + 400 * size.n_cells, 2.2 * everything, 0


def _report(size: Size, threads: int, memory: int | None, block_cells: int) -> tuple[float, float, float, float]:
    return 3.6 + 3e-6 * size.n_cells, 2.5e8 + 350 * size.n_cells, 3e6, 0


_STAGES: Mapping = {
    "cells": _cells,
    "pca": _pca,
    "neighbors": _neighbors,
    "affinity": _affinity,
    "diffusion_map": _diffusion_map,
    "deep_diffusion_map": _deep_diffusion_map,
    "curvature": _curvature,
    "pseudotime": _pseudotime,
    "particles": _particles,
    "random_walk": _random_walk,
    "riemannian_diffusion": _riemannian_diffusion,
    "generation_metrics": _generation_metrics,
    "extension": _extension,
    "atlas": _atlas,
    "report": _report,
}
