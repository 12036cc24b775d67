"""What `microtome manifests` writes for another recipe, run: exported by its pod, waited for, loaded and served."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.deploy.manifests import OTHER, Manifest, containers, find, pod, render
from tests.drill.names import Names
from tests.drill.pods import KEY, gateway_pods, model_server_pods
from tests.drill.stated import CONFIGURATION, Manifests, write_configuration
from tests.e2e.photos import example
from tests.e2e.processes import eventually, free_port


def mounted(manifests: Manifests, exporter: Manifest, place: Path) -> None:
    """Write the recipe's ConfigMap as the kubelet mounts it into the exporter's pod."""
    (volume,) = [volume["configMap"] for volume in pod(exporter)["volumes"] if volume["name"] == "recipe"]
    data = find(manifests, "ConfigMap", volume["name"])["data"]
    for item in volume["items"]:
        (place / item["path"]).parent.mkdir(parents=True, exist_ok=True)
        (place / item["path"]).write_text(data[item["key"]], encoding="utf-8")


@pytest.mark.timeout(300)
def test_two_models_of_other_backbones_are_exported_and_served() -> None:
    """A pinned one, and a function from a file beside the recipe with its labels; servers wait for both."""
    manifests = render(("production", "embedded", "managed-redis", OTHER))
    with (
        tempfile.TemporaryDirectory(prefix="microtome-drill-", ignore_cleanup_errors=True) as path,
        ExitStack() as stack,
    ):
        directory, models = Path(path), Path(path) / "models"
        write_configuration(directory, models, manifests)
        (first,) = [c for c in containers(find(manifests, "Deployment", "model-server")) if c["name"] == "models"]
        waiting = subprocess.Popen([word.replace(CONFIGURATION, path) for word in first["command"]])
        stack.callback(waiting.kill)

        exporter = find(manifests, "Deployment", "exporter")
        box, *_ = containers(exporter)
        assert {"name": "recipe", "mountPath": "/recipe", "readOnly": True} in box["volumeMounts"]
        mounted(manifests, exporter, directory / "recipe")
        words = [word.replace("/recipe/", f"{path}/recipe/").replace("/models", str(models)) for word in box["args"]]
        place = box["workingDir"].replace("/recipe", f"{path}/recipe")
        assert waiting.poll() is None
        subprocess.run([sys.executable, "-m", "microtome", "export", *words], cwd=place, check=True, timeout=200)
        assert 0 == waiting.wait(30)
        assert (models / "mobile" / "3" / "saved_model.pb").is_file()

        network = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}"
        names = stack.enter_context(Names(f"{network}.1", "model-server"))
        server, *_ = model_server_pods(directory, network, models, manifests)
        gateway, *_ = gateway_pods(directory, network, f"redis://127.0.0.1:{free_port()}/0", names.authority, manifests)
        for process in (server, gateway):
            stack.callback(process.destroy)
        server.start()
        names.ready = (server.host,)
        gateway.start()
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=60) as client:
            listed = client.get("/models").raise_for_status().json()
            assert ("mobile", ["mobile", "own"]) == (listed["default"], [model["name"] for model in listed["models"]])
            # A gateway is ready with the first model; the other is still compared with its golden vectors.
            eventually(
                lambda: {"mobile": None, "own": None} == client.get("/readyz").json()["models"], "both are ready"
            )
            photo = example("cat")
            answer = client.post("/embed", content=photo).raise_for_status().json()
            assert ("mobile", 3) == (answer["model"], answer["version"])
            answer = client.post("/embed?model=own", content=photo).raise_for_status().json()
            assert 8 == len(answer["embeddings"][0]["vector"])
            answer = client.post("/classify?model=own", content=photo).raise_for_status().json()
            assert "kinds" in str(answer)
