"""What a request asks for, and the tensors that answer it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.requests import CacheUse, Embedded, EmbedRequest
from service.core.vectors import Dtype, shaped, written
from service.errors import BadRequest
from service.inference_protocol.tensors import Tensor

EMBEDDING = "embedding"
"""As an output's name: the default output, unless the model has one of this name."""

DATATYPES: Mapping[str, Dtype] = {"FP32": "float32", "FP16": "float16", "INT8": "int8"}
PARAMETERS = ("normalize", "dimensions", "datatype", "cache")
"""What may be said among the parameters of a request, each of them ours."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One request.

    Attributes:
        request: for the core.
        names: of output tensors as asked for, each with the model's output that it stands for (empty: the default).
    """

    request: EmbedRequest
    names: tuple[tuple[str, str], ...]
    normalize: bool
    dimensions: int | None
    datatype: str

    @property
    def int8(self) -> bool:
        """Whether vectors are to be written by calibrated ranges."""
        return self.datatype == "INT8"

    def answers(self, embedded: Embedded) -> list[Tensor]:
        """Write the answer's tensors, in the order asked for."""
        card = embedded.card
        rows: dict[str, list[NDArray[np.float32]]] = {}
        for embedding in embedded.embeddings:
            cut = shaped(embedding.vector, normalize=self.normalize, dimensions=self.dimensions)
            rows.setdefault(embedding.output, []).append(cut)
        tensors = []
        for name, output in self.names or ((card.manifest.default_output, ""),):
            spec = card.outputs[output or card.manifest.default_output]
            matrix = written(np.stack(rows[spec.name]), DATATYPES[self.datatype], spec)
            tensors.append(Tensor(name, self.datatype, matrix.shape, matrix.tobytes()))
        return tensors


def asking(
    model: str, version: str, outputs: Sequence[str], parameters: Mapping[str, object], known: Sequence[str]
) -> Asking:
    """Read what a request asks for.

    Args:
        model: its name, as in the path.
        version: likewise; empty for the one in use.
        outputs: names of the tensors asked for; none asks for the default output.
        parameters: of the request, ours only.
        known: names of the model's outputs in use, to tell whether `embedding` is one of them.

    Raises:
        BadRequest: something that there is not.
    """
    names = tuple((name, "" if name == EMBEDDING and name not in known else name) for name in dict.fromkeys(outputs))
    asked = [name for _, name in names]
    # The default output is asked for by leaving names out; beside others it has to be named.
    if "" in asked and len(asked) > 1:
        raise BadRequest(f"Expected `{EMBEDDING}` alone or the names of outputs: {', '.join(known)}.")
    datatype = parameters.get("datatype", "FP32")
    if datatype not in DATATYPES:
        raise BadRequest(f"Expected `datatype` to be one of {', '.join(DATATYPES)}; received {str(datatype)[:40]!r}.")
    return Asking(
        EmbedRequest(
            model,
            version_number(version),
            tuple(name for name in asked if name),
            _cache(parameters.get("cache", "use")),
        ),
        names,
        _flag("normalize", parameters.get("normalize", False)),
        _dimensions(parameters.get("dimensions")),
        str(datatype),
    )


def version_number(version: str) -> int | None:
    """Read a version as the protocol writes it, empty for the one in use.

    Raises:
        BadRequest: it is no number from 1 up.
    """
    if not version:
        return None
    if not (version.isascii() and version.isdecimal() and 0 < int(version[:20]) < 2**63):
        raise BadRequest(f"Expected a version's number, from 1 up; received {version[:40]!r}.")
    return int(version)


def _cache(value: object) -> CacheUse:
    if value == "use" or value == "refresh" or value == "bypass":  # noqa: PLR1714, a type checker understands this
        return value
    raise BadRequest(f"Expected `cache` to be use, refresh or bypass; received {str(value)[:40]!r}.")


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"Expected `{name}` to be true or false; received {str(value)[:40]!r}.")
    return value


def _dimensions(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise BadRequest(f"Expected `dimensions` to be a whole number from 1 up; received {str(value)[:40]!r}.")
    return value
