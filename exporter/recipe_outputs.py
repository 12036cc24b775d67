"""Read the `outputs` of a recipe's model."""

from __future__ import annotations

from exporter.errors import nearest
from exporter.located import Located
from exporter.pooling_names import SPELLINGS, PoolingName
from exporter.recipe import NORMALIZATIONS, QUANTIZATIONS, OutputRecipe, Projection
from exporter.strictness import Checker, shown

KEYS = ("name", "layer", "layers", "pooling", "projection", "normalize", "quantization")
PROJECTION_KEYS = ("pca", "whiten", "random", "seed")
_BETWEEN = (
    "A model that is served begins with an image; what lies between two layers is saved by microtome split BACKBONE "
    "--from LAYER --to LAYER."
)
_INSTEAD = {
    "from": _BETWEEN,
    "to": _BETWEEN,
    "dtype": "Vectors leave the model server as float32; the gateway answers in float16, int8 or bits where its caller "
    "says encoding.",
}


def read_outputs(check: Checker, at: Located | None) -> tuple[OutputRecipe, ...]:
    """Read the list of outputs, whose names must differ."""
    items = check.items(at)
    outputs = tuple(_output(check, item) for item in items)
    check.refuse_twins(items, [output.name for output in outputs])
    return outputs


def _output(check: Checker, at: Located) -> OutputRecipe:
    found = check.mapping(at, required=("name",), optional=KEYS[1:], instead=_INSTEAD)
    layers = _layers(check, at, found)
    pooling = _pooling(check, found.get("pooling"))
    if len(layers) > 1 and pooling == "none":
        check.note(found["pooling"], "expected a pooling that makes vectors, to append several layers. Received: none.")
    return OutputRecipe(
        name=check.name(found.get("name")),
        layer=layers[0],
        pooling=pooling,
        more_layers=layers[1:],
        projection=_projection(check, found.get("projection"), pooling),
        normalize=check.choice(found.get("normalize"), NORMALIZATIONS, "none"),
        quantization=check.choice(found.get("quantization"), QUANTIZATIONS, "none"),
    )


def _layers(check: Checker, at: Located, found: dict[str, Located]) -> tuple[str, ...]:
    if isinstance(at.value, dict) and ("layer" in found) == ("layers" in found):
        received = "both" if "layer" in found else f"only {', '.join(found) or 'nothing'}"
        check.note(at, f"expected the key layer, or layers for several. Received: {received}.")
    if "layer" in found:
        return (check.layer(found["layer"]),)
    items = check.items(found.get("layers"))
    return tuple(check.layer(item) for item in items) or ("",)


def _pooling(check: Checker, at: Located | None) -> str:
    if at is None:
        return "avg"
    try:
        return str(PoolingName.parse(str(at.value) if not isinstance(at.value, dict | list) else ""))
    except ValueError:
        text = str(at.value)
        if text.startswith("spp(") and ")" not in text:  # YAML takes a comma within braces for its own
            check.note(at, f'expected quotes around a pooling with commas, as in pooling: "spp(1,2)". Received: {text}')
            return "avg"
        received = f"{shown(at)}. {nearest(str(at.value), [name.partition('(')[0] for name in SPELLINGS])}"
        check.note(at, f"expected one of {', '.join(SPELLINGS)}. Received: {received}")
        return "avg"


def _projection(check: Checker, at: Located | None, pooling: str) -> Projection | None:
    """Read `{pca: 128, whiten: true}` or `{random: 128, seed: 7}`."""
    if at is None:
        return None
    found = check.mapping(at, required=(), optional=PROJECTION_KEYS)
    if not isinstance(at.value, dict):
        return None
    kinds = [kind for kind in ("pca", "random") if kind in found]
    if len(kinds) != 1:
        check.note(at, f"expected pca: D or random: D. Received: {' and '.join(kinds) or 'neither'}.")
        return None
    (kind,) = kinds
    stray = {"pca": "seed", "random": "whiten"}[kind]
    if stray in found:
        check.note(found[stray], f"expected no {stray} with {kind}. Received: it.")
    if pooling == "none":
        check.note(at, "expected a pooling that makes a vector, to project it. Received: pooling: none; say flatten.")
    return Projection(
        kind,
        check.integer(found[kind], 1),
        whiten="whiten" in found and check.boolean(found["whiten"], False),
        seed=check.integer(found.get("seed"), 0, least=0),
    )
