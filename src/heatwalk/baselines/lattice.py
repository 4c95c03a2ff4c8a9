"""Lattice gauge fields of SU(3) in two dimensions by hybrid Monte Carlo, for diffusion models to learn."""

import itertools

import numpy as np


def gauge_samples(shape: tuple[int, int], beta: float, count: int, rng, *, steps: int = 10, between: int = 5) -> tuple:
    """Links of SU(3) on a periodic lattice (site, site, direction) of the law e^{-S}, by hybrid Monte Carlo.

        S(U) = -beta/3 sum_p Re tr U_p,  U_p = U_0(x) U_1(x + 0) U_0(x + 1)^* U_1(x)^*

    (sample, *shape, 2, 3, 3) links, and the share of steps that were taken. Many chains run beside each other.
    """
    from heatwalk.spaces import SU

    space, chains = SU(3), min(count, 256)
    links = space.random_point(rng, (chains, *shape, 2))
    found, taken, width = [], [], 0.5 / np.sqrt(beta)
    for sweep in itertools.count():
        momentum = rng.normal(size=(*links.shape, 2)).view(np.complex128)[..., 0]
        momentum = space.project(links, links @ _algebra(momentum))
        before = action(links, beta) + (np.abs(momentum) ** 2).reshape(chains, -1).sum(1) / 2
        new, body = links, _algebra(_adjoint(links) @ momentum)
        body = body + width / 2 * force(new, beta)
        for step in range(steps):
            new = space.project(space.exp(new, new @ (width * body)))
            body = body + width * (1.0 if step < steps - 1 else 0.5) * force(new, beta)
        after = action(new, beta) + (np.abs(body) ** 2).reshape(chains, -1).sum(1) / 2
        kept = rng.random(chains) < np.exp(np.minimum(before - after, 0))
        links = np.where(kept.reshape(-1, *[1] * (links.ndim - 1)), new, links)
        taken.append(kept.mean())
        if sweep >= 10 * between and sweep % between == 0:
            found.append(links)
        if len(found) * chains >= count:
            return np.concatenate(found)[:count], float(np.mean(taken))


def action(links: np.ndarray, beta: float) -> np.ndarray:
    """(sample,) S of (sample, site, site, direction, 3, 3) links."""
    plaquettes = links[:, :, :, 0] @ _staple(links, 0)
    return -beta / 3 * np.einsum("sxyii->s", plaquettes).real


def force(links: np.ndarray, beta: float) -> np.ndarray:
    """Minus the gradient of S, as elements w of the Lie algebra at U: the derivative along U w is <w, force>."""
    ends = np.stack([_staple(links, 0) + _behind(links, 0), _staple(links, 1) + _behind(links, 1)], axis=3)
    return -beta / 3 * _algebra(ends @ links)


def _staple(links: np.ndarray, along: int) -> np.ndarray:
    """What follows a link around its plaquette ahead."""
    across, own = 1 - along, 1 + along
    other = 2 - along
    ahead, beside = np.roll(links, -1, axis=own), np.roll(links, -1, axis=other)
    return ahead[:, :, :, across] @ _adjoint(beside[:, :, :, along]) @ _adjoint(links[:, :, :, across])


def _behind(links: np.ndarray, along: int) -> np.ndarray:
    """What follows a link around the plaquette on its other side."""
    across, own, other = 1 - along, 1 + along, 2 - along
    back = np.roll(links, 1, axis=other)
    corner = np.roll(back, -1, axis=own)
    return _adjoint(corner[:, :, :, across]) @ _adjoint(back[:, :, :, along]) @ back[:, :, :, across]


def _adjoint(x: np.ndarray) -> np.ndarray:
    return np.conj(np.swapaxes(x, -1, -2))


def _algebra(w: np.ndarray) -> np.ndarray:
    w = (w - _adjoint(w)) / 2
    return w - np.einsum("...ii->...", w)[..., None, None] / 3 * np.eye(3)
