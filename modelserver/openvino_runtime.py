"""OpenVINO itself: whether it is there, imported without telling its makers, and how it is to compute."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from modelserver.errors import FailedPrecondition
from modelserver.threads_within import cores

_ABSENT = (
    "--engine=openvino needs the package openvino, which is not installed here. "
    "Install it (pip install openvino), or leave --engine=tensorflow"
)
_TELEMETRY = "openvino_telemetry"


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """How OpenVINO computes on the CPU.

    Attributes:
        threads: Threads altogether; 0 for as many as there are cores.
        streams: Batches that are computed side by side, each with its share of the threads. Two, since a batch that has
            all threads waits for the slowest of them after every operation.
        mixed_precision: ``bfloat16``, or empty for float32.
    """

    threads: int = 0
    streams: int = 2
    mixed_precision: str = ""

    @property
    def threads_of_a_stream(self) -> int:
        """How many threads compute one batch."""
        return max(1, (self.threads or cores()) // self.streams)

    def properties(self) -> Mapping[str, object]:
        """Return what the CPU plugin is told.

        The precision is said in any case: left to itself, OpenVINO computes in bfloat16 wherever the processor can.
        Threads are not pinned to cores, because the gateway decodes images on the same ones.

        https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
        """
        return {
            "INFERENCE_PRECISION_HINT": "bf16" if self.mixed_precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,
        }


def import_openvino() -> ModuleType:
    """Import OpenVINO.

    Its import sends an event to its makers, unless their package for doing so cannot be imported; so it cannot be.

    Raises:
        FailedPrecondition: It is not installed, or does not run here.
    """
    if find_spec("openvino") is None:
        raise FailedPrecondition(_ABSENT)
    if _TELEMETRY not in sys.modules:
        # What import finds as None, it takes for missing.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise FailedPrecondition(f"openvino is installed, but cannot be imported: {error}") from error
