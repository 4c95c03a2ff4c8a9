"""bilipschitz: known answers, the literal definition, the exact best scale, and what it refuses."""

import importlib

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist

import heatwalk as hw

module = importlib.import_module("heatwalk.bilipschitz")  # the package has the function by this name

rng = np.random.default_rng(0)
Z = rng.normal(size=(300, 3))


def literal(latent, data, k):
    near = np.argsort(cdist(latent, latent), axis=1)[:, 1 : k + 1]
    found = []
    for i, row in enumerate(near):
        ratios = [np.linalg.norm(data[i] - data[j]) / np.linalg.norm(latent[i] - latent[j]) for j in row]
        found.append(max(max(ratios), 1 / min(ratios)))
    return np.array(found)


def test_an_isometry_has_one_and_a_scale_is_undone():
    turned = Z @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5
    np.testing.assert_allclose(hw.bilipschitz(Z, turned, k=5).constants, 1, rtol=1e-9)
    for factor in (3.0, 0.2):
        found = hw.bilipschitz(Z, factor * turned, k=5)
        np.testing.assert_allclose(found.constants, max(factor, 1 / factor), rtol=1e-9)
        np.testing.assert_allclose(found.rescaled, 1, rtol=1e-9)
        assert found.scale == pytest.approx(factor)


def test_a_linear_map_reaches_its_singular_values():
    points = np.array(np.meshgrid(np.arange(9.0), np.arange(9.0))).reshape(2, -1).T
    found = hw.bilipschitz(points, points * [4.0, 0.5], k=8)
    inner = np.all((points > 0) & (points < 8), axis=1)  # neighbours along both axes
    np.testing.assert_allclose(found.constants[inner], 4)
    np.testing.assert_allclose(found.rescaled[inner], np.sqrt(8))
    assert found.scale == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("k", [1, 7, 40])
def test_the_literal_definition(k, monkeypatch):
    data = np.column_stack([np.sin(Z), Z[:, :1] * Z[:, 1:2]])
    whole = hw.bilipschitz(Z, data, k=k)
    np.testing.assert_allclose(whole.constants, literal(Z, data, k), rtol=1e-6)
    monkeypatch.setattr(module, "_PART_BYTES", 2000)
    in_parts = hw.bilipschitz(Z, data, k=k, threads=1)
    np.testing.assert_array_equal(in_parts.constants, whole.constants)
    np.testing.assert_array_equal(in_parts.rescaled, whole.rescaled)


def test_no_other_scale_has_a_lower_mean():
    data = np.column_stack([np.sin(3 * Z), Z**3])
    found = hw.bilipschitz(Z, data, k=6)

    def mean(logarithm):
        return hw.bilipschitz(Z * np.exp(logarithm), data, k=6).constants.mean()

    best = minimize_scalar(mean, bracket=(-3, 3))
    assert found.rescaled.mean() <= best.fun + 1e-9
    assert np.exp(best.x) == pytest.approx(found.scale, rel=1e-4)
    assert found.rescaled.mean() == pytest.approx(mean(np.log(found.scale)))


def test_points_that_coincide_in_one_space_alone_have_no_bound():
    latent, data = Z.copy(), Z.copy()
    data[1] = data[0] = latent[0]
    latent[1] = latent[0] + 1e-3
    found = hw.bilipschitz(latent, data, k=1)
    assert np.isinf(found.constants[:2]).all()
    assert np.isfinite(found.constants[2:]).all()
    latent[1] = latent[0]  # both coincide: the pair says nothing
    found = hw.bilipschitz(latent, data, k=2)
    np.testing.assert_allclose(found.constants, 1, rtol=1e-9)


@pytest.mark.parametrize(
    ("latent", "data", "k", "message"),
    [
        (Z, Z[1:], 5, "HW-BL-001 latent: there are 300 latent points and 299 of data"),
        (Z, np.where(Z > 2, np.nan, Z), 5, "HW-BL-002 data: .* of 300 points are not finite"),
        (Z, Z, 300, "HW-BL-003 k: 300 is no whole number from 1 to 299"),
        (Z, Z, 0, "HW-BL-003 k: 0 is no whole number"),
    ],
)
def test_what_it_refuses(latent, data, k, message):
    with pytest.raises(hw.BadInput, match=message):
        hw.bilipschitz(latent, data, k=k)
