"""Replies of Redis, read within bounds: whatever is announced, room is made for what a reply may have."""

import resource

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse

from service.cache.redis.replies import Meter

NOTHING = object()
LEAVES = st.one_of(
    st.binary(max_size=40).map(lambda each: b"$%d\r\n%b\r\n" % (len(each), each)),
    st.just(b"$-1\r\n"),
    st.just(b"*-1\r\n"),
    st.integers(-(1 << 40), 1 << 40).map(lambda each: b":%d\r\n" % each),
    st.sampled_from([b"+OK\r\n", b"-ERR no\r\n", b"+*2000000000\r\n"]),
)
REPLIES = st.recursive(
    LEAVES, lambda parts: st.lists(parts, max_size=5).map(lambda each: b"*%d\r\n%b" % (len(each), b"".join(each)))
)


@given(st.lists(REPLIES, min_size=1, max_size=5), st.data())
def test_replies_within_bounds_are_read_as_hiredis_reads_them(replies: list[bytes], data: st.DataObject) -> None:
    """In pieces that are cut anywhere, strings with what looks like announcements included: each is let through."""
    sent = b"".join(replies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    meter, reader, found = Meter(), hiredis.Reader(notEnoughData=NOTHING), 0
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        meter.take(sent[start:end])
        reader.feed(sent[start:end])
        while reader.gets() is not NOTHING:
            found += 1
    assert len(replies) == found
    # It knows that all replies have ended: the next one has the whole bounds.
    assert (0, 1, 0, b"") == (meter._skip, meter._left, meter._elements, meter._head)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"*2000000000\r\n"],
        [b"$2000000000\r\n"],
        [b"*1\r\n*2000000000\r\n"],
        [b"*2\r\n$1\r\na\r\n$2000000000\r\n"],
        [b"*2", b"0000", b"00000\r", b"\n"],
        [b"%2000000000\r\n"],
        [b"*99999999999999999999999\r\n"],
        [b"*60000\r\n" + b"$1\r\na\r\n" * 59_999 + b"*60000\r\n"],
        [b"+" + b"x" * (1 << 17)],
        [b"*8\r\n", *([b"$16000000\r\n" + b"x" * 16_000_000 + b"\r\n"] * 5)],
    ],
    ids=lambda pieces: repr(pieces[0][:20]),
)
def test_an_announcement_of_more_is_refused_before_room_is_made_for_it(pieces: list[bytes]) -> None:
    """Elements, bytes, both within others and in pieces; the process has no more memory for it."""
    meter, reader = Meter(), hiredis.Reader(notEnoughData=NOTHING)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = [piece[start : start + (1 << 16)] for piece in pieces for start in range(0, len(piece), 1 << 16)]

    def read(piece: bytes) -> bool:
        meter.take(piece)
        reader.feed(piece)
        return reader.gets() is NOTHING

    with pytest.raises(InvalidResponse, match="Expected "):
        assert all(map(read, whole))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
