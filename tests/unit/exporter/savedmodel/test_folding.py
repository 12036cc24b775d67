"""Batch norms become part of the weights before them, and move no vector by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from exporter.head.embedding import whole_head
from exporter.head.slicing import cut
from exporter.models.building import Built
from exporter.recipe.backbones import BACKBONES
from exporter.recipe.resolved import OutputRecipe
from exporter.savedmodel.fingerprint import fingerprint
from exporter.savedmodel.freezing import FrozenGraph, freeze, frozen_graph
from exporter.verify.keras_reference import reference
from exporter.verify.sample_images import relative_errors, sample_pixels
from tests.unit.exporter.small_models import PIXELS, small_backbone, small_recipe, token_model

Body = Callable[[keras.KerasTensor], keras.KerasTensor]


def built(body: Body) -> Built:
    """Return a network of 8x8 pixels whose normalisations have seen something, as a backbone."""
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, body(images))
    numbers = np.random.default_rng(0)
    for weight in model.weights:
        positive = weight.name in {"moving_variance", "gamma"}
        weight.assign(numbers.uniform(0.2, 3.0, weight.shape) if positive else numbers.normal(0, 0.5, weight.shape))
    return Built(BACKBONES["MobileNet"], model, "own", "made for a test")


def graphs(network: Built, *refs: str) -> tuple[Counter[str], float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Freeze and return the kinds of nodes, the worst error, and the vectors with and without folding."""
    outputs = [OutputRecipe(f"out{number}", ref, "none") for number, ref in enumerate(refs)]
    slice_ = cut(network, small_recipe(*outputs))
    pixels = sample_pixels(8, 8)
    folded, plain = (freeze(slice_, whole_head({}), folded=folded) for folded in (True, False))
    with folded.session() as run, plain.session() as run_plainly:
        found, before = run(pixels), run_plainly(pixels)
    expected = reference(slice_, pixels)
    worst = max(float(relative_errors(found[name], expected[name]).max()) for name in expected)
    return Counter(node.op for node in folded.definition.node), worst, found, before


def norm(tensor: keras.KerasTensor, **options: bool) -> keras.KerasTensor:
    """Normalise with a layer of its own."""
    return layers.BatchNormalization(epsilon=1e-3, **options)(tensor)


def convolution(images: keras.KerasTensor) -> keras.KerasTensor:
    """With a bias, as in ResNet50, and padding."""
    return layers.ReLU(6.0)(norm(layers.Conv2D(4, 3, padding="same")(images)))


def grouped(images: keras.KerasTensor) -> keras.KerasTensor:
    """Groups, and a normalisation without an own scale, as in Inception."""
    return norm(layers.Conv2D(6, 3, groups=3, use_bias=False)(images), scale=False)


def depthwise(images: keras.KerasTensor) -> keras.KerasTensor:
    """Two channels of each, which are neighbours in the output, without an own offset."""
    return norm(layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(images), center=False)


def separable(images: keras.KerasTensor) -> keras.KerasTensor:
    """As in Xception."""
    return norm(layers.SeparableConv2D(5, 3, use_bias=False)(images))


def dense(images: keras.KerasTensor) -> keras.KerasTensor:
    """As in heads of one's own."""
    return norm(layers.Dense(5)(layers.Flatten()(images)))


def scaled(images: keras.KerasTensor) -> keras.KerasTensor:
    """Whatever else is linear for each channel: two normalisations, and sums and products with numbers."""
    return norm(norm(layers.Conv2D(4, 1)(images)) * 2.0 + 3.0 - 1.0)


@pytest.mark.parametrize("body", [convolution, grouped, depthwise, separable, dense, scaled])
def test_what_follows_becomes_one_bias(body: Body) -> None:
    """No sum and no product is left of it, and the vectors are those of Keras."""
    kinds, worst, _, _ = graphs(built(body), "-1")
    # One of each belongs to the scaling of pixels.
    assert (kinds["BiasAdd"], kinds["Mul"] + kinds["Add"] + kinds["AddV2"], kinds["Rsqrt"]) == (1, 0, 0)
    assert worst <= 2e-6


def preactivated(images: keras.KerasTensor) -> keras.KerasTensor:
    """Within the padding a convolution sees zeros, not what the normalisation makes of them."""
    return layers.Conv2D(4, 3, padding="same")(norm(images))


def shared(images: keras.KerasTensor) -> keras.KerasTensor:
    """One convolution, which two normalisations follow."""
    layer = layers.Conv2D(3, 3, padding="same", use_bias=False)
    return norm(layer(norm(layer(images))))


def gated(images: keras.KerasTensor) -> keras.KerasTensor:
    """A product with a computed number, a product along the width, and a sum with a computed number."""
    x = layers.Conv2D(4, 3, padding="same")(images)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    ramp = np.arange(8, dtype=np.float32).reshape((1, 1, 8, 1))
    return layers.Add()([layers.Conv2D(8, 1)(x * gate) * ramp, layers.Conv2D(8, 1)(x)])


@pytest.mark.parametrize(("body", "left"), [(preactivated, {"Rsqrt": 1}), (shared, {"Rsqrt": 2}), (gated, {"Mul": 2})])
def test_what_cannot_be_folded_stays(body: Body, left: dict[str, int]) -> None:
    """Normalisations, sums and products stay, and the vectors are those of Keras."""
    kinds, worst, _, _ = graphs(built(body), "-1")
    assert {kind: kinds[kind] for kind in left} == left
    assert worst <= 2e-6


def residual(images: keras.KerasTensor) -> keras.KerasTensor:
    """Two convolutions, their normalisations, and a sum."""
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="conv")(images))
    y = layers.BatchNormalization(name="last")(layers.Conv2D(4, 3, padding="same", name="later")(layers.ReLU()(x)))
    return layers.Add(name="sum")([x, y])


def test_cut_at_a_convolution_keeps_its_exact_value() -> None:
    """What is answered is not folded away, and the normalisation after it remains; others are folded."""
    kinds, worst, found, before = graphs(built(residual), "conv", "sum")
    np.testing.assert_array_equal(found["out0"], before["out0"])
    assert kinds["Rsqrt"] == 1
    assert worst <= 2e-6
    kinds, _, _, _ = graphs(built(residual), "sum", "norm")
    assert kinds["Rsqrt"] == 0


def test_graph_without_batch_norms_keeps_its_fingerprint() -> None:
    """Those who serve ViT, ConvNeXt or VGG keep their cached vectors; with batch norms the fingerprint is another."""

    def prints(network: Built, layer: str) -> list[str]:
        slice_ = cut(network, small_recipe(OutputRecipe("a", layer, "none")))
        return [fingerprint(freeze(slice_, whole_head({}), folded=folded), PIXELS) for folded in (True, False)]

    tokens = Built(BACKBONES["MobileNet"], token_model(), "own", "made for a test")
    same, old = prints(tokens, "encoded")
    assert same == old
    new, old = prints(small_backbone(), "bn")
    assert new != old


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_holds_each_weight_once(precision: str) -> None:
    """Two bytes for each weight: neither float32 weights nor their casts are left, and batch norms are folded too."""
    network = built(residual)
    slice_ = cut(network, small_recipe(OutputRecipe("a", "sum", "none")))
    frozen = frozen_graph(slice_, {}, precision)
    params = sum(int(np.prod(weight.shape)) for weight in network.model.weights if weight.name in {"kernel", "bias"})
    assert _bytes(frozen, tf.float32) < 100  # the scaling of pixels
    assert _bytes(frozen, tf.as_dtype(precision)) == 2 * params
    pixels = sample_pixels(8, 8)
    with frozen.session() as run:
        found = run(pixels)["a"]
    assert relative_errors(found, reference(slice_, pixels)["a"]).max() <= 0.03


def test_weights_that_float16_cannot_hold_stay_unfolded() -> None:
    """A channel of almost no variance would become infinite."""
    network = built(residual)
    network.model.get_layer("norm").moving_variance.assign([1e-12] * 4)
    network.model.get_layer("norm").gamma.assign([1e6] * 4)
    frozen = frozen_graph(cut(network, small_recipe(OutputRecipe("a", "norm", "none"))), {}, "float16")
    assert "Rsqrt" in {node.op for node in frozen.definition.node}


def _bytes(frozen: FrozenGraph, dtype: tf.DType) -> int:
    constants = [node.attr["value"].tensor for node in frozen.definition.node if node.op == "Const"]
    return sum(len(tensor.tensor_content) for tensor in constants if tensor.dtype == dtype.as_datatype_enum)
