"""Kubernetes: schemas, what every pod must keep to, and that the parts mean each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.rendering import (
    KUBERNETES,
    OVERLAYS,
    ROOT,
    containers,
    copy_of_manifests,
    of_kind,
    pods,
    rendered,
    rendered_at,
    rendered_with,
)
from tests.support.manifests import (
    KUBERNETES_VERSIONS,
    assert_invalid_with,
    assert_unprivileged,
    run_documented,
    validated,
)

KEY_VARIABLE = "TRITONE_RECOMMENDER_KEY"
COMPONENTS = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))
SERVERS = {"app.kubernetes.io/name": "tritone-server"}
BALANCERS = {"app.kubernetes.io/name": "tritone-balancer"}
GATEWAYS = {"app.kubernetes.io/name": "tritone-gateway"}
WITH_GATEWAY = ["cpu", "gpu", "mixed"]


def test_there_is_an_overlay_for_each_way() -> None:
    assert OVERLAYS == ["cpu", "gpu", "kserve", "mixed"]


def with_component(component: str, *more: str) -> list[dict[str, Any]]:
    """The cpu overlay with a component."""
    return rendered_with(["../cpu"], [component, *more])


@pytest.mark.parametrize("component", COMPONENTS)
def test_schemas_with_each_component(component: str) -> None:
    resources = with_component(component)
    for resource in resources:
        for version in KUBERNETES_VERSIONS:
            validated(resource, version)
    if component != "images":
        assert resources != rendered("cpu")


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(overlay: str, version: str) -> None:
    for resource in rendered(overlay):
        validated(resource, version)


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value"),
    [
        ("cpu", "Deployment", ("spec", "template", "spec", "containers", 0, "imagee"), "x"),
        ("cpu", "HorizontalPodAutoscaler", ("spec", "maxReplicas"), "eight"),
        ("cpu", "NetworkPolicy", ("spec", "ingres"), []),
        ("kserve", "ServingRuntime", ("spec", "supportedModelFormat"), []),
        ("kserve", "ServingRuntime", ("spec", "containers", 0, "resources", "limit"), {}),
        ("kserve", "InferenceService", ("spec", "predictor", "model", "storageUri"), "/models"),
    ],
)
def test_the_schemas_find_what_is_wrong(overlay: str, kind: str, path: tuple[str | int, ...], value: Any) -> None:
    assert_invalid_with(of_kind(overlay, kind)[0], path, value)


@pytest.mark.parametrize(
    ("component", "kind", "path", "value"),
    [
        ("monitoring", "ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "15s"),
        ("monitoring", "ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15 s"),
        ("monitoring", "PodMonitor", ("spec", "endpoints"), []),
        ("monitoring", "PodMonitor", ("spec", "podMetricsEndpoints", 0, "authorization"), {"credential": {}}),
        ("monitoring", "PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "long"),
        ("gateway-api", "HTTPRoute", ("spec", "hostnames", 0), "https://tritone.example.com"),
        ("gateway-api", "HTTPRoute", ("spec", "rules", 0, "matches", 0, "path", "type"), "Prefix"),
        ("gateway-api", "GRPCRoute", ("spec", "rules", 0, "timeouts"), {"request": "1s"}),
        ("ingress", "Ingress", ("spec", "rules", 0, "http", "paths", 0, "pathType"), 3),
    ],
)
def test_the_operators_schemas_find_what_is_wrong(
    component: str, kind: str, path: tuple[str | int, ...], value: Any
) -> None:
    resource = next(item for item in with_component(component) if item["kind"] == kind)
    assert_invalid_with(resource, path, value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_locked_in(overlay: str) -> None:
    for name, pod, container in containers(overlay):
        assert_unprivileged(pod, container, name)
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", container["image"]), f"{name}: {container['image']}"


def test_the_loader_may_run_beside_them() -> None:
    (pod,) = rendered_at(KUBERNETES / "loader")
    for version in KUBERNETES_VERSIONS:
        validated(pod, version)
    (container,) = pod["spec"]["containers"]
    (claim,) = of_kind("cpu", "PersistentVolumeClaim")
    assert pod["metadata"]["namespace"] == claim["metadata"]["namespace"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    server = next(item for _, _, item in containers("cpu") if item["name"] == "triton")
    assert container["securityContext"] == server["securityContext"]
    assert container["image"] == server["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_server_can_be_judged_and_has_room(overlay: str) -> None:
    found = 0
    for _, pod in pods(overlay):
        for container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            if "balancer" in container["image"] or "gateway" in container["image"]:
                continue
            found += 1
            probe = container["readinessProbe"]["httpGet"]
            assert (probe["path"], probe["port"]) in (("/ready", "supervisor"), ("/ready", 8003))
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
            assert mounts["/tmp"]["emptyDir"]
            is_gpu = "gpu" in container["image"]
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) is is_gpu
            assert ("nvidia.com/gpu.present" in pod.get("nodeSelector", {})) is is_gpu
    assert found


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("secret", ["tritone-recommender-keys", "tritone-service-key"])
def test_every_server_finds_the_keys_and_starts_without(overlay: str, secret: str) -> None:
    for name, pod in pods(overlay):
        if name.endswith(("balancer", "gateway")):
            continue
        (container,) = pod["containers"]
        variables = {pair["name"]: pair.get("value", "") for pair in container["env"]}
        folder = variables[KEY_VARIABLE]
        if secret == "tritone-service-key":  # noqa: S105 - a secret's name
            folder, _, file = variables["TRITONE_SERVICE_KEY_FILE"].rpartition("/")
            assert file == "service.key"
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == folder]
        assert mount["readOnly"] is True
        assert not folder.startswith("/tmp"), "what is made on the way there is root's, and the server writes there"
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        assert volume["secret"]["secretName"] == secret, name
        assert volume["secret"]["optional"] is True, name
        if "defaultMode" in volume["secret"]:  # the keys are root's: read by group where the pod has one, else by all
            assert volume["secret"]["defaultMode"] & 0o040
            assert pod["securityContext"]["fsGroup"] == 10001


@pytest.mark.parametrize("overlay", ["gpu", "mixed"])
def test_an_upgrade_needs_no_gpu_more_than_the_servers_have(overlay: str) -> None:
    (server,) = [item for item in of_kind(overlay, "Deployment") if item["metadata"]["name"] == "tritone-server-gpu"]
    assert server["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    (scaler,) = [item for item in of_kind(overlay, "HorizontalPodAutoscaler")
                 if item["metadata"]["name"] == "tritone-server-gpu"]  # fmt: skip
    assert scaler["spec"]["minReplicas"] > 1  # one is left


@pytest.fixture
def own_copy(tmp_path: Path) -> Path:
    """The manifests, to be changed as the pages say; answers the folder that a checkout would be."""
    return copy_of_manifests(tmp_path)


def test_images_are_named_once(own_copy: Path) -> None:
    run_documented((ROOT / "docs/how-to/kubernetes.md").read_text(), "sed -i", own_copy)
    folder = own_copy / "deploy/kubernetes"
    for place in [*(f"overlays/{overlay}" for overlay in OVERLAYS), "loader"]:
        images = re.findall(r"image: (.*)", yaml.safe_dump(rendered_at(folder / place)))
        ours = [image for image in images if "rclone" not in image]
        assert ours, place
        assert all(image.startswith("registry.example/tritone/") for image in ours), (place, ours)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_key_reaches_servers_and_probes(overlay: str, own_copy: Path) -> None:
    said = (KUBERNETES / "components/api-key/kustomization.yaml").read_text()
    run_documented(said.replace("overlays/gpu", f"overlays/{overlay}"), "echo", own_copy)
    found = 0
    for resource in rendered_at(own_copy / f"deploy/kubernetes/overlays/{overlay}"):
        for version in KUBERNETES_VERSIONS:
            validated(resource, version)
        if resource["kind"] not in ("Deployment", "ServingRuntime"):
            continue
        pod = resource["spec"]["template"]["spec"] if resource["kind"] == "Deployment" else resource["spec"]
        (container,) = pod["containers"]
        given = {pair["name"]: pair for pair in container["env"]}
        if "balancer" in resource["metadata"]["name"]:
            assert "TRITONE_API_KEY" not in given
            continue
        found += 1
        secret = given["TRITONE_API_KEY"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "tritone-api-key", "key": "key"}  # not optional: without it the server stays closed
        assert (KEY_VARIABLE in given) is ("gateway" not in resource["metadata"]["name"])
    assert found


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_the_parts_mean_each_other(overlay: str) -> None:
    deployments = {resource["metadata"]["name"]: resource for resource in of_kind(overlay, "Deployment")}
    servers = {name: item for name, item in deployments.items() if name.startswith("tritone-server-")}
    scaled = of_kind(overlay, "HorizontalPodAutoscaler")
    assert {item["spec"]["scaleTargetRef"]["name"] for item in scaled} == {*servers, "tritone-gateway"}
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert wanted <= deployments[name]["spec"]["template"]["metadata"]["labels"].items()
        others = [item for other, item in deployments.items() if other != name]
        assert not any(wanted <= item["spec"]["template"]["metadata"]["labels"].items() for item in others)
    assert len(of_kind(overlay, "PodDisruptionBudget")) == len(deployments)
    services = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "Service")}
    assert services["tritone-replicas"]["clusterIP"] == "None"
    for item in servers.values():
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert services["tritone-replicas"]["selector"].items() <= labels.items()
        assert "replicas" not in item["spec"], "the autoscaler's number would be taken back"
    (balancer,) = deployments["tritone-balancer"]["spec"]["template"]["spec"]["containers"]
    replicas = next(pair["value"] for pair in balancer["env"] if pair["name"] == "TRITONE_REPLICAS")
    assert replicas == "tritone-replicas.tritone.svc.cluster.local"
    ports = {port["name"] for port in balancer["ports"]}
    assert {port["targetPort"] for port in services["tritone"]["ports"]} <= ports
    claims = {item["metadata"]["name"] for item in of_kind(overlay, "PersistentVolumeClaim")}
    used = {volume["persistentVolumeClaim"]["claimName"] for _, pod in pods(overlay)
            for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}  # fmt: skip
    assert used == claims


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_the_network_is_closed_but_for_what_is_named(overlay: str) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    server = policies["server"]
    assert server["podSelector"]["matchLabels"] == SERVERS
    callers = [source["podSelector"]["matchLabels"] for rule in server["ingress"] for source in rule["from"]
               if "podSelector" in source]  # fmt: skip
    assert callers == [{"app.kubernetes.io/name": "tritone-balancer"}]
    assert bool(server["egress"]) is (overlay == "mixed")  # an object store has to be called
    resolving = {"tritone-balancer", "tritone-gateway", "tritone-refit"} | (
        {"tritone-server"} if overlay == "mixed" else set()
    )
    (chosen,) = policies["dns"]["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == resolving
    for name, policy in policies.items():
        if name != "dns":
            ports = {port["port"] for rule in policy.get("egress", []) for port in rule["ports"]}
            assert not ports & {53, 5353}, "names are looked up under the policy `dns` alone"


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_names_can_be_looked_up_on_every_kind_of_cluster(overlay: str) -> None:
    (policy,) = [item["spec"] for item in of_kind(overlay, "NetworkPolicy") if item["metadata"]["name"] == "dns"]
    assert policy["policyTypes"] == ["Egress"]
    found = {}
    for rule in policy["egress"]:
        assert {port["protocol"] for port in rule["ports"]} == {"UDP", "TCP"}
        (port,) = {port["port"] for port in rule["ports"]}
        (peer,) = rule["to"]
        name = peer["ipBlock"]["cidr"] if "ipBlock" in peer else next(
            iter(peer["namespaceSelector"]["matchLabels"].values()))  # fmt: skip
        found[name] = port
    assert found == {"kube-system": 53, "169.254.20.10/32": 53, "openshift-dns": 5353}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_spread_over_zones_and_nodes(overlay: str) -> None:
    spread = [(item["spec"]["template"]["spec"], item["spec"]["template"]["metadata"]["labels"])
              for item in of_kind(overlay, "Deployment")]  # fmt: skip
    spread += [(item["spec"]["predictor"], {"serving.kserve.io/inferenceservice": item["metadata"]["name"]})
               for item in of_kind(overlay, "InferenceService")]  # fmt: skip
    assert spread
    for pod, labels in spread:
        constraints = pod["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in constraints] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for each in constraints:
            assert each["whenUnsatisfiable"] == "ScheduleAnyway"
            assert each["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_node_can_be_drained_and_one_pod_stays(overlay: str) -> None:
    least = {item["spec"]["scaleTargetRef"]["name"]: item["spec"]["minReplicas"]
             for item in of_kind(overlay, "HorizontalPodAutoscaler")}  # fmt: skip
    least |= {item["metadata"]["name"]: item["spec"]["replicas"] for item in of_kind(overlay, "Deployment")
              if "replicas" in item["spec"]}  # fmt: skip
    for item in of_kind(overlay, "InferenceService"):
        least[f"{item['metadata']['name']}-predictor"] = item["spec"]["predictor"]["minReplicas"]  # KServe's deployment
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert {budget["metadata"]["name"] for budget in budgets} == set(least)
    for budget in budgets:
        n_pods, spec = least[budget["metadata"]["name"]], budget["spec"]
        n_evictable = spec["maxUnavailable"] if "maxUnavailable" in spec else n_pods - spec["minAvailable"]
        assert 1 <= n_evictable < n_pods
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_openshift_chooses_the_users(overlay: str) -> None:
    """Its restricted-v2 SCC refuses ids outside the namespace's range, and needs the rest of the security context."""
    resources = rendered_with([f"../{overlay}", "../../loader"], ["openshift"])
    text = yaml.safe_dump(resources)
    assert not re.search(r"runAsUser|runAsGroup|fsGroup:", text)
    n_contexts = 0
    for resource in resources:
        if resource["kind"] in ("Deployment", "Pod", "ServingRuntime"):
            spec = resource["spec"].get("template", resource)["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                whole = {**spec.get("securityContext", {}), **container["securityContext"]}
                assert whole["runAsNonRoot"] is True
                assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
                n_contexts += 1
    assert n_contexts >= 3
    for name in ("server-cpu", "server-gpu", "balancer", "gateway"):  # a number: runAsNonRoot cannot check a name
        assert "\nUSER 10001:10001\n" in (ROOT / f"docker/{name}.Dockerfile").read_text()


def test_monitors_find_every_port_that_has_metrics() -> None:
    resources = with_component("monitoring")
    (monitor,) = [item["spec"] for item in resources if item["kind"] == "ServiceMonitor"]
    services = [item for item in of_kind("cpu", "Service")
                if monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()]  # fmt: skip
    assert [item["metadata"]["name"] for item in services] == ["tritone-replicas"]
    ports = {port["name"] for port in services[0]["spec"]["ports"]}
    jobs = {}
    for endpoint in monitor["endpoints"]:
        assert endpoint["port"] in ports
        jobs[endpoint["port"]] = endpoint["relabelings"][0]["replacement"]
    deployments = {item["metadata"]["name"]: item for item in of_kind("cpu", "Deployment")}
    for item in resources:
        if item["kind"] == "PodMonitor":
            template = deployments[item["metadata"]["name"]]["spec"]["template"]
            assert item["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
            (endpoint,) = item["spec"]["podMetricsEndpoints"]
            assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert ("authorization" in endpoint) is (endpoint["port"] == "rest")  # with keys, /metrics needs one
            jobs[endpoint["port"]] = endpoint["relabelings"][0]["replacement"]
    # Alerts and dashboard use the label `job` of docker/prometheus.
    scraped = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yaml").read_text())["scrape_configs"]
    assert set(jobs.values()) == {job["job_name"] for job in scraped}
    assert jobs == {"metrics": "tritone", "supervisor": "supervisor", "stats": "balancer", "rest": "gateway"}


def test_grafana_finds_the_dashboard() -> None:
    (board,) = [item for item in with_component("monitoring") if item["kind"] == "ConfigMap"]
    assert board["metadata"]["name"] == "tritone-dashboard"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["data"] == {"tritone.json": (ROOT / "docker/grafana/dashboards/tritone.json").read_text()}
    assert len(json.dumps(board)) < 262_144  # what `kubectl apply` can store in its annotation


@pytest.mark.parametrize("component", ["gateway-api", "ingress"])
def test_routes_lead_to_the_ports_of_balancer_and_gateway(component: str) -> None:
    resources = with_component(component)
    numbers = {
        (item["metadata"]["name"], port["name"]): port["port"]
        for item in resources
        if item["kind"] == "Service"
        for port in item["spec"]["ports"]
    }
    found = {}
    for item in resources:
        if item["kind"] in ("HTTPRoute", "GRPCRoute"):
            (rule,), (host,) = item["spec"]["rules"], item["spec"]["hostnames"]
            (backend,) = rule["backendRefs"]
            assert (backend["name"], backend["port"]) in {(name, number) for (name, _), number in numbers.items()}
            found[item["metadata"]["name"]] = (host, backend["name"], backend["port"])
        elif item["kind"] == "Ingress":
            (rule,) = item["spec"]["rules"]
            backend = rule["http"]["paths"][0]["backend"]["service"]
            assert item["spec"]["tls"][0]["hosts"] == [rule["host"]]
            found[item["metadata"]["name"]] = (
                rule["host"],
                backend["name"],
                numbers[backend["name"], backend["port"]["name"]],
            )
    assert found == {
        "tritone-http": ("tritone.example.com", "tritone", 8000),
        "tritone-grpc": ("grpc.tritone.example.com", "tritone", 8001),
        "tritone-rest": ("api.tritone.example.com", "tritone-gateway", 8080),
    }


def test_with_tls_the_plain_ports_are_closed() -> None:
    (service,) = [item for item in of_kind("mixed", "Service") if item["metadata"]["name"] == "tritone"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["https", "grpcs"]
    (policy,) = [item for item in of_kind("mixed", "NetworkPolicy") if item["metadata"]["name"] == "balancer"]
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == ["https", "grpcs"]
    plain = [rule for rule in policy["spec"]["ingress"] if {port["port"] for port in rule["ports"]} & {"http", "grpc"}]
    assert [rule["from"] for rule in plain] == [[{"podSelector": {"matchLabels": GATEWAYS}}]]


@pytest.mark.parametrize("overlay", WITH_GATEWAY)
def test_gateways_reach_the_balancer_and_nothing_else(overlay: str) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "NetworkPolicy")}
    (egress,) = policies["gateway"]["egress"]
    assert policies["gateway"]["podSelector"]["matchLabels"] == GATEWAYS
    assert egress == {"to": [{"podSelector": {"matchLabels": BALANCERS}}], "ports": [{"protocol": "TCP", "port": 8001}]}
    (ingress,) = policies["gateway"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "rest"}]
    assert all("namespaceSelector" in source for source in ingress["from"])  # no pod of this namespace calls it
    services = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "Service")}
    (gateway,) = [item for item in of_kind(overlay, "Deployment") if item["metadata"]["name"] == "tritone-gateway"]
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    server = container["args"][container["args"].index("--server") + 1]
    assert server == f"tritone-balancer:{services['tritone-balancer']['ports'][0]['port']}"
    assert services["tritone-balancer"]["selector"] == BALANCERS
    (balancer,) = [item for item in of_kind(overlay, "Deployment") if item["metadata"]["name"] == "tritone-balancer"]
    (port,) = [
        port for port in balancer["spec"]["template"]["spec"]["containers"][0]["ports"] if port["name"] == "grpc"
    ]
    assert port["containerPort"] == egress["ports"][0]["port"]
    assert services["tritone-gateway"]["selector"] == GATEWAYS
    assert services["tritone-gateway"]["ports"][0]["targetPort"] == container["ports"][0]["name"] == "rest"
    assert not any("nodePort" in port or spec.get("type", "ClusterIP") != "ClusterIP"
                   for spec in services.values() for port in spec["ports"])  # fmt: skip


@pytest.mark.parametrize("overlay", WITH_GATEWAY)
def test_gateways_read_their_keys_and_start_only_with_them(overlay: str) -> None:
    (name,) = [name for name, _ in pods(overlay) if name.endswith("tritone-gateway")]
    pod = dict(pods(overlay))[name]
    (container,) = pod["containers"]
    variables = {pair["name"]: pair.get("value", "") for pair in container["env"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    folder, _, file = variables["TRITONE_GATEWAY_KEYS"].rpartition("/")
    assert file == "keys.json"
    assert mounts[folder]["readOnly"] is True
    secret = volumes[mounts[folder]["name"]]["secret"]
    assert secret["secretName"] == "tritone-gateway-keys"
    assert not secret.get("optional", False)
    assert secret["defaultMode"] & 0o777 == 0o440
    folder, _, file = variables["TRITONE_SERVICE_KEY_FILE"].rpartition("/")
    assert file == "service.key"
    assert volumes[mounts[folder]["name"]]["secret"]["optional"] is True
    assert "--allow-anonymous" not in container["args"]
    kustomization = (KUBERNETES / "gateway/kustomization.yaml").read_text()
    assert "create secret generic tritone-gateway-keys --from-file=keys.json" in kustomization


def test_the_arguments_of_the_gateway_are_understood() -> None:
    """Those of the manifests, of Compose and of the image, by the command itself."""
    import typer.testing

    from tritone_cli.main import build_app

    (container,) = [item for _, _, item in containers("cpu") if item["name"] == "gateway"]
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["gateway"]["command"]
    (image,) = re.findall(r"^CMD (\[.*\])$", (ROOT / "docker/gateway.Dockerfile").read_text(), re.M)
    for arguments in (container["args"], compose, json.loads(image)):
        result = typer.testing.CliRunner().invoke(build_app(), [*map(str, arguments), "--print-openapi"])
        assert result.exit_code == 0, result.output
    result = typer.testing.CliRunner().invoke(build_app(), [*container["args"], "--drain", "-1", "--print-openapi"])
    assert result.exit_code == 2


@pytest.mark.parametrize("overlay", WITH_GATEWAY)
def test_a_gateway_that_stops_has_time_to_finish(overlay: str) -> None:
    """It serves for --drain seconds, while Kubernetes takes its address out of use, and then finishes its requests."""
    from tritone_gateway import GatewaySettings

    pod = next(pod for name, pod in pods(overlay) if name.endswith("tritone-gateway"))
    (container,) = pod["containers"]
    drain_s = float(container["args"][container["args"].index("--drain") + 1])
    defaults = GatewaySettings()
    longest_s = defaults.body_timeout_s + (1 + defaults.retries) * defaults.timeout_s
    assert pod["terminationGracePeriodSeconds"] >= drain_s + longest_s
    assert "lifecycle" not in container  # a preStop would delay SIGTERM, with which the drain begins
    assert drain_s >= 5
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["gateway"]
    assert int(compose["stop_grace_period"].removesuffix("s")) >= drain_s + longest_s
    assert float(compose["command"][compose["command"].index("--drain") + 1]) == drain_s


@pytest.mark.parametrize("overlay", WITH_GATEWAY)
def test_probes_of_the_gateway(overlay: str) -> None:
    """A gateway whose models are away is not restarted, but gets no requests."""
    pod = next(pod for name, pod in pods(overlay) if name.endswith("tritone-gateway"))
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["httpGet"] for name, probe in probes.items()} == {
        "startup": {"path": "/livez", "port": "rest"},
        "liveness": {"path": "/livez", "port": "rest"},
        "readiness": {"path": "/readyz", "port": "rest"},
    }
    assert probes["readiness"]["timeoutSeconds"] > 2  # as long as /readyz waits for the models


def test_the_metric_of_the_autoscaler_is_made() -> None:
    rules = (KUBERNETES / "monitoring/prometheus-adapter.yaml").read_text()
    for overlay in ("cpu", "gpu", "mixed"):
        for item in of_kind(overlay, "HorizontalPodAutoscaler"):
            (metric,) = [metric for metric in item["spec"]["metrics"] if metric["type"] == "Pods"]
            expected = "gateway_requests_in_flight" if "gateway" in item["metadata"]["name"] else "queue_milliseconds"
            assert metric["pods"]["metric"]["name"] == f"tritone_{expected}"
            assert f"as: {metric['pods']['metric']['name']}\n" in rules


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_the_autoscaler_also_goes_by_cpu(overlay: str) -> None:
    """For clusters, or times, without the adapter's metric; the CPU request that it is a share of is set."""
    for item in of_kind(overlay, "HorizontalPodAutoscaler"):
        (metric,) = [metric["resource"] for metric in item["spec"]["metrics"] if metric["type"] == "Resource"]
        assert metric == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 100}}
        (target,) = [deployment for deployment in of_kind(overlay, "Deployment")
                     if deployment["metadata"]["name"] == item["spec"]["scaleTargetRef"]["name"]]  # fmt: skip
        for container in target["spec"]["template"]["spec"]["containers"]:
            assert container["resources"]["requests"]["cpu"]


def test_scaling_by_cpu_alone() -> None:
    scaled = [item for item in with_component("cpu-scaling") if item["kind"] == "HorizontalPodAutoscaler"]
    assert len(scaled) == 2
    for item in scaled:
        assert [metric["type"] for metric in item["spec"]["metrics"]] == ["Resource"]


def test_kserve_names_a_runtime_that_is_there() -> None:
    (service,) = of_kind("kserve", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    runtime = next(item for item in of_kind("kserve", "ServingRuntime") if item["metadata"]["name"] == model["runtime"])
    assert model["modelFormat"]["name"] in {item["name"] for item in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_kserve_serves_the_folder_that_the_loader_fills() -> None:
    (loader,) = rendered_at(KUBERNETES / "loader")
    (container,) = loader["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    volume = next(item for item in loader["spec"]["volumes"] if item["name"] == mount["name"])
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim in {item["metadata"]["name"] for item in of_kind("kserve", "PersistentVolumeClaim")}
    assert loader["spec"]["serviceAccountName"] in {
        item["metadata"]["name"] for item in of_kind("kserve", "ServiceAccount")
    }
    for page in ("docs/how-to/kubernetes.md", "deploy/kubernetes/loader/kustomization.yaml"):
        (target,) = set(re.findall(r"cp model_repository/\. tritone-loader:(\S+)", (ROOT / page).read_text()))
        inside = Path(target).relative_to(mount["mountPath"])  # within the volume
        (service,) = of_kind("kserve", "InferenceService")
        uri = service["spec"]["predictor"]["model"]["storageUri"]
        assert uri.rstrip("/") == f"pvc://{claim}/{'' if inside == Path() else inside}".rstrip("/"), page
    # KServe mounts what the address names at /mnt/models; the other overlays mount the volume at /models.
    for runtime in of_kind("kserve", "ServingRuntime"):
        (container,) = runtime["spec"]["containers"]
        arguments = container["args"]
        assert arguments[arguments.index("--repository") + 1] == "/mnt/models"
        assert container["securityContext"]["runAsUser"] == loader["spec"]["securityContext"]["runAsUser"]
    for overlay in ("cpu", "gpu"):
        for _, pod, server in containers(overlay):
            if server["name"] == "triton":
                (mounted,) = [item for item in server["volumeMounts"] if item["name"] == "models"]
                (source,) = [item for item in pod["volumes"] if item["name"] == "models"]
                assert source["persistentVolumeClaim"]["claimName"] == claim
                assert "subPath" not in mounted
