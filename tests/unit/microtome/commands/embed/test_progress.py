"""What a long run says: how far, how fast, until when, and once for each time that it has to wait."""

import io
import os
from pathlib import Path

from microtome.client.errors import Unreachable
from microtome.client.retries import Retry
from microtome.commands.embed.errors import tell
from microtome.commands.embed.progress import Progress

GONE = Unreachable("http://gateway:8000 cannot be reached")


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_a_line_now_and_then_says_rate_and_time_to_go() -> None:
    """The rate is this life's: what an earlier one did took no time now."""
    out, clock = io.StringIO(), Clock()
    with Progress(1000, 400, out, clock) as progress:
        for number in range(100):
            clock.now += 0.25
            progress.advance(failed=number % 50 == 0)
    assert [
        "microtome embed: 440 of 1000 images, 4 a second, 0:02:20 to go, 1 failed",
        "microtome embed: 480 of 1000 images, 4 a second, 0:02:10 to go, 2 failed",
        "microtome embed: 500 of 1000 images, 4 a second, 0:02:05 to go, 2 failed",
    ] == out.getvalue().splitlines()


def test_without_a_total_there_is_no_time_to_go() -> None:
    """A list on standard input has no length."""
    clock = Clock()
    progress = Progress(None, 0, io.StringIO(), clock)
    clock.now += 2
    progress.advance(failed=False)
    assert "1 images, 0 a second" == progress.summary()


def test_waiting_is_said_once_and_so_is_its_end() -> None:
    """However many threads wait, however often they try; a single refusal is no news."""
    out = io.StringIO()
    progress = Progress(10, 0, out, Clock())
    progress.retrying(Retry(GONE, 1, 0.1))
    assert "" == out.getvalue()
    for attempt in (2, 2, 3):
        progress.retrying(Retry(GONE, attempt, 0.1))
    progress.advance(failed=False)
    progress.advance(failed=False)
    assert [
        "microtome embed: waiting, and trying again: http://gateway:8000 cannot be reached",
        "microtome embed: the gateway answers again",
    ] == out.getvalue().splitlines()


def test_messages_without_a_reader_end_no_run() -> None:
    """A closed pipe and a full disk: what follows goes nowhere, also when the file is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, Path("/dev/full").open("w", encoding="utf-8") as full:
        for out in (closed, full):
            tell(out, "some are done")
            tell(out, "all are done")


def test_names_do_not_move_the_cursor() -> None:
    """What a terminal would obey is shown as an escape, other letters as they are."""
    out = io.StringIO()
    tell(out, "caf\u00e9 \x1b[2J\n\u202e\udcff.jpg")
    assert "microtome embed: caf\u00e9 \\x1b[2J\\n\\u202e\\udcff.jpg\n" == out.getvalue()
