"""report: the page is whole, safe and honest, and its numbers are what they are called."""

import base64
import hashlib
import html.parser
import io
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from heatwalk import evidence, pictures, store
from heatwalk.bilipschitz import bilipschitz
from heatwalk.compared import stretched
from heatwalk.pictures import Column, coloured
from heatwalk.report import report

HOSTILE = "</script><script>document.title='owned'</script>"
HOSTILE_COLUMN = "<img src=x onerror=\"document.title='owned'\"> $x^2$"
SECTIONS = ("map", "spectrum", "graph", "representation", "cells", "time", "provenance")


def published(folder, stage, arrays, run=None, **parameters):
    draft = store.create(folder / stage, stage)
    for name, value in arrays.items():
        draft[name] = value
    if not arrays:
        draft.group.create_array("atlas", shape=(1,), dtype="i4")
    store.publish(draft, parameters=parameters, code="c0de", inputs={})
    if run is not None:
        (folder / stage / "run.json").write_text(json.dumps(run))
    return store.read(folder / stage)


def results(
    folder,
    *,
    n_cells=300,
    pieces=(),
    modes=4,
    recall=1.0,
    residual=1e-13,
    obs=None,
    removed=10,
    run=True,
    landmark_error=np.nan,
):
    """A small published dataset; pieces: numbers of cells outside the largest component of the graph."""
    rng = np.random.default_rng(0)
    folder = folder / "results" / "tiny"
    labels = np.repeat(np.arange(len(pieces) + 1), [n_cells - sum(pieces), *pieces]).astype(np.int32)
    names = [f"cell-{number}" for number in range(n_cells)]
    # A table with no columns is a table all the same.
    obs = pd.DataFrame({"kind": np.array(["a", "b", "c"])[np.arange(n_cells) % 3]}) if obs is None else obs
    obs.index = names
    values = np.linspace(0.98, 0.6, modes + 3)
    eigenvalues, spectrum = values[:modes], values
    residuals = np.full(modes, residual)
    if pieces:
        eigenvalues, spectrum, residuals = (
            np.tile(row, (len(pieces) + 1, 1)) for row in (values[:modes], values, residuals)
        )
    record = {
        "seconds": 75.0,
        "peak_memory_bytes": 2_500_000_000,
        "threads": 2,
        "started": "2026-01-02T03:04:05+00:00",
        "host": "node",
        "versions": {"numpy": "2"},
        "notes": ["a note of the stage"],
    }
    gone = pd.DataFrame({"threshold": [200.0], "cells": [removed]}, index=pd.Index(["too few genes"], name="reason"))
    counts = rng.integers(6, 20, n_cells)
    positive = rng.lognormal(size=n_cells)
    arrays = {
        "cells": {"obs": obs, "removed": gone, "split": (np.arange(n_cells) % 10 == 0).astype(np.uint8),
                  "selected": np.arange(50) < 20,
                  "var": pd.DataFrame({"symbol": [f"<g{n}>" for n in range(50)]}, index=[f"id{n}" for n in range(50)])},
        "pca": {"coordinates": rng.normal(size=(n_cells, 6)).astype(np.float32), "variances": np.arange(6, 0, -1.0),
                "total_variance": np.float64(40)},
        "neighbors": {"recall": np.float64(recall), "probes": np.int64(8)},
        "affinity": {"indptr": np.concatenate([[0], counts.cumsum()]), "degrees": positive, "density": positive,
                     "bandwidths": positive, "components": labels},
        "diffusion_map": {"eigenvalues": eigenvalues, "eigenvectors": rng.normal(size=(n_cells, modes)),
                          "residuals": residuals, "converged": residuals <= 1e-10, "spectrum": spectrum,
                          "solver": np.full(len(pieces) + 1, 2, np.uint8),
                          "landmark_error": np.float64(landmark_error)},
        "atlas": {},
    }  # fmt: skip
    parameters = {
        "cells": {"kind": "counts", "selection": {"n_genes": 20}},
        "neighbors": {"min_recall": 0.99, "n_neighbors": 5},
        "diffusion_map": {"tolerance": 1e-10, "n_components": modes},
        "atlas": {"t": 1.0},
    }
    return {
        stage: published(folder, stage, each, record if run else None, **parameters.get(stage, {}))
        for stage, each in arrays.items()
    }


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.seen = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.seen += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(tmp_path, made, **options):
    done = report(made, tmp_path / "report.html", dataset="tiny", **options)
    text = done.path.read_text("utf-8")
    return done, text, Page(text)


def hostile_obs(n_cells=300):
    levels = np.array([HOSTILE, "{{ 7 * 7 }}", "$a_b"])
    return pd.DataFrame({HOSTILE_COLUMN: pd.Categorical(levels[np.arange(n_cells) % 3])})


def test_page_is_whole_and_stands_alone(tmp_path):
    done, text, read = page(tmp_path, results(tmp_path))
    assert done.warnings == ()
    assert [each["id"] for each in read.all("section")] == list(SECTIONS)
    assert "All 4 pairs converged; recall 1.000; the graph is connected." in read.seen
    assert "Landmarks" not in read.seen
    for tag, attributes in read.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "background"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert not read.all("script")
    policy = next(each["content"] for each in read.all("meta") if "http-equiv" in each)
    style = re.search("<style>(.*)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';")
    assert all(each["alt"] for each in read.all("img"))
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in read.all("svg"))
    headings = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(headings))


def test_page_says_what_was_done(tmp_path):
    _, text, read = page(tmp_path, results(tmp_path))
    for words in (
        "300",
        "2026-01-02 03:04",
        "1 min 15 s",
        "7 min 30 s",
        "2.5 GB",
        "a note of the stage",
        "too few genes",
    ):
        assert words in read.seen
    for words in ("heatwalk verify results/tiny", "selection.n_genes", "They hold 52.5% of the variance"):
        assert words in read.seen
    assert "Quality control removed 10, 3.2% of those that came in" in read.seen
    assert "270; 30 are held out" in read.seen
    assert "STYLE-HASH" not in text


def test_names_from_the_input_are_text(tmp_path):
    _, text, read = page(tmp_path, results(tmp_path, obs=hostile_obs()))
    assert "<script" not in text
    assert len(read.all("img")) == text.count('src="data:image/png')
    for name in (HOSTILE, HOSTILE_COLUMN, "{{ 7 * 7 }}", "$a_b"):
        assert name in read.seen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"residual": 3e-8}, "4 of 4 pairs did not converge (component 1, 2, 3, 4; residual 3 \u00d7 10⁻⁸)"),
        ({"recall": 0.9}, "found 90.0% of the true neighbours; 99.0% were asked for"),
        ({"pieces": (60, 20)}, "The graph is in 3 pieces; 80 of 300 cells are outside the largest"),
        ({"removed": 100}, "Quality control removed 25% of the cells (100)"),
    ],
)
def test_what_is_off_is_said_first_and_alone(tmp_path, change, words):
    done, _, read = page(tmp_path, results(tmp_path, **change))
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith(words) or words in done.warnings[0]
    assert words in read.seen[: read.seen.index("Every cell is linked")]


def test_column_of_depth_that_goes_with_a_component_is_a_warning_and_a_cell_type_is_not(tmp_path):
    made = results(tmp_path)
    first = np.asarray(made["diffusion_map"]["eigenvectors"][:, 0])
    obs = pd.DataFrame({"total_counts": 1000 + 10 * first, "cell_type": pd.cut(first, 6).astype(str)})
    done, _, read = page(tmp_path, results(tmp_path, obs=obs))
    assert [warning[:36] for warning in done.warnings] == ["total_counts goes with DC 1 (100%). "]
    assert re.search(r"cell_type: DC 1 \(\d\d%\)", read.seen)


def test_gap_inside_a_group_is_a_warning(tmp_path):
    made = results(tmp_path)
    spectrum = np.array([0.98, 0.9, 0.8, 0.7, 0.7 - 1e-6, 0.5])
    made["diffusion_map"] = {name: made["diffusion_map"][name] for name in made["diffusion_map"]} | {
        "spectrum": spectrum
    }
    made["diffusion_map"] = with_record(made["diffusion_map"], tolerance=1e-10)
    done, _, _ = page(tmp_path, made)
    assert done.warnings[0].startswith("Components 4 and 5 are almost equally slow")


def with_record(arrays, **parameters):
    """A result in memory: the report needs no more than this of one."""
    kind = type("Result", (dict,), {"manifest": {"parameters": parameters, "root": "r"}, "run": {}})
    return kind(arrays)


def test_column_that_is_not_there_is_said_and_the_rest_is_drawn(tmp_path):
    done, _, read = page(tmp_path, results(tmp_path), color_by=["kind", "kimd"])
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith("Asked to colour by kimd")
    assert "Coloured by kind" in read.seen


def test_pieces_of_the_graph_are_drawn_apart(tmp_path):
    made = results(tmp_path, pieces=(60, 50, 20))
    _, _, read = page(tmp_path, made)
    assert "Piece 2: 60 cells" in read.seen
    assert "Piece 3: 50 cells" in read.seen
    assert "Piece 4:" not in read.seen
    assert len(read.all("img")) == 3 + 2


@pytest.mark.parametrize(
    ("error", "said", "warned"),
    [
        (0.0123, "distances off by 1.23%", ""),
        (
            0.0821,
            "distances off by 8.21%",
            "Diffusion distances by landmarks are off by 8%. Set diffusion_map: landmarks",
        ),
        (np.nan, "distances off by an unknown share", "Diffusion distances by landmarks are off by an unknown share."),
    ],
)
def test_pairs_by_landmarks_are_told_with_their_error_and_are_no_failure(tmp_path, error, said, warned):
    made = with_spectra(results(tmp_path, residual=3e-4, landmark_error=error), solver=np.array([3], np.uint8))
    done, _, read = page(tmp_path, made)
    assert f"4 of 4 pairs by landmarks, {said}; recall 1.000" in read.seen
    assert "Landmarks stand for the exact pairs here" in read.seen
    assert [warning[: len(warned)] for warning in done.warnings] == [warned] * bool(warned)


def test_pieces_that_landmarks_do_not_stand_for_are_judged_by_their_residuals(tmp_path):
    made = results(tmp_path, pieces=(60,), residual=3e-4, landmark_error=0.01)
    _, _, read = page(tmp_path, with_spectra(made, solver=np.array([3, 1], np.uint8)))
    assert "4 of 8 pairs did not converge; 4 of 8 pairs by landmarks, distances off by 1.00%; recall" in read.seen


@pytest.mark.parametrize("modes", [1, 2])
def test_few_components_nan_coordinates_no_columns_and_no_record(tmp_path, modes):
    made = results(tmp_path, modes=modes, obs=pd.DataFrame(index=range(300)), run=False)
    arrays = {name: made["diffusion_map"][name] for name in made["diffusion_map"]}
    arrays["eigenvectors"] = np.array(arrays["eigenvectors"][:])
    arrays["eigenvectors"][:7] = np.nan
    made["diffusion_map"] = with_record(arrays, tolerance=1e-10)
    del made["atlas"]
    done, _, read = page(tmp_path, made)
    assert done.warnings[0].startswith("7 cells of the largest piece have no coordinates")
    assert "Coloured by density of cells" in read.seen
    assert "not recorded" in read.seen
    assert len(read.all("img")) == 1


def with_spectra(made, **arrays):
    old = made["diffusion_map"]
    made["diffusion_map"] = with_record({name: old[name][...] for name in old} | arrays, **old.manifest["parameters"])
    return made


@pytest.mark.parametrize("bandwidth", ["adaptive", 0.1])
def test_graph_without_links_is_said_with_what_to_change(tmp_path, bandwidth):
    made = results(tmp_path, n_cells=30, pieces=(1,) * 29, removed=0)
    none = np.full((30, 4), np.nan)
    with_spectra(made, eigenvalues=none, residuals=none, converged=none == 0, spectrum=none, eigenvectors=none)
    made["affinity"].manifest["parameters"]["bandwidth"] = bandwidth
    done, _, read = page(tmp_path, made)
    assert "pairs converged;" not in read.seen
    assert "No eigenpair could be computed; recall 1.000; the graph is in 30 pieces." in read.seen
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith("No eigenpair could be computed: every cell is a component of its own")
    assert "n_neighbors" in done.warnings[0]
    assert ("affinity: bandwidth or set it to adaptive" in done.warnings[0]) == (bandwidth != "adaptive")


def test_pieces_smaller_than_the_number_of_components_get_advice_that_helps(tmp_path):
    made = results(tmp_path, n_cells=6, pieces=(3,), removed=0)
    found = {name: np.array(made["diffusion_map"][name]) for name in ("eigenvalues", "residuals", "eigenvectors")}
    for values in found.values():
        values[:, 2:] = np.nan
    done, _, read = page(tmp_path, with_spectra(made, **found))
    assert "All 4 pairs converged" in read.seen
    assert any("The largest piece has 3 cells and so 2 components, not the 4" in each for each in done.warnings)
    assert not any("verify" in each for each in done.warnings)


def test_pairs_that_are_not_finite_are_not_a_matter_of_tolerance(tmp_path):
    made = results(tmp_path)
    residuals, converged = np.full(4, np.nan), np.zeros(4, bool)
    done, _, _ = page(tmp_path, with_spectra(made, residuals=residuals, converged=converged))
    assert "residual not finite" in done.warnings[0]
    assert "tolerance" not in done.warnings[0]
    none = np.full(4, np.nan)
    vectors = np.full((300, 4), np.nan)
    done, _, read = page(tmp_path, with_spectra(made, eigenvalues=none, spectrum=none, eigenvectors=vectors))
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith("No eigenpair could be computed, though the largest piece of the graph has 300")
    assert "No eigenpair could be computed; recall" in read.seen


def test_same_results_give_the_same_bytes_and_leave_random_state_alone(tmp_path):
    made = results(tmp_path)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = report(made, tmp_path / "one.html", dataset="tiny").path.read_bytes()
    np.random.default_rng().random()
    assert first == report(made, tmp_path / "two.html", dataset="tiny").path.read_bytes()
    assert (np.random.get_state()[1] == before).all()


def test_stretch_of_a_map_is_its_local_constant_beside_the_representation(tmp_path):
    made = results(tmp_path, n_cells=120, pieces=(20,))
    ((name, found),) = stretched(made, np.asarray(made["affinity"]["components"][:]), 1.0)
    values = np.asarray(made["diffusion_map"]["eigenvalues"][:])[0]
    places = np.asarray(made["diffusion_map"]["eigenvectors"][:100]) * values
    data = np.asarray(made["pca"]["coordinates"][:100], np.float64)
    assert (name, found) == ("map", np.median(bilipschitz(places, data, k=10).rescaled))
    assert f"differ by factors up to {pictures.number(found, 2)} by the map" in page(tmp_path, made)[2].seen


def test_many_cells_are_blended_and_few_are_dots(monkeypatch):
    rng, used = np.random.default_rng(0), []
    for name in ("_dots", "_shaded"):
        draw = getattr(pictures, name)
        monkeypatch.setattr(pictures, name, lambda *args, draw=draw, name=name: used.append(name) or draw(*args))
    points = rng.normal(size=(60_000, 2))
    points[:5] = np.nan
    levels = coloured(Column("level", ("a", "b", "c"), rng.integers(-1, 3, 60_000).astype(np.int32)))
    values = coloured(Column("value", values=np.where(points[:, 0] > 1, np.nan, points[:, 1])))
    for column in (levels, values):
        drawn = pictures.picture(points, column, (1, 2), 100)
        assert drawn.image.startswith("data:image/png;base64,")
        pictures.picture(points[:500], column.of(np.arange(500)), (1, 2), 100)
    assert used == ["_shaded", "_dots"] * 2


def test_dots_have_the_colours_of_their_levels_and_stand_at_their_places():
    from PIL import Image

    points = np.array([[0.0, 0.0], [1.0, 1.0], [np.nan, 0.5]])
    column = coloured(Column("level", ("low", "high"), np.array([0, 1, 1], np.int32)))
    drawn = pictures.picture(points, column, (1, 2), 200)
    image = Image.open(io.BytesIO(base64.b64decode(drawn.image.partition(",")[2]))).convert("RGBA")
    for (x, y), colour in zip(points[:2], column.colours, strict=True):
        left = round(200 * (x - drawn.x[0]) / (drawn.x[1] - drawn.x[0]))
        top = round(200 * (drawn.y[1] - y) / (drawn.y[1] - drawn.y[0]))
        wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert np.abs(np.array(image.getpixel((left, top))[:3]) - wanted).max() <= 6
    assert image.getpixel((100, 100))[3] == 0


def test_limits_hold_rare_populations_and_leave_out_what_is_far():
    values = np.concatenate([np.random.default_rng(0).normal(size=100_000), [1e4, -1e4]])
    low, high = pictures.limits(values)
    assert -8 < low < -3
    assert 3 < high < 8
    rare = np.concatenate([np.zeros(1000), np.full(10, 50.0)])
    assert pictures.limits(rare)[1] > 50
    assert pictures.limits(np.full(3, 2.0)) == (1.5, 2.5)
    assert pictures.limits(np.full(3, np.nan)) == (0, 1)


def test_r_squared_is_that_of_the_direct_formula(monkeypatch):
    monkeypatch.setattr("heatwalk.compute.BLOCK_CELLS", 16)  # several blocks
    rng = np.random.default_rng(0)
    matrix = 1e4 + rng.normal(size=(1000, 3))
    matrix[rng.random((1000, 3)) < 0.1] = np.nan
    codes = rng.integers(-1, 5, 1000).astype(np.int32)
    values = np.where(rng.random(1000) < 0.1, np.nan, matrix[:, 0] + rng.normal(size=1000))
    matrix[:, 1] += codes
    inside = rng.random(1000) < 0.8
    columns = [Column("level", tuple("abcde"), codes), Column("value", values=values)]
    found = evidence.association(matrix, columns, 3, inside)
    for mode in range(3):
        x = matrix[:, mode]
        have = np.isfinite(x) & inside & (codes >= 0)
        groups = pd.Series(x[have]).groupby(codes[have])
        between = (groups.size() * (groups.mean() - x[have].mean()) ** 2).sum()
        assert found[0, mode] == pytest.approx(between / ((x[have] - x[have].mean()) ** 2).sum(), abs=1e-9)
        have = np.isfinite(x) & inside & np.isfinite(values)
        assert found[1, mode] == pytest.approx(np.corrcoef(x[have], values[have])[0, 1] ** 2, abs=1e-9)


def test_columns_become_levels_or_numbers():
    n = 400
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "same": "x",
            "name": [f"cell-{number}" for number in range(n)],
            "day": np.arange(n) % 4 * 2.0,
            "time bin": np.array([">650", "<100", "130-170", "100-130"])[np.arange(n) % 4],
            "flag": np.arange(n) % 2 == 0,
            "depth": rng.lognormal(8, 1, n),
            "text": np.where(np.arange(n) % 3 == 0, None, "t"),
            "cluster": pd.Categorical([f"group {number % 60}" for number in range(n)]),
        }
    )
    found = {name: evidence.column(name, obs[name]) for name in obs}
    assert found["same"] is None
    assert found["name"] is None
    assert found["text"] is None
    assert found["day"].levels == ("0", "2", "4", "6")
    assert found["day"].ordered
    assert found["time bin"].levels == ("<100", "100-130", "130-170", ">650")
    assert found["time bin"].ordered
    assert [found["time bin"].levels[code] for code in found["time bin"].codes[:4]] == list(obs["time bin"][:4])
    assert found["cluster"].levels[:3] == ("group 0", "group 1", "group 2")
    assert found["flag"].levels == ("False", "True")
    assert found["depth"].levels == ()
    assert found["depth"].scale[2]  # logarithmic
    keys = pictures.legend(found["cluster"])
    assert len(keys) == pictures.LEVELS_UP_TO
    assert keys[-1].name == "21 smaller groups"
    assert sum(key.cells for key in keys) == n


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_browser_shows_it_and_runs_nothing(tmp_path):
    from PIL import Image

    done = report(results(tmp_path, obs=hostile_obs()), tmp_path / "report.html", dataset="tiny")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    flags += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=390,1200",
        f"--screenshot={tmp_path / 'shot.png'}",
    ]

    def chromium(*more):
        command = ["chromium", *flags, *more, done.path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    chromium()
    with Image.open(tmp_path / "shot.png") as shot:
        assert shot.width == 390
        assert len(shot.convert("RGB").getcolors(2**20)) > 50
    shown = chromium("--dump-dom")
    assert "<title>tiny \u2013 heatwalk report</title>" in shown
    assert "All 4 pairs converged" in shown
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in shown
    assert not Page(shown).all("script")


def test_many_cells_are_counted_in_thousands_and_millions_beside_the_axis():
    chart = pictures.histogram(np.random.default_rng(0).integers(0, 3, 3_000_000), "x", "about")
    assert [text for _, text in chart.y_ticks] == ["0", "0.5 M", "1 M"]
    fewer = pictures.histogram(np.repeat(np.arange(3.0), 150_000), "x", "about")
    assert [text for _, text in fewer.y_ticks] == ["0", "50 k", "100 k", "150 k"]
    few = pictures.histogram(np.repeat(np.arange(3.0), 1000), "x", "about")
    assert [text for _, text in few.y_ticks][-1] == "1,000"


# ---- pseudotime ------------------------------------------------------------------------------------------------------


def timed(folder, *, pieces=(), branching=True, modes=4):
    """A published dataset with pseudotime from one root in the largest piece, made up."""
    made = results(folder, pieces=pieces, modes=modes)
    rng, own = np.random.default_rng(1), np.asarray(made["affinity"]["components"][:]) == 0
    time = np.where(own, np.linspace(0, 20, 300), np.nan)
    branch = np.where(own, np.arange(300) % 4 if branching else 0, -1).astype(np.int8)
    table = pd.DataFrame({"cell": [0], "component": [0], "asked": ["day=<0>"]}, index=pd.Index(["cell-0"], name="name"))
    genes = rng.random((50, 1 + modes))
    correlation = 2 * genes - 1
    correlation[7, 0], correlation[9] = -0.999, np.nan
    arrays = {
        "pseudotime": time, "reason": np.where(own, 0, 1).astype(np.uint8), "branch": branch, "roots": table,
        "tips": np.zeros((1 + len(pieces), 3), np.int64), "agreement": np.full((1 + len(pieces), 3, 2), 0.5),
        "correlation": correlation, "p_value": genes, "false_discovery_rate": np.where(genes > 0.5, 1, 0.01),
        "relevance": genes,
    }  # fmt: skip
    return {**made, "pseudotime": published(folder / "results" / "tiny", "pseudotime", arrays, roots=["day=<0>"])}


def section_of(folder, made):
    made = report(made, folder / "report.html", dataset="tiny")
    text = made.path.read_text()
    return text.partition('<section id="pseudotime">')[2].partition("</section>")[0], made.warnings


def test_pseudotime_has_pictures_branches_and_genes(tmp_path):
    section, warnings = section_of(tmp_path, timed(tmp_path))
    assert section.count("data:image/png") == 2
    assert "Three branches were found" in section
    assert "cell-0</bdi> (asked for as <bdi>day=&lt;0&gt;</bdi>)" in section
    assert section.partition("<tbody>")[2].startswith("<tr><td><bdi>&lt;g7&gt;</bdi></td>")
    assert "&lt;g9&gt;" not in section
    assert not any("pseudotime" in warning for warning in warnings)


def test_pseudotime_without_branches_or_with_one_component_says_so(tmp_path):
    section, _ = section_of(tmp_path, timed(tmp_path, branching=False, modes=1))
    assert section.count("data:image/png") == 1
    assert "No branching was found" in section


def test_cells_that_no_root_reaches_are_counted_and_told(tmp_path):
    section, warnings = section_of(tmp_path, timed(tmp_path, pieces=(60,)))
    assert "60 (no root in its piece of the graph)" in section
    assert "240 of 300 cells" in section
    assert any(warning.startswith("60 of 300 cells have no pseudotime") for warning in warnings)
