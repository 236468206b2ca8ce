"""Dockerfiles, their scripts and Compose files: linted, pinned, without root, on loopback."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.deploy.rendering import ROOT

from tritone.credentials import default_key_file

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS = sorted(DOCKER.glob("*.sh"))
SERVERS = ("server-cpu", "server-gpu")


def lines(path: Path, instruction: str) -> list[str]:
    joined = path.read_text().replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.*)$", joined, re.M)


def compose(*names: str) -> dict[str, Any]:
    """A Compose file, with those laid over it merged in as far as these tests look."""
    whole: dict[str, Any] = {}
    for name in names:
        for service, said in yaml.safe_load((DOCKER / name).read_text())["services"].items():
            whole.setdefault(service, {}).update(said)
    return whole


def unset(value: str) -> str:
    """What Compose makes of a value while no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_each_image_is_pinned_and_installed_by_its_one_script(path: Path) -> None:
    (base,) = [line for line in lines(path, "ARG") if line.startswith("BASE=")]
    assert re.fullmatch(r"BASE=[\w./-]+:[\w.-]*\d+\.?\d+[\w.-]*", base), base
    script = DOCKER / f"install-{path.stem}.sh"
    *before, base_image = lines(path, "FROM")
    *built, dependencies, application = lines(path, "RUN")
    assert base_image == "${BASE}"
    if path.stem == "gateway":
        (node,) = [line for line in lines(path, "ARG") if line.startswith("NODE=")]
        assert re.fullmatch(r"NODE=node:\d+\.\d+\.\d+[\w.-]*", node), node
        assert before == ["${NODE} AS page"]
        assert built == [f"bash /src/docker/{script.name} {step} /src" for step in ("packages", "page")]
    else:
        assert before == built == []
    assert re.search(rf"\bbash /src/docker/{script.name} dependencies /src$", dependencies)
    assert re.search(rf"\bbash /src/docker/{script.name} application /src && rm -rf /src$", application)
    assert lines(path, "USER")[-1] == "10001:10001"
    if path.stem in ("train",):
        assert lines(path, "HEALTHCHECK") == ["NONE"]
    else:
        assert len(lines(path, "HEALTHCHECK")) == 1
    if path.stem != "balancer":
        text = script.read_text() + (DOCKER / "common.sh").read_text()
        assert '--constraint "$source_folder/constraints.txt" --requirement' in text
        assert "--no-deps" in text


# An edit of these may install the dependencies again.
DEPENDENCY_FILES = {"pyproject.toml", "constraints.txt", "docker/common.sh", "docker/requirements.py"}


def layers(path: Path, root: Path, n: int | None = None) -> list[tuple[str, str]]:
    """Return instruction and cache key of the first n layers, or of all, as a builder computes them.

    A key covers the instruction, the content of the files that it copies, or the stage, and the layer below.
    """
    found: list[tuple[str, str]] = []
    key, stage = "", ""
    stages: dict[str, str] = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if not re.fullmatch("[A-Z]+", instruction):
            continue
        if instruction == "FROM":
            stages[stage] = key
            key, stage = "", rest.partition(" AS ")[2]
        digest = hashlib.sha256(f"{key} {line}".encode())
        if instruction == "COPY" and rest.startswith("--from="):
            digest.update(stages[rest.split()[0].removeprefix("--from=")].encode())
        elif instruction == "COPY":
            for source in rest.split()[:-1]:
                place = root / source
                for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                    if file.is_file():
                        digest.update(f"{file.relative_to(root)}".encode() + file.read_bytes())
        key = digest.hexdigest()
        found.append((line, key))
        if len(found) == n:
            break
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that reach a build."""
    root = tmp_path_factory.mktemp("checkout")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        place = ROOT / line.removeprefix("!")
        if line.startswith("!") and place.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "node_modules", "static")
            shutil.copytree(place, root / place.name, ignore=ignored)
        elif line.startswith("!"):
            shutil.copy(place, root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_edit_of_the_source_installs_no_dependency_again(path: Path, checkout: Path) -> None:
    before = layers(path, checkout)
    (last,) = [i for i, (line, _) in enumerate(before) if line.startswith("RUN") and "dependencies" in line]
    installing = {*DEPENDENCY_FILES, f"docker/install-{path.stem}.sh"}
    if path.stem == "train":  # also for Ray and Spark
        installing.add("constraints-engines.txt")
    edited, rebuilt = 0, set()
    for file in sorted(checkout.rglob("*")):
        if not file.is_file():
            continue
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        after = layers(path, checkout, last + 1)
        file.write_bytes(content)
        edited += 1
        if after[last] != before[last]:
            rebuilt.add(str(file.relative_to(checkout)))
    assert edited > 100
    assert rebuilt <= installing
    assert {"docker/common.sh", f"docker/install-{path.stem}.sh"} <= rebuilt
    if path.stem != "balancer":
        assert rebuilt == installing
        source = checkout / "serving/tritone_serving/__init__.py"
        content = source.read_bytes()
        source.write_bytes(content + b"\n")
        assert layers(path, checkout)[last + 1 :] != before[last + 1 :]  # the source itself is installed again
        source.write_bytes(content)


def test_an_edit_of_the_page_builds_it_again_without_its_packages(checkout: Path) -> None:
    path = DOCKER / "gateway.Dockerfile"
    before = dict(layers(path, checkout))
    source = checkout / "studio/src/main.tsx"
    content = source.read_bytes()
    source.write_bytes(content + b"\n")
    after = dict(layers(path, checkout))
    source.write_bytes(content)
    rebuilt = {line.split()[3] for line in before if line.startswith("RUN") and after[line] != before[line]}
    assert rebuilt == {"page", "application"}
    assert any(line.startswith("COPY --from=page") and after[line] != before[line] for line in before)


@pytest.mark.parametrize(
    ("extras", "wanted", "unwanted"),
    [
        (["serve"], {"nvidia-pytriton", "onnxruntime", "prometheus-client", "symusic"}, {"torch", "onnx", "fastapi"}),
        (
            ["backends"],
            {"onnxruntime", "usearch", "symusic", "pretty-midi"},
            {"nvidia-pytriton", "torch", "matplotlib"},
        ),
        (["gateway"], {"fastapi", "uvicorn", "limits", "music21"}, {"nvidia-pytriton", "onnxruntime", "torch"}),
        (["train", "export"], {"torch", "onnx", "symusic", "duckdb"}, {"nvidia-pytriton", "pytest"}),
    ],
)
def test_the_requirements_of_images(extras: list[str], wanted: set[str], unwanted: set[str]) -> None:
    def names(requirements: Iterable[str]) -> set[str]:
        return {canonicalize_name(Requirement(each).name) for each in requirements}

    command: list[str | Path] = [sys.executable, DOCKER / "requirements.py", ROOT / "pyproject.toml", *extras]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert wanted <= names(printed)
    assert not unwanted & names(printed)
    assert "tritone" not in names(printed)  # it would be installed from an index
    assert names(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]) <= names(printed)
    pinned = names(line for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert names(printed) <= pinned


def test_scripts_refuse_other_steps() -> None:
    for path in DOCKERFILES:
        command: list[str | Path] = ["bash", DOCKER / f"install-{path.stem}.sh", "everything", "/src"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "dependencies|application" in done.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_servers_are_judged_by_what_their_models_answer(name: str) -> None:
    (check,) = lines(DOCKER / f"{name}.Dockerfile", "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python3"
    assert ":8003/ready" in command[-1]
    within = float(re.search(r"timeout=(\d+)\)", command[-1])[1])  # type: ignore[index]
    assert within < float(re.search(r"--timeout=(\d+)s", check)[1])  # type: ignore[index]  # else Docker cuts it short


def test_the_gateway_is_judged_by_its_readiness() -> None:
    (check,) = lines(DOCKER / "gateway.Dockerfile", "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "python3"
    assert ":8080/readyz" in command[-1]
    within = float(re.search(r"timeout=(\d+)\)", command[-1])[1])  # type: ignore[index]
    assert 2 < within < float(re.search(r"--timeout=(\d+)s", check)[1])  # type: ignore[index]  # the models have 2 s
    assert lines(DOCKER / "gateway.Dockerfile", "EXPOSE") == ["8080"]


def test_the_gateways_script_refuses_a_checkout_without_the_page(tmp_path: Path) -> None:
    command: list[str | Path] = ["bash", DOCKER / "install-gateway.sh", "application", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the page is not built" in done.stderr


@pytest.mark.parametrize("name", [*SERVERS, "gateway"])
def test_servers_log_json(name: str) -> None:
    (command,) = lines(DOCKER / f"{name}.Dockerfile", "CMD")
    words = json.loads(command)
    assert words[words.index("--log-format") + 1] == "json"


@pytest.mark.parametrize("extra", ["backends", "serve-gpu"])
def test_server_images_install_what_the_supervisor_imports(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith("prometheus-client") for requirement in extras[extra])
    assert "tritone[backends]" in extras["serve"]


def test_the_balancers_image_has_all_that_its_configuration_loads() -> None:
    texts = [path.read_text() for path in sorted(DOCKER.glob("haproxy*.cfg"))]
    for path in DOCKER.glob("haproxy*.cfg"):
        assert f"docker/{path.name}" in (DOCKER / "balancer.Dockerfile").read_text()
        assert f"docker/{path.name}" in (DOCKER / "install-balancer.sh").read_text()
    loaded = [name for text in texts for name in re.findall(r"^ *lua-load.*/([\w.]+)\"", text, re.M)]
    assert set(loaded) == {path.name for path in DOCKER.glob("*.lua")}
    for name in loaded:
        assert (DOCKER / name).is_file()
        assert f"docker/{name}" in (DOCKER / "balancer.Dockerfile").read_text()
        assert f"docker/{name}" in (DOCKER / "install-balancer.sh").read_text()


def test_classification_is_let_through_for_outputs_of_numbers_alone() -> None:
    """Of an output of type BYTES it ends Triton 2.51; clients may use it for outputs with label files."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    allowed = compose("compose.yaml")["balancer"]["environment"]["TRITONE_CLASSIFICATION_OUTPUTS"]
    names = re.fullmatch(r"\$\{TRITONE_CLASSIFICATION_OUTPUTS:-(.*)\}", allowed)[1].split()  # type: ignore[index]
    assert names == ["probabilities", "emotions", "tags"]
    assert f'"{" ".join(names)}"' in (DOCKER / "inspect_requests.lua").read_text()
    assert f"value: {' '.join(names)}}}" in (ROOT / "deploy/kubernetes/base/balancer.yaml").read_text()
    n_texts = 0
    for path in sorted((ROOT / "model_repository").glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        texts = [each.name for each in config.output if each.data_type == model_config_pb2.TYPE_STRING]
        assert not set(texts) & set(names), path
        n_texts += len(texts)
    assert n_texts > 5


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert path.name == "common.sh" or "common.sh" in text or "set -euo pipefail" in text


def test_nothing_but_code_reaches_a_build() -> None:
    said = (ROOT / ".dockerignore").read_text().splitlines()
    assert "**" in said
    admitted = {line[1:] for line in said if line.startswith("!")}
    for hidden in (
        "docker/.env",
        "docker/prometheus/gateway.key",
        "studio/node_modules",
        "gateway/tritone_gateway/static",
    ):
        assert said.index(hidden) > said.index(f"!{hidden.partition('/')[0]}")
    assert admitted.isdisjoint({"model_repository", "runs", "demo", ".git", ".venv", "tests"})
    for path in DOCKERFILES:
        for copied in lines(path, "COPY"):
            if copied.startswith("--from="):  # from another stage
                continue
            *sources, _ = copied.split()
            assert all(source == "." or source.split("/")[0] in admitted for source in sources), copied


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_follows_the_specification(name: str) -> None:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    said = yaml.safe_load((DOCKER / name).read_text())
    jsonschema.validate(said, schema)
    said["services"]["server"]["shmsize"] = "1gb"
    with pytest.raises(jsonschema.ValidationError, match="shmsize"):
        jsonschema.validate(said, schema)


def test_compose_services_are_locked_in() -> None:
    services = compose("compose.yaml")
    assert set(services) == {"server", "balancer", "gateway", "valkey", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(unset(service["user"]).partition(":")[0]) > 0, name
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is reachable from elsewhere: {port}"
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                assert volume.endswith(":ro"), name
            elif volume["type"] == "bind":
                assert volume["read_only"] is True, name
                assert (DOCKER / volume["source"]).exists(), volume["source"]


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_compose_servers_have_what_triton_needs(names: tuple[str, ...]) -> None:
    server = compose(*names)["server"]
    assert server["shm_size"] == "1gb"
    assert "exec" in server["tmpfs"][0]  # Triton loads its backends from there
    assert "ports" not in server  # only the balancer is called
    assert (DOCKER.parent / server["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
@pytest.mark.parametrize("which", ["recommender keys", "service key"])
def test_compose_servers_find_the_keys_and_start_without(names: tuple[str, ...], which: str) -> None:
    server = compose(*names)["server"]
    folder, variable = server["environment"]["TRITONE_RECOMMENDER_KEY"], "TRITONE_RECOMMENDER_KEYS"
    if which == "service key":
        path = Path(server["environment"]["TRITONE_SERVICE_KEY_FILE"])
        folder, variable = str(path.parent), "TRITONE_SERVICE_KEY_FOLDER"
        assert path.name == default_key_file().name
    (mount,) = [volume for volume in server["volumes"] if isinstance(volume, str) and f":{folder}:" in volume]
    assert mount.startswith(f"${{{variable}:-")
    assert not folder.startswith("/tmp"), "what Docker makes on the way there is root's, and the server writes there"
    volume, _, target = unset(mount).partition(":")
    assert target == f"{folder}:ro"
    assert volume in yaml.safe_load((DOCKER / "compose.yaml").read_text())["volumes"]  # no folder: an empty volume
    assert "TRITONE_USER" in server["user"]  # the keys' owner alone may read them


def test_compose_puts_the_gateway_between_balancer_and_clients() -> None:
    services = compose("compose.yaml")
    gateway, balancer = services["gateway"], services["balancer"]
    assert "ports" not in gateway  # the balancer's alone is published
    assert gateway["networks"] == ["inside"]  # which has no way out
    assert balancer["environment"]["TRITONE_GATEWAYS"] == "gateway"
    assert "127.0.0.1:8080:8080" in balancer["ports"]
    assert gateway["command"][gateway["command"].index("--server") + 1] == "balancer:8001"
    # The gateways' own API keys: a folder of this machine, else an empty volume, and then callers need none.
    folder, _, name = gateway["environment"]["TRITONE_GATEWAY_KEYS"].rpartition("/")
    assert name == "keys.json"
    assert f"${{TRITONE_GATEWAY_KEYS_FOLDER:-gateway-keys}}:{folder}:ro" in gateway["volumes"]
    assert "gateway-keys" in yaml.safe_load((DOCKER / "compose.yaml").read_text())["volumes"]
    assert "--allow-anonymous" in gateway["command"]
    assert all(port.startswith("127.0.0.1:") for port in balancer["ports"])
    assert gateway["environment"]["TRITONE_API_KEY"] == services["server"]["environment"]["TRITONE_API_KEY"]


def test_compose_hands_on_an_api_key_and_keeps_it_out_of_images() -> None:
    assert compose("compose.yaml")["server"]["environment"]["TRITONE_API_KEY"] == "${TRITONE_API_KEY:-}"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored.index("docker/.env") > ignored.index("!docker")
    assert "/docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("place", ["docs/tutorials/deploy.md", "docker/compose.yaml"])
def test_the_settings_that_the_pages_write_are_those_of_compose(place: str, tmp_path: Path) -> None:
    commands = re.findall(r"(?:printf '|echo \")TRITONE_.*", (ROOT / place).read_text())
    command = "\n".join(commands)
    (tmp_path / "docker").mkdir()
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env={"HOME": "/home/me", "PATH": os.defpath}, check=True)
    settings = dict(line.split("=") for line in (tmp_path / "docker/.env").read_text().splitlines())
    assert settings == {
        "TRITONE_USER": f"{os.getuid()}:{os.getgid()}",
        "TRITONE_RECOMMENDER_KEYS": "/home/me/.local/state/tritone/recommender-keys",
        "TRITONE_SERVICE_KEY_FOLDER": "/home/me/.local/state/tritone/service",
    }


def test_grafana_is_provisioned() -> None:
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/tritone.yaml").read_text())["providers"][0]
    services = compose("compose.yaml")
    mounted = {volume["target"]: volume["source"] for volume in services["grafana"]["volumes"]}
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    assert source["url"] == "http://prometheus:9090"
    board = json.loads((DOCKER / "grafana/dashboards/tritone.json").read_text())
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/tritone.json"
