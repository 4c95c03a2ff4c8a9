"""One suite over all spaces: the embedding is the space's own geometry seen in Euclidean coordinates."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from heatwalk.spaces import SPACES

N_COLUMNS = {"euclidean": 3, "sphere": 2, "torus": 4, "so3": 3}
N_COORDINATES = {"euclidean": 3, "sphere": 3, "torus": 8, "so3": 9}
CURVED = [name for name in SPACES if name != "euclidean"]


def degrees(space, n_points=200, seed=0):
    """Points in the columns that a user gives, in degrees."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-180, 180, (n_points, N_COLUMNS[space]))
    if space == "sphere":
        values[:, 0] = np.rad2deg(np.arcsin(rng.uniform(-1, 1, n_points)))
    if space == "so3":
        values[:, 1] = rng.uniform(0, 180, n_points)
    return values


# ---- geodesic distances from the columns, and the chord that belongs to each ----


def great_circle(a, b):
    """Haversine formula, on latitude and longitude in radians."""
    (lat_a, lon_a), (lat_b, lon_b) = a.T, b.T
    half = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


def rotation(values):
    """Bunge's angles: rotations about the moving z, x, z axes, from sample to crystal axes, are passive: inverses."""
    return Rotation.from_euler("ZXZ", values, degrees=False).inv()


def chord(space, a, b):
    if space == "euclidean":
        return np.linalg.norm(np.rad2deg(a - b), axis=1)
    if space == "sphere":
        return 2 * np.sin(great_circle(a, b) / 2)
    if space == "torus":  # of every circle of radius 1
        return np.sqrt((4 * np.sin((a - b) / 2) ** 2).sum(axis=1))
    angle = (rotation(a) * rotation(b).inv()).magnitude()
    return 2 * np.sqrt(2) * np.sin(angle / 2)


def test_every_space_is_tested():
    assert set(N_COLUMNS) == set(N_COORDINATES) == set(SPACES)


@pytest.mark.parametrize("space", SPACES)
def test_shape_and_names_agree(space):
    columns = [f"column{number}" for number in range(N_COLUMNS[space])]
    embedded, names = SPACES[space].embed(degrees(space)), SPACES[space].names(columns)
    assert embedded.shape == (200, N_COORDINATES[space])
    assert len(names) == len(set(names)) == N_COORDINATES[space]
    assert np.isfinite(embedded).all()


@pytest.mark.parametrize("space", SPACES)
def test_chords_are_those_of_the_geodesic_distance(space):
    a, b = degrees(space, seed=1), degrees(space, seed=2)
    embed = SPACES[space].embed
    measured = np.linalg.norm(embed(a) - embed(b), axis=1)
    np.testing.assert_allclose(measured, chord(space, np.deg2rad(a), np.deg2rad(b)), atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_short_chords_are_geodesic_lengths_of_the_metric(space):
    # Third order in the distance: the embedding is an isometry, up to sqrt 2 in SO(3), where Frobenius = sqrt 2 angle.
    a = np.deg2rad(degrees(space, seed=3))
    b = a + 1e-4 * np.random.default_rng(4).normal(size=a.shape)
    measured = np.linalg.norm(SPACES[space].embed(a, "radians") - SPACES[space].embed(b, "radians"), axis=1)
    lengths = {
        "euclidean": lambda: np.linalg.norm(a - b, axis=1),
        "sphere": lambda: great_circle(a, b),
        "torus": lambda: np.linalg.norm(a - b, axis=1),
        "so3": lambda: np.sqrt(2) * (rotation(a) * rotation(b).inv()).magnitude(),
    }
    np.testing.assert_allclose(measured, lengths[space](), rtol=1e-6)


@pytest.mark.parametrize("space", CURVED)
def test_radians_are_degrees_in_other_units(space):
    values = degrees(space)
    embed = SPACES[space].embed
    np.testing.assert_allclose(embed(np.deg2rad(values), "radians"), embed(values, "degrees"), atol=1e-14)
    assert np.abs(embed(values[:, :], "degrees") - embed(values / 2, "degrees")).max() > 0.1


@pytest.mark.parametrize(("space", "column"), [("torus", 0), ("torus", 3), ("so3", 0), ("so3", 2)])
@pytest.mark.parametrize(("units", "turn"), [("degrees", 360.0), ("radians", 2 * np.pi)])
def test_a_full_turn_changes_nothing(space, column, units, turn):
    values = degrees(space) if units == "degrees" else np.deg2rad(degrees(space))
    turned = values.copy()
    turned[:, column] += turn
    embed = SPACES[space].embed
    np.testing.assert_allclose(embed(turned, units), embed(values, units), atol=1e-12)


def test_euclidean_points_are_left_alone():
    values = degrees("euclidean")
    assert SPACES["euclidean"].embed(values, "radians") is values
    assert SPACES["euclidean"].names(["a", "b"]) == ["a", "b"]


# ---- sphere ----


def test_sphere_points_are_unit_vectors_and_the_poles_are_one_point_each():
    embed = SPACES["sphere"].embed
    np.testing.assert_allclose(np.linalg.norm(embed(degrees("sphere")), axis=1), 1, atol=1e-15)
    poles = embed(np.array([[90.0, 0], [90, 77], [-90, 0], [-90, 77]]))
    np.testing.assert_allclose(poles, [[0, 0, 1], [0, 0, 1], [0, 0, -1], [0, 0, -1]], atol=1e-15)


def test_latitude_and_longitude_point_where_a_globe_says():
    found = SPACES["sphere"].embed(np.array([[0.0, 0], [0, 90], [45, 180]]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 1, 0], [-half, 0, half]], atol=1e-15)


@pytest.mark.parametrize(("units", "bad", "bound"), [("degrees", -90.5, "90"), ("radians", 1.6, "1.5708")])
def test_a_latitude_beyond_a_pole_is_refused_with_the_bound(units, bad, bound):
    with pytest.raises(ValueError, match=rf"latitudes reach {abs(bad)} {units}, the bound is {bound}"):
        SPACES["sphere"].embed(np.array([[0.0, 0.0], [bad, 0.0]]), units)


def test_longitudes_may_go_either_way_around_but_not_twice():
    embed = SPACES["sphere"].embed
    west, east = embed(np.array([[10.0, -90], [10, 270]]))
    np.testing.assert_allclose(west, east, atol=1e-15)
    with pytest.raises(ValueError, match="longitudes go from 0 to 361 degrees, the bounds are -180 and 360"):
        embed(np.array([[10.0, 0], [10, 361]]))
    with pytest.raises(ValueError, match="longitudes go from -3.2 to 0 radians, the bounds are -3.14159 and 6.28319"):
        embed(np.array([[1.0, 0], [1, -3.2]]), "radians")


def test_latitude_and_longitude_the_wrong_way_round_are_told_where_that_can_be():
    with pytest.raises(ValueError, match="latitudes reach 120 degrees, .*: longitudes fit, the columns may be swapped"):
        SPACES["sphere"].embed(np.array([[120.0, 45], [10, 20]]))


@pytest.mark.parametrize(("space", "n_columns"), [("sphere", 3), ("sphere", 1), ("so3", 2), ("so3", 4)])
def test_a_wrong_number_of_columns_is_refused(space, n_columns):
    with pytest.raises(ValueError, match=rf"takes {N_COLUMNS[space]} columns.*there are {n_columns}"):
        SPACES[space].embed(np.zeros((5, n_columns)))


@pytest.mark.parametrize("space", CURVED)
def test_unknown_units_are_refused(space):
    with pytest.raises(ValueError, match="units are 'gradians', not degrees or radians"):
        SPACES[space].embed(np.zeros((5, N_COLUMNS[space])), "gradians")


@pytest.mark.parametrize("space", SPACES)
def test_no_points_embed_as_no_points(space):
    assert SPACES[space].embed(np.zeros((0, N_COLUMNS[space]))).shape == (0, N_COORDINATES[space])


# ---- torus ----


def test_torus_coordinates_are_cosines_then_sines_and_lie_on_unit_circles():
    values = degrees("torus")
    embedded = SPACES["torus"].embed(values)
    np.testing.assert_allclose(embedded[:, :4] ** 2 + embedded[:, 4:] ** 2, 1, atol=1e-15)
    np.testing.assert_allclose(np.rad2deg(np.arctan2(embedded[:, 4:], embedded[:, :4])), values, atol=1e-10)
    assert SPACES["torus"].names(["phi", "psi"]) == ["cos phi", "cos psi", "sin phi", "sin psi"]


# ---- so3 ----


def test_so3_is_the_inverse_of_scipys_active_intrinsic_zxz_rotation():
    # SciPy turns vectors (active); Bunge's matrix gives the crystal coordinates of a fixed vector (passive).
    values = degrees("so3")
    expected = Rotation.from_euler("ZXZ", values, degrees=True).inv().as_matrix().reshape(-1, 9)
    np.testing.assert_allclose(SPACES["so3"].embed(values), expected, atol=1e-14)


def test_so3_matrices_are_rotations():
    matrices = SPACES["so3"].embed(degrees("so3")).reshape(-1, 3, 3)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (200, 3, 3)), atol=1e-14
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-14)


def test_so3_without_tilt_adds_both_turns():
    both, one = SPACES["so3"].embed(np.array([[20.0, 0, 30], [50, 0, 0]]))
    np.testing.assert_allclose(both, one, atol=1e-15)


def test_real_orientations_are_rotations(real_data):
    lines = (real_data / "so3_ebsd_magnesium_twins.ctf").read_text(errors="replace").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Phase\t"))
    columns = lines[start].split("\t")
    angles = [columns.index(name) for name in ("Euler1", "Euler2", "Euler3")]
    table = np.array([line.split("\t") for line in lines[start + 1 : start + 501]], float)[:, angles]
    matrices = SPACES["so3"].embed(table).reshape(-1, 3, 3)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-12)
