"""Small charts as inline SVG in the page's light or dark colours. Imports matplotlib lazily."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

LIGHT = {
    "ink": "#24292f",
    "muted": "#6e7781",
    "rule": "#d8dee4",
    "c0": "#2f6fd6",
    "c1": "#d9622b",
    "c2": "#2a9d68",
    "c3": "#8a5cd0",
    "c4": "#c2a01e",
    "c5": "#c8457f",
    "c6": "#3aa5b8",
    "c7": "#8b8f96",
}
"""Charts are drawn in these colours; in SVG each becomes the CSS variable of its name."""
DARK = {
    "ink": "#e6edf3",
    "muted": "#8d96a0",
    "rule": "#30363d",
    "c0": "#6ea8ff",
    "c1": "#ff9a66",
    "c2": "#5fd39b",
    "c3": "#bb98ff",
    "c4": "#e6c84f",
    "c5": "#ff86b5",
    "c6": "#6fd6e8",
    "c7": "#a6abb3",
}
SERIES_COLOURS = [LIGHT[f"c{i}"] for i in range(8)]
WIDTH, HEIGHT = 4.0, 2.3
"""Inches at 72 units each: readable at the width of a phone."""
SMOOTH_FROM, SMOOTH_WINDOW = 20, 5
"""Curves of at least so many points show a moving average over so many."""


LINE_CHARS, LINE_HEIGHT = 50, 0.16
"""Characters of text that fit into the width, and inches of a line of it."""


@dataclass(frozen=True)
class Interval:
    """One row of a forest."""

    value: float
    low: float
    high: float
    is_resolved: bool


@dataclass(frozen=True)
class Series:
    """One line of a chart, with an optional band around it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def line_chart(series: Sequence[Series]) -> str:
    """SVG of one or more series over steps; a legend when there are several."""
    figure, axes = _figure()
    draw_lines(axes, series)
    return _svg(figure)


def stacked_chart(x: Sequence[float], parts: Mapping[str, Sequence[float]]) -> str:
    """SVG of stacked areas, one for each part, the first at the bottom."""
    figure, axes = _figure()
    axes.stackplot(
        x, *parts.values(), labels=list(parts), colors=SERIES_COLOURS, step="mid", linewidth=0
    )
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    _legend(axes)
    return _svg(figure)


def interval_chart(rows: Mapping[str, Interval]) -> str:
    """SVG of intervals, each below its label; resolved ones in colour, a line marks zero."""
    from matplotlib.ticker import MaxNLocator

    labels = [fill(label, LINE_CHARS) for label in rows]
    heights = [0.25 + LINE_HEIGHT * (1 + label.count("\n")) for label in labels]
    figure, axes = _figure(0.4 + sum(heights))
    bottoms = np.cumsum(heights)
    style: dict[str, Any] = {"fontsize": 8, "color": LIGHT["muted"], "va": "top"}
    for label, top, bottom, row in zip(
        labels, bottoms - heights, bottoms, rows.values(), strict=True
    ):
        colour = LIGHT["c0"] if row.is_resolved else LIGHT["muted"]
        place = bottom - 0.12
        axes.plot((row.low, row.high), (place, place), color=colour, linewidth=2)
        axes.plot(row.value, place, color=colour, marker="o", markersize=5)
        axes.text(0, top, label, transform=axes.get_yaxis_transform(), in_layout=False, **style)
    axes.axvline(0, color=LIGHT["ink"], linewidth=0.8)
    axes.set_yticks([])
    axes.set_ylim(bottoms[-1], 0)  # inches from the top
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return _svg(figure)


def draw_lines(axes: Axes, series: Sequence[Series], legend: bool = True) -> None:
    """Few points get markers, many are drawn faintly behind their moving average."""
    for one, colour in zip(series, itertools.cycle(SERIES_COLOURS), strict=False):
        if len(one.x) < SMOOTH_FROM or one.low is not None:
            marker = "o" if len(one.x) < SMOOTH_FROM else None
            axes.plot(one.x, one.y, color=colour, label=one.label, marker=marker, markersize=3)
        else:
            averaged = smooth(one.y, SMOOTH_WINDOW)
            axes.plot(one.x, one.y, color=colour, alpha=0.3, linewidth=1)
            axes.plot(one.x, averaged, color=colour, label=one.label)
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
    if legend and len(series) > 1:
        _legend(axes)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average over ``window`` points, NaN ignored: float [T] -> float [T]."""
    points = np.asarray(values, dtype=np.float64)
    kernel = np.ones(min(window, len(points)))
    valid = ~np.isnan(points)
    total = np.convolve(np.where(valid, points, 0.0), kernel, mode="same")
    count = np.convolve(valid.astype(np.float64), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def style_axes(axes: Axes) -> None:
    """Two spines, a quiet grid, whole-number steps."""
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT["rule"])
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=LIGHT["muted"], labelsize=8, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # Each tick says its whole value: matplotlib's common factor would lie under the legend.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.5g}")


def _figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def _legend(axes: Axes) -> None:
    # Long labels side by side would leave no room for the axes.
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 14 else 1
    labels = [fill(label, LINE_CHARS) for label in labels]
    num_lines = sum(1 + label.count("\n") for label in labels) / columns
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * max(num_lines - 3, 0))
    axes.legend(
        handles,
        labels,
        fontsize=8,
        frameon=False,
        labelcolor=LIGHT["muted"],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element that scales with its container."""
    import matplotlib

    settings: dict[RcKeyType, Any] = {"svg.fonttype": "none", "font.family": "sans-serif"}
    buffer = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
