"""Compare the formats in which recordings are sent: over loopback and over a link of 100 Mbit/s, by HTTP and gRPC.

    python -m benchmarks.wire [--repository DIR] [--rounds N] [--links loopback 100mbit] [--json]

Each round sends Ogg files through `MusicClient.classify` in each format and protocol: a clip of 20 s, one call after
the other, and recordings of one window from 1, 8 and 32 threads. The times include the decoding of the file, in the
client or in the server. Rounds alternate in order, so that drift of the machine affects all alike. The clients share
the cores with the server. The link of limited rate is made of a network namespace and `tc`; it needs root and the
Debian package iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from operator import truediv
from pathlib import Path
from typing import Any, get_args

from benchmarks.arguments import amount, count
from benchmarks.limited_link import LimitedLink, limited_link
from tritone.constants import AudioFormat
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import newest_version

# By format; the client would send another format if one were missing.
MODELS: dict[str, str] = {"float32": "genre_cnn", "int16": "genre_cnn_pcm16", "file": "genre_cnn_file"}
LINKS = ("loopback", "100mbit")
RATE_MBIT = 100.0


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--formats", nargs="+", choices=get_args(AudioFormat), default=list(get_args(AudioFormat)))
    parser.add_argument("--clients", type=count, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=amount, default=2.0, help="length of each trial in seconds (2)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    missing = [name for name in models_of(arguments.formats) if newest_version(arguments.repository / name) is None]
    if missing:
        parser.error(
            f"argument --repository: expected a version of {', '.join(missing)}, got none in "
            f"{str(arguments.repository)!r}; run `tritone export genre_cnn`"
        )
    rows = measure(arguments)
    if arguments.json:
        sys.stdout.write(json.dumps({"rounds": arguments.rounds, "rows": rows}) + "\n")
        return
    print(f"{arguments.rounds} rounds of {arguments.seconds:g} s for each line; medians, and the spread of the rounds")
    print(
        f"{'link':10}{'load':14}{'protocol':10}{'format':10}{'per s':>8}{'spread':>8}{'p50 ms':>9}{'p99 ms':>9}", end=""
    )
    print(f"{'to float32':>12}{'failed':>8}")
    for row in rows:
        print(f"{row['link']:10}{row['load']:14}{row['protocol']:10}{row['format']:10}{row['per_s']:8.1f}", end="")
        print(f"{row['spread']:8.0%}{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}", end="")
        print(f"{'-' if row['ratio'] is None else format(row['ratio'], '.2f'):>12}{row['n_failed']:8}")


def models_of(formats: Sequence[str]) -> tuple[str, ...]:
    """Return the models that receive recordings in these formats; `genre_cnn` names the others."""
    return tuple(dict.fromkeys(["genre_cnn", *(MODELS[each] for each in formats)]))


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Start the server and the clients; the first round only warms up."""
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(limited_link(RATE_MBIT)) if "100mbit" in arguments.links else None
        options = ServerOptions(
            repository=arguments.repository,
            models=models_of(arguments.formats),
            host="0.0.0.0" if link else "127.0.0.1",  # noqa: S104 - the other side of the link is a namespace
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            response_cache_bytes=0,  # since it would answer in place of the model
        )
        server = stack.enter_context(TritonServer.start(options))
        ports = {name: getattr(server, f"{name}_url").rpartition(":")[2] for name in ("grpc", "http")}
        rounds = [one_round(arguments, ports, link, index) for index in range(arguments.rounds + 1)]
    return summary(rounds[1:])


def one_round(
    arguments: argparse.Namespace, ports: dict[str, str], link: LimitedLink | None, index: int
) -> list[dict[str, Any]]:
    """Run a client process on each link."""
    found = []
    for name in arguments.links if index % 2 else reversed(arguments.links):
        host = link.server_address if link and name == "100mbit" else "127.0.0.1"
        command = [sys.executable, "-m", "benchmarks.wire_client", "--seconds", str(arguments.seconds)]
        command += ["--grpc", f"{host}:{ports['grpc']}", "--http", f"http://{host}:{ports['http']}"]
        command += ["--formats", *arguments.formats, "--clients", *map(str, arguments.clients)]
        command += ["--reverse"] * (index % 2)
        if link and name == "100mbit":
            command = link.command(*command)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"the client process failed: {done.stderr.strip()}")
        found += [{"link": name, **row} for row in json.loads(done.stdout)]
    return found


def summary(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return medians over the rounds: values, their interquartile range, and the ratio to float32 of the same round.

    The ratio is None if float32 was not measured, or a round of it had no response.
    """
    keys = ("link", "load", "protocol", "format")
    by_way: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in (row for one in rounds for row in one):
        by_way.setdefault(tuple(row[key] for key in keys), []).append(row)
    rows = []
    for way, found in sorted(by_way.items()):
        per_s = [row["per_s"] for row in found]
        floats = [row["per_s"] for row in by_way.get((*way[:3], "float32"), [])]
        quartiles = statistics.quantiles(per_s, n=4) if len(per_s) > 1 else [per_s[0]] * 3
        middle = statistics.median(per_s)
        rows.append(
            {
                **dict(zip(keys, way, strict=True)),
                "per_s": middle,
                "spread": (quartiles[2] - quartiles[0]) / middle if middle else 0.0,
                "ratio": statistics.median(map(truediv, per_s, floats)) if floats and all(floats) else None,
                "p50_ms": statistics.median(row["p50_ms"] for row in found),
                "p99_ms": statistics.median(row["p99_ms"] for row in found),
                "n_failed": sum(row["n_failed"] for row in found),
            }
        )
    return rows


if __name__ == "__main__":
    main()
