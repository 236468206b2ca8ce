"""Attack a served repository in every way that once crashed, filled or delayed a server, and report the outcome.

    python -m benchmarks.attack [ATTACK ...] [--server HTTP_URL,GRPC_URL | --repository DIR] [--report FILE] [--json]

On loopback, in a few minutes. Without `--server`, it starts `tritone serve` with its supervisor on tiny models (or on
`--repository`) and, where HAProxy is installed, two more of them behind the load balancer (`--behind server balancer`
chooses). Canaries of another model are sent all the while, over both protocols. Columns: what was sent; what came back;
how long a canary went without an answer and its p99, of the worse protocol; how often a server ended, and how many of
several; resident memory of servers and models before and after.

Exit status 1 if a server ended or kept more than 100 MB, if a canary had no answer for 3 s, or if what should be
refused was answered with success.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.deploy.balancing import HOSTS, ROOT, free_ports, haproxy_path, start_haproxy
from tests.deploy.name_server import NameServer

from benchmarks.attack_requests import ATTACKS, Attack, AttackResult, AttackTarget
from benchmarks.fuzzing import servers
from benchmarks.fuzzing.requests import valid_inputs
from benchmarks.replica import Replica
from tritone import ClientError, InferRequest
from tritone.endpoints import make_endpoint
from tritone.transports import make_transport
from tritone_serving.calls import Calls
from tritone_serving.supervision.processes import family

PAUSE_S: Final = 0.05
CANARY_TIMEOUT_S: Final = 30.0
RECOVERY_S: Final = 90.0
SETTLE_S: Final = 1.5
MAX_GROWTH_MB: Final = 100.0
MAX_GAP_S: Final = 3.0
_PAGE_MB: Final = 4096 / 1e6


@dataclass
class AttackSetup:
    """The target of an attack: one server, or a load balancer with servers behind it.

    Attributes:
        replicas: those that this process started; none of `--server`.
    """

    name: str
    http_url: str
    grpc_url: str
    replicas: Sequence[Replica] = ()

    def pids(self) -> list[int]:
        """Process ids of the Triton servers, 0 for one that does not run."""
        found = []
        for replica in self.replicas:
            try:
                found.append(replica.server_pid)
            except ProcessLookupError:
                found.append(0)
        return found

    def memory_mb(self) -> float:
        """Resident memory of all their processes, shared memory excluded."""
        pids = [each for replica in self.replicas for each in family(replica.process.pid)]
        return sum(_resident_mb(pid) for pid in pids)

    def is_given_up(self) -> bool:
        """Whether a supervisor has ended."""
        return any(replica.process.poll() is not None for replica in self.replicas)

    def recover(self) -> bool:
        """Wait until every server answers; return whether they do."""
        deadline_s = time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline_s and not self.is_given_up():
            if all(replica.answers(2.0) for replica in self.replicas):
                return True
            time.sleep(0.2)
        return not self.replicas

    def restart(self) -> None:
        """Restart servers whose supervisor gave up, so that the next attack has a target."""
        for replica in self.replicas:
            if replica.process.poll() is not None or not replica.answers(2.0):
                replica.kill()
                replica.start()


class Canary:
    """Sends requests to one model continuously, over one protocol and without retries."""

    def __init__(self, url: str, config: Any) -> None:
        self.answered_s: list[float] = []
        self.latencies_s: list[float] = []
        self._transport = make_transport(make_endpoint(url))
        inputs = valid_inputs(config, np.random.default_rng(5))
        self._request = InferRequest(config.name, "canary", inputs, tuple(each.name for each in config.output))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Canary:
        self._thread.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(CANARY_TIMEOUT_S)
        self._transport.close()

    def longest_gap_s(self, begun_s: float, ended_s: float) -> float:
        """The longest time without any answer."""
        moments = [begun_s, *(at_s for at_s in self.answered_s if begun_s < at_s < ended_s), ended_s]
        return float(max(np.diff(moments)))

    def p99_s(self, begun_s: float) -> float:
        """The 99th percentile of response times since then."""
        pairs = zip(self.answered_s, self.latencies_s, strict=True)
        return float(np.percentile([latency for at_s, latency in pairs if at_s > begun_s] or [np.inf], 99))

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            asked_s = time.monotonic()
            with contextlib.suppress(ClientError):
                self._transport.handle(self._request, timeout_s=CANARY_TIMEOUT_S)
                self.answered_s.append(time.monotonic())
                self.latencies_s.append(time.monotonic() - asked_s)


def main() -> int:
    """Attack, and print a table in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; default: all")
    parser.add_argument("--server", help="HTTP and gRPC addresses of a running server, separated by a comma")
    parser.add_argument("--repository", type=Path, help="repository to serve; default: tiny models of every kind")
    parser.add_argument("--behind", nargs="+", choices=("server", "balancer"), default=["server", "balancer"])
    parser.add_argument("--balancer", type=Path, default=ROOT / "docker", help="folder with run-balancer.sh")
    parser.add_argument("--no-music", action="store_true", help="leave out the models that write music (faster)")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := sorted(set(options.attacks) - ATTACKS.keys()):
        parser.error(f"no such attack: {', '.join(unknown)}; there are {', '.join(ATTACKS)}")
    chosen = {name: ATTACKS[name] for name in options.attacks or ATTACKS}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tritone-attack-") as folder:
        for world in _worlds(options, Path(folder)):
            for attack in chosen.values():
                rows.append(attacked(world, attack))
                print(_line(rows[-1]), file=sys.stderr, flush=True)
    passed = all(row["passed"] for row in rows)
    text = json.dumps({"rows": rows, "passed": passed}, indent=2) if options.json else table(rows)
    print(text)
    if options.report:
        options.report.write_text(text + "\n", encoding="utf-8")
    return 0 if passed else 1


def attacked(world: AttackSetup, attack: Attack) -> dict[str, Any]:
    """Run one attack and return its row: the outcome for the servers and for the canary."""
    with Calls(make_endpoint(world.grpc_url)) as calls:
        models = calls.models(timeout_s=30)
        configs = {model: calls.config(model, timeout_s=30) for model in models}
    pids, memory_mb = world.pids(), world.memory_mb()
    host, _, port = world.http_url.removeprefix("http://").partition(":")
    last = list(pids)

    def is_alive() -> bool:
        time.sleep(0.05)  # an ended process remains visible for a moment
        return world.pids() == last

    def recover() -> bool:
        is_back = world.recover()
        last[:] = world.pids()
        return is_back

    target = AttackTarget(host, int(port), world.grpc_url, configs, is_alive, recover)
    bystander = configs[attack.bystander]
    with Canary(world.grpc_url, bystander) as grpc, Canary(world.http_url, bystander) as http, _Ends(world) as ends:
        begun_s = time.monotonic()
        try:
            sent = attack.act(target)
        except KeyError as error:  # a model that this repository does not have
            sent = AttackResult(f"not sent: there is no model {error}")
        is_back = world.recover()
        time.sleep(SETTLE_S)
        ended_s = time.monotonic()
    row = {
        "behind": world.name,
        "attack": attack.name,
        "sent": sent.what,
        "answers": dict(sent.answers),
        "accepted": sent.n_accepted,
        "gap_s": round(max(canary.longest_gap_s(begun_s, ended_s) for canary in (grpc, http)), 2),
        "p99_ms": round(1000 * max(canary.p99_s(begun_s) for canary in (grpc, http)), 1),
        "ended": ends.n,
        "replicas": ends.n_replicas,
        "given_up": world.is_given_up() or not is_back,
        "memory_mb": [round(memory_mb), round(world.memory_mb())],
    }
    growth_mb = row["memory_mb"][1] - row["memory_mb"][0]
    is_refused = not (attack.wants_refusal and sent.n_accepted)
    row["passed"] = bool(
        is_refused and not ends.n and not row["given_up"] and growth_mb < MAX_GROWTH_MB and row["gap_s"] < MAX_GAP_S
    )
    if row["given_up"]:
        world.restart()
    return row


class _Ends:
    """Counts how often servers end, and how many of them do."""

    def __init__(self, world: AttackSetup) -> None:
        self.n = 0
        self._world, self._ended = world, set[int]()
        self._last = world.pids()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def n_replicas(self) -> int:
        return len(self._ended)

    def __enter__(self) -> _Ends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        self._look()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> None:
        now = self._world.pids()
        for place, (before, after) in enumerate(zip(self._last, now, strict=True)):
            if before and before != after:
                self.n += 1
                self._ended.add(place)
        self._last = now


def _worlds(options: argparse.Namespace, folder: Path) -> Iterator[AttackSetup]:
    if options.server:
        http_url, _, grpc_url = options.server.partition(",")
        yield AttackSetup("a server given", http_url, grpc_url)
        return
    if options.repository is None:
        os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        # Each replica has a state folder of its own, and all of them one recommender.
        os.environ["TRITONE_RECOMMENDER_KEY"] = f"{folder}/state/tritone/recommender-keys"
    repository = options.repository or servers.make_repository(folder, music=not options.no_music)
    if "server" in options.behind:
        http, grpc, metrics = free_ports(3)
        replica = Replica(repository, folder / "alone", host=HOSTS[0], ports=(http, grpc, metrics))
        try:
            yield AttackSetup("server", replica.http_url, replica.grpc_url, [replica])
        finally:
            replica.stop()
    if "balancer" in options.behind and haproxy_path() is not None:
        with contextlib.ExitStack() as stack:
            ports: Any = tuple(free_ports(3, "0.0.0.0"))  # noqa: S104 - looked for on every address, bound on none
            replicas = []
            for host in HOSTS:
                replicas.append(Replica(repository, folder / host, host=host, ports=ports))
                stack.callback(replicas[-1].stop)
            names = NameServer(list(HOSTS))
            stack.callback(names.close)
            balancer = start_haproxy(
                names.place, ports[:2], folder / "balancer.log", folder=options.balancer,
                TRITONE_MAX_REQUESTS_10S="1000000",
            )  # fmt: skip
            stack.callback(balancer.stop)
            yield AttackSetup("balancer, 2 replicas", balancer.http, balancer.grpc, replicas)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    head = ("behind", "attack", "sent", "answers", "canary's longest gap, p99", "servers ended", "memory", "")
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(_line(row) for row in rows)])


def _line(row: Mapping[str, Any]) -> str:
    answers = ", ".join(f"{n} x {answer}" for answer, n in sorted(row["answers"].items()))
    ended = f"{row['ended']} ({row['replicas']} replicas)" if row["replicas"] > 1 else str(row["ended"])
    before_mb, after_mb = row["memory_mb"]
    cells = (
        row["behind"], row["attack"], row["sent"], answers, f"{row['gap_s']:.1f} s, {row['p99_ms']:.0f} ms",
        f"{ended}, **given up**" if row["given_up"] else ended, f"{before_mb} to {after_mb} MB",
        "ok" if row["passed"] else "**fails**",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _resident_mb(pid: int) -> float:
    try:
        n_pages, n_shared = (int(number) for number in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except OSError:
        return 0.0
    return (n_pages - n_shared) * _PAGE_MB


if __name__ == "__main__":
    sys.exit(main())
