"""Where one image lies. Each kind can be called for the image's bytes, and can be sent to another machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Located(Protocol):
    """An image that can be had when it is needed.

    Attributes:
        key: its name among the results; tells one image from all others of a run.
    """

    @property
    def key(self) -> str: ...  # noqa: D102

    def __call__(self) -> bytes:
        """Read the image's bytes.

        Raises:
            OSError: it is not there any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file of its own."""

    key: str

    def __call__(self) -> bytes:
        """Read it."""
        return Path(self.key).read_bytes()


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Bytes inside another file, such as a tar that is not compressed."""

    key: str
    path: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Read it, without the file around it."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Bytes that had to be read already, to get at what follows them."""

    key: str
    body: bytes

    def __call__(self) -> bytes:
        """Hand them out."""
        return self.body
