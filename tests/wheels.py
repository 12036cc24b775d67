"""Build both wheels as the images do, and make environments that have a wheel and what it declares, no more."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.exported_models import REPOSITORY

OURS = {"microtome", "microtome-server"}


def build_wheels(directory: Path) -> tuple[Path, Path]:
    """Build the wheels `microtome` and `microtome-server` as the Dockerfile does, from what it copies and no more."""
    copy, made = directory / "sources", directory / "wheels"
    stage = (
        (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").split("FROM builder AS wheels\n")[1].split("\nFROM ")[0]
    )
    for sources, target in re.findall(r"^COPY (.+) ([^/\s]\S*)$", stage, re.MULTILINE):
        for source in map(Path, sources.split()):
            if (REPOSITORY / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(REPOSITORY / source, copy / target, symlinks=True, ignore=ignored)
            else:
                (copy / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / source, copy / target)
    (words,) = re.findall(r"python -m pip wheel (.*) --wheel-dir /wheels (.*)$", stage, re.MULTILINE)
    options = [*words[0].split(), "--quiet", f"--wheel-dir={made}", *words[1].split()]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options], cwd=copy, check=True)
    (client,), (server,) = made.glob("microtome-*.whl"), made.glob("microtome_server-*.whl")
    return client, server


def environment(directory: Path, *wheels: Path) -> Path:
    """Make a virtual environment with wheels and what they declare, linked from this one, and return its `bin`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", f"--python={directory / 'bin' / 'python'}", "install"]
    subprocess.run([*pip, *options, *wheels], check=True)
    (packages,) = directory.glob("lib/python3.*/site-packages")
    found: dict[str, Distribution] = {}
    for metadata in packages.glob("*.dist-info"):
        _collect(Distribution.at(metadata).requires or [], "", found)
    for one in found.values():
        _link(one, packages)
    return directory / "bin"


def _collect(requirements: Iterable[str], extra: str, found: dict[str, Distribution]) -> None:
    """Find what requirements ask for, and what that asks for."""
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or name in OURS:
            continue
        new = name not in found
        found.setdefault(name, _installed(name))
        for wanted in {*(requirement.extras), *([""] if new else [])}:
            _collect(found[name].requires or [], wanted, found)


def _installed(name: str) -> Distribution:
    """Find a package; the locks have tensorflow-cpu in place of tensorflow where it exists."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return distribution({"tensorflow": "tensorflow-cpu"}.get(name, name))


def _link(one: Distribution, packages: Path) -> None:
    for file in one.files or []:
        if ".." in file.parts:
            continue
        place = packages / file
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(str(file.locate()), place)
        except FileExistsError:
            continue
        except OSError:
            # Another file system, or a file that is named and was never there.
            if Path(str(file.locate())).exists():
                place.symlink_to(str(file.locate()))
