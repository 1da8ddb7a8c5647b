"""Pictures: what each change gains, and the designs that nothing beats."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .baselines import Claim
from .compare import Rung
from .explore import Sweep

if TYPE_CHECKING:  # a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN = "#1f5fa8", "#d9731a", "#2f8f5b"
_SHADES = ("#c9a27e", "#b9a6c9", "#9fb7cc", "#8a8f98")  # of buffers, the smallest first


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def waterfall(ladders: Mapping[str, Sequence[Rung]], claim: Claim) -> bytes:
    """A PNG: a column of two panels a problem, speedup above and energy ratio below, a bar for each change."""
    figure = _figure(4.6 * len(ladders) + 0.6, 7.6)
    grid = figure.subplots(2, len(ladders), squeeze=False, sharey="row")
    for column, (problem, rungs) in enumerate(ladders.items()):
        chain = [rung for rung in rungs if rung.change]
        for row, (what, claimed) in enumerate((("seconds", claim.speedup), ("joules", claim.energy_ratio))):
            axes = grid[row][column]
            axes.axhspan(*claimed, color="#dddfe3", lw=0, zorder=0)
            _steps(axes, [getattr(chain[0], what) / getattr(rung, what) for rung in chain], chain)
            axes.set_title(problem if row == 0 else "", fontsize=13)
    for row, (what, claimed) in enumerate((("speedup", claim.speedup), ("energy ratio", claim.energy_ratio))):
        axes = grid[row][0]
        axes.set_ylabel(f"{what} over GPU, dense, AD")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.6, high * 2.2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}x")
        axes.text(-0.4, claimed[1] * 0.9, "stated in the literature", fontsize=8, va="top", color="#555")
    return _png(figure)


def _steps(axes: Any, ratios: Sequence[float], chain: Sequence[Rung]) -> None:
    """Bars from each ratio to the next on a logarithmic axis; losses in orange, the total in blue."""
    axes.set_yscale("log")
    before = 1.0
    for index, ratio in enumerate(ratios[1:]):
        _bar(axes, index, before, ratio, _GREEN if ratio >= before else _ORANGE, ratio / before)
        axes.plot([index - 0.31, index + 1.31], [ratio, ratio], color="#444", lw=0.7)
        before = ratio
    _bar(axes, len(chain) - 1, 1.0, before, _BLUE, before)
    axes.axhline(1.0, color="#444", lw=0.8)
    axes.set_xticks(range(len(chain)), [*(_tick(rung) for rung in chain[1:]), "all"], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _tick(rung: Rung) -> str:
    """What changes, and where it runs."""
    machine = rung.name.partition(",")[0]
    return rung.change if rung.change == machine else f"{rung.change}\non {machine}"


def _bar(axes: Any, place: int, start: float, end: float, color: str, factor: float) -> None:
    low, high = sorted((start, end))
    axes.bar(place, high - low, bottom=low, width=0.62, color=color)
    label = f"{factor:,.0f}x" if factor >= 100 else f"{factor:.3g}x"
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}  # over lines
    axes.text(place, high * 1.12, label, ha="center", va="bottom", fontsize=8, bbox=box, zorder=5)


def pareto(sweep: Sweep, problem: str, default: tuple[float, float]) -> bytes:
    """A PNG: energy against time of every design, the frontier with its bottlenecks, the default (seconds, joules)."""
    figure = _figure(9.5, 6.2)
    axes = figure.subplots()
    columns = sweep.columns
    seconds, joules, area = columns["seconds"] * 1e3, columns["pj"] * 1e-6, columns["area_mm2"]
    for shade, kib in zip(_SHADES, sorted(set(columns["activation_kib"].tolist())), strict=False):
        rows = columns["activation_kib"] == kib
        axes.scatter(seconds[rows], joules[rows], s=area[rows] * 1.5, color=shade, alpha=0.25, lw=0, zorder=1)
        axes.scatter([], [], s=40, color=shade, label=f"activation buffer {kib:,} KiB")
    front = sweep.frontier
    axes.plot(seconds[front], joules[front], color=_BLUE, lw=1)
    colors = (_BLUE, _GREEN, _ORANGE, "#7b4fa3", "#b03a48")
    for color, name in zip(colors, sorted(set(columns["bottleneck"][front])), strict=False):
        rows = front[columns["bottleneck"][front] == name]
        axes.scatter(seconds[rows], joules[rows], s=area[rows] * 3, color=color, label=f"frontier, {name}", zorder=3)
    axes.scatter(default[0] * 1e3, default[1] * 1e6, s=140, marker="*", color="black", label="default", zorder=4)
    axes.set(xscale="log", yscale="log", xlabel="time of a training step (ms)", ylabel="energy of a training step (uJ)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    for row, name, high in ((front[0], "fastest", 0.32), (front[-1], "least energy", 0.02)):
        _note(axes, (seconds[row], joules[row]), f"{name}: {_sizes(sweep, row)}", high)
    span = f"{area.min():.2g} to {area.max():.2g} mm2"
    axes.set_title(f"{problem}: {len(sweep):,} designs of {span} (area of a marker)", fontsize=12)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _sizes(sweep: Sweep, row: int) -> str:
    """A design in its own numbers."""
    c = {key: values[row] for key, values in sweep.columns.items()}
    elements = f"{c['rows']} x {c['cols']} elements of {c['slice_multipliers']} multipliers"
    return f"{elements}, {c['clock_mhz']:g} MHz, {c['activation_kib']:,} KiB, {c['area_mm2']:.1f} mm2, {c['widths']}"


def _note(axes: Any, point: tuple[float, float], text: str, high: float) -> None:
    """Text at a height of the axes, and a line from it to its point."""
    line = {"arrowstyle": "-", "color": "#555", "lw": 0.7, "relpos": (0, 0.5)}
    place = (0.1, high)
    axes.annotate(text, point, place, textcoords="axes fraction", fontsize=8, color="#333", arrowprops=line, zorder=5)
