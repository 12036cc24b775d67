"""One signature as OpenVINO computes it: cut to the outputs asked for, each cut compiled when it is first asked for."""

import logging
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from modelserver.errors import Internal, InvalidArgument, ResourceExhausted
from modelserver.signatures import Signature
from modelserver.tensor_decoding import Array

if TYPE_CHECKING:
    import openvino

    Port: TypeAlias = openvino.Output

log = logging.getLogger(__name__)

CUTS_KEPT = 16
"""Every cut has its own copy of the weights it needs: clients must not make them without end."""


class Compiler(Protocol):
    """Compiles a part of a model."""

    def __call__(self, outputs: Sequence["Port"], inputs: Sequence["Port"]) -> "openvino.CompiledModel":
        """Compile what leads from the inputs to the outputs."""


class OpenVinoNetwork:
    """Computes any of a signature's outputs. All methods may be called from any thread.

    Args:
        model: Its inputs and outputs are named as in the signature.
        signature: What the model takes and gives.
        compiler: What compiles its cuts.
    """

    def __init__(self, model: "openvino.Model", signature: Signature, compiler: "Compiler") -> None:
        self._compiler = compiler
        self._inputs = {info.tensor: (alias, model.input(alias)) for alias, info in signature.inputs.items()}
        self._outputs = {info.tensor: model.output(alias) for alias, info in signature.outputs.items()}
        self._cuts: OrderedDict[tuple[str, ...], _Cut] = OrderedDict()
        self._lock = Lock()
        self._compiling = Lock()

    def computes(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> bool:
        """Whether these are tensors of this signature."""
        return feeds.keys() == self._inputs.keys() and self._outputs.keys() >= set(fetches)

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors; see ``LoadedModel.run``.

        Raises:
            InvalidArgument: A shape is not that of the signature. TensorFlow would try it; OpenVINO has compiled it in.
            Internal: OpenVINO failed.
        """
        for tensor, array in feeds.items():
            alias, port = self._inputs[tensor]
            _check_shape(alias, port.partial_shape, array)
        ports = [self._outputs[tensor] for tensor in fetches]
        if any(len(array) == 0 for array in feeds.values() if array.ndim):
            return [_nothing(port) for port in ports]
        try:
            return self._cut(tuple(fetches), ports).run([feeds[tensor] for tensor in self._inputs])
        except MemoryError as error:
            raise ResourceExhausted("OOM when running the model") from error
        except RuntimeError as error:
            log.exception("OpenVINO failed")
            raise Internal("OpenVINO could not run the model; see the log of the model server") from error

    def close(self) -> None:
        """Free the memory."""
        self._cuts.clear()
        self._inputs, self._outputs = {}, {}

    def _cut(self, fetches: tuple[str, ...], ports: Sequence["Port"]) -> "_Cut":
        """Return what computes these, compiled on first use; others run meanwhile."""
        if (cut := self._kept(fetches)) is not None:
            return cut
        with self._compiling:
            if (cut := self._kept(fetches)) is not None:
                return cut
            cut = _Cut(self._compiler(ports, [port for _, port in self._inputs.values()]))
            with self._lock:
                self._cuts[fetches] = cut
                if len(self._cuts) > CUTS_KEPT:
                    self._cuts.popitem(last=False)
        return cut

    def _kept(self, fetches: tuple[str, ...]) -> "_Cut | None":
        with self._lock:
            if fetches in self._cuts:
                self._cuts.move_to_end(fetches)
            return self._cuts.get(fetches)


class _Cut:
    """One compiled cut, and the requests that run it: OpenVINO's must not be used by two threads at a time."""

    def __init__(self, compiled: "openvino.CompiledModel") -> None:
        self._compiled = compiled
        self._idle: deque[openvino.InferRequest] = deque()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Compute; releases the interpreter meanwhile."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        # Inputs are read where they are; outputs are copied, since the next run writes where they were.
        results = request.infer(dict(enumerate(arrays)), share_inputs=True)
        self._idle.append(request)
        return list(results.to_tuple())


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
