"""The check of values: every block once, one problem per kind of fault, with counts and the first cell names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatwalk.errors import Problem

FEW = 5
LOGGED_BELOW = 30  # log1p of any count below 10^13 is less; raw counts of 10x data reach hundreds
EXACT = 2**24  # float32, in which counts are kept, holds every whole number up to this one
LARGEST = float(np.finfo(np.float32).max)


class Fault:
    """How many values and cells have one fault, and the first of the cells."""

    def __init__(self):
        self.values, self.cells, self.first = 0, 0, []

    def add(self, rows: np.ndarray, first_row: int) -> None:
        """`rows`: the row of every faulty value within the block, in order."""
        if not len(rows):
            return
        cells = np.unique(rows)
        self.values += len(rows)
        self.cells += len(cells)
        self.first += [first_row + int(row) for row in cells[: FEW - len(self.first)]]


def _rounded(values: np.ndarray) -> np.ndarray:
    """Which values above EXACT float32 cannot hold."""
    large = (values > EXACT) & (values <= LARGEST)
    rounded = np.zeros(values.shape, bool)
    # longdouble holds whole numbers of 64 bits, which float64 does not
    rounded[large] = values[large].astype(np.float32).astype(np.longdouble) != values[large].astype(np.longdouble)
    return rounded


class ValueCheck:
    """Add all blocks of a source in order, then ask for problems and notes.

    NaN, infinite and too large values are faults in every kind; negative and broken numbers only in counts.
    """

    def __init__(self, kind: str, cell_names: Sequence[str], where: str):
        self.kind, self.cell_names, self.where = kind, cell_names, where
        self.n_rows = 0
        self.nan, self.infinite, self.large, self.rounded = Fault(), Fault(), Fault(), Fault()
        self.negative, self.broken, self.empty = Fault(), Fault(), Fault()
        self.maximum = -np.inf
        self.all_whole = True
        self.any_nonzero = False

    def add(self, block) -> None:
        """Take note of one block of consecutive rows, sparse or dense."""
        with np.errstate(invalid="ignore"):  # signalling NaN warn when they are looked at
            self._add_block(block)

    def _add_block(self, block) -> None:
        if hasattr(block, "indptr"):
            values, pointers = block.data, block.indptr

            def rows(found: np.ndarray) -> np.ndarray:
                return np.searchsorted(pointers, np.flatnonzero(found), side="right") - 1

            filled = np.diff(np.concatenate([[0], np.cumsum(values != 0)])[pointers]) > 0
        else:
            values = np.asarray(block).reshape(len(block), -1)

            def rows(found: np.ndarray) -> np.ndarray:
                return np.nonzero(found)[0]

            filled = values.any(axis=1)
        self._add(values, rows)
        self.empty.add(np.flatnonzero(~filled), self.n_rows)
        self.any_nonzero |= bool(filled.any())
        self.n_rows += block.shape[0]

    def _add(self, values: np.ndarray, rows) -> None:
        if not values.size:
            return
        floating = values.dtype.kind == "f"
        finite = np.isfinite(values) if floating else None
        good = values
        if floating and not finite.all():
            self.nan.add(rows(np.isnan(values)), self.n_rows)
            self.infinite.add(rows(np.isinf(values)), self.n_rows)
            good = np.where(finite, values, 0)
        self.maximum = max(self.maximum, float(good.max()))
        if floating and values.dtype.itemsize > 4:
            large = np.abs(good) > LARGEST
            if large.any():
                self.large.add(rows(large), self.n_rows)
        if self.kind not in ("counts", "logged"):
            return
        if self.kind == "counts" and float(good.max()) > EXACT:
            rounded = _rounded(good)
            if rounded.any():
                self.rounded.add(rows(rounded), self.n_rows)
        if values.dtype.kind != "u" and float(good.min()) < 0:
            self.negative.add(rows(good < 0), self.n_rows)
        if floating:
            broken = good != np.floor(good)
            if broken.any():
                self.all_whole = False
                self.broken.add(rows(broken), self.n_rows)

    def _problem(self, code: str, fault: Fault, what: str, remedy: str) -> list[Problem]:
        if not fault.values:
            return []
        cause = f"{fault.values:,} {what} in {fault.cells:,} of {self.n_rows:,} cells ({self._names(fault)})"
        return [Problem(code, self.where, cause, remedy)]

    def _names(self, fault: Fault) -> str:
        rest = fault.cells - len(fault.first)
        names = ", ".join(str(self.cell_names[row]) for row in fault.first)
        return names + (f" and {rest:,} more" if rest else "")

    def problems(self) -> list[Problem]:
        """What is wrong with the values added so far, one problem per code."""
        remove = "remove these cells or columns, or fill the values before"
        found = [
            *self._problem("HW-IN-040", self.nan, "NaN values", remove),
            *self._problem("HW-IN-041", self.infinite, "infinite values", remove),
            *self._problem("HW-IN-046", self.large, "values beyond float32 (3.4e38)", "scale the values down"),
        ]
        if self.n_rows and not self.any_nonzero:
            cause = f"all values of {self.n_rows:,} cells are 0"
            remedy = "choose the matrix that holds the values with `layer`, or export the source again"
            found.append(Problem("HW-IN-047", self.where, cause, remedy))
        elif self.kind == "counts":
            found += self._count_problems()
        elif self.kind == "logged" and self.all_whole and self.maximum > 1:
            cause = f"all values are whole numbers, up to {self.maximum:g}: these look like raw counts"
            remedy = "set `kind: counts`, or name the logged layer in `layer`"
            found.append(Problem("HW-IN-045", self.where, cause, remedy))
        return found

    def _count_problems(self) -> list[Problem]:
        remedy = "look at how they were made: a cell has fewer counts; values of other kinds are `kind: intensities`"
        found = self._problem("HW-IN-048", self.rounded, f"counts above {EXACT:,} that float32 rounds", remedy)
        remedy = "these look scaled: name the layer of raw counts in `layer` (often raw or counts)"
        found += self._problem("HW-IN-042", self.negative, "negative counts", remedy)
        if self.maximum < LOGGED_BELOW and not self.negative.values:
            what = f"counts that are not whole numbers, and none above {self.maximum:.3g}: these look logged already,"
            remedy = "set `kind: logged`, or name the layer of raw counts in `layer` (often raw or counts)"
            return found + self._problem("HW-IN-044", self.broken, what, remedy)
        remedy = "name the layer of raw counts in `layer`, or round estimated counts (RSEM, salmon, SoupX) before"
        return found + self._problem("HW-IN-043", self.broken, "counts that are not whole numbers", remedy)

    def notes(self) -> tuple[str, ...]:
        """What a person should be told although it can be used."""
        notes = []
        if self.kind == "logged" and self.negative.values:
            notes.append(
                f"{self.negative.values:,} negative values in {self.negative.cells:,} cells: "
                "logged values have none, these may have been scaled (often `layer: raw` holds the logged ones)"
            )
        if self.kind == "logged" and self.all_whole and self.any_nonzero and self.maximum <= 1:
            notes.append("all values are whole numbers, none above 1: logged values of counts are hardly ever so")
        if self.kind in ("counts", "logged") and self.empty.cells and self.any_nonzero:
            notes.append(f"{self.empty.cells:,} cells have no value above zero ({self._names(self.empty)})")
        return tuple(notes)
