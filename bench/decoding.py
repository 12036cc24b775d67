"""What the worst image of each format costs: memory, how long the interpreter is held, and what callers see beside it.

    python -m bench.decoding [--models DIRECTORY] [--files DIRECTORY] [--seconds 8]

The first table decodes each file alone in a process: bytes a pixel at the peak, what `Picture.cost` estimates, and the
longest time that no other thread ran. The second sends each file four times at once to a gateway with the manifests'
limits: 1.5 GiB, of which 60 % for decoding, and two threads. Its memory is that of all its processes. Beside its
`/livez` stands that of a second gateway without work: what both wait for is the machine.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.processes.usage import descendants
from microtome.errors import RequestRejected
from microtome.manifest import InputSpec
from microtome.opening import FORMATS
from microtome.preprocessing import decode, prepared
from tests.e2e.processes import Gateway, serving
from tests.exported_models import REPOSITORY, export_once

SIDE = 7071
"""A square of 50 million pixels, the gateway's default limit."""

LIMIT = 1536 << 20
"""The memory of a gateway in deploy/kubernetes, in bytes."""

AT_ONCE = 4
SPEC = InputSpec(224, 224, "shortest-side", 256, "bilinear", "center", exif_orientation=True, decode="exact")


def worst_files() -> dict[str, Callable[[], bytes]]:
    """Return what makes the costliest file of each format and compression below 20 MB, by name."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (SIDE // 128, SIDE // 128, 3), np.uint8)
    rgb = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    grey, cmyk, rgba = rgb.convert("L"), rgb.convert("CMYK"), rgb.convert("RGBA")
    flat = Image.fromarray(rng.integers(0, 256, (8, 8, 4), np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    rgba.putalpha(Image.fromarray(small[..., 0]).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    exif = Image.Exif()
    exif[0x0112] = 6

    def made(image: Image.Image, form: str, **options: Any) -> Callable[[], bytes]:  # noqa: ANN401, Pillow's options
        def make() -> bytes:
            out = io.BytesIO()
            image.save(out, form, **options)
            return out.getvalue()

        return make

    tiff = {"compression": "tiff_adobe_deflate"}
    return {
        "JPEG, baseline": made(rgb, "JPEG", quality=50),
        "JPEG, progressive CMYK": made(cmyk, "JPEG", quality=50, progressive=True, subsampling=0),
        "PNG, RGB": made(rgb, "PNG", compress_level=1),
        "PNG, RGBA, turned": made(rgba, "PNG", compress_level=1, exif=exif),
        "PNG, 16 bit": made(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", compress_level=1),
        "WebP, lossy": made(rgb, "WEBP", quality=30, method=0),
        "WebP, lossless RGBA": made(flat, "WEBP", lossless=True, quality=0, method=0),
        "GIF": made(rgb.quantize(64), "GIF"),
        "BMP, 1 bit": made(grey.convert("1"), "BMP"),
        "BMP, run lengths": run_length_bmp,
        "TIFF, LZW RGBA": made(flat, "TIFF", compression="tiff_lzw"),
        "TIFF, deflate, one strip, turned": made(rgb, "TIFF", **tiff, strip_size=1 << 30, tiffinfo={274: 6}),
        "TIFF, JPEG": made(rgb, "TIFF", compression="jpeg"),
        "TIFF, LZMA": made(rgb, "TIFF", compression="lzma"),
        "TIFF, Zstandard CMYK": made(cmyk, "TIFF", compression="zstd"),
        "TIFF, float": made(grey.convert("F"), "TIFF", **tiff),
        "AVIF, 4:4:4": made(rgb, "AVIF", quality=40, speed=10, subsampling="4:4:4"),
        "AVIF, RGBA": made(rgba, "AVIF", quality=40, speed=10, subsampling="4:4:4"),
        "JPEG 2000, 36 MP": made(rgb.resize((6000, 6000)), "JPEG2000", quality_layers=[100]),
    }


def run_length_bmp() -> bytes:
    """Write a BMP of 4 million pixels, the limit, in 9 KB: rows that end at once."""
    palette = bytes(range(256)) * 4
    data = b"\1\1\0\0" * 2000
    head = ((2000).to_bytes(4, "little") * 2) + b"\1\0\x08\0" + (1).to_bytes(4, "little") + bytes(20)
    size, offset = 54 + 1024 + len(data), 54 + 1024
    start = b"BM" + size.to_bytes(4, "little") + bytes(4) + offset.to_bytes(4, "little") + (40).to_bytes(4, "little")
    return start + head + palette + data


def status(pid: int | str, field: str) -> float:
    """Return a field of /proc/PID/status in MB; 0 when the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return 0.0


def decode_alone(path: Path) -> dict[str, float | str]:
    """Decode one file in this process, and watch how long no other thread runs."""
    encoded = path.read_bytes()
    decode(_tiny(path), SPEC, max_pixels=1 << 40, formats=FORMATS)
    with prepared(encoded, SPEC, max_pixels=1 << 40, formats=FORMATS) as picture:
        cost = picture.cost
    with Image.open(path) as image:
        pixels = image.width * image.height
    before = status("self", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again
    failed: list[str] = []

    def work() -> None:
        try:
            decode(encoded, SPEC, max_pixels=1 << 40, formats=FORMATS)
        except RequestRejected as error:
            failed.append(str(error))

    thread = threading.Thread(target=work)
    begin = time.perf_counter()
    thread.start()
    clock, last, held = time.pthread_getcpuclockid(thread.ident or 0), 0.0, 0.0
    while thread.is_alive():
        time.sleep(0.0005)
        # Processor time of the decoding thread since this one ran last: a busy machine adds nothing to it.
        with contextlib.suppress(OSError):
            now = time.clock_gettime(clock)
            held, last = max(held, now - last), now
    seconds = time.perf_counter() - begin
    peak = status("self", "VmHWM") - before
    return {
        "peak": peak,
        "estimate": cost.memory / (1 << 20),
        "pixels": pixels,
        "held_ms": held * 1000,
        "seconds": seconds,
        "apart": str(cost.apart),
        "failed": " ".join(failed),
    }


def _tiny(path: Path) -> bytes:
    """Make a small file of the same format, to import its decoder."""
    with Image.open(path) as image:
        form = image.format or ""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "BMP" if form == "DIB" else form)
    return out.getvalue()


def costs(files: dict[str, Path]) -> None:
    """Print the first table."""
    print("| file | MB | peak, MB | bytes a pixel | estimate, MB | interpreter held, ms | own process | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, path in files.items():
        words = [sys.executable, "-m", "bench.decoding", "--alone", str(path)]
        run = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        found = json.loads(run.stdout)
        print(
            f"| {name} | {path.stat().st_size / 1e6:.2f} | {found['peak']:.0f} "
            f"| {found['peak'] * (1 << 20) / found['pixels']:.1f} | {found['estimate']:.0f} | {found['held_ms']:.0f} "
            f"| {'yes' if found['apart'] == 'True' else 'no'} | {found['seconds']:.1f} | {found['failed']}",
            flush=True,
        )


class Watch:
    """Samples the gateway's memory and the time of GET /livez, its own and an idle one's, until it is stopped."""

    def __init__(self, gateway: Gateway, idle: Gateway) -> None:
        self.peak, self._pid, self._stop = 0.0, gateway.pid, threading.Event()
        self.latencies: dict[int, list[float]] = {gateway.port: [], idle.port: []}
        self._threads = [threading.Thread(target=self._memory)]
        self._threads += [threading.Thread(target=self._livez, args=[port]) for port in self.latencies]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._stop.wait(0.01):
            # Libraries that processes share are counted once.
            own, *others = descendants(self._pid)
            self.peak = max(self.peak, status(own, "VmRSS") + sum(status(pid, "RssAnon") for pid in others))

    def _livez(self, port: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while not self._stop.wait(0.005):
            begin = time.perf_counter()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            self.latencies[port].append((time.perf_counter() - begin) * 1000)

    def told(self) -> str:
        """Return median, 99th percentile and maximum of both, in ms."""
        rows = map(sorted, self.latencies.values())
        return " | ".join(f"{row[len(row) // 2]:.1f}, {row[len(row) * 99 // 100]:.1f}, {row[-1]:.1f}" for row in rows)


def beside(files: dict[str, Path], models: Path, seconds: float) -> None:
    """Print the second table."""
    settings = {
        "decode_threads": 2, "decode_bytes": int(0.6 * LIMIT), "formats": ",".join(FORMATS).lower(), "deadline": 120,
    }  # fmt: skip
    print("\n| file, four at once | answers | images/s | peak, MB | /livez p50, p99, max, ms | of an idle gateway |")
    print("|---|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory(prefix="microtome-decoding-") as place,
        tempfile.TemporaryDirectory(prefix="microtome-idle-") as other,
        serving(Path(place), models, **settings) as gateway,
        serving(Path(other), models) as idle,
    ):
        with Watch(gateway, idle) as watch:
            time.sleep(seconds)
        print(_row("nothing", watch, {}, seconds), flush=True)
        for name, path in files.items():
            body, answers = path.read_bytes(), dict[int, int]()

            def post(_: int, body: bytes = body) -> int:
                connection = HTTPConnection("127.0.0.1", gateway.port, timeout=300)
                connection.request("POST", "/embed?cache=bypass", body)
                return connection.getresponse().status

            begin = time.perf_counter()
            with Watch(gateway, idle) as watch, ThreadPoolExecutor(AT_ONCE) as callers:
                while time.perf_counter() - begin < seconds:
                    for code in callers.map(post, range(AT_ONCE)):
                        answers[code] = answers.get(code, 0) + 1
            print(_row(name, watch, answers, time.perf_counter() - begin), flush=True)


def _row(name: str, watch: Watch, answers: dict[int, int], seconds: float) -> str:
    told = ", ".join(f"{count} x {code}" for code, count in sorted(answers.items()))
    return f"| {name} | {told} | {sum(answers.values()) / seconds:.1f} | {watch.peak:.0f} | {watch.told()} |"


def main() -> None:
    """Run it by hand."""
    parser = argparse.ArgumentParser(prog="python -m bench.decoding", description="The worst image of each format.")
    parser.add_argument("--models", type=Path, help="directory with lite0; else it is exported")
    parser.add_argument("--files", type=Path, help="where the files are kept; else they are made again")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load for each file (8)")
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    if words.alone:
        print(json.dumps(decode_alone(words.alone)))
        return
    with tempfile.TemporaryDirectory(prefix="microtome-decoding-") as place:
        directory = words.files or Path(place)
        directory.mkdir(exist_ok=True)
        files = {}
        for name, make in worst_files().items():
            path = directory / (name.replace(", ", "-").replace(" ", "-").replace(":", "") + ".bin")
            if not path.exists():
                path.write_bytes(make())
            if path.stat().st_size <= 20 << 20 and words.only in name:
                files[name] = path
        costs(files)
        beside(files, words.models or export_once(REPOSITORY / "recipe.yaml", Path(place) / "models"), words.seconds)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
