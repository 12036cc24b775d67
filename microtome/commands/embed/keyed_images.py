"""An image of a run: it has a key, is read by a call, and may be pickled and read on another machine.

Folders and archives may come from strangers: only regular files are read, and neither links that lead out of a folder
nor large files.
"""

import os
import stat
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

from microtome.client.errors import UnreadableImage
from microtome.client.images import Text
from microtome.commands.embed import stores

MAX_IMAGE_BYTES = 64 << 20
"""The largest body that a gateway takes by default."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be read.

    Attributes:
        follow_links: whether links may lead out of a folder, or out of the part of a pattern without wildcards.
        max_bytes: of one image; larger ones are not read.
    """

    follow_links: bool = False
    max_bytes: int = MAX_IMAGE_BYTES


DEFAULT_RULES = Rules()


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file, or bytes inside one, such as a tar that is not compressed.

    Attributes:
        path: of the file, or its address in a store, where the key is not its path.
        size: bytes; -1 for all to the file's end.
        folder: links that lead out of it are refused; "" for none.
        max_bytes: larger images are not read.
    """

    key: str
    path: str = ""
    offset: int = 0
    size: int = -1
    folder: str = ""
    max_bytes: int = MAX_IMAGE_BYTES

    def __call__(self) -> bytes:
        """Read only these bytes.

        Raises:
            OSError: the file is gone or cannot be read.
            UnreadableImage: it is no regular file, too large, or a link out of its folder.
        """
        path = self.path or self.key
        if stores.is_address(path):
            with stores.opened(path) as remote:
                return self._read(remote, remote.size())
        if self.folder and not is_within(path, self.folder):
            raise UnreadableImage(f"{path} is a link out of {self.folder}. --follow-links reads it.")
        # Where the links lead is what is opened: they may be others a moment later.
        with regular(path) if not self.folder else regular(os.path.realpath(path), os.O_NOFOLLOW) as file:
            return self._read(file, os.fstat(file.fileno()).st_size)

    def _read(self, file: Any, whole: int) -> bytes:  # noqa: ANN401, a file, or pyarrow's
        size = whole if self.size < 0 else self.size
        if size <= self.max_bytes:
            file.seek(self.offset)
            # Some files have a size of 0 and yet bytes, and some grow.
            body: bytes = file.read(size or (self.max_bytes + 1))
            size = len(body)
        if size > self.max_bytes:
            raise UnreadableImage(too_large(self.key, size, self.max_bytes))
        return body


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Bytes in memory: reading what follows them in a stream has read them too.

    Attributes:
        problem: why there are no bytes, if there are none.
    """

    key: str
    body: bytes
    problem: str = ""

    def __call__(self) -> bytes:
        """Return the bytes.

        Raises:
            UnreadableImage: the problem.
        """
        if self.problem:
            raise UnreadableImage(self.problem)
        return self.body


@dataclass(frozen=True, slots=True)
class KeyedText(Text):
    """A text of a run, which has a key as images have."""

    key: str = ""


KeyedImage: TypeAlias = ImageFile | ImageBytes | KeyedText
"""An image that is read by a call, or a text. Its key is unique in a run; it may be pickled and read elsewhere."""


def is_within(path: str, folder: str) -> bool:
    """Whether a path leads into a folder, whose links are resolved already."""
    return os.path.realpath(path).startswith(os.path.join(folder, ""))  # noqa: PTH118, folder may be the root


def regular(path: str, flags: int = 0) -> BinaryIO:
    """Open a file that ends and does not wait.

    Args:
        path: of the file.
        flags: of `os.open`, in addition.

    Raises:
        OSError: it is gone or cannot be read.
        UnreadableImage: it is a pipe, a device or something else.
    """
    kind = os.stat(path).st_mode  # noqa: PTH116
    if stat.S_ISREG(kind):
        # Without O_NONBLOCK a pipe that took the file's place would wait for its writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags), "rb")
        kind = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(kind):
            return file
        file.close()
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
    raise UnreadableImage(f"{path}: expected a regular file, received {kinds.get(stat.S_IFMT(kind), 'a device')}.")


def too_large(key: str, size: int, most: int) -> str:
    """Say that an image is too large."""
    return f"{key} has {size} bytes, more than --max-image-bytes {most}."
