"""Images out of messages, and how much of them one call may send."""

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from microtome.v1 import embedding_pb2 as pb
from service.core.remote_images import Image, Url
from service.errors import BadRequest, ImageTooLarge

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bytes of one encoded image and of one message, images of one request, images under way in one stream."""

    max_image_bytes: int
    max_message_bytes: int
    max_images: int
    stream_images: int

    @property
    def grouped_images(self) -> int:
        """Images of one message of a stream: half of those under way, so that the next comes while one is answered."""
        return max(1, min(self.max_images, self.stream_images // 2))

    @property
    def grouped_bytes(self) -> int:
        """Bytes of several images of one message of a stream: more would save nothing, and take memory."""
        return min(1 << 20, self.max_message_bytes)


def parsed(kind: type[M], raw: bytes) -> M:
    """Read a message.

    Raises:
        BadRequest: the bytes are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise BadRequest(f"Expected a {name}, received {len(raw)} bytes that are none.") from None


def image_of(message: pb.Image, max_bytes: int) -> Image:
    """Take one image out of its message; what is wrong with it is returned, since it may concern this image only."""
    if message.WhichOneof("source") == "url":
        return Url(message.url)
    data = message.data
    if not data:
        return BadRequest("Expected an image with `data` or `url`, received one with neither.")
    if len(data) > max_bytes:
        return ImageTooLarge(f"Expected at most {max_bytes} bytes an image, received {len(data)}.")
    return data
