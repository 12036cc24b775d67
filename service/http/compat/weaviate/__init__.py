"""What Weaviate's modules for images ask of an inference container: `img2vec-neural` and `multi2vec-clip`.

The wire facts are those of Weaviate's Go clients (modules/img2vec-neural/clients, modules/multi2vec-clip/clients): they
send no Content-Type, read an answer as JSON before they look at its status, and keep idle connections for 90 s.

Weaviate sends no API key: gateways that want one cannot be asked by it.
"""

from service.http.compat.weaviate.clip import CLIP
from service.http.compat.weaviate.img2vec import IMG2VEC

__all__ = ["CLIP", "IMG2VEC"]
"""The two contracts; either can be switched off."""
