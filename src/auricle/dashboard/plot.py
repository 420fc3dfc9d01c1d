"""Loss, word error rate and learning rate over steps: as a picture of several runs, or as SVG for a page."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from auricle.core.errors import UsageError
from auricle.dashboard.curves import Curves, Points

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe & Ito 2008 (Color Universal Design), told apart by colour-blind readers; further lines repeat them dashed."""
DASHES = ("-", "--", ":", "-.")
PAGE_INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""
MANY_ROWS = 150
"""A longer loss curve is drawn thin, with its running mean on top."""
LOG_SCALE_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    label: str
    points: Points
    style: int
    """Index of colour and dashes."""
    evaluated: bool = False
    """Few points, each an evaluation: drawn with marks."""
    window: int = 1
    """Rows of the running mean."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at a step."""

    label: str
    step: int
    style: int


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. `scale` turns values of the curves into the unit of the label."""

    title: str
    label: str
    lines: Sequence[Line]
    scale: float = 1.0
    may_be_logarithmic: bool = True
    marks: Sequence[Mark] = ()


def panels(curves: Sequence[Curves]) -> list[Panel]:
    """The charts that these runs have data for."""
    several = len(curves) > 1
    loss, wer, rate, marks = [], [], [], []
    for index, run in enumerate(curves):
        window = max(5, len(run.loss) // 50) if len(run.loss) > MANY_ROWS else 1
        loss.append(Line(f"{run.name}, training", run.loss, index, window=window))
        rate.append(Line(run.name, run.learning_rate, index))
        for k, (dataset, points) in enumerate(run.eval_loss.items()):
            style = index if several else k + 1
            loss.append(Line(_label(run.name, dataset, "evaluation"), points, style, evaluated=True))
        for k, (dataset, points) in enumerate(run.wer.items()):
            wer.append(Line(_label(run.name, dataset), points, index + k, evaluated=True))
        name = run.name if several else ""
        marks += [Mark(_label(name, f"alignment onset, step {step:,}"), step, index) for step in run.onsets]
    found = (Panel("Loss", "Loss", loss, marks=marks), Panel("Word error rate", "WER (%)", wer, 100.0, marks=marks),
             Panel("Learning rate", "Learning rate", rate, may_be_logarithmic=False))
    drawn = ((panel, [line for line in panel.lines if line.points]) for panel in found)
    return [replace(panel, lines=lines) for panel, lines in drawn if lines]


def _label(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def save_plot(curves: Sequence[Curves], to: Path) -> None:
    """Writes one picture, its charts below each other over a common step axis; the suffix names the format.

    Raises UsageError for a suffix that is no picture format and for a file that cannot be written.
    """
    charts = panels(curves)
    figure = Figure(figsize=(9, 0.8 + 2.9 * len(charts)), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if to.suffix.lower().removeprefix(".") not in formats:
        raise UsageError(f"{to}: '{to.suffix}' is no picture format; expected one of: .{', .'.join(sorted(formats))}")
    for axes, chart in zip(figure.subplots(len(charts), sharex=True, squeeze=False)[:, 0], charts, strict=True):
        draw(axes, chart)
    figure.axes[-1].set_xlabel("Step")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(to, dpi=150)
    except OSError as error:
        raise UsageError(f"{to}: cannot be written ({error.strerror}); name another file with --to") from None


def svg(panel: Panel) -> str:
    """A chart as an `<svg>` element that scales with the page and takes the colour of its text."""
    # Text stays text (small, can be searched); a salt of its own keeps the ids of several charts in one page apart.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title, "font.family": "sans-serif"}):
        figure = Figure(figsize=(4.8, 3.3), layout="constrained")
        axes = figure.subplots()
        draw(axes, panel, ink=PAGE_INK)
        axes.set_xlabel("Step")
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = text.getvalue()
    element = element[element.index("<svg"):].replace(PAGE_INK, "currentColor")
    element = element.replace(COLOURS[0].lower(), f"var(--curve, {COLOURS[0]})")  # too dim on a dark page
    return re.sub(r'\s(?:width|height)="[\d.]+pt"', "", element, count=2)


def draw(axes: Axes, panel: Panel, ink: str = "#222222") -> None:
    """Lines, scale, labels and legend of one chart."""
    for line in panel.lines:
        _draw_line(axes, line, panel.scale)
    for mark in panel.marks:
        axes.axvline(mark.step, color=_colour(mark.style), linestyle=":", linewidth=1.4, label=_legend(mark.label))
    _set_scale(axes, panel)
    averaged = any(line.window > 1 for line in panel.lines)
    axes.set_title(panel.title + ("  (bold: running mean)" if averaged else ""), loc="left", fontsize=11, color=ink)
    axes.set_ylabel(panel.label, color=ink)
    axes.xaxis.label.set_color(ink)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.tick_params(which="both", colors=ink)
    axes.grid(True, which="major", color=ink, alpha=0.15, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=ink)


def _draw_line(axes: Axes, line: Line, scale: float) -> None:
    steps = np.array(list(line.points))
    values = np.array([value * scale for value in line.points.values()])
    colour, dashes = _colour(line.style), DASHES[line.style // len(COLOURS) % len(DASHES)]
    if line.window > 1:
        axes.plot(steps, values, linewidth=0.7, alpha=0.4, color=colour)
        values = np.convolve(values, np.full(line.window, 1 / line.window), "valid")
        steps = steps[line.window // 2:][:len(values)]
    marker = "o" if line.evaluated or len(steps) == 1 else ""
    axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=4.5,
              label=_legend(line.label))


def _colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def _legend(label: str) -> str:
    """A "$" would start a formula, and a leading "_" would keep the line out of the legend."""
    label = label.replace("$", r"\$")
    return f"\u200a{label}" if label.startswith("_") else label


def _set_scale(axes: Axes, panel: Panel) -> None:
    """Logarithmic where the values span more than a factor of 20; rates start at 0."""
    values = [value * panel.scale for line in panel.lines for value in line.points.values() if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if panel.may_be_logarithmic and low > 0 and high / low > LOG_SCALE_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.title != "Loss" and high > 0:
        axes.set_ylim(0, high * 1.08)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
