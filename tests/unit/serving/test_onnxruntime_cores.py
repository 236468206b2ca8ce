"""Instances of the `onnxruntime` backend share the cores: real processes, real locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving.conftest import BACKENDS

from tritone_serving.server import runtime_folder as runtime

COMPUTE = """
import sys
sys.path.append(sys.argv[1])
from tritone_ort_cores import RunningInstances
instances = RunningInstances(sys.argv[2])
for line in sys.stdin:
    print(int(instances.enter()) if line == "enter\\n" else instances.leave() or "left", flush=True)
"""


class Instance:
    """Another process, which computes or does not."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", COMPUTE, str(BACKENDS / "onnxruntime"), str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def instance(path: Path) -> Iterator[Instance]:
    made = Instance(path)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


class Session:
    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, wanted: list[str], feed: dict[str, Any]) -> list[str]:
        if "bad" in feed:
            raise RuntimeError("bad")
        return [self.name]


def test_requests_are_answered_where_there_are_no_locks(backend: Any, tmp_path: Path) -> None:
    instances = backend.cores.RunningInstances(str(tmp_path / "running"))
    shared = backend.cores.CoreSharingSession(instances, all_cores=Session("all"), shared=Session("shared"))
    instances.close()
    assert [shared.run([], {}) for _ in range(5)] == 5 * [["shared"]]


def test_another_process_is_seen_while_it_computes_and_when_it_dies(backend: Any, tmp_path: Path) -> None:
    instances = backend.cores.RunningInstances(str(tmp_path / "running"))
    with instance(tmp_path / "running") as other:
        assert not instances.enter()
        assert other.tell("enter") == "1"
        assert instances.enter()
        instances.leave()
        assert other.tell("leave") == "left"
        assert other.tell("enter") == "0"  # the locks of this process are gone
        other.process.kill()
        other.process.wait()
        assert not instances.enter()
    instances.close()


def test_all_cores_are_taken_when_nobody_has_computed_lately(backend: Any, tmp_path: Path) -> None:
    instances = backend.cores.RunningInstances(str(tmp_path / "running"))
    cores = backend.cores.CoreSharingSession(instances, all_cores=Session("all"), shared=Session("shared"))
    n_calm = backend.cores.N_CALM
    with instance(tmp_path / "running") as other:
        assert cores.run([], {}) == ["all"]
        other.tell("enter")
        assert cores.run([], {}) == ["shared"]
        other.tell("leave")
        assert [cores.run([], {})[0] for _ in range(n_calm)] == ["shared"] * (n_calm - 1) + ["all"]
        with pytest.raises(RuntimeError, match="bad"):
            cores.run([], {"bad": 1})
        assert other.tell("enter") == "0"  # a run that failed is over, too
    instances.close()


@pytest.mark.parametrize(
    ("n_instances", "asked", "n_cores", "expected"),
    [
        (2, "0", 2, 1),
        (2, "0", 16, 8),
        (3, None, 8, 2),
        (4, "0", 2, 1),
        (1, "0", 8, None),
        (2, "3", 8, None),
        (2, "0", 1, None),
    ],
)
def test_an_instances_part_of_the_cores(
    backend: Any, n_instances: int, asked: str | None, n_cores: int, expected: int | None
) -> None:
    config: dict[str, Any] = {"instance_group": [{"count": n_instances, "kind": "KIND_CPU"}, {"kind": "KIND_GPU"}]}
    if asked is not None:
        config["parameters"] = {"intra_op_thread_count": {"string_value": asked}}
    assert backend.cores.shared_thread_count(config, n_cores=n_cores) == expected


def test_launcher_and_backend_name_the_same_variable(backend: Any) -> None:
    assert backend.cores.FILE_VARIABLE == runtime.RUNNING_FILE_VARIABLE
