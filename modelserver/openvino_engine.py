"""Executes ``serving_default`` with OpenVINO, and every other signature with the engine beside it.

The SavedModel is the very same. OpenVINO computes what embeddings come from; text, as ``manifest`` answers it, and
whatever other small signature there is, belongs to TensorFlow, which the process has loaded for its messages anyway.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from modelserver.engine import Engine, LoadedModel
from modelserver.errors import FailedPrecondition
from modelserver.openvino_network import OpenVinoNetwork
from modelserver.openvino_remainder import part
from modelserver.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.saved_model_file import BINARY
from modelserver.signatures import DEFAULT_SIGNATURE, Signature, read_signature
from modelserver.tensor_decoding import Array

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

LONGEST_REASON = 500
STRING = 7
"""TensorFlow's number of the element type."""

_WHERE = re.compile(r"^(Exception from |Check '.*' failed at ).*$", re.MULTILINE)


class OpenVinoEngine:
    """Loads SavedModels into OpenVINO.

    Args:
        settings: How to compute.
        beside: What executes the signatures that OpenVINO does not.

    Raises:
        FailedPrecondition: OpenVINO is not installed.
    """

    def __init__(self, settings: OpenVinoSettings, beside: Engine) -> None:
        self._openvino = import_openvino()
        self._core = self._openvino.Core()
        self._properties = settings.properties()
        self._threads = settings.threads_of_a_stream
        self._beside = beside
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if settings.mixed_precision == "bfloat16" and "BF16" not in able:
            log.warning("This processor has no bfloat16 arithmetic: it is emulated, and much slower than float32")

    def threads(self, path: Path) -> int:  # noqa: ARG002, whatever it is
        """Those of a stream; see ``Engine.threads``."""
        return self._threads

    def load(self, path: Path) -> "OpenVinoModel":
        """Read the SavedModel in ``path``; see ``Engine.load``.

        Raises:
            NotFound: There is no SavedModel.
            FailedPrecondition: It has no ``serving_default``, or one that OpenVINO cannot read.
        """
        parted = part(path)
        signatures = {key: read_signature(key, definition) for key, definition in parted.signature_defs.items()}
        _check_numbers(signatures[DEFAULT_SIGNATURE])
        try:
            model = self._core.read_model(str(path))
            network = OpenVinoNetwork(model, signatures[DEFAULT_SIGNATURE], self._compile)
        except RuntimeError as error:
            raise FailedPrecondition(f"OpenVINO cannot read this model: {_reason(error)}") from error
        beside = self._load_beside(parted.remainder) if parted.remainder else None
        return OpenVinoModel(network, beside, signatures, parted.signature_defs)

    def _compile(self, outputs: Sequence["openvino.Output"], inputs: Sequence["openvino.Output"]) -> Any:  # noqa: ANN401
        """Compile what leads from the inputs to the outputs, without what no output needs."""
        part_of_it = self._openvino.Model(list(outputs), [port.get_node() for port in inputs])
        return self._core.compile_model(part_of_it, "CPU", self._properties)

    def _load_beside(self, remainder: bytes) -> LoadedModel:
        with TemporaryDirectory(prefix="modelserver-") as directory:
            (Path(directory) / BINARY).write_bytes(remainder)
            return self._beside.load(Path(directory))


class OpenVinoModel:
    """One SavedModel in two runtimes."""

    def __init__(
        self,
        network: OpenVinoNetwork,
        beside: LoadedModel | None,
        signatures: Mapping[str, Signature],
        signature_defs: Mapping[str, Any],
    ) -> None:
        self.signatures = signatures
        self.signature_defs = signature_defs
        self._network = network
        self._beside = beside

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute the fetched tensors; see ``LoadedModel.run``."""
        if self._beside is None or self._network.computes(feeds, fetches):
            return self._network.run(feeds, fetches)
        return self._beside.run(feeds, fetches)

    def close(self) -> None:
        """Free the memory; see ``LoadedModel.close``."""
        self._network.close()
        if self._beside is not None:
            self._beside.close()


def _check_numbers(signature: Signature) -> None:
    texts = [alias for alias, info in (*signature.inputs.items(), *signature.outputs.items()) if info.dtype == STRING]
    if texts:
        raise FailedPrecondition(
            f"Expected numbers in signature {signature.key!r}, which is what OpenVINO computes. Received strings: "
            f"{', '.join(sorted(texts))}. --engine=tensorflow serves them"
        )


def _reason(error: RuntimeError) -> str:
    """Shorten what OpenVINO says: without the places in its own source."""
    words = " ".join(_WHERE.sub("", str(error)).split())
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."
