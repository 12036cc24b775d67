"""Measure what exporting and cutting gain and cost, and write docs/exports.md: sections 5 and 7 of the exporter's task.

python docs/measure_exports.py [--seconds 20] [--machine "four quiet cores"]
python docs/measure_exports.py --page             only writes the page

The real commands export and time everything. Compared times are taken in turns in one process, and each pair of turns
gives a ratio, because machines differ and their speed varies. A failure is shown in its row with the reason, and the
rest is measured. tests/unit/test_exports_page.py checks the page against the data.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import Json, Page, microtome, parser, table

BATCH = 8
HELPS = 15
#   backbone: its outputs, early to late
MODELS: dict[str, tuple[str, ...]] = {
    "MobileNetV2": ("out_relu",),
    "ResNet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "EfficientNetLite0": ("top_activation",),
    "VGG19": ("block1_pool", "block5_pool"),
}
#   backbone, the two outputs that are compared, and the wanted ratio
CUTS = (
    ("ResNet50", "conv3_block4_out", "conv5_block3_out", "at most 0.6"),
    ("VGG19", "block1_pool", "block5_pool", "less than 1"),
)
EXPORT = {"ResNet50": "< 60 s, < 4 GB"}
HELP_SECONDS = 0.3
WANTED = {"MobileNetV2": 1.3, "ResNet50": 1.1, "EfficientNetLite0": 1.2}
ABOUT = """# What exporting and cutting gain and cost

Made by `python docs/measure_exports.py` from [exports.json](exports.json), on {machine}.
Batches have {batch} images, in float32; weights are random but for EfficientNetLite0's. Compared times are taken in
turns within one process, for {seconds:g} s and at least three turns; a ratio is the median of all pairs of turns, and
in brackets is the middle half. *By processor*: the same of processor time, which other work on the machine moves less.

"""


def main() -> int:
    """Measure, then write data and page."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=20.0, help="how long each comparison is timed (%(default)s)")
    arguments = options.parse_args()
    data = known() if arguments.page else {"machine": arguments.machine, "timed_seconds": arguments.seconds}
    if not arguments.page:
        with tempfile.TemporaryDirectory() as folder:
            data |= _measured(Path(folder), arguments.seconds)
    PAGE.write(data)
    return 0


def page(found: Json) -> str:
    """Lay out the page."""
    plain = ((name, *_ratio(found["plain"][name]), f"at least {wanted}") for name, wanted in WANTED.items())
    cuts = (
        (name, f"`{early}`", f"`{late}`", *_ratio(found["cuts"][name]), wanted) for name, early, late, wanted in CUTS
    )
    exports = (
        (name, str(len(outputs)), *_cost(found["exports"][name]), EXPORT.get(name, "-"))
        for name, outputs in MODELS.items()
    )
    helped = found["help"]
    return "".join(
        [
            ABOUT.format(batch=BATCH, machine=found["machine"], seconds=found["timed_seconds"]),
            "## Frozen against plain `model.export()`\n\n",
            table(("backbone", "times faster", "by processor", "turns", "wanted"), plain),
            "\n## An early output alone\n\n",
            table(("backbone", "time of", "to that of", "ratio", "by processor", "turns", "wanted"), cuts),
            "\n## `microtome export`, verification included\n\n",
            table(("backbone", "outputs", "seconds", "of a processor", "memory", "wanted"), exports),
            f"\n`microtome --help` takes {helped['seconds']:.2f} s, {helped['cpu_seconds']:.2f} s of a processor,\n",
            f"the median of {HELPS} runs; wanted: {HELP_SECONDS} s.\n",
        ]
    )


PAGE = Page("exports", page)
known = PAGE.known


def _ratio(row: Json) -> tuple[str, ...]:
    if "failed" in row:
        return (row["failed"], "-", "-")
    low, high = row["spread"]
    return (f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})", f"{row['cpu_ratio']:.2f}", str(row["turns"]))


def _cost(row: Json) -> tuple[str, ...]:
    if "failed" in row:
        return (row["failed"], "-", "-")
    return (f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.0f}", f"{row['peak_bytes'] / 1e9:.1f} GB")


def _measured(folder: Path, seconds: float) -> Json:
    helps = [microtome(["--help"]) for _ in range(HELPS)]
    exports, plain, cuts = {}, {}, {}
    for name, outputs in MODELS.items():
        _say(f"exporting {name}")
        recipe = folder / f"{name}.yaml"
        recipe.write_text(_recipe(name, outputs), encoding="utf-8")
        exports[name] = microtome(["export", str(recipe), "--out", str(folder / "models")]).facts
    for name in WANTED:
        _say(f"timing {name} against plain model.export()")
        version = folder / "models" / name / "1"
        plain[name] = exports[name] if "failed" in exports[name] else _against_plain(version, seconds)
    for name, early, late, _ in CUTS:
        _say(f"timing {early} of {name} against {late}")
        version = folder / "models" / name / "1"
        cuts[name] = exports[name] if "failed" in exports[name] else _compared(version, (early, late), seconds)
    return {
        "exports": exports,
        "plain": plain,
        "cuts": cuts,
        "help": {key: statistics.median(ran.facts[key] for ran in helps) for key in ("seconds", "cpu_seconds")},
    }


def _say(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")


def _against_plain(directory: Path, seconds: float) -> Json:
    """Time all outputs of a version together, in turns with plain `model.export()`."""
    ran = microtome(["bench", str(directory), "--batch-sizes", str(BATCH), "--seconds", str(seconds), "--json"])
    if ran.failed is not None:
        return ran.facts
    row = json.loads(ran.printed)[-1]
    return {key: row[key] for key in ("ratio", "spread", "cpu_ratio", "turns")}


def _recipe(name: str, outputs: tuple[str, ...]) -> str:
    lines = [f"      - {{name: {layer}, layer: {layer}}}\n" for layer in outputs]
    weights = "imagenet" if name == "EfficientNetLite0" else "random"
    return f"models:\n  - name: {name}\n    backbone: {name}\n    weights: {weights}\n    outputs:\n{''.join(lines)}"


def _compared(directory: Path, outputs: tuple[str, str], seconds: float) -> Json:
    """Time two outputs of a version, each fetched alone, in turns."""
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415 -- seconds; --help does without

    try:
        with tensorflow_ready():
            return _timed_in_turns(directory, outputs, seconds)
    except Exception as error:  # noqa: BLE001 -- shown in the row; the other rows are measured
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _timed_in_turns(directory: Path, outputs: tuple[str, str], seconds: float) -> Json:
    import numpy as np  # noqa: PLC0415

    from exporter.bench import compare, in_turns  # noqa: PLC0415
    from exporter.savedmodel.saved_model import loaded  # noqa: PLC0415
    from exporter.savedmodel.versions import manifest_of  # noqa: PLC0415
    from exporter.verify.sample_images import sample_pixels  # noqa: PLC0415

    wanted = manifest_of(directory)["input"]
    some = sample_pixels(wanted["height"], wanted["width"])
    pixels = np.resize(some, (BATCH, *some.shape[1:]))
    with loaded(directory) as version:
        early, late = in_turns(
            lambda: version.run(pixels, [outputs[0]]), lambda: version.run(pixels, [outputs[1]]), seconds
        )
    ratios = compare(early, late)
    return {"ratio": ratios.clock, "spread": ratios.spread, "cpu_ratio": ratios.processor, "turns": len(early)}


if __name__ == "__main__":
    sys.exit(main())
