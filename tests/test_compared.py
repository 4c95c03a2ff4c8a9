"""compared: a map that was turned is the same map, and one that lacks a component is not."""

from types import SimpleNamespace

import numpy as np
import pytest

from heatwalk import compared, evidence
from heatwalk.pictures import Column


class Result(dict):
    """Arrays of a stage, with what its manifest says."""

    manifest = SimpleNamespace()


def results(coordinates, eigenvectors, eigenvalues, t):
    deep = Result(
        coordinates=coordinates.astype(np.float32),
        error=np.float64(0.01),
        error_median=np.float64(0.01),
        error_deciles=np.full(10, 0.01),
        error_cells=np.int64(5),
        energy=np.ones(3),
        residuals=np.ones(4),
        weights=np.zeros(10, np.uint8),
    )
    deep.manifest = {"parameters": {"t": t}}
    return {"deep_diffusion_map": deep, "diffusion_map": Result(eigenvalues=eigenvalues, eigenvectors=eigenvectors)}


@pytest.fixture
def map_():
    rng = np.random.default_rng(0)
    return rng.standard_normal((400, 4)), np.array([0.9, 0.8, 0.7, 0.6]), np.linalg.qr(rng.standard_normal((4, 4)))[0]


COLUMN = Column("x", values=np.linspace(0, 1, 400))


def test_a_turned_map_is_the_map(map_, monkeypatch):
    vectors, values, turn = map_
    found = results(vectors * values**2 @ turn, vectors, values, 2)
    drawn = []
    monkeypatch.setattr(compared, "_draw", lambda points, column: drawn.append(points))
    shown = compared.network(found, COLUMN, np.zeros(400, int))
    assert shown["error"] < 1e-6
    assert (shown["own"], shown["cells"]) == (True, 400)
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-5)
    np.testing.assert_allclose(drawn[0], (vectors * values**2)[:, :2])


def test_a_map_that_lacks_a_component_is_off(map_):
    vectors, values, _ = map_
    lacking = vectors * values
    lacking[:, 0] = 0
    shown = compared.network(results(lacking, vectors, values, 1), COLUMN, np.zeros(400, int))
    assert shown["error"] > 0.15
    (concern,) = evidence.about_network(shown)
    assert concern.text == f"Distances by the network are off by {shown['error']:.0%} beside the map."
    assert evidence.about_network({**shown, "error": 0.04}) == []


def test_a_graph_in_pieces_is_drawn_and_keeps_what_the_stage_measured(map_):
    vectors, values, turn = map_
    pieces = np.where(np.arange(400) < 300, 0, 1)
    found = results(vectors @ turn, vectors, np.stack([values, values]), 1)
    shown = compared.network(found, COLUMN, pieces)
    assert len(shown["pictures"]) == 2
    assert (shown["error"], shown["own"]) == (0.01, False)
