"""Find the versions of a model on disk."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

LARGEST_VERSION = 2**63 - 1


class MissingBasePath(Exception):
    """A model's directory is missing or unreadable."""


def find_versions(base_path: Path) -> Mapping[int, Path]:
    """List the versions of a model.

    A version exists from the moment its directory appears, so publish with a rename. Names that are no numbers
    (``.tmp-43``) are ignored.

    Args:
        base_path: The model's directory.

    Returns:
        Version directories by number.

    Raises:
        MissingBasePath: The directory is missing or unreadable.
    """
    try:
        with os.scandir(base_path) as entries:
            names = sorted(entry.name for entry in entries if entry.name.isascii() and entry.name.isdigit())
            found: dict[int, Path] = {}
            for name in names:
                version, path = int(name), base_path / name
                if version > LARGEST_VERSION or not path.is_dir():
                    continue
                if version in found:
                    log.warning("%s and %s are the same version; the latter is not served", found[version], path)
                    continue
                found[version] = path
            return found
    except OSError as error:
        raise MissingBasePath(f"{base_path}: {error.strerror}") from error
