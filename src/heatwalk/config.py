"""The configuration and the table of datasets: read strictly, checked against the schemas, every problem said."""

import csv
import difflib
import importlib.util
import math
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from heatwalk.errors import BadInput, Problem, first_few
from heatwalk.remote import is_remote
from heatwalk.schema import GENERATORS

DEPENDS = {
    "cells": (),
    "pca": ("cells",),
    "neighbors": ("pca",),
    "affinity": ("pca", "neighbors"),
    "diffusion_map": ("affinity",),
    "deep_diffusion_map": ("pca", "affinity"),
    "curvature": ("cells", "pca", "affinity"),
    "pseudotime": ("cells", "affinity"),
    "particles": ("cells", "pca"),
    "random_walk": ("cells", "pca"),
    "riemannian_diffusion": ("cells", "pca"),
    "generation_metrics": ("cells", "pca"),
    "extension": (),
    "atlas": ("cells", "pca", "neighbors", "affinity"),
    "report": ("cells", "pca", "neighbors", "affinity", "atlas"),
}
STAGES = tuple(DEPENDS)
MAPS = {
    "spectral": ("diffusion_map",),
    "neural": ("deep_diffusion_map",),
    "both": ("diffusion_map", "deep_diffusion_map"),
}
_SHOW_THE_MAP = ("atlas", "report")
_OPTIONAL = ("curvature", "pseudotime")  # shown where a dataset asks for them
_OF_CELLS = "riemannian_diffusion"  # a generator that also says something of every cell, of a query's too
# A query has no graph and no map of its own.
OF_A_QUERY = {
    "cells": (),
    "pca": ("cells",),
    "riemannian_diffusion": ("cells", "pca"),
    "extension": ("cells", "pca"),
    "atlas": ("cells", "pca", "extension"),
    "report": ("cells", "pca", "extension", "atlas"),
}
_BORROWED = {
    "cells": ("cells",),
    "pca": ("pca",),
    "riemannian_diffusion": ("riemannian_diffusion",),
    "extension": ("cells", "pca", "neighbors", "affinity"),
    "report": ("cells", "affinity"),
}
_LANDING = ("extension", "report")  # which take the map of the reference too
INHERITED = {
    "cells": ("target_sum", "log1p", "min_cells", "n_top_genes", "transform", "cofactor", "units"),
    "pca": ("n_components", "use_rep", "scale"),
    "riemannian_diffusion": ("space",),
}
SEEDED = (
    "cells",
    "neighbors",
    "diffusion_map",
    "deep_diffusion_map",
    "curvature",
    "particles",
    "random_walk",
    "riemannian_diffusion",
    "generation_metrics",
    "extension",
)  # stages that draw random numbers
# Stages whose blocks Dask's workers may compute, and stages that may use a GPU.
SCHEDULED = ("neighbors", "affinity", "diffusion_map", "curvature", "extension")
ON_DEVICE = ("neighbors", "deep_diffusion_map", "random_walk", "riemannian_diffusion")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Dataset(NamedTuple):
    """One row of datasets.tsv."""

    name: str
    source: str
    kind: str
    layer: str = ""
    columns: tuple[str, ...] = ()
    space: str = "euclidean"
    map: str = "spectral"
    reference: str = ""
    stages: tuple[str, ...] = ("atlas", "report")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error; plain YAML silently takes the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e5 as text; people who write it mean a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def depends(stage: str, row: Dataset) -> tuple[str, ...]:
    """Which results of its own dataset a stage is made from.

    >>> depends("report", Dataset("blood", "blood.h5ad", "counts", map="neural"))
    ('cells', 'pca', 'neighbors', 'affinity', 'atlas', 'deep_diffusion_map')
    """
    of_cells = (_OF_CELLS,) if _OF_CELLS in row.stages and stage in _SHOW_THE_MAP else ()
    if row.reference:
        return OF_A_QUERY[stage] + of_cells
    if stage in _OPTIONAL:
        return DEPENDS[stage] + MAPS[row.map][:1]
    generator = next((name for name in GENERATORS if name in row.stages), GENERATORS[0])
    if stage == "generation_metrics":
        return (*DEPENDS[stage], generator)
    shown = tuple(name for name in _OPTIONAL if name in row.stages)
    shown += of_cells if stage == "atlas" else ()
    if stage == "report":  # new cells are on no atlas's cell axis
        measured = "generation_metrics" in row.stages
        shown += (generator, "generation_metrics") if measured else (generator,) if generator in row.stages else ()
    return DEPENDS[stage] + (MAPS[row.map] + shown if stage in _SHOW_THE_MAP else ())


def needed(row: Dataset) -> list[str]:
    """The stages that a dataset asks for and all that they are made from, in order.

    >>> needed(Dataset("blood", "blood.h5ad", "counts", stages=("neighbors",)))
    ['cells', 'pca', 'neighbors']
    """
    wanted = set(row.stages)
    for stage in reversed(STAGES):
        wanted |= set(depends(stage, row)) if stage in wanted else set()
    return [stage for stage in STAGES if stage in wanted]


def load(path: Path) -> dict:
    """One configuration file as a dict; BadInput when it is not valid YAML or not a mapping."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = "mend the file; config/config.yaml shows every option"
        raise BadInput(Problem("HW-CF-001", f"{path}", f"cannot be read ({error})", remedy)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(Problem("HW-CF-001", f"{path}", "is not a mapping of options", "write lines like `seed: 0`"))
    return content


def complete(config: dict, defaults: dict) -> dict:
    """The configuration with every option it leaves out at its default; nested mappings are merged."""
    merged = dict(defaults)
    for key, value in config.items():
        known = defaults.get(key)
        merged[key] = complete(value, known) if isinstance(value, dict) and isinstance(known, dict) else value
    return merged


def check(config: dict, schemas: Path, where: str = "config") -> list[Problem]:
    """Everything that the schema finds wrong with a complete configuration."""
    problems = _violations(config, load(schemas / "config.schema.yaml"), where) + _not_finite(config, where)
    for name, stages in (config.get("overrides") or {}).items() if not problems else ():
        for stage, options in stages.items():
            merged = {**config, "overrides": {}, stage: {**config[stage], **options}}
            place = f"{where}: overrides: {name}"
            problems += _violations(merged, load(schemas / "config.schema.yaml"), place) + _not_finite(options, place)
    return problems


def datasets(path: Path, schemas: Path) -> tuple[dict[str, Dataset], list[Problem]]:
    """The rows of datasets.tsv by name, and everything that is wrong with them."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "create it, or set `datasets` in the config; config/README.md shows the columns"
        return {}, [Problem("HW-CF-003", f"{path}", f"cannot be read ({error})", remedy)]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    schema, rows, problems = load(schemas / "datasets.schema.yaml"), {}, []
    for number, row in enumerate(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
        where = f"{path}: row {number}"
        given = {key: value.strip() for key, value in row.items() if isinstance(value, str) and value.strip()}
        if None in row:
            cause = f"has {len(row[None])} more fields than the header"
            problems.append(Problem("HW-CF-004", where, cause, "separate the columns with single tabs"))
            continue
        for key in ("columns", "stages"):
            if key in given:
                given[key] = tuple(part.strip() for part in given[key].split(","))
        found = _violations({key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}, schema, where)
        problems += found
        if not found and given["name"] in rows:
            problems.append(Problem("HW-CF-005", where, f"the dataset {given['name']!r} stands twice", "rename one"))
        elif not found and given.get("space", "euclidean") != "euclidean" and given["kind"] != "points":
            cause = f"space {given['space']!r} is for kind points, the kind is {given['kind']!r}"
            problems.append(Problem("HW-CF-010", where, cause, "leave space empty, or set kind to points"))
        elif not found:
            rows[given["name"]] = Dataset(**given)
    if not rows and not problems:
        problems.append(Problem("HW-CF-006", f"{path}", "has no datasets", "add a row: name, source, kind"))
    return rows, problems


def check_overrides(config: dict, known: dict[str, Dataset]) -> list[Problem]:
    """Overrides of datasets that do not exist, and those by which a query would leave its reference."""
    problems = []
    for name, sections in (config.get("overrides") or {}).items():
        if name not in known:
            remedy = f"use one of: {first_few(known)}"
            problems.append(Problem("HW-CF-007", f"overrides: {name}", "there is no such dataset", remedy))
            continue
        for section, options in INHERITED.items() if known[name].reference else ():
            for option in sorted(set(sections.get(section, {})) & set(options)):
                cause = f"a query takes {section}: {option} from its reference {known[name].reference!r}"
                problems.append(Problem("HW-CF-014", f"overrides: {name}", cause, f"remove {section}: {option} there"))
    return problems


class Plan:
    """A checked configuration and the datasets it names; raises BadInput with every problem of both.

    top: the folder with workflow/ and config/. A relative `datasets` is looked for in the working folder first.
    """

    def __init__(self, config: dict, top: Path):
        self.top, schemas = top, top / "workflow" / "schemas"
        self.config = complete(config, load(top / "config" / "config.yaml"))
        problems = check(self.config, schemas)
        if problems:
            raise BadInput(*problems)
        table = Path(self.config["datasets"])
        table = table if table.is_absolute() or table.exists() else top / table
        self.datasets, problems = datasets(table, schemas)
        problems += check_overrides(self.config, self.datasets)
        for row in self.datasets.values():
            checked = self._check_query if row.reference else self._check_maker
            problems += checked(row, f"{table}: {row.name}")
        if problems:
            raise BadInput(*problems)
        self.datasets = {name: self._with_optional(row) for name, row in self.datasets.items()}
        self.table, self.base = table, table.parent
        listed = [root if is_remote(root) else self.base / root for root in self.config["roots"]]
        roots = listed or [self.base]
        self.roots = [*roots, *filter(None, [installed_data()])]

    def options(self, dataset: str, stage: str) -> dict:
        """Options of a stage for one dataset; a query has those of its reference where it must not differ."""
        overrides = (self.config["overrides"] or {}).get(dataset, {})
        options = {**self.config[stage], **overrides.get(stage, {})}
        reference = self.datasets[dataset].reference
        taken = self.options(reference, stage) if reference and stage in INHERITED else {}
        return {**options, **{name: taken[name] for name in INHERITED.get(stage, ()) if taken}}

    def _with_optional(self, row: Dataset) -> Dataset:
        """A row that also asks for the stages which its options ask for, where they will be shown."""
        roots = not row.reference and self.options(row.name, "pseudotime")["roots"]
        added = roots and "pseudotime" not in row.stages and {*row.stages} & {*_SHOW_THE_MAP}
        return row._replace(stages=(*row.stages, "pseudotime")) if added else row

    def wanted(self, dataset: str) -> list[str]:
        """The stages of a dataset that are asked for, by itself or by its queries, and all they are made from."""
        row, own = self.datasets[dataset], [other for other in self.datasets.values() if other.reference == dataset]
        lent = {name for other in own for stage in needed(other) for _, name in self.borrowed(other.name, stage)}
        return needed(row._replace(stages=(*row.stages, *lent)))

    def borrowed(self, dataset: str, stage: str) -> list[tuple[str, str]]:
        """Which results of its reference a stage of a query is made from: names of dataset and stage."""
        row = self.datasets[dataset]
        if not row.reference:
            return []
        by_network = self.options(dataset, "extension")["method"] == "network"
        landing = MAPS[self.datasets[row.reference].map][-1 if by_network else 0] if stage in _LANDING else ""
        return [(row.reference, name) for name in (*_BORROWED.get(stage, ()), landing) if name]

    def _check_query(self, row: Dataset, where: str) -> list[Problem]:
        reference = self.datasets.get(row.reference)
        if reference is None or reference.reference:
            cause = f"reference {row.reference!r} is " + ("a query itself" if reference else "no dataset of this table")
            known = first_few([name for name, other in self.datasets.items() if not other.reference])
            return [Problem("HW-CF-012", where, cause, f"use one of: {known or 'none; add a row without a reference'}")]
        problems, other = [], [stage for stage in row.stages if stage not in OF_A_QUERY]
        if other:
            cause = f"a query has no {', '.join(other)}: it lands in the map of its reference"
            problems.append(Problem("HW-CF-013", where, cause, f"leave stages to {', '.join(OF_A_QUERY)}"))
        if row.map != "spectral":
            cause = f"map is {row.map}: a query lands in the map of its reference"
            problems.append(Problem("HW-CF-013", where, cause, "leave map empty"))
        for name in ("kind", "space"):
            own, wanted = getattr(row, name), getattr(reference, name)
            if own != wanted:
                cause = f"{name} is {own!r}, that of the reference {row.reference!r} is {wanted!r}"
                remedy = (
                    f"name the matrix of {wanted} in `layer` and set {name} to {wanted}, or use a reference of {own}"
                )
                problems.append(Problem("HW-CF-015", where, cause, remedy))
        method, maps = self.options(row.name, "extension")["method"], MAPS[reference.map]
        wanted = {"network": "deep_diffusion_map", "nystrom": "diffusion_map", "landmark": "diffusion_map"}
        if wanted.get(method, maps[0]) not in maps:
            cause = f"extension: method {method} needs a map that {row.reference!r} (map: {reference.map}) has not"
            remedy = f"set extension: method to auto, or map of {row.reference} to both"
            problems.append(Problem("HW-CF-016", where, cause, remedy))
        return problems

    def _check_maker(self, row: Dataset, where: str) -> list[Problem]:
        problems = []
        if "extension" in row.stages:
            cause = "extension is for a query, and the column reference is empty"
            problems.append(Problem("HW-CF-013", where, cause, "name a reference, or remove the stage"))
        if "pseudotime" in row.stages and not self.options(row.name, "pseudotime")["roots"]:
            cause = "stages has pseudotime, and pseudotime: roots is empty"
            remedy = f"set overrides: {{{row.name}: {{pseudotime: {{roots: [NAME OF A CELL]}}}}}}, or remove the stage"
            problems.append(Problem("HW-CF-018", where, cause, remedy))
        if "generation_metrics" in needed(row) and not self.options(row.name, "cells")["holdout"]:
            cause = "stages has generation_metrics, and cells: holdout is 0: nothing tells new cells from copies"
            remedy = f"set overrides: {{{row.name}: {{cells: {{holdout: 0.1}}}}}}, or remove the stage"
            problems.append(Problem("HW-CF-019", where, cause, remedy))
        use_rep, generators = self.options(row.name, "pca")["use_rep"], [s for s in GENERATORS if s in needed(row)]
        for stage in generators if use_rep else ():
            if self.options(row.name, stage).get("decode") is True:
                cause = f"{stage}: decode is true, and pca: use_rep {use_rep!r} has no loadings to decode by"
                problems.append(Problem("HW-CF-020", where, cause, f"set {stage}: decode to auto, or use_rep to ''"))
        space = self.options(row.name, _OF_CELLS)["space"]
        if _OF_CELLS in generators and row.space not in ("euclidean", space):
            cause = f"points lie on {row.space}, and {_OF_CELLS}: space is {space}"
            remedy = f"set overrides: {{{row.name}: {{{_OF_CELLS}: {{space: {row.space}}}}}}}"
            problems.append(Problem("HW-CF-022", where, cause, remedy))
        if len(generators) > 1:
            cause = f"stages has {' and '.join(generators)}: a dataset has one generator, which is measured and shown"
            problems.append(Problem("HW-CF-021", where, cause, "add a row of another name with the same source"))
        if row.map == "neural" and self.options(row.name, "atlas")["scanpy_export"]:
            cause = "atlas: scanpy_export needs eigenvectors, and map is neural"
            remedy = f"set map to both, or overrides: {{{row.name}: {{atlas: {{scanpy_export: false}}}}}}"
            problems.append(Problem("HW-CF-017", where, cause, remedy))
        return problems


def installed_data() -> Path | None:
    """The folder of data sets that ship inside scanpy, found without importing it."""
    found = importlib.util.find_spec("scanpy")
    return Path(found.origin).parent / "datasets" if found and found.origin else None


def memory_bytes(text: str | int) -> int:
    """Bytes of "4GB", "512MiB" or a number.

    >>> memory_bytes("4GB"), memory_bytes("512MiB"), memory_bytes(1000)
    (4000000000, 536870912, 1000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", str(text))
    if not match:
        raise BadInput(Problem("HW-CF-008", "memory", f"{text!r} is no amount of memory", "write it like 4GB"))
    number, unit, binary = match.groups()
    return int(float(number) * (1024 ** "kMGT".index(unit) * 1024 if binary and unit else _UNITS[unit]))


def _not_finite(value, where: str) -> list[Problem]:
    """Numbers that YAML can write and no option can mean: .inf and .nan pass the bounds of a schema."""
    if isinstance(value, dict):
        return [problem for key, item in value.items() for problem in _not_finite(item, f"{where}: {key}")]
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem("HW-CF-002", where, f"{value} is no finite number", "write a number")]
    return []


def _violations(value: dict, schema: dict, where: str) -> list[Problem]:
    import jsonschema

    problems = []
    for error in sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=lambda error: list(error.path)):
        place = ": ".join([where, *map(str, error.path)])
        if error.validator == "additionalProperties":
            allowed = error.schema.get("properties", {})
            for key in sorted(set(error.instance) - set(allowed), key=str):
                close = difflib.get_close_matches(str(key), allowed, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(sorted(allowed))}"
                problems.append(Problem("HW-CF-002", place, f"{key!r} is unknown", hint))
        else:
            known = "config/README.md and config/config.yaml say what each may be"
            remedy = error.schema.get("description", known)
            problems.append(Problem("HW-CF-002", place, error.message, remedy))
    return problems
