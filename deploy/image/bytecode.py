"""Write the bytecode of everything that a program imports under PYTHONPYCACHEPREFIX: `bytecode.py PROGRAM...`.

The image's file system is read-only, so that Python cannot keep bytecode when it runs, and images of Python come
without that of the library: each start, and each health check, would compile it again. Modules that are never imported
get none, which saves megabytes. Validity does not depend on the time of the source, which changes with every build.

Importing everything and decoding every format also shows that no needed file is missing.
"""

import importlib
import io
import pkgutil
import py_compile
import sys
from contextlib import suppress
from pathlib import Path

from PIL import Image

from microtome.opening import FORMATS

LATE = (
    "anyio._backends._asyncio",
    "http.client",  # of the health check
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
"""Modules that others import at run time. A test starts a gateway and checks that the list is complete."""


NEEDS_TENSORFLOW = "modelserver.engines.tensorflow_engine"
"""Left out where there is none."""


def import_everything(programs: list[str]) -> None:
    """Import all modules of the programs, and those that they would import later."""
    for program in programs:
        package = importlib.import_module(program)
        for module in pkgutil.walk_packages(package.__path__, f"{program}."):
            if module.name != NEEDS_TENSORFLOW:
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    if "modelserver" in programs:
        importlib.import_module("modelserver.engines.openvino_runtime").import_openvino()


def decode_every_format() -> None:
    """Write and read a picture in every accepted format, so that Pillow imports the modules of all of them."""
    for name in FORMATS:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8)).save(encoded, name)
        Image.open(io.BytesIO(encoded.getvalue()), formats=[name]).load()
    # Imported when a model first wants it, where there is a wheel of it.
    with suppress(ModuleNotFoundError):
        importlib.import_module("cykooz_resizer")


def sources() -> list[Path]:
    """List the files of imported modules, except this one."""
    files = {getattr(module, "__file__", None) or "" for module in sys.modules.values()} - {__file__}
    return sorted(Path(file) for file in files if file.endswith(".py"))


def main() -> int:
    """Write the bytecode and return the exit code."""
    if sys.pycache_prefix is None:
        sys.stderr.write("Expected PYTHONPYCACHEPREFIX to say where to write bytecode. It is not set.\n")
        return 2
    import_everything(sys.argv[1:])
    decode_every_format()
    for source in sources():
        py_compile.compile(str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
