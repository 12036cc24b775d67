"""Ask the gateway as any client would, and compare vectors."""

from typing import Any

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


def embed(client: httpx.Client, photo: bytes, **options: str | list[str]) -> dict[str, Any]:
    """Send one photo as a raw body and return the answer.

    Raises:
        AssertionError: When the answer is not 200.
    """
    response = client.post("/embed", content=photo, params=options, headers={"content-type": "image/jpeg"})
    assert response.status_code == httpx.codes.OK, f"{response.status_code}: {response.text[:500]}"
    answer: dict[str, Any] = response.json()
    return answer


def vector(answer: dict[str, Any], index: int = 0) -> Vector:
    """One vector of an answer."""
    return np.asarray(answer["embeddings"][index]["vector"], dtype=np.float64)


def relative_error(received: ArrayLike, expected: ArrayLike) -> float:
    """The largest deviation, relative to the largest number expected."""
    expected = np.asarray(expected, dtype=np.float64)
    return float(np.max(np.abs(np.asarray(received) - expected)) / np.max(np.abs(expected)))
