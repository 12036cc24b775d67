"""The names of classes: ImageNet's, those of a file, and those that a recipe lists.

ImageNet's are in `imagenet.txt`: the 1,000 classes of ILSVRC 2012 in the order of their WordNet ids, which is the order
of every published classifier. The names are torchvision's (BSD-3-Clause), in which no two are the same.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from exporter.recipe.resolved import IMAGENET, OutputRecipe
from microtome.manifest import Label

_FILE = Path(__file__).with_name("imagenet.txt")
_MOST_BYTES = 16 << 20
_LONGEST = 200
"""Letters of a name: a manifest holds all of them."""


def labels_of(output: OutputRecipe) -> tuple[Label, ...]:
    """Return the labels of an output; none of an embedding."""
    if output.labels == IMAGENET:
        return imagenet_labels()
    return output.labels if isinstance(output.labels, tuple) else ()


@cache
def imagenet_labels() -> tuple[Label, ...]:
    """Return the names and WordNet ids of ImageNet's classes."""
    return _lines(_FILE.read_text(encoding="utf-8"))


def read_labels(path: Path) -> tuple[Label, ...]:
    """Read a file of labels.

    Text has a name on each line, and after a tab its id. JSON is a list of names or of `{"name", "id"}`, or Keras'
    class index, `{"0": ["n01440764", "tench"], ...}`.

    Raises:
        ValueError: It cannot be read, or is no such file; says what was expected and received.
    """
    if not path.is_file():
        raise ValueError(f"expected {IMAGENET}, a file or a list. Received: {path}, which is not there.")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"expected a file of at most {_MOST_BYTES >> 20} MiB. Received: {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a text file of labels. Received: {path}: {error}.") from error
    if path.suffix.lower() != ".json":
        return checked_labels(_lines(text))
    try:
        return checked_labels(_of_json(json.loads(text)))
    except (json.JSONDecodeError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'expected a list of names or of {{"name", "id"}}, or Keras\' class index. Received: {path}.'
        ) from error


def checked_labels(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return labels that can be told apart.

    Raises:
        ValueError: There are none, one is empty or too long, or two are the same.
    """
    if not labels:
        raise ValueError("expected at least one label. Received: none.")
    for index, label in enumerate(labels):
        for text in (label.name, label.id):
            if text is not None and not (isinstance(text, str) and text.strip() and len(text) <= _LONGEST):
                raise ValueError(
                    f"expected text of 1 to {_LONGEST} letters. Received: label {index}: {str(text)[:40]!r}."
                )
    (label, times), *_ = Counter(labels).most_common(1)
    if times > 1:
        raise ValueError(f"expected labels that differ, by name or by id. Received: {label.name!r} {times} times.")
    return tuple(labels)


def _lines(text: str) -> tuple[Label, ...]:
    parts = (line.strip().partition("\t") for line in text.splitlines() if line.strip())
    return tuple(Label(name.strip(), id_.strip() or None) for name, _, id_ in parts)


def _of_json(found: object) -> tuple[Label, ...]:
    if isinstance(found, Mapping):
        rows = [found[str(index)] for index in range(len(found))]
        return tuple(Label(name, id_) for id_, name in rows)
    if not isinstance(found, list):
        raise TypeError
    return tuple(Label(entry) if isinstance(entry, str) else Label(entry["name"], entry.get("id")) for entry in found)
