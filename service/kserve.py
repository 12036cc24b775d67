"""The Open Inference Protocol, version 2 (KServe, Triton, OpenVINO Model Server), as far as REST and gRPC share it.

Images arrive as a tensor `image`: datatype BYTES and shape [N], each element an encoded image, or datatype UINT8 and
shape [N, H, W, C], pixels: one channel of luminance, three of RGB, or four with opacity. Each output of the model is an
output tensor of its name, FP32 and shape [N, D]; `embedding` names the default output. An output with classes has
their names where a request asks for its `classification`, Triton's extension.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from microtome.errors import BadRequest, ImageTooLarge, TooManyImages
from microtome.manifest import ModelCard, OutputSpec
from microtome.opening import RAW_PIXELS
from service.core.classes import ClassOptions, predicted
from service.core.ports import ModelServer
from service.core.remote_images import Image
from service.core.requests import MOST_OUTPUTS, CacheUse, Embedded, EmbedRequest, Priority
from service.core.vectors import Dtype, shaped, written
from service.errors import shown

NAME = "microtome"
PLATFORM = "microtome_tensorflow"
EXTENSIONS = ("binary_tensor_data", "classification")
EMBEDDING = "embedding"
"""As an output's name: the default output, unless the model has one of this name."""

DATATYPES: Mapping[str, Dtype] = {"FP32": "float32", "FP16": "float16", "INT8": "int8"}
PARAMETERS = ("normalize", "dimensions", "datatype", "cache", "priority")
"""Parameters of a request, each of them ours."""

IMAGE = "image"
_NAMES = (IMAGE, "images")
_LENGTH = struct.Struct("<I")
_LARGEST_VERSION = 2**63 - 1
_LONGEST_VERSION = 40
_MOST_DIMENSIONS = 8
_LARGEST_DIMENSION = 2**31
_EXPECTED = (
    "Expected one input `image`: datatype BYTES and shape [N], each element an encoded image; or UINT8 and "
    "[N, height, width, 1, 3 or 4]"
)


class TensorMetadata(NamedTuple):
    """One input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def shape_of(sizes: Sequence[object], name: str) -> tuple[int, ...]:
    """Check the sizes of a tensor's dimensions, before they are multiplied.

    Raises:
        BadRequest: more dimensions than 8, or a size that is no whole number from 0 to 2^31.
    """
    if len(sizes) > _MOST_DIMENSIONS:
        raise BadRequest(f"{_EXPECTED}. Received {len(sizes)} dimensions of {name[:40]!r}.")
    found = tuple(size for size in sizes if isinstance(size, int) and not isinstance(size, bool))
    if len(found) != len(sizes) or not all(0 <= size <= _LARGEST_DIMENSION for size in found):
        raise BadRequest(f"Expected `shape` of input {name[:40]!r} to be sizes, whole numbers from 0 to 2^31.")
    return found


INPUTS = (TensorMetadata(IMAGE, "BYTES", (-1,)),)


def outputs_of(card: ModelCard) -> tuple[TensorMetadata, ...]:
    """Describe the outputs of a model, the default one first, since some clients take the first."""
    default = card.manifest.default_output
    ordered = sorted(card.manifest.outputs, key=lambda output: output.name != default)
    return tuple(TensorMetadata(output.name, "FP32", (-1, output.dim)) for output in ordered)


Data = bytes | memoryview | Sequence[Image]
"""Of an input: its bytes, or the elements of a BYTES tensor, each as it is or as what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input, of at most 8 dimensions.

    Attributes:
        data: values as little-endian bytes in row-major order, BYTES elements each after its length (uint32).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data


class OutputTensor(NamedTuple):
    """One output: values as little-endian bytes in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request.

    Attributes:
        request: for the core.
        names: of the output tensors, each with the model's output that it stands for (empty: the default).
        classification: by tensor, how many of the best classes are answered in place of numbers.
    """

    request: EmbedRequest
    names: tuple[tuple[str, str], ...]
    normalize: bool
    dimensions: int | None
    datatype: str
    classification: Mapping[str, int] = field(default_factory=dict)

    def answers(self, embedded: Embedded) -> list[OutputTensor]:
        """Write the answer's tensors, in the order of the request."""
        card = embedded.card
        rows: dict[str, list[NDArray[np.float32]]] = {}
        for embedding in embedded.embeddings:
            cut = shaped(embedding.vector, normalize=self.normalize, dimensions=self.dimensions)
            rows.setdefault(embedding.output, []).append(cut)
        tensors = []
        for name, output in self.names or ((card.manifest.default_output, ""),):
            spec = card.outputs[output or card.manifest.default_output]
            if name in self.classification:
                tensors.append(_classification(name, embedded, spec, self.classification[name]))
                continue
            matrix = written(np.stack(rows[spec.name]), DATATYPES[self.datatype], spec)
            tensors.append(OutputTensor(name, self.datatype, matrix.shape, matrix.tobytes()))
        return tensors


def _classification(name: str, embedded: Embedded, output: OutputSpec, count: int) -> OutputTensor:
    """Write Triton's classification: for each image strings of score, index and label.

    Raises:
        BadRequest: the output has no classes.
    """
    if not output.classes:
        raise BadRequest(f"Expected `classification` of an output with classes; received {output.name!r}.")
    most = min(count, output.dim)
    rows = [predicted(e, output, ClassOptions(most)) for e in embedded.embeddings if e.output == output.name]
    words = [f"{label.score:.6f}:{label.index}:{label.label}" for row in rows for label in row.labels]
    return OutputTensor(name, "BYTES", (len(rows), most), b"".join(element(word.encode()) for word in words))


def read_request(  # noqa: PLR0913, PLR0917, all that a request says
    model: str,
    version: str,
    outputs: Sequence[str],
    parameters: Mapping[str, object],
    known: Sequence[str],
    classification: Mapping[str, object],
) -> InferRequest:
    """Read what a request asks for.

    Args:
        model: its name, as in the path.
        version: likewise; empty for the one in use.
        outputs: names of the tensors asked for; none asks for the default output.
        parameters: of the request, ours only.
        known: names of the model's outputs in use, to tell whether `embedding` is one of them.
        classification: by output tensor, Triton's parameter of that name; None where it is left out.

    Raises:
        BadRequest: an unknown output, parameter or value.
    """
    if len(outputs) > MOST_OUTPUTS:
        raise BadRequest(f"Expected at most {MOST_OUTPUTS} outputs, received {len(outputs)}.")
    names = tuple((name, "" if name == EMBEDDING and name not in known else name) for name in dict.fromkeys(outputs))
    asked = [name for _, name in names]
    # The default output is requested by leaving names out; together with others it has to be named.
    if "" in asked and len(asked) > 1:
        raise BadRequest(f"Expected `{EMBEDDING}` alone or the names of outputs: {', '.join(known)}.")
    datatype = parameters.get("datatype", "FP32")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(f"Expected `datatype` to be one of {', '.join(DATATYPES)}; received {shown(datatype)}.")
    return InferRequest(
        EmbedRequest(
            model,
            version_number(version),
            tuple(name for name in asked if name),
            _cache(parameters.get("cache", "use")),
            priority=_priority(parameters.get("priority", "interactive")),
        ),
        names,
        _flag("normalize", parameters.get("normalize", False)),
        _count("dimensions", parameters.get("dimensions")),
        datatype,
        {name: count for name, value in classification.items() if (count := _count("classification", value))},
    )


async def card_of(models: ModelServer, model: str, version: str) -> ModelCard:
    """Return a version of a model, as the protocol names it: empty for the one in use.

    Raises:
        BadRequest: the version is no number from 1 up.
        ServiceError: as `ModelServer` has it.
    """
    number = version_number(version)
    return models.card(model) if number is None else await models.card_of(model, number)


def version_number(version: str) -> int | None:
    """Read a version as the protocol writes it, empty for the one in use.

    Raises:
        BadRequest: it is no number from 1 up.
    """
    if not version:
        return None
    # Without leading zeros, since Python refuses to read thousands of digits.
    digits = version[:_LONGEST_VERSION].lstrip("0") if version.isascii() and version.isdecimal() else ""
    if len(version) > _LONGEST_VERSION or not digits or int(digits) > _LARGEST_VERSION:
        raise BadRequest(f"Expected a version's number, from 1 up; received {version[:40]!r}.")
    return int(digits)


def _cache(value: object) -> CacheUse:
    # A type checker understands this.
    if value == "use" or value == "refresh" or value == "bypass" or value == "private":  # noqa: PLR1714
        return value
    raise BadRequest(f"Expected `cache` to be use, refresh, bypass or private; received {shown(value)}.")


def _priority(value: object) -> Priority:
    if value == "interactive" or value == "bulk":  # noqa: PLR1714, as above
        return value
    raise BadRequest(f"Expected `priority` to be interactive or bulk; received {shown(value)}.")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"Expected `{name}` to be true or false; received {shown(value)}.")
    return value


def _count(name: str, value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise BadRequest(f"Expected `{name}` to be a whole number from 1 up; received {shown(value)}.")
    return value


def one_input(tensors: Sequence[Tensor]) -> Tensor:
    """Return the only input.

    Raises:
        BadRequest: there is none, there are several, or it has another name.
    """
    if len(tensors) != 1 or tensors[0].name not in _NAMES:
        named = ", ".join(repr(tensor.name[:40]) for tensor in tensors[:4]) or "none"
        raise BadRequest(f"{_EXPECTED}. Received: {named}.")
    return tensors[0]


def images_in(tensor: Tensor, *, max_images: int, max_bytes: int) -> list[Image]:
    """Return the images of an input.

    Args:
        tensor: the input.
        max_images: of a request.
        max_bytes: of one image; one that has more is returned as its error.

    Raises:
        BadRequest: another datatype or shape, or data that does not fit them.
        TooManyImages: more than `max_images`.
    """
    count = tensor.shape[0] if tensor.shape else 0
    if count > max_images:
        raise TooManyImages(f"Expected at most {max_images} images a request, received {count}.")
    data = tensor.data
    if tensor.datatype == "BYTES" and count >= 1 and prod(tensor.shape) == count:
        found = _elements(data, count)
    elif tensor.datatype == "UINT8" and _is_pictures(tensor.shape):
        found = _pictures(tensor.shape, data)
    else:
        raise BadRequest(f"{_EXPECTED}. Received {tensor.datatype[:20]} and {list(tensor.shape)}.")
    return [
        image
        if not isinstance(image, bytes) or len(image) <= max_bytes
        else ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(image)}.")
        for image in found
    ]


def _is_pictures(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[3] in RAW_PIXELS and prod(shape) > 0


def _elements(data: Data, count: int) -> Sequence[Image]:
    """Take the elements of a BYTES tensor apart.

    Raises:
        BadRequest: the lengths do not add up, or there are more or fewer.
    """
    if not isinstance(data, bytes | memoryview):
        if len(data) != count:
            raise BadRequest(f"Expected {count} elements, as `shape` says; received {len(data)}.")
        return data
    found: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(data) and len(found) < count:
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        found.append(bytes(data[at : at + length]))
        at += length
    if at != len(data) or len(found) != count:
        raise BadRequest(
            f"Expected {count} elements, each after its length in 4 bytes (little-endian); received {len(data)} bytes "
            "that do not divide so."
        )
    return found


def texts(tensor: OutputTensor) -> list[str]:
    """Return the elements of a BYTES tensor that was written here."""
    return [bytes(found).decode() for found in _elements(tensor.data, prod(tensor.shape)) if isinstance(found, bytes)]


def element(data: bytes) -> bytes:
    """Write one element of a BYTES tensor."""
    return _LENGTH.pack(len(data)) + data


def _pictures(shape: Sequence[int], data: Data) -> Sequence[Image]:
    """Write pixels as Netpbm, the plainest format: the core takes encoded images, and names them by hash.

    The comment in its head makes it one that is read whichever formats are switched on.
    """
    count, height, width, channels = shape
    size = height * width * channels
    if len(data) != count * size or not isinstance(data, bytes | memoryview):
        raise BadRequest(f"Expected {count * size} bytes for shape {list(shape)}, received {len(data)}.")
    head = RAW_PIXELS[channels] + b"%d %d 255\n" % (width, height)
    return [head + bytes(data[number * size : (number + 1) * size]) for number in range(count)]
