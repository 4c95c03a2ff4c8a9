"""generation_metrics: every measure against a known answer, and copies found."""

import itertools
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import heatwalk as hw
from heatwalk.generation_metrics import (
    MEASURES,
    Labelled,
    beside,
    coverage_and_density,
    measured,
    mmd,
    sinkhorn,
    two_sample,
    w2_squared,
)
from heatwalk.likeness import concerns


def normal(n_points, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n_points, 2)) + shift


def value(found, name):
    return found.values[MEASURES.index(name)]


def test_exact_transport_is_the_best_permutation():
    first, second = normal(6, 0), normal(6, 1)
    costs = ((first[:, None] - second) ** 2).sum(axis=-1)
    best = min(sum(costs[range(6), order]) for order in map(list, itertools.permutations(range(6)))) / 6
    assert w2_squared(first, second) == pytest.approx(best)


def test_sinkhorn_of_a_shift_is_its_square():
    """Moving all of a sample by s costs s^2 at any blur, as the entropic terms are the same on both sides."""
    points = normal(60, 0)
    assert sinkhorn(points, points, 0.1) == pytest.approx(0, abs=1e-9)
    assert sinkhorn(points, points + np.array([0.5, 0]), 0.3) == pytest.approx(0.25, rel=1e-4)


def test_sinkhorn_by_a_dense_twin():
    """The dual value after many updates of both potentials, in logarithms."""
    from scipy.special import logsumexp

    first, second, blur = normal(20, 0), normal(20, 1, 0.3), 0.4

    def twin(x, y):
        costs, f, g = ((x[:, None] - y) ** 2).sum(axis=-1), np.zeros(len(x)), np.zeros(len(y))
        reg = 2 * blur**2
        for _ in range(2000):
            f = -reg * logsumexp((g - costs) / reg - np.log(len(y)), axis=1)
            g = -reg * logsumexp((f[:, None] - costs) / reg - np.log(len(x)), axis=0)
        return f.mean() + g.mean()

    wanted = twin(first, second) - twin(first, first) / 2 - twin(second, second) / 2
    assert sinkhorn(first, second, blur) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("left", "right"), [(3, 4), (10, 20)])
def test_sinkhorn_of_far_groups_with_other_shares_is_the_exact_distance(left, right, caplog):
    """Mass crosses a gap of 200: at a blur of .05 of the median distance nothing else counts."""
    first, second = normal(300, 0), normal(300, 1)
    first[:left, 0] += 200
    second[:right, 0] += 200
    assert w2_squared(first, second) > 100
    assert sinkhorn(first, second, 0.09) == pytest.approx(w2_squared(first, second), rel=1e-3)
    assert not caplog.records


def test_sinkhorn_that_runs_out_of_rounds_is_said(monkeypatch, caplog):
    monkeypatch.setattr(sys.modules["heatwalk.generation_metrics"], "_LAST_ROUNDS", 1)
    monkeypatch.setattr(sys.modules["heatwalk.generation_metrics"], "_TOLERANCE", -1)
    sinkhorn(normal(30, 0), normal(30, 1), 0.1)
    assert "sinkhorn still changes by" in caplog.text


def test_mmd_of_normals_is_the_closed_form():
    """E k(x, y) = (1 + 2/s^2)^(-d/2) exp(-|shift|^2 / (2 (s^2 + 2))) for unit normals."""
    first, second = normal(1500, 0), normal(1500, 1, [1.0, 0])
    wanted = 2 * (1 + 2) ** -1.0 * (1 - np.exp(-1 / 6))
    assert mmd(first, second, 1.0) == pytest.approx(wanted, rel=0.1)
    assert abs(mmd(first, normal(1500, 2), 1.0)) < 0.002


def test_two_sample_is_a_half_for_equal_laws_and_one_apart():
    assert two_sample(normal(800, 0), normal(800, 1)) == pytest.approx(0.5, abs=0.05)
    assert two_sample(normal(50, 0), normal(50, 1, 50.0)) == 1


def test_coverage_and_density():
    real = np.arange(10.0)[:, None]
    assert coverage_and_density(real, real, 1)[0] == 1
    # Balls reach to the next point, which is outside: the point at 0 lies in its own ball alone.
    assert coverage_and_density(np.zeros((4, 1)), real, 1) == (0.1, 1.0)
    assert coverage_and_density(np.full((4, 1), 0.5), real, 1) == (0.2, 2.0)


def test_fresh_points_are_at_the_floor_and_copies_are_found():
    train, held, new = normal(600, 0), normal(600, 1), normal(300, 2)
    found = hw.generation_metrics(new, train, held, pairs=10, most=100)
    assert found.n_compared == 100
    off = np.abs(found.values - found.floor)[:6]
    assert (off < 5 * found.floor_spread[:6] + 1e-9).all()
    assert value(found, "memorisation") == pytest.approx(0.05, abs=0.04)
    assert value(found, "off_manifold") == pytest.approx(1, abs=0.2)
    assert np.isnan(value(found, "label_match"))
    copied = hw.generation_metrics(train[:300], train, held, pairs=1, most=50)
    assert value(copied, "memorisation") == 1
    assert value(copied, "off_manifold") == 0


def test_copies_are_found_where_real_points_repeat():
    """The 5% quantile is 0 where a tenth of the held-out points are training points too."""
    train, held = normal(400, 0), normal(400, 1)
    held[:40] = train[:40]
    copied = hw.generation_metrics(train[:200], train, held, pairs=10, most=50)
    assert value(copied, "memorisation") == 1
    assert copied.floor[MEASURES.index("memorisation")] == pytest.approx(0.1, abs=0.05)
    fresh = hw.generation_metrics(normal(200, 2), train, held, pairs=2, most=50)
    assert value(fresh, "memorisation") == 0


def test_worse_points_are_worse_by_every_distance():
    train, held = normal(400, 0), normal(400, 1)
    found = hw.generation_metrics(normal(200, 2, 1.0), train, held, pairs=3, most=80)
    for name in ("sinkhorn", "w2_squared", "mmd", "two_sample"):
        assert value(found, name) > 1.2 * found.floor[MEASURES.index(name)]
    assert value(found, "coverage") < found.floor[MEASURES.index("coverage")]


def test_labels_are_matched_beside_held_out_ones():
    train, held = np.concatenate([normal(100, 0), normal(100, 1, 6)]), normal(60, 3, 6)
    labels = {"kind": np.repeat(["a", "b"], 100), "day": np.arange(200)}
    labelled = Labelled(train, labels, {"kind": np.repeat("b", 60)}, "kind")
    found = hw.generation_metrics(normal(60, 4, 6), train[100:], held, labelled, pairs=2, most=30)
    assert value(found, "label_match") > 0.95
    assert found.floor[-1] > 0.95
    assert list(found.labels["train"]) == [0.5, 0.5]
    assert found.labels.loc["b", "generated"] == value(found, "label_match")
    other = hw.generation_metrics(normal(60, 4), train[100:], held, labelled, label="kind", pairs=1, most=30)
    assert value(other, "label_match") < 0.05
    # Held-out points of several labels are no one label's.
    mixed = labelled._replace(held_out={"kind": np.tile(["a", "b"], 30)})
    assert np.isnan(value(hw.generation_metrics(normal(60, 4), train, held, mixed, pairs=1, most=30), "label_match"))
    assert hw.generation_metrics(normal(60, 4), train, held, pairs=1, most=30).labels is None
    with pytest.raises(hw.BadInput, match="HW-GM-003 label: there is no column 'sort' in obs; use one of: kind, day"):
        hw.generation_metrics(normal(60, 4), train, held, labelled, label="sort")


def test_a_condition_of_numbers_has_no_labels_unless_they_are_asked_for():
    train, held = normal(1200, 0), normal(60, 1)
    labelled = Labelled(train, {"score": np.arange(1200.0)}, {"score": np.zeros(60)}, "score")
    found = hw.generation_metrics(normal(60, 2), train, held, labelled, pairs=1, most=20)
    assert found.labels is None
    assert np.isnan(value(found, "label_match"))
    assert np.isfinite(value(found, "w2_squared"))
    with pytest.raises(hw.BadInput, match="HW-GM-003 label: 'score' has 1200 different values, more than 1000"):
        hw.generation_metrics(normal(60, 2), train, held, labelled, label="score", pairs=1, most=20)


@pytest.mark.parametrize(
    ("points", "new", "options", "code", "said"),
    [
        (normal(100, 0), normal(50, 1), {}, "HW-GM-001", "held_out: 10 points are fewer than 20"),
        (normal(400, 0), normal(19, 1), {}, "HW-GM-001", "generated: 19 points are fewer than 20"),
        (np.repeat([[0.0, 0], [1, 1]], [380, 20], axis=0), normal(30, 1), {}, "HW-GM-004", "more than half"),
        (normal(1500, 0), normal(30, 1), {"label": "score"}, "HW-GM-003", "1350 different values"),
    ],
)
def test_nothing_to_compare_is_a_result_that_says_why(points, new, options, code, said, caplog):
    split = (np.arange(len(points)) % 10 == 0).astype(np.uint8)
    cells = SimpleNamespace(split=split, obs=pd.DataFrame({"score": np.arange(len(points))}))
    out = {}
    measured({"any": stored(new)}, points, cells, {"pairs": 1, **options}, out, seed=3)
    assert all(np.isnan(out[name]).all() and len(out[name]) == 9 for name in ("values", "floor", "floor_spread"))
    assert out["n_compared"] == 0
    assert list(out["problems"].index) == [code]
    assert said in caplog.text
    (concern,) = concerns({"rows": [], "flagged": 0, "problems": [tuple(out["problems"].iloc[0])]})
    assert concern.text.startswith("The generated cells were not measured: ")


def test_what_an_option_has_wrong_still_fails():
    points, out = normal(400, 0), {}
    cells = SimpleNamespace(split=np.arange(400) % 5 == 0, obs=pd.DataFrame({"day": np.zeros(400)}))
    with pytest.raises(hw.BadInput, match="HW-GM-003 label: there is no column 'sort'"):
        measured({"any": stored(points[:30])}, points, cells, {"label": "sort"}, out)
    assert not out
    measured({"any": stored(points[:30])}, points, cells, {"pairs": 1}, out)
    assert np.isfinite(out["values"][:8]).all()
    assert "problems" not in out


def test_threads_change_no_figure():
    given = normal(150, 2), normal(300, 0), normal(150, 1)
    first, second = (hw.generation_metrics(*given, pairs=3, seed=5, threads=threads) for threads in (1, 3))
    for name in ("values", "floor", "floor_spread"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def stored(points, condition=""):
    class Result(dict):
        manifest: ClassVar = {"parameters": {"condition": condition}}

    return Result(points=points)


def test_real_points_of_the_condition_stand_beside_a_generator():
    points, split = normal(200, 0), (np.arange(200) % 5 == 0).astype(np.uint8)
    cells = SimpleNamespace(split=split, obs=pd.DataFrame({"day": np.arange(200) // 100}))
    new = normal(50, 1)
    given = beside({"cells": None, "pca": None, "any_generator": stored(new, "day=1")}, points, cells)
    assert given[0] is new
    np.testing.assert_array_equal(given[1], points[100:][split[100:] == 0])
    np.testing.assert_array_equal(given[2], points[100:][split[100:] == 1])
    assert given[3].column == "day"
    assert value(hw.generation_metrics(*given, pairs=1), "label_match") < 0.9
    assert [len(part) for part in beside({"any": stored(new)}, points, cells)[1:3]] == [160, 40]
    with pytest.raises(hw.BadInput, match="HW-GM-005 cells: holdout: no cell is held out"):
        beside({"any": stored(new)}, points, SimpleNamespace(split=np.zeros(200), obs=cells.obs))


def test_bad_points():
    good = normal(50, 0)
    with pytest.raises(hw.BadInput, match="HW-GM-001 generated"):
        hw.generation_metrics(np.full((50, 2), np.nan), good, good)
    with pytest.raises(hw.BadInput, match="HW-GM-001 held_out: 3 points .* larger cells: holdout"):
        hw.generation_metrics(good, good, good[:3])
    with pytest.raises(hw.BadInput, match="HW-GM-001 generated: 3 points .*; raise n_particles of particles"):
        hw.generation_metrics(good[:3], good, good)
    with pytest.raises(hw.BadInput, match="HW-GM-001 train: 3 points .*; use .* a smaller cells: holdout"):
        hw.generation_metrics(good, good[:3], good)
    with pytest.raises(hw.BadInput, match=r"HW-GM-001 generated: points of shape \(50, 3\)"):
        hw.generation_metrics(np.zeros((50, 3)), good, good)


@pytest.mark.parametrize(
    "options", [{"pairs": 0}, {"pairs": 2.5}, {"neighbors": 10}, {"neighbors": "5"}, {"most": 1}, {"most": 19}]
)
def test_bad_options(options):
    good = normal(50, 0)
    (name,) = options
    with pytest.raises(hw.BadInput, match=f"HW-GM-002 {name}: .* is no whole number from"):
        hw.generation_metrics(good, good, good, **options)
