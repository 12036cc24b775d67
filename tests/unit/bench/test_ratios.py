"""What is decided without measuring anything."""

import pytest

from bench.ratios.peers import against_the_best
from bench.ratios.precision import able
from bench.reporting.comparison import Comparison


def against(name: str, *rounds: float, reason: str = "") -> Comparison:
    """A comparison with a peer."""
    return Comparison(f"P5 {name}", f"ours ÷ {name}", None, at_least=True, rounds=list(rounds), reason=reason)


def test_the_best_peer_is_the_one_we_gain_least_over() -> None:
    """Judged with either engine, the limit told; a peer that failed is no best one."""
    found = [
        against("mosec", 1.2, 1.3),
        against("mosec OpenVINO", 2.2, 2.3),
        against("mosec limit", 1.4),
        against("BentoML", 1.6, 1.8),
        against("BentoML OpenVINO", 2.0, 2.1),
        against("BentoML limit", 1.9),
        against("Ray Serve", reason="did not start"),
    ]
    judged, *told = against_the_best(found)
    assert ("P5", [1.2, 1.3], 1.5) == (judged.key, judged.rounds, judged.target)
    assert "ours ÷ the best peer, mosec" == judged.what
    assert [("P5 OpenVINO", [2.2, 2.3]), ("P5 limit", [1.4])] == [(each.key, each.rounds) for each in told]
    assert [1.5, None] == [each.target for each in told]


def test_without_a_peer_there_is_no_best_one() -> None:
    """Each says why by itself."""
    assert [] == against_the_best([against("Ray Serve", reason="did not start")])


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16 avx2", True), ("amx_bf16", True), ("avx512f avx512_bf16x", False)]
)
def test_a_processor_tells_whether_it_computes_in_bfloat16(flags: str, expected: bool) -> None:
    """By whole words of /proc/cpuinfo."""
    assert expected == able(f"model name : X\nflags\t\t: {flags}\n")
