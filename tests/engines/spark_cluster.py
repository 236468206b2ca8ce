"""A standalone Spark cluster on this machine: a master and one worker, each in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

START_WITHIN_S = 60.0


@contextmanager
def standalone_cluster(folder: Path, *, n_cores: int, environment: Mapping[str, str]) -> Iterator[str]:
    """Start a cluster and yield the URL of its master; stop it after the block.

    Args:
        folder: where logs and the files of applications are written.
        n_cores: of the worker.
        environment: additional variables of the worker and of the executors that it starts.
    """
    import pyspark

    home = Path(pyspark.__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"spark://127.0.0.1:{port}"
    common = os.environ | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
    own = ["--host", "127.0.0.1", "--webui-port", "0"]
    roles: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "master.Master": ([*own, "--port", str(port)], common),
        "worker.Worker": (
            [*own, "--cores", str(n_cores), "--memory", "1g", "--work-dir", str(folder / "work"), url],
            common | dict(environment),
        ),
    }
    with ExitStack() as processes:
        for role, (arguments, variables) in roles.items():
            log = folder / f"{role}.log"
            process = subprocess.Popen(
                [str(home / "bin/spark-class"), f"org.apache.spark.deploy.{role}", *arguments],
                env=variables,
                stdout=processes.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
            processes.callback(_stop, process)
            said = "I have been elected leader" if role == "master.Master" else "Successfully registered with master"
            _wait_for(said, log, process)
        yield url


def _wait_for(said: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    ends_s = time.monotonic() + START_WITHIN_S
    while said not in (text := log.read_text()):
        assert process.poll() is None, text[-3000:]
        assert time.monotonic() < ends_s, text[-3000:]
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)
