"""The options of one call: those of POST /embed that make sense from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

Dtype = Literal["float32", "float16", "int8", "binary"]
"""How numbers are sent and returned: NumPy's float32, float16, int8, or uint8 with eight signs in each."""

NUMPY: Mapping[str, str] = {"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}
"""NumPy's name of each dtype."""

OutputNames = list[str] | tuple[str, ...]
"""Names of outputs; `["all"]` for every one."""

CacheUse = Literal["use", "refresh", "bypass", "private"]
Priority = Literal["interactive", "bulk"]


Function = Literal["softmax", "sigmoid", "none"]
"""From logits to scores; `none` returns the logits."""


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """Which labels to return.

    Attributes:
        top_k: the most labels of an image and output.
        min_score: leave out labels with a lower score; None leaves out none.
        function: from logits to scores; None for the output's own.
        labels: of a model of images and text: what to choose among, in words; () for the model's own classes.
        template: each label stands for `{}` in it; of several the vectors are averaged. () for the server's.
    """

    top_k: int = 5
    min_score: float | None = None
    function: Function | None = None
    labels: tuple[str, ...] = ()
    template: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Which vectors to return.

    Attributes:
        model: which model; None for the server's first.
        version: which version of it; None for the one in use.
        output: which outputs; () for the default output, ("all",) for every one.
        normalize: divide each vector by its Euclidean length, after the cut.
        dimensions: keep only so many numbers from the vector's beginning; None keeps all.
        dtype: how numbers are sent and returned. `int8` needs a model with calibrated ranges; `binary` packs signs,
            eight to a byte, most significant bit first.
        cache: `refresh` recomputes and stores, `bypass` recomputes and does not store, `private` uses vectors that
            requests of the same API key's owner have computed, and no others.
        priority: `bulk` lets interactive requests of all callers go first.
        classes: which labels to return of outputs with classes; None returns their logits, as vectors.
    """

    model: str | None = None
    version: int | None = None
    output: tuple[str, ...] = ()
    normalize: bool = False
    dimensions: int | None = None
    dtype: Dtype = "float32"
    cache: CacheUse = "use"
    priority: Priority = "interactive"
    classes: ClassOptions | None = None


class CallOptions(TypedDict, total=False):
    """Keyword arguments of a client's methods; `EmbedOptions` says what each means."""

    model: str | None
    version: int | None
    normalize: bool
    dimensions: int | None
    dtype: Dtype
    cache: CacheUse
    priority: Priority


class ClassifyOptions(TypedDict, total=False):
    """Keyword arguments of `classify`; `EmbedOptions` and `ClassOptions` say what each means."""

    model: str | None
    version: int | None
    cache: CacheUse
    priority: Priority
    top_k: int
    min_score: float | None
    function: Function | None
    labels: Sequence[str]
    template: str | Sequence[str]


def class_options(given: ClassifyOptions, output: tuple[str, ...]) -> EmbedOptions:
    """Return the options of a request for labels.

    Raises:
        ValueError: `labels` is no list.
    """
    if isinstance(given.get("labels"), str):
        raise ValueError("Expected `labels` to be a list of texts, received one text.")  # noqa: TRY004, as of all options
    labels = ClassOptions(
        given.get("top_k", 5),
        given.get("min_score"),
        given.get("function"),
        tuple(given.get("labels", ())),
        outputs(given.get("template")),
    )
    return EmbedOptions(
        given.get("model"),
        given.get("version"),
        output,
        cache=given.get("cache", "use"),
        priority=given.get("priority", "interactive"),
        classes=labels,
    )


def outputs(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Normalise what a caller may write for `output`, one or several."""
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)
