"""500 files that have broken decoders before: none of them breaks ours, and what Keras reads we read the same."""

import io
import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, UnidentifiedImageError

from microtome.errors import RequestRejected
from microtome.manifest import InputSpec, Interpolation
from microtome.opening import FORMATS
from microtome.preprocessing import decode
from service.cache.memory import NullCache
from service.http.app import HttpOptions, http_app
from service.http.bodies import BodyLimits
from service.telemetry.logs import configure
from service.telemetry.metrics import Metrics
from tests.exported_models import REPOSITORY
from tests.fakes.intake import intake_over
from tests.fakes.model_server import FakeModelServer, card

# What production does with warnings of decoders is to answer all the same.
pytestmark = [pytest.mark.filterwarnings("ignore")]

SPEC = InputSpec(64, 48, "squash", None, "bilinear", "none", exif_orientation=False, decode="exact")
MAX_PIXELS = 50_000_000
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic", "lanczos")


@pytest.fixture(scope="module")
def files(request: pytest.FixtureRequest) -> list[Path]:
    """All nasty files."""
    find: Callable[[str], Path] = request.getfixturevalue("shared_data")
    return [path for path in sorted(find("nasty").rglob("*")) if path.is_file() and path.name != "MANIFEST.csv"]


@pytest.fixture(scope="module")
def photos(shared_data: Callable[[str], Path]) -> list[Path]:
    """A sample of the other pictures: every fortieth."""
    places = [shared_data(name) for name in ("imagenet1k_256", "clothing10", "product_photos")]
    found = [path for place in places for path in sorted(place.rglob("*")) if path.suffix.lower() in {".jpg", ".png"}]
    return found[::40]


def read_by_keras(data: bytes, interpolation: str) -> np.ndarray | None:
    """Load pixels as Keras does, or None where it cannot."""
    from keras.utils import load_img  # noqa: PLC0415, seconds that only this test needs

    try:
        image = load_img(io.BytesIO(data), target_size=(SPEC.height, SPEC.width), interpolation=interpolation)
    except Exception:  # noqa: BLE001, decoders raise anything
        return None
    return np.asarray(image)


def without_metadata(data: bytes) -> bytes:
    """Leave of a PNG the chunks that make its picture, and of a JPEG all but its application segments."""
    if data.startswith(b"\x89PNG"):
        kept, at = data[:8], 8
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            if kind in {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}:
                kept += size.to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
            at += 12 + size
        return kept
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        # Lengths below 2 count as 2, and what is no marker is skipped, as in libjpeg.
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if data[at + 1] == 0xEE or data[at + 1] >> 4 != 0xE:
            kept += data[at:end]
        at = data.index(b"\xff", end)
        while data[at + 1] in {0x01, 0xFF}:
            at = data.index(b"\xff", at + 1)
    return kept + data[at:]


def known_format(data: bytes) -> bool:
    """Whether this is a format that we name."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).close()
    except UnidentifiedImageError:
        return False
    return True


def test_what_keras_reads_is_read_bit_for_bit(
    files: list[Path], photos: list[Path], record_property: Callable[[str, object], None]
) -> None:
    """With `jpeg_draft: false` pixels equal `keras.utils.load_img` for every file, or the file is beyond a limit.

    Of a file whose metadata has a fault that Keras does not stand, they are those of the file without metadata.
    """
    equal, different = 0, []
    for number, path in enumerate(files + photos):
        data = path.read_bytes()
        interpolation = INTERPOLATIONS[number % len(INTERPOLATIONS)]
        theirs = None if path.name.startswith("bomb") else read_by_keras(data, interpolation)
        try:
            ours = decode(data, replace(SPEC, interpolation=interpolation), max_pixels=MAX_PIXELS, formats=FORMATS)
        except RequestRejected:
            if theirs is not None and known_format(data):
                different.append(f"{path}: only Keras reads it")
            continue
        if theirs is None and data.startswith((b"\x89PNG", b"\xff\xd8")):
            # A fault of metadata, for which Keras refuses the picture.
            theirs = read_by_keras(without_metadata(data), interpolation)
        if theirs is None or not np.array_equal(ours, theirs):
            different.append(f"{path}: differs")
        equal += 1
    record_property("drill", f"nasty files equal to Keras: {equal} of {len(files + photos)}, the others refused")
    assert [] == different
    assert equal > 300


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, exif_orientation=True, decode="balanced"),
        InputSpec(64, 64, "shortest-side", 72, "bicubic", "center", exif_orientation=True, decode="balanced"),
        replace(SPEC, resize="letterbox", exif_orientation=True),
    ],
    ids=["squash", "crop", "letterbox"],
)
def test_every_file_is_decoded_or_refused_under_every_rule(files: list[Path], spec: InputSpec) -> None:
    """Whatever the manifest asks for, a file becomes exactly the model's window or an error of the caller's."""
    for path in files:
        try:
            pixels = decode(path.read_bytes(), spec, max_pixels=MAX_PIXELS)
        except RequestRejected:
            continue
        assert (spec.height, spec.width, 3) == pixels.shape, path


@asynccontextmanager
async def _nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


@pytest.fixture
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Threads to decode in."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def test_every_file_through_http_is_answered(files: list[Path], decoders: ThreadPoolExecutor) -> None:
    """Each file is 200, or a 4xx that says why; in one request together, the good ones are answered all the same."""
    server, metrics = FakeModelServer(card(max_batch_size=64)), Metrics()
    limits = BodyLimits(20 << 20, 256 << 20, 600)
    intake = intake_over(
        server,
        decoders,
        metrics,
        bodies=limits,
        max_pixels=MAX_PIXELS,
        images_in_flight=600,
        cache=NullCache(),
        deadline=120,
    )
    app = http_app(
        intake=intake,
        options=HttpOptions(limits, version="0"),
        metrics=metrics,
        log=configure("json", "warning"),
        lifespan=_nothing,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=120) as client:
        statuses = [(await client.post("/embed", content=path.read_bytes())).status_code for path in files]
        assert {200, 400, 413, 422} >= set(statuses), sorted(set(statuses))
        parts = [("image", path.read_bytes()) for path in files]
        together = (await client.post("/embed?on_error=skip", files=parts)).json()
    good = [index for index, status in enumerate(statuses) if status == 200]
    assert good == [embedding["index"] for embedding in together["embeddings"]]
    assert len(files) - len(good) == len(together["errors"])


MEASURE = """
import io, resource, sys, warnings
from pathlib import Path
from PIL import Image
from microtome.preprocessing import decode
from microtome.manifest import InputSpec, Interpolation
from microtome.errors import RequestRejected
warnings.simplefilter("ignore")
spec = InputSpec(224, 224, "shortest-side", 256, "bilinear", "center", exif_orientation=True, decode="balanced")
for form in ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF"):
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, form)
    decode(out.getvalue(), spec, max_pixels=50_000_000)
bombs = [Path(name).read_bytes() for name in sys.argv[1:]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode(bomb, spec, max_pixels=50_000_000)
    except RequestRejected as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def tile_bomb() -> bytes:
    """A TIFF of 100 x 100 pixels in one tile of 10,000 x 10,000: 300 MB from 300 KB."""
    compressor = zlib.compressobj(9)
    data = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(300)) + compressor.flush()
    head = b"II*\0\x08\0\0\0"
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 10_000, 323: 10_000, 324: 0, 325: len(data)}
    size = len(head) + 2 + 12 * len(tags) + 4
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + (size if tag == 324 else value).to_bytes(4, "little")
        for tag, value in tags.items()
    )
    return head + len(tags).to_bytes(2, "little") + entries + bytes(4) + data


def scan_bomb() -> bytes:
    """A progressive JPEG whose last scan comes 1,000 times."""
    out = io.BytesIO()
    Image.new("RGB", (800, 600)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + data[-2:]


def test_bombs_are_refused_in_little_memory(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """Small files that ask for gigabytes cost less than 20 MB, all of them together."""
    made = {"tile.tif": tile_bomb(), "scan.jpg": scan_bomb()}
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    made["large.png"] = out.getvalue()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    bombs = [str(tmp_path / name) for name in made]
    nasty = shared_data("nasty")
    bombs += [str(path) for path in (nasty / "bombs").iterdir()]
    bombs += [str(path) for path in (nasty / "made").iterdir() if path.name.startswith(("bomb", "lotta"))]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *bombs], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    *refused, megabytes = run.stdout.splitlines()
    assert int(megabytes) < 20
    # One of Pillow's bombs is a GIF of 8 frames, of which we read one, and harmless.
    assert len(refused) >= len(bombs) - 1


PEAKS = """
import sys, warnings
from pathlib import Path
from microtome.opening import FORMATS
from microtome.preprocessing import decode, prepared
from microtome.manifest import InputSpec
warnings.simplefilter("ignore")
spec = InputSpec(224, 224, "shortest-side", 256, "bilinear", "center", exif_orientation=True, decode="exact")
def kilobytes(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])
for name in sys.argv[1:]:
    data = Path(name).read_bytes()
    for _ in range(2):  # the first imports the decoder
        with prepared(data, spec, max_pixels=10**7, formats=FORMATS) as picture:
            Path("/proc/self/clear_refs").write_text("5")
            before = kilobytes("VmRSS")
            picture.pixels()
            needed = kilobytes("VmHWM") - before
    print(name, needed >> 10, picture.cost.memory >> 20, picture.cost.apart)
"""


def test_decoding_needs_no_more_memory_than_its_header_says(tmp_path: Path) -> None:
    """Files of 2 million pixels of each format: the peak of the process is below the estimate, and not far below."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)).resize((1400, 1400), 0)
    alpha = picture.convert("RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (picture, "JPEG", {}),
        "progressive": (picture.convert("CMYK"), "JPEG", {"progressive": True, "subsampling": 0}),
        "png": (picture, "PNG", {"compress_level": 1}),
        "turned": (alpha, "PNG", {"compress_level": 1, "exif": exif}),
        "gif": (picture.quantize(32), "GIF", {}),
        "bmp": (picture.convert("1"), "BMP", {}),
        "webp": (picture, "WEBP", {"method": 0, "quality": 10}),
        "lossless": (alpha, "WEBP", {"method": 0, "quality": 0, "lossless": True}),
        "avif": (alpha, "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
        "tiff": (picture, "TIFF", {"compression": "tiff_lzw", "strip_size": 1 << 30, "tiffinfo": {274: 6}}),
        "float": (picture.convert("F"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jp2": (picture, "JPEG2000", {"quality_layers": [50]}),
    }
    for name, (image, form, options) in made.items():
        image.save(tmp_path / name, form, **options)
    words = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in made)]
    # So that what one image has freed is not there for the next one.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    wrong = []
    for line in run.stdout.splitlines():
        name, peak, estimate, apart = line.rsplit(" ", 3)
        # Another process has 48 MB of its own, and the allocator's granularity is 4.
        room = 52 if apart == "True" else 4
        if not int(peak) <= int(estimate) <= 1.6 * int(peak) + room:
            wrong.append(f"{Path(name).name}: {peak} of {estimate} MB")
    assert [] == wrong
