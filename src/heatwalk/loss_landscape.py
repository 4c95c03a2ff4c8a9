"""Loss landscapes: what the loss of a trained network is around its parameters, and the Hessian's leading eigenvalues.

    directions   from slopes (no second derivatives), from Lanczos, or random: (parameter, dimension), orthonormal
    sample       losses at theta + B u, u on shells around 0      ->  quadrics.estimate, quadrics.direct
    lanczos      leading eigenvalues of the Hessian of all parameters, by products with vectors
    restricted   B'HB, what a quadric on the same points should find

A `loss` is a function of a flat vector of parameters, made by `loss_function`; the network itself is never written to.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heatwalk.errors import BadInput, Problem

if TYPE_CHECKING:
    import torch

Loss = Callable[["torch.Tensor"], "torch.Tensor"]


class Samples(NamedTuple):
    offsets: np.ndarray  # (point, dimension), the centre first at 0, in units of the parameters
    losses: np.ndarray  # (point,)


class Spectrum(NamedTuple):
    values: np.ndarray  # (mode,), the largest first
    vectors: np.ndarray  # (parameter, mode), orthonormal
    residuals: np.ndarray  # (mode,) |Hv - value v|


def parameters(network) -> "torch.Tensor":
    """A copy of all parameters of a torch module as one vector, in the order of `named_parameters`."""
    import torch

    return torch.cat([value.detach().reshape(-1) for value in network.parameters()]).clone()


def loss_function(network, cost: Callable, inputs, targets) -> Loss:
    """`cost(network(inputs), targets)` as a function of the flat vector of the network's parameters.

    The network is used as it stands (train or eval), with its buffers, and is not changed.
    """
    from torch.func import functional_call

    shapes = {name: value.shape for name, value in network.named_parameters()}
    lengths = [shape.numel() for shape in shapes.values()]

    def loss(flat):
        if flat.shape != (sum(lengths),):
            cause = f"{tuple(flat.shape)} is no vector of the network's {sum(lengths)} parameters"
            raise BadInput(Problem("HW-LL-007", "centre", cause, "give loss_landscape.parameters(network)"))
        parts = zip(shapes.items(), flat.split(lengths), strict=True)
        given = {name: part.view(shape) for (name, shape), part in parts}
        return cost(functional_call(network, given, (inputs,)), targets)

    return loss


def sample(loss: Loss, centre, radii: Sequence[float], *, points: int = 60, directions=None, seed: int = 0) -> Samples:
    """Losses at the centre and at `points` uniform directions on a shell of each radius around it.

    centre: (parameter,). directions: (parameter, dimension), orthonormal: offsets are theta - centre = directions @ u;
    without them u is theta - centre itself, and then so few points tell no more of the Hessian than its trace.
    Raises BadInput for radii that are not positive, and directions that are not orthonormal.
    Source: arXiv 2206.03977 (five shells of 200 points in the space of all parameters).
    """
    import torch

    from heatwalk.fitting import one_torch_thread
    from heatwalk.quadrics import shells

    basis = None if directions is None else torch.as_tensor(directions).to(centre)
    if basis is not None:
        _check(basis, len(centre))
    generator = torch.Generator().manual_seed(seed)
    offsets = shells(len(centre) if basis is None else basis.shape[1], radii, points, generator)
    with one_torch_thread(), torch.no_grad():
        steps = (offset.to(centre) for offset in offsets)
        places = (centre + (step if basis is None else basis @ step) for step in steps)
        losses = [float(loss(place)) for place in places]
    return Samples(offsets.numpy(), np.array(losses))


def _check(basis, n_parameters: int) -> None:
    import torch

    if basis.ndim != 2 or basis.shape[0] != n_parameters:
        cause = f"directions of shape {tuple(basis.shape)} for {n_parameters} parameters"
        raise BadInput(Problem("HW-LL-008", "directions", cause, "give (parameter, dimension)"))
    off = float((basis.T @ basis - torch.eye(basis.shape[1]).to(basis)).abs().max())
    if not off < 1e-4:
        cause = f"inner products are off those of orthonormal ones by {off:.1e}, the bound is 1e-4"
        raise BadInput(Problem("HW-LL-008", "directions", cause, "use loss_landscape.orthonormal"))


def orthonormal(vectors) -> np.ndarray:
    """Directions that span the same space: (parameter, dimension), by a QR decomposition."""
    return np.linalg.qr(np.asarray(vectors, np.float64))[0]


def random_directions(n_parameters: int, dimension: int, *, seed: int = 0) -> np.ndarray:
    """A uniformly random subspace: (parameter, dimension), orthonormal."""
    return orthonormal(np.random.default_rng(seed).standard_normal((n_parameters, dimension)))


def slopes(losses: Sequence[Loss], centre) -> np.ndarray:
    """Gradients of several losses at the centre, (parameter, loss): of one class of the data each, for example.

    Their span holds much of the Hessian's leading directions, and needs no second derivative; `orthonormal` it.
    """
    import torch

    from heatwalk.fitting import one_torch_thread

    with one_torch_thread():
        gradients = [torch.func.grad(loss)(centre).numpy() for loss in losses]
    return np.stack(gradients, axis=1).astype(np.float64)


def hessian_product(loss: Loss, centre) -> Callable[[np.ndarray], np.ndarray]:
    """v -> Hv at the centre: the gradient's own backward pass, of which only the products run again for every v."""
    import torch

    from heatwalk.fitting import one_torch_thread

    with one_torch_thread():
        _, backward = torch.func.vjp(torch.func.grad(loss), centre.detach())

    def product(vector: np.ndarray) -> np.ndarray:
        along = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(centre)
        with one_torch_thread():
            (found,) = backward(along)  # v'H, and H is symmetric
        return found.numpy().astype(np.float64)

    return product


def restricted(loss: Loss, centre, directions) -> np.ndarray:
    """(dimension, dimension) B'HB, the Hessian on orthonormal directions B, by one product for each."""
    basis, product = np.asarray(directions, np.float64), hessian_product(loss, centre)
    found = basis.T @ np.stack([product(vector) for vector in basis.T], axis=1)
    return (found + found.T) / 2


def lanczos(loss: Loss, centre, *, modes: int = 5, seed: int = 0, tolerance: float = 1e-6) -> Spectrum:
    """The eigenvalues of the Hessian at the centre that are largest in magnitude, the largest first, with vectors.

    Lanczos's method (ARPACK) on products with vectors, in double precision, from a seeded start. tolerance is relative
    to the eigenvalues; in single precision parameters allow about 1e-5. Raises BadInput for too many modes.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = len(centre)
    if not 1 <= modes < n:
        cause = f"{modes} of a network of {n} parameters"
        raise BadInput(Problem("HW-LL-009", "modes", cause, f"set modes between 1 and {n - 1}"))
    product = hessian_product(loss, centre)
    start = np.random.default_rng(seed).standard_normal(n)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, k=modes, which="LM", v0=start, tol=tolerance)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    residuals = [np.linalg.norm(product(v) - value * v) for value, v in zip(values, vectors.T, strict=True)]
    return Spectrum(values, vectors, np.array(residuals))
