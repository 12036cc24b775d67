"""Top-1 and top-5 accuracy of POST /classify, over real processes, on a folder of photos named by their class.

    python bench/top1.py PHOTOS [--models DIR] [--model lite0]

PHOTOS has files `<WordNet id>_<label>.jpg`. Without --models, recipe.yaml is exported first. Prints one line of JSON:
how many photos, top-1 and top-5 in percent, and the labels that are right by their id and have another name than the
file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

import microtome  # noqa: E402
from bench.processes.stack import running  # noqa: E402
from tests.e2e.processes import Gateway, ModelServer  # noqa: E402


def measured(url: str, model: str, photos: Sequence[Path]) -> dict[str, Any]:
    """Classify photos and compare the answers with their names."""
    first = among_five = 0
    misnamed = []
    with microtome.Client(url) as client:
        for outcome in client.classify_many(photos, model=model, concurrency=2, batch=16):
            labels = outcome.prediction.labels
            wanted, _, name = outcome.image.stem.partition("_")
            ids = [label.id for label in labels]
            first += ids[0] == wanted
            among_five += wanted in ids
            # Two names of a file are shorter than ours: `crane` and `maillot` are two classes each.
            misnamed += [
                label.name
                for label in labels
                if label.id == wanted and not label.name.lower().startswith(name.replace("_", " ").lower())
            ]
    return {
        "photos": len(photos),
        "top1": round(100 * first / len(photos), 2),
        "top5": round(100 * among_five / len(photos), 2),
        "misnamed": misnamed,
    }


def main() -> int:
    """Run everything and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--model", default="lite0")
    options = parser.parse_args()
    photos = sorted(options.photos.glob("*.jpg"))
    if not photos:
        sys.stdout.write(f"Skipped: there are no photos at {options.photos}.\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="microtome-top1-") as path:
        directory, models = Path(path), options.models or Path(path, "models")
        if options.models is None:
            words = [sys.executable, "-m", "exporter", "export", str(REPOSITORY / "recipe.yaml"), "--out", str(models)]
            subprocess.run(words, check=True)
        server = ModelServer(directory, models.resolve())
        gateway = Gateway(directory, server.address, options.model)
        with running(server, gateway):
            sys.stdout.write(json.dumps(measured(gateway.url, options.model, photos)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
