"""Files by one name, whether local paths or addresses in object stores, such as s3://bucket/photos/cat.jpg.

Addresses are read and written by pyarrow's file systems, or fsspec's for the schemes that pyarrow lacks. They take
credentials, region and endpoint from the environment, as these libraries document: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, or what the machine's role says.
"""

import fnmatch
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from microtome.commands.embed.errors import EmbedError, writing

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_address(name: str) -> bool:
    """Whether a name is an address in a store, and not a local path."""
    return _ADDRESS.match(name) is not None


def joined(folder: str, *names: str) -> str:
    """Return the name of a file in a folder."""
    return "/".join((folder.rstrip("/") or ("" if folder.startswith("/") else folder), *names))


def pyarrow(module: str = "pyarrow.parquet") -> Any:  # noqa: ANN401, pyarrow has no types
    """Import pyarrow.

    Raises:
        EmbedError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EmbedError(
            "Parquet and object stores need pyarrow, which is not installed: pip install pyarrow, or --out vectors.npy "
            "or vectors.jsonl."
        ) from None


def located(address: str) -> tuple[Any, str]:
    """Return pyarrow's file system of an address, and the path there.

    Raises:
        EmbedError: no library knows the scheme, or the store refuses.
    """
    scheme, _, rest = address.partition("://")
    bucket, _, path = rest.partition("/")
    system, start = _system(scheme, bucket)
    return system, f"{start}/{path}".rstrip("/")


@lru_cache(maxsize=256)
def _system(scheme: str, bucket: str) -> tuple[Any, str]:
    fs, errors = pyarrow("pyarrow.fs"), pyarrow("pyarrow").lib
    address = f"{scheme}://{bucket}" if bucket else f"{scheme}:///"
    try:
        system, path = fs.FileSystem.from_uri(address)
        return system, path.rstrip("/")
    except OSError as error:
        raise EmbedError(f"{address} cannot be reached: {error}") from error
    except (errors.ArrowInvalid, errors.ArrowNotImplementedError):
        pass
    try:
        system, path = importlib.import_module("fsspec.core").url_to_fs(address)
    except (ImportError, ValueError, OSError) as error:
        raise EmbedError(
            f"Expected a path, s3:// or gs://. Received {address}, which cannot be read: {error}"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path.rstrip("/")


def opened(address: str) -> Any:  # noqa: ANN401, pyarrow's file
    """Open an object for reading; it has `size()`, `read`, `seek` and `tell`.

    Raises:
        OSError: there is none, or it may not be read.
    """
    system, path = located(address)
    return system.open_input_file(path)


def size(name: str) -> int:
    """Return the bytes of a file or an object, and -1 where there is none; 0 for a folder."""
    if not is_address(name):
        return -1 if not Path(name).exists() else 0 if Path(name).is_dir() else Path(name).stat().st_size
    system, path = located(name)
    found = system.get_file_info(path)
    return -1 if found.type == found.type.NotFound else found.size or 0


def names(folder: str) -> list[tuple[str, bool]]:
    """List what is in a folder, sorted, each with whether it is a folder; nothing where there is none.

    Raises:
        OSError: it cannot be listed.
    """
    if not is_address(folder):
        with os.scandir(folder) as entries:
            # Links to folders are not followed: they may form cycles.
            return sorted((entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries)
    system, path = located(folder)
    selector = pyarrow("pyarrow.fs").FileSelector(path, allow_not_found=True)
    found = system.get_file_info(selector)
    return sorted((joined(folder, one.base_name), one.type == one.type.Directory) for one in found)


def matches(pattern: str) -> list[str]:
    """Return the addresses that a pattern matches, sorted: `*`, `?` and `[…]` in a name, `**` for any folders."""
    parts = pattern.split("/")
    fixed = next(place for place, part in enumerate(parts) if set(part) & set("*?["))
    folder, found = "/".join(parts[:fixed]), list[str]()
    ahead = [folder]
    while ahead:
        for name, is_folder in names(ahead.pop()):
            below = name[len(folder) + 1 :].split("/")
            if is_folder and ("**" in parts or len(below) < len(parts) - fixed):
                ahead.append(name)
            if _fits(below, parts[fixed:]):
                found.append(name)
    return sorted(found)


def _fits(below: Sequence[str], parts: Sequence[str]) -> bool:
    if not parts:
        return not below
    if parts[0] == "**":
        return any(_fits(below[start:], parts[1:]) for start in range(len(below) + 1))
    return bool(below) and fnmatch.fnmatchcase(below[0], parts[0]) and _fits(below[1:], parts[1:])


@contextmanager
def whole(path: Path | str) -> Iterator[BinaryIO]:
    """Write a file that is complete or absent.

    Raises:
        EmbedError: it cannot be written.
    """
    if is_address(str(path)):
        with writing(path):
            system, place = located(str(path))
            # An object appears when it is closed.
            with system.open_output_stream(place, compression=None) as file:
                yield cast("BinaryIO", file)
        return
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    with writing(path):
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def read(name: str) -> bytes:
    """Read a file.

    Raises:
        EmbedError: it cannot be read.
    """
    try:
        if not is_address(name):
            return Path(name).read_bytes()
        with opened(name) as file:
            return bytes(file.read())
    except OSError as error:
        raise EmbedError(f"{name} cannot be read: {error}") from error


def write(name: str, body: bytes) -> None:
    """Write a file that is complete or absent, and survives a power loss.

    Raises:
        EmbedError: it cannot be written.
    """
    with whole(name) as file:
        file.write(body)
    if not is_address(name):
        sync_folder(Path(name).parent)


def sync_folder(path: Path | str) -> None:
    """Sync a folder, so that names of files that were created or replaced there survive a power loss."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some filesystems have no such operation
        pass
    finally:
        os.close(folder)


def move(source: str, target: str) -> None:
    """Give a file another name; one that has the name already is replaced.

    Raises:
        EmbedError: it cannot be done.
    """
    with writing(target):
        if is_address(source):
            system, place = located(source)
            system.move(place, located(target)[1])
        else:
            Path(source).replace(target)


def remove(name: str) -> None:
    """Remove a file, if there is one."""
    with writing(name):
        if is_address(name):
            system, place = located(name)
            with suppress(FileNotFoundError):
                system.delete_file(place)
        else:
            Path(name).unlink(missing_ok=True)


def make_folder(name: str) -> None:
    """Make a folder; stores need none."""
    if not is_address(name):
        with writing(name):
            Path(name).mkdir(parents=True, exist_ok=True)


def local_copy(name: str, below: Path) -> Path:
    """Return a folder as a local one: itself, or a copy that all processes of this machine share.

    Raises:
        EmbedError: it cannot be read.
    """
    if not is_address(name):
        return Path(name)
    parent, _, version = name.rstrip("/").rpartition("/")
    target = below / re.sub(r"[^\w.-]+", "-", parent) / version
    if not target.exists():
        system, place = located(name)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            pyarrow("pyarrow.fs").copy_files(place, str(unfinished), source_filesystem=system)
            unfinished.rename(target)
        except OSError as error:
            if not target.exists():  # made by another process meanwhile
                raise EmbedError(f"{name} cannot be read: {error}") from error
    return target
