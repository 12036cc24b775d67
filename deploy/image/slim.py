"""Take out of the gateway's packages what it never uses: `slim.py SITE_PACKAGES`.

Every pattern must find something. One that does not is an error, so that the list stays true when packages change.
Nothing of a package's metadata goes, nor its licence. (RECORD then names files that are gone, which only an installer
would mind.)
"""

import shutil
import subprocess
import sys
from pathlib import Path

REMOVED = (
    # Packages' own tests, and modules that are there for them alone.
    "*/**/tests",
    "numpy/_core/_simd.*.so",
    "numpy/_core/*_tests.*.so",
    # Compiling against numpy or with it.
    "numpy/f2py",
    *(["numpy/distutils"] if sys.version_info < (3, 12) else []),
    "numpy/_core/include",
    "numpy/_core/lib",
    # Fonts: pictures are read here, nothing is written on them. The libraries are those that only fonts need.
    "PIL/_imagingft.*.so",
    "pillow.libs/libfreetype-*",
    "pillow.libs/libharfbuzz-*",
    "pillow.libs/libbrotli*",
    "pillow.libs/libpng16-*",
    # Documentation is shown by Swagger UI alone.
    "fastapi_offline/static/redoc.*",
    # Google's own services; of this package only google.rpc is used.
    "google/api",
    "google/cloud",
    "google/gapic",
    "google/logging",
    "google/longrunning",
    "google/type",
    # Sources of what is compiled already, and types.
    "**/*.proto",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.[ch]",
    "**/*.a",
)
"""Patterns of `Path.glob`."""

STRIPPED = (
    "PIL/*.so",
    "google/_upb/*.so",
    "hiredis/*.so",
    "httptools/parser/*.so",
    "numpy/_core/*.so",
    "uvloop/*.so",
)
"""Compiled modules that come with their symbols. No `*.libs`, OpenBLAS above all: auditwheel has moved sections within
them, and what strip makes of that cannot be loaded ("not page-aligned")."""


def found(packages: Path, pattern: str) -> list[Path]:
    """Return what a pattern finds.

    Raises:
        LookupError: Nothing.
    """
    paths = sorted(packages.glob(pattern))
    if not paths:
        raise LookupError(
            f"Expected something like {pattern} in {packages}; nothing is. If packages changed, take it off the list."
        )
    return paths


def remove(packages: Path) -> None:
    """Delete what is not used."""
    # Looked for before anything goes, since a pattern may find what lies in something that another one removes.
    for path in [path for pattern in REMOVED for path in found(packages, pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(packages: Path) -> None:
    """Take the symbols out of compiled modules."""
    files = [str(path) for pattern in STRIPPED for path in found(packages, pattern)]
    subprocess.run(["strip", "--strip-unneeded", *files], check=True)  # noqa: S603, S607 - binutils


def main(argv: list[str]) -> int:
    """Slim the directory that is named and return the exit code."""
    try:
        (packages,) = argv
        remove(Path(packages))
        strip(Path(packages))
    except (ValueError, LookupError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
