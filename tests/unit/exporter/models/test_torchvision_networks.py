"""torchvision's weights files: read, laid out, and computed as torchvision's own code does, in NumPy and NCHW."""

from __future__ import annotations

import collections
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from exporter.errors import WeightsFileBroken
from exporter.head.slicing import prepare
from exporter.models import torchvision_networks
from exporter.models.building import build
from exporter.recipe.backbones import find_backbone
from exporter.recipe.reading import read_recipe
from tests.unit.exporter.models.test_pytorch_file import _Call, _Named, _Storage, pickled

Array = NDArray[np.float32]
State = dict[str, Array]

RECIPE = """
models:
  - name: a
    backbone: {backbone}
    weights: {weights}
    input: {{size: {size}}}
    outputs: [{{name: classes, kind: classes}}]
"""


def state_file(path: Path, state: Mapping[str, Array]) -> Path:
    """Write a state dict as PyTorch does, each tensor with a storage of its own."""
    rebuild = _Named("torch._utils", "_rebuild_tensor_v2")
    calls = {}
    with zipfile.ZipFile(path, "w") as archive:
        for key, (name, value) in enumerate(state.items()):
            strides = tuple(step // value.itemsize for step in value.strides)
            storage = _Storage(str(key), value.size)
            calls[name] = _Call(rebuild, storage, 0, value.shape, strides, False, collections.OrderedDict())
            archive.writestr(f"weights/data/{key}", value.tobytes())
        archive.writestr("weights/data.pkl", pickled(calls))
    return path


class Numbers:
    """Makes tensors of a size that keeps activations in bounds."""

    def __init__(self) -> None:
        self.state: State = {}
        self._random = np.random.default_rng(0)

    def weight(self, name: str, *shape: int, bias: bool = True) -> None:
        """Add a weight, and a bias."""
        scale = (2 / np.prod(shape[1:])) ** 0.5
        self.state[f"{name}.weight"] = (self._random.standard_normal(shape, np.float32) * scale).astype(np.float32)
        if bias:
            self.state[f"{name}.bias"] = self._random.standard_normal(shape[0], np.float32)

    def unit(self, name: str, *shape: int) -> None:
        """Add a convolution without bias and its batch normalisation."""
        self.weight(f"{name}.conv", *shape, bias=False)
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.bn.{part}"] = self._random.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        self.state[f"{name}.bn.num_batches_tracked"] = np.zeros(1, np.float32)


def conv(x: Array, weight: Array, *, stride: int = 1, pad: int = 0) -> Array:
    """`torch.nn.functional.conv2d` of one image [C, H, W]."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.asarray(np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4))), np.float32)


def pool(x: Array, size: int = 3, stride: int = 2, pad: int = 0) -> Array:
    """`torch.nn.functional.max_pool2d` with `ceil_mode`, which no window of the floor lacks."""
    more = [-(side + 2 * pad - size) % stride for side in x.shape[1:]]
    x = np.pad(x, ((0, 0), (pad, pad + more[0]), (pad, pad + more[1])), constant_values=-np.inf)
    return np.asarray(sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride].max(axis=(3, 4)))


def alexnet_state() -> State:
    """A state dict with torchvision's names; the classifier is narrower."""
    numbers = Numbers()
    shapes = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
    for place, shape in zip((0, 3, 6, 8, 10), shapes, strict=True):
        numbers.weight(f"features.{place}", *shape)
    for place, dense in ((1, (32, 9216)), (4, (32, 32)), (6, (1000, 32))):
        numbers.weight(f"classifier.{place}", *dense)
    return numbers.state


def alexnet(x: Array, state: State) -> Array:
    """torchvision/models/alexnet.py, `forward`."""
    for place, stride, pad in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        bias = state[f"features.{place}.bias"][:, None, None]
        x = np.maximum(conv(x, state[f"features.{place}.weight"], stride=stride, pad=pad) + bias, 0)
        if place in {0, 3, 10}:
            x = x[:, : x.shape[1] - (x.shape[1] - 3) % 2, : x.shape[2] - (x.shape[2] - 3) % 2]
            x = pool(x)
    flat = x.reshape(-1)
    for place in (1, 4, 6):
        flat = state[f"classifier.{place}.weight"] @ flat + state[f"classifier.{place}.bias"]
        flat = np.maximum(flat, 0) if place != 6 else flat
    return flat


MODULES = {
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


def googlenet_state() -> State:
    """A state dict with torchvision's names and shapes, auxiliary classifiers included."""
    numbers = Numbers()
    numbers.unit("conv1", 64, 3, 7, 7)
    numbers.unit("conv2", 64, 64, 1, 1)
    numbers.unit("conv3", 192, 64, 3, 3)
    for name, (entering, one, three_less, three, five_less, five, pooled) in MODULES.items():
        numbers.unit(f"inception{name}.branch1", one, entering, 1, 1)
        numbers.unit(f"inception{name}.branch2.0", three_less, entering, 1, 1)
        numbers.unit(f"inception{name}.branch2.1", three, three_less, 3, 3)
        numbers.unit(f"inception{name}.branch3.0", five_less, entering, 1, 1)
        numbers.unit(f"inception{name}.branch3.1", five, five_less, 3, 3)
        numbers.unit(f"inception{name}.branch4.1", pooled, entering, 1, 1)
    numbers.unit("aux1.conv", 128, 512, 1, 1)
    numbers.weight("aux1.fc1", 8, 2048)
    numbers.weight("fc", 1000, 1024)
    return numbers.state


def googlenet(x: Array, state: State) -> Array:
    """torchvision/models/googlenet.py, `_forward`."""

    def unit(x: Array, name: str, stride: int = 1, pad: int = 0) -> Array:
        x = conv(x, state[f"{name}.conv.weight"], stride=stride, pad=pad)
        gain, shift, mean, variance = (
            state[f"{name}.bn.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.asarray(np.maximum((x - mean) / np.sqrt(variance + 0.001) * gain + shift, 0))

    x = pool(unit(x, "conv1", 2, 3))
    x = pool(unit(unit(x, "conv2"), "conv3", pad=1))
    for name in MODULES:
        prefix = f"inception{name}"
        branches = [
            unit(x, f"{prefix}.branch1"),
            unit(unit(x, f"{prefix}.branch2.0"), f"{prefix}.branch2.1", pad=1),
            unit(unit(x, f"{prefix}.branch3.0"), f"{prefix}.branch3.1", pad=1),
            unit(pool(x, 3, 1, 1), f"{prefix}.branch4.1"),
        ]
        x = np.concatenate(branches)
        if name == "3b":
            x = pool(x)
        elif name == "4e":
            x = pool(x, 2)
    return np.asarray(state["fc.weight"] @ x.mean(axis=(1, 2)) + state["fc.bias"])


@pytest.mark.parametrize(
    ("backbone", "size", "state", "forward"),
    [("AlexNet", 224, alexnet_state, alexnet), ("GoogLeNet", 96, googlenet_state, googlenet)],
    ids=["AlexNet", "GoogLeNet"],
)
def test_a_state_dict_gives_torchvisions_logits(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: str, size: int, state: Any, forward: Any
) -> None:
    """A recipe that names the file has torchvision's network, its scaling, its crop, and names for its classes."""
    monkeypatch.setattr(torchvision_networks, "_HIDDEN", 32)
    made = state()
    weights = state_file(tmp_path / "weights.pth", made)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(backbone=backbone, weights=weights.name, size=size))
    (model,) = read_recipe(recipe).models
    slice_ = prepare(model)
    assert round(size * 256 / 224) == model.pixels.shortest_side
    pixels = np.random.default_rng(1).standard_normal((1, size, size, 3), np.float32)
    found = slice_.model(pixels, training=False)
    logits = np.asarray(found["predictions before its activation"])[0]
    expected = forward(pixels[0].transpose(2, 0, 1), made)
    assert 1e-4 > np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert {"AlexNet": "torch", "GoogLeNet": "tf"}[backbone] == slice_.built.row.scaling


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    """The message names the first tensor that is missing, or that is left."""
    weights = state_file(tmp_path / "other.pth", {"features.0.weight": np.zeros((1, 3, 2, 2), np.float32)})
    row = find_backbone("GoogLeNet", str(weights))
    with pytest.raises(WeightsFileBroken, match=r"conv1\.conv\.weight"):
        build(row, str(weights), row.preprocessing)
