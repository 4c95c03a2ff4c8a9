"""Rounds of training of a deep diffusion map: the best linear layer, fresh targets, and a fit of all other weights."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from heatwalk import checkpoints, compute, fitting, galerkin
from heatwalk.conjugate import Conjugate
from heatwalk.errors import BadInput, Problem
from heatwalk.fitting import Regression
from heatwalk.networks import Description, Network, most_prototypes
from heatwalk.progress import log, track

_WIDTH, _BLOCKS = 64, 3
_CELLS_A_PROTOTYPE = 3
_KMEANS_POINTS = 256  # a prototype
_KMEANS_ROUNDS = 10
_FEWEST_POINTS = 2  # that a prototype is the mean of
_NEAREST = 3  # prototypes whose mean distance is the width of one
_WIDTHS = (0.7, 1.0, 1.4, 2.0, 2.8)  # times that, of which the best is taken
_CUTS = (1e-6, 1e-5, 1e-4, 1e-3)  # of squared singular values of the features, likewise
_TRIAL_CELLS = 20_000  # that the choice is made on
_TRIAL_VECTORS = 32
_ROWS = 2**11  # items whose features are computed at a time: more leave the caches
_STEPS_TOGETHER = 50  # of L-BFGS a round
_FEWEST_STEPS, _EPOCHS = 300, 2  # of Adam a round
_PARTS = ("network.", "before.")  # of a checkpoint
_SETTLED = 1e-8  # of the energy: a round that gains less is the last


class State(NamedTuple):
    network: Network
    before: dict[str, torch.Tensor]  # its weights before the last fit
    energy: list[float]  # after every round so far
    cut: float  # of the features' directions, see `galerkin.ritz`


class Trained(NamedTuple):
    network: Network
    ritz: galerkin.Ritz
    energy: list[float]


def description(
    shape: tuple[int, ...], kind: str, n_components: int, prototypes: int, t: int, one_width: bool = False
) -> Description:
    """What kind of network fits items of this shape, with as many prototypes as cells and size allow."""
    kinds = {2: "table", 3: "sequence", 4: "image"}
    item = tuple(int(length) for length in shape[1:])
    if kind not in ("auto", "table", "sequence", "image") or (kind == "auto" and len(shape) not in kinds):
        cause = f"{kind!r} is no network for points of shape {shape}"
        raise BadInput(Problem("HW-NN-008", "network", cause, "use auto, table, sequence or image"))
    kind = kinds[len(shape)] if kind == "auto" else kind
    if kind == "table":
        item = (int(np.prod(item)),)
    elif kind != kinds.get(len(shape)):
        cause = f"a network for a {kind} and points of shape {shape}"
        axes = "(cell, length, channel)" if kind == "sequence" else "(cell, height, width, channel)"
        raise BadInput(Problem("HW-NN-008", "network", cause, f"give points as {axes}, or set network to table"))
    most = max(1, min(prototypes, shape[0] // _CELLS_A_PROTOTYPE))
    asked = Description(kind, item, int(n_components), int(most), _WIDTH, _BLOCKS, int(t), one_width)
    return asked._replace(prototypes=most_prototypes(asked))


def trained(
    values: np.ndarray,
    matrix: Conjugate,
    described: Description,
    *,
    rounds: int,
    seed: int,
    together: bool,
    checkpoint: Path | None,
    workers: compute.Workers,
    device: str = "cpu",
) -> Trained:
    """values: (position, value) float32; together: every step sees all cells, in double precision.

    device: where the network is; the graph stays on the CPU. On another one sums differ in their last bits.
    """
    operator, dtype = galerkin.walk(matrix, workers), torch.float64 if together else torch.float32
    with fitting.one_torch_thread():
        key = _key(values, matrix, described, seed, rounds) if checkpoint else ""
        state = _resumed(checkpoint, key, described, dtype) or _started(values, operator, described, seed, dtype)
        network, energy = state.network.to(device), state.energy
        points = torch.from_numpy(values).to(device, dtype)
        for done in range(len(energy), rounds + 1):
            ritz = _best_linear(state, values, operator)
            energy.append(float((ritz.values**2).sum()))
            log.info("deep_diffusion_map: round %d of %d: energy %.8g", done, rounds, energy[-1])
            if done and energy[-1] < energy[-2]:  # a fit to targets of before may overshoot: the round does not count
                network.load_state_dict(state.before)
                ritz = _best_linear(state, values, operator)
                energy.pop()
                break
            if done == rounds or (done and energy[-1] - energy[-2] < _SETTLED * energy[-1]):
                break
            state.before.update({name: value.clone() for name, value in network.state_dict().items()})
            _fit(network, ritz, points, operator, [seed, 2, done], together)
            _save(checkpoint, key, state)
        if checkpoint:
            checkpoint.unlink(missing_ok=True)
    return Trained(network.float().cpu(), ritz, energy)


def outputs(network: Network, values: np.ndarray, workers: compute.Workers) -> np.ndarray:
    """(position, mode) float32."""
    from heatwalk.networks import applied

    with fitting.one_torch_thread():
        made = workers.in_order(lambda rows: applied(network, values[rows]), compute.blocks(len(values), _ROWS))
        return np.concatenate(list(made))


def flip(network: Network, signs: np.ndarray) -> None:
    with torch.no_grad():
        network.linear.weight *= torch.from_numpy(signs)[:, None]
        network.linear.bias *= torch.from_numpy(signs)


def _features(network: Network, values: np.ndarray, workers: compute.Workers) -> np.ndarray:
    """(position, feature), the last one 1, in the network's precision."""
    device, dtype = network.linear.weight.device, network.linear.weight.dtype
    kind = np.float64 if dtype == torch.float64 else np.float32
    features = np.ones((len(values), network.description.n_features + 1), kind)

    def made(rows: slice) -> None:
        with torch.inference_mode():
            features[rows, :-1] = network.features(torch.from_numpy(values[rows]).to(device, dtype)).cpu().numpy()

    for _ in workers.in_order(made, compute.blocks(len(values), _ROWS)):
        pass
    return features


def _started(
    values: np.ndarray, operator: galerkin.Walk, described: Description, seed: int, dtype: torch.dtype
) -> State:
    """A network that knows where points are, its prototypes so wide that functions are linear in them."""
    generator = np.random.default_rng([seed, 3])
    network, widths = placed(values, described, seed, generator, operator.workers.threads)
    with torch.no_grad():
        factor, cut = _smoothest(network, values, operator, widths, generator)
        network.log_widths.copy_(torch.from_numpy(np.log(factor * widths)))
    return State(network.to(dtype), {}, [], cut)


def placed(
    values: np.ndarray, described: Description, seed: int, generator: np.random.Generator, threads: int | None
) -> tuple[Network, np.ndarray]:
    """A network with its prototypes by k-means, and how far from each other these stand, (prototype,) or their mean."""
    import faiss

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(described)
    m = described.prototypes
    sample = np.sort(generator.choice(len(values), min(len(values), _KMEANS_POINTS * m), replace=False))
    centre = values[sample].mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(((values[sample] - centre) ** 2).mean())), np.finfo(np.float32).tiny)
    scaled = ((values[sample] - centre) / scale).astype(np.float32)
    with compute.faiss_threads(threads):
        options = {"niter": _KMEANS_ROUNDS, "seed": 1 + seed % 2**30, "min_points_per_centroid": 1}
        kmeans = faiss.Kmeans(scaled.shape[1], m, max_points_per_centroid=_KMEANS_POINTS, **options)
        kmeans.train(scaled)
        places = _means(kmeans.centroids, scaled)
        near = faiss.knn(places, places, min(_NEAREST + 1, m))[0]
    widths = np.sqrt(np.maximum(near[:, 1:].mean(axis=1) if m > 1 else near[:, 0], 0))
    widths = np.maximum(widths, 1e-3 * max(widths.mean(), 1e-6))
    if described.one_width:
        widths = np.exp(np.log(widths).mean(keepdims=True))
    with torch.no_grad():
        network.centre.copy_(torch.from_numpy(centre))
        network.scale.fill_(scale)
        network.places.copy_(torch.from_numpy(places))
        network.log_widths.copy_(torch.from_numpy(np.log(widths)))
    return network, widths


def _means(centroids: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Centroids, of at least two points each: one that stands on a point would carry it into the network."""
    import faiss

    count = np.bincount(faiss.knn(points, centroids, 1)[1][:, 0], minlength=len(centroids))
    alone = count < min(_FEWEST_POINTS, len(points))
    centroids = centroids.copy()
    if alone.any():
        near = faiss.knn(centroids[alone], points, min(_FEWEST_POINTS, len(points)))[1]
        centroids[alone] = points[near].mean(axis=1)
    return centroids


def _smoothest(
    network: Network, values: np.ndarray, operator: galerkin.Walk, widths: np.ndarray, generator
) -> tuple[float, float]:
    """The multiple of the widths, and the cut, with which the features come closest to T R on cells not fitted to.

    Columns of T R, R random, are smooth on the graph as far as T is: a sketch of the functions that the network is to
    give. Where cells are few, narrow prototypes and faint directions fit them and miss what lies between.
    """
    sketch = generator.standard_normal((len(values), _TRIAL_VECTORS))
    for _ in range(2 * network.description.t):
        sketch = operator.times(sketch)
    sketch /= operator.root[:, None]
    some = generator.permutation(len(values))[:_TRIAL_CELLS]
    fitted, tested = some[: len(some) * 4 // 5], some[len(some) * 4 // 5 :]
    errors = {}
    for factor in _WIDTHS:
        network.log_widths.copy_(torch.from_numpy(np.log(factor * widths)))
        left, right = (
            _features(network, values[rows], operator.workers).astype(np.float64) for rows in (fitted, tested)
        )
        sizes, directions = np.linalg.eigh(left.T @ left)
        shares = directions.T @ (left.T @ sketch[fitted])
        for cut in _CUTS:
            kept = sizes > cut * sizes[-1]
            coefficients = directions[:, kept] @ (shares[kept] / sizes[kept, None])
            errors[factor, cut] = float(((right @ coefficients - sketch[tested]) ** 2).sum())
    best = min(errors, key=errors.get)
    log.info("deep_diffusion_map: prototypes %g as wide as apart, directions above %g", *best)
    return best


def _best_linear(state: State, values: np.ndarray, operator: galerkin.Walk) -> galerkin.Ritz:
    """Set the linear layer to the best for the present features."""
    network = state.network
    features = _features(network, values, operator.workers)
    ritz = galerkin.ritz(features, operator, network.description.n_components, network.description.t, state.cut)
    there, wanted = len(ritz.values), network.description.n_components
    if there < wanted:
        cause = f"at t {network.description.t} only {there} of {wanted} components stand out of rounding"
        raise BadInput(Problem("HW-NN-006", "t", cause, f"set t to less, or n_components to {max(there, 1)}"))
    with torch.no_grad():
        network.linear.weight.copy_(torch.from_numpy(ritz.coefficients[:-1].T.copy()))
        network.linear.bias.copy_(torch.from_numpy(ritz.coefficients[-1].copy()))
    return ritz


def _fit(
    network: Network,
    ritz: galerkin.Ritz,
    points: torch.Tensor,
    operator: galerkin.Walk,
    seed: list[int],
    together: bool,
) -> None:
    """Fit f to the rows of T G S^-1 / sqrt(pi), in the metric S = diag(mu)."""
    root = operator.root
    targets = ritz.mapped / (np.maximum(ritz.values, np.finfo(float).tiny) * root[:, None])
    made = (torch.from_numpy(array).to(points) for array in (targets, root**2, ritz.values / ritz.values.sum()))
    head, given = fitting.Head(network, ritz.basis, ritz.coefficients), Regression(points, *made)
    if together:
        fitting.by_newton(head, given, _STEPS_TOGETHER, operator.workers)
        return
    steps = max(_FEWEST_STEPS, _EPOCHS * -(-len(points) // fitting.BATCH))
    taken = fitting.by_batches(head, given, steps, np.random.default_rng(seed), operator.workers)
    for _ in track(taken, "deep_diffusion_map: training", steps):
        pass


def _key(values: np.ndarray, matrix: Conjugate, described: Description, seed: int, rounds: int) -> str:
    """What a checkpoint was made from."""
    digest = hashlib.sha256(f"{described} {seed} {rounds}".encode())
    for array in (values, matrix.root):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _save(checkpoint: Path | None, key: str, state: State) -> None:
    """Keep the state after a round."""
    tensors = {
        "energy": torch.tensor(state.energy, dtype=torch.float64),
        "cut": torch.tensor([state.cut], dtype=torch.float64),
    }
    for part, weights in (("network", state.network.state_dict()), ("before", state.before)):
        tensors |= {f"{part}.{name}": value for name, value in weights.items()}
    checkpoints.keep(checkpoint, key, tensors)


def _resumed(checkpoint: Path | None, key: str, described: Description, dtype: torch.dtype) -> State | None:
    """The state that a checkpoint of the same training holds."""
    found = checkpoints.kept(checkpoint, key)
    if found is None:
        return None
    tensors, _ = found
    with torch.random.fork_rng(devices=[]):  # layers begin at random
        network = Network(described).to(dtype)
    weights = {part: {n.removeprefix(part): v for n, v in tensors.items() if n.startswith(part)} for part in _PARTS}
    network.load_state_dict(weights["network."])
    energy = tensors["energy"].tolist()
    log.info("deep_diffusion_map: going on after round %d", len(energy) - 1)
    return State(network, weights["before."], energy, float(tensors["cut"][0]))
