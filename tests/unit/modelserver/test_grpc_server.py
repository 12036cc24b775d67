"""Statuses: every code has one, and texts are cut."""

from __future__ import annotations

import grpc

from modelserver.api.grpc_server import STATUS, cut
from modelserver.errors import Code


def test_every_code_is_grpcs_code_of_the_same_name() -> None:
    """None is missing, none is crossed."""
    assert {code.name for code in Code} == {status.name for status in grpc.StatusCode}
    assert all(code.name == status.name for code, status in STATUS.items())


def test_a_message_is_cut_at_1024_bytes_not_characters() -> None:
    """A character on the edge is left out rather than broken."""
    assert "a" * 1024 == cut("a" * 1024)
    assert "a" * 1024 + "...TRUNCATED" == cut("a" * 1025)
    assert "é" * 512 + "...TRUNCATED" == cut("é" * 513)
    assert "a" + "é" * 511 + "...TRUNCATED" == cut("a" + "é" * 513)
