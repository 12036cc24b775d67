"""What is decided without measuring anything."""

import pytest

from bench.load.calling import calling
from bench.load.plan import Outcome
from bench.ratios.measured import Measured, facts, versus
from bench.ratios.peers import against_the_best
from bench.ratios.precision import able
from bench.reporting.comparison import Comparison
from tests.e2e.processes import eventually


def against(name: str, *rounds: float, reason: str = "") -> Comparison:
    """A comparison with a peer."""
    return Comparison(f"P5 {name}", f"ours ÷ {name}", None, at_least=True, rounds=list(rounds), reason=reason)


def test_the_best_peer_is_the_one_we_gain_least_over() -> None:
    """Ours is judged, the limit told; a peer that failed is no best one."""
    found = [
        against("mosec", 1.2, 1.3),
        against("mosec limit", 1.4),
        against("BentoML", 1.6, 1.8),
        against("BentoML limit", 1.9),
        against("Ray Serve", reason="did not start"),
    ]
    judged, limit = against_the_best(found)
    assert ("P5", [1.2, 1.3], 1.4) == (judged.key, judged.rounds, judged.target)
    assert "ours ÷ the best peer, mosec" == judged.what
    assert ("P5 limit", [1.4], None) == (limit.key, limit.rounds, limit.target)


def test_without_a_peer_there_is_no_best_one() -> None:
    """Each says why by itself."""
    assert [] == against_the_best([against("Ray Serve", reason="did not start")])


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16 avx2", True), ("amx_bf16", True), ("avx512f avx512_bf16x", False)]
)
def test_a_processor_tells_whether_it_computes_in_bfloat16(flags: str, expected: bool) -> None:
    """By whole words of /proc/cpuinfo."""
    assert expected == able(f"model name : X\nflags\t\t: {flags}\n")


def load(images: int, refused: int = 0, **cpu: float) -> Measured:
    """A load of two seconds."""
    outcome = Outcome({"200": images, "429": refused}, 2.0, {"p50": 0.01, "p99": 0.02}, images, 0, 0.5)
    return Measured(outcome, cpu, 0.1)


def test_two_loads_are_compared_by_the_clock_and_by_cpu() -> None:
    """More images, or fewer CPU seconds for each, make a ratio above 1; idle parts have no row."""
    found = versus("P", "", 0.9, [{"ours": load(20, gateway=1.0), "bare": load(10, bare=2.0)}], ("ours", "bare"))
    assert ([2.0], [4.0]) == (found.rounds, found.by_cpu)
    assert ([50.0], [200.0]) == (found.facts["gateway CPU ms"], found.facts["bare CPU ms"])
    assert ([10.0], [5.0]) == (found.facts["images/s"], found.facts["images/s, bare"])
    assert "refused/s" not in found.facts


def test_a_refusal_is_counted_and_only_names_of_both_sides_get_an_ending() -> None:
    """The obstacles and the capacity page look facts up by these names."""
    row = {"one": load(10, 6, gateway=1.0), "two": load(10, gateway=2.0)}
    assert [3.0] == facts([row], "one")["refused/s"]
    both = facts([row], "one", "two", "one")
    assert ([100.0], [200.0]) == (both["gateway CPU ms, one"], both["gateway CPU ms, two"])


def test_calls_repeat_while_the_block_runs_and_an_error_is_raised_behind_it() -> None:
    """Each in a thread of its own; a caller that failed is no throughput."""

    def fail() -> None:
        raise ValueError("refused")

    with calling([lambda: 1, lambda: 2]) as done:
        eventually(lambda: {1, 2} == {result for *_, result in done}, "both are called")
    assert all(seconds >= 0 for _, seconds, _ in done)
    with pytest.raises(ValueError, match="refused"), calling([fail]):
        pass
