"""One suite over all spaces: geodesics, heat kernels beside arbitrary precision, scores, samplers, bad input."""

import heat_kernel_reference as reference
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import ks_2samp, kstest

from heatwalk.errors import BadInput
from heatwalk.spaces import (
    SO3,
    SU,
    Euclidean,
    Grassmannian,
    Power,
    Product,
    Sphere,
    Torus,
    grassmannian_kernel,
    probability_flow,
    radial_law,
    sphere_compiled,
    sphere_kernel,
    su_kernel,
)

ALL = [
    Euclidean(3),
    Sphere(1),
    Sphere(2),
    Sphere(5),
    Sphere(127),
    Torus(1),
    Torus(3),
    SO3(),
    SU(2),
    SU(3),
    SU(4),
    Grassmannian(2, 4),
    Power(Sphere(2), (2,)),
]
COMPACT = [space for space in ALL if not isinstance(space, Euclidean)]
TIMES = [1e-4, 1e-3, 0.02, 0.3, 1.0, 2.7, 10.0]


def pairs(space, n_pairs=20, seed=0):
    rng = np.random.default_rng(seed)
    return space.random_point(rng, n_pairs), space.random_point(rng, n_pairs)


def near_pairs(space, t, n_pairs=20, seed=0):
    """Pairs as the heat kernel has them."""
    rng = np.random.default_rng(seed)
    x = space.random_point(rng, n_pairs)
    return x, space.sample_heat_kernel(x, t, rng=rng)


def inner(space, v, w):
    """Of ambient arrays of one shape."""
    axes = tuple(range(-len(space.shape), 0))
    return np.real((np.conj(v) * w).sum(axis=axes))


def noise(space, shape, seed=0):
    """Normal arrays of the kind that points are of."""
    rng = np.random.default_rng(seed)
    real = rng.normal(size=shape)
    return real + 1j * rng.normal(size=shape) if space.complex_ else real


def on_circle(theta):
    return np.array([np.cos(theta), np.sin(theta)])


def at_angle(space, theta):
    """A pair of points at an angle, the second at the precise angle in double precision."""
    if isinstance(space, Torus):
        return np.zeros(space.n), np.array([theta] + [0.0] * (space.n - 1))
    if isinstance(space, SO3):
        c, s = on_circle(theta)
        return np.eye(3), np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    rest = np.zeros(space.d - 1)
    return np.append(on_circle(0.0), rest), np.append(on_circle(theta), rest)


def radial_density(d, t):
    """Mass of S^d at the nodes of a quadrature in the angle, and the nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    low, high = radial_law.table(d, np.array([t]))[0][0][[0, -1]]
    theta = low + (high - low) * (nodes + 1) / 2
    log_p = sphere_kernel.log_kernel(d, theta, np.full(400, t), np)[0]
    density = np.exp(log_p + (d - 1) * np.log(np.sin(theta)) + sphere_kernel.log_volume(d - 1))
    return density * weights * (high - low) / 2, theta


# ---- geodesics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_exp_undoes_log_and_log_has_the_length_of_the_distance(space):
    x, y = pairs(space)
    v = space.log(x, y)
    np.testing.assert_allclose(space.distance(space.exp(x, v), y), 0, atol=1e-12)
    length = np.sqrt(inner(space, v, v) * space.slope)
    np.testing.assert_allclose(length, space.distance(x, y), rtol=1e-12)
    np.testing.assert_allclose(space.project(x, v), v, atol=1e-12)
    np.testing.assert_allclose(space.distance(y, x), space.distance(x, y), rtol=1e-13)


@pytest.mark.parametrize("space", ALL, ids=repr)
@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-6, 1e-2])
def test_short_geodesics_keep_their_precision(space, length):
    x, y = pairs(space)
    v = space.log(x, y)
    v *= length / np.sqrt(inner(space, v, v) * space.slope).reshape((-1,) + (1,) * len(space.shape))
    there = space.exp(x, v)
    np.testing.assert_allclose(space.log(x, there), v, atol=4e-15 + 1e-12 * length)
    np.testing.assert_allclose(space.distance(x, there), length, atol=4e-15)


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_projection_gives_points_and_leaves_points_alone(space):
    x, _ = pairs(space)
    np.testing.assert_allclose(space.project(x), x, atol=1e-14)
    moved = space.project(x + 0.1 * noise(space, x.shape))
    assert np.isfinite(space.distance(x, moved)).all()  # else refused: off the space
    v = space.project(x, noise(space, x.shape))
    np.testing.assert_allclose(space.project(x, v), v, atol=1e-14)


# ---- kernels beside arbitrary precision ----------------------------------------------------------------------------


DIMENSIONS = [1, 2, 3, 4, 9, 10, 32, 127, 511]


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("t", TIMES)
def test_sphere_where_the_mass_is_and_beyond(d, t):
    theta, density, _ = (part[0] for part in radial_law.table(d, np.array([t])))
    share = np.cumsum(density) / density.sum()
    inside = theta[np.searchsorted(share, [1e-6, 0.5, 1 - 1e-6])]
    beyond = [angle for angle in (0.0, 1e-7, 3.0, np.pi - 1e-6, np.pi) if angle**2 / (2 * t) < 300]
    found, slope = sphere_kernel.log_kernel(d, np.append(inside, beyond), np.full(3 + len(beyond), t), np)
    expected = [reference.sphere(d, angle, t) for angle in (*inside, *beyond)]
    np.testing.assert_allclose(found, [float(log_p) for log_p, _ in expected], atol=3e-12, rtol=1e-14)
    np.testing.assert_allclose(slope, [float(raised) for _, raised in expected], rtol=2e-11)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10, 127, 511])
@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.1, 0.5, 1.0])
def test_compiled_twin_has_the_same_sum(d, share):
    t = np.full(300, share * 2 * np.log(2 * (d + 1)) / d)
    theta = np.append(np.random.default_rng(0).uniform(0, np.pi, 296), [0, np.pi, 1e-9, np.pi - 1e-9])
    few = [sphere_kernel.log_kernel(d, theta, t, np)]
    repeats = sphere_compiled.FEWEST // 300 + 1
    many = sphere_kernel.log_kernel(d, np.tile(theta, repeats), np.tile(t, repeats), np)
    np.testing.assert_allclose(many[0][:300], few[0][0], rtol=1e-15, atol=2e-12)
    np.testing.assert_allclose(many[1][:300], few[0][1], rtol=1e-11 + 1e-14 / t[0])


@pytest.mark.parametrize("d", [1, 3, 5, 21, 63])
@pytest.mark.parametrize(("theta", "t"), [(0.4, 1e-4), (3.1, 1e-4), (1.0, 1e-2), (2.9, 0.1), (2.0, 1.0)])
def test_odd_spheres_beside_derivatives_of_images(d, theta, t):
    expected = reference.sphere_by_images(d, theta, t)
    found = sphere_kernel.log_kernel(d, np.array([theta]), np.array([t]), np)[0][0]
    np.testing.assert_allclose(found, float(expected), rtol=1e-14, atol=3e-12)


@pytest.mark.parametrize(("theta", "t"), [(0.5, 0.1), (2.9, 0.1), (1.0, 0.01), (3.0, 1.0)])
def test_two_dimensional_sphere_beside_mehlers_integral(theta, t):
    found = sphere_kernel.log_kernel(2, np.array([theta]), np.array([t]), np)[0][0]
    assert abs(found - float(reference.sphere_by_abel(theta, t))) < 1e-13


@pytest.mark.parametrize("d", [1, 2, 3, 8, 33, 127])
def test_both_formulas_of_the_sphere_agree_where_they_meet(d):
    theta = np.linspace(0, np.pi, 50)
    t = 2 * np.log(2 * (d + 1)) / d
    below = sphere_kernel.log_kernel(d, theta, np.full(50, t * (1 - 1e-15)), np)
    above = sphere_kernel.by_eigenfunctions(d, theta, np.full(50, t * (1 + 1e-15)), np)
    np.testing.assert_allclose(below[0], above[0], atol=1e-12)
    np.testing.assert_allclose(below[1], above[1], rtol=1e-11)


@pytest.mark.parametrize("t", [*TIMES, 6.28, 6.29])
def test_torus(t):
    for theta in (0.0, 0.01, 1.0, 3.0, np.pi):
        x, y = at_angle(Torus(1), theta)
        log_p, slope = reference.circle(theta, t)
        if theta**2 / t < 100:
            assert abs(log_p - reference.circle_by_waves(theta, t)[0]) < 1e-15
        np.testing.assert_allclose(Torus(1).log_heat_kernel(x, y, t), float(log_p), rtol=1e-14, atol=1e-13)
        np.testing.assert_allclose(Torus(1).score(x, y, t)[0], float(slope), rtol=1e-12, atol=1e-8 / np.sqrt(t))
    x, y = pairs(Torus(3))
    single = sum(Torus(1).log_heat_kernel(x[:, [i]], y[:, [i]], t) for i in range(3))
    np.testing.assert_allclose(Torus(3).log_heat_kernel(x, y, t), single, rtol=1e-13)


@pytest.mark.parametrize("t", TIMES)
def test_so3(t):
    for theta in (0.0, 1e-6, 0.01, 0.3, 1.0, 3.0, 3.14):
        if theta**2 / (2 * t) > 100:
            continue
        x, y = at_angle(SO3(), theta)
        log_p, slope = reference.so3(theta, t)
        if theta > 0:
            assert abs(log_p - reference.so3_by_paths(theta, t)) < 1e-15
        np.testing.assert_allclose(SO3().log_heat_kernel(x, y, t), float(log_p), rtol=1e-13, atol=1e-12)
        score = SO3().score(x, y, t)
        np.testing.assert_allclose((y.T @ score)[1, 0], float(slope), rtol=1e-9, atol=1e-11 / np.sqrt(t))


def in_su(angles, seed=0):
    """A pair of SU(n) with these angles of x^{-1} y, up to rounding."""
    rng = np.random.default_rng(seed)
    n = len(angles)
    x, u = SU(n).random_point(rng, 2)
    return x, x @ (u * np.exp(1j * np.array(angles))) @ u.conj().T


WALLS = [
    (0.3, -0.3),
    (np.pi - 1e-6, 1e-6 - np.pi),
    (2.0, 0.4, -2.4),
    (0.3 + 1e-7, 0.3, -0.6 - 1e-7),
    (2 * np.pi / 3 - 1e-3, 2 * np.pi / 3 - 2e-3, -4 * np.pi / 3 + 3e-3),
    (np.pi - 1e-5, 1e-4, -np.pi - 9e-5),
    (0.5, 0.1, -0.2, -0.4),
    (np.pi - 1e-3, np.pi - 2e-3, -np.pi + 1e-3, -np.pi + 2e-3),
    (np.pi / 2 - 1e-3, np.pi / 2 - 2e-3, np.pi / 2 - 4e-3, -3 * np.pi / 2 + 7e-3),
]


@pytest.mark.parametrize("angles", WALLS)
@pytest.mark.parametrize("t", [1e-4, 0.02, 0.3, 1.4, 1.6, 10.0])
def test_su_at_walls_and_between(angles, t):
    a = np.array(angles)
    if a @ a / (2 * t) > 2000:
        t = a @ a / 4000
    log_p, *slopes = reference.su(angles, t)
    found, gradient = su_kernel.log_kernel(a[None], np.array([t]), np)
    np.testing.assert_allclose(found[0], float(log_p), atol=2e-12)
    np.testing.assert_allclose(gradient[0], np.array(slopes, float), atol=1e-9 * np.exp(-t) / min(np.sqrt(t), t**0.25))
    x, y = in_su(angles)
    size = 1 + np.abs(gradient).max()
    np.testing.assert_allclose(SU(len(a)).log_heat_kernel(x, y, t), found[0], atol=1e-14 * size / min(t, 1) + 1e-12)


@pytest.mark.parametrize(
    ("angles", "t", "cut"),
    [((0.5, 0.1, -0.6), 0.5, 24), ((2.9, -0.3, -2.6), 1.0, 20), ((0.5, 0.1, -0.2, -0.4), 1.0, 14)],
)
def test_su_beside_characters(angles, t, cut):
    found = su_kernel.log_kernel(np.array(angles)[None], np.array([t]), np)[0][0]
    assert abs(found - float(reference.su_by_characters(angles, t, cut))) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 4])
def test_both_formulas_of_su_agree_where_they_meet(n):
    x, y = pairs(SU(n), 40)
    early, late = (SU(n).log_heat_kernel(x, y, t) for t in (1.5 - 1e-14, 1.5))
    np.testing.assert_allclose(early, late, atol=1e-11)
    early, late = (SU(n).score(x, y, t) for t in (1.5 - 1e-14, 1.5))
    np.testing.assert_allclose(early, late, atol=1e-11)


def test_su2_is_the_sphere_of_radius_root_2():
    angle, t = np.linspace(0.01, 3.1, 20), np.geomspace(1e-3, 10, 20)
    found = su_kernel.log_kernel(np.stack([angle, -angle], axis=1), t, np)[0]
    expected = sphere_kernel.log_kernel(3, angle, t / 2, np)[0] - 1.5 * np.log(2)
    np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("phi", [(0.3, 0.1), (2.0, 2.0 + 1e-5), (3.0, 3.1), (1e-6, 2.5), (np.pi - 1e-3, np.pi - 2e-3)])
@pytest.mark.parametrize("t", [1e-3, 0.02, 0.3, 0.44, 0.46, 1.1, 10.0])
def test_planes(phi, t):
    if sum(np.square(phi)) / (8 * t) > 300:
        t = sum(np.square(phi)) / 2400
    log_p, *slopes = reference.planes(phi, t)
    found, gradient = grassmannian_kernel.log_kernel(np.array(phi)[None], np.array([t]), np)
    np.testing.assert_allclose(found[0], float(log_p), rtol=1e-14, atol=1e-12)
    size = max(abs(float(slope)) for slope in slopes)
    np.testing.assert_allclose(gradient[0], np.array(slopes, float), atol=2e-11 * size)


# ---- what every kernel has -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ALL, ids=repr)
@pytest.mark.parametrize("t", TIMES)
def test_kernel_is_symmetric_and_its_score_is_its_derivative(space, t):
    for x, y in (pairs(space, 5), near_pairs(space, t, 5)):
        value = space.log_heat_kernel(x, y, t)
        assert np.isfinite(value).all()
        np.testing.assert_allclose(space.log_heat_kernel(y, x, t), value, rtol=1e-12, atol=1e-10)
    score = space.score(x, y, t)
    np.testing.assert_allclose(space.project(y, score), score, atol=1e-9 * np.abs(score).max() + 1e-300)
    v = space.project(y, noise(space, y.shape))
    step = 1e-3 * np.sqrt(min(t, 1))
    ends = [space.log_heat_kernel(x, space.exp(y, k * step * v / 2), t) for k in (-2, -1, 1, 2)]
    slope = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (6 * step)
    size = np.sqrt(inner(space, score, score)).max() * np.sqrt(inner(space, v, v)).max()
    rounding = 1e-12 * np.abs(value).max() / step
    np.testing.assert_allclose(inner(space, score, v) * space.slope, slope, atol=1e-6 * size + rounding)


@pytest.mark.parametrize("space", COMPACT, ids=repr)
def test_enormous_times_give_the_uniform_law_and_no_score(space):
    x, y = pairs(space)
    value = space.log_heat_kernel(x, y, 1e20)
    assert np.ptp(value) < 1e-12 * (1 + np.abs(value).max())
    assert np.abs(space.score(x, y, 1e20)).max() < 1e-30


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_density_follows_the_semigroup(space):
    # p_{s+t}(x, y) = E p_t(z, y), z drawn from p_s(x, .): the mass and both times, by random draws.
    draws = 8000 if space.complex_ else 40_000
    s, t = (0.05, 0.15) if space.shape == (128,) else (0.2, 0.6)
    x, y = near_pairs(space, s + t, 3)
    z = space.sample_heat_kernel(x, s, rng=np.random.default_rng(5), size=draws)
    ratio = np.exp(space.log_heat_kernel(z, y, t) - space.log_heat_kernel(x, y, s + t))
    error = ratio.std(axis=0) / np.sqrt(draws)
    assert (error < 0.1).all()
    assert (np.abs(ratio.mean(axis=0) - 1) < 4 * error).all()


@pytest.mark.parametrize("d", [1, 2, 3, 10, 127, 511])
@pytest.mark.parametrize("t", TIMES)
def test_mass_of_spheres_is_one(d, t):
    density, _ = radial_density(d, t)
    assert abs(density.sum() - 1) < 1e-10


# ---- cut locus, zero distance, torch -------------------------------------------------------------------------------


def cut_pairs(space):
    """Pairs at the cut locus, or a rounding error from it."""
    x, _ = pairs(space, 3)
    if isinstance(space, Power):
        return x, -x
    if isinstance(space, Sphere):
        return x, -x
    if isinstance(space, SO3):
        return x, x @ np.diag([1.0, -1.0, -1.0])
    if isinstance(space, Grassmannian):
        return x, np.eye(4) - x
    if isinstance(space, SU):
        return x, x * np.exp(2j * np.pi / space.n)
    return x, space.exp(x, np.full(space.shape, np.pi))


@pytest.mark.parametrize("space", COMPACT, ids=repr)
@pytest.mark.parametrize("t", TIMES)
def test_cut_locus_and_zero_distance_are_finite_and_their_scores_vanish(space, t):
    x, opposite = cut_pairs(space)
    for y in (x, opposite):
        assert np.isfinite(space.log_heat_kernel(x, y, t)).all()
        np.testing.assert_allclose(space.score(x, y, t), 0, atol=1e-13 / min(t, 1) ** 2)  # slopes there: pi^2 / t^2


@pytest.mark.parametrize("space", [Sphere(2), Sphere(127)], ids=repr)
def test_score_at_the_antipode_is_exactly_zero(space):
    x, y = cut_pairs(space)
    assert not space.score(x, y, 0.1).any()


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_torch_gives_the_same_values_and_gradients_that_are_finite(space):
    torch = pytest.importorskip("torch")
    for x, y in (pairs(space, 5), (cut_pairs(space) if space in COMPACT else pairs(space)), (pairs(space)[0],) * 2):
        for t in (1e-4, 0.1, 5.0):
            first, second = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
            value = space.log_heat_kernel(first, second, t)
            value.sum().backward()
            np.testing.assert_allclose(value.detach(), space.log_heat_kernel(x, y, t), rtol=1e-12, atol=1e-11)
            for point, start, end in ((second, x, y), (first, y, x)):
                expected = space.slope * space.score(start, end, t)
                assert torch.isfinite(point.grad.abs()).all()
                np.testing.assert_allclose(
                    point.grad, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max() + 1e-14 / t**2
                )


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_single_precision_comes_back_and_is_as_good_as_its_input(space):
    torch = pytest.importorskip("torch")
    x, y = pairs(space)
    wide = x.dtype
    half = np.complex64 if np.iscomplexobj(x) else np.float32
    x, y = x.astype(half), y.astype(half)
    for t in (1e-3, 0.1, 5.0):
        value = space.log_heat_kernel(torch.tensor(x), torch.tensor(y), t)
        assert value.dtype == torch.float32
        assert space.score(x, y, t).dtype == half
        exact = space.log_heat_kernel(space.project(x.astype(wide)), space.project(y.astype(wide)), t)
        assert (np.abs(value.numpy() - exact) < 1e-4 * (1 + np.abs(exact))).all()
    assert space.sample_heat_kernel(torch.tensor(x), 0.1, rng=np.random.default_rng(0)).dtype == torch.tensor(x).dtype


def test_gradients_broadcast():
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(part, requires_grad=True) for part in pairs(Sphere(2), 4))
    Sphere(2).log_heat_kernel(x[:, None], y[None], torch.tensor([0.3], dtype=torch.float64)).sum().backward()
    expected = Sphere(2).score(y[:, None], x[None], 0.3).sum(0)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-12)


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_leading_axes_broadcast_and_one_pair_gives_a_scalar(space):
    x, y = pairs(space, 6)
    t = np.array([0.1, 1.0, 2.0])[:, None, None]
    y = y.reshape(2, 3, *space.shape)
    value = space.log_heat_kernel(x[0], y, t)
    assert value.shape == (3, 2, 3)
    assert space.score(x[0], y, t).shape == (3, 2, 3, *space.shape)
    one = space.log_heat_kernel(x[0], y[1, 2], 1.0)
    assert isinstance(one, np.float64)
    np.testing.assert_allclose(one, value[1, 1, 2], rtol=1e-13)
    assert isinstance(space.distance(x[0], y[0, 0]), np.float64)
    assert space.log_heat_kernel(x[:0], y[0, 0], 1.0).shape == (0,)


# ---- sampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 10, 127, 511])
@pytest.mark.parametrize("t", TIMES)
def test_moments_of_angles_are_those_of_quadrature(d, t):
    density, theta = radial_density(d, t)
    x = np.eye(d + 1)[0]
    size = 20_000 if d < 100 else 4_000
    y = Sphere(d).sample_heat_kernel(x, t, rng=np.random.default_rng(7), size=size)
    found = Sphere(d).distance(x, y)
    for power in (2, 4):
        expected, square = ((density * theta**k).sum() for k in (power, 2 * power))
        error = np.sqrt((square - expected**2) / size)
        assert abs((found**power).mean() - expected) < 4 * error


@pytest.mark.parametrize("d", [1, 2, 3, 10, 127, 511])
@pytest.mark.parametrize("t", TIMES)
def test_a_time_for_each_draw_has_the_law_of_one_time_for_all(d, t):
    density, theta = radial_density(d, t)
    times = t * (1 + 1e-9 * np.arange(2000) / 2000)
    found = radial_law.angles(d, times, np.random.default_rng(11))
    for power in (2, 4):
        expected, square = ((density * theta**k).sum() for k in (power, 2 * power))
        assert abs((found**power).mean() - expected) < 4 * np.sqrt((square - expected**2) / 2000)
    share = np.interp(found, theta, np.cumsum(density) - density / 2)
    assert kstest(share, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("d", [2, 3, 4, 16, 127, 511])
def test_radial_densities_are_log_concave_and_their_modes_are_found(d):
    for t in np.geomspace(1e-4, 20, 9):
        theta = np.linspace(0, np.pi, 1002)[1:-1]
        log_density, slope = radial_law.log_density(d, theta, np.full(1000, t))
        here = log_density[:-1] > log_density.max() - 500
        assert (np.diff(slope)[here] < 1e-9 * np.abs(slope[:-1][here]) + 1e-9).all()
        mode = radial_law.modes(d, np.array([t]))
        assert radial_law.log_density(d, mode, np.array([t]))[0][0] > log_density.max() - 1e-5


@pytest.mark.parametrize("t", TIMES)
def test_moments_of_rotations_are_those_of_quadrature(t):
    def density(theta):
        x, y = at_angle(SO3(), theta)
        return np.exp(SO3().log_heat_kernel(x, y, t)) * 16 * np.pi * np.sin(theta / 2) ** 2

    end = min(np.pi, 12 * np.sqrt(t))
    y = SO3().sample_heat_kernel(np.eye(3), t, rng=np.random.default_rng(8), size=20_000)
    found = SO3().distance(np.eye(3), y)
    assert abs(quad(density, 0, end)[0] - 1) < 1e-8
    for power in (2, 4):
        expected, square = (quad(lambda a, k=k: a**k * density(a), 0, end)[0] for k in (power, 2 * power))
        assert abs((found**power).mean() - expected) < 4 * np.sqrt((square - expected**2) / 20_000)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 1.0, 1.3, 2.0, 4.0, 20.0])
def test_traces_of_su_have_the_moments_of_its_representations(n, t):
    # E chi = dim e^{-C t / 2}: of the adjoint C = 2 n, of the fundamental C = (n^2 - 1) / n.
    u = SU(n).sample_heat_kernel(np.eye(n) + 0j, t, rng=np.random.default_rng(int(10 * t) + n), size=4000)
    trace = np.trace(u, axis1=1, axis2=2)
    for found, expected in (
        (np.abs(trace) ** 2, 1 + (n * n - 1) * np.exp(-n * t)),
        (trace.real, n * np.exp(-(n * n - 1) / n * t / 2)),
        (trace.imag, 0.0),
    ):
        assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(4000) + 1e-15


@pytest.mark.parametrize("t", [1e-3, 0.03, 0.1, 0.4, 0.5, 1.0, 10.0])
def test_overlaps_of_planes_have_the_moment_of_their_representation(t):
    # E tr(x y) = 1 + e^{-8t}: 16 is the eigenvalue of the adjoint representation.
    x = np.diag([1.0, 1, 0, 0]) + 0j
    y = Grassmannian(2, 4).sample_heat_kernel(x, t, rng=np.random.default_rng(3), size=20_000)
    overlap = np.einsum("ij,nji->n", x, y).real
    assert abs(overlap.mean() - 1 - np.exp(-8 * t)) < 4 * overlap.std() / np.sqrt(20_000)


def test_haar_moments_of_su3():
    for u in (
        SU(3).random_point(np.random.default_rng(0), 20_000),
        SU(3).sample_heat_kernel(np.eye(3) + 0j, 30.0, rng=np.random.default_rng(0), size=20_000),
    ):
        square = np.abs(np.trace(u, axis1=1, axis2=2)) ** 2
        for power, expected in ((1, 1), (2, 2), (3, 6)):
            assert abs((square**power).mean() - expected) < 4 * (square**power).std() / np.sqrt(20_000)


@pytest.mark.parametrize("space", [Sphere(1), Sphere(2), Sphere(127), SU(2), SU(3), SU(4)], ids=repr)
@pytest.mark.parametrize("t", [0.01, 0.4])
def test_probability_flow_brings_the_uniform_law_to_the_samples(space, t):
    size = 1000 if space.shape != (4, 4) else 300
    flowed = probability_flow.angles(space, t, rng=np.random.default_rng(0), size=size, steps=60)
    if isinstance(space, SU):
        flowed = np.linalg.norm(flowed, axis=1)
    one = np.eye(space.n) + 0j if isinstance(space, SU) else np.eye(space.d + 1)[0]
    drawn = space.distance(one, space.sample_heat_kernel(one, t, rng=np.random.default_rng(1), size=size))
    assert ks_2samp(flowed, drawn).pvalue > 1e-3
    for power in (2, 4):
        error = np.sqrt(((flowed**power).var() + (drawn**power).var()) / size)
        assert abs((flowed**power).mean() - (drawn**power).mean()) < 4 * error


def test_probability_flow_of_other_spaces_is_refused():
    with pytest.raises(BadInput, match="HW-SP-008 space: no flow on SO3"):
        probability_flow.angles(SO3(), 0.1, rng=np.random.default_rng(0), size=1)


@pytest.mark.parametrize("space", [Sphere(2), Sphere(20), Torus(2), SO3(), SU(3), Grassmannian(2, 4)], ids=repr)
def test_geodesic_random_walk_comes_to_the_same_law(space):
    rng, steps, t, size = np.random.default_rng(2), 64, 0.1, 2000
    x = np.broadcast_to(pairs(space, 1)[0][0], (size, *space.shape))
    y = x
    for _ in range(steps):  # normal in orthonormal coordinates of the tangent space
        v = space.project(y, noise(space, y.shape, seed=int(rng.integers(1 << 30))))
        y = space.project(space.exp(y, np.sqrt(t / steps / space.slope) * v))
    walked, drawn = space.distance(x, y), space.distance(x, space.sample_heat_kernel(x, t, rng=rng))
    assert abs((walked**2).mean() / (drawn**2).mean() - 1) < 0.06
    assert ks_2samp(walked, drawn).pvalue > 1e-3


@pytest.mark.parametrize("space", COMPACT, ids=repr)
def test_directions_of_samples_have_no_preference(space):
    x, _ = pairs(space, 1)
    y = space.sample_heat_kernel(x[0], 0.05, rng=np.random.default_rng(9), size=4000)
    v = space.log(x[0], y).reshape(4000, -1)
    v = np.concatenate([v.real, v.imag], axis=1)
    assert (np.abs(v.mean(axis=0)) < 4.5 * v.std(axis=0) / np.sqrt(4000) + 1e-12).all()


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_samples_have_the_shape_asked_for_and_a_time_each(space):
    x, _ = pairs(space, 2)

    def draw(t, size, seed=0):
        return space.sample_heat_kernel(x, t, rng=np.random.default_rng(seed), size=size)

    assert draw(0.1, 5).shape == (5, 2, *space.shape)
    assert draw(0.1, ()).shape == x.shape
    assert draw(0.1, (3, 4)).shape == (3, 4, 2, *space.shape)
    times = np.array([1e-6, 0.5])
    found = space.distance(x, draw(times, 50))
    assert found[:, 0].max() < 0.1
    assert found[:, 1].mean() > 0.1
    assert np.array_equal(draw(0.1, 5), draw(0.1, 5))
    assert not np.array_equal(draw(0.1, 5), draw(0.1, 5, seed=1))
    assert space.random_point(np.random.default_rng(0), (2, 3)).shape == (2, 3, *space.shape)
    assert space.random_point(np.random.default_rng(0)).shape == space.shape


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ALL, ids=repr)
@pytest.mark.parametrize("t", [0, 0.0, -1.0, np.nan, np.inf, 1e-31, 1e31])
def test_times_that_are_none_are_refused(space, t):
    x, y = pairs(space, 2)
    for call in (space.log_heat_kernel, space.score):
        with pytest.raises(BadInput, match="HW-SP-006 t: .* is no time of diffusion, the bounds are 1e-30 and 1e"):
            call(x, y, np.array([1.0, t]))
    with pytest.raises(BadInput, match="HW-SP-006"):
        space.sample_heat_kernel(x, t, rng=np.random.default_rng(0))


@pytest.mark.parametrize("space", COMPACT, ids=repr)
def test_log_of_antipodes_is_refused(space):
    with pytest.raises(BadInput, match="HW-SP-009 log: [36] of the pairs are antipodal"):
        space.log(*cut_pairs(space))


@pytest.mark.parametrize("space", [space for space in COMPACT if not isinstance(space, Torus)], ids=repr)
def test_points_off_the_space_are_refused_with_the_distance_and_the_bound(space):
    x, y = pairs(space, 4)
    x[1] *= 1 + (2e-6 if isinstance(space, Grassmannian) else 1e-5)
    with pytest.raises(
        BadInput, match=r"HW-SP-005 x: (1 of 4|2 of 8) points are off: .* by up to [12].*e-0[56], the bound is 1e-06"
    ):
        space.log_heat_kernel(x, y, 0.1)
    x[1] = space.project(x[1]) * (1 + 1e-8)
    assert np.isfinite(space.log_heat_kernel(x, y, 0.1)).all()
    with pytest.raises(BadInput, match="HW-SP-005 y"):
        space.distance(y, 2 * y)


def test_a_reflection_is_no_rotation():
    with pytest.raises(BadInput, match="HW-SP-005 x: a determinant is -1"):
        SO3().distance(-np.eye(3), np.eye(3))


@pytest.mark.parametrize("space", ALL, ids=repr)
def test_other_shapes_kinds_and_values_are_refused(space):
    x, y = pairs(space, 3)
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match=r"HW-SP-003 y: its shape is .*, a point is .*; give arrays of shape"):
        space.distance(x, y[..., :-1])
    with pytest.raises(BadInput, match=r"HW-SP-003 points: the leading axes \(3,\), \(2,\), \(\) do not broadcast"):
        space.score(x, y[:2], 0.1)
    with pytest.raises(BadInput, match="HW-SP-002 x: its values are .*; give"):
        space.distance(x.real + 0.0 if np.iscomplexobj(x) else x + 0j, y)
    with pytest.raises(BadInput, match="HW-SP-002 x: its values are bool"):
        space.distance(x.real > 0, y)
    x[0] = np.nan
    with pytest.raises(BadInput, match="HW-SP-004 x: values are not finite"):
        space.log_heat_kernel(x, y, 0.1)
    with pytest.raises(BadInput, match="HW-SP-007 rng: int is no numpy.random.Generator"):
        space.random_point(3)
    with pytest.raises(BadInput, match="HW-SP-007 size: -1 is no number of points"):
        space.sample_heat_kernel(y, 0.1, rng=rng, size=-1)
    with pytest.raises(BadInput, match="HW-SP-007 size: 2.5"):
        space.random_point(rng, 2.5)


def test_libraries_are_not_mixed():
    torch = pytest.importorskip("torch")
    x, y = pairs(Sphere(2))
    with pytest.raises(BadInput, match="HW-SP-001 points: x is torch's, y is numpy's"):
        Sphere(2).distance(torch.tensor(x), y)
    with pytest.raises(BadInput, match="HW-SP-001 t: it is a torch tensor"):
        Sphere(2).score(x, y, torch.tensor(0.1))
    with pytest.raises(BadInput, match="HW-SP-006 t: it requires a gradient"):
        Sphere(2).log_heat_kernel(torch.tensor(x), torch.tensor(y), torch.tensor(0.1, requires_grad=True))


# ---- products ------------------------------------------------------------------------------------------------------


def test_product_is_the_sum_over_its_factors():
    space = Product(SU(3), Power(Torus(2), (2, 2)))
    rng = np.random.default_rng(0)
    x, y = space.random_point(rng, 4), space.random_point(rng, 4)
    parts = [factor.log_heat_kernel(a, b, 0.3) for factor, a, b in zip(space.spaces, x, y, strict=True)]
    np.testing.assert_array_equal(space.log_heat_kernel(x, y, 0.3), parts[0] + parts[1])
    torus = Torus(2).log_heat_kernel(x[1], y[1], 0.3).sum(axis=(1, 2))
    np.testing.assert_allclose(parts[1], torus, rtol=1e-13)
    assert [part.shape for part in space.score(x, y, 0.3)] == [(4, 3, 3), (4, 2, 2, 2)]
    np.testing.assert_allclose(space.distance(space.exp(x, space.log(x, y)), y), 0, atol=1e-13)
    assert [part.shape for part in space.sample_heat_kernel(x, 0.3, rng=rng, size=5)] == [(5, 4, 3, 3), (5, 4, 2, 2, 2)]
    assert [part.shape for part in space.project(x)] == [part.shape for part in space.project(x, y)]
    squares = sum(factor.distance(a, b) ** 2 for factor, a, b in zip(space.spaces, x, y, strict=True))
    np.testing.assert_allclose(space.distance(x, y) ** 2, squares)
    with pytest.raises(
        BadInput, match=r"HW-SP-003 points: a point is no tuple of 2 points; give a tuple of points of Pr"
    ):
        space.distance(x, y[0])
    with pytest.raises(BadInput, match="HW-SP-008 spaces"):
        Product()
    with pytest.raises(BadInput, match="HW-SP-008 axes"):
        Power(SU(2), ())


@pytest.mark.parametrize("make", [Euclidean, Sphere, Torus])
@pytest.mark.parametrize("dimension", [0, -1, 1.5, "2", True])
def test_dimensions_that_are_none_are_refused(make, dimension):
    with pytest.raises(BadInput, match="HW-SP-008 . is no dimension|HW-SP-008 .*is no dimension"):
        make(dimension)


@pytest.mark.parametrize("space", [Sphere(2), SO3(), SU(3), Grassmannian(2, 4)], ids=repr)
def test_vectors_that_are_not_tangent_are_refused(space):
    x, _ = pairs(space, 2)
    v = space.project(x, noise(space, x.shape, seed=5))
    space.exp(x, v + 1e-8 * x)
    with pytest.raises(
        BadInput, match=r"HW-SP-011 v: it is no tangent: .* leaves the space, the bound is .*; give pro"
    ):
        space.exp(x, v + 1e-3 * x)


def test_centres_have_no_projection():
    with pytest.raises(BadInput, match="HW-SP-010 project: the centre"):
        Sphere(2).project(np.zeros(3))
    with pytest.raises(BadInput, match="HW-SP-008 k, n: no heat kernel of Grassmannian"):
        Grassmannian(2, 5)
    for space in (SU(3), Grassmannian(2, 4)):
        with pytest.raises(BadInput, match="HW-SP-010 project: a matrix"):
            space.project(np.zeros(space.shape) + 0j)
    with pytest.raises(BadInput, match="HW-SP-010 project: a matrix"):
        SO3().project(np.diag([1.0, 0.0, 0.0]))
