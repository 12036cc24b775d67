"""The images: photos of 500 pixels, as in shops, and of 12 megapixels, as from cameras.

From the ImageNet sample next to the checkout when it is there, else from examples/; the sizes are the same, so that
numbers of the two are close, and the result names the source.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "bench" / "out"
_SHARED = REPOSITORY.parent / "shared" / "data" / "imagenet1k_256"

_COUNT = 64
_WIDTH = 500
_LARGE_COUNT = 4
_LARGE = (4000, 3000)
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Corpus:
    """Paths of JPEGs, and where they came from."""

    name: str
    photos: list[str]
    large: list[str]

    @property
    def photo_bytes(self) -> float:
        """Mean size of a photo's file."""
        return sum(Path(path).stat().st_size for path in self.photos) / len(self.photos)


def make_corpus(source: Path = _SHARED, directory: Path = OUT / "corpus") -> Corpus:
    """Write the images that are missing."""
    name = source.name if source.is_dir() else "examples"
    place = directory / name
    photos = [place / f"photo-{number:02}.jpg" for number in range(_COUNT)]
    large = [place / f"large-{number}.jpg" for number in range(_LARGE_COUNT)]
    if not all(path.exists() for path in photos + large):
        place.mkdir(parents=True, exist_ok=True)
        views = _views(sorted((source if source.is_dir() else REPOSITORY / "examples").glob("*.jpg")))
        for path in photos:
            image = next(views)
            _save(image.resize((_WIDTH, round(_WIDTH * image.height / image.width)), Image.Resampling.BICUBIC), path)
        for path in large:
            _save(next(views).resize(_LARGE, Image.Resampling.BICUBIC), path)
    return Corpus(name, [str(path) for path in photos], [str(path) for path in large])


def _views(paths: list[Path]) -> Iterator[Image.Image]:
    """Yield pictures without end: each once, then random crops."""
    chance = random.Random(0)
    chance.shuffle(paths)
    for path in paths:
        yield Image.open(path).convert("RGB")
    while True:
        image = Image.open(chance.choice(paths)).convert("RGB")
        part = chance.uniform(0.5, 0.9)
        left, top = chance.uniform(0, 1 - part), chance.uniform(0, 1 - part)
        box = (left * image.width, top * image.height, (left + part) * image.width, (top + part) * image.height)
        yield image.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, "JPEG", quality=_QUALITY)
