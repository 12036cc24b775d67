"""Many images take no more memory than few: in the list, in flight, in the journal, in the result."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

COUNT = 20_000

PROGRAM = """
import resource, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, ormsgpack

VECTOR = np.ones(256, np.float32).tobytes()
MODEL = {"model": "m", "version": 1, "fingerprint": "sha256:aa"}

class Stand(BaseHTTPRequestHandler):
    # Answers as the gateway does, at no cost: what is measured is the other side.
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        images = self.rfile.read(int(self.headers["content-length"])).count(b'filename="image"') or 1
        entries = [{"index": i, "output": "top", "vector": VECTOR} for i in range(images)]
        self.answer("application/msgpack", ormsgpack.packb({**MODEL, "embeddings": entries, "errors": []}))
    def do_GET(self):
        manifest = b'{"fingerprint": "sha256:aa", "default_output": "top", "outputs": []}'
        self.answer("application/json", b'{"default": "m", "models": [{"name": "m", "ready": true, "version": 1, '
                    b'"manifest": ' + manifest + b"}]}")
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Stand)
threading.Thread(target=server.serve_forever, daemon=True).start()
from microtome.commands.embed.command import main
url = f"http://127.0.0.1:{server.server_port}"
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
assert main(["embed", sys.argv[1], "--out", sys.argv[2], "--url", url, "--batch", "64"]) == 0
few = peak()
assert main(["embed", sys.argv[1], sys.argv[3], "--out", sys.argv[4], "--url", url, "--batch", "64"]) == 0
print(few, peak())
"""


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with 500 images and one with many, all of them links to one file."""
    image = tmp_path / "image.jpg"
    image.write_bytes(b"\xff\xd8" + bytes(1000))
    folders = tmp_path / "few", tmp_path / "many"
    for folder, count in zip(folders, (500, COUNT), strict=True):
        for number in range(count):
            place = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
            if number % 1000 == 0:
                place.parent.mkdir(parents=True)
            place.hardlink_to(image)
    return folders


def test_twenty_thousand_images_take_no_more_memory_than_five_hundred(
    photos: tuple[Path, Path], tmp_path: Path
) -> None:
    """Beyond a digest of each image's name the peak does not grow: the result alone is 20 MB."""
    few, many = photos
    words = [few, tmp_path / "few.npy", many, tmp_path / "many.npy"]
    run = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    assert 0 == run.returncode, run.stderr
    before, after = map(int, run.stdout.split())
    assert (COUNT + 500, 256) == np.load(tmp_path / "many.npy", mmap_mode="r").shape
    assert after - before < 16, f"{before} MiB grew to {after} MiB"
