"""Curves of a run as SVG files, from its metrics.jsonl.

Figures are created without pyplot, so that no state is shared with the process. A quantity without values is not drawn,
and a figure without quantities is not written.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from training.report.metrics_log import read_metrics
from training.report.run_folder import (
    CURVES,
    RUN_CARD,
    Record,
    metric_title,
    number,
    read_run_table,
    require_run,
    table,
)

# The Okabe-Ito palette, which is safe for colour-blind readers.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, QUIET, FAINT = "#1c2024", "#60646c", "#d9dcdf"
_SIZE_INCHES = (7.0, 3.9)
# Longer curves are drawn as means of equal stretches, to keep files small.
_MAX_POINTS = 500
# More boundaries than this are short ticks at the lower edge instead of full lines.
_MAX_BOUNDARY_LINES = 30
# A pull within this range influences training without stopping it.
_USEFUL_PULL = (0.01, 1.0)


@dataclass(frozen=True, slots=True)
class Curves:
    """The records of a run by kind, and the step whose weights were selected."""

    steps: list[Record]
    evaluations: list[Record]
    boundaries: list[float]
    last_step: float
    best_step: float | None

    @classmethod
    def of(cls, records: Iterable[Record], best_step: float | None) -> "Curves":
        """Group records by kind; records without a step are ignored."""
        placed = [record for record in records if number(record, "step") is not None]
        by_kind = {kind: [record for record in placed if record.get("kind") == kind] for kind in _KINDS}
        boundaries = [number(record, "step") or 0.0 for record in by_kind["projection"]]
        last_step = max((number(record, "step") or 0.0 for record in placed), default=0.0)
        return cls(by_kind["step"], by_kind["evaluation"], boundaries, last_step, best_step)


_KINDS = ("step", "evaluation", "projection")


def write_curves(run_dir: Path) -> list[Path]:
    """Draw the curves of a run into its folder and return the files, the most important first.

    Curves of an earlier call that no longer have values are deleted. Raises InvalidRun if the folder contains no run.
    """
    require_run(run_dir)
    best_step = number(table(read_run_table(run_dir, RUN_CARD), "best"), "step")
    curves = Curves.of(read_metrics(run_dir), best_step)
    folder = run_dir / CURVES
    folder.mkdir(exist_ok=True)
    written = []
    for name, draw in _FIGURES.items():
        path = folder / f"{name}.svg"
        figure = draw(curves)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        written.append(path)
    return written


def series(records: Sequence[Record], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps and values of a quantity, at most 500 of them (means of equal stretches)."""
    points = [(number(record, "step"), number(record, key)) for record in records]
    whole = np.array([point for point in points if None not in point], dtype=np.float64).reshape(-1, 2)
    if len(whole) <= _MAX_POINTS:
        return whole[:, 0], whole[:, 1]
    stretches = np.array_split(whole, _MAX_POINTS)
    means = np.stack([stretch.mean(axis=0) for stretch in stretches])
    return means[:, 0], means[:, 1]


def _validation_figure(curves: Curves) -> Figure | None:
    keys = ["recall_at_1", "seen_recall_at_1", "unseen_recall_at_1", "map_at_r"]
    chosen = {record["metric"] for record in curves.evaluations if isinstance(record.get("metric"), str)}
    keys += sorted(str(key) for key in chosen.difference(keys))
    looks = [(BLUE, "-"), (ORANGE, "-"), (GREEN, "-"), (QUIET, "--"), (PURPLE, ":"), (VERMILLION, ":")]
    lines = {key: series(curves.evaluations, key) for key in keys}
    lines = {key: line for key, line in lines.items() if len(line[0])}
    if not lines:
        return None
    figure, (axes,) = _panels(curves, ["Validation"])
    for key, (steps, values) in lines.items():
        colour, style = looks[keys.index(key) % len(looks)]
        axes.plot(steps, values, style, color=colour, marker="o", markersize=3, label=metric_title(key))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if curves.best_step is not None:
        axes.axvline(curves.best_step, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="selected weights")
    _add_legend(figure)
    return figure


def _loss_figure(curves: Curves) -> Figure | None:
    wanted = [("loss", "Loss", BLUE), ("active_share", "Share of active pairs", VERMILLION)]
    return _stacked_figure(curves, wanted, shares={"active_share", "mined_share"})


def _distance_figure(curves: Curves) -> Figure | None:
    names = {"positive": ("pairs of one class", BLUE, "-"), "negative": ("pairs of two classes", VERMILLION, "--")}
    if not any(len(series(curves.steps, f"{sign}_distance_q50")[0]) for sign in names):
        return None
    figure, (axes,) = _panels(curves, ["Distances in the batch: median and range from 10 % to 90 %"])
    for sign, (label, colour, style) in names.items():
        steps, median = series(curves.steps, f"{sign}_distance_q50")
        if not len(steps):
            continue
        axes.plot(steps, median, style, color=colour, label=label)
        low_steps, low = series(curves.steps, f"{sign}_distance_q10")
        high_steps, high = series(curves.steps, f"{sign}_distance_q90")
        if np.array_equal(low_steps, high_steps):
            axes.fill_between(low_steps, low, high, color=colour, alpha=0.16, linewidth=0)
    _add_legend(figure)
    return figure


def _spread_figure(curves: Curves) -> Figure | None:
    wanted = [
        ("embedding_spread", "Spread of the embeddings (0: all equal)", GREEN),
        ("drift", "Drift of the weights from the anchor weights", PURPLE),
    ]
    return _stacked_figure(curves, wanted)


def _mining_figure(curves: Curves) -> Figure | None:
    wanted = [
        ("mined_share", "Share of mined classes in the batch", VERMILLION),
        ("representative_age", "Age of the representatives in steps", BLUE),
    ]
    return _stacked_figure(curves, wanted, shares={"mined_share"})


def _pull_figure(curves: Curves) -> Figure | None:
    # A ratio of exactly 0 (no pull, or anchor weights just set) has no logarithm.
    pulled = [record for record in curves.steps if (number(record, "pull_ratio") or 0) > 0]
    steps, ratios = series(pulled, "pull_ratio")
    if not len(steps):
        return None
    figure, (axes,) = _panels(curves, ["Pull as a share of the gradient"])
    axes.axhspan(*_USEFUL_PULL, color=GREEN, alpha=0.14, linewidth=0, label="effective range")
    axes.plot(steps, ratios, color=BLUE, label="‖pull‖ / ‖gradient‖")
    axes.set_yscale("log")
    axes.set_ylim(min(ratios.min() / 2, _USEFUL_PULL[0] / 3), max(ratios.max() * 2, _USEFUL_PULL[1] * 3))
    _add_legend(figure)
    return figure


def _learning_rate_figure(curves: Curves) -> Figure | None:
    return _stacked_figure(curves, [("learning_rate", "Learning rate", BLUE)])


_FIGURES: dict[str, Callable[[Curves], Figure | None]] = {
    "validation": _validation_figure,
    "loss": _loss_figure,
    "distances": _distance_figure,
    "spread": _spread_figure,
    "pull": _pull_figure,
    "mining": _mining_figure,
    "learning_rate": _learning_rate_figure,
}


def _stacked_figure(curves: Curves, wanted: list[tuple[str, str, str]], shares: Iterable[str] = ()) -> Figure | None:
    """Draw one panel below another for each quantity (key, title, colour) with values."""
    drawn = [(key, title, colour, series(curves.steps, key)) for key, title, colour in wanted]
    drawn = [entry for entry in drawn if len(entry[3][0])]
    if not drawn:
        return None
    figure, panels = _panels(curves, [title for _, title, _, _ in drawn])
    for axes, (key, _, colour, (steps, values)) in zip(panels, drawn, strict=True):
        axes.plot(steps, values, color=colour)
        if values.min() >= 0:
            axes.set_ylim(bottom=0)
        if key in shares:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _panels(curves: Curves, titles: list[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per title and a common axis of steps."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    panels = list(figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=QUIET, labelsize=8)
        axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.7)
        axes.set_axisbelow(True)
        axes.set_xlim(0, max(curves.last_step, 1))
        _mark_boundaries(axes, curves.boundaries)
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    marks = "   (thin lines: start of a projection)" if curves.boundaries else ""
    panels[-1].set_xlabel(f"step{marks}", fontsize=8, color=QUIET)
    return figure, panels


def _mark_boundaries(axes: Axes, steps: list[float]) -> None:
    height = 1.0 if len(steps) <= _MAX_BOUNDARY_LINES else 0.03
    lines = [np.array([[step, 0.0], [step, height]]) for step in steps]
    # Heights are shares of the panel and must not influence its range of values.
    transform = axes.get_xaxis_transform()
    marks = LineCollection(lines, colors=QUIET, linewidths=0.5, alpha=0.45, zorder=0.5, transform=transform)
    axes.add_collection(marks, autolim=False)


def _add_legend(figure: Figure) -> None:
    # Below the panel, where it covers no curve.
    figure.legend(loc="outside lower left", ncols=3, fontsize=8, frameon=False, labelcolor=INK)
