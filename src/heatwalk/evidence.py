"""What a reader of the report must know: which columns of obs go with which component, and what is off."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heatwalk import compute, pictures
from heatwalk.diffusion_map import LANDMARKS
from heatwalk.errors import first_few
from heatwalk.pictures import Column, number
from heatwalk.pseudotime import TIME

DEPTH = re.compile(r"total_?counts|n_?(counts?|umis?|genes|features?)|library_?size|depth|mito|(pct|percent).*mt", re.I)
BATCH = re.compile(
    r"batch|sample|donor|patient|subject|individual|replicate|library|plate|lane|chip|flowcell|pool|(^|_)run(_|$)|site"
    r"|cent(er|re)|protocol|chemistry|orig.?ident|dataset|study",
    re.I,
)
LEVELS = 100  # a column with more says little about each of them
_FIGURES = 6
_REMOVED = 0.2  # share of the cells
_WEIGHTS = (
    "The weights of the graph may hold NaN: look at pca for values that are not finite, set affinity: bandwidth: "
    "adaptive, then run affinity and diffusion_map again."
)
_FAR = 0.05  # relative error of diffusion distances by landmarks, or by a network
_NARROW = 0.005  # eigengap beside the distance from 1


class Concern(NamedTuple):
    text: str
    remedy: str


class Spectra(NamedTuple):
    """What the diffusion map gave, with the axis of the graph's components; the first is the largest."""

    eigenvalues: np.ndarray  # (component, mode)
    residuals: np.ndarray
    converged: np.ndarray
    spectrum: np.ndarray  # (component, computed)

    @classmethod
    def of(cls, results) -> "Spectra":
        """Of the map, or of the network that stands for it: estimates, that are as good as they are."""
        if "diffusion_map" in results:
            return cls(*(np.atleast_2d(results["diffusion_map"][name][...]) for name in cls._fields))
        values, residuals = (
            np.atleast_2d(results["deep_diffusion_map"][name][...]) for name in ("eigenvalues", "residuals")
        )
        return cls(values, residuals, np.ones(values.shape, bool), values)


def recall(results) -> float:
    return float(results["neighbors"]["recall"][...])


def by_landmarks(results) -> np.ndarray:
    """(component, 1) whether landmarks stand for the exact pairs of a component."""
    if "diffusion_map" not in results:
        return np.zeros((1, 1), bool)
    return np.asarray(results["diffusion_map"]["solver"][:])[:, None] == LANDMARKS


def verdict(results, spectra: Spectra) -> str:
    """What became of the pairs."""
    if "diffusion_map" not in results:
        found = results["deep_diffusion_map"]
        off = f"{float(found['error'][...]):.2%}".replace("nan%", "an unknown share")
        whole = int(found["error_cells"][...]) == found["coordinates"].shape[0]
        where = "" if whole else f" on a sample of {int(found['error_cells'][...]):,} with a network of its own"
        return f"{spectra.eigenvalues.shape[1]} components by a network alone, distances off by {off}{where}"
    kept, exact = np.isfinite(spectra.eigenvalues), ~by_landmarks(results)
    if not kept.any():
        return "No eigenpair could be computed"
    missed = int((kept & exact & ~spectra.converged).sum())
    told = [f"{missed} of {kept.sum()} pairs did not converge"] if missed else []
    if not exact.all():
        off = f"{float(results['diffusion_map']['landmark_error'][...]):.2%}".replace("nan%", "an unknown share")
        told.append(f"{(kept & ~exact).sum()} of {kept.sum()} pairs by landmarks, distances off by {off}")
    return "; ".join(told) or f"All {kept.sum()} pairs converged"


def kind(name: str) -> str:
    """What the name of a column says about it: depth, batch or nothing."""
    return "depth" if DEPTH.search(name) else "batch" if BATCH.search(name) else ""


# ---- columns of obs --------------------------------------------------------------------------------------------------


def column(name: str, series) -> Column | None:
    """A column that tells cells apart, or None: levels, or numbers with too many different values to be levels."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series):
        if pd.api.types.is_complex_dtype(series):
            return None
        values = series.to_numpy(np.float64, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        different = np.unique(values[~np.isnan(values)])
        if len(different) < 2:
            return None
        few = len(different) <= min(pictures.LEVELS_UP_TO, len(values) / 5)
        if not few or (different != np.round(different)).any():
            return pictures.coloured(Column(name, values=values))
        codes = np.where(np.isnan(values), -1, np.searchsorted(different, values)).astype(np.int32)
        levels = tuple(f"{value:.0f}" for value in different)
        return pictures.coloured(Column(name, levels, codes, ordered=bool(TIME.search(name))))
    if not isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype("string").astype("category")
    series = series.cat.remove_unused_categories()
    if not 2 <= len(series.cat.categories) <= max(LEVELS, len(series) // 20):
        return None
    levels, ordered = [str(level) for level in series.cat.categories], bool(series.cat.ordered)
    order = list(range(len(levels)))
    if not ordered and levels == sorted(levels):  # nobody chose an order: 2 comes before 10, and hours are in sequence
        ordered = bool(TIME.search(name)) and all(re.search(r"\d", level) for level in levels)
        order.sort(key=lambda place: _by_number(levels[place], ordered))
    place = np.append(np.argsort(order), -1)  # the last one is for code -1
    codes = place[series.cat.codes.to_numpy()].astype(np.int32)
    return pictures.coloured(Column(name, tuple(levels[old] for old in order), codes, ordered=ordered))


def densities(results) -> list[Column]:
    """What a diffusion model says of every cell."""
    if "riemannian_diffusion" not in results:
        return []
    found, names = results["riemannian_diffusion"], {"log_density": "log-density on the space"}
    names |= {"out_of_distribution": "out of distribution"}
    return [pictures.coloured(Column(text, values=np.asarray(found[key][:]))) for key, text in names.items()]


def _by_number(level: str, first: bool) -> list:
    """A key that sorts digits by their value; by the first number before all else where that is a time."""
    parts = re.split(r"(\d+)", level)
    parts = [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]
    return [parts[1], {"<": -1, ">": 1}.get(level[0], 0)] if first else parts


def choose(columns: list[Column], names: list[str], color_by: Sequence[str]) -> tuple[list[Column], list[str]]:
    """Columns to colour by, and those asked for that cannot be."""
    if color_by:
        known = {column.name: column for column in columns}
        return [known[name] for name in color_by if name in known], [name for name in color_by if name not in known]
    groups = [column for column in columns if 2 <= len(column.levels) <= pictures.LEVELS_UP_TO]
    numbers = [column for column in columns if not column.levels]
    # Depth once; what else is known of the cells says more than its other measures.
    numbers.sort(key=lambda column: (column.name != "total_counts", kind(column.name) == "depth"))
    numbers = numbers[: max(2, _FIGURES - len(groups)) if not groups else 2]
    return [*groups[: _FIGURES - min(len(numbers), 1)], *numbers][:_FIGURES], []


def association(matrix, columns: Sequence[Column], n_modes: int, inside: np.ndarray | None = None) -> np.ndarray:
    """R^2 of every column with each of the first components, (column, component), one pass over blocks of cells.

    Numbers: the squared correlation. Levels: eta^2, the variance between levels divided by all of it. Cells where
    either is missing, or that are not `inside`, do not count.
    """
    shift, sums = None, [0.0] * len(columns)
    middle = [0.0 if column.levels else np.nanmean(column.values) for column in columns]
    for rows in compute.blocks(matrix.shape[0], 8 * compute.BLOCK_CELLS):
        block = np.array(matrix[rows, :n_modes], np.float64)
        if inside is not None:
            block[~inside[rows]] = np.nan
        known = np.isfinite(block)
        # Sums of squares about a value near the mean: they do not cancel.
        shift = np.where(known, block, 0).sum(0) / np.maximum(known.sum(0), 1) if shift is None else shift
        block = np.where(known, block - shift, 0)
        for place, column in enumerate(columns):
            sums[place] = sums[place] + _block_sums(column, middle[place], rows, block, known)
    return np.array([_r_squared(total, bool(column.levels)) for total, column in zip(sums, columns, strict=True)])


def _block_sums(column: Column, middle: float, rows: slice, block: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Levels: (level, 3, component) of number, sum, squares. Numbers: (6, component), also of the column's own."""
    import scipy.sparse

    if column.levels:
        codes = column.codes[rows]
        have = np.flatnonzero(codes >= 0)
        place = (codes[have], have)
        membership = scipy.sparse.csr_array((np.ones(len(have)), place), shape=(len(column.levels), len(codes)))
        return np.stack([membership @ known, membership @ block, membership @ block**2], axis=1)
    values = column.values[rows] - middle
    have = np.isfinite(values)
    values = np.where(have, values, 0)
    pairs = [(have, known), (have, block), (have, block**2), (values, known), (values**2, known), (values, block)]
    return np.stack([left.astype(np.float64) @ right for left, right in pairs])


def _r_squared(sums: np.ndarray, levels: bool) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        if levels:
            cells, total, squares = sums.sum(axis=0)
            mean = total**2 / cells
            between = np.where(sums[:, 0] > 0, sums[:, 1] ** 2 / sums[:, 0], 0).sum(axis=0) - mean
            ratio = between / (squares - mean)
        else:
            cells, x, xx, y, yy, xy = sums
            ratio = (xy - x * y / cells) ** 2 / ((xx - x**2 / cells) * (yy - y**2 / cells))
    return np.where(np.isfinite(ratio), np.clip(ratio, 0, 1), np.nan)


# ---- what a reader must not miss -------------------------------------------------------------------------------------


def concerns(results, spectra: Spectra, components, cells: dict, representation: dict, map_: dict, unknown) -> list:
    found = [
        *_about_search(results),
        *_about_pairs(results, spectra),
        *_about_graph(results, spectra, components, map_),
        *_about_columns(representation),
    ]
    found += about_cells(cells, unknown)
    for stage, result in results.items():
        for name, root in (result.manifest.get("inputs") or {}).items():
            if name in results and root != results[name].manifest["root"]:
                text = f"{stage} was made from another result of {name} than the one shown here."
                found.append(Concern(text, "Run the workflow again: it remakes what is out of step."))
    return found


def about_cells(cells: dict, unknown: list[str]) -> list[Concern]:
    """What quality control removed, and columns that cannot be drawn."""
    found = []
    if cells["share"] > _REMOVED:
        text = f"Quality control removed {cells['share']:.0%} of the cells ({cells['gone']:,})."
        remedy = "Look at the histograms under Cells; loosen the threshold that removed most if it cuts a population."
        found.append(Concern(text, remedy))
    if unknown:
        remedy = f"Ask for columns of obs that have at least two values: {first_few(cells['columns'], 8)}."
        found.append(Concern(f"Asked to colour by {first_few(unknown)}, which cannot be drawn.", remedy))
    return found


def _about_search(results) -> list[Concern]:
    reached, wanted = recall(results), results["neighbors"].manifest["parameters"].get("min_recall")
    if wanted is None or reached >= wanted:
        return []
    text = f"The search found {reached:.1%} of the true neighbours; {wanted:.1%} were asked for."
    return [Concern(text, "Set neighbors: method: exact, which finds all of them and takes longer.")]


def _about_pairs(results, spectra: Spectra) -> list[Concern]:
    kept, found = np.isfinite(spectra.eigenvalues), []
    missed = kept & ~by_landmarks(results) & ~spectra.converged
    error = float(results["diffusion_map"]["landmark_error"][...]) if by_landmarks(results).any() else 0.0
    if not error <= _FAR:
        text = f"Diffusion distances by landmarks are off by {error:.0%}.".replace("nan%", "an unknown share")
        found.append(Concern(text, "Set diffusion_map: landmarks to more, or to 0 for the exact map."))
    if "diffusion_map" not in results:
        off = float(results["deep_diffusion_map"]["error"][...])
        text = f"Diffusion distances by the network are off by {off:.0%}.".replace("nan%", "an unknown share")
        remedy = "Set deep_diffusion_map: prototypes or rounds to more, or map to spectral for the exact one."
        return [Concern(text, remedy)] if not off <= _FAR else []
    if missed.any():
        places = [f"{mode + 1}" for mode in np.flatnonzero(missed.any(axis=0))]
        residuals = spectra.residuals[missed]
        first = int(np.flatnonzero(missed.any(axis=0))[0])
        worst, fewer = number(float(residuals.max())), f"diffusion_map: n_components: {first}, or " if first else ""
        remedy = f"Do not read those components. Set {fewer}{'' if first else 'diffusion_map: '}a larger tolerance."
        if not np.isfinite(residuals).all():  # no tolerance is larger than that
            worst, remedy = "not finite", f"Do not read those components. {_WEIGHTS}"
        text = (
            f"{missed.sum()} of {kept.sum()} pairs did not converge (component {first_few(places)}; residual {worst})."
        )
        found.append(Concern(text, remedy))
    values = spectra.spectrum[0][np.isfinite(spectra.spectrum[0])]
    chosen = spectra.eigenvalues.shape[1]
    if chosen < len(values) and values[chosen - 1] - values[chosen] < _NARROW * (1 - values[chosen]):
        text = f"Components {chosen} and {chosen + 1} are almost equally slow: the map is cut inside a group."
        found.append(Concern(text, f"Set diffusion_map: n_components: {chosen + 1}, or auto."))
    return found


def about_network(network: dict | None) -> list[Concern]:
    """network: the section that puts it beside the map of the same cells."""
    if not network or not network["pictures"] or not (network["error"] or 0) > _FAR:
        return []
    text = f"Distances by the network are off by {network['error']:.0%} beside the map."
    remedy = "Read the map as computed, and place new cells by nystrom. Components of a few far-out cells are often the"
    return [Concern(text, f"{remedy} cause: remove such cells, or set deep_diffusion_map: prototypes to more.")]


def _joining(results) -> str:
    """How to get a graph in fewer and larger pieces."""
    if results["affinity"].manifest["parameters"].get("bandwidth", "adaptive") == "adaptive":
        return "Raise neighbors: n_neighbors, or affinity: bandwidth_neighbor,"
    return "Raise affinity: bandwidth or set it to adaptive, or raise neighbors: n_neighbors,"


def _about_graph(results, spectra: Spectra, components: np.ndarray, map_: dict) -> list[Concern]:
    sizes, found = np.bincount(components), []
    joining, modes = _joining(results), spectra.eigenvalues.shape[1]
    if not np.isfinite(spectra.eigenvalues).any():
        if sizes[0] > 1:
            text = f"No eigenpair could be computed, though the largest piece of the graph has {sizes[0]:,} cells."
            return [Concern(text, _WEIGHTS)]
        text = "No eigenpair could be computed: every cell is a component of its own, so there is no map."
        return [Concern(text, f"{joining} until cells are linked; remove cells that lie far from all others.")]
    if len(sizes) > 1:
        outside = len(components) - sizes[0]
        text = f"The graph is in {len(sizes)} pieces; {outside:,} of {len(components):,} cells are outside the largest."
        remedy = (
            f"Coordinates of different pieces cannot be compared. {joining} to join them, "
            "or take them as the separate populations they may be."
        )
        found.append(Concern(text, remedy))
    if sizes[0] <= modes:
        text = f"The largest piece has {sizes[0]:,} cells and so {sizes[0] - 1} components, not the {modes} asked for."
        found.append(Concern(text, f"{joining} so that pieces join, or set diffusion_map: n_components lower."))
    elif map_["missing"] and not np.isfinite(spectra.eigenvalues[0]).all():
        text = f"{map_['missing']:,} cells of the largest piece have no coordinates and are not drawn."
        found.append(Concern(text, _WEIGHTS))
    elif map_["missing"]:
        text = f"{map_['missing']:,} cells of the largest piece have no coordinates and are not drawn."
        found.append(Concern(text, "Run heatwalk verify, then the stage diffusion_map again."))
    return found


def _about_columns(representation: dict) -> list[Concern]:
    """Technical columns only: that cell types go with components is what a map is for."""
    remedies = {
        "depth": "Part of the map may show how deeply cells were sequenced. Compare the pictures coloured by it.",
        "batch": "If this is no biology, correct the batches and set pca: use_rep to the corrected embedding.",
    }
    found = []
    for name, kind, above in representation["strong"]:
        if kind:
            parts = first_few([f"{component} ({value:.0%})" for component, value in above], 4)
            found.append(Concern(f"{name} goes with {parts}.", remedies[kind]))
    return found
