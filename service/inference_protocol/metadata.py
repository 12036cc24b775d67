"""What the protocol tells of server and models."""

from dataclasses import dataclass

from microtome.manifest import ModelCard
from service.inference_protocol.tensors import IMAGE

NAME = "microtome"
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


PLATFORM = "microtome_tensorflow"
INPUTS = (TensorMetadata(IMAGE, "BYTES", (-1,)),)


def outputs_of(card: ModelCard) -> tuple[TensorMetadata, ...]:
    """Describe the outputs of a model, the default one first, since some clients take the first."""
    default = card.manifest.default_output
    ordered = sorted(card.manifest.outputs, key=lambda output: output.name != default)
    return tuple(TensorMetadata(output.name, "FP32", (-1, output.dim)) for output in ordered)
