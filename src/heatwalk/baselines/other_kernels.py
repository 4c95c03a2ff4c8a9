"""Other ways from points to noise, in the place of a space's heat kernel: what exact kernels are compared with."""

import numpy as np


class Walked:
    """The heat kernel by a geodesic random walk of a few steps, and its score as in flat space: log_y(x) / t.

    Source: De Bortoli et al., Riemannian score-based generative modelling (2022), Varadhan's approximation.
    """

    def __init__(self, space, steps: int = 10):
        self.space, self.steps = space, steps

    def __getattr__(self, name):
        return getattr(self.space, name)

    def sample_heat_kernel(self, x, t, *, rng):
        width = np.sqrt(t / self.steps / self.space.slope).reshape(-1, *(1,) * len(self.space.shape))
        for _ in range(self.steps):
            noise = rng.normal(size=x.shape)
            noise = noise + 1j * rng.normal(size=x.shape) if self.space.complex_ else noise
            x = self.space.project(self.space.exp(x, self.space.project(x, width * noise)))
        return x

    def score(self, x, y, t):
        return self.space.log(y, x) / t.reshape(-1, *(1,) * len(self.space.shape))


class Straight:
    """Geodesics from points to uniform ones, for flow matching: at t = e^{2 tau} a share tau of the way is gone.

    A network that matches this "score" for sigma from 1 to e has the velocity of flow matching along log sigma.
    Source: Chen, Lipman, Flow matching on general geometries (2024).
    """

    def __init__(self, space):
        self.space = space

    def __getattr__(self, name):
        return getattr(self.space, name)

    def sample_heat_kernel(self, x, t, *, rng):
        tau = (np.log(t) / 2).reshape(-1, *(1,) * len(self.space.shape))
        ends = self.space.random_point(rng, len(x))
        return self.space.project(self.space.exp(x, tau * self.space.log(x, ends)))

    def score(self, x, y, t):
        return self.space.log(y, x) / (np.log(t) / 2 * t).reshape(-1, *(1,) * len(self.space.shape))
