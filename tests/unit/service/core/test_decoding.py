"""Images are decoded within a budget of bytes, and what holds the interpreter in other processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.errors import BrokenImage, ImageTooLarge, NotAnImage
from microtome.manifest import InputSpec
from microtome.opening import FORMATS
from microtome.preprocessing import Cost, decode, prepared
from service.core.decoding import DecodeMemory, Decoding
from tests.pictures import encoded, noise, png

SPEC = InputSpec(32, 24, "squash", None, "bilinear", "none", exif_orientation=True, decode="balanced")
MB = 1 << 20


def cost(data: bytes) -> Cost:
    """Return what decoding needs, by the header."""
    with prepared(data, SPEC, max_pixels=10**8, formats=FORMATS) as picture:
        return picture.cost


class Budgeted:
    """A decoder of two threads and 100 MB."""

    def __init__(self) -> None:
        self.held = [0]
        self.memory = DecodeMemory(100 * MB, self.held.append)
        self.threads = ThreadPoolExecutor(2)
        self.decoding = Decoding(self.threads, self.memory, at_a_time=2, max_pixels=10**8, formats=FORMATS)


@pytest.fixture
async def budgeted() -> AsyncIterator[Budgeted]:
    """Return it, and end its processes."""
    found = Budgeted()
    yield found
    found.decoding.close()
    found.threads.shutdown(cancel_futures=True)
    assert 0 == found.held[-1]


def processes() -> set[int]:
    """Return the children of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


async def test_pixels_are_the_same_in_thread_and_process(budgeted: Budgeted) -> None:
    """JPEG 2000 goes to another process, which serves further images, and leaves the others to threads."""
    before = processes()
    for data in (png(), encoded(noise(), "JPEG2000"), encoded(noise(seed=1), "JPEG2000")):
        found = await budgeted.decoding.pixels(data, SPEC)
        np.testing.assert_array_equal(found, decode(data, SPEC, max_pixels=10**8, formats=FORMATS))
    assert 1 == len(processes() - before)


async def test_errors_come_back_from_a_process(budgeted: Budgeted) -> None:
    """They are those that a thread would raise. A process that dies is one more, and the next image has a new one."""
    before = processes()
    data = encoded(noise(200, 200), "JPEG2000")
    with pytest.raises(BrokenImage, match=r"JPEG2000 image is truncated"):
        await budgeted.decoding.pixels(data[: len(data) // 2], SPEC)
    (child,) = processes() - before
    os.kill(child, signal.SIGSTOP)
    waiting = asyncio.create_task(budgeted.decoding.pixels(data, SPEC))
    while budgeted.held[-1] == 0:  # noqa: ASYNC110, no event tells it
        await asyncio.sleep(0)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(BrokenImage, match="decoder ended"):
        await waiting
    assert (32, 24, 3) == (await budgeted.decoding.pixels(data, SPEC)).shape


async def test_an_image_that_can_never_fit_is_refused(budgeted: Budgeted) -> None:
    """A WebP of 7 million pixels is a few bytes, and needs 110 MB."""
    data = encoded(Image.new("RGB", (2700, 2600)), "WEBP", quality=1, method=0)
    assert len(data) < 100_000
    with pytest.raises(ImageTooLarge, match=r"in 105 MB; this one needs about 1\d\d MB.*MICROTOME_DECODE_BYTES"):
        await budgeted.decoding.pixels(data, SPEC)


async def test_formats_are_those_of_the_settings() -> None:
    """A format that is off is refused before its decoder sees it."""
    with ThreadPoolExecutor(1) as threads:
        decoding = Decoding(threads, DecodeMemory(MB << 6), at_a_time=2, max_pixels=10**6, formats=["PNG"])
        assert (32, 24, 3) == (await decoding.pixels(png(), SPEC)).shape
        with pytest.raises(NotAnImage, match="MICROTOME_FORMATS"):
            await decoding.pixels(encoded(noise(), "JPEG"), SPEC)


async def test_images_wait_for_their_share(budgeted: Budgeted) -> None:
    """Eight images that need a third of the budget each are all decoded, three at a time at most."""
    data = encoded(Image.new("RGB", (2400, 2400)))
    assert 20 * MB < cost(data).memory < 34 * MB
    answers = await asyncio.gather(*(budgeted.decoding.pixels(data, SPEC) for _ in range(8)))
    assert 8 == len(answers)
    assert max(budgeted.held) <= 100 * MB


async def test_who_waits_is_served_in_order() -> None:
    """Small ones overtake, but not for ever; one who leaves makes room for the next."""
    memory = DecodeMemory(100)
    assert memory.take(60)
    large, gone, last = (asyncio.create_task(memory.wait(amount)) for amount in (90, 95, 20))
    await asyncio.sleep(0)
    overtaking = 0
    while memory.take(10):
        overtaking += 1
        memory.give(10)
    assert 0 < overtaking < 100
    gone.cancel()
    memory.give(60)
    await large
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert not last.done()
    memory.give(90)
    await last
    assert memory.take(80)
    memory.give(100)
    assert memory.take(100)


async def test_a_share_granted_to_one_who_left_is_given_on() -> None:
    """Cancelled between being granted and waking up, it holds nothing."""
    memory = DecodeMemory(100)
    assert memory.take(100)
    waiting = asyncio.create_task(memory.wait(50))
    await asyncio.sleep(0)
    memory.give(100)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert memory.take(100)


async def test_callers_who_leave_free_what_their_images_held(budgeted: Budgeted) -> None:
    """Whether the image waits for its share, for a thread, or is being decoded."""
    data = encoded(Image.new("RGB", (2400, 2400)))
    tasks = [asyncio.create_task(budgeted.decoding.pixels(data, SPEC)) for _ in range(8)]
    for turns, task in enumerate(tasks):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while budgeted.held[-1]:  # noqa: ASYNC110, no event tells it
        await asyncio.sleep(0.01)
    assert (32, 24, 3) == (await budgeted.decoding.pixels(data, SPEC)).shape


@pytest.mark.parametrize(
    ("form", "side", "options", "apart"),
    [
        ("JPEG2000", 32, {}, True),
        ("PPM", 32, {}, True),
        ("WEBP", 32, {}, False),
        ("WEBP", 2100, {"quality": 1, "method": 0}, True),
        ("PNG", 2100, {}, False),
        ("PNG", 5400, {"compress_level": 1}, True),
        ("JPEG", 5000, {}, False),
        ("JPEG", 5000, {"progressive": True}, True),
    ],
)
def test_what_holds_the_interpreter_is_decoded_apart(
    form: str, side: int, options: dict[str, object], apart: bool
) -> None:
    """By format, by pixels, and by memory, of which a scaled JPEG needs little."""
    mode = "L" if form == "PNG" else "RGB"
    assert apart == cost(encoded(Image.new(mode, (side, side)), form, **options)).apart
