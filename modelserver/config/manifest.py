"""Read a version's manifest, ``assets.extra/manifest.json``; only the exporter's SavedModels have one."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from microtome.golden import GoldenCheck

log = logging.getLogger(__name__)

MANIFEST = Path("assets.extra", "manifest.json")


def max_batch_size(version_dir: Path) -> int | None:
    """Read ``max_batch_size`` from a version's manifest; None when there is no manifest, or no such entry."""
    size = _read(version_dir).get("max_batch_size")
    return size if isinstance(size, int) and size > 0 else None


def most_flops(version_dir: Path) -> float | None:
    """Read the operations for one image of the most expensive output; None unless every output states them."""
    with suppress(KeyError, TypeError, ValueError):
        return max(float(output["flops"]) for output in _read(version_dir)["outputs"])
    return None


def precision(version_dir: Path) -> str:
    """Read the precision that a version was exported in; float32 where no manifest says."""
    with suppress(KeyError, TypeError):
        return str(_read(version_dir)["precision"]["compute"])
    return "float32"


def golden_check(version_dir: Path) -> GoldenCheck | None:
    """Read the golden vectors of a version; None when there is no manifest, or one of version 1.

    Raises:
        ValueError: The manifest has some, but not as it should.
    """
    return GoldenCheck.read(_read(version_dir))


def _read(version_dir: Path) -> Mapping[str, Any]:
    try:
        manifest = json.loads((version_dir / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("The manifest of %s is unreadable, the defaults apply: %s", version_dir, error)
        return {}
    return manifest if isinstance(manifest, dict) else {}
