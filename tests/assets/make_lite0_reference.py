"""Make `lite0_reference.json`: what every layer of EfficientNet-Lite0 computes, by an implementation that is not ours.

PyTorch reads the packaged weights itself and runs its own convolutions, written out here after the paper; nothing of
the exporter is used. The file is small enough to keep: for each layer the mean, the standard deviation and sixteen
values. Made once; to make it again, in an environment of its own:

    python -m venv torch-venv && torch-venv/bin/pip install torch==2.13.0 numpy
    torch-venv/bin/python tests/assets/make_lite0_reference.py path/to/efficientnet-lite0-57934424.pth
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("lite0_reference.json")
SAMPLES = 16
SIZE = 224
# Repeats and stride, stage by stage; widths, kernels and expansions are read off the weights' shapes.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


def image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 [224, 224, 3]: stripes, a gradient and a texture, from whole numbers alone."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    red = (rows * columns // 16) % 256
    green = (rows + 2 * columns) * 255 // (3 * SIZE)
    blue = (rows // 8 % 2) * 128 + (columns * columns // 64) % 128
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def summary(activations: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the mean, the deviation and sixteen values, spread over a channels-last array without its batch."""
    flat = activations.astype(np.float64).ravel()
    positions = [index * (flat.size // SAMPLES) + 7 * index % (flat.size // SAMPLES) for index in range(SAMPLES)]
    return {
        "shape": list(activations.shape),
        "mean": float(f"{flat.mean():.8g}"),
        "std": float(f"{flat.std():.8g}"),
        "samples": [float(f"{flat[position]:.8g}") for position in positions],
    }


def activations(state: Any) -> Iterator[tuple[str, Any]]:
    """Yield each layer's name, as Keras' EfficientNet has it, and its output [1, C, H, W] for `image()`."""
    import torch  # type: ignore[import-not-found]  # noqa: PLC0415 -- the image is wanted without it
    from torch.nn import functional  # type: ignore[import-not-found]  # noqa: PLC0415

    def convolve(x: Any, key: str, stride: int = 1, *, depthwise: bool = False) -> Any:
        kernel = state[f"{key}.weight"]
        # TensorFlow's SAME: as many outputs as strides begin; an odd pixel of padding goes to the end.
        size, width = x.shape[-1], kernel.shape[-1]
        padding = max((-(-size // stride) - 1) * stride + width - size, 0)
        before, after = padding // 2, padding - padding // 2
        x = functional.pad(x, (before, after, before, after))
        return functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] if depthwise else 1)

    def normalise(x: Any, key: str) -> Any:
        mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = torch.from_numpy((image().astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    x = functional.relu6(normalise(convolve(x, "_conv_stem", 2), "_bn0"))
    yield "stem_activation", x
    number = 0
    for stage, (repeats, first_stride) in enumerate(STAGES, start=1):
        for index in range(repeats):
            ours, theirs, entering = f"block{stage}{'abcd'[index]}_", f"_blocks.{number}.", x
            number += 1
            if stage > 1:
                x = functional.relu6(normalise(convolve(x, f"{theirs}_expand_conv"), f"{theirs}_bn0"))
                yield f"{ours}expand_activation", x
            stride = first_stride if index == 0 else 1
            x = convolve(x, f"{theirs}_depthwise_conv", stride, depthwise=True)
            x = functional.relu6(normalise(x, f"{theirs}_bn1"))
            yield f"{ours}activation", x
            x = normalise(convolve(x, f"{theirs}_project_conv"), f"{theirs}_bn2")
            yield f"{ours}project_bn", x
            if index > 0:
                x = x + entering
                yield f"{ours}add", x
    x = functional.relu6(normalise(convolve(x, "_conv_head"), "_bn1"))
    yield "top_activation", x
    x = x.mean(dim=(2, 3))
    yield "avg_pool", x
    yield "predictions", functional.softmax(functional.linear(x, state["_fc.weight"], state["_fc.bias"]), dim=1)


def main(weights: str) -> None:
    """Write the file."""
    import torch  # noqa: PLC0415

    state = torch.load(weights, weights_only=True)
    with torch.inference_mode():
        layers = {name: summary(np.moveaxis(output[0].numpy(), 0, -1)) for name, output in activations(state)}
    document = {"made by": f"PyTorch {torch.__version__.split('+')[0]}", "weights": Path(weights).name}
    rows = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in layers.items()]
    head = json.dumps(document, indent=1).removesuffix("\n}")
    FILE.write_text(f'{head},\n "layers": {{\n' + ",\n".join(rows) + "\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
