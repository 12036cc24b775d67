"""Write what a training found: head.npz, recipe.yaml, train.json and report.html, and say it in a few lines."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from exporter.features.photos import Collection
from exporter.recipe.own_backbones import KERAS_FILES, PRESET_PREFIX
from exporter.recipe.preprocessing import recorded
from exporter.recipe.reading import WEIGHTS_FILES
from exporter.recipe.resolved import AUTO
from exporter.recipe.writing import in_one_line, write_files
from exporter.train.figures import Share
from exporter.train.fine_tuning import BEST, STATE
from exporter.train.html import report
from exporter.train.numbers import NumberRequest
from exporter.train.pipeline import Request, Trained, Tuned
from exporter.train.tunable import LOGITS

HEAD, MODEL, RECIPE, NUMBERS, REPORT = "head.npz", "model.keras", "recipe.yaml", "train.json", "report.html"
CLASSES = "classes"
_DIGITS = 6


def write(found: Trained) -> None:
    """Write the four files, each whole or not at all."""
    out = found.request.out
    texts = {
        RECIPE: recipe_text(found),
        NUMBERS: json.dumps(numbers(found), indent=1, allow_nan=False),
        REPORT: report(found),
    }
    if found.tuned is None:
        found.head.write(out / HEAD)
    else:
        draft = out / f".tmp-{MODEL}"
        found.tuned.model.save(draft)
        draft.replace(out / MODEL)
    write_files(out, texts)
    if found.tuned is not None and not found.tuned.progress.interrupted:
        for name in (STATE, BEST):
            (out / name).unlink(missing_ok=True)


def classes_output(name: str, found: Trained) -> dict[str, Any]:
    """Return what a recipe says of the classes, but for where the logits come from."""
    said: dict[str, Any] = {"labels": list(found.material.classes), "activation": "softmax"}
    said |= {"temperature": found.temperature}
    said |= {"threshold": found.threshold} if found.threshold is not None else {}
    return {"name": name, "kind": "classes", **said}


def recipe_text(found: Trained) -> str:
    """Return the recipe of the embedding and its classes, as YAML with comments."""
    request, output = found.request, found.request.output
    given = next(one for one in request.entry["outputs"] if one["name"] == output.name)
    name = CLASSES if output.name != CLASSES else f"{CLASSES}-2"
    if found.tuned is not None:
        return _tuned_recipe(name, found.tuned, found)
    where = {key: given[key] for key in ("layer", "layers", "pooling", "projection") if key in given}
    classes = {
        **classes_output(name, found),
        **where,
        "normalize": "l2",
        "head": {"weights": HEAD},
    }
    entry = entry_of(request, output.name)
    return text_of(entry, [dict(given), classes], _reached(found), Path(request.recipe.folder), request.out)


def entry_of(request: Request | NumberRequest, default_output: str) -> dict[str, Any]:
    """Return what the new recipe takes over from the model's entry, but for its outputs."""
    left = {"name", "outputs", "version", "compat"}
    kept = {key: value for key, value in request.entry.items() if key not in left}
    return {"name": request.name, **kept, "default_output": default_output}


def _tuned_recipe(name: str, tuned: Tuned, found: Trained) -> str:
    """Return the recipe of a fine-tuned model: a backbone of the user's own."""
    request, pixels = found.request, found.request.recipe.pixels
    entry: dict[str, Any] = {"name": request.name, "backbone": MODEL}
    keys = (
        *("resize", "shortest_side", "interpolation", "crop", "exif_orientation"),
        *("decode", "color", "background", "depth"),
    )
    said = recorded(pixels) | {"decode": pixels.decode}
    entry["input"] = {
        "size": [pixels.height, pixels.width],
        "scaling": found.material.slice_.built.row.scaling,
        **{key: said[key] for key in keys if said.get(key) is not None},
    }
    kept = ("precision", "tolerance", "max_batch_size")
    # Without the calibration images, whose backbone is another, nothing can be measured.
    entry |= {key: request.entry[key] for key in kept if request.entry.get(key, AUTO) != AUTO}
    entry["default_output"] = request.output.name
    embedding = {"name": request.output.name, "layer": tuned.layer, "pooling": request.output.pooling}
    embedding |= {"normalize": request.output.normalize} if request.output.normalize != "none" else {}
    classes = {**classes_output(name, found), "layer": LOGITS}
    return text_of(entry, [embedding, classes], _reached(found), request.out, request.out)


def _reached(found: Trained) -> str:
    accuracy = found.figures.accuracy
    low, high = accuracy.interval
    return f"accuracy {accuracy.value:.3f} [{low:.3f}, {high:.3f}]"


def text_of(entry: dict[str, Any], outputs: list[dict[str, Any]], reached: str, from_: Path, out: Path) -> str:
    """Return a recipe of one model as YAML, with what it reaches as a comment.

    Args:
        entry: All of the model but its outputs; its paths start at the folder of the recipe that was trained from.
        outputs: In order.
        reached: On held-out photos.
        from_: The folder that paths start at.
        out: The folder of the new recipe.
    """
    moved = {key: _moved(key, value, from_, out) for key, value in entry.items()}
    lines = [
        f"# From microtome train: {reached} on held-out photos.",
        "# Export: microtome export recipe.yaml",
        "models:",
    ]
    written = [f"{key}: {in_one_line(value)}" for key, value in moved.items()]
    lines += [f"  {'-' if place == 0 else ' '} {line}" for place, line in enumerate(written)]
    lines.append("    outputs:")
    for output in outputs:
        rows = [f"{key}: {in_one_line(value)}" for key, value in output.items()]
        lines += [f"      {'-' if place == 0 else ' '} {row}" for place, row in enumerate(rows)]
    return "\n".join(lines) + "\n"


def _moved(key: str, value: Any, from_: Path, out: Path) -> Any:  # noqa: ANN401 -- YAML
    """Return a value of the recipe with its paths from the new recipe's folder."""

    def path(text: str) -> str:
        absolute = (from_ / Path(text).expanduser()).absolute()
        return os.path.relpath(absolute, out.absolute())

    if key == "calibration":
        return path(value) if isinstance(value, str) else {**value, "folder": path(value["folder"])}
    if key == "weights" and str(value).endswith(WEIGHTS_FILES):
        return path(value)
    if key == "backbone" and str(value).endswith(KERAS_FILES):
        return path(value)
    if key == "backbone" and str(value).startswith(PRESET_PREFIX):
        local = str(value).removeprefix(PRESET_PREFIX)
        return f"{PRESET_PREFIX}{(from_ / local).absolute()}" if (from_ / local).is_dir() else value
    return value


def numbers(found: Trained) -> dict[str, Any]:
    """Return every number of a training, for `train.json`. Only `timing` differs from run to run."""
    figures, material, request = found.figures, found.material, found.request
    names = [photo.name for photo in material.photos]
    document = {
        "schema": 1,
        **described(request, material.vectors.shape[1]),
        "head": {
            "kind": found.method.kind,
            "hidden": list(found.method.hidden),
            "strength": found.strength,
            "balanced": found.method.balanced,
            "copies": request.copies,
            "params": found.head.params,
            "near": found.head.near if found.head.known is not None else None,
            "far": found.head.far if found.head.known is not None else None,
        },
        "classes": [asdict(one) for one in figures.classes],
        "held_out": {
            "given": material.given,
            "accuracy": _share(figures.accuracy),
            "macro_f1": {"value": figures.macro_f1[0], "interval": figures.macro_f1[1]},
            "confusion": figures.confusion.tolist(),
            "answered_accuracy": _share(figures.answered),
        },
        "calibration": {
            "temperature": found.temperature,
            "before": asdict(figures.before),
            "after": asdict(figures.after),
        },
        "refusals": {
            "wanted": request.refuse,
            "threshold": found.threshold,
            "known": _share(figures.refused),
            "unknown_class": _share(found.unknown),
        },
        "learning_curve": [{"trained_on": count, **(_share(one) or {})} for count, one in found.curve],
        "copies": None if found.gain is None else {
            "without": _share(found.gain.without), "change": found.gain.change, "interval": found.gain.interval,
        },
        "fine_tuning": None if found.tuned is None else _fine_tuning(found.tuned),
        "doubts": [
            {"photo": names[one.photo], "label": material.classes[one.label], "score": one.score,
             "other": material.classes[one.other], "other_score": one.other_score}
            for one in figures.doubts
        ],
        "photos": list(_photos(found)),
        **noted(material.collection),
    }  # fmt: skip
    return {**rounded(document), "timing": found.timing}


def described(request: Request | NumberRequest, dimension: int) -> dict[str, Any]:
    """Return what `train.json` says of any training: the model, the vectors and the versions that computed them."""
    return {
        "model": request.name,
        "backbone": Path(request.recipe.backbone).name,
        "weights": Path(request.recipe.weights).name,
        "output": request.output.name,
        "dimension": dimension,
        "seed": request.seed,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
    }


def noted(collection: Collection) -> dict[str, Any]:
    """Return the end of `train.json`: photos that were left out, and warnings."""
    return {
        "left_out": [{"name": name, "why": why} for name, why in collection.left_out],
        "notes": list(collection.warnings),
    }


def _fine_tuning(tuned: Tuned) -> dict[str, Any]:
    progress = tuned.progress
    return {
        "first_layer": tuned.first,
        "weights": {"head_alone": asdict(tuned.before), "unfrozen": asdict(tuned.after)},
        "epochs": [asdict(epoch) for epoch in progress.epochs],
        "kept": progress.best.number,
        "interrupted": progress.interrupted,
        "head_alone": _share(tuned.alone),
        "change": tuned.change,
        "interval": list(tuned.interval),
    }


def _photos(found: Trained) -> Iterator[dict[str, Any]]:
    material = found.material
    for index, photo in enumerate(material.photos):
        row = found.logits[index]
        yield {
            "name": photo.name,
            "sha256": photo.digest,
            "label": photo.label,
            "group": photo.group,
            "held_out": bool(material.held[index]),
            "predicted": material.classes[int(row.argmax())] if np.isfinite(row).all() else None,
        }


def _share(one: Share | None) -> dict[str, Any] | None:
    return None if one is None else {"value": one.value, "interval": list(one.interval), "photos": one.photos}


def rounded(value: Any) -> Any:  # noqa: ANN401 -- JSON
    """Return a document with few digits, and null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value


def read_on(out: Path) -> str:
    """Return the last line for the terminal."""
    return f"Read {out / REPORT}; export with microtome export {out / RECIPE}; numbers are in {out / NUMBERS}."


def summary(found: Trained, seconds: float) -> str:
    """Return a few lines for the terminal."""
    figures, out, material = found.figures, found.request.out, found.material
    low, high = figures.accuracy.interval
    held = int(material.held.sum())
    left = f", {len(material.collection.left_out)} left out" if material.collection.left_out else ""
    first = f"{len(material.labels) - held:,} photos to train on, {held:,} held out{left}; {len(material.classes)} "
    f1, (f1_low, f1_high) = figures.macro_f1
    between = f"[{f1_low:.3f}, {f1_high:.3f}], on held-out photos"
    before, after = figures.before, figures.after
    error = f"{after.ece:.3f} after (perfect scores: about {after.floor:.3f} with so few photos)"
    lines = [
        f"{first}classes; {seconds:.0f} s",
        f"accuracy     {figures.accuracy.value:.3f} [{low:.3f}, {high:.3f}], macro-F1 {f1:.3f} {between}",
        f"calibration  temperature {found.temperature:g}; expected calibration error {before.ece:.3f} before, {error}",
    ]
    if found.tuned is not None:
        tuned, (low, high) = found.tuned, found.tuned.interval
        lines.append(
            f"fine-tuned   from {tuned.first}, epoch {tuned.progress.best.number} kept; {tuned.change:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] against the head alone, {tuned.alone.value:.3f}"
        )
    if found.threshold is not None:
        unknown = f"; {found.unknown.value:.0%} of a class never seen" if found.unknown is not None else ""
        lines.append(
            f"refusals     below a score of {found.threshold:g}: {figures.refused.value:.1%} of held-out photos "
            f"(wanted: {found.request.refuse:.1%}){unknown}"
        )
    lines.append(read_on(out))
    return "\n".join(lines)
