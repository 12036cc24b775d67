"""Checks of a version that need no numbers: its graph, its signatures, its manifest."""

from __future__ import annotations

import json

import jsonschema
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from exporter.findings import Finding, expect
from exporter.freezing import INPUT
from exporter.loaded import Loaded
from exporter.manifest import check
from exporter.publication import ASSETS, MANIFEST_FILE
from exporter.saved_model import METHOD, SERVING
from exporter.slicing import Slice

SERVING_RELEASE = "2.20"
"""Of TensorFlow Serving's newest release, and so of the TensorFlow that may write for it: docs/decisions/0001."""
_STATEFUL_OPS = (
    "VarHandleOp", "VariableV2", "Variable", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall",
)  # fmt: skip


def check_graph(version: Loaded) -> Finding:
    """No variable, no function, and no operation that the server does not have."""
    kinds = set(version.operations)
    stateful = sorted(kinds.intersection(_STATEFUL_OPS))
    unknown = sorted(kind for kind in kinds if op_def_registry.get(kind) is None)
    release = tf.__version__.rpartition(".")[0]
    other = [] if release == SERVING_RELEASE else [f"TensorFlow {release}"]
    strange = [*stateful, *version.functions, *unknown, *other]
    return expect(
        f"frozen, flat, known to TensorFlow Serving {SERVING_RELEASE}",
        not strange,
        f"{len(version.operations)} nodes of {len(kinds)} kinds, no variable",
        f"Expected a frozen, flat graph of operations of TensorFlow {SERVING_RELEASE}. Received: {', '.join(strange)}.",
    )


def check_signatures(version: Loaded, slice_: Slice) -> Finding:
    """The outputs that the recipe names, of the shapes that its layers have."""
    expected = {output.recipe.name: [-1, *output.shape] for output in slice_.outputs}
    serving = version.signatures[SERVING]
    received = {name: [dim.size for dim in info.tensor_shape.dim] for name, info in serving.outputs.items()}
    kinds = {info.dtype for info in serving.outputs.values()}
    methods = {signature.method_name for signature in version.signatures.values()}
    takes = [dim.size for dim in serving.inputs[INPUT].tensor_shape.dim] if INPUT in serving.inputs else []
    pixels = [-1, slice_.pixels.height, slice_.pixels.width, 3]
    sound = kinds == {tf.float32.as_datatype_enum} and methods == {METHOD} and takes == pixels
    return expect(
        "signatures agree with the recipe",
        received == expected and sound,
        f"uint8 {takes[1:]} in, {len(received)} outputs of float32",
        f"Expected the signature outputs {expected}, float32, of {pixels}. Received: {received}, of {takes}.",
    )


def check_manifest(version: Loaded, slice_: Slice) -> Finding:
    """What the signature says is what the file says, is valid, and agrees with the other signature."""
    name = "manifest agrees with the signatures"
    written = (version.directory / ASSETS / MANIFEST_FILE).read_bytes()
    if version.manifests(2) != [written, written]:
        return Finding(name, False, f"Expected the manifest signature to answer {MANIFEST_FILE}. Received: other text.")
    document = json.loads(written)
    try:
        check(document)
    except jsonschema.ValidationError as error:
        return Finding(name, False, f"Expected a manifest by its schema. Received: {error.message}.")
    outputs = {output["name"]: output["shape"] for output in document["outputs"]}
    expected = {output.recipe.name: list(output.shape) for output in slice_.outputs}
    sides = (document["input"]["height"], document["input"]["width"])
    return expect(
        name,
        outputs == expected and sides == (slice_.pixels.height, slice_.pixels.width),
        document["fingerprint"],
        f"Expected a manifest with the outputs {expected}. Received: {outputs} of {sides[0]}x{sides[1]} pixels.",
    )
