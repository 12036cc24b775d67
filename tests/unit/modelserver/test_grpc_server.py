"""The text of a status."""

from __future__ import annotations

from modelserver.api.grpc_server import cut


def test_a_message_is_cut_at_1024_bytes_not_characters() -> None:
    """A character on the edge is left out rather than broken."""
    assert "a" * 1024 == cut("a" * 1024)
    assert "a" * 1024 + "...TRUNCATED" == cut("a" * 1025)
    assert "é" * 512 + "...TRUNCATED" == cut("é" * 513)
    assert "a" + "é" * 511 + "...TRUNCATED" == cut("a" + "é" * 513)
