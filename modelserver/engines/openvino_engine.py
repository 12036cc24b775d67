"""Executes ``serving_default`` with OpenVINO, and answers ``manifest`` from the file next to the graph.

OpenVINO reads one signature, and computes no text. Any other signature, which the exporter never writes, is executed by
TensorFlow. The network is cut to the outputs of a request; each cut is compiled on first use and has its own weights.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from modelserver.config.manifest import MANIFEST
from modelserver.engines.cuts import Cuts, Tensors
from modelserver.engines.engine import Engine, LoadedModel
from modelserver.engines.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, ResourceExhausted
from modelserver.tensors.codec import STRING, Array
from modelserver.tensors.signatures import DEFAULT_SIGNATURE, Signatures, copy_signatures

if TYPE_CHECKING:
    import openvino

    Port: TypeAlias = openvino.Output
    Compile: TypeAlias = Callable[[Sequence[Port], Sequence[Port]], openvino.CompiledModel]

log = logging.getLogger(__name__)

CUTS_KEPT = 16

LONGEST_REASON = 500
MANIFEST_SIGNATURE = "manifest"
SAVED_MODEL = "saved_model.pb"

_WHERE = re.compile(r"^(Exception from |Check '.*' failed at ).*$", re.MULTILINE)


class OpenVinoEngine:
    """Loads SavedModels into OpenVINO.

    Args:
        settings: How to compute.
        tensorflow: Executes the signatures that OpenVINO does not.

    Raises:
        FailedPrecondition: OpenVINO is not installed.
    """

    def __init__(self, settings: OpenVinoSettings, tensorflow: Engine) -> None:
        self._openvino = import_openvino()
        self._core = self._openvino.Core()
        self._properties = settings.properties()
        self._threads = settings.threads_of_a_stream
        self._tensorflow = tensorflow
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if settings.mixed_precision == "bfloat16" and "BF16" not in able:
            log.warning("This processor has no bfloat16 arithmetic: it is emulated, and much slower than float32")

    def threads(self, path: Path) -> int:  # noqa: ARG002, equal for all
        """Return the threads of a stream; see ``Engine.threads``."""
        return self._threads

    def load(self, path: Path) -> "OpenVinoModel":
        """Read the SavedModel in ``path``; see ``Engine.load``.

        Raises:
            NotFound: There is no SavedModel in binary form.
            FailedPrecondition: It has no ``serving_default``, or one that OpenVINO cannot read.
        """
        signatures = _read_signatures(path)
        if DEFAULT_SIGNATURE not in signatures:
            raise FailedPrecondition(
                f"Expected a signature {DEFAULT_SIGNATURE!r}, which is what OpenVINO computes. Received: "
                f"{', '.join(sorted(signatures)) or 'none'}. --engine=tensorflow serves any signature"
            )
        _check_numbers(signatures[DEFAULT_SIGNATURE])
        try:
            model = self._core.read_model(str(path))
        except RuntimeError as error:
            raise FailedPrecondition(f"OpenVINO cannot read this model: {_reason(error)}") from error
        manifest = (path / MANIFEST).read_bytes() if (path / MANIFEST).is_file() else None
        answered = {DEFAULT_SIGNATURE} if manifest is None else {DEFAULT_SIGNATURE, MANIFEST_SIGNATURE}
        rest = self._tensorflow.load(path) if signatures.keys() - answered else None
        return OpenVinoModel(signatures, model, self._compile, manifest, rest)

    def _compile(self, outputs: Sequence["Port"], inputs: Sequence["Port"]) -> Any:  # noqa: ANN401
        """Compile the part of a model that leads from the inputs to the outputs."""
        part = self._openvino.Model(list(outputs), [port.get_node() for port in inputs])
        return self._core.compile_model(part, "CPU", self._properties)


class OpenVinoModel:
    """One SavedModel: its network, its manifest, and a TensorFlow model of the rest if there is any.

    Args:
        signatures: All signatures.
        model: The network; its inputs and outputs are named as in ``serving_default``.
        compiler: Compiles a part of it.
        manifest: The answer to the signature ``manifest``.
        rest: Executes all other signatures.
    """

    def __init__(
        self,
        signatures: Signatures,
        model: "openvino.Model",
        compiler: "Compile",
        manifest: bytes | None,
        rest: LoadedModel | None,
    ) -> None:
        self.signatures = signatures
        signature = signatures[DEFAULT_SIGNATURE]
        self._inputs = {info.name: (alias, model.input(alias)) for alias, info in signature.inputs.items()}
        self._outputs = {info.name: model.output(alias) for alias, info in signature.outputs.items()}
        self._compiler = compiler
        self._cuts = Cuts(self._compile, CUTS_KEPT)
        self._manifest = manifest
        self._rest = rest

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors; see ``LoadedModel.run``.

        Raises:
            InvalidArgument: A shape is not that of the signature. TensorFlow would try it; OpenVINO has compiled it in.
            Internal: OpenVINO failed.
        """
        if feeds.keys() == self._inputs.keys() and self._outputs.keys() >= set(fetches):
            return self._infer(feeds, fetches)
        signature = self.signatures.get(MANIFEST_SIGNATURE)
        if self._manifest is not None and signature and {info.name for info in signature.inputs.values()} == set(feeds):
            (query,) = feeds.values()
            return [np.full(query.shape, self._manifest, object) for _ in fetches]
        if self._rest is None:
            raise InvalidArgument(f"No signature computes {', '.join(fetches)} from {', '.join(feeds)}")
        return self._rest.run(feeds, fetches)

    def close(self) -> None:
        """Free the memory; see ``LoadedModel.close``."""
        self._cuts.clear()
        self._inputs, self._outputs = {}, {}
        if self._rest is not None:
            self._rest.close()

    def _infer(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        for tensor, array in feeds.items():
            alias, port = self._inputs[tensor]
            _check_shape(alias, port.partial_shape, array)
        if any(len(array) == 0 for array in feeds.values() if array.ndim):
            return [_nothing(self._outputs[tensor]) for tensor in fetches]
        try:
            cut = self._cuts.get(tuple(self._inputs), tuple(fetches))
            return cut.run([feeds[tensor] for tensor in self._inputs])
        except MemoryError as error:
            raise ResourceExhausted("OOM when running the model") from error
        except RuntimeError as error:
            log.exception("OpenVINO failed")
            raise Internal("OpenVINO could not run the model; see the log of the model server") from error

    def _compile(self, _: Tensors, fetches: Tensors) -> "_Cut":
        ports = [self._outputs[tensor] for tensor in fetches]
        return _Cut(self._compiler(ports, [port for _, port in self._inputs.values()]))


class _Cut:
    """One compiled cut, and its inference requests, each of which only one thread may use at a time."""

    def __init__(self, compiled: "openvino.CompiledModel") -> None:
        self._compiled = compiled
        self._idle: deque[openvino.InferRequest] = deque()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute; releases the interpreter lock meanwhile."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        # Inputs are read in place; outputs are copied, since the next run overwrites them.
        results = request.infer(dict(enumerate(arrays)), share_inputs=True)
        self._idle.append(request)
        return list(results.to_tuple())


def _read_signatures(path: Path) -> Signatures:
    """Read the signatures of the graph to serve."""
    file = path / SAVED_MODEL
    if not file.is_file():
        raise NotFound(f"Expected a SavedModel for OpenVINO: there is no {SAVED_MODEL} in {path}")
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError as error:
        raise FailedPrecondition(f"Expected a SavedModel. Received a damaged file: {file}") from error
    for meta_graph in saved_model.meta_graphs:
        if list(meta_graph.meta_info_def.tags) == ["serve"]:
            return copy_signatures(meta_graph)
    raise FailedPrecondition(f"Expected a graph tagged 'serve'. Received none in {file}")


def _check_numbers(signature: meta_graph_pb2.SignatureDef) -> None:
    texts = [alias for alias, info in (*signature.inputs.items(), *signature.outputs.items()) if info.dtype == STRING]
    if texts:
        raise FailedPrecondition(
            f"Expected numbers in signature {DEFAULT_SIGNATURE!r}, which is what OpenVINO computes. Received strings: "
            f"{', '.join(sorted(texts))}. --engine=tensorflow serves them"
        )


def _reason(error: RuntimeError) -> str:
    """Shorten OpenVINO's message: without positions in its source."""
    words = " ".join(_WHERE.sub("", str(error)).split())
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."


def _sizes(shape: "openvino.PartialShape") -> list[int | None]:
    return [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]


def _check_shape(alias: str, expected: "openvino.PartialShape", array: Array) -> None:
    if expected.rank.is_dynamic:
        return
    sizes = _sizes(expected)
    fits = len(sizes) == array.ndim and all(size in {None, own} for size, own in zip(sizes, array.shape, strict=True))
    if not fits:
        shown = ",".join("?" if size is None else str(size) for size in sizes)
        raise InvalidArgument(f"input {alias} must be [{shown}]: [{','.join(map(str, array.shape))}]")


def _nothing(port: "Port") -> Array:
    """Answer an empty batch, which OpenVINO's pooling refuses."""
    return np.empty([0 if size is None else size for size in _sizes(port.partial_shape)], port.element_type.to_dtype())
