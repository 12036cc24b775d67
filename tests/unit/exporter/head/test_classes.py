"""Classes: the logits of whatever a classifier ends with, and what names them."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from exporter.errors import ImpossibleClasses
from exporter.head.embedding import whole_head
from exporter.head.slicing import cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.resolved import OutputRecipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import freeze
from exporter.savedmodel.manifest import described_classes
from exporter.verify.keras_reference import reference
from microtome.manifest import Label
from tests.unit.exporter.small_models import small_backbone, small_recipe

LABELS = tuple(Label(name) for name in "abc")
CLASSES = OutputRecipe("classes", "-1", "none", kind="classes", labels=LABELS)
PROBABILITIES = OutputRecipe("probabilities", "-1", "none")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)


def classifier(end: str) -> Built:
    """A network of three classes, with one of the ends that classifiers have."""
    images = keras.Input((8, 8, 3), name="input_layer")
    x = layers.GlobalAveragePooling2D(keepdims=end == "convolution", name="pool")(images)
    if end == "convolution":  # MobileNet
        x = layers.Reshape((3,), name="flat")(layers.Conv2D(3, 1, name="scores")(x))
        x = layers.Activation("softmax", name="predictions")(x)
    elif end == "softmax layer":
        x = layers.Softmax(name="predictions")(layers.Dense(3, name="scores")(x))
    elif end == "operation":
        x = keras.ops.softmax(layers.Dense(3, name="scores")(x))
    else:
        x = layers.Dense(3, activation=end, name="predictions")(x)
    return Built(BACKBONES["MobileNet"], keras.Model(images, x, name="classifier"), "random", "made for a test")


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "linear", "convolution", "softmax layer", "operation"])
def test_the_vector_is_what_comes_before_the_activation(end: str) -> None:
    """Keras' own activation of the frozen graph's logits is what the network answers; that layer is left as it was."""
    built = classifier(end)
    slice_ = cut(built, small_recipe(CLASSES, PROBABILITIES))
    frozen = freeze(slice_, whole_head({}))
    with frozen.session() as run:
        found = run(PIXELS)
    expected = np.asarray(built.model(keras.applications.mobilenet.preprocess_input(PIXELS.astype(np.float32))))
    activation = {"sigmoid": "sigmoid"}.get(end, "softmax")
    assert activation == slice_.outputs[0].recipe.activation
    scores = np.asarray(keras.activations.get("linear" if end == "linear" else activation)(found["classes"]))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    if end != "operation":  # an index counts layers only
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)
    np.testing.assert_allclose(reference(slice_, PIXELS)["classes"], found["classes"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (replace(CLASSES, labels=LABELS[:2]), "Expected 3 labels .* Received: 2"),
        (replace(CLASSES, labels="imagenet"), "Received: 1000 of ImageNet"),
        (replace(CLASSES, layer="input_layer"), "number of classes"),
    ],
    ids=["fewer labels", "ImageNet's", "no classifier"],
)
def test_labels_that_do_not_fit_are_refused(output: OutputRecipe, message: str) -> None:
    """Before anything is written."""
    with pytest.raises(ImpossibleClasses, match=message):
        cut(classifier("softmax"), small_recipe(output))


def test_all_that_turns_logits_into_labels_is_in_the_fingerprint() -> None:
    """Another name, activation, temperature or threshold is another model; the graph is the same."""
    built = small_backbone()
    plain = replace(CLASSES, labels=tuple(Label(str(number)) for number in range(10)))
    others = [
        replace(plain, labels=(*plain.labels[:-1], Label("other"))),  # type: ignore[index]
        replace(plain, activation="sigmoid"),
        replace(plain, temperature=2.0),
        replace(plain, threshold=0.5),
        plain,
        replace(plain, activation="softmax"),
    ]
    found = []
    for output in others:
        recipe = small_recipe(output)
        slice_ = cut(built, recipe)
        frozen = freeze(slice_, whole_head({}))
        found.append(fingerprint(frozen, recipe.input, None, recipe.tolerances, described_classes(slice_)))
    assert (5, found[4]) == (len(set(found)), found[5])
