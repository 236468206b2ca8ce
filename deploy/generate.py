"""Generate the files that repeat what other files define: the PrometheusRule and the Helm chart's templates.

    python deploy/generate.py            # or: make manifests

The kustomizations in deploy/kubernetes are the only source of the chart. Each component is rendered with and without,
and the lines in which the two differ become an `if` block of the template; `set_values` lists what becomes a value.
tests/deploy/test_chart.py compares what the chart renders with what kustomize renders.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/tritone"
ALERTS = ROOT / "docker/prometheus/alerts.yaml"
RULE = "components/monitoring/prometheus-rule.yaml"

# In every render; `conditions` says with which values each of these resources is part of a release.
RESOURCES = ("../../base", "../../pools/cpu", "../../pools/gpu", "../../gateway", "../../loader")
COMPONENTS = ("images", "monitoring")
# Components that the values turn on, with the condition for each. The order is that of the blocks in the templates.
OPTIONAL = {
    "object-store": ".Values.objectStore.secretName",
    "tls": ".Values.tls.secretName",
    "gateway-api": ".Values.gatewayApi.enabled",
    "ingress": ".Values.ingress.enabled",
    "api-key": ".Values.apiKey.secretName",
    "events": ".Values.events.url",
    "cpu-scaling": "(not .Values.autoscaling.queueMetric)",
    "openshift": ".Values.openshift",
}
GATEWAY_NAMES = ("tritone-gateway", "gateway", "tritone-rest")  # the last is that of its routes
MONITORING_KINDS = ("ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap")
HEADER = (
    "{{- /* Generated from deploy/kubernetes by deploy/generate.py; edit the kustomization, then run it again. */}}\n"
)
PASSWORD_VARIABLE = """{{- with .Values.events.passwordSecret.name }}
SPACES- name: TRITONE_EVENTS_PASSWORD
SPACES  valueFrom:
SPACES    secretKeyRef:
SPACES      key: {{ $.Values.events.passwordSecret.key }}
SPACES      name: {{ . }}
{{- end }}"""  # noqa: S105 - a template: the value may be left out within its component

Document = dict[str, Any]


def prometheus_rule() -> str:
    """Return the alerts of docker/prometheus as a resource of the Prometheus operator.

    A copy, because kustomize cannot embed a YAML file in a resource.
    """
    groups = ALERTS.read_text()
    return (
        "# Generated from docker/prometheus/alerts.yaml by deploy/generate.py.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: tritone\nspec:\n"
    ) + "".join(f"  {line}\n" if line else "\n" for line in groups.splitlines())


def render(*components: str) -> dict[tuple[str, str], Document]:
    """Return the resources with these components, by kind and name; the namespace is left out, which Helm creates."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        shutil.copytree(KUBERNETES, checkout / "deploy/kubernetes")
        shutil.copytree(ROOT / "docker/grafana/dashboards", checkout / "docker/grafana/dashboards")
        overlay = checkout / "deploy/kubernetes/overlays/chart"
        overlay.mkdir()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "tritone",
            "resources": list(RESOURCES),
            "components": [f"../../components/{name}" for name in (*COMPONENTS, *components)],
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        kubectl = Path(sys.executable).with_name("kubectl")
        command = [str(kubectl) if kubectl.exists() else "kubectl", "kustomize", str(overlay)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    documents = list(yaml.safe_load_all(done.stdout))
    return {(item["kind"], item["metadata"]["name"]): item for item in documents if item["kind"] != "Namespace"}


class Placeholders:
    """Marks in documents, each replaced in the YAML text by a piece of template."""

    def __init__(self) -> None:
        self._templates: list[tuple[str, bool]] = []

    def _new(self, template: str, whole_line: bool) -> str:
        self._templates.append((template, whole_line))
        return f"placeholder{len(self._templates) - 1:03d}x"  # a word that YAML leaves unquoted

    def scalar(self, expression: str) -> str:
        """Return a placeholder for one value."""
        return self._new(f"{{{{ {expression} }}}}", False)

    def block(self, value: str) -> str:
        """Return a placeholder for the list or mapping of a key."""
        return self._new(f"{{{{- toYaml {value} | nindent INDENT }}}}", False)

    def lines(self, template: str) -> str:
        """Return a placeholder, for a list item or a key without value, whose whole line is replaced."""
        return self._new(template, True)

    def optional(self, value: str) -> str:
        """Return a placeholder for further items of a list or mapping."""
        return self.lines(f"{{{{- with {value} }}}}\n{{{{- toYaml . | nindent INDENT }}}}\n{{{{- end }}}}")

    def optional_key(self, key: str, value: str) -> str:
        """Return a placeholder for a key that is left out while its value is empty."""
        return self.lines(f"{{{{- with {value} }}}}\nSPACES{key}: {{{{- toYaml . | nindent DEEPER }}}}\n{{{{- end }}}}")

    def filled(self, line: str) -> list[str]:
        """Return the lines of template for a line of YAML."""
        line = line.replace("{{", '{{ "{{" }}')  # Prometheus' and Grafana's own templates
        indent = len(line) - len(line.lstrip(" "))
        while found := re.search(r"placeholder(\d{3})x", line):
            template, whole_line = self._templates[int(found[1])]
            if whole_line:
                template = template.replace("DEEPER", str(indent + 2)).replace("INDENT", str(indent))
                return template.replace("SPACES", " " * indent).splitlines()
            line = line.replace(found[0], template.replace("INDENT", str(indent + 2)))
        return [line]


def set_values(kind: str, name: str, document: Document, placeholders: Placeholders) -> None:
    """Put placeholders where the chart has values."""
    metadata = document["metadata"]
    metadata["namespace"] = placeholders.scalar(".Release.Namespace")
    labels = metadata.setdefault("labels", {})
    labels[placeholders.lines('{{- include "tritone.labels" . | nindent INDENT }}')] = None
    if kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        labels[placeholders.optional(".Values.monitoring.labels")] = None
    spec = document.get("spec", {})
    if (kind, name) == ("PodMonitor", "tritone-gateway"):
        credentials = spec["podMetricsEndpoints"][0]["authorization"]["credentials"]
        credentials["name"] = placeholders.scalar(".Values.gateway.metricsSecretName")
    if (kind, name) == ("NetworkPolicy", "events"):
        spec["egress"][0]["ports"][0]["port"] = placeholders.scalar('include "tritone.eventsPort" .')
    if kind == "Deployment":
        _set_pod(name, spec["template"]["spec"], placeholders)
        if name == "tritone-balancer":
            spec["replicas"] = placeholders.scalar(".Values.balancer.replicas")
    elif kind == "Pod":
        _set_pod(name, spec, placeholders)
    elif kind == "HorizontalPodAutoscaler":
        _set_scaling(name, spec, placeholders)
    elif kind == "PersistentVolumeClaim":
        spec["accessModes"] = placeholders.block(".Values.models.accessModes")
        spec["resources"]["requests"]["storage"] = placeholders.scalar(".Values.models.size")
        template = "{{- with .Values.models.storageClass }}\nSPACESstorageClassName: {{ . }}\n{{- end }}"
        spec[placeholders.lines(template)] = None
    elif kind in ("HTTPRoute", "GRPCRoute"):
        spec["parentRefs"] = placeholders.block(".Values.gatewayApi.parentRefs")
        spec["hostnames"] = [placeholders.scalar(f".Values.gatewayApi.{name.rpartition('-')[2]}Host")]
    elif kind == "Ingress":
        host = placeholders.scalar(f".Values.ingress.{name.rpartition('-')[2]}Host")
        spec["ingressClassName"] = placeholders.scalar(".Values.ingress.className")
        spec["tls"] = [{"hosts": [host], "secretName": placeholders.scalar(".Values.ingress.tlsSecretName")}]
        spec["rules"][0]["host"] = host
        metadata["annotations"][placeholders.optional(".Values.ingress.annotations")] = None


def _set_scaling(name: str, spec: Document, placeholders: Placeholders) -> None:
    is_gateway = name == "tritone-gateway"
    pool = ".Values.gateway" if is_gateway else f".Values.pools.{name.rpartition('-')[2]}"
    target = ".Values.gateway.inFlight" if is_gateway else ".Values.autoscaling.queueMilliseconds"
    spec["minReplicas"] = placeholders.scalar(f"{pool}.minReplicas")
    spec["maxReplicas"] = placeholders.scalar(f"{pool}.maxReplicas")
    for metric in spec["metrics"]:
        if metric["type"] == "Pods":
            metric["pods"]["target"]["averageValue"] = placeholders.scalar(f"{target} | quote")
        else:
            metric["resource"]["target"]["averageUtilization"] = placeholders.scalar(".Values.autoscaling.cpuPercent")


def _set_pod(name: str, pod: Document, placeholders: Placeholders) -> None:
    pod[placeholders.optional_key("imagePullSecrets", ".Values.images.pullSecrets")] = None
    values = ".Values.gateway" if name == "tritone-gateway" else ".Values.balancer"
    if name.startswith("tritone-server-"):
        values = f".Values.pools.{name.rpartition('-')[2]}"
        pod["nodeSelector"] = placeholders.block(f"{values}.nodeSelector")
        for key in ("tolerations", "affinity"):
            pod.pop(key, None)
            pod[placeholders.optional_key(key, f"{values}.{key}")] = None
    for container in pod["containers"]:
        image = container["image"].partition("/")[2].partition(":")[0]
        container["image"] = placeholders.scalar(f'include "tritone.image" (list . "{image}")')
        if name != "tritone-loader":
            container["resources"] = placeholders.block(f"{values}.resources")
            _set_variables(container["env"], placeholders)
            container["env"].append(placeholders.optional(f"{values}.extraEnv"))
        if name == "tritone-gateway":
            container["args"].append(placeholders.optional(f"{values}.extraArgs"))
        elif name.startswith("tritone-server-"):
            container[placeholders.optional_key("args", f"{values}.args")] = None
    for container in pod.get("initContainers", []):
        container["image"] = placeholders.scalar(".Values.objectStore.image")
        container["envFrom"][0]["secretRef"]["name"] = placeholders.scalar(".Values.objectStore.secretName")
    secrets = {
        "tls": ".Values.tls.secretName",
        "recommender-keys": ".Values.recommenderKeys.secretName",
        "service-key": ".Values.serviceKey.secretName",
        "gateway-keys": ".Values.gateway.keysSecretName",
    }
    for volume in pod.get("volumes", []):
        if "persistentVolumeClaim" in volume:
            claim = '.Values.models.existingClaim | default "tritone-models"'
            volume["persistentVolumeClaim"]["claimName"] = placeholders.scalar(claim)
        elif "secret" in volume:
            volume["secret"]["secretName"] = placeholders.scalar(secrets[volume["name"]])


def _set_variables(env: list[Any], placeholders: Placeholders) -> None:
    for i, variable in enumerate(env):
        if variable["name"] == "TRITONE_REPLICAS":
            namespace, domain = placeholders.scalar(".Release.Namespace"), placeholders.scalar(".Values.clusterDomain")
            variable["value"] = f"tritone-replicas.{namespace}.svc.{domain}"
        elif variable["name"] == "TRITONE_API_KEY":
            variable["valueFrom"]["secretKeyRef"]["name"] = placeholders.scalar(".Values.apiKey.secretName")
        elif variable["name"] == "TRITONE_EVENTS":
            variable["value"] = placeholders.scalar(".Values.events.url | quote")
        elif variable["name"] == "TRITONE_EVENTS_PASSWORD":
            env[i] = placeholders.lines(PASSWORD_VARIABLE)


def conditions(kind: str, name: str) -> Iterator[str]:
    """Yield the conditions under which a release has a resource that every render has."""
    for pool in ("cpu", "gpu"):
        if name == f"tritone-server-{pool}":
            yield f".Values.pools.{pool}.enabled"
    if name in GATEWAY_NAMES or (kind, name) == ("Service", "tritone-balancer"):
        yield ".Values.gateway.enabled"
    if kind == "NetworkPolicy":
        yield ".Values.networkPolicy.enabled"
    if kind in MONITORING_KINDS:
        yield ".Values.monitoring.enabled"
    if name == "tritone-loader":
        yield ".Values.loader.enabled"
    if kind == "PersistentVolumeClaim":
        yield "(not .Values.models.existingClaim)"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Writes texts of several lines as blocks, so that a dashboard stays readable, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", ""))


def yaml_lines(document: Document) -> list[str]:
    """Return the lines of a document's YAML."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)
    return text.splitlines()


def block(condition: str, lines: list[str], otherwise: list[str]) -> list[str]:
    """Return an if block; either part may be empty."""
    if not lines:
        return [f"{{{{- if not {condition} }}}}", *otherwise, "{{- end }}"]
    middle = ["{{- else }}", *otherwise] if otherwise else []
    return [f"{{{{- if {condition} }}}}", *lines, *middle, "{{- end }}"]


def merged(base: list[str], variants: dict[str, list[str]]) -> list[str]:
    """Return the base's lines with an if block wherever a variant differs, by condition.

    Raises:
        ValueError: Two variants change the same lines in different ways.
    """
    changes: dict[tuple[int, int, tuple[str, ...]], list[str]] = {}
    for condition, lines in variants.items():
        matcher = difflib.SequenceMatcher(None, base, lines, autojunk=False)
        for tag, start, end, new_start, new_end in matcher.get_opcodes():
            if tag != "equal":
                changes.setdefault((start, end, tuple(lines[new_start:new_end])), []).append(condition)
    ordered = sorted(changes, key=lambda change: change[:2])  # stable: insertions in the order of the components
    for (start, end, _), (next_start, *_) in itertools.pairwise(ordered):
        if next_start < end:
            raise ValueError(f"two components change the same lines: expected disjoint changes, got {base[start:end]}")
    found, position = [], 0
    for start, end, changed in ordered:
        found += base[position:start]
        given = changes[start, end, changed]
        condition = given[0] if len(given) == 1 else f"(or {' '.join(given)})"
        found += block(condition, list(changed), base[start:end])
        position = end
    return found + base[position:]


def templates() -> dict[str, str]:
    """Return the chart's templates by file name."""
    base, variants = render(), {component: render(component) for component in OPTIONAL}
    found = {}
    for kind, name in dict.fromkeys(itertools.chain(base, *variants.values())):
        key = kind, name
        wanted = list(conditions(kind, name))
        changed = {
            OPTIONAL[each]: template_lines(key, documents) for each, documents in variants.items() if key in documents
        }
        if key in base:
            lines = merged(template_lines(key, base), changed)
            wanted += [f"(not {condition})" for condition in OPTIONAL.values() if condition not in changed]
        else:
            ((condition, lines),) = changed.items()  # a resource of one component
            wanted.append(condition)
        if wanted:
            lines = [
                f"{{{{- if {wanted[0] if len(wanted) == 1 else 'and ' + ' '.join(wanted)} }}}}",
                *lines,
                "{{- end }}",
            ]
        found[f"{kind.lower()}-{name}.yaml"] = HEADER + "\n".join(lines) + "\n"
    return found


def template_lines(key: tuple[str, str], documents: dict[tuple[str, str], Document]) -> list[str]:
    """Return the lines of a resource's template, as if no component were optional."""
    placeholders = Placeholders()
    document = copy.deepcopy(documents[key])
    set_values(*key, document, placeholders)
    return [filled for line in yaml_lines(document) for filled in placeholders.filled(line)]


def main() -> None:
    """Write the generated files."""
    (KUBERNETES / RULE).write_text(prometheus_rule())
    folder = CHART / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    for name, text in templates().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
