"""What `input.decode` changes: cosines between vectors of the same photos, decoded in two ways, by output.

    python -m bench.decode_cosines MODELS/lite0/1

Prints the table of docs/images.md: 64 photos of 500 pixels and 4 of 12 megapixels, see bench/load/corpus.py.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from bench.load.corpus import make_corpus
from exporter.savedmodel.saved_model import loaded
from exporter.verify.sample_images import cosines
from microtome.manifest import Decode, Manifest
from microtome.preprocessing import decode

PAIRS: tuple[tuple[Decode, Decode], ...] = (("fast", "balanced"), ("balanced", "exact"), ("fast", "exact"))
_MAX_PIXELS = 50_000_000


def main(directory: Path) -> None:
    """Print the table of a version."""
    manifest = TypeAdapter(Manifest).validate_json((directory / "assets.extra" / "manifest.json").read_bytes())
    outputs = [output.name for output in manifest.outputs if not output.classes]
    corpus = make_corpus()
    print("| photos | ways | grey levels, mean and most |", *(f"{name}: median, worst |" for name in outputs))
    print("|---" * (len(outputs) + 3) + "|")
    with loaded(directory) as model:
        for what, paths in (("500 pixels", corpus.photos), ("12 megapixels", corpus.large)):
            files = [Path(path).read_bytes() for path in paths]
            ways: tuple[Decode, ...] = ("exact", "balanced", "fast")
            specs = {way: replace(manifest.pixels, decode=way) for way in ways}
            pixels = {
                way: np.stack([decode(file, spec, max_pixels=_MAX_PIXELS) for file in files])
                for way, spec in specs.items()
            }
            vectors = {way: model.run(batch, outputs) for way, batch in pixels.items()}
            for one, other in PAIRS:
                off = np.abs(pixels[one].astype(int) - pixels[other])
                row = [f"{len(files)} of {what}", f"{one}, {other}", f"{off.mean():.2f}, {off.max()}"]
                for name in outputs:
                    each = cosines(vectors[one][name], vectors[other][name])
                    row.append(f"{np.median(each):.6f}, {each.min():.6f}")
                print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
