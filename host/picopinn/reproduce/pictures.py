"""The pictures of the results: error against steps, error against bytes, and the masking curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plots import figure, plain, png
from .rows import DEFAULT, DENSE_FLOAT, DIFFERENCE, MASKING_SIGMAS, NAIVE, SEQUENTIAL
from .summary import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = {DENSE_FLOAT: "#8a8f98", DEFAULT: "#1f5fa8", SEQUENTIAL: "#4b9b6e", DIFFERENCE: "#d9731a", NAIVE: "#b3383b"}


def by_steps(lines: Sequence[Line]) -> bytes:
    """Error against steps, a panel a problem: the median of the seeds."""

    def draw(axes: Axes, mine: Sequence[Line]) -> None:
        for line in mine:
            curves = [result["curve"] for result in line.results if "failed" not in result and result["curve"]]
            if line.row.name not in _SHOWN or not curves:
                continue
            steps = [step for step, _ in curves[0]]
            errors = np.median([[error for _, error in curve] for curve in curves], axis=0)
            axes.semilogy(steps, errors, color=_SHOWN[line.row.name], label=line.row.name)
        axes.set(xlabel="step")

    return _panels(lines, draw)


def by_bytes(lines: Sequence[Line]) -> bytes:
    """Error against bytes of the parameters, a panel a problem, a point a row."""
    from matplotlib.ticker import LogLocator, NullFormatter

    def draw(axes: Axes, mine: Sequence[Line]) -> None:
        for line in mine:
            if math.isfinite(line.mean):
                size, known = line.results[0]["bytes"], line.row.name in _SHOWN
                colour = _SHOWN.get(line.row.name, "#c9cdd3")
                axes.loglog(size, line.mean, "o", color=colour, label=line.row.name if known else None)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1000:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="kB of the parameters")

    return _panels(lines, draw)


def _panels(lines: Sequence[Line], draw: Callable[[Axes, Sequence[Line]], None]) -> bytes:
    problems = list(dict.fromkeys(line.row.problem for line in lines))
    columns = min(4, len(problems))
    rows = -(-len(problems) // columns)
    drawing = figure(3.6 * columns, 2.9 * rows + 0.4)
    grid = drawing.subplots(rows, columns, squeeze=False)
    for axes, problem in zip(grid.flat, problems, strict=False):
        draw(axes, [line for line in lines if line.row.problem == problem])
        axes.set_title(problem)
        plain(axes)
    for axes in grid.flat[len(problems) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylabel("relative L2 error")
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    return png(drawing)


def masking(lines: Sequence[Line]) -> bytes:
    """Error against the size of finite steps: points, differences, and odd and even parts."""
    drawing = figure(6.4, 4.2)
    axes = drawing.subplots()
    for quantization, colour in ((NAIVE, _SHOWN[NAIVE]), (DIFFERENCE, _SHOWN[DIFFERENCE]), ("odd-even", "#1f5fa8")):
        found = {line.row.given["sigma"]: line.mean for line in lines if line.row.given["quantization"] == quantization}
        sigmas = [sigma for sigma in MASKING_SIGMAS if math.isfinite(found.get(sigma, math.inf))]
        axes.loglog(sigmas, [found[sigma] for sigma in sigmas], "o-", color=colour, label=quantization)
    axes.set(xlabel="size of a step, sigma", ylabel="relative L2 error", title="poisson2d: what is quantized")
    plain(axes)
    axes.legend(frameon=False)
    return png(drawing)
