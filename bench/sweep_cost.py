"""What `microtome sweep` costs for some numbers of photos: processor time by stage, memory, disk.

    python -m bench.sweep_cost --photos 500 5000 25000 --pooling avg

The photos are cuts of those in `--source` (the ImageNet sample, else the examples), ten classes; the backbone is
EfficientNet-Lite0 with all layers, in three poolings unless others are given. A row of Markdown for each number.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
CLASSES = 10
STAGES = ("features", "neighbours", "held-out selection", "shorter vectors")


def make_photos(source: Path, folder: Path, count: int) -> None:
    """Write cuts of the source's photos, of random places and sizes, 256 pixels on the short side."""
    files = sorted(source.glob("*.jpg"))
    drawn = np.random.default_rng(0)
    for index in range(count):
        place = index % len(files)
        target = folder / str(place % CLASSES) / f"{index:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(files[place]) as image:
            share = drawn.uniform(0.7, 1.0)
            width, height = (int(side * share) for side in image.size)
            left, top = (int(drawn.uniform(0, side * (1 - share))) for side in image.size)
            cut = image.convert("RGB").crop((left, top, left + width, top + height))
            scale = 256 / min(cut.size)
            cut.resize((round(cut.width * scale), round(cut.height * scale))).save(target, quality=85)


def row(source: Path, count: int, poolings: str) -> str:
    """Sweep some photos in a process of its own, and return a row."""
    with tempfile.TemporaryDirectory(prefix="microtome-sweep-") as name:
        place = Path(name)
        make_photos(source, place / "photos", count)
        words = ["photos", "--backbone", "EfficientNetLite0", "--pooling", poolings, "--out", "sweep"]
        began = time.monotonic()
        with subprocess.Popen([sys.executable, "-m", "exporter", "sweep", *words], cwd=place,
                              env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as process:  # fmt: skip
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(process.returncode)
        took = time.monotonic() - began
        found = json.loads((place / "sweep" / "sweep.json").read_text(encoding="utf-8"))
        disk = sum(path.stat().st_size for path in (place / "sweep" / "features").rglob("*"))
    stages = [found["timing"]["seconds"][stage]["processor"] for stage in STAGES]
    cells = [f"{count:,}", str(len(found["candidates"])), *(f"{seconds:.0f} s" for seconds in stages)]
    cells += [f"{used.ru_utime + used.ru_stime:.0f} s", f"{took:.0f} s", f"{used.ru_maxrss / 1024:.0f} MB"]
    return f"| {' | '.join([*cells, f'{disk / 1e6:.0f} MB'])} |"


def main() -> None:
    """Print the rows as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = REPOSITORY.parent / "shared" / "data" / "imagenet1k_256"
    parser.add_argument("--photos", type=int, nargs="+", default=[500, 5_000, 25_000])
    parser.add_argument("--source", type=Path, default=sample if sample.is_dir() else REPOSITORY / "examples")
    parser.add_argument("--pooling", default="avg,max,gem(3)")
    arguments = parser.parse_args()
    print(f"| photos | candidates | {' | '.join(STAGES)} | processor | clock | peak memory | vectors on disk |")
    print("|---" * (len(STAGES) + 6) + "|")
    for count in arguments.photos:
        print(row(arguments.source, count, arguments.pooling), flush=True)


if __name__ == "__main__":
    main()
