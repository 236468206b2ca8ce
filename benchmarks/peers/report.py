"""The comparison as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.peers.registry import PEERS
from tritone_cli.marked_tables import markdown_table

_HEAD = (
    "model",
    "server",
    "inferences/s",
    "p50 ms",
    "p99 ms",
    "server CPU s per 1,000",
    "best, of in process",
)
_PEER_HEAD = ("server", "version", "settings", "on the wire", "processes", "memory MB", "idle, % of a core", "runs")
Row = Mapping[str, Any]


def tables(result: Mapping[str, Any], command: str) -> list[str]:
    """Return the lines of the report: the measurements, where Triton loses, the servers, and the machine.

    Args:
        result: what `comparison.measure` returns.
        command: the command that measured it.
    """
    clients = [str(n) for n in result["plan"]["clients"]]
    rows: dict[tuple[str, str, str], list[Row]] = {}
    for row in result["rows"]:
        rows.setdefault((row["model"], row["peer"], row["transport"]), []).append(row)
    return [
        f"Values separated by commas are those with {', '.join(clients[:-1])} and {clients[-1]} clients."
        if len(clients) > 1
        else f"With {clients[0]} clients.",
        "",
        *markdown_table(
            (*_HEAD, f"{_title(result)}: throughput; p99"), [_cells(result, *key, found) for key, found in rows.items()]
        ),
        "",
        *_losses(result),
        "",
        *markdown_table(_PEER_HEAD, [_peer_cells(peer) for peer in result["peers"].values()]),
        "",
        *(f"- Not measured: `{name}`: {_in_one_line(reason)}" for name, reason in result["missing"].items()),
        *([""] if result["missing"] else []),
        _machine(result, command),
    ]


def _cells(result: Mapping[str, Any], model: str, peer: str, transport: str, rows: Sequence[Row]) -> list[str]:
    failed = sum(row["n_failed"] for row in rows)
    title = f"{result['peers'][peer]['title']}, {transport.upper().replace('GRPC', 'gRPC')}"
    return [
        f"`{model}`",
        title + (f" ({failed} failed)" if failed else ""),
        ", ".join(f"{row['per_s']:.0f}" for row in rows),
        ", ".join(f"{row['p50_ms']:.3g}" for row in rows),
        ", ".join(f"{row['p99_ms']:.3g}" for row in rows),
        ", ".join(f"{row['server_cpu_s_per_1000']:.2f}" for row in rows),
        f"{max(row['of_ceiling'] for row in rows):.2f}",
        "-" if peer == result["plan"]["reference"] else "; ".join(_ratios(rows, key) for key in ("per_s", "p99")),
    ]


def _ratios(rows: Sequence[Row], key: str) -> str:
    return ", ".join(_ratio(row["reference"][key], row["reference"]["spread"]) for row in rows)


def _ratio(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-" if spread is None else "?"
    return f"{value:.2f}"


def _losses(result: Mapping[str, Any]) -> list[str]:
    """List where another server carries more or has a lower p99 than the reference over the same transport."""
    reference, title = result["plan"]["reference"], _title(result)
    found = []
    for row in result["rows"]:
        per_s, p99 = row["reference"]["per_s"], row["reference"]["p99"]
        if row["peer"] == reference or per_s is None or (per_s >= 1 and p99 <= 1):
            continue
        found.append(
            f"- `{row['model']}`, {row['clients']} {'client' if row['clients'] == 1 else 'clients'}, "
            f"{row['transport']}: {per_s:.2f} times the throughput and "
            f"{p99:.2f} times the p99 of {result['peers'][row['peer']]['title']}"
        )
    if reference not in result["peers"]:
        return [f"{title} was not measured."]
    if not found:
        return [f"{title} has a higher throughput and a lower p99 in every row whose rounds agree."]
    return [f"{title} has less throughput or a higher p99 in:", "", *found]


def _title(result: Mapping[str, Any]) -> str:
    """Return the title of the server to which the ratios refer."""
    return PEERS[result["plan"]["reference"]].title


def _peer_cells(peer: Row) -> list[str]:
    return [
        peer["title"],
        peer["version"],
        peer["settings"],
        "; ".join(f"{transport}: {protocol}" for transport, protocol in peer["protocols"].items()),
        str(peer["processes"]),
        f"{peer['memory_mb']:.0f}",
        f"{100 * peer['idle_cores']:.1f}",
        "during its own trials" if peer["restarted"] else "all the time",
    ]


def _in_one_line(reason: str) -> str:
    """Return the first line of a message and, if there are more, the last, where a log has the error."""
    lines = reason.splitlines()
    return " ".join(dict.fromkeys((lines[0], lines[-1])))


def _machine(result: Mapping[str, Any], command: str) -> str:
    plan, rows = result["plan"], result["rows"]
    ceilings = "; ".join(
        f"`{model}` {each['before_per_s']:.0f}/s before and {each['after_per_s']:.0f}/s after ({each['layout']})"
        for model, each in result["ceilings"].items()
    )
    models = "; ".join(
        f"`{model}` is a file of {each['bytes'] / 1e6:.3g} MB, with requests of {each['request_bytes']:,} bytes and "
        f"{each['values']:,} values in a response"
        for model, each in result["models"].items()
    )
    spreads = sorted(row["spread"] for row in rows if row["spread"] is not None)
    spread = f"; (maximum - minimum) / median of the rounds: {spreads[len(spreads) // 2]:.0%} in the middle, " \
             f"{spreads[-1]:.0%} at most" if spreads else ""  # fmt: skip
    most = {name: max(row[name] for row in rows) for name in ("other_cores", "steal_cores", "generator_cpu_s_per_1000")}
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {result['cores']} cores, generator included: `{command}`. Medians of "
        f"{plan['rounds']} interleaved rounds of {plan['seconds']:g} s each{spread}. ONNX Runtime in process: "
        f"{ceilings}. Medians of the rounds, at most: other load {most['other_cores']:.2f} cores, steal "
        f"{most['steal_cores']:.2f} cores, the generator's own CPU time {most['generator_cpu_s_per_1000']:.2f} s per "
        f"1,000. {models}. `?`: the rounds do not agree (interquartile range of the ratios above 15 %); `-`: no ratio."
    )
