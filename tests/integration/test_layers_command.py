"""`microtome layers` as people and programs use it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.exported_models import REPOSITORY, exporter_here

MODEL = """
import keras
from keras import layers

def make():
    images = keras.Input((32, 32, 3), name="images")
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="stem")(images)
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    x = layers.Add(name="sum")([shared(shared(x)), x])
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name="mine")
"""


def test_plain_columns_in_a_pipe() -> None:
    """One head and one line per cut point; the last of a residual block with all its facts."""
    done = exporter_here(["layers", "EfficientNetLite0"])
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["index", "layer", "type", "output", "params", "flops", "field", "stride", "dim", "crossing"]
    assert ["95", "block5c_add", "Add", "Nx14x14x112", "716,928", "486,537,856", "339", "16", "112", "1"] in lines
    assert lines[-1][1:4] == ["predictions", "Dense", "Nx1000"]


def test_json_finds_what_is_asked_for_in_any_layer() -> None:
    """`--find` looks at every layer, in any case, and JSON has numbers for programs."""
    done = exporter_here(["layers", "EfficientNetLite0", "--json", "--find", "BLOCK5C_EXPAND_CONV"])
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["shape"], row["stride"], row["crossing"], row["dimension"]) == (
        "block5c_expand_conv", [None, 14, 14, 672], [16, 16], 2, 672,
    )  # fmt: skip
    assert (row["block_end"], row["default_cut"]) == (False, False)


def test_own_model_from_a_function_at_another_size(tmp_path: Path) -> None:
    """A module where the command is run, a layer called twice, an input size that the model was not made for."""
    (tmp_path / "mine.py").write_text(MODEL, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "layers", "mine:make", "--all", "--json", "--size", "64x48"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["shared:1"]["shape"] == [None, 32, 24, 8]
    assert rows["shared:1"]["crossing"] == 2
    assert rows["sum"]["receptive_field"] == [11, 11]


def test_terminal_gets_a_table() -> None:
    """Short numbers, nothing but types cut off on 90 columns, a legend, and a word on how to see the rest."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "90", "TERM": "xterm"}
    command = [sys.executable, "-m", "exporter", "layers", "AlexNet", "--size", "99"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "conv5" in text
    assert "\x1b[" in text
    assert all(whole in text for whole in ("Nx11x11x256", "2.33 M", "crossing"))
    assert "The usual cut, the last feature map before the classifier: pool5" in text
    assert "--all shows every layer." in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
