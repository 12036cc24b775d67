"""Measure what exporting and cutting gain and cost, and write docs/exports.md: sections 5 and 7 of the exporter's task.

python docs/measure_exports.py [--seconds 20] [--machine "four quiet cores"]

Everything is exported by the real command. What is compared is timed in turns, within one run and in one process, and
the ratio is that of each pair of turns: machines differ and wander.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("exports.md")
DATA = Path(__file__).with_name("exports.json")
BATCH = 8
HELPS = 15
#   backbone: its outputs, early to late
MODELS: dict[str, tuple[str, ...]] = {
    "MobileNetV2": ("out_relu",),
    "ResNet50": ("conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
    "EfficientNetLite0": ("top_activation",),
    "VGG19": ("block1_pool", "block5_pool"),
}
#   backbone, the two outputs that are compared, and what is wanted of their ratio
CUTS = (
    ("ResNet50", "conv3_block4_out", "conv5_block3_out", "at most 0.6"),
    ("VGG19", "block1_pool", "block5_pool", "less than 1"),
)
EXPORT = {"ResNet50": "< 60 s, < 4 GB"}
HELP_SECONDS = 0.3
WANTED = {"MobileNetV2": 1.3, "ResNet50": 1.1, "EfficientNetLite0": 1.2}
ABOUT = """# What exporting and cutting gain and cost

Made by `python docs/measure_exports.py`, with batches of {batch} and float32, on {machine}. Compared times are taken in
turns within one process; a ratio is the median of all pairs of turns, and in brackets is the middle half. *By
processor*: the same of processor time, which other work on the machine moves less. Weights are random but for
EfficientNetLite0's.

"""


def main() -> int:
    """Measure, then write data and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each comparison is timed (%(default)s)")
    parser.add_argument("--machine", default="two shared CPU cores", help="what to call this machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _measured(Path(folder), arguments.seconds)
    found["machine"] = arguments.machine
    DATA.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    return 0


def page(found: dict[str, Any]) -> str:
    """Lay out the page."""
    parts = [ABOUT.format(batch=BATCH, machine=found["machine"])]
    parts += ["## Frozen against plain `model.export()`\n", "| backbone | times faster | by processor | wanted |"]
    parts += ["| --- | --- | --- | --- |"]
    parts += [
        f"| {name} | {_shown(row)} | {row['cpu_ratio']:.2f} | at least {WANTED[name]} |"
        for name, row in found["plain"].items()
    ]
    parts += ["\n## An early output alone\n", "| backbone | time of | to that of | ratio | by processor | wanted |"]
    parts += ["| --- | --- | --- | --- | --- | --- |"]
    parts += [
        f"| {row['backbone']} | `{row['early']}` | `{row['late']}` | {_shown(row)} | {row['cpu_ratio']:.2f} "
        f"| {row['wanted']} |"
        for row in found["cuts"]
    ]
    parts += [
        "\n## `microtome export`, verification included\n",
        "| backbone | outputs | seconds | of a processor | memory | wanted |",
    ]
    parts += ["| --- | --- | --- | --- | --- | --- |"]
    parts += [
        f"| {name} | {len(MODELS[name])} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} "
        f"| {row['peak_bytes'] / 1e9:.1f} GB | {EXPORT.get(name, '-')} |"
        for name, row in found["exports"].items()
    ]
    parts += [f"\n`microtome --help` takes {found['help_seconds']:.2f} s, "]
    parts[-1] += (
        f"{found['help_cpu_seconds']:.2f} s of a processor, the median of {HELPS} runs; wanted: {HELP_SECONDS} s.\n"
    )
    return "\n".join(parts)


def _shown(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})"


def _measured(folder: Path, seconds: float) -> dict[str, Any]:
    python = [sys.executable, "-m"]
    helps = [_run([*python, "microtome", "--help"]) for _ in range(HELPS)]
    exports = {}
    for name, outputs in MODELS.items():
        (folder / f"{name}.yaml").write_text(_recipe(name, outputs), encoding="utf-8")
        exports[name] = _run(
            [*python, "exporter", "export", str(folder / f"{name}.yaml"), "--out", str(folder / "models")]
        )
    from exporter.tensorflow_ready import tensorflow_ready  # noqa: PLC0415 -- seconds; --help does without

    with tensorflow_ready():
        from exporter.benchmark import bench  # noqa: PLC0415

        plain = {}
        for name in WANTED:
            row = bench(folder / "models" / name / "1", [BATCH], seconds, folder)[-1]
            plain[name] = {"ratio": row.ratio, "spread": row.spread, "cpu_ratio": row.cpu_ratio, "turns": row.turns}
        cuts = [
            {"backbone": name, "early": early, "late": late, "wanted": wanted}
            | _compared(folder / "models" / name / "1", (early, late), seconds)
            for name, early, late, wanted in CUTS
        ]
    return {"plain": plain, "cuts": cuts, "exports": exports} | {
        f"help_{key}": round(statistics.median(found[key] for found in helps), 3) for key in ("seconds", "cpu_seconds")
    }


def _recipe(name: str, outputs: tuple[str, ...]) -> str:
    lines = [f"      - {{name: {layer}, layer: {layer}}}\n" for layer in outputs]
    weights = "imagenet" if name == "EfficientNetLite0" else "random"
    return f"models:\n  - name: {name}\n    backbone: {name}\n    weights: {weights}\n    outputs:\n{''.join(lines)}"


def _run(command: list[str]) -> dict[str, Any]:
    """Run a command to its end; return its seconds, those of a processor, and its largest resident size in bytes."""
    started = time.perf_counter()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 -- for its descriptor
        child = os.posix_spawn(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        )
        _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}")
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _compared(directory: Path, outputs: tuple[str, str], seconds: float) -> dict[str, Any]:
    """Time two outputs of a version, each fetched alone, in turns."""
    import numpy as np  # noqa: PLC0415

    from exporter.loaded import loaded  # noqa: PLC0415
    from exporter.timing import Took, compare, timed  # noqa: PLC0415
    from exporter.trial import trial_pixels  # noqa: PLC0415
    from exporter.versions import manifest_of  # noqa: PLC0415

    wanted = manifest_of(directory)["input"]
    pixels = np.resize(trial_pixels(wanted["height"], wanted["width"]), (BATCH, wanted["height"], wanted["width"], 3))
    with loaded(directory) as version:
        runs: list[Callable[[], object]] = [lambda name=name: version.run(pixels, [name]) for name in outputs]  # type: ignore[misc]
        for run in (*runs, *runs):  # the first passes choose algorithms and allocate
            run()
        turns: list[list[Took]] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or len(turns) < 3:
            turns.append([timed(run) for run in runs])
    ratios = compare([early for early, _ in turns], [late for _, late in turns])
    return {
        "ratio": ratios.clock, "spread": ratios.spread, "cpu_ratio": ratios.processor, "turns": len(turns),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
