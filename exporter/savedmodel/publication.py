"""Publish versions so that a model server watching the directory never sees half of one.

A version is drafted in a hidden sibling, `<models>/<name>/.tmp-…`, flushed to the disk, verified, and renamed to the
next free number. A run that dies leaves at most its draft, which is hidden; the next run takes it away.
"""

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exporter.errors import CannotPublish
from exporter.recipe.resolved import ModelRecipe
from exporter.savedmodel.drafts import draft_directory, flush, flush_entries

ASSETS = "assets.extra"
MANIFEST_FILE = "manifest.json"
RECIPE_FILE = "recipe.json"
_DRAFT_PREFIX = ".tmp-"


def published_version(models: Path, recipe: ModelRecipe) -> int | None:
    """Return the newest version of a model, or the one asked for, if it was made from this very recipe, else None.

    Needs neither TensorFlow nor Keras.
    """
    try:
        newest = recipe.version or max(_versions(models / recipe.name), default=None)
        if newest is None:
            return None
        entry = (models / recipe.name / str(newest) / ASSETS / RECIPE_FILE).read_text(encoding="utf-8")
        return newest if json.loads(entry) == json.loads(recipe.canonical()) else None
    except (OSError, ValueError):  # not ours, or written before recipes were kept, or not to be read
        return None


def want_free_version(models: Path, recipe: ModelRecipe) -> None:
    """Refuse a version number that is taken before any work is done for it.

    Raises:
        CannotPublish: The recipe asks for a version that is there already.
    """
    if recipe.version is not None and recipe.version in _versions(models / recipe.name):
        raise _taken(models / recipe.name / str(recipe.version))


class Draft:
    """A version that is not published yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def publish(self, version: int | None = None) -> Path:
        """Flush the draft to the disk and give it a number; return where it is now.

        Two runs may want the same number: the rename fails for the later one, which takes the next.

        Args:
            version: The number; None for the next free one.

        Raises:
            CannotPublish: That number is taken.
        """
        flush(self.directory)
        parent = self.directory.parent
        while True:
            target = parent / str(version or max(_versions(parent), default=0) + 1)
            try:
                self.directory.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if version is not None:
                    raise _taken(target) from error
                continue
            flush_entries(parent)
            return target


@contextlib.contextmanager
def draft_version(models: Path, name: str) -> Iterator[Draft]:
    """Open a draft of a model's next version; what is not published by the end is removed.

    Raises:
        CannotPublish: The models directory cannot be written.
    """
    try:
        with draft_directory(models / name, _DRAFT_PREFIX) as directory:
            yield Draft(directory)
    except OSError as error:
        raise CannotPublish(
            f"Expected to write a version of {name} under {models}. Received: {error.strerror or error}. "
            "Make room or give another --out."
        ) from error


def _taken(target: Path) -> CannotPublish:
    return CannotPublish(
        f"Expected a version number that is free. Received: {target.name}, but {target} is there already. Versions "
        "never change: leave version: out of the recipe for the next free number, or say another."
    )


def models_with_versions(models: Path) -> list[str]:
    """Return the names of the models in a directory that have a version, sorted."""
    return sorted(entry.name for entry in models.iterdir() if not entry.name.startswith(".") and _versions(entry))


def served_entry(name: str, base_path: str, pinned: Sequence[int] = (), labels: Mapping[str, int] | None = None) -> str:
    """Return a model's entry in TensorFlow Serving's `models.config`.

    Without `pinned` the two newest versions stay loaded, as deploy/README.md states with its memory: the old one serves
    on while servers find the new one at different times, and when the new one deviates from its golden vectors.

    Args:
        name: The model's name.
        base_path: The directory of its versions on the model server.
        pinned: The versions that are loaded instead of the newest.
        labels: Versions by label.
    """
    policy = f"specific {{ {' '.join(f'versions: {version}' for version in pinned)} }}"
    return (
        "  config {\n"
        f"    name: {json.dumps(name)}\n"
        f"    base_path: {json.dumps(base_path)}\n"
        '    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ {policy if pinned else 'latest { num_versions: 2 }'} }}\n"
        + "".join(
            f"    version_labels {{ key: {json.dumps(label)} value: {version} }}\n"
            for label, version in (labels or {}).items()
        )
        + "  }\n"
    )


def _versions(directory: Path) -> list[int]:
    """Return the numbers that a model server would take for versions."""
    if not directory.is_dir():
        return []
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isascii() and entry.name.isdigit()]
