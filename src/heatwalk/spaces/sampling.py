"""Points drawn from heat kernels: NumPy draws, whatever library the points are of."""

import numpy as np

from heatwalk.spaces import points


def sampled(space, x, t, rng: np.random.Generator, size):
    """(size, ...) points of the law p_t(x, .) of a space, in the library, precision and on the device of x."""
    points.check_rng(rng)
    axes = points.sizes(size)
    taken = space._given(x=x)
    like, own = taken.arrays[0], len(space.shape)
    held, times = numpy(like), numpy(points.time(t, like, taken.xp))
    shape, held, times = points.broadcast(np, (held, own), (times, 0))
    shape = axes + shape
    held = np.broadcast_to(held, shape + space.shape).reshape(-1, *space.shape)
    drawn = space._drawn(held, np.broadcast_to(times, shape).ravel(), rng).reshape(shape + space.shape)
    return taken.back(drawn if isinstance(like, np.ndarray) else taken.xp.asarray(drawn, device=like.device))


def numpy(array) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()
