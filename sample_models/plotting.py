"""Charts as SVG, by matplotlib. The same figures give the same bytes with the same version of it."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sample_models.figures import Chart, Figures

# Okabe and Ito's colours, which every kind of sight tells apart, and lines that print tells apart.
_STYLES: Final = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"))
_WIDTH_INCHES, _HEIGHT_INCHES = 5.0, 3.6


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(figures: Figures) -> bytes:
    """Every chart of ``figures``, side by side, as one SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "bnfold", "axes.spines.top": False, "axes.spines.right": False}):
        count = len(figures.charts)
        picture = Figure(figsize=(_WIDTH_INCHES * count, _HEIGHT_INCHES), layout="constrained")
        for axes, chart in zip(picture.subplots(1, count, squeeze=False)[0], figures.charts, strict=True):
            _draw_chart(axes, chart)
        stream = io.BytesIO()
        picture.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _draw_chart(axes: Axes, chart: Chart) -> None:
    if chart.ticks:
        _draw_bars(axes, chart)
    else:
        _draw_curves(axes, chart)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.log_x:
        axes.set_xscale("log")
    axes.grid(visible=True, axis="y" if chart.ticks else "both", alpha=0.3)
    axes.legend(frameon=False)


def _draw_curves(axes: Axes, chart: Chart) -> None:
    for curve, (colour, line) in zip(chart.curves, _STYLES, strict=False):
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(curve.x, curve.y, line, color=colour, label=curve.label, linewidth=1.6)


def _draw_bars(axes: Axes, chart: Chart) -> None:
    width = 0.8 / len(chart.curves)
    for number, (curve, (colour, _line)) in enumerate(zip(chart.curves, _STYLES, strict=False)):
        left = [x - 0.4 + (number + 0.5) * width for x in curve.x]
        axes.bar(left, curve.y, width, color=colour, label=curve.label)
    axes.set_xticks(range(len(chart.ticks)), chart.ticks)
