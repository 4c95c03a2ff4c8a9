"""Pictures of the report: cells in diffusion coordinates as pixels without any text, and small charts as numbers.

All text (axes, legends, numbers on the picture) is put there by the page, where it is escaped, wraps on a phone,
follows light and dark mode and can be read aloud.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

POINTS_UP_TO = 50_000  # cells; above, single dots hide each other and datashader blends them
LEVELS_UP_TO = 40  # colours that a picture has; smaller populations share the grey of `OTHER`
OTHER = "#9AA0A6"
# The first seven are Okabe and Ito's without their black, which dark mode swallows; each of the others is as far as can
# be from all before it, in OKLab, for normal, deuteranopic and protanopic sight, at a lightness seen on either page.
_HEX = (
    "E69F0056B4E9009E73CC79A70072B2D55E00F0E4428C5A9E5A00FF00E1A5A50F2DC35AFF00695A781EB4FF4B69E100C3"
    "C31E78FF78D2A54B0096C369960087A5C3FF6978D200960F87D2D2A587F0E1C32D5AC3A5874BF087694BB4784BE1874B"
    "3C3CD25AE15AFF1E871E5A961E87FF00B4C35A9696874B4B"
)
PALETTE = tuple(f"#{_HEX[start : start + 6]}" for start in range(0, len(_HEX), 6))
_ALWAYS_ON_TOP = 0.02  # share of the cells below which a population is drawn last, so that others do not bury it
_BLEND = 0.62  # side of a blended picture in pixels, beside one of dots
_SHORT_NAME = 3


class Column(NamedTuple):
    """A column of obs as it is drawn: levels and codes, or numbers and the ends of their colour scale."""

    name: str
    levels: tuple[str, ...] = ()  # empty for numbers
    codes: np.ndarray | None = None  # (cell,) level of every cell, -1 where it is missing
    values: np.ndarray | None = None  # (cell,) float64, NaN where it is missing
    ordered: bool = False
    colours: tuple[str, ...] = ()  # of the levels, OTHER where there are too many
    scale: tuple[float, float, bool] = (0.0, 1.0, False)  # ends of the colours, and whether in powers of ten

    def of(self, cells: np.ndarray) -> "Column":
        """The same for some of the cells, in the same colours."""
        if self.levels:
            return self._replace(codes=self.codes[cells])
        return self._replace(values=self.values[cells])


class Key(NamedTuple):
    """One line of a legend."""

    colour: str
    name: str
    cells: int
    mark: str  # what stands on the picture for it, or nothing


class Picture(NamedTuple):
    """A square of pixels, and what the page writes around it."""

    image: str  # data URI
    axes: tuple[int, int]  # components, from 1; 0 for no component: cells are spread at random
    x: tuple[float, float]
    y: tuple[float, float]
    outside: int
    marks: tuple[tuple[float, float, str], ...]  # percent from the left and from the top, text


class Chart(NamedTuple):
    """A small chart in a box of 360 by 210; every number is in its units."""

    about: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bars: Sequence[tuple[float, float, float, float]] = ()  # left, top, width, height
    dots: Sequence[tuple[float, float, bool]] = ()  # x, y, filled
    level: tuple[float, str] | None = None  # a horizontal line
    split: tuple[float, str] | None = None  # a vertical line


# ---- colours ---------------------------------------------------------------------------------------------------------


def coloured(column: Column) -> Column:
    """A column with the colours of its levels, or the ends of its scale: the 1st and 99th percentile."""
    if not column.levels:
        known = column.values[np.isfinite(column.values)]
        low, high = np.percentile(known, [1, 99]) if len(known) else (0.0, 1.0)
        return column._replace(scale=(float(low), float(high if high > low else low + 1), bool(0 < 20 * low < high)))
    if column.ordered:
        return column._replace(colours=tuple(ramp(len(column.levels))))
    own, largest = iter(PALETTE), np.argsort(-sizes(column), kind="stable")
    few = len(column.levels) <= LEVELS_UP_TO
    kept = set(range(len(column.levels)) if few else largest[: LEVELS_UP_TO - 1].tolist())
    return column._replace(colours=tuple(next(own) if level in kept else OTHER for level in range(len(column.levels))))


def sizes(column: Column) -> np.ndarray:
    """Number of cells of every level."""
    return np.bincount(column.codes[column.codes >= 0], minlength=len(column.levels))


def ramp(number: int) -> list[str]:
    """Viridis without its ends, which would be lost on a dark or a white page."""
    import matplotlib
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in matplotlib.colormaps["viridis"](np.linspace(0.2, 0.94, number))]


def legend(column: Column) -> list[Key]:
    """Lines of a legend, with the numbers of cells."""
    counts, marks = sizes(column), _mark_texts(column)
    keys = [
        Key(*row)
        for row in zip(column.colours, column.levels, counts.tolist(), marks, strict=True)
        if row[0] != OTHER and row[2]
    ]
    shared = np.array(column.colours) == OTHER
    if shared.any():
        keys.append(Key(OTHER, f"{shared.sum()} smaller groups", int(counts[shared].sum()), ""))
    missing = int((column.codes < 0).sum())
    return [*keys, Key(OTHER, "not known", missing, "")] if missing else keys


def _mark_texts(column: Column) -> list[str]:
    """What stands on the picture for a level: nothing where colours suffice, a short name, or its number."""
    if len(column.levels) <= 8 or column.ordered:
        return [""] * len(column.levels)
    if max(map(len, column.levels)) <= _SHORT_NAME:
        return list(column.levels)
    return [str(place) for place in range(1, len(column.levels) + 1)]


def _scaled(column: Column) -> np.ndarray:
    """Place of every value on the colour scale, 0 to 1, NaN where it is missing."""
    low, high, logarithmic = column.scale
    values = np.clip(column.values, low, high)
    if logarithmic:
        low, high, values = np.log(low), np.log(high), np.log(values)
    return (values - low) / (high - low)


# ---- cells -----------------------------------------------------------------------------------------------------------


def limits(values: np.ndarray) -> tuple[float, float]:
    """What an axis shows: the middle 99.8% and a margin of 15%, or all where that is less; diffusion has long tails."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, [0.1, 99.9])
    margin = 0.15 * (high - low)
    low, high = max(low - margin, known.min()), min(high + margin, known.max())
    margin = 0.025 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def picture(points: np.ndarray, column: Column, axes: tuple[int, int], pixels: int, seed: int = 0) -> Picture:
    """Cells at `points`, (cell, 2), coloured by a column of the same cells; NaN is not drawn."""
    x, y = limits(points[:, 0]), limits(points[:, 1])
    known = np.isfinite(points).all(axis=1)
    inside = known & (points[:, 0] >= x[0]) & (points[:, 0] <= x[1]) & (points[:, 1] >= y[0]) & (points[:, 1] <= y[1])
    draw = _shaded if len(points) > POINTS_UP_TO else _dots
    rows = np.flatnonzero(inside)
    image = draw(points, column, rows, x, y, pixels, seed)
    return Picture(_data_uri(image), axes, x, y, int(known.sum() - len(rows)), _marks(points, column, rows, x, y))


def _dots(points, column: Column, rows, x, y, pixels: int, seed: int):
    """One dot a cell, in random order, unknown ones below, small populations on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgba_array
    from matplotlib.figure import Figure
    from PIL import Image

    layer = np.ones(len(rows), int)
    if column.levels:
        codes = column.codes[rows]
        rare = sizes(column) < _ALWAYS_ON_TOP * len(points)
        layer = np.where(rare[codes], 2, 1) * (codes >= 0)
        colours = to_rgba_array([*column.colours, OTHER])[codes]
    else:
        scaled = _scaled(column)[rows]
        layer = np.isfinite(scaled).astype(int)
        steps = to_rgba_array([*ramp(256), OTHER])
        colours = steps[np.where(layer == 1, np.nan_to_num(scaled) * 255, 256).astype(int)]
    colours[:, 3] = 0.85
    order = np.lexsort((np.random.default_rng(seed).random(len(rows)), layer))
    figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100, facecolor="none", edgecolor="none")
    canvas = FigureCanvasAgg(figure)
    plot = figure.add_axes((0, 0, 1, 1), facecolor="none", xlim=x, ylim=y, autoscale_on=False)
    plot.set_axis_off()
    width = np.clip(0.42 * pixels / np.sqrt(len(rows) + 1), pixels / 220, pixels / 90)  # of a dot, in pixels
    area = (width * 72 / 100) ** 2
    cells = points[rows[order]]
    plot.scatter(cells[:, 0], cells[:, 1], s=area, c=colours[order], marker="o", linewidths=0)
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba()))


def _shaded(points, column: Column, rows, x, y, pixels: int, seed: int):
    """Colours of the cells in a pixel blended by number (levels) or averaged (numbers); opacity is their number."""
    import datashader
    import pandas as pd
    from datashader import transfer_functions as shade

    pixels = round(_BLEND * pixels)
    canvas = datashader.Canvas(pixels, pixels, x_range=x, y_range=y)
    frame = pd.DataFrame({"x": points[rows, 0], "y": points[rows, 1]})
    if column.levels:
        codes = column.codes[rows]
        kept = np.flatnonzero(np.array(column.colours) != OTHER)
        place = np.full(len(column.levels) + 1, len(kept))  # the last is for what is unknown or shares the grey
        place[kept] = np.arange(len(kept))
        frame["level"] = pd.Categorical.from_codes(place[codes], [str(number) for number in range(len(kept) + 1)])
        counts = canvas.points(frame, "x", "y", datashader.count_cat("level"))
        key = [*(column.colours[level] for level in kept), OTHER]
        image = shade.shade(counts, color_key=key, how="log", min_alpha=120)
    else:
        frame["value"] = _scaled(column)[rows]
        below = shade.shade(canvas.points(frame, "x", "y", datashader.count()), cmap=[OTHER, OTHER], how="log")
        means = canvas.points(frame, "x", "y", datashader.mean("value"))
        image = shade.stack(below, shade.shade(means, cmap=ramp(64), how="linear", span=(0, 1)), how="over")
    # Where cells are sparse their pixels grow, or nobody would see them.
    return shade.dynspread(image, threshold=0.6, max_px=2).to_pil()


def _marks(points, column: Column, rows, x, y) -> tuple[tuple[float, float, str], ...]:
    """Numbers of the levels at the median of their cells, larger populations first, where there is room."""
    texts = _mark_texts(column)
    if not any(texts):
        return ()
    codes, placed = column.codes[rows], []
    counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(counts) + 1))
    for level in np.argsort(-counts, kind="stable"):
        if not counts[level] or column.colours[level] == OTHER:
            continue
        middle = np.median(points[rows[order[bounds[level] : bounds[level + 1]]]], axis=0)
        left, top = 100 * (middle[0] - x[0]) / (x[1] - x[0]), 100 * (y[1] - middle[1]) / (y[1] - y[0])
        if all(abs(left - other[0]) > 4.5 or abs(top - other[1]) > 4.5 for other in placed):
            placed.append((round(float(left), 1), round(float(top), 1), texts[level]))
    # Groups that all have the same middle are mixed: a few of their numbers would mislead.
    return tuple(placed) if len(placed) > np.count_nonzero(counts) / 4 else ()


def _data_uri(image) -> str:
    """A PNG of at most 256 colours: a third of the size, and no eye sees it."""
    import base64
    import io

    from PIL.Image import Quantize

    file = io.BytesIO()
    image.quantize(256, method=Quantize.FASTOCTREE, dither=0).save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ---- charts ----------------------------------------------------------------------------------------------------------

LEFT, RIGHT, TOP, BOTTOM = 58, 344, 14, 166  # of the plot within a chart


def number(value: float, digits: int = 3) -> str:
    """A number for people.

    >>> number(1650000), number(0.99731), number(3.2e-11), number(float("nan")), number(-0.5)
    ('1,650,000', '0.997', '3.2 × 10⁻¹¹', '–', '−0.5')
    """
    if value is None or not np.isfinite(value):
        return "\u2013"
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"10{power}" if mantissa == "1" else f"{mantissa} \u00d7 10{power}"
    elif float(value).is_integer() or abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "\u2212")


class _Axis(NamedTuple):
    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value):
        if self.logarithmic:
            low, high, value = np.log(self.low), np.log(self.high), np.log(value)
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self, at_most: int = 5) -> list[tuple[float, str]]:
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.logarithmic and self.high / self.low > 30:
            values = LogLocator(numticks=at_most).tick_values(self.low, self.high)
        else:
            values = MaxNLocator(at_most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        # Six digits and their comma would run into the label of the axis.
        unit, mark = (1e6, " M") if self.high >= 1e6 else (1e3, " k")
        unit, mark = (1, "") if self.logarithmic or self.high < 1e5 else (unit, mark)
        slack = 1e-9 * (self.high - self.low)
        values = [value for value in values if self.low - slack <= value <= self.high + slack]
        return [(round(float(self(value)), 2), number(_rounded(value / unit)) + mark * bool(value)) for value in values]


def _rounded(value: float) -> float:
    return round(value, 12) if abs(value) > 1e-9 else value


def histogram(
    values: np.ndarray, x_label: str, about: str, *, y_label: str = "cells", ends: tuple[float, float] | None = None
) -> Chart | None:
    """How many cells have which value; in powers of ten where they span a factor of 50, unless ends are given."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = ends or (float(values.min()), float(values.max()))
    logarithmic = not ends and low > 0 and np.percentile(values, 99.5) / np.percentile(values, 0.5) > 50
    if low == high:
        low, high = low - 0.5, high + 0.5
    whole = not logarithmic and (values == np.round(values)).all() and high - low <= 60
    if whole:
        edges = np.arange(low, high + 2) - 0.5
    else:
        edges = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high, 41)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    counts = np.histogram(values, edges)[0]
    x = _Axis(edges[0], edges[-1], LEFT, RIGHT, bool(logarithmic))
    y = _Axis(0, float(counts.max()), BOTTOM, TOP)
    sides = x(edges)
    bars = [
        (float(left), float(y(count)), float(right - left), float(BOTTOM - y(count)))
        for left, right, count in zip(sides[:-1], sides[1:], counts, strict=True)
        if count
    ]
    return Chart(about, x_label, y_label, x.ticks(), y.ticks(4), bars=bars)


def columns(heights: np.ndarray, x_label: str, y_label: str, about: str) -> Chart:
    """One bar for each of a few numbers, counted from 1."""
    x = _Axis(0.5, len(heights) + 0.5, LEFT, RIGHT)
    y = _Axis(0, float(np.nanmax(heights)) or 1.0, BOTTOM, TOP)
    half = 0.4 * (RIGHT - LEFT) / len(heights)
    bars = [
        (float(x(place) - half), float(y(height)), 2 * half, float(BOTTOM - y(height)))
        for place, height in enumerate(heights, start=1)
        if np.isfinite(height)
    ]
    return Chart(about, x_label, y_label, _counted(x, len(heights)), y.ticks(4), bars=bars)


def sequence(
    values: np.ndarray,
    y_label: str,
    about: str,
    *,
    filled: Sequence[bool],
    logarithmic: bool = False,
    level: tuple[float, str] | None = None,
    split: tuple[float, str] | None = None,
) -> Chart:
    """One dot for each of a few numbers, counted from 1; a level across and a split between two of them."""
    shown = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    shown = np.append(shown, level[0]) if level else shown
    low, high = (shown.min(), shown.max()) if len(shown) else (0.1, 1.0)
    if logarithmic:
        low, high = 10 ** np.floor(np.log10(low) - 0.2), 10 ** np.ceil(np.log10(high) + 0.2)
    else:
        margin = 0.06 * (high - low) or 0.05
        low, high = low - margin, high + margin
    x, y = _Axis(0.5, len(values) + 0.5, LEFT, RIGHT), _Axis(float(low), float(high), BOTTOM, TOP, logarithmic)
    # An exact 0 has no logarithm: it sits on the floor.
    heights = np.maximum(values, low) if logarithmic else values
    dots = [
        (round(float(x(place)), 2), round(float(y(height)), 2), bool(full))
        for place, (height, full) in enumerate(zip(heights, filled, strict=True), start=1)
        if np.isfinite(height)
    ]
    return Chart(
        about, "component", y_label, _counted(x, len(values)), y.ticks(5), dots=dots,
        level=(float(y(level[0])), level[1]) if level else None,
        split=(float(x(split[0] + 0.5)), split[1]) if split else None,
    )  # fmt: skip


def _counted(axis: _Axis, length: int) -> list[tuple[float, str]]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, length + 1) if length / step <= 11)
    places = [place for place in range(1, length + 1) if place == 1 or place % step == 0]
    return [(round(float(axis(place)), 2), str(place)) for place in places]
