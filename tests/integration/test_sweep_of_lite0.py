"""A sweep of a real network over photos: truth that was planted is found, and what is exported has the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exporter.export import export
from exporter.features.photos import read_collection
from exporter.features.resampling import resamples
from exporter.features.store import FeatureStore, State
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.images import read_pixels
from exporter.recipe.preprocessing import resolve
from exporter.recipe.reading import read_recipe
from exporter.savedmodel.saved_model import loaded
from exporter.sweep.measures import Neighbours, normalised
from exporter.sweep.outputs import write
from exporter.sweep.pipeline import Sweep, sweep
from exporter.sweep.request import Request, Variant
from exporter.sweep.statistics import Comparison, Decision, compare, decide
from tests.exported_models import REPOSITORY

LAYERS = ("block1a_project_bn", "block3b_add", "block5c_add", "top_activation")
EACH, KINDS = 48, 3
LITE0 = BACKBONES["EfficientNetLite0"]

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 144 cuts of the three example photos, of many places and sizes, in a folder for each photo."""
    folder = tmp_path_factory.mktemp("lite0") / "photos"
    drawn = np.random.default_rng(0)
    for name in ("astronaut", "cat", "coffee"):
        (folder / name).mkdir(parents=True)
        with Image.open(REPOSITORY / "examples" / f"{name}.jpg") as image:
            for index in range(EACH):
                side = int(drawn.uniform(0.2, 0.6) * min(image.size))
                left, top = (int(drawn.uniform(0, length - side)) for length in image.size)
                cut = image.crop((left, top, left + side, top + side))
                cut.resize((256, 256)).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def swept(photos: Path) -> Sweep:
    """Return a sweep of four layers, with its files written beside the photos."""
    out = photos.parent / "sweep"
    out.mkdir()
    variant = Variant(LITE0, "imagenet", "crop", resolve(LITE0.preprocessing, {"resize": "crop"}))
    request = Request("search", "recall@1", (variant,), ("avg",), LAYERS, out, 0)
    found = sweep(request, read_collection(photos, "search", None))
    write(found, out, photos)
    return found


def decided(swept: Sweep, labels: Array) -> tuple[Comparison, Decision]:
    """Decide for other labels of the same photos, as a sweep for search does."""
    every = np.arange(len(labels))
    task = Neighbours(labels, every, every, every, every, resamples(len(labels), 0), "recall@1", classes=False)
    scores = [task.score(swept.vectors(index)) for index in range(len(swept.candidates))]
    costs = [one.cost for one in swept.candidates]
    found = compare([one.estimate for one in scores], [one.errors for one in scores], swept.default, task.chance, costs)
    return found, decide(found, swept.default, costs, len(labels))


def planted(vectors: Array) -> Array:
    """Return labels by which each photo has the class of its nearest other one."""
    unit = normalised(vectors)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    labels = np.arange(len(vectors))
    for one, other in enumerate(cosines.argmax(axis=1)):
        labels[labels == labels[one]] = labels[other]
    return np.unique(labels, return_inverse=True)[1]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_that_made_the_labels_wins(swept: Sweep, layer: str) -> None:
    """And is recommended: none of the others is tied with it, whatever they cost."""
    (index,) = (index for index, one in enumerate(swept.candidates) if layer in one.output.name)
    found, decision = decided(swept, planted(swept.vectors(index)))
    assert (index, index) == (found.best, decision.recommended)
    assert [place == index for place in range(len(LAYERS))] == found.tied
    assert ("default" if index == swept.default else "better") == decision.verdict


def test_of_shuffled_labels_nothing_is_recommended(swept: Sweep) -> None:
    """Over the default, in eight shuffles."""
    for seed in range(8):
        labels = np.random.default_rng(seed).permutation(np.arange(KINDS * EACH) % KINDS)
        _, decision = decided(swept, labels)
        assert (swept.default, "default") == (decision.recommended, decision.verdict)


def test_the_exported_recipe_gives_the_vectors_of_the_sweep(swept: Sweep, photos: Path) -> None:
    """Bit for bit, for every output of the recipe, in batches and one image at a time as the gateway may send it."""
    (recipe,) = read_recipe(photos.parent / "sweep" / "recipe.yaml").models
    published = export(recipe, photos.parent / "models", verified=False)
    dimensions = {one.output.name: one.dimension for one in swept.candidates}
    (directory,) = (photos.parent / "sweep" / "features").iterdir()
    store = FeatureStore(directory, dimensions, KINDS * EACH)
    assert (store.states == State.DONE).all()
    pixels = np.stack([read_pixels(photo.path, swept.request.variants[0].pixels) for photo in swept.collection.photos])
    with loaded(published.path) as model:
        for batch in (1, 8, 3):
            for start in range(0, 24, batch):
                for name, vectors in model.run(pixels[start : start + batch]).items():
                    np.testing.assert_array_equal(vectors, store.vectors(name)[start : start + batch], name)
                    dimensions.pop(name, None)
    assert len(dimensions) < len(LAYERS)
