"""The fingerprint of a model: a digest of everything that can change a vector, and of nothing else.

The graph holds weights, scaling, architecture and pooling. Its digest is a Merkle tree: a node's digest covers its
operation, its attributes (including a constant's values) and the digests of its inputs. Node names and their order
differ between processes and do not enter; neither do the model's name, versions and dates. Output names do: `top`
must never return another vector under the same fingerprint.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from exporter.recipe.preprocessing import recorded
from exporter.savedmodel.freezing import FrozenGraph
from microtome.manifest import InputSpec

Ranges = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

# Attributes of TensorFlow's passes: inferred shapes, colocation, how a function was inlined.
_BOOKKEEPING_PREFIX = "_"


def fingerprint(
    frozen: FrozenGraph,
    pixels: InputSpec,
    ranges: Mapping[str, Ranges] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> str:
    """Return `sha256:` and 64 hexadecimal digits.

    Args:
        frozen: Covers weights, architecture, scaling, precision, pooling, projection and normalisation.
        pixels: The preprocessing of images.
        ranges: Smallest and largest value of each dimension by output; they change int8 answers.
        tolerances: By output, where the recipe sets another than the precision's own.
    """
    digests = _node_digests(frozen.definition)
    everything: dict[str, Any] = {
        "preprocessing": recorded(pixels),
        "outputs": {name: digests[node] for name, node in frozen.outputs.items()},
    }
    if ranges:
        everything["ranges"] = {name: [side.tolist() for side in sides] for name, sides in ranges.items()}
    if tolerances:
        everything["tolerances"] = dict(tolerances)
    return f"sha256:{hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()}"


def _node_digests(definition: tf.compat.v1.GraphDef) -> dict[str, str]:
    digests: dict[str, str] = {}
    for node in _inputs_first(definition):
        digest = hashlib.sha256(node.op.encode())
        for key in sorted(node.attr):
            if not key.startswith(_BOOKKEEPING_PREFIX):
                digest.update(f"\0{key}\0".encode())
                digest.update(node.attr[key].SerializeToString(deterministic=True))
        for text in node.input:
            source, tail = _split(text)
            digest.update(f"\0{digests[source]}{tail}".encode())
        digests[node.name] = digest.hexdigest()
    return digests


def _inputs_first(definition: tf.compat.v1.GraphDef) -> Iterator[tf.compat.v1.NodeDef]:
    """Yield every node after its inputs; without recursion, because networks are deep."""
    by_name = {node.name: node for node in definition.node}
    done: set[str] = set()
    for root in definition.node:
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [by_name[name] for name in (_split(text)[0] for text in node.input) if name not in done]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            if node.name not in done:
                done.add(node.name)
                yield node


def _split(text: str) -> tuple[str, str]:
    """Split an input such as `node`, `node:1` or `^node` into the node's name and the output that is meant."""
    if text.startswith("^"):
        return text[1:], "^"
    name, _, index = text.partition(":")
    return name, f":{index or 0}"
