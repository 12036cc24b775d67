"""The plots of docs/capacity.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.capacity.events import Outcome
from bench.capacity.limits import Parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#4c72b0",
    "#dd8452",
    "#55a868",
    "#c44e52",
    "#8172b3",
    "#937860",
    "#da8bc3",
    "#8c8c8c",
    "#ccb974",
    "#64b5cd",
)
_RATES = [10 ** (power / 4) for power in range(4 * 3, 4 * 7 + 1)]
"""1,000 to 10,000,000 images a second."""


def plot_costs(bars: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw core-hours of a million images, a bar for each hit rate, with the share of each part."""
    figure, (axes,) = _figure(1, 0.5 * len(bars) + 1.4)
    names = list(next(iter(bars.values())))
    ends = [0.0] * len(bars)
    for name, colour in zip(names, _COLOURS, strict=False):
        widths = [parts[name] for parts in bars.values()]
        axes.barh(list(bars), widths, left=ends, color=colour, label=name, height=0.7)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("core-hours of a million images")
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def plot_limits(panels: Mapping[str, Parts], path: Path) -> None:
    """Draw each part's use over images a second, a panel for each hit rate; a part is full where it meets the line."""
    figure, every = _figure(len(panels), 4.6)
    for axes, (title, parts) in zip(every, panels.items(), strict=True):
        uses = [parts(rate) for rate in _RATES]
        for number, part in enumerate(uses[0]):
            dashed = "--" if part.basis in {"assumed", "a setting"} else "-"
            label = f"{part.name} ({part.basis})"
            line = [row[number].use for row in uses]
            axes.plot(_RATES, line, dashed, color=_COLOURS[number % len(_COLOURS)], label=label, linewidth=1.4)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(1e-3, 1e2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("images/s")
        axes.grid(color="#dddddd")
    every[0].set_ylabel("part of what it can take")
    figure.legend(
        *every[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=8
    )
    _save(figure, path)


def plot_events(groups: Mapping[str, tuple[float, Sequence[Outcome]]], path: Path) -> None:
    """Draw what becomes of the images offered a second in each event, a panel for each cluster with its rate."""
    figure, every = _figure(len(groups), 3.0)
    names = ("answered", "waiting, more each second", "refused (429), or none is there (503)")
    for axes, (title, (rate, outcomes)) in zip(every, groups.items(), strict=True):
        answered = [min(1.0, each.seen.rate / rate) if each.seen else 0.0 for each in outcomes]
        refused = [
            min(1.0 - done, each.seen.refused / rate) if each.seen else 1.0
            for done, each in zip(answered, outcomes, strict=True)
        ]
        waiting = [1.0 - done - lost for done, lost in zip(answered, refused, strict=True)]
        ends = [0.0] * len(outcomes)
        for name, colour, widths in zip(
            names, (_COLOURS[2], _COLOURS[8], _COLOURS[3]), (answered, waiting, refused), strict=True
        ):
            axes.barh(range(len(outcomes)), widths, left=ends, color=colour, label=name)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("part of the images offered")
    every[0].set_yticks(range(len(outcomes)), [each.event.name for each in outcomes])
    every[0].invert_yaxis()  # of all panels, which share it
    figure.legend(*every[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3)
    _save(figure, path)


def _figure(panels: int, height: float) -> "tuple[Figure, list[Axes]]":
    import matplotlib as mpl  # noqa: PLC0415, tables need none

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "microtome"
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(1, panels, figsize=(9, height), squeeze=False, sharey=panels > 1)
    return figure, list(axes[0])


def _save(figure: "Figure", path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
