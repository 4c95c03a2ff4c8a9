"""Walks over data beside VAE, hyperspherical VAE, WGAN-GP and rejection sampling, in the same run.

python benchmarks/random_walk.py grid [--seeds 3] [--epochs 20]
python benchmarks/random_walk.py walks [--surfaces loop,sphere,torus,bunny] [--samples 3000]
python benchmarks/random_walk.py bilipschitz [--images 10000] [--seeds 10]
python benchmarks/random_walk.py digits [--images 10000]
python benchmarks/random_walk.py coil [--objects 3]
python benchmarks/random_walk.py days [--cells 10000]

grid: 25 Gaussians of spread .1 one apart; share of points farther than .4 from every centre, modes with a point within,
Sinkhorn divergence to fresh points over that of fresh against fresh. walks: from one seed point with noise .05 on the
surface; 95th percentile of the distance to it over that of the training points, and Sinkhorn over its floor by step.
bilipschitz: the local constant on MNIST, raw / after the one best scale of each method. digits: share of new digits
that a classifier takes for the seed's, by step. coil: an object of COIL-20 turned by 5 degrees 71 times, walked from
its first image; poses of the images nearest to new ones. --picture FILE: of both, a row for each step or object. days:
the days that cells near a walk from day 0 are of, by step.
"""

import argparse
import resource
import time

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, pdist

import heatwalk as hw
from heatwalk.generation_metrics import sinkhorn

GRID = np.stack(np.meshgrid(np.arange(5) - 2.0, np.arange(5) - 2.0), axis=-1).reshape(-1, 2)
NOISE = 0.05
STEPS = (1, 5, 10, 20)
KS = (3, 5, 10, 100, 1000)
MARKERS = ("CD43", "CD34", "CD90", "CD45RA", "CD31", "CD49f", "CD73", "CD45", "FLK1", "CD38")


def divergence(points, fresh, draw, rng) -> float:
    """Sinkhorn divergence to fresh points over its floor."""
    blur, count = 0.05 * float(np.median(pdist(fresh))), len(points)
    floor = np.mean([sinkhorn(draw(count, rng), draw(count, rng), blur) for _ in range(4)])
    return sinkhorn(np.asarray(points, float), fresh[:count], blur) / floor


def grid(given) -> None:
    from heatwalk.baselines.adversarial import rejection_sampler, wgan

    def draw(count, rng):
        return GRID[rng.integers(25, size=count)] + 0.1 * rng.normal(size=(count, 2))

    def walk(samples, seed):
        options = {"n_points": 1000, "n_components": 8, "latent": 8, "neighbors": 8, "epochs": given.epochs}
        options |= {"lengths": 0.0}  # a decoder that keeps lengths bridges gaps
        return hw.random_walk(samples, seed=seed, **options).points

    def wasserstein(samples, seed):
        made = wgan(samples, 2, steps=given.steps, width=256, layers=3, seed=seed)
        return made.decode(made.draw(1000, seed))

    def rejection(samples, seed):
        return rejection_sampler(samples, 2, steps=5 * given.steps, seed=seed)(1000, seed)

    print("| method | share in gaps, % | modes | Sinkhorn / floor | seconds |\n|---|---|---|---|---|")
    for name, method in (("heatwalk", walk), ("WGAN-GP", wasserstein), ("GAN + rejection", rejection)):
        rows = []
        for seed in range(given.seeds):
            rng = np.random.default_rng([seed, 98])
            samples, fresh = draw(2500, rng), draw(1000, rng)
            started = time.perf_counter()
            points = method(samples, seed)
            seconds = time.perf_counter() - started
            distances = cdist(points, GRID)
            in_gaps = 100 * (distances.min(axis=1) > 0.4).mean()
            modes = len(set(distances.argmin(axis=1)[distances.min(axis=1) <= 0.4]))
            rows.append([in_gaps, modes, divergence(points, fresh, draw, rng), seconds])
        line(name, rows, ("{:.2f}", "{:.1f}", "{:.2f}", "{:.0f}"))


def line(name: str, rows: list, forms: tuple[str, ...]) -> None:
    mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
    pairs = zip(forms, mean, spread, strict=True)
    print(
        f"| {name} | " + " | ".join(f"{form.format(m)} ± {form.format(s)}" for form, m, s in pairs) + " |", flush=True
    )


def curve(t):
    return np.column_stack([np.cos(t), np.sin(2 * t), np.sin(3 * t)])


def loop(count, rng):
    t = np.linspace(0, 2 * np.pi, 20_001)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve(t), axis=0), axis=1))])
    return curve(np.interp(rng.uniform(0, length[-1], count), length, t))


def sphere(count, rng):
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def torus(count, rng):
    inner = rng.uniform(0, 2 * np.pi, 3 * count + 100)
    inner = inner[3 * rng.uniform(size=len(inner)) < 2 + np.cos(inner)][:count]
    outer, ring = rng.uniform(0, 2 * np.pi, count), 2 + np.cos(inner)
    return np.column_stack([ring * np.cos(outer), ring * np.sin(outer), np.sin(inner)])


def bunny_faces():
    import os
    from pathlib import Path

    lines = (Path(os.environ["HEATWALK_DATA"]) / "stanford-bunny.obj").read_text().splitlines()
    places = np.array([text.split()[1:4] for text in lines if text.startswith("v ")], float)
    faces = [[int(part.split("/")[0]) - 1 for part in text.split()[1:4]] for text in lines if text.startswith("f ")]
    return ((places - places.mean(axis=0)) / places.std())[np.array(faces)]


def on_faces(corners, count, rng):
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    u = np.sort(rng.uniform(size=(count, 2)), axis=1)
    shares = np.stack([u[:, 0], u[:, 1] - u[:, 0], 1 - u[:, 1]], axis=1)
    return np.einsum("ij,ijk->ik", shares, corners[rng.choice(len(corners), count, p=area / area.sum())])


def surface(name: str):
    """Draws, the distance to the surface, and the options of the walk."""
    if name == "bunny":
        corners = bunny_faces()
        tree = cKDTree(on_faces(corners, 400_000, np.random.default_rng(0)))
        return lambda count, rng: on_faces(corners, count, rng), lambda points: tree.query(points)[0], {"reach": 10.0}
    if name == "loop":
        tree = cKDTree(curve(np.linspace(0, 2 * np.pi, 400_001)))
        return loop, lambda points: tree.query(points)[0], {"n_components": 4, "latent": 4, "reach": 10.0}
    if name == "sphere":
        return sphere, lambda points: np.abs(np.linalg.norm(points, axis=1) - 1), {"n_components": 3, "latent": 3}
    return torus, lambda points: np.abs(np.hypot(np.hypot(*points[:, :2].T) - 2, points[:, 2]) - 1), {"reach": 10.0}


def walks(given) -> None:
    print("| surface | " + " | ".join(f"off / training, step {s}" for s in STEPS), end=" | ")
    print(" | ".join(f"Sinkhorn / floor, step {s}" for s in STEPS), "| mixed after | copies | seconds |")
    print("|---" * (2 * len(STEPS) + 4) + "|")
    for name in given.surfaces.split(","):
        (draw, off, own), rows = surface(name), []
        for seed in range(given.seeds):
            rng = np.random.default_rng([seed, 97])
            samples, fresh = draw(given.samples, rng), draw(1000, rng)
            samples += NOISE * rng.normal(size=samples.shape)
            options = {"n_components": 8, "latent": 8, "neighbors": 85, "reach": 4.0, "epochs": given.epochs}
            options |= {"encoder": given.encoder, "lengths": given.lengths, **own}
            started = time.perf_counter()
            made = hw.random_walk(samples, seeds=[0], steps=20, kept="all", noise=False, seed=seed, **options)
            seconds = time.perf_counter() - started
            at, usual = {s: made.points[made.step == s] for s in STEPS}, np.quantile(off(samples), 0.95)
            far = [np.quantile(off(at[s]), 0.95) / usual for s in STEPS]
            held = draw(2000, rng) + NOISE * rng.normal(size=(2000, 3))
            bound = np.quantile(cdist(held, samples).min(axis=1), 0.05)
            copies = (cdist(at[20], samples).min(axis=1) < bound).mean()
            settled = (np.nan_to_num(made.mixing, nan=9).max(axis=1) < 1.05 + 1 / np.sqrt(1000)).nonzero()[0]
            mixed = settled[0] + 1 if len(settled) else np.inf
            rows.append([*far, *(divergence(at[s], fresh, draw, rng) for s in STEPS), mixed, copies, seconds])
        line(name, rows, ("{:.2f}",) * 2 * len(STEPS) + ("{:.0f}", "{:.3f}", "{:.0f}"))


def mnist(count: int):
    import os
    from pathlib import Path

    with np.load(Path(os.environ["HEATWALK_DATA"]) / "mnist.npz") as file:
        names = sorted(file.files)
        images = next(file[name] for name in names if file[name].ndim == 3 and len(file[name]) == 60_000)
        labels = next(file[name] for name in names if file[name].ndim == 1 and len(file[name]) == 60_000)
        tests = [file[name] for name in names if len(file[name]) == 10_000]
    tests.sort(key=lambda array: -array.ndim)  # images, labels
    rows = np.random.default_rng(0).permutation(60_000)
    images, labels = np.concatenate([images[rows], tests[0]]), np.concatenate([labels[rows], tests[1]])
    return images.reshape(70_000, -1) / np.float32(255), labels, slice(0, count)


def bilipschitz(given) -> None:
    from heatwalk.baselines.adversarial import wgan
    from heatwalk.baselines.variational import hyperspherical_vae, vae
    from heatwalk.walker import places, points_at

    images, _, train = mnist(given.images)
    samples, epochs = images[train].astype(np.float64), max(1, 60_000 * given.passes // given.images)

    def walk(seed):
        options = {"n_components": given.components, "epochs": given.epochs, "neighbors": given.neighbors}
        options |= {"lengths": given.lengths}
        walker = hw.random_walk(samples, n_points=10, seed=seed, latent=given.latent, **options).walker
        latent = places(walker, samples)
        return float(walker.unit) * latent, points_at(walker, latent)

    def encoded(method):
        def both(seed):
            made = method(samples, 10, epochs=epochs, seed=seed)
            latent = made.encode(samples)
            return latent, made.decode(latent)

        return both

    def drawn(seed):
        made = wgan(samples, 10, steps=given.steps, seed=seed)
        latent = made.draw(len(samples), seed)
        return latent, made.decode(latent)

    methods = {"VAE": encoded(vae), "SVAE": encoded(hyperspherical_vae), "WGAN": drawn, "heatwalk": walk}
    print("| method | " + " | ".join(f"k={k}" for k in KS), "|\n" + "|---" * (len(KS) + 1) + "|")
    for name in given.methods.split(","):
        raw, best, left = [], [], []
        for seed in range(given.seeds):
            latent, data = methods[name](seed)
            left.append(((data - samples) ** 2).sum() / ((samples - samples.mean(axis=0)) ** 2).sum())
            pick = np.random.default_rng(seed).permutation(len(latent))[: given.points]
            found = [hw.bilipschitz(latent[pick], data[pick], k=k) for k in KS]
            raw.append([one.constants.mean() for one in found])
            best.append([one.rescaled.mean() for one in found])
        line(f"{name}, raw", raw, ("{:.2f}",) * len(KS))
        line(f"{name}, rescaled", best, ("{:.2f}",) * len(KS))
        if name != "WGAN":
            print(f"{name}: {np.mean(left):.3f} of the images' variance is left by encoding and decoding")


def classifier(images, labels):
    """`told(images)` digits, by a small convolutional network."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5)]
    layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 128), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(128, 10))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    values, wanted = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    for _ in range(1 + 200_000 // len(values)):
        for rows in torch.randperm(len(values)).split(128):
            loss = nn.functional.cross_entropy(network(values[rows]), wanted[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()

    def told(images):
        with torch.inference_mode():
            parts = torch.from_numpy(np.asarray(images, np.float32)).split(1000)
            return torch.cat([network(part).argmax(1) for part in parts]).numpy()

    return told


def digits(given) -> None:
    from heatwalk.walker import places, points_at

    images, labels, train = mnist(given.images)
    told = classifier(images[given.images :], labels[given.images :])  # on images that the walk never sees
    started = time.perf_counter()
    options = {"steps": 8, "kept": "all", "noise": False, "epochs": given.epochs, "neighbors": given.neighbors}
    options |= {"n_components": given.components, "latent": given.latent, "reach": given.reach}
    options |= {"batch": given.batch, "encoder": given.encoder, "lengths": given.lengths}
    samples = images[train].astype(np.float64)
    made = hw.random_walk(samples, n_points=2000, seeds=list(range(2000)), **options)
    decoded = points_at(made.walker, places(made.walker, samples[:2000]))
    found, still, known = told(made.points), told(decoded), told(images[:2000])
    print("| step | share that keeps the digit, % |\n|---|---|")
    print(f"| the image itself | {100 * (known == labels[:2000]).mean():.1f} |")
    print(f"| 0, encoded and decoded | {100 * (still == labels[:2000]).mean():.1f} |")
    kept = found == labels[made.seeds]
    for step in range(1, 9):
        print(f"| {step} | {100 * kept[made.step == step].mean():.1f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{time.perf_counter() - started:.0f} s, {peak:.2f} GiB at most")
    if given.picture:
        walked = [made.points[made.step == step][:400:20] for step in range(1, 9)]
        show(given.picture, np.stack([samples[:400:20], decoded[:400:20], *walked]).reshape(10, -1, 28, 28))


def show(path: str, images: np.ndarray) -> None:
    """Images, (row, column, height, width), as one picture without gaps."""
    from matplotlib import image

    rows, columns, height, width = images.shape
    whole = images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    image.imsave(path, whole, cmap="gray", vmin=0, vmax=1)


def coil(given) -> None:
    import os
    from pathlib import Path

    with np.load(Path(os.environ["HEATWALK_DATA"]) / "coil20.npz") as file:
        pixels, objects, poses = (file[name] for name in ("X", "obj", "pose"))
    pixels = pixels.reshape(-1, 32, 4, 32, 4).mean(axis=(2, 4)) / 255
    print("| object | step | poses near, of 72 | mean direction | off / apart | seconds |\n|---|---|---|---|---|---|")
    shown = []
    for number in range(given.objects):
        at = np.flatnonzero(objects == number + 1)
        frames = pixels[at[np.argsort(poses[at])]].reshape(72, -1)
        options = {"n_components": 8, "latent": 4, "neighbors": 5, "batch": 32, "reach": given.reach, "noise": False}
        started = time.perf_counter()
        made = hw.random_walk(frames, seeds=[0], steps=20, kept="all", epochs=given.epochs, **options)
        seconds = time.perf_counter() - started
        apart = np.median(np.linalg.norm(frames - np.roll(frames, 1, axis=0), axis=1))
        for step in STEPS:
            near, off = made.nearest[made.step == step], made.distances[made.step == step]
            direction = np.abs(np.exp(2j * np.pi * near / 72).mean())
            print(
                f"| {number} | {step} | {len(set(near))} | {direction:.2f} | {np.quantile(off, 0.95) / apart:.2f} | "
                f"{seconds:.0f} |",
                flush=True,
            )
        shown.append(made.points[made.burst == 0].reshape(-1, 32, 32))
    if given.picture:
        show(given.picture, np.stack(shown))


def days(given) -> None:
    import os
    from pathlib import Path

    with np.load(Path(os.environ["HEATWALK_DATA"]) / "hues9_timecourse.npz") as file:
        day = file["day"]
        values = file["X"][:, np.isin(file["channels"], MARKERS)]
    rows = np.random.default_rng(0).permutation(len(day))[: given.cells]
    values, day = np.arcsinh(values[rows].astype(np.float64) / 150), day[rows]
    seeds = np.flatnonzero(day == 0)[:1000].tolist()
    made = hw.random_walk(values, seeds=seeds, steps=40, kept="all", epochs=given.epochs)
    print(
        "| step | " + " | ".join(f"day {d}" for d in np.unique(day)), "|\n" + "|---" * (len(np.unique(day)) + 1) + "|"
    )
    for step in (1, 2, 5, 10, 20, 40):
        near = day[made.nearest[made.step == step]]
        print(f"| {step} | " + " | ".join(f"{100 * (near == d).mean():.0f}%" for d in np.unique(day)), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("grid", "walks", "bilipschitz", "digits", "coil", "days"))
    parser.add_argument("--surfaces", default="loop,sphere,torus,bunny")
    parser.add_argument("--methods", default="VAE,SVAE,WGAN,heatwalk")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of a walk's training, 100 updates each")
    parser.add_argument("--steps", type=int, default=3000, help="of an adversarial training")
    parser.add_argument("--passes", type=int, default=10, help="of a VAE's training over as many as 60,000 images")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--neighbors", type=int, default=16)
    parser.add_argument(
        "--lengths", type=float, default=10.0, help="weight of keeping them: walks, bilipschitz, digits"
    )
    parser.add_argument("--encoder", default="deep_diffusion_map", help="of walks and digits; or spectralnet")
    parser.add_argument("--batch", type=int, default=256, help="of a walk over digits")
    parser.add_argument("--components", type=int, default=32, help="diffusion coordinates of digits")
    parser.add_argument("--latent", type=int, default=10, help="coordinates of a walk over digits")
    parser.add_argument("--reach", type=float, default=1.0, help="of its steps")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=10_000, help="that the constant is taken over")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--picture", default="", help="where one of images goes")
    given = parser.parse_args()
    {"grid": grid, "walks": walks, "bilipschitz": bilipschitz, "digits": digits, "coil": coil, "days": days}[
        given.what
    ](given)


if __name__ == "__main__":
    main()
