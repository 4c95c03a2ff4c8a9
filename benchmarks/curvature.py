"""How near is curvature to the truth, how sure is its sign, and what does it cost?

    python benchmarks/curvature.py surfaces [--seeds 10]      four surfaces, three noises, beside baselines and oracle
    python benchmarks/curvature.py signs [--clouds 20]        saddles, spheres, planes of dimension 2 to 6; all, or
                                        [--noises 0.05] [--classes plane]
    python benchmarks/curvature.py bunny                      35,947 vertices beside the mesh's angle deficit
    python benchmarks/curvature.py ollivier                   Ollivier-Ricci curvature of the same surfaces, one seed
    python benchmarks/curvature.py dense                      5,000 points beside powers of the dense matrix
    python benchmarks/curvature.py days                       50,674 cells of a time course, by day
    python benchmarks/curvature.py scale [--cells 20000 100000]

Data from HEATWALK_DATA (default ../shared/data). Correlations are Pearson's over all 2,000 points, unsorted, Spearman's
in brackets. heatwalk's columns are one call with defaults; `fixed` is one local quadric through 120 points, `Forman`
the mean over a point's edges of 4 - deg - deg + 3 triangles, on the same graph of 30 neighbours.
"""

import argparse
import itertools
import os
import resource
import time
from pathlib import Path

import numpy as np
import points as tree
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from surfaces import NOISES, SURFACES, cloud, oracle, quadratic

import heatwalk as hw
from heatwalk import compute
from heatwalk.walks import walk

MARKERS = "CD43,CD34,CD90,CD45RA,CD31,CD49f,CD73,CD45,FLK1,CD38"
DATA = Path(os.environ.get("HEATWALK_DATA", "../shared/data"))


def graph_of(points: np.ndarray):
    graph = hw.affinity(points, hw.neighbors(points, n_neighbors=30))
    return graph, hw.diffusion_map(graph)


def fixed(points: np.ndarray, width: int = 120) -> np.ndarray:
    """Gaussian curvature of one quadric through the nearest points, in the frame of their covariance."""
    near, value = hw.neighbors(points, n_neighbors=width).indices, np.empty(len(points))
    for row, names in enumerate(near):
        away = points[names] - points[row]
        frame = np.linalg.eigh(np.cov(away.T))[1][:, ::-1]
        u, v, w = (away @ frame).T
        fit = np.linalg.lstsq(np.column_stack([np.ones(width), u, v, u * u / 2, v * v / 2, u * v]), w, rcond=None)[0]
        value[row] = (fit[3] * fit[4] - fit[5] ** 2) / (1 + fit[1] ** 2 + fit[2] ** 2) ** 2
    return value


def forman(graph) -> np.ndarray:
    import scipy.sparse

    n_points = len(graph.degrees)
    links = scipy.sparse.csr_array((np.ones(len(graph.indices)), graph.indices, graph.indptr), shape=(n_points,) * 2)
    links.setdiag(0)
    links.eliminate_zeros()
    degree = links.sum(axis=1)
    triangles = ((links @ links) * links).sum(axis=1)
    return 4 - degree - (links @ degree) / degree + 3 * triangles / degree


def surfaces(seeds: int) -> None:
    columns = ("combined", "diffusion", "quadric", "pointwise", "fixed", "Forman", "oracle")
    print(f"| surface | noise | {' | '.join(columns)} | seconds |")
    print("|---" * (len(columns) + 3) + "|")
    for name in SURFACES:
        for noise in NOISES:
            rows, seconds = [], 0.0
            for seed in range(seeds):
                points, truth = cloud(name, noise, seed)
                graph, map_ = graph_of(points)
                began = time.perf_counter()
                found = hw.curvature(points, graph, map_)
                seconds += (time.perf_counter() - began) / seeds
                best = oracle(name, points, noise, seed) if noise else truth
                estimates = (found.curvature, found.diffusion, found.quadric, found.laziness)
                rows.append([_both(each, truth) for each in (*estimates, fixed(points), forman(graph), best)])
            mean = np.mean(rows, axis=0)
            cells = " | ".join(f"{pearson:.3f} ({spearman:.2f})" for pearson, spearman in mean)
            print(f"| {name} | {noise:g} | {cells} | {seconds:.1f} |", flush=True)


def _both(estimate: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    known = np.isfinite(estimate)
    pearson = np.corrcoef(estimate[known], truth[known])[0, 1]
    return float(pearson), float(spearmanr(estimate[known], truth[known]).statistic)


SIGNS = {"saddle": -1, "sphere": 1, "plane": 0}


def signs(clouds: int, noises: list[float], kinds: list[str]) -> None:
    """Share of clouds whose centre has the right sign; zero is within two standard errors, the band of 95%."""
    print("| noise | class |" + "".join(f" d = {dimension} |" for dimension in range(2, 7)) + "\n" + "|---" * 7 + "|")
    for noise in noises:
        for kind in kinds:
            sign = SIGNS[kind]
            shares = [np.mean([_sign(kind, d, noise, seed) == sign for seed in range(clouds)]) for d in range(2, 7)]
            print(f"| {noise:g} | {kind} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)


def _sign(kind: str, dimension: int, noise: float, seed: int) -> int:
    points = quadratic(kind, dimension, noise, np.random.default_rng([seed, dimension]))
    graph, map_ = graph_of(points)
    found = hw.curvature(points, graph, map_, null_points=0)
    value, error = found.curvature[0], found.uncertainty[0]
    return int(np.sign(value)) if abs(value) > 2 * error + 1e-6 else 0


def ollivier() -> None:
    """Mean over a point's edges of 1 - W1, in hops and by POT, between first steps of walks that stay with one half."""
    import ot
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    print("| surface | noise | Ollivier | seconds |\n|---|---|---|---|")
    for name, noise in itertools.product(SURFACES, NOISES):
        points, truth = cloud(name, noise, 0)
        graph, _ = graph_of(points)
        links = csr_array((np.ones(len(graph.indices)), graph.indices, graph.indptr), shape=(len(points),) * 2)
        hops, edges = shortest_path(links, unweighted=True), links.nonzero()
        around = np.split(graph.indices, graph.indptr[1:-1])
        shares = [np.where(near == row, 0.5, 0.5 / (len(near) - 1)) for row, near in enumerate(around)]
        total, count, began = np.zeros(len(points)), np.zeros(len(points)), time.perf_counter()
        for here, there in zip(*edges, strict=True):
            if here < there:
                far = np.ascontiguousarray(hops[np.ix_(around[here], around[there])])
                total[[here, there]] += 1 - ot.emd2(shares[here], shares[there], far)
                count[[here, there]] += 1
        pearson, spearman = _both(total / count, truth)
        print(
            f"| {name} | {noise:g} | {pearson:.3f} ({spearman:.2f}) | {time.perf_counter() - began:.0f} |", flush=True
        )


def dense(number: int = 5000) -> None:
    """Rows of P^8 as the stage pushes them, and by three squarings of the dense matrix."""
    graph, map_ = graph_of(tree.points(number))
    places, volume = map_.eigenvectors * map_.eigenvalues**8, np.ones(number)
    with compute.workers("threads") as workers:
        for ball in (1, 50):  # once for the compiler
            began = time.perf_counter()
            found = walk(graph, volume, places, 8, ball, 0.005, workers)
            sparse = time.perf_counter() - began
    began, rows = time.perf_counter(), np.zeros((number, number))
    rows[np.repeat(np.arange(number), np.diff(graph.indptr)), graph.indices] = graph.weights
    rows /= rows.sum(axis=1, keepdims=True)
    for _ in range(3):
        rows = rows @ rows
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(axis=1)
    near = np.argpartition(cdist(places, places), 50, axis=1)[:, :50]
    laziness = np.take_along_axis(rows, near, 1).mean(axis=1)
    seconds = time.perf_counter() - began
    print(f"{number} points: {sparse:.1f} s, dense {seconds:.1f} s (mean laziness {laziness.mean():.2g})")
    print(f"entropy off by {np.abs(found.entropy - entropy).max():.2g} nats at most, lost {found.lost.max():.4f}")


def bunny() -> None:
    """Rank correlation with the angle deficit over area, averaged over the points of a surface around each vertex."""
    lines = [line.split() for line in (DATA / "stanford-bunny.obj").read_text().splitlines()]
    points = np.array([line[1:4] for line in lines if line[:1] == ["v"]], float)
    faces = np.array([[part.split("/")[0] for part in line[1:4]] for line in lines if line[:1] == ["f"]], int) - 1
    corners = points[faces]
    deficit, area = np.full(len(points), 2 * np.pi), np.zeros(len(points))
    for corner in range(3):
        sides = [corners[:, (corner + step) % 3] - corners[:, corner] for step in (1, 2)]
        cross = np.linalg.norm(np.cross(*sides), axis=1)
        np.subtract.at(deficit, faces[:, corner], np.arctan2(cross, (sides[0] * sides[1]).sum(axis=1)))
        np.add.at(area, faces[:, corner], cross / 6)
    used = area > 0
    points, deficit, area = points[used], deficit[used], area[used]
    graph, map_ = graph_of(points)
    began = time.perf_counter()
    found = hw.curvature(points, graph, map_, null_points=0)
    seconds = time.perf_counter() - began
    print("| truth averaged over | combined | diffusion | quadric | pointwise | Forman |\n|---|---|---|---|---|---|")
    for width in (30, 100, 200):
        near = hw.neighbors(points, n_neighbors=width).indices
        truth = (deficit[near].sum(axis=1) + deficit) / (area[near].sum(axis=1) + area)
        estimates = (found.curvature, found.diffusion, found.quadric, found.laziness, forman(graph))
        print(f"| {width} vertices | " + " | ".join(f"{_both(each, truth)[1]:.3f}" for each in estimates) + " |")
    print(f"{len(points)} vertices, surfaces of dimension {found.chosen[0]} through {found.chosen[1]}, {seconds:.0f} s")


def days() -> None:
    """hues9's ten markers, arcsinh with cofactor 150: curvature by day, beside the error of a cell."""
    data = np.load(DATA / "hues9_timecourse.npz")
    names = [str(name) for name in data["channels"]]
    points = np.arcsinh(data["X"][:, [names.index(name) for name in MARKERS.split(",")]] / 150)
    graph, map_ = graph_of(points)
    began = time.perf_counter()
    found = hw.curvature(points, graph, map_)
    seconds = time.perf_counter() - began
    print("| day | cells | median curvature | quartiles | error of a cell | at an edge |\n|---|---|---|---|---|---|")
    for day in np.unique(data["day"]):
        own = data["day"] == day
        low, middle, high = np.nanquantile(found.curvature[own], (0.25, 0.5, 0.75))
        error, edge = np.nanmedian(found.uncertainty[own]), found.boundary[own].mean()
        print(f"| {day} | {own.sum():,} | {middle:.3f} | {low:.3f} to {high:.3f} | {error:.3f} | {edge:.2f} |")
    null = np.quantile(found.null, (0.05, 0.95)) if len(found.null) else "none"
    print(f"surfaces of dimension {found.chosen[0]} through {found.chosen[1]}, {seconds:.0f} s, flat sample {null}")
    print("agreement", dict(zip(found.scales.tolist(), found.agreement.round(2).tolist(), strict=True)))


def scale(numbers: list[int]) -> None:
    print("| cells | seconds | most mass lost | peak MiB of the process |\n|---|---|---|---|")
    for number in numbers:
        cells = tree.points(number)
        graph, map_ = graph_of(cells)
        began = time.perf_counter()
        found = hw.curvature(cells, graph, map_, null_points=0)
        seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {number:,} | {seconds:.0f} | {found.lost_mass.max():.4f} | {peak:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["surfaces", "signs", "bunny", "ollivier", "dense", "days", "scale"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--clouds", type=int, default=20)
    parser.add_argument("--noises", type=float, nargs="+", default=[0.0, 0.05], help="of signs")
    parser.add_argument("--classes", nargs="+", default=list(SIGNS), choices=list(SIGNS), help="of signs")
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 100_000])
    asked = parser.parse_args()
    parts = {"surfaces": (surfaces, asked.seeds), "scale": (scale, asked.cells)}
    parts["signs"] = (signs, asked.clouds, asked.noises, asked.classes)
    parts |= {"bunny": (bunny,), "ollivier": (ollivier,), "dense": (dense,), "days": (days,)}
    function, *options = parts[asked.part]
    function(*options)


if __name__ == "__main__":
    main()
