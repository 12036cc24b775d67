"""What every workload keeps to, whichever overlay and components were chosen."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import (
    COMPONENTS,
    OVERLAYS,
    Combination,
    combinations,
    container,
    containers,
    find,
    pod,
    render,
    render_in,
    template,
    workloads,
)

SIZE = {"Mi": 1 << 20, "Gi": 1 << 30}
DNS_CACHE_SECONDS = 30
"""CoreDNS' default, for which a name may still have the address of a pod that ends."""

every = pytest.mark.parametrize("combination", combinations(), ids="+".join)


def in_bytes(quantity: str) -> int:
    """Read 512Mi."""
    return int(quantity[:-2]) * SIZE[quantity[-2:]]


@every
def test_no_container_may_more_than_it_needs(combination: Combination) -> None:
    """Not root, no way to become it, no capability, nothing of the host, a file system that cannot be written.

    NVIDIA's container toolkit writes into the root of a container that gets a GPU.
    """
    for workload in workloads(render(combination)):
        spec = pod(workload)
        who = workload["metadata"]["name"]
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec), who
        assert all("hostPath" not in volume for volume in spec["volumes"]), who
        assert (True, 10001, {"type": "RuntimeDefault"}) == (
            spec["securityContext"]["runAsNonRoot"],
            spec["securityContext"]["runAsUser"],
            spec["securityContext"]["seccompProfile"],
        ), who
        for box in containers(workload):
            assert {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": "nvidia.com/gpu" not in box["resources"]["limits"],
                "capabilities": {"drop": ["ALL"]},
            } == box["securityContext"], f"{who}: {box['name']}"


@every
def test_only_a_rollout_holds_a_token_and_nothing_is_told_of_services(combination: Combination) -> None:
    """No other pod can speak to the Kubernetes API; none gets variables that the gateway would take for misspelt."""
    manifests = render(combination)
    accounts = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "ServiceAccount"}
    for workload in workloads(manifests):
        spec = pod(workload)
        holds = workload["metadata"]["name"] == "rollout"
        assert (holds, False) == (spec["automountServiceAccountToken"], spec["enableServiceLinks"])
        assert accounts[spec["serviceAccountName"]]["automountServiceAccountToken"] is False


@every
def test_images_are_pinned(combination: Combination) -> None:
    """Every image has a tag with a full version."""
    images = [box["image"] for workload in workloads(render(combination)) for box in containers(workload)]
    assert [] == [image for image in images if not re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", image)]


@every
def test_resources_are_asked_for_and_memory_is_bounded(combination: Combination) -> None:
    """The scheduler knows what each container wants, and none can take a node's memory."""
    for workload in workloads(render(combination)):
        for box in containers(workload):
            resources = box["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), box["name"]
            assert in_bytes(resources["requests"]["memory"]) <= in_bytes(resources["limits"]["memory"]), box["name"]


@every
def test_servers_are_probed(combination: Combination) -> None:
    """Every container that others connect to has all three probes, each with time to answer."""
    for workload in workloads(render(combination)):
        for box in containers(workload):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe") if box.get("ports") else ():
                (how,) = {"httpGet", "grpc", "tcpSocket", "exec"} & box[probe].keys()
                assert how, f"{box['name']}: {probe}"


@every
def test_a_model_server_is_alive_while_it_answers(combination: Combination) -> None:
    """The kernel accepts connections for a frozen process too, so a probe of the port alone never restarts it."""
    box = container(render(combination), "model-server")
    assert box["livenessProbe"]["grpc"] == {"port": 8500}
    assert "--enable_grpc_healthcheck_service=true" in box["args"]


@every
def test_gateways_probes_mean_what_their_paths_mean(combination: Combination) -> None:
    """Only readiness depends on the model server: restarting the gateway would mend nothing."""
    gateway = container(render(combination), "gateway")
    paths = {name: gateway[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"} == paths


@every
def test_pods_are_given_time_to_go(combination: Combination) -> None:
    """The grace period is longer than the pause before SIGTERM and the drain after it."""
    manifests = render(combination)
    gateway, server = container(manifests, "gateway"), container(manifests, "model-server")
    (settings,) = [m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"][:8] == "gateway-"]
    drains = {"gateway": int(settings["MICROTOME_DRAIN"]), "model-server": 0}
    for argument in server["args"]:
        if argument.startswith("--shutdown_grace_seconds="):
            drains["model-server"] = int(argument.partition("=")[2])
    for name, box in (("gateway", gateway), ("model-server", server)):
        pause = int(box["lifecycle"]["preStop"]["exec"]["command"][1])
        grace = pod(find(manifests, "Deployment", name))["terminationGracePeriodSeconds"]
        assert pause + drains[name] < grace, name


@every
def test_gateways_have_left_a_model_server_before_it_ends(combination: Combination) -> None:
    """They look the name up each second, so that no connection has to be renewed: each new one costs a golden check."""
    server = container(render(combination), "model-server")
    assert not [argument for argument in server["args"] if "max_connection_age" in argument]
    assert int(server["lifecycle"]["preStop"]["exec"]["command"][1]) >= DNS_CACHE_SECONDS + 10


@every
def test_sigterm_reaches_tensorflow_serving(combination: Combination) -> None:
    """It is not process 1, for which the kernel ignores a signal without a handler, and no shell stands before it."""
    manifests = render(combination)
    assert pod(find(manifests, "Deployment", "model-server"))["shareProcessNamespace"] is True
    command = container(manifests, "model-server")["command"]
    assert command in (["/usr/bin/tensorflow_model_server"], ["python", "-m", "modelserver"])


@every
def test_patches_have_left_nothing_twice(combination: Combination) -> None:
    """Kustomize appends to lists that it does not know the keys of, where replacing was meant."""
    for workload in workloads(render(combination)):
        keys = [spread["topologyKey"] for spread in pod(workload).get("topologySpreadConstraints", [])]
        assert sorted(set(keys)) == sorted(keys)
        for box in containers(workload):
            names = [variable["name"] for variable in box.get("env", [])]
            assert sorted(set(names)) == sorted(names)


@every
def test_everything_that_is_referred_to_is_there(combination: Combination) -> None:
    """Volumes, configuration, services and what is scaled or guarded exist; Secrets are the operator's to make."""
    manifests = render(combination)
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    labels = [template(w)["metadata"]["labels"] for w in workloads(manifests)]
    for workload in workloads(manifests):
        for volume in pod(workload)["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
            for source in volume.get("projected", {}).get("sources", []):
                assert ("ConfigMap", source["configMap"]["name"]) in names
        mounted = {mount["name"] for box in containers(workload) for mount in box["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod(workload)["volumes"]}
    for manifest in manifests:
        if manifest["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = manifest["spec"]["scaleTargetRef"]
            assert (target["kind"], target["name"]) in names
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
        }.get(manifest["kind"])
        if selector:
            assert any(selector(manifest["spec"]).items() <= found.items() for found in labels)


@every
def test_who_scales_says_how_many(combination: Combination) -> None:
    """A number of replicas beside an autoscaler would be set back at every apply."""
    manifests = render(combination)
    scaled = {
        m["spec"]["scaleTargetRef"]["name"]
        for m in manifests
        if m["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    }
    assert ("autoscaling" in combination) == bool(scaled)
    assert [] == [name for name in scaled if "replicas" in find(manifests, "Deployment", name)["spec"]]


@every
def test_model_servers_and_redis_are_reached_by_those_who_must(combination: Combination) -> None:
    """TensorFlow Serving protects neither port: gateways reach its calls, Prometheus its REST API.

    A rule without `from` or `ports` would open to all, and a pod chooses its own labels: who is in another namespace is
    named by that too.
    """
    policies = [m["spec"] for m in render(combination) if m["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    opened: dict[tuple[str, str], list[Any]] = {}
    for policy in policies:
        # That of the Gateway API's proxies opens them, which are not ours.
        target = policy["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
        assert target or "ingress" not in policy or "gateway-api" in combination
        for rule in policy.get("ingress", []) if target else ():
            assert rule["from"], policy
            for port in rule["ports"]:
                opened.setdefault((target, port["port"]), []).extend(rule["from"])
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
    }
    rollout = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "rollout"}}}
    expected = {("model-server", "grpc"): [gateway, rollout] if "rollout" in combination else [gateway]}
    if "managed-redis" not in combination:
        expected["redis", "redis"] = [gateway]
    if "monitoring" in combination:
        expected |= {("model-server", "rest"): [prometheus], ("gateway", "metrics"): [prometheus]}
    clients = {("gateway", "http"), ("gateway", "grpc")}
    assert expected == {way: peers for way, peers in opened.items() if way not in clients}


@every
def test_containers_open_the_ports_that_the_settings_name(combination: Combination) -> None:
    """HTTP, gRPC and metrics: each port of the gateway's container is one that it listens on, by its name."""
    manifests = render(combination)
    (settings,) = [m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"][:8] == "gateway-"]
    names = {"http": "PORT", "grpc": "GRPC_PORT", "metrics": "OPERATIONS_PORT"}
    opened = {port["name"]: str(port["containerPort"]) for port in container(manifests, "gateway")["ports"]}
    assert {name: settings[f"MICROTOME_{setting}"] for name, setting in names.items()} == opened
    targets = {p["targetPort"] for m in manifests if m["kind"] == "Service" for p in m["spec"]["ports"]}
    assert set(names) <= targets


def test_overlays_and_components_are_the_ones_that_the_readme_explains(repository: Path) -> None:
    """None is missing from deploy/README.md."""
    readme = (repository / "deploy" / "README.md").read_text(encoding="utf-8")
    assert [] == [name for name in (*OVERLAYS, *COMPONENTS) if f"`{name}`" not in readme]


def test_keys_are_wanted_in_production_and_waived_on_one_machine() -> None:
    """Production serves only callers with a key; the local overlay allows anonymous access."""
    variable = container(render(("production",)), "gateway")["env"][0]
    assert ("MICROTOME_API_KEYS", False) == (variable["name"], variable["valueFrom"]["secretKeyRef"]["optional"])
    maps = {
        overlay: next(
            m["data"]
            for m in render((overlay,))
            if m["kind"] == "ConfigMap" and m["metadata"]["name"][:8] == "gateway-"
        )
        for overlay in OVERLAYS
    }
    assert {"local": "true", "production": None} == {o: d.get("MICROTOME_ALLOW_ANONYMOUS") for o, d in maps.items()}


@every
def test_pods_spread_where_there_is_room_and_never_wait_for_it(combination: Combination) -> None:
    """Nodes with taints that a pod does not stand do not count as empty ones; a node with two GPUs has two servers."""
    manifests = render(combination)
    for name in ("gateway", "model-server"):
        spec = pod(find(manifests, "Deployment", name))
        spreads = spec["topologySpreadConstraints"]
        assert ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] == [one["topologyKey"] for one in spreads]
        for one in spreads:
            assert ("ScheduleAnyway", "Honor", "Honor") == (
                one["whenUnsatisfiable"],
                one["nodeTaintsPolicy"],
                one["nodeAffinityPolicy"],
            )
            assert {"app.kubernetes.io/name": name} == one["labelSelector"]["matchLabels"]
        (wishes,) = spec["affinity"].values()
        assert ["preferredDuringSchedulingIgnoredDuringExecution"] == list(wishes)


@every
def test_a_start_that_may_still_succeed_is_no_failure(combination: Combination) -> None:
    """Progress is waited for longer than the start probes wait, and an old pod takes to go where it goes first."""
    for workload in workloads(render(combination)):
        if workload["kind"] != "Deployment":
            continue
        waits = [box["startupProbe"] for box in containers(workload) if "startupProbe" in box]
        start = max((probe["periodSeconds"] * probe["failureThreshold"] for probe in waits), default=0)
        spec = workload["spec"]
        goes_first = spec["strategy"].get("rollingUpdate", {"maxSurge": 0})["maxSurge"] == 0
        start += pod(workload).get("terminationGracePeriodSeconds", 30) if goes_first else 0
        assert start < spec.get("progressDeadlineSeconds", 600), workload["metadata"]["name"]


@every
def test_another_tag_of_an_image_can_be_applied(combination: Combination) -> None:
    """The template of a Job is immutable: `kubectl apply` of another image would be refused."""
    assert "Job" not in {m["kind"] for m in render(combination)}


@every
def test_what_rollouts_change_is_not_in_the_manifests(combination: Combination) -> None:
    """It has no data, so an apply owns none; it hides what is delivered, of the same name, for servers and gateways."""
    manifests = render(combination)
    assert {"apiVersion", "kind", "metadata"} == find(manifests, "ConfigMap", "models-rollout").keys()
    assert ["models.config"] == list(find(manifests, "ConfigMap", "models-config")["data"])
    for name in ("gateway", "model-server"):
        (sources,) = [
            v["projected"]["sources"] for v in pod(find(manifests, "Deployment", name))["volumes"] if "projected" in v
        ]
        names = [source["configMap"]["name"] for source in sources]
        assert ["models-config", "models-rollout"] == names[-2:]
        assert all("items" not in source["configMap"] for source in sources)


def test_a_rollout_may_change_one_configmap_and_reaches_whom_it_asks() -> None:
    """Its rights, and a way to each address that it is told."""
    manifests = render(("production", "rollout"))
    (rule,) = find(manifests, "Role", "rollout")["rules"]
    assert (["configmaps"], ["models-rollout"], ["get", "update"]) == (
        rule["resources"],
        rule["resourceNames"],
        rule["verbs"],
    )
    assert [find(manifests, "RoleBinding", "rollout")["subjects"][0]["name"]] == [
        pod(find(manifests, "CronJob", "rollout"))["serviceAccountName"]
    ]
    assert find(manifests, "CronJob", "rollout")["spec"]["suspend"] is True
    egress = find(manifests, "NetworkPolicy", "rollout")["spec"]["egress"]
    reached = {
        (peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"], port["port"])
        for way in egress
        for peer in way.get("to", [])
        for port in way["ports"]
    }
    assert {("model-server", "grpc"), ("gateway", "http")} == reached
    # Headless: their names stand for every pod, and their addresses have every port of the pod.
    assert {"None"} == {
        find(manifests, "Service", name)["spec"]["clusterIP"] for name in ("model-server", "gateway-grpc")
    }


def test_an_autoscaler_asks_for_the_namespace_of_the_outermost_kustomization(tmp_path: Path) -> None:
    """Another namespace is said in one place."""
    manifests = render_in(tmp_path, ("production", "autoscaling"), {"namespace": "elsewhere"})
    (trigger,) = find(manifests, "ScaledObject", "model-server")["spec"]["triggers"]
    assert 2 == trigger["metadata"]["query"].count('namespace="elsewhere"')
    assert ["infer"] == re.findall(r'stage="(\w+)"', trigger["metadata"]["query"])


def test_the_closed_port_says_why(repository: Path) -> None:
    """The fault in TensorFlow Serving's parser of JSON is named beside the policy that keeps callers from it."""
    text = (repository / "deploy" / "kubernetes" / "base" / "network.yaml").read_text(encoding="utf-8")
    (before,) = [part for part in text.split("---\n") if "metadata: {name: model-server}" in part]
    assert "CVE-2025-0649" in before
    assert "rest" not in str(find(render(("production",)), "NetworkPolicy", "model-server")["spec"])
