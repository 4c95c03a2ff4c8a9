"""What does each formula for a heat kernel cost, and where is it right, by space, dimension and time?

    python benchmarks/heat_kernel.py [--part spheres su] [--plot crossing.png]

Errors in log p are the largest at five quantiles (1e-6 to 1 - 1e-6) of the distance at that time, beside arbitrary
precision. `heatwalk` is log_kernel with the gradient; `eigenfunctions` is the plain sum in float64 with its derivative,
of as many terms as reach 1e-16 of the largest; `digits` is what that sum needs in arbitrary precision for 1e-10, and
`ms` its time for one pair by mpmath; `Varadhan` is -r^2/2t - (d/2) log 2 pi t; `leading` has the volume's root beside
it, `corrected` also e^{S t / 12}, S the scalar curvature. Microseconds are per pair of 20,000, on one thread, the
shortest of three runs. The plot has the errors over time.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import mpmath as mp
import numpy as np

from heatwalk.spaces import SU, radial_law, sphere_kernel, su, su_kernel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import heat_kernel_reference as reference

QUANTILES = [1e-6, 1e-2, 0.5, 0.99, 1 - 1e-6]
PAIRS = 20_000
SPHERES = (2, 3, 10, 127, 511)
TIMES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


def microseconds(call) -> float:
    """Per pair, the shortest of three runs after one that compiles."""
    call()
    found = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found) / PAIRS * 1e6


def line(*fields) -> None:
    print("| " + " | ".join(str(field) for field in fields) + " |")


def shown(error: float) -> str:
    return f"{error:.0e}" if np.isfinite(error) else "NaN"


# ---- spheres -------------------------------------------------------------------------------------------------------


def sphere_terms(d: int, t: float) -> int:
    """Eigenfunctions until the bound dim_l e^{-l(l+d-1)t/2} is 1e-16 of its largest."""
    logs, log_dimension, degree = [], math.log(d + 1), 1
    while not logs or logs[-1] > max(logs) - 37 or degree < 4:
        logs.append(log_dimension - degree * (degree + d - 1) * t / 2)
        log_dimension += math.log((2 * degree + d + 1) * (degree + d - 1) / ((2 * degree + d - 1) * (degree + 1)))
        degree += 1
    return degree


def approximations(d: int, theta, t: float) -> dict:
    """Varadhan's, and the first terms of the expansion for small times."""
    varadhan = -(theta**2) / (2 * t) - d / 2 * math.log(2 * math.pi * t)
    leading = varadhan + (d - 1) / 2 * np.log(theta / np.sin(theta))
    return {"Varadhan": varadhan, "leading": leading, "corrected": leading + d * (d - 1) * t / 12}


def sphere_errors(d: int, t: float) -> tuple[dict, float]:
    """Largest error of every formula, and the digits that the plain sum needs."""
    theta, density, _ = (part[0] for part in radial_law.table(d, np.array([t])))
    theta = theta[np.searchsorted(np.cumsum(density) / density.sum(), QUANTILES)]
    times = np.full(len(theta), t)
    expected = np.array([float(reference.sphere(d, angle, t)[0]) for angle in theta])
    with np.errstate(all="ignore"):
        plain = sphere_kernel.by_eigenfunctions(d, theta, times, np, sphere_terms(d, t))[0]
    found = {"heatwalk": sphere_kernel.log_kernel(d, theta, times, np)[0], "eigenfunctions": plain}
    found |= approximations(d, theta, t)
    largest = max(0.0, *sphere_logs(d, t)) - sphere_kernel.log_volume(d)
    return {name: np.abs(values - expected).max() for name, values in found.items()}, largest - expected.min()


def sphere_logs(d: int, t: float) -> list[float]:
    log_dimension, logs = math.log(d + 1), []
    for degree in range(1, sphere_terms(d, t)):
        logs.append(log_dimension - degree * (degree + d - 1) * t / 2)
        log_dimension += math.log((2 * degree + d + 1) * (degree + d - 1) / ((2 * degree + d - 1) * (degree + 1)))
    return logs


def spheres() -> None:
    line("d", "t", "heatwalk", "us", "nodes", "eigenfunctions", "us", "terms", "digits", "ms", *list(ROUGH))
    line(*["---"] * (10 + len(ROUGH)))
    for d in SPHERES:
        for t in TIMES:
            errors, lost = sphere_errors(d, t)
            theta, times = np.linspace(1e-3, min(3.0, 2 * math.sqrt(d * t)), PAIRS), np.full(PAIRS, t)
            terms, digits = sphere_terms(d, t), int(lost / math.log(10)) + 10
            late = (d + 1) * math.exp(-d * t / 2) <= 0.5
            own = microseconds(lambda d=d, a=theta, s=times: sphere_kernel.log_kernel(d, a, s, np))
            with np.errstate(all="ignore"):
                plain = microseconds(
                    lambda d=d, a=theta, s=times, n=terms: blockwise(sphere_kernel.by_eigenfunctions, d, a, s, n)
                )
            start = time.perf_counter()
            with mp.workdps(digits):
                reference._sphere_sum(d, mp.mpf(float(theta[PAIRS // 2])), mp.mpf(t))
            single = (time.perf_counter() - start) * 1e3
            nodes = "eigenfunctions" if late else sphere_kernel.nodes(d) + 1
            fields = [shown(errors["heatwalk"]), f"{own:.2f}", nodes, shown(errors["eigenfunctions"]), f"{plain:.2f}"]
            line(d, f"{t:g}", *fields, terms, digits, f"{single:.1f}", *(shown(errors[name]) for name in ROUGH))


ROUGH = ("Varadhan", "leading", "corrected")


def blockwise(formula, d: int, theta, times, terms: int) -> None:
    """In blocks that fit a cache, as heatwalk's own."""
    for start in range(0, PAIRS, 5000):
        formula(d, theta[start : start + 5000], times[start : start + 5000], np, terms)


# ---- SU(n) ---------------------------------------------------------------------------------------------------------


def su_parts(n: int, t: float) -> int:
    """First parts of the partitions whose characters reach 1e-16 of the largest."""
    return int(math.sqrt(2 * (2 * 42 / t + 3))) + 2


def su_rows(n: int) -> None:
    space, rng = SU(n), np.random.default_rng(0)
    one = np.eye(n) + 0j
    for t in TIMES[1:]:
        y = space.sample_heat_kernel(one, t, rng=rng, size=PAIRS)
        angles = su.spectrum(y, np)[0]
        few = angles[:5]
        times = np.full(PAIRS, t)
        expected = np.array([float(reference.su(tuple(map(float, a)), t)[0]) for a in few])
        found = su_kernel.log_kernel(few, times[:5], np)[0]
        own = microseconds(lambda a=angles, s=times: su_kernel.log_kernel(a, s, np))
        parts = su_parts(n, t)
        characters = math.comb(parts + n - 1, n - 1)
        error, plain = float("nan"), float("nan")
        if characters < 3000:
            some = 200
            start = time.perf_counter()
            su_kernel.by_characters(angles[:some], times[:some], np, parts)
            plain = (time.perf_counter() - start) / some * 1e6
            error = np.abs(su_kernel.by_characters(few, times[:5], np, parts)[0] - expected).max()
        length, dimension = (few**2).sum(1), n * n - 1
        varadhan = -length / (2 * t) - dimension / 2 * math.log(2 * math.pi * t)
        rough = np.abs(varadhan - expected).max()
        fields = [f"{plain:.1f}" if plain == plain else "", characters, shown(rough)]
        line(f"SU({n})", f"{t:g}", shown(np.abs(found - expected).max()), f"{own:.2f}", shown(error), *fields)


def unitary() -> None:
    line("space", "t", "heatwalk", "us", "characters", "us", "number of characters", "Varadhan")
    line(*["---"] * 8)
    for n in (2, 3, 4):
        su_rows(n)


# ---- crossing ------------------------------------------------------------------------------------------------------


def plot(path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), sharey=True)
    times = np.geomspace(1e-3, 10, 25)
    for axis, d in zip(axes, (2, 127, 511), strict=True):
        found = [sphere_errors(d, t)[0] for t in times]
        for name in found[0]:
            axis.loglog(times, [max(errors[name], 1e-16) for errors in found], label=name)
        axis.set(title=f"S^{d}", xlabel="t", ylim=(1e-16, 1e3))
        axis.axhline(1e-8, color="grey", linewidth=0.5)
    axes[0].set_ylabel("error in log p")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", nargs="+", choices=["spheres", "su"], default=["spheres", "su"])
    parser.add_argument("--plot", help="file for the picture of the crossings")
    arguments = parser.parse_args()
    for name, part in (("spheres", spheres), ("su", unitary)):
        if name in arguments.part:
            part()
            print()
    if arguments.plot:
        plot(arguments.plot)


if __name__ == "__main__":
    main()
