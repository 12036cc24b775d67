"""Name a vector by everything that can change it, and nothing that cannot."""

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from microtome.regions import WHOLE, Region


def image_digest(encoded: bytes) -> str:
    """SHA-256 of the encoded image, in hexadecimal."""
    return sha256(encoded).hexdigest()


def text_digest(ids: NDArray[np.int32]) -> str:
    """SHA-256 of a text's token ids, little-endian, in hexadecimal."""
    return sha256(ids.astype("<i4", copy=False).tobytes()).hexdigest()


def private_digest(digest: str, tenant: str) -> str:
    """Return a digest that only this tenant's requests have, for an image's; that of all others if there is no tenant.

    Everything that is shared is found by the digest: vectors in memory and in Redis, leases, work in flight, written
    responses. So nothing of one tenant's answers is found by another.
    """
    return sha256(f"{tenant}\n{digest}".encode()).hexdigest() if tenant else digest


def region_digest(digest: str, region: Region) -> str:
    """Return a digest for a region of an image; that of the image for all of it."""
    return digest if region == WHOLE else sha256(f"{digest}\n{','.join(map(repr, region))}".encode()).hexdigest()


def vector_key(fingerprint: str, output: str, digest: str) -> str:
    """The cache key of one output's vector for one image.

    Args:
        fingerprint: the manifest's, "sha256:" and 64 hexadecimal digits. It covers weights, graph, outputs and
            preprocessing.
        output: the output's name. Always last, so that no name can be read as another part of the key.
        digest: of the encoded image, see `image_digest`.
    """
    return f"mt1:{fingerprint.removeprefix('sha256:')}:{digest}:{output}"
