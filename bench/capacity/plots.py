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
_RATES = [10 ** (power / 8) for power in range(8 * 3, 8 * 7 + 1)]
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


def plot_events(groups: Mapping[str, Sequence[Outcome]], path: Path) -> None:
    """Draw images answered and refused a second in each event, as parts of those offered."""
    figure, every = _figure(len(groups), 3.0)
    for axes, (title, outcomes) in zip(every, groups.items(), strict=True):
        for row, each in enumerate(outcomes):
            answered, refused = (each.seen.rate, each.seen.refused) if each.seen else (0.0, 1.0)
            part = answered / (answered + refused)
            axes.barh(row, part, color=_COLOURS[2], label="" if row else "answered")
            axes.barh(
                row, 1 - part, left=part, color=_COLOURS[3], label="" if row else "refused (429) or none there (503)"
            )
        axes.set_yticks(range(len(outcomes)), [each.event.name for each in outcomes])
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("part of the images offered")
    for axes in every[1:]:
        axes.set_yticklabels([])
    figure.legend(*every[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2)
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
