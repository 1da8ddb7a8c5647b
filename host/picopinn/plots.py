"""The picture of a run: solution, reference and error, and how they came about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .network import Floats
from .runs import Row
from .solver import Solver

if TYPE_CHECKING:  # a second to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9731a", "#8a8f98"
_BESIDE = (1.05, 0.0, 0.05, 1.0)  # where a panel's colour bar is, in units of the panel


def picture(solver: Solver, rows: Sequence[Row]) -> bytes:
    """A PNG: for two dimensions three panels of the plane, else predictions against the reference; then the curves."""
    points = solver.problem.test_points()
    u, reference = solver.predict(points), solver.problem.solution(points)
    plane = solver.problem.dimensions == 2
    drawing = figure(12, 7.4 if plane else 5)
    drawing.suptitle(f"{solver.problem.name}: relative L2 error {rows[-1].relative_l2:.2e}", fontsize=15)
    below = _plane(drawing, points, u, reference) if plane else _scatter(drawing, u, reference)
    _curves(below, rows)
    return png(drawing)


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    result = Figure(figsize=(width, height), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(result)
    return result


def png(figure: Figure) -> bytes:
    """The figure as a file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def plain(axes: Axes) -> None:
    """Curves on a light grid, without a box."""
    axes.grid(axis="y", color="#e3e5e8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _plane(figure: Figure, points: Floats, u: Floats, reference: Floats) -> Axes:
    """Three panels of the plane; returns the axes below them."""
    from matplotlib.ticker import ScalarFormatter

    grid = figure.add_gridspec(2, 3, height_ratios=(1.35, 1))
    left, middle, right = (figure.add_subplot(grid[0, column]) for column in range(3))
    low, high = min(u.min(), reference.min()), max(u.max(), reference.max())
    _panel(left, "solution", points, u, "viridis", low, high)
    shared = _panel(middle, "reference", points, reference, "viridis", low, high)
    figure.colorbar(shared, cax=middle.inset_axes(_BESIDE))
    error = u - reference
    limit = max(float(np.abs(error).max()), np.finfo(float).tiny)
    own = _panel(right, "error", points, error, "RdBu_r", -limit, limit)
    scientific = ScalarFormatter(useMathText=True)
    scientific.set_powerlimits((0, 0))
    figure.colorbar(own, cax=right.inset_axes(_BESIDE), format=scientific)
    return figure.add_subplot(grid[1, :])


def _panel(axes: Axes, title: str, points: Floats, values: Floats, colours: str, low: float, high: float) -> Any:
    axes.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.margins(0)
    x, y = points.T
    return axes.tripcolor(x, y, values, shading="gouraud", cmap=colours, vmin=low, vmax=high, rasterized=True)


def _scatter(figure: Figure, u: Floats, reference: Floats) -> Axes:
    """Predictions against the reference; returns the axes beside them."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    ends = [reference.min(), reference.max()]
    left.plot(ends, ends, color=_GREY, linewidth=1, label="exact")
    left.plot(reference, u, ".", color=_BLUE, markersize=3, alpha=0.5, label="test points")
    left.set(title="solution against reference", xlabel="reference $u$", ylabel="solution $u$")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    return right  # type: ignore[no-any-return]


def _curves(axes: Axes, rows: Sequence[Row]) -> None:
    steps = [row.step for row in rows]
    evaluated = [(row.step, row.relative_l2) for row in rows if row.relative_l2 is not None]
    axes.semilogy(steps, [row.loss for row in rows], color=_GREY, linewidth=0.8, label="loss")
    axes.semilogy(
        *zip(*evaluated, strict=True), "o-", color=_ORANGE, markersize=4, clip_on=False, label="relative L2 error"
    )
    axes.set(title="training", xlabel="step", xlim=(0, steps[-1]))
    plain(axes)
    axes.legend(frameon=False)
