"""Fine-tuning: what is trained, as Keras counts it; what stays; interruptions; the seeds' recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from exporter.errors import ImpossibleHead, ImpossibleOption
from exporter.features.store import perceptual_hash
from exporter.head.slicing import Slice, cut
from exporter.look.pictures import overlaid, reduced
from exporter.models.building import Built, build
from exporter.recipe.backbones import find_backbone
from exporter.recipe.preprocessing import resolve
from exporter.recipe.resolved import ModelRecipe, OutputRecipe
from exporter.report.page import picture
from exporter.sweep.tasks import VIEWS, _made
from exporter.train import fine_tuning
from exporter.train.calibration import log_loss
from exporter.train.fine_tuning import Photos, Trainer, Tuning, recoloured
from exporter.train.material import altered
from exporter.train.tunable import Tunable, first_unfrozen, tunable

PIXELS = resolve(find_backbone("MobileNetV2").preprocessing, {"height": 32, "width": 32, "resize": "squash"})


def sliced(backbone: str, output: OutputRecipe, chosen: dict[str, Any], *, include_top: bool = False) -> Slice:
    """Return a backbone of random weights, cut at one output."""
    keras.utils.clear_session()
    row = find_backbone(backbone)
    pixels = resolve(row.preprocessing, chosen)
    recipe = ModelRecipe("a", backbone, "random", pixels, (output,), output.name, include_top=include_top)
    return cut(build(row, "random", pixels, include_top=include_top), recipe)


def kept(model: keras.Model) -> int:
    """Return the number of trainable weights, as Keras' summary counts them."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(("pooling", "trainable"), [("flatten", 9 * 9 * 512 * 10 + 10), ("avg", 512 * 10 + 10)])
def test_vgg16_at_300_pixels_with_ten_classes(pooling: str, trainable: int) -> None:
    """The seeds' first recipe: only the classifier is trained, on 14,714,688 frozen weights."""
    slice_ = sliced("VGG16", OutputRecipe("top", "block5_pool", pooling), {"height": 300, "width": 300})
    found = tunable(slice_, (), 10, unit=False)
    found.freeze(len(found.backbone))
    counts = found.counts()
    assert (counts.trainable, counts.frozen) == (trainable, 14_714_688)
    assert counts.trainable == kept(found.model)


def test_inception_with_200_classes_and_249_frozen_layers() -> None:
    """The seeds' second recipe: `layers[:249]` are frozen, and a hidden layer of 1,024 is below the 200 classes."""
    slice_ = sliced("InceptionV3", OutputRecipe("top", "mixed10", "avg"), {})
    base = slice_.built.model
    for index, layer in enumerate(base.layers):
        layer.trainable = index >= 249
    expected = kept(base) + (2048 * 1024 + 1024) + (1024 * 200 + 200)
    found = tunable(slice_, (1024,), 200, unit=False)
    assert [layer.name for layer in found.backbone] == [layer.name for layer in base.layers]
    assert first_unfrozen(found.backbone, "249") == 249 == first_unfrozen(found.backbone, base.layers[249].name)
    assert first_unfrozen(found.backbone, "-62") == len(base.layers) - 62
    found.freeze(249)
    assert found.counts().trainable == expected == kept(found.model)
    assert found.counts().frozen == found.model.count_params() - expected


def test_vgg16s_second_last_layer_is_4096_features() -> None:
    """The seeds' third recipe, by the layer's index."""
    # Fewer pixels make its first dense layer a fiftieth as large, and this one no smaller.
    slice_ = sliced("VGG16", OutputRecipe("fc2", "-2", "none"), {"height": 32, "width": 32}, include_top=True)
    assert slice_.outputs[0].shape == (4096,)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Photos, Photos]:
    """Return photos of two colours to train on, and others to stop by."""
    folder, numbers = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths, labels = [], []
    for index in range(24):
        colour = (190, 80, 80) if index % 2 else (80, 80, 190)
        pixels = np.clip(numbers.normal(colour, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
        labels.append(index % 2)
    known = np.array(labels)
    return Photos(paths[:16], known[:16], np.ones(16)), Photos(paths[16:], known[16:], np.ones(8))


def small() -> Tunable:
    """Return a small network with a normalisation, of the same weights each time."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 4, name="stem")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="last")(x)
    row = find_backbone("MobileNetV2")
    built = Built(row, keras.Model(images, x), "random", "")
    recipe = ModelRecipe("a", "MobileNetV2", "random", PIXELS, (OutputRecipe("top", "last", "avg"),), "top")
    return tunable(cut(built, recipe), (), 2)


def trainer(found: Tunable, out: Path, **chosen: Any) -> Trainer:
    """Return a trainer of three epochs at a high rate."""
    tuning = Tuning("norm", **{"epochs": 4, "rate": 1e-2, "batch": 8, **chosen})
    return Trainer(found, PIXELS, "tf", tuning, out, 0)


def weights(found: Tunable) -> dict[str, Any]:
    """Return copies of all weights, by path."""
    return {weight.path: weight.numpy().copy() for weight in found.model.weights}


def interrupting(when: str, error: type[BaseException]) -> Callable[[str], None]:
    """Return a stand-in for printing that raises at a line."""

    def say(line: str) -> None:
        if line.startswith(when):
            raise error

    return say


def test_only_unfrozen_weights_change_and_statistics_never(tmp_path: Path, photos: tuple[Photos, Photos]) -> None:
    """Normalisations stay in inference mode also where their scales are trained."""
    found = small()
    found.freeze(first_unfrozen(found.backbone, "norm"))
    before = weights(found)
    progress = trainer(found, tmp_path).train(*photos, "a")
    after = weights(found)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {f"norm/{name}" for name in ("gamma", "beta")} | {
        f"{layer}/{name}" for layer in ("last", "head_logits") for name in ("kernel", "bias")
    }
    assert progress.best.stop_loss < progress.epochs[0].stop_loss
    assert progress.expected > 0


def test_from_scratch_statistics_are_learnt(tmp_path: Path, photos: tuple[Photos, Photos]) -> None:
    """From random weights everything is trained, with normalisations in training mode."""
    found = small()
    found.freeze(0)
    before = weights(found)
    trainer(found, tmp_path, scratch=True).train(*photos, "a")
    after = weights(found)
    assert not [path for path in before if np.array_equal(before[path], after[path])]


def test_a_run_that_died_goes_on_to_the_same_weights(
    tmp_path: Path, photos: tuple[Photos, Photos], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffles, alterations, rates and the optimizer's state are those of a run that was not interrupted."""
    whole = small()
    whole.freeze(1)
    expected = trainer(whole, tmp_path).train(*photos, "a")
    (tmp_path / "killed").mkdir()
    killed = small()
    killed.freeze(1)
    with monkeypatch.context() as patched:
        patched.setattr(fine_tuning, "say", interrupting("Epoch 2", MemoryError))
        with pytest.raises(MemoryError):
            trainer(killed, tmp_path / "killed").train(*photos, "a")
    again = small()
    again.freeze(1)
    found = trainer(again, tmp_path / "killed").train(*photos, "a")
    assert found.resumed == 2
    assert [replace(epoch) for epoch in found.epochs] == expected.epochs
    wanted = weights(whole)
    assert all(np.array_equal(one, wanted[path]) for path, one in weights(again).items())


def test_other_photos_start_from_the_beginning(tmp_path: Path, photos: tuple[Photos, Photos]) -> None:
    """What decides the result decides whether a run is resumed; a torn file is no reason to fail."""
    found = small()
    found.freeze(1)
    assert trainer(found, tmp_path, epochs=1).train(*photos, "a").resumed == 0
    assert trainer(found, tmp_path, epochs=1).train(*photos, "b").resumed == 0
    (tmp_path / fine_tuning.STATE).write_bytes(b"PK torn")
    assert trainer(found, tmp_path, epochs=1).train(*photos, "b").resumed == 0


def test_ctrl_c_keeps_the_best(tmp_path: Path, photos: tuple[Photos, Photos], monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has the weights of the epoch with the smallest loss on the photos that stop it."""
    found = small()
    found.freeze(1)
    monkeypatch.setattr(fine_tuning, "say", interrupting("Epoch 2", KeyboardInterrupt))
    one = trainer(found, tmp_path)
    progress = one.train(*photos, "a")
    assert progress.interrupted
    assert len(progress.epochs) == 3
    logits = one.logits(photos[1].paths)
    assert log_loss(logits, photos[1].labels, 1.0) == pytest.approx(progress.best.stop_loss, rel=1e-5)


@pytest.mark.parametrize("said", ["nrom", "4", "-5", "1.5", ""])
def test_layers_that_are_not_there_are_named(said: str) -> None:
    """A misspelt layer, an index beyond the last one."""
    with pytest.raises(ImpossibleOption, match="Expected --unfreeze"):
        first_unfrozen(small().backbone, said)


def test_an_output_that_keras_layers_cannot_express_is_refused() -> None:
    """GeM pooling is none of Keras' layers."""
    slice_ = sliced("MobileNetV2", OutputRecipe("top", "block_1_project_BN", "gem(3)"), {"height": 32, "width": 32})
    with pytest.raises(ImpossibleHead, match="to fine-tune"):
        tunable(slice_, (), 2)


def test_colours_change_and_stay_in_range() -> None:
    """The same seed gives the same photo."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(recoloured(pixels, 1), recoloured(pixels, 1))
    assert not np.array_equal(recoloured(pixels, 1), recoloured(pixels, 2))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_photos_of_every_colour_are_altered_hashed_and_drawn(channels: int) -> None:
    """As training, sweep and look do; opacity is cut and mirrored, never recoloured."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, channels), np.uint8)
    changed = recoloured(pixels, 1)
    assert np.array_equal(changed[..., 3:], pixels[..., 3:])
    assert not np.array_equal(changed[..., :3], pixels[..., :3])
    views = [_made(pixels, view) for view in VIEWS[1:]]
    assert {one.shape for one in (changed, altered(pixels, 1), *views)} == {pixels.shape}
    assert perceptual_hash(pixels).shape == (4,)
    assert overlaid(pixels, np.zeros((24, 32))).shape == (24, 32, 3)
    assert reduced(pixels, 16).shape[:2] == (12, 16)
    assert picture(pixels, "title").startswith("<img")
