"""Send thousands of malformed HTTP and gRPC requests to a real server and report the outcomes.

    make fuzz   or   python -m benchmarks.fuzz [--requests 20000] [--seed 0] [--repository DIR] [--json] [--report FILE]

Loopback only. The server runs under its supervisor, so that restarts are noticed. The exit status is 1 after a crash, a
hang, a server error (HTTP 5xx, gRPC INTERNAL) that the request caused, or a wrong response to a valid request. Outcomes
that Triton itself decides, and requests that it does not survive and that are therefore not sent, are listed with their
reasons (benchmarks/fuzzing/outcomes.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.integration.python_models import watched

from benchmarks.arguments import count
from benchmarks.fuzzing import servers
from benchmarks.fuzzing.campaign import Result, run
from benchmarks.fuzzing.options import ALL
from tritone_serving import ServerOptions, TritonServer

N_CANARIES = 24


def main() -> int:
    """Fuzz and print a report in Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=count, default=20_000, help="number of requests (20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repository", type=Path, help="serve this instead of tiny models of every kind")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", type=Path, help="also write the report to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tritone-fuzz-") as folder:
        if options.repository is None:
            os.environ["XDG_STATE_HOME"] = f"{folder}/state"
        repository = options.repository or servers.make_repository(Path(folder), music=True)
        result = fuzz(repository, n_requests=options.requests, first_seed=options.seed)
    text = json.dumps(as_json(result), indent=2) if options.json else report(result)
    print(text)
    if options.report:
        options.report.write_text(text + "\n", encoding="utf-8")
    return 0 if result.is_clean else 1


def fuzz(repository: Path, *, n_requests: int, first_seed: int) -> Result:
    """Record canaries on a server without a response cache, then fuzz a server with one."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with TritonServer.start(ServerOptions(repository=repository, response_cache_bytes=0, **ports)) as plain:
        canaries = servers.record(plain, N_CANARIES)
    with watched(repository) as dog:
        result = run(lambda: dog.server, canaries, n_requests=n_requests, first_seed=first_seed, on_round=_progress)
        result.troubles += [f"watchdog: {line}" for line in dog.said]
    return result


def _progress(result: Result) -> None:
    tally = result.tally
    found = f"{len(tally.findings)} unexpected, {len(result.troubles)} troubles"
    print(f"{tally.n_sent} sent in {result.seconds:.0f} s, {found}", file=sys.stderr, flush=True)


def as_json(result: Result) -> dict[str, object]:
    """Return the results as JSON."""
    tally = result.tally
    return {
        "sent": tally.n_sent,
        "not_sent": dict(tally.not_sent),
        "seconds": round(result.seconds, 1),
        "outcomes": [[*key, n] for key, n in sorted(tally.counts.items())],
        "codes": {" ".join(key): n for key, n in sorted(tally.codes.items())},
        "options": dict(sorted(tally.options.items())),
        "options_never_sent": sorted(ALL - tally.options.keys()),
        "known_exceptions": dict(tally.known),
        "unexpected": [asdict(each) for each in tally.findings],
        "troubles": result.troubles,
        "canaries": result.n_canaries,
        "bystander": result.n_bystander,
        "memory_mb": [round(each, 1) for each in result.memory_mb],
    }


def report(result: Result) -> str:
    """Return a report in Markdown."""
    tally, memory = result.tally, result.memory_mb
    lines = [
        f"{tally.n_sent} malformed requests in {result.seconds:.0f} s; {result.n_canaries} canaries between rounds and "
        f"{result.n_bystander} of a concurrent client were compared with recorded responses.",
        f"Memory of all its processes: {memory[0]:.0f} MB after the first round, {memory[-1]:.0f} after the last.",
        "",
        tally.table(),
        "",
        "Codes: " + ", ".join(f"{transport} {code} {n}" for (transport, code), n in sorted(tally.codes.items())),
        "",
        f"Options sampled, {len(tally.options)} of {len(ALL)}: "
        + ", ".join(f"{name} {n}" for name, n in sorted(tally.options.items())),
        *(f"- never sent: {name}" for name in sorted(ALL - tally.options.keys())),
        "",
        "Triton's own decisions:",
        *(f"- {n} times {why}" for why, n in sorted(tally.known.items())),
        "",
        "Not sent, since they end or block Triton:",
        *(f"- {n} times {why}" for why, n in sorted(tally.not_sent.items())),
        "",
        f"Unexpected: {len(tally.findings) + len(result.troubles) or 'nothing'}",
        *(f"- {trouble}" for trouble in result.troubles[:40]),
    ]
    seen: set[tuple[str, str, str]] = set()
    for each in tally.findings:  # one of each sort
        sort = (each.transport, each.outcome.code, each.outcome.said[:60])
        if sort not in seen and len(seen) < 60:
            seen.add(sort)
            outcome = f"{each.outcome.kind} {each.outcome.code} {each.outcome.said[:200]!r}"
            lines.append(f"- {each.transport}, {each.category}: {outcome}\n  {each.request[:400]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
