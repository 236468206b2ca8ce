"""Try to read data about a recommender's users without authorisation.

    python -m benchmarks.attack_privacy [--repository DIR | --server HOST:PORT --http HOST:PORT] [--json]

Without options it serves an artifact of simulated listeners. `--repository` serves yours, `--server` attacks a server
on this machine; both need the ids of two stored users (--victim, --other). It sends about 150 requests, and --timed
pairs to compare response times. The exit status is 1 if anything was read; response times do not affect it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import recommender_artifacts as models

from benchmarks.attack_privacy_probes import N_TIMED, ProbeTarget, run_all
from tritone_serving import ServerOptions, TritonServer

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def main() -> None:
    """Run all probes and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path)
    parser.add_argument("--server", help="host:port of a running server's gRPC, on loopback")
    parser.add_argument("--http", help="host:port of its HTTP")
    parser.add_argument("--victim", help="id of a stored user")
    parser.add_argument("--other", help="id of another one")
    parser.add_argument("--service-key-file", type=Path, help="default: this user's own")
    parser.add_argument("--timed", type=int, default=N_TIMED)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (arguments.repository or arguments.server) and not (arguments.victim and arguments.other):
        parser.error("--victim and --other are needed with --repository and --server")
    if arguments.server and (not arguments.http or arguments.server.rpartition(":")[0] not in LOOPBACK):
        parser.error("--server goes with --http, and only with an address of this machine")
    with target(arguments) as attacked:
        found = run_all(attacked, n_timed=min(arguments.timed, 2_000))
    leaks = [finding for finding in found if finding.leak]
    if arguments.json:
        sys.stdout.write(json.dumps({"n_leaks": len(leaks), "findings": [vars(finding) for finding in found]}) + "\n")
    else:
        width = max(len(finding.probe) for finding in found)
        for finding in found:
            said = f"LEAK: {finding.leak}" if finding.leak else finding.note or "nothing"
            print(f"{finding.probe:{width}}  {said}")
        print(f"{len(leaks)} of {len(found)} probes read something")
    sys.exit(bool(leaks))


@contextmanager
def target(arguments: argparse.Namespace) -> Iterator[ProbeTarget]:
    """Yield the target, which is served for the attack unless it runs already."""
    if arguments.server:
        key = own_key(arguments.service_key_file)
        yield ProbeTarget(arguments.server, f"http://{arguments.http}", arguments.victim, arguments.other, key)
        return
    with tempfile.TemporaryDirectory(prefix="tritone-attack-") as temporary:
        folder = Path(temporary)
        repository, victim, other = arguments.repository, arguments.victim, arguments.other
        if repository is None:
            os.environ["XDG_STATE_HOME"] = str(folder / "state")  # the simulated log's key is nobody's
            repository, victim, other = folder / "repository", models.user_id(7), models.user_id(8)
            artifact = models.make_artifact(folder / "artifact", folder / "recommender.key", n_listed=50)
            models.publish(artifact, folder / "recommender.key", repository, ensembles=False)
        log = folder / "server.log"
        options = ServerOptions(
            repository=repository,
            models=("recommender",),
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            log_path=log,
            log_verbose=1,
        )
        with TritonServer.start(options) as server:
            key = own_key(arguments.service_key_file)
            yield ProbeTarget(server.grpc_url, server.http_url, victim, other, key, repository=repository, log=log)


def own_key(named: Path | None) -> str | None:
    """Return the service key; empty for releases without one."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    with contextlib.suppress(OSError):
        return (named or state / "tritone" / "service" / "service.key").read_text().strip()
    return None


if __name__ == "__main__":
    main()
