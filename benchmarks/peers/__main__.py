"""Compare Triton with other servers of the same ONNX files, with one load generator.

    make peer   or   python -m benchmarks.peers --repository DIR [--peers NAME ...] [--json] [--table PAGE.md]

Every server runs two workers of one thread; only the plain FastAPI service leaves the threads to ONNX Runtime. They
are loaded in interleaved rounds. First, the CPU time that each takes while idle is measured: one that takes more than
3 % of a core is started in each round for its own trials, the others once. Each must return the outputs of ONNX Runtime
in process. The generator shares the cores with the servers. The packages of the peers are installed into environments
of their own (`--environments`). A peer that cannot be installed or started is reported as missing.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.arguments import amount, count
from benchmarks.peers.comparison import Plan, measure
from benchmarks.peers.environments import python_of
from benchmarks.peers.interface import PeerError
from benchmarks.peers.registry import PEERS
from benchmarks.peers.report import tables
from benchmarks.peers.workloads import make_workload
from tritone import TritoneError
from tritone_cli.marked_tables import check_marks, replace_marked

MODELS = ("genre_cnn", "taste_vae")
TABLE = "peers"  # name of the marks around the report
QUICK = Plan(clients=(1, 8), rounds=2, seconds=0.4, warm_up_s=0.3, idle_s=2.0, ceiling_s=0.5)


def main() -> None:
    """Measure and print a report, or JSON."""
    parser = argparse.ArgumentParser(
        prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help="models to serve (%(default)s)")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="NAME",
                        help=f"servers to measure: {', '.join(PEERS)}; default: all")  # fmt: skip
    parser.add_argument("--transports", nargs="+", default=["http", "grpc"], choices=["http", "grpc"])
    parser.add_argument("--clients", type=count, nargs="+", help="concurrent clients (1 8 32)")
    parser.add_argument("--rounds", type=count, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=amount, help="length of each trial in seconds (2.5)")
    parser.add_argument("--rows", type=count, default=1, help="inferences in each request (1)")
    parser.add_argument("--reference", choices=PEERS, metavar="NAME",
                        help="server whose results are divided by those of each other one (triton)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="short trials, to see that everything works")
    parser.add_argument("--environments", type=Path, default=Path(".venv-peers"),
                        help="folder with the Python environments of the peers (.venv-peers)")  # fmt: skip
    parser.add_argument("--prepare", action="store_true", help="create the environments and measure nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    parser.add_argument("--table", type=Path, help=f"write the report between the marks {TABLE!r} of this page")
    arguments = parser.parse_args()
    chosen = [PEERS[name] for name in dict.fromkeys(arguments.peers)]
    if arguments.prepare:
        sys.exit(0 if prepare(arguments.peers, arguments.environments) else 1)
    reference = arguments.reference or ("triton" if "triton" in arguments.peers else arguments.peers[0])
    if reference not in arguments.peers:
        parser.error(f"--reference is {reference}: expected one of --peers, {', '.join(arguments.peers)}")
    try:
        if arguments.table is not None:
            check_marks(arguments.table, TABLE)
        if arguments.out is not None and not arguments.out.parent.is_dir():
            raise ValueError(f"argument --out: expected a file in a folder that exists, got {str(arguments.out)!r}")
        workloads = [make_workload(arguments.repository, model, arguments.rows) for model in arguments.models]
    except (TritoneError, ValueError) as error:
        parser.error(str(error))
    given = {name: value for name in ("clients", "rounds", "seconds") if (value := getattr(arguments, name))}
    plan = replace(QUICK if arguments.quick else Plan(), transports=arguments.transports, reference=reference, **given)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        result = measure(chosen, workloads, plan, folder=Path(folder), environments=arguments.environments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    shown = ["DIR" if each == str(arguments.repository) else each for each in sys.argv[1:]]
    command = shlex.join(["python", "-m", "benchmarks.peers", *shown])
    if arguments.table is not None:
        replace_marked(arguments.table, TABLE, tables(result, command))
    if arguments.json:
        print(json.dumps(result))
    elif arguments.table is None:
        print("\n".join(tables(result, command)))


def prepare(names: list[str], environments: Path) -> bool:
    """Create the environments of peers and return whether all could be."""
    complete = True
    for name in names:
        try:
            python_of(PEERS[name], environments)
        except PeerError as error:
            print(error, file=sys.stderr)
            complete = False
    return complete


if __name__ == "__main__":
    main()
