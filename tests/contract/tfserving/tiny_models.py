"""Makes the small SavedModels that the conformance tests ask for, in the form that the exporter writes.

``python -m tests.contract.tfserving.tiny_models DIR`` writes them for a TensorFlow Serving that the same tests shall
run against, and prints the flags to start it with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from microtome.golden import golden_pixels, record

Array = npt.NDArray[Any]

SIDE = 8
EARLY, TOP = 4, 5
MANIFEST = '{"schema": 1, "max_batch_size": 16}'
TYPES = ("float", "double", "half", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "uint32", "uint64", "bool",
         "string")  # fmt: skip


def weights(version: int) -> dict[str, Array]:
    """Return the weights of a version of ``tiny``: no two versions answer alike."""
    random = np.random.default_rng(version)
    return {
        "early": random.normal(size=(3, EARLY)).astype(np.float32),
        "kernel": random.normal(size=(3, 3, 3, TOP)).astype(np.float32),
    }


def expected_early(images: Array, version: int) -> Array:
    """Compute output ``early`` without TensorFlow: mean colour, projected. [N, EARLY] float32."""
    means = (images.astype(np.float32) / 255).mean(axis=(1, 2))
    answer: Array = means @ weights(version)["early"]
    return answer


def expected_top(images: Array, version: int) -> Array:
    """Compute output ``top`` without TensorFlow: valid 3x3 convolution, ReLU, mean. [N, TOP] float32."""
    windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float32) / 255, (3, 3), axis=(1, 2))
    convolved = np.einsum("nyxckl,klcd->nyxd", windows, weights(version)["kernel"])
    answer: Array = np.maximum(convolved, 0).mean(axis=(1, 2))
    return answer


def golden_manifest(version: int, **changes: object) -> str:
    """Return the manifest of a version of ``tiny``, with golden vectors that were computed without TensorFlow."""
    pixels = golden_pixels(1, 0, 2, SIDE, SIDE)
    golden = record(1, {"early": expected_early(pixels, version), "top": expected_top(pixels, version)})
    document: Mapping[str, Any] = {
        "schema": 2,
        "input": {"height": SIDE, "width": SIDE},
        "outputs": [{"name": name, "tolerance": 1e-4} for name in golden.vectors],
        "max_batch_size": 16,
        "golden": asdict(golden),
        **changes,
    }
    return json.dumps(document)


def write_lone(version_dir: Path, *, manifest: str | None = None, warm_up: Sequence[Any] = ()) -> Path:
    """Write ``tiny`` as OpenVINO computes it: with the exporter's signatures alone, and golden vectors."""
    text = golden_manifest(int(version_dir.name)) if manifest is None else manifest
    return write_tiny(version_dir, warm_up=warm_up, manifest=text, only=("serving_default", "manifest"))


def write_tiny(
    version_dir: Path, *, warm_up: Sequence[Any] = (), manifest: str = MANIFEST, only: Sequence[str] = ()
) -> Path:
    """Write one version of model ``tiny``; the directory's name is its number.

    Signatures: ``serving_default`` (images to early and top), ``manifest``, ``work`` (as many laps of multiplication as
    asked: slow on purpose), ``whole`` (scalar in, scalar out), ``sum`` (rows in, one scalar out), ``first`` (rows in,
    the first out), ``vast`` (computes on a tensor with as many elements as the rows multiply to), ``pair`` (two inputs)
    and ``default`` (two, of which ``b`` may be left out and is 2 then).

    Args:
        version_dir: Where to; appears at once, complete.
        warm_up: ``PredictRequest`` messages to record.
        manifest: What the ``manifest`` signature answers, and what stands beside the graph.
        only: The signatures to write; none for all.
    """
    values = weights(int(version_dir.name))
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        images = v1.placeholder(tf.uint8, [None, SIDE, SIDE, 3], name="images")
        pixels = tf.cast(images, tf.float32) / 255
        early = tf.matmul(tf.reduce_mean(pixels, [1, 2]), values["early"])
        top = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(pixels, values["kernel"], 1, "VALID")), [1, 2])
        query = v1.placeholder(tf.int32, [None], name="query")
        laps = v1.placeholder(tf.int32, [None], name="laps")
        whole = v1.placeholder(tf.float32, [], name="whole")
        rows = v1.placeholder(tf.float32, [None], name="rows")
        signatures = {
            "serving_default": ({"images": images}, {"early": early, "top": top}),
            "manifest": ({"query": query}, {"manifest": tf.fill(tf.shape(query), manifest)}),
            "work": ({"laps": laps}, {"done": _laps(laps)}),
            "whole": ({"whole": whole}, {"whole": whole + 1}),
            "sum": ({"rows": rows}, {"sum": tf.reduce_sum(rows)}),
            "first": ({"rows": rows}, {"first": rows[:1]}),
            "vast": ({"rows": rows}, {"most": rows * tf.reduce_max(tf.fill(tf.cast(rows, tf.int64), 1.0))}),
            "pair": ({"a": v1.placeholder(tf.float32, [None]), "b": rows}, {"b": rows * 2}),
            "default": ({"a": rows, "b": whole}, {"product": rows * whole}, {"b": 2.0}),
        }
        signatures = {name: signatures[name] for name in only or signatures}
        return _write(version_dir, signatures, warm_up, {"manifest.json": manifest.encode()})


def write_types(version_dir: Path) -> Path:
    """Write model ``types``: one signature per element type, which answers with what it is given (``x`` to ``y``)."""
    with tf.Graph().as_default():
        signatures = {}
        for name in TYPES:
            x = tf.compat.v1.placeholder(tf.as_dtype({"half": "float16"}.get(name, name)), [None], name=f"x_{name}")
            signatures[name] = ({"x": x}, {"y": tf.identity(x)})
        return _write(version_dir, signatures, (), {})


def write_held(version_dir: Path, release: Path) -> Path:
    """Write a model whose load, inside TensorFlow, waits until the file ``release`` is there."""
    with tf.Graph().as_default():
        count, _ = tf.while_loop(
            # The pattern depends on the lap, or it would be looked for once and for all.
            lambda lap, found: tf.equal(found, 0),
            lambda lap, _: (
                lap + 1,
                tf.size(tf.io.matching_files(str(release) + tf.strings.substr(tf.as_string(lap), 0, 0))),
            ),
            (tf.constant(0), tf.constant(0)),
        )
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        signatures = {"serving_default": ({"x": x}, {"y": x + 1})}
        return _write(version_dir, signatures, (), {}, count.op)


def _laps(laps: Any) -> Any:
    """Multiply matrices for about a third of a millisecond per lap."""
    start = (tf.constant(0), tf.eye(200))
    count, product = tf.while_loop(
        lambda count, _: count < tf.reduce_max(laps),
        lambda count, product: (count + 1, tf.matmul(product, tf.eye(200) * 1.0001)),
        start,
        parallel_iterations=1,
    )
    return laps * 0 + count + tf.cast(product[0, 1], tf.int32)


def _write(
    version_dir: Path,
    signatures: Mapping[str, Any],
    warm_up: Sequence[Any],
    extra: Mapping[str, bytes],
    at_load: Any = None,
) -> Path:
    saved_model = tf.compat.v1.saved_model
    hidden = version_dir.with_name(f".tmp-{version_dir.name}")
    hidden.parent.mkdir(parents=True, exist_ok=True)
    definitions = {}
    for key, (inputs, outputs, *defaults) in signatures.items():
        definitions[key] = saved_model.predict_signature_def(inputs, outputs)
        for alias, value in (defaults[0] if defaults else {}).items():
            definitions[key].defaults[alias].CopyFrom(tf.make_tensor_proto(value, tf.float32))
    with tf.compat.v1.Session() as session:
        builder = saved_model.Builder(str(hidden))
        builder.add_meta_graph_and_variables(session, ["serve"], definitions, main_op=at_load)
        builder.save()
    for name, content in extra.items():
        path = hidden / "assets.extra" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    if warm_up:
        record_warm_up(hidden, warm_up)
    hidden.rename(version_dir)
    return version_dir


def record_warm_up(version_dir: Path, requests: Sequence[Any]) -> None:
    """Record warm-up requests beside a SavedModel."""
    path = version_dir / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def write_all(models: Path) -> Path:
    """Write every model that the address-only tests need, and return the configuration that serves them."""
    for version in (1, 2):
        write_tiny(models / "tiny" / str(version))
    write_types(models / "types" / "1")
    types = f'config {{ name: "types" base_path: "{models}/types" model_platform: "tensorflow" }}'
    return _write_config(models / "models.config", models, types)


def write_lone_models(models: Path) -> Path:
    """Write the model that OpenVINO computes, and return the configuration that serves it."""
    for version in (1, 2):
        write_lone(models / "tiny" / str(version))
    return _write_config(models / "models.config", models, "")


def _write_config(config: Path, models: Path, more: str) -> Path:
    config.write_text(
        f"""model_config_list {{
  config {{ name: "tiny" base_path: "{models}/tiny" model_platform: "tensorflow"
           model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }}
           version_labels {{ key: "future" value: 9 }} }}
  {more}
}}
"""
    )
    return config


if __name__ == "__main__":
    config_file = write_all(Path(sys.argv[1]).absolute())
    sys.stdout.write(f"--model_config_file={config_file} --allow_version_labels_for_unavailable_models=true\n")
