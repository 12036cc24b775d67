"""Checks of a written version that compare no vectors: its graph, signatures, manifest and warm-up records."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jsonschema
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from exporter.errors import VerificationFailed, first_line
from exporter.head.slicing import Slice
from exporter.savedmodel.freezing import INPUTS
from exporter.savedmodel.manifest import check
from exporter.savedmodel.publication import ASSETS, MANIFEST_FILE
from exporter.savedmodel.saved_model import METHOD, SERVING, Loaded
from exporter.savedmodel.serving_files import WARMUP_FILE
from microtome import tokenization
from microtome.manifest import TokensSpec

SERVING_RELEASE = "2.20"
"""The newest release of TensorFlow Serving, and the TensorFlow that may write for it: docs/decisions/0001."""
_STATEFUL_OPS = (
    "VarHandleOp", "VariableV2", "Variable", "ReadVariableOp", "PartitionedCall", "StatefulPartitionedCall",
)  # fmt: skip
_MOST_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked, in a few words.
        ok: Whether it holds.
        detail: What was measured; if it does not hold, a sentence with expected and received.
    """

    check: str
    ok: bool
    detail: str


def expect(check: str, ok: bool, detail: str, otherwise: str) -> Finding:
    """Return a finding with `detail` if it holds, else with `otherwise`."""
    return Finding(check, ok, detail if ok else otherwise)


def require(findings: Sequence[Finding]) -> None:
    """Raise unless every check holds.

    Raises:
        VerificationFailed: Names each check that does not.
    """
    failed = [finding.detail for finding in findings if not finding.ok]
    if failed:
        raise VerificationFailed("\n".join([*failed, "Nothing was published."]))


def check_graph(version: Loaded) -> Finding:
    """Check that the graph has no variable, no function, and only operations that the server has."""
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
    """Check the signature against the recipe's outputs and the shapes of their layers."""
    expected = {output.recipe.name: [-1, *output.shape] for output in slice_.outputs}
    serving = version.signatures[SERVING]
    received = {name: [dim.size for dim in info.tensor_shape.dim] for name, info in serving.outputs.items()}
    kinds = {info.dtype for info in serving.outputs.values()}
    methods = {signature.method_name for signature in version.signatures.values()}
    name, dtype = INPUTS[slice_.input.kind]
    takes = [dim.size for dim in serving.inputs[name].tensor_shape.dim] if name in serving.inputs else []
    wanted = [-1, *slice_.input.shape]
    sound = kinds == {tf.float32.as_datatype_enum} and methods == {METHOD} and takes == wanted
    return expect(
        "signatures agree with the recipe",
        received == expected and sound,
        f"{dtype} {takes[1:]} in, {len(received)} outputs of float32",
        f"Expected the signature outputs {expected}, float32, of {wanted}. Received: {received}, of {takes}.",
    )


def check_manifest(version: Loaded, slice_: Slice) -> Finding:
    """Check that the manifest is valid, the same in signature and file, and agrees with the signature of outputs."""
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
    taken = document["input"]
    given = [taken[key] for key in (("length",) if taken.get("kind") == "tokens" else ("height", "width"))]
    return expect(
        name,
        outputs == expected and given == list(slice_.input.shape)[: len(given)],
        document["fingerprint"],
        f"Expected a manifest with the outputs {expected}. Received: {outputs} of {'x'.join(map(str, given))}.",
    )


def check_tokenizer(version: Loaded, spec: TokensSpec) -> Finding:
    """Check that a text tower answers with the tokenizer of its manifest, as in its file, and that it can be used."""
    name = "its tokenizer is there"
    file = version.directory / ASSETS / tokenization.FILE
    try:
        answered = b"".join(version.answered(tokenization.SIGNATURE, range(spec.tokenizer.parts)))
        if answered != file.read_bytes():
            raise ValueError(f"Expected the signature to answer {file.name}. Received: something else.")  # noqa: TRY301
        ids = tokenization.Tokenizer.load(tokenization.unpacked(answered, spec.tokenizer), spec).ids("A photo.")
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        return Finding(name, False, f"Expected a tokenizer by its manifest. Received: {first_line(error)}")
    used = np.count_nonzero(ids != spec.pad)
    return Finding(
        name, True, f"sha256 {spec.tokenizer.sha256[:12]}…, {spec.tokenizer.size:,} bytes, {used} tokens tried"
    )


def check_warmup(version: Loaded) -> Finding:
    """Check every warm-up record by its signature, and run the small ones; TensorFlow Serving runs them all at loading.

    Larger batches differ only in size. Running them would take longer than the rest of the verification, and
    gigabytes of memory for large inputs.
    """
    path = version.directory / ASSETS / WARMUP_FILE
    name = "warm-up records run"
    sizes = []
    try:
        for request in _requests(str(path)):
            sizes.append(_size(version, request))
            if sizes[-1] <= _MOST_IMAGES:
                _run(version, request)
    except (tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        return Finding(name, False, f"Expected warm-up records that run. Received: {path}: {said}.")
    run = sum(size <= _MOST_IMAGES for size in sizes)
    said = f"{len(sizes)} records by the signature, {run} of them run"
    return expect(name, run > 0, said, f"Expected warm-up records. Received: none of one image in {path}.")


def _requests(path: str) -> Iterator[predict_pb2.PredictRequest]:
    for record in tf.compat.v1.io.tf_record_iterator(path):
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request


def _size(version: Loaded, request: predict_pb2.PredictRequest) -> int:
    """Return the number of images of a request that fits its signature.

    Raises:
        ValueError: It does not fit.
    """
    signature = version.signatures[request.model_spec.signature_name]
    sizes = set()
    for name, info in signature.inputs.items():
        given = request.inputs[name]
        wanted, received = tf.TensorShape(info.tensor_shape), tf.TensorShape(given.tensor_shape)
        if given.dtype != info.dtype or not wanted.is_compatible_with(received):
            raise ValueError(f"{name} of {received}, where the signature takes {wanted}")
        sizes.add(int(received[0]))
    (size,) = sizes
    return size


def _run(version: Loaded, request: predict_pb2.PredictRequest) -> None:
    signature = version.signatures[request.model_spec.signature_name]
    fetches = [signature.outputs[name].name for name in request.output_filter or signature.outputs]
    feeds = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in request.inputs.items()}
    version.session.run(fetches, feeds)
