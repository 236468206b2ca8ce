"""The server's command line, and the ports on it.

Ports are checked before the server starts, because Triton reports a taken port late and unclearly.
"""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tritone_serving._exceptions import OptionsError, PortTakenError
from tritone_serving.security.access import access_flags
from tritone_serving.security.service_key import service_key_flags
from tritone_serving.server.installation import Installation
from tritone_serving.server.options import ServerOptions


def claim_ports(host: str | Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that the wanted ports are free, and pick free ones for those given as 0.

    Args:
        host: the address that the server will listen on; one for all options, or by option.
        wanted: port by the option that chose it.

    Returns:
        port by option. Another program could still take one of them before the server does.

    Raises:
        PortTakenError: another program listens on a port.
        OptionsError: this machine does not have the address, or the port requires more rights.
    """
    at = dict.fromkeys(wanted, host) if isinstance(host, str) else host
    ports: dict[str, int] = {}
    with ExitStack() as held:  # all at once, so that no two options get the same free port
        for option, port in wanted.items():
            ports[option] = held.enter_context(_bound(at[option], port, option)).getsockname()[1]
    return ports


def wait_for_ports(ports: Mapping[str, tuple[str, int]], *, timeout_s: float) -> bool:
    """Wait until ports that an ending process still holds are free.

    Args:
        ports: address and port by option.
        timeout_s: how long to wait at most.

    Returns:
        whether all are free.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            claim_ports(
                {option: host for option, (host, _) in ports.items()},
                {option: port for option, (_, port) in ports.items()},
            )
        except PortTakenError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.1)
        else:
            return True


def _bound(host: str, port: int, option: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the server does it, so that connections of an earlier server in TIME_WAIT do not count as taken.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1)  # with SO_REUSEADDR two sockets may bind, but only one may listen
    except socket.gaierror as error:
        listener.close()
        raise OptionsError(f"host {host!r} cannot be resolved to an IPv4 address: {error.strerror}") from error
    except PermissionError as error:
        listener.close()
        raise OptionsError(f"{option} {port} requires more rights; choose a port above 1023") from error
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise OptionsError(f"host {host!r} is not an address of this machine; try 127.0.0.1 or 0.0.0.0") from error
        flag = "--" + option.replace("_", "-")
        raise PortTakenError(
            f"port {port} on {host} is taken by another program; stop it, or choose another port with "
            f"{flag} N ({option}=N in Python, 0 picks a free one)",
            port=port,
            option=option,
        ) from error
    return listener


# Initial size and growth of the shared memory of each model instance. A recording of 30 windows takes 8 MB. Larger
# steps are better, because both processes map the region again at each growth; unused pages cost no memory.
SHM_BYTES: Final = 8 << 20
TRACE_DELAY_MS: Final = 1000  # how long spans wait to be sent together
# Percentiles of the times of the last minute, with the allowed error in rank. Triton 2.51 has no histograms.
LATENCY_QUANTILES: Final = "0.5:0.05,0.9:0.01,0.95:0.005,0.99:0.001"
_PLAIN: Final = re.compile(r"[\w./+:@%=,-]+")


def server_command(
    options: ServerOptions,
    *,
    installation: Installation,
    folder: Path,
    ports: Mapping[str, int],
    token: str,
    models: Sequence[str],
    n_load_threads: int = 4,
) -> list[str]:
    """Build the arguments that start the server.

    Args:
        options: options of the server.
        installation: the Triton to run.
        folder: the server's private folder, already filled; its name becomes the prefix of its shared memory.
        ports: by option name, none of them 0.
        token: the admin token.
        models: models to load at start.
        n_load_threads: number of models to load at the same time.
    """
    command = [
        str(installation.binary),
        f"--model-repository={_speakable(options.repository.resolve(), folder)}",
        f"--backend-directory={folder / 'backends'}",
        f"--cache-directory={installation.caches}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # Keep running if a model fails to load: the repository index then has the reason.
        "--exit-on-error=false",
        # Without `require_all`, a model that failed to load must not make the server unready for the others.
        f"--strict-readiness={str(options.require_all).lower()}",
        f"--model-load-thread-count={n_load_threads}",
        f"--exit-timeout-secs={max(1, round(options.stop_timeout_s) - 2)}",
        f"--http-address={options.plain_host}",
        f"--http-port={ports['http_port']}",
        f"--grpc-address={options.host}",
        f"--grpc-port={ports['grpc_port']}",
        f"--metrics-address={options.plain_host}",
        f"--metrics-port={ports['metrics_port']}",
        "--metrics-config=summary_latencies=true",
        f"--metrics-config=summary_quantiles={LATENCY_QUANTILES}",
        *access_flags(options, token),
        *service_key_flags(),
        f"--backend-config=python,shm-region-prefix-name={folder.name}-",
        f"--backend-config=python,shm-default-byte-size={SHM_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={SHM_BYTES}",
        f"--backend-config=python,stub-timeout-seconds={max(1, round(5 * options.startup_timeout_s))}",
        f"--log-verbose={options.log_verbose}",
        "--log-format=ISO8601",
    ]
    if not options.auto_complete:
        command.append("--disable-auto-complete-config")
    if options.response_cache_bytes:
        command.append(f"--cache-config=local,size={options.response_cache_bytes}")
    if options.otlp_url:
        command += [
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={options.otlp_url}",
            "--trace-config=opentelemetry,resource=service.name=tritone",
            f"--trace-config=opentelemetry,bsp_schedule_delay={TRACE_DELAY_MS}",
            "--trace-config=rate=1",
            "--trace-config=level=TIMESTAMPS",
        ]
    if options.profile == "gpu":
        command.append("--model-config-name=gpu")
    else:
        command.append("--allow-gpu-metrics=false")  # looking for GPU libraries would delay the start by half a second
    return command


def _speakable(repository: Path, folder: Path) -> Path:
    """Return a path without characters special to a shell, through a link if necessary: Triton does not quote it."""
    if _PLAIN.fullmatch(str(repository)):
        return repository
    link = folder / "repository"
    link.symlink_to(repository)
    return link
