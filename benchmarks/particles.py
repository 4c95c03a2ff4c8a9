"""New points by diffusion map particle systems, beside SVGD, ULA, a score model and a memoriser.

python benchmarks/particles.py [--targets moons,square] [--seeds 10] [--samples 1000] [--particles 500]
python benchmarks/particles.py --cost --targets circle --samples 100000 --particles 10000
python benchmarks/particles.py --sees 5,10,20,40,80 [--targets moons,square,circle] [--seeds 3]
python benchmarks/particles.py --modes --targets grid,mixture --samples 10000 --particles 2500 [--seeds 3]

Prints, for every target, the Sinkhorn divergence to fresh points (blur .05 of the median distance) over that of fresh
points against fresh points, mean and standard deviation over seeds; the same of the exact W2^2; memorisation (share
nearer to a training sample than 95% of fresh points are; a method passes up to .10); the root mean square distance to
the surface over the truth's, where it is known; and seconds. All points count, flagged ones too. `first described` is
the particle system as published; LAWGD knows the density of the Gaussian. --cost: seconds, steps and
the peak memory of the process alone, for one call of `hw.particles`. --sees: particles alone, for numbers of samples
that the median sample sees, by which the bandwidth is chosen. --modes: least and largest share of particles in a mode
over that of the samples, and the share farther than 4 standard deviations from every centre, flagged ones left out.
"""

import argparse
import itertools
import resource
import time
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist, pdist

import heatwalk as hw
from heatwalk.baselines.averaged_particles import averaged_particles
from heatwalk.baselines.jitter import jitter
from heatwalk.baselines.langevin import svgd, ula
from heatwalk.baselines.lawgd import lawgd, spectrum
from heatwalk.baselines.score_model import score_model
from heatwalk.generation_metrics import sinkhorn, w2_squared

PAIRS = 10


SHEAR = np.array([[1, 0.5], [0, 0.8]])


def gaussian(count, rng):
    return rng.normal(size=(count, 2)) @ SHEAR


def moons(count, rng):
    angle, which = rng.uniform(0, np.pi, count), rng.integers(2, size=count)
    sign = 1 - 2 * which
    points = np.column_stack([np.cos(angle) * sign + which, np.sin(angle) * sign + which / 2])
    return points + 0.05 * rng.normal(size=points.shape)


def square(count, rng):
    points = rng.uniform(-1, 1, size=(3 * count + 100, 2))
    return points[np.abs(points).max(axis=1) > 0.5][:count]


def circle(count, rng):
    angle, points = rng.uniform(0, 2 * np.pi, count), 0.02 * rng.normal(size=(count, 20))
    points[:, :2] += np.column_stack([np.cos(angle), np.sin(angle)])
    return points


def shell(dimension):
    def draw(count, rng):
        points = rng.normal(size=(count, dimension))
        radius = np.sqrt(rng.uniform(size=count)) / 100 + 0.99
        return points * (radius / np.linalg.norm(points, axis=1))[:, None]

    return draw


def semi_sphere(dimension):
    def draw(count, rng):
        points = shell(dimension)(count, rng)
        points[:, 0] = np.abs(points[:, 0])
        return points

    return draw


GRID = np.column_stack([np.arange(25) // 5, np.arange(25) % 5]) - 2.0
CENTRES = 3 * np.random.default_rng(5).normal(size=(8, 10))
SPREAD = {"grid": 0.1, "mixture": 0.5}


def grid(count, rng):
    return GRID[rng.integers(25, size=count)] + 0.1 * rng.normal(size=(count, 2))


def mixture(count, rng):
    return CENTRES[rng.integers(8, size=count)] + 0.5 * rng.normal(size=(count, 10))


TARGETS = {"gaussian": gaussian, "moons": moons, "square": square, "circle": circle, "grid": grid, "mixture": mixture}
TARGETS |= {f"shell_{d}": shell(d) for d in (2, 3, 10, 30, 100)}
TARGETS |= {f"semi_sphere_{d}": semi_sphere(d) for d in (2, 3, 10, 30, 100)}
METHODS = {
    "particles": lambda samples, count, seed: hw.particles(samples, n_particles=count, seed=seed).points,
    "first described": lambda samples, count, seed: averaged_particles(samples, count, seed=seed),
    "score model": lambda samples, count, seed: score_model(samples, count, seed=seed),
    "ULA": lambda samples, count, seed: ula(samples, count, seed=seed),
    "SVGD": lambda samples, count, seed: svgd(samples, count, seed=seed),
    "jitter": lambda samples, count, seed: jitter(samples, count, seed=seed),
    "LAWGD": lambda samples, count, seed: by_lawgd(samples, count, seed),
}


def by_lawgd(samples: np.ndarray, count: int, seed: int) -> np.ndarray:
    """With what it has to know: the density of `gaussian`."""
    back = np.linalg.inv(SHEAR)
    made = spectrum(lambda x: -((x @ back) ** 2).sum(axis=1) / 2, [np.linspace(-5, 5, 103)] * 2, 60)
    rng = np.random.default_rng(seed)
    return lawgd(made, samples.mean(axis=0) + samples.std(axis=0) * rng.normal(size=(count, 2)))


def off_surface(target: str, points: np.ndarray) -> float:
    """Root mean square distance to the circle or the unit sphere; NaN elsewhere."""
    if target == "circle":
        radial = np.linalg.norm(points[:, :2], axis=1) - 1
        return float(np.sqrt((radial**2 + (points[:, 2:] ** 2).sum(axis=1)).mean()))
    if target.startswith(("shell", "semi")):
        return float(np.sqrt(((np.linalg.norm(points, axis=1) - 1) ** 2).mean()))
    return np.nan


def figures(target: str, seed: int, n_samples: int, n_particles: int, methods: dict) -> dict[str, list[float]]:
    draw, rng = TARGETS[target], np.random.default_rng([seed, 99])
    samples, fresh, held = (draw(count, rng) for count in (n_samples, n_particles, 2000))
    blur = 0.05 * float(np.median(pdist(fresh)))
    pairs = [(draw(n_particles, rng), draw(n_particles, rng)) for _ in range(PAIRS)]
    floor = np.mean([(sinkhorn(*pair, blur), w2_squared(*pair)) for pair in pairs], axis=0)
    bound = np.quantile(cdist(held, samples).min(axis=1), 0.05)
    truth, rows = off_surface(target, held), {}
    for name, method in methods.items():
        started = time.perf_counter()
        points = method(samples, n_particles, seed)
        seconds = time.perf_counter() - started
        distances = np.array([sinkhorn(points, fresh, blur), w2_squared(points, fresh)]) / floor
        copies = float((cdist(points, samples).min(axis=1) < bound).mean())
        rows[name] = [*distances, copies, off_surface(target, points) / truth, seconds]
    return rows | {"floor": [*floor, 0.05, 1.0, 0.0]}


def seeing(number: float, samples: np.ndarray, count: int, seed: int) -> np.ndarray:
    return hw.particles(samples, n_particles=count, effective_samples=number, seed=seed).points


def modes(target: str, seed: int, n_samples: int, n_particles: int) -> list[float]:
    """Least and largest share of a mode beside the samples', share far from all (flagged left out), flagged share."""
    centres, rng = {"grid": GRID, "mixture": CENTRES}[target], np.random.default_rng([seed, 99])
    samples = TARGETS[target](n_samples, rng)
    found = hw.particles(samples, n_particles=n_particles, seed=seed)
    own = [np.bincount(cdist(each, centres).argmin(axis=1), minlength=len(centres)) for each in (found.points, samples)]
    shares = (own[0] / n_particles) / (own[1] / n_samples)
    far = cdist(found.points[~found.flagged], centres).min(axis=1) > 4 * SPREAD[target]
    return [shares.min(), shares.max(), float(far.mean()), float(found.flagged.mean())]


def cost(target: str, n_samples: int, n_particles: int) -> None:
    samples = TARGETS[target](n_samples, np.random.default_rng(0))
    began = time.perf_counter()
    found = hw.particles(samples, n_particles=n_particles)
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{target}: {seconds:.0f} s, {len(found.energy) - 1} steps, {peak:.2f} GiB, {found.flagged.mean():.3f} flagged"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--modes", action="store_true")
    parser.add_argument("--sees", help="numbers of samples, with commas between")
    given = parser.parse_args()
    chosen = {name: METHODS[name] for name in given.methods.split(",")}
    if given.sees:
        chosen = {f"sees {number}": partial(seeing, float(number)) for number in given.sees.split(",")}
    if given.modes:
        print("| target, seed | least share | largest share | far | flagged |\n|---|---|---|---|---|")
        for target, seed in itertools.product(given.targets.split(","), range(given.seeds)):
            values = modes(target, seed, given.samples, given.particles)
            print(f"| {target}, {seed} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)
        return
    if given.cost:
        for target in given.targets.split(","):
            cost(target, given.samples, given.particles)
        return
    print("| target | method | Sinkhorn / floor | W2^2 / floor | memorisation | off the surface / truth | seconds |")
    print("|---|---|---|---|---|---|---|")
    for target in given.targets.split(","):
        methods = {name: method for name, method in chosen.items() if name != "LAWGD" or target == "gaussian"}
        found = [figures(target, seed, given.samples, given.particles, methods) for seed in range(given.seeds)]
        floor = np.mean([rows["floor"] for rows in found], axis=0)
        print(f"| {target} | floor | {floor[0]:.4g} | {floor[1]:.4g} | .05 | 1 | |")
        for name in methods:
            values = np.array([rows[name] for rows in found])
            mean, spread = values.mean(axis=0), values.std(axis=0)
            first = " | ".join(f"{mean[k]:.2f} ± {spread[k]:.2f}" for k in range(3))
            print(f"| {target} | {name} | {first} | {mean[3]:.2f} | {mean[4]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
