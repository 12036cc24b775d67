"""What a verification found: one row for each thing checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exporter.errors import VerificationFailed


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing checked.

    Attributes:
        check: What, in a few words.
        ok: Whether it holds.
        detail: What was measured; for what does not hold, a whole sentence: expected, received.
    """

    check: str
    ok: bool
    detail: str


def expect(check: str, ok: bool, detail: str, otherwise: str) -> Finding:
    """Return the finding, with `detail` when it holds and `otherwise` when not."""
    return Finding(check, ok, detail if ok else otherwise)


def require(findings: Sequence[Finding]) -> None:
    """Let nothing be published unless everything holds.

    Raises:
        VerificationFailed: With all that does not.
    """
    failed = [finding.detail for finding in findings if not finding.ok]
    if failed:
        raise VerificationFailed("\n".join([*failed, "Nothing was published."]))
