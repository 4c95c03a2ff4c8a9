"""outlying: the formula by loops, laws whose answer is known, calibration, invariance, damaged bytes."""

import numpy as np
import pytest
from scipy.special import gammaln

import heatwalk as hw
from heatwalk import outlying
from heatwalk.outlying import Outlying, packed, unpacked, unusual

LEAST = 1e-8


def fitted(samples, left, **how):
    return outlying.outlying(samples, left, dimension=samples.shape[1], least=LEAST, most=10_000, **how)


def density(of: Outlying, x: np.ndarray, noise: float, without: int | None = None) -> np.ndarray:
    """(kernel,) densities of kernels at one point, one by one."""
    d, made = float(of.dimension), np.zeros(len(of.places))
    for j, (place, variance) in enumerate(zip(of.places, of.variances, strict=True)):
        wide = variance + noise**2
        n = min(float(of.freedom) * (wide / variance) ** 2, 1e8)
        constant = gammaln((n + d) / 2) - gammaln(n / 2) - d / 2 * np.log(np.pi * n * wide)
        log = constant - (n + d) / 2 * np.log1p(((x - place) ** 2).sum() / (n * wide))
        made[j] = 0 if j == without else np.exp(log)
    return made


def test_the_score_is_its_formula():
    rng = np.random.default_rng(0)
    samples, left, points = (rng.normal(size=(count, 3)) * [1, 0.3, 0.1] for count in (60, 20, 5))
    of = fitted(samples, left)
    assert abs(np.linalg.det(of.axes)) == pytest.approx(1)

    def levels(x):
        made = []
        for noise in of.noises:
            own = [np.log(density(of, place, noise, j).sum() / 59) for j, place in enumerate(of.places)]
            each = density(of, x @ of.axes, noise)
            made.append(each @ own / each.sum() / 2 - np.log(each.mean()))
        return np.array(made)

    fresh = np.array([levels(x) for x in left])
    expected = [((levels(x) - fresh.mean(0)) / fresh.std(0)).max() for x in points]
    np.testing.assert_allclose(unusual(of, points), expected, rtol=1e-8, atol=1e-8)


def test_fresh_points_have_the_law_of_samples_left_out():
    rng = np.random.default_rng(1)
    samples, left, fresh = (rng.normal(size=(count, 8)) for count in (600, 400, 2000))
    of = fitted(samples, left)
    levels = np.sort(unusual(of, left))
    shares = np.searchsorted(levels, unusual(of, fresh)) / len(levels)
    assert abs(shares.mean() - 0.5) < 4 / 12**0.5 * (1 / 400 + 1 / 2000) ** 0.5
    assert abs((shares > 0.95).mean() - 0.05) < 4 * (0.05 * 0.95 * (1 / 400 + 1 / 2000)) ** 0.5
    assert (unusual(of, fresh[:20] + 8) > levels[-1]).all()


def test_beside_a_dense_group_a_point_is_more_unusual_than_a_less_dense_one_in_a_sparse_group():
    rng = np.random.default_rng(2)

    def drawn(count):
        return np.concatenate([rng.normal(size=(9 * count, 6)) * 0.1, 5 + 0.4 * rng.normal(size=(count, 6))])

    of = fitted(drawn(60), drawn(20))

    def levels(x):
        return np.array([np.log(density(of, x @ of.axes, noise).mean()) for noise in of.noises])

    within = 5 + 0.4 * np.eye(6)[0]
    ray = np.linspace(0.2, 3, 60)[:, None] * np.eye(6)[1]
    beside = ray[[(levels(x) >= levels(within) + 0.1).all() for x in ray]][-1]
    assert np.linalg.norm(beside) > 0.4  # the group's own lie .24 off
    assert np.subtract(*unusual(of, np.stack([beside, within]))) > 0.3


def test_directions_in_which_samples_are_near_count_more():
    rng = np.random.default_rng(3)
    spread = np.array([1, 1, 1, 1, 0.05])
    of = fitted(rng.normal(size=(800, 5)) * spread, rng.normal(size=(200, 5)) * spread)
    off = np.zeros((2, 5))
    off[0, 4], off[1, 0] = 0.5, 0.5
    thin, wide = unusual(of, off)
    assert thin > wide + 3


def test_it_turns_and_grows_with_the_samples():
    rng = np.random.default_rng(4)
    samples, left, points = (rng.normal(size=(count, 4)) for count in (300, 80, 30))
    turn = 3 * np.linalg.qr(rng.normal(size=(4, 4)))[0]
    plain, turned = fitted(samples, left), fitted(samples @ turn, left @ turn)
    np.testing.assert_allclose(unusual(turned, points @ turn), unusual(plain, points), rtol=1e-3, atol=1e-3)


def test_blocks_and_threads_change_nothing_and_bytes_come_back(monkeypatch):
    rng = np.random.default_rng(5)
    samples, left, points = (rng.normal(size=(count, 4)) for count in (300, 80, 50))
    of = fitted(samples, left, threads=1)
    found = unusual(of, points, 1)
    np.testing.assert_array_equal(unusual(unpacked(packed(of)), points, 3), found)
    monkeypatch.setattr(outlying, "_PAIRS", 300 * 17)
    np.testing.assert_allclose(unusual(fitted(samples, left, threads=3), points), found, rtol=1e-9, atol=3e-9)
    assert unusual(of, points[:0]).shape == (0,)


def test_only_so_many_samples_have_kernels_and_equal_ones_do_no_harm():
    rng = np.random.default_rng(6)
    samples = np.repeat(rng.normal(size=(50, 3)), 4, axis=0)
    of = outlying.outlying(samples, samples[:40], dimension=3, least=1e-4, most=70)
    assert of.places.shape == (70, 3)
    assert np.isfinite(unusual(of, rng.normal(size=(20, 3)))).all()
    flat = np.zeros((60, 3))
    flat[:, 0] = rng.normal(size=60)
    assert np.isfinite(unusual(fitted(flat, flat[:20]), flat)).all()


def test_damaged_bytes_are_refused():
    rng = np.random.default_rng(7)
    given = packed(fitted(rng.normal(size=(60, 3)), rng.normal(size=(20, 3))))
    for bad in (given[:-8], given[:4], np.zeros(0, np.uint8)):
        with pytest.raises(hw.BadInput, match="HW-RD-010 outlying: cannot be used"):
            unpacked(bad)
    other = packed(unpacked(given)._replace(axes=np.eye(2)))
    with pytest.raises(hw.BadInput, match="HW-RD-010 outlying: .*do not fit each other"):
        unpacked(other)
