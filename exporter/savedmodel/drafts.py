"""Hidden directories to write to until all is there; what a run that died left behind, the next one takes away.

Whether a draft's run is dead is asked of the kernel: a run holds a lock on its draft for as long as it lives.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make an empty directory, and take it away at the end unless it has been renamed.

    Args:
        parent: Where it lies; made if it is not there.
        prefix: What its name begins with, a dot first; dead drafts of this prefix are removed.

    Raises:
        OSError: The parent cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(parent, prefix)
    with _locked(parent, prefix) as directory:
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def flush(directory: Path) -> None:
    """Flush a directory and all that is in it to the disk."""
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            flush_entries(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_entries(directory)


def flush_entries(directory: Path) -> None:
    """Flush which entries a directory has, but not what is in them."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(parent: Path, prefix: str) -> Iterator[Path]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Between mkdtemp and the lock another run may have taken this directory for a dead one's.
            if directory.exists():
                directory.chmod(0o755)  # mkdtemp's 0700 would follow the directory into place
                yield directory
                return
        finally:
            os.close(handle)


def _remove_dead(parent: Path, prefix: str) -> None:
    for directory in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # alive, or another run was quicker
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)
            finally:
                os.close(handle)
