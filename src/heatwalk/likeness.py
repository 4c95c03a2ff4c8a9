"""The report's section on generated cells: drawn over the real ones, how alike they are, and whether copies."""

from collections.abc import Mapping

import numpy as np

from heatwalk import page, pictures
from heatwalk.charts import laid
from heatwalk.condition import column_of, met
from heatwalk.decoding import explained
from heatwalk.evidence import Concern
from heatwalk.generation_metrics import MEASURES
from heatwalk.pca import Pca
from heatwalk.pictures import Column
from heatwalk.schema import GENERATORS

_COPIES = 0.1  # share nearer to a sample than 95% of held-out cells are
_LEFT = 0.05  # share that left the data: of fresh cells one in a hundred would
_COVERED = 0.9  # of what real cells cover of each other
_RECOGNISED = 0.05  # less often than held-out cells
_LABELS = 24  # rows of a table
_DRAWN = 20_000  # cells of a kind in a picture
_LEVELS = ("generated", "left the data", "held out")
_COLOURS = (pictures.PALETTE[4], pictures.PALETTE[5], pictures.PALETTE[0])
_SAY = {
    "sinkhorn": "Cost of moving one sample onto the other, blurred a little. 0: the same; read it beside real cells.",
    "w2_squared": "The same cost, exact, without blur. It never reaches 0 between two finite samples.",
    "mmd": "Difference of means of smooth functions. Around 0: no difference seen; it may fall below.",
    "two_sample": "Share whose nearest other cell is of its own sample. A half: nobody could tell the samples apart.",
    "coverage": "Share of held-out cells with a generated one close by. Low: kinds of cells are missing.",
    "density": "How many generated cells lie close to held-out ones. Low: many lie where no cells are.",
    "off_manifold": "Distance to the nearest sample beside that of held-out cells. 1: as far off; above: off the data.",
    "memorisation": "Share as near to a sample as the nearest 5% of held-out cells are. 5% by chance; 100%: copies.",
    "label_match": "Share that a classifier of the nearest 15 cells takes for the label of the held-out ones.",
}


def section(results: Mapping) -> dict | None:
    """Pictures of a generator's points in the representation, and tables of figures; None without a generator."""
    stage = next((name for name in GENERATORS if name in results), None)
    if stage is None:
        return None
    made, cells, obs = results[stage], results["cells"], results["cells"]["obs"]
    parameters, split = made.manifest["parameters"], np.asarray(cells["split"][:])
    own = met(obs, parameters["condition"], "HW-PA-008", "condition")
    flagged, distances = (np.asarray(made[name][:]) for name in ("flagged", "distances"))
    space, places = parameters.get("space"), (results["pca"]["coordinates"], made["points"])
    real, new = ((laid(part, space) if space else part)[:, :2] for part in places)
    drawn, keys = _drawn(np.asarray(real, np.float64), np.asarray(new), flagged, own & (split == 1))
    return {
        "stage": stage,
        "pictures": drawn,
        "keys": keys,
        "count": len(flagged),
        "condition": parameters["condition"],
        "label": _label(results, obs, parameters["condition"]),
        "start": parameters.get("start", "samples"),
        "walk": _walk(made),
        "samples": int((own & (split == 0)).sum()),
        "held_out": int((own & (split == 1)).sum()),
        "flagged": float(flagged.mean()),
        "genes": made["expression"].shape[1] if "expression" in made else None,
        "share": explained(Pca(**results["pca"])) if "expression" in made else None,
        "chart": pictures.histogram(distances, "distance to the nearest sample", "Histogram.", y_label="generated"),
        "file": f"{stage}.h5ad",
        **_measured(results),
    }


def concerns(shown: dict | None) -> list[Concern]:
    if not shown:
        return []
    found = [Concern(f"The generated cells were not measured: {cause}.", remedy) for cause, remedy in shown["problems"]]
    known = {name: (value, floor) for name, value, floor, _, _ in shown["rows"]}
    copies, floor = known.get("memorisation", (0.0, 0.0))
    if copies > max(_COPIES, floor + _COPIES / 2):  # where cells repeat, real ones are as near more often than .05
        text = f"{copies:.0%} of the generated cells are as near to a sample as the nearest 5% of held-out cells are."
        found.append(Concern(text, "They may be copies: take more samples, a larger bandwidth, or fewer components."))
    if shown["flagged"] > _LEFT:
        text = f"{shown['flagged']:.0%} of the generated cells left the data."
        ways = "" if shown["start"] == "samples" else ", or start from samples"
        found.append(Concern(text, f"Leave them out (heatwalk_flagged){ways}."))
    value, floor = known.get("coverage", (1.0, 1.0))
    if value < _COVERED * floor:
        text = f"Generated cells cover {value:.0%} of the held-out cells, real ones {floor:.0%}."
        found.append(Concern(text, "Kinds of cells may be missing: look where in the picture none are."))
    value, floor = known.get("label_match", (1.0, 1.0))
    if value < floor - _RECOGNISED:
        text = f"{value:.0%} of the generated cells are taken for the {shown['label']} of held-out ones, "
        text += f"of those {floor:.0%}."
        found.append(Concern(text, "Look at the labels that they are taken for."))
    return found


def _drawn(real: np.ndarray, points: np.ndarray, flagged: np.ndarray, held_out: np.ndarray) -> tuple[list, list]:
    """Generated cells over real ones, and beside them those held out that they should be like; the legend.

    Of many, so many of each are drawn, evenly chosen: blended with all real cells, few generated ones would be lost.
    """
    view = (0, 1) if real.shape[1] > 1 else (0, None)
    new, known, below = (_some(np.arange(len(points))), _some(np.flatnonzero(held_out)), _some(np.arange(len(real))))
    pairs = (points[new], np.where(flagged[new], 1, 0)), (real[known], np.full(len(known), 2))
    drawn = []
    for places, codes in pairs:
        codes = np.concatenate([np.full(len(below), -1), codes]).astype(np.int32)
        column = Column("origin", _LEVELS, codes, colours=_COLOURS)
        drawn.append(page.draw(np.concatenate([real[below], places]), column, view, 640))
    sizes = [int((~flagged).sum()), int(flagged.sum()), int(held_out.sum())]
    keys = [pictures.Key(*row, "") for row in zip(_COLOURS, _LEVELS, sizes, strict=True) if row[2]]
    return drawn, [*keys, pictures.Key(pictures.OTHER, "real cells", len(real), "")]


def _walk(made) -> dict | None:
    """Where walkers began, how far they went, and whether they have forgotten it; None of other generators."""
    if "mixing" not in made:
        return None
    seeds, told = made.manifest["parameters"]["seeds"], np.asarray(made["mixing"][:])
    many = "" if isinstance(seeds, str) else f"{len(seeds)} cell{'s' * (len(seeds) > 1)} named"
    names = {"seeds": many or seeds, "all": made.manifest["parameters"]["kept"] == "all", "steps": len(told)}
    return names | {"seed": float(told[-1, 0]), "law": float(told[-1, 1])}


def _some(rows: np.ndarray) -> np.ndarray:
    return rows[:: -(-len(rows) // _DRAWN) or 1]


def _label(results: Mapping, obs, condition: str) -> str:
    """The column of the labels that were matched."""
    asked = results["generation_metrics"].manifest["parameters"]["label"] if "generation_metrics" in results else ""
    return asked or column_of(obs, condition) or ""


def _measured(results: Mapping) -> dict:
    """Rows of the table of measures and of the table of labels; what left nothing to measure."""
    found = results.get("generation_metrics")
    if found is None:
        return {"rows": [], "labels": [], "compared": None, "left": 0, "problems": []}
    values, floor, spread = (np.asarray(found[name][:]) for name in ("values", "floor", "floor_spread"))
    rows = [
        (name, float(value), float(real), float(around), _SAY[name])
        for name, value, real, around in zip(MEASURES, values, floor, spread, strict=True)
        if np.isfinite(value)
    ]
    table, kinds, why = found.get("labels"), ("train", "held_out", "generated"), found.get("problems")
    labels = []
    if table is not None:
        table = table.sort_values("generated", ascending=False, kind="stable")
        labels = [(str(name), *(float(row[kind]) for kind in kinds)) for name, row in table.iterrows()]
    return {
        "rows": rows,
        "labels": labels[:_LABELS],
        "left": max(0, len(labels) - _LABELS),
        "compared": int(found["n_compared"][...]),
        "problems": [] if why is None else [(str(row["cause"]), str(row["remedy"])) for _, row in why.iterrows()],
    }
