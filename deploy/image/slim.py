"""Remove unused files from packages, the gateway's and those of a model server on a CPU: `slim.py SITE_PACKAGES`.

A pattern that matches nothing is an error, so that the list stays current when packages change. Metadata and licences
of packages stay. (RECORD then names missing files, which matters only to an installer.)
"""

import shutil
import subprocess
import sys
from pathlib import Path

REMOVED = (
    # Packages' own tests, and modules used only by them.
    "*/**/tests",
    "numpy/_core/_simd.*.so",
    "numpy/_core/*_tests.*.so",
    # Imported on first use, which is never here.
    "numpy/fft",
    "numpy/polynomial",
    "numpy/random",
    # Compiling against numpy or with it.
    "numpy/f2py",
    *(["numpy/distutils"] if sys.version_info < (3, 12) else []),
    "numpy/_core/include",
    "numpy/_core/lib",
    # Fonts, and libraries used only by them: no text is drawn.
    "PIL/_imagingft.*.so",
    "pillow.libs/libfreetype-*",
    "pillow.libs/libharfbuzz-*",
    "pillow.libs/libbrotli*",
    "pillow.libs/libpng16-*",
    # Documentation is shown by Swagger UI only.
    "fastapi_offline/static/redoc.*",
    # Google's own services; of this package only google.rpc is used.
    "google/api",
    "google/cloud",
    "google/gapic",
    "google/logging",
    "google/longrunning",
    "google/type",
    # Sources of compiled modules, and types.
    "**/*.proto",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.[ch]",
    "**/*.a",
)
"""Patterns of `Path.glob`."""

OPENVINO = (
    # It computes on the processor, and reads SavedModels.
    "openvino/libs/libopenvino_intel_[gn]pu_*.so*",
    "openvino/libs/libopenvino_auto*.so",
    "openvino/libs/libopenvino_hetero_plugin.so",
    "openvino/libs/libopenvino_c.so*",
    *(f"openvino/libs/libopenvino_{name}_frontend.so*" for name in ("gguf", "ir", "jax", "onnx", "paddle", "pytorch")),
    "openvino/libs/libopenvino_tensorflow_lite_frontend.so*",
    "openvino/libs/cache.json",
    "openvino/include",
    "openvino/cmake",
    "openvino/torch",
    # What would tell its vendor of each start.
    "openvino_telemetry",
)
"""The same, of the packages that only the model server has."""

STRIPPED = (
    "PIL/*.so",
    "google/_upb/*.so",
    "hiredis/*.so",
    "httptools/parser/*.so",
    "numpy/_core/*.so",
    "uvloop/*.so",
)
"""Compiled modules that contain symbols. Not `*.libs` such as OpenBLAS: auditwheel has moved sections within
them, and after strip they cannot be loaded ("not page-aligned")."""


def found(packages: Path, pattern: str) -> list[Path]:
    """Return the matches of a pattern.

    Raises:
        LookupError: There are none.
    """
    paths = sorted(packages.glob(pattern))
    if not paths:
        raise LookupError(
            f"Expected something like {pattern} in {packages}; nothing is. If packages changed, take it off the list."
        )
    return paths


def remove(packages: Path) -> None:
    """Delete unused files."""
    # All matches first, since a match may be inside of another one.
    patterns = [*REMOVED, *OPENVINO] if (packages / "openvino").exists() else REMOVED
    for path in [path for pattern in patterns for path in found(packages, pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(packages: Path) -> None:
    """Remove the symbols of compiled modules."""
    files = [str(path) for pattern in STRIPPED for path in found(packages, pattern)]
    subprocess.run(["strip", "--strip-unneeded", *files], check=True)  # noqa: S603, S607 - binutils


def main(argv: list[str]) -> int:
    """Slim the named directory and return the exit code."""
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
