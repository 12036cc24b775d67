"""GPUs: the preflight against the table of deploy/README.md, what gets a GPU, and what the page says to patch."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from exporter.savedmodel.serving_files import batch_sizes, batching_params
from tests.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    container,
    containers,
    documented,
    find,
    pod,
    render,
    render_in,
)
from tests.deploy.tfserving import compose
from tests.exported_models import REPOSITORY

SCRIPT = KUBERNETES / "components" / "gpu" / "preflight.sh"
README = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
HOPPER, ANY = "555.42.02", "525.60.13"
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc 12.2.0\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\n"


def checked(directory: Path, driver: str | None, *cards: str, line: str = PROPRIETARY) -> tuple[int, str]:
    """Run the preflight on a machine with these cards; return its status and what it said."""
    if driver is not None:
        (directory / "version").write_text(line.format(driver))
    for number, card in enumerate(cards):
        place = directory / "gpus" / f"0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t {card}\nIRQ:   \t\t 42\nGPU UUID: \t GPU-x\n")
    done = subprocess.run(["bash", str(SCRIPT), str(directory)], capture_output=True, text=True, check=False)
    assert "" == done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("card", "driver", "said"),
    [
        ("Tesla T4", "525.60.13", "ok; 555.42.02 is the driver that the image is made for"),
        ("Tesla T4", "525.60.11", "needs driver 525.60.13"),
        ("Tesla T4", "470.82.01", "needs driver 525.60.13"),
        ("NVIDIA A10", "535.183.01", "ok"),
        ("NVIDIA A100-SXM4-80GB", "550.54.15", "ok"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "570.86.15", "ok\n"),
        ("NVIDIA L4", "570.86.15", "ok\n"),
        ("NVIDIA L40S", "555.42.02", "ok\n"),
        ("NVIDIA H100 80GB HBM3", "555.42.02", "ok\n"),
        ("NVIDIA H100 PCIe", "550.54.15", "needs driver 555.42.02 or newer: for Hopper"),
        ("NVIDIA H200", "535.183.01", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
        ("NVIDIA GH200 480GB", "550.90.07", "needs driver 555.42.02"),
        ("NVIDIA H20", "580.65.06", "ok\n"),
        ("NVIDIA GeForce RTX 4090", "550.54.15", "data centre cards only"),
        ("NVIDIA GeForce RTX 4090", "560.35.03", "ok\n"),
        ("NVIDIA RTX 6000 Ada Generation", "570.86.15", "ok\n"),
        ("NVIDIA GeForce RTX 5090", "580.65.06", "cannot work: its compute capability is 10.0 or more"),
        ("NVIDIA B200", "580.65.06", "CUDA_ERROR_INVALID_PTX"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "580.65.06", "cannot work"),
        ("Tesla K80", "470.82.01", "below 6.0"),
        ("Tesla M60", "535.183.01", "below 6.0"),
    ],
)
def test_the_preflight_keeps_to_the_table(tmp_path: Path, card: str, driver: str, said: str) -> None:
    """A card that cannot compute ends it, with the reason."""
    status, line = checked(tmp_path, driver, card)
    assert (said.startswith("ok"), True) == (status == 0, said in line), line
    assert line.startswith(f"{card}, driver {driver}: ")


def test_one_card_that_cannot_compute_is_enough(tmp_path: Path) -> None:
    """The scheduler may choose any; the driver's line of open modules is read too."""
    status, lines = checked(tmp_path, "570.86.15", "NVIDIA L4", "NVIDIA B200", line=OPEN)
    assert (1, 2) == (status, len(lines.splitlines()))


@pytest.mark.parametrize(("driver", "why"), [(None, "WSL 2"), ("unknown", "names no driver"), ("570.86.15", "no GPU")])
def test_what_cannot_be_seen_is_not_refused(tmp_path: Path, driver: str | None, why: str) -> None:
    """The driver's files do not show everywhere; the log says that nothing was checked."""
    status, line = checked(tmp_path, driver)
    assert (0, True) == (status, line.startswith("not checked: ") and why in line), line


def test_the_table_is_the_scripts() -> None:
    """Drivers, and names of cards of each row, as the script judges them."""
    text = SCRIPT.read_text(encoding="utf-8")
    assert (ANY, HOPPER) == (
        re.findall(r"^oldest=(\S+)", text, re.MULTILINE)[0],
        re.findall(r"^own=(\S+)", text, re.MULTILINE)[0],
    )
    rows = [line for line in README.splitlines() if re.match(r"\| (P4|GeForce|H100|B100|M4)", line)]
    wanted = {"P4": ANY, "GeForce": HOPPER, "H100": HOPPER, "B100": "none", "M4": "none"}
    assert wanted == {row.split()[1].strip(","): row.split("|")[3].split()[0] for row in rows}
    for name in re.findall(r"\b(?:[HB]\d{2,3}|GH200)\b", rows[2] + rows[3]):
        assert name in text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_server_gets_a_gpu(overlay: str) -> None:
    """The image asks for all GPUs of a machine, so what else runs it wants none; the preflight is first."""
    deployment = find(render((overlay, "gpu")), "Deployment", "model-server")
    first, *_ = pod(deployment)["initContainers"]
    assert ("gpu-preflight", ["bash", "/etc/gpu/preflight.sh"]) == (first["name"], first["command"])
    for box in containers(deployment):
        variables = {entry["name"]: entry["value"] for entry in box.get("env", [])}
        assert (box["name"] == "model-server") is ("nvidia.com/gpu" in box["resources"].get("limits", {}))
        assert (box["name"] != "model-server") is (variables.get("NVIDIA_VISIBLE_DEVICES") == "void")

    preflight = compose()["services"]["gpu-preflight"]
    assert {"NVIDIA_VISIBLE_DEVICES": "void"} == preflight["environment"]
    assert "deploy" not in preflight


def test_nothing_is_kept_of_a_cache_of_kernels() -> None:
    """Kernels of TensorFlow 2.20 are compiled in less than a second, or never."""
    text = str(render(("production", "gpu"))) + str(compose())
    assert [] == re.findall(r"(?i)cuda[-_]cache\w*", text)
    assert "10001:10001" == compose()["services"]["tfserving-gpu"]["user"]


def test_documented_patches_do_what_the_page_says() -> None:
    """TF32 is switched on, and slots follow the GPU; everything else is as it was."""
    with tempfile.TemporaryDirectory() as directory:
        added = {**documented("NVIDIA_TF32_OVERRIDE"), **documented("MICROTOME_INFERENCE_SLOTS")}
        manifests = render_in(Path(directory), ("production", "gpu"), added)
    variables = {entry["name"]: entry["value"] for entry in container(manifests, "model-server")["env"]}
    usual = {entry["name"]: entry["value"] for entry in container(render(("production", "gpu")), "model-server")["env"]}
    assert usual | {"NVIDIA_TF32_OVERRIDE": "1"} == variables
    (settings,) = [m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"][:8] == "gateway-"]
    assert ("4", "8000") == (settings["MICROTOME_INFERENCE_SLOTS"], settings["MICROTOME_PORT"])


@pytest.mark.parametrize("largest", [1, 8, 24, 32, 128])
def test_batches_have_sizes_that_warm_up_has_seen(largest: int) -> None:
    """And no other, whatever a recipe's largest batch is; requests beyond are divided, and wait half a millisecond."""
    text = batching_params(largest)
    assert batch_sizes(largest) == [int(size) for size in re.findall(r"allowed_batch_sizes: (\d+)", text)]
    for line in (
        f"max_batch_size {{ value: {largest} }}",
        f"max_execution_batch_size {{ value: {largest} }}",
        "enable_large_batch_splitting { value: true }",
        "batch_timeout_micros { value: 500 }",
    ):
        assert line in text.splitlines()
