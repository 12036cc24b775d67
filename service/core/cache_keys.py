"""Name a vector by everything that can change it, and nothing that cannot."""

from hashlib import sha256


def image_digest(encoded: bytes) -> str:
    """SHA-256 of the encoded image, in hexadecimal."""
    return sha256(encoded).hexdigest()


def vector_key(fingerprint: str, output: str, digest: str) -> str:
    """The cache key of one output's vector for one image.

    Args:
        fingerprint: the manifest's, "sha256:" and 64 hexadecimal digits. It covers weights, graph, outputs and
            preprocessing.
        output: the output's name. Always last, so that no name can be read as another part of the key.
        digest: of the encoded image, see `image_digest`.
    """
    return f"mt1:{fingerprint.removeprefix('sha256:')}:{digest}:{output}"
