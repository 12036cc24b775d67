"""OpenVINO's import, without its telemetry, and how it computes. Does not import TensorFlow."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from microtome.machine import cores
from modelserver.errors import Absent

_ABSENT = (
    "OpenVINO needs the package openvino, which is not installed here. Install it (pip install openvino), or leave "
    "--engine=auto, which takes TensorFlow then"
)
_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """How OpenVINO computes on the CPU.

    Attributes:
        threads: Threads altogether; 0 for as many as there are cores.
        streams: Batches that are computed concurrently, each with its share of the threads. Two, since a batch on all
            threads waits for the slowest of them after every operation.
        mixed_precision: ``bfloat16`` for all models; empty for each in the precision of its export.
    """

    threads: int = 0
    streams: int = 2
    mixed_precision: str = ""

    @property
    def threads_of_a_stream(self) -> int:
        """The number of threads that compute one batch."""
        return max(1, (self.threads or cores()) // self.streams)

    def properties(self, *, bfloat16: bool) -> Mapping[str, object]:
        """Return the properties of the CPU plugin.

        The precision is always set: by default OpenVINO computes in bfloat16 wherever the processor can.
        Threads are not pinned to cores, because the gateway decodes images on the same ones.

        https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
        """
        return {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,
        }


def import_openvino() -> ModuleType:
    """Import OpenVINO.

    Its import sends an event to its vendor unless the telemetry package cannot be imported, so that is prevented.

    Raises:
        Absent: It is not installed, or does not run here.
    """
    if find_spec("openvino") is None:
        raise Absent(_ABSENT)
    if _TELEMETRY not in sys.modules:
        # An entry of None makes the import fail.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise Absent(f"openvino is installed, but cannot be imported: {error}") from error
