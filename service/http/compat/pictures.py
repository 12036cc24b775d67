"""Images as other contracts write them: an address, a data URI, or bare base64."""

from service.core.remote_images import Image, Url
from service.errors import BadRequest
from service.http.json_images import from_base64, from_data_uri

NO_TEXT = (
    "This server embeds images only, and received text. Send an image as a data URI (data:image/jpeg;base64,…) or as "
    "an https:// address. For queries in words take a model that was trained on both, such as CLIP."
)


def is_address(text: str) -> bool:
    """Whether a string is where something lies."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI."""
    return text[:5].lower() == "data:"


def picture(text: object, max_bytes: int) -> Image:
    """Read one image; what is wrong with it is returned, since it concerns this image only."""
    if not isinstance(text, str):
        return BadRequest(f"Expected an image as a string, received {type(text).__name__}.")
    if is_address(text):
        return Url(text)
    return from_data_uri(text, max_bytes) if is_data_uri(text) else from_base64(text, max_bytes)
