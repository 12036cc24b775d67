"""The fingerprint of a model: a digest of everything that can change a vector, and of nothing else.

The graph holds weights, scaling, architecture and pooling. Its digest is a Merkle tree: a node's digest covers its
operation, its attributes (including a constant's values) and the digests of its inputs. Node names and their order
differ between processes and do not enter; neither do the model's name, versions and dates. Output names do: `top`
must never return another vector under the same fingerprint.
"""

import hashlib
import json
from collections.abc import Mapping
from graphlib import TopologicalSorter
from operator import itemgetter
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.recipe.preprocessing import identity
from exporter.savedmodel.freezing import FrozenGraph
from microtome.manifest import InputSpec, TokensSpec

Ranges = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

# Attributes of TensorFlow's passes: inferred shapes, colocation, how a function was inlined.
_BOOKKEEPING_PREFIX = "_"


def fingerprint(  # noqa: PLR0913, PLR0917, all that can change a vector
    frozen: FrozenGraph,
    taken: InputSpec | TokensSpec,
    ranges: Mapping[str, Ranges] | None = None,
    tolerances: Mapping[str, float] | None = None,
    classes: Mapping[str, Mapping[str, Any]] | None = None,
    precision: Mapping[str, Any] | None = None,
) -> str:
    """Return `sha256:` and 64 hexadecimal digits.

    Args:
        frozen: Covers weights, architecture, scaling, precision, pooling, projection and normalisation.
        taken: The preprocessing of images, or how a text becomes token ids, with its tokenizer.
        ranges: Smallest and largest value of each dimension by output; they change int8 answers.
        tolerances: By output, where the recipe sets another than the precision's own.
        classes: Of outputs of classes or numbers, what the numbers mean; see `described_classes`.
        precision: Of `precision: auto`, the decision and the figures that it rests on; see `Arithmetic.identity`.
    """
    digests = _node_digests(frozen.definition)
    everything: dict[str, Any] = {
        "preprocessing": identity(taken),
        "outputs": {name: digests[node] for name, node in frozen.outputs.items()},
    }
    if ranges:
        everything["ranges"] = {name: [side.tolist() for side in sides] for name, sides in ranges.items()}
    if tolerances:
        everything["tolerances"] = dict(tolerances)
    if classes:
        everything["classes"] = dict(classes)
    if precision:
        everything["precision"] = dict(precision)
    return f"sha256:{hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()}"


def _node_digests(definition: tf.compat.v1.GraphDef) -> dict[str, str]:
    nodes = {node.name: node for node in definition.node}
    inputs = {name: [_split(text) for text in node.input] for name, node in nodes.items()}
    order = TopologicalSorter({name: [source for source, _ in found] for name, found in inputs.items()})
    digests: dict[str, str] = {}
    for name in order.static_order():
        digest = hashlib.sha256(nodes[name].op.encode())
        for key, value in sorted(nodes[name].attr.items(), key=itemgetter(0)):
            if not key.startswith(_BOOKKEEPING_PREFIX):
                digest.update(f"\0{key}\0".encode())
                digest.update(value.SerializeToString(deterministic=True))
        for source, tail in inputs[name]:
            digest.update(f"\0{digests[source]}{tail}".encode())
        digests[name] = digest.hexdigest()
    return digests


def _split(text: str) -> tuple[str, str]:
    """Split an input such as `node`, `node:1` or `^node` into the node's name and the output that is meant."""
    if text.startswith("^"):
        return text[1:], "^"
    name, _, index = text.partition(":")
    return name, f":{index or 0}"
