"""pseudotime: the distance summed over all times, roots, branches, and the genes along the way."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import heatwalk as hw
from heatwalk.branches import taus
from heatwalk.genes import genes
from heatwalk.pseudotime import NO_DECAY, NO_PLACE, NO_ROOT, REASONS, map_of, suggested


def made(points, n_components=None, **options):
    """Graph and map of all modes, unless fewer are asked for."""
    nn = hw.neighbors(points, n_neighbors=min(options.pop("n_neighbors", 6), len(points) - 1))
    graph = hw.affinity(points, nn, bandwidth_neighbor=5, **options)
    return graph, hw.diffusion_map(graph, n_components=n_components or len(points) - 1)


def walk(graph):
    n_cells = len(graph.degrees)
    weights = scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr), shape=(n_cells, n_cells)).toarray()
    return weights / weights.sum(axis=1, keepdims=True)


def dense_distance(graph, root):
    """Rows of sum_{t >= 1} (P^t - 1 pi^T), which is (1 - P + 1 pi^T)^-1 - 1, compared in the norm of 1 / pi."""
    step, stationary = walk(graph), graph.stationary / graph.stationary.sum()
    centre = np.outer(np.ones(len(step)), stationary)
    total = np.linalg.inv(np.eye(len(step)) - step + centre) - np.eye(len(step)) - centre + centre @ centre
    return np.sqrt(((total - total[root]) ** 2 / stationary).sum(axis=1))


def line(n_cells=60, noise=0.02):
    x = np.linspace(0, 1, n_cells)
    return np.column_stack([x, noise * np.random.default_rng(0).normal(size=n_cells)])


def fork(n_cells=100):
    """Three arms from the middle, the first one the longest; the arm of every cell."""
    angle = np.repeat(2 * np.pi * np.arange(3) / 3, n_cells)
    along = np.tile(np.linspace(0.02, 1, n_cells), 3) * np.repeat([1.3, 1.1, 1.0], n_cells)
    noise = 0.01 * np.random.default_rng(1).normal(size=(3 * n_cells, 2))
    return np.column_stack([along * np.cos(angle), along * np.sin(angle)]) + noise, np.repeat([1, 2, 3], n_cells)


def cells_of(values, obs=None, removed=0):
    """Cells of dense values, as their stage gives them."""
    obs = pd.DataFrame(index=[f"cell{n}" for n in range(len(values))]) if obs is None else obs
    gone = pd.DataFrame({"threshold": ["1"], "cells": [removed]}, index=["min_counts"])
    n_genes = values.shape[1]
    fields = {"obs": obs, "var": pd.DataFrame(index=[f"gene{n}" for n in range(n_genes)]), "removed": gone}
    vectors = {"size_factors": np.ones(len(values)), "selected": np.ones(n_genes, bool), "logarithm": np.bool_(False)}
    split, shape = np.zeros(len(values), np.uint8), np.array([n_genes])
    return hw.Cells(**fields, **vectors, split=split, item_shape=shape, values=values)


# ---- the distance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_it_is_the_distance_of_the_walk_s_rows_summed_over_all_times(alpha):
    graph, map_ = made(np.random.default_rng(2).normal(size=(50, 3)), alpha=alpha)
    found = hw.pseudotime(map_, graph, roots=[7])
    np.testing.assert_allclose(found.pseudotime, dense_distance(graph, 7), rtol=1e-8, atol=1e-10)
    assert found.reason.max() == 0


def test_the_dense_sum_is_the_sum_of_powers():
    graph, _ = made(np.random.default_rng(2).normal(size=(30, 2)))
    step, stationary = walk(graph), graph.stationary / graph.stationary.sum()
    total, power = np.zeros_like(step), np.eye(30)
    for _ in range(4000):
        power = power @ step
        total += power - stationary
    distance = np.sqrt(((total - total[3]) ** 2 / stationary).sum(axis=1))
    np.testing.assert_allclose(distance, dense_distance(graph, 3), rtol=1e-8, atol=1e-10)


def test_on_a_cycle_it_is_what_its_eigenvalues_say():
    n_cells = 24
    step = np.arange(n_cells)
    indices = np.sort(np.stack([(step - 1) % n_cells, step, (step + 1) % n_cells], 1), axis=1)
    graph = SimpleNamespace(
        indptr=np.arange(0, 3 * n_cells + 1, 3), indices=indices.ravel().astype(np.int32), weights=np.ones(3 * n_cells),
        degrees=np.full(n_cells, 3.0), stationary=np.full(n_cells, 1 / n_cells), order=step,
        components=np.zeros(n_cells, np.int32),
    )  # fmt: skip
    found = hw.pseudotime(hw.diffusion_map(graph, n_components=n_cells - 1), graph, roots=[0])
    value = (1 + 2 * np.cos(2 * np.pi * step[1:] / n_cells)) / 3
    waves = 2 - 2 * np.cos(2 * np.pi * np.outer(step, step[1:]) / n_cells)
    expected = np.sqrt(waves @ (value / (1 - value)) ** 2)
    np.testing.assert_allclose(found.pseudotime, expected, rtol=1e-9, atol=1e-9)
    assert found.pseudotime.argmax() == n_cells // 2


def test_several_roots_give_the_least_distance():
    graph, map_ = made(line())
    both = hw.pseudotime(map_, graph, roots=[0, 40])
    apart = [hw.pseudotime(map_, graph, roots=[root]).pseudotime for root in (0, 40)]
    np.testing.assert_array_equal(both.pseudotime, np.minimum(*apart))
    assert list(both.roots["cell"]) == [0, 40]


def test_the_places_of_a_network_give_its_diffusion_distance():
    graph, map_ = made(line(), n_components=5)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    places = hw.coordinates(map_.eigenvalues, map_.eigenvectors, graph.components, t=2) @ turn
    found = hw.pseudotime(SimpleNamespace(coordinates=places), graph, roots=[3])
    np.testing.assert_allclose(found.pseudotime, np.linalg.norm(places - places[3], axis=1), atol=1e-12)


def test_the_map_of_a_dataset_is_the_spectral_one_where_there_is_one():
    spectral, network = dict.fromkeys(hw.DiffusionMap._fields, 1), dict.fromkeys(hw.DeepDiffusionMap._fields, 2)
    both = {"diffusion_map": spectral, "deep_diffusion_map": network}
    assert isinstance(map_of(both), hw.DiffusionMap)
    assert isinstance(map_of({"deep_diffusion_map": network}), hw.DeepDiffusionMap)


# ---- cells without one -----------------------------------------------------------------------------------------------


def test_a_component_without_a_root_has_none_and_says_why(caplog):
    points = np.concatenate([line(40), line(30) + 50, [[500.0, 500.0], [500.1, 500.0]]])
    graph, map_ = made(points, n_components=6, n_neighbors=4)
    with caplog.at_level("WARNING", "heatwalk"):
        found = hw.pseudotime(map_, graph, roots=[2])
    own = graph.components == graph.components[2]
    assert np.isfinite(found.pseudotime[own]).all()
    assert np.isnan(found.pseudotime[~own]).all()
    assert set(found.reason[~own]) == {NO_ROOT}
    assert set(found.branch[~own]) == {-1}
    assert f"{(~own).sum()} of 72 cells have none: {REASONS[NO_ROOT]}" in caplog.text


def test_a_component_too_small_for_all_modes_has_the_distance_of_those_it_has():
    points = np.concatenate([line(40), np.random.default_rng(0).normal(size=(5, 2)) + 99])
    graph, map_ = made(points, n_components=12, n_neighbors=4)
    small = np.flatnonzero(graph.components == 1)
    assert np.isnan(map_.eigenvalues[1, 4:]).all()
    found = hw.pseudotime(map_, graph, roots=[0, int(small[0])])
    part = [scipy.sparse.csr_array((graph.weights, graph.indices, graph.indptr))[small][:, small]][0]
    alone = SimpleNamespace(indptr=part.indptr, indices=part.indices, weights=part.data, degrees=graph.degrees[small])
    alone.stationary = graph.stationary[small]
    np.testing.assert_allclose(found.pseudotime[small], dense_distance(alone, 0), rtol=1e-8, atol=1e-10)


def test_cells_without_a_place_in_the_map_have_none():
    graph, map_ = made(line(), n_components=4)
    vectors = map_.eigenvectors.copy()
    vectors[[5, 9], 2] = np.nan
    found = hw.pseudotime(map_._replace(eigenvectors=vectors), graph, roots=[0])
    assert list(np.flatnonzero(np.isnan(found.pseudotime))) == [5, 9]
    assert list(found.reason[[5, 9]]) == [NO_PLACE] * 2


def test_a_mode_that_is_missing_leaves_no_distance():
    graph, map_ = made(line(), n_components=4)
    values = map_.eigenvalues.copy()
    values[1] = np.nan
    with pytest.raises(hw.BadInput, match="HW-PT-005 roots: none of the 1 cells of 0 has a place in the map"):
        hw.pseudotime(map_._replace(eigenvalues=values), graph, roots=[0])


@pytest.mark.parametrize("value", [1.0, 1 + 1e-14])
def test_eigenvalues_of_1_give_no_number(value):
    points = np.concatenate([line(40), line(30) + 50])
    graph, map_ = made(points, n_components=4)
    values = map_.eigenvalues.copy()
    values[1] = value
    found = hw.pseudotime(map_._replace(eigenvalues=values), graph, roots=[0, 41])
    assert set(found.reason[40:]) == {NO_DECAY}
    assert np.isnan(found.pseudotime[40:]).all()
    assert np.isfinite(found.pseudotime[:40]).all()
    with pytest.raises(hw.BadInput, match="HW-PT-005"):
        hw.pseudotime(map_._replace(eigenvalues=np.full((2, 4), value)), graph, roots=[0])


def test_pairs_that_did_not_converge_are_said(caplog):
    graph, map_ = made(line(), n_components=4)
    with caplog.at_level("WARNING", "heatwalk"):
        hw.pseudotime(map_._replace(converged=np.array([True, False, True, True])), graph, roots=[0])
    assert "1 of 4 pairs of the map did not converge" in caplog.text


def test_a_map_of_other_cells_is_refused():
    graph, _ = made(line(60))
    _, other = made(line(50), n_components=4)
    with pytest.raises(hw.BadInput, match="HW-PT-001 .*the map is of 50 cells, the graph of 60"):
        hw.pseudotime(other, graph, roots=[0])


# ---- roots -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def along():
    """A line of 60 cells with names, times and days."""
    graph, map_ = made(line(), n_components=5)
    obs = pd.DataFrame(
        {
            "embryo.time": np.linspace(100, 500, 60),
            "day": np.repeat([0, 2, 4], 20),
            "type": pd.Categorical(np.repeat(["early", "late"], 30)),
            "a=b": np.arange(60) % 2 == 0,
        },
        index=[f"cell{n}" for n in range(60)],
    )
    obs.loc["cell7", "embryo.time"] = np.nan
    return graph, map_, cells_of(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32), obs, removed=4)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("cell12", "cell12"),
        ("embryo.time=min", "cell0"),
        ("embryo.time=max", "cell59"),
        ("embryo.time=100", "cell0"),
        ("embryo.time=1e2", "cell0"),
    ],
)
def test_a_root_is_known_by_its_name_or_by_a_value(along, asked, name):
    graph, map_, cells = along
    found = hw.pseudotime(map_, graph, cells, roots=[asked])
    assert list(found.roots.index) == [name]
    assert list(found.roots["asked"]) == [asked]
    assert found.pseudotime[found.roots["cell"].iloc[0]] == 0


@pytest.mark.parametrize(
    ("asked", "group"), [("day=2", slice(20, 40)), ("type=early", slice(0, 30)), ("a=b=True", None)]
)
def test_many_cells_stand_for_the_one_in_their_middle(along, asked, group):
    graph, map_, cells = along
    number = hw.pseudotime(map_, graph, cells, roots=[asked]).roots["cell"].iloc[0]
    members = np.arange(60)[group] if group else np.arange(0, 60, 2)
    assert number in members
    if group:
        assert abs(number - members.mean()) <= 4


def test_a_group_in_two_components_has_a_root_in_each(along):
    points = np.concatenate([line(30), line(30) + 50])
    graph, map_ = made(points, n_components=4)
    found = hw.pseudotime(map_, graph, along[2], roots=["day=2", "cell25"])
    assert sorted(found.roots["component"]) == [0, 0, 1] or sorted(found.roots["component"]) == [0, 1, 1]
    assert np.isfinite(found.pseudotime).all()


@pytest.mark.parametrize(
    ("roots", "said"),
    [
        ([], r"HW-PT-002 roots: no root is given; set pseudotime: roots, for example to \[embryo.time=min\]"),
        (["cell99"], r"HW-PT-003 .*no cell 'cell99' among the 60 cells; quality control removed 4; .*such as cell0"),
        (["hour=3"], r"HW-PT-004 .*no column 'hour' in obs; use a column of obs: embryo.time, day, type, a=b"),
        (["day=3"], r"HW-PT-004 .*no cell has 'day=3': the column goes from 0 to 4; .*0, 2, 4, or min or max"),
        (["day=soon"], r"HW-PT-004 .*no cell has 'day=soon'"),
        (["type=middle"], r"HW-PT-004 .*no cell has 'type=middle'; use one of its values: early, late"),
        (["embryo.time=nan"], r"HW-PT-004 .*no cell has 'embryo.time=nan'"),
    ],
)
def test_a_root_that_is_not_there_is_one_clear_line(along, roots, said):
    graph, map_, cells = along
    with pytest.raises(hw.BadInput, match=said):
        hw.pseudotime(map_, graph, cells, roots=roots)


@pytest.mark.parametrize("root", [60, -1, "cell0"])
def test_without_names_a_root_is_a_number(along, root):
    graph, map_, _ = along
    with pytest.raises(hw.BadInput, match="HW-PT-003 .*is no number of a cell, 0 to 59"):
        hw.pseudotime(map_, graph, roots=[root])


def test_roots_are_suggested_from_columns_that_sound_like_time(along):
    assert suggested(along[2].obs) == ["embryo.time=min", "day=min"]


# ---- branches --------------------------------------------------------------------------------------------------------


def test_three_arms_are_three_branches():
    points, arm = fork()
    graph, map_ = made(points, n_components=15, n_neighbors=10)
    found = hw.pseudotime(map_, graph, roots=[99])
    assert set(arm[found.tips[0]]) == {1, 2, 3}
    second, third = arm[found.tips[0, 1:]]
    expected = np.select([arm == 1, arm == second, arm == third], [1, 2, 3])
    assert (found.branch == expected).mean() > 0.9
    decided = found.branch > 0
    assert (found.branch == expected)[decided].mean() > 0.97
    assert (found.agreement[0, :, 0] > 0.8).all()
    assert (found.agreement[0, :, 1] < -0.8).all()


@pytest.mark.parametrize("root", [0, 30])
def test_a_line_has_no_branches(root):
    graph, map_ = made(line(), n_components=10)
    assert set(hw.pseudotime(map_, graph, roots=[root]).branch) == {0}


def test_tau_is_kendall_s():
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    first, second = rng.normal(size=30), rng.normal(size=30)
    before, beyond = taus(first, second)
    for place in (2, 11, 28):
        np.testing.assert_allclose(before[place], kendalltau(first[:place], second[:place])[0])
        np.testing.assert_allclose(beyond[place], kendalltau(first[place:], second[place:])[0])


def test_branches_of_more_cells_than_tau_is_computed_of(monkeypatch):
    points, _ = fork()
    graph, map_ = made(points, n_components=15, n_neighbors=10)
    exact = hw.pseudotime(map_, graph, roots=[99]).branch
    monkeypatch.setattr("heatwalk.branches.FARTHEST_OF", 100)
    assert (hw.pseudotime(map_, graph, roots=[99]).branch == exact).mean() > 0.95


# ---- genes -----------------------------------------------------------------------------------------------------------


def planted(n_cells=400, n_genes=200, seed=0):
    """Counts of which gene 3 rises with a variable and gene 5 rises and falls; the variable."""
    rng = np.random.default_rng(seed)
    variable = rng.random(n_cells)
    rates = np.tile(rng.gamma(2.0, 0.5, n_genes), (n_cells, 1))
    rates[:, 3], rates[:, 5] = 8 * variable, 8 * np.sin(np.pi * variable)
    return rng.poisson(rates).astype(np.float32), variable


def sparse_cells(counts):
    matrix = scipy.sparse.csr_array(counts)
    factors = counts.sum(axis=1) / np.median(counts.sum(axis=1))
    fields = cells_of(counts)._replace(size_factors=factors, logarithm=np.bool_(True), values=None)
    return fields._replace(indptr=matrix.indptr.astype(np.int64), indices=matrix.indices, data=matrix.data)


def test_planted_genes_are_found_and_the_others_are_not():
    counts, variable = planted()
    found = genes(sparse_cells(counts), variable[:, None])
    correlation, rate = found.correlation[:, 0], found.false_discovery_rate[:, 0]
    assert np.argmax(np.abs(correlation)) == 3
    assert rate[3] < 1e-20
    assert (rate < 0.05).sum() <= 5
    assert set(np.argsort(found.relevance[:, 0])[-2:]) == {3, 5}
    assert abs(correlation[5]) < 0.2


def test_genes_agree_with_their_dense_twins():
    from scipy.stats import pearsonr

    counts, variable = planted(n_genes=20)
    counts[:, 7] = 0
    variables = np.column_stack([variable, np.random.default_rng(1).normal(size=400)])
    variables[:30, 1] = np.nan
    cells = sparse_cells(counts)
    found = genes(cells, variables, block_cells=64)
    values = np.log1p(counts.astype(float) / cells.size_factors[:, None])
    for place, gene in np.ndindex(2, 20):
        known = np.isfinite(variables[:, place])
        if gene == 7:
            assert np.isnan([each[gene, place] for each in found]).all()
            continue
        r, p = pearsonr(variables[known, place], values[known, gene])
        np.testing.assert_allclose(found.correlation[gene, place], r, atol=1e-12)
        np.testing.assert_allclose(found.p_value[gene, place], p, rtol=1e-6)
        own = values[known, gene][np.argsort(variables[known, place])]
        parts = [own[np.arange(len(own)) * 10 // len(own) == part] for part in range(10)]
        noise = [part.var(ddof=1) / len(part) for part in parts]
        change = sum((b.mean() - a.mean()) ** 2 for a, b in pairwise(parts))
        change -= sum(noise[:-1]) + sum(noise[1:])
        expected = np.sqrt(max(100 / 9 * change, 0) / own.var(ddof=1))
        np.testing.assert_allclose(found.relevance[gene, place], expected, atol=1e-6)


@pytest.mark.parametrize("offset", [0, 1e4])
def test_dense_values_far_from_0_give_the_same(offset):
    u = (np.arange(2000) + 0.5) / 2000
    values = np.column_stack([u, np.sin(2 * np.pi * u), np.ones(2000)])
    found = genes(cells_of(values + offset), u[:, None], block_cells=300, threads=2)
    np.testing.assert_allclose(found.correlation[:2, 0], [1, np.corrcoef(u, values[:, 1])[0, 1]], atol=1e-9)
    np.testing.assert_allclose(found.relevance[0, 0], np.sqrt(12), rtol=0.01)
    # Means of bins of a wave, a sin(2 pi (b + 1/2) / 10), and the sum of cos^2 over nine of ten places, which is 4.
    a = np.sin(np.pi / 10) / (np.pi / 10)
    np.testing.assert_allclose(
        found.relevance[1, 0], np.sqrt(100 / 9 * 4 * (2 * a * np.sin(np.pi / 10)) ** 2 / 0.5), rtol=0.002
    )
    assert np.isnan(found.correlation[2, 0])
    assert np.isnan(found.relevance[2, 0])


def test_under_the_null_p_values_are_uniform_and_discoveries_rare():
    rng = np.random.default_rng(0)
    values, variables = rng.normal(size=(100, 1000)), rng.normal(size=(100, 20))
    found = genes(cells_of(values), variables)
    for level in (0.01, 0.1, 0.5):
        np.testing.assert_allclose((found.p_value < level).mean(), level, rtol=0.1)
    with_any = (found.false_discovery_rate < 0.1).any(axis=0).mean()
    assert with_any <= 0.3  # 0.1 expected of 20


def test_the_share_of_false_discoveries_is_what_was_asked_for():
    rng = np.random.default_rng(1)
    variables = rng.normal(size=(100, 20))
    values = rng.normal(size=(100, 500))
    false, found_true = [], []
    for place in range(20):
        changed = values.copy()
        changed[:, :100] += 0.5 * variables[:, [place]]
        found = genes(cells_of(changed), variables[:, [place]]).false_discovery_rate[:, 0] < 0.1
        false.append(found[100:].sum() / max(found.sum(), 1))
        found_true.append(found[:100].mean())
    assert np.mean(false) < 0.1
    assert np.mean(found_true) > 0.9


def test_block_size_and_threads_leave_the_genes_as_they_are():
    counts, variable = planted()
    cells = sparse_cells(counts)
    one, two = (genes(cells, variable[:, None], block_cells=64, threads=threads) for threads in (1, 3))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)
    other = genes(cells, variable[:, None], block_cells=400)
    np.testing.assert_allclose(other.relevance, one.relevance, atol=1e-7)


def test_the_stage_gives_the_genes_of_pseudotime_and_of_every_mode(along):
    graph, map_, cells = along
    found = hw.pseudotime(map_, graph, cells, roots=["cell0"])
    expected = genes(cells, np.column_stack([found.pseudotime, map_.eigenvectors]))
    assert found.correlation.shape == (3, 6)
    np.testing.assert_array_equal(found.correlation, expected.correlation)


def test_genes_are_those_of_the_first_root_s_component():
    points = np.concatenate([line(40), line(30) + 50])
    graph, map_ = made(points, n_components=3)
    values = np.random.default_rng(0).normal(size=(70, 2))
    found = hw.pseudotime(map_, graph, cells_of(values), roots=["cell45", "cell3"])
    part = hw.pseudotime(map_, graph, cells_of(values), roots=["cell45"])
    np.testing.assert_array_equal(found.p_value, part.p_value)
    own = np.arange(70) >= 40
    r = np.corrcoef(found.pseudotime[own], values[own, 0])[0, 1]
    np.testing.assert_allclose(found.correlation[0, 0], r, atol=1e-12)
