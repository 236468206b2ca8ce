"""What must hold everywhere: nothing that is loaded can run code, no name leads out of its folder, no secret shows.

The first part reads the source of every package, so that a new file is covered without a new test.
"""

from __future__ import annotations

import ast
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.conftest import FakeModel

from tritone import InferRequest, MusicClient
from tritone.arguments import check_model_name
from tritone.exceptions import InvalidModelNameError
from tritone_cli.main import build_app
from tritone_export.forgetting import forget_user
from tritone_export.repository import versions
from tritone_serving import ModelRepositoryError
from tritone_serving.recommender import artifact
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.pseudonyms import key_path
from tritone_serving.repository import servable_models

ROOT = Path(__file__).parents[3]
PACKAGES = ("cli", "client", "export", "gateway", "serving", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Modules that build objects from what they read, or run it.
CODE_LOADERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "yaml", "code"}
# `module.function` -> the keyword that makes it harmless, and its value.
MUST_SAY = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False)}
ALLOWED_IMPORTS = {
    ("pickle", "PickleError"),
    ("joblib.externals.loky", "ProcessPoolExecutor"),  # a pool of processes of this program
    ("joblib.externals.loky.process_executor", "TerminatedWorkerError"),
}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("tempfile", "mktemp")}
# Names of exceptions (torch raises UnpicklingError when a file holds more than tensors), functions that build plain
# values alone, and those that only write.
ALLOWED_ATTRIBUTES = {
    *(("pickle", name) for name in ("UnpicklingError", "PickleBuffer", "dumps")),
    *(("yaml", name) for name in ("YAMLError", "safe_load", "safe_dump", "SafeLoader", "composer", "constructor")),
    *(("yaml", name) for name in ("AliasEvent", "Node", "MappingNode", "ScalarNode")),
}


def findings(source: str) -> Iterator[str]:
    """What in a module could run code that came with data."""
    tree = ast.parse(source)
    safe = _safe_yaml_loads(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not ALLOWED_IMPORTS.issuperset(
            (node.module, name.name) for name in node.names if (node.module or "").partition(".")[0] in CODE_LOADERS
        ):
            yield f"line {node.lineno}: imports from {node.module}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            if pair[0] in CODE_LOADERS and pair not in ALLOWED_ATTRIBUTES and node not in safe:
                yield f"line {node.lineno}: uses {'.'.join(pair)}"
            if pair in SHELLS:
                yield f"line {node.lineno}: uses {'.'.join(pair)}"
            if pair[1] in ("read_pickle", "load_from_checkpoint", "extractall"):
                yield f"line {node.lineno}: uses {'.'.join(pair)}"
        if isinstance(node, ast.Call):
            yield from _findings_of_call(node)


def _safe_yaml_loads(tree: ast.Module) -> list[ast.expr]:
    """Return the `yaml.load` of the calls whose loader is a subclass of `yaml.SafeLoader` in the same module."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    loaders = {node.name for node in classes if [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load"]
    return [call.func for call in calls if len(call.args) == 2 and ast.unparse(call.args[1]) in loaders]


def _findings_of_call(node: ast.Call) -> Iterator[str]:
    said = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "__import__"):
        yield f"line {node.lineno}: calls {node.func.id}"
    if said.get("shell") not in (None, False):
        yield f"line {node.lineno}: starts a shell"
    if said.get("allow_pickle") not in (None, False):
        yield f"line {node.lineno}: allows pickles"
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        module = {"numpy": "np"}.get(node.func.value.id, node.func.value.id)
        wanted = MUST_SAY.get((module, node.func.attr))
        if wanted is not None and said.get(wanted[0]) is not wanted[1]:
            yield f"line {node.lineno}: {module}.{node.func.attr} without {wanted[0]}={wanted[1]}"


def test_nothing_that_is_loaded_can_run_code() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
    found = {
        str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := list(findings(path.read_text("utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x')",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(b'', yaml.Loader)",
        "import yaml\nclass Loader(yaml.UnsafeLoader): ...\nyaml.load(b'', Loader)",
        "from elsewhere import Loader\nimport yaml\nyaml.load(b'', Loader)",
        "eval('1')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import os\nos.system('x')",
        "import pandas as pd\npd.read_pickle('x')",
    ],
)
def test_the_reading_finds_what_it_looks_for(source: str) -> None:
    assert list(findings(source))


HOSTILE_NAMES = (
    "../x", "..", ".", "x/../../y", "/etc/passwd", "a/b", "a\\b", "", " ", "x\0", "x\n", "%2e%2e%2fx", "..%2f", "x y",
    "\uff58", "a;b", "$(id)", "`id`", "a" * 300 + "/",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_models_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelNameError):
        check_model_name(name)
    with pytest.raises(InvalidModelNameError):
        forget_user("42", tmp_path, model=name)
    model = tmp_path / "repository" / "m" / "1"
    model.mkdir(parents=True)
    with pytest.raises(ModelRepositoryError):
        servable_models(tmp_path / "repository", [name])
    asked = FakeModel()
    with MusicClient(transport=asked) as music:
        for call in (music.model_ready, lambda name: music.recommend(history=["a"], model=name)):
            with pytest.raises(InvalidModelNameError):
                call(name)
    assert asked.requests == []


def test_only_plain_numbers_are_versions(tmp_path: Path) -> None:
    good = ("1", "12")
    for name in (*good, "0", "01", "1.0", "-1", "+1", "\uff11", "1 ", "1a", ".1", "²"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [1, 12]
    assert servable_models(tmp_path.parent, [tmp_path.name]) == (tmp_path.name,)


def test_a_recordings_name_stays_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "..secret name; rm -rf.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 22_050), 22_050)
    asked = FakeModel()
    with MusicClient(transport=asked) as music:
        music.classify(path)
    sent = [request for request in asked.requests if isinstance(request, InferRequest)]
    assert sent
    for request in sent:
        assert "secret" not in request.request_id
        assert set(request.inputs) == {"audio"}


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".hidden", "x\0", ""])
def test_an_artifacts_arrays_lie_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    np.save(tmp_path / "x.npy", np.zeros(1))
    weights: dict[str, Any] = {"cold": {}, "short": {}, "warm": {}}
    manifest = {
        "format": artifact.FORMAT,
        "n_items": 1,
        "n_users": 1,
        "base_models": {"popularity": {"kind": "popularity"}},
        "ensembles": {"a": {"warm_from": 1, "weights": weights}},
        "key_check": "0123abcd",
        "weighting": {"power": 0.25, "skip": 0.5},
        "arrays": {name: {"shape": [1], "dtype": "<f8"}},
    }
    (folder / artifact.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="names an array"):
        artifact.open_artifact(folder)


@pytest.mark.parametrize("check", ["../x", "/etc/passwd", "", "ABCDEF12", "0" * 7, "0123456g"])
def test_a_keys_name_is_hexadecimal(check: str) -> None:
    with pytest.raises(ValueError, match="check value of a key is malformed"):
        key_path(check)


def options() -> Iterator[tuple[str, str, Any]]:
    """Each verb, and its options by name and type."""
    for command in build_app().registered_commands:
        assert command.callback is not None
        for option, kind in typing.get_type_hints(command.callback).items():
            yield command.callback.__name__, option, kind


def test_no_option_takes_a_secret_itself() -> None:
    """A command line is readable for everyone on the machine, is kept by shells, and goes into model cards."""
    words = {"token", "key", "password", "secret"}
    secret = [(verb, option, kind) for verb, option, kind in options() if words & set(option.split("_"))]
    assert {"admin_token_file", "api_key_file", "tls_key", "key"} <= {option for _, option, _ in secret}
    for verb, option, kind in secret:
        if option == "key" and verb in ("compose", "sample"):  # of the music
            continue
        assert Path in (kind, *typing.get_args(kind)), f"{verb} {option}: secrets come from files, not as {kind}"


def test_an_audit_that_cannot_ask_does_not_pass() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (command,) = [line for line in makefile.splitlines() if "/pip-audit " in line]
    assert {"--strict", "constraints.txt", "constraints-engines.txt"} <= set(command.split())
