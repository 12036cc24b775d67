"""Write what a sweep found: recipe.yaml, sweep.json and report.html, and say it in six lines."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporter.recipe.backbones import BACKBONES
from exporter.recipe.own_backbones import KERAS_FILES
from exporter.recipe.preprocessing import recorded
from exporter.recipe.resolved import OutputRecipe
from exporter.recipe.writing import in_one_line, write_files
from exporter.sweep.html import report
from exporter.sweep.pipeline import Sweep

RECIPE, NUMBERS, REPORT = "recipe.yaml", "sweep.json", "report.html"
_DIGITS = 6


def write(found: Sweep, out: Path, photos: Path) -> None:
    """Write the three files, each whole or not at all.

    Args:
        found: The sweep.
        out: Their folder.
        photos: Where the photos were, for the calibration of projections.
    """
    texts = {
        RECIPE: recipe_text(found, photos),
        NUMBERS: json.dumps(numbers(found), indent=1, allow_nan=False),
        REPORT: report(found),
    }
    write_files(out, texts)


def recipe_text(found: Sweep, photos: Path) -> str:
    """Return a recipe of the recommended, the best and the default candidate, as YAML with comments."""
    roles = {"recommended": found.recommended, "best": found.best, "default": found.default}
    chosen: dict[int, dict[int, list[str]]] = {}
    for role, index in roles.items():
        chosen.setdefault(found.candidates[index].variant, {}).setdefault(index, []).append(role)
    lines = [
        f"# From microtome sweep --for {found.request.use}: {_verdict(found)}",
        "# Vectors are compared by cosine. Export: microtome export recipe.yaml",
        "models:",
    ]
    for at, outputs in chosen.items():
        variant = found.request.variants[at]
        own = variant.row.name not in BACKBONES
        entry: dict[str, Any] = {"name": _model_name(found, at), "backbone": _path(variant.row.name)}
        if not own or variant.weights != "own":
            entry["weights"] = _path(variant.weights)
        given: dict[str, Any] = {"size": [variant.pixels.height, variant.pixels.width]} if own else {}
        given |= {"scaling": variant.row.scaling} if own else {}
        given |= {"resize": variant.pixels.resize} if variant.resize != "crop" else {}
        entry |= {"input": given} if given else {}
        # The recommended one comes first, and clients get it unless they ask for another.
        names = [found.candidates[index].output.name for index in outputs]
        entry["default_output"] = names[0]
        written = [f"{key}: {in_one_line(value)}" for key, value in entry.items()]
        lines += [f"  {'-' if place == 0 else ' '} {line}" for place, line in enumerate(written)]
        lines.append("    outputs:")
        for index, said in outputs.items():
            candidate = found.candidates[index]
            lines.append(f"      # {' and '.join(said)}: {_figure(found, index)}, {4 * candidate.dimension:,} bytes")
            lines.append(f"      - {in_one_line(_output(candidate.output))}")
            shorter = _shorter(found, index)
            if shorter:
                lines.append(f"      # {shorter} (add the line calibration: {json.dumps(str(photos.absolute()))})")
    return "\n".join(lines) + "\n"


def _shorter(found: Sweep, index: int) -> str:
    """Return the shortest principal components that lose at most one point."""
    lost = found.losses[index].pca if index in found.losses else {}
    good = [size for size, change in sorted(lost.items()) if change >= -0.01]
    pooled = found.candidates[index].output.pooling != "none"
    return (
        f"projection: {{pca: {good[0]}}} changes {found.request.measure} by {lost[good[0]]:+.3f}"
        if good and pooled
        else ""
    )


def _output(output: OutputRecipe) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": output.name}
    entry |= {"layers": list(output.layers)} if output.more_layers else {"layer": output.layer}
    entry["pooling"] = output.pooling
    if output.projection is not None:
        entry["projection"] = {output.projection.kind: output.projection.dim}
    return entry


def _model_name(found: Sweep, at: int) -> str:
    def stem(index: int) -> str:
        name = Path(found.request.variants[index].row.name).name
        name = next((name.removesuffix(ending) for ending in KERAS_FILES if name.endswith(ending)), name)
        return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()[:40] or "model"

    name = stem(at)
    twins = [index for index in range(len(found.request.variants)) if stem(index) == name]
    variant = found.request.variants[at]
    return name if len(twins) == 1 else f"{name}-{variant.resize}-{twins.index(at) + 1}"


def _path(text: str) -> str:
    return str(Path(text).absolute()) if os.sep in text or Path(text).is_file() else text


def numbers(found: Sweep) -> dict[str, Any]:
    """Return every number of a sweep, for `sweep.json`. Only `timing` differs from run to run."""
    import keras  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    request = found.request
    name_of = [f"{one.variant}/{one.output.name}" for one in found.candidates]
    timing = dict(found.timing)
    milliseconds = timing.pop("milliseconds", {})
    timing["milliseconds"] = {
        name_of[index]: {"clock": round(wall, 3), "processor": round(cpu, 3)}
        for index, (wall, cpu) in milliseconds.items()
    }
    document = {
        "schema": 1,
        "use": request.use,
        "measure": found.measure,
        "chance": found.chance,
        "seed": request.seed,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
        "variants": [
            {"backbone": one.row.name, "weights": one.weights, "resize": one.resize, "input": recorded(one.pixels)}
            for one in request.variants
        ],
        "decision": {
            "recommended": name_of[found.recommended],
            "best": name_of[found.best],
            "default": name_of[found.default],
            "verdict": found.decision.verdict,
            "why": found.decision.why,
            "tied": [name_of[index] for index, tied in zip(found.deciding, found.comparison.tied, strict=True) if tied],
            "optimism": asdict(found.optimism) if found.optimism else None,
        },
        "candidates": list(_candidates(found, name_of)),
        "photos": [
            {"name": photo.name, "sha256": photo.digest, "label": photo.label, "group": photo.group}
            for photo in found.collection.photos
        ],
        "left_out": [{"name": name, "why": why} for name, why in found.collection.left_out],
        "notes": [*found.notes, *([found.choice] if found.choice else [])],
    }
    return {**_rounded(document), "timing": timing}


def _candidates(found: Sweep, name_of: list[str]) -> Iterator[dict[str, Any]]:
    places = {index: place for place, index in enumerate(found.deciding)}
    for index, (one, scores) in enumerate(zip(found.candidates, found.scores, strict=True)):
        lost = found.losses.get(index)
        entry: dict[str, Any] = {
            "id": name_of[index],
            "variant": one.variant,
            **_output(one.output),
            "dimension": one.dimension,
            "bytes": 4 * one.dimension,
            "flops": one.flops,
            "params": one.params,
            "depth": one.depth,
            "front": index in found.front,
            "measures": {found.request.measure: scores.estimate, **scores.others},
            "interval": found.general.intervals[index],
            "against_default": found.general.against_default[index],
        }
        if found.decisive is not found.scores and index in places:
            place = places[index]
            entry[found.measure] = {
                "estimate": found.decisive[place].estimate,
                "interval": found.comparison.intervals[place],
                "against_default": found.comparison.against_default[place],
            }
        if index in places:
            entry["tied"] = found.comparison.tied[places[index]]
            entry["better_than_default"] = found.comparison.better[places[index]]
        if lost is not None:
            entry["change_by"] = asdict(lost)
        yield entry


def _rounded(value: Any) -> Any:  # noqa: ANN401 -- JSON
    if isinstance(value, dict):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value


def _figure(found: Sweep, index: int) -> str:
    place = found.deciding.index(index)
    low, high = found.comparison.intervals[place]
    return f"{found.measure} {found.decisive[place].estimate:.3f} [{low:.3f}, {high:.3f}]"


def _verdict(found: Sweep) -> str:
    if found.decision.verdict == "default":
        return f"the default stands: {found.decision.why}"
    return f"{found.candidates[found.recommended].output.name}: {found.decision.why}"


def summary(found: Sweep, out: Path, seconds: float) -> str:
    """Return six lines for the terminal."""
    best, default, recommended = (
        f"{found.candidates[index].output.name}: {_figure(found, index)}, "
        f"{4 * found.candidates[index].dimension:,} bytes"
        for index in (found.best, found.default, found.recommended)
    )
    place = found.comparison.best
    low, high = found.comparison.against_default[place]
    price = found.optimism
    held_out = (
        "too few photos for a held-out selection" if price is None else f"{price.held_out:+.3f} on held-out photos"
    )
    gain = found.decisive[place].estimate - found.decisive[found.deciding.index(found.default)].estimate
    classes = f" in {len(found.setting.classes)} classes" if found.setting.classes else ""
    left = f", {len(found.collection.left_out)} left out" if found.collection.left_out else ""
    first = f"{len(found.setting.rows):,} images{classes}{left}; {len(found.candidates)} candidates, "
    first += f"{sum(found.comparison.tied)} tied with the best; {seconds:.0f} s"
    return "\n".join((
        first,
        f"default      {default}",
        f"best         {best}; {gain:+.3f} [{low:+.3f}, {high:+.3f}] against the default, {held_out}",
        f"recommended  {recommended}",
        f"{'The default stands' if found.decision.verdict == 'default' else 'Why'}: {found.decision.why}",
        f"Read {out / REPORT}; export with microtome export {out / RECIPE}; all numbers are in {out / NUMBERS}.",
    ))  # fmt: skip
