"""Executes ``serving_default`` with OpenVINO, and answers ``manifest`` and ``tokenizer`` from files next to the graph.

OpenVINO reads one signature, and computes no text: a version with others, which the exporter never writes, is refused.
Nothing here needs TensorFlow. The network is cut to the outputs of a request; each cut is compiled on first use and has
its own weights.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from microtome import tokenization
from microtome.protobuf import BYTES, field_prefix, fields
from microtome.tfserving.v1 import serving_pb2 as pb
from modelserver.config.manifest import MANIFEST, precision
from modelserver.engines.cuts import Cuts, Tensors
from modelserver.engines.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound, ResourceExhausted
from modelserver.tensors.codec import STRING, Array
from modelserver.tensors.signatures import DEFAULT_SIGNATURE, Signatures

if TYPE_CHECKING:
    import openvino

    Port: TypeAlias = openvino.Output
    Compile: TypeAlias = Callable[[openvino.Model], openvino.CompiledModel]

log = logging.getLogger(__name__)

CUTS_KEPT = 16

HARDLY_LESS = 0.95
"""The part of all outputs' convolutions and matrix products from which a set of outputs is computed with all others."""

_COSTLY = {"Convolution", "GroupConvolution", "MatMul"}

LONGEST_REASON = 500
MANIFEST_SIGNATURE = "manifest"
SAVED_MODEL = "saved_model.pb"
_GRAPHS = 2
"""The number of ``meta_graphs`` in ``tensorflow.SavedModel``."""

_WHERE = re.compile(r"^(Exception from |Check '.*' failed at ).*$", re.MULTILINE)


class OpenVinoEngine:
    """Loads SavedModels into OpenVINO.

    Args:
        settings: How to compute.

    Raises:
        Absent: OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(self, settings: OpenVinoSettings) -> None:
        self._openvino = import_openvino()
        self._core = self._openvino.Core()
        self._settings = settings
        self._has_bfloat16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if settings.mixed_precision == "bfloat16" and not self._has_bfloat16:
            log.warning("This processor has no bfloat16 arithmetic: it is emulated, and much slower than float32")

    def threads(self, path: Path) -> int:  # noqa: ARG002, equal for all
        """Return the threads of a stream; see ``Engine.threads``."""
        return self._settings.threads_of_a_stream

    def load(self, path: Path) -> "OpenVinoModel":
        """Read the SavedModel in ``path``; see ``Engine.load``.

        Raises:
            NotFound: There is no SavedModel in binary form.
            DataLoss: It is damaged.
            FailedPrecondition: It has no ``serving_default``, one that OpenVINO cannot read, or others beside it.
            ResourceExhausted: There is not enough memory.
        """
        signatures = _read_signatures(path)
        if DEFAULT_SIGNATURE not in signatures:
            raise FailedPrecondition(
                f"Expected a signature {DEFAULT_SIGNATURE!r}, which is what OpenVINO computes. Received: "
                f"{', '.join(sorted(signatures)) or 'none'}. --engine=tensorflow serves any signature"
            )
        answers = _answers(path)
        if others := signatures.keys() - {DEFAULT_SIGNATURE, *answers}:
            raise FailedPrecondition(
                f"OpenVINO computes {DEFAULT_SIGNATURE!r} alone. Received signatures beside it: "
                f"{', '.join(sorted(others))}. --engine=tensorflow serves any signature"
            )
        _check_numbers(signatures[DEFAULT_SIGNATURE])
        try:
            model = self._core.read_model(str(path))
        except MemoryError as error:
            raise ResourceExhausted("OOM when loading the model") from error
        except RuntimeError as error:
            raise FailedPrecondition(f"OpenVINO cannot read this model: {_reason(error)}") from error
        properties = self._settings.properties(bfloat16=self.computes_in_bfloat16(precision(path)))

        def compiled(part: "openvino.Model") -> "openvino.CompiledModel":
            compiled: openvino.CompiledModel = self._core.compile_model(part, "CPU", properties)
            return compiled

        return OpenVinoModel(signatures, model, compiled, answers)

    def computes_in_bfloat16(self, exported: str) -> bool:
        """Whether a version is computed in bfloat16: when the flag says so, or its export did and the processor can.

        Args:
            exported: The precision of the export.
        """
        return self._settings.mixed_precision == "bfloat16" or (exported == "bfloat16" and self._has_bfloat16)


class OpenVinoModel:
    """One SavedModel: its network, and its signatures that answer with what a file has.

    Args:
        signatures: All signatures.
        model: The network; its inputs and outputs are named as in ``serving_default``.
        compiler: Compiles a part of it.
        answers: What the numbers in the queries of other signatures stand for, by signature; one answer alone is that
            to every number.
    """

    def __init__(
        self,
        signatures: Signatures,
        model: "openvino.Model",
        compiler: "Compile",
        answers: Mapping[str, Sequence[bytes]],
    ) -> None:
        self.signatures = signatures
        signature = signatures[DEFAULT_SIGNATURE]
        self._inputs = {info.name: (alias, model.input(alias)) for alias, info in signature.inputs.items()}
        self._outputs = {info.name: model.output(alias) for alias, info in signature.outputs.items()}
        self._model = model
        self._compiler = compiler
        self._all = tuple(sorted(self._outputs))
        self._whole: _Cut | None = None
        self._cuts = Cuts(self._compile, CUTS_KEPT)
        self._answers = {
            info.name: (name, answer)
            for name, answer in answers.items()
            if name in signatures
            for info in signatures[name].inputs.values()
        }

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors; see ``LoadedModel.run``.

        Raises:
            InvalidArgument: A shape is not that of the signature. TensorFlow would try it; OpenVINO has compiled it in.
            Internal: OpenVINO failed.
        """
        if feeds.keys() == self._inputs.keys() and self._outputs.keys() >= set(fetches):
            return self._infer(feeds, fetches)
        for tensor, query in feeds.items() if len(feeds) == 1 else ():
            if tensor in self._answers:
                return [_answered(*self._answers[tensor], query) for _ in fetches]
        raise InvalidArgument(f"No signature computes {', '.join(fetches)} from {', '.join(feeds)}")

    def close(self) -> None:
        """Free the memory; see ``LoadedModel.close``."""
        self._cuts.clear()
        self._inputs, self._outputs = {}, {}
        self._whole = None
        del self._model

    def _infer(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        for tensor, array in feeds.items():
            alias, port = self._inputs[tensor]
            _check_shape(alias, port.partial_shape, array)
        if any(len(array) == 0 for array in feeds.values() if array.ndim):
            return [_nothing(self._outputs[tensor]) for tensor in fetches]
        try:
            cut, places = self._cuts.get(tuple(self._inputs), tuple(fetches))
            arrays = cut.run([feeds[tensor] for tensor in self._inputs])
        except MemoryError as error:
            raise ResourceExhausted("OOM when running the model") from error
        except RuntimeError as error:
            log.exception("OpenVINO failed")
            raise Internal("OpenVINO could not run the model; see the log of the model server") from error
        return [arrays[place] for place in places]

    def _compile(self, _: Tensors, fetches: Tensors) -> "tuple[_Cut, Sequence[int]]":
        """Return what computes some outputs, and where among its answers they are.

        Where that is hardly less than all outputs, these are computed, and no weights are copied for it: the deepest
        output needs nearly all that the others need.
        """
        part = self._part(fetches)
        if _cost(part) < HARDLY_LESS * _cost(self._part(self._all)):
            return _Cut(self._compiler(part)), range(len(fetches))
        if self._whole is None:
            self._whole = _Cut(self._compiler(self._part(self._all)))
        return self._whole, [self._all.index(tensor) for tensor in fetches]

    def _part(self, fetches: Tensors) -> "openvino.Model":
        """Return the part of the network that leads to some outputs."""
        ports = [self._outputs[tensor] for tensor in fetches]
        return type(self._model)(ports, [port.get_node() for _, port in self._inputs.values()])


def _answers(path: Path) -> dict[str, Sequence[bytes]]:
    """Return what signatures beside ``serving_default`` answer, from the files that the exporter writes."""
    found: dict[str, Sequence[bytes]] = {}
    if (path / MANIFEST).is_file():
        found[MANIFEST_SIGNATURE] = [(path / MANIFEST).read_bytes()]
    if (file := (path / MANIFEST).with_name(tokenization.FILE)).is_file():
        found[tokenization.SIGNATURE] = tokenization.parts(file.read_bytes())
    return found


def _answered(name: str, answer: Sequence[bytes], query: Array) -> Array:
    """Answer each number of a query.

    Raises:
        InvalidArgument: The answer has no part of that number, as TensorFlow says it.
    """
    if name == MANIFEST_SIGNATURE:
        return np.full(query.shape, answer[0], object)
    for place, number in np.ndenumerate(query):
        if not 0 <= number < len(answer):
            raise InvalidArgument(f"indices{list(place)} = {number} is not in [0, {len(answer)})")
    return np.array(answer, object)[query]


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


def _cost(part: "openvino.Model") -> int:
    """Count its convolutions and matrix products."""
    return sum(node.get_type_name() in _COSTLY for node in part.get_ops())


def _read_signatures(path: Path) -> Signatures:
    """Read the signatures of the graph to serve; its weights, which are most of the file, stay unread."""
    file = path / SAVED_MODEL
    if not file.is_file():
        raise NotFound(f"Expected a SavedModel for OpenVINO: there is no {SAVED_MODEL} in {path}")
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as raw:
            graphs = [
                _parts(raw, begin, end) for number, _, begin, end in fields(raw, 0, len(raw)) if number == _GRAPHS
            ]
    except (DecodeError, ValueError) as error:
        raise DataLoss(f"Expected a SavedModel. Received a damaged file: {file}") from error
    for graph in graphs:
        if list(graph.meta_info_def.tags) == ["serve"]:
            return dict(graph.signature_def)
    raise FailedPrecondition(f"Expected a graph tagged 'serve'. Received none in {file}")


def _parts(raw: mmap, begin: int, end: int) -> pb.MetaGraphDef:
    """Read what ``MetaGraphDef`` here has of one in a file."""
    known = pb.MetaGraphDef.DESCRIPTOR.fields_by_number
    parts = b"".join(
        field_prefix(number, finish - start) + raw[start:finish]
        for number, form, start, finish in fields(raw, begin, end)
        if form == BYTES and number in known
    )
    return pb.MetaGraphDef.FromString(parts)


def _check_numbers(signature: pb.SignatureDef) -> None:
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
