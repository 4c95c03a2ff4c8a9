"""Points as callers give them: NumPy arrays or torch tensors, checked and never mended."""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array, is_writeable_array

from heatwalk.errors import BadInput, Problem

SHORTEST, LONGEST = 1e-30, 1e30  # times: beyond them squares overflow
_BLOCK = 8192  # numbers at once: what fits a cache


class Given(NamedTuple):
    """Arrays in double precision, the namespace they live in, and the precision that the caller works in."""

    arrays: tuple
    xp: object
    single: bool

    def back(self, array):
        """The array in the caller's precision; NumPy arrays without axes become scalars."""
        if self.single:
            complex_ = self.xp.isdtype(array.dtype, "complex floating")
            array = self.xp.astype(array, self.xp.complex64 if complex_ else self.xp.float32)
        return array[()] if isinstance(array, np.ndarray) else array


def given(complex_: bool = False, **arrays) -> Given:
    """Arrays by name, all of one library, in float64 or complex128."""
    arrays = {name: array if is_writeable_array(array) else np.asarray(array) for name, array in arrays.items()}
    if len({is_torch_array(array) for array in arrays.values()}) > 1:
        kinds = ", ".join(f"{name} is {type(array).__module__}'s" for name, array in arrays.items())
        raise BadInput(Problem("HW-SP-001", "points", kinds, "give all as NumPy arrays or all as torch tensors"))
    xp = array_namespace(*arrays.values())
    for name, array in arrays.items():
        if xp.isdtype(array.dtype, "complex floating") != complex_ or not xp.isdtype(array.dtype, "numeric"):
            wanted = "complex128 or complex64" if complex_ else "float64 or float32"
            raise BadInput(Problem("HW-SP-002", name, f"its values are {array.dtype}", f"give {wanted}"))
    single = all(array.dtype in (xp.float32, xp.complex64) for array in arrays.values())
    wide = xp.complex128 if complex_ else xp.float64
    return Given(tuple(xp.astype(array, wide, copy=False) for array in arrays.values()), xp, single)


def check_shape(name: str, array, wanted: tuple[int, ...]) -> None:
    """The last axes are those of a point."""
    if tuple(array.shape[array.ndim - len(wanted) :]) != wanted or array.ndim < len(wanted):
        cause = f"its shape is {tuple(array.shape)}, a point is {wanted}"
        raise BadInput(Problem("HW-SP-003", name, cause, f"give arrays of shape (..., {', '.join(map(str, wanted))})"))


def check_finite(name: str, array, xp) -> None:
    if not bool(xp.all(xp.isfinite(array))):
        raise BadInput(Problem("HW-SP-004", name, "values are not finite", "remove points with NaN or infinity"))


def check_on(name: str, deviation, single: bool, what: str, remedy: str, xp) -> None:
    """Points lie on the space but for rounding: a deviation of 1e-6, or of 1e-4 in single precision."""
    bound = 1e-4 if single else 1e-6
    worst = float(xp.max(deviation)) if math.prod(deviation.shape) else 0.0
    if not worst <= bound:
        count = int(xp.sum(xp.astype(~(deviation <= bound), xp.int64)))
        total = math.prod(deviation.shape)
        cause = f"{count} of {total} points are off: {what} by up to {worst:.3g}, the bound is {bound:g}"
        raise BadInput(Problem("HW-SP-005", name, cause, remedy))


def tangent(v, part, taken: Given):
    """The tangent part of v, refused where v has more than rounding beside it."""
    xp = taken.xp
    off, size = (xp.max(xp.abs(array)) if math.prod(v.shape) else 0.0 for array in (v - part, v))
    bound = (1e-4 if taken.single else 1e-6) * max(float(size), 1e-300)
    if float(off) > bound:
        cause = f"it is no tangent: {float(off):.3g} of it leaves the space, the bound is {bound:.3g}"
        raise BadInput(Problem("HW-SP-011", "v", cause, "give project(x, v)"))
    return part


def time(t, like, xp):
    """Times in float64, in the library and on the device of the points."""
    if is_torch_array(t) and not is_torch_array(like):
        raise BadInput(Problem("HW-SP-001", "t", "it is a torch tensor, points are NumPy arrays", "give float(t)"))
    if getattr(t, "requires_grad", False):
        cause = "it requires a gradient, and there is none in time"
        raise BadInput(Problem("HW-SP-006", "t", cause, "give t.detach(); gradients are those in x and y"))
    try:
        t = (
            np.asarray(t, np.float64)
            if isinstance(like, np.ndarray)
            else xp.asarray(t, dtype=xp.float64).to(like.device)
        )
    except (TypeError, ValueError):
        raise BadInput(
            Problem("HW-SP-006", "t", f"{t!r} is no number", "give the variance of Brownian motion")
        ) from None
    good = (t >= SHORTEST) & (t <= LONGEST)
    if not bool(xp.all(good)):
        first = float(xp.reshape(t[~good], (-1,))[0])
        cause = f"{first:g} is no time of diffusion, the bounds are {SHORTEST:g} and {LONGEST:g}"
        raise BadInput(Problem("HW-SP-006", "t", cause, "give the variance of Brownian motion, a positive number"))
    return t


def broadcast(xp, *pairs) -> tuple:
    """Arrays with their numbers of point axes, over their leading axes; the common leading shape comes first.

    >>> broadcast(np, (np.zeros((5, 1, 3)), 1), (np.zeros(4), 0))[0]
    (5, 4)
    """
    leading = [tuple(array.shape[: array.ndim - axes]) for array, axes in pairs]
    try:
        shape = np.broadcast_shapes(*leading)
    except ValueError:
        cause = f"the leading axes {', '.join(map(str, leading))} do not broadcast"
        raise BadInput(Problem("HW-SP-003", "points", cause, "give as many of each, or one")) from None
    own = [tuple(array.shape[array.ndim - axes :]) for array, axes in pairs]
    arrays = [array for array, _ in pairs]
    return shape, *(xp.broadcast_to(array, shape + axes) for array, axes in zip(arrays, own, strict=True))


def sizes(size) -> tuple[int, ...]:
    """The axes that `size` asks for: none, a whole number, or a tuple of them."""
    axes = tuple(size) if isinstance(size, tuple | list) else (size,)
    if any(isinstance(axis, bool) or not isinstance(axis, int | np.integer) or axis < 0 for axis in axes):
        raise BadInput(
            Problem("HW-SP-007", "size", f"{size!r} is no number of points", "give 1000, or a tuple of axes")
        )
    return tuple(int(axis) for axis in axes)


def check_rng(rng) -> None:
    if not isinstance(rng, np.random.Generator):
        remedy = "give numpy.random.default_rng(seed)"
        raise BadInput(Problem("HW-SP-007", "rng", f"{type(rng).__name__} is no numpy.random.Generator", remedy))


def whole(name: str, value, least: int) -> int:
    """A dimension of a space."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != int(value) or value < least:
        raise BadInput(Problem("HW-SP-008", name, f"{value!r} is no dimension", f"give a whole number from {least} on"))
    return int(value)


def in_blocks(function, xp, *columns):
    """The results of a function of equally many rows, block by block, so that temporary arrays stay in the cache."""
    rows = columns[0].shape[0]
    size = max(_BLOCK // math.prod(columns[0].shape[1:]), 64) if "cpu" in str(device(columns[0])) else 1 << 20
    if rows <= size:
        return function(*columns)
    parts = [function(*(column[start : start + size] for column in columns)) for start in range(0, rows, size)]
    return tuple(xp.concat(list(part), axis=0) for part in zip(*parts, strict=True))


def by_condition(xp, condition, first, second, *columns):
    """Rows where a condition holds by one function, the others by another; both give (rows,) and (rows, ...) arrays."""
    if bool(xp.all(condition)):
        return first(*columns)
    if not bool(xp.any(condition)):
        return second(*columns)
    found = []
    for chosen, function in ((condition, first), (~condition, second)):
        found.append(function(*(column[chosen] for column in columns)))
    merged = []
    for one, other in zip(*found, strict=True):
        whole_ = xp.empty((condition.shape[0], *one.shape[1:]), dtype=one.dtype, device=one.device)
        whole_[condition], whole_[~condition] = one, other
        merged.append(whole_)
    return tuple(merged)


def length(v, xp):
    """Lengths along the last axis, with finite gradients at 0."""
    square = xp.sum(v * v, axis=-1)
    zero = square == 0
    return xp.where(zero, xp.zeros_like(square), xp.sqrt(xp.where(zero, xp.ones_like(square), square)))


def sinc(a, xp):
    """sin a / a."""
    small = xp.abs(a) < 1e-8
    safe = xp.where(small, xp.ones_like(a), a)
    return xp.where(small, xp.ones_like(a), xp.sin(safe) / safe)
