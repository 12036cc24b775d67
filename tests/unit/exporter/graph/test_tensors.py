"""Naming the tensor that is meant, never guessing."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from exporter.errors import AmbiguousLayer, CutError, ImpossiblePooling, UnknownLayer
from exporter.graph.cut_points import cut_points
from exporter.graph.tensors import find_tensor
from exporter.head.slicing import cut
from exporter.recipe.resolved import OutputRecipe
from tests.unit.exporter.small_models import small_backbone, small_model, small_recipe, strangely_named_model


@pytest.fixture(scope="module")
def twice() -> keras.Model:
    """A model that calls the layer `shared` twice, and that another model calls a third time."""
    images = keras.Input((4,), name="in")
    shared = layers.Dense(4, name="shared")
    model = keras.Model(images, shared(shared(images)), name="twice")
    keras.Model(images, shared(layers.Dense(4)(images)))
    return model


def test_layers_are_listed_with_what_a_recipe_calls_them(twice: keras.Model) -> None:
    """A layer that is called once goes by its name, one that is called twice by name and call."""
    assert [(point.ref, point.kind, point.shape) for point in cut_points(twice)] == [
        ("in", "InputLayer", (None, 4)),
        ("shared:0", "Dense", (None, 4)),
        ("shared:1", "Dense", (None, 4)),
    ]


def test_bare_name_of_a_layer_called_twice_is_refused(twice: keras.Model) -> None:
    """Keras would quietly give the first call."""
    with pytest.raises(AmbiguousLayer, match=r"Expected one of shared:0, shared:1\. Received: 'shared'"):
        find_tensor(twice, "shared")


def test_calls_are_told_apart(twice: keras.Model) -> None:
    """`layer:call` names the tensor of that call: the last one is the model's output."""
    assert find_tensor(twice, "shared:1") is twice.outputs[0]
    assert find_tensor(twice, "shared:0") is not twice.outputs[0]


def test_every_listed_name_can_be_found(twice: keras.Model) -> None:
    """What `layers` prints is what a recipe may say."""
    for model in (twice, small_model(), strangely_named_model()):
        assert [tuple(find_tensor(model, point.ref).shape) for point in cut_points(model)] == [
            point.shape for point in cut_points(model)
        ]


def test_layers_are_named_by_their_place_too() -> None:
    """`-2` is `layers[-2]`, as people write it in notebooks; a layer whose name is a number keeps its name."""
    model = small_model()
    assert find_tensor(model, "-2") is model.layers[-2].output
    assert find_tensor(model, "1") is model.get_layer("conv").output
    images = keras.Input((4,))
    numbered = keras.Model(images, layers.Dense(2, name="last")(layers.Dense(3, name="2")(images)))
    assert find_tensor(numbered, "2").shape == (None, 3)


def test_call_of_a_layer_named_by_its_place(twice: keras.Model) -> None:
    """A place can be followed by a call, and must be where there are several."""
    assert find_tensor(twice, "-1:1") is find_tensor(twice, "shared:1")
    with pytest.raises(AmbiguousLayer, match=r"Received: '-1', which means all of them"):
        find_tensor(twice, "-1")


def test_place_that_is_not_there_is_told_with_those_that_are() -> None:
    """An index beyond the last layer names the range."""
    with pytest.raises(UnknownLayer, match=r"Expected a layer of small from -6 to 5\. Received: 6\."):
        find_tensor(small_model(), "6")


def test_sum_that_is_no_layer_can_be_cut_at() -> None:
    """Models written with operators have operations that `model.layers` does not list."""
    images = keras.Input((4,), name="in")
    model = keras.Model(images, layers.Dense(4, name="dense")(images) + images)
    (point,) = [point for point in cut_points(model) if point.index is None]
    assert find_tensor(model, point.ref) is model.outputs[0]


@pytest.mark.parametrize("ref", ["shared:2", "shared:1:1", "shared:x", "shared:-1", "shared:0:0:0", "shared:"])
def test_calls_that_were_not_made_are_refused_with_those_that_were(twice: keras.Model, ref: str) -> None:
    """A call that is not there is answered with the calls that are."""
    with pytest.raises(UnknownLayer, match=f"Expected one of shared:0, shared:1. Received: '{ref}'"):
        find_tensor(twice, ref)


def test_unknown_layer_is_answered_with_the_nearest() -> None:
    """A slip in a layer's name is recognised."""
    with pytest.raises(UnknownLayer, match=r"of small\. Received: 'Depeer'\. Nearest: deeper"):
        find_tensor(small_model(), "Depeer")


def test_all_bad_outputs_are_told_at_once() -> None:
    """A recipe with two bad layers is mended in one go."""
    recipe = small_recipe(OutputRecipe("a", "nowhere"), OutputRecipe("b", "predictions", "avg"))
    with pytest.raises(CutError, match=r"(?s)'nowhere'.*output b\. Received: predictions of \(None, 10\)"):
        cut(small_backbone(), recipe)


def test_vectors_cannot_be_pooled_again() -> None:
    """A layer without space is accepted with pooling: none, and the message says so."""
    with pytest.raises(ImpossiblePooling, match=r"Say pooling: none\."):
        cut(small_backbone(), small_recipe(OutputRecipe("logits", "predictions", "max")))
    slice_ = cut(small_backbone(), small_recipe(OutputRecipe("logits", "predictions", "none")))
    assert slice_.outputs[0].shape == (10,)


def test_map_has_no_class_token() -> None:
    """What is said instead is what makes a vector of a map."""
    with pytest.raises(ImpossiblePooling, match=r"tokens \[N, T, C\] for pooling: cls .* Say pooling: avg\."):
        cut(small_backbone(), small_recipe(OutputRecipe("early", "deeper", "cls")))


def test_layer_of_unknown_shape_is_refused() -> None:
    """An embedding has a dimension, so a layer without a fixed shape cannot be one."""
    built = small_backbone()
    images = keras.Input((None, None, 3))
    loose = keras.Model(images, layers.Conv2D(2, 3, name="conv")(images))
    with pytest.raises(ImpossiblePooling, match="Expected a layer of fixed shape"):
        cut(type(built)(built.row, loose, "random", ""), small_recipe(OutputRecipe("map", "conv", "none")))
